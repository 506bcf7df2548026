//! Signals as something that can be waited for: those that ask a process to end, and the one that says that its terminal
//! has another size.
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
        let signals = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
        let (fd, before) = hold(&signals, libc::SFD_NONBLOCK)?;
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

/// The times that the terminal of this process's group changes its size. Held back for good: from this thread, and from
/// those that it starts from now on, of which one could otherwise take the signal away.
#[derive(Debug)]
pub struct Resizes(OwnedFd);

impl Resizes {
    /// Holds them back.
    ///
    /// # Errors
    /// What the kernel says: too many open files.
    pub fn hold() -> io::Result<Self> {
        Ok(Self(hold(&[libc::SIGWINCH], 0)?.0))
    }

    /// Waits for one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self) -> io::Result<()> {
        let mut taken = [0_u8; size_of::<libc::signalfd_siginfo>()];
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut taken)).map(drop)?)
    }
}

/// Holds signals back from this thread. Returns where they come in, and what was held back before.
fn hold(signals: &[libc::c_int], flags: libc::c_int) -> io::Result<(OwnedFd, libc::sigset_t)> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it is written whole.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it was just written.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is valid, and so is the number.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    let mut before = set;
    // SAFETY: both sets are valid.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the set is valid, and only read.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and belongs to nobody else.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, before))
}

impl Drop for Endings {
    fn drop(&mut self) {
        // SAFETY: the set is what the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}
