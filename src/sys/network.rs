//! Network namespaces: making one, and bringing its loopback device up.
#![expect(unsafe_code, reason = "unshare, and the interface ioctls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

/// A new network namespace in which only `lo` is up.
///
/// # Errors
/// What the kernel says; the caller must be root of its user namespace.
pub fn new_namespace() -> io::Result<OwnedFd> {
    // A thread of its own, so that the caller stays where it is.
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(|| {
            enter_new_namespace()?;
            loopback_up()?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        })?
        .join()
        .unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread that makes a network namespace panicked",
            ))
        })
}

/// Does something inside a network namespace, on a thread of its own.
///
/// # Errors
/// What the kernel says; the caller must be root of the user namespace that it belongs to.
pub fn in_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    act: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                rustix::thread::move_into_link_name_space(
                    namespace,
                    Some(LinkNameSpaceType::Network),
                )?;
                Ok(act())
            })?;
        let joined = thread.join();
        joined.unwrap_or_else(|_| {
            Err(io::Error::other(
                "the thread in a network namespace panicked",
            ))
        })
    })
}

/// Moves this thread into a new network namespace.
///
/// # Errors
/// What the kernel says.
pub fn enter_new_namespace() -> io::Result<()> {
    // SAFETY: a plain value; a network namespace is a property of the thread, and no memory depends on it.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Brings `lo` up in this thread's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        },
    };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    // SAFETY: the request is a whole `ifreq`, which this call only reads.
    let failed = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            ptr::from_ref(&request),
        )
    };
    if failed < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
