//! `habitat phases`: what a build would do, and why. Builds nothing, and asks nothing.

use std::path::{Path, PathBuf};

use super::super::args::{Format, HabitatPhasesArguments};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::render::{seconds, size};
use super::super::report::Stop;
use super::super::request::{Draft, print};
use super::Ready;
use crate::backend::embedded::Embedded;
use crate::engine::phases::PhaseReport;
use crate::engine::work::{Freshness, Work};
use crate::habitat::Purpose;

pub(super) fn run(
    arguments: &HabitatPhasesArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
    let mut work = Draft::plain(environment)?.work;
    ready.fill(&mut work, environment)?;
    if arguments.pull {
        work.freshness = Freshness::Now;
    }
    show(&work, &store, arguments.format).map_err(|stop| ready.with_texts(stop))
}

/// Prints the phases of a build.
pub(super) fn show(work: &Work, store: &Path, format: Format) -> Result<Exit, Stop> {
    let phases = Embedded.phases(work, store).map_err(Stop::from)?;
    match format {
        Format::Json => print(&format!(
            "{:#}\n",
            serde_json::to_value(&phases).unwrap_or_default()
        )),
        Format::Text => print(&table(&phases)),
    }
    Ok(Exit::Done)
}

fn table(phases: &[PhaseReport]) -> String {
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
    }
    text
}
