//! What a build would do, and why: phase by phase for a habitat, step by step for a Dockerfile. And the hashes that name
//! what the phases are.
//!
//! A phase's hash is over the hash of the phase before it and, for each of its stages, what the stage adds to the image's
//! configuration (ENV, LABEL and the like), what the sources it uses were resolved to, and the own fields of its steps:
//! commands, owners, the environment they see, the content of the files they read.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::causes::{self, Cause, Compared, StepWas};
use super::failure::Failure;
use super::parts::{self, Part};
use super::plan::Planned;
use super::solve::survey::{State, Survey};
use super::solve::{Session, shown, store_failure};
use super::work::{Freshness, Item};
use crate::digest::Key;
use crate::event::StepOrigin;
use crate::graph::{NodeId, Op, Source};
use crate::store::{Answer, PartUse};

pub use super::parts::Makings;

/// One phase, as `habitat phases` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseReport {
    /// From 1.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What it does.
    pub title: String,
    /// Its stages, in order.
    pub stages: Vec<String>,
    /// `cached`, `changed`, `stale`, `new`, `forced`, `skipped` or `empty`.
    pub state: &'static str,
    /// What changed, where the state is `changed`.
    pub reason: Option<String>,
    /// 12 hex digits.
    pub hash: String,
    /// Hooks that run before and after it.
    pub hooks: Hooks,
    /// How long its steps took in the last build of that hash.
    pub duration_ms: Option<u64>,
    /// What they added in that build.
    pub size_bytes: Option<u64>,
    /// Why it would be built.
    #[serde(skip)]
    pub causes: Vec<Cause>,
    /// What is done in it.
    #[serde(skip)]
    pub items: Vec<Item>,
    /// What a build would ask the network for.
    #[serde(skip)]
    pub asks: Vec<String>,
}

/// How many hooks a phase has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// Before it.
    pub before: u32,
    /// After it.
    pub after: u32,
}

/// One step of a Dockerfile, or one of its sources, as `why` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// The instruction as written.
    pub name: String,
    /// The stage it is in.
    pub stage: String,
    /// The file it stands in.
    pub file: String,
    /// The line there.
    pub line: u32,
    /// `cached`, `changed`, `stale`, `new` or `forced`.
    #[serde(deserialize_with = "causes::word")]
    pub state: causes::Word,
    /// Why it would be built.
    pub causes: Vec<Cause>,
}

/// What the last build of a phase took and gave.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    duration_ms: u64,
    size_bytes: u64,
}

/// The labels that say what an image is made of. A phase that the target does not need has none.
#[must_use]
pub fn labels(session: &Session<'_>, planned: &Planned) -> BTreeMap<String, String> {
    if session.work.phases.is_empty() {
        return BTreeMap::new();
    }
    let parts = parts::parts(session, planned);
    let skipped: Vec<&str> = session
        .work
        .phases
        .iter()
        .filter(|phase| phase.skipped)
        .map(|phase| phase.name.as_str())
        .collect();
    let mut labels: BTreeMap<String, String> = parts
        .iter()
        .filter(|part| !part.stages.is_empty())
        .filter(|part| part.phase.is_some_and(|phase| !phase.skipped))
        .map(|part| {
            let name = format!("io.shmocker.habitat.phase.{}", part.name);
            (name, part.key.short())
        })
        .collect();
    if !skipped.is_empty() {
        labels.insert("io.shmocker.habitat.skipped".to_owned(), skipped.join(","));
    }
    labels
}

