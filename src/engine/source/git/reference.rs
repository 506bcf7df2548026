//! Addresses and references: which are taken, and what a repository's list of them says.

use std::collections::BTreeMap;

use super::Resolved;
use super::error::{Error, Result};
use crate::net;

/// Checks an address before git gets to see it.
pub(super) fn check_url(url: &str) -> Result<&str> {
    let wrong = |why| {
        Err(Error::Url {
            url: net::redacted(url),
            why,
        })
    };
    if url.is_empty() || url.starts_with('-') {
        return wrong("it is empty or looks like an option");
    }
    if url.chars().any(char::is_control) {
        return wrong("it has a control character in it");
    }
    if is_local(url) {
        return Ok(url);
    }
    let host = match url.split_once("://") {
        Some(("https" | "http" | "ssh" | "git", rest)) => rest.split('/').next().unwrap_or(""),
        Some(_) => return wrong("only https, http, ssh and git are taken"),
        // user@host:path, but not helper::address.
        None => match url.split_once(':') {
            Some((host, path)) if !host.contains('/') && !path.starts_with(':') => host,
            _ => return wrong("it names no host, and is no absolute path"),
        },
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if host.is_empty() || host.starts_with('-') || percent_escaped_control(url) {
        return wrong("it names no host");
    }
    Ok(url)
}

/// `%0a` and the like, which have smuggled lines into protocols before.
fn percent_escaped_control(url: &str) -> bool {
    url.as_bytes().windows(3).any(|part| {
        part[0] == b'%' && matches!(part[1], b'0' | b'1') && part[2].is_ascii_hexdigit()
    })
}

/// Whether a repository or bundle of this machine is meant.
pub(super) fn is_local(url: &str) -> bool {
    url.starts_with('/')
}

/// Whether ssh has to be asked.
pub(super) fn is_ssh(url: &str) -> bool {
    url.starts_with("ssh://") || (!url.contains("://") && !is_local(url))
}

/// The host that an address names, with its port.
pub(super) fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split('/').next().unwrap_or(rest);
    Some(host.rsplit_once('@').map_or(host, |(_, host)| host))
}

/// Whether two addresses are of the same server, reached in the same way.
pub(super) fn is_same_server(one: &str, other: &str) -> bool {
    let scheme = |url: &str| url.split_once("://").map(|(scheme, _)| scheme.to_owned());
    host(one).is_some() && (scheme(one), host(one)) == (scheme(other), host(other))
}

/// The addresses that a credential for this one is for: this one alone, but all of GitHub where it is there.
pub(super) fn scope(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once("://")?;
    match (scheme, host(url)?) {
        ("https", host @ ("github.com" | "www.github.com")) => Some(format!("https://{host}/")),
        ("https" | "http", _) => Some(without_credentials(url)),
        _ => None,
    }
}

/// An address without user name and password; a local path as it is.
pub(super) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match (scheme, host.rsplit_once('@')) {
        // The user name of ssh is part of where a repository is; a password is not.
        ("ssh", Some((user, host))) => format!("{}@{host}", user.split(':').next().unwrap_or(user)),
        (_, Some((_, host))) => host.to_owned(),
        (_, None) => host.to_owned(),
    };
    format!("{scheme}://{host}/{path}")
}

/// Checks a reference before git gets to see it (git-check-ref-format).
pub(super) fn check_reference(reference: &str) -> Result<()> {
    let parts_sound = reference
        .split('/')
        .all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"));
    let sound = parts_sound
        && !reference.starts_with('-')
        && !reference.ends_with('.')
        && !reference.contains("..")
        && !reference.contains("@{")
        && reference != "@"
        && !reference
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c));
    if sound {
        Ok(())
    } else {
        Err(Error::Reference {
            reference: reference.to_owned(),
        })
    }
}

/// Whether this is a commit by its full name.
pub(super) fn is_commit(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && is_hex(name)
}

/// A name as a repository has it: that of a branch, unless it says more.
pub(super) fn full_name(name: &str) -> String {
    if name.starts_with("refs/") {
        name.to_owned()
    } else {
        format!("refs/heads/{name}")
    }
}

pub(super) fn may_be_short_commit(name: &str) -> bool {
    (7..40).contains(&name.len()) && is_hex(name)
}

