//! How a value is read from YAML: the trait [`Key`], the plain kinds of values, and the macro that makes a map's type,
//! its reader and its schema from one list of keys.
//!
//! Reading goes on after an error, so that one run tells all of them: what is broken is left out.

use schemars::JsonSchema;

use super::env::Scope;
use super::fields::{self, Field};
use super::migrate;
use super::node::{Node, Value};
use super::phase::PHASES;
use super::report::Report;
use crate::dockerfile::Span;
use crate::dockerfile::suggest::nearest;

/// A kind of value that a key can have.
pub(super) trait Key: Sized {
    /// Reads it; what is wrong is reported, and `None` returned if nothing can be made of it.
    fn read(node: &Node, report: &mut Report) -> Option<Self>;

    /// The value where the key is missing; `None`: it must be there.
    fn absent() -> Option<Self> {
        None
    }

    /// Lays the value of a later layer over this one: the later wins, unless the kind of value says otherwise.
    fn overlay(&mut self, later: Self) {
        *self = later;
    }

    /// Replaces the names of environment entries in every string.
    fn expand(&mut self, _scope: &Scope<'_>, _report: &mut Report) {}

    /// Says what it is: one or more values under `name`.
    fn fields(&self, name: &str, fields: &mut Vec<Field>);
}

/// A string and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The string, after expansion.
    pub value: String,
    /// Where it was written.
    pub span: Span,
}

impl Text {
    /// The string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

/// A string that a shell will read: only `{env.NAME}` is expanded in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command(pub Text);

/// A string, or a number or truth value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar(pub Text);

/// `true` or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flag {
    /// Which.
    pub value: bool,
    /// Where it was written.
    pub span: Span,
}

/// A whole number from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// The number.
    pub value: u32,
    /// Where it was written.
    pub span: Span,
}

/// Permissions: `644`, `"0644"` and `0o644` are all octal 644.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// The bits.
    pub bits: u32,
    /// Where it was written.
    pub span: Span,
}

/// A length of time: `500ms`, `30s`, `10m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duration {
    /// In milliseconds.
    pub ms: u64,
    /// Where it was written.
    pub span: Span,
}

/// A list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// One, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

fn wrong_type(node: &Node, wanted: &str, report: &mut Report) {
    report
        .error(
            "habitat::wrong_type",
            node.span,
            format!("{} stands where {wanted} belongs", node.kind()),
        )
        .label(format!("this must be {wanted}"));
}

impl Key for Text {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match (node.as_string(), node.as_scalar()) {
            (Some(value), _) => Some(Self {
                value: value.to_owned(),
                span: node.span,
            }),
            (None, Some(written)) => {
                report
                    .error(
                        "habitat::wrong_type",
                        node.span,
                        format!("{} stands where a string belongs", node.kind()),
                    )
                    .label("YAML does not read this as a string")
                    .help(format!("put it in quotes: \"{written}\""));
                None
            }
            (None, None) => {
                wrong_type(node, "a string", report);
                None
            }
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.value = scope.text(self, report);
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field::of(name, self.as_str(), self.span));
    }
}

impl Key for Command {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        Scalar::read(node, report).map(|Scalar(command)| Self(command))
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0.value = scope.command(&self.0, report);
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        self.0.fields(name, fields);
    }
}

impl Key for Scalar {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let Some(value) = node.as_scalar() else {
            wrong_type(node, "a string", report);
            return None;
        };
        Some(Self(Text {
            value: value.to_owned(),
            span: node.span,
        }))
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0.expand(scope, report);
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        self.0.fields(name, fields);
    }
}

impl Key for Flag {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let value = match node.as_scalar() {
            Some("true" | "True" | "TRUE") if node.as_string().is_none() => true,
            Some("false" | "False" | "FALSE") if node.as_string().is_none() => false,
            _ => {
                wrong_type(node, "`true` or `false`", report);
                return None;
            }
        };
        Some(Self {
            value,
            span: node.span,
        })
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field::of(name, self.value.to_string(), self.span));
    }
}

impl Key for Count {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let value = node
            .as_scalar()
            .filter(|_| node.as_string().is_none())
            .and_then(|text| text.parse().ok());
        if value.is_none() {
            wrong_type(node, "a whole number", report);
        }
        Some(Self {
            value: value?,
            span: node.span,
        })
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field::of(name, self.value.to_string(), self.span));
    }
}

impl Key for Mode {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let written = node.as_scalar().unwrap_or_default();
        let digits = written.strip_prefix("0o").unwrap_or(written);
        let bits = u32::from_str_radix(digits, 8)
            .ok()
            .filter(|bits| *bits <= 0o7777 && !digits.starts_with('+'));
        if bits.is_none() {
            report
                .error(
                    "habitat::bad_mode",
                    node.span,
                    format!("`{written}` is no mode"),
                )
                .label("a mode has three or four octal digits")
                .help("write it as chmod takes it: 644, \"0755\" or 0o600");
        }
        Some(Self {
            bits: bits?,
            span: node.span,
        })
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field::of(name, format!("{:04o}", self.bits), self.span));
    }
}

