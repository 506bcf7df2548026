//! Tests against the fixtures that lie beside the project (BuildKit's own tables and files); a printed skip where they
//! are not there. Each test collects all rows that differ, so that one run shows them all.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::expand::{Keep, expand};
use super::glob::Glob;
use super::ignore::IgnoreFile;
use super::pattern::Pattern;
use super::*;

/// The text of a fixture; `None`, and a printed reason, without fixtures.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test asks where its data is")]
pub(crate) fn fixture(path: &str) -> Option<String> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let root = std::env::var_os("SHMOCKER_FIXTURES").map_or_else(beside, PathBuf::from);
    if !root.is_dir() {
        println!(
            "skip: no fixtures at {} (SHMOCKER_FIXTURES)",
            root.display()
        );
        return None;
    }
    Some(std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The names in a folder of fixtures.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test asks where its data is")]
pub(crate) fn folder(path: &str) -> Vec<String> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let root = std::env::var_os("SHMOCKER_FIXTURES").map_or_else(beside, PathBuf::from);
    let entries = std::fs::read_dir(root.join(path))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn json(path: &str) -> Option<Value> {
    fixture(path).map(|text| serde_json::from_str(&text).unwrap())
}

/// Fails with every row that differs; prints how many there were.
pub(crate) fn agree(what: &str, rows: usize, differences: &[String]) {
    println!("{what}: {} of {rows} agree", rows - differences.len());
    assert!(
        differences.is_empty(),
        "{what}: {} differ\n{}",
        differences.len(),
        differences.join("\n")
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|item| text(item).to_owned())
        .collect()
}

fn variables(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(name, value)| (name.clone(), text(value).to_owned()))
        .collect()
}

