//! YAML text as a tree that knows where everything stands.
//!
//! Types are asked of a node, not guessed by it: a plain scalar keeps its text, so that `0644`, `1.10` and `no` are what
//! was written. Aliases are expanded (within a bound), merge keys are applied, a key that comes twice is a problem like
//! any other.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle};

use super::report::Report;
use crate::dockerfile::Span;

/// Nodes that a file may have once its aliases are expanded.
const NODES_MAX: usize = 100_000;
/// How deep collections may lie in each other.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
    /// A tag that is not YAML's own, as written: `!reset`.
    pub(super) tag: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar { text: String, plain: bool },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// Null: nothing, `~` or `null`, unquoted.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The text of a scalar that is a string by YAML 1.2's core schema.
    pub(super) fn as_string(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, plain } if !plain || (self.kind() == "a string") => Some(text),
            _ => None,
        }
    }

    /// The text of any scalar but null.
    pub(super) fn as_scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_null() => Some(text),
            _ => None,
        }
    }

    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a map",
            Value::Scalar { plain: false, .. } => "a string",
            Value::Scalar { text, .. } => match text.as_str() {
                _ if self.is_null() => "nothing",
                "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => "a truth value",
                text if is_number(text) => "a number",
                _ => "a string",
            },
        }
    }
}

/// Numbers as the core schema of YAML 1.2.2 (section 10.3.2) has them.
fn is_number(text: &str) -> bool {
    let all =
        |digits: &str, allowed: fn(char) -> bool| !digits.is_empty() && digits.chars().all(allowed);
    if let Some(digits) = text.strip_prefix("0o") {
        return all(digits, |digit| digit.is_digit(8));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |digit| digit.is_ascii_hexdigit());
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let begins_with_digit = unsigned
        .trim_start_matches('.')
        .starts_with(|first: char| first.is_ascii_digit());
    begins_with_digit && unsigned.parse::<f64>().is_ok()
}

/// Reads the one document of a file whose first byte counts as `start`. What cannot be read at all is a single problem;
/// `None` then.
pub(super) fn parse(text: &str, start: usize, report: &mut Report) -> Option<Node> {
    let options = {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options
    };
    let mut composer = Composer {
        events: Parser::new_from_str_with_options(text, options),
        text,
        start,
        anchors: HashMap::new(),
        nodes: 0,
        report,
    };
    match composer.document() {
        Ok(root) => root,
        Err(Stop {
            span,
            message,
            help,
        }) => {
            let help = help.unwrap_or_else(|| {
                "mend this first; what stands after it has not been looked at".to_owned()
            });
            report
                .error("habitat::yaml", span, message)
                .label("the file cannot be read from here on")
                .help(help);
            None
        }
    }
}

