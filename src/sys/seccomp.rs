//! Filters of system calls: the instructions of classic BPF, and their installation.
#![expect(unsafe_code, reason = "the seccomp call")]

use std::io;

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
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog {
        len: length,
        // The kernel only reads it; `Instruction` has the layout of `sock_filter`.
        filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
    };
    // Without the flag the kernel would also slow the process down against speculative store bypass, on old versions.
    // SAFETY: the structure and the instructions that it points to outlive the call, and are only read.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            std::ptr::from_ref(&program),
        )
    };
    if failed < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
