//! What this machine offers to the tests: users, programs, networks. What it lacks is a [`Lack`], which [`need!`] turns
//! into a printed and counted skip, or into a failure where `SHMOCKER_REQUIRE` names the capability.

use std::cell::RefCell;
use std::fmt;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::{Rc, Weak};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Something a test needs and this machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    PlainUsers,
    Ranges,
    BareUser,
    Root,
    Skopeo,
    Umoci,
    Podman,
    BuildKit,
    Buildah,
    Crane,
    DebianArchive,
    Busybox,
    Git,
    Ssh,
    Registry,
    Fixtures,
    Tun,
    Cgroup,
    Emulator,
    /// `cc`, and a libc for static programs.
    Compiler,
    /// Minutes for what says little more than its neighbours: SHMOCKER_TEST_LONG is set. What is random then goes on for as
    /// many seconds as it says.
    Patience,
}

impl Capability {
    /// The word that `SHMOCKER_REQUIRE` uses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PlainUsers => "plain-users",
            Self::Ranges => "ranges",
            Self::BareUser => "bare-user",
            Self::Root => "root",
            Self::Skopeo => "skopeo",
            Self::Umoci => "umoci",
            Self::Podman => "podman",
            Self::BuildKit => "buildkit",
            Self::Buildah => "buildah",
            Self::Crane => "crane",
            Self::DebianArchive => "debian-archive",
            Self::Busybox => "busybox",
            Self::Git => "git",
            Self::Ssh => "ssh",
            Self::Registry => "registry",
            Self::Fixtures => "fixtures",
            Self::Tun => "tun",
            Self::Cgroup => "cgroup",
            Self::Emulator => "emulator",
            Self::Compiler => "compiler",
            Self::Patience => "patience",
        }
    }

    /// What the absence of this means for a test.
    pub(crate) fn lack(self, reason: impl Into<String>) -> Lack {
        Lack {
            capability: self,
            reason: reason.into(),
        }
    }
}

/// A capability that is not there, and why.
#[derive(Debug, Clone)]
pub(crate) struct Lack {
    capability: Capability,
    reason: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.capability.name(), self.reason)
    }
}

impl Lack {
    /// Prints and counts the skip of the running test; fails it where the capability is required.
    pub(crate) fn skip(&self) {
        let required = std::env::var("SHMOCKER_REQUIRE").unwrap_or_default();
        assert!(
            !required
                .split(',')
                .any(|name| name.trim() == self.capability.name()),
            "SHMOCKER_REQUIRE names {}, but {}",
            self.capability.name(),
            self.reason
        );
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        println!("skip: {test}: {self}");
        if let Some(report) = std::env::var_os("SHMOCKER_SKIP_REPORT") {
            let line = format!("{}\t{test}\t{}\n", self.capability.name(), self.reason);
            std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(report)
                .and_then(|mut file| file.write_all(line.as_bytes()))
                .expect("SHMOCKER_SKIP_REPORT can be written");
        }
    }
}

/// The value, or the end of the test with a skip.
macro_rules! need {
    ($offer:expr) => {
        match $offer {
            Ok(value) => value,
            Err(lack) => {
                let lack: $crate::harness::Lack = lack;
                lack.skip();
                return;
            }
        }
    };
}
pub(crate) use need;

/// Somebody who runs things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
}

impl User {
    /// A command of this user's, with nothing inherited but HOME, PATH and the proxies.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .current_dir("/")
            .stdin(std::process::Stdio::null());
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if process_uid() == 0 && self.uid != 0 {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    fn of_line(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Self {
            name: (*fields.first()?).to_owned(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: PathBuf::from(fields.get(5)?),
        })
    }

    fn find(is_wanted: impl Fn(&Self) -> bool) -> Option<Self> {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        passwd.lines().filter_map(Self::of_line).find(is_wanted)
    }

    fn has_ranges(&self) -> bool {
        ["/etc/subuid", "/etc/subgid"].iter().all(|file| {
            std::fs::read_to_string(file)
                .unwrap_or_default()
                .lines()
                .any(|line| {
                    let owner = line.split(':').next().unwrap_or_default();
                    owner == self.name || owner == self.uid.to_string()
                })
        })
    }
}

/// The effective user of this process.
pub(crate) fn process_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self")
        .expect("/proc is mounted")
        .uid()
}

fn named_user(variable: &str, usual: &str) -> Option<User> {
    let name = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    User::find(|user| user.name == name)
}

