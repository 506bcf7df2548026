//! What a snapshot says of itself, in a file beside it: enough to rebuild the index from.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::digest::{Fields, Key};
use crate::sys::dir::Dir;

/// `record.json` of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The snapshot.
    pub id: Key,
    /// The snapshots that it lies on, bottom first.
    pub below: Vec<Key>,
    /// The key of the op whose result is this snapshot on those below; `None` where it is only a part of a result.
    pub key: Option<Key>,
    /// What that key is made from.
    pub fields: Fields,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// How long that took.
    pub duration_ms: u64,
    /// The instruction or source that it comes from, for people.
    pub what: String,
}

/// The file beside a snapshot.
const FILE: &str = "record.json";
/// No record is longer; a damaged one shall not fill the memory.
const BYTES_MAX: u64 = 64 << 20;

impl Record {
    pub(super) fn read(dir: &Dir) -> io::Result<Self> {
        let file = dir.open_file(FILE)?;
        let bytes = file.metadata()?.len().min(BYTES_MAX);
        let mut text = String::with_capacity(bytes as usize + 1);
        file.take(BYTES_MAX).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn write(&self, dir: &Dir) -> io::Result<()> {
        let mut file = dir.create_file(FILE, 0o600)?;
        file.write_all(&serde_json::to_vec(self)?)
    }
}
