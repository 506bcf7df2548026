//! What can go wrong with a Debian base.

use std::path::PathBuf;

use super::super::Fault;
use super::runner::RunnerError;
use crate::digest::Digest;
use crate::net;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A Debian base that did not come about.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A name that Debian cannot have.
    #[error("`{name}` is not a name of a {kind}")]
    #[diagnostic(
        code(debian::name),
        help("write it as Debian does: lower-case letters, digits, `+`, `-` and `.`")
    )]
    Name {
        /// As given.
        name: String,
        /// What it should name.
        kind: &'static str,
    },
    /// Something could not be fetched.
    #[error("the Debian archive could not be read: {0}")]
    #[diagnostic(
        code(debian::fetch),
        help("check the network and the mirror; SHMOCKER_DEBIAN_MIRROR=URL names another one")
    )]
    Fetch(#[source] net::Error),
    /// A suite that the mirror has not.
    #[error("{archive} has no suite `{suite}`")]
    #[diagnostic(
        code(debian::no_suite),
        help("give a suite by its code name, such as `bookworm`, that this mirror carries")
    )]
    NoSuite {
        /// The archive.
        archive: String,
        /// The suite.
        suite: String,
    },
    /// The signature of a Release file is not one of the keyring's keys.
    #[error("{url} is not signed by a key of the Debian archive keyring: {why}")]
    #[diagnostic(
        code(debian::signature),
        help(
            "do not use this mirror; if it carries an archive of your own, it needs its own keyring"
        )
    )]
    Signature {
        /// The file.
        url: String,
        /// What is wrong with the signature.
        why: String,
    },
    /// The keyring cannot be read.
    #[error("the keyring cannot be read: {why}")]
    #[diagnostic(
        code(debian::keyring),
        help("give a file of OpenPGP public keys, binary or armored")
    )]
    Keyring {
        /// Why.
        why: String,
    },
    /// A Release file whose time is over.
    #[error("{url} was valid until {until}, which has passed")]
    #[diagnostic(
        code(debian::expired),
        help(
            "the mirror is out of date, or this machine's clock is wrong: check `date`, or use another mirror"
        )
    )]
    Expired {
        /// The file.
        url: String,
        /// `Valid-Until`, as it has it.
        until: String,
    },
    /// A Release file from the future.
    #[error("{url} is dated {date}, which is yet to come")]
    #[diagnostic(
        code(debian::not_yet_valid),
        help("this machine's clock is wrong: check `date`")
    )]
    NotYetValid {
        /// The file.
        url: String,
        /// `Date`, as it has it.
        date: String,
    },
    /// A Release file of another suite: well signed, in the wrong place.
    #[error("{url} is the Release file of `{found}`, not of `{expected}`")]
    #[diagnostic(
        code(debian::other_suite),
        help("give the suite by its code name, or use another mirror")
    )]
    OtherSuite {
        /// The file.
        url: String,
        /// The suite that was asked for.
        expected: String,
        /// The suite that it is of.
        found: String,
    },
    /// A signed file that makes no sense.
    #[error("{what} is damaged: {why}")]
    #[diagnostic(
        code(debian::malformed),
        help("use another mirror, or try again later")
    )]
    Malformed {
        /// Which file.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The archive has nothing for this architecture.
    #[error("{archive} has no packages of `{suite}` for the architecture `{arch}`")]
    #[diagnostic(code(debian::no_architecture), help("its architectures: {known}"))]
    NoArchitecture {
        /// The archive.
        archive: String,
        /// The suite.
        suite: String,
        /// The architecture.
        arch: String,
        /// Those that it has.
        known: String,
    },
    /// A package that the suite has not.
    #[error("`{suite}` has no package `{name}`")]
    #[diagnostic(code(debian::no_package), help("{}", near.as_ref().map_or_else(|| "see packages.debian.org for its name".to_owned(), |near| format!("did you mean `{near}`?"))))]
    NoPackage {
        /// The suite.
        suite: String,
        /// The name.
        name: String,
        /// A name like it that there is.
        near: Option<String>,
    },
    /// A dependency that nothing meets.
    #[error("`{package}` needs `{needs}`, which nothing in the suite meets")]
    #[diagnostic(
        code(debian::unmet),
        help("the archive is being updated or incomplete: try again later, or use another mirror")
    )]
    Unmet {
        /// Who needs it.
        package: String,
        /// What.
        needs: String,
    },
    /// apt finds no way to install the named packages.
    #[error("apt cannot install {names}: {why}")]
    #[diagnostic(
        code(debian::unsolvable),
        help("leave out one of the packages that exclude each other")
    )]
    Unsolvable {
        /// The named packages.
        names: String,
        /// Its last words.
        why: String,
    },
    /// A program of the tree failed.
    #[error("{what} failed with status {status}:\n{tail}")]
    #[diagnostic(
        code(debian::script),
        help("a maintainer script of one of the packages failed; the last lines name it")
    )]
    Failed {
        /// What was being done.
        what: String,
        /// The status.
        status: i32,
        /// The last lines that it wrote.
        tail: String,
    },
    /// A program of the tree could not be started.
    #[error("{what}: the sandbox could not run it: {source}")]
    #[diagnostic(
        code(debian::sandbox),
        help("`shmocker doctor` says what this machine lacks")
    )]
    Sandbox {
        /// What was to be run.
        what: String,
        /// Why not.
        source: RunnerError,
    },
    /// A package that is not the one that was resolved.
    #[error("{} is damaged: its digest is {actual}, and must be {expected}", path.display())]
    #[diagnostic(code(debian::damaged), help("it was removed; run again"))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it must be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A package whose inside is not as packages are.
    #[error("the package {package} cannot be unpacked: {why}")]
    #[diagnostic(
        code(debian::package),
        help("the package is broken in the archive: try another mirror, or leave it out")
    )]
    Package {
        /// Which.
        package: String,
        /// What is wrong.
        why: String,
    },
    /// This machine would not let it be written or read.
    #[error("{what} {}: {source}", path.display())]
    #[diagnostic(
        code(debian::io),
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
            Self::Name { .. } | Self::Keyring { .. } => Fault::Input,
            Self::Fetch(error) => Fault::of_net(error),
            Self::NoSuite { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::OtherSuite { .. }
            | Self::Malformed { .. }
            | Self::NoArchitecture { .. }
            | Self::NoPackage { .. }
            | Self::Unmet { .. }
            | Self::Unsolvable { .. }
            | Self::Damaged { .. }
            | Self::Package { .. } => Fault::Source,
            Self::Signature { .. } => Fault::Refused,
            Self::Failed { .. } => Fault::Step,
            Self::Sandbox { .. } | Self::Io { .. } => Fault::Machine,
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
