//! `habitat diff`: in what two habitats differ. Order counts only where it means something.

use std::path::Path;

use serde_json::{Value, json};

use super::super::args::Format;
use super::super::args::habitat::{DiffArguments, HabitatFile};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::print;
use super::{Ready, config::Config, steering};
use crate::digest::Fields;
use crate::digest::compare::{Change, ChangeKind, changes};
use crate::engine::causes::Cause;
use crate::habitat::{Field, Habitat, PhaseId, Purpose, UNORDERED, UnknownNames, is_remark};

pub(super) fn run(arguments: &DiffArguments, environment: &Environment) -> Result<Exit, Stop> {
    let phase = arguments.phase.as_deref();
    let phase = phase
        .map(|phase| steering::phase(phase, "--phase"))
        .transpose()?;
    let differs = if arguments.dockerfile {
        dockerfiles(arguments, phase, environment)?
    } else {
        values(arguments, phase, environment)?
    };
    Ok(if differs && arguments.exit_code {
        Exit::Input
    } else {
        Exit::Done
    })
}

fn file(arguments: &DiffArguments, path: &Path) -> HabitatFile {
    HabitatFile {
        file: path.to_owned(),
        templates: None,
        layers: arguments.layers.clone(),
        lenient: false,
        repos: Vec::new(),
    }
}

/// Compares two habitats by what they say.
fn values(
    arguments: &DiffArguments,
    phase: Option<PhaseId>,
    environment: &Environment,
) -> Result<bool, Stop> {
    let read = |path: &Path| -> Result<(Config, Vec<Field>), Stop> {
        let config = Config::read(&file(arguments, path), environment)?;
        let habitat = Habitat::of(&config.layers, UnknownNames::Leave)
            .map_err(|problems| config.stop(&problems))?;
        let fields = match phase {
            None => habitat.fields(),
            Some(phase) => habitat.fields_of(phase),
        };
        Ok((config, fields))
    };
    let (_, old) = read(&arguments.old)?;
    let (config, new) = read(&arguments.new)?;
    let named = |fields: &[Field]| {
        let mut named = Fields::new();
        for field in fields {
            named.put(field.name.clone(), field.value.clone());
        }
        named
    };
    let changes = changes(&named(&old), &named(&new), UNORDERED);
    let changes: Vec<Cause> = changes
        .into_iter()
        .map(|change| {
            let written = new.iter().find(|field| field.name == change.name);
            let span = written.and_then(|field| field.span);
            let place = span.map(|span| config.spot(span));
            told(change, place.map(|place| (place.file, place.line)))
        })
        .collect();
    match arguments.format {
        Format::Json => {
            let list: Vec<Value> = changes.iter().map(as_json).collect();
            print(&format!(
                "{:#}\n",
                json!({ "equal": changes.is_empty(), "changes": list })
            ));
        }
        Format::Text => {
            let lines = changes.iter().map(|change| format!("{change}\n"));
            print(&lines.collect::<String>());
        }
    }
    Ok(!changes.is_empty())
}

fn told(change: Change, place: Option<(String, u32)>) -> Cause {
    let (file, line) = place.unzip();
    Cause {
        field: change.name,
        kind: match change.kind {
            ChangeKind::Value => "value",
            ChangeKind::Item => "item",
            ChangeKind::Order => "order",
        },
        old: change.old,
        new: change.new,
        file,
        line,
        ..Cause::default()
    }
}

/// A change, and whether anything of a build depends on it.
fn as_json(change: &Cause) -> Value {
    let mut value = json!(change);
    value["remark"] = json!(is_remark(&change.field));
    value
}

/// Compares two habitats by the Dockerfiles that they stand for.
fn dockerfiles(
    arguments: &DiffArguments,
    phase: Option<PhaseId>,
    environment: &Environment,
) -> Result<bool, Stop> {
    let read = |path: &Path| -> Result<Vec<String>, Stop> {
        let ready = Ready::read(&file(arguments, path), Purpose::Render, environment)?;
        let text = &ready.rendered.dockerfile;
        let lines: Vec<String> = match phase {
            None => text.lines().map(str::to_owned).collect(),
            Some(phase) => part(text, phase).map(str::to_owned).collect(),
        };
        // Where a line comes from is no part of what it says.
        Ok(lines
            .into_iter()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect())
    };
    let (old, new) = (read(&arguments.old)?, read(&arguments.new)?);
    let lines = line_changes(&old, &new);
    let differs = lines.iter().any(|line| line.sign != ' ');
    match arguments.format {
        Format::Json => {
            let changed = lines.iter().filter(|line| line.sign != ' ');
            let list: Vec<Value> = changed
                .map(|line| json!({ "change": if line.sign == '+' { "added" } else { "removed" }, "text": line.text }))
                .collect();
            print(&format!(
                "{:#}\n",
                json!({ "equal": !differs, "lines": list })
            ));
        }
        Format::Text => {
            let changed = lines.iter().enumerate().filter(|(at, line)| {
                let near = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(lines.len());
                let is_near = lines[near].iter().any(|line| line.sign != ' ');
                is_near && !(line.sign == ' ' && line.text.is_empty())
            });
            let text: String = changed
                .map(|(_, line)| format!("{}{}\n", line.sign, line.text))
                .collect();
            print(&text);
        }
    }
    Ok(differs)
}

/// So many lines around a change are shown.
const CONTEXT: usize = 2;

/// The lines of one phase.
fn part(text: &str, phase: PhaseId) -> impl Iterator<Item = &str> {
    let head = format!("# ---- {} {}:", phase.row().id, phase.name());
    text.lines()
        .skip_while(move |line| !line.starts_with(&head))
        .enumerate()
        .take_while(|(at, line)| *at == 0 || !line.starts_with("# ---- "))
        .map(|(_, line)| line)
}

/// A line, and whether it is gone (`-`), new (`+`) or the same.
#[derive(Debug, PartialEq, Eq)]
struct Line<'t> {
    sign: char,
    text: &'t str,
}

/// The longest common part of two texts, with what is only in one of them at its place.
fn line_changes<'t>(old: &'t [String], new: &'t [String]) -> Vec<Line<'t>> {
    let width = new.len() + 1;
    let mut lengths = vec![0u32; (old.len() + 1) * width];
    for at in (0..old.len()).rev() {
        for to in (0..new.len()).rev() {
            lengths[at * width + to] = if old[at] == new[to] {
                lengths[(at + 1) * width + to + 1] + 1
            } else {
                lengths[(at + 1) * width + to].max(lengths[at * width + to + 1])
            };
        }
    }
    let (mut at, mut to) = (0, 0);
    let mut lines = Vec::new();
    while at < old.len() || to < new.len() {
        let both = at < old.len() && to < new.len();
        if both && old[at] == new[to] {
            lines.push(Line {
                sign: ' ',
                text: &old[at],
            });
            at += 1;
            to += 1;
        } else if to == new.len()
            || (both && lengths[(at + 1) * width + to] >= lengths[at * width + to + 1])
        {
            lines.push(Line {
                sign: '-',
                text: &old[at],
            });
            at += 1;
        } else {
            lines.push(Line {
                sign: '+',
                text: &new[to],
            });
            to += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_matched_before_they_are_compared() {
        let text = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let (old, new) = (text("a b c d"), text("a x c d e"));
        let told: String = line_changes(&old, &new)
            .iter()
            .map(|line| format!("{}{}", line.sign, line.text))
            .collect();
        assert_eq!(told, " a-b+x c d+e");
    }
}
