//! Where a build runs. Backends meet at [`BuildRequest`]: what was asked for, typed; a request is honoured or refused,
//! never silently thinned. Today there is one, [`embedded`].

pub mod embedded;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::engine::cache::{CacheFrom, CacheTo};
use crate::engine::lock::Entry;
use crate::engine::work::Work;
use crate::ship::export::Output;
use crate::store::Limits;

/// A build and what is done with its result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildRequest {
    /// The store's directory, absolute.
    pub store: PathBuf,
    /// What to build.
    pub work: Work,
    /// What is built for, each by itself; several become one image where they leave. Empty: what the work is for.
    pub platforms: Vec<String>,
    /// Names under which the image is stored: of several, that of this machine's platform, else of the first.
    pub tags: Vec<String>,
    /// Files and directories to write.
    pub outputs: Vec<Output>,
    /// What builds elsewhere have used; read if something is not in the store.
    pub cache_from: Vec<CacheFrom>,
    /// Where what this build used is written, for builds elsewhere.
    pub cache_to: Vec<CacheTo>,
    /// Whether the files of the result are wanted on this machine: an image in the store, or files that are written. What
    /// is only sent somewhere need not be fetched from a cache.
    pub needs_files: bool,
    /// How large the store may get: held to when something was built.
    pub limits: Limits,
}

/// What a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The manifest of what was made: of the first image that left, else of the stored one.
    pub manifest: Descriptor,
    /// The stored image's manifest.
    pub stored: Digest,
    /// Its configuration.
    pub config_digest: Digest,
    /// The time that all times in it are, if there is one, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// The names it was stored under.
    pub names: Vec<String>,
    /// What was downloaded though nothing says what it has to be, as a lock would pin it.
    pub downloads: Vec<Entry>,
}

/// A blob by its content, as an OCI descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}
