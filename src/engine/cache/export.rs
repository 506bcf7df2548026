//! Writes what builds have used to where others find it: layers first, then the records, and last the name.
//!
//! A layer is packed once: what an image was pushed with, or a cache was written with before, is taken as it is. What is
//! elsewhere already need not be here: a registry takes it from where it is.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek as _, Write as _};

use super::layout::{Layout, Put};
use super::records::{self, CachedMount, CachedResult, CachedSnapshot, Records};
use super::spec::{CacheTo, Mode, Target};
use super::{CONFIG_TYPE, DOWNLOAD_TYPE, MOUNT_TYPE, STATE_NOTE};
use crate::digest::{Digest, Fields, Key};
use crate::engine::base::of_registry;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::snapshot::diff::{self, Blob};
use crate::engine::snapshot::top::Top;
use crate::engine::solve::{Session, Workshop, store_failure};
use crate::image::layer::TimeRewrite;
use crate::image::{Compression, Content, Descriptor, Manifest, MediaTypes, Name};
use crate::registry::{Push, PushBlob, PushContent};
use crate::store::{BuildUse, LayerBlob, Lease, Record, TmpFile};
use crate::sys::dir::Dir;

/// What builds have used, on its way.
pub struct Export<'a> {
    /// The build that asks for it.
    pub session: &'a Session<'a>,
    /// Where things are made.
    pub workshop: &'a Workshop<'a>,
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

/// A blob of a cache, and where its content is.
struct Sent {
    descriptor: Descriptor,
    from: From,
}

enum From {
    /// The store's blobs. It is not deleted meanwhile.
    Store { _held: Option<Lease> },
    /// A file that was made for this.
    Spool(TmpFile),
    /// The store's downloads.
    Download { _held: Lease },
    /// Another cache.
    Elsewhere,
}

/// A layer that can be sent.
struct Packed {
    /// SHA-256 of its tar.
    tar: Digest,
    sent: Sent,
    /// How it was packed, where that was done by shmocker.
    form: Option<String>,
}

impl Packed {
    /// One that was packed here.
    fn new(
        tar: Digest,
        (digest, size): (Digest, u64),
        compression: Compression,
        held: Option<Lease>,
    ) -> Self {
        let kind = MediaTypes::Oci.layer(compression);
        Self {
            tar,
            sent: Sent {
                descriptor: Descriptor::new(kind, digest, size),
                from: From::Store { _held: held },
            },
            form: Some(compression.id()),
        }
    }
}

/// The form of what some other program has packed before.
fn again(compression: Compression) -> String {
    format!("again-{}", compression.id())
}

/// Names all that builds have used, and how it is written: what is there already is not written again.
fn state(uses: &[BuildUse], to: &CacheTo) -> String {
    let mut fields = Fields::new();
    fields.put("mode", format!("{:?}", to.mode));
    fields.put("compression", to.compression.id());
    fields.put("force", to.force_compression.to_string());
    for used in uses {
        fields.put("platform", used.platform.clone());
        for part in &used.parts {
            fields.put("part", part.name.clone());
            for snapshot in &part.snapshots {
                fields.put("snapshot", snapshot.to_string());
            }
        }
        for snapshot in &used.tree {
            fields.put("tree", snapshot.to_string());
        }
        for source in &used.sources {
            fields.put("source", source.clone());
        }
        for download in &used.downloads {
            fields.put("download", download.to_string());
        }
        for cache in &used.caches {
            fields.put("cache", cache.directory.clone());
        }
    }
    fields.key().to_string()
}

/// Whether a directory has all that builds have used. Of registries that is not known without asking.
#[must_use]
pub fn is_written(uses: &[BuildUse], to: &CacheTo) -> bool {
    let Target::Directory { path, tag } = &to.target else {
        return false;
    };
    let layout = Layout::at(path);
    let Ok(manifest) = layout.manifest(tag, None) else {
        return false;
    };
    let mut blobs = manifest.layers.iter().chain([&manifest.config]);
    manifest.annotations.get(STATE_NOTE) == Some(&state(uses, to))
        && blobs.all(|blob| {
            let seen = std::fs::metadata(layout.blob_path(&blob.digest));
            seen.is_ok_and(|seen| seen.len() == blob.size)
        })
}

