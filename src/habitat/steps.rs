//! What each item of a habitat becomes: its step, with the values that a template fills in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::caches::Caches;
use super::check::{Habitat, is_remote};
use super::document::{FileItem, Network, Script, TestItem};
use super::facts::{PathKind, Purpose, clean, exclude_patterns};
use super::keys::Text;
use super::limits::Limits;
use super::mount::Mount;
use super::phase::PhaseId;
use super::plan::{ContextKind, Place, PlannedTest, Planner, SecretSource, Stage, State, Step};
use super::quote;
use super::when::When;
use crate::dockerfile::{Problem, Span};

/// Where the files lie that only a test sees.
const TEST_MOUNT: &str = "/run/habitat";
/// Where a directory lies while its modes are set.
const PREPARED: &str = "/prepared";

impl<'h> Planner<'h> {
    /// A RUN of shmocker's own, by root.
    pub(super) fn root_step(
        &self,
        template: &'static str,
        said: &str,
        values: Value,
        phase: PhaseId,
    ) -> Step {
        let extras = self
            .limit(None, phase)
            .map(|limit| format!("timeout={}", limit.spoken()))
            .unwrap_or_default();
        Step {
            extras,
            ..Step::of(template, said, values)
                .user("root")
                .shell(default_shell())
        }
    }

    pub(super) fn environment(&self) -> Value {
        let entries = self.habitat.environment.entries();
        let list: Vec<Value> = entries
            .iter()
            .map(|entry| {
                json!({
                    "name": entry.name,
                    "value": quote::env_value(&entry.parts),
                    "from": entry.span.map(|span| self.habitat.layers.line_of(span)),
                })
            })
            .collect();
        let exported: Vec<&str> = entries
            .iter()
            .map(|entry| entry.name.as_str())
            .filter(|name| !quote::READ_ONLY.contains(name))
            .collect();
        json!({ "entries": list, "exported": exported })
    }

    pub(super) fn chown(&self, user: &str) -> Option<String> {
        (user != "root" && user != "root:root").then(|| format!("--chown={user}"))
    }

    /// The layers whose directories become a part of the image: their place in the order, and where they are copied to.
    fn copied_layers(&self) -> Vec<(usize, String)> {
        if self.habitat.bypass() {
            return Vec::new();
        }
        let layers = self.habitat.layers.all().iter().enumerate();
        layers
            .filter(|(index, _)| {
                let facts = self.facts.layers.get(*index);
                facts.is_some_and(|facts| facts.in_root.is_some())
            })
            .filter_map(|(index, layer)| {
                let path = self.habitat.path_of(layer.kind.path_name()?);
                Some((index, format!("{}/", path.trim_end_matches('/'))))
            })
            .collect()
    }

    /// The directories of the layers without what other items name.
    pub(super) fn layer_copies(&mut self) -> Vec<Step> {
        let layers = self.copied_layers();
        let sources = |habitat: &Habitat| -> Vec<Text> {
            let files = habitat.document.files.0.iter();
            files.map(|file| file.src.clone()).collect()
        };
        layers
            .into_iter()
            .map(|(index, dest)| {
                let mut flags = self.layer_flags(index);
                flags.push(format!("--exclude={}", self.facts.layers[index].config));
                let mut named = self.inside(index, sources(self.habitat));
                named.extend(self.layers_below(index));
                flags.extend(named.iter().map(|path| format!("--exclude={path}")));
                let said = format!(
                    "the directory of {}, without what other items name",
                    self.habitat.layers.all()[index].file
                );
                self.layer_copy(index, &dest, &said, flags)
            })
            .collect()
    }

    /// All of the directories of the layers.
    pub(super) fn layer_rests(&mut self) -> Vec<Step> {
        let layers = self.copied_layers();
        layers
            .into_iter()
            .map(|(index, dest)| {
                let flags = self.layer_flags(index);
                let said = format!(
                    "{}, and what items name of its directory",
                    self.habitat.layers.all()[index].file
                );
                self.layer_copy(index, &dest, &said, flags)
            })
            .collect()
    }

    fn layer_copy(&mut self, index: usize, dest: &str, said: &str, flags: Vec<String>) -> Step {
        self.directory(Place::Layer(index));
        let paths = quote::copy_paths(".", dest);
        Step::of("copy.j2", said, json!({ "flags": flags, "paths": paths }))
    }