/// As Go's `strconv.Quote`, as far as the fixtures need it.
fn quote(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\r' => "\\r".to_owned(),
            '\t' => "\\t".to_owned(),
            '\u{8}' => "\\b".to_owned(),
            '\u{c}' => "\\f".to_owned(),
            '\0' => "\\x00".to_owned(),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

fn dump(instruction: &Instruction) -> String {
    let mut out = instruction.keyword.text.to_lowercase();
    if !instruction.flags.is_empty() {
        let flags: Vec<String> = instruction
            .flags
            .iter()
            .map(|flag| quote(&flag.text))
            .collect();
        out.push_str(&format!(" [{}]", flags.join(" ")));
    }
    dump_arguments(&instruction.arguments, &mut out);
    out
}

fn dump_arguments(arguments: &Arguments, out: &mut String) {
    let mut word = |text: &str| out.push_str(&format!(" {}", quote(text)));
    match arguments {
        Arguments::None => {}
        Arguments::Line(line) => word(&line.text),
        Arguments::Json(words) | Arguments::Words(words) => {
            words.iter().for_each(|item| word(&item.text))
        }
        Arguments::Pairs(pairs) => {
            for pair in pairs {
                word(&pair.name.text);
                word(&pair.value.text);
                word(if pair.form == PairForm::Equals {
                    "="
                } else {
                    ""
                });
            }
        }
        Arguments::Instruction(inner) => out.push_str(&format!(" ({})", dump(inner))),
        Arguments::Typed(kind, rest) => {
            word(&kind.text);
            dump_arguments(rest, out);
        }
    }
}

#[test]
fn files_have_the_trees_that_buildkit_gives_them() {
    if fixture("README.md").is_none() {
        return;
    }
    let names = folder("buildkit-parser/testfiles");
    let mut differences = Vec::new();
    for name in &names {
        let file = fixture(&format!("buildkit-parser/testfiles/{name}/Dockerfile")).unwrap();
        let expected = fixture(&format!("buildkit-parser/testfiles/{name}/result")).unwrap();
        let parsed = parse(&file);
        if parsed.dockerfile.to_string() != file {
            differences.push(format!("{name}: not printed as it was read"));
        }
        let lines = parsed
            .dockerfile
            .instructions
            .iter()
            .map(|item| format!("({})", dump(item)));
        let found = lines.collect::<Vec<_>>().join("\n");
        if found.trim() != expected.trim() {
            for (found, expected) in found.lines().zip(expected.lines()).filter(|(a, b)| a != b) {
                differences.push(format!(
                    "{name}:\n  found    {found}\n  expected {expected}"
                ));
            }
        }
    }
    agree("buildkit-parser/testfiles", names.len(), &differences);
}

#[test]
fn wrong_files_are_refused() {
    if fixture("README.md").is_none() {
        return;
    }
    let names = folder("buildkit-parser/testfiles-negative");
    let wrong = |name: &&String| {
        let file = fixture(&format!(
            "buildkit-parser/testfiles-negative/{name}/Dockerfile"
        ))
        .unwrap();
        parse(&file)
            .problems
            .iter()
            .all(|problem| problem.severity != Severity::Error)
    };
    let differences: Vec<String> = names.iter().filter(wrong).cloned().collect();
    agree(
        "buildkit-parser/testfiles-negative",
        names.len(),
        &differences,
    );
}

#[test]
fn directives_are_found() {
    let Some(rows) = json("buildkit-parser/directives.json") else {
        return;
    };
    let rows = rows.as_array().unwrap();
    let mut differences = Vec::new();
    for row in rows {
        let input = text(&row["input"]);
        let found = parse(input).dockerfile.directives;
        for (key, word) in [("syntax", &found.syntax), ("check", &found.check)] {
            let Some(expected) = row.get(key) else {
                continue;
            };
            let first = word
                .as_ref()
                .map(|word| word.text.split(' ').next().unwrap_or_default());
            let line = word.as_ref().map(|word| u64::from(word.span.line));
            let whole = word.as_ref().map(|word| word.text.as_str());
            let line_differs = row
                .get("line")
                .is_some_and(|expected| expected.as_u64() != line);
            let whole_differs = row
                .get("cmdline")
                .is_some_and(|expected| expected.as_str() != whole);
            if first != expected.as_str() || line_differs || whole_differs {
                differences.push(format!("{input:?}: {key} {word:?}"));
            }
        }
    }
    agree("buildkit-parser/directives.json", rows.len(), &differences);
}

fn heredoc_row(heredoc: &Heredoc) -> Value {
    let mut row = serde_json::json!({"Content": heredoc.body, "Expand": heredoc.expand, "Name": heredoc.name});
    if heredoc.chomp {
        row["Chomp"] = true.into();
    }
    if heredoc.descriptor != 0 {
        row["FileDescriptor"] = heredoc.descriptor.into();
    }
    row
}

/// Leading tabs of a chomped body are the reader's business here as in BuildKit.
#[test]
fn heredocs_are_taken_out() {
    let Some(file) = json("buildkit-parser/heredoc-extract.json") else {
        return;
    };
    let parsed = parse(text(&file["dockerfile"]));
    let expected = file["expected"].as_array().unwrap();
    let mut differences = Vec::new();
    for (instruction, expected) in parsed.dockerfile.instructions.iter().skip(1).zip(expected) {
        let found: Vec<Value> = instruction.heredocs.iter().map(heredoc_row).collect();
        let expected = expected.as_array().cloned().unwrap_or_default();
        let same = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(a, b)| {
                ["Content", "Expand", "Name", "Chomp", "FileDescriptor"]
                    .iter()
                    .all(|key| a.get(key) == b.get(key))
            });
        if !same {
            differences.push(format!(
                "{}: {found:?}, expected {expected:?}",
                instruction.original
            ));
        }
    }
    agree(
        "buildkit-parser/heredoc-extract.json",
        expected.len(),
        &differences,
    );
}

#[test]
fn odds_and_ends_of_the_parser_agree() {
    let Some(file) = json("buildkit-parser/misc.json") else {
        return;
    };
    let mut differences = Vec::new();
    for row in file["warnings"].as_array().unwrap() {
        let problems = parse(text(&row["dockerfile"])).problems;
        let empty = problems
            .iter()
            .filter(|problem| problem.code == "NoEmptyContinuation")
            .count();
        if row["count"] != empty {
            differences.push(format!("{empty} warnings"));
        }
    }
    for (length, fits) in [(65_535, true), (65_536, false)] {
        let line = format!("FROM scratch\nRUN {}\n", "x".repeat(length - 4));
        let problems = parse(&line).problems;
        if problems.is_empty() != fits {
            differences.push(format!("a line of {length}: {problems:?}"));
        }
    }
    let lines = fixture("buildkit-parser/testfile-line/Dockerfile").unwrap();
    let found: Vec<(u32, u32)> = parse(&lines)
        .dockerfile
        .instructions
        .iter()
        .map(|item| {
            (
                item.span.line,
                lines[..item.span.end].matches('\n').count() as u32 + 1,
            )
        })
        .collect();
    if found[0] != (5, 5) || found[1] != (11, 12) || found[2].0 != 17 {
        differences.push(format!("{found:?}"));
    }
    agree("buildkit-parser/misc.json", 4, &differences);
}

