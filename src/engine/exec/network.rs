//! The networks that steps see: none, the host's, or one of their own with a way out through pasta or slirp4netns, which
//! does not lead to the host's loopback.
//!
//! A namespace that was made for one step is used by the next, never by two at once, so that a build pays for as many
//! helpers as it runs steps side by side. Where no helper works, which is tried once and within [`READY_WITHIN`], steps
//! get the host's network, and the build is told so once.
//!
//! Helpers run in a pid namespace of their own: killing the first process takes all of theirs, even those that would stay
//! behind where /dev/net/tun is closed. Nothing ever waits for their pipes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Access, MemfdFlags, Mode, OFlags};

use super::ids::find_program;
use super::ports::{Forward, Port, Protocol, PublishError};
use super::role::null;
use crate::graph::Network;
use crate::sys::mount::Tree;
use crate::sys::network::{in_namespace, new_namespace};
use crate::sys::spawn::{self, Command, Namespaces, Program, WhenParentDies};

/// How long a helper may take until there is a way out.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(3);
const READY_POLL: Duration = Duration::from_millis(2);
/// No answer of slirp4netns is longer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where pasta answers name queries, of which it asks the host's own resolver.
const PASTA_DNS: &str = "169.254.1.1";
/// Where slirp4netns does.
const SLIRP_DNS: &str = "10.0.2.3";
/// The device that a helper's end of a network is.
const TUN: &str = "/dev/net/tun";
/// The resolvers behind systemd's stub, which listens on a loopback address that a step cannot reach.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// A program that connects a namespace to the host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    Pasta,
    Slirp4netns,
}

impl Helper {
    pub(super) const ALL: [Self; 2] = [Self::Pasta, Self::Slirp4netns];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }

    /// The name servers that a step is told of, and the arguments that make the helper answer or let through.
    fn name_servers(self) -> (Vec<String>, &'static [&'static str]) {
        match self {
            Self::Slirp4netns => (vec![SLIRP_DNS.to_owned()], &[]),
            Self::Pasta => {
                let files = ["/etc/resolv.conf", BEHIND_THE_STUB];
                let servers = files.map(|file| reachable_servers(&text_of(file)));
                match servers.into_iter().find(|servers| !servers.is_empty()) {
                    Some(servers) => (servers, &[]),
                    // With this, pasta would drop the answers of all other servers.
                    None => (vec![PASTA_DNS.to_owned()], &["--dns-forward", PASTA_DNS]),
                }
            }
        }
    }

    fn arguments(
        self,
        namespace: &str,
        more: &[&str],
        api: &str,
        forwards: &[Forward],
    ) -> Vec<String> {
        let mut arguments = vec![self.name().to_owned()];
        let mut add = |words: &[&str]| {
            let words = words.iter().flat_map(|words| words.split(' '));
            arguments.extend(words.map(str::to_owned));
        };
        add(more);
        match self {
            Self::Pasta => {
                // The gateway's address is not the host, and the place of the namespace goes away once it is open.
                add(&[
                    "--foreground --quiet --config-net --no-map-gw --no-netns-quit --netns-only",
                ]);
                // No port of the host's can be reached from inside.
                add(&["-T none -U none"]);
                for (option, protocol) in [("-t", Protocol::Tcp), ("-u", Protocol::Udp)] {
                    let of_protocol = |forward: &&Forward| forward.protocol == protocol;
                    for forward in forwards.iter().filter(of_protocol) {
                        let address = forward.address.map(|address| format!("{address}/"));
                        let (host, container) = (forward.host, forward.container);
                        let address = address.unwrap_or_default();
                        add(&[option, &format!("{address}{host}:{container}")]);
                    }
                    if !forwards.iter().any(|forward| forward.protocol == protocol) {
                        add(&[option, "none"]);
                    }
                }
                add(&["--netns", namespace]);
            }
            Self::Slirp4netns => {
                add(&["--configure --mtu=65520 --disable-host-loopback --netns-type=path"]);
                if !forwards.is_empty() {
                    add(&["--api-socket", api]);
                }
                add(&[namespace, "tap0"]);
            }
        }
        arguments
    }
}

/// A network that one step has for itself, or the host's.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    networks: &'a Networks,
    namespace: Option<Namespace>,
    /// For which steps it is used next.
    next: Next,
    /// What the step's /etc/resolv.conf says.
    pub(super) resolv_conf: String,
}

