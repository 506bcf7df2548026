//! What a RUN mounts: parts of trees and contexts, caches, memory, secrets.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::inputs::{Made, Tree};
use super::session::{Session, Workshop, store_failure};
use super::steps::tree_unusable;
use crate::digest::{Fields, Key};
use crate::engine::exec::{Access, Mount, Mounted, Secret};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::snapshot::{self, Active};
use crate::engine::ssh::Door;
use crate::engine::tree::copy;
use crate::engine::work::NoCache;
use crate::graph::{
    self, BindMount, CacheMount, CacheSharing, Copy, CopySource, Exec, MountSource, SecretMount,
    SshMount, Unpack,
};
use crate::store::{CacheUse, Lease};
use crate::sys::root::{Root, Scope};

impl Session<'_> {
    /// Everything that a RUN mounts. Variables of secrets are put into the environment; `held` keeps what must live as
    /// long as the RUN.
    ///
    /// # Errors
    /// If something to be mounted is not there.
    pub(super) fn mounts(
        &self,
        workshop: &Workshop,
        exec: &Exec,
        inputs: &[Made],
        env: &mut Vec<(String, String)>,
        held: &mut Held,
    ) -> Result<Vec<Mount>, Failure> {
        let mut rest = inputs.iter();
        let mut mounts = Vec::new();
        for secret in &self.work.secrets {
            // Whichever step was given it: what one leaves in a cache or a layer, another may print.
            held.hide(secret.expose());
        }
        for script in &exec.scripts {
            let content = Secret(script.content.clone().into_bytes());
            mounts.push(Mount {
                target: script.name.clone(),
                what: Mounted::File {
                    content,
                    mode: 0o755,
                    uid: 0,
                    gid: 0,
                },
            });
        }
        for mount in &exec.mounts {
            let (target, what) = match mount {
                graph::Mount::Bind(bind) => {
                    let made = rest.next();
                    (bind.target.clone(), self.bind(workshop, bind, made, held)?)
                }
                graph::Mount::Cache(cache) => {
                    let made = cache.source.as_ref().and_then(|_| rest.next());
                    (
                        cache.target.clone(),
                        self.cache(workshop, cache, made, held)?,
                    )
                }
                graph::Mount::Tmpfs(tmpfs) => (
                    tmpfs.target.clone(),
                    Mounted::Tmpfs {
                        size_bytes: tmpfs.size_bytes,
                        mode: 0o1777,
                        access: match tmpfs.read_only {
                            true => Access::ReadOnly,
                            false => Access::ReadWrite,
                        },
                    },
                ),
                graph::Mount::Secret(secret) => match self.secret(secret, env)? {
                    Some(mount) => mount,
                    None => continue,
                },
                graph::Mount::Ssh(ssh) => match self.ssh(workshop, ssh, held)? {
                    Some(what) => (ssh.target.clone(), what),
                    None => continue,
                },
            };
            mounts.push(Mount { target, what });
        }
        Ok(mounts)
    }

    fn bind(
        &self,
        workshop: &Workshop,
        bind: &BindMount,
        made: Option<&Made>,
        held: &mut Held,
    ) -> Result<Mounted, Failure> {
        let layers = match made {
            Some(Made::Tree(tree)) => tree.layers().to_vec(),
            Some(made) => vec![self.materialised(workshop, made, &bind.source)?],
            None => Vec::new(),
        };
        let mut active = workshop.snapshots.prepare(&layers)?;
        let path = active.attach()?;
        let source = pinned(&path, &bind.source.path)?;
        let access = if bind.writable {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        };
        let mounted = Mounted::bind(source.as_fd(), access).map_err(|error| {
            let message = format!(
                "`{}` cannot be mounted from {}",
                bind.source.path,
                path.display()
            );
            Failure::caused(FailureKind::Machine, "exec::bind", message, &error)
        })?;
        held.trees.push(active);
        Ok(mounted)
    }

    /// A snapshot of what is at a path of a context or download, for a mount: there it can be changed without harm.
    fn materialised(
        &self,
        workshop: &Workshop,
        made: &Made,
        source: &MountSource,
    ) -> Result<Key, Failure> {
        let path = source.path.as_str();
        let (mut whole, input) = match made {
            Made::Local(context) => {
                let copy = Copy {
                    root: source.from,
                    sources: vec![CopySource::Path {
                        from: source.from,
                        path: path.to_owned(),
                    }],
                    dest: parent_directory(path),
                    chown: None,
                    chmod: None,
                    link: false,
                    parents: false,
                    exclude: Vec::new(),
                    unpack: Unpack::Nothing,
                };
                (copy, copy::Input::Tree(context))
            }
            Made::Tree(_) | Made::Download(_) => {
                return Err(Failure::new(
                    FailureKind::Input,
                    "exec::bind",
                    "only trees and contexts can be mounted",
                ));
            }
        };
        if is_directory(&whole, input) {
            whole.dest = format!("/{}/", path.trim_matches('/')).replace("//", "/");
        }
        let selected = copy::select(&whole, &[input])?;
        let digests = selected.digests(&whole, &self.reading()?)?;
        let mut fields = Fields::new();
        fields.put("mounted path", path);
        for digest in digests {
            fields.put("content", digest.to_string());
        }
        let id = fields.key();
        let _lease = self
            .store
            .lock(&format!("mounted {id}"))
            .map_err(store_failure)?;
        if workshop.snapshots.has(&id) {
            return Ok(id);
        }
        let active = workshop.snapshots.prepare(&[])?;
        let dest = active
            .mounted()
            .root()
            .map_err(|error| tree_unusable(&error))?;
        copy::run(&whole, &selected, &dest)?;
        let made = snapshot::Made {
            id,
            key: None,
            fields,
            created_ms: self.now_ms(),
            duration_ms: 0,
            what: format!("{path} of a context, to be mounted"),
        };
        workshop.snapshots.commit(active.settle()?, made)?;
        Ok(id)
    }

    fn cache(
        &self,
        workshop: &Workshop,
        cache: &CacheMount,
        made: Option<&Made>,
        held: &mut Held,
    ) -> Result<Mounted, Failure> {
        let cannot = |error: &std::io::Error| {
            let message = format!("the cache `{}` cannot be used", cache.id);
            Failure::caused(FailureKind::Machine, "exec::cache", message, error)
        };
        let made = match (made, &cache.source) {
            (Some(local @ Made::Local(_)), Some(source)) => {
                let id = self.materialised(workshop, local, source)?;
                Some(Made::Tree(Tree::new(vec![id])))
            }
            _ => made.cloned(),
        };
        let made = made.as_ref();
        let mut name = cache_name(cache, made);
        match cache.sharing {
            CacheSharing::Shared => {}
            CacheSharing::Locked => {
                let lease = self.wait_for(workshop, &format!("cache {name}"))?;
                held.leases.push(lease);
            }
            CacheSharing::Private => {
                // The first that is free; a new one if none is.
                for number in 0.. {
                    let candidate = format!("{name}-{number}");
                    let lease = self
                        .store
                        .try_lock(&format!("cache {candidate}"))
                        .map_err(store_failure)?;
                    if let Some(lease) = lease {
                        held.leases.push(lease);
                        name = candidate;
                        break;
                    }
                }
            }
        }
        let directory = match self.work.aside {
            true => workshop.reach.scratch.path().join(format!("cache-{name}")),
            false => self.store.path().join("caches").join(&name),
        };
        {
            // Whoever makes it fills it before anyone uses it.
            let _making = self
                .store
                .lock(&format!("new cache {name}"))
                .map_err(store_failure)?;
            let is_emptied = self.work.no_cache == NoCache::Everything && !self.work.aside;
            if is_emptied && self.is_first_use(&name) {
                // Such a build must not see what earlier ones left. Those that still run keep what they have open.
                let aside = workshop.reach.scratch.path().join(format!("cache-{name}"));
                match std::fs::rename(&directory, &aside) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(cannot(&error));
                    }
                    _ => {}
                }
            }
            loop {
                if !directory.is_dir() && !self.brings_cache(&name, &directory) {
                    self.fill_cache(workshop, cache, made, &directory)
                        .map_err(|error| cannot(&error))?;
                }
                if self.work.aside {
                    break;
                }
                let lease = self.store.lease_of("caches", &name);
                if let Some(lease) = lease.map_err(store_failure)? {
                    held.leases.push(lease);
                    break;
                }
            }
        }
        let opened = if cache.subdir == "/" {
            let opened: OwnedFd = File::open(&directory)
                .map_err(|error| cannot(&error))?
                .into();
            opened
        } else {
            pinned(&directory, &cache.subdir).map_err(|failure| {
                failure.with_help(format!(
                    "`source` without `from` names a directory of the cache `{}` itself; a step makes it first",
                    cache.id
                ))
            })?
        };
        let access = if cache.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        Mounted::bind(opened.as_fd(), access).map_err(|error| cannot(&error))
    }

    /// Whether the cache mount came from elsewhere, where an earlier build has left it.
    fn brings_cache(&self, name: &str, directory: &std::path::Path) -> bool {
        if self.work.no_cache == NoCache::Everything {
            return false;
        }
        let fetched = self
            .elsewhere
            .fetch_mount(name, directory, self.store, &self.registries);
        fetched.unwrap_or_else(|_| {
            self.elsewhere.tell(self.events);
            false
        })
    }

    fn fill_cache(
        &self,
        workshop: &Workshop,
        cache: &CacheMount,
        made: Option<&Made>,
        directory: &std::path::Path,
    ) -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let temporary = directory.with_extension("new");
        drop(std::fs::remove_dir_all(&temporary));
        std::fs::create_dir_all(&temporary)?;
        if let (Some(Made::Tree(tree)), Some(source)) = (made, &cache.source) {
            let mounted = workshop.tree(tree).map_err(std::io::Error::other)?;
            let root = mounted.root().map_err(std::io::Error::other)?;
            let from = root.dir(source.path.trim_start_matches('/'))?;
            let to = crate::sys::dir::Dir::open_trusted(&temporary)?;
            snapshot::copy::copy_tree(&from, &to)?;
            // It is the source's directory, with the source's owner and mode.
            let seen = from.own_metadata()?;
            to.set_own_owner(seen.uid, seen.gid)?;
            to.set_own_mode(seen.mode)?;
        } else {
            let made = crate::sys::dir::Dir::open_trusted(&temporary)?;
            made.set_own_owner(cache.uid, cache.gid)?;
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(cache.mode))?;
        }
        std::fs::rename(&temporary, directory)
    }

    /// The socket of an SSH agent, if that agent was given.
    fn ssh(
        &self,
        workshop: &Workshop,
        ssh: &SshMount,
        held: &mut Held,
    ) -> Result<Option<Mounted>, Failure> {
        let Some(agent) = self.work.agents.iter().find(|agent| agent.id == ssh.id) else {
            if ssh.required {
                let message = format!(
                    "this step needs the SSH agent `{}`, which was not given",
                    ssh.id
                );
                let how = match ssh.id.as_str() {
                    "default" => "--ssh default",
                    _ => "--ssh ID=SOCKET or --ssh ID=KEYFILE",
                };
                let how = how.replace("ID", &ssh.id);
                return Err(Failure::new(FailureKind::Input, "exec::no_agent", message)
                    .with_help(format!("give it with `{how}`")));
            }
            return Ok(None);
        };
        let cannot = |error: &std::io::Error| {
            let message = format!("the SSH agent `{}` cannot be offered to this step", ssh.id);
            Failure::caused(FailureKind::Machine, "exec::ssh", message, error)
        };
        let number = self.doors.fetch_add(1, Ordering::Relaxed);
        let place = workshop.reach.scratch.path().join(format!("ssh-{number}"));
        let door = Door::open(&place, &agent.who, ssh.mode, (ssh.uid, ssh.gid))
            .map_err(|error| cannot(&error))?;
        let socket = door.socket().map_err(|error| cannot(&error))?;
        let mounted = Mounted::bind(socket.as_fd(), Access::ReadWrite);
        held.doors.push(door);
        mounted.map(Some).map_err(|error| cannot(&error))
    }

    /// The secret's file, if it has one. Its variable is put into the environment.
    fn secret(
        &self,
        secret: &SecretMount,
        env: &mut Vec<(String, String)>,
    ) -> Result<Option<(String, Mounted)>, Failure> {
        let Some(given) = self.work.secrets.iter().find(|given| given.id == secret.id) else {
            if secret.required {
                let message = format!(
                    "this step needs the secret `{}`, which was not given",
                    secret.id
                );
                return Err(Failure::new(FailureKind::Input, "exec::no_secret", message)
                    .with_help(format!("give it with `--secret id={},src=FILE`", secret.id)));
            }
            return Ok(None);
        };
        if let Some(name) = &secret.target.env {
            let value = String::from_utf8_lossy(given.expose()).into_owned();
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value));
        }
        let content = Secret(given.expose().to_vec());
        let (mode, uid, gid) = (secret.mode, secret.uid, secret.gid);
        Ok(secret.target.path.clone().map(|path| {
            (
                path,
                Mounted::File {
                    content,
                    mode,
                    uid,
                    gid,
                },
            )
        }))
    }
}

