//! Joins the engine with what leaves: hands the layers of a build to the exporters.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use super::super::BuildRequest;
use crate::digest::{Digest, Key};
use crate::engine::base::{BaseImage, Blobs, of_registry};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::solve::{Session, Workshop};
use crate::event::{BuildEvent, EventSink};
use crate::image::layer::TimeRewrite;
use crate::image::{Assembled, Name, Timestamp};
use crate::registry::Pushed;
use crate::ship::export::{
    Export, ExportError, Form, LayerSource, Output, PushListener, Pushing, SourceError, Variant,
};
use crate::store::LayerBlob;

/// The layers of one build's result.
pub(super) struct Layers<'a> {
    session: &'a Session<'a>,
    workshop: &'a Workshop,
    base: Option<&'a BaseImage>,
    snapshots: &'a [Key],
}

impl<'a> Layers<'a> {
    pub(super) fn new(
        session: &'a Session<'a>,
        workshop: &'a Workshop,
        base: Option<&'a BaseImage>,
        snapshots: &'a [Key],
    ) -> Self {
        Self {
            session,
            workshop,
            base,
            snapshots,
        }
    }
}

impl LayerSource for Layers<'_> {
    fn blob(&self, digest: &Digest) -> Result<Option<File>, SourceError> {
        if self.session.store.has_blob(digest) {
            return Ok(Some(self.session.store.open_blob_file(digest)?));
        }
        match self.base.map(|base| &base.blobs) {
            Some(Blobs::Layout(layout)) => {
                match File::open(layout.join("blobs/sha256").join(digest.hex())) {
                    Ok(file) => Ok(Some(file)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Some(Blobs::Registry(name)) => {
                let mut layers = self.base.iter().flat_map(|base| &base.layers);
                let Some(layer) = layers.find(|layer| layer.descriptor.digest == *digest) else {
                    return Ok(None);
                };
                let store = self.session.store;
                self.session
                    .registries
                    .fetch(store, name, &layer.descriptor, &|_| ())?;
                Ok(Some(store.open_blob_file(digest)?))
            }
            Some(Blobs::Store) | None => Ok(None),
        }
    }

    fn write_tar(
        &self,
        layer: usize,
        times: TimeRewrite,
        out: &mut dyn Write,
    ) -> Result<(), SourceError> {
        layers::write_tar(self.workshop, self.snapshots, layer, times, out)?;
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
            return Ok(None);
        };
        if !self.session.store.has_blob(&blob.digest) {
            return Ok(None);
        }
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
        let base = self.base?;
        match &base.blobs {
            Blobs::Registry(name) => {
                let mut layers = base.layers.iter();
                layers
                    .any(|layer| layer.descriptor.digest == *digest)
                    .then(|| name.clone())
            }
            Blobs::Store | Blobs::Layout(_) => None,
        }
    }

    fn write_root(&self, times: TimeRewrite, out: &mut dyn Write) -> Result<(), SourceError> {
        layers::write_root(self.workshop, self.snapshots, times, out)?;
        Ok(())
    }
}

/// What was written of an image, if one was.
pub(super) struct Shipped {
    pub(super) manifest: crate::image::Descriptor,
    pub(super) config: Digest,
}

/// Writes every output that is a file or directory. Returns the first image among them.
pub(super) fn write_all(
    request: &BuildRequest,
    assembled: &Assembled,
    source: &Layers<'_>,
    epoch: Option<Timestamp>,
    stdout: Option<OwnedFd>,
) -> Result<Option<Shipped>, Vec<Failure>> {
    let names: Vec<Name> = request
        .tags
        .iter()
        .filter_map(|tag| tag.parse().ok())
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let export = Export {
        image: assembled,
        source,
        names: &names,
        epoch,
        threads,
    };
    let mut stdout: Box<dyn Write> = match stdout {
        Some(fd) => Box::new(File::from(fd)),
        None => Box::new(std::io::sink()),
    };
    let mut shipped = None;
    for output in &request.outputs {
        let exported = match output {
            Output::CacheOnly => continue,
            Output::Image(image) if image.pushing == Pushing::No => continue,
            Output::Image(image) => {
                let heard = Heard::new(source.session.events);
                export.push(image, &source.session.registries, &heard)
            }
            Output::Oci(_) | Output::Docker(_) | Output::Tar { .. } | Output::Local { .. } => {
                export.write(output, &mut stdout)
            }
        };
        let exported = exported.map_err(|error| vec![of_export(&error)])?;
        if let (None, Some(manifest), Some(config)) = (&shipped, exported.manifest, exported.config)
        {
            shipped = Some(Shipped { manifest, config });
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

pub(super) fn of_export(error: &ExportError) -> Failure {
    let kind = match error {
        ExportError::Registry(error) => return of_registry(error),
        ExportError::NoEpoch | ExportError::NoFile(_) | ExportError::NoName => FailureKind::Input,
        _ => FailureKind::Machine,
    };
    Failure::from_diagnostic(kind, error)
}
