//! The parts of a build that are compared with what they were: the phases of a habitat, else the stages of a Dockerfile.
//!
//! What a part is made from is what the solver decides by: the own fields of its steps, what its sources were resolved
//! to, and what it adds to the image's configuration. Beside that stand the values that a person wrote, by their names:
//! they decide nothing, but a change is told by them.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use super::plan::Planned;
use super::solve::look::CONTENT_OF;
use super::solve::{Session, shown, store_failure};
use super::work::{Named, PhaseStages, Place};
use crate::digest::{Fields, Key, without_passwords};
use crate::frontend::Stage;
use crate::graph::{ImageSource, NodeId, Op, Source};
use crate::image::ImageConfig;
use crate::store::PartRecord;

/// A value is remembered in full up to so many bytes.
const VALUE_BYTES_MAX: usize = 4096;

/// Who runs the next steps, where and by which shell: that is a part of those steps. What the image says of it is settled
/// by the last phase, whatever was said before.
const PASSING: &[&str] = &["User", "WorkingDir", "Shell"];

/// One part of a build.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The phase's name, or the stage's.
    pub(super) name: &'a str,
    /// The phase, if it is one.
    pub(super) phase: Option<&'a PhaseStages>,
    /// Its stages, as far as the target needs them.
    pub(super) stages: Vec<&'a Stage>,
    /// Its steps, in the order of [`Makings::steps`].
    pub(super) steps: Vec<NodeId>,
    /// Its sources, in the order of [`Makings::sources`].
    pub(super) sources: Vec<NodeId>,
    /// What it is made from.
    pub(super) makings: Makings,
    /// Names it: over all that it is made from, and over the part before it.
    pub(super) key: Key,
}

/// What a part is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Makings {
    /// What it takes from outside.
    pub(super) sources: Vec<SourceMakings>,
    /// What it adds to the image's configuration.
    pub(super) config: Fields,
    /// What it does.
    pub(super) steps: Vec<StepMakings>,
    /// The values that a person wrote for it.
    pub(super) fields: Fields,
    /// Those that may matter to it.
    pub(super) unclaimed: Fields,
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceMakings {
    /// What a person calls it: the key of the habitat that asks for it, or its context, or its address.
    pub(super) name: String,
    /// Of everything that is asked for: it may hold a password.
    pub(super) asked: Key,
    /// What it was resolved to, as far as that is known.
    pub(super) own: Option<Fields>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepMakings {
    /// The first line of the instruction.
    pub(super) name: String,
    /// All that it depends on apart from other steps.
    pub(super) own: Fields,
}

/// The parts of a build, in order.
pub(super) fn parts<'a>(session: &'a Session<'_>, planned: &'a Planned) -> Vec<Part<'a>> {
    let stages = &planned.lowered.stages;
    if session.work.phases.is_empty() {
        let of_stage = |stage: &'a Stage| part(session, planned, &stage.name, None, vec![stage]);
        return stages.iter().map(of_stage).collect();
    }
    let mut before = String::new();
    let phases = session.work.phases.iter();
    phases
        .map(|phase| {
            let belongs = |stage: &&Stage| {
                let name = stage.name.split('/').next().unwrap_or(&stage.name);
                let mut names = phase.stages.iter();
                names.any(|known| known.eq_ignore_ascii_case(name))
            };
            let apart = |stage: &&Stage| is_apart(planned, stage);
            let own = stages
                .iter()
                .filter(|stage| belongs(stage) && !apart(stage));
            let own: Vec<&Stage> = own.collect();
            // What stands apart belongs to all that take from it, wherever the first of them is.
            let used: HashSet<NodeId> = own
                .iter()
                .flat_map(|stage| &stage.nodes)
                .flat_map(|id| planned.lowered.graph.node(*id).op.inputs())
                .collect();
            let mut taken: Vec<&Stage> = stages
                .iter()
                .filter(|stage| apart(stage) && used.contains(&stage.result))
                .collect();
            // Their order in the file is no part of what any of them is.
            taken.sort_by(|one, another| one.name.cmp(&another.name));
            let stages = taken.into_iter().chain(own).collect();
            let mut part = part(session, planned, &phase.name, Some(phase), stages);
            let mut fields = part.makings.keyed();
            fields.put("phase", phase.name.clone());
            fields.put("before", std::mem::take(&mut before));
            part.key = fields.key();
            before = part.key.to_string();
            part
        })
        .collect()
}

