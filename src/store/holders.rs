//! Which repositories of registries have a blob, as far as it was seen from here: a push to another repository of such a
//! registry need not send it. A hint, never the truth: what is gone there since nobody tells this store.

use std::collections::{HashMap, HashSet};

use rusqlite::params;

use super::StoreError;
use super::index::{Index, digest_at};
use crate::digest::Digest;

/// Of one blob no more repositories of a registry are remembered: those that were seen to have it last.
const HOLDERS_MAX: usize = 4;

pub(super) const TABLE: &str = "
CREATE TABLE holders (registry TEXT, digest TEXT, repository TEXT, seen_ms INTEGER NOT NULL,
    PRIMARY KEY (registry, digest, repository)) WITHOUT ROWID;
";

/// That a repository does not have something, or does not say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoHolder {
    /// The repository.
    pub repository: String,
    /// What it lacks; `None`: whatever it has is of no use here.
    pub digest: Option<Digest>,
}

impl Index {
    /// The repositories of a registry that were seen to have these blobs, the one seen last first.
    pub fn holders(
        &self,
        registry: &str,
        blobs: &[Digest],
    ) -> Result<HashMap<Digest, Vec<String>>, StoreError> {
        self.with("look up who has a blob", |connection| {
            let mut select = connection.prepare_cached(
                "SELECT repository FROM holders WHERE registry = ? AND digest = ? ORDER BY seen_ms DESC",
            )?;
            let mut holders = HashMap::new();
            for digest in blobs {
                let rows =
                    select.query_map(params![registry, digest.to_string()], |row| row.get(0))?;
                let repositories: Vec<String> = rows.collect::<rusqlite::Result<_>>()?;
                if !repositories.is_empty() {
                    holders.insert(*digest, repositories);
                }
            }
            Ok(holders)
        })
    }

    /// Remembers that a repository has these blobs now, and forgets what turned out to be wrong.
    pub fn put_holder(
        &self,
        (registry, repository): (&str, &str),
        blobs: &[Digest],
        wrong: &[NoHolder],
    ) -> Result<(), StoreError> {
        self.tell("remember who has a blob", |connection| {
            for NoHolder { repository, digest } in wrong {
                connection
                    .prepare_cached(
                        "DELETE FROM holders WHERE registry = ?1 AND repository = ?2
                         AND digest = coalesce(?3, digest)",
                    )?
                    .execute(params![
                        registry,
                        repository,
                        digest.map(|digest| digest.to_string())
                    ])?;
            }
            let mut insert = connection.prepare_cached(
                "INSERT OR REPLACE INTO holders
                 VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000 AS INTEGER))",
            )?;
            let mut only_the_last = connection.prepare_cached(
                "DELETE FROM holders WHERE registry = ?1 AND digest = ?2 AND repository NOT IN (
                     SELECT repository FROM holders WHERE registry = ?1 AND digest = ?2
                     ORDER BY seen_ms DESC LIMIT ?3)",
            )?;
            for digest in blobs {
                let digest = digest.to_string();
                insert.execute(params![registry, digest, repository])?;
                only_the_last.execute(params![registry, digest, HOLDERS_MAX])?;
            }
            Ok(())
        })
    }

    /// Forgets who has blobs that are not here any more.
    pub(super) fn forget_holders(&self, blobs: &HashSet<Digest>) -> Result<(), StoreError> {
        if blobs.is_empty() {
            return Ok(());
        }
        self.tell("forget who has a blob", |connection| {
            let known: Vec<Digest> = {
                let mut select =
                    connection.prepare_cached("SELECT DISTINCT digest FROM holders")?;
                let rows = select.query_map([], |row| digest_at(row, 0))?;
                rows.collect::<rusqlite::Result<_>>()?
            };
            let mut forget = connection.prepare_cached("DELETE FROM holders WHERE digest = ?")?;
            for digest in known.iter().filter(|digest| blobs.contains(digest)) {
                forget.execute(params![digest.to_string()])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Prune, Store};
    use crate::sys::file::tempdir::TempDir;

    fn of(store: &Store, registry: &str, digest: &Digest) -> Vec<String> {
        let index = store.index().unwrap();
        let mut holders = index.holders(registry, &[*digest]).unwrap();
        holders.remove(digest).unwrap_or_default()
    }

    fn put(store: &Store, repository: &str, digests: &[Digest], wrong: &[NoHolder]) {
        let index = store.index().unwrap();
        index
            .put_holder(("r.org", repository), digests, wrong)
            .unwrap();
        // Times are told apart by the millisecond.
        std::thread::sleep(std::time::Duration::from_millis(2));
    }

    #[test]
    fn the_last_repositories_that_had_a_blob_are_known_to_each_process() {
        let dir = TempDir::new();
        let (one, other) = (
            Store::open(dir.path()).unwrap(),
            Store::open(dir.path()).unwrap(),
        );
        let (blob, another) = (Digest::of(b"blob"), Digest::of(b"another"));
        assert!(of(&one, "r.org", &blob).is_empty());
        put(&one, "a", &[blob, another], &[]);
        put(&other, "b", &[blob], &[]);
        assert_eq!(of(&one, "r.org", &blob), ["b", "a"]);
        assert_eq!(of(&other, "r.org", &another), ["a"]);
        // What is known of one registry is nothing that another one is told.
        assert!(of(&one, "s.org", &blob).is_empty());
        put(&one, "a", &[blob], &[]);
        assert_eq!(of(&one, "r.org", &blob), ["a", "b"]);
        for more in ["c", "d", "e"] {
            put(&one, more, &[blob], &[]);
        }
        assert_eq!(of(&one, "r.org", &blob), ["e", "d", "c", "a"]);
    }

    #[test]
    fn what_turned_out_wrong_is_forgotten_and_so_is_what_was_deleted() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let (blob, another) = (Digest::of(b"blob"), Digest::of(b"another"));
        put(&store, "a", &[blob, another], &[]);
        put(&store, "b", &[blob, another], &[]);
        let wrong = |repository: &str, digest| NoHolder {
            repository: repository.to_owned(),
            digest,
        };
        put(&store, "c", &[], &[wrong("a", Some(blob))]);
        assert_eq!(of(&store, "r.org", &blob), ["b"]);
        assert_eq!(of(&store, "r.org", &another), ["b", "a"]);
        put(&store, "c", &[another], &[wrong("b", None)]);
        assert!(of(&store, "r.org", &blob).is_empty());
        assert_eq!(of(&store, "r.org", &another), ["c", "a"]);
        let index = store.index().unwrap();
        index.forget_holders(&HashSet::from([blob])).unwrap();
        assert_eq!(of(&store, "r.org", &another), ["c", "a"]);
        index.forget_holders(&HashSet::from([another])).unwrap();
        assert!(of(&store, "r.org", &another).is_empty());
        // A blob that is deleted here, and not one that never was.
        let (deleted, _) = store.put(b"deleted".as_slice()).unwrap();
        put(&store, "d", &[blob, deleted], &[]);
        store.prune(&Prune::default(), 1).unwrap();
        assert!(!store.has_blob(&deleted) && of(&store, "r.org", &deleted).is_empty());
        assert_eq!(of(&store, "r.org", &blob), ["d"]);
        put(&store, "c", &[blob], &[]);
        index.forget_before(1).unwrap();
        assert_eq!(of(&store, "r.org", &blob), ["c", "d"]);
        index.forget_before(u64::MAX >> 1).unwrap();
        assert!(of(&store, "r.org", &blob).is_empty());
    }
}
