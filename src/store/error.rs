//! What can go wrong with the store, told to a person.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StoreError {
    /// The file system is full, or a quota is.
    #[error("no space is left to {what}: {}", path.display())]
    #[diagnostic(
        code(store::no_space),
        help(
            "make room on that file system (`shmocker cache prune` does), or put the store elsewhere with --store; results made so \
             far are kept"
        )
    )]
    NoSpace {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("the store is on a read-only file system, so shmocker cannot {what}: {}", path.display())]
    #[diagnostic(
        code(store::read_only),
        help("name a store that can be written to with --store")
    )]
    ReadOnly {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file system says no.
    #[error("cannot {what}: {}", path.display())]
    #[diagnostic(code(store::io))]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The directory is the store of someone else.
    #[error("the store {} belongs to user id {owner}, not to you", path.display())]
    #[diagnostic(
        code(store::not_yours),
        help("name a store of your own with --store; stores are not shared between users")
    )]
    NotYours {
        /// The store.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// There is something, and it is no store.
    #[error("{} is not a store: it has files in it, but no `version`", path.display())]
    #[diagnostic(
        code(store::not_a_store),
        help("name an empty or new directory with --store")
    )]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// Made by another version of shmocker.
    #[error("the store {} has layout `{found}`, and this shmocker knows only layout `{known}`", path.display())]
    #[diagnostic(
        code(store::other_version),
        help("use the shmocker that made it, or another directory with --store")
    )]
    OtherVersion {
        /// The store.
        path: PathBuf,
        /// Its layout.
        found: String,
        /// Ours.
        known: &'static str,
    },
    /// Its trees were made with other ids.
    #[error("the store {} keeps the owners of files as {kept}, which cannot be mixed with another way", path.display())]
    #[diagnostic(
        code(store::other_owners),
        help("leave `--ids` out, or name another store: `--store DIR`")
    )]
    OtherOwners {
        /// The store.
        path: PathBuf,
        /// How.
        kept: &'static str,
    },
    /// Content is not what its digest says.
    #[error("content with digest {found} came where {expected} was expected")]
    #[diagnostic(
        code(store::wrong_digest),
        help("the source is damaged or was changed on the way; try again")
    )]
    WrongDigest {
        /// What it should have been.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A stored blob has changed.
    #[error("the stored blob {digest} was damaged and has been put aside")]
    #[diagnostic(
        code(store::damaged_blob),
        help("build again: it is fetched or made anew")
    )]
    DamagedBlob {
        /// Its name.
        digest: Digest,
    },
    /// A blob that something needs is not there.
    #[error("the store has no blob {digest}")]
    #[diagnostic(
        code(store::no_such_blob),
        help("build again: it is fetched or made anew")
    )]
    NoSuchBlob {
        /// Its name.
        digest: Digest,
    },
    /// A snapshot that something needs is not there.
    #[error("the store has no snapshot {id}")]
    #[diagnostic(code(store::no_such_snapshot), help("build again: it is made anew"))]
    NoSuchSnapshot {
        /// Its name.
        id: crate::digest::Key,
    },
    /// A habitat of the store runs.
    #[error("the habitat `{id}` of this store runs")]
    #[diagnostic(
        code(store::in_use),
        help("end it first: `shmocker habitat down {id}`")
    )]
    InUse {
        /// Which.
        id: String,
    },
    /// SQLite says no.
    #[error("cannot {what} in the store's index")]
    #[diagnostic(
        code(store::index),
        help(
            "if it stays so, remove `index.sqlite` from the store: it is made again from what lies beside it"
        )
    )]
    Index {
        /// What was to be done.
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Where the index cannot be written, as on a full disk, it stays as it was: it may know less than there is, or what is
    /// gone.
    pub(super) fn unless_unwritable<T: Default>(written: Result<T, Self>) -> Result<T, Self> {
        match written {
            Err(Self::Index { source, .. }) if super::opening::is_unwritable(&source) => {
                Ok(T::default())
            }
            written => written,
        }
    }

    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::NoSpace { what, path, source }
            }
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { what, path, source },
            _ => Self::Io { what, path, source },
        }
    }
}

/// Says what was to be done, and where, when the file system refuses.
pub(crate) trait Doing<T> {
    /// `what` reads after "cannot".
    fn doing(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, StoreError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(what, path, source))
    }
}
