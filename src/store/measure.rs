//! How much of the disk a tree takes. Only the engine child may ask that of trees that belong to the users of containers.

use std::collections::HashSet;
use std::io;

use crate::sys::dir::{Dir, DirEntry, Kind};

/// What a directory and all below it take of the disk, in bytes. A file with several names counts once.
pub(crate) fn tree_bytes(top: Dir) -> io::Result<u64> {
    let mut total = top.own_metadata()?.disk_bytes;
    let mut linked = HashSet::new();
    let entries = top.entries()?;
    let mut open: Vec<(Dir, Vec<DirEntry>)> = vec![(top, entries)];
    while let Some((dir, entries)) = open.last_mut() {
        let Some(entry) = entries.pop() else {
            open.pop();
            continue;
        };
        // What goes away meanwhile takes nothing.
        let Some(seen) = dir.find(&entry.name)? else {
            continue;
        };
        if seen.kind != Kind::Dir && seen.links > 1 && !linked.insert((seen.dev, seen.ino)) {
            continue;
        }
        total += seen.disk_bytes;
        if seen.kind == Kind::Dir {
            let below = dir.open_dir(&entry.name)?;
            let entries = below.entries()?;
            open.push((below, entries));
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = TempDir::new();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), vec![7; 100_000]).unwrap();
        let once = tree_bytes(Dir::open_trusted(dir.path()).unwrap()).unwrap();
        assert!((100_000..150_000).contains(&once), "{once}");
        std::fs::hard_link(dir.path().join("a/b/file"), dir.path().join("a/other")).unwrap();
        let twice = tree_bytes(Dir::open_trusted(dir.path()).unwrap()).unwrap();
        assert!(twice < once + 50_000, "{once} {twice}");
    }
}