/// The user that everything is built as: where root runs the tests, a plain one with subordinate ranges; otherwise who runs
/// them, with ranges or without.
pub(crate) fn plain_user() -> Result<User, Lack> {
    if process_uid() == 0 {
        return user_with_ranges().map_err(|reason| Capability::PlainUsers.lack(reason));
    }
    User::find(|user| user.uid == process_uid())
        .ok_or_else(|| Capability::PlainUsers.lack("the user has no name in /etc/passwd"))
}

/// The plain user where he has subordinate ranges: for what compares them with a single id, or cannot do without.
pub(crate) fn ranged_user() -> Result<User, Lack> {
    user_with_ranges().map_err(|reason| Capability::Ranges.lack(reason))
}

/// That shmocker, left to itself, builds with subordinate ids: for what cannot be done with a single one.
pub(crate) fn all_ids() -> Result<(), Lack> {
    match std::env::var("SHMOCKER_TEST_IDS").as_deref() {
        Ok("single") => Err(Capability::Ranges.lack("SHMOCKER_TEST_IDS is `single`")),
        _ => ranged_user().map(drop),
    }
}

fn user_with_ranges() -> Result<User, &'static str> {
    if !on_path("newuidmap") {
        return Err("newuidmap is not installed (Debian package uidmap)");
    }
    let user = if process_uid() == 0 {
        named_user("SHMOCKER_TEST_USER", "shmocker-ranges")
    } else {
        User::find(|user| user.uid == process_uid())
    };
    match user {
        None => Err("no such user; `tests/run` as root makes one"),
        Some(user) if !user.has_ranges() => Err("the user has no subordinate ids"),
        Some(user) => Ok(user),
    }
}

/// A plain user without subordinate ranges.
pub(crate) fn bare_user() -> Result<User, Lack> {
    let user = if process_uid() == 0 {
        named_user("SHMOCKER_TEST_BARE_USER", "shmocker-bare")
    } else {
        User::find(|user| user.uid == process_uid())
    };
    match user {
        Some(user) if !user.has_ranges() => Ok(user),
        _ => Err(Capability::BareUser
            .lack("no user without subordinate ids; `tests/run` as root makes one")),
    }
}

/// Root itself.
pub(crate) fn root() -> Result<User, Lack> {
    match process_uid() {
        0 => Ok(User {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            home: workshop().join("root-home"),
        }),
        _ => Err(Capability::Root.lack("the tests run as a plain user")),
    }
}

/// Whether a program is installed.
pub(crate) fn on_path(program: &str) -> bool {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

/// A program that must be installed.
pub(crate) fn program(capability: Capability, program: &str) -> Result<String, Lack> {
    if on_path(program) {
        Ok(program.to_owned())
    } else {
        Err(capability.lack(format!("{program} is not installed")))
    }
}

/// go-containerregistry's tool, which no distribution has.
pub(crate) fn crane() -> Result<PathBuf, Lack> {
    let lack = || {
        Capability::Crane
            .lack("SHMOCKER_TEST_CRANE does not name it; `tests/run` builds it where there is Go")
    };
    let named = std::env::var_os("SHMOCKER_TEST_CRANE").map(PathBuf::from);
    named.filter(|path| path.is_file()).ok_or_else(lack)
}

/// Whether what takes minutes is wanted.
pub(crate) fn patience(what: &str) -> Result<(), Lack> {
    match std::env::var_os("SHMOCKER_TEST_LONG") {
        Some(_) => Ok(()),
        None => {
            Err(Capability::Patience
                .lack(format!("{what}; SHMOCKER_TEST_LONG=1 has time for that")))
        }
    }
}

/// Whether the Debian archive that this machine uses answers.
pub(crate) fn debian_archive() -> Result<(), Lack> {
    static ANSWER: OnceLock<Result<(), Lack>> = OnceLock::new();
    ANSWER
        .get_or_init(|| {
            let mirror = apt_mirror().unwrap_or_else(|| "http://deb.debian.org/debian".to_owned());
            let url = format!("{mirror}/dists/bookworm/InRelease");
            reqwest::blocking::Client::builder()
                .timeout(std::time::Duration::from_secs(20))
                .build()
                .and_then(|client| client.get(&url).send())
                .and_then(reqwest::blocking::Response::error_for_status)
                .map(drop)
                .map_err(|error| {
                    Capability::DebianArchive.lack(format!("{url} does not answer: {error}"))
                })
        })
        .clone()
}

/// The first mirror that the machine's own apt sources name.
fn apt_mirror() -> Option<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        std::fs::read_dir("/etc/apt/sources.list.d")
            .ok()?
            .flatten()
            .map(|entry| entry.path()),
    );
    files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .flat_map(|text| {
            text.lines()
                .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
                .flat_map(str::split_whitespace)
                .filter(|word| {
                    word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian")
                })
                .map(|word| word.trim_end_matches('/').to_owned())
                .collect::<Vec<_>>()
        })
        .next()
}

