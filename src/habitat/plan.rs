//! A habitat as ordered phases, each with its stages, and each stage with its steps.
//!
//! ```text
//! base → users → env → workdir → habitat → files → repos → tools → scripts ─┬→ final
//!                                                                           ├→ verify
//!                                                                           └→ test-1 … test-n → test
//! ```
//!
//! The stage that bears a phase's name is its last: `pre-P` where something runs before P, `core-P` where something runs
//! after it. Within one place files come before repositories and those before scripts, each in the order of the document.
//!
//! The directories of the layers in a ROOT are copied to SYSTEM_PATH, SHARED_PATH and LOCAL_PATH, each in two parts. What
//! other items name (the configuration itself, the sources of `files`) comes at the very end of scripts, so that a change
//! of it reaches no earlier step; all else comes in the files phase. Tests and repositories are mounted and checked out,
//! not copied.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::base::Base;
use super::check::{Habitat, is_remote};
use super::document::Network;
use super::facts::{Facts, PathKind, Wanted, clean};
use super::fields::Field;
use super::keys::{Duration, OneOrMore};
use super::layer::Layers;
use super::mount::Mount;
use super::phase::PhaseId;
use super::report::Report;
use super::steps::{default_shell, marker, test_stage};
use super::tools::Download;
use super::users;
use super::volumes::Volume;
use crate::dockerfile::{Problem, Span};
use crate::image::Platform;

/// The habitat's name of its base where that is no registry image.
const BASE_CONTEXT: &str = "habitat-base";

/// A tree that the Dockerfile names and something outside of it provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContext {
    /// Its name in `--from` and `FROM`.
    pub name: String,
    /// What it is.
    pub kind: ContextKind,
    /// Where the habitat asks for it; `None`: it follows from other keys.
    pub span: Option<Span>,
}

impl NamedContext {
    /// The key of the habitat that asks for it, where one does: `base`, `repos[1]`.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        if self.name == BASE_CONTEXT {
            return Some("base".to_owned());
        }
        let (kind, number) = self.name.rsplit_once('-')?;
        let index = number.parse::<usize>().ok()?.checked_sub(1)?;
        Some(format!("{kind}s[{index}]"))
    }
}

/// The kinds of named contexts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextKind {
    /// A root filesystem made from a Debian archive.
    Debian {
        /// The suite's code name.
        suite: String,
        /// Packages beside the essential ones and apt, sorted, each once.
        packages: Vec<String>,
        /// The archive to use.
        mirror: Option<String>,
        /// Debian's name of the architecture.
        arch: String,
    },
    /// An image in an OCI layout.
    OciLayout {
        /// Its directory: absolute, or in `place`.
        path: String,
        /// Where a path that is not absolute was found.
        place: Option<Place>,
        /// The image in it.
        tag: Option<String>,
    },
    /// The image of a Dockerfile.
    Dockerfile {
        /// Where it lies.
        place: Place,
        /// Its path there; its directory is its build context.
        path: String,
        /// The stage that is taken; `None`: the last.
        target: Option<String>,
        /// Values of its ARGs.
        args: Vec<(String, String)>,
    },
    /// A commit of a repository, with its `.git`.
    Repository {
        /// What git is asked for.
        url: String,
        /// Where `url` was found, if it is a path.
        place: Option<Place>,
        /// Branch, tag or commit.
        reference: Option<String>,
        /// How many commits are kept; `None`: all.
        depth: Option<u32>,
        /// Whether submodules are checked out.
        submodules: bool,
        /// Whether pushing is disabled.
        read_only: bool,
        /// The URL to record, without credentials; `None` for a path.
        remote: Option<String>,
        /// The id of the secret that opens it.
        secret: Option<String>,
    },
    /// A directory of this machine.
    Directory(Place),
}

/// Directories that a habitat takes files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// That of the layer with this place in their order.
    Layer(usize),
    /// ROOT.
    Root,
    /// The host's home.
    Home,
}

