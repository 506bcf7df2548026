//! Which ids a build may use, and how they get into its user namespace.
//!
//! Inside, 0 is the caller's own id and 1 to 65535 are ids that are set aside for the caller: the subordinate ranges of a
//! plain user, which `newuidmap` and `newgidmap` may map, or for root its own range, else a high range that nobody uses,
//! else (inside a container) the ids that there are. So the engine child has the caller's access to files, and what it
//! makes as root belongs to the caller.
//!
//! Who has no ranges can build with a single id, their own, which is 0 inside: then owners are records
//! ([`crate::sys::owner`]), and [`Ids::of`]'s error says which one command would bring more.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Pid;
use rustix::thread::CapabilitySet;

/// How many ids a container has: enough for `nobody` (65534) and the unused 65535.
const IDS_WANTED: u32 = 65_536;
/// Where a plain user's first range is put on a machine that has none yet, as `useradd` has it.
const FIRST_RANGE: u32 = 100_000;
/// Ids that no distribution hands out (<https://systemd.io/UIDS-GIDS>), for root on a machine without ranges.
const RESERVED_RANGE: u32 = 0x7000_0000;
/// Where the host's helpers are looked for; never in a PATH that a build could set.
const HELPER_DIRECTORIES: [&str; 6] = [
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/run/wrappers/bin",
];

/// A run of ids: `count` of them, from `inside` in the namespace and from `outside` on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first, in the namespace.
    pub inside: u32,
    /// The first, outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The ids of a build, and the way to map them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub users: Vec<Extent>,
    /// Groups.
    pub groups: Vec<Extent>,
    apply: Apply,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Apply {
    /// The maps are written: the caller is root.
    Write,
    /// The same, by anybody: a user may map their own id.
    WriteOwn,
    /// These set-id programs write them.
    Helpers { users: PathBuf, groups: PathBuf },
}

/// Who wants to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The user's name, where one is known.
    pub name: Option<String>,
}

impl Caller {
    /// This process's user, with the name that /etc/passwd has for it.
    #[must_use]
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        });
        Self {
            uid,
            gid: rustix::process::getegid().as_raw(),
            name,
        }
    }

    fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }
}

/// The caller has no ids to build with, or they cannot be mapped.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum IdsError {
    /// No range belongs to the user.
    #[error("user `{user}` has no subordinate ids")]
    #[diagnostic(
        code(ids::no_ranges),
        help(
            "set some aside, once: sudo usermod --add-subuids {range} --add-subgids {range} {user}"
        )
    )]
    NoRanges {
        /// Who.
        user: String,
        /// A range that is free, as `first-last`.
        range: String,
    },
    /// The set-id helper is not installed.
    #[error(
        "`{program}` is not installed, and only it may map the subordinate ids of a plain user"
    )]
    #[diagnostic(code(ids::no_helper), help("install it: sudo apt-get install uidmap"))]
    NoHelper {
        /// Which.
        program: &'static str,
    },
    /// Whoever maps more than the caller's own id has no power to do it here.
    #[error("{program} may not map ids here: {why}")]
    #[diagnostic(
        code(ids::no_power),
        help(
            "let the container have CAP_SETUID and CAP_SETGID, and set-id programs their effect (without `no-new-privileges`; in \
             Kubernetes, `allowPrivilegeEscalation: true`)"
        )
    )]
    NoPower {
        /// Who would.
        program: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The helper ran and refused.
    #[error("{program} failed: {said}")]
    #[diagnostic(
        code(ids::helper_failed),
        help(
            "it must be set-uid root or have file capabilities (sudo apt-get install --reinstall uidmap), and /etc/subuid and \
             /etc/subgid must not have changed meanwhile"
        )
    )]
    HelperFailed {
        /// Which.
        program: String,
        /// What it said.
        said: String,
    },
    /// The helper could not be started.
    #[error("cannot run {program}")]
    #[diagnostic(code(ids::helper_not_started))]
    HelperNotStarted {
        /// Which.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the map.
    #[error("cannot write {file}")]
    #[diagnostic(
        code(ids::map_refused),
        help(
            "this root lacks CAP_SETUID, CAP_SETGID or CAP_SETFCAP, without which it may not even map itself; run as another user, who \
             may (`--user`; in Kubernetes, `runAsUser`)"
        )
    )]
    MapRefused {
        /// The map.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What of this machine the choice depends on. Read once, so that the choice itself is a function of it.
#[derive(Debug, Clone, Default)]
struct Machine {
    subuid: String,
    subgid: String,
    uid_map: String,
    gid_map: String,
}

impl Machine {
    fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            subuid: read("/etc/subuid"),
            subgid: read("/etc/subgid"),
            uid_map: read("/proc/self/uid_map"),
            gid_map: read("/proc/self/gid_map"),
        }
    }
}

