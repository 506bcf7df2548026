//! Caches of builds elsewhere: what a build takes from them, and what it writes for others. Nothing that is wrong with one
//! ends a build, unless that was asked for.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::super::BuildRequest;
use super::finish::{failures, open, raise_open_files};
use super::protocol::{Order, Report};
use super::{listen, unexpected};
use crate::digest::Key;
use crate::engine::cache::{
    CacheTo, Elsewhere, Export, Mode, OnError, Target, is_written, warning,
};
use crate::engine::clock::Clock;
use crate::engine::contexts::Contexts;
use crate::engine::failure::Failure;
use crate::engine::plan::Planned;
use crate::engine::solve::survey::{State, Survey, Thoroughness};
use crate::engine::solve::{Made, Session, Surroundings, Tree, Workshop};
use crate::event::{BuildEvent, EventSink};
use crate::graph::NodeId;
use crate::store::{BuildUse, Store, StoreError};

/// Reads what caches know, in the engine child.
pub(super) fn read(request: &BuildRequest, session: &Session<'_>) -> Arc<Elsewhere> {
    if request.cache_from.is_empty() {
        return Arc::default();
    }
    Arc::new(Elsewhere::read(
        &request.cache_from,
        session.store,
        &session.registries,
        &request.work.platform,
        session.events,
    ))
}

/// What of a build is elsewhere.
pub(super) enum Seen {
    /// All of it: this is the result. The session that looked knows of every step.
    All(Tree),
    /// These steps, whose results may stay there. What is not is made; what that needs is here now.
    Part(HashSet<NodeId>),
}

/// Looks what of a build is elsewhere, and fetches what is needed: the layers of the result, or those that the steps stand
/// on which have to be run.
pub(super) fn look(
    request: &BuildRequest,
    session: &Session<'_>,
    workshop: &Workshop,
    planned: &Planned,
    events: &dyn EventSink,
) -> Result<Seen, Vec<Failure>> {
    let elsewhere = &session.elsewhere;
    let target = planned.lowered.target;
    let fetch = |wanted: Vec<Key>| {
        let fetched = elsewhere.fetch(
            wanted,
            &workshop.snapshots,
            session.store,
            &session.registries,
        );
        if fetched.is_err() {
            elsewhere.forget_closed();
            elsewhere.tell(events);
        }
        fetched.is_ok()
    };
    // Where all is there, nobody asks for the files of what came before the result.
    session.find_by_name(true);
    let survey = Survey::of(
        session,
        planned,
        &[target],
        Thoroughness::UntilSomethingIsMissing,
    );
    session.find_by_name(false);
    let survey = survey?;
    if let Some(Made::Tree(tree)) = survey.made.get(&target) {
        let is_there = |id: &Key| workshop.snapshots.has(id) || elsewhere.has(id);
        let needed = match request.needs_files {
            true => tree.layers().to_vec(),
            false => Vec::new(),
        };
        if tree.layers().iter().all(is_there) && fetch(needed) {
            survey
                .announce(session, planned)
                .map_err(|failure| vec![failure])?;
            return Ok(Seen::All(tree.clone()));
        }
    }
    loop {
        let survey = Survey::of(session, planned, &[target], Thoroughness::Complete)?;
        let graph = &planned.lowered.graph;
        let mut needed: Vec<Key> = Vec::new();
        for id in graph.needed(&[target]) {
            let is_run = survey
                .seen
                .get(&id)
                .is_some_and(|state| *state != State::Cached);
            if is_run {
                let inputs = graph.node(id).op.inputs();
                let trees = inputs
                    .iter()
                    .filter_map(|input| survey.made.get(input)?.tree());
                needed.extend(trees.flat_map(|tree| tree.layers().iter().copied()));
            }
        }
        needed.extend(
            survey
                .made
                .get(&target)
                .and_then(Made::tree)
                .into_iter()
                .flat_map(Tree::layers),
        );
        // With each that is lost there is less to look for.
        if fetch(needed) {
            let cached = survey
                .seen
                .iter()
                .filter(|(_, state)| **state == State::Cached);
            return Ok(Seen::Part(cached.map(|(id, _)| *id).collect()));
        }
    }
}

/// The records for the image that is built, if they are wanted in it.
pub(super) fn inline(
    request: &BuildRequest,
    session: &Session<'_>,
    workshop: &Workshop,
    planned: &Planned,
    tree: &[Key],
) -> Result<Option<String>, Failure> {
    if !request
        .cache_to
        .iter()
        .any(|to| to.target == Target::Inline)
    {
        return Ok(None);
    }
    let graph = &planned.lowered.graph;
    let results = graph.needed(&[planned.lowered.target]).into_iter();
    let results = results.filter_map(|id| session.definition_of(id)).collect();
    // The digest of the image is not known yet, and no part of what is asked.
    let used = session.used(planned, Vec::new(), crate::digest::Digest::of(b""), tree);
    let epoch_ms = planned
        .lowered
        .source_date_epoch
        .map(|epoch| u64::try_from(epoch).unwrap_or(0) * 1000);
    Export { session, workshop }
        .inline(tree, results, &used, epoch_ms)
        .map(Some)
}

