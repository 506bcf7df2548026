//! From a layer's blob to an upper directory in overlay's format: signs of removal become whiteouts and opaque
//! directories, owners, modes, attributes and times are as the layer has them.
//!
//! A layer is a stranger's. Every path is walked component by component; a symbolic link on the way is resolved inside the
//! tree (as in a chroot, which is what other builders do), never by the kernel. Nothing outside the upper directory is
//! written, only what the layers below have is read. The layer's diff id is checked at the end: an upper directory for
//! which an error was returned is to be thrown away.
//!
//! Left out: device nodes that this process may not make (in a user namespace, all), which are counted; attributes other
//! than `user.*` and file capabilities; what aufs left behind (`.wh..wh.plnk` and the like).

mod way;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::rc::Rc;

use super::diff::{CAPABILITY, plain_capability};
use super::lower::{Found, Lowers};
use crate::digest::Digest;
use crate::image::compress;
use crate::image::layer::{Entry, Kind, LayerReader, Limits, Malformed, OPAQUE, WHITEOUT};
use crate::sys::dir::{self, Dir, Metadata, Time, Xattr};
use crate::sys::{file, overlay};
use way::{joined, split};

/// A layer has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// SHA-256 of its uncompressed tar.
    pub diff_id: Digest,
    /// That tar's length in bytes.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
    /// How many of them are device nodes that could not be made here.
    pub devices_skipped: u64,
}

/// Why a layer cannot be applied.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ApplyError {
    /// It is not a sound layer.
    #[error("the layer is not a sound tar archive")]
    #[diagnostic(
        code(layer::malformed),
        help("the image was damaged or made by a tool with a fault; fetch or build it again")
    )]
    Malformed(#[from] Malformed),
    /// It is another layer than the configuration names.
    #[error("the layer's content is {found}, but the image's configuration names {expected}")]
    #[diagnostic(
        code(layer::other_content),
        help("the image is damaged or was tampered with; fetch it again")
    )]
    OtherContent {
        /// The diff id that was asked for.
        expected: Digest,
        /// The one that was found.
        found: Digest,
    },
    /// An entry that may not be.
    #[error("the layer's entry `{}` {reason}", path.display())]
    #[diagnostic(code(layer::refused_entry))]
    Refused {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An owner that does not exist here.
    #[error("`{}` belongs to {uid}:{gid}, which is outside the ids that builds have here", path.display())]
    #[diagnostic(
        code(layer::owner_outside),
        help(
            "give this user more subordinate ids in /etc/subuid and /etc/subgid; `shmocker doctor` shows how many there are"
        )
    )]
    OwnerOutside {
        /// Its path.
        path: PathBuf,
        /// Its owner.
        uid: u64,
        /// Its group.
        gid: u64,
        /// What the kernel said.
        #[source]
        source: Option<io::Error>,
    },
    /// The upper directory cannot be written, or a layer below not be read.
    #[error("cannot {doing} `{}`", path.display())]
    #[diagnostic(code(layer::unwritable))]
    Unwritable {
        /// The entry's path.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Applies a layer (gzip, zstd or plain, by its first bytes) to the empty directory `upper`, which will lie upon
/// `lowers`. These must be the real ones: a removal is written only where there is something to remove, and directories
/// that the layer takes for granted are copied from there.
pub fn apply(
    blob: impl Read + Send,
    expected: Option<Digest>,
    upper: &Dir,
    lowers: &Lowers,
    limits: Limits,
) -> Result<Applied, ApplyError> {
    unpack(blob, expected, (upper, lowers), limits, Signs::OfRemoval)
}

/// Unpacks the tar of a whole tree to an empty directory: nothing lies below, and a file may have any name.
pub fn apply_whole(
    blob: impl Read + Send,
    expected: Digest,
    to: &Dir,
    limits: Limits,
) -> Result<Applied, ApplyError> {
    let nothing = Lowers::new(Vec::new());
    unpack(blob, Some(expected), (to, &nothing), limits, Signs::Names)
}

/// What a name is that begins with `.wh.`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signs {
    OfRemoval,
    Names,
}

