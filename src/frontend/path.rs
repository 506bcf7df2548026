//! Paths inside images, as text: they have slashes, whatever they name need not exist.

/// The shortest absolute path that means the same, where a relative one starts at `base`.
pub(super) fn absolute(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { base };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The same for the destination of COPY, where a slash at the end says that it is a directory.
pub(super) fn destination(base: &str, path: &str) -> String {
    let mut dest = absolute(base, path);
    let directory = path.is_empty()
        || path == "."
        || path == ".."
        || path.ends_with('/')
        || path.ends_with("/.");
    if directory && dest != "/" {
        dest.push('/');
    }
    dest
}

/// The last component of a path.
pub(super) fn base_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// The name that a download has where its destination is a directory: the last component of the URL's path.
pub(super) fn download_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let path = percent_decoded(path);
    let name = base_name(&path);
    if matches!(name, "" | "." | "..") || name.len() > 255 || name.contains(char::is_control) {
        return "__unnamed__".to_owned();
    }
    name.to_owned()
}

/// `%20` to a blank; what is no such escape, or makes no text, stays as it is.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
                digit(*high)
                    .zip(digit(*low))
                    .map(|(high, low)| high << 4 | low)
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_the_slash_that_makes_them_directories() {
        for (base, path, expected) in [
            ("/w", "a", "/w/a"),
            ("/w", ".", "/w/"),
            ("/w", "a/", "/w/a/"),
            ("/w", "/a/.", "/a/"),
            ("/w", "../b", "/b"),
            ("/", ".", "/"),
            ("/", "/", "/"),
        ] {
            assert_eq!(destination(base, path), expected, "{base} {path}");
        }
    }

    #[test]
    fn a_download_is_named_by_its_path() {
        for (url, name) in [
            ("https://example.com/a/b.tar.gz?x=1#y", "b.tar.gz"),
            ("https://example.com/", "__unnamed__"),
            ("https://example.com", "__unnamed__"),
            ("https://example.com/a/..", "__unnamed__"),
            ("https://example.com/a/b/", "b"),
            ("https://example.com/..%2f..%2fetc", "etc"),
            ("https://example.com/a%0ab", "__unnamed__"),
            ("http://example.com/a%20b", "a b"),
        ] {
            assert_eq!(download_name(url), name, "{url}");
        }
    }
}
