//! Habitats that run, or have run. What one has written over its image is kept until it is taken down, whatever ends it.
//!
//! ```text
//! habitats/<id>/   record.json   what it is; swapped whole
//!                  lock          held by its supervisor for as long as that lives
//!                  socket        where the supervisor listens
//!                  started       not empty as soon as it is in order
//!                  log           what it has printed since it was started
//!                  below         the snapshots that its files lie upon
//!                  fs/ work/     its files, over the image's
//! ```
//! Whether one runs is never told by a number of a process: it runs as long as its lock is held.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::lock::{flock, is_still};
use super::{Doing, Store, StoreError, TmpDir};
use crate::digest::{Digest, Key};
use crate::sys::dir::Dir;

/// The directory of the store that they are in.
const HABITATS: &str = "habitats";
const RECORD: &str = "record.json";
const LOCK: &str = "lock";
const STARTED: &str = "started";
const BELOW: &str = "below";

/// The place of a habitat that runs or has run.
#[derive(Debug)]
pub struct Instance {
    store: Store,
    all: Dir,
    dir: Dir,
    id: String,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// What it is called in the store: its name, and a part of its configuration's digest.
    pub id: String,
    /// The habitat's name.
    pub name: String,
    /// Its configuration, absolute.
    pub config: PathBuf,
    /// The image's name.
    pub image: String,
    /// Its manifest.
    pub digest: Digest,
    /// The environment that its commands get.
    pub env: Vec<(String, String)>,
    /// Where they start.
    pub workdir: String,
    /// Who runs them.
    pub user: String,
    /// What `exec` runs where it is given no command.
    pub command: Vec<String>,
    /// Ports of it that are published.
    pub ports: Vec<String>,
    /// What is mounted in it: `SRC:DST[:ro]`.
    pub volumes: Vec<String>,
    /// Its services.
    pub services: Vec<String>,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// What has become of it, as its supervisor said last.
    pub last: LastState,
}

/// What a supervisor says of its habitat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastState {
    /// It is being started.
    Starting,
    /// It is in order.
    Running,
    /// It has ended.
    Ended {
        /// The status of its command; `None` where it was stopped.
        status: Option<i32>,
    },
}

/// The right to say what becomes of a habitat: held by whoever starts it, its supervisor, or who takes it down.
#[derive(Debug)]
pub struct Hold(OwnedFd);

impl From<Hold> for OwnedFd {
    /// For another process; the hold lasts as long as any copy of the file.
    fn from(hold: Hold) -> Self {
        hold.0
    }
}

impl Store {
    /// The place of a habitat, made if it is not there.
    pub fn instance(&self, id: &str) -> Result<Instance, StoreError> {
        let make = || -> io::Result<(Dir, Dir)> {
            let all = self.top().ensure_dir(HABITATS, 0o700)?;
            let dir = all.ensure_dir(id, 0o700)?;
            Ok((all, dir))
        };
        let (all, dir) = make().doing("make a place for a habitat", self.path().join(HABITATS))?;
        Ok(Instance {
            store: self.clone(),
            all,
            dir,
            id: id.to_owned(),
        })
    }

    /// All habitats that run or have run, by their ids.
    pub fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        let path = self.path().join(HABITATS);
        let all = match self.top().open_dir(HABITATS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.doing("list the habitats", &path)?,
        };
        let mut ids: Vec<String> = all
            .entries()
            .doing("list the habitats", &path)?
            .iter()
            .filter_map(|entry| entry.name.to_str().map(str::to_owned))
            .collect();
        ids.sort();
        ids.iter().map(|id| self.instance(id)).collect()
    }
}

