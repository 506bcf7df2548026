//! `doctor`: what this machine offers, what each lack costs, and what mends it.

use std::os::fd::AsFd as _;
use std::path::Path;

use super::args::{DoctorArguments, Format};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request::print;
use crate::engine::doctor::{self, Check, Status};
use crate::engine::exec::userns::apparmor_profile;
use crate::engine::failure::{Failure, FailureKind};
use crate::store::{Store, TmpDir};

/// Exits with 4 if builds cannot run at all.
pub(super) fn run(
    arguments: &DoctorArguments,
    store: &Path,
    environment: &Environment,
) -> Result<Exit, Stop> {
    if arguments.apparmor_profile {
        let program = std::env::current_exe().map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "doctor::program",
                "shmocker cannot find its own path",
                &error,
            )
        })?;
        print(&apparmor_profile(&program));
        return Ok(Exit::Done);
    }
    let scratch = scratch(store)?;
    let checks = doctor::checks(
        &scratch.path(),
        &environment.programs,
        std::io::stderr().as_fd(),
    );
    drop(scratch);
    match arguments.format {
        Format::Json => print(&format!(
            "{:#}\n",
            serde_json::to_value(&checks).unwrap_or_default()
        )),
        Format::Text => checks.iter().for_each(|check| print(&text(check))),
    }
    Ok(if doctor::can_build(&checks) {
        Exit::Done
    } else {
        Exit::Machine
    })
}

/// A directory on the store's file system: what can be mounted depends on that.
fn scratch(store: &Path) -> Result<TmpDir, Stop> {
    let opened = Store::open(store).and_then(|store| store.tmp_dir());
    opened.map_err(|error| Failure::from_diagnostic(FailureKind::Machine, &error).into())
}

fn text(check: &Check) -> String {
    let mark = match check.status {
        Status::Ok => "ok      ",
        Status::Degraded => "degraded",
        Status::Missing => "missing ",
    };
    let mut text = format!("{mark}  {}: {}\n", check.check, check.detail);
    if let Some(fix) = &check.fix {
        text.push_str(&format!("          mend: {fix}\n"));
    }
    text
}
