//! Git repositories as ADD names them: `https://host/repo.git#ref:dir`, `git@host:repo?branch=main`.

use super::path::{absolute, percent_decoded};
use crate::graph::GitSource;

/// A repository, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) url: String,
    pub(super) reference: Option<String>,
    pub(super) subdir: Option<String>,
    pub(super) commit: Option<String>,
    keep_git_dir: Option<bool>,
    submodules: Option<bool>,
    fetch_by_commit: bool,
}

/// Reads a git repository that is named as a context, `github.com/user/repository` among them; `None` if it is none.
///
/// # Errors
/// If it is one, and what it says makes no sense.
pub fn git_context(text: &str) -> Result<Option<GitSource>, String> {
    let found = if text.starts_with("github.com/") {
        Some(read(&format!("https://{text}"))?)
    } else {
        reference(text)?
    };
    found.map(|found| found.source(None, None)).transpose()
}

/// Reads what ADD was given; `None` if it is no git repository.
pub(super) fn reference(text: &str) -> Result<Option<Reference>, String> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(None);
    }
    let url = text.split(['?', '#']).next().unwrap_or(text);
    let is_git = match url.split_once("://") {
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => rest
                .split_once('/')
                .is_some_and(|(_, path)| path.ends_with(".git")),
            "git" | "ssh" => true,
            _ => false,
        },
        None => is_scp_style(url),
    };
    if is_git {
        read(text).map(Some)
    } else {
        Ok(None)
    }
}

fn read(text: &str) -> Result<Reference, String> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut found = Reference {
        url: url.to_owned(),
        ..Reference::default()
    };
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    found.reference = Some(percent_decoded(reference)).filter(|reference| !reference.is_empty());
    found.set_subdir(&percent_decoded(subdir))?;
    let mut keys: Vec<&str> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if keys.contains(&key) {
            return Err(format!("`{key}` of a git URL is given twice"));
        }
        keys.push(key);
        found.set(key, &percent_decoded(&value.replace('+', " ")))?;
    }
    Ok(found)
}

/// `user@host:path`
fn is_scp_style(url: &str) -> bool {
    let word = |text: &str, extra: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    let Some((user, rest)) = url.split_once('@') else {
        return false;
    };
    rest.split_once(':')
        .is_some_and(|(host, _)| word(user, "-_") && word(host, "-."))
}

impl Reference {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let switches = ["keep-git-dir", "submodules", "fetch-by-commit"];
        if value.is_empty() && !switches.contains(&key) {
            return Err(format!("`{key}` of a git URL has no value"));
        }
        match key {
            "ref" => self.set_reference(value.to_owned()),
            "tag" => self.set_reference(prefixed("refs/tags/", value)),
            "branch" => self.set_reference(prefixed("refs/heads/", value)),
            "subdir" => self.set_subdir(value),
            "checksum" | "commit" => {
                self.commit = Some(value.to_owned());
                Ok(())
            }
            "keep-git-dir" => truth(key, value).map(|keep| self.keep_git_dir = Some(keep)),
            "submodules" => truth(key, value).map(|fetch| self.submodules = Some(fetch)),
            "fetch-by-commit" => truth(key, value).map(|fetch| self.fetch_by_commit = fetch),
            // Files have the time of their commit in either case: a clock would reach the layer otherwise.
            "mtime" if matches!(value, "checkout" | "commit") => Ok(()),
            "mtime" => Err(format!(
                "`mtime` of a git URL is `checkout` or `commit`, not `{value}`"
            )),
            _ => Err(format!("unknown key `{key}` of a git URL")),
        }
    }

    fn set_reference(&mut self, reference: String) -> Result<(), String> {
        match &self.reference {
            Some(known) if *known != reference => Err(format!(
                "the git URL names two references, `{known}` and `{reference}`"
            )),
            _ => {
                self.reference = Some(reference);
                Ok(())
            }
        }
    }

    fn set_subdir(&mut self, subdir: &str) -> Result<(), String> {
        let subdir = absolute("/", subdir)[1..].to_owned();
        if subdir.is_empty() {
            return Ok(());
        }
        match &self.subdir {
            Some(known) if *known != subdir => Err(format!(
                "the git URL names two directories, `{known}` and `{subdir}`"
            )),
            _ => {
                self.subdir = Some(subdir);
                Ok(())
            }
        }
    }

    /// The source, with what the flags of ADD say.
    pub(super) fn source(
        self,
        keep_git_dir: Option<bool>,
        checksum: Option<&str>,
    ) -> Result<GitSource, String> {
        if let (Some(flag), Some(url)) = (keep_git_dir, self.keep_git_dir)
            && flag != url
        {
            return Err(
                "--keep-git-dir and `keep-git-dir` of the URL contradict each other".to_owned(),
            );
        }
        let checksum = match (checksum, self.commit.as_deref()) {
            (Some(flag), Some(url)) if flag != url => {
                return Err(format!("--checksum is `{flag}`, but the URL says `{url}`"));
            }
            (flag, url) => flag.or(url).map(str::to_ascii_lowercase),
        };
        if let Some(checksum) = checksum.as_ref().filter(|checksum| !is_hex(checksum)) {
            return Err(format!(
                "`{checksum}` is no commit: one is 40 or 64 hex digits, or the first of them"
            ));
        }
        if let (Some(checksum), Some(commit)) = (&checksum, &self.reference)
            && is_commit(commit)
            && !commit.to_ascii_lowercase().starts_with(checksum.as_str())
        {
            return Err(format!(
                "the commit has to be `{checksum}`, but the URL names `{commit}`"
            ));
        }
        let named = |name: &Option<String>| name.as_deref().is_some_and(is_commit);
        if self.fetch_by_commit && !named(&checksum) && !named(&self.reference) {
            return Err(
                "`fetch-by-commit` of a git URL needs the commit, `checksum=` with all its digits"
                    .to_owned(),
            );
        }
        let keep_git_dir = keep_git_dir.or(self.keep_git_dir).unwrap_or(false);
        // A commit that nothing else is said of is the reference itself.
        let (reference, checksum) = match self.reference {
            None if named(&checksum) => (checksum, None),
            Some(commit) if is_commit(&commit) => (Some(commit.to_ascii_lowercase()), None),
            reference => (reference, checksum),
        };
        Ok(GitSource {
            url: self.url,
            is_short: false,
            fetch_by_commit: self.fetch_by_commit && checksum.is_some(),
            reference,
            checksum,
            subdir: self.subdir,
            depth: Some(1),
            submodules: self.submodules.unwrap_or(true),
            keep_git_dir,
            remote: None,
            read_only: false,
            secret: None,
        })
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit())
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