    fn layer_flags(&mut self, index: usize) -> Vec<String> {
        let mut flags = vec![format!("--from={}", self.context_name(Place::Layer(index)))];
        flags.extend(self.chown(&self.habitat.user));
        flags.push("--exclude=.git".to_owned());
        // Which state of its sources an image was made of is no part of what it is made of.
        let lock = std::path::Path::new(&self.facts.layers[index].config).with_extension("lock");
        flags.push(format!("--exclude={}", lock.display()));
        let ignored = self.facts.layers[index].ignore.iter();
        let mut excluded: Vec<String> = ignored
            .flat_map(|ignore| exclude_patterns(ignore, ""))
            .collect();
        let document = &self.habitat.document;
        let tests = document.tests.0.iter().map(|test| test.path.clone());
        let repos = document
            .repos
            .0
            .iter()
            .map(|repo| repo.url.clone())
            .filter(|url| !is_remote(&url.value));
        let outside = self.inside(index, tests.chain(repos).collect());
        excluded.extend(outside);
        flags.extend(excluded.iter().map(|path| format!("--exclude={path}")));
        flags
    }

    /// Those of some paths that lie in the directory of a layer, as seen from there; sorted, each once.
    fn inside(&self, index: usize, paths: Vec<Text>) -> BTreeSet<String> {
        let in_root = self.facts.layers[index].in_root.as_deref();
        paths
            .iter()
            .filter_map(|path| match self.look(path).first()? {
                (Place::Layer(found), path, _) if *found == index => Some(path.clone()),
                (Place::Root, path, _) => {
                    let below = path.strip_prefix(in_root?)?.strip_prefix('/')?;
                    Some(below.to_owned())
                }
                _ => None,
            })
            .filter(|path| !path.is_empty())
            .collect()
    }

    /// The files of other layers that lie in the directory of a layer, as seen from there.
    fn layers_below(&self, index: usize) -> Vec<String> {
        let in_root = |index: usize| self.facts.layers.get(index)?.in_root.as_deref();
        let Some(own) = in_root(index) else {
            return Vec::new();
        };
        let all = self.facts.layers.iter().enumerate();
        all.filter_map(|(other, facts)| {
            let below = in_root(other)?.strip_prefix(own)?.strip_prefix('/')?;
            Some(format!("{below}/{}", facts.config))
        })
        .collect()
    }

    /// What the context is called that a directory is.
    pub(super) fn context_name(&self, place: Place) -> String {
        match place {
            Place::Layer(index) => self.habitat.layers.all()[index].name.clone(),
            Place::Root => "root".to_owned(),
            Place::Home => "home".to_owned(),
        }
    }

    /// Asks for a directory as a context.
    pub(super) fn directory(&mut self, place: Place) {
        let name = self.context_name(place);
        self.context(&name, ContextKind::Directory(place), None);
    }

    /// Every place where a relative path is found, and what it is there.
    fn look(&self, path: &Text) -> Vec<(Place, String, PathKind)> {
        let wanted = clean(&path.value);
        if let Some(below) = wanted.strip_prefix("~/") {
            let found = self.facts.at_home.get(below);
            return found
                .map(|kind| (Place::Home, below.to_owned(), *kind))
                .into_iter()
                .collect();
        }
        let layer = self.habitat.layers.index_of(path.span);
        let beside = self
            .facts
            .layers
            .get(layer)
            .and_then(|layer| layer.beside.get(&wanted))
            .map(|kind| (Place::Layer(layer), wanted.clone(), *kind));
        let at_root = self
            .facts
            .at_root
            .get(&wanted)
            .map(|kind| (Place::Root, wanted, *kind));
        beside.into_iter().chain(at_root).collect()
    }

    /// Where a relative path is found, and what it is there.
    pub(super) fn find(&mut self, path: &Text) -> Option<(Place, String, PathKind)> {
        let found = self.look(path);
        if found.len() > 1 {
            let wanted = clean(&path.value);
            let file = &self.habitat.layers.locate(path.span).0.file;
            let help = format!("rename one of the two: `{wanted}` beside {file}, or ROOT/{wanted}");
            self.report
                .error(
                    "habitat::ambiguous_path",
                    path.span,
                    format!("`{wanted}` is in two places"),
                )
                .label("it is beside this file and at ROOT")
                .help(help);
        }
        found.into_iter().next()
    }

