//! What one build has at hand: its work, the store, a clock, someone who listens. The [`Workshop`] is what only the
//! engine child has: a place to make things in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::inputs::Tree;
use super::look::{Keys, Listed};
use super::reach::{self, Reach};
use crate::digest::{Digest, Fields, Key};
use crate::engine::cache::Elsewhere;
use crate::engine::clock::Clock;
use crate::engine::contexts::Contexts;
use crate::engine::exec::{Cancel, Sandbox};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::snapshot::{Choice, Mounted, SnapshotStore};
use crate::engine::tree::{self, hash};
use crate::engine::work::Work;
use crate::event::{BuildEvent, EventSink, StepOrigin, TestReport};
use crate::graph::{Judge, NodeId, Op};
use crate::registry::Registries;
use crate::store::{Index, Lease, OpRecord, Record, Store, StoreError};
use crate::sys::dir::Time;
use crate::sys::root::Root;

/// One build.
pub struct Session<'a> {
    /// What is asked for.
    pub work: &'a Work,
    /// Where results are kept.
    pub store: &'a Store,
    /// The directories it may read.
    pub contexts: &'a Contexts<'a>,
    /// What time it is.
    pub clock: Clock,
    /// Who listens.
    pub events: &'a dyn EventSink,
    /// Where images are that are not here.
    pub registries: Registries<'a>,
    /// What caches have that were read for it.
    pub elsewhere: Arc<Elsewhere>,
    left: HashSet<NodeId>,
    finds_by_name: AtomicBool,
    noted: Mutex<HashMap<NodeId, Noted>>,
    told: Mutex<Option<Sender<Vec<Key>>>>,
    /// How many sockets of SSH agents were made.
    pub(super) doors: AtomicUsize,
    used_caches: Mutex<HashSet<String>>,
    /// The downloads that it uses, and what keeps them from being deleted.
    downloads: Mutex<BTreeMap<Digest, Option<Lease>>>,
}

/// What turned out of a node while the build went on.
#[derive(Debug, Clone, Default)]
struct Noted {
    /// What it depends on, apart from other nodes.
    own: Option<Fields>,
    /// What its key is made from, and its result.
    result: Option<(Keys, OpRecord)>,
    /// The snapshots of a source, bottom first.
    layers: Vec<Key>,
    /// The files of this machine that it reads.
    listed: Vec<Listed>,
    /// It was run.
    is_run: bool,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("project", &self.work.project)
            .finish_non_exhaustive()
    }
}

/// Where things are made.
pub struct Workshop<'e> {
    /// Trees.
    pub snapshots: SnapshotStore,
    /// Processes.
    pub sandbox: Sandbox,
    /// What servers are reached with.
    pub reach: Reach<'e>,
    /// The wish that it end.
    pub cancel: Cancel,
    /// Leave to use a core.
    pub cores: Cores,
    /// Leave to run a step, where the build bounds their number.
    pub steps: Option<Cores>,
    /// Where control groups for steps are made, for builds that limit them.
    pub groups: Option<PathBuf>,
}

/// What the engine child is given by its parent.
#[derive(Debug)]
pub struct Surroundings {
    /// The wish that the build end.
    pub cancel: Cancel,
    /// Where control groups for steps are made.
    pub groups: Option<PathBuf>,
}

