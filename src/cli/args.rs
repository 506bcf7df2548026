//! The command line as types. What a flag means is said here once, in its help.

pub(super) mod cache;
pub(super) mod habitat;
pub(super) mod history;
pub(super) mod imagetools;
pub(super) mod registry;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::call::Call;
use super::steps::StepArguments;
use crate::graph::Network;
use cache::CacheCommand;
use habitat::HabitatCommand;
use history::HistoryCommand;
use imagetools::ImagetoolsCommand;
use registry::{CopyArguments, LoginArguments, LogoutArguments, PullArguments, PushArguments};

/// Builds container images and development habitats without root and without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "shmocker",
    version,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(super) struct Arguments {
    /// Where everything is kept [default: $SHMOCKER_STORE, else $XDG_DATA_HOME/shmocker]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) store: Option<PathBuf>,
    /// With which ids to build: this user's subordinate ranges, or the user's own alone; a store stays with what it was
    /// made with [default: $SHMOCKER_IDS, else auto: the store's, else ranges where there are any]
    #[arg(long, value_enum, value_name = "HOW", global = true)]
    pub(super) ids: Option<IdsChoice>,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// With which ids builds work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum IdsChoice {
    /// What the store was made with; for a new one ranges where there are any
    Auto,
    /// The user's subordinate ids
    Ranges,
    /// The user's own id; whose a file is in the image is written down beside it
    Single,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Turn a habitat (YAML) into an image
    #[command(subcommand)]
    Habitat(HabitatCommand),
    /// Build an image of the store again, without the cache, and say whether it becomes the same; ends with 3 if not
    Rebuild(Box<RebuildArguments>),
    /// Say why steps of a Dockerfile would run again; ends with 10 if one would
    Why(Box<WhyArguments>),
    /// Report what is wrong with Dockerfiles, and what could be better
    Lint(LintArguments),
    /// Lay Dockerfiles out evenly; what they mean stays the same
    Fmt(FormatArguments),
    /// Write images of the local store into an archive or a directory
    Save(SaveArguments),
    /// Take images from an archive, or from the directory of an OCI layout, into the local store
    Load(LoadArguments),
    /// Give an image of the local store more names
    Tag(TagArguments),
    /// List the images of the local store
    Images(ListArguments),
    /// Images of the local store
    #[command(subcommand)]
    Image(ImageCommand),
    /// Remove images from the local store
    Rmi(RemoveArguments),
    /// Print an image's configuration
    Inspect(InspectArguments),
    /// Fetch images from registries into the local store
    Pull(PullArguments),
    /// Send an image of the local store to a registry
    Push(PushArguments),
    /// Copy an image from one registry to another, or between a registry and the local store
    Copy(CopyArguments),
    /// Images of registries: several as one, and what is there
    #[command(subcommand)]
    Imagetools(ImagetoolsCommand),
    /// Keep credentials for a registry
    Login(LoginArguments),
    /// Forget the credentials for a registry
    Logout(LogoutArguments),
    /// Run a command in an image
    Run(RunArguments),
    /// Run a command with the engine's ids, so that it can look at what the store holds
    Unshare(UnshareArguments),
    /// What the store holds: how much it is, and deleting what nothing needs
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Past builds: how they ended, how long they took, what they ran, what that printed
    #[command(subcommand)]
    History(HistoryCommand),
    /// The store as a whole
    #[command(subcommand)]
    Store(StoreCommand),
    /// Say what this machine offers for builds, and how to mend what it lacks
    Doctor(DoctorArguments),
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// List the images of the local store
    Ls(ListArguments),
    /// Remove images from the local store
    Rm(RemoveArguments),
    /// Print an image's configuration
    Inspect(InspectArguments),
    /// Give an image of the local store more names
    Tag(TagArguments),
    /// Write images of the local store into an archive or a directory
    Save(SaveArguments),
    /// Take images from an archive, or from the directory of an OCI layout, into the local store
    Load(LoadArguments),
}

/// In what form images are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SaveFormat {
    /// One tar, as `docker load` and `podman load` take it; an OCI layout as well
    DockerArchive,
    /// An OCI layout in one tar
    OciArchive,
    /// An OCI layout
    OciDir,
}

#[derive(Debug, Args)]
pub(super) struct RebuildArguments {
    /// The image: a name, or a digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// Compare with the image as it was made, and keep nothing of what is built
    #[arg(long, required = true)]
    pub(super) check: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) watch: WatchArguments,
    #[command(flatten)]
    pub(super) reach: registry::ReachArguments,
}

