//! A habitat as named values: `scripts[0].commands[1]`, `env.PATH`. They are what two habitats are compared by, and
//! what is remembered of a phase, so that a change can be told by its name. Which phases a value matters to is read off
//! the value's name: items run where their `before` and `after` say, all else belongs to the rows of [`PHASES`].
//!
//! Values are those after expansion. What only people read ([`Field::is_remark`]) changes nothing of a build.

use std::collections::HashMap;

use super::check::Habitat;
use super::env::Part;
use super::keys::Key;
use super::phase::{PHASES, PhaseId};
use crate::digest::without_passwords;
use crate::dockerfile::Span;

/// One value of a habitat, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// A path of keys, with the places of items: `files[2].mode`. The name of an item alone (`files[2]`) has what the
    /// item is told apart by as its value.
    pub name: String,
    /// The value in one form, whichever way it was written.
    pub value: String,
    /// Where it was written; `None`: a default.
    pub span: Option<Span>,
}

/// Keys by which an item is told apart from its neighbours: the first that it has.
const IDENTITIES: &[&str] = &["name", "id", "dest", "path", "url"];

/// Entries of the environment that have a meaning of their own, and so are a part of more phases than `env`.
const MEANT: &[&str] = &[
    "USER",
    "HOME",
    "UID",
    "GID",
    "WORKDIR",
    "SYSTEM_PATH",
    "SHARED_PATH",
    "LOCAL_PATH",
];

/// Keys that matter only when the image runs, and are no part of it.
const AT_RUN_TIME: &[&str] = &["volumes"];

/// Lists in which the order of items is no part of what they say.
pub const UNORDERED: &[&str] = &[
    "base.packages",
    "secrets",
    "tests",
    "verify-fs.required_files",
    "platforms",
    "volumes",
    "services",
    "tools",
];

impl Field {
    /// A value that was written somewhere.
    pub(super) fn of(name: &str, value: impl Into<String>, span: Span) -> Self {
        Self {
            name: name.to_owned(),
            value: without_passwords(&value.into()),
            span: Some(span),
        }
    }

    /// Whether nothing of a build depends on it.
    #[must_use]
    pub fn is_remark(&self) -> bool {
        is_remark(&self.name)
    }

    /// The top-level key that it stands under.
    #[must_use]
    pub fn key(&self) -> &str {
        let end = self.name.find(['.', '[']).unwrap_or(self.name.len());
        &self.name[..end]
    }

    /// The item that it is a part of: `files[2]`.
    #[must_use]
    pub fn item(&self) -> Option<&str> {
        let end = self.key().len();
        let close = self.name[end..].find(']')?;
        self.name[end..]
            .starts_with('[')
            .then(|| &self.name[..=end + close])
    }
}

/// Whether nothing of a build depends on the value of this name.
#[must_use]
pub fn is_remark(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let of_script = name.starts_with("scripts[") && name.matches('.').count() == 1;
    matches!(last, "description" | "optional" | "allow_home") || (of_script && last == "name")
}

/// The name of a key's value.
pub(super) fn below(name: &str, key: &str) -> String {
    if name.is_empty() {
        key.to_owned()
    } else {
        format!("{name}.{key}")
    }
}

/// The values of a list's items; before those of an item that is a map stands what it is told apart by.
pub(super) fn items<T: Key>(name: &str, list: &[T], fields: &mut Vec<Field>) {
    for (index, item) in list.iter().enumerate() {
        let name = format!("{name}[{index}]");
        let start = fields.len();
        item.fields(&name, fields);
        let own = &fields[start..];
        let identity = IDENTITIES.iter().find_map(|key| {
            let wanted = below(&name, key);
            own.iter().find(|field| field.name == wanted)
        });
        if let Some(identity) = identity {
            let identity = Field {
                name,
                ..identity.clone()
            };
            fields.insert(start, identity);
        }
    }
}

impl Habitat {
    /// All of its values. The environment comes as it is in the end; what the base image has to say of it is `${NAME}`.
    #[must_use]
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        self.document.fields("", &mut fields);
        for entry in self.environment.entries() {
            let value: String = entry
                .parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Base(name) => format!("${{{name}}}"),
                })
                .collect();
            fields.push(Field {
                name: format!("env.{}", entry.name),
                value: without_passwords(&value),
                span: entry.span,
            });
        }
        fields
    }
}

impl Habitat {
    /// Those of its values that belong to a phase, remarks among them.
    #[must_use]
    pub fn fields_of(&self, phase: PhaseId) -> Vec<Field> {
        let all = self.fields();
        let hooks = hooks(&all);
        let belongs = |field: &&Field| belongs(field, &hooks, phase) == Some(true);
        all.iter().filter(belongs).cloned().collect()
    }
}

/// What the values of a habitat have to do with one phase.
#[derive(Debug, Clone, Default)]
pub(super) struct OfPhase {
    /// Those that belong to it.
    pub(super) own: Vec<Field>,
    /// Those that no phase claims: they may matter to any.
    pub(super) unclaimed: Vec<Field>,
}

/// Sorts the values by phase.
pub(super) fn by_phase(fields: &[Field]) -> Vec<(PhaseId, OfPhase)> {
    let hooks = hooks(fields);
    let of_phase = |phase| {
        let mut sorted = OfPhase::default();
        for field in fields.iter().filter(|field| !field.is_remark()) {
            match belongs(field, &hooks, phase) {
                Some(true) => sorted.own.push(field.clone()),
                Some(false) => {}
                None => sorted.unclaimed.push(field.clone()),
            }
        }
        (phase, sorted)
    };
    PhaseId::all().map(of_phase).collect()
}

