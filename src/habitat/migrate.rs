//! Habitats of an older program, brought to today's spelling. The text is edited where the old keys stand, so that
//! everything else in it, comments and layout too, stays as it is.

use super::keys::Key as _;
use super::keys::Scalar;
use super::node::{self, Node, Value};
use super::report::Report;
use crate::dockerfile::{Problem, Span};

/// A key of the older program at the top of a habitat.
struct Legacy {
    key: &'static str,
    /// What took its place.
    now: &'static str,
    how: How,
}

/// How a key is rewritten.
enum How {
    /// Its value means the same.
    Rename,
    /// Its value is a map, of which each part is put where it belongs.
    Parts(Place),
}

/// Puts a part of a map where it belongs, and says what became of it; `None`: nothing means the same.
type Place = fn(&mut Editor<'_>, part: &str, &Node) -> Option<String>;

/// The program's own name is one of its keys.
const LEGACY: &[Legacy] = &[
    legacy("environment", "env", How::Rename),
    legacy("repositories", "repos", How::Rename),
    legacy(
        "setup",
        "scripts",
        How::Parts(|editor, part, value| editor.setup(part, value)),
    ),
    legacy(
        "container",
        "env and entry",
        How::Parts(|editor, part, value| editor.container(part, value)),
    ),
    legacy(
        "claude",
        "entry",
        How::Parts(|editor, part, value| editor.program(part, value)),
    ),
    legacy("git", "files and repos", How::Parts(|_, _, _| None)),
];

const fn legacy(key: &'static str, now: &'static str, how: How) -> Legacy {
    Legacy { key, now, how }
}

fn find(key: &str) -> Option<&'static Legacy> {
    LEGACY.iter().find(|legacy| legacy.key == key)
}

/// Placeholders of the older program, and what took their place.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("{container.user}", "${USER}"),
    ("{container.work_dir}", "${WORKDIR}"),
    ("{container.workdir}", "${WORKDIR}"),
];

/// What took the place of a key of the older program.
pub(super) fn successor(key: &str) -> Option<&'static str> {
    find(key).map(|legacy| legacy.now)
}

/// A habitat in today's spelling.
#[derive(Debug, Clone)]
pub struct Migration {
    /// Its text.
    pub text: String,
    /// What was rewritten, in the order of the file: the line it stood in, and what became of it.
    pub changes: Vec<(u32, String)>,
    /// What nothing takes the place of; it is left in the text as a comment.
    pub unmapped: Vec<Problem>,
}

/// Rewrites the old keys of a habitat.
///
/// # Errors
/// Why the text cannot be read.
pub fn migrate(text: &str) -> Result<Migration, Vec<Problem>> {
    let mut report = Report::default();
    let root = node::parse(text, 0, &mut report);
    report.finish()?;
    let Some(Node {
        value: Value::Mapping(entries),
        ..
    }) = root
    else {
        return Ok(Migration {
            text: text.to_owned(),
            changes: Vec::new(),
            unmapped: Vec::new(),
        });
    };
    let mut editor = Editor {
        text,
        entries: &entries,
        edits: Vec::new(),
        env: Vec::new(),
        entry: Vec::new(),
        scripts: Vec::new(),
        volumes: Vec::new(),
        changes: Vec::new(),
        unmapped: Vec::new(),
    };
    for (key, value) in &entries {
        editor.key(key, value);
    }
    Ok(editor.finish())
}

struct Editor<'t> {
    text: &'t str,
    entries: &'t [(Node, Node)],
    /// Ranges of bytes and what takes their place.
    edits: Vec<(usize, usize, String)>,
    /// Lines to add to lists and maps, without their indentation.
    env: Vec<(String, String)>,
    entry: Vec<(String, String)>,
    scripts: Vec<String>,
    volumes: Vec<String>,
    changes: Vec<(u32, String)>,
    unmapped: Vec<Problem>,
}

