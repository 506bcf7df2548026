//! `# check=skip=Rule,Rule;error=true`: which warnings are shown, for the whole file or, as a comment directly above it,
//! for one instruction.

use std::collections::BTreeSet;

use super::ast::Dockerfile;
use super::problem::{Problem, Severity};

/// What a `check` directive says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Checks {
    skip_all: bool,
    skip: BTreeSet<String>,
    error: bool,
}

impl Checks {
    fn parse(text: &str) -> Result<Self, String> {
        let mut checks = Self::default();
        for option in text
            .split(';')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let names = || value.split(',').map(|name| name.trim().to_owned());
            match key.trim() {
                "skip" if value.trim().eq_ignore_ascii_case("all") => checks.skip_all = true,
                "skip" => checks.skip.extend(names()),
                "error" if value.trim() == "true" => checks.error = true,
                "error" if value.trim() == "false" => checks.error = false,
                // There are no experimental rules to turn on.
                "experimental" => {}
                key => return Err(format!("`{key}` is not an option of `check`")),
            }
        }
        Ok(checks)
    }

    fn skips(&self, rule: &str) -> bool {
        self.skip_all || self.skip.iter().any(|name| name.eq_ignore_ascii_case(rule))
    }
}

impl Dockerfile {
    /// Takes out the warnings that the file does not want to hear, and makes errors of the others where it says so.
    /// `given` goes before what the head of the file says (the build argument `BUILDKIT_DOCKERFILE_CHECK`).
    #[must_use]
    pub fn judged(&self, problems: Vec<Problem>, given: Option<&str>) -> Vec<Problem> {
        let directive = self.directives.check.as_ref();
        let text = given
            .or(directive.map(|word| word.text.as_str()))
            .unwrap_or_default();
        let mut kept = Vec::new();
        let checks = Checks::parse(text).unwrap_or_else(|reason| {
            let span = directive.filter(|_| given.is_none()).map(|word| word.span);
            let problem = Problem::outside("dockerfile::check", reason);
            kept.push(Problem {
                span,
                ..problem.help("the options are `skip`, `error` and `experimental`")
            });
            Checks::default()
        });
        for mut problem in problems {
            if problem.severity == Severity::Warning {
                if checks.skips(problem.code) || self.is_skipped_at(&problem) {
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

    /// Whether a comment above the instruction skips the rule.
    fn is_skipped_at(&self, problem: &Problem) -> bool {
        let Some(span) = problem.span else {
            return false;
        };
        let around =
            |item: &&super::Instruction| (item.span.start..=item.span.end).contains(&span.start);
        let Some(instruction) = self.instructions.iter().find(around) else {
            return false;
        };
        instruction.comments.iter().any(|comment| {
            let check = comment
                .text
                .split_once('=')
                .filter(|(name, _)| name.trim().eq_ignore_ascii_case("check"));
            check.is_some_and(|(_, text)| {
                Checks::parse(text).is_ok_and(|checks| checks.skips(problem.code))
            })
        })
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
        ] {
            let problems = parse(&format!("{head}FROM scratch\n{above}MAINTAINER me\n")).problems;
            let found = problems.first().map(|problem| problem.severity);
            assert_eq!(found, shown, "{head}{above}: {problems:?}");
        }
        assert!(
            !parse("# check=nonsense\nFROM scratch\n")
                .problems
                .is_empty()
        );
    }
}
