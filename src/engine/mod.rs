//! Does the work of a build.

pub mod source;
