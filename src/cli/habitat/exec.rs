//! `habitat exec`: a command in a habitat that is up, with its environment, user and working directory. Its exit status is
//! the command's.

use std::path::Path;

use super::super::args::habitat::ExecArguments;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::run::{self, NOT_TRIED};
use super::instances::Known;
use crate::backend::embedded::Embedded;
use crate::engine::exec::Visit;
use crate::engine::failure::{Failure, FailureKind};

/// Loads the environment of the habitat, then becomes the command, or a shell.
const ENTER: &str = "if [ -r /etc/profile.d/habitat-env.sh ]; then . /etc/profile.d/habitat-env.sh; fi; \
    for pair; do shift; [ \"$pair\" != -- ] || break; export \"$pair\"; done; \
    if [ $# -eq 0 ]; then if command -v bash >/dev/null; then set -- bash -l; else set -- sh -l; fi; fi; exec \"$@\"";

pub(super) fn run(arguments: ExecArguments, store: &Path) -> Result<Exit, Stop> {
    enter(arguments, store).map_err(|stop| Stop {
        exit: Exit::Command(NOT_TRIED),
        ..stop
    })
}

fn enter(arguments: ExecArguments, store: &Path) -> Result<Exit, Stop> {
    let Some(Known { record, .. }) = Known::find(store, &arguments.habitat)? else {
        let message = format!("the habitat `{}` is not up", arguments.habitat.display());
        return Err(Failure::new(FailureKind::Input, "habitat::not_up", message)
            .with_help("start it: `shmocker habitat up FILE`")
            .into());
    };
    let terminal = run::terminal_size(arguments.process.tty)?;
    let given = run::env(&arguments.process.env);
    let mut env = record.env;
    if terminal.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let mut argv = ["/bin/sh", "-c", ENTER, "sh"].map(str::to_owned).to_vec();
    // After the habitat's own environment, which would overrule them.
    argv.extend(given.iter().map(|(name, value)| format!("{name}={value}")));
    argv.push("--".to_owned());
    argv.extend(match arguments.command.is_empty() {
        true => record.command,
        false => arguments.command,
    });
    let visit = Visit {
        argv,
        env,
        workdir: arguments.process.workdir.unwrap_or(record.workdir),
        user: arguments.process.user.unwrap_or(record.user),
    };
    let status = run::with_streams(
        arguments.process.interactive,
        arguments.process.tty,
        |streams| Embedded.enter(store, &record.id, visit, terminal, streams),
    )?;
    Ok(Exit::Command(status.clamp(0, 255) as u8))
}
