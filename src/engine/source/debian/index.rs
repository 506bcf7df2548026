//! The packages that a suite offers: the indices of its pockets, read into the one candidate of each name.

use std::collections::HashMap;
use std::io::Read;

use super::error::{Error, Result};
use super::{Package, Resolution, ResolvedPocket, Surroundings, closure, stanza, version};
use crate::net;

/// The most that an index may have when it is unpacked.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// A field of our own, by which an excerpt says which pocket an entry is from.
const POCKET_FIELD: &str = "X-Shmocker-Pocket";

/// The text of one pocket's index.
#[derive(Debug)]
pub(super) struct IndexText {
    pub(super) text: String,
    what: String,
}

/// Fetches and unpacks the index of each pocket.
pub(super) fn fetch(pockets: &[ResolvedPocket], with: &Surroundings<'_>) -> Result<Vec<IndexText>> {
    let (cache, client) = (with.cache, with.client);
    net::fetch_all(pockets, pockets.len(), |pocket| {
        let index = pocket.index.as_ref().ok_or_else(|| Error::Malformed {
            what: format!("what is known of {}", pocket.suite),
            why: "it names no index of packages".to_owned(),
        })?;
        let url = format!(
            "{}/dists/{}/{}",
            pocket.archive, pocket.suite, index.fetch_path
        );
        let path = cache.obtain(client, &url, index.sha256, index.size_bytes, &|_| ())?;
        let what = format!(
            "{}/dists/{}/{}",
            net::redacted(&pocket.archive),
            pocket.suite,
            index.path
        );
        let file =
            std::fs::File::open(&path).map_err(|error| Error::io("cannot open", &path, error))?;
        let packed: Box<dyn Read> = match index.path.rsplit_once('.').map(|(_, suffix)| suffix) {
            Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
            Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
            _ => Box::new(file),
        };
        let mut bytes = Vec::new();
        packed
            .take(INDEX_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::Malformed {
                what: what.clone(),
                why: error.to_string(),
            })?;
        let text = String::from_utf8(bytes).map_err(|_| Error::Malformed {
            what: what.clone(),
            why: "it is not text".to_owned(),
        })?;
        Ok(IndexText { text, what })
    })
}

/// The entries that come into question where a base is extended by these packages: an index of its own.
pub(super) fn excerpt(offer: &Offer<'_>, base: &[Package], names: &[String]) -> String {
    let of_base = base.iter().map(|package| package.name.as_str());
    let mut seeds = Vec::new();
    for name in of_base.chain(names.iter().map(String::as_str)) {
        match offer.get(name) {
            Some(candidate) => seeds.push(candidate.name),
            None => seeds.extend(offer.providers(name)),
        }
    }
    let mut text = String::new();
    for name in closure::reachable(offer, &seeds) {
        if let Some(candidate) = offer.get(name) {
            text.push_str(candidate.stanza);
            text.push_str(&format!("\n{POCKET_FIELD}: {}\n\n", candidate.pocket));
        }
    }
    text
}

/// The excerpt of a resolution, from the cache or made again.
pub(super) fn excerpt_of(
    resolution: &Resolution,
    names: &[String],
    with: &Surroundings<'_>,
) -> Result<Vec<IndexText>> {
    let kept = resolution.excerpt.as_ref();
    let kept = match kept.filter(|kept| kept.names == names) {
        Some(kept) => with.cache.read(&kept.sha256)?,
        None => None,
    };
    let kept = kept.and_then(|kept| String::from_utf8(kept).ok());
    let text = match kept {
        Some(text) => text,
        None => {
            let indices = fetch(&resolution.pockets, with)?;
            excerpt(
                &Offer::read(&indices, &resolution.arch)?,
                &resolution.packages,
                names,
            )
        }
    };
    Ok(vec![IndexText {
        text,
        what: "the excerpt of the indices".to_owned(),
    }])
}

/// A package as its index has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'t> {
    pub(super) name: &'t str,
    pub(super) version: &'t str,
    pub(super) arch: &'t str,
    pub(super) pre_depends: &'t str,
    pub(super) depends: &'t str,
    pub(super) provides: &'t str,
    pub(super) essential: bool,
    pub(super) required: bool,
    pub(super) path: &'t str,
    pub(super) size_bytes: u64,
    pub(super) sha256: &'t str,
    pub(super) stanza: &'t str,
    pub(super) pocket: usize,
}

impl Candidate<'_> {
    pub(super) fn package(&self) -> Result<Package> {
        let malformed = |why: &str| Error::Malformed {
            what: format!("the index entry of {}", self.name),
            why: why.to_owned(),
        };
        if self
            .path
            .split('/')
            .any(|part| matches!(part, "" | "." | ".."))
            || self.path.contains(['\\', '?', '#', '%'])
        {
            return Err(malformed("its file name is none"));
        }
        Ok(Package {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            arch: self.arch.to_owned(),
            sha256: format!("sha256:{}", self.sha256)
                .parse()
                .map_err(|_| malformed("it has no SHA256 digest"))?,
            size_bytes: self.size_bytes,
            pocket: self.pocket,
            path: self.path.to_owned(),
        })
    }
}

/// What a suite offers: of each name the highest version, as apt chooses where nothing is pinned.
#[derive(Debug)]
pub(super) struct Offer<'t> {
    candidates: HashMap<&'t str, Candidate<'t>>,
    /// Virtual package → those that provide it, required ones first, then by name.
    providers: HashMap<&'t str, Vec<&'t str>>,
}

