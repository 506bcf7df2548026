//! What was built here: one line a build, and what its steps have printed.
//!
//! ```text
//! history/builds.jsonl    a record a line, the newest last; appended to, and now and then written anew without the oldest
//! history/<id>.log        what the steps that ran have printed, up to some length
//! ```
//! Nothing is synced: what a power loss takes is news of yesterday. Whoever appends holds the file shared, whoever writes it
//! anew exclusively.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::lock::{flock, is_still};
use super::uses::ms;
use super::{Doing, StoreError};
use crate::digest::Digest;
use crate::event::Status;
use crate::sys::dir::{Dir, Metadata};

const HISTORY: &str = "history";
const BUILDS: &str = "builds.jsonl";
/// How many builds are remembered.
const RECORDS_MAX: usize = 500;
/// How long the file may get before the oldest are dropped.
const FILE_BYTES_MAX: u64 = 2 << 20;
/// How much of what the steps of one build print is kept.
const LOG_BYTES_MAX: usize = 1 << 20;
/// How long the log of a build is kept of which nobody knows how it ended.
const UNKNOWN_KEPT_MS: u64 = 24 * 3_600_000;
/// What the logs may take together.
const LOGS_BYTES_MAX: u64 = 64 << 20;

/// A build that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Names it.
    pub id: String,
    /// The Dockerfile's or habitat's path, or what stands for it.
    pub project: String,
    /// The stage that was built; `None`: the last.
    pub target: Option<String>,
    /// The names that its image got.
    pub names: Vec<String>,
    /// How it ended.
    pub status: Status,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Steps that were run.
    pub steps_run: u32,
    /// Steps whose results were there.
    pub steps_cached: u32,
    /// The steps that were run, as far as they are few enough.
    pub ran: Vec<StepRecord>,
    /// Its image.
    pub digest: Option<Digest>,
    /// What went wrong.
    pub errors: Vec<String>,
    /// Whether there is a log.
    pub has_log: bool,
}

/// A step that was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its stage.
    pub stage: String,
    /// The beginning of the instruction.
    pub name: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether it failed.
    pub failed: bool,
}

/// The builds of a store.
#[derive(Debug, Clone)]
pub struct History {
    path: PathBuf,
}

/// What the steps of a build print, on its way into a file.
#[derive(Debug)]
pub struct BuildLog {
    file: BufWriter<File>,
    left: usize,
}

impl History {
    /// That of the store in a directory, which need not have been opened.
    #[must_use]
    pub fn of(store: &Path) -> Self {
        Self {
            path: store.join(HISTORY),
        }
    }

    /// A name that no other build has.
    pub fn new_id() -> Result<String, StoreError> {
        let mut random = [0; 6];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(io::Error::from)
            .doing("name a build", "")?;
        Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Begins the log of a build.
    pub fn new_log(&self, id: &str) -> Result<BuildLog, StoreError> {
        let make = || -> io::Result<BuildLog> {
            let file = self.open()?.create_file(format!("{id}.log"), 0o600)?;
            Ok(BuildLog {
                file: BufWriter::new(file),
                left: LOG_BYTES_MAX,
            })
        };
        make().doing("begin the log of a build", &self.path)
    }

    /// Remembers a build.
    pub fn append(&self, record: &BuildRecord) -> Result<(), StoreError> {
        let append = || -> io::Result<u64> {
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            let dir = self.open()?;
            loop {
                let mut file = self.hold(&dir, FlockOperation::LockShared)?;
                if !is_still(&dir, BUILDS.as_ref(), &file)? {
                    continue;
                }
                file.write_all(&line)?;
                return Ok(Metadata::of_open(&file)?.size);
            }
        };
        let size = append().doing("remember a build", &self.path)?;
        if size > FILE_BYTES_MAX {
            self.keep(|_| true)?;
        }
        Ok(())
    }

    /// All builds that are remembered, the newest first.
    pub fn all(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let read = || -> io::Result<Vec<BuildRecord>> {
            let text = match self.open().and_then(|dir| dir.open_file(BUILDS)) {
                Ok(file) => io::read_to_string(file)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(error),
            };
            // What was cut short, or is of another version, is no news any more.
            let mut records: Vec<BuildRecord> = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            records.reverse();
            Ok(records)
        };
        read().doing("look up builds", &self.path)
    }

    /// What the steps of a build have printed; `None`: nothing of it was kept.
    pub fn log(&self, id: &str) -> Result<Option<String>, StoreError> {
        let read = || match self.open()?.open_file(format!("{id}.log")) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut file, &mut bytes)?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        read().doing("read the log of a build", &self.path)
    }

