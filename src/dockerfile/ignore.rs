//! `.dockerignore`: which paths of a context are left out, with the meaning that Docker's own pattern matcher has. The
//! last line that matches a path or a directory above it decides; `!` takes back. Every verdict names its line.
//!
//! A walk asks [`IgnoreFile::decide_below`], which reuses what is known of the parent directory; and it may leave out
//! an excluded directory as a whole where [`IgnoreFile::may_contain_exceptions`] says no.

use super::glob::Glob;
use super::problem::{Problem, Span};

/// A parsed ignore file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    rules: Vec<Rule>,
    has_exceptions: bool,
}

/// Whether a path is left out, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It is left out.
    pub excluded: bool,
    /// The line that decided, from 1; `None` where no line matched.
    pub line: Option<u32>,
}

/// Which lines match a directory or one above it; made by one step of a walk for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched(Vec<bool>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    line: u32,
    exception: bool,
    pattern: String,
    form: Form,
}

/// Most patterns need no wildcards to be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Exact,
    /// `text**`
    Prefix(String),
    /// `**text`
    Suffix(String),
    Wild(Glob),
}

impl IgnoreFile {
    /// Reads an ignore file.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut file = Self::default();
        let mut problems = Vec::new();
        let mut start = text.len() - text.trim_start_matches('\u{feff}').len();
        for (index, line) in text[start..].split('\n').enumerate() {
            let span = Span {
                start,
                end: start + line.trim_end().len(),
                line: index as u32 + 1,
            };
            start += line.len() + 1;
            if line.starts_with('#') {
                continue;
            }
            if let Err(reason) = file.add(line, span.line) {
                problems.push(
                    Problem::error("ignore::pattern", reason, span)
                        .help("write `\\` before a character that is to stand for itself"),
                );
            }
        }
        if problems.is_empty() {
            Ok(file)
        } else {
            Err(problems)
        }
    }

    /// From single patterns, such as those of `--exclude`; they are numbered from 1.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut file = Self::default();
        for (index, pattern) in patterns.into_iter().enumerate() {
            file.add(pattern, index as u32 + 1)?;
        }
        Ok(file)
    }

    fn add(&mut self, written: &str, line: u32) -> Result<(), String> {
        let written = written.trim();
        let (exception, pattern) = match written.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, written),
        };
        if pattern.is_empty() {
            return if exception {
                Err("`!` takes nothing back: no pattern follows".to_owned())
            } else {
                Ok(())
            };
        }
        let mut pattern = clean(pattern);
        if pattern.len() > 1 && pattern.starts_with('/') {
            pattern.remove(0);
        }
        // Both dialects have to accept it: the one decides what is a pattern, the other matches.
        Glob::parse(&pattern).map_err(|error| error.to_string())?;
        let form = Form::of(&pattern)?;
        self.has_exceptions |= exception;
        self.rules.push(Rule {
            line,
            exception,
            pattern,
            form,
        });
        Ok(())
    }

    /// Whether it leaves out nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a line takes something back.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// The patterns, cleaned, with their `!`.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        let sign = |rule: &Rule| if rule.exception { "!" } else { "" };
        self.rules
            .iter()
            .map(|rule| format!("{}{}", sign(rule), rule.pattern))
            .collect()
    }

    /// Whether a path, relative to the context's root and with slashes, is left out. The root itself never is.
    #[must_use]
    pub fn decide(&self, path: &str) -> Verdict {
        if path == "." || path.is_empty() {
            return Verdict {
                excluded: false,
                line: None,
            };
        }
        let mut above = Matched::default();
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            above = self.decide_below(&above, &path[..at]).1;
        }
        self.decide_below(&above, path).0
    }

    /// The same for a path whose parent directory was asked before: `above` is what that gave, or the default for
    /// what lies directly in the root.
    #[must_use]
    pub fn decide_below(&self, above: &Matched, path: &str) -> (Verdict, Matched) {
        let mut verdict = Verdict {
            excluded: false,
            line: None,
        };
        let mut matched = Vec::with_capacity(self.rules.len());
        for (index, rule) in self.rules.iter().enumerate() {
            let hit = above.0.get(index) == Some(&true) || rule.matches(path);
            if hit && rule.exception == verdict.excluded {
                verdict = Verdict {
                    excluded: !rule.exception,
                    line: Some(rule.line),
                };
            }
            matched.push(hit);
        }
        (verdict, Matched(matched))
    }

    /// Whether something below an excluded directory may be taken back. Where this says no, the walk need not go in.
    #[must_use]
    pub fn may_contain_exceptions(&self, directory: &str) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.exception && rule.may_match_below(directory))
    }
}

