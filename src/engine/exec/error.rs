//! Why a command could not be run. That it ran and failed is no error: see `Exit`.

use std::io;

use rustix::io::Errno;

use super::cgroup::GroupError;
use super::ports::PublishError;
use super::userns::IN_A_CONTAINER;
use super::users::UserError;
use crate::sys::spawn::SpawnError;

/// A command could not be run.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExecError {
    /// Its user is not in the image.
    #[error(transparent)]
    #[diagnostic(transparent)]
    User(#[from] UserError),
    /// A port cannot be published.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Publish(#[from] PublishError),
    /// The process could not be made.
    #[error("cannot start a container")]
    #[diagnostic(code(exec::not_started))]
    Spawn(#[from] SpawnError),
    /// Its ids could not be mapped.
    #[error("cannot give the container's user the caller's own id")]
    #[diagnostic(
        code(exec::not_mapped),
        help("`shmocker doctor` shows what this machine lacks")
    )]
    NotMapped(#[source] io::Error),
    /// The sandbox could not be set up.
    #[error("cannot set up the container: step {step}, {name}{}{what}{}", separator(what), reason(*errno))]
    #[diagnostic(
        code(exec::setup),
        help("{}", way_out(*errno))
    )]
    Setup {
        /// Which step of the table, from 1.
        step: usize,
        /// Its name.
        name: String,
        /// What it was about, if more is known.
        what: String,
        /// What the kernel said.
        errno: Option<i32>,
    },
    /// A mount cannot be where it was asked for.
    #[error("cannot mount on `{target}`: a mount needs an absolute path below the root")]
    #[diagnostic(
        code(exec::bad_mount_target),
        help("give `target=` a path such as /var/cache/apt")
    )]
    BadTarget {
        /// Where.
        target: String,
    },
    /// All security off, where nobody could answer for owners.
    #[error(
        "a step without a sandbox (`--security=insecure`) cannot run where builds have a single id"
    )]
    #[diagnostic(
        code(exec::insecure_with_one_id),
        help(
            "give this user subordinate ids (`shmocker doctor` has the command), or leave `--security=insecure` out"
        )
    )]
    InsecureWithOneId,
    /// A limit is above what the user may have.
    #[error("`--ulimit {name}` asks for more than this user may have, which is {most}")]
    #[diagnostic(
        code(exec::ulimit),
        help(
            "ask for at most {most}, or raise the user's hard limit (`ulimit -H`, /etc/security/limits.conf)"
        )
    )]
    Ulimit {
        /// Which.
        name: String,
        /// How much the user may have.
        most: u64,
    },
    /// A control group could not be made or used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Group(#[from] GroupError),
    /// A network namespace could not be made.
    #[error("cannot make a network namespace")]
    #[diagnostic(
        code(exec::no_network),
        help("`shmocker doctor` shows what this machine lacks")
    )]
    Network(#[source] io::Error),
    /// The child did not greet.
    #[error("the container's first process did not greet")]
    #[diagnostic(
        code(exec::no_greeting),
        help(
            "a program that embeds shmocker must call `engine::exec::child` first thing in its `main`"
        )
    )]
    NoGreeting,
    /// Something else of the kernel's.
    #[error("cannot {what}")]
    #[diagnostic(code(exec::system))]
    System {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn separator(what: &str) -> &'static str {
    if what.is_empty() { "" } else { ": " }
}

/// What is refused to root of an own namespace, the container around it refuses.
fn way_out(errno: Option<i32>) -> String {
    let doctor = "`shmocker doctor` shows what this machine lacks";
    match errno {
        Some(errno) if Errno::from_raw_os_error(errno) == Errno::PERM => {
            format!("{doctor}; {IN_A_CONTAINER}")
        }
        _ => doctor.to_owned(),
    }
}

fn reason(errno: Option<i32>) -> String {
    errno
        .map(|errno| format!(": {}", io::Error::from_raw_os_error(errno)))
        .unwrap_or_default()
}

/// Names what was being done when a call failed.
pub(super) fn doing<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> ExecError {
    move |error| ExecError::System {
        what,
        source: error.into(),
    }
}
