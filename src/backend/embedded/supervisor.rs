//! A process that looks after one habitat that is up, when the one that started it has ended. It is the plain user's, holds
//! the habitat's lock, is the parent of its engine, and listens at a socket in the habitat's place.
//!
//! ```text
//! shmocker habitat up ──▶ shmocker-supervisor ──▶ shmocker-engine ──▶ the habitat's first process
//!                           ▲ socket: enter, stop
//! ```
//! Whatever ends it ends the engine, whose socket closes, and thereby all of the habitat; the lock tells. Whatever ends
//! the habitat is written down, and ends it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::protocol::{self, Order, Report};
use crate::engine::exec::Engine;
use crate::engine::exec::cgroup::Delegated;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::Launch;
use crate::store::{Instance, InstanceRecord, LastState, Store};
use crate::sys::dir::path_of_fd;
use crate::sys::signal::Endings;
use crate::sys::socket::Socket;

/// The socket's name in the habitat's place.
const SOCKET: &str = "socket";
/// How often it is looked whether the habitat is in order.
const LOOK: Duration = Duration::from_millis(15);
/// How long one who connects may take to say what is wanted.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long a habitat may take to end where nobody says how long.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What a supervisor is told. It comes with the lock.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Charge {
    /// What it looks after.
    pub(super) record: InstanceRecord,
    /// How that is started.
    pub(super) launch: Launch,
}

/// What it says to the one that started it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The habitat is in order.
    Up,
    /// It ended before it was.
    Ended {
        /// The status of its command.
        status: Option<i32>,
    },
    /// It could not be started.
    Failed(Vec<Failure>),
}

/// What it is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The habitat's first process.
    Enter,
    /// To end the habitat. The answer comes when it has ended.
    Stop {
        /// How long that may take until it is killed.
        within_ms: Option<u64>,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The first process, as a pidfd that comes along.
    Process {
        /// The control group that it is in, if it has one of its own.
        group: Option<PathBuf>,
    },
    /// It is not in order yet.
    NotYet,
    /// It has ended.
    Stopped,
}

