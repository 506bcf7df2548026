//! `habitat check`: everything that is wrong with a habitat, and what could be better.

use super::super::args::{CheckFormat, HabitatCheckArguments};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::found::Found;
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
                print(&Found::of(&config.shown, &config.text, problem).short());
            }
        }
        CheckFormat::Json => {
            let found: Vec<Found<'_>> = problems
                .iter()
                .map(|problem| Found::of(&config.shown, &config.text, problem))
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
