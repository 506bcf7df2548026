//! Joins the engine with what leaves: hands the layers of a build to the exporters.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::super::BuildRequest;
use crate::digest::{Digest, Key};
use crate::engine::base::{self, BaseImage, Blobs, of_registry};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::solve::{Session, Workshop};
use crate::event::{BuildEvent, EventSink};
use crate::image::layer::TimeRewrite;
use crate::image::{Assembled, Content, Descriptor, Layer, Name, Timestamp};
use crate::registry::Pushed;
use crate::ship::export::{
    self, Export, ExportError, Exported, Form, ImageOutput, Joined, LayerSource, LayerTimes,
    Origin, Output, PushListener, Pushing, SourceError, Variant, prepare,
};
use crate::store::{LayerBlob, Lease, Store, StoreError, StoredImage};

/// The layers of one build's result.
pub(super) struct Layers<'a> {
    session: &'a Session<'a>,
    workshop: Option<&'a Workshop<'a>>,
    base: Option<&'a BaseImage>,
    snapshots: &'a [Key],
    /// Packed layers that are used again.
    held: std::sync::Mutex<Vec<Lease>>,
}

/// Only who is given a workshop can make layers.
#[derive(Debug, thiserror::Error)]
#[error("the layer has to be packed first")]
struct NotPacked;

impl<'a> Layers<'a> {
    /// Without a workshop only what is packed already can be had.
    pub(super) fn new(
        session: &'a Session<'a>,
        workshop: Option<&'a Workshop<'a>>,
        base: Option<&'a BaseImage>,
        snapshots: &'a [Key],
    ) -> Self {
        Self {
            session,
            workshop,
            base,
            snapshots,
            held: std::sync::Mutex::default(),
        }
    }
}

impl Layers<'_> {
    fn workshop(&self) -> Result<&Workshop<'_>, NotPacked> {
        self.workshop.ok_or(NotPacked)
    }

    /// Fetches what is still elsewhere, because its files are wanted after all.
    fn have(&self, snapshots: &[Key]) -> Result<(), SourceError> {
        let Session {
            store,
            registries,
            elsewhere,
            ..
        } = self.session;
        let fetched = elsewhere.fetch(
            snapshots.iter().copied(),
            &self.workshop()?.snapshots,
            store,
            registries,
        );
        fetched.map_err(Into::into)
    }
}

