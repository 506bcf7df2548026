//! Which /proc steps get. As a rule a new one, of their own pid namespace.
//!
//! Where a container around the build has parts of its /proc covered, the kernel mounts no new one in a namespace inside of it.
//! There each step gets a copy of the container's, covers included, and two walls more, since that shows other processes than
//! the step's:
//!
//! - It is read-only. Otherwise a step could write what the kernel lets every process of the same user write
//!   (`oom_score_adj`).
//! - The step has a user namespace inside of the build's, with the same ids. So it has no power over the processes of the
//!   engine, of other steps and of the container, and the kernel shows it neither their files nor their memory or environment.
//!
//! The pid namespace is its own all the same: it can send signals to nobody else, and killing it ends all of it.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::shift::Shift;
use super::stub::open_host;
use crate::sys::mount::{Attributes, Tree};

const DATA_ONLY: Attributes = Attributes::NO_SET_ID
    .and(Attributes::NO_DEVICES)
    .and(Attributes::NO_EXECUTION);

/// Which /proc a step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Proc {
    /// A new one.
    Own,
    /// A copy of the one that is there, whose numbers are those of a pid namespace around the step's.
    Shared,
}

impl Proc {
    /// What the kernel gives: it is asked, since what it goes by cannot be seen.
    pub(super) fn to_be_had() -> Self {
        match Self::try_new() {
            Ok(_) => Self::Own,
            Err(_) => Self::Shared,
        }
    }

    /// A new one, of this process's pid namespace.
    ///
    /// # Errors
    /// EPERM where the one that is there is partly covered.
    pub(super) fn try_new() -> io::Result<Tree> {
        Tree::of_filesystem("proc", &[], DATA_ONLY)
    }

    /// The one that the calling step gets.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn mount(self) -> io::Result<Tree> {
        match self {
            Self::Own => Self::try_new(),
            Self::Shared => {
                let copy = Tree::copy_of(open_host("/proc")?.as_fd())?;
                copy.restrict(DATA_ONLY.and(Attributes::READ_ONLY))?;
                Ok(copy)
            }
        }
    }

    /// The ids of the user namespace that a step needs, which asks for these; `None`: the build's will do.
    ///
    /// # Errors
    /// If this process's own ids cannot be read.
    pub(super) fn walled_off(self, asked: Option<Shift>) -> io::Result<Option<Shift>> {
        match (self, asked) {
            (Self::Shared, None) => Shift::keeping(0, 0),
            (_, asked) => Ok(asked),
        }
    }
}

/// The number of a process in a mounted /proc, which may be of a pid namespace around this one.
///
/// # Errors
/// ESRCH if it is gone; what the kernel says.
pub(super) fn number_in(proc: BorrowedFd<'_>, process: BorrowedFd<'_>) -> io::Result<i32> {
    let text = read(proc, &format!("self/fdinfo/{}", process.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| Errno::SRCH.into())
}

/// The number of a child of this process in the /proc that is mounted here.
///
/// # Errors
/// What the kernel says.
pub(super) fn number_of_child(child: Pid) -> io::Result<i32> {
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    number_in(open_host("/proc")?.as_fd(), process.as_fd())
}

/// What is in a file of a mounted /proc.
pub(super) fn read(proc: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, path, flags, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text)?;
    Ok(text)
}
