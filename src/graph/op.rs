//! The closed list of things that a build can do.

use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::digest::{Fields, Key};

/// Makes one file tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The empty tree.
    Scratch,
    /// A tree from outside.
    Source(Source),
    /// A process that runs on a tree and changes it.
    Exec(Exec),
    /// Files put into a tree.
    Copy(Copy),
    /// A directory made in a tree: WORKDIR.
    Mkdir(Mkdir),
}

/// A tree that comes from outside the graph.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// An image by its name: of the local store, else of its registry.
    Image(ImageSource),
    /// An image in an OCI layout on this machine.
    OciLayout(OciLayoutSource),
    /// A root filesystem made from a Debian archive.
    Debian(DebianSource),
    /// A commit of a git repository.
    Git(GitSource),
    /// One file fetched over HTTP.
    Http(HttpSource),
    /// A directory of this machine, read in place: the build context (name `context`) or a named one.
    Local {
        /// The context's name.
        name: String,
    },
}

/// `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageSource {
    /// The name in full.
    pub name: String,
    /// Which of its images, where it has one for several platforms; `None`: the one that is built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

impl ImageSource {
    /// The image of that name for the platform that is built for.
    #[must_use]
    pub const fn new(name: String) -> Self {
        Self {
            name,
            platform: None,
        }
    }
}

/// `oci-layout://PATH[:TAG][@DIGEST]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OciLayoutSource {
    /// The layout's directory, absolute.
    pub path: String,
    /// The `org.opencontainers.image.ref.name` to pick; `None`: the only manifest, or `latest`.
    pub tag: Option<String>,
    /// The manifest, if it is pinned.
    pub digest: Option<String>,
    /// Which of its images, where it has one for several platforms; `None`: the one that is built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// `debian://SUITE?packages=a,b&mirror=URL&arch=amd64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DebianSource {
    /// The suite, by code name: `bookworm`.
    pub suite: String,
    /// Packages beside the essential ones and apt, sorted, without duplicates.
    pub packages: Vec<String>,
    /// The mirror to use; `None`: as design says (environment, host's apt sources, deb.debian.org).
    pub mirror: Option<String>,
    /// Debian's name of the architecture: `amd64`, `arm64`.
    pub arch: String,
}

/// A commit of a repository, as a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GitSource {
    /// Anything git takes, or an absolute path (a repository or a bundle).
    pub url: String,
    /// Branch, tag or commit; `None`: the remote's default branch.
    pub reference: Option<String>,
    /// Whether the reference may be the first digits of a commit: in a habitat, but not in a Dockerfile.
    pub is_short: bool,
    /// The commit, or object of a tag, that the reference has to mean: its name, or the first digits of it, in lower
    /// case. Anything else is an error.
    pub checksum: Option<String>,
    /// Whether `checksum`, a whole name here, is fetched without asking what the reference means now; the reference is
    /// then only what a kept `.git` calls it, a branch where it is no full `refs/…` name.
    pub fetch_by_commit: bool,
    /// The directory of the tree that is taken; `None`: all of it.
    pub subdir: Option<String>,
    /// `Some(n)`: that many commits of history; `None`: all.
    pub depth: Option<u32>,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// Whether `.git` is kept.
    pub keep_git_dir: bool,
    /// `Some(url)`: the remote URL recorded in the kept `.git` (never with credentials).
    pub remote: Option<String>,
    /// Whether the recorded push URL is disabled.
    pub read_only: bool,
    /// The id of the secret that opens it: a token, for http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A download.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpSource {
    /// `http://` or `https://`.
    pub url: String,
    /// What it must be: `sha256:<hex>`.
    pub checksum: Option<String>,
    /// The name of the file.
    pub name: String,
    /// Whether it makes a tree of its own, of this one file: a named context. Else it is a file that ADD takes.
    pub is_tree: bool,
}

