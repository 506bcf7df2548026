//! Calls about files: what they name is found as the caller would find it, and worked on through the descriptor that holds it.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, StatxFlags, Timespec, Timestamps,
};
use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;
use rustix::thread::LinkNameSpaceType;

use super::credentials::Credentials;
use super::making::New;
use super::{Answered, errno, number};
use crate::sys::dir::{Kind, Metadata, Time};
use crate::sys::mount::Tree;
use crate::sys::owner::{self, At};
use crate::sys::seccomp::{Answer, Listener, Notification};
use crate::sys::task::{self, THREAD, Task};

pub(super) const SET_USER_ID: u32 = 0o4000;
pub(super) const SET_GROUP_ID: u32 = 0o2000;
pub(super) const EXECUTABLE_BY_GROUP: u32 = 0o010;
/// The caller's own directory (`AT_FDCWD`).
pub(super) const HERE: u64 = -100_i64 as u64;
pub(super) const NO_FOLLOW: u64 = 0x100;
pub(super) const NO_FLAGS: u64 = 0;
const EMPTY_PATH: u64 = 0x1000;
/// What `stat` takes beside them: `AT_NO_AUTOMOUNT`, `AT_STATX_SYNC_TYPE`.
const STAT_FLAGS: u64 = 0x800 | 0x6000;
/// `struct open_how` as it has always been.
const OPEN_HOW_BYTES: usize = 24;

/// A call, and who makes it.
pub(super) struct Request<'a> {
    pub(super) call: &'a Notification,
    pub(super) task: Task,
    pub(super) credentials: &'a Credentials,
    pub(super) listener: &'a Listener,
}

impl Request<'_> {
    /// Says no if the call waits no more. Then what was found under the number of its caller may be somebody else's.
    pub(super) fn still_waits(&self) -> Result<(), Errno> {
        match self.listener.is_waiting(self.call) {
            true => Ok(()),
            false => Err(Errno::SRCH),
        }
    }

    /// Writes into the caller's memory.
    pub(super) fn put(&self, to: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.task.memory().map_err(errno)?;
        self.still_waits()?;
        memory.write(to, bytes).map_err(errno)
    }
}

/// What a call is about: a directory of the caller's, and a path from there.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) directory: i32,
    pub(super) path: CString,
}

/// Something that is there, and what holds it.
pub(super) struct Subject {
    pub(super) metadata: Metadata,
    pub(super) held: OwnedFd,
    /// Whether it belongs to whom what is mounted belongs to, without a record.
    pub(super) is_mounted: bool,
}

impl Subject {
    pub(super) fn of(held: OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&held)?;
        let mut metadata = Metadata::of_kernel(&stat).map_err(errno)?;
        // What this process cannot own is nobody's here, and no record says otherwise.
        if metadata.uid == 0
            && let Some(recorded) =
                owner::recorded_open(held.as_fd(), (metadata.kind, metadata.accessed))
                    .map_err(errno)?
        {
            (metadata.uid, metadata.gid) = recorded;
        }
        Ok(Self {
            metadata,
            held,
            is_mounted: false,
        })
    }

    pub(super) fn owner(&self) -> (u32, u32) {
        (self.metadata.uid, self.metadata.gid)
    }

    /// Where it is in this thread's /proc.
    fn path(&self) -> String {
        format!("self/fd/{}", self.held.as_raw_fd())
    }

    fn can_be_executed(&self) -> bool {
        self.metadata.kind == Kind::File && self.metadata.mode & 0o111 != 0
    }

    /// Whose rights it gives to whoever executes it. Scripts give none.
    fn set_ids(&self) -> (Option<u32>, Option<u32>) {
        let Metadata {
            mode,
            uid,
            gid,
            kind,
            ..
        } = self.metadata;
        let has = |bits: u32| mode & bits == bits;
        if kind != Kind::File || !(has(SET_USER_ID) || has(SET_GROUP_ID)) {
            return (None, None);
        }
        let mut head = [0; 2];
        let read = rustix::fs::openat(
            CWD,
            self.path(),
            // Somebody's lease on it would be waited for otherwise.
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|file| rustix::io::read(&file, &mut head));
        if read.is_err() || &head == b"#!" {
            return (None, None);
        }
        (
            has(SET_USER_ID).then_some(uid),
            has(SET_GROUP_ID | EXECUTABLE_BY_GROUP).then_some(gid),
        )
    }

    /// Whether it has set-id bits that go when somebody changes its owner; the mode without those that do not go by themselves.
    fn lends(&self, credentials: &Credentials) -> (bool, Option<u32>) {
        let Metadata { mode, kind, .. } = self.metadata;
        if kind == Kind::Dir {
            return (false, None);
        }
        // Without the right to execute, it is the sign of a file that is locked, for those in its group.
        let locks = mode & (SET_GROUP_ID | EXECUTABLE_BY_GROUP) == SET_GROUP_ID;
        let unlocked = locks && !credentials.may_lend(self.metadata.gid);
        let lends = mode & SET_USER_ID != 0 || (mode & SET_GROUP_ID != 0 && !locks);
        (
            lends || unlocked,
            unlocked.then_some(mode & !SET_GROUP_ID & !SET_USER_ID),
        )
    }

    fn is_of_root(&self) -> bool {
        self.owner() == (0, 0)
    }

    pub(super) fn record(&self, owner: (u32, u32)) -> Result<(), Errno> {
        let path = self.path();
        owner::record(
            At::Open(Path::new(&path)),
            self.metadata.kind,
            owner.0,
            owner.1,
        )
        .map_err(errno)
    }
}

