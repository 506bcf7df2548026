//! Calls that make something: where it belongs to somebody else than root, the deputy makes it.

use std::ffi::{CStr, CString};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::credentials::Credentials;
use super::files::{
    EXECUTABLE_BY_GROUP, Files, NO_FLAGS, Named, Request, SET_GROUP_ID, Subject, callers,
};
use super::{Answered, errno, number};
use crate::sys::dir::Kind;
use crate::sys::seccomp::{Answer, CloseOnExec};
use crate::sys::task::Task;

/// What is made, beside files.
#[derive(Debug)]
pub(super) enum New {
    /// With this mode.
    Directory(u32),
    /// With this mode and kind.
    Node(u32),
    /// To the text at this place of the caller's memory.
    Link(u64),
}

/// What the path of something new may end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Name,
    /// With a slash after it.
    NameOrSlash,
    /// Or one of a link that leads to nothing yet.
    NameOrTarget,
}

/// As many links follow one another at most.
const LINKS_MAX: usize = 40;

/// Where something is made.
struct Place {
    parent: Subject,
    name: CString,
    owner: (u32, u32),
}

impl Files {
    /// What is to be made, if it is for the deputy to make: where, its last name, and who is to have it.
    fn place(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        ending: Ending,
    ) -> Result<Option<Place>, Errno> {
        let Some(named) = self.named(request, what)? else {
            return Ok(None);
        };
        let Some((parent, mut name)) = split(&named.path, ending) else {
            return Ok(None);
        };
        let parent = Named {
            directory: named.directory,
            path: parent,
        };
        let credentials = request.credentials;
        if credentials.makes_files_of_root() && !self.hands_its_group_on(request.task, &parent)? {
            return Ok(None);
        }
        let Some(mut parent) = callers(self.find(request, &parent, NO_FLAGS))? else {
            return Ok(None);
        };
        for _ in 0..LINKS_MAX {
            let Ok(there) = rustix::fs::statat(&parent.held, &*name, AtFlags::SYMLINK_NOFOLLOW)
            else {
                return self.place_in(request, parent, name);
            };
            let is_link = FileType::from_raw_mode(there.st_mode) == FileType::Symlink;
            let leads_nowhere = || {
                let led = rustix::fs::statat(&parent.held, &*name, AtFlags::empty());
                matches!(led, Err(Errno::NOENT))
            };
            if ending != Ending::NameOrTarget || !is_link || !leads_nowhere() {
                // It is there: nothing is made, or that is what is wrong.
                return Ok(None);
            }
            // What the link leads to is made.
            let target = rustix::fs::readlinkat(&parent.held, &*name, Vec::new());
            let Some((above, last)) =
                callers(target)?.and_then(|target| split(&target, Ending::Name))
            else {
                return Ok(None);
            };
            let Some(next) = callers(self.below(&parent, &above))? else {
                return Ok(None);
            };
            (parent, name) = (next, last);
        }
        Ok(None)
    }

    fn place_in(
        &self,
        request: &Request<'_>,
        parent: Subject,
        name: CString,
    ) -> Result<Option<Place>, Errno> {
        let credentials = request.credentials;
        let owner = new_owner(credentials, &parent);
        if owner == (0, 0) && credentials.makes_files_of_root() {
            return Ok(None);
        }
        if parent.is_mounted && owner == parent.owner() {
            return Ok(None);
        }
        if !credentials.may_add_to(parent.owner(), parent.metadata.mode) {
            return Err(Errno::ACCESS);
        }
        Ok(Some(Place {
            parent,
            name,
            owner,
        }))
    }

    /// Whether what root makes in a directory has another group than root's.
    fn hands_its_group_on(&self, task: Task, directory: &Named) -> Result<bool, Errno> {
        let seen = callers(self.glance(task, directory, NO_FLAGS))?;
        Ok(seen.is_some_and(|seen| seen.mode & SET_GROUP_ID != 0 && seen.gid != 0))
    }

    pub(super) fn open(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: u64,
        mode: u64,
    ) -> Answered {
        let flags = OFlags::from_bits_retain(number(flags));
        if flags.contains(OFlags::PATH) {
            return Ok(Answer::Go);
        }
        let on_exec = match flags.contains(OFlags::CLOEXEC) {
            true => CloseOnExec::Yes,
            false => CloseOnExec::No,
        };
        if flags.contains(OFlags::TMPFILE) {
            return self.open_nameless(request, what, flags, mode, on_exec);
        }
        if !flags.contains(OFlags::CREATE) || flags.contains(OFlags::DIRECTORY) {
            return Ok(Answer::Go);
        }
        let ending = match flags.intersects(OFlags::EXCL | OFlags::NOFOLLOW) {
            true => Ending::Name,
            false => Ending::NameOrTarget,
        };
        let Some(place) = self.place(request, what, ending)? else {
            return Ok(Answer::Go);
        };
        let flags = flags | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = mode_of_file(request, &place.parent, mode)?;
        match rustix::fs::openat(&place.parent.held, &*place.name, flags, mode) {
            Ok(file) => {
                let made = Subject::of(file)?;
                made.record(place.owner)?;
                Ok(Answer::File(made.held, on_exec))
            }
            Err(Errno::EXIST) => Ok(Answer::Go),
            Err(error) => Err(error),
        }
    }

