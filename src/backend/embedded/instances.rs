//! Habitats that are up, from outside: started, entered, stopped, taken down.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};

use super::protocol::{self, Order, Report};
use super::supervisor::{Answer, Charge, Question, Word, connect};
use super::visitor::Errand;
use super::{Embedded, Streams, next, start, unexpected};
use crate::engine::exec::{Role, Visit, start_plain};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::{Launch, TerminalSize};
use crate::store::{Hold, Instance, InstanceRecord, LastState, Store, StoreError};
use crate::sys::memfd::sealed_self;
use crate::sys::signal::{Ending, Endings};

/// How many of a habitat's last lines are shown with its failure.
const LAST_LINES: usize = 20;

/// What becomes of a habitat at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is being started.
    Starting,
    /// It is up.
    Running,
    /// Its command has ended, or it was stopped.
    Stopped,
    /// It, or the process that looked after it, was killed.
    Killed,
}

impl State {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
        }
    }
}

impl Embedded {
    /// The habitats that run or have run, with what becomes of them.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn instances(self, store: &Path) -> Result<Vec<(InstanceRecord, State)>, Vec<Failure>> {
        let store = Store::open(store).map_err(of_store)?;
        let mut found = Vec::new();
        for instance in store.instances().map_err(of_store)? {
            if let Some(record) = instance.record().map_err(of_store)? {
                let state = state(&instance, &record)?;
                found.push((record, state));
            }
        }
        Ok(found)
    }

    /// Starts a habitat, and returns when it is in order. It goes on when this process ends.
    ///
    /// # Errors
    /// If it cannot be started, or ends before it is in order.
    pub fn up(self, launch: Launch, record: InstanceRecord) -> Result<(), Vec<Failure>> {
        let store = Store::open(&launch.store).map_err(of_store)?;
        let instance = store.instance(&record.id).map_err(of_store)?;
        let hold = held(&instance)?;
        let machine = |message: &str, error: &dyn std::error::Error| {
            vec![Failure::caused(
                FailureKind::Machine,
                "habitat::up",
                message,
                error,
            )]
        };
        let log = instance.new_log().map_err(of_store)?;
        let null = std::fs::File::open("/dev/null")
            .map_err(|error| machine("/dev/null cannot be opened", &error))?;
        let program = sealed_self()
            .map_err(|error| machine("shmocker cannot copy itself into memory", &error))?;
        let endings =
            Endings::hold().map_err(|error| machine("signals cannot be waited for", &error))?;
        let streams = [null.as_fd(), log.as_fd(), log.as_fd()];
        let (process, socket) = start_plain(Role::Supervisor, &program, streams)
            .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])?;
        let lock = OwnedFd::from(hold);
        let charge = Charge { record, launch };
        protocol::send(&socket, &charge, &[lock.as_fd()])
            .map_err(|error| machine("the supervisor went away", &error))?;
        drop(lock);
        loop {
            let mut polls = [
                PollFd::new(&socket, PollFlags::IN),
                PollFd::new(&endings, PollFlags::IN),
            ];
            // An interrupted wait has no news.
            let _ = rustix::event::poll(&mut polls, None);
            let kind = match endings.take() {
                Some(Ending::Interrupted) => Some(FailureKind::Cancelled),
                Some(Ending::Terminated) => Some(FailureKind::Terminated),
                None => None,
            };
            if let Some(kind) = kind {
                // The supervisor is killed with its handle, and everything goes with it.
                let message = "the habitat was not in order yet, and has been ended";
                return Err(vec![Failure::new(kind, "habitat::cancelled", message)]);
            }
            if polls[0].revents().is_empty() {
                continue;
            }
            let word = match socket.receive() {
                Ok(Some(message)) => protocol::read(&message).map_err(|failure| vec![failure])?,
                _ => Word::Ended { status: None },
            };
            return match word {
                Word::Up => {
                    process.leave();
                    Ok(())
                }
                Word::Failed(failures) => Err(failures),
                Word::Ended { status } => Err(vec![not_in_order(&instance, status)]),
            };
        }
    }

    /// Runs a command in a habitat that is up. Returns its status, as docker has it.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn enter(
        self,
        store: &Path,
        id: &str,
        visit: Visit,
        terminal: Option<TerminalSize>,
        streams: Streams<'_>,
    ) -> Result<i32, Vec<Failure>> {
        let instance = Store::open(store)
            .and_then(|store| store.instance(id))
            .map_err(of_store)?;
        let machine = |message: &str, error: &dyn std::error::Error| {
            vec![Failure::caused(
                FailureKind::Machine,
                "habitat::exec",
                message,
                error,
            )]
        };
        let (answer, files) = ask(&instance, &Question::Enter)?.unzip();
        let group = match answer {
            Some(Answer::Process { group }) => group,
            _ => None,
        };
        let container = files
            .and_then(|files| files.into_iter().next())
            .ok_or_else(|| {
                let message = format!("the habitat `{id}` is not up");
                vec![
                    Failure::new(FailureKind::Input, "habitat::not_up", message)
                        .with_help("start it: `shmocker habitat up FILE`"),
                ]
            })?;
        let program = sealed_self()
            .map_err(|error| machine("shmocker cannot copy itself into memory", &error))?;
        let (_process, socket) = start_plain(Role::Visitor, &program, streams.fds)
            .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])?;
        let [input, output, errors] = streams.fds;
        let files = [container.as_fd(), input, output, errors];
        protocol::send(
            &socket,
            &Errand {
                visit,
                terminal,
                group,
            },
            &files,
        )
        .map_err(|error| machine("the visitor went away", &error))?;
        match socket.receive() {
            Ok(Some(message)) => match protocol::read(&message).map_err(|failure| vec![failure])? {
                Report::Ended { status } => Ok(status),
                Report::Failed(failures) => Err(failures),
                other => Err(vec![unexpected(&other)]),
            },
            _ => Err(vec![Failure::new(
                FailureKind::Machine,
                "habitat::exec",
                "the command's connection broke",
            )]),
        }
    }

    /// Ends a habitat, if it is up. What it has written is kept. False: it was not.
    ///
    /// # Errors
    /// If the store cannot be read, or the supervisor does not answer.
    pub fn stop(
        self,
        store: &Path,
        id: &str,
        within_ms: Option<u64>,
    ) -> Result<bool, Vec<Failure>> {
        let instance = Store::open(store)
            .and_then(|store| store.instance(id))
            .map_err(of_store)?;
        stop(&instance, within_ms)
    }

    /// Ends a habitat, if it is up, and drops what it has written.
    ///
    /// # Errors
    /// If that cannot be deleted, or someone starts it again meanwhile.
    pub fn down(self, store: &Path, id: &str, within_ms: Option<u64>) -> Result<(), Vec<Failure>> {
        let opened = Store::open(store).map_err(of_store)?;
        let instance = opened.instance(id).map_err(of_store)?;
        stop(&instance, within_ms)?;
        let _hold = held(&instance)?;
        let order = Order::RemoveInstance {
            store: store.to_owned(),
            id: id.to_owned(),
        };
        match next(&start(&order, &[])?)? {
            Report::Deleted => Ok(()),
            Report::Failed(failures) => Err(failures),
            other => Err(vec![unexpected(&other)]),
        }
    }
}