impl Instance {
    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.path().join(HABITATS).join(&self.id)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// What it is; `None` if that was never written.
    pub fn record(&self) -> Result<Option<InstanceRecord>, StoreError> {
        let text = match self.dir.open_file(RECORD) {
            Ok(file) => io::read_to_string(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        };
        let text = text.doing("read the record of a habitat", self.path())?;
        Ok(serde_json::from_str(&text).ok())
    }

    /// Says what it is.
    pub fn put_record(&self, record: &InstanceRecord) -> Result<(), StoreError> {
        let tmp = self.store.tmp_file()?;
        let write = || {
            let text = serde_json::to_vec(record)?;
            tmp.file().write_all(&text)
        };
        write().doing("write the record of a habitat", self.path())?;
        tmp.publish_over(&self.dir, RECORD)
            .doing("write the record of a habitat", self.path())
    }

    /// Holds it, if nobody else does.
    pub fn hold(&self) -> Result<Option<Hold>, StoreError> {
        /// Whoever only looks whether it is held holds it for a moment.
        const TRIES: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(5);
        for _ in 0..TRIES {
            let lock = self.lock_file()?;
            let held = flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .doing("hold a habitat", self.path())?;
            // It may have been taken down meanwhile, and another one be in its place.
            if held
                && is_still(&self.dir, LOCK.as_ref(), &lock).doing("hold a habitat", self.path())?
            {
                return Ok(Some(Hold(lock)));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }

    /// Whether someone holds it: it is being started, runs, or is being taken down.
    pub fn is_held(&self) -> Result<bool, StoreError> {
        let lock = self.lock_file()?;
        let free = flock(&lock, FlockOperation::NonBlockingLockShared);
        Ok(!free.doing("look at a habitat", self.path())?)
    }

    fn lock_file(&self) -> Result<OwnedFd, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, LOCK, flags, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .doing("open the lock of a habitat", self.path())
    }

    /// An empty file in which the habitat itself, whoever its user is, says that it is in order.
    pub fn mark(&self) -> Result<File, StoreError> {
        let make = || -> io::Result<File> {
            if self.dir.find(STARTED)?.is_some() {
                self.dir.remove_file(STARTED)?;
            }
            let file = self.dir.create_file(STARTED, 0o666)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o666))?;
            Ok(file)
        };
        make().doing("make a file", self.path().join(STARTED))
    }

    /// Whether it has said so.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.dir
            .open_file(STARTED)
            .and_then(|file| file.metadata())
            .is_ok_and(|about| about.len() > 0)
    }

    /// A new, empty log.
    pub fn new_log(&self) -> Result<File, StoreError> {
        let path = self.log_path();
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let open = || {
            let file = options.open(&path)?;
            file.set_len(0)?;
            Ok(file)
        };
        open().doing("make a log", &path)
    }

    /// Where its log is.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path().join("log")
    }

    /// The snapshots that its files lie upon; `None` if it has no files yet.
    pub fn below(&self) -> Result<Option<Vec<Key>>, StoreError> {
        let text = match self.dir.open_file(BELOW) {
            Ok(file) => io::read_to_string(file).doing("read a habitat's layers", self.path())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(StoreError::io(
                    "read a habitat's layers",
                    self.path(),
                    error,
                ));
            }
        };
        Ok(text.lines().map(|line| line.parse().ok()).collect())
    }

    /// Says which snapshots its files lie upon.
    pub fn put_below(&self, layers: &[Key]) -> Result<(), StoreError> {
        let text: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
        let tmp = self.store.tmp_file()?;
        tmp.file()
            .write_all(text.as_bytes())
            .and_then(|()| tmp.publish_over(&self.dir, BELOW))
            .doing("write a habitat's layers", self.path())
    }

    /// The directory as one to put a tree together in, which is kept.
    pub fn workplace(&self) -> Result<TmpDir, StoreError> {
        TmpDir::kept(&self.all, &self.id, self.path())
            .doing("open the place of a habitat", self.path())
    }

    /// Deletes it with all that it has written: only the engine child may do that. Whoever does it holds it.
    pub fn remove(self) -> Result<(), StoreError> {
        let path = self.path();
        self.all
            .remove_tree(&self.id)
            .doing("delete a habitat's files", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn it_is_held_by_one_and_by_whoever_got_the_file() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let instance = store.instance("app-1").unwrap();
        assert!(!instance.is_held().unwrap());
        let hold = instance.hold().unwrap().unwrap();
        assert!(instance.is_held().unwrap() && instance.hold().unwrap().is_none());
        let given = OwnedFd::from(hold).try_clone().unwrap();
        assert!(instance.is_held().unwrap());
        drop(given);
        // Nobody may unlock what was given away, so a child that another test starts just now holds it until it runs.
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while instance.is_held().unwrap() {
            assert!(std::time::Instant::now() < patience, "it is still held");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_was_taken_down_is_gone_and_can_be_made_anew() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let instance = store.instance("app-1").unwrap();
        let _hold = instance.hold().unwrap();
        instance.put_below(&[Key::of(b"x")]).unwrap();
        assert_eq!(instance.below().unwrap(), Some(vec![Key::of(b"x")]));
        instance.remove().unwrap();
        assert!(store.instances().unwrap().is_empty());
        assert_eq!(store.instance("app-1").unwrap().below().unwrap(), None);
        assert_eq!(store.instances().unwrap().len(), 1);
    }

    #[test]
    fn a_mark_is_empty_until_it_is_written_to() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let instance = store.instance("app-1").unwrap();
        let mut mark = instance.mark().unwrap();
        assert!(!instance.has_started());
        mark.write_all(b"started\n").unwrap();
        assert!(instance.has_started());
        instance.mark().unwrap();
        assert!(!instance.has_started());
    }
}
