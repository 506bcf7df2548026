//! Mounts by descriptor: a [`Tree`] is made detached, given its attributes while nobody can reach it, and then attached to
//! a place that is already open. No path is resolved twice.
#![expect(unsafe_code, reason = "mount_setattr")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

/// What may not be done on a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(u32);

impl Attributes {
    /// Everything may be done.
    pub const NONE: Self = Self(0);
    /// No writing.
    pub const READ_ONLY: Self = Self(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    /// Set-id bits and file capabilities have no effect.
    pub const NO_SET_ID: Self = Self(MountAttrFlags::MOUNT_ATTR_NOSUID.bits());
    /// Device nodes cannot be opened.
    pub const NO_DEVICES: Self = Self(MountAttrFlags::MOUNT_ATTR_NODEV.bits());
    /// Nothing can be executed.
    pub const NO_EXECUTION: Self = Self(MountAttrFlags::MOUNT_ATTR_NOEXEC.bits());

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// A mount, or a mounted tree, held by its root; detached until it is attached.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Tree {
    fn from(root: OwnedFd) -> Self {
        Self(root)
    }
}

impl From<Tree> for OwnedFd {
    fn from(tree: Tree) -> Self {
        tree.0
    }
}

impl Tree {
    /// A copy of what is mounted at an open file or directory, with all that is mounted below it.
    ///
    /// # Errors
    /// EINVAL if it lies in another mount namespace.
    pub fn copy_of(source: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let recursive = rustix::mount::open_tree(source, c"", flags | OpenTreeFlags::AT_RECURSIVE);
        Ok(Self(recursive?))
    }

    /// A copy of one mount at an open file or directory, without what is mounted below it.
    ///
    /// # Errors
    /// EINVAL if it lies in another mount namespace, or something is mounted below it that may not be uncovered.
    pub fn shallow_copy_of(source: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self(rustix::mount::open_tree(source, c"", flags)?))
    }

    /// A new mount of a file system.
    ///
    /// # Errors
    /// What the file system says.
    pub fn of_filesystem(
        kind: &str,
        options: &[(&str, &str)],
        attributes: Attributes,
    ) -> io::Result<Self> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *name)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, *name, *value)?;
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::from_bits_retain(attributes.0);
        Ok(Self(rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )?))
    }

    /// Adds attributes to all mounts of the tree.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn restrict(&self, attributes: Attributes) -> io::Result<()> {
        let attributes = libc::mount_attr {
            attr_set: attributes.0.into(),
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
        // SAFETY: the path is a valid empty text, and the structure is only read, as long as its size says.
        let failed = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                flags,
                ptr::from_ref(&attributes),
                size_of_val(&attributes),
            )
        };
        if failed < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Attaches the tree to an open file or directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach(&self, target: BorrowedFd<'_>) -> io::Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&self.0, c"", target, c"", flags)?)
    }

    /// Attaches the tree over this process's root, where paths do not reach it yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_over_root(&self) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(&self.0, c"", CWD, c"/", flags)?)
    }
}

/// From now on nothing that is mounted here shows elsewhere, and nothing mounted elsewhere shows here.
///
/// # Errors
/// What the kernel says.
pub fn make_all_private() -> io::Result<()> {
    Ok(rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?)
}

/// Makes an attached tree the root of this process's mount namespace, and lets go of the one before.
///
/// # Errors
/// What the kernel says.
pub fn pivot_into(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Both names are the new root: the old one ends up mounted over it, where the next call finds it.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir(c"/")?)
}
