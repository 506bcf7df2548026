//! The build on this machine, in two halves. This process looks whether every result exists already; that needs no
//! namespace and no helper, and is the end of most builds. Otherwise it starts one *engine child*: shmocker
//! itself, root of a new user namespace, which does the work and dies with the connection.

mod bare;
mod beside;
mod cached;
mod caches;
mod child;
mod export;
mod finish;
mod instances;
mod platforms;
mod protocol;
mod rebuild;
mod recipe;
mod recorder;
mod stored;
mod supervisor;
mod upkeep;
mod visitor;

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

pub use child::play as play_child;
pub use export::{JoinedNames, SaveRequest};
pub use instances::State;
pub use rebuild::{Difference, Rebuilt};
pub use upkeep::Look;

use super::{BuildRequest, Outcome};
use crate::digest::Digest;
use crate::engine::exec::cgroup::{Delegated, GroupError};
use crate::engine::exec::ids::{Caller, Ids};
use crate::engine::exec::{Engine, start_engine};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::Launch;
use crate::engine::lock::{Entry, Outdated};
use crate::engine::phases::{PhaseReport, StepReport};
use crate::engine::solve::{Shell, ShellEnd};
use crate::engine::work::{Place, Text, Work};
use crate::event::{BuildEvent, EventSink, Status};
use crate::image::{self, Name};
use crate::registry::{self, HelperQuestion};
use crate::store::{Owners, Store};
use crate::sys::signal::{Ending, Endings};
use crate::sys::socket::Socket;
use finish::{Locked, Wanted};
use protocol::{Order, Report};
use recorder::Recorder;

/// How long the engine may take to end after it was asked to: a little more than its steps may.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// The backend that builds on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Embedded;

/// The standard streams that a command gets.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    /// Standard input, output and error.
    pub fds: [BorrowedFd<'a>; 3],
}

impl Embedded {
    /// Builds. The last event is always `build.done`.
    ///
    /// # Errors
    /// Everything that went wrong; at least one failure.
    pub fn build(
        self,
        request: &BuildRequest,
        events: &dyn EventSink,
    ) -> Result<Outcome, Vec<Failure>> {
        let recorder = Recorder::new(request, events);
        events.emit(BuildEvent::BuildStarted {
            target: request
                .work
                .target
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            platforms: match request.platforms.as_slice() {
                [] => vec![request.work.platform.clone()],
                platforms => platforms.to_vec(),
            },
        });
        let built = self
            .settled_request(request, &recorder)
            .and_then(|request| {
                let built = match request.platforms.len() {
                    0 | 1 => one(&request, &recorder, &|reasons| recorder.reasons(&reasons)),
                    _ => platforms::build(self, &request, &recorder),
                };
                built.map_err(|failures| with_text(failures, &request.work))
            });
        let built = built.and_then(|outcome| {
            caches::write(request, &recorder)?;
            Ok(outcome)
        });
        let (steps_run, steps_cached) = recorder.steps();
        let outcome = built.as_ref().ok();
        let status = match &built {
            Ok(_) => Status::Ok,
            Err(failures)
                if failures.iter().all(|failure| {
                    matches!(
                        failure.kind,
                        FailureKind::Cancelled | FailureKind::Terminated
                    )
                }) =>
            {
                Status::Cancelled
            }
            Err(_) => Status::Failed,
        };
        recorder.finish(status, &built);
        events.emit(BuildEvent::BuildDone {
            status,
            digest: outcome.map(|outcome| outcome.manifest.digest),
            config_digest: outcome.map(|outcome| outcome.config_digest),
            steps_run,
            steps_cached,
            duration_ms: recorder.duration_ms(),
        });
        built
    }

