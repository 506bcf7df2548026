//! What builds have used, so that it is known what to keep. Each set of things that a build of some project used is a
//! small file, named by the project and by the set; its time is that of the last build which used exactly that. A build
//! that used what the one before it used changes nothing but this time.
//!
//! ```text
//! builds/<project and target>-<set>.json
//! ```
//! The newest file of a project is its last build. Whoever deletes what a set names deletes the set too, unless it is that.

use std::collections::HashMap;
use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{Doing, Store, StoreError};
use crate::digest::{Digest, Key};
use crate::sys::dir::{Dir, Time};

const BUILDS: &str = "builds";
/// How many states of one project are told apart.
const SETS_MAX: usize = 20;
/// No set is longer; a damaged one shall not fill the memory.
const BYTES_MAX: u64 = 16 << 20;

/// What one build used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildUse {
    /// The Dockerfile's or habitat's path, or what stands for it.
    pub project: String,
    /// The stage that was built; empty: the last.
    pub target: String,
    /// What it was built for: `os/arch[/variant]`.
    #[serde(default)]
    pub platform: String,
    /// What its parts have made, phase by phase or stage by stage.
    pub parts: Vec<PartUse>,
    /// Its image.
    pub image: Option<Digest>,
    /// The snapshots of the image, bottom first.
    #[serde(default)]
    pub tree: Vec<Key>,
    /// What its sources are remembered as.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Downloads that it adds.
    pub downloads: Vec<Digest>,
    /// Cache mounts.
    pub caches: Vec<CacheUse>,
}

/// A cache mount that a build used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// What its directory is called.
    pub directory: String,
    /// What the Dockerfile calls it.
    pub id: String,
}

/// What a part of a build has made or fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartUse {
    /// The phase, or the stage.
    pub name: String,
    /// Snapshots.
    pub snapshots: Vec<Key>,
}

/// A set with its time.
#[derive(Debug, Clone)]
pub(super) struct Used {
    pub(super) file: String,
    pub(super) build: BuildUse,
    pub(super) used_ms: u64,
    /// Whether it is the last build of its project.
    pub(super) is_last: bool,
}

impl Store {
    fn builds_dir(&self) -> Result<Dir, StoreError> {
        self.top()
            .ensure_dir(BUILDS, 0o700)
            .doing("open what builds have used", self.path().join(BUILDS))
    }

    /// Notes what a build used, now.
    pub fn note_use(&self, build: &BuildUse, now_ms: u64) -> Result<(), StoreError> {
        let all = self.builds_dir()?;
        let text = serde_json::to_vec(build).unwrap_or_default();
        let name = format!("{}-{}.json", slot(build), Key::of(&text));
        let note = || -> io::Result<()> {
            if all.find(&name)?.is_none_or(|seen| seen.size == 0) {
                // Not synced: what a power loss takes is noted by the next build.
                let unfinished = format!("{name}.{}", super::tmp::new_name()?);
                all.create_file(&unfinished, 0o600)?.write_all(&text)?;
                all.rename(&unfinished, &all, &name)?;
            }
            let now = time(now_ms);
            all.set_times(&name, now, now)
        };
        note().doing("note what a build used", self.path().join(BUILDS))
    }

    /// What the last builds of a project for these platforms used.
    pub fn last_uses(
        &self,
        project: &str,
        target: &str,
        platforms: &[String],
    ) -> Result<Vec<BuildUse>, StoreError> {
        let mut builds: Vec<BuildUse> = self
            .uses()?
            .into_iter()
            .filter(|used| used.is_last)
            .map(|used| used.build)
            .filter(|build| build.project == project && build.target == target)
            .filter(|build| platforms.contains(&build.platform))
            .collect();
        builds.sort_by(|one, other| one.platform.cmp(&other.platform));
        Ok(builds)
    }

