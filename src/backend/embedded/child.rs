//! The engine child's side: takes one order, carries it out, reports. It is process 1 of its pid namespace; when it
//! ends, so does everything that it started.
//!
//! And which of the roles that are played here is which.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::protocol::{self, Answer, Order, Report, STOP, Sink};
use super::{caches, finish, stored, supervisor, upkeep, visitor};
use crate::engine::exec::{Cancel, Role};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch;
use crate::engine::solve::Surroundings;
use crate::registry::{AskHelper, Helpers};
use crate::store::Store;
use crate::sys::mount;
use crate::sys::signal::Resizes;
use crate::sys::socket::Socket;

/// Plays a child of shmocker's to its end.
pub fn play(role: Role, socket: Socket) -> ExitCode {
    match role {
        Role::Supervisor => supervisor::play(socket),
        Role::Visitor => visitor::play(socket),
        Role::Engine | Role::Step | Role::Probe | Role::Guest => engine(socket),
    }
}

fn engine(socket: Socket) -> ExitCode {
    // Before there are other threads.
    let resizes = Resizes::hold().ok();
    let socket = Arc::new(socket);
    let Ok(Some(message)) = socket.receive() else {
        return ExitCode::FAILURE;
    };
    let mut order = protocol::read::<Order>(&message);
    let (heard, answers) = mpsc::channel();
    if let Some(work) = order.as_mut().ok().and_then(Order::work) {
        work.registries.helpers = Helpers::asked(ask_parent(Arc::clone(&socket), answers));
    }
    let cancel = match Cancel::new() {
        Ok(cancel) => cancel,
        Err(_) => return ExitCode::FAILURE,
    };
    end_with_connection(Arc::clone(&socket), cancel.clone(), heard);
    let report = match order {
        Ok(order) => carry_out(order, message.files, &socket, cancel, resizes),
        Err(failure) => Report::Failed(vec![failure]),
    };
    match protocol::send(&socket, &report, &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Programs that keep credentials are run by the process that is the user, outside of this namespace: here they would be
/// root, and whoever holds the user's keys would not know them.
fn ask_parent(socket: Arc<Socket>, answers: Receiver<Answer>) -> Arc<AskHelper> {
    let answers = Mutex::new(answers);
    Arc::new(move |question| {
        // One question at a time: answers come in the order of questions.
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        protocol::send(&socket, &Report::Helper(question.clone()), &[])
            .map_err(|error| error.to_string())?;
        let gone = |_| "whoever was asked is gone".to_owned();
        answers.recv().map_err(gone)?
    })
}

/// What comes is an answer; or the wish that it end, or the end of the other side: it was killed, or has waited long enough.
fn end_with_connection(socket: Arc<Socket>, cancel: Cancel, heard: Sender<Answer>) {
    /// How often it is asked whether the last step has ended.
    const PAUSE: Duration = Duration::from_millis(5);
    std::thread::spawn(move || {
        let mut last = socket.receive();
        while let Ok(Some(message)) = &last
            && message.payload != STOP
        {
            if let Ok(answer) = protocol::read::<Answer>(message) {
                drop(heard.send(answer));
            }
            last = socket.receive();
        }
        if let Ok(Some(_)) = last {
            cancel.cancel();
            let waiting = Arc::clone(&socket);
            std::thread::spawn(move || {
                drop(waiting.receive());
                end();
            });
            // Steps are given time to end; nothing else is worth waiting for.
            while cancel.is_awaited() {
                std::thread::sleep(PAUSE);
            }
        }
        end();
    });
}

/// Process 1 takes its namespace with it: every step, every helper.
#[expect(
    clippy::exit,
    reason = "nobody waits for a report, and nothing may go on"
)]
fn end() -> ! {
    std::process::exit(1)
}

