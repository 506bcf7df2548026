//! The twelve phases: one table of data. A new phase is a new row and a template.

use super::fields::Field;
use super::keys::Key;
use super::node::Node;
use super::report::Report;

/// One row of [`PHASES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseRow {
    /// Its number, from 1.
    pub id: u8,
    /// Its name: what hooks, `--target` and `--rebuild-from` say.
    pub name: &'static str,
    /// What it does, for people.
    pub title: &'static str,
    /// The keys of a habitat that belong to it.
    pub keys: &'static [&'static str],
}

/// The phases in their order.
pub const PHASES: &[PhaseRow] = &[
    PhaseRow {
        id: 1,
        name: "base",
        title: "the base image",
        keys: &["base_image", "base", "image"],
    },
    PhaseRow {
        id: 2,
        name: "users",
        title: "the user, its home and its groups",
        keys: &["env"],
    },
    PhaseRow {
        id: 3,
        name: "env",
        title: "the environment",
        keys: &["env"],
    },
    PhaseRow {
        id: 4,
        name: "workdir",
        title: "the working directory",
        keys: &["env"],
    },
    PhaseRow {
        id: 5,
        name: "habitat",
        title: "the directories of the layers",
        keys: &["env"],
    },
    PhaseRow {
        id: 6,
        name: "files",
        title: "files and the layers' own content",
        keys: &["files", "entry"],
    },
    PhaseRow {
        id: 7,
        name: "repos",
        title: "the repositories",
        keys: &["repos"],
    },
    PhaseRow {
        id: 8,
        name: "tools",
        title: "the tools",
        keys: &["tools"],
    },
    PhaseRow {
        id: 9,
        name: "scripts",
        title: "the scripts",
        keys: &["scripts", "services"],
    },
    PhaseRow {
        id: 10,
        name: "verify",
        title: "the check of the file system",
        keys: &["verify-fs"],
    },
    PhaseRow {
        id: 11,
        name: "test",
        title: "the tests",
        keys: &["tests", "services"],
    },
    PhaseRow {
        id: 12,
        name: "final",
        title: "the image as it is used",
        keys: &["entry", "labels", "services"],
    },
];

/// Names a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhaseId(u8);

macro_rules! phases {
    ($($name:ident = $id:literal: $doc:literal;)*) => {
        impl PhaseId {
            $(#[doc = $doc] pub const $name: Self = Self($id);)*
        }
    };
}
phases! {
    BASE = 1: "The base image.";
    USERS = 2: "The user.";
    ENV = 3: "The environment.";
    WORKDIR = 4: "The working directory.";
    HABITAT = 5: "The layers' directories.";
    FILES = 6: "Files.";
    REPOS = 7: "Repositories.";
    TOOLS = 8: "Tools.";
    SCRIPTS = 9: "Scripts.";
    VERIFY = 10: "verify-fs.";
    TEST = 11: "Tests.";
    FINAL = 12: "The image as it is used.";
}

impl PhaseId {
    /// All of them in order.
    pub fn all() -> impl Iterator<Item = Self> {
        PHASES.iter().map(|row| Self(row.id))
    }

    /// The phase of this name or number.
    #[must_use]
    pub fn find(name_or_id: &str) -> Option<Self> {
        PHASES
            .iter()
            .find(|row| row.name == name_or_id || row.id.to_string() == name_or_id)
            .map(|row| Self(row.id))
    }

    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static PhaseRow {
        &PHASES[usize::from(self.0) - 1]
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

impl Key for PhaseId {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let Some(written) = node.as_scalar() else {
            report
                .error(
                    "habitat::wrong_type",
                    node.span,
                    format!("a phase is named here, not {}", node.kind()),
                )
                .label("a name or a number from 1 to 12")
                .help("`shmocker habitat phases` lists them all");
            return None;
        };
        let found = Self::find(written);
        if found.is_none() {
            report
                .error(
                    "habitat::unknown_phase",
                    node.span,
                    format!("unknown phase `{written}`"),
                )
                .label("a build has a fixed set of phases, and this is not one")
                .near(written, PHASES.iter().map(|row| row.name), known());
        }
        found
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field {
            name: name.to_owned(),
            value: self.name().to_owned(),
            span: None,
        });
    }
}

/// A sentence that names every phase.
fn known() -> String {
    let names: Vec<&str> = PHASES.iter().map(|row| row.name).collect();
    format!("the phases are {}", names.join(", "))
}

impl schemars::JsonSchema for PhaseId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Phase".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: Vec<serde_json::Value> = PHASES
            .iter()
            .flat_map(|row| [row.name.into(), row.id.into(), row.id.to_string().into()])
            .collect();
        schemars::json_schema!({ "description": "A phase, by its name or its number.", "enum": names })
    }
}
