//! One process in one root: the sandbox of a RUN, and the two processes that shmocker starts itself as.
//!
//! ```text
//! shmocker (the plain user)
//!  └─ shmocker-engine   start_engine: new user, mount and pid namespace; ids mapped by newuidmap
//!      └─ shmocker-step  Sandbox::run: new mount, pid, ipc, uts, cgroup (and network) namespace; walks STEPS
//!          = the command  the first process of its pid namespace; in a user namespace of its own where `shift` asks for one, or
//!                         `proc` needs one
//!
//! shmocker-supervisor  (the plain user) stays when its parent ends; has an engine of its own, for a habitat that is up
//! shmocker-visitor     (the plain user, then in a container's user namespace) runs one command more there
//!  └─ shmocker-guest    = the command
//! ```
//! Each has one socket to its parent, and dies with the process above it: the command because its pid namespace is inside the
//! engine's, the engine because its socket closes. What a container's processes can see is started from a sealed copy of the
//! program in memory.
//!
//! Leaves out where roots come from (`engine::snapshot`) and what is run in them (`engine::solve`).

mod cancel;
pub mod cgroup;
mod child;
mod devices;
mod emulator;
mod error;
pub mod ids;
mod machine;
mod network;
mod output;
mod ports;
pub mod probe;
mod proc;
mod recorded;
pub mod rlimit;
mod role;
mod sandbox;
mod seccomp;
mod shift;
mod spec;
mod stub;
pub mod userns;
pub mod users;
mod visit;

pub use cancel::Cancel;
pub(crate) use emulator::emulated;
pub use error::ExecError;
pub(crate) use network::network_fix;
pub use output::LINE_BYTES_MAX;
pub use ports::{Port, Protocol, PublishError};
pub use role::{Child, Engine, Role, StartError, child, start_engine, start_plain};
pub use sandbox::{
    Access, DEFAULT_PATH, Exit, HOSTNAME, Mount, Mounted, Run, Sandbox, Secret, Started, Streams,
};
pub use shift::Shift;
pub use spec::Hostname;
pub use visit::{Visit, Visitor};
