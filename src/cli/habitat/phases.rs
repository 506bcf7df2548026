//! `habitat phases`: what a build would do, and why. Builds nothing, and asks nothing.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::args::Format;
use super::super::args::habitat::PhasesArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::render::{seconds, size};
use super::super::report::Stop;
use super::super::request::print;
use super::Ready;
use crate::backend::embedded::Embedded;
use crate::engine::phases::PhaseReport;
use crate::engine::work::{Item, Work};

pub(super) fn run(
    arguments: &PhasesArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let (ready, work) = Ready::looked_at(&arguments.look, environment)?;
    let how = How::of(arguments.verbose);
    show(&work, &store, arguments.look.format, how).map_err(|stop| ready.with_texts(stop))
}

/// How much is told of each phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// One line.
    Briefly,
    /// Its items, its causes, and what would be asked for.
    InFull,
}

impl How {
    /// As `--verbose` says.
    pub(super) fn of(verbose: bool) -> Self {
        if verbose { Self::InFull } else { Self::Briefly }
    }
}

/// Prints the phases of a build.
pub(super) fn show(work: &Work, store: &Path, format: Format, how: How) -> Result<Exit, Stop> {
    let phases = Embedded.phases(work, store).map_err(Stop::from)?;
    match format {
        Format::Json => {
            let list: Vec<Value> = phases.iter().map(|phase| as_json(phase, how)).collect();
            print(&format!("{:#}\n", Value::from(list)));
        }
        Format::Text => print(&table(&phases, how)),
    }
    Ok(Exit::Done)
}

fn as_json(phase: &PhaseReport, how: How) -> Value {
    let mut value = serde_json::to_value(phase).unwrap_or_default();
    if how == How::InFull {
        let item = |item: &Item| {
            let (file, line) = item.place.clone().unzip();
            json!({ "item": item.said, "layer": item.layer, "file": file, "line": line })
        };
        value["items"] = phase.items.iter().map(item).collect();
        value["causes"] = json!(phase.causes);
        value["asks"] = json!(phase.asks);
    }
    value
}

fn table(phases: &[PhaseReport], how: How) -> String {
    let mut text = format!(
        "{:>2}  {:<8} {:<8} {:<12} {:>8} {:>9}  {}\n",
        "", "phase", "state", "hash", "time", "size", "why"
    );
    for phase in phases {
        let time = phase.duration_ms.map(seconds).unwrap_or_default();
        let size = phase.size_bytes.map(size).unwrap_or_default();
        let line = format!(
            "{:>2}  {:<8} {:<8} {:<12} {time:>8} {size:>9}  {}",
            phase.id,
            phase.name,
            phase.state,
            phase.hash,
            phase.reason.as_deref().unwrap_or_default()
        );
        text.push_str(line.trim_end());
        text.push('\n');
        if how == How::InFull {
            text.push_str(&details(phase));
        }
    }
    text
}

/// What is done in a phase and where that is written, why it would be built, and what a build would ask for.
fn details(phase: &PhaseReport) -> String {
    let mut lines = Vec::new();
    for item in &phase.items {
        let place = match &item.place {
            Some((file, line)) => format!("{file}:{line}"),
            None => "-".to_owned(),
        };
        lines.push(format!("      {place:<24} {}", item.said));
    }
    lines.extend(phase.asks.iter().map(|ask| format!("      asks {ask}")));
    let more = phase.causes.iter().skip(1);
    lines.extend(more.map(|cause| format!("      <- {cause}")));
    lines.iter().map(|line| format!("{line}\n")).collect()
}
