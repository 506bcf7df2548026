//! A suite's Release file: fetched as InRelease, its signature, its dates, and the indices that it vouches for.

use super::error::{Error, Result};
use super::stanza;
use super::{IndexFile, Keyring, Pocket, ResolvedPocket, Surroundings};
use crate::digest::Digest;
use crate::net;

/// The most that a Release file may have.
const RELEASE_BYTES_MAX: u64 = 16 << 20;

/// Clocks may differ by so much.
const CLOCK_SLACK_S: u64 = 60 * 60;

/// A Release file whose signature and dates are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    url: String,
    date_s: u64,
    by_hash: bool,
    architectures: Vec<String>,
    /// Path, digest, length.
    files: Vec<(String, Digest, u64)>,
}

/// Fetches and checks the Release file of a pocket. `None`: the archive has no such suite.
pub(super) fn fetch(pocket: &Pocket, with: &Surroundings<'_>) -> Result<Option<Release>> {
    let url = format!("{}/dists/{}/InRelease", pocket.archive, pocket.suite);
    let text = match with.client.read(&url, RELEASE_BYTES_MAX) {
        Ok((body, _)) => String::from_utf8(body).map_err(|_| Error::Malformed {
            what: net::redacted(&url),
            why: "it is not text".to_owned(),
        })?,
        Err(net::Error::Status {
            status: 404 | 410, ..
        }) => return Ok(None),
        Err(error) => return Err(Error::Fetch(error)),
    };
    let release = read(&net::redacted(&url), &text, with.keyring, with.now_s)?;
    let names = [
        stanza::field(&release.0, "Codename"),
        stanza::field(&release.0, "Suite"),
    ];
    if !names.contains(&Some(pocket.suite.as_str())) {
        return Err(Error::OtherSuite {
            url: net::redacted(&url),
            expected: pocket.suite.clone(),
            found: names
                .into_iter()
                .flatten()
                .next()
                .unwrap_or("no suite")
                .to_owned(),
        });
    }
    Ok(Some(release.1))
}

fn read(url: &str, message: &str, keyring: &Keyring, now_s: u64) -> Result<(String, Release)> {
    let text = keyring.verified_text(url, message, now_s)?;
    let malformed = |why: &str| Error::Malformed {
        what: url.to_owned(),
        why: why.to_owned(),
    };
    let date = stanza::field(&text, "Date").ok_or_else(|| malformed("it has no date"))?;
    let date_s = seconds(date).ok_or_else(|| malformed("its date cannot be read"))?;
    if date_s > now_s.saturating_add(CLOCK_SLACK_S) {
        return Err(Error::NotYetValid {
            url: url.to_owned(),
            date: date.to_owned(),
        });
    }
    if let Some(until) = stanza::field(&text, "Valid-Until") {
        let until_s = seconds(until).ok_or_else(|| malformed("its Valid-Until cannot be read"))?;
        if until_s < now_s {
            return Err(Error::Expired {
                url: url.to_owned(),
                until: until.to_owned(),
            });
        }
    }
    let mut files = Vec::new();
    for line in stanza::field(&text, "SHA256")
        .ok_or_else(|| malformed("it lists no SHA256 digests"))?
        .lines()
    {
        let mut words = line.split_whitespace();
        let (Some(digest), Some(size), Some(path)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let digest = format!("sha256:{digest}")
            .parse()
            .map_err(|_| malformed("a digest in it is none"))?;
        let size = size
            .parse()
            .map_err(|_| malformed("a length in it is none"))?;
        files.push((path.to_owned(), digest, size));
    }
    let release = Release {
        url: url.to_owned(),
        date_s,
        by_hash: stanza::field(&text, "Acquire-By-Hash")
            .is_some_and(|value| value.eq_ignore_ascii_case("yes")),
        architectures: stanza::field(&text, "Architectures")
            .unwrap_or("")
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        files,
    };
    Ok((text, release))
}

impl Release {
    /// The index of packages for an architecture, in the best compression that there is.
    pub(super) fn pocket(&self, pocket: &Pocket, arch: &str) -> Result<ResolvedPocket> {
        let plain = format!("main/binary-{arch}/Packages");
        for suffix in [".xz", ".gz", ""] {
            let path = format!("{plain}{suffix}");
            if let Some((path, sha256, size_bytes)) =
                self.files.iter().find(|(found, ..)| *found == path)
            {
                let fetch_path = match path.rsplit_once('/') {
                    Some((directory, _)) if self.by_hash => {
                        format!("{directory}/by-hash/SHA256/{}", sha256.hex())
                    }
                    _ => path.clone(),
                };
                return Ok(ResolvedPocket {
                    archive: pocket.archive.clone(),
                    suite: pocket.suite.clone(),
                    date_s: self.date_s,
                    index: Some(IndexFile {
                        path: path.clone(),
                        fetch_path,
                        sha256: *sha256,
                        size_bytes: *size_bytes,
                    }),
                });
            }
        }
        if self.architectures.iter().any(|known| known == arch) {
            return Err(Error::Malformed {
                what: self.url.clone(),
                why: format!("it does not list {plain}"),
            });
        }
        Err(Error::NoArchitecture {
            archive: net::redacted(&pocket.archive),
            suite: pocket.suite.clone(),
            arch: arch.to_owned(),
            known: self.architectures.join(" "),
        })
    }
}

/// Seconds since 1970 of a date such as `Sat, 11 Jul 2026 10:16:37 UTC` (RFC 5322, always UTC).
pub(super) fn seconds(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let rest = date.split_once(',').map_or(date, |(_, rest)| rest);
    let mut words = rest.split_whitespace();
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS
        .iter()
        .position(|name| month.eq_ignore_ascii_case(name))? as u64
        + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':');
    let (hour, minute) = (
        clock.next()?.parse::<u64>().ok()?,
        clock.next()?.parse::<u64>().ok()?,
    );
    let second: u64 = clock.next().unwrap_or("0").parse().ok()?;
    let zone = words.next().unwrap_or("UTC");
    if !matches!(zone, "UTC" | "GMT" | "+0000" | "Z")
        || !(1970..10000).contains(&year)
        || !(1..=31).contains(&day)
    {
        return None;
    }
    // Days since 0000-03-01, in years that begin with March.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * shifted_year + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + (153 * shifted_month + 2) / 5
        + day
        - 1;
    let days = days.checked_sub(719_468)?;
    (hour < 24 && minute < 60 && second < 61)
        .then(|| days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(
            seconds("Sat, 11 Jul 2026 10:16:37 UTC"),
            Some(1_783_764_997)
        );
        assert_eq!(
            seconds("Thu, 29 Feb 2024 23:59:59 GMT"),
            Some(1_709_251_199)
        );
        assert_eq!(seconds("Sat, 11 Jul 2026 10:16:37 +0200"), None);
        assert_eq!(seconds("yesterday"), None);
    }
}
