//! `shmocker habitat …`: reads the configuration and all that the library asks to know of this machine.

mod build;
mod check;
mod config;
mod diff;
mod exec;
mod export;
mod instances;
mod lock;
mod migrate;
mod phases;
mod render;
mod shell;
mod steering;
mod test;
mod under;
mod up;
mod verdicts;
mod why;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::Config;

use super::args::MeansArguments;
use super::args::habitat::{HabitatCommand, HabitatFile, LookArguments, SteeringArguments};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request::{self, Draft};
use crate::dockerfile::{Problem, Span};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{self, Freshness, Item, Named, Origin, PhaseStages, Secret, Text, Work};
use crate::graph::{DebianSource, GitSource, OciLayoutSource, Source};
use crate::habitat::{
    self, ContextKind, Facts, Field, Habitat, NamedContext, PhaseId, Plan, Purpose, Rendered,
    SecretSource, Templates,
};
use crate::image::Name;

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
        HabitatCommand::Export(arguments) => export::run(&arguments, &store, environment),
        HabitatCommand::Migrate(arguments) => migrate::run(&arguments, environment),
        HabitatCommand::Phases(arguments) => phases::run(&arguments, store, environment),
        HabitatCommand::Why(arguments) => why::run(arguments, &store, environment),
        HabitatCommand::Diff(arguments) => diff::run(&arguments, environment),
        HabitatCommand::Lock(arguments) => lock::pin(arguments, store, environment),
        HabitatCommand::Outdated(arguments) => lock::outdated(arguments, store, environment),
        HabitatCommand::Upgrade(arguments) => lock::upgrade(arguments, store, environment),
        HabitatCommand::Test(arguments) => test::run(arguments, store, environment),
        HabitatCommand::Shell(arguments) => shell::run(arguments, store, environment),
        HabitatCommand::Up(arguments) => up::run(arguments, store, environment),
        HabitatCommand::Exec(arguments) => exec::run(arguments, &store),
        HabitatCommand::Stop(arguments) => instances::stop(&arguments, &store),
        HabitatCommand::Down(arguments) => instances::down(&arguments, &store),
        HabitatCommand::Ps(arguments) => instances::list(&arguments, &store),
    }
}

/// A habitat that is planned and rendered.
struct Ready {
    config: Config,
    /// The image of a registry that it starts from, and where it says so.
    base_image: Option<(String, Span)>,
    plan: Plan,
    rendered: Rendered,
    /// What it is built for.
    platform: String,
}

impl Ready {
    fn read(file: &HabitatFile, purpose: Purpose, environment: &Environment) -> Result<Self, Stop> {
        Self::steered(file, purpose, &SteeringArguments::default(), environment)
    }

    /// The same, without the phases that are to be skipped.
    fn steered(
        file: &HabitatFile,
        purpose: Purpose,
        steering: &SteeringArguments,
        environment: &Environment,
    ) -> Result<Self, Stop> {
        Self::chosen(file, purpose, steering, None, environment)
    }

