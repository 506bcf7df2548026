//! Mount points inside a root that is not trusted. What is missing is made, remembered, and removed again once the step
//! has ended, so that it does not reach the layer. All of it by open directories: a step that puts links where a mount
//! point was leads nowhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;

use super::spec::{StubSpec, TouchedSpec};

/// How many dangling links are followed for one mount point.
const LINKS_MAX: u32 = 40;

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// The stubs that were made, and the directories that they are in.
#[derive(Debug, Default)]
pub(super) struct Stubs {
    pub stubs: Vec<StubSpec>,
    pub directories: Vec<(OwnedFd, TouchedSpec)>,
}

/// Opens a path as a process with this root would see it. Links of /proc that lead elsewhere are refused.
pub(super) fn open_in(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere met a `..` of the path.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
}

/// Opens a mount point, having made it and its parents where they were missing.
pub(super) fn mount_point(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    made: &mut Stubs,
) -> io::Result<OwnedFd> {
    make(
        root,
        path,
        kind,
        &mut |directory, name, kind| made.make(directory, name, kind),
        LINKS_MAX,
    )
}

/// Opens a directory, having made it and its parents where they were missing, for good.
pub(super) fn make_directory(
    root: BorrowedFd<'_>,
    path: &str,
    made: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let mut make_one = |directory: BorrowedFd<'_>, name: &str, _: Kind| {
        rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        made(rustix::fs::openat(directory, name, flags, Mode::empty())?.as_fd())
    };
    make(root, path, Kind::Directory, &mut make_one, LINKS_MAX)
}

type MakeOne<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &str, Kind) -> io::Result<()>;

fn make(
    root: BorrowedFd<'_>,
    path: &str,
    kind: Kind,
    make_one: MakeOne<'_>,
    links_left: u32,
) -> io::Result<OwnedFd> {
    match open_in(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        opened => return Ok(opened?),
    }
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    let parent = if parent.is_empty() { "/" } else { parent };
    let directory = make(root, parent, Kind::Directory, make_one, links_left)?;
    // Nothing can be made there, and a descriptor's name can come into being while it is looked for.
    if rustix::fs::fstatfs(&directory)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
        return Err(Errno::NOENT.into());
    }
    match make_one(directory.as_fd(), name, kind) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        Ok(()) => return Ok(open_in(root, path, OFlags::PATH)?),
    }
    // The name is there and still leads nowhere: a dangling link, whose target is made instead.
    let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
    let target = target.to_str().map_err(|_| io::Error::from(Errno::ILSEQ))?;
    let target = if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("{parent}/{target}")
    };
    match links_left.checked_sub(1) {
        Some(links_left) => make(root, &target, kind, make_one, links_left),
        None => Err(Errno::LOOP.into()),
    }
}

impl Stubs {
    fn make(&mut self, directory: BorrowedFd<'_>, name: &str, kind: Kind) -> io::Result<()> {
        let before = rustix::fs::fstat(directory)?;
        match kind {
            Kind::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?,
            Kind::File => {
                let flags = OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::WRONLY
                    | OFlags::CLOEXEC;
                drop(rustix::fs::openat(
                    directory,
                    name,
                    flags,
                    Mode::from_raw_mode(0o644),
                )?);
            }
        }
        let stub = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let after = changed(&rustix::fs::fstat(directory)?);
        let known = self.directories.iter().position(|(known, _)| {
            rustix::fs::fstat(known)
                .is_ok_and(|known| (known.st_dev, known.st_ino) == (before.st_dev, before.st_ino))
        });
        let index = match known.and_then(|index| Some((index, self.directories.get_mut(index)?))) {
            Some((index, (_, touched))) => {
                touched.after = after;
                index
            }
            None => {
                let touched = TouchedSpec {
                    before: changed(&before),
                    after,
                };
                self.directories
                    .push((rustix::io::fcntl_dupfd_cloexec(directory, 0)?, touched));
                self.directories.len() - 1
            }
        };
        self.stubs.push(StubSpec {
            directory: index,
            name: name.to_owned(),
            inode: stub.st_ino,
            is_directory: kind == Kind::Directory,
        });
        Ok(())
    }

