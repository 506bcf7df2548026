//! The marks of heredocs: `<<EOF`, `<<-EOF`, `<<'EOF'`, `3<<EOF`, `<< EOF`.

use super::ast::Heredoc;
use super::expand::{ExpandError, Keep, NoVariables, expand};
use super::problem::Span;

/// The heredocs that a line announces, without their bodies.
pub(super) fn announced(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    // A line that is not even made of words announces none; its own parser says what is wrong.
    let words = expand(line, '\\', &NoVariables, Keep::QuotesAndEscapes)
        .map(|line| line.words)
        .unwrap_or_default();
    let mut heredocs = Vec::new();
    for word in words {
        heredocs.extend(mark(&word)?);
    }
    Ok(heredocs)
}

/// Whether a text is the mark of a heredoc and nothing else.
#[must_use]
pub fn is_heredoc_mark(text: &str) -> bool {
    matches!(mark(text), Ok(Some(_)))
}

/// Reads one word as the mark of a heredoc; `None` if it is another word.
pub(super) fn mark(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Some(rest) = word[digits..].strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\n', '\u{c}', '\r']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let plain = expand(rest, '\\', &NoVariables, Keep::Unset)?.words;
    let [name] = plain.as_slice() else {
        return Ok(None);
    };
    let raw = expand(rest, '\\', &NoVariables, Keep::Quotes)?
        .words
        .concat();
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        expand: quotes(name) == quotes(&raw),
        name: name.clone(),
        chomp,
        descriptor: word[..digits].parse().unwrap_or(0),
        body: String::new(),
        span: Span::default(),
    }))
}
