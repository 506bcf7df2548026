//! What sources turn out to be. To *recall* is to take what the store remembers, if that is fresh enough; nothing is
//! asked. To *obtain* is to ask, fetch and unpack what is not there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::inputs::{Made, Tree};
use super::reach::Reach;
use super::session::{Session, Workshop, store_failure};
use crate::digest::{Digest, Fields, Key};
use crate::engine::base::BaseImage;
use crate::engine::contexts::Context;
use crate::engine::debian_tree::DebianTree;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan::Planned;
use crate::engine::snapshot;
use crate::engine::source::{Fault, git, http};
use crate::engine::work::Freshness;
use crate::event::BuildEvent;
use crate::graph::{GitSource, HttpSource, NodeId, Source};
use crate::net::{self, Authorization};
use crate::store::Answer;

/// A remembered answer and how old it is.
pub(in crate::engine) struct Recalled<T> {
    pub(in crate::engine) answer: T,
    pub(in crate::engine) age_ms: u64,
}

/// What a repository's reference meant, and for which state of a local repository.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct GitAnswer {
    pub(super) resolved: git::Resolved,
    pub(super) fingerprint: Option<Key>,
}

/// What a Debian base was made of: its snapshots, and its name for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct DebianAnswer {
    pub(in crate::engine) layers: Vec<Key>,
    pub(in crate::engine) resolved: String,
    pub(in crate::engine) key: Key,
}

impl DebianAnswer {
    /// What hangs on it: the packages by their digests, and what a person calls that.
    fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        fields.put("debian", self.key.to_string());
        fields.put("release", self.resolved.clone());
        fields
    }
}