impl IdsError {
    /// Whether there are no more ids than the caller's own, so that a single one is all that can be had.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(
            self,
            Self::NoRanges { .. } | Self::NoHelper { .. } | Self::NoPower { .. }
        )
    }
}

impl Ids {
    /// The caller's own id alone.
    #[must_use]
    pub fn single(caller: &Caller) -> Self {
        Self {
            users: with_own_first(caller.uid, &[]),
            groups: with_own_first(caller.gid, &[]),
            apply: Apply::WriteOwn,
        }
    }

    /// The ids that the caller may build with.
    ///
    /// # Errors
    /// With the command that would mend it.
    pub fn of(caller: &Caller) -> Result<Self, IdsError> {
        let mut machine = Machine::read();
        let may = CapabilitySet::SETUID.union(CapabilitySet::SETGID);
        if caller.uid == 0 {
            return match rustix::thread::capabilities(None) {
                // Its own id root may map with the last of these only.
                Ok(sets)
                    if !sets.effective.contains(may)
                        && sets.effective.contains(CapabilitySet::SETFCAP) =>
                {
                    Err(IdsError::NoPower {
                        program: "root",
                        why: "it lacks CAP_SETUID or CAP_SETGID",
                    })
                }
                _ => Ok(Self::of_root(&machine)),
            };
        }
        for (file, option) in [
            (&mut machine.subuid, None),
            (&mut machine.subgid, Some("-g")),
        ] {
            if ranges(file, caller).is_empty() {
                // The user may be known to a directory service only.
                file.push_str(&getsubids(caller, option));
            }
        }
        let (users, groups) = Self::of_user(&machine, caller)?;
        let helper = |program| find_program(program).ok_or(IdsError::NoHelper { program });
        let apply = Apply::Helpers {
            users: helper("newuidmap")?,
            groups: helper("newgidmap")?,
        };
        let why = if rustix::thread::no_new_privs() == Ok(true) {
            Some("no program has more power than who starts it (no-new-privileges)")
        } else if may
            .iter()
            .any(|one| rustix::thread::capability_is_in_bounding_set(one) == Ok(false))
        {
            Some("nothing may have CAP_SETUID or CAP_SETGID")
        } else {
            None
        };
        if let Some(why) = why {
            let program = "newuidmap";
            return Err(IdsError::NoPower { program, why });
        }
        Ok(Self {
            users,
            groups,
            apply,
        })
    }

    /// How many ids there are, of the kind that there are fewer of.
    #[must_use]
    pub fn count(&self) -> u32 {
        let sum = |extents: &[Extent]| {
            extents
                .iter()
                .fold(0_u32, |sum, extent| sum.saturating_add(extent.count))
        };
        sum(&self.users).min(sum(&self.groups))
    }

    /// Whether a container can have as many ids as images expect.
    #[must_use]
    pub fn are_enough(&self) -> bool {
        self.count() >= IDS_WANTED
    }

    /// Maps them into the user namespace of a process that waits for it.
    ///
    /// # Errors
    /// What the helper or the kernel said.
    pub fn apply(&self, to: Pid) -> Result<(), IdsError> {
        let pid = to.as_raw_nonzero();
        match &self.apply {
            Apply::Write | Apply::WriteOwn => {
                let refused = |file: &str| {
                    let file = file.to_owned();
                    move |source| IdsError::MapRefused { file, source }
                };
                if self.apply == Apply::WriteOwn {
                    // Otherwise nobody without power around the namespace may map a group.
                    let file = format!("/proc/{pid}/setgroups");
                    std::fs::write(&file, "deny").map_err(refused(&file))?;
                }
                for (kind, extents) in [("uid", &self.users), ("gid", &self.groups)] {
                    let file = format!("/proc/{pid}/{kind}_map");
                    std::fs::write(&file, table(extents)).map_err(refused(&file))?;
                }
                Ok(())
            }
            Apply::Helpers { users, groups } => {
                // Both at once: each takes about a millisecond.
                let users = Helper::start(users, pid.get(), &self.users)?;
                let groups = Helper::start(groups, pid.get(), &self.groups)?;
                users.finish().and(groups.finish())
            }
        }
    }

