//! Names of images: `debian` is `docker.io/library/debian:latest`.

/// What was given as the name of an image is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not the name of an image: {reason}")]
pub struct BadImageName {
    /// What was given.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The full name, with registry and tag, as Docker makes it: `localhost/x` becomes `localhost/x:latest`, `debian:12`
/// becomes `docker.io/library/debian:12`. A name with a digest keeps it and gets no tag.
pub fn normalised_name(name: &str) -> Result<String, BadImageName> {
    let wrong = |reason| BadImageName {
        name: name.to_owned(),
        reason,
    };
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    if digest.is_some_and(|digest| digest.parse::<crate::digest::Digest>().is_err()) {
        return Err(wrong(
            "what follows `@` is no digest (`sha256:` and 64 hex digits)",
        ));
    }
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match rest[last..].rfind(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(wrong(
            "a tag is letters, digits, `_`, `.` and `-`, 128 at most",
        ));
    }
    let (domain, path) = match path.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first != first.to_lowercase() =>
        {
            (first, rest.to_owned())
        }
        _ => ("docker.io", path.to_owned()),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let path = if domain == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path
    };
    if path != path.to_lowercase() {
        return Err(wrong("it has to be in lower case"));
    }
    if !path.split('/').all(is_component) {
        return Err(wrong(
            "it is components of letters, digits, `.`, `_` and `-`, with `/` between",
        ));
    }
    let suffix = match (tag, digest) {
        (Some(tag), Some(digest)) => format!(":{tag}@{digest}"),
        (Some(tag), None) => format!(":{tag}"),
        (None, Some(digest)) => format!("@{digest}"),
        (None, None) => ":latest".to_owned(),
    };
    Ok(format!("{domain}/{path}{suffix}"))
}

/// The short form of a full name, without what Docker adds: `debian`, `debian:12`.
#[must_use]
pub fn familiar_name(full: &str) -> &str {
    let name = full
        .strip_prefix("docker.io/")
        .map_or(full, |name| name.strip_prefix("library/").unwrap_or(name));
    name.strip_suffix(":latest").unwrap_or(name)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len())
        && tag.starts_with(word)
        && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component.split(alphanumeric).all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.chars().all(|c| c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_full_as_docker_makes_them() {
        for (name, full) in [
            ("debian", Some("docker.io/library/debian:latest")),
            ("debian:12", Some("docker.io/library/debian:12")),
            ("me/x", Some("docker.io/me/x:latest")),
            ("localhost/x:y", Some("localhost/x:y")),
            ("localhost:5000/x", Some("localhost:5000/x:latest")),
            (
                "registry.example.com/a/b",
                Some("registry.example.com/a/b:latest"),
            ),
            ("Debian", None),
            ("a//b", None),
            ("", None),
            ("a:", None),
            ("a@sha256:1", None),
        ] {
            assert_eq!(normalised_name(name).ok().as_deref(), full, "{name}");
        }
        assert_eq!(familiar_name("docker.io/library/debian:latest"), "debian");
        assert_eq!(familiar_name("localhost/x:y"), "localhost/x:y");
    }
}
