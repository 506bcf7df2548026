//! OCI images as values: configuration, manifest, index, and the deterministic layer tar. Values in, values out; no
//! files.

mod assemble;
pub mod choice;
pub mod compress;
mod config;
pub mod layer;
mod manifest;
mod name;
pub mod pipe;
mod platform;
mod time;

pub use assemble::{AssembleError, Assembled, Base, Instruction, Layer, assemble};
pub use compress::Compression;
pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use manifest::{
    Content, Descriptor, Index, Manifest, ManifestError, MediaTypes, annotation, layer_compression,
    media_type,
};
pub use name::{Name, NotAName};
pub use platform::{NotAPlatform, Platform};
pub use time::{NotATimestamp, Timestamp};
