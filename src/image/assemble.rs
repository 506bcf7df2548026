//! From a configuration, a base and what the instructions made, to an image whose parts agree: as many diff ids as layers,
//! as many history entries that are not empty, one `created` that follows from the others.

use super::manifest::{self, Descriptor, Manifest, MediaTypes};
use super::{History, ImageConfig, Platform, Timestamp};
use crate::digest::Digest;

/// A layer that exists or can be made again from its snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// SHA-256 of its uncompressed tar.
    pub diff_id: Digest,
    /// Its blob. A layer of our own has that of the uncompressed tar: [`Layer::uncompressed`].
    pub descriptor: Descriptor,
    /// When its content was made.
    pub created: Option<Timestamp>,
}

impl Layer {
    /// A layer whose blob is the uncompressed tar itself (ADR 0005): it is written from its snapshot when it is wanted.
    #[must_use]
    pub fn uncompressed(diff_id: Digest, size: u64, created: Option<Timestamp>) -> Self {
        Self {
            diff_id,
            descriptor: Descriptor::new(manifest::media_type::LAYER, diff_id, size),
            created,
        }
    }
}

/// What the image is built upon; empty for `scratch`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Base {
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
    /// Its history.
    pub history: Vec<History>,
}

/// One instruction, and the layer that it made, if it made one. Whether its history entry is an `empty_layer` follows
/// from that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instruction {
    /// Its entry. Without `created`, it gets its layer's, else that of the entry before it.
    pub history: History,
    /// Its layer.
    pub layer: Option<Layer>,
}

/// An image: all parts agree, and the digest depends on nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// The configuration.
    pub config: ImageConfig,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
    /// The manifest.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// Every layer, bottom first: those of the base, then those of the instructions.
    pub layers: Vec<Layer>,
    /// How many of `layers` are the base's.
    pub base_layers: usize,
}

/// Parts that cannot make one image.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum AssembleError {
    /// More layers than containers can be started with.
    #[error("the image would have {count} layers; {max} are the most that container engines start")]
    #[diagnostic(
        code(image::too_many_layers),
        help("join instructions, or copy the result into a new stage: `COPY --from=… / /`")
    )]
    TooManyLayers {
        /// How many it would have.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// A platform is missing.
    #[error("the image's configuration names no {0}")]
    #[diagnostic(
        code(image::no_platform),
        help("the base image's configuration is damaged; name the platform with `--platform`")
    )]
    NoPlatform(&'static str),
}

/// Docker and containerd start no image with more (limit `image.max_layers`).
const LAYERS_MAX: usize = 127;

/// Puts an image together. `config` comes without `rootfs` and `history` (they are replaced). With `epoch`
/// (SOURCE_DATE_EPOCH) every time that is ours is that; the base's stay.
pub fn assemble(
    mut config: ImageConfig,
    base: Base,
    instructions: Vec<Instruction>,
    types: MediaTypes,
    epoch: Option<Timestamp>,
) -> Result<Assembled, AssembleError> {
    let base_layers = base.layers.len();
    let mut layers = base.layers;
    let mut history = agreeing(base.history, &layers);
    let mut latest = history.iter().rev().find_map(|entry| entry.created.clone());
    let made_something = !instructions.is_empty();
    for Instruction {
        history: mut entry,
        layer,
    } in instructions
    {
        let layer_created = layer.as_ref().and_then(|layer| layer.created);
        entry.created = match (epoch, layer_created) {
            (Some(epoch), _) => Some(epoch.to_string()),
            (None, Some(created)) => Some(created.to_string()),
            (None, None) => entry.created.or_else(|| latest.clone()),
        };
        entry.empty_layer = layer.is_none();
        latest.clone_from(&entry.created);
        history.push(entry);
        layers.extend(layer);
    }
    if layers.len() > LAYERS_MAX {
        return Err(AssembleError::TooManyLayers {
            count: layers.len(),
            max: LAYERS_MAX,
        });
    }
    if config.os.is_empty() {
        return Err(AssembleError::NoPlatform("operating system"));
    }
    if config.architecture.is_empty() {
        return Err(AssembleError::NoPlatform("architecture"));
    }
    config.created = match epoch {
        Some(epoch) if made_something || config.created.is_none() => Some(epoch.to_string()),
        _ => latest.or(config.created),
    };
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    config.history = history;
    Ok(Assembled::of(config, layers, base_layers, types))
}

impl Assembled {
    /// Bytes and manifest of a configuration whose diff ids are those of `layers`.
    #[must_use]
    pub fn of(
        config: ImageConfig,
        layers: Vec<Layer>,
        base_layers: usize,
        types: MediaTypes,
    ) -> Self {
        let config_bytes = manifest::to_json(&config);
        Self::with(config, config_bytes, layers, base_layers, types)
    }

    /// The same where the configuration has bytes already, which another program may have written.
    #[must_use]
    pub fn with(
        config: ImageConfig,
        config_bytes: Vec<u8>,
        layers: Vec<Layer>,
        base_layers: usize,
        types: MediaTypes,
    ) -> Self {
        let descriptors = layers
            .iter()
            .map(|layer| {
                let media_type = types.of_layer(&layer.descriptor.media_type);
                Descriptor {
                    media_type,
                    ..layer.descriptor.clone()
                }
            })
            .collect();
        let manifest = Manifest::new(
            types,
            Descriptor::of(types.config(), &config_bytes),
            descriptors,
        );
        let manifest_bytes = manifest.to_bytes();
        Self {
            config,
            config_bytes,
            manifest,
            manifest_bytes,
            layers,
            base_layers,
        }
    }

