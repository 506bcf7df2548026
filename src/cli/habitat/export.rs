//! `habitat export`: what other tools build a habitat from.

use std::path::{Component, Path, PathBuf};

use super::super::args::habitat::{ExportArguments, ExportKind};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request;
use super::Ready;
use super::render::{unwritable, write_all};
use crate::habitat::Purpose;

pub(super) fn run(
    arguments: &ExportArguments,
    store: &Path,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Render, environment)?;
    let out = &arguments.out;
    write_all(&ready, out, store, environment)?;
    let from = request::absolute(out)?;
    let home = ready.config.path().parent().unwrap_or(Path::new("/"));
    let (name, text) = match arguments.kind {
        ExportKind::Dockerfile => return Ok(Exit::Done),
        ExportKind::Devcontainer => {
            let directory = from
                .strip_prefix(home)
                .unwrap_or(Path::new(".devcontainer"));
            if let Some(stage) = ready.plan.devcontainer_stage() {
                let dockerfile = out.join("Dockerfile");
                let text = ready.rendered.dockerfile.clone() + &stage;
                std::fs::write(&dockerfile, text)
                    .map_err(|error| unwritable(&dockerfile, &error))?;
            }
            let file = ready.plan.devcontainer(&directory.display().to_string());
            ("devcontainer.json", format!("{file:#}\n"))
        }
        ExportKind::Compose => {
            let up = way(&from, home);
            (
                "compose.yaml",
                ready.plan.compose(&up.display().to_string()),
            )
        }
    };
    let path = out.join(name);
    std::fs::write(&path, text).map_err(|error| unwritable(&path, &error))?;
    Ok(Exit::Done)
}

/// How one directory is reached from another; both are absolute.
fn way(from: &Path, to: &Path) -> PathBuf {
    let shared = from
        .components()
        .zip(to.components())
        .take_while(|(one, other)| one == other)
        .count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let down = to.components().skip(shared);
    let way: PathBuf = std::iter::once(Component::CurDir)
        .chain(up)
        .chain(down)
        .collect();
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_reached_over_what_they_share() {
        let way = |from: &str, to: &str| way(Path::new(from), Path::new(to)).display().to_string();
        assert_eq!(way("/a/b/out", "/a/b"), "./..");
        assert_eq!(way("/a/b", "/a/b"), ".");
        assert_eq!(way("/a/out", "/a/b/c"), "./../b/c");
    }
}
