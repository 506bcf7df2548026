//! File trees in layers. A snapshot is one layer: the directory `fs/` of what one step changed, in the form of an overlay's
//! upper directory. A tree is a list of snapshots, the bottom first.
//!
//! ```text
//! prepare(below) -> Active      a tree that can be written to
//!   .settle()    -> Settled     closed; what changed is in upper()
//! commit(settled, record)       can be a lower at once; published later, many with one sync
//! flush()                       all that was committed is published and survives a power loss
//! mount(layers)  -> Mounted     a tree that can only be read
//! ```
//!
//! Two ways to put a tree together implement [`Snapshots`]: [`overlay`], and [`copy`] for places where there is no overlay
//! to be had. Nothing outside needs to know which it is.

pub mod apply;
pub mod copy;
pub mod diff;
pub mod lower;
pub mod overlay;
mod publish;
pub mod top;
pub mod verify;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{Fields, Key};
use crate::engine::exec::Shift;
use crate::engine::tree::transfer::{Dress, NewOwner};
use crate::store::{Lease, Record, Store, StoreError, TmpDir};
use crate::sys::dir::{Dir, path_of_fd};
use crate::sys::overlay::{LOWERS_MAX, Syncs, attach, detach};
use crate::sys::root::{Root, Scope};
use publish::Publisher;

/// Names a snapshot.
pub type SnapshotId = Key;

/// A snapshot cannot be made or used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SnapshotError {
    /// The store says so.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// The tree cannot be put together.
    #[error("cannot put {layers} layers together into one tree")]
    #[diagnostic(
        code(snapshot::mount),
        help("`shmocker doctor` says what this machine offers")
    )]
    Mount {
        /// How many.
        layers: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file of the tree cannot be read or written.
    #[error("cannot {what}: {}", path.display())]
    #[diagnostic(code(snapshot::io))]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// What was committed could not be published; it was said once already.
    #[error("results could not be written to the store: {0}")]
    #[diagnostic(code(snapshot::publish))]
    Publish(String),
}

fn io_at<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// A way to put layers together.
pub trait Snapshots: Send + Sync + std::fmt::Debug {
    /// Makes a tree that can be written to, the bottom layer first. `scratch` is empty and lives as long as the tree.
    fn writable(
        &self,
        layers: &[Arc<Dir>],
        scratch: &TmpDir,
        syncs: Syncs,
    ) -> Result<(Mounted, Changes), SnapshotError>;

    /// Makes a tree that can only be read, the bottom layer first; at least one.
    fn readable(&self, layers: &[Arc<Dir>]) -> Result<Mounted, SnapshotError>;

    /// How many layers one tree can have.
    fn layers_max(&self) -> usize;
}

/// How the changes to a writable tree are found when it is closed.
#[derive(Debug)]
pub enum Changes {
    /// They are in the upper directory already.
    InUpper,
    /// The tree is compared with what it was.
    Compared(copy::Before),
}

/// A tree put together. It lives until this is dropped.
#[derive(Debug)]
pub struct Mounted {
    mount: OwnedFd,
    top: Dir,
    /// What a mount by itself does not keep alive.
    _held: Option<Arc<TmpDir>>,
}

impl AsFd for Mounted {
    /// The detached mount: for `move_mount`, and for paths relative to it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

impl Mounted {
    fn new(mount: OwnedFd, held: Option<Arc<TmpDir>>) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::openat(&mount, c".", flags, Mode::empty())?.into();
        Ok(Self {
            mount,
            top,
            _held: held,
        })
    }

    /// Its topmost directory.
    #[must_use]
    pub fn top(&self) -> &Dir {
        &self.top
    }

    /// The tree, so that no path leads out of it.
    pub fn root(&self) -> io::Result<Root> {
        Ok(Root::new(self.top.try_clone()?.into(), Scope::Image))
    }

    /// A path that this process, and only this one, can use for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        path_of_fd(&self.mount)
    }
}

/// A tree that is being written to. Dropped before it is settled, it never was.
#[derive(Debug)]
pub struct Active {
    mounted: Option<Mounted>,
    attached: Option<PathBuf>,
    changes: Changes,
    below: Vec<SnapshotId>,
    upper: Arc<Dir>,
    scratch: TmpDir,
}

/// A closed tree: what changed is known, and is not yet a snapshot. Dropped, it never was.
#[derive(Debug)]
pub struct Settled {
    below: Vec<SnapshotId>,
    upper: Arc<Dir>,
    scratch: TmpDir,
}

