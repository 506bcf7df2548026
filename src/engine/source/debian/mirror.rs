//! Which servers a suite is fetched from.
//!
//! In this order: the mirror that the build names; the one that the environment names; what this machine's own apt uses
//! for the same suite; deb.debian.org. Three pockets make up a suite: `SUITE` and `SUITE-updates` are in the mirror itself,
//! `SUITE-security` is in the archive beside it, whose path has `-security` at its end (`…/debian` and
//! `…/debian-security`), as deb.debian.org and most mirrors have it. A named mirror may lack the two smaller pockets: the
//! build then says so. sid, unstable and experimental have none.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::stanza;
use crate::net;

const DEFAULT_ARCHIVE: &str = "https://deb.debian.org/debian";
const DEFAULT_SECURITY_ARCHIVE: &str = "https://deb.debian.org/debian-security";

/// One suite of one archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pocket {
    /// What `dists` and `pool` are below; no `/` at its end.
    pub archive: String,
    /// The suite: `bookworm-security`.
    pub suite: String,
    /// What it means if the archive has no such suite.
    pub absence: Absence,
}

/// What it means if an archive has not what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Absence {
    /// The build fails.
    Fails,
    /// The build goes on without it, and says so.
    Warns,
}

/// Where a suite is fetched from: the suite itself first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirrors {
    /// Its pockets.
    pub pockets: Vec<Pocket>,
}

/// One archive that this machine's apt uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptSource {
    /// The archive; no `/` at its end.
    pub archive: String,
    /// Its suites.
    pub suites: Vec<String>,
}

impl Mirrors {
    /// Decides. `named` is the build's own mirror, `from_environment` the value of SHMOCKER_DEBIAN_MIRROR, `host` what
    /// [`host_sources`] found.
    #[must_use]
    pub fn choose(
        suite: &str,
        named: Option<&str>,
        from_environment: Option<&str>,
        host: &[AptSource],
    ) -> Self {
        let given = named
            .or(from_environment)
            .map(|mirror| mirror.trim().trim_end_matches('/'))
            .filter(|mirror| !mirror.is_empty());
        let of_host = |wanted: &str| {
            host.iter()
                .find(|source| source.suites.iter().any(|suite| suite == wanted))
                .map(|source| source.archive.clone())
        };
        let (archive, security, absence) = match given {
            Some(mirror) => (mirror.to_owned(), security_of(mirror), Absence::Warns),
            None => match of_host(suite) {
                Some(archive) => {
                    let security = of_host(&format!("{suite}-security"))
                        .unwrap_or_else(|| DEFAULT_SECURITY_ARCHIVE.to_owned());
                    (archive, security, Absence::Fails)
                }
                None => (
                    DEFAULT_ARCHIVE.to_owned(),
                    DEFAULT_SECURITY_ARCHIVE.to_owned(),
                    Absence::Fails,
                ),
            },
        };
        let mut pockets = vec![Pocket {
            archive: archive.clone(),
            suite: suite.to_owned(),
            absence: Absence::Fails,
        }];
        if !matches!(suite, "sid" | "unstable" | "experimental" | "rc-buggy") {
            pockets.push(Pocket {
                archive,
                suite: format!("{suite}-updates"),
                absence,
            });
            pockets.push(Pocket {
                archive: security,
                suite: format!("{suite}-security"),
                absence,
            });
        }
        Self { pockets }
    }

    /// The archive that a suite is fetched from: that of the main suite for one that is not known.
    #[must_use]
    pub fn archive(&self, suite: &str) -> String {
        let found = self.pockets.iter().find(|pocket| pocket.suite == suite);
        found
            .or(self.pockets.first())
            .map_or_else(String::new, |pocket| pocket.archive.clone())
    }
}

/// The security archive beside an archive. In the archive of all past states (snapshot.debian.org) it lies beside the
/// directory above, as `archive/debian-security/TIME`.
fn security_of(archive: &str) -> String {
    let is_time = |name: &str| {
        name.len() == 16
            && name.ends_with('Z')
            && name.as_bytes()[8] == b'T'
            && name.bytes().filter(u8::is_ascii_digit).count() == 14
    };
    match archive.rsplit_once('/') {
        Some((above, time)) if is_time(time) => format!("{above}-security/{time}"),
        _ => format!("{archive}-security"),
    }
}

/// What this machine's apt uses: `sources.list`, `sources.list.d/*.list` and `*.sources` below `etc_apt` (/etc/apt), in
/// apt's order. Files that are not there or cannot be read add nothing.
#[must_use]
pub fn host_sources(etc_apt: &Path) -> Vec<AptSource> {
    let mut found = std::fs::read_to_string(etc_apt.join("sources.list"))
        .map_or_else(|_| Vec::new(), |text| parse_list_sources(&text));
    let mut paths: Vec<_> = std::fs::read_dir(etc_apt.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    for path in paths {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => parse_list_sources,
            Some("sources") => parse_deb822_sources,
            _ => continue,
        };
        if let Ok(text) = std::fs::read_to_string(&path) {
            found.extend(parse(&text));
        }
    }
    found
}

/// Reads the one-line form: `deb [options] URI SUITE COMPONENT…`.
#[must_use]
pub fn parse_list_sources(text: &str) -> Vec<AptSource> {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or("").trim();
        let rest = line
            .strip_prefix("deb")?
            .strip_prefix([' ', '\t'])?
            .trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        words
            .any(|component| component == "main")
            .then(|| source(uri, vec![suite.to_owned()]))
            .flatten()
    };
    text.lines().filter_map(line).collect()
}

