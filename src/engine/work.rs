//! What the engine is asked to do: typed, complete, and the same whichever process reads it. It crosses to the engine
//! child as JSON; nothing in it is looked up again.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use crate::digest::{Digest, Key};
use crate::graph::{GitSource, RunDefaults, Source};
use crate::image::Platform;
use crate::registry;

/// A text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The file's name as the user gave it.
    pub file: String,
    /// Its content.
    pub text: String,
}

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A directory of this machine, with the rules of its ignore file if it has one.
    Directory {
        /// Absolute.
        path: PathBuf,
        /// Its ignore file.
        ignore: Option<Text>,
    },
    /// Anything else that makes a tree.
    Source(Source),
    /// The image of another Dockerfile, which is built as a part of this build.
    Dockerfile(Box<Under>),
    /// A tree that was fetched before the Dockerfile was read, as one snapshot of the store.
    Fetched {
        /// The snapshot.
        snapshot: Key,
        /// Where it came from, for people.
        name: String,
    },
}

/// A Dockerfile that another one stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Under {
    /// The Dockerfile.
    pub dockerfile: Text,
    /// Its build context, absolute.
    pub directory: PathBuf,
    /// The ignore file of that.
    pub ignore: Option<Text>,
    /// The stage that is taken; `None`: the last.
    pub target: Option<String>,
    /// ARG values.
    pub build_args: Vec<(String, String)>,
}

/// What has to be fetched before the Dockerfile is known. Nothing, for most builds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// The build context; what it turns out to be takes the place of [`Work::context`].
    pub context: Option<RemoteContext>,
    /// The Dockerfile; it takes the place of [`Work::dockerfile`].
    pub dockerfile: Option<RemoteDockerfile>,
}

/// A build context that is no directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteContext {
    /// A commit of a repository.
    Git(GitSource),
    /// `http://` or `https://`: an archive, or a Dockerfile alone.
    Http(String),
    /// An archive that came over standard input and is a blob of the store.
    Archive(Digest),
}

/// A Dockerfile that is no file of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteDockerfile {
    /// A file of the context, by its path in it; `None`: the one that has a usual name.
    InContext(Option<String>),
    /// `http://` or `https://`.
    Http(String),
}

/// A line of a Dockerfile that was made from something else, and what a person should look at instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// First line in the Dockerfile, from 1.
    pub first_line: u32,
    /// Last line in the Dockerfile.
    pub last_line: u32,
    /// The file it was made from.
    pub file: String,
    /// The line there.
    pub line: u32,
}

/// A build, without what is done with its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// Names the project that this build belongs to, so that it is compared with the builds before it: the absolute
    /// path of the Dockerfile or habitat.
    pub project: String,
    /// The Dockerfile.
    pub dockerfile: Text,
    /// What its lines were made from; empty for a Dockerfile that a person wrote.
    pub origins: Vec<Origin>,
    /// The build context; `None`: an empty one.
    pub context: Option<Place>,
    /// What is not known yet of context and Dockerfile.
    pub unsettled: Unsettled,
    /// Named contexts.
    pub contexts: Vec<(String, Place)>,
    /// The stage to build; `None`: the last.
    pub target: Option<String>,
    /// ARG values.
    pub build_args: Vec<(String, String)>,
    /// Labels added to the image.
    pub labels: Vec<(String, String)>,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Where this machine's programs are looked for that a build may need: emulators of other architectures.
    pub programs: Vec<PathBuf>,
    /// HTTP_PROXY and the like, for RUN and for the engine's own requests.
    pub proxies: Vec<(String, String)>,
    /// Extra certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// How registries are reached, and who one is there.
    pub registries: registry::Settings,
    /// How git's ssh gets in.
    pub ssh: Ssh,
    /// Every time in the image is this one, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Secrets, by id.
    pub secrets: Vec<Secret>,
    /// SSH agents, by id.
    pub agents: Vec<Agent>,
    /// What every RUN gets, as far as its result may depend on it.
    pub run: RunDefaults,
    /// How much of this machine a RUN may take.
    pub resources: Resources,
    /// How many steps run at a time, and on how many cores is computed; `None`: any number of steps, on all cores.
    pub jobs: Option<NonZeroUsize>,
    /// How much of what a RUN writes is shown.
    pub log_limits: LogLimits,
    /// What must not be taken from the cache.
    pub no_cache: NoCache,
    /// Whether what the last failed step has left counts as its result, for this build alone.
    #[serde(default)]
    pub accepts_failed: bool,
    /// Whether what is built is only compared with what is there: no result, no image and no record takes the place of
    /// another, and cache mounts begin and end with the build.
    #[serde(default)]
    pub aside: bool,
    /// What becomes of the other steps when one fails.
    pub on_failure: OnFailure,
    /// When moving references are asked again.
    pub freshness: Freshness,
    /// Where Debian packages come from.
    pub debian: DebianMirrors,
    /// What the sources are pinned to; `None`: there is no lock.
    pub lock: Option<Lock>,
    /// What is allowed that is refused otherwise.
    pub allow: Vec<Entitlement>,
    /// The habitat's phases, where the Dockerfile was made from one: their hashes become labels of the image.
    pub phases: Vec<PhaseStages>,
    /// What a person calls the sources: a context's name or an image's reference, and the path of the key that asks for
    /// it, such as `repos[1]`.
    pub source_keys: Vec<(String, String)>,
}

