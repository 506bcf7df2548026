//! Who a process is in the image, where it is really always the caller: the rules of credentials(7).

use rustix::io::Errno;

use super::super::users::Identity;

/// The number that means "as it is".
const AS_IS: u32 = u32::MAX;

/// A process's users, or its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    /// What files are reached and made with.
    pub(super) file: u32,
}

impl Ids {
    const fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            file: id,
        }
    }

    fn has(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// `setuid`, `setgid`.
    pub(super) fn set(self, id: u32, powerful: bool) -> Result<Self, Errno> {
        match id {
            AS_IS => Err(Errno::INVAL),
            _ if powerful => Ok(Self::all(id)),
            _ if id == self.real || id == self.saved => Ok(Self {
                effective: id,
                file: id,
                ..self
            }),
            _ => Err(Errno::PERM),
        }
    }

    /// `setreuid`, `setregid`.
    pub(super) fn set_two(self, real: u32, effective: u32, powerful: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != AS_IS {
            if !powerful && real != self.real && real != self.effective {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != AS_IS {
            if !powerful && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != AS_IS || (effective != AS_IS && effective != self.real) {
            new.saved = new.effective;
        }
        new.file = new.effective;
        Ok(new)
    }

    /// `setresuid`, `setresgid`.
    pub(super) fn set_three(self, ids: [u32; 3], powerful: bool) -> Result<Self, Errno> {
        if !powerful && !ids.iter().all(|id| *id == AS_IS || self.has(*id)) {
            return Err(Errno::PERM);
        }
        let or = |new: u32, old: u32| if new == AS_IS { old } else { new };
        let effective = or(ids[1], self.effective);
        let new = Self {
            real: or(ids[0], self.real),
            effective,
            saved: or(ids[2], self.saved),
            file: effective,
        };
        // What changes nothing leaves the one for files as it is, too, unless the effective one is given.
        let changes = Self {
            file: self.file,
            ..new
        } != self
            || (ids[1] != AS_IS && new != self);
        Ok(if changes { new } else { self })
    }

    /// `setfsuid`, `setfsgid`, which never fail.
    pub(super) fn set_file(self, id: u32, powerful: bool) -> Self {
        let may = id != AS_IS && (powerful || self.has(id) || id == self.file);
        Self {
            file: if may { id } else { self.file },
            ..self
        }
    }
}

/// All of a process's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) users: Ids,
    pub(super) groups: Ids,
    pub(super) supplementary: Vec<u32>,
    /// Whether it wishes to stay powerful when it is root no more (`PR_SET_KEEPCAPS`).
    pub(super) keeps: bool,
    /// Whether it has.
    pub(super) kept: bool,
    /// Whether it can get its power back.
    pub(super) permitted: bool,
    /// Whether it has it.
    pub(super) effective: bool,
    /// The part of it that is about files, which follows the user for files.
    pub(super) over_files: bool,
}

impl Credentials {
    /// Those that a step starts with.
    pub(super) fn of(identity: &Identity) -> Self {
        let mut supplementary = vec![identity.gid];
        supplementary.extend(&identity.groups);
        supplementary.sort_unstable();
        supplementary.dedup();
        let is_root = identity.uid == 0;
        Self {
            users: Ids::all(identity.uid),
            groups: Ids::all(identity.gid),
            supplementary,
            keeps: false,
            kept: false,
            permitted: is_root,
            effective: is_root,
            over_files: is_root,
        }
    }

    /// As other users.
    pub(super) fn with_users(&self, users: Ids) -> Self {
        let mut new = Self {
            users,
            ..self.clone()
        };
        if self.users.has(0) && !users.has(0) {
            new.kept = self.keeps;
            new.permitted = false;
        }
        if (self.users.effective == 0) != (users.effective == 0) || !new.permitted {
            new.effective = new.permitted && users.effective == 0;
            new.over_files = new.effective;
        }
        new
    }

    /// As another user for files.
    pub(super) fn with_user_for_files(&self, users: Ids) -> Self {
        let over_files = match (self.users.file, users.file) {
            (before, after) if (before == 0) == (after == 0) => self.over_files,
            (_, after) => after == 0 && self.permitted,
        };
        Self {
            users,
            over_files,
            ..self.clone()
        }
    }

    /// After it has executed a program; the owner and group of a set-id one.
    pub(super) fn executing(&self, user: Option<u32>, group: Option<u32>) -> Self {
        let settled = |ids: Ids, id: Option<u32>| {
            let id = id.unwrap_or(ids.effective);
            Ids {
                effective: id,
                saved: id,
                file: id,
                ..ids
            }
        };
        let users = settled(self.users, user);
        let is_root = users.effective == 0;
        Self {
            users,
            groups: settled(self.groups, group),
            supplementary: self.supplementary.clone(),
            keeps: false,
            kept: false,
            permitted: is_root || users.real == 0,
            effective: is_root,
            over_files: is_root,
        }
    }

    /// Whether it may become anybody.
    pub(super) fn is_powerful(&self) -> bool {
        self.effective || self.kept
    }

    /// Whether it may do everything with files.
    pub(super) fn is_powerful_over_files(&self) -> bool {
        self.over_files || self.kept
    }

    /// Whether files that it makes need no record, and it may make them everywhere.
    pub(super) fn makes_files_of_root(&self) -> bool {
        self.users.file == 0 && self.groups.file == 0 && self.is_powerful_over_files()
    }

    /// Whether a program of a group that it makes may have that group's rights.
    pub(super) fn may_lend(&self, gid: u32) -> bool {
        self.is_powerful_over_files() || self.is_in(gid)
    }

    fn is_in(&self, gid: u32) -> bool {
        self.groups.file == gid || self.supplementary.contains(&gid)
    }

    /// `chown`: who a file of `now` belongs to afterwards.
    pub(super) fn given(&self, now: (u32, u32), uid: u32, gid: u32) -> Result<(u32, u32), Errno> {
        let or = |new: u32, old: u32| if new == AS_IS { old } else { new };
        let new = (or(uid, now.0), or(gid, now.1));
        if !self.is_powerful_over_files() {
            let is_own = now.0 == self.users.file;
            let keeps_user = uid == AS_IS || (is_own && uid == now.0);
            let may_group = gid == AS_IS || (is_own && (gid == now.1 || self.is_in(gid)));
            if !keeps_user || !may_group {
                return Err(Errno::PERM);
            }
        }
        Ok(new)
    }

    /// Whether it may change what a file of this owner is, as its mode.
    pub(super) fn may_change(&self, owner: (u32, u32)) -> bool {
        self.is_powerful_over_files() || self.users.file == owner.0
    }

    /// The bits of a mode that are about it, for something of this owner and group.
    pub(super) fn share_of(&self, uid: u32, gid: u32, mode: u32) -> u32 {
        let bits = if self.users.file == uid {
            mode >> 6
        } else if self.is_in(gid) {
            mode >> 3
        } else {
            mode
        };
        bits & 0o7
    }

    /// Whether it may make something in a directory of this owner and mode.
    pub(super) fn may_add_to(&self, owner: (u32, u32), mode: u32) -> bool {
        self.is_powerful_over_files() || self.share_of(owner.0, owner.1, mode) & 0o3 == 0o3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials::of(&Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: String::new(),
        })
    }

    #[test]
    fn a_drop_is_final_where_the_kernel_makes_it_so() {
        let root = Ids::all(0);
        let dropped = root.set(1000, true).unwrap();
        assert_eq!(dropped, Ids::all(1000));
        assert_eq!(dropped.set(0, false), Err(Errno::PERM));
        assert_eq!(dropped.set_two(AS_IS, 0, false), Err(Errno::PERM));
        assert_eq!(
            dropped.set_three([AS_IS, 0, AS_IS], false),
            Err(Errno::PERM)
        );
        // seteuid, which can be taken back.
        let aside = root.set_three([AS_IS, 33, AS_IS], true).unwrap();
        assert_eq!((aside.real, aside.effective, aside.saved), (0, 33, 0));
        assert_eq!(aside.set(0, false).unwrap().effective, 0);
        assert_eq!(root.set(AS_IS, true), Err(Errno::INVAL));
        // setreuid(uid, uid) sets the saved one as well.
        assert_eq!(root.set_two(5, 5, true).unwrap(), Ids::all(5));
        assert_eq!(root.set_two(AS_IS, 5, true).unwrap().saved, 5);
        assert_eq!(root.set_two(AS_IS, 0, true).unwrap().saved, 0);
        assert_eq!(dropped.set_file(0, false).file, 1000);
        assert_eq!(root.set_file(7, true).file, 7);
    }

    #[test]
    fn power_can_be_kept_until_something_is_executed() {
        let mut root = user(0, 0, &[]);
        let drop = |from: &Credentials| from.with_users(from.users.set(1000, true).unwrap());
        assert!(!drop(&root).is_powerful());
        root.keeps = true;
        let kept = drop(&root);
        assert!(kept.is_powerful());
        assert!(!kept.executing(None, None).is_powerful());
        let sudo = drop(&user(0, 0, &[])).executing(Some(0), None);
        assert_eq!((sudo.users.real, sudo.users.effective), (1000, 0));
        assert!(sudo.is_powerful());
        let aside = root.with_users(root.users.set_three([AS_IS, 33, AS_IS], true).unwrap());
        assert_eq!(aside.executing(None, None).users.saved, 33);
    }

    #[test]
    fn power_over_files_goes_with_the_user_for_files_and_comes_back_with_it() {
        let root = user(0, 0, &[]);
        let for_files = |from: &Credentials, uid| {
            let powerful = from.is_powerful();
            from.with_user_for_files(from.users.set_file(uid, powerful))
        };
        let aside = for_files(&root, 33);
        assert!(aside.is_powerful() && !aside.is_powerful_over_files());
        assert!(for_files(&aside, 0).is_powerful_over_files());
        // The user for files is root's again, the power is not.
        let all = aside.with_users(aside.users.set(0, true).unwrap());
        assert_eq!(all.users.file, 0);
        assert!(!all.is_powerful_over_files() && !all.makes_files_of_root());
        // What changes nothing changes nothing.
        let none = [AS_IS; 3];
        assert_eq!(aside.users.set_three(none, true).unwrap().file, 33);
        assert_eq!(
            aside.users.set_three([AS_IS, 0, AS_IS], true).unwrap().file,
            0
        );
        let dropped = root.with_users(root.users.set_three([AS_IS, 33, AS_IS], true).unwrap());
        assert!(!dropped.is_powerful() && for_files(&dropped, 0).is_powerful_over_files());
        let back = dropped.with_users(dropped.users.set_three([AS_IS, 0, AS_IS], false).unwrap());
        assert!(back.is_powerful() && back.is_powerful_over_files());
    }

    #[test]
    fn files_are_given_away_by_root_only() {
        let root = user(0, 0, &[]);
        assert_eq!(root.given((0, 0), 5, AS_IS), Ok((5, 0)));
        assert_eq!(root.given((5, 6), AS_IS, 7), Ok((5, 7)));
        let ada = user(1000, 1000, &[50]);
        assert_eq!(ada.given((1000, 1000), 1000, 50), Ok((1000, 50)));
        assert_eq!(ada.given((1000, 1000), AS_IS, 51), Err(Errno::PERM));
        assert_eq!(ada.given((1000, 1000), 0, AS_IS), Err(Errno::PERM));
        assert_eq!(ada.given((0, 0), AS_IS, 1000), Err(Errno::PERM));
        assert_eq!(ada.given((0, 0), AS_IS, AS_IS), Ok((0, 0)));
    }

    #[test]
    fn directories_are_written_to_by_those_who_may() {
        let ada = user(1000, 1000, &[50]);
        assert!(ada.may_add_to((1000, 0), 0o700));
        assert!(!ada.may_add_to((1000, 50), 0o577));
        assert!(ada.may_add_to((0, 50), 0o770));
        assert!(!ada.may_add_to((0, 50), 0o757));
        assert!(ada.may_add_to((0, 0), 0o1777));
        assert!(!ada.may_add_to((0, 0), 0o755));
        assert!(user(0, 0, &[]).may_add_to((5, 5), 0));
    }
}
