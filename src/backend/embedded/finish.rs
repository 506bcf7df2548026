//! From results to an image: the layers' digests, configuration and manifest, the names in the store, the exports. The
//! same for a build that found everything in the cache and for one that made it.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use super::super::{BuildRequest, Descriptor, Outcome};
use super::bare::{bare_image, fetch, has_files, is_here, tree_of};
use super::caches::{self, Gate, Seen};
use super::export::{self, Layers, SaveRequest, Shipped};
use super::recipe;
use crate::digest::Key;
use crate::engine::base::{Asking, BaseImage, Blobs};
use crate::engine::cache::INLINE_KEY;
use crate::engine::clock::Clock;
use crate::engine::contexts::Contexts;
use crate::engine::entitlement;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::lock::{self, Entry, Outdated};
use crate::engine::phases::{self, Makings, PhaseReport, StepReport};
use crate::engine::plan::Planned;
use crate::engine::solve::survey::{Survey, Thoroughness};
use crate::engine::solve::{self, Made, Session, Shell, ShellEnd, Surroundings, Workshop};
use crate::engine::work::{Freshness, Work};
use crate::event::{BuildEvent, EventSink};
use crate::graph::{NodeId, Op};
use crate::image::{
    self, Assembled, Base, History, Instruction, Layer, MediaTypes, Name, Timestamp,
};
use crate::store::{Store, StoreError, StoredImage};
use crate::sys::signal::Resizes;

/// The work with all that has to be known before its Dockerfile can be lowered, as far as the store remembers it.
///
/// # Errors
/// If the input is wrong.
pub(super) fn settled(
    work: &Work,
    store: &Path,
    events: &dyn EventSink,
) -> Result<Option<Work>, Vec<Failure>> {
    let store = open(store)?;
    let said = Gate::shut(events);
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), &said);
    let settled = session.settled(None)?;
    if settled.is_some() {
        said.open();
    }
    Ok(settled)
}

/// The same, in the engine child: what is not there is fetched.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn settle(
    work: &Work,
    store: &Path,
    events: &dyn EventSink,
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<Work, Vec<Failure>> {
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let workshop = Workshop::open(&session, surroundings, warn).map_err(|failure| vec![failure])?;
    raise_open_files();
    let settled = session.settled(Some(&workshop))?;
    workshop
        .snapshots
        .flush()
        .map_err(|error| failures(&error))?;
    settled.ok_or_else(|| {
        vec![Failure::new(
            FailureKind::Bug,
            "finish::unsettled",
            "the build context was fetched and is not there",
        )]
    })
}

/// What a lock is asked to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wanted {
    /// All pins; those that are there stay.
    Pins,
    /// What is pinned and is another thing now.
    Outdated,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Locked {
    /// All pins.
    Pins(Vec<Entry>),
    /// What differs.
    Outdated(Vec<Outdated>),
}

/// Asks what the sources of a build are now, in the engine child.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn lock(
    work: &Work,
    store: &Path,
    wanted: Wanted,
    events: &dyn EventSink,
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<Locked, Vec<Failure>> {
    let alone = |failure| vec![failure];
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let planned = Planned::of(&session, Asking::Registries)?;
    let workshop = Workshop::open(&session, surroundings, warn).map_err(alone)?;
    raise_open_files();
    let locked = match wanted {
        Wanted::Pins => session.pins(&workshop, &planned).map(Locked::Pins),
        Wanted::Outdated => session.outdated(&workshop, &planned).map(Locked::Outdated),
    };
    workshop
        .snapshots
        .flush()
        .map_err(|error| failures(&error))?;
    locked.map_err(alone)
}

/// Plans a build, if all that it asks for is allowed.
pub(super) fn allowed(session: &Session<'_>, asking: Asking) -> Result<Planned, Vec<Failure>> {
    let (work, events) = (session.work, session.events);
    let planned = Planned::of(session, asking)?;
    let mut refusals = entitlement::refusals(work, &planned);
    refusals.extend(lock::refusals(work, &planned));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let unpinned = match work.aside {
        true => Vec::new(),
        false => lock::unpinned(work, &planned),
    };
    for name in unpinned {
        let lock = work.lock.as_ref().map_or("", |lock| &lock.file);
        events.emit(BuildEvent::Warning {
            code: "NotLocked".to_owned(),
            message: format!("`{name}` is not in {lock}: `shmocker habitat lock` pins it"),
            file: None,
            line: None,
        });
    }
    Ok(planned)
}

