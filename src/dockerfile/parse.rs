//! Text to [`Dockerfile`]: lines, directives, comments, continuations and heredocs. What an instruction's arguments
//! mean is `instruction`'s business. Never stops at the first problem.

use super::arguments;
use super::ast::{Arguments, Directives, Dockerfile, Extras, Heredoc, Instruction, Kind, Word};
use super::extras;
use super::heredoc;
use super::instruction;
use super::line::{Logical, Part, Physical, before_continuation, lines};
use super::problem::{Problem, Span};
use super::split;

/// The longest line, in bytes, as BuildKit has it.
const LINE_BYTES_MAX: usize = 65_535;

/// A Dockerfile, as far as it could be understood, and everything that is wrong with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// What was understood. Instructions that were not are in it as [`Kind::Invalid`].
    pub dockerfile: Dockerfile,
    /// Errors and warnings, in the order of the file. With an error among them the file cannot be built.
    pub problems: Vec<Problem>,
}

/// Reads a Dockerfile.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    parse_with_checks(text, None)
}

/// The same, where `checks` says which warnings are given, in place of the file's own `# check=`.
#[must_use]
pub fn parse_with_checks(text: &str, checks: Option<&str>) -> Parsed {
    let mut parser = Parser {
        lines: lines(text),
        at: 0,
        directives: Directives {
            syntax: None,
            check: None,
            escape: '\\',
        },
        directives_end: false,
        comments: Vec::new(),
        problems: Vec::new(),
    };
    let mut instructions = Vec::new();
    parser.other_syntax_directives(text);
    while let Some(instruction) = parser.next_instruction() {
        instructions.push(instruction);
    }
    if instructions.is_empty() && parser.problems.is_empty() {
        let message = if text.is_empty() {
            "the Dockerfile is empty"
        } else {
            "the Dockerfile has no instructions"
        };
        let problem = Problem::error(
            "dockerfile::empty",
            message,
            Span {
                start: 0,
                end: 0,
                line: 1,
            },
        );
        parser
            .problems
            .push(problem.help("begin with a base: `FROM scratch`, or the name of an image"));
    }
    parser
        .problems
        .sort_by_key(|problem| problem.span.map(|span| span.start));
    let dockerfile = Dockerfile {
        text: text.to_owned(),
        directives: parser.directives,
        instructions,
    };
    let problems = dockerfile.judged(parser.problems, checks);
    Parsed {
        dockerfile,
        problems,
    }
}

struct Parser<'a> {
    lines: Vec<Physical<'a>>,
    at: usize,
    directives: Directives,
    directives_end: bool,
    comments: Vec<Word>,
    problems: Vec<Problem>,
}