impl LayerSource for Layers<'_> {
    fn has_blob(&self, digest: &Digest) -> bool {
        let in_layout = || match self.base.map(|base| &base.blobs) {
            Some(Blobs::Layout(layout)) => layout.join("blobs/sha256").join(digest.hex()).is_file(),
            _ => false,
        };
        self.session.store.has_blob(digest) || self.registry_of(digest).is_some() || in_layout()
    }

    fn blob(&self, digest: &Digest) -> Result<Option<File>, SourceError> {
        if self.session.store.has_blob(digest) {
            return Ok(Some(self.session.store.open_blob_file(digest)?));
        }
        let cached =
            self.session
                .elsewhere
                .open(self.session.store, &self.session.registries, digest);
        if let Some(file) = cached? {
            return Ok(Some(file));
        }
        match self.base.map(|base| &base.blobs) {
            Some(Blobs::Layout(layout)) => {
                match File::open(layout.join("blobs/sha256").join(digest.hex())) {
                    Ok(file) => Ok(Some(file)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Some(Blobs::Registry(_) | Blobs::Store) => {
                let known = self.base.and_then(|base| base.registry_of(digest));
                let Some((name, descriptor)) = known else {
                    return Ok(None);
                };
                let store = self.session.store;
                self.session
                    .registries
                    .fetch(store, &name, descriptor, &|_| ())?;
                Ok(Some(store.open_blob_file(digest)?))
            }
            None => Ok(None),
        }
    }

    fn write_tar(
        &self,
        layer: usize,
        times: TimeRewrite,
        out: &mut dyn Write,
    ) -> Result<(), SourceError> {
        self.have(&self.snapshots[..=layer])?;
        layers::write_tar(self.workshop()?, self.snapshots, layer, times, out)?;
        Ok(())
    }

    fn kept(&self, layer: usize, form: Form) -> Result<Option<Variant>, SourceError> {
        let index = self.session.store.index()?;
        let id = form.id();
        let snapshot = &self.snapshots[layer];
        let (Some(blob), Some(tar)) = (
            index.layer_blob(snapshot, &id, "blob")?,
            index.layer_blob(snapshot, &id, "tar")?,
        ) else {
            let packed = self.session.elsewhere.packed(snapshot, &id);
            let packed = packed.filter(|_| !self.session.store.has_snapshot(snapshot));
            return Ok(packed.map(|(diff_id, blob)| Variant {
                diff_id,
                digest: blob.digest,
                size: blob.size,
            }));
        };
        let Some(lease) = self.session.store.lease_blob(&blob.digest)? else {
            return Ok(None);
        };
        self.held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(lease);
        Ok(Some(Variant {
            diff_id: tar.digest,
            digest: blob.digest,
            size: blob.size,
        }))
    }

    fn keep(
        &self,
        layer: usize,
        form: Form,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<Variant, SourceError>,
    ) -> Result<Variant, SourceError> {
        self.workshop()?;
        let store = self.session.store;
        let mut writer = store.blob_writer()?;
        let variant = write(&mut writer)?;
        writer.finish_expecting(&variant.digest)?;
        let index = store.index()?;
        let id = form.id();
        let row = |digest, size| LayerBlob {
            digest,
            size,
            media_type: String::new(),
        };
        index.put_layer_blob(
            &self.snapshots[layer],
            &id,
            "blob",
            &row(variant.digest, variant.size),
        )?;
        index.put_layer_blob(&self.snapshots[layer], &id, "tar", &row(variant.diff_id, 0))?;
        Ok(variant)
    }

    fn registry_of(&self, digest: &Digest) -> Option<Name> {
        if let Some(cache) = self.session.elsewhere.registry_of(digest) {
            return Some(cache.clone());
        }
        let (name, _) = self.base?.registry_of(digest)?;
        Some(name)
    }

    fn write_root(&self, times: TimeRewrite, out: &mut dyn Write) -> Result<(), SourceError> {
        self.have(self.snapshots)?;
        layers::write_root(self.workshop()?, self.snapshots, times, out)?;
        Ok(())
    }
}

/// Whether an output is an image in the store.
pub(super) fn is_stored(output: &Output) -> bool {
    matches!(output, Output::Image(image) if image.pushing == Pushing::No)
}

/// What was written of an image, if one was.
pub(super) struct Shipped {
    pub(super) image: Assembled,
    /// How it was written.
    pub(super) form: ImageOutput,
}

fn names(request: &BuildRequest) -> Vec<Name> {
    let tags = request.tags.iter();
    tags.filter_map(|tag| tag.parse().ok()).collect()
}

/// Whether every image that is asked for can leave without a layer that would have to be made for it.
pub(super) fn are_packed(
    request: &BuildRequest,
    assembled: &Assembled,
    source: &Layers<'_>,
    epoch: Option<Timestamp>,
) -> bool {
    let export = Export {
        image: assembled,
        source,
        names: &names(request),
        epoch,
        threads: request.work.cores(),
    };
    request.outputs.iter().all(|output| match output {
        Output::Image(image) => is_packed(&export, image),
        _ => true,
    })
}

/// Whether an image can leave without a layer that would have to be made for it.
pub(super) fn is_packed(export: &Export<'_>, output: &ImageOutput) -> bool {
    prepare(export, output).is_ok_and(|prepared| !prepared.origins.contains(&Origin::Written))
}

/// Writes every output. Returns the first image among them.
pub(super) fn write_all(
    request: &BuildRequest,
    assembled: &Assembled,
    source: &Layers<'_>,
    epoch: Option<Timestamp>,
    stdout: Option<OwnedFd>,
) -> Result<Option<Shipped>, Vec<Failure>> {
    let names = names(request);
    let export = Export {
        image: assembled,
        source,
        names: &names,
        epoch,
        threads: request.work.cores(),
    };
    let mut stdout = writer(stdout);
    let mut shipped = None;
    for output in &request.outputs {
        let exported = match output {
            Output::CacheOnly => continue,
            Output::Image(image) if image.pushing == Pushing::No => stored(&export, image, source)?,
            Output::Image(image) => {
                let heard = Heard::new(source.session.events);
                export
                    .push(image, &source.session.registries, &heard)
                    .map_err(|error| vec![of_export(&error)])?
            }
            output => export
                .write(output, &mut *stdout)
                .map_err(|error| vec![of_export(&error)])?,
        };
        let form = match output {
            Output::Image(form) | Output::Oci(form) | Output::Docker(form) => form,
            _ => continue,
        };
        if let (None, Some(image)) = (&shipped, exported.image) {
            let (image, form) = (*image, form.clone());
            shipped = Some(Shipped { image, form });
        }
    }
    Ok(shipped)
}

/// Says how a push goes.
pub(super) struct Heard<'a> {
    events: &'a dyn EventSink,
    state: Mutex<(u64, u64)>,
}

impl<'a> Heard<'a> {
    pub(super) fn new(events: &'a dyn EventSink) -> Self {
        Self {
            events,
            state: Mutex::default(),
        }
    }
}

impl PushListener for Heard<'_> {
    fn started(&self, name: &Name, total: u64) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (0, total);
        let image = name.to_string();
        self.events.emit(BuildEvent::PushStarted { image });
    }

    fn sent(&self, name: &Name, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += bytes;
        self.events.emit(BuildEvent::PushProgress {
            image: name.to_string(),
            bytes: state.0,
            total: state.1,
        });
    }

    fn done(&self, name: &Name, digest: &Digest, pushed: &Pushed) {
        self.events.emit(BuildEvent::PushDone {
            image: name.to_string(),
            digest: *digest,
            bytes: pushed.bytes,
            blobs_sent: pushed.sent,
            blobs_mounted: pushed.mounted,
            blobs_there: pushed.there,
        });
    }
}

