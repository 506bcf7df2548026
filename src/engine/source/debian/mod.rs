//! A root filesystem straight from a Debian archive: no registry, a signature for every file, and none of the host's
//! apt, dpkg or gpgv.
//!
//! ```text
//! Mirrors::choose      which servers, from values that the caller read
//! base::resolve        InRelease (signed) ─▶ Packages by hash ─▶ the essential set and apt      = Resolution
//! base::build          download, unpack, configure with dpkg and the packages' own scripts      = the base's tree
//! packages::resolve    that tree's apt says what the named packages need                       = Selection
//! packages::build      download, install with that apt, no network                             = the tree above it
//! base::offered        the versions that the archive has now; nothing is made
//! ```
//!
//! A [`Resolution`] and a [`Selection`] are plain values. Their keys name everything that the bytes of the tree depend on
//! (package digests, architecture, release date, [`RECIPE`]), so the same key is the same tree: what would differ from one
//! run to the next is removed by one table, `tidy::TIDIED`, and times are clamped to the release date.
//!
//! Programs of the tree run through [`Runner`], which the engine implements with its sandbox: no network, uid 0 of the
//! caller's user namespace.

pub mod base;
mod cache;
mod closure;
mod configure;
mod deb;
mod error;
mod index;
mod keyring;
mod mirror;
pub mod packages;
mod records;
mod release;
mod runner;
mod stanza;
mod tidy;
mod unpack;
mod version;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Fields, Key};
use crate::image::{ImageConfig, RunConfig};
use crate::net::Client;

pub use cache::Cache;
pub use error::{Error, Result};
pub use keyring::Keyring;
pub use mirror::{
    Absence, AptSource, Mirrors, Pocket, host_sources, parse_deb822_sources, parse_list_sources,
};
pub use runner::{Command, Output, Runner, RunnerError};

/// Which way of making a tree this is. Any change that can change a byte of the result gets the next number.
pub const RECIPE: &str = "2";

/// The archive that everybody can reach; an image's own apt sources name it, whatever mirror was used.
pub const PUBLIC_ARCHIVE: &str = "http://deb.debian.org/debian";

/// Its security archive.
pub const PUBLIC_SECURITY_ARCHIVE: &str = "http://deb.debian.org/debian-security";

/// What the work needs from its surroundings.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// How servers are reached.
    pub client: &'a Client<'a>,
    /// Where downloads are kept.
    pub cache: &'a Cache,
    /// Whose signatures count.
    pub keyring: &'a Keyring,
    /// Now, in seconds since 1970: what `Valid-Until` and the keys' expiry are held against.
    pub now_s: u64,
    /// Told how it goes; may be called from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings")
            .field("now_s", &self.now_s)
            .finish_non_exhaustive()
    }
}

/// How it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Bytes that are here, of those that this step needs.
    Bytes {
        /// Here.
        done: u64,
        /// Needed, 0 if not known.
        total: u64,
    },
    /// What is being done now.
    Doing(&'static str),
    /// Something the user should know.
    Warning(String),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The suite, by code name: `bookworm`.
    pub suite: &'a str,
    /// Debian's name of the architecture: `amd64`.
    pub arch: &'a str,
    /// The packages that will be named on top of the base. They are no part of it, but one that the archive has not is
    /// found out before anything is built.
    pub packages: &'a [String],
}

/// One package, as the archive's signed index has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub arch: String,
    /// The digest of its `.deb`.
    pub sha256: Digest,
    /// The length of its `.deb`.
    pub size_bytes: u64,
    /// Where its `.deb` is: one of [`Resolution::pockets`].
    pub pocket: usize,
    /// The path below that pocket's archive.
    pub path: String,
}

/// One suite of an archive as it was when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedPocket {
    /// The archive: what its `dists` and `pool` are below.
    pub archive: String,
    /// The suite in it, such as `bookworm-updates`.
    pub suite: String,
    /// `Date` of its Release file, in seconds since 1970.
    pub date_s: u64,
    /// Its index of packages; `None` where the packages are pinned, so that it is not needed.
    pub index: Option<IndexFile>,
}

/// An index of packages, as the signed Release file names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    /// Its path below the suite's directory.
    pub path: String,
    /// Where it is fetched from below the suite's directory: by hash where the archive offers that.
    pub fetch_path: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// What a base is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The suite.
    pub suite: String,
    /// The architecture.
    pub arch: String,
    /// Where it comes from, the suite itself first.
    pub pockets: Vec<ResolvedPocket>,
    /// The packages of the base, sorted by name.
    pub packages: Vec<Package>,
    /// `Date` of the suite's Release file, in seconds since 1970: the SOURCE_DATE_EPOCH of its tree.
    pub release_date_s: u64,
    /// The part of the indices that comes into question for the packages that were to be named; `None` where they are
    /// pinned.
    pub excerpt: Option<Excerpt>,
}

