//! Who may import whom. Within one crate the compiler does not say; this table does, and ARCHITECTURE.md draws it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Arrows point down only: a module may import what is in a lower row, and of its own row only what [`BESIDE`] grants.
const ROWS: &[&[&str]] = &[
    &["cli"],
    &["backend"],
    &["engine", "ship"],
    &["registry"],
    &["store", "net"],
    &["frontend", "habitat"],
    &["graph", "dockerfile", "image"],
    &["event", "digest", "sys"],
];

/// Importer and imported within one row.
const BESIDE: &[(&str, &str)] = &[("event", "digest")];

/// The only importers of `habitat`: everybody below knows Dockerfiles, and there is one way into the engine.
const KNOWS_HABITATS: &[&str] = &["cli", "backend"];

/// The only importers of `sys`: everybody else stays off the kernel.
const USES_THE_KERNEL: &[&str] = &["engine", "store", "ship", "backend"];

/// Values in, values out.
const PURE: &[&str] = &[
    "frontend",
    "habitat",
    "graph",
    "dockerfile",
    "image",
    "event",
    "digest",
];

/// What a pure module never names.
const OUTSIDE_WORLD: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::time::SystemTime",
    "std::time::Instant",
    "rustix",
    "libc",
    "reqwest",
    "rusqlite",
];

/// Values that live beside what a pure module never names.
const VALUES: &[&str] = &[
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
];

/// What only `cli` names (and `main.rs`, which hands the arguments over).
const TERMINAL: &[&str] = &[
    "std::env::var",
    "std::env::vars",
    "std::env::var_os",
    "std::env::args",
    "std::env::args_os",
    "std::env::current_dir",
];

/// Looks at `argv[0]` before there is a command line.
const TELLS_CHILDREN_APART: &str = "src/engine/exec/role.rs";

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

#[test]
fn imports_point_down() {
    let breaches: Vec<String> = sources()
        .iter()
        .flat_map(|(file, text)| breaches(file, text))
        .map(|breach| breach.to_string())
        .collect();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_top_level_module_has_a_row() {
    let lib =
        std::fs::read_to_string(crate::tidy::repository().join("src/lib.rs")).expect("src/lib.rs");
    for module in crate::tidy::declared_modules(&code(&lib)) {
        assert!(
            row_of(&module).is_some(),
            "src/lib.rs: {module} has no row in the import table"
        );
    }
}

#[test]
fn the_checks_see_what_they_should() {
    let found = |file: &str, text: &str| -> Vec<String> {
        breaches(file, text)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        found(
            "src/engine/mod.rs",
            "//! crate::habitat\nuse crate::habitat::Plan;\n"
        ),
        ["src/engine/mod.rs:2: engine may not import habitat"]
    );
    assert_eq!(
        found(
            "src/engine/a.rs",
            "use crate::{\n    store::Store,\n    ship::{self},\n};\n"
        ),
        ["src/engine/a.rs:1: engine may not import ship"]
    );
    assert_eq!(
        found(
            "src/graph/op.rs",
            "use std::{fmt, fs};\nfn f() { std::env::var(\"A\"); }\n"
        ),
        [
            "src/graph/op.rs:1: graph may not name std::fs",
            "src/graph/op.rs:2: graph may not name std::env",
            "src/graph/op.rs:2: only cli may name std::env::var",
        ]
    );
    assert_eq!(
        found("src/store/a.rs", "unsafe { f() }\n"),
        ["src/store/a.rs:1: only sys may be unsafe"]
    );
    assert_eq!(
        found("src/net/a.rs", "use crate::sys;\n"),
        ["src/net/a.rs:1: net may not import sys"]
    );
    let harmless = "// unsafe\nconst A: &str = \"use crate::cli; unsafe\";\nconst B: char = '\"';\nfn f<'a>(x: &'a str) {}\n\
                    const C: &str = r#\"a \" unsafe\"#;\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
    assert_eq!(found("src/graph/op.rs", harmless), [""; 0]);
}

/// Every source file of the crate, relative to the repository, with its text.
fn sources() -> Vec<(String, String)> {
    let root = crate::tidy::repository();
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    files
        .into_iter()
        .filter(|file| !is_test(file))
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("a source can be read");
            let name = file
                .strip_prefix(root)
                .expect("it lies below")
                .display()
                .to_string();
            (name, text)
        })
        .collect()
}

/// Whether a file holds unit tests only: `tests.rs`, `…_tests.rs`.
fn is_test(file: &Path) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    stem.is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"))
}

/// The Rust files below a directory, sorted.
pub(crate) fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The top-level module that a file belongs to.
fn module_of(file: &str) -> &str {
    let inside = file.trim_start_matches("src/");
    inside.split(['/', '.']).next().unwrap_or_default()
}

fn may_import(importer: &str, imported: &str) -> bool {
    if importer == imported || BESIDE.contains(&(importer, imported)) {
        return true;
    }
    match imported {
        "sys" => return USES_THE_KERNEL.contains(&importer),
        "habitat" => return KNOWS_HABITATS.contains(&importer),
        _ => {}
    }
    match (row_of(importer), row_of(imported)) {
        (Some(from), Some(to)) => from < to,
        _ => true,
    }
}

