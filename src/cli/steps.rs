//! Flags of `build` for what its RUN steps get: agents, hosts, limits, a network.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::environment::variable;
use super::report::Stop;
use crate::engine::exec::rlimit;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::ssh::Key;
use crate::engine::work::{Agent, AgentKind, Entitlement, Resources, Secret, Work};
use crate::graph::{Host, Network, RunDefaults, Ulimit};

/// A key file is not larger.
const KEY_BYTES_MAX: u64 = 100 << 10;

/// What RUN steps get.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What RUN steps get")]
pub(super) struct StepArguments {
    /// Offer an SSH agent: default, or ID[=SOCKET|KEY[,KEY…]][,raw=true] [default socket: $SSH_AUTH_SOCK]
    #[arg(long = "ssh", value_name = "SPEC")]
    ssh: Vec<String>,
    /// Add a line to /etc/hosts; host-gateway is this machine, with --network=host
    #[arg(long = "add-host", value_name = "NAME=IP")]
    hosts: Vec<String>,
    /// The network of steps that name none: default, none or host
    #[arg(long, value_name = "NETWORK")]
    network: Option<Network>,
    /// The size of /dev/shm, as 128m [default: 64m]
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Limit each process, as nofile=1024:2048
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// Limit memory (needs cgroup v2)
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Limit memory and swap together; -1 is as much swap as there is
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Weight on the processors, 1024 being usual
    #[arg(short = 'c', long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(1..))]
    cpu_shares: Option<u64>,
    /// The time in which --cpu-quota is given out, in microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..))]
    cpu_period: Option<u64>,
    /// Processor time in each --cpu-period, in microseconds
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..))]
    cpu_quota: Option<u64>,
    /// Processors to use, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// The control group in which those of steps are made
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

