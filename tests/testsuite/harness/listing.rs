//! What a tree holds, one line a path: type, mode, owner, link, extended attributes, content. Two builders agree where
//! their listings are equal; mtimes are left out.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::layout::{Layout, digest_of};

/// A tree or a layer, by path.
pub(crate) type Listing = BTreeMap<String, Entry>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    kind: char,
    mode: u32,
    uid: u64,
    gid: u64,
    link: String,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: String,
}

impl Entry {
    fn line(&self, path: &str) -> String {
        let Self {
            kind,
            mode,
            uid,
            gid,
            link,
            xattrs,
            content,
        } = self;
        let arrow = if link.is_empty() { "" } else { " -> " };
        let xattrs: String = xattrs
            .iter()
            .map(|(name, value)| {
                format!(" {name}={}", String::from_utf8_lossy(value).escape_debug())
            })
            .collect();
        format!("{kind} {mode:04o} {uid}:{gid} /{path}{arrow}{link}{xattrs}{content}")
    }
}

/// Every layer's own entries, whiteouts among them, bottom first.
pub(crate) fn layers(image: &Layout) -> Vec<Listing> {
    image.layers().iter().map(|layer| entries(layer)).collect()
}

/// The tree that the layers make.
pub(crate) fn tree(image: &Layout) -> Listing {
    let mut tree = Listing::new();
    for layer in layers(image) {
        for path in layer.keys() {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            let inside = |dir: &str| {
                if dir.is_empty() {
                    String::new()
                } else {
                    format!("{dir}/")
                }
            };
            if name == ".wh..wh..opq" {
                let below = inside(dir);
                tree.retain(|path, _| !path.starts_with(&below));
            } else if let Some(gone) = name.strip_prefix(".wh.") {
                let gone = format!("{}{gone}", inside(dir));
                let below = format!("{gone}/");
                tree.retain(|path, _| *path != gone && !path.starts_with(&below));
            }
        }
        for (path, entry) in layer {
            let name = path.rsplit('/').next().unwrap_or_default();
            if name.starts_with(".wh.") {
                continue;
            }
            if entry.kind != 'd' {
                let below = format!("{path}/");
                tree.retain(|path, _| !path.starts_with(&below));
            }
            tree.insert(path, entry);
        }
    }
    tree
}

/// When what is in the tree was last changed, in seconds since 1970; without what is younger than `oldest_now`, which is when
/// it happened to be made.
pub(crate) fn times(image: &Layout, oldest_now: u64) -> BTreeMap<String, u64> {
    let mut times = BTreeMap::new();
    for layer in image.layers() {
        let mut archive = tar::Archive::new(layer.as_slice());
        for entry in archive.entries().expect("a layer is a tar").flatten() {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = path.trim_start_matches("./").trim_matches('/').to_owned();
            let modified = entry.header().mtime().expect("a time is a number");
            times.insert(path, modified);
        }
    }
    let tree = tree(image);
    times.retain(|path, modified| tree.contains_key(path) && *modified < oldest_now);
    times
}

