//! A package's files put into a tree, without a way out of it.
//!
//! Every name is resolved by the kernel below the tree's own root (openat2, RESOLVE_IN_ROOT), so neither `..` nor a
//! symbolic link that an earlier package left leads outside; what is made is made without following its last component.
//! Links such as `/bin` → `usr/bin` work, as they would for dpkg.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use tar::{Entry, EntryType};

use super::deb;
use super::error::{Error, Result};
use crate::sys::dir::{self, Dir, Metadata, Time};
use crate::sys::file;

/// The most entries that one package may have.
const ENTRIES_MAX: u64 = 2_000_000;

/// A tree that packages are unpacked into.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

/// A directory that a package has, to be given its owner and mode when all packages are unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    path: PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What a package had in it.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Everything, in the package's own order; the root is the empty path.
    pub(super) paths: Vec<PathBuf>,
    /// The directories among it.
    pub(super) directories: Vec<Directory>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| Error::io("cannot open the tree", root, error))?;
        Ok(Self { root })
    }

    /// Puts the files of a package into the tree. Several packages may be unpacked at once: what depends on their order
    /// is left to [`Tree::settle`].
    ///
    /// A configuration file is written twice: in its place, as scripts of other packages rest on it before its own
    /// package is configured; and as `.dpkg-new` beside it, which is what dpkg then finds to be the same.
    pub(super) fn unpack(
        &self,
        deb_path: &Path,
        package: &str,
        conffiles: &HashSet<PathBuf>,
    ) -> Result<Unpacked> {
        let broken = |path: &Path, why: String| Error::Package {
            package: package.to_owned(),
            why: format!("{}: {why}", path.display()),
        };
        let mut archive = deb::data(deb_path, package)?;
        let entries = archive
            .entries()
            .map_err(|error| broken(Path::new("data.tar"), error.to_string()))?;
        let mut unpacked = Unpacked::default();
        let mut last: Option<(PathBuf, OwnedFd)> = None;
        for (count, entry) in entries.enumerate() {
            let mut entry =
                entry.map_err(|error| broken(Path::new("data.tar"), error.to_string()))?;
            let named = entry
                .path()
                .map_err(|error| broken(Path::new("data.tar"), error.to_string()))?
                .into_owned();
            if count as u64 > ENTRIES_MAX {
                return Err(broken(&named, "the package has too many files".to_owned()));
            }
            let Some(path) = clean(&named) else {
                return Err(broken(&named, "the name leads out of the tree".to_owned()));
            };
            unpacked.paths.push(path.clone());
            let done = self
                .put(&path, &mut entry, &mut unpacked.directories, &mut last)
                .and_then(|()| {
                    if conffiles.contains(&path) {
                        self.double(&path)
                    } else {
                        Ok(())
                    }
                });
            done.map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::PermissionDenied => Error::Io {
                    what: "cannot unpack",
                    path: path.clone(),
                    source: error,
                },
                _ => broken(&path, error.to_string()),
            })?;
        }
        Ok(unpacked)
    }

    /// Gives directories their owner and mode: those of the first package that has them.
    pub(super) fn settle(&self, directories: &[&Directory]) -> Result<()> {
        let mut seen = HashSet::new();
        for directory in directories {
            if !seen.insert(&directory.path) {
                continue;
            }
            let done = (|| -> io::Result<()> {
                let fd = self.directory(&directory.path)?;
                file::set_owner(&fd, directory.uid, directory.gid)?;
                Ok(rustix::fs::fchmod(
                    &fd,
                    Mode::from_raw_mode(directory.mode),
                )?)
            })();
            done.map_err(|error| {
                Error::io("cannot set owner and mode of", &directory.path, error)
            })?;
        }
        Ok(())
    }

    /// Copies a regular file of the tree to `.dpkg-new` beside it, with its owner, mode and time.
    fn double(&self, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let original = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        let found = Metadata::of_open(&original)?;
        if found.kind != dir::Kind::File {
            return Ok(());
        }
        let mut beside = name.to_owned();
        beside.push(".dpkg-new");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = with_room(parent.as_fd(), &beside, || {
            rustix::fs::openat(&parent, &*beside, flags, Mode::from_raw_mode(0o600))
        })?;
        let mut copy = std::fs::File::from(copy);
        io::copy(&mut std::fs::File::from(original), &mut copy)?;
        file::set_owner(&copy, found.uid, found.gid)?;
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(found.mode))?;
        let time = Timespec {
            tv_sec: found.modified.seconds,
            tv_nsec: 0,
        };
        Ok(rustix::fs::futimens(
            &copy,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )?)
    }

    /// Writes a file, in place of whatever file is there, owned by root; without a time it is as old as it is.
    pub(super) fn write(
        &self,
        directory: &Path,
        name: &str,
        content: &[u8],
        mode: u32,
        mtime_s: Option<u64>,
    ) -> io::Result<()> {
        self.make_directories(directory)?;
        let parent = self.directory(directory)?;
        let name = OsStr::new(name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = with_room(parent.as_fd(), name, || {
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
        })?;
        file::set_owner(&file, 0, 0)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        let mut file = std::fs::File::from(file);
        file.write_all(content)?;
        if let Some(mtime_s) = mtime_s {
            let time = Timespec {
                tv_sec: seconds(mtime_s),
                tv_nsec: 0,
            };
            rustix::fs::futimens(
                &file,
                &Timestamps {
                    last_access: time,
                    last_modification: time,
                },
            )?;
        }
        Ok(())
    }

    fn put(
        &self,
        path: &Path,
        entry: &mut Entry<'_, Box<dyn Read>>,
        directories: &mut Vec<Directory>,
        last: &mut Option<(PathBuf, OwnedFd)>,
    ) -> io::Result<()> {
        let header = entry.header();
        let kind = header.entry_type();
        let mode = header.mode()? & 0o7777;
        let (uid, gid) = (narrow(header.uid()?)?, narrow(header.gid()?)?);
        let mtime_s = header.mtime()?;
        if kind == EntryType::Directory {
            self.make_directories(path)?;
            directories.push(Directory {
                path: path.to_owned(),
                mode,
                uid,
                gid,
            });
            return Ok(());
        }
        let Some(name) = path.file_name() else {
            return Err(invalid("it has no name"));
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if last.as_ref().is_none_or(|(known, _)| known != parent) {
            self.make_directories(parent)?;
            *last = Some((parent.to_owned(), self.directory(parent)?));
        }
        let Some((_, parent)) = last.as_ref() else {
            return Err(invalid("it has no directory"));
        };
        let parent = parent.as_fd();
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: seconds(mtime_s),
                tv_nsec: 0,
            },
            last_modification: Timespec {
                tv_sec: seconds(mtime_s),
                tv_nsec: 0,
            },
        };
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
                let file = with_room(parent, name, create)?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
                file::set_owner(&file, uid, gid)?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
                rustix::fs::futimens(&file, &times)?;
            }
            EntryType::Symlink => {
                let target = entry
                    .link_name_bytes()
                    .ok_or_else(|| invalid("the link leads nowhere"))?
                    .into_owned();
                let target = OsStr::from_bytes(&target);
                // The links of a merged /usr are there already, and others go through them meanwhile.
                if rustix::fs::readlinkat(parent, name, Vec::new())
                    .is_ok_and(|there| there.as_bytes() == target.as_bytes())
                {
                    return Ok(());
                }
                with_room(parent, name, || rustix::fs::symlinkat(target, parent, name))?;
                let parent = Dir::from(parent.try_clone_to_owned()?);
                parent.set_owner(name, uid, gid)?;
                let time = Time {
                    seconds: seconds(mtime_s),
                    nanoseconds: 0,
                };
                parent.set_times(name, time, time)?;
            }
            EntryType::Link => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| invalid("the link leads nowhere"))?
                    .into_owned();
                let target =
                    clean(&target).ok_or_else(|| invalid("the link leads out of the tree"))?;
                let (Some(target_name), target_parent) =
                    (target.file_name(), target.parent().unwrap_or(Path::new("")))
                else {
                    return Err(invalid("the link leads nowhere"));
                };
                let target_parent = self.directory(target_parent)?;
                with_room(parent, name, || {
                    rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())
                })?;
            }
            // Extended headers are taken in by the reader; Debian's packages have no devices.
            other => {
                return Err(invalid(&format!(
                    "a file of the kind {other:?} has no place in a package"
                )));
            }
        }
        Ok(())
    }

    /// Opens a directory of the tree; links on the way stay in the tree.
    fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Makes a directory and those above it, as far as they are not there.
    fn make_directories(&self, path: &Path) -> rustix::io::Result<()> {
        if self.directory(path).is_ok() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        self.make_directories(parent)?;
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        match rustix::fs::mkdirat(self.directory(parent)?, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => self.directory(path).map(|_| ()),
            Err(error) => Err(error),
        }
    }
}

/// Makes something; if something is in its place that is no directory, instead of that.
fn with_room<T>(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    make: impl Fn() -> rustix::io::Result<T>,
) -> io::Result<T> {
    match make() {
        Err(rustix::io::Errno::EXIST) => {
            let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                return Err(invalid("there is a directory in its place"));
            }
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            Ok(make()?)
        }
        other => Ok(other?),
    }
}

/// A name of a package's file, relative to the root of the tree.
pub(super) fn clean(path: &Path) -> Option<PathBuf> {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(cleaned)
}

fn narrow(id: u64) -> io::Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| invalid("its owner is no user id"))
}

fn seconds(mtime_s: u64) -> i64 {
    i64::try_from(mtime_s).unwrap_or(i64::MAX)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// The directory `path` itself, for what is done to a tree as a whole.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Error::io("cannot open", path, error))
}
