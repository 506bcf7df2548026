//! The roles that shmocker starts itself in, told by `argv[0]`: the engine child, which does a build inside a user
//! namespace; a step, which becomes a command inside a container; and a probe, which tries what an engine child could do.
//!
//! Each is started with one socket at descriptor 3 and greets on it, so that a program which embeds shmocker and forgot to
//! call [`child`] gets a sentence instead of a hang.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::ids::{Ids, IdsError};
use super::userns::{self, Restriction};
use crate::sys::memfd::{SealedSelf, own_file};
use crate::sys::socket::Socket;
use crate::sys::spawn::{
    self, Command, MappedError, Namespaces, Program, SpawnError, Stage, WhenParentDies,
};
use crate::sys::{mount, owner, process};

/// What a child says first.
pub(super) const GREETING: &[u8] = concat!("shmocker ", env!("CARGO_PKG_VERSION")).as_bytes();

/// What shmocker can be started as, beside its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The one that does a build.
    Engine,
    /// One that becomes a command in a container.
    Step,
    /// One that tries what an engine child could do on this machine.
    Probe,
    /// One that looks after a habitat that runs, and stays when its parent ends: the plain user.
    Supervisor,
    /// One that takes a command into a container that runs.
    Visitor,
    /// One that becomes a command in a container that runs.
    Guest,
}

impl Role {
    const ALL: [Self; 6] = [
        Self::Engine,
        Self::Step,
        Self::Probe,
        Self::Supervisor,
        Self::Visitor,
        Self::Guest,
    ];

    /// The `argv[0]` that tells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Engine => "shmocker-engine",
            Self::Step => "shmocker-step",
            Self::Probe => "shmocker-probe",
            Self::Supervisor => "shmocker-supervisor",
            Self::Visitor => "shmocker-visitor",
            Self::Guest => "shmocker-guest",
        }
    }
}

/// This process, if it was started as a child of shmocker.
#[derive(Debug)]
pub struct Child {
    role: Role,
    socket: Socket,
}

/// Whether this process was started as a child of shmocker. To be asked first in `main`, before there are threads.
#[must_use]
pub fn child() -> Option<Child> {
    let name = std::env::args_os().next()?;
    let role = Role::ALL
        .into_iter()
        .find(|role| name == OsStr::new(role.name()))?;
    let socket = process::take_inherited()?.into();
    Some(Child { role, socket })
}

impl Child {
    /// Plays the role to its end. `play` is what those roles do with their socket, once they have greeted, that are not
    /// played here: the engine child, a supervisor, a visitor.
    pub fn run(self, play: impl FnOnce(Role, Socket) -> ExitCode) -> ExitCode {
        if self.role != Role::Supervisor {
            // Others in the same user namespace must not trace this process or open its files through /proc. A supervisor
            // is in none, and newuidmap serves only those whose /proc is their own.
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
                .ok();
            owner::record_where_there_is_one_id();
        }
        // A step does the same, as the first of its table.
        let private = match self.role {
            Role::Engine | Role::Probe => mount::make_all_private(),
            Role::Step | Role::Guest | Role::Supervisor | Role::Visitor => Ok(()),
        };
        let greeted = match &private {
            Ok(()) => self.socket.send(GREETING, &[]),
            Err(error) => self.socket.send(error.to_string().as_bytes(), &[]),
        };
        if private.is_err() || greeted.is_err() {
            return ExitCode::FAILURE;
        }
        match self.role {
            role @ (Role::Engine | Role::Supervisor | Role::Visitor) => play(role, self.socket),
            Role::Step => super::child::run(&self.socket),
            Role::Guest => super::child::run_as_guest(&self.socket),
            Role::Probe => super::probe::run(&self.socket),
        }
    }
}

/// A running engine child. Dropping it kills it, and with it all that it has started.
#[derive(Debug)]
pub struct Engine {
    /// The process.
    pub process: spawn::Child,
    /// The way to talk to it. It has greeted already.
    pub socket: Socket,
}

