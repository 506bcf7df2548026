//! A tree that a stranger may have written, opened so that no path leads out of it. [`Root`] resolves paths with
//! `openat2`, or component by component where the kernel or a filter has no `openat2`; what is found is then worked on
//! through [`Dir`], by plain names.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::dir::{Dir, Kind, Metadata};

/// How links that point out of a tree are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// As in a `chroot`: `/` and `..` at the top are the tree's own top. For image trees.
    Image,
    /// A path that leaves the tree is refused with `EXDEV`. For contexts, exports and the store.
    Beneath,
}

/// The number of symbolic links one path may go through, as in the kernel.
const LINKS_MAX: usize = 40;

/// A tree out of which no path leads.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    scope: Scope,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Root {
    /// The tree at an open directory.
    #[must_use]
    pub fn new(fd: OwnedFd, scope: Scope) -> Self {
        Self {
            dir: fd.into(),
            scope,
        }
    }

    /// The tree at a path that the user or shmocker itself named.
    pub fn open_trusted(path: impl AsRef<Path>, scope: Scope) -> io::Result<Self> {
        Ok(Self {
            dir: Dir::open_trusted(path)?,
            scope,
        })
    }

    /// A second handle of the same tree.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            dir: self.dir.try_clone()?,
            scope: self.scope,
        })
    }

    /// Its topmost directory.
    #[must_use]
    pub fn top(&self) -> &Dir {
        &self.dir
    }

    /// Opens a directory by its path; links on the way and at its end are followed.
    pub fn dir(&self, path: impl AsRef<Path>) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(self.open(path.as_ref(), flags)?.into())
    }

    /// Opens a regular file for reading; links on the way and at its end are followed. Anything else is `EINVAL`.
    pub fn file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = self.open(path.as_ref(), flags)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        Ok(File::from(fd))
    }

    /// Pins whatever is at a path (`O_PATH`), links followed: for mounts by fd.
    pub fn pin(&self, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
        self.open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC)
    }

    /// The directory that holds the last component of a path, and that component. Links are followed on the way, not
    /// at the end. `EINVAL` for the top itself and for paths that end in `..`.
    pub fn parent_of(&self, path: impl AsRef<Path>) -> io::Result<(Dir, OsString)> {
        let path = path.as_ref();
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = if parent.as_os_str().is_empty() {
            self.dir.try_clone()?
        } else {
            self.dir(parent)?
        };
        Ok((parent, name))
    }

    /// What `stat` says of what is at a path, links followed only on the way.
    pub fn metadata(&self, path: impl AsRef<Path>) -> io::Result<Metadata> {
        let path = path.as_ref();
        if is_top(path) {
            return self.dir.own_metadata();
        }
        let (parent, name) = self.parent_of(path)?;
        parent.metadata(name)
    }

    /// As [`Root::metadata`], where nothing at that path is no error.
    pub fn find(&self, path: impl AsRef<Path>) -> io::Result<Option<Metadata>> {
        match self.metadata(path) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The path that is meant when every link in `path` is followed inside this tree: relative to its top, without
    /// links, `.` and `..`. Components that do not exist are kept as they are written. A link out of the tree leads to
    /// the same path inside it, whatever the scope.
    pub fn real_path(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut left: VecDeque<OsString> = VecDeque::new();
        push_components(&mut left, path.as_ref());
        let mut real: Vec<OsString> = Vec::new();
        // The open directories that `real` goes through; shorter than it once something is missing.
        let mut open: Vec<Dir> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                real.pop();
                open.truncate(real.len());
                continue;
            }
            if open.len() == real.len() {
                let here = open.last().unwrap_or(&self.dir);
                match here.find(&name)?.map(|found| found.kind) {
                    Some(Kind::Symlink) => {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(Errno::LOOP.into());
                        }
                        let target = here.read_link(&name)?;
                        if target.is_absolute() {
                            real.clear();
                            open.clear();
                        }
                        push_components(&mut left, &target);
                        continue;
                    }
                    Some(Kind::Dir) if !left.is_empty() => {
                        let dir = here.open_dir(&name)?;
                        open.push(dir);
                    }
                    _ => {}
                }
            }
            real.push(name);
        }
        Ok(real.into_iter().collect())
    }

    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        static HAS_OPENAT2: AtomicBool = AtomicBool::new(true);
        let path = if is_top(path) { Path::new(".") } else { path };
        if HAS_OPENAT2.load(Ordering::Relaxed) {
            let (resolve, path) = match self.scope {
                Scope::Image => (ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS, path),
                Scope::Beneath => {
                    let path = path.strip_prefix("/").unwrap_or(path);
                    (ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, path)
                }
            };
            // EAGAIN: something was renamed meanwhile, and the kernel cannot tell whether a `..` got out.
            for _ in 0..64 {
                match rustix::fs::openat2(&self.dir, path, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(Errno::NOSYS) => {
                        HAS_OPENAT2.store(false, Ordering::Relaxed);
                        return self.open_by_component(path, flags);
                    }
                    // A filter of an outer container may say EPERM to what it does not know.
                    Err(Errno::PERM) => return self.open_by_component(path, flags),
                    other => return Ok(other?),
                }
            }
        }
        self.open_by_component(path, flags)
    }

    /// `openat2` for kernels without it: every component is opened by itself and links are read, never followed.
    fn open_by_component(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut left: VecDeque<OsString> = VecDeque::new();
        push_components(&mut left, path);
        let mut open: Vec<Dir> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                if open.pop().is_none() && self.scope == Scope::Beneath {
                    return Err(Errno::XDEV.into());
                }
                continue;
            }
            let here = open.last().unwrap_or(&self.dir);
            let found = here.metadata(&name)?;
            if found.kind == Kind::Symlink {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = here.read_link(&name)?;
                if target.is_absolute() {
                    if self.scope == Scope::Beneath {
                        return Err(Errno::XDEV.into());
                    }
                    open.clear();
                }
                push_components(&mut left, &target);
            } else if left.is_empty() && !found.is_dir() {
                return Ok(rustix::fs::openat(
                    here,
                    &name,
                    flags | OFlags::NOFOLLOW,
                    Mode::empty(),
                )?);
            } else {
                let dir = here.open_dir(&name)?;
                open.push(dir);
            }
        }
        let here = open.last().unwrap_or(&self.dir);
        Ok(rustix::fs::openat(here, c".", flags, Mode::empty())?)
    }
}