    fn of_user(machine: &Machine, caller: &Caller) -> Result<(Vec<Extent>, Vec<Extent>), IdsError> {
        let users = ranges(&machine.subuid, caller);
        let groups = ranges(&machine.subgid, caller);
        if users.is_empty() || groups.is_empty() {
            let first = free_range(&machine.subuid).max(free_range(&machine.subgid));
            return Err(IdsError::NoRanges {
                user: caller.called(),
                range: format!("{first}-{}", first + (IDS_WANTED - 1)),
            });
        }
        Ok((
            with_own_first(caller.uid, &users),
            with_own_first(caller.gid, &groups),
        ))
    }

    fn of_root(machine: &Machine) -> Self {
        let root = Caller {
            uid: 0,
            gid: 0,
            name: Some("root".to_owned()),
        };
        let choose = |subordinate: &str, map: &str| {
            let available = available(map);
            let usable = |range: &Range| {
                available.iter().any(|have| {
                    have.inside <= range.first
                        && have
                            .count
                            .checked_sub(range.count)
                            .is_some_and(|room| range.first - have.inside <= room)
                })
            };
            let own = ranges(subordinate, &root);
            let reserved = Range {
                first: RESERVED_RANGE.max(free_range(subordinate)),
                count: IDS_WANTED - 1,
            };
            if !own.is_empty() && own.iter().all(usable) {
                with_own_first(0, &own)
            } else if usable(&reserved) {
                with_own_first(0, &[reserved])
            } else {
                // Inside a namespace: each id that there is, as itself.
                available
                    .iter()
                    .map(|have| Extent {
                        outside: have.inside,
                        ..*have
                    })
                    .collect()
            }
        };
        Self {
            users: choose(&machine.subuid, &machine.uid_map),
            groups: choose(&machine.subgid, &machine.gid_map),
            apply: Apply::Write,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

impl Range {
    fn of(fields: [&str; 2]) -> Option<Self> {
        let [first, count] = fields.map(str::parse::<u32>);
        let range = Self {
            first: first.ok()?,
            count: count.ok()?,
        };
        (range.count > 0 && range.first.checked_add(range.count).is_some()).then_some(range)
    }
}

/// The ranges that `NAME:FIRST:COUNT` lines give to the caller, by name or number.
fn ranges(text: &str, caller: &Caller) -> Vec<Range> {
    let number = caller.uid.to_string();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = Range::of([fields.next()?, fields.next()?])?;
        (owner == number || caller.name.as_deref() == Some(owner)).then_some(range)
    });
    lines.collect()
}

/// The first id above all ranges of the file.
fn free_range(text: &str) -> u32 {
    let ends = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':').skip(1);
        let range = Range::of([fields.next()?, fields.next()?])?;
        range.first.checked_add(range.count)
    });
    ends.filter(|end| *end <= RESERVED_RANGE)
        .fold(FIRST_RANGE, u32::max)
}

/// 0 is `own`; the ranges follow it, as far as a container needs them.
fn with_own_first(own: u32, ranges: &[Range]) -> Vec<Extent> {
    let mut extents = vec![Extent {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut next = 1;
    for range in ranges {
        let count = range.count.min(IDS_WANTED - next);
        if count == 0 {
            break;
        }
        extents.push(Extent {
            inside: next,
            outside: range.first,
            count,
        });
        next += count;
    }
    extents
}

/// The ids that exist in this process's own namespace.
pub(super) fn available(map: &str) -> Vec<Extent> {
    let lines = map.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse().ok());
        Some(Extent {
            inside: fields.next()??,
            outside: fields.next()??,
            count: fields.next()??,
        })
    });
    lines.collect()
}

/// The extents as the kernel reads and writes them.
pub(super) fn table(extents: &[Extent]) -> String {
    let mut text = String::new();
    for extent in extents {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} {} {}",
            extent.inside, extent.outside, extent.count
        );
    }
    text
}

/// A program of this machine, where the system keeps its own.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let candidates = HELPER_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name));
    candidates.into_iter().find(|path| path.is_file())
}

