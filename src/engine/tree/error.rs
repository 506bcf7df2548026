//! What can go wrong when files are read or copied, told to a person.

use std::io;
use std::path::Path;

/// Something that was done as BuildKit does it, and that is hardly what was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// A name that the image does not have was taken for root.
    UnknownOwner {
        /// `user` or `group`.
        what: &'static str,
        /// As written.
        name: String,
    },
    /// Several files were put in the place of one.
    Several {
        /// The destination as written.
        dest: String,
    },
}

impl Remark {
    /// Its stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownOwner { .. } => "UnknownOwner",
            Self::Several { .. } => "CopyOverwritesItself",
        }
    }
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownOwner {
                what: "group",
                name,
            } => {
                write!(
                    f,
                    "the image has no group `{name}`: the user's own is taken"
                )
            }
            Self::UnknownOwner { what, name } => {
                write!(f, "the image has no {what} `{name}`: root is taken")
            }
            Self::Several { dest } => write!(
                f,
                "several files became the one file `{dest}`, and the last one stays; end the destination with `/` to have all of them"
            ),
        }
    }
}

/// Files cannot be read or copied.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum TreeError {
    /// A source is not there.
    #[error("`{path}` is not in {tree}")]
    #[diagnostic(code(copy::missing))]
    Missing {
        /// As written.
        path: String,
        /// The tree, in words.
        tree: String,
        /// What is there instead.
        #[help]
        help: Option<String>,
    },
    /// A source is there and is left out.
    #[error("`{path}` is in {tree}, but {} leaves it out", excluder(file, *line))]
    #[diagnostic(
        code(copy::ignored),
        help("add the line `!{path}` to the end of `{file}`, or take that line away")
    )]
    Ignored {
        /// As written.
        path: String,
        /// The tree, in words.
        tree: String,
        /// The ignore file.
        file: String,
        /// Its line, from 1.
        line: Option<u32>,
    },
    /// A pattern is none.
    #[error("{0}")]
    #[diagnostic(
        code(copy::pattern),
        help("write `\\` before a character that is to stand for itself")
    )]
    Pattern(String),
    /// A file changed while it was read, or between being hashed and being copied.
    #[error("`{path}` changed while it was read")]
    #[diagnostic(
        code(copy::changed),
        help("build again when nothing writes to it, or leave it out with .dockerignore")
    )]
    Changed {
        /// Which.
        path: String,
    },
    /// A file that is needed cannot be read.
    #[error("cannot read `{path}`")]
    #[diagnostic(
        code(copy::unreadable),
        help("change its permissions, or leave it out with .dockerignore if nothing needs it")
    )]
    Unreadable {
        /// Which.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The destination cannot be written.
    #[error("cannot write `/{path}`")]
    #[diagnostic(code(copy::unwritable))]
    Unwritable {
        /// Which.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is not a directory is where one must be.
    #[error("`/{path}` is not a directory, and a directory must be there")]
    #[diagnostic(
        code(copy::not_a_directory),
        help("remove it in a RUN before, or copy to another place")
    )]
    NotADirectory {
        /// In the destination.
        path: String,
    },
    /// A directory is where a file must be.
    #[error("`/{path}` is a directory, and a file cannot take its place")]
    #[diagnostic(
        code(copy::is_a_directory),
        help("end the destination with `/` to copy into it, or remove it in a RUN before")
    )]
    IsADirectory {
        /// In the destination.
        path: String,
    },
    /// `--chown` names nobody.
    #[error("the image has no {what} `{name}`")]
    #[diagnostic(code(copy::unknown_owner), help("{help}"))]
    UnknownOwner {
        /// `user` or `group`.
        what: &'static str,
        /// As written.
        name: String,
        /// What to do.
        help: String,
    },
    /// `--chmod` is none.
    #[error(transparent)]
    #[diagnostic(code(copy::mode))]
    Mode(#[from] super::chmod::NotAMode),
    /// An archive cannot be unpacked.
    #[error("cannot unpack `{path}`: {reason}")]
    #[diagnostic(
        code(copy::unpack),
        help("COPY puts an archive into the image as it is")
    )]
    Unpack {
        /// The archive.
        path: String,
        /// Why.
        reason: String,
    },
    /// What was read before cannot be looked up or remembered.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] crate::store::StoreError),
}

fn excluder(file: &str, line: Option<u32>) -> String {
    match line {
        Some(line) => format!("line {line} of `{file}`"),
        None => format!("`{file}`"),
    }
}

/// A source that could not be read.
pub(super) fn reading(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> TreeError {
    move |source| {
        let path = path.as_ref().display().to_string();
        // What was just listed is gone, or something else is in its place.
        let gone = matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput
        ) || source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
        if gone || super::transfer::has_changed(&source) {
            TreeError::Changed { path }
        } else {
            TreeError::Unreadable { path, source }
        }
    }
}

/// A destination that could not be written.
pub(super) fn writing(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> TreeError {
    move |source| {
        let path = path.as_ref().display().to_string();
        match source.kind() {
            io::ErrorKind::NotADirectory => TreeError::NotADirectory { path },
            io::ErrorKind::IsADirectory => TreeError::IsADirectory { path },
            _ => TreeError::Unwritable { path, source },
        }
    }
}
