//! What is being made. An entry of `tmp/` is locked by whoever makes it; what nobody holds is left over from a process
//! that died, and may be swept by anyone. Names carry the boot's id and the process id for people to read; only the lock
//! counts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::lock::{Lease, flock, is_still};
use super::{Doing, Store, StoreError};
use crate::sys::dir::{Dir, Kind};

/// A directory of `tmp/`, deleted when dropped; or one elsewhere, which is kept.
#[derive(Debug)]
pub struct TmpDir {
    parent: Dir,
    path: PathBuf,
    name: String,
    dir: Dir,
    kept: bool,
}

/// A file of `tmp/`, deleted when dropped.
#[derive(Debug)]
pub struct TmpFile {
    store: Store,
    name: String,
    file: File,
    kept: bool,
}

/// What a sweep of `tmp/` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries that were left over, and are gone.
    pub removed: u32,
    /// Entries that someone is working on.
    pub in_use: u32,
    /// Entries that are left over, and hold what this process may not delete.
    pub refused: u32,
}

impl Store {
    /// Makes a directory in `tmp/`, mode 0700.
    pub fn tmp_dir(&self) -> Result<TmpDir, StoreError> {
        let attempt = || {
            let mut swept_away = 0;
            loop {
                let name = new_name()?;
                let dir = match self.inner.tmp.create_dir(&name, 0o700) {
                    // Another process swept it away before it could be opened. More often than so, `tmp/` itself is gone.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && swept_away < 100 => {
                        swept_away += 1;
                        continue;
                    }
                    made => made?,
                };
                if hold(&self.inner.tmp, &name, &dir)? {
                    return Ok(TmpDir {
                        parent: self.inner.tmp.try_clone()?,
                        path: self.path().join("tmp").join(&name),
                        name,
                        dir,
                        kept: false,
                    });
                }
            }
        };
        attempt().doing("make a temporary directory", self.path().join("tmp"))
    }

    /// Makes a file in `tmp/`, mode 0600.
    pub fn tmp_file(&self) -> Result<TmpFile, StoreError> {
        let attempt = || loop {
            let name = new_name()?;
            let file = self.inner.tmp.create_file(&name, 0o600)?;
            if hold(&self.inner.tmp, &name, &file)? {
                return Ok(TmpFile {
                    store: self.clone(),
                    name,
                    file,
                    kept: false,
                });
            }
        };
        attempt().doing("make a temporary file", self.path().join("tmp"))
    }

    /// Deletes what processes that are no more have left in `tmp/`. Trees with foreign owners can be deleted only by a
    /// process with ids for them: the engine child. For others they count as refused, and stay.
    pub fn sweep_tmp(&self) -> Result<Swept, StoreError> {
        let path = self.path().join("tmp");
        let tmp = &self.inner.tmp;
        let mut swept = Swept::default();
        for entry in tmp.entries().doing("list what is left over", &path)? {
            let opened = match entry.kind {
                Some(Kind::Dir) => tmp.open_dir(&entry.name).map(OwnedFd::from),
                _ => tmp.open_file(&entry.name).map(OwnedFd::from),
            };
            let free = match &opened {
                Ok(fd) => flock(fd, FlockOperation::NonBlockingLockExclusive)
                    .doing("look at what is left over", &path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                // Nothing that is being made looks so.
                Err(_) => true,
            };
            if !free {
                swept.in_use += 1;
            } else if tmp.remove_tree(&entry.name).is_ok() {
                swept.removed += 1;
            } else {
                swept.refused += 1;
            }
        }
        Ok(swept)
    }
}

/// Locks what was just made; false if a sweep was quicker.
fn hold(tmp: &Dir, name: &str, fd: impl AsFd) -> io::Result<bool> {
    Ok(flock(&fd, FlockOperation::NonBlockingLockExclusive)? && is_still(tmp, name.as_ref(), &fd)?)
}

/// A name that nobody else gives, in whatever namespace they run.
pub(super) fn new_name() -> io::Result<String> {
    static BOOT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.get(..8).unwrap_or("unknown").to_owned()
    });
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let pid = rustix::process::getpid().as_raw_nonzero();
    Ok(format!("{boot}-{pid}-{:016x}", u64::from_le_bytes(random)))
}

impl TmpDir {
    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// A directory that is there already and stays: what is made in it is kept, whatever ends this process.
    pub(super) fn kept(parent: &Dir, name: &str, path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            parent: parent.try_clone()?,
            path,
            name: name.to_owned(),
            dir: parent.open_dir(name)?,
            kept: true,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Moves it to its place and keeps it from being deleted there; it comes back if something is there already. What is
    /// in it must be synced before.
    pub(super) fn publish(mut self, to: &Dir, name: &str) -> io::Result<Result<Lease, Self>> {
        match self.parent.rename_new(&self.name, to, name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Err(self)),
            moved => moved?,
        }
        self.kept = true;
        // The lock that kept it from being swept becomes one that others can share.
        flock(&self.dir, FlockOperation::LockShared)?;
        Ok(Ok(Lease::of(self.dir.try_clone()?.into())))
    }
}

impl Drop for TmpDir {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be deleted now is swept another time.
            drop(self.parent.remove_tree(&self.name));
        }
    }
}

impl TmpFile {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.path().join("tmp").join(&self.name)
    }

    /// Syncs it and moves it to its place, where nothing may be yet (`EEXIST`), and syncs the directory.
    pub(crate) fn publish_new(mut self, to: &Dir, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        self.store.inner.tmp.rename_new(&self.name, to, name)?;
        self.kept = true;
        to.sync()
    }

    /// Syncs it and moves it to its place, instead of what may be there, and syncs the directory.
    pub(crate) fn publish_over(mut self, to: &Dir, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        self.store.inner.tmp.rename(&self.name, to, name)?;
        self.kept = true;
        to.sync()
    }
}

impl Drop for TmpFile {
    fn drop(&mut self) {
        if !self.kept {
            drop(self.store.inner.tmp.remove_file(&self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let held = store.tmp_dir().unwrap();
        let file = store.tmp_file().unwrap();
        std::fs::create_dir_all(dir.path().join("tmp/0badcafe-1-0/deep/er")).unwrap();
        std::fs::write(dir.path().join("tmp/0badcafe-1-1"), "left over").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("tmp/link")).unwrap();
        assert_eq!(
            store.sweep_tmp().unwrap(),
            Swept {
                removed: 3,
                in_use: 2,
                refused: 0
            }
        );
        assert!(held.path().is_dir() && file.path().is_file());
        drop((held, file));
        assert_eq!(
            std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
            0
        );
        assert!(std::path::Path::new("/etc/passwd").exists());
    }

    #[test]
    fn a_directory_is_made_while_others_sweep() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let other = Store::open(dir.path()).unwrap();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    other.sweep_tmp().unwrap();
                }
            });
            let made: Vec<_> = (0..500).map(|_| store.tmp_dir()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for held in made {
                assert!(held.unwrap().path().is_dir());
            }
        });
    }
}
