//! Notes on images: `--annotation [TYPE[PLATFORM],…:]KEY=VALUE`, and `annotation[-TYPE][PLATFORM].KEY=VALUE` of `-o`, as buildx
//! has them.

use serde::{Deserialize, Serialize};

use super::OutputError;
use crate::image::Platform;

/// A note, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annotation {
    /// In which document.
    pub place: AnnotationPlace,
    /// Of which platform's image; of every one where none is named.
    pub platform: Option<Platform>,
    /// What it is called.
    pub key: String,
    /// What it says.
    pub value: String,
}

/// In which document a note stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnnotationPlace {
    /// In the image's manifest.
    Manifest,
    /// In the descriptor that names the manifest: an entry of a layout's `index.json`, or of the index of several platforms.
    ManifestDescriptor,
    /// In the index of several platforms.
    Index,
    /// In the descriptor that names that index.
    IndexDescriptor,
}

/// How the keys of `-o` begin.
pub(super) const PREFIX: &str = "annotation";

impl Annotation {
    /// What was given to `--annotation`.
    ///
    /// # Errors
    /// If it is none, or has no place here.
    pub fn parse(given: &str) -> Result<Vec<Self>, OutputError> {
        let wrong = |reason: String| wrong("--annotation", given, reason);
        let Some((left, value)) = given.split_once('=') else {
            return Err(wrong("write `KEY=VALUE`".to_owned()));
        };
        let (places, key) = left.split_once(':').unwrap_or(("manifest", left));
        if key.is_empty() {
            return Err(wrong("it has no key".to_owned()));
        }
        let annotation = |place: &str| {
            let (place, platform) = place_of(place.trim()).map_err(wrong)?;
            Ok(Self {
                place,
                platform,
                key: key.to_owned(),
                value: value.to_owned(),
            })
        };
        places.split(',').map(annotation).collect()
    }

    /// What `annotation[-TYPE][PLATFORM].KEY=VALUE` says; `None` if it is another key.
    pub(super) fn of_field(field: &str, value: &str) -> Option<Result<Self, OutputError>> {
        let rest = field.strip_prefix(PREFIX)?;
        // The name of a platform may hold a dot, and so may the key.
        let after_platform = rest.find(']').unwrap_or(0);
        let dot = after_platform + rest[after_platform..].find('.')?;
        let (place, key) = (&rest[..dot], &rest[dot + 1..]);
        let place = match place.strip_prefix('-') {
            Some(place) => place.to_owned(),
            None if place.is_empty() || place.starts_with('[') => format!("manifest{place}"),
            None => return None,
        };
        let annotation = place_of(&place).map(|(place, platform)| Self {
            place,
            platform,
            key: key.to_owned(),
            value: value.to_owned(),
        });
        Some(annotation.map_err(|reason| wrong(field, value, reason)))
    }
}

fn wrong(key: &str, value: &str, reason: String) -> OutputError {
    OutputError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        reason,
    }
}

/// `manifest`, `manifest-descriptor[linux/amd64]`, …
fn place_of(text: &str) -> Result<(AnnotationPlace, Option<Platform>), String> {
    let (name, platform) = match text.split_once('[') {
        None => (text, None),
        Some((name, rest)) => {
            let platform = rest
                .strip_suffix(']')
                .ok_or_else(|| format!("`{text}` has no `]` at its end"))?;
            let platform = platform
                .parse::<Platform>()
                .map_err(|error| error.to_string())?;
            (name, Some(platform))
        }
    };
    match name {
        "manifest" => Ok((AnnotationPlace::Manifest, platform)),
        "manifest-descriptor" => Ok((AnnotationPlace::ManifestDescriptor, platform)),
        "index" => Ok((AnnotationPlace::Index, platform)),
        "index-descriptor" => Ok((AnnotationPlace::IndexDescriptor, platform)),
        other => Err(format!(
            "there is no place `{other}`; there are manifest, manifest-descriptor, index and index-descriptor"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_names_places_and_platforms() {
        let one = |given: &str| Annotation::parse(given).unwrap();
        assert_eq!(one("a=b=c")[0].value, "b=c");
        let both = one("manifest[linux/amd64],manifest-descriptor:org.x=y");
        assert_eq!(both.len(), 2);
        assert_eq!(both[0].platform, Some("linux/amd64".parse().unwrap()));
        assert_eq!(both[1].place, AnnotationPlace::ManifestDescriptor);
        for (given, reason) in [
            ("x", "KEY=VALUE"),
            ("=x", "no key"),
            ("layer:x=y", "no place `layer`"),
            ("manifest[linux:x=y", "no `]`"),
        ] {
            let error = Annotation::parse(given).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn so_do_the_keys_of_an_output() {
        let of = |field: &str| Annotation::of_field(field, "v").map(Result::unwrap);
        let found = of("annotation[linux/arm64].org.x.y").unwrap();
        assert_eq!(found.key, "org.x.y");
        assert_eq!(found.platform, Some("linux/arm64".parse().unwrap()));
        let found = of("annotation-manifest-descriptor.a").unwrap();
        assert_eq!(found.place, AnnotationPlace::ManifestDescriptor);
        assert_eq!(of("annotations.a"), None);
        assert_eq!(
            of("annotation-index.a").unwrap().place,
            AnnotationPlace::Index
        );
        assert!(
            Annotation::of_field("annotation-layer.a", "v")
                .unwrap()
                .is_err()
        );
    }
}
