//! Programs of a tree, run for its packages: their environment, and what is said if they fail.

use std::path::Path;

use super::error::{Error, Result};
use super::runner::{Command, Output, Runner};

/// How many of a failed program's last lines are shown.
const TAIL_LINES: usize = 25;

/// The whole environment of dpkg, apt and the maintainer scripts: nobody is asked anything, and nothing depends on the
/// time, the place or the order of a hash table.
fn environment(epoch_s: u64) -> Vec<(String, String)> {
    [
        ("PATH", super::PATH),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TERM", "dumb"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("PERL_HASH_SEED", "0"),
        ("PYTHONHASHSEED", "0"),
        ("SOURCE_DATE_EPOCH", &epoch_s.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Runs a program of the tree; its failure is left to the caller.
pub(super) fn run(
    runner: &dyn Runner,
    root: &Path,
    epoch_s: u64,
    what: &str,
    argv: Vec<String>,
) -> Result<Output> {
    let command = Command {
        argv,
        env: environment(epoch_s),
    };
    runner.run(root, &command).map_err(|source| Error::Sandbox {
        what: what.to_owned(),
        source,
    })
}

/// Runs a program of the tree that must succeed.
pub(super) fn run_well(
    runner: &dyn Runner,
    root: &Path,
    epoch_s: u64,
    what: &str,
    argv: Vec<String>,
) -> Result<Output> {
    let output = run(runner, root, epoch_s, what, argv)?;
    if output.status == 0 {
        return Ok(output);
    }
    Err(Error::Failed {
        what: what.to_owned(),
        status: output.status,
        tail: tail(&output),
    })
}

/// The last lines that a program wrote: errors are on one stream, what they are about often on the other.
pub(super) fn tail(output: &Output) -> String {
    let last = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    };
    let parts = [last(&output.stdout), last(&output.stderr)];
    parts
        .iter()
        .filter(|part| !part.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
}
