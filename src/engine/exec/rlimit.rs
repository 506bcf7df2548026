//! `--ulimit`: limits of the kernel for each process, by the names that `ulimit(1)` and Docker have for them.

use std::io;

use rustix::process::{Resource, Rlimit};

use crate::graph::Ulimit;

const NAMES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// Limits this process, and those that it starts.
pub(super) fn set(limit: &Ulimit) -> io::Result<()> {
    let resource = resource(&limit.name).ok_or(io::ErrorKind::InvalidInput)?;
    let limit = Rlimit {
        current: limit.soft,
        maximum: limit.hard,
    };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// How much this process may give, where that is less than what is asked for. Nobody below the machine's root can raise
/// a hard limit.
pub(super) fn most(limit: &Ulimit) -> Option<u64> {
    let maximum = rustix::process::getrlimit(resource(&limit.name)?).maximum?;
    (limit.hard.is_none_or(|hard| hard > maximum)).then_some(maximum)
}

fn resource(name: &str) -> Option<Resource> {
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, resource)| *resource)
}
