//! What keeps the house in order: every file is reached and says what it is for, nothing is left for later, the documents
//! name what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::architecture::{code, rust_files};

/// A file is one room. What is longer needs a reason here.
const LINES_MAX: usize = 900;

/// Longer files, with the reason.
const LONG: &[(&str, &str)] = &[];

/// The repository that this was compiled in.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repository())
        .expect("it lies in the repository")
        .display()
        .to_string()
}

fn all_rust_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches", "examples"] {
        rust_files(&repository().join(dir), &mut files);
    }
    files
}

/// The files that are, or would be, committed.
fn committed_files() -> Vec<String> {
    let listed = Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(repository())
        .output();
    match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|file| repository().join(file).is_file())
            .map(str::to_owned)
            .collect(),
        _ => all_rust_files().iter().map(|file| relative(file)).collect(),
    }
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<String> = all_rust_files()
        .iter()
        .filter(|file| {
            let text = std::fs::read_to_string(file).expect("a source can be read");
            !text.starts_with("//!")
        })
        .map(|file| format!("{}:1: no `//!`", relative(file)))
        .collect();
    assert_none(&silent);
}

#[test]
fn no_file_is_longer_than_a_room() {
    let long: Vec<String> = all_rust_files()
        .iter()
        .filter_map(|file| {
            let name = relative(file);
            let lines = std::fs::read_to_string(file)
                .expect("a source can be read")
                .lines()
                .count();
            let excused = LONG.iter().any(|(excused, _)| *excused == name);
            (lines > LINES_MAX && !excused)
                .then(|| format!("{name}: {lines} lines, the limit is {LINES_MAX}"))
        })
        .collect();
    assert_none(&long);
}

/// The modules that a file declares with `mod name;`.
pub(crate) fn declared_modules(code: &str) -> Vec<String> {
    code.lines()
        .filter_map(|line| line.trim().strip_suffix(';'))
        .filter_map(|line| line.rsplit_once("mod "))
        .filter(|(before, _)| before.is_empty() || before.starts_with("pub"))
        .map(|(_, name)| name.trim().to_owned())
        .collect()
}

/// The files that the modules declared in `file` are in: those of test modules, and those with a `#[path]`, too.
fn declared_files(file: &Path) -> Vec<PathBuf> {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let beside = file.parent().expect("a file has a parent");
    let stem = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let below = match stem {
        "lib" | "main" | "mod" => beside.to_owned(),
        _ => beside.join(stem),
    };
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("#[path = \"")?.strip_suffix("\"]"))
        .collect();
    let mut files: Vec<PathBuf> = named.iter().map(|path| beside.join(path)).collect();
    for module in declared_modules(&code(&text.replace("#[cfg(test)]", ""))) {
        let flat = below.join(format!("{module}.rs"));
        let deep = below.join(&module).join("mod.rs");
        files.extend([flat, deep].into_iter().filter(|file| file.exists()));
    }
    files
}

#[test]
fn every_file_is_reached() {
    let mut reached = BTreeSet::new();
    let mut todo: Vec<PathBuf> = ["src/lib.rs", "src/main.rs", "tests/testsuite/main.rs"]
        .iter()
        .map(|root| repository().join(root))
        .collect();
    while let Some(file) = todo.pop() {
        todo.extend(declared_files(&file));
        reached.insert(file);
    }
    let mut files = Vec::new();
    for dir in ["src", "tests/testsuite"] {
        rust_files(&repository().join(dir), &mut files);
    }
    let dead: Vec<String> = files
        .iter()
        .filter(|file| !reached.contains(*file))
        .map(|file| format!("{}: no module declares it", relative(file)))
        .collect();
    assert_none(&dead);
}

#[test]
fn every_template_and_schema_is_used() {
    let sources: String = all_rust_files()
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a source can be read"))
        .collect();
    let unused: Vec<String> = committed_files()
        .into_iter()
        .filter(|file| file.starts_with("templates/") || file.starts_with("schemas/"))
        .filter(|file| !file.ends_with(".md"))
        .filter(|file| {
            let inside = file
                .split_once('/')
                .map_or(file.as_str(), |(_, inside)| inside);
            !sources.contains(inside)
        })
        .map(|file| format!("{file}: no source names it"))
        .collect();
    assert_none(&unused);
}

#[test]
fn nothing_is_left_for_later() {
    let left = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("// TO", "DO"),
        concat!("TO", "DO:"),
        concat!("XX", "X"),
    ];
    let mut found = Vec::new();
    for file in all_rust_files() {
        let text = std::fs::read_to_string(&file).expect("a source can be read");
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = left.iter().find(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", relative(&file), number + 1));
            }
        }
    }
    assert_none(&found);
}

