//! The records of a cache: all that a build has to know to find results, and nothing of what they are made of.
//!
//! ```text
//! snapshots    what each is and lies upon, its layer; in order, what is below before what is above
//! results      keys and the snapshots that they stand for. One that is not among `snapshots` has no layer here: it is
//!              known by name, which is enough where nobody wants its files (`mode=min`)
//! answers      what sources meant, and what tests said
//! mounts, downloads
//! ```

use std::collections::HashSet;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Elsewhere;
use crate::digest::{Digest, Fields, Key};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::snapshot::top::Top;
use crate::image::{Descriptor, ImageConfig, Manifest};
use crate::store::{Answer, BuildUse, OpRecord, Record, Store, StoreError};

const FORMAT: u32 = 1;
/// No records are longer; damaged ones shall not fill the memory.
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Where the configuration of an image has its records.
pub const INLINE_KEY: &str = "shmocker.cache.v1";
/// Records in an image are short, and mostly digests that come again and again.
const INLINE_LEVEL: i32 = 9;

/// What is known of results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Records {
    format: u32,
    pub(super) snapshots: Vec<CachedSnapshot>,
    pub(super) results: Vec<CachedResult>,
    pub(super) answers: Vec<CachedAnswer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) mounts: Vec<CachedMount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) downloads: Vec<Descriptor>,
}

/// A snapshot, and how it is had.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CachedSnapshot {
    pub(super) record: Record,
    /// SHA-256 of its tar, as images name it.
    pub(super) diff_id: Digest,
    /// The length of that.
    pub(super) size: u64,
    /// SHA-256 of the tar in `blob`, where that is another one: no other program's tar can be made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tar: Option<Digest>,
    pub(super) top: Top,
    /// The layer. An image has them itself, in the order of the snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) blob: Option<Descriptor>,
    /// How the layer was packed, where that was done by shmocker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) form: Option<String>,
}

/// What a key stands for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CachedResult {
    pub(super) key: Key,
    pub(super) layers: Vec<Key>,
    pub(super) fields: Fields,
    pub(super) created_ms: u64,
    pub(super) duration_ms: u64,
}

/// What something meant, and when that was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CachedAnswer {
    pub(super) reference: String,
    pub(super) answer: String,
    pub(super) asked_ms: u64,
}

/// A cache mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CachedMount {
    /// What its directory is called.
    pub(super) directory: String,
    /// What the Dockerfile calls it.
    pub(super) id: String,
    /// SHA-256 of its tar.
    pub(super) diff_id: Digest,
    pub(super) top: Top,
    pub(super) blob: Descriptor,
}

impl Records {
    pub(super) fn new(snapshots: Vec<CachedSnapshot>) -> Self {
        Self {
            format: FORMAT,
            snapshots,
            results: Vec::new(),
            answers: Vec::new(),
            mounts: Vec::new(),
            downloads: Vec::new(),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if head.format != FORMAT {
            return Err(format!(
                "its format is {}, and {FORMAT} is known",
                head.format
            ));
        }
        let records: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            !name.is_empty() && bytes.all(|b| b.is_ascii_hexdigit() || b == b'-')
        };
        match records
            .mounts
            .iter()
            .find(|mount| !is_name(&mount.directory))
        {
            Some(mount) => Err(format!("`{}` names no cache mount", mount.directory)),
            None => Ok(records),
        }
    }

    /// As a text in the configuration of an image.
    pub(super) fn to_inline(&self) -> Result<String, std::io::Error> {
        let packed = zstd::bulk::compress(&self.to_bytes(), INLINE_LEVEL)?;
        Ok(STANDARD.encode(packed))
    }

    /// Those of an image. Its layers are where the snapshots are.
    pub(super) fn of_image(manifest: &Manifest, config: &ImageConfig) -> Result<Self, String> {
        let text = config.other.get(INLINE_KEY);
        let text = text.and_then(serde_json::Value::as_str).ok_or_else(|| {
            "it is an image without a cache in it: `--cache-to type=inline` puts one into an image that is pushed"
                .to_owned()
        })?;
        let packed = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        zstd::Decoder::new(packed.as_slice())
            .and_then(|decoder| decoder.take(BYTES_MAX).read_to_end(&mut bytes))
            .map_err(|error| error.to_string())?;
        let mut records = Self::parse(&bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != records.snapshots.len() || diff_ids.len() != manifest.layers.len() {
            return Err("it has other layers than those that its cache was written for".to_owned());
        }
        for (place, snapshot) in records.snapshots.iter_mut().enumerate() {
            snapshot.diff_id = diff_ids[place];
            snapshot.blob = Some(manifest.layers[place].clone());
        }
        Ok(records)
    }
}

/// The snapshots that builds have used, with what they lie upon, below before above.
pub(super) fn snapshots_of(store: &Store, elsewhere: &Elsewhere, uses: &[BuildUse]) -> Vec<Record> {
    let parts = uses.iter().flat_map(|used| &used.parts);
    let mut waiting: Vec<Key> = parts
        .flat_map(|part| part.snapshots.iter().copied())
        .chain(uses.iter().flat_map(|used| used.tree.iter().copied()))
        .collect();
    let mut seen = HashSet::new();
    let mut records = Vec::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let known = store.snapshot_record(&id).ok();
        if let Some(record) = known.or_else(|| elsewhere.record(&id).cloned()) {
            waiting.extend(&record.below);
            records.push(record);
        }
    }
    records.sort_by_key(|record| (record.below.len(), record.id));
    records
}

