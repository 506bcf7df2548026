//! What is taken out of a tree so that two builds of the same packages are the same bytes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Timespec, Timestamps};

use super::error::{Error, Result};
use super::unpack;

/// What is done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tidy {
    /// The file is removed.
    Remove,
    /// The file stays, with nothing in it, with its owner and mode.
    Empty,
    /// Everything in the directory is removed; the directory stays.
    RemoveContent,
    /// The files in the directory, however deep, are emptied; the directories stay.
    EmptyContent,
    /// The files in the directory whose names end so are removed.
    RemoveEndingIn(&'static str),
    /// The files in the directory whose names begin so are removed.
    RemoveBeginningWith(&'static str),
}

/// Every path that is removed or emptied, and why. Nothing else is.
const TIDIED: &[(&str, Tidy, &str)] = &[
    (
        "etc/machine-id",
        Tidy::Empty,
        "random; empty, it is made when a machine first starts",
    ),
    (
        "var/lib/dbus/machine-id",
        Tidy::Remove,
        "random; a link to, or copy of, the one above",
    ),
    ("var/lib/systemd/random-seed", Tidy::Remove, "random"),
    (
        "var/lib/systemd/credential.secret",
        Tidy::Remove,
        "random, and a secret",
    ),
    (
        "etc/ssh",
        Tidy::RemoveBeginningWith("ssh_host_"),
        "private keys: random, and nobody's if all have them",
    ),
    (
        "var/log/dpkg.log",
        Tidy::Remove,
        "holds the time of the build",
    ),
    (
        "var/log/alternatives.log",
        Tidy::Remove,
        "holds the time of the build",
    ),
    (
        "var/log/bootstrap.log",
        Tidy::Remove,
        "holds the time of the build",
    ),
    (
        "var/log/apt",
        Tidy::RemoveContent,
        "holds the time of the build",
    ),
    (
        "var/log",
        Tidy::EmptyContent,
        "holds the time of the build, users and host names",
    ),
    (
        "var/cache/ldconfig/aux-cache",
        Tidy::Remove,
        "holds inode numbers and times; ldconfig makes it again",
    ),
    (
        "var/cache/debconf",
        Tidy::RemoveEndingIn("-old"),
        "a backup, of no use in an image",
    ),
    (
        "var/cache/apt",
        Tidy::RemoveContent,
        "holds times; apt makes it again",
    ),
    (
        "var/cache/man",
        Tidy::RemoveContent,
        "holds times; man-db makes it again",
    ),
    (
        "var/cache/fontconfig",
        Tidy::RemoveContent,
        "holds times; fontconfig makes it again",
    ),
    (
        "var/lib/apt/lists",
        Tidy::RemoveContent,
        "grows old; `apt-get update` makes it again",
    ),
    (
        "var/lib/dpkg",
        Tidy::RemoveEndingIn("-old"),
        "a backup, of no use in an image",
    ),
    (
        "var/lib/dpkg",
        Tidy::RemoveBeginningWith("lock"),
        "a lock that nobody holds",
    ),
    (
        "var/lib/dpkg/triggers/Lock",
        Tidy::Remove,
        "a lock that nobody holds",
    ),
    (
        "var/lib/apt/periodic",
        Tidy::RemoveContent,
        "holds the time of the build",
    ),
    ("etc/.pwd.lock", Tidy::Remove, "a lock that nobody holds"),
    ("run/adduser", Tidy::Remove, "a lock that nobody holds"),
    ("tmp", Tidy::RemoveContent, "left over"),
    ("var/tmp", Tidy::RemoveContent, "left over"),
];

/// Tidies the tree, and clamps its times: nothing in it is younger than `epoch_s`, and every directory that was touched is
/// exactly as old, since what a directory's time tells is the order of the work. What need not change is not written to,
/// so that in a tree above another one nothing is copied up.
pub(super) fn tidy(root: &Path, epoch_s: u64) -> Result<()> {
    let tree = unpack::open_directory(root)?;
    for (path, what, _) in TIDIED {
        apply(tree.as_fd(), Path::new(path), *what)
            .map_err(|error| Error::io("cannot tidy", root.join(path), error))?;
    }
    let epoch = Timespec {
        tv_sec: i64::try_from(epoch_s).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    clamp(tree.as_fd(), epoch).map_err(|error| Error::io("cannot set the times in", root, error))
}

type Done = rustix::io::Result<()>;

fn apply(tree: BorrowedFd<'_>, path: &Path, what: Tidy) -> Done {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Some(parent) = below(tree, parent)? else {
        return Ok(());
    };
    let Some(kind) = kind_of(parent.as_fd(), name)? else {
        return Ok(());
    };
    match what {
        Tidy::Remove => match kind {
            FileType::Directory => Ok(()),
            _ => rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
        },
        Tidy::Empty => empty(parent.as_fd(), name, kind),
        _ if kind != FileType::Directory => Ok(()),
        Tidy::RemoveContent => remove_content(open(parent.as_fd(), name)?.as_fd()),
        Tidy::EmptyContent => empty_content(open(parent.as_fd(), name)?.as_fd()),
        Tidy::RemoveEndingIn(end) => remove_files(open(parent.as_fd(), name)?.as_fd(), |name| {
            name.ends_with(end.as_bytes())
        }),
        Tidy::RemoveBeginningWith(start) => {
            remove_files(open(parent.as_fd(), name)?.as_fd(), |name| {
                name.starts_with(start.as_bytes())
            })
        }
    }
}

/// A directory below the tree, reached without following a link; `None` if it is not there.
fn below(tree: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
    let mut found = rustix::io::dup(tree)?;
    for part in path.components() {
        found = match open(found.as_fd(), part.as_os_str()) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
    }
    Ok(Some(found))
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn kind_of(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<FileType>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn empty(parent: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> Done {
    if kind != FileType::RegularFile
        || rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_size == 0
    {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map(drop)
}

fn empty_content(directory: BorrowedFd<'_>) -> Done {
    for (name, kind) in entries(directory)? {
        match kind {
            FileType::Directory => empty_content(open(directory, &name)?.as_fd())?,
            kind => empty(directory, &name, kind)?,
        }
    }
    Ok(())
}

pub(super) fn remove_content(directory: BorrowedFd<'_>) -> Done {
    for (name, kind) in entries(directory)? {
        if kind == FileType::Directory {
            remove_content(open(directory, &name)?.as_fd())?;
            rustix::fs::unlinkat(directory, &*name, AtFlags::REMOVEDIR)?;
        } else {
            rustix::fs::unlinkat(directory, &*name, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn remove_files(directory: BorrowedFd<'_>, chosen: impl Fn(&[u8]) -> bool) -> Done {
    use std::os::unix::ffi::OsStrExt as _;
    for (name, kind) in entries(directory)? {
        if kind != FileType::Directory && chosen(name.as_bytes()) {
            rustix::fs::unlinkat(directory, &*name, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn entries(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<(std::ffi::OsString, FileType)>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => kind_of(directory, name)?.unwrap_or(FileType::Unknown),
            known => known,
        };
        found.push((name.to_owned(), kind));
    }
    Ok(found)
}

fn clamp(directory: BorrowedFd<'_>, epoch: Timespec) -> Done {
    let times = Timestamps {
        last_access: epoch,
        last_modification: epoch,
    };
    for (name, kind) in entries(directory)? {
        if kind == FileType::Directory {
            clamp(open(directory, &name)?.as_fd(), epoch)?;
            continue;
        }
        let found = rustix::fs::statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
        if (found.st_mtime, found.st_mtime_nsec as i64) > (epoch.tv_sec, 0) {
            rustix::fs::utimensat(directory, &*name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    let found = rustix::fs::fstat(directory)?;
    if (found.st_mtime, found.st_mtime_nsec as i64) != (epoch.tv_sec, 0) {
        rustix::fs::futimens(directory, &times)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_reason_and_no_way_out() {
        for (path, _, reason) in TIDIED {
            assert!(
                !path.starts_with('/') && !path.contains("..") && !path.ends_with('/'),
                "{path}"
            );
            assert!(!reason.is_empty(), "{path}");
        }
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_not_followed() {
        let scratch = crate::engine::source::scratch("tidy-link");
        let (tree, outside) = (scratch.join("tree"), scratch.join("outside"));
        std::fs::create_dir_all(tree.join("var")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("canary"), "sings").unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("tmp")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("var/cache")).unwrap();
        tidy(&tree, 1000).unwrap();
        assert_eq!(
            std::fs::read_to_string(outside.join("canary")).unwrap(),
            "sings"
        );
        std::fs::remove_dir_all(&scratch).unwrap();
    }
}