/// The path from this thread's /proc to what the caller names.
fn seen_from_here(task: Task, named: &Named) -> Result<CString, Errno> {
    let path = named.path.to_bytes();
    let start = match named.directory {
        _ if path.starts_with(b"/") => String::new(),
        -100 => format!("{}/cwd/", task.shown),
        fd if path.is_empty() => format!("{}/fd/{fd}", task.shown),
        fd => format!("{}/fd/{fd}/", task.shown),
    };
    CString::new([start.as_bytes(), path].concat()).map_err(|_| Errno::INVAL)
}

/// What is mounted into the container belongs to somebody of it, as far as no record says otherwise.
#[derive(Debug, Clone, Copy)]
struct Mounted {
    owner: (u32, u32),
    /// The mount that is not meant.
    root: u64,
}

impl Mounted {
    fn owner_of(self, seen: &Metadata, mount: u64) -> Option<(u32, u32)> {
        (seen.uid == 0 && mount != self.root).then_some(self.owner)
    }
}

fn mount_of(directory: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> Result<u64, Errno> {
    let seen = rustix::fs::statx(directory, path, flags, StatxFlags::MNT_ID)?;
    Ok(seen.stx_mnt_id)
}

/// What this thread has for finding things. Its current directory is a /proc in which callers have
/// the numbers that [`Task::shown`] is; its root is the container's.
#[derive(Debug)]
pub(super) struct Files {
    proc: OwnedFd,
    root: OwnedFd,
    mounted: Option<Mounted>,
    /// Who has called last. It is this one for good, whoever has its number later.
    last: RefCell<Option<(Task, OwnedFd)>>,
    roots: Roots,
    /// Whether the container's /proc has this process. There, it would take itself for the caller: what leads there is for the
    /// kernel to find.
    is_seen: bool,
}

/// Whether processes have different roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Roots {
    /// Not yet.
    Same,
    /// They may.
    Differ,
    /// Nothing here can change its root.
    Fixed,
}