impl Session<'_> {
    /// What the source at a node is, as far as the store remembers it and what it remembers is fresh and here.
    ///
    /// # Errors
    /// If the store, or a directory of this machine, cannot be read.
    pub(super) fn recall(
        &self,
        planned: &Planned,
        id: NodeId,
        source: &Source,
    ) -> Result<Option<Made>, Failure> {
        let note = |own| self.note_own(id, own);
        self.recall_source(source, planned.images.get(source), &note)
    }

    /// The same for a source of no graph; `note` hears what it depends on.
    pub(super) fn recall_source(
        &self,
        source: &Source,
        image: Option<&BaseImage>,
        note: &dyn Fn(Fields),
    ) -> Result<Option<Made>, Failure> {
        if let Some(refusal) = self.work.refused(source) {
            return Err(refusal);
        }
        let whole = |layers: &[Key]| self.has_snapshots(layers);
        match source {
            Source::Local { name } => Ok(match self.contexts.open(name)? {
                Context::Directory(tree) => Some(Made::Local(tree)),
                Context::Fetched(snapshot) => {
                    whole(&[snapshot]).then(|| Made::Tree(Tree::new(vec![snapshot])))
                }
                Context::Empty => Some(Made::Tree(Tree::new(Vec::new()))),
            }),
            Source::Image(_) | Source::OciLayout(_) => {
                let Some(image) = image else {
                    return Ok(None);
                };
                note(named("image", &image.digest.to_string()));
                let layers: Vec<Key> = image.layers.iter().map(|layer| layer.snapshot).collect();
                if !whole(&layers) {
                    return Ok(None);
                }
                if image.age_s.is_some() {
                    self.say_found(source, &image.digest.to_string(), image.age_s);
                }
                Ok(Some(Made::Tree(Tree::new(layers))))
            }
            Source::Debian(debian) => {
                let (answer, age_s) = match self.pinned_debian(source) {
                    Some(pin) => (DebianAnswer::of_pin(pin, debian), None),
                    None => match self.remembered::<DebianAnswer>(&reference(source))? {
                        Some(recalled) => (recalled.answer, Some(recalled.age_ms / 1000)),
                        None => return Ok(None),
                    },
                };
                note(answer.fields());
                if !whole(&answer.layers) {
                    return Ok(None);
                }
                self.say_found(source, &answer.resolved, age_s);
                Ok(Some(Made::Tree(Tree::new(answer.layers))))
            }
            Source::Git(git_source) => {
                let Some((resolved, age_s)) = self.known_git(git_source, source)? else {
                    return Ok(None);
                };
                note(resolved.fields(git_source));
                let snapshot = resolved.key(git_source);
                if !whole(&[snapshot]) {
                    return Ok(None);
                }
                self.say_found(source, &resolved.commit, age_s);
                Ok(Some(Made::Tree(Tree::new(vec![snapshot]))))
            }
            Source::Http(http_source) => {
                let Some((remembered, age_s)) = self.known_download(http_source, source)? else {
                    return Ok(None);
                };
                note(remembered.fields());
                let tree = remembered.tree_key();
                let is_here = match http_source.is_tree {
                    true => whole(&[tree]),
                    false => self.hold_download(&remembered.digest)?,
                };
                if !is_here {
                    return Ok(None);
                }
                self.say_found(source, &remembered.digest.to_string(), age_s);
                Ok(Some(match http_source.is_tree {
                    true => Made::Tree(Tree::new(vec![tree])),
                    false => Made::Download(Arc::new(remembered)),
                }))
            }
        }
    }

    /// What the source at a node is, whatever it takes.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(super) fn obtain(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        id: NodeId,
        source: &Source,
    ) -> Result<Made, Failure> {
        let note = |own| self.note_own(id, own);
        self.obtain_source(workshop, source, planned.images.get(source), &note)
    }

    /// The same for a source of no graph; `note` hears what it depends on.
    pub(super) fn obtain_source(
        &self,
        workshop: &Workshop,
        source: &Source,
        image: Option<&BaseImage>,
        note: &dyn Fn(Fields),
    ) -> Result<Made, Failure> {
        let is_held = |made: &Made| match made {
            Made::Tree(tree) => self.holds(workshop, tree.layers()),
            Made::Download(download) => self.brings_download(&download.digest),
            Made::Local(_) => true,
        };
        if let Some(made) = self.recall_source(source, image, note)?.filter(is_held) {
            return Ok(made);
        }
        // Of several processes that need the same, one fetches it, and the others find it.
        let _lease = self.store.lock(&reference(source)).map_err(store_failure)?;
        if !matches!(self.work.freshness, Freshness::Now)
            && let Some(made) = self.recall_source(source, image, note)?.filter(is_held)
        {
            return Ok(made);
        }
        workshop.sandbox.expect_commands();
        let name = shown(source);
        self.events.emit(BuildEvent::SourceStarted {
            source: name.clone(),
        });
        let started = Instant::now();
        let obtained = match source {
            Source::Local { .. } => Err(Failure::new(
                FailureKind::Source,
                "solve::context_gone",
                format!("the context `{name}` was deleted from the store while it was in use"),
            )
            .with_help("build again: it is fetched anew")),
            Source::Image(_) | Source::OciLayout(_) => self.unpack_image(workshop, image, &name),
            Source::Debian(_) | Source::Git(_) | Source::Http(_)
                if self.work.freshness == Freshness::Never =>
            {
                Err(Failure::new(
                    FailureKind::Source,
                    "solve::offline",
                    format!("{name} is not in the store, and --offline forbids to ask"),
                )
                .with_help("build once without --offline"))
            }
            Source::Debian(debian) => DebianTree {
                session: self,
                workshop,
                source: debian,
                pin: self.pinned_debian(source),
                name: &name,
            }
            .obtain(started)
            .and_then(|answer| {
                if self.work.pin(source).is_none() {
                    self.remember(&reference(source), &answer)?;
                }
                note(answer.fields());
                Ok(Obtained {
                    made: Made::Tree(Tree::new(answer.layers)),
                    resolved: answer.resolved,
                    bytes: 0,
                    is_new: false,
                })
            }),
            Source::Git(git_source) => self.obtain_git(workshop, git_source, source, note),
            Source::Http(http_source) => self.obtain_download(workshop, http_source, source, note),
        };
        match obtained {
            Ok(obtained) => {
                self.events.emit(BuildEvent::SourceDone {
                    source: name,
                    cached: !obtained.is_new,
                    bytes: obtained.bytes,
                    resolved: Some(obtained.resolved),
                    age_s: None,
                });
                Ok(obtained.made)
            }
            Err(failure) => {
                self.events.emit(BuildEvent::SourceFailed {
                    source: name,
                    message: failure.message.clone(),
                });
                Err(failure)
            }
        }
    }

    fn obtain_git(
        &self,
        workshop: &Workshop,
        git_source: &GitSource,
        source: &Source,
        note: &dyn Fn(Fields),
    ) -> Result<Obtained, Failure> {
        let failure = |error: git::Error| of_source(error.fault(), &error);
        let pinned = self.pinned_git(git_source, source)?;
        let resolved = match &pinned {
            Some(resolved) => resolved.clone(),
            None => self.ask_git(&workshop.reach, git_source, source)?,
        };
        let by_commit = GitSource {
            fetch_by_commit: git_source.fetch_by_commit || pinned.is_some(),
            ..git_source.clone()
        };
        note(resolved.fields(git_source));
        let snapshot = resolved.key(git_source);
        let is_new = !workshop.snapshots.has(&snapshot);
        if is_new {
            let settled = workshop.snapshots.prepare_layer(&[])?;
            let started = Instant::now();
            workshop
                .reach
                .git
                .checkout(&by_commit, &resolved, &settled.upper_path())
                .map_err(failure)
                .map_err(|failure| self.with_upgrade(failure, pinned.is_some(), source))?;
            let made = snapshot::Made {
                id: snapshot,
                key: None,
                fields: resolved.fields(git_source),
                created_ms: self.now_ms(),
                duration_ms: started.elapsed().as_millis() as u64,
                what: shown(source),
            };
            workshop.snapshots.commit(settled, made)?;
        }
        Ok(Obtained {
            made: Made::Tree(Tree::new(vec![snapshot])),
            resolved: resolved.commit,
            bytes: 0,
            is_new,
        })
    }

    /// Asks what a reference means now, and remembers it.
    pub(super) fn ask_git(
        &self,
        reach: &Reach,
        git_source: &GitSource,
        source: &Source,
    ) -> Result<git::Resolved, Failure> {
        let fingerprint = git::local_fingerprint(&git_source.url)
            .map_err(|error| unreadable_repository(git_source, &error))?;
        let resolved = reach
            .git
            .resolve(git_source)
            .map_err(|error| of_source(error.fault(), &error))?;
        let answer = GitAnswer {
            resolved,
            fingerprint,
        };
        self.remember(&reference(source), &answer)?;
        Ok(answer.resolved)
    }

    fn obtain_download(
        &self,
        workshop: &Workshop,
        http_source: &HttpSource,
        source: &Source,
        note: &dyn Fn(Fields),
    ) -> Result<Obtained, Failure> {
        let name = shown(source);
        let (remembered, bytes) = match self.pinned_download(http_source, source)? {
            Some(pinned) => self.fetch_pinned(workshop, http_source, source, pinned)?,
            None => self.ask_download(&workshop.reach, http_source, source)?,
        };
        note(remembered.fields());
        let resolved = remembered.digest.to_string();
        let made = match http_source.is_tree {
            true => Made::Tree(self.tree_of_download(workshop, &remembered, &name)?),
            false => {
                self.hold_download(&remembered.digest)?;
                Made::Download(Arc::new(remembered))
            }
        };
        Ok(Obtained {
            made,
            resolved,
            bytes,
            is_new: bytes > 0,
        })
    }

    /// Asks what is at an address now, and remembers it; with the number of bytes that had to be fetched.
    pub(super) fn ask_download(
        &self,
        reach: &Reach,
        http_source: &HttpSource,
        source: &Source,
    ) -> Result<(http::Remembered, u64), Failure> {
        let reference = reference(source);
        let known = self.answer::<http::Remembered>(&reference)?;
        let known = known.as_ref().map(|known| &known.answer);
        let fetched = self
            .fetch(reach, http_source, source, known)
            .map_err(|error| of_source(error.fault(), &error))?;
        self.remember(&reference, &fetched.0)?;
        Ok(fetched)
    }

    /// Fetches what an address must have.
    fn fetch_pinned(
        &self,
        workshop: &Workshop,
        http_source: &HttpSource,
        source: &Source,
        pinned: http::Remembered,
    ) -> Result<(http::Remembered, u64), Failure> {
        let wanted = HttpSource {
            checksum: Some(pinned.digest.to_string()),
            ..http_source.clone()
        };
        match self.fetch(&workshop.reach, &wanted, source, Some(&pinned)) {
            Ok((_, bytes)) => Ok((pinned, bytes)),
            Err(http::Error::Fetch(net::Error::WrongDigest {
                expected, actual, ..
            })) => Err(self.mismatch(source, &expected.to_string(), &actual.to_string())),
            Err(error) => Err(of_source(error.fault(), &error)),
        }
    }

    fn fetch(
        &self,
        reach: &Reach,
        http_source: &HttpSource,
        source: &Source,
        known: Option<&http::Remembered>,
    ) -> Result<(http::Remembered, u64), http::Error> {
        let progress = |bytes| {
            self.events.emit(BuildEvent::SourceProgress {
                source: shown(source),
                bytes,
                total: 0,
            });
        };
        let answer = http::fetch(
            http_source,
            known,
            self.authorization(&http_source.url).as_ref(),
            &self.shelf(reach),
            &reach.client,
            &progress,
        )?;
        Ok(match answer {
            http::Answer::Unchanged(remembered) => (remembered, 0),
            http::Answer::Fetched(remembered) => {
                let bytes = remembered.size_bytes;
                (remembered, bytes)
            }
        })
    }

    /// A tree with nothing but a download in it.
    pub(super) fn tree_of_download(
        &self,
        workshop: &Workshop,
        remembered: &http::Remembered,
        name: &str,
    ) -> Result<Tree, Failure> {
        let id = remembered.tree_key();
        if !workshop.snapshots.has(&id) {
            let settled = workshop.snapshots.prepare_layer(&[])?;
            http::place(
                remembered,
                &self.shelf(&workshop.reach),
                &settled.upper_path(),
            )
            .map_err(|error| of_source(error.fault(), &error))?;
            let made = snapshot::Made {
                id,
                key: None,
                fields: remembered.fields(),
                created_ms: self.now_ms(),
                duration_ms: 0,
                what: name.to_owned(),
            };
            workshop.snapshots.commit(settled, made)?;
        }
        Ok(Tree::new(vec![id]))
    }

    /// What the server at an address wants to see: the secret `HTTP_AUTH_TOKEN_HOST`, else `HTTP_AUTH_HEADER_HOST`.
    fn authorization(&self, url: &str) -> Option<Authorization> {
        let host = net::host(url)?;
        let secret = |prefix: &str| self.secret_text(&format!("{prefix}{host}"));
        match secret("HTTP_AUTH_TOKEN_") {
            Some(token) => Some(Authorization::bearer(token.trim())),
            None => {
                secret("HTTP_AUTH_HEADER_").map(|header| Authorization::header(header.to_owned()))
            }
        }
    }

    /// The value of a secret of the build, if it is text.
    fn secret_text(&self, id: &str) -> Option<&str> {
        let secret = self.work.secrets.iter().find(|secret| secret.id == id)?;
        std::str::from_utf8(secret.expose()).ok()
    }

    /// Where a download is, or would be.
    pub(super) fn download_path(&self, digest: &Digest) -> PathBuf {
        self.store.path().join("http").join(digest.hex())
    }

    /// Whether a download is here, or known to be elsewhere. One that is here stays as long as the build goes on.
    fn hold_download(&self, digest: &Digest) -> Result<bool, Failure> {
        let lease = self.store.lease_of("http", &digest.hex());
        let lease = lease.map_err(store_failure)?;
        let is_known =
            lease.is_some() || self.finds_by_name() || self.elsewhere.has_download(digest);
        self.note_download(*digest, lease);
        Ok(is_known)
    }

    /// Whether a download that is known is here now, from wherever.
    fn brings_download(&self, digest: &Digest) -> bool {
        if self.download_path(digest).is_file() {
            return true;
        }
        let fetched = self
            .elsewhere
            .fetch_download(digest, self.store, &self.registries);
        match fetched {
            Ok(fetched) => fetched && self.hold_download(digest).unwrap_or(false),
            Err(_) => {
                self.elsewhere.tell(self.events);
                false
            }
        }
    }

    /// Where downloads are put. What is unfinished lies in the workshop's own directory, which no other process sweeps
    /// while this one lives.
    fn shelf(&self, reach: &Reach) -> http::Shelf {
        http::Shelf {
            directory: self.store.path().join("http"),
            tmp: reach.scratch.path(),
        }
    }

    /// What a repository's reference means, by its pin or as it is remembered, and how old that is. A repository on this
    /// machine is compared with what it is now: its answer has no age. Neither has what is pinned.
    pub(super) fn known_git(
        &self,
        git_source: &GitSource,
        source: &Source,
    ) -> Result<Option<(git::Resolved, Option<u64>)>, Failure> {
        if let Some(pinned) = self.pinned_git(git_source, source)? {
            return Ok(Some((pinned, None)));
        }
        let Some(recalled) = self.answer::<GitAnswer>(&reference(source))? else {
            return Ok(None);
        };
        let now = git::local_fingerprint(&git_source.url)
            .map_err(|error| unreadable_repository(git_source, &error))?;
        let serves = match (&recalled.answer.fingerprint, now) {
            // A repository of this machine is never remembered unsoundly: what it is now decides.
            (Some(then), Some(now)) => *then == now,
            (None, None) => {
                git::is_pinned(git_source) || self.work.freshness.accepts(recalled.age_ms)
            }
            _ => false,
        };
        if !serves {
            return Ok(None);
        }
        let is_settled = recalled.answer.fingerprint.is_some() || git::is_pinned(git_source);
        let age_s = (!is_settled).then_some(recalled.age_ms / 1000);
        Ok(Some((recalled.answer.resolved, age_s)))
    }

    /// What is at an address, by its pin or as it is remembered, and how old that is. What has to be one thing never gets
    /// old.
    pub(super) fn known_download(
        &self,
        http_source: &HttpSource,
        source: &Source,
    ) -> Result<Option<(http::Remembered, Option<u64>)>, Failure> {
        if let Some(pinned) = self.pinned_download(http_source, source)? {
            return Ok(Some((pinned, None)));
        }
        let is_settled = http_source.checksum.is_some();
        let recalled = match is_settled {
            true => self.answer::<http::Remembered>(&reference(source))?,
            false => self.remembered::<http::Remembered>(&reference(source))?,
        };
        Ok(recalled.map(|recalled| {
            let age_s = (!is_settled).then_some(recalled.age_ms / 1000);
            (recalled.answer, age_s)
        }))
    }

    /// Whether what is remembered of a source serves, so that nobody has to be asked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(in crate::engine) fn is_fresh(
        &self,
        source: &Source,
        freshness: Freshness,
    ) -> Result<bool, Failure> {
        if self.work.pin(source).is_some() {
            return Ok(true);
        }
        let answer = self.index()?.answer(&reference(source));
        let Some(answer) = answer.map_err(store_failure)? else {
            return Ok(matches!(source, Source::Git(git) if git.url.starts_with('/')));
        };
        let is_settled = match source {
            // A repository of this machine is looked at, not asked.
            Source::Git(git) => git.url.starts_with('/') || git::is_pinned(git),
            Source::Http(http) => http.checksum.is_some(),
            _ => false,
        };
        let age_ms = self.now_ms().saturating_sub(answer.asked_ms);
        Ok(is_settled || freshness.accepts(age_ms))
    }

    /// What is remembered, if it is fresh enough for this build.
    fn remembered<T: DeserializeOwned>(
        &self,
        reference: &str,
    ) -> Result<Option<Recalled<T>>, Failure> {
        let recalled = self.answer(reference)?;
        Ok(recalled.filter(|recalled| self.work.freshness.accepts(recalled.age_ms)))
    }

    /// What is remembered, however old it is.
    pub(in crate::engine) fn answer<T: DeserializeOwned>(
        &self,
        reference: &str,
    ) -> Result<Option<Recalled<T>>, Failure> {
        let Some(answer) = self.index()?.answer(reference).map_err(store_failure)? else {
            return Ok(None);
        };
        let age_ms = self.now_ms().saturating_sub(answer.asked_ms);
        // What another version of shmocker wrote is asked anew.
        Ok(serde_json::from_str(&answer.answer)
            .ok()
            .map(|answer| Recalled { answer, age_ms }))
    }

    pub(in crate::engine) fn remember<T: Serialize>(
        &self,
        reference: &str,
        answer: &T,
    ) -> Result<(), Failure> {
        let answer = serde_json::to_string(answer).unwrap_or_default();
        self.index()?
            .put_answer(
                reference,
                &Answer {
                    answer,
                    asked_ms: self.now_ms(),
                },
            )
            .map_err(store_failure)
    }

    fn say_found(&self, source: &Source, resolved: &str, age_s: Option<u64>) {
        self.events.emit(BuildEvent::SourceDone {
            source: shown(source),
            cached: true,
            bytes: 0,
            resolved: Some(resolved.to_owned()),
            age_s,
        });
    }
}