/// A file of the shared fixtures, which lie beside the project where it is developed.
pub(crate) fn fixture(path: &str) -> Result<PathBuf, Lack> {
    let root = std::env::var_os("SHMOCKER_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures"),
        PathBuf::from,
    );
    let found = root.join(path);
    if found.exists() {
        Ok(found)
    } else {
        Err(Capability::Fixtures.lack(format!("no {path} in the shared fixtures")))
    }
}

/// The place of everything that the tests of this process make: readable by every user that they run as. `tests/run`
/// gives one and takes it away; otherwise the next run removes what this one left.
pub(crate) fn workshop() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = std::env::var_os("SHMOCKER_TEST_DIR").map_or_else(own_place, PathBuf::from);
        for dir in ["bin", "root-home", "runs"] {
            std::fs::create_dir_all(place.join(dir)).expect("a directory can be made");
        }
        place
    })
}

fn own_place() -> PathBuf {
    let mine = format!("shmocker-tests-{}-", process_uid());
    let siblings = std::fs::read_dir(std::env::temp_dir());
    for sibling in siblings.into_iter().flatten().flatten() {
        let name = sibling.file_name().to_string_lossy().into_owned();
        let is_left = name
            .strip_prefix(&mine)
            .is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if is_left {
            remove_tree(&sibling.path());
        }
    }
    std::env::temp_dir().join(format!("{mine}{}", std::process::id()))
}

/// A directory of the user's own in the workshop.
pub(crate) fn place_for(user: &User, name: &str) -> PathBuf {
    let place = workshop().join(name);
    std::fs::create_dir_all(&place).expect("a directory can be made");
    if process_uid() == 0 {
        std::os::unix::fs::chown(&place, Some(user.uid), Some(user.gid))
            .expect("root can give files away");
    }
    place
}

/// Removes a tree whose files may belong to ids of the user's subordinate range.
pub(crate) fn remove_tree(path: &Path) {
    if std::fs::remove_dir_all(path).is_ok() || process_uid() == 0 {
        return;
    }
    // Without subordinate ids all of it is the user's own, but not all directories can be written to.
    for more in [&["--map-auto"][..], &[]] {
        if path.exists() {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user"]).args(more);
            command.args(["rm", "-rf", "--"]).arg(path);
            drop(command.output());
        }
    }
}

/// A copy of a program in a place that every user of the tests can execute from.
pub(crate) fn executable(program: &Path, name: &str) -> PathBuf {
    let copy = workshop().join("bin").join(name);
    // By `cp`, so that no file that is open for writing leaks into a child that another test starts at this moment.
    let done = Command::new("cp").arg(program).arg(&copy).status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "cp {}",
        program.display()
    );
    copy
}

/// shmocker, where every user can execute it.
pub(crate) fn shmocker() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| executable(Path::new(env!("CARGO_BIN_EXE_shmocker")), "shmocker"))
}

static TURNS: RwLock<()> = RwLock::new(());

/// The right to use the machine now: beside other tests, or alone.
#[derive(Debug)]
pub(crate) enum Turn {
    Beside {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

thread_local! {
    static HELD: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
}

fn turn(take: impl FnOnce() -> Turn) -> Rc<Turn> {
    HELD.with_borrow_mut(|held| {
        held.upgrade().unwrap_or_else(|| {
            let turn = Rc::new(take());
            *held = Rc::downgrade(&turn);
            turn
        })
    })
}

/// Held by every bench, so that a test that measures time can be alone.
pub(crate) fn beside_others() -> Rc<Turn> {
    turn(|| Turn::Beside {
        _guard: TURNS.read().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Taken by a test that measures time, before its first bench.
pub(crate) fn alone() -> Rc<Turn> {
    turn(|| Turn::Alone {
        _guard: TURNS.write().unwrap_or_else(PoisonError::into_inner),
    })
}
