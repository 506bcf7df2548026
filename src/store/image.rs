//! Names of images. Each is one small file, swapped whole, so that a reader sees the old or the new one.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::{Doing, Store, StoreError, name};
use crate::digest::{Digest, Key};

/// A name and the manifest that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The name with its tag.
    pub name: String,
    /// Its manifest or index, a blob of this store.
    pub digest: Digest,
    /// When the name was given to it, in milliseconds since 1970.
    pub stored_ms: u64,
    /// The snapshots that its layers are, bottom first.
    #[serde(default)]
    pub layers: Vec<Key>,
    /// Where it was fetched from, if it was not built here: a full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulled_from: Option<String>,
    /// The image of a registry that it was built on, which has its lowest layers still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<StoredBase>,
}

/// What a stored image was built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredBase {
    /// Its full name.
    pub name: String,
    /// How many layers it has.
    pub layers: usize,
}

impl Store {
    /// Gives a name to a manifest, taking it from the one that had it.
    pub fn put_image(&self, image: &StoredImage) -> Result<(), StoreError> {
        let tmp = self.tmp_file()?;
        let path = tmp.path();
        let write = || {
            let text = serde_json::to_vec(image)?;
            tmp.file().write_all(&text)
        };
        write().doing("store an image's name", path)?;
        let file = file_of(&image.name);
        tmp.publish_over(&self.inner.images, &file).doing(
            "store an image's name",
            self.path().join("images").join(&file),
        )
    }

    /// The image of that name.
    pub fn image(&self, name: &str) -> Result<Option<StoredImage>, StoreError> {
        self.read_image(&file_of(name))
    }

    /// All images that have names, by name.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let entries = self
            .inner
            .images
            .entries()
            .doing("list the images", self.path().join("images"))?;
        let mut images = Vec::new();
        for entry in entries {
            if let Some(file) = entry.name.to_str().filter(|file| file.ends_with(ENDING)) {
                images.extend(self.read_image(file)?);
            }
        }
        images.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(images)
    }

    /// Takes a name away. False: nothing had it.
    pub fn remove_image(&self, name: &str) -> Result<bool, StoreError> {
        let file = file_of(name);
        let path = self.path().join("images").join(&file);
        match self.inner.images.remove_file(&file) {
            Ok(()) => self
                .inner
                .images
                .sync()
                .doing("remove an image's name", path)
                .map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove an image's name", path, error)),
        }
    }

    fn read_image(&self, file: &str) -> Result<Option<StoredImage>, StoreError> {
        let path = || self.path().join("images").join(file);
        let content = match self.inner.images.open_file(file) {
            Ok(opened) => std::io::read_to_string(opened).doing("read an image's name", path())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read an image's name", path(), error)),
        };
        // A damaged file names nothing; the next build with that name mends it.
        Ok(serde_json::from_str(&content).ok())
    }
}

const ENDING: &str = ".json";

pub(super) fn file_of(name: &str) -> String {
    format!("{}{ENDING}", name::file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_name_stands_for_the_last_image_that_got_it() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let image = |name: &str, content: &[u8]| StoredImage {
            name: name.to_owned(),
            digest: Digest::of(content),
            stored_ms: 5,
            layers: Vec::new(),
            pulled_from: None,
            base: None,
        };
        for (name, content) in [("b/x:1", b"1"), ("a:latest", b"2"), ("b/x:1", b"3")] {
            store.put_image(&image(name, content)).unwrap();
        }
        assert_eq!(
            store.images().unwrap(),
            [image("a:latest", b"2"), image("b/x:1", b"3")]
        );
        assert!(store.remove_image("b/x:1").unwrap());
        assert!(!store.remove_image("b/x:1").unwrap());
        assert_eq!(store.image("b/x:1").unwrap(), None);
    }
}
