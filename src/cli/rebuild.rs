//! `rebuild --check`: whether an image becomes the same again.

use std::path::Path;

use super::args::{Format, RebuildArguments};
use super::environment::Environment;
use super::exit::Exit;
use super::registry::draft;
use super::render::one_line;
use super::report::Stop;
use super::request::{print, say};
use super::why;
use crate::backend::embedded::{Difference, Embedded, Rebuilt};

pub(super) fn run(
    arguments: RebuildArguments,
    store: &Path,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let draft = draft(arguments.reach, arguments.watch, environment)?;
    let events = draft.events(environment);
    let rebuilt = Embedded.rebuild(&arguments.image, store, &draft.work, events.as_ref())?;
    let exit = match (rebuilt.same, rebuilt.inputs.is_empty()) {
        (true, _) => Exit::Done,
        (false, true) => Exit::Step,
        (false, false) => Exit::Input,
    };
    match arguments.format {
        Format::Json => {
            let shown = serde_json::to_value(&rebuilt).unwrap_or_default();
            print(&format!("{shown:#}\n"));
        }
        Format::Text => tell(&rebuilt),
    }
    Ok(exit)
}

fn tell(found: &Rebuilt) {
    let recorded = found.recorded;
    match (&found.rebuilt, &found.difference) {
        (None, _) => {
            print(&why::listed(&found.inputs));
            say(&format!(
                "nothing was built: what {recorded} was made from is not what it was\n"
            ));
        }
        (Some(_), None) => print(&format!("the same: {recorded}\n")),
        (Some(rebuilt), Some(difference)) => {
            print(&format!(
                "it was:  {recorded}\nit is:   {rebuilt}\n{}",
                told(difference)
            ));
        }
    }
}

fn told(difference: &Difference) -> String {
    let mut text = match difference.layer {
        Some(layer) => format!("layer {layer} of {}", difference.layers),
        None => "the layers are the same; the configuration is not".to_owned(),
    };
    if let Some(instruction) = &difference.instruction {
        text.push_str(&format!(": {}", one_line(instruction, 80)));
    }
    text.push('\n');
    if let Some(path) = &difference.path {
        text.push_str(&format!("  {}\n", one_line(path, 200)));
    }
    for what in &difference.what {
        text.push_str(&format!("    {}\n", one_line(what, 200)));
    }
    // Names in layers are what they like to be; a terminal is not to obey them.
    let is_unprintable = |letter: char| letter.is_control() && letter != '\n';
    text.replace(is_unprintable, "\u{fffd}")
}