/// The directory of a scratch directory that becomes the snapshot's `fs/`.
const UPPER: &str = "fs";
/// The directory in which an overlay works.
const WORK: &str = "work";
/// Where a tree is mounted when something needs a path.
const ROOT: &str = "root";

impl Active {
    /// The tree.
    ///
    /// # Panics
    /// Never: the mount is there until this is settled.
    #[must_use]
    pub fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("mounted until settled")
    }

    /// The snapshots below, bottom first.
    #[must_use]
    pub fn below(&self) -> &[SnapshotId] {
        &self.below
    }

    /// Mounts the tree at a path that every process in this mount namespace can use, and returns it.
    pub fn attach(&mut self) -> Result<PathBuf, SnapshotError> {
        if let Some(path) = &self.attached {
            return Ok(path.clone());
        }
        let path = self.scratch.path().join(ROOT);
        let mount = || {
            self.scratch.dir().ensure_dir(ROOT, 0o700)?;
            attach(self.mounted(), &path)
        };
        mount().map_err(io_at("mount a tree", &path))?;
        self.attached = Some(path.clone());
        Ok(path)
    }

    /// Closes the tree and finds out what changed. Nothing may use it any more.
    pub fn settle(mut self) -> Result<Settled, SnapshotError> {
        let path = self.scratch.path();
        if let Some(attached) = self.attached.take() {
            detach(&attached).map_err(io_at("unmount a tree", &attached))?;
        }
        let mounted = self.mounted.take();
        let finish = || -> io::Result<()> {
            drop(mounted);
            if let Changes::Compared(before) = &self.changes {
                let tree = self.scratch.dir().open_dir(copy::TREE)?;
                copy::gather_changes(&tree, before, &self.upper)?;
            }
            for name in [WORK, ROOT, copy::TREE] {
                self.scratch.dir().remove_tree(name)?;
            }
            Ok(())
        };
        finish().map_err(io_at("close a tree", &path))?;
        Ok(Settled {
            below: self.below,
            upper: self.upper,
            scratch: self.scratch,
        })
    }

    /// Closes the tree and keeps it as it is, to be opened again by [`SnapshotStore::prepare_in`]. `None`: it cannot be kept,
    /// because it is a copy.
    pub fn keep(mut self) -> Option<TmpDir> {
        if let Some(attached) = self.attached.take() {
            detach(&attached).ok()?;
        }
        drop(self.mounted.take());
        if !matches!(self.changes, Changes::InUpper) {
            return None;
        }
        for name in [WORK, ROOT] {
            self.scratch.dir().remove_tree(name).ok()?;
        }
        Some(self.scratch)
    }

    /// Forgets it.
    pub fn discard(self) {
        if let Some(attached) = &self.attached {
            // The engine's mount namespace ends with it, and the mount with that.
            let _ = detach(attached);
        }
    }
}

impl Settled {
    /// What changed, in the form of an overlay's upper directory.
    #[must_use]
    pub fn upper(&self) -> &Dir {
        &self.upper
    }

    /// Where that is; only until it is committed or dropped.
    #[must_use]
    pub fn upper_path(&self) -> PathBuf {
        self.scratch.path().join(UPPER)
    }

    /// The snapshots below, bottom first.
    #[must_use]
    pub fn below(&self) -> &[SnapshotId] {
        &self.below
    }
}

/// What is said of a snapshot when it is committed; the rest of its [`Record`] follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub id: SnapshotId,
    /// The key of the op whose result it is, on those below; `None` where it is only a part of a result.
    pub key: Option<Key>,
    /// What that key is made from.
    pub fields: Fields,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// How long that took.
    pub duration_ms: u64,
    /// The instruction or source that it comes from, for people.
    pub what: String,
}

impl Made {
    /// What was made elsewhere, and is the same here.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            key: record.key,
            fields: record.fields.clone(),
            created_ms: record.created_ms,
            duration_ms: record.duration_ms,
            what: record.what.clone(),
        }
    }
}

/// The snapshots of a store, for one engine.
#[derive(Debug)]
pub struct SnapshotStore {
    store: Store,
    way: Box<dyn Snapshots>,
    fallback: Option<String>,
    publisher: Publisher,
    /// Published snapshots that this engine has used: they are not deleted while it lives.
    leases: Mutex<HashMap<SnapshotId, Lease>>,
}

/// Which way to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Overlay where it can be had.
    Best,
    /// Copies, whatever can be had.
    Copy,
}