struct Composer<'t, 'r, I: Iterator> {
    events: I,
    text: &'t str,
    /// What the first byte counts as.
    start: usize,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    report: &'r mut Report,
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// Why reading ends.
struct Stop {
    span: Span,
    message: String,
    help: Option<String>,
}

type Item<'t> =
    Result<(Event<'t>, serde_saphyr::granit_parser::Span), serde_saphyr::granit_parser::ScanError>;

impl<'t, I: Iterator<Item = Item<'t>>> Composer<'t, '_, I> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Stop> {
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                let (start, end) = (
                    span.start.byte_offset().unwrap_or(0),
                    span.end.byte_offset().unwrap_or(0),
                );
                // The end of a block scalar may lie after the blank lines that follow it.
                let end = start
                    + self
                        .text
                        .get(start..end)
                        .map_or(0, |source| source.trim_end().len());
                Ok(Some((
                    event,
                    Span {
                        start: self.start + start,
                        end: self.start + end,
                        line: line_number(span.start.line()),
                    },
                )))
            }
            Some(Err(error)) => {
                let at = error
                    .marker()
                    .byte_offset()
                    .unwrap_or(self.text.len())
                    .min(self.text.len());
                let end = self.text[at..]
                    .chars()
                    .next()
                    .map_or(at, |first| at + first.len_utf8());
                Err(Stop {
                    span: Span {
                        start: self.start + at,
                        end: self.start + end,
                        line: line_number(error.marker().line()),
                    },
                    message: format!("this is no YAML: {}", error.info()),
                    help: None,
                })
            }
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(Stop {
                        span,
                        message: "a second document begins".to_owned(),
                        help: Some("keep one habitat in each file".to_owned()),
                    });
                }
                Event::DocumentStart(..) => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        Ok(root)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Stop> {
        self.count(1, span)?;
        if depth > DEPTH_MAX {
            return Err(too_much(
                span,
                format!("collections lie more than {DEPTH_MAX} deep in each other"),
            ));
        }
        let own_tag = |tag: &Option<std::borrow::Cow<'t, serde_saphyr::granit_parser::Tag>>| {
            tag.as_ref()
                .filter(|tag| tag.handle() != "tag:yaml.org,2002:")
                .map(|tag| format!("!{}", tag.suffix()))
        };
        let (anchor, node) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_str = tag.as_ref().is_some_and(|tag| {
                    tag.handle() == "tag:yaml.org,2002:" && tag.suffix() == "str"
                });
                let plain = style == ScalarStyle::Plain && !is_str;
                let tag = own_tag(&tag);
                (
                    anchor,
                    Node {
                        span,
                        value: Value::Scalar {
                            text: text.into_owned(),
                            plain,
                        },
                        tag,
                    },
                )
            }
            Event::SequenceStart(_, anchor, tag) => {
                let tag = own_tag(&tag);
                let mut items = Vec::new();
                while let Some((event, at)) = self.next()? {
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, at, depth + 1)?);
                }
                let end = items
                    .last()
                    .map_or(span.end, |item| item.span.end)
                    .max(span.end);
                (
                    anchor,
                    Node {
                        span: Span { end, ..span },
                        value: Value::Sequence(items),
                        tag,
                    },
                )
            }
            Event::MappingStart(_, anchor, tag) => {
                let tag = own_tag(&tag);
                let mut entries = Vec::new();
                while let Some((event, at)) = self.next()? {
                    if matches!(event, Event::MappingEnd) {
                        break;
                    }
                    let key = self.node(event, at, depth + 1)?;
                    let Some((event, at)) = self.next()? else {
                        break;
                    };
                    let value = self.node(event, at, depth + 1)?;
                    entries.push((key, value));
                }
                let end = entries
                    .last()
                    .map_or(span.end, |(key, value)| value.span.end.max(key.span.end));
                let end = end.max(span.end);
                let entries = self.merged(entries)?;
                (
                    anchor,
                    Node {
                        span: Span { end, ..span },
                        value: Value::Mapping(entries),
                        tag,
                    },
                )
            }
            Event::Alias(id) => {
                let Some(target) = self.anchors.get(&id).cloned() else {
                    return Err(too_much(
                        span,
                        "an alias lies within what it names".to_owned(),
                    ));
                };
                self.count(size(&target), span)?;
                (0, target)
            }
            _ => (
                0,
                Node {
                    span,
                    value: Value::Scalar {
                        text: String::new(),
                        plain: true,
                    },
                    tag: None,
                },
            ),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Applies `<<` and points at keys that come twice.
    fn merged(&mut self, entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, Stop> {
        let mut own: Vec<(Node, Node)> = Vec::with_capacity(entries.len());
        let mut inherited = Vec::new();
        for (key, value) in entries {
            let name = key.as_scalar().map(str::to_owned);
            if matches!(&key.value, Value::Scalar { text, plain: true } if text == "<<") {
                self.count(size(&value), value.span)?;
                match value.value {
                    Value::Mapping(entries) => inherited.extend(entries),
                    Value::Sequence(maps) => {
                        for map in maps {
                            match map.value {
                                Value::Mapping(entries) => inherited.extend(entries),
                                _ => self.not_mergeable(map.span),
                            }
                        }
                    }
                    Value::Scalar { .. } => self.not_mergeable(value.span),
                }
            } else if name.is_some()
                && own
                    .iter()
                    .any(|(other, _)| other.as_scalar() == name.as_deref())
            {
                let name = name.unwrap_or_default();
                self.report
                    .error(
                        "habitat::duplicate_key",
                        key.span,
                        format!("`{name}` is given twice"),
                    )
                    .label("this is the second time")
                    .help("leave one of the two out");
            } else {
                own.push((key, value));
            }
        }
        for (key, value) in inherited {
            if !own
                .iter()
                .any(|(other, _)| other.as_scalar() == key.as_scalar())
            {
                own.push((key, value));
            }
        }
        Ok(own)
    }

    fn not_mergeable(&mut self, span: Span) {
        self.report
            .error(
                "habitat::wrong_type",
                span,
                "`<<` takes a map or a list of maps",
            )
            .label("this is neither");
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(too_much(
                span,
                format!("with its aliases expanded the file has more than {NODES_MAX} values"),
            ));
        }
        Ok(())
    }
}

fn too_much(span: Span, message: String) -> Stop {
    Stop {
        span,
        message,
        help: Some("write out what is meant, without nesting aliases".to_owned()),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::Scalar { .. } => 0,
        Value::Sequence(items) => items.iter().map(size).sum(),
        Value::Mapping(entries) => entries
            .iter()
            .map(|(key, value)| size(key) + size(value))
            .sum(),
    }
}