impl Form {
    fn of(pattern: &str) -> Result<Self, String> {
        let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
        if plain(pattern) {
            return Ok(Self::Exact);
        }
        if let Some(rest) = pattern.strip_prefix("**").filter(|rest| plain(rest)) {
            return Ok(Self::Suffix(rest.to_owned()));
        }
        if let Some(rest) = pattern.strip_suffix("**").filter(|rest| plain(rest)) {
            return Ok(Self::Prefix(rest.to_owned()));
        }
        Glob::parse_double_star(pattern)
            .map(Self::Wild)
            .map_err(|error| error.to_string())
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match &self.form {
            Form::Exact => path == self.pattern,
            Form::Prefix(text) => path.starts_with(text.as_str()),
            Form::Suffix(text) => {
                path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path)
            }
            Form::Wild(glob) => glob.matches(path),
        }
    }

    fn may_match_below(&self, directory: &str) -> bool {
        let mut parts = self.pattern.split('/');
        for component in directory.split('/') {
            match parts.next() {
                // The pattern is no deeper than the directory.
                None => return false,
                // Brackets and escapes may hold a slash; then nothing is certain.
                Some(part) if part.contains("**") || part.contains(['[', ']', '\\']) => {
                    return true;
                }
                Some(part) => {
                    if !Glob::parse(part).is_ok_and(|glob| glob.matches(component)) {
                        return false;
                    }
                }
            }
        }
        parts.next().is_some()
    }
}

/// The shortest path that means the same, as Go's `filepath.Clean` gives it.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_matches_decides_and_is_named() {
        let file = IgnoreFile::parse("# all but the sources\n*\n!src\nsrc/**/*.o\n").unwrap();
        for (path, excluded, line) in [
            ("README", true, Some(2)),
            ("src", false, Some(3)),
            ("src/a.c", false, Some(3)),
            ("src/deep/a.o", true, Some(4)),
        ] {
            assert_eq!(file.decide(path), Verdict { excluded, line }, "{path}");
        }
        assert_eq!(
            file.decide("."),
            Verdict {
                excluded: false,
                line: None
            }
        );
    }

    #[test]
    fn a_walk_comes_to_the_same_verdicts_as_single_questions() {
        let file = IgnoreFile::parse("a\n!a/b\na*\n!**/keep\n").unwrap();
        for path in ["a", "a/b", "a/b/c", "a/keep", "x/keep", "x"] {
            let mut above = Matched::default();
            for (at, _) in path.match_indices('/') {
                above = file.decide_below(&above, &path[..at]).1;
            }
            assert_eq!(
                file.decide_below(&above, path).0,
                file.decide(path),
                "{path}"
            );
        }
    }

    #[test]
    fn a_directory_is_entered_only_where_something_may_be_taken_back() {
        let file = IgnoreFile::parse("*\n!docs/README.md\n!x*/y\n").unwrap();
        for (directory, enter) in [
            ("docs", true),
            ("docs/deep", false),
            ("node_modules", false),
            ("xa", true),
        ] {
            assert_eq!(file.may_contain_exceptions(directory), enter, "{directory}");
        }
        let file = IgnoreFile::parse("*\n!**/README.md\n").unwrap();
        assert!(file.may_contain_exceptions("a/b/c"));
    }

    #[test]
    fn every_bad_pattern_is_reported_at_its_line() {
        let problems = IgnoreFile::parse("ok\n[\n!\n[z-a]\n").unwrap_err();
        let lines: Vec<u32> = problems
            .iter()
            .filter_map(|problem| problem.span)
            .map(|span| span.line)
            .collect();
        assert_eq!(lines, [2, 3, 4]);
    }
}
