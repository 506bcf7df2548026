//! What the two halves of the embedded backend say to each other: one [`Order`] down, [`Report`]s up. JSON in whole
//! messages; open files travel beside them. The end of the connection ends the engine child and all that it started.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{BuildRequest, Outcome};
use super::export::SaveRequest;
use super::finish::{Locked, Wanted};
use super::upkeep::Look;
use crate::digest::Digest;
use crate::engine::carry::Carried;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::Launch;
use crate::engine::phases::StepReport;
use crate::engine::solve::{Shell, ShellEnd};
use crate::engine::work::Work;
use crate::event::{BuildEvent, EventSink};
use crate::image::Name;
use crate::registry::{HelperAnswer, HelperQuestion};
use crate::store::{Checked, Prune, Pruned};
use crate::sys::socket::{Message, Socket};

/// What the engine child is to do. It does one thing and ends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Build. Comes with standard output, for an export to it.
    Build {
        /// What.
        request: Box<BuildRequest>,
        /// Where control groups for steps are made, if it limits them.
        groups: Option<PathBuf>,
    },
    /// Fetch what has to be known before the Dockerfile can be lowered.
    Settle {
        /// The store's directory.
        store: PathBuf,
        /// The build.
        work: Box<Work>,
    },
    /// Ask what the sources of a build are now.
    Lock {
        /// The store's directory.
        store: PathBuf,
        /// The build.
        work: Box<Work>,
        /// What of them.
        wanted: Wanted,
    },
    /// Send an image of the store to a registry.
    Push {
        /// The store's directory.
        store: PathBuf,
        /// How registries are reached.
        work: Box<Work>,
        /// The image.
        image: String,
        /// Its name there.
        to: Name,
    },
    /// Write images of the store. Comes with standard output.
    Save {
        /// Which, and where to.
        request: Box<SaveRequest>,
        /// A build of nothing, which says how to work.
        work: Box<Work>,
    },
    /// Run a command in an image. Comes with the three standard streams.
    Launch(Box<Launch>),
    /// Run a command where a build stands. Comes with the three standard streams.
    Shell {
        /// The store's directory.
        store: PathBuf,
        /// The build.
        work: Box<Work>,
        /// The command.
        shell: Shell,
    },
    /// Run a command beside the engine, with its ids. Comes with the three standard streams.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// Its whole environment.
        env: Vec<(String, String)>,
        /// Where it runs.
        directory: PathBuf,
    },
    /// Delete a habitat that was stopped, with what it has written. Whoever asks holds it.
    RemoveInstance {
        /// The store's directory.
        store: PathBuf,
        /// Its id.
        id: String,
    },
    /// Delete what nothing needs any more.
    Prune {
        /// The store's directory.
        store: PathBuf,
        /// What of it.
        wish: Prune,
    },
    /// Look whether a store is what it says.
    Check {
        /// The store's directory.
        store: PathBuf,
        /// How, and what becomes of what is not.
        look: Look,
    },
    /// Make one archive of a store, into the file that comes along.
    Export {
        /// The store's directory.
        store: PathBuf,
    },
    /// Take what is in such an archive, which comes along.
    Import {
        /// The store's directory.
        store: PathBuf,
    },
    /// Write what a build has used to where its request says.
    WriteCaches {
        /// The build.
        request: Box<BuildRequest>,
    },
    /// Delete a store.
    DeleteStore {
        /// Its directory.
        path: PathBuf,
    },
}

/// What comes back for [`Report::Helper`].
pub(super) type Answer = Result<HelperAnswer, String>;

impl Order {
    /// How it is to work, if it is one that may have to ask servers.
    pub(super) fn work(&mut self) -> Option<&mut Work> {
        match self {
            Self::Build { request, .. } | Self::WriteCaches { request } => Some(&mut request.work),
            Self::Settle { work, .. }
            | Self::Lock { work, .. }
            | Self::Push { work, .. }
            | Self::Save { work, .. }
            | Self::Shell { work, .. } => Some(work),
            _ => None,
        }
    }

