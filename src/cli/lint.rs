//! `lint`: what is wrong with Dockerfiles, and what could be better. Builds nothing and asks nobody: an image that a file
//! starts from may set what it likes.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use miette::NamedSource;

use super::args::{LintArguments, LintFormat};
use super::environment::Environment;
use super::exit::Exit;
use super::found::Found;
use super::report::{Stop, handler};
use super::request::{self, print};
use crate::dockerfile::Problem;
use crate::dockerfile::ignore::IgnoreFile;
use crate::engine::failure::{Failure, FailureKind};
use crate::frontend::{self, Options, Scope};
use crate::image::Platform;

/// Prints what was found, and ends with 1 if that is anything.
pub(super) fn run(arguments: &LintArguments, environment: &Environment) -> Result<Exit, Stop> {
    let mut files = Vec::new();
    for path in &arguments.files {
        let (shown, text) = read(path)?;
        let review = frontend::review(&text, &options(path)?, |_| None);
        files.push((shown, text, review.problems));
    }
    match arguments.format {
        LintFormat::Pretty => {
            for (shown, text, problems) in &files {
                pretty(shown, text, problems, environment);
            }
        }
        LintFormat::Short => {
            for found in all(&files) {
                print(&found.short());
            }
        }
        LintFormat::Json => {
            let found: Vec<Found<'_>> = all(&files).collect();
            print(&format!(
                "{:#}\n",
                serde_json::to_value(&found).unwrap_or_default()
            ));
        }
    }
    let is_clean = files.iter().all(|(.., problems)| problems.is_empty());
    Ok(if is_clean { Exit::Done } else { Exit::Input })
}

type Linted = (String, String, Vec<Problem>);

fn all(files: &[Linted]) -> impl Iterator<Item = Found<'_>> {
    files.iter().flat_map(|(shown, text, problems)| {
        problems
            .iter()
            .map(move |problem| Found::of(shown, text, problem))
    })
}

/// For people: on standard output, since it is what was asked for.
fn pretty(shown: &str, text: &str, problems: &[Problem], environment: &Environment) {
    let color = !environment.no_color && std::io::stdout().is_terminal();
    let handler = handler(color).with_links(false);
    for problem in problems {
        let report = miette::Report::new(problem.clone())
            .with_source_code(NamedSource::new(shown, text.to_owned()));
        let mut out = String::new();
        match handler.render_report(&mut out, report.as_ref()) {
            Ok(()) => print(&out),
            Err(_) => print(&Found::of(shown, text, problem).short()),
        }
    }
}

/// A Dockerfile and what it is called; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<(String, String), Stop> {
    let shown = path.display().to_string();
    let read = if shown == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = read.map_err(|error| {
        let message = format!("the Dockerfile `{shown}` cannot be read");
        Failure::caused(FailureKind::Input, "cli::dockerfile", message, &error)
            .with_help("name a text file, or `-` for standard input")
    })?;
    Ok((shown, text))
}

/// The file alone, in a context that is the directory it lies in.
fn options(path: &Path) -> Result<Options, Stop> {
    let platform = Platform::of_this_machine();
    Ok(Options {
        scope: Scope::All,
        build_platform: platform.clone(),
        platform,
        ignore: ignore_file(path)?,
        ..Options::default()
    })
}

fn ignore_file(path: &Path) -> Result<IgnoreFile, Stop> {
    if path == Path::new("-") {
        return Ok(IgnoreFile::default());
    }
    let path = request::absolute(path)?;
    let directory = path.parent().map(PathBuf::from).unwrap_or_default();
    let text = super::build::read_ignore_file(Some(&path), &directory)?;
    Ok(text
        .and_then(|text| IgnoreFile::parse(&text.text).ok())
        .unwrap_or_default())
}
