//! Images of the store: by what a person calls them, a name as Docker completes it, or a digest; and how they come there from
//! registries.

use std::sync::atomic::{AtomicU64, Ordering};

use super::base::{self, BaseImage};
use crate::digest::Digest;
use crate::event::{BuildEvent, EventSink};
use crate::image::{Name, Platform};
use crate::net;
use crate::registry::{Error, Registries};
use crate::store::{Store, StoreError, StoredImage};

/// How many layers are fetched at once.
const LAYERS_AT_ONCE: usize = 4;

/// Fetches an image of a registry with all of its layers into the store, under a name. Returns its digest.
///
/// # Errors
/// If it is not to be had, or the store cannot be written.
pub fn pull(
    store: &Store,
    registries: &Registries<'_>,
    (name, stored_as): (&Name, &Name),
    platform: &Platform,
    now_ms: u64,
    events: &dyn EventSink,
) -> Result<Digest, Error> {
    // Nothing that is on its way is deleted meanwhile.
    let _work = store.tmp_dir()?;
    let source = name.to_string();
    events.emit(BuildEvent::SourceStarted {
        source: source.clone(),
    });
    let fetched =
        fetch(store, registries, name, platform, events).and_then(|(mut image, bytes)| {
            image.stored_ms = now_ms;
            // An image is found by its digest as well, whatever names it has.
            let by_name = stored_as.tag.is_some().then(|| Name {
                digest: None,
                ..stored_as.clone()
            });
            let names = by_name.map(|name| name.to_string());
            for name in names.into_iter().chain([image.digest.to_string()]) {
                let stored = StoredImage {
                    name,
                    ..image.clone()
                };
                store.put_image(&stored)?;
            }
            Ok((image.digest, bytes))
        });
    match fetched {
        Ok((digest, bytes)) => {
            events.emit(BuildEvent::SourceDone {
                source,
                cached: bytes == 0,
                bytes,
                resolved: Some(digest.to_string()),
                age_s: None,
            });
            Ok(digest)
        }
        Err(error) => {
            let message = error.to_string();
            events.emit(BuildEvent::SourceFailed { source, message });
            Err(error)
        }
    }
}

fn fetch(
    store: &Store,
    registries: &Registries<'_>,
    name: &Name,
    platform: &Platform,
    events: &dyn EventSink,
) -> Result<(StoredImage, u64), Error> {
    let resolved = registries.resolve(store, name, platform)?;
    let layers = &resolved.manifest.layers;
    let total = layers.iter().map(|layer| layer.size).sum();
    let here = AtomicU64::new(0);
    let fetched = net::fetch_all(layers, LAYERS_AT_ONCE, |layer| {
        let bytes = registries.fetch(store, name, layer, &|_| ())?;
        let here = here.fetch_add(layer.size, Ordering::Relaxed) + layer.size;
        events.emit(BuildEvent::SourceProgress {
            source: name.to_string(),
            bytes: here,
            total,
        });
        Ok::<_, Error>(bytes)
    })?;
    let unusable = |why| Error::Unusable {
        name: name.to_string(),
        why,
    };
    let layers = base::layers(&resolved.config, layers).map_err(unusable)?;
    let image = StoredImage {
        name: String::new(),
        digest: resolved.descriptor.digest,
        stored_ms: 0,
        layers: layers.iter().map(|layer| layer.snapshot).collect(),
        pulled_from: Some(name.to_string()),
        base: None,
    };
    Ok((image, fetched.iter().sum()))
}

/// Fetches the layers of an image that are neither unpacked nor here.
///
/// # Errors
/// If one is not to be had.
pub fn fetch_layers(
    store: &Store,
    registries: &Registries<'_>,
    name: &Name,
    image: &BaseImage,
    events: &dyn EventSink,
) -> Result<(), Error> {
    let source = name.to_string();
    events.emit(BuildEvent::SourceStarted {
        source: source.clone(),
    });
    let fetched = net::fetch_all(&image.layers, LAYERS_AT_ONCE, |layer| {
        match store.has_snapshot(&layer.snapshot) {
            true => Ok(0),
            false => registries.fetch(store, name, &layer.descriptor, &|_| ()),
        }
    });
    match fetched {
        Ok(bytes) => {
            events.emit(BuildEvent::SourceDone {
                source,
                cached: false,
                bytes: bytes.iter().sum(),
                resolved: Some(image.digest.to_string()),
                age_s: None,
            });
            Ok(())
        }
        Err(error) => {
            let message = error.to_string();
            events.emit(BuildEvent::SourceFailed { source, message });
            Err(error)
        }
    }
}

/// The image that is meant: by its full name, by a name that Docker would complete to it, by its digest or the beginning
/// (six digits or more) of it.
///
/// # Errors
/// If the store cannot be read.
pub fn find(store: &Store, given: &str) -> Result<Option<StoredImage>, StoreError> {
    if let Some(image) = store.image(given)? {
        return Ok(Some(image));
    }
    if let Ok(name) = given.parse::<Name>() {
        let name = match name.digest {
            Some(digest) => digest.to_string(),
            None => name.to_string(),
        };
        if let Some(image) = store.image(&name)? {
            return Ok(Some(image));
        }
    }
    let digits = given.strip_prefix("sha256:").unwrap_or(given);
    if digits.len() < 6 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(None);
    }
    Ok(store
        .images()?
        .into_iter()
        .find(|image| image.digest.hex().starts_with(digits)))
}
