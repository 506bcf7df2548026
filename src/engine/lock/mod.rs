//! What a habitat's sources are pinned to: images by digest, Debian packages by version and hash, repositories by commit,
//! downloads by hash. A [`Lock`] goes with the [`Work`]; it acts where things are fetched (`solve::sources`), whichever
//! way they came into the Dockerfile.
//!
//! ```text
//! Lock::pin          what a source is pinned to: nothing that moves is asked then
//! refusals           what a frozen build asks for and the lock has not
//! Session::pins      what is not pinned yet, asked now               (habitat lock, habitat upgrade)
//! Session::outdated  what is pinned, and what there is now           (habitat outdated)
//! file               the text of a lock file
//! ```
//!
//! A source is known by its name, which is what a person would write: `debian://bookworm?packages=git`,
//! `https://example.org/x.git#main`. Repositories and layouts of this machine are named from the directory of the lock, so
//! that a lock holds wherever a project lies. What depends on the platform is pinned for each.

mod debian;
mod file;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::{Failure, FailureKind, Place};
use super::plan::Planned;
use super::solve::shown;
use super::source::{git, http};
use super::work::Work;
use crate::digest::Digest;
use crate::graph::{GitSource, HttpSource, Op, Source};

pub use debian::{DebianPin, PinnedPackage, PinnedRelease};
pub use file::{FileError, VERSION, parse, print};

/// The pins of a habitat, and how they count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The lock file as it is called in messages.
    pub file: String,
    /// The habitat that it belongs to, as the user gave it.
    pub habitat: String,
    /// The directory that it lies in, absolute.
    pub directory: PathBuf,
    /// How it counts.
    pub mode: Mode,
    /// The pins, sorted.
    pub entries: Vec<Entry>,
    /// Where the habitat asks for its sources, by their names.
    pub places: Vec<(String, Place)>,
}

/// How a lock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// What is pinned is taken as pinned; all else is asked for.
    Open,
    /// What is not pinned is refused.
    Frozen,
    /// Not at all: what there is now is wanted, to compare.
    Ignored,
}

/// One pinned source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub source: String,
    /// `os/arch[/variant]`, where it depends on that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What it is pinned to.
    pub pin: Pin,
}

/// What a source is pinned to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// An image.
    Image(ImagePin),
    /// A root filesystem from a Debian archive.
    Debian(DebianPin),
    /// A commit of a repository.
    Git(GitPin),
    /// A download.
    Http(HttpPin),
}

/// An image by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePin {
    /// Of its manifest.
    pub digest: Digest,
}

/// A commit by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitPin {
    /// The commit.
    pub commit: String,
    /// The name under which the repository had it, `refs/…`: what a kept `.git` has checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The object of an annotated tag, if `reference` is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// A download by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPin {
    /// The content.
    pub sha256: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// When it was last changed, as the server said: the time of the file.
    #[serde(default, with = "file::time", skip_serializing_if = "is_zero")]
    pub modified: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A pin that is not what there is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outdated {
    /// The package of a Debian base, else the source.
    pub name: String,
    /// The source.
    pub source: String,
    /// What it is pinned to; `None`: it is not in the lock.
    pub locked: Option<String>,
    /// What there is; `None`: nothing any more, or it was not asked.
    pub available: Option<String>,
}

impl Pin {
    /// What a person is shown of it.
    #[must_use]
    pub fn spoken(&self) -> String {
        match self {
            Self::Image(pin) => pin.digest.to_string(),
            Self::Git(pin) => pin.commit.clone(),
            Self::Http(pin) => pin.sha256.to_string(),
            Self::Debian(pin) => pin.spoken(),
        }
    }
}

impl GitPin {
    /// As the answer to what a reference means.
    #[must_use]
    pub fn resolved(&self) -> git::Resolved {
        git::Resolved {
            commit: self.commit.clone(),
            reference: self.reference.clone(),
            tag_object: self.tag.clone(),
        }
    }

    /// Pins such an answer.
    #[must_use]
    pub fn of(resolved: git::Resolved) -> Self {
        Self {
            commit: resolved.commit,
            reference: resolved.reference,
            tag: resolved.tag_object,
        }
    }
}

impl HttpPin {
    /// As what is remembered of a download.
    #[must_use]
    pub fn remembered(&self, source: &HttpSource) -> http::Remembered {
        http::Remembered {
            digest: self.sha256,
            size_bytes: self.size_bytes,
            name: source.name.clone(),
            mtime_s: self.modified,
            validators: crate::net::Validators::default(),
        }
    }

    /// Pins what was downloaded.
    #[must_use]
    pub fn of(remembered: &http::Remembered) -> Self {
        Self {
            sha256: remembered.digest,
            size_bytes: remembered.size_bytes,
            modified: remembered.mtime_s,
        }
    }
}

impl Lock {
    /// What a source is called; `None`: it is no such thing as could be pinned.
    #[must_use]
    pub fn name(&self, source: &Source) -> Option<String> {
        match source {
            Source::Local { .. } => None,
            Source::Git(git) if git.url.starts_with('/') => {
                let url = relative(&self.directory, Path::new(&git.url));
                Some(shown(&Source::Git(GitSource { url, ..git.clone() })))
            }
            Source::OciLayout(layout) => {
                let path = relative(&self.directory, Path::new(&layout.path));
                let tag = layout.tag.as_ref().map(|tag| format!(":{tag}"));
                Some(format!("oci-layout://{path}{}", tag.unwrap_or_default()))
            }
            _ => Some(shown(source)),
        }
    }

