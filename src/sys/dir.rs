//! One open directory, and what can be done to the entries in it by their plain names. Nothing here follows a symbolic
//! link or crosses a `/`: a name that is not one path component is refused with `EINVAL`. What resolves longer paths is
//! [`super::root::Root`].

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::owner::{self, At};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Dir,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// A time stamp of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970; may be negative.
    pub seconds: i64,
    /// And so many billionths.
    pub nanoseconds: u32,
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: after.as_secs() as i64,
                nanoseconds: after.subsec_nanos(),
            },
            Err(error) => {
                let before = error.duration();
                let nanoseconds = before.subsec_nanos();
                if nanoseconds == 0 {
                    Self {
                        seconds: -(before.as_secs() as i64),
                        nanoseconds,
                    }
                } else {
                    Self {
                        seconds: -(before.as_secs() as i64) - 1,
                        nanoseconds: 1_000_000_000 - nanoseconds,
                    }
                }
            }
        }
    }
}

impl Time {
    /// This time and `later`.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        let nanoseconds = u64::from(self.nanoseconds) + u64::from(later.subsec_nanos());
        Self {
            seconds: self.seconds + later.as_secs() as i64 + (nanoseconds / 1_000_000_000) as i64,
            nanoseconds: (nanoseconds % 1_000_000_000) as u32,
        }
    }

    fn timespec(self) -> Timespec {
        Timespec {
            tv_sec: self.seconds,
            tv_nsec: i64::from(self.nanoseconds),
        }
    }
}

/// What `stat` says of an entry, the entry itself and not what it may point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// The device it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky: at most 07777.
    pub mode: u32,
    /// Its owner, as this process sees it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// What it takes of the disk, in bytes.
    pub disk_bytes: u64,
    /// How many names it has.
    pub links: u64,
    /// Which device it stands for, for device nodes.
    pub rdev: u64,
    /// When it was last read.
    pub accessed: Time,
    /// When its content was last changed.
    pub modified: Time,
    /// When anything about it was last changed; nobody can set this.
    pub changed: Time,
}

impl Metadata {
    /// As the kernel says it, without a record.
    #[allow(
        clippy::allow_attributes,
        clippy::unnecessary_cast,
        reason = "the fields' types differ by architecture"
    )]
    pub fn of_kernel(stat: &rustix::fs::Stat) -> io::Result<Self> {
        let kind = Kind::of(FileType::from_raw_mode(stat.st_mode)).ok_or(Errno::INVAL)?;
        Ok(Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            disk_bytes: stat.st_blocks as u64 * 512,
            links: stat.st_nlink as u64,
            rdev: stat.st_rdev as u64,
            accessed: Time {
                seconds: stat.st_atime as i64,
                nanoseconds: stat.st_atime_nsec as u32,
            },
            modified: Time {
                seconds: stat.st_mtime as i64,
                nanoseconds: stat.st_mtime_nsec as u32,
            },
            changed: Time {
                seconds: stat.st_ctime as i64,
                nanoseconds: stat.st_ctime_nsec as u32,
            },
        })
    }

    /// Of something that is open.
    pub fn of_open(fd: impl AsFd) -> io::Result<Self> {
        let seen = Self::of_kernel(&rustix::fs::fstat(&fd)?)?;
        match owner::are_recorded() {
            true => seen.with_record(At::File(fd.as_fd())),
            false => Ok(seen),
        }
    }

    fn with_record(mut self, at: At<'_>) -> io::Result<Self> {
        if let Some((uid, gid)) = owner::recorded(at, self.kind, self.accessed)? {
            (self.uid, self.gid) = (uid, gid);
        }
        Ok(self)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether two are the same file, unchanged in between as far as the kernel can tell.
    #[must_use]
    pub fn is_unchanged_from(&self, earlier: &Self) -> bool {
        self.dev == earlier.dev
            && self.ino == earlier.ino
            && self.size == earlier.size
            && self.modified == earlier.modified
            && self.changed == earlier.changed
    }

    /// Major and minor number of the device that it stands for.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        (rustix::fs::major(self.rdev), rustix::fs::minor(self.rdev))
    }
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// What it is, where the file system says so without being asked again.
    pub kind: Option<Kind>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its name with its namespace: `user.comment`.
    pub name: OsString,
    /// Its value.
    pub value: Vec<u8>,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.fd
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const FLAGS_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Refuses what is not exactly one path component.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

impl Dir {
    /// Opens a directory by a path of this process, links and all. Only for places that the user or shmocker itself named.
    pub fn open_trusted(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(rustix::fs::open(path.as_ref(), FLAGS_DIR, Mode::empty())?.into())
    }