/// The entries of a tar.
pub(crate) fn entries(tar: &[u8]) -> Listing {
    let mut listing = Listing::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().expect("a layer is a tar") {
        let mut entry = entry.expect("a layer is a whole tar");
        let mut xattrs = BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().expect("PAX headers are in order") {
            for extension in extensions.flatten() {
                if let Some(name) = extension
                    .key()
                    .ok()
                    .and_then(|key| key.strip_prefix("SCHILY.xattr."))
                {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
        }
        let path = entry.path_bytes().into_owned();
        let path = String::from_utf8_lossy(&path)
            .trim_start_matches("./")
            .trim_matches('/')
            .to_owned();
        let header = entry.header().clone();
        let kind = match header.entry_type() {
            tar::EntryType::Directory => 'd',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Link => 'h',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Fifo => 'p',
            _ => '-',
        };
        let link = entry
            .link_name_bytes()
            .map(|link| String::from_utf8_lossy(&link).into_owned())
            .map(|link| match kind {
                'h' => link
                    .trim_start_matches("./")
                    .trim_start_matches('/')
                    .to_owned(),
                _ => link,
            })
            .unwrap_or_default();
        let mut bytes = Vec::new();
        entry
            .read_to_end(&mut bytes)
            .expect("a layer is a whole tar");
        let content = match kind {
            '-' => format!(" {} {}", bytes.len(), &digest_of(&bytes)[7..19]),
            'c' | 'b' => format!(
                " {},{}",
                header.device_major().ok().flatten().unwrap_or_default(),
                header.device_minor().ok().flatten().unwrap_or_default()
            ),
            _ => String::new(),
        };
        let mode = match kind {
            'l' | 'h' => 0o777,
            _ => header.mode().expect("a mode is a number") & 0o7777,
        };
        if path.is_empty() {
            continue;
        }
        listing.insert(
            path,
            Entry {
                kind,
                mode,
                uid: if kind == 'h' {
                    0
                } else {
                    header.uid().expect("an owner is a number")
                },
                gid: if kind == 'h' {
                    0
                } else {
                    header.gid().expect("a group is a number")
                },
                link,
                xattrs,
                content,
            },
        );
    }
    listing
}

/// The lines in which two listings differ.
pub(crate) fn differences(
    left_name: &str,
    left: &Listing,
    right_name: &str,
    right: &Listing,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, entry) in left {
        if right.get(path) != Some(entry) {
            differences.push(format!("{left_name:>10}: {}", entry.line(path)));
            if let Some(other) = right.get(path) {
                differences.push(format!("{right_name:>10}: {}", other.line(path)));
            }
        }
    }
    for (path, entry) in right {
        if !left.contains_key(path) {
            differences.push(format!("{right_name:>10}: {}", entry.line(path)));
        }
    }
    differences
}

/// Fails the test with the lines that differ, at most sixty.
pub(crate) fn assert_same(left_name: &str, left: &Listing, right_name: &str, right: &Listing) {
    let mut differences = differences(left_name, left, right_name, right);
    let count = differences.len();
    differences.truncate(60);
    assert!(
        differences.is_empty(),
        "{left_name} and {right_name} differ ({count} lines):\n{}",
        differences.join("\n")
    );
}

/// The listing without what is below, or is, one of `paths`.
pub(crate) fn without(listing: &Listing, paths: &[&str]) -> Listing {
    listing
        .iter()
        .filter(|(path, _)| {
            !paths
                .iter()
                .any(|gone| path == gone || path.starts_with(&format!("{gone}/")))
        })
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

/// The listing with nothing of what is in the files at these paths; `*` stands for anything.
pub(crate) fn without_content(listing: &Listing, paths: &[&str]) -> Listing {
    let mut left = listing.clone();
    for (path, entry) in &mut left {
        if paths.iter().any(|pattern| is_like(pattern, path)) {
            entry.content.clear();
        }
    }
    left
}

/// The paths at which two listings differ.
pub(crate) fn differing<'a>(left: &'a Listing, right: &'a Listing) -> Vec<&'a str> {
    let paths: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differs = |path: &&String| left.get(*path) != right.get(*path);
    paths
        .into_iter()
        .filter(differs)
        .map(String::as_str)
        .collect()
}

fn is_like(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, end)) => {
            path.len() >= start.len() + end.len() && path.starts_with(start) && path.ends_with(end)
        }
    }
}

/// The listing with every hard link told by the content it shares, since which name is the first is a matter of order.
pub(crate) fn with_links_resolved(listing: &Listing) -> Listing {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, entry) in listing {
        if entry.kind == 'h' {
            groups
                .entry(entry.link.clone())
                .or_default()
                .push(path.clone());
        }
    }
    let mut resolved = listing.clone();
    for (first, others) in groups {
        let Some(target) = listing.get(&first) else {
            continue;
        };
        let mut names: Vec<String> = others.clone();
        names.push(first.clone());
        names.sort();
        let content = format!("{} links {}", target.content, names.join(" "));
        for name in &names {
            resolved.insert(
                name.clone(),
                Entry {
                    content: content.clone(),
                    ..target.clone()
                },
            );
        }
    }
    resolved
}
