//! What a RUN mounts: parts of trees and contexts, caches, memory, secrets.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use super::inputs::Made;
use super::session::{Session, Workshop, store_failure};
use super::steps::tree_unusable;
use crate::digest::{Fields, Key};
use crate::engine::exec::{Access, Mount, Mounted, Secret};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::snapshot::{self, Active};
use crate::engine::tree::copy;
use crate::graph::{
    self, BindMount, CacheMount, CacheSharing, Copy, CopySource, Exec, SecretMount,
};
use crate::store::Lease;
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
                    },
                ),
                graph::Mount::Secret(secret) => match self.secret(secret, env, held)? {
                    Some(mount) => mount,
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
            Some(made) => vec![self.materialised(workshop, made, bind)?],
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
        bind: &BindMount,
    ) -> Result<Key, Failure> {
        let path = bind.source.path.as_str();
        let (mut whole, input) = match made {
            Made::Local(context) => {
                let copy = Copy {
                    root: bind.source.from,
                    sources: vec![CopySource::Path {
                        from: bind.source.from,
                        path: path.to_owned(),
                    }],
                    dest: parent_directory(path),
                    chown: None,
                    chmod: None,
                    link: false,
                    parents: false,
                    exclude: Vec::new(),
                    unpack: false,
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
        let mut name = cache_name(cache, made);
        match cache.sharing {
            CacheSharing::Shared => {}
            CacheSharing::Locked => {
                held.leases.push(
                    self.store
                        .lock(&format!("cache {name}"))
                        .map_err(store_failure)?,
                );
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
        let directory = self.store.path().join("caches").join(&name);
        let is_new = {
            // Whoever makes it fills it before anyone uses it.
            let _making = self
                .store
                .lock(&format!("new cache {name}"))
                .map_err(store_failure)?;
            let is_new = !directory.is_dir();
            if is_new {
                self.fill_cache(workshop, cache, made, &directory)
                    .map_err(|error| cannot(&error))?;
            }
            is_new
        };
        if self.work.no_cache == crate::engine::work::NoCache::Everything && !is_new {
            // What `--no-cache` runs must not see what earlier builds left.
            let _making = self
                .store
                .lock(&format!("new cache {name}"))
                .map_err(store_failure)?;
            let emptied = std::fs::remove_dir_all(&directory);
            emptied.map_err(|error| cannot(&error))?;
            self.fill_cache(workshop, cache, made, &directory)
                .map_err(|error| cannot(&error))?;
        }
        let opened: OwnedFd = File::open(&directory)
            .map_err(|error| cannot(&error))?
            .into();
        let access = if cache.read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        Mounted::bind(opened.as_fd(), access).map_err(|error| cannot(&error))
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
            std::os::unix::fs::chown(&temporary, Some(cache.uid), Some(cache.gid))?;
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(cache.mode))?;
        }
        std::fs::rename(&temporary, directory)
    }

    /// The secret's file, if it has one. Its variable is put into the environment.
    fn secret(
        &self,
        secret: &SecretMount,
        env: &mut Vec<(String, String)>,
        held: &mut Held,
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
        held.hide(given.expose());
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

/// What names a cache among all of them: its id, and what it starts with. One id with another owner, mode or source is
/// another cache.
fn cache_name(cache: &CacheMount, made: Option<&Made>) -> String {
    let mut fields = Fields::new();
    fields.put("cache", cache.id.as_str());
    if let (Some(Made::Tree(tree)), Some(source)) = (made, &cache.source) {
        fields.put("path", source.path.as_str());
        for layer in tree.layers() {
            fields.put("layer", layer.to_string());
        }
    } else {
        fields.put("owner", format!("{}:{}", cache.uid, cache.gid));
        fields.put("mode", format!("{:o}", cache.mode));
    }
    fields.key().to_string()
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
