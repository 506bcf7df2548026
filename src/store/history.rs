//! What was built here: one line a build, and what its steps have printed.
//!
//! ```text
//! history/builds.jsonl    a record a line, the newest last; appended to, and now and then written anew without the oldest
//! history/<id>.log        what the build is, in one line; then what the steps that ran have printed, up to some length
//! history/<hex>.recipe    what the image of that digest was made from
//! ```
//! Nothing is synced: what a power loss takes is news of yesterday. Whoever appends holds the file shared, whoever writes it
//! anew exclusively. Whoever writes a log holds it: one that nobody holds, of a build without a record, is that of a build
//! that was killed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
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
/// What the names of files end with that say what an image was made from.
const RECIPE: &str = ".recipe";
/// How long the first line of a log may be.
const HEAD_BYTES_MAX: u64 = 64 << 10;
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

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BuildEnd {
    /// All that was asked for exists.
    Ok,
    /// Something failed.
    Failed,
    /// It was told to stop.
    Cancelled,
    /// Its process was ended before it could say anything.
    Killed,
    /// It has not.
    Running,
}

impl From<Status> for BuildEnd {
    fn from(status: Status) -> Self {
        match status {
            Status::Ok => Self::Ok,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// A build.
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
    pub status: BuildEnd,
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
    /// Why the steps that were run were run, as whoever built it says it.
    #[serde(default)]
    pub reasons: Vec<serde_json::Value>,
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
    file: File,
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

    /// Begins the log of a build of which so much is known.
    pub fn new_log(&self, record: &BuildRecord) -> Result<BuildLog, StoreError> {
        let make = || -> io::Result<BuildLog> {
            let mut file = self
                .open()?
                .create_file(format!("{}.log", record.id), 0o600)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            let mut line = serde_json::to_vec(record)?;
            line.push(b'\n');
            file.write_all(&line)?;
            Ok(BuildLog {
                file,
                left: LOG_BYTES_MAX,
            })
        };
        make().doing("begin the log of a build", &self.path)
    }

    /// Whether it is written down what an image was made from.
    #[must_use]
    pub fn has_recipe(&self, image: &Digest) -> bool {
        let found = self.open().and_then(|dir| dir.find(recipe_file(image)));
        found.is_ok_and(|found| found.is_some())
    }

    /// What an image was made from, in the words of whoever wrote it down.
    pub fn recipe(&self, image: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || match self.open()?.open_file(recipe_file(image)) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        read().doing("read what an image was made from", &self.path)
    }

    /// Writes down what an image was made from.
    pub fn put_recipe(&self, image: &Digest, recipe: &[u8]) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let dir = self.open()?;
            let file = recipe_file(image);
            let unfinished = format!("{file}.{}", super::tmp::new_name()?);
            dir.create_file(&unfinished, 0o600)?.write_all(recipe)?;
            dir.rename(&unfinished, &dir, &file)
        };
        write().doing("write down what an image was made from", &self.path)
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

    /// All builds that are remembered, the newest first; those that were killed or are not over as well.
    pub fn all(&self) -> Result<Vec<BuildRecord>, StoreError> {
        // Whoever ends writes its record before it lets go of its log.
        let unfinished = self.unfinished()?;
        let mut records = self.records()?;
        for record in unfinished {
            if records.iter().all(|known| known.id != record.id) {
                records.push(record);
            }
        }
        records.sort_by_key(|record| std::cmp::Reverse(record.started_ms));
        Ok(records)
    }

    /// What the logs say of the builds that they are of.
    fn unfinished(&self) -> Result<Vec<BuildRecord>, StoreError> {
        let read = || -> io::Result<Vec<BuildRecord>> {
            let dir = match self.open() {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut found = Vec::new();
            for entry in dir.entries()? {
                if !entry.name.as_encoded_bytes().ends_with(b".log") {
                    continue;
                }
                let file = match dir.open_file(&entry.name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    opened => opened?,
                };
                let mut line = String::new();
                let begun = BufReader::new(&file)
                    .take(HEAD_BYTES_MAX)
                    .read_line(&mut line);
                let Some(mut record) = begun
                    .is_ok()
                    .then(|| serde_json::from_str::<BuildRecord>(&line).ok())
                    .flatten()
                else {
                    continue;
                };
                if flock(&file, FlockOperation::NonBlockingLockShared)? {
                    record.status = BuildEnd::Killed;
                    let last_ms = ms(Metadata::of_open(&file)?.modified);
                    record.duration_ms = last_ms.saturating_sub(record.started_ms);
                }
                found.push(record);
            }
            Ok(found)
        };
        read().doing("look up builds", &self.path)
    }

    fn records(&self) -> Result<Vec<BuildRecord>, StoreError> {
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
                file.read_to_end(&mut bytes)?;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Ok(Some(match text.split_once('\n') {
                    Some((head, rest)) if serde_json::from_str::<BuildRecord>(head).is_ok() => {
                        rest.to_owned()
                    }
                    _ => text,
                }))
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
            // A build that is not over is known when it is.
            kept.retain(|record| record.status != BuildEnd::Running);
            let running: HashSet<String> = self
                .unfinished()
                .map_err(io::Error::other)?
                .into_iter()
                .filter(|record| record.status == BuildEnd::Running)
                .map(|record| record.id)
                .collect();
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
                if running.contains(&id) {
                    continue;
                }
                // That of a build which is not over is not known yet; one that was killed never will be.
                let is_new = ms(seen.modified) + UNKNOWN_KEPT_MS > newest_ms;
                if known.contains(&id) || !is_new {
                    dir.remove_file(format!("{id}.log"))?;
                }
            }
            self.forget_recipes(&dir, &kept)?;
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

    /// Forgets what images were made from that are neither here nor remembered.
    fn forget_recipes(&self, dir: &Dir, kept: &[BuildRecord]) -> io::Result<()> {
        let built: HashSet<String> = kept
            .iter()
            .filter_map(|record| record.digest)
            .map(|digest| recipe_file(&digest))
            .collect();
        let images = Dir::open_trusted(self.path.with_file_name("images"))?;
        let mut recipes = Vec::new();
        for entry in dir.entries()? {
            if let Some(file) = entry.name.to_str().filter(|file| file.contains(RECIPE))
                && let Some(seen) = dir.find(file)?
            {
                recipes.push((file.to_owned(), ms(seen.modified)));
            }
        }
        let newest_ms = recipes.iter().map(|(_, modified_ms)| *modified_ms).max();
        for (file, modified_ms) in recipes {
            let image = format!("sha256:{}", file.split('.').next().unwrap_or_default());
            // That of a build which is not over is not known yet.
            let is_new = Some(modified_ms + UNKNOWN_KEPT_MS) > newest_ms;
            let is_here = || images.find(super::image::file_of(&image));
            if !is_new && !built.contains(&file) && is_here()?.is_none() {
                dir.remove_file(&file)?;
            }
        }
        Ok(())
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

fn recipe_file(image: &Digest) -> String {
    format!("{}{RECIPE}", image.hex())
}

impl BuildLog {
    /// Adds a line. What is too much is left away, which the log says.
    pub fn line(&mut self, line: &str) {
        if self.left == 0 {
            return;
        }
        // In one piece, at once: a build may be killed at any moment.
        let line = if line.len() < self.left {
            self.left -= line.len() + 1;
            format!("{line}\n")
        } else {
            self.left = 0;
            "… what was printed after this was not kept\n".to_owned()
        };
        let written = self.file.write_all(line.as_bytes());
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
            status: BuildEnd::Ok,
            started_ms: 7,
            duration_ms: 8,
            steps_run: 1,
            steps_cached: 2,
            ran: Vec::new(),
            digest: None,
            errors: Vec::new(),
            has_log,
            reasons: Vec::new(),
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
        let mut log = history.new_log(&record("a", true)).unwrap();
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
    fn a_build_without_an_end_is_killed_if_nobody_holds_its_log() {
        let dir = TempDir::new();
        Store::open(dir.path()).unwrap();
        let history = History::of(dir.path());
        let begun = |id: &str| BuildRecord {
            status: BuildEnd::Running,
            ..record(id, true)
        };
        let mut log = history.new_log(&begun("a")).unwrap();
        log.line("#1 hello");
        let ends = |history: &History| -> Vec<(String, BuildEnd)> {
            let all = history.all().unwrap().into_iter();
            all.map(|record| (record.id, record.status)).collect()
        };
        assert_eq!(ends(&history), [("a".to_owned(), BuildEnd::Running)]);
        // What is forgotten meanwhile is not what runs.
        history.keep(|_| true).unwrap();
        assert_eq!(ends(&history), [("a".to_owned(), BuildEnd::Running)]);
        drop(log);
        assert_eq!(ends(&history), [("a".to_owned(), BuildEnd::Killed)]);
        assert_eq!(history.log("a").unwrap().unwrap(), "#1 hello\n");
        history.keep(|_| true).unwrap();
        assert_eq!(ends(&history), [("a".to_owned(), BuildEnd::Killed)]);
        history.keep(|record| record.id != "a").unwrap();
        assert_eq!(ends(&history), []);
        assert_eq!(history.log("a").unwrap(), None);
    }

    #[test]
    fn what_an_image_was_made_from_is_known_as_long_as_the_image() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let history = History::of(dir.path());
        let [built, stored, gone] = ["1", "2", "3"].map(|text| Digest::of(text.as_bytes()));
        for image in [&built, &stored, &gone] {
            assert!(!history.has_recipe(image));
            history.put_recipe(image, b"old").unwrap();
            history.put_recipe(image, b"flour").unwrap();
        }
        let named = crate::store::StoredImage {
            name: stored.to_string(),
            digest: stored,
            stored_ms: 1,
            layers: Vec::new(),
            pulled_from: None,
            base: None,
        };
        store.put_image(&named).unwrap();
        let of_build = BuildRecord {
            digest: Some(built),
            ..record("a", false)
        };
        history.append(&of_build).unwrap();
        // That of a build that runs is as new as this one.
        history.put_recipe(&Digest::of(b"4"), b"new").unwrap();
        for image in [&built, &stored, &gone] {
            let path = dir.path().join(format!("history/{}.recipe", image.hex()));
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(old).unwrap();
        }
        history.keep(|_| true).unwrap();
        assert!(history.has_recipe(&Digest::of(b"4")));
        assert_eq!(history.recipe(&built).unwrap().unwrap(), b"flour");
        assert!(history.has_recipe(&stored));
        assert_eq!(history.recipe(&gone).unwrap(), None);
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
        let mut log = history.new_log(&record("x", true)).unwrap();
        let line = "y".repeat(1000);
        (0..2000).for_each(|_| log.line(&line));
        drop(log);
        let kept = history.log("x").unwrap().unwrap();
        assert!(kept.len() < LOG_BYTES_MAX + 100);
        assert!(kept.ends_with("not kept\n"));
    }
}
