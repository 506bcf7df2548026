//! Ports of a container that can be reached through ports of this machine.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A port to publish: `[[IP:]HOST:]CONTAINER[/tcp|/udp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The address of this machine; `None`: all of them.
    pub address: Option<IpAddr>,
    /// The port of this machine; `None`: one that is free.
    pub host: Option<u16>,
    /// The port of the container.
    pub container: u16,
    /// What goes through it.
    pub protocol: Protocol,
}

/// What goes through a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// Its name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Port {
    /// The same with a port of this machine that is free now, where none was named.
    ///
    /// # Errors
    /// If the one that was named is not to be had.
    pub fn fixed(self) -> Result<Self, PublishError> {
        let host = Some(Forward::of(&self)?.host);
        Ok(Self { host, ..self })
    }
}

impl FromStr for Port {
    type Err = String;

    /// The error is a sentence without its beginning: `` `99999` is no port ``.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse::<u16>() {
            Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(number)
            }
            _ => Err(format!("`{text}` is no port")),
        };
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("`{other}` is neither tcp nor udp")),
        };
        let (before, container) = match ports.rsplit_once(':') {
            Some((before, container)) => (Some(before), container),
            None => (None, ports),
        };
        let (address, host) = match before.map(|before| before.rsplit_once(':').ok_or(before)) {
            None => (None, None),
            Some(Err(host)) => (None, Some(host)),
            Some(Ok((address, host))) => {
                (Some(address), Some(host).filter(|host| !host.is_empty()))
            }
        };
        let bare = address.map(|address| {
            let bare = address
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'));
            (address, bare.unwrap_or(address))
        });
        let address = bare.map(|(address, bare)| {
            let parsed = bare.parse::<IpAddr>();
            parsed.map_err(|_| format!("`{address}` is no address of a machine"))
        });
        Ok(Self {
            address: address.transpose()?,
            host: host.map(number).transpose()?,
            container: number(container)?,
            protocol,
        })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host {
            Some(host) => write!(f, "{host}:")?,
            None if self.address.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}/{}", self.container, self.protocol.name())
    }
}

/// A port cannot be published.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PublishError {
    /// The port of this machine is not to be had.
    #[error("`{port}` cannot be published: the port of this machine is not to be had")]
    #[diagnostic(code(run::port), help("{}", way_out(source)))]
    Port {
        /// Which.
        port: Port,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The container can have no network of its own.
    #[error(
        "no port can be published, because the container cannot be given a network of its own: {why}"
    )]
    #[diagnostic(
        code(run::no_network),
        help("{}use this machine's own network, where the command's ports can be reached as they are: `--network host`", fix.map(|fix| format!("{fix}; or ")).unwrap_or_default())
    )]
    NoNetwork {
        /// Why not, of each helper.
        why: String,
        /// What would mend it.
        fix: Option<&'static str>,
    },
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 are root's (net.ipv4.ip_unprivileged_port_start): name another one before the colon"
        }
        io::ErrorKind::AddrInUse => {
            "something listens there already: name another one before the colon"
        }
        _ => "name an address of this machine, or none",
    }
}

/// A port of which the machine's side is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forward {
    pub address: Option<IpAddr>,
    pub host: u16,
    pub container: u16,
    pub protocol: Protocol,
}

impl Forward {
    /// Makes sure that the machine's side can be listened on, and finds a free port where none was named.
    pub(super) fn of(port: &Port) -> Result<Self, PublishError> {
        let address = port.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let place = (address, port.host.unwrap_or(0));
        let bound = match port.protocol {
            Protocol::Tcp => TcpListener::bind(place).and_then(|socket| socket.local_addr()),
            Protocol::Udp => UdpSocket::bind(place).and_then(|socket| socket.local_addr()),
        };
        let bound = bound.map_err(|source| PublishError::Port {
            port: *port,
            source,
        })?;
        Ok(Self {
            address: port.address,
            host: bound.port(),
            container: port.container,
            protocol: port.protocol,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_has_them() {
        for (written, meant) in [
            ("80", "80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("8080:80/tcp", "8080:80/tcp"),
            ("53:5353/udp", "53:5353/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]:8080:80", "[::1]:8080:80/tcp"),
        ] {
            assert_eq!(
                written.parse::<Port>().map(|port| port.to_string()),
                Ok(meant.to_owned())
            );
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (written, said) in [
            ("", "`` is no port"),
            ("0", "`0` is no port"),
            ("+8", "`+8` is no port"),
            ("65536:80", "`65536` is no port"),
            (":80", "`` is no port"),
            ("80/sctp", "`sctp` is neither tcp nor udp"),
            ("80/tcp/tcp", "`80/tcp` is no port"),
            (
                "example.org:80:80",
                "`example.org` is no address of a machine",
            ),
            ("8000-8010:80", "`8000-8010` is no port"),
        ] {
            assert_eq!(written.parse::<Port>(), Err(said.to_owned()), "{written}");
        }
    }

    #[test]
    fn a_port_in_use_is_refused_and_a_free_one_is_found() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Forward::of(&format!("127.0.0.1:{port}:80").parse().unwrap()).unwrap_err();
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("listens there already"), "{help}");
        let free = Forward::of(&"127.0.0.1::80".parse().unwrap()).unwrap();
        assert!(free.host > 0 && free.host != port);
    }
}
