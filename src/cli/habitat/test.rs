//! `habitat test`: builds what the tests need, runs every one of them anew, and says what each found.

use std::path::PathBuf;

use super::super::args::habitat::{SteeringArguments, TestArguments};
use super::super::args::{Format, Progress};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::{self, print};
use super::Ready;
use super::verdicts::Verdicts;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{NoCache, OnFailure};
use crate::habitat::Purpose;
use crate::ship::export::Output;

pub(super) fn run(
    arguments: TestArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let filter = arguments.filter.clone();
    let ready = Ready::chosen(
        &arguments.habitat,
        Purpose::Build,
        &SteeringArguments::default(),
        filter.clone(),
        environment,
    )?;
    if ready.plan.tests.is_empty() {
        let (message, help) = match &filter {
            Some(filter) => (
                format!("no test has `{filter}` in its path"),
                "leave `--filter` out to run them all",
            ),
            None => (
                "the habitat has no tests".to_owned(),
                "list programs that print TAP under `tests`",
            ),
        };
        return Err(
            Failure::new(FailureKind::Input, "habitat::no_tests", message)
                .with_help(help)
                .into(),
        );
    }
    let mut means = arguments.means;
    means.watch.progress.get_or_insert(Progress::Quiet);
    let mut draft = ready.draft(means, environment)?;
    draft.work.target = Some("test".to_owned());
    draft.work.on_failure = OnFailure::GoOn;
    // A test may ask for what is not in any key: the time, the network.
    let stages = ready.plan.tests.iter().map(|test| test.stage.clone());
    draft.work.no_cache = NoCache::Stages(stages.collect());
    draft.outputs.push(Output::CacheOnly);
    let verdicts = Verdicts::default();
    let built = draft.carry_out(store, environment, &|event| verdicts.hear(event));
    let report = verdicts.of(&ready);
    match built {
        // Something else than a test went wrong: there is nothing to report.
        Err(stop) if !report.is_complete() => return Err(ready.with_texts(stop)),
        _ => {}
    }
    match arguments.format {
        Format::Text => print(&report.text()),
        Format::Json => print(&format!("{:#}\n", report.json())),
    }
    if let Some(path) = &arguments.junit {
        request::write_file(path, &report.junit())?;
    }
    Ok(if report.passed() {
        Exit::Done
    } else {
        Exit::Step
    })
}
