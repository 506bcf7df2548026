//! Every end-to-end test of shmocker, in one binary: what a person types, and what then is true. `harness` is the bench
//! on which they stand, `peers` the programs that they are compared with. What this machine lacks is a skip with its
//! reason, never a silent pass.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "tests ask what the machine offers, are told by the environment, and say what they leave out"
)]

mod architecture;
mod bases;
mod build;
mod buildah;
mod caches;
mod cases;
mod checks;
mod conformance;
mod contexts;
mod crash;
mod debian;
mod deputy;
mod exchanges;
mod exports;
mod failures;
mod files;
mod habitats;
mod harness;
mod holders;
mod imagetools;
mod keys;
mod layers;
mod locks;
mod mistakes;
mod modes;
mod mounts;
mod nested;
mod network;
mod old_bugs;
mod outputs;
mod owners;
mod parallel;
mod peers;
mod platforms;
mod published;
mod quickstart;
mod ready_made;
mod rebuild;
mod registries;
mod registry_faults;
mod remote;
mod rendered;
mod repos;
mod running;
mod scripts;
mod services;
mod shapes;
mod shell;
mod ssh;
mod steps;
mod store;
mod taps;
mod tidy;
mod tools;
mod users;
mod why;
