//! The kernel, made safe. All of shmocker's `unsafe` is here, and little of its logic: each file wraps one thing that
//! neither the standard library nor `rustix` offers, and says what it promises. What an errno means to a person is for
//! the callers to say.

pub mod dir;
pub mod file;
pub mod memfd;
pub mod mount;
pub mod network;
pub mod overlay;
pub mod owner;
pub mod process;
pub mod root;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod task;
