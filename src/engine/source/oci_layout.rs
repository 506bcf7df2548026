//! `oci-layout://PATH[:TAG][@DIGEST]`: an image that lies on this machine as an OCI layout (image-layout.md). Every document
//! and every layer is checked against its digest and size before anything believes it; `urls` are never followed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Fault;
use crate::digest::{Digest, Hasher};
use crate::image::{
    Content, Descriptor, ImageConfig, Index, Layer, Manifest, ManifestError, Platform, annotation,
    choice, media_type,
};
use crate::sys::root::{Root, Scope};

/// A layout that is open.
#[derive(Debug)]
pub struct Layout {
    root: Root,
    path: PathBuf,
    index: Index,
}

/// One image of a layout, for one platform. Its layers' blobs can be opened.
#[derive(Debug, Clone, PartialEq)]
pub struct LayoutImage {
    /// The manifest's descriptor.
    pub descriptor: Descriptor,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
    /// Its layers, bottom first, with the descriptors they have there.
    pub layers: Vec<Layer>,
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The one with this tag, or this full name.
    Tag(&'a str),
    /// The one with this digest, named in the index or only lying there.
    Digest(Digest),
    /// The only one, else the one with the tag `latest`.
    Only,
}

impl std::fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "tag `{tag}`"),
            Self::Digest(digest) => write!(f, "digest {digest}"),
            Self::Only => f.write_str("tag `latest`"),
        }
    }
}

/// Why an image cannot be taken from a layout.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LayoutError {
    /// Not an OCI layout at all.
    #[error("`{}` is not an OCI layout: {reason}", path.display())]
    #[diagnostic(
        code(oci_layout::none),
        help(
            "an OCI layout is a directory with `oci-layout`, `index.json` and `blobs`; `skopeo copy docker://IMAGE oci:DIRECTORY:TAG` makes one, and an archive is to be unpacked first"
        )
    )]
    NotALayout {
        /// Where it was looked for.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
        /// What the system said.
        #[source]
        source: Option<io::Error>,
    },
    /// Nothing in it is what was asked for.
    #[error("the OCI layout `{}` has nothing with the {wanted}", path.display())]
    #[diagnostic(code(oci_layout::not_found), help("it has {has}"))]
    NotFound {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// The image is for other platforms.
    #[error("the image in the OCI layout `{}` is not there for {wanted}", path.display())]
    #[diagnostic(
        code(oci_layout::platform),
        help("it is there for {has}; choose with `--platform`")
    )]
    NoPlatform {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// A blob that is named is not there, or cannot be read.
    #[error("the {what} {digest} of the OCI layout `{}` cannot be read", path.display())]
    #[diagnostic(
        code(oci_layout::blob),
        help("the layout is incomplete; copy the image again")
    )]
    Blob {
        /// The layout.
        path: PathBuf,
        /// What it would have been.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A blob's content is not what its name says.
    #[error("the {what} {digest} of the OCI layout `{}` is damaged: {reason}", path.display())]
    #[diagnostic(code(oci_layout::damaged), help("copy the image again"))]
    Damaged {
        /// The layout.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What differs.
        reason: String,
    },
    /// A document that is no sound manifest or index.
    #[error("the manifest {digest} of the OCI layout `{}` cannot be used", path.display())]
    #[diagnostic(code(oci_layout::manifest))]
    Manifest {
        /// The layout.
        path: PathBuf,
        /// Which.
        digest: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// An image that is sound, but not one to build upon.
    #[error("the image {digest} of the OCI layout `{}` cannot be built upon: {reason}", path.display())]
    #[diagnostic(code(oci_layout::unusable))]
    Unusable {
        /// The layout.
        path: PathBuf,
        /// Its manifest.
        digest: Digest,
        /// Why.
        reason: String,
    },
}

impl LayoutError {
    /// What kind of failure it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NotALayout { .. } | Self::NotFound { .. } => Fault::Input,
            _ => Fault::Source,
        }
    }
}

/// An index may name an index, and so on, this often (limit `manifest.max_depth`).
const DEPTH_MAX: usize = 4;

impl Layout {
    /// Opens the layout in a directory.
    pub fn open(path: &Path) -> Result<Self, LayoutError> {
        let not = |reason| {
            move |source| LayoutError::NotALayout {
                path: path.to_owned(),
                reason,
                source: Some(source),
            }
        };
        let root = Root::open_trusted(path, Scope::Beneath)
            .map_err(not("it cannot be opened as a directory"))?;
        let read = |name| {
            root.file(name)
                .and_then(|file| bounded(&file, Content::BYTES_MAX))
        };
        let marker = read("oci-layout").map_err(not("it has no `oci-layout`"))?;
        let version = serde_json::from_slice::<serde_json::Value>(&marker)
            .ok()
            .and_then(|marker| {
                marker
                    .get("imageLayoutVersion")?
                    .as_str()
                    .map(str::to_owned)
            });
        if version.as_deref() != Some("1.0.0") {
            let reason = "its `oci-layout` does not say version 1.0.0";
            return Err(LayoutError::NotALayout {
                path: path.to_owned(),
                reason,
                source: None,
            });
        }
        let index = read("index.json").map_err(not("it has no `index.json`"))?;
        let unusable = |source| LayoutError::Manifest {
            path: path.to_owned(),
            digest: "`index.json`".to_owned(),
            source,
        };
        match Content::parse("", &index).map_err(unusable)? {
            Content::Index(index) => Ok(Self {
                root,
                path: path.to_owned(),
                index,
            }),
            Content::Manifest(_) => {
                let reason = "its `index.json` is a manifest";
                Err(LayoutError::NotALayout {
                    path: path.to_owned(),
                    reason,
                    source: None,
                })
            }
        }
    }

