//! The one expander, and what it makes of `env`.
//!
//! ```text
//! ${NAME} {env.NAME}   the entry's value, if it is known so far
//! $${NAME}             ${NAME}, literally
//! ```
//!
//! In `env`, a name that is not known may be one that the base image defines: it is left for the Dockerfile's `ENV` to
//! expand, which sees the base image's values alone, because all entries are one instruction. Every other string is
//! expanded with the final values; commands only in the form `{env.NAME}`, since `${NAME}` belongs to the shell.

use super::fields::Field;
use super::keys::{Key, RESET, Text};
use super::node::{Node, Value};
use super::report::Report;
use crate::dockerfile::Span;

/// What `env` says where the habitat does not.
const DEFAULTS: &[(&str, &str)] = &[
    ("USER", "root"),
    ("WORKDIR", "/workspace"),
    ("HABITAT_PATH", "/habitat"),
    ("SYSTEM_PATH", "/habitat/system"),
    ("SHARED_PATH", "/habitat/shared"),
    ("LOCAL_PATH", "/habitat/local"),
];

/// What is done with a name that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownNames {
    /// It is an error.
    #[default]
    Refuse,
    /// It is left as it stands: `--lenient`.
    Leave,
}

/// `env` as it is written: a list of `NAME=value` or a map.
#[derive(Debug, Clone, Default)]
pub struct EnvBlock {
    /// Names and values; none for `NAME: !reset`, which drops the name.
    entries: Vec<(Text, Option<Text>)>,
}

/// A part of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// The value that the base image gives this name.
    Base(String),
}

/// One entry of the final environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// Its name: letters, digits and `_`.
    pub name: String,
    /// Its value; nothing in it names another entry of the habitat.
    pub parts: Vec<Part>,
    /// Where its last value was written; `None`: a default.
    pub span: Option<Span>,
}

impl EnvEntry {
    /// The value, where it does not depend on the base image.
    #[must_use]
    pub fn known(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Base(_) => None,
            })
            .collect()
    }
}

/// The final environment, in the order of first appearance; the defaults that the habitat does not name come first.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    entries: Vec<EnvEntry>,
}

impl Environment {
    /// Reads the entries from top to bottom.
    pub(super) fn of(block: &EnvBlock, report: &mut Report) -> Self {
        let mut environment = Self {
            entries: DEFAULTS.iter().map(default_entry).collect(),
        };
        for (name, value) in &block.entries {
            match value {
                Some(value) => environment.put(name, value, report),
                None => environment.drop(&name.value),
            }
        }
        environment
    }

    /// Forgets an entry; one that has a default has that again.
    fn drop(&mut self, name: &str) {
        self.entries.retain(|entry| entry.name != name);
        let default = DEFAULTS.iter().find(|(known, _)| *known == name);
        self.entries.splice(0..0, default.map(default_entry));
    }

    fn put(&mut self, name: &Text, value: &Text, report: &mut Report) {
        if !is_name(&name.value) {
            report
                .error(
                    "habitat::bad_env_name",
                    name.span,
                    format!("`{}` cannot be the name of a variable", name.value),
                )
                .label("letters, digits and `_`, and no digit first");
            return;
        }
        if let Some(control) = value
            .value
            .chars()
            .find(|letter| letter.is_control() && *letter != '\t')
        {
            report
                .error(
                    "habitat::bad_env_value",
                    value.span,
                    format!("the value of `{}` has {}", name.value, spoken(control)),
                )
                .label("an image's environment holds single lines only")
                .help("put the text into a file, and its path here");
            return;
        }
        let mut parts: Vec<Part> = Vec::new();
        for piece in pieces(&value.value) {
            match piece {
                Piece::Text(text) => push_text(&mut parts, text),
                Piece::Name { name, .. } => match self.get(name) {
                    None => parts.push(Part::Base(name.to_owned())),
                    Some(entry) => entry.parts.clone().into_iter().for_each(|part| match part {
                        Part::Text(text) => push_text(&mut parts, &text),
                        base => parts.push(base),
                    }),
                },
            }
        }
        let entry = EnvEntry {
            name: name.value.clone(),
            parts,
            span: Some(value.span),
        };
        match self
            .entries
            .iter_mut()
            .find(|known| known.name == name.value)
        {
            Some(known) if known.span.is_some() => *known = entry,
            _ => {
                // A default that is named takes the place where it is named.
                self.entries.retain(|known| known.name != name.value);
                self.entries.push(entry);
            }
        }
    }

    /// The entry of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&EnvEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// All entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[EnvEntry] {
        &self.entries
    }
}