impl Files {
    /// For the container of a process. From now on this thread's paths lead to nothing outside of it.
    pub(super) fn of(
        proc: &Tree,
        listener: &Listener,
        (task, call): (Task, &Notification),
        mounted_are_of: Option<(u32, u32)>,
    ) -> Result<Self, Errno> {
        let proc = rustix::io::fcntl_dupfd_cloexec(proc, 0)?;
        rustix::process::fchdir(&proc)?;
        let root = open_path(&format!("{}/root", task.shown))?;
        if !listener.is_waiting(call) {
            return Err(Errno::SRCH);
        }
        let mounted = match mounted_are_of {
            None => None,
            Some(owner) => Some(Mounted {
                owner,
                root: mount_of(root.as_fd(), c"", AtFlags::EMPTY_PATH)?,
            }),
        };
        let mut files = Self {
            proc,
            root,
            mounted,
            last: RefCell::new(None),
            roots: Roots::Same,
            is_seen: false,
        };
        match files.enter(&files.root) {
            // The filter of a container without CAP_SYS_CHROOT, which is the caller's too.
            Err(Errno::PERM) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let mounts = format!("{}/ns/mnt", task.shown);
                let mounts = rustix::fs::openat(&files.proc, mounts, flags, Mode::empty())?;
                if !listener.is_waiting(call) {
                    return Err(Errno::SRCH);
                }
                let kind = Some(LinkNameSpaceType::Mount);
                rustix::thread::move_into_link_name_space(mounts.as_fd(), kind)?;
                rustix::process::fchdir(&files.proc)?;
                files.roots = Roots::Fixed;
            }
            entered => entered?,
        }
        files.is_seen = rustix::fs::readlink(c"/proc/self", Vec::new()).is_ok();
        rustix::process::umask(Mode::empty());
        Ok(files)
    }

    fn enter(&self, root: &OwnedFd) -> Result<(), Errno> {
        rustix::process::fchdir(root)?;
        rustix::process::chroot(".")?;
        rustix::process::fchdir(&self.proc)
    }

    /// Answers a call.
    pub(super) fn answer(&mut self, name: &'static str, request: &Request<'_>) -> Answered {
        if name == "chroot" {
            if self.roots == Roots::Same {
                self.roots = Roots::Differ;
            }
            return Ok(Answer::Go);
        }
        self.within(request, |files| files.dispatch(name, request))
    }

    /// Who the caller is when it has executed what it is about to.
    pub(super) fn executing(
        &self,
        name: &'static str,
        request: &Request<'_>,
    ) -> Result<Credentials, Errno> {
        let [a, b, _, _, e, _] = request.call.arguments;
        let what = match name {
            "execve" => (HERE, a, NO_FLAGS),
            _ => (a, b, e),
        };
        self.within(request, |files| {
            files.refuse(name, request)?;
            let (directory, path, flags) = what;
            let fails = || Ok(request.credentials.clone());
            // What only asks, or is asked for in a way that is not known, executes nothing.
            let named = match flags & !(NO_FOLLOW | EMPTY_PATH) {
                0 => files.named(request, (directory, path))?,
                _ => None,
            };
            let Some(named) = named else {
                return fails();
            };
            let (user, group) = match files.find(request, &named, flags) {
                // As when a program is looked for along PATH.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return fails(),
                found => match callers(found)? {
                    Some(program) if !program.can_be_executed() => return fails(),
                    Some(program) => program.set_ids(),
                    // Found by way of a link of /proc.
                    None => (None, None),
                },
            };
            Ok(request.credentials.executing(user, group))
        })
    }

    /// With the root that the caller has.
    fn within<T>(
        &self,
        request: &Request<'_>,
        work: impl FnOnce(&Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if self.roots != Roots::Differ {
            return work(self);
        }
        let root = open_path(&format!("{}/root", request.task.shown))?;
        request.still_waits()?;
        self.enter(&root)?;
        let answer = work(self);
        // A thread that does not come back is of no more use.
        self.enter(&self.root).map_err(|_| Errno::NOSYS)?;
        answer
    }

    fn dispatch(&self, name: &'static str, request: &Request<'_>) -> Answered {
        self.refuse(name, request)?;
        let [a, b, c, d, e, _] = request.call.arguments;
        match name {
            "stat" => self.stat(request, (HERE, a, NO_FLAGS), To::Stat(b)),
            "lstat" => self.stat(request, (HERE, a, NO_FOLLOW), To::Stat(b)),
            "fstat" => self.stat_open(request, a, To::Stat(b)),
            "newfstatat" => self.stat(request, (a, b, d), To::Stat(c)),
            "statx" => self.stat(request, (a, b, c), To::Statx(e, number(d))),
            "chown" => self.chown(request, (HERE, a, NO_FLAGS), b, c),
            "lchown" => self.chown(request, (HERE, a, NO_FOLLOW), b, c),
            "fchownat" => self.chown(request, (a, b, e), c, d),
            "fchown" => self.chown_open(request, a, b, c),
            "open" => self.open(request, (HERE, a), b, c),
            "openat" => self.open(request, (a, b), c, d),
            "creat" => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC;
                self.open(request, (HERE, a), flags.bits().into(), b)
            }
            "openat2" => {
                let mut how = [0; OPEN_HOW_BYTES];
                if request.task.read(c, &mut how).is_err() {
                    return Ok(Answer::Go);
                }
                let field = |index: usize| {
                    let bytes = how[index * 8..][..8].try_into().unwrap_or_default();
                    u64::from_ne_bytes(bytes)
                };
                match field(2) {
                    0 => {
                        self.opens(request, (a, b), field(0))?;
                        self.open(request, (a, b), field(0), field(1))
                    }
                    _ => Ok(Answer::Go),
                }
            }
            "mkdir" => self.make(request, (HERE, a), &New::Directory(number(b))),
            "mkdirat" => self.make(request, (a, b), &New::Directory(number(c))),
            "mknod" => self.make(request, (HERE, a), &New::Node(number(b))),
            "mknodat" => self.make(request, (a, b), &New::Node(number(c))),
            "symlink" => self.make(request, (HERE, b), &New::Link(a)),
            "symlinkat" => self.make(request, (b, c), &New::Link(a)),
            "utimensat" if b == 0 => {
                self.set_times(request, (a, 0, EMPTY_PATH), Times::Nanoseconds(c))
            }
            "utimensat" => self.set_times(request, (a, b, d), Times::Nanoseconds(c)),
            "futimesat" if b == 0 => {
                self.set_times(request, (a, 0, EMPTY_PATH), Times::Microseconds(c))
            }
            "futimesat" => self.set_times(request, (a, b, NO_FLAGS), Times::Microseconds(c)),
            "utimes" => self.set_times(request, (HERE, a, NO_FLAGS), Times::Microseconds(b)),
            "utime" => self.set_times(request, (HERE, a, NO_FLAGS), Times::Seconds(b)),
            "setxattr" | "lsetxattr" | "fsetxattr" | "removexattr" | "lremovexattr"
            | "fremovexattr" => Ok(leave_records_alone(request, b)),
            "setxattrat" | "removexattrat" => Ok(leave_records_alone(request, d)),
            _ => Ok(Answer::Go),
        }
    }

    /// What a call names. `None`: the kernel may say what is wrong with it.
    pub(super) fn named(
        &self,
        request: &Request<'_>,
        (directory, path): (u64, u64),
    ) -> Result<Option<Named>, Errno> {
        let path = match path {
            0 => Some(CString::default()),
            path => callers(request.task.text(path).map_err(errno))?,
        };
        Ok(path.map(|path| Named {
            directory: number(directory).cast_signed(),
            path,
        }))
    }

    /// The directory that a path begins in, held.
    fn beginning(&self, task: Task, named: &Named) -> Result<OwnedFd, Errno> {
        if named.path.to_bytes().starts_with(b"/") {
            return open_path("/");
        }
        match named.directory {
            -100 => open_path(&format!("{}/cwd", task.shown)),
            fd => open_path(&format!("{}/fd/{fd}", task.shown)),
        }
    }

    /// What is known of something without holding it: enough to see that there is nothing to do. Nothing is done on the
    /// strength of it but leaving the call to the kernel, or refusing it.
    pub(super) fn glance(&self, task: Task, named: &Named, flags: u64) -> Result<Metadata, Errno> {
        let flags = AtFlags::from_bits_retain(number(flags)) & AtFlags::SYMLINK_NOFOLLOW;
        let path = &named.path;
        if path.is_empty() && named.directory >= 0 {
            return self.seen_open(&self.opened(task, named.directory)?);
        }
        if self.is_seen {
            let beginning = self.beginning(task, named)?;
            return self.seen_open(&self.resolve(&beginning, path, following(flags))?);
        }
        let (from, path) = match named.directory {
            _ if path.to_bytes().starts_with(b"/") => (None, path.clone()),
            -100 => {
                let path = [format!("{}/cwd/", task.shown).as_bytes(), path.to_bytes()].concat();
                (None, CString::new(path).map_err(|_| Errno::INVAL)?)
            }
            fd => (Some(self.opened(task, fd)?), path.clone()),
        };
        let from = from.as_ref().map_or(CWD, OwnedFd::as_fd);
        let stat = rustix::fs::statat(from, &*path, flags)?;
        let seen = Metadata::of_kernel(&stat).map_err(errno)?;
        self.with_owner(
            seen,
            |what| owner::recorded_below(from, &path, flags.is_empty(), what),
            || mount_of(from, &path, flags),
        )
    }

    /// The same of what is open.
    fn seen_open(&self, held: &OwnedFd) -> Result<Metadata, Errno> {
        let seen = Metadata::of_kernel(&rustix::fs::fstat(held)?).map_err(errno)?;
        self.with_owner(
            seen,
            |what| owner::recorded_open(held.as_fd(), what),
            || mount_of(held.as_fd(), c"", AtFlags::EMPTY_PATH),
        )
    }

    /// What the kernel says of something, with the owner of its record, or of what is mounted.
    fn with_owner(
        &self,
        mut seen: Metadata,
        recorded: impl FnOnce((Kind, Time)) -> std::io::Result<Option<(u32, u32)>>,
        mount: impl FnOnce() -> Result<u64, Errno>,
    ) -> Result<Metadata, Errno> {
        if seen.uid == 0
            && let Some(recorded) = recorded((seen.kind, seen.accessed)).map_err(errno)?
        {
            (seen.uid, seen.gid) = recorded;
        } else if let Some(mounted) = self.mounted
            && let Some(owner) = mounted.owner_of(&seen, mount()?)
        {
            (seen.uid, seen.gid) = owner;
        }
        Ok(seen)
    }

    /// What a caller has open. Whether it is still the caller's is for who asks to know.
    fn opened(&self, task: Task, fd: i32) -> Result<OwnedFd, Errno> {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|(of, _)| *of != task) {
            let pid = rustix::process::Pid::from_raw(task.number).ok_or(Errno::SRCH)?;
            *last = rustix::process::pidfd_open(pid, THREAD)
                .ok()
                .map(|it| (task, it));
        }
        if let Some((_, process)) = &*last {
            match rustix::process::pidfd_getfd(process, fd, PidfdGetfdFlags::empty()) {
                Ok(opened) => return Ok(opened),
                Err(Errno::BADF) => return Err(Errno::BADF),
                // Another has its number now.
                Err(_) => *last = None,
            }
        }
        open_path(&format!("{}/fd/{fd}", task.shown))
    }

    /// The kind of file system that something is in.
    pub(super) fn filesystem(&self, task: Task, named: &Named) -> Result<i64, Errno> {
        if self.is_seen {
            let beginning = self.beginning(task, named)?;
            let held = self.resolve(&beginning, &named.path, OFlags::empty())?;
            return Ok(rustix::fs::fstatfs(held)?.f_type);
        }
        Ok(rustix::fs::statfs(seen_from_here(task, named)?)?.f_type)
    }

    fn subject(&self, held: OwnedFd) -> Result<Subject, Errno> {
        let mut subject = Subject::of(held)?;
        if subject.is_of_root()
            && let Some(mounted) = self.mounted
        {
            let mount = mount_of(subject.held.as_fd(), c"", AtFlags::EMPTY_PATH)?;
            if let Some(owner) = mounted.owner_of(&subject.metadata, mount) {
                (subject.metadata.uid, subject.metadata.gid) = owner;
                subject.is_mounted = true;
            }
        }
        Ok(subject)
    }

    pub(super) fn find(
        &self,
        request: &Request<'_>,
        named: &Named,
        flags: u64,
    ) -> Result<Subject, Errno> {
        let beginning = self.beginning(request.task, named)?;
        request.still_waits()?;
        if named.path.is_empty() {
            return self.subject(beginning);
        }
        let following = following(AtFlags::from_bits_retain(number(flags)));
        self.subject(self.resolve(&beginning, &named.path, following)?)
    }

    /// What a path leads to from a directory.
    pub(super) fn below(&self, directory: &Subject, path: &CStr) -> Result<Subject, Errno> {
        self.subject(self.resolve(&directory.held, path, OFlags::empty())?)
    }

    fn resolve(
        &self,
        beginning: &OwnedFd,
        path: &CStr,
        following: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | following;
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let held = rustix::fs::openat2(beginning.as_fd(), path, flags, Mode::empty(), resolve)?;
        match self.is_seen && rustix::fs::fstatfs(&held)?.f_type == PROC_SUPER_MAGIC {
            true => Err(Errno::NOENT),
            false => Ok(held),
        }
    }

    fn find_open(&self, request: &Request<'_>, fd: u64) -> Result<Subject, Errno> {
        let fd = number(fd).cast_signed();
        let held = open_path(&format!("{}/fd/{fd}", request.task.shown))?;
        request.still_waits()?;
        self.subject(held)
    }

    fn stat(&self, request: &Request<'_>, what: (u64, u64, u64), to: To) -> Answered {
        let (directory, path, flags) = what;
        if flags & !(NO_FOLLOW | EMPTY_PATH | STAT_FLAGS) != 0 {
            return Ok(Answer::Go);
        }
        let Some(named) = self.named(request, (directory, path))? else {
            return Ok(Answer::Go);
        };
        if named.path.is_empty() && !may_be_empty(flags) {
            return Ok(Answer::Go);
        }
        match callers(self.glance(request.task, &named, flags))? {
            Some(seen) if (seen.uid, seen.gid) != (0, 0) => {}
            _ => return Ok(Answer::Go),
        }
        match callers(self.find(request, &named, flags))? {
            Some(subject) if !subject.is_of_root() => to.put(request, &subject),
            _ => Ok(Answer::Go),
        }
    }

    fn stat_open(&self, request: &Request<'_>, fd: u64, to: To) -> Answered {
        let open = Named {
            directory: number(fd).cast_signed(),
            path: CString::default(),
        };
        match callers(self.glance(request.task, &open, NO_FLAGS))? {
            Some(seen) if open.directory >= 0 && (seen.uid, seen.gid) != (0, 0) => {}
            _ => return Ok(Answer::Go),
        }
        match callers(self.find_open(request, fd))? {
            Some(subject) if !subject.is_of_root() => to.put(request, &subject),
            _ => Ok(Answer::Go),
        }
    }

    fn chown_open(&self, request: &Request<'_>, fd: u64, uid: u64, gid: u64) -> Answered {
        match is_open(request.task, fd) {
            true => self.chown(request, (fd, 0, EMPTY_PATH), uid, gid),
            false => Ok(Answer::Go),
        }
    }

    fn chown(&self, request: &Request<'_>, what: (u64, u64, u64), uid: u64, gid: u64) -> Answered {
        let (directory, path, flags) = what;
        if flags & !(NO_FOLLOW | EMPTY_PATH) != 0 {
            return Ok(Answer::Go);
        }
        let Some(named) = self.named(request, (directory, path))? else {
            return Ok(Answer::Go);
        };
        if named.path.is_empty() && !may_be_empty(flags) {
            return Ok(Answer::Go);
        }
        // From root to root: that the kernel can do.
        if request.credentials.is_powerful_over_files()
            && [uid, gid]
                .map(number)
                .iter()
                .all(|id| [0, u32::MAX].contains(id))
            && let Ok(seen) = self.glance(request.task, &named, flags)
            && (seen.uid, seen.gid) == (0, 0)
        {
            return Ok(Answer::Go);
        }
        match callers(self.find(request, &named, flags))? {
            Some(subject) => chown(request, &subject, uid, gid),
            None => Ok(Answer::Go),
        }
    }

    /// The times of a link or pipe, one of which is a record.
    fn set_times(&self, request: &Request<'_>, what: (u64, u64, u64), times: Times) -> Answered {
        let (directory, path, flags) = what;
        if flags & !(NO_FOLLOW | EMPTY_PATH) != 0 {
            return Ok(Answer::Go);
        }
        let Some(named) = self.named(request, (directory, path))? else {
            return Ok(Answer::Go);
        };
        let is_record = |seen: &Metadata| {
            !matches!(seen.kind, Kind::File | Kind::Dir) && owner::in_time(seen.accessed).is_some()
        };
        match callers(self.glance(request.task, &named, flags))? {
            Some(seen) if is_record(&seen) && (path != 0 || is_open(request.task, directory)) => {}
            _ => return Ok(Answer::Go),
        }
        let Some(subject) = callers(self.find(request, &named, flags))? else {
            return Ok(Answer::Go);
        };
        if !is_record(&subject.metadata) {
            return Ok(Answer::Go);
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT,
            },
            last_modification: times.modified(request.task)?,
        };
        request.still_waits()?;
        rustix::fs::utimensat(&subject.held, c"", &times, AtFlags::EMPTY_PATH)?;
        Ok(Answer::Value(0))
    }
}

