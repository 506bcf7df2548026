//! A pinned Debian base: its packages, and the Release files that vouched for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::engine::source::debian::{Package, Resolution, ResolvedPocket, Selection};
use crate::graph::DebianSource;

/// The packages of a Debian base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianPin {
    /// The Release files that vouched for the packages, that of the suite itself first.
    pub releases: Vec<PinnedRelease>,
    /// The essential packages, apt, and what they need, sorted by name.
    pub base: Vec<PinnedPackage>,
    /// What the named packages add, sorted by name.
    pub packages: Vec<PinnedPackage>,
}

/// A Release file of the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedRelease {
    /// The suite: `bookworm-security`.
    pub suite: String,
    /// Its `Date`, in seconds since 1970.
    #[serde(with = "super::file::time")]
    pub date: u64,
    /// The index of packages that it named.
    pub index: Digest,
}

/// One package, written as `NAME VERSION ARCHITECTURE SUITE PATH BYTES DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PinnedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub arch: String,
    /// The suite that it is from.
    pub suite: String,
    /// The path below the suite's archive.
    pub path: String,
    /// The length of its `.deb`.
    pub size_bytes: u64,
    /// The digest of its `.deb`.
    pub sha256: Digest,
}

impl fmt::Display for PinnedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            version,
            arch,
            suite,
            path,
            size_bytes,
            sha256,
        } = self;
        write!(
            f,
            "{name} {version} {arch} {suite} {path} {size_bytes} {sha256}"
        )
    }
}

impl From<PinnedPackage> for String {
    fn from(package: PinnedPackage) -> Self {
        package.to_string()
    }
}

impl TryFrom<String> for PinnedPackage {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for PinnedPackage {
    type Err = String;

    /// Parts of it become names of files and addresses, so they are checked as if a stranger had written them.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not NAME VERSION ARCHITECTURE SUITE PATH BYTES DIGEST of a package"
            )
        };
        let words: Vec<&str> = text.split(' ').collect();
        let [name, version, arch, suite, path, size, sha256] = words.as_slice() else {
            return Err(wrong());
        };
        let sound = |word: &str, marks: &str| {
            word.starts_with(|first: char| first.is_ascii_alphanumeric())
                && word
                    .chars()
                    .all(|it| it.is_ascii_alphanumeric() || marks.contains(it))
        };
        let is_path = !path.contains(['\\', '?', '#', '%'])
            && !path.split('/').any(|part| matches!(part, "" | "." | ".."));
        if !sound(name, "+-.")
            || !sound(version, "+-.~:")
            || !sound(arch, "-")
            || !sound(suite, "-._")
            || !is_path
        {
            return Err(wrong());
        }
        Ok(Self {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            arch: (*arch).to_owned(),
            suite: (*suite).to_owned(),
            path: (*path).to_owned(),
            size_bytes: size.parse().map_err(|_| wrong())?,
            sha256: sha256.parse().map_err(|_| wrong())?,
        })
    }
}

impl DebianPin {
    /// Pins what was resolved.
    #[must_use]
    pub fn of(resolution: &Resolution, selection: Option<&Selection>) -> Self {
        let release = |pocket: &ResolvedPocket| {
            Some(PinnedRelease {
                suite: pocket.suite.clone(),
                date: pocket.date_s,
                index: pocket.index.as_ref()?.sha256,
            })
        };
        let package = |package: &Package| {
            let pocket = resolution.pockets.get(package.pocket);
            PinnedPackage {
                name: package.name.clone(),
                version: package.version.clone(),
                arch: package.arch.clone(),
                suite: pocket.map_or_else(String::new, |pocket| pocket.suite.clone()),
                path: package.path.clone(),
                size_bytes: package.size_bytes,
                sha256: package.sha256,
            }
        };
        let added = selection.map_or(&[][..], |selection| &selection.packages);
        Self {
            releases: resolution.pockets.iter().filter_map(release).collect(),
            base: resolution.packages.iter().map(package).collect(),
            packages: added.iter().map(package).collect(),
        }
    }

    /// Of which day it is, and how much.
    pub(super) fn spoken(&self) -> String {
        let date = self.releases.first().map_or(0, |release| release.date);
        let time = crate::image::Timestamp::from_seconds(date as i64).to_string();
        let packages = self.base.len() + self.packages.len();
        format!("{packages} packages of {time}")
    }

    /// What is wrong with it, if it was written by hand.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.releases.is_empty() {
            return Err("it names no Release file".to_owned());
        }
        let known = |suite: &str| self.releases.iter().any(|release| release.suite == suite);
        let stray = self
            .base
            .iter()
            .chain(&self.packages)
            .find(|package| !known(&package.suite));
        stray.map_or(Ok(()), |package| {
            Err(format!(
                "`{}` is from the suite `{}`, which is not among its releases",
                package.name, package.suite
            ))
        })
    }

    /// What the base is made of; `archive` says where a suite's packages are fetched from.
    #[must_use]
    pub fn resolution(
        &self,
        source: &DebianSource,
        archive: impl Fn(&str) -> String,
    ) -> Resolution {
        let pockets = self.releases.iter().map(|release| ResolvedPocket {
            archive: archive(&release.suite),
            suite: release.suite.clone(),
            date_s: release.date,
            index: None,
        });
        Resolution {
            suite: source.suite.clone(),
            arch: source.arch.clone(),
            pockets: pockets.collect(),
            packages: self.resolved(&self.base),
            release_date_s: self.releases.first().map_or(0, |release| release.date),
            excerpt: None,
        }
    }

    /// What the named packages add.
    #[must_use]
    pub fn selection(&self, source: &DebianSource) -> Selection {
        Selection {
            names: source.packages.clone(),
            packages: self.resolved(&self.packages),
        }
    }

    fn resolved(&self, packages: &[PinnedPackage]) -> Vec<Package> {
        let place = |suite: &str| {
            let found = self
                .releases
                .iter()
                .position(|release| release.suite == suite);
            found.unwrap_or(0)
        };
        let resolved = packages.iter().map(|package| Package {
            name: package.name.clone(),
            version: package.version.clone(),
            arch: package.arch.clone(),
            sha256: package.sha256,
            size_bytes: package.size_bytes,
            pocket: place(&package.suite),
            path: package.path.clone(),
        });
        resolved.collect()
    }
}
