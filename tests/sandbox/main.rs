//! Stories about the sandbox: what a command finds in its container, and what it cannot do there.
//!
//! Run as root they are played as the plain user whom SHMOCKER_TEST_USER names, who has subordinate ids, and as the one of
//! SHMOCKER_TEST_BARE_USER, who has none and builds with a single id; run as a plain user, as that user. What the machine
//! lacks is a printed and counted skip.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::allow_attributes
)]

mod bench;
mod drive;
mod stories;

use std::process::ExitCode;

use shmocker::engine::exec;

fn main() -> ExitCode {
    if let Some(child) = exec::child() {
        return child.run(|_, socket| drive::engine(socket));
    }
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("drive"), Some(request)) => drive::drive(&request),
        (Some("doctor"), Some(scratch)) => drive::doctor(scratch.as_ref()),
        (filter, _) => stories::tell(
            filter
                .filter(|filter| !filter.starts_with('-'))
                .unwrap_or_default(),
        ),
    }
}
