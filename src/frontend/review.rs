//! What there is to be said of a Dockerfile that nothing is built from.

use super::{Lowering, Need, Options, Outline, Resolved, lower};
use crate::dockerfile::{Dockerfile, Problem, Rule, parse_with_checks};
use crate::graph::Source;
use crate::image::ImageConfig;

/// A Dockerfile that was looked through.
#[derive(Debug, Clone, PartialEq)]
pub struct Review {
    /// The file, as far as it could be read.
    pub dockerfile: Dockerfile,
    /// Mistakes, and breaches of rules, in the order of the file.
    pub problems: Vec<Problem>,
    /// What the target can be given; `None` with a mistake.
    pub outline: Option<Outline>,
}

impl Review {
    /// What keeps the file from being built. Breaches of rules are none, even where the file makes errors of them.
    pub fn mistakes(&self) -> impl Iterator<Item = &Problem> {
        let is_rule = |problem: &&Problem| Rule::named(problem.code).is_some();
        self.problems
            .iter()
            .filter(move |problem| !is_rule(problem))
    }

    /// The breaches of rules.
    pub fn breaches(&self) -> impl Iterator<Item = (&'static Rule, &Problem)> {
        self.problems
            .iter()
            .filter_map(|problem| Some((Rule::named(problem.code)?, problem)))
    }
}

/// Looks through a Dockerfile. `base` gives the configuration of an image, or why it cannot be had; `None` where nobody
/// asks, and the image may set what it likes.
pub fn review(
    text: &str,
    options: &Options,
    mut base: impl FnMut(&Source) -> Option<Result<ImageConfig, String>>,
) -> Review {
    let checks = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    let parsed = parse_with_checks(text, checks.map(String::as_str));
    let mut problems = parsed.problems;
    let mut resolved = Resolved::default();
    let mut outline = None;
    loop {
        match lower(&parsed.dockerfile, options, &resolved) {
            Ok(Lowering::Needs(needs)) => {
                for need in needs {
                    let source = match need {
                        Need::Config(source) => source,
                        // Files are looked at when they are taken.
                        Need::File(file) => {
                            resolved.file(file, None);
                            continue;
                        }
                    };
                    match base(&source) {
                        Some(Ok(config)) => resolved.found(source, config),
                        Some(Err(reason)) => resolved.missing(source, reason),
                        None => resolved.unknown(source),
                    }
                }
            }
            Ok(Lowering::Done(lowered)) => {
                problems.extend(lowered.warnings);
                outline = Some(lowered.outline);
                break;
            }
            Err(found) => {
                // What the parser could make nothing of is not told again.
                let at = |problem: &Problem| problem.span.map(|span| span.line);
                let told: Vec<_> = problems
                    .iter()
                    .filter(|problem| Rule::named(problem.code).is_none())
                    .map(at)
                    .collect();
                problems.extend(found.into_iter().filter(|problem| {
                    Rule::named(problem.code).is_some() || !told.contains(&at(problem))
                }));
                break;
            }
        }
    }
    problems.sort_by_key(|problem| problem.span.map(|span| span.start));
    let mut review = Review {
        dockerfile: parsed.dockerfile,
        problems,
        outline,
    };
    if review.mistakes().next().is_some() {
        review.outline = None;
    }
    review
}
