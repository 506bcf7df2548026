//! shmocker builds container images without root and without a daemon, and turns a habitat (YAML) into a development
//! environment. ARCHITECTURE.md is the map.

pub mod backend;
pub mod cli;
pub mod digest;
pub mod dockerfile;
pub mod engine;
pub mod event;
pub mod frontend;
pub mod graph;
pub mod habitat;
pub mod image;
pub mod net;
pub mod registry;
pub mod ship;
pub mod store;
pub mod sys;
