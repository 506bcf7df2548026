//! What somebody who is not root may not do to the files of others: the kernel would let them, since all files are really
//! the caller's.
//!
//! Asked are calls that change names, modes, times, attributes and lengths, that open something to write to it, that
//! execute it, and those that want to know (`access`). Reading is not: that would be nearly every call. Nor is the way to a
//! file: only it, and the directory that it is in.
//!
//! It protects nobody from anybody. Programs look at what they may do, and do something else where they may not.

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::credentials::Credentials;
use super::files::{
    Files, HERE, NO_FLAGS, NO_FOLLOW, Named, Request, SET_GROUP_ID, SET_USER_ID, callers,
};
use super::making::{Ending, split};
use super::number;
use crate::sys::dir::{Kind, Metadata};
use crate::sys::task::Task;

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;
const STICKY: u32 = 0o1000;
const EXECUTABLE_BY_GROUP: u32 = 0o010;
/// As who one is, not as who one was (`AT_EACCESS`).
const EFFECTIVE: u64 = 0x200;
/// `linkat` follows links only if it is asked to (`AT_SYMLINK_FOLLOW`).
const FOLLOW: u64 = 0x400;
/// Attributes that belong to the kernel's security modules, file capabilities among them.
const SECURITY: &[u8] = b"security.";
/// File systems of the kernel's own, which know by themselves who may do what.
const KERNELS_OWN: [i64; 3] = [0x9fa0, 0x6265_6572, 0x6367_7270];

type Refused = Result<(), Errno>;

impl Credentials {
    /// Whether they may do all of this to something of this owner and mode.
    fn may(&self, seen: &Metadata, wanted: u32) -> bool {
        self.is_powerful_over_files()
            || self.share_of(seen.uid, seen.gid, seen.mode) & wanted == wanted
    }

    fn owns(&self, seen: &Metadata) -> bool {
        self.may_change((seen.uid, seen.gid))
    }

    /// As who started the program, whatever it has become since.
    fn real(&self) -> Self {
        let mut real = self.clone();
        real.users.file = self.users.real;
        real.groups.file = self.groups.real;
        real.kept = false;
        real.over_files = self.users.real == 0;
        real
    }
}

impl Files {
    /// Refuses what the kernel would refuse if files were whose they seem to be. What is not there, and everything else,
    /// it says itself.
    pub(super) fn refuse(&self, name: &'static str, request: &Request<'_>) -> Refused {
        let [a, b, c, d, e, _] = request.call.arguments;
        let asks = match name {
            "access" => Some(((HERE, a), b, NO_FLAGS)),
            "faccessat" => Some(((a, b), c, NO_FLAGS)),
            "faccessat2" => Some(((a, b), c, d)),
            _ => None,
        };
        if let Some((what, wanted, flags)) = asks {
            let credentials = match flags & EFFECTIVE {
                0 => request.credentials.real(),
                _ => request.credentials.clone(),
            };
            let wanted = number(wanted) & (READ | WRITE | EXECUTE);
            return match credentials.is_powerful_over_files() || wanted == 0 {
                true => Ok(()),
                false => self.needs(request, &credentials, what, flags & NO_FOLLOW, wanted),
            };
        }
        let credentials = request.credentials;
        if credentials.is_powerful_over_files() {
            return Ok(());
        }
        let writes = |what, flags| self.needs(request, credentials, what, flags, WRITE);
        match name {
            "open" => self.opens(request, (HERE, a), b),
            "openat" => self.opens(request, (a, b), c),
            "creat" => writes((HERE, a), NO_FLAGS),
            "truncate" => writes((HERE, a), NO_FLAGS),
            "unlink" | "rmdir" => self.removes(request, (HERE, a)),
            "unlinkat" => self.removes(request, (a, b)),
            "rename" => self.renames(request, (HERE, a), (HERE, b)),
            "renameat" | "renameat2" => self.renames(request, (a, b), (c, d)),
            "link" => self.links(request, (HERE, a), NO_FOLLOW, (HERE, b)),
            "linkat" => {
                let flags = if e & FOLLOW == 0 { NO_FOLLOW } else { NO_FLAGS };
                self.links(request, (a, b), flags, (c, d))
            }
            "chmod" => self.changes_mode(request, (HERE, a), NO_FLAGS),
            "fchmodat" => self.changes_mode(request, (a, b), NO_FLAGS),
            "fchmodat2" => self.changes_mode(request, (a, b), d & NO_FOLLOW),
            "utime" | "utimes" => self.changes_times(request, (HERE, a), NO_FLAGS, b),
            "futimesat" => self.changes_times(request, (a, b), NO_FLAGS, c),
            "utimensat" => self.changes_times(request, (a, b), d & NO_FOLLOW, c),
            "setxattr" | "removexattr" => self.attributes(request, (HERE, a), NO_FLAGS, b),
            "lsetxattr" | "lremovexattr" => self.attributes(request, (HERE, a), NO_FOLLOW, b),
            // Who has opened it was asked then.
            "fsetxattr" | "fremovexattr" => no_capabilities(request, b),
            "execve" => self.needs(request, credentials, (HERE, a), NO_FLAGS, EXECUTE),
            "execveat" => self.needs(request, credentials, (a, b), e & NO_FOLLOW, EXECUTE),
            _ => Ok(()),
        }
    }

