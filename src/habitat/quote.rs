//! How a value is written so that it is read as itself: by a shell, by the Dockerfile, as JSON.

use super::env::Part;

/// Variables that bash does not let a script set.
pub(super) const READ_ONLY: &[&str] = &[
    "BASHOPTS",
    "BASH_VERSINFO",
    "EUID",
    "PPID",
    "SHELLOPTS",
    "UID",
];

/// As a word of a POSIX shell.
pub(super) fn shell(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "@%+=:,./_-".contains(letter);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// As a list of strings, as JSON has it.
pub(super) fn json(words: &[String]) -> String {
    let words: Vec<String> = words
        .iter()
        .map(|word| serde_json::Value::from(word.as_str()).to_string())
        .collect();
    format!("[{}]", words.join(", "))
}

/// As the rest of a line of a Dockerfile in which variables are expanded.
pub(super) fn word(value: &str) -> String {
    value.replace('\\', r"\\").replace('$', r"\$")
}

fn needs_no_quotes(value: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "@%+=:,./_~-".contains(letter);
    !value.is_empty() && value.chars().all(plain)
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('$', r"\$")
}

/// As the value of a label.
pub(super) fn label(value: &str) -> String {
    format!("\"{}\"", escaped(value))
}

/// As the value of an ENV entry; what the base image knows stays a variable.
pub(super) fn env_value(parts: &[Part]) -> String {
    if let [Part::Text(text)] = parts
        && needs_no_quotes(text)
    {
        return text.clone();
    }
    let inner: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => escaped(text),
            Part::Base(name) => format!("${{{name}}}"),
        })
        .collect();
    format!("\"{inner}\"")
}

/// As source and destination of a COPY: the source is no pattern, and neither has variables.
pub(super) fn copy_paths(source: &str, dest: &str) -> String {
    if needs_no_quotes(source) && needs_no_quotes(dest) {
        return format!("{source} {dest}");
    }
    let mut literal = String::new();
    for letter in source.chars() {
        match letter {
            '*' | '?' | '[' => literal.extend(['[', letter, ']']),
            _ => literal.push(letter),
        }
    }
    json(&[word(&literal), word(dest)])
}

/// As what follows RUN and its flags: a line where that is safe, else a heredoc.
pub(super) fn run(command: &str) -> String {
    let first = command.chars().next();
    let is_line = !command.contains(['\n', '\r'])
        && !command.contains("<<")
        && !command.ends_with('\\')
        && first.is_some_and(|first| first.is_ascii_alphanumeric() || "./_:{(".contains(first));
    if is_line {
        return command.to_owned();
    }
    // A first line that names an interpreter would make the builder run the text as a file.
    let guard = if command.starts_with("#!") { "\n" } else { "" };
    let end = end_of_text("COMMAND", command);
    format!("<<'{end}'\n{guard}{command}\n{end}")
}

/// A word that ends a heredoc of this text, since no line of the text is the same.
pub(super) fn end_of_text(word: &str, text: &str) -> String {
    let names =
        std::iter::once(word.to_owned()).chain((1..).map(|number| format!("{word}_{number}")));
    names
        .into_iter()
        .find(|name| text.lines().all(|line| line != name))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_value_is_read_as_more_than_text() {
        assert_eq!(shell("plain/word-1"), "plain/word-1");
        assert_eq!(shell("it's $(id)"), r"'it'\''s $(id)'");
        assert_eq!(env_value(&[Part::Text("a".into())]), "a");
        assert_eq!(
            env_value(&[Part::Text(r#"$(id) "\"#.into())]),
            r#""\$(id) \"\\""#
        );
        assert_eq!(
            env_value(&[Part::Base("PATH".into()), Part::Text(":/opt".into())]),
            r#""${PATH}:/opt""#
        );
        assert_eq!(copy_paths("a", "/b/"), "a /b/");
        assert_eq!(copy_paths("a [1]", "/b $c"), r#"["a [[]1]", "/b \\$c"]"#);
    }

    #[test]
    fn a_command_is_a_line_where_the_dockerfile_would_not_misread_it() {
        assert_eq!(run("make -j2"), "make -j2");
        assert_eq!(run("-x"), "<<'COMMAND'\n-x\nCOMMAND");
        assert_eq!(run("a\nCOMMAND"), "<<'COMMAND_1'\na\nCOMMAND\nCOMMAND_1");
        assert_eq!(
            run("#!/bin/sh\ntrue"),
            "<<'COMMAND'\n\n#!/bin/sh\ntrue\nCOMMAND"
        );
    }
}