/// What keys stand for that are made of these snapshots alone.
pub(super) fn results_of(
    store: &Store,
    elsewhere: &Elsewhere,
    snapshots: &HashSet<Key>,
) -> Result<Vec<CachedResult>, StoreError> {
    let mut results = store.index()?.results_of(snapshots)?;
    let seen: HashSet<Key> = results.iter().map(|(key, _)| *key).collect();
    results.extend(
        elsewhere
            .results_of(snapshots)
            .filter(|(key, _)| !seen.contains(key)),
    );
    results.sort_by_key(|(key, _)| *key);
    Ok(results.into_iter().map(CachedResult::from).collect())
}

/// What the sources of builds meant, and what the tests said that left these snapshots.
pub(super) fn answers_of(
    store: &Store,
    uses: &[BuildUse],
    snapshots: &HashSet<Key>,
) -> Result<Vec<CachedAnswer>, StoreError> {
    let index = store.index()?;
    let mut answers = Vec::new();
    let mut sources: Vec<&String> = uses.iter().flat_map(|used| &used.sources).collect();
    sources.sort();
    sources.dedup();
    for source in sources {
        answers.extend(index.answers_of(source)?);
    }
    for (reference, answer) in index.answers_of("test ")? {
        let snapshot = reference
            .strip_prefix("test ")
            .and_then(|id| id.parse().ok());
        if snapshot.is_some_and(|id: Key| snapshots.contains(&id)) {
            answers.push((reference, answer));
        }
    }
    let cached = |(reference, answer): (String, Answer)| CachedAnswer {
        reference,
        answer: answer.answer,
        asked_ms: answer.asked_ms,
    };
    Ok(answers.into_iter().map(cached).collect())
}

impl From<(Key, OpRecord)> for CachedResult {
    fn from((key, record): (Key, OpRecord)) -> Self {
        Self {
            key,
            layers: record.layers,
            fields: record.fields,
            created_ms: record.created_ms,
            duration_ms: record.duration_ms,
        }
    }
}

impl From<&CachedResult> for OpRecord {
    fn from(result: &CachedResult) -> Self {
        Self {
            layers: result.layers.clone(),
            fields: result.fields.clone(),
            created_ms: result.created_ms,
            duration_ms: result.duration_ms,
        }
    }
}

impl From<CachedAnswer> for (String, Answer) {
    fn from(cached: CachedAnswer) -> Self {
        let answer = Answer {
            answer: cached.answer,
            asked_ms: cached.asked_ms,
        };
        (cached.reference, answer)
    }
}

/// Why a cache cannot be used, as a failure that never ends a build.
pub(super) fn unusable(why: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Input, "cache::unusable", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Records {
        let mut records = Records::new(Vec::new());
        records.answers.push(CachedAnswer {
            reference: "source x".to_owned(),
            answer: "{}".to_owned(),
            asked_ms: 7,
        });
        records
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = records().to_bytes();
        let read = Records::parse(&bytes).unwrap();
        assert_eq!(read.to_bytes(), bytes);
    }

    #[test]
    fn what_others_wrote_is_refused() {
        let check = |bytes: &[u8], part: &str| {
            let why = Records::parse(bytes).unwrap_err();
            assert!(why.contains(part), "{why}");
        };
        check(b"", "EOF");
        check(b"{\"format\": 2}", "its format is 2, and 1 is known");
        check(b"{\"format\": 1}", "missing field");
        let mut records = records();
        records.mounts.push(CachedMount {
            directory: "../../escape".to_owned(),
            id: "x".to_owned(),
            diff_id: Digest::of(b""),
            top: serde_json::from_str("{\"mode\":0,\"uid\":0,\"gid\":0,\"modified\":[0,0]}")
                .unwrap(),
            blob: Descriptor::of("x", b""),
        });
        check(&records.to_bytes(), "names no cache mount");
    }
}