fn unpack(
    blob: impl Read + Send,
    expected: Option<Digest>,
    (upper, lowers): (&Dir, &Lowers),
    limits: Limits,
    signs: Signs,
) -> Result<Applied, ApplyError> {
    let (_, content) = compress::decoder(blob).map_err(Malformed::Unreadable)?;
    std::thread::scope(|scope| {
        let (content, hashed) =
            compress::read_ahead(scope, content).map_err(Malformed::Unreadable)?;
        let mut reader = LayerReader::new(content, limits);
        let mut target = Target {
            root: upper,
            lowers,
            signs,
            here: None,
            directories: Vec::new(),
            hides_all: false,
            devices_skipped: 0,
            buffer: vec![0; 256 << 10],
        };
        let mut entries = 0;
        while let Some(entry) = reader.next_entry()? {
            entries += 1;
            target.put(&entry, &mut reader)?;
        }
        target.finish()?;
        // It was read to its end.
        drop(reader);
        let hashed = hashed.join().unwrap_or_else(|panic| resume_unwind(panic));
        let (diff_id, size) = hashed.finish();
        match expected {
            Some(expected) if expected != diff_id => Err(ApplyError::OtherContent {
                expected,
                found: diff_id,
            }),
            _ => Ok(Applied {
                diff_id,
                size,
                entries,
                devices_skipped: target.devices_skipped,
            }),
        }
    })
}

/// A directory of the upper one, by its path without links, and by the path with which it was asked for.
struct Here {
    asked: Vec<u8>,
    real: Vec<u8>,
    dir: Rc<Dir>,
}

/// What a directory is to have when all is in it.
struct Directory {
    path: Vec<u8>,
    mode: u32,
    modified: Time,
}

struct Target<'a> {
    root: &'a Dir,
    lowers: &'a Lowers,
    signs: Signs,
    here: Option<Here>,
    directories: Vec<Directory>,
    hides_all: bool,
    devices_skipped: u64,
    buffer: Vec<u8>,
}

