//! Real servers and agents of SSH.

use super::bench::Bench;
use super::machine::{self, Capability, Lack};
use super::processes::{Server, free_port};

/// An ssh server for a bench's user, with a key of its own, and an agent that may log in.
pub(crate) struct Ssh<'a> {
    bench: &'a Bench,
    pub(crate) port: u16,
    _agent: Server,
}

/// An agent at the socket `agent` of a bench, with this key of the bench.
pub(crate) fn agent(bench: &Bench, key: &str) -> Server {
    let socket = bench.path("agent");
    let mut agent = bench.command("ssh-agent");
    let agent = Server::start_at_socket(agent.arg("-D").arg("-a").arg(&socket), &socket);
    bench.sh(&format!("SSH_AUTH_SOCK=$PWD/agent ssh-add -q {key}"));
    agent
}

impl<'a> Ssh<'a> {
    pub(crate) fn new(bench: &'a Bench) -> Result<Self, Lack> {
        for program in ["sshd", "ssh-agent", "ssh-keygen"] {
            machine::program(Capability::Ssh, program)?;
        }
        bench.sh("ssh-keygen -q -t ed25519 -N '' -f mine");
        let agent = agent(bench, "mine");
        let port = free_port();
        Ok(Self {
            bench,
            port,
            _agent: agent,
        })
    }

    /// Starts the server with a host key of that name.
    pub(crate) fn server(&self, host_key: &str) -> Server {
        let directory = self.bench.project();
        self.bench.sh(&format!(
            "[ -e {host_key} ] || ssh-keygen -q -t ed25519 -N '' -f {host_key}"
        ));
        self.bench.file(
            "sshd_config",
            format!(
                "Port {}\nListenAddress 127.0.0.1\nHostKey {dir}/{host_key}\nAuthorizedKeysFile {dir}/mine.pub\n\
                 PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n",
                self.port,
                dir = directory.display()
            ),
        );
        let config = self.bench.path("sshd_config");
        Server::start(
            self.bench
                .command("/usr/sbin/sshd")
                .arg("-D")
                .arg("-f")
                .arg(config),
            self.port,
        )
    }
}
