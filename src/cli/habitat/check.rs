//! `habitat check`: everything that is wrong with a habitat, and what could be better.

use std::collections::HashSet;

use super::super::args::CheckFormat;
use super::super::args::habitat::CheckArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::found::Found;
use super::super::report::Stop;
use super::super::request::print;
use super::config::Config;
use crate::dockerfile::{Problem, Severity, Span};
use crate::habitat::{Habitat, Plan, Purpose};

pub(super) fn run(arguments: &CheckArguments, environment: &Environment) -> Result<Exit, Stop> {
    let config = Config::read(&arguments.habitat, environment)?;
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
            let stop = config.with_texts(Stop {
                exit: Exit::Input,
                ..Stop::from(failures)
            });
            if wrong {
                return Err(stop);
            }
            stop.tell(environment);
        }
        CheckFormat::Short => {
            for problem in &problems {
                let (layer, problem) = config.layers.localize(problem);
                print(&Found::of(&layer.file, &layer.text, &problem).short());
            }
        }
        CheckFormat::Json => {
            let local: Vec<_> = problems
                .iter()
                .map(|problem| config.layers.localize(problem))
                .collect();
            let found: Vec<Found<'_>> = local
                .iter()
                .map(|(layer, problem)| Found::of(&layer.file, &layer.text, problem))
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
    let (habitat, mut problems) = Habitat::as_far_as(&config.layers, config.unknown);
    if let Some(habitat) = habitat {
        // What this machine has to say is told beside what is wrong with the text.
        let facts = config.facts(&habitat, Purpose::Render, environment);
        let found = match Plan::of(&habitat, &facts) {
            Ok(plan) => plan.warnings,
            Err(problems) => problems,
        };
        // Of what is wrong already nothing else has to be said.
        let known: HashSet<Option<Span>> = problems.iter().map(|problem| problem.span).collect();
        problems.extend(
            found
                .into_iter()
                .filter(|problem| !known.contains(&problem.span)),
        );
        problems.sort_by_key(|problem| problem.span.map(|span| (span.start, span.end)));
    }
    problems
}