/// A part of a suite's indices: a file of the cache, which can be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// The packages that it was made for.
    pub names: Vec<String>,
    /// The file.
    pub sha256: Digest,
}

impl Resolution {
    /// What the base's tree depends on.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        fields.put("source", "debian");
        fields.put("recipe", RECIPE);
        fields.put("suite", self.suite.clone());
        fields.put("arch", self.arch.clone());
        fields.put("release date", self.release_date_s.to_string());
        for pocket in &self.pockets {
            // The image's own apt sources name it.
            fields.put("pocket", pocket.suite.clone());
        }
        put_packages(&mut fields, &self.packages);
        fields
    }

    /// The key of [`Resolution::fields`].
    #[must_use]
    pub fn key(&self) -> Key {
        self.fields().key()
    }

    /// Names the answer to "what do these packages need": the same key, the same [`Selection`]. Under it a selection
    /// can be remembered, so that the base's apt is not asked again.
    #[must_use]
    pub fn question(&self, names: &[String]) -> Key {
        let mut fields = self.fields();
        for pocket in &self.pockets {
            let index = pocket.index.as_ref();
            fields.put(
                format!("index {} {}", pocket.archive, pocket.suite),
                index.map_or_else(String::new, |index| index.sha256.to_string()),
            );
        }
        for name in names {
            fields.put("package", name.clone());
        }
        fields.key()
    }
}

/// What named packages add to a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The names that were asked for.
    pub names: Vec<String>,
    /// The packages that are added, sorted by name. Empty: all of them are in the base.
    pub packages: Vec<Package>,
}

impl Selection {
    /// What the tree of base and packages depends on.
    #[must_use]
    pub fn fields(&self, base: &Resolution) -> Fields {
        let mut fields = base.fields();
        for name in &self.names {
            fields.put("named", name.clone());
        }
        put_packages(&mut fields, &self.packages);
        fields
    }

    /// The key of [`Selection::fields`].
    #[must_use]
    pub fn key(&self, base: &Resolution) -> Key {
        self.fields(base).key()
    }
}

fn put_packages(fields: &mut Fields, packages: &[Package]) {
    for package in packages {
        fields.put(
            format!("package {} {}", package.name, package.version),
            package.sha256.to_string(),
        );
    }
}

/// The configuration of an image that is made of such a tree alone.
#[must_use]
pub fn image_config(arch: &str) -> ImageConfig {
    ImageConfig {
        architecture: goarch(arch).to_owned(),
        variant: if arch == "armhf" {
            Some("v7".to_owned())
        } else {
            None
        },
        os: "linux".to_owned(),
        config: RunConfig {
            env: vec![format!("PATH={PATH}")],
            cmd: Some(vec!["bash".to_owned()]),
            ..RunConfig::default()
        },
        ..ImageConfig::default()
    }
}

/// The search path of the maintainer scripts, and of the image.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Debian's name of an architecture, from the name that images use (GOARCH, and GOARM for `arm`).
#[must_use]
pub fn debian_arch(architecture: &str, variant: Option<&str>) -> Option<&'static str> {
    Some(match (architecture, variant) {
        ("amd64", _) => "amd64",
        ("arm64", _) => "arm64",
        ("386", _) => "i386",
        ("arm", Some("v5" | "v6")) => "armel",
        ("arm", _) => "armhf",
        ("ppc64le", _) => "ppc64el",
        ("s390x", _) => "s390x",
        ("riscv64", _) => "riscv64",
        ("mips64le", _) => "mips64el",
        _ => return None,
    })
}

fn goarch(arch: &str) -> &str {
    match arch {
        "i386" => "386",
        "armel" | "armhf" => "arm",
        "ppc64el" => "ppc64le",
        "mips64el" => "mips64le",
        same => same,
    }
}

/// Seconds since 1970 of a date as HTTP and Release files write it.
pub(super) fn date_seconds(date: &str) -> Option<u64> {
    release::seconds(date)
}

/// The directory in a tree that holds what the work needs there. Gone when it is done.
const WORKSHOP: &str = ".shmocker-debian";

fn workshop(root: &Path) -> std::path::PathBuf {
    root.join(WORKSHOP)
}

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod tests;
