//! Expansion of variables, quotes and escapes in one word, as BuildKit does it: `$v`, `${v}`, `${v:-w}` `${v-w}`
//! `${v:+w}` `${v+w}` `${v:?m}` `${v?m}`, prefixes `#` `##`, suffixes `%` `%%`, and `${v/p/r}` `${v//p/r}`.
//!
//! Leaves out what a shell has beside these (`${v:=w}`, arithmetic, command substitution): those are errors or text.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern;

/// How deep `${…}` may lie in one another.
const DEPTH_MAX: usize = 100;

/// How long a word may become.
const LENGTH_BYTES_MAX: usize = 16 << 20;

/// Where the values of variables come from.
pub trait Variables {
    /// The value of a variable, if it is set.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl Variables for indexmap::IndexMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        indexmap::IndexMap::get(self, name).map(String::as_str)
    }
}

/// No variable is set.
#[derive(Debug, Clone, Copy)]
pub struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _: &str) -> Option<&str> {
        None
    }
}

/// What a word turned into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion {
    /// The whole.
    pub text: String,
    /// The same, split at blanks that are neither quoted nor escaped.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that were asked for and are not set.
    pub unset: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("a {0} quote is not closed")]
    OpenQuote(&'static str),
    /// `${` without its end.
    #[error("`${{` is not closed: `{0}` is missing")]
    OpenBrace(char),
    /// `${}`, `${:…}`, `${{…}`.
    #[error("`${{` is followed by no name")]
    NoName,
    /// `${v=w}` and the like.
    #[error("`{0}` is not a modifier that a Dockerfile has")]
    Modifier(String),
    /// A pattern with an escape that has no meaning.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `${a:-${b:-…}}` without end.
    #[error("more than {DEPTH_MAX} `${{` lie in one another")]
    TooDeep,
    /// Variables that are made of themselves, again and again.
    #[error("it becomes longer than {LENGTH_BYTES_MAX} bytes")]
    TooLong,
    /// `${v:?message}` of a variable that is unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message, or that it may not be unset or empty.
        message: String,
    },
}

/// What is kept as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: quotes and escapes are taken away, unset variables are empty.
    Nothing,
    /// Quotes are text like any other (the body of a heredoc); escapes are taken away.
    QuotesAsText,
    /// Quotes stay but have their meaning; unset variables stay as they are written.
    Quotes,
    /// As `Quotes`, and escapes stay too.
    QuotesAndEscapes,
    /// Only unset variables stay as they are written.
    Unset,
}

/// Expands one word. `escape` is the file's escape character.
pub fn expand(
    word: &str,
    escape: char,
    variables: &dyn Variables,
    keep: Keep,
) -> Result<Expansion, ExpandError> {
    // Most words say what is written.
    let has_meaning = |c| matches!(c, '$' | '\'' | '"' | '<') || c == escape;
    if !word.contains(has_meaning) {
        return Ok(Expansion {
            text: word.to_owned(),
            words: word.split_whitespace().map(str::to_owned).collect(),
            ..Expansion::default()
        });
    }
    let raw_escapes = keep == Keep::QuotesAndEscapes;
    let mut lexer = Lexer {
        input: word.chars().collect(),
        at: 0,
        depth: 0,
        escape,
        variables,
        raw_quotes: matches!(keep, Keep::Quotes | Keep::QuotesAndEscapes),
        quotes_are_text: keep == Keep::QuotesAsText,
        keep_unset: matches!(keep, Keep::Quotes | Keep::QuotesAndEscapes | Keep::Unset),
        used: BTreeSet::new(),
        unset: BTreeSet::new(),
    };
    let (text, words) = lexer.until(
        None,
        Escapes {
            raw: raw_escapes,
            pattern: false,
        },
    )?;
    Ok(Expansion {
        text,
        words,
        used: lexer.used,
        unset: lexer.unset,
    })
}

