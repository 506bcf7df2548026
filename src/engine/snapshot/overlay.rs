//! Trees as overlay mounts: nothing is copied.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{Changes, Mounted, OVERLAY_LAYERS_MAX, SnapshotError, Snapshots, UPPER, WORK, io_at};
use crate::store::{Store, TmpDir};
use crate::sys::dir::Dir;
use crate::sys::overlay::{FileSystem, Syncs, Writable, file_system_of, mount};

/// Overlay mounts on the store's file system.
#[derive(Debug)]
pub struct Overlays {
    /// Two directories in which nothing ever is: to the kernel, one layer alone is no overlay.
    empty: [Dir; 2],
}

impl Overlays {
    /// Tries whether this machine and the store's file system allow overlays; if not, says why.
    pub fn try_new(store: &Store) -> Result<Self, String> {
        let kind = file_system_of(store.top()).map_err(|error| error.to_string())?;
        match kind {
            FileSystem::Overlay => {
                return Err(
                    "the store is on an overlay, which cannot be an overlay's layer".to_owned(),
                );
            }
            FileSystem::Network => return Err("the store is on a network file system".to_owned()),
            FileSystem::Local => {}
        }
        let open = |name: &str| store.empty_dir(name).map_err(|error| error.to_string());
        let overlays = Self {
            empty: [open("one")?, open("two")?],
        };
        overlays
            .probe(store)
            .map_err(|error| format!("the kernel refuses to mount an overlay: {error}"))?;
        Ok(overlays)
    }

    fn probe(&self, store: &Store) -> Result<(), String> {
        let scratch = store.tmp_dir().map_err(|error| error.to_string())?;
        let tried = || -> std::io::Result<()> {
            scratch.dir().create_dir(UPPER, 0o755)?;
            let work = scratch.dir().create_dir(WORK, 0o700)?;
            let upper = scratch.dir().open_dir(UPPER)?;
            let writable = Writable {
                upper: upper.as_fd(),
                work: work.as_fd(),
                syncs: Syncs::Ignored,
            };
            let mounted = Mounted::new(mount(&[self.empty[0].as_fd()], Some(writable))?, None)?;
            mounted.top().create_file("probe", 0o600).map(drop)
        };
        tried().map_err(|error| error.to_string())
    }

    /// The kernel wants the top first.
    fn top_first<'a>(&'a self, layers: &'a [Arc<Dir>], least: usize) -> Vec<BorrowedFd<'a>> {
        let mut lowers: Vec<BorrowedFd<'a>> =
            layers.iter().rev().map(|layer| layer.as_fd()).collect();
        for empty in &self.empty {
            if lowers.len() < least {
                lowers.push(empty.as_fd());
            }
        }
        lowers
    }
}

impl Snapshots for Overlays {
    fn writable(
        &self,
        layers: &[Arc<Dir>],
        scratch: &TmpDir,
        syncs: Syncs,
    ) -> Result<(Mounted, Changes), SnapshotError> {
        let path = scratch.path();
        let open = |name: &str| {
            scratch
                .dir()
                .ensure_dir(name, 0o700)
                .map_err(io_at("make a layer", &path))
        };
        let (upper, work) = (open(UPPER)?, open(WORK)?);
        let writable = Writable {
            upper: upper.as_fd(),
            work: work.as_fd(),
            syncs,
        };
        let mounted = mount(&self.top_first(layers, 1), Some(writable))
            .and_then(|mount| Mounted::new(mount, None))
            .map_err(|source| SnapshotError::Mount {
                layers: layers.len(),
                source,
            })?;
        Ok((mounted, Changes::InUpper))
    }

    fn readable(&self, layers: &[Arc<Dir>]) -> Result<Mounted, SnapshotError> {
        mount(&self.top_first(layers, 2), None)
            .and_then(|mount| Mounted::new(mount, None))
            .map_err(|source| SnapshotError::Mount {
                layers: layers.len(),
                source,
            })
    }

    fn layers_max(&self) -> usize {
        OVERLAY_LAYERS_MAX
    }
}
