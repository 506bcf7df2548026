//! Who is running, and which mounts they see: what must be gone after a build was killed. Servers that run as long as a test.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One process, told from a later one with the same id by its start time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pid: u32,
    started: u64,
    what: String,
}

impl Process {
    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Its command line.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }
}

struct Stat {
    parent: u32,
    started: u64,
    is_zombie: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        is_zombie: *fields.first()? == "Z",
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn everyone() -> Vec<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process and everything that it started, as far as that still has a living parent.
pub(crate) fn family(of: u32) -> BTreeSet<Process> {
    let parents: Vec<(u32, u32)> = everyone()
        .into_iter()
        .filter_map(|pid| Some((pid, stat(pid)?.parent)))
        .collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
        .into_iter()
        .filter_map(|pid| {
            Some(Process {
                pid,
                started: stat(pid)?.started,
                what: std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .unwrap_or_default()
                    .replace('\0', " "),
            })
        })
        .collect()
}

/// Whether it still runs; a zombie does not.
pub(crate) fn is_alive(process: &Process) -> bool {
    stat(process.pid).is_some_and(|now| now.started == process.started && !now.is_zombie)
}

/// Every process that runs in, or sees a mount under, `place`; other than this one.
pub(crate) fn attached_to(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    everyone()
        .into_iter()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| stat(*pid).is_some_and(|stat| !stat.is_zombie))
        .filter_map(|pid| {
            let mounts =
                std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .unwrap_or_default()
                .replace('\0', " ");
            let is_attached = mounts.lines().any(|line| line.contains(&place))
                || cmdline.contains(&place)
                || std::fs::read_link(format!("/proc/{pid}/cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(&place));
            is_attached.then(|| format!("{pid} {cmdline}"))
        })
        .collect()
}

/// Waits until `is_so`, at most `limit`; how long it took, or `None`.
pub(crate) fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Some(start.elapsed());
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that nobody listens at.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port()
}

/// A server that ends with its test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Server {
    /// Starts one and waits until it answers at a port.
    pub(crate) fn start(command: &mut Command, port: u16) -> Self {
        Self::until(command, || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// Starts one and waits until it answers at a socket. That the file is there does not mean yet that anybody listens.
    pub(crate) fn start_at_socket(command: &mut Command, socket: &Path) -> Self {
        Self::until(command, || UnixStream::connect(socket).is_ok())
    }

    fn until(command: &mut Command, answers: impl FnMut() -> bool) -> Self {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let server = Self(child);
        let answers = wait_until(Duration::from_secs(10), answers);
        assert!(answers.is_some(), "nobody answers: {command:?}");
        server
    }
}