/// `getsubids` asks the sources that nsswitch.conf names. Its lines (`0: NAME FIRST COUNT`) as /etc/subuid has them.
fn getsubids(caller: &Caller, option: Option<&str>) -> String {
    let (Some(program), Some(name)) = (find_program("getsubids"), &caller.name) else {
        return String::new();
    };
    let output = Command::new(program)
        .args(option)
        .arg(name)
        .env_clear()
        .stdin(Stdio::null())
        .output();
    let mut found = String::from("\n");
    for line in output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
        .lines()
    {
        if let [_, name, first, count] = line.split_whitespace().collect::<Vec<_>>().as_slice() {
            let _ = writeln!(found, "{name}:{first}:{count}");
        }
    }
    found
}

struct Helper {
    name: String,
    process: std::process::Child,
}

impl Helper {
    fn start(program: &Path, pid: i32, extents: &[Extent]) -> Result<Self, IdsError> {
        let name = program.display().to_string();
        let numbers = extents
            .iter()
            .flat_map(|extent| [extent.inside, extent.outside, extent.count]);
        let process = Command::new(program)
            .arg(pid.to_string())
            .args(numbers.map(|number| number.to_string()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match process {
            Ok(process) => Ok(Self { name, process }),
            Err(source) => Err(IdsError::HelperNotStarted {
                program: name,
                source,
            }),
        }
    }

    fn finish(self) -> Result<(), IdsError> {
        let program = self.name;
        match self.process.wait_with_output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(IdsError::HelperFailed { program, said })
            }
            Err(source) => Err(IdsError::HelperNotStarted { program, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Caller {
        Caller {
            uid: 1001,
            gid: 1001,
            name: Some("alice".to_owned()),
        }
    }

    fn machine(subordinate: &str, map: &str) -> Machine {
        Machine {
            subuid: subordinate.to_owned(),
            subgid: subordinate.to_owned(),
            uid_map: map.to_owned(),
            gid_map: map.to_owned(),
        }
    }

    const WHOLE: &str = "         0          0 4294967295\n";

    #[test]
    fn a_users_own_id_is_root_and_the_range_follows() {
        let (users, _) =
            Ids::of_user(&machine("bob:1:2\nalice:100000:65536\n", WHOLE), &alice()).unwrap();
        assert_eq!(table(&users), "0 1001 1\n1 100000 65535\n");
    }

    #[test]
    fn ranges_are_found_by_number_and_several_are_joined() {
        let (users, _) = Ids::of_user(
            &machine("1001:200000:1000\nalice:300000:65536\n", WHOLE),
            &alice(),
        )
        .unwrap();
        assert_eq!(
            table(&users),
            "0 1001 1\n1 200000 1000\n1001 300000 64535\n"
        );
    }

    #[test]
    fn without_a_range_the_error_says_what_to_type() {
        let error = Ids::of_user(&machine("bob:100000:65536\n", WHOLE), &alice()).unwrap_err();
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(
            help.ends_with("usermod --add-subuids 165536-231071 --add-subgids 165536-231071 alice"),
            "{help}"
        );
    }

    #[test]
    fn a_single_id_is_the_callers_own() {
        let ids = Ids::single(&alice());
        assert_eq!(table(&ids.users), format!("0 {} 1\n", alice().uid));
        assert!(!ids.are_enough());
    }

    #[test]
    fn nonsense_in_the_file_is_passed_over() {
        let text = "alice\nalice:x:1\nalice:4294967295:2\nalice:5:0\n:::\nalice:7:9\n";
        assert_eq!(ranges(text, &alice()), [Range { first: 7, count: 9 }]);
    }

    #[test]
    fn root_takes_its_own_range_else_a_reserved_one_else_what_there_is() {
        let own = Ids::of_root(&machine("root:500000:65536\n", WHOLE));
        assert_eq!(table(&own.users), "0 0 1\n1 500000 65535\n");
        let reserved = Ids::of_root(&machine("alice:100000:65536\n", WHOLE));
        assert_eq!(table(&reserved.users), "0 0 1\n1 1879048192 65535\n");
        let inside = Ids::of_root(&machine(
            "root:500000:65536\n",
            "0 1001 1\n1 100000 65535\n",
        ));
        assert_eq!(table(&inside.users), "0 0 1\n1 1 65535\n");
        assert!(inside.are_enough());
    }
}
