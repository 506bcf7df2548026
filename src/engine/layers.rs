//! From snapshots to layers: which digest a snapshot's tar has, and the tar itself, written whenever it is wanted.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;

use super::failure::{Failure, FailureKind};
use super::snapshot::diff::{self, DiffError, Written};
use super::snapshot::lower::Lowers;
use super::solve::{Session, Workshop, store_failure};
use crate::digest::{Digest, Key};
use crate::image::layer::TimeRewrite;
use crate::sys::dir::Dir;

/// Digest and length of each snapshot's uncompressed tar. What is not known yet is read, on all cores.
///
/// # Errors
/// If a snapshot cannot be read, or holds what no layer can.
pub fn measure(
    session: &Session<'_>,
    workshop: &Workshop,
    snapshots: &[Key],
) -> Result<HashMap<Key, (Digest, u64)>, Failure> {
    let index = session.index()?;
    let mut measured = HashMap::new();
    let mut unknown = Vec::new();
    for (place, snapshot) in snapshots.iter().enumerate() {
        match index.diff_id(snapshot).map_err(store_failure)? {
            Some(known) => drop(measured.insert(*snapshot, known)),
            None => unknown.push(place),
        }
    }
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for place in unknown {
            let found = &found;
            scope.spawn(move || {
                let _core = workshop.cores.take();
                let written = write_tar(
                    workshop,
                    snapshots,
                    place,
                    TimeRewrite::Keep,
                    &mut std::io::sink(),
                );
                found
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push((place, written));
            });
        }
    });
    for (place, written) in found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        let written = written?;
        index
            .put_diff_id(&snapshots[place], &written.diff_id, written.size)
            .map_err(store_failure)?;
        measured.insert(snapshots[place], (written.diff_id, written.size));
    }
    Ok(measured)
}

/// Writes the tar of the snapshot at `place`, which lies on those before it.
///
/// # Errors
/// If it cannot be read, or the output not be written.
pub fn write_tar(
    workshop: &Workshop,
    snapshots: &[Key],
    place: usize,
    times: TimeRewrite,
    out: &mut dyn Write,
) -> Result<Written, Failure> {
    let upper = workshop.snapshots.layer(&snapshots[place])?;
    let lowers = lowers(workshop, &snapshots[..place])?;
    diff::write_tar(&upper, &diff::Tree::Upper(&lowers), times, out)
        .map_err(|error| of_diff(&error))
}

/// Writes the whole tree of some snapshots as one tar.
///
/// # Errors
/// If it cannot be read, or the output not be written.
pub fn write_root(
    workshop: &Workshop,
    snapshots: &[Key],
    times: TimeRewrite,
    out: &mut dyn Write,
) -> Result<Written, Failure> {
    let whole = if snapshots.is_empty() {
        let empty = workshop.snapshots.prepare_layer(&[])?;
        diff::write_tar(empty.upper(), &diff::Tree::Whole, times, out)
    } else {
        let mounted = workshop.snapshots.mount(snapshots)?;
        diff::write_tar(mounted.top(), &diff::Tree::Whole, times, out)
    };
    whole.map_err(|error| of_diff(&error))
}

/// The directories that a snapshot lies on, topmost first.
pub(super) fn lowers(workshop: &Workshop, below: &[Key]) -> Result<Lowers, Failure> {
    let mut dirs: Vec<Dir> = Vec::new();
    for snapshot in below.iter().rev() {
        let layer = workshop.snapshots.layer(snapshot)?;
        dirs.push(layer.try_clone().map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "layers::open",
                "a layer cannot be opened",
                &error,
            )
        })?);
    }
    Ok(Lowers::new(dirs))
}

fn of_diff(error: &DiffError) -> Failure {
    let kind = match error {
        DiffError::ReservedName { .. } => FailureKind::Input,
        _ => FailureKind::Machine,
    };
    Failure::from_diagnostic(kind, error)
}
