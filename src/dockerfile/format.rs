//! A Dockerfile laid out evenly: `shmocker fmt`. Only layout is changed, never what is said: keywords in one case, one
//! blank between words, words of later lines indented, no blanks at the ends of lines, no two empty lines in a row.
//!
//! What a shell or a program reads (the command of RUN, JSON, the bodies of heredocs) and comments stay as they are. An
//! instruction that would not read the same afterwards is left as it is.

use super::ast::{Arguments, Dockerfile, Instruction, Word};
use super::line::{Physical, before_continuation, lines};
use super::parse::parse;
use super::problem::{Problem, Severity, Span};
use super::rules::Rule;

/// What later lines of an instruction begin with.
const INDENT: &str = "    ";

/// The same file in an even layout.
///
/// # Errors
/// What is wrong with a file that cannot be built: nobody can say what it means.
pub fn format(text: &str) -> Result<String, Vec<Problem>> {
    let parsed = parse(text);
    let wrong: Vec<Problem> = parsed
        .problems
        .into_iter()
        .filter(|problem| {
            problem.severity == Severity::Error && Rule::named(problem.code).is_none()
        })
        .collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Layout::of(&parsed.dockerfile).file())
}

struct Layout<'a> {
    dockerfile: &'a Dockerfile,
    lines: Vec<Physical<'a>>,
    lower: bool,
    out: String,
}

impl<'a> Layout<'a> {
    fn of(dockerfile: &'a Dockerfile) -> Self {
        let keywords = || {
            dockerfile
                .instructions
                .iter()
                .map(|instruction| instruction.keyword.text.as_str())
        };
        let lower = keywords().filter(|word| *word == word.to_lowercase());
        let upper = keywords().filter(|word| *word == word.to_uppercase());
        Self {
            dockerfile,
            lines: lines(&dockerfile.text),
            lower: lower.count() > upper.count(),
            out: String::new(),
        }
    }

