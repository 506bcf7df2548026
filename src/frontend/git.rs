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
    commit_times: bool,
}

/// Reads what ADD was given; `None` if it is no git repository.
pub(super) fn reference(text: &str) -> Result<Option<Reference>, String> {
    if text.starts_with("./") || text.starts_with("../") {
        return Ok(None);
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (url, query) = rest.split_once('?').unwrap_or((rest, ""));
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
    if !is_git {
        return Ok(None);
    }
    let mut found = Reference {
        url: url.to_owned(),
        ..Reference::default()
    };
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    found.reference = Some(percent_decoded(reference)).filter(|reference| !reference.is_empty());
    found.set_subdir(&percent_decoded(subdir))?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.set(key, &percent_decoded(&value.replace('+', " ")))?;
    }
    Ok(Some(found))
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
            "fetch-by-commit" => truth(key, value).map(drop),
            "mtime" if value == "checkout" => Ok(()),
            "mtime" if value == "commit" => {
                self.commit_times = true;
                Ok(())
            }
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
        if self.commit_times {
            return Err("`mtime=commit` of a git URL is not available yet".to_owned());
        }
        let commit = match (checksum, self.commit.as_deref()) {
            (Some(flag), Some(url)) if flag != url => {
                return Err(format!("--checksum is `{flag}`, but the URL says `{url}`"));
            }
            (flag, url) => flag.or(url).map(str::to_owned),
        };
        if let Some(commit) = &commit {
            if !matches!(commit.len(), 40 | 64) || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
                return Err(format!(
                    "a commit in part (`{commit}`) is not available yet; give all 40 digits"
                ));
            }
            if self
                .reference
                .as_ref()
                .is_some_and(|reference| reference != commit)
            {
                return Err(
                    "a reference together with the commit that it must be is not available yet; \
                            name the commit alone"
                        .to_owned(),
                );
            }
        }
        let keep_git_dir = keep_git_dir.or(self.keep_git_dir).unwrap_or(false);
        Ok(GitSource {
            url: self.url,
            reference: commit.or(self.reference),
            subdir: self.subdir,
            depth: Some(1),
            submodules: self.submodules.unwrap_or(true),
            keep_git_dir,
            remote: None,
            read_only: false,
        })
    }
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
        assert!(reference("https://example.com/a.git?x=1").is_err());
        assert!(reference("https://example.com/a.git?tag=a&branch=b").is_err());
    }
}
