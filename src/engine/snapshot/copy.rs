//! Trees as copies, where there is no overlay to be had: the layers are laid one over another into one directory, and
//! when the tree is closed it is compared with what it was. Slower and larger, with blocks shared where the file system
//! can. Its results are the same as an overlay's: upper directories.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Changes, Mounted, SnapshotError, Snapshots, io_at};
use crate::engine::tree::transfer::{Dress, Links, Place, copy_entry, dress_dir, dress_dir_times};
use crate::store::{Store, TmpDir};
use crate::sys::dir::{Dir, DirEntry, Kind, Metadata, Time};
use crate::sys::overlay::{Syncs, is_opaque, is_whiteout, make_opaque, make_whiteout};
use crate::sys::root::{Root, Scope};

/// The directory of a scratch directory in which the layers are laid out.
pub(super) const TREE: &str = "tree";

/// Copies on the store's file system.
#[derive(Debug)]
pub struct Copies {
    store: Store,
    /// What was laid out to be read, by the device and inode of each layer.
    laid: Mutex<HashMap<Vec<Inode>, Arc<TmpDir>>>,
}

/// Device and inode.
type Inode = (u64, u64);

/// What a tree was before it was written to: of each directory, by its path, the entries.
#[derive(Debug, Default)]
pub struct Before(HashMap<PathBuf, BTreeMap<OsString, Seen>>, Option<Seen>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    ino: u64,
    changed: Time,
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        Self {
            kind: metadata.kind,
            ino: metadata.ino,
            changed: metadata.changed,
        }
    }
}

impl Copies {
    /// Copies on a store's file system.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            laid: Mutex::default(),
        }
    }
}

impl Snapshots for Copies {
    fn writable(
        &self,
        layers: &[Arc<Dir>],
        scratch: &TmpDir,
        _: Syncs,
    ) -> Result<(Mounted, Changes), SnapshotError> {
        let path = scratch.path();
        let used = scratch.dir().find(TREE).is_ok_and(|tree| tree.is_some());
        let tree = match used {
            // Of a habitat that was stopped.
            true => scratch.dir().open_dir(TREE),
            false => lay_all(layers, scratch),
        };
        let tree = tree.map_err(io_at("copy the layers", &path))?;
        let before = look(&tree).map_err(io_at("read the copied layers", &path))?;
        let mounted = as_mount(&tree)
            .and_then(|mount| Mounted::new(mount, None))
            .map_err(io_at("open a tree", &path))?;
        Ok((mounted, Changes::Compared(before)))
    }

    fn readable(&self, layers: &[Arc<Dir>]) -> Result<Mounted, SnapshotError> {
        let path = self.store.path();
        let mut name = Vec::with_capacity(layers.len());
        for layer in layers {
            let metadata = layer.own_metadata().map_err(io_at("read a layer", path))?;
            name.push((metadata.dev, metadata.ino));
        }
        let mut laid = self.laid.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = match laid.get(&name) {
            Some(scratch) => scratch.clone(),
            None => {
                let scratch = Arc::new(self.store.tmp_dir()?);
                lay_all(layers, &scratch).map_err(io_at("copy the layers", path))?;
                laid.insert(name, scratch.clone());
                scratch
            }
        };
        drop(laid);
        scratch
            .dir()
            .open_dir(TREE)
            .and_then(|tree| Mounted::new(as_mount(&tree)?, Some(scratch.clone())))
            .map_err(io_at("open a tree", &scratch.path()))
    }

    fn layers_max(&self) -> usize {
        usize::MAX
    }
}

fn lay_all(layers: &[Arc<Dir>], scratch: &TmpDir) -> io::Result<Dir> {
    let tree = scratch.dir().create_dir(TREE, 0o755)?;
    tree.set_own_mode(0o755)?;
    for layer in layers {
        copy_tree(layer, &tree)?;
    }
    Ok(tree)
}

/// A mount of a directory that is attached nowhere; where mounts are not allowed, the directory itself.
fn as_mount(tree: &Dir) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    match open_tree(tree, c"", flags) {
        Ok(mount) => Ok(mount),
        Err(_) => tree.as_fd().try_clone_to_owned(),
    }
}

struct Level {
    from: Dir,
    to: Dir,
    seen: Metadata,
    path: PathBuf,
    entries: std::vec::IntoIter<DirEntry>,
}

impl Level {
    fn enter(from: Dir, to: Dir, path: PathBuf, dress: &Dress) -> io::Result<Self> {
        let seen = from.own_metadata()?;
        dress_dir(&from, &seen, &to, dress)?;
        let entries = from.entries()?.into_iter();
        Ok(Self {
            from,
            to,
            seen,
            path,
            entries,
        })
    }
}

