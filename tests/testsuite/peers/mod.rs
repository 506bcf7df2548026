//! The programs that shmocker is compared with, and that must accept what it makes.

pub(crate) mod buildkit;
pub(crate) mod containers;