/// The engine child could not be started. This machine cannot build: exit code 4.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum StartError {
    /// User namespaces are not to be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Restricted(#[from] Restriction),
    /// The ids are not to be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Ids(#[from] IdsError),
    /// Something else failed.
    #[error("cannot start shmocker's engine process")]
    #[diagnostic(code(engine::not_started))]
    Spawn(#[from] SpawnError),
    /// The socket could not be made or used.
    #[error("cannot talk to shmocker's engine process")]
    #[diagnostic(code(engine::no_socket))]
    Socket(#[from] io::Error),
    /// Its namespace gives it no power over mounts, which is what AppArmor does on Ubuntu to programs without a profile.
    #[error("the user namespace that this machine gives cannot mount anything: {said}")]
    #[diagnostic(
        code(engine::no_mounts),
        help("a security module restricts it; `shmocker doctor` says what would lift that")
    )]
    NoMounts {
        /// What the kernel said.
        said: String,
    },
    /// The child did not greet.
    #[error("the engine process did not greet")]
    #[diagnostic(
        code(engine::no_greeting),
        help(
            "a program that embeds shmocker must call `engine::exec::child` first thing in its `main`"
        )
    )]
    NoGreeting,
}

/// Starts the engine child: root of a new user namespace with these ids, in a mount and a pid namespace of its own. Its
/// standard error is `errors`, for what a bug of ours would say; it has no other streams. It runs from shmocker's own file:
/// what it starts for others sees no process that is outside of a pid namespace of its own.
///
/// # Errors
/// With the way out where one is known.
pub fn start_engine(ids: &Ids, errors: BorrowedFd<'_>) -> Result<Engine, StartError> {
    start(Role::Engine, ids, errors)
}

/// Starts a supervisor or a visitor: as this process's user, in its namespaces, with these standard streams.
///
/// # Errors
/// What the kernel says.
pub fn start_plain(
    role: Role,
    program: &SealedSelf,
    streams: [BorrowedFd<'_>; 3],
) -> Result<(spawn::Child, Socket), StartError> {
    let (socket, childs) = Socket::pair()?;
    let command = Command {
        program: Program::Open(program.as_fd()),
        argv: argv(role),
        env: Vec::new(),
        fds: streams.into_iter().chain([childs.as_fd()]).collect(),
        namespaces: Namespaces::NONE,
        when_parent_dies: WhenParentDies::Stays,
    };
    let process = spawn::spawn(&command)?;
    drop(command);
    drop(childs);
    match await_greeting(&socket) {
        Ok(()) => Ok((process, socket)),
        Err(_) => Err(StartError::NoGreeting),
    }
}

pub(super) fn start(role: Role, ids: &Ids, errors: BorrowedFd<'_>) -> Result<Engine, StartError> {
    let program = own_file()?;
    let uid = rustix::process::geteuid().as_raw();
    if let Some(restriction) = userns::restriction(uid) {
        return Err(restriction.into());
    }
    let (socket, childs) = Socket::pair()?;
    let null = null()?;
    let command = Command {
        program: Program::Open(program.as_fd()),
        argv: argv(role),
        env: Vec::new(),
        fds: vec![null.as_fd(), null.as_fd(), errors, childs.as_fd()],
        namespaces: Namespaces::USER.and(Namespaces::MOUNT).and(Namespaces::PID),
        when_parent_dies: WhenParentDies::Stays,
    };
    let process =
        spawn::spawn_mapped(&command, |pid| ids.apply(pid)).map_err(|error| match error {
            MappedError::Mapping(error) => StartError::Ids(error),
            MappedError::Spawn(error) => match userns::refusal(error.source.raw_os_error(), uid) {
                Some(restriction) if error.stage == Stage::Clone => restriction.into(),
                _ => error.into(),
            },
        })?;
    drop(command);
    drop(childs);
    match await_greeting(&socket) {
        Ok(()) => Ok(Engine { process, socket }),
        Err(None) => Err(StartError::NoGreeting),
        Err(Some(said)) => Err(StartError::NoMounts { said }),
    }
}

/// How long a child may take until it greets. It does so at once; a program that is no child of ours never does.
const GREETING_WITHIN: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// Waits for the greeting. The error is what the child said instead, if it said anything.
pub(super) fn await_greeting(socket: &Socket) -> Result<(), Option<String>> {
    let mut poll = [PollFd::new(socket, PollFlags::IN)];
    let heard = loop {
        match rustix::event::poll(&mut poll, Some(&GREETING_WITHIN)) {
            Err(rustix::io::Errno::INTR) => {}
            heard => break heard.is_ok_and(|count| count > 0),
        }
    };
    let greeting = if heard {
        socket.receive().ok().flatten()
    } else {
        None
    };
    match greeting {
        Some(greeting) if greeting.payload == GREETING => Ok(()),
        other => Err(other.map(|said| String::from_utf8_lossy(&said.payload).into_owned())),
    }
}

pub(super) fn argv(role: Role) -> Vec<CString> {
    CString::new(role.name()).into_iter().collect()
}

pub(super) fn null() -> io::Result<std::fs::File> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
}