    fn open_nameless(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: OFlags,
        mode: u64,
        on_exec: CloseOnExec,
    ) -> Answered {
        let credentials = request.credentials;
        let Some(named) = self.named(request, what)? else {
            return Ok(Answer::Go);
        };
        if named.path.is_empty() {
            return Ok(Answer::Go);
        }
        if credentials.makes_files_of_root() && !self.hands_its_group_on(request.task, &named)? {
            return Ok(Answer::Go);
        }
        let directory = match callers(self.find(request, &named, NO_FLAGS))? {
            Some(directory) if directory.metadata.kind == Kind::Dir => directory,
            _ => return Ok(Answer::Go),
        };
        if !credentials.may_add_to(directory.owner(), directory.metadata.mode) {
            return Err(Errno::ACCESS);
        }
        let mode = mode_of_file(request, &directory, mode)?;
        let file = rustix::fs::openat(&directory.held, c".", flags | OFlags::CLOEXEC, mode)?;
        let made = Subject::of(file)?;
        made.record(new_owner(credentials, &directory))?;
        Ok(Answer::File(made.held, on_exec))
    }

    pub(super) fn make(&self, request: &Request<'_>, what: (u64, u64), new: &New) -> Answered {
        let node = match new {
            New::Node(mode) => match FileType::from_raw_mode(*mode) {
                // Zero stands for a file.
                _ if mode & 0o170_000 == 0 => Some(FileType::RegularFile),
                kind @ (FileType::RegularFile | FileType::Fifo | FileType::Socket) => Some(kind),
                // The kernel refuses devices, but first those who may make nothing there.
                FileType::CharacterDevice | FileType::BlockDevice => None,
                _ => return Ok(Answer::Go),
            },
            _ => None,
        };
        let ending = match new {
            New::Directory(_) => Ending::NameOrSlash,
            New::Node(_) | New::Link(_) => Ending::Name,
        };
        let Some(place) = self.place(request, what, ending)? else {
            return Ok(Answer::Go);
        };
        let (parent, name) = (&place.parent.held, &*place.name);
        let made = match new {
            New::Directory(mode) => {
                let mode = unmasked(request.task, mode & 0o1777)?;
                rustix::fs::mkdirat(parent, name, mode)
            }
            New::Node(mode) => {
                let Some(kind) = node else {
                    return Ok(Answer::Go);
                };
                let mode = mode_of_file(request, &place.parent, (*mode).into())?;
                rustix::fs::mknodat(parent, name, kind, mode, 0)
            }
            New::Link(target) => {
                let Some(target) = callers(request.task.text(*target).map_err(errno))? else {
                    return Ok(Answer::Go);
                };
                request.still_waits()?;
                rustix::fs::symlinkat(&*target, parent, name)
            }
        };
        made?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = Subject::of(rustix::fs::openat(parent, name, flags, Mode::empty())?)?;
        made.record(place.owner)?;
        Ok(Answer::Value(0))
    }
}

/// Whose it is what somebody makes in a directory.
fn new_owner(credentials: &Credentials, directory: &Subject) -> (u32, u32) {
    let group = match directory.metadata.mode & SET_GROUP_ID {
        0 => credentials.groups.file,
        _ => directory.metadata.gid,
    };
    (credentials.users.file, group)
}

/// The directory and the last name of a path; `None` if it ends in something else.
pub(super) fn split(path: &CStr, ending: Ending) -> Option<(CString, CString)> {
    if ending != Ending::NameOrSlash && path.to_bytes().ends_with(b"/") {
        return None;
    }
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/')? + 1;
    let bytes = &bytes[..end];
    let start = bytes.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = match start {
        None => (&b"."[..], bytes),
        Some(slash) => (&bytes[..=slash], &bytes[slash + 1..]),
    };
    if name == b"." || name == b".." {
        return None;
    }
    Some((CString::new(parent).ok()?, CString::new(name).ok()?))
}

/// The mode of a new file: who is not in the group that a directory hands on lends nobody that group's rights.
fn mode_of_file(request: &Request<'_>, directory: &Subject, mode: u64) -> Result<Mode, Errno> {
    const LENDS: u32 = SET_GROUP_ID | EXECUTABLE_BY_GROUP;
    let mut mode = number(mode) & 0o7777;
    let hands_on = directory.metadata.mode & SET_GROUP_ID != 0;
    if hands_on && mode & LENDS == LENDS && !request.credentials.may_lend(directory.metadata.gid) {
        mode &= !SET_GROUP_ID;
    }
    unmasked(request.task, mode)
}

/// A mode without what the caller's umask takes away.
fn unmasked(task: Task, mode: u32) -> Result<Mode, Errno> {
    let status = std::fs::read_to_string(format!("{}/status", task.shown)).map_err(errno)?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let mask = line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok());
    Ok(Mode::from_raw_mode(mode & !mask.ok_or(Errno::IO)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_last_name_or_none() {
        let check = |path: &str, expected: Option<(&str, &str)>| {
            let path = CString::new(path).unwrap();
            let found = split(&path, Ending::NameOrSlash);
            let found = found
                .as_ref()
                .map(|(parent, name)| (parent.to_str().unwrap(), name.to_str().unwrap()));
            assert_eq!(found, expected, "{path:?}");
        };
        check("file", Some((".", "file")));
        check("/file", Some(("/", "file")));
        check("a/b//c//", Some(("a/b//", "c")));
        assert_eq!(split(c"a/", Ending::Name), None);
        check("..", None);
        check("a/.", None);
        check("/", None);
        check("", None);
    }
}
