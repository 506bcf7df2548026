//! Does the work of a build.

pub mod snapshot;
pub mod exec;
pub mod source;
pub mod tree;