impl Work {
    /// The same for another platform. A `debian://` context follows it, unless it names another architecture than that of
    /// the work's platform.
    #[must_use]
    pub fn for_platform(&self, platform: &str) -> Self {
        let debian = |platform: &str| platform.parse().map(|platform: Platform| platform.debian());
        let mut work = self.clone();
        if let (Ok(own), Ok(other)) = (debian(&self.platform), debian(platform)) {
            for (_, place) in &mut work.contexts {
                if let Place::Source(Source::Debian(source)) = place
                    && source.arch == own
                {
                    source.arch.clone_from(&other);
                }
            }
        }
        platform.clone_into(&mut work.platform);
        work
    }

    /// On how many cores is computed.
    #[must_use]
    pub fn cores(&self) -> usize {
        cores(self.jobs)
    }
}

/// On how many cores is computed where a person has bounded them so, or not. Looked up only when it is needed: the
/// answer is in files of several control groups.
pub(super) fn cores(jobs: Option<NonZeroUsize>) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    jobs.map_or_else(all, NonZeroUsize::get)
}

/// How git's ssh gets in where an address asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssh {
    /// The socket of an agent.
    pub agent: Option<PathBuf>,
    /// The keys of hosts that the user trusts: `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
}

/// The stages that make up one phase of a habitat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseStages {
    /// From 1.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it does, in a few words.
    pub title: String,
    /// Its stages, in order.
    pub stages: Vec<String>,
    /// Hooks that run before and after it.
    pub hooks: (u32, u32),
    /// There is nothing to do in it.
    pub empty: bool,
    /// It is left out, although there is something to do in it.
    pub skipped: bool,
    /// The values of the habitat that it is made from: what a change of it is told by.
    pub fields: Vec<Named>,
    /// Values of the habitat that no phase claims.
    pub unclaimed: Vec<Named>,
    /// What is done in it.
    pub items: Vec<Item>,
}

/// A value that a person wrote, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// A path of keys: `scripts[0].commands[1]`.
    pub name: String,
    /// The value.
    pub value: String,
    /// The file and line where it stands, if it was written.
    pub place: Option<(String, u32)>,
}

/// An item of a habitat, or something that follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What it is, in words.
    pub said: String,
    /// The file and line where it stands; `None`: it follows from other keys.
    pub place: Option<(String, u32)>,
    /// The layer of the habitat that this is.
    pub layer: Option<String>,
}

/// What must not be taken from the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoCache {
    /// Everything may.
    Nothing,
    /// No step may.
    Everything,
    /// The steps of these stages may not.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the steps of this stage are run whatever the cache holds.
    #[must_use]
    pub fn forces(&self, stage: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Stages(stages) => {
                // All stages of a Dockerfile that this one stands on go by its name.
                let stage = stage.split('/').next().unwrap_or(stage);
                stages.iter().any(|name| name.eq_ignore_ascii_case(stage))
            }
        }
    }
}

/// What becomes of the other steps when one fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// They are called off.
    #[default]
    CallOff,
    /// All that do not need it are run to their end.
    GoOn,
}

/// When a moving reference (tag, branch, suite) is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Freshness {
    /// When the remembered answer is older than this.
    After {
        /// Milliseconds.
        ms: u64,
    },
    /// Now.
    Now,
    /// Never: a remembered answer of any age serves, and without one the build fails.
    Never,
}

impl Freshness {
    /// Whether an answer of this age serves.
    #[must_use]
    pub const fn accepts(self, age_ms: u64) -> bool {
        match self {
            Self::After { ms } => age_ms < ms,
            Self::Now => false,
            Self::Never => true,
        }
    }
}

/// Where Debian packages come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebianMirrors {
    /// SHMOCKER_DEBIAN_MIRROR.
    pub mirror: Option<String>,
    /// A keyring that takes the place of the built-in one: SHMOCKER_DEBIAN_KEYRING.
    pub keyring: Option<PathBuf>,
}

/// Something that is refused unless the command line allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entitlement {
    /// RUN --network=host
    #[serde(rename = "network.host")]
    NetworkHost,
    /// RUN --security=insecure
    #[serde(rename = "security.insecure")]
    SecurityInsecure,
}

impl Entitlement {
    /// As `--allow` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }
}

/// An SSH agent, under the id that a RUN asks for it by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Who answers.
    pub who: AgentKind,
}

/// Who answers as an SSH agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum AgentKind {
    /// The agent that listens at this socket; a RUN may list its keys and have it sign, and nothing else.
    Forwarded(PathBuf),
    /// Whoever listens at this socket. Bytes go both ways as they are.
    Raw(PathBuf),
    /// shmocker itself, with these private keys. Their ids are the names of their files.
    Keys(Vec<Secret>),
}

/// How much of this machine a RUN may take. `None` everywhere: as much as the user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together, in bytes; -1: as much swap as there is.
    pub memory_swap_bytes: Option<i64>,
    /// Weight among others that want the processor, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// The time in which the quota is given out, in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Time on processors within a period, in microseconds.
    pub cpu_quota_us: Option<u64>,
    /// Processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Processes at a time.
    pub pids_max: Option<u64>,
}

/// How much of what one RUN writes to one of its streams is shown. `None`: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// In all.
    pub bytes_max: Option<u64>,
    /// In a second.
    pub bytes_per_second_max: Option<u64>,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            bytes_max: Some(2 << 20),
            bytes_per_second_max: Some(200 << 10),
        }
    }
}

/// A value that must not be shown or stored, under the id that a RUN asks for it by.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret {
    /// Its id.
    pub id: String,
    value: Vec<u8>,
}

impl Secret {
    /// A secret.
    #[must_use]
    pub fn new(id: String, value: Vec<u8>) -> Self {
        Self { id, value }
    }

    /// The value. Whoever asks for it must neither print nor store it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, redacted)", self.id)
    }
}
