//! The index: which result a key has, what the parts of a build last were, how layers were packed, what was hashed, what a
//! reference meant. One SQLite file that several processes use at once (WAL; a rollback journal where the file system
//! belongs to other machines too).
//!
//! It is never the truth. Lost or damaged, it is put aside and made again from the records beside the snapshots; what
//! those do not know is found again by working. A commit is not synced, so a power loss may forget the last ones.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::opening::{again_or_anew, anew, connect_patiently, is_damage, is_unwritable, read_only};
use super::record::Record;
use super::{Doing, StoreError, census};
use crate::digest::{Digest, Fields, Key};
use crate::sys::dir::Dir;
use crate::sys::overlay::{FileSystem, file_system_of};

/// The result of an op.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpRecord {
    /// Its snapshots, bottom first.
    pub layers: Vec<Key>,
    /// What its key is made from.
    pub fields: Fields,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// How long that took.
    pub duration_ms: u64,
}

/// What a part of a build was when it was last built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRecord {
    /// Of `makings`.
    pub key: Key,
    /// What it was made from, as the one who built it wrote it down.
    pub makings: String,
    /// When it was last built, in milliseconds since 1970.
    pub built_ms: u64,
}

/// A snapshot's layer, as it is packed into a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// What a moving reference was found to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As the one who asked wrote it down.
    pub answer: String,
    /// When, in milliseconds since 1970.
    pub asked_ms: u64,
}

/// What the stat cache knows of one directory: see `engine::tree::stat_cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatRow {
    /// The directory's path in its context, without a slash in front.
    pub dir: Vec<u8>,
    /// Its entries, packed.
    pub entries: Vec<u8>,
}

/// The open index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    snapshots: PathBuf,
    connection: Mutex<Connection>,
}

/// As long as it is there, the index answers as it was when it came.
#[derive(Debug)]
#[must_use]
pub struct Moment<'a>(&'a Index);

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        self.0.end_moment();
    }
}

/// Digests of parts of trees. A tree is named by its snapshots; which of them it has the name does not tell.
pub(super) const FORGET_CONTENTS: &str = "DELETE FROM contents";

impl Index {
    pub(super) fn open(store: &Path, snapshots: &Dir) -> Result<Self, StoreError> {
        let path = store.join("index.sqlite");
        let local = file_system_of(snapshots).doing("look at the store's file system", store)?
            != FileSystem::Network;
        let records = store.join("snapshots");
        let connection = match connect_patiently(&path, &records, local) {
            Ok(Some(connection)) => connection,
            Ok(None) => anew(&path, &records, local)?,
            Err(error) if is_unwritable(&error) => read_only(&path)?,
            Err(error) if is_damage(&error) => again_or_anew(&path, &records, local)?,
            Err(source) => {
                return Err(StoreError::Index {
                    what: "find anything",
                    source,
                });
            }
        };
        Ok(Self {
            path,
            snapshots: records,
            connection: Mutex::new(connection),
        })
    }

    /// The result that a key has. Whether its snapshots still exist is for the caller to see:
    /// [`Store::result`](super::Store::result) does.
    pub fn op(&self, key: &Key) -> Result<Option<OpRecord>, StoreError> {
        self.with("look up a result", |connection| {
            connection
                .prepare_cached(
                    "SELECT layers, fields, created_ms, duration_ms FROM ops WHERE key = ?",
                )?
                .query_row(params![bytes(key)], |row| {
                    Ok(OpRecord {
                        layers: keys(row.get_ref(0)?.as_blob()?),
                        fields: fields(row.get_ref(1)?.as_str()?),
                        created_ms: row.get(2)?,
                        duration_ms: row.get(3)?,
                    })
                })
                .optional()
        })
    }

    /// Remembers the result of a key.
    pub fn put_op(&self, key: &Key, record: &OpRecord) -> Result<(), StoreError> {
        self.tell("remember a result", |connection| {
            insert_op(connection, key, record)
        })
    }

    /// Forgets the result of a key: it will be made again.
    pub fn remove_op(&self, key: &Key) -> Result<(), StoreError> {
        self.tell("forget a result", |connection| {
            connection
                .prepare_cached("DELETE FROM ops WHERE key = ?")?
                .execute(params![bytes(key)])
                .map(drop)
        })
    }

    /// Remembers freshly published snapshots, all or none.
    pub(crate) fn put_records(&self, records: &[Record]) -> Result<(), StoreError> {
        self.tell("remember results", |connection| {
            for record in records {
                insert_record(connection, record)?;
            }
            Ok(())
        })
    }

