//! From the layers as the store has them to layers in the form that is asked for, and the image that names those.

use std::io::{self, Read, Write};

use super::{
    AnnotationPlace, Export, ExportError, Form, ImageOutput, LayerSource, LayerTimes,
    OtherCompressions, SourceError, Variant,
};
use crate::digest::Hasher;
use crate::image::compress::{Encoder, decoder};
use crate::image::layer::TimeRewrite;
use crate::image::{Assembled, Compression, Descriptor, Layer, layer_compression};

/// An image whose blobs can all be written.
#[derive(Debug)]
pub struct Prepared {
    /// The image; its descriptors are those of the blobs that leave.
    pub image: Assembled,
    /// For each layer, where its blob comes from.
    pub origins: Vec<Origin>,
}

/// Where a layer's blob comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It is in the store.
    Store,
    /// It is the uncompressed tar, written when it is wanted.
    Written,
}

/// Brings every layer into the form that an output asks for.
pub fn prepare(export: &Export<'_>, output: &ImageOutput) -> Result<Prepared, ExportError> {
    let times = match (output.times, export.epoch) {
        (LayerTimes::Keep, _) => TimeRewrite::Keep,
        (LayerTimes::ClampToEpoch, Some(epoch)) => TimeRewrite::Clamp(epoch.seconds),
        (LayerTimes::ClampToEpoch, None) => return Err(ExportError::NoEpoch),
    };
    let mut layers = Vec::new();
    let mut origins = Vec::new();
    for (index, layer) in export.image.layers.iter().enumerate() {
        let failed = |source| ExportError::Layer {
            layer: index,
            source,
        };
        let is_stored = export.source.has_blob(&layer.descriptor.digest);
        let now = layer_compression(&layer.descriptor.media_type);
        // What was made here leaves as it is asked for, whatever the store happens to have of it.
        let is_ours = layer.created.is_some();
        let stays = match (is_stored && !is_ours, output.others) {
            (true, OtherCompressions::Keep) => true,
            (true, OtherCompressions::Convert) => {
                now.is_none_or(|now| now.is_same_method_as(output.compression))
            }
            (false, _) => output.compression == Compression::None && times == TimeRewrite::Keep,
        };
        if stays {
            origins.push(if is_stored {
                Origin::Store
            } else {
                Origin::Written
            });
            layers.push(layer.clone());
            continue;
        }
        // A base's layers keep their times: they were not made here.
        let times = match is_stored && !is_ours {
            true => TimeRewrite::Keep,
            false => times,
        };
        let form = Form {
            compression: output.compression,
            times,
        };
        let variant = variant(export.source, index, layer, form, export.threads).map_err(failed)?;
        let mut descriptor = Descriptor::new(
            output.types.layer(output.compression),
            variant.digest,
            variant.size,
        );
        descriptor
            .annotations
            .clone_from(&layer.descriptor.annotations);
        layers.push(Layer {
            diff_id: variant.diff_id,
            descriptor,
            created: layer.created,
        });
        origins.push(Origin::Store);
    }
    let image = renamed(export.image, layers, output);
    Ok(Prepared { image, origins })
}

/// The image with other layers of the same content, with notes or in another family of types. Its documents stay byte for
/// byte, if nothing in them is another thing: who wrote them may have written them otherwise.
fn renamed(image: &Assembled, layers: Vec<Layer>, output: &ImageOutput) -> Assembled {
    let notes = output.notes(AnnotationPlace::Manifest, Some(&image.platform()));
    if layers == image.layers && notes.is_empty() && image.types() == output.types {
        return image.clone();
    }
    let mut config = image.config.clone();
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let (base_layers, types) = (image.base_layers, output.types);
    let mut renamed = match config.rootfs.diff_ids == image.config.rootfs.diff_ids {
        true => {
            let bytes = image.config_bytes.clone();
            Assembled::with(config, bytes, layers, base_layers, types)
        }
        false => Assembled::of(config, layers, base_layers, types),
    };
    let annotations = &mut renamed.manifest.annotations;
    annotations.clone_from(&image.manifest.annotations);
    annotations.extend(notes);
    renamed.manifest_bytes = renamed.manifest.to_bytes();
    renamed
}

/// One layer in a form: the kept blob, or one that is made and kept now. May be called as soon as a step is done, while
/// others still run: `known` is what is known of the layer then, `layer` its place in the image to be.
pub fn variant(
    source: &dyn LayerSource,
    layer: usize,
    known: &Layer,
    form: Form,
    threads: usize,
) -> Result<Variant, SourceError> {
    if let Some(kept) = source.kept(layer, form)? {
        return Ok(kept);
    }
    let stored = source.blob(&known.descriptor.digest)?;
    source.keep(layer, form, &mut |out| {
        let blob = Counted {
            out,
            hasher: Hasher::default(),
        };
        let mut tar = Counted {
            out: Encoder::new(blob, form.compression, threads)?,
            hasher: Hasher::default(),
        };
        match &stored {
            Some(file) if form.times == TimeRewrite::Keep => {
                let (_, mut content) = decoder(file)?;
                copy(&mut content, &mut tar)?;
            }
            _ => source.write_tar(layer, form.times, &mut tar)?,
        }
        let (diff_id, _) = tar.hasher.finish();
        let expected = known.diff_id;
        if form.times == TimeRewrite::Keep && diff_id != expected {
            return Err(format!("its content is {diff_id}, but the image says {expected}").into());
        }
        let (digest, size) = tar.out.finish()?.hasher.finish();
        Ok(Variant {
            diff_id,
            digest,
            size,
        })
    })
}

/// `io::copy` with larger steps.
pub(super) fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => to.write_all(&buffer[..got])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes what goes by.
pub(super) struct Counted<W> {
    pub(super) out: W,
    pub(super) hasher: Hasher,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
