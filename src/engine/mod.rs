//! Does the work of a build: from a Dockerfile to snapshots in the store.
//!
//! ```text
//! work       what is asked for                    plan      parse, lower, find the base images
//! contexts   the directories that are read
//! solve      walks the graph, asks the cache      source    Debian, git, HTTP, OCI layouts
//! exec       one process in one root              snapshot  trees in layers
//! tree       COPY, ADD, content digests           layers    from snapshots to layer digests
//! ssh        agents for RUN --mount=type=ssh      entitlement  what a RUN needs leave for
//! parts      phases and stages, as they were       causes    why something would be built again
//! phases     what a build would do, part by part   launch    `run`: a command in an image
//! lock       what a habitat's sources are pinned to    load     images from archives, into the store
//! base       images that are built upon
//! carry      a store as one archive
//! cache      what builds have used, for builds elsewhere
//! ```
//!
//! Leaves out what becomes of the result: `backend` joins this with `ship`.

pub mod base;
pub mod cache;
pub mod carry;
pub mod causes;
pub mod clock;
pub mod contexts;
mod debian_tree;
pub mod doctor;
pub mod entitlement;
pub mod exec;
pub mod failure;
pub mod images;
pub mod launch;
pub mod layers;
pub mod load;
pub mod lock;
mod parts;
pub mod phases;
pub mod plan;
pub mod snapshot;
pub mod solve;
pub mod source;
pub mod ssh;
pub mod tree;
pub mod work;
