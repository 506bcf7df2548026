//! A habitat: one YAML file that says what a development environment is, and the Dockerfile that makes it.

mod caches;
mod check;
mod document;
mod env;
mod keys;
mod node;
mod phase;
mod report;

pub use check::Habitat;
pub use phase::{PHASES, PhaseId, PhaseRow};
