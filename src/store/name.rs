//! Names of images, locks and slots as names of files.

use crate::digest::Key;

/// The longest file name made from a name; the kernel's limit is 255, and an ending must fit.
const BYTES_MAX: usize = 200;

/// A file name for any name, different names having different ones. Letters, digits, `.`, `_` and `-` stay as they are,
/// except a dot in front; everything else is `%` and two hex digits. What would be too long ends in a digest.
pub(crate) fn file_name(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(char::from(byte)),
            b'.' if at > 0 => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02x}")),
        }
    }
    if escaped.len() > BYTES_MAX || escaped.is_empty() {
        escaped.truncate(BYTES_MAX - 65);
        // No short name has a `~`.
        escaped.push('~');
        escaped.push_str(&Key::of(name.as_bytes()).to_string());
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_meet_and_do_not_lead_elsewhere() {
        assert_eq!(
            file_name("localhost/habitat/app:latest"),
            "localhost%2fhabitat%2fapp%3alatest"
        );
        assert_eq!(file_name(".."), "%2e.");
        assert_ne!(file_name("a%2fb"), file_name("a/b"));
        let long = "x".repeat(400);
        assert!(file_name(&long).len() <= BYTES_MAX);
        assert_ne!(file_name(&long), file_name(&format!("{long}y")));
    }
}
