//! What is mounted while a script runs: `SRC:DEST`, `SRC:DEST:rw`, `tmpfs:DEST`.

use schemars::JsonSchema;

use super::env::Scope;
use super::fields::Field;
use super::keys::{Key, Text};
use super::node::Node;
use super::report::Report;

/// What is mounted while a script runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A path beside the configuration.
    Bind {
        /// The path.
        source: Text,
        /// Where.
        target: String,
        /// Whether it can be written to; what is written is dropped.
        writable: bool,
    },
    /// A directory in memory.
    Tmpfs {
        /// Where.
        target: Text,
    },
}

impl Key for Mount {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let text = Text::read(node, report)?;
        let parts: Vec<&str> = text.value.split(':').collect();
        let at = |value: &str| Text {
            value: value.to_owned(),
            span: text.span,
        };
        match parts.as_slice() {
            ["tmpfs", target] => Some(Self::Tmpfs { target: at(target) }),
            [source, target] | [source, target, "ro"] => Some(Self::Bind {
                source: at(source),
                target: (*target).to_owned(),
                writable: false,
            }),
            [source, target, "rw"] => Some(Self::Bind {
                source: at(source),
                target: (*target).to_owned(),
                writable: true,
            }),
            _ => {
                report
                    .error(
                        "habitat::bad_mount",
                        node.span,
                        format!("`{}` is no mount", text.value),
                    )
                    .label("SRC:DEST, SRC:DEST:rw or tmpfs:DEST");
                None
            }
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        match self {
            Self::Tmpfs { target } => target.expand(scope, report),
            Self::Bind { source, target, .. } => {
                let mut at = Text {
                    value: std::mem::take(target),
                    span: source.span,
                };
                at.expand(scope, report);
                *target = at.value;
                source.expand(scope, report);
            }
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        let (value, span) = match self {
            Self::Tmpfs { target } => (format!("tmpfs:{}", target.value), target.span),
            Self::Bind {
                source,
                target,
                writable,
            } => {
                let rw = if *writable { ":rw" } else { "" };
                (format!("{}:{target}{rw}", source.value), source.span)
            }
        };
        fields.push(Field::of(name, value, span));
    }
}

impl JsonSchema for Mount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Mount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[^:]+:[^:]+(:(ro|rw))?$" })
    }
}
