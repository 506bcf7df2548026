//! What is wrong with a file, or could be better: pure data with a place, so that every consumer (terminal, editor,
//! JSON) can show it in its own way. A problem carries no text of the file; that is attached once, at the edge.

use std::fmt;

/// A place in a text: a range of bytes, and the line it begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// The line of the first byte, from 1.
    pub line: u32,
}

/// Whether a problem stops the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It can be built, but should be mended.
    Warning,
    /// It cannot be built.
    Error,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable name: `dockerfile::unknown_flag`, or a lint rule such as `NoEmptyContinuation`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where; `None` where it is not in the file (a wrong `--target`).
    pub span: Option<Span>,
    /// Why, said at the place itself.
    pub label: Option<String>,
    /// The way out.
    pub help: Option<String>,
    /// Whether it stops the build.
    pub severity: Severity,
}

impl Problem {
    /// Something that cannot be built.
    pub fn error(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self {
            code,
            message: message.into(),
            span: Some(span),
            label: None,
            help: None,
            severity: Severity::Error,
        }
    }

    /// Something that should be mended.
    pub fn warning(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message, span)
        }
    }

    /// Something that cannot be built, for a reason that lies outside the file.
    pub fn outside(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            span: None,
            ..Self::error(code, message, Span::default())
        }
    }

    /// Adds the reason, to be shown at the place.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …?" if one of the names that would be right is near.
    #[must_use]
    pub fn near<'a>(self, written: &str, right: impl IntoIterator<Item = &'a str>) -> Self {
        match super::suggest::nearest(written, right) {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl miette::Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Warning => miette::Severity::Warning,
            Severity::Error => miette::Severity::Error,
        })
    }

    fn url<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let url = super::rules::Rule::named(self.code)?.url()?;
        Some(Box::new(url))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let span = self.span?;
        let label = miette::LabeledSpan::new(
            self.label.clone(),
            span.start,
            span.end.saturating_sub(span.start),
        );
        Some(Box::new(std::iter::once(label)))
    }
}