/// RUN.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// The tree it runs on.
    pub root: NodeId,
    /// Program and arguments; a shell form is already wrapped.
    pub argv: Vec<String>,
    /// Files that exist only while it runs, under `/dev/pipes`: heredoc scripts with their own `#!` line. The path is
    /// absolute, the mode 0755.
    pub scripts: Vec<InlineFile>,
    /// The environment, in order. A PATH is always among it.
    pub env: Vec<(String, String)>,
    /// Environment that is no part of the key: proxies that were not declared as ARG.
    pub env_unkeyed: Vec<(String, String)>,
    /// USER, as written; empty is root. Names are looked up in the tree.
    pub user: String,
    /// The working directory, absolute.
    pub workdir: String,
    /// Mounts in the order of their flags.
    pub mounts: Vec<Mount>,
    /// Which network it sees.
    pub network: Network,
    /// How much it may do.
    pub security: Security,
    /// What the machine is called; `None`: what it always is.
    pub hostname: Option<String>,
    /// Further names that it knows machines by.
    pub hosts: Vec<Host>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// The size of /dev/shm; `None`: 64 MiB.
    pub shm_bytes: Option<u64>,
    /// The control group that its own is made in.
    pub cgroup_parent: Option<String>,
    /// Ends it, with everything it started, after so many milliseconds.
    pub timeout_ms: Option<u64>,
    /// How its end is judged.
    pub judge: Judge,
}

/// How the end of a process is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Judge {
    /// By its exit status.
    Status,
    /// By its exit status and by the TAP that it prints (plan, `not ok`, `Bail out!`).
    Tap,
}

/// RUN --network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own, with a way out.
    #[default]
    Default,
    /// Only `lo`.
    None,
    /// The host's.
    Host,
}

impl std::str::FromStr for Network {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "default" => Ok(Self::Default),
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => Err("it is default, none or host"),
        }
    }
}

/// What every RUN of a build gets from the person who builds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDefaults {
    /// The network of a RUN that names none.
    pub network: Option<Network>,
    /// Further names that it knows machines by.
    pub hosts: Vec<Host>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// The size of /dev/shm.
    pub shm_bytes: Option<u64>,
    /// The control group that its own is made in.
    pub cgroup_parent: Option<String>,
}

/// RUN --security.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// In the sandbox.
    #[default]
    Sandbox,
    /// With all that a user namespace can give.
    Insecure,
}

/// --add-host: a line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Host {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub address: std::net::IpAddr,
}

/// --ulimit
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ulimit {
    /// What is limited, as `ulimit(1)` and Docker name it: `nofile`, `nproc` …
    pub name: String,
    /// What a process starts with; `None`: no limit.
    pub soft: Option<u64>,
    /// How far it may raise that; `None`: without limit.
    pub hard: Option<u64>,
}

/// RUN --mount.
#[derive(Debug, Clone, PartialEq)]
pub enum Mount {
    /// type=bind
    Bind(BindMount),
    /// type=cache
    Cache(CacheMount),
    /// type=tmpfs
    Tmpfs(TmpfsMount),
    /// type=secret
    Secret(SecretMount),
    /// type=ssh
    Ssh(SshMount),
}

/// Where a bind or cache mount takes its files from.
#[derive(Debug, Clone, PartialEq)]
pub struct MountSource {
    /// The tree; a [`Source::Local`] is filtered by its ignore file.
    pub from: NodeId,
    /// The path in it, absolute and clean.
    pub path: String,
}

/// RUN --mount=type=bind.
#[derive(Debug, Clone, PartialEq)]
pub struct BindMount {
    /// What is mounted.
    pub source: MountSource,
    /// Where, absolute.
    pub target: String,
    /// Whether it can be written to; what is written is discarded.
    pub writable: bool,
}

/// RUN --mount=type=cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheMount {
    /// The cache's id.
    pub id: String,
    /// Where, absolute.
    pub target: String,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// Who may use it at a time.
    pub sharing: CacheSharing,
    /// What a new cache starts with.
    pub source: Option<MountSource>,
    /// The directory of the cache that is mounted, absolute and clean.
    pub subdir: String,
    /// Mode of a new cache's root.
    pub mode: u32,
    /// Owner of a new cache's root.
    pub uid: u32,
    /// Group of a new cache's root.
    pub gid: u32,
}

/// RUN --mount=type=cache,sharing=
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheSharing {
    /// Any number at once.
    Shared,
    /// Each its own.
    Private,
    /// One after another.
    Locked,
}

/// RUN --mount=type=tmpfs.
#[derive(Debug, Clone, PartialEq)]
pub struct TmpfsMount {
    /// Where, absolute.
    pub target: String,
    /// Its size, `None`: the kernel's own limit.
    pub size_bytes: Option<u64>,
    /// Whether it cannot be written to: a place that is sure to be empty.
    pub read_only: bool,
}

