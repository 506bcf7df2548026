//! Overlay mounts made in a user namespace, by fd, detached: they live as long as something holds their fd. Also how an
//! overlay marks in its upper directory what it removed from the layers below.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use super::dir::{Dir, Kind, Metadata, Xattr, path_of_fd};

/// The kernel's limit of lower layers in one mount (`OVL_MAX_STACK`).
pub const LOWERS_MAX: usize = 500;

/// The writable part of an overlay.
#[derive(Debug, Clone, Copy)]
pub struct Writable<'a> {
    /// Where changes go.
    pub upper: BorrowedFd<'a>,
    /// An empty directory beside it that the kernel works in.
    pub work: BorrowedFd<'a>,
    /// What a sync is worth in it.
    pub syncs: Syncs,
}

/// What a program in a tree gets when it asks for its files to be on the disk; and the kernel, which asks for each file that
/// it copies up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// It waits until they are.
    Waited,
    /// Nothing: whoever owns the tree syncs all of it at the end, or throws it away. The work directory serves once.
    Ignored,
}

/// How layers are told to the kernel; later kernels take the earlier ones in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// As fds, any number: Linux 6.13.
    Fds = 0,
    /// One string each, any number: Linux 6.7.
    Strings = 1,
    /// One short string for all, through `mount(2)`: Linux 5.11.
    OneString = 2,
}

/// Mounts layers, the top one first: at least one, or two without a writable part, which makes a read-only mount. The result is a detached mount: its
/// fd is its root, and it is gone with the last fd.
pub fn mount(lowers: &[BorrowedFd<'_>], writable: Option<Writable<'_>>) -> io::Result<OwnedFd> {
    static DIALECT: AtomicU8 = AtomicU8::new(Dialect::Fds as u8);
    let mut dialect = match DIALECT.load(Ordering::Relaxed) {
        0 => Dialect::Fds,
        1 => Dialect::Strings,
        _ => Dialect::OneString,
    };
    loop {
        let next = match dialect {
            Dialect::Fds => Some(Dialect::Strings),
            Dialect::Strings => Some(Dialect::OneString),
            Dialect::OneString => None,
        };
        match (mount_in(dialect, lowers, writable), next) {
            // What the kernel says to a parameter that it does not know.
            (Err(error), Some(next)) if is_unknown(&error) => dialect = next,
            (mounted, _) => {
                if mounted.is_ok() {
                    DIALECT.store(dialect as u8, Ordering::Relaxed);
                }
                return mounted;
            }
        }
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::BADF)
    )
}

/// As [`mount`], in one dialect.
pub fn mount_in(
    dialect: Dialect,
    lowers: &[BorrowedFd<'_>],
    writable: Option<Writable<'_>>,
) -> io::Result<OwnedFd> {
    let enough = if writable.is_some() { 1 } else { 2 };
    if lowers.len() < enough || lowers.len() > LOWERS_MAX {
        return Err(Errno::INVAL.into());
    }
    if dialect == Dialect::OneString {
        return mount_one_string(lowers, writable);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "shmocker")?;
    // With it come neither metacopy nor redirect_dir: programs expect a chown to copy the file, and a rename of a lower
    // directory to be EXDEV; and an upper must make sense without the layers that it was made on.
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_set_string(&context, "index", "off")?;
    for lower in lowers {
        match dialect {
            Dialect::Fds => fsconfig_set_fd(&context, "lowerdir+", lower)?,
            _ => fsconfig_set_string(&context, "lowerdir+", path_of_fd(lower))?,
        }
    }
    if let Some(Writable { upper, work, syncs }) = writable {
        if syncs == Syncs::Ignored {
            fsconfig_set_flag(&context, "volatile")?;
        }
        match dialect {
            Dialect::Fds => {
                fsconfig_set_fd(&context, "upperdir", upper)?;
                fsconfig_set_fd(&context, "workdir", work)?;
            }
            _ => {
                fsconfig_set_string(&context, "upperdir", path_of_fd(upper))?;
                fsconfig_set_string(&context, "workdir", path_of_fd(work))?;
            }
        }
    }
    fsconfig_create(&context).map_err(|error| explained(&context, error))?;
    let attributes = match writable {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Adds what the kernel wrote into the context's log, which says more than the error number.
fn explained(context: &OwnedFd, error: Errno) -> io::Error {
    let mut message = [0; 512];
    match rustix::io::read(context, &mut message) {
        Ok(length) if length > 2 => {
            let said = String::from_utf8_lossy(&message[2..length]);
            let kind = io::Error::from(error).kind();
            if matches!(error, Errno::INVAL | Errno::NOSYS | Errno::BADF) {
                return error.into();
            }
            io::Error::new(kind, format!("{error}: {}", said.trim()))
        }
        _ => error.into(),
    }
}

/// `mount(2)` has room for one page of options, so layers are named by their fd numbers, relative to `/proc/self/fd`. It
/// needs a place to mount on and a current directory: a thread of its own has both in a mount namespace of its own, where
/// nobody else sees them for a moment.
fn mount_one_string(
    lowers: &[BorrowedFd<'_>],
    writable: Option<Writable<'_>>,
) -> io::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            split_off_mounts()?;
            // The kernel takes layers only from the mount namespace of the one who mounts.
            let own = lowers
                .iter()
                .map(|lower| reopened(*lower))
                .collect::<io::Result<Vec<OwnedFd>>>()?;
            let numbers: Vec<String> = own.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
            let mut options = "userxattr,index=off".to_owned();
            options.push_str(&format!(",lowerdir={}", numbers.join(":")));
            let mut flags = MountFlags::RDONLY;
            let mut pinned = Vec::new();
            if let Some(Writable { upper, work, syncs }) = writable {
                let (upper, work) = (reopened(upper)?, reopened(work)?);
                if syncs == Syncs::Ignored {
                    options.push_str(",volatile");
                }
                options.push_str(&format!(
                    ",upperdir={},workdir={}",
                    upper.as_raw_fd(),
                    work.as_raw_fd()
                ));
                pinned.extend([upper, work]);
                flags = MountFlags::empty();
            }
            rustix::process::chdir("/proc/self/fd")?;
            let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
            rustix::mount::mount("shmocker", PLACE, "overlay", flags, options.as_c_str())?;
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(open_tree(CWD, PLACE, clone)?)
        });
        worker.join().unwrap_or_else(|_| Err(Errno::IO.into()))
    })
}

