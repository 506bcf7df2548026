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
use crate::net::{self, Client, Download, Outcome, Validators};

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
    /// The name that the file gets: `Content-Disposition`, else the last part of the address's path, else `download`.
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

    /// The key of [`Remembered::fields`].
    #[must_use]
    pub fn key(&self) -> Key {
        self.fields().key()
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
    shelf: &Shelf,
    client: &Client,
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
                    name: file_name(head.content_disposition.as_deref(), &head.url, &source.url),
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

/// Makes the one-file tree of a download in `into`, an empty directory: the file with its name, mode 0600 and time, as
/// BuildKit's ADD has it.
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

/// The name for a file, from what the server says of it and where it came from.
fn file_name(disposition: Option<&str>, final_url: &str, url: &str) -> String {
    let named = disposition
        .and_then(name_of_disposition)
        .and_then(|name| sound(&name));
    named
        .or_else(|| last_part(url))
        .or_else(|| last_part(final_url))
        .unwrap_or_else(|| "download".to_owned())
}

/// `filename*=UTF-8''…` or `filename=…` (RFC 6266).
fn name_of_disposition(value: &str) -> Option<String> {
    let mut plain = None;
    for parameter in split_outside_quotes(value).skip(1) {
        let Some((name, value)) = parameter.split_once('=') else {
            continue;
        };
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let encoded = value.splitn(3, '\'').nth(2)?;
                return Some(percent_decoded(encoded));
            }
            "filename" => {
                let bare = value
                    .strip_prefix('"')
                    .and_then(|value| value.strip_suffix('"'))
                    .unwrap_or(value);
                plain = Some(bare.replace("\\\"", "\"").replace("\\\\", "\\"));
            }
            _ => {}
        }
    }
    plain
}

fn split_outside_quotes(value: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    value.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        c == ';' && !quoted
    })
}

fn last_part(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let (_, path) = path.split_once('/')?;
    sound(&percent_decoded(path.rsplit('/').next()?))
}

/// A name that stays where it is put.
fn sound(name: &str) -> Option<String> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let usable = !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.contains(|c: char| c.is_control());
    usable.then(|| name.to_owned())
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