pub(super) struct Obtained {
    pub(super) made: Made,
    pub(super) resolved: String,
    pub(super) bytes: u64,
    pub(super) is_new: bool,
}

fn named(name: &str, value: &str) -> Fields {
    let mut fields = Fields::new();
    fields.put(name, value);
    fields
}

/// A name under which a source's answer is remembered: of everything that was asked for. An address may hold a password,
/// so it is no part of the name.
pub(in crate::engine) fn reference(source: &Source) -> String {
    let asked = serde_json::to_string(source).unwrap_or_default();
    format!("source {}", Key::of(asked.as_bytes()))
}

/// A source as a person would write it.
pub(in crate::engine) fn shown(source: &Source) -> String {
    match source {
        Source::Image(image) => crate::image::Name::familiar(&image.name).to_owned(),
        Source::OciLayout(layout) => format!("oci-layout://{}", layout.path),
        Source::Debian(debian) => match debian.packages.as_slice() {
            [] => format!("debian://{}", debian.suite),
            packages => format!("debian://{}?packages={}", debian.suite, packages.join(",")),
        },
        Source::Git(git) => {
            let url = crate::net::redacted(&git.url);
            git.reference
                .as_ref()
                .map_or_else(|| url.clone(), |reference| format!("{url}#{reference}"))
        }
        Source::Http(http) => crate::net::redacted(&http.url),
        Source::Local { name } => name.clone(),
    }
}

/// An error of a source, with the kind that its fault stands for.
pub(in crate::engine) fn of_source(fault: Fault, error: &dyn miette::Diagnostic) -> Failure {
    let kind = match fault {
        Fault::Input => FailureKind::Input,
        Fault::Step => FailureKind::Step,
        Fault::Machine => FailureKind::Machine,
        Fault::Source => FailureKind::Source,
        Fault::Refused => FailureKind::Refused,
    };
    Failure::from_diagnostic(kind, error)
}

fn unreadable_repository(source: &GitSource, error: &std::io::Error) -> Failure {
    let message = format!("the repository `{}` cannot be read", source.url);
    Failure::caused(FailureKind::Input, "git::local", message, error)
}
