//! From a Dockerfile to a graph in which every base image is known: parse, lower, find out what the lowering asks for,
//! lower again. What an image is, `base` finds out.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use super::base::{self, Asking, BaseImage, Finder, Found, Unfound};
use super::contexts::{Context, Contexts, NO_CONTEXT};
use super::failure::{Failure, FailureKind, Place};
use super::solve::Session;
use super::tree::TreeError;
use super::work::{self, Work};
use crate::dockerfile::ignore::IgnoreFile;
use crate::dockerfile::{self, Dockerfile, Problem, Severity};
use crate::event::{BuildEvent, EventSink};
use crate::frontend::{
    self, Absence, ContextFile, Lowered, Lowering, Need, Options, Resolved, Review,
};
use crate::graph::Source;
use crate::image::Platform;
use crate::store::Store;

/// A graph, and the images that its sources are.
#[derive(Debug)]
pub struct Planned {
    /// The graph and what goes with it.
    pub lowered: Lowered,
    /// Images by the source that names them.
    pub images: HashMap<Source, BaseImage>,
    /// Not everything is known of the images, because nobody was asked.
    pub is_guessed: bool,
}

impl Planned {
    /// Plans a build. Warnings are emitted as they are found.
    ///
    /// # Errors
    /// Every problem of the Dockerfile, and every image that is not there.
    pub fn of(session: &Session<'_>, asking: Asking) -> Result<Self, Vec<Failure>> {
        let (work, events) = (session.work, session.events);
        let finder = &Finder {
            session,
            asking,
            lacks: Cell::new(false),
        };
        let mut options = options(work);
        let under = work.contexts.iter().find_map(|(name, place)| match place {
            work::Place::Dockerfile(under) => Some((name, under)),
            _ => None,
        });
        let mut images = HashMap::new();
        if let Some((name, under)) = under {
            let text = &under.dockerfile;
            let options_under = options_under(&options, name, under);
            let file = File {
                finder,
                text,
                options: &options_under,
            };
            let planned = match file.planned(events) {
                Err(_) if finder.lacks.get() => return Err(Vec::new()),
                planned => planned?,
            };
            images = planned.images;
            options.under = Some(frontend::Under {
                name: name.clone(),
                lowered: planned.lowered,
            });
        }
        let text = &work.dockerfile;
        let file = File {
            finder,
            text,
            options: &options,
        };
        let mut planned = match file.planned(events) {
            // What is wrong may be so only because too little is known.
            Err(_) if finder.lacks.get() => return Err(Vec::new()),
            planned => planned?,
        };
        planned.is_guessed = finder.lacks.get();
        planned.images.extend(images);
        Ok(planned)
    }

    fn warn(&self, file: &str, parsed: &[Problem], events: &dyn EventSink) {
        for problem in parsed.iter().chain(&self.lowered.warnings) {
            events.emit(warning(file, problem));
        }
        for name in &self.lowered.unused_build_args {
            events.emit(BuildEvent::Warning {
                code: "UnusedBuildArg".to_owned(),
                message: format!("no ARG asks for the build argument `{name}`"),
                file: Some(file.to_owned()),
                line: None,
            });
        }
    }
}

/// What a Dockerfile that another one stands on is lowered with.
fn options_under(above: &Options, name: &str, under: &work::Under) -> Options {
    let time = above.build_args.get_key_value("SOURCE_DATE_EPOCH");
    let time = time.map(|(name, value)| (name.clone(), value.clone()));
    Options {
        target: under.target.clone(),
        build_args: time
            .into_iter()
            .chain(under.build_args.iter().cloned())
            .collect(),
        contexts: BTreeMap::new(),
        labels: BTreeMap::new(),
        file: under.dockerfile.file.clone(),
        origins: frontend::Origins::default(),
        ignore: rules(under.ignore.as_ref()),
        part: Some(name.to_owned()),
        ..above.clone()
    }
}

/// One Dockerfile of a build.
struct File<'a> {
    finder: &'a Finder<'a>,
    text: &'a work::Text,
    options: &'a Options,
}

