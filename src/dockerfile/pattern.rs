//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `?` is one character, `*` any number of them, a backslash takes
//! the meaning of `*`, `?` and itself. No brackets.

use super::expand::ExpandError;

/// Whether a wildcard takes as little or as much as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    One(char),
    AnyOne,
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, ExpandError> {
        let wrong = |reason: String| ExpandError::Pattern {
            pattern: text.to_owned(),
            reason,
        };
        let mut parts = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' => Part::Any,
                '?' => Part::AnyOne,
                // These two had to be escaped to get here; the escape is no part of the pattern.
                '\\' if matches!(rest.peek(), Some('}' | '/')) => continue,
                '\\' => match rest.next() {
                    Some(c @ ('*' | '?' | '\\')) => Part::One(c),
                    Some(c) => return Err(wrong(format!("`\\{c}` is no escape"))),
                    None => return Err(wrong("it ends with an escape".to_owned())),
                },
                c => Part::One(c),
            });
        }
        Ok(Self(parts))
    }

    /// How many characters are looked at, at most, to match at one place or at every place of a text.
    pub(super) fn work(&self, text: &str, everywhere: bool) -> usize {
        let length = text.len() + 1;
        let there = self.window(length).saturating_mul(self.0.len() + 1);
        there.saturating_mul(if everywhere { length } else { 1 })
    }

    /// How much of a text a match can take.
    fn window(&self, length: usize) -> usize {
        if self.0.contains(&Part::Any) {
            length
        } else {
            length.min(self.0.len())
        }
    }

    /// Ends of all matches that begin where `text` begins, in characters, ascending.
    fn ends(&self, text: &[char]) -> Vec<usize> {
        let text = &text[..self.window(text.len())];
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for part in &self.0 {
            let mut next = vec![false; text.len() + 1];
            let mut any = false;
            for at in 0..=text.len() {
                match part {
                    Part::Any => {
                        any |= reached[at];
                        next[at] = any;
                    }
                    Part::AnyOne if reached[at] && at < text.len() => next[at + 1] = true,
                    Part::One(c) if reached[at] && text.get(at) == Some(c) => next[at + 1] = true,
                    Part::AnyOne | Part::One(_) => {}
                }
            }
            reached = next;
        }
        (0..=text.len()).filter(|&at| reached[at]).collect()
    }

    fn end(&self, text: &[char], reach: Reach) -> Option<usize> {
        let ends = self.ends(text);
        match reach {
            Reach::Shortest => ends.first().copied(),
            Reach::Longest => ends.last().copied(),
        }
    }

    pub(super) fn without_prefix(&self, value: &str, reach: Reach) -> String {
        let text: Vec<char> = value.chars().collect();
        text[self.end(&text, reach).unwrap_or(0)..].iter().collect()
    }

    pub(super) fn without_suffix(&self, value: &str, reach: Reach) -> String {
        let backwards: Vec<char> = value.chars().rev().collect();
        let pattern = Self(self.0.iter().rev().copied().collect());
        let cut = pattern.end(&backwards, reach).unwrap_or(0);
        backwards[cut..].iter().rev().collect()
    }

    /// Replaces so many matches; `None` if the result would have more than `bytes_max`.
    pub(super) fn replaced(
        &self,
        value: &str,
        replacement: &str,
        mut times: usize,
        bytes_max: usize,
    ) -> Option<String> {
        let text: Vec<char> = value.chars().collect();
        let mut result = String::new();
        let mut at = 0;
        // A match of nothing right behind a match is none, as in Go's regexp.
        let mut after_match = None;
        while at <= text.len() {
            if times > 0
                && let Some(length) = self.end(&text[at..], Reach::Longest)
                && (length > 0 || after_match != Some(at))
            {
                if result.len() + replacement.len() > bytes_max {
                    return None;
                }
                result.push_str(replacement);
                times -= 1;
                at += length;
                after_match = Some(at);
                if length > 0 {
                    continue;
                }
            }
            result.extend(text.get(at));
            at += 1;
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_suffixes_go_shortest_or_longest() {
        for (pattern, value, shortest, longest) in [
            ("*x", "xxyy", "xyy", "yy"),
            ("?", "abc", "bc", "bc"),
            ("\\*", "*a", "a", "a"),
            ("z", "abc", "abc", "abc"),
            ("*", "abc", "abc", ""),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert_eq!(
                parsed.without_prefix(value, Reach::Shortest),
                shortest,
                "{pattern}"
            );
            assert_eq!(
                parsed.without_prefix(value, Reach::Longest),
                longest,
                "{pattern}"
            );
        }
        let dot = Pattern::parse(".*").unwrap();
        assert_eq!(dot.without_suffix("a.tar.gz", Reach::Shortest), "a.tar");
        assert_eq!(dot.without_suffix("a.tar.gz", Reach::Longest), "a");
    }
}