#[derive(Debug, Clone, Copy)]
enum Next {
    /// Those of this kind.
    Steps(Network),
    /// None.
    Nothing,
}

#[derive(Debug)]
struct Namespace {
    fd: OwnedFd,
    way_out: Option<Connection>,
}

/// A helper at work. It lives as long as the namespace that it connects.
#[derive(Debug)]
struct Connection {
    process: spawn::Child,
    name_servers: Vec<String>,
}

impl Lease<'_> {
    /// The namespace to enter; `None`: the host's.
    pub(super) fn namespace(&self) -> Option<BorrowedFd<'_>> {
        self.namespace
            .as_ref()
            .map(|namespace| namespace.fd.as_fd())
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(namespace) = self.namespace.take() {
            let mut state = self
                .networks
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match self.next {
                Next::Steps(Network::Default) => state.connected.push(namespace),
                Next::Steps(Network::None) => state.isolated.push(namespace),
                Next::Steps(Network::Host) | Next::Nothing => {}
            }
        }
    }
}

/// The networks of one build.
pub(super) struct Networks {
    /// Where namespaces are bound to files for the helpers.
    scratch: PathBuf,
    state: Mutex<State>,
    warn: Box<dyn Fn(String) + Send + Sync>,
}

impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Networks")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    connected: Vec<Namespace>,
    isolated: Vec<Namespace>,
    way_out: WayOut,
}

#[derive(Debug, Default, Clone, Copy)]
enum WayOut {
    #[default]
    Untried,
    Through(Helper),
    OnlyTheHosts,
}

impl Networks {
    pub(super) fn new(scratch: &Path, warn: Box<dyn Fn(String) + Send + Sync>) -> Self {
        Self {
            scratch: scratch.to_owned(),
            state: Mutex::default(),
            warn,
        }
    }

    /// A network of the wanted kind.
    pub(super) fn lease(&self, kind: Network) -> io::Result<Lease<'_>> {
        let namespace = match kind {
            Network::Host => None,
            Network::None => Some(self.isolated()?),
            Network::Default => self.connected(),
        };
        Ok(self.lease_of(namespace, Next::Steps(kind)))
    }

    /// A network of its own, whose ports can be reached through ports of this machine.
    pub(super) fn publish(&self, ports: &[Port]) -> Result<Lease<'_>, PublishError> {
        let mut forwards = Vec::new();
        for port in ports {
            let forward = Forward::of(port)?;
            if port.host.is_none() {
                (self.warn)(format!(
                    "`{port}` is published as port {} of this machine, because none was named",
                    forward.host
                ));
            }
            if forward.protocol == Protocol::Udp && forward.host != forward.container {
                // That of Debian 12 does; its version cannot be told.
                (self.warn)(format!(
                    "`{port}`: where the two ports differ, old versions of pasta lose the answers to datagrams that this machine itself sends"
                ));
            }
            forwards.push(forward);
        }
        let mut reasons = Vec::new();
        for helper in Helper::ALL {
            match connect(helper, &self.scratch, &forwards) {
                Ok(namespace) => return Ok(self.lease_of(Some(namespace), Next::Nothing)),
                Err(why) => reasons.push(why),
            }
        }
        Err(PublishError::NoNetwork {
            why: reasons.join("; "),
            fix: network_fix(),
        })
    }

    fn lease_of(&self, namespace: Option<Namespace>, next: Next) -> Lease<'_> {
        let host = text_of("/etc/resolv.conf");
        let resolv_conf = match namespace.as_ref().map(|namespace| &namespace.way_out) {
            None => host,
            Some(None) => String::new(),
            Some(Some(connection)) => resolv_conf(&host, &connection.name_servers),
        };
        Lease {
            networks: self,
            namespace,
            next,
            resolv_conf,
        }
    }

    fn isolated(&self) -> io::Result<Namespace> {
        let idle = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .isolated
            .pop();
        match idle {
            Some(namespace) => Ok(namespace),
            None => Ok(Namespace {
                fd: new_namespace()?,
                way_out: None,
            }),
        }
    }

    fn connected(&self) -> Option<Namespace> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut namespace) = state.connected.pop() {
            let connection = namespace.way_out.as_mut();
            let alive = connection
                .is_some_and(|connection| matches!(connection.process.try_wait(), Ok(None)));
            if alive {
                return Some(namespace);
            }
        }
        let candidates = match state.way_out {
            WayOut::OnlyTheHosts => return None,
            WayOut::Through(helper) => {
                // Others need not wait while this one starts.
                drop(state);
                return match connect(helper, &self.scratch, &[]) {
                    Ok(namespace) => Some(namespace),
                    Err(why) => {
                        (self.warn)(format!("{why}; this step uses the host's network"));
                        None
                    }
                };
            }
            WayOut::Untried => Helper::ALL,
        };
        let mut reasons = Vec::new();
        for helper in candidates {
            match connect(helper, &self.scratch, &[]) {
                Ok(namespace) => {
                    state.way_out = WayOut::Through(helper);
                    return Some(namespace);
                }
                Err(why) => reasons.push(why),
            }
        }
        state.way_out = WayOut::OnlyTheHosts;
        drop(state);
        (self.warn)(format!(
            "steps use the host's network, because they cannot be given one of their own: {}; `shmocker doctor` tells more",
            reasons.join("; ")
        ));
        None
    }
}

