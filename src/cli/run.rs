//! `run` and `unshare`: commands beside or inside of what the store holds.

use std::io::IsTerminal as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::args::{OutwardArguments, RunArguments, UnshareArguments};
use super::environment::{Environment, all_variables, variable};
use super::exit::Exit;
use super::report::Stop;
use super::request::absolute;
use super::terminal;
use crate::backend::embedded::{Embedded, Streams};
use crate::engine::exec::Port;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::{Launch, TerminalSize, Volume};
use crate::graph::Network;

/// The status of `run` where the command was not even tried, as docker has it.
pub(super) const NOT_TRIED: u8 = 125;

/// `run`: its exit status is the command's.
pub(super) fn run(
    arguments: RunArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    launch(arguments, store, environment).map_err(|stop| Stop {
        exit: Exit::Command(NOT_TRIED),
        ..stop
    })
}

fn launch(
    arguments: RunArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let OutwardArguments {
        publish,
        network,
        no_limits,
    } = arguments.outward;
    let process = arguments.process;
    let ports = ports(&publish, network.unwrap_or_default())?;
    let terminal = terminal_size(process.tty)?;
    let entrypoint = match &arguments.entrypoint {
        None => None,
        Some(text) => Some(crate::dockerfile::shell_words(text).map_err(|reason| {
            Stop::usage(
                format!("`--entrypoint {text}`: {reason}"),
                "write it as a shell command line",
            )
        })?),
    };
    let launch = Launch {
        store,
        image: arguments.image,
        entrypoint,
        command: arguments.command,
        env: env(&process.env),
        workdir: process.workdir,
        user: process.user,
        volumes: arguments
            .volumes
            .iter()
            .map(|spec| volume(spec))
            .collect::<Result<_, _>>()?,
        network,
        ports,
        terminal,
        instance: None,
        limited: !no_limits,
        programs: environment.programs.clone(),
        groups: None,
    };
    let status = with_streams(process.interactive, process.tty, |streams| {
        Embedded.launch(launch, streams)
    })?;
    Ok(Exit::Command(status.clamp(0, 255) as u8))
}

/// `NAME=VALUE`, or `NAME` with the value that this environment has for it, if it has one.
pub(super) fn env(specs: &[String]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    for spec in specs {
        match spec.split_once('=') {
            Some((name, value)) => env.push((name.to_owned(), value.to_owned())),
            None => env.extend(variable(spec).map(|value| (spec.clone(), value))),
        }
    }
    env
}

/// The size of this terminal, if the command gets one.
pub(super) fn terminal_size(tty: bool) -> Result<Option<TerminalSize>, Stop> {
    let stdin = std::io::stdin();
    if tty && !stdin.is_terminal() {
        return Err(Stop::usage(
            "standard input is not a terminal",
            "leave out `--tty`, or run it in a terminal",
        ));
    }
    Ok(tty.then(|| {
        let (rows, columns) = terminal::size(&stdin);
        TerminalSize { rows, columns }
    }))
}

/// Calls with this process's streams; without `interactive`, and without a terminal, there is no input.
pub(super) fn with_streams(
    interactive: bool,
    tty: bool,
    call: impl FnOnce(Streams<'_>) -> Result<i32, Vec<Failure>>,
) -> Result<i32, Stop> {
    let stdin = std::io::stdin();
    let _raw = match tty {
        true => Some(terminal::Raw::enter(&stdin).map_err(|error| {
            Failure::caused(
                FailureKind::Machine,
                "run::terminal",
                "the terminal cannot be made raw",
                &error,
            )
        })?),
        false => None,
    };
    let null = std::fs::File::open("/dev/null").map_err(|error| {
        Failure::caused(
            FailureKind::Machine,
            "run::null",
            "/dev/null cannot be opened",
            &error,
        )
    })?;
    let input = if interactive || tty {
        stdin.as_fd()
    } else {
        null.as_fd()
    };
    let (output, errors) = (std::io::stdout(), std::io::stderr());
    let streams = Streams {
        fds: [input, output.as_fd(), errors.as_fd()],
    };
    call(streams).map_err(Stop::from)
}

/// The ports that have to be published: with this machine's network none, because they are there as they are.
pub(super) fn ports(specs: &[String], network: Network) -> Result<Vec<Port>, Stop> {
    let mut ports = Vec::new();
    for spec in specs {
        let port: Port = spec.parse().map_err(|reason| {
            Stop::usage(
                format!("`--publish {spec}`: {reason}"),
                "a port is [[IP:]HOST:]CONTAINER, with /tcp or /udp after it: 127.0.0.1:8080:80",
            )
        })?;
        let everywhere = port.address.is_none_or(|address| address.is_unspecified());
        let as_it_is = everywhere && port.host.is_none_or(|host| host == port.container);
        match network {
            Network::Default => ports.push(port),
            Network::Host if as_it_is => {}
            Network::Host => {
                return Err(Stop::usage(
                    format!(
                        "`--publish {spec}` is not to be had with `--network host`, where the command's ports are this machine's as they are"
                    ),
                    "leave out `--network host`, or let the command listen on the port and address that you want",
                ));
            }
            Network::None => {
                return Err(Stop::usage(
                    format!("`--publish {spec}` is not to be had with `--network none`"),
                    "leave out one of them",
                ));
            }
        }
    }
    Ok(ports)
}

/// `SRC:DST[:ro]`
fn volume(spec: &str) -> Result<Volume, Stop> {
    let help = "a volume is SRC:DST or SRC:DST:ro, with an absolute DST";
    let mut parts = spec.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(Stop::usage(
            format!("`--volume {spec}` has no destination"),
            help,
        ));
    };
    let read_only = match (parts.next(), parts.next()) {
        (None | Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => {
            return Err(Stop::usage(
                format!("`--volume {spec}` has options that are not known"),
                help,
            ));
        }
    };
    if !target.starts_with('/') || source.is_empty() {
        return Err(Stop::usage(
            format!("`--volume {spec}` is not complete"),
            help,
        ));
    }
    Ok(Volume {
        source: absolute(Path::new(source))?,
        target: target.to_owned(),
        read_only,
    })
}

/// `unshare`: its exit status is the command's.
pub(super) fn unshare(
    arguments: UnshareArguments,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let mut argv = arguments.command;
    if argv.is_empty() {
        argv.push(
            environment
                .shell
                .clone()
                .unwrap_or_else(|| "/bin/sh".to_owned()),
        );
    }
    let directory = std::env::current_dir().map_err(|error| {
        Failure::caused(
            FailureKind::Machine,
            "unshare::directory",
            "this directory cannot be found",
            &error,
        )
    })?;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = Streams {
        fds: [input.as_fd(), output.as_fd(), errors.as_fd()],
    };
    let status = Embedded
        .unshare(argv, all_variables(), directory, streams)
        .map_err(Stop::from)?;
    Ok(Exit::Command(status.clamp(0, 255) as u8))
}