/// Whether a stage begins with nothing, and is only taken from: a tool, a service.
fn is_apart(planned: &Planned, stage: &Stage) -> bool {
    let first = stage.nodes.first();
    let root = first.and_then(|id| planned.lowered.graph.node(*id).op.inputs().first().copied());
    stage.parent.is_none()
        && root.is_some_and(|root| planned.lowered.graph.node(root).op == Op::Scratch)
}

fn part<'a>(
    session: &'a Session<'_>,
    planned: &'a Planned,
    name: &'a str,
    phase: Option<&'a PhaseStages>,
    stages: Vec<&'a Stage>,
) -> Part<'a> {
    let mut part = Part {
        name,
        phase,
        stages,
        steps: Vec::new(),
        sources: Vec::new(),
        makings: Makings::default(),
        key: Key::of(b""),
    };
    let is_last = |phase: &PhaseStages| {
        let last = session.work.phases.last();
        last.is_some_and(|last| last.name == phase.name)
    };
    let passing = phase.is_some_and(|phase| !is_last(phase));
    for stage in &part.stages {
        for (name, value) in added(planned, stage) {
            if phase.is_none() || !PASSING.contains(&name.as_str()) {
                part.makings.config.put(name, bounded(&value));
            }
        }
        for id in base_and_steps(planned, stage) {
            let node = planned.lowered.graph.node(id);
            match (&node.op, &node.step) {
                (_, Some(origin)) => {
                    part.steps.push(id);
                    part.makings.steps.push(StepMakings {
                        name: bounded(&without_passwords(
                            origin.name.lines().next().unwrap_or_default(),
                        )),
                        own: session.own(id).unwrap_or_else(|| node.op.fields()),
                    });
                }
                (Op::Source(source), None) => {
                    part.sources.push(id);
                    part.makings.sources.push(SourceMakings {
                        name: source_name(session, source),
                        asked: node.op.fields().key(),
                        own: session.own(id),
                    });
                }
                _ => {}
            }
        }
    }
    if let (Some(stage), false) = (part.stages.last(), passing) {
        let mut said = told(&stage.config);
        said.retain(|name, _| phase.is_some() && PASSING.contains(&name.as_str()));
        for (name, value) in said {
            part.makings.config.put(name, bounded(&value));
        }
    }
    if let Some(phase) = phase {
        part.makings.fields = named(&phase.fields);
        part.makings.unclaimed = named(&phase.unclaimed);
    }
    part.key = part.makings.keyed().key();
    part
}

fn named(values: &[Named]) -> Fields {
    let mut fields = Fields::new();
    for value in values {
        fields.put(value.name.clone(), bounded(&value.value));
    }
    fields
}

/// A value that is worth remembering in full, or its beginning and its digest.
fn bounded(value: &str) -> String {
    if value.len() <= VALUE_BYTES_MAX {
        return value.to_owned();
    }
    let beginning: String = value.chars().take(200).collect();
    let digest = Key::of(value.as_bytes()).short();
    format!("{beginning}… ({} bytes, {digest})", value.len())
}

/// What a person calls a source.
fn source_name(session: &Session<'_>, source: &Source) -> String {
    let context = session
        .work
        .contexts
        .iter()
        .find(|(name, place)| match (place, source) {
            (Place::Source(known), source) => known == source,
            (_, Source::Local { name: local }) => name == local,
            _ => false,
        });
    let known = match (context, source) {
        (Some((name, _)), _) | (None, Source::Image(ImageSource { name, .. })) => Some(name),
        _ => None,
    };
    let keys = &session.work.source_keys;
    keys.iter()
        .find(|(name, _)| Some(name) == known)
        .map(|(_, key)| key.clone())
        .or_else(|| context.map(|(name, _)| name.clone()))
        .unwrap_or_else(|| shown(source))
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
    if stage.nodes.is_empty() && stage.parent.is_none() {
        put_sources(&mut nodes, &[stage.result]);
    }
    for (at, id) in stage.nodes.iter().enumerate() {
        let inputs = graph.node(*id).op.inputs();
        // What a stage before this one starts from is its own.
        let first = usize::from(at == 0 && stage.parent.is_some()).min(inputs.len());
        put_sources(&mut nodes, &inputs[first..]);
        nodes.push(*id);
    }
    nodes
}

