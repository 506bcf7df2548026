//! Everything that a store holds, with what it takes of the disk, when it was last used, and what keeps it.
//!
//! It is put together from the index, from lists of names and from the sizes of single files; no tree is walked. What is
//! in it may be gone a moment later: whoever deletes takes a lock first, and looks again.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::fs::{AtFlags, FlockOperation, StatxFlags};

use super::census::Source;
use super::lock::flock;
use super::uses::{Used, ms};
use super::{Doing, Store, StoreError};
use crate::digest::{Digest, Key};
use crate::image::Content;
use crate::sys::dir::{Dir, Kind, Metadata};

/// What something of the store is, by the names that BuildKit has for the types of its records as far as it has any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordType {
    /// A blob, or the name, of an image.
    Image,
    /// What a step or a base has made.
    Regular,
    /// A copy of a directory or archive of this machine.
    Local,
    /// A cache mount.
    CacheMount,
    /// A repository's mirror, or the files of a commit.
    Git,
    /// A download.
    Http,
    /// A habitat that runs or has run.
    Habitat,
    /// What failed builds have left, what was put aside, what is left over.
    Internal,
}

impl RecordType {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Image,
        Self::Regular,
        Self::Local,
        Self::CacheMount,
        Self::Git,
        Self::Http,
        Self::Habitat,
        Self::Internal,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Regular => "regular",
            Self::Local => "source.local",
            Self::CacheMount => "exec.cachemount",
            Self::Git => "source.git.checkout",
            Self::Http => "source.http",
            Self::Habitat => "habitat",
            Self::Internal => "internal",
        }
    }
}

/// Where in the store it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Snapshot(Key),
    Blob(Digest),
    /// By the name that it has.
    Image(String),
    /// In one of the directories of the store: `http`, `git`, `caches`, `habitats`, `failed`, `blobs/damaged`, or `.`.
    In(&'static str, String),
}

/// What keeps something from being deleted, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// A build or command that runs now.
    Running,
    /// A habitat that is up, or was and has not been taken down.
    Habitat,
    /// An image that has a name.
    Image,
    /// The last build of a project.
    LastBuild,
}

impl Keeper {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Habitat => "habitat",
            Self::Image => "image",
            Self::LastBuild => "last build",
        }
    }
}

/// Whom something belongs to, as people ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The image, or the Dockerfile or habitat.
    pub name: String,
    /// The phase or stage; `None`: all of it, or of earlier builds of it.
    pub part: Option<String>,
}

/// One thing of the store.
#[derive(Debug, Clone)]
pub struct Entry {
    pub(super) place: Place,
    pub(super) parent: Option<Key>,
    /// On how many others it lies.
    pub(super) depth: usize,
    /// What names it.
    pub id: String,
    /// What it is.
    pub kind: RecordType,
    /// For people.
    pub description: String,
    /// What it takes of the disk; `None`: it has not been measured yet.
    pub size: Option<u64>,
    /// When it was made, in milliseconds since 1970; 0 where nobody knows.
    pub created_ms: u64,
    /// When it was last used.
    pub used_ms: u64,
    /// What keeps it.
    pub keeper: Option<Keeper>,
    /// Whom it belongs to.
    pub owners: Vec<Owner>,
}

impl Entry {
    /// Something of which only the place is known.
    fn file(place: Place, id: String, description: &str) -> Self {
        Self {
            place,
            parent: None,
            depth: 0,
            id,
            kind: RecordType::Internal,
            description: description.to_owned(),
            size: None,
            created_ms: 0,
            used_ms: 0,
            keeper: None,
            owners: Vec::new(),
        }
    }

    fn see(&mut self, seen: &Metadata) {
        self.size = Some(seen.disk_bytes);
        self.created_ms = ms(seen.modified);
        self.used_ms = self.created_ms;
    }

    /// Whether it changes with its use.
    #[must_use]
    pub fn is_mutable(&self) -> bool {
        matches!(&self.place, Place::In("caches" | "git" | "habitats", _))
    }