impl<'a> Parser<'a> {
    fn next_line(&mut self) -> Option<Physical<'a>> {
        let line = *self.lines.get(self.at)?;
        self.at += 1;
        if line.text.len() > LINE_BYTES_MAX {
            let problem = Problem::error(
                "dockerfile::long_line",
                format!("line {} is longer than {LINE_BYTES_MAX} bytes", line.number),
                Span {
                    end: line.start + 1,
                    ..line.span()
                },
            );
            self.problems
                .push(problem.help(
                    "continue the line with the escape character, or put the text in a file",
                ));
        }
        Some(line)
    }

    fn next_instruction(&mut self) -> Option<Instruction> {
        loop {
            let first = self.next_line()?;
            if first.is_comment() {
                self.comment(first);
                continue;
            }
            self.directives_end = true;
            let text = first.text.trim_start();
            if text.is_empty() {
                continue;
            }
            let logical = self.joined(first);
            if logical.text.trim().is_empty() {
                continue;
            }
            return Some(self.instruction(&logical));
        }
    }

    /// A line and those that continue it.
    fn joined(&mut self, first: Physical<'a>) -> Logical {
        let escape = self.directives.escape;
        let mut logical = Logical::default();
        let text = first.text.trim_start();
        let mut continued = self.take(&mut logical, text, first, escape);
        let mut empty: Option<Span> = None;
        while continued {
            let Some(line) = self.next_line() else { break };
            if line.is_comment() {
                continue;
            }
            if line.text.trim_start().is_empty() {
                empty.get_or_insert(line.span());
                continue;
            }
            continued = self.take(&mut logical, line.text, line, escape);
        }
        if let Some(span) = empty {
            self.problems.push(
                Problem::warning("NoEmptyContinuation", "Empty continuation line", span)
                    .help("take the empty line away, or make it a comment"),
            );
        }
        logical
    }

    fn take(
        &mut self,
        logical: &mut Logical,
        text: &str,
        line: Physical<'_>,
        escape: char,
    ) -> bool {
        let from = line.start + line.text.len() - text.len();
        let before = before_continuation(text, escape);
        logical.push(before.unwrap_or(text), from, line.number);
        before.is_some()
    }

    fn instruction(&mut self, logical: &Logical) -> Instruction {
        let comments = std::mem::take(&mut self.comments);
        let mut instruction = split_instruction(
            logical.all().trim(),
            self.directives.escape,
            &mut self.problems,
        );
        instruction.comments = comments;
        if can_have_heredocs(&instruction) && logical.text.contains("<<") {
            self.heredocs(&mut instruction);
        }
        instruction.extras = self.extras(&instruction);
        instruction::give_meaning(&mut instruction, self.directives.escape, &mut self.problems);
        instruction
    }

    fn heredocs(&mut self, instruction: &mut Instruction) {
        let announced = match heredoc::announced(&instruction.original) {
            Ok(announced) => announced,
            Err(error) => {
                self.problems.push(Problem::error(
                    "dockerfile::heredoc",
                    error.to_string(),
                    instruction.span,
                ));
                return;
            }
        };
        for mut heredoc in announced {
            let ended = self.body(&mut heredoc);
            instruction.span.end = instruction.span.end.max(heredoc.span.end);
            if let Some(end) = ended {
                instruction.span.end = end;
            } else {
                let message = format!("the heredoc `{}` is not ended", heredoc.name);
                self.problems.push(
                    Problem::error(
                        "dockerfile::open_heredoc",
                        message,
                        instruction.keyword.span,
                    )
                    .label("begins here")
                    .help(format!(
                        "end it with a line that is `{}` and nothing else",
                        heredoc.name
                    )),
                );
            }
            instruction.heredocs.push(heredoc);
        }
    }

    /// Reads a heredoc's body; gives the end of the line that ends it.
    fn body(&mut self, heredoc: &mut Heredoc) -> Option<usize> {
        let start = self.lines.get(self.at).map_or(0, |line| line.start);
        let number = self.lines.get(self.at).map_or(0, |line| line.number);
        heredoc.span = Span {
            start,
            end: start,
            line: number,
        };
        while let Some(line) = self.next_line() {
            let text = if heredoc.chomp {
                line.text.trim_start_matches('\t')
            } else {
                line.text
            };
            if text == heredoc.name {
                return Some(line.span().end);
            }
            heredoc.body.push_str(line.whole);
            heredoc.span.end = line.start + line.whole.len();
        }
        None
    }

    fn comment(&mut self, line: Physical<'a>) {
        let text = line.text.trim_start();
        let body = text[1..].trim();
        let start = line.start + line.text.len() - text[1..].trim_start().len();
        let span = Span {
            start,
            end: start + body.len(),
            line: line.number,
        };
        if !self.directives_end {
            match self.directive(text, span) {
                true => return,
                false => self.directives_end = true,
            }
        }
        if body.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(Word {
                text: body.to_owned(),
                span,
            });
        }
    }

    /// Takes a comment at the head of the file as a directive, if it is one.
    fn directive(&mut self, comment: &str, span: Span) -> bool {
        // A script's first line is no directive and does not end them for `syntax` and `check`.
        if comment.starts_with("#!") && span.line == 1 {
            self.directives_after_shebang();
            return false;
        }
        let Some((name, value)) = directive_parts(&comment[1..]) else {
            return false;
        };
        let value_start = span.end - value.len();
        let value = Word {
            text: value.to_owned(),
            span: Span {
                start: value_start,
                ..span
            },
        };
        let seen = match name.as_str() {
            "syntax" => self.directives.syntax.replace(value).is_some(),
            "check" => self.directives.check.replace(value).is_some(),
            "escape" => {
                match value.text.as_str() {
                    "\\" => self.directives.escape = '\\',
                    "`" => self.directives.escape = '`',
                    other => {
                        let message = format!("`{other}` cannot be the escape character");
                        let problem = Problem::error("dockerfile::escape", message, value.span);
                        self.problems
                            .push(problem.help("it is either `\\` or a backtick"));
                    }
                }
                self.escape_seen(span)
            }
            _ => return false,
        };
        if seen {
            let message = format!("the directive `{name}` is given twice");
            self.problems
                .push(Problem::error("dockerfile::directive_twice", message, span));
        }
        true
    }

    /// Whether `escape` was given on a line before.
    fn escape_seen(&self, span: Span) -> bool {
        self.lines
            .iter()
            .take_while(|line| line.number < span.line)
            .any(|line| {
                let comment = line.text.trim_start().strip_prefix('#');
                comment
                    .and_then(directive_parts)
                    .is_some_and(|(name, _)| name == "escape")
            })
    }

    fn directives_after_shebang(&mut self) {
        for line in self.lines.clone().iter().skip(1) {
            let Some((name, value)) = line.text.strip_prefix('#').and_then(directive_parts) else {
                return;
            };
            let end = line.start + line.text.trim_end().len();
            let span = Span {
                start: end - value.len(),
                end,
                line: line.number,
            };
            let place = match name.as_str() {
                "syntax" => &mut self.directives.syntax,
                "check" => &mut self.directives.check,
                _ => continue,
            };
            place.get_or_insert(Word {
                text: value.to_owned(),
                span,
            });
        }
    }

    /// `//syntax=…` and `{"syntax": "…"}`: how files that are no Dockerfiles name their frontend.
    fn other_syntax_directives(&mut self, text: &str) {
        let first = self
            .lines
            .first()
            .is_some_and(|line| line.text.starts_with("#!"));
        for line in self.lines.iter().skip(usize::from(first)) {
            let Some((name, value)) = line.text.strip_prefix("//").and_then(directive_parts) else {
                break;
            };
            let end = line.start + line.text.trim_end().len();
            if name == "syntax" {
                let span = Span {
                    start: end - value.len(),
                    end,
                    line: line.number,
                };
                self.directives.syntax = Some(Word {
                    text: value.to_owned(),
                    span,
                });
            }
        }
        if text.starts_with('{')
            && let Ok(object) =
                serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
            && let Some(syntax) = object.get("syntax").and_then(serde_json::Value::as_str)
        {
            let span = Span {
                start: 0,
                end: 1,
                line: 1,
            };
            self.directives.syntax = Some(Word {
                text: syntax.to_owned(),
                span,
            });
        }
        if let Some(syntax) = &self.directives.syntax {
            let message = format!(
                "this is a file for the frontend `{}`, not a Dockerfile",
                syntax.text
            );
            self.problems.push(Problem::error(
                "dockerfile::other_syntax",
                message,
                syntax.span,
            ));
        }
    }

    /// What the `# shmocker:` comments say that stand directly above an instruction.
    fn extras(&mut self, instruction: &Instruction) -> Extras {
        let mut extras = Extras::default();
        let mut line = instruction.span.line;
        for comment in instruction.comments.iter().rev() {
            if comment.span.line + 1 != line {
                break;
            }
            line = comment.span.line;
            if let Some(said) = comment.text.strip_prefix("shmocker:") {
                let start = comment.span.end - said.len();
                extras::read(
                    said,
                    Span {
                        start,
                        ..comment.span
                    },
                    &mut extras,
                    &mut self.problems,
                );
            }
        }
        if extras != Extras::default() && !instruction.keyword.text.eq_ignore_ascii_case("run") {
            let message = format!(
                "`# shmocker:` has no meaning above {}",
                instruction.keyword.text
            );
            let problem = Problem::error(
                "dockerfile::extras_place",
                message,
                instruction.keyword.span,
            );
            self.problems
                .push(problem.help("put it directly above the RUN that it is about"));
        }
        extras
    }
}