/// RUN --mount=type=secret.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretMount {
    /// The secret's id.
    pub id: String,
    /// Where it appears; both may be given.
    pub target: SecretTarget,
    /// Whether the build fails where it was not given.
    pub required: bool,
    /// Mode of the file.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// RUN --mount=type=ssh.
#[derive(Debug, Clone, PartialEq)]
pub struct SshMount {
    /// The agent's id.
    pub id: String,
    /// Where its socket appears, absolute.
    pub target: String,
    /// Whether the build fails where it was not given.
    pub required: bool,
    /// Mode of the socket.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// A secret is a file, a variable or both.
#[derive(Debug, Clone, PartialEq)]
pub struct SecretTarget {
    /// The file, absolute.
    pub path: Option<String>,
    /// The variable.
    pub env: Option<String>,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// The tree that is copied into.
    pub root: NodeId,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Where to: absolute, WORKDIR already applied; a trailing `/` means a directory.
    pub dest: String,
    /// `--chown` as written (after variables): `user[:group]`; `None`: 0:0.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<FileMode>,
    /// `--link`: destination parents from scratch, nothing of the tree below is asked.
    pub link: bool,
    /// `--parents`: the sources' own directories are kept.
    pub parents: bool,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// Which archives are unpacked.
    pub unpack: Unpack,
}

/// Which archives COPY or ADD unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpack {
    /// None.
    Nothing,
    /// Files, but no downloads: ADD.
    Files,
    /// Downloads too: `--unpack`.
    Everything,
}

/// One thing that COPY or ADD takes.
#[derive(Debug, Clone, PartialEq)]
pub enum CopySource {
    /// A path, perhaps with wildcards, in a tree. Not cleaned: a trailing `/.` has a meaning.
    Path {
        /// The tree.
        from: NodeId,
        /// The path as written (after variables).
        path: String,
    },
    /// A heredoc.
    Inline(InlineFile),
    /// The one file of a [`Source::Http`].
    Download {
        /// The download.
        from: NodeId,
    },
}

/// A file whose content is in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InlineFile {
    /// Its name (COPY) or absolute path (RUN).
    pub name: String,
    /// Its bytes.
    pub content: String,
}

/// `--chmod`: octal, or symbolic as `chmod(1)` has it without a umask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileMode {
    /// These bits, for files and directories alike.
    Octal(u32),
    /// Clauses such as `u=rwX,go=rX`, already checked.
    Symbolic(String),
}

/// WORKDIR: the directory and its parents, if they are missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Mkdir {
    /// The tree.
    pub root: NodeId,
    /// The directory, absolute and clean.
    pub path: String,
    /// Who owns what is made; as USER, empty is root.
    pub user: String,
    /// Mode of what is made.
    pub mode: u32,
}

impl Op {
    /// The nodes it needs, in a fixed order; one may come twice.
    #[must_use]
    pub fn inputs(&self) -> Vec<NodeId> {
        match self {
            Self::Scratch | Self::Source(_) => Vec::new(),
            Self::Exec(exec) => {
                let mut inputs = vec![exec.root];
                inputs.extend(exec.mounts.iter().filter_map(|mount| match mount {
                    Mount::Bind(bind) => Some(bind.source.from),
                    Mount::Cache(cache) => cache.source.as_ref().map(|source| source.from),
                    Mount::Tmpfs(_) | Mount::Secret(_) | Mount::Ssh(_) => None,
                }));
                inputs
            }
            Self::Copy(copy) => {
                let mut inputs = vec![copy.root];
                inputs.extend(copy.sources.iter().filter_map(|source| match source {
                    CopySource::Path { from, .. } | CopySource::Download { from } => Some(*from),
                    CopySource::Inline(_) => None,
                }));
                inputs
            }
            Self::Mkdir(mkdir) => vec![mkdir.root],
        }
    }

    /// What this op is apart from its inputs: the part of its key that the instruction alone decides.
    ///
    /// What a secret or an agent holds, proxies, where an added host is, which cache a mount shows and what is in it stay
    /// out, as in BuildKit: a result made with one of them serves with another.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        match self {
            Self::Scratch => fields.put("op", "scratch"),
            Self::Source(source) => {
                fields.put("op", "source");
                fields.put("source", serde_json::to_string(source).unwrap_or_default());
            }
            Self::Exec(exec) => exec.put_fields(&mut fields),
            Self::Copy(copy) => copy.put_fields(&mut fields),
            Self::Mkdir(mkdir) => {
                fields.put("op", "mkdir");
                fields.put("path", mkdir.path.clone());
                fields.put("user", mkdir.user.clone());
                fields.put("mode", format!("{:o}", mkdir.mode));
            }
        }
        fields
    }
}