fn carry_out(
    order: Order,
    files: Vec<OwnedFd>,
    socket: &Arc<Socket>,
    cancel: Cancel,
    resizes: Option<Resizes>,
) -> Report {
    if let Err(error) = mount::make_all_private() {
        let message = "the engine cannot make its mounts private";
        return Report::Failed(vec![Failure::caused(
            FailureKind::Machine,
            "engine::mounts",
            message,
            &error,
        )]);
    }
    let done = match order {
        Order::Build { request, groups } => {
            let stdout = files.into_iter().next();
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings { cancel, groups };
            let reasons = |reports| {
                drop(protocol::send(socket, &Report::Reasons(reports), &[]));
            };
            let built = finish::build(
                &request,
                stdout,
                (&sink, &reasons),
                surroundings,
                sink.clone().warnings(),
            );
            finish::tidy(&request, &built, &sink);
            built.map(|outcome| Report::Built(Box::new(outcome)))
        }
        Order::Settle { store, work } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            finish::settle(&work, &store, &sink, surroundings, sink.clone().warnings())
                .map(|work| Report::Settled(Box::new(work)))
        }
        Order::Lock {
            store,
            work,
            wanted,
        } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            finish::lock(
                &work,
                &store,
                wanted,
                &sink,
                surroundings,
                sink.clone().warnings(),
            )
            .map(Report::Locked)
        }
        Order::Push {
            store,
            work,
            image,
            to,
        } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            let warn = sink.clone().warnings();
            stored::push((&work, &store), &image, &to, &sink, surroundings, warn)
                .map(Report::Pushed)
        }
        Order::Save { request, work } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            let stdout = files.into_iter().next();
            finish::save(
                &request,
                &work,
                stdout,
                &sink,
                surroundings,
                sink.clone().warnings(),
            )
            .map(Report::Saved)
        }
        Order::Launch(launch) => {
            let up = launch.instance.as_ref().map(|_| Arc::clone(socket));
            let started = move |process: BorrowedFd<'_>, group| {
                if let Some(supervisor) = up {
                    // One that is gone takes this process with it.
                    let report = Report::Started { group };
                    drop(protocol::send(&supervisor, &report, &[process]));
                }
            };
            launch::run(&launch, files, resizes, &cancel, started)
                .map(|status| Report::Ended { status })
                .map_err(|failure| vec![failure])
        }
        Order::Shell { store, work, shell } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            let warn = sink.clone().warnings();
            let with = (files.as_slice(), resizes);
            finish::shell(&work, &store, &shell, with, &sink, surroundings, warn)
                .map(Report::ShellEnded)
        }
        Order::RemoveInstance { store, id } => remove_instance(&store, &id),
        Order::Command {
            argv,
            env,
            directory,
        } => command(&argv, &env, &directory, files),
        Order::Prune { store, wish } => upkeep::prune(&store, &wish).map(Report::Pruned),
        Order::Check { store, look } => upkeep::check(&store, look).map(Report::Checked),
        Order::Export { store } => upkeep::export(&store, files).map(Report::Carried),
        Order::WriteCaches { request } => {
            let sink = Sink(Arc::clone(socket));
            let surroundings = Surroundings {
                cancel,
                groups: None,
            };
            caches::write_in_child(&request, &sink, surroundings).map(|()| Report::CachesWritten)
        }
        Order::Import { store } => upkeep::import(&store, files).map(Report::Carried),
        Order::DeleteStore { path } => delete_store(&path),
    };
    done.unwrap_or_else(Report::Failed)
}

fn command(
    argv: &[String],
    env: &[(String, String)],
    directory: &Path,
    files: Vec<OwnedFd>,
) -> Result<Report, Vec<Failure>> {
    let (program, arguments) = argv.split_first().ok_or_else(|| {
        vec![Failure::new(
            FailureKind::Input,
            "unshare::no_command",
            "no command was given",
        )]
    })?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(directory);
    let mut streams = files.into_iter().map(Stdio::from);
    if let (Some(input), Some(output), Some(errors)) =
        (streams.next(), streams.next(), streams.next())
    {
        command.stdin(input).stdout(output).stderr(errors);
    }
    let status = command.status().map_err(|error| {
        let message = format!("`{program}` cannot be started");
        vec![Failure::caused(
            FailureKind::Input,
            "unshare::not_started",
            message,
            &error,
        )]
    })?;
    use std::os::unix::process::ExitStatusExt as _;
    let status = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Report::Ended { status })
}

fn remove_instance(store: &Path, id: &str) -> Result<Report, Vec<Failure>> {
    Store::open(store)
        .and_then(|store| store.instance(id)?.remove())
        .map(|()| Report::Deleted)
        .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])
}

fn delete_store(path: &Path) -> Result<Report, Vec<Failure>> {
    Store::delete(path)
        .map(|()| Report::Deleted)
        .map_err(|error| vec![Failure::from_diagnostic(FailureKind::Machine, &error)])
}
