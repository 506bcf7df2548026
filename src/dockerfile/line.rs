//! Lines as they are written, and lines as they are meant: continuations joined, comments between them left out. A
//! logical line knows for each of its bytes where in the file it stands.

use super::ast::Word;
use super::problem::Span;

/// A line of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Physical<'a> {
    /// Without its end.
    pub(super) text: &'a str,
    /// Where it begins.
    pub(super) start: usize,
    /// With its end.
    pub(super) whole: &'a str,
    /// From 1.
    pub(super) number: u32,
}

impl Physical<'_> {
    pub(super) fn span(&self) -> Span {
        Span {
            start: self.start,
            end: self.start + self.text.len(),
            line: self.number,
        }
    }

    pub(super) fn is_comment(&self) -> bool {
        self.text.trim_start().starts_with('#')
    }
}

/// All lines of a text; a byte-order mark belongs to none.
pub(super) fn lines(text: &str) -> Vec<Physical<'_>> {
    let mut start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut lines = Vec::new();
    for whole in text[start..].split_inclusive('\n') {
        let number = lines.len() as u32 + 1;
        lines.push(Physical {
            text: whole.trim_end_matches(['\r', '\n']),
            start,
            whole,
            number,
        });
        start += whole.len();
    }
    lines
}

/// The text of a line before the character that continues it; `None` if the line is not continued.
pub(super) fn before_continuation(text: &str, escape: char) -> Option<&str> {
    let before = text.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

/// A line as it is meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Logical {
    pub(super) text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    at: usize,
    from: usize,
    line: u32,
}

impl Logical {
    /// Adds a part of a line of the file.
    pub(super) fn push(&mut self, text: &str, from: usize, line: u32) {
        self.pieces.push(Piece {
            at: self.text.len(),
            from,
            line,
        });
        self.text.push_str(text);
    }

    fn place(&self, at: usize) -> (usize, u32) {
        let index = self
            .pieces
            .partition_point(|piece| piece.at <= at)
            .saturating_sub(1);
        self.pieces
            .get(index)
            .map_or((0, 1), |piece| (piece.from + (at - piece.at), piece.line))
    }

    /// Where a range of bytes stands in the file.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let (from, line) = self.place(start);
        let to = if end > start {
            self.place(end - 1).0 + 1
        } else {
            from
        };
        Span {
            start: from,
            end: to,
            line,
        }
    }

    pub(super) fn all(&self) -> Part<'_> {
        Part {
            line: self,
            start: 0,
            end: self.text.len(),
        }
    }
}

/// A range of a logical line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    line: &'a Logical,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    pub(super) fn text(&self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// A range of it, counted from its own beginning.
    pub(super) fn slice(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            line: self.line,
            start: self.start + range.start,
            end: self.start + range.end,
        }
    }

    pub(super) fn from(&self, at: usize) -> Self {
        self.slice(at..self.end - self.start)
    }

    /// Without blanks at its ends.
    pub(super) fn trim(&self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.slice(start..start + text.trim().len())
    }

    pub(super) fn span(&self) -> Span {
        self.line.span(self.start, self.end)
    }

    pub(super) fn word(&self) -> Word {
        Word {
            text: self.text().to_owned(),
            span: self.span(),
        }
    }

    /// A word that says something else than what is written in that range.
    pub(super) fn word_saying(&self, text: String, range: std::ops::Range<usize>) -> Word {
        Word {
            text,
            span: self.slice(range).span(),
        }
    }
}
