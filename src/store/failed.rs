//! What failed steps have left. The last one of each project is kept as it was, so that a person can look around in it,
//! until that project is built again, or has not been for some days.
//!
//! ```text
//! failed/<digest of the project>/   failed.json   which step it was
//!                                   fs/           what it had written, over the trees below
//! ```
//! Who uses one holds its directory's lock.

use std::io::{self, Write as _};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::lock::{Lease, flock};
use super::{Doing, Store, StoreError, TmpDir};
use crate::digest::Key;
use crate::sys::dir::Dir;

const FAILED: &str = "failed";
/// Not the name of a snapshot's record: what is accepted becomes a snapshot.
const RECORD: &str = "failed.json";
/// How long one is kept that nobody comes back to.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// The project that it belongs to.
    pub project: String,
    /// Its id in the build.
    pub step: String,
    /// The key that its result would have had.
    pub key: Key,
    /// The snapshots that it ran on, bottom first.
    pub below: Vec<Key>,
    /// When it failed, in milliseconds since 1970.
    pub failed_ms: u64,
}

impl Store {
    fn failed_dir(&self) -> Result<Dir, StoreError> {
        self.top()
            .ensure_dir(FAILED, 0o700)
            .doing("open what failed steps have left", self.path().join(FAILED))
    }

    /// Keeps what a failed step has left, unless another one of this build is kept already, or somebody still looks at the
    /// one before.
    pub fn keep_failed(&self, left: TmpDir, step: &FailedStep) -> Result<(), StoreError> {
        let path = left.path();
        let write = || {
            let mut file = left.dir().create_file(RECORD, 0o600)?;
            file.write_all(&serde_json::to_vec(step)?)
        };
        write().doing("describe a failed step", &path)?;
        let kept = left.publish(&self.failed_dir()?, &name_of(&step.project));
        kept.map(drop)
            .doing("keep what a failed step has left", &path)
    }

    /// What the last failed step of a project has left, to be used by one at a time. `None`: nothing, or somebody uses it.
    pub fn failed(&self, project: &str) -> Result<Option<(FailedStep, TmpDir, Lease)>, StoreError> {
        let all = self.failed_dir()?;
        let name = name_of(project);
        let path = self.path().join(FAILED).join(&name);
        let open = || -> io::Result<Option<(FailedStep, TmpDir, Lease)>> {
            let Some(step) = read(&all, &name)? else {
                return Ok(None);
            };
            let dir = all.open_dir(&name)?;
            if !flock(&dir, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(None);
            }
            let place = TmpDir::kept(&all, &name, path.clone())?;
            Ok(Some((step, place, Lease::of(dir.into()))))
        };
        open().doing("open what a failed step has left", &path)
    }

    /// Deletes what the last failed step of a project has left, and what is too old, unless somebody uses it: only the
    /// engine child may do that.
    pub fn forget_failed(&self, project: &str, now_ms: u64) -> Result<(), StoreError> {
        let path = self.path().join(FAILED);
        let all = self.failed_dir()?;
        let own = name_of(project);
        let forget = || -> io::Result<()> {
            for entry in all.entries()? {
                let Some(name) = entry.name.to_str() else {
                    continue;
                };
                let is_old = || {
                    let step = read(&all, name).ok().flatten();
                    let kept_ms = KEPT.as_millis() as u64;
                    step.is_none_or(|step| step.failed_ms.saturating_add(kept_ms) < now_ms)
                };
                if (name == own || is_old())
                    && flock(
                        all.open_dir(name)?,
                        FlockOperation::NonBlockingLockExclusive,
                    )?
                {
                    all.remove_tree(name)?;
                }
            }
            Ok(())
        };
        forget().doing("delete what failed steps have left", path)
    }
}

fn name_of(project: &str) -> String {
    Key::of(project.as_bytes()).to_string()
}

fn read(all: &Dir, name: &str) -> io::Result<Option<FailedStep>> {
    let text = match all.open_dir(name).and_then(|dir| dir.open_file(RECORD)) {
        Ok(file) => io::read_to_string(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_str(&text).ok())
}

/// Takes the description away from what becomes a snapshot.
pub(crate) fn accept(place: &TmpDir) -> Result<(), StoreError> {
    place
        .dir()
        .remove_file(RECORD)
        .doing("accept what a failed step has left", place.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn the_first_of_a_build_is_kept_until_the_next_or_until_it_is_old() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let step = |project: &str, step: &str| FailedStep {
            project: project.to_owned(),
            step: step.to_owned(),
            key: Key::of(b"k"),
            below: vec![Key::of(b"below")],
            failed_ms: 1000,
        };
        let keep = |project: &str, name: &str| {
            let left = store.tmp_dir().unwrap();
            left.dir().create_dir("fs", 0o755).unwrap();
            store.keep_failed(left, &step(project, name)).unwrap();
        };
        keep("a", "first");
        keep("a", "second");
        keep("b", "other");
        let (found, place, lease) = store.failed("a").unwrap().unwrap();
        assert_eq!(found, step("a", "first"));
        assert!(place.path().join("fs").is_dir());
        assert!(store.failed("a").unwrap().is_none(), "it is in use");
        store.forget_failed("a", 2000).unwrap();
        drop((place, lease));
        assert!(store.failed("a").unwrap().is_some(), "it was in use");
        store.forget_failed("a", 2000).unwrap();
        assert!(store.failed("a").unwrap().is_none());
        assert!(store.failed("b").unwrap().is_some());
        store.forget_failed("a", 8 * 24 * 3600 * 1000).unwrap();
        assert!(store.failed("b").unwrap().is_none(), "it is old");
    }
}
