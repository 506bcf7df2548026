//! Deletes what nothing needs any more, the longest unused first.
//!
//! ```text
//! locks/       held exclusively: one process deletes at a time
//! snapshots/   held shared by whoever looks up results without holding each of them, exclusively while things are moved away
//! each thing   held shared by whoever uses it; what cannot be held exclusively stays
//! tmp/         where it is moved to, and deleted: what a killed process has left there anybody may delete
//! ```
//! So whatever ends this process, each thing is whole in its place, or gone. The index may know of results that are gone;
//! whoever finds them looks whether they are there.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::census::{Measured, Number};
use super::filter::Filter;
use super::inventory::{Disk, Entry, Inventory, Keeper, Place, RecordType};
use super::lock::{Lease, flock, is_still};
use super::measure::tree_bytes;
use super::{Doing, Store, StoreError};
use crate::digest::{Digest, Key};
use crate::sys::dir::{Dir, Kind};

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u8),
}

impl Space {
    pub(super) fn bytes(self, disk: Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.total_bytes / 100 * u64::from(percent),
        }
    }
}

/// What is to be deleted. By itself: all that no image with a name, no last build of a project and nobody at work needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prune {
    /// Also what last builds need.
    pub all: bool,
    /// Only what all of these accept.
    pub filters: Vec<Filter>,
    /// Only until no more than this is left.
    pub max_used: Option<Space>,
    /// Only until so much of the disk is free.
    pub min_free: Option<Space>,
    /// So much may always stay.
    pub reserved: Option<Space>,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// In the order in which it was.
    pub removed: Vec<Removed>,
    /// What it took of the disk.
    pub removed_bytes: u64,
    /// What is left.
    pub total_bytes: u64,
}

/// Something that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What named it.
    pub id: String,
    /// Its type's name.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it took of the disk.
    pub size_bytes: u64,
    /// For people.
    pub description: String,
}

impl Prune {
    /// How much may stay; `None`: nothing that matches has to.
    fn keep_bytes(&self, total_bytes: u64, disk: Disk) -> Option<u64> {
        if self.max_used.is_none() && self.min_free.is_none() && self.reserved.is_none() {
            return None;
        }
        let bytes = |space: Option<Space>| space.map(|space| space.bytes(disk));
        let free = bytes(self.min_free);
        let mut keep = match (bytes(self.max_used), free) {
            (Some(max), _) => max,
            (None, Some(_)) => total_bytes,
            (None, None) => 0,
        };
        let missing = free.unwrap_or(0).saturating_sub(disk.free_bytes);
        if missing > 0 {
            keep = keep.min(total_bytes.saturating_sub(missing));
        }
        Some(keep.max(bytes(self.reserved).unwrap_or(0)))
    }
}

impl Entry {
    /// Nothing at all refers to it.
    pub(super) fn is_orphan(&self) -> bool {
        self.kind == RecordType::Internal
            && matches!(self.place, Place::Blob(_) | Place::Snapshot(_))
    }

    /// It was put aside.
    pub(super) fn is_damaged(&self) -> bool {
        matches!(self.place, Place::In("blobs/damaged" | ".", _))
    }

    /// Whether it may be deleted at all.
    fn may_go(&self, all: bool) -> bool {
        // What a habitat has written is taken down with it.
        !matches!(self.place, Place::In("habitats", _))
            && match self.keeper {
                None => true,
                Some(Keeper::LastBuild) => all,
                Some(Keeper::Running | Keeper::Habitat | Keeper::Image) => false,
            }
    }
}

/// What of the entries goes, the longest unused first. What lies on something that goes, goes with it.
pub(super) fn choose(
    inventory: &Inventory,
    wish: &Prune,
    now_ms: u64,
    accepts: &dyn Fn(&Entry) -> bool,
) -> Vec<usize> {
    let entries = &inventory.entries;
    let accepted = |entry: &Entry| {
        accepts(entry)
            && wish
                .filters
                .iter()
                .all(|filter| filter.accepts(entry, now_ms))
    };
    let mut candidates: Vec<usize> = (0..entries.len())
        .filter(|at| entries[*at].may_go(wish.all) && accepted(&entries[*at]))
        .collect();
    candidates.sort_by_key(|at| {
        let entry = &entries[*at];
        (entry.used_ms, std::cmp::Reverse(entry.depth), *at)
    });
    let mut total = inventory.total_bytes();
    let keep = wish.keep_bytes(total, inventory.disk);
    let mut chosen = Vec::new();
    for at in candidates {
        if keep.is_some_and(|keep| total <= keep) {
            break;
        }
        total = total.saturating_sub(entries[at].size.unwrap_or(0));
        chosen.push(at);
    }
    with_dependents(inventory, wish.all, chosen)
}

