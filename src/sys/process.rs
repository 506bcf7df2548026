//! What a process does to itself and `rustix` does not wrap.
#![expect(
    unsafe_code,
    reason = "execve, and descriptors that were there at the start"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// Becomes another program. Returns only if that fails, with why.
#[must_use]
pub fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| {
        let texts = texts.iter().map(|text| text.as_ptr());
        texts.chain([ptr::null()]).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end in null, and their texts outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// The descriptor that a child of shmocker is started with beside the standard three.
const INHERITED: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over descriptor 3, once, and keeps it from whatever is executed next. `None` if it is not open, or was taken.
#[must_use]
pub fn take_inherited() -> Option<OwnedFd> {
    // SAFETY: plain values; a closed descriptor is refused.
    let open = unsafe { libc::fcntl(INHERITED, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    if !open || TAKEN.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: it is open, and the flag says that nobody has taken it before.
    Some(unsafe { OwnedFd::from_raw_fd(INHERITED) })
}

/// Lets descriptors from this one on close when the process executes something.
///
/// # Errors
/// What the kernel says: before Linux 5.11 it knows no such call.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: plain values.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if failed < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// From now on this process, and those that it starts, see of the control groups only those below its own.
///
/// # Errors
/// What the kernel says.
pub fn see_own_control_group() -> io::Result<()> {
    // SAFETY: a plain value; no memory and no descriptors are shared differently afterwards.
    if unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
