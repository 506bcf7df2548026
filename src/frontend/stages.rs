//! Stages and how they hang together, before any of them is lowered: what each starts from, what it copies from, and
//! which of them the target needs. Global ARGs are settled here, since only FROM sees them.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::epoch;
use super::{Options, Scope, lint};
use crate::dockerfile::expand::{Expansion, Keep, expand};
use crate::dockerfile::suggest::nearest;
use crate::dockerfile::{Argument, Dockerfile, From, Instruction, Kind, Problem, Span, Word};
use crate::graph::{ImageSource, OciLayoutSource, Source};
use crate::image::{Name, Platform};

/// A Dockerfile's stages.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The arguments that FROM and, once redeclared, stages see.
    pub(super) globals: IndexMap<String, String>,
    /// The names that are declared before the first FROM.
    pub(super) declared: BTreeSet<String>,
    /// The stages, in order.
    pub(super) stages: Vec<PlannedStage<'a>>,
    /// The one that is built.
    pub(super) target: usize,
    /// The ones that it needs, itself among them, in order.
    pub(super) needed: Vec<usize>,
    /// SOURCE_DATE_EPOCH.
    pub(super) epoch: Option<Epoch>,
    /// What should be mended, and what cannot be built.
    pub(super) problems: Vec<Problem>,
}

/// One stage.
#[derive(Debug)]
pub(super) struct PlannedStage<'a> {
    /// The whole FROM.
    pub(super) from: &'a Instruction,
    /// Its name, in lower case.
    pub(super) name: Option<String>,
    /// What it starts from, or why that cannot be said.
    pub(super) base: Result<Tree, Box<Problem>>,
    /// What follows.
    pub(super) instructions: &'a [Instruction],
    /// `--platform`, where it is another one than the build's.
    pub(super) platform: Option<Platform>,
    /// The arguments that its FROM uses.
    pub(super) used: BTreeSet<String>,
}

/// What SOURCE_DATE_EPOCH says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Epoch {
    /// This time.
    Seconds(i64),
    /// The time of the build context.
    Context,
    /// The time of a named context.
    Source(Source),
    /// The time of what a stage fetches.
    Stage(usize),
}

/// A tree that something starts from or is copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// The image of the Dockerfile that this one stands on.
    Under,
    /// Something from outside.
    Source(Source),
}

/// What is found out about a FROM besides its base.
#[derive(Default)]
struct FromFlags {
    platform: Option<Platform>,
    used: BTreeSet<String>,
}

impl PlannedStage<'_> {
    /// What the stage is called in events and messages.
    pub(super) fn title(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }
}

impl<'a> Plan<'a> {
    /// A plan goes as far as it can: where a stage is wrong, the others are still looked at.
    pub(super) fn of(dockerfile: &'a Dockerfile, options: &Options) -> Self {
        let mut plan = Plan {
            globals: predefined(dockerfile, options),
            declared: BTreeSet::new(),
            stages: Vec::new(),
            target: 0,
            needed: Vec::new(),
            epoch: None,
            problems: refused_syntax(dockerfile, options).into_iter().collect(),
        };
        let starts: Vec<usize> = (0..dockerfile.instructions.len())
            .filter(|index| matches!(dockerfile.instructions[*index].kind, Kind::From(_)))
            .collect();
        let head = starts
            .first()
            .copied()
            .unwrap_or(dockerfile.instructions.len());
        plan.read_head(
            &dockerfile.instructions[..head],
            dockerfile.directives.escape,
            options,
        );
        for (nth, start) in starts.iter().enumerate() {
            let end = starts
                .get(nth + 1)
                .copied()
                .unwrap_or(dockerfile.instructions.len());
            let from = &dockerfile.instructions[*start];
            let Kind::From(parsed) = &from.kind else {
                continue;
            };
            let mut read = FromFlags::default();
            let base = plan.base(
                from,
                parsed,
                dockerfile.directives.escape,
                options,
                &mut read,
            );
            let name = parsed.name.as_ref().map(|name| name.text.clone());
            let instructions = &dockerfile.instructions[start + 1..end];
            plan.stages.push(PlannedStage {
                from,
                name,
                base,
                instructions,
                platform: read.platform,
                used: read.used,
            });
        }
        if plan.stages.is_empty() {
            let span = dockerfile
                .instructions
                .first()
                .map_or(Span::default(), |first| first.span);
            plan.problems.push(
                Problem::error(
                    "frontend::no_stage",
                    "there is no FROM, so there is nothing to build",
                    span,
                )
                .help("begin with a base: `FROM scratch`, or the name of an image"),
            );
            return plan;
        }
        plan.target = plan.find_target(options).unwrap_or_else(|problem| {
            plan.problems.push(*problem);
            plan.stages.len() - 1
        });
        plan.find_needed(options);
        plan.find_epoch(options);
        lint::stages(&mut plan);
        lint::default_bases(&mut plan, dockerfile, options);
        plan
    }