fn breaches(file: &str, text: &str) -> Vec<Breach> {
    let module = module_of(file);
    let code = code(text);
    let mut found = Vec::new();
    let mut breach = |position: usize, what: String| {
        found.push(Breach {
            file: file.to_owned(),
            line: code[..position].matches('\n').count() + 1,
            what,
        });
    };
    for (position, path) in paths(&code) {
        if let Some(rest) = path.strip_prefix("crate::") {
            let imported = rest.split("::").next().unwrap_or_default();
            let is_root = module == "lib" || module == "main";
            if !is_root && row_of(imported).is_some() && !may_import(module, imported) {
                breach(position, format!("{module} may not import {imported}"));
            }
        }
        if PURE.contains(&module)
            && !VALUES.contains(&path.as_str())
            && let Some(name) = OUTSIDE_WORLD
                .iter()
                .find(|name| is_or_is_below(&path, name))
        {
            breach(position, format!("{module} may not name {name}"));
        }
        if !["cli", "main"].contains(&module)
            && file != TELLS_CHILDREN_APART
            && let Some(name) = TERMINAL.iter().find(|name| path == **name)
        {
            breach(position, format!("only cli may name {name}"));
        }
    }
    if module != "sys" {
        for (position, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
            breach(position, "only sys may be unsafe".to_owned());
        }
    }
    found
}

fn is_or_is_below(path: &str, name: &str) -> bool {
    path.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// Every path of the code with its position; `use` groups are multiplied out, at the position of the group's root.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut end = 0;
    for (position, word) in words(code) {
        if position < end || word.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        end = path_at(code, position, "", position, &mut found);
    }
    found
}

/// Reads one path, or one branch of a group, from `at`; gives where it ends.
fn path_at(
    code: &str,
    at: usize,
    prefix: &str,
    root: usize,
    found: &mut Vec<(usize, String)>,
) -> usize {
    let rest = &code[at..];
    let word_end = at
        + rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
    let path = format!("{prefix}{}", &code[at..word_end]);
    let after = code[word_end..].trim_start();
    let Some(tail) = after.strip_prefix("::") else {
        found.push((root, path.trim_end_matches("::self").to_owned()));
        return word_end;
    };
    let tail_trimmed = tail.trim_start();
    let mut next = code.len() - tail_trimmed.len();
    if tail_trimmed.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return path_at(code, next, &format!("{path}::"), root, found);
    }
    if !tail_trimmed.starts_with('{') {
        found.push((root, path));
        return code.len() - tail.len();
    }
    next += 1;
    loop {
        let inside = &code[next..];
        let skipped = inside.len()
            - inside
                .trim_start_matches(|c: char| c.is_whitespace() || c == ',')
                .len();
        next += skipped;
        match code[next..].chars().next() {
            Some(c) if c.is_alphabetic() || c == '_' => {
                next = path_at(code, next, &format!("{path}::"), root, found);
                // `as name`
                let rest = code[next..].trim_start();
                if let Some(alias) = rest.strip_prefix("as ") {
                    let length = alias.find([',', '}']).unwrap_or(alias.len());
                    next = code.len() - alias.len() + length;
                }
            }
            Some('*') => next += 1,
            Some(c) => return next + c.len_utf8(),
            None => return next,
        }
    }
}

/// The text with comments, strings and test modules blanked out, line for line.
pub(crate) fn code(text: &str) -> String {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else {
            literal(rest, at.checked_sub(1).map(|before| bytes[before])).unwrap_or_default()
        };
        if length == 0 {
            let c = rest.chars().next().expect("not at the end");
            out.extend_from_slice(&bytes[at..at + c.len_utf8()]);
            at += c.len_utf8();
        } else {
            out.extend(
                bytes[at..at + length]
                    .iter()
                    .map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }),
            );
            at += length;
        }
    }
    without_test_modules(String::from_utf8(out).expect("whole characters were copied"))
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of the string or character literal that `rest` starts with.
fn literal(rest: &str, before: Option<u8>) -> Option<usize> {
    let in_word = before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !in_word {
        let raw = rest.trim_start_matches(['b', 'c']);
        if let Some(hashes) = raw.strip_prefix('r') {
            let inside = hashes.trim_start_matches('#');
            let count = hashes.len() - inside.len();
            if inside.starts_with('"') && rest.len() - raw.len() <= 1 {
                let end = format!("\"{}", "#".repeat(count));
                let start = rest.len() - inside.len() + 1;
                return Some(
                    rest[start..]
                        .find(&end)
                        .map_or(rest.len(), |found| start + found + end.len()),
                );
            }
        }
    }
    if rest.starts_with('"') {
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(at + 1),
                _ => {}
            }
        }
        return Some(rest.len());
    }
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        let close = inside[2..].find('\'')?;
        return Some(close + 4);
    }
    // `'a'` is a character, `'a` a lifetime.
    inside[first.len_utf8()..]
        .starts_with('\'')
        .then(|| first.len_utf8() + 2)
}

fn without_test_modules(mut code: String) -> String {
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let after = &code[start..];
        let body = after.find('{').unwrap_or(after.len());
        let end = match after.find(';') {
            Some(semicolon) if semicolon < body => start + semicolon,
            _ => {
                let mut depth = 0;
                let mut end = code.len();
                for (at, c) in after.char_indices().skip(body) {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        end = start + at + 1;
                        break;
                    }
                }
                end
            }
        };
        let blank: String = code[start..end]
            .chars()
            .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8()))
            .collect();
        code.replace_range(start..end, &blank);
        from = end;
    }
    code
}