impl Target<'_> {
    fn put(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), ApplyError> {
        let path = &entry.path[..];
        if path.is_empty() {
            let root = clone_of(self.root, path)?;
            return self.describe_directory(&root, Vec::new(), entry);
        }
        let (parent, name) = split(path);
        let (parent_path, dir) = self.directory(parent, path)?;
        if let (Signs::OfRemoval, Some(hidden)) = (self.signs, name.strip_prefix(WHITEOUT)) {
            return self.remove(&dir, &parent_path, path, name, hidden);
        }
        let name = OsStr::from_bytes(name);
        let real = joined(&parent_path, name.as_bytes());
        if matches!(entry.kind, Kind::File { .. }) {
            // Most are new.
            match dir.create_file(name, entry.mode & 0o777) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    let file = made.map_err(failed("make the file", path))?;
                    return self.fill(file, entry, content);
                }
            }
        }
        let existing = dir.find(name).map_err(failed("look at", path))?;
        if matches!(entry.kind, Kind::Directory) {
            let made = match existing {
                Some(metadata) if metadata.is_dir() => dir.open_dir(name),
                Some(_) => self.replace_by_directory(&dir, name),
                None => dir.create_dir(name, 0o700),
            };
            let made = made.map_err(failed("make the directory", path))?;
            return self.describe_directory(&made, real, entry);
        }
        let link = match &entry.kind {
            Kind::HardLink { target } => Some(self.linked(target, &real, path)?),
            _ => None,
        };
        if existing.is_some() {
            self.here = None;
            dir.remove_tree(name).map_err(failed("replace", path))?;
        }
        match (&entry.kind, link) {
            (Kind::HardLink { .. }, Some((from, old))) => dir
                .hard_link(&from, OsStr::from_bytes(&old), name)
                .map_err(failed("link", path)),
            (Kind::File { .. }, _) => {
                let file = dir
                    .create_file(name, entry.mode & 0o777)
                    .map_err(failed("make the file", path))?;
                self.fill(file, entry, content)
            }
            (Kind::Symlink { target }, _) => {
                dir.symlink(OsStr::from_bytes(target), name)
                    .map_err(failed("make the link", path))?;
                own(entry, |uid, gid| dir.set_owner(name, uid, gid))?;
                self.set_times(&dir, name, entry)
            }
            (Kind::CharDevice { major: 0, minor: 0 }, _) => {
                Err(refused(path, "is a device that means a removal"))
            }
            (Kind::CharDevice { major, minor }, _) => {
                self.node(&dir, name, entry, dir::Kind::CharDevice, *major, *minor)
            }
            (Kind::BlockDevice { major, minor }, _) => {
                self.node(&dir, name, entry, dir::Kind::BlockDevice, *major, *minor)
            }
            _ => self.node(&dir, name, entry, dir::Kind::Fifo, 0, 0),
        }
    }

    fn fill(
        &mut self,
        mut file: File,
        entry: &Entry,
        content: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let path = &entry.path[..];
        loop {
            let got = content
                .read(&mut self.buffer)
                .map_err(|error| ApplyError::Malformed(error.into()))?;
            if got == 0 {
                break;
            }
            io::Write::write_all(&mut file, &self.buffer[..got]).map_err(failed("write", path))?;
        }
        describe_open_file(&file, entry)
    }

    fn node(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        kind: dir::Kind,
        major: u32,
        minor: u32,
    ) -> Result<(), ApplyError> {
        let path = &entry.path[..];
        let device = rustix::fs::makedev(major, minor);
        match dir.make_node(name, kind, 0o600, device) {
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied && kind != dir::Kind::Fifo =>
            {
                self.devices_skipped += 1;
                return Ok(());
            }
            other => other.map_err(failed("make the node", path))?,
        }
        own(entry, |uid, gid| dir.set_owner(name, uid, gid))?;
        dir.set_mode(name, entry.mode)
            .map_err(failed("set the mode of", path))?;
        self.set_times(dir, name, entry)
    }

    fn set_times(&self, dir: &Dir, name: &OsStr, entry: &Entry) -> Result<(), ApplyError> {
        let time = time_of(entry);
        dir.set_times(name, time, time)
            .map_err(failed("set the time of", &entry.path))
    }

    /// A sign of removal. It is about lower layers only: what this layer itself has stays.
    fn remove(
        &mut self,
        dir: &Dir,
        parent: &[u8],
        path: &[u8],
        name: &[u8],
        hidden: &[u8],
    ) -> Result<(), ApplyError> {
        if name == OPAQUE {
            if parent.is_empty() {
                self.hides_all = true;
                return Ok(());
            }
            return overlay::make_opaque(dir).map_err(failed("hide what is below", path));
        }
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(
                path,
                "is a sign of removal that names no entry of its directory",
            ));
        }
        let hidden_name = OsStr::from_bytes(hidden);
        match dir.find(hidden_name).map_err(failed("look at", path))? {
            Some(metadata) if metadata.is_dir() => {
                let own = dir.open_dir(hidden_name).map_err(failed("open", path))?;
                overlay::make_opaque(&own).map_err(failed("hide what is below", path))
            }
            Some(_) => Ok(()),
            None => match self
                .below(&joined(parent, hidden))
                .map_err(failed("look below", path))?
            {
                Some(_) => overlay::make_whiteout(dir, hidden_name)
                    .map_err(failed("mark as removed", path)),
                None => Ok(()),
            },
        }
    }

    fn describe_directory(
        &mut self,
        dir: &Dir,
        real: Vec<u8>,
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        own(entry, |uid, gid| dir.set_own_owner(uid, gid))?;
        for xattr in kept(&entry.xattrs) {
            dir.set_own_xattr(&xattr)
                .map_err(failed("set an attribute of", &entry.path))?;
        }
        self.directories.push(Directory {
            path: real,
            mode: entry.mode,
            modified: time_of(entry),
        });
        Ok(())
    }

    /// The file that a hard link names. One that only a lower layer has is copied up first, as a mounted overlay would.
    fn linked(
        &mut self,
        target: &[u8],
        real: &[u8],
        path: &[u8],
    ) -> Result<(Rc<Dir>, Vec<u8>), ApplyError> {
        let (parent, name) = split(target);
        let (parent_path, dir) = self.directory(parent, path)?;
        let name = OsStr::from_bytes(name);
        let target_real = joined(&parent_path, name.as_bytes());
        if target_real == real {
            return Err(refused(path, "is a hard link to itself"));
        }
        let missing = || {
            refused(
                path,
                "is a hard link to a file that is neither in this layer nor below it",
            )
        };
        match dir
            .find(name)
            .map_err(failed("look at the target of", path))?
        {
            Some(metadata) if metadata.is_dir() => {
                return Err(refused(path, "is a hard link to a directory"));
            }
            Some(metadata)
                if overlay::is_whiteout(&dir, name, &metadata)
                    .map_err(failed("look at", path))? =>
            {
                return Err(missing());
            }
            Some(_) => {}
            None => match self
                .below(&target_real)
                .map_err(failed("look below for the target of", path))?
            {
                Some(Found::Other(from, metadata)) if metadata.kind == dir::Kind::File => {
                    copy_up(&from, &dir, name, &metadata)
                        .map_err(failed("copy the target of", path))?;
                }
                _ => return Err(missing()),
            },
        }
        Ok((dir, name.as_bytes().to_vec()))
    }
}

