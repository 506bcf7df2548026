//! Images that a build starts from or copies from: what the source that names one turns out to be. An image of the store comes
//! before one of its registry; of a registry only manifest and configuration are fetched here, and its layers when their
//! files are wanted.

use std::cell::Cell;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, FailureKind};
use super::images;
use super::lock::Pin;
use super::solve::{Session, reference, shown, store_failure};
use super::source::{debian, oci_layout};
use super::work::Freshness;
use crate::digest::{Digest, Fields, Key, NotADigest};
use crate::event::BuildEvent;
use crate::graph::{ImageSource, OciLayoutSource, Source};
use crate::image::{Content, Descriptor, ImageConfig, Manifest, Name, Platform, choice};
use crate::registry;
use crate::store::{Store, StoredBase, StoredImage};

/// An image that a build starts from or copies from.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// Its manifest.
    pub digest: Digest,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<BaseLayer>,
    /// Where its blobs are.
    pub blobs: Blobs,
    /// How old the answer is that says so, where it was remembered and can get old.
    pub age_s: Option<u64>,
    /// What it was built on itself, where that is an image of a registry.
    pub base: Option<StoredBase>,
}

impl BaseImage {
    /// A repository that has the blob of a layer, if one is known, and what it is.
    #[must_use]
    pub fn registry_of(&self, digest: &Digest) -> Option<(Name, &Descriptor)> {
        let (name, layers) = match (&self.blobs, &self.base) {
            (Blobs::Registry(name), _) => (name.clone(), self.layers.len()),
            (Blobs::Store, Some(base)) => (base.name.parse().ok()?, base.layers),
            (Blobs::Store | Blobs::Layout(_), _) => return None,
        };
        let mut layers = self.layers.iter().take(layers);
        let layer = layers.find(|layer| layer.descriptor.digest == *digest)?;
        Some((name, &layer.descriptor))
    }

    /// What an image that is built on it is to remember of that.
    #[must_use]
    pub fn as_base(&self) -> Option<StoredBase> {
        match &self.blobs {
            Blobs::Registry(name) => Some(StoredBase {
                name: name.to_string(),
                layers: self.layers.len(),
            }),
            Blobs::Store => self.base.clone(),
            Blobs::Layout(_) => None,
        }
    }
}

/// Where the blobs of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blobs {
    /// In the store, or regenerated from a snapshot of it.
    Store,
    /// In an OCI layout.
    Layout(std::path::PathBuf),
    /// In a registry, and in the store what was fetched of it.
    Registry(Name),
}

/// One layer of a base image.
#[derive(Debug, Clone)]
pub struct BaseLayer {
    /// The snapshot that it is, or would be once it is unpacked.
    pub snapshot: Key,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Its blob.
    pub descriptor: Descriptor,
}

/// What was found of a source that has a configuration.
pub(super) enum Found {
    Image(Box<BaseImage>),
    Config(Box<ImageConfig>),
}

/// Why an image is not to be had.
pub(super) enum Unfound {
    /// There is no such thing on this machine.
    Missing(String),
    /// Its registry, or a lock, says why.
    Failed(Box<Failure>),
}

/// Whether registries may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// They are, where nothing that is remembered serves.
    Registries,
    /// Nobody is: an image of which nothing is known is taken for an empty one.
    Nobody,
}

/// What a registry's name was found to stand for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ImageAnswer {
    listed: Digest,
    /// The documents themselves: nothing else keeps them once the layers are unpacked.
    manifest: String,
    config: String,
}

impl ImageAnswer {
    /// The image, if the documents are sound.
    fn image(&self, name: Name, age_s: Option<u64>) -> Option<BaseImage> {
        let manifest = match Content::parse("", self.manifest.as_bytes()).ok()? {
            Content::Manifest(manifest) => *manifest,
            Content::Index(_) => return None,
        };
        if Digest::of(self.config.as_bytes()) != manifest.config.digest {
            return None;
        }
        let config = choice::check_config(&manifest, self.config.as_bytes()).ok()?;
        let layers = layers(&config, &manifest.layers).ok()?;
        Some(BaseImage {
            digest: Digest::of(self.manifest.as_bytes()),
            config,
            layers,
            blobs: Blobs::Registry(name),
            age_s,
            base: None,
        })
    }
}

