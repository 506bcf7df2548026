//! OCI images as values: configuration, manifest, index, and the deterministic layer tar. Values in, values out; no
//! files.

mod config;

pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RunConfig};