    /// Whether several builds or images have it in common.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        let mut names: Vec<&str> = self
            .owners
            .iter()
            .map(|owner| owner.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names.len() > 1
    }

    fn keep(&mut self, keeper: Keeper) {
        self.keeper = Some(self.keeper.map_or(keeper, |known| known.min(keeper)));
    }

    fn own(&mut self, owner: &Owner) {
        if !self.owners.contains(owner) {
            self.owners.push(owner.clone());
        }
    }

    fn used(&mut self, used_ms: u64) {
        self.used_ms = self.used_ms.max(used_ms);
    }
}

/// Everything that a store holds.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Each thing once.
    pub entries: Vec<Entry>,
    /// What the index and the history take of the disk.
    pub index_bytes: u64,
    /// The disk that the store is on.
    pub disk: Disk,
    pub(super) images: Vec<Image>,
    /// Snapshots that the index knows and that are gone.
    pub(super) stale: Vec<Key>,
}

/// A disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// How large it is, in bytes.
    pub total_bytes: u64,
    /// How much of that this user may still use.
    pub free_bytes: u64,
}

/// How long the last build of a project that is no more on this machine keeps what it used.
const GONE_KEPT_MS: u64 = 7 * 24 * 3_600_000;

impl Inventory {
    /// What all of it takes of the disk, as far as that is known.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.index_bytes
            + self
                .entries
                .iter()
                .filter_map(|entry| entry.size)
                .sum::<u64>()
    }
}

/// An image: its name, its manifest, its blobs, its snapshots.
pub(super) type Image = (String, Digest, Vec<Digest>, Vec<Key>);

#[derive(Default)]
struct Gathering {
    entries: Vec<Entry>,
    places: HashMap<Place, usize>,
    images: Vec<Image>,
    stale: Vec<Key>,
}

impl Gathering {
    fn put(&mut self, entry: Entry) {
        self.places.insert(entry.place.clone(), self.entries.len());
        self.entries.push(entry);
    }

    fn get(&mut self, place: &Place) -> Option<&mut Entry> {
        let at = self.places.get(place)?;
        self.entries.get_mut(*at)
    }

    /// What lies on a snapshot needs it: it was used no earlier, and is kept as well.
    fn pass_on(&mut self) {
        let parents: Vec<Option<usize>> = self
            .entries
            .iter()
            .map(|entry| {
                entry
                    .parent
                    .and_then(|id| self.places.get(&Place::Snapshot(id)).copied())
            })
            .collect();
        let mut depths: Vec<Option<usize>> = vec![None; parents.len()];
        for start in 0..parents.len() {
            let mut way = Vec::new();
            let mut at = Some(start);
            while let Some(here) = at
                && depths[here].is_none()
                && way.len() <= parents.len()
            {
                way.push(here);
                at = parents[here];
            }
            let first = at
                .and_then(|here| depths[here])
                .map_or(0, |depth| depth + 1);
            for (depth, here) in (first..).zip(way.into_iter().rev()) {
                depths[here] = Some(depth);
            }
        }
        let mut order: Vec<usize> = (0..parents.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(depths[*at]));
        for at in order {
            self.entries[at].depth = depths[at].unwrap_or(0);
            let (used_ms, keeper) = (self.entries[at].used_ms, self.entries[at].keeper);
            if let Some(parent) = parents[at] {
                let parent = &mut self.entries[parent];
                parent.used(used_ms);
                if let Some(keeper) = keeper {
                    parent.keep(keeper);
                }
            }
        }
    }

    /// A snapshot's layer as a blob is kept for as long as the snapshot is.
    fn packed(&mut self, snapshot: Key, blob: Digest) {
        let Some(snapshot) = self
            .get(&Place::Snapshot(snapshot))
            .map(|entry| entry.clone())
        else {
            return;
        };
        if let Some(entry) = self.get(&Place::Blob(blob)) {
            entry.used(snapshot.used_ms);
            if let Some(keeper) = snapshot.keeper {
                entry.keep(keeper);
            }
            if entry.kind == RecordType::Internal {
                entry.kind = RecordType::Image;
                entry.description = format!("packed: {}", snapshot.description);
            }
        }
    }
}

