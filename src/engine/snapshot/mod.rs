//! File trees in layers.

pub mod apply;
pub mod diff;
pub mod lower;
