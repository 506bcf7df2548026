//! `habitat check`: everything that is wrong with a habitat, and what could be better.

use serde::Serialize;

use super::super::args::{CheckFormat, HabitatCheckArguments};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::print;
use super::Config;
use crate::dockerfile::{Problem, Severity};
use crate::habitat::{Habitat, Plan, Purpose};

pub(super) fn run(
    arguments: &HabitatCheckArguments,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let config = Config::read(&arguments.habitat.file)?;
    let problems = problems(&config, environment);
    let wrong = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    match arguments.format {
        CheckFormat::Text => {
            let failures: Vec<_> = problems
                .iter()
                .map(|problem| config.failure(problem))
                .collect();
            let stop = Stop {
                exit: Exit::Input,
                ..Stop::from(failures)
            }
            .with_text(&config.shown, &config.text);
            if wrong {
                return Err(stop);
            }
            stop.write(&mut std::io::stderr(), !environment.no_color);
        }
        CheckFormat::Short => {
            for problem in &problems {
                let found = Found::of(&config, problem);
                print(&format!(
                    "{}:{}:{}: {}\n",
                    found.file, found.line, found.column, found.message
                ));
            }
        }
        CheckFormat::Json => {
            let found: Vec<Found<'_>> = problems
                .iter()
                .map(|problem| Found::of(&config, problem))
                .collect();
            print(&format!(
                "{:#}\n",
                serde_json::to_value(&found).unwrap_or_default()
            ));
        }
    }
    Ok(if wrong { Exit::Input } else { Exit::Done })
}

fn problems(config: &Config, environment: &Environment) -> Vec<Problem> {
    let habitat = match Habitat::parse(&config.text, &config.shown) {
        Ok(habitat) => habitat,
        Err(problems) => return problems,
    };
    match Plan::of(
        &habitat,
        &config.facts(&habitat, Purpose::Render, environment),
    ) {
        Ok(plan) => plan.warnings,
        Err(problems) => problems,
    }
}

/// One problem, as programs read it.
#[derive(Debug, Serialize)]
struct Found<'a> {
    file: &'a str,
    line: u32,
    column: usize,
    end_line: u32,
    end_column: usize,
    code: &'static str,
    severity: &'static str,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> Found<'a> {
    fn of(config: &'a Config, problem: &'a Problem) -> Self {
        let (start, end) = problem.span.map_or((0, 0), |span| (span.start, span.end));
        let (line, column) = position(&config.text, start);
        let (end_line, end_column) = position(&config.text, end);
        Self {
            file: &config.shown,
            line,
            column,
            end_line,
            end_column,
            code: problem.code,
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &problem.message,
            help: problem.help.as_deref(),
        }
    }
}

/// Line and column of a byte, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (u32, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() as u32 + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
