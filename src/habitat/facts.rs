//! What a plan must know of the machine it is made on. The library looks at nothing itself: it says which paths it asks
//! for ([`super::Habitat::needed_facts`]), and the caller answers.

use std::collections::{BTreeMap, BTreeSet};

use super::phase::PhaseId;

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
    /// What was found beside each layer, in their order.
    pub layers: Vec<LayerFacts>,
    /// What is there of the paths that were asked for at ROOT, where there is one. A layer that lies in ROOT itself has
    /// its paths beside it.
    pub at_root: BTreeMap<String, PathKind>,
    /// What is there of those in the host's home.
    pub at_home: BTreeMap<String, PathKind>,
    /// The text of `.habignore` at ROOT.
    pub root_ignore: Option<String>,
    /// Debian's name of its architecture.
    pub debian_arch: String,
    /// What downloads have to be, as a lock file knows it: the SHA-256 (64 hex digits) by address. It holds for tools that say
    /// none themselves.
    pub sums: BTreeMap<String, String>,
    /// Only tests whose path has this in it.
    pub tests: Option<String>,
    /// The platform that is built for, `linux/amd64`.
    pub platform: String,
    /// What the plan is for.
    pub purpose: Purpose,
    /// Phases that are left out, though there may be something to do in them.
    pub skipped: BTreeSet<PhaseId>,
}

/// What was found beside a layer.
#[derive(Debug, Clone, Default)]
pub struct LayerFacts {
    /// What is there of the paths that were asked for, in the layer's directory.
    pub beside: BTreeMap<String, PathKind>,
    /// The path of the layer's file in its own directory: its file name.
    pub config: String,
    /// The text of `.habignore` in the layer's directory.
    pub ignore: Option<String>,
    /// The path of the layer's directory at ROOT: `system`, `habitats/web`. Such a directory is a part of the habitat, and its
    /// content is copied to SYSTEM_PATH, SHARED_PATH or LOCAL_PATH; a lone configuration may lie anywhere, among things that are
    /// no part of it.
    pub in_root: Option<String>,
}

/// A path that a plan must know about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Beside the layer of this place in the order, and at ROOT.
    Path(usize, String),
    /// In the host's home.
    Home(String),
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