/// Splits a command line as a shell would: quotes and backslashes hold blanks together and are taken away, variables stay
/// as they are written.
pub fn words(line: &str) -> Result<Vec<String>, ExpandError> {
    expand(line, '\\', &NoVariables, Keep::Unset).map(|expansion| expansion.words)
}

#[derive(Clone, Copy)]
struct Escapes {
    /// Escape characters stay in the result.
    raw: bool,
    /// The result is a pattern: literal escapes inside quotes are doubled.
    pattern: bool,
}

struct Lexer<'a> {
    input: Vec<char>,
    at: usize,
    depth: usize,
    escape: char,
    variables: &'a dyn Variables,
    raw_quotes: bool,
    quotes_are_text: bool,
    keep_unset: bool,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

struct Words {
    done: Vec<String>,
    open: String,
}

impl Words {
    fn split_at_blanks(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.open.push(c);
            } else if !self.open.is_empty() {
                self.done.push(std::mem::take(&mut self.open));
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.input.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn until(
        &mut self,
        stop: Option<char>,
        escapes: Escapes,
    ) -> Result<(String, Vec<String>), ExpandError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpandError::TooDeep);
        }
        let read = self.text(stop, escapes);
        self.depth -= 1;
        read
    }

    fn text(
        &mut self,
        stop: Option<char>,
        escapes: Escapes,
    ) -> Result<(String, Vec<String>), ExpandError> {
        let left = self.input.len() - self.at;
        let mut result = String::with_capacity(left);
        let mut words = Words {
            done: Vec::new(),
            open: String::with_capacity(left),
        };
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.at += 1;
                return Ok((result, words.finish()));
            }
            if result.len() > LENGTH_BYTES_MAX {
                return Err(ExpandError::TooLong);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    words.split_at_blanks(&value);
                    result.push_str(&value);
                }
                '\'' | '"' if !self.quotes_are_text => {
                    let quoted = if c == '"' {
                        self.double_quote(escapes)?
                    } else {
                        self.single_quote(escapes)?
                    };
                    words.open.push_str(&quoted);
                    result.push_str(&quoted);
                }
                '<' => {
                    let text = self.heredoc_mark();
                    words.open.push_str(&text);
                    result.push_str(&text);
                }
                _ if c == self.escape => {
                    self.at += 1;
                    if escapes.raw {
                        words.open.push(c);
                        result.push(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.open.push(escaped);
                    result.push(escaped);
                }
                _ => {
                    self.at += 1;
                    words.split_at_blanks(c.encode_utf8(&mut [0; 4]));
                    result.push(c);
                }
            }
        }
        match stop {
            Some(missing) => Err(ExpandError::OpenBrace(missing)),
            None => Ok((result, words.finish())),
        }
    }

    /// `<<` and `<<-` keep the blanks behind them, so that `<< EOF` stays one word.
    fn heredoc_mark(&mut self) -> String {
        self.at += 1;
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.at += 1;
        let mut mark = "<<".to_owned();
        if self.peek() == Some('-')
            && matches!(self.input.get(self.at + 1), Some('\t' | '\r' | ' '))
        {
            mark.push('-');
            self.at += 1;
        }
        while let Some(blank @ ('\t' | '\r' | ' ')) = self.peek() {
            mark.push(blank);
            self.at += 1;
        }
        mark
    }

    fn single_quote(&mut self, escapes: Escapes) -> Result<String, ExpandError> {
        let mut result = String::new();
        self.at += 1;
        if self.raw_quotes {
            result.push('\'');
        }
        loop {
            match self.next() {
                None => return Err(ExpandError::OpenQuote("single")),
                Some('\'') => {
                    if self.raw_quotes {
                        result.push('\'');
                    }
                    return Ok(result);
                }
                Some(c) => {
                    if escapes.pattern && c == self.escape {
                        result.push(c);
                    }
                    result.push(c);
                }
            }
        }
    }

    fn double_quote(&mut self, escapes: Escapes) -> Result<String, ExpandError> {
        let mut result = String::new();
        self.at += 1;
        if self.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::OpenQuote("double")),
                Some('"') => {
                    self.at += 1;
                    if self.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(c) if c == self.escape => {
                    self.at += 1;
                    match self.peek() {
                        None => {}
                        Some(escaped)
                            if escaped == '"' || escaped == '$' || escaped == self.escape =>
                        {
                            if escapes.raw {
                                result.push(c);
                            }
                            self.at += 1;
                            result.push(escaped);
                        }
                        Some(_) => {
                            if escapes.raw && (!self.raw_quotes || escapes.pattern) {
                                result.push(c);
                            }
                            result.push(c);
                        }
                    }
                }
                Some(c) => {
                    self.at += 1;
                    result.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                None if self.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err(ExpandError::OpenBrace('}')),
            Some('{' | '}' | ':') => return Err(ExpandError::NoName),
            Some(_) => {}
        }
        let name = self.name();
        let Some(mut operator) = self.next() else {
            return Err(ExpandError::OpenBrace('}'));
        };
        if operator == '}' {
            return Ok(match self.value(&name) {
                None if self.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            });
        }
        if operator == '/' {
            return self.replace(&name);
        }
        let mut written = operator.to_string();
        let empty_is_unset = operator == ':';
        if empty_is_unset {
            operator = self.next().ok_or(ExpandError::OpenBrace('}'))?;
            written.push(operator);
        }
        let pattern = matches!(operator, '#' | '%');
        if !matches!(operator, '+' | '-' | '?' | '#' | '%') || (pattern && empty_is_unset) {
            return Err(ExpandError::Modifier(written));
        }
        let word = self
            .until(
                Some('}'),
                Escapes {
                    raw: pattern,
                    pattern,
                },
            )?
            .0;
        let value = self.value(&name);
        if value.is_none() && self.keep_unset {
            return Ok(format!("${{{name}{written}{word}}}"));
        }
        let present = value
            .clone()
            .filter(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' => Ok(present.unwrap_or(word)),
            '+' => Ok(present.map(|_| word).unwrap_or_default()),
            '?' => present.ok_or_else(|| {
                let lack = if value.is_none() {
                    "is not allowed to be unset"
                } else {
                    "is not allowed to be empty"
                };
                let message = if word.is_empty() {
                    lack.to_owned()
                } else {
                    word
                };
                ExpandError::Required { name, message }
            }),
            _ => {
                let value = value.unwrap_or_default();
                let (glob, reach) = match word.strip_prefix(operator) {
                    Some(rest) => (rest, pattern::Reach::Longest),
                    None => (word.as_str(), pattern::Reach::Shortest),
                };
                let glob = pattern::Pattern::parse(glob)?;
                Ok(if operator == '%' {
                    glob.without_suffix(&value, reach)
                } else {
                    glob.without_prefix(&value, reach)
                })
            }
        }
    }

    /// `${v/p/r}` and `${v//p/r}`, after the first slash.
    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let glob = self
            .until(
                Some('/'),
                Escapes {
                    raw: true,
                    pattern: true,
                },
            )?
            .0;
        let replacement = self
            .until(
                Some('}'),
                Escapes {
                    raw: true,
                    pattern: false,
                },
            )?
            .0;
        let Some(value) = self.value(name) else {
            return Ok(if self.keep_unset {
                format!("${{{name}/{glob}/{replacement}}}")
            } else {
                String::new()
            });
        };
        let pattern = pattern::Pattern::parse(&glob)?;
        Ok(if all {
            pattern.replace_all(&value, &replacement)
        } else {
            pattern.replace_first(&value, &replacement)
        })
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(first) if first.is_numeric() => {
                while let Some(digit) = self.peek().filter(|c| c.is_numeric()) {
                    name.push(digit);
                    self.at += 1;
                }
            }
            Some(special @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                name.push(special);
                self.at += 1;
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
            }
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name).map(str::to_owned);
        let seen = if value.is_some() {
            &mut self.used
        } else {
            &mut self.unset
        };
        seen.insert(name.to_owned());
        value
    }
}