/// Two times in the caller's memory, of reading and of changing; none at address zero, which is now.
#[derive(Debug, Clone, Copy)]
enum Times {
    Nanoseconds(u64),
    Microseconds(u64),
    Seconds(u64),
}

impl Times {
    fn modified(self, task: Task) -> Result<Timespec, Errno> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let number = |at: u64| {
            let mut bytes = [0; 8];
            task.read(at, &mut bytes).map_err(errno)?;
            Ok::<i64, Errno>(i64::from_ne_bytes(bytes))
        };
        let (tv_sec, tv_nsec) = match self {
            Self::Nanoseconds(0) | Self::Microseconds(0) | Self::Seconds(0) => return Ok(now),
            Self::Nanoseconds(at) => (number(at + 16)?, number(at + 24)?),
            Self::Microseconds(at) => (number(at + 16)?, number(at + 24)?.saturating_mul(1000)),
            Self::Seconds(at) => (number(at + 8)?, 0),
        };
        Ok(Timespec { tv_sec, tv_nsec })
    }
}

/// Where an answer about a file goes.
#[derive(Debug, Clone, Copy)]
enum To {
    Stat(u64),
    Statx(u64, u32),
}

impl To {
    fn put(self, request: &Request<'_>, subject: &Subject) -> Answered {
        let owner = subject.owner();
        match self {
            Self::Stat(to) => {
                let stat = task::stat(subject.held.as_fd(), owner).map_err(errno)?;
                request.put(to, task::bytes_of(&stat))?;
            }
            Self::Statx(to, mask) => {
                let stat = task::statx(subject.held.as_fd(), mask, owner).map_err(errno)?;
                request.put(to, task::bytes_of(&stat))?;
            }
        }
        Ok(Answer::Value(0))
    }
}

