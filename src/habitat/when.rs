//! Conditions of scripts: `when: {arch: amd64}`, which is known when the habitat is planned, and `when: COMMAND`, which is
//! asked where the script would run.

use schemars::JsonSchema;

use super::env::Scope;
use super::fields::Field;
use super::keys::{Command, Key, OneOrMore, Text, keys};
use super::node::{Node, Value};
use super::report::Report;
use super::tools::architecture_names;

keys! {
    /// When a script is run.
    Condition is "when" {
        /// Only on this architecture, or one of these, as images name them: amd64, arm64.
        #[schemars(with = "Option<OneOrMore<String>>")]
        arch: Option<OneOrMore<Text>> = "arch",
        /// Only where this command succeeds. It is asked before each command of the script, as who runs it; where it
        /// fails, that command is left out, and the log says so.
        command: Option<Command> = "command",
    }
}

/// A [`Condition`], which may be written as a string: its `command`.
#[derive(Debug, Clone)]
pub struct When(pub Condition);

impl Key for When {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let condition = match &node.value {
            Value::Mapping(_) => Condition::read(node, report)?,
            _ => Condition {
                arch: None,
                command: Some(Command::read(node, report)?),
                span: node.span,
                reset: Vec::new(),
            },
        };
        for arch in condition.arch.iter().flat_map(|arch| &arch.0) {
            if !architecture_names().any(|name| name == arch.value) {
                let all: Vec<&str> = architecture_names().collect();
                report
                    .error(
                        "habitat::unknown_architecture",
                        arch.span,
                        format!("unknown architecture `{}`", arch.value),
                    )
                    .label("as images name it")
                    .near(
                        &arch.value,
                        architecture_names(),
                        format!("one of {}", all.join(", ")),
                    );
            }
        }
        Some(Self(condition))
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0.expand(scope, report);
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        match &self.0 {
            // Both ways to write a command are one value.
            Condition {
                arch: None,
                command: Some(command),
                ..
            } => command.fields(name, fields),
            condition => condition.fields(name, fields),
        }
    }
}

impl JsonSchema for When {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "When".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<Condition>()] })
    }
}

impl When {
    /// Whether it holds on an architecture, as far as that decides.
    pub(super) fn holds_on(&self, architecture: &str) -> bool {
        let named = self.0.arch.as_ref();
        named.is_none_or(|names| names.0.iter().any(|name| name.value == architecture))
    }

    /// Lines of shell that end a command's shell without an error unless the condition holds.
    pub(super) fn guard(&self) -> Option<String> {
        let Command(command) = self.0.command.as_ref()?;
        let asked = command.value.trim_end();
        Some(format!(
            "if ! (\n{asked}\n); then echo 'left out: its condition does not hold'; exit 0; fi"
        ))
    }
}
