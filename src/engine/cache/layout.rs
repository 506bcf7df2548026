//! A cache in a directory: an OCI layout, which other tools can look into and copy. Of several caches each has its tag.
//! What is replaced goes: blobs that nothing in the directory names any more are deleted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use super::records::{BYTES_MAX, unusable};
use crate::digest::Digest;
use crate::engine::failure::{Failure, FailureKind};
use crate::image::annotation::REF_NAME;
use crate::image::{Content, Descriptor, Index, Manifest, MediaTypes};

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Layout(PathBuf);

/// What is put into it.
pub(super) struct Put<'a> {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) open: Box<dyn Fn() -> Result<File, Failure> + 'a>,
}

impl Layout {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn index(&self) -> io::Result<Index> {
        Ok(serde_json::from_slice(&fs::read(
            self.0.join("index.json"),
        )?)?)
    }

    /// The manifest under a tag, or the one with a digest.
    pub(super) fn manifest(&self, tag: &str, digest: Option<Digest>) -> Result<Manifest, Failure> {
        let none = |error: &io::Error| {
            let message = format!("there is no cache in {}", self.0.display());
            Failure::caused(FailureKind::Input, "cache::layout", message, error)
        };
        let index = self.index().map_err(|error| none(&error))?;
        let is_it = |entry: &&Descriptor| match digest {
            Some(digest) => entry.digest == digest,
            None => entry
                .annotations
                .get(REF_NAME)
                .is_some_and(|its| its == tag),
        };
        let Some(entry) = index.manifests.iter().find(is_it) else {
            let wanted = digest.map_or_else(|| tag.to_owned(), |digest| digest.to_string());
            return Err(unusable(format!("there is no `{wanted}` in it")));
        };
        let bytes = self.read(&entry.digest, Content::BYTES_MAX)?;
        match Content::parse("", &bytes) {
            Ok(Content::Manifest(manifest)) => Ok(*manifest),
            Ok(Content::Index(index)) if names_buildkit(&index) => Err(of_buildkit()),
            Ok(Content::Index(_)) => Err(unusable("it is an index of images")),
            Err(error) => Err(unusable(format!("its manifest cannot be used: {error}"))),
        }
    }

    /// A small blob, compared with its digest.
    pub(super) fn read(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(limit_bytes + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                let message = format!("the blob {digest} of the cache cannot be read");
                Failure::caused(FailureKind::Input, "cache::layout", message, &error)
            })?;
        let found = Digest::of(&bytes);
        match found == *digest {
            true => Ok(bytes),
            false => Err(unusable(format!(
                "its blob {digest} is damaged: its content is {found}"
            ))),
        }
    }

    /// Puts blobs into it that are not there.
    pub(super) fn put_blobs(&self, blobs: &[Put<'_>]) -> Result<(), Failure> {
        let directory = self.0.join("blobs/sha256");
        fs::create_dir_all(&directory).map_err(|error| self.unwritable(&error))?;
        for blob in blobs {
            let path = self.blob_path(&blob.digest);
            if fs::metadata(&path).is_ok_and(|seen| seen.len() == blob.size) {
                continue;
            }
            let mut from = (blob.open)()?;
            let unfinished = path.with_extension("unfinished");
            let mut copy = || -> io::Result<()> {
                let mut to = File::create(&unfinished)?;
                io::copy(&mut from, &mut to)?;
                to.sync_all()?;
                fs::rename(&unfinished, &path)
            };
            if let Err(error) = copy() {
                drop(fs::remove_file(&unfinished));
                return Err(self.unwritable(&error));
            }
        }
        Ok(())
    }

    /// Puts documents into it, the last of which gets a tag. Then what nothing names any more goes.
    pub(super) fn put_tagged(
        &self,
        documents: &[(Descriptor, &[u8])],
        tag: &str,
    ) -> Result<(), Failure> {
        let put = || -> io::Result<()> {
            for (descriptor, bytes) in documents {
                self.swap(&self.blob_path(&descriptor.digest), bytes)?;
            }
            self.swap(
                &self.0.join("oci-layout"),
                b"{\"imageLayoutVersion\":\"1.0.0\"}",
            )?;
            let mut index = self
                .index()
                .unwrap_or_else(|_| Index::new(MediaTypes::Oci, Vec::new()));
            let has_tag = |entry: &Descriptor| {
                entry
                    .annotations
                    .get(REF_NAME)
                    .is_some_and(|its| its == tag)
            };
            index.manifests.retain(|entry| !has_tag(entry));
            if let Some((last, _)) = documents.last() {
                let mut entry = last.clone();
                entry
                    .annotations
                    .insert(REF_NAME.to_owned(), tag.to_owned());
                index.manifests.push(entry);
            }
            self.swap(&self.0.join("index.json"), &index.to_bytes())?;
            self.shed(&index)
        };
        put().map_err(|error| self.unwritable(&error))
    }

    /// A file takes the place of another whole.
    fn swap(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let unfinished = path.with_extension("unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(unfinished, path)
    }

    /// Deletes the blobs that nothing names, unless it is not certain what is named.
    fn shed(&self, index: &Index) -> io::Result<()> {
        let mut named = HashSet::new();
        for entry in &index.manifests {
            if !self.name_all(entry, &mut named) {
                return Ok(());
            }
        }
        for entry in fs::read_dir(self.0.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|name| format!("sha256:{name}").parse().ok());
            if digest.is_none_or(|digest: Digest| !named.contains(&digest)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Gathers what a manifest or index names; false if it cannot be read.
    fn name_all(&self, entry: &Descriptor, named: &mut HashSet<Digest>) -> bool {
        named.insert(entry.digest);
        let bytes = self.read(&entry.digest, Content::BYTES_MAX);
        match bytes.ok().and_then(|bytes| Content::parse("", &bytes).ok()) {
            Some(Content::Manifest(manifest)) => {
                named.extend(
                    manifest
                        .layers
                        .iter()
                        .chain([&manifest.config])
                        .map(|blob| blob.digest),
                );
                true
            }
            Some(Content::Index(index)) => index.manifests.iter().all(|entry| {
                named.insert(entry.digest);
                let kind = &entry.media_type;
                // A cache of BuildKit's is an index that names layers.
                let is_document = kind.contains("manifest") || kind.contains("index");
                !is_document || self.name_all(entry, named)
            }),
            None => false,
        }
    }

    fn unwritable(&self, error: &io::Error) -> Failure {
        let message = format!("the cache in {} cannot be written", self.0.display());
        Failure::caused(FailureKind::Machine, "cache::write", message, error)
    }
}

/// Whether an index is a cache of BuildKit's.
pub(super) fn names_buildkit(index: &Index) -> bool {
    let mut entries = index.manifests.iter();
    entries.any(|entry| entry.media_type == super::BUILDKIT_TYPE)
}

/// BuildKit's keys are made of other things: nothing in its caches could be found by ours.
pub(super) fn of_buildkit() -> Failure {
    unusable("it is a cache that BuildKit has written, and BuildKit finds results by other keys: nothing in it could be found")
        .with_help("give shmocker a reference or directory of its own")
}

pub(super) const RECORDS_MAX: u64 = BYTES_MAX;