    /// What a call is about, if it is there and something that has an owner of the image.
    fn look(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: u64,
    ) -> Result<Option<Metadata>, Errno> {
        match self.named(request, what)? {
            Some(named) => self.look_at(request.task, &named, flags),
            None => Ok(None),
        }
    }

    fn look_at(&self, task: Task, named: &Named, flags: u64) -> Result<Option<Metadata>, Errno> {
        let seen = callers(self.glance(task, named, flags))?;
        Ok(seen.filter(|seen| {
            matches!(
                seen.kind,
                Kind::File | Kind::Dir | Kind::Symlink | Kind::Fifo
            )
        }))
    }

    /// Says no to something, unless it is of a file system of the kernel's own.
    fn no(&self, task: Task, named: &Named, why: Errno) -> Refused {
        let kind = self.filesystem(task, named).unwrap_or_default();
        match KERNELS_OWN.contains(&kind) {
            true => Ok(()),
            false => Err(why),
        }
    }

    fn needs(
        &self,
        request: &Request<'_>,
        credentials: &Credentials,
        what: (u64, u64),
        flags: u64,
        wanted: u32,
    ) -> Refused {
        self.no_if(request, what, flags, Errno::ACCESS, |seen| {
            seen.kind != Kind::Symlink && !credentials.may(seen, wanted)
        })
    }

    /// Says no to what is there and is so.
    fn no_if(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: u64,
        why: Errno,
        is_so: impl Fn(&Metadata) -> bool,
    ) -> Refused {
        let Some(named) = self.named(request, what)? else {
            return Ok(());
        };
        match self.look_at(request.task, &named, flags)? {
            Some(seen) if is_so(&seen) => self.no(request.task, &named, why),
            _ => Ok(()),
        }
    }

    pub(super) fn opens(&self, request: &Request<'_>, what: (u64, u64), flags: u64) -> Refused {
        let flags = OFlags::from_bits_retain(number(flags));
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        if flags.intersects(OFlags::PATH | OFlags::EXCL) || flags.contains(OFlags::TMPFILE) {
            return Ok(());
        }
        match writes {
            true => self.needs(request, request.credentials, what, NO_FLAGS, WRITE),
            false => Ok(()),
        }
    }

    /// Whether the directory that a name is in may be changed; gives the directory, and what has the name.
    fn changes_directory(
        &self,
        request: &Request<'_>,
        named: &Named,
    ) -> Result<Option<(Metadata, Option<Metadata>)>, Errno> {
        let Some((parent, _)) = split(&named.path, Ending::NameOrSlash) else {
            return Ok(None);
        };
        let parent = Named {
            directory: named.directory,
            path: parent,
        };
        let Some(directory) = self.look_at(request.task, &parent, NO_FLAGS)? else {
            return Ok(None);
        };
        let entry = callers(self.glance(request.task, named, NO_FOLLOW))?;
        Ok(Some((directory, entry)))
    }

    fn takes_name(
        &self,
        request: &Request<'_>,
        named: &Named,
        directory: &Metadata,
        entry: Option<&Metadata>,
    ) -> Refused {
        let credentials = request.credentials;
        if !credentials.may(directory, WRITE | EXECUTE) {
            return self.no(request.task, named, Errno::ACCESS);
        }
        match entry {
            Some(entry)
                if directory.mode & STICKY != 0
                    // Whose a socket is, nobody has been told.
                    && entry.kind != Kind::Socket
                    && !credentials.owns(entry)
                    && !credentials.owns(directory) =>
            {
                Err(Errno::PERM)
            }
            _ => Ok(()),
        }
    }

    fn removes(&self, request: &Request<'_>, what: (u64, u64)) -> Refused {
        let Some(named) = self.named(request, what)? else {
            return Ok(());
        };
        match self.changes_directory(request, &named)? {
            Some((directory, entry @ Some(_))) => {
                self.takes_name(request, &named, &directory, entry.as_ref())
            }
            _ => Ok(()),
        }
    }

