//! File trees: read, hashed and copied.

pub mod chmod;
pub mod transfer;
