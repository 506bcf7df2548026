//! How the arguments of each instruction fall apart, before they mean anything.

use super::ast::{Arguments, Pair, PairForm, Word};
use super::line::Part;
use super::parse::split_instruction;
use super::problem::Problem;
use super::split::{self, Json};

/// Splits the arguments as the instruction's form asks.
pub(super) fn split(
    keyword: &str,
    rest: Part<'_>,
    escape: char,
    problems: &mut Vec<Problem>,
) -> Arguments {
    match keyword.to_ascii_uppercase().as_str() {
        "ADD" | "COPY" | "VOLUME" => {
            json_or(rest, problems, |rest| Arguments::Words(split::words(rest)))
        }
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => {
            json_or(rest, problems, |rest| Arguments::Line(rest.word()))
        }
        "ENV" | "LABEL" => pairs(keyword, rest, escape, problems),
        "ARG" => Arguments::Words(
            split::quoted_words(rest, escape)
                .into_iter()
                .map(|(word, _)| word)
                .collect(),
        ),
        "EXPOSE" | "FROM" => Arguments::Words(split::words(rest)),
        "HEALTHCHECK" if !rest.is_empty() => {
            let (kind, rest) = split::first_word(rest);
            let command = json_or(rest, problems, |rest| Arguments::Line(rest.word()));
            Arguments::Typed(kind.word(), Box::new(command))
        }
        "ONBUILD" if !rest.is_empty() => {
            Arguments::Instruction(Box::new(split_instruction(rest, escape, problems)))
        }
        _ if rest.is_empty() => Arguments::None,
        _ => Arguments::Line(rest.word()),
    }
}

fn json_or(
    rest: Part<'_>,
    problems: &mut Vec<Problem>,
    other: impl Fn(Part<'_>) -> Arguments,
) -> Arguments {
    if rest.is_empty() {
        return Arguments::None;
    }
    match split::json(rest) {
        Json::Strings(words) => Arguments::Json(words),
        Json::No => other(rest),
        Json::NotOnlyStrings => {
            problems.push(
                Problem::error(
                    "dockerfile::json_strings",
                    "an array of arguments holds strings only",
                    rest.span(),
                )
                .help("put every argument in double quotes"),
            );
            Arguments::Json(Vec::new())
        }
    }
}

fn pairs(keyword: &str, rest: Part<'_>, escape: char, problems: &mut Vec<Problem>) -> Arguments {
    let words = split::quoted_words(rest, escape);
    let Some((first, _)) = words.first() else {
        return Arguments::None;
    };
    let help = format!("write `{keyword} NAME=value`");
    if !first.text.contains('=') {
        let (name, value) = split::first_word(rest);
        if value.is_empty() {
            let message = format!("{keyword} has a name and no value");
            problems.push(Problem::error("dockerfile::no_value", message, name.span()).help(help));
            return Arguments::Pairs(Vec::new());
        }
        return Arguments::Pairs(vec![Pair {
            name: name.word(),
            value: value.word(),
            form: PairForm::Blank,
        }]);
    }
    let mut pairs = Vec::new();
    for (word, written) in words {
        match word.text.split_once('=') {
            Some((name, value)) => {
                // A line may go on within a word, so its places are those of the parts as they are written.
                let end = name.len();
                let start = (end + 1).min(written.text().len());
                let name = Word {
                    text: name.to_owned(),
                    span: written.slice(0..end).span(),
                };
                let value = Word {
                    text: value.to_owned(),
                    span: written.slice(start..written.text().len()).span(),
                };
                pairs.push(Pair {
                    name,
                    value,
                    form: PairForm::Equals,
                });
            }
            None => {
                let message = format!("`{}` has no `=`", word.text);
                problems.push(
                    Problem::error("dockerfile::no_value", message, word.span).help(help.clone()),
                );
            }
        }
    }
    Arguments::Pairs(pairs)
}
