//! Whose the caller's own id is inside of a container. As a rule it is root's. For a user of the image who works on the
//! caller's files it has to be that user's: the command then gets a user namespace inside of the build's, in which
//!
//! ```text
//! container          build
//! 0 … own-1     ->   1 … own      one further, to make room
//! own           ->   0            the caller
//! own+1 …       ->   own+1 …      as they are
//! ```
//! and its root must be a tree whose owners are shifted by the same map. This is what podman calls keep-id.

use std::io;

use rustix::process::Pid;

use super::ids::{Extent, available, table};
use super::proc::number_of_child;
use crate::digest::Fields;

/// Which user and which group of a container are the caller's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shift {
    users: IdShift,
    groups: IdShift,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IdShift {
    own: u32,
    count: u32,
}

impl Shift {
    /// The caller is this user and this group of the container, of as many ids as this process has. `None` if one of them
    /// is not among those.
    ///
    /// # Errors
    /// If this process's own ids cannot be read.
    pub fn keeping(uid: u32, gid: u32) -> io::Result<Option<Self>> {
        let of = |own, map: &str| -> io::Result<Option<IdShift>> {
            let count = contiguous(&std::fs::read_to_string(map)?);
            Ok((own < count).then_some(IdShift { own, count }))
        };
        let (users, groups) = (
            of(uid, "/proc/self/uid_map")?,
            of(gid, "/proc/self/gid_map")?,
        );
        Ok(users
            .zip(groups)
            .map(|(users, groups)| Self { users, groups }))
    }

    /// The ids for the build that a user and a group of the container are.
    #[must_use]
    pub fn owner(&self, uid: u32, gid: u32) -> (u32, u32) {
        (self.users.of(uid), self.groups.of(gid))
    }

    /// Puts what distinguishes it into a key.
    pub fn put(&self, fields: &mut Fields) {
        fields.put("users", table(&self.users.extents()));
        fields.put("groups", table(&self.groups.extents()));
    }

    /// Maps the ids of a new user namespace, for its first process, which waits for it.
    pub(super) fn apply(&self, to: Pid) -> io::Result<()> {
        // The numbers that the /proc here has for processes are not this process's.
        let number = number_of_child(to)?;
        for (kind, ids) in [("uid", &self.users), ("gid", &self.groups)] {
            std::fs::write(format!("/proc/{number}/{kind}_map"), table(&ids.extents()))?;
        }
        Ok(())
    }
}

impl IdShift {
    fn of(self, id: u32) -> u32 {
        match id {
            id if id == self.own => 0,
            id if id < self.own => id + 1,
            id => id,
        }
    }

    fn extents(self) -> Vec<Extent> {
        let Self { own, count } = self;
        let extent = |inside, outside, count| Extent {
            inside,
            outside,
            count,
        };
        let all = [
            extent(0, 1, own),
            extent(own, 0, 1),
            extent(own + 1, own + 1, count - own - 1),
        ];
        all.into_iter().filter(|extent| extent.count > 0).collect()
    }
}

/// How many ids there are from 0 without a gap.
fn contiguous(map: &str) -> u32 {
    let mut extents = available(map);
    extents.sort_unstable_by_key(|extent| extent.inside);
    extents.iter().fold(0, |end, extent| {
        if extent.inside == end {
            end.saturating_add(extent.count)
        } else {
            end
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_and_the_owners_say_the_same() {
        for own in [0, 1, 1000, 65_535] {
            let ids = IdShift { own, count: 65_536 };
            let extents = ids.extents();
            for id in [0, 1, 999, 1000, 1001, 65_534, 65_535] {
                let extent = extents
                    .iter()
                    .find(|extent| (extent.inside..extent.inside + extent.count).contains(&id))
                    .unwrap();
                assert_eq!(
                    ids.of(id),
                    id - extent.inside + extent.outside,
                    "{id} of {own}"
                );
            }
            let total: u32 = extents.iter().map(|extent| extent.count).sum();
            assert_eq!(total, 65_536);
        }
    }

    #[test]
    fn ids_are_counted_up_to_the_first_gap() {
        assert_eq!(contiguous("0 1001 1\n1 100000 65535\n"), 65_536);
        assert_eq!(contiguous("1 100000 10\n0 5 1\n20 200000 7\n"), 11);
        assert_eq!(contiguous("0 0 4294967295\n"), u32::MAX);
        assert_eq!(contiguous(""), 0);
    }
}
