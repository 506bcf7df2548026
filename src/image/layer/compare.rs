//! In what two layers differ: the first path, in the order of their names, that is not the same in both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::{Entry, Kind, LayerReader, Limits, Malformed};
use crate::digest::{Digest, Hasher};

/// A path that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDifference {
    /// From the root, with `/` before it.
    pub path: String,
    /// In what it differs, in words: what it was, and what it is.
    pub what: Vec<String>,
}

/// The first path that differs between what was and what is; `None`: there is none, though bytes may differ.
///
/// # Errors
/// If one is no layer.
pub fn first_difference(
    was: impl Read,
    is: impl Read,
) -> Result<Option<LayerDifference>, Malformed> {
    let (was, is) = (listing(was)?, listing(is)?);
    let paths: BTreeSet<&Vec<u8>> = was.keys().chain(is.keys()).collect();
    for path in paths {
        let what = match (was.get(path), is.get(path)) {
            (Some(was), Some(is)) => differences(was, is),
            (Some(_), None) => vec!["it is not there any more".to_owned()],
            (None, _) => vec!["it was not there".to_owned()],
        };
        if !what.is_empty() {
            let path = format!("/{}", String::from_utf8_lossy(path));
            return Ok(Some(LayerDifference { path, what }));
        }
    }
    Ok(None)
}

/// A name, and the digest of its content.
type Seen = (Entry, Option<Digest>);

fn listing(layer: impl Read) -> Result<BTreeMap<Vec<u8>, Seen>, Malformed> {
    let mut reader = LayerReader::new(layer, Limits::default());
    let mut seen = BTreeMap::new();
    let mut piece = vec![0; 64 << 10];
    while let Some(entry) = reader.next_entry()? {
        let mut digest = None;
        if matches!(entry.kind, Kind::File { .. }) {
            let mut hasher = Hasher::default();
            loop {
                match reader.read(&mut piece)? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                }
            }
            digest = Some(hasher.finish().0);
        }
        seen.insert(entry.path.clone(), (entry, digest));
    }
    Ok(seen)
}

fn differences((was, content_was): &Seen, (is, content_is): &Seen) -> Vec<String> {
    let mut what = Vec::new();
    let mut differs = |name: &str, was: String, is: String| {
        if was != is {
            what.push(format!("{name}: {was} -> {is}"));
        }
    };
    differs("type", kind(&was.kind).0, kind(&is.kind).0);
    differs(
        "owner",
        format!("{}:{}", was.uid, was.gid),
        format!("{}:{}", is.uid, is.gid),
    );
    differs("mode", format!("{:o}", was.mode), format!("{:o}", is.mode));
    differs("modified", was.mtime.to_string(), is.mtime.to_string());
    if was.kind != is.kind || content_was != content_is {
        let said = |entry: &Entry, content: &Option<Digest>| match (&entry.kind, content) {
            (Kind::File { size }, Some(digest)) => {
                format!("{size} bytes {}", &digest.hex()[..12])
            }
            (other, _) => kind(other).1,
        };
        differs("content", said(was, content_was), said(is, content_is));
    }
    let named = |entry: &Entry| -> BTreeMap<String, String> {
        let pairs = entry.xattrs.iter();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        pairs
            .map(|(name, value)| (text(name), format!("{:?}", text(value))))
            .collect()
    };
    let (old, new) = (named(was), named(is));
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let side =
            |side: &BTreeMap<String, String>| side.get(name).cloned().unwrap_or("unset".to_owned());
        differs(&format!("attribute {name}"), side(&old), side(&new));
    }
    what
}

/// What it is, and what it says.
fn kind(kind: &Kind) -> (String, String) {
    let path = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
    let (name, said) = match kind {
        Kind::File { size } => ("file", format!("{size} bytes")),
        Kind::HardLink { target } => ("hard link", path(target)),
        Kind::Symlink { target } => ("symbolic link", path(target)),
        Kind::Directory => ("directory", String::new()),
        Kind::CharDevice { major, minor } => ("character device", format!("{major}:{minor}")),
        Kind::BlockDevice { major, minor } => ("block device", format!("{major}:{minor}")),
        Kind::Fifo => ("pipe", String::new()),
    };
    (name.to_owned(), said)
}

#[cfg(test)]
mod tests {
    use super::super::{LayerWriter, TimeRewrite};
    use super::*;
    use crate::image::Timestamp;

    fn layer(files: &[(&str, u32, u64, &str)]) -> Vec<u8> {
        let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
        for (path, mode, uid, content) in files {
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: Kind::File {
                    size: content.len() as u64,
                },
                mode: *mode,
                uid: *uid,
                gid: 0,
                mtime: Timestamp::from_seconds(7),
                xattrs: Vec::new(),
            };
            writer.file(&entry, &mut content.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn the_first_path_that_differs_is_said_with_all_that_differs_of_it() {
        let was = layer(&[
            ("a", 0o644, 0, "x"),
            ("b", 0o644, 0, "y"),
            ("c", 0o644, 0, "z"),
        ]);
        assert_eq!(first_difference(&*was, &*was).unwrap(), None);
        let is = layer(&[("a", 0o644, 0, "x"), ("b", 0o600, 5, "yy")]);
        let found = first_difference(&*was, &*is).unwrap().unwrap();
        assert_eq!(found.path, "/b");
        assert_eq!(found.what[..2], ["owner: 0:0 -> 5:0", "mode: 644 -> 600"]);
        assert!(found.what[2].starts_with("content: 1 bytes "), "{found:?}");
        let is = layer(&[("a", 0o644, 0, "x"), ("b", 0o644, 0, "y")]);
        let found = first_difference(&*was, &*is).unwrap().unwrap();
        assert_eq!(
            (found.path.as_str(), found.what[0].as_str()),
            ("/c", "it is not there any more")
        );
    }
}