#[test]
fn words_expand_as_in_buildkit() {
    let Some(file) = json("buildkit-shell/expand.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut rows = 0;
    for row in ["process_word", "mandatory", "platform"]
        .iter()
        .flat_map(|name| file[name].as_array().unwrap())
    {
        rows += 1;
        let input = text(&row["input"]);
        let found = expand(input, '\\', &variables(&row["env"]), Keep::Nothing);
        let same = match &found {
            Err(error) => {
                let message = row
                    .get("error_contains")
                    .is_some_and(|part| error.to_string().contains(text(part)));
                message || row["error"] == true
            }
            Ok(found) => {
                let names = |names: &std::collections::BTreeSet<String>| {
                    names.iter().cloned().collect::<Vec<_>>()
                };
                row["error"] != true
                    && found.text == text(&row["expected"])
                    && row
                        .get("matched")
                        .is_none_or(|expected| names(&found.used) == texts(expected))
                    && row
                        .get("unmatched")
                        .is_none_or(|expected| names(&found.unset) == texts(expected))
            }
        };
        if !same {
            differences.push(format!("{input}: {found:?}, expected {row}"));
        }
    }
    for pattern in texts(&file["pattern_invalid"]) {
        rows += 1;
        if Pattern::parse(&pattern).is_ok() {
            differences.push(format!("{pattern} is no pattern"));
        }
    }
    agree("buildkit-shell/expand.json", rows, &differences);
}

#[test]
fn the_table_of_variables_agrees() {
    let (Some(table), Some(file)) = (
        fixture("buildkit-shell/envVarTest"),
        json("buildkit-shell/expand.json"),
    ) else {
        return;
    };
    let env = variables(&file["env_for_envVarTest"]);
    let mut differences = Vec::new();
    let mut rows = 0;
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with('W'))
    {
        let mut parts = line.split('|');
        let (Some(_), Some(word), Some(expected)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (word, expected) = (word.trim(), expected.trim());
        rows += 1;
        let found = expand(word, '\\', &env, Keep::Nothing).map(|found| found.text);
        let same = if expected == "error" {
            found.is_err()
        } else {
            found.as_deref() == Ok(expected)
        };
        if !same {
            differences.push(format!("{word}: {found:?}, expected {expected}"));
        }
    }
    agree("buildkit-shell/envVarTest", rows, &differences);
}

#[test]
fn the_table_of_words_agrees() {
    let Some(table) = fixture("buildkit-shell/wordsTest") else {
        return;
    };
    let mut env = BTreeMap::new();
    let mut differences = Vec::new();
    let mut rows = 0;
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(setting) = line.strip_prefix("ENV ") {
            let (name, value) = setting.split_once('=').unwrap();
            env.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (word, expected) = line.split_once('|').unwrap();
        let (word, expected) = (word.trim(), expected.trim_start());
        rows += 1;
        let found = expand(word, '\\', &env, Keep::Nothing).map(|found| found.words);
        let wanted: Vec<String> = expected.split(',').map(str::to_owned).collect();
        let same = if expected == "error" {
            found.is_err()
        } else {
            found.as_ref() == Ok(&wanted)
        };
        if !same {
            differences.push(format!("{word}: {found:?}, expected {expected}"));
        }
    }
    agree("buildkit-shell/wordsTest", rows, &differences);
}

#[test]
fn ignore_files_agree_with_moby() {
    let Some(file) = json("dockerignore/patternmatcher.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut rows = 0;
    let rows_of = |name: &str| file[name].as_array().unwrap().clone();
    let mut check = |what: &str, patterns: Vec<String>, path: &str, expected: bool| {
        rows += 1;
        let found = IgnoreFile::of(patterns.iter().map(String::as_str))
            .map(|ignore| ignore.decide(path).excluded);
        if found != Ok(expected) {
            differences.push(format!(
                "{what} {patterns:?} {path}: {found:?}, expected {expected}"
            ));
        }
    };
    for row in rows_of("matches") {
        // "inexact" and "exact" are both a match; only "fail" and false are none.
        let expected = row["pass"] == true || row["pass"] == "exact" || row["pass"] == "inexact";
        check(
            "matches",
            vec![text(&row["pattern"]).to_owned()],
            text(&row["text"]),
            expected,
        );
    }
    for row in rows_of("multi") {
        check(
            "multi",
            texts(&row["patterns"]),
            text(&row["text"]),
            row["pass"] == true,
        );
    }
    for row in rows_of("exclusions") {
        check(
            "exclusions",
            texts(&row["patterns"]),
            text(&row["text"]),
            row["match"] == true,
        );
    }
    for row in rows_of("glob") {
        let (pattern, path) = (text(&row["pattern"]), text(&row["text"]));
        if row["bad_pattern"] == false {
            check("glob", vec![pattern.to_owned()], path, row["match"] == true);
        }
    }
    for row in rows_of("glob")
        .iter()
        .filter(|row| row["bad_pattern"] == true)
    {
        rows += 1;
        let pattern = text(&row["pattern"]);
        if Glob::parse(pattern).is_ok() || IgnoreFile::of([pattern]).is_ok() {
            differences.push(format!("glob {pattern} is accepted"));
        }
    }
    for row in rows_of("errors") {
        rows += 1;
        if IgnoreFile::of(texts(&row["patterns"]).iter().map(String::as_str)).is_ok() {
            differences.push(format!("{row} is accepted"));
        }
    }
    for row in rows_of("cleaning") {
        rows += 1;
        let ignore = IgnoreFile::of(texts(&row["patterns"]).iter().map(String::as_str)).unwrap();
        let kept = row
            .get("kept")
            .is_none_or(|kept| *kept == ignore.patterns().len());
        if !kept
            || row
                .get("has_exclusions")
                .is_some_and(|expected| *expected != ignore.has_exceptions())
        {
            differences.push(format!("{row}: {ignore:?}"));
        }
    }
    // The reader of the file keeps a lone `!`, which is then refused; here it is refused at once.
    rows += 1;
    let input = text(&file["ignorefile"]["input"]).replace("\n!\n! ", "\n");
    let expected: Vec<String> = texts(&file["ignorefile"]["expected"])
        .into_iter()
        .filter(|pattern| pattern != "!")
        .collect();
    let found = IgnoreFile::parse(&format!("\u{feff}{input}")).map(|ignore| ignore.patterns());
    if found.as_ref() != Ok(&expected) {
        differences.push(format!("{found:?}"));
    }
    agree("dockerignore/patternmatcher.json", rows, &differences);
}

#[test]
fn tables_of_the_parser_agree() {
    let Some(file) = json("tables/frontend-dockerfile-parser.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut rows = 0;
    for source in texts(&file["json_test.go//invalidJSONArraysOfStrings"]) {
        rows += 1;
        let parsed = parse(&format!("FROM scratch\nRUN {source}\n"));
        if parsed
            .problems
            .iter()
            .all(|problem| problem.code != "dockerfile::json_strings")
        {
            differences.push(format!("{source} is accepted"));
        }
    }
    for (source, expected) in file["json_test.go//validJSONArraysOfStrings"]
        .as_object()
        .unwrap()
    {
        rows += 1;
        let parsed = parse(&format!("CMD {source}\n"));
        let found = match &parsed.dockerfile.instructions[0].arguments {
            Arguments::Json(words) => Some(
                words
                    .iter()
                    .map(|word| word.text.clone())
                    .collect::<Vec<_>>(),
            ),
            _ => None,
        };
        if found != Some(texts(expected)) {
            differences.push(format!("{source}: {found:?}"));
        }
    }
    for row in file["parser_heredoc_test.go/TestHeredocsFromLine/srcs"]
        .as_array()
        .unwrap()
    {
        rows += 1;
        let found: Vec<String> = heredoc::announced(text(&row["line"]))
            .unwrap()
            .into_iter()
            .map(|heredoc| heredoc.name)
            .collect();
        if found != texts(&row["heredocNames"]) {
            differences.push(format!("{row}: {found:?}"));
        }
    }
    for (name, right) in [
        ("validHeredocs", 1),
        ("notHeredocs", 0),
        ("invalidHeredocs", -1),
    ] {
        for source in texts(&file[format!("parser_heredoc_test.go/TestParseHeredocHelpers/{name}")])
        {
            rows += 1;
            let found = heredoc::mark(&source).map_or(-1, |found| i32::from(found.is_some()));
            if found != right {
                differences.push(format!("{name} {source}: {found}"));
            }
        }
    }
    for row in file["parser_test.go/TestParseWords/tests"]
        .as_array()
        .unwrap()
    {
        rows += 1;
        let source = texts(&row["input"]).concat();
        let parsed = parse(&format!("ARG {source}\n"));
        let Arguments::Words(words) = &parsed.dockerfile.instructions[0].arguments else {
            panic!("{source}")
        };
        let found: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
        if found != texts(&row["expect"]) {
            differences.push(format!("{row}: {found:?}"));
        }
    }
    agree("tables/frontend-dockerfile-parser.json", rows, &differences);
}

#[test]
fn tables_of_the_instructions_agree() {
    let Some(file) = json("tables/frontend-dockerfile-instructions.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut rows = 0;
    let rows_of = |name: &str| file[name].as_array().unwrap().clone();
    let is_wrong = |text: &str| {
        parse(text)
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    };
    let mut refused: Vec<String> = Vec::new();
    for name in rows_of("parse_test.go/TestCommandsAtLeastOneArgument/commands") {
        refused.push(text(&name).to_owned());
    }
    for name in rows_of("parse_test.go/TestCommandsExactlyOneArgument/commands") {
        refused.push(text(&name).to_owned());
    }
    for name in rows_of("parse_test.go/TestCommandsNoDestinationArgument/commands") {
        refused.push(format!("{} arg1", text(&name)));
    }
    for name in rows_of("parse_test.go/TestCommandsBlankNames/commands") {
        refused.push(format!("{} =arg2", text(&name)));
    }
    refused.extend(
        rows_of("parse_test.go/TestErrorCases/cases")
            .iter()
            .map(|row| text(&row["dockerfile"]).to_owned()),
    );
    for source in refused {
        rows += 1;
        if !is_wrong(&source) {
            differences.push(format!("{source:?} is accepted"));
        }
    }
    for row in rows_of("parse_heredoc_test.go/TestCopyHeredoc/cases") {
        rows += 1;
        let source = text(&row["dockerfile"]);
        let parsed = parse(&format!("{source}\n"));
        let instruction = &parsed.dockerfile.instructions[0];
        let Kind::Copy(copy) = &instruction.kind else {
            panic!("{source}: {:?}", parsed.problems)
        };
        let mut paths = Vec::new();
        let mut contents = Vec::new();
        for taken in &copy.sources {
            match taken {
                TransferSource::Path(word) => paths.push(word.text.clone()),
                TransferSource::Heredoc(index) => {
                    let heredoc = &instruction.heredocs[*index];
                    contents.push(serde_json::json!({
                        "Data": heredoc.content(), "Expand": heredoc.expand, "Path": heredoc.name
                    }));
                }
            }
        }
        let expected = &row["sourcesAndDest"];
        let same = copy.dest.text == text(&expected["DestPath"])
            && paths == texts(&expected["SourcePaths"])
            && contents
                == expected["SourceContents"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
        if !same {
            differences.push(format!("{source}: {copy:?}"));
        }
    }
    for row in rows_of("parse_heredoc_test.go/TestRunHeredoc/cases") {
        rows += 1;
        let source = text(&row["dockerfile"]);
        let parsed = parse(&format!("{source}\n"));
        let instruction = &parsed.dockerfile.instructions[0];
        let Kind::Run(run) = &instruction.kind else {
            panic!("{source}: {:?}", parsed.problems)
        };
        let (shell, command) = match &run.command {
            Command::Shell(line) => (true, vec![line.text.clone()]),
            Command::Exec(words) => (false, words.iter().map(|word| word.text.clone()).collect()),
        };
        let files: Vec<(String, String)> = instruction
            .heredocs
            .iter()
            .map(|file| (file.name.clone(), file.body.clone()))
            .collect();
        let expected: Vec<(String, String)> = row["files"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|file| {
                (
                    text(&file["Name"]).to_owned(),
                    text(&file["Data"]).to_owned(),
                )
            })
            .collect();
        if row["shell"] != shell || command != texts(&row["command"]) || files != expected {
            differences.push(format!("{source}: {run:?} {files:?}"));
        }
    }
    agree(
        "tables/frontend-dockerfile-instructions.json",
        rows,
        &differences,
    );
}
