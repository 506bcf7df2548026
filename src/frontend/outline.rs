//! What a target can be given, and what a file has to build: the answers to `--call=outline` and `--call=targets`.

use std::collections::{BTreeMap, BTreeSet};

use super::Options;
use super::stages::{Plan, Tree, sources_of};
use crate::dockerfile::expand::{Keep, expand};
use crate::dockerfile::{Dockerfile, Instruction, Kind, Span, Word};

/// What a target asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What a comment says of it.
    pub description: Option<String>,
    /// The arguments that it uses, in the order of the file.
    pub args: Vec<OutlineArg>,
    /// The secrets that its steps mount.
    pub secrets: Vec<OutlineMount>,
    /// The agents that its steps mount.
    pub ssh: Vec<OutlineMount>,
    /// The caches that its steps mount.
    pub caches: Vec<OutlineMount>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What a comment says of it.
    pub description: Option<String>,
    /// What it would be, if it would be anything.
    pub value: Option<String>,
    /// The ARG that declares it.
    pub span: Span,
}

/// A secret, an agent or a cache that a step mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The RUN that mounts it.
    pub span: Span,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What a comment says of it.
    pub description: Option<String>,
    /// Whether it is what is built if nothing is named.
    pub is_default: bool,
    /// What it starts from, as written.
    pub base: String,
    /// `--platform`, as written.
    pub platform: Option<String>,
    /// Its FROM.
    pub span: Span,
}

/// The stages of a file.
#[must_use]
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let text = |word: &Word| word.text.clone();
    let mut targets: Vec<Target> = dockerfile
        .instructions
        .iter()
        .filter_map(|instruction| match &instruction.kind {
            Kind::From(from) => Some(Target {
                name: from.name.as_ref().map(text),
                description: from
                    .name
                    .as_ref()
                    .and_then(|name| description(instruction, &name.text)),
                is_default: false,
                base: from.base.text.clone(),
                platform: from.platform.as_ref().map(text),
                span: instruction.span,
            }),
            _ => None,
        })
        .collect();
    if let Some(last) = targets.last_mut() {
        last.is_default = true;
    }
    targets
}

/// `# NAME description` above an instruction.
fn description(instruction: &Instruction, name: &str) -> Option<String> {
    instruction.comments.iter().find_map(|comment| {
        let rest = comment.text.strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.to_owned())
    })
}

/// What the stages ask for, as it is met while they are lowered.
#[derive(Debug, Default)]
pub(super) struct Asked {
    args: Vec<(usize, OutlineArg)>,
    /// Arguments that a stage takes over from the head of the file.
    taken: BTreeSet<(usize, String)>,
    secrets: Vec<(usize, OutlineMount)>,
    ssh: Vec<(usize, OutlineMount)>,
    caches: Vec<(usize, OutlineMount)>,
}

/// What a mount is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mounted {
    Secret,
    Ssh,
    Cache,
}

impl Asked {
    /// An ARG that says what the argument is.
    pub(super) fn arg(
        &mut self,
        stage: usize,
        instruction: &Instruction,
        name: &str,
        value: Option<&String>,
    ) {
        self.args
            .retain(|(at, arg)| *at != stage || arg.name != name);
        let arg = OutlineArg {
            name: name.to_owned(),
            description: description(instruction, name),
            value: value.cloned(),
            span: instruction.span,
        };
        self.args.push((stage, arg));
    }

    /// An ARG that takes over what the head of the file says.
    pub(super) fn taken(&mut self, stage: usize, name: &str) {
        self.taken.insert((stage, name.to_owned()));
    }

    /// A mount of a step; the first of an id counts.
    pub(super) fn mount(
        &mut self,
        stage: usize,
        what: Mounted,
        id: &str,
        required: bool,
        span: Span,
    ) {
        let list = match what {
            Mounted::Secret => &mut self.secrets,
            Mounted::Ssh => &mut self.ssh,
            Mounted::Cache => &mut self.caches,
        };
        if list
            .iter()
            .any(|(at, mount)| *at == stage && mount.id == id)
        {
            return;
        }
        let mount = OutlineMount {
            id: id.to_owned(),
            required,
            span,
        };
        list.push((stage, mount));
    }

