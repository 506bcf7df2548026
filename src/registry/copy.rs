//! Images from one registry to another, as they are: what is copied keeps its digest.

use std::collections::HashSet;

use super::Registries;
use super::error::{Error, Result};
use super::push::{Push, PushBlob, PushContent, Pushed};
use crate::digest::Digest;
use crate::image::{Content, Descriptor, Name, Platform, choice};
use crate::store::Store;

/// What of an image is copied that is there for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it: the index and everything that it names.
    All,
    /// The image for one platform.
    Platform(Platform),
}

/// What was copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// What the new name stands for.
    pub descriptor: Descriptor,
    /// What it took.
    pub pushed: Pushed,
}

/// Documents, those that others name first, and the blobs that they name.
#[derive(Default)]
struct Gathered {
    manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
}

impl Registries {
    /// Copies an image. Blobs that the other side lacks, and cannot take over itself, go by way of the store.
    ///
    /// # Errors
    /// If it is not to be had, or cannot be sent.
    pub fn copy(
        &self,
        store: &Store,
        (from, to): (&Name, &Name),
        selection: &Selection,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Copied> {
        let mut gathered = Gathered::default();
        self.gather(from, selection, &mut gathered, 0)?;
        let Some((descriptor, _)) = gathered.manifests.last().cloned() else {
            return Err(Error::Unusable {
                name: from.to_string(),
                why: "there is nothing in it".to_owned(),
            });
        };
        let openers: Vec<_> = gathered
            .blobs
            .iter()
            .map(|blob| {
                move || -> std::result::Result<std::fs::File, Box<dyn std::error::Error + Send + Sync>> {
                    self.fetch(store, from, blob, &|_| ())?;
                    Ok(store.open_blob_file(&blob.digest)?)
                }
            })
            .collect();
        let blobs: Vec<PushBlob<'_>> = gathered
            .blobs
            .iter()
            .zip(&openers)
            .map(|(blob, open)| PushBlob {
                digest: blob.digest,
                size: blob.size,
                from: Some(from.clone()),
                content: PushContent::File(open),
            })
            .collect();
        let push = Push {
            name: to,
            blobs: &blobs,
            manifests: &gathered.manifests,
            is_tagged: to.tag.is_some(),
        };
        let pushed = self.push(&push, progress)?;
        Ok(Copied { descriptor, pushed })
    }

    fn gather(
        &self,
        name: &Name,
        selection: &Selection,
        gathered: &mut Gathered,
        depth: usize,
    ) -> Result<()> {
        let document = self.document(name)?;
        if !gathered.seen.insert(document.descriptor.digest) {
            return Ok(());
        }
        if depth > super::pull::DEPTH_MAX {
            return Err(Error::Unusable {
                name: name.to_string(),
                why: format!(
                    "its indices are nested more than {} deep",
                    super::pull::DEPTH_MAX
                ),
            });
        }
        let part = |descriptor: &Descriptor| Name {
            digest: Some(descriptor.digest),
            ..name.clone()
        };
        match (&document.content, selection) {
            (Content::Index(index), Selection::Platform(platform)) => {
                let chosen = choice::choose(&index.manifests, platform, None).map_err(|has| {
                    Error::NoPlatform {
                        name: name.to_string(),
                        wanted: platform.to_string(),
                        has,
                    }
                })?;
                return self.gather(&part(chosen), selection, gathered, depth + 1);
            }
            (Content::Index(index), Selection::All) => {
                for listed in &index.manifests {
                    self.gather(&part(listed), selection, gathered, depth + 1)?;
                }
            }
            (Content::Manifest(manifest), _) => {
                // Layers that lie elsewhere stay there.
                let layers = manifest.layers.iter().filter(|layer| layer.urls.is_empty());
                for blob in std::iter::once(&manifest.config).chain(layers) {
                    if gathered.seen.insert(blob.digest) {
                        gathered.blobs.push(blob.clone());
                    }
                }
            }
        }
        gathered
            .manifests
            .push((document.descriptor, document.bytes));
        Ok(())
    }
}
