//! How the owners of files in a store's trees are kept: as the ids that subordinate ranges give, or as records beside
//! files that all belong to the caller. A store has one way for all of its trees, for good: what one way has written means
//! something else to the other. The file `owners` says which; the first engine that works on an empty store writes it.

use std::io::{self, Read as _, Write as _};

use super::error::Doing as _;
use super::{Store, StoreError, tmp};

const FILE: &str = "owners";

/// How owners are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As ids of subordinate ranges (or root's).
    Mapped,
    /// As records: all files belong to the caller.
    Recorded,
}

impl Owners {
    const fn word(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Recorded => "recorded",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        [Self::Mapped, Self::Recorded]
            .into_iter()
            .find(|way| way.word() == word)
    }
}

impl Store {
    /// How owners are kept here; `None` where nothing has settled it yet.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn owners(&self) -> Result<Option<Owners>, StoreError> {
        let top = &self.inner.top;
        let read = || -> io::Result<Option<Owners>> {
            match top.open_file(FILE) {
                Ok(file) => {
                    let mut text = String::new();
                    file.take(64).read_to_string(&mut text)?;
                    let way = Owners::of_word(text.trim());
                    way.map(Some)
                        .ok_or_else(|| io::Error::other(format!("it says `{}`", text.trim())))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Stores were made with ranges only before there was this file.
                    let is_used = !self.inner.snapshots.entries()?.is_empty();
                    Ok(is_used.then_some(Owners::Mapped))
                }
                Err(error) => Err(error),
            }
        };
        read().doing("read how owners are kept", self.inner.path.join(FILE))
    }

    /// Settles how owners are kept here.
    ///
    /// # Errors
    /// If they are kept in the other way, or it cannot be written.
    pub fn settle_owners(&self, wanted: Owners) -> Result<(), StoreError> {
        let path = self.inner.path.join(FILE);
        let kept = match self.owners()? {
            Some(kept) => kept,
            None => {
                let top = &self.inner.top;
                let write = || -> io::Result<()> {
                    let name = format!("{FILE}.{}", tmp::new_name()?);
                    let mut file = top.create_file(&name, 0o600)?;
                    writeln!(file, "{}", wanted.word())?;
                    file.sync_all()?;
                    // Somebody else may settle it at the same moment: the first one has.
                    match top.rename_new(&name, top, FILE) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                            top.remove_file(&name)
                        }
                        other => other.and_then(|()| top.sync()),
                    }
                };
                write().doing("write how owners are kept", &path)?;
                self.owners()?.unwrap_or(wanted)
            }
        };
        match kept == wanted {
            true => Ok(()),
            false => Err(self.other_owners(kept)),
        }
    }

    /// That owners are kept in this way, and another one is wanted or all that there is.
    #[must_use]
    pub fn other_owners(&self, kept: Owners) -> StoreError {
        StoreError::OtherOwners {
            path: self.inner.path.clone(),
            kept: match kept {
                Owners::Mapped => "ids of subordinate ranges",
                Owners::Recorded => "records, with a single id",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_store_keeps_owners_in_one_way_for_good() {
        let place = TempDir::new();
        let store = Store::open(place.path().join("store")).unwrap();
        assert_eq!(store.owners().unwrap(), None);
        store.settle_owners(Owners::Recorded).unwrap();
        store.settle_owners(Owners::Recorded).unwrap();
        let other = store.settle_owners(Owners::Mapped).unwrap_err();
        assert!(matches!(other, StoreError::OtherOwners { .. }), "{other:?}");
        assert_eq!(store.owners().unwrap(), Some(Owners::Recorded));
        assert!(Store::open(place.path().join("store")).is_ok());
    }

    #[test]
    fn a_store_from_before_is_one_with_ranges() {
        let place = TempDir::new();
        let store = Store::open(place.path()).unwrap();
        std::fs::create_dir(place.path().join("snapshots/one")).unwrap();
        assert_eq!(store.owners().unwrap(), Some(Owners::Mapped));
        assert!(store.settle_owners(Owners::Recorded).is_err());
    }
}
