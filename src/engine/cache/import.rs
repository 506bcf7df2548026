//! What is elsewhere: the records of caches, read before a build, and what of their layers, cache mounts and downloads is
//! fetched, when it is known that it is needed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::layout::{Layout, RECORDS_MAX, names_buildkit, of_buildkit};
use super::records::{CachedAnswer, CachedMount, CachedSnapshot, Records, unusable};
use super::{BUILDKIT_TYPE, CONFIG_TYPE, CacheFrom};
use crate::digest::{Digest, Key};
use crate::engine::base::of_registry;
use crate::engine::carry;
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::snapshot::{self, SnapshotStore, apply};
use crate::event::{BuildEvent, EventSink};
use crate::image::layer::Limits;
use crate::image::{Content, Descriptor, Manifest, Name, Platform};
use crate::net;
use crate::registry::Registries;
use crate::store::{Answer, LayerBlob, OpRecord, Record, Store};

/// How many layers are fetched at once.
const FETCHED_AT_ONCE: usize = 4;

/// What caches have that were read.
#[derive(Debug, Default)]
pub struct Elsewhere {
    caches: Vec<Cache>,
    snapshots: HashMap<Key, (usize, CachedSnapshot)>,
    results: HashMap<Key, OpRecord>,
    mounts: HashMap<String, (usize, CachedMount)>,
    downloads: HashMap<Digest, (usize, Descriptor)>,
}

/// A cache that was read.
#[derive(Debug)]
struct Cache {
    /// For messages.
    shown: String,
    place: Place,
    /// Why something of it was not to be had: nothing more is fetched.
    closed: OnceLock<Failure>,
    is_told: AtomicBool,
    /// What it knows does not count any more.
    is_lost: AtomicBool,
}

#[derive(Debug)]
enum Place {
    Registry(Name),
    Directory(Layout),
}

/// What is said of a cache that is left alone.
#[must_use]
pub fn warning(code: &str, cache: &str, failure: &Failure) -> BuildEvent {
    let mut message = format!("the cache {cache} is left alone: {failure}");
    for cause in &failure.causes {
        message.push_str(&format!(": {cause}"));
    }
    if let Some(help) = &failure.help {
        message.push_str(&format!(" ({help})"));
    }
    BuildEvent::Warning {
        code: code.to_owned(),
        message,
        file: None,
        line: None,
    }
}

impl Elsewhere {
    /// Reads the records of caches, and tells the store's index. Of those that are of no use is warned.
    pub fn read(
        caches: &[CacheFrom],
        store: &Store,
        registries: &Registries,
        platform: &str,
        events: &dyn EventSink,
    ) -> Self {
        let mut elsewhere = Self::default();
        for cache in caches {
            let read = Reader {
                store,
                registries,
                platform,
            }
            .read(cache);
            let taken =
                read.and_then(|(place, records)| elsewhere.take(store, cache, place, records));
            if let Err(failure) = taken {
                events.emit(warning("CacheNotRead", &cache.to_string(), &failure));
            }
        }
        elsewhere
    }

