//! Problems as they are found, so that all of a file can be told at once.

use crate::dockerfile::{Problem, Severity, Span};

/// Collects problems.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    found: Vec<Problem>,
}

impl Report {
    /// Adds an error and hands it out for its label and help.
    pub(super) fn error(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> Entry<'_> {
        self.entry(Problem::error(code, message, span))
    }

    /// Adds a warning and hands it out for its label and help.
    pub(super) fn warning(
        &mut self,
        code: &'static str,
        span: Span,
        message: impl Into<String>,
    ) -> Entry<'_> {
        self.entry(Problem::warning(code, message, span))
    }

    fn entry(&mut self, problem: Problem) -> Entry<'_> {
        let index = self.found.len();
        self.found.push(problem);
        Entry(&mut self.found[index])
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Takes over a problem that was found elsewhere.
    pub(super) fn push(&mut self, problem: Problem) {
        self.found.push(problem);
    }

    /// All problems in the order of the file: as `Ok` if they are warnings only.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Vec<Problem>> {
        self.found
            .sort_by_key(|problem| problem.span.map(|span| (span.start, span.end)));
        let errors = self
            .found
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        if errors {
            Err(self.found)
        } else {
            Ok(self.found)
        }
    }
}

/// A problem that was just added.
pub(super) struct Entry<'r>(&'r mut Problem);

impl Entry<'_> {
    /// Says why, at the place.
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        self.0.label = Some(label.into());
        self
    }

    /// Says the way out.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Asks "did you mean …?" where a right name is near; else says `otherwise`.
    pub(super) fn near<'a>(
        self,
        written: &str,
        right: impl IntoIterator<Item = &'a str>,
        otherwise: impl Into<String>,
    ) -> Self {
        let near = self.0.clone().near(written, right);
        self.0.help = near.help.or_else(|| Some(otherwise.into()));
        self
    }
}
