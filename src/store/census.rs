//! What the index knows of sizes: of every snapshot since it was published, of what changes (cache mounts, mirrors) since
//! it was last measured. So nobody walks a tree to answer a question.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;
use super::index::{FORGET_CONTENTS, Index, bytes, bytes_of, digest_at, key_at, keys};
use super::record::Record;
use crate::digest::{Digest, Key};

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: Key,
    /// The snapshot that it was made on.
    pub(super) parent: Option<Key>,
    pub(super) source: Source,
    /// Where it comes from, for people.
    pub(super) what: String,
    pub(super) created_ms: u64,
    /// What it takes of the disk; `None`: it has not been measured.
    pub(super) size: Option<u64>,
}

/// Where a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A step, a Debian base, a layer of an image.
    Made,
    /// A repository.
    Git,
    /// A download.
    Http,
    /// A directory or archive of this machine.
    Local,
}

impl Source {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Made, "made"),
        (Self::Git, "git"),
        (Self::Http, "http"),
        (Self::Local, "local"),
    ];

    fn of(record: &Record) -> Self {
        match record.fields.get("source") {
            Some("git") => Self::Git,
            Some("http") => Self::Http,
            Some("archive") => Self::Local,
            _ if record.fields.get("mounted path").is_some() => Self::Local,
            _ => Self::Made,
        }
    }

    fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(source, _)| *source == self);
        named.map_or("made", |(_, name)| name)
    }

    fn named(text: &str) -> Self {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map_or(Self::Made, |(source, _)| *source)
    }
}

/// What is not a snapshot and is measured now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) size: u64,
    pub(super) measured_ms: u64,
}

/// What a store's index has to know of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// Bytes of all single files (blobs, downloads, history), when they were last counted.
    FileBytes,
    /// When everything was last looked through.
    LookedThroughMs,
    /// How much there was when not enough could be deleted.
    StuckAtBytes,
}

impl Number {
    const fn name(self) -> &'static str {
        match self {
            Self::FileBytes => "file bytes",
            Self::LookedThroughMs => "looked through",
            Self::StuckAtBytes => "stuck at",
        }
    }
}

/// How much longer than anything else an answer is kept.
const ANSWERS_KEPT_MS: u64 = 365 * 24 * 3_600_000;

pub(super) const TABLES: &str = "
CREATE TABLE snapshots (id BLOB PRIMARY KEY, parent BLOB, source TEXT NOT NULL, what TEXT NOT NULL,
    created_ms INTEGER NOT NULL, size INTEGER);
CREATE INDEX unmeasured ON snapshots (id) WHERE size IS NULL;
CREATE TABLE things (kind TEXT, name TEXT, size INTEGER NOT NULL, measured_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE stat_roots (root BLOB PRIMARY KEY, seen_s INTEGER NOT NULL) WITHOUT ROWID;
";

/// Puts in what a record says.
pub(super) fn insert(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, NULL)")?
        .execute(params![
            bytes(&record.id),
            record.below.last().map(bytes_of),
            Source::of(record).name(),
            record.what,
            record.created_ms
        ])
        .map(drop)
}

/// Says when something new was last seen of a context.
pub(super) fn see_root(connection: &Connection, root: &Key) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO stat_roots VALUES (?, unixepoch())")?
        .execute(params![bytes(root)])
        .map(drop)
}