impl Key for Duration {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let written = node.as_scalar().unwrap_or_default();
        let ms = milliseconds(written);
        if ms.is_none() {
            report
                .error(
                    "habitat::bad_duration",
                    node.span,
                    format!("`{written}` is no length of time"),
                )
                .label("a number with its unit: ms, s, m or h")
                .help("for example 90s, 10m or 1h");
        }
        Some(Self {
            ms: ms?,
            span: node.span,
        })
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field::of(name, self.spoken(), self.span));
    }
}

impl Duration {
    /// As Go and `# shmocker:` write it.
    pub(super) fn spoken(self) -> String {
        match self.ms {
            ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
            ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
            ms => format!("{ms}ms"),
        }
    }
}

fn milliseconds(written: &str) -> Option<u64> {
    let unit_at = written.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = written.split_at(unit_at);
    let factor = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
        .filter(|ms| *ms > 0)
}

impl<T: Key> Key for Option<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        if node.is_null() {
            Some(None)
        } else {
            Some(T::read(node, report))
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn overlay(&mut self, later: Self) {
        match (self, later) {
            (_, None) => {}
            (Some(value), Some(later)) => value.overlay(later),
            (empty, later) => *empty = later,
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        if let Some(value) = self {
            value.expand(scope, report);
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        if let Some(value) = self {
            value.fields(name, fields);
        }
    }
}

impl<T: Key> Key for List<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Sequence(items) => Some(Self(
                items
                    .iter()
                    .filter_map(|item| T::read(item, report))
                    .collect(),
            )),
            _ if node.is_null() => Some(Self(Vec::new())),
            _ => {
                report
                    .error(
                        "habitat::wrong_type",
                        node.span,
                        format!("{} stands where a list belongs", node.kind()),
                    )
                    .label("this must be a list")
                    .help("begin each item with `- `");
                Some(Self(Vec::new()))
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(Self(Vec::new()))
    }

    fn overlay(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0
            .iter_mut()
            .for_each(|item| item.expand(scope, report));
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields::items(name, &self.0, fields);
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Key> Key for OneOrMore<T> {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Sequence(items) => Some(Self(
                items
                    .iter()
                    .filter_map(|item| T::read(item, report))
                    .collect(),
            )),
            _ => T::read(node, report).map(|one| Self(vec![one])),
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0
            .iter_mut()
            .for_each(|item| item.expand(scope, report));
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields::items(name, &self.0, fields);
    }
}

/// Whether a map is one thing, or is laid together from several layers key by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layering {
    /// It is one thing.
    Whole,
    /// It is laid together: `!reset` at a key drops what the layers before it say.
    ByKey,
}

/// The entries of a map whose keys are known.
pub(super) struct Entries<'n> {
    entries: &'n [(Node, Node)],
    span: Span,
    what: &'static str,
    /// The keys that are given as `!reset`.
    pub(super) reset: Vec<&'static str>,
}

impl<'n> Entries<'n> {
    /// The node as a map; keys that are not `known` are reported.
    pub(super) fn of(
        node: &'n Node,
        what: &'static str,
        known: &[&'static str],
        layering: Layering,
        report: &mut Report,
    ) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            wrong_type(node, &format!("{what} (a map)"), report);
            return None;
        };
        let mut reset = Vec::new();
        for (key, value) in entries {
            let written = key.as_scalar().unwrap_or_default();
            if !known.contains(&written) {
                if let Some(now) =
                    migrate::successor(written).filter(|_| layering == Layering::ByKey)
                {
                    let says_nothing = value.is_null()
                        || matches!(&value.value, Value::Mapping(parts) if parts.is_empty());
                    let message = format!("`{written}` is a key of an older program");
                    if says_nothing {
                        report.warning("habitat::legacy_key", key.span, message)
                    } else {
                        report.error("habitat::legacy_key", key.span, message)
                    }
                    .label(format!("{now} took its place"))
                    .help("`shmocker habitat migrate FILE` rewrites it");
                    continue;
                }
                let phase = PHASES
                    .iter()
                    .filter(|_| layering == Layering::ByKey)
                    .find(|row| nearest(written, [row.name]).is_some() || row.name == written);
                let otherwise = match phase {
                    Some(row) => format!(
                        "did you mean the phase `{}`? what it does is said by {}",
                        row.name,
                        row.keys.join(", ")
                    ),
                    None => format!("the keys of {what} are {}", known.join(", ")),
                };
                report
                    .error(
                        "habitat::unknown_key",
                        key.span,
                        format!("unknown key `{written}` in {what}"),
                    )
                    .label("this key has no meaning here")
                    .near(written, known.iter().copied(), otherwise);
            }
            match &value.tag {
                Some(tag) if tag == RESET && layering == Layering::ByKey => {
                    reset.extend(known.iter().find(|known| **known == written));
                }
                Some(tag) => refuse_tag(tag, value.span, report),
                None => {}
            }
        }
        Some(Self {
            entries,
            span: node.span,
            what,
            reset,
        })
    }

    /// The value of a key, read as a `T`. An `Err` is one that is reported already.
    pub(super) fn take<T: Key>(&self, key: &'static str, report: &mut Report) -> Option<T> {
        let Some((_, node)) = self
            .entries
            .iter()
            .find(|(name, _)| name.as_scalar() == Some(key))
        else {
            let absent = T::absent();
            if absent.is_none() {
                let start = self.span.start;
                let first = self
                    .entries
                    .first()
                    .map_or(start, |(name, _)| name.span.end);
                report
                    .error(
                        "habitat::missing_key",
                        Span {
                            end: first,
                            ..self.span
                        },
                        format!("{} has no `{key}`", self.what),
                    )
                    .label(format!("`{key}` is required"))
                    .help(format!("add `{key}:`"));
            }
            return absent;
        };
        T::read(node, report).or_else(T::absent)
    }
}