/// Finds images for one build.
pub(super) struct Finder<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) asking: Asking,
    /// Something is not known because nobody was asked.
    pub(super) lacks: Cell<bool>,
}

impl Finder<'_> {
    /// The image that a source is pinned to, else the one that it names.
    pub(super) fn find(&self, source: &Source) -> Result<Found, Unfound> {
        let work = self.session.work;
        let pin = match work.pin(source) {
            Some(Pin::Image(pin)) => Some(pin.digest),
            _ => None,
        };
        match source {
            Source::Image(image) => self.image(image, source, pin),
            Source::OciLayout(layout) => {
                let named = || of_layout(layout, &work.platform).map_err(Unfound::Missing);
                let Some(pin) = pin else {
                    return named().map(found);
                };
                let pinned = OciLayoutSource {
                    digest: Some(pin.to_string()),
                    ..layout.clone()
                };
                of_layout(&pinned, &work.platform)
                    .or_else(|_| self.same(named()?, source, pin))
                    .map(found)
            }
            Source::Debian(debian) => {
                Ok(Found::Config(Box::new(debian::image_config(&debian.arch))))
            }
            Source::Git(_) | Source::Http(_) | Source::Local { .. } => {
                Ok(Found::Config(Box::default()))
            }
        }
    }

    fn image(
        &self,
        image: &ImageSource,
        source: &Source,
        pin: Option<Digest>,
    ) -> Result<Found, Unfound> {
        let Session { work, store, .. } = self.session;
        let missing = |error: &dyn std::error::Error| Unfound::Missing(in_full(error));
        let name: Name = image.name.parse().map_err(|error| missing(&error))?;
        let local = match pin {
            Some(pin) => images::find(store, &pin.to_string()),
            None => images::find(store, &image.name),
        };
        let local = local.map_err(|error| missing(&error))?;
        // What was fetched from a registry is what the registry had: `--pull` asks what it has now.
        let is_asked_anew = |stored: &StoredImage| {
            stored.pulled_from.is_some()
                && work.freshness == Freshness::Now
                && pin.is_none()
                && name.digest.is_none()
        };
        if let Some(stored) = local.filter(|stored| !is_asked_anew(stored)) {
            return of_store(&stored, store)
                .map(found)
                .map_err(Unfound::Missing);
        }
        let is_remote = name.registry != "localhost";
        let in_registry = match is_remote {
            true => self.of_registry(image, &name, source, pin),
            false => Err(Unfound::Missing(format!(
                "there is no image `{}` in the store",
                Name::familiar(&image.name)
            ))),
        };
        in_registry.or_else(|unfound| {
            // What was pinned is gone; what has the name now says more than that.
            let named = pin.and_then(|pin| Some((pin, images::find(store, &image.name).ok()??)));
            match named {
                Some((pin, stored)) => {
                    let named = of_store(&stored, store).map_err(Unfound::Missing)?;
                    self.same(named, source, pin).map(found)
                }
                None => Err(unfound),
            }
        })
    }

    /// An image that has the name of a pinned one, if it is that one.
    fn same(&self, image: BaseImage, source: &Source, pin: Digest) -> Result<BaseImage, Unfound> {
        match &self.session.work.lock {
            Some(lock) if image.digest != pin => {
                let failure = lock.mismatch(source, &pin.to_string(), &image.digest.to_string());
                Err(Unfound::Failed(Box::new(failure)))
            }
            _ => Ok(image),
        }
    }

    /// An image of a registry, as it is remembered, else as the registry says now.
    fn of_registry(
        &self,
        image: &ImageSource,
        name: &Name,
        source: &Source,
        pin: Option<Digest>,
    ) -> Result<Found, Unfound> {
        let Session {
            work,
            store,
            events,
            ..
        } = self.session;
        let failed = |failure| Unfound::Failed(Box::new(failure));
        let platform = image.platform.as_deref().unwrap_or(&work.platform);
        let name = Name {
            digest: pin.or(name.digest),
            ..name.clone()
        };
        let place = format!("{} {platform} {}", reference(source), name);
        let known = self.session.answer::<ImageAnswer>(&place).map_err(failed)?;
        if let Some(known) = &known {
            let is_settled = name.digest.is_some();
            let age_s = (!is_settled).then_some(known.age_ms / 1000);
            if (is_settled || work.freshness.accepts(known.age_ms))
                && let Some(image) = known.answer.image(name.clone(), age_s)
            {
                return Ok(found(image));
            }
        }
        if self.asking == Asking::Nobody {
            self.lacks.set(true);
            return Ok(Found::Config(Box::default()));
        }
        let shown = shown(source);
        if work.freshness == Freshness::Never {
            let message =
                format!("{shown} is not in the store, and --offline forbids to ask its registry");
            return Err(failed(
                Failure::new(FailureKind::Source, "solve::offline", message)
                    .with_help("build once without --offline"),
            ));
        }
        let wanted: Platform = platform
            .parse()
            .map_err(|error| Unfound::Missing(in_full(&error)))?;
        // Nothing that is on its way is deleted meanwhile.
        let _work = store
            .tmp_dir()
            .map_err(|error| failed(store_failure(error)))?;
        if let Some(known) = &known {
            // Most often it is the same as before.
            drop(store.put(known.answer.config.as_bytes()));
        }
        events.emit(BuildEvent::SourceStarted {
            source: shown.clone(),
        });
        match self.session.registries.resolve(store, &name, &wanted) {
            Err(error) => {
                let failure = of_registry(&error);
                events.emit(BuildEvent::SourceFailed {
                    source: shown,
                    message: failure.message.clone(),
                });
                Err(failed(failure))
            }
            Ok(resolved) => {
                let digest = resolved.descriptor.digest;
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_default();
                let answer = ImageAnswer {
                    listed: resolved.listed,
                    manifest: text(resolved.manifest_bytes),
                    config: text(resolved.config_bytes),
                };
                self.session.remember(&place, &answer).map_err(failed)?;
                events.emit(BuildEvent::SourceDone {
                    source: shown,
                    cached: false,
                    bytes: 0,
                    resolved: Some(digest.to_string()),
                    age_s: None,
                });
                let layers = layers(&resolved.config, &resolved.manifest.layers)
                    .map_err(Unfound::Missing)?;
                Ok(found(BaseImage {
                    digest,
                    config: resolved.config,
                    layers,
                    blobs: Blobs::Registry(name),
                    age_s: None,
                    base: None,
                }))
            }
        }
    }
}

