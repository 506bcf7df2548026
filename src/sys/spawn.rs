//! Starts programs in new namespaces, from any thread.
//!
//! One function makes the child and one walks it to its `exec`; between the two nothing allocates, locks or calls into
//! libc's own state, so that a parent with threads is as good as one without. What goes wrong on the child's side comes
//! back as a [`SpawnError`] that names the step, through a pipe that `exec` closes.
//!
//! Where the child waits for its id mapping it is a copy of the parent (as `fork` has it). Where it does not, it shares
//! the parent's memory until `exec` and the parent's thread stands still (as `vfork` has it), so that the size of the
//! parent costs nothing.
//!
//! The legacy `clone` call is used because container runtimes answer `clone3` with ENOSYS; it knows all the flags that
//! are needed here.
#![expect(unsafe_code, reason = "clone, and what runs between it and exec")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// The namespaces that a child gets of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces(c_int);

impl Namespaces {
    /// None: the parent's.
    pub const NONE: Self = Self(0);
    /// Users and groups, and the capabilities that go with them.
    pub const USER: Self = Self(libc::CLONE_NEWUSER);
    /// Mounts.
    pub const MOUNT: Self = Self(libc::CLONE_NEWNS);
    /// Processes; the child is number 1 and takes the rest with it.
    pub const PID: Self = Self(libc::CLONE_NEWPID);
    /// System V and POSIX message queues, semaphores, shared memory.
    pub const IPC: Self = Self(libc::CLONE_NEWIPC);
    /// Host name.
    pub const UTS: Self = Self(libc::CLONE_NEWUTS);
    /// The view of the cgroup tree.
    pub const CGROUP: Self = Self(libc::CLONE_NEWCGROUP);
    /// Network devices, addresses and ports.
    pub const NETWORK: Self = Self(libc::CLONE_NEWNET);

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// What is executed.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// An open file.
    Open(BorrowedFd<'a>),
    /// A file by its absolute path; nothing is searched.
    Path(&'a CStr),
}

/// What becomes of a child whose parent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenParentDies {
    /// It goes on.
    Stays,
    /// It is killed when the thread that started it ends. A second line of defence: a pid namespace is the first.
    IsKilled,
}

/// A program, and all that it starts with.
#[derive(Debug)]
pub struct Command<'a> {
    /// What is executed.
    pub program: Program<'a>,
    /// The arguments; the first is the name that it sees itself by.
    pub argv: Vec<CString>,
    /// The whole environment, as `NAME=value`.
    pub env: Vec<CString>,
    /// Its open files: the first is descriptor 0, and so on. It has no others.
    pub fds: Vec<BorrowedFd<'a>>,
    /// The namespaces of its own.
    pub namespaces: Namespaces,
    /// What becomes of it when the parent dies.
    pub when_parent_dies: WhenParentDies,
}

/// Where on the child's side a start can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Making the process and its namespaces.
    Clone,
    /// Waiting for its ids to be mapped.
    Mapping,
    /// Becoming root of its namespace.
    Identity,
    /// Putting its open files in order.
    Files,
    /// Executing the program.
    Exec,
}

impl Stage {
    const ALL: [Self; 5] = [
        Self::Clone,
        Self::Mapping,
        Self::Identity,
        Self::Files,
        Self::Exec,
    ];

    const fn what(self) -> &'static str {
        match self {
            Self::Clone => "make the process and its namespaces",
            Self::Mapping => "wait for the ids to be mapped",
            Self::Identity => "become root of the new user namespace",
            Self::Files => "put the open files in order",
            Self::Exec => "execute the program",
        }
    }
}