fn default_entry((name, value): &(&str, &str)) -> EnvEntry {
    EnvEntry {
        name: (*name).to_owned(),
        parts: vec![Part::Text((*value).to_owned())],
        span: None,
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn spoken(control: char) -> String {
    match control {
        '\n' => "a line break".to_owned(),
        other => format!("the control character U+{:04X}", u32::from(other)),
    }
}

/// The final environment, as the strings of a habitat see it.
#[derive(Debug)]
pub(super) struct Scope<'e> {
    pub(super) environment: &'e Environment,
    pub(super) unknown: UnknownNames,
}

impl Scope<'_> {
    /// A string with its names replaced; one that is not known is an error.
    pub(super) fn text(&self, text: &Text, report: &mut Report) -> String {
        let mut out = String::with_capacity(text.value.len());
        for piece in pieces(&text.value) {
            let (written, name) = match piece {
                Piece::Text(literal) => {
                    out.push_str(literal);
                    continue;
                }
                Piece::Name { written, name } => (written, name),
            };
            let entry = self.environment.get(name);
            match entry.and_then(EnvEntry::known) {
                Some(value) => out.push_str(&value),
                None if self.unknown == UnknownNames::Leave => out.push_str(written),
                None if entry.is_some() => {
                    report
                        .error(
                            "habitat::unknown_name",
                            text.span,
                            format!("the value of `{name}` is not known before the build"),
                        )
                        .label(format!(
                            "`{name}` takes a part of its value from the base image"
                        ))
                        .help("write the value out");
                }
                None => {
                    let names = self
                        .environment
                        .entries
                        .iter()
                        .map(|entry| entry.name.as_str());
                    report
                        .error("habitat::unknown_name", text.span, format!("`{name}` is not in env"))
                        .label(format!("`{written}` has no value"))
                        .near(name, names, format!("add `{name}=…` to env, or write `${written}` if it is meant literally"));
                }
            }
        }
        out
    }

    /// A command with `{env.NAME}` replaced; what is not known reaches the shell untouched.
    pub(super) fn command(&self, command: &Text, report: &mut Report) -> String {
        let mut out = String::with_capacity(command.value.len());
        let mut rest = command.value.as_str();
        while let Some(at) = rest.find("{env.") {
            let Some(name) = env_name(&rest[at..]) else {
                out.push_str(&rest[..at + 1]);
                rest = &rest[at + 1..];
                continue;
            };
            let written = &rest[at..at + "{env.}".len() + name.len()];
            out.push_str(&rest[..at]);
            match self.environment.get(name).and_then(EnvEntry::known) {
                Some(value) => out.push_str(&value),
                None => {
                    report
                        .warning(
                            "habitat::unknown_name",
                            command.span,
                            format!("`{name}` is not known before the build"),
                        )
                        .label(format!("`{written}` reaches the shell as it stands"))
                        .help(format!("write `${{{name}}}` to have the shell look it up"));
                    out.push_str(written);
                }
            }
            rest = &rest[at + written.len()..];
        }
        out.push_str(rest);
        out
    }
}

/// A part of a string as the expander sees it.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Name { written: &'t str, name: &'t str },
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut literal_from = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if let Some(name) = rest.strip_prefix('$').and_then(braced_name) {
            pieces.push(Piece::Text(&text[literal_from..at]));
            literal_from = at + 1;
            at = literal_from + "${}".len() + name.len();
        } else if let Some((name, around)) = braced_name(rest)
            .map(|name| (name, "${}".len()))
            .or_else(|| env_name(rest).map(|name| (name, "{env.}".len())))
        {
            pieces.push(Piece::Text(&text[literal_from..at]));
            let end = at + around + name.len();
            pieces.push(Piece::Name {
                written: &text[at..end],
                name,
            });
            literal_from = end;
            at = end;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    pieces.push(Piece::Text(&text[literal_from..]));
    pieces.retain(|piece| *piece != Piece::Text(""));
    pieces
}

/// `${NAME}` at the beginning.
fn braced_name(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix("${")?.split_once('}')?;
    is_name(name).then_some(name)
}

