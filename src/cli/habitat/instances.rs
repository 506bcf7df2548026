//! `habitat ps`, `stop`, `down`: habitats that run or have run. Each belongs to the configuration that it was started from;
//! no other is ever touched.

use std::path::Path;

use serde::Serialize;

use super::super::args::Format;
use super::super::args::habitat::{PsArguments, StopArguments};
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::{absolute, print};
use super::config::in_directory;
use crate::backend::embedded::{Embedded, State};
use crate::digest::Digest;
use crate::engine::failure::{Failure, FailureKind};
use crate::image::Timestamp;
use crate::store::{InstanceRecord, LastState};

/// A habitat that runs or has run.
pub(super) struct Known {
    pub(super) record: InstanceRecord,
    pub(super) state: State,
}

impl Known {
    /// The one that was started from a configuration.
    pub(super) fn of_config(store: &Path, config: &Path) -> Result<Option<Self>, Stop> {
        Ok(all(store)?
            .into_iter()
            .find(|known| known.record.config == config))
    }

    /// The one that is meant: by its configuration, or by what `ps` calls it.
    pub(super) fn find(store: &Path, given: &Path) -> Result<Option<Self>, Stop> {
        if given.exists() {
            return Self::of_config(store, &absolute(&in_directory(given))?);
        }
        let given = given.display().to_string();
        let is_meant = |known: &Known| known.record.id == given || known.record.name == given;
        let mut found: Vec<Self> = all(store)?.into_iter().filter(is_meant).collect();
        match found.len() {
            0 => Err(Failure::new(
                FailureKind::Input,
                "habitat::unknown",
                format!("`{given}` is neither a file nor a habitat that runs or has run"),
            )
            .with_help("`shmocker habitat ps` lists those; name one, or its config.yaml")
            .into()),
            1 => Ok(found.pop()),
            _ => {
                let ids: Vec<&str> = found.iter().map(|known| known.record.id.as_str()).collect();
                let message = format!("several habitats are called `{given}`");
                Err(
                    Failure::new(FailureKind::Input, "habitat::ambiguous", message)
                        .with_help(format!("name one of {}", ids.join(", ")))
                        .into(),
                )
            }
        }
    }
}

fn all(store: &Path) -> Result<Vec<Known>, Stop> {
    let found = Embedded.instances(store).map_err(Stop::from)?;
    Ok(found
        .into_iter()
        .map(|(record, state)| Known { record, state })
        .collect())
}

/// A habitat as it is printed for programs.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    id: &'a str,
    name: &'a str,
    state: &'static str,
    exit_status: Option<i32>,
    config: String,
    image: &'a str,
    digest: Digest,
    ports: &'a [String],
    volumes: &'a [String],
    services: &'a [String],
    started: String,
}

impl<'a> Listed<'a> {
    fn of(record: &'a InstanceRecord, state: State) -> Self {
        Self {
            id: &record.id,
            name: &record.name,
            state: state.name(),
            exit_status: match (state, record.last) {
                (State::Stopped, LastState::Ended { status }) => status,
                _ => None,
            },
            config: record.config.display().to_string(),
            image: &record.image,
            digest: record.digest,
            ports: &record.ports,
            volumes: &record.volumes,
            services: &record.services,
            started: Timestamp::from_seconds((record.started_ms / 1000) as i64).to_string(),
        }
    }
}

/// Prints what has become of a habitat: its id, or all of it for a program.
pub(super) fn show(record: &InstanceRecord, state: State, format: Format) {
    match format {
        Format::Text => print(&format!("{}\n", record.id)),
        Format::Json => {
            let listed = serde_json::to_value(Listed::of(record, state)).unwrap_or_default();
            print(&format!("{listed:#}\n"));
        }
    }
}

/// `ps`
pub(super) fn list(arguments: &PsArguments, store: &Path) -> Result<Exit, Stop> {
    let known = all(store)?;
    if arguments.quiet {
        known
            .iter()
            .for_each(|known| print(&format!("{}\n", known.record.id)));
    } else if arguments.format == Format::Json {
        let listed: Vec<_> = known
            .iter()
            .map(|known| Listed::of(&known.record, known.state))
            .collect();
        print(&format!(
            "{:#}\n",
            serde_json::to_value(&listed).unwrap_or_default()
        ));
    } else {
        print(&table(&known));
    }
    Ok(Exit::Done)
}

fn table(all: &[Known]) -> String {
    let width = all
        .iter()
        .map(|known| known.record.id.len())
        .max()
        .unwrap_or(0)
        .max(7);
    let mut text = format!(
        "{:<width$}  {:<8}  {:<24}  {}\n",
        "HABITAT", "STATE", "PORTS", "CONFIG"
    );
    for Known { record, state } in all {
        text.push_str(&format!(
            "{:<width$}  {:<8}  {:<24}  {}\n",
            record.id,
            state.name(),
            record.ports.join(" "),
            record.config.display()
        ));
    }
    text
}

/// `stop`: one that is not up is as it should be.
pub(super) fn stop(arguments: &StopArguments, store: &Path) -> Result<Exit, Stop> {
    let Some(known) = Known::find(store, &arguments.habitat)? else {
        return Ok(Exit::Done);
    };
    let id = &known.record.id;
    Embedded
        .stop(store, id, Some(arguments.time))
        .map_err(Stop::from)?;
    let now = all(store)?.into_iter().find(|other| other.record.id == *id);
    let state = now.map_or(State::Stopped, |now| now.state);
    show(&known.record, state, arguments.format);
    Ok(Exit::Done)
}

/// `down`: one that is not there is as it should be.
pub(super) fn down(arguments: &StopArguments, store: &Path) -> Result<Exit, Stop> {
    let Some(known) = Known::find(store, &arguments.habitat)? else {
        return Ok(Exit::Done);
    };
    Embedded
        .down(store, &known.record.id, Some(arguments.time))
        .map_err(Stop::from)?;
    show(&known.record, State::Stopped, arguments.format);
    Ok(Exit::Done)
}
