//! What a lock says of sources, and what it could say: a source that is pinned is taken as that, and nothing is asked of
//! what it means; one that is not is asked now.

use super::session::{Session, Workshop};
use super::sources::{DebianAnswer, GitAnswer, reference, shown};
use crate::engine::debian_tree::DebianTree;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::lock::{
    self, DebianPin, Entry, GitPin, HttpPin, ImagePin, Lock, Mode, Outdated, Pin, platform_of,
};
use crate::engine::plan::Planned;
use crate::engine::source::{git, http};
use crate::event::BuildEvent;
use crate::graph::{DebianSource, GitSource, HttpSource, Source};
use crate::net;

/// How many sources are asked at once.
pub(super) const ASKED_AT_ONCE: usize = 8;

impl DebianAnswer {
    /// What a pinned base is.
    pub(super) fn of_pin(pin: &DebianPin, source: &DebianSource) -> Self {
        let resolution = pin.resolution(source, |_| String::new());
        let bottom = resolution.key();
        let mut answer = Self::bottom(&resolution);
        if !source.packages.is_empty() {
            let top = pin.selection(source).key(&resolution);
            answer.layers = vec![bottom, top];
            answer.key = top;
        }
        answer
    }
}

impl Session<'_> {
    /// The packages that a Debian base is pinned to.
    pub(super) fn pinned_debian(&self, source: &Source) -> Option<&DebianPin> {
        match self.work.pin(source) {
            Some(Pin::Debian(pin)) => Some(pin),
            _ => None,
        }
    }

    /// The commit that a repository is pinned to.
    pub(super) fn pinned_git(
        &self,
        git_source: &GitSource,
        source: &Source,
    ) -> Result<Option<git::Resolved>, Failure> {
        let Some(Pin::Git(pin)) = self.work.pin(source) else {
            return Ok(None);
        };
        let resolved = pin.resolved();
        match &git_source.checksum {
            Some(checksum) if !resolved.is(checksum) => {
                Err(self.mismatch(source, &pin.commit, checksum))
            }
            _ => Ok(Some(resolved)),
        }
    }

    /// The content that a download is pinned to.
    pub(super) fn pinned_download(
        &self,
        http_source: &HttpSource,
        source: &Source,
    ) -> Result<Option<http::Remembered>, Failure> {
        let Some(Pin::Http(pin)) = self.work.pin(source) else {
            return Ok(None);
        };
        let pinned = pin.sha256.to_string();
        match &http_source.checksum {
            Some(checksum) if *checksum != pinned => Err(self.mismatch(source, &pinned, checksum)),
            _ => Ok(Some(pin.remembered(http_source))),
        }
    }

    pub(super) fn mismatch(&self, source: &Source, pinned: &str, found: &str) -> Failure {
        match &self.work.lock {
            Some(lock) => lock.mismatch(source, pinned, found),
            // Nothing is pinned without a lock.
            None => Failure::new(FailureKind::Bug, "lock::none", shown(source)),
        }
    }

    /// Says how to go on where what is pinned is no longer to be had.
    pub(in crate::engine) fn with_upgrade(
        &self,
        failure: Failure,
        is_pinned: bool,
        source: &Source,
    ) -> Failure {
        let name = self.work.lock.as_ref().and_then(|lock| lock.name(source));
        match (&self.work.lock, name) {
            (Some(lock), Some(name)) if is_pinned && failure.kind == FailureKind::Source => {
                let way_out = format!(
                    "{} pins it; what there is now is pinned by `shmocker habitat upgrade {} '{name}'`",
                    lock.file, lock.habitat
                );
                failure.with_help(way_out)
            }
            _ => failure,
        }
    }

    /// What all sources of a plan are, or are to be pinned to: what is pinned stays so, what is not is asked now.
    ///
    /// # Errors
    /// If one of them cannot be had.
    pub fn pins(&self, workshop: &Workshop, planned: &Planned) -> Result<Vec<Entry>, Failure> {
        let sources = lock::sources(planned);
        net::fetch_all(&sources, ASKED_AT_ONCE, |source| {
            let entry = |pin: Pin| Entry {
                source: self.name(source),
                platform: platform_of(source, &self.work.platform),
                pin,
            };
            match self.work.pin(source) {
                Some(pin) => Ok(entry(pin.clone())),
                None => self.asked(workshop, planned, source).map(entry),
            }
        })
    }

    /// A lock with all that is known of what the sources of a plan are; nobody is asked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn pinned_lock(&self, planned: &Planned) -> Result<Lock, Failure> {
        let own = self.work.lock.clone();
        let mut lock = own.unwrap_or_else(|| Lock {
            file: "what is written down of the image".to_owned(),
            habitat: self.work.project.clone(),
            directory: "/".into(),
            mode: Mode::Open,
            entries: Vec::new(),
            places: Vec::new(),
        });
        lock.mode = Mode::Open;
        for source in lock::sources(planned) {
            if lock.entry(source, &self.work.platform).is_some() {
                continue;
            }
            let pin = match source {
                Source::Image(_) | Source::OciLayout(_) => {
                    planned.images.get(source).map(|image| {
                        Pin::Image(ImagePin {
                            digest: image.digest,
                        })
                    })
                }
                Source::Git(_) => self
                    .answer::<GitAnswer>(&reference(source))?
                    .map(|known| Pin::Git(GitPin::of(known.answer.resolved))),
                Source::Http(_) => self
                    .answer::<http::Remembered>(&reference(source))?
                    .map(|known| Pin::Http(HttpPin::of(&known.answer))),
                // What its packages were is a part of what the build was made from.
                Source::Debian(_) | Source::Local { .. } => None,
            };
            if let (Some(pin), Some(name)) = (pin, lock.name(source)) {
                lock.entries.push(Entry {
                    source: name,
                    platform: platform_of(source, &self.work.platform),
                    pin,
                });
            }
        }
        Ok(lock)
    }

    /// What was downloaded though nothing says what it has to be.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn downloads(&self, planned: &Planned) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        for source in lock::sources(planned) {
            let Source::Http(HttpSource { checksum: None, .. }) = source else {
                continue;
            };
            if self.work.pin(source).is_some() {
                continue;
            }
            if let Some(known) = self.answer::<http::Remembered>(&reference(source))? {
                entries.push(Entry {
                    source: self.name(source),
                    platform: None,
                    pin: Pin::Http(HttpPin::of(&known.answer)),
                });
            }
        }
        Ok(entries)
    }

    /// What differs between what is pinned and what there is now.
    ///
    /// # Errors
    /// If one of the sources cannot be asked.
    pub fn outdated(
        &self,
        workshop: &Workshop,
        planned: &Planned,
    ) -> Result<Vec<Outdated>, Failure> {
        let sources = lock::sources(planned);
        let found = net::fetch_all(&sources, ASKED_AT_ONCE, |source| {
            let lock = self.work.lock.as_ref();
            let entry = lock.and_then(|lock| lock.entry(source, &self.work.platform));
            let one = |locked: Option<String>, available: Option<String>| Outdated {
                name: self.name(source),
                source: self.name(source),
                locked,
                available,
            };
            Ok::<_, Failure>(match (entry.map(|entry| &entry.pin), source) {
                (None, _) => vec![one(None, None)],
                (Some(Pin::Debian(pin)), Source::Debian(debian)) => {
                    self.outdated_packages(workshop, debian, source, pin)?
                }
                (Some(pin), source) => {
                    let now = self.asked(workshop, planned, source)?;
                    match now.spoken() == pin.spoken() {
                        true => Vec::new(),
                        false => vec![one(Some(pin.spoken()), Some(now.spoken()))],
                    }
                }
            })
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    fn outdated_packages(
        &self,
        workshop: &Workshop,
        debian: &DebianSource,
        source: &Source,
        pin: &DebianPin,
    ) -> Result<Vec<Outdated>, Failure> {
        let name = shown(source);
        let tree = DebianTree {
            session: self,
            workshop,
            source: debian,
            pin: None,
            name: &name,
        };
        let pinned = || pin.base.iter().chain(&pin.packages);
        let names: Vec<&str> = pinned().map(|package| package.name.as_str()).collect();
        let offered = tree.offered(&names)?;
        let differs =
            pinned().filter(|package| offered.get(&package.name) != Some(&package.version));
        Ok(differs
            .map(|package| Outdated {
                name: package.name.clone(),
                source: self.name(source),
                locked: Some(package.version.clone()),
                available: offered.get(&package.name).cloned(),
            })
            .collect())
    }

    fn name(&self, source: &Source) -> String {
        let lock = self.work.lock.as_ref();
        lock.and_then(|lock| lock.name(source))
            .unwrap_or_else(|| shown(source))
    }

    /// What a source is now.
    fn asked(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        source: &Source,
    ) -> Result<Pin, Failure> {
        let name = shown(source);
        self.events.emit(BuildEvent::SourceStarted {
            source: name.clone(),
        });
        let pin = self.pin_now(workshop, planned, source, &name);
        self.events.emit(match &pin {
            Ok(pin) => BuildEvent::SourceDone {
                source: name,
                cached: false,
                bytes: 0,
                resolved: Some(pin.spoken()),
                age_s: None,
            },
            Err(failure) => BuildEvent::SourceFailed {
                source: name,
                message: failure.message.clone(),
            },
        });
        pin
    }

    fn pin_now(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        source: &Source,
        name: &str,
    ) -> Result<Pin, Failure> {
        match source {
            Source::Image(_) | Source::OciLayout(_) => {
                let image = planned.images.get(source).ok_or_else(|| {
                    let message = format!("{name} was not planned");
                    Failure::new(FailureKind::Bug, "lock::image", message)
                })?;
                Ok(Pin::Image(ImagePin {
                    digest: image.digest,
                }))
            }
            Source::Debian(debian) => DebianTree {
                session: self,
                workshop,
                source: debian,
                pin: None,
                name,
            }
            .pin()
            .map(Pin::Debian),
            Source::Git(git_source) => {
                let resolved = self.ask_git(&workshop.reach, git_source, source)?;
                Ok(Pin::Git(GitPin::of(resolved)))
            }
            Source::Http(http_source) => {
                let (remembered, _) = self.ask_download(&workshop.reach, http_source, source)?;
                Ok(Pin::Http(HttpPin::of(&remembered)))
            }
            Source::Local { .. } => {
                let message = format!("{name} is read in place and cannot be pinned");
                Err(Failure::new(FailureKind::Bug, "lock::local", message))
            }
        }
    }
}
