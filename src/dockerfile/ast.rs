//! What a Dockerfile says, instruction by instruction. Everything has its span in the text.

use std::fmt;

use super::problem::Span;

/// A parsed Dockerfile. Printing it gives back the text it was parsed from.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    pub(super) text: String,
    /// What the lines at the head say.
    pub directives: Directives,
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
}

impl Dockerfile {
    /// The text it was parsed from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `# syntax=`, `# escape=`, `# check=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that the file asks for.
    pub syntax: Option<Word>,
    /// Which rules are checked.
    pub check: Option<Word>,
    /// The character that escapes and continues lines.
    pub escape: char,
}

/// A piece of text at its place; what it says may differ from what is written there by joined lines, or by quotes that
/// were taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// From its first character to its last, heredocs included.
    pub span: Span,
    /// `RUN`, as written.
    pub keyword: Word,
    /// The instruction with its continuations joined, without heredoc bodies.
    pub original: String,
    /// The flags as they are written, in order.
    pub flags: Vec<Word>,
    /// The arguments before they are given a meaning.
    pub arguments: Arguments,
    /// Heredocs, in the order of their bodies.
    pub heredocs: Vec<Heredoc>,
    /// The comment lines above it, without `#`.
    pub comments: Vec<Word>,
    /// What a `# shmocker:` comment directly above it adds.
    pub extras: Extras,
    /// What it means.
    pub kind: Kind,
}

/// The arguments of an instruction, split as its form asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Arguments {
    /// There are none.
    None,
    /// `["a", "b"]`
    Json(Vec<Word>),
    /// The rest of the line as it is.
    Line(Word),
    /// Words between blanks.
    Words(Vec<Word>),
    /// `NAME=value`, or `NAME value`.
    Pairs(Vec<Pair>),
    /// ONBUILD: an instruction.
    Instruction(Box<Instruction>),
    /// HEALTHCHECK: `NONE` or `CMD`, and what follows.
    Typed(Word, Box<Arguments>),
}

/// A name and a value of ENV or LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name; variables are not expanded yet.
    pub name: Word,
    /// The value, with its quotes; variables are not expanded yet.
    pub value: Word,
    /// How the two are set apart.
    pub form: PairForm,
}

/// How name and value are set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairForm {
    /// `NAME=value`
    Equals,
    /// `NAME value`, the old form.
    Blank,
}

/// One heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without quotes.
    pub name: String,
    /// Whether variables in it are expanded: no part of the word was quoted.
    pub expand: bool,
    /// `<<-`: leading tabs are taken away.
    pub chomp: bool,
    /// `3<<EOF`: the file descriptor.
    pub descriptor: u32,
    /// The body as it is written.
    pub body: String,
    /// Where the body is.
    pub span: Span,
}

impl Heredoc {
    /// The body, without leading tabs where `<<-` asks for that.
    #[must_use]
    pub fn content(&self) -> String {
        if !self.chomp {
            return self.body.clone();
        }
        self.body
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// What a Dockerfile cannot say for itself: `# shmocker: timeout=2m tap`. Other builders see a comment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// The step is ended after so long.
    pub timeout_ms: Option<u64>,
    /// The step is also judged by the TAP that it prints.
    pub tap: bool,
}

/// What an instruction means.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// FROM
    From(From),
    /// RUN
    Run(Run),
    /// COPY
    Copy(Transfer),
    /// ADD
    Add(Transfer),
    /// ENV
    Env(Vec<Pair>),
    /// LABEL
    Label(Vec<Pair>),
    /// ARG
    Arg(Vec<Argument>),
    /// WORKDIR
    Workdir(Word),
    /// USER
    User(Word),
    /// ENTRYPOINT
    Entrypoint(Command),
    /// CMD
    Cmd(Command),
    /// SHELL
    Shell(Vec<Word>),
    /// EXPOSE
    Expose(Vec<Word>),
    /// VOLUME
    Volume(Vec<Word>),
    /// STOPSIGNAL
    StopSignal(Word),
    /// HEALTHCHECK
    Healthcheck(Healthcheck),
    /// MAINTAINER
    Maintainer(Word),
    /// ONBUILD
    OnBuild(OnBuild),
    /// Something that is no instruction, or not a right one; the problem says why.
    Invalid,
}

/// FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// `--platform`
    pub platform: Option<Word>,
    /// What it starts from; variables are not expanded yet.
    pub base: Word,
    /// `AS name`, in lower case.
    pub name: Option<Word>,
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// For the shell.
    Shell(Word),
    /// `["program", "argument"]`
    Exec(Vec<Word>),
}

/// RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: Command,
    /// `--mount`
    pub mounts: Vec<MountFlag>,
    /// `--network`
    pub network: Option<Word>,
    /// `--security`
    pub security: Option<Word>,
    /// `--device`
    pub devices: Vec<Word>,
}

/// One `--mount`, before variables are expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    /// The flag.
    pub span: Span,
    /// `key=value` and `key`, in order.
    pub options: Vec<MountOption>,
}

/// One option of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// The name, in lower case.
    pub key: String,
    /// The value, if there is a `=`.
    pub value: Option<String>,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// What is taken: paths, URLs and heredocs.
    pub sources: Vec<TransferSource>,
    /// Where it goes.
    pub dest: Word,
    /// `--from`
    pub from: Option<Word>,
    /// `--chown`
    pub chown: Option<Word>,
    /// `--chmod`
    pub chmod: Option<Word>,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<Word>,
    /// `--checksum`
    pub checksum: Option<Word>,
    /// `--unpack`
    pub unpack: Option<bool>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<bool>,
}

/// One source of COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferSource {
    /// A path or a URL.
    Path(Word),
    /// The heredoc with this index in [`Instruction::heredocs`].
    Heredoc(usize),
}

/// One name of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: Word,
    /// The default; variables are not expanded yet.
    pub default: Option<Word>,
}

/// HEALTHCHECK; durations in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run; `None` for `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    /// `--interval`
    pub interval_ns: u64,
    /// `--timeout`
    pub timeout_ns: u64,
    /// `--start-period`
    pub start_period_ns: u64,
    /// `--start-interval`
    pub start_interval_ns: u64,
    /// `--retries`
    pub retries: u64,
}

/// ONBUILD.
#[derive(Debug, Clone, PartialEq)]
pub struct OnBuild {
    /// What is to be done, as text, heredocs included: what the image's configuration keeps.
    pub expression: String,
    /// The same, parsed.
    pub trigger: Box<Instruction>,
}