/// What a RUN needs for as long as it runs.
#[derive(Default)]
pub(super) struct Held {
    trees: Vec<Active>,
    leases: Vec<Lease>,
    doors: Vec<Door>,
    secrets: Vec<String>,
}

impl Held {
    /// From now on this value is not shown.
    fn hide(&mut self, secret: &[u8]) {
        let text = String::from_utf8_lossy(secret);
        // One of a few letters would hide half of every log.
        self.secrets.extend(
            text.lines()
                .map(str::trim)
                .filter(|line| line.len() >= 4)
                .map(str::to_owned),
        );
    }

    /// A line of output as it may be shown: without secrets, and without what moves a terminal's cursor.
    pub(super) fn redacted(&self, line: &[u8]) -> String {
        let mut text = String::with_capacity(line.len());
        for c in String::from_utf8_lossy(line).trim_end_matches('\r').chars() {
            match c {
                '\t' => text.push('\t'),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "*****");
            }
        }
        text
    }
}

/// The directory that a cache is kept in. What it starts with is part of what it is: another mode or owner of its root,
/// or other files, is another cache.
fn cache_name(cache: &CacheMount, made: Option<&Made>) -> String {
    let started = match (made, &cache.source) {
        (Some(Made::Tree(tree)), Some(source)) => {
            Some(format!("{} {}", tree.identity(), source.path))
        }
        _ if (cache.mode, cache.uid, cache.gid) != (0o755, 0, 0) => {
            Some(format!("{:o} {}:{}", cache.mode, cache.uid, cache.gid))
        }
        _ => None,
    };
    match started {
        None => Key::of(cache.id.as_bytes()).to_string(),
        Some(started) => {
            let mut fields = Fields::new();
            fields.put("cache", cache.id.clone());
            fields.put("starts with", started);
            fields.key().to_string()
        }
    }
}