/// What a mirror is of, and when it was last asked for.
fn about_mirror(mirrors: &Dir, name: &str, entry: &mut Entry) {
    let opened = mirrors
        .open_dir(name)
        .and_then(|mirror| mirror.open_file("description"));
    let Ok(file) = opened else {
        return;
    };
    if let Ok(seen) = Metadata::of_open(&file) {
        entry.used(ms(seen.modified));
        entry.created_ms = entry.used_ms;
    }
    if let Ok(url) = io::read_to_string(file) {
        entry.description = format!("the mirror of {}", url.trim_end());
    }
}

impl Store {
    /// The disk that it is on.
    pub fn disk(&self) -> Result<Disk, StoreError> {
        let seen = rustix::fs::fstatvfs(self.top())
            .map_err(io::Error::from)
            .doing("ask how full the disk is", self.path())?;
        Ok(Disk {
            total_bytes: seen.f_blocks.saturating_mul(seen.f_frsize),
            free_bytes: seen.f_bavail.saturating_mul(seen.f_frsize),
        })
    }

    /// Since when somebody has been making something here, in milliseconds since 1970; `None`: nobody is.
    pub(super) fn working_since(&self) -> Result<Option<u64>, StoreError> {
        let tmp = &self.inner.tmp;
        let path = self.path().join("tmp");
        let mut since: Option<u64> = None;
        for entry in tmp.entries().doing("look who works", &path)? {
            let opened = match entry.kind {
                Some(Kind::Dir) => tmp.open_dir(&entry.name).map(std::os::fd::OwnedFd::from),
                _ => tmp.open_file(&entry.name).map(std::os::fd::OwnedFd::from),
            };
            let Ok(fd) = opened else {
                continue;
            };
            if flock(&fd, FlockOperation::NonBlockingLockShared).doing("look who works", &path)? {
                continue;
            }
            // Where the file system does not say, it is since ever.
            let born = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)
                .ok()
                .filter(|seen| {
                    StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::BTIME)
                })
                .map_or(0, |seen| {
                    u64::try_from(seen.stx_btime.tv_sec).unwrap_or(0) * 1000
                });
            since = Some(since.map_or(born, |earliest| earliest.min(born)));
        }
        Ok(since)
    }

    /// What SQLite's files take of the disk.
    pub(super) fn sqlite_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for ending in ["", "-wal"] {
            let seen = self.top().find(format!("index.sqlite{ending}"));
            let seen = seen.doing("look at the index", self.path())?;
            bytes += seen.map_or(0, |seen| seen.disk_bytes);
        }
        Ok(bytes)
    }

    /// Looks through all that the store holds.
    pub fn inventory(&self, now_ms: u64) -> Result<Inventory, StoreError> {
        let mut gathering = Gathering::default();
        self.gather_snapshots(&mut gathering)?;
        self.gather_blobs(&mut gathering)?;
        self.gather_directories(&mut gathering, now_ms)?;
        self.gather_images(&mut gathering)?;
        self.gather_uses(&mut gathering, now_ms)?;
        self.gather_habitats(&mut gathering)?;
        gathering.pass_on();
        for (snapshot, blob) in self.index()?.packed()? {
            gathering.packed(snapshot, blob);
        }
        if let Some(since) = self.working_since()? {
            self.gather_work(&mut gathering, since)?;
        }
        let mut index_bytes = 0;
        for directory in ["builds", "history"] {
            let Ok(dir) = self.top().open_dir(directory) else {
                continue;
            };
            let entries = dir
                .entries()
                .doing("read the store", self.path().join(directory))?;
            let sizes = entries
                .iter()
                .filter_map(|entry| dir.find(&entry.name).ok().flatten());
            index_bytes += sizes.map(|seen| seen.disk_bytes).sum::<u64>();
        }
        index_bytes += self.sqlite_bytes()?;
        Ok(Inventory {
            entries: gathering.entries,
            index_bytes,
            disk: self.disk()?,
            images: gathering.images,
            stale: gathering.stale,
        })
    }

    fn gather_snapshots(&self, gathering: &mut Gathering) -> Result<(), StoreError> {
        // In this order: what the index knows was there before.
        let known = self.index()?.known()?;
        let there: HashSet<Key> = self.snapshots()?.into_iter().collect();
        for known in known {
            if !there.contains(&known.id) {
                gathering.stale.push(known.id);
                continue;
            }
            gathering.put(Entry {
                place: Place::Snapshot(known.id),
                parent: known.parent,
                depth: 0,
                id: known.id.to_string(),
                kind: match known.source {
                    Source::Made => RecordType::Regular,
                    Source::Git => RecordType::Git,
                    Source::Http => RecordType::Http,
                    Source::Local => RecordType::Local,
                },
                description: known.what,
                size: known.size,
                created_ms: known.created_ms,
                used_ms: known.created_ms,
                keeper: None,
                owners: Vec::new(),
            });
        }
        // One whose record is not known to the index: nobody finds it.
        for id in there {
            if !gathering.places.contains_key(&Place::Snapshot(id)) {
                gathering.put(Entry {
                    kind: RecordType::Internal,
                    ..Entry::file(
                        Place::Snapshot(id),
                        id.to_string(),
                        "a snapshot that nothing refers to",
                    )
                });
            }
        }
        Ok(())
    }

    fn gather_blobs(&self, gathering: &mut Gathering) -> Result<(), StoreError> {
        let blobs = &self.inner.blobs;
        let path = self.path().join("blobs");
        for entry in blobs.entries().doing("list the blobs", &path)? {
            let Some(digest) = entry
                .name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse().ok())
            else {
                continue;
            };
            let Some(seen) = blobs.find(&entry.name).doing("look at a blob", &path)? else {
                continue;
            };
            let mut entry = Entry::file(
                Place::Blob(digest),
                digest.to_string(),
                "a blob that nothing refers to",
            );
            entry.see(&seen);
            gathering.put(entry);
        }
        Ok(())
    }

    /// What lies in directories of its own.
    fn gather_directories(&self, gathering: &mut Gathering, now_ms: u64) -> Result<(), StoreError> {
        let things = self.index()?.things()?;
        let list = |name: &'static str| -> Result<(Option<Dir>, Vec<_>), StoreError> {
            let opened = match self.top().open_dir(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok((None, Vec::new()));
                }
                opened => opened.doing("open a directory of the store", self.path().join(name))?,
            };
            let entries = opened
                .entries()
                .doing("list what is there", self.path().join(name))?;
            Ok((Some(opened), entries))
        };
        let kinds = [
            ("http", RecordType::Http, "a download"),
            ("git", RecordType::Git, "the mirror of a repository"),
            ("caches", RecordType::CacheMount, "a cache mount"),
            (
                "habitats",
                RecordType::Habitat,
                "what a habitat has written",
            ),
            (
                "failed",
                RecordType::Internal,
                "what a failed step has left",
            ),
        ];
        for (directory, kind, description) in kinds {
            let (Some(dir), entries) = list(directory)? else {
                continue;
            };
            for found in entries {
                let (Some(name), Ok(Some(seen))) = (found.name.to_str(), dir.find(&found.name))
                else {
                    continue;
                };
                // Locks of mirrors stay.
                if directory == "git" && seen.kind != Kind::Dir {
                    continue;
                }
                let mut entry = Entry::file(
                    Place::In(directory, name.to_owned()),
                    name.to_owned(),
                    description,
                );
                entry.kind = kind;
                entry.see(&seen);
                if seen.is_dir() {
                    let key = (directory.to_owned(), name.to_owned());
                    entry.size = things.get(&key).map(|measured| measured.size);
                }
                if directory == "git" {
                    about_mirror(&dir, name, &mut entry);
                }
                if directory == "habitats" {
                    entry.description = format!("what the habitat `{name}` has written");
                }
                gathering.put(entry);
            }
        }
        let damaged = Dir::open_trusted(self.path().join("blobs/damaged"))
            .and_then(|dir| Ok((dir.entries()?, dir)))
            .doing("list what was put aside", self.path())?;
        let top = (
            self.top().entries().doing("read the store", self.path())?,
            self.top()
                .try_clone()
                .doing("read the store", self.path())?,
        );
        for (place, (entries, dir)) in [("blobs/damaged", damaged), (".", top)] {
            for found in entries {
                let name = found.name.to_string_lossy().into_owned();
                if place == "." && !name.starts_with("index.sqlite-damaged") {
                    continue;
                }
                if let Ok(Some(seen)) = dir.find(&found.name) {
                    let mut entry = Entry::file(
                        Place::In(place, name.clone()),
                        name,
                        "damaged, and put aside",
                    );
                    entry.see(&seen);
                    // What is long gone from memory need not be looked at any more.
                    entry.used_ms = entry.used_ms.min(now_ms);
                    gathering.put(entry);
                }
            }
        }
        Ok(())
    }

    fn gather_images(&self, gathering: &mut Gathering) -> Result<(), StoreError> {
        let images = self.images()?;
        let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
        for image in &images {
            if !image.name.starts_with("sha256:") {
                names
                    .entry(image.digest)
                    .or_default()
                    .push(image.name.clone());
            }
        }
        let mut blobs_of: HashMap<Digest, Vec<Digest>> = HashMap::new();
        for image in images {
            let named = names.get(&image.digest);
            // What has another name is listed under that.
            let name = named
                .and_then(|names| names.first())
                .unwrap_or(&image.name)
                .clone();
            let owner = Owner {
                name: name.clone(),
                part: None,
            };
            let mut entry =
                Entry::file(Place::Image(image.name.clone()), image.name.clone(), &name);
            entry.kind = RecordType::Image;
            entry.size = Some(0);
            entry.created_ms = image.stored_ms;
            entry.used_ms = image.stored_ms;
            entry.owners.push(owner.clone());
            if named.is_some() {
                entry.keep(Keeper::Image);
            }
            gathering.put(entry);
            let blobs = blobs_of
                .entry(image.digest)
                .or_insert_with(|| self.blobs_of(&image.digest));
            let parts = blobs.iter().map(|digest| Place::Blob(*digest));
            let layers = image.layers.iter().map(|layer| Place::Snapshot(*layer));
            for place in parts.chain(layers) {
                let is_blob = matches!(place, Place::Blob(_));
                if let Some(entry) = gathering.get(&place) {
                    entry.used(image.stored_ms);
                    if is_blob {
                        entry.own(&owner);
                        entry.kind = RecordType::Image;
                        entry.description = format!("of the image {name}");
                    }
                    if named.is_some() {
                        entry.keep(Keeper::Image);
                    }
                }
            }
            gathering
                .images
                .push((image.name, image.digest, blobs.clone(), image.layers));
        }
        Ok(())
    }

    /// The blobs that a manifest or index names, with itself.
    pub(super) fn blobs_of(&self, digest: &Digest) -> Vec<Digest> {
        let mut found = vec![*digest];
        let mut unread = vec![*digest];
        while let Some(digest) = unread.pop() {
            let Ok(bytes) = std::fs::read(self.blob_path(&digest)) else {
                continue;
            };
            match Content::parse("", &bytes) {
                Ok(Content::Index(index)) => {
                    for manifest in index.manifests {
                        if !found.contains(&manifest.digest) {
                            found.push(manifest.digest);
                            unread.push(manifest.digest);
                        }
                    }
                }
                Ok(Content::Manifest(manifest)) => {
                    found.push(manifest.config.digest);
                    found.extend(manifest.layers.iter().map(|layer| layer.digest));
                }
                Err(_) => {}
            }
        }
        found
    }

    fn gather_uses(&self, gathering: &mut Gathering, now_ms: u64) -> Result<(), StoreError> {
        let uses = self.uses()?;
        for Used {
            build,
            used_ms,
            is_last,
            ..
        } in uses
        {
            let project = std::path::Path::new(&build.project);
            // A project of another machine, or without a file of its own, cannot be seen to be gone.
            let is_there = project.is_absolute() && project.exists();
            let keeps = is_last && (is_there || used_ms.saturating_add(GONE_KEPT_MS) > now_ms);
            let mut name = build.project.clone();
            if !build.target.is_empty() {
                name.push_str(&format!(" --target {}", build.target));
            }
            let mut note = |place: &Place, part: Option<&str>, about: Option<String>| {
                let Some(entry) = gathering.get(place) else {
                    return;
                };
                entry.used(used_ms);
                if keeps {
                    entry.keep(Keeper::LastBuild);
                }
                if !matches!(place, Place::Image(_)) {
                    let part = part.filter(|_| is_last).map(str::to_owned);
                    let earlier = Owner {
                        name: name.clone(),
                        part,
                    };
                    let known = entry.owners.iter().any(|owner| owner.name == name);
                    if is_last || !known {
                        entry.own(&earlier);
                    }
                }
                if let Some(about) = about {
                    entry.description = about;
                }
            };
            for part in &build.parts {
                for snapshot in &part.snapshots {
                    note(&Place::Snapshot(*snapshot), Some(&part.name), None);
                }
            }
            for download in &build.downloads {
                note(&Place::In("http", download.hex()), None, None);
            }
            for cache in &build.caches {
                let about = format!("the cache mount `{}`", cache.id);
                note(
                    &Place::In("caches", cache.directory.clone()),
                    None,
                    Some(about),
                );
            }
            if let Some(image) = build.image {
                note(&Place::Image(image.to_string()), None, None);
                let found = gathering
                    .images
                    .iter()
                    .find(|(name, ..)| *name == image.to_string());
                let Some((_, _, blobs, layers)) = found.cloned() else {
                    continue;
                };
                let layers = layers.into_iter().map(Place::Snapshot);
                for place in blobs.into_iter().map(Place::Blob).chain(layers) {
                    if let Some(entry) = gathering.get(&place) {
                        entry.used(used_ms);
                        if keeps {
                            entry.keep(Keeper::LastBuild);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn gather_habitats(&self, gathering: &mut Gathering) -> Result<(), StoreError> {
        for instance in self.instances()? {
            let keeper = match instance.is_held()? {
                true => Keeper::Running,
                false => Keeper::Habitat,
            };
            let mut places = vec![Place::In("habitats", instance.id().to_owned())];
            let below = instance.below()?.unwrap_or_default();
            places.extend(below.into_iter().map(Place::Snapshot));
            if let Some(record) = instance.record()? {
                let blobs = self.blobs_of(&record.digest);
                places.extend(blobs.into_iter().map(Place::Blob));
                places.push(Place::Image(record.digest.to_string()));
                places.push(Place::Image(record.image));
            }
            for place in places {
                if let Some(entry) = gathering.get(&place) {
                    entry.keep(keeper);
                }
            }
        }
        Ok(())
    }

    /// What those who work now hold, or may have made.
    fn gather_work(&self, gathering: &mut Gathering, since_ms: u64) -> Result<(), StoreError> {
        /// Clocks of file systems lag behind.
        const SLACK_MS: u64 = 1000;
        for entry in &mut gathering.entries {
            let fresh = match &entry.place {
                Place::Blob(_) | Place::In("http" | "git", _) => {
                    entry.created_ms.saturating_add(SLACK_MS) >= since_ms
                }
                _ => false,
            };
            let held = || -> io::Result<bool> {
                let snapshots = &self.inner.snapshots;
                let fd = match &entry.place {
                    Place::Snapshot(id) => snapshots.open_dir(id.to_string())?,
                    Place::In(directory @ "caches", name) => {
                        self.top().open_dir(directory)?.open_dir(name)?
                    }
                    _ => return Ok(false),
                };
                Ok(!flock(&fd, FlockOperation::NonBlockingLockExclusive)?)
            };
            // One that has just been deleted is not held.
            if fresh || held().unwrap_or(false) {
                entry.keep(Keeper::Running);
            }
        }
        gathering.pass_on();
        Ok(())
    }
}