impl StepArguments {
    /// Puts it all into the work.
    pub(super) fn apply(self, work: &mut Work) -> Result<(), Stop> {
        for spec in &self.ssh {
            let agent = agent(spec)?;
            if work.agents.iter().any(|known| known.id == agent.id) {
                return Err(Stop::usage(
                    format!("`--ssh` names `{}` twice", agent.id),
                    "an id stands for one agent",
                ));
            }
            work.agents.push(agent);
        }
        let network = self.network;
        if network == Some(Network::Host) && !work.allow.contains(&Entitlement::NetworkHost) {
            // Who asks for it here allows it, as with buildx.
            work.allow.push(Entitlement::NetworkHost);
        }
        let hosts = self.hosts.iter().map(|spec| host(spec, network));
        let ulimits = self.ulimits.iter().map(|spec| ulimit(spec));
        work.run = RunDefaults {
            network,
            hosts: hosts.collect::<Result<_, _>>()?,
            ulimits: last_of_each(ulimits.collect::<Result<_, _>>()?),
            shm_bytes: self
                .shm_size
                .map(|text| bytes("--shm-size", &text))
                .transpose()?,
            cgroup_parent: self.cgroup_parent,
        };
        work.resources = Resources {
            memory_bytes: self
                .memory
                .map(|text| bytes("--memory", &text))
                .transpose()?,
            memory_swap_bytes: self.memory_swap.map(|text| swap(&text)).transpose()?,
            cpu_shares: self.cpu_shares,
            cpu_period_us: self.cpu_period,
            cpu_quota_us: self.cpu_quota,
            cpuset_cpus: list("--cpuset-cpus", self.cpuset_cpus)?,
            cpuset_mems: list("--cpuset-mems", self.cpuset_mems)?,
            pids_max: None,
        };
        let Resources {
            memory_bytes,
            memory_swap_bytes,
            ..
        } = work.resources;
        match (memory_bytes, memory_swap_bytes) {
            (None, Some(swap)) if swap >= 0 => Err(Stop::usage(
                "`--memory-swap` is given without `--memory`",
                "it limits memory and swap together: give `--memory` too",
            )),
            (Some(memory), Some(swap)) if swap >= 0 && swap.cast_unsigned() < memory => {
                Err(Stop::usage(
                    "`--memory-swap` is less than `--memory`",
                    "it limits memory and swap together: give as much or more",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// `ID[=SOCKET|KEY[,KEY…]][,raw=true]`
fn agent(spec: &str) -> Result<Agent, Stop> {
    const HELP: &str = "it is `default`, ID=SOCKET, or ID=KEY[,KEY…]; `raw=true` after a socket passes every byte on";
    let (id, rest) = spec.split_once('=').unwrap_or((spec, ""));
    let mut paths = Vec::new();
    let mut raw = false;
    for part in rest.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("raw", value)) => {
                raw = value.parse().map_err(|_| {
                    Stop::usage(
                        format!("`raw={value}` in `--ssh {spec}` is neither true nor false"),
                        HELP,
                    )
                })?;
            }
            _ => paths.push(PathBuf::from(part)),
        }
    }
    // `--ssh default,raw=true`
    let id = match id.split_once(',') {
        Some((id, "raw")) if matches!(rest, "true" | "1") => {
            (raw, paths) = (true, Vec::new());
            id
        }
        _ => id,
    };
    let id = if id.is_empty() { "default" } else { id };
    let wrong = |code: &str, message: String, help: &str| {
        Stop::from(Failure::new(FailureKind::Input, code, message).with_help(help))
    };
    if paths.is_empty() {
        let Some(socket) = variable("SSH_AUTH_SOCK") else {
            let message =
                format!("`--ssh {spec}` means the agent of SSH_AUTH_SOCK, which is not set");
            let help = "start one (`eval $(ssh-agent)`, `ssh-add`), or name a key: `--ssh default=KEYFILE`";
            return Err(wrong("cli::no_agent", message, help));
        };
        paths.push(PathBuf::from(socket));
    }
    let mut keys = Vec::new();
    let mut sockets = Vec::new();
    for path in &paths {
        if is_socket(path)? {
            sockets.push(super::request::absolute(path)?);
        } else {
            keys.push(path);
        }
    }
    let who = match (sockets.as_slice(), keys.as_slice(), raw) {
        ([socket], [], true) => AgentKind::Raw(socket.clone()),
        ([socket], [], false) => AgentKind::Forwarded(socket.clone()),
        ([], keys, false) => {
            let keys = keys.iter().map(|path| private_key(path));
            AgentKind::Keys(keys.collect::<Result<_, _>>()?)
        }
        (_, _, true) => {
            let message = format!("`--ssh {spec}`: raw takes one socket, and no keys");
            return Err(Stop::usage(message, HELP));
        }
        _ => {
            let message =
                format!("`--ssh {spec}` names more than one socket, or a socket and keys");
            return Err(Stop::usage(message, HELP));
        }
    };
    Ok(Agent {
        id: id.to_owned(),
        who,
    })
}

fn is_socket(path: &Path) -> Result<bool, Stop> {
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.file_type().is_socket()),
        Err(error) => Err(unreadable_key(path, &error)),
    }
}

fn unreadable_key(path: &Path, error: &std::io::Error) -> Stop {
    let message = format!("the SSH agent or key `{}` cannot be used", path.display());
    Failure::caused(FailureKind::Input, "cli::ssh", message, error).into()
}

fn private_key(path: &Path) -> Result<Secret, Stop> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(KEY_BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| unreadable_key(path, &error))?;
    let name = path.display().to_string();
    // It is read once more where it is used; here a mistake is found before anything is built.
    Key::parse(&bytes, &name)
        .map_err(|error| Failure::from_diagnostic(FailureKind::Input, &error))?;
    Ok(Secret::new(name, bytes))
}

/// `NAME=IP`, `NAME:IP` or `NAME=host-gateway`.
fn host(spec: &str, network: Option<Network>) -> Result<Host, Stop> {
    let lower = spec.to_lowercase();
    let parts = lower.split_once('=').or_else(|| lower.split_once(':'));
    let help = "it is NAME=IP, NAME:IP or NAME=host-gateway";
    let Some((name, address)) = parts.filter(|(name, _)| is_host_name(name)) else {
        let message = format!("`--add-host {spec}` names no host");
        return Err(Stop::usage(message, help));
    };
    let address = match address {
        "host-gateway" if network == Some(Network::Host) => IpAddr::from([127, 0, 0, 1]),
        "host-gateway" => {
            return Err(Stop::usage(
                format!("`--add-host {spec}`: there is no way from a step to this machine"),
                "the network of a step does not lead to it; with `--network=host`, host-gateway is 127.0.0.1",
            ));
        }
        address => address
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .map_err(|_| {
                let message = format!("`{address}` in `--add-host {spec}` is not an address");
                Stop::usage(message, help)
            })?,
    };
    Ok(Host {
        name: name.to_owned(),
        address,
    })
}

