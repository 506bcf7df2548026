//! What outlives a build: blobs, snapshots, images, and the index that finds them.
//!
//! ```text
//! version                one line: the layout's number
//! owners                 one line: how the owners of files are kept
//! blobs/sha256/<hex>     content, named by its digest; blobs/damaged/ has what was put aside
//! snapshots/<id>/        fs/ (an upper directory) and record.json
//! index.sqlite           rebuildable from the records
//! images/<name>.json     name -> manifest
//! git/ http/ caches/     of engine and net
//! habitats/<id>/         habitats that run or have run
//! failed/                what the last failed step of each project has left
//! builds/                what builds have used, so that it is known what to keep
//! history/               what was built, and what that printed
//! locks/ tmp/            flocks; what is being made
//! empty/                 directories in which nothing ever is, for mounts
//! ```
//!
//! Everything is made in `tmp/`, synced, and then renamed to its place, which never replaces anything but an image's name.
//! So each prefix of what happened is a valid store. Several processes may use it at a time. What is read is opened
//! cheaply: nothing is written, locked or synced for it.
//!
//! What is deleted is first moved to `tmp/`, under locks that say that nobody uses it; there it is left over, and whoever
//! comes next deletes what a killed process could not.
//!
//! Leaves out how a snapshot is mounted (`engine::snapshot`).

mod blob;
mod census;
mod check;
mod error;
mod failed;
mod filter;
mod groups;
mod growing;
mod history;
mod holders;
mod image;
mod index;
mod instance;
mod inventory;
mod limits;
mod lock;
mod measure;
mod name;
mod opening;
mod owners;
mod prune;
mod record;
mod shared;
mod tmp;
mod uses;

#[cfg(test)]
mod month_tests;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

pub use blob::{BlobReader, BlobWriter};
pub use check::{Checked, Finding, Repair};
pub(crate) use error::Doing;
pub use error::StoreError;
pub use failed::FailedStep;
pub(crate) use failed::accept;
pub use filter::{BadFilter, Filter};
pub use groups::{Group, GroupKind, Row, groups};
pub use growing::{Growing, GrowingReader};
pub use history::{BuildEnd, BuildLog, BuildRecord, History, StepRecord};
pub use holders::NoHolder;
pub use image::{StoredBase, StoredImage};
pub use index::{Answer, Index, LayerBlob, OpRecord, PartRecord, StatRow};
pub use instance::{Hold, Instance, InstanceRecord, LastState};
pub use inventory::{Disk, Entry, Inventory, Keeper, Owner, RecordType};
pub use limits::Limits;
pub use lock::Lease;
pub(crate) use measure::tree_bytes;
pub use owners::Owners;
pub use prune::{Prune, Pruned, Removed, Space};
pub use record::Record;
pub use tmp::{Swept, TmpDir, TmpFile};
pub use uses::{BuildUse, CacheUse, PartUse};

use crate::digest::Key;
use crate::sys::dir::Dir;

/// The layout that this program reads and writes.
const LAYOUT: &str = "1";
/// The directories of a store.
const DIRECTORIES: &[&str] = &[
    "blobs",
    "blobs/sha256",
    "blobs/damaged",
    "snapshots",
    "images",
    "git",
    "http",
    "caches",
    "habitats",
    "failed",
    "builds",
    "history",
    "empty",
    "locks",
    "tmp",
];

/// A store of this user. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    top: Dir,
    blobs: Dir,
    snapshots: Dir,
    images: Dir,
    locks: Dir,
    tmp: Dir,
    index: OnceLock<Index>,
    /// Bytes of the blobs that were stored since it was opened.
    written: AtomicU64,
}

