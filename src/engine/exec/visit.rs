//! One command more in a container that runs. A *visitor*, a process of the user's own, goes into the container's
//! namespaces, which the kernel allows to the owner of its user namespace, and starts the command there as a step.
//!
//! The command is no child of the container's first process, but one of its pid namespace: it ends with the container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Signal, Uid};
use rustix::thread::ThreadNameSpaceType as Kind;
use serde::{Deserialize, Serialize};

use super::cancel::Cancel;
use super::error::{ExecError, doing};
use super::role::{self, Role, argv};
use super::sandbox::{Exit, Streams, Watch, completed, rooted};
use super::spec::{Container, ExecSpec, GroupSpec, StreamsSpec};
use super::stub::open_host;
use super::users;
use crate::graph::Security;
use crate::sys::memfd::{SealedSelf, sealed_self};
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

/// A process that is in a container.
#[derive(Debug)]
pub struct Visitor {
    container: OwnedFd,
    program: SealedSelf,
    null: File,
}

impl Visitor {
    /// Goes into the namespaces of a container, whose first process is given as a pidfd. The calling process has one
    /// thread, and stays there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn enter(container: OwnedFd) -> Result<Self, ExecError> {
        // Neither can be found from inside.
        let program = sealed_self().map_err(doing("copy shmocker's program into memory"))?;
        let null = role::null().map_err(doing("open /dev/null"))?;
        enter(container.as_fd())?;
        Ok(Self {
            container,
            program,
            null,
        })
    }

    /// Runs a command there.
    ///
    /// # Errors
    /// If it could not be started. That it failed is an [`Exit`].
    pub fn run(
        &self,
        visit: &Visit,
        streams: Streams<'_>,
        cancel: &Cancel,
    ) -> Result<Exit, ExecError> {
        let root = open_host("/").map_err(doing("open the container's root"))?;
        let identity = users::lookup(root.as_fd(), &visit.user)?;
        let spec = ExecSpec {
            container: Container::Entered,
            argv: visit.argv.clone(),
            env: completed(&visit.env, &identity.home),
            workdir: rooted(&visit.workdir),
            identity,
            hostname: String::new(),
            files_max: rustix::process::getrlimit(Resource::Nofile).current,
            ulimits: Vec::new(),
            security: Security::Sandbox,
            shm_bytes: 0,
            group: GroupSpec::Started,
            root: 0,
            network: None,
            sys: None,
            mounts: Vec::new(),
            streams: match streams {
                Streams::Terminal { rows, columns, .. } => StreamsSpec::Terminal { rows, columns },
                Streams::Lines(_) | Streams::Given(_) => StreamsSpec::Given,
            },
        };
        let payload = serde_json::to_vec(&spec)
            .map_err(io::Error::from)
            .map_err(doing("describe the command"))?;
        let (socket, childs) = Socket::pair().map_err(doing("make a socket"))?;
        let standard = match &streams {
            Streams::Given(given) => *given,
            Streams::Lines(_) | Streams::Terminal { .. } => [self.null.as_fd(); 3],
        };
        let command = Command {
            program: Program::Open(self.program.as_fd()),
            argv: argv(Role::Step),
            env: Vec::new(),
            fds: standard.into_iter().chain([childs.as_fd()]).collect(),
            namespaces: Namespaces::NONE,
            when_parent_dies: WhenParentDies::Stays,
        };
        // The kernel gives a process's threads to no pid namespace but its own: one thread goes there, starts the command,
        // and ends.
        let started = std::thread::scope(|scope| {
            let starter = scope.spawn(|| -> Result<spawn::Child, ExecError> {
                rustix::thread::move_into_thread_name_spaces(
                    self.container.as_fd(),
                    Kind::PROCESS_ID,
                )
                .map_err(doing("go among the container's processes"))?;
                // Whoever the caller is there, only root keeps its power through an execution.
                let (uid, gid) = (Uid::ROOT, Gid::ROOT);
                rustix::thread::set_thread_res_gid(gid, gid, gid)
                    .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid))
                    .map_err(doing("become the container's root"))?;
                Ok(spawn::spawn(&command)?)
            });
            starter.join()
        });
        let child = started.map_err(|_| ExecError::NoGreeting)??;
        drop(command);
        drop(childs);
        let session = child.pid();
        role::await_greeting(&socket).map_err(|_| ExecError::NoGreeting)?;
        // A child that has died already is seen below.
        drop(socket.send(&payload, &[]));
        let exit = Watch::of(child, socket, streams).to_its_end(cancel)?;
        if exit == Exit::Cancelled {
            // What it had started in its session; there may be nothing left.
            rustix::process::kill_process_group(session, Signal::KILL).ok();
        }
        Ok(exit)
    }
}

fn enter(container: BorrowedFd<'_>) -> Result<(), ExecError> {
    let all = Kind::USER
        | Kind::MOUNT
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::CONTROL_GROUP;
    let enter = |kinds| rustix::thread::move_into_thread_name_spaces(container, kinds);
    match enter(all | Kind::NETWORK) {
        // It has this machine's own network, which needs not be entered, and must not be.
        Err(Errno::PERM) => enter(all),
        entered => entered,
    }
    .map_err(doing("go into the container"))
}
