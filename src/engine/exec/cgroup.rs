//! Control groups, version 2, for builds that limit what a RUN may take. Nothing here happens for other builds.
//!
//! ```text
//! base                      where the caller is, or --cgroup-parent; hands its controllers down
//! └─ shmocker-PID           made by the caller before the engine child starts
//!     ├─ main               the caller and the engine child: what hands controllers down may hold no processes itself
//!     └─ step-N             one per RUN, made by the engine child, with the limits
//! ```
//! A plain user may do so in a part of the tree that systemd has delegated to it, root anywhere. Where it is not to be
//! had, that is an error with its reason: a limit is kept or refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Pid;

use crate::engine::work::Resources;

const PROCESSES: &str = "cgroup.procs";
const HANDED_DOWN: &str = "cgroup.subtree_control";
const AVAILABLE: &str = "cgroup.controllers";
const NAME: &str = "shmocker-";

/// A limit cannot be kept on this machine.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum GroupError {
    /// There is no cgroup v2.
    #[error(
        "a limit on memory or processors needs control groups of version 2, which this machine has not mounted"
    )]
    #[diagnostic(
        code(cgroup::none),
        help(
            "build without the limit, or start the machine with systemd.unified_cgroup_hierarchy=1"
        )
    )]
    None,
    /// A controller is not there.
    #[error("`{option}` needs the cgroup controller `{controller}`, which is not to be had in {}", place.display())]
    #[diagnostic(
        code(cgroup::no_controller),
        help(
            "a controller that version 1 uses, or that is not delegated, is missing there (`cat {}/cgroup.controllers`); \
             build without the limit, or start the machine with systemd.unified_cgroup_hierarchy=1 and run \
             `systemd-run --user --scope -p Delegate=yes shmocker build …`",
            place.display()
        )
    )]
    NoController {
        /// The option that needs it.
        option: &'static str,
        /// Which.
        controller: &'static str,
        /// Where.
        place: PathBuf,
    },
    /// The caller may not make groups there.
    #[error("a limit needs a control group of its own, and this user may make none in {}", place.display())]
    #[diagnostic(
        code(cgroup::not_delegated),
        help(
            "run `systemd-run --user --scope -p Delegate=yes shmocker build …`, or name a group that belongs to you with \
             `--cgroup-parent`, or build without the limit"
        )
    )]
    NotDelegated {
        /// Where.
        place: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Other processes are in the group that would hand its controllers down.
    #[error("the control group {} cannot limit parts of itself while other processes are in it", place.display())]
    #[diagnostic(
        code(cgroup::busy),
        help(
            "run `systemd-run --user --scope -p Delegate=yes shmocker build …`, which puts the build into a group of its own"
        )
    )]
    Busy {
        /// Where.
        place: PathBuf,
    },
    /// The parent is no place in the tree.
    #[error("`--cgroup-parent {given}` names no control group")]
    #[diagnostic(
        code(cgroup::parent),
        help("it is a path in the tree of control groups, without `..`, such as /builds")
    )]
    BadParent {
        /// As given.
        given: String,
    },
    /// A limit could not be set.
    #[error("cannot {what} in {}", place.display())]
    #[diagnostic(code(cgroup::failed))]
    Failed {
        /// What was being done.
        what: String,
        /// Where.
        place: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Resources {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that the limits need, each with an option that needs it.
    fn controllers(&self) -> Vec<(&'static str, &'static str)> {
        let wanted = [
            ("memory", "--memory", self.memory_bytes.is_some()),
            ("memory", "--memory-swap", self.memory_swap_bytes.is_some()),
            ("cpu", "--cpu-shares", self.cpu_shares.is_some()),
            ("cpu", "--cpu-period", self.cpu_period_us.is_some()),
            ("cpu", "--cpu-quota", self.cpu_quota_us.is_some()),
            ("cpuset", "--cpuset-cpus", self.cpuset_cpus.is_some()),
            ("cpuset", "--cpuset-mems", self.cpuset_mems.is_some()),
            ("pids", "limits: {pids}", self.pids_max.is_some()),
        ];
        let mut controllers: Vec<(&str, &str)> = Vec::new();
        for (controller, option, wanted) in wanted {
            if wanted && !controllers.iter().any(|(known, _)| *known == controller) {
                controllers.push((controller, option));
            }
        }
        controllers
    }

    /// What is written to which file.
    fn settings(&self) -> Vec<(&'static str, String)> {
        const PERIOD_US: u64 = 100_000;
        let mut settings = Vec::new();
        if let Some(bytes) = self.memory_bytes {
            settings.push(("memory.max", bytes.to_string()));
        }
        match (self.memory_swap_bytes, self.memory_bytes) {
            (None, _) => {}
            (Some(both), Some(memory)) if both >= 0 => {
                let swap = both.cast_unsigned().saturating_sub(memory);
                settings.push(("memory.swap.max", swap.to_string()));
            }
            (Some(_), _) => settings.push(("memory.swap.max", "max".to_owned())),
        }
        if let Some(shares) = self.cpu_shares {
            // Version 1 counts from 2 to 262144, version 2 from 1 to 10000.
            let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
            settings.push(("cpu.weight", weight.to_string()));
        }
        if self.cpu_quota_us.is_some() || self.cpu_period_us.is_some() {
            let quota = self.cpu_quota_us.map(|quota| quota.to_string());
            let period = self.cpu_period_us.unwrap_or(PERIOD_US);
            let quota = quota.unwrap_or_else(|| "max".to_owned());
            settings.push(("cpu.max", format!("{quota} {period}")));
        }
        if let Some(cpus) = &self.cpuset_cpus {
            settings.push(("cpuset.cpus", cpus.clone()));
        }
        if let Some(nodes) = &self.cpuset_mems {
            settings.push(("cpuset.mems", nodes.clone()));
        }
        if let Some(count) = self.pids_max {
            settings.push(("pids.max", count.to_string()));
        }
        settings
    }
}

/// The caller's part of the tree, as long as a build runs. Dropped, it is taken apart again.
#[derive(Debug)]
pub struct Delegated {
    base: PathBuf,
    own: PathBuf,
    /// Where this process was before.
    home: PathBuf,
    /// What the base has handed down only since.
    enabled: Vec<&'static str>,
}

impl Delegated {
    /// Makes it, and puts this process into it.
    ///
    /// # Errors
    /// If this user may not, or a controller is not to be had.
    pub fn make(resources: &Resources, parent: Option<&str>) -> Result<Self, GroupError> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let tree = tree(&mounts).ok_or(GroupError::None)?;
        let home = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let home = tree.join(home.unwrap_or_default().trim_start_matches('/'));
        Self::make_in(&tree, home, resources, parent)
    }

    /// The same in a tree of which `home` is where this process is.
    fn make_in(
        tree: &Path,
        home: PathBuf,
        resources: &Resources,
        parent: Option<&str>,
    ) -> Result<Self, GroupError> {
        let base = match parent {
            None => home.clone(),
            Some(given) => tree.join(parent_path(given)?),
        };
        let needed = resources.controllers();
        let available = words(&base, AVAILABLE);
        let has = |words: &[String], name: &str| words.iter().any(|word| word == name);
        if parent.is_none() || base.is_dir() {
            for (controller, option) in &needed {
                if !has(&available, controller) {
                    return Err(GroupError::NoController {
                        option,
                        controller,
                        place: base,
                    });
                }
            }
        }
        let not_delegated = |source: io::Error| GroupError::NotDelegated {
            place: base.clone(),
            source,
        };
        std::fs::create_dir_all(&base).map_err(not_delegated)?;
        sweep(&base);
        let own = base.join(format!("{NAME}{}", std::process::id()));
        std::fs::create_dir(&own).map_err(not_delegated)?;
        let mut made = Self {
            base,
            own,
            home,
            enabled: Vec::new(),
        };
        let main = made.own.join("main");
        let moved = std::fs::create_dir(&main).and_then(|()| enter(&main));
        moved.map_err(|source| GroupError::NotDelegated {
            place: made.base.clone(),
            source,
        })?;
        for (controller, _) in &needed {
            if !has(&words(&made.base, HANDED_DOWN), controller) {
                let handed = std::fs::write(made.base.join(HANDED_DOWN), format!("+{controller}"));
                handed.map_err(|source| match source.kind() {
                    io::ErrorKind::ResourceBusy => GroupError::Busy {
                        place: made.base.clone(),
                    },
                    _ => GroupError::NotDelegated {
                        place: made.base.clone(),
                        source,
                    },
                })?;
                made.enabled.push(controller);
            }
            write(&made.own, HANDED_DOWN, &format!("+{controller}"))?;
        }
        Ok(made)
    }

    /// Where the engine child makes the groups of steps.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.own
    }
}

