//! [`Dockerfile`] to [`Graph`]: what has to be done, and what the image's configuration will be. No I/O: where the
//! configuration of a base image is needed, or whether a file is in a context, [`lower`] says so ([`Lowering::Needs`]);
//! the caller finds it out, puts it into [`Resolved`] and asks again.
//!
//! Only stages that the target needs are lowered. What this version cannot do yet is refused by name, never skipped.

mod copy;
mod epoch;
mod git;
mod history;
mod lint;
mod metadata;
mod outline;
mod path;
mod ports;
mod review;
mod run;
mod stage;
mod stages;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;

use crate::dockerfile::ignore::IgnoreFile;
use crate::dockerfile::{Dockerfile, Problem, Span};
use crate::graph::{Graph, NodeId, RunDefaults, Source};
use crate::image::{ImageConfig, Platform};

pub use epoch::{TimeSource, epoch_source};
pub use git::git_context;
pub use outline::{Outline, OutlineArg, OutlineMount, Target, targets};
pub use review::{Review, review};

/// What the person who builds has asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The stage to build, by name or index; `None`: the last.
    pub target: Option<String>,
    /// Which stages are lowered.
    pub scope: Scope,
    /// `--build-arg`, in order.
    pub build_args: IndexMap<String, String>,
    /// Named contexts; `NAME::PLATFORM` is for that platform only, `context` is the build context where it is no directory.
    pub contexts: BTreeMap<String, Source>,
    /// What is built for.
    pub platform: Platform,
    /// What is built on.
    pub build_platform: Platform,
    /// `--label`
    pub labels: BTreeMap<String, String>,
    /// Proxies of this machine, such as `http_proxy`: a RUN sees them, but its key does not.
    pub proxies: BTreeMap<String, String>,
    /// What every RUN gets.
    pub run: RunDefaults,
    /// SOURCE_DATE_EPOCH of the environment; a build argument of that name goes before it.
    pub source_date_epoch: Option<i64>,
    /// What the Dockerfile is called in messages and events.
    pub file: String,
    /// Where the lines of a rendered Dockerfile come from.
    pub origins: Origins,
    /// The ignore file of the build context, so that a COPY of what it leaves out is warned of.
    pub ignore: IgnoreFile,
    /// The Dockerfile that this one stands on.
    pub under: Option<Under>,
    /// The Dockerfile is [`Under`] another one, by this name: its build context is called so, and before the names of its
    /// stages and steps stands `NAME/`.
    pub part: Option<String>,
}

/// A Dockerfile of its own, lowered already, whose image another one starts from. Both are one graph.
#[derive(Debug, Clone)]
pub struct Under {
    /// What stands after FROM.
    pub name: String,
    /// The whole of it.
    pub lowered: Lowered,
}

/// Which stages are lowered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// The target, and what it needs.
    #[default]
    Target,
    /// All: mistakes are looked for, nothing is built.
    All,
}

/// Where lines of a rendered Dockerfile come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

/// Some lines of a rendered Dockerfile, and the line of another file that they were made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The first line, from 1.
    pub first: u32,
    /// The last line.
    pub last: u32,
    /// The file that they were made from.
    pub file: String,
    /// The line in it.
    pub line: u32,
}

impl Origins {
    /// Later entries go before earlier ones where lines are in several.
    #[must_use]
    pub fn new(origins: Vec<Origin>) -> Self {
        Self(origins)
    }

    /// File and line that a line was made from.
    #[must_use]
    pub fn of(&self, line: u32) -> Option<(&str, u32)> {
        let found = self
            .0
            .iter()
            .rev()
            .find(|origin| (origin.first..=origin.last).contains(&line))?;
        Some((&found.file, found.line))
    }
}

/// What the lowering has to be told. After files it asks only where something is wrong anyway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// The configuration of an image.
    Config(Source),
    /// Whether a file is in a directory of this machine.
    File(ContextFile),
}

/// A file that a step takes from a directory of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContextFile {
    /// The context's name; that of the build context is `context`.
    pub context: String,
    /// As written, without wildcards.
    pub path: String,
}

/// Why a file cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    /// The problem's stable name.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: Option<String>,
}

/// What is known of the world.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    found: HashMap<Source, Result<ImageConfig, String>>,
    files: HashMap<ContextFile, Option<Absence>>,
    unknown: HashSet<Source>,
}