    /// ARGs before the first FROM.
    fn read_head(&mut self, head: &[Instruction], escape: char, options: &Options) {
        for instruction in head {
            let Kind::Arg(arguments) = &instruction.kind else {
                if instruction.kind != Kind::Invalid {
                    let message =
                        format!("{} stands before the first FROM", instruction.keyword.text);
                    let problem =
                        Problem::error("frontend::before_from", message, instruction.span);
                    self.problems
                        .push(problem.help("only ARG may stand there; move it below FROM"));
                }
                continue;
            };
            for Argument { name, default } in arguments {
                self.declared.insert(name.text.clone());
                let given = options.build_args.get(&name.text).cloned();
                let value = match (given, default) {
                    (Some(given), _) => Some(given),
                    (None, Some(default)) => {
                        match expand(&default.text, escape, &self.globals, Keep::Nothing) {
                            Ok(expansion) => Some(expansion.text),
                            Err(error) => {
                                self.problems.push(Problem::error(
                                    "frontend::expand",
                                    error.to_string(),
                                    default.span,
                                ));
                                None
                            }
                        }
                    }
                    (None, None) => None,
                };
                if let Some(value) = value {
                    self.globals.insert(name.text.clone(), value);
                }
            }
        }
    }

    fn expand_from(&mut self, word: &Word, escape: char) -> Result<Expansion, Box<Problem>> {
        let expansion = expand(&word.text, escape, &self.globals, Keep::Nothing)
            .map_err(|error| Problem::error("frontend::expand", error.to_string(), word.span))?;
        for name in expansion
            .unset
            .iter()
            .filter(|name| !self.declared.contains(*name))
        {
            let known = self
                .globals
                .keys()
                .chain(&self.declared)
                .map(String::as_str);
            let near = nearest(name, known)
                .map_or(String::new(), |near| format!(" (did you mean {near}?)"));
            let message = format!("FROM argument '{name}' is not declared{near}");
            self.problems
                .push(Problem::warning("UndefinedArgInFrom", message, word.span));
        }
        Ok(expansion)
    }

    fn base(
        &mut self,
        from: &Instruction,
        parsed: &From,
        escape: char,
        options: &Options,
        read: &mut FromFlags,
    ) -> Result<Tree, Box<Problem>> {
        let expanded = self.expand_from(&parsed.base, escape)?;
        read.used.extend(expanded.used);
        if expanded.text.is_empty() {
            let message = format!("the base `{}` is empty", parsed.base.text);
            let problem = Problem::error("frontend::no_base", message, parsed.base.span);
            return Err(problem
                .help("give the argument a default, `ARG NAME=image`, or use --build-arg")
                .into());
        }
        if let Some(word) = parsed.platform.as_ref().filter(|it| !it.text.is_empty()) {
            let (platform, used) = self.stage_platform(word, parsed, escape)?;
            read.used.extend(used);
            read.platform = Some(platform).filter(|it| *it != options.platform.normalised());
        }
        let platform = read.platform.as_ref().unwrap_or(&options.platform);
        if let Some(name) = &parsed.name
            && let Some(source) = named_context(&name.text, platform, options)
        {
            return Ok(Tree::Source(source));
        }
        let here = self.stages.len();
        let name = expanded.text.to_lowercase();
        if let Some(stage) = (0..here)
            .rev()
            .find(|index| self.stages[*index].name.as_deref() == Some(&name))
        {
            return Ok(Tree::Stage(stage));
        }
        outside(
            &expanded.text,
            Span {
                line: from.span.line,
                ..parsed.base.span
            },
            platform,
            options,
        )
    }

    /// `FROM --platform`, and the arguments that it uses.
    fn stage_platform(
        &mut self,
        word: &Word,
        parsed: &From,
        escape: char,
    ) -> Result<(Platform, BTreeSet<String>), Box<Problem>> {
        let expanded = self.expand_from(word, escape)?;
        let platform = Platform::parse(&expanded.text).ok_or_else(|| {
            let message = format!("`{}` is not a platform", expanded.text);
            let problem = Problem::error("frontend::platform", message, word.span)
                .help("one is `linux/amd64`, or `$BUILDPLATFORM`");
            let known = || self.globals.keys().map(String::as_str);
            expanded
                .unset
                .iter()
                .fold(problem, |problem, name| problem.near(name, known()))
        })?;
        lint::from_platform(self, word, &expanded, &platform, parsed);
        Ok((platform, expanded.used))
    }

