//! RUN.

use super::NeededSecret;
use super::lint::undefined;
use super::outline::Mounted;
use super::path::{absolute, base_name};
use super::stage::{Lowerer, Work};
use crate::dockerfile::expand::{Keep, expand};
use crate::dockerfile::{
    Command, Heredoc, Instruction, Mount as Flag, MountFlag, MountKind, Problem, Run, Sharing,
    is_heredoc_mark,
};
use crate::graph::{
    BindMount, CacheMount, CacheSharing, Exec, InlineFile, Judge, Mount, MountSource, Network, Op,
    SecretMount, SecretTarget, Security, SshMount, TmpfsMount,
};

/// Variables that a RUN sees without their being declared, and that no key holds.
pub(super) const PROXIES: [&str; 5] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];

/// Where programs look for the socket of an SSH agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
/// The build argument that names the machine that steps run on.
const HOSTNAME_ARGUMENT: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// Where scripts of heredocs lie while they run.
const SCRIPTS: &str = "/dev/pipes/";

impl Lowerer<'_> {
    pub(super) fn run(&mut self, work: &mut Work<'_>, instruction: &Instruction, run: &Run) {
        let (argv, scripts) = command(work, instruction, run);
        if argv.is_empty() {
            let problem = Problem::error(
                "frontend::no_command",
                "RUN [] runs nothing",
                instruction.span,
            );
            self.fail(
                work,
                problem.help("name a program: `RUN [\"program\", \"argument\"]`"),
            );
        }
        let mounts = self.mounts(work, instruction, run);
        let network = self.network(work, run);
        let security = self.security(work, run);
        self.refuse_devices(work, run);
        let state = &work.state;
        let mut env: Vec<(String, String)> = state
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let agent = mounts.iter().find_map(|mount| match mount {
            Mount::Ssh(ssh) => Some(ssh.target.clone()),
            _ => None,
        });
        if let Some(socket) = agent.filter(|_| !state.env.contains_key(AGENT_VARIABLE)) {
            env.push((AGENT_VARIABLE.to_owned(), socket));
        }
        let options = self.options;
        let hostname = options.build_args.get(HOSTNAME_ARGUMENT);
        let op = Op::Exec(Exec {
            root: state.node,
            argv: argv.clone(),
            scripts,
            env,
            env_unkeyed: self.proxies(work),
            user: state.image.config.user.clone(),
            workdir: state.workdir().to_owned(),
            mounts,
            network,
            security,
            hostname: hostname.filter(|name| !name.is_empty()).cloned(),
            hosts: options.run.hosts.clone(),
            ulimits: options.run.ulimits.clone(),
            shm_bytes: options.run.shm_bytes,
            cgroup_parent: options.run.cgroup_parent.clone(),
            timeout_ms: instruction.extras.timeout_ms,
            judge: if instruction.extras.tap {
                Judge::Tap
            } else {
                Judge::Status
            },
        });
        let created_by = format!("RUN {} # buildkit", with_args(work, &argv));
        self.step(work, instruction, op);
        work.state.record_layer(created_by);
    }

    fn network(&mut self, work: &Work<'_>, run: &Run) -> Network {
        // The default is the build's, which may be another one.
        let default = self.options.run.network.unwrap_or_default();
        let Some(written) = &run.network else {
            return default;
        };
        match written.text.parse() {
            Ok(Network::Default) => default,
            Ok(network) => network,
            Err(_) => {
                let message = format!("`{}` is not a network", written.text);
                let problem = Problem::error("frontend::network", message, written.span);
                self.fail(work, problem.help("`default`, `none` or `host`"));
                default
            }
        }
    }

    fn security(&mut self, work: &Work<'_>, run: &Run) -> Security {
        let Some(written) = &run.security else {
            return Security::Sandbox;
        };
        match written.text.as_str() {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            other => {
                let message = format!("`{other}` is not a security mode");
                let problem = Problem::error("frontend::security", message, written.span);
                self.fail(work, problem.help("`sandbox` or `insecure`"));
                Security::Sandbox
            }
        }
    }

    fn refuse_devices(&mut self, work: &Work<'_>, run: &Run) {
        if let Some(device) = run.devices.first() {
            let problem = Problem::error(
                "frontend::device",
                "RUN --device is not supported: the devices of this machine stay outside of a step",
                device.span,
            );
            self.fail(
                work,
                problem.help(
                    "take the flag away; `/dev` has null, zero, full, random, urandom and tty",
                ),
            );
        }
    }

    /// Proxies that are not declared as ARG or ENV, under both of their spellings.
    fn proxies(&self, work: &Work<'_>) -> Vec<(String, String)> {
        let given = |name: &str| {
            let args = self.options.build_args.iter();
            let mut all = args.chain(self.options.proxies.iter());
            all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.clone())
        };
        let mut proxies = Vec::new();
        for name in PROXIES {
            let Some(value) = given(name) else { continue };
            for spelling in [name.to_owned(), name.to_lowercase()] {
                if !work.state.env.contains_key(&spelling) {
                    proxies.push((spelling, value.clone()));
                }
            }
        }
        proxies
    }

    fn mounts(&mut self, work: &Work<'_>, instruction: &Instruction, run: &Run) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = Vec::new();
        for flag in &run.mounts {
            let Some(read) = self.read_mount(work, flag) else {
                continue;
            };
            self.outline_mount(work, instruction, &read);
            let agents = mounts.iter().filter(|mount| matches!(mount, Mount::Ssh(_)));
            let agents = agents.count();
            let Some(mount) = self.mount(work, instruction, flag, read, agents) else {
                continue;
            };
            let target = target_of(&mount).map(str::to_owned);
            if target.is_some()
                && mounts
                    .iter()
                    .any(|other| target_of(other) == target.as_deref())
            {
                let message = format!("two mounts are at `{}`", target.unwrap_or_default());
                self.fail(
                    work,
                    Problem::error("frontend::mount_twice", message, flag.span),
                );
            }
            mounts.push(mount);
        }
        mounts
    }

    fn read_mount(&mut self, work: &Work<'_>, flag: &MountFlag) -> Option<Flag> {
        let mut unset = std::collections::BTreeSet::new();
        let read = flag.read(&mut |value| {
            let mut expansion = expand(value, self.escape, &work.state.env, Keep::Nothing)?;
            unset.append(&mut expansion.unset);
            Ok(expansion.text)
        });
        undefined(self, work, &unset, flag.span);
        read.map_err(|problem| self.fail(work, *problem)).ok()
    }

    fn outline_mount(&mut self, work: &Work<'_>, instruction: &Instruction, read: &Flag) {
        let target = read.target.as_deref().unwrap_or_default();
        let named = read.source.as_ref().or(read.id.as_ref());
        let named = named.filter(|id| !id.is_empty()).cloned();
        let (what, id) = match read.kind {
            MountKind::Secret => {
                let id = named.unwrap_or_else(|| base_name(target).to_owned());
                (Mounted::Secret, id)
            }
            MountKind::Ssh => {
                let id = named.unwrap_or_else(|| "default".to_owned());
                (Mounted::Ssh, id)
            }
            MountKind::Cache => {
                let id = read.id.clone().unwrap_or_else(|| cache_id(target));
                (Mounted::Cache, id)
            }
            MountKind::Bind | MountKind::Tmpfs => return,
        };
        let span = work.place(instruction.span);
        self.asked.mount(work.index, what, &id, read.required, span);
    }

    fn mount(
        &mut self,
        work: &Work<'_>,
        instruction: &Instruction,
        flag: &MountFlag,
        read: Flag,
        agents: usize,
    ) -> Option<Mount> {
        let span = flag.span;
        let written = read.target.clone().unwrap_or_default();
        match read.kind {
            MountKind::Ssh => {
                return Some(Mount::Ssh(self.ssh(work, instruction, read, agents)));
            }
            MountKind::Secret => return Some(Mount::Secret(self.secret(work, instruction, read))),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
        }
        let target = absolute(work.state.workdir(), &written);
        if target == "/" {
            let problem = Problem::error(
                "frontend::mount_target",
                "a mount cannot cover the whole root",
                span,
            );
            self.fail(work, problem.help("give it a `target` below `/`"));
            return None;
        }
        if read.kind == MountKind::Tmpfs {
            return Some(Mount::Tmpfs(TmpfsMount {
                target,
                size_bytes: read.size_bytes.filter(|size| *size > 0),
                read_only: read.read_only,
            }));
        }
        let from = match (&read.from, read.kind) {
            (Some(from), _) => Some(self.tree(work, from, span)?),
            (None, MountKind::Cache) => None,
            (None, _) => Some(self.context()),
        };
        let path = absolute("/", read.source.as_deref().unwrap_or_default());
        let subdir = match from {
            None => path.clone(),
            Some(_) => "/".to_owned(),
        };
        let source = from.map(|from| MountSource { from, path });
        if let (MountKind::Bind, Some(source)) = (read.kind, &source) {
            // What is mounted is named exactly: nothing in it is a wildcard.
            self.expect_file(work, source.from, &source.path, span);
            return Some(Mount::Bind(BindMount {
                source: source.clone(),
                target,
                writable: !read.read_only,
            }));
        }
        let namespace = self
            .options
            .build_args
            .get("BUILDKIT_CACHE_MOUNT_NS")
            .filter(|name| !name.is_empty());
        let id = read.id.unwrap_or_else(|| cache_id(&written));
        Some(Mount::Cache(CacheMount {
            id: namespace.map_or(id.clone(), |namespace| format!("{namespace}/{id}")),
            target,
            read_only: read.read_only,
            sharing: match read.sharing {
                None | Some(Sharing::Shared) => CacheSharing::Shared,
                Some(Sharing::Private) => CacheSharing::Private,
                Some(Sharing::Locked) => CacheSharing::Locked,
            },
            source,
            subdir,
            mode: read.mode.unwrap_or(0o755),
            uid: read.uid.unwrap_or(0),
            gid: read.gid.unwrap_or(0),
        }))
    }

    fn ssh(
        &mut self,
        work: &Work<'_>,
        instruction: &Instruction,
        read: Flag,
        agents: usize,
    ) -> SshMount {
        let id = read.id.unwrap_or_else(|| "default".to_owned());
        match self.agents.iter_mut().find(|agent| agent.id == id) {
            Some(known) => known.required |= read.required,
            None => self.agents.push(NeededSecret {
                id: id.clone(),
                required: read.required,
                span: work.place(instruction.span),
            }),
        }
        let target = read.target.filter(|target| !target.is_empty());
        SshMount {
            id,
            target: match target {
                Some(target) => absolute(work.state.workdir(), &target),
                None => format!("/run/buildkit/ssh_agent.{agents}"),
            },
            required: read.required,
            mode: read.mode.unwrap_or(0o600) & 0o777,
            uid: read.uid.unwrap_or(0),
            gid: read.gid.unwrap_or(0),
        }
    }

    fn secret(&mut self, work: &Work<'_>, instruction: &Instruction, read: Flag) -> SecretMount {
        let target = read.target.filter(|target| !target.is_empty());
        let named = read.source.or(read.id).filter(|id| !id.is_empty());
        let id =
            named.unwrap_or_else(|| base_name(target.as_deref().unwrap_or_default()).to_owned());
        let path = match (target, &read.env) {
            (Some(target), _) => Some(absolute(work.state.workdir(), &target)),
            (None, None) => Some(format!("/run/secrets/{}", base_name(&id))),
            (None, Some(_)) => None,
        };
        match self.secrets.iter_mut().find(|secret| secret.id == id) {
            Some(known) => known.required |= read.required,
            None => {
                self.secrets.push(NeededSecret {
                    id: id.clone(),
                    required: read.required,
                    span: work.place(instruction.span),
                });
            }
        }
        // An empty `env=` names the variable after the secret.
        let env = read
            .env
            .map(|name| if name.is_empty() { id.clone() } else { name });
        SecretMount {
            id,
            target: SecretTarget { path, env },
            required: read.required,
            mode: read.mode.unwrap_or(0o400),
            uid: read.uid.unwrap_or(0),
            gid: read.gid.unwrap_or(0),
        }
    }
}