/// A test and the stage that it is run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTest {
    /// The stage.
    pub stage: String,
    /// The program, as it is written.
    pub path: String,
    /// Where it is listed.
    pub span: Span,
}

/// A secret and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// What scripts call it.
    pub id: String,
    /// The variable of the host that holds it.
    pub env: Option<String>,
    /// The file of the host that holds it; what is not absolute lies beside the layer that declares it.
    pub file: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// What a habitat is when it runs, beside what its image says.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Its command; `None`: a shell.
    pub command: Option<Vec<String>>,
    /// Whether the command wants a terminal.
    pub tty: bool,
    /// Who runs it.
    pub user: String,
    /// Where.
    pub workdir: String,
    /// Whether a repository lies there.
    pub has_repository: bool,
    /// What network it has: `none`, `default` or `host`.
    pub network: Option<&'static str>,
    /// Its services.
    pub services: Vec<String>,
    /// What is mounted.
    pub volumes: Vec<Volume>,
}

/// A habitat as phases, stages and steps.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) name: String,
    /// The files that the habitat is made of.
    pub layers: Layers,
    pub(super) phases: Vec<Phase>,
    /// The trees that must be provided.
    pub contexts: Vec<NamedContext>,
    /// The tests.
    pub tests: Vec<PlannedTest>,
    /// What is downloaded by its address.
    pub downloads: Vec<Download>,
    /// The secrets that scripts name.
    pub secrets: Vec<SecretSource>,
    /// Files of the host's home that would become part of the image without having been allowed: a build refuses them.
    pub home_files: Vec<Problem>,
    /// The platform that it names, if it names one.
    pub(super) platform: Option<String>,
    /// Platforms beside the one that is built for: a build is refused.
    pub foreign_platforms: Vec<Problem>,
    /// What should be mended, but stops nothing.
    pub warnings: Vec<Problem>,
    /// The values that it is made from.
    pub(super) fields: Vec<Field>,
    /// What it is when it runs.
    pub runtime: Runtime,
}

#[derive(Debug, Clone)]
pub(super) struct Phase {
    pub(super) id: PhaseId,
    pub(super) stages: Vec<Stage>,
    pub(super) before: usize,
    pub(super) after: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Stage {
    pub(super) name: String,
    pub(super) from: String,
    pub(super) steps: Vec<Step>,
    pub(super) state: State,
}

/// What instructions leave behind for those after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    user: Option<String>,
    workdir: Option<String>,
    shell: Option<Vec<String>>,
}

/// Instructions that belong together.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// The template that writes them; none for a change of USER, WORKDIR or SHELL alone.
    pub(super) template: Option<&'static str>,
    /// The item they come from.
    pub(super) at: Option<Span>,
    /// What they are, in words.
    pub(super) said: String,
    /// USER, WORKDIR and SHELL where they change.
    pub(super) user: Option<String>,
    pub(super) workdir: Option<String>,
    pub(super) shell: Option<Vec<String>>,
    /// What `# shmocker:` says above them.
    pub(super) extras: String,
    /// What the template fills in.
    pub(super) values: Value,
}

impl Step {
    pub(super) fn of(template: &'static str, said: impl Into<String>, values: Value) -> Self {
        Self {
            template: Some(template),
            at: None,
            said: said.into(),
            user: None,
            workdir: None,
            shell: None,
            extras: String::new(),
            values,
        }
    }

    /// Whether it copies from a stage, or mounts a part of it.
    pub(super) fn takes_from(&self, stage: &str) -> bool {
        let flags = self.values["flags"].as_array().into_iter().flatten();
        let options = flags
            .filter_map(Value::as_str)
            .flat_map(|flag| flag.trim_start_matches("--mount=").split(','));
        let mut from =
            options.filter_map(|option| option.trim_start_matches("--").strip_prefix("from="));
        from.any(|from| from == stage)
    }

