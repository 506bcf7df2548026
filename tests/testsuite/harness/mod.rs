//! The bench: a place of its own for every test, a user to run as, and shmocker with nothing inherited.

pub(crate) mod archive;
pub(crate) mod bench;
pub(crate) mod busybox;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod layout;
pub(crate) mod listing;
pub(crate) mod machine;
pub(crate) mod mask;
pub(crate) mod native;
pub(crate) mod port;
pub(crate) mod processes;
pub(crate) mod registry;
pub(crate) mod site;
pub(crate) mod ssh;

pub(crate) use bench::{Bench, Run};
pub(crate) use machine::{Lack, User};
