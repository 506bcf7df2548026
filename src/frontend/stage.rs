//! Lowers stages, one instruction after another.

use std::collections::BTreeSet;
use std::rc::Rc;

use indexmap::{IndexMap, IndexSet};

use super::outline::{Asked, Outline};
use super::stages::{Plan, PlannedStage, Tree, sources_of};
use super::{
    Base, ContextFile, Lowered, LoweredHistory, Lowering, Need, NeededSecret, Options, Resolved,
    Stage, lint,
};
use crate::dockerfile::expand::{Expansion, Keep, expand};
use crate::dockerfile::glob::has_wildcard;
use crate::dockerfile::{
    Dockerfile, Instruction, Kind, OnBuild, Problem, Severity, Span, Word, parse,
};
use crate::event::StepOrigin;
use crate::graph::{Graph, ImageSource, NodeId, Op, Source};
use crate::image::{History, ImageConfig, Name, RootFs};

/// PATH where the base has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Lowers all stages that the target needs.
pub(super) fn lower_all(
    plan: &Plan<'_>,
    dockerfile: &Dockerfile,
    options: &Options,
    resolved: &Resolved,
) -> Result<Lowering, Vec<Problem>> {
    let mut lowerer = Lowerer {
        plan,
        escape: dockerfile.directives.escape,
        options,
        resolved,
        graph: match &options.under {
            Some(under) => under.lowered.graph.clone(),
            None => Graph::new(),
        },
        stages: (0..plan.stages.len()).map(|_| None).collect(),
        needs: IndexSet::new(),
        files: IndexSet::new(),
        problems: plan.problems.clone(),
        warnings: Vec::new(),
        secrets: Vec::new(),
        agents: Vec::new(),
        used_args: plan.declared.clone(),
        asked: Asked::default(),
    };
    // What the file names itself is asked for before any instruction is lowered; ONBUILD may name more.
    for index in &plan.needed {
        lowerer.ask_for_images(*index);
    }
    if lowerer.needs.is_empty() {
        for index in &plan.needed {
            lowerer.stage(*index);
        }
    }
    if !lowerer.needs.is_empty() {
        return Ok(Lowering::Needs(lowerer.needs.into_iter().collect()));
    }
    let mut found = std::mem::take(&mut lowerer.problems);
    found.append(&mut lowerer.warnings);
    found.sort_by_key(|problem| problem.span.map(|span| span.start));
    let mut said: Vec<Problem> = Vec::new();
    for problem in found {
        if !said.contains(&problem) {
            said.push(problem);
        }
    }
    let found = said;
    let found = super::judged(dockerfile, options, found);
    if found
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        // Files that are not there are said together with what else is wrong.
        let files = std::mem::take(&mut lowerer.files);
        return match files.is_empty() {
            true => Err(found),
            false => Ok(Lowering::Needs(files.into_iter().map(Need::File).collect())),
        };
    }
    let outline = lowerer.asked.outline(plan, dockerfile, options);
    Ok(lowerer.finish(found, outline))
}

/// Everything that the lowering of stages shares.
#[derive(Debug)]
pub(super) struct Lowerer<'a> {
    pub(super) plan: &'a Plan<'a>,
    pub(super) escape: char,
    pub(super) options: &'a Options,
    pub(super) resolved: &'a Resolved,
    pub(super) graph: Graph,
    stages: Vec<Option<Finished>>,
    needs: IndexSet<Need>,
    /// What is taken from directories of this machine, and not known to be there.
    files: IndexSet<ContextFile>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) secrets: Vec<NeededSecret>,
    pub(super) agents: Vec<NeededSecret>,
    pub(super) used_args: BTreeSet<String>,
    pub(super) asked: Asked,
}

#[derive(Debug)]
struct Finished {
    state: State,
    nodes: Vec<NodeId>,
}