    pub(super) fn file(&mut self, index: usize, file: &FileItem, phase: PhaseId) -> Vec<Step> {
        let is_home = file.src.value.starts_with("~/");
        if is_home && !file.allow_home.is_some_and(|flag| flag.value) {
            let problem = Problem::warning(
                "habitat::home_file",
                format!(
                    "`{}` is a file of your home, and would become part of the image",
                    file.src.value
                ),
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
            None if file.optional.is_some_and(|flag| flag.value) => return Vec::new(),
            None if is_home && self.facts.purpose == Purpose::Render => {
                (Place::Home, clean(&file.src.value[2..]), PathKind::File)
            }
            None => {
                self.report
                    .error(
                        "habitat::missing_file",
                        file.src.span,
                        format!("`{}` does not exist", file.src.value),
                    )
                    .label("there is no such file beside this one")
                    .help("make it, mend the path, or add `optional: true`");
                return Vec::new();
            }
        };
        let (place, source, kind) = found;
        self.directory(place);
        let mut dest = self.habitat.at_home(&file.dest.value);
        if dest.ends_with('/') && kind == PathKind::Directory {
            dest.push_str(source.rsplit('/').next().unwrap_or_default());
        }
        let home_owner = file
            .dest
            .value
            .starts_with("~/")
            .then(|| self.habitat.user.clone());
        let owner = file
            .owner
            .as_ref()
            .map(|owner| owner.value.clone())
            .or(home_owner);
        let chown = owner.as_ref().and_then(|owner| self.chown(owner));
        let mut steps = Vec::new();
        let mut flags = vec![format!("--from={}", self.context_name(place))];
        let ignore = match place {
            Place::Layer(index) => self.facts.layers[index].ignore.as_ref(),
            Place::Root => self.facts.root_ignore.as_ref(),
            Place::Home => None,
        };
        if kind == PathKind::Directory
            && let Some(ignore) = ignore
        {
            flags.extend(
                exclude_patterns(ignore, &source)
                    .into_iter()
                    .map(|pattern| format!("--exclude={pattern}")),
            );
        }
        let mut source = source;
        if let Some(mode) = file.mode {
            // A directory can be entered by whoever may read it.
            let directory = mode.bits | (mode.bits & 0o444) >> 2;
            let name = format!("files-{}", index + 1);
            if directory == mode.bits
                || (kind == PathKind::File && self.is_surely_there(&dest, phase))
            {
                flags.push(format!("--chmod={:04o}", mode.bits));
            } else if kind == PathKind::File {
                // COPY gives the directories that it makes the same mode, and nobody could enter them.
                flags.push(format!("--chmod={:04o}", mode.bits));
                if dest.ends_with('/') {
                    dest.push_str(source.rsplit('/').next().unwrap_or_default());
                }
                self.prepare_file(&name, (flags, &source, file.span));
                flags = vec![format!("--from={name}")];
                source = PREPARED.to_owned();
            } else {
                let modes = (format!("{directory:04o}"), format!("{:04o}", mode.bits));
                let made = json!({
                    "path": dest,
                    "mode": modes.0,
                    "owner": with_group(owner.as_deref().unwrap_or("root")),
                });
                let made = Step::of("directory.j2", "the directory itself", made).at(file.span);
                steps.push(made.user("root").shell(default_shell()));
                self.prepare(&name, phase, (flags, &source, file.span), modes);
                flags = vec![format!("--from={name}")];
                source = PREPARED.to_owned();
            }
        }
        flags.splice(1..1, chown);
        let said = match &file.description {
            Some(description) => description.value.clone(),
            None => format!("files[{index}] {}", file.src.value),
        };
        let paths = quote::copy_paths(&source, &dest);
        let values = json!({ "flags": flags, "paths": paths });
        steps.push(Step::of("copy.j2", said, values).at(file.span));
        steps
    }

    /// Whether the directory that a path is in is in every image, or was made by an earlier phase.
    fn is_surely_there(&self, dest: &str, phase: PhaseId) -> bool {
        const EVERYWHERE: [&str; 6] = ["", "/etc", "/tmp", "/usr", "/usr/bin", "/var"];
        let (parent, _) = dest.rsplit_once('/').unwrap_or_default();
        let is_home = phase > PhaseId::USERS && parent == self.habitat.home.trim_end_matches('/');
        EVERYWHERE.contains(&parent) || is_home
    }

    /// A stage in which a file gets its mode, before it is copied to where it belongs.
    fn prepare_file(&mut self, name: &str, (flags, source, span): (Vec<String>, &str, Span)) {
        if self.is_prepared(name) {
            return;
        }
        let mut stage = Stage::new(name, "scratch", State::default());
        let paths = quote::copy_paths(source, PREPARED);
        let values = json!({ "flags": flags, "paths": paths });
        stage.push(Step::of("copy.j2", "gets its mode", values).at(span));
        self.prepared.push(stage);
    }

    fn is_prepared(&self, name: &str) -> bool {
        let earlier = self.phases.iter().flat_map(|phase| &phase.stages);
        let mut stages = earlier.chain(&self.prepared);
        stages.any(|stage| stage.name == name)
    }

    /// A stage in which a directory gets its modes, before it is copied to where it belongs.
    fn prepare(
        &mut self,
        name: &str,
        phase: PhaseId,
        (flags, source, span): (Vec<String>, &str, Span),
        (directory, file): (String, String),
    ) {
        if self.is_prepared(name) {
            return;
        }
        let (from, state) = if phase == PhaseId::BASE {
            (self.base(), State::default())
        } else {
            ("base".to_owned(), self.end_of(PhaseId::BASE))
        };
        let mut stage = Stage::new(name, from, state);
        let paths = quote::copy_paths(source, PREPARED);
        let copy = Step::of(
            "copy.j2",
            "is got ready",
            json!({ "flags": flags, "paths": paths }),
        );
        stage.push(copy.at(span));
        let values = json!({ "path": PREPARED, "directory": directory, "file": file });
        let modes = Step::of("modes.j2", "its modes", values).at(span);
        stage.push(modes.user("root").shell(default_shell()));
        self.prepared.push(stage);
    }

    /// The steps of a script at one of its places. `workdir` is where it starts.
    pub(super) fn script(
        &mut self,
        index: usize,
        script: &Script,
        phase: PhaseId,
        workdir: &str,
    ) -> Vec<Step> {
        let user = script
            .run_as
            .as_ref()
            .map_or_else(|| self.habitat.user.clone(), |user| user.value.clone());
        let architecture = self.architecture().0;
        if script
            .when
            .as_ref()
            .is_some_and(|when| !when.holds_on(architecture))
        {
            return Vec::new();
        }
        let mut flags = Vec::new();
        for mount in &script.mounts.0 {
            match mount {
                Mount::Tmpfs { target } => {
                    flags.push(format!("--mount=type=tmpfs,target={}", target.value))
                }
                Mount::Bind {
                    source,
                    target,
                    writable,
                } => {
                    let Some((place, path, _)) = self.find(source) else {
                        self.report
                            .error(
                                "habitat::missing_file",
                                source.span,
                                format!("`{}` does not exist", source.value),
                            )
                            .label("there is no such path beside this file");
                        continue;
                    };
                    self.directory(place);
                    let rw = if *writable { ",rw" } else { "" };
                    flags.push(format!(
                        "--mount=type=bind,from={},source={path},target={target}{rw}",
                        self.context_name(place)
                    ));
                }
            }
        }
        let named_caches = script.cache.iter().flat_map(|caches| &caches.0);
        let caches = Caches::of(self.habitat, &user, named_caches);
        flags.extend(caches.flags.iter().cloned());
        for secret in script.secrets.iter().flat_map(|secrets| &secrets.0) {
            let id = &secret.id.value;
            flags.push(match &secret.env {
                Some(env) => format!(
                    "--mount=type=secret,id={id},env={},required=true",
                    env.value
                ),
                None if user == "root" => format!("--mount=type=secret,id={id},required=true"),
                None => format!("--mount=type=secret,id={id},mode=0444,required=true"),
            });
        }
        if let Some(network) = script
            .network
            .filter(|network| *network != Network::Default)
        {
            flags.push(format!("--network={}", network.word()));
        }
        // What is set for the tools comes first, so that the script's own word counts.
        let mut before = caches.lines.clone();
        before.extend(
            script.env.0.iter().map(|(name, value)| {
                format!("export {}={}", name.value, quote::shell(&value.value))
            }),
        );
        before.extend(script.when.as_ref().and_then(When::guard));
        // Another shell may be no shell at all: what goes before is for the one that starts it.
        let shell = match &script.shell {
            None => default_shell(),
            Some(shell) => own_shell(&shell.0, &std::mem::take(&mut before)),
        };
        let extras = self
            .limit(script.timeout, phase)
            .map(|limit| format!("timeout={}", limit.spoken()))
            .unwrap_or_default();
        let count = script.commands.0.len();
        let named = script.name.as_ref().map_or_else(
            || format!("scripts[{index}]"),
            |name| format!("script {}", name.value),
        );
        let made = self.mount_points(&caches, &user, &named);
        let commands = script.commands.0.iter().enumerate();
        let steps = commands.map(|(number, command)| {
            let said = if count > 1 {
                format!("{named}, command {} of {count}", number + 1)
            } else {
                named.clone()
            };
            let lines: Vec<&str> = before
                .iter()
                .map(String::as_str)
                .chain([command.0.value.trim_end_matches('\n')])
                .collect();
            let values = json!({ "flags": flags, "command": quote::run(&lines.join("\n")) });
            let mut step = Step::of("script.j2", said, values)
                .at(command.0.span)
                .user(&user)
                .shell(shell.clone());
            step.workdir = Some(workdir.to_owned());
            step.extras.clone_from(&extras);
            match &script.needs {
                Some(needs) => self.beside_services(needs, step),
                None => step,
            }
        });
        let at = script.span;
        made.map(|step| step.at(at))
            .into_iter()
            .chain(steps)
            .collect()
    }

    pub(super) fn verify(&self) -> Option<Step> {
        let required = &self.habitat.document.verify_fs.as_ref()?.required_files.0;
        if required.is_empty() {
            return None;
        }
        let checks: Vec<Value> = required
            .iter()
            .map(|file| {
                let mut words = vec![self.habitat.at_home(&file.path.value)];
                let mut put = |name: &str, value: Option<String>| {
                    words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]))
                };
                put(
                    "absent",
                    file.absent
                        .filter(|flag| flag.value)
                        .map(|_| "yes".to_owned()),
                );
                put("type", file.kind.map(|kind| kind.word().to_owned()));
                put("mode", file.mode.map(|mode| format!("{:04o}", mode.bits)));
                put(
                    "owner",
                    file.owner.as_ref().map(|owner| owner.value.clone()),
                );
                put(
                    "contains",
                    file.contains.as_ref().map(|text| text.value.clone()),
                );
                put(
                    "sha256",
                    file.sha256
                        .as_ref()
                        .map(|digest| digest.value.to_ascii_lowercase()),
                );
                let words: Vec<String> = words.iter().map(|word| quote::shell(word)).collect();
                json!(words.join(" "))
            })
            .collect();
        let step = self.root_step(
            "verify.j2",
            "verify-fs",
            json!({ "checks": checks }),
            PhaseId::VERIFY,
        );
        let span = self
            .habitat
            .document
            .verify_fs
            .as_ref()
            .map(|verify| verify.span);
        Some(Step { at: span, ..step })
    }

    /// The tests that are asked for, with their places in the list.
    pub(super) fn tests(&self) -> impl Iterator<Item = (usize, &'h TestItem)> + use<'h> {
        let (habitat, facts) = (self.habitat, self.facts);
        let all = habitat.document.tests.0.iter().enumerate();
        all.filter(move |(_, test)| {
            let wanted = facts.tests.as_deref();
            wanted.is_none_or(|wanted| test.path.value.contains(wanted))
        })
    }

    pub(super) fn planned_tests(&self) -> Vec<PlannedTest> {
        self.tests()
            .map(|(index, test)| PlannedTest {
                stage: test_stage(index),
                path: test.path.value.clone(),
                span: test.span,
            })
            .collect()
    }

    /// A stage for each test, beside the one that gathers them.
    pub(super) fn add_test_stages(&mut self, stages: &mut Vec<Stage>) {
        let judge = {
            let mut stage = Stage::new("tap-judge", "scratch", State::default());
            stage.push(Step::of(
                "judge.j2",
                "what judges the TAP that a test prints",
                json!({}),
            ));
            stage
        };
        let Some(root) = stages.iter().find(|stage| stage.name == "pre-test") else {
            return;
        };
        let state = root.state.clone();
        let mut leaves = vec![judge];
        for (index, test) in self.tests() {
            let (place, path) = match self.find(&test.path) {
                Some((place, path, _)) => (place, path),
                None => {
                    let message = format!("the test `{}` does not exist", test.path.value);
                    let entry = match self.facts.purpose {
                        Purpose::Build => {
                            self.report
                                .error("habitat::missing_file", test.path.span, message)
                        }
                        Purpose::Render => {
                            self.report
                                .warning("habitat::missing_file", test.path.span, message)
                        }
                    };
                    entry
                        .label("there is no such file beside this one")
                        .help("make it, or mend the path");
                    let layer = self.habitat.layers.index_of(test.path.span);
                    (Place::Layer(layer), clean(&test.path.value))
                }
            };
            self.directory(place);
            let program = format!(
                "{TEST_MOUNT}/{}",
                path.rsplit('/').next().unwrap_or_default()
            );
            let flags = [
                format!("--mount=type=bind,from=tap-judge,source=/judge,target={TEST_MOUNT}/judge"),
                format!(
                    "--mount=type=bind,from={},source={path},target={program}",
                    self.context_name(place)
                ),
            ];
            let user = test
                .run_as
                .as_ref()
                .map_or_else(|| self.habitat.user.clone(), |user| user.value.clone());
            let limit = self.limit(test.timeout, PhaseId::TEST);
            let said = format!("tests[{index}] {}", test.path.value);
            let values = json!({ "flags": flags, "judge": format!("{TEST_MOUNT}/judge"), "program": quote::shell(&program) });
            let mut step = Step::of("test.j2", said, values)
                .at(test.span)
                .user(user)
                .shell(default_shell());
            step.workdir = Some(self.habitat.workdir.clone());
            step.extras = limit
                .map(|limit| format!("timeout={} ", limit.spoken()))
                .unwrap_or_default()
                + "tap";
            if let Some(needs) = &test.needs {
                step = self.beside_services(needs, step);
                leaves.append(&mut self.prepared);
            }
            let mut stage = Stage::new(test_stage(index), "pre-test", state.clone());
            stage.push(step);
            leaves.push(stage);
        }
        let at = stages
            .iter()
            .position(|stage| stage.name == "pre-test")
            .map_or(0, |index| index + 1);
        stages.splice(at..at, leaves);
    }

    pub(super) fn last(&mut self) -> Vec<Step> {
        let document = &self.habitat.document;
        let entry = document.entry.as_ref();
        let command = self.habitat.command();
        let tty = entry
            .and_then(|entry| entry.tty)
            .map(|flag| ("io.shmocker.habitat.tty".to_owned(), flag.value.to_string()));
        let network = entry.and_then(|entry| entry.network).map(|network| {
            (
                "io.shmocker.habitat.network".to_owned(),
                network.word().to_owned(),
            )
        });
        let limits = entry.and_then(|entry| entry.limits.as_ref());
        let runtime = network
            .into_iter()
            .chain(limits.map(Limits::labels).unwrap_or_default());
        let own = [
            (
                "io.shmocker.habitat.name".to_owned(),
                self.habitat.name.clone(),
            ),
            (
                "io.shmocker.habitat.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
        ];
        let services: Vec<&str> = self
            .habitat
            .services()
            .map(|service| service.name.as_str())
            .collect();
        let services = (!services.is_empty()).then(|| {
            (
                "io.shmocker.habitat.services".to_owned(),
                services.join(","),
            )
        });
        let given = document
            .labels
            .0
            .iter()
            .map(|(name, value)| (name.value.clone(), value.value.clone()));
        let labels: BTreeMap<String, String> = own
            .into_iter()
            .chain(tty)
            .chain(services)
            .chain(runtime)
            .chain(given)
            .collect();
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={}", quote::label(value)))
            .collect();
        let values = json!({
            "labels": labels,
            "command": command.map(|words| quote::json(&words)),
            "init": entry.and_then(|entry| entry.init_command.as_ref()).map(|init| quote::shell(init.0.value.trim_end())),
            "delay": entry.and_then(|entry| entry.startup_delay).map(|delay| delay.value),
        });
        let step = Step::of("final.j2", "what the image says and starts", values);
        let step = Step {
            at: entry.map(|entry| entry.span),
            ..step
        };
        let gates: Vec<Value> = self
            .phases
            .iter()
            .filter(|phase| !self.facts.skipped.contains(&phase.id))
            .filter_map(|phase| match phase.id {
                PhaseId::VERIFY if self.verify().is_some() => Some(marker("verify", "/verify.ok")),
                PhaseId::TEST if self.tests().next().is_some() => Some(marker("test", "/test.ok")),
                _ => None,
            })
            .collect();
        let gate = (!gates.is_empty()).then(|| {
            let said = "only what has been verified and tested becomes an image";
            Step::of("gate.j2", said, json!({ "markers": gates }))
                .user("root")
                .shell(default_shell())
        });
        let services = self.installed_services();
        gate.into_iter().chain(services).chain([step]).collect()
    }

    pub(super) fn secrets(&self) -> Vec<SecretSource> {
        let document = &self.habitat.document;
        let repos = document.repos.0.iter();
        let used: BTreeSet<&str> = document
            .scripts
            .0
            .iter()
            .flat_map(|script| script.secrets.iter().flat_map(|secrets| &secrets.0))
            .map(|secret| secret.id.as_str())
            .chain(
                repos
                    .filter_map(|repo| repo.secret.as_ref())
                    .map(Text::as_str),
            )
            .collect();
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.value.clone());
        let declared = document
            .secrets
            .0
            .iter()
            .filter(|secret| used.contains(secret.id.as_str()));
        declared
            .map(|secret| SecretSource {
                id: secret.id.value.clone(),
                env: text(&secret.env),
                file: text(&secret.file),
                span: secret.span,
            })
            .collect()
    }
}

