//! The `git` program, in an environment that is wholly ours.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Settings;
use super::error::{Error, Result};
use super::reference;
use super::route::Route;
use crate::net;

/// Settings that hold whatever a repository says. They are in a file rather than on the command line, since git does not
/// pass the latter on to the process that serves a local repository.
const CONFIGURATION: &str = "\
[core]
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	autocrlf = false
	logAllRefUpdates = false
	symlinks = true
	fileMode = true
[safe]
	directory = *
[gc]
	auto = 0
[maintenance]
	auto = false
[submodule]
	recurse = false
[fetch]
	writeCommitGraph = false
	recurseSubmodules = false
[pack]
	writeReverseIndex = false
	threads = 1
[index]
	version = 2
[feature]
	manyFiles = false
[uploadpack]
	allowAnySHA1InWant = true
	allowFilter = false
[advice]
	detachedHead = false
[init]
	defaultBranch = main
[protocol]
	version = 2
";

/// How many of its last lines are shown.
const TAIL_LINES: usize = 6;

/// What ssh is run with, and nothing else: the system's own file may ask for anything, and within a user namespace ssh
/// takes it for a stranger's. A host's key is taken when it is first seen, and has to be the same from then on.
fn ssh_configuration(settings: &Settings) -> String {
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let known = std::iter::once(quoted(&settings.mirrors.join("known_hosts")))
        .chain(settings.ssh.known_hosts.as_deref().map(quoted));
    format!(
        "BatchMode yes\nStrictHostKeyChecking accept-new\nUserKnownHostsFile {}\n\
         GlobalKnownHostsFile /etc/ssh/ssh_known_hosts\nIdentityFile none\nForwardAgent no\nForwardX11 no\n\
         ConnectTimeout 20\nServerAliveInterval 20\nServerAliveCountMax 3\nLogLevel ERROR\n",
        known.collect::<Vec<_>>().join(" ")
    )
}

/// Sees that a file has a content.
fn keep(path: &Path, content: &str) -> Result<()> {
    if std::fs::read_to_string(path).ok().as_deref() == Some(content) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(path);
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| super::super::temporary(directory, "config"))
        .and_then(|(mut file, temporary)| {
            file.write_all(content.as_bytes())?;
            std::fs::rename(temporary, path)
        });
    written.map_err(|source| Error::io("cannot write", path, source))
}

/// Who named a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The build itself.
    Named,
    /// A repository that has it as a submodule.
    Submodule,
}

/// git, ready to be run.
#[derive(Clone)]
pub(super) struct Program {
    path: PathBuf,
    url: String,
    environment: Vec<(&'static str, String)>,
    repository: Option<PathBuf>,
}

/// The environment may hold a secret.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// For work on repositories of this machine.
    pub(super) fn local(settings: &Settings) -> Result<Self> {
        Self::at(settings, "/")
    }

    /// For work on a source's repository.
    pub(super) fn new(settings: &Settings, route: &Route) -> Result<Self> {
        let mut program = Self::at(settings, &route.url)?;
        if let (Some(authorization), Some(scope)) =
            (&route.authorization, reference::scope(&route.url))
        {
            // Not on the command line, which everybody can read. A redirect may lead to another host, and git would tell
            // it as well; where redirects lead is known.
            let set = [
                ("GIT_CONFIG_COUNT", "2".to_owned()),
                ("GIT_CONFIG_KEY_0", format!("http.{scope}.extraHeader")),
                (
                    "GIT_CONFIG_VALUE_0",
                    format!("Authorization: {}", authorization.expose()),
                ),
                ("GIT_CONFIG_KEY_1", "http.followRedirects".to_owned()),
                ("GIT_CONFIG_VALUE_1", "false".to_owned()),
            ];
            program.environment.extend(set);
        }
        Ok(program)
    }

