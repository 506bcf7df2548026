//! Users and groups by the names that an image gives them.

use std::io::Read;

use super::error::TreeError;
use crate::sys::root::Root;

/// No account file that means anything is longer.
const BYTES_MAX: u64 = 16 << 20;

/// User and group of `user[:group]` as `--chown` and USER have it: numbers as they are, names as the tree has them. A
/// user's name alone brings the user's own group, a number alone the group of that number.
pub fn resolve(written: &str, root: &Root) -> Result<(u32, u32), TreeError> {
    let (user, group) = match written.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (written, None),
    };
    let (uid, own_gid) = match user.parse::<u32>() {
        _ if user.is_empty() => (0, 0),
        Ok(number) => (number, number),
        Err(_) => {
            let line = line_of(root, "etc/passwd", user)
                .ok_or_else(|| unknown("user", user, "etc/passwd"))?;
            match (field(&line, 2), field(&line, 3)) {
                (Some(uid), Some(gid)) => (uid, gid),
                _ => return Err(unknown("user", user, "etc/passwd")),
            }
        }
    };
    let gid = match group.map(|group| (group, group.parse::<u32>())) {
        None => own_gid,
        Some((_, Ok(number))) => number,
        Some((name, Err(_))) => line_of(root, "etc/group", name)
            .and_then(|line| field(&line, 2))
            .ok_or_else(|| unknown("group", name, "etc/group"))?,
    };
    Ok((uid, gid))
}

fn unknown(what: &'static str, name: &str, file: &str) -> TreeError {
    TreeError::UnknownOwner {
        what,
        name: name.to_owned(),
        help: format!("add it to the image's /{file} before, or give its number"),
    }
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
