//! `build --call`: what a Dockerfile can be asked without building it, answered as BuildKit and buildx do.

mod answer;

use std::path::Path;

use super::exit::Exit;
use super::report::Stop;
use super::request::print;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan;
use crate::engine::work::Work;
use crate::frontend::{Outline, Review, Scope};
use crate::store::Store;
use answer::{Answer, CheckAnswer, DescribeAnswer, OutlineAnswer, TargetsAnswer};

/// What `--call` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// The question.
    pub(super) what: What,
    json: bool,
    ignore_status: bool,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing: it is built.
    Build,
    /// What is wrong with it.
    Check,
    /// What its target can be given.
    Outline,
    /// Which targets it has.
    Targets,
    /// What can be asked.
    Describe,
}

/// Reads `check,format=json`.
pub(super) fn parse(text: &str) -> Result<Call, String> {
    let mut what = None;
    let mut call = Call {
        what: What::Build,
        json: false,
        ignore_status: false,
    };
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("format", "json")) => call.json = true,
            Some(("format", "text")) => call.json = false,
            Some(("format", _)) => return Err("`format` is `text` or `json`".to_owned()),
            Some((key @ ("ignorestatus" | "error"), value)) => {
                let is_on = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("`{key}` is `true` or `false`")),
                };
                call.ignore_status = is_on == (key == "ignorestatus");
            }
            Some((key, _)) => return Err(format!("`{key}` is not known")),
            None if what.is_some() => return Err("it asks for two things".to_owned()),
            None => {
                what = Some(match field.strip_prefix("frontend.").unwrap_or(field) {
                    "build" => What::Build,
                    "check" | "lint" => What::Check,
                    "outline" => What::Outline,
                    "targets" => What::Targets,
                    "describe" | "subrequests.describe" => What::Describe,
                    _ => {
                        return Err("it is build, check, outline, targets or describe".to_owned());
                    }
                });
            }
        }
    }
    call.what = what.ok_or("it is build, check, outline, targets or describe")?;
    Ok(call)
}

impl Call {
    /// `--check`
    pub(super) const fn check() -> Self {
        Self {
            what: What::Check,
            json: false,
            ignore_status: false,
        }
    }

    /// Prints the answer. Of a check that finds something, the code to end with is 1.
    pub(super) fn answer(self, work: &Work, store: &Path) -> Result<Exit, Stop> {
        let file = &work.dockerfile.file;
        match self.what {
            What::Describe | What::Build => {
                self.print(&DescribeAnswer::new());
                Ok(Exit::Done)
            }
            What::Targets => {
                let review = review(work, store, Scope::Target)?;
                self.print(&TargetsAnswer::of(&review.dockerfile));
                Ok(Exit::Done)
            }
            What::Outline => {
                let review = review(work, store, Scope::Target)?;
                let outline = outline(&review, file)?;
                self.print(&OutlineAnswer::of(outline, &review.dockerfile));
                Ok(Exit::Done)
            }
            What::Check => {
                // As BuildKit has it: a check without a target is one of all stages.
                let scope = match work.target {
                    Some(_) => Scope::Target,
                    None => Scope::All,
                };
                let review = review(work, store, scope)?;
                let answer = CheckAnswer::of(&review, file);
                self.print(&answer);
                if review.mistakes().next().is_some() && !self.json {
                    return Err(mistakes(&review, file));
                }
                let is_clean = answer.is_clean() || self.ignore_status;
                Ok(if is_clean { Exit::Done } else { Exit::Input })
            }
        }
    }

    fn print(self, answer: &impl Answer) {
        if self.json {
            print(&format!(
                "{:#}\n",
                serde_json::to_value(answer).unwrap_or_default()
            ));
        } else {
            print(&answer.text());
        }
    }
}

/// Looks through the Dockerfile; a store is only read where there is one.
fn review(work: &Work, store: &Path, scope: Scope) -> Result<Review, Stop> {
    let store = if store.is_dir() {
        let opened = Store::open(store)
            .map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error))?;
        Some(opened)
    } else {
        None
    };
    Ok(plan::review(work, store.as_ref(), scope))
}

fn outline<'a>(review: &'a Review, file: &str) -> Result<&'a Outline, Stop> {
    review
        .outline
        .as_ref()
        .ok_or_else(|| mistakes(review, file))
}

fn mistakes(review: &Review, file: &str) -> Stop {
    let failures: Vec<Failure> = review
        .mistakes()
        .map(|problem| plan::failure(file, problem))
        .collect();
    Stop::from(failures)
}
