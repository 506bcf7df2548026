//! What keeps a store small and whole. Trees of the containers' users only the engine child may touch.

use std::path::Path;

use super::protocol::{Order, Report};
use super::{Embedded, listen, unexpected};
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::event::BuildEvent;
use crate::store::{Inventory, Prune, Pruned, Store, StoreError};

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

fn now_ms() -> u64 {
    Clock::system().now().as_millis() as u64
}

fn of_store(error: StoreError) -> Vec<Failure> {
    vec![Failure::from_diagnostic(FailureKind::Machine, &error)]
}
