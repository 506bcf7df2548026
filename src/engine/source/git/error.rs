//! What can go wrong with a repository. Addresses are already without their credentials.

use std::path::PathBuf;

use super::super::Fault;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A commit that could not be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// An address that is not taken.
    #[error("`{url}` is not an address of a repository: {why}")]
    #[diagnostic(
        code(git::url),
        help("write it as https://HOST/PATH, ssh://HOST/PATH, user@host:path or an absolute path")
    )]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that no branch, tag or commit can have.
    #[error("`{reference}` is not a name of a branch, tag or commit")]
    #[diagnostic(code(git::reference), help("give a branch, a tag or a commit"))]
    Reference {
        /// As given.
        reference: String,
    },
    /// A directory of the tree that is none.
    #[error("`{subdir}` is not a directory of commit {commit}")]
    #[diagnostic(
        code(git::subdir),
        help("give a directory of the repository, not a link or a file")
    )]
    Subdir {
        /// As given.
        subdir: String,
        /// The commit.
        commit: String,
    },
    /// The repository has not what was asked for.
    #[error("{url} has no branch, tag or commit `{wanted}`")]
    #[diagnostic(code(git::no_reference), help("it has {has}"))]
    NoReference {
        /// The repository.
        url: String,
        /// What was asked for.
        wanted: String,
        /// Some of what there is.
        has: String,
        /// Whether it is a repository of this machine.
        local: bool,
    },
    /// The reference means another commit than it has to.
    #[error("expected checksum to match {wanted}, got {found} from {url}")]
    #[diagnostic(
        code(git::checksum),
        help(
            "if the change is expected, give the new commit; else find out who moved the reference"
        )
    )]
    Checksum {
        /// The repository.
        url: String,
        /// What it has to be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// A submodule whose address is not in `.gitmodules`, or that nests too deep.
    #[error("the submodule {path} of {url} cannot be checked out: {why}")]
    #[diagnostic(
        code(git::submodule),
        help("mend its .gitmodules, or leave submodules out")
    )]
    Submodule {
        /// The repository.
        url: String,
        /// The submodule's path.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// git itself is not there.
    #[error("the program {} cannot be run: {source}", path.display())]
    #[diagnostic(code(git::missing), help("install git (`apt-get install git`)"))]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// git failed.
    #[error("git {verb} failed for {url}: {why}")]
    #[diagnostic(
        code(git::failed),
        help(
            "check the address, the network, and that the repository may be read without a password"
        )
    )]
    Failed {
        /// What it was to do.
        verb: String,
        /// For which repository.
        url: String,
        /// Its last lines.
        why: String,
    },
    /// This machine would not let it be written or read.
    #[error("{what} {}: {source}", path.display())]
    #[diagnostic(
        code(git::io),
        help("see that there is space, and that the store can be written to")
    )]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Url { .. }
            | Self::Reference { .. }
            | Self::Subdir { .. }
            | Self::NoReference { local: true, .. } => Fault::Input,
            Self::NoReference { .. }
            | Self::Checksum { .. }
            | Self::Submodule { .. }
            | Self::Failed { .. } => Fault::Source,
            Self::Missing { .. } | Self::Io { .. } => Fault::Machine,
        }
    }

    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source: source.into(),
        }
    }
}
