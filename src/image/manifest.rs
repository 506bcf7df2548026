//! Descriptors, manifests and indices, with OCI's media types and Docker's, and the strict reading of what a stranger
//! wrote: a document that could be taken for either is refused (CVE-2021-41190), sizes are bounded, digests are SHA-256.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Compression, Platform};
use crate::digest::Digest;

/// Media types by name.
pub mod media_type {
    /// An OCI manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer as plain tar; `+gzip` and `+zstd` follow where it is compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A Docker manifest (schema 2).
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// A Docker layer as plain tar; `.gzip` and `.zstd` follow where it is compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
}

/// Annotations by name.
pub mod annotation {
    /// The tag of a manifest in a layout.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The full name of a manifest in a layout, as containerd and buildx write it.
    pub const IMAGE_NAME: &str = "io.containerd.image.name";
    /// When the image was made.
    pub const CREATED: &str = "org.opencontainers.image.created";
}

/// Which of the two families of media types is written.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's (schema 2).
    Docker,
}

impl MediaTypes {
    /// Of a manifest.
    #[must_use]
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Oci => media_type::MANIFEST,
            Self::Docker => media_type::DOCKER_MANIFEST,
        }
    }

    /// Of an index.
    #[must_use]
    pub const fn index(self) -> &'static str {
        match self {
            Self::Oci => media_type::INDEX,
            Self::Docker => media_type::DOCKER_INDEX,
        }
    }

    /// Of a configuration.
    #[must_use]
    pub const fn config(self) -> &'static str {
        match self {
            Self::Oci => media_type::CONFIG,
            Self::Docker => media_type::DOCKER_CONFIG,
        }
    }

    /// Of a layer that is compressed so.
    #[must_use]
    pub const fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::None) => media_type::LAYER,
            (Self::Oci, Compression::Gzip(_)) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd(_)) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Compression::None) => media_type::DOCKER_LAYER,
            (Self::Docker, Compression::Gzip(_)) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            (Self::Docker, Compression::Zstd(_)) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            }
        }
    }

    /// The same layer in this family; media types that belong to neither stay as they are.
    #[must_use]
    pub fn of_layer(self, media_type: &str) -> String {
        match layer_compression(media_type) {
            Some(compression)
                if !media_type.contains("nondistributable") && !media_type.contains("foreign") =>
            {
                self.layer(compression).to_owned()
            }
            _ => media_type.to_owned(),
        }
    }
}

/// How a layer of this media type is compressed, with that compression's usual level; `None` for what is no layer.
#[must_use]
pub fn layer_compression(media_type: &str) -> Option<Compression> {
    let tail = media_type
        .strip_prefix(media_type::LAYER)
        .or_else(|| {
            media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
        })
        .or_else(|| media_type.strip_prefix(media_type::DOCKER_LAYER))
        .or_else(|| {
            media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar")
        })?;
    match tail {
        "" => Some(Compression::None),
        "+gzip" | ".gzip" => Some(Compression::GZIP),
        "+zstd" | ".zstd" => Some(Compression::ZSTD),
        _ => None,
    }
}

/// Names a blob, with its size and type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its content's digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where else it lies. Never followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes, in order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub annotations: IndexMap<String, String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What else it held.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Descriptor {
    /// A descriptor without notes.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: IndexMap::new(),
            platform: None,
            other: serde_json::Map::new(),
        }
    }

    /// Of bytes that are at hand.
    #[must_use]
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Notes, in order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub annotations: IndexMap<String, String>,
    /// What else it held.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Manifest {
    /// A manifest of a configuration and layers that exist.
    #[must_use]
    pub fn new(types: MediaTypes, config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(types.manifest().to_owned()),
            config,
            layers,
            annotations: IndexMap::new(),
            other: serde_json::Map::new(),
        }
    }

    /// Its canonical bytes: what its digest is of.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// Several manifests under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it lists.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Notes, in order.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub annotations: IndexMap<String, String>,
    /// What else it held.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Index {
    /// An index of manifests that exist.
    #[must_use]
    pub fn new(types: MediaTypes, manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(types.index().to_owned()),
            manifests,
            annotations: IndexMap::new(),
            other: serde_json::Map::new(),
        }
    }

    /// Its canonical bytes: what its digest is of.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// The bytes of a value that has only text, numbers, lists and maps with text keys.
pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("such a value always has a JSON form")
}

/// A document that a descriptor can name.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

/// A manifest or index that cannot be taken as one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too many bytes.
    #[error(
        "it has {size} bytes; a manifest may have {} (limit `manifest.max_bytes`)",
        Content::BYTES_MAX
    )]
    TooLarge {
        /// How many.
        size: u64,
    },
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("it is not well formed")]
    Malformed(#[source] serde_json::Error),
    /// It can be read as two things.
    #[error("it has both `{0}` and `{1}`, so it could be taken for two different things")]
    Ambiguous(&'static str, &'static str),
    /// It says of itself something else than its descriptor does.
    #[error("it says of itself that it is `{inside}`, but was named as `{outside}`")]
    OtherType {
        /// Its own mediaType.
        inside: String,
        /// The one it was named with.
        outside: String,
    },
    /// Docker's first schema.
    #[error("it is in Docker's obsolete schema 1; push the image again with a current tool")]
    SchemaOne,
    /// A type that is no image.
    #[error("`{0}` is neither an image manifest nor an index")]
    UnknownType(String),
}

impl Content {
    /// Larger documents are not read (limit `manifest.max_bytes`).
    pub const BYTES_MAX: u64 = 4 << 20;

    /// Reads what a descriptor with this media type names. Pass an empty type where none was given.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > Self::BYTES_MAX {
            return Err(ManifestError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
            return Err(ManifestError::SchemaOne);
        }
        let is_manifest = shape.layers.is_some() || shape.config.is_some();
        if is_manifest && shape.manifests.is_some() {
            return Err(ManifestError::Ambiguous("layers", "manifests"));
        }
        if let Some(inside) = shape.media_type
            && !media_type.is_empty()
            && inside != media_type
        {
            return Err(ManifestError::OtherType {
                inside,
                outside: media_type.to_owned(),
            });
        }
        match media_type {
            media_type::MANIFEST | media_type::DOCKER_MANIFEST => Self::manifest(bytes),
            media_type::INDEX | media_type::DOCKER_INDEX => Self::index(bytes),
            "" if is_manifest => Self::manifest(bytes),
            "" if shape.manifests.is_some() => Self::index(bytes),
            other => Err(ManifestError::UnknownType(other.to_owned())),
        }
    }

    fn manifest(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes)
            .map(|manifest| Self::Manifest(Box::new(manifest)))
            .map_err(ManifestError::Malformed)
    }

    fn index(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes)
            .map(Self::Index)
            .map_err(ManifestError::Malformed)
    }
}

/// The fields that tell one kind of document from another. serde refuses a key that comes twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_could_be_two_things_is_refused() {
        let check = |media_type: &str, text: &str, sense: &str| {
            let error = Content::parse(media_type, text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(sense), "{text}: {error}");
        };
        check(
            "",
            r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#,
            "both",
        );
        check("", r#"{"schemaVersion":1,"fsLayers":[]}"#, "schema 1");
        check(
            media_type::MANIFEST,
            r#"{"schemaVersion":2,"mediaType":"x"}"#,
            "says of itself",
        );
        check(
            "",
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#,
            "well formed",
        );
        check("", r#"{"schemaVersion":2}"#, "neither");
        check("text/html", r#"{"schemaVersion":2}"#, "neither");
    }

    #[test]
    fn what_is_not_known_survives_reading_and_writing() {
        let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","size":3,"data":"YWJj"},"layers":[],"subject":{"x":1}}"#;
        let Content::Manifest(manifest) =
            Content::parse(media_type::MANIFEST, text.as_bytes()).unwrap()
        else {
            panic!("a manifest");
        };
        assert_eq!(String::from_utf8(manifest.to_bytes()).unwrap(), text);
    }

    #[test]
    fn layer_types_change_family_and_keep_their_compression() {
        let gzip = MediaTypes::Docker.layer(Compression::GZIP);
        assert_eq!(
            MediaTypes::Oci.of_layer(gzip),
            MediaTypes::Oci.layer(Compression::GZIP)
        );
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert_eq!(MediaTypes::Oci.of_layer(foreign), foreign);
        assert_eq!(layer_compression("application/json"), None);
    }
}
