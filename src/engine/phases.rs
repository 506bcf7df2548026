//! The phases of a habitat, seen from the graph: what each would do in a build, and the hash that names what it is.
//!
//! A phase's hash is over the hash of the phase before it and, for each of its stages, the stage's configuration (ENV,
//! USER and the like), what the sources it uses were resolved to, and the own fields of its steps: commands, owners, the
//! environment they see, the content of the files they read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::plan::Planned;
use super::solve::survey::{Seen, State, Survey};
use super::solve::{Session, store_failure};
use super::work::PhaseStages;
use crate::digest::{Fields, Key};
use crate::frontend::Stage;
use crate::graph::{NodeId, Op};
use crate::store::{Answer, SlotRecord};

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
}

/// How many hooks a phase has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hooks {
    /// Before it.
    pub before: u32,
    /// After it.
    pub after: u32,
}

/// What the last build of a phase took and gave.
#[derive(Debug, Serialize, Deserialize)]
struct Measured {
    duration_ms: u64,
    size_bytes: u64,
}

/// Own fields and hash of every phase, in order.
fn hashes<'a>(
    session: &'a Session<'_>,
    planned: &'a Planned,
) -> Vec<(&'a PhaseStages, Fields, Key)> {
    let mut before = String::new();
    let mut hashes = Vec::new();
    for phase in &session.work.phases {
        let mut own = Fields::new();
        for stage in stages(planned, phase) {
            own.put(format!("stage {}", stage.name), config_digest(stage));
            for id in base_and_steps(planned, stage) {
                let node = planned.lowered.graph.node(id);
                let name = node
                    .step
                    .as_ref()
                    .map_or("source", |origin| origin.name.as_str());
                let fields = session.own(id).unwrap_or_else(|| node.op.fields());
                own.put(name, fields.key().to_string());
            }
        }
        let mut fields = own.clone();
        fields.put("phase", phase.name.clone());
        fields.put("before", before);
        let key = fields.key();
        before = key.to_string();
        hashes.push((phase, own, key));
    }
    hashes
}

fn config_digest(stage: &Stage) -> String {
    Key::of(&serde_json::to_vec(&stage.config).unwrap_or_default()).to_string()
}

fn stages<'a>(planned: &'a Planned, phase: &'a PhaseStages) -> impl Iterator<Item = &'a Stage> {
    let belongs = |stage: &&Stage| {
        phase
            .stages
            .iter()
            .any(|name| name.eq_ignore_ascii_case(&stage.name))
    };
    planned.lowered.stages.iter().filter(belongs)
}

/// The steps of a stage, and the sources that they and the stage itself start from.
fn base_and_steps(planned: &Planned, stage: &Stage) -> Vec<NodeId> {
    let graph = &planned.lowered.graph;
    let mut nodes = Vec::new();
    let put_sources = |nodes: &mut Vec<NodeId>, ids: &[NodeId]| {
        for id in ids {
            if matches!(graph.node(*id).op, Op::Source(_)) && !nodes.contains(id) {
                nodes.push(*id);
            }
        }
    };
    if stage.nodes.is_empty() {
        put_sources(&mut nodes, &[stage.result]);
    }
    for id in &stage.nodes {
        put_sources(&mut nodes, &graph.node(*id).op.inputs());
        nodes.push(*id);
    }
    nodes
}

/// The source that a stage starts from, if it starts from one.
fn base(planned: &Planned, stage: &Stage) -> Option<NodeId> {
    let graph = &planned.lowered.graph;
    let start = match stage.nodes.first() {
        Some(first) => *graph.node(*first).op.inputs().first()?,
        None => stage.result,
    };
    matches!(graph.node(start).op, Op::Source(_)).then_some(start)
}

/// The labels that say what an image is made of. A phase that the target does not need has none.
#[must_use]
pub fn labels(session: &Session<'_>, planned: &Planned) -> BTreeMap<String, String> {
    hashes(session, planned)
        .into_iter()
        .filter(|(phase, _, _)| stages(planned, phase).next().is_some())
        .map(|(phase, _, key)| {
            (
                format!("io.shmocker.habitat.phase.{}", phase.name),
                key.short(),
            )
        })
        .collect()
}