impl SnapshotStore {
    /// Opens the snapshots of a store.
    pub fn open(store: &Store, choice: Choice) -> Result<Self, SnapshotError> {
        let (way, fallback): (Box<dyn Snapshots>, _) = match choice {
            Choice::Copy => (Box::new(copy::Copies::new(store)), None),
            Choice::Best => match overlay::Overlays::try_new(store) {
                Ok(overlays) => (Box::new(overlays), None),
                Err(reason) => (Box::new(copy::Copies::new(store)), Some(reason)),
            },
        };
        Ok(Self {
            store: store.clone(),
            way,
            fallback,
            publisher: Publisher::start(store)?,
            leases: Mutex::default(),
        })
    }

    /// Why trees are copied and not overlaid, if they are: worth one warning.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// A tree of the layers `below`, bottom first, that can be written to. It is synced when it is published, not before:
    /// package managers sync each of some thousand files.
    pub fn prepare(&self, below: &[SnapshotId]) -> Result<Active, SnapshotError> {
        self.active(below, self.store.tmp_dir()?, Syncs::Ignored)
    }

    /// The same, in a directory that may be one that was used before, and may be again: what was written there is there again.
    pub fn prepare_in(
        &self,
        below: &[SnapshotId],
        scratch: TmpDir,
    ) -> Result<Active, SnapshotError> {
        self.active(below, scratch, Syncs::Waited)
    }

    fn active(
        &self,
        below: &[SnapshotId],
        scratch: TmpDir,
        syncs: Syncs,
    ) -> Result<Active, SnapshotError> {
        let layers = self.layers(below)?;
        let upper = || -> io::Result<Dir> {
            if scratch.dir().find(UPPER)?.is_some() {
                return scratch.dir().open_dir(UPPER);
            }
            let upper = scratch.dir().create_dir(UPPER, 0o755)?;
            // The top of a tree is the top of its topmost layer.
            match layers.last() {
                Some(top) => {
                    let seen = top.own_metadata()?;
                    upper.set_own_owner(seen.uid, seen.gid)?;
                    upper.set_own_mode(seen.mode)?;
                    upper.set_own_times(seen.modified, seen.modified)?;
                }
                None => {
                    upper.set_own_mode(0o755)?;
                }
            }
            Ok(upper)
        };
        let upper = Arc::new(upper().map_err(io_at("make a layer", &scratch.path()))?);
        let (mounted, changes) = self.way.writable(&layers, &scratch, syncs)?;
        Ok(Active {
            mounted: Some(mounted),
            attached: None,
            changes,
            below: below.to_vec(),
            upper,
            scratch,
        })
    }

    /// An empty layer to be filled without being mounted, as when an image's layer is unpacked.
    pub fn prepare_layer(&self, below: &[SnapshotId]) -> Result<Settled, SnapshotError> {
        let scratch = self.store.tmp_dir()?;
        let upper = || -> io::Result<Dir> {
            let upper = scratch.dir().create_dir(UPPER, 0o755)?;
            upper.set_own_mode(0o755)?;
            Ok(upper)
        };
        let upper = Arc::new(upper().map_err(io_at("make a layer", &scratch.path()))?);
        Ok(Settled {
            below: below.to_vec(),
            upper,
            scratch,
        })
    }

    /// A tree of layers, bottom first, that can only be read.
    pub fn mount(&self, layers: &[SnapshotId]) -> Result<Mounted, SnapshotError> {
        self.way.readable(&self.layers(layers)?)
    }

    /// Makes a closed tree's changes a snapshot. It can be used at once; it is published soon, or by [`SnapshotStore::flush`].
    pub fn commit(&self, settled: Settled, made: Made) -> Result<SnapshotId, SnapshotError> {
        self.commit_holding(settled, made, None)
    }

    /// As [`commit`](Self::commit). `held` is let go when the snapshot is published, so that whoever waits for it finds
    /// the result.
    pub fn commit_holding(
        &self,
        settled: Settled,
        made: Made,
        held: Option<Lease>,
    ) -> Result<SnapshotId, SnapshotError> {
        let id = made.id;
        if made.key.is_some() {
            self.store.index()?.forget_former(&id)?;
        }
        let record = Record {
            id,
            below: settled.below,
            key: made.key,
            fields: made.fields,
            created_ms: made.created_ms,
            duration_ms: made.duration_ms,
            what: made.what,
        };
        self.publisher
            .publish(record, settled.upper, settled.scratch, held)?;
        Ok(id)
    }