    pub(super) fn at(self, span: Span) -> Self {
        Self {
            at: Some(span),
            ..self
        }
    }

    pub(super) fn user(self, user: impl Into<String>) -> Self {
        Self {
            user: Some(user.into()),
            ..self
        }
    }

    pub(super) fn shell(self, shell: Vec<String>) -> Self {
        Self {
            shell: Some(shell),
            ..self
        }
    }
}

impl Stage {
    pub(super) fn new(name: impl Into<String>, from: impl Into<String>, state: State) -> Self {
        Self {
            name: name.into(),
            from: from.into(),
            steps: Vec::new(),
            state,
        }
    }

    /// Whether it begins with nothing: other stages only take from it.
    pub(super) fn is_apart(&self) -> bool {
        self.from == "scratch"
    }

    /// Adds a step; what it needs and is so already is not said again.
    pub(super) fn push(&mut self, mut step: Step) {
        fn settle<T: PartialEq + Clone>(now: &mut Option<T>, wanted: &mut Option<T>) {
            if *now == *wanted {
                *wanted = None;
            } else if wanted.is_some() {
                now.clone_from(wanted);
            }
        }
        settle(&mut self.state.user, &mut step.user);
        settle(&mut self.state.workdir, &mut step.workdir);
        settle(&mut self.state.shell, &mut step.shell);
        self.steps.push(step);
    }
}

impl Habitat {
    /// The paths that [`Plan::of`] must be told about, in the form in which it looks for them.
    #[must_use]
    pub fn needed_facts(&self) -> BTreeSet<Wanted> {
        let document = &self.document;
        let files = document.files.0.iter().map(|file| &file.src);
        let tests = document.tests.0.iter().map(|test| &test.path);
        let repos = document
            .repos
            .0
            .iter()
            .map(|repo| &repo.url)
            .filter(|url| !is_remote(&url.value));
        let mounts = document
            .scripts
            .0
            .iter()
            .flat_map(|script| &script.mounts.0)
            .filter_map(|mount| match mount {
                Mount::Bind { source, .. } => Some(source),
                Mount::Tmpfs { .. } => None,
            });
        let dockerfile = document.dockerfile().map(|dockerfile| dockerfile.path);
        let oci = match &document.base {
            Some(Base::Oci(oci)) => Some(oci.without_tag()),
            _ => None,
        }
        .filter(|path| !path.value.starts_with('/'));
        let paths = files.chain(tests).chain(repos).chain(mounts);
        let paths = paths.chain(&oci).chain(&dockerfile);
        paths
            .map(|path| {
                let wanted = clean(&path.value);
                match wanted.strip_prefix("~/") {
                    Some(below) => Wanted::Home(below.to_owned()),
                    None => Wanted::Path(self.layers.index_of(path.span), wanted),
                }
            })
            .collect()
    }
}

impl Plan {
    /// The habitat's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image that it is built on, where that is one of a registry.
    #[must_use]
    pub fn base_image(&self) -> Option<&str> {
        let image = self.fields.iter().find(|field| field.name == "base_image");
        image.map(|field| field.value.as_str())
    }

