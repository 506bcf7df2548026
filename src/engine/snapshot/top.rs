//! What a layer does not say of a tree: the topmost directory's own mode, owner and time.

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::dir::{Dir, Time};

/// What the topmost directory of a tree is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, u32),
}

impl Top {
    /// That of a directory.
    pub fn of(dir: &Dir) -> io::Result<Self> {
        let seen = dir.own_metadata()?;
        Ok(Self {
            mode: seen.mode,
            uid: seen.uid,
            gid: seen.gid,
            modified: (seen.modified.seconds, seen.modified.nanoseconds),
        })
    }

    /// The same at another time, in milliseconds since 1970.
    #[must_use]
    pub fn at_ms(self, ms: u64) -> Self {
        Self {
            modified: ((ms / 1000) as i64, 0),
            ..self
        }
    }

    /// Makes a directory be so.
    pub fn dress(&self, dir: &Dir) -> io::Result<()> {
        let modified = Time {
            seconds: self.modified.0,
            nanoseconds: self.modified.1,
        };
        dir.set_own_owner(self.uid, self.gid)?;
        dir.set_own_mode(self.mode)?;
        dir.set_own_times(modified, modified)
    }
}