    fn find_target(&self, options: &Options) -> Result<usize, Box<Problem>> {
        let Some(wanted) = &options.target else {
            return Ok(self.stages.len() - 1);
        };
        let name = wanted.to_lowercase();
        let found = (0..self.stages.len())
            .rev()
            .find(|index| self.stages[*index].name.as_deref() == Some(&name));
        let by_index = || {
            wanted
                .parse()
                .ok()
                .filter(|index| *index < self.stages.len())
        };
        found.or_else(by_index).ok_or_else(|| {
            let names: Vec<&str> = self
                .stages
                .iter()
                .filter_map(|stage| stage.name.as_deref())
                .collect();
            let problem = Problem::outside(
                "frontend::no_target",
                format!("there is no stage `{wanted}` to build"),
            );
            let near = problem.clone().near(wanted, names.iter().copied());
            let listed = || match names.is_empty() {
                true => problem.help("no stage of the file has a name; leave --target away"),
                false => problem.help(format!("the stages are {}", names.join(", "))),
            };
            Box::new(if near.help.is_some() { near } else { listed() })
        })
    }

    /// Marks what the target needs, and reports what it can never get.
    fn find_needed(&mut self, options: &Options) {
        let mut problems = Vec::new();
        let mut needed = BTreeSet::new();
        let mut pending = match options.scope {
            Scope::Target => vec![self.target],
            Scope::All => (0..self.stages.len()).rev().collect(),
        };
        while let Some(index) = pending.pop() {
            if !needed.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            match &stage.base {
                Ok(Tree::Stage(base)) => pending.push(*base),
                Ok(_) => {}
                Err(problem) => problems.push(Problem::clone(problem)),
            }
            if self.is_replaced(index, options) {
                continue;
            }
            for (name, span) in stage.instructions.iter().flat_map(sources_of) {
                match self.tree(&name, index, span, options) {
                    Ok(Tree::Stage(from)) => pending.push(from),
                    Ok(_) => {}
                    Err(problem) => {
                        problems.push(*problem);
                        // It cannot be had from here, but it was meant, so what is wrong with it is said too.
                        pending.extend(self.stage_named(&name, index));
                    }
                }
            }
        }
        self.problems.append(&mut problems);
        self.needed = needed.into_iter().collect();
    }

    /// The stage of that name or index: the nearest before `here`, else the first from there on.
    fn stage_named(&self, name: &str, here: usize) -> Option<usize> {
        if let Ok(index) = name.parse() {
            return Some(index).filter(|index| *index < self.stages.len());
        }
        let name = name.to_lowercase();
        let named = |index: &usize| self.stages[*index].name.as_deref() == Some(&name);
        let earlier = (0..here).rev().find(named);
        earlier.or_else(|| (here..self.stages.len()).find(named))
    }

    /// Whether a named context takes the place of a stage.
    pub(super) fn is_replaced(&self, index: usize, options: &Options) -> bool {
        let stage = &self.stages[index];
        let platform = stage.platform.as_ref().unwrap_or(&options.platform);
        stage
            .name
            .as_deref()
            .is_some_and(|name| named_context(name, platform, options).is_some())
    }

    /// The tree that `--from=name` means in a stage.
    pub(super) fn tree(
        &self,
        name: &str,
        here: usize,
        span: Span,
        options: &Options,
    ) -> Result<Tree, Box<Problem>> {
        if name.contains('$') {
            let problem =
                Problem::error("frontend::from_variable", "`from` takes no variables", span);
            let help = "define a stage with `FROM $VARIABLE AS name`, from a global ARG, and write `from=name`";
            return Err(problem.help(help).into());
        }
        let index = self.stage_named(name, here);
        if let (None, Ok(index)) = (index, name.parse::<usize>()) {
            let message = format!("there is no stage {index}");
            let help = format!("the stages are 0 to {}", self.stages.len() - 1);
            return Err(Problem::error("frontend::no_stage_index", message, span)
                .help(help)
                .into());
        }
        let Some(index) = index else {
            return outside(name, span, &options.platform, options);
        };
        if index < here {
            return Ok(Tree::Stage(index));
        }
        let problem = if index == here {
            Problem::error(
                "frontend::copy_from_self",
                format!("stage `{name}` takes files from itself"),
                span,
            )
            .label("circular dependency")
            .help("name an earlier stage, or use RUN to copy within the stage")
        } else if self.reaches(index, here) {
            let message = format!(
                "circular dependency: stage `{name}` itself needs `{}`",
                self.stages[here].title(here)
            );
            Problem::error("frontend::cycle", message, span)
                .help("move what both need into a stage of its own, before them")
        } else {
            let line = self.stages[index].from.span.line;
            let message = format!(
                "cannot copy from stage `{name}`: it needs to be defined before current stage `{}`",
                self.stages[here].title(here)
            );
            Problem::error("frontend::later_stage", message, span)
                .label(format!("`{name}` begins only at line {line}"))
                .help("move that stage up")
        };
        Err(problem.into())
    }