    /// Finds an image and reads its manifest and configuration. Its layers are not read yet.
    pub fn image(
        &self,
        wanted: Wanted<'_>,
        platform: &Platform,
    ) -> Result<LayoutImage, LayoutError> {
        let mut candidates = self.candidates(wanted)?;
        let mut seen = Vec::new();
        for _ in 0..=DEPTH_MAX {
            let descriptor = self.choose(&candidates, wanted, platform)?;
            let bytes = self.document(&descriptor, "manifest", Content::BYTES_MAX)?;
            let unusable = |source| LayoutError::Manifest {
                path: self.path.clone(),
                digest: descriptor.digest.to_string(),
                source,
            };
            match Content::parse(&descriptor.media_type, &bytes).map_err(unusable)? {
                Content::Manifest(manifest) => {
                    return self.complete(descriptor, *manifest, bytes, platform);
                }
                Content::Index(index) => {
                    seen.push(descriptor.digest);
                    candidates = index.manifests;
                }
            }
        }
        Err(self.unusable(
            seen.last().copied().unwrap_or_else(|| Digest::of(b"")),
            format!(
                "its indices are nested more than {DEPTH_MAX} deep (limit `manifest.max_depth`)"
            ),
        ))
    }

    /// Opens a layer's blob. What is read is checked: an error comes at its end if it is not what its descriptor says.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Verified<File>, LayoutError> {
        let file = self.file(descriptor, "layer")?;
        Ok(Verified::new(file, descriptor))
    }

    fn candidates(&self, wanted: Wanted<'_>) -> Result<Vec<Descriptor>, LayoutError> {
        let all = &self.index.manifests;
        let noted = |entry: &Descriptor, key: &str, value: &str| {
            entry.annotations.get(key).is_some_and(|it| it == value)
        };
        let tagged = |tag: &str| -> Vec<Descriptor> {
            let is_it = |entry: &&Descriptor| {
                noted(entry, annotation::REF_NAME, tag) || noted(entry, annotation::IMAGE_NAME, tag)
            };
            all.iter().filter(is_it).cloned().collect()
        };
        let found = match wanted {
            Wanted::Tag(tag) => tagged(tag),
            Wanted::Digest(digest) => match all.iter().find(|entry| entry.digest == digest) {
                Some(entry) => vec![entry.clone()],
                // A pinned image need not be named: `@DIGEST` of one platform's manifest is only in a nested index.
                None => self.unnamed(digest)?.into_iter().collect(),
            },
            Wanted::Only => {
                let first = all.first().map(|entry| entry.digest);
                match all.iter().all(|entry| Some(entry.digest) == first) {
                    true => all.first().cloned().into_iter().collect(),
                    false => match tagged("latest") {
                        // One image that is there for several platforms, without an index around it.
                        none if none.is_empty()
                            && all.iter().all(|entry| entry.platform.is_some()) =>
                        {
                            all.clone()
                        }
                        latest => latest,
                    },
                }
            }
        };
        if found.is_empty() {
            let tags: Vec<String> = all
                .iter()
                .map(|entry| {
                    let named = entry
                        .annotations
                        .get(annotation::REF_NAME)
                        .map(|tag| format!("`{tag}`"));
                    named.unwrap_or_else(|| entry.digest.to_string())
                })
                .collect();
            let has = if tags.is_empty() {
                "no images".to_owned()
            } else {
                tags.join(", ")
            };
            return Err(LayoutError::NotFound {
                path: self.path.clone(),
                wanted: wanted.to_string(),
                has,
            });
        }
        Ok(found)
    }

    /// A manifest or index that lies among the blobs.
    fn unnamed(&self, digest: Digest) -> Result<Option<Descriptor>, LayoutError> {
        let Ok(file) = self.root.file(blob_path(&digest)) else {
            return Ok(None);
        };
        let failed = |source| LayoutError::Blob {
            path: self.path.clone(),
            what: "manifest",
            digest,
            source,
        };
        let bytes = bounded(&file, Content::BYTES_MAX).map_err(failed)?;
        let kind = match Content::parse("", &bytes) {
            Ok(Content::Manifest(manifest)) => manifest
                .media_type
                .unwrap_or_else(|| media_type::MANIFEST.to_owned()),
            Ok(Content::Index(index)) => index
                .media_type
                .unwrap_or_else(|| media_type::INDEX.to_owned()),
            Err(source) => {
                return Err(LayoutError::Manifest {
                    path: self.path.clone(),
                    digest: digest.to_string(),
                    source,
                });
            }
        };
        Ok(Some(Descriptor::new(kind, digest, bytes.len() as u64)))
    }

    /// The candidate for a platform.
    fn choose(
        &self,
        candidates: &[Descriptor],
        wanted: Wanted<'_>,
        platform: &Platform,
    ) -> Result<Descriptor, LayoutError> {
        let digest = match wanted {
            Wanted::Digest(digest) => Some(digest),
            Wanted::Tag(_) | Wanted::Only => None,
        };
        let chosen = choice::choose(candidates, platform, digest);
        chosen.cloned().map_err(|has| LayoutError::NoPlatform {
            path: self.path.clone(),
            wanted: platform.to_string(),
            has,
        })
    }

    fn complete(
        &self,
        descriptor: Descriptor,
        manifest: Manifest,
        manifest_bytes: Vec<u8>,
        platform: &Platform,
    ) -> Result<LayoutImage, LayoutError> {
        let unusable = |reason: String| self.unusable(descriptor.digest, reason);
        choice::check_manifest(&manifest).map_err(unusable)?;
        let config_bytes = self.document(&manifest.config, "configuration", Content::BYTES_MAX)?;
        let config = choice::check_config(&manifest, &config_bytes).map_err(unusable)?;
        let its = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        if descriptor.platform.is_none() && !its.is_same_as(platform) {
            let has = its.to_string();
            return Err(LayoutError::NoPlatform {
                path: self.path.clone(),
                wanted: platform.to_string(),
                has,
            });
        }
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids);
        let layers = layers
            .map(|(descriptor, diff_id)| Layer {
                diff_id: *diff_id,
                descriptor: descriptor.clone(),
                created: None,
            })
            .collect();
        Ok(LayoutImage {
            descriptor,
            manifest,
            manifest_bytes,
            config,
            config_bytes,
            layers,
        })
    }

    /// The whole of a small blob, checked.
    fn document(
        &self,
        descriptor: &Descriptor,
        what: &'static str,
        most: u64,
    ) -> Result<Vec<u8>, LayoutError> {
        let digest = descriptor.digest;
        let damaged = |reason| LayoutError::Damaged {
            path: self.path.clone(),
            what,
            digest,
            reason,
        };
        if descriptor.size > most {
            return Err(damaged(format!(
                "it is said to have {} bytes; {most} is the limit (`manifest.max_bytes`)",
                descriptor.size
            )));
        }
        let file = self.file(descriptor, what)?;
        let mut bytes = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or_default());
        Verified::new(file, descriptor)
            .read_to_end(&mut bytes)
            .map_err(|source| match source.kind() {
                io::ErrorKind::InvalidData => damaged(source.to_string()),
                _ => LayoutError::Blob {
                    path: self.path.clone(),
                    what,
                    digest,
                    source,
                },
            })?;
        Ok(bytes)
    }

    fn file(&self, descriptor: &Descriptor, what: &'static str) -> Result<File, LayoutError> {
        let digest = descriptor.digest;
        let failed = |source| LayoutError::Blob {
            path: self.path.clone(),
            what,
            digest,
            source,
        };
        self.root.file(blob_path(&digest)).map_err(failed)
    }

    fn unusable(&self, digest: Digest, reason: String) -> LayoutError {
        LayoutError::Unusable {
            path: self.path.clone(),
            digest,
            reason,
        }
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn bounded(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        let message = format!("it has more than {most} bytes (limit `manifest.max_bytes`)");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Content that is checked against its descriptor while it is read: more than its size is never handed out, and its end
/// is an `InvalidData` error if size or digest are others.
#[derive(Debug)]
pub struct Verified<R> {
    input: R,
    hasher: Option<Hasher>,
    expected: Digest,
    left: u64,
}

impl<R: Read> Verified<R> {
    /// Content that should be what `descriptor` says.
    pub fn new(input: R, descriptor: &Descriptor) -> Self {
        Self {
            input,
            hasher: Some(Hasher::default()),
            expected: descriptor.digest,
            left: descriptor.size,
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        if buffer.is_empty() {
            return Ok(0);
        }
        let Some(hasher) = &mut self.hasher else {
            return Ok(0);
        };
        let got = self.input.read(buffer)?;
        if got as u64 > self.left {
            return wrong("it is longer than it was said to be".to_owned());
        }
        self.left -= got as u64;
        hasher.update(&buffer[..got]);
        if got > 0 {
            return Ok(got);
        }
        if self.left > 0 {
            return wrong(format!(
                "it is {} bytes shorter than it was said to be",
                self.left
            ));
        }
        let found = self.hasher.take().map(Hasher::finish);
        match found {
            Some((found, _)) if found != self.expected => {
                wrong(format!("its content is {found}, not {}", self.expected))
            }
            _ => Ok(0),
        }
    }
}

#[cfg(test)]
#[path = "oci_layout_tests.rs"]
mod tests;
