//! What has to be fetched before a Dockerfile can be lowered: a build context that is not on this machine, a Dockerfile
//! that is in it or at an address, and the time that SOURCE_DATE_EPOCH names.
//!
//! ```text
//! Session::settled(None)              from what the store remembers; asks nothing
//! Session::settled(Some(workshop))    whatever it takes
//! ```
//!
//! An archive is unpacked once, into a snapshot that its digest names. As BuildKit has it, no ignore file is looked for in
//! a context that was fetched.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::inputs::Made;
use super::session::{Session, Workshop, store_failure};
use super::sources::{GitAnswer, of_source, reference, shown};
use crate::digest::{Digest, Fields, Key};
use crate::dockerfile::suggest::nearest;
use crate::dockerfile::{self};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan;
use crate::engine::snapshot;
use crate::engine::source::http;
use crate::engine::tree::archive;
use crate::engine::work::{Place, RemoteContext, RemoteDockerfile, Text, Unsettled, Work};
use crate::frontend::{self, TimeSource};
use crate::graph::{GitSource, HttpSource, Source};
use crate::net;
use crate::store::Store;
use crate::sys::dir::Dir;
use crate::sys::root::{Root, Scope};

/// The most that a Dockerfile may have.
const DOCKERFILE_BYTES_MAX: u64 = 16 << 20;
/// The name that a file has which is a context by itself, as BuildKit calls it.
const LONE_FILE: &str = "context";
/// What a Dockerfile is called where nothing else is said.
pub const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
/// Which way of unpacking a context this is. Any change that can change a byte of the result gets the next number.
const RECIPE: &str = "1";

/// A context that is here now.
struct Fetched {
    snapshot: Key,
    name: String,
    /// It is not a tree of files but a Dockerfile.
    dockerfile: Option<Text>,
    time: TimeOf,
}

/// Where the time of something is to be found.
enum TimeOf {
    Commit(GitSource),
    /// What a server said, else the newest file of an archive.
    Download(Option<u64>, PathBuf),
}

impl Work {
    /// Whether nothing has to be fetched before the Dockerfile can be lowered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled == Unsettled::default() && !self.may_name_a_time()
    }

    /// Whether SOURCE_DATE_EPOCH may be something else than a number.
    fn may_name_a_time(&self) -> bool {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let given = self.build_args.iter().rev().find(|(name, _)| name == NAME);
        match given {
            Some((_, value)) => !value.is_empty() && value.parse::<i64>().is_err(),
            None => self.source_date_epoch.is_none() && self.dockerfile.text.contains(NAME),
        }
    }
}

