//! Whether the files of a snapshot are still those that its layer was made from.

use std::io;

use super::diff::{self, Tree};
use super::lower::Lowers;
use crate::digest::Digest;
use crate::image::layer::TimeRewrite;
use crate::store::{Record, Store, StoreError};
use crate::sys::dir::Dir;

/// What is wrong with a snapshot, read file by file; `None`: nothing. That of an unpacked layer is not compared: its
/// archive was written by others.
///
/// # Errors
/// If the index cannot be read.
pub fn fault(store: &Store, record: &Record) -> Result<Option<String>, StoreError> {
    let known = store.index()?.diff_id(&record.id)?;
    let open = |id| Dir::open_trusted(store.snapshot_path(id).join(super::UPPER));
    let written = || -> io::Result<Digest> {
        let lowers: io::Result<Vec<Dir>> = record.below.iter().rev().map(open).collect();
        let tree = Tree::Upper(&Lowers::new(lowers?));
        let upper = open(&record.id)?;
        let written = diff::write_tar(&upper, &tree, TimeRewrite::Keep, &mut io::sink());
        written
            .map(|written| written.diff_id)
            .map_err(io::Error::other)
    };
    Ok(match (written(), known) {
        (Err(error), _) => Some(format!("its files cannot be read: {error}")),
        (Ok(_), _) if record.fields.get("unpacked layer").is_some() => None,
        (Ok(found), Some((expected, _))) if found != expected => {
            Some("its files are not those that it was made with".to_owned())
        }
        (Ok(_), _) => None,
    })
}
