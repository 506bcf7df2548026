//! How the arguments of an instruction fall into words: by blanks, by quotes, as flags, as JSON.

use super::ast::Word;
use super::line::Part;

/// The blanks between words; a line feed never gets this far.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Words between blanks.
pub(super) fn words(part: Part<'_>) -> Vec<Word> {
    let text = part.text();
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (is_blank(c), start) {
            (true, Some(from)) => {
                words.push(part.slice(from..at).word());
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    words
}

/// The first word and what follows the blanks behind it.
pub(super) fn first_word<'a>(part: Part<'a>) -> (Part<'a>, Part<'a>) {
    let text = part.text();
    let end = text.find(is_blank).unwrap_or(text.len());
    let rest = text[end..]
        .find(|c| !is_blank(c))
        .map_or(text.len(), |blanks| end + blanks);
    (part.slice(0..end), part.from(rest))
}

/// Words between blanks, where quotes and escapes hold blanks together; both stay in the words.
pub(super) fn quoted_words(part: Part<'_>, escape: char) -> Vec<(Word, Part<'_>)> {
    let text = part.text();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = None;
    let mut quote: Option<char> = None;
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        if quote.is_none() && c.is_whitespace() {
            if let Some(from) = start.take() {
                let said = part.word_saying(std::mem::take(&mut word), from..at);
                words.push((said, part.slice(from..at)));
            }
            continue;
        }
        start.get_or_insert(at);
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // An escape at the very end escapes nothing and is dropped.
            let Some((_, escaped)) = rest.next() else {
                break;
            };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
    }
    if let Some(from) = start
        && !word.is_empty()
    {
        let said = part.word_saying(word, from..text.len());
        words.push((said, part.slice(from..text.len())));
    }
    words
}

/// The flags at the head of the arguments, without their quotes and escapes, and the arguments behind them.
pub(super) fn flags<'a>(part: Part<'a>, escape: char) -> (Vec<Word>, Part<'a>) {
    let text = part.text();
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, part.from(at));
        }
        let start = at;
        let mut word = String::new();
        let mut quote: Option<char> = None;
        let mut rest = text[at..].char_indices();
        at = text.len();
        while let Some((offset, c)) = rest.next() {
            match quote {
                None if c.is_whitespace() => {
                    at = start + offset;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => word.extend(rest.next().map(|(_, escaped)| escaped)),
                _ => word.push(c),
            }
        }
        if word == "--" {
            return (flags, part.from(at));
        }
        flags.push(part.word_saying(word, start..at));
    }
}

/// What stands where JSON could stand.
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<Word>),
    /// An array with something else in it.
    NotOnlyStrings,
    /// No JSON array.
    No,
}

/// Reads `["a", "b"]`.
pub(super) fn json(part: Part<'_>) -> Json {
    let text = part.text();
    if !text.trim_start().starts_with('[') {
        return Json::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Json::No;
    };
    let strings: Option<Vec<&str>> = values.iter().map(serde_json::Value::as_str).collect();
    let Some(strings) = strings else {
        return Json::NotOnlyStrings;
    };
    let places = string_places(text);
    let word = |(string, place): (&str, std::ops::Range<usize>)| {
        part.word_saying(string.to_owned(), place)
    };
    Json::Strings(strings.into_iter().zip(places).map(word).collect())
}

/// Where the string literals of valid JSON stand.
fn string_places(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut places = Vec::new();
    let mut rest = text.char_indices();
    while let Some((start, c)) = rest.next() {
        if c != '"' {
            continue;
        }
        while let Some((at, c)) = rest.next() {
            match c {
                '\\' => drop(rest.next()),
                '"' => {
                    places.push(start..at + 1);
                    break;
                }
                _ => {}
            }
        }
    }
    places
}

/// The fields of a line of comma-separated values; a field may be quoted, with `""` for a quote in it.
pub(super) fn comma_separated(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let end = rest.find('"').ok_or("a quote is not closed")?;
                field.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err("something follows a closing quote");
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("a quote stands in the middle of a field");
            }
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_separate_and_quotes_hold_together() {
        for (text, fields) in [
            ("type=bind,source=a", Some(vec!["type=bind", "source=a"])),
            ("\"target=a,b\",ro", Some(vec!["target=a,b", "ro"])),
            ("\"a\"\"b\"", Some(vec!["a\"b"])),
            ("\"a", None),
            ("a\"b", None),
        ] {
            let parsed = comma_separated(text).ok();
            assert_eq!(
                parsed,
                fields.map(|fields| fields.into_iter().map(str::to_owned).collect()),
                "{text}"
            );
        }
    }
}