    /// Whether a stage needs another one, by what the file says of them.
    fn reaches(&self, from: usize, to: usize) -> bool {
        let by_name: BTreeMap<&str, usize> = self
            .stages
            .iter()
            .enumerate()
            .filter_map(|(index, stage)| Some((stage.name.as_deref()?, index)))
            .collect();
        let mut seen = BTreeSet::new();
        let mut pending = vec![from];
        while let Some(index) = pending.pop() {
            if index == to {
                return true;
            }
            if !seen.insert(index) {
                continue;
            }
            if let Ok(Tree::Stage(base)) = self.stages[index].base {
                pending.push(base);
            }
            for (name, _) in self.stages[index].instructions.iter().flat_map(sources_of) {
                let number = name.parse().ok().filter(|index| *index < self.stages.len());
                pending
                    .extend(number.or_else(|| by_name.get(name.to_lowercase().as_str()).copied()));
            }
        }
        false
    }

    fn find_epoch(&mut self, options: &Options) {
        let given = options.build_args.get(epoch::NAME).cloned();
        let given = given.or_else(|| options.source_date_epoch.map(|epoch| epoch.to_string()));
        let value = given.or_else(|| self.globals.get(epoch::NAME).cloned());
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            // Nothing takes back what the file says.
            self.globals.shift_remove(epoch::NAME);
            return;
        };
        self.epoch = self.epoch_of(&value, options);
        if self.epoch.is_none() {
            let message = format!(
                "SOURCE_DATE_EPOCH is `{value}`, which is no number of seconds and names nothing that has a time"
            );
            self.problems.push(
                Problem::outside("frontend::source_date_epoch", message).help(
                    "give the seconds since 1970, `context`, or the name of a named context or of a stage",
                ),
            );
        }
    }

    /// SOURCE_DATE_EPOCH, where it is known.
    pub(super) fn seconds(&self) -> Option<i64> {
        match self.epoch {
            Some(Epoch::Seconds(seconds)) => Some(seconds),
            _ => None,
        }
    }

    fn epoch_of(&self, value: &str, options: &Options) -> Option<Epoch> {
        if let Ok(seconds) = value.parse() {
            return Some(Epoch::Seconds(seconds));
        }
        if value == "context" {
            return Some(Epoch::Context);
        }
        if let Some(source) = named_context(value, &options.platform, options) {
            return Some(Epoch::Source(source));
        }
        let named = |stage: &PlannedStage<'_>| {
            let name = stage.name.as_deref();
            name.is_some_and(|name| name.eq_ignore_ascii_case(value))
        };
        self.stages.iter().position(named).map(Epoch::Stage)
    }
}

/// What an instruction takes files from, by name.
pub(super) fn sources_of(instruction: &Instruction) -> Vec<(String, Span)> {
    match &instruction.kind {
        Kind::Copy(copy) => copy
            .from
            .iter()
            .filter(|from| !from.text.is_empty())
            .map(|from| (from.text.clone(), from.span))
            .collect(),
        Kind::Run(run) => {
            let from = |mount: &crate::dockerfile::MountFlag| {
                let option = mount
                    .options
                    .iter()
                    .rev()
                    .find(|option| option.key == "from")?;
                Some((
                    option.value.clone().filter(|from| !from.is_empty())?,
                    mount.span,
                ))
            };
            run.mounts.iter().filter_map(from).collect()
        }
        _ => Vec::new(),
    }
}

