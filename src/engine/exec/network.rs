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
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Access, MemfdFlags};

use super::ids::find_program;
use super::role::null;
use crate::graph::Network;
use crate::sys::mount::Tree;
use crate::sys::network::{in_namespace, new_namespace};
use crate::sys::spawn::{self, Command, Namespaces, Program, WhenParentDies};

/// How long a helper may take until there is a way out.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(3);
const READY_POLL: Duration = Duration::from_millis(2);

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

    fn arguments(self, namespace: &str, more: &[&str]) -> Vec<String> {
        // pasta: ports are forwarded in neither direction, the gateway's address is not the host, and the place of the
        // namespace goes away once it is open.
        let fixed: &[&str] = match self {
            Self::Pasta => &[
                "--foreground --quiet --config-net --no-map-gw --no-netns-quit --netns-only",
                "-t none -u none -T none -U none --netns",
            ],
            Self::Slirp4netns => {
                &["--configure --mtu=65520 --disable-host-loopback --netns-type=path"]
            }
        };
        let last: &[&str] = match self {
            Self::Pasta => &[namespace],
            Self::Slirp4netns => &[namespace, "tap0"],
        };
        let fixed = fixed.iter().flat_map(|words| words.split(' '));
        let all = [self.name()]
            .into_iter()
            .chain(more.iter().copied())
            .chain(fixed);
        all.chain(last.iter().copied()).map(str::to_owned).collect()
    }
}

/// A network that one step has for itself, or the host's.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    networks: &'a Networks,
    namespace: Option<Namespace>,
    kind: Network,
    /// What the step's /etc/resolv.conf says.
    pub(super) resolv_conf: String,
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
            match self.kind {
                Network::Default => state.connected.push(namespace),
                Network::None => state.isolated.push(namespace),
                Network::Host => {}
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
        let host = text_of("/etc/resolv.conf");
        let resolv_conf = match namespace.as_ref().map(|namespace| &namespace.way_out) {
            None => host,
            Some(None) => String::new(),
            Some(Some(connection)) => resolv_conf(&host, &connection.name_servers),
        };
        Ok(Lease {
            networks: self,
            namespace,
            kind,
            resolv_conf,
        })
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
                return match connect(helper, &self.scratch) {
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
            match connect(helper, &self.scratch) {
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

/// Makes a namespace and starts a helper that connects it. The error is a sentence.
fn connect(helper: Helper, scratch: &Path) -> Result<Namespace, String> {
    let name = helper.name();
    let program = find_program(name).ok_or_else(|| format!("{name} is not installed"))?;
    // Both need it; asking first is quicker than letting them find out.
    if rustix::fs::access(TUN, Access::READ_OK | Access::WRITE_OK).is_err() {
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
    let arguments = helper.arguments(&place.0.display().to_string(), more);
    let command = Command {
        program: Program::Path(&path),
        argv: arguments
            .into_iter()
            .filter_map(|argument| CString::new(argument).ok())
            .collect(),
        env: vec![c"PATH=/usr/bin:/bin:/usr/sbin:/sbin".to_owned()],
        fds: vec![null.as_fd(), null.as_fd(), said.as_fd()],
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
    Ok(Namespace {
        fd,
        way_out: Some(Connection {
            process,
            name_servers,
        }),
    })
}

/// A file that stands for a namespace while a helper opens it.
struct Place(PathBuf);

impl Place {
    fn bind(namespace: &OwnedFd, scratch: &Path) -> io::Result<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = Self(scratch.join(format!("netns-{}-{count}", std::process::id())));
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
    connect(helper, scratch).map(drop)
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
