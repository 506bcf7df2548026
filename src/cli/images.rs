//! `images`, `rmi`, `inspect`, `tag`: the images of the local store.

use std::path::PathBuf;

use serde::Serialize;

use super::args::{Format, InspectArguments, ListArguments, RemoveArguments, TagArguments};
use super::exit::Exit;
use super::render::size;
use super::report::Stop;
use super::request::print;
use crate::digest::Digest;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::{base, images};
use crate::image::Name;
use crate::store::{Store, StoreError, StoredImage};

/// An image, as `images --format json` has it.
#[derive(Debug, Serialize)]
struct Listed {
    name: Option<String>,
    digest: Digest,
    platforms: Vec<String>,
    created: Option<String>,
    size_bytes: u64,
}

/// Lists the images. One that has a name is listed under it, any other by its digest alone.
pub(super) fn list(arguments: &ListArguments, store: PathBuf) -> Result<Exit, Stop> {
    let store = open(store)?;
    let all = store.images().map_err(of_store)?;
    let is_digest = |image: &StoredImage| image.name.starts_with("sha256:");
    let mut listed = Vec::new();
    for image in &all {
        let has_other_name = all
            .iter()
            .any(|other| other.digest == image.digest && !is_digest(other));
        if is_digest(image) && has_other_name {
            continue;
        }
        let (manifest, config) = base::read_image(&image.digest, &store).map_err(damaged)?;
        listed.push(Listed {
            name: (!is_digest(image)).then(|| image.name.clone()),
            digest: image.digest,
            platforms: vec![format!("{}/{}", config.os, config.architecture)],
            created: config.created,
            size_bytes: manifest.layers.iter().map(|layer| layer.size).sum(),
        });
    }
    if arguments.quiet {
        listed
            .iter()
            .for_each(|image| print(&format!("{}\n", image.digest)));
    } else if arguments.format == Format::Json {
        print(&format!(
            "{:#}\n",
            serde_json::to_value(&listed).unwrap_or_default()
        ));
    } else {
        print(&table(&listed));
    }
    Ok(Exit::Done)
}

fn table(listed: &[Listed]) -> String {
    let names: Vec<String> = listed
        .iter()
        .map(|image| {
            image.name.as_deref().map_or_else(
                || "<none>".to_owned(),
                |name| Name::familiar(name).to_owned(),
            )
        })
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(5);
    let mut text = format!(
        "{:<width$}  {:<19}  {:<20}  {:>9}\n",
        "IMAGE", "DIGEST", "CREATED", "SIZE"
    );
    for (image, name) in listed.iter().zip(&names) {
        let digest: String = image.digest.to_string().chars().take(19).collect();
        let created: String = image
            .created
            .as_deref()
            .unwrap_or("")
            .chars()
            .take(20)
            .collect();
        text.push_str(&format!(
            "{name:<width$}  {digest}  {created:<20}  {:>9}\n",
            size(image.size_bytes)
        ));
    }
    text
}

/// Takes names away. An image that is named by its digest loses all of its names.
pub(super) fn remove(arguments: &RemoveArguments, store: PathBuf) -> Result<Exit, Stop> {
    let store = open(store)?;
    let mut missing = Vec::new();
    for given in &arguments.images {
        let Some(image) = images::find(&store, given).map_err(of_store)? else {
            missing.push(unknown(given));
            continue;
        };
        let mut gone = vec![image.name.clone()];
        let all = store.images().map_err(of_store)?;
        let others = all
            .iter()
            .filter(|other| other.digest == image.digest && other.name != image.name);
        if image.name.starts_with("sha256:") {
            gone.extend(others.map(|other| other.name.clone()));
        } else if others
            .clone()
            .all(|other| other.name.starts_with("sha256:"))
        {
            // The last name: nothing refers to the image any more.
            gone.extend(others.map(|other| other.name.clone()));
        }
        for name in gone {
            if store.remove_image(&name).map_err(of_store)? && !name.starts_with("sha256:") {
                print(&format!("{}\n", Name::familiar(&name)));
            }
        }
        if image.name.starts_with("sha256:") {
            print(&format!("{}\n", image.digest));
        }
    }
    if missing.is_empty() {
        Ok(Exit::Done)
    } else {
        Err(missing.into())
    }
}

/// Gives an image more names.
pub(super) fn tag(arguments: &TagArguments, store: PathBuf) -> Result<Exit, Stop> {
    let mut names = Vec::new();
    for given in &arguments.names {
        match given.parse::<Name>() {
            Ok(name) if name.digest.is_none() => names.push(name.to_string()),
            Ok(_) => {
                return Err(Stop::usage(
                    format!("`{given}` names a digest, and a name is what was wanted"),
                    "leave out what begins with `@`",
                ));
            }
            Err(error) => return Err(Stop::usage(error.to_string(), "it is NAME[:TAG]")),
        }
    }
    let store = open(store)?;
    let _kept = store.keep_all().map_err(of_store)?;
    let Some(image) = images::find(&store, &arguments.image).map_err(of_store)? else {
        return Err(unknown(&arguments.image).into());
    };
    for name in names {
        let named = StoredImage {
            name,
            ..image.clone()
        };
        store.put_image(&named).map_err(of_store)?;
    }
    Ok(Exit::Done)
}

/// Prints an image's configuration with its digest, layers and history.
pub(super) fn inspect(arguments: &InspectArguments, store: PathBuf) -> Result<Exit, Stop> {
    let store = open(store)?;
    let Some(image) = images::find(&store, &arguments.image).map_err(of_store)? else {
        return Err(unknown(&arguments.image).into());
    };
    let (manifest, config) = base::read_image(&image.digest, &store).map_err(damaged)?;
    let mut shown = serde_json::to_value(&config).unwrap_or_default();
    shown["digest"] = image.digest.to_string().into();
    shown["layers"] = serde_json::to_value(&manifest.layers).unwrap_or_default();
    print(&format!("{shown:#}\n"));
    Ok(Exit::Done)
}

fn open(store: PathBuf) -> Result<Store, Stop> {
    Store::open(store).map_err(of_store)
}

fn of_store(error: StoreError) -> Stop {
    Failure::from_diagnostic(FailureKind::Machine, &error).into()
}

fn damaged(reason: String) -> Stop {
    Failure::new(
        FailureKind::Machine,
        "images::damaged",
        format!("an image of the store is damaged: {reason}"),
    )
    .with_help("build it again, or remove it with `shmocker rmi`")
    .into()
}

pub(super) fn unknown(given: &str) -> Failure {
    Failure::new(
        FailureKind::Input,
        "images::unknown",
        format!("there is no image `{given}` in the store"),
    )
    .with_help("`shmocker images` lists what there is")
}