/// What a build of a habitat would do, phase by phase.
///
/// # Errors
/// If the input is wrong.
pub(super) fn phases(work: &Work, store: &Path) -> Result<Vec<PhaseReport>, Vec<Failure>> {
    foresee(work, store, |session, planned, survey| {
        phases::report(session, planned, survey, work.freshness)
    })
}

/// What a build of a Dockerfile would do, step by step.
///
/// # Errors
/// If the input is wrong.
pub(super) fn steps(work: &Work, store: &Path) -> Result<Vec<StepReport>, Vec<Failure>> {
    foresee(work, store, phases::step_report)
}

/// What a build would read that is not what it was. Servers are asked for what the store does not know.
///
/// # Errors
/// If something is not to be had any more.
pub(super) fn changes(
    work: &Work,
    store: &Path,
    recorded: &[(String, Makings)],
    events: &dyn EventSink,
) -> Result<Vec<StepReport>, Vec<Failure>> {
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let planned = Planned::of(&session, Asking::Registries)?;
    let silent = |_: BuildEvent| {};
    let looking = Session::new(work, &store, &contexts, Clock::system(), &silent);
    let wanted = [planned.lowered.target];
    Survey::of(&looking, &planned, &wanted, Thoroughness::Complete)?;
    phases::changes(&looking, &planned, recorded).map_err(|failure| vec![failure])
}