/// A stage as far as it has got: what the next instruction finds.
#[derive(Debug)]
pub(super) struct State {
    /// The tree.
    pub(super) node: NodeId,
    /// The image's configuration so far.
    pub(super) image: ImageConfig,
    /// What expansion and RUN see: ENV of the image, and ARGs.
    pub(super) env: IndexMap<String, String>,
    /// Whether all that the base sets is known.
    pub(super) env_known: bool,
    /// The ARGs, for the history of RUN.
    pub(super) args: IndexMap<String, Option<String>>,
    /// The history of this stage; that of the stage it starts from comes before it.
    pub(super) history: Vec<LoweredHistory>,
    /// The image that it all starts from.
    base: Option<Rc<Base>>,
    /// ONBUILD of this stage, for stages that start from it.
    triggers: Vec<String>,
    /// A WORKDIR has been given.
    pub(super) workdir_given: bool,
}

/// The stage that is being lowered.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) index: usize,
    pub(super) planned: &'a PlannedStage<'a>,
    pub(super) state: State,
    pub(super) nodes: Vec<NodeId>,
    /// Names the instruction that is being lowered, within the build.
    step: String,
    /// The FROM that triggered it, for instructions that come from ONBUILD.
    trigger: Option<Span>,
    /// Where the instructions stand of which only the last counts.
    pub(super) seen: lint::SeenOnce,
}

impl<'a> Lowerer<'a> {
    /// Asks for the images that a stage starts from and takes from, where they are not known.
    fn ask_for_images(&mut self, index: usize) {
        let planned = &self.plan.stages[index];
        let taken = match self.plan.is_replaced(index, self.options) {
            true => &[][..],
            false => planned.instructions,
        };
        let taken = taken.iter().flat_map(sources_of);
        let taken = taken.map(|(name, span)| self.plan.tree(&name, index, span, self.options));
        let trees: Vec<_> = std::iter::once(planned.base.clone()).chain(taken).collect();
        for tree in trees {
            if let Ok(Tree::Source(source)) = tree
                && has_config(&source)
                && self.resolved.get(&source).is_none()
            {
                self.need(Need::Config(source));
            }
        }
    }

    fn stage(&mut self, index: usize) {
        if self.stages[index].is_some() {
            return;
        }
        let planned = &self.plan.stages[index];
        let Some((state, triggers)) = self.start(planned) else {
            return;
        };
        let mut work = Work {
            index,
            planned,
            state,
            nodes: Vec::new(),
            step: String::new(),
            trigger: None,
            seen: lint::SeenOnce::default(),
        };
        if !self.plan.is_replaced(index, self.options) {
            for (nth, trigger) in triggers.iter().enumerate() {
                work.step = format!("{index}/onbuild-{nth}");
                self.trigger(&mut work, trigger);
            }
            work.trigger = None;
            for (nth, instruction) in planned.instructions.iter().enumerate() {
                work.step = format!("{index}/{nth}");
                self.instruction(&mut work, instruction);
            }
        }
        self.stages[index] = Some(Finished {
            state: work.state,
            nodes: work.nodes,
        });
    }

