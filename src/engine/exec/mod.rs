//! .
pub mod ids;
pub mod seccomp;