/// Whether a path means the top of a tree.
fn is_top(path: &Path) -> bool {
    path.components()
        .all(|component| matches!(component, Component::RootDir | Component::CurDir))
}

/// Puts the components of `path` before those that are left; `..` stays, `.` and `/` go.
fn push_components(left: &mut VecDeque<OsString>, path: &Path) {
    for component in path.as_os_str().as_bytes().rsplit(|byte| *byte == b'/') {
        if !component.is_empty() && component != b"." {
            left.push_front(OsStr::from_bytes(component).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempdir::TempDir {
        let dir = tempdir::TempDir::new();
        std::fs::create_dir_all(dir.path().join("usr/lib/deep")).unwrap();
        std::fs::write(dir.path().join("usr/lib/file"), "inside").unwrap();
        symlink("/usr/lib", dir.path().join("lib")).unwrap();
        symlink("../../../../etc/passwd", dir.path().join("usr/lib/passwd")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        symlink("../nowhere/x", dir.path().join("usr/dangling")).unwrap();
        dir
    }

    use crate::sys::file::tempdir;

    #[test]
    fn absolute_links_stay_inside_an_image_tree_with_and_without_openat2() {
        let dir = tree();
        let root = Root::open_trusted(dir.path(), Scope::Image).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        for open in [Root::open, Root::open_by_component] {
            let fd = open(&root, Path::new("/lib/file"), flags).unwrap();
            assert_eq!(std::io::read_to_string(File::from(fd)).unwrap(), "inside");
            let missing = open(&root, Path::new("lib/passwd"), flags).unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            let endless = open(&root, Path::new("loop"), flags).unwrap_err();
            assert_eq!(endless.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        }
    }

    #[test]
    fn a_context_refuses_links_that_leave_it() {
        let dir = tree();
        let root = Root::open_trusted(dir.path(), Scope::Beneath).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        for open in [Root::open, Root::open_by_component] {
            for path in ["lib/file", "usr/lib/passwd", "../x", "usr/../../x"] {
                let left = open(&root, Path::new(path), flags).unwrap_err();
                assert_eq!(
                    left.raw_os_error(),
                    Some(Errno::XDEV.raw_os_error()),
                    "{path}"
                );
            }
            assert!(open(&root, Path::new("usr/lib/../lib/file"), flags).is_ok());
        }
    }

    #[test]
    fn the_real_path_of_what_is_missing_goes_through_links() {
        let dir = tree();
        let root = Root::open_trusted(dir.path(), Scope::Image).unwrap();
        let real = |path: &str| root.real_path(path).unwrap().to_string_lossy().into_owned();
        assert_eq!(real("/lib/new/file"), "usr/lib/new/file");
        assert_eq!(real("/usr/dangling"), "nowhere/x");
        assert_eq!(real("/usr/dangling/../y"), "nowhere/y");
        assert_eq!(real("/lib/passwd"), "etc/passwd");
        assert_eq!(real("/../../usr/./lib/"), "usr/lib");
        assert_eq!(real("/"), "");
        assert!(root.real_path("/loop/x").is_err());
    }

    #[test]
    fn a_tree_with_closed_directories_is_removed() {
        let dir = tree();
        let top = Dir::open_trusted(dir.path()).unwrap();
        top.open_dir("usr").unwrap().set_mode("lib", 0).unwrap();
        top.remove_tree("usr").unwrap();
        assert!(top.find("usr").unwrap().is_none());
        top.remove_tree("usr").unwrap();
        assert!(top.remove_tree("a/b").is_err());
    }
}