    /// The family of its manifest's media types.
    #[must_use]
    pub fn types(&self) -> MediaTypes {
        match self.manifest.media_type.as_deref() {
            Some(manifest::media_type::DOCKER_MANIFEST) => MediaTypes::Docker,
            _ => MediaTypes::Oci,
        }
    }

    /// The manifest's descriptor, with the platform.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.manifest.media_type.clone().unwrap_or_default();
        let mut descriptor = Descriptor::of(media_type, &self.manifest_bytes);
        descriptor.platform = Some(self.platform());
        descriptor
    }

    /// The configuration's digest: what Docker calls the image's id.
    #[must_use]
    pub fn config_digest(&self) -> Digest {
        self.manifest.config.digest
    }

    /// The manifest's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest_bytes)
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform::new(
            &self.config.os,
            &self.config.architecture,
            self.config.variant.as_deref(),
        )
    }
}

/// A base's history with exactly one entry for each of its layers that is not empty. Images without history, or with a
/// wrong one, exist; BuildKit mends them in the same way.
fn agreeing(mut history: Vec<History>, layers: &[Layer]) -> Vec<History> {
    let mut with_layer = 0;
    for entry in history.iter_mut().filter(|entry| !entry.empty_layer) {
        with_layer += 1;
        entry.empty_layer = with_layer > layers.len();
    }
    for layer in layers.iter().skip(with_layer) {
        history.push(History {
            created: layer.created.map(|time| time.to_string()),
            comment: Some("a layer of the base that its history does not mention".to_owned()),
            ..History::default()
        });
    }
    history
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(content: &[u8], seconds: i64) -> Layer {
        Layer::uncompressed(
            Digest::of(content),
            3,
            Some(Timestamp::from_seconds(seconds)),
        )
    }

    fn entry(text: &str) -> History {
        History {
            created_by: Some(text.to_owned()),
            ..History::default()
        }
    }

    fn config() -> ImageConfig {
        serde_json::from_str(
            r#"{"architecture":"amd64","os":"linux","container_config":{"A":1},"config":{"Env":["A=1"],"OpenStdin":true},"os.version":"7"}"#,
        )
        .unwrap()
    }

    #[test]
    fn config_history_and_layers_agree() {
        let base = Base {
            layers: vec![layer(b"base", 10)],
            history: vec![entry("ADD base"), entry("bogus")],
        };
        let instructions = vec![
            Instruction {
                history: entry("ENV A=1"),
                layer: None,
            },
            Instruction {
                history: entry("RUN make"),
                layer: Some(layer(b"make", 20)),
            },
            Instruction {
                history: entry("CMD x"),
                layer: None,
            },
        ];
        let image = assemble(config(), base, instructions, MediaTypes::Oci, None).unwrap();
        let history: Vec<_> = image
            .config
            .history
            .iter()
            .map(|entry| {
                (
                    entry.created_by.as_deref().unwrap(),
                    entry.empty_layer,
                    entry.created.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            history,
            [
                ("ADD base", false, None),
                ("bogus", true, None),
                ("ENV A=1", true, None),
                ("RUN make", false, Some("1970-01-01T00:00:20Z")),
                ("CMD x", true, Some("1970-01-01T00:00:20Z")),
            ]
        );
        assert_eq!(
            image.config.created.as_deref(),
            Some("1970-01-01T00:00:20Z")
        );
        assert_eq!(image.config.rootfs.diff_ids.len(), 2);
        assert_eq!(image.manifest.layers.len(), 2);
        assert_eq!(
            image.manifest.config.digest,
            Digest::of(&image.config_bytes)
        );
    }

    #[test]
    fn an_epoch_is_every_time_that_is_ours() {
        let base = Base {
            layers: vec![layer(b"base", 10)],
            history: Vec::new(),
        };
        let instructions = vec![Instruction {
            history: entry("RUN make"),
            layer: Some(layer(b"make", 20)),
        }];
        let epoch = Some(Timestamp::from_seconds(1));
        let image = assemble(config(), base, instructions, MediaTypes::Docker, epoch).unwrap();
        assert_eq!(
            image.config.history[0].created.as_deref(),
            Some("1970-01-01T00:00:10Z")
        );
        assert_eq!(
            image.config.history[1].created.as_deref(),
            Some("1970-01-01T00:00:01Z")
        );
        assert_eq!(
            image.config.created.as_deref(),
            Some("1970-01-01T00:00:01Z")
        );
        assert_eq!(
            image.manifest.layers[0].media_type,
            manifest::media_type::DOCKER_LAYER
        );
    }

    #[test]
    fn fields_of_the_base_that_are_not_known_survive() {
        let image = assemble(config(), Base::default(), Vec::new(), MediaTypes::Oci, None).unwrap();
        let text = String::from_utf8(image.config_bytes).unwrap();
        for field in [
            r#""container_config":{"A":1}"#,
            r#""OpenStdin":true"#,
            r#""os.version":"7""#,
        ] {
            assert!(text.contains(field), "{text}");
        }
    }
}