fn describe_open_file(file: &File, entry: &Entry) -> Result<(), ApplyError> {
    let path = &entry.path[..];
    // It is new: most have their owner and mode already, and to look is cheaper than to change.
    let made = rustix::fs::fstat(file).map_err(|error| failed("look at", path)(error.into()))?;
    let owner = (u64::from(made.st_uid), u64::from(made.st_gid));
    if owner != (entry.uid, entry.gid) {
        own(entry, |uid, gid| file::set_owner(file, uid, gid))?;
    }
    // After the owner, a change of which takes set-id bits and capabilities away; and attributes while it can be written.
    for xattr in kept(&entry.xattrs) {
        file::set_xattr(file, &xattr).map_err(failed("set an attribute of", path))?;
    }
    if made.st_mode & 0o7777 != entry.mode {
        let mode = rustix::fs::Mode::from_raw_mode(entry.mode);
        rustix::fs::fchmod(file, mode)
            .map_err(|error| failed("set the mode of", path)(error.into()))?;
    }
    let time = rustix::fs::Timespec {
        tv_sec: entry.mtime.seconds,
        tv_nsec: entry.mtime.nanoseconds.into(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(file, &times)
        .map_err(|error| failed("set the time of", path)(error.into()))
}

/// Copies a lower file, as overlay does before it is written to.
fn copy_up(from: &Dir, to: &Dir, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
    let (old, new) = (from.open_file(name)?, to.create_file(name, 0o600)?);
    file::copy_content(&old, &new)?;
    to.set_owner(name, metadata.uid, metadata.gid)?;
    to.set_mode(name, metadata.mode)?;
    for xattr in file::xattrs_of(&old)?
        .iter()
        .filter(|xattr| file::is_content_xattr(&xattr.name))
    {
        file::set_xattr(&new, xattr)?;
    }
    to.set_times(name, metadata.modified, metadata.modified)
}

/// The attributes that a tree may have; a file capability loses the root id of the namespace it was set in.
fn kept(xattrs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = Xattr> {
    xattrs
        .iter()
        .filter(|(name, _)| file::is_content_xattr(OsStr::from_bytes(name)))
        .map(|(name, value)| Xattr {
            name: OsStr::from_bytes(name).to_owned(),
            value: if name == CAPABILITY {
                plain_capability(value.clone())
            } else {
                value.clone()
            },
        })
}

fn own(entry: &Entry, set: impl FnOnce(u32, u32) -> io::Result<()>) -> Result<(), ApplyError> {
    let outside = |source| ApplyError::OwnerOutside {
        path: shown(&entry.path),
        uid: entry.uid,
        gid: entry.gid,
        source,
    };
    // The last number means "as it is" to the kernel.
    let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    let (Some(uid), Some(gid)) = (id(entry.uid), id(entry.gid)) else {
        return Err(outside(None));
    };
    set(uid, gid).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied => outside(Some(error)),
        _ => failed("set the owner of", &entry.path)(error),
    })
}

fn time_of(entry: &Entry) -> Time {
    Time {
        seconds: entry.mtime.seconds,
        nanoseconds: entry.mtime.nanoseconds,
    }
}

fn failed(doing: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ApplyError {
    let path = shown(path);
    move |source| ApplyError::Unwritable {
        path,
        doing,
        source,
    }
}

fn refused(path: &[u8], reason: &'static str) -> ApplyError {
    ApplyError::Refused {
        path: shown(path),
        reason,
    }
}

fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

fn clone_of(dir: &Dir, path: &[u8]) -> Result<Dir, ApplyError> {
    dir.try_clone().map_err(failed("reach", path))
}

#[cfg(test)]
mod tests;