/// A tree that is no stage.
fn outside(
    name: &str,
    span: Span,
    platform: &Platform,
    options: &Options,
) -> Result<Tree, Box<Problem>> {
    if name == "scratch" {
        return Ok(Tree::Scratch);
    }
    if options
        .under
        .as_ref()
        .is_some_and(|under| under.name == name)
    {
        return Ok(Tree::Under);
    }
    if let Some(source) = named_context(name, platform, options) {
        return Ok(Tree::Source(source));
    }
    if let Some(suite) = name.strip_prefix("debian://") {
        return Err(Box::new(
            Problem::error(
                "frontend::debian_name",
                format!("`{name}` cannot stand here"),
                span,
            )
            .label("an archive is no image; a named context makes it one")
            .help(format!(
                "write `FROM base`, and build with `--build-context base=debian://{suite}`"
            )),
        ));
    }
    let full = name
        .parse::<Name>()
        .map_err(|error| {
            Problem::error("frontend::image_name", error.to_string(), span)
                .help("name an image, an earlier stage, a named context, or `scratch`")
        })?
        .to_string();
    if let Some(source) = named_context(Name::familiar(&full), platform, options)
        .or_else(|| named_context(&full, platform, options))
    {
        return Ok(Tree::Source(source));
    }
    let other = platform.normalised();
    Ok(Tree::Source(Source::Image(ImageSource {
        name: full,
        platform: (other != options.platform.normalised()).then(|| other.to_string()),
    })))
}

/// The context of that name: the one for the platform, `name::linux/arm64`, before the one for all.
pub(super) fn named_context(name: &str, platform: &Platform, options: &Options) -> Option<Source> {
    if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
        return None;
    }
    let of = |name: &str| {
        let exact = options.contexts.get(name);
        exact.or_else(|| {
            let mut all = options.contexts.iter();
            all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, source)| source)
        })
    };
    let platform = platform.normalised();
    let mut source = of(&format!("{name}::{platform}"))
        .or_else(|| of(name))
        .cloned()?;
    let own = options.platform.normalised();
    match &mut source {
        Source::OciLayout(OciLayoutSource { platform: its, .. })
        | Source::Image(ImageSource { platform: its, .. })
            if platform != own =>
        {
            *its = Some(platform.to_string());
        }
        // One that was given another architecture has that for every platform.
        Source::Debian(debian) if debian.arch == own.debian() => debian.arch = platform.debian(),
        _ => {}
    }
    Some(source)
}

/// The arguments that need no declaration outside stages.
pub(super) fn predefined(dockerfile: &Dockerfile, options: &Options) -> IndexMap<String, String> {
    let (build, target) = (
        options.build_platform.normalised(),
        options.platform.normalised(),
    );
    let variant = |platform: &Platform| platform.variant.clone().unwrap_or_default();
    let last = dockerfile
        .instructions
        .iter()
        .rev()
        .find_map(|instruction| match &instruction.kind {
            Kind::From(from) => Some(from.name.as_ref().map(|name| name.text.clone())),
            _ => None,
        });
    let stage = options.target.clone().or(last.flatten());
    let stage = stage.unwrap_or_else(|| "default".to_owned());
    let values = [
        ("BUILDPLATFORM", build.to_string()),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", variant(&build)),
        ("TARGETPLATFORM", target.to_string()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", variant(&target)),
        ("TARGETSTAGE", stage),
    ];
    let given = |name: &str| options.build_args.get(name).cloned();
    values
        .into_iter()
        .map(|(name, value)| (name.to_owned(), given(name).unwrap_or(value)))
        .collect()
}

/// `# syntax=` (or its build argument) may name what this program is itself.
fn refused_syntax(dockerfile: &Dockerfile, options: &Options) -> Option<Problem> {
    let (name, span) = match (
        options.build_args.get("BUILDKIT_SYNTAX"),
        &dockerfile.directives.syntax,
    ) {
        (Some(name), _) => (name.as_str(), None),
        (None, Some(word)) => (word.text.as_str(), Some(word.span)),
        (None, None) => return None,
    };
    let reference = name.split_whitespace().next().unwrap_or_default();
    if is_own_syntax(reference) {
        return None;
    }
    let message = format!("the frontend `{reference}` is not built in");
    let mut problem = Problem::outside("frontend::syntax", message)
        .help("name `docker/dockerfile:1`, or take the line away; other frontends need a BuildKit to run them");
    problem.span = span;
    Some(problem)
}

fn is_own_syntax(reference: &str) -> bool {
    if matches!(reference, "" | "dockerfile.v0") {
        return true;
    }
    let Ok(name) = reference.parse::<Name>() else {
        return false;
    };
    let tag = name.tag.as_deref().unwrap_or("latest");
    // The registry may be a mirror.
    let ours =
        ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&name.repository.as_str());
    ours && (tag.starts_with('1') || ["latest", "labs", "master", "master-labs"].contains(&tag))
}
