//! What keeps a store small and whole. Trees of the containers' users only the engine child may touch.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::finish::raise_open_files;
use super::protocol::{Order, Report};
use super::{Embedded, listen, unexpected};
use crate::engine::carry::{self, Carried, CarryError};
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::snapshot::verify;
use crate::event::BuildEvent;
use crate::store::{Checked, Finding, Inventory, Prune, Pruned, Repair, Store, StoreError};

impl Embedded {
    /// All that the store holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn inventory(self, store: &Path) -> Result<Inventory, Vec<Failure>> {
        Store::open(store)
            .and_then(|store| store.inventory(now_ms()))
            .map_err(of_store)
    }

    /// Deletes what nothing needs any more.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn prune(self, store: &Path, wish: Prune) -> Result<Pruned, Vec<Failure>> {
        let order = Order::Prune {
            store: store.to_owned(),
            wish,
        };
        let silent = |_: BuildEvent| {};
        match listen(&order, &[], &silent)? {
            Report::Pruned(pruned) => Ok(pruned),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// Looks whether a store is what it says.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn check_store(self, store: &Path, look: Look) -> Result<Checked, Vec<Failure>> {
        let order = Order::Check {
            store: store.to_owned(),
            look,
        };
        let silent = |_: BuildEvent| {};
        match listen(&order, &[], &silent)? {
            Report::Checked(checked) => Ok(checked),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// Makes one archive of a store.
    ///
    /// # Errors
    /// If it cannot be read, or the archive not be written.
    pub fn export_store(self, store: &Path, to: BorrowedFd<'_>) -> Result<Carried, Vec<Failure>> {
        let store = store.to_owned();
        carried(&Order::Export { store }, to)
    }

    /// Puts what is in such an archive into a store.
    ///
    /// # Errors
    /// If it is none, or the store cannot be written.
    pub fn import_store(self, store: &Path, from: BorrowedFd<'_>) -> Result<Carried, Vec<Failure>> {
        let store = store.to_owned();
        carried(&Order::Import { store }, from)
    }
}

fn carried(order: &Order, file: BorrowedFd<'_>) -> Result<Carried, Vec<Failure>> {
    let silent = |_: BuildEvent| {};
    match listen(order, &[file], &silent)? {
        Report::Carried(carried) => Ok(carried),
        other => Err(vec![unexpected(&other)]),
    }
}

/// In the engine child.
///
/// # Errors
/// If it cannot be done.
pub(super) fn export(store: &Path, files: Vec<OwnedFd>) -> Result<Carried, Vec<Failure>> {
    let store = Store::open(store).map_err(of_store)?;
    raise_open_files();
    let out = BufWriter::with_capacity(1 << 20, file(files)?);
    carry::export(&store, out).map_err(|error| of_carry(&error))
}

/// In the engine child.
///
/// # Errors
/// If it cannot be done.
pub(super) fn import(store: &Path, files: Vec<OwnedFd>) -> Result<Carried, Vec<Failure>> {
    let store = Store::open(store).map_err(of_store)?;
    raise_open_files();
    let input = BufReader::with_capacity(1 << 20, file(files)?);
    carry::import(&store, input).map_err(|error| of_carry(&error))
}

fn file(files: Vec<OwnedFd>) -> Result<File, Vec<Failure>> {
    files.into_iter().next().map(File::from).ok_or_else(|| {
        let message = "the archive did not come along";
        vec![Failure::new(FailureKind::Bug, "carry::no_file", message)]
    })
}

fn of_carry(error: &CarryError) -> Vec<Failure> {
    let kind = match error {
        CarryError::NoArchive(_)
        | CarryError::Unpack(_)
        | CarryError::Store(StoreError::WrongDigest { .. }) => FailureKind::Input,
        _ => FailureKind::Machine,
    };
    vec![Failure::from_diagnostic(kind, error)]
}

/// Does so, in the engine child.
///
/// # Errors
/// If it cannot be done.
pub(super) fn prune(store: &Path, wish: &Prune) -> Result<Pruned, Vec<Failure>> {
    Store::open(store)
        .and_then(|store| store.prune(wish, now_ms()))
        .map_err(of_store)
}

/// How a store is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Whether what is damaged is taken away.
    pub repair: Repair,
    /// Whether trees are read file by file.
    pub deep: bool,
}

/// Does so, in the engine child.
///
/// # Errors
/// If it cannot be done.
pub(super) fn check(path: &Path, look: Look) -> Result<Checked, Vec<Failure>> {
    let look_through = || {
        let store = Store::open(path)?;
        let mut checked = store.check(look.repair)?;
        if look.deep {
            check_trees(&store, look.repair, &mut checked)?;
        }
        Ok(checked)
    };
    look_through().map_err(of_store)
}

fn check_trees(store: &Store, repair: Repair, checked: &mut Checked) -> Result<(), StoreError> {
    for id in store.snapshots()? {
        let known = checked
            .findings
            .iter()
            .any(|finding| finding.id == id.to_string());
        let Ok(record) = store.snapshot_record(&id) else {
            continue;
        };
        if known {
            continue;
        }
        checked.trees += 1;
        let Some(problem) = verify::fault(store, &record)? else {
            continue;
        };
        let repaired = match repair {
            Repair::No => false,
            Repair::Yes => store.remove_snapshot(&id.to_string())?,
        };
        checked.findings.push(Finding {
            what: "snapshot".to_owned(),
            id: id.to_string(),
            problem,
            repaired: repaired.then(|| "deleted: it is made again".to_owned()),
        });
    }
    Ok(())
}

fn now_ms() -> u64 {
    Clock::system().now().as_millis() as u64
}

fn of_store(error: StoreError) -> Vec<Failure> {
    vec![Failure::from_diagnostic(FailureKind::Machine, &error)]
}
