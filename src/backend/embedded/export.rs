//! Joins the engine with what leaves: hands the layers of a build to the exporters.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use super::super::BuildRequest;
use crate::digest::{Digest, Key};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::plan::{BaseImage, Blobs};
use crate::engine::solve::{Session, Workshop};
use crate::image::layer::TimeRewrite;
use crate::image::{Assembled, Name, Timestamp};
use crate::ship::export::{Export, ExportError, Form, LayerSource, Output, SourceError, Variant};
use crate::store::{LayerBlob, Lease};

/// The layers of one build's result.
pub(super) struct Layers<'a> {
    session: &'a Session<'a>,
    workshop: &'a Workshop,
    base: Option<&'a BaseImage>,
    snapshots: &'a [Key],
    /// Packed layers that are used again.
    held: std::sync::Mutex<Vec<Lease>>,
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
            held: std::sync::Mutex::default(),
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
        if matches!(output, Output::Image(_) | Output::CacheOnly) {
            continue;
        }
        let exported = export
            .write(output, &mut stdout)
            .map_err(|error| vec![of_export(&error)])?;
        if let (None, Some(manifest), Some(config)) = (&shipped, exported.manifest, exported.config)
        {
            shipped = Some(Shipped { manifest, config });
        }
    }
    Ok(shipped)
}

fn of_export(error: &ExportError) -> Failure {
    let kind = match error {
        ExportError::NoEpoch | ExportError::NoFile(_) => FailureKind::Input,
        _ => FailureKind::Machine,
    };
    Failure::from_diagnostic(kind, error)
}
