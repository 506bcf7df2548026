//! Images of one build, one for each platform, as one image.

use std::io::Write;

use super::{
    AnnotationPlace, Export, ExportError, Exported, ImageOutput, Output, Platforms, PushListener,
    Pushing, archive, below, local, place, prepare, registry::Tagging,
};
use crate::image::{Assembled, Descriptor, Index, Name};
use crate::registry::{Push, Registries};

/// The images, and the name of them all.
#[derive(Debug, Clone, Copy)]
pub struct Joined<'a> {
    /// Each of them, with no name of its own.
    pub exports: &'a [Export<'a>],
    /// Names beside those of the output (`-t`).
    pub names: &'a [Name],
}

impl Joined<'_> {
    /// Whether several platforms can leave so.
    ///
    /// # Errors
    /// Why they cannot.
    pub fn can_be(output: &Output) -> Result<(), ExportError> {
        match output {
            Output::Docker(_) => Err(ExportError::ManyPlatforms),
            Output::Tar {
                platforms: Platforms::Together,
                ..
            }
            | Output::Local {
                platforms: Platforms::Together,
                ..
            } => Err(ExportError::PlatformsTogether),
            _ => Ok(()),
        }
    }

    /// Writes one output. `stdout` is used where its destination is `-`.
    ///
    /// # Errors
    /// If one cannot be had, or the destination not be written, or has no way to say several platforms.
    pub fn write(
        &self,
        output: &Output,
        stdout: &mut (dyn Write + Send),
    ) -> Result<Exported, ExportError> {
        Self::can_be(output)?;
        match output {
            Output::Oci(image) => self.layout(image, stdout),
            Output::Docker(_) => Err(ExportError::ManyPlatforms),
            Output::Tar { dest, .. } => {
                place::written(dest, stdout, |out| {
                    let mut out = place::Watched::new(out);
                    let written = below::write_roots(self.exports, &mut out);
                    written.map_err(|source| match out.failure() {
                        Some(error) => place::Failure::Destination(error),
                        None => place::Failure::Other(ExportError::Root(source)),
                    })
                })?;
                Ok(Exported::of_root())
            }
            Output::Local { dest, .. } => {
                let mut exported = Exported::of_root();
                for export in self.exports {
                    let directory = dest.join(export.platform_directory());
                    exported.devices_skipped += local::write(export, &directory)?;
                }
                Ok(exported)
            }
            Output::Image(_) => Err(ExportError::NoFile("image")),
            Output::CacheOnly => Err(ExportError::NoFile("cacheonly")),
        }
    }

    /// Sends them to where the names say: each by its digest, then what names them all.
    ///
    /// # Errors
    /// If there is no name, or they cannot be sent.
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
        let mut images = Vec::new();
        for export in self.exports {
            let prepared = export.ready_to_send(output)?;
            for name in &names {
                export.send(&prepared, name, Tagging::Not, registries, listener)?;
            }
            images.push(prepared.image);
        }
        let (descriptor, bytes) = index_of(&images, output);
        let manifests = [(descriptor.clone(), bytes)];
        for name in &names {
            listener.started(name, 0);
            let push = Push {
                name,
                blobs: &[],
                manifests: &manifests,
                is_tagged: output.pushing != Pushing::ByDigest,
            };
            let pushed = registries.push(&push, &|_| ())?;
            listener.done(name, &descriptor.digest, &pushed);
        }
        Ok(Exported {
            manifest: Some(descriptor),
            config: None,
            image: None,
            names,
            devices_skipped: 0,
        })
    }

    fn layout(
        &self,
        output: &ImageOutput,
        stdout: &mut (dyn Write + Send),
    ) -> Result<Exported, ExportError> {
        let mut items = Vec::new();
        for export in self.exports {
            items.push(archive::Item {
                export,
                prepared: prepare(export, output)?,
                names: Vec::new(),
            });
        }
        let images = items.iter().map(|item| &item.prepared.image);
        let (descriptor, bytes) = index_of(images, output);
        let names = output.names_beside(self.names);
        let one = archive::One {
            descriptor,
            bytes,
            names: names.clone(),
        };
        archive::write_items(&items, Some(&one), output, archive::Form::Oci, stdout)?;
        Ok(Exported {
            manifest: Some(one.descriptor),
            config: None,
            image: None,
            names,
            devices_skipped: 0,
        })
    }
}

/// The index that lists images, each with its platform and its notes.
fn index_of<'i>(
    images: impl IntoIterator<Item = &'i Assembled>,
    output: &ImageOutput,
) -> (Descriptor, Vec<u8>) {
    let listed = images.into_iter().map(|image| {
        let mut listed = image.descriptor();
        let notes = AnnotationPlace::ManifestDescriptor;
        let notes = output.notes(notes, Some(&image.platform()));
        listed.annotations.extend(notes);
        listed.annotations.sort_keys();
        listed
    });
    let mut index = Index::new(output.types, listed.collect());
    index.annotations = output.notes(AnnotationPlace::Index, None);
    let bytes = index.to_bytes();
    let mut descriptor = Descriptor::of(index.media_type.unwrap_or_default(), &bytes);
    descriptor.annotations = output.notes(AnnotationPlace::IndexDescriptor, None);
    (descriptor, bytes)
}
