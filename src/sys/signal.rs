//! The signals that ask a process to end, as something that can be waited for.
#![expect(unsafe_code, reason = "signal masks and signalfd")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Why a process is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT, SIGHUP: the user.
    Interrupted,
    /// SIGTERM: a program.
    Terminated,
}

/// While this is held, the signals that ask the process to end do not end it. Readable when one has come.
#[derive(Debug)]
pub struct Endings {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl AsFd for Endings {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Endings {
    /// Holds them back from this thread, and from those that it starts from now on.
    ///
    /// # Errors
    /// What the kernel says: too many open files.
    pub fn hold() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: it is written whole.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: it was just written.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the set is valid, and so is the number.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        let mut before = set;
        // SAFETY: both sets are valid.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: the set is valid, and only read.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, before })
    }

    /// Takes the signal that has come; `None` if none has.
    #[must_use]
    pub fn take(&self) -> Option<Ending> {
        let mut taken = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let count = rustix::io::read(&self.fd, &mut taken).ok()?;
        // `ssi_signo` is the first field.
        let number = u32::from_ne_bytes(taken.get(..4)?.try_into().ok()?);
        (count == taken.len()).then_some(match number.cast_signed() {
            libc::SIGTERM => Ending::Terminated,
            _ => Ending::Interrupted,
        })
    }
}

impl Drop for Endings {
    fn drop(&mut self) {
        // SAFETY: the set is what the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}