impl std::fmt::Debug for Workshop<'_> {
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
        Self {
            free: Mutex::new(count.max(1)),
            freed: Condvar::new(),
        }
    }

    /// Waits for one.
    pub fn take(&self) -> Core<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self
                .freed
                .wait(free)
                .unwrap_or_else(PoisonError::into_inner);
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
    pub fn new(
        work: &'a Work,
        store: &'a Store,
        contexts: &'a Contexts<'a>,
        clock: Clock,
        events: &'a dyn EventSink,
    ) -> Self {
        Self {
            work,
            store,
            clock,
            events,
            contexts,
            registries: reach::registries(work, events).remembered(store),
            elsewhere: Arc::default(),
            left: HashSet::new(),
            finds_by_name: AtomicBool::new(false),
            noted: Mutex::default(),
            told: Mutex::default(),
            doors: AtomicUsize::new(0),
            used_caches: Mutex::default(),
            downloads: Mutex::default(),
        }
    }

    /// The same build, for which caches were read.
    #[must_use]
    pub fn knowing(mut self, elsewhere: Arc<Elsewhere>) -> Self {
        self.elsewhere = elsewhere;
        self
    }

    /// The same build, of which the results of these steps may stay elsewhere.
    #[must_use]
    pub fn leaving(mut self, left: HashSet<NodeId>) -> Self {
        self.left = left;
        self
    }

    /// Whether the result of a step can be used: it is here, or fetched now, or may stay where it is.
    pub(super) fn brings(&self, workshop: &Workshop, id: NodeId, layers: &[Key]) -> bool {
        if !self.holds(workshop, layers) {
            return false;
        }
        if self.elsewhere.is_empty() || self.left.contains(&id) {
            return true;
        }
        let fetched = self.elsewhere.fetch(
            layers.iter().copied(),
            &workshop.snapshots,
            self.store,
            &self.registries,
        );
        fetched
            .inspect_err(|_| self.elsewhere.tell(self.events))
            .is_ok()
    }

    /// Makes it enough, or no longer, that a result is known by name: where that of the whole build is here, or elsewhere,
    /// nobody asks for the files of what came before it.
    pub fn find_by_name(&self, is_enough: bool) {
        self.finds_by_name.store(is_enough, Ordering::Relaxed);
    }

    pub(super) fn finds_by_name(&self) -> bool {
        self.finds_by_name.load(Ordering::Relaxed)
    }

    /// Whether snapshots are here, or known to be elsewhere.
    pub(super) fn has_snapshots(&self, ids: &[Key]) -> bool {
        self.finds_by_name()
            || ids
                .iter()
                .all(|id| self.store.has_snapshot(id) || self.elsewhere.has(id))
    }

    /// The same, of which none is deleted as long as the workshop is there.
    pub(super) fn holds(&self, workshop: &Workshop, ids: &[Key]) -> bool {
        ids.iter()
            .all(|id| workshop.snapshots.has(id) || self.elsewhere.has(id))
    }

    /// What a snapshot says of itself that is here, or known to be elsewhere.
    #[must_use]
    pub fn snapshot_record(&self, id: &Key) -> Option<Record> {
        let here = self.store.snapshot_record(id).ok();
        here.or_else(|| self.elsewhere.record(id).cloned())
    }

    /// Digest and length of the uncompressed tar of a snapshot, if that is known here or elsewhere.
    pub(in crate::engine) fn diff_id(&self, id: &Key) -> Result<Option<(Digest, u64)>, Failure> {
        let here = self.index()?.diff_id(id).map_err(store_failure)?;
        Ok(here.or_else(|| self.elsewhere.measured(id)))
    }

    /// The result that a key stands for, if it is here or known to be elsewhere.
    /// `is_here` may know of some snapshots that they are.
    pub(super) fn known_result(
        &self,
        key: &Key,
        is_here: impl Fn(&Key) -> bool,
    ) -> Result<Option<OpRecord>, Failure> {
        let here = self.store.result_where(key, is_here);
        if let Some(record) = here.map_err(store_failure)? {
            return Ok(Some(record));
        }
        if let Some(record) = self.elsewhere.result(key)
            && self.has_snapshots(&record.layers)
        {
            return Ok(Some(record.clone()));
        }
        match self.finds_by_name() {
            true => self.index()?.op(key).map_err(store_failure),
            false => Ok(None),
        }
    }

    /// Whether no step of this build has used the cache mount of this name before.
    pub(super) fn is_first_use(&self, cache: &str) -> bool {
        let mut used = self
            .used_caches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        used.insert(cache.to_owned())
    }

    /// Notes that a download is used, and holds it.
    pub(super) fn note_download(&self, digest: Digest, lease: Option<Lease>) {
        let mut downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        downloads.insert(digest, lease);
    }

    /// The downloads that this build has used.
    #[must_use]
    pub fn downloads_used(&self) -> Vec<Digest> {
        let downloads = self
            .downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        downloads.keys().copied().collect()
    }

    /// Notes what a node depends on, apart from other nodes.
    pub(super) fn note_own(&self, id: NodeId, own: Fields) {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id)
            .or_default()
            .own = Some(own);
    }

    /// Notes which files of this machine a step reads.
    pub(super) fn note_listed(&self, id: NodeId, listed: Vec<Listed>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(id).or_default().listed = listed;
    }

    /// The files of this machine that a step reads, where they were noted.
    pub(in crate::engine) fn noted_listed(&self, id: NodeId) -> Vec<Listed> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted
            .get(&id)
            .map(|noted| noted.listed.clone())
            .unwrap_or_default()
    }

    /// Notes that a step is run.
    pub(super) fn note_run(&self, id: NodeId) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(id).or_default().is_run = true;
    }

    /// Whether a step was run.
    pub(in crate::engine) fn is_run(&self, id: NodeId) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get(&id).is_some_and(|noted| noted.is_run)
    }

    /// Tells the snapshots of each result that is noted from now on, bottom first.
    pub fn tell_layers(&self, to: Option<Sender<Vec<Key>>>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    fn tell(&self, layers: &[Key]) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = told.as_ref() {
            // Nobody listens any more: fine.
            drop(told.send(layers.to_vec()));
        }
    }

    /// The key of a step that stands for its result whatever it read, and that result.
    #[must_use]
    pub fn definition_of(&self, id: NodeId) -> Option<(Key, OpRecord)> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (keys, record) = noted.get(&id)?.result.as_ref()?;
        Some((keys.definition.key(), record.clone()))
    }

    /// Notes the result of a step.
    pub(super) fn note_result(&self, id: NodeId, keys: Keys, record: OpRecord) {
        self.tell(&record.layers);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(id).or_default().result = Some((keys, record));
    }

    /// Notes what a source is.
    pub(super) fn note_layers(&self, id: NodeId, layers: &[Key]) {
        self.tell(layers);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.entry(id).or_default().layers = layers.to_vec();
    }

    /// The snapshots of a source that was recalled or obtained, bottom first.
    pub(in crate::engine) fn layers_of(&self, id: NodeId) -> Vec<Key> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted
            .get(&id)
            .map_or_else(Vec::new, |noted| noted.layers.clone())
    }

    /// What a node depends on, apart from other nodes, as far as it is known.
    pub(in crate::engine) fn own(&self, id: NodeId) -> Option<Fields> {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)?
            .own
            .clone()
    }

    /// The result of a step, and the snapshot that it added.
    pub(in crate::engine) fn result_of(&self, id: NodeId) -> Option<(OpRecord, Key)> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, record) = noted.get(&id)?.result.as_ref()?;
        Some((record.clone(), *record.layers.last()?))
    }

    /// The store's index.
    pub(in crate::engine) fn index(&self) -> Result<&Index, Failure> {
        self.store.index().map_err(store_failure)
    }

    /// How files are read and what is remembered of them.
    pub(super) fn reading(&self) -> Result<hash::Reading<'_>, Failure> {
        let now = self.clock.now();
        Ok(hash::Reading {
            index: Some(self.index()?),
            now: Time {
                seconds: now.as_secs() as i64,
                nanoseconds: now.subsec_nanos(),
            },
            jobs: self.work.jobs,
            listing: None,
        })
    }

    /// Now, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now().as_millis() as u64
    }

    pub(super) fn test_done(&self, origin: &StepOrigin, cached: bool, report: TestReport) {
        self.events.emit(BuildEvent::TestDone {
            origin: origin.clone(),
            cached,
            report,
        });
    }

    /// Keeps what a test said that passed.
    pub(super) fn remember_test(
        &self,
        record: &OpRecord,
        report: &TestReport,
    ) -> Result<(), Failure> {
        self.remember(&test_name(record), report)
    }

    /// Says again what a test said when it was run, if the step is one.
    pub(super) fn say_test_again(
        &self,
        op: &Op,
        origin: &StepOrigin,
        record: &OpRecord,
    ) -> Result<(), Failure> {
        if matches!(op, Op::Exec(exec) if exec.judge == Judge::Tap)
            && let Some(recalled) = self.answer::<TestReport>(&test_name(record))?
        {
            self.test_done(origin, true, recalled.answer);
        }
        Ok(())
    }

    pub(super) fn step_done(&self, origin: &StepOrigin, cached: bool, duration_ms: u64) {
        self.events.emit(BuildEvent::StepDone {
            origin: origin.clone(),
            cached,
            duration_ms,
        });
    }
}