    /// What a stage starts from, and the triggers that this sets off.
    fn start(&mut self, planned: &PlannedStage<'a>) -> Option<(State, Vec<String>)> {
        // What cannot be started from is a problem already; what follows may have more, so it begins with nothing.
        let (mut state, triggers) = match planned.base.as_ref().unwrap_or(&Tree::Scratch) {
            Tree::Stage(base) => {
                self.stage(*base);
                let mut state = self.stages[*base].as_ref()?.state.successor();
                let triggers = std::mem::take(&mut state.triggers);
                state.image.config.on_build = None;
                (state, triggers)
            }
            Tree::Scratch => (self.empty(Op::Scratch), Vec::new()),
            Tree::Under => {
                let mut state = self.empty(Op::Scratch);
                let mut triggers = Vec::new();
                if let Some(under) = &self.options.under {
                    state.node = under.lowered.target;
                    state.image = inherited(under.lowered.config.clone());
                    state.history.clone_from(&under.lowered.history);
                    state.base = under.lowered.base.clone().map(Rc::new);
                    triggers = state.image.config.on_build.take().unwrap_or_default();
                }
                (state, triggers)
            }
            Tree::Source(source) => {
                let mut state = self.empty(Op::Source(source.clone()));
                let mut triggers = Vec::new();
                if has_config(source)
                    && let Some(config) = self.config(source, planned.from.span)
                {
                    state.env_known = self.resolved.is_known(source);
                    lint::base_platform(self, planned, &config);
                    state.base = Some(Rc::new(Base {
                        config: config.clone(),
                        node: state.node,
                    }));
                    state.image = inherited(config);
                    triggers = state.image.config.on_build.take().unwrap_or_default();
                }
                (state, triggers)
            }
        };
        if !state
            .image
            .config
            .env
            .iter()
            .any(|entry| entry.starts_with("PATH="))
        {
            state.image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for entry in &state.image.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            state.env.insert(name.to_owned(), value.to_owned());
        }
        if !state.image.config.working_dir.is_empty() {
            state.image.config.working_dir =
                super::path::absolute("/", &state.image.config.working_dir);
        }
        Some((state, triggers))
    }

    fn empty(&mut self, op: Op) -> State {
        let platform = self.options.platform.normalised();
        let mut image = ImageConfig {
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            ..Default::default()
        };
        image.config.working_dir = "/".to_owned();
        State {
            node: self.graph.add(op, None),
            image,
            env: IndexMap::new(),
            env_known: true,
            args: IndexMap::new(),
            history: Vec::new(),
            base: None,
            triggers: Vec::new(),
            workdir_given: false,
        }
    }

    /// The configuration of a source, asked for where it is not known yet.
    fn config(&mut self, source: &Source, span: Span) -> Option<ImageConfig> {
        match self.resolved.get(source) {
            Some(Ok(config)) => Some(config.clone()),
            Some(Err(reason)) => {
                let problem = self.missing(source, reason, span);
                self.problems.push(problem);
                None
            }
            None => {
                self.need(Need::Config(source.clone()));
                None
            }
        }
    }

    fn need(&mut self, need: Need) {
        self.needs.insert(need);
    }

    /// Reports a file that is not where a step takes it from, as far as that can be said before the step runs.
    pub(super) fn expect_file(&mut self, work: &Work<'_>, from: NodeId, path: &str, span: Span) {
        let Op::Source(Source::Local { name }) = &self.graph.node(from).op else {
            return;
        };
        if has_wildcard(path) {
            return;
        }
        let file = ContextFile {
            context: name.clone(),
            path: path.to_owned(),
        };
        match self.resolved.files.get(&file) {
            None => {
                self.files.insert(file);
            }
            Some(None) => {}
            Some(Some(absence)) => {
                let mut problem = Problem::error(absence.code, absence.message.clone(), span);
                problem.help = absence.help.clone();
                if absence.code == "copy::missing"
                    && let Some((stage, line)) = self.spoken_of(work, path)
                {
                    problem = problem.help(format!(
                        "the stage `{stage}` speaks of it, at line {line}: what is made there is taken with `--from={stage}`"
                    ));
                }
                self.fail(work, problem);
            }
        }
    }

    /// The first earlier stage with an instruction in which a path stands, and that line.
    fn spoken_of(&self, work: &Work<'_>, path: &str) -> Option<(String, u32)> {
        let path = path.trim_start_matches("./").trim_matches('/');
        if path.len() < 2 {
            return None;
        }
        let stages = self.plan.stages.iter().enumerate().take(work.index);
        for (index, stage) in stages {
            let found = stage.instructions.iter().find(|instruction| {
                !matches!(instruction.kind, Kind::From(_)) && names(&instruction.original, path)
            });
            if let Some(instruction) = found {
                return Some((stage.title(index), instruction.span.line));
            }
        }
        None
    }