    /// The same with a part of the tests only.
    fn chosen(
        file: &HabitatFile,
        purpose: Purpose,
        steering: &SteeringArguments,
        tests: Option<String>,
        environment: &Environment,
    ) -> Result<Self, Stop> {
        let skipped = steering::skipped(steering)?;
        let config = Config::read(file, environment)?;
        if config.layers.is_part() {
            let layer = config.layers.main();
            let message = format!(
                "`{}` is a layer of habitats, and none by itself",
                layer.file
            );
            return Err(Failure::new(FailureKind::Input, "habitat::layer", message)
                .with_help("name a habitat: it gets this layer by lying in the same ROOT")
                .into());
        }
        let habitat = Habitat::of(&config.layers, config.unknown)
            .map_err(|problems| config.stop(&problems))?;
        let facts = Facts {
            skipped,
            tests,
            // Another builder has no lock: what it downloads must say itself what it has to be.
            sums: match purpose {
                Purpose::Render => config.lock_sums()?,
                Purpose::Build => BTreeMap::new(),
            },
            ..config.facts(&habitat, purpose, environment)
        };
        let plan = Plan::of(&habitat, &facts).map_err(|problems| config.stop(&problems))?;
        let templates = match &file.templates {
            None => Templates::default(),
            Some(directory) => read_templates(directory)?,
        };
        let rendered = plan
            .render(&templates)
            .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Input, &error)))?;
        let base_image = habitat.document.base_image;
        Ok(Self {
            config,
            base_image: base_image.map(|image| (image.value, image.span)),
            plan,
            rendered,
            platform: facts.platform,
        })
    }

    /// A habitat and its build, which is only looked at.
    fn looked_at(look: &LookArguments, environment: &Environment) -> Result<(Self, Work), Stop> {
        let ready = Self::steered(&look.habitat, Purpose::Build, &look.steering, environment)?;
        let mut work = Draft::plain(environment)?.work;
        ready.fill(&mut work, environment)?;
        steering::apply(&look.steering, &ready, &mut work)?;
        if look.pull {
            work.freshness = Freshness::Now;
        }
        Ok((ready, work))
    }

    /// A build of it, of which nothing is said yet but what it may do.
    fn draft(&self, means: MeansArguments, environment: &Environment) -> Result<Draft, Stop> {
        let mut draft = Draft::with(means, environment)?;
        self.fill(&mut draft.work, environment)?;
        self.refuse_home(&draft)?;
        Ok(draft)
    }

    /// The name of its image where none is given.
    fn tag(&self) -> String {
        format!("localhost/habitat/{}:latest", self.plan.name())
    }

    /// Puts the habitat into a build's work.
    fn fill(&self, work: &mut Work, environment: &Environment) -> Result<(), Stop> {
        work.project = self.config.path().display().to_string();
        work.platform.clone_from(&self.platform);
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
            if !work.secrets.iter().any(|known| known.id == secret.id) {
                work.secrets.push(self.secret(secret)?);
            }
        }
        for context in &self.rendered.contexts {
            let key = context.key();
            work.source_keys
                .extend(key.map(|key| (context.name.clone(), key)));
        }
        if let Some(image) = self.plan.base_image() {
            let name = image.parse::<Name>().map(|name| name.to_string());
            let name = name.unwrap_or_else(|_| image.to_owned());
            work.source_keys.push((name, "base_image".to_owned()));
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
                skipped: false,
                fields: self.named(&phase.fields),
                unclaimed: self.named(&phase.unclaimed),
                items: phase
                    .items
                    .iter()
                    .map(|(said, span)| Item {
                        said: said.clone(),
                        place: span.map(|span| self.written_at(span)),
                        layer: span.map(|span| self.config.layers.locate(span).0.name.clone()),
                    })
                    .collect(),
            })
            .collect();
        self.read_lock(work)
    }

    /// The file and line of a span.
    fn written_at(&self, span: Span) -> (String, u32) {
        let (layer, local) = self.config.layers.locate(span);
        (layer.file.clone(), local.line)
    }

    fn named(&self, fields: &[Field]) -> Vec<Named> {
        fields
            .iter()
            .map(|field| Named {
                name: field.name.clone(),
                value: field.value.clone(),
                place: field.span.map(|span| self.written_at(span)),
            })
            .collect()
    }

    /// Refuses to bake files of the host's home into an image, unless that is allowed.
    fn refuse_home(&self, draft: &Draft) -> Result<(), Stop> {
        if draft.home_allowed || self.plan.home_files.is_empty() {
            return Ok(());
        }
        let files = self.plan.home_files.iter();
        let failures: Vec<Failure> = files.map(|file| self.config.failure(file)).collect();
        Err(self.config.with_texts(Stop {
            exit: Exit::Refused,
            ..Stop::from(failures)
        }))
    }

    /// The value of a secret that the habitat declares.
    fn secret(&self, secret: &SecretSource) -> Result<Secret, Stop> {
        let layer = self.config.layers.index_of(secret.span);
        let file = secret
            .file
            .as_ref()
            .map(|file| self.config.directories[layer].join(file));
        request::read_secret(&secret.id, file.as_deref(), secret.env.as_deref()).map_err(
            |mut failure| {
                failure.place = Some(self.config.spot(secret.span));
                self.config.with_texts(Stop::from(failure))
            },
        )
    }

    /// What opens a repository.
    fn secrets_of(&self, context: &NamedContext) -> Result<Vec<Secret>, Stop> {
        let ContextKind::Repository {
            secret: Some(id), ..
        } = &context.kind
        else {
            return Ok(Vec::new());
        };
        let declared = self.rendered.secrets.iter().filter(|known| known.id == *id);
        declared.map(|secret| self.secret(secret)).collect()
    }

    /// What is only warned of otherwise, as what stops a command.
    fn refused(&self, problems: &[Problem]) -> Stop {
        let failures = problems.iter().map(|problem| Failure {
            is_warning: false,
            ..self.config.failure(problem)
        });
        self.config
            .with_texts(Stop::from(failures.collect::<Vec<_>>()))
    }

    /// A failure may point into the habitat, or into the Dockerfile that was made from it. What a failed step has left can be
    /// looked into.
    fn with_texts(&self, mut stop: Stop) -> Stop {
        let is_step = |failure: &&mut Failure| {
            failure.kind == FailureKind::Step && failure.code.starts_with("exec::")
        };
        // The first one is kept.
        if let Some(failure) = stop.failures.iter_mut().find(is_step) {
            let file = &self.config.layers.main().file;
            let way_in =
                format!("look at what it has left: `shmocker habitat shell {file} --failed`");
            failure.help = Some(match failure.help.take() {
                Some(help) => format!("{help}; {way_in}"),
                None => way_in,
            });
        }
        self.config
            .with_texts(stop)
            .with_text("Dockerfile", &self.rendered.dockerfile)
    }

    /// Where a named context of the habitat is.
    fn place(
        &self,
        context: &NamedContext,
        environment: &Environment,
    ) -> Result<work::Place, Stop> {
        let nowhere = || {
            let message = format!(
                "nothing says where the directory of the context `{}` is",
                context.name
            );
            Stop::from(
                Failure::new(FailureKind::Input, "cli::context", message).with_help("set HOME"),
            )
        };
        let directory = |place: habitat::Place| {
            match place {
                habitat::Place::Layer(index) => self.config.directories.get(index).cloned(),
                habitat::Place::Root => self.config.root.clone(),
                habitat::Place::Home => environment.home.clone(),
            }
            .ok_or_else(nowhere)
        };
        let found = |place: Option<habitat::Place>, path: &str| match place {
            Some(place) => Ok(directory(place)?.join(path).display().to_string()),
            None => Ok::<_, Stop>(path.to_owned()),
        };
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
            ContextKind::OciLayout { path, place, tag } => Source::OciLayout(OciLayoutSource {
                path: found(*place, path)?,
                tag: tag.clone(),
                digest: None,
                platform: None,
            }),
            ContextKind::Repository {
                url,
                place,
                reference,
                depth,
                submodules,
                read_only,
                remote,
                secret,
            } => Source::Git(GitSource {
                url: found(*place, url)?,
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
                secret: secret.clone(),
            }),
            ContextKind::Dockerfile {
                place,
                path,
                target,
                args,
            } => {
                let file = directory(*place)?.join(path);
                let under = under::read(&file, &self.config.lock_path())?;
                return Ok(work::Place::Dockerfile(Box::new(work::Under {
                    target: target.clone(),
                    build_args: args.clone(),
                    ..under
                })));
            }
            ContextKind::Directory(place) => {
                let path = directory(*place)?;
                return Ok(work::Place::Directory { path, ignore: None });
            }
        };
        Ok(work::Place::Source(source))
    }

    /// The stages of the phases from this one on.
    fn stages_from(&self, first: PhaseId) -> Vec<String> {
        let first = first.row().id;
        let later = self
            .rendered
            .phases
            .iter()
            .filter(|phase| phase.id >= first);
        later.flat_map(|phase| phase.stages.clone()).collect()
    }

    /// The stages of a phase; the one that bears its name is the last.
    fn stages_of(&self, phase: PhaseId) -> Vec<String> {
        let phases = &self.rendered.phases;
        let found = phases.iter().find(|plan| plan.id == phase.row().id);
        found.map(|plan| plan.stages.clone()).unwrap_or_default()
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