/// The phases before or after which items run, by item; of services, those of the items that need them.
type Hooks<'f> = HashMap<&'f str, Vec<&'f str>>;

fn hooks(fields: &[Field]) -> Hooks<'_> {
    let mut hooks: Hooks<'_> = HashMap::new();
    let mut needs = Vec::new();
    for field in fields {
        let Some(item) = field.item() else {
            continue;
        };
        let rest = &field.name[item.len()..];
        if rest.starts_with(".before[") || rest.starts_with(".after[") {
            hooks.entry(item).or_default().push(&field.value);
        } else if rest.starts_with(".needs[") {
            needs.push((item, field));
        }
    }
    for (item, needed) in needs {
        let is_needed = |field: &&Field| field.key() == "services" && field.value == needed.value;
        let service = fields
            .iter()
            .filter(|field| field.item() == Some(&*field.name));
        let Some(service) = service.into_iter().find(is_needed) else {
            continue;
        };
        let rows = || PHASES.iter().filter(|row| row.keys.contains(&needed.key()));
        let phases = match hooks.get(item) {
            Some(phases) => phases.clone(),
            None => rows().map(|row| row.name).collect(),
        };
        hooks.entry(&service.name).or_default().extend(phases);
    }
    hooks
}

/// Whether a value belongs to a phase; `None`: nothing says so of any.
fn belongs(field: &Field, hooks: &Hooks<'_>, phase: PhaseId) -> Option<bool> {
    let below = |key: &str| field.name.strip_prefix(key)?.strip_prefix('.');
    if let Some(name) = below("env") {
        return Some(phase == PhaseId::ENV || MEANT.contains(&name));
    }
    if let Some(which) = below("timeout") {
        return Some(which == "per-phase" || which == phase.name());
    }
    if field.name == "entry.bypass_habitat_construction" {
        return Some(phase == PhaseId::FILES || phase == PhaseId::SCRIPTS);
    }
    if matches!(field.key(), "entry" | "name") {
        return Some(phase == PhaseId::FINAL);
    }
    if AT_RUN_TIME.contains(&field.key()) {
        return Some(false);
    }
    let mut rows = PHASES
        .iter()
        .filter(|row| row.keys.contains(&field.key()))
        .peekable();
    if let Some(hooks) = field.item().and_then(|item| hooks.get(item)) {
        // Services run where they are needed, and in the image too.
        let is_service = field.key() == "services";
        let has_row = is_service && rows.any(|row| row.name == phase.name());
        return Some(has_row || hooks.contains(&phase.name()));
    }
    rows.peek()?;
    Some(rows.any(|row| row.name == phase.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<(String, String)> {
        let habitat = Habitat::parse(text, "config.yaml").expect("it is sound");
        habitat
            .fields()
            .into_iter()
            .filter(|field| field.span.is_some())
            .map(|field| (field.name, field.value))
            .collect()
    }

    #[test]
    fn a_value_has_one_form_whichever_way_it_is_written() {
        let short = fields(
            "name: a\nbase: {debian: bookworm, packages: [git]}\nenv: [A=1]\nscripts:\n  - commands: make\n    timeout: 90s\n\
             files:\n  - {src: x, dest: /x, mode: 644}\ntests: [t.sh]\n",
        );
        let long = fields(
            "name: \"a\"\nbase:\n  debian: bookworm\n  packages:\n    - git\nenv: {A: 1}\nscripts:\n  - commands: [make]\n    timeout: 90000ms\n\
             files:\n  - {src: x, dest: /x, mode: \"0o644\"}\ntests: [{path: t.sh}]\n",
        );
        assert_eq!(short, long);
        let named = |name: &str| {
            short
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(named("scripts[0].commands[0]"), Some("make"));
        assert_eq!(named("scripts[0].timeout"), Some("90s"));
        assert_eq!(named("files[0]"), Some("/x"));
        assert_eq!(named("files[0].mode"), Some("0644"));
        assert_eq!(named("base.packages[0]"), Some("git"));
        assert_eq!(named("env.A"), Some("1"));
        assert_eq!(named("tests[0].path"), Some("t.sh"));
    }

    #[test]
    fn values_belong_to_the_phases_in_which_their_items_run() {
        let habitat = Habitat::parse(
            "name: a\nbase: {oci: x}\nscripts:\n  - commands: one\n  - commands: two\n    after: [repos, 2]\n  - {commands: three, before: final}\n",
            "config.yaml",
        )
        .expect("it is sound");
        let all = habitat.fields();
        let commands = |phase: PhaseId| -> Vec<String> {
            let sorted = by_phase(&all).into_iter();
            let own = sorted.filter(|(id, _)| *id == phase);
            let own = own.flat_map(|(_, sorted)| sorted.own);
            own.filter(|field| field.name.ends_with("commands[0]"))
                .map(|field| field.value)
                .collect()
        };
        assert_eq!(commands(PhaseId::SCRIPTS), ["one"]);
        assert_eq!(commands(PhaseId::REPOS), ["two"]);
        assert_eq!(commands(PhaseId::USERS), ["two"]);
        assert_eq!(commands(PhaseId::FINAL), ["three"]);
    }

    #[test]
    fn a_password_is_no_part_of_a_value() {
        assert_eq!(
            without_passwords("git clone https://me:secret@host.example/x 'http://a@b'"),
            "git clone https://host.example/x 'http://b'"
        );
        assert_eq!(without_passwords("ssh://git:pw@host/x"), "ssh://git@host/x");
        assert_eq!(without_passwords("me@example.com"), "me@example.com");
    }
}