    /// What builds have used, the newest first.
    pub(super) fn uses(&self) -> Result<Vec<Used>, StoreError> {
        let all = self.builds_dir()?;
        let path = self.path().join(BUILDS);
        let mut uses = Vec::new();
        for entry in all.entries().doing("list what builds have used", &path)? {
            let Some(file) = entry.name.to_str().filter(|name| name.ends_with(".json")) else {
                continue;
            };
            // A damaged one says nothing; the next build notes it again.
            if let Some((build, used_ms)) = read(&all, file) {
                uses.push(Used {
                    file: file.to_owned(),
                    build,
                    used_ms,
                    is_last: false,
                });
            }
        }
        uses.sort_by(|one, other| (other.used_ms, &other.file).cmp(&(one.used_ms, &one.file)));
        let mut seen = HashMap::new();
        for used in &mut uses {
            let count = seen.entry(slot(&used.build)).or_insert(0_usize);
            used.is_last = *count == 0;
            *count += 1;
        }
        Ok(uses)
    }

    /// Deletes sets: those of which something is gone, as `is_whole` says, and of each project the oldest beyond some.
    pub(super) fn forget_uses(
        &self,
        is_whole: impl Fn(&BuildUse) -> bool,
    ) -> Result<(), StoreError> {
        let all = self.builds_dir()?;
        let mut seen = HashMap::new();
        for used in self.uses()? {
            let count = seen.entry(slot(&used.build)).or_insert(0_usize);
            *count += 1;
            if *count > SETS_MAX || !is_whole(&used.build) {
                match all.remove_file(&used.file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io(
                            "forget what a build used",
                            self.path().join(BUILDS).join(&used.file),
                            error,
                        ));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Names a project and a target of it.
fn slot(build: &BuildUse) -> String {
    Key::of(format!("{}\n{}\n{}", build.project, build.target, build.platform).as_bytes()).short()
}

fn read(all: &Dir, file: &str) -> Option<(BuildUse, u64)> {
    use std::io::Read as _;
    let opened = all.open_file(file).ok()?;
    let seen = crate::sys::dir::Metadata::of_open(&opened).ok()?;
    let mut text = Vec::new();
    opened.take(BYTES_MAX).read_to_end(&mut text).ok()?;
    Some((serde_json::from_slice(&text).ok()?, ms(seen.modified)))
}

fn time(ms: u64) -> Time {
    Time {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanoseconds: (ms % 1000) as u32 * 1_000_000,
    }
}

/// Milliseconds since 1970.
pub(super) fn ms(time: Time) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0) * 1000 + u64::from(time.nanoseconds) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    fn build(project: &str, snapshot: &[u8]) -> BuildUse {
        BuildUse {
            project: project.to_owned(),
            parts: vec![PartUse {
                name: "build".to_owned(),
                snapshots: vec![Key::of(snapshot)],
            }],
            ..BuildUse::default()
        }
    }

    #[test]
    fn the_newest_set_of_a_project_is_its_last_build() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        store.note_use(&build("a", b"1"), 1000).unwrap();
        store.note_use(&build("a", b"2"), 2000).unwrap();
        store.note_use(&build("b", b"1"), 500).unwrap();
        let seen = |store: &Store| -> Vec<(String, u64, bool)> {
            let uses = store.uses().unwrap();
            let of = |used: &Used| (used.build.project.clone(), used.used_ms, used.is_last);
            uses.iter().map(of).collect()
        };
        let last = |project: &str, ms, is_last| (project.to_owned(), ms, is_last);
        assert_eq!(
            seen(&store),
            [
                last("a", 2000, true),
                last("a", 1000, false),
                last("b", 500, true)
            ]
        );
        store.note_use(&build("a", b"1"), 3000).unwrap();
        assert_eq!(
            seen(&store),
            [
                last("a", 3000, true),
                last("a", 2000, false),
                last("b", 500, true)
            ]
        );
        store
            .forget_uses(|used| used.parts[0].snapshots == [Key::of(b"1")])
            .unwrap();
        assert_eq!(seen(&store), [last("a", 3000, true), last("b", 500, true)]);
    }

    #[test]
    fn only_so_many_states_of_a_project_are_remembered() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        for number in 0..30 {
            store
                .note_use(&build("a", &[number]), 1000 + u64::from(number))
                .unwrap();
        }
        store.forget_uses(|_| true).unwrap();
        let uses = store.uses().unwrap();
        assert_eq!((uses.len(), uses[0].used_ms), (SETS_MAX, 1029));
    }
}
