//! Image names: `debian`, `ghcr.io/org/app:1.2`, `localhost/habitat/x@sha256:…`, and what their short forms stand for.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// A name in full: registry, repository, and a tag, a digest, or both.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Name {
    /// The registry: `docker.io` where none was given.
    pub registry: String,
    /// The repository: `library/` stands before a single word of docker.io.
    pub repository: String,
    /// The tag: `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest, where one was given.
    pub digest: Option<Digest>,
}

/// What was given as an image name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not an image name: {reason}")]
pub struct NotAName {
    /// What was given.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Name {
    /// The name as archives list it: without `docker.io/` and `library/`, with its tag.
    #[must_use]
    pub fn short(&self) -> String {
        without_docker_hub(&self.to_string()).to_owned()
    }

    /// What has this digest in the same repository.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// A name in full as a person writes it, without anything that Docker adds: `debian`, `debian:12`.
    #[must_use]
    pub fn familiar(full: &str) -> &str {
        let name = without_docker_hub(full);
        name.strip_suffix(":latest").unwrap_or(name)
    }
}

fn without_docker_hub(full: &str) -> &str {
    full.strip_prefix("docker.io/")
        .map_or(full, |name| name.strip_prefix("library/").unwrap_or(name))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        parse(text).map_err(|reason| NotAName {
            name: text.to_owned(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Name, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "after `@` stands `sha256:` and 64 lower-case hex digits")?;
            (rest, Some(digest))
        }
        None => (text, None),
    };
    // A colon after the last slash begins the tag; one before it, a port.
    let (rest, tag) = match rest.rsplit_once(':') {
        Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag has up to 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`",
        );
    }
    let is_registry = |word: &str| {
        word.contains(['.', ':'])
            || word == "localhost"
            || word.chars().any(|letter| letter.is_ascii_uppercase())
    };
    let (registry, repository) = match rest.split_once('/') {
        Some((first, repository)) if is_registry(first) => (first, repository.to_owned()),
        Some(_) => ("docker.io", rest.to_owned()),
        None => ("docker.io", format!("library/{rest}")),
    };
    let registry = if registry == "index.docker.io" {
        "docker.io"
    } else {
        registry
    };
    let repository = match registry {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository,
    };
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    if registry.starts_with(['.', '-', ':'])
        || registry.is_empty()
        || !registry.bytes().all(in_host)
    {
        return Err("the registry (before the first `/`) is a host name with or without a port");
    }
    if repository.len() > 255 {
        return Err("it is longer than 255 bytes");
    }
    if !repository.split('/').all(is_component) {
        return Err(
            "its parts are lower-case letters and digits, with single `.`, `_`, `__` or `-` between them",
        );
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    Ok(Name {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let Some((&first, &last)) = bytes.first().zip(bytes.last()) else {
        return false;
    };
    is_word(first)
        && is_word(last)
        && bytes.split(|&byte| is_word(byte)).all(|between| {
            matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|&byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stand_for_full_ones() {
        let check =
            |text: &str, full: &str| assert_eq!(text.parse::<Name>().unwrap().to_string(), full);
        check("debian", "docker.io/library/debian:latest");
        check("a/b:c", "docker.io/a/b:c");
        check("docker.io/debian", "docker.io/library/debian:latest");
        check("localhost/habitat/x", "localhost/habitat/x:latest");
        check("localhost:5000/x", "localhost:5000/x:latest");
        check("ghcr.io/o/a__b-c:V1.2", "ghcr.io/o/a__b-c:V1.2");
        for (full, short) in [
            ("docker.io/library/debian:latest", "debian"),
            ("docker.io/library/debian:12", "debian:12"),
            ("docker.io/me/x:latest", "me/x"),
            ("localhost/x:y", "localhost/x:y"),
        ] {
            assert_eq!(Name::familiar(full), short);
        }
        let digest = Digest::of(b"");
        check(
            &format!("x@{digest}"),
            &format!("docker.io/library/x@{digest}"),
        );
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for text in [
            "", "A", "a//b", "a:", "a:-b", "a@md5:x", "-a", "a..b", "../a", "a b", "ghcr.io/",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }
}
