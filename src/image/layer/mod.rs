//! The layer tar: one [`LayerWriter`] that gives the same bytes for the same entries, and one [`LayerReader`] that takes
//! what other tools write and refuses what two readers could understand differently.
//!
//! What is written: POSIX ustar headers, a PAX header only where a value does not fit (names of more than 100 bytes or
//! beyond ASCII, ids of more than 21 bits, sizes from 8 GiB, times before 1970) and for extended attributes
//! (`SCHILY.xattr.`). Owners are numbers. Times are whole seconds, as containerd and BuildKit write them. Directories end
//! in `/`; names have no `./` before them.
//!
//! A layer says what changed. `.wh.NAME` stands for a name that is gone, `.wh..wh..opq` in a directory for "nothing that
//! was here before" (OCI image-spec, layer.md).

mod compare;
mod header;
mod read;
mod write;

use super::Timestamp;

pub use compare::{LayerDifference, first_difference};
pub use read::{LayerReader, Limits, Malformed};
pub use write::LayerWriter;

/// What stands before the name of what is gone.
pub const WHITEOUT: &[u8] = b".wh.";
/// The name that hides all that lower layers have in a directory.
pub const OPAQUE: &[u8] = b".wh..wh..opq";

/// One name in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From the root, without `/` at either end; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions, with set-id and sticky bits: 12 bits.
    pub mode: u32,
    /// The owner.
    pub uid: u64,
    /// The group.
    pub gid: u64,
    /// When its content was last changed.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file with content of so many bytes, which follow.
    File {
        /// How many.
        size: u64,
    },
    /// Another name of a file that came before.
    HardLink {
        /// That file's path, written as [`Entry::path`] is.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// What it says, as it is.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A character device.
    CharDevice {
        /// Its driver.
        major: u32,
        /// Which one.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its driver.
        major: u32,
        /// Which one.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// What becomes of modification times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TimeRewrite {
    /// They stay.
    #[default]
    Keep,
    /// None is later than this many seconds after 1970 (`rewrite-timestamp`).
    Clamp(i64),
}

impl TimeRewrite {
    /// The time that is written for `time`.
    #[must_use]
    pub fn apply(self, time: Timestamp) -> Timestamp {
        match self {
            Self::Keep => time,
            Self::Clamp(epoch) => time.min(Timestamp::from_seconds(epoch)),
        }
    }
}

#[cfg(test)]
mod tests;