    /// The entry of a source.
    #[must_use]
    pub fn entry(&self, source: &Source, platform: &str) -> Option<&Entry> {
        let name = self.name(source)?;
        let platform = platform_of(source, platform);
        let is_it = |entry: &&Entry| entry.source == name && entry.platform == platform;
        self.entries.iter().find(is_it)
    }

    fn place(&self, name: &str) -> Option<Place> {
        let found = self.places.iter().find(|(known, _)| known == name);
        found.map(|(_, place)| place.clone())
    }

    /// What is said where a source is not what it is pinned to.
    #[must_use]
    pub fn mismatch(&self, source: &Source, pinned: &str, found: &str) -> Failure {
        let name = self.name(source).unwrap_or_else(|| shown(source));
        let message = format!("`{name}` is not what {} pins it to", self.file);
        let mut failure = Failure::new(FailureKind::Refused, "lock::mismatch", message);
        failure
            .causes
            .push(format!("the lock has {pinned}, and there is {found}"));
        failure.place = self.place(&name);
        failure.label = failure.place.as_ref().map(|_| "asked for here".to_owned());
        failure.with_help(format!(
            "get back what is pinned; or, if the new one is to be trusted, `shmocker habitat upgrade {} '{name}'`",
            self.habitat
        ))
    }

    fn missing(&self, name: &str) -> Failure {
        let message = format!("`{name}` is not in {}", self.file);
        let mut failure = Failure::new(FailureKind::Refused, "lock::missing", message);
        failure
            .causes
            .push("a frozen build takes nothing that is not pinned".to_owned());
        failure.place = self.place(name);
        failure.label = failure.place.as_ref().map(|_| "asked for here".to_owned());
        failure.with_help(format!(
            "`shmocker habitat lock {}` pins what is not pinned yet",
            self.habitat
        ))
    }
}

impl Work {
    /// What a source is pinned to.
    #[must_use]
    pub fn pin(&self, source: &Source) -> Option<&Pin> {
        let lock = self
            .lock
            .as_ref()
            .filter(|lock| lock.mode != Mode::Ignored)?;
        lock.entry(source, &self.platform).map(|entry| &entry.pin)
    }

    /// Why a source is refused: the build is frozen, and it is not pinned.
    #[must_use]
    pub fn refused(&self, source: &Source) -> Option<Failure> {
        let lock = self
            .lock
            .as_ref()
            .filter(|lock| lock.mode == Mode::Frozen)?;
        if !is_moving(source) || lock.entry(source, &self.platform).is_some() {
            return None;
        }
        lock.name(source).map(|name| lock.missing(&name))
    }
}

/// Everything that a frozen build asks for and that is not pinned.
#[must_use]
pub fn refusals(work: &Work, planned: &Planned) -> Vec<Failure> {
    let sources = sources(planned);
    sources
        .into_iter()
        .filter_map(|source| work.refused(source))
        .collect()
}

/// The names of what an open build asks for and its lock has not. None, if there is no lock.
#[must_use]
pub fn unpinned(work: &Work, planned: &Planned) -> Vec<String> {
    let Some(lock) = work.lock.as_ref().filter(|lock| lock.mode == Mode::Open) else {
        return Vec::new();
    };
    sources(planned)
        .into_iter()
        .filter(|source| lock.entry(source, &work.platform).is_none())
        .filter_map(|source| lock.name(source))
        .collect()
}

/// The sources that the target needs and that can mean one thing today and another tomorrow, each once.
#[must_use]
pub fn sources(planned: &Planned) -> Vec<&Source> {
    let graph = &planned.lowered.graph;
    let mut sources = Vec::new();
    for id in graph.needed(&[planned.lowered.target]) {
        if let Op::Source(source) = &graph.node(id).op
            && is_moving(source)
            && !sources.contains(&source)
        {
            sources.push(source);
        }
    }
    sources
}

/// Whether a source can mean one thing today and another tomorrow. Of a download that names its hash that is the file's
/// time.
fn is_moving(source: &Source) -> bool {
    match source {
        Source::Local { .. } => false,
        Source::Image(image) => !image.name.contains('@'),
        Source::OciLayout(layout) => layout.digest.is_none(),
        Source::Git(git_source) => !git::is_pinned(git_source),
        Source::Debian(_) | Source::Http(_) => true,
    }
}

/// The platform that a source's pin is for.
#[must_use]
pub fn platform_of(source: &Source, platform: &str) -> Option<String> {
    match source {
        Source::OciLayout(layout) => {
            Some(layout.platform.as_deref().unwrap_or(platform).to_owned())
        }
        Source::Image(image) => Some(image.platform.as_deref().unwrap_or(platform).to_owned()),
        Source::Debian(_) => Some(platform.to_owned()),
        Source::Git(_) | Source::Http(_) | Source::Local { .. } => None,
    }
}

/// A path as it is written in a file of `directory`.
fn relative(directory: &Path, path: &Path) -> String {
    let common = directory
        .components()
        .zip(path.components())
        .take_while(|(one, other)| one == other)
        .count();
    // What has nothing in common but the root is named from there.
    if common <= 1 {
        return path.display().to_string();
    }
    let up = directory
        .components()
        .skip(common)
        .map(|_| Component::ParentDir);
    let way: PathBuf = up.chain(path.components().skip(common)).collect();
    match way.starts_with("..") {
        true => way.display().to_string(),
        false => format!("./{}", way.display()),
    }
}

#[cfg(test)]
mod tests;
