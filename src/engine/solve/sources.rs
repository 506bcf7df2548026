//! What sources turn out to be. To *recall* is to take what the store remembers, if that is fresh enough; nothing is
//! asked. To *obtain* is to ask, fetch and unpack what is not there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::inputs::{Made, Tree};
use super::session::{Session, Workshop, store_failure};
use crate::digest::{Digest, Fields, Key};
use crate::engine::debian_tree::DebianTree;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan::{BaseImage, Planned};
use crate::engine::snapshot;
use crate::engine::source::{Fault, git, http};
use crate::engine::work::Freshness;
use crate::event::BuildEvent;
use crate::graph::{GitSource, HttpSource, NodeId, Source};
use crate::store::Answer;

/// A remembered answer and how old it is.
struct Recalled<T> {
    answer: T,
    age_ms: u64,
}

/// What a repository's reference meant, and for which state of a local repository.
#[derive(Debug, Serialize, Deserialize)]
struct GitAnswer {
    resolved: git::Resolved,
    fingerprint: Option<Key>,
}

/// What a Debian base was made of: its snapshots, and its name for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::engine) struct DebianAnswer {
    pub(in crate::engine) layers: Vec<Key>,
    pub(in crate::engine) resolved: String,
    pub(in crate::engine) key: Key,
}

