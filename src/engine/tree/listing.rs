//! What a selection of files was, so that the one that changed can be named. Kept beside a digest, never part of a key.
//!
//! One entry after another, as
//! `bytes shared with the path before (2), bytes that follow (2), those, kind (1), mode (2), first bytes of the digest (8)`,
//! numbers little-endian.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::sys::dir::Kind;

/// A longer one is not kept: which file changed is then not told.
const BYTES_MAX: usize = 8 << 20;
/// As much of a digest as tells two contents apart.
const DIGEST_BYTES: usize = 8;

/// The files of a selection.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    packed: Vec<u8>,
    last: Vec<u8>,
    is_too_long: bool,
}

/// One file that is not the same in two listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Where it is, from the top of its tree.
    pub path: PathBuf,
    /// What became of it: `added`, `removed`, `content changed`, `mode 0644 -> 0755` …
    pub what: String,
}

/// What is kept of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    kind: u8,
    mode: u16,
    digest: [u8; DIGEST_BYTES],
}

impl Listing {
    /// Adds a file.
    pub(super) fn add(&mut self, path: &[u8], kind: u8, mode: u32, digest: &[u8; 32]) {
        let limit = usize::from(u16::MAX);
        self.is_too_long |= self.packed.len() > BYTES_MAX || path.len() > limit;
        if self.is_too_long {
            return;
        }
        let shared = path
            .iter()
            .zip(&self.last)
            .take_while(|(one, other)| one == other)
            .count();
        let rest = &path[shared..];
        for length in [shared, rest.len()] {
            self.packed.extend((length as u16).to_le_bytes());
        }
        self.packed.extend(rest);
        self.packed.push(kind);
        self.packed.extend((mode as u16 & 0o7777).to_le_bytes());
        self.packed.extend(&digest[..DIGEST_BYTES]);
        self.last.truncate(shared);
        self.last.extend(rest);
    }

    /// Its bytes, unless it is too long to be kept.
    #[must_use]
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        (!self.is_too_long).then_some(self.packed)
    }
}

fn read(packed: &[u8]) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut path: Vec<u8> = Vec::new();
    let mut rest = packed;
    while let Some((lengths, after)) = rest.split_at_checked(4) {
        let shared = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
        let count = usize::from(u16::from_le_bytes([lengths[2], lengths[3]]));
        let Some((own, after)) = after.split_at_checked(count) else {
            break;
        };
        let Some((fixed, after)) = after.split_at_checked(3 + DIGEST_BYTES) else {
            break;
        };
        path.truncate(shared);
        path.extend(own);
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&fixed[3..]);
        let entry = Entry {
            kind: fixed[0],
            mode: u16::from_le_bytes([fixed[1], fixed[2]]),
            digest,
        };
        entries.insert(path.clone(), entry);
        rest = after;
    }
    entries
}

/// What is not the same in two listings, by path.
#[must_use]
pub fn file_changes(old: &[u8], new: &[u8]) -> Vec<FileChange> {
    use std::os::unix::ffi::OsStringExt as _;
    let (old, new) = (read(old), read(new));
    let mut paths: Vec<&Vec<u8>> = old.keys().chain(new.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let what = |path: &Vec<u8>| match (old.get(path), new.get(path)) {
        (None, _) => Some("added".to_owned()),
        (_, None) => Some("removed".to_owned()),
        (Some(was), Some(is)) if was == is => None,
        (Some(was), Some(is)) if was.kind != is.kind => Some(format!(
            "{} became {}",
            kind_name(was.kind),
            kind_name(is.kind)
        )),
        (Some(was), Some(is)) if was.digest == is.digest => {
            Some(format!("mode {:04o} -> {:04o}", was.mode, is.mode))
        }
        (Some(_), Some(is)) if is.kind == kind_letter(Kind::Symlink) => {
            Some("leads elsewhere".to_owned())
        }
        _ => Some("content changed".to_owned()),
    };
    paths
        .into_iter()
        .filter_map(|path| {
            let what = what(path)?;
            let path = std::ffi::OsString::from_vec(path.clone()).into();
            Some(FileChange { path, what })
        })
        .collect()
}

/// A kind as one byte: in digests and in listings.
pub(super) fn kind_letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'f',
        Kind::Dir => b'd',
        Kind::Symlink => b'l',
        Kind::Fifo => b'p',
        Kind::Socket => b's',
        Kind::CharDevice => b'c',
        Kind::BlockDevice => b'b',
    }
}

fn kind_name(letter: u8) -> &'static str {
    match letter {
        b'f' => "a file",
        b'd' => "a directory",
        b'l' => "a link",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_each_file_is_told() {
        let mut old = Listing::default();
        let mut new = Listing::default();
        let (one, other) = ([1; 32], [2; 32]);
        for (path, was, is) in [
            ("src", Some((b'd', 0o755, &one)), Some((b'd', 0o755, &one))),
            (
                "src/a",
                Some((b'f', 0o644, &one)),
                Some((b'f', 0o644, &other)),
            ),
            (
                "src/b",
                Some((b'f', 0o644, &one)),
                Some((b'f', 0o600, &one)),
            ),
            ("src/c", Some((b'f', 0o644, &one)), None),
            ("src/cc", None, Some((b'f', 0o644, &one))),
            (
                "src/d",
                Some((b'f', 0o644, &one)),
                Some((b'l', 0o777, &other)),
            ),
        ] {
            for (listing, entry) in [(&mut old, was), (&mut new, is)] {
                if let Some((kind, mode, digest)) = entry {
                    listing.add(path.as_bytes(), kind, mode, digest);
                }
            }
        }
        let (old, new) = (old.into_bytes().unwrap(), new.into_bytes().unwrap());
        let told: Vec<String> = file_changes(&old, &new)
            .into_iter()
            .map(|change| format!("{}: {}", change.path.display(), change.what))
            .collect();
        assert_eq!(
            told,
            [
                "src/a: content changed",
                "src/b: mode 0644 -> 0600",
                "src/c: removed",
                "src/cc: added",
                "src/d: a file became a link"
            ]
        );
        assert_eq!(file_changes(&old, &old), []);
    }
}