impl File<'_> {
    fn planned(&self, events: &dyn EventSink) -> Result<Planned, Vec<Failure>> {
        let checks = self.options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let checks = checks.map(String::as_str);
        let parsed = dockerfile::parse_with_checks(&self.text.text, checks);
        let name = &self.text.file;
        let errors = failures(name, &parsed.problems);
        let mut refused = Vec::new();
        let planned = self.lowered(&parsed.dockerfile, &mut refused);
        if !refused.is_empty() {
            let problems = planned.err().unwrap_or_default();
            let others = place(&mut refused, problems, name);
            // What is wrong beside that is said at once.
            let mut all = without_doubles(errors, failures(name, &others));
            all.extend(refused);
            return Err(all);
        }
        let found = match planned {
            Ok(planned) if errors.is_empty() => {
                planned.warn(name, &parsed.problems, events);
                Ok(planned)
            }
            Ok(_) => Err(errors),
            // What could be read may have mistakes of another kind: they are said at once.
            Err(problems) => Err(without_doubles(errors, failures(name, &problems))),
        };
        found.map_err(|mut failures| {
            for failure in failures.iter_mut().filter(|_| self.options.part.is_some()) {
                failure.text = Some(self.text.text.clone());
            }
            failures
        })
    }

    /// Lowers a Dockerfile, and finds the images that this asks for.
    fn lowered(
        &self,
        dockerfile: &Dockerfile,
        refused: &mut Vec<Failure>,
    ) -> Result<Planned, Vec<Problem>> {
        let contexts = self.finder.session.contexts;
        let mut resolved = Resolved::default();
        let mut images = HashMap::new();
        loop {
            match frontend::lower(dockerfile, self.options, &resolved)? {
                Lowering::Done(lowered) => {
                    let absent = |file: &ContextFile| absence(file, contexts).is_some();
                    if !lowered.files.iter().any(absent) {
                        return Ok(Planned {
                            lowered: *lowered,
                            images,
                            is_guessed: false,
                        });
                    }
                    for file in lowered.files {
                        let absence = absence(&file, contexts);
                        resolved.file(file, absence);
                    }
                }
                Lowering::Needs(needs) => {
                    for need in needs {
                        let source = match need {
                            Need::Config(source) => source,
                            Need::File(file) => {
                                let absence = absence(&file, contexts);
                                resolved.file(file, absence);
                                continue;
                            }
                        };
                        match self.finder.find(&source) {
                            Ok(Found::Image(image)) => {
                                resolved.found(source.clone(), image.config.clone());
                                images.insert(source, *image);
                            }
                            Ok(Found::Config(config)) => resolved.found(source, *config),
                            Err(Unfound::Missing(reason)) => resolved.missing(source, reason),
                            Err(Unfound::Failed(failure)) => {
                                resolved.missing(source, failure.message.clone());
                                refused.push(*failure);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Why a file of a context cannot be had. What else may be wrong is for the step to find.
fn absence(file: &ContextFile, contexts: &Contexts<'_>) -> Option<Absence> {
    let context = match contexts.open(&file.context) {
        Ok(Context::Directory(context)) => context,
        // Only a step opens what is in the store.
        Ok(Context::Fetched(_)) => return None,
        Ok(Context::Empty) if is_top(&file.path) => return None,
        Ok(Context::Empty) => {
            return Some(Absence {
                code: "copy::missing",
                message: format!(
                    "`{}` is not in the build context, which is empty",
                    file.path
                ),
                help: Some("name a directory as the build context".to_owned()),
            });
        }
        Err(failure) if failure.code == NO_CONTEXT => {
            return Some(Absence {
                code: NO_CONTEXT,
                message: failure.message,
                help: failure.help,
            });
        }
        Err(_) => return None,
    };
    let error = context.expect(&file.path).err()?;
    let code = match error {
        TreeError::Missing { .. } => "copy::missing",
        TreeError::Ignored { .. } => "copy::ignored",
        _ => return None,
    };
    Some(Absence {
        code,
        message: error.to_string(),
        help: match error {
            TreeError::Missing { .. } => contexts.having(&file.path, &file.context),
            _ => None,
        }
        .or_else(|| miette::Diagnostic::help(&error).map(|help| help.to_string())),
    })
}

/// Whether a path means all of a tree.
fn is_top(path: &str) -> bool {
    path.split('/').all(|part| matches!(part, "" | "."))
}

/// Puts failures where the problem of the same words is. Returns the other problems.
fn place(refused: &mut [Failure], mut problems: Vec<Problem>, file: &str) -> Vec<Problem> {
    for refused in refused.iter_mut() {
        let is_it = |problem: &Problem| problem.message == refused.message;
        let Some(problem) = problems.iter().find(|problem| is_it(problem)) else {
            continue;
        };
        if refused.place.is_none() {
            refused.place = failure(file, problem).place;
        }
        // A stage that was meant is a better way out than a registry.
        let meant = problem.help.as_deref();
        if let Some(meant) = meant.filter(|help| help.starts_with("did you mean")) {
            refused.help = Some(meant.to_owned());
        }
        problems.retain(|problem| !is_it(problem));
    }
    problems
}

/// Both, in the order of the file; of several at one line, the first.
fn without_doubles(mut failures: Vec<Failure>, more: Vec<Failure>) -> Vec<Failure> {
    let line = |failure: &Failure| failure.place.as_ref().map_or(0, |place| place.line);
    for failure in more {
        if failures.iter().all(|known| line(known) != line(&failure)) {
            failures.push(failure);
        }
    }
    failures.sort_by_key(line);
    failures
}

pub(super) fn options(work: &Work) -> Options {
    let source = |(name, place): &(String, work::Place)| {
        let source = match place {
            work::Place::Directory { .. } | work::Place::Fetched { .. } => {
                Source::Local { name: name.clone() }
            }
            work::Place::Source(source) => source.clone(),
            // It is lowered before.
            work::Place::Dockerfile(_) => return None,
        };
        Some((name.clone(), source))
    };
    let platform = Platform::parse(&work.platform).unwrap_or_default();
    let origins = work.origins.iter().map(|origin| frontend::Origin {
        first: origin.first_line,
        last: origin.last_line,
        file: origin.file.clone(),
        line: origin.line,
    });
    Options {
        target: work.target.clone(),
        scope: frontend::Scope::Target,
        build_args: work.build_args.iter().cloned().collect(),
        contexts: work.contexts.iter().filter_map(source).collect(),
        build_platform: Platform::of_this_machine(),
        platform,
        labels: work.labels.iter().cloned().collect(),
        proxies: work.proxies.iter().cloned().collect(),
        run: work.run.clone(),
        source_date_epoch: work.source_date_epoch,
        file: work.dockerfile.file.clone(),
        origins: frontend::Origins::new(origins.collect()),
        ignore: match &work.context {
            Some(work::Place::Directory { ignore, .. }) => rules(ignore.as_ref()),
            _ => IgnoreFile::default(),
        },
        under: None,
        part: None,
    }
}

/// The rules of a context's ignore file. What is wrong with it is said when the context is read.
fn rules(ignore: Option<&work::Text>) -> IgnoreFile {
    ignore.map_or_else(IgnoreFile::default, |text| {
        IgnoreFile::parse(&text.text).unwrap_or_default()
    })
}

/// Looks through the Dockerfile of a build that is not started. An image that is not on this machine is not asked for: it
/// may set what it likes.
pub fn review(work: &Work, store: Option<&Store>, scope: frontend::Scope) -> Review {
    let options = Options {
        scope,
        ..options(work)
    };
    frontend::review(&work.dockerfile.text, &options, |source| {
        base::known_config(source, store?, &work.platform)
    })
}

pub(super) fn failures(file: &str, problems: &[Problem]) -> Vec<Failure> {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| failure(file, problem)).collect()
}

/// A problem of a file, as what ends a command.
pub fn failure(file: &str, problem: &Problem) -> Failure {
    let mut failure = Failure::new(FailureKind::Input, problem.code, problem.message.clone());
    failure.label = problem.label.as_deref().map(str::to_owned);
    failure.help = problem.help.as_deref().map(str::to_owned);
    failure.is_warning = problem.severity == Severity::Warning;
    failure.place = problem.span.map(|span| Place {
        file: file.to_owned(),
        line: span.line,
        span: Some((span.start, span.end.saturating_sub(span.start))),
    });
    failure
}

fn warning(file: &str, problem: &Problem) -> BuildEvent {
    BuildEvent::Warning {
        code: problem.code.to_owned(),
        message: problem.message.clone(),
        file: Some(file.to_owned()),
        line: problem.span.map(|span| span.line),
    }
}
