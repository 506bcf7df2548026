//! Which of the images under one name is the one for a platform, and whether a manifest and its configuration make an image
//! that can be built upon. What is wrong is said in words that follow the image's name.

use super::{Descriptor, ImageConfig, Manifest, Platform, layer_compression, media_type};
use crate::digest::Digest;

/// The one for a platform. One that says nothing of platforms is taken if it is the only one, or the one with the digest that
/// is `wanted`: its configuration is looked at later.
///
/// # Errors
/// What platforms there are, if there is none.
pub fn choose<'a>(
    candidates: &'a [Descriptor],
    platform: &Platform,
    wanted: Option<Digest>,
) -> Result<&'a Descriptor, String> {
    // Attestations are listed beside images, with this instead of a platform.
    let is_image =
        |entry: &&Descriptor| !entry.annotations.contains_key("vnd.docker.reference.type");
    let images: Vec<&Descriptor> = candidates.iter().filter(is_image).collect();
    let fits = |entry: &&&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|its| its.is_same_as(platform))
    };
    if let Some(found) = images.iter().find(fits) {
        return Ok(found);
    }
    match images[..] {
        [only] if only.platform.is_none() || wanted == Some(only.digest) => Ok(only),
        _ => {
            let has = images
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(ToString::to_string);
            let has = has.collect::<Vec<_>>().join(", ");
            Err(if has.is_empty() {
                "no platform that it names".to_owned()
            } else {
                has
            })
        }
    }
}

/// Whether a manifest is that of a container image, with layers that are known here.
///
/// # Errors
/// Why not.
pub fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    if !matches!(
        manifest.config.media_type.as_str(),
        media_type::CONFIG | media_type::DOCKER_CONFIG
    ) {
        return Err(format!(
            "it is no container image, but a `{}`",
            manifest.config.media_type
        ));
    }
    let is_unknown = |layer: &&Descriptor| layer_compression(&layer.media_type).is_none();
    match manifest.layers.iter().find(is_unknown) {
        Some(layer) => Err(format!(
            "its layer {} is a `{}`, which is not known here",
            layer.digest, layer.media_type
        )),
        None => Ok(()),
    }
}

/// The configuration that belongs to a manifest.
///
/// # Errors
/// Why it does not.
pub fn check_config(manifest: &Manifest, bytes: &[u8]) -> Result<ImageConfig, String> {
    let config: ImageConfig = serde_json::from_slice(bytes)
        .map_err(|error| format!("its configuration is not well formed: {error}"))?;
    let (named, listed) = (config.rootfs.diff_ids.len(), manifest.layers.len());
    match named == listed {
        true => Ok(config),
        false => Err(format!(
            "its configuration names {named} layers, its manifest {listed}"
        )),
    }
}
