//! `store`: the store as a whole.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use super::args::{CheckStoreArguments, Format, StoreCommand};
use super::exit::Exit;
use super::render::size;
use super::report::Stop;
use super::request::print;
use crate::backend::embedded::{Embedded, Look};
use crate::engine::carry::Carried;
use crate::engine::failure::{Failure, FailureKind};
use crate::store::{Checked, Repair};

/// Carries out a command of `store`.
pub(super) fn run(command: &StoreCommand, store: &Path) -> Result<Exit, Stop> {
    match command {
        StoreCommand::Check(arguments) => check(arguments, store),
        StoreCommand::Export(arguments) => export(&arguments.file, store),
        StoreCommand::Import(arguments) => import(&arguments.file, store),
        StoreCommand::Delete => {
            if store.exists() {
                Embedded.delete_store(store).map_err(Stop::from)?;
            }
            Ok(Exit::Done)
        }
    }
}

fn export(to: &Path, store: &Path) -> Result<Exit, Stop> {
    let carried = if to == Path::new("-") {
        let stdout = std::io::stdout();
        if stdout.is_terminal() {
            return Err(Stop::usage(
                "the archive of a store is not for a terminal",
                "name a file, or send it on: `shmocker store export - | zstd > FILE`",
            ));
        }
        Embedded.export_store(store, stdout.as_fd())?
    } else {
        // Whoever finds the file under its name finds all of it.
        let mut unfinished = to.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let write = || -> Result<Carried, Stop> {
            let file = File::create(&unfinished).map_err(|error| unusable(to, &error))?;
            let carried = Embedded.export_store(store, file.as_fd())?;
            file.sync_all()
                .and_then(|()| std::fs::rename(&unfinished, to))
                .map_err(|error| unusable(to, &error))?;
            Ok(carried)
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&unfinished)))?
    };
    say(&carried, "carried");
    Ok(Exit::Done)
}

fn import(from: &Path, store: &Path) -> Result<Exit, Stop> {
    let carried = if from == Path::new("-") {
        Embedded.import_store(store, std::io::stdin().as_fd())?
    } else {
        let file = File::open(from).map_err(|error| unusable(from, &error))?;
        Embedded.import_store(store, file.as_fd())?
    };
    say(&carried, "taken");
    Ok(Exit::Done)
}

/// On standard error: the archive may be on standard output.
fn say(carried: &Carried, done: &str) {
    let known = match carried.known {
        0 => String::new(),
        known => format!(", {known} of them known already"),
    };
    let text = format!(
        "{done}: {} snapshots, {} blobs and downloads, {} cache mounts, {} names of images{known}\n",
        carried.snapshots, carried.files, carried.caches, carried.images
    );
    drop(std::io::stderr().write_all(text.as_bytes()));
}

fn unusable(file: &Path, error: &std::io::Error) -> Stop {
    let message = format!("the archive {} cannot be used", file.display());
    Failure::caused(FailureKind::Input, "store::archive", message, error).into()
}

fn check(arguments: &CheckStoreArguments, store: &Path) -> Result<Exit, Stop> {
    let look = Look {
        repair: if arguments.repair {
            Repair::Yes
        } else {
            Repair::No
        },
        deep: arguments.deep,
    };
    let checked = Embedded.check_store(store, look).map_err(Stop::from)?;
    match arguments.format {
        Format::Json => {
            let mut shown = serde_json::to_value(&checked).unwrap_or_default();
            shown["sound"] = checked.is_sound().into();
            print(&format!("{shown:#}\n"));
        }
        Format::Text => print(&told(&checked)),
    }
    match checked.is_sound() {
        true => Ok(Exit::Done),
        false => Ok(Exit::Machine),
    }
}

fn told(checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        let id: String = finding.id.chars().take(64).collect();
        text.push_str(&format!("{} {id}: {}", finding.what, finding.problem));
        if let Some(repaired) = &finding.repaired {
            text.push_str(&format!(" ({repaired})"));
        }
        text.push('\n');
    }
    let trees = match checked.trees {
        0 => String::new(),
        trees => format!(" ({trees} of them file by file)"),
    };
    text.push_str(&format!(
        "looked at {} blobs and downloads ({}), {} snapshots{trees}, {} names of images: ",
        checked.files,
        size(checked.bytes),
        checked.snapshots,
        checked.images,
    ));
    let open = checked
        .findings
        .iter()
        .filter(|finding| finding.repaired.is_none())
        .count();
    text.push_str(&match (checked.findings.len(), open) {
        (0, _) => "all is well\n".to_owned(),
        (all, 0) => format!("{all} damaged, all repaired\n"),
        (all, _) => format!("{all} damaged; `shmocker store check --repair` takes away what is\n"),
    });
    text
}
