//! A habitat as ordered phases, each with its stages, and each stage with its steps.
//!
//! ```text
//! base → users → env → workdir → habitat → files → repos → tools → scripts ─┬→ final
//!                                                                           ├→ verify
//!                                                                           └→ test-1 … test-n → test
//! ```
//!
//! The stage that bears a phase's name is its last: `pre-P` where something runs before P, `core-P` where something runs
//! after it. Within one place files come before scripts, each in the order of the document.
//!
//! The directory of the configuration is copied to LOCAL_PATH in two parts. What other items name (the configuration
//! itself, the sources of `files`) comes at the very end of scripts, so that a change of it reaches no earlier step;
//! all else comes in the files phase. Tests and repositories are mounted and checked out, not copied.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::caches;
use super::check::{Habitat, is_remote};
use super::document::{Base, FileItem, Mount, Repo, Script, Words};
use super::facts::{Facts, PathKind, Purpose, clean, exclude_patterns};
use super::keys::{Duration, OneOrMore, Text};
use super::phase::PhaseId;
use super::quote;
use super::report::Report;
use super::users;
use crate::dockerfile::{Problem, Span};

/// The habitat's name of its base where that is no registry image.
const BASE_CONTEXT: &str = "habitat-base";
/// The name of the directory of the configuration.
const LOCAL_CONTEXT: &str = "local";
/// Where the files lie that only a test sees.
const TEST_MOUNT: &str = "/run/habitat";

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
        /// Its directory: absolute, or beside the configuration.
        path: String,
        /// The image in it.
        tag: Option<String>,
    },
    /// A commit of a repository, with its `.git`.
    Repository {
        /// What git is asked for.
        url: String,
        /// Whether `url` is a path beside the configuration.
        beside: bool,
        /// Branch, tag or commit.
        reference: Option<String>,
        /// How many commits are kept; `None`: all.
        depth: Option<u32>,
        /// Whether submodules are checked out.
        submodules: bool,
        /// Whether pushing is disabled.
        read_only: bool,
        /// The URL to record, without credentials; `None` for what is beside the configuration.
        remote: Option<String>,
    },
    /// A directory of this machine.
    Directory(Place),
}

/// Directories that a habitat takes files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// That of the configuration.
    Beside,
    /// ROOT.
    Root,
    /// The host's home.
    Home,
}

impl Place {
    fn context(self) -> &'static str {
        match self {
            Self::Beside => LOCAL_CONTEXT,
            Self::Root => "root",
            Self::Home => "home",
        }
    }
}

/// A secret and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSource {
    /// What scripts call it.
    pub id: String,
    /// The variable of the host that holds it.
    pub env: Option<String>,
    /// The file of the host that holds it.
    pub file: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// A habitat as phases, stages and steps.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) phases: Vec<Phase>,
    /// The trees that must be provided.
    pub contexts: Vec<NamedContext>,
    /// The secrets that scripts name.
    pub secrets: Vec<SecretSource>,
    /// Files of the host's home that would become part of the image without having been allowed: a build refuses them.
    pub home_files: Vec<Problem>,
    /// What should be mended, but stops nothing.
    pub warnings: Vec<Problem>,
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
    state: State,
}

/// What instructions leave behind for those after them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
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
    fn of(template: &'static str, said: impl Into<String>, values: Value) -> Self {
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

    fn at(self, span: Span) -> Self {
        Self { at: Some(span), ..self }
    }

    fn user(self, user: impl Into<String>) -> Self {
        Self { user: Some(user.into()), ..self }
    }

    fn shell(self, shell: Vec<String>) -> Self {
        Self { shell: Some(shell), ..self }
    }
}

impl Stage {
    fn new(name: impl Into<String>, from: impl Into<String>, state: State) -> Self {
        Self { name: name.into(), from: from.into(), steps: Vec::new(), state }
    }

