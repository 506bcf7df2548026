//! Images of the store, sent to a registry: by the plain user's own process, or by the engine child where something has to be
//! packed first.

use std::path::Path;

use super::export::{Heard, Layers, is_packed, of_export};
use super::finish::open;
use crate::digest::Digest;
use crate::engine::base::{self, BaseImage, Blobs};
use crate::engine::clock::Clock;
use crate::engine::contexts::Contexts;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::images;
use crate::engine::solve::{Session, Surroundings, Workshop};
use crate::engine::work::Work;
use crate::event::EventSink;
use crate::image::{Assembled, Content, Descriptor, Layer, MediaTypes, Name, media_type};
use crate::ship::export::{Export, ImageOutput, Sent};
use crate::store::{Store, StoredImage};

/// Sends an image under a name, if nothing has to be packed for it.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn push_packed(
    (work, store): (&Work, &Path),
    image: &str,
    to: &Name,
    events: &dyn EventSink,
) -> Result<Option<Digest>, Vec<Failure>> {
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    send(&session, None, image, to)
}

/// Sends an image under a name, in the engine child.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn push(
    (work, store): (&Work, &Path),
    image: &str,
    to: &Name,
    events: &dyn EventSink,
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<Digest, Vec<Failure>> {
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let workshop = Workshop::open(&session, surroundings, warn).map_err(|failure| vec![failure])?;
    send(&session, Some(&workshop), image, to)?.ok_or_else(|| {
        let message = format!("the layers of `{image}` were not packed");
        vec![Failure::new(FailureKind::Bug, "images::packed", message)]
    })
}

/// One whose blobs are all at hand goes as it is; layers that were built here are compressed, where there is a workshop. `None`:
/// there is none, and they are not.
fn send(
    session: &Session<'_>,
    workshop: Option<&Workshop<'_>>,
    image: &str,
    to: &Name,
) -> Result<Option<Digest>, Vec<Failure>> {
    let store = session.store;
    let (stored, found) = find(store, image)?;
    let heard = Heard::new(session.events);
    let failed = |error| vec![of_export(&error)];
    let layers = Layers::new(session, workshop, Some(&found), &stored.layers);
    let is_whole = matches!(found.blobs, Blobs::Registry(_))
        || found
            .layers
            .iter()
            .all(|layer| store.has_blob(&layer.descriptor.digest));
    if !is_whole {
        let image = assembled(&found);
        let export = Export {
            image: &image,
            source: &layers,
            names: std::slice::from_ref(to),
            epoch: None,
            threads: session.work.cores(),
        };
        let output = ImageOutput::default();
        if workshop.is_none() && !is_packed(&export, &output) {
            return Ok(None);
        }
        let exported = export
            .push(&output, &session.registries, &heard)
            .map_err(failed)?;
        return Ok(Some(
            exported
                .manifest
                .map_or(stored.digest, |manifest| manifest.digest),
        ));
    }
    let unreadable = |error: &dyn miette::Diagnostic| {
        vec![Failure::from_diagnostic(FailureKind::Machine, error)]
    };
    let read = |digest: &Digest| {
        store
            .read_blob(digest, Content::BYTES_MAX)
            .map_err(|error| unreadable(&error))
    };
    let manifest = read(&stored.digest)?;
    let (kind, config) = match Content::parse("", &manifest) {
        Ok(Content::Manifest(manifest)) => (manifest.media_type, manifest.config.digest),
        _ => return Err(vec![damaged(image, "its manifest is none".to_owned())]),
    };
    let config_bytes = read(&config)?;
    let kind = kind.unwrap_or_else(|| media_type::MANIFEST.to_owned());
    let manifest = (
        Descriptor::new(kind, stored.digest, manifest.len() as u64),
        manifest,
    );
    let sent = Sent {
        registries: &session.registries,
        listener: &heard,
        name: to,
        is_tagged: to.tag.is_some(),
    };
    let descriptors: Vec<Descriptor> = found
        .layers
        .iter()
        .map(|layer| layer.descriptor.clone())
        .collect();
    let from = match &found.blobs {
        Blobs::Registry(name) => Some(name.clone()),
        Blobs::Store | Blobs::Layout(_) => None,
    };
    use crate::ship::export::LayerSource as _;
    let open = |digest: &Digest| {
        let blob = layers.blob(digest)?;
        blob.ok_or_else(|| format!("the blob {digest} is gone from the store").into())
    };
    sent.image(
        &descriptors,
        (config, &config_bytes),
        &manifest,
        &open,
        &|_| from.clone(),
    )
    .map_err(failed)?;
    Ok(Some(stored.digest))
}

fn find(store: &Store, image: &str) -> Result<(StoredImage, BaseImage), Vec<Failure>> {
    let stored = images::find(store, image);
    let stored =
        stored.map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])?;
    let Some(stored) = stored else {
        let message = format!("there is no image `{image}` in the store");
        let failure = Failure::new(FailureKind::Input, "images::unknown", message);
        return Err(vec![
            failure.with_help("`shmocker images` lists what there is"),
        ]);
    };
    let found = base::of_store(&stored, store).map_err(|reason| vec![damaged(image, reason)])?;
    Ok((stored, found))
}

fn damaged(image: &str, reason: String) -> Failure {
    let message = format!("the image `{image}` of the store is damaged: {reason}");
    Failure::new(FailureKind::Machine, "images::damaged", message)
        .with_help("build it again, or remove it with `shmocker rmi`")
}

fn assembled(image: &BaseImage) -> Assembled {
    let layers = image.layers.iter().map(|layer| Layer {
        diff_id: layer.diff_id,
        descriptor: layer.descriptor.clone(),
        created: None,
    });
    Assembled::of(image.config.clone(), layers.collect(), 0, MediaTypes::Oci)
}
