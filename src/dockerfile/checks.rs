//! `# check=skip=Rule,Rule;error=true`: which warnings are shown, for the whole file or, as a comment directly above it,
//! for one instruction.

use std::collections::BTreeSet;

use super::ast::{Dockerfile, Instruction};
use super::problem::{Problem, Severity, Span};
use super::rules::Rule;

/// What a `check` directive says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Checks {
    skip: Names,
    experimental: Names,
    error: bool,
}

/// Some rules, or all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    some: BTreeSet<String>,
}

impl Names {
    fn read(&mut self, value: &str) {
        match value.trim() {
            "all" => self.all = true,
            names => self
                .some
                .extend(names.split(',').map(|name| name.trim().to_lowercase())),
        }
    }

    fn has(&self, rule: &str) -> bool {
        self.all || self.some.contains(&rule.to_lowercase())
    }
}

impl Checks {
    fn parse(text: &str) -> Result<Self, String> {
        let mut checks = Self::default();
        for option in text
            .split(';')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            let Some((key, value)) = option.split_once('=') else {
                return Err(format!("`{option}` of `check` has no value"));
            };
            match (key.trim(), value.trim()) {
                ("skip", names) => checks.skip.read(names),
                ("experimental", names) => checks.experimental.read(names),
                ("error", "1" | "t" | "T" | "true" | "TRUE" | "True") => checks.error = true,
                ("error", "0" | "f" | "F" | "false" | "FALSE" | "False") => checks.error = false,
                ("error", value) => {
                    return Err(format!(
                        "`error` of `check` is true or false, not `{value}`"
                    ));
                }
                (key, _) => return Err(format!("`{key}` is not an option of `check`")),
            }
        }
        Ok(checks)
    }

    /// What a line of the file says: what follows a blank is a remark.
    fn of_line(value: &str) -> Result<Self, String> {
        Self::parse(value.split_whitespace().next().unwrap_or_default())
    }

    /// Whether breaches of a rule are told. Experimental ones are where they are asked for, whatever is skipped.
    fn tells(&self, rule: &str) -> bool {
        if Rule::named(rule).is_some_and(|rule| rule.experimental) {
            self.experimental.has(rule)
        } else {
            !self.skip.has(rule)
        }
    }

    /// These, and those of a comment above one instruction.
    fn with(&self, other: Self) -> Self {
        let mut checks = self.clone();
        for (names, more) in [
            (&mut checks.skip, other.skip),
            (&mut checks.experimental, other.experimental),
        ] {
            names.all |= more.all;
            names.some.extend(more.some);
        }
        checks
    }
}

impl Dockerfile {
    /// Takes out the warnings that the file does not want to hear, and makes errors of the others where it says so.
    /// `given` goes before what the head of the file says (the build argument `BUILDKIT_DOCKERFILE_CHECK`).
    #[must_use]
    pub fn judged(&self, problems: Vec<Problem>, given: Option<&str>) -> Vec<Problem> {
        let directive = self.directives.check.as_ref();
        let read = match (given, directive) {
            (Some(given), _) => Checks::parse(given),
            (None, Some(word)) => Checks::of_line(&word.text),
            (None, None) => Ok(Checks::default()),
        };
        let mut kept = Vec::new();
        let checks = read.unwrap_or_else(|reason| {
            let span = directive.filter(|_| given.is_none()).map(|word| word.span);
            let problem = Problem::outside("dockerfile::check", reason);
            kept.push(Problem {
                span,
                ..problem.help("the options are `skip`, `error` and `experimental`")
            });
            Checks::default()
        });
        for mut problem in problems {
            if Rule::named(problem.code).is_some() {
                let tells = match self.checks_at(&problem) {
                    Some(above) => checks.with(above).tells(problem.code),
                    None => checks.tells(problem.code),
                };
                if !tells {
                    continue;
                }
                if checks.error {
                    problem.severity = Severity::Error;
                }
            }
            kept.push(problem);
        }
        kept
    }

    /// What the first `check` comment above the instruction says that a problem is in.
    fn checks_at(&self, problem: &Problem) -> Option<Checks> {
        let instruction = self.at(problem.span?)?;
        let check = instruction.comments.iter().find_map(|comment| {
            let (name, value) = comment.text.split_once('=')?;
            name.trim().eq_ignore_ascii_case("check").then_some(value)
        });
        Checks::of_line(check?).ok()
    }

    /// The instruction that a place is in.
    #[must_use]
    pub fn at(&self, span: Span) -> Option<&Instruction> {
        let after = self
            .instructions
            .partition_point(|instruction| instruction.span.start <= span.start);
        self.instructions[..after]
            .last()
            .filter(|instruction| span.start <= instruction.span.end)
    }

    /// The first and the last line of a range of the file.
    #[must_use]
    pub fn lines(&self, span: Span) -> (u32, u32) {
        let end = span.end.clamp(span.start, self.text.len());
        let text = self
            .text
            .as_bytes()
            .get(span.start..end)
            .unwrap_or_default();
        let breaks = text.iter().filter(|byte| **byte == b'\n').count() as u32;
        let open = u32::from(text.last() == Some(&b'\n'));
        (span.line, span.line + breaks - open)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Severity, parse};

    #[test]
    fn rules_are_skipped_for_the_file_or_for_one_instruction() {
        for (head, above, shown) in [
            ("", "", Some(Severity::Warning)),
            ("# check=skip=MaintainerDeprecated\n", "", None),
            ("# check=skip=all\n", "", None),
            ("# check=skip=Other;error=true\n", "", Some(Severity::Error)),
            ("", "# check=skip=MaintainerDeprecated\n", None),
            ("", "# check=skip=Other\n", Some(Severity::Warning)),
            ("", "# check=skip=MaintainerDeprecated it is so\n", None),
            ("# check=skip=Other;error=1\n", "", Some(Severity::Error)),
        ] {
            let problems = parse(&format!("{head}FROM scratch\n{above}MAINTAINER me\n")).problems;
            let found = problems.first().map(|problem| problem.severity);
            assert_eq!(found, shown, "{head}{above}: {problems:?}");
        }
        for wrong in ["nonsense=1", "skip", "error=perhaps"] {
            let text = format!("# check={wrong}\nFROM scratch\n");
            assert_eq!(parse(&text).problems[0].code, "dockerfile::check");
        }
    }
}