    fn at(settings: &Settings, url: &str) -> Result<Self> {
        let configuration = settings.mirrors.join("config");
        keep(&configuration, CONFIGURATION)?;
        let protocols = if reference::is_local(url) {
            "file"
        } else {
            "https:http:ssh:git"
        };
        let ssh = match reference::is_ssh(url) {
            true => {
                let path = settings.mirrors.join("ssh-config");
                keep(&path, &ssh_configuration(settings))?;
                format!(
                    "ssh -F '{}'",
                    path.display().to_string().replace('\'', "'\\''")
                )
            }
            false => "/bin/false".to_owned(),
        };
        let nothing = || "/dev/null".to_owned();
        let mut environment = vec![
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("HOME", settings.mirrors.to_string_lossy().into_owned()),
            ("LC_ALL", "C".to_owned()),
            ("TZ", "UTC".to_owned()),
            (
                "GIT_CONFIG_GLOBAL",
                configuration.to_string_lossy().into_owned(),
            ),
            ("GIT_CONFIG_SYSTEM", nothing()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_ATTR_NOSYSTEM", "1".to_owned()),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("GIT_ASKPASS", "/bin/false".to_owned()),
            ("SSH_ASKPASS", "/bin/false".to_owned()),
            ("GIT_SSH_COMMAND", ssh),
            ("GIT_SSH_VARIANT", "ssh".to_owned()),
            ("GIT_ALLOW_PROTOCOL", protocols.to_owned()),
            ("GIT_PROTOCOL_FROM_USER", "0".to_owned()),
            ("GIT_NO_REPLACE_OBJECTS", "1".to_owned()),
            ("GIT_OPTIONAL_LOCKS", "0".to_owned()),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1".to_owned()),
            ("GIT_HTTP_LOW_SPEED_TIME", "60".to_owned()),
        ];
        let proxies = &settings.proxies;
        for (name, value) in [
            ("http_proxy", &proxies.http),
            ("https_proxy", &proxies.https),
            ("no_proxy", &proxies.no_proxy),
        ] {
            environment.extend(value.clone().map(|value| (name, value)));
        }
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        environment.extend(
            settings
                .ca_file
                .as_ref()
                .map(|file| ("GIT_SSL_CAINFO", path(file))),
        );
        environment.extend(
            settings
                .ssh
                .agent
                .as_ref()
                .map(|socket| ("SSH_AUTH_SOCK", path(socket))),
        );
        Ok(Self {
            path: settings.program.clone(),
            url: url.to_owned(),
            environment,
            repository: None,
        })
    }

    /// For commands of one repository: its git directory.
    pub(super) fn in_repository(&self, directory: &Path) -> Self {
        Self {
            repository: Some(directory.to_owned()),
            ..self.clone()
        }
    }

    /// With one more variable.
    pub(super) fn with(&self, name: &'static str, value: String) -> Self {
        let mut with = self.clone();
        with.environment.push((name, value));
        with
    }

    /// Runs a command that must succeed, with nothing on its standard input; its standard output.
    pub(super) fn text(&self, arguments: &[&str]) -> Result<String> {
        self.text_with(arguments, &[])
    }

    /// Runs a command that must succeed, with `input` on its standard input; its standard output.
    pub(super) fn text_with(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        let output = self
            .run(arguments, input)
            .map_err(|source| Error::Missing {
                path: self.path.clone(),
                source,
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said =
            String::from_utf8_lossy(&output.stderr).replace(&self.url, &net::redacted(&self.url));
        let lines: Vec<&str> = said.lines().collect();
        let why = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Err(Error::Failed {
            verb: arguments.first().copied().unwrap_or("").to_owned(),
            url: net::redacted(&self.url),
            why: if why.is_empty() {
                output.status.to_string()
            } else {
                why
            },
        })
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/");
        if let Some(repository) = &self.repository {
            command.env("GIT_DIR", repository);
        }
        command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if input.is_empty() {
            return command.stdin(Stdio::null()).output();
        }
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        std::thread::scope(|scope| {
            // Written beside, as git may answer before it has read everything. If it stops reading, its status says why.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            child.wait_with_output()
        })
    }
}