    /// How registries are reached, where it may have to ask them.
    pub(super) fn registries(&self) -> Option<&crate::registry::Settings> {
        match self {
            Self::Build { request, .. } | Self::WriteCaches { request } => {
                Some(&request.work.registries)
            }
            Self::Settle { work, .. }
            | Self::Lock { work, .. }
            | Self::Push { work, .. }
            | Self::Save { work, .. }
            | Self::Shell { work, .. } => Some(&work.registries),
            _ => None,
        }
    }

    /// The store that it is about.
    pub(super) fn store(&self) -> Option<&Path> {
        match self {
            Self::Build { request, .. } | Self::WriteCaches { request } => Some(&request.store),
            Self::Save { request, .. } => Some(&request.store),
            Self::Launch(launch) => Some(&launch.store),
            Self::Command { .. } => None,
            Self::Settle { store, .. }
            | Self::Lock { store, .. }
            | Self::Push { store, .. }
            | Self::Shell { store, .. }
            | Self::RemoveInstance { store, .. }
            | Self::Prune { store, .. }
            | Self::Check { store, .. }
            | Self::Export { store, .. }
            | Self::Import { store }
            | Self::DeleteStore { path: store } => Some(store),
        }
    }
}

/// After its order the engine child hears answers to what it asks, and this: it is to end what it does, and then itself.
pub(super) const STOP: &[u8] = b"stop";

/// What the engine child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// Something happened.
    Event(BuildEvent),
    /// A program that keeps credentials is to be asked, as the user; an [`Answer`] is awaited.
    Helper(HelperQuestion),
    /// Why steps were run.
    Reasons(Vec<StepReport>),
    /// All that has to be known before the Dockerfile can be lowered is.
    Settled(Box<Work>),
    /// The sources were asked.
    Locked(Locked),
    /// The image is sent; this is what its name stands for now.
    Pushed(Digest),
    /// The images are written; what they are together, where they are one.
    Saved(Option<crate::image::Descriptor>),
    /// The build is done.
    Built(Box<Outcome>),
    /// The first process of a habitat is there, and comes along as a pidfd.
    Started {
        /// Its control group, if it has one.
        group: Option<PathBuf>,
    },
    /// The command has ended with this status (128 and the signal's number where a signal ended it).
    Ended {
        /// The status.
        status: i32,
    },
    /// The command where a build stands has ended.
    ShellEnded(ShellEnd),
    /// What was to be deleted is gone.
    Deleted,
    /// And this it was.
    Pruned(Pruned),
    /// The store was looked through.
    Checked(Checked),
    /// The store was made an archive, or taken from one.
    Carried(Carried),
    /// The caches are written, or it was said why not.
    CachesWritten,
    /// It could not be done.
    Failed(Vec<Failure>),
}

/// Sends one message.
pub(super) fn send<T: Serialize>(
    socket: &Socket,
    message: &T,
    files: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    socket.send(&serde_json::to_vec(message)?, files)
}

/// What a message says.
pub(super) fn read<'a, T: Deserialize<'a>>(message: &'a Message) -> Result<T, Failure> {
    serde_json::from_slice(&message.payload).map_err(|error| {
        Failure::caused(
            FailureKind::Bug,
            "engine::protocol",
            "the two halves of shmocker do not understand each other",
            &error,
        )
        .with_help("was the program replaced while it ran? run it again")
    })
}

/// Sends events up. One that cannot be sent is dropped: the connection is gone, and so is this process in a moment.
#[derive(Clone)]
pub(super) struct Sink(pub(super) Arc<Socket>);

impl Sink {
    /// Says what this machine lacks.
    pub(super) fn warnings(self) -> impl Fn(&'static str, String) + Send + Sync + 'static {
        move |code, message| {
            self.emit(BuildEvent::Warning {
                code: code.to_owned(),
                message,
                file: None,
                line: None,
            });
        }
    }
}

impl EventSink for Sink {
    fn emit(&self, event: BuildEvent) {
        drop(send(&self.0, &Report::Event(event), &[]));
    }
}