/// The cache mounts of a step, as far as it is known without their sources what they are called.
pub(super) fn caches_of(exec: &Exec) -> Vec<CacheUse> {
    let mut caches = Vec::new();
    for mount in &exec.mounts {
        let graph::Mount::Cache(cache) = mount else {
            continue;
        };
        let name = cache_name(cache, None);
        let directory = match cache.sharing {
            // Of several, the one that is used when nobody else uses it.
            CacheSharing::Private => format!("{name}-0"),
            CacheSharing::Shared | CacheSharing::Locked => name,
        };
        caches.push(CacheUse {
            directory,
            id: cache.id.clone(),
        });
    }
    caches
}

/// A file or directory of a tree, held open; links are followed inside of the tree.
fn pinned(root: &std::path::Path, path: &str) -> Result<OwnedFd, Failure> {
    let failed = |error: &std::io::Error| {
        let message = format!("there is no `{path}` to be mounted");
        Failure::caused(FailureKind::Input, "exec::bind", message, error)
    };
    let root = Root::open_trusted(root, Scope::Image).map_err(|error| failed(&error))?;
    let relative = path.trim_start_matches('/');
    if relative.is_empty() {
        return root
            .top()
            .try_clone()
            .map(OwnedFd::from)
            .map_err(|error| failed(&error));
    }
    root.pin(relative).map_err(|error| failed(&error))
}

fn is_directory(copy: &Copy, input: copy::Input<'_>) -> bool {
    let (Some(CopySource::Path { path, .. }), copy::Input::Tree(tree)) =
        (copy.sources.first(), input)
    else {
        return false;
    };
    let real = tree.root().real_path(path.trim_start_matches('/'));
    let found = real.and_then(|real| tree.root().find(real));
    found.ok().flatten().is_some_and(|found| found.is_dir())
}

fn parent_directory(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, _)) => format!("/{}/", parent.trim_matches('/')).replace("//", "/"),
        None => "/".to_owned(),
    }
}