fn target_of(mount: &Mount) -> Option<&str> {
    match mount {
        Mount::Bind(bind) => Some(&bind.target),
        Mount::Cache(cache) => Some(&cache.target),
        Mount::Tmpfs(tmpfs) => Some(&tmpfs.target),
        Mount::Secret(secret) => secret.target.path.as_deref(),
        Mount::Ssh(ssh) => Some(&ssh.target),
    }
}

/// The id of a cache that has none: its target, as written.
fn cache_id(target: &str) -> String {
    let clean = absolute("/", target);
    if target.starts_with('/') {
        clean
    } else {
        clean[1..].to_owned()
    }
}

/// What is run, and the scripts that it needs.
fn command(
    work: &Work<'_>,
    instruction: &Instruction,
    run: &Run,
) -> (Vec<String>, Vec<InlineFile>) {
    let line = match &run.command {
        Command::Exec(words) => {
            return (
                words.iter().map(|word| word.text.clone()).collect(),
                Vec::new(),
            );
        }
        Command::Shell(line) => line.text.clone(),
    };
    let mut scripts = Vec::new();
    let line = match instruction.heredocs.as_slice() {
        [] => line,
        // The body is the script where the mark is all there is.
        [heredoc] if is_heredoc_mark(&line) => {
            let content = heredoc.content();
            if content.starts_with("#!") {
                let name = format!("{SCRIPTS}{}", heredoc.name);
                scripts.push(InlineFile {
                    name: name.clone(),
                    content,
                });
                name
            } else {
                content
            }
        }
        heredocs => with_bodies(line, heredocs),
    };
    (in_shell(work, line), scripts)
}

