//! Images of the store by what a person calls them: a name as Docker completes it, or a digest.

use crate::image::Name;
use crate::store::{Store, StoreError, StoredImage};

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