    fn missing(&self, source: &Source, reason: &str, span: Span) -> Problem {
        let problem = Problem::error("frontend::no_base", reason, span);
        let Source::Image(ImageSource { name, .. }) = source else {
            return problem;
        };
        let short = Name::familiar(name);
        let later = self
            .plan
            .stages
            .iter()
            .find(|stage| stage.name.as_deref() == Some(short));
        let names = self
            .plan
            .stages
            .iter()
            .filter_map(|stage| stage.name.as_deref());
        match later {
            Some(stage) if stage.from.span.start >= span.start => {
                let line = stage.from.span.line;
                problem.help(format!(
                    "the stage `{short}` is defined only at line {line}; move it up"
                ))
            }
            _ => problem
                .help(format!(
                    "build it first, or give it as a context: `--build-context {short}=docker-image://REGISTRY/NAME:TAG`"
                ))
                .near(
                    short,
                    names.chain(self.options.contexts.keys().map(String::as_str)),
                ),
        }
    }

    /// The node of a tree that something is copied or mounted from.
    pub(super) fn tree(&mut self, work: &Work<'_>, name: &str, span: Span) -> Option<NodeId> {
        let span = work.place(span);
        match self.plan.tree(name, work.index, span, self.options) {
            Ok(Tree::Scratch) => Some(self.graph.add(Op::Scratch, None)),
            Ok(Tree::Under) => {
                let under = self.options.under.as_ref();
                under.map(|under| under.lowered.target)
            }
            Ok(Tree::Stage(index)) => {
                self.stage(index);
                self.stages[index].as_ref().map(|stage| stage.state.node)
            }
            Ok(Tree::Source(source)) => {
                if has_config(&source) {
                    self.config(&source, span);
                }
                Some(self.graph.add(Op::Source(source), None))
            }
            Err(problem) => {
                self.problems.push(*problem);
                None
            }
        }
    }

    /// The build context.
    pub(super) fn context(&mut self) -> NodeId {
        let name = self.options.part.as_deref().unwrap_or("context");
        self.graph.add(
            Op::Source(Source::Local {
                name: name.to_owned(),
            }),
            None,
        )
    }

    fn trigger(&mut self, work: &mut Work<'_>, expression: &str) {
        let from = work.planned.from.span;
        work.trigger = Some(from);
        let parsed = parse(expression);
        for problem in parsed.problems {
            let about = Problem {
                span: Some(from),
                ..problem
            };
            let about = about.label(format!("an ONBUILD of its base: `{expression}`"));
            let list = if about.severity == Severity::Error {
                &mut self.problems
            } else {
                &mut self.warnings
            };
            list.push(about);
        }
        match parsed.dockerfile.instructions.as_slice() {
            [instruction] => self.instruction(work, instruction),
            _ => self.fail(
                work,
                Problem::error(
                    "frontend::onbuild",
                    "an ONBUILD is more than one instruction",
                    from,
                ),
            ),
        }
    }

    fn instruction(&mut self, work: &mut Work<'_>, instruction: &Instruction) {
        match &instruction.kind {
            Kind::From(_) | Kind::Invalid => {}
            Kind::Run(run) => self.run(work, instruction, run),
            Kind::Copy(copy) => self.transfer(work, instruction, copy, super::copy::Verb::Copy),
            Kind::Add(add) => self.transfer(work, instruction, add, super::copy::Verb::Add),
            Kind::OnBuild(OnBuild { expression, .. }) => {
                work.state.triggers.push(expression.clone());
                work.state
                    .image
                    .config
                    .on_build
                    .get_or_insert_default()
                    .push(expression.clone());
            }
            _ => self.metadata(work, instruction),
        }
    }

    /// Adds a problem; where an ONBUILD of the base is the cause, it is shown at the FROM.
    pub(super) fn fail(&mut self, work: &Work<'_>, mut problem: Problem) {
        if work.trigger.is_some() {
            problem.span = work.trigger;
        }
        self.problems.push(problem);
    }