/// `name = value`; the name in lower case.
fn directive_parts(comment: &str) -> Option<(String, &str)> {
    let (name, value) = comment.trim().split_once('=')?;
    let name = name.trim_end();
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric());
    let value = value.trim();
    (plain && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

/// Splits an instruction into keyword, flags and arguments.
pub(super) fn split_instruction(
    part: Part<'_>,
    escape: char,
    problems: &mut Vec<Problem>,
) -> Instruction {
    let (keyword, rest) = split::first_word(part);
    let (flags, rest) = split::flags(rest, escape);
    let arguments = arguments::split(keyword.text(), rest.trim(), escape, problems);
    Instruction {
        span: part.span(),
        keyword: keyword.word(),
        original: part.text().to_owned(),
        flags,
        arguments,
        heredocs: Vec::new(),
        comments: Vec::new(),
        extras: Extras::default(),
        kind: Kind::Invalid,
    }
}

fn can_have_heredocs(instruction: &Instruction) -> bool {
    let instruction = match &instruction.arguments {
        Arguments::Instruction(trigger) => trigger,
        _ => instruction,
    };
    let takes_them = ["ADD", "COPY", "RUN"]
        .iter()
        .any(|name| instruction.keyword.text.eq_ignore_ascii_case(name));
    takes_them && !matches!(instruction.arguments, Arguments::Json(_))
}
