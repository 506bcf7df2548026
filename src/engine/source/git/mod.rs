//! A commit of a repository, as a tree of files: the same commit gives the same bytes, `.git` included.
//!
//! ```text
//! local_fingerprint     what a local repository or bundle says of its references, without git
//! Git::resolve          what a reference means now                       = Resolved, a plain value
//! Git::checkout         the files of exactly that commit, through a mirror that is kept
//! ```
//!
//! The work is done by the `git` program in an environment that is wholly ours: no prompt, no configuration of the user
//! or the system, no hook, no filter, no protocol but those of the source. A repository is a stranger's: its references
//! and paths are checked before they are put on a command line, and always after `--end-of-options` or `--`.
//!
//! Leaves out Large File Storage and partial clones.

mod checkout;
mod error;
mod local;
mod program;
mod reference;
mod route;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{Fields, Key};
use crate::engine::work::Ssh;
use crate::graph::GitSource;
use crate::net::{self, Authorization, Proxies};

pub use error::{Error, Result};
pub use local::local_fingerprint;
use program::{Program, Reach};
use reference::Refs;
use route::Routes;

/// Which way of making a tree this is. Any change that can change a byte of the result gets the next number.
pub const RECIPE: &str = "1";

/// What git is run with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `git` program, by its absolute path.
    pub program: PathBuf,
    /// Where mirrors are kept: a directory of its own.
    pub mirrors: PathBuf,
    /// How servers are reached.
    pub proxies: Proxies,
    /// A file of certificate authorities instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// How ssh gets in.
    pub ssh: Ssh,
    /// What servers want to see; the first that is for a server counts.
    pub credentials: Vec<Credential>,
    /// What a source's own secret says, by the secret's id.
    pub tokens: Vec<(String, Authorization)>,
}

/// What is said to servers that are reached over http.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The host, with its port if that is a special one; `None`: the repository that is asked for, wherever it is, but
    /// none of its submodules.
    pub host: Option<String>,
    /// The header.
    pub authorization: Authorization,
}

/// Whether a source names its commit, so that nothing has to be asked to know it.
#[must_use]
pub fn is_pinned(source: &GitSource) -> bool {
    source.fetch_by_commit
        || source
            .reference
            .as_deref()
            .is_some_and(reference::is_commit)
}

/// What a reference of a repository means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The commit, in full.
    pub commit: String,
    /// The name under which the repository has it, `refs/…`; `None`: it was asked for by its own name.
    pub reference: Option<String>,
    /// The object of an annotated tag, if `reference` is one.
    pub tag_object: Option<String>,
}

impl Resolved {
    /// Whether this is the name, or the first digits of the name, of the commit or of its tag's object.
    #[must_use]
    pub fn is(&self, checksum: &str) -> bool {
        std::iter::once(&self.commit)
            .chain(&self.tag_object)
            .any(|object| object.starts_with(checksum))
    }

    /// The branch that is checked out.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.reference
            .as_deref()
            .and_then(|name| name.strip_prefix("refs/heads/"))
    }

    /// What the tree of this commit depends on.
    #[must_use]
    pub fn fields(&self, source: &GitSource) -> Fields {
        let mut fields = Fields::new();
        fields.put("source", "git");
        fields.put("recipe", RECIPE);
        fields.put("commit", self.commit.clone());
        fields.put("subdir", source.subdir.clone().unwrap_or_default());
        fields.put("submodules", source.submodules.to_string());
        if source.submodules {
            // Relative addresses of submodules hang on it.
            fields.put("url", net::redacted(&source.url));
        }
        fields.put("git dir", source.keep_git_dir.to_string());
        if source.keep_git_dir {
            fields.put("reference", self.reference.clone().unwrap_or_default());
            fields.put("tag", self.tag_object.clone().unwrap_or_default());
            fields.put(
                "depth",
                source
                    .depth
                    .map(|depth| depth.to_string())
                    .unwrap_or_default(),
            );
            fields.put("remote", recorded_url(source).unwrap_or_default());
            fields.put("read only", source.read_only.to_string());
        }
        fields
    }

    /// The key of [`Resolved::fields`].
    #[must_use]
    pub fn key(&self, source: &GitSource) -> Key {
        self.fields(source).key()
    }
}

/// The address that a kept `.git` names as `origin`: never with credentials. A repository of this machine has none:
/// where it lies is no part of what it is, and is not there inside.
fn recorded_url(source: &GitSource) -> Option<String> {
    match &source.remote {
        Some(remote) => Some(reference::without_credentials(remote)),
        None if reference::is_local(&source.url) => None,
        None => Some(reference::without_credentials(&source.url)),
    }
}

/// Repositories, reached through mirrors.
#[derive(Debug, Clone)]
pub struct Git {
    settings: Settings,
    routes: Routes,
}