fn chown(request: &Request<'_>, subject: &Subject, uid: u64, gid: u64) -> Answered {
    match subject.metadata.kind {
        // A terminal, or another device of the machine's: it is given back anyway when the step ends.
        Kind::CharDevice | Kind::BlockDevice => return Ok(Answer::Value(0)),
        _ => {}
    }
    let new = request
        .credentials
        .given(subject.owner(), number(uid), number(gid))?;
    let (lends, unlocked) = subject.lends(request.credentials);
    if lends && !request.credentials.may_change(subject.owner()) {
        return Err(Errno::PERM);
    }
    if subject.is_mounted {
        // It is the caller's own file, and stays so.
        return match new == subject.owner() {
            true => Ok(Answer::Value(0)),
            false => Err(Errno::PERM),
        };
    }
    // To nobody new: set-id bits and capabilities go, and what is in a layer below is copied up.
    rustix::fs::chownat(&subject.held, c"", None, None, AtFlags::EMPTY_PATH)?;
    if let Some(mode) = unlocked {
        rustix::fs::chmod(subject.path(), Mode::from_raw_mode(mode))?;
    }
    match subject.record(new) {
        Ok(()) => Ok(Answer::Value(0)),
        // A socket, or a file of the kernel's, which nothing outlives.
        Err(Errno::NOTSUP | Errno::PERM) => Ok(Answer::Go),
        Err(error) => Err(error),
    }
}