    /// The work with all that has to be known before its Dockerfile can be lowered: a build context that is not on this
    /// machine is fetched, and the Dockerfile in it read. Work of which all is known comes back as it is.
    ///
    /// # Errors
    /// If something cannot be had.
    pub fn settled<'a>(
        self,
        work: &'a Work,
        store: &Path,
        events: &dyn EventSink,
    ) -> Result<Cow<'a, Work>, Vec<Failure>> {
        if work.is_settled() {
            return Ok(Cow::Borrowed(work));
        }
        if let Some(settled) = finish::settled(work, store, events)? {
            return Ok(Cow::Owned(settled));
        }
        let order = Order::Settle {
            store: store.to_owned(),
            work: Box::new(work.clone()),
        };
        match listen(&order, &[], events)? {
            Report::Settled(settled) => Ok(Cow::Owned(*settled)),
            other => Err(vec![unexpected(&other)]),
        }
    }

    fn settled_request<'a>(
        self,
        request: &'a BuildRequest,
        events: &dyn EventSink,
    ) -> Result<Cow<'a, BuildRequest>, Vec<Failure>> {
        Ok(match self.settled(&request.work, &request.store, events)? {
            Cow::Borrowed(_) => Cow::Borrowed(request),
            Cow::Owned(work) => Cow::Owned(BuildRequest {
                work,
                ..request.clone()
            }),
        })
    }

    /// What a build of a Dockerfile would do, step by step, and why. Builds nothing, and asks nothing unless the work says
    /// so. What has to be fetched before the Dockerfile is known is fetched.
    ///
    /// # Errors
    /// If the input is wrong.
    pub fn steps(
        self,
        work: &Work,
        store: &Path,
        events: &dyn EventSink,
    ) -> Result<Vec<StepReport>, Vec<Failure>> {
        let work = self.settled(work, store, events)?;
        finish::steps(&work, store).map_err(|failures| with_text(failures, &work))
    }

    /// What every source of a build is pinned to: what is pinned stays so, what is not is asked now.
    ///
    /// # Errors
    /// Everything that went wrong.
    pub fn pins(
        self,
        work: &Work,
        store: &Path,
        events: &dyn EventSink,
    ) -> Result<Vec<Entry>, Vec<Failure>> {
        match lock(work, store, Wanted::Pins, events)? {
            Report::Locked(Locked::Pins(entries)) => Ok(entries),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// What of a build's sources is pinned and is another thing now. Its lock must be there, and [`Mode::Ignored`].
    ///
    /// [`Mode::Ignored`]: crate::engine::lock::Mode::Ignored
    ///
    /// # Errors
    /// Everything that went wrong.
    pub fn outdated(
        self,
        work: &Work,
        store: &Path,
        events: &dyn EventSink,
    ) -> Result<Vec<Outdated>, Vec<Failure>> {
        match lock(work, store, Wanted::Outdated, events)? {
            Report::Locked(Locked::Outdated(outdated)) => Ok(outdated),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// What a build of a habitat would do, phase by phase, and why. Builds nothing, and asks nothing unless the work says
    /// so.
    ///
    /// # Errors
    /// If the input is wrong.
    pub fn phases(self, work: &Work, store: &Path) -> Result<Vec<PhaseReport>, Vec<Failure>> {
        finish::phases(work, store)
    }

    /// Sends an image of the store to a registry. Returns the digest that it has there.
    ///
    /// # Errors
    /// Everything that went wrong.
    pub fn push(
        self,
        work: &Work,
        store: &Path,
        image: &str,
        to: Name,
        events: &dyn EventSink,
    ) -> Result<Digest, Vec<Failure>> {
        let sent = {
            let (work, store) = (work.clone(), store.to_owned());
            let (image, to) = (image.to_owned(), to.clone());
            beside::carry_out(events, move |events| {
                stored::push_packed((&work, &store), &image, &to, events)
            })
        };
        if let Some(digest) = sent? {
            return Ok(digest);
        }
        let order = Order::Push {
            store: store.to_owned(),
            work: Box::new(work.clone()),
            image: image.to_owned(),
            to,
        };
        match listen(&order, &[], events)? {
            Report::Pushed(digest) => Ok(digest),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// Writes images of the store to `out`, if that is where the request's output goes, else to its destination. `work` is a
    /// build of nothing.
    ///
    /// # Errors
    /// If one cannot be had, or the destination not be written.
    pub fn save(
        self,
        request: SaveRequest,
        work: &Work,
        out: BorrowedFd<'_>,
        events: &dyn EventSink,
    ) -> Result<Option<image::Descriptor>, Vec<Failure>> {
        let order = Order::Save {
            request: Box::new(request),
            work: Box::new(work.clone()),
        };
        match listen(&order, &[out], events)? {
            Report::Saved(joined) => Ok(joined),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// Runs a command in an image of the store. Returns its status, 128 and the signal's number where a signal ended it.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn launch(self, launch: Launch, streams: Streams<'_>) -> Result<i32, Vec<Failure>> {
        // Taken apart when the engine child is gone.
        let groups = groups(&launch)?;
        let launch = Launch {
            groups: groups.as_ref().map(|groups| groups.path().to_owned()),
            ..launch
        };
        command(&Order::Launch(Box::new(launch)), streams)
    }

    /// Runs a command where a build stands: in the tree of its target, or in what its last failed step has left.
    ///
    /// # Errors
    /// If that place cannot be had, or the command not be run.
    pub fn shell(
        self,
        work: &Work,
        store: &Path,
        shell: Shell,
        streams: Streams<'_>,
        events: &dyn EventSink,
    ) -> Result<ShellEnd, Vec<Failure>> {
        let order = Order::Shell {
            store: store.to_owned(),
            work: Box::new(work.clone()),
            shell,
        };
        match listen(&order, &streams.fds, events)? {
            Report::ShellEnded(end) => Ok(end),
            other => Err(vec![unexpected(&other)]),
        }
    }

    /// Runs a command beside the engine, with its ids: it sees what the store holds as the engine does.
    ///
    /// # Errors
    /// If it could not be started.
    pub fn unshare(
        self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        directory: PathBuf,
        streams: Streams<'_>,
    ) -> Result<i32, Vec<Failure>> {
        command(
            &Order::Command {
                argv,
                env,
                directory,
            },
            streams,
        )
    }

    /// Deletes a store and all that it holds, also what belongs to the container's users.
    ///
    /// # Errors
    /// If something of it could not be deleted.
    pub fn delete_store(self, path: &Path) -> Result<(), Vec<Failure>> {
        let engine = start(
            &Order::DeleteStore {
                path: path.to_owned(),
            },
            &[],
        )?;
        match next(&engine)? {
            Report::Deleted => Ok(()),
            Report::Failed(failures) => Err(failures),
            other => Err(vec![unexpected(&other)]),
        }
    }
}

fn lock(
    work: &Work,
    store: &Path,
    wanted: Wanted,
    events: &dyn EventSink,
) -> Result<Report, Vec<Failure>> {
    let order = Order::Lock {
        store: store.to_owned(),
        work: Box::new(work.clone()),
        wanted,
    };
    listen(&order, &[], events)
}

/// The build of one platform.
fn one(
    request: &BuildRequest,
    events: &dyn EventSink,
    reasons: &dyn Fn(Vec<StepReport>),
) -> Result<Outcome, Vec<Failure>> {
    let found = match cached::has_to_send(request) {
        true => {
            let request = request.clone();
            beside::carry_out(events, move |events| cached::build(&request, events))
        }
        false => cached::build(request, events),
    };
    if let Some(outcome) = found? {
        return Ok(outcome);
    }
    in_child(request, events, reasons)
}

fn in_child(
    request: &BuildRequest,
    events: &dyn EventSink,
    reasons: &dyn Fn(Vec<StepReport>),
) -> Result<Outcome, Vec<Failure>> {
    let stdout = io::stdout();
    let work = &request.work;
    // Taken apart when the engine child is gone.
    let groups = match (work.resources.is_unlimited(), &work.run.cgroup_parent) {
        (true, None) => None,
        (_, parent) => Some(Delegated::make(&work.resources, parent.as_deref()).map_err(
            |error| {
                let kind = match error {
                    GroupError::BadParent { .. } => FailureKind::Input,
                    _ => FailureKind::Machine,
                };
                vec![Failure::from_diagnostic(kind, &error)]
            },
        )?),
    };
    let order = Order::Build {
        request: Box::new(request.clone()),
        groups: groups.as_ref().map(|groups| groups.path().to_owned()),
    };
    match listen_to(&order, &[stdout.as_fd()], events, reasons)? {
        Report::Built(outcome) => Ok(*outcome),
        other => Err(vec![unexpected(&other)]),
    }
}

/// Starts an engine child and relays what it says, until it says something else than an event.
fn listen(
    order: &Order,
    files: &[BorrowedFd<'_>],
    events: &dyn EventSink,
) -> Result<Report, Vec<Failure>> {
    listen_to(order, files, events, &|_| ())
}

/// The same, for whom it matters why steps were run.
fn listen_to(
    order: &Order,
    files: &[BorrowedFd<'_>],
    events: &dyn EventSink,
    reasons: &dyn Fn(Vec<StepReport>),
) -> Result<Report, Vec<Failure>> {
    let endings = endings()?;
    let engine = start(order, files)?;
    loop {
        if let Err(failure) = await_message(&engine.socket, &endings) {
            stop(&engine, &endings, events);
            return Err(vec![failure]);
        }
        match next(&engine)? {
            Report::Event(event) => events.emit(event),
            Report::Reasons(reports) => reasons(reports),
            Report::Helper(question) => answer(&engine, order, &question)?,
            Report::Failed(failures) => return Err(failures),
            report => return Ok(report),
        }
    }
}

/// Holds back what would end this process, so that it can be ended in order.
fn endings() -> Result<Endings, Vec<Failure>> {
    Endings::hold().map_err(|error| {
        let message = "signals cannot be waited for";
        vec![Failure::caused(
            FailureKind::Machine,
            "engine::signals",
            message,
            &error,
        )]
    })
}

/// Asks a program that keeps credentials, as the user that this process is.
fn answer(engine: &Engine, order: &Order, question: &HelperQuestion) -> Result<(), Vec<Failure>> {
    let answer: protocol::Answer = match order.registries() {
        Some(settings) => registry::run_helper(settings, question),
        None => Err("nobody is asked for this".to_owned()),
    };
    protocol::send(&engine.socket, &answer, &[]).map_err(|error| {
        let message = "the engine process went away while it waited for credentials";
        vec![Failure::caused(
            FailureKind::Bug,
            "engine::connection",
            message,
            &error,
        )]
    })
}

/// A Dockerfile that was fetched, or that another one stands on, is known to nobody else: what is wrong with it is shown in
/// its text.
fn with_text(mut failures: Vec<Failure>, work: &Work) -> Vec<Failure> {
    let under = work.contexts.iter().filter_map(|(_, place)| match place {
        Place::Dockerfile(under) => Some(&under.dockerfile),
        _ => None,
    });
    let texts: Vec<&Text> = std::iter::once(&work.dockerfile).chain(under).collect();
    for failure in &mut failures {
        let file = failure.place.as_ref().map(|place| &place.file);
        if let Some(text) = texts.iter().find(|text| Some(&text.file) == file) {
            failure.text = Some(text.text.clone());
        }
    }
    failures
}

/// Lets the engine end its steps. Whoever asks again, or waits too long, has it ended at once.
fn stop(engine: &Engine, endings: &Endings, events: &dyn EventSink) {
    if engine.socket.send(protocol::STOP, &[]).is_err() {
        return;
    }
    let until = Instant::now() + STOP_WITHIN;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut polls = [
            PollFd::new(&engine.socket, PollFlags::IN),
            PollFd::new(endings, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polls, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(ready) if ready > 0 => {}
            _ => return,
        }
        if !polls[1].revents().is_empty() && endings.take().is_some() {
            return;
        }
        if polls[0].revents().is_empty() {
            continue;
        }
        match next(engine) {
            Ok(Report::Event(event)) => events.emit(event),
            // Nobody waits for credentials any more.
            Ok(Report::Reasons(_) | Report::Helper(_)) => {}
            _ => return,
        }
    }
}

/// Waits until the other side says something, or until this process is asked to end.
fn await_message(socket: &Socket, endings: &Endings) -> Result<(), Failure> {
    loop {
        let mut polls = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(endings, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polls, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                let message = "the connection to the engine process broke";
                let error = io::Error::from(error);
                return Err(Failure::caused(
                    FailureKind::Bug,
                    "engine::connection",
                    message,
                    &error,
                ));
            }
        }
        let (kind, message) = match endings.take() {
            None if polls[0].revents().is_empty() => continue,
            None => return Ok(()),
            Some(Ending::Interrupted) => (FailureKind::Cancelled, "interrupted"),
            Some(Ending::Terminated) => (FailureKind::Terminated, "terminated"),
        };
        return Err(Failure::new(kind, "engine::cancelled", message)
            .with_help("what was finished is kept: the next build goes on from there"));
    }
}

/// Where a control group for a command is made, if it is limited.
fn groups(launch: &Launch) -> Result<Option<Delegated>, Vec<Failure>> {
    let resources = launch.resources().map_err(|failure| vec![failure])?;
    if resources.is_unlimited() {
        return Ok(None);
    }
    Delegated::make(&resources, None)
        .map(Some)
        .map_err(|error| {
            let mut failure = Failure::from_diagnostic(FailureKind::Machine, &error);
            let more = "or run it without what the habitat limits: `--no-limits`";
            failure.help = Some(match failure.help {
                Some(help) => format!("{help}; {more}"),
                None => more.to_owned(),
            });
            vec![failure]
        })
}

fn command(order: &Order, streams: Streams<'_>) -> Result<i32, Vec<Failure>> {
    let engine = start(order, &streams.fds)?;
    match next(&engine)? {
        Report::Ended { status } => Ok(status),
        Report::Failed(failures) => Err(failures),
        other => Err(vec![unexpected(&other)]),
    }
}

/// The ids that an engine works with: those that its store was made with; for a new store as many as there are.
fn ids_for(order: &Order) -> Result<Ids, Vec<Failure>> {
    fn machine(error: &dyn miette::Diagnostic) -> Vec<Failure> {
        vec![Failure::from_diagnostic(FailureKind::Machine, error)]
    }
    let caller = Caller::current();
    let all_or_one = || match Ids::of(&caller) {
        // Root, too, may have one only, in a container.
        Ok(ids) if ids.count() == 1 => Ok((ids, Owners::Recorded)),
        Ok(ids) => Ok((ids, Owners::Mapped)),
        Err(error) if error.is_lack() => Ok((Ids::single(&caller), Owners::Recorded)),
        Err(error) => Err(machine(&error)),
    };
    let store = match (order, order.store()) {
        (_, None) => return all_or_one().map(|(ids, _)| ids),
        // What is left of it may be no store any more.
        (Order::DeleteStore { path }, _) => Store::open(path).ok(),
        (_, Some(path)) => Some(Store::open(path).map_err(|error| machine(&error))?),
    };
    let Some(store) = store else {
        return all_or_one().map(|(ids, _)| ids);
    };
    match store.owners().map_err(|error| machine(&error))? {
        Some(Owners::Recorded) => Ok(Ids::single(&caller)),
        Some(Owners::Mapped) => {
            let ids = Ids::of(&caller).map_err(|error| machine(&error))?;
            match ids.count() {
                1 => Err(machine(&store.other_owners(Owners::Mapped))),
                _ => Ok(ids),
            }
        }
        None => {
            let (ids, owners) = all_or_one()?;
            store
                .settle_owners(owners)
                .map_err(|error| machine(&error))?;
            Ok(ids)
        }
    }
}

/// Starts an engine child and tells it what to do.
fn start(order: &Order, files: &[BorrowedFd<'_>]) -> Result<Engine, Vec<Failure>> {
    let machine = |message: &str, error: &dyn std::error::Error| {
        vec![Failure::caused(
            FailureKind::Machine,
            "engine::not_started",
            message,
            error,
        )]
    };
    let ids = ids_for(order)?;
    let engine = start_engine(&ids, io::stderr().as_fd())
        .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])?;
    protocol::send(&engine.socket, order, files).map_err(|error| {
        machine(
            "the engine process went away before it was told what to do",
            &error,
        )
    })?;
    Ok(engine)
}

fn next(engine: &Engine) -> Result<Report, Vec<Failure>> {
    match engine.socket.receive() {
        Ok(Some(message)) => protocol::read(&message).map_err(|failure| vec![failure]),
        Ok(None) => Err(vec![Failure::new(
            FailureKind::Bug,
            "engine::died",
            "the engine process ended without a word",
        )
        .with_help("was it killed, by hand or for want of memory? what it had finished is kept: build again")]),
        Err(error) => {
            let message = "the connection to the engine process broke";
            Err(vec![Failure::caused(FailureKind::Bug, "engine::connection", message, &error)])
        }
    }
}

fn unexpected(report: &Report) -> Failure {
    let message = format!("the engine process answered what was not asked: {report:?}");
    Failure::new(FailureKind::Bug, "engine::protocol", message)
}