/// Writes what a build has used for others, where there is something to write.
///
/// # Errors
/// If it cannot be written where that is to end the build.
pub(super) fn write(request: &BuildRequest, events: &dyn EventSink) -> Result<(), Vec<Failure>> {
    let mut request = request.clone();
    request.cache_to.retain(|to| to.target != Target::Inline);
    if request.cache_to.is_empty() {
        return Ok(());
    }
    let store = open(&request.store)?;
    let used = uses(&store, &request).map_err(|error| failures(&error))?;
    request.cache_to.retain(|to| !is_written(&used, to));
    if used.is_empty() || request.cache_to.is_empty() {
        return Ok(());
    }
    drop(store);
    let order = Order::WriteCaches {
        request: Box::new(request),
    };
    match listen(&order, &[], events)? {
        Report::CachesWritten => Ok(()),
        other => Err(vec![unexpected(&other)]),
    }
}

fn uses(store: &Store, request: &BuildRequest) -> Result<Vec<BuildUse>, StoreError> {
    let work = &request.work;
    let target = work.target.as_deref().unwrap_or_default();
    let platforms = match request.platforms.as_slice() {
        [] => std::slice::from_ref(&work.platform),
        platforms => platforms,
    };
    store.last_uses(&work.project, target, platforms)
}

/// Does so, in the engine child.
///
/// # Errors
/// If it cannot be written where that is to end the build.
pub(super) fn write_in_child(
    request: &BuildRequest,
    events: &dyn EventSink,
    surroundings: Surroundings,
) -> Result<(), Vec<Failure>> {
    let store = open(&request.store)?;
    let used = uses(&store, request).map_err(|error| failures(&error))?;
    let contexts = Contexts::of(&request.work);
    // What was wrong with a cache that was read was said by the build.
    let silent = Gate::shut(events);
    let session = Session::new(&request.work, &store, &contexts, Clock::system(), &silent);
    let known = used
        .iter()
        .flat_map(|used| &used.parts)
        .flat_map(|part| &part.snapshots);
    let is_whole = known.into_iter().all(|id| store.has_snapshot(id));
    let session = match is_whole {
        true => session,
        false => {
            let elsewhere = read(request, &session);
            session.knowing(elsewhere)
        }
    };
    // So was what this machine lacks.
    let workshop =
        Workshop::open(&session, surroundings, |_, _| ()).map_err(|failure| vec![failure])?;
    raise_open_files();
    let mut ends = Vec::new();
    for to in &request.cache_to {
        let written = Export {
            session: &session,
            workshop: &workshop,
        }
        .write(&used, to);
        if let Err(failure) = written {
            match to.on_error {
                OnError::Warn => {
                    events.emit(warning("CacheNotWritten", &to.target.to_string(), &failure))
                }
                OnError::Fail => ends.push(failure),
            }
        }
    }
    match ends.is_empty() {
        true => Ok(()),
        false => Err(ends),
    }
}

/// Makes something, and packs the layers of what is made, and sends them to registries, while the rest is still made. What
/// goes wrong with that is said when all of it is written.
pub(super) fn writing_ahead<T>(
    request: &BuildRequest,
    session: &Session<'_>,
    workshop: &Workshop,
    make: impl FnOnce() -> T,
) -> T {
    let caches = request.cache_to.iter();
    let caches: Vec<&CacheTo> = caches.filter(|to| to.mode == Mode::Max).collect();
    if caches.is_empty() {
        return make();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (said, layers) = mpsc::channel::<Vec<Key>>();
        session.tell_layers(Some(said));
        let (is_over, caches) = (&is_over, &caches);
        scope.spawn(move || {
            let export = Export { session, workshop };
            let mut failed = vec![false; caches.len()];
            while let (false, Ok(layers)) = (is_over.load(Ordering::Relaxed), layers.recv()) {
                for (to, failed) in caches.iter().zip(&mut failed) {
                    *failed = *failed || export.write_ahead(&layers, to).is_err();
                }
            }
        });
        let made = make();
        is_over.store(true, Ordering::Relaxed);
        session.tell_layers(None);
        made
    })
}

/// Keeps events until it is known whether they are the build; open, it lets them through.
pub(super) struct Gate<'a> {
    events: &'a dyn EventSink,
    held: Mutex<Option<Vec<BuildEvent>>>,
}

impl<'a> Gate<'a> {
    pub(super) fn shut(events: &'a dyn EventSink) -> Self {
        Self {
            events,
            held: Mutex::new(Some(Vec::new())),
        }
    }

    /// How much was said until now.
    pub(super) fn said(&self) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map_or(0, Vec::len)
    }

    /// Forgets what was said after that.
    pub(super) fn unsay(&self, said: usize) {
        if let Some(held) = &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            held.truncate(said);
        }
    }

    pub(super) fn open(&self) {
        let held = self
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        held.into_iter()
            .flatten()
            .for_each(|event| self.events.emit(event));
    }
}

impl EventSink for Gate<'_> {
    fn emit(&self, event: BuildEvent) {
        match &mut *self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => held.push(event),
            None => self.events.emit(event),
        }
    }
}