    fn renames(&self, request: &Request<'_>, from: (u64, u64), to: (u64, u64)) -> Refused {
        let Some(old) = self.named(request, from)? else {
            return Ok(());
        };
        let Some((directory, entry @ Some(_))) = self.changes_directory(request, &old)? else {
            return Ok(());
        };
        self.takes_name(request, &old, &directory, entry.as_ref())?;
        let Some(new) = self.named(request, to)? else {
            return Ok(());
        };
        match self.changes_directory(request, &new)? {
            Some((directory, entry)) => self.takes_name(request, &new, &directory, entry.as_ref()),
            None => Ok(()),
        }
    }

    /// As with `fs.protected_hardlinks`, which every distribution sets.
    fn links(
        &self,
        request: &Request<'_>,
        from: (u64, u64),
        flags: u64,
        to: (u64, u64),
    ) -> Refused {
        let credentials = request.credentials;
        let Some(seen) = self.look(request, from, flags)? else {
            return Ok(());
        };
        let Some(new) = self.named(request, to)? else {
            return Ok(());
        };
        let Some((directory, None)) = self.changes_directory(request, &new)? else {
            return Ok(());
        };
        let of_group = SET_GROUP_ID | EXECUTABLE_BY_GROUP;
        let is_harmless = seen.kind == Kind::File
            && seen.mode & SET_USER_ID == 0
            && seen.mode & of_group != of_group
            && credentials.may(&seen, READ | WRITE);
        if !is_harmless && !credentials.owns(&seen) {
            return Err(Errno::PERM);
        }
        self.takes_name(request, &new, &directory, None)
    }

    fn changes_mode(&self, request: &Request<'_>, what: (u64, u64), flags: u64) -> Refused {
        self.no_if(request, what, flags, Errno::PERM, |seen| {
            !request.credentials.owns(seen)
        })
    }

    /// To now by who may write to it, to other times by its owner.
    fn changes_times(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: u64,
        times: u64,
    ) -> Refused {
        let credentials = request.credentials;
        let is_now = times == 0;
        let why = if is_now { Errno::ACCESS } else { Errno::PERM };
        self.no_if(request, what, flags, why, |seen| {
            !(credentials.owns(seen) || is_now && credentials.may(seen, WRITE))
        })
    }

    fn attributes(
        &self,
        request: &Request<'_>,
        what: (u64, u64),
        flags: u64,
        name: u64,
    ) -> Refused {
        no_capabilities(request, name)?;
        self.needs(request, request.credentials, what, flags, WRITE)
    }
}

fn no_capabilities(request: &Request<'_>, name: u64) -> Refused {
    match request.task.text(name) {
        Ok(name) if name.to_bytes().starts_with(SECURITY) => Err(Errno::PERM),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::users::Identity;
    use super::*;

    fn somebody(uid: u32, groups: &[u32]) -> Credentials {
        Credentials::of(&Identity {
            uid,
            gid: uid,
            groups: groups.to_vec(),
            home: String::new(),
        })
    }

    fn owned_by(uid: u32, gid: u32, mode: u32) -> Metadata {
        let stat = rustix::fs::stat("/").unwrap();
        Metadata {
            uid,
            gid,
            mode,
            ..Metadata::of_kernel(&stat).unwrap()
        }
    }

    #[test]
    fn the_part_of_a_mode_that_counts_is_the_first_that_fits() {
        let ada = somebody(1000, &[50]);
        assert!(ada.may(&owned_by(1000, 0, 0o600), READ | WRITE));
        assert!(!ada.may(&owned_by(1000, 50, 0o077), READ));
        assert!(ada.may(&owned_by(0, 50, 0o040), READ));
        assert!(!ada.may(&owned_by(0, 50, 0o706), WRITE));
        assert!(!ada.may(&owned_by(0, 0, 0o754), WRITE | EXECUTE));
        assert!(somebody(0, &[]).may(&owned_by(5, 5, 0), READ | WRITE));
        assert!(ada.owns(&owned_by(1000, 0, 0)) && !ada.owns(&owned_by(0, 1000, 0o777)));
    }

    #[test]
    fn a_set_id_program_asks_as_who_has_started_it() {
        let sudo = somebody(1000, &[]).executing(Some(0), None);
        let shadow = owned_by(0, 42, 0o640);
        assert!(sudo.may(&shadow, WRITE));
        assert!(!sudo.real().may(&shadow, READ));
    }
}