/// The tag of a value that takes the place of what the layers before it say, instead of being laid over it.
pub(super) const RESET: &str = "!reset";

fn refuse_tag(tag: &str, span: Span, report: &mut Report) {
    let entry = report.error(
        "habitat::tag",
        span,
        format!("the tag `{tag}` cannot be used here"),
    );
    if tag == RESET {
        entry
            .label("this is a part of one item, which no other layer adds to")
            .help("put !reset at the key whose earlier values are to be dropped, such as `scripts: !reset`");
    } else {
        entry
            .label("a habitat has no tags but !reset")
            .help("leave it out, or put the value in quotes");
    }
}

/// Makes a struct from a list of keys: its fields, how they are read and expanded, and its schema.
macro_rules! keys {
    (
        $(#[$meta:meta])*
        $name:ident is $what:literal $(, $layering:ident)? {
            $($(#[$doc:meta])* $field:ident: $type:ty = $key:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[$doc])*
                #[schemars(rename = $key)]
                pub $field: $type,
            )*
            /// Where it stands.
            #[schemars(skip)]
            pub span: $crate::dockerfile::Span,
            /// The keys whose values in earlier layers it drops.
            #[schemars(skip)]
            pub reset: Vec<&'static str>,
        }

        impl $name {
            const LAYERING: $crate::habitat::keys::Layering = $crate::habitat::keys::layering!($($layering)?);
        }

        impl $crate::habitat::keys::Key for $name {
            fn read(node: &$crate::habitat::node::Node, report: &mut $crate::habitat::report::Report) -> Option<Self> {
                let map = $crate::habitat::keys::Entries::of(node, $what, &[$($key),*], Self::LAYERING, report)?;
                $(let $field = map.take::<$type>($key, report);)*
                Some(Self { $($field: $field?,)* span: node.span, reset: map.reset })
            }

            fn overlay(&mut self, later: Self) {
                if Self::LAYERING == $crate::habitat::keys::Layering::Whole {
                    *self = later;
                    return;
                }
                self.span = later.span;
                $(
                    if later.reset.contains(&$key) {
                        self.$field = later.$field;
                    } else {
                        $crate::habitat::keys::Key::overlay(&mut self.$field, later.$field);
                    }
                )*
            }

            fn expand(&mut self, scope: &$crate::habitat::env::Scope<'_>, report: &mut $crate::habitat::report::Report) {
                $($crate::habitat::keys::Key::expand(&mut self.$field, scope, report);)*
            }

            fn fields(&self, name: &str, fields: &mut Vec<$crate::habitat::fields::Field>) {
                $($crate::habitat::keys::Key::fields(&self.$field, &$crate::habitat::fields::below(name, $key), fields);)*
            }
        }
    };
}
pub(super) use keys;

macro_rules! layering {
    () => {
        $crate::habitat::keys::Layering::Whole
    };
    ($layering:ident) => {
        $crate::habitat::keys::Layering::$layering
    };
}
pub(super) use layering;

macro_rules! schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
schema!(Text, "Text", { "type": "string" });
schema!(Command, "Command", { "type": ["string", "number", "boolean"] });
schema!(Scalar, "Scalar", { "type": ["string", "number", "boolean"] });
schema!(Flag, "Flag", { "type": "boolean" });
schema!(Count, "Count", { "type": "integer", "minimum": 0 });
schema!(Mode, "Mode", { "type": ["integer", "string"], "pattern": "^(0o)?[0-7]{1,4}$" });
schema!(Duration, "Duration", { "type": "string", "pattern": "^[0-9]+ *(ms|s|m|h)$" });

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["array", "null"], "items": generator.subschema_for::<T>() })
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("One_or_more_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}