/// Looks at everything that a build would do, and makes nothing.
fn foresee<T>(
    work: &Work,
    store: &Path,
    report: impl FnOnce(&Session<'_>, &Planned, &Survey) -> Result<T, Failure>,
) -> Result<T, Vec<Failure>> {
    let store = open(store)?;
    let silent = |_: BuildEvent| {};
    // Nothing is asked, so what is remembered serves, however old it is.
    let remembering = Work {
        freshness: Freshness::Never,
        ..work.clone()
    };
    let contexts = Contexts::of(&remembering);
    let clock = Clock::system();
    let asking = Session::new(work, &store, &contexts, clock, &silent);
    let session = Session::new(&remembering, &store, &contexts, clock, &silent);
    let planned = match work.freshness {
        Freshness::Now => Planned::of(&asking, Asking::Registries),
        Freshness::After { .. } | Freshness::Never => Planned::of(&session, Asking::Nobody),
    };
    let planned = planned.map_err(|failures| match failures.is_empty() {
        true => vec![unknown_base()],
        false => failures,
    })?;
    asking.ask(&planned).map_err(|failure| vec![failure])?;
    let survey = Survey::of(
        &session,
        &planned,
        &[planned.lowered.target],
        Thoroughness::Complete,
    )?;
    report(&session, &planned, &survey).map_err(|failure| vec![failure])
}

fn unknown_base() -> Failure {
    let message = "too little is known of the base images: they were never fetched";
    Failure::new(FailureKind::Source, "finish::unknown_base", message)
        .with_help("`--pull` asks their registries; or build once")
}

/// The build, in the engine child. `stdout` is where an export to standard output goes.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn build(
    request: &BuildRequest,
    stdout: Option<OwnedFd>,
    (events, reasons): (&dyn EventSink, &dyn Fn(Vec<StepReport>)),
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<Outcome, Vec<Failure>> {
    let store = open(&request.store)?;
    let swept = store.sweep_tmp().map_err(store_failures)?;
    let contexts = Contexts::of(&request.work);
    let session = Session::new(&request.work, &store, &contexts, Clock::system(), events);
    let elsewhere = caches::read(request, &session);
    let session = session.knowing(Arc::clone(&elsewhere));
    let planned = allowed(&session, Asking::Registries)?;
    let workshop = Workshop::open(&session, surroundings, warn).map_err(|failure| vec![failure])?;
    raise_open_files();
    if !request.work.accepts_failed {
        let now_ms = session.clock.now().as_millis() as u64;
        store
            .forget_failed(&request.work.project, now_ms)
            .map_err(store_failures)?;
    }
    let target = planned.lowered.target;
    let bare = bare_image(&planned).filter(|_| !request.outputs.iter().any(has_files));
    let said = Gate::shut(events);
    let looking = Session::new(&request.work, &store, &contexts, session.clock, &said);
    let looking = looking.knowing(elsewhere);
    let mut built = None;
    let mut left = HashSet::new();
    while bare.is_none() && built.is_none() && !looking.elsewhere.is_empty() {
        match caches::look(request, &looking, &workshop, &planned, events)? {
            Seen::Part(steps) => {
                left = steps;
                break;
            }
            Seen::All(tree) => {
                if request.needs_files {
                    // All that is needed is here.
                    said.open();
                }
                let stdout = stdout.as_ref().and_then(|fd| fd.try_clone().ok());
                let result = (&tree, None);
                let ended = conclude(request, &looking, &workshop, &planned, result, stdout);
                if ended.is_err() && looking.elsewhere.forget_closed() {
                    // What was only known to be elsewhere is not: it is looked for again, without that.
                    looking.elsewhere.tell(events);
                    said.unsay(0);
                } else {
                    said.open();
                    built = Some(ended?);
                }
            }
        }
    }
    let outcome = match built {
        Some(outcome) => outcome,
        None => {
            let session = session.leaving(left);
            let solved = match bare {
                // What it is has to be noted all the same.
                Some(_) => {
                    let until = Thoroughness::UntilSomethingIsMissing;
                    Survey::of(&session, &planned, &[target], until).map(|survey| survey.made)
                }
                None => caches::writing_ahead(request, &session, &workshop, || {
                    solve::solve(&session, &workshop, &planned, &[target])
                }),
            };
            // Before what was built is remembered: then nothing differs any more.
            if !request.work.aside
                && let Ok(reports) = phases::reasons(&session, &planned)
                && !reports.is_empty()
            {
                reasons(reports);
            }
            let made = solved?;
            let tree = match (bare, made.get(&target).and_then(Made::tree)) {
                (Some(image), _) => tree_of(image),
                (None, Some(tree)) => tree.clone(),
                (None, None) => solve::Tree::new(Vec::new()),
            };
            conclude(
                request,
                &session,
                &workshop,
                &planned,
                (&tree, bare),
                stdout,
            )?
        }
    };
    if swept.in_use > 0 {
        // Whoever was still dying when this build began is gone now, and what it held can go as well.
        store.sweep_tmp().map_err(store_failures)?;
    }
    Ok(outcome)
}

/// From the tree of the target, or the image of a registry that it is, to an image and its outputs.
fn conclude(
    request: &BuildRequest,
    session: &Session<'_>,
    workshop: &Workshop,
    planned: &Planned,
    (tree, bare): (&solve::Tree, Option<&BaseImage>),
    stdout: Option<OwnedFd>,
) -> Result<Outcome, Vec<Failure>> {
    let leaves_only = request.tags.is_empty()
        && !request.outputs.is_empty()
        && !request.outputs.iter().any(export::is_stored);
    if let Some(image) = bare.filter(|_| !leaves_only) {
        fetch(session, image)?;
    }
    let own_layers = match bare {
        Some(_) => &[],
        None => tree.layers(),
    };
    workshop
        .snapshots
        .flush()
        .map_err(|error| failures(&error))?;
    let measured =
        layers::measure(session, workshop, own_layers).map_err(|failure| vec![failure])?;
    let parts = parts(session, planned, tree.layers(), |snapshot| {
        Ok(measured.get(snapshot).copied())
    })?;
    let Some(parts) = parts else {
        return Err(vec![Failure::new(
            FailureKind::Bug,
            "finish::layers",
            "a layer of the result was not measured",
        )]);
    };
    let inline = caches::inline(request, session, workshop, planned, tree.layers());
    let inline = inline.map_err(|failure| vec![failure])?;
    let assembled = assemble(session, planned, parts, inline)?;
    // One whose files are elsewhere is no image of this store.
    let keeping = match bare {
        Some(image) if is_here(image, session.store) => Keeping::Named,
        None if session.store.has_snapshots(tree.layers()) => Keeping::Named,
        _ => Keeping::Unnamed,
    };
    let kept = (tree.layers(), keeping);
    let mut outcome = keep(request, session, planned, &assembled, kept)?;
    let is_kept = !request.work.accepts_failed && !request.work.aside;
    if is_kept {
        remember(session, planned, &assembled, tree.layers())?;
    }
    let layers = Layers::new(session, Some(workshop), base_image(planned), tree.layers());
    if is_kept {
        recipe::note(request, session, planned, &assembled, None);
    }
    let left = export::write_all(request, &assembled, &layers, epoch(planned), stdout)?;
    note_shipped(request, (session, planned), left, &mut outcome);
    Ok(outcome)
}

/// What left is what was asked for; the store's own manifest names uncompressed layers.
pub(super) fn note_shipped(
    request: &BuildRequest,
    (session, planned): (&Session<'_>, &Planned),
    shipped: Option<Shipped>,
    outcome: &mut Outcome,
) {
    let Some(Shipped { image, form }) = shipped else {
        return;
    };
    let is_kept = !request.work.accepts_failed && !request.work.aside;
    if is_kept && image.digest() != outcome.stored {
        recipe::note(request, session, planned, &image, Some(&form));
    }
    outcome.manifest = described(&image.descriptor());
    outcome.config_digest = image.config_digest();
}

/// Writes images of the store, in the engine child.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn save(
    request: &SaveRequest,
    work: &Work,
    stdout: Option<OwnedFd>,
    events: &dyn EventSink,
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<Option<image::Descriptor>, Vec<Failure>> {
    let store = open(&request.store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let workshop = Workshop::open(&session, surroundings, warn).map_err(|failure| vec![failure])?;
    raise_open_files();
    export::save(request, stdout, &session, &workshop)
}

/// Holds the store to its limits, in the engine child. That can fail no build.
pub(super) fn tidy(
    request: &BuildRequest,
    built: &Result<Outcome, Vec<Failure>>,
    events: &dyn EventSink,
) {
    if let Err(failures) = built
        && failures.iter().all(|failure| {
            matches!(
                failure.kind,
                FailureKind::Cancelled | FailureKind::Terminated
            )
        })
    {
        return;
    }
    let now_ms = Clock::system().now().as_millis() as u64;
    let tidied = Store::open(&request.store).and_then(|store| store.tidy(&request.limits, now_ms));
    let (code, message) = match tidied {
        Ok(None) => return,
        Ok(Some(remark)) => ("StoreFull", remark),
        Err(error) => {
            let failure = Failure::from_diagnostic(FailureKind::Machine, &error);
            let mut message = format!("nothing was deleted from the store: {failure}");
            for cause in &failure.causes {
                message.push_str(&format!(": {cause}"));
            }
            ("StoreNotTidied", message)
        }
    };
    events.emit(BuildEvent::Warning {
        code: code.to_owned(),
        message,
        file: None,
        line: None,
    });
}

/// A command where a build stands, in the engine child.
///
/// # Errors
/// Everything that went wrong.
pub(super) fn shell(
    work: &Work,
    store: &Path,
    shell: &Shell,
    (files, resizes): (&[OwnedFd], Option<Resizes>),
    events: &dyn EventSink,
    surroundings: Surroundings,
    warn: impl Fn(&'static str, String) + Send + Sync + 'static,
) -> Result<ShellEnd, Vec<Failure>> {
    let store = open(store)?;
    let contexts = Contexts::of(work);
    let session = Session::new(work, &store, &contexts, Clock::system(), events);
    let planned = allowed(&session, Asking::Registries)?;
    let workshop = Workshop::open(&session, surroundings, warn).map_err(|failure| vec![failure])?;
    raise_open_files();
    session.shell(&workshop, &planned, shell, files, resizes)
}

/// The parts of an image.
pub(super) struct Parts {
    base: Base,
    instructions: Vec<Instruction>,
}

/// The image's layers in their places. `None` if the size of one of ours is not known.
pub(super) fn parts(
    session: &Session<'_>,
    planned: &Planned,
    snapshots: &[Key],
    measured: impl Fn(&Key) -> Result<Option<(crate::digest::Digest, u64)>, StoreError>,
) -> Result<Option<Parts>, Vec<Failure>> {
    let lowered = &planned.lowered;
    let steps: Vec<NodeId> = lowered
        .history
        .iter()
        .filter_map(|entry| entry.node)
        .collect();
    let below = snapshots.len().saturating_sub(steps.len());
    let epoch = lowered.source_date_epoch.map(Timestamp::from_seconds);
    let own = |snapshot: &Key| -> Result<Option<Layer>, Vec<Failure>> {
        let Some((diff_id, size)) = measured(snapshot).map_err(store_failures)? else {
            return Ok(None);
        };
        let created = match epoch {
            Some(epoch) => epoch,
            None => {
                let created_ms = match session.elsewhere.record(snapshot) {
                    Some(record) => record.created_ms,
                    None => session.store.created_ms(snapshot).map_err(store_failures)?,
                };
                Timestamp::from_seconds((created_ms / 1000) as i64)
            }
        };
        Ok(Some(Layer::uncompressed(diff_id, size, Some(created))))
    };
    let mut base = Base::default();
    if let Some(image) = base_image(planned) {
        base.history.clone_from(&image.config.history);
        for layer in &image.layers {
            base.layers.push(Layer {
                diff_id: layer.diff_id,
                descriptor: layer.descriptor.clone(),
                created: None,
            });
        }
    } else {
        for snapshot in &snapshots[..below] {
            let Some(layer) = own(snapshot)? else {
                return Ok(None);
            };
            let history = History {
                created: layer.created.map(|created| created.to_string()),
                created_by: Some(base_name(planned)),
                ..History::default()
            };
            base.history.push(history);
            base.layers.push(layer);
        }
    }
    let mut tops = snapshots[below..].iter();
    let mut instructions = Vec::new();
    for entry in &lowered.history {
        let layer = match entry.node.and_then(|_| tops.next()) {
            None => None,
            Some(snapshot) => match own(snapshot)? {
                None => return Ok(None),
                layer => layer,
            },
        };
        let history = History {
            created_by: Some(entry.created_by.clone()),
            comment: Some(crate::frontend::HISTORY_COMMENT.to_owned()),
            ..History::default()
        };
        instructions.push(Instruction { history, layer });
    }
    Ok(Some(Parts { base, instructions }))
}

/// Whether an image gets names in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeping {
    /// It does.
    Named,
    /// Not all of it is here: it only leaves.
    Unnamed,
}

/// The image that the target starts from, if that is one.
pub(super) fn base_image(planned: &Planned) -> Option<&BaseImage> {
    let base = planned.lowered.base.as_ref()?;
    match &planned.lowered.graph.node(base.node).op {
        Op::Source(source) => planned.images.get(source),
        _ => None,
    }
}

/// What the history says of a base that has none of its own.
fn base_name(planned: &Planned) -> String {
    let base = planned
        .lowered
        .base
        .as_ref()
        .map(|base| &planned.lowered.graph.node(base.node).op);
    match base {
        Some(Op::Source(crate::graph::Source::Debian(debian))) => {
            let mut name = format!("debian://{}", debian.suite);
            if !debian.packages.is_empty() {
                name.push_str(&format!("?packages={}", debian.packages.join(",")));
            }
            name
        }
        _ => "FROM".to_owned(),
    }
}

/// SOURCE_DATE_EPOCH.
pub(super) fn epoch(planned: &Planned) -> Option<Timestamp> {
    let seconds = planned.lowered.source_date_epoch;
    seconds.map(Timestamp::from_seconds)
}

/// The image, with what is recorded in it of the cache.
pub(super) fn assemble(
    session: &Session<'_>,
    planned: &Planned,
    parts: Parts,
    inline: Option<String>,
) -> Result<Assembled, Vec<Failure>> {
    let mut config = planned.lowered.config.clone();
    // What a base says of itself is not said of what is built upon it.
    config.other.remove(INLINE_KEY);
    config
        .other
        .extend(inline.map(|records| (INLINE_KEY.to_owned(), records.into())));
    let labels = phases::labels(session, planned);
    if !labels.is_empty() {
        config.config.labels.get_or_insert_default().extend(labels);
    }
    image::assemble(
        config,
        parts.base,
        parts.instructions,
        MediaTypes::Oci,
        epoch(planned),
    )
    .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Input, &error)])
}