    /// Waits until all that was committed is published, and synced.
    pub fn flush(&self) -> Result<(), SnapshotError> {
        self.publisher.flush()
    }

    /// A snapshot's `fs/`, published or not.
    pub fn layer(&self, id: &SnapshotId) -> Result<Arc<Dir>, SnapshotError> {
        if let Some(upper) = self.publisher.upper(id) {
            return Ok(upper);
        }
        if !self.hold(id)? {
            return Err(StoreError::NoSuchSnapshot { id: *id }.into());
        }
        let path = self.store.snapshot_path(id).join(UPPER);
        Ok(Arc::new(
            Dir::open_trusted(&path).map_err(io_at("open a layer", &path))?,
        ))
    }

    /// Whether a snapshot can be used: it is published, or was committed by this engine. If so, it can be as long as this
    /// engine lives.
    #[must_use]
    pub fn has(&self, id: &SnapshotId) -> bool {
        self.publisher.upper(id).is_some() || self.hold(id).unwrap_or(false)
    }

    /// Whether all of these can be used.
    #[must_use]
    pub fn have(&self, ids: &[SnapshotId]) -> bool {
        ids.iter().all(|id| self.has(id))
    }

    /// Keeps a published snapshot from being deleted while this engine lives; false where there is none.
    fn hold(&self, id: &SnapshotId) -> Result<bool, StoreError> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.contains_key(id) {
            return Ok(true);
        }
        let lease = self.store.lease_snapshot(id)?;
        Ok(lease.map(|lease| leases.insert(*id, lease)).is_some())
    }

    /// The layers of a tree; where they are more than one mount can have, the lower ones are made one, once.
    fn layers(&self, ids: &[SnapshotId]) -> Result<Vec<Arc<Dir>>, SnapshotError> {
        let most = self.way.layers_max();
        let mut ids = ids.to_vec();
        while ids.len() > most {
            let lower = most * 4 / 5;
            let flat = self.flatten(&ids[..lower])?;
            ids.splice(..lower, [flat]);
        }
        ids.iter().map(|id| self.layer(id)).collect()
    }

    /// A tree's files with their owners shifted, as one layer: made once and kept. `announce` hears when it has to be made,
    /// which takes as long as copying all of it.
    pub fn shifted(
        &self,
        ids: &[SnapshotId],
        shift: Shift,
        announce: impl FnOnce(),
    ) -> Result<SnapshotId, SnapshotError> {
        let mut fields = Fields::new();
        fields.put("op", "shift");
        shift.put(&mut fields);
        for id in ids {
            fields.put("layer", id.to_string());
        }
        let id = fields.key();
        if self.has(&id) {
            return Ok(id);
        }
        let lock = self.store.lock(&format!("shifted {id}"))?;
        if self.has(&id) {
            return Ok(id);
        }
        announce();
        let tree = self.mount(ids)?;
        let whole = self.prepare_layer(&[])?;
        let path = whole.upper_path();
        let dress = Dress {
            owner: NewOwner::Shifted(shift),
            ..Dress::default()
        };
        copy::copy_tree_dressed(tree.top(), whole.upper(), &dress)
            .map_err(io_at("copy the image for its user", &path))?;
        let made = Made {
            id,
            key: None,
            fields,
            created_ms: 0,
            duration_ms: 0,
            what: "an image with shifted owners".to_owned(),
        };
        self.commit_holding(whole, made, Some(lock))
    }

    fn flatten(&self, ids: &[SnapshotId]) -> Result<SnapshotId, SnapshotError> {
        let mut fields = Fields::new();
        fields.put("op", "flatten");
        for id in ids {
            fields.put("layer", id.to_string());
        }
        let id = fields.key();
        if self.has(&id) {
            return Ok(id);
        }
        let tree = self.mount(ids)?;
        let whole = self.prepare_layer(&[])?;
        let path = whole.upper_path();
        copy::copy_tree(tree.top(), whole.upper()).map_err(io_at("make many layers one", &path))?;
        let made = Made {
            id,
            key: None,
            fields,
            created_ms: 0,
            duration_ms: 0,
            what: "many layers made one".to_owned(),
        };
        self.commit(whole, made)
    }
}

/// The most layers of one overlay, with room for the upper and an empty one.
const OVERLAY_LAYERS_MAX: usize = LOWERS_MAX - 2;

#[cfg(test)]
mod tests;
