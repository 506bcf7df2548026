//! From snapshots to layers: which digest a snapshot's tar has, and the tar itself, written whenever it is wanted. And from
//! the layers of an image to snapshots.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::Instant;

use super::base::{self, BaseImage, BaseLayer, Blobs};
use super::clock::Clock;
use super::failure::{Failure, FailureKind};
use super::snapshot::diff::{self, DiffError, Written};
use super::snapshot::lower::Lowers;
use super::snapshot::{self, Settled, SnapshotStore, apply};
use super::solve::{Session, Workshop, store_failure};
use super::source::oci_layout;
use crate::digest::{Digest, Fields, Key};
use crate::image::layer::{Limits, TimeRewrite};
use crate::store::{Store, StoredImage};
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
        match session.diff_id(snapshot)? {
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
    let mut known = Vec::new();
    for (place, written) in found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        let written = written?;
        known.push((snapshots[place], written.diff_id, written.size));
    }
    if !known.is_empty() {
        index.put_diff_ids(&known).map_err(store_failure)?;
    }
    for (snapshot, diff_id, size) in known {
        measured.insert(snapshot, (diff_id, size));
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
    let lowers = lowers(&workshop.snapshots, &snapshots[..place])?;
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

/// Unpacks one layer of an image upon those below it.
///
/// # Errors
/// If its blob cannot be had, is not what it should be, or cannot be unpacked.
pub(super) fn unpack(
    store: &Store,
    (snapshots, below): (&SnapshotStore, &[Key]),
    image: &BaseImage,
    layer: &BaseLayer,
    name: &str,
    clock: Clock,
) -> Result<(), Failure> {
    let digest = &layer.descriptor.digest;
    let failed = |error: &dyn std::error::Error| {
        let message = format!("layer {digest} of {name} cannot be read");
        Failure::caused(FailureKind::Source, "solve::layer", message, error)
    };
    let mut foreign = None;
    let blob: Box<dyn Read + Send> = match &image.blobs {
        Blobs::Layout(layout) => {
            let path = layout.join("blobs/sha256").join(digest.hex());
            let file = File::open(path).map_err(|error| failed(&error))?;
            let blob = file.try_clone().map_err(|error| failed(&error))?;
            foreign = Some(file);
            Box::new(oci_layout::Verified::new(blob, &layer.descriptor))
        }
        // One that is damaged is put aside.
        Blobs::Store | Blobs::Registry(_) => {
            let blob = store.open_blob(digest);
            Box::new(blob.map_err(|error| failed(&error))?)
        }
    };
    let unpacked = unpack_blob((snapshots, below), layer, blob)?;
    // A layout may go away, and no other program's tar can be made again from what was unpacked.
    if let Some(file) = foreign {
        store.adopt(file, digest).map_err(store_failure)?;
    }
    unpacked.keep(store, snapshots, layer, name, clock)
}

/// An unpacked layer that is not in the store yet.
pub(super) struct Unpacked {
    settled: Settled,
    applied: apply::Applied,
    duration_ms: u64,
}

/// Unpacks a layer's blob upon those below it.
///
/// # Errors
/// If it is not what it should be, or cannot be unpacked.
pub(super) fn unpack_blob(
    (snapshots, below): (&SnapshotStore, &[Key]),
    layer: &BaseLayer,
    blob: impl Read + Send,
) -> Result<Unpacked, Failure> {
    let settled = snapshots.prepare_layer(below)?;
    let lowers = lowers(snapshots, below)?;
    let started = Instant::now();
    let applied = apply::apply(
        blob,
        Some(layer.diff_id),
        settled.upper(),
        &lowers,
        Limits::default(),
    )
    .map_err(|error| Failure::from_diagnostic(FailureKind::Source, &error))?;
    Ok(Unpacked {
        settled,
        applied,
        duration_ms: started.elapsed().as_millis() as u64,
    })
}

impl Unpacked {
    /// Puts it into the store.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub(super) fn keep(
        self,
        store: &Store,
        snapshots: &SnapshotStore,
        layer: &BaseLayer,
        name: &str,
        clock: Clock,
    ) -> Result<(), Failure> {
        let mut fields = Fields::new();
        fields.put("unpacked layer", layer.diff_id.to_string());
        let made = snapshot::Made {
            id: layer.snapshot,
            key: None,
            fields,
            created_ms: clock.now().as_millis() as u64,
            duration_ms: self.duration_ms,
            what: format!("a layer of {name}"),
        };
        let applied = &self.applied;
        store
            .index()
            .and_then(|index| {
                index.put_diff_ids(&[(layer.snapshot, applied.diff_id, applied.size)])
            })
            .map_err(store_failure)?;
        snapshots.commit(self.settled, made)?;
        Ok(())
    }
}

/// Unpacks what is not unpacked yet of an image of the store, such as one that was loaded.
///
/// # Errors
/// If a layer cannot be unpacked.
pub(super) fn unpack_stored(
    store: &Store,
    snapshots: &SnapshotStore,
    stored: &StoredImage,
) -> Result<(), Failure> {
    if stored.layers.iter().all(|layer| snapshots.has(layer)) {
        return Ok(());
    }
    let image = base::of_store(stored, store)
        .map_err(|reason| Failure::new(FailureKind::Machine, "layers::image", reason))?;
    let mut below = Vec::new();
    for layer in &image.layers {
        if !snapshots.has(&layer.snapshot) {
            let upon = (snapshots, below.as_slice());
            unpack(store, upon, &image, layer, &stored.name, Clock::system())?;
        }
        below.push(layer.snapshot);
    }
    snapshots.flush()?;
    Ok(())
}

/// The directories that a snapshot lies on, topmost first.
pub(super) fn lowers(snapshots: &SnapshotStore, below: &[Key]) -> Result<Lowers, Failure> {
    let mut dirs: Vec<Dir> = Vec::new();
    for snapshot in below.iter().rev() {
        let layer = snapshots.layer(snapshot)?;
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