/// Lays a tree over another one, everything kept. Where the first is a layer, its marks of removal are obeyed.
pub fn copy_tree(from: &Dir, to: &Dir) -> io::Result<()> {
    copy_tree_dressed(from, to, &Dress::default())
}

/// As [`copy_tree`], everything dressed anew.
pub fn copy_tree_dressed(from: &Dir, to: &Dir, dress: &Dress) -> io::Result<()> {
    let root = Root::new(to.try_clone()?.into(), Scope::Image);
    let mut links = Links::default();
    let mut levels = vec![Level::enter(
        from.try_clone()?,
        to.try_clone()?,
        PathBuf::new(),
        dress,
    )?];
    while let Some(level) = levels.last_mut() {
        let Some(DirEntry { name, .. }) = level.entries.next() else {
            dress_dir_times(&level.seen, &level.to, dress)?;
            levels.pop();
            continue;
        };
        let seen = level.from.metadata(&name)?;
        let path = level.path.join(&name);
        if is_whiteout(&level.from, &name, &seen)? {
            level.to.remove_tree(&name)?;
        } else if seen.is_dir() {
            let within = level.from.open_dir(&name)?;
            let there = level.to.find(&name)?;
            if there.is_some_and(|there| !there.is_dir())
                || (there.is_some() && is_opaque(&within)?)
            {
                level.to.remove_tree(&name)?;
            }
            let to = level.to.ensure_dir(&name, 0o700)?;
            levels.push(Level::enter(within, to, path, dress)?);
        } else {
            level.to.remove_tree(&name)?;
            let place = Place {
                root: &root,
                dir: &level.to,
                name: &name,
                path: &path,
            };
            copy_entry(&level.from, &name, &seen, place, dress, &mut links)?;
        }
    }
    Ok(())
}

/// Remembers what a tree is like.
fn look(tree: &Dir) -> io::Result<Before> {
    let mut before = Before(HashMap::new(), Some(Seen::from(&tree.own_metadata()?)));
    let mut left = vec![(tree.try_clone()?, PathBuf::new())];
    while let Some((dir, path)) = left.pop() {
        let mut entries = BTreeMap::new();
        for entry in dir.entries()? {
            let seen = Seen::from(&dir.metadata(&entry.name)?);
            if seen.kind == Kind::Dir {
                left.push((dir.open_dir(&entry.name)?, path.join(&entry.name)));
            }
            entries.insert(entry.name, seen);
        }
        before.0.insert(path, entries);
    }
    Ok(before)
}

/// Moves all that is new or changed in a tree into an upper directory, and marks what is gone.
pub(super) fn gather_changes(tree: &Dir, before: &Before, upper: &Dir) -> io::Result<()> {
    let mut levels = vec![Level::enter(
        tree.try_clone()?,
        upper.try_clone()?,
        PathBuf::new(),
        &Dress::default(),
    )?];
    while let Some(level) = levels.last_mut() {
        let was = before.0.get(&level.path);
        let Some(DirEntry { name, .. }) = level.entries.next() else {
            let mut empty = level.to.entries()?.is_empty();
            for name in was.into_iter().flat_map(BTreeMap::keys) {
                if level.from.find(name)?.is_none() && level.to.find(name)?.is_none() {
                    make_whiteout(&level.to, name)?;
                    empty = false;
                }
            }
            dress_dir_times(&level.seen, &level.to, &Dress::default())?;
            let unchanged = seen_before(before, &level.path) == Some(Seen::from(&level.seen));
            let name = level.path.file_name().map(OsStr::to_owned);
            levels.pop();
            if let (true, Some(above), Some(name)) = (empty && unchanged, levels.last(), name) {
                above.to.remove_dir(&name)?;
            }
            continue;
        };
        let seen = level.from.metadata(&name)?;
        match was.and_then(|was| was.get(&name)) {
            Some(old) if old.kind == Kind::Dir && seen.is_dir() && old.ino == seen.ino => {
                let (from, to) = (
                    level.from.open_dir(&name)?,
                    level.to.create_dir(&name, 0o700)?,
                );
                let path = level.path.join(&name);
                levels.push(Level::enter(from, to, path, &Dress::default())?);
            }
            Some(old) if *old == Seen::from(&seen) => {}
            old => {
                level.from.rename(&name, &level.to, &name)?;
                if old.is_some_and(|old| old.kind == Kind::Dir) && seen.is_dir() {
                    make_opaque(&level.to.open_dir(&name)?)?;
                }
            }
        }
    }
    Ok(())
}

fn seen_before(before: &Before, path: &Path) -> Option<Seen> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => before.0.get(parent)?.get(name).copied(),
        _ => before.1,
    }
}
