//! `save` and `load`: images of the local store as archives, and back; and `build --load`, which gives them to the container
//! engines of this machine.

use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::args::{LoadArguments, SaveArguments, SaveFormat};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request::{Draft, absolute, print, say};
use crate::backend::Outcome;
use crate::backend::embedded::{Embedded, SaveRequest};
use crate::digest::Digest;
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::load::{self, From, LoadError};
use crate::engine::{images, work::Work};
use crate::image::{Name, Platform};
use crate::ship::engines::{self, EngineError};
use crate::ship::export::{Destination, ImageOutput, Output, Packing};
use crate::store::Store;

pub(super) fn save(
    arguments: SaveArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let opened = Store::open(&store).map_err(|error| of_diagnostic(&error))?;
    let mut chosen: Vec<(Digest, Vec<Name>)> = Vec::new();
    let mut missing = Vec::new();
    for given in &arguments.images {
        let Some(image) = images::find(&opened, given).map_err(|error| of_diagnostic(&error))?
        else {
            missing.push(super::images::unknown(given));
            continue;
        };
        // One that is named by its digest gets no name.
        let name = image.name.parse::<Name>().ok();
        let name = name.filter(|_| !image.name.starts_with("sha256:"));
        match chosen
            .iter_mut()
            .find(|(digest, _)| *digest == image.digest)
        {
            Some((_, names)) => names.extend(name),
            None => chosen.push((image.digest, name.into_iter().collect())),
        }
    }
    if !missing.is_empty() {
        return Err(missing.into());
    }
    let dest = match &arguments.output {
        Some(path) if path != Path::new("-") => Destination::Path(absolute(path)?),
        _ if arguments.format == SaveFormat::OciDir => {
            return Err(Stop::usage(
                "a directory does not go to standard output",
                "name it with `-o DIRECTORY`",
            ));
        }
        _ if std::io::stdout().is_terminal() => {
            return Err(Stop::usage(
                "an archive is nothing for a terminal",
                "name a file with `-o FILE`, or send standard output somewhere",
            ));
        }
        _ => Destination::Stdout,
    };
    let image = ImageOutput {
        dest,
        packing: match arguments.format {
            SaveFormat::OciDir => Packing::Directory,
            SaveFormat::OciArchive | SaveFormat::DockerArchive => Packing::Tar,
        },
        ..ImageOutput::default()
    };
    let request = SaveRequest {
        store,
        images: chosen,
        output: match arguments.format {
            SaveFormat::DockerArchive => Output::Docker(image),
            SaveFormat::OciArchive | SaveFormat::OciDir => Output::Oci(image),
        },
        joined: None,
    };
    let draft = Draft::plain(environment)?;
    let events = draft.quiet_events();
    Embedded.save(
        request,
        &draft.work,
        std::io::stdout().as_fd(),
        events.as_ref(),
    )?;
    Ok(Exit::Done)
}

pub(super) fn load(arguments: &LoadArguments, store: PathBuf) -> Result<Exit, Stop> {
    let path = arguments
        .input
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    let (from, name) = match path {
        None if std::io::stdin().is_terminal() => {
            return Err(Stop::usage(
                "nothing says what is to be loaded",
                "name a file with `-i FILE`, or send one to standard input",
            ));
        }
        None => {
            let stdin = std::io::stdin().as_fd().try_clone_to_owned();
            let stdin = stdin.map_err(|source| unreadable("standard input", source))?;
            (
                From::Archive(File::from(stdin)),
                "standard input".to_owned(),
            )
        }
        Some(path) if path.is_dir() => {
            (From::Directory(path.to_owned()), path.display().to_string())
        }
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|source| unreadable(&name, source))?;
            (From::Archive(file), name)
        }
    };
    let store = Store::open(store).map_err(|error| of_diagnostic(&error))?;
    let platform = Platform::of_this_machine();
    let now_ms = Clock::system().now().as_millis() as u64;
    let loaded =
        load::load(&store, from, &name, &platform, now_ms).map_err(|error| of_load(&error))?;
    if arguments.quiet {
        return Ok(Exit::Done);
    }
    for image in loaded {
        // As docker and podman say it.
        for name in image
            .names
            .iter()
            .filter_map(|name| name.parse::<Name>().ok())
        {
            print(&format!("Loaded image: {}\n", name.short()));
        }
        if image.names.is_empty() {
            print(&format!("Loaded image ID: {}\n", image.digest));
        }
    }
    Ok(Exit::Done)
}

/// Gives what was built to the container engines of this machine, and says to which.
pub(super) fn hand_over(
    outcome: &Outcome,
    work: &Work,
    store: &Path,
    environment: &Environment,
) -> Result<(), Stop> {
    let of_engine = |error: EngineError| -> Vec<Failure> {
        vec![Failure::from_diagnostic(FailureKind::Machine, &error)]
    };
    let sockets = environment.docker_sockets().ok_or_else(|| {
        Stop::usage(
            "DOCKER_HOST is no socket of this machine",
            "`--load` talks to `unix://PATH`; `-o type=docker,dest=image.tar` writes a file for others",
        )
    })?;
    let names: Vec<Name> = outcome
        .names
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    for engine in engines::found(&sockets).map_err(of_engine)? {
        let request = SaveRequest {
            store: store.to_owned(),
            images: vec![(outcome.stored, names.clone())],
            output: Output::Docker(ImageOutput::default()),
            joined: None,
        };
        let mut inner = Vec::new();
        engine
            .take(|out| {
                Embedded
                    .save(request, work, out, &super::render::Silent)
                    .map(drop)
                    .map_err(|failures| {
                        inner = failures;
                        EngineError::None
                    })
            })
            .map_err(|error| match inner.is_empty() {
                true => of_engine(error),
                false => std::mem::take(&mut inner),
            })?;
        let shown = match outcome.names.as_slice() {
            [] => outcome.stored.to_string(),
            names => names
                .iter()
                .map(|name| Name::familiar(name))
                .collect::<Vec<_>>()
                .join(", "),
        };
        say(&format!("loaded into {engine}: {shown}\n"));
    }
    Ok(())
}

fn unreadable(name: &str, source: std::io::Error) -> Stop {
    of_load(&LoadError::Unreadable {
        name: name.to_owned(),
        source,
    })
}

fn of_load(error: &LoadError) -> Stop {
    let kind = match error {
        LoadError::Store(_) => FailureKind::Machine,
        _ => FailureKind::Input,
    };
    Failure::from_diagnostic(kind, error).into()
}

fn of_diagnostic(error: &dyn miette::Diagnostic) -> Stop {
    Failure::from_diagnostic(FailureKind::Machine, error).into()
}
