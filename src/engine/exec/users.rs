//! Who a step runs as: USER looked up in the image's own /etc/passwd and /etc/group, by name or number, as Docker does.
//! The files are not trusted: they are opened within the root, must be regular, and are read up to a limit.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::stub::open_in;

/// The largest /etc/passwd or /etc/group that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The largest id; the kernel's -1 and all that wraps are out.
const ID_MAX: u32 = i32::MAX as u32;

/// A user, as the kernel and the environment need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    /// Home directory, `/` where the image does not know the user.
    pub home: String,
}

/// USER names nobody.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum UserError {
    /// The user is not in the image.
    #[error("the image has no user `{name}`")]
    #[diagnostic(
        code(exec::no_such_user),
        help("create it in an earlier step, or give a number up to 2147483647")
    )]
    NoSuchUser {
        /// Who.
        name: String,
    },
    /// The group is not in the image.
    #[error("the image has no group `{name}`")]
    #[diagnostic(
        code(exec::no_such_group),
        help("create it in an earlier step, or give a number up to 2147483647")
    )]
    NoSuchGroup {
        /// Which.
        name: String,
    },
    /// A file that should list users or groups does not.
    #[error("cannot look up users: {path} of the image is no readable text file of at most 16 MiB")]
    #[diagnostic(
        code(exec::unreadable_users),
        help("give USER and --chown as numbers, or repair the file")
    )]
    Unreadable {
        /// Which.
        path: &'static str,
    },
}

/// Looks `user[:group]` up in a root. Empty is root.
///
/// # Errors
/// If the image knows no such user or group and it is no number, or its lists cannot be read.
pub fn lookup(root: BorrowedFd<'_>, user: &str) -> Result<Identity, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    find(&passwd, &group, user)
}

fn read(root: BorrowedFd<'_>, path: &'static str) -> Result<String, UserError> {
    let unreadable = || UserError::Unreadable { path };
    // Without O_NONBLOCK a FIFO would hold us up.
    let file = match open_in(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
    ) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        opened => opened.map_err(|_| unreadable())?,
    };
    let stat = rustix::fs::fstat(&file).map_err(|_| unreadable())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unreadable());
    }
    let mut bytes = Vec::new();
    let read = File::from(file)
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes);
    if read.map_err(|_| unreadable())? as u64 > FILE_BYTES_MAX {
        return Err(unreadable());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(passwd: &str, group: &str, user: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.trim().split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            return None;
        };
        let (uid, gid) = (number(uid)?, number(gid)?);
        (*name == user || number(user) == Some(uid)).then_some((*name, uid, gid, *home))
    });
    let (name, uid, gid, home) = match entry {
        Some((name, uid, gid, home)) => (Some(name), uid, gid, home),
        None => {
            let uid = number(user).ok_or_else(|| UserError::NoSuchUser {
                name: user.to_owned(),
            })?;
            (None, uid, 0, "/")
        }
    };
    let groups = group.lines().filter_map(|line| {
        let fields: Vec<_> = line.trim().split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else {
            return None;
        };
        Some((*name, number(gid)?, *members))
    });
    let mut identity = Identity {
        uid,
        gid,
        groups: Vec::new(),
        home: home.to_owned(),
    };
    match wanted_group {
        Some(wanted) => {
            let entry = groups
                .into_iter()
                .find(|(name, gid, _)| *name == wanted || number(wanted) == Some(*gid));
            let gid = entry.map(|(_, gid, _)| gid).or_else(|| number(wanted));
            identity.gid = gid.ok_or_else(|| UserError::NoSuchGroup {
                name: wanted.to_owned(),
            })?;
        }
        None => {
            let member = |members: &str| {
                name.is_some_and(|name| members.split(',').any(|member| member == name))
            };
            identity.groups = groups
                .filter(|(_, _, members)| member(members))
                .map(|(_, gid, _)| gid)
                .collect();
            identity.groups.sort_unstable();
            identity.groups.dedup();
        }
    }
    Ok(identity)
}

/// Digits alone; no sign, no space, nothing beyond the limit.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= ID_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nada:x:1001:\nwheel:x:10:root,ada\naudio:x:5:ada\nada2:x:77:adam\n";

    fn check(user: &str, expected: &str) {
        let found = match find(PASSWD, GROUP, user) {
            Ok(Identity {
                uid,
                gid,
                groups,
                home,
            }) => format!("{uid}:{gid} {groups:?} {home}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{user}");
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        check("", "0:0 [10] /root");
        check("root", "0:0 [10] /root");
        check("ada", "1000:1001 [5, 10] /home/ada");
        check("1000", "1000:1001 [5, 10] /home/ada");
        check("ada:wheel", "1000:10 [] /home/ada");
        check("ada:4242", "1000:4242 [] /home/ada");
        check("ada:", "1000:1001 [5, 10] /home/ada");
        check("4242", "4242:0 [] /");
        check("4242:wheel", "4242:10 [] /");
    }

    #[test]
    fn what_is_no_user_never_becomes_root() {
        for user in [
            "2147483648",
            "4294967295",
            "4294967296",
            "-1",
            "0x0",
            "1e3",
            " 0",
            "+0",
            "eve",
            "٠",
        ] {
            check(user, &format!("the image has no user `{user}`"));
        }
        check("ada:nobody", "the image has no group `nobody`");
        check("0:4294967296", "the image has no group `4294967296`");
    }
}