    /// Forgets what is known of a snapshot that is just being made again under its name: it has other times, and may have
    /// other files. A deletion that was killed leaves such.
    pub(crate) fn forget_former(&self, snapshot: &Key) -> Result<(), StoreError> {
        let is_known = self.with("look up a layer", |connection| {
            let mut known = connection.prepare_cached(
                "SELECT 1 FROM diff_ids WHERE snapshot = ?1
                 UNION SELECT 1 FROM layer_blobs WHERE snapshot = ?1",
            )?;
            known.exists(params![bytes(snapshot)])
        })?;
        if !is_known {
            return Ok(());
        }
        self.tell("forget a layer", |connection| {
            for forget in [
                "DELETE FROM diff_ids WHERE snapshot = ?",
                "DELETE FROM layer_blobs WHERE snapshot = ?",
            ] {
                connection
                    .prepare_cached(forget)?
                    .execute(params![bytes(snapshot)])?;
            }
            connection.execute(FORGET_CONTENTS, [])?;
            Ok(())
        })
    }

    /// What a part was when it was last built.
    pub fn part(&self, part: &str) -> Result<Option<PartRecord>, StoreError> {
        self.with("look up a part of a build", |connection| {
            connection
                .prepare_cached("SELECT key, makings, built_ms FROM parts WHERE part = ?")?
                .query_row(params![part], |row| {
                    Ok(PartRecord {
                        key: key_at(row, 0)?,
                        makings: row.get(1)?,
                        built_ms: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    /// The key of what a part was made from when it was last built.
    pub fn part_key(&self, part: &str) -> Result<Option<Key>, StoreError> {
        self.with("look up a part of a build", |connection| {
            connection
                .prepare_cached("SELECT key FROM parts WHERE part = ?")?
                .query_row(params![part], |row| key_at(row, 0))
                .optional()
        })
    }

    /// Remembers what a part is now, and the files behind the digests in it; of what was listed before, only the files
    /// of the digests `kept` stay.
    pub fn put_part(
        &self,
        part: &str,
        record: &PartRecord,
        listings: &[(Key, Vec<u8>)],
        kept: &[Key],
    ) -> Result<(), StoreError> {
        self.tell("remember a part of a build", |connection| {
            {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)")?
                    .execute(params![
                        part,
                        bytes(&record.key),
                        record.makings,
                        record.built_ms
                    ])?;
                let known = listed(connection, part)?;
                for digest in known.iter().filter(|digest| !kept.contains(digest)) {
                    connection
                        .prepare_cached("DELETE FROM listings WHERE part = ? AND digest = ?")?
                        .execute(params![part, bytes(digest)])?;
                }
                let mut insert = connection
                    .prepare_cached("INSERT OR REPLACE INTO listings VALUES (?, ?, ?)")?;
                for (digest, files) in listings {
                    insert.execute(params![part, bytes(digest), files])?;
                }
            }
            Ok(())
        })
    }

    /// The digests of which it is known what files they stand for.
    pub fn listed(&self, part: &str) -> Result<Vec<Key>, StoreError> {
        self.with("look up files", |connection| listed(connection, part))
    }

    /// The files that a digest of a part stands for.
    pub fn listing(&self, part: &str, digest: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("look up files", |connection| {
            connection
                .prepare_cached("SELECT files FROM listings WHERE part = ? AND digest = ?")?
                .query_row(params![part, bytes(digest)], |row| row.get(0))
                .optional()
        })
    }

    /// The digest and size of a snapshot's uncompressed layer.
    pub fn diff_id(&self, snapshot: &Key) -> Result<Option<(Digest, u64)>, StoreError> {
        self.with("look up a layer", |connection| {
            connection
                .prepare_cached("SELECT diff_id, size FROM diff_ids WHERE snapshot = ?")?
                .query_row(params![bytes(snapshot)], |row| {
                    Ok((digest_at(row, 0)?, row.get(1)?))
                })
                .optional()
        })
    }

    /// Remembers the digests and sizes of some snapshots' uncompressed layers.
    pub fn put_diff_ids(&self, layers: &[(Key, Digest, u64)]) -> Result<(), StoreError> {
        self.tell("remember layers", |connection| {
            for (snapshot, diff_id, size) in layers {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO diff_ids VALUES (?, ?, ?)")?
                    .execute(params![bytes(snapshot), diff_id.to_string(), size])?;
            }
            Ok(())
        })
    }

    /// The blob of a snapshot's layer in a compression (`gzip`, `zstd`, `none`) and variant (level and the like). Whether
    /// it still exists is for the caller to see.
    pub fn layer_blob(
        &self,
        snapshot: &Key,
        compression: &str,
        variant: &str,
    ) -> Result<Option<LayerBlob>, StoreError> {
        self.with("look up a layer", |connection| {
            connection
                .prepare_cached(
                    "SELECT digest, size, media_type FROM layer_blobs
                     WHERE snapshot = ? AND compression = ? AND variant = ?",
                )?
                .query_row(params![bytes(snapshot), compression, variant], |row| {
                    Ok(LayerBlob {
                        digest: digest_at(row, 0)?,
                        size: row.get(1)?,
                        media_type: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    /// Remembers how a snapshot's layer was packed.
    pub fn put_layer_blob(
        &self,
        snapshot: &Key,
        compression: &str,
        variant: &str,
        blob: &LayerBlob,
    ) -> Result<(), StoreError> {
        self.tell("remember a layer", |connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?, ?, ?)")?
                .execute(params![
                    bytes(snapshot),
                    compression,
                    variant,
                    blob.digest.to_string(),
                    blob.size,
                    blob.media_type
                ])
                .map(drop)
        })
    }

    /// The digest of a selection of paths in a tree that never changes, named by a key of its snapshots.
    pub fn content(&self, tree: &Key, selection: &str) -> Result<Option<Key>, StoreError> {
        self.with("look up a digest", |connection| {
            connection
                .prepare_cached("SELECT digest FROM contents WHERE tree = ? AND selection = ?")?
                .query_row(params![bytes(tree), selection], |row| key_at(row, 0))
                .optional()
        })
    }

    /// Remembers the digest of a selection of paths in a tree.
    pub fn put_content(&self, tree: &Key, selection: &str, digest: &Key) -> Result<(), StoreError> {
        self.tell("remember a digest", |connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)")?
                .execute(params![bytes(tree), selection, bytes(digest)])
                .map(drop)
        })
    }

    /// What the stat cache knows of a context: all directories at or below `dir`.
    pub fn stat_rows(&self, root: &Key, dir: &[u8]) -> Result<Vec<StatRow>, StoreError> {
        self.with("look up files", |connection| {
            let (from, to) = if dir.is_empty() {
                (Vec::new(), vec![0xff; 8])
            } else {
                ([dir, b"/"].concat(), [dir, b"0"].concat())
            };
            let mut select = connection.prepare_cached(
                "SELECT dir, entries FROM stats WHERE root = ?1 AND (dir = ?2 OR (dir >= ?3 AND dir < ?4))",
            )?;
            let rows = select.query_map(params![bytes(root), dir, from, to], |row| {
                Ok(StatRow { dir: row.get(0)?, entries: row.get(1)? })
            })?;
            rows.collect()
        })
    }

    /// What the stat cache knows of one directory of a context.
    pub fn stat_row(&self, root: &Key, dir: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("look up files", |connection| {
            connection
                .prepare_cached("SELECT entries FROM stats WHERE root = ? AND dir = ?")?
                .query_row(params![bytes(root), dir], |row| row.get(0))
                .optional()
        })
    }

    /// Remembers what was seen of directories of a context.
    pub fn put_stat_rows(&self, root: &Key, rows: &[StatRow]) -> Result<(), StoreError> {
        self.tell("remember files", |connection| {
            {
                let mut insert =
                    connection.prepare_cached("INSERT OR REPLACE INTO stats VALUES (?, ?, ?)")?;
                for row in rows {
                    insert.execute(params![bytes(root), row.dir, row.entries])?;
                }
            }
            census::see_root(connection, root)?;
            Ok(())
        })
    }

    /// What a reference was last found to mean.
    pub fn answer(&self, reference: &str) -> Result<Option<Answer>, StoreError> {
        self.with("look up an answer", |connection| {
            connection
                .prepare_cached("SELECT answer, asked_ms FROM answers WHERE reference = ?")?
                .query_row(params![reference], |row| {
                    Ok(Answer {
                        answer: row.get(0)?,
                        asked_ms: row.get(1)?,
                    })
                })
                .optional()
        })
    }

    /// Remembers what a reference means.
    pub fn put_answer(&self, reference: &str, answer: &Answer) -> Result<(), StoreError> {
        self.tell("remember an answer", |connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)")?
                .execute(params![reference, answer.answer, answer.asked_ms])
                .map(drop)
        })
    }

    /// Puts it aside and makes a new one.
    pub(super) fn renew(&self) -> Result<(), StoreError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mode =
            connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
        let local = mode.is_ok_and(|mode| mode != "delete");
        *connection = anew(&self.path, &self.snapshots, local)?;
        Ok(())
    }

    /// What is asked until the guard goes, or something is told, is answered from one state of the index. SQLite then
    /// takes its locks once and not for each question.
    pub fn at_one_moment(&self) -> Moment<'_> {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Not begun: each question is answered for itself.
        drop(connection.execute_batch("BEGIN"));
        Moment(self)
    }

    pub(super) fn end_moment(&self) {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !connection.is_autocommit() {
            // Nothing was told meanwhile, so nothing can be lost.
            drop(connection.execute_batch("COMMIT"));
        }
    }

    /// Tells SQLite something, all of it or nothing. That ends what [`at_one_moment`](Self::at_one_moment) began: what is old
    /// may not be written to.
    pub(super) fn tell<T>(
        &self,
        what: &'static str,
        tell: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.end_moment();
        self.with(what, |connection| together(connection, &tell))
    }

    /// Asks SQLite something; an index that turns out to be damaged is made anew, once, and asked again.
    pub(super) fn with<T>(
        &self,
        what: &'static str,
        ask: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection: MutexGuard<'_, Connection> = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match ask(&connection) {
            Err(error) if is_damage(&error) => {
                let local = connection
                    .pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
                *connection = again_or_anew(
                    &self.path,
                    &self.snapshots,
                    local.is_ok_and(|mode| mode != "delete"),
                )?;
                ask(&connection)
            }
            answer => answer,
        }
        .map_err(|source| StoreError::Index { what, source })
    }
}

/// Writes all of it or nothing, and lets nobody else write meanwhile: who asks first and writes then, while somebody else
/// has written in between, is refused by SQLite without a wait.
pub(super) fn together<T>(
    connection: &Connection,
    write: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let begun = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let written = write(&begun)?;
    begun.commit()?;
    Ok(written)
}

pub(super) fn insert_record(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    census::insert(connection, record)?;
    let Some(key) = &record.key else {
        return Ok(());
    };
    let mut layers = record.below.clone();
    layers.push(record.id);
    let op = OpRecord {
        layers,
        fields: record.fields.clone(),
        created_ms: record.created_ms,
        duration_ms: record.duration_ms,
    };
    insert_op(connection, key, &op)
}

pub(super) fn insert_op(
    connection: &Connection,
    key: &Key,
    record: &OpRecord,
) -> rusqlite::Result<()> {
    let layers: Vec<u8> = record.layers.iter().flat_map(bytes_of).collect();
    connection
        .prepare_cached("INSERT OR REPLACE INTO ops VALUES (?, ?, ?, ?, ?)")?
        .execute(params![
            bytes(key),
            layers,
            text(&record.fields),
            record.created_ms,
            record.duration_ms
        ])
        .map(drop)
}

fn listed(connection: &Connection, part: &str) -> rusqlite::Result<Vec<Key>> {
    let mut select = connection.prepare_cached("SELECT digest FROM listings WHERE part = ?")?;
    let rows = select.query_map(params![part], |row| key_at(row, 0))?;
    rows.collect()
}

pub(super) fn bytes(key: &Key) -> &[u8] {
    key.as_bytes()
}

pub(super) fn bytes_of(key: &Key) -> [u8; 32] {
    *key.as_bytes()
}

pub(super) fn keys(bytes: &[u8]) -> Vec<Key> {
    bytes
        .as_chunks::<32>()
        .0
        .iter()
        .map(|key| Key::from_bytes(*key))
        .collect()
}

fn text(fields: &Fields) -> String {
    serde_json::to_string(fields).unwrap_or_default()
}

pub(super) fn fields(text: &str) -> Fields {
    serde_json::from_str(text).unwrap_or_default()
}

pub(super) fn key_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Key> {
    row.get::<_, [u8; 32]>(column).map(Key::from_bytes)
}

pub(super) fn digest_at(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get::<_, String>(column)?.parse().map_err(|_| {
        rusqlite::Error::InvalidColumnType(column, "digest".to_owned(), rusqlite::types::Type::Text)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Store;
    use crate::sys::file::tempdir::TempDir;

    fn op(number: u8) -> OpRecord {
        let mut fields = Fields::new();
        fields.put("command", format!("make {number}"));
        OpRecord {
            layers: vec![Key::of(b"base"), Key::of(&[number])],
            fields,
            created_ms: 7,
            duration_ms: 1500,
        }
    }

    #[test]
    fn what_was_put_is_found_by_another_process() {
        let dir = TempDir::new();
        let (one, other) = (
            Store::open(dir.path()).unwrap(),
            Store::open(dir.path()).unwrap(),
        );
        let key = Key::of(b"key");
        assert_eq!(one.index().unwrap().op(&key).unwrap(), None);
        other.index().unwrap().put_op(&key, &op(1)).unwrap();
        assert_eq!(one.index().unwrap().op(&key).unwrap(), Some(op(1)));
        // No snapshot of it exists.
        assert_eq!(one.result(&key).unwrap(), None);

        let index = one.index().unwrap();
        let part = PartRecord {
            key,
            makings: "{}".to_owned(),
            built_ms: 1,
        };
        let (old, new) = (Key::of(b"old"), Key::of(b"new"));
        for (digest, kept) in [(old, vec![old]), (new, vec![new])] {
            index
                .put_part("web", &part, &[(digest, vec![7])], &kept)
                .unwrap();
        }
        assert_eq!(index.part("web").unwrap(), Some(part));
        assert_eq!(index.part_key("web").unwrap(), Some(key));
        assert_eq!(index.listed("web").unwrap(), [new]);
        assert_eq!(index.listing("web", &new).unwrap(), Some(vec![7]));
        assert_eq!(index.listing("web", &old).unwrap(), None);
        let blob = LayerBlob {
            digest: Digest::of(b"x"),
            size: 1,
            media_type: "tar".to_owned(),
        };
        index.put_layer_blob(&key, "gzip", "6", &blob).unwrap();
        index.put_diff_ids(&[(key, Digest::of(b"y"), 9)]).unwrap();
        assert_eq!(index.layer_blob(&key, "gzip", "6").unwrap(), Some(blob));
        assert_eq!(index.layer_blob(&key, "gzip", "9").unwrap(), None);
        assert_eq!(index.diff_id(&key).unwrap(), Some((Digest::of(b"y"), 9)));
        // Another one under the same name.
        index.put_content(&key, "/a", &key).unwrap();
        index.forget_former(&Key::of(b"another")).unwrap();
        assert_eq!(index.diff_id(&key).unwrap(), Some((Digest::of(b"y"), 9)));
        index.forget_former(&key).unwrap();
        assert_eq!(index.layer_blob(&key, "gzip", "6").unwrap(), None);
        assert_eq!(index.diff_id(&key).unwrap(), None);
        assert_eq!(index.content(&key, "/a").unwrap(), None);
        index.put_content(&key, "/a/*", &Key::of(b"z")).unwrap();
        assert_eq!(index.content(&key, "/a/*").unwrap(), Some(Key::of(b"z")));
        let answer = Answer {
            answer: "{}".to_owned(),
            asked_ms: 3,
        };
        index.put_answer("debian:12", &answer).unwrap();
        assert_eq!(index.answer("debian:12").unwrap(), Some(answer));
    }

    #[test]
    fn two_that_ask_before_they_tell_wait_for_each_other() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let other = Store::open(dir.path()).unwrap();
        let answer = |text: &str| Answer {
            answer: text.to_owned(),
            asked_ms: 1,
        };
        let index = store.index().unwrap();
        index.put_answer("a", &answer("none")).unwrap();
        std::thread::scope(|scope| {
            let (asked, was_asked) = std::sync::mpsc::channel();
            let later = scope.spawn(move || {
                was_asked.recv().unwrap();
                other.index().unwrap().put_answer("a", &answer("theirs"))
            });
            index
                .tell("test", |connection| {
                    let before: String = connection.query_row(
                        "SELECT answer FROM answers WHERE reference = 'a'",
                        [],
                        |row| row.get(0),
                    )?;
                    asked.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    connection.execute("UPDATE answers SET answer = ?", [before + ", ours"])
                })
                .unwrap();
            later.join().unwrap().unwrap();
        });
        assert_eq!(index.answer("a").unwrap().unwrap().answer, "theirs");
    }

    #[test]
    fn what_is_asked_at_one_moment_stays_until_something_is_told() {
        let dir = TempDir::new();
        let (one, other) = (
            Store::open(dir.path()).unwrap(),
            Store::open(dir.path()).unwrap(),
        );
        let (index, others) = (one.index().unwrap(), other.index().unwrap());
        let [first, second, third] = [b"1", b"2", b"3"].map(|name| Key::of(name));
        let moment = index.at_one_moment();
        assert_eq!(index.op(&first).unwrap(), None);
        others.put_op(&first, &op(1)).unwrap();
        assert_eq!(index.op(&first).unwrap(), None);
        index.put_op(&second, &op(2)).unwrap();
        assert_eq!(index.op(&first).unwrap(), Some(op(1)));
        assert_eq!(others.op(&second).unwrap(), Some(op(2)));
        drop(moment);
        drop(index.at_one_moment());
        others.put_op(&third, &op(3)).unwrap();
        assert_eq!(index.op(&third).unwrap(), Some(op(3)));
    }

    #[test]
    fn rows_of_a_directory_come_with_those_below_it() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let root = Key::of(b"root");
        let row = |dir: &str| StatRow {
            dir: dir.into(),
            entries: vec![1],
        };
        let rows = ["", "a", "a/b", "a-b", "ab", "b"].map(row);
        store.index().unwrap().put_stat_rows(&root, &rows).unwrap();
        assert_eq!(
            store.index().unwrap().stat_rows(&root, b"a").unwrap(),
            [row("a"), row("a/b")]
        );
        assert_eq!(
            store.index().unwrap().stat_rows(&root, b"").unwrap().len(),
            6
        );
        assert_eq!(
            store
                .index()
                .unwrap()
                .stat_rows(&Key::of(b"other"), b"")
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn a_damaged_or_lost_index_is_made_again_from_the_records() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let tmp = store.tmp_dir().unwrap();
        let (key, id) = (Key::of(b"key"), Key::of(b"snapshot"));
        let record = Record {
            id,
            below: vec![],
            key: Some(key),
            fields: op(1).fields,
            created_ms: 7,
            duration_ms: 8,
            what: "RUN make".to_owned(),
        };
        record.write(tmp.dir()).unwrap();
        store.publish_snapshot(&id, tmp).unwrap().unwrap();
        let damages: [fn(&Path); 4] = [
            |path| std::fs::remove_file(path).unwrap(),
            |path| std::fs::write(path, "this was no database, ever").unwrap(),
            |path| std::fs::write(path, "").unwrap(),
            |path| {
                let connection = Connection::open(path).unwrap();
                connection
                    .execute_batch("PRAGMA user_version = 77")
                    .unwrap();
            },
        ];
        assert!(store.result(&key).unwrap().is_some());
        drop(store);
        for damage in damages {
            damage(&dir.path().join("index.sqlite"));
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.result(&key).unwrap().unwrap().layers, [id]);
        }
        // Damage that shows only when a page is read.
        {
            use std::os::unix::fs::FileExt;
            let file = std::fs::File::options()
                .write(true)
                .open(dir.path().join("index.sqlite"))
                .unwrap();
            for page in 1..8 {
                file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
            }
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.result(&key).unwrap().unwrap().layers, [id]);
    }

    #[test]
    fn an_index_that_cannot_be_written_is_read() {
        use rustix::mount::{MountFlags, mount_bind, mount_remount, unmount};
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let key = Key::of(b"key");
        store.index().unwrap().put_op(&key, &op(1)).unwrap();
        drop(store);
        if let Err(error) = mount_bind(dir.path(), dir.path()) {
            return println!("skip: mounts are not allowed: {error}");
        }
        mount_remount(dir.path(), MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        let store = Store::open(dir.path());
        let read = store.and_then(|store| {
            let read = store.index()?.op(&key)?;
            assert!(store.index()?.put_op(&key, &op(2)).is_err());
            Ok(read)
        });
        unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(read.unwrap(), Some(op(1)));
    }

    #[test]
    fn opening_and_asking_is_quick_and_syncs_nothing() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        for number in 0..200 {
            store
                .index()
                .unwrap()
                .put_op(&Key::of(&[number]), &op(number))
                .unwrap();
        }
        drop(store);
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let start = std::time::Instant::now();
            let store = Store::open(dir.path()).unwrap();
            for number in 0..20 {
                assert!(
                    store
                        .index()
                        .unwrap()
                        .op(&Key::of(&[number]))
                        .unwrap()
                        .is_some()
                );
            }
            best = best.min(start.elapsed());
            drop(store);
        }
        println!("open and 20 lookups: {best:?}");
    }
}