impl Editor<'_> {
    fn key(&mut self, key: &Node, value: &Node) {
        let name = key.as_scalar().unwrap_or_default();
        match find(name) {
            Some(Legacy {
                now,
                how: How::Rename,
                ..
            }) => self.rename(key, now),
            Some(Legacy {
                how: How::Parts(place),
                ..
            }) => self.parts(key, value, *place),
            // A key of today as well.
            None if name == "image" => self.image(key, value),
            None => {}
        }
    }

    fn changed(&mut self, span: Span, what: impl Into<String>) {
        self.changes.push((span.line, what.into()));
    }

    fn rename(&mut self, key: &Node, name: &str) {
        let old = key.as_scalar().unwrap_or_default();
        self.changed(key.span, format!("`{old}` is `{name}`"));
        self.edits
            .push((key.span.start, key.span.end, name.to_owned()));
    }

    /// From the beginning of a key's line to the end of its value's last line.
    fn region(&self, key: &Node, value: &Node) -> (usize, usize) {
        let start = self.text[..key.span.start]
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        let last = value.span.end.max(key.span.end);
        let end = self.text[last..]
            .find('\n')
            .map_or(self.text.len(), |newline| last + newline + 1);
        (start, end)
    }

    /// Takes a map apart: what each part becomes is said by `place`; what it cannot place stays as a comment.
    fn parts(&mut self, key: &Node, value: &Node, place: Place) {
        let name = key.as_scalar().unwrap_or_default().to_owned();
        let mut kept = String::new();
        match &value.value {
            Value::Mapping(parts) => {
                for (part, value) in parts {
                    let part_name = part.as_scalar().unwrap_or_default();
                    let full = format!("{name}.{part_name}");
                    match place(self, part_name, value) {
                        Some(became) => self.changed(part.span, format!("`{full}` is {became}")),
                        None => kept.push_str(&self.left_over(&full, part, value)),
                    }
                }
                if parts.is_empty() {
                    self.changed(key.span, format!("`{name}` says nothing and is gone"));
                }
            }
            _ if value.is_null() => {
                self.changed(key.span, format!("`{name}` says nothing and is gone"));
            }
            _ => kept.push_str(&self.left_over(&name, key, value)),
        }
        let (start, end) = self.region(key, value);
        self.edits.push((start, end, kept));
    }

    /// Says that nothing takes the place of something, and makes a comment of it.
    fn left_over(&mut self, full: &str, key: &Node, value: &Node) -> String {
        let help = match successor(full.split('.').next().unwrap_or_default()) {
            Some(now) => format!("it stays in the file as a comment; see whether {now} can say it"),
            None => "it stays in the file as a comment".to_owned(),
        };
        self.unmapped.push(
            Problem::warning(
                "habitat::not_mapped",
                format!("nothing takes the place of `{full}`"),
                key.span,
            )
            .label("no key of today means this")
            .help(help),
        );
        let (start, end) = self.region(key, value);
        let written = self.text[start..end].trim_end();
        let indent = written.len() - written.trim_start().len();
        let lines = written.lines().map(|line| {
            let line = line.get(indent.min(line.len() - line.trim_start().len())..);
            format!("# {}\n", line.unwrap_or_default())
        });
        format!("# Not mapped from {full}:\n{}", lines.collect::<String>())
    }

    fn setup(&mut self, part: &str, value: &Node) -> Option<String> {
        let (run_as, commands) = match &value.value {
            Value::Mapping(parts) => {
                let get = |name: &str| {
                    parts
                        .iter()
                        .find(|(key, _)| key.as_scalar() == Some(name))
                        .map(|(_, value)| value)
                };
                if parts
                    .iter()
                    .any(|(key, _)| !matches!(key.as_scalar(), Some("run_as" | "commands")))
                {
                    return None;
                }
                let run_as = get("run_as").and_then(Node::as_scalar);
                (run_as, get("commands")?)
            }
            _ => (None, value),
        };
        let user = match (part, run_as) {
            (_, Some(user)) => Some(user),
            ("root", None) => Some("root"),
            ("user", None) => None,
            _ => return None,
        };
        let commands: Vec<&str> = match &commands.value {
            Value::Sequence(items) => items.iter().map(Node::as_scalar).collect::<Option<_>>()?,
            _ => vec![commands.as_scalar()?],
        };
        if commands.is_empty() {
            return Some("empty and gone".to_owned());
        }
        let mut script = String::new();
        if let Some(user) = user {
            script.push_str(&format!("run_as: {}\n", scalar(user, 0)));
        }
        script.push_str("commands:\n");
        for command in commands {
            script.push_str(&format!("  - {}\n", scalar(command, 4)));
        }
        self.scripts.push(script);
        Some("an item of `scripts`".to_owned())
    }

    fn container(&mut self, part: &str, value: &Node) -> Option<String> {
        let text = value.as_scalar();
        match part {
            "user" => self.put_env("USER", text?),
            "work_dir" | "workdir" => self.put_env("WORKDIR", text?),
            "init_command"
            | "startup_delay"
            | "tty"
            | "command"
            | "bypass_habitat_construction" => self.put_entry(part, text?),
            "volumes" => {
                let Value::Sequence(items) = &value.value else {
                    return None;
                };
                let items: Option<Vec<&str>> = items.iter().map(Node::as_scalar).collect();
                self.volumes.extend(items?.into_iter().map(str::to_owned));
                Some("`volumes`".to_owned())
            }
            "environment" | "env" => {
                let mut report = Report::default();
                let block = super::env::EnvBlock::read(value, &mut report)?;
                report.finish().ok()?;
                for (name, value) in block.entries() {
                    let value = value.as_ref().map_or("", |value| value.as_str());
                    self.env.push((name.value.clone(), value.to_owned()));
                }
                Some("a part of `env`".to_owned())
            }
            _ => None,
        }
    }

    fn program(&mut self, part: &str, value: &Node) -> Option<String> {
        match part {
            "command" | "tty" => self.put_entry(part, value.as_scalar()?),
            _ => None,
        }
    }

    fn put_env(&mut self, name: &str, value: &str) -> Option<String> {
        self.env.push((name.to_owned(), value.to_owned()));
        Some(format!("`env` {name}"))
    }

    fn put_entry(&mut self, name: &str, value: &str) -> Option<String> {
        self.entry.push((name.to_owned(), value.to_owned()));
        Some(format!("`entry.{name}`"))
    }

    /// `image: NAME`, and `image: {dockerfile, tag, build_args}` of which today's has the first.
    fn image(&mut self, key: &Node, value: &Node) {
        let Value::Mapping(parts) = &value.value else {
            if value.as_scalar().is_some() {
                self.rename(key, "base_image");
            }
            return;
        };
        let get = |name: &str| {
            parts
                .iter()
                .find(|(key, _)| key.as_scalar() == Some(name))
                .map(|(_, value)| value)
        };
        if parts.len() == 1 && get("dockerfile").is_some() {
            return;
        }
        let mut kept = String::new();
        let mut base = String::new();
        for (part, value) in parts {
            match (part.as_scalar().unwrap_or_default(), value.as_scalar()) {
                ("dockerfile", Some(path)) => {
                    base.push_str(&format!("  dockerfile: {}\n", scalar(path, 2)));
                }
                ("build_args" | "args", None) => {
                    let mut report = Report::default();
                    let args = super::env::EnvBlock::read(value, &mut report);
                    base.push_str("  args:\n");
                    for (name, value) in args.iter().flat_map(|args| args.entries()) {
                        let value = value.as_ref().map_or("", |value| value.as_str());
                        base.push_str(&format!("    {}: {}\n", name.value, scalar(value, 4)));
                    }
                    self.changed(part.span, "`image.build_args` is `base.args`");
                }
                (name, _) => {
                    let full = format!("image.{name}");
                    kept.push_str(&self.left_over(&full, part, value));
                }
            }
        }
        let (start, end) = self.region(key, value);
        if !base.is_empty() {
            self.changed(key.span, "`image` is `base`");
            base.insert_str(0, "base:\n");
        }
        self.edits.push((start, end, base + &kept));
    }

    /// Adds lines to the value of a key, or the key at the end of the file.
    fn add(&mut self, key: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let there = self.entries.iter().find(|(name, _)| {
            let name = name.as_scalar();
            name.map(today) == Some(key)
        });
        let indented = |indent: usize| -> String {
            let all = lines.concat();
            all.lines()
                .map(|line| match line {
                    "" => "\n".to_owned(),
                    line => format!("{}{line}\n", " ".repeat(indent)),
                })
                .collect()
        };
        let Some((name, value)) = there else {
            let end = self.text.len();
            let gap = if self.text.ends_with('\n') { "" } else { "\n" };
            self.edits
                .push((end, end, format!("{gap}{key}:\n{}", indented(2))));
            return;
        };
        let (first, is_empty) = match &value.value {
            Value::Sequence(items) => (items.first(), items.is_empty()),
            Value::Mapping(entries) => (entries.first().map(|(key, _)| key), entries.is_empty()),
            Value::Scalar { .. } => (None, true),
        };
        let line_start = first.map(|first| {
            self.text[..first.span.start]
                .rfind('\n')
                .map_or(0, |newline| newline + 1)
        });
        if is_empty {
            let (_, end) = self.region(name, value);
            self.edits
                .push((name.span.end, end, format!(":\n{}", indented(2))));
            return;
        }
        match line_start {
            Some(start) if start > name.span.end => {
                let before = &self.text[start..];
                let indent = before.len() - before.trim_start_matches(' ').len();
                self.edits.push((start, start, indented(indent)));
            }
            _ => {
                self.unmapped.push(
                    Problem::warning(
                        "habitat::not_mapped",
                        format!("`{key}` is written in one line, and nothing is added to it"),
                        name.span,
                    )
                    .label("write it with an item in each line")
                    .help(format!("add to it: {}", lines.concat().trim_end())),
                );
            }
        }
    }

    fn finish(mut self) -> Migration {
        let env_is_map = self.entries.iter().any(|(key, value)| {
            key.as_scalar().map(today) == Some("env")
                && matches!(&value.value, Value::Mapping(entries) if !entries.is_empty())
        });
        let env: Vec<String> = std::mem::take(&mut self.env)
            .into_iter()
            .map(|(name, value)| {
                if env_is_map {
                    format!("{name}: {}\n", scalar(&value, 4))
                } else {
                    format!("- {}\n", scalar(&format!("{name}={value}"), 4))
                }
            })
            .collect();
        let known: Vec<String> = self
            .entries
            .iter()
            .filter(|(key, _)| key.as_scalar() == Some("entry"))
            .filter_map(|(_, value)| match &value.value {
                Value::Mapping(entries) => Some(entries),
                _ => None,
            })
            .flatten()
            .filter_map(|(key, _)| key.as_scalar().map(str::to_owned))
            .collect();
        let mut entry: Vec<String> = Vec::new();
        let mut taken: Vec<String> = known;
        for (name, value) in std::mem::take(&mut self.entry) {
            if !taken.contains(&name) {
                entry.push(format!("{name}: {}\n", scalar(&value, 4)));
                taken.push(name);
            }
        }
        let scripts: Vec<String> = std::mem::take(&mut self.scripts)
            .iter()
            .map(|script| {
                let lines: Vec<String> = script
                    .lines()
                    .enumerate()
                    .map(|(index, line)| match (index, line) {
                        (0, line) => format!("- {line}\n"),
                        (_, "") => "\n".to_owned(),
                        (_, line) => format!("  {line}\n"),
                    })
                    .collect();
                lines.concat()
            })
            .collect();
        let volumes: Vec<String> = std::mem::take(&mut self.volumes)
            .iter()
            .map(|volume| format!("- {}\n", scalar(volume, 4)))
            .collect();
        self.add("env", &env);
        self.add("scripts", &scripts);
        self.add("volumes", &volumes);
        self.add("entry", &entry);

        self.edits.sort_by_key(|(start, end, _)| (*start, *end));
        let mut text = String::with_capacity(self.text.len());
        let mut done = 0;
        for (start, end, new) in &self.edits {
            text.push_str(&self.text[done..(*start).max(done)]);
            text.push_str(new);
            done = (*end).max(done);
        }
        text.push_str(&self.text[done..]);
        for (old, new) in PLACEHOLDERS {
            for (at, _) in self.text.match_indices(old) {
                let line = self.text[..at].matches('\n').count() as u32 + 1;
                self.changes.push((line, format!("`{old}` is `{new}`")));
            }
            text = text.replace(old, new);
        }
        self.changes.sort_by_key(|(line, _)| *line);
        Migration {
            text,
            changes: self.changes,
            unmapped: self.unmapped,
        }
    }
}