/// Programs that copy attributes do not copy owners with them.
fn leave_records_alone(request: &Request<'_>, name: u64) -> Answer {
    match request.task.text(name) {
        Ok(name) if name.to_bytes() == owner::ATTRIBUTE.as_bytes() => Answer::Value(0),
        _ => Answer::Go,
    }
}

/// Whether it is open for more than to be named (`O_PATH`): /proc shows that as the rights of a link.
fn is_open(task: Task, fd: u64) -> bool {
    let link = format!("{}/fd/{}", task.shown, number(fd).cast_signed());
    let link = rustix::fs::statat(CWD, link, AtFlags::SYMLINK_NOFOLLOW);
    link.is_ok_and(|link| link.st_mode & 0o600 != 0)
}

fn may_be_empty(flags: u64) -> bool {
    AtFlags::from_bits_retain(number(flags)).contains(AtFlags::EMPTY_PATH)
}

/// What is not found because of what the caller asks for, the kernel will not find either, and says so. What is not found
/// because of something else, such as too many open files, must not seem to be nobody's.
pub(super) fn callers<T>(found: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(
            own @ (Errno::MFILE
            | Errno::NFILE
            | Errno::NOMEM
            | Errno::NOBUFS
            | Errno::IO
            | Errno::INTR
            | Errno::NOSYS),
        ) => Err(own),
        Err(_) => Ok(None),
    }
}

/// By a path of this thread's.
fn open_path(path: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

fn following(flags: AtFlags) -> OFlags {
    match flags.contains(AtFlags::SYMLINK_NOFOLLOW) {
        true => OFlags::NOFOLLOW,
        false => OFlags::empty(),
    }
}
