//! `habitat shell`: a shell, or one command, in the tree of a phase, or in what a failed step has left.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use super::super::args::habitat::ShellArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::Draft;
use super::super::run;
use super::why::operands;
use super::{Ready, steering};
use crate::backend::embedded::{Embedded, Streams};
use crate::engine::failure::Failure;
use crate::engine::solve::{Shell, ShellEnd, ShellPlace};
use crate::habitat::{Purpose, default_shell};

/// What a step's shell does first, then an interactive shell.
const INTERACTIVE: &str = "if command -v bash >/dev/null; then exec bash; fi; exec sh";
/// The same where `continue` means the command, and not the shell's own word.
const INTERACTIVE_FAILED: &str = "if command -v bash >/dev/null; then exec bash --rcfile /dev/habitat/bin/rc; fi; \
    export ENV=/dev/habitat/bin/rc; exec sh";
/// For a line that is not typed.
const LINE_FAILED: &str =
    "shopt -s expand_aliases 2>/dev/null || :\nalias continue=/dev/habitat/bin/continue\n";
/// Says of an image that one of its steps was accepted although it had failed.
const CONTINUED: &str = "io.shmocker.habitat.continued";

pub(super) fn run(
    mut arguments: ShellArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let phase = operands(&mut arguments.habitat, arguments.phase.take());
    let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
    let place = match arguments.failed {
        true => ShellPlace::Failed,
        false => {
            let phase = steering::phase(phase.as_deref().unwrap_or("final"), "PHASE")?;
            ShellPlace::Target {
                stages: ready.stages_of(phase),
            }
        }
    };
    let draft = || -> Result<Draft, Stop> {
        let mut draft = ready.draft(arguments.means.clone(), environment)?;
        if let ShellPlace::Target { stages } = &place {
            draft.work.target = stages.last().cloned();
        }
        Ok(draft)
    };
    if !arguments.failed {
        let built = draft()?.carry_out(store.clone(), environment, &|_| {});
        built.map_err(|stop| ready.with_texts(stop))?;
    }
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut argv = default_shell();
    argv.push(match (&arguments.command, arguments.failed) {
        (Some(line), false) => line.clone(),
        (Some(line), true) => format!("{LINE_FAILED}{line}"),
        (None, false) => INTERACTIVE.to_owned(),
        (None, true) => INTERACTIVE_FAILED.to_owned(),
    });
    let shell = Shell {
        place: place.clone(),
        argv,
        terminal: run::terminal_size(tty)?,
    };
    let inside = draft()?;
    let events = inside.quiet_events();
    let mut accepted = false;
    let call = |streams: Streams<'_>| -> Result<i32, Vec<Failure>> {
        let end = Embedded.shell(&inside.work, &store, shell, streams, events.as_ref())?;
        let ShellEnd { status, .. } = end;
        accepted = end.accepted;
        Ok(status)
    };
    let status = run::with_streams(true, tty, call).map_err(|stop| ready.with_texts(stop))?;
    if accepted {
        let mut rest = draft()?;
        rest.work.accepts_failed = true;
        rest.work
            .labels
            .push((CONTINUED.to_owned(), "true".to_owned()));
        rest.tags.push(ready.tag());
        return rest
            .build(store, environment)
            .map_err(|stop| ready.with_texts(stop));
    }
    Ok(Exit::Command(status.clamp(0, 255) as u8))
}