    pub(super) fn warn(&mut self, work: &Work<'_>, mut problem: Problem) {
        if work.trigger.is_some() {
            problem.span = work.trigger;
        }
        self.warnings.push(problem);
    }

    /// Expands a word; `None` if it cannot be, which is then reported.
    pub(super) fn expand(&mut self, work: &Work<'_>, word: &Word) -> Option<String> {
        self.expand_as(work, &word.text, word.span, Keep::Nothing)
            .map(|expansion| expansion.text)
    }

    pub(super) fn expand_all(&mut self, work: &Work<'_>, words: &[Word]) -> Option<Vec<String>> {
        words.iter().map(|word| self.expand(work, word)).collect()
    }

    pub(super) fn expand_optional(
        &mut self,
        work: &Work<'_>,
        word: Option<&Word>,
    ) -> Option<Option<String>> {
        match word {
            None => Some(None),
            Some(word) => self.expand(work, word).map(Some),
        }
    }

    pub(super) fn expand_as(
        &mut self,
        work: &Work<'_>,
        text: &str,
        span: Span,
        keep: Keep,
    ) -> Option<Expansion> {
        // In the body of a heredoc the escape character is always the backslash.
        let escape = if keep == Keep::QuotesAsText {
            '\\'
        } else {
            self.escape
        };
        match expand(text, escape, &work.state.env, keep) {
            Ok(expansion) => {
                lint::undefined(self, work, &expansion.unset, span);
                Some(expansion)
            }
            Err(error) => {
                self.fail(
                    work,
                    Problem::error("frontend::expand", error.to_string(), span),
                );
                None
            }
        }
    }

    /// Adds a step to the stage.
    pub(super) fn step(&mut self, work: &mut Work<'_>, instruction: &Instruction, op: Op) {
        let place = work.place(instruction.span);
        let (file, line) = match self.options.origins.of(place.line) {
            Some((file, line)) => (file.to_owned(), line),
            None => (self.options.file.clone(), place.line),
        };
        let prefix = if work.trigger.is_some() {
            "ONBUILD "
        } else {
            ""
        };
        let origin = StepOrigin {
            step: self.options.in_part(work.step.clone()),
            stage: self.options.in_part(work.planned.title(work.index)),
            name: format!("{prefix}{}", instruction.original),
            line,
            file,
        };
        work.state.node = self.graph.add(op, Some(origin));
        work.nodes.push(work.state.node);
    }

    fn finish(self, warnings: Vec<Problem>, outline: Outline) -> Lowering {
        let history = self.history();
        let under = self.options.under.as_ref().map(|under| &under.lowered);
        let mut stages = under.map_or_else(Vec::new, |under| under.stages.clone());
        // Stages of both files are told apart by their numbers.
        let first = stages.iter().map(|stage| stage.index + 1).max();
        let first = first.unwrap_or(0);
        let below = under.and_then(|under| {
            let mut stages = under.stages.iter().rev();
            stages.find(|stage| stage.result == under.target)
        });
        let mut target = None;
        for (index, finished) in self.stages.into_iter().enumerate() {
            let Some(Finished { state, nodes }) = finished else {
                continue;
            };
            let planned = &self.plan.stages[index];
            let result = state.node;
            stages.push(Stage {
                name: self.options.in_part(planned.title(index)),
                index: first + index,
                parent: match planned.base {
                    Ok(Tree::Stage(parent)) => Some(first + parent),
                    Ok(Tree::Under) => below.map(|stage| stage.index),
                    _ => None,
                },
                first_line: planned.from.span.line,
                nodes,
                result,
                config: state.image,
            });
            if index == self.plan.target {
                target = Some((stages.len() - 1, state.base));
            }
        }
        let (at, base) = target.expect("a target that cannot be lowered was reported");
        let mut config = stages[at].config.clone();
        if !self.options.labels.is_empty() {
            let labels = config.config.labels.get_or_insert_default();
            labels.extend(self.options.labels.clone());
        }
        let (mut secrets, mut agents) = (self.secrets, self.agents);
        if let Some(under) = under {
            secrets.extend(under.secrets.iter().cloned());
            agents.extend(under.agents.iter().cloned());
        }
        Lowering::Done(Box::new(Lowered {
            graph: self.graph,
            target: stages[at].result,
            config,
            history,
            base: base.map(Rc::unwrap_or_clone),
            stages,
            warnings,
            unused_build_args: unused(self.options, &self.used_args),
            secrets,
            agents,
            outline,
            files: self.files.into_iter().collect(),
            source_date_epoch: self.plan.seconds(),
        }))
    }