/// What a build would do, phase by phase.
///
/// # Errors
/// If the store cannot be read.
pub fn report(
    session: &Session<'_>,
    planned: &Planned,
    survey: &Survey,
) -> Result<Vec<PhaseReport>, Failure> {
    let index = session.index()?;
    let mut all_before_cached = true;
    let mut reports = Vec::new();
    for (phase, own, key) in hashes(session, planned) {
        let seen: Vec<&Seen> = stages(planned, phase)
            .flat_map(|stage| &stage.nodes)
            .filter_map(|id| survey.seen.get(id))
            .collect();
        let here = stages(planned, phase).next().is_some();
        let sources_here = stages(planned, phase)
            .flat_map(|stage| base_and_steps(planned, stage))
            .filter(|id| planned.lowered.graph.node(*id).step.is_none())
            .all(|id| survey.made.contains_key(&id));
        let slot = index.slot(&slot(session, phase)).map_err(store_failure)?;
        let forced = phase
            .stages
            .iter()
            .any(|stage| session.work.no_cache.forces(stage));
        let (state, reason) = if phase.empty {
            ("empty", None)
        } else if !here {
            ("skipped", None)
        } else if forced {
            ("forced", None)
        } else if let Some(reason) = seen.iter().find_map(|seen| changed(&seen.state)) {
            ("changed", Some(reason))
        } else {
            match slot {
                None => ("new", None),
                Some(_) if seen.iter().any(|seen| seen.state == State::New) => {
                    ("changed", Some("a step was added".to_owned()))
                }
                Some(slot) => match slot.fields.first_difference(&own) {
                    Some(difference) => (
                        "changed",
                        Some(format!("`{}` differs", first_line(difference.name))),
                    ),
                    None if !sources_here
                        || seen.iter().any(|seen| seen.state != State::Cached) =>
                    {
                        ("stale", None)
                    }
                    None if seen.is_empty() && !all_before_cached => ("stale", None),
                    None => ("cached", None),
                },
            }
        };
        all_before_cached &= matches!(state, "cached" | "empty");
        let answer = index.answer(&measured_name(&key)).map_err(store_failure)?;
        let measured =
            answer.and_then(|answer| serde_json::from_str::<Measured>(&answer.answer).ok());
        reports.push(PhaseReport {
            id: phase.id,
            name: phase.name.clone(),
            title: phase.title.clone(),
            stages: phase.stages.clone(),
            state,
            reason,
            hash: key.short(),
            hooks: Hooks {
                before: phase.hooks.0,
                after: phase.hooks.1,
            },
            duration_ms: measured.as_ref().map(|measured| measured.duration_ms),
            size_bytes: measured.as_ref().map(|measured| measured.size_bytes),
        });
    }
    Ok(reports)
}

fn changed(state: &State) -> Option<String> {
    match state {
        State::Changed(reason) => Some(reason.clone()),
        State::Cached | State::Forced | State::Stale | State::New => None,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Remembers what the phases are now that they have been built, for the next report.
///
/// # Errors
/// If the store cannot be written.
pub fn remember(session: &Session<'_>, planned: &Planned) -> Result<(), Failure> {
    let index = session.index()?;
    let now_ms = session.clock.now().as_millis() as u64;
    let mut slots = Vec::new();
    for (phase, own, key) in hashes(session, planned) {
        if stages(planned, phase).next().is_none() {
            continue;
        }
        let name = slot(session, phase);
        let known = index.slot(&name).map_err(store_failure)?;
        if known.is_some_and(|known| known.key == key) {
            continue;
        }
        let mut measured = Measured {
            duration_ms: 0,
            size_bytes: 0,
        };
        for id in stages(planned, phase).filter_map(|stage| base(planned, stage)) {
            for layer in session.layers_of(id) {
                let record = session
                    .store
                    .snapshot_record(&layer)
                    .map_err(store_failure)?;
                measured.duration_ms += record.duration_ms;
                let size = index.diff_id(&layer).map_err(store_failure)?;
                measured.size_bytes += size.map_or(0, |(_, size)| size);
            }
        }
        for id in stages(planned, phase).flat_map(|stage| &stage.nodes) {
            if let Some((record, top)) = session.result_of(*id) {
                measured.duration_ms += record.duration_ms;
                let size = index.diff_id(&top).map_err(store_failure)?;
                measured.size_bytes += size.map_or(0, |(_, size)| size);
            }
        }
        let answer = serde_json::to_string(&measured).unwrap_or_default();
        let answer = Answer {
            answer,
            asked_ms: now_ms,
        };
        index
            .put_answer(&measured_name(&key), &answer)
            .map_err(store_failure)?;
        let record = SlotRecord {
            key,
            fields: own,
            built_ms: now_ms,
            duration_ms: measured.duration_ms,
            size_bytes: Some(measured.size_bytes),
        };
        slots.push((name, record));
    }
    if slots.is_empty() {
        return Ok(());
    }
    index.put_slots(&slots).map_err(store_failure)
}

fn slot(session: &Session<'_>, phase: &PhaseStages) -> String {
    format!("{}\nphase {}", session.work.project, phase.name)
}

fn measured_name(key: &Key) -> String {
    format!("phase {key}")
}
