//! The exit codes that scripts may rely on.

use std::process::ExitCode;

use crate::engine::failure::FailureKind;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// The input is wrong.
    Input,
    /// The command line is wrong.
    Usage,
    /// A step of the build failed.
    Step,
    /// This machine cannot.
    Machine,
    /// A source failed.
    Source,
    /// Refused: signature, policy, entitlement.
    Refused,
    /// `why`: something would be built again.
    WouldBuild,
    /// A bug of shmocker.
    Bug,
    /// Interrupted.
    Interrupted,
    /// Terminated.
    Terminated,
    /// `run`: the command's own status.
    Command(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Input => 1,
            Self::Usage => 2,
            Self::Step => 3,
            Self::Machine => 4,
            Self::Source => 5,
            Self::Refused => 6,
            Self::WouldBuild => 10,
            Self::Bug => 70,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Command(status) => status,
        }
    }
}

impl From<FailureKind> for Exit {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Input => Self::Input,
            FailureKind::Step => Self::Step,
            FailureKind::Machine => Self::Machine,
            FailureKind::Source => Self::Source,
            FailureKind::Refused => Self::Refused,
            FailureKind::Cancelled => Self::Interrupted,
            FailureKind::Terminated => Self::Terminated,
            FailureKind::Bug => Self::Bug,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
