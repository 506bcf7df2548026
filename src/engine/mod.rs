//! Does the work of a build.

pub mod doctor;
pub mod exec;
