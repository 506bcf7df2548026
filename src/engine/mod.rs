//! Does the work of a build.

pub mod snapshot;
pub mod source;
pub mod tree;