    /// Removes those stubs that are still what was made: empty, and the same inode. A directory that nobody else has
    /// changed gets its time back.
    pub(super) fn remove(&self) {
        let unchanged: Vec<bool> = self
            .directories
            .iter()
            .map(|(directory, touched)| {
                rustix::fs::fstat(directory).is_ok_and(|now| changed(&now) == touched.after)
            })
            .collect();
        for stub in self.stubs.iter().rev() {
            let Some((directory, _)) = self.directories.get(stub.directory) else {
                continue;
            };
            let Ok(now) = rustix::fs::statat(directory, &*stub.name, AtFlags::SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            let kind = FileType::from_raw_mode(now.st_mode);
            let is_ours = now.st_ino == stub.inode;
            // A stub that got content is a file of the step's; a directory that did refuses to be removed.
            if is_ours && stub.is_directory && kind == FileType::Directory {
                rustix::fs::unlinkat(directory, &*stub.name, AtFlags::REMOVEDIR).ok();
            } else if is_ours
                && !stub.is_directory
                && kind == FileType::RegularFile
                && now.st_size == 0
            {
                rustix::fs::unlinkat(directory, &*stub.name, AtFlags::empty()).ok();
            }
        }
        for ((directory, touched), unchanged) in self.directories.iter().zip(unchanged) {
            if unchanged {
                let (tv_sec, tv_nsec) = touched.before;
                let times = Timestamps {
                    last_access: Timespec {
                        tv_sec: 0,
                        tv_nsec: UTIME_OMIT,
                    },
                    last_modification: Timespec { tv_sec, tv_nsec },
                };
                rustix::fs::utimensat(directory, c".", &times, AtFlags::empty()).ok();
            }
        }
    }
}

fn changed(stat: &Stat) -> (i64, i64) {
    (
        stat.st_mtime,
        i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    )
}

/// Opens a path of this machine without following a link at its end.
pub(super) fn open_host(path: &str) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        CWD,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn root(name: &str) -> std::path::PathBuf {
        let root =
            std::env::temp_dir().join(format!("shmocker-stub-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(root.join("etc")).unwrap();
        root
    }

    #[test]
    fn stubs_are_made_behind_dangling_links_and_go_again_without_a_trace() {
        let path = root("trace");
        symlink("../run/resolve/stub.conf", path.join("etc/resolv.conf")).unwrap();
        let directory = fs::File::open(&path).unwrap();
        let old = fs::metadata(path.join("etc")).unwrap();
        let mut stubs = Stubs::default();
        mount_point(
            directory.as_fd(),
            "/etc/resolv.conf",
            Kind::File,
            &mut stubs,
        )
        .unwrap();
        mount_point(directory.as_fd(), "/etc/hosts", Kind::File, &mut stubs).unwrap();
        mount_point(
            directory.as_fd(),
            "/a/../../b/c",
            Kind::Directory,
            &mut stubs,
        )
        .unwrap_err();
        mount_point(directory.as_fd(), "/../b/c", Kind::Directory, &mut stubs).unwrap();
        assert!(path.join("run/resolve/stub.conf").is_file());
        assert!(path.join("b/c").is_dir());
        stubs.remove();
        let mut left: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["etc"]);
        assert_eq!(fs::read_dir(path.join("etc")).unwrap().count(), 1);
        let new = fs::metadata(path.join("etc")).unwrap();
        assert_eq!(
            (new.mtime(), new.mtime_nsec()),
            (old.mtime(), old.mtime_nsec())
        );
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_the_step_put_in_a_stubs_place_stays() {
        let path = root("place");
        let directory = fs::File::open(&path).unwrap();
        let mut stubs = Stubs::default();
        for name in ["/x/y", "/etc/written", "/etc/replaced"] {
            mount_point(directory.as_fd(), name, Kind::File, &mut stubs).unwrap();
        }
        fs::write(path.join("victim"), "").unwrap();
        fs::rename(path.join("x"), path.join("moved")).unwrap();
        symlink(&path, path.join("x")).unwrap();
        fs::write(path.join("y"), "").unwrap();
        fs::write(path.join("etc/written"), "content").unwrap();
        fs::remove_file(path.join("etc/replaced")).unwrap();
        symlink("../victim", path.join("etc/replaced")).unwrap();
        stubs.remove();
        for kept in ["y", "victim", "etc/written", "x"] {
            assert!(path.join(kept).exists(), "{kept}");
        }
        assert!(!path.join("moved/y").exists());
        fs::remove_dir_all(path).unwrap();
    }
}
