//! One command more in a container that runs. A *visitor*, a process of the user's own, goes into the container's user
//! namespace, which the kernel allows to its owner, and starts a *guest* in its pid namespace. The guest goes into the other
//! namespaces, and becomes the command.
//!
//! It is shmocker's own program until then, loaded from outside: nothing of the container's is executed with more power
//! than the container has. The command is no child of the container's first process, but one of its pid namespace: it ends
//! with the container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Signal, Uid};
use rustix::thread::ThreadNameSpaceType as Kind;
use serde::{Deserialize, Serialize};

use super::cancel::Cancel;
use super::cgroup;
use super::error::{ExecError, doing};
use super::proc::Proc;
use super::role::{self, Role, argv};
use super::sandbox::{Exit, Streams, Watch, completed, rooted};
use super::spec::{ExecSpec, GroupSpec, Hostname, Reply, StreamsSpec};
use super::users;
use crate::graph::Security;
use crate::sys::memfd::{SealedSelf, sealed_self};
use crate::sys::owner;
use crate::sys::socket::Socket;
use crate::sys::spawn::{self, Command, Namespaces, Program, WhenParentDies};

/// A command for a container that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Visit {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The environment. PATH and HOME are added if they are missing.
    pub env: Vec<(String, String)>,
    /// Where it starts, absolute.
    pub workdir: String,
    /// `user[:group]`, looked up in the container.
    pub user: String,
}

/// A process among the users of a container.
#[derive(Debug)]
pub struct Visitor {
    container: OwnedFd,
    program: SealedSelf,
    null: File,
}

impl Visitor {
    /// Goes into the user namespace of a container, whose first process is given as a pidfd. The calling process has one
    /// thread, and stays there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter(container: OwnedFd) -> Result<Self, ExecError> {
        let program = sealed_self().map_err(doing("copy shmocker's program into memory"))?;
        let null = role::null().map_err(doing("open /dev/null"))?;
        rustix::thread::move_into_thread_name_spaces(container.as_fd(), Kind::USER)
            .map_err(doing("go among the container's users"))?;
        owner::record_where_there_is_one_id();
        Ok(Self {
            container,
            program,
            null,
        })
    }

    /// Runs a command there, in the container's control group if it has one of its own.
    ///
    /// # Errors
    /// If it could not be started. That it failed is an [`Exit`].
    pub fn run(
        &self,
        visit: &Visit,
        group: Option<&Path>,
        streams: Streams<'_>,
        cancel: &Cancel,
    ) -> Result<Exit, ExecError> {
        let (socket, childs) = Socket::pair().map_err(doing("make a socket"))?;
        let standard = match &streams {
            Streams::Given(given) => *given,
            Streams::Lines(_) | Streams::Terminal { .. } => [self.null.as_fd(); 3],
        };
        let child = self.guest(standard, childs)?;
        let session = child.pid();
        role::await_greeting(&socket).map_err(|_| ExecError::NoGreeting)?;
        if let Some(group) = group {
            cgroup::join(group, child.pid())?;
        }
        let sent = socket.send(b"enter", &[self.container.as_fd()]);
        sent.map_err(doing("talk to the container"))?;
        let spec = spec(visit, root_of(&socket)?.as_fd(), &streams)?;
        let payload = serde_json::to_vec(&spec)
            .map_err(io::Error::from)
            .map_err(doing("describe the command"))?;
        // A child that has died already is seen below.
        drop(socket.send(&payload, &[]));
        let exit = Watch::of(child, socket, streams, spec.identity).ending(cancel)?;
        // Where owners are records, nobody answers it any more.
        if exit == Exit::Cancelled || owner::are_recorded() {
            // What it had started in its session; there may be nothing left.
            rustix::process::kill_process_group(session, Signal::KILL).ok();
        }
        Ok(exit)
    }

    /// Starts the process that becomes the command. The kernel gives a process's threads to no pid namespace but its own:
    /// one thread goes there, starts it, and ends.
    fn guest(
        &self,
        standard: [BorrowedFd<'_>; 3],
        socket: Socket,
    ) -> Result<spawn::Child, ExecError> {
        let start = || -> Result<spawn::Child, ExecError> {
            rustix::thread::move_into_thread_name_spaces(self.container.as_fd(), Kind::PROCESS_ID)
                .map_err(doing("go among the container's processes"))?;
            // Whoever the caller is there, only root keeps its power through an execution.
            let (uid, gid) = (Uid::ROOT, Gid::ROOT);
            rustix::thread::set_thread_res_gid(gid, gid, gid)
                .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
                .map_err(doing("become the container's root"))?;
            let command = Command {
                program: Program::Open(self.program.as_fd()),
                argv: argv(Role::Guest),
                env: Vec::new(),
                fds: standard.into_iter().chain([socket.as_fd()]).collect(),
                namespaces: Namespaces::NONE,
                when_parent_dies: WhenParentDies::Stays,
            };
            Ok(spawn::spawn(&command)?)
        };
        let started = std::thread::scope(|scope| scope.spawn(start).join());
        started.map_err(|_| ExecError::NoGreeting)?
    }
}

/// The container's root, as its guest sees it.
fn root_of(socket: &Socket) -> Result<OwnedFd, ExecError> {
    let message = socket
        .receive()
        .map_err(doing("talk to the container"))?
        .ok_or(ExecError::NoGreeting)?;
    let reply = serde_json::from_slice(&message.payload).map_err(io::Error::from);
    match reply.map_err(doing("understand the container"))? {
        Reply::Failed {
            step,
            name,
            what,
            errno,
        } => Err(ExecError::Setup {
            step,
            name,
            what,
            errno,
        }),
        _ => message
            .files
            .into_iter()
            .next()
            .ok_or(ExecError::NoGreeting),
    }
}

fn spec(visit: &Visit, root: BorrowedFd<'_>, streams: &Streams<'_>) -> Result<ExecSpec, ExecError> {
    let identity = users::lookup(root, &visit.user)?;
    Ok(ExecSpec {
        argv: visit.argv.clone(),
        env: completed(&visit.env, &identity.home),
        workdir: rooted(&visit.workdir),
        identity,
        hostname: Hostname::default(),
        files_max: rustix::process::getrlimit(Resource::Nofile).current,
        ulimits: Vec::new(),
        security: Security::Sandbox,
        shm_bytes: 0,
        group: GroupSpec::Started,
        root: 0,
        network: None,
        // It is there.
        proc: Proc::Shared,
        sys: None,
        mounts: Vec::new(),
        streams: match streams {
            Streams::Terminal { rows, columns, .. } => StreamsSpec::Terminal {
                rows: *rows,
                columns: *columns,
            },
            Streams::Lines(_) | Streams::Given(_) => StreamsSpec::Given,
        },
    })
}

/// Goes into the other namespaces of a container.
pub(super) fn enter(container: BorrowedFd<'_>) -> io::Result<()> {
    let all = Kind::MOUNT
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::CONTROL_GROUP;
    let enter = |kinds| rustix::thread::move_into_thread_name_spaces(container, kinds);
    match enter(all | Kind::NETWORK) {
        // It has this machine's own network, which needs not be entered, and must not be.
        Err(Errno::PERM) => enter(all),
        entered => entered,
    }
    .map_err(io::Error::from)
}
