//! The Dockerfile that is a habitat's base: its text, and the directory that it is built from.

use std::path::Path;

use super::super::build::read_ignore_file;
use super::super::report::Stop;
use super::config::from_here;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{Text, Under};

/// Reads a Dockerfile and the ignore file of its directory. A habitat's lock that lies in there is no part of the build
/// context: to pin what there is must not change it.
pub(super) fn read(file: &Path, lock: &Path) -> Result<Under, Stop> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    // What the habitat is rendered to is called `Dockerfile` as well.
    let shown = match from_here(file) {
        shown if shown == "Dockerfile" => format!("./{shown}"),
        shown => shown,
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        let message = format!("the Dockerfile `{shown}` cannot be read");
        Failure::caused(FailureKind::Input, "cli::dockerfile", message, &error)
            .with_help("see that it is a text that you may read")
    })?;
    let mut ignore = read_ignore_file(Some(file), directory)?;
    if let Ok(lock) = lock.strip_prefix(directory) {
        let rules = ignore.get_or_insert_with(|| Text {
            file: ".dockerignore".to_owned(),
            text: String::new(),
        });
        rules.text.push_str(&format!("\n/{}\n", lock.display()));
    }
    Ok(Under {
        dockerfile: Text { file: shown, text },
        directory: directory.to_owned(),
        ignore,
        target: None,
        build_args: Vec::new(),
    })
}
