//! The cache of one project in a directory, to be kept where builds begin with an empty store, as in CI: what a build has used,
//! as an archive of the form of [`carry`](super::carry).
//!
//! ```text
//! DIR/shmocker-cache.json    {"format": 1, "archive": "<key>.tar"}
//! DIR/<key>.tar              named by all that is in it
//! ```
//! A build that used what the one before it used writes nothing. What is replaced is deleted.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, FailureKind};
use crate::digest::Fields;
use crate::store::BuildUse;

const FORMAT: u32 = 1;
const INDEX: &str = "shmocker-cache.json";

#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: u32,
    archive: String,
}

/// Writes what a build has used, unless it is there already; `pack` writes the archive.
///
/// # Errors
/// If the directory or the archive cannot be written; what was there is still there then.
pub fn write(
    dir: &Path,
    used: &BuildUse,
    pack: impl FnOnce(&File) -> Result<(), Vec<Failure>>,
) -> Result<(), Vec<Failure>> {
    let unwritable = |error: io::Error| {
        let message = format!("the cache in {} cannot be written", dir.display());
        vec![Failure::caused(
            FailureKind::Machine,
            "cache_dir::write",
            message,
            &error,
        )]
    };
    fs::create_dir_all(dir).map_err(unwritable)?;
    let archive = format!("{}.tar", name(used));
    let is_known = read_index(dir).is_ok_and(|known| known.archive == archive);
    if is_known && dir.join(&archive).is_file() {
        return Ok(());
    }
    let unfinished = dir.join(format!("{archive}.unfinished"));
    let packed = File::create(&unfinished)
        .map_err(unwritable)
        .and_then(|file| {
            pack(&file)?;
            file.sync_all().map_err(unwritable)
        });
    if packed.is_err() {
        drop(fs::remove_file(&unfinished));
        return packed;
    }
    put_in_place(dir, &unfinished, archive).map_err(unwritable)
}

fn put_in_place(dir: &Path, unfinished: &Path, archive: String) -> io::Result<()> {
    fs::rename(unfinished, dir.join(&archive))?;
    let index = Index {
        format: FORMAT,
        archive,
    };
    let swapped = dir.join(format!("{INDEX}.unfinished"));
    File::create(&swapped)?.write_all(&serde_json::to_vec(&index)?)?;
    fs::rename(&swapped, dir.join(INDEX))?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_archive = path.extension().is_some_and(|ending| ending == "tar");
        if is_archive && path.file_name() != Some(index.archive.as_ref()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Opens the archive that is in a directory.
///
/// # Errors
/// If there is none.
pub fn open(dir: &Path) -> Result<File, Vec<Failure>> {
    let known = read_index(dir).and_then(|known| {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'.';
        match known.format == FORMAT && known.archive.bytes().all(is_name) {
            true => File::open(dir.join(known.archive)),
            false => Err(io::Error::other("it was written by another version")),
        }
    });
    known.map_err(|error| {
        let message = format!("there is no cache in {}", dir.display());
        vec![Failure::caused(
            FailureKind::Input,
            "cache_dir::open",
            message,
            &error,
        )]
    })
}

fn read_index(dir: &Path) -> io::Result<Index> {
    Ok(serde_json::from_slice(&fs::read(dir.join(INDEX))?)?)
}

/// Names all that a build has used, but for its image: that is made again.
fn name(used: &BuildUse) -> String {
    let mut fields = Fields::new();
    for part in &used.parts {
        fields.put("part", part.name.clone());
        for snapshot in &part.snapshots {
            fields.put("snapshot", snapshot.to_string());
        }
    }
    for download in &used.downloads {
        fields.put("download", download.to_string());
    }
    for cache in &used.caches {
        fields.put("cache", cache.directory.clone());
    }
    fields.key().short()
}
