//! How an error looks: one printer for all of them. A [`Failure`] names a place; the text of that place is attached here.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal as _, Write};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity,
    SourceCode,
};

use super::environment::Environment;
use super::exit::Exit;
use crate::engine::failure::{Failure, FailureKind};

/// What ends a command without success: one or more failures, all of them shown.
#[derive(Debug)]
pub(super) struct Stop {
    /// The code to end with.
    pub(super) exit: Exit,
    /// Why.
    pub(super) failures: Vec<Failure>,
    /// The texts that the failures' places are in, by name.
    pub(super) texts: HashMap<String, String>,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::from(vec![failure])
    }
}

impl From<Vec<Failure>> for Stop {
    fn from(failures: Vec<Failure>) -> Self {
        let exit = failures
            .first()
            .map_or(Exit::Bug, |failure| failure.kind.into());
        Self {
            exit,
            failures,
            texts: HashMap::new(),
        }
    }
}

/// How problems are laid out for a person.
pub(super) fn handler(color: bool) -> GraphicalReportHandler {
    let theme = if color {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    GraphicalReportHandler::new_themed(theme)
        .with_width(110)
        .with_context_lines(1)
}

impl Stop {
    /// The command line is wrong in a way that the argument parser cannot see.
    pub(super) fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        let failure = Failure::new(FailureKind::Input, "cli::usage", message).with_help(help);
        Self {
            exit: Exit::Usage,
            failures: vec![failure],
            texts: HashMap::new(),
        }
    }

    /// Adds a text that places may be in.
    #[must_use]
    pub(super) fn with_text(mut self, name: &str, text: &str) -> Self {
        self.texts.insert(name.to_owned(), text.to_owned());
        self
    }

    /// Writes all failures to standard error, with colors where a person looks at them.
    pub(super) fn tell(&self, environment: &Environment) {
        let color = !environment.no_color && std::io::stderr().is_terminal();
        self.write(&mut std::io::stderr(), color);
    }

    /// Writes all failures for a person.
    pub(super) fn write(&self, out: &mut dyn Write, color: bool) {
        let handler = handler(color);
        for failure in &self.failures {
            let shown = Shown::new(failure, &self.texts);
            let mut text = String::new();
            if handler.render_report(&mut text, &shown).is_err() {
                text = format!("error: {failure}\n");
            }
            // Nowhere is left to say that standard error is closed.
            drop(out.write_all(text.as_bytes()));
        }
    }
}

/// A failure with its text, as the report printer wants it.
#[derive(Debug)]
struct Shown<'a> {
    failure: &'a Failure,
    source: Option<NamedSource<String>>,
    span: Option<(usize, usize)>,
    cause: Option<Cause>,
}

#[derive(Debug)]
struct Cause {
    message: String,
    next: Option<Box<Cause>>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next
            .as_deref()
            .map(|next| next as &(dyn std::error::Error + 'static))
    }
}

impl<'a> Shown<'a> {
    fn new(failure: &'a Failure, texts: &HashMap<String, String>) -> Self {
        let mut source = None;
        let mut span = None;
        if let Some(place) = &failure.place
            && let Some(text) = texts.get(&place.file).or(failure.text.as_ref())
        {
            let (offset, length) = place.span.unwrap_or_else(|| line_span(text, place.line));
            if offset <= text.len() {
                span = Some((offset, length.min(text.len() - offset)));
                source = Some(NamedSource::new(&place.file, text.clone()));
            }
        }
        let cause = failure
            .causes
            .iter()
            .rev()
            .fold(None, |next: Option<Box<Cause>>, message| {
                Some(Box::new(Cause {
                    message: message.clone(),
                    next,
                }))
            });
        Self {
            failure,
            source,
            span,
            cause: cause.map(|cause| *cause),
        }
    }
}

/// Where a line (from 1) stands in a text.
fn line_span(text: &str, line: u32) -> (usize, usize) {
    let mut offset = 0;
    for (index, content) in text.split_inclusive('\n').enumerate() {
        if index + 1 == line as usize {
            return (offset, content.trim_end().len());
        }
        offset += content.len();
    }
    (text.len(), 0)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source.is_none()
            && let Some(place) = &self.failure.place
        {
            write!(f, "{}:{}: ", place.file, place.line)?;
        }
        f.write_str(&self.failure.message)?;
        for line in &self.failure.output {
            write!(f, "\n  | {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause
            .as_ref()
            .map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

impl Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<Severity> {
        Some(if self.failure.is_warning {
            Severity::Warning
        } else {
            Severity::Error
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.failure
            .help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display + 'b>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (offset, length) = self.span?;
        let label = LabeledSpan::new(
            self.failure
                .label
                .clone()
                .or_else(|| Some("here".to_owned())),
            offset,
            length,
        );
        Some(Box::new(std::iter::once(label)))
    }
}
