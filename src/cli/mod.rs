//! The command line: arguments, environment, terminal. One file per command; each is a thin layer over a library call.
//!
//! Only this module reads the environment and writes to streams. Data goes to standard output, everything else to
//! standard error.

mod archives;
mod args;
mod build;
mod cache;
mod call;
mod doctor;
mod environment;
mod exit;
mod fmt;
mod found;
mod habitat;
mod history;
mod images;
mod imagetools;
mod lint;
mod rebuild;
mod registry;
mod render;
mod report;
mod request;
mod run;
mod settings;
mod steps;
mod store;
mod terminal;
mod why;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser as _, ValueEnum as _};

use crate::engine::failure::{Failure, FailureKind};
use crate::store::{Owners, Store};
use args::{Arguments, Command, IdsChoice, ImageCommand};
use environment::Environment;
use exit::Exit;
use report::Stop;

/// Runs a command line to its end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, everything else is wrong usage.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            drop(error.print());
            return exit.into();
        }
    };
    let environment = Environment::read();
    match dispatch(arguments, &environment) {
        Ok(exit) => exit.into(),
        Err(stop) => {
            stop.tell(&environment);
            stop.exit.into()
        }
    }
}

fn dispatch(arguments: Arguments, environment: &Environment) -> Result<Exit, Stop> {
    let chosen = arguments.ids;
    let store = || {
        let path = store_path(arguments.store.clone(), environment)?;
        settle_ids(&path, chosen, environment)?;
        Ok::<_, Stop>(path)
    };
    match arguments.command {
        Command::Build(build) => build::run(*build, store()?, environment),
        Command::Habitat(command) => habitat::run(command, store()?, environment),
        Command::Rebuild(rebuild) => rebuild::run(*rebuild, &store()?, environment),
        Command::Why(why) => why::run(*why, &store()?, environment),
        Command::Lint(lint) => lint::run(&lint, environment),
        Command::Fmt(format) => fmt::run(&format),
        Command::Images(list) | Command::Image(ImageCommand::Ls(list)) => {
            images::list(&list, store()?)
        }
        Command::Rmi(remove) | Command::Image(ImageCommand::Rm(remove)) => {
            images::remove(&remove, store()?)
        }
        Command::Inspect(inspect) | Command::Image(ImageCommand::Inspect(inspect)) => {
            images::inspect(&inspect, store()?)
        }
        Command::Tag(tag) | Command::Image(ImageCommand::Tag(tag)) => images::tag(&tag, store()?),
        Command::Save(save) | Command::Image(ImageCommand::Save(save)) => {
            archives::save(save, store()?, environment)
        }
        Command::Load(load) | Command::Image(ImageCommand::Load(load)) => {
            archives::load(&load, store()?)
        }
        Command::Pull(pull) => registry::pull(pull, store()?, environment),
        Command::Push(push) => registry::push(push, store()?, environment),
        Command::Copy(copy) => registry::copy(copy, store()?, environment),
        Command::Imagetools(command) => imagetools::run(command, store()?, environment),
        Command::Login(login) => registry::login(login, environment),
        Command::Logout(logout) => registry::logout(&logout, environment),
        Command::Run(run) => run::run(run, store()?, environment),
        Command::Unshare(unshare) => run::unshare(unshare, environment),
        Command::Cache(command) => cache::run(&command, &store()?),
        Command::History(command) => history::run(&command, &store()?),
        Command::Store(command) => store::run(&command, &store()?),
        Command::Doctor(doctor) => doctor::run(&doctor, &store()?, environment),
    }
}

/// Where something is said of the ids that builds work with, the store has to agree.
fn settle_ids(
    store: &Path,
    chosen: Option<IdsChoice>,
    environment: &Environment,
) -> Result<(), Stop> {
    let chosen = match (chosen, &environment.ids) {
        (Some(chosen), _) => chosen,
        (None, None) => return Ok(()),
        (None, Some(word)) => IdsChoice::from_str(word, false).map_err(|_| {
            Stop::usage(
                format!("SHMOCKER_IDS is `{word}`"),
                "it is auto, ranges or single",
            )
        })?,
    };
    let owners = match chosen {
        IdsChoice::Auto => return Ok(()),
        IdsChoice::Ranges => Owners::Mapped,
        IdsChoice::Single => Owners::Recorded,
    };
    let settled = Store::open(store).and_then(|store| store.settle_owners(owners));
    settled.map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error).into())
}

fn store_path(option: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, Stop> {
    match environment.store_path(option) {
        Some(path) => request::absolute(&path),
        None => Err(Stop::usage(
            "nothing says where the store is",
            "give `--store DIR`, or set HOME",
        )),
    }
}
