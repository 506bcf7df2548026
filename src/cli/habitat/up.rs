//! `habitat up`: the habitat's image, built if need be, started in the background.

use std::path::{Path, PathBuf};

use super::super::args::habitat::UpArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::absolute;
use super::super::run;
use super::instances::{Known, show};
use super::{Config, Ready};
use crate::backend::embedded::{Embedded, State};
use crate::digest::Key;
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::{Launch, Volume};
use crate::engine::{base, images};
use crate::habitat::{self, Purpose};
use crate::store::{InstanceRecord, LastState, Store, StoreError, StoredImage};

/// What a habitat runs that has no command, or one that wants a terminal: nothing, until it is stopped.
const IDLE: &str = "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done";

pub(super) fn run(
    arguments: UpArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
    let said = ready.plan.runtime.network;
    let said = said.and_then(|word| word.parse().ok());
    let network = arguments.outward.network.or(said).unwrap_or_default();
    let ports = run::ports(&arguments.outward.publish, network)?;
    let volumes = ready
        .plan
        .runtime
        .volumes
        .iter()
        .map(|volume| place(volume, &ready.config, environment))
        .collect::<Result<Vec<_>, _>>()?;
    let tag = ready.tag();
    if !arguments.no_build {
        let mut draft = ready.draft(arguments.means, environment)?;
        draft.tags.push(tag.clone());
        let built = draft.carry_out(store.clone(), environment, &|_| {});
        built.map_err(|stop| ready.with_texts(stop))?;
    }
    let image = image(&store, &tag)?;
    let known = Known::of_config(&store, ready.config.path())?;
    if let Some(known) = &known {
        if arguments.recreate {
            Embedded
                .down(&store, &known.record.id, None)
                .map_err(Stop::from)?;
        } else if matches!(known.state, State::Running | State::Starting) {
            if known.record.digest != image.digest {
                let message = format!(
                    "the habitat `{}` is up, from an older image",
                    known.record.name
                );
                return Err(Failure::new(FailureKind::Input, "habitat::older_image", message)
                    .with_help("`--recreate` starts it anew from the new one, and drops what it has written since")
                    .into());
            }
            show(&known.record, known.state, arguments.format);
            return Ok(Exit::Done);
        }
    }
    let config = image.config;
    let runtime = &ready.plan.runtime;
    let path = ready.config.path().display().to_string();
    let digest = Key::of(path.as_bytes()).to_string();
    let mut record = InstanceRecord {
        id: format!("{}-{}", ready.plan.name(), &digest[..8]),
        name: ready.plan.name().to_owned(),
        config: ready.config.path().to_owned(),
        image: tag.clone(),
        digest: image.digest,
        env: config
            .env
            .iter()
            .filter_map(|entry| entry.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        workdir: config.working_dir,
        user: config.user,
        command: runtime
            .command
            .clone()
            .filter(|_| runtime.tty)
            .unwrap_or_default(),
        ports: Vec::new(),
        volumes: volumes.iter().map(shown).collect(),
        services: runtime.services.clone(),
        started_ms: Clock::system().now().as_millis() as u64,
        last: LastState::Starting,
    };
    let ports = ports
        .into_iter()
        .map(|port| port.fixed())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))?;
    record.ports = ports.iter().map(ToString::to_string).collect();
    let idle = ["/bin/sh", "-c", IDLE].map(str::to_owned);
    let launch = Launch {
        store: store.clone(),
        image: image.digest.to_string(),
        entrypoint: None,
        command: match runtime.command.is_some() && !runtime.tty {
            true => Vec::new(),
            false => idle.into(),
        },
        env: Vec::new(),
        workdir: None,
        user: None,
        volumes,
        network: Some(network),
        ports,
        terminal: None,
        instance: Some(record.id.clone()),
        limited: !arguments.outward.no_limits,
        programs: environment.programs.clone(),
        groups: None,
    };
    Embedded.up(launch, record.clone()).map_err(Stop::from)?;
    show(&record, State::Running, arguments.format);
    Ok(Exit::Done)
}

/// An image, and how it is used.
struct Found {
    digest: crate::digest::Digest,
    config: crate::image::RunConfig,
}

fn image(store: &Path, tag: &str) -> Result<Found, Stop> {
    let of_store = |error: StoreError| Failure::from_diagnostic(FailureKind::Machine, &error);
    let store = Store::open(store).map_err(of_store)?;
    let Some(StoredImage { digest, .. }) = images::find(&store, tag).map_err(of_store)? else {
        let message = format!("there is no image `{tag}` in the store");
        return Err(
            Failure::new(FailureKind::Input, "habitat::no_image", message)
                .with_help("leave out `--no-build`")
                .into(),
        );
    };
    let (_, config) = base::read_image(&digest, &store)
        .map_err(|reason| Failure::new(FailureKind::Machine, "habitat::damaged_image", reason))?;
    Ok(Found {
        digest,
        config: config.config,
    })
}

/// A volume's source on this machine.
fn place(
    volume: &habitat::Volume,
    config: &Config,
    environment: &Environment,
) -> Result<Volume, Stop> {
    let written = &volume.source.value;
    let at = |code: &str, message: String, help: &str| {
        let failure = Failure::new(FailureKind::Input, code, message).with_help(help);
        config.with_texts(Stop::from(failure.at(config.spot(volume.source.span))))
    };
    let layer = config.layers.index_of(volume.source.span);
    let source = match (written.strip_prefix("~/"), &environment.home) {
        (Some(rest), Some(home)) => home.join(rest),
        (Some(_), None) => {
            let message = format!("`{written}` is in a home, and nothing says where that is");
            return Err(at("habitat::no_home", message, "set HOME"));
        }
        (None, _) => absolute(&config.directories[layer].join(written))?,
    };
    if !source.exists() {
        let message = format!("the volume's source `{}` does not exist", source.display());
        return Err(at(
            "habitat::missing_volume",
            message,
            "make it, or mend the path",
        ));
    }
    Ok(Volume {
        source,
        target: volume.target.value.clone(),
        read_only: volume.read_only,
    })
}

fn shown(volume: &Volume) -> String {
    let how = if volume.read_only { ":ro" } else { "" };
    format!("{}:{}{how}", volume.source.display(), volume.target)
}
