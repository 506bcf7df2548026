//! What the files of a context hashed to, believed as long as `stat` says that nothing changed.
//!
//! A change that keeps size and modification time still moves the change time, which nobody can set. Change times move
//! in steps of some milliseconds, so a file that changed just before it was read may change again without a trace: what
//! is not safely older than the moment the reading began is not kept.
//!
//! One row of the index is one directory; its entries, sorted by name, each as
//! `name length (2), name, dev, ino, size, modified (8 + 4), changed (8 + 4), digest (32)`, numbers little-endian.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::digest::Key;
use crate::store::{Index, StatRow, StoreError};
use crate::sys::dir::{Metadata, Time};

/// How much older than the reading a change must be.
const MARGIN: Duration = Duration::from_millis(50);
/// The same where time stamps have no part below the second.
const MARGIN_COARSE: Duration = Duration::from_millis(2100);
/// What an entry takes beside its name.
const FIXED: usize = 2 + 3 * 8 + 2 * 12 + 32;

/// Whether what was read at `now` or later will be known to be outdated after the next change.
pub(super) fn is_safe(metadata: &Metadata, now: Time) -> bool {
    let margin = if metadata.changed.nanoseconds == 0 {
        MARGIN_COARSE
    } else {
        MARGIN
    };
    metadata.changed.plus(margin) < now
}

/// The known directories of one context.
#[derive(Debug, Default)]
pub(super) struct Known {
    rows: HashMap<Vec<u8>, Row>,
}

#[derive(Debug, Default)]
struct Row {
    packed: Vec<u8>,
    /// Names come in order, so a look-up goes on where the last one ended.
    at: usize,
    /// What was looked up last.
    last: Vec<u8>,
}

impl Known {
    /// Takes in a directory and all below it.
    pub(super) fn load_below(
        &mut self,
        index: &Index,
        root: &Key,
        dir: &[u8],
    ) -> Result<(), StoreError> {
        for StatRow { dir, entries } in index.stat_rows(root, dir)? {
            self.rows.insert(
                dir,
                Row {
                    packed: entries,
                    ..Row::default()
                },
            );
        }
        Ok(())
    }

    /// Takes in one directory, if it is not here yet.
    pub(super) fn load(&mut self, index: &Index, root: &Key, dir: &[u8]) -> Result<(), StoreError> {
        if !self.rows.contains_key(dir) {
            let packed = index.stat_row(root, dir)?.unwrap_or_default();
            self.rows.insert(
                dir.to_owned(),
                Row {
                    packed,
                    ..Row::default()
                },
            );
        }
        Ok(())
    }

    /// The digest of an entry, if it is as it was.
    pub(super) fn find(
        &mut self,
        dir: &[u8],
        name: &[u8],
        metadata: &Metadata,
    ) -> Option<[u8; 32]> {
        let row = self.rows.get_mut(dir)?;
        // Only another selection of the same directory starts over.
        if name <= row.last.as_slice() {
            row.at = 0;
        }
        row.last.clear();
        row.last.extend_from_slice(name);
        while let Some((found, stamp, digest)) = entry_at(&row.packed, row.at) {
            match found.cmp(name) {
                Ordering::Less => row.at += FIXED + found.len(),
                Ordering::Equal => return (stamp == pack_stamp(metadata)).then_some(digest),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// A directory's row with what is known of it now.
    pub(super) fn renewed(
        &self,
        dir: &[u8],
        seen: &[Seen<'_>],
        others: Others,
        now: Time,
    ) -> StatRow {
        let mut entries: BTreeMap<&[u8], ([u8; 48], [u8; 32])> = BTreeMap::new();
        if let (Others::Kept, Some(row)) = (others, self.rows.get(dir)) {
            let mut at = 0;
            while let Some((name, stamp, digest)) = entry_at(&row.packed, at) {
                entries.insert(name, (stamp, digest));
                at += FIXED + name.len();
            }
        }
        for entry in seen {
            if is_safe(entry.metadata, now) {
                entries.insert(entry.name, (pack_stamp(entry.metadata), entry.digest));
            } else {
                entries.remove(entry.name);
            }
        }
        let mut packed = Vec::with_capacity(entries.len() * (FIXED + 16));
        for (name, (stamp, digest)) in entries {
            packed.extend_from_slice(&(name.len() as u16).to_le_bytes());
            packed.extend_from_slice(name);
            packed.extend_from_slice(&stamp);
            packed.extend_from_slice(&digest);
        }
        StatRow {
            dir: dir.to_owned(),
            entries: packed,
        }
    }
}

/// What becomes of entries that were not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They stay.
    Kept,
    /// The whole directory was looked at: they are gone.
    Dropped,
}

/// An entry as it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) name: &'a [u8],
    pub(super) metadata: &'a Metadata,
    pub(super) digest: [u8; 32],
}

fn entry_at(packed: &[u8], at: usize) -> Option<(&[u8], [u8; 48], [u8; 32])> {
    let rest = packed.get(at..)?;
    let length = usize::from(u16::from_le_bytes(*rest.first_chunk()?));
    let name = rest.get(2..2 + length)?;
    let stamp = *rest.get(2 + length..)?.first_chunk()?;
    let digest = *rest.get(2 + length + 48..)?.first_chunk()?;
    Some((name, stamp, digest))
}

fn pack_stamp(metadata: &Metadata) -> [u8; 48] {
    let mut stamp = [0; 48];
    let numbers = [
        &metadata.dev.to_le_bytes()[..],
        &metadata.ino.to_le_bytes(),
        &metadata.size.to_le_bytes(),
        &metadata.modified.seconds.to_le_bytes(),
        &metadata.modified.nanoseconds.to_le_bytes(),
        &metadata.changed.seconds.to_le_bytes(),
        &metadata.changed.nanoseconds.to_le_bytes(),
    ];
    let mut at = 0;
    for number in numbers {
        stamp[at..at + number.len()].copy_from_slice(number);
        at += number.len();
    }
    stamp
}