fn is_hex(name: &str) -> bool {
    name.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What `git ls-remote --symref` says of a repository.
#[derive(Debug, Default)]
pub(super) struct Refs {
    head: Option<String>,
    head_branch: Option<String>,
    /// Name → object; an annotated tag has its commit under `NAME^{}`.
    objects: BTreeMap<String, String>,
}

impl Refs {
    pub(super) fn read(listed: &str) -> Self {
        let mut refs = Self::default();
        for line in listed.lines() {
            let Some((what, name)) = line.split_once('\t') else {
                continue;
            };
            match (what.strip_prefix("ref: "), name) {
                (Some(target), "HEAD") => refs.head_branch = Some(target.to_owned()),
                (Some(_), _) => {}
                (None, "HEAD") if is_commit(what) => refs.head = Some(what.to_owned()),
                (None, name)
                    if is_commit(what) && check_reference(name.trim_end_matches("^{}")).is_ok() =>
                {
                    refs.objects.insert(name.to_owned(), what.to_owned());
                }
                (None, _) => {}
            }
        }
        refs
    }

    /// HEAD; where it is not listed (a bundle), `main`, `master` or the only branch.
    pub(super) fn default_branch(&self) -> Option<Resolved> {
        if let Some(found) = self.head_branch.as_deref().and_then(|name| self.get(name)) {
            return Some(found);
        }
        let branches: Vec<&str> = self
            .objects
            .keys()
            .map(String::as_str)
            .filter(|name| name.starts_with("refs/heads/"))
            .collect();
        let likely = ["refs/heads/main", "refs/heads/master"];
        if let Some(head) = &self.head {
            let same = |name: &&str| self.objects.get(*name) == Some(head);
            let named = likely
                .into_iter()
                .find(same)
                .or_else(|| branches.iter().copied().find(same));
            return Some(Resolved {
                commit: head.clone(),
                reference: named.map(str::to_owned),
                tag_object: None,
            });
        }
        let likely = likely.into_iter().find_map(|name| self.get(name));
        likely.or_else(|| {
            if branches.len() == 1 {
                self.get(branches[0])
            } else {
                None
            }
        })
    }

    /// A branch, else a tag, else a full name.
    pub(super) fn find(&self, wanted: &str) -> Option<Resolved> {
        [
            format!("refs/heads/{wanted}"),
            format!("refs/tags/{wanted}"),
            wanted.to_owned(),
        ]
        .iter()
        .find_map(|name| self.get(name))
    }

    /// The name of some object.
    pub(super) fn any_object(&self) -> &str {
        self.objects.values().next().map_or("", String::as_str)
    }

    fn get(&self, name: &str) -> Option<Resolved> {
        let object = self.objects.get(name)?;
        let peeled = self.objects.get(&format!("{name}^{{}}"));
        Some(Resolved {
            commit: peeled.unwrap_or(object).clone(),
            reference: Some(name.to_owned()),
            tag_object: peeled.map(|_| object.clone()),
        })
    }

    /// The names of its branches and tags.
    pub(super) fn names(&self) -> Vec<&str> {
        let short = |name: &'static str| {
            self.objects
                .keys()
                .filter_map(move |full| full.strip_prefix(name))
                .filter(|name| !name.ends_with("^{}"))
        };
        short("refs/heads/").chain(short("refs/tags/")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_could_run_something_is_refused() {
        for url in [
            "https://host/x.git",
            "ssh://git@host:22/x",
            "git@host:x/y.git",
            "/srv/x.bundle",
            "http://host/x",
            "git://host/x",
        ] {
            assert!(check_url(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "-x",
            "--upload-pack=touch x",
            "ext::sh -c x",
            "fd::17",
            "file:///etc",
            "git://-x/y",
            "ssh://-oProxyCommand=x/y",
            "ssh://user@-oProxyCommand=x/y",
            "-oProxyCommand=x:y",
            "https:///x",
            "https://host/%0d%0aHost: x",
            "https://host/\nx",
            "relative/path",
            "ftp://host/x",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_reference_is_a_name_and_nothing_else() {
        for name in [
            "main",
            "v1.0",
            "feature/x",
            "refs/heads/main",
            "0123abc",
            "a@b",
        ] {
            assert!(check_reference(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "-x",
            "--upload-pack=x",
            "@{-1}",
            "@",
            "a..b",
            "a:b",
            "a b",
            "a\nb",
            "a^",
            "a~1",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a.lock",
            "a*",
        ] {
            assert!(check_reference(name).is_err(), "{name}");
        }
    }

    #[test]
    fn credentials_are_left_out() {
        assert_eq!(without_credentials("https://u:p@host/x"), "https://host/x");
        assert_eq!(
            without_credentials("ssh://git:p@host/x"),
            "ssh://git@host/x"
        );
        assert_eq!(without_credentials("git@host:x"), "git@host:x");
        assert_eq!(without_credentials("/a@b"), "/a@b");
    }

    #[test]
    fn a_credential_is_for_one_repository_or_for_all_of_github() {
        for (url, covered) in [
            ("https://host:8/a/b.git", Some("https://host:8/a/b.git")),
            ("https://u:p@host/a", Some("https://host/a")),
            ("https://github.com/a/b", Some("https://github.com/")),
            ("http://github.com/a/b", Some("http://github.com/a/b")),
            (
                "https://github.com.evil/a",
                Some("https://github.com.evil/a"),
            ),
            ("ssh://git@host/a", None),
            ("git@host:a", None),
            ("/srv/a", None),
        ] {
            assert_eq!(scope(url).as_deref(), covered, "{url}");
        }
        assert_eq!(host("https://u:p@host:8/a"), Some("host:8"));
        assert_eq!(host("git@host:a"), None);
        for (url, by_ssh) in [
            ("git@host:a", true),
            ("ssh://host/a", true),
            ("https://host/a", false),
            ("/srv/a:b", false),
        ] {
            assert_eq!(is_ssh(url), by_ssh, "{url}");
        }
    }

    #[test]
    fn a_branch_wins_over_a_tag_and_a_tag_is_peeled() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let listed = format!(
            "ref: refs/heads/trunk\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/trunk\n{b}\trefs/heads/x\n{c}\trefs/tags/x\n{c}\trefs/tags/v1\n{a}\trefs/tags/v1^{{}}\n"
        );
        let refs = Refs::read(&listed);
        assert_eq!(refs.default_branch().unwrap().branch(), Some("trunk"));
        assert_eq!(refs.find("x").unwrap().commit, b);
        let tag = refs.find("v1").unwrap();
        assert_eq!((tag.commit, tag.tag_object), (a, Some(c)));
        assert!(refs.find("y").is_none());
        assert_eq!(refs.names(), ["trunk", "x", "v1", "x"]);
    }
}
