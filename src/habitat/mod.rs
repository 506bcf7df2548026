//! A habitat: one YAML file that says what a development environment is, and the Dockerfile that makes it.
//!
//! ```text
//! Layers ── Habitat::of ──▶ Habitat ── Plan::of ──▶ Plan ── render ──▶ Dockerfile, named contexts, origins
//!                                         ▲                   ▲
//!                                       Facts             Templates
//! ```
//!
//! [`Habitat::of`] finds everything that is wrong with the texts; [`Plan::of`] everything that stands against it on
//! this machine, by the [`Facts`] that its caller looked up. Nothing here reads a file, an environment or a clock.
//!
//! Leaves out how anything is built: the Dockerfile is the only way into the engine.

mod base;
mod caches;
mod check;
mod document;
mod env;
mod export;
mod facts;
mod fields;
mod keys;
mod layer;
mod limits;
mod migrate;
mod mount;
mod node;
mod phase;
mod plan;
mod quote;
mod render;
mod report;
mod repos;
mod services;
mod steps;
mod tools;
mod users;
mod volumes;
mod when;

pub use base::DOCKERFILE;
pub use check::Habitat;
pub use document::{Document, Timeouts};
pub use env::{EnvEntry, Environment, Part, UnknownNames};
pub use facts::{Facts, LayerFacts, PathKind, Purpose, Wanted};
pub use fields::{Field, UNORDERED, is_remark};
pub use layer::{Layer, LayerKind, Layers, parents};
pub use migrate::{Migration, migrate};
pub use phase::{PHASES, PhaseId, PhaseRow};
pub use plan::{ContextKind, NamedContext, Place, Plan, PlannedTest, Runtime, SecretSource};
pub use render::{Origin, PhasePlan, Rendered, TemplateError, Templates};
pub use steps::default_shell;
pub use tools::{Checksum, Download, Tool, ToolsConfig, ToolsFile};
pub use volumes::Volume;

/// The JSON Schema of a habitat, as it stands in `schemas/habitat.json`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::SchemaGenerator::default()
        .into_root_schema_for::<Document>()
        .to_value()
}

#[cfg(test)]
mod item_tests;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod shell_tests;
#[cfg(test)]
mod tests;