/// Puts the image into the store in the form that is asked for, under all of its names.
fn stored(
    export: &Export<'_>,
    output: &ImageOutput,
    source: &Layers<'_>,
) -> Result<Exported, Vec<Failure>> {
    let prepared = prepare(export, output).map_err(|error| vec![of_export(&error)])?;
    let (image, store) = (&prepared.image, source.session.store);
    let of_store = |error: StoreError| vec![Failure::from_diagnostic(FailureKind::Machine, &error)];
    // What is there must still be there when it is named.
    let _kept = store.keep_all().map_err(of_store)?;
    for (place, (layer, origin)) in image.layers.iter().zip(&prepared.origins).enumerate() {
        let digest = layer.descriptor.digest;
        if *origin == Origin::Store {
            let found = source.blob(&digest);
            let found = found.map_err(|error| {
                vec![of_export(&ExportError::Layer {
                    layer: place,
                    source: error,
                })]
            })?;
            if found.is_none() {
                return Err(of_store(StoreError::NoSuchBlob { digest }));
            }
        }
    }
    for bytes in [&image.config_bytes, &image.manifest_bytes] {
        store.put(bytes.as_slice()).map_err(of_store)?;
    }
    // Other times are other files: they are unpacked from what was made, where they are needed.
    let layers = match output.times {
        LayerTimes::Keep => source.snapshots.to_vec(),
        LayerTimes::ClampToEpoch => base::layers(&image.config, &image.manifest.layers)
            .map_err(|reason| vec![Failure::new(FailureKind::Bug, "export::layers", reason)])?
            .into_iter()
            .map(|layer| layer.snapshot)
            .collect(),
    };
    let names: Vec<Name> = export.names.iter().chain(&output.names).cloned().collect();
    let digest = image.digest();
    let all = names
        .iter()
        .map(Name::to_string)
        .chain([digest.to_string()]);
    for name in all {
        let image = StoredImage {
            name,
            digest,
            stored_ms: source.session.now_ms(),
            layers: layers.clone(),
            pulled_from: None,
            base: source.base.and_then(BaseImage::as_base),
        };
        store.put_image(&image).map_err(of_store)?;
    }
    Ok(Exported {
        manifest: Some(image.descriptor()),
        config: Some(image.config_digest()),
        image: Some(Box::new(prepared.image)),
        names,
        devices_skipped: 0,
    })
}

