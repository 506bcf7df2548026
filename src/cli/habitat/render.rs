//! `habitat render`: the Dockerfile of a habitat, and with `--out` everything that it takes from outside, so that any
//! other builder can build it.

use std::path::{Path, PathBuf};

use super::super::args::habitat::RenderArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::{self, Draft, print};
use super::Ready;
use crate::dockerfile::Severity;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{Place, Text};
use crate::graph::Source;
use crate::habitat::Purpose;
use crate::ship::export::Output;

pub(super) fn run(
    arguments: &RenderArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Render, environment)?;
    for warning in ready
        .plan
        .warnings
        .iter()
        .filter(|warning| warning.severity == Severity::Warning)
    {
        let failures = vec![ready.config.failure(warning)];
        let stop = ready.config.with_texts(Stop::from(failures));
        stop.tell(environment);
    }
    match &arguments.out {
        Some(out) => write_all(&ready, out, &store, environment)?,
        None => print(&ready.rendered.dockerfile),
    }
    Ok(Exit::Done)
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("`{}` cannot be written", path.display());
    Failure::caused(FailureKind::Machine, "cli::write", message, error).into()
}

/// Writes the Dockerfile and all its contexts to a directory.
pub(super) fn write_all(
    ready: &Ready,
    out: &Path,
    store: &Path,
    environment: &Environment,
) -> Result<(), Stop> {
    std::fs::create_dir_all(out).map_err(|error| unwritable(out, &error))?;
    let dockerfile = out.join("Dockerfile");
    std::fs::write(&dockerfile, &ready.rendered.dockerfile)
        .map_err(|error| unwritable(&dockerfile, &error))?;
    let mut pinned = Draft::plain(environment)?.work;
    ready.read_lock(&mut pinned)?;
    for context in &ready.rendered.contexts {
        let place = ready.place(context, environment)?;
        let mut draft = Draft::plain(environment)?;
        draft.work.secrets = ready.secrets_of(context)?;
        draft.work.lock.clone_from(&pinned.lock);
        let place = without(place, &request::absolute(out)?);
        write_context(&context.name, place, draft, out, store, environment)?;
    }
    Ok(())
}

/// A directory without the one that is written to, which may lie in it.
fn without(place: Place, out: &Path) -> Place {
    match place {
        Place::Directory { path, ignore: None } => {
            let inside = out.strip_prefix(&path).ok();
            let ignore = inside.map(|inside| Text {
                file: "--out".to_owned(),
                text: format!("/{}\n", inside.display()),
            });
            Place::Directory { path, ignore }
        }
        other => other,
    }
}

/// Writes one context: an image as an OCI layout, anything else as a folder. Both are builds of their own.
fn write_context(
    name: &str,
    place: Place,
    mut draft: Draft,
    out: &Path,
    store: &Path,
    environment: &Environment,
) -> Result<(), Stop> {
    let dest = out.join(name);
    let dest_text = dest.display().to_string();
    if dest.exists() {
        std::fs::remove_dir_all(&dest).map_err(|error| {
            let message = format!("`{dest_text}` cannot be replaced");
            Stop::from(Failure::caused(
                FailureKind::Machine,
                "cli::write",
                message,
                &error,
            ))
        })?;
    }
    let is_image = matches!(
        &place,
        Place::Dockerfile(_)
            | Place::Source(Source::Debian(_) | Source::OciLayout(_) | Source::Image(_))
    );
    let (text, spec) = if is_image {
        (
            format!("FROM {name}\n"),
            format!("type=oci,tar=false,name=latest,\"dest={dest_text}\""),
        )
    } else {
        (
            format!("FROM scratch\nCOPY --from={name} . /\n"),
            format!("type=local,\"dest={dest_text}\""),
        )
    };
    draft.work.project = dest_text;
    draft.work.dockerfile = Text {
        file: "Dockerfile".to_owned(),
        text,
    };
    draft.work.contexts.push((name.to_owned(), place));
    let output = Output::parse(&spec)
        .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Bug, &error)))?;
    draft.outputs.push(output);
    draft.build(store.to_owned(), environment).map(drop)
}
