//! Filters of system calls: the instructions of classic BPF, and their installation; and calls that a filter leaves to
//! another process to answer (seccomp_unotify(2)).
#![expect(
    unsafe_code,
    reason = "the seccomp call, and what is done with its listener"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

/// One instruction, as the kernel's `sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many to skip if the comparison holds.
    pub if_true: u8,
    /// How many to skip if it does not.
    pub if_false: u8,
    /// The operand.
    pub k: u32,
}

/// The most instructions that the kernel takes.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Filters all further system calls of this thread and of what it starts. The caller must be root of its user namespace.
///
/// # Errors
/// EINVAL if the program is none, EACCES without the capability.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// The same with a filter that leaves calls to somebody else, who answers them through what is returned.
///
/// # Errors
/// The same; EBUSY if there is such a filter already.
pub fn install_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let listening = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // Then a call that is being answered is not interrupted, and not made twice (Linux 5.19).
    let fd = match set_filter(program, listening | WAIT_KILLABLE) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(program, listening),
        set => set,
    }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<RawFd> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        // The kernel only reads it; `Instruction` has the layout of `sock_filter`.
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // Without the flag the kernel would also slow the process down against speculative store bypass, on old versions.
    // SAFETY: the structure and the instructions that it points to outlive the call, and are only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW | flags,
            std::ptr::from_ref(&program),
        )
    };
    RawFd::try_from(result)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)
}

/// A call that waits to be answered.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Notification {
    id: u64,
    /// The thread that makes it, as this process's pid namespace numbers it.
    pub pid: i32,
    flags: u32,
    /// Its number.
    pub number: u32,
    /// `AUDIT_ARCH_…`
    pub audit: u32,
    instruction: u64,
    /// Its arguments. Memory that they point to is the caller's, who may change it at any time.
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Answer {
    /// The kernel makes it, as if there were no filter.
    Go,
    /// It returns this.
    Value(i64),
    /// It fails with this.
    Error(Errno),
    /// It returns this file, opened; with `O_CLOEXEC` if so.
    File(OwnedFd, CloseOnExec),
}

/// Whether a descriptor is closed by an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOnExec {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Where calls are received and answered.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        let listener = Self(fd);
        // Whoever makes a call waits anyway: it is woken on the same processor. Linux 6.6; nothing depends on it.
        let synchronous = std::ptr::without_provenance_mut::<u64>(1);
        drop(listener.control(SET_FLAGS, synchronous));
        listener
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFile {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

const RECEIVE: libc::c_ulong = 0xC050_2100;
const SEND: libc::c_ulong = 0xC018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;
const ADD_FILE: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
const CONTINUE: u32 = 1;
const ADD_AND_ANSWER: u32 = 2;

impl Listener {
    /// Waits for the next call. `None`: nobody is left who could make one, or something is to be read from `stop`, or its
    /// other end is closed.
    ///
    /// # Errors
    /// What the kernel says; nothing ordinary.
    pub fn next(&self, stop: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
        loop {
            let mut poll = [
                PollFd::new(&self.0, PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            match rustix::event::poll(&mut poll, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let stops = !poll[1].revents().is_empty();
            if stops || !poll[0].revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            let mut call = Notification {
                id: 0,
                pid: 0,
                flags: 0,
                number: 0,
                audit: 0,
                instruction: 0,
                arguments: [0; 6],
            };
            match self.control(RECEIVE, std::ptr::from_mut(&mut call)) {
                Ok(_) => return Ok(Some(call)),
                // Its caller was killed meanwhile.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a call still waits. What was read from /proc under the number of its caller before is its caller's only then.
    #[must_use]
    pub fn is_waiting(&self, call: &Notification) -> bool {
        let id = call.id;
        self.insist(IS_VALID, std::ptr::from_ref(&id).cast_mut())
            .is_ok()
    }

    /// Answers a call. One whose caller is gone is no error.
    ///
    /// # Errors
    /// What the kernel says; nothing ordinary.
    pub fn answer(&self, call: &Notification, answer: Answer) -> io::Result<()> {
        let respond = |value, error, flags| {
            let mut response = Response {
                id: call.id,
                value,
                error,
                flags,
            };
            match self.insist(SEND, std::ptr::from_mut(&mut response)) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
                sent => sent.map(drop),
            }
        };
        match answer {
            Answer::Go => respond(0, 0, CONTINUE),
            Answer::Value(value) => respond(value, 0, 0),
            Answer::Error(errno) => respond(0, -errno.raw_os_error(), 0),
            Answer::File(file, on_exec) => {
                let mut added = AddFile {
                    id: call.id,
                    flags: ADD_AND_ANSWER,
                    source: file.as_raw_fd().cast_unsigned(),
                    target: 0,
                    target_flags: match on_exec {
                        CloseOnExec::Yes => libc::O_CLOEXEC.cast_unsigned(),
                        CloseOnExec::No => 0,
                    },
                };
                match self.insist(ADD_FILE, std::ptr::from_mut(&mut added)) {
                    Ok(_) => Ok(()),
                    Err(error) => match error.raw_os_error() {
                        Some(libc::ENOENT) => Ok(()),
                        // Before Linux 5.14 that is two calls.
                        Some(libc::EINVAL) => {
                            added.flags = 0;
                            match self.insist(ADD_FILE, std::ptr::from_mut(&mut added)) {
                                Ok(fd) => respond(fd.into(), 0, 0),
                                Err(_) => respond(0, -libc::EMFILE, 0),
                            }
                        }
                        Some(errno) => respond(0, -errno, 0),
                        None => Err(error),
                    },
                }
            }
        }
    }

    /// The same until no signal interrupts it.
    fn insist<T>(&self, request: libc::c_ulong, argument: *mut T) -> io::Result<i32> {
        loop {
            match self.control(request, argument) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                done => return done,
            }
        }
    }

    fn control<T>(&self, request: libc::c_ulong, argument: *mut T) -> io::Result<i32> {
        // SAFETY: every caller's argument is what its request takes, in the kernel's layout, and outlives the call, or is a
        // plain value; what the kernel only reads is not written.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) };
        match result {
            0.. => Ok(result),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