    /// Lays a habitat out.
    ///
    /// # Errors
    /// Everything that stands against it: files that are missing, keys that are not honoured yet.
    pub fn of(habitat: &Habitat, facts: &Facts) -> Result<Self, Vec<Problem>> {
        let mut planner = Planner {
            habitat,
            facts,
            report: Report::default(),
            contexts: BTreeMap::new(),
            home_files: Vec::new(),
            phases: Vec::new(),
            prepared: Vec::new(),
            downloads: Vec::new(),
            mount_points: BTreeSet::new(),
        };
        let known = habitat.warnings.iter().cloned();
        known.for_each(|warning| planner.report.push(warning));
        PhaseId::all().for_each(|id| planner.phase(id));
        let foreign_platforms = planner.foreign_platforms();
        let secrets = planner.secrets();
        let tests = planner.planned_tests();
        let Planner {
            report,
            contexts,
            home_files,
            phases,
            downloads,
            ..
        } = planner;
        let warnings = report.finish()?;
        Ok(Self {
            name: habitat.name.clone(),
            layers: habitat.layers.clone(),
            phases,
            contexts: contexts.into_values().collect(),
            tests,
            downloads,
            secrets,
            home_files,
            platform: match habitat.document.platforms.0.as_slice() {
                [only] => Some(only.value.clone()),
                _ => None,
            },
            foreign_platforms,
            warnings,
            fields: values(habitat, facts),
            runtime: Runtime {
                command: habitat.command(),
                tty: habitat
                    .document
                    .entry
                    .as_ref()
                    .and_then(|entry| entry.tty)
                    .is_some_and(|flag| flag.value),
                user: habitat.user.clone(),
                workdir: habitat.workdir.clone(),
                has_repository: habitat.document.repos.0.iter().any(|repo| {
                    let path = habitat.at_home(&repo.path.value);
                    std::path::Path::new(&path).starts_with(&habitat.workdir)
                }),
                network: habitat
                    .document
                    .entry
                    .as_ref()
                    .and_then(|entry| entry.network)
                    .map(Network::word),
                services: habitat
                    .services()
                    .map(|service| service.name.value.clone())
                    .collect(),
                volumes: habitat.volumes(),
            },
        })
    }
}

/// The values of a habitat, and what it finds on this machine beside the files that it names.
fn values(habitat: &Habitat, facts: &Facts) -> Vec<Field> {
    let mut fields = habitat.fields();
    let rules = facts.layers.iter().enumerate().map(|(index, layer)| {
        let name = format!(".habignore of {}", habitat.layers.all()[index].name);
        (name, &layer.ignore)
    });
    let rules = rules.chain([(".habignore of ROOT".to_owned(), &facts.root_ignore)]);
    fields.extend(rules.filter_map(|(name, ignore)| {
        let value = ignore.clone()?;
        Some(Field {
            name,
            value,
            span: None,
        })
    }));
    fields
}

/// Lays a habitat out, phase by phase.
pub(super) struct Planner<'h> {
    pub(super) habitat: &'h Habitat,
    pub(super) facts: &'h Facts,
    pub(super) report: Report,
    contexts: BTreeMap<String, NamedContext>,
    pub(super) home_files: Vec<Problem>,
    pub(super) phases: Vec<Phase>,
    /// Stages of the phase at hand in which something is got ready beside the others.
    pub(super) prepared: Vec<Stage>,
    pub(super) downloads: Vec<Download>,
    /// Directories that were made for caches.
    pub(super) mount_points: BTreeSet<String>,
}