impl Session<'_> {
    /// What a source is, as far as the store remembers it and what it remembers is fresh and here.
    ///
    /// # Errors
    /// If the store, or a directory of this machine, cannot be read.
    pub(super) fn recall(
        &self,
        planned: &Planned,
        id: NodeId,
        source: &Source,
    ) -> Result<Option<Made>, Failure> {
        let whole = |layers: &[Key]| layers.iter().all(|layer| self.store.has_snapshot(layer));
        match source {
            Source::Local { name } => self
                .contexts
                .open(name)
                .map(|context| Some(Made::Local(context))),
            Source::StoredImage { .. } | Source::OciLayout(_) => {
                let Some(image) = planned.images.get(source) else {
                    return Ok(None);
                };
                self.note_own(id, named("image", &image.digest.to_string()));
                let layers: Vec<Key> = image.layers.iter().map(|layer| layer.snapshot).collect();
                Ok(whole(&layers).then(|| Made::Tree(Tree::new(layers))))
            }
            Source::Debian(_) => {
                let Some(recalled) = self.remembered::<DebianAnswer>(&reference(source))? else {
                    return Ok(None);
                };
                self.note_own(id, named("debian", &recalled.answer.key.to_string()));
                if !whole(&recalled.answer.layers) {
                    return Ok(None);
                }
                self.say_recalled(source, &recalled.answer.resolved, recalled.age_ms / 1000);
                Ok(Some(Made::Tree(Tree::new(recalled.answer.layers))))
            }
            Source::Git(git_source) => {
                let Some(recalled) = self.remembered_git(git_source, source)? else {
                    return Ok(None);
                };
                let resolved = &recalled.answer.resolved;
                self.note_own(id, resolved.fields(git_source));
                let snapshot = resolved.key(git_source);
                if !whole(&[snapshot]) {
                    return Ok(None);
                }
                // A repository on this machine was compared with what it is now; its answer has no age.
                match recalled.answer.fingerprint {
                    Some(_) => self.say_found(source, &resolved.commit, 0),
                    None => self.say_recalled(source, &resolved.commit, recalled.age_ms / 1000),
                }
                Ok(Some(Made::Tree(Tree::new(vec![snapshot]))))
            }
            Source::Http(http_source) => {
                let Some(recalled) = self.remembered::<http::Remembered>(&reference(source))?
                else {
                    return Ok(None);
                };
                if !self.download_path(&recalled.answer.digest).is_file() {
                    return Ok(None);
                }
                self.note_own(id, recalled.answer.fields());
                match http_source.checksum {
                    Some(_) => self.say_found(source, &recalled.answer.digest.to_string(), 0),
                    None => self.say_recalled(
                        source,
                        &recalled.answer.digest.to_string(),
                        recalled.age_ms / 1000,
                    ),
                }
                Ok(Some(Made::Download(Arc::new(recalled.answer))))
            }
        }
    }

    /// What a source is, whatever it takes.
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
        if let Some(made) = self.recall(planned, id, source)? {
            return Ok(made);
        }
        // Of several processes that need the same, one fetches it, and the others find it.
        let _lease = self
            .store
            .lock(&format!("source {}", reference(source)))
            .map_err(store_failure)?;
        if !matches!(self.work.freshness, Freshness::Now)
            && let Some(made) = self.recall(planned, id, source)?
        {
            return Ok(made);
        }
        let name = shown(source);
        self.events.emit(BuildEvent::SourceStarted {
            source: name.clone(),
        });
        let started = Instant::now();
        let obtained = match source {
            Source::Local { .. } | Source::StoredImage { .. } | Source::OciLayout(_) => {
                self.unpack_image(workshop, planned.images.get(source), &name)
            }
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
                name: &name,
            }
            .obtain(started)
            .and_then(|answer| {
                self.remember(&reference(source), &answer)?;
                self.note_own(id, named("debian", &answer.key.to_string()));
                Ok(Obtained {
                    made: Made::Tree(Tree::new(answer.layers)),
                    resolved: answer.resolved,
                    bytes: 0,
                })
            }),
            Source::Git(git_source) => self.obtain_git(workshop, id, git_source, source),
            Source::Http(http_source) => self.obtain_download(workshop, id, http_source, source),
        };
        match obtained {
            Ok(obtained) => {
                self.say_found(source, &obtained.resolved, obtained.bytes);
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

    /// Unpacks the layers of an image that are not here yet.
    fn unpack_image(
        &self,
        workshop: &Workshop,
        image: Option<&BaseImage>,
        name: &str,
    ) -> Result<Obtained, Failure> {
        let Some(image) = image else {
            return Err(Failure::new(
                FailureKind::Bug,
                "solve::image",
                format!("{name} was not planned"),
            ));
        };
        let mut below: Vec<Key> = Vec::new();
        let mut bytes = 0;
        for layer in &image.layers {
            if !workshop.snapshots.has(&layer.snapshot) {
                let _core = workshop.cores.take();
                workshop.unpack(self, image, layer, &below, name)?;
                bytes += layer.descriptor.size;
            }
            below.push(layer.snapshot);
        }
        Ok(Obtained {
            made: Made::Tree(Tree::new(below)),
            resolved: image.digest.to_string(),
            bytes,
        })
    }

    fn obtain_git(
        &self,
        workshop: &Workshop,
        id: NodeId,
        git_source: &GitSource,
        source: &Source,
    ) -> Result<Obtained, Failure> {
        let failure = |error: git::Error| of_source(error.fault(), &error);
        let fingerprint = git::local_fingerprint(&git_source.url)
            .map_err(|error| unreadable_repository(git_source, &error))?;
        let resolved = workshop.git.resolve(git_source).map_err(failure)?;
        self.note_own(id, resolved.fields(git_source));
        let snapshot = resolved.key(git_source);
        if !workshop.snapshots.has(&snapshot) {
            let settled = workshop.snapshots.prepare_layer(&[])?;
            let started = Instant::now();
            workshop
                .git
                .checkout(git_source, &resolved, &settled.upper_path())
                .map_err(failure)?;
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
        let commit = resolved.commit.clone();
        self.remember(
            &reference(source),
            &GitAnswer {
                resolved,
                fingerprint,
            },
        )?;
        Ok(Obtained {
            made: Made::Tree(Tree::new(vec![snapshot])),
            resolved: commit,
            bytes: 0,
        })
    }

    fn obtain_download(
        &self,
        workshop: &Workshop,
        id: NodeId,
        http_source: &HttpSource,
        source: &Source,
    ) -> Result<Obtained, Failure> {
        let reference = reference(source);
        let name = shown(source);
        let known = self.answer::<http::Remembered>(&reference)?;
        let known = known.as_ref().map(|known| &known.answer);
        let progress = |bytes| {
            self.events.emit(BuildEvent::SourceProgress {
                source: name.clone(),
                bytes,
                total: 0,
            });
        };
        let answer = http::fetch(
            http_source,
            known,
            &self.shelf(workshop),
            &workshop.client,
            &progress,
        )
        .map_err(|error| of_source(error.fault(), &error))?;
        let (remembered, bytes) = match answer {
            http::Answer::Unchanged(remembered) => (remembered, 0),
            http::Answer::Fetched(remembered) => {
                let bytes = remembered.size_bytes;
                (remembered, bytes)
            }
        };
        self.remember(&reference, &remembered)?;
        self.note_own(id, remembered.fields());
        let resolved = remembered.digest.to_string();
        Ok(Obtained {
            made: Made::Download(Arc::new(remembered)),
            resolved,
            bytes,
        })
    }

    /// Where a download is, or would be.
    pub(super) fn download_path(&self, digest: &Digest) -> PathBuf {
        self.store.path().join("http").join(digest.hex())
    }

    /// Where downloads are put. What is unfinished lies in the workshop's own directory, which no other process sweeps
    /// while this one lives.
    fn shelf(&self, workshop: &Workshop) -> http::Shelf {
        http::Shelf {
            directory: self.store.path().join("http"),
            tmp: workshop.scratch.path(),
        }
    }

    fn remembered_git(
        &self,
        git_source: &GitSource,
        source: &Source,
    ) -> Result<Option<Recalled<GitAnswer>>, Failure> {
        let Some(recalled) = self.answer::<GitAnswer>(&reference(source))? else {
            return Ok(None);
        };
        let now = git::local_fingerprint(&git_source.url)
            .map_err(|error| unreadable_repository(git_source, &error))?;
        let serves = match (&recalled.answer.fingerprint, now) {
            // A repository of this machine is never remembered unsoundly: what it is now decides.
            (Some(then), Some(now)) => *then == now,
            (None, None) => self.work.freshness.accepts(recalled.age_ms),
            _ => false,
        };
        Ok(serves.then_some(recalled))
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
    fn answer<T: DeserializeOwned>(&self, reference: &str) -> Result<Option<Recalled<T>>, Failure> {
        let Some(answer) = self.index()?.answer(reference).map_err(store_failure)? else {
            return Ok(None);
        };
        let age_ms = self.now_ms().saturating_sub(answer.asked_ms);
        // What another version of shmocker wrote is asked anew.
        Ok(serde_json::from_str(&answer.answer)
            .ok()
            .map(|answer| Recalled { answer, age_ms }))
    }

    fn remember<T: Serialize>(&self, reference: &str, answer: &T) -> Result<(), Failure> {
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

    fn say_recalled(&self, source: &Source, resolved: &str, age_s: u64) {
        self.events.emit(BuildEvent::SourceDone {
            source: shown(source),
            cached: true,
            bytes: 0,
            resolved: Some(resolved.to_owned()),
            age_s: Some(age_s),
        });
    }

    fn say_found(&self, source: &Source, resolved: &str, bytes: u64) {
        self.events.emit(BuildEvent::SourceDone {
            source: shown(source),
            cached: bytes == 0,
            bytes,
            resolved: Some(resolved.to_owned()),
            age_s: None,
        });
    }
}

struct Obtained {
    made: Made,
    resolved: String,
    bytes: u64,
}

fn named(name: &str, value: &str) -> Fields {
    let mut fields = Fields::new();
    fields.put(name, value);
    fields
}

/// A name under which a source's answer is remembered: everything that was asked for.
fn reference(source: &Source) -> String {
    serde_json::to_string(source).unwrap_or_default()
}

/// A source as a person would write it.
fn shown(source: &Source) -> String {
    match source {
        Source::StoredImage { name } => crate::image::Name::familiar(name).to_owned(),
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