impl Session<'_> {
    /// The work with all of that known. Without a workshop nothing is asked or made; `None` then says that something has
    /// to be.
    ///
    /// # Errors
    /// If something cannot be had.
    pub fn settled(&self, workshop: Option<&Workshop>) -> Result<Option<Work>, Vec<Failure>> {
        let alone = |failure| vec![failure];
        let mut work = self.work.clone();
        work.unsettled = Unsettled::default();
        let unsettled = &self.work.unsettled;
        let mut fetched = None;
        if let Some(context) = &unsettled.context {
            let Some(mut found) = self.fetch_context(workshop, context).map_err(alone)? else {
                return Ok(None);
            };
            if let Some(dockerfile) = found.dockerfile.take()
                && unsettled.dockerfile.is_some()
            {
                work.dockerfile = dockerfile;
            } else if let Some(RemoteDockerfile::InContext(name)) = &unsettled.dockerfile {
                let read = self.dockerfile_in(workshop, &found, name.as_deref());
                let Some(dockerfile) = read.map_err(alone)? else {
                    return Ok(None);
                };
                work.dockerfile = dockerfile;
            }
            work.context = Some(Place::Fetched {
                snapshot: found.snapshot,
                name: found.name.clone(),
            });
            fetched = Some(found);
        }
        if let Some(RemoteDockerfile::Http(url)) = &unsettled.dockerfile {
            let Some(download) = self
                .download_of(workshop, url, "Dockerfile")
                .map_err(alone)?
            else {
                return Ok(None);
            };
            work.dockerfile = self.dockerfile_at(url, &download).map_err(alone)?;
        }
        if work.may_name_a_time() && !self.settle_time(workshop, fetched.as_ref(), &mut work)? {
            return Ok(None);
        }
        Ok(Some(work))
    }

    /// The context, and where its time is to be found.
    fn fetch_context(
        &self,
        workshop: Option<&Workshop>,
        context: &RemoteContext,
    ) -> Result<Option<Fetched>, Failure> {
        match context {
            RemoteContext::Git(git) => {
                let source = Source::Git(git.clone());
                let Some(Made::Tree(tree)) = self.have(workshop, &source)? else {
                    return Ok(None);
                };
                Ok(tree.layers().first().map(|snapshot| Fetched {
                    snapshot: *snapshot,
                    name: shown(&source),
                    dockerfile: None,
                    time: TimeOf::Commit(git.clone()),
                }))
            }
            RemoteContext::Archive(digest) => {
                let name = "the archive on standard input";
                let path = self.store.blob_path(digest);
                let snapshot = self.unpacked(workshop, &path, digest, name)?;
                Ok(snapshot.map(|snapshot| Fetched {
                    snapshot,
                    name: name.to_owned(),
                    dockerfile: None,
                    time: TimeOf::Download(None, path),
                }))
            }
            RemoteContext::Http(url) => {
                let Some(download) = self.download_of(workshop, url, LONE_FILE)? else {
                    return Ok(None);
                };
                let name = net::redacted(url);
                let path = self.download_path(&download.digest);
                let (snapshot, dockerfile) = match is_archive(&path)? {
                    true => (
                        self.unpacked(workshop, &path, &download.digest, &name)?,
                        None,
                    ),
                    false => {
                        let text = self.dockerfile_at(url, &download)?;
                        (self.lone_file(workshop, &download, &name)?, Some(text))
                    }
                };
                let time = TimeOf::Download(download.last_modified_s(), path);
                Ok(snapshot.map(|snapshot| Fetched {
                    snapshot,
                    name,
                    dockerfile,
                    time,
                }))
            }
        }
    }

    /// A source that is no node of a graph.
    fn have(&self, workshop: Option<&Workshop>, source: &Source) -> Result<Option<Made>, Failure> {
        let note = |_| ();
        match workshop {
            Some(workshop) => self.obtain_source(workshop, source, None, &note).map(Some),
            None => self.recall_source(source, None, &note),
        }
    }

    fn download_of(
        &self,
        workshop: Option<&Workshop>,
        url: &str,
        name: &str,
    ) -> Result<Option<std::sync::Arc<http::Remembered>>, Failure> {
        let source = Source::Http(HttpSource {
            url: url.to_owned(),
            checksum: None,
            name: name.to_owned(),
            is_tree: false,
        });
        match self.have(workshop, &source)? {
            Some(Made::Download(download)) => Ok(Some(download)),
            _ => Ok(None),
        }
    }

    fn lone_file(
        &self,
        workshop: Option<&Workshop>,
        download: &http::Remembered,
        name: &str,
    ) -> Result<Option<Key>, Failure> {
        match workshop {
            Some(workshop) => {
                let tree = self.tree_of_download(workshop, download, name)?;
                Ok(tree.layers().first().copied())
            }
            None => Ok(Some(download.tree_key()).filter(|key| self.store.has_snapshot(key))),
        }
    }

    /// The snapshot of an archive's files; `None` if there is none and no workshop to make it in.
    fn unpacked(
        &self,
        workshop: Option<&Workshop>,
        path: &Path,
        digest: &Digest,
        name: &str,
    ) -> Result<Option<Key>, Failure> {
        let mut fields = Fields::new();
        fields.put("source", "archive");
        fields.put("recipe", RECIPE);
        fields.put("content", digest.to_string());
        let id = fields.key();
        if self.store.has_snapshot(&id) {
            return Ok(Some(id));
        }
        let Some(workshop) = workshop else {
            return Ok(None);
        };
        let lease = self
            .store
            .lock(&format!("archive {id}"))
            .map_err(store_failure)?;
        if workshop.snapshots.has(&id) {
            return Ok(Some(id));
        }
        let started = Instant::now();
        let settled = workshop.snapshots.prepare_layer(&[])?;
        let top = settled
            .upper()
            .try_clone()
            .map_err(|error| unreadable(name, &error))?;
        let file = File::open(path).map_err(|error| unreadable(name, &error))?;
        archive::unpack_all(file, name, &Root::new(top.into(), Scope::Image))?;
        let made = snapshot::Made {
            id,
            key: None,
            fields,
            created_ms: self.now_ms(),
            duration_ms: started.elapsed().as_millis() as u64,
            what: name.to_owned(),
        };
        workshop
            .snapshots
            .commit_holding(settled, made, Some(lease))?;
        Ok(Some(id))
    }

    /// The Dockerfile of a context; `None` if this process may not read it, and there is no workshop.
    fn dockerfile_in(
        &self,
        workshop: Option<&Workshop>,
        context: &Fetched,
        name: Option<&str>,
    ) -> Result<Option<Text>, Failure> {
        let top = match workshop {
            Some(workshop) => workshop.snapshots.layer(&context.snapshot)?.try_clone(),
            None => Dir::open_trusted(self.store.snapshot_path(&context.snapshot).join("fs")),
        };
        let root = match top {
            Ok(top) => Root::new(top.into(), Scope::Image),
            Err(error) => return Err(unreadable(&context.name, &error)),
        };
        let candidates: Vec<String> = match name {
            None => DOCKERFILE_NAMES.map(str::to_owned).to_vec(),
            Some(name) => dockerfile_names(name),
        };
        for candidate in &candidates {
            let mut bytes = Vec::new();
            let read = root
                .file(candidate)
                .and_then(|file| file.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes));
            match read {
                Ok(_) => {
                    return Ok(Some(Text {
                        file: candidate.trim_start_matches("./").to_owned(),
                        text: text_of(bytes, candidate)?,
                    }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // A file of a user that only the engine may act as.
                Err(error)
                    if error.kind() == std::io::ErrorKind::PermissionDenied
                        && workshop.is_none() =>
                {
                    return Ok(None);
                }
                Err(error) => {
                    let message = format!("`{candidate}` of {} cannot be read", context.name);
                    return Err(Failure::caused(
                        FailureKind::Input,
                        "context::dockerfile",
                        message,
                        &error,
                    ));
                }
            }
        }
        Err(no_dockerfile(&root, context, &candidates[0]))
    }

    /// A Dockerfile that was downloaded.
    fn dockerfile_at(&self, url: &str, download: &http::Remembered) -> Result<Text, Failure> {
        let shown = net::redacted(url);
        let mut bytes = Vec::new();
        File::open(self.download_path(&download.digest))
            .and_then(|file| file.take(DOCKERFILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|error| unreadable(&shown, &error))?;
        Ok(Text {
            text: text_of(bytes, &shown)?,
            file: shown,
        })
    }

    /// Puts a number in the place of what SOURCE_DATE_EPOCH names, nothing where that has no time. False if something has
    /// to be fetched for it and there is no workshop.
    fn settle_time(
        &self,
        workshop: Option<&Workshop>,
        fetched: Option<&Fetched>,
        work: &mut Work,
    ) -> Result<bool, Vec<Failure>> {
        let parsed = dockerfile::parse(&work.dockerfile.text);
        let source = frontend::epoch_source(&parsed.dockerfile, &plan::options(work))
            .map_err(|problem| plan::failures(&work.dockerfile.file, &[problem]))?;
        let time = match source {
            // A number, or what lowering has something to say of.
            None => return Ok(true),
            Some(TimeSource::Context) => match fetched {
                None => Ok(Some(None)),
                Some(fetched) => self.time(workshop, &fetched.time),
            },
            Some(TimeSource::Source(source)) => self.time_of_source(workshop, &source),
        };
        let Some(time) = time.map_err(|failure| vec![failure])? else {
            return Ok(false);
        };
        let value = time.map_or_else(String::new, |time| time.to_string());
        work.build_args
            .push(("SOURCE_DATE_EPOCH".to_owned(), value));
        Ok(true)
    }

    /// The time of something from outside: `None` if it has to be fetched, `Some(None)` if it has none.
    fn time_of_source(
        &self,
        workshop: Option<&Workshop>,
        source: &Source,
    ) -> Result<Option<Option<i64>>, Failure> {
        match source {
            Source::Git(git) => {
                if self.have(workshop, source)?.is_none() {
                    return Ok(None);
                }
                self.time(workshop, &TimeOf::Commit(git.clone()))
            }
            Source::Http(http_source) => {
                if self.have(workshop, source)?.is_none() {
                    return Ok(None);
                }
                let known = match self.pinned_download(http_source, source)? {
                    Some(pinned) => pinned,
                    None => match self.answer::<http::Remembered>(&reference(source))? {
                        Some(known) => known.answer,
                        None => return Ok(None),
                    },
                };
                // What has to be one thing is not asked after, so its server has no say.
                let said = match http_source.checksum {
                    Some(_) => None,
                    None => known.last_modified_s(),
                };
                let path = self.download_path(&known.digest);
                self.time(workshop, &TimeOf::Download(said, path))
            }
            Source::Local { .. } | Source::Image(_) | Source::OciLayout(_) | Source::Debian(_) => {
                Ok(Some(None))
            }
        }
    }

    fn time(
        &self,
        workshop: Option<&Workshop>,
        of: &TimeOf,
    ) -> Result<Option<Option<i64>>, Failure> {
        match of {
            TimeOf::Download(Some(said), _) => Ok(Some(i64::try_from(*said).ok())),
            TimeOf::Download(None, path) => {
                let file = File::open(path)
                    .map_err(|error| unreadable(&path.display().to_string(), &error))?;
                // What is no archive, or a broken one, has no time.
                Ok(Some(archive::newest(file).ok().flatten()))
            }
            TimeOf::Commit(git) => {
                let source = Source::Git(git.clone());
                let resolved = match self.pinned_git(git, &source)? {
                    Some(pinned) => pinned,
                    None => match self.answer::<GitAnswer>(&reference(&source))? {
                        Some(known) => known.answer.resolved,
                        None => return Ok(None),
                    },
                };
                let name = format!("time of commit {}", resolved.commit);
                if let Some(time) = self.answer::<i64>(&name)? {
                    return Ok(Some(Some(time.answer)));
                }
                let Some(workshop) = workshop else {
                    return Ok(None);
                };
                let time = workshop
                    .reach
                    .git
                    .commit_time_s(git, &resolved)
                    .map_err(|error| of_source(error.fault(), &error))?;
                self.remember(&name, &time)?;
                Ok(Some(Some(time)))
            }
        }
    }
}

/// A Dockerfile's name, and what may stand for it: as Docker has it, one in lower case for the usual one.
#[must_use]
pub fn dockerfile_names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let Some(directory) = name.strip_suffix("Dockerfile")
        && (directory.is_empty() || directory.ends_with('/'))
    {
        names.push(format!("{directory}dockerfile"));
    }
    names
}

/// Keeps what comes over standard input: an archive in the store, for [`RemoteContext::Archive`].
///
/// # Errors
/// If it cannot be read or kept.
pub fn keep_archive(store: &Path, content: impl std::io::Read) -> Result<Digest, Failure> {
    let store = Store::open(store).map_err(store_failure)?;
    let (digest, _) = store.put(content).map_err(store_failure)?;
    Ok(digest)
}

fn is_archive(path: &Path) -> Result<bool, Failure> {
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(archive::HEAD_BYTES).read_to_end(&mut head))
        .map_err(|error| unreadable(&path.display().to_string(), &error))?;
    Ok(archive::is_head(&head))
}