/// The source that a stage starts from, if it starts from one itself.
pub(super) fn base(planned: &Planned, stage: &Stage) -> Option<NodeId> {
    if stage.parent.is_some() {
        return None;
    }
    let graph = &planned.lowered.graph;
    let start = match stage.nodes.first() {
        Some(first) => *graph.node(*first).op.inputs().first()?,
        None => stage.result,
    };
    matches!(graph.node(start).op, Op::Source(_)).then_some(start)
}

/// What a stage adds to the configuration that it starts with.
fn added(planned: &Planned, stage: &Stage) -> BTreeMap<String, String> {
    let stages = &planned.lowered.stages;
    let parent = stage
        .parent
        .and_then(|parent| stages.iter().find(|stage| stage.index == parent))
        .map(|parent| &parent.config);
    let image = || match &planned.lowered.graph.node(base(planned, stage)?).op {
        Op::Source(source) => planned.images.get(source).map(|image| &image.config),
        _ => None,
    };
    let before = parent.or_else(image).map(told).unwrap_or_default();
    let mut added = told(&stage.config);
    for name in before.keys() {
        added.entry(name.clone()).or_default();
    }
    added.retain(|name, value| before.get(name) != Some(value));
    added
}

/// What an image's configuration says, by name.
fn told(config: &ImageConfig) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    for entry in &config.config.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        told.insert(format!("env {name}"), value.to_owned());
    }
    let names = config.config.env.iter();
    let names: Vec<&str> = names.filter_map(|entry| entry.split('=').next()).collect();
    told.insert("env order".to_owned(), names.join(" "));
    for (name, value) in config.config.labels.iter().flatten() {
        told.insert(format!("label {name}"), value.clone());
    }
    if let Ok(serde_json::Value::Object(rest)) = serde_json::to_value(&config.config) {
        for (name, value) in rest {
            if name != "Env" && name != "Labels" {
                told.insert(name, value.to_string());
            }
        }
    }
    told
}

impl Makings {
    /// What decides, without what it is told by.
    fn keyed(&self) -> Fields {
        let mut fields = Fields::new();
        for source in &self.sources {
            let own = source.own.as_ref().map_or(source.asked, Fields::key);
            fields.put("source", own.to_string());
        }
        fields.put("config", self.config.key().to_string());
        for step in &self.steps {
            fields.put("step", step.own.key().to_string());
        }
        fields
    }

    /// The digests of files of this machine that it holds.
    pub(super) fn content_digests(&self) -> Vec<Key> {
        let fields = self.steps.iter().flat_map(|step| step.own.iter());
        fields
            .filter(|(name, _)| name.starts_with(CONTENT_OF))
            .filter_map(|(_, digest)| digest.parse().ok())
            .collect()
    }
}

impl Part<'_> {
    /// The name under which the store remembers it.
    pub(super) fn slot(&self, session: &Session<'_>) -> String {
        let kind = if self.phase.is_some() {
            "phase"
        } else {
            "stage"
        };
        format!("{}\n{kind} {}", session.work.project, self.name)
    }

    /// What it was when it was last built.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn was(&self, session: &Session<'_>) -> Result<Option<Makings>, Failure> {
        let record = session
            .index()?
            .part(&self.slot(session))
            .map_err(store_failure)?;
        // What another version of shmocker wrote says nothing to this one.
        Ok(record.and_then(|record| serde_json::from_str(&record.makings).ok()))
    }

    /// Remembers what it is now, if it was something else.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub(super) fn remember(
        &self,
        session: &Session<'_>,
        planned: &Planned,
        now_ms: u64,
    ) -> Result<(), Failure> {
        let index = session.index()?;
        let slot = self.slot(session);
        let makings = serde_json::to_string(&self.makings).unwrap_or_default();
        let key = Key::of(makings.as_bytes());
        if index.part_key(&slot).map_err(store_failure)? == Some(key) {
            return Ok(());
        }
        let digests = self.makings.content_digests();
        let known = index.listed(&slot).map_err(store_failure)?;
        let mut listings = Vec::new();
        if digests.iter().any(|digest| !known.contains(digest)) {
            for id in &self.steps {
                let listed = session.listed(planned, *id)?;
                listings.extend(
                    listed
                        .into_iter()
                        .filter(|listed| digests.contains(&listed.digest))
                        .filter(|listed| !known.contains(&listed.digest))
                        .map(|listed| (listed.digest, listed.files)),
                );
            }
        }
        let record = PartRecord {
            key,
            makings,
            built_ms: now_ms,
        };
        index
            .put_part(&slot, &record, &listings, &digests)
            .map_err(store_failure)
    }
}
