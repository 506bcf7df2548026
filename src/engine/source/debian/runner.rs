//! How programs of a tree are run, as the engine's sandbox does it.

use std::path::Path;

/// A program of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, looked up in PATH of `env`, and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
}

/// How a program ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 + n where signal n ended it.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Why a program could not be run at all.
pub type RunnerError = Box<dyn std::error::Error + Send + Sync>;

/// Runs programs of a tree.
pub trait Runner {
    /// Runs `command` with `root` as its root directory, `/` as its working directory, as uid 0 and gid 0 of the
    /// namespace that this process is in, with /proc, /dev and /sys as a build step has them, nothing on standard input
    /// and no network but `lo`. Nothing that it started is left when this returns.
    ///
    /// # Errors
    /// Only where the program could not be run; its own failure is a status.
    fn run(&self, root: &Path, command: &Command) -> Result<Output, RunnerError>;
}
