//! Finished snapshots on their way into the store. A thread takes all that have come together, syncs the file system
//! once, renames each to its place, and tells the index. Until then this process finds them here. When it has nothing else to
//! do it measures what was published, by this build or by those before it; no build waits for that.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{SnapshotError, SnapshotId};
use crate::store::{Index, Lease, Record, Store, StoreError, TmpDir, tree_bytes};
use crate::sys::dir::Dir;

/// The thread, and what it has not done yet.
#[derive(Debug)]
pub(super) struct Publisher {
    shared: Arc<Shared>,
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Every snapshot that this engine has committed and that is not in its place yet.
    uppers: Mutex<HashMap<SnapshotId, Arc<Dir>>>,
    /// The first thing that went wrong.
    failure: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Order {
    /// With what is held until it is published: the lock of the key that it was made for.
    Publish(Box<(Record, TmpDir, Option<Lease>)>),
    /// Answers when all orders before it are carried out.
    Flush(Sender<()>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    pub(super) fn start(store: &Store) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared::default());
        let (orders, received) = channel();
        let (thread_shared, thread_store) = (shared.clone(), store.clone());
        let thread = std::thread::Builder::new()
            .name("publish".to_owned())
            .spawn(move || work(&thread_store, &thread_shared, &received))
            .map_err(|error| StoreError::io("start a thread", store.path(), error))?;
        Ok(Self {
            shared,
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    pub(super) fn publish(
        &self,
        record: Record,
        upper: Arc<Dir>,
        scratch: TmpDir,
        held: Option<Lease>,
    ) -> Result<(), SnapshotError> {
        lock(&self.shared.uppers).insert(record.id, upper);
        self.order(Order::Publish(Box::new((record, scratch, held))))
    }

    /// The layer of a snapshot that this engine has committed and that is not in its place yet.
    pub(super) fn upper(&self, id: &SnapshotId) -> Option<Arc<Dir>> {
        lock(&self.shared.uppers).get(id).cloned()
    }

    pub(super) fn flush(&self) -> Result<(), SnapshotError> {
        let (done, wait) = channel();
        self.order(Order::Flush(done))?;
        // An error here is a thread that has ended, and has said why.
        let _ = wait.recv();
        match lock(&self.shared.failure).clone() {
            Some(failure) => Err(SnapshotError::Publish(failure)),
            None => Ok(()),
        }
    }

    fn order(&self, order: Order) -> Result<(), SnapshotError> {
        let sent = self
            .orders
            .as_ref()
            .is_some_and(|orders| orders.send(order).is_ok());
        if sent {
            Ok(())
        } else {
            Err(SnapshotError::Publish(
                "the publishing thread has ended".to_owned(),
            ))
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The thread does what is left, and ends when nobody can order any more.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn work(store: &Store, shared: &Shared, orders: &Receiver<Order>) {
    // Published snapshots are kept from being deleted, and doubles of what others published from being removed, while
    // this engine may have them mounted.
    let mut leases: Vec<Lease> = Vec::new();
    let mut doubles: Vec<TmpDir> = Vec::new();
    let mut unmeasured = Unmeasured::of(store);
    while let Some(first) = unmeasured.until_next(store, orders) {
        let mut batch = Vec::new();
        let mut held = Vec::new();
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Publish(finished) => {
                    let (record, scratch, lease) = *finished;
                    batch.push((record, scratch));
                    held.extend(lease);
                }
                Order::Flush(done) => waiting.push(done),
            }
            next = orders.try_recv().ok();
        }
        let ids: Vec<SnapshotId> = batch.iter().map(|(record, _)| record.id).collect();
        let published = match batch.is_empty() {
            true => Ok(()),
            false => publish(store, shared, batch, &mut leases, &mut doubles),
        };
        if published.is_ok() {
            unmeasured.ids.extend(ids);
        }
        if let Err(error) = published {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(deeper) = cause {
                text.push_str(&format!(": {deeper}"));
                cause = deeper.source();
            }
            lock(&shared.failure).get_or_insert(text);
        }
        drop(held);
        for done in waiting {
            // Nobody waits any more: fine.
            let _ = done.send(());
        }
    }
}

/// Snapshots whose sizes are not known yet.
#[derive(Default)]
struct Unmeasured {
    ids: Vec<SnapshotId>,
    sizes: Vec<(SnapshotId, u64)>,
}

impl Unmeasured {
    /// What the builds before this one had no time for.
    fn of(store: &Store) -> Self {
        let ids = store.index().and_then(Index::unmeasured);
        Self {
            ids: ids.unwrap_or_default(),
            sizes: Vec::new(),
        }
    }

    /// The next order; measures as long as there is none. `None`: there will be none any more.
    fn until_next(&mut self, store: &Store, orders: &Receiver<Order>) -> Option<Order> {
        loop {
            match orders.try_recv() {
                Ok(order) => return Some(order),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    self.tell(store);
                    return None;
                }
            }
            let Some(id) = self.ids.pop() else {
                self.tell(store);
                return orders.recv().ok();
            };
            // What cannot be measured now is measured when something is to be deleted.
            let tree = Dir::open_trusted(store.snapshot_path(&id));
            self.sizes
                .extend(tree.and_then(tree_bytes).ok().map(|size| (id, size)));
        }
    }

    fn tell(&mut self, store: &Store) {
        if !self.sizes.is_empty()
            && let Ok(index) = store.index()
        {
            drop(index.put_sizes(&std::mem::take(&mut self.sizes)));
        }
    }
}

fn publish(
    store: &Store,
    shared: &Shared,
    batch: Vec<(Record, TmpDir)>,
    leases: &mut Vec<Lease>,
    doubles: &mut Vec<TmpDir>,
) -> Result<(), StoreError> {
    for (record, scratch) in &batch {
        store.write_record(record, scratch)?;
    }
    store.sync_all()?;
    let mut records = Vec::with_capacity(batch.len());
    for (record, scratch) in batch {
        match store.publish_snapshot(&record.id, scratch)? {
            Ok(lease) => {
                leases.push(lease);
                // From here on it is found under its name.
                lock(&shared.uppers).remove(&record.id);
                records.push(record);
            }
            Err(double) => {
                doubles.push(double);
                lock(&shared.uppers).remove(&record.id);
                // Whoever was quicker may have ended before the index knew.
                records.extend(store.snapshot_record(&record.id).ok());
            }
        }
    }
    store.sync_snapshots()?;
    store.index()?.put_records(&records)
}
