//! The halves of a build, cut down to what the sandbox needs: a plain user's process that starts the engine child, and an
//! engine child that runs what it is told to. Requests and answers are JSON, so that the stories can look at them from
//! outside.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shmocker::engine::doctor;
use shmocker::engine::exec::ids::{Caller, Ids};
use shmocker::engine::exec::{
    Access, Cancel, Exit, HOSTNAME, Hostname, Mount, Mounted, Run, Sandbox, Secret, Streams,
    start_engine,
};
use shmocker::event::Stream;
use shmocker::graph::Network;
use shmocker::sys::mount::{Attributes, Tree};
use shmocker::sys::socket::Socket;

/// What to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub root: PathBuf,
    pub scratch: PathBuf,
    /// With the player's own id alone, not with the subordinate ones.
    pub single_id: bool,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub workdir: String,
    pub user: String,
    pub network: Network,
    pub mounts: Vec<Wish>,
    pub timeout_ms: Option<u64>,
    pub cancel_after_ms: Option<u64>,
    pub terminal: bool,
    /// Where `upper` and `work` of an overlay over the root are; `None`: the root itself is changed.
    pub overlay: Option<PathBuf>,
    /// How often; the output is the last one's.
    pub times: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Wish {
    Bind {
        source: PathBuf,
        target: String,
        read_only: bool,
    },
    Tmpfs {
        target: String,
    },
    Secret {
        target: String,
        content: String,
        mode: u32,
        uid: u32,
    },
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub exit: String,
    pub output: String,
    pub errors: String,
    pub warnings: Vec<String>,
    /// Microseconds of each time.
    pub durations_us: Vec<u128>,
}

/// The plain user's half.
pub(crate) fn drive(request: &str) -> ExitCode {
    let answer = try_to_drive(request).unwrap_or_else(|error| {
        let exit = format!("cannot start: {error:?}").replace('\n', " ");
        Answer {
            exit,
            ..Answer::default()
        }
    });
    println!("{}", serde_json::to_string(&answer).unwrap());
    ExitCode::SUCCESS
}

/// What `doctor` would print.
pub(crate) fn doctor(scratch: &std::path::Path) -> ExitCode {
    let checks = doctor::checks(scratch, &[], std::io::stderr().as_fd());
    println!(
        "{} {}",
        doctor::can_build(&checks),
        serde_json::to_string(&checks).unwrap()
    );
    ExitCode::SUCCESS
}

fn try_to_drive(request: &str) -> miette::Result<Answer> {
    let wish: Request = serde_json::from_str(request).unwrap();
    let ids = match wish.single_id {
        true => Ids::single(&Caller::current()),
        false => Ids::of(&Caller::current())?,
    };
    let engine = start_engine(&ids, std::io::stderr().as_fd())?;
    engine.socket.send(request.as_bytes(), &[]).unwrap();
    let answer = engine
        .socket
        .receive()
        .unwrap()
        .expect("the engine child died");
    Ok(serde_json::from_slice(&answer.payload).unwrap())
}

/// The engine's half.
pub(crate) fn engine(socket: Socket) -> ExitCode {
    let request = socket.receive().unwrap().expect("no request");
    let request: Request = serde_json::from_slice(&request.payload).unwrap();
    // The end of the socket is the end of all.
    let socket = Arc::new(socket);
    let watched = Arc::clone(&socket);
    std::thread::spawn(move || {
        if !matches!(watched.receive(), Ok(Some(_))) {
            // From a thread there is no other way, and nobody is left to tell.
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .ok();
            std::process::abort();
        }
    });
    let answer = answer(&request);
    socket
        .send(&serde_json::to_vec(&answer).unwrap(), &[])
        .unwrap();
    ExitCode::SUCCESS
}

fn answer(request: &Request) -> Answer {
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let warned = Arc::clone(&warnings);
    let sandbox = Sandbox::new(&request.scratch, &[], move |text| {
        warned.lock().unwrap().push(text)
    });
    let cancel = Cancel::new().unwrap();
    if let Some(after) = request.cancel_after_ms {
        let cancel = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(after));
            cancel.cancel();
        });
    }
    let mut answer = Answer::default();
    for _ in 0..request.times {
        let directory = std::fs::File::open(&request.root).unwrap();
        let root = match &request.overlay {
            None => Tree::copy_of(directory.as_fd()).unwrap(),
            Some(overlay) => {
                let [lower, upper, work] = [
                    request.root.clone(),
                    overlay.join("upper"),
                    overlay.join("work"),
                ]
                .map(|path| path.display().to_string());
                let options = [
                    ("lowerdir", lower.as_str()),
                    ("upperdir", upper.as_str()),
                    ("workdir", work.as_str()),
                    ("userxattr", ""),
                ];
                Tree::of_filesystem("overlay", &options, Attributes::NONE).unwrap()
            }
        };
        drop(directory);
        let mut run = Run {
            argv: request.argv.clone(),
            env: request.env.clone(),
            workdir: request.workdir.clone(),
            user: request.user.clone(),
            hostname: Hostname::Usual(HOSTNAME.to_owned()),
            network: request.network,
            mounts: request.mounts.iter().map(mount).collect(),
            timeout_ms: request.timeout_ms,
            ..Run::default()
        };
        let (mut output, mut errors, mut master) = (String::new(), String::new(), None);
        let mut take = |stream, line: &[u8]| {
            let text = match stream {
                Stream::Stdout => &mut output,
                Stream::Stderr => &mut errors,
            };
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        };
        let mut keep = |ours| master = Some(ours);
        let streams = match request.terminal {
            true => Streams::Terminal {
                rows: 33,
                columns: 77,
                master: &mut keep,
            },
            false => Streams::Lines(&mut take),
        };
        let started = Instant::now();
        let exit = sandbox.run(&mut run, &root, streams, &cancel);
        answer.durations_us.push(started.elapsed().as_micros());
        answer.exit = match exit {
            Ok(Exit::Status(status)) => format!("status {status}"),
            Ok(exit) => format!("{exit:?}"),
            Err(error) => format!("error: {error}"),
        };
        if let Some(master) = master {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = rustix::io::read(&master, &mut buffer) {
                output.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
        (answer.output, answer.errors) = (output, errors);
    }
    answer.warnings = warnings.lock().unwrap().clone();
    answer
}

fn mount(wish: &Wish) -> Mount {
    match wish {
        Wish::Bind {
            source,
            target,
            read_only,
        } => {
            let source = std::fs::File::open(source).unwrap();
            let access = if *read_only {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            };
            Mount {
                target: target.clone(),
                what: Mounted::bind(source.as_fd(), access).unwrap(),
            }
        }
        Wish::Tmpfs { target } => Mount {
            target: target.clone(),
            what: Mounted::Tmpfs {
                size_bytes: Some(1 << 20),
                mode: 0o1777,
                access: Access::ReadWrite,
            },
        },
        Wish::Secret {
            target,
            content,
            mode,
            uid,
        } => Mount {
            target: target.clone(),
            what: Mounted::File {
                content: Secret(content.clone().into_bytes()),
                mode: *mode,
                uid: *uid,
                gid: 0,
            },
        },
    }
}
