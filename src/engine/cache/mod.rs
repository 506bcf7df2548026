//! Results that go from one machine to another: what a build has used, where another build finds it.
//!
//! ```text
//! manifest     an OCI image manifest whose configuration is of type CONFIG_TYPE
//!   config     Records as JSON: every result by its key, every snapshot by its layer, what sources meant
//!   layers     the snapshots, as layers of images are; then cache mounts, then downloads
//!
//! --cache-to type=registry    that manifest under a tag of a registry
//!            type=local       the same in an OCI layout
//!            type=inline      the records in the configuration of the image, whose layers are the blobs
//! ```
//! spec.rs has what the command line says of it; records.rs what is in the records; layout.rs the directory; import.rs
//! how a cache is read and what of it is fetched; export.rs how it is written.
//!
//! Reading fetches the records and nothing else. They go into an [`Elsewhere`], which a build asks where the store has
//! nothing; a layer is fetched when a step that runs, or the image that is made, needs it.
//!
//! What is fetched is compared with its digests; results are believed as they are: a cache is to be read only if those who
//! can write it are trusted. Nothing that is wrong with a cache ends a build.

mod export;
mod import;
mod layout;
mod records;
mod spec;

pub use export::{Export, is_written};
pub use import::{Elsewhere, warning};
pub use records::{INLINE_KEY, Records};
pub use spec::{CacheFrom, CacheTo, Mode, OnError, SpecError, Target};

/// What the configuration of a cache is.
const CONFIG_TYPE: &str = "application/vnd.shmocker.cache.v1+json";
/// What a packed cache mount is; it is no layer: a file in it may have any name.
const MOUNT_TYPE: &str = "application/vnd.shmocker.cache.mount.v1.tar";
/// What a download is.
const DOWNLOAD_TYPE: &str = "application/vnd.shmocker.cache.download.v1";
/// The note on a manifest that names all that was used: what is there already is not written again.
const STATE_NOTE: &str = "com.shmocker.cache.state";
/// What a cache of BuildKit has somewhere.
const BUILDKIT_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
