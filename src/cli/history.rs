//! `history`: past builds.

use std::path::Path;

use super::args::Format;
use super::args::history::{
    ForgetArguments, HistoryCommand, InspectBuildArguments, ListHistoryArguments,
};
use super::exit::Exit;
use super::render::{age, seconds};
use super::report::Stop;
use super::request::print;
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::phases::StepReport;
use crate::image::{Name, Timestamp};
use crate::store::{BuildEnd, BuildRecord, History, StoreError};

/// Carries out a command of `history`.
pub(super) fn run(command: &HistoryCommand, store: &Path) -> Result<Exit, Stop> {
    let history = History::of(store);
    let all = match store.exists() {
        true => history.all().map_err(of_store)?,
        false => Vec::new(),
    };
    match command {
        HistoryCommand::Ls(arguments) => list(arguments, &all),
        HistoryCommand::Inspect(arguments) => {
            let record = find(&all, arguments.id.as_deref())?;
            match arguments.format {
                Format::Json => {
                    let shown = serde_json::to_value(record).unwrap_or_default();
                    print(&format!("{shown:#}\n"));
                }
                Format::Text => print(&told(record)),
            }
        }
        HistoryCommand::Logs(arguments) => {
            let record = find(&all, arguments.id.as_deref())?;
            match history.log(&record.id).map_err(of_store)? {
                Some(log) => print(&log.replace(is_unprintable, "\u{fffd}")),
                None if record.steps_run == 0 => {
                    return Err(nothing(record, "no step of it was run: all were cached"));
                }
                None => return Err(nothing(record, "its log is not kept any more")),
            }
        }
        HistoryCommand::Why(arguments) => why(arguments, &all)?,
        HistoryCommand::Rm(arguments) => forget(arguments, &history, &all)?,
    }
    Ok(Exit::Done)
}

/// Builds print what they like; a terminal is not to obey it.
fn is_unprintable(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

fn list(arguments: &ListHistoryArguments, all: &[BuildRecord]) {
    if arguments.quiet {
        all.iter()
            .for_each(|record| print(&format!("{}\n", record.id)));
        return;
    }
    if arguments.format == Format::Json {
        let shown = serde_json::to_value(all).unwrap_or_default();
        return print(&format!("{shown:#}\n"));
    }
    let now_ms = Clock::system().now().as_millis() as u64;
    let mut text = format!(
        "{:12}  {:9}  {:>7}  {:>8}  {:>11}  WHAT\n",
        "ID", "STATUS", "STEPS", "TOOK", "WHEN"
    );
    for record in all {
        let steps = format!(
            "{}/{}",
            record.steps_run,
            record.steps_run + record.steps_cached
        );
        let when = format!(
            "{} ago",
            age(now_ms.saturating_sub(record.started_ms) / 1000)
        );
        text.push_str(&format!(
            "{:12}  {:9}  {steps:>7}  {:>8}  {when:>11}  {}\n",
            record.id,
            status(record),
            seconds(record.duration_ms),
            what(record)
        ));
    }
    print(&text);
}

/// What a person knows the build by.
fn what(record: &BuildRecord) -> String {
    let target = record
        .target
        .as_deref()
        .map(|target| format!(" --target {target}"));
    let names: Vec<&str> = record
        .names
        .iter()
        .map(|name| Name::familiar(name))
        .collect();
    let names = match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    };
    format!("{}{}{names}", record.project, target.unwrap_or_default())
}

fn status(record: &BuildRecord) -> &'static str {
    match record.status {
        BuildEnd::Ok => "ok",
        BuildEnd::Failed => "failed",
        BuildEnd::Cancelled => "cancelled",
        BuildEnd::Killed => "killed",
        BuildEnd::Running => "running",
    }
}

fn told(record: &BuildRecord) -> String {
    let started = Timestamp::from_seconds((record.started_ms / 1000) as i64);
    let mut text = format!(
        "Id:       {}\nWhat:     {}\nStatus:   {}\nStarted:  {started}\nTook:     {}\nSteps:    {} run, {} cached\n",
        record.id,
        what(record),
        status(record),
        seconds(record.duration_ms),
        record.steps_run,
        record.steps_cached,
    );
    if let Some(digest) = &record.digest {
        text.push_str(&format!("Digest:   {digest}\n"));
    }
    for error in &record.errors {
        text.push_str(&format!("Error:    {error}\n"));
    }
    for step in &record.ran {
        let end = if step.failed {
            "failed".to_owned()
        } else {
            seconds(step.duration_ms)
        };
        text.push_str(&format!("  {end:>8}  [{}] {}\n", step.stage, step.name));
    }
    if record.has_log {
        text.push_str(&format!(
            "`shmocker history logs {}` prints its log\n",
            record.id
        ));
    }
    text
}

/// Why the steps of a build were run.
fn why(arguments: &InspectBuildArguments, all: &[BuildRecord]) -> Result<(), Stop> {
    let record = find(all, arguments.id.as_deref())?;
    if arguments.format == Format::Json {
        let shown = serde_json::json!({
            "id": record.id,
            "steps_run": record.steps_run,
            "steps": record.reasons,
        });
        print(&format!("{shown:#}\n"));
        return Ok(());
    }
    // What another version of shmocker wrote is left out.
    let reports: Vec<StepReport> = record
        .reasons
        .iter()
        .filter_map(|reason| serde_json::from_value(reason.clone()).ok())
        .collect();
    print(&match (reports.is_empty(), record.status) {
        (false, _) => super::why::listed(&reports),
        (true, BuildEnd::Killed | BuildEnd::Running) => {
            "why its steps were run is known of builds that have come to an end\n".to_owned()
        }
        (true, _) => "no step of it was run\n".to_owned(),
    });
    Ok(())
}

fn find<'a>(all: &'a [BuildRecord], given: Option<&str>) -> Result<&'a BuildRecord, Stop> {
    let Some(given) = given else {
        return all
            .first()
            .ok_or_else(|| unknown("no build is remembered".to_owned()));
    };
    let mut found = all.iter().filter(|record| record.id.starts_with(given));
    match (found.next(), found.next()) {
        (Some(record), None) => Ok(record),
        (Some(_), Some(_)) => Err(unknown(format!(
            "several builds have an id that begins with `{given}`"
        ))),
        (None, _) => Err(unknown(format!(
            "no build with the id `{given}` is remembered"
        ))),
    }
}

fn forget(arguments: &ForgetArguments, history: &History, all: &[BuildRecord]) -> Result<(), Stop> {
    let mut gone = Vec::new();
    for given in &arguments.builds {
        gone.push(find(all, Some(given))?.id.clone());
    }
    let is_kept = |record: &BuildRecord| !arguments.all && !gone.contains(&record.id);
    history.keep(is_kept).map_err(of_store)
}

fn unknown(message: String) -> Stop {
    Failure::new(FailureKind::Input, "history::unknown", message)
        .with_help("`shmocker history ls` lists the builds that are remembered")
        .into()
}

fn nothing(record: &BuildRecord, why: &str) -> Stop {
    let message = format!("there is no log of the build {}: {why}", record.id);
    Failure::new(FailureKind::Input, "history::no_log", message).into()
}

fn of_store(error: StoreError) -> Stop {
    Failure::from_diagnostic(FailureKind::Machine, &error).into()
}
