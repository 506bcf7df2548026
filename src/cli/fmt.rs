//! `fmt`: Dockerfiles in an even layout, written in place.

use std::path::Path;

use super::args::FormatArguments;
use super::exit::Exit;
use super::lint::read;
use super::report::Stop;
use super::request::print;
use crate::dockerfile;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan;

/// Writes the files that are not laid out evenly, or names them. With a mistake in any of them, none is written.
pub(super) fn run(arguments: &FormatArguments) -> Result<Exit, Stop> {
    let mut all = Vec::new();
    for path in &arguments.files {
        let (shown, text) = read(path)?;
        let laid_out = dockerfile::format(&text).map_err(|problems| {
            let failures: Vec<Failure> = problems
                .iter()
                .map(|problem| plan::failure(&shown, problem))
                .collect();
            Stop::from(failures).with_text(&shown, &text)
        })?;
        all.push((path, shown, text, laid_out));
    }
    let mut exit = Exit::Done;
    for (path, shown, text, laid_out) in &all {
        let is_even = text == laid_out;
        if arguments.check {
            if !is_even {
                exit = Exit::Input;
                print(&format!("{shown}\n"));
            }
        } else if shown == "-" {
            print(laid_out);
        } else if !is_even {
            write(path, laid_out)?;
        }
    }
    Ok(exit)
}

fn write(path: &Path, text: &str) -> Result<(), Stop> {
    std::fs::write(path, text).map_err(|error| {
        let message = format!("the Dockerfile `{}` cannot be written", path.display());
        Failure::caused(FailureKind::Machine, "cli::write", message, &error).into()
    })
}
