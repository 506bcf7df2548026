//! Archives: those of ADD, and build contexts. Recognised by their content, unpacked into a tree so that no name, link or
//! link's target leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use super::error::{TreeError, reading, writing};
use super::transfer::set_xattrs;
use crate::sys::dir::{Dir, Kind, Time, Xattr};
use crate::sys::file::is_content_xattr;
use crate::sys::root::Root;

/// The size of a block, and of a header.
const BLOCK: usize = 512;
/// How much of something [`is_head`] wants to see.
pub const HEAD_BYTES: u64 = BLOCK as u64;

/// Whether something begins as an archive does, compressed or not.
#[must_use]
pub fn is_head(head: &[u8]) -> bool {
    let is_tar = head.first_chunk().is_some_and(is_header);
    is_tar
        || head
            .first_chunk()
            .copied()
            .and_then(Compression::of)
            .is_some()
}

/// In which way a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    /// What the first bytes say.
    fn of(magic: [u8; 6]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Unpacks a whole archive as a tree of its own, with the owners that it names.
///
/// # Errors
/// If it is none, or is broken, or cannot be written.
pub fn unpack_all(file: File, name: &str, root: &Root) -> Result<(), TreeError> {
    let stream = open(file, name)?.ok_or_else(|| wrong(name, "there is no tar archive in it"))?;
    unpack(stream, name, root, Path::new(""), None)
}

/// The time of the newest file of an archive, in seconds since 1970; `None` if it is none or has no files.
///
/// # Errors
/// If it is broken.
pub fn newest(file: File) -> Result<Option<i64>, TreeError> {
    let name = "archive";
    let Some(stream) = open(file, name)? else {
        return Ok(None);
    };
    let mut newest = None;
    let mut archive = Archive::new(stream);
    for entry in archive.entries().map_err(|error| wrong(name, error))? {
        let mut entry = entry.map_err(|error| wrong(name, error))?;
        let kind = entry.header().entry_type();
        if matches!(
            kind,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Link
        ) {
            newest = newest.max(Some(extensions(name, &mut entry)?.0.seconds));
        }
    }
    Ok(newest)
}

fn wrong(path: &str, reason: impl ToString) -> TreeError {
    TreeError::Unpack {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// The tar stream that a file is or holds compressed; `None` if it is or holds none.
pub(in crate::engine) fn open(
    mut file: File,
    name: &str,
) -> Result<Option<Box<dyn Read>>, TreeError> {
    let mut first = decoder(file.try_clone().map_err(reading(name))?, name)?;
    let Some(mut stream) = first.take() else {
        return Ok(None);
    };
    let mut header = [0; BLOCK];
    // What cannot be decompressed at all is a file like any other.
    let is_tar = stream.read_exact(&mut header).is_ok() && is_header(&header);
    file.seek(SeekFrom::Start(0)).map_err(reading(name))?;
    if !is_tar {
        return Ok(None);
    }
    decoder(file, name)
}

fn decoder(mut file: File, name: &str) -> Result<Option<Box<dyn Read>>, TreeError> {
    let mut magic = [0; 6];
    let mut got = 0;
    while got < magic.len() {
        match file.read(&mut magic[got..]).map_err(reading(name))? {
            0 => return Ok(None),
            read => got += read,
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(reading(name))?;
    let file = BufReader::with_capacity(128 * 1024, file);
    Ok(Some(match Compression::of(magic) {
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some(Compression::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Some(Compression::Xz) => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file)),
        Some(Compression::Zstd) => Box::new(
            zstd::stream::read::Decoder::with_buffer(file).map_err(|error| wrong(name, error))?,
        ),
        None => Box::new(file),
    }))
}

/// Whether a block is the header of a tar entry: its checksum says so.
fn is_header(block: &[u8; BLOCK]) -> bool {
    let field = &block[148..156];
    let digits: Vec<u8> = field.iter().copied().filter(u8::is_ascii_digit).collect();
    let Some(written) = std::str::from_utf8(&digits)
        .ok()
        .and_then(|digits| u32::from_str_radix(digits, 8).ok())
    else {
        return false;
    };
    let sum = |block: &[u8]| block.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    written != 0 && written == sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

/// Unpacks a tar stream into a tree, which is the destination itself: names and links' targets lead nowhere else.
/// `shown` is the destination's path, for messages.
pub(super) fn unpack(
    stream: Box<dyn Read>,
    name: &str,
    root: &Root,
    shown: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), TreeError> {
    let mut archive = Archive::new(stream);
    let mut times: Vec<(PathBuf, Time)> = Vec::new();
    for entry in archive.entries().map_err(|error| wrong(name, error))? {
        let mut entry = entry.map_err(|error| wrong(name, error))?;
        // It says something of the others, and its name is none.
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue;
        }
        let Some(path) = inside(&entry.path_bytes(), name)? else {
            continue;
        };
        let meant = shown.join(&path);
        // A directory may be reached through a link; anything else takes its name itself.
        let real_parent = root
            .real_path(path.parent().unwrap_or(Path::new("")))
            .map_err(writing(&meant))?;
        // What the archive does not name is root's, whatever --chown says.
        let parent = super::copy::make_dirs(root, &real_parent, (0, 0), 0o755)?;
        let parent = root.dir(&parent).map_err(writing(&meant))?;
        let Some(base) = path.file_name() else {
            continue;
        };
        let unpacked = Unpacking {
            archive: name,
            root,
            parent: &parent,
            base,
            path: &meant,
            owner,
        };
        if let Some(modified) = unpacked.entry(&mut entry)? {
            times.push((real_parent.join(base), modified));
        }
    }
    // What is put into a directory moves its times, so they come last; a directory that is gone again needs none.
    for (path, modified) in times.iter().rev() {
        if let Ok(dir) = root.dir(path) {
            dir.set_own_times(*modified, *modified)
                .map_err(writing(path))?;
        }
    }
    Ok(())
}

/// A name in an archive as a path below the destination; `None` is the destination itself.
fn inside(name: &[u8], archive: &str) -> Result<Option<PathBuf>, TreeError> {
    let written = Path::new(OsStr::from_bytes(name));
    let mut path = PathBuf::new();
    for part in written.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                if !path.pop() && !written.is_absolute() {
                    let name = String::from_utf8_lossy(name);
                    return Err(wrong(
                        archive,
                        format!("its entry `{name}` leads out of it"),
                    ));
                }
            }
        }
    }
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

struct Unpacking<'a> {
    archive: &'a str,
    root: &'a Root,
    parent: &'a Dir,
    base: &'a OsStr,
    path: &'a Path,
    owner: Option<(u32, u32)>,
}

impl Unpacking<'_> {
    /// Puts one entry in place. Returns the time of a directory, which is set later.
    fn entry(&self, entry: &mut Entry<'_, Box<dyn Read>>) -> Result<Option<Time>, TreeError> {
        let kind = entry.header().entry_type();
        let header = entry.header().as_old();
        let blank = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
        let (no_uid, no_gid) = (blank(&header.uid), blank(&header.gid));
        let number = |is_blank, value: io::Result<u64>| match value {
            // Some programs leave out what is nobody's.
            Err(_) if is_blank => Ok(0),
            Err(error) => Err(wrong(self.archive, error)),
            Ok(value) => u32::try_from(value).map_err(|_| {
                wrong(
                    self.archive,
                    format!("it has an owner with the number {value}"),
                )
            }),
        };
        let mode = entry
            .header()
            .mode()
            .map_err(|error| wrong(self.archive, error))?
            & 0o7777;
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => (
                number(no_uid, entry.header().uid())?,
                number(no_gid, entry.header().gid())?,
            ),
        };
        let (modified, xattrs) = extensions(self.archive, entry)?;
        let there = self.parent.find(self.base).map_err(writing(self.path))?;
        if there.is_some_and(|there| !(there.is_dir() && kind == EntryType::Directory)) {
            self.parent
                .remove_tree(self.base)
                .map_err(writing(self.path))?;
        }
        let mut put = || -> io::Result<bool> {
            match kind {
                EntryType::Directory => {
                    let dir = self.parent.ensure_dir(self.base, 0o700)?;
                    dir.set_own_owner(uid, gid)?;
                    set_xattrs(&xattrs, |xattr| dir.set_own_xattr(xattr))?;
                    dir.set_own_mode(mode)?;
                    return Ok(true);
                }
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    let mut file = self.parent.create_file(self.base, 0o600)?;
                    io::copy(entry, &mut file)?;
                }
                EntryType::Symlink => {
                    let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                    self.parent.symlink(OsStr::from_bytes(&target), self.base)?;
                }
                EntryType::Fifo => self.parent.make_node(self.base, Kind::Fifo, 0o600, 0)?,
                EntryType::Char | EntryType::Block => {
                    let kind = if kind == EntryType::Char {
                        Kind::CharDevice
                    } else {
                        Kind::BlockDevice
                    };
                    let major = entry.header().device_major()?.unwrap_or(0);
                    let minor = entry.header().device_minor()?.unwrap_or(0);
                    match self.parent.make_node(
                        self.base,
                        kind,
                        0o600,
                        rustix::fs::makedev(major, minor),
                    ) {
                        // No device can be made in a user namespace; BuildKit leaves them out there as well.
                        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                            return Ok(false);
                        }
                        made => made?,
                    }
                }
                EntryType::Link => {
                    self.hard_link(entry)?;
                    return Ok(false);
                }
                // Global headers and what nobody knows.
                _ => return Ok(false),
            }
            self.parent.set_owner(self.base, uid, gid)?;
            set_xattrs(&xattrs, |xattr| self.parent.set_xattr(self.base, xattr))?;
            if kind != EntryType::Symlink {
                self.parent.set_mode(self.base, mode)?;
            }
            self.parent.set_times(self.base, modified, modified)?;
            Ok(false)
        };
        match put() {
            Ok(is_dir) => Ok(is_dir.then_some(modified)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Err(wrong(self.archive, error))
            }
            Err(error) => Err(writing(self.path)(error)),
        }
    }

    fn hard_link(&self, entry: &Entry<'_, Box<dyn Read>>) -> io::Result<()> {
        let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
        let target = inside(&target, self.archive)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?
            .ok_or(io::ErrorKind::InvalidData)?;
        let (dir, name) = self.root.parent_of(target)?;
        self.parent.hard_link(&dir, name, self.base)
    }
}

