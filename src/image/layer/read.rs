//! Reading what a stranger wrote: every header is checked, every length is bounded, and where GNU tar, bsdtar and Go could
//! disagree about what an archive holds, it is refused.

use std::io::{self, Read};

use super::header::{BLOCK, checksums, field, get_number, get_text, take_record};
use super::{Entry, Kind};
use crate::image::Timestamp;

/// How much a layer may hold. The names are those that errors use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `layer.max_bytes`: of the uncompressed tar.
    pub bytes: u64,
    /// `layer.max_entries`.
    pub entries: u64,
    /// `layer.max_header_bytes`: of a PAX or GNU header.
    pub header_bytes: u64,
    /// `layer.max_path_bytes`.
    pub path_bytes: usize,
    /// `layer.max_depth`: directories in a path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 8 << 20,
            header_bytes: 1 << 20,
            path_bytes: 32 << 10,
            depth: 4096,
        }
    }
}

/// Why a tar is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The stream under it failed.
    #[error("it cannot be read to its end")]
    Unreadable(#[from] io::Error),
    /// It ends in the middle.
    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),
    /// A header that is none.
    #[error("at byte {offset}: {reason}")]
    Header {
        /// Where in the tar.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// An entry that may not be.
    #[error("entry `{path}`: {reason}")]
    Entry {
        /// Its path.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Too much of something.
    #[error("it has more than {max} {what} (limit `{limit}`)")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: u64,
        /// Its name.
        limit: &'static str,
    },
}

/// Reads a layer's entries one by one; between two, the content of the last one can be read from it.
#[derive(Debug)]
pub struct LayerReader<R: Read> {
    input: R,
    limits: Limits,
    offset: u64,
    entries: u64,
    /// Of the current entry's content, and the padding after it.
    left: u64,
    padding: u64,
    ended: bool,
}

