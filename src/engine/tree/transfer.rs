//! One entry of a tree, put into another with all that belongs to it: content, owner, mode, attributes, times, further
//! names. What stands in the way at the destination is the caller's business.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::chmod::ModeChange;
use crate::engine::exec::Shift;
use crate::sys::dir::{Dir, Kind, Metadata, Time, Xattr};
use crate::sys::file::{copy_content, is_content_xattr, set_xattr, xattrs_of};
use crate::sys::root::Root;

/// What becomes of an entry's owner, mode and attributes.
#[derive(Debug, Clone, Default)]
pub struct Dress {
    /// Its new owner and group.
    pub owner: NewOwner,
    /// Its new mode; `None`: the one it has.
    pub mode: Option<ModeChange>,
    /// Its new times; `None`: those it has.
    pub modified: Option<Time>,
}

/// Whose an entry becomes.
#[derive(Debug, Clone, Copy, Default)]
pub enum NewOwner {
    /// Those whose it is.
    #[default]
    Kept,
    /// This user's and this group's.
    Given(u32, u32),
    /// Those who have their place in a container where the caller's own id is another user's.
    Shifted(Shift),
}

impl Dress {
    /// The owner and group of something that has these now.
    #[must_use]
    pub fn owner_for(&self, metadata: &Metadata) -> (u32, u32) {
        match self.owner {
            NewOwner::Kept => (metadata.uid, metadata.gid),
            NewOwner::Given(uid, gid) => (uid, gid),
            NewOwner::Shifted(shift) => shift.owner(metadata.uid, metadata.gid),
        }
    }

    /// The mode of something that has this metadata now.
    #[must_use]
    pub fn mode_for(&self, metadata: &Metadata) -> u32 {
        match &self.mode {
            Some(change) => change.apply(metadata.mode, metadata.is_dir()),
            None => metadata.mode,
        }
    }
}

/// Files with several names that were already put into a tree: where, by their device and inode at the source.
#[derive(Debug, Default)]
pub struct Links(HashMap<(u64, u64), PathBuf>);

/// Where an entry goes: a name in an open directory, and its path from the top of the tree.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The tree.
    pub root: &'a Root,
    /// The directory.
    pub dir: &'a Dir,
    /// The name in it; nothing has it.
    pub name: &'a OsStr,
    /// The same from the tree's top; no component of it is a link.
    pub path: &'a Path,
}

/// The source changed while it was copied, or since it was looked at: an error of kind [`io::ErrorKind::ResourceBusy`].
#[must_use]
pub fn has_changed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ResourceBusy
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::ResourceBusy, "it changed while it was read")
}

/// Copies an entry that is not a directory. `seen` is what was found when it was looked at; if it is no longer so, that
/// is an error. A socket becomes an empty file, as BuildKit has it.
pub fn copy_entry(
    from: &Dir,
    name: &OsStr,
    seen: &Metadata,
    to: Place<'_>,
    dress: &Dress,
    links: &mut Links,
) -> io::Result<()> {
    if seen.links > 1 && seen.kind != Kind::Symlink {
        if let Some(first) = links.0.get(&(seen.dev, seen.ino)) {
            let (dir, first_name) = to.root.parent_of(first)?;
            return to.dir.hard_link(&dir, first_name, to.name);
        }
        links.0.insert((seen.dev, seen.ino), to.path.to_owned());
    }
    match seen.kind {
        Kind::File => {
            let source = from.open_file(name)?;
            if !Metadata::of_open(&source)?.is_unchanged_from(seen) {
                return Err(changed());
            }
            let copy = to.dir.create_file(to.name, 0o600)?;
            copy_content(&source, &copy)?;
            if !Metadata::of_open(&source)?.is_unchanged_from(seen) {
                return Err(changed());
            }
            dress_file(&source, &copy, seen, dress)
        }
        Kind::Symlink => {
            to.dir.symlink(from.read_link(name)?, to.name)?;
            let (uid, gid) = dress.owner_for(seen);
            to.dir.set_owner(to.name, uid, gid)?;
            set_times(to, seen, dress)
        }
        Kind::Dir => Err(io::ErrorKind::IsADirectory.into()),
        Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice => {
            let kind = if seen.kind == Kind::Socket {
                Kind::File
            } else {
                seen.kind
            };
            to.dir.make_node(to.name, kind, 0o600, seen.rdev)?;
            let (uid, gid) = dress.owner_for(seen);
            to.dir.set_owner(to.name, uid, gid)?;
            // Overlay's own mark of a removal takes no mode.
            if seen.rdev != 0 || seen.kind != Kind::CharDevice {
                to.dir.set_mode(to.name, dress.mode_for(seen))?;
            }
            set_times(to, seen, dress)
        }
    }
}

fn set_times(to: Place<'_>, seen: &Metadata, dress: &Dress) -> io::Result<()> {
    let modified = dress.modified.unwrap_or(seen.modified);
    to.dir.set_times(to.name, modified, modified)
}

fn dress_file(source: &File, copy: &File, seen: &Metadata, dress: &Dress) -> io::Result<()> {
    let (uid, gid) = dress.owner_for(seen);
    let open = Dir::from(copy.as_fd().try_clone_to_owned()?);
    // Owner first: a change of owner takes set-id bits and capabilities away.
    open.set_own_owner(uid, gid)?;
    copy_xattrs(source, copy)?;
    open.set_own_mode(dress.mode_for(seen))?;
    let modified = dress.modified.unwrap_or(seen.modified);
    open.set_own_times(modified, modified)
}

/// Gives a directory the owner, mode and attributes of another one, or those that replace them. Its times are set by
/// [`dress_dir_times`], when all is in it.
pub fn dress_dir(from: &Dir, seen: &Metadata, to: &Dir, dress: &Dress) -> io::Result<()> {
    let (uid, gid) = dress.owner_for(seen);
    to.set_own_owner(uid, gid)?;
    copy_xattrs(from, to)?;
    to.set_own_mode(dress.mode_for(seen))
}

/// Gives a directory the times of another one, or those that replace them.
pub fn dress_dir_times(seen: &Metadata, to: &Dir, dress: &Dress) -> io::Result<()> {
    let modified = dress.modified.unwrap_or(seen.modified);
    to.set_own_times(modified, modified)
}

/// Copies the attributes that are content. One that the destination cannot hold is left out, as BuildKit has it.
fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let to = to.as_fd();
    let all = xattrs_of(from)?;
    let content = all.iter().filter(|xattr| is_content_xattr(&xattr.name));
    set_xattrs(content, |xattr| set_xattr(to, xattr))
}

/// Sets attributes but for those that the destination cannot hold.
pub(super) fn set_xattrs<'x>(
    xattrs: impl IntoIterator<Item = &'x Xattr>,
    set: impl Fn(&Xattr) -> io::Result<()>,
) -> io::Result<()> {
    for xattr in xattrs {
        match set(xattr) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
                ) => {}
            other => other?,
        }
    }
    Ok(())
}