/// The command that would mend that no container can have a network of its own, where one is known.
pub(crate) fn network_fix() -> Option<&'static str> {
    let installed = |helper: Helper| find_program(helper.name()).is_some();
    if !Helper::ALL.into_iter().any(installed) {
        Some("sudo apt-get install passt")
    } else if !may_open_tun() {
        Some("sudo chmod 0666 /dev/net/tun")
    } else if !installed(Helper::Pasta) {
        // It can do what the other cannot.
        Some("sudo apt-get install passt")
    } else {
        None
    }
}

/// Both helpers need it.
fn may_open_tun() -> bool {
    rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).is_ok()
}

/// Makes a namespace and starts a helper that connects it. The error is a sentence.
fn connect(helper: Helper, scratch: &Path, forwards: &[Forward]) -> Result<Namespace, String> {
    let name = helper.name();
    let program = find_program(name).ok_or_else(|| format!("{name} is not installed"))?;
    // Asking first is quicker than letting them find out.
    if !may_open_tun() {
        return Err(format!("{name} needs {TUN}, which this user may not open"));
    }
    let failed = |error: io::Error| format!("{name} cannot be used: {error}");
    let fd = new_namespace().map_err(failed)?;
    let place = Place::bind(&fd, scratch).map_err(failed)?;
    let path = CString::new(program.into_os_string().into_encoded_bytes())
        .map_err(|_| format!("{name} has no name"))?;
    let said = File::from(
        rustix::fs::memfd_create("said", MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)
            .map_err(failed)?,
    );
    let null = null().map_err(failed)?;
    let (name_servers, more) = helper.name_servers();
    let api = Api::new(scratch).map_err(failed)?;
    let namespace = place.0.display().to_string();
    let arguments = helper.arguments(&namespace, more, &api.path(Api::DESCRIPTOR), forwards);
    let command = Command {
        program: Program::Path(&path),
        argv: arguments
            .into_iter()
            .filter_map(|argument| CString::new(argument).ok())
            .collect(),
        env: vec![c"PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
        fds: vec![
            null.as_fd(),
            null.as_fd(),
            said.as_fd(),
            api.directory.as_fd(),
        ],
        namespaces: Namespaces::PID,
        when_parent_dies: WhenParentDies::Stays,
    };
    let mut process =
        spawn::spawn(&command).map_err(|error| format!("{name} cannot be started: {error}"))?;
    let ready = in_namespace(fd.as_fd(), || {
        let deadline = Instant::now() + READY_WITHIN;
        while !has_way_out() {
            if !matches!(process.try_wait(), Ok(None)) {
                return Err(format!("{name} failed: {}", complaint(&said)));
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{name} was not ready within {} s: {}",
                    READY_WITHIN.as_secs(),
                    complaint(&said)
                ));
            }
            std::thread::sleep(READY_POLL);
        }
        Ok(())
    });
    ready.map_err(failed)??;
    if helper == Helper::Slirp4netns {
        for forward in forwards {
            let asked = api.add(forward);
            asked.map_err(|error| {
                format!("{name} does not forward port {}: {error}", forward.host)
            })?;
        }
    }
    Ok(Namespace {
        fd,
        way_out: Some(Connection {
            process,
            name_servers,
        }),
    })
}

/// The socket over which slirp4netns is told of ports. Named by an open directory, because such names must be short.
struct Api {
    directory: OwnedFd,
    name: String,
}

impl Api {
    /// Where the helper has the directory open.
    const DESCRIPTOR: RawFd = 3;

