//! `shmocker habitat …`: reads the configuration and all that the library asks to know of this machine.

mod build;
mod check;
mod exec;
mod instances;
mod phases;
mod render;
mod up;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::{HabitatCommand, HabitatFile};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request;
use crate::dockerfile::{Problem, Severity};
use crate::engine::failure::{Failure, FailureKind, Place};
use crate::engine::work::{self, Origin, PhaseStages, Text, Work};
use crate::graph::{DebianSource, GitSource, OciLayoutSource, Source};
use crate::habitat::{
    self, ContextKind, Facts, Habitat, NamedContext, PathKind, Plan, Purpose, Rendered, Templates,
};

/// Carries out a subcommand.
pub(super) fn run(
    command: HabitatCommand,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    match command {
        HabitatCommand::Check(arguments) => check::run(&arguments, environment),
        HabitatCommand::Render(arguments) => render::run(&arguments, store, environment),
        HabitatCommand::Build(arguments) => build::run(*arguments, store, environment),
        HabitatCommand::Phases(arguments) => phases::run(&arguments, store, environment),
        HabitatCommand::Up(arguments) => up::run(arguments, store, environment),
        HabitatCommand::Exec(arguments) => exec::run(arguments, &store),
        HabitatCommand::Stop(arguments) => instances::stop(&arguments, &store),
        HabitatCommand::Down(arguments) => instances::down(&arguments, &store),
        HabitatCommand::Ps(arguments) => instances::list(&arguments, &store),
    }
}

/// A configuration that was read, and where it lies.
struct Config {
    /// Its name as the user gave it.
    shown: String,
    /// Its path, absolute.
    path: PathBuf,
    /// Its text.
    text: String,
    /// ROOT, where there is one.
    root: Option<PathBuf>,
}

impl Config {
    fn read(given: &Path) -> Result<Self, Stop> {
        let file = config_file(given);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            let message = format!("the habitat `{}` cannot be read", file.display());
            Failure::caused(FailureKind::Input, "cli::habitat", message, &error)
                .with_help("name a config.yaml, or the directory that it is in")
        })?;
        let path = request::absolute(&file)?;
        let root = find_root(&path);
        Ok(Self {
            shown: file.display().to_string(),
            path,
            text,
            root,
        })
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Problems of this file as what stops a command.
    fn stop(&self, problems: &[Problem]) -> Stop {
        let errors = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        let failures: Vec<Failure> = errors.map(|problem| self.failure(problem)).collect();
        Stop::from(failures).with_text(&self.shown, &self.text)
    }

    fn failure(&self, problem: &Problem) -> Failure {
        let mut failure = Failure::new(FailureKind::Input, problem.code, problem.message.clone());
        failure.label = problem.label.as_deref().map(str::to_owned);
        failure.help = problem.help.as_deref().map(str::to_owned);
        failure.place = Some(Place {
            file: self.shown.clone(),
            line: problem.span.map_or(1, |span| span.line),
            span: problem
                .span
                .map(|span| (span.start, span.end.saturating_sub(span.start))),
        });
        failure
    }

    /// What the plan must know of this machine.
    fn facts(&self, habitat: &Habitat, purpose: Purpose, environment: &Environment) -> Facts {
        let mut facts = Facts {
            config: self
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            debian_arch: request::debian_architecture().to_owned(),
            purpose,
            layered: self.root.is_some(),
            ignore: std::fs::read_to_string(self.directory().join(".habignore")).ok(),
            ..Facts::default()
        };
        let look = |path: &Path| -> Option<PathKind> {
            let found = std::fs::metadata(path).ok()?;
            Some(if found.is_dir() {
                PathKind::Directory
            } else {
                PathKind::File
            })
        };
        for wanted in habitat.needed_facts() {
            if let Some(below_home) = wanted.strip_prefix("~/") {
                let found = environment
                    .home
                    .as_ref()
                    .and_then(|home| look(&home.join(below_home)));
                facts.beside.extend(found.map(|kind| (wanted, kind)));
                continue;
            }
            if let Some(root) = self
                .root
                .as_ref()
                .filter(|root| root.as_path() != self.directory())
            {
                facts
                    .at_root
                    .extend(look(&root.join(&wanted)).map(|kind| (wanted.clone(), kind)));
            }
            facts
                .beside
                .extend(look(&self.directory().join(&wanted)).map(|kind| (wanted, kind)));
        }
        facts
    }
}

