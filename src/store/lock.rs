//! Locks between processes. A lock is a `flock` on an open file: it dies with its holder, however that ends, so nobody
//! ever asks whether a process with some number is still alive.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Doing, Store, StoreError, name};
use crate::digest::Key;
use crate::sys::dir::{Dir, Metadata};

/// Something held, until this is dropped.
#[derive(Debug)]
pub struct Lease {
    /// The file's name in `locks/`, taken away on release; `None` where the thing locked is the file itself.
    file: Option<(Dir, String)>,
    fd: OwnedFd,
}

impl Lease {
    /// A lock that is held on something which is not in `locks/`.
    pub(super) fn of(fd: OwnedFd) -> Self {
        Self { file: None, fd }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((locks, name)) = &self.file {
            // Still locked here: whoever waits finds that the name is gone, and makes it anew.
            drop(locks.remove_file(name));
        }
        // An fd of a child process that is just being started, or of another part of this one, may outlive ours.
        let _ = rustix::fs::flock(&self.fd, FlockOperation::Unlock);
    }
}

impl Store {
    /// Waits until nobody else holds `name`, and holds it.
    pub fn lock(&self, name: &str) -> Result<Lease, StoreError> {
        loop {
            if let Some(lease) = self.lock_by(name, FlockOperation::LockExclusive)? {
                return Ok(lease);
            }
        }
    }

    /// Holds `name` if nobody else does.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        self.lock_by(name, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_by(&self, name: &str, operation: FlockOperation) -> Result<Option<Lease>, StoreError> {
        let file = name::file_name(name);
        let locks = &self.inner.locks;
        let attempt = || -> io::Result<Option<Lease>> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(locks, file.as_str(), flags, Mode::RUSR | Mode::WUSR)?;
            if !flock(&fd, operation)? || !is_still(locks, file.as_ref(), &fd)? {
                return Ok(None);
            }
            Ok(Some(Lease {
                file: Some((locks.try_clone()?, file.clone())),
                fd,
            }))
        };
        attempt().doing("take a lock", self.path().join("locks").join(&file))
    }

    /// Keeps a published snapshot from being deleted. `None`: it is not there, or has just been deleted.
    pub fn lease_snapshot(&self, id: &Key) -> Result<Option<Lease>, StoreError> {
        let name = id.to_string();
        let snapshots = &self.inner.snapshots;
        let attempt = || -> io::Result<Option<Lease>> {
            let fd = match snapshots.open_dir(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => OwnedFd::from(opened?),
            };
            let held =
                flock(&fd, FlockOperation::LockShared)? && is_still(snapshots, name.as_ref(), &fd)?;
            Ok(held.then_some(Lease { file: None, fd }))
        };
        attempt().doing("hold a snapshot", self.snapshot_path(id))
    }
}

/// Takes a lock on an open file; false where another one has it.
pub(super) fn flock(fd: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    loop {
        return match rustix::fs::flock(&fd, operation) {
            Ok(()) => Ok(true),
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        };
    }
}

/// Whether the name in the directory is still that of the open file.
pub(super) fn is_still(dir: &Dir, name: &OsStr, fd: impl AsFd) -> io::Result<bool> {
    let open = Metadata::of_open(fd)?;
    Ok(dir
        .find(name)?
        .is_some_and(|named| (named.dev, named.ino) == (open.dev, open.ino)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_name_is_held_by_one_at_a_time() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let held = store.lock("step abc/def").unwrap();
        assert!(store.try_lock("step abc/def").unwrap().is_none());
        assert!(store.try_lock("another").unwrap().is_some());
        let waits = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| store.lock("step abc/def").is_ok());
            std::thread::sleep(std::time::Duration::from_millis(20));
            drop(held);
            waiting.join().unwrap()
        });
        assert!(waits);
        assert_eq!(
            std::fs::read_dir(dir.path().join("locks")).unwrap().count(),
            0
        );
    }

    #[test]
    fn many_who_want_a_lock_never_have_it_together() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lease = store.lock("x").unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lease);
                    }
                });
            }
        });
    }
}