#[derive(Debug, Args)]
pub(super) struct SaveArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
    /// Where to [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    pub(super) output: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "docker-archive")]
    pub(super) format: SaveFormat,
}

#[derive(Debug, Args)]
pub(super) struct LoadArguments {
    /// An archive of docker, podman or skopeo, compressed or not, or the directory of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    pub(super) input: Option<PathBuf>,
    /// Say nothing of what was loaded
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct TagArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// What it is called as well
    #[arg(value_name = "NAME[:TAG]", required = true)]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Look whether blobs, snapshots, index and images are what they should be; ends with 4 if something is damaged
    Check(CheckStoreArguments),
    /// Write the store into one archive, for another machine
    Export(ArchiveArguments),
    /// Take what is in such an archive; what is here already stays
    Import(ArchiveArguments),
    /// Delete the store with all that it holds
    Delete,
}

#[derive(Debug, Args)]
pub(super) struct ArchiveArguments {
    /// The archive; - is standard output, or input
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct CheckStoreArguments {
    /// Put aside or delete what is damaged, so that it is fetched or made again
    #[arg(long)]
    pub(super) repair: bool,
    /// Read every file of every snapshot
    #[arg(long)]
    pub(super) deep: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// With the lines that are meant
    Text,
    /// FILE:LINE:COLUMN: message
    Short,
    /// An array of objects
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Progress {
    /// tty on a terminal, plain elsewhere
    Auto,
    /// A redrawn summary
    Tty,
    /// Every line, as it comes
    Plain,
    /// One JSON object a line
    Json,
    /// Nothing but errors
    Quiet,
}

/// How whatever asks sources is watched, and the secrets that it has.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct WatchArguments {
    /// How progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
    /// Make a secret known: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
}

/// What every build gets, whatever becomes of its result.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct MeansArguments {
    #[command(flatten)]
    pub(super) watch: WatchArguments,
    /// Allow what is refused otherwise: network.host, security.insecure, home
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Never ask; use what the store remembers
    #[arg(long)]
    pub(super) offline: bool,
}

/// What every build takes.
#[derive(Debug, Args)]
pub(super) struct SharedBuildArguments {
    #[command(flatten)]
    pub(super) means: MeansArguments,
    /// Store the image under this name (may be given again)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(super) tags: Vec<String>,
    /// Write the result (may be given again): type=oci|docker|tar|local,dest=PATH[,…], type=image[,…], type=registry[,…] or
    /// type=cacheonly; PATH alone is a directory, - a tar on standard output
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(super) outputs: Vec<String>,
    /// Look for results in what a build elsewhere has written (may be given again): type=registry,ref=NAME, NAME alone, or
    /// type=local,src=DIR
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_from: Vec<String>,
    /// Write what this build uses, for builds elsewhere (may be given again): type=registry,ref=NAME[,mode=min|max][,…],
    /// type=local,dest=DIR[,…] or type=inline
    #[arg(long, value_name = "SPEC")]
    pub(super) cache_to: Vec<String>,
    /// Send the image to the registries that its names say: the same as -o type=registry
    #[arg(long)]
    pub(super) push: bool,
    /// Give the image to podman, if that is installed, and to a docker engine whose socket answers
    #[arg(long)]
    pub(super) load: bool,
    /// Put a note on the image, in its manifest or in the entry that names that: [TYPE[[PLATFORM]],…:]KEY=VALUE
    #[arg(long = "annotation", value_name = "SPEC")]
    pub(super) annotations: Vec<String>,
    /// Print the image's digest only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Ask again what base, branch or suite means now
    #[arg(long, conflicts_with = "offline")]
    pub(super) pull: bool,
    /// How long a remembered answer serves (ms, s, m, h) [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ms)]
    pub(super) refresh: Option<u64>,
    /// Write what was made, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// Write the image's id (the digest of its configuration)
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// How many steps run at a time, and on how many cores is computed [default: any number of steps, on all cores]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// When a step fails, go on with all that does not need it
    #[arg(long)]
    pub(super) keep_going: bool,
    /// Add a label to the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
}