    fn take(
        &mut self,
        store: &Store,
        cache: &CacheFrom,
        place: Place,
        records: Records,
    ) -> Result<(), Failure> {
        let number = self.caches.len();
        self.caches.push(Cache {
            shown: cache.to_string(),
            place,
            closed: OnceLock::new(),
            is_told: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
        });
        for snapshot in records.snapshots {
            if snapshot.blob.is_some() {
                self.snapshots
                    .entry(snapshot.record.id)
                    .or_insert((number, snapshot));
            }
        }
        let results: Vec<(Key, OpRecord)> = records
            .results
            .iter()
            .map(|result| (result.key, result.into()))
            .collect();
        // Nothing else is asked of a cache; and nobody has asked in the future.
        let now_ms = Clock::system().now().as_millis() as u64;
        let is_asked = |answer: &CachedAnswer| {
            answer.reference.starts_with("source ") || answer.reference.starts_with("test ")
        };
        let answers = records.answers.into_iter().filter(is_asked);
        let answers: Vec<(String, Answer)> = answers
            .map(|mut answer| {
                answer.asked_ms = answer.asked_ms.min(now_ms);
                answer.into()
            })
            .collect();
        store
            .index()
            .and_then(|index| index.take_over(&results, &answers))
            .map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error))?;
        for (key, result) in results {
            self.results.entry(key).or_insert(result);
        }
        for mount in records.mounts {
            self.mounts
                .entry(mount.directory.clone())
                .or_insert((number, mount));
        }
        for download in records.downloads {
            self.downloads
                .entry(download.digest)
                .or_insert((number, download));
        }
        Ok(())
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty()
    }

    /// Warns, once, of caches of which something was not to be had: a build goes on without.
    pub fn tell(&self, events: &dyn EventSink) {
        for cache in &self.caches {
            if let Some(failure) = cache.closed.get()
                && !cache.is_told.swap(true, Ordering::Relaxed)
            {
                events.emit(warning("CacheNotRead", &cache.shown, failure));
            }
        }
    }

    /// Forgets what those know; false if there was nothing to forget.
    pub fn forget_closed(&self) -> bool {
        let closed = self
            .caches
            .iter()
            .filter(|cache| cache.closed.get().is_some());
        let forgotten = closed.filter(|cache| !cache.is_lost.swap(true, Ordering::Relaxed));
        forgotten.count() > 0
    }

    /// Whether a snapshot can be fetched.
    #[must_use]
    pub fn has(&self, id: &Key) -> bool {
        self.snapshot(id).is_some()
    }

    /// The result that a key stands for.
    #[must_use]
    pub fn result(&self, key: &Key) -> Option<&OpRecord> {
        self.results.get(key)
    }

    /// What a snapshot says of itself.
    #[must_use]
    pub fn record(&self, id: &Key) -> Option<&Record> {
        self.snapshot(id).map(|(_, cached)| &cached.record)
    }

    fn snapshot(&self, id: &Key) -> Option<(&Cache, &CachedSnapshot)> {
        let (number, cached) = self.snapshots.get(id)?;
        Some((self.cache(*number)?, cached))
    }

    /// Digest and length of the tar of a snapshot that can be fetched.
    #[must_use]
    pub fn measured(&self, id: &Key) -> Option<(Digest, u64)> {
        self.cached(id).map(|cached| (cached.diff_id, cached.size))
    }

    pub(super) fn cached(&self, id: &Key) -> Option<&CachedSnapshot> {
        self.snapshot(id).map(|(_, cached)| cached)
    }

    /// One of which nothing was lost.
    fn cache(&self, number: usize) -> Option<&Cache> {
        let cache = &self.caches[number];
        (!cache.is_lost.load(Ordering::Relaxed)).then_some(cache)
    }

    pub(super) fn results_of<'a>(
        &'a self,
        snapshots: &'a HashSet<Key>,
    ) -> impl Iterator<Item = (Key, OpRecord)> + 'a {
        self.results
            .iter()
            .filter(|(_, result)| result.layers.iter().all(|layer| snapshots.contains(layer)))
            .map(|(key, result)| (*key, result.clone()))
    }

    pub(super) fn mount(&self, directory: &str) -> Option<&CachedMount> {
        let (number, mount) = self.mounts.get(directory)?;
        self.cache(*number).map(|_| mount)
    }

    /// Whether a download can be fetched.
    #[must_use]
    pub fn has_download(&self, digest: &Digest) -> bool {
        self.download(digest).is_some()
    }

    pub(super) fn download(&self, digest: &Digest) -> Option<&Descriptor> {
        let (number, blob) = self.downloads.get(digest)?;
        self.cache(*number).map(|_| blob)
    }

    /// The layer of a snapshot as a cache has it, if it is packed so.
    #[must_use]
    pub fn packed(&self, id: &Key, form: &str) -> Option<(Digest, &Descriptor)> {
        let (_, cached) = self.snapshot(id)?;
        let blob = cached.blob.as_ref()?;
        (cached.form.as_deref() == Some(form)).then_some((cached.diff_id, blob))
    }

    /// The cache that has a layer, if that is in a registry.
    #[must_use]
    pub fn registry_of(&self, digest: &Digest) -> Option<&Name> {
        match &self.holder(digest)?.0.place {
            Place::Registry(name) => Some(name),
            Place::Directory(_) => None,
        }
    }

    /// What has a blob, and what it is.
    fn holder(&self, digest: &Digest) -> Option<(&Cache, &Descriptor)> {
        let layers = self
            .snapshots
            .values()
            .filter_map(|(number, cached)| Some((*number, cached.blob.as_ref()?)));
        let mounts = self
            .mounts
            .values()
            .map(|(number, mount)| (*number, &mount.blob));
        let downloads = self
            .downloads
            .values()
            .map(|(number, blob)| (*number, blob));
        layers
            .chain(mounts)
            .chain(downloads)
            .filter(|(_, blob)| blob.digest == *digest)
            .find_map(|(number, blob)| Some((self.cache(number)?, blob)))
    }

    /// Opens a blob that a cache has.
    ///
    /// # Errors
    /// If it is not to be had. Then that cache is lost.
    pub fn open(
        &self,
        store: &Store,
        registries: &Registries,
        digest: &Digest,
    ) -> Result<Option<File>, Failure> {
        let Some((cache, blob)) = self.holder(digest) else {
            return Ok(None);
        };
        cache
            .open(store, registries, blob)
            .map(Some)
            .map_err(|failure| cache.lost(failure))
    }

    /// Fetches and unpacks snapshots that the store lacks, with those that they lie upon.
    ///
    /// # Errors
    /// If one is not to be had, or not what it should be. Then that cache is lost.
    pub fn fetch(
        &self,
        wanted: impl IntoIterator<Item = Key>,
        snapshots: &SnapshotStore,
        store: &Store,
        registries: &Registries,
    ) -> Result<(), Failure> {
        let mut waiting: Vec<Key> = wanted.into_iter().collect();
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        while let Some(id) = waiting.pop() {
            if seen.insert(id)
                && !snapshots.has(&id)
                && let Some((cache, cached)) = self.snapshot(&id)
                && let Some(blob) = &cached.blob
            {
                waiting.extend(&cached.record.below);
                missing.push((cache, cached, blob));
            }
        }
        missing.sort_by_key(|(_, cached, _)| (cached.record.below.len(), cached.record.id));
        net::fetch_all(&missing, FETCHED_AT_ONCE, |(cache, _, blob)| {
            cache
                .fetch(store, registries, blob)
                .map_err(|failure| cache.lost(failure))
        })?;
        for (cache, cached, blob) in missing {
            let opened = cache.open(store, registries, blob);
            opened
                .and_then(|file| unpack(file, cached, blob, snapshots, store))
                .map_err(|failure| cache.lost(failure))?;
        }
        Ok(())
    }

    /// Puts a cache mount to its place, if a cache has it.
    ///
    /// # Errors
    /// If it is not to be had. Then that cache is lost.
    pub fn fetch_mount(
        &self,
        name: &str,
        to: &Path,
        store: &Store,
        registries: &Registries,
    ) -> Result<bool, Failure> {
        let Some((number, mount)) = self.mounts.get(name) else {
            return Ok(false);
        };
        let Some(cache) = self.cache(*number) else {
            return Ok(false);
        };
        let unpack = |file: File| {
            carry::unpack_mount(store, file, mount.diff_id, &mount.top, to)
                .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))
        };
        let opened = cache.open(store, registries, &mount.blob);
        opened
            .and_then(unpack)
            .map_err(|failure| cache.lost(failure))?;
        Ok(true)
    }

    /// Puts a download to its place, if a cache has it.
    ///
    /// # Errors
    /// If it is not to be had. Then that cache is lost.
    pub fn fetch_download(
        &self,
        digest: &Digest,
        store: &Store,
        registries: &Registries,
    ) -> Result<bool, Failure> {
        let Some((number, blob)) = self.downloads.get(digest) else {
            return Ok(false);
        };
        let Some(cache) = self.cache(*number) else {
            return Ok(false);
        };
        let keep = |file: File| {
            store
                .put_download(file, digest)
                .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))
        };
        let opened = cache.open(store, registries, blob);
        opened
            .and_then(keep)
            .map_err(|failure| cache.lost(failure))?;
        Ok(true)
    }
}