/// Reads the deb822 form: stanzas with `Types`, `URIs`, `Suites`, `Components`.
#[must_use]
pub fn parse_deb822_sources(text: &str) -> Vec<AptSource> {
    let mut found = Vec::new();
    // A comment is not the end of a stanza, nor is it a field.
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    for stanza in stanza::stanzas(&text) {
        let words = |name| {
            stanza::field(stanza, name)
                .unwrap_or("")
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        let disabled = stanza::field(stanza, "Enabled").is_some_and(|value| {
            matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0")
        });
        if disabled || !words("Types").contains(&"deb") || !words("Components").contains(&"main") {
            continue;
        }
        let suites: Vec<String> = words("Suites").into_iter().map(str::to_owned).collect();
        found.extend(
            words("URIs")
                .into_iter()
                .filter_map(|uri| source(uri, suites.clone())),
        );
    }
    found
}

fn source(uri: &str, suites: Vec<String>) -> Option<AptSource> {
    // What needs apt's own methods (cdrom, tor, mirror+file) is no server for us.
    let usable = uri.starts_with("http://") || uri.starts_with("https://");
    usable.then(|| AptSource {
        archive: uri.trim_end_matches('/').to_owned(),
        suites,
    })
}

/// Checks the name of a suite before it becomes part of an address.
pub(super) fn check_suite(suite: &str) -> Result<()> {
    let sound = suite.starts_with(|first: char| first.is_ascii_lowercase())
        && suite
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        && !suite.contains("..");
    if sound {
        Ok(())
    } else {
        Err(Error::Name {
            name: suite.to_owned(),
            kind: "suite",
        })
    }
}

/// What is said if a pocket is left out.
pub(super) fn absence_warning(pocket: &Pocket) -> String {
    format!(
        "{} has no suite `{}`: the base is made without it",
        net::redacted(&pocket.archive),
        pocket.suite
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archives(mirrors: &Mirrors) -> Vec<String> {
        mirrors
            .pockets
            .iter()
            .map(|pocket| format!("{} {}", pocket.archive, pocket.suite))
            .collect()
    }

    #[test]
    fn the_public_archive_is_the_last_resort() {
        assert_eq!(
            archives(&Mirrors::choose("bookworm", None, None, &[])),
            [
                "https://deb.debian.org/debian bookworm",
                "https://deb.debian.org/debian bookworm-updates",
                "https://deb.debian.org/debian-security bookworm-security",
            ]
        );
        assert_eq!(
            archives(&Mirrors::choose("sid", None, None, &[])),
            ["https://deb.debian.org/debian sid"]
        );
    }

    #[test]
    fn a_named_mirror_wins_over_the_environment_and_the_host() {
        let host = parse_list_sources("deb http://host/debian bookworm main");
        let mirrors = Mirrors::choose(
            "bookworm",
            Some("http://named/debian/"),
            Some("http://env/debian"),
            &host,
        );
        assert_eq!(
            archives(&mirrors),
            [
                "http://named/debian bookworm",
                "http://named/debian bookworm-updates",
                "http://named/debian-security bookworm-security"
            ]
        );
        assert_eq!(mirrors.pockets[2].absence, Absence::Warns);
        assert!(
            archives(&Mirrors::choose(
                "bookworm",
                None,
                Some("http://env/debian"),
                &host
            ))[0]
                .starts_with("http://env/")
        );
        assert!(
            archives(&Mirrors::choose("bookworm", None, None, &host))[0]
                .starts_with("http://host/")
        );
        assert!(
            archives(&Mirrors::choose("trixie", None, None, &host))[0]
                .starts_with("https://deb.debian.org/")
        );
    }

    #[test]
    fn a_past_state_of_the_archive_has_its_security_archive_beside_it() {
        let past = "http://snapshot.debian.org/archive/debian/20260711T101637Z";
        let mirrors = Mirrors::choose("bookworm", Some(past), None, &[]);
        assert_eq!(
            archives(&mirrors)[2],
            "http://snapshot.debian.org/archive/debian-security/20260711T101637Z bookworm-security"
        );
    }

    #[test]
    fn both_forms_of_apt_sources_are_read() {
        let list = "# deb http://no/ x main\ndeb [arch=amd64 signed-by=/k] http://one/debian/ bookworm main contrib # c\ndeb-src http://no x main\ndeb cdrom:[x]/ bookworm main\ndeb http://no/ x contrib\n";
        assert_eq!(
            parse_list_sources(list),
            [AptSource {
                archive: "http://one/debian".into(),
                suites: vec!["bookworm".into()]
            }]
        );
        let deb822 = "Types: deb\n# http://no\nURIs: http://two/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://off\nSuites: bookworm\nComponents: main\nEnabled: no\n\nTypes: deb\nURIs: http://two/sec\nSuites: bookworm-security\nComponents: main\n";
        let sources = parse_deb822_sources(deb822);
        assert_eq!(sources.len(), 2);
        assert_eq!(
            archives(&Mirrors::choose("bookworm", None, None, &sources)),
            [
                "http://two/debian bookworm",
                "http://two/debian bookworm-updates",
                "http://two/sec bookworm-security"
            ]
        );
    }

    #[test]
    fn a_suite_is_a_name_not_a_path() {
        assert!(check_suite("bookworm").is_ok());
        for suite in ["", "../x", "Bookworm", "a b", "-x", "a/../b", "a..b"] {
            assert!(check_suite(suite).is_err(), "{suite}");
        }
    }
}