impl Drop for Delegated {
    /// What cannot be taken apart is empty, and goes with the next build.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.own).into_iter().flatten().flatten() {
            if entry.file_name() != "main" {
                remove(&entry.path());
            }
        }
        for controller in &self.enabled {
            drop(std::fs::write(
                self.base.join(HANDED_DOWN),
                format!("-{controller}"),
            ));
        }
        drop(enter(&self.home));
        remove(&self.own.join("main"));
        remove(&self.own);
    }
}

/// The control group of one RUN.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    memory_bytes: Option<u64>,
}

impl Group {
    /// Makes one with these limits below what [`Delegated`] is.
    ///
    /// # Errors
    /// If the kernel refuses a limit.
    pub fn make(below: &Path, resources: &Resources) -> Result<Self, GroupError> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = below.join(format!("step-{number}"));
        std::fs::create_dir(&path).map_err(|source| GroupError::Failed {
            what: "make a control group".to_owned(),
            place: path.clone(),
            source,
        })?;
        let group = Self {
            path,
            memory_bytes: resources.memory_bytes,
        };
        for (file, value) in resources.settings() {
            write(&group.path, file, &value)?;
        }
        Ok(group)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a process into it, with all that it starts.
    pub(super) fn add(&self, pid: Pid) -> Result<(), GroupError> {
        write(&self.path, PROCESSES, &pid.as_raw_nonzero().to_string())
    }