fn found(image: BaseImage) -> Found {
    Found::Image(Box::new(image))
}

/// The configuration of an image that is on this machine, for a build that is not started.
pub(super) fn known_config(
    source: &Source,
    store: &Store,
    platform: &str,
) -> Option<Result<ImageConfig, String>> {
    match source {
        Source::Image(image) => {
            let stored = images::find(store, &image.name).ok().flatten()?;
            Some(of_store(&stored, store).map(|image| image.config))
        }
        Source::OciLayout(layout) => Some(of_layout(layout, platform).map(|image| image.config)),
        Source::Debian(debian) => Some(Ok(debian::image_config(&debian.arch))),
        Source::Git(_) | Source::Http(_) | Source::Local { .. } => Some(Ok(ImageConfig::default())),
    }
}

/// An image of a layout on this machine.
fn of_layout(layout: &OciLayoutSource, platform: &str) -> Result<BaseImage, String> {
    let opened =
        oci_layout::Layout::open(Path::new(&layout.path)).map_err(|error| in_full(&error))?;
    let wanted = match (&layout.digest, &layout.tag) {
        (Some(digest), _) => oci_layout::Wanted::Digest(
            digest
                .parse()
                .map_err(|error: NotADigest| in_full(&error))?,
        ),
        (None, Some(tag)) => oci_layout::Wanted::Tag(tag),
        (None, None) => oci_layout::Wanted::Only,
    };
    let platform = layout.platform.as_deref().unwrap_or(platform);
    let platform = platform
        .parse::<Platform>()
        .map_err(|error| in_full(&error))?;
    let image = opened
        .image(wanted, &platform)
        .map_err(|error| in_full(&error))?;
    let layers = layers(&image.config, &image.manifest.layers)?;
    Ok(BaseImage {
        digest: image.descriptor.digest,
        config: image.config,
        layers,
        blobs: Blobs::Layout(layout.path.clone().into()),
        age_s: None,
        base: None,
    })
}