/// The command with its heredocs, for the shell to read.
fn with_bodies(line: String, heredocs: &[Heredoc]) -> String {
    heredocs.iter().fold(line, |text, heredoc| {
        format!("{text}\n{}{}", heredoc.body, heredoc.name)
    })
}

/// A command line for the stage's shell.
pub(super) fn in_shell(work: &Work<'_>, line: String) -> Vec<String> {
    let shell = work
        .state
        .image
        .config
        .shell
        .clone()
        .filter(|shell| !shell.is_empty());
    let mut argv = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    argv.push(line);
    argv
}

/// `|2 A=1 B=2 /bin/sh -c …`: the command as the history has it, with the ARGs that it saw.
fn with_args(work: &Work<'_>, argv: &[String]) -> String {
    let args: Vec<String> = work
        .state
        .args
        .iter()
        .map(|(name, value)| {
            let seen = work.state.env.get(name).or(value.as_ref());
            format!("{name}={}", seen.map_or("", String::as_str))
        })
        .collect();
    let mut words: Vec<&str> = Vec::new();
    let count = format!("|{}", args.len());
    if !args.is_empty() {
        words.push(&count);
        words.extend(args.iter().map(String::as_str));
    }
    words.extend(argv.iter().map(String::as_str));
    words.join(" ")
}