/// A directory that exists everywhere; it is covered only in the namespace of one thread.
const PLACE: &str = "/proc";

/// Opens a directory again by its path, as this thread's own mount namespace has it.
fn reopened(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = std::fs::read_link(path_of_fd(fd))?;
    let again = open_layer(&path)?;
    let (before, now) = (Metadata::of_open(fd)?, Metadata::of_open(&again)?);
    if (before.dev, before.ino) == (now.dev, now.ino) {
        Ok(again)
    } else {
        Err(Errno::STALE.into())
    }
}

/// Gives this thread a mount namespace and a current directory of its own.
#[expect(unsafe_code, reason = "rustix cannot know which flags are given")]
fn split_off_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: no fd table is split off, only what paths mean to this thread, which ends soon.
    unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }?;
    Ok(mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )?)
}

/// The attribute with which a directory says that nothing of the layers below shows through.
const OPAQUE: &str = "user.overlay.opaque";
/// The attribute with which an empty file says that it stands for a removal.
const WHITEOUT: &str = "user.overlay.whiteout";

/// Whether an entry of an upper directory stands for the removal of that name.
pub fn is_whiteout(dir: &Dir, name: &OsStr, metadata: &Metadata) -> io::Result<bool> {
    Ok(match metadata.kind {
        Kind::CharDevice => metadata.rdev == 0,
        Kind::File if metadata.size == 0 => {
            dir.xattrs(name)?.iter().any(|xattr| xattr.name == WHITEOUT)
        }
        _ => false,
    })
}

/// Whether a directory of an upper hides what the layers below have in its place.
pub fn is_opaque(dir: &Dir) -> io::Result<bool> {
    Ok(dir
        .own_xattrs()?
        .iter()
        .any(|xattr| xattr.name == OPAQUE && xattr.value == b"y"))
}

/// Marks a name as removed. Where the file system takes no such device node, the newer form with an attribute is used.
pub fn make_whiteout(dir: &Dir, name: &OsStr) -> io::Result<()> {
    match dir.make_node(name, Kind::CharDevice, 0, 0) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let file = dir.create_file(name, 0o600)?;
            super::file::set_xattr(
                &file,
                &Xattr {
                    name: WHITEOUT.into(),
                    value: b"y".to_vec(),
                },
            )?;
            if !is_opaque(dir)? {
                dir.set_own_xattr(&Xattr {
                    name: OPAQUE.into(),
                    value: b"x".to_vec(),
                })?;
            }
            Ok(())
        }
        other => other,
    }
}

/// Marks a directory of an upper as hiding what is below it.
pub fn make_opaque(dir: &Dir) -> io::Result<()> {
    dir.set_own_xattr(&Xattr {
        name: OPAQUE.into(),
        value: b"y".to_vec(),
    })
}

/// Puts a detached mount at a directory of this mount namespace.
pub fn attach(mount: impl AsFd, place: &Path) -> io::Result<()> {
    use rustix::mount::{MoveMountFlags, move_mount};
    Ok(move_mount(
        mount,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Takes away what is mounted at a directory of this mount namespace.
pub fn detach(place: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(
        place,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// The type of the file system that something is on, by the kernel's magic number.
pub fn file_system_of(fd: impl AsFd) -> io::Result<FileSystem> {
    #[allow(
        clippy::allow_attributes,
        clippy::unnecessary_cast,
        reason = "the field's type differs by architecture"
    )]
    let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff;
    Ok(match magic {
        0x794c_7630 => FileSystem::Overlay,
        // nfs, smb, smb2, cifs, afs, 9p, fuse, ceph, lustre
        0x6969 | 0x517b | 0xfe53_4d42 | 0xff53_4d42 | 0x5346_414f | 0x0102_1997 | 0x6573_5546
        | 0x00c3_6400 | 0x0bd0_0bd0 => FileSystem::Network,
        _ => FileSystem::Local,
    })
}

/// What kind of file system something is on, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// A disk or memory of this machine.
    Local,
    /// An overlay: it cannot be the upper of another one.
    Overlay,
    /// Other machines may have it too: shared memory does not work on it.
    Network,
}

/// A directory, opened as [`mount`] wants it.
pub fn open_layer(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}