/// Names and values as bytes.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What the extended headers before an entry said.
#[derive(Default)]
struct Extension {
    records: Pairs,
    has_pax: bool,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extension {
    fn take(&mut self, key: &str) -> Option<Vec<u8>> {
        let at = self
            .records
            .iter()
            .position(|(name, _)| name == key.as_bytes())?;
        Some(self.records.swap_remove(at).1)
    }

    fn is_empty(&self) -> bool {
        !self.has_pax && self.long_name.is_none() && self.long_link.is_none()
    }
}

impl<R: Read> LayerReader<R> {
    /// A reader of an uncompressed tar.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            offset: 0,
            entries: 0,
            left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry; what was not read of the one before is skipped. After the last, reads the stream to its end, so
    /// that a digest over it is complete.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Malformed> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extension = Extension::default();
        while !self.ended {
            let at = self.offset;
            let bad = |reason: &str| Malformed::Header {
                offset: at,
                reason: reason.to_owned(),
            };
            let Some(header) = self.block()? else {
                if !extension.is_empty() {
                    return Err(Malformed::Truncated("an entry"));
                }
                self.ended = true;
                break;
            };
            if header == [0; BLOCK] {
                if !extension.is_empty() {
                    return Err(bad("an extended header has no entry after it"));
                }
                self.drain()?;
                self.ended = true;
                break;
            }
            let sum = get_number(&header[field::CHECKSUM]);
            let (unsigned, signed) = checksums(&header);
            if sum != Some(unsigned) && sum.map(u64::cast_signed) != Some(signed) {
                return Err(bad("no tar header: its checksum is wrong"));
            }
            match header[field::TYPE] {
                b'x' => {
                    if extension.has_pax {
                        return Err(bad("two extended headers stand before one entry"));
                    }
                    extension.has_pax = true;
                    extension.records = self.records(&header, at)?;
                }
                b'g' => {
                    // Only notes, as git archive writes them, may hold for all entries.
                    if !self
                        .records(&header, at)?
                        .iter()
                        .all(|(key, _)| key == b"comment")
                    {
                        return Err(bad("a global extended header changes the entries after it"));
                    }
                }
                kind @ (b'L' | b'K') => {
                    let mut text = self.extended(&header, at)?;
                    let end = text
                        .iter()
                        .position(|&byte| byte == 0)
                        .unwrap_or(text.len());
                    text.truncate(end);
                    let slot = if kind == b'L' {
                        &mut extension.long_name
                    } else {
                        &mut extension.long_link
                    };
                    if slot.replace(text).is_some() {
                        return Err(bad("two long names stand before one entry"));
                    }
                }
                _ => {
                    self.entries += 1;
                    if self.entries > self.limits.entries {
                        return Err(Malformed::Limit {
                            what: "entries",
                            max: self.limits.entries,
                            limit: "layer.max_entries",
                        });
                    }
                    return self.entry(&header, extension, at).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        mut extension: Extension,
        at: u64,
    ) -> Result<Entry, Malformed> {
        let bad = |reason: String| Malformed::Header { offset: at, reason };
        let is_ustar = &header[field::MAGIC] == b"ustar\x0000";
        let short_name = get_text(&header[field::NAME]);
        let prefix = get_text(&header[field::PREFIX]);
        let short_name = match is_ustar && !prefix.is_empty() {
            true => [prefix, b"/", short_name].concat(),
            false => short_name.to_vec(),
        };
        let (long_name, long_link) = (extension.long_name.take(), extension.long_link.take());
        let mut text =
            |key: &str, gnu: Option<Vec<u8>>, short: Vec<u8>| match (extension.take(key), gnu) {
                (Some(_), Some(_)) => Err(bad("a PAX and a GNU header both name it".to_owned())),
                (Some(long), None) | (None, Some(long)) => Ok(long),
                (None, None) => Ok(short),
            };
        let raw_path = text("path", long_name, short_name)?;
        let raw_link = text(
            "linkpath",
            long_link,
            get_text(&header[field::LINK]).to_vec(),
        )?;
        let mut number = |key: &str, place: std::ops::Range<usize>, what: &str| {
            let Some(long) = extension.take(key) else {
                return get_number(&header[place])
                    .ok_or_else(|| bad(format!("its {what} is not a number")));
            };
            let long = std::str::from_utf8(&long)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let long = long
                .and_then(|text| text.parse::<u64>().ok())
                .filter(|&value| value >> 63 == 0);
            long.ok_or_else(|| bad(format!("its {what} in the extended header is not a number")))
        };
        let uid = number("uid", field::UID, "owner")?;
        let gid = number("gid", field::GID, "group")?;
        let declared_size = get_number(&header[field::SIZE]);
        let size = number("size", field::SIZE, "size")?;
        if declared_size.is_some_and(|declared| declared != 0 && declared != size) {
            return Err(bad("it has two different sizes".to_owned()));
        }
        let mtime = match extension.take("mtime") {
            Some(text) => {
                pax_time(&text).ok_or_else(|| bad("its time is not a number".to_owned()))?
            }
            None => {
                let seconds = get_number(&header[field::MTIME]).unwrap_or(0);
                Timestamp::from_seconds(i64::try_from(seconds).unwrap_or(0))
            }
        };
        let mode = get_number(&header[field::MODE])
            .ok_or_else(|| bad("its mode is not a number".to_owned()))?;
        if extension
            .records
            .iter()
            .any(|(key, _)| key.starts_with(b"GNU.sparse."))
        {
            return Err(bad(
                "it is a sparse file, which layers do not have".to_owned()
            ));
        }
        let mut xattrs: Pairs = extension
            .records
            .into_iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?.to_vec(), value)))
            .collect();
        xattrs.sort();
        let path = self.clean(&raw_path, &raw_path)?;
        let is_directory_by_name = raw_path.ends_with(b"/");
        let device = |place: std::ops::Range<usize>| {
            let number = get_number(&header[place]).and_then(|value| u32::try_from(value).ok());
            number.ok_or_else(|| bad("its device number is not a number".to_owned()))
        };
        let kind = match header[field::TYPE] {
            b'0' | 0 | b'7' if is_directory_by_name && size == 0 => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File { size },
            b'1' => Kind::HardLink {
                target: self.clean(&raw_link, &raw_path)?,
            },
            b'2' => Kind::Symlink { target: raw_link },
            b'3' => Kind::CharDevice {
                major: device(field::MAJOR)?,
                minor: device(field::MINOR)?,
            },
            b'4' => Kind::BlockDevice {
                major: device(field::MAJOR)?,
                minor: device(field::MINOR)?,
            },
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => {
                return Err(bad(
                    "it is a sparse file, which layers do not have".to_owned()
                ));
            }
            other => {
                return Err(bad(format!(
                    "an entry of the unknown type `{}`",
                    char::from(other).escape_default()
                )));
            }
        };
        let refuse = |reason: &str| {
            Err(Malformed::Entry {
                path: String::from_utf8_lossy(&raw_path).into_owned(),
                reason: reason.to_owned(),
            })
        };
        match &kind {
            Kind::Directory => {}
            _ if path.is_empty() => return refuse("only a directory can be the root"),
            Kind::HardLink { target } if target.is_empty() => {
                return refuse("it is a link to the root");
            }
            Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                return refuse("it is a link to nothing");
            }
            _ => {}
        }
        // As all readers agree, only a file has content, whatever the size of another kind says.
        if let Kind::File { size } = kind {
            self.left = size;
            self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        }
        Ok(Entry {
            path,
            kind,
            mode: (mode & 0o7777) as u32,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }

    /// A path from the root without empty parts and `.`; one with `..` is refused.
    fn clean(&self, raw: &[u8], of: &[u8]) -> Result<Vec<u8>, Malformed> {
        let refuse = |reason: &str| {
            let path = String::from_utf8_lossy(&of[..of.len().min(200)]).into_owned();
            Err(Malformed::Entry {
                path,
                reason: reason.to_owned(),
            })
        };
        if raw.is_empty() {
            return refuse("it has no name");
        }
        if raw.contains(&0) {
            return refuse("its name holds a NUL");
        }
        if raw.len() > self.limits.path_bytes {
            let what = "bytes in a path";
            return Err(Malformed::Limit {
                what,
                max: self.limits.path_bytes as u64,
                limit: "layer.max_path_bytes",
            });
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for part in raw.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return refuse("its path leads upwards (`..`)"),
                part if part.len() > 255 => {
                    return refuse("a part of its path has more than 255 bytes");
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
            depth += 1;
        }
        if depth > self.limits.depth {
            let what = "directories in a path";
            return Err(Malformed::Limit {
                what,
                max: self.limits.depth as u64,
                limit: "layer.max_depth",
            });
        }
        Ok(path)
    }

    /// The records of a PAX header; none may come twice.
    fn records(&mut self, header: &[u8; BLOCK], at: u64) -> Result<Pairs, Malformed> {
        let bad = |reason: &str| Malformed::Header {
            offset: at,
            reason: reason.to_owned(),
        };
        let content = self.extended(header, at)?;
        let mut rest = &content[..];
        let mut seen = std::collections::BTreeMap::new();
        while !rest.is_empty() {
            let (key, value, after) = take_record(rest)
                .ok_or_else(|| bad("a record of its extended header is damaged"))?;
            if seen.insert(key.to_vec(), value.to_vec()).is_some() {
                return Err(bad("a record of its extended header comes twice"));
            }
            rest = after;
        }
        Ok(seen.into_iter().collect())
    }

    /// The content of a PAX or GNU header.
    fn extended(&mut self, header: &[u8; BLOCK], at: u64) -> Result<Vec<u8>, Malformed> {
        let size = get_number(&header[field::SIZE]).ok_or_else(|| Malformed::Header {
            offset: at,
            reason: "the size of an extended header is not a number".to_owned(),
        })?;
        if size > self.limits.header_bytes {
            let what = "bytes in an extended header";
            return Err(Malformed::Limit {
                what,
                max: self.limits.header_bytes,
                limit: "layer.max_header_bytes",
            });
        }
        let mut content = vec![0; size as usize];
        self.input
            .read_exact(&mut content)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Malformed::Truncated("an extended header"),
                _ => Malformed::Unreadable(error),
            })?;
        self.count(size)?;
        self.skip((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64)?;
        Ok(content)
    }

    /// The next block, or `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Malformed> {
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.input.read(&mut block[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(Malformed::Truncated("a header")),
                Ok(count) => got += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.count(BLOCK as u64)?;
        Ok(Some(block))
    }

    fn count(&mut self, bytes: u64) -> Result<(), Malformed> {
        self.offset += bytes;
        if self.offset > self.limits.bytes {
            return Err(Malformed::Limit {
                what: "bytes",
                max: self.limits.bytes,
                limit: "layer.max_bytes",
            });
        }
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Malformed> {
        if bytes == 0 {
            return Ok(());
        }
        self.count(bytes)?;
        match io::copy(&mut (&mut self.input).take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(Malformed::Truncated("an entry's content")),
        }
    }

    fn drain(&mut self) -> Result<(), Malformed> {
        let most = self.limits.bytes.saturating_sub(self.offset);
        let drained = io::copy(
            &mut (&mut self.input).take(most.saturating_add(1)),
            &mut io::sink(),
        )?;
        self.count(drained)
    }
}

impl<R: Read> Read for LayerReader<R> {
    /// Reads from the current entry's content.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..wanted])?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                Malformed::Truncated("an entry's content"),
            ));
        }
        self.left -= got as u64;
        self.count(got as u64).map_err(io::Error::other)?;
        Ok(got)
    }
}

/// `1700000000.25`, perhaps with a sign.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let kept = &fraction[..fraction.len().min(9)];
    let nanoseconds = match kept {
        "" => 0,
        kept => kept.parse::<u32>().ok()? * 10_u32.pow(9 - kept.len() as u32),
    };
    Some(match nanoseconds {
        0 => Timestamp::from_seconds(seconds),
        _ if is_negative => Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
        _ => Timestamp {
            seconds,
            nanoseconds,
        },
    })
}