/// Puts configuration and manifest into the store, and gives them their names. Writes nothing that is there already.
pub(super) fn keep(
    request: &BuildRequest,
    session: &Session<'_>,
    planned: &Planned,
    assembled: &Assembled,
    (snapshots, keeping): (&[Key], Keeping),
) -> Result<Outcome, Vec<Failure>> {
    let store = session.store;
    // What is there already must still be there when it is named.
    let _kept = store.keep_all().map_err(store_failures)?;
    for (digest, bytes) in [
        (assembled.config_digest(), &assembled.config_bytes),
        (assembled.digest(), &assembled.manifest_bytes),
    ] {
        if !store.has_blob(&digest) {
            store.put(bytes.as_slice()).map_err(store_failures)?;
        }
    }
    keep_base(session, planned)?;
    let mut names = Vec::new();
    for tag in &request.tags {
        let name: Name = tag.parse().map_err(|error| {
            vec![Failure::caused(
                FailureKind::Input,
                "finish::name",
                format!("`{tag}` cannot be a name"),
                &error,
            )]
        })?;
        names.push(name.to_string());
    }
    let digest = assembled.digest();
    let stored_ms = session.clock.now().as_millis() as u64;
    let base = base_image(planned).and_then(BaseImage::as_base);
    // An image is found by its digest as well, whatever names it has.
    let all = names.iter().cloned().chain([digest.to_string()]);
    for name in all.filter(|_| !request.work.aside && keeping == Keeping::Named) {
        let known = store.image(&name).map_err(store_failures)?;
        let is_same = |known: StoredImage| {
            known.digest == digest && known.layers == snapshots && known.base == base
        };
        if !known.is_some_and(is_same) {
            let image = StoredImage {
                name,
                digest,
                stored_ms,
                layers: snapshots.to_vec(),
                pulled_from: None,
                base: base.clone(),
            };
            store.put_image(&image).map_err(store_failures)?;
        }
    }
    Ok(Outcome {
        source_date_epoch: planned.lowered.source_date_epoch,
        manifest: described(&assembled.descriptor()),
        stored: digest,
        config_digest: assembled.config_digest(),
        names,
        downloads: session
            .downloads(planned)
            .map_err(|failure| vec![failure])?,
    })
}