/// The stage of a test, by its place in the list.
pub(super) fn test_stage(index: usize) -> String {
    format!("test-{}", index + 1)
}

/// A mount that makes a stage wait for another. It lies in /dev, which is no part of any image.
pub(super) fn marker(stage: &str, source: &str) -> Value {
    json!(format!(
        "--mount=type=bind,from={stage},source={source},target=/dev/habitat/{stage}.ok"
    ))
}

/// What every RUN is run by: the environment first, then bash where there is one.
#[must_use]
pub fn default_shell() -> Vec<String> {
    let script = format!(
        "{LOAD}; if command -v bash >/dev/null; then exec bash -eo pipefail -c \"$0\"; fi; exec sh -e -c \"$0\""
    );
    ["/bin/sh".to_owned(), "-c".to_owned(), script].into()
}

/// Loads the environment of the habitat.
pub(super) const LOAD: &str =
    "if [ -r /etc/profile.d/habitat-env.sh ]; then . /etc/profile.d/habitat-env.sh; fi";

/// The same with a script's own shell; `before` is lines of shell that are run first.
fn own_shell(words: &[String], before: &[String]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| quote::shell(word)).collect();
    let before: String = before.iter().map(|lines| format!("\n{lines}")).collect();
    let script = match before.as_str() {
        "" => format!("{LOAD}; exec {} -c \"$0\"", words.join(" ")),
        lines => format!("{LOAD}{lines}\nexec {} -c \"$0\"", words.join(" ")),
    };
    ["/bin/sh".to_owned(), "-c".to_owned(), script].into()
}

/// An owner for `chown`: with the user's own group where none is named.
fn with_group(owner: &str) -> String {
    if owner.contains(':') {
        return quote::shell(owner);
    }
    if owner.chars().all(|digit| digit.is_ascii_digit()) {
        return format!("{owner}:{owner}");
    }
    let user = quote::shell(owner);
    format!("{user}:\"$(id -g {user})\"")
}