    /// The history of the target, that of the stages it starts from before its own.
    fn history(&self) -> Vec<LoweredHistory> {
        let mut stages = vec![self.plan.target];
        while let Ok(Tree::Stage(base)) = self.plan.stages[stages[stages.len() - 1]].base {
            stages.push(base);
        }
        let finished = stages.iter().rev();
        finished
            .filter_map(|stage| self.stages[*stage].as_ref())
            .flat_map(|finished| finished.state.history.iter().cloned())
            .collect()
    }
}

impl Work<'_> {
    /// Where a person should look for something that stands at `span`.
    pub(super) fn place(&self, span: Span) -> Span {
        self.trigger.unwrap_or(span)
    }
}

impl State {
    /// What a stage begins with that starts from this one.
    fn successor(&self) -> Self {
        Self {
            node: self.node,
            image: self.image.clone(),
            env: self.env.clone(),
            env_known: self.env_known,
            args: self.args.clone(),
            history: Vec::new(),
            base: self.base.clone(),
            triggers: self.triggers.clone(),
            workdir_given: self.workdir_given,
        }
    }

    /// Adds an entry to the history that makes no layer.
    pub(super) fn record(&mut self, created_by: String) {
        self.history.push(LoweredHistory {
            created_by,
            node: None,
        });
    }

    /// Adds an entry to the history for the layer that the newest step makes.
    pub(super) fn record_layer(&mut self, created_by: String) {
        self.history.push(LoweredHistory {
            created_by,
            node: Some(self.node),
        });
    }

    /// The current WORKDIR.
    pub(super) fn workdir(&self) -> &str {
        let workdir = self.image.config.working_dir.as_str();
        if workdir.is_empty() { "/" } else { workdir }
    }
}

impl Options {
    /// A name of a stage or step, as it is told apart from those of other Dockerfiles of the build.
    fn in_part(&self, name: String) -> String {
        match &self.part {
            Some(part) => format!("{part}/{name}"),
            None => name,
        }
    }
}

/// Whether a path, or one that ends with it, stands in a text as a word.
fn names(text: &str, path: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    text.match_indices(path).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + path.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Whether a source is an image; the others are trees alone.
fn has_config(source: &Source) -> bool {
    match source {
        Source::Image(_) | Source::OciLayout(_) | Source::Debian(_) => true,
        Source::Git(_) | Source::Http(_) | Source::Local { .. } => false,
    }
}

/// A base's configuration without what belongs to that image alone.
fn inherited(mut config: ImageConfig) -> ImageConfig {
    config.created = None;
    config.rootfs = RootFs::default();
    config.history = Vec::<History>::new();
    config
}

/// Build arguments that nothing asked for, but for those that have a meaning of their own.
fn unused(options: &Options, used: &BTreeSet<String>) -> Vec<String> {
    let special = |name: &str| {
        name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
            || super::run::PROXIES
                .iter()
                .any(|proxy| name.eq_ignore_ascii_case(proxy))
            || ["BUILD", "TARGET"].iter().any(|prefix| {
                let rest = name.strip_prefix(prefix).unwrap_or_default();
                ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT", "STAGE"].contains(&rest)
            })
    };
    options
        .build_args
        .keys()
        .filter(|name| !used.contains(*name) && !special(name))
        .cloned()
        .collect()
}