impl Exec {
    fn put_fields(&self, fields: &mut Fields) {
        fields.put("op", "exec");
        fields.put("command", self.argv.join("\u{1f}"));
        for script in &self.scripts {
            fields.put(
                format!("script {}", script.name),
                Key::of(script.content.as_bytes()).to_string(),
            );
        }
        for (name, value) in &self.env {
            fields.put(format!("env {name}"), value.clone());
        }
        fields.put("user", self.user.clone());
        fields.put("workdir", self.workdir.clone());
        fields.put("network", format!("{:?}", self.network).to_lowercase());
        fields.put(
            "timeout",
            self.timeout_ms
                .map(|limit| limit.to_string())
                .unwrap_or_default(),
        );
        fields.put("judge", format!("{:?}", self.judge).to_lowercase());
        // What is as it always is adds no field, so that results made before there was a choice are still found.
        if self.security != Security::Sandbox {
            fields.put("security", "insecure");
        }
        if let Some(hostname) = &self.hostname {
            fields.put("hostname", hostname.clone());
        }
        for host in &self.hosts {
            fields.put("host", host.name.clone());
        }
        for limit in &self.ulimits {
            let shown = |value: Option<u64>| value.map_or("-1".to_owned(), |n| n.to_string());
            fields.put(
                format!("ulimit {}", limit.name),
                format!("{}:{}", shown(limit.soft), shown(limit.hard)),
            );
        }
        if let Some(bytes) = self.shm_bytes {
            fields.put("shm", bytes.to_string());
        }
        if let Some(parent) = &self.cgroup_parent {
            fields.put("cgroup parent", parent.clone());
        }
        for mount in &self.mounts {
            let (target, what) = match mount {
                Mount::Bind(bind) => (
                    &bind.target,
                    format!("bind {} rw={}", bind.source.path, bind.writable),
                ),
                Mount::Cache(cache) => (&cache.target, format!("cache ro={}", cache.read_only)),
                Mount::Tmpfs(tmpfs) => {
                    let size = tmpfs.size_bytes.map(|size| format!(" {size}"));
                    let access = if tmpfs.read_only { " ro" } else { "" };
                    let what = format!("tmpfs{}{access}", size.unwrap_or_default());
                    (&tmpfs.target, what)
                }
                Mount::Ssh(ssh) => (
                    &ssh.target,
                    format!("ssh {:o} {}:{}", ssh.mode, ssh.uid, ssh.gid),
                ),
                Mount::Secret(secret) => {
                    let path = secret.target.path.as_deref().unwrap_or_default();
                    let env = secret.target.env.as_deref().unwrap_or_default();
                    fields.put(
                        format!("secret {}", secret.id),
                        format!(
                            "{path} {env} {:o} {}:{}",
                            secret.mode, secret.uid, secret.gid
                        ),
                    );
                    continue;
                }
            };
            fields.put(format!("mount {target}"), what);
        }
    }
}

impl Copy {
    fn put_fields(&self, fields: &mut Fields) {
        fields.put("op", "copy");
        for source in &self.sources {
            match source {
                CopySource::Path { path, .. } => fields.put("source", path.clone()),
                CopySource::Inline(file) => {
                    fields.put(
                        format!("inline {}", file.name),
                        Key::of(file.content.as_bytes()).to_string(),
                    );
                }
                CopySource::Download { .. } => fields.put("source", "download"),
            }
        }
        fields.put("dest", self.dest.clone());
        fields.put("chown", self.chown.clone().unwrap_or_default());
        fields.put(
            "chmod",
            match &self.chmod {
                None => String::new(),
                Some(FileMode::Octal(bits)) => format!("{bits:o}"),
                Some(FileMode::Symbolic(clauses)) => clauses.clone(),
            },
        );
        fields.put(
            "flags",
            format!(
                "link={} parents={} unpack={:?}",
                self.link, self.parents, self.unpack
            ),
        );
        for pattern in &self.exclude {
            fields.put("exclude", pattern.clone());
        }
    }
}