/// A tree without its bottom, an image without a layer are nothing.
fn with_dependents(inventory: &Inventory, all: bool, mut chosen: Vec<usize>) -> Vec<usize> {
    let entries = &inventory.entries;
    let mut is_chosen = vec![false; entries.len()];
    let mut gone: HashSet<&Place> = HashSet::new();
    for at in &chosen {
        is_chosen[*at] = true;
        gone.insert(&entries[*at].place);
    }
    let mut by_depth: Vec<usize> = (0..entries.len()).collect();
    by_depth.sort_by_key(|at| entries[*at].depth);
    for at in by_depth {
        let entry = &entries[at];
        let hangs = entry
            .parent
            .is_some_and(|parent| gone.contains(&Place::Snapshot(parent)));
        if hangs && !is_chosen[at] && entry.may_go(all) {
            is_chosen[at] = true;
            gone.insert(&entry.place);
            chosen.push(at);
        }
    }
    for (at, entry) in entries.iter().enumerate() {
        if is_chosen[at] || !entry.may_go(all) {
            continue;
        }
        let Place::Image(name) = &entry.place else {
            continue;
        };
        let image = inventory.images.iter().find(|(known, ..)| known == name);
        let is_broken = image.is_some_and(|(_, _, blobs, layers)| {
            blobs.iter().any(|blob| gone.contains(&Place::Blob(*blob)))
                || layers
                    .iter()
                    .any(|layer| gone.contains(&Place::Snapshot(*layer)))
        });
        if is_broken {
            chosen.push(at);
        }
    }
    chosen
}

impl Store {
    /// Deletes what was asked for. Only the engine child may do that.
    pub(crate) fn prune(&self, wish: &Prune, now_ms: u64) -> Result<Pruned, StoreError> {
        let _alone = self.deleting(FlockOperation::LockExclusive)?;
        self.sweep_tmp()?;
        self.measure(now_ms, 0)?;
        if wish.dry_run {
            let inventory = self.inventory(now_ms)?;
            let chosen = choose(&inventory, wish, now_ms, &|_| true);
            let mut pruned = Pruned::default();
            chosen
                .iter()
                .for_each(|at| pruned.count(&inventory.entries[*at]));
            pruned.total_bytes = inventory.total_bytes().saturating_sub(pruned.removed_bytes);
            return Ok(pruned);
        }
        let nobody_looks = loop {
            let held = self.hold_directory("snapshots", FlockOperation::LockExclusive)?;
            if let Some(held) = held {
                break held;
            }
        };
        self.delete_chosen(nobody_looks, now_ms, |inventory| {
            choose(inventory, wish, now_ms, &|_| true)
        })
    }

