//! shmocker's own program as a sealed copy in memory, from which it starts its children: nothing that they run can reach
//! the file on disk through `/proc/PID/exe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// shmocker's own program, unchangeable.
#[derive(Debug)]
pub struct SealedSelf(OwnedFd);

impl AsFd for SealedSelf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// This process's program as a sealed copy; the same one where it already runs from such a copy.
///
/// # Errors
/// What the kernel says: no memory, or memory files are forbidden.
pub fn sealed_self() -> io::Result<SealedSelf> {
    let program = File::open("/proc/self/exe")?;
    if rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(SealedSelf(program.into()));
    }
    sealed_copy(program)
}

fn sealed_copy(mut program: File) -> io::Result<SealedSelf> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create("shmocker", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and do not need it.
        Err(Errno::INVAL) => rustix::fs::memfd_create("shmocker", flags),
        made => made,
    }?;
    let mut memory = File::from(memory);
    io::copy(&mut program, &mut memory)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    // The handle that could write is given up: what is executed must not be open for writing.
    let read_only = File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&memory)
    ))?;
    Ok(SealedSelf(read_only.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_copy_is_whole_and_cannot_be_changed() {
        let sealed = sealed_self().unwrap();
        let size = rustix::fs::fstat(&sealed).unwrap().st_size;
        assert_eq!(size, rustix::fs::stat("/proc/self/exe").unwrap().st_size);
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&sealed.as_fd())
        );
        let written = File::options()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write(b"x"));
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
