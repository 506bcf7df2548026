//! `habitat why`: which phases would be built again, and why. Builds none of them.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::args::Format;
use super::super::args::habitat::{HabitatFile, WhyArguments};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::print;
use super::super::why::{Depth, told};
use super::{Ready, steering};
use crate::backend::embedded::Embedded;
use crate::engine::phases::{PhaseReport, would_build};
use crate::habitat::PhaseId;

pub(super) fn run(
    mut arguments: WhyArguments,
    store: &Path,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let phase = operands(&mut arguments.look.habitat, arguments.phase.take());
    let phase = phase
        .map(|phase| steering::phase(&phase, "PHASE"))
        .transpose()?;
    let (ready, work) = Ready::looked_at(&arguments.look, environment)?;
    let mut phases = Embedded
        .phases(&work, store)
        .map_err(|failures| ready.with_texts(Stop::from(failures)))?;
    if let Some(phase) = phase {
        phases.retain(|report| report.name == phase.name());
    }
    let would_rebuild = phases.iter().any(|phase| would_build(phase.state));
    match arguments.look.format {
        Format::Json => {
            let list: Vec<serde_json::Value> = phases.iter().map(as_json).collect();
            let answer = json!({ "would_rebuild": would_rebuild, "phases": list });
            print(&format!("{answer:#}\n"));
        }
        Format::Text => print(&listed(&phases, phase)),
    }
    Ok(if would_rebuild {
        Exit::WouldBuild
    } else {
        Exit::Done
    })
}

fn as_json(phase: &PhaseReport) -> serde_json::Value {
    json!({ "id": phase.id, "name": phase.name, "state": phase.state, "causes": phase.causes })
}

fn listed(phases: &[PhaseReport], one: Option<PhaseId>) -> String {
    let depth = if one.is_some() {
        Depth::Whole
    } else {
        Depth::Names
    };
    let mut text = String::new();
    for phase in phases.iter().filter(|phase| would_build(phase.state)) {
        let head = format!("{:<8} {:<7}", phase.name, phase.state.to_uppercase());
        text.push_str(&told(&head, phase.state, &phase.causes, depth));
    }
    if text.is_empty() {
        text = match (one, phases) {
            (Some(_), [phase]) => {
                format!("{} is {}: it would not be built\n", phase.name, phase.state)
            }
            _ => "nothing would be built\n".to_owned(),
        };
    }
    text
}

/// Which of two operands is the habitat and which the phase, whichever way they stand. What names a file is the habitat.
pub(super) fn operands(habitat: &mut HabitatFile, second: Option<String>) -> Option<String> {
    let is_habitat = |path: &Path| path.is_file() || path.join("config.yaml").is_file();
    let looks_like_phase =
        |path: &Path| path.components().count() == 1 && path.extension().is_none();
    let here = || PathBuf::from(".");
    match second {
        None if is_habitat(&habitat.file) || !looks_like_phase(&habitat.file) => None,
        None => {
            let phase = std::mem::replace(&mut habitat.file, here());
            Some(phase.display().to_string())
        }
        Some(second) if !is_habitat(&habitat.file) && is_habitat(Path::new(&second)) => {
            let phase = std::mem::replace(&mut habitat.file, second.into());
            Some(phase.display().to_string())
        }
        second => second,
    }
}