/// A program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {}", stage.what())]
pub struct SpawnError {
    /// What was being done.
    pub stage: Stage,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// A program could not be started in a user namespace.
#[derive(Debug, thiserror::Error)]
pub enum MappedError<E> {
    /// The start itself failed.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Its ids could not be mapped.
    #[error("cannot map the ids of the new user namespace")]
    Mapping(#[source] E),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A started program. Dropping it without having waited kills it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    ended: Option<Ended>,
}

impl Child {
    /// Its number, as the parent sees it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets it go on for itself: whoever is the parent of orphans waits for it.
    pub fn leave(mut self) {
        self.ended = Some(Ended::Exited(0));
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// What the kernel says; nothing ordinary.
    pub fn wait(&mut self) -> io::Result<Ended> {
        loop {
            match self.reap(WaitIdOptions::EXITED) {
                Ok(Some(ended)) => return Ok(ended),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks whether it has ended.
    ///
    /// # Errors
    /// What the kernel says; nothing ordinary.
    pub fn try_wait(&mut self) -> io::Result<Option<Ended>> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Sends it a signal. One that has ended already is no error.
    ///
    /// # Errors
    /// What the kernel says; nothing ordinary.
    pub fn kill(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has a handler for a signal, as far as that can be found out.
    #[must_use]
    pub fn handles(&self, signal: Signal) -> bool {
        let look = |path: String, field: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(field))?;
            Some(line.trim().to_owned())
        };
        // Its number where /proc is mounted, which may be another pid namespace than this process's.
        let fd = self.pidfd.as_raw_fd();
        let caught = look(format!("/proc/self/fdinfo/{fd}"), "Pid:")
            .and_then(|pid| look(format!("/proc/{pid}/status"), "SigCgt:"))
            .and_then(|mask| u64::from_str_radix(&mask, 16).ok());
        caught.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
    }

    fn reap(&mut self, options: WaitIdOptions) -> io::Result<Option<Ended>> {
        if self.ended.is_none() {
            let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            self.ended = status.and_then(|status| {
                let exited = status.exit_status().map(Ended::Exited);
                exited.or_else(|| status.terminating_signal().map(Ended::Killed))
            });
        }
        Ok(self.ended)
    }
}

/// Readable once the process has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Nobody is left to tell, and a process that is gone already is what is wanted.
            drop(self.kill(Signal::KILL));
            drop(self.wait());
        }
    }
}

/// Starts a program.
///
/// # Errors
/// With the stage at which it failed; no process is left behind.
pub fn spawn(command: &Command<'_>) -> Result<Child, SpawnError> {
    let status = pipe(Stage::Files)?;
    let prepared = Prepared::new(command, &status, None);
    let child = prepared.start(libc::CLONE_VM | libc::CLONE_VFORK)?;
    drop(status.write);
    finish(child, status.read)
}

/// Starts a program as root of a new user namespace. `map` is given the process's number and maps its ids, while it waits.
///
/// # Errors
/// With the stage at which it failed, or what `map` said; no process is left behind.
pub fn spawn_mapped<E>(
    command: &Command<'_>,
    map: impl FnOnce(Pid) -> Result<(), E>,
) -> Result<Child, MappedError<E>> {
    let status = pipe(Stage::Files)?;
    let go = pipe(Stage::Files)?;
    let prepared = Prepared::new(command, &status, Some(&go));
    let child = prepared.start(0)?;
    drop(status.write);
    drop(go.read);
    map(child.pid).map_err(MappedError::Mapping)?;
    // A child that is gone already reports itself below.
    drop(File::from(go.write).write_all(b"."));
    Ok(finish(child, status.read)?)
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

fn pipe(stage: Stage) -> Result<Pipe, SpawnError> {
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| SpawnError {
            stage,
            source: errno.into(),
        })?;
    Ok(Pipe { read, write })
}

fn finish(mut child: Child, status: OwnedFd) -> Result<Child, SpawnError> {
    let mut report = Vec::with_capacity(8);
    let read = File::from(status).read_to_end(&mut report);
    let failed = |stage, source| Err(SpawnError { stage, source });
    match (read, report.as_slice()) {
        (Err(error), _) => failed(Stage::Exec, error),
        (Ok(_), []) => Ok(child),
        (Ok(_), [stage, errno @ ..]) => {
            drop(child.wait());
            let errno = errno
                .try_into()
                .map(i32::from_ne_bytes)
                .unwrap_or(libc::EIO);
            let stage = Stage::ALL
                .get(usize::from(*stage))
                .copied()
                .unwrap_or(Stage::Exec);
            failed(stage, io::Error::from_raw_os_error(errno))
        }
    }
}

/// Everything that the child needs, allocated before it exists.
struct Prepared<'a> {
    program: Program<'a>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    sources: Vec<RawFd>,
    /// Room for the sources while they are moved out of the way of the targets.
    moved: std::cell::UnsafeCell<Vec<RawFd>>,
    status: RawFd,
    go: Option<(RawFd, RawFd)>,
    namespaces: c_int,
    when_parent_dies: WhenParentDies,
}

const STACK_BYTES: usize = 128 * 1024;

#[repr(align(16))]
struct StackChunk(#[expect(dead_code, reason = "it is only memory")] [u8; 16]);

impl<'a> Prepared<'a> {
    fn new(command: &'a Command<'a>, status: &Pipe, go: Option<&Pipe>) -> Self {
        let pointers = |texts: &[CString]| {
            let texts = texts.iter().map(|text| text.as_ptr());
            texts.chain([ptr::null()]).collect::<Vec<_>>()
        };
        Self {
            program: command.program,
            argv: pointers(&command.argv),
            env: pointers(&command.env),
            sources: command.fds.iter().map(AsRawFd::as_raw_fd).collect(),
            moved: std::cell::UnsafeCell::new(vec![-1; command.fds.len()]),
            status: status.write.as_raw_fd(),
            go: go.map(|go| (go.read.as_raw_fd(), go.write.as_raw_fd())),
            namespaces: command.namespaces.0,
            when_parent_dies: command.when_parent_dies,
        }
    }

    fn start(&self, sharing: c_int) -> Result<Child, SpawnError> {
        let mut stack: Vec<StackChunk> = Vec::with_capacity(STACK_BYTES / size_of::<StackChunk>());
        let mut pidfd: RawFd = -1;
        let flags = sharing | self.namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;

        let signals = AllSignalsBlocked::new();
        // SAFETY: one past the end of the spare capacity, from where the child's stack grows down.
        let top = unsafe { stack.as_mut_ptr().add(stack.capacity()) };
        // SAFETY: `run_child` does not return to Rust code of the parent and touches only `self`, which outlives it: it has
        // its own copy of the memory, or (CLONE_VFORK) this thread stands still until it has executed or ended.
        let pid = unsafe {
            libc::clone(
                run_child,
                top.cast::<c_void>(),
                flags,
                ptr::from_ref(self).cast_mut().cast::<c_void>(),
                ptr::from_mut(&mut pidfd),
            )
        };
        let error = io::Error::last_os_error();
        drop(signals);

        match Pid::from_raw(pid) {
            Some(valid) if pid > 0 => Ok(Child {
                pid: valid,
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
                pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
                ended: None,
            }),
            _ => Err(SpawnError {
                stage: Stage::Clone,
                source: error,
            }),
        }
    }

    /// The child's whole life before `exec`. Only system calls. `status` follows the pipe as it moves.
    fn run(&self, status: &mut RawFd) -> (Stage, c_int) {
        reset_signal_handlers();
        if let Some((read, write)) = self.go {
            if let Err(errno) = wait_for_mapping(read, write) {
                return (Stage::Mapping, errno);
            }
            if let Err(errno) = become_root() {
                return (Stage::Identity, errno);
            }
        }
        if self.when_parent_dies == WhenParentDies::IsKilled {
            // SAFETY: plain values. It cannot fail with a valid signal.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        }
        let program = match self.arrange_files(status) {
            Ok(program) => program,
            Err(errno) => return (Stage::Files, errno),
        };
        unblock_signals();
        (Stage::Exec, self.execute(program))
    }

    /// Moves the sources above all targets, then each to its place; what is left closes on exec.
    fn arrange_files(&self, status: &mut RawFd) -> Result<RawFd, c_int> {
        let count = c_int::try_from(self.sources.len()).unwrap_or(c_int::MAX);
        let above = |fd: RawFd| {
            // SAFETY: plain values.
            let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, count.max(3)) };
            if moved < 0 { Err(errno()) } else { Ok(moved) }
        };
        *status = above(*status)?;
        let program = match self.program {
            Program::Open(fd) => above(fd.as_raw_fd())?,
            Program::Path(_) => -1,
        };
        // SAFETY: only the child calls this, once; the parent stands still or has its own copy.
        let moved = unsafe { &mut *self.moved.get() };
        for (place, source) in moved.iter_mut().zip(&self.sources) {
            *place = above(*source)?;
        }
        // SAFETY: plain values; this process has one thread, and its table of files is its own.
        unsafe {
            libc::syscall(
                libc::SYS_close_range,
                count,
                c_int::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        for (target, source) in (0..count).zip(moved.iter()) {
            // SAFETY: plain values; what was at `target` has been copied above or is not wanted.
            if unsafe { libc::dup2(*source, target) } < 0 {
                return Err(errno());
            }
        }
        Ok(program)
    }

    fn execute(&self, program: RawFd) -> c_int {
        let (argv, env) = (self.argv.as_ptr(), self.env.as_ptr());
        match self.program {
            // SAFETY: both lists end in null, and their texts outlive the call.
            Program::Path(path) => unsafe {
                libc::c_long::from(libc::execve(path.as_ptr(), argv, env))
            },
            // SAFETY: as above; the path is a valid empty text.
            Program::Open(_) => unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    program,
                    c"".as_ptr(),
                    argv,
                    env,
                    libc::AT_EMPTY_PATH,
                )
            },
        };
        errno()
    }
}

extern "C" fn run_child(prepared: *mut c_void) -> c_int {
    // SAFETY: `start` passes a reference that outlives the child's use of it.
    let prepared = unsafe { &*prepared.cast::<Prepared<'_>>() };
    let mut status = prepared.status;
    let (stage, errno) = prepared.run(&mut status);
    let mut report = [stage as u8, 0, 0, 0, 0];
    report[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: the pointer and length describe `report`, which is only read.
    unsafe { libc::write(status, report.as_ptr().cast(), report.len()) };
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn errno() -> c_int {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

fn wait_for_mapping(read: RawFd, write: RawFd) -> Result<(), c_int> {
    // The child's own copy of the far end would hide that the parent has died.
    // SAFETY: plain values.
    unsafe { libc::close(write) };
    let mut byte = 0_u8;
    // SAFETY: the pointer describes one writable byte.
    match unsafe { libc::read(read, ptr::from_mut(&mut byte).cast(), 1) } {
        1 => Ok(()),
        0 => Err(libc::ECANCELED),
        _ => Err(errno()),
    }
}

/// The bare calls: libc's own would try to carry the change to threads that do not exist here.
fn become_root() -> Result<(), c_int> {
    for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
        // SAFETY: plain values.
        if unsafe { libc::syscall(call, 0, 0, 0) } < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

const SIGNAL_MAX: c_int = 64;

/// An ignored signal would stay ignored in the new program, and a handler of the parent's must not run in the child.
fn reset_signal_handlers() {
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: plain values; signals that cannot be changed are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn unblock_signals() {
    let none: u64 = 0;
    // SAFETY: the mask is the kernel's eight bytes, only read; no old mask is asked for.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&none),
            ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// While it lives, no signal handler runs on this thread.
struct AllSignalsBlocked(u64);

impl AllSignalsBlocked {
    fn new() -> Self {
        let (all, mut before) = (u64::MAX, 0_u64);
        // SAFETY: both masks are the kernel's eight bytes; `before` is writable.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                ptr::from_ref(&all),
                ptr::from_mut(&mut before),
                size_of::<u64>(),
            )
        };
        Self(before)
    }
}

impl Drop for AllSignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the mask is the kernel's eight bytes, only read; no old mask is asked for.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                ptr::from_ref(&self.0),
                ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command<'a>(path: &'a CStr, argv: &[&str], fds: Vec<BorrowedFd<'a>>) -> Command<'a> {
        Command {
            program: Program::Path(path),
            argv: argv
                .iter()
                .map(|text| CString::new(*text).unwrap())
                .collect(),
            env: vec![c"PATH=/usr/bin:/bin".to_owned()],
            fds,
            namespaces: Namespaces::NONE,
            when_parent_dies: WhenParentDies::IsKilled,
        }
    }

    #[test]
    fn a_program_runs_with_the_files_it_was_given_and_no_others() {
        let null = File::open("/dev/null").unwrap();
        let out = pipe(Stage::Files).unwrap();
        let command = command(
            c"/bin/sh",
            &["sh", "-c", "echo /proc/self/fd/*; exit 7"],
            vec![null.as_fd(), out.write.as_fd(), null.as_fd()],
        );
        let mut child = spawn(&command).unwrap();
        drop(command);
        drop(out.write);
        let mut text = String::new();
        File::from(out.read).read_to_string(&mut text).unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Exited(7));
        // The shell itself opens the directory as the next free one.
        assert!(
            text.starts_with("/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2")
                && text.split(' ').count() <= 4,
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_the_stage() {
        let null = File::open("/dev/null").unwrap();
        let failure = spawn(&command(c"/does/not/exist", &["x"], vec![null.as_fd()])).unwrap_err();
        assert_eq!(failure.stage, Stage::Exec);
        assert_eq!(failure.source.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_dropped_child_is_killed() {
        let null = File::open("/dev/null").unwrap();
        let child = spawn(&command(
            c"/bin/sleep",
            &["sleep", "1000"],
            vec![null.as_fd()],
        ))
        .unwrap();
        let pid = child.pid();
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
