//! Debian's control format: stanzas of `Field: value` lines, parted by empty lines; a line that begins with a blank goes on.

/// The stanzas of a text.
pub(super) fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n")
        .map(|stanza| stanza.trim_matches('\n'))
        .filter(|stanza| !stanza.is_empty())
}

/// Name and value of each field of a stanza; the value keeps its further lines.
pub(super) fn fields(stanza: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = stanza;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let mut end = 0;
            loop {
                match rest[end..].find('\n') {
                    None => {
                        end = rest.len();
                        break;
                    }
                    Some(offset) => {
                        end += offset;
                        if !matches!(rest.as_bytes().get(end + 1), Some(b' ' | b'\t')) {
                            break;
                        }
                        end += 1;
                    }
                }
            }
            let field = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or("");
            if let Some((name, value)) = field.split_once(':')
                && !field.starts_with([' ', '\t', '#'])
            {
                return Some((name, value.trim()));
            }
        }
    })
}

/// The value of one field, whatever case its name is written in.
pub(super) fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    fields(stanza)
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_further_lines() {
        let text = "A: 1\nB:\n x\n y\n\n\nC: 3\n# no\nD: 4";
        let parsed: Vec<Vec<_>> = stanzas(text)
            .map(|stanza| fields(stanza).collect())
            .collect();
        assert_eq!(
            parsed,
            [
                vec![("A", "1"), ("B", "x\n y")],
                vec![("C", "3"), ("D", "4")]
            ]
        );
        assert_eq!(field("Suite: x", "suite"), Some("x"));
    }
}
