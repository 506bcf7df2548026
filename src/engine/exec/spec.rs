//! What passes between the engine child and a step: one [`ExecSpec`] in, at most a few [`Reply`]s back. Plain data; open
//! files travel beside it and are named by their place.

use serde::{Deserialize, Serialize};

use super::proc::Proc;
use super::users::Identity;
use crate::graph::{Security, Ulimit};

/// The place of an open file among those that came with the message.
pub(super) type FileIndex = usize;

/// All that a step will ever know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub workdir: String,
    /// Who it runs as.
    pub identity: Identity,
    /// What the machine is called.
    pub hostname: Hostname,
    /// How many files it may open; `None`: no limit.
    pub files_max: Option<u64>,
    /// Further limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// How much it may do.
    pub security: Security,
    /// The size of /dev/shm, in bytes.
    pub shm_bytes: u64,
    /// Whether it was put into a control group of its own, which is all that it shall see.
    pub group: GroupSpec,
    /// The tree that becomes its root.
    pub root: FileIndex,
    /// The network namespace; `None`: the one it starts in.
    pub network: Option<FileIndex>,
    /// Its /proc.
    pub proc: Proc,
    /// A /sys that shows its network, where it may not mount one.
    pub sys: Option<FileIndex>,
    /// What is mounted, in this order.
    pub mounts: Vec<MountSpec>,
    /// What becomes of its standard streams.
    pub streams: StreamsSpec,
}

/// What the machine is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hostname {
    /// As somebody wishes.
    Wished(String),
    /// As it is usual. Where a filter of system calls lets nobody name it, another will do.
    Usual(String),
}

impl Default for Hostname {
    fn default() -> Self {
        Self::Usual(String::new())
    }
}

impl Hostname {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Wished(name) | Self::Usual(name) => name,
        }
    }
}

/// Which control groups it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum GroupSpec {
    /// Those below the one that it was started in.
    Started,
    /// Those below the one that it has been put into since.
    Own,
}

/// One mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MountSpec {
    /// Where, absolute.
    pub target: String,
    /// What.
    pub what: MountedSpec,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum MountedSpec {
    /// A detached tree.
    Tree(FileIndex),
    /// An empty file system in memory.
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
        read_only: bool,
    },
    /// A file in memory with the content of another.
    File {
        content: FileIndex,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// What becomes of the standard streams, which are descriptors 0 to 2 already.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum StreamsSpec {
    /// They are pipes of the engine's, which the user of the step may reopen.
    Pipes,
    /// They are somebody else's.
    Given,
    /// A new terminal of this size replaces them.
    Terminal { rows: u16, columns: u16 },
}

/// What a step says. If it says nothing more and closes the socket, it has become the command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Reply {
    /// A guest is in its container, whose root comes as an open file.
    Entered,
    /// Mount points that were missing from the root and were made. The directories come as open files.
    Stubs {
        stubs: Vec<StubSpec>,
        directories: Vec<TouchedSpec>,
    },
    /// The other side of the terminal, as an open file.
    Terminal,
    /// Where its calls that have to do with owners are answered, as an open file.
    Listener,
    /// The sandbox could not be set up.
    Failed {
        step: usize,
        name: String,
        what: String,
        errno: Option<i32>,
    },
    /// The command could not be executed.
    NotExecuted { status: i32, why: String },
    /// The command is a program of another architecture: can it be executed all the same? Answered by [`Emulated`].
    Emulate { architecture: String },
    /// The command is a program of another architecture.
    Foreign { why: String },
}

/// Whether programs of an architecture can be executed now, else why not.
pub(super) type Emulated = Result<(), String>;

/// A file or directory that only serves as a mount point.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StubSpec {
    /// The directory that it is in.
    pub directory: FileIndex,
    /// Its name there.
    pub name: String,
    /// Its inode.
    pub inode: u64,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// The times of a directory that stubs were made in.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct TouchedSpec {
    /// Last changed, before: seconds and nanoseconds.
    pub before: (i64, i64),
    /// Last changed, after.
    pub after: (i64, i64),
}
