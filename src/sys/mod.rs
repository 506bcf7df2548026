//! The kernel, made safe. The only place with `unsafe`.

pub mod dir;
pub mod file;
pub mod overlay;
pub mod root;