    /// Adds a step; what it needs and is so already is not said again.
    fn push(&mut self, mut step: Step) {
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
    /// The paths that [`Plan::of`] must be told about, in the form in which it looks for them: relative to the
    /// directory of the configuration (and to ROOT), or `~/…` in the host's home.
    #[must_use]
    pub fn needed_facts(&self) -> Vec<String> {
        let document = &self.document;
        let files = document.files.0.iter().map(|file| clean(&file.src.value));
        let tests = document.tests.0.iter().map(|test| clean(&test.path.value));
        let repos = document.repos.0.iter().filter(|repo| !is_remote(&repo.url.value)).map(|repo| clean(&repo.url.value));
        let mounts = document.scripts.0.iter().flat_map(|script| &script.mounts.0).filter_map(|mount| match mount {
            Mount::Bind { source, .. } => Some(clean(&source.value)),
            Mount::Tmpfs { .. } => None,
        });
        files.chain(tests).chain(repos).chain(mounts).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Plan {
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
        };
        for (key, span, why) in habitat.document.later() {
            planner
                .report
                .error("habitat::not_yet", span, format!("`{key}` is not supported yet"))
                .label(why)
                .help(format!("leave `{key}` out"));
        }
        PhaseId::all().for_each(|id| planner.phase(id));
        let secrets = planner.secrets();
        let Planner { report, contexts, home_files, phases, .. } = planner;
        let warnings = report.finish()?;
        Ok(Self {
            name: habitat.name.clone(),
            file: habitat.file.clone(),
            phases,
            contexts: contexts.into_values().collect(),
            secrets,
            home_files,
            warnings,
        })
    }
}

struct Planner<'h> {
    habitat: &'h Habitat,
    facts: &'h Facts,
    report: Report,
    contexts: BTreeMap<String, NamedContext>,
    home_files: Vec<Problem>,
    phases: Vec<Phase>,
}

/// Which side of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