/// No space or line end gets into /etc/hosts.
fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && c != '#')
}

/// `NAME=SOFT[:HARD]`; -1 is no limit.
fn ulimit(spec: &str) -> Result<Ulimit, Stop> {
    let help = "it is NAME=SOFT[:HARD], in which -1 is no limit";
    let wrong = |message: String| Stop::usage(message, help);
    let Some((name, values)) = spec.split_once('=') else {
        return Err(wrong(format!("`--ulimit {spec}` has no value")));
    };
    if !rlimit::names().any(|known| known == name) {
        let names: Vec<_> = rlimit::names().collect();
        return Err(Stop::usage(
            format!("`--ulimit {name}` is not known"),
            format!("what can be limited: {}", names.join(", ")),
        ));
    }
    let number = |text: &str| match text {
        "-1" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| wrong(format!("`{text}` in `--ulimit {spec}` is not a number"))),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        let message = format!("in `--ulimit {spec}` the soft limit is above the hard one");
        return Err(wrong(message));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

/// A limit that is given again takes the place of the one before.
fn last_of_each(ulimits: Vec<Ulimit>) -> Vec<Ulimit> {
    let mut last: Vec<Ulimit> = Vec::new();
    for ulimit in ulimits {
        last.retain(|known| known.name != ulimit.name);
        last.push(ulimit);
    }
    last
}

/// `64m`, `1.5g`, `1024`: units of 1024.
fn bytes(flag: &str, text: &str) -> Result<u64, Stop> {
    crate::dockerfile::parse_bytes(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| {
            Stop::usage(
                format!("`{flag} {text}` is not a size"),
                "it is a number of bytes, or one with k, m, g or t",
            )
        })
}

fn swap(text: &str) -> Result<i64, Stop> {
    if text == "-1" {
        return Ok(-1);
    }
    let bytes = bytes("--memory-swap", text)?;
    Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// `0-2,4`
fn list(flag: &str, text: Option<String>) -> Result<Option<String>, Stop> {
    let number = |text: &str| text.parse::<u32>().ok();
    let is_list = |text: &str| {
        text.split(',').all(|part| match part.split_once('-') {
            None => number(part).is_some(),
            Some((first, last)) => {
                matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
            }
        })
    };
    match text {
        Some(text) if !is_list(&text) => Err(Stop::usage(
            format!("`{flag} {text}` is not a list"),
            "it is numbers and runs of them, as 0-2,4",
        )),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_names_and_addresses() {
        let read =
            |spec: &str| host(spec, None).map(|host| format!("{} {}", host.address, host.name));
        assert_eq!(read("DB=10.0.0.2").ok().as_deref(), Some("10.0.0.2 db"));
        assert_eq!(read("db:10.0.0.2").ok().as_deref(), Some("10.0.0.2 db"));
        assert_eq!(read("db=[::1]").ok().as_deref(), Some("::1 db"));
        assert_eq!(read("db:fd00::2").ok().as_deref(), Some("fd00::2 db"));
        for spec in [
            "db",
            "=10.0.0.2",
            "a b=10.0.0.2",
            "db=10.0.0",
            "db\n1=1.1.1.1",
            "db=host-gateway",
        ] {
            assert!(read(spec).is_err(), "{spec}");
        }
        let gateway = host("db=host-gateway", Some(Network::Host));
        assert_eq!(
            gateway.ok().map(|host| host.address.to_string()).as_deref(),
            Some("127.0.0.1")
        );
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        let read = |spec: &str| ulimit(spec).map(|limit| (limit.soft, limit.hard)).ok();
        assert_eq!(read("nofile=10"), Some((Some(10), Some(10))));
        assert_eq!(read("nofile=10:20"), Some((Some(10), Some(20))));
        assert_eq!(read("core=-1"), Some((None, None)));
        for spec in [
            "nofile",
            "nofile=",
            "files=1",
            "nofile=20:10",
            "nofile=-1:10",
            "nofile=x",
        ] {
            assert_eq!(read(spec), None, "{spec}");
        }
    }

    #[test]
    fn lists_are_numbers_and_runs() {
        for (text, good) in [
            ("0", true),
            ("0-2,4", true),
            ("", false),
            ("2-0", false),
            ("a", false),
            ("1,", false),
        ] {
            assert_eq!(
                list("--cpuset-cpus", Some(text.to_owned())).is_ok(),
                good,
                "{text}"
            );
        }
    }
}