fn prefixed(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "`{key}` of a git URL is true or false, not `{value}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_urls_are_told_from_others() {
        for (text, expected) in [
            ("https://example.com/foo.git", Some((None, None))),
            (
                "https://example.com/foo.git#v1:sub",
                Some((Some("v1"), Some("sub"))),
            ),
            (
                "https://example.com/foo.git?branch=main&subdir=/a",
                Some((Some("refs/heads/main"), Some("a"))),
            ),
            (
                "git@github.com:moby/buildkit.git#master",
                Some((Some("master"), None)),
            ),
            ("git://example.com/foo", Some((None, None))),
            ("https://example.com/foo", None),
            ("https://example.com/foo.git/", None),
            ("foo.git", None),
            ("./foo.git", None),
        ] {
            let found = reference(text).unwrap();
            let found = found
                .as_ref()
                .map(|found| (found.reference.as_deref(), found.subdir.as_deref()));
            assert_eq!(found, expected, "{text}");
        }
        for (text, said) in [
            ("https://example.com/a.git?x=1", "unknown key"),
            ("https://example.com/a.git?tag=a&branch=b", "two references"),
            ("https://example.com/a.git?branch=b#c", "two references"),
            ("https://example.com/a.git?subdir=b#c:d", "two directories"),
            ("https://example.com/a.git?ref=a&ref=a", "given twice"),
            ("https://example.com/a.git?ref=", "no value"),
            (
                "https://example.com/a.git?mtime=now",
                "`checkout` or `commit`",
            ),
            ("https://example.com/a.git?submodules=x", "true or false"),
        ] {
            let error = reference(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn a_git_url_says_which_commit_it_has_to_be() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let url = "https://example.com/a.git";
        let source = |text: &str| git_context(text).map(Option::unwrap);

        let pinned = source(&format!("{url}?branch=main&checksum=0123AB&submodules=0")).unwrap();
        assert_eq!(pinned.reference.as_deref(), Some("refs/heads/main"));
        assert_eq!(pinned.checksum.as_deref(), Some("0123ab"));
        assert!(!pinned.submodules && !pinned.fetch_by_commit);

        let alone = source(&format!("{url}?commit={commit}")).unwrap();
        assert_eq!(alone.reference.as_deref(), Some(commit));
        assert_eq!(alone.checksum, None);

        let direct = source(&format!("{url}?tag=v1&commit={commit}&fetch-by-commit")).unwrap();
        assert_eq!(direct.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(direct.checksum.as_deref(), Some(commit));
        assert!(direct.fetch_by_commit);

        let named = source(&format!("{url}?checksum=0123#{commit}")).unwrap();
        assert_eq!(named.reference.as_deref(), Some(commit));
        assert_eq!(named.checksum, None);

        let github = source("github.com/user/repository#main:dir").unwrap();
        assert_eq!(github.url, "https://github.com/user/repository");
        assert_eq!(github.subdir.as_deref(), Some("dir"));

        for (query, said) in [
            ("?checksum=xyz", "no commit"),
            (
                "?checksum=99#0123456789abcdef0123456789abcdef01234567",
                "has to be",
            ),
            ("?fetch-by-commit=true&branch=main", "needs the commit"),
            ("?fetch-by-commit=true&checksum=0123", "needs the commit"),
        ] {
            let error = source(&format!("{url}{query}")).unwrap_err();
            assert!(error.contains(said), "{query}: {error}");
        }
        assert_eq!(git_context("https://example.com/a.tar"), Ok(None));
    }
}