    fn new(scratch: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            directory: rustix::fs::open(scratch, flags, Mode::empty())?,
            name: format!("api-{}", count()),
        })
    }

    /// Its path for a process that has the directory open there.
    fn path(&self, descriptor: RawFd) -> String {
        format!("/proc/self/fd/{descriptor}/{}", self.name)
    }

    fn add(&self, forward: &Forward) -> Result<(), String> {
        let address = forward.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let request = serde_json::json!({
            "execute": "add_hostfwd",
            "arguments": {
                "proto": forward.protocol.name(),
                "host_addr": address.to_string(),
                "host_port": forward.host,
                "guest_port": forward.container,
            },
        });
        let answer = self
            .ask(&request.to_string())
            .map_err(|error| error.to_string())?;
        match answer.get("error") {
            None => Ok(()),
            Some(error) => Err(error.to_string()),
        }
    }

    fn ask(&self, request: &str) -> io::Result<serde_json::Value> {
        let path = self.path(self.directory.as_raw_fd());
        let deadline = Instant::now() + READY_WITHIN;
        let mut socket = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break socket,
                // The route comes before the socket.
                Err(_) if Instant::now() < deadline => std::thread::sleep(READY_POLL),
                Err(error) => return Err(error),
            }
        };
        socket.set_read_timeout(Some(READY_WITHIN))?;
        socket.write_all(request.as_bytes())?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// A number that this process has not given before.
fn count() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A file that stands for a namespace while a helper opens it.
struct Place(PathBuf);

impl Place {
    fn bind(namespace: &OwnedFd, scratch: &Path) -> io::Result<Self> {
        let place = Self(scratch.join(format!("netns-{}-{}", std::process::id(), count())));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&place.0)?;
        Tree::shallow_copy_of(namespace.as_fd())?.attach(file.as_fd())?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
        drop(std::fs::remove_file(&self.0));
    }
}

/// Whether this thread's network namespace has a default route.
fn has_way_out() -> bool {
    let v4 = text_of("/proc/thread-self/net/route");
    let v6 = text_of("/proc/thread-self/net/ipv6_route");
    v4.lines()
        .skip(1)
        .any(|line| line.split_whitespace().nth(1) == Some("00000000"))
        || v6.lines().any(|line| {
            line.starts_with("00000000000000000000000000000000 00 ") && !line.ends_with(" lo")
        })
}

fn complaint(said: &File) -> String {
    const SHOWN_BYTES_MAX: u64 = 500;
    let mut text = Vec::new();
    let mut said = said;
    drop(said.rewind());
    drop(said.take(SHOWN_BYTES_MAX).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        // pasta's own trouble with a log that is not there.
        .filter(|line| !line.is_empty() && !line.contains("syslog"))
        .collect();
    if lines.is_empty() {
        "it said nothing".to_owned()
    } else {
        lines.join(", ")
    }
}

fn text_of(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The name servers that are not on a loopback address, which would be the step's own.
fn reachable_servers(text: &str) -> Vec<String> {
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .map(str::trim);
    servers
        .filter(|server| !server.starts_with("127.") && *server != "::1")
        .map(str::to_owned)
        .collect()
}

/// The host's search list and options, with other servers.
fn resolv_conf(host: &str, servers: &[String]) -> String {
    let kept = host.lines().map(str::trim);
    let kept = kept.filter(|line| {
        ["search", "options", "domain"]
            .iter()
            .any(|word| line.starts_with(word))
    });
    let servers = servers.iter().map(|server| format!("nameserver {server}"));
    servers
        .chain(kept.map(str::to_owned))
        .map(|line| line + "\n")
        .collect()
}

/// Tries a helper: whether it is there and connects a namespace, else why not.
pub(super) fn try_helper(helper: Helper, scratch: &Path) -> Result<(), String> {
    connect(helper, scratch, &[]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_loopback_are_replaced_and_the_rest_of_the_file_is_kept() {
        let stub = "# systemd\nnameserver 127.0.0.53\noptions edns0\nsearch example.org\n";
        assert!(reachable_servers(stub).is_empty());
        assert_eq!(
            resolv_conf(stub, &["10.0.2.3".to_owned()]),
            "nameserver 10.0.2.3\noptions edns0\nsearch example.org\n"
        );
        assert_eq!(
            reachable_servers("nameserver 127.0.0.1\nnameserver 192.0.2.1\nnameserver ::1\n"),
            ["192.0.2.1"]
        );
    }
}