    /// The right to move things away, if those who just look things up leave it soon.
    pub(super) fn soon_nobody_looks(&self) -> Result<Option<Lease>, StoreError> {
        const TRIES: u32 = 40;
        const PAUSE: Duration = Duration::from_millis(5);
        for _ in 0..TRIES {
            let way = FlockOperation::NonBlockingLockExclusive;
            if let Some(held) = self.hold_directory("snapshots", way)? {
                return Ok(Some(held));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// The right to delete, if nobody else has it.
    pub(super) fn try_deleting(&self) -> Result<Option<Lease>, StoreError> {
        self.deleting(FlockOperation::NonBlockingLockExclusive)
    }

    /// Nothing has to be made for it: it can be had on a full disk.
    fn deleting(&self, operation: FlockOperation) -> Result<Option<Lease>, StoreError> {
        self.hold_directory("locks", operation)
    }

    /// Keeps anything from being deleted, for a short time: for whoever looks things up without holding each of them.
    pub fn keep_all(&self) -> Result<Lease, StoreError> {
        loop {
            if let Some(lease) = self.hold_directory("snapshots", FlockOperation::LockShared)? {
                return Ok(lease);
            }
        }
    }

    fn hold_directory(
        &self,
        name: &str,
        operation: FlockOperation,
    ) -> Result<Option<Lease>, StoreError> {
        let hold = || -> io::Result<Option<Lease>> {
            let fd = self.top().open_dir(name)?;
            Ok(flock(&fd, operation)?.then(|| Lease::of(fd.into())))
        };
        hold().doing("take a lock", self.path().join(name))
    }

    /// Deletes what is chosen of all that is there. The right to do so is held by the caller.
    pub(super) fn delete_chosen(
        &self,
        nobody_looks: Lease,
        now_ms: u64,
        choose: impl FnOnce(&Inventory) -> Vec<usize>,
    ) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let mut moved = Vec::new();
        let mut snapshots: HashSet<Key> = HashSet::new();
        let mut blobs: HashSet<Digest> = HashSet::new();
        let mut files_left: u64 = 0;
        let mut stale: HashSet<Key>;
        {
            let _nobody_looks = nobody_looks;
            let inventory = self.inventory(now_ms)?;
            pruned.total_bytes = inventory.total_bytes();
            stale = inventory.stale.iter().copied().collect();
            for entry in &inventory.entries {
                if matches!(entry.place, Place::Blob(_) | Place::In("http", _)) {
                    files_left += entry.size.unwrap_or(0);
                }
            }
            files_left += inventory.index_bytes.saturating_sub(self.sqlite_bytes()?);
            let mut chosen = choose(&inventory);
            // A name goes before what it stands for: whatever ends this process, no image is left without a part of it.
            chosen.sort_by_key(|at| !matches!(inventory.entries[*at].place, Place::Image(_)));
            for at in chosen {
                let entry = &inventory.entries[at];
                let Some(names) = self.move_away(&entry.place)? else {
                    continue;
                };
                moved.extend(names);
                pruned.count(entry);
                pruned.total_bytes = pruned.total_bytes.saturating_sub(entry.size.unwrap_or(0));
                match &entry.place {
                    Place::Snapshot(id) => drop(snapshots.insert(*id)),
                    Place::Blob(_) | Place::In("http", _) => {
                        files_left = files_left.saturating_sub(entry.size.unwrap_or(0));
                        if let Place::Blob(digest) = entry.place {
                            blobs.insert(digest);
                        }
                    }
                    _ => {}
                }
            }
        }
        for name in &moved {
            // What cannot be deleted now is swept another time.
            drop(self.inner.tmp.remove_tree(name));
        }
        // After the deletion: on a full disk nothing could be written before.
        let index = self.index()?;
        stale.extend(&snapshots);
        StoreError::unless_unwritable(index.forget_snapshots(&stale))?;
        StoreError::unless_unwritable(index.forget_holders(&blobs))?;
        for removed in &pruned.removed {
            if removed.kind == RecordType::CacheMount.name() {
                StoreError::unless_unwritable(index.forget_thing("caches", &removed.id))?;
            }
        }
        self.forget_uses(|build| {
            let mut used = build.parts.iter().flat_map(|part| &part.snapshots);
            !used.any(|snapshot| snapshots.contains(snapshot))
        })?;
        StoreError::unless_unwritable(index.put_number(Number::FileBytes, files_left))?;
        Ok(pruned)
    }

    /// Moves something to `tmp/`, unless somebody uses it. Returns what it is called there.
    pub(super) fn move_away(&self, place: &Place) -> Result<Option<Option<String>>, StoreError> {
        let inner = &self.inner;
        let directory = |name: &str| Dir::open_trusted(self.path().join(name));
        let away = |from: &Dir, name: &str| -> io::Result<Option<Option<String>>> {
            let fd: OwnedFd = match from.find(name)? {
                None => return Ok(None),
                Some(seen) if seen.is_dir() => from.open_dir(name)?.into(),
                Some(seen) if seen.kind == Kind::File => from.open_file(name)?.into(),
                // Nobody can use what is neither.
                Some(_) => from.try_clone()?.into(),
            };
            if !flock(&fd, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(None);
            }
            let new = super::tmp::new_name()?;
            from.rename(name, &inner.tmp, &new)?;
            Ok(Some(Some(new)))
        };
        let moved = match place {
            Place::Snapshot(id) => away(&inner.snapshots, &id.to_string()),
            Place::Blob(digest) => away(&inner.blobs, &digest.hex()),
            Place::Image(name) => return Ok(self.remove_image(name)?.then_some(None)),
            Place::In("git", name) => directory("git").and_then(|mirrors| {
                // As those who use a mirror hold it.
                let lock = mirrors.open_file(format!("{name}.lock"));
                let free =
                    lock.map(|lock| (flock(&lock, FlockOperation::NonBlockingLockExclusive), lock));
                match free {
                    Ok((Ok(false), _)) => Ok(None),
                    _ => away(&mirrors, name),
                }
            }),
            Place::In(name, file) => directory(name).and_then(|dir| away(&dir, file)),
        };
        moved.doing("delete something that is not needed any more", self.path())
    }

    /// Measures all trees that were not, and again what changes and was not measured for so long.
    pub(super) fn measure(&self, now_ms: u64, age_ms: u64) -> Result<(), StoreError> {
        self.measure_new()?;
        self.measure_changing(now_ms, age_ms)
    }

    /// Measures the snapshots that were not.
    pub(super) fn measure_new(&self) -> Result<(), StoreError> {
        let index = self.index()?;
        let mut sizes = Vec::new();
        for known in index.known()? {
            if known.size.is_some() {
                continue;
            }
            let tree = self.inner.snapshots.open_dir(known.id.to_string());
            // What cannot be read cannot be measured; it may be deleted nevertheless.
            if let Ok(size) = tree.and_then(tree_bytes) {
                sizes.push((known.id, size));
            }
        }
        if !sizes.is_empty() {
            StoreError::unless_unwritable(index.put_sizes(&sizes))?;
        }
        Ok(())
    }

    /// Measures what changes, where that was not done for so long.
    pub(super) fn measure_changing(&self, now_ms: u64, age_ms: u64) -> Result<(), StoreError> {
        let index = self.index()?;
        let things = index.things()?;
        for directory in ["caches", "git", "failed", "habitats"] {
            let Ok(dir) = self.top().open_dir(directory) else {
                continue;
            };
            for entry in dir
                .entries()
                .doing("list what is there", self.path().join(directory))?
            {
                let Some(name) = entry.name.to_str() else {
                    continue;
                };
                let known = things.get(&(directory.to_owned(), name.to_owned()));
                if known.is_some_and(|known| known.measured_ms.saturating_add(age_ms) > now_ms) {
                    continue;
                }
                if let Ok(size) = dir.open_dir(name).and_then(tree_bytes) {
                    let measured = Measured {
                        size,
                        measured_ms: now_ms,
                    };
                    StoreError::unless_unwritable(index.put_thing(directory, name, measured))?;
                }
            }
            for (kind, name) in things.keys() {
                if kind == directory && matches!(dir.find(name), Ok(None)) {
                    StoreError::unless_unwritable(index.forget_thing(kind, name))?;
                }
            }
        }
        Ok(())
    }

    /// Keeps a blob from being deleted. `None`: it is not there.
    pub fn lease_blob(&self, digest: &Digest) -> Result<Option<Lease>, StoreError> {
        self.lease_in(&self.inner.blobs, &digest.hex())
            .doing("hold a blob", self.blob_path(digest))
    }

    /// Keeps a file or directory of one of the store's directories from being deleted. `None`: it is not there.
    pub fn lease_of(&self, directory: &str, name: &str) -> Result<Option<Lease>, StoreError> {
        self.top()
            .open_dir(directory)
            .and_then(|dir| self.lease_in(&dir, name))
            .doing("hold something", self.path().join(directory).join(name))
    }

    fn lease_in(&self, dir: &Dir, name: &str) -> io::Result<Option<Lease>> {
        let fd: OwnedFd = match dir.find(name)? {
            None => return Ok(None),
            Some(seen) if seen.is_dir() => dir.open_dir(name)?.into(),
            Some(_) => dir.open_file(name)?.into(),
        };
        let held = flock(&fd, FlockOperation::LockShared)? && is_still(dir, name.as_ref(), &fd)?;
        Ok(held.then(|| Lease::of(fd)))
    }
}

impl Pruned {
    fn count(&mut self, entry: &Entry) {
        let size_bytes = entry.size.unwrap_or(0);
        self.removed_bytes += size_bytes;
        self.removed.push(Removed {
            id: entry.id.clone(),
            kind: entry.kind.name().to_owned(),
            size_bytes,
            description: entry.description.clone(),
        });
    }
}