/// What a build of a habitat would do, phase by phase.
///
/// # Errors
/// If the store cannot be read.
pub fn report(
    session: &Session<'_>,
    planned: &Planned,
    survey: &Survey,
    freshness: Freshness,
) -> Result<Vec<PhaseReport>, Failure> {
    let index = session.index()?;
    let mut reports: Vec<PhaseReport> = Vec::new();
    let parts = parts::parts(session, planned);
    for part in &parts {
        let Some(phase) = part.phase else {
            continue;
        };
        let answer = index
            .answer(&measured_name(&part.key))
            .map_err(store_failure)?;
        let measured =
            answer.and_then(|answer| serde_json::from_str::<Measured>(&answer.answer).ok());
        let forced = !part.steps.is_empty()
            && phase
                .stages
                .iter()
                .any(|stage| session.work.no_cache.forces(stage));
        let all_here = is_here(part, survey);
        let mut causes = Vec::new();
        let state = if phase.skipped || (part.stages.is_empty() && !phase.empty) {
            "skipped"
        } else if forced {
            "forced"
        } else if all_here && measured.is_some() {
            if phase.empty { "empty" } else { "cached" }
        } else {
            match part.was(session)? {
                None if phase.empty => "empty",
                None => "new",
                Some(was) => {
                    let compared = Compared::of(&was, &part.makings);
                    if compared.differs() {
                        causes = causes::of_phase(session, planned, part, &was, &compared)?;
                        "changed"
                    } else if phase.empty {
                        "empty"
                    } else if all_here && part.steps.is_empty() && !follows(part, &reports) {
                        "cached"
                    } else {
                        "stale"
                    }
                }
            }
        };
        reports.push(PhaseReport {
            id: phase.id,
            name: phase.name.clone(),
            title: phase.title.clone(),
            stages: phase.stages.clone(),
            state,
            reason: None,
            hash: part.key.short(),
            hooks: Hooks {
                before: phase.hooks.0,
                after: phase.hooks.1,
            },
            duration_ms: measured.as_ref().map(|measured| measured.duration_ms),
            size_bytes: measured.as_ref().map(|measured| measured.size_bytes),
            causes,
            items: phase.items.clone(),
            asks: asks(session, planned, part, freshness)?,
        });
    }
    let environment: Vec<Cause> = reports
        .iter()
        .flat_map(|report| &report.causes)
        .filter(|cause| cause.field.starts_with("env."))
        .cloned()
        .collect();
    for report in &mut reports {
        causes::trace_environment(&mut report.causes, &environment);
        report.reason = report.causes.first().map(ToString::to_string);
    }
    for at in 0..reports.len() {
        if reports[at].state == "stale" {
            let before = upstream(planned, &parts, &reports, at);
            reports[at].causes = before;
        }
    }
    Ok(reports)
}

/// Whether every result of a part is there.
fn is_here(part: &Part<'_>, survey: &Survey) -> bool {
    let steps = part
        .steps
        .iter()
        .all(|id| survey.seen.get(id) == Some(&State::Cached));
    steps && part.sources.iter().all(|id| survey.made.contains_key(id))
}

/// Whether something before this part would be built.
fn follows(part: &Part<'_>, before: &[PhaseReport]) -> bool {
    let leaves = |name: &str| matches!(name, "verify" | "test");
    before
        .iter()
        .filter(|report| !leaves(&report.name) || part.name == "final")
        .any(|report| would_build(report.state))
}

/// Whether something in this state would be built.
#[must_use]
pub fn would_build(state: &str) -> bool {
    matches!(state, "changed" | "stale" | "new" | "forced")
}