impl Export<'_> {
    /// Writes what these builds have used.
    ///
    /// # Errors
    /// If it cannot be written. Then what was there is there still.
    pub fn write(&self, uses: &[BuildUse], to: &CacheTo) -> Result<(), Failure> {
        let state = state(uses, to);
        let (records, blobs) = match &to.target {
            Target::Inline => return Ok(()),
            Target::Directory { .. } if is_written(uses, to) => return Ok(()),
            Target::Registry { name, .. } if self.state_of(name) == Some(state.clone()) => {
                return Ok(());
            }
            Target::Registry { .. } | Target::Directory { .. } => self.gather(uses, to)?,
        };
        let config = records.to_bytes();
        let mut layers: Vec<Descriptor> = Vec::new();
        let mut sent: Vec<&Sent> = Vec::new();
        for blob in &blobs {
            if layers
                .iter()
                .all(|known| known.digest != blob.descriptor.digest)
            {
                layers.push(blob.descriptor.clone());
                sent.push(blob);
            }
        }
        let mut manifest = Manifest::new(
            MediaTypes::Oci,
            Descriptor::of(CONFIG_TYPE, &config),
            layers,
        );
        manifest.annotations.insert(STATE_NOTE.to_owned(), state);
        let bytes = manifest.to_bytes();
        if bytes.len() as u64 > Content::BYTES_MAX {
            let message = format!(
                "its manifest would have {} bytes, and a manifest may have {}",
                bytes.len(),
                Content::BYTES_MAX
            );
            return Err(
                Failure::new(FailureKind::Machine, "cache::too_large", message)
                    .with_help("write less with `mode=min`"),
            );
        }
        let named = Descriptor::of(MediaTypes::Oci.manifest(), &bytes);
        match &to.target {
            Target::Inline => Ok(()),
            Target::Registry { name, .. } => self.send(
                name,
                &sent,
                Some((&manifest.config, &config)),
                &[(named, bytes)],
            ),
            Target::Directory { path, tag } => {
                // Two builds of one store at once write one after the other.
                let store = self.session.store;
                let lock = store.lock(&format!("cache directory {}", path.display()));
                let _alone = lock.map_err(store_failure)?;
                let layout = Layout::at(path);
                let puts: Vec<Put<'_>> = sent
                    .iter()
                    .map(|sent| Put {
                        digest: sent.descriptor.digest,
                        size: sent.descriptor.size,
                        open: Box::new(|| self.open(sent)),
                    })
                    .collect();
                layout.put_blobs(&puts)?;
                let documents = [(manifest.config.clone(), &config[..]), (named, &bytes[..])];
                layout.put_tagged(&documents, tag)
            }
        }
    }

    /// Packs the layers of a tree ahead of the rest, and sends them to a registry: they are found there later.
    ///
    /// # Errors
    /// If one cannot be packed or sent; whoever writes all of it says so again.
    pub fn write_ahead(&self, tree: &[Key], to: &CacheTo) -> Result<(), Failure> {
        for place in 0..tree.len() {
            if let Some(packed) = self.layer(&tree[place], &tree[..place], to)?
                && let Target::Registry { name, .. } = &to.target
                && !matches!(packed.sent.from, From::Elsewhere)
            {
                self.send(name, &[&packed.sent], None, &[])?;
            }
        }
        Ok(())
    }

    /// The records for the image that is built: of its layers, and of all that it is found by.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn inline(
        &self,
        tree: &[Key],
        results: Vec<(Key, crate::store::OpRecord)>,
        uses: &BuildUse,
        epoch_ms: Option<u64>,
    ) -> Result<String, Failure> {
        let store = self.session.store;
        let mut snapshots = Vec::new();
        for id in tree {
            let known = self.session.diff_id(id)?;
            let (Some((_, size)), Some(mut record)) = (known, self.session.snapshot_record(id))
            else {
                continue;
            };
            let top = match self.session.elsewhere.cached(id) {
                Some(cached) if !self.workshop.snapshots.has(id) => cached.top,
                _ => self.top(id)?,
            };
            at_time(epoch_ms, &mut record.created_ms, &mut record.duration_ms);
            snapshots.push(CachedSnapshot {
                record,
                // The image says which layers it has.
                diff_id: Digest::of(b""),
                size,
                tar: None,
                top: epoch_ms.map_or(top, |epoch_ms| top.at_ms(epoch_ms)),
                blob: None,
                form: None,
            });
        }
        let newest_ms = snapshots
            .iter()
            .map(|snapshot| snapshot.record.created_ms)
            .max();
        let mut records = Records::new(snapshots);
        for (key, mut result) in results {
            at_time(epoch_ms, &mut result.created_ms, &mut result.duration_ms);
            records.results.push(CachedResult::from((key, result)));
        }
        records.results.sort_by_key(|result| result.key);
        records.results.dedup_by_key(|result| result.key);
        let ids = tree.iter().copied().collect();
        records.answers =
            records::answers_of(store, std::slice::from_ref(uses), &ids).map_err(store_failure)?;
        for answer in &mut records.answers {
            // When it was asked last is no part of the image.
            answer.asked_ms = epoch_ms.or(newest_ms).unwrap_or(0);
        }
        records.to_inline().map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "cache::inline",
                "the records of the cache cannot be packed",
                &error,
            )
        })
    }

    /// What a cache in a registry says that it has.
    fn state_of(&self, name: &Name) -> Option<String> {
        match self.session.registries.document(name).ok()?.content {
            Content::Manifest(manifest) => manifest.annotations.get(STATE_NOTE).cloned(),
            Content::Index(_) => None,
        }
    }

    fn send(
        &self,
        name: &Name,
        sent: &[&Sent],
        config: Option<(&Descriptor, &[u8])>,
        manifests: &[(Descriptor, Vec<u8>)],
    ) -> Result<(), Failure> {
        let openers: Vec<_> = sent
            .iter()
            .map(|sent| || self.open(sent).map_err(Into::into))
            .collect();
        let mut blobs: Vec<PushBlob<'_>> = sent
            .iter()
            .zip(&openers)
            .map(|(sent, open)| PushBlob {
                digest: sent.descriptor.digest,
                size: sent.descriptor.size,
                from: self
                    .session
                    .elsewhere
                    .registry_of(&sent.descriptor.digest)
                    .cloned(),
                content: PushContent::File(open),
            })
            .collect();
        blobs.extend(config.map(|(descriptor, bytes)| PushBlob {
            digest: descriptor.digest,
            size: descriptor.size,
            from: None,
            content: PushContent::Bytes(bytes),
        }));
        let push = Push {
            name,
            blobs: &blobs,
            manifests,
            is_tagged: true,
        };
        let pushed = self.session.registries.push(&push, &|_| ());
        pushed.map(drop).map_err(|error| of_registry(&error))
    }

    fn open(&self, sent: &Sent) -> Result<File, Failure> {
        let store = self.session.store;
        let digest = &sent.descriptor.digest;
        let gone = |error: &std::io::Error| {
            let message = format!("the blob {digest} cannot be read");
            Failure::caused(FailureKind::Machine, "cache::blob", message, error)
        };
        match &sent.from {
            From::Store { .. } => store.open_blob_file(digest).map_err(store_failure),
            From::Spool(spool) => File::open(spool.path()).map_err(|error| gone(&error)),
            From::Download { .. } => File::open(store.path().join("http").join(digest.hex()))
                .map_err(|error| gone(&error)),
            From::Elsewhere => {
                let opened = self
                    .session
                    .elsewhere
                    .open(store, &self.session.registries, digest);
                opened?.ok_or_else(|| gone(&std::io::ErrorKind::NotFound.into()))
            }
        }
    }

    fn gather(&self, uses: &[BuildUse], to: &CacheTo) -> Result<(Records, Vec<Sent>), Failure> {
        let (store, elsewhere) = (self.session.store, &self.session.elsewhere);
        let all = records::snapshots_of(store, elsewhere, uses);
        let known: HashSet<Key> = all.iter().map(|record| record.id).collect();
        let wanted: HashSet<Key> = match to.mode {
            Mode::Max => known.clone(),
            Mode::Min => {
                let tree: HashSet<Key> = uses
                    .iter()
                    .flat_map(|used| used.tree.iter().copied())
                    .collect();
                let below = all
                    .iter()
                    .filter(|record| tree.contains(&record.id))
                    .flat_map(|record| &record.below);
                below.copied().chain(tree.iter().copied()).collect()
            }
        };
        let mut blobs = Vec::new();
        let mut snapshots: Vec<CachedSnapshot> = Vec::new();
        let mut packed: HashSet<Key> = HashSet::new();
        for record in all.iter().filter(|record| wanted.contains(&record.id)) {
            if record.below.iter().all(|id| packed.contains(id))
                && let Some(snapshot) = self.packed(record, to, &mut blobs)?
            {
                packed.insert(record.id);
                snapshots.push(snapshot);
            }
        }
        let mut records = Records::new(snapshots);
        records.results = records::results_of(store, elsewhere, &known).map_err(store_failure)?;
        records.answers = records::answers_of(store, uses, &known).map_err(store_failure)?;
        if to.mode == Mode::Max {
            self.mounts(uses, to, &mut records, &mut blobs)?;
            self.downloads(uses, &mut records, &mut blobs)?;
        }
        Ok((records, blobs))
    }

    /// The layer of a snapshot with what is said of it. `None`: it is to be had nowhere, or cannot be a layer.
    fn packed(
        &self,
        record: &Record,
        to: &CacheTo,
        blobs: &mut Vec<Sent>,
    ) -> Result<Option<CachedSnapshot>, Failure> {
        let id = &record.id;
        let Some(Packed { tar, sent, form }) = self.layer(id, &record.below, to)? else {
            return Ok(None);
        };
        let top = match self.session.elsewhere.cached(id) {
            Some(cached) if !self.workshop.snapshots.has(id) => cached.top,
            _ => self.top(id)?,
        };
        let (diff_id, size) = self.session.diff_id(id)?.unwrap_or((tar, 0));
        let snapshot = CachedSnapshot {
            record: record.clone(),
            diff_id,
            size,
            tar: (tar != diff_id).then_some(tar),
            top,
            blob: Some(sent.descriptor.clone()),
            form: form.filter(|_| tar == diff_id),
        };
        blobs.push(sent);
        Ok(Some(snapshot))
    }

    /// The layer of a snapshot upon others: as it was packed before, as it is elsewhere, or packed now.
    fn layer(&self, id: &Key, below: &[Key], to: &CacheTo) -> Result<Option<Packed>, Failure> {
        if let Some(known) = self.known(id, to.compression)? {
            return Ok(Some(known));
        }
        let is_here = self.workshop.snapshots.has(id);
        if let Some(cached) = self.session.elsewhere.cached(id)
            && let Some(descriptor) = cached.blob.clone()
            && (!is_here || !to.force_compression)
        {
            return Ok(Some(Packed {
                tar: cached.tar.unwrap_or(cached.diff_id),
                sent: Sent {
                    descriptor,
                    from: From::Elsewhere,
                },
                form: cached.form.clone(),
            }));
        }
        match is_here {
            true => self.pack(id, below, to.compression),
            false => Ok(None),
        }
    }

    /// A layer that was packed before, and is here still.
    fn known(&self, id: &Key, compression: Compression) -> Result<Option<Packed>, Failure> {
        let store = self.session.store;
        let look = || {
            let index = store.index()?;
            for form in [compression.id(), again(compression)] {
                let (Some(blob), Some(tar)) = (
                    index.layer_blob(id, &form, "blob")?,
                    index.layer_blob(id, &form, "tar")?,
                ) else {
                    continue;
                };
                if let Some(held) = store.lease_blob(&blob.digest)? {
                    let packed = (blob.digest, blob.size);
                    return Ok(Some(Packed::new(
                        tar.digest,
                        packed,
                        compression,
                        Some(held),
                    )));
                }
            }
            Ok(None)
        };
        look().map_err(store_failure)
    }

    /// Packs a layer, and keeps it in the store.
    fn pack(
        &self,
        id: &Key,
        below: &[Key],
        compression: Compression,
    ) -> Result<Option<Packed>, Failure> {
        let store = self.session.store;
        let _core = self.workshop.cores.take();
        let upper = self.workshop.snapshots.layer(id)?;
        let lowers = layers::lowers(&self.workshop.snapshots, below)?;
        let mut writer = store.blob_writer().map_err(store_failure)?;
        let tree = diff::Tree::Upper(&lowers);
        let threads = self.session.work.cores();
        let Blob { tar, digest, size } = match diff::write_blob(
            &upper,
            &tree,
            TimeRewrite::Keep,
            compression,
            threads,
            &mut writer,
        ) {
            Ok(blob) => blob,
            // No layer can have such a file: what lies on it cannot go either, and is made again there.
            Err(diff::DiffError::ReservedName { .. }) => return Ok(None),
            Err(error) => return Err(Failure::from_diagnostic(FailureKind::Machine, &error)),
        };
        let row = |digest, size| LayerBlob {
            digest,
            size,
            media_type: String::new(),
        };
        let keep = || {
            writer.finish_expecting(&digest)?;
            let index = store.index()?;
            let known = index.diff_id(id)?;
            if known.is_none() {
                index.put_diff_ids(&[(*id, tar.diff_id, tar.size)])?;
            }
            let form = match known {
                // A base's: images have it as it came.
                Some((diff_id, _)) if diff_id != tar.diff_id => again(compression),
                _ => compression.id(),
            };
            index.put_layer_blob(id, &form, "blob", &row(digest, size))?;
            index.put_layer_blob(id, &form, "tar", &row(tar.diff_id, 0))?;
            store.lease_blob(&digest)
        };
        let held = keep().map_err(store_failure)?;
        Ok(Some(Packed::new(
            tar.diff_id,
            (digest, size),
            compression,
            held,
        )))
    }

    fn top(&self, id: &Key) -> Result<Top, Failure> {
        let upper = self.workshop.snapshots.layer(id)?;
        Top::of(&upper).map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "cache::top",
                "a layer cannot be read",
                &error,
            )
        })
    }

    fn mounts(
        &self,
        uses: &[BuildUse],
        to: &CacheTo,
        records: &mut Records,
        blobs: &mut Vec<Sent>,
    ) -> Result<(), Failure> {
        let (store, elsewhere) = (self.session.store, &self.session.elsewhere);
        let unreadable = |error: &std::io::Error| {
            Failure::caused(
                FailureKind::Machine,
                "cache::mount",
                "a cache mount cannot be read",
                error,
            )
        };
        let mut seen = HashSet::new();
        for cache in uses.iter().flat_map(|used| &used.caches) {
            let name = &cache.directory;
            if !seen.insert(name) {
                continue;
            }
            let Some(_held) = store.lease_of("caches", name).map_err(store_failure)? else {
                if let Some(mount) = elsewhere.mount(name) {
                    blobs.push(Sent {
                        descriptor: mount.blob.clone(),
                        from: From::Elsewhere,
                    });
                    records.mounts.push(mount.clone());
                }
                continue;
            };
            let tree = Dir::open_trusted(store.path().join("caches").join(name))
                .map_err(|error| unreadable(&error))?;
            let spool = store.tmp_file().map_err(store_failure)?;
            let mut file = spool.file();
            let threads = self.session.work.cores();
            let packed = diff::write_blob(
                &tree,
                &diff::Tree::Whole,
                TimeRewrite::Keep,
                to.compression,
                threads,
                &mut file,
            )
            .map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error))?;
            file.flush()
                .and_then(|()| file.rewind())
                .map_err(|error| unreadable(&error))?;
            let blob = Descriptor::new(MOUNT_TYPE, packed.digest, packed.size);
            records.mounts.push(CachedMount {
                directory: name.clone(),
                id: cache.id.clone(),
                diff_id: packed.tar.diff_id,
                top: Top::of(&tree).map_err(|error| unreadable(&error))?,
                blob: blob.clone(),
            });
            blobs.push(Sent {
                descriptor: blob,
                from: From::Spool(spool),
            });
        }
        Ok(())
    }

    fn downloads(
        &self,
        uses: &[BuildUse],
        records: &mut Records,
        blobs: &mut Vec<Sent>,
    ) -> Result<(), Failure> {
        let (store, elsewhere) = (self.session.store, &self.session.elsewhere);
        let mut digests: Vec<Digest> = uses
            .iter()
            .flat_map(|used| used.downloads.iter().copied())
            .collect();
        digests.sort_by_key(Digest::hex);
        digests.dedup();
        for digest in digests {
            let held = store
                .lease_of("http", &digest.hex())
                .map_err(store_failure)?;
            let (descriptor, from) = match (held, elsewhere.download(&digest)) {
                (Some(held), _) => {
                    let seen = std::fs::metadata(store.path().join("http").join(digest.hex()));
                    let Ok(seen) = seen else { continue };
                    (
                        Descriptor::new(DOWNLOAD_TYPE, digest, seen.len()),
                        From::Download { _held: held },
                    )
                }
                (None, Some(blob)) => (blob.clone(), From::Elsewhere),
                (None, None) => continue,
            };
            records.downloads.push(descriptor.clone());
            blobs.push(Sent { descriptor, from });
        }
        Ok(())
    }
}

/// An image with SOURCE_DATE_EPOCH says of no time when it was.
fn at_time(epoch_ms: Option<u64>, created_ms: &mut u64, duration_ms: &mut u64) {
    if let Some(epoch_ms) = epoch_ms {
        (*created_ms, *duration_ms) = (epoch_ms, 0);
    }
}
