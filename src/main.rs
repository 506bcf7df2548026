//! The `shmocker` program: become one of the children, or run the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First, before any thread or argument parser: a child must start clean.
    if let Some(child) = shmocker::engine::exec::child() {
        return child.run(shmocker::backend::embedded::play_child);
    }
    shmocker::cli::main(std::env::args_os())
}