/// An image of the store.
///
/// # Errors
/// If it is damaged.
pub fn of_store(stored: &StoredImage, store: &Store) -> Result<BaseImage, String> {
    let (manifest, config) = read_image(&stored.digest, store)?;
    let mut layers = layers(&config, &manifest.layers)?;
    for (layer, snapshot) in layers.iter_mut().zip(&stored.layers) {
        layer.snapshot = *snapshot;
    }
    let pulled = stored
        .pulled_from
        .as_ref()
        .and_then(|from| from.parse().ok());
    Ok(BaseImage {
        digest: stored.digest,
        config,
        layers,
        blobs: pulled.map_or(Blobs::Store, Blobs::Registry),
        age_s: None,
        base: stored.base.clone(),
    })
}

/// Manifest and configuration of an image of the store.
pub fn read_image(digest: &Digest, store: &Store) -> Result<(Manifest, ImageConfig), String> {
    let bytes = store
        .read_blob(digest, Content::BYTES_MAX)
        .map_err(|error| in_full(&error))?;
    let manifest = match Content::parse("", &bytes).map_err(|error| in_full(&error))? {
        Content::Manifest(manifest) => *manifest,
        Content::Index(_) => return Err(format!("{digest} is an index, not an image")),
    };
    let bytes = store
        .read_blob(&manifest.config.digest, Content::BYTES_MAX)
        .map_err(|error| in_full(&error))?;
    let config = serde_json::from_slice(&bytes).map_err(|error| in_full(&error))?;
    Ok((manifest, config))
}

/// The layers of an image. The snapshot of an unpacked layer is named by what it lies upon and by its own content.
///
/// # Errors
/// If manifest and configuration do not agree.
pub fn layers(config: &ImageConfig, descriptors: &[Descriptor]) -> Result<Vec<BaseLayer>, String> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != descriptors.len() {
        return Err(format!(
            "its configuration lists {} layers and its manifest {}",
            diff_ids.len(),
            descriptors.len()
        ));
    }
    let mut below = String::new();
    let layers = diff_ids
        .iter()
        .zip(descriptors)
        .map(|(diff_id, descriptor)| {
            let mut fields = Fields::new();
            fields.put("unpacked layer", diff_id.to_string());
            fields.put("below", below.clone());
            let snapshot = fields.key();
            below = snapshot.to_string();
            BaseLayer {
                snapshot,
                diff_id: *diff_id,
                descriptor: descriptor.clone(),
            }
        });
    Ok(layers.collect())
}

/// What a registry says, as a failure of a build.
#[must_use]
pub fn of_registry(error: &registry::Error) -> Failure {
    let kind = match error {
        error if error.is_refusal() => FailureKind::Refused,
        error if error.is_input() => FailureKind::Input,
        error if error.is_local() => FailureKind::Machine,
        _ => FailureKind::Source,
    };
    Failure::from_diagnostic(kind, error)
}

/// An error and its causes in one line, for a label in the Dockerfile.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