impl Cache {
    /// Fetches a blob into the store, from where that is necessary.
    fn fetch(
        &self,
        store: &Store,
        registries: &Registries,
        blob: &Descriptor,
    ) -> Result<(), Failure> {
        if let Some(failure) = self.closed.get() {
            return Err(failure.clone());
        }
        match &self.place {
            Place::Directory(_) => Ok(()),
            Place::Registry(name) => registries
                .fetch(store, name, blob, &|_| ())
                .map(drop)
                .map_err(|error| of_registry(&error)),
        }
    }

    fn open(
        &self,
        store: &Store,
        registries: &Registries,
        blob: &Descriptor,
    ) -> Result<File, Failure> {
        self.fetch(store, registries, blob)?;
        let path = match &self.place {
            Place::Registry(_) => store.blob_path(&blob.digest),
            Place::Directory(layout) => layout.blob_path(&blob.digest),
        };
        let unreadable = |error: &io::Error| {
            let message = format!("the blob {} of the cache cannot be read", blob.digest);
            Failure::caused(FailureKind::Input, "cache::blob", message, error)
        };
        let file = File::open(path).map_err(|error| unreadable(&error))?;
        let size = file.metadata().map_err(|error| unreadable(&error))?.len();
        match size == blob.size {
            true => Ok(file),
            false => Err(unusable(format!(
                "its blob {} should have {} bytes, and has {size}",
                blob.digest, blob.size
            ))),
        }
    }

    fn lost(&self, failure: Failure) -> Failure {
        // The first reason is the one that is told.
        drop(self.closed.set(failure.clone()));
        failure
    }
}