    /// Whether the kernel has killed a process of it because its memory was used up.
    pub(super) fn was_out_of_memory(&self) -> bool {
        let events = std::fs::read_to_string(self.path.join("memory.events"));
        events.is_ok_and(|events| oom_kills(&events) > 0)
    }

    /// How much memory it may have.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        self.memory_bytes
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Puts a process into the group of a container that runs, with all that it will start.
pub(super) fn join(group: &Path, pid: Pid) -> Result<(), GroupError> {
    write(group, PROCESSES, &pid.as_raw_nonzero().to_string())
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Where version 2 is mounted.
fn tree(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let kind = filesystem.split(' ').next()?;
        (kind == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn parent_path(given: &str) -> Result<&str, GroupError> {
    let path = given.trim_matches('/');
    let is_name = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(is_name) {
        Ok(path)
    } else {
        Err(GroupError::BadParent {
            given: given.to_owned(),
        })
    }
}

fn words(directory: &Path, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn enter(group: &Path) -> io::Result<()> {
    std::fs::write(group.join(PROCESSES), std::process::id().to_string())
}

fn write(group: &Path, file: &str, value: &str) -> Result<(), GroupError> {
    std::fs::write(group.join(file), value).map_err(|source| GroupError::Failed {
        what: format!("set {file} to `{value}`"),
        place: group.to_owned(),
        source,
    })
}

/// A group whose last process has just ended may be held for a moment.
fn remove(group: &Path) {
    for _ in 0..50 {
        match std::fs::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

/// Removes what builds have left that were killed. A group with a process in it cannot be removed.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME))
            .is_some_and(|pid| {
                let is_number = pid.bytes().all(|byte| byte.is_ascii_digit());
                // One that has just been made has no process in it yet.
                is_number && !Path::new("/proc").join(pid).exists()
            });
        if !is_ours {
            continue;
        }
        for below in std::fs::read_dir(entry.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            drop(std::fs::remove_dir(below.path()));
        }
        drop(std::fs::remove_dir(entry.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn limits_become_what_version_2_calls_them() {
        let all = Resources {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(96 << 20),
            cpu_shares: Some(1024),
            cpu_period_us: Some(50_000),
            cpu_quota_us: Some(25_000),
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
        };
        let settings: Vec<String> = all
            .settings()
            .iter()
            .map(|(file, value)| format!("{file}={value}"))
            .collect();
        assert_eq!(
            settings,
            [
                "memory.max=67108864",
                "memory.swap.max=33554432",
                "cpu.weight=39",
                "cpu.max=25000 50000",
                "cpuset.cpus=0-1",
                "cpuset.mems=0"
            ]
        );
        let controllers: Vec<_> = all.controllers();
        assert_eq!(
            controllers,
            [
                ("memory", "--memory"),
                ("cpu", "--cpu-shares"),
                ("cpuset", "--cpuset-cpus")
            ]
        );
        let quota = Resources {
            cpu_quota_us: Some(10_000),
            memory_swap_bytes: Some(-1),
            ..Resources::default()
        };
        assert_eq!(
            quota.settings(),
            [
                ("memory.swap.max", "max".to_owned()),
                ("cpu.max", "10000 100000".to_owned())
            ]
        );
        assert!(Resources::default().is_unlimited());
    }

    #[test]
    fn controllers_are_handed_down_and_taken_back() {
        let tree = TempDir::new();
        let home = tree.path().join("scope");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join(AVAILABLE), "cpu memory\n").unwrap();
        let said = |path: &Path, file: &str| {
            let text = std::fs::read_to_string(path.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        let memory = Resources {
            memory_bytes: Some(1),
            ..Resources::default()
        };
        let pid = std::process::id().to_string();
        let made = Delegated::make_in(tree.path(), home.clone(), &memory, None).unwrap();
        assert_eq!(said(&home, HANDED_DOWN), "+memory");
        assert_eq!(said(made.path(), HANDED_DOWN), "+memory");
        assert_eq!(said(&made.path().join("main"), PROCESSES), pid);
        let step = Group::make(made.path(), &memory).unwrap();
        assert_eq!(said(&step.path, "memory.max"), "1");
        drop((step, made));
        assert_eq!(said(&home, HANDED_DOWN), "-memory");
        assert_eq!(said(&home, PROCESSES), pid);

        let processors = Resources {
            cpuset_cpus: Some("0".to_owned()),
            ..Resources::default()
        };
        let refused = Delegated::make_in(tree.path(), home, &processors, None).unwrap_err();
        assert!(
            matches!(
                &refused,
                GroupError::NoController {
                    controller: "cpuset",
                    ..
                }
            ),
            "{refused}"
        );
    }

    #[test]
    fn the_tree_is_found_where_both_versions_are() {
        let hybrid = "24 1 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      25 1 0:23 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(tree(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(tree("24 1 0:22 / /sys rw - sysfs sysfs rw\n"), None);
    }

    #[test]
    fn a_parent_stays_in_the_tree() {
        assert_eq!(parent_path("/builds/ci").ok(), Some("builds/ci"));
        for given in ["", "/", "..", "/a/../b", "a//b", "./a"] {
            assert!(parent_path(given).is_err(), "{given}");
        }
    }

    #[test]
    fn kills_for_want_of_memory_are_counted() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n"), 1);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\n"), 0);
        assert_eq!(oom_kills(""), 0);
    }
}