impl Git {
    /// With these settings; nothing is run yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            routes: Routes::default(),
        }
    }

    /// Asks the repository what the source's reference means now.
    ///
    /// # Errors
    /// If the address or the reference makes no sense, the repository cannot be read, or has no such reference.
    pub fn resolve(&self, source: &GitSource) -> Result<Resolved> {
        reference::check_url(&source.url)?;
        if let Some(wanted) = &source.reference {
            reference::check_reference(wanted)?;
            if reference::is_commit(wanted) {
                return Ok(Resolved {
                    commit: wanted.clone(),
                    reference: None,
                    tag_object: None,
                });
            }
        }
        if let (true, Some(commit)) = (source.fetch_by_commit, &source.checksum) {
            return Ok(Resolved {
                commit: commit.clone(),
                reference: source.reference.as_deref().map(reference::full_name),
                tag_object: None,
            });
        }
        let route = self.routes.to(source, Reach::Named, &self.settings);
        let program = Program::new(&self.settings, &route)?;
        let listed = program.text(&["ls-remote", "--symref", "--end-of-options", &route.url])?;
        let refs = Refs::read(&listed);
        let found = match source.reference.as_deref() {
            None => refs
                .default_branch()
                .ok_or_else(|| no_reference(source, "HEAD", &refs)),
            Some(wanted) => match refs.find(wanted) {
                Some(found) => Ok(found),
                None if source.is_short && reference::may_be_short_commit(wanted) => {
                    self.resolve_short(source, wanted, &refs)
                }
                None => Err(no_reference(source, wanted, &refs)),
            },
        }?;
        match &source.checksum {
            Some(checksum) if !found.is(checksum) => Err(Error::Checksum {
                url: net::redacted(&source.url),
                wanted: checksum.clone(),
                found: match &found.tag_object {
                    Some(tag) => format!("{} (tag {tag})", found.commit),
                    None => found.commit,
                },
            }),
            _ => Ok(found),
        }
    }

    /// When the commit was made, in seconds since 1970.
    ///
    /// # Errors
    /// If it cannot be had.
    pub fn commit_time_s(&self, source: &GitSource, resolved: &Resolved) -> Result<i64> {
        let mirror = self.mirror(source, source.depth, Reach::Named, &resolved.commit)?;
        mirror.ensure(resolved)?;
        let commit = mirror.peeled(resolved)?.commit;
        let show = ["show", "-s", "--format=%ct", "--end-of-options", &commit];
        let time = mirror.program.text(&show)?;
        Ok(time.trim().parse().unwrap_or(0))
    }

    fn resolve_short(&self, source: &GitSource, wanted: &str, refs: &Refs) -> Result<Resolved> {
        let mirror = self.mirror(source, None, Reach::Named, refs.any_object())?;
        mirror.update_all()?;
        let commit = mirror.program.text(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &format!("{wanted}^{{commit}}"),
        ]);
        match commit {
            Ok(commit) => Ok(Resolved {
                commit: commit.trim().to_owned(),
                reference: None,
                tag_object: None,
            }),
            Err(_) => Err(no_reference(source, wanted, refs)),
        }
    }

    /// Makes the files of a commit in `into`, an empty directory.
    ///
    /// # Errors
    /// If the commit cannot be had, or its files cannot be written.
    pub fn checkout(&self, source: &GitSource, resolved: &Resolved, into: &Path) -> Result<()> {
        checkout::checkout(self, source, resolved, into)
    }

    /// The mirror of a source, locked. `object` is any object's name: it tells in which way they are named.
    fn mirror(
        &self,
        source: &GitSource,
        depth: Option<u32>,
        reach: Reach,
        object: &str,
    ) -> Result<Mirror> {
        let url = reference::check_url(&source.url)?.to_owned();
        // A shallow mirror is one of its own: in a whole one nothing may be missing.
        let suffix = depth
            .map(|depth| format!("-depth-{depth}"))
            .unwrap_or_default();
        let (format, mark) = match object.len() {
            64 => ("--object-format=sha256", "-sha256"),
            _ => ("--object-format=sha1", ""),
        };
        let name = format!(
            "{}{mark}{suffix}",
            Key::of(reference::without_credentials(&url).as_bytes())
        );
        let mirrors = &self.settings.mirrors;
        fs::create_dir_all(mirrors).map_err(|source| Error::io("cannot make", mirrors, source))?;
        let directory = mirrors.join(&name);
        let lock_path = self.settings.mirrors.join(format!("{name}.lock"));
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| Error::io("cannot open", &lock_path, source))?;
        lock.lock()
            .map_err(|source| Error::io("cannot lock", &lock_path, source))?;
        let route = self.routes.to(source, reach, &self.settings);
        let program = Program::new(&self.settings, &route)?;
        sweep(&directory).map_err(|source| Error::io("cannot tidy", &directory, source))?;
        // HEAD is what `git init` writes last but one; without it, a killed `init` is done again.
        if !directory.join("HEAD").is_file() {
            fs::create_dir_all(&directory)
                .map_err(|source| Error::io("cannot make", &directory, source))?;
            program.text(&[
                "init",
                "--quiet",
                "--bare",
                "--template=",
                format,
                "--",
                &directory.to_string_lossy(),
            ])?;
        }
        let program = program.in_repository(&directory);
        // For people; and its time says when the mirror was last used. Nothing is lost where it cannot be written.
        drop(fs::write(
            directory.join("description"),
            format!("{}\n", reference::without_credentials(&url)),
        ));
        Ok(Mirror {
            directory,
            url: route.url,
            depth,
            by_commit: source.fetch_by_commit,
            program,
            _lock: Arc::new(lock),
        })
    }
}