/// Connects to the supervisor of a habitat. `None`: nobody listens.
pub(super) fn connect(instance: &Instance) -> io::Result<Option<Socket>> {
    // The path itself may be longer than an address can be.
    match UnixStream::connect(path_of_fd(instance.dir()).join(SOCKET)) {
        Ok(stream) => Ok(Some(OwnedFd::from(stream).into())),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Plays the supervisor to its end.
pub(super) fn play(socket: Socket) -> ExitCode {
    // A terminal that is closed is nothing to it, nor a directory that is to be unmounted.
    if rustix::process::setsid().is_err() || rustix::process::chdir("/").is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(Some(message)) = socket.receive() else {
        return ExitCode::FAILURE;
    };
    let charge = match protocol::read::<Charge>(&message) {
        Ok(charge) => charge,
        Err(failure) => {
            drop(protocol::send(&socket, &Word::Failed(vec![failure]), &[]));
            return ExitCode::FAILURE;
        }
    };
    // Until this process ends, however it does, or the habitat has.
    let lock = message.files;
    let mut record = charge.record;
    let (word, status) = match Supervisor::start(&charge.launch, &record) {
        Ok(mut supervisor) => {
            let word = supervisor.watch(Some(&socket), &mut record);
            let status = match &word {
                Word::Ended { status } => *status,
                Word::Up | Word::Failed(_) => None,
            };
            record.last = LastState::Ended { status };
            drop(supervisor.instance.put_record(&record));
            supervisor.let_go();
            drop(lock);
            supervisor.say_stopped();
            (word, status)
        }
        Err(failures) => (Word::Failed(failures), None),
    };
    // The one that started it may be waiting still, or has gone long ago.
    drop(protocol::send(&socket, &word, &[]));
    match status {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

struct Supervisor {
    instance: Instance,
    listener: UnixListener,
    endings: Endings,
    /// `None` when it has ended.
    engine: Option<Engine>,
    process: Option<OwnedFd>,
    group: Option<PathBuf>,
    /// Taken apart when the engine is gone.
    groups: Option<Delegated>,
    is_up: bool,
    /// When the habitat is killed that was asked to end.
    killed_at: Option<Instant>,
    /// Those who wait for its end.
    waiting: Vec<Socket>,
}

impl Supervisor {
    fn start(launch: &Launch, record: &InstanceRecord) -> Result<Self, Vec<Failure>> {
        let failed = |message: &str, error: &dyn std::error::Error| {
            vec![Failure::caused(
                FailureKind::Machine,
                "habitat::supervisor",
                message,
                error,
            )]
        };
        let of_store = |error: crate::store::StoreError| {
            vec![Failure::from_diagnostic(FailureKind::Machine, &error)]
        };
        let store = Store::open(&launch.store).map_err(of_store)?;
        let instance = store.instance(&record.id).map_err(of_store)?;
        instance.put_record(record).map_err(of_store)?;
        let endings =
            Endings::hold().map_err(|error| failed("signals cannot be waited for", &error))?;
        // One that a supervisor left behind which was killed: it held the lock, as this one does now.
        drop(instance.dir().remove_file(SOCKET));
        let listener = UnixListener::bind(path_of_fd(instance.dir()).join(SOCKET))
            .map_err(|error| failed("the habitat's socket cannot be made", &error))?;
        let streams = || -> io::Result<(std::fs::File, OwnedFd)> {
            let null = std::fs::File::open("/dev/null")?;
            Ok((null, io::stderr().as_fd().try_clone_to_owned()?))
        };
        let (null, log) =
            streams().map_err(|error| failed("the habitat has no streams", &error))?;
        let groups = super::groups(launch)?;
        let launch = Launch {
            groups: groups.as_ref().map(|groups| groups.path().to_owned()),
            ..launch.clone()
        };
        let order = Order::Launch(Box::new(launch));
        let engine = super::start(&order, &[null.as_fd(), log.as_fd(), log.as_fd()])?;
        Ok(Self {
            instance,
            listener,
            endings,
            engine: Some(engine),
            process: None,
            group: None,
            groups,
            is_up: false,
            killed_at: None,
            waiting: Vec::new(),
        })
    }

    /// Until the habitat has ended. `starter` hears when it is in order; if it goes away before, nobody wants it any more.
    fn watch(&mut self, starter: Option<&Socket>, record: &mut InstanceRecord) -> Word {
        loop {
            let Some(engine) = &self.engine else {
                return Word::Ended { status: None };
            };
            let starting = starter.filter(|_| !self.is_up);
            let mut polls = vec![
                PollFd::new(&engine.socket, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
                PollFd::new(&self.endings, PollFlags::IN),
            ];
            polls.extend(starting.map(|starter| PollFd::new(starter, PollFlags::IN)));
            let left = self
                .killed_at
                .map(|at| at.saturating_duration_since(Instant::now()))
                .or(starting.map(|_| LOOK));
            let timeout = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            // An interrupted wait has no news.
            let _ = rustix::event::poll(&mut polls, timeout.as_ref());
            let ready: Vec<bool> = polls
                .iter()
                .map(|poll| !poll.revents().is_empty())
                .collect();
            drop(polls);
            if ready[0]
                && let Some(end) = self.hear_engine()
            {
                return end;
            }
            if ready[1] {
                self.accept();
            }
            if (ready[2] && self.endings.take().is_some()) || ready.get(3) == Some(&true) {
                self.stop(None);
            }
            if self.killed_at.is_some_and(|at| Instant::now() >= at) {
                // Takes all that it has started with it.
                self.engine = None;
            }
            if !self.is_up && self.process.is_some() && self.instance.has_started() {
                self.is_up = true;
                record.last = LastState::Running;
                drop(self.instance.put_record(record));
                if let Some(starter) = starter {
                    drop(protocol::send(starter, &Word::Up, &[]));
                }
            }
        }
    }

    fn hear_engine(&mut self) -> Option<Word> {
        let engine = self.engine.as_ref()?;
        let Ok(Some(message)) = engine.socket.receive() else {
            // It was killed, or has ended its steps as it was asked to.
            self.engine = None;
            return Some(Word::Ended { status: None });
        };
        match protocol::read::<Report>(&message) {
            Ok(Report::Started { group }) => {
                self.process = message.files.into_iter().next();
                self.group = group;
                None
            }
            Ok(Report::Ended { status }) => Some(Word::Ended {
                status: self.killed_at.is_none().then_some(status),
            }),
            Ok(Report::Failed(failures)) => Some(Word::Failed(failures)),
            Ok(_) => None,
            Err(failure) => Some(Word::Failed(vec![failure])),
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if stream.set_read_timeout(Some(ASK_WITHIN)).is_err() {
            return;
        }
        let socket: Socket = OwnedFd::from(stream).into();
        let Ok(Some(message)) = socket.receive() else {
            return;
        };
        // Who has gone away again needs no answer.
        match protocol::read(&message) {
            Ok(Question::Enter) => drop(match (&self.process, self.is_up) {
                (Some(process), true) => {
                    let group = self.group.clone();
                    protocol::send(&socket, &Answer::Process { group }, &[process.as_fd()])
                }
                _ => protocol::send(&socket, &Answer::NotYet, &[]),
            }),
            Ok(Question::Stop { within_ms }) => {
                self.waiting.push(socket);
                self.stop(within_ms);
            }
            Err(_) => {}
        }
    }

    fn stop(&mut self, within_ms: Option<u64>) {
        let within = within_ms.map_or(STOP_WITHIN, Duration::from_millis);
        let at = Instant::now() + within;
        let is_asked = self.killed_at.is_some();
        self.killed_at = Some(self.killed_at.map_or(at, |earlier| earlier.min(at)));
        if let Some(engine) = self.engine.as_ref().filter(|_| !is_asked) {
            // A second word would end it at once.
            drop(engine.socket.send(protocol::STOP, &[]));
        }
    }

    /// When the lock is free, nothing of the habitat runs any more.
    fn let_go(&mut self) {
        self.engine = None;
        self.groups = None;
        drop(self.instance.dir().remove_file(SOCKET));
    }

    fn say_stopped(&mut self) {
        for socket in self.waiting.drain(..) {
            drop(protocol::send(&socket, &Answer::Stopped, &[]));
        }
    }
}