/// Which Dockerfile is built, and of what.
#[derive(Debug, Args)]
pub(super) struct DockerfileArguments {
    /// What COPY and ADD can take files of: a directory, the URL of a git repository or of an archive, or - for an archive or
    /// a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub(super) context: PathBuf,
    /// The Dockerfile [default: CONTEXT/Dockerfile]: a path (in a context that is fetched, one of its files, unless it is
    /// absolute), a URL, or - for standard input
    #[arg(short, long, value_name = "PATH")]
    pub(super) file: Option<PathBuf>,
    /// Stop after this stage
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Set an ARG; without a value, from the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// What is built for: os/arch[/variant], an architecture alone, or `local` [default: $DOCKER_DEFAULT_PLATFORM, else this
    /// machine's]. Several become one image. Programs of other architectures are run by qemu-user
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub(super) platforms: Vec<String>,
    /// A further context: NAME=DIR, NAME=URL (git or http), NAME=oci-layout://PATH[:TAG][@DIGEST],
    /// NAME=debian://SUITE?packages=…, NAME=docker-image://NAME
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub(super) build_contexts: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct BuildArguments {
    #[command(flatten)]
    pub(super) dockerfile: DockerfileArguments,
    /// Look through the Dockerfile and build nothing: the same as --call=check
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,
    /// What to do: build, check, outline, targets or describe[,format=json][,ignorestatus=true]
    #[arg(long, value_name = "WHAT", value_parser = super::call::parse)]
    pub(super) call: Option<Call>,
    /// Take no step from the cache
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Take no step of these stages from the cache
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    #[command(flatten)]
    pub(super) draft: SharedBuildArguments,
    // Last, because its heading would go on above what follows.
    #[command(flatten)]
    pub(super) steps: StepArguments,
}

#[derive(Debug, Args)]
pub(super) struct WhyArguments {
    #[command(flatten)]
    pub(super) dockerfile: DockerfileArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Ask now what references mean
    #[arg(long)]
    pub(super) pull: bool,
    #[command(flatten)]
    pub(super) steps: StepArguments,
}

#[derive(Debug, Args)]
pub(super) struct LintArguments {
    /// The Dockerfiles; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "pretty")]
    pub(super) format: LintFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LintFormat {
    /// With the lines that are meant
    Pretty,
    /// FILE:LINE:COLUMN: message
    Short,
    /// An array of objects
    Json,
}

#[derive(Debug, Args)]
pub(super) struct FormatArguments {
    /// The Dockerfiles, written in place; - is standard input, which goes to standard output
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Write nothing; name the files that would change, and end with 1 if there are any
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Print digests only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// The form; JSON is the only one
    #[arg(long, value_parser = ["json"], default_value = "json")]
    pub(super) format: String,
}

/// How a command is run.
#[derive(Debug, Args)]
pub(super) struct ProcessArguments {
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable; without a value, from the environment
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub(super) env: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// user[:group], by name or number
    #[arg(short, long)]
    pub(super) user: Option<String>,
}

/// What something that runs has of this machine.
#[derive(Debug, Args)]
pub(super) struct OutwardArguments {
    /// Publish a port: [[IP:]HOST:]PORT[/tcp|/udp]
    #[arg(short, long = "publish", value_name = "SPEC")]
    pub(super) publish: Vec<String>,
    /// default, none or host [default: what the image or its habitat says, else default]
    #[arg(long, value_name = "NETWORK")]
    pub(super) network: Option<Network>,
    /// Do not hold it to the limits on memory, processors and processes that its habitat names
    #[arg(long)]
    pub(super) no_limits: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// The command and its arguments [default: the image's]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<String>,
    #[command(flatten)]
    pub(super) process: ProcessArguments,
    /// Mount a directory or file of this machine: SRC:DST[:ro]
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]")]
    pub(super) volumes: Vec<String>,
    /// Program (and arguments, split as a shell splits words) in place of the image's entrypoint
    #[arg(long, value_name = "COMMAND")]
    pub(super) entrypoint: Option<String>,
    #[command(flatten)]
    pub(super) outward: OutwardArguments,
    /// What the command writes to the image's files is always dropped at its end; accepted for scripts that ask for it
    #[arg(long)]
    pub(super) rm: bool,
}

#[derive(Debug, Args)]
pub(super) struct UnshareArguments {
    /// The command and its arguments [default: $SHELL]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Print the AppArmor profile that Ubuntu 24.04 needs, and nothing else
    #[arg(long)]
    pub(super) apparmor_profile: bool,
}

/// `500ms`, `2s`, `10m`, `1h`, in milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits]
        .parse()
        .map_err(|_| "a duration is a number and ms, s, m or h".to_owned())?;
    let factor = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number and ms, s, m or h".to_owned()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration_ms("90s"), Ok(90_000));
        assert_eq!(parse_duration_ms("2h"), Ok(7_200_000));
        assert!(parse_duration_ms("5").is_err());
        assert!(parse_duration_ms("h").is_err());
    }
}