    /// Forgets all builds but those that are to be kept, and of those the oldest beyond some; and logs that are too much.
    pub fn keep(&self, is_kept: impl Fn(&BuildRecord) -> bool) -> Result<(), StoreError> {
        let rewrite = || -> io::Result<()> {
            let dir = self.open()?;
            let file = loop {
                let file = self.hold(&dir, FlockOperation::LockExclusive)?;
                if is_still(&dir, BUILDS.as_ref(), &file)? {
                    break file;
                }
            };
            let mut kept = self.all().map_err(io::Error::other)?;
            let known: HashSet<String> = kept.iter().map(|record| record.id.clone()).collect();
            kept.retain(is_kept);
            kept.truncate(RECORDS_MAX);
            let mut logs: HashMap<String, Metadata> = HashMap::new();
            for entry in dir.entries()? {
                if let Some(id) = entry
                    .name
                    .to_str()
                    .and_then(|name| name.strip_suffix(".log"))
                    && let Some(seen) = dir.find(&entry.name)?
                {
                    logs.insert(id.to_owned(), seen);
                }
            }
            let newest_ms = logs
                .values()
                .map(|seen| ms(seen.modified))
                .max()
                .unwrap_or(0);
            let mut left = LOGS_BYTES_MAX;
            for record in &mut kept {
                let size = logs.get(&record.id).map(|seen| seen.disk_bytes);
                record.has_log = size.is_some_and(|size| size <= left);
                if let (Some(size), true) = (size, record.has_log) {
                    left -= size;
                    logs.remove(&record.id);
                }
            }
            for (id, seen) in logs {
                // That of a build which is not over is not known yet; one that was killed never will be.
                let is_new = ms(seen.modified) + UNKNOWN_KEPT_MS > newest_ms;
                if known.contains(&id) || !is_new {
                    dir.remove_file(format!("{id}.log"))?;
                }
            }
            let unfinished = format!("{BUILDS}.{}", super::tmp::new_name()?);
            let mut text = Vec::new();
            for record in kept.iter().rev() {
                serde_json::to_writer(&mut text, record)?;
                text.push(b'\n');
            }
            dir.create_file(&unfinished, 0o600)?.write_all(&text)?;
            dir.rename(&unfinished, &dir, BUILDS)?;
            drop(file);
            Ok(())
        };
        rewrite().doing("forget builds", &self.path)
    }

    fn open(&self) -> io::Result<Dir> {
        match Dir::open_trusted(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let store = Dir::open_trusted(self.path.parent().unwrap_or(&self.path))?;
                // A directory that is no store stays as it is.
                store.metadata("version")?;
                store.ensure_dir(HISTORY, 0o700)
            }
            opened => opened,
        }
    }

    fn hold(&self, dir: &Dir, operation: FlockOperation) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, BUILDS, flags, Mode::RUSR | Mode::WUSR)?;
        flock(&fd, operation)?;
        Ok(fd.into())
    }
}

impl BuildLog {
    /// Adds a line. What is too much is left away, which the log says.
    pub fn line(&mut self, line: &str) {
        if self.left == 0 {
            return;
        }
        let written = if line.len() < self.left {
            self.left -= line.len() + 1;
            writeln!(self.file, "{line}")
        } else {
            self.left = 0;
            writeln!(self.file, "… what was printed after this was not kept")
        };
        // A log that cannot be written is no reason for a build to fail.
        drop(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::sys::file::tempdir::TempDir;

    fn record(id: &str, has_log: bool) -> BuildRecord {
        BuildRecord {
            id: id.to_owned(),
            project: "/p/Dockerfile".to_owned(),
            target: None,
            names: vec!["app:latest".to_owned()],
            status: Status::Ok,
            started_ms: 7,
            duration_ms: 8,
            steps_run: 1,
            steps_cached: 2,
            ran: Vec::new(),
            digest: None,
            errors: Vec::new(),
            has_log,
        }
    }

    #[test]
    fn builds_are_remembered_newest_first_and_forgotten() {
        let dir = TempDir::new();
        Store::open(dir.path()).unwrap();
        let history = History::of(dir.path());
        assert!(history.all().unwrap().is_empty());
        let elsewhere = TempDir::new();
        assert!(
            History::of(elsewhere.path())
                .append(&record("x", false))
                .is_err()
        );
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        let mut log = history.new_log("a").unwrap();
        log.line("#1 hello");
        drop(log);
        history.append(&record("a", true)).unwrap();
        history.append(&record("b", false)).unwrap();
        // What a full disk has cut short is no build.
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("history/builds.jsonl"))
            .and_then(|mut file| file.write_all(b"{\"id\": \"c\", \n"))
            .unwrap();
        let ids = |history: &History| -> Vec<String> {
            history
                .all()
                .unwrap()
                .into_iter()
                .map(|record| record.id)
                .collect()
        };
        assert_eq!(ids(&history), ["b", "a"]);
        assert_eq!(history.log("a").unwrap().unwrap(), "#1 hello\n");
        assert_eq!(history.log("b").unwrap(), None);
        history.keep(|record| record.id != "a").unwrap();
        assert_eq!(ids(&history), ["b"]);
        assert_eq!(history.log("a").unwrap(), None);
    }

    #[test]
    fn many_append_and_forget_at_once() {
        let dir = TempDir::new();
        Store::open(dir.path()).unwrap();
        let history = History::of(dir.path());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let history = &history;
                scope.spawn(move || {
                    for number in 0..50 {
                        history
                            .append(&record(&format!("{thread}-{number}"), false))
                            .unwrap();
                        if number % 10 == 0 {
                            history.keep(|_| true).unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(history.all().unwrap().len(), 200);
    }

    #[test]
    fn only_so_many_builds_and_so_long_a_log_are_kept() {
        let dir = TempDir::new();
        Store::open(dir.path()).unwrap();
        let history = History::of(dir.path());
        for number in 0..RECORDS_MAX + 10 {
            history.append(&record(&number.to_string(), false)).unwrap();
        }
        history.keep(|_| true).unwrap();
        let all = history.all().unwrap();
        assert_eq!((all.len(), all[0].id.as_str()), (RECORDS_MAX, "509"));
        let mut log = history.new_log("x").unwrap();
        let line = "y".repeat(1000);
        (0..2000).for_each(|_| log.line(&line));
        drop(log);
        let kept = history.log("x").unwrap().unwrap();
        assert!(kept.len() < LOG_BYTES_MAX + 100);
        assert!(kept.ends_with("not kept\n"));
    }
}