/// What a key is called once it is renamed.
fn today(key: &str) -> &str {
    match find(key) {
        Some(Legacy {
            now,
            how: How::Rename,
            ..
        }) => now,
        _ => key,
    }
}

/// A string as YAML; lines after the first are indented by `indent`.
fn scalar(text: &str, indent: usize) -> String {
    if text.contains('\n') {
        let keep = match (text.ends_with('\n'), text.ends_with("\n\n")) {
            (_, true) => "|+",
            (true, false) => "|",
            (false, false) => "|-",
        };
        let lines: String = text
            .lines()
            .map(|line| match line {
                "" => "\n".to_owned(),
                line => format!("{}{line}\n", " ".repeat(indent)),
            })
            .collect();
        // A first line that begins with blanks would be taken for a deeper indentation.
        let digit = if text.starts_with([' ', '\n']) {
            "2"
        } else {
            ""
        };
        return format!(
            "{}{digit}{}\n{}",
            &keep[..1],
            &keep[1..],
            lines.trim_end_matches('\n')
        );
    }
    let quoted = || format!("'{}'", text.replace('\'', "''"));
    // What reads back as the same text without quotes goes without them.
    let mut report = Report::default();
    let plain = node::parse(text, 0, &mut report)
        .filter(|node| matches!(&node.value, Value::Scalar { .. }) && node.tag.is_none())
        .and_then(|node| Scalar::read(&node, &mut report))
        .is_some_and(|Scalar(read)| read.value == text);
    if plain
        && !text.contains([
            '#', ':', '{', '[', ',', '*', '&', '!', '%', '@', '`', '"', '\'',
        ])
    {
        text.to_owned()
    } else {
        quoted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_is_started_by_is_the_entry() {
        let key = LEGACY.iter().find(|legacy| legacy.now == "entry");
        let key = key.expect("it has one").key;
        let old = format!(
            "name: old\nentry:\n  tty: true\n{key}:\n  command: tool --fast\n  tty: false\n"
        );
        let migrated = migrate(&old).expect("it can be read");
        assert_eq!(
            migrated.text,
            "name: old\nentry:\n  command: tool --fast\n  tty: true\n"
        );
        assert_eq!(migrated.unmapped, []);
    }

    #[test]
    fn an_image_with_arguments_is_a_base_of_a_dockerfile() {
        let old = "image:\n  dockerfile: ./Dockerfile\n  build_args: [A=1, 'B=x: y']\n  tag: old\n";
        let migrated = migrate(old).expect("it can be read");
        assert_eq!(
            migrated.text,
            "base:\n  dockerfile: ./Dockerfile\n  args:\n    A: 1\n    B: 'x: y'\n# Not mapped from image.tag:\n# tag: old\n"
        );
        assert_eq!(migrated.unmapped.len(), 1);
        let new = "image:\n  dockerfile: ./Dockerfile\n";
        assert_eq!(migrate(new).expect("it can be read").text, new);
        let named = migrate("image: debian:12\n").expect("it can be read");
        assert_eq!(named.text, "base_image: debian:12\n");
    }

    #[test]
    fn strings_are_written_so_that_they_read_back() {
        for text in [
            "plain",
            "1",
            "yes: no",
            "a\nb",
            "a\nb\n",
            " lead",
            "it's",
            "# no",
            "a\n\n  b\n",
            "-x",
            "",
            "~",
        ] {
            let yaml = format!("commands:\n  - {}\n", scalar(text, 4));
            let mut report = Report::default();
            let read = node::parse(&yaml, 0, &mut report).expect("it is YAML");
            let Value::Mapping(entries) = read.value else {
                panic!("{yaml}");
            };
            let Value::Sequence(items) = &entries[0].1.value else {
                panic!("{yaml}");
            };
            let Value::Scalar { text: back, .. } = &items[0].value else {
                panic!("{yaml}");
            };
            assert_eq!(back, text, "{yaml}");
        }
    }
}
