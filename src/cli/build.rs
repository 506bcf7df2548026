//! `shmocker build`: a Dockerfile and a context become a request.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::args::BuildArguments;
use super::environment::{Environment, variable};
use super::exit::Exit;
use super::report::Stop;
use super::request::{self, Common};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{NoCache, Place, Text};

/// Builds, and prints the digest of what was built.
pub(super) fn run(
    arguments: BuildArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let context = request::absolute(&arguments.context)?;
    if !context.is_dir() {
        let message = format!(
            "the build context `{}` is not a directory",
            arguments.context.display()
        );
        return Err(Failure::new(FailureKind::Input, "cli::context", message)
            .with_help("name a directory of this machine; `.` is the one you are in")
            .into());
    }
    let dockerfile = read_dockerfile(&arguments, &context)?;
    let ignore = read_ignore_file(dockerfile.path.as_deref(), &context)?;
    let mut common = Common::new(arguments.common, environment)?;
    common.work.project = dockerfile
        .path
        .as_deref()
        .unwrap_or(&context)
        .display()
        .to_string();
    common.work.dockerfile = dockerfile.text.clone();
    common.work.context = Some(Place::Directory {
        path: context,
        ignore,
    });
    for spec in &arguments.build_contexts {
        common.work.contexts.push(request::named_context(spec)?);
    }
    common.work.target = arguments.target;
    arguments.steps.apply(&mut common.work)?;
    for spec in arguments.build_args {
        match spec.split_once('=') {
            Some((name, value)) => common
                .work
                .build_args
                .push((name.to_owned(), value.to_owned())),
            // As docker has it: a name alone takes the value that the environment has, if it has one.
            None => common
                .work
                .build_args
                .extend(variable(&spec).map(|value| (spec, value))),
        }
    }
    if arguments.no_cache {
        common.work.no_cache = NoCache::Everything;
    } else if !arguments.no_cache_filter.is_empty() {
        common.work.no_cache = NoCache::Stages(arguments.no_cache_filter);
    }
    let text = dockerfile.text;
    common
        .build(store, environment)
        .map_err(|stop| stop.with_text(&text.file, &text.text))
}

struct Dockerfile {
    path: Option<PathBuf>,
    text: Text,
}

fn read_dockerfile(arguments: &BuildArguments, context: &Path) -> Result<Dockerfile, Stop> {
    if arguments.file.as_deref() == Some(Path::new("-")) {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| {
                Failure::caused(
                    FailureKind::Input,
                    "cli::dockerfile",
                    "the Dockerfile cannot be read from standard input",
                    &error,
                )
            })?;
        return Ok(Dockerfile {
            path: None,
            text: Text {
                file: "Dockerfile".to_owned(),
                text,
            },
        });
    }
    let candidates = match &arguments.file {
        Some(file) => vec![file.clone()],
        None => ["Dockerfile", "dockerfile", "Containerfile"]
            .iter()
            .map(|name| context.join(name))
            .collect(),
    };
    let found = candidates
        .iter()
        .find(|path| path.exists())
        .unwrap_or(&candidates[0]);
    let shown = match &arguments.file {
        Some(file) => file.clone(),
        None => found
            .file_name()
            .map_or_else(|| found.clone(), PathBuf::from),
    };
    let text = std::fs::read_to_string(found).map_err(|error| {
        let message = format!("the Dockerfile `{}` cannot be read", shown.display());
        Failure::caused(FailureKind::Input, "cli::dockerfile", message, &error)
            .with_help("`-f PATH` names another one; without it, CONTEXT/Dockerfile is read")
    })?;
    let path = request::absolute(found)?;
    Ok(Dockerfile {
        path: Some(path),
        text: Text {
            file: shown.display().to_string(),
            text,
        },
    })
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` at the context's root.
fn read_ignore_file(dockerfile: Option<&Path>, context: &Path) -> Result<Option<Text>, Stop> {
    let beside = dockerfile.and_then(|path| {
        let name = format!("{}.dockerignore", path.file_name()?.to_str()?);
        Some(path.with_file_name(name))
    });
    for path in beside.into_iter().chain([context.join(".dockerignore")]) {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let name = path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                return Ok(Some(Text { file: name, text }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("the ignore file `{}` cannot be read", path.display());
                return Err(Failure::caused(
                    FailureKind::Input,
                    "cli::ignore_file",
                    message,
                    &error,
                )
                .into());
            }
        }
    }
    Ok(None)
}
