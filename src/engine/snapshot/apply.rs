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

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::diff::{CAPABILITY, plain_capability};
use super::lower::{Found, Lowers};
use crate::digest::{Digest, Hasher};
use crate::image::compress;
use crate::image::layer::{Entry, Kind, LayerReader, Limits, Malformed, OPAQUE, WHITEOUT};
use crate::sys::dir::{self, Dir, Metadata, Time, Xattr};
use crate::sys::{file, overlay};

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
    let (_, content) = compress::decoder(blob).map_err(Malformed::Unreadable)?;
    std::thread::scope(|scope| {
        let content = compress::read_ahead(scope, content).map_err(Malformed::Unreadable)?;
        let mut reader = LayerReader::new(
            Hashed {
                input: content,
                hasher: Hasher::default(),
            },
            limits,
        );
        let mut target = Target {
            root: upper,
            lowers,
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
        let (diff_id, size) = reader.into_inner().hasher.finish();
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

struct Hashed<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

/// A directory of the upper one, by its path without links, and by the path with which it was asked for.
struct Here {
    asked: Vec<u8>,
    real: Vec<u8>,
    dir: Dir,
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
    here: Option<Here>,
    directories: Vec<Directory>,
    hides_all: bool,
    devices_skipped: u64,
    buffer: Vec<u8>,
}

/// As in the kernel.
const LINKS_MAX: usize = 40;

impl Target<'_> {
    fn put(&mut self, entry: &Entry, content: &mut impl Read) -> Result<(), ApplyError> {
        let path = &entry.path[..];
        if path.is_empty() {
            let root = clone_of(self.root, path)?;
            return self.describe_directory(&root, Vec::new(), entry);
        }
        let (parent, name) = split(path);
        let (parent_path, dir) = self.directory(parent, path)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.remove(&dir, &parent_path, path, name, hidden);
        }
        let name = OsStr::from_bytes(name);
        let real = joined(&parent_path, name.as_bytes());
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
            (Kind::File { .. }, _) => self.file(&dir, name, entry, content),
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

    fn file(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        entry: &Entry,
        content: &mut impl Read,
    ) -> Result<(), ApplyError> {
        let path = &entry.path[..];
        let mut file = dir
            .create_file(name, 0o600)
            .map_err(failed("make the file", path))?;
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

    /// In place of a whiteout or of anything else that this layer has: what was below stays hidden.
    fn replace_by_directory(&mut self, dir: &Dir, name: &OsStr) -> io::Result<Dir> {
        self.here = None;
        dir.remove_file(name)?;
        let made = dir.create_dir(name, 0o700)?;
        overlay::make_opaque(&made)?;
        Ok(made)
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
    ) -> Result<(Dir, Vec<u8>), ApplyError> {
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

    /// The directory at a path, made if the layer takes it for granted, and its path without links.
    fn directory(&mut self, asked: &[u8], path: &[u8]) -> Result<(Vec<u8>, Dir), ApplyError> {
        let (mut real, mut dir, mut left) = match &self.here {
            Some(here) if here.asked == asked => {
                return Ok((here.real.clone(), clone_of(&here.dir, path)?));
            }
            Some(here) if here.asked == here.real && is_below(asked, &here.real) => {
                let rest = asked[here.real.len()..].to_vec();
                (here.real.clone(), clone_of(&here.dir, path)?, rest)
            }
            _ => (Vec::new(), clone_of(self.root, path)?, asked.to_vec()),
        };
        let mut links = 0;
        while let Some((name, rest)) = first_component(&left) {
            // Only what a link says has these. `real` is without links, so its parent is the path before its name.
            if name == b"." {
                left = rest;
                continue;
            }
            if name == b".." {
                left = joined(split(&real).0, &rest);
                real.clear();
                dir = clone_of(self.root, path)?;
                continue;
            }
            let found = dir
                .find(OsStr::from_bytes(&name))
                .map_err(failed("look at", path))?;
            let place = joined(&real, &name);
            let os_name = OsStr::from_bytes(&name);
            let link = match found {
                Some(metadata) if metadata.is_dir() => {
                    dir = dir
                        .open_dir(os_name)
                        .map_err(failed("open the way to", path))?;
                    None
                }
                Some(metadata) if metadata.kind == dir::Kind::Symlink => Some(
                    dir.read_link(os_name)
                        .map_err(failed("read the way to", path))?,
                ),
                Some(metadata)
                    if overlay::is_whiteout(&dir, os_name, &metadata)
                        .map_err(failed("look at", path))? =>
                {
                    dir = self
                        .replace_by_directory(&dir, os_name)
                        .map_err(failed("make the way to", path))?;
                    self.directories.push(Directory {
                        path: place.clone(),
                        mode: 0o755,
                        modified: Time::default(),
                    });
                    None
                }
                Some(_) => return Err(refused(path, "lies in something that is no directory")),
                None => match self
                    .below(&place)
                    .map_err(failed("look below for the way to", path))?
                {
                    Some(Found::Other(from, metadata)) if metadata.kind == dir::Kind::Symlink => {
                        Some(
                            from.read_link(os_name)
                                .map_err(failed("read the way to", path))?,
                        )
                    }
                    Some(Found::Other(..)) => {
                        return Err(refused(path, "lies in something that is no directory"));
                    }
                    Some(Found::Dir(like)) => {
                        dir = self
                            .granted(&dir, os_name, &place, like.top())
                            .map_err(failed("make the way to", path))?;
                        None
                    }
                    None => {
                        dir = self
                            .granted(&dir, os_name, &place, None)
                            .map_err(failed("make the way to", path))?;
                        None
                    }
                },
            };
            let Some(link) = link else {
                real = place;
                left = rest;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(refused(path, "goes through links that lead in a circle"));
            }
            // From the top again.
            left = within_root(&real, link.as_os_str().as_bytes(), &rest);
            real.clear();
            dir = clone_of(self.root, path)?;
        }
        self.here = Some(Here {
            asked: asked.to_vec(),
            real: real.clone(),
            dir: clone_of(&dir, path)?,
        });
        Ok((real, dir))
    }

    /// Makes a directory that the layer does not list: as it is below, else plain.
    fn granted(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        place: &[u8],
        like: Option<&Dir>,
    ) -> io::Result<Dir> {
        let made = dir.create_dir(name, 0o700)?;
        let (mut mode, mut modified) = (0o755, Time::default());
        if let Some(like) = like {
            let metadata = like.own_metadata()?;
            (mode, modified) = (metadata.mode, metadata.modified);
            made.set_own_owner(metadata.uid, metadata.gid)?;
            for xattr in like
                .own_xattrs()?
                .iter()
                .filter(|xattr| file::is_content_xattr(&xattr.name))
            {
                made.set_own_xattr(xattr)?;
            }
        }
        self.directories.push(Directory {
            path: place.to_vec(),
            mode,
            modified,
        });
        Ok(made)
    }

    /// What the lower layers show at a path without links, as far as this layer lets them.
    fn below(&self, path: &[u8]) -> io::Result<Option<Found>> {
        let mut upper = Some(self.root.try_clone()?);
        let mut lowers = None;
        let mut left = path.to_vec();
        while let Some((name, rest)) = first_component(&left) {
            let name = OsStr::from_bytes(&name);
            let found = lowers.as_ref().unwrap_or(self.lowers).find(name)?;
            if rest.is_empty() {
                return Ok(found);
            }
            let Some(Found::Dir(merged)) = found else {
                return Ok(None);
            };
            lowers = Some(merged);
            upper = match upper {
                Some(dir) if dir.find(name)?.is_some_and(|metadata| metadata.is_dir()) => {
                    Some(dir.open_dir(name)?)
                }
                _ => None,
            };
            if let Some(dir) = &upper
                && overlay::is_opaque(dir)?
            {
                return Ok(None);
            }
            left = rest;
        }
        Ok(None)
    }

    /// What can only be done when everything is there.
    fn finish(&mut self) -> Result<(), ApplyError> {
        if self.hides_all {
            self.hide_all().map_err(failed("hide what is below", b""))?;
        }
        for Directory {
            path,
            mode,
            modified,
        } in std::mem::take(&mut self.directories).into_iter().rev()
        {
            let Some(dir) = self.still_there(&path).map_err(failed("open", &path))? else {
                continue;
            };
            dir.set_own_mode(mode)
                .map_err(failed("set the mode of", &path))?;
            dir.set_own_times(modified, modified)
                .map_err(failed("set the time of", &path))?;
        }
        Ok(())
    }

    /// A directory that was made, unless a later entry has replaced it.
    fn still_there(&mut self, path: &[u8]) -> io::Result<Option<Dir>> {
        if path.is_empty() {
            return self.root.try_clone().map(Some);
        }
        let (parent, name) = split(path);
        let mut dir = match &self.here {
            Some(here) if here.real == parent => here.dir.try_clone()?,
            _ => self.root.try_clone()?,
        };
        let is_parent = self.here.as_ref().is_some_and(|here| here.real == parent);
        let mut left = if is_parent {
            Vec::new()
        } else {
            parent.to_vec()
        };
        while let Some((component, rest)) = first_component(&left) {
            let component = OsStr::from_bytes(&component);
            if !dir
                .find(component)?
                .is_some_and(|metadata| metadata.is_dir())
            {
                return Ok(None);
            }
            dir = dir.open_dir(component)?;
            left = rest;
        }
        let name = OsStr::from_bytes(name);
        let found = dir.find(name)?.is_some_and(|metadata| metadata.is_dir());
        let opened = if found {
            Some(dir.open_dir(name)?)
        } else {
            None
        };
        self.here = Some(Here {
            asked: parent.to_vec(),
            real: parent.to_vec(),
            dir,
        });
        Ok(opened)
    }

    /// An opaque root: overlay has no such thing, so each name below is hidden by itself.
    fn hide_all(&self) -> io::Result<()> {
        let mut names = BTreeSet::new();
        for lower in self.lowers.iter() {
            names.extend(lower.entries()?.into_iter().map(|entry| entry.name));
        }
        for name in names {
            if self.lowers.find(&name)?.is_none() {
                continue;
            }
            match self.root.find(&name)? {
                None => overlay::make_whiteout(self.root, &name)?,
                Some(metadata) if metadata.is_dir() => {
                    overlay::make_opaque(&self.root.open_dir(&name)?)?
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn describe_open_file(file: &File, entry: &Entry) -> Result<(), ApplyError> {
    let path = &entry.path[..];
    own(entry, |uid, gid| {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(uid),
            rustix::fs::Gid::from_raw(gid),
        );
        Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
    })?;
    // After the owner: a change of that takes set-id bits and capabilities away.
    let mode = rustix::fs::Mode::from_raw_mode(entry.mode);
    rustix::fs::fchmod(file, mode)
        .map_err(|error| failed("set the mode of", path)(error.into()))?;
    for xattr in kept(&entry.xattrs) {
        file::set_xattr(file, &xattr).map_err(failed("set an attribute of", path))?;
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

/// Parent and name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

fn is_below(path: &[u8], parent: &[u8]) -> bool {
    parent.is_empty()
        || path
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with(b"/"))
}

/// The first name in a path, and what follows it.
fn first_component(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let start = path.iter().position(|&byte| byte != b'/')?;
    let path = &path[start..];
    let end = path
        .iter()
        .position(|&byte| byte == b'/')
        .unwrap_or(path.len());
    let after = path[end..]
        .iter()
        .position(|&byte| byte != b'/')
        .map_or(path.len(), |skip| end + skip);
    Some((path[..end].to_vec(), path[after..].to_vec()))
}

/// Where a link leads that is in the directory `base`, with the rest of the path after it: from the top.
fn within_root(base: &[u8], link: &[u8], rest: &[u8]) -> Vec<u8> {
    let base = if link.starts_with(b"/") { b"" } else { base };
    [base, link, rest].join(&b'/')
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