/// Removes what a git that was killed has left in a mirror: locks that nobody holds, since ours is held, and unfinished
/// packs.
fn sweep(directory: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if name.ends_with(".lock") || name.starts_with("tmp_") || name == "index-of-checkout"
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn no_reference(source: &GitSource, wanted: &str, refs: &Refs) -> Error {
    let has = refs
        .names()
        .into_iter()
        .take(8)
        .collect::<Vec<_>>()
        .join(", ");
    Error::NoReference {
        url: net::redacted(&source.url),
        wanted: wanted.to_owned(),
        has: if has.is_empty() {
            "no branch and no tag".to_owned()
        } else {
            has
        },
        local: source.url.starts_with('/'),
    }
}

/// A bare repository that is kept, so that a commit is fetched once. One process works on it at a time.
#[derive(Debug, Clone)]
struct Mirror {
    directory: PathBuf,
    url: String,
    depth: Option<u32>,
    /// What is wanted is asked for by its own name first, so that nothing is listed.
    by_commit: bool,
    program: Program,
    _lock: Arc<File>,
}

impl Mirror {
    /// Fetches all branches and tags.
    fn update_all(&self) -> Result<()> {
        self.fetch(
            &["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"],
            &["--prune", "--no-tags"],
        )
    }

    /// Sees that a commit, and of an annotated tag its object, is here.
    fn ensure(&self, resolved: &Resolved) -> Result<()> {
        if self.has(resolved) {
            return Ok(());
        }
        let commit = &resolved.commit;
        if self.by_commit {
            let wanted = resolved.tag_object.as_ref().unwrap_or(commit);
            // A server that does not give it by its name may give it with everything else.
            let _ = self.fetch(&[&format!("+{wanted}:refs/kept/{wanted}")], &["--no-tags"]);
            if self.has(resolved) {
                return Ok(());
            }
        }
        if self.depth.is_some() {
            let wanted = resolved.reference.as_deref().unwrap_or(commit);
            // What cannot be had alone (a server of plain files, a reference that is only a name for this commit) may
            // be had with everything else.
            let _ = self.fetch(&[&format!("+{wanted}:refs/kept/{commit}")], &["--no-tags"]);
        } else {
            self.update_all()?;
        }
        if self.has(resolved) {
            return Ok(());
        }
        // Moved since it was resolved, or on no branch: many servers give any commit by its name.
        let by_name = self.fetch(&[&format!("+{commit}:refs/kept/{commit}")], &["--no-tags"]);
        if self.has(resolved) {
            return Ok(());
        }
        let whole = Self {
            depth: None,
            ..self.clone()
        };
        whole.update_all()?;
        if self.has(resolved) {
            return Ok(());
        }
        by_name.and_then(|()| {
            Err(Error::Failed {
                verb: "fetch".to_owned(),
                url: net::redacted(&self.url),
                why: format!("the repository does not hand out {commit}"),
            })
        })
    }

    /// The same with a commit in the place of a tag's object that was asked for by its own name.
    fn peeled(&self, resolved: &Resolved) -> Result<Resolved> {
        let kind = self.program.text(&["cat-file", "-t", &resolved.commit])?;
        if kind.trim() != "tag" {
            return Ok(resolved.clone());
        }
        let wanted = format!("{}^{{commit}}", resolved.commit);
        let commit = self.program.text(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &wanted,
        ])?;
        Ok(Resolved {
            commit: commit.trim().to_owned(),
            ..resolved.clone()
        })
    }

    fn has(&self, resolved: &Resolved) -> bool {
        std::iter::once(&resolved.commit)
            .chain(&resolved.tag_object)
            .all(|object| self.program.text(&["cat-file", "-e", object]).is_ok())
    }

    fn fetch(&self, refspecs: &[&str], options: &[&str]) -> Result<()> {
        let depth = self.depth.map(|depth| format!("--depth={depth}"));
        let mut arguments = vec![
            "fetch",
            "--quiet",
            "--force",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
        ];
        arguments.extend(options);
        arguments.extend(depth.as_deref());
        arguments.extend(["--end-of-options", &self.url]);
        arguments.extend(refspecs);
        self.program.text(&arguments).map(drop)
    }
}

#[cfg(test)]
mod tests;
