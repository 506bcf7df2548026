//! Owners that are records. A user with no subordinate ids builds in a user namespace that has one id, so that every file
//! is really theirs; whose it is in the image is written down with the file itself, and is read back wherever owners are.
//!
//! ```text
//! files, directories      the attribute `user.shmocker.owner`: `UID:GID`
//! links, pipes, sockets   which carry no attributes of users: the time of the last reading, which nothing else needs:
//!                         10,000,000,000 (in the year 2286) + UID seconds and GID nanoseconds
//! no record               0:0
//! ```
//! Both stay with the file when it is renamed, gets another name, or is copied up by an overlay, and need no second place
//! that could be out of step. A time in the future is one that the kernel leaves alone when a link is read (relatime).
//!
//! Left out: device nodes, which cannot be made in a user namespace at all.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;

use super::dir::{Kind, Time, path_of_fd};
use super::task::attribute_below;

/// The attribute.
pub const ATTRIBUTE: &str = "user.shmocker.owner";
const NAME: &CStr = c"user.shmocker.owner";
/// Which times of links are records: this one, and those of all ids after it.
const LINKS_FROM_S: i64 = 10_000_000_000;
/// The number that nobody has: to calls it means "as it is".
const NOBODY: u32 = u32::MAX;
/// What fits into a second.
const NANOSECONDS: u32 = 1_000_000_000;

static ARE_RECORDED: AtomicBool = AtomicBool::new(false);

/// From now on this process reads and writes records if its user namespace has one id only.
pub fn record_where_there_is_one_id() {
    let of_one = |map: &str| std::fs::read_to_string(map).is_ok_and(|text| has_one_id(&text));
    let one = of_one("/proc/self/uid_map") || of_one("/proc/self/gid_map");
    ARE_RECORDED.store(one, Ordering::Relaxed);
}

/// Whether owners are records for this process.
#[must_use]
pub fn are_recorded() -> bool {
    ARE_RECORDED.load(Ordering::Relaxed)
}

fn has_one_id(map: &str) -> bool {
    let mut counts = map.lines().map(|line| line.split_whitespace().nth(2));
    counts.next() == Some(Some("1")) && counts.next().is_none()
}

/// What a record is written to: a path of this process.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// Of an entry itself.
    Entry(&'a Path),
    /// In /proc, of something that is open.
    Open(&'a Path),
    /// Something that is open.
    File(BorrowedFd<'a>),
}

/// The owner and group that are recorded for something of this kind, last read at this time.
///
/// # Errors
/// What the kernel says of the attribute.
pub fn recorded(at: At<'_>, kind: Kind, accessed: Time) -> io::Result<Option<(u32, u32)>> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(in_time(accessed));
    }
    let mut value = [0; 32];
    let read = match at {
        At::Entry(path) => rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value),
        At::Open(path) => rustix::fs::getxattr(path, ATTRIBUTE, &mut value),
        At::File(fd) => match rustix::fs::fgetxattr(fd, ATTRIBUTE, &mut value) {
            // It is not open for that.
            Err(Errno::BADF) => rustix::fs::getxattr(path_of_fd(fd), ATTRIBUTE, &mut value),
            read => read,
        },
    };
    understood(read, &value)
}

/// The same of what a path leads to from something that is open, where the current directory is a /proc of this process.
///
/// # Errors
/// What the kernel says of the attribute.
pub fn recorded_below(
    from: BorrowedFd<'_>,
    path: &CStr,
    follows: bool,
    (kind, accessed): (Kind, Time),
) -> io::Result<Option<(u32, u32)>> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(in_time(accessed));
    }
    let mut value = [0; 32];
    match attribute_below(from, path, follows, NAME, &mut value) {
        Err(Errno::NOSYS) => {
            let there = named_below(from, path);
            let at = match follows {
                true => At::Open(&there),
                false => At::Entry(&there),
            };
            recorded(at, kind, accessed)
        }
        read => understood(read, &value),
    }
}

/// The same by one path, in the /proc that is the current directory.
fn named_below(from: BorrowedFd<'_>, path: &CStr) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    match from.as_raw_fd() {
        here if here == CWD.as_raw_fd() => path.to_owned(),
        fd => Path::new(&format!("self/fd/{fd}")).join(path),
    }
}