/// Where what a test said is remembered: with the snapshot that it left.
fn test_name(record: &OpRecord) -> String {
    let left = record.layers.last().map(Key::to_string);
    format!("test {}", left.unwrap_or_default())
}

impl<'e> Workshop<'e> {
    /// Sets up what the engine child makes things with.
    ///
    /// # Errors
    /// If this machine lacks something.
    pub fn open(
        session: &Session<'e>,
        surroundings: Surroundings,
        warn: impl Fn(&'static str, String) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let snapshots = SnapshotStore::open(session.store, Choice::Best)?;
        if let Some(reason) = snapshots.fallback() {
            warn(
                "CopiedLayers",
                format!(
                    "layers are copied, which is slow, because overlay is not to be had: {reason}"
                ),
            );
        }
        let reach = Reach::open(session)?;
        let warn = move |message| warn("HostNetwork", message);
        let sandbox = Sandbox::new(&reach.scratch.path(), &session.work.programs, warn);
        let cores = Cores::new(session.work.cores());
        let steps = session.work.jobs.map(|jobs| Cores::new(jobs.get()));
        Ok(Self {
            snapshots,
            sandbox,
            reach,
            cancel: surroundings.cancel,
            cores,
            steps,
            groups: surroundings.groups,
        })
    }

    /// A tree to read, mounted where every process of the engine can use it.
    pub(super) fn tree(&self, tree: &Tree) -> Result<ReadableTree, Failure> {
        let mounted = self.snapshots.mount(tree.layers())?;
        Ok(ReadableTree { mounted })
    }
}

/// A mounted tree that is only read.
pub(super) struct ReadableTree {
    mounted: Mounted,
}

impl ReadableTree {
    /// As a source of files; `name` is for messages.
    pub(super) fn tree(&self, name: &str) -> Result<tree::Tree, Failure> {
        Ok(tree::Tree::mounted(self.root()?, name))
    }

    pub(super) fn root(&self) -> Result<Root, Failure> {
        self.mounted.root().map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "solve::tree",
                "a tree cannot be opened",
                &error,
            )
        })
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
