//! A command line cut into words as a POSIX shell does it, with quotes and backslashes and without any expansion.

/// A quote was opened and not closed, or a backslash ends the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a quote is not closed")]
pub struct UnfinishedQuote;

/// The words of a command line.
///
/// # Errors
/// If a quote is not closed.
pub fn shell_words(line: &str) -> Result<Vec<String>, UnfinishedQuote> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(UnfinishedQuote)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(UnfinishedQuote)? {
                        '"' => break,
                        '\\' => match chars.next().ok_or(UnfinishedQuote)? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word
                .get_or_insert_default()
                .push(chars.next().ok_or(UnfinishedQuote)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_cuts_them() {
        assert_eq!(
            shell_words(r#"sh -c 'a b' "c \"d\"" e\ f ''"#).unwrap(),
            ["sh", "-c", "a b", "c \"d\"", "e f", ""]
        );
        assert_eq!(shell_words("  ").unwrap(), Vec::<String>::new());
        assert_eq!(shell_words("a 'b"), Err(UnfinishedQuote));
    }
}
