//! Users and groups by the names that an image gives them.

use std::io::Read;

use super::error::{Remark, TreeError};
use crate::sys::root::Root;

/// No account file that means anything is longer.
const BYTES_MAX: u64 = 16 << 20;

/// User and group of `user[:group]` as `--chown` and USER have it: numbers as they are, names as the tree has them. A
/// user's name alone brings the user's own group, a number alone the group of that number. A name that the tree does not
/// have is root, as BuildKit has it, with a remark; where there is no tree at all, it is an error.
pub fn resolve(
    written: &str,
    root: &Root,
    remarks: &mut Vec<Remark>,
) -> Result<(u32, u32), TreeError> {
    let (user, group) = match written.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (written, None),
    };
    let mut unknown = |what: &'static str, name: &str, file: &str| {
        let name = name.to_owned();
        if root.top().entries().is_ok_and(|entries| entries.is_empty()) {
            return Err(TreeError::UnknownOwner {
                what,
                name,
                help: format!("give its number: there is no /{file} in an empty image"),
            });
        }
        remarks.push(Remark::UnknownOwner { what, name });
        Ok(0)
    };
    let (uid, own_gid) = match user.parse::<u32>() {
        _ if user.is_empty() => (0, 0),
        Ok(number) => (number, number),
        Err(_) => {
            let line = line_of(root, "etc/passwd", user);
            let line = line.as_deref().unwrap_or_default();
            match (field(line, 2), field(line, 3)) {
                (Some(uid), Some(gid)) => (uid, gid),
                _ => (unknown("user", user, "etc/passwd")?, 0),
            }
        }
    };
    let gid = match group.map(|group| (group, group.parse::<u32>())) {
        None => own_gid,
        Some((_, Ok(number))) => number,
        Some((name, Err(_))) => {
            let line = line_of(root, "etc/group", name);
            match line.and_then(|line| field(&line, 2)) {
                Some(gid) => gid,
                None => {
                    unknown("group", name, "etc/group")?;
                    own_gid
                }
            }
        }
    };
    Ok((uid, gid))
}

/// The line of an account file that begins with a name. A file that is not there has none.
fn line_of(root: &Root, file: &str, name: &str) -> Option<String> {
    let mut text = Vec::new();
    root.file(file)
        .ok()?
        .take(BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| line.split(':').next() == Some(name))
        .map(str::to_owned)
}

fn field(line: &str, index: usize) -> Option<u32> {
    line.split(':').nth(index)?.trim().parse().ok()
}
