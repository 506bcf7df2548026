//! `doctor`: what this machine offers, what each lack costs, and what mends it.

use std::path::Path;

use super::args::{DoctorArguments, Format};
use super::exit::Exit;
use super::report::Stop;
use super::request::print;
use crate::engine::doctor::{self, Check, Status};
use crate::engine::exec::userns::APPARMOR_PROFILE;

/// Exits with 4 if builds cannot run at all.
pub(super) fn run(arguments: &DoctorArguments, store: &Path) -> Result<Exit, Stop> {
    if arguments.apparmor_profile {
        print(APPARMOR_PROFILE);
        return Ok(Exit::Done);
    }
    let checks = doctor::examine(store);
    match arguments.format {
        Format::Json => print(&format!("{:#}\n", serde_json::to_value(&checks).unwrap_or_default())),
        Format::Text => checks.iter().for_each(|check| print(&text(check))),
    }
    Ok(if doctor::can_build(&checks) { Exit::Done } else { Exit::Machine })
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
