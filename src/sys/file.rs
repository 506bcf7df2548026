//! Regular files: copied in the cheapest way the file systems allow, with their holes; and extended attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, SeekFrom, Uid};
use rustix::io::Errno;

use super::dir::{Metadata, Xattr};
use super::owner;

/// Says that an open file was used just now: its times become the present one.
pub fn touch(file: impl AsFd) -> io::Result<()> {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    Ok(rustix::fs::futimens(
        file,
        &Timestamps {
            last_access: now,
            last_modification: now,
        },
    )?)
}

/// Makes the empty file `to` a copy of `from`: shared blocks where the file system can, else copied by the kernel, else
/// read and written. Holes stay holes. Returns the number of bytes that `from` was long.
pub fn copy_content(from: &File, to: &File) -> io::Result<u64> {
    let size = from.metadata()?.len();
    if size == 0 {
        return Ok(0);
    }
    if size <= SMALL_BYTES_MAX {
        return read_and_write(from, to, 0, size).map(|()| size);
    }
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(size);
    }
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            // No notion of holes.
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))
            .unwrap_or(size)
            .max(start + 1);
        copy_range(from, to, start, end)?;
        offset = end;
    }
    to.set_len(size)?;
    Ok(size)
}

/// Up to here, two calls that copy are quicker than those that ask how to do without.
const SMALL_BYTES_MAX: u64 = 32 * 1024;

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)
        {
            // The file has shrunk, or is one of those of which the kernel does not know the length.
            Ok(0) => return read_and_write(from, to, read_at, end),
            Ok(_) | Err(Errno::INTR) => {}
            Err(
                Errno::XDEV
                | Errno::NOSYS
                | Errno::INVAL
                | Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::IO
                | Errno::BADF,
            ) => {
                return read_and_write(from, to, read_at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_and_write(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![
        0;
        usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(128 * 1024)
    ];
    while at < end {
        let wanted = buffer
            .len()
            .min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match from.read_at(&mut buffer[..wanted], at) {
            Ok(0) => break,
            Ok(read) => {
                to.write_all_at(&buffer[..read], at)?;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The extended attributes of something open, sorted by name. What cannot be read is left out, and a file system that
/// has none is as one where there are none.
pub fn xattrs_of(fd: impl AsFd) -> io::Result<Vec<Xattr>> {
    let fd = fd.as_fd();
    collect(
        |buffer| rustix::fs::flistxattr(fd, buffer),
        |name, buffer| rustix::fs::fgetxattr(fd, name, buffer),
    )
}

/// The extended attributes of what is at a path of this process, the last component not followed.
pub(super) fn xattrs_at(path: &Path) -> io::Result<Vec<Xattr>> {
    collect(
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

/// Sets an extended attribute of something open.
pub fn set_xattr(fd: impl AsFd, xattr: &Xattr) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        fd,
        xattr.name.as_os_str(),
        &xattr.value,
        rustix::fs::XattrFlags::empty(),
    )?)
}

/// Gives something open, or only pinned, to an owner.
pub fn set_owner(fd: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    if owner::are_recorded() {
        let kind = Metadata::of_open(fd.as_fd())?.kind;
        return owner::record(owner::At::File(fd.as_fd()), kind, uid, gid);
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // Not `fchown`, which does not take what was only pinned (O_PATH).
    let flags = AtFlags::EMPTY_PATH;
    Ok(rustix::fs::chownat(fd, c"", Some(uid), Some(gid), flags)?)
}

/// The longest list of names and the longest value that the kernel hands out.
const XATTR_BYTES_MAX: usize = 64 * 1024;

fn collect(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<Xattr>> {
    let mut small = [0; 512];
    let mut large = Vec::new();
    let names: &[u8] = match list(&mut small) {
        Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(length) => &small[..length],
        Err(Errno::RANGE) => {
            large.resize(XATTR_BYTES_MAX, 0);
            let length = list(&mut large)?;
            &large[..length]
        }
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 256];
        let mut got = get(name, &mut value);
        if got == Err(Errno::RANGE) {
            value.resize(XATTR_BYTES_MAX, 0);
            got = get(name, &mut value);
        }
        if let Ok(length) = got {
            value.truncate(length);
            xattrs.push(Xattr {
                name: name.to_owned(),
                value,
            });
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Whether an attribute is part of a tree's content: what programs put there and file capabilities. Security labels of
/// this machine, access lists, and what overlay keeps for itself are not.
#[must_use]
pub fn is_content_xattr(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b"security.capability"
        || (name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
            && name != owner::ATTRIBUTE.as_bytes())
}

#[cfg(test)]
pub(crate) mod tempdir {
    //! A directory for one test.

    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    pub(crate) struct TempDir(PathBuf);

    impl TempDir {
        pub(crate) fn new() -> Self {
            Self::within(&std::env::temp_dir())
        }

        /// In memory where that can be: for tests that sync often.
        pub(crate) fn in_memory() -> Self {
            match Path::new("/dev/shm") {
                memory if memory.is_dir() => Self::within(memory),
                _ => Self::new(),
            }
        }

        fn within(place: &Path) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = place.join(format!("shmocker-test-{}-{count}", std::process::id()));
            drop(std::fs::remove_dir_all(&path));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let (parent, name) = (self.0.parent().unwrap(), self.0.file_name().unwrap());
            drop(
                super::super::dir::Dir::open_trusted(parent).and_then(|dir| dir.remove_tree(name)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_sparse_file_stays_sparse() {
        let dir = tempdir::TempDir::new();
        let from = File::create_new(dir.path().join("from")).unwrap();
        from.write_all_at(b"start", 0).unwrap();
        from.write_all_at(b"middle", 8 << 20).unwrap();
        from.set_len(64 << 20).unwrap();
        let from = File::open(dir.path().join("from")).unwrap();
        let to = File::create_new(dir.path().join("to")).unwrap();
        assert_eq!(copy_content(&from, &to).unwrap(), 64 << 20);
        let copied = std::fs::read(dir.path().join("to")).unwrap();
        assert_eq!(copied.len(), 64 << 20);
        assert_eq!(&copied[..5], b"start");
        assert_eq!(&copied[8 << 20..(8 << 20) + 6], b"middle");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn reading_and_writing_copies_the_same_bytes() {
        let dir = tempdir::TempDir::new();
        let content: Vec<u8> = (0..300_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        std::fs::write(dir.path().join("from"), &content).unwrap();
        let from = File::open(dir.path().join("from")).unwrap();
        let to = File::create_new(dir.path().join("to")).unwrap();
        read_and_write(&from, &to, 0, content.len() as u64).unwrap();
        assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), content);
    }

    #[test]
    fn attributes_read_back_as_they_were_set() {
        let dir = tempdir::TempDir::new();
        let file = File::create_new(dir.path().join("file")).unwrap();
        let xattr = Xattr {
            name: "user.note".into(),
            value: vec![7; 2000],
        };
        match set_xattr(&file, &xattr) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                return println!("skip: no user attributes here");
            }
            other => other.unwrap(),
        }
        let read = xattrs_of(&file).unwrap();
        assert!(read.contains(&xattr), "{read:?}");
        assert!(is_content_xattr("user.note".as_ref()));
        assert!(!is_content_xattr("user.overlay.opaque".as_ref()));
    }
}
