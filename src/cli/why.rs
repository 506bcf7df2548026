//! `shmocker why`: which steps of a Dockerfile would run again, and why. Runs none of them.

use std::path::Path;

use serde_json::json;

use super::args::{Format, WhyArguments};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request::{Draft, print};
use super::{build, render};
use crate::backend::embedded::Embedded;
use crate::engine::causes::Cause;
use crate::engine::phases::{StepReport, would_build};
use crate::engine::work::Freshness;

pub(super) fn run(
    arguments: WhyArguments,
    store: &Path,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let mut draft = Draft::plain(environment)?;
    let WhyArguments {
        dockerfile,
        format,
        pull,
        steps,
    } = arguments;
    build::fill(&mut draft.work, dockerfile, steps, store, environment)?;
    if pull {
        draft.work.freshness = Freshness::Now;
    }
    let text = draft.work.dockerfile.clone();
    let events = draft.events(environment);
    let steps = Embedded
        .steps(&draft.work, store, events.as_ref())
        .map_err(|failures| Stop::from(failures).with_text(&text.file, &text.text))?;
    let would_rebuild = steps.iter().any(|step| would_build(step.state));
    match format {
        Format::Json => print(&format!(
            "{:#}\n",
            json!({ "would_rebuild": would_rebuild, "steps": steps })
        )),
        Format::Text => print(&listed(&steps)),
    }
    Ok(if would_rebuild {
        Exit::WouldBuild
    } else {
        Exit::Done
    })
}

pub(super) fn listed(steps: &[StepReport]) -> String {
    let mut text = String::new();
    for step in steps.iter().filter(|step| would_build(step.state)) {
        let place = format!("{}:{}", step.file, step.line);
        let name = render::one_line(&step.name, 60);
        let head = format!("{place} [{}] {name}", step.stage);
        text.push_str(&head);
        text.push('\n');
        let state = step.state.to_uppercase();
        text.push_str(&told(
            &format!("    {state}"),
            step.state,
            &step.causes,
            Depth::Whole,
        ));
    }
    if text.is_empty() {
        text.push_str("nothing would run again\n");
    }
    text
}

/// How much of what something stands on is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Only what it is.
    Names,
    /// And why that would be built.
    Whole,
}

/// A head and its causes, each in a line of its own that begins with `<-`.
pub(super) fn told(head: &str, state: &str, causes: &[Cause], depth: Depth) -> String {
    let mut text = String::new();
    let indent = " ".repeat(head.chars().count());
    if causes.is_empty() {
        let why = match state {
            "new" => " <- never built",
            "forced" => " <- asked for",
            "stale" => " <- what it stands on is not there any more",
            _ => "",
        };
        return format!("{head}{why}\n");
    }
    for (index, cause) in causes.iter().enumerate() {
        let head = if index == 0 { head } else { &indent };
        let place = match (&cause.file, cause.line, cause.kind) {
            (Some(file), Some(line), "value" | "item" | "order") => format!("  ({file}:{line})"),
            _ => String::new(),
        };
        let line = format!("{head} <- {cause}{place}");
        text.push_str(&line);
        text.push('\n');
        let stands_on = matches!(cause.kind, "phase" | "step");
        if !(cause.causes.is_empty() || stands_on && depth == Depth::Names) {
            let deeper = " ".repeat(indent.len() + 3);
            text.push_str(&told(&deeper, "", &cause.causes, depth));
        }
    }
    text
}