fn stop(instance: &Instance, within_ms: Option<u64>) -> Result<bool, Vec<Failure>> {
    let answer = ask(instance, &Question::Stop { within_ms })?;
    Ok(answer.is_some())
}

fn state(instance: &Instance, record: &InstanceRecord) -> Result<State, Vec<Failure>> {
    let held = instance.is_held().map_err(of_store)?;
    Ok(match (held, record.last) {
        (_, LastState::Ended { .. }) => State::Stopped,
        (true, LastState::Running) => State::Running,
        (true, LastState::Starting) => State::Starting,
        (false, _) => State::Killed,
    })
}

/// Asks the supervisor. `None`: there is none, or it has gone without an answer, as the habitat has.
fn ask(
    instance: &Instance,
    question: &Question,
) -> Result<Option<(Answer, Vec<OwnedFd>)>, Vec<Failure>> {
    let broken = |error: &dyn std::error::Error| {
        let message = format!("the supervisor of `{}` cannot be asked", instance.id());
        vec![Failure::caused(
            FailureKind::Machine,
            "habitat::supervisor",
            message,
            error,
        )]
    };
    let Some(socket) = connect(instance).map_err(|error| broken(&error))? else {
        return Ok(None);
    };
    if protocol::send(&socket, question, &[]).is_err() {
        return Ok(None);
    }
    match socket.receive() {
        Ok(Some(message)) => {
            let answer = protocol::read(&message).map_err(|failure| vec![failure])?;
            Ok(Some((answer, message.files)))
        }
        _ => Ok(None),
    }
}

fn held(instance: &Instance) -> Result<Hold, Vec<Failure>> {
    instance.hold().map_err(of_store)?.ok_or_else(|| {
        let message = format!(
            "someone else starts or ends the habitat `{}`",
            instance.id()
        );
        vec![
            Failure::new(FailureKind::Input, "habitat::held", message)
                .with_help("`shmocker habitat ps` shows what becomes of it"),
        ]
    })
}

fn not_in_order(instance: &Instance, status: Option<i32>) -> Failure {
    let message = match status {
        Some(status) => format!("the habitat ended with status {status} before it was in order"),
        None => "the habitat was killed before it was in order".to_owned(),
    };
    let log = instance.log_path();
    let text = std::fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].iter();
    let mut failure = Failure::new(FailureKind::Step, "habitat::not_in_order", message)
        .with_help(format!("all that it printed is in {}", log.display()));
    failure.exit_status = status;
    failure.output = last.map(|line| (*line).to_owned()).collect();
    failure
}

fn of_store(error: StoreError) -> Vec<Failure> {
    vec![Failure::from_diagnostic(FailureKind::Machine, &error)]
}