    /// The outline of the plan's target: its own, then what the stages ask for that it needs.
    pub(super) fn outline(
        &self,
        plan: &Plan<'_>,
        dockerfile: &Dockerfile,
        options: &Options,
    ) -> Outline {
        let globals = Globals::of(plan, dockerfile, options);
        let target = &plan.stages[plan.target];
        let mut outline = Outline {
            name: target.name.clone(),
            description: target
                .name
                .as_deref()
                .and_then(|name| description(target.from, name)),
            ..Outline::default()
        };
        let mut seen = BTreeSet::new();
        let mut pending = vec![plan.target];
        while let Some(stage) = pending.pop() {
            if !seen.insert(stage) {
                continue;
            }
            let own = self.args.iter().filter(|(at, _)| *at == stage);
            add(&mut outline.args, own.map(|(_, arg)| arg), |arg| &arg.name);
            let taken = self.taken.iter().filter(|(at, _)| *at == stage);
            let wanted = taken.map(|(_, name)| name).chain(&plan.stages[stage].used);
            add(&mut outline.args, globals.closure(wanted), |arg| &arg.name);
            for (list, found) in [
                (&mut outline.secrets, &self.secrets),
                (&mut outline.ssh, &self.ssh),
                (&mut outline.caches, &self.caches),
            ] {
                let own = found.iter().filter(|(at, _)| *at == stage);
                add(list, own.map(|(_, mount)| mount), |mount| &mount.id);
            }
            // What a stage itself says goes before what the stages below it say, and its base before its sources.
            let planned = &plan.stages[stage];
            let sources: Vec<usize> = planned
                .instructions
                .iter()
                .flat_map(sources_of)
                .filter_map(|(name, span)| plan.tree(&name, stage, span, options).ok())
                .filter_map(|tree| match tree {
                    Tree::Stage(stage) => Some(stage),
                    _ => None,
                })
                .collect();
            pending.extend(sources.into_iter().rev());
            if let Ok(Tree::Stage(base)) = planned.base {
                pending.push(base);
            }
        }
        outline.args.sort_by_key(|arg| arg.span.line);
        for list in [&mut outline.secrets, &mut outline.ssh, &mut outline.caches] {
            list.sort_by_key(|mount| mount.span.line);
        }
        outline
    }
}

/// Adds what is not there yet, by name.
fn add<'a, T: Clone + 'a>(
    list: &mut Vec<T>,
    more: impl IntoIterator<Item = &'a T>,
    name: impl Fn(&T) -> &String,
) {
    for item in more {
        if list.iter().all(|known| name(known) != name(item)) {
            list.push(item.clone());
        }
    }
}

/// The arguments at the head of the file.
struct Globals {
    args: BTreeMap<String, (OutlineArg, BTreeSet<String>)>,
}

impl Globals {
    fn of(plan: &Plan<'_>, dockerfile: &Dockerfile, options: &Options) -> Self {
        let mut args: BTreeMap<String, (OutlineArg, BTreeSet<String>)> = BTreeMap::new();
        let head = dockerfile
            .instructions
            .iter()
            .take_while(|instruction| !matches!(instruction.kind, Kind::From(_)));
        for instruction in head {
            let Kind::Arg(arguments) = &instruction.kind else {
                continue;
            };
            for argument in arguments {
                let name = argument.name.text.as_str();
                let mut needs = BTreeSet::new();
                if let Some(default) = &argument.default
                    && !options.build_args.contains_key(name)
                {
                    let escape = dockerfile.directives.escape;
                    let read = expand(&default.text, escape, &plan.globals, Keep::Nothing);
                    needs = read.map(|read| read.used).unwrap_or_default();
                    if needs.remove(name)
                        && let Some((_, before)) = args.get(name)
                    {
                        needs.extend(before.iter().cloned());
                    }
                }
                let arg = OutlineArg {
                    name: name.to_owned(),
                    description: description(instruction, name),
                    value: plan.globals.get(name).cloned(),
                    span: instruction.span,
                };
                args.insert(name.to_owned(), (arg, needs));
            }
        }
        Self { args }
    }

    /// These, and those that they are made of.
    fn closure<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<&OutlineArg> {
        let mut seen = BTreeSet::new();
        let mut pending: Vec<&String> = names.into_iter().collect();
        let mut found = Vec::new();
        while let Some(name) = pending.pop() {
            if let Some((arg, needs)) = self.args.get(name)
                && seen.insert(&arg.name)
            {
                found.push(arg);
                pending.extend(needs);
            }
        }
        found
    }
}
