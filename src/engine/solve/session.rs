//! What one build has at hand: its work, the store, a clock, someone who listens. The [`Workshop`] is what only the
//! engine child has: a place to make things in.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::look::Keys;
use crate::digest::{Fields, Key};
use crate::engine::clock::Clock;
use crate::engine::exec::{Cancel, Sandbox};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::phases;
use crate::engine::plan::Planned;
use crate::engine::snapshot::{Choice, SnapshotStore};
use crate::engine::tree::context::Context;
use crate::engine::work::{Place, Work};
use crate::event::{BuildEvent, EventSink, StepOrigin};
use crate::net::Client;
use crate::graph::NodeId;
use crate::store::{Index, OpRecord, SlotRecord, Store, StoreError};

/// One build.
pub struct Session<'a> {
    /// What is asked for.
    pub work: &'a Work,
    /// Where results are kept.
    pub store: &'a Store,
    /// What time it is.
    pub clock: Clock,
    /// Who listens.
    pub events: &'a dyn EventSink,
    contexts: Mutex<HashMap<String, Arc<Context>>>,
    noted: Mutex<HashMap<NodeId, Noted>>,
}

/// What turned out of a node while the build went on.
#[derive(Debug, Clone, Default)]
struct Noted {
    /// What it depends on, apart from other nodes.
    own: Option<Fields>,
    /// What its key is made from, and its result.
    result: Option<(Keys, OpRecord)>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("project", &self.work.project).finish_non_exhaustive()
    }
}

/// Where things are made.
pub struct Workshop {
    /// Trees.
    pub snapshots: SnapshotStore,
    /// Processes.
    pub sandbox: Sandbox,
    /// The network.
    pub client: Client,
    /// Repositories.
    pub git: Git,
    /// The wish that it end.
    pub cancel: Cancel,
    /// Leave to use a core.
    pub cores: Cores,
}

impl std::fmt::Debug for Workshop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").finish_non_exhaustive()
    }
}

/// As many at once may compute as there are cores.
#[derive(Debug)]
pub struct Cores {
    free: Mutex<usize>,
    freed: Condvar,
}

/// Leave to use a core, until it is dropped.
#[derive(Debug)]
pub struct Core<'a>(&'a Cores);

impl Cores {
    /// So many, at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    /// Waits for one.
    pub fn take(&self) -> Core<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Core(self)
    }
}

impl Drop for Core<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

impl<'a> Session<'a> {
    /// A build of this work.
    #[must_use]
    pub fn new(work: &'a Work, store: &'a Store, clock: Clock, events: &'a dyn EventSink) -> Self {
        Self { work, store, clock, events, contexts: Mutex::default(), noted: Mutex::default() }
    }

    /// The context of that name; opened when first asked for.
    pub(super) fn context(&self, name: &str) -> Result<Arc<Context>, Failure> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(name) {
            return Ok(Arc::clone(context));
        }
        let named = self.work.contexts.iter().find(|(known, _)| known == name).map(|(_, place)| place);
        let place = match (named, &self.work.context) {
            (Some(place), _) => Some(place),
            (None, context) if name == "context" => context.as_ref(),
            (None, _) => None,
        };
        let Some(Place::Directory { path, ignore }) = place else {
            let message = format!("there is no context `{name}` to copy from");
            return Err(Failure::new(FailureKind::Input, "solve::no_context", message)
                .with_help(format!("name one with `--build-context {name}=DIR`")));
        };
        let ignore = ignore.as_ref().map(|text| (text.file.as_str(), text.text.as_str()));
        let context = Context::open(path, ignore)
            .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))?;
        let context = Arc::new(context);
        contexts.insert(name.to_owned(), Arc::clone(&context));
        Ok(context)
    }

    /// Notes what a node depends on, apart from other nodes.
    pub(super) fn note_own(&self, id: NodeId, own: Fields) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().own = Some(own);
    }

    /// Notes the result of a step.
    pub(super) fn note_result(&self, id: NodeId, keys: Keys, record: OpRecord) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(id).or_default().result = Some((keys, record));
    }

    /// What a node depends on, apart from other nodes, as far as it is known.
    pub(in crate::engine) fn own(&self, id: NodeId) -> Option<Fields> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).get(&id)?.own.clone()
    }

    /// The result of a step, and the snapshot that it added.
    pub(in crate::engine) fn result_of(&self, id: NodeId) -> Option<(OpRecord, Key)> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, record) = noted.get(&id)?.result.as_ref()?;
        Some((record.clone(), *record.layers.last()?))
    }

    /// Remembers what the steps were, so that the next build can say what changed.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn remember_steps(&self, planned: &Planned) -> Result<(), Failure> {
        let index = self.index()?;
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut slots = Vec::new();
        for (id, noted) in noted {
            let (Some(origin), Some((keys, record))) = (&planned.lowered.graph.node(id).step, noted.result) else {
                continue;
            };
            let slot = self.slot(origin);
            let key = keys.best().key();
            if index.slot(&slot).map_err(store_failure)?.is_some_and(|known| known.key == key) {
                continue;
            }
            let record = SlotRecord {
                key,
                fields: keys.own,
                built_ms: self.now_ms(),
                duration_ms: record.duration_ms,
                size_bytes: None,
            };
            slots.push((slot, record));
        }
        if !slots.is_empty() {
            index.put_slots(&slots).map_err(store_failure)?;
        }
        phases::remember(self, planned)
    }

    /// The store's index.
    pub(in crate::engine) fn index(&self) -> Result<&Index, Failure> {
        self.store.index().map_err(store_failure)
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now().as_millis() as u64
    }

    /// Where the last build of a step is remembered, whatever its key was.
    pub(super) fn slot(&self, origin: &StepOrigin) -> String {
        let instruction = origin.step.rsplit('/').next().unwrap_or_default();
        format!("{}\n{}\n{instruction}", self.work.project, origin.stage)
    }

    pub(super) fn step_done(&self, origin: &StepOrigin, cached: bool, duration_ms: u64) {
        self.events.emit(BuildEvent::StepDone { origin: origin.clone(), cached, duration_ms });
    }
}

/// What the store says, as a failure of a build.
pub(in crate::engine) fn store_failure(error: StoreError) -> Failure {
    Failure::from_diagnostic(FailureKind::Machine, &error)
}

/// A key that no other result has: for steps that are run although their result is there.
pub(super) fn unlike_any_other(key: &Key, clock: Clock) -> Key {
    let process = std::process::id();
    Key::of(format!("{key} {process} {}", clock.now().as_nanos()).as_bytes())
}