impl Planner<'_> {
    fn phase(&mut self, id: PhaseId) {
        let before = self.hooks(id, Side::Before);
        let after = self.hooks(id, Side::After);
        let counts = (before.len(), after.len());
        let core = self.core(id);
        let previous = match id {
            PhaseId::BASE => None,
            PhaseId::VERIFY | PhaseId::TEST | PhaseId::FINAL => Some(PhaseId::SCRIPTS),
            _ => self.phases.last().map(|phase| phase.id),
        };
        let mut state = previous.map(|id| self.end_of(id)).unwrap_or_default();
        let mut from = previous.map_or_else(|| self.base(), |id| id.name().to_owned());
        let mut stages: Vec<Stage> = Vec::new();
        let mut stage = |name: String, steps: Vec<Step>| {
            let mut stage = Stage::new(&name, std::mem::replace(&mut from, name.clone()), std::mem::take(&mut state));
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
        let tests = if id == PhaseId::TEST { self.habitat.document.tests.0.len() } else { 0 };
        if tests > 0 {
            first.push(Step::of("marker.j2", "what says that a test has passed", json!({ "path": "/test.ok" })));
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
        if id == PhaseId::SCRIPTS && !self.habitat.bypass() {
            let named = self.layer_rest();
            stages.iter_mut().rev().take(1).for_each(|stage| stage.push(named.clone()));
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
            stages.iter_mut().rev().take(1).for_each(|stage| stage.push(end.clone()));
        }
        self.phases.push(Phase { id, stages, before: counts.0, after: counts.1 });
    }

    fn end_of(&self, id: PhaseId) -> State {
        let phase = self.phases.iter().find(|phase| phase.id == id);
        phase.and_then(|phase| phase.stages.last()).map(|stage| stage.state.clone()).unwrap_or_default()
    }

    /// What stands after the first FROM.
    fn base(&mut self) -> String {
        let document = &self.habitat.document;
        let kind = match (&document.base_image, &document.base) {
            (Some(image), _) => return image.value.clone(),
            (None, Some(Base::Debian(debian))) => {
                let packages: BTreeSet<String> = debian.packages.0.iter().map(|name| name.value.clone()).collect();
                let arch = debian.arch.as_ref().map_or_else(|| self.facts.debian_arch.clone(), |arch| arch.value.clone());
                ContextKind::Debian {
                    suite: debian.suite.value.clone(),
                    packages: packages.into_iter().collect(),
                    mirror: debian.mirror.as_ref().map(|mirror| mirror.value.clone()),
                    arch,
                }
            }
            (None, Some(Base::Oci(oci))) => {
                let (path, tag) = match oci.path.value.rsplit_once(':') {
                    Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
                    _ => (oci.path.value.as_str(), None),
                };
                ContextKind::OciLayout { path: path.to_owned(), tag }
            }
            // Refused by name elsewhere.
            (None, Some(Base::Dockerfile(_)) | None) => return "scratch".to_owned(),
        };
        let span = match &document.base {
            Some(Base::Debian(debian)) => Some(debian.span),
            Some(Base::Oci(oci)) => Some(oci.span),
            _ => None,
        };
        self.context(BASE_CONTEXT, kind, span);
        BASE_CONTEXT.to_owned()
    }

    fn context(&mut self, name: &str, kind: ContextKind, span: Option<Span>) {
        self.contexts.entry(name.to_owned()).or_insert_with(|| NamedContext { name: name.to_owned(), kind, span });
    }

    fn limit(&self, own: Option<Duration>, phase: PhaseId) -> Option<Duration> {
        own.or_else(|| self.habitat.document.timeout.of(phase))
    }

    /// The steps that run on one side of a phase: files, then scripts.
    fn hooks(&mut self, id: PhaseId, side: Side) -> Vec<Step> {
        let document = &self.habitat.document;
        let here = |before: &Option<OneOrMore<PhaseId>>, after: &Option<OneOrMore<PhaseId>>| {
            let places = if side == Side::Before { before } else { after };
            places.as_ref().is_some_and(|places| places.0.contains(&id))
        };
        let mut steps = Vec::new();
        for (index, file) in document.files.0.iter().enumerate().filter(|(_, file)| here(&file.before, &file.after)) {
            steps.extend(self.file(index, file));
        }
        for (index, script) in document.scripts.0.iter().enumerate().filter(|(_, script)| here(&script.before, &script.after)) {
            steps.extend(self.script(index, script, id));
        }
        steps
    }

    fn core(&mut self, id: PhaseId) -> Vec<Step> {
        let habitat = self.habitat;
        let document = &habitat.document;
        match id {
            PhaseId::BASE => vec![Step {
                template: None,
                ..Step::of("", "", Value::Null).user("root").shell(default_shell())
            }],
            PhaseId::USERS => users::step(habitat).into_iter().map(|values| self.root_step("users.j2", "the user", values, id)).collect(),
            PhaseId::ENV => vec![self.root_step("env.j2", "the environment", self.environment(), id)],
            PhaseId::WORKDIR => {
                let at = habitat.environment.get("WORKDIR").and_then(|entry| entry.span);
                let values = json!({ "path": habitat.workdir, "owner": habitat.user });
                let owned = self.root_step("workdir.j2", "the working directory", values, id);
                let entered = Step { template: None, ..Step::of("", "the working directory", Value::Null) };
                let entered = Step { workdir: Some(habitat.workdir.clone()), ..entered.user("root") };
                let steps = if habitat.user == "root" { vec![entered] } else { vec![owned, Step { said: String::new(), ..entered }] };
                steps.into_iter().map(|step| Step { at, ..step }).collect()
            }
            PhaseId::HABITAT => {
                let paths: Vec<String> = ["SYSTEM_PATH", "SHARED_PATH", "LOCAL_PATH"].map(|name| habitat.path_of(name)).into();
                let values = json!({ "paths": paths, "owner": habitat.user });
                vec![self.root_step("habitat.j2", "the directories of the layers", values, id)]
            }
            PhaseId::FILES => {
                let mut steps = Vec::new();
                if !habitat.bypass() {
                    steps.push(self.layer());
                }
                for (index, file) in document.files.0.iter().enumerate() {
                    if file.before.is_none() && file.after.is_none() {
                        steps.extend(self.file(index, file));
                    }
                }
                steps
            }
            PhaseId::REPOS => {
                let repos: Vec<(usize, &Repo)> = document.repos.0.iter().enumerate().collect();
                repos.into_iter().map(|(index, repo)| self.repo(index, repo)).collect()
            }
            PhaseId::SCRIPTS => {
                let mut steps = Vec::new();
                for (index, script) in document.scripts.0.iter().enumerate() {
                    if script.before.is_none() && script.after.is_none() {
                        steps.extend(self.script(index, script, id));
                    }
                }
                steps
            }
            PhaseId::VERIFY => self.verify().into_iter().collect(),
            PhaseId::TEST => {
                let markers: Vec<Value> = (1..=document.tests.0.len()).map(|number| marker(&format!("test-{number}"), "/test.ok")).collect();
                if markers.is_empty() {
                    return Vec::new();
                }
                vec![Step::of("gate.j2", "every test has passed", json!({ "markers": markers })).user("root").shell(default_shell())]
            }
            PhaseId::FINAL => self.last(),
            _ => Vec::new(),
        }
    }

    /// A RUN of shmocker's own, by root.
    fn root_step(&self, template: &'static str, said: &str, values: Value, phase: PhaseId) -> Step {
        let extras = self.limit(None, phase).map(|limit| format!("timeout={}", spoken(limit))).unwrap_or_default();
        Step { extras, ..Step::of(template, said, values).user("root").shell(default_shell()) }
    }

    fn environment(&self) -> Value {
        let entries = self.habitat.environment.entries();
        let list: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.name,
                    "value": quote::env_value(&entry.parts),
                    "from": entry.span.map(|span| format!("{}:{}", self.habitat.file, span.line)),
                })
            })
            .collect();
        let exported: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).filter(|name| !quote::READ_ONLY.contains(name)).collect();
        json!({ "entries": list, "exported": exported })
    }

    fn chown(&self, user: &str) -> Option<String> {
        (user != "root" && user != "root:root").then(|| format!("--chown={user}"))
    }

    /// The directory of the configuration without what other items name.
    fn layer(&mut self) -> Step {
        let mut flags = self.layer_flags();
        flags.push(format!("--exclude={}", self.facts.config));
        let named: BTreeSet<String> = self.habitat.document.files.0.iter().map(|file| clean(&file.src.value)).collect();
        let named = named.into_iter().filter(|path| !path.is_empty() && !path.starts_with("~/"));
        flags.extend(named.map(|path| format!("--exclude={path}")));
        self.layer_copy("the directory of the configuration, without what other items name", flags)
    }

    /// All of the directory of the configuration.
    fn layer_rest(&mut self) -> Step {
        let flags = self.layer_flags();
        self.layer_copy("the configuration, and what its items name", flags)
    }

    fn layer_copy(&mut self, said: &str, flags: Vec<String>) -> Step {
        self.context(LOCAL_CONTEXT, ContextKind::Directory(Place::Beside), None);
        let dest = format!("{}/", self.habitat.path_of("LOCAL_PATH").trim_end_matches('/'));
        Step::of("copy.j2", said, json!({ "flags": flags, "paths": quote::copy_paths(".", &dest) }))
    }

    fn layer_flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--from={LOCAL_CONTEXT}")];
        flags.extend(self.chown(&self.habitat.user));
        flags.push("--exclude=.git".to_owned());
        let document = &self.habitat.document;
        let tests = document.tests.0.iter().map(|test| clean(&test.path.value));
        let repos = document.repos.0.iter().filter(|repo| !is_remote(&repo.url.value)).map(|repo| clean(&repo.url.value));
        let outside: BTreeSet<String> = tests.chain(repos).collect();
        let ignored = self.facts.ignore.iter().flat_map(|ignore| exclude_patterns(ignore, ""));
        flags.extend(ignored.chain(outside).map(|path| format!("--exclude={path}")));
        flags
    }

    /// Where a relative path is found, and what it is there.
    fn find(&mut self, path: &Text) -> Option<(Place, String, PathKind)> {
        let wanted = clean(&path.value);
        if let Some(rest) = wanted.strip_prefix("~/") {
            return self.facts.beside.get(&wanted).map(|kind| (Place::Home, rest.to_owned(), *kind));
        }
        match (self.facts.beside.get(&wanted), self.facts.at_root.get(&wanted)) {
            (Some(kind), None) => Some((Place::Beside, wanted, *kind)),
            (None, Some(kind)) => Some((Place::Root, wanted, *kind)),
            (None, None) => None,
            (Some(kind), Some(_)) => {
                self.report
                    .error("habitat::ambiguous_path", path.span, format!("`{wanted}` is in two places"))
                    .label("it is beside this file and at ROOT")
                    .help(format!("rename one of the two: `{wanted}` beside {}, or ROOT/{wanted}", self.habitat.file));
                Some((Place::Beside, wanted, *kind))
            }
        }
    }

    fn file(&mut self, index: usize, file: &FileItem) -> Option<Step> {
        let is_home = file.src.value.starts_with("~/");
        if is_home && !file.allow_home.is_some_and(|flag| flag.value) {
            let problem = Problem::warning(
                "habitat::home_file",
                format!("`{}` is a file of your home, and would become part of the image", file.src.value),
                file.src.span,
            );
            let problem = problem
                .label("everyone who has the image can read it")
                .help("add `allow_home: true` to the item, or give `--allow home`");
            self.home_files.push(problem.clone());
            self.report.push(problem);
        }
        let found = match self.find(&file.src) {
            Some(found) => found,
            None if file.optional.is_some_and(|flag| flag.value) => return None,
            None if is_home && self.facts.purpose == Purpose::Render => {
                (Place::Home, clean(&file.src.value[2..]), PathKind::File)
            }
            None => {
                self.report
                    .error("habitat::missing_file", file.src.span, format!("`{}` does not exist", file.src.value))
                    .label("there is no such file beside this one")
                    .help("make it, mend the path, or add `optional: true`");
                return None;
            }
        };
        let (place, source, kind) = found;
        self.context(place.context(), ContextKind::Directory(place), None);
        let mut dest = self.habitat.at_home(&file.dest.value);
        if dest.ends_with('/') && kind == PathKind::Directory {
            dest.push_str(source.rsplit('/').next().unwrap_or_default());
        }
        if kind == PathKind::Directory && !dest.ends_with('/') {
            dest.push('/');
        }
        let mut flags = vec![format!("--from={}", place.context())];
        let home_owner = file.dest.value.starts_with("~/").then(|| self.habitat.user.clone());
        let owner = file.owner.as_ref().map(|owner| owner.value.clone()).or(home_owner);
        flags.extend(owner.and_then(|owner| self.chown(&owner)));
        if let Some(mode) = file.mode {
            flags.push(format!("--chmod={}", chmod(mode.bits, kind)));
        }
        if kind == PathKind::Directory
            && place == Place::Beside
            && let Some(ignore) = &self.facts.ignore
        {
            flags.extend(exclude_patterns(ignore, &source).into_iter().map(|pattern| format!("--exclude={pattern}")));
        }
        let said = match &file.description {
            Some(description) => description.value.clone(),
            None => format!("files[{index}] {}", file.src.value),
        };
        Some(Step::of("copy.j2", said, json!({ "flags": flags, "paths": quote::copy_paths(&source, &dest) })).at(file.span))
    }

    fn repo(&mut self, index: usize, repo: &Repo) -> Step {
        let name = format!("repo-{}", index + 1);
        let beside = !is_remote(&repo.url.value);
        if beside && self.find(&repo.url).is_none() {
            self.report
                .error("habitat::missing_file", repo.url.span, format!("`{}` does not exist", repo.url.value))
                .label("there is no such repository or bundle beside this file")
                .help("mend the path, or give a URL");
        }
        let shallow = repo.shallow.is_none_or(|flag| flag.value);
        let depth = repo.depth.map(|depth| depth.value).or(shallow.then_some(1));
        let kind = ContextKind::Repository {
            url: if beside { clean(&repo.url.value) } else { repo.url.value.clone() },
            beside,
            reference: repo.branch.as_ref().or(repo.reference.as_ref()).map(|reference| reference.value.clone()),
            depth,
            submodules: repo.submodules.is_some_and(|flag| flag.value),
            read_only: repo.access == Some(super::document::Access::Read),
            remote: (!beside).then(|| without_credentials(&repo.url.value)),
        };
        self.context(&name, kind, Some(repo.span));
        let mut flags = vec![format!("--from={name}")];
        flags.extend(self.chown(&self.habitat.user));
        let dest = format!("{}/", self.habitat.at_home(&repo.path.value).trim_end_matches('/'));
        let said = format!("repos[{index}] {}", without_credentials(&repo.url.value));
        Step::of("copy.j2", said, json!({ "flags": flags, "paths": quote::copy_paths("/", &dest) })).at(repo.span)
    }

    fn script(&mut self, index: usize, script: &Script, phase: PhaseId) -> Vec<Step> {
        let user = script.run_as.as_ref().map_or_else(|| self.habitat.user.clone(), |user| user.value.clone());
        let mut flags = Vec::new();
        for mount in &script.mounts.0 {
            match mount {
                Mount::Tmpfs { target } => flags.push(format!("--mount=type=tmpfs,target={}", target.value)),
                Mount::Bind { source, target, writable } => {
                    let Some((place, path, _)) = self.find(source) else {
                        self.report
                            .error("habitat::missing_file", source.span, format!("`{}` does not exist", source.value))
                            .label("there is no such path beside this file");
                        continue;
                    };
                    self.context(place.context(), ContextKind::Directory(place), None);
                    let rw = if *writable { ",rw" } else { "" };
                    flags.push(format!("--mount=type=bind,from={},source={path},target={target}{rw}", place.context()));
                }
            }
        }
        for cache in script.cache.iter().flat_map(|caches| &caches.0) {
            flags.extend(self.cache(cache, &user));
        }
        for secret in script.secrets.iter().flat_map(|secrets| &secrets.0) {
            let id = &secret.id.value;
            flags.push(match &secret.env {
                Some(env) => format!("--mount=type=secret,id={id},env={},required=true", env.value),
                None if user == "root" => format!("--mount=type=secret,id={id},required=true"),
                None => format!("--mount=type=secret,id={id},mode=0444,required=true"),
            });
        }
        if let Some(network) = script.network.filter(|network| *network != super::document::Network::Default) {
            flags.push(format!("--network={}", network.word()));
        }
        let exports: Vec<String> =
            script.env.0.iter().map(|(name, value)| format!("export {}={}", name.value, quote::shell(&value.value))).collect();
        let shell = script.shell.as_ref().map_or_else(default_shell, |shell| own_shell(&shell.0));
        let extras = self.limit(script.timeout, phase).map(|limit| format!("timeout={}", spoken(limit))).unwrap_or_default();
        let count = script.commands.0.len();
        let workdir = if phase < PhaseId::WORKDIR { "/" } else { self.habitat.workdir.as_str() };
        let named = script.name.as_ref().map_or_else(|| format!("scripts[{index}]"), |name| format!("script {}", name.value));
        script
            .commands
            .0
            .iter()
            .enumerate()
            .map(|(number, command)| {
                let said = if count > 1 { format!("{named}, command {} of {count}", number + 1) } else { named.clone() };
                let lines: Vec<&str> = exports.iter().map(String::as_str).chain([command.0.value.trim_end_matches('\n')]).collect();
                let values = json!({ "flags": flags, "command": quote::run(&lines.join("\n")) });
                let mut step = Step::of("script.j2", said, values).at(command.0.span).user(&user).shell(shell.clone());
                step.workdir = Some(workdir.to_owned());
                step.extras.clone_from(&extras);
                step
            })
            .collect()
    }

    fn cache(&self, cache: &Text, user: &str) -> Vec<String> {
        let directories: Vec<(String, bool)> = match caches::find(&cache.value) {
            Some(known) => known.iter().map(|directory| (directory.path.to_owned(), directory.locked)).collect(),
            None => vec![(cache.value.clone(), false)],
        };
        let home = match user.split(':').next() {
            Some("root") => "/root".to_owned(),
            Some(other) if other != self.habitat.user => format!("/home/{other}"),
            _ => self.habitat.home.clone(),
        };
        directories
            .into_iter()
            .map(|(path, locked)| {
                let target = path.strip_prefix("~/").map_or_else(|| path.clone(), |rest| format!("{home}/{rest}"));
                let mode = if user == "root" { "" } else { ",mode=0777" };
                let sharing = if locked { ",sharing=locked" } else { "" };
                format!("--mount=type=cache,target={target}{mode}{sharing}")
            })
            .collect()
    }

    fn verify(&self) -> Option<Step> {
        let required = &self.habitat.document.verify_fs.as_ref()?.required_files.0;
        if required.is_empty() {
            return None;
        }
        let checks: Vec<Value> = required
            .iter()
            .map(|file| {
                let mut words = vec![format!("{}:{}", self.habitat.file, file.span.line), self.habitat.at_home(&file.path.value)];
                let mut put = |name: &str, value: Option<String>| words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
                put("absent", file.absent.filter(|flag| flag.value).map(|_| "yes".to_owned()));
                put("type", file.kind.map(|kind| kind.word().to_owned()));
                put("mode", file.mode.map(|mode| format!("{:04o}", mode.bits)));
                put("owner", file.owner.as_ref().map(|owner| owner.value.clone()));
                put("contains", file.contains.as_ref().map(|text| text.value.clone()));
                put("sha256", file.sha256.as_ref().map(|digest| digest.value.to_ascii_lowercase()));
                let words: Vec<String> = words.iter().map(|word| quote::shell(word)).collect();
                json!(words.join(" "))
            })
            .collect();
        let step = self.root_step("verify.j2", "verify-fs", json!({ "checks": checks }), PhaseId::VERIFY);
        let span = self.habitat.document.verify_fs.as_ref().map(|verify| verify.span);
        Some(Step { at: span, ..step })
    }

    /// A stage for each test, beside the one that gathers them.
    fn add_test_stages(&mut self, stages: &mut Vec<Stage>) {
        let judge = {
            let mut stage = Stage::new("tap-judge", "scratch", State::default());
            stage.push(Step::of("judge.j2", "what judges the TAP that a test prints", json!({})));
            stage
        };
        let Some(root) = stages.iter().find(|stage| stage.name == "pre-test") else { return };
        let state = root.state.clone();
        let mut leaves = vec![judge];
        for (index, test) in self.habitat.document.tests.0.iter().enumerate() {
            let (place, path) = match self.find(&test.path) {
                Some((place, path, _)) => (place, path),
                None => {
                    let message = format!("the test `{}` does not exist", test.path.value);
                    let entry = match self.facts.purpose {
                        Purpose::Build => self.report.error("habitat::missing_file", test.path.span, message),
                        Purpose::Render => self.report.warning("habitat::missing_file", test.path.span, message),
                    };
                    entry.label("there is no such file beside this one").help("make it, or mend the path");
                    (Place::Beside, clean(&test.path.value))
                }
            };
            self.context(place.context(), ContextKind::Directory(place), None);
            let program = format!("{TEST_MOUNT}/{}", path.rsplit('/').next().unwrap_or_default());
            let flags = [
                format!("--mount=type=bind,from=tap-judge,source=/judge,target={TEST_MOUNT}/judge"),
                format!("--mount=type=bind,from={},source={path},target={program}", place.context()),
            ];
            let user = test.run_as.as_ref().map_or_else(|| self.habitat.user.clone(), |user| user.value.clone());
            let limit = self.limit(test.timeout, PhaseId::TEST);
            let said = format!("tests[{index}] {}", test.path.value);
            let values = json!({ "flags": flags, "judge": format!("{TEST_MOUNT}/judge"), "program": quote::shell(&program) });
            let mut step = Step::of("test.j2", said, values).at(test.span).user(user).shell(default_shell());
            step.workdir = Some(self.habitat.workdir.clone());
            step.extras = limit.map(|limit| format!("timeout={} ", spoken(limit))).unwrap_or_default() + "tap";
            let mut stage = Stage::new(format!("test-{}", index + 1), "pre-test", state.clone());
            stage.push(step);
            leaves.push(stage);
        }
        let at = stages.iter().position(|stage| stage.name == "pre-test").map_or(0, |index| index + 1);
        stages.splice(at..at, leaves);
    }

    fn last(&self) -> Vec<Step> {
        let document = &self.habitat.document;
        let entry = document.entry.as_ref();
        let command = match entry.and_then(|entry| entry.command.as_ref()) {
            None => None,
            Some(Words::Line(line)) => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), line.value.clone()]),
            Some(Words::List(words)) => Some(words.iter().map(|word| word.value.clone()).collect()),
        };
        let tty = entry.and_then(|entry| entry.tty).map(|flag| ("io.shmocker.habitat.tty".to_owned(), flag.value.to_string()));
        let own = [
            ("io.shmocker.habitat.name".to_owned(), self.habitat.name.clone()),
            ("io.shmocker.habitat.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let given = document.labels.0.iter().map(|(name, value)| (name.value.clone(), value.value.clone()));
        let labels: BTreeMap<String, String> = own.into_iter().chain(tty).chain(given).collect();
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", quote::label(value))).collect();
        let values = json!({
            "labels": labels,
            "command": command.map(|words| quote::json(&words)),
            "init": entry.and_then(|entry| entry.init_command.as_ref()).map(|init| quote::shell(init.0.value.trim_end())),
            "delay": entry.and_then(|entry| entry.startup_delay).map(|delay| delay.value),
        });
        let step = Step::of("final.j2", "what the image says and starts", values);
        let step = Step { at: entry.map(|entry| entry.span), ..step };
        let gates: Vec<Value> = self
            .phases
            .iter()
            .filter(|phase| matches!(phase.id, PhaseId::VERIFY | PhaseId::TEST))
            .filter_map(|phase| match phase.id {
                PhaseId::VERIFY if self.verify().is_some() => Some(marker("verify", "/verify.ok")),
                PhaseId::TEST if !document.tests.0.is_empty() => Some(marker("test", "/test.ok")),
                _ => None,
            })
            .collect();
        let gate = (!gates.is_empty()).then(|| {
            let said = "only what has been verified and tested becomes an image";
            Step::of("gate.j2", said, json!({ "markers": gates })).user("root").shell(default_shell())
        });
        gate.into_iter().chain([step]).collect()
    }

    fn secrets(&self) -> Vec<SecretSource> {
        let document = &self.habitat.document;
        let used: BTreeSet<&str> = document
            .scripts
            .0
            .iter()
            .flat_map(|script| script.secrets.iter().flat_map(|secrets| &secrets.0))
            .map(|secret| secret.id.as_str())
            .collect();
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.value.clone());
        let declared = document.secrets.0.iter().filter(|secret| used.contains(secret.id.as_str()));
        declared
            .map(|secret| SecretSource { id: secret.id.value.clone(), env: text(&secret.env), file: text(&secret.file), span: secret.span })
            .collect()
    }
}

