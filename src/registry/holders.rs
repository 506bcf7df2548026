//! Which other repositories of a registry have what is sent: as an image says that lies there, and as the store remembers of
//! what went there before. The registry is asked once for each blob to take it over from one of them. What it does not take
//! over is sent, and nobody thinks of that repository again.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::Registries;
use super::push::PushBlob;
use crate::digest::Digest;
use crate::store::NoHolder;

/// What is known of the blobs of one push.
#[derive(Debug)]
pub(super) struct Holders {
    registry: String,
    /// To where it goes.
    repository: String,
    /// The one that was seen last to have it first.
    known: HashMap<Digest, Vec<String>>,
    /// Nobody says whether they still have it.
    said: HashMap<Digest, String>,
    wrong: Mutex<Wrong>,
}

/// What turned out to be of no use.
#[derive(Debug, Default)]
struct Wrong {
    /// Blobs that were not taken over, and from where.
    lacking: HashMap<Digest, String>,
    /// Repositories from which nothing is taken over.
    closed: HashSet<String>,
}

impl Holders {
    /// What is known of blobs that go to a repository of a registry.
    pub(super) fn of(
        registries: &Registries<'_>,
        (registry, repository): (&str, &str),
        blobs: &[PushBlob<'_>],
    ) -> Self {
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let index = registries.store.and_then(|store| store.index().ok());
        // Without what is remembered more is sent, and that is all.
        let known = index.and_then(|index| index.holders(registry, &digests).ok());
        let said = blobs.iter().filter_map(|blob| {
            let place = registries.conf().ok()?.origin(blob.from.as_ref()?).ok()?;
            // What one registry has is no business of another one.
            (place.host == registry).then_some((blob.digest, place.repository))
        });
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            known: known.unwrap_or_default(),
            said: said.collect(),
            wrong: Mutex::default(),
        }
    }

    fn known(&self, digest: &Digest) -> &[String] {
        self.known.get(digest).map_or(&[], Vec::as_slice)
    }

    /// Whether it went to this repository before.
    pub(super) fn is_here(&self, digest: &Digest) -> bool {
        self.known(digest).contains(&self.repository)
    }

    /// Whether it went to another repository before.
    pub(super) fn is_elsewhere(&self, digest: &Digest) -> bool {
        self.known(digest)
            .iter()
            .any(|repository| *repository != self.repository)
    }

    /// From where a blob is to be taken over.
    pub(super) fn first(&self, blob: &PushBlob<'_>) -> Option<String> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.lacking.contains_key(&blob.digest) {
            return None;
        }
        self.known(&blob.digest)
            .iter()
            .chain(self.said.get(&blob.digest))
            .find(|from| **from != self.repository && !wrong.closed.contains(*from))
            .cloned()
    }

    /// A blob was not taken over from there.
    pub(super) fn lacks(&self, from: &str, digest: Digest) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.lacking.insert(digest, from.to_owned());
    }

    /// Nothing is taken over from there.
    pub(super) fn is_closed(&self, from: &str) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.closed.insert(from.to_owned());
    }

    /// Has the store remember what came of it, now that all of it is there and has a name.
    pub(super) fn remember(self, registries: &Registries<'_>, blobs: &[PushBlob<'_>]) {
        let Some(index) = registries.store.and_then(|store| store.index().ok()) else {
            return;
        };
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let wrong = self
            .wrong
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let lacking = wrong
            .lacking
            .into_iter()
            .map(|(digest, from)| (Some(digest), from));
        let closed = wrong.closed.into_iter().map(|from| (None, from));
        let wrong: Vec<NoHolder> = lacking
            .chain(closed)
            .map(|(digest, repository)| NoHolder { repository, digest })
            .collect();
        // A push that went well is none that failed, even where nothing can be written.
        drop(index.put_holder((&self.registry, &self.repository), &digests, &wrong));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net;
    use crate::registry::{PushContent, Settings};
    use crate::store::Store;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_blob_is_taken_over_from_where_it_was_last_and_from_its_own_registry_only() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let net = net::Settings::default();
        let registries = Registries::new(Settings::default(), net).remembered(&store);
        let [known, said, foreign] = [b"1", b"2", b"3"].map(|bytes| Digest::of(bytes));
        let blob = |digest, from: Option<&str>| PushBlob {
            digest,
            size: 1,
            from: from.map(|from| from.parse().unwrap()),
            content: PushContent::Bytes(b""),
        };
        let blobs = [
            blob(known, Some("r.org/said")),
            blob(said, Some("r.org/said:1")),
            blob(foreign, Some("s.org/said:1")),
        ];
        let holders = |repository| Holders::of(&registries, ("r.org", repository), &blobs);
        let first = |holders: &Holders| [0, 1, 2].map(|at| holders.first(&blobs[at]));
        let [some_said, none] = [Some("said".to_owned()), None];
        assert_eq!(
            first(&holders("to")),
            [some_said.clone(), some_said.clone(), none.clone()]
        );
        assert_eq!(
            first(&holders("said")),
            [none.clone(), none.clone(), none.clone()]
        );
        holders("before").remember(&registries, &blobs[..1]);
        let to = holders("to");
        assert!(to.is_elsewhere(&known) && !to.is_here(&known));
        assert!(!to.is_elsewhere(&said));
        let some_before = Some("before".to_owned());
        assert_eq!(first(&to), [some_before, some_said.clone(), none.clone()]);
        // Once for each blob, and no more from where nothing is to be had.
        to.is_closed("before");
        to.lacks("said", said);
        assert_eq!(first(&to), [some_said, none.clone(), none]);
        to.remember(&registries, &blobs);
        let to = holders("to");
        assert!(to.is_here(&known) && !to.is_elsewhere(&known));
    }
}
