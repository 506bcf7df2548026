//! What a build says while it runs: facts, with no colour, width or wording. Every consumer (terminal, plain text,
//! JSON lines, an embedding program) gets the same ones. The JSON form is fixed in docs/progress-json.md.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Names a step within one build; stable between builds of the same file.
pub type StepId = String;

/// The Dockerfile instruction that a step comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepOrigin {
    /// The step's id.
    pub step: StepId,
    /// The stage's name, or its index as text where it has none.
    pub stage: String,
    /// The instruction as written (continuations joined).
    pub name: String,
    /// The line in `file` at which it starts, from 1.
    pub line: u32,
    /// The file a person should look at: the Dockerfile, or the habitat layer that the instruction was made from.
    pub file: String,
}

/// Which of its two streams a step wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a test said, and how it was judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// Why it failed; `None`: it passed.
    pub failure: Option<String>,
    /// How many points it planned, if it said so.
    pub planned: Option<u64>,
    /// What it said of each, in the order in which it did.
    pub points: Vec<TestPoint>,
    /// How long it ran.
    pub duration_ms: u64,
}

/// One `ok` or `not ok` of a test.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestPoint {
    /// Its number: what the test says, else one more than the last.
    pub number: u64,
    /// Its description.
    pub name: String,
    /// Whether it is `ok`, whatever is expected of it.
    pub ok: bool,
    /// It was left out, and why.
    pub skip: Option<String>,
    /// It is known not to work yet, and why.
    pub todo: Option<String>,
    /// What the test said of it: the lines of comments and of YAML after it.
    pub diagnostics: Vec<String>,
    /// From the point before it, or from the start.
    pub duration_ms: u64,
}

impl TestPoint {
    /// Whether the test fails because of it.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        !self.ok && self.skip.is_none() && self.todo.is_none()
    }
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All that was asked for exists.
    Ok,
    /// Something failed.
    Failed,
    /// It was told to stop.
    Cancelled,
}

/// One fact about a running build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event")]
pub enum BuildEvent {
    /// The build begins.
    #[serde(rename = "build.started")]
    BuildStarted {
        /// The stage that is built.
        target: String,
        /// The platforms it is built for, as `os/arch`.
        platforms: Vec<String>,
    },
    /// A step begins to run.
    #[serde(rename = "step.started")]
    StepStarted {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
    },
    /// A running step has got so far.
    #[serde(rename = "step.progress")]
    StepProgress {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
        /// How much is done, in `unit`.
        done: u64,
        /// How much there is, 0 if not known.
        total: u64,
        /// `bytes`, `files` …
        unit: String,
    },
    /// A step has written something: one line without its end, control characters already escaped.
    #[serde(rename = "step.log")]
    StepLog {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
        /// Where to.
        stream: Stream,
        /// The line.
        text: String,
    },
    /// A step's result exists.
    #[serde(rename = "step.done")]
    StepDone {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
        /// It was there already; nothing ran.
        cached: bool,
        /// How long it ran.
        duration_ms: u64,
    },
    /// A step has failed.
    #[serde(rename = "step.failed")]
    StepFailed {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
        /// The status its process ended with, if one did.
        exit_status: Option<i32>,
        /// Why, in words.
        message: String,
        /// A file that holds the whole output, if one was kept.
        log_path: Option<String>,
    },
    /// A test has ended.
    #[serde(rename = "test.done")]
    TestDone {
        /// Which.
        #[serde(flatten)]
        origin: StepOrigin,
        /// It passed before, and nothing that it reads has changed; nothing ran.
        cached: bool,
        /// What it said, and how it was judged.
        #[serde(flatten)]
        report: TestReport,
    },
    /// A source (image, repository, download, Debian base, context) is asked for.
    #[serde(rename = "source.started")]
    SourceStarted {
        /// Its reference.
        source: String,
    },
    /// A source is on its way.
    #[serde(rename = "source.progress")]
    SourceProgress {
        /// Its reference.
        source: String,
        /// Bytes that are here.
        bytes: u64,
        /// Bytes that there are, 0 if not known.
        total: u64,
    },
    /// A source is here.
    #[serde(rename = "source.done")]
    SourceDone {
        /// Its reference.
        source: String,
        /// It was here already.
        cached: bool,
        /// Bytes that were fetched.
        bytes: u64,
        /// What the reference means now: a digest or a commit.
        resolved: Option<String>,
        /// Seconds since a remembered answer was given, where one was used.
        age_s: Option<u64>,
    },
    /// A source cannot be had.
    #[serde(rename = "source.failed")]
    SourceFailed {
        /// Its reference.
        source: String,
        /// Why.
        message: String,
    },
    /// An image begins to be sent to a registry.
    #[serde(rename = "push.started")]
    PushStarted {
        /// Its name there.
        image: String,
    },
    /// An image is on its way to a registry.
    #[serde(rename = "push.progress")]
    PushProgress {
        /// Its name there.
        image: String,
        /// Bytes that are sent.
        bytes: u64,
        /// Bytes that there are; some of them may be there already.
        total: u64,
    },
    /// An image is in a registry.
    #[serde(rename = "push.done")]
    PushDone {
        /// Its name there.
        image: String,
        /// What the name stands for now.
        digest: Digest,
        /// Bytes that were sent.
        bytes: u64,
        /// Blobs that were sent.
        blobs_sent: u32,
        /// Blobs that the registry took from another of its repositories.
        blobs_mounted: u32,
        /// Blobs that were there.
        blobs_there: u32,
    },
    /// A server is tried again after a pause.
    #[serde(rename = "waiting")]
    Waiting {
        /// Host and port.
        host: String,
        /// Why the last attempt failed.
        reason: String,
        /// Which attempt comes next, from 1.
        attempt: u32,
        /// How many there are at most, in a row.
        attempts: u32,
        /// How long the pause is.
        wait_ms: u64,
    },
    /// Something the user should know.
    #[serde(rename = "warning")]
    Warning {
        /// A stable name, such as `NoEmptyContinuation`.
        code: String,
        /// In words.
        message: String,
        /// The file it is about.
        file: Option<String>,
        /// The line in it, from 1.
        line: Option<u32>,
    },
    /// The build has ended. Always the last event.
    #[serde(rename = "build.done")]
    BuildDone {
        /// How.
        status: Status,
        /// The manifest that was made.
        digest: Option<Digest>,
        /// Its config.
        config_digest: Option<Digest>,
        /// Steps that were executed by this process.
        steps_run: u32,
        /// Steps whose result was there.
        steps_cached: u32,
        /// From start to end.
        duration_ms: u64,
    },
}

impl BuildEvent {
    /// The instruction that it is about, if it is about one.
    pub fn origin_mut(&mut self) -> Option<&mut StepOrigin> {
        match self {
            Self::StepStarted { origin, .. }
            | Self::StepProgress { origin, .. }
            | Self::StepLog { origin, .. }
            | Self::StepDone { origin, .. }
            | Self::StepFailed { origin, .. }
            | Self::TestDone { origin, .. } => Some(origin),
            _ => None,
        }
    }
}

/// Where events go. Anything may hold one; it may be called from any thread.
pub trait EventSink: Send + Sync {
    /// Takes one event. Must not block for long: a build waits.
    fn emit(&self, event: BuildEvent);
}

impl<F: Fn(BuildEvent) + Send + Sync> EventSink for F {
    fn emit(&self, event: BuildEvent) {
        self(event);
    }
}