impl Store {
    /// Opens the store at a directory, which is made if it is not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = std::path::absolute(path.as_ref()).doing("find the store", path.as_ref())?;
        let top = match Dir::open_trusted(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                create(&path)?;
                Dir::open_trusted(&path)
            }
            opened => opened,
        }
        .doing("open the store", &path)?;
        let owner = top.own_metadata().doing("open the store", &path)?.uid;
        if owner != rustix::process::geteuid().as_raw() {
            return Err(StoreError::NotYours { path, owner });
        }
        match read_version(&top).doing("read the store's version", path.join("version"))? {
            Some(found) if found == LAYOUT => {}
            Some(found) => {
                return Err(StoreError::OtherVersion {
                    path,
                    found,
                    known: LAYOUT,
                });
            }
            None => create(&path)?,
        }
        let open = |name: &str| {
            top.open_dir(name)
                .doing("open a directory of the store", path.join(name))
        };
        let blobs = open("blobs")?
            .open_dir("sha256")
            .doing("open a directory of the store", path.join("blobs/sha256"))?;
        let inner = Inner {
            blobs,
            snapshots: open("snapshots")?,
            images: open("images")?,
            locks: open("locks")?,
            tmp: open("tmp")?,
            index: OnceLock::new(),
            written: AtomicU64::new(0),
            top,
            path,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Deletes a store, with what belongs to the users of containers: only the engine child may do that. Anything that is
    /// no store is left alone.
    pub fn delete(path: &Path) -> Result<(), StoreError> {
        let store = Self::open(path)?;
        for instance in store.instances()? {
            if instance.is_held()? {
                return Err(StoreError::InUse {
                    id: instance.id().to_owned(),
                });
            }
        }
        drop(store);
        let top = Dir::open_trusted(path).doing("open the store", path)?;
        for name in DIRECTORIES.iter().filter(|name| !name.contains('/')) {
            top.remove_tree(name)
                .doing("delete a directory of the store", path.join(name))?;
        }
        for entry in top.entries().doing("read the store", path)? {
            top.remove_file(&entry.name)
                .doing("delete a file of the store", path.join(&entry.name))?;
        }
        std::fs::remove_dir(path).doing("delete the store", path)
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The index; opened when first asked for.
    pub fn index(&self) -> Result<&Index, StoreError> {
        if let Some(index) = self.inner.index.get() {
            return Ok(index);
        }
        let index = Index::open(&self.inner.path, &self.inner.snapshots)?;
        Ok(self.inner.index.get_or_init(|| index))
    }

    /// The directory with a published snapshot's `fs/` and `record.json`.
    #[must_use]
    pub fn snapshot_path(&self, id: &Key) -> PathBuf {
        self.inner.path.join("snapshots").join(id.to_string())
    }

    /// Whether a snapshot is published.
    #[must_use]
    pub fn has_snapshot(&self, id: &Key) -> bool {
        self.inner.snapshots.metadata(id.to_string()).is_ok()
    }

    /// What a published snapshot says of itself.
    pub fn snapshot_record(&self, id: &Key) -> Result<Record, StoreError> {
        let dir = self
            .inner
            .snapshots
            .open_dir(id.to_string())
            .map_err(|_| StoreError::NoSuchSnapshot { id: *id })?;
        Record::read(&dir).doing("read the record of a snapshot", self.snapshot_path(id))
    }

    /// When a published snapshot was made, in milliseconds since 1970.
    pub fn created_ms(&self, id: &Key) -> Result<u64, StoreError> {
        match self.index()?.created_ms(id)? {
            Some(created_ms) => Ok(created_ms),
            None => Ok(self.snapshot_record(id)?.created_ms),
        }
    }

    /// The ids of all published snapshots.
    pub fn snapshots(&self) -> Result<Vec<Key>, StoreError> {
        let entries = self
            .inner
            .snapshots
            .entries()
            .doing("list the snapshots", self.inner.path.join("snapshots"))?;
        Ok(entries
            .iter()
            .filter_map(|entry| entry.name.to_str()?.parse().ok())
            .collect())
    }

    /// The result that a key has, if the index knows one and all of its snapshots are here.
    pub fn result(&self, key: &Key) -> Result<Option<OpRecord>, StoreError> {
        self.result_where(key, |id| self.has_snapshot(id))
    }

    /// The same for someone who knows of some snapshots that they are here.
    pub fn result_where(
        &self,
        key: &Key,
        is_here: impl Fn(&Key) -> bool,
    ) -> Result<Option<OpRecord>, StoreError> {
        let record = self.index()?.op(key)?;
        Ok(record.filter(|record| record.layers.iter().all(is_here)))
    }

    /// Puts a snapshot's record beside its files, before both are published.
    pub(crate) fn write_record(&self, record: &Record, scratch: &TmpDir) -> Result<(), StoreError> {
        record
            .write(scratch.dir())
            .doing("write the record of a snapshot", scratch.path())
    }

    /// Moves a snapshot, synced before, to its place, and keeps it from being deleted. What finds another one in its
    /// place comes back.
    pub(crate) fn publish_snapshot(
        &self,
        id: &Key,
        scratch: TmpDir,
    ) -> Result<Result<Lease, TmpDir>, StoreError> {
        scratch
            .publish(&self.inner.snapshots, &id.to_string())
            .doing("publish a snapshot", self.snapshot_path(id))
    }

    /// Makes sure that everything written to the store's file system survives a power loss.
    pub(crate) fn sync_all(&self) -> Result<(), StoreError> {
        self.inner
            .snapshots
            .sync_file_system()
            .doing("sync the store", self.path())
    }

    /// Makes sure that the names of published snapshots survive a power loss.
    pub(crate) fn sync_snapshots(&self) -> Result<(), StoreError> {
        self.inner
            .snapshots
            .sync()
            .doing("sync the snapshots", self.path().join("snapshots"))
    }

    /// Takes how many bytes of blobs were stored since this was asked last.
    fn written_bytes(&self) -> u64 {
        self.inner.written.swap(0, Ordering::Relaxed)
    }

    /// The directory of the store.
    pub(crate) fn top(&self) -> &Dir {
        &self.inner.top
    }

    /// One of the directories in which nothing ever is, made if it is not there.
    pub(crate) fn empty_dir(&self, name: &str) -> Result<Dir, StoreError> {
        let make = || {
            self.inner
                .top
                .ensure_dir("empty", 0o700)?
                .ensure_dir(name, 0o755)
        };
        make().doing("make an empty directory", self.path().join("empty"))
    }
}

fn read_version(top: &Dir) -> std::io::Result<Option<String>> {
    match top.open_file("version") {
        Ok(file) => {
            let mut text = String::new();
            file.take(64).read_to_string(&mut text)?;
            Ok(Some(text.trim_end().to_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a new store, or finishes one whose making was cut short; `version` comes last.
fn create(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(path).doing("make the store", path)?;
    let top = Dir::open_trusted(path).doing("open the store", path)?;
    let foreign = top
        .entries()
        .doing("read the store", path)?
        .into_iter()
        .any(|entry| {
            let name = entry.name.to_string_lossy();
            !DIRECTORIES.contains(&name.as_ref())
                && !name.starts_with("version")
                && !name.starts_with("owners")
                && !name.starts_with("index.sqlite")
        });
    if foreign {
        return Err(StoreError::NotAStore {
            path: path.to_owned(),
        });
    }
    for name in DIRECTORIES {
        private
            .create(path.join(name))
            .doing("make the store", path.join(name))?;
    }
    let write = || {
        use std::io::Write;
        // Not by the process id: every engine child is the first of its namespace.
        let name = format!("version.{}", tmp::new_name()?);
        let mut file = top.create_file(&name, 0o600)?;
        writeln!(file, "{LAYOUT}")?;
        file.sync_all()?;
        top.rename(&name, &top, "version")?;
        top.sync()
    };
    write().doing("write the store's version", path.join("version"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_store_is_made_once_and_opened_again() {
        let dir = TempDir::new();
        let path = dir.path().join("new/store");
        drop(Store::open(&path).unwrap());
        let again = Store::open(&path).unwrap();
        assert_eq!(again.path(), path);
        assert_eq!(
            std::fs::read_to_string(path.join("version")).unwrap(),
            "1\n"
        );
    }

    #[test]
    fn several_make_one_store_at_once() {
        let dir = TempDir::new();
        let path = dir.path().join("store");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Store::open(&path).unwrap());
            }
        });
    }

    #[test]
    fn a_store_whose_making_was_cut_short_is_finished() {
        let dir = TempDir::new();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        Store::open(dir.path()).unwrap();
        assert!(dir.path().join("tmp").is_dir());
    }

    #[test]
    fn other_directories_and_other_layouts_are_refused() {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::NotAStore { .. })
        ));
        let dir = TempDir::new();
        std::fs::write(dir.path().join("version"), "2\n").unwrap();
        assert!(
            matches!(Store::open(dir.path()), Err(StoreError::OtherVersion { found, .. }) if found == "2")
        );
    }
}
