//! A root filesystem as files in a directory of the user's: everything belongs to whoever exports it, as with BuildKit.
//! Set-id bits go with the owners they were for, and so do file capabilities; device nodes are left out and counted.
//!
//! What is in the directory already stays, unless the tree has the same name. Links in it are replaced, not followed, so
//! that nothing is written outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::place::{beside, destination};
use super::{Export, ExportError, SourceError};
use crate::image::layer::{Entry, Kind, LayerReader, Limits, Malformed};
use crate::image::pipe;
use crate::sys::dir::{self, Dir, Time, Xattr};
use crate::sys::file;

/// Writes the root filesystem to `dest`; says how many device nodes are missing. A directory that does not exist yet
/// appears when it is whole.
pub(super) fn write(export: &Export<'_>, dest: &Path) -> Result<u64, ExportError> {
    let failed = |doing| move |source| destination(dest, doing, source);
    if dest.symlink_metadata().is_ok() {
        let dir = Dir::open_trusted(dest).map_err(failed("open"))?;
        return fill(export, &dir, dest);
    }
    let Some(name) = dest.file_name() else {
        return Err(failed("create")(io::ErrorKind::InvalidFilename.into()));
    };
    let partial = beside(dest, name).map_err(failed("create"))?;
    std::fs::create_dir_all(&partial).map_err(failed("create"))?;
    let written = Dir::open_trusted(&partial)
        .map_err(failed("open"))
        .and_then(|dir| fill(export, &dir, dest))
        .and_then(|skipped| {
            std::fs::rename(&partial, dest)
                .map(|()| skipped)
                .map_err(failed("create"))
        });
    if written.is_err()
        && let (Some(parent), Some(name)) = (partial.parent(), partial.file_name())
    {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        // What failed before is what is told.
        drop(Dir::open_trusted(parent).and_then(|parent| parent.remove_tree(name)));
    }
    written
}

fn fill(export: &Export<'_>, dir: &Dir, dest: &Path) -> Result<u64, ExportError> {
    let (mut writer, reader) = pipe::new();
    std::thread::scope(|scope| {
        let unpacked = scope.spawn(|| unpack(reader, dir, dest));
        let sent = export.source.write_root(export.root_times(), &mut writer);
        match sent {
            Ok(()) => writer.finish(),
            // Dropped without an end, so that the other side stops.
            Err(_) => drop(writer),
        }
        let unpacked = unpacked
            .join()
            .map_err(|_| ExportError::Root("a thread has panicked".into()))?;
        match (unpacked, sent) {
            (Ok(skipped), Ok(())) => Ok(skipped),
            // What failed on this side broke the other's pipe.
            (Err(Failure::Here(path, doing, error)), _) => Err(destination(&path, doing, error)),
            (_, Err(error)) => Err(ExportError::Root(error)),
            (Err(Failure::Tar(error)), Ok(())) => Err(ExportError::Root(SourceError::from(error))),
        }
    })
}

enum Failure {
    Tar(Malformed),
    Here(PathBuf, &'static str, io::Error),
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Tar(error)
    }
}

fn unpack(tar: impl Read, root: &Dir, dest: &Path) -> Result<u64, Failure> {
    let mut reader = LayerReader::new(tar, Limits::default());
    let mut directories: Vec<Entry> = Vec::new();
    let mut devices_skipped = 0;
    let mut here: Option<(Vec<u8>, Dir)> = None;
    while let Some(entry) = reader.next_entry()? {
        if entry.path.is_empty() {
            continue;
        }
        let failed = |doing| {
            let path = dest.join(OsStr::from_bytes(&entry.path));
            move |error| Failure::Here(path, doing, error)
        };
        let (parent, name) = split(&entry.path);
        let dir = match &here {
            Some((path, dir)) if path == parent => dir,
            _ => {
                &here
                    .insert((
                        parent.to_vec(),
                        descend(root, parent).map_err(failed("reach"))?,
                    ))
                    .1
            }
        };
        let existing = dir.find(name).map_err(failed("look at"))?;
        let is_dir = existing.is_some_and(|metadata| metadata.is_dir());
        if matches!(entry.kind, Kind::Directory) {
            if is_dir {
                // One that an export made unwritable before is to be written to again.
                let own = dir.open_dir(name).map_err(failed("open"))?;
                let mode = own.own_metadata().map_err(failed("look at"))?.mode;
                if mode & 0o700 != 0o700 {
                    own.set_own_mode(mode | 0o700)
                        .map_err(failed("make room in"))?;
                }
            } else {
                if existing.is_some() {
                    dir.remove_file(name).map_err(failed("replace"))?;
                }
                dir.create_dir(name, 0o700).map_err(failed("create"))?;
            }
            directories.push(entry);
            continue;
        }
        if is_dir {
            here = None;
            let dir = descend(root, parent).map_err(failed("reach"))?;
            dir.remove_tree(name).map_err(failed("replace"))?;
            devices_skipped += put(root, &dir, name, &entry, &mut reader, dest)?;
        } else {
            devices_skipped += put(root, dir, name, &entry, &mut reader, dest)?;
        }
    }
    for entry in directories.iter().rev() {
        let failed =
            |error| Failure::Here(dest.join(OsStr::from_bytes(&entry.path)), "finish", error);
        let dir = descend(root, &entry.path).map_err(failed)?;
        dir.set_own_mode(entry.mode & 0o1777).map_err(failed)?;
        dir.set_own_times(time_of(entry), time_of(entry))
            .map_err(failed)?;
    }
    Ok(devices_skipped)
}