/// The product's text speaks of the product: not of the machine or the tools that it was written with.
#[test]
fn no_word_of_the_workshop_is_left() {
    let foreign = [
        concat!("/wo", "rk/"),
        concat!("cla", "ude"),
        concat!("anth", "ropic"),
        concat!("sub", "agent"),
        concat!("this ses", "sion"),
    ];
    let allowed = concat!("cla", "ude-habitat");
    // A key of that program's format has its name.
    let migration = "src/habitat/migrate.rs";
    let mut found = Vec::new();
    for file in committed_files()
        .iter()
        .filter(|file| *file != "Cargo.lock")
    {
        let Ok(text) = std::fs::read_to_string(repository().join(file)) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase().replace(allowed, "");
            let is_key = file == migration && line.contains(&format!("\"{}", foreign[1]));
            if let Some(word) = foreign.iter().find(|word| line.contains(**word) && !is_key) {
                found.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    assert_none(&found);
}

#[test]
fn the_documents_are_there_and_name_what_is_there() {
    let readme = read("README.md");
    for line in [
        "cargo run --release -- habitat build habitats/quickstart/config.yaml",
        "./tests/run",
    ] {
        assert!(readme.contains(line), "README.md does not show `{line}`");
    }
    let changelog = read("CHANGELOG.md");
    assert!(
        changelog.contains("## Unreleased"),
        "CHANGELOG.md has no `## Unreleased`"
    );
    let architecture = read("ARCHITECTURE.md");
    for module in declared_modules(&code(&read("src/lib.rs"))) {
        assert!(
            architecture.contains(&format!("`{module}`")),
            "ARCHITECTURE.md does not explain `{module}`"
        );
    }
}

/// Whoever looks for a command in the page on habitats finds it, with the codes that it ends with.
#[test]
fn every_command_on_habitats_is_in_the_table_of_the_documents() {
    let page = read("docs/habitat.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut found = BTreeSet::new();
    flags(&["habitat"], &mut found);
    let commands: BTreeSet<&str> = found
        .iter()
        .filter_map(|(words, _)| words.strip_prefix("habitat "))
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    let is_there = |command: &str| {
        rows.iter().any(|row| {
            let first = row.split('|').nth(1).unwrap_or_default();
            first
                .split('`')
                .any(|code| code.split(' ').next() == Some(command))
        })
    };
    let missing = commands.into_iter().filter(|command| !is_there(command));
    assert_none(&missing.map(str::to_owned).collect::<Vec<_>>());
}

/// The commands below `words`, and the names of each flag (`-t --tag`), as `--help` lists them.
pub(crate) fn flags(words: &[&str], found: &mut BTreeSet<(String, String)>) {
    let help = Command::new(env!("CARGO_BIN_EXE_shmocker"))
        .args(words)
        .arg("--help")
        .output()
        .expect("shmocker can be started");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let mut in_commands = false;
    for line in help.lines() {
        if line.ends_with(':') && !line.starts_with(' ') {
            in_commands = line == "Commands:";
        } else if in_commands && line.starts_with("  ") && !line.starts_with("   ") {
            let command = line.split_whitespace().next().unwrap_or_default();
            if command != "help" {
                flags(&[words, &[command]].concat(), found);
            }
        } else if line.trim_start().starts_with('-') {
            let names: Vec<&str> = line
                .trim_start()
                .split([' ', ',', '=', '['])
                .take_while(|word| word.is_empty() || word.starts_with('-'))
                .filter(|word| !word.is_empty())
                .collect();
            found.insert((words.join(" "), names.join(" ")));
        }
    }
}

/// A flag that no test uses may be parsed and ignored.
#[test]
fn every_flag_has_a_test() {
    let mut found = BTreeSet::new();
    flags(&[], &mut found);
    assert!(!found.is_empty());
    let mut files = Vec::new();
    rust_files(&repository().join("tests/testsuite"), &mut files);
    let tests: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).expect("a source can be read"))
        .collect();
    let untested: Vec<String> = found
        .into_iter()
        .filter(|(_, names)| {
            !["--help", "--version", "--store"]
                .iter()
                .any(|known| names.contains(known))
        })
        .filter(|(_, names)| {
            !names.split(' ').any(|name| {
                [" ", "\"", "="].iter().any(|end| {
                    tests.contains(&format!(" {name}{end}"))
                        || tests.contains(&format!("\"{name}{end}"))
                })
            })
        })
        .map(|(command, flag)| format!("shmocker {command}: no test uses {flag}"))
        .collect();
    assert_none(&untested);
}

/// A link to a file of the repository leads somewhere.
#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in committed_files()
        .iter()
        .filter(|file| file.ends_with(".md"))
    {
        let text = read(file);
        let dir = Path::new(file).parent().unwrap_or(Path::new(""));
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !repository().join(dir).join(target).exists() {
                broken.push(format!("{file}: {target} does not exist"));
            }
        }
    }
    assert_none(&broken);
}