/// The time with its fraction, and the attributes that are content.
fn extensions(
    archive: &str,
    entry: &mut Entry<'_, Box<dyn Read>>,
) -> Result<(Time, Vec<Xattr>), TreeError> {
    let seconds = entry
        .header()
        .mtime()
        .map_err(|error| wrong(archive, error))?;
    let mut modified = Time {
        seconds: i64::try_from(seconds).unwrap_or(0),
        nanoseconds: 0,
    };
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry
        .pax_extensions()
        .map_err(|error| wrong(archive, error))?
    {
        for extension in extensions {
            let extension = extension.map_err(|error| wrong(archive, error))?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                let name = OsStr::from_bytes(name).to_owned();
                if is_content_xattr(&name) {
                    xattrs.push(Xattr {
                        name,
                        value: extension.value_bytes().to_vec(),
                    });
                }
            } else if extension.key_bytes() == b"mtime"
                && let Some(time) = extension.value().ok().and_then(time_of)
            {
                modified = time;
            }
        }
    }
    Ok((modified, xattrs))
}

/// A decimal number of seconds.
fn time_of(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let (seconds, nanoseconds): (i64, u32) = (seconds.parse().ok()?, digits.parse().ok()?);
    if text.starts_with('-') && nanoseconds > 0 {
        return Some(Time {
            seconds: seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Time {
        seconds,
        nanoseconds,
    })
}
