//! What of the index goes to other machines with a cache, and what of theirs it takes.

use std::collections::HashSet;

use rusqlite::params;

use super::index::{self, Answer, Index, OpRecord};
use super::{Store, StoreError};
use crate::digest::Key;

impl Index {
    /// The results that are made of these snapshots alone, by their keys.
    pub fn results_of(&self, snapshots: &HashSet<Key>) -> Result<Vec<(Key, OpRecord)>, StoreError> {
        self.with("look up results", |connection| {
            let mut select = connection.prepare_cached(
                "SELECT key, layers, fields, created_ms, duration_ms FROM ops ORDER BY key",
            )?;
            let mut rows = select.query([])?;
            let mut results = Vec::new();
            while let Some(row) = rows.next()? {
                let layers = index::keys(row.get_ref(1)?.as_blob()?);
                if layers.iter().all(|layer| snapshots.contains(layer)) {
                    let record = OpRecord {
                        layers,
                        fields: index::fields(row.get_ref(2)?.as_str()?),
                        created_ms: row.get(3)?,
                        duration_ms: row.get(4)?,
                    };
                    results.push((index::key_at(row, 0)?, record));
                }
            }
            Ok(results)
        })
    }

    /// What references were found to mean that begin so.
    pub fn answers_of(&self, beginning: &str) -> Result<Vec<(String, Answer)>, StoreError> {
        self.with("look up answers", |connection| {
            let mut select = connection.prepare_cached(
                "SELECT reference, answer, asked_ms FROM answers
                 WHERE substr(reference, 1, length(?1)) = ?1 ORDER BY reference",
            )?;
            let rows = select.query_map(params![beginning], |row| {
                let answer = Answer {
                    answer: row.get(1)?,
                    asked_ms: row.get(2)?,
                };
                Ok((row.get(0)?, answer))
            })?;
            rows.collect()
        })
    }

    /// Takes over what another machine knows, where nothing is known here, or only something older.
    pub fn take_over(
        &self,
        results: &[(Key, OpRecord)],
        answers: &[(String, Answer)],
    ) -> Result<(), StoreError> {
        self.tell("take over results", |connection| {
            for (key, record) in results {
                let known = connection
                    .prepare_cached("SELECT 1 FROM ops WHERE key = ?")?
                    .exists(params![index::bytes(key)])?;
                if !known {
                    index::insert_op(connection, key, record)?;
                }
            }
            for (reference, answer) in answers {
                connection
                    .prepare_cached(
                        "INSERT INTO answers VALUES (?1, ?2, ?3) ON CONFLICT (reference) DO UPDATE
                         SET answer = ?2, asked_ms = ?3 WHERE asked_ms < ?3",
                    )?
                    .execute(params![reference, answer.answer, answer.asked_ms])?;
            }
            Ok(())
        })
    }
}

impl Store {
    /// Whether all of these snapshots are published.
    #[must_use]
    pub fn has_snapshots(&self, ids: &[Key]) -> bool {
        ids.iter().all(|id| self.has_snapshot(id))
    }
}
