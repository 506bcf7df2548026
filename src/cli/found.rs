//! Problems of a file as other programs read them: one line, or one JSON object each.

use serde::Serialize;

use crate::dockerfile::{Problem, Severity};

/// One problem, as programs read it.
#[derive(Debug, Serialize)]
pub(super) struct Found<'a> {
    file: &'a str,
    line: u32,
    column: usize,
    end_line: u32,
    end_column: usize,
    code: &'static str,
    severity: &'static str,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> Found<'a> {
    pub(super) fn of(file: &'a str, text: &str, problem: &'a Problem) -> Self {
        let (start, end) = problem.span.map_or((0, 0), |span| (span.start, span.end));
        let (line, column) = position(text, start);
        let (end_line, end_column) = position(text, end);
        Self {
            file,
            line,
            column,
            end_line,
            end_column,
            code: problem.code,
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &problem.message,
            help: problem.help.as_deref(),
        }
    }

    /// `FILE:LINE:COLUMN: message`
    pub(super) fn short(&self) -> String {
        format!(
            "{}:{}:{}: {}\n",
            self.file, self.line, self.column, self.message
        )
    }
}

/// Line and column of a byte, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (u32, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.matches('\n').count() as u32 + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