fn text_of(bytes: Vec<u8>, name: &str) -> Result<String, Failure> {
    if bytes.len() as u64 == DOCKERFILE_BYTES_MAX {
        let message =
            format!("`{name}` has more than {DOCKERFILE_BYTES_MAX} bytes: it is no Dockerfile");
        return Err(
            Failure::new(FailureKind::Input, "context::dockerfile", message)
                .with_help("see that the address is the right one"),
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let message = format!("`{name}` is no text");
        Failure::caused(FailureKind::Input, "context::dockerfile", message, &error)
            .with_help("name a Dockerfile, or an archive that has one in it")
    })
}

fn no_dockerfile(root: &Root, context: &Fetched, wanted: &str) -> Failure {
    let message = format!("there is no `{wanted}` in {}", context.name);
    let failure = Failure::new(FailureKind::Input, "context::no_dockerfile", message);
    let entries = root.top().entries().unwrap_or_default();
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| entry.name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    let near = nearest(wanted, names.iter().map(String::as_str)).map(str::to_owned);
    let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    failure.with_help(match near {
        Some(near) => format!("`-f {near}` names the one that is there"),
        None if shown.is_empty() => "it is empty".to_owned(),
        None => format!(
            "`-f PATH` names another one; at its top there are {}",
            shown.join(", ")
        ),
    })
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    let message = format!("{name} cannot be read");
    Failure::caused(FailureKind::Machine, "context::unreadable", message, error)
}

#[cfg(test)]
mod tests {
    use super::dockerfile_names;

    #[test]
    fn only_the_usual_name_may_be_in_lower_case() {
        assert_eq!(
            dockerfile_names("a/Dockerfile"),
            ["a/Dockerfile", "a/dockerfile"]
        );
        assert_eq!(dockerfile_names("Dockerfile"), ["Dockerfile", "dockerfile"]);
        assert_eq!(dockerfile_names("My.Dockerfile"), ["My.Dockerfile"]);
        assert_eq!(dockerfile_names("Dockerfile.web"), ["Dockerfile.web"]);
    }
}