/// `{env.NAME}` at the beginning.
fn env_name(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix("{env.")?.split_once('}')?;
    is_name(name).then_some(name)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

impl EnvBlock {
    /// Names and values as written; none for a name that is dropped.
    #[must_use]
    pub fn entries(&self) -> &[(Text, Option<Text>)] {
        &self.entries
    }
}

impl Key for EnvBlock {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let mut entries = Vec::new();
        match &node.value {
            Value::Mapping(map) => {
                for (key, value) in map {
                    let Some(name) = key.as_scalar() else {
                        continue;
                    };
                    let reset = value.tag.as_deref() == Some(RESET);
                    let text = value.as_scalar().or(value.is_null().then_some(""));
                    let Some(text) = text else {
                        report
                            .error(
                                "habitat::wrong_type",
                                value.span,
                                format!("the value of `{name}` is {}", value.kind()),
                            )
                            .label("this must be a string");
                        continue;
                    };
                    let name = Text {
                        value: name.to_owned(),
                        span: key.span,
                    };
                    entries.push((
                        name,
                        (!reset).then(|| Text {
                            value: text.to_owned(),
                            span: Span {
                                start: key.span.start,
                                ..value.span
                            },
                        }),
                    ));
                }
            }
            Value::Sequence(items) => {
                for item in items {
                    match item.as_string().and_then(|text| text.split_once('=')) {
                        Some((name, value)) => entries.push((
                            Text {
                                value: name.to_owned(),
                                span: item.span,
                            },
                            Some(Text {
                                value: value.to_owned(),
                                span: item.span,
                            }),
                        )),
                        None => {
                            report
                                .error(
                                    "habitat::bad_env_entry",
                                    item.span,
                                    "an entry of env has no `=`",
                                )
                                .label("this must be NAME=value")
                                .help("write `- NAME=value`, or make env a map: `NAME: value`");
                        }
                    }
                }
            }
            Value::Scalar { .. } if node.is_null() => {}
            Value::Scalar { .. } => {
                report
                    .error(
                        "habitat::wrong_type",
                        node.span,
                        format!("env is {}", node.kind()),
                    )
                    .label("this must be a list of NAME=value or a map");
            }
        }
        Some(Self { entries })
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn overlay(&mut self, later: Self) {
        self.entries.extend(later.entries);
    }

    /// Entries are told as they are in the end, over all layers.
    fn fields(&self, _: &str, _: &mut Vec<Field>) {}
}

impl schemars::JsonSchema for EnvBlock {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Env".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*=" } },
                {
                    "type": "object",
                    "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
                    "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
                },
                { "type": "null" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(entries: &[(&str, &str)]) -> Environment {
        let text = |value: &str| Text {
            value: value.to_owned(),
            span: Span::default(),
        };
        let entries = entries
            .iter()
            .map(|(name, value)| (text(name), Some(text(value))))
            .collect();
        let mut report = Report::default();
        let environment = Environment::of(&EnvBlock { entries }, &mut report);
        assert_eq!(report.finish(), Ok(Vec::new()));
        environment
    }

    fn expand(environment: &Environment, text: &str) -> Result<String, String> {
        let scope = Scope {
            environment,
            unknown: UnknownNames::Refuse,
        };
        let mut report = Report::default();
        let text = scope.text(
            &Text {
                value: text.to_owned(),
                span: Span::default(),
            },
            &mut report,
        );
        report
            .finish()
            .map(|_| text)
            .map_err(|found| found[0].message.clone())
    }

    #[test]
    fn a_name_is_replaced_by_what_is_known_so_far() {
        let environment = environment(&[
            ("P", "1"),
            ("Q", "${P}-{env.P}"),
            ("P", "${P}:2"),
            ("R", "$${P} $P ${p-x}"),
        ]);
        assert_eq!(
            expand(&environment, "${P} ${Q} ${R}"),
            Ok("1:2 1-1 ${P} $P ${p-x}".to_owned())
        );
    }

    #[test]
    fn a_name_of_the_base_image_is_left_to_the_dockerfile() {
        let environment = environment(&[
            ("OLD", "${PATH}"),
            ("PATH", "${PATH}:/a"),
            ("PATH", "${PATH}:/b"),
        ]);
        let path = environment.get("PATH").expect("it was put");
        assert_eq!(
            path.parts,
            [
                Part::Base("PATH".to_owned()),
                Part::Text(":/a:/b".to_owned())
            ]
        );
        assert_eq!(
            environment.get("OLD").expect("it was put").parts,
            [Part::Base("PATH".to_owned())]
        );
        assert_eq!(
            expand(&environment, "${PATH}"),
            Err("the value of `PATH` is not known before the build".to_owned())
        );
        assert_eq!(
            expand(&environment, "${HOSTNAME}"),
            Err("`HOSTNAME` is not in env".to_owned())
        );
    }

    #[test]
    fn a_command_keeps_what_belongs_to_the_shell() {
        let environment = environment(&[("TOOL", "make")]);
        let scope = Scope {
            environment: &environment,
            unknown: UnknownNames::Refuse,
        };
        let command = "for i in 1; do {env.TOOL} ${TOOL} $${TOOL} {env.GONE}; done";
        let text = Text {
            value: command.to_owned(),
            span: Span::default(),
        };
        let mut report = Report::default();
        assert_eq!(
            scope.command(&text, &mut report),
            "for i in 1; do make ${TOOL} $${TOOL} {env.GONE}; done"
        );
    }

    #[test]
    fn a_default_that_is_named_moves_to_where_it_is_named() {
        let environment = environment(&[("A", "${WORKDIR}"), ("WORKDIR", "${WORKDIR}/app")]);
        let names: Vec<&str> = environment
            .entries()
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "USER",
                "HABITAT_PATH",
                "SYSTEM_PATH",
                "SHARED_PATH",
                "LOCAL_PATH",
                "A",
                "WORKDIR"
            ]
        );
        assert_eq!(
            expand(&environment, "${A} ${WORKDIR}"),
            Ok("/workspace /workspace/app".to_owned())
        );
    }
}
