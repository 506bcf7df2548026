//! What a plan must know of the machine it is made on. The library looks at nothing itself: it says which paths it asks
//! for ([`super::Habitat::needed_facts`]), and the caller answers.

use std::collections::BTreeMap;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A file, or anything else that is not a directory.
    File,
    /// A directory.
    Directory,
}

/// What the plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// To be looked at: a test that is not there, or a file of the host's home, is a warning.
    #[default]
    Render,
    /// To be built: a test that is not there is an error, and so is a file of the host's home that is missing.
    Build,
}

/// The answers.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What is there of the paths that were asked for, in the directory of the configuration; `~/…` is the host's home.
    pub beside: BTreeMap<String, PathKind>,
    /// The same at ROOT, where there is one and it is another directory.
    pub at_root: BTreeMap<String, PathKind>,
    /// Whether the configuration lies in a ROOT. Its directory is a layer then, whose content is copied to LOCAL_PATH; a
    /// lone configuration may lie anywhere, among things that are no part of the habitat.
    pub layered: bool,
    /// The text of `.habignore` in the directory of the configuration.
    pub ignore: Option<String>,
    /// The path of the configuration in its own directory: its file name.
    pub config: String,
    /// Debian's name of this machine's architecture.
    pub debian_arch: String,
    /// What downloads have to be, as a lock file knows it: the SHA-256 (64 hex digits) by address. It holds for tools that say
    /// none themselves.
    pub sums: BTreeMap<String, String>,
    /// Only tests whose path has this in it.
    pub tests: Option<String>,
    /// What the plan is for.
    pub purpose: Purpose,
}

/// A path as it is written, in the form in which it is asked for: without `./` and a `/` at its end.
#[must_use]
pub(super) fn clean(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

/// The rules of a `.habignore` (those of a `.gitignore`) as `--exclude` patterns for a copy of `directory`.
pub(super) fn exclude_patterns(ignore: &str, directory: &str) -> Vec<String> {
    ignore
        .lines()
        .map(|line| line.trim_end())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| {
            let (not, rule) = line
                .strip_prefix('!')
                .map_or(("", line), |rule| ("!", rule));
            let rule = rule
                .strip_prefix('\\')
                .unwrap_or(rule)
                .trim_end_matches('/');
            let anchored = rule.contains('/');
            let rule = rule.trim_start_matches('/');
            if !anchored {
                return Some(format!("{not}**/{rule}"));
            }
            let inside = if directory.is_empty() || rule.starts_with("**/") {
                Some(rule)
            } else {
                rule.strip_prefix(directory)
                    .and_then(|rest| rest.strip_prefix('/'))
            };
            inside.map(|rule| format!("{not}{rule}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_rules_become_patterns_of_the_directory_that_is_copied() {
        let ignore = "# notes\n*.md\n/build/\nfiles/etc/secret\n!keep.md\n";
        assert_eq!(
            exclude_patterns(ignore, ""),
            ["**/*.md", "build", "files/etc/secret", "!**/keep.md"]
        );
        assert_eq!(
            exclude_patterns(ignore, "files/etc"),
            ["**/*.md", "secret", "!**/keep.md"]
        );
    }

    #[test]
    fn a_path_is_asked_for_in_one_form() {
        assert_eq!(clean("./files//motd/"), "files/motd");
    }
}