/// An image of the store is whole: it has the layers of the OCI layout that it was built on. They were kept when they were
/// unpacked; what was deleted since is copied.
fn keep_base(session: &Session<'_>, planned: &Planned) -> Result<(), Vec<Failure>> {
    let Some(base) = base_image(planned) else {
        return Ok(());
    };
    let Blobs::Layout(layout) = &base.blobs else {
        return Ok(());
    };
    for layer in &base.layers {
        let digest = &layer.descriptor.digest;
        if session.store.has_blob(digest) {
            continue;
        }
        // What is unpacked already serves for everything but writing it again.
        let Ok(blob) = File::open(layout.join("blobs/sha256").join(digest.hex())) else {
            continue;
        };
        match session.store.put_expecting(blob, digest) {
            Ok(_) | Err(StoreError::WrongDigest { .. }) => {}
            Err(error) => return Err(store_failures(error)),
        }
    }
    Ok(())
}

/// Layers, leases and walks hold many files open. Commands of the build get the user's own limit back.
pub(super) fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it may not be raised, small builds still work.
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// Remembers what was built, so that the next build can say what changed; and what that used, so that it is kept.
pub(super) fn remember(
    session: &Session<'_>,
    planned: &Planned,
    assembled: &Assembled,
    tree: &[Key],
) -> Result<(), Vec<Failure>> {
    let parts = phases::remember(session, planned).map_err(|failure| vec![failure])?;
    let used = session.used(planned, parts, assembled.digest(), tree);
    let now_ms = session.clock.now().as_millis() as u64;
    // A store that can only be read answers what it knows; nothing is deleted from it.
    drop(session.store.note_use(&used, now_ms));
    Ok(())
}

fn described(descriptor: &image::Descriptor) -> Descriptor {
    Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest,
        size: descriptor.size,
    }
}

pub(super) fn open(path: &Path) -> Result<Store, Vec<Failure>> {
    Store::open(path).map_err(store_failures)
}

pub(super) fn store_failures(error: StoreError) -> Vec<Failure> {
    failures(&error)
}

pub(super) fn failures(error: &dyn miette::Diagnostic) -> Vec<Failure> {
    vec![Failure::from_diagnostic(FailureKind::Machine, error)]
}
