//! An image to registries, under each of its names.

use std::fs::File;

use super::layers::{Origin, Prepared, prepare, variant};
use super::{Export, ExportError, Exported, Form, ImageOutput, Pushing, SourceError};
use crate::digest::Digest;
use crate::image::layer::TimeRewrite;
use crate::image::{Compression, Descriptor, Name};
use crate::registry::{Push, PushBlob, PushContent, Pushed, Registries};

/// What is told while images are sent.
pub trait PushListener: Sync {
    /// It begins; so many bytes could have to be sent.
    fn started(&self, name: &Name, total: u64);
    /// So many bytes more are there.
    fn sent(&self, name: &Name, bytes: u64);
    /// It is there, under this digest.
    fn done(&self, name: &Name, digest: &Digest, pushed: &Pushed);
}

impl Export<'_> {
    /// Sends the image to where its names say. Nothing gets a name before all that it names is there.
    ///
    /// # Errors
    /// If there is no name, or it cannot be sent.
    pub fn push(
        &self,
        output: &ImageOutput,
        registries: &Registries<'_>,
        listener: &dyn PushListener,
    ) -> Result<Exported, ExportError> {
        let names = output.names_beside(self.names);
        if names.is_empty() {
            return Err(ExportError::NoName);
        }
        let prepared = self.ready_to_send(output)?;
        let tagging = match output.pushing {
            Pushing::ByDigest => Tagging::Not,
            Pushing::No | Pushing::ByName => Tagging::Last,
        };
        for name in &names {
            self.send(&prepared, name, tagging, registries, listener)?;
        }
        Ok(Exported {
            manifest: Some(prepared.image.descriptor()),
            config: Some(prepared.image.config_digest()),
            image: Some(Box::new(prepared.image)),
            names,
            devices_skipped: 0,
        })
    }

    /// The image with all of its layers as blobs.
    pub(super) fn ready_to_send(&self, output: &ImageOutput) -> Result<Prepared, ExportError> {
        let prepared = prepare(self, output)?;
        for (index, layer) in prepared.image.layers.iter().enumerate() {
            if prepared.origins[index] == Origin::Written {
                // It has to be in one piece somewhere: its length and digest are said before it is sent.
                let form = Form {
                    compression: Compression::None,
                    times: TimeRewrite::Keep,
                };
                let made = variant(self.source, index, layer, form, self.threads);
                made.map_err(|source| ExportError::Layer {
                    layer: index,
                    source,
                })?;
            }
        }
        Ok(prepared)
    }

    /// Sends an image to one place.
    pub(super) fn send(
        &self,
        prepared: &Prepared,
        name: &Name,
        tagging: Tagging,
        registries: &Registries<'_>,
        listener: &dyn PushListener,
    ) -> Result<(), ExportError> {
        let image = &prepared.image;
        let layers: Vec<Descriptor> = image
            .layers
            .iter()
            .map(|layer| layer.descriptor.clone())
            .collect();
        let open = |digest: &Digest| -> Result<File, SourceError> {
            let blob = self.source.blob(digest)?;
            blob.ok_or_else(|| format!("the blob {digest} is gone from the store").into())
        };
        let sent = Sent {
            registries,
            listener,
            name,
            is_tagged: tagging == Tagging::Last,
        };
        let config = (image.config_digest(), image.config_bytes.as_slice());
        let manifest = (image.descriptor(), image.manifest_bytes.clone());
        sent.image(&layers, config, &manifest, &open, &|digest| {
            self.source.registry_of(digest)
        })
    }
}

/// Whether a manifest gets the name's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tagging {
    /// It is found by its digest alone.
    Not,
    /// It does, when all is there.
    Last,
}

/// An image on its way to one name.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// Where registries are.
    pub registries: &'a Registries<'a>,
    /// Who is told.
    pub listener: &'a dyn PushListener,
    /// Its name there.
    pub name: &'a Name,
    /// Whether it gets its tag.
    pub is_tagged: bool,
}

impl std::fmt::Debug for Sent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sent")
            .field("name", self.name)
            .finish_non_exhaustive()
    }
}

impl Sent<'_> {
    /// Sends layers, configuration and manifest. `from` says in which repository a layer is already.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn image(
        &self,
        layers: &[Descriptor],
        (config, config_bytes): (Digest, &[u8]),
        manifest: &(Descriptor, Vec<u8>),
        open: &(dyn Fn(&Digest) -> Result<File, SourceError> + Sync),
        from: &dyn Fn(&Digest) -> Option<Name>,
    ) -> Result<(), ExportError> {
        let openers: Vec<_> = layers
            .iter()
            .map(|layer| move || open(&layer.digest))
            .collect();
        let mut blobs: Vec<PushBlob<'_>> = Vec::with_capacity(layers.len() + 1);
        for (layer, open) in layers.iter().zip(&openers) {
            // What lies elsewhere stays there; what comes twice is sent once.
            if layer.urls.is_empty() && blobs.iter().all(|blob| blob.digest != layer.digest) {
                blobs.push(PushBlob {
                    digest: layer.digest,
                    size: layer.size,
                    from: from(&layer.digest),
                    content: PushContent::File(open),
                });
            }
        }
        blobs.push(PushBlob {
            digest: config,
            size: config_bytes.len() as u64,
            from: None,
            content: PushContent::Bytes(config_bytes),
        });
        let total = blobs.iter().map(|blob| blob.size).sum();
        self.listener.started(self.name, total);
        let push = Push {
            name: self.name,
            blobs: &blobs,
            manifests: std::slice::from_ref(manifest),
            is_tagged: self.is_tagged,
        };
        let pushed = self
            .registries
            .push(&push, &|bytes| self.listener.sent(self.name, bytes))?;
        self.listener.done(self.name, &manifest.0.digest, &pushed);
        Ok(())
    }
}