    fn file(mut self) -> String {
        let mut at = 0;
        for instruction in &self.dockerfile.instructions {
            let (first, last) = self.dockerfile.lines(instruction.span);
            let (first, last) = (first as usize - 1, last as usize - 1);
            self.between(at, first);
            self.instruction(instruction, first, last);
            at = last + 1;
        }
        self.between(at, self.lines.len());
        while self.out.ends_with("\n\n") {
            self.out.pop();
        }
        self.out
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// Comments and empty lines.
    fn between(&mut self, from: usize, to: usize) {
        for index in from..to {
            let text = self.lines[index].text.trim_end();
            let is_head = self.out.is_empty();
            if !text.is_empty() {
                // At the head of the file, where a comment begins decides who takes it for a directive.
                let text = if from == 0 { text } else { text.trim_start() };
                self.line(text);
            } else if is_head {
                // An empty line keeps a comment below it from being a directive.
                let below = self.lines[index..to]
                    .iter()
                    .any(|line| !line.text.trim().is_empty());
                if below {
                    self.out.push('\n');
                }
            } else if !self.out.ends_with("\n\n") && self.out != "\n" {
                self.out.push('\n');
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction, first: usize, last: usize) {
        let bodies = match instruction.heredocs.first() {
            Some(heredoc) => heredoc.span.line as usize - 1,
            None => last + 1,
        };
        let mut command: Vec<Physical<'a>> = self.lines[first..bodies].to_vec();
        // After the last line of the command, a continuation goes on to nothing.
        while command.len() > 1 && command.last().is_some_and(is_void) {
            command.pop();
        }
        let even = self.even(instruction, &command);
        let kept = self.kept(instruction, &command);
        let as_written: String = command.iter().flat_map(|line| [line.text, "\n"]).collect();
        let bodies: String = self.lines[bodies..=last]
            .iter()
            .map(|line| line.whole)
            .collect();
        let chosen = even
            .into_iter()
            .chain([kept])
            .find(|text| self.reads_the_same(instruction, text, &as_written, &bodies));
        self.out.push_str(&chosen.unwrap_or(as_written));
        self.out.push_str(&bodies);
        if !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    fn keyword(&self, instruction: &Instruction) -> String {
        self.cased(&instruction.keyword.text)
    }

    fn cased(&self, word: &str) -> String {
        if self.lower {
            word.to_lowercase()
        } else {
            word.to_uppercase()
        }
    }

    /// Its words, each at the line where it is written, with one blank between them; `None` where blanks are content.
    fn even(&self, instruction: &Instruction, command: &[Physical<'a>]) -> Option<String> {
        let escape = self.dockerfile.directives.escape;
        let mut words: Vec<Span> = instruction.flags.iter().map(|flag| flag.span).collect();
        let flags = words.len();
        match &instruction.arguments {
            Arguments::Words(all) => words.extend(all.iter().map(|word| word.span)),
            Arguments::Pairs(pairs) => words.extend(pairs.iter().map(|pair| Span {
                end: pair.value.span.end.max(pair.name.span.end),
                ..pair.name.span
            })),
            // Where it is all on one line, what follows the flags can be taken as one word.
            Arguments::Line(line) if command.len() == 1 => words.push(line.span),
            _ => return None,
        }
        let mut text = self.keyword(instruction);
        let mut next = words.iter().enumerate().peekable();
        for (index, line) in command.iter().enumerate() {
            let end = line.start + line.text.len();
            if index > 0 {
                if line.is_comment() {
                    text.push_str(INDENT);
                    text.push_str(line.text.trim());
                    text.push('\n');
                    continue;
                }
                if line.text.trim().is_empty() {
                    continue;
                }
            }
            let mut is_first = index > 0;
            while let Some((number, word)) = next.next_if(|(_, word)| word.start < end) {
                // A word that goes on in the next line stays as it is written.
                let written = self.dockerfile.text.get(word.start..word.end)?;
                if word.start < line.start || word.end > end {
                    return None;
                }
                text.push_str(if is_first { INDENT } else { " " });
                is_first = false;
                let is_as = number == flags + 1
                    && instruction.keyword.text.eq_ignore_ascii_case("from")
                    && written.eq_ignore_ascii_case("as");
                if is_as {
                    text.push_str(&self.cased(written));
                } else {
                    text.push_str(written);
                }
            }
            if index + 1 < command.len() {
                before_continuation(line.text, escape)?;
                text.push(' ');
                text.push(escape);
            }
            text.push('\n');
        }
        Some(text)
    }

    /// The lines as they are, without what has no meaning: blanks at their ends and before the keyword, empty lines.
    fn kept(&self, instruction: &Instruction, command: &[Physical<'a>]) -> String {
        let escape = self.dockerfile.directives.escape;
        let mut text = String::new();
        for (index, line) in command.iter().enumerate() {
            if index > 0 && line.text.trim().is_empty() {
                continue;
            }
            let mut content = line.text;
            // A keyword that goes on in the next line stays as it is.
            if index == 0
                && let Some(rest) = content.trim_start().strip_prefix(&instruction.keyword.text)
            {
                text.push_str(&self.keyword(instruction));
                content = rest.trim_start();
                if !content.is_empty() {
                    text.push(' ');
                }
            }
            match before_continuation(content, escape) {
                Some(before) if index == 0 && before.trim().is_empty() => text.push(escape),
                Some(before) => {
                    text.push_str(before);
                    text.push(escape);
                }
                None => text.push_str(content.trim_end()),
            }
            text.push('\n');
        }
        text
    }

    /// Whether the new text of a command is made of the same words and means the same.
    fn reads_the_same(
        &self,
        instruction: &Instruction,
        text: &str,
        as_written: &str,
        bodies: &str,
    ) -> bool {
        let escape = self.dockerfile.directives.escape;
        let visible = |text: &str| -> String {
            text.lines()
                .map(|line| before_continuation(line, escape).unwrap_or(line))
                .flat_map(str::chars)
                .filter(|c| !c.is_whitespace())
                .flat_map(char::to_lowercase)
                .collect()
        };
        if visible(text) != visible(as_written) {
            return false;
        }
        let head = format!("# escape={escape}\n");
        let read = parse(&format!("{head}{text}{bodies}")).dockerfile;
        match read.instructions.as_slice() {
            [read] => meaning(read) == meaning(instruction),
            _ => false,
        }
    }
}

/// A comment or an empty line.
fn is_void(line: &Physical<'_>) -> bool {
    line.is_comment() || line.text.trim().is_empty()
}

impl Dockerfile {
    /// What its instructions say, one after another, without their places and their layout.
    #[must_use]
    pub fn says(&self) -> Vec<Vec<String>> {
        self.instructions.iter().map(meaning).collect()
    }
}

fn meaning(instruction: &Instruction) -> Vec<String> {
    let mut said = vec![instruction.keyword.text.to_uppercase()];
    said.extend(instruction.flags.iter().map(|flag| flag.text.clone()));
    say(&instruction.arguments, &mut said);
    if instruction.keyword.text.eq_ignore_ascii_case("from") {
        said.iter_mut()
            .filter(|word| word.eq_ignore_ascii_case("as"))
            .for_each(|word| word.make_ascii_uppercase());
    }
    for heredoc in &instruction.heredocs {
        let flags = (heredoc.expand, heredoc.chomp, heredoc.descriptor);
        said.push(format!("{} {flags:?} {}", heredoc.name, heredoc.body));
    }
    said
}

fn say(arguments: &Arguments, said: &mut Vec<String>) {
    let all =
        |words: &[Word]| -> Vec<String> { words.iter().map(|word| word.text.clone()).collect() };
    match arguments {
        Arguments::None => said.push("none".to_owned()),
        Arguments::Json(words) => said.push(format!("json {:?}", all(words))),
        Arguments::Line(line) => said.push(format!("line {}", line.text)),
        Arguments::Words(words) => said.extend(all(words)),
        Arguments::Pairs(pairs) => said.extend(
            pairs
                .iter()
                .map(|pair| format!("{:?} {} {}", pair.form, pair.name.text, pair.value.text)),
        ),
        // The image keeps it as it is written.
        Arguments::Instruction(trigger) => said.push(trigger.original.clone()),
        Arguments::Typed(kind, command) => {
            said.push(kind.text.clone());
            say(command, said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str) {
        let laid_out = format(from).unwrap();
        assert_eq!(laid_out, to);
        assert_eq!(format(&laid_out).unwrap(), to, "once is enough");
    }

    #[test]
    fn words_have_one_blank_between_them() {
        check(
            "  from   scratch  as  Base   \n\n\n\nCOPY   --chmod=644    a\tb  /dst/  \nEXPOSE 80   81\n\n",
            "FROM scratch AS Base\n\nCOPY --chmod=644 a b /dst/\nEXPOSE 80 81\n",
        );
        check(
            "from a\nrun  x  y \nenv  A=1   B='2  3'\nENV C  d  e\n",
            "from a\nrun x  y\nenv A=1 B='2  3'\nenv C  d  e\n",
        );
    }

    #[test]
    fn later_lines_are_indented_where_blanks_mean_nothing() {
        check(
            "FROM a\nENV A=1 \\\n B=2 \\  \n\n  # why\n\t\tC=3\nRUN a \\\n  && b   \\\n\n && c\n",
            "FROM a\nENV A=1 \\\n    B=2 \\\n    # why\n    C=3\nRUN a \\\n  && b   \\\n && c\n",
        );
    }

    #[test]
    fn what_others_read_stays_as_it_is() {
        for same in [
            "FROM a\nRUN <<EOF\n  x   \n\n\n\ty\nEOF\n",
            "FROM a\nCMD [\"a\",   \"b\"]\n",
            "FROM a\nCOPY <<-'E  F' /x\n\tx  \n\tE  F\nRUN y\n",
            "FROM a\nONBUILD  run   x\n",
            "FROM a\nHEALTHCHECK --retries=3   CMD   x  y\n",
            "FROM a\nRUN a\\\nb\n",
            "FROM a\nENV A=b\\\nc  D=1\n",
            "FROM a\nRUN --  x\n",
        ] {
            let laid_out = format(same).unwrap();
            assert_eq!(format(&laid_out).unwrap(), laid_out);
            let words: Vec<_> = same.split_whitespace().collect();
            assert_eq!(laid_out.split_whitespace().collect::<Vec<_>>(), words);
        }
        check(
            "FROM a\nRUN <<EOF\r\n  x   \r\n\r\n\r\nEOF\r\nRUN  y\r\n",
            "FROM a\nRUN <<EOF\n  x   \r\n\r\n\r\nEOF\r\nRUN y\n",
        );
    }

    #[test]
    fn the_head_of_a_file_says_the_same() {
        check(
            "\u{feff}\n\n# escape=`\n\nFROM a\n",
            "\n# escape=`\n\nFROM a\n",
        );
        check(
            "# escape=`  \n# syntax=docker/dockerfile:1\n\n\nFROM a\nCOPY a `\n b /c\n",
            "# escape=`\n# syntax=docker/dockerfile:1\n\nFROM a\nCOPY a `\n    b /c\n",
        );
    }

    #[test]
    fn a_file_that_means_nothing_is_refused() {
        assert!(format("FROM a\nRUNN x\n").is_err());
        assert!(format("# check=error=true\nFROM a\nMAINTAINER me\n").is_ok());
    }
}