/// Makes a layer the snapshot that it was.
fn unpack(
    file: File,
    cached: &CachedSnapshot,
    blob: &Descriptor,
    snapshots: &SnapshotStore,
    store: &Store,
) -> Result<(), Failure> {
    let record = &cached.record;
    let of_store = |error| Failure::from_diagnostic(FailureKind::Machine, &error);
    // Another build may be making the same, which may turn out to be something else. This one may hold that lock itself.
    let key = record.key.unwrap_or(record.id);
    let alone = store.try_lock(&key.to_string()).map_err(of_store)?;
    if snapshots.has(&record.id) {
        return Ok(());
    }
    let settled = snapshots.prepare_layer(&record.below)?;
    let lowers = layers::lowers(snapshots, &record.below)?;
    let content = cached.tar.unwrap_or(cached.diff_id);
    apply::apply(
        file,
        Some(content),
        settled.upper(),
        &lowers,
        Limits::default(),
    )
    .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))?;
    cached.top.dress(settled.upper()).map_err(|error| {
        let message = "the topmost directory of a layer cannot be made what it was";
        Failure::caused(FailureKind::Machine, "cache::top", message, &error)
    })?;
    let made = snapshot::Made::of(record);
    let row = |digest, size| LayerBlob {
        digest,
        size,
        media_type: String::new(),
    };
    let remember = || {
        let index = store.index()?;
        index.put_diff_ids(&[(record.id, cached.diff_id, cached.size)])?;
        // What leaves in this form is not packed again.
        if let Some(form) = &cached.form
            && store.has_blob(&blob.digest)
        {
            index.put_layer_blob(&record.id, form, "blob", &row(blob.digest, blob.size))?;
            index.put_layer_blob(&record.id, form, "tar", &row(cached.diff_id, 0))?;
        }
        Ok(())
    };
    let is_alone = alone.is_some();
    snapshots.commit_holding(settled, made, alone)?;
    if is_alone {
        remember().map_err(of_store)?;
    }
    Ok(())
}

/// Reads the records of one cache.
struct Reader<'a> {
    store: &'a Store,
    registries: &'a Registries<'a>,
    platform: &'a str,
}

impl Reader<'_> {
    fn read(&self, cache: &CacheFrom) -> Result<(Place, Records), Failure> {
        match cache {
            CacheFrom::Directory { path, tag, digest } => {
                let layout = Layout::at(path);
                let manifest = layout.manifest(tag, *digest)?;
                let read = |blob: &Descriptor| {
                    self.bounded(blob)?;
                    layout.read(&blob.digest, RECORDS_MAX)
                };
                let records = records_of(&manifest, read)?;
                Ok((Place::Directory(layout), records))
            }
            CacheFrom::Registry { name, .. } => {
                let failed = |error| of_registry(&error);
                let manifest = match self.registries.document(name).map_err(failed)?.content {
                    Content::Manifest(manifest) => *manifest,
                    Content::Index(index) if names_buildkit(&index) => return Err(of_buildkit()),
                    Content::Index(_) => self.of_platform(name)?,
                };
                let read = |blob: &Descriptor| {
                    self.bounded(blob)?;
                    self.registries
                        .fetch(self.store, name, blob, &|_| ())
                        .map_err(failed)?;
                    self.store
                        .read_blob(&blob.digest, RECORDS_MAX)
                        .map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error))
                };
                let records = records_of(&manifest, read)?;
                Ok((Place::Registry(name.clone()), records))
            }
        }
    }

    /// That of an image for several platforms.
    fn of_platform(&self, name: &Name) -> Result<Manifest, Failure> {
        let platform: Platform = self.platform.parse().unwrap_or_default();
        self.registries
            .resolve(self.store, name, &platform)
            .map(|resolved| resolved.manifest)
            .map_err(|error| of_registry(&error))
    }

    fn bounded(&self, blob: &Descriptor) -> Result<(), Failure> {
        match blob.size <= RECORDS_MAX {
            true => Ok(()),
            false => Err(unusable(format!(
                "its records are said to have {} bytes; {RECORDS_MAX} is the limit",
                blob.size
            ))),
        }
    }
}

/// The records that a manifest's configuration is, or has in it.
fn records_of(
    manifest: &Manifest,
    read: impl Fn(&Descriptor) -> Result<Vec<u8>, Failure>,
) -> Result<Records, Failure> {
    let kind = manifest.config.media_type.as_str();
    if kind == BUILDKIT_TYPE {
        return Err(of_buildkit());
    }
    let bytes = read(&manifest.config)?;
    let records = match kind {
        CONFIG_TYPE => Records::parse(&bytes),
        _ => crate::image::choice::check_config(manifest, &bytes)
            .and_then(|config| Records::of_image(manifest, &config)),
    };
    records.map_err(unusable)
}