/// Images of the store that are to be written, each as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaveRequest {
    /// The store's directory, absolute.
    pub store: PathBuf,
    /// Which images, by digest, and the names that they get there.
    pub images: Vec<(Digest, Vec<Name>)>,
    /// Where to.
    pub output: Output,
    /// The images are one, for several platforms.
    pub joined: Option<JoinedNames>,
}

/// Of images that leave as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinedNames {
    /// Its names.
    pub names: Vec<Name>,
    /// SOURCE_DATE_EPOCH.
    pub epoch: Option<i64>,
}

/// Writes images of the store, in the engine child. `stdout` is where an output to standard output goes.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn save(
    request: &SaveRequest,
    stdout: Option<OwnedFd>,
    session: &Session<'_>,
    workshop: &Workshop,
) -> Result<Option<Descriptor>, Vec<Failure>> {
    let store = session.store;
    let damaged = |reason| {
        vec![Failure::new(
            FailureKind::Machine,
            "save::damaged",
            format!("an image of the store is damaged: {reason}"),
        )]
    };
    let mut images = Vec::new();
    for (digest, names) in &request.images {
        let found = store
            .image(&digest.to_string())
            .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])?
            .ok_or_else(|| damaged(format!("{digest} is gone")))?;
        let image = base::of_store(&found, store).map_err(damaged)?;
        images.push((
            assembled(&image, store).map_err(damaged)?,
            found.layers,
            names,
            image,
        ));
    }
    let sources: Vec<Layers<'_>> = images
        .iter()
        .map(|(_, snapshots, _, base)| Layers::new(session, Some(workshop), Some(base), snapshots))
        .collect();
    let exports: Vec<Export<'_>> = images
        .iter()
        .zip(&sources)
        .map(|((image, _, names, _), source)| Export {
            image,
            source,
            names,
            epoch: request
                .joined
                .as_ref()
                .and_then(|joined| Some(Timestamp::from_seconds(joined.epoch?))),
            threads: session.work.cores(),
        })
        .collect();
    let mut out = writer(stdout);
    let written = match &request.joined {
        None => export::save(&exports, &request.output, &mut *out).map(|()| None),
        Some(JoinedNames { names, .. }) => {
            let joined = Joined {
                exports: &exports,
                names,
            };
            let exported = match &request.output {
                Output::Image(image) => {
                    let heard = Heard::new(session.events);
                    joined.push(image, &session.registries, &heard)
                }
                output => joined.write(output, &mut *out),
            };
            exported.map(|exported| exported.manifest)
        }
    };
    written.map_err(|error| vec![of_export(&error)])
}

/// An image of the store, with the very bytes of its documents.
fn assembled(image: &BaseImage, store: &Store) -> Result<Assembled, String> {
    let read = |digest: &Digest| {
        let bytes = store.read_blob(digest, Content::BYTES_MAX);
        bytes.map_err(|error| error.to_string())
    };
    let manifest_bytes = read(&image.digest)?;
    let manifest = match Content::parse("", &manifest_bytes).map_err(|error| error.to_string())? {
        Content::Manifest(manifest) => *manifest,
        Content::Index(_) => return Err(format!("{} is an index", image.digest)),
    };
    let layers = image.layers.iter().map(|layer| Layer {
        diff_id: layer.diff_id,
        descriptor: layer.descriptor.clone(),
        created: None,
    });
    Ok(Assembled {
        config: image.config.clone(),
        config_bytes: read(&manifest.config.digest)?,
        layers: layers.collect(),
        base_layers: 0,
        manifest,
        manifest_bytes,
    })
}

/// Standard output, as the engine child has it.
fn writer(stdout: Option<OwnedFd>) -> Box<dyn Write + Send> {
    match stdout {
        Some(fd) => Box::new(File::from(fd)),
        None => Box::new(std::io::sink()),
    }
}

pub(super) fn of_export(error: &ExportError) -> Failure {
    let kind = match error {
        ExportError::Registry(error) => return of_registry(error),
        ExportError::NoEpoch | ExportError::NoFile(_) | ExportError::NoName => FailureKind::Input,
        _ => FailureKind::Machine,
    };
    Failure::from_diagnostic(kind, error)
}