impl<'t> Offer<'t> {
    pub(super) fn read(indices: &'t [IndexText], arch: &str) -> Result<Self> {
        let mut candidates: HashMap<&str, Candidate<'_>> = HashMap::new();
        for (pocket, index) in indices.iter().enumerate() {
            for stanza in stanza::stanzas(&index.text) {
                let candidate = read_stanza(stanza, pocket).ok_or_else(|| Error::Malformed {
                    what: index.what.clone(),
                    why: format!(
                        "a package in it lacks a field: {}",
                        stanza.lines().next().unwrap_or("")
                    ),
                })?;
                if candidate.arch != arch && candidate.arch != "all" {
                    continue;
                }
                match candidates.entry(candidate.name) {
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(candidate);
                    }
                    std::collections::hash_map::Entry::Occupied(mut place) => {
                        if version::compare(candidate.version, place.get().version).is_gt() {
                            place.insert(candidate);
                        }
                    }
                }
            }
        }
        let mut providers: HashMap<&str, Vec<&str>> = HashMap::new();
        for candidate in candidates.values() {
            for provided in candidate.provides.split(',') {
                let name = provided.split(['(', ':']).next().unwrap_or("").trim();
                if !name.is_empty() {
                    providers.entry(name).or_default().push(candidate.name);
                }
            }
        }
        for names in providers.values_mut() {
            names.sort_by_key(|name| {
                (
                    !candidates
                        .get(name)
                        .is_some_and(|candidate| candidate.required),
                    *name,
                )
            });
        }
        Ok(Self {
            candidates,
            providers,
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Candidate<'t>> {
        self.candidates.get(name)
    }

    pub(super) fn providers(&self, name: &str) -> &[&'t str] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    /// All candidates, by name.
    pub(super) fn sorted(&self) -> Vec<&Candidate<'t>> {
        let mut all: Vec<_> = self.candidates.values().collect();
        all.sort_by_key(|candidate| candidate.name);
        all
    }

    /// A name that looks like this one.
    pub(super) fn near(&self, name: &str) -> Option<String> {
        self.candidates
            .keys()
            .filter(|known| known.len().abs_diff(name.len()) <= 2)
            .map(|known| (distance(known, name), *known))
            .filter(|(distance, _)| *distance <= 2)
            .min()
            .map(|(_, known)| known.to_owned())
    }
}

fn read_stanza(stanza: &str, pocket: usize) -> Option<Candidate<'_>> {
    let mut candidate = Candidate {
        name: "",
        version: "",
        arch: "",
        pre_depends: "",
        depends: "",
        provides: "",
        essential: false,
        required: false,
        path: "",
        size_bytes: 0,
        sha256: "",
        stanza,
        pocket,
    };
    for (field, value) in stanza::fields(stanza) {
        match field {
            "Package" => candidate.name = value,
            "Version" => candidate.version = value,
            "Architecture" => candidate.arch = value,
            "Pre-Depends" => candidate.pre_depends = value,
            "Depends" => candidate.depends = value,
            "Provides" => candidate.provides = value,
            "Essential" => candidate.essential = value == "yes",
            "Priority" => candidate.required = value == "required",
            "Filename" => candidate.path = value.strip_prefix("./").unwrap_or(value),
            "Size" => candidate.size_bytes = value.parse().ok()?,
            "SHA256" => candidate.sha256 = value,
            POCKET_FIELD => candidate.pocket = value.parse().ok()?,
            _ => {}
        }
    }
    let whole = ![
        candidate.name,
        candidate.version,
        candidate.arch,
        candidate.path,
    ]
    .contains(&"");
    whole.then_some(candidate)
}

/// How many letters must change to make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = line + 1;
        for (column, known) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != *known);
            corner = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(corner + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::engine::source::debian) fn texts(indices: &[&str]) -> Vec<IndexText> {
        indices
            .iter()
            .map(|text| IndexText {
                text: (*text).to_owned(),
                what: "Packages".to_owned(),
            })
            .collect()
    }

    #[test]
    fn the_highest_version_of_all_pockets_is_the_candidate() {
        let indices = texts(&[
            "Package: a\nVersion: 1.0\nArchitecture: amd64\nFilename: pool/a_1.0.deb\nSize: 1\n\nPackage: b\nVersion: 1\nArchitecture: arm64\nFilename: x\n",
            "Package: a\nVersion: 1.0+deb12u1\nArchitecture: amd64\nFilename: ./pool/a_1.1.deb\nProvides: v (= 1), w\n",
        ]);
        let offer = Offer::read(&indices, "amd64").unwrap();
        let a = offer.get("a").unwrap();
        assert_eq!(
            (a.version, a.path, a.pocket),
            ("1.0+deb12u1", "pool/a_1.1.deb", 1)
        );
        assert_eq!(offer.providers("v"), ["a"]);
        assert!(offer.get("b").is_none());
        assert_eq!(offer.near("aa").as_deref(), Some("a"));
    }

    #[test]
    fn an_entry_that_leads_elsewhere_is_refused() {
        let sha256 = "0".repeat(64);
        for path in [
            "../../etc/passwd",
            "/etc/passwd",
            "pool//x",
            "pool/./x",
            "pool/x?y",
        ] {
            let text = format!(
                "Package: a\nVersion: 1\nArchitecture: all\nFilename: {path}\nSHA256: {sha256}\n"
            );
            let indices = texts(&[&text]);
            let offer = Offer::read(&indices, "amd64").unwrap();
            assert!(offer.get("a").unwrap().package().is_err(), "{path}");
        }
    }
}
