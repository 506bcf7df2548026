//! `--name=value` in front of an instruction's arguments.

use super::ast::Word;
use super::problem::{Problem, Span};

/// The flags of one instruction, each of which is known to it.
pub(super) struct Flags<'a> {
    given: Vec<(&'a str, Option<String>, Span)>,
}

impl<'a> Flags<'a> {
    /// Reads flags; reports those that the instruction does not know.
    pub(super) fn read(words: &[Word], known: &'a [&'a str], problems: &mut Vec<Problem>) -> Self {
        let mut given = Vec::new();
        for word in words {
            let text = word.text.strip_prefix("--").unwrap_or(&word.text);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            match known.iter().find(|known| **known == name) {
                Some(known) => given.push((*known, value, word.span)),
                None => {
                    let message = format!("unknown flag `--{name}`");
                    let problem = Problem::error("dockerfile::unknown_flag", message, word.span);
                    problems.push(problem.near(name, known.iter().copied()));
                }
            }
        }
        Self { given }
    }

    fn take(&mut self, name: &str) -> Vec<(Option<String>, Span)> {
        let (found, left) = std::mem::take(&mut self.given)
            .into_iter()
            .partition(|(given, ..)| *given == name);
        self.given = left;
        let found: Vec<(&str, Option<String>, Span)> = found;
        found
            .into_iter()
            .map(|(_, value, span)| (value, span))
            .collect()
    }

    fn once(&mut self, name: &str, problems: &mut Vec<Problem>) -> Option<(Option<String>, Span)> {
        let mut found = self.take(name);
        for (_, span) in found.iter().skip(1) {
            let message = format!("the flag `--{name}` is given twice");
            problems.push(Problem::error("dockerfile::flag_twice", message, *span));
        }
        (!found.is_empty()).then(|| found.swap_remove(0))
    }

    /// A flag with a value, at most once.
    pub(super) fn text(&mut self, name: &str, problems: &mut Vec<Problem>) -> Option<Word> {
        let (value, span) = self.once(name, problems)?;
        with_value(name, value, span, problems)
    }

    /// A flag with a value, any number of times.
    pub(super) fn all(&mut self, name: &str, problems: &mut Vec<Problem>) -> Vec<Word> {
        self.take(name)
            .into_iter()
            .filter_map(|(value, span)| with_value(name, value, span, problems))
            .collect()
    }

    /// A flag that is on, or off: `--link`, `--link=false`.
    pub(super) fn switch(&mut self, name: &str, problems: &mut Vec<Problem>) -> Option<bool> {
        let (value, span) = self.once(name, problems)?;
        match value.as_deref().map(str::to_lowercase).as_deref() {
            None | Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                let message = format!("`--{name}` is `true` or `false`, not `{other}`");
                problems.push(Problem::error("dockerfile::flag_value", message, span));
                None
            }
        }
    }
}

fn with_value(
    name: &str,
    value: Option<String>,
    span: Span,
    problems: &mut Vec<Problem>,
) -> Option<Word> {
    if value.is_none() {
        let problem = Problem::error(
            "dockerfile::flag_value",
            format!("the flag `--{name}` has no value"),
            span,
        );
        problems.push(problem.help(format!("write `--{name}=value`")));
    }
    value.map(|text| Word { text, span })
}