impl Resolved {
    /// The source exists, and this is its configuration.
    pub fn found(&mut self, source: Source, config: ImageConfig) {
        self.found.insert(source, Ok(config));
    }

    /// The source cannot be had; the reason is shown at the line that asks for it.
    pub fn missing(&mut self, source: Source, reason: impl Into<String>) {
        self.found.insert(source, Err(reason.into()));
    }

    /// Whether a file is there: `None` if it is.
    pub fn file(&mut self, file: ContextFile, absence: Option<Absence>) {
        self.files.insert(file, absence);
    }

    /// Nobody asks whether the source exists, since nothing is built: it may set what it likes.
    pub fn unknown(&mut self, source: Source) {
        self.found
            .insert(source.clone(), Ok(ImageConfig::default()));
        self.unknown.insert(source);
    }

    fn is_known(&self, source: &Source) -> bool {
        !self.unknown.contains(source)
    }

    fn get(&self, source: &Source) -> Option<Result<&ImageConfig, &str>> {
        self.found
            .get(source)
            .map(|found| found.as_ref().map_err(String::as_str))
    }
}

/// How far the lowering got.
#[derive(Debug, Clone, PartialEq)]
pub enum Lowering {
    /// These have to be in [`Resolved`] first.
    Needs(Vec<Need>),
    /// All of it.
    Done(Box<Lowered>),
}

/// A Dockerfile as a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// What has to be done.
    pub graph: Graph,
    /// The node whose tree is the image's.
    pub target: NodeId,
    /// The image's configuration, without layers, history and time of creation.
    pub config: ImageConfig,
    /// The history of the stages, in order; that of the base comes before it.
    pub history: Vec<LoweredHistory>,
    /// The image that the target starts from, if it starts from one.
    pub base: Option<Base>,
    /// Every stage that the target needs, in the order of the file.
    pub stages: Vec<Stage>,
    /// What should be mended.
    pub warnings: Vec<Problem>,
    /// Build arguments that no ARG asked for.
    pub unused_build_args: Vec<String>,
    /// The secrets that steps ask for.
    pub secrets: Vec<NeededSecret>,
    /// What the target can be given.
    pub outline: Outline,
    /// Files that steps take from directories of this machine, as far as nobody has said that they are there. Where one
    /// is not, [`Resolved`] is told so, and [`lower`] asked again: it says where.
    pub files: Vec<ContextFile>,
    /// The SSH agents that steps ask for.
    pub agents: Vec<NeededSecret>,
    /// SOURCE_DATE_EPOCH, wherever it was given.
    pub source_date_epoch: Option<i64>,
}

/// The image that a build starts from.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Its configuration, as it is.
    pub config: ImageConfig,
    /// Its tree.
    pub node: NodeId,
}

/// One stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Its name, or its index as text.
    pub name: String,
    /// Its index in the file.
    pub index: usize,
    /// The index of the stage that it starts from; `None`: it starts from a source, or from nothing.
    pub parent: Option<usize>,
    /// The line of its FROM.
    pub first_line: u32,
    /// Its steps, in order.
    pub nodes: Vec<NodeId>,
    /// The node whose tree is the stage's.
    pub result: NodeId,
    /// Its image's configuration.
    pub config: ImageConfig,
}

/// One entry of an image's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoweredHistory {
    /// The instruction, as BuildKit words it.
    pub created_by: String,
    /// The node that makes its layer; `None` where it makes none.
    pub node: Option<NodeId>,
}

/// `comment` of every entry of the history, as BuildKit has it.
pub const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

/// A secret, or an SSH agent, that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededSecret {
    /// Its id.
    pub id: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The instruction that asks for it.
    pub span: Span,
}

/// Makes a graph of a Dockerfile that was parsed without errors. With an error among them, all problems are given,
/// warnings too.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &Options,
    resolved: &Resolved,
) -> Result<Lowering, Vec<Problem>> {
    let plan = stages::Plan::of(dockerfile, options);
    stage::lower_all(&plan, dockerfile, options, resolved)
}

/// The problems that the file, or a build argument, wants to hear of.
fn judged(dockerfile: &Dockerfile, options: &Options, problems: Vec<Problem>) -> Vec<Problem> {
    let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    dockerfile.judged(problems, given.map(String::as_str))
}
