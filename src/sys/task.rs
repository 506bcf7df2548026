//! Other processes, by the number of one of their threads: their memory, and a mark that they hand on to what they start.
#![expect(unsafe_code, reason = "the memory and the limits of other processes")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::PidfdFlags;

use super::dir::Time;
use super::owner;

/// A thread of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its number in this process's pid namespace.
    pub number: i32,
    /// Its number in the /proc that is the current directory.
    pub shown: i32,
}

/// Of a thread, which need not be the first of its process (Linux 6.9).
pub const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// No text that the kernel takes as a path is longer, its end included.
const PATH_BYTES_MAX: usize = 4096;
const PAGE_BYTES: usize = 4096;
/// The upper half of a mark.
const MARK: u64 = 0x5348_4D4B_0000_0000;

impl Task {
    /// Copies from its memory.
    ///
    /// # Errors
    /// EFAULT if less can be read than is asked for; what the kernel says.
    pub fn read(self, from: u64, into: &mut [u8]) -> io::Result<()> {
        match self.read_some(from, into)? {
            read if read == into.len() => Ok(()),
            _ => Err(Errno::FAULT.into()),
        }
    }

    fn read_some(self, from: u64, into: &mut [u8]) -> io::Result<usize> {
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        let remote = libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(from as usize),
            iov_len: into.len(),
        };
        // SAFETY: the local part describes `into`, which is writable; the other one is checked by the kernel, in the other
        // process.
        let read = unsafe { libc::process_vm_readv(self.number, &local, 1, &remote, 1, 0) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Copies a text that ends in zero.
    ///
    /// # Errors
    /// ENAMETOOLONG; EFAULT; what the kernel says.
    pub fn text(self, from: u64) -> io::Result<CString> {
        let mut text = Vec::new();
        let mut buffer = [0; PAGE_BYTES];
        while text.len() < PATH_BYTES_MAX {
            let at = from + text.len() as u64;
            // Up to the end of a page: what follows may not be there.
            let room = PAGE_BYTES - (at % PAGE_BYTES as u64) as usize;
            let part = &mut buffer[..room.min(256)];
            self.read(at, part)?;
            match part.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&part[..end]);
                    return CString::new(text).map_err(io::Error::from);
                }
                None => text.extend_from_slice(part),
            }
        }
        Err(Errno::NAMETOOLONG.into())
    }

    /// Its memory, to be written to, in the /proc that is the current directory. It stays this memory, whoever has the number
    /// later.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory(self) -> io::Result<Memory> {
        let path = format!("{}/mem", self.shown);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        Ok(Memory(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The mark that its process has; `None` as long as neither it nor those it comes from were given one. It is kept in a
    /// limit that Linux has had no use for since 2.4: the kernel hands limits on to children and through executions.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mark(self) -> io::Result<Option<u32>> {
        let limit = self.limit(None)?;
        let is_mark = limit.rlim_cur & MARK == MARK && limit.rlim_cur != libc::RLIM_INFINITY;
        Ok(is_mark.then_some(limit.rlim_cur as u32))
    }

    /// Gives its process a mark.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_mark(self, mark: u32) -> io::Result<()> {
        let mut limit = self.limit(None)?;
        limit.rlim_cur = MARK | u64::from(mark);
        self.limit(Some(&limit)).map(drop)
    }

    fn limit(self, new: Option<&libc::rlimit64>) -> io::Result<libc::rlimit64> {
        let mut old = libc::rlimit64 {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the new limit is only read, where there is one; the old one is writable.
        let failed = unsafe {
            libc::prlimit64(
                self.number,
                libc::RLIMIT_LOCKS,
                new,
                std::ptr::from_mut(&mut old),
            )
        };
        match failed {
            0 => Ok(old),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// What an attribute of what a path leads to, from a directory, is: how long, in the buffer.
///
/// # Errors
/// What the kernel says: ENOSYS before Linux 6.13.
pub fn attribute_below(
    from: BorrowedFd<'_>,
    path: &CStr,
    follows: bool,
    name: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    /// The same on all architectures.
    const GETXATTRAT: libc::c_long = 464;
    /// The kernel's `struct xattr_args`.
    #[repr(C, align(8))]
    struct Arguments {
        value: *mut u8,
        size: u32,
        flags: u32,
    }
    let mut arguments = Arguments {
        value: value.as_mut_ptr(),
        size: u32::try_from(value.len()).unwrap_or(u32::MAX),
        flags: 0,
    };
    let flags = match follows {
        true => 0,
        false => libc::AT_SYMLINK_NOFOLLOW,
    };
    // SAFETY: both texts end in zero; the structure is the kernel's own, and describes `value`, which is writable.
    let read = unsafe {
        libc::syscall(
            GETXATTRAT,
            from.as_raw_fd(),
            path.as_ptr(),
            flags,
            name.as_ptr(),
            std::ptr::from_mut(&mut arguments),
            size_of::<Arguments>(),
        )
    };
    usize::try_from(read).map_err(|_| {
        let errno = io::Error::last_os_error().raw_os_error();
        errno.map_or(Errno::IO, Errno::from_raw_os_error)
    })
}

/// The memory of another process.
#[derive(Debug)]
pub struct Memory(OwnedFd);

impl Memory {
    /// Copies into it.
    ///
    /// # Errors
    /// EFAULT if less can be written.
    pub fn write(&self, to: u64, bytes: &[u8]) -> io::Result<()> {
        match rustix::io::pwrite(&self.0, bytes, to) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(Errno::FAULT.into()),
        }
    }
}

/// What `stat` says of something that is held, with another owner.
///
/// # Errors
/// What the kernel says.
pub fn stat(held: BorrowedFd<'_>, owner: (u32, u32)) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the path ends in zero, and the structure is the kernel's own, writable.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_newfstatat,
            held.as_raw_fd(),
            c"".as_ptr(),
            stat.as_mut_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid structure, and the kernel has filled it.
    let mut stat = unsafe { stat.assume_init() };
    (stat.st_uid, stat.st_gid) = owner;
    if is_record(stat.st_mode, stat.st_atime) {
        // Programs that copy times would copy it.
        (stat.st_atime, stat.st_atime_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
    }
    Ok(stat)
}

/// The same for `statx`.
///
/// # Errors
/// What the kernel says.
pub fn statx(held: BorrowedFd<'_>, mask: u32, owner: (u32, u32)) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends in zero, and the structure is the kernel's own, writable.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_statx,
            held.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            stat.as_mut_ptr(),
        )
    };
    if failed < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid structure, and the kernel has filled it.
    let mut stat = unsafe { stat.assume_init() };
    (stat.stx_uid, stat.stx_gid) = owner;
    if is_record(stat.stx_mode.into(), stat.stx_atime.tv_sec) {
        stat.stx_atime = stat.stx_mtime;
    }
    Ok(stat)
}

/// Whether the time at which something of this mode was last read is a recorded owner.
fn is_record(mode: u32, accessed: i64) -> bool {
    let kind = mode & libc::S_IFMT;
    let accessed = Time {
        seconds: accessed,
        nanoseconds: 0,
    };
    kind != libc::S_IFREG && kind != libc::S_IFDIR && owner::in_time(accessed).is_some()
}

/// A value as it lies in memory.
#[must_use]
pub fn bytes_of<T: Copy>(value: &T) -> &[u8] {
    // SAFETY: any initialised value can be read as bytes; those that the kernel does not fill were zeroes.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// What paths mean to this thread becomes its own: its root, its directory and its umask are changed without others.
///
/// # Errors
/// What the kernel says.
pub fn split_off_paths() -> io::Result<()> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: no descriptors are split off.
    Ok(unsafe { unshare_unsafe(UnshareFlags::FS) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: i32) -> Task {
        Task {
            number,
            shown: number,
        }
    }

    #[test]
    fn memory_is_read_and_written_as_far_as_it_is_there() {
        let this = task(rustix::process::getpid().as_raw_nonzero().get());
        let text = CString::new("some/path".repeat(200)).unwrap();
        let mut seen = [0_u8; 4];
        let at = |bytes: &[u8]| bytes.as_ptr().expose_provenance() as u64;
        assert_eq!(this.text(at(text.as_bytes())).unwrap(), text);
        this.read(at(text.as_bytes()), &mut seen).unwrap();
        assert_eq!(&seen, b"some");
        let memory = Memory(
            rustix::fs::open(
                "/proc/self/mem",
                OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .unwrap(),
        );
        memory.write(at(&seen), b"else").unwrap();
        assert_eq!(
            memory.write(8, b"else").unwrap_err().raw_os_error(),
            Some(Errno::FAULT.raw_os_error())
        );
        assert_eq!(&std::hint::black_box(seen), b"else");
        assert_eq!(
            this.text(8).unwrap_err().raw_os_error(),
            Some(Errno::FAULT.raw_os_error())
        );
        let long = vec![b'x'; 2 * PATH_BYTES_MAX];
        assert_eq!(
            this.text(at(&long)).unwrap_err().raw_os_error(),
            Some(Errno::NAMETOOLONG.raw_os_error())
        );
    }

    #[test]
    fn a_mark_is_handed_on() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "read wait; sleep 100 & echo $!; wait"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let first = task(i32::try_from(child.id()).unwrap());
        assert_eq!(first.mark().unwrap(), None);
        first.set_mark(7).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let grandchild = task(line.trim().parse().unwrap());
        assert_eq!(grandchild.mark().unwrap(), Some(7));
        for task in [grandchild, first] {
            let pid = rustix::process::Pid::from_raw(task.number).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
    }
}
