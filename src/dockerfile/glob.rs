//! Wildcards in paths. Two dialects: that of Go's `filepath.Match`, which COPY and ADD have, and that of ignore files
//! and `--parents`, where `**` also crosses slashes.
//!
//! Matching follows all possibilities at once, so no pattern takes more than pattern × path steps.

/// A parsed pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

/// What was given as a pattern is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a pattern: {reason}")]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// This character.
    Literal(char),
    /// `?`: one character that is no slash.
    One,
    /// `*`: any number of characters that are no slashes.
    Run,
    /// `**` at the end: anything.
    Anything,
    /// `**/`: any number of directories.
    Directories,
    /// `[a-z]`, `[^a-z]`
    Class(Class),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn has(&self, c: char) -> bool {
        self.ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&c))
            != self.negated
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Go,
    DoubleStar,
}

impl Glob {
    /// A pattern as `filepath.Match` of Go has it: `*`, `?`, `[…]`, `\`.
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        Self::parse_as(pattern, Dialect::Go)
    }

    /// The same, where `**` stands for any number of directories.
    pub fn parse_double_star(pattern: &str) -> Result<Self, BadPattern> {
        Self::parse_as(pattern, Dialect::DoubleStar)
    }

    fn parse_as(pattern: &str, dialect: Dialect) -> Result<Self, BadPattern> {
        let wrong = |reason| BadPattern {
            pattern: pattern.to_owned(),
            reason,
        };
        let mut parts = Vec::new();
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            parts.push(match c {
                '*' if dialect == Dialect::DoubleStar && rest.peek() == Some(&'*') => {
                    rest.next();
                    rest.next_if_eq(&'/');
                    if rest.peek().is_none() {
                        Part::Anything
                    } else {
                        Part::Directories
                    }
                }
                '*' => Part::Run,
                '?' => Part::One,
                '\\' => Part::Literal(rest.next().ok_or_else(|| wrong("it ends with an escape"))?),
                '[' => Part::Class(parse_class(&mut rest).map_err(wrong)?),
                c => Part::Literal(c),
            });
        }
        if dialect == Dialect::DoubleStar
            && parts.iter().any(|part| matches!(part, Part::Class(class) if class.ranges.iter().any(|(a, b)| a > b)))
        {
            return Err(wrong("a range in brackets ends before it begins"));
        }
        Ok(Self { parts })
    }

    /// Whether the whole of `path` matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        let mut reached = vec![false; text.len() + 1];
        let mut next = reached.clone();
        reached[0] = true;
        for part in &self.parts {
            next.fill(false);
            step(part, &text, &reached, &mut next);
            std::mem::swap(&mut reached, &mut next);
            if !reached.contains(&true) {
                return false;
            }
        }
        reached[text.len()]
    }
}

fn step(part: &Part, text: &[char], reached: &[bool], next: &mut [bool]) {
    // Whether a wildcard that began at or before the place still goes on.
    let mut open = false;
    for at in 0..reached.len() {
        let c = text.get(at).copied();
        match part {
            Part::Literal(literal) => forward(next, at, reached[at] && c == Some(*literal)),
            Part::One => forward(next, at, reached[at] && c.is_some_and(|c| c != '/')),
            Part::Class(class) => forward(next, at, reached[at] && c.is_some_and(|c| class.has(c))),
            Part::Run => {
                open |= reached[at];
                next[at] |= open;
                open &= c != Some('/');
            }
            Part::Anything => {
                open |= reached[at];
                next[at] |= open;
            }
            Part::Directories => {
                next[at] |= reached[at] || (open && text[at - 1] == '/');
                open |= reached[at];
            }
        }
    }
}

fn forward(next: &mut [bool], at: usize, matched: bool) {
    if matched {
        next[at + 1] = true;
    }
}

fn parse_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Class, &'static str> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Ok(Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() {
            class_character(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn class_character(
    rest: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<char, &'static str> {
    match rest.next() {
        None => Err("a bracket is not closed"),
        Some('-' | ']') => Err("a bracket holds no characters, or a range without its end"),
        Some('\\') => rest.next().ok_or("a bracket is not closed"),
        Some(c) => Ok(c),
    }
}

/// Whether a path of COPY holds a wildcard that is not escaped.
#[must_use]
pub fn has_wildcard(path: &str) -> bool {
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(rest.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        for (pattern, path, matches) in [
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("**/b", "b", true),
            ("**/b", "a/c/b", true),
            ("**/b", "a/cb", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
        ] {
            assert_eq!(
                Glob::parse_double_star(pattern).unwrap().matches(path),
                matches,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn broken_brackets_are_no_patterns() {
        for pattern in ["[", "[]", "[a", "[-a]", "[a-]", "a\\"] {
            assert!(Glob::parse(pattern).is_err(), "{pattern}");
        }
        assert!(has_wildcard("a*"));
        assert!(!has_wildcard("a\\*"));
    }
}
