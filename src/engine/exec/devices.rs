//! The /dev of a step: a file system in memory with the few devices that every container has. The nodes are the host's,
//! checked to be what their names say, because a user namespace may make none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::stub::open_host;
use crate::sys::mount::{Attributes, Tree};

/// Major and minor number of a device.
type Number = (u32, u32);

pub(super) const NULL: Number = (1, 3);

/// Name and number of each node. All are readable and writable by all.
const NODES: [(&str, &str, Number); 6] = [
    ("null", "/dev/null", NULL),
    ("zero", "/dev/zero", (1, 5)),
    ("full", "/dev/full", (1, 7)),
    ("random", "/dev/random", (1, 8)),
    ("urandom", "/dev/urandom", (1, 9)),
    ("tty", "/dev/tty", (5, 0)),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

const DATA_ONLY: Attributes = Attributes::NO_SET_ID
    .and(Attributes::NO_DEVICES)
    .and(Attributes::NO_EXECUTION);

/// Opens a node of this machine, if it is the device that it should be.
pub(super) fn open_verified(path: &str, number: Number) -> io::Result<OwnedFd> {
    let node = open_host(path)?;
    let stat = rustix::fs::fstat(&node)?;
    let found = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || found != number {
        return Err(io::Error::other("it is not the device that it should be"));
    }
    Ok(node)
}

/// Fills a new /dev. An error comes with the name that it is about.
pub(super) fn populate(
    dev: BorrowedFd<'_>,
    shm_bytes: u64,
) -> Result<(), (&'static str, io::Error)> {
    for (name, path, number) in NODES {
        node(dev, name, path, number).map_err(|error| (name, error))?;
    }
    for (name, target) in LINKS {
        // As runc has it: only where the kernel offers its memory.
        if name == "core" && rustix::fs::stat(target).is_err() {
            continue;
        }
        rustix::fs::symlinkat(target, dev, name).map_err(|error| (name, error.into()))?;
    }
    terminals(dev).map_err(|error| ("pts", error))?;
    let size = shm_bytes.to_string();
    let memory = [("mode", "1777"), ("size", size.as_str())];
    directory(dev, "shm", Tree::of_filesystem("tmpfs", &memory, DATA_ONLY))
        .map_err(|error| ("shm", error))?;
    directory(dev, "mqueue", Tree::of_filesystem("mqueue", &[], DATA_ONLY))
        .map_err(|error| ("mqueue", error))
}

fn node(dev: BorrowedFd<'_>, name: &str, path: &str, number: Number) -> io::Result<()> {
    let source = open_verified(path, number)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666))?;
    Tree::shallow_copy_of(source.as_fd())?.attach(target.as_fd())
}

fn terminals(dev: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = Attributes::NO_SET_ID.and(Attributes::NO_EXECUTION);
    let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    // Group 5 (tty) may not exist in the namespace.
    let pts = Tree::of_filesystem("devpts", &options, attributes)
        .or_else(|_| Tree::of_filesystem("devpts", &options[..2], attributes));
    directory(dev, "pts", pts)
}

fn directory(dev: BorrowedFd<'_>, name: &str, tree: io::Result<Tree>) -> io::Result<()> {
    rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::openat(dev, name, flags, Mode::empty())?;
    tree?.attach(target.as_fd())
}

/// A new terminal of this /dev: our side, and the one of whoever works at it.
pub(super) fn open_terminal(
    dev: BorrowedFd<'_>,
    rows: u16,
    columns: u16,
) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = rustix::fs::openat(dev, c"pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(
        &ours,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&theirs, size)?;
    Ok((ours, theirs))
}