/// A name under which a file grows before it takes its place.
const PARTIAL: &str = ".shmocker.partial";

/// Puts anything but a directory in its place; says how many devices were left out.
fn put(
    root: &Dir,
    dir: &Dir,
    name: &OsStr,
    entry: &Entry,
    content: &mut impl Read,
    dest: &Path,
) -> Result<u64, Failure> {
    let failed = |doing| {
        let path = dest.join(OsStr::from_bytes(&entry.path));
        move |error| Failure::Here(path, doing, error)
    };
    let is_device = matches!(
        entry.kind,
        Kind::CharDevice { .. } | Kind::BlockDevice { .. }
    );
    if is_device {
        return Ok(1);
    }
    match dir.remove_file(PARTIAL) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace")(error));
        }
        _ => {}
    }
    match &entry.kind {
        Kind::File { .. } => {
            let mut file = dir.create_file(PARTIAL, 0o600).map_err(failed("create"))?;
            copy(content, &mut file).map_err(|error| match error {
                Copying::From(error) => Failure::Tar(error.into()),
                Copying::To(error) => failed("write")(error),
            })?;
            describe(&file, entry).map_err(failed("finish"))?;
        }
        Kind::HardLink { target } => {
            let (parent, old) = split(target);
            let from = descend(root, parent).map_err(failed("reach the target of"))?;
            // A device that was left out has other names too.
            if from
                .find(old)
                .map_err(failed("look at the target of"))?
                .is_none()
            {
                return Ok(1);
            }
            dir.hard_link(&from, old, PARTIAL).map_err(failed("link"))?;
        }
        Kind::Symlink { target } => {
            dir.symlink(OsStr::from_bytes(target), PARTIAL)
                .map_err(failed("create"))?;
            dir.set_times(PARTIAL, time_of(entry), time_of(entry))
                .map_err(failed("finish"))?;
        }
        _ => {
            dir.make_node(PARTIAL, dir::Kind::Fifo, 0o600, 0)
                .map_err(failed("create"))?;
            dir.set_mode(PARTIAL, entry.mode & 0o777)
                .map_err(failed("finish"))?;
            dir.set_times(PARTIAL, time_of(entry), time_of(entry))
                .map_err(failed("finish"))?;
        }
    }
    dir.rename(PARTIAL, dir, name).map_err(failed("create"))?;
    // A rename onto another name of the same file does nothing.
    match dir.remove_file(PARTIAL) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("create")(error)),
        _ => Ok(0),
    }
}

enum Copying {
    From(io::Error),
    To(io::Error),
}

fn copy(from: &mut impl Read, to: &mut File) -> Result<(), Copying> {
    let mut buffer = [0; 64 << 10];
    loop {
        match from.read(&mut buffer).map_err(Copying::From)? {
            0 => return Ok(()),
            got => to.write_all(&buffer[..got]).map_err(Copying::To)?,
        }
    }
}

fn describe(file: &File, entry: &Entry) -> io::Result<()> {
    for (name, value) in entry
        .xattrs
        .iter()
        .filter(|(name, _)| name.starts_with(b"user."))
    {
        let xattr = Xattr {
            name: OsStr::from_bytes(name).to_owned(),
            value: value.clone(),
        };
        match file::set_xattr(file, &xattr) {
            // A destination without attributes gets the files without them.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => break,
            other => other?,
        }
    }
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(entry.mode & 0o777))?;
    let time = rustix::fs::Timespec {
        tv_sec: entry.mtime.seconds,
        tv_nsec: entry.mtime.nanoseconds.into(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

fn time_of(entry: &Entry) -> Time {
    Time {
        seconds: entry.mtime.seconds,
        nanoseconds: entry.mtime.nanoseconds,
    }
}

/// A directory of the tree, no link followed. The tree is a whole one, so every directory has come before what is in it.
fn descend(root: &Dir, path: &[u8]) -> io::Result<Dir> {
    let mut dir = root.try_clone()?;
    for name in path
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
    {
        dir = dir.open_dir(OsStr::from_bytes(name))?;
    }
    Ok(dir)
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], OsStr::from_bytes(&path[slash + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}
