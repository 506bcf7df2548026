//! Tries, in a namespace like the engine child's, what builds need of the kernel and of the host's helpers.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::emulator::try_handlers;
use super::ids::Ids;
use super::network::{Helper, try_helper};
use super::proc::Proc;
use super::role::{Role, StartError, start};
use crate::sys::mount::{Attributes, Tree};
use crate::sys::network::new_namespace;
use crate::sys::socket::Socket;

/// What works, and what was said where it does not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Findings {
    /// A new /proc.
    pub proc: Result<(), String>,
    /// An overlay mount whose layers are in the store.
    pub overlay: Result<(), String>,
    /// A network namespace.
    pub network_namespace: Result<(), String>,
    /// Handlers for programs of other architectures.
    pub handlers: Result<(), String>,
    /// pasta.
    pub pasta: Result<(), String>,
    /// slirp4netns.
    pub slirp4netns: Result<(), String>,
}

/// Starts a probe and waits for its findings. `scratch` is an empty directory, on the store's file system.
///
/// # Errors
/// If not even the namespace can be had.
pub fn findings(ids: &Ids, scratch: &Path, errors: BorrowedFd<'_>) -> Result<Findings, StartError> {
    let probe = start(Role::Probe, ids, errors)?;
    let scratch = serde_json::to_vec(scratch).map_err(io::Error::from)?;
    probe.socket.send(&scratch, &[])?;
    let answer = probe.socket.receive()?.ok_or(StartError::NoGreeting)?;
    Ok(serde_json::from_slice(&answer.payload).map_err(io::Error::from)?)
}

/// The probe's half.
pub(super) fn run(socket: &Socket) -> ExitCode {
    let answered = || -> io::Result<()> {
        let Some(message) = socket.receive()? else {
            return Ok(());
        };
        let scratch: PathBuf = serde_json::from_slice(&message.payload)?;
        socket.send(&serde_json::to_vec(&probe(&scratch))?, &[])
    };
    if answered().is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn probe(scratch: &Path) -> Findings {
    fn in_words<T>(result: io::Result<T>) -> Result<(), String> {
        result.map(drop).map_err(|error| error.to_string())
    }
    Findings {
        proc: in_words(Proc::try_new()),
        overlay: in_words(overlay(scratch)),
        network_namespace: in_words(new_namespace()),
        handlers: in_words(try_handlers()),
        pasta: try_helper(Helper::Pasta, scratch),
        slirp4netns: try_helper(Helper::Slirp4netns, scratch),
    }
}

/// Mounts two layers and changes a file of the lower one, as a step would.
fn overlay(scratch: &Path) -> io::Result<()> {
    let directories = ["lower", "upper", "work"].map(|name| scratch.join(name));
    for directory in &directories {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(directories[0].join("file"), "lower")?;
    let [lower, upper, work] = directories
        .each_ref()
        .map(|directory| directory.display().to_string());
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", upper.as_str()),
        ("workdir", work.as_str()),
        ("userxattr", ""),
    ];
    let tree = Tree::of_filesystem("overlay", &options, Attributes::NONE)?;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    Ok(rustix::fs::chmodat(
        &tree,
        c"file",
        mode,
        rustix::fs::AtFlags::empty(),
    )?)
}
