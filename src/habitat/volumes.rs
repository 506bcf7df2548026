//! What is mounted when a habitat runs. The image carries none of it: an image that says which parts of its user's home it
//! wants to see could come from anyone, so only the configuration itself is believed.

use schemars::JsonSchema;

use super::check::{Check, Habitat};
use super::env::Scope;
use super::fields::Field;
use super::keys::{Key, Text};
use super::node::Node;
use super::report::Report;

/// What is mounted when the habitat runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is on the host: beside the configuration, absolute, or `~/…`.
    pub source: Text,
    /// Where it is seen.
    pub target: Text,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

impl Key for Volume {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let text = Text::read(node, report)?;
        let at = |value: &str| Text {
            value: value.to_owned(),
            span: text.span,
        };
        let parts: Vec<&str> = text.value.split(':').collect();
        match parts.as_slice() {
            [source, target] | [source, target, "rw"] => Some(Self {
                source: at(source),
                target: at(target),
                read_only: false,
            }),
            [source, target, "ro"] => Some(Self {
                source: at(source),
                target: at(target),
                read_only: true,
            }),
            _ => {
                report
                    .error(
                        "habitat::bad_volume",
                        node.span,
                        format!("`{}` is no volume", text.value),
                    )
                    .label("SRC:DST or SRC:DST:ro");
                None
            }
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.source.expand(scope, report);
        self.target.expand(scope, report);
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        let end = if self.read_only { ":ro" } else { "" };
        let value = format!("{}:{}{end}", self.source.value, self.target.value);
        fields.push(Field::of(name, value, self.source.span));
    }
}

impl JsonSchema for Volume {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Volume".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[^:]+:[^:]+(:(ro|rw))?$" })
    }
}

impl Habitat {
    /// What is mounted when it runs; `~/` of a destination is USER's home.
    pub(super) fn volumes(&self) -> Vec<Volume> {
        let mut volumes = self.document.volumes.0.clone();
        for volume in &mut volumes {
            volume.target.value = self.at_home(&volume.target.value);
        }
        volumes
    }
}

impl Check<'_> {
    pub(super) fn volumes(&mut self) {
        let volumes = &self.document.volumes.0;
        for (index, volume) in volumes.iter().enumerate() {
            if volume.source.value.is_empty() {
                self.report
                    .error(
                        "habitat::bad_volume",
                        volume.source.span,
                        "the volume has no source",
                    )
                    .label("SRC:DST or SRC:DST:ro");
            }
            self.absolute(&volume.target, "the destination");
            let same = |earlier: &&Volume| earlier.target.value == volume.target.value;
            if let Some(earlier) = volumes[..index].iter().find(same) {
                self.report
                    .error(
                        "habitat::duplicate",
                        volume.target.span,
                        format!("two volumes are mounted at `{}`", volume.target.value),
                    )
                    .label(format!(
                        "`{}` is mounted there already",
                        earlier.source.value
                    ))
                    .help("leave one of the two out, or give it another destination");
            }
        }
    }
}