impl Index {
    /// All snapshots that it knows.
    pub(super) fn known(&self) -> Result<Vec<Known>, StoreError> {
        self.with("look up snapshots", |connection| {
            let mut select = connection.prepare_cached(
                "SELECT id, parent, source, what, created_ms, size FROM snapshots",
            )?;
            let rows = select.query_map([], |row| {
                Ok(Known {
                    id: key_at(row, 0)?,
                    parent: row.get::<_, Option<[u8; 32]>>(1)?.map(Key::from_bytes),
                    source: Source::named(row.get_ref(2)?.as_str()?),
                    what: row.get(3)?,
                    created_ms: row.get(4)?,
                    size: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Some of the snapshots whose sizes are not known.
    pub(crate) fn unmeasured(&self) -> Result<Vec<Key>, StoreError> {
        self.with("look up snapshots", |connection| {
            let mut select = connection
                .prepare_cached("SELECT id FROM snapshots WHERE size IS NULL LIMIT 1000")?;
            let rows = select.query_map([], |row| key_at(row, 0))?;
            rows.collect()
        })
    }

    /// When a snapshot was made, in milliseconds since 1970.
    pub(crate) fn created_ms(&self, snapshot: &Key) -> Result<Option<u64>, StoreError> {
        self.with("look up a snapshot", |connection| {
            connection
                .prepare_cached("SELECT created_ms FROM snapshots WHERE id = ?")?
                .query_row(params![bytes(snapshot)], |row| row.get(0))
                .optional()
        })
    }

    /// Remembers what snapshots take of the disk.
    pub(crate) fn put_sizes(&self, sizes: &[(Key, u64)]) -> Result<(), StoreError> {
        self.tell("remember sizes", |connection| {
            {
                let mut update =
                    connection.prepare_cached("UPDATE snapshots SET size = ? WHERE id = ?")?;
                for (id, size) in sizes {
                    update.execute(params![size, bytes(id)])?;
                }
            }
            Ok(())
        })
    }

    /// What is known of what changes, by kind and name.
    pub(super) fn things(&self) -> Result<HashMap<(String, String), Measured>, StoreError> {
        self.with("look up sizes", |connection| {
            let mut select =
                connection.prepare_cached("SELECT kind, name, size, measured_ms FROM things")?;
            let rows = select.query_map([], |row| {
                let measured = Measured {
                    size: row.get(2)?,
                    measured_ms: row.get(3)?,
                };
                Ok(((row.get(0)?, row.get(1)?), measured))
            })?;
            rows.collect()
        })
    }

    /// Remembers what something takes of the disk now.
    pub(super) fn put_thing(
        &self,
        kind: &str,
        name: &str,
        measured: Measured,
    ) -> Result<(), StoreError> {
        self.tell("remember a size", |connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO things VALUES (?, ?, ?, ?)")?
                .execute(params![kind, name, measured.size, measured.measured_ms])
                .map(drop)
        })
    }

    /// What all trees take of the disk, as far as they were measured.
    pub(super) fn tree_bytes(&self) -> Result<u64, StoreError> {
        self.with("look up sizes", |connection| {
            connection.query_row(
                "SELECT (SELECT coalesce(sum(size), 0) FROM snapshots)
                      + (SELECT coalesce(sum(size), 0) FROM things)",
                [],
                |row| row.get(0),
            )
        })
    }

    pub(super) fn number(&self, which: Number) -> Result<Option<u64>, StoreError> {
        self.with("look up a number", |connection| {
            connection
                .prepare_cached("SELECT value FROM numbers WHERE name = ?")?
                .query_row(params![which.name()], |row| row.get(0))
                .optional()
        })
    }

    pub(super) fn put_number(&self, which: Number, value: u64) -> Result<(), StoreError> {
        self.tell("remember a number", |connection| {
            connection
                .prepare_cached("INSERT OR REPLACE INTO numbers VALUES (?, ?)")?
                .execute(params![which.name(), value])
                .map(drop)
        })
    }

    /// Which blobs are layers of which snapshots.
    pub(super) fn packed(&self) -> Result<Vec<(Key, Digest)>, StoreError> {
        self.with("look up layers", |connection| {
            let mut select = connection.prepare_cached(
                "SELECT snapshot, digest FROM layer_blobs WHERE variant = 'blob'",
            )?;
            let rows = select.query_map([], |row| Ok((key_at(row, 0)?, digest_at(row, 1)?)))?;
            rows.collect()
        })
    }

    /// Writes a copy of it into an empty file.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        self.with("copy everything", |connection| {
            connection
                .execute("VACUUM INTO ?", params![path.to_string_lossy()])
                .map(drop)
        })
    }

    /// Takes from a copy of another index what it does not know itself.
    pub(crate) fn take_from(&self, path: &Path) -> Result<(), StoreError> {
        const TABLES: [&str; 8] = [
            "ops",
            "parts",
            "listings",
            "diff_ids",
            "layer_blobs",
            "contents",
            "answers",
            "snapshots",
        ];
        self.end_moment();
        self.with("take over results", |connection| {
            // Not within a transaction.
            connection.execute("ATTACH ? AS other", params![path.to_string_lossy()])?;
            let taken = super::index::together(connection, |connection| {
                for table in TABLES {
                    connection.execute(
                        &format!("INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"),
                        [],
                    )?;
                }
                Ok(())
            });
            connection.execute("DETACH other", [])?;
            taken
        })
    }

    /// What SQLite finds wrong with it.
    pub(super) fn fault(&self) -> Result<Option<String>, StoreError> {
        self.with("look for damage", |connection| {
            let verdict: String =
                connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
            Ok((verdict != "ok").then_some(verdict))
        })
    }

    /// All snapshots that results need.
    pub(super) fn layers_used(&self) -> Result<HashSet<Key>, StoreError> {
        self.with("look up results", |connection| {
            let mut select = connection.prepare_cached("SELECT layers FROM ops")?;
            let mut rows = select.query([])?;
            let mut used = HashSet::new();
            while let Some(row) = rows.next()? {
                used.extend(keys(row.get_ref(0)?.as_blob()?));
            }
            Ok(used)
        })
    }

    /// Forgets all results that need one of these snapshots, and what is known of them.
    pub(super) fn forget_snapshots(&self, gone: &HashSet<Key>) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        self.tell("forget results", |connection| {
            let lost: Vec<[u8; 32]> = {
                let mut select = connection.prepare_cached("SELECT key, layers FROM ops")?;
                let mut rows = select.query([])?;
                let mut lost = Vec::new();
                while let Some(row) = rows.next()? {
                    let layers = keys(row.get_ref(1)?.as_blob()?);
                    if layers.iter().any(|layer| gone.contains(layer)) {
                        lost.push(row.get(0)?);
                    }
                }
                lost
            };
            for key in lost {
                connection
                    .prepare_cached("DELETE FROM ops WHERE key = ?")?
                    .execute(params![key])?;
            }
            connection.execute(FORGET_CONTENTS, [])?;
            for delete in [
                "DELETE FROM snapshots WHERE id = ?",
                "DELETE FROM diff_ids WHERE snapshot = ?",
                "DELETE FROM layer_blobs WHERE snapshot = ?",
            ] {
                let mut delete = connection.prepare_cached(delete)?;
                for id in gone {
                    delete.execute(params![bytes(id)])?;
                }
            }
            Ok(())
        })
    }

    /// Forgets what something that changes took of the disk.
    pub(super) fn forget_thing(&self, kind: &str, name: &str) -> Result<(), StoreError> {
        self.tell("forget a size", |connection| {
            connection
                .prepare_cached("DELETE FROM things WHERE kind = ? AND name = ?")?
                .execute(params![kind, name])
                .map(drop)
        })
    }

    /// Forgets what was seen of contexts of which nothing new was seen since then, of repositories, and answers that are much older: with
    /// `--offline` an answer of any age serves.
    pub(super) fn forget_before(&self, then_ms: u64) -> Result<(), StoreError> {
        self.tell("forget what is old", |connection| {
            let then_s = then_ms / 1000;
            connection.execute(
                "DELETE FROM stats WHERE root NOT IN (SELECT root FROM stat_roots WHERE seen_s >= ?)",
                params![then_s],
            )?;
            connection.execute("DELETE FROM holders WHERE seen_ms < ?", params![then_ms])?;
            connection.execute("DELETE FROM stat_roots WHERE seen_s < ?", params![then_s])?;
            let long_ago_ms = then_ms.saturating_sub(ANSWERS_KEPT_MS);
            connection.execute("DELETE FROM answers WHERE asked_ms < ?", params![long_ago_ms])?;
            Ok(())
        })
    }
}
