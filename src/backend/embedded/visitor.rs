//! One command more in a habitat that is up. The visitor has the user's own streams; the end of its connection is the wish
//! that the command end.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::protocol::{self, Report};
use crate::engine::exec::{Cancel, Exit, Visit, Visitor};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::{TerminalSize, with_streams};
use crate::sys::signal::{Endings, Resizes};
use crate::sys::socket::Socket;

/// What a visitor is told. It comes with the container's first process, as a pidfd, and three standard streams.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    /// The command.
    pub(super) visit: Visit,
    /// Its terminal, if it gets one.
    pub(super) terminal: Option<TerminalSize>,
    /// The control group that it is put into.
    pub(super) group: Option<PathBuf>,
}

/// Plays the visitor to its end.
pub(super) fn play(socket: Socket) -> ExitCode {
    let resizes = Resizes::hold().ok();
    // What a terminal sends to all that belongs to it ends the one at the other side, and thereby this.
    let _endings = Endings::hold();
    let Ok(Some(message)) = socket.receive() else {
        return ExitCode::FAILURE;
    };
    let socket = Arc::new(socket);
    let report = protocol::read::<Errand>(&message)
        .and_then(|errand| run(&errand, message.files, &socket, resizes))
        .map_or_else(
            |failure| Report::Failed(vec![failure]),
            |status| Report::Ended { status },
        );
    match protocol::send(&socket, &report, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(
    errand: &Errand,
    files: Vec<OwnedFd>,
    socket: &Arc<Socket>,
    resizes: Option<Resizes>,
) -> Result<i32, Failure> {
    let mut files = files.into_iter();
    let container = files.next().ok_or_else(|| {
        Failure::new(
            FailureKind::Bug,
            "exec::container",
            "no container was given",
        )
    })?;
    let visitor = Visitor::enter(container)?;
    let cancel = Cancel::new().map_err(|error| {
        let message = "an event cannot be made";
        Failure::caused(FailureKind::Machine, "exec::cancel", message, &error)
    })?;
    let (wish, connection) = (cancel.clone(), Arc::clone(socket));
    // Only now: the kernel lets no process with threads into another user namespace.
    std::thread::spawn(move || {
        drop(connection.receive());
        wish.cancel();
    });
    let files: Vec<OwnedFd> = files.collect();
    let exit = with_streams(errand.terminal, &files, resizes, |streams| {
        visitor.run(&errand.visit, errand.group.as_deref(), streams, &cancel)
    })?;
    match exit {
        Exit::NotExecuted { status, why } => {
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "warning: {why}"));
            Ok(status)
        }
        Exit::Foreign { why } => {
            use std::io::Write as _;
            drop(writeln!(std::io::stderr(), "warning: {why}"));
            Ok(126)
        }
        exit => Ok(exit.shell_status().unwrap_or(125)),
    }
}
