//! Images from one registry to another, as they are: what is copied keeps its digest.

use std::collections::HashSet;

use super::Registries;
use super::error::{Error, Result};
use super::pull::{DEPTH_MAX, Document};
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

/// What becomes of what refers to an image: signatures, lists of what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Referring {
    /// It stays where it is.
    Stays,
    /// It comes along, and what refers to that.
    Comes,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Copied {
    /// What the new name stands for.
    pub descriptor: Descriptor,
    /// What it took.
    pub pushed: Pushed,
}

/// Documents, those that others name first, and the blobs that they name, each with an image that has it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) manifests: Vec<(Descriptor, Vec<u8>)>,
    blobs: Vec<(Name, Descriptor)>,
    seen: HashSet<Digest>,
}

impl Registries<'_> {
    /// Copies an image. Blobs that the other side lacks, and cannot take over itself, go by way of the store.
    ///
    /// # Errors
    /// If it is not to be had, or cannot be sent.
    pub fn copy(
        &self,
        store: &Store,
        (from, to): (&Name, &Name),
        (selection, referring): (&Selection, Referring),
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
        let mut pushed = self.send(store, &gathered, to, progress)?;
        if referring == Referring::Comes {
            let referrers = self.referring(from, gathered)?;
            if !referrers.manifests.is_empty() {
                let untagged = Name {
                    tag: None,
                    ..to.clone()
                };
                pushed += self.send(store, &referrers, &untagged, progress)?;
            }
        }
        Ok(Copied { descriptor, pushed })
    }

    /// Sends what was gathered; the last document gets the name's tag, if that has one.
    pub(super) fn send(
        &self,
        store: &Store,
        gathered: &Gathered,
        to: &Name,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed> {
        let openers: Vec<_> = gathered
            .blobs
            .iter()
            .map(|(from, blob)| {
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
            .map(|((from, blob), open)| PushBlob {
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
        self.push(&push, progress)
    }

    /// Adds what a name stands for, and all that it names.
    pub(super) fn gather(
        &self,
        name: &Name,
        selection: &Selection,
        gathered: &mut Gathered,
        depth: usize,
    ) -> Result<()> {
        let document = self.document(name)?;
        self.gather_document(name, document, selection, gathered, depth)
    }

    pub(super) fn gather_document(
        &self,
        name: &Name,
        document: Document,
        selection: &Selection,
        gathered: &mut Gathered,
        depth: usize,
    ) -> Result<()> {
        if !gathered.seen.insert(document.descriptor.digest) {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            return Err(Error::Unusable {
                name: name.to_string(),
                why: format!("its indices are nested more than {DEPTH_MAX} deep"),
            });
        }
        match (&document.content, selection) {
            (Content::Index(index), Selection::Platform(platform)) => {
                let chosen = choice::choose(&index.manifests, platform, None).map_err(|has| {
                    Error::NoPlatform {
                        name: name.to_string(),
                        wanted: platform.to_string(),
                        has,
                    }
                })?;
                let chosen = name.with_digest(chosen.digest);
                return self.gather(&chosen, selection, gathered, depth + 1);
            }
            (Content::Index(index), Selection::All) => {
                for listed in &index.manifests {
                    let listed = name.with_digest(listed.digest);
                    self.gather(&listed, selection, gathered, depth + 1)?;
                }
            }
            (Content::Manifest(manifest), _) => {
                // Layers that lie elsewhere stay there.
                let layers = manifest.layers.iter().filter(|layer| layer.urls.is_empty());
                for blob in layers.chain([&manifest.config]) {
                    if gathered.seen.insert(blob.digest) {
                        gathered.blobs.push((name.clone(), blob.clone()));
                    }
                }
            }
        }
        gathered
            .manifests
            .push((document.descriptor, document.bytes));
        Ok(())
    }

    /// What refers to what was gathered, to that again, and so on; a subject before what refers to it.
    fn referring(&self, name: &Name, gathered: Gathered) -> Result<Gathered> {
        let mut subjects: Vec<Digest> = digests(&gathered.manifests);
        let mut referrers = Gathered {
            seen: gathered.seen,
            ..Gathered::default()
        };
        for depth in 0.. {
            let before = referrers.manifests.len();
            for subject in subjects {
                for listed in self.referrers(name, &subject)? {
                    let listed = name.with_digest(listed.digest);
                    self.gather(&listed, &Selection::All, &mut referrers, depth)?;
                }
            }
            subjects = digests(&referrers.manifests[before..]);
            if subjects.is_empty() {
                break;
            }
        }
        Ok(referrers)
    }
}

fn digests(manifests: &[(Descriptor, Vec<u8>)]) -> Vec<Digest> {
    let digests = manifests.iter().map(|(descriptor, _)| descriptor.digest);
    digests.collect()
}