/// A configuration by its path, or by that of its directory.
fn config_file(given: &Path) -> PathBuf {
    if given.is_dir() {
        given.join("config.yaml")
    } else {
        given.to_owned()
    }
}

/// The next directory upwards that has `habitats/` and `system/` or `shared/`.
fn find_root(config: &Path) -> Option<PathBuf> {
    let is_root = |path: &&Path| {
        path.join("habitats").is_dir()
            && (path.join("system").is_dir() || path.join("shared").is_dir())
    };
    config.ancestors().skip(1).find(is_root).map(Path::to_owned)
}

/// A habitat that is planned and rendered.
struct Ready {
    config: Config,
    plan: Plan,
    rendered: Rendered,
}

impl Ready {
    fn read(file: &HabitatFile, purpose: Purpose, environment: &Environment) -> Result<Self, Stop> {
        let config = Config::read(&file.file)?;
        let habitat = Habitat::parse(&config.text, &config.shown)
            .map_err(|problems| config.stop(&problems))?;
        let facts = config.facts(&habitat, purpose, environment);
        let plan = Plan::of(&habitat, &facts).map_err(|problems| config.stop(&problems))?;
        let templates = match &file.templates {
            None => Templates::default(),
            Some(directory) => read_templates(directory)?,
        };
        let rendered = plan
            .render(&templates)
            .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Input, &error)))?;
        Ok(Self {
            config,
            plan,
            rendered,
        })
    }

    /// Puts the habitat into a build's work.
    fn fill(&self, work: &mut Work, environment: &Environment) -> Result<(), Stop> {
        work.project = self.config.path.display().to_string();
        work.dockerfile = Text {
            file: "Dockerfile".to_owned(),
            text: self.rendered.dockerfile.clone(),
        };
        let origins = self.rendered.origins.iter().map(|origin| Origin {
            first_line: origin.first,
            last_line: origin.last,
            file: origin.file.clone(),
            line: origin.line,
        });
        work.origins = origins.collect();
        for context in &self.rendered.contexts {
            work.contexts
                .push((context.name.clone(), self.place(context, environment)?));
        }
        for secret in &self.rendered.secrets {
            if work.secrets.iter().any(|known| known.id == secret.id) {
                continue;
            }
            let file = secret
                .file
                .as_ref()
                .map(|file| self.config.directory().join(file));
            let failed = |mut failure: Failure| {
                failure.place = Some(Place {
                    file: self.config.shown.clone(),
                    line: secret.span.line,
                    span: Some((
                        secret.span.start,
                        secret.span.end.saturating_sub(secret.span.start),
                    )),
                });
                Stop::from(failure).with_text(&self.config.shown, &self.config.text)
            };
            work.secrets.push(
                request::read_secret(&secret.id, file.as_deref(), secret.env.as_deref())
                    .map_err(failed)?,
            );
        }
        work.phases = self
            .rendered
            .phases
            .iter()
            .map(|phase| PhaseStages {
                id: u32::from(phase.id),
                name: phase.name.to_owned(),
                title: phase.title.to_owned(),
                stages: phase.stages.clone(),
                hooks: (phase.hooks_before as u32, phase.hooks_after as u32),
                empty: phase.empty,
            })
            .collect();
        Ok(())
    }

    /// Files of the host's home become part of an image only where that is allowed.
    fn refuse_home_files(&self, draft: &request::Draft) -> Result<(), Stop> {
        if draft.home_allowed || self.plan.home_files.is_empty() {
            return Ok(());
        }
        Err(Stop {
            exit: Exit::Refused,
            ..self.config.stop(&self.plan.home_files)
        })
    }

    /// A failure may point into the habitat, or into the Dockerfile that was made from it.
    fn with_texts(&self, stop: Stop) -> Stop {
        stop.with_text(&self.config.shown, &self.config.text)
            .with_text("Dockerfile", &self.rendered.dockerfile)
    }

    /// Where a named context of the habitat is.
    fn place(
        &self,
        context: &NamedContext,
        environment: &Environment,
    ) -> Result<work::Place, Stop> {
        let beside = |path: &str| self.config.directory().join(path).display().to_string();
        let source = match &context.kind {
            ContextKind::Debian {
                suite,
                packages,
                mirror,
                arch,
            } => Source::Debian(DebianSource {
                suite: suite.clone(),
                packages: packages.clone(),
                mirror: mirror.clone(),
                arch: arch.clone(),
            }),
            ContextKind::OciLayout { path, tag } => Source::OciLayout(OciLayoutSource {
                path: beside(path),
                tag: tag.clone(),
                digest: None,
                platform: None,
            }),
            ContextKind::Repository {
                url,
                beside: is_beside,
                reference,
                depth,
                submodules,
                read_only,
                remote,
            } => Source::Git(GitSource {
                url: if *is_beside { beside(url) } else { url.clone() },
                reference: reference.clone(),
                checksum: None,
                is_short: true,
                fetch_by_commit: false,
                subdir: None,
                depth: *depth,
                submodules: *submodules,
                keep_git_dir: true,
                remote: remote.clone(),
                read_only: *read_only,
            }),
            ContextKind::Directory(place) => {
                let path = match place {
                    habitat::Place::Beside => Some(self.config.directory().to_owned()),
                    habitat::Place::Root => self.config.root.clone(),
                    habitat::Place::Home => environment.home.clone(),
                };
                let Some(path) = path else {
                    let message = format!(
                        "nothing says where the directory of the context `{}` is",
                        context.name
                    );
                    return Err(Failure::new(FailureKind::Input, "cli::context", message)
                        .with_help("set HOME")
                        .into());
                };
                return Ok(work::Place::Directory { path, ignore: None });
            }
        };
        Ok(work::Place::Source(source))
    }

    /// The stages of the phases from the one with this name or number on.
    fn stages_from(&self, wanted: &str) -> Result<Vec<String>, Stop> {
        let first = self.phase(wanted, "--rebuild-from")?;
        let later = self
            .rendered
            .phases
            .iter()
            .filter(|phase| phase.id >= first);
        Ok(later.flat_map(|phase| phase.stages.clone()).collect())
    }

    /// The number of the phase with this name or number.
    fn phase(&self, wanted: &str, flag: &str) -> Result<u8, Stop> {
        let phases = &self.rendered.phases;
        let found = phases
            .iter()
            .find(|phase| phase.name == wanted || phase.id.to_string() == wanted);
        found.map(|phase| phase.id).ok_or_else(|| {
            let names: Vec<&str> = phases.iter().map(|phase| phase.name).collect();
            let near = crate::dockerfile::suggest::nearest(wanted, names.iter().copied());
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the phases are {}", names.join(", ")),
            };
            let message = format!("`{flag} {wanted}`: there is no such phase");
            Failure::new(FailureKind::Input, "habitat::unknown_phase", message)
                .with_help(help)
                .into()
        })
    }
}

fn read_templates(directory: &Path) -> Result<Templates, Stop> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        let message = format!("the templates in `{}` cannot be read", path.display());
        Stop::from(Failure::caused(
            FailureKind::Input,
            "cli::templates",
            message,
            error,
        ))
    };
    let mut replaced = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(|error| unreadable(directory, &error))? {
        let path = entry.map_err(|error| unreadable(directory, &error))?.path();
        if path.is_file() {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            replaced.insert(name, text);
        }
    }
    Templates::with(replaced)
        .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Input, &error)))
}
