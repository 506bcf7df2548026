//! `habitat migrate`: a habitat of an older program in today's spelling.

use serde_json::json;

use super::super::args::Format;
use super::super::args::habitat::MigrateArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::found::Found;
use super::super::report::Stop;
use super::super::request::{print, say};
use super::config::in_directory;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan;
use crate::habitat;

pub(super) fn run(arguments: &MigrateArguments, environment: &Environment) -> Result<Exit, Stop> {
    let file = in_directory(&arguments.file);
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let message = format!("the habitat `{shown}` cannot be read");
        Failure::caused(FailureKind::Input, "cli::habitat", message, &error)
            .with_help("name a config.yaml, or the directory that it is in")
    })?;
    let failures = |problems: &[crate::dockerfile::Problem]| -> Stop {
        let failures: Vec<Failure> = problems
            .iter()
            .map(|problem| plan::failure(&shown, problem))
            .collect();
        Stop::from(failures).with_text(&shown, &text)
    };
    let migration = habitat::migrate(&text).map_err(|problems| failures(&problems))?;
    if arguments.format == Format::Json {
        let changes: Vec<_> = migration
            .changes
            .iter()
            .map(|(line, change)| json!({ "line": line, "change": change }))
            .collect();
        let unmapped: Vec<Found<'_>> = migration
            .unmapped
            .iter()
            .map(|problem| Found::of(&shown, &text, problem))
            .collect();
        let said = json!({ "text": migration.text, "changes": changes, "unmapped": unmapped });
        print(&format!("{said:#}\n"));
        return Ok(Exit::Done);
    }
    let mut said: String = migration
        .changes
        .iter()
        .map(|(line, change)| format!("{shown}:{line}: {change}\n"))
        .collect();
    if migration.changes.is_empty() && migration.unmapped.is_empty() {
        said = format!("{shown}: nothing to rewrite\n");
    }
    say(&said);
    if !migration.unmapped.is_empty() {
        failures(&migration.unmapped).tell(environment);
    }
    if arguments.stdout {
        print(&migration.text);
    } else if migration.text != text {
        std::fs::write(&file, &migration.text).map_err(|error| {
            let message = format!("the habitat `{shown}` cannot be written");
            Failure::caused(FailureKind::Machine, "cli::write", message, &error)
        })?;
    }
    Ok(Exit::Done)
}