/// Which side of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Planner<'_> {
    fn phase(&mut self, id: PhaseId) {
        if let Some(previous) = self.previous(id)
            && self.facts.skipped.contains(&id)
        {
            return self.skip(id, previous);
        }
        let (before, items_before) = self.hooks(id, Side::Before);
        let (after, items_after) = self.hooks(id, Side::After);
        let core = self.core(id);
        let previous = self.previous(id);
        let mut state = previous.map(|id| self.end_of(id)).unwrap_or_default();
        let mut from = previous.map_or_else(|| self.base(), |id| id.name().to_owned());
        let mut stages = std::mem::take(&mut self.prepared);
        let mut stage = |name: String, steps: Vec<Step>| {
            let mut stage = Stage::new(
                &name,
                std::mem::replace(&mut from, name.clone()),
                std::mem::take(&mut state),
            );
            steps.into_iter().for_each(|step| stage.push(step));
            state = stage.state.clone();
            stages.push(stage);
        };

        let name = id.name();
        let (mut first, mut last) = (before, after);
        if id == PhaseId::BASE {
            // Nothing can run before there is a root: both sides come right after FROM.
            last.splice(0..0, std::mem::take(&mut first));
        }
        let tests = if id == PhaseId::TEST {
            self.tests().count()
        } else {
            0
        };
        if tests > 0 {
            first.push(Step::of(
                "marker.j2",
                "what says that a test has passed",
                json!({ "path": "/test.ok" }),
            ));
        }
        if !first.is_empty() {
            stage(format!("pre-{name}"), first);
        }
        if last.is_empty() {
            stage(name.to_owned(), core);
        } else {
            stage(format!("core-{name}"), core);
            stage(name.to_owned(), last);
        }
        if tests > 0 {
            self.add_test_stages(&mut stages);
        }
        if id == PhaseId::SCRIPTS
            && let Some(last) = stages.last_mut()
        {
            self.layer_rests()
                .into_iter()
                .for_each(|step| last.push(step));
        }
        if id == PhaseId::FINAL {
            let end = Step {
                template: None,
                said: "how it is used".to_owned(),
                user: Some(self.habitat.user.clone()),
                workdir: Some(self.habitat.workdir.clone()),
                shell: Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]),
                ..Step::of("", "", Value::Null)
            };
            stages
                .iter_mut()
                .rev()
                .take(1)
                .for_each(|stage| stage.push(end.clone()));
        }
        self.phases.push(Phase {
            id,
            stages,
            before: items_before,
            after: items_after,
        });
    }

    /// The phase that this one goes on from.
    fn previous(&self, id: PhaseId) -> Option<PhaseId> {
        match id {
            PhaseId::BASE => None,
            PhaseId::VERIFY | PhaseId::TEST | PhaseId::FINAL => Some(PhaseId::SCRIPTS),
            _ => self.phases.last().map(|phase| phase.id),
        }
    }

    /// A phase in which nothing is done; its stage is there, so that it can still be named.
    fn skip(&mut self, id: PhaseId, previous: PhaseId) {
        let stage = Stage::new(id.name(), previous.name(), self.end_of(previous));
        self.phases.push(Phase {
            id,
            stages: vec![stage],
            before: 0,
            after: 0,
        });
    }

    pub(super) fn end_of(&self, id: PhaseId) -> State {
        let phase = self.phases.iter().find(|phase| phase.id == id);
        phase
            .and_then(|phase| phase.stages.last())
            .map(|stage| stage.state.clone())
            .unwrap_or_default()
    }

    /// What stands after the first FROM.
    pub(super) fn base(&mut self) -> String {
        let document = &self.habitat.document;
        let kind = match (&document.base_image, &document.base) {
            (Some(image), _) => return image.value.clone(),
            (None, Some(Base::Debian(debian))) => {
                let packages: BTreeSet<String> = debian
                    .packages
                    .0
                    .iter()
                    .map(|name| name.value.clone())
                    .collect();
                let arch = debian
                    .arch
                    .as_ref()
                    .map_or_else(|| self.facts.debian_arch.clone(), |arch| arch.value.clone());
                ContextKind::Debian {
                    suite: debian
                        .suite
                        .as_ref()
                        .map(|suite| suite.value.clone())
                        .unwrap_or_default(),
                    packages: packages.into_iter().collect(),
                    mirror: debian.mirror.as_ref().map(|mirror| mirror.value.clone()),
                    arch,
                }
            }
            (None, Some(Base::Oci(oci))) => {
                let path = oci.without_tag();
                let tag = oci.path.value[path.value.len()..].strip_prefix(':');
                let tag = tag.map(str::to_owned);
                if path.value.starts_with('/') {
                    let (path, place) = (path.value, None);
                    ContextKind::OciLayout { path, place, tag }
                } else {
                    // What is not there is told by who looks into it.
                    let beside = Place::Layer(self.habitat.layers.index_of(path.span));
                    let (place, path, _) = self
                        .find(&path)
                        .unwrap_or_else(|| (beside, clean(&path.value), PathKind::Directory));
                    let place = Some(place);
                    ContextKind::OciLayout { path, place, tag }
                }
            }
            (None, Some(Base::Dockerfile(_)) | None) => match self.dockerfile() {
                Some(kind) => kind,
                // It was said where it is missing.
                None => return "scratch".to_owned(),
            },
        };
        let span = match &document.base {
            Some(Base::Debian(debian)) => Some(debian.span),
            Some(Base::Oci(oci)) => Some(oci.span),
            Some(Base::Dockerfile(dockerfile)) => Some(dockerfile.span),
            _ => None,
        };
        self.context(BASE_CONTEXT, kind, span);
        BASE_CONTEXT.to_owned()
    }

    /// The platforms that are asked for beside the one that is built for.
    fn foreign_platforms(&mut self) -> Vec<Problem> {
        let own = self.facts.platform.parse::<Platform>();
        let platforms = self.habitat.document.platforms.0.iter();
        let foreign = platforms.filter(|platform| {
            let wanted = platform.value.parse::<Platform>();
            matches!((&own, wanted), (Ok(own), Ok(wanted)) if !own.is_same_as(&wanted))
        });
        let own = &self.facts.platform;
        let problems: Vec<Problem> = foreign
            .map(|platform| {
                let message = format!("`{}` is not built together with {own}", platform.value);
                Problem::warning("habitat::foreign_platform", message, platform.span)
                    .label("a habitat is built for one platform at a time")
                    .help(format!(
                        "keep one of them in `platforms`: {own}, or another one, whose programs an emulator then runs"
                    ))
            })
            .collect();
        problems
            .iter()
            .for_each(|problem| self.report.push(problem.clone()));
        problems
    }

    /// The Dockerfile that makes the base.
    fn dockerfile(&mut self) -> Option<ContextKind> {
        let dockerfile = self.habitat.document.dockerfile()?;
        let path = &dockerfile.path;
        let wrong = match self.find(path) {
            Some((place, path, PathKind::File)) => {
                let args = dockerfile.args.0.into_iter();
                return Some(ContextKind::Dockerfile {
                    place,
                    path,
                    target: dockerfile.target.map(|target| target.value),
                    args: args
                        .map(|(name, value)| (name.value, value.value))
                        .collect(),
                });
            }
            Some(_) => "is a directory",
            None => "does not exist",
        };
        self.report
            .error(
                "habitat::missing_file",
                path.span,
                format!("`{}` {wrong}", path.value),
            )
            .label("there is no such Dockerfile beside this file")
            .help("make it, or mend the path");
        None
    }

    pub(super) fn context(&mut self, name: &str, kind: ContextKind, span: Option<Span>) {
        self.contexts
            .entry(name.to_owned())
            .or_insert_with(|| NamedContext {
                name: name.to_owned(),
                kind,
                span,
            });
    }

    pub(super) fn limit(&self, own: Option<Duration>, phase: PhaseId) -> Option<Duration> {
        own.or_else(|| self.habitat.document.timeout.of(phase))
    }

    /// The steps that run on one side of a phase: files, then repositories, then scripts. And of how many items they are.
    fn hooks(&mut self, id: PhaseId, side: Side) -> (Vec<Step>, usize) {
        let document = &self.habitat.document;
        let here = |before: &Option<OneOrMore<PhaseId>>, after: &Option<OneOrMore<PhaseId>>| {
            let places = if side == Side::Before { before } else { after };
            places.as_ref().is_some_and(|places| places.0.contains(&id))
        };
        let mut steps = Vec::new();
        let mut items = 0;
        for (index, file) in document.files.0.iter().enumerate() {
            if here(&file.before, &file.after) {
                steps.extend(self.file(index, file, id));
                items += 1;
            }
        }
        for (index, repo) in document.repos.0.iter().enumerate() {
            if here(&repo.before, &repo.after) {
                steps.push(self.repo(index, repo));
                items += 1;
            }
        }
        for (index, script) in document.scripts.0.iter().enumerate() {
            if here(&script.before, &script.after) {
                // WORKDIR is there from its own phase on.
                let is_early =
                    id < PhaseId::WORKDIR || (id == PhaseId::WORKDIR && side == Side::Before);
                let workdir = if is_early { "/" } else { &self.habitat.workdir };
                steps.extend(self.script(index, script, id, workdir));
                items += 1;
            }
        }
        (steps, items)
    }

    fn core(&mut self, id: PhaseId) -> Vec<Step> {
        let habitat = self.habitat;
        let document = &habitat.document;
        match id {
            PhaseId::BASE => vec![Step {
                template: None,
                ..Step::of("", "", Value::Null)
                    .user("root")
                    .shell(default_shell())
            }],
            PhaseId::USERS => users::step(habitat)
                .into_iter()
                .map(|values| self.root_step("users.j2", "the user", values, id))
                .collect(),
            PhaseId::ENV => {
                vec![self.root_step("env.j2", "the environment", self.environment(), id)]
            }
            PhaseId::WORKDIR => {
                let at = habitat
                    .environment
                    .get("WORKDIR")
                    .and_then(|entry| entry.span);
                let values = json!({ "path": habitat.workdir, "owner": habitat.user });
                let owned = self.root_step("workdir.j2", "the working directory", values, id);
                let entered = Step {
                    template: None,
                    ..Step::of("", "the working directory", Value::Null)
                };
                let entered = Step {
                    workdir: Some(habitat.workdir.clone()),
                    ..entered.user("root")
                };
                let steps = if habitat.user == "root" {
                    vec![entered]
                } else {
                    vec![
                        owned,
                        Step {
                            said: String::new(),
                            ..entered
                        },
                    ]
                };
                steps.into_iter().map(|step| Step { at, ..step }).collect()
            }
            PhaseId::HABITAT => {
                let paths: Vec<String> = ["SYSTEM_PATH", "SHARED_PATH", "LOCAL_PATH"]
                    .map(|name| habitat.path_of(name))
                    .into();
                let values = json!({ "paths": paths, "owner": habitat.user });
                vec![self.root_step("habitat.j2", "the directories of the layers", values, id)]
            }
            PhaseId::FILES => {
                let mut steps = self.layer_copies();
                for (index, file) in document.files.0.iter().enumerate() {
                    if file.before.is_none() && file.after.is_none() {
                        steps.extend(self.file(index, file, id));
                    }
                }
                steps
            }
            PhaseId::REPOS => {
                let repos = document.repos.0.iter().enumerate();
                repos
                    .filter(|(_, repo)| repo.before.is_none() && repo.after.is_none())
                    .map(|(index, repo)| self.repo(index, repo))
                    .collect()
            }
            PhaseId::TOOLS => {
                let tools = document.tools.0.iter().enumerate();
                tools
                    .filter_map(|(index, tool)| self.tool(index, tool))
                    .collect()
            }
            PhaseId::SCRIPTS => {
                let mut steps = Vec::new();
                for (index, script) in document.scripts.0.iter().enumerate() {
                    if script.before.is_none() && script.after.is_none() {
                        steps.extend(self.script(index, script, id, &self.habitat.workdir));
                    }
                }
                steps
            }
            PhaseId::VERIFY => self.verify().into_iter().collect(),
            PhaseId::TEST => {
                let markers: Vec<Value> = self
                    .tests()
                    .map(|(index, _)| marker(&test_stage(index), "/test.ok"))
                    .collect();
                if markers.is_empty() {
                    return Vec::new();
                }
                vec![
                    Step::of(
                        "gate.j2",
                        "every test has passed",
                        json!({ "markers": markers }),
                    )
                    .user("root")
                    .shell(default_shell()),
                ]
            }
            PhaseId::FINAL => self.last(),
            _ => Vec::new(),
        }
    }
}
