//! Why a build did not end well, in a form that crosses a process boundary: what happened, where, why, and the way out.
//!
//! Every error of the engine ends as one [`Failure`]; the edge that shows it to a person adds the source text.

use serde::{Deserialize, Serialize};

use crate::event::StepOrigin;

/// Whose fault it is; decides the exit code (docs/contracts: exit codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The input is wrong, and no network could change that.
    Input,
    /// A step of the build failed.
    Step,
    /// This machine cannot.
    Machine,
    /// A source failed.
    Source,
    /// It was refused: bad signature, entitlement not allowed.
    Refused,
    /// Someone asked for it to end.
    Cancelled,
    /// A program asked for it to end: SIGTERM.
    Terminated,
    /// A bug of shmocker.
    Bug,
}

/// A place in a text that the user wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file's name as the user gave it.
    pub file: String,
    /// Its line, from 1.
    pub line: u32,
    /// Byte offset and length in the file, where they are known.
    pub span: Option<(usize, usize)>,
}

impl Place {
    /// Where a step comes from.
    #[must_use]
    pub fn of(origin: &StepOrigin) -> Self {
        Self {
            file: origin.file.clone(),
            line: origin.line,
            span: None,
        }
    }
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose fault.
    pub kind: FailureKind,
    /// A stable name, such as `exec::status`.
    pub code: String,
    /// What happened.
    pub message: String,
    /// Why, from the nearest cause to the root one.
    pub causes: Vec<String>,
    /// Where in the input.
    pub place: Option<Place>,
    /// The text that the place is in, where the reader may not have it.
    pub text: Option<String>,
    /// What the mark at that place says.
    pub label: Option<String>,
    /// The way out.
    pub help: Option<String>,
    /// The status that the failing step's process ended with.
    pub exit_status: Option<i32>,
    /// The last lines that the failing step printed.
    pub output: Vec<String>,
    /// Nothing ends because of it: it is shown as what should be mended.
    #[serde(default)]
    pub is_warning: bool,
}

impl Failure {
    /// A failure of which only kind, code and message are known yet.
    pub fn new(kind: FailureKind, code: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.to_owned(),
            message: message.into(),
            causes: Vec::new(),
            place: None,
            text: None,
            label: None,
            help: None,
            exit_status: None,
            output: Vec::new(),
            is_warning: false,
        }
    }

    /// A failure that says what was attempted, with an error and all its sources as the reason.
    pub fn caused(
        kind: FailureKind,
        code: &str,
        message: impl Into<String>,
        cause: &dyn std::error::Error,
    ) -> Self {
        let mut failure = Self::new(kind, code, message);
        failure.push_causes(Some(cause));
        failure
    }

    /// An error with a message of its own: its sources become the causes, its help is kept.
    pub fn from_diagnostic(kind: FailureKind, error: &dyn miette::Diagnostic) -> Self {
        let code = error
            .code()
            .map_or_else(|| "engine".to_owned(), |code| code.to_string());
        let mut failure = Self::new(kind, &code, error.to_string());
        failure.help = error.help().map(|help| help.to_string());
        failure.push_causes(error.source());
        failure
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    fn push_causes(&mut self, mut cause: Option<&dyn std::error::Error>) {
        while let Some(error) = cause {
            self.causes.push(error.to_string());
            cause = error.source();
        }
    }
}

impl From<super::snapshot::SnapshotError> for Failure {
    fn from(error: super::snapshot::SnapshotError) -> Self {
        Self::from_diagnostic(FailureKind::Machine, &error)
    }
}

impl From<super::exec::ExecError> for Failure {
    fn from(error: super::exec::ExecError) -> Self {
        use super::exec::{ExecError, PublishError};
        let kind = match &error {
            // What the Dockerfile asks for cannot be had in its image.
            ExecError::User(_) | ExecError::BadTarget { .. } => FailureKind::Step,
            ExecError::Publish(PublishError::Port { .. }) => FailureKind::Input,
            _ => FailureKind::Machine,
        };
        Self::from_diagnostic(kind, &error)
    }
}

impl From<super::tree::TreeError> for Failure {
    fn from(error: super::tree::TreeError) -> Self {
        use super::tree::TreeError;
        let kind = match &error {
            TreeError::Unwritable { .. } | TreeError::Store(_) => FailureKind::Machine,
            _ => FailureKind::Input,
        };
        Self::from_diagnostic(kind, &error)
    }
}
