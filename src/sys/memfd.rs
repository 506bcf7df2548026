//! shmocker's own program: the file, and a sealed copy of it in memory. What runs where a container's processes can see it is
//! started from the copy: nobody reaches the file on disk through its `/proc/PID/exe`. Where memory may not be executed, a copy
//! on a read-only mount serves as well.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use super::mount::{Attributes, Tree};

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

/// A sealed copy that is made when it is first needed: it takes some 20 ms, and much of what shmocker does needs none.
#[derive(Debug, Clone, Default)]
pub struct LazilySealed(Arc<Mutex<Option<Arc<SealedSelf>>>>);

impl LazilySealed {
    /// The copy.
    ///
    /// # Errors
    /// What the kernel says: no memory.
    pub fn get(&self) -> io::Result<Arc<SealedSelf>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = &*made {
            return Ok(Arc::clone(program));
        }
        Ok(Arc::clone(made.insert(Arc::new(sealed_self()?))))
    }

    /// Begins to make it, if nobody has: it will be needed soon.
    pub fn begin(&self) {
        // Whoever holds it makes it.
        if self.0.try_lock().is_ok_and(|made| made.is_none()) {
            let copy = self.clone();
            // What goes wrong here goes wrong again for whoever needs it.
            std::thread::spawn(move || copy.get().map(drop));
        }
    }
}

/// The file of this process's program, as it was started.
///
/// # Errors
/// What the kernel says: it may be executed, and not be read.
pub fn own_file() -> io::Result<File> {
    File::open("/proc/self/exe")
}

/// This process's program as a sealed copy; the same one where it already runs from such a copy.
///
/// # Errors
/// What the kernel says: no memory.
pub fn sealed_self() -> io::Result<SealedSelf> {
    let mut program = own_file()?;
    if rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(SealedSelf(program.into()));
    }
    match sealed_copy(&mut program) {
        // vm.memfd_noexec forbids it; or somebody holds on to its pages.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ResourceBusy
            ) =>
        {
            program.rewind()?;
            // Where nothing may be mounted either, this is the plain user's process, which runs no build steps.
            let copy = read_only_copy(&mut program);
            Ok(SealedSelf(copy.unwrap_or_else(|_| program.into())))
        }
        sealed => sealed,
    }
}

/// A copy on a file system of its own that is read-only and attached nowhere.
fn read_only_copy(program: &mut File) -> io::Result<OwnedFd> {
    let options = [("mode", "0555")];
    let memory = Tree::of_filesystem(
        "tmpfs",
        &options,
        Attributes::NO_SET_ID.and(Attributes::NO_DEVICES),
    )?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(&memory, c"shmocker", flags, Mode::from_raw_mode(0o555))?;
    io::copy(program, &mut File::from(copy))?;
    memory.restrict(Attributes::READ_ONLY)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        &memory,
        c"shmocker",
        flags,
        Mode::empty(),
    )?)
}

fn sealed_copy(program: &mut File) -> io::Result<SealedSelf> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create("shmocker", flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and do not need it.
        Err(Errno::INVAL) => rustix::fs::memfd_create("shmocker", flags),
        made => made,
    }?;
    let mut memory = File::from(memory);
    io::copy(program, &mut memory)?;
    seal(&memory)?;
    // The handle that could write is given up: what is executed must not be open for writing.
    let read_only = File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&memory)
    ))?;
    Ok(SealedSelf(read_only.into()))
}

/// Seals a file in memory. The kernel refuses while somebody holds one of its pages, which includes its own housekeeping:
/// it waits for that itself, but under load not long enough.
fn seal(memory: &File) -> io::Result<()> {
    /// The kernel waits for 150 ms in each of them.
    const ATTEMPTS: usize = 20;
    for _ in 1..ATTEMPTS {
        match rustix::fs::fcntl_add_seals(memory, SEALS) {
            Err(Errno::BUSY) => {}
            sealed => return Ok(sealed?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(memory, SEALS)?)
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