    /// A second fd of the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.fd.try_clone()?.into())
    }

    /// What `stat` says of the directory itself.
    pub fn own_metadata(&self) -> io::Result<Metadata> {
        Metadata::of_open(&self.fd)
    }

    /// What `stat` says of an entry.
    pub fn metadata(&self, name: impl AsRef<OsStr>) -> io::Result<Metadata> {
        let seen = self.seen(name.as_ref())?;
        match owner::are_recorded() {
            true => seen.with_record(At::Entry(&self.path_of(name.as_ref())?)),
            false => Ok(seen),
        }
    }

    fn seen(&self, name: &OsStr) -> io::Result<Metadata> {
        let name = plain(name)?;
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Metadata::of_kernel(&stat)
    }

    /// As [`Dir::metadata`], where an entry that is not there is no error.
    pub fn find(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Metadata>> {
        match self.metadata(name) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entries, sorted by name (bytewise), without `.` and `..`.
    pub fn entries(&self) -> io::Result<Vec<DirEntry>> {
        let again = rustix::fs::openat(&self.fd, c".", FLAGS_DIR, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut raw = RawDir::new(again, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(DirEntry {
                    name: OsStr::from_bytes(name).to_owned(),
                    kind: Kind::of(entry.file_type()),
                });
            }
        }
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Opens a directory in it.
    pub fn open_dir(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        let flags = FLAGS_DIR | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.fd, plain(name.as_ref())?, flags, Mode::empty())?.into())
    }

    /// Opens a regular file in it for reading. Anything else is `EINVAL`; it never waits for the other end of a pipe.
    pub fn open_file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, plain(name.as_ref())?, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        Ok(File::from(fd))
    }

    /// Creates a new file for reading and writing; `EEXIST` if anything has that name.
    pub fn create_file(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(
            &self.fd,
            plain(name.as_ref())?,
            flags,
            Mode::from_raw_mode(mode),
        )?;
        Ok(File::from(fd))
    }

    /// Makes a directory and opens it.
    pub fn create_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = plain(name.as_ref())?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode))?;
        self.open_dir(name)
    }

    /// Opens a directory, made first if it is missing.
    pub fn ensure_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<Self> {
        let name = name.as_ref();
        match self.open_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self
                .create_dir(name, mode)
            {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_dir(name),
                made => made,
            },
            opened => opened,
        }
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: impl AsRef<Path>, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(
            target.as_ref(),
            &self.fd,
            plain(name.as_ref())?,
        )?)
    }

    /// Gives a file that is open one more name.
    pub fn link_open(&self, file: impl AsFd, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            rustix::fs::CWD,
            path_of_fd(file),
            &self.fd,
            plain(name.as_ref())?,
            AtFlags::SYMLINK_FOLLOW,
        )?)
    }

    /// Gives an entry of `from` a second name here.
    pub fn hard_link(
        &self,
        from: &Self,
        old: impl AsRef<OsStr>,
        name: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (old, name) = (plain(old.as_ref())?, plain(name.as_ref())?);
        Ok(rustix::fs::linkat(
            &from.fd,
            old,
            &self.fd,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Makes a pipe, a socket, a device node or an empty file.
    pub fn make_node(
        &self,
        name: impl AsRef<OsStr>,
        kind: Kind,
        mode: u32,
        rdev: u64,
    ) -> io::Result<()> {
        let kind = match kind {
            Kind::File => FileType::RegularFile,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::Dir | Kind::Symlink => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::mknodat(
            &self.fd,
            plain(name.as_ref())?,
            kind,
            Mode::from_raw_mode(mode),
            rdev,
        )?)
    }

    /// Removes a name that is not a directory.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.fd,
            plain(name.as_ref())?,
            AtFlags::empty(),
        )?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.fd,
            plain(name.as_ref())?,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Removes whatever has that name, with all below it. Nothing there is no error. Directories that cannot be entered
    /// are given the mode for it first. Depth is not limited by the stack.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        match self.remove_file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if is_directory(&error) => {}
            other => return other,
        }
        let mut open: Vec<(Self, OsString, Vec<DirEntry>)> = Vec::new();
        let mut next = Some(name.to_owned());
        loop {
            if let Some(name) = next.take() {
                let within = open.last().map_or(self, |(dir, _, _)| dir);
                let dir = within.open_for_removal(&name)?;
                let entries = dir.entries()?;
                open.push((dir, name, entries));
            }
            let Some((dir, _, entries)) = open.last_mut() else {
                return Ok(());
            };
            if let Some(entry) = entries.pop() {
                let removed = match entry.kind {
                    Some(Kind::Dir) => Err(Errno::ISDIR.into()),
                    _ => dir.remove_file(&entry.name),
                };
                match removed {
                    Err(error) if is_directory(&error) => next = Some(entry.name),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            } else if let Some((_, name, _)) = open.pop() {
                open.last()
                    .map_or(self, |(dir, _, _)| dir)
                    .remove_dir(&name)?;
            }
        }
    }

    fn open_for_removal(&self, name: &OsStr) -> io::Result<Self> {
        let usable = 0o700;
        match self.open_dir(name) {
            Ok(dir) => {
                let mode = dir.own_metadata()?.mode;
                if mode & usable != usable {
                    // Without the right to, the removal itself says what is wrong.
                    drop(dir.set_own_mode(mode | usable));
                }
                Ok(dir)
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.set_mode(name, usable)?;
                self.open_dir(name)
            }
            Err(error) => Err(error),
        }
    }

    /// Renames an entry into `to`, in place of what has that name there.
    pub fn rename(
        &self,
        name: impl AsRef<OsStr>,
        to: &Self,
        new: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        Ok(rustix::fs::renameat(
            &self.fd,
            plain(name.as_ref())?,
            &to.fd,
            plain(new.as_ref())?,
        )?)
    }

    /// Renames an entry into `to`; `EEXIST` if anything has that name there.
    pub fn rename_new(
        &self,
        name: impl AsRef<OsStr>,
        to: &Self,
        new: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        let (name, new) = (plain(name.as_ref())?, plain(new.as_ref())?);
        match rustix::fs::renameat_with(&self.fd, name, &to.fd, new, RenameFlags::NOREPLACE) {
            // Some network file systems cannot; there the check comes before.
            Err(Errno::INVAL | Errno::NOSYS) => match to.find(new)? {
                Some(_) => Err(Errno::EXIST.into()),
                None => self.rename(name, to, new),
            },
            other => Ok(other?),
        }
    }

    /// What a symbolic link points to.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.fd, plain(name.as_ref())?, Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.to_bytes())))
    }

    /// Gives an entry to an owner.
    pub fn set_owner(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        if owner::are_recorded() {
            let kind = self.seen(name)?.kind;
            return owner::record(At::Entry(&self.path_of(name)?), kind, uid, gid);
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(rustix::fs::chownat(
            &self.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Gives the directory itself to an owner.
    pub fn set_own_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        super::file::set_owner(&self.fd, uid, gid)
    }

    /// Sets the mode of an entry that is not a symbolic link (`ELOOP` if it is one).
    pub fn set_mode(&self, name: impl AsRef<OsStr>, mode: u32) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        let pinned = rustix::fs::openat(
            &self.fd,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        if FileType::from_raw_mode(rustix::fs::fstat(&pinned)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP.into());
        }
        Ok(rustix::fs::chmod(
            path_of_fd(&pinned),
            Mode::from_raw_mode(mode),
        )?)
    }

    /// Sets the mode of the directory itself.
    pub fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))?)
    }

    /// Sets when an entry was last read and changed.
    pub fn set_times(
        &self,
        name: impl AsRef<OsStr>,
        accessed: Time,
        modified: Time,
    ) -> io::Result<()> {
        let name = plain(name.as_ref())?;
        let mut times = Timestamps {
            last_access: accessed.timespec(),
            last_modification: modified.timespec(),
        };
        if owner::are_recorded() {
            let seen = self.seen(name)?;
            let links = !matches!(seen.kind, Kind::File | Kind::Dir);
            if links && owner::in_time(seen.accessed).is_some() {
                times.last_access = seen.accessed.timespec();
            }
        }
        Ok(rustix::fs::utimensat(
            &self.fd,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Sets when the directory itself was last read and changed.
    pub fn set_own_times(&self, accessed: Time, modified: Time) -> io::Result<()> {
        let times = Timestamps {
            last_access: accessed.timespec(),
            last_modification: modified.timespec(),
        };
        Ok(rustix::fs::futimens(&self.fd, &times)?)
    }

    /// The extended attributes of an entry, sorted by name; those that this process may not read are left out.
    pub fn xattrs(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<Xattr>> {
        super::file::xattrs_at(&self.path_of(name.as_ref())?)
    }

    /// The extended attributes of the directory itself.
    pub fn own_xattrs(&self) -> io::Result<Vec<Xattr>> {
        super::file::xattrs_of(&self.fd)
    }

    /// Sets an extended attribute of an entry.
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, xattr: &Xattr) -> io::Result<()> {
        let path = self.path_of(name.as_ref())?;
        Ok(rustix::fs::lsetxattr(
            path,
            xattr.name.as_os_str(),
            &xattr.value,
            rustix::fs::XattrFlags::empty(),
        )?)
    }

    /// Sets an extended attribute of the directory itself.
    pub fn set_own_xattr(&self, xattr: &Xattr) -> io::Result<()> {
        let flags = rustix::fs::XattrFlags::empty();
        Ok(rustix::fs::fsetxattr(
            &self.fd,
            xattr.name.as_os_str(),
            &xattr.value,
            flags,
        )?)
    }

    /// Makes sure that the names in it survive a power loss.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Makes sure that all of its file system survives a power loss.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }

    /// A path for an entry that only this process can use and nobody can swap: through its own fd.
    fn path_of(&self, name: &OsStr) -> io::Result<PathBuf> {
        let mut path = path_of_fd(&self.fd);
        path.push(plain(name)?);
        Ok(path)
    }
}

/// A path that only this process can use, for something that is open.
#[must_use]
pub fn path_of_fd(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn is_directory(error: &io::Error) -> bool {
    // EPERM is what POSIX says and some file systems do.
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::ISDIR | Errno::PERM)
    )
}

/// The order in which trees are walked: a directory's path before those below it, names bytewise.
#[must_use]
pub fn walk_order(one: &Path, other: &Path) -> Ordering {
    one.components().cmp(other.components())
}
