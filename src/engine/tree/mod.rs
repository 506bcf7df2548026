//! File trees: what is read of them, what that hashes to, and how it is put into another one.
//!
//! ```text
//! Tree::context / Tree::mounted        where files come from
//!   copy::select(op, inputs) -> Selected    the paths that a COPY means
//!     .digests(op, reading)                   its part of the cache key
//!     copy::run(op, selected, dest root)      the work
//! hash::subtree(tree, path, reading)   the content of a bind mount
//! owner::resolve, copy::make_dirs      WORKDIR
//! ```
//!
//! What was selected is what is hashed and what is copied; a file that changed in between is an error, never a wrong
//! cache entry.

pub mod archive;
pub mod chmod;
pub mod copy;
pub mod error;
pub mod hash;
pub mod listing;
pub mod owner;
pub mod select;
mod stat_cache;
pub mod transfer;

pub use error::TreeError;
pub use hash::Reading;
pub use listing::{FileChange, Listing, file_changes};
pub use select::{Ignore, Tree};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
