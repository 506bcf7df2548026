//! What is seen of a stack of upper directories without mounting it: one path at a time, by the rules of overlay
//! (whiteouts, opaque directories, a file hides what is below it). Links are never followed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use crate::sys::dir::{Dir, Metadata};
use crate::sys::overlay;

/// Upper directories that lie upon each other; the topmost comes first.
#[derive(Debug, Default)]
pub struct Lowers(Vec<Dir>);

/// What is at a path.
#[derive(Debug)]
pub enum Found {
    /// A directory: the parts it is merged from, topmost first.
    Dir(Lowers),
    /// Anything else: where it lies, and what it is.
    Other(Dir, Metadata),
}

impl Lowers {
    /// A stack; the topmost comes first.
    #[must_use]
    pub fn new(topmost_first: Vec<Dir>) -> Self {
        Self(topmost_first)
    }

    /// Whether there is nothing below at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory that lends its owner, mode and times to the merged one.
    #[must_use]
    pub fn top(&self) -> Option<&Dir> {
        self.0.first()
    }

    /// The directories of the stack, topmost first.
    pub fn iter(&self) -> impl Iterator<Item = &Dir> {
        self.0.iter()
    }

    /// What has this name in the merged directory.
    pub fn find(&self, name: &OsStr) -> io::Result<Option<Found>> {
        let mut parts = Vec::new();
        for dir in &self.0 {
            let Some(metadata) = dir.find(name)? else {
                continue;
            };
            if overlay::is_whiteout(dir, name, &metadata)? {
                break;
            }
            if !metadata.is_dir() {
                if parts.is_empty() {
                    return Ok(Some(Found::Other(dir.try_clone()?, metadata)));
                }
                break;
            }
            let part = dir.open_dir(name)?;
            let is_last = overlay::is_opaque(&part)?;
            parts.push(part);
            if is_last {
                break;
            }
        }
        Ok((!parts.is_empty()).then_some(Found::Dir(Self(parts))))
    }

    /// Whether there is a directory at this path (names with `/` between them, no links on the way).
    pub fn has_dir(&self, path: &[u8]) -> io::Result<bool> {
        let mut here = None;
        for name in path.split(|&byte| byte == b'/') {
            match here
                .as_ref()
                .unwrap_or(self)
                .find(OsStr::from_bytes(name))?
            {
                Some(Found::Dir(below)) => here = Some(below),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
