//! What servers are reached with: a client, git, and a place for what is unfinished. It needs no namespace, so a process that
//! only asks has it too.

use std::path::PathBuf;

use super::session::{Session, store_failure};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::source::git::{self, Git};
use crate::engine::ssh::Door;
use crate::engine::work::{AgentKind, Ssh, Work};
use crate::event::EventSink;
use crate::net::{Authorization, Client, Proxies, Settings};
use crate::registry::Registries;
use crate::store::TmpDir;

/// What servers are reached with.
pub struct Reach<'e> {
    /// The network.
    pub client: Client<'e>,
    /// Repositories.
    pub git: Git,
    /// A directory for what lives as long as this: names of the sandbox, unfinished downloads.
    pub scratch: TmpDir,
    /// Leads git to the keys that `--ssh default` names.
    _door: Option<Door>,
}

impl std::fmt::Debug for Reach<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

impl<'e> Reach<'e> {
    /// Sets up what this build's work asks for.
    ///
    /// # Errors
    /// If the store cannot be written, or keys cannot be offered.
    pub fn open(session: &Session<'e>) -> Result<Self, Failure> {
        let work = session.work;
        let scratch = session.store.tmp_dir().map_err(store_failure)?;
        let (client, proxies) = client_of(work);
        let (ssh, door) = git_agent(work, &scratch)?;
        let git = Git::new(git::Settings {
            program: PathBuf::from("/usr/bin/git"),
            mirrors: session.store.path().join("git"),
            proxies,
            ca_file: work.ca_file.clone(),
            ssh,
            credentials: git_credentials(work),
            tokens: git_tokens(work),
        });
        Ok(Self {
            client: client.heard(Some(session.events)),
            git,
            scratch,
            _door: door,
        })
    }
}

/// Registries, as this build's work has them reached; `events` hears when one is waited for.
#[must_use]
pub fn registries<'e>(work: &Work, events: &'e dyn EventSink) -> Registries<'e> {
    let settings = Settings {
        proxies: proxies_of(work),
        ca_files: work.ca_file.iter().cloned().collect(),
        ..Settings::default()
    };
    Registries::new(work.registries.clone(), settings).heard(events)
}

fn proxies_of(work: &Work) -> Proxies {
    let proxy = |name: &str| {
        let set = work
            .proxies
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        set.map(|(_, value)| value.clone())
    };
    Proxies {
        http: proxy("http_proxy"),
        https: proxy("https_proxy"),
        no_proxy: proxy("no_proxy"),
    }
}

/// How servers are reached, and by way of which proxies.
fn client_of(work: &Work) -> (Client<'static>, Proxies) {
    let proxies = proxies_of(work);
    let client = Client::new(Settings {
        proxies: proxies.clone(),
        ca_files: work.ca_file.iter().cloned().collect(),
        ..Settings::default()
    });
    (client, proxies)
}

/// The secrets that are for git servers: `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN`, of one host with its name behind a dot.
fn git_credentials(work: &Work) -> Vec<git::Credential> {
    let named = |prefix: &'static str, of_host: bool| {
        work.secrets.iter().filter_map(move |secret| {
            let rest = secret.id.strip_prefix(prefix)?;
            let host = rest.strip_prefix('.').filter(|host| !host.is_empty());
            let fits = if of_host {
                host.is_some()
            } else {
                rest.is_empty()
            };
            let value = std::str::from_utf8(secret.expose()).ok()?.trim();
            fits.then(|| (host.map(str::to_owned), value.to_owned()))
        })
    };
    let mut credentials = Vec::new();
    for of_host in [true, false] {
        for (host, header) in named("GIT_AUTH_HEADER", of_host) {
            let authorization = Authorization::header(header);
            credentials.push(git::Credential {
                host,
                authorization,
            });
        }
        for (host, token) in named("GIT_AUTH_TOKEN", of_host) {
            let authorization = Authorization::basic("x-access-token", &token);
            credentials.push(git::Credential {
                host,
                authorization,
            });
        }
    }
    credentials
}

/// The secrets that a source may name as its own.
fn git_tokens(work: &Work) -> Vec<(String, Authorization)> {
    let secrets = work.secrets.iter();
    secrets
        .filter_map(|secret| {
            let token = std::str::from_utf8(secret.expose()).ok()?.trim();
            let authorization = Authorization::basic("x-access-token", token);
            Some((secret.id.clone(), authorization))
        })
        .collect()
}

/// Whom git asks for keys: as in BuildKit the agent that `--ssh default` names, else the caller's own.
fn git_agent(work: &Work, scratch: &TmpDir) -> Result<(Ssh, Option<Door>), Failure> {
    let mut ssh = work.ssh.clone();
    let Some(agent) = work.agents.iter().find(|agent| agent.id == "default") else {
        return Ok((ssh, None));
    };
    let door = match &agent.who {
        AgentKind::Forwarded(socket) | AgentKind::Raw(socket) => {
            ssh.agent = Some(socket.clone());
            None
        }
        keys @ AgentKind::Keys(_) => {
            let opened = Door::open(&scratch.path().join("ssh-git"), keys, 0o600, (0, 0));
            let door = opened.map_err(|error| {
                let message = "the keys of `--ssh default` cannot be offered to git";
                Failure::caused(FailureKind::Machine, "solve::ssh", message, &error)
            })?;
            ssh.agent = Some(door.path());
            Some(door)
        }
    };
    Ok((ssh, door))
}
