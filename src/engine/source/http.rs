//! One file fetched over HTTP: ADD of an address.
//!
//! ```text
//! fetch(source, known, …) ─▶ Unchanged            the server says that what is remembered still holds
//!                         ─▶ Fetched(Remembered)  the file is in the directory, under its digest
//! ```
//!
//! What is remembered is a plain value: the file's digest, its name and time, and by what the server tells one state from
//! the next. With a checksum nothing is asked at all if the file is here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Fault;
use crate::digest::{Digest, Fields, Key};
use crate::graph::HttpSource;
use crate::net::{self, Authorization, Client, Download, Outcome, Validators};

/// A download that did not come about.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// The checksum is not one.
    #[error("the checksum of {url} cannot be read: {source}")]
    #[diagnostic(code(http::checksum), help("write it as sha256:HEX"))]
    Checksum {
        /// The address.
        url: String,
        /// What is wrong with it.
        source: crate::digest::NotADigest,
    },
    /// It could not be fetched.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Fetch(#[from] net::Error),
    /// The store would not take it.
    #[error("{what} {}: {source}", path.display())]
    #[diagnostic(
        code(http::io),
        help("see that there is space, and that the store can be written to")
    )]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Checksum { .. } => Fault::Input,
            Self::Fetch(error) => Fault::of_net(error),
            Self::Io { .. } => Fault::Machine,
        }
    }
}

/// What an address was when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The content.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// The name that the file gets.
    pub name: String,
    /// Its time, in seconds since 1970: `Last-Modified`, else 0.
    pub mtime_s: u64,
    /// What the server calls this state.
    pub validators: Validators,
}

impl Remembered {
    /// What the one-file tree of this download depends on.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::new();
        fields.put("source", "http");
        fields.put("content", self.digest.to_string());
        fields.put("name", self.name.clone());
        fields.put("mtime", self.mtime_s.to_string());
        fields
    }

    /// When it was last changed, in seconds since 1970, if the server said so.
    #[must_use]
    pub fn last_modified_s(&self) -> Option<u64> {
        (self.mtime_s > 0).then_some(self.mtime_s)
    }

    /// The key of [`Remembered::fields`].
    #[must_use]
    pub fn key(&self) -> Key {
        self.fields().key()
    }

    /// What names the tree of this one file.
    #[must_use]
    pub fn tree_key(&self) -> Key {
        let mut fields = self.fields();
        fields.put("form", "tree");
        fields.key()
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What is remembered still holds, and its file is here.
    Unchanged(Remembered),
    /// It was fetched.
    Fetched(Remembered),
}

/// Where downloads are kept: as `directory/HEX`. `tmp` is on the same file system, and swept by its owner.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Finished files, each under its digest.
    pub directory: PathBuf,
    /// Unfinished ones.
    pub tmp: PathBuf,
}

impl Shelf {
    /// Where the file with this digest is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }
}

/// Fetches what an address has now, unless the server, or a checksum, says that it is here.
///
/// # Errors
/// If it cannot be fetched, or is not what the checksum says.
pub fn fetch(
    source: &HttpSource,
    known: Option<&Remembered>,
    authorization: Option<&Authorization>,
    shelf: &Shelf,
    client: &Client<'_>,
    progress: &dyn Fn(u64),
) -> Result<Answer, Error> {
    let checksum: Option<Digest> = match &source.checksum {
        Some(text) => Some(text.parse().map_err(|error| Error::Checksum {
            url: net::redacted(&source.url),
            source: error,
        })?),
        None => None,
    };
    let known = known.filter(|known| {
        shelf.path(&known.digest).is_file() && checksum.is_none_or(|digest| digest == known.digest)
    });
    if let (Some(known), Some(_)) = (known, checksum) {
        return Ok(Answer::Unchanged(known.clone()));
    }
    let (mut file, unfinished) = temporary(&shelf.tmp)?;
    let what = Download {
        url: &source.url,
        digest: checksum,
        known: known
            .map(|known| known.validators.clone())
            .unwrap_or_default(),
        authorization,
        ..Download::default()
    };
    let answer = client
        .download(&what, &mut file, progress)
        .map_err(Error::Fetch)
        .and_then(|outcome| match (outcome, known) {
            (Outcome::NotModified(_), Some(known)) => Ok(Answer::Unchanged(known.clone())),
            (Outcome::NotModified(_), None) => Err(Error::Fetch(net::Error::Status {
                url: net::redacted(&source.url),
                status: 304,
                reason: "Not Modified".to_owned(),
            })),
            (Outcome::Fetched(fetched), _) => {
                let path = shelf.path(&fetched.digest);
                file.sync_all().map_err(|source| Error::Io {
                    what: "cannot write",
                    path: unfinished.clone(),
                    source,
                })?;
                fs::rename(&unfinished, &path).map_err(|source| Error::Io {
                    what: "cannot keep the download as",
                    path,
                    source,
                })?;
                let head = &fetched.head;
                Ok(Answer::Fetched(Remembered {
                    digest: fetched.digest,
                    size_bytes: fetched.size_bytes,
                    name: source.name.clone(),
                    mtime_s: head
                        .validators
                        .last_modified
                        .as_deref()
                        .and_then(super::debian::date_seconds)
                        .unwrap_or(0),
                    validators: head.validators.clone(),
                }))
            }
        });
    if !matches!(answer, Ok(Answer::Fetched(_))) {
        // It may be gone already; the sweep of `tmp` gets what is left.
        drop(fs::remove_file(&unfinished));
    }
    answer
}

/// Makes the one-file tree of a download in `into`, an empty directory: the file with its name, mode 0600 and time.
///
/// # Errors
/// If it cannot be written.
pub fn place(remembered: &Remembered, shelf: &Shelf, into: &Path) -> Result<PathBuf, Error> {
    let path = into.join(&remembered.name);
    let failed = |source| Error::Io {
        what: "cannot write",
        path: path.clone(),
        source,
    };
    let mut kept = File::open(shelf.path(&remembered.digest)).map_err(failed)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    io::copy(&mut kept, &mut file).map_err(failed)?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(remembered.mtime_s);
    file.set_modified(time).map_err(failed)?;
    Ok(path)
}

fn temporary(tmp: &Path) -> Result<(File, PathBuf), Error> {
    super::temporary(tmp, "http").map_err(|source| Error::Io {
        what: "cannot write in",
        path: tmp.to_owned(),
        source,
    })
}

pub(super) fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let pair = text
            .get(index + 1..index + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match pair.filter(|_| bytes[index] == b'%') {
            Some(byte) => {
                decoded.push(byte);
                index += 3;
            }
            None => {
                decoded.push(bytes[index]);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