/// A mount that makes a stage wait for another. It lies in /dev, which is no part of any image.
fn marker(stage: &str, source: &str) -> Value {
    json!(format!("--mount=type=bind,from={stage},source={source},target=/dev/habitat/{stage}.ok"))
}

/// What every RUN is run by: the environment first, then bash where there is one.
fn default_shell() -> Vec<String> {
    let script = format!("{LOAD}; if command -v bash >/dev/null; then exec bash -eo pipefail -c \"$0\"; fi; exec sh -e -c \"$0\"");
    ["/bin/sh".to_owned(), "-c".to_owned(), script].into()
}

const LOAD: &str = "if [ -r /etc/profile.d/habitat-env.sh ]; then . /etc/profile.d/habitat-env.sh; fi";

/// The same with a script's own shell.
fn own_shell(words: &[String]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| quote::shell(word)).collect();
    ["/bin/sh".to_owned(), "-c".to_owned(), format!("{LOAD}; exec {} -c \"$0\"", words.join(" "))].into()
}

/// `--chmod`. A directory's own mode has `x` where `r` is set.
fn chmod(bits: u32, kind: PathKind) -> String {
    let directory = bits | (bits & 0o444) >> 2;
    if kind == PathKind::File || directory == bits {
        return format!("{bits:04o}");
    }
    let clause = |who: char, shift: u32| {
        let bits = bits >> shift & 7;
        let letters: String = [(4, 'r'), (2, 'w')].iter().filter(|(bit, _)| bits & bit != 0).map(|(_, letter)| *letter).collect();
        let execute = match (bits & 1 != 0, bits & 4 != 0) {
            (true, _) => "x",
            (false, true) => "X",
            (false, false) => "",
        };
        format!("{who}={letters}{execute}")
    };
    [clause('u', 6), clause('g', 3), clause('o', 0)].join(",")
}

/// A limit as Go and `# shmocker:` write it.
fn spoken(limit: Duration) -> String {
    match limit.ms {
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// A URL without the user and password in it; `git@` of ssh is kept.
pub(super) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    match host.rsplit_once('@') {
        Some((user, _)) if scheme == "ssh" && !user.contains(':') => url.to_owned(),
        Some((_, host)) => format!("{scheme}://{host}/{path}"),
        None => url.to_owned(),
    }
}