/// The same of something that is open, or only held (`O_PATH`).
///
/// # Errors
/// What the kernel says of the attribute.
pub fn recorded_open(
    held: BorrowedFd<'_>,
    (kind, accessed): (Kind, Time),
) -> io::Result<Option<(u32, u32)>> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(in_time(accessed));
    }
    let mut value = [0; 32];
    match rustix::fs::fgetxattr(held, ATTRIBUTE, &mut value) {
        Err(Errno::BADF) => {
            let there = format!("self/fd/{}", held.as_raw_fd());
            recorded(At::Open(Path::new(&there)), kind, accessed)
        }
        read => understood(read, &value),
    }
}

fn understood(read: Result<usize, Errno>, value: &[u8]) -> io::Result<Option<(u32, u32)>> {
    match read {
        Ok(length) => Ok(parsed(value.get(..length).unwrap_or_default())),
        // What is no record of ours is none.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes an owner and a group down.
///
/// # Errors
/// What the kernel says; `ENOTSUP` where the file system cannot keep it.
pub fn record(at: At<'_>, kind: Kind, uid: u32, gid: u32) -> io::Result<()> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return record_in_time(at, uid, gid);
    }
    if (uid, gid) == (0, 0) {
        let removed = match at {
            At::Entry(path) => rustix::fs::lremovexattr(path, ATTRIBUTE),
            At::Open(path) => rustix::fs::removexattr(path, ATTRIBUTE),
            At::File(fd) => match rustix::fs::fremovexattr(fd, ATTRIBUTE) {
                Err(Errno::BADF) => rustix::fs::removexattr(path_of_fd(fd), ATTRIBUTE),
                removed => removed,
            },
        };
        return match removed {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    let value = format!("{uid}:{gid}");
    let (value, flags) = (value.as_bytes(), XattrFlags::empty());
    Ok(match at {
        At::Entry(path) => rustix::fs::lsetxattr(path, ATTRIBUTE, value, flags),
        At::Open(path) => rustix::fs::setxattr(path, ATTRIBUTE, value, flags),
        At::File(fd) => match rustix::fs::fsetxattr(fd, ATTRIBUTE, value, flags) {
            Err(Errno::BADF) => rustix::fs::setxattr(path_of_fd(fd), ATTRIBUTE, value, flags),
            set => set,
        },
    }?)
}

fn parsed(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let id = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|id| is_number && *id != NOBODY)
    };
    Some((id(uid)?, id(gid)?))
}

/// The record that a time is, if it is one.
#[must_use]
pub fn in_time(accessed: Time) -> Option<(u32, u32)> {
    let uid = accessed.seconds.checked_sub(LINKS_FROM_S)?;
    let uid = u32::try_from(uid).ok().filter(|uid| *uid != NOBODY)?;
    Some((uid, accessed.nanoseconds))
}

fn record_in_time(at: At<'_>, uid: u32, gid: u32) -> io::Result<()> {
    let nameless = Path::new("");
    let (dir, path, flags) = match at {
        At::Entry(path) => (CWD, path, AtFlags::SYMLINK_NOFOLLOW),
        At::Open(path) => (CWD, path, AtFlags::empty()),
        At::File(fd) => (fd, nameless, AtFlags::EMPTY_PATH),
    };
    let seen = || -> io::Result<Time> {
        let stat = rustix::fs::statat(dir, path, flags)?;
        Ok(super::dir::Metadata::of_kernel(&stat)?.accessed)
    };
    let set = |last_access| -> io::Result<()> {
        let last_modification = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let times = Timestamps {
            last_access,
            last_modification,
        };
        Ok(rustix::fs::utimensat(dir, path, &times, flags)?)
    };
    if (uid, gid) == (0, 0) {
        return match in_time(seen()?) {
            None => Ok(()),
            Some(_) => set(Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            }),
        };
    }
    if gid >= NANOSECONDS {
        return Err(Errno::INVAL.into());
    }
    set(Timespec {
        tv_sec: LINKS_FROM_S + i64::from(uid),
        tv_nsec: gid.into(),
    })?;
    // Old file systems end in 2038.
    match in_time(seen()?) == Some((uid, gid)) {
        true => Ok(()),
        false => Err(Errno::NOTSUP.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn what_lies_below_has_one_path_too() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = format!("self/fd/{}", null.as_raw_fd());
        for (from, path, named) in [
            (null.as_fd(), c"a/b", format!("{fd}/a/b")),
            (null.as_fd(), c"/a", "/a".to_owned()),
            (CWD, c"7/cwd/a", "7/cwd/a".to_owned()),
        ] {
            assert_eq!(named_below(from, path), Path::new(&named));
        }
    }

    #[test]
    fn records_stay_with_what_they_are_of() {
        let dir = TempDir::new();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        rustix::fs::mknodat(
            CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let kinds = [
            ("file", Kind::File),
            ("directory", Kind::Dir),
            ("link", Kind::Symlink),
            ("pipe", Kind::Fifo),
        ];
        for (name, kind) in kinds {
            let read = |name: &str| {
                let stat = rustix::fs::lstat(path(name)).unwrap();
                let accessed = crate::sys::dir::Metadata::of_kernel(&stat)
                    .unwrap()
                    .accessed;
                recorded(At::Entry(&path(name)), kind, accessed).unwrap()
            };
            let write =
                |uid, gid| record(At::Entry(&path(name)), kind, uid, gid).expect("it is kept");
            assert_eq!(read(name), None, "{name}");
            write(1000, 50);
            assert_eq!(read(name), Some((1000, 50)), "{name}");
            drop(std::fs::read_link(path(name)));
            write(65_534, 0);
            std::fs::rename(path(name), path("renamed")).unwrap();
            assert_eq!(read("renamed"), Some((65_534, 0)), "{name}");
            std::fs::rename(path("renamed"), path(name)).unwrap();
            write(0, 0);
            assert_eq!(read(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        for (text, owner) in [("0:0", (0, 0)), ("4294967294:7", (4_294_967_294, 7))] {
            assert_eq!(parsed(text.as_bytes()), Some(owner));
        }
        for text in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "1:2:3",
            "+1:2",
            " 1:2",
            "1:2\n",
            "-1:0",
            "4294967295:0",
            "0:4294967295",
            "4294967296:0",
            "0x1:0",
            "1:2\0",
            "\u{663}:1",
        ] {
            assert_eq!(parsed(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parsed(b"\xff:1"), None);
        // And it does not matter what else anybody writes there.
        let mut state = 1_u64;
        for _ in 0..100_000 {
            let bytes: Vec<u8> = (0..state % 24)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    b"0123456789:+- \0\xff"[(state >> 33) as usize % 16]
                })
                .collect();
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1)
                >> 1;
            if let Some((uid, gid)) = parsed(&bytes) {
                let told: Vec<&[u8]> = bytes.split(|byte| *byte == b':').collect();
                let [first, second] = told.as_slice() else {
                    panic!("{bytes:?}")
                };
                let number = |digits: &[u8]| {
                    digits
                        .iter()
                        .fold(0_u64, |n, d| n * 10 + u64::from(d - b'0'))
                };
                assert_eq!((number(first), number(second)), (uid.into(), gid.into()));
            }
        }
        let time = |seconds| {
            in_time(Time {
                seconds,
                nanoseconds: 5,
            })
        };
        assert_eq!(time(LINKS_FROM_S), Some((0, 5)));
        assert_eq!(
            time(LINKS_FROM_S + i64::from(NOBODY) - 1),
            Some((NOBODY - 1, 5))
        );
        for seconds in [
            0,
            LINKS_FROM_S - 1,
            LINKS_FROM_S + i64::from(NOBODY),
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(time(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn only_a_map_of_one_id_is_one() {
        assert!(has_one_id("         0       1001          1\n"));
        assert!(!has_one_id("0 1001 1\n1 100000 65535\n"));
        assert!(!has_one_id("0 0 4294967295\n"));
        assert!(!has_one_id(""));
    }
}