/// The phases that a phase follows and that would be built for a reason of their own.
fn upstream(
    planned: &Planned,
    parts: &[Part<'_>],
    reports: &[PhaseReport],
    at: usize,
) -> Vec<Cause> {
    let results: Vec<NodeId> = parts[at].stages.iter().map(|stage| stage.result).collect();
    let needed: HashSet<NodeId> = planned.lowered.graph.needed(&results).into_iter().collect();
    let before = parts.iter().zip(reports).take(at);
    let own_reason = before
        .filter(|(_, report)| matches!(report.state, "changed" | "new" | "forced"))
        .filter(|(part, _)| {
            let mut nodes = part.steps.iter().chain(&part.sources);
            part.steps.is_empty() || nodes.any(|id| needed.contains(id))
        });
    own_reason
        .map(|(_, report)| Cause {
            field: report.name.clone(),
            kind: "phase",
            note: Some(report.state.to_owned()),
            causes: report.causes.clone(),
            ..Cause::default()
        })
        .collect()
}

/// What a build would ask the network for in a part.
fn asks(
    session: &Session<'_>,
    planned: &Planned,
    part: &Part<'_>,
    freshness: Freshness,
) -> Result<Vec<String>, Failure> {
    let mut asks = Vec::new();
    for id in &part.sources {
        let Op::Source(source) = &planned.lowered.graph.node(*id).op else {
            continue;
        };
        let what = match source {
            Source::Git(_) => "what the reference means now",
            Source::Debian(_) => "what the archive has now",
            Source::Http(_) => "whether it is still the same",
            Source::Image(_) => {
                let age_s = planned.images.get(source).and_then(|image| image.age_s);
                if age_s.is_some_and(|age_s| !freshness.accepts(age_s * 1000)) {
                    asks.push(format!("{}: what the tag means now", shown(source)));
                }
                continue;
            }
            Source::OciLayout(_) | Source::Local { .. } => continue,
        };
        if !session.is_fresh(source, freshness)? {
            asks.push(format!("{}: {what}", shown(source)));
        }
    }
    Ok(asks)
}

/// What a build of a Dockerfile would do, step by step.
///
/// # Errors
/// If the store, or a file of this machine, cannot be read.
pub fn step_report(
    session: &Session<'_>,
    planned: &Planned,
    survey: &Survey,
) -> Result<Vec<StepReport>, Failure> {
    steps_seen(session, planned, &|id| survey.seen.get(&id).copied())
}

/// Why the steps that a build has run were run, before it is remembered.
///
/// # Errors
/// If the store, or a file of this machine, cannot be read.
pub fn reasons(session: &Session<'_>, planned: &Planned) -> Result<Vec<StepReport>, Failure> {
    let seen = |id| {
        let stage = planned.lowered.graph.node(id).step.as_ref();
        match session.is_run(id) {
            false => Some(State::Cached),
            true if stage.is_some_and(|origin| session.work.no_cache.forces(&origin.stage)) => {
                Some(State::Forced)
            }
            true => Some(State::Missing),
        }
    };
    let mut reports = steps_seen(session, planned, &seen)?;
    reports.retain(|report| report.state != "cached");
    Ok(reports)
}

/// What the parts of a build are made from, by their names.
#[must_use]
pub fn makings(session: &Session<'_>, planned: &Planned) -> Vec<(String, Makings)> {
    let parts = parts::parts(session, planned).into_iter();
    let parts = parts.filter(|part| !part.stages.is_empty());
    parts
        .map(|part| (part.name.to_owned(), part.makings))
        .collect()
}

/// What a build would read that is not what it was.
///
/// # Errors
/// If the store, or a file of this machine, cannot be read.
pub fn changes(
    session: &Session<'_>,
    planned: &Planned,
    recorded: &[(String, Makings)],
) -> Result<Vec<StepReport>, Failure> {
    let mut reports = Vec::new();
    for part in parts::parts(session, planned) {
        let Some((_, was)) = recorded.iter().find(|(name, _)| name == part.name) else {
            continue;
        };
        let compared = Compared::of(was, &part.makings);
        let file = &session.work.dockerfile.file;
        for (at, source) in part.makings.sources.iter().enumerate() {
            let was = compared.sources.get(at).and_then(Option::as_ref);
            let (Some(was), true) = (was, source.own.is_some()) else {
                continue;
            };
            let cause = causes::of_source(source, was, false, &part.makings.fields);
            reports.push(StepReport {
                name: source.name.clone(),
                stage: part.name.to_owned(),
                file: file.clone(),
                line: part.stages.first().map_or(1, |stage| stage.first_line),
                state: "changed",
                causes: cause.into_iter().collect(),
            });
        }
        for (at, id) in part.steps.iter().enumerate() {
            let origin = &planned.lowered.graph.node(*id).step;
            if let (Some(origin), StepWas::Changed(differences)) = (origin, &compared.steps[at]) {
                reports.push(StepReport {
                    name: origin.name.clone(),
                    stage: origin.stage.clone(),
                    file: origin.file.clone(),
                    line: origin.line,
                    state: "changed",
                    causes: causes::of_step(session, planned, &part, *id, differences)?,
                });
            }
        }
    }
    Ok(reports)
}

fn steps_seen(
    session: &Session<'_>,
    planned: &Planned,
    seen: &dyn Fn(NodeId) -> Option<State>,
) -> Result<Vec<StepReport>, Failure> {
    let mut reports: Vec<(Option<NodeId>, StepReport)> = Vec::new();
    let graph = &planned.lowered.graph;
    for part in parts::parts(session, planned) {
        let was = part.was(session)?;
        let compared = was.as_ref().map(|was| Compared::of(was, &part.makings));
        for (at, source) in part.makings.sources.iter().enumerate() {
            let before = compared
                .as_ref()
                .and_then(|compared| compared.sources.get(at)?.as_ref());
            let Some(before) = before else {
                continue;
            };
            let cause = causes::of_source(source, before, false, &part.makings.fields);
            let stage = part.stages.first();
            let report = StepReport {
                name: source.name.clone(),
                stage: part.name.to_owned(),
                file: session.work.dockerfile.file.clone(),
                line: stage.map_or(1, |stage| stage.first_line),
                state: "changed",
                causes: cause.into_iter().collect(),
            };
            reports.push((Some(part.sources[at]), report));
        }
        for (at, id) in part.steps.iter().enumerate() {
            let Some(origin) = &graph.node(*id).step else {
                continue;
            };
            let was = compared.as_ref().map(|compared| &compared.steps[at]);
            let (state, causes) = match (seen(*id), was) {
                (Some(State::Cached), _) => ("cached", Vec::new()),
                (Some(State::Forced), _) => ("forced", Vec::new()),
                (_, None | Some(StepWas::New)) => ("new", Vec::new()),
                (_, Some(StepWas::Changed(differences))) => {
                    let causes = causes::of_step(session, planned, &part, *id, differences)?;
                    ("changed", causes)
                }
                (_, Some(StepWas::Same)) => ("stale", behind(planned, &reports, *id)),
            };
            let StepOrigin {
                stage,
                name,
                line,
                file,
                ..
            } = origin.clone();
            let report = StepReport {
                name,
                stage,
                file,
                line,
                state,
                causes,
            };
            reports.push((Some(*id), report));
        }
    }
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// What a step stands on that would be built for a reason of its own.
fn behind(planned: &Planned, reports: &[(Option<NodeId>, StepReport)], id: NodeId) -> Vec<Cause> {
    let needed: HashSet<NodeId> = planned.lowered.graph.needed(&[id]).into_iter().collect();
    let own_reason = reports.iter().filter(|(known, report)| {
        matches!(report.state, "changed" | "new" | "forced")
            && known.is_some_and(|known| known != id && needed.contains(&known))
    });
    own_reason
        .map(|(_, report)| Cause {
            field: format!("{}:{}", report.file, report.line),
            kind: "step",
            note: Some(report.state.to_owned()),
            file: Some(report.file.clone()),
            line: Some(report.line),
            causes: report.causes.clone(),
            ..Cause::default()
        })
        .collect()
}

/// Remembers what was built, so that the next build can say what changed.
///
/// # Errors
/// If the store cannot be written.
pub fn remember(session: &Session<'_>, planned: &Planned) -> Result<Vec<PartUse>, Failure> {
    let index = session.index()?;
    let now_ms = session.clock.now().as_millis() as u64;
    let mut uses = Vec::new();
    for part in parts::parts(session, planned) {
        if part.stages.is_empty() {
            continue;
        }
        let sources = part.sources.iter().flat_map(|id| session.layers_of(*id));
        let steps = part.steps.iter().filter_map(|id| session.result_of(*id));
        uses.push(PartUse {
            name: part.name.to_owned(),
            snapshots: sources.chain(steps.map(|(_, snapshot)| snapshot)).collect(),
        });
        part.remember(session, planned, now_ms)?;
        if part.phase.is_none() {
            continue;
        }
        let name = measured_name(&part.key);
        if index.answer(&name).map_err(store_failure)?.is_some() {
            continue;
        }
        let measured = measure(session, planned, &part)?;
        let answer = Answer {
            answer: serde_json::to_string(&measured).unwrap_or_default(),
            asked_ms: now_ms,
        };
        index.put_answer(&name, &answer).map_err(store_failure)?;
    }
    Ok(uses)
}

fn measure(session: &Session<'_>, planned: &Planned, part: &Part<'_>) -> Result<Measured, Failure> {
    let index = session.index()?;
    let mut measured = Measured {
        duration_ms: 0,
        size_bytes: 0,
    };
    let bases = part
        .stages
        .iter()
        .filter_map(|stage| parts::base(planned, stage));
    for id in bases {
        for layer in session.layers_of(id) {
            let record = session.snapshot_record(&layer);
            measured.duration_ms += record.map_or(0, |record| record.duration_ms);
            let size = index.diff_id(&layer).map_err(store_failure)?;
            measured.size_bytes += size.map_or(0, |(_, size)| size);
        }
    }
    for id in &part.steps {
        if let Some((record, top)) = session.result_of(*id) {
            measured.duration_ms += record.duration_ms;
            let size = index.diff_id(&top).map_err(store_failure)?;
            measured.size_bytes += size.map_or(0, |(_, size)| size);
        }
    }
    Ok(measured)
}

fn measured_name(key: &Key) -> String {
    format!("phase {key}")
}
