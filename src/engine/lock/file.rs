//! The text of a lock file: JSON, one thing a line, sorted, so that a difference between two of them can be read.
//!
//! ```json
//! {
//!   "version": 1,
//!   "sources": [
//!     { "source": "https://example.org/x.git#main", "pin": { "git": { "commit": "3f2a…", "reference": "refs/heads/main" } } }
//!   ]
//! }
//! ```

use serde::{Deserialize, Serialize};

use super::{Entry, Pin};

/// The version of the format.
pub const VERSION: u32 = 1;

/// A lock file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum FileError {
    /// It is not what a lock file is.
    #[error("the lock file cannot be read: {why}")]
    #[diagnostic(
        code(lock::malformed),
        help("mend it, or delete it and let `shmocker habitat lock` make it anew")
    )]
    Malformed {
        /// What is wrong.
        why: String,
        /// Where, from 1; 0 if that is not known.
        line: u32,
    },
    /// It is of another version.
    #[error("the lock file has version {found}, and this shmocker knows version {VERSION}")]
    #[diagnostic(
        code(lock::version),
        help(
            "use the shmocker that made it, or delete it and let `shmocker habitat lock` make it anew"
        )
    )]
    Version {
        /// Its version.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    sources: Vec<Entry>,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// Reads the text of a lock file.
///
/// # Errors
/// If it is none, or of another version.
pub fn parse(text: &str) -> Result<Vec<Entry>, FileError> {
    let malformed = |error: serde_json::Error| FileError::Malformed {
        line: u32::try_from(error.line()).unwrap_or(0),
        why: error.to_string(),
    };
    let head: Head = serde_json::from_str(text).map_err(malformed)?;
    if head.version != VERSION {
        return Err(FileError::Version {
            found: head.version,
        });
    }
    let file: File = serde_json::from_str(text).map_err(malformed)?;
    for entry in &file.sources {
        if let Err(why) = check(entry) {
            let quoted = serde_json::to_string(&entry.source).unwrap_or_default();
            let line = text.lines().position(|line| line.contains(&quoted));
            return Err(FileError::Malformed {
                why: format!("`{}`: {why}", entry.source),
                line: line.map_or(0, |index| index as u32 + 1),
            });
        }
    }
    Ok(file.sources)
}

fn check(entry: &Entry) -> Result<(), String> {
    let is_object = |name: &str| {
        matches!(name.len(), 40 | 64)
            && name
                .bytes()
                .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
    };
    match &entry.pin {
        Pin::Image(_) | Pin::Http(_) => Ok(()),
        Pin::Debian(pin) => pin.check(),
        Pin::Git(pin) => {
            let reference = pin.reference.as_deref().unwrap_or("refs/");
            if !is_object(&pin.commit) || pin.tag.as_deref().is_some_and(|tag| !is_object(tag)) {
                return Err("a commit has 40 or 64 lower-case hex digits".to_owned());
            }
            let odd = |letter: char| letter.is_control() || " ~^:?*[\\".contains(letter);
            if !reference.starts_with("refs/")
                || reference.contains("..")
                || reference.contains(odd)
            {
                return Err(format!("`{reference}` is no full name of a reference"));
            }
            Ok(())
        }
    }
}

/// The text of a lock file with these pins.
#[must_use]
pub fn print(entries: &[Entry]) -> String {
    let mut sources = entries.to_vec();
    sources
        .sort_by(|one, other| (&one.source, &one.platform).cmp(&(&other.source, &other.platform)));
    let file = File {
        version: VERSION,
        sources,
    };
    let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
    text.push('\n');
    text
}

/// Seconds since 1970 as `2026-07-11T10:16:37Z`.
pub(super) mod time {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::image::Timestamp;

    pub(in super::super) fn serialize<S: Serializer>(
        seconds: &u64,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&Timestamp::from_seconds(*seconds as i64))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || serde::de::Error::custom(format!("`{text}` is no time"));
        let time: Timestamp = text.parse().map_err(|_| wrong())?;
        u64::try_from(time.seconds).map_err(|_| wrong())
    }
}
