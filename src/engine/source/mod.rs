//! Trees that come from outside: a Debian archive, a git repository, a download.
//!
//! Each source has two halves: *resolve* asks what a reference means now and gives a plain value that can be remembered
//! (`serde`), *build* or *checkout* makes the files of exactly that value. The second half never asks a moving thing.
//!
//! No clock, no environment: time, mirrors and proxies are arguments.

pub mod debian;
pub mod git;
pub mod http;
pub mod oci_layout;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What kind of failure it is, and so how the program ends (docs: exit codes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request itself is wrong; exit code 1.
    Input,
    /// A program of the image failed: a maintainer script; exit code 3.
    Step,
    /// This machine cannot: no space, no permission, a program is missing; exit code 4.
    Machine,
    /// The other side failed: unreachable, damaged, expired; exit code 5.
    Source,
    /// It must not be used: a bad signature; exit code 6.
    Refused,
}

impl Fault {
    pub(crate) fn of_net(error: &crate::net::Error) -> Self {
        if error.is_local() {
            Self::Machine
        } else {
            Self::Source
        }
    }
}

/// A new file in `tmp`, and its path; its name begins with `what`. Random, as process ids are not unique between pid
/// namespaces that share a store.
fn temporary(tmp: &Path, what: &str) -> io::Result<(File, PathBuf)> {
    loop {
        let mut name = [0; 8];
        rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())?;
        let path = tmp.join(format!("{what}-{:016x}", u64::from_le_bytes(name)));
        match File::options()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
        {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// A fresh directory for a test.
#[cfg(test)]
pub(crate) fn scratch(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("shmocker-{name}-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("the temporary directory can be written to");
    path
}
