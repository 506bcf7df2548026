//! A plan as a Dockerfile, by way of templates.
//!
//! `Dockerfile.j2` writes stages and what changes between them; each step is written by the template it names, with its
//! values as `step`. A template of the same name given by the user takes the place of the one that is built in.
//!
//! Where a line comes from is not read off its comment: the main template puts a mark before each step, which is taken
//! out again here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Value, json};

use super::fields::{self, Field, OfPhase};
use super::layer::Layers;
use super::phase::{PhaseId, PhaseRow};
use super::plan::{ContextKind, NamedContext, Phase, Place, Plan, SecretSource, Stage, Step};
use super::quote;
use super::tools::Download;
use crate::digest::Key;
use crate::dockerfile::Span;
use crate::dockerfile::suggest::nearest;

/// What a render may take before it counts as running away.
const FUEL: u64 = 10_000_000;

/// Begins a line that says where the next ones come from; a character of no meaning that text does not have.
const MARK: char = '\u{E0F7}';

macro_rules! built_in {
    ($($name:literal,)*) => {
        const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../templates/", $name))),)*];
    };
}
built_in! {
    "Dockerfile.j2",
    "copy.j2",
    "directory.j2",
    "download.j2",
    "env.j2",
    "extras.j2",
    "final.j2",
    "gate.j2",
    "habitat.j2",
    "judge.j2",
    "launch.j2",
    "marker.j2",
    "modes.j2",
    "script.j2",
    "service.j2",
    "test.j2",
    "users.j2",
    "verify.j2",
    "workdir.j2",
}

/// The templates in use.
#[derive(Debug, Clone)]
pub struct Templates(BTreeMap<String, String>);

impl Default for Templates {
    fn default() -> Self {
        Self(
            BUILT_IN
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                .collect(),
        )
    }
}

/// A template is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum TemplateError {
    /// A file that is given in place of a template that does not exist.
    #[error("`{name}` is the name of no template")]
    #[diagnostic(code(habitat::unknown_template), help("{help}"))]
    Unknown {
        /// Its name.
        name: String,
        /// The way out.
        help: String,
    },
    /// It cannot be read or filled in.
    #[error("the template `{name}` fails at line {line}: {message}")]
    #[diagnostic(
        code(habitat::bad_template),
        help("mend the template, or build without `--templates`")
    )]
    Failed {
        /// The template.
        name: String,
        /// The line in it.
        line: usize,
        /// Why.
        message: String,
        /// The bytes of the template that it is about.
        range: Option<(usize, usize)>,
    },
}

impl Templates {
    /// The built-in templates with some of them replaced: names, such as `users.j2`, and texts.
    ///
    /// # Errors
    /// A name that no template has.
    pub fn with(
        replaced: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, TemplateError> {
        let mut templates = Self::default();
        for (name, text) in replaced {
            if !templates.0.contains_key(&name) {
                let names = || BUILT_IN.iter().map(|(name, _)| *name);
                let help = match nearest(&name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "the templates are {}",
                        names().collect::<Vec<_>>().join(", ")
                    ),
                };
                return Err(TemplateError::Unknown { name, help });
            }
            templates.0.insert(name, text);
        }
        Ok(templates)
    }

    /// The names and texts of the built-in templates.
    #[must_use]
    pub fn built_in() -> &'static [(&'static str, &'static str)] {
        BUILT_IN
    }
}

/// A Dockerfile and what belongs to it.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Its text.
    pub dockerfile: String,
    /// The trees that it names.
    pub contexts: Vec<NamedContext>,
    /// Which of its lines come from which line of the habitat, in order, not overlapping.
    pub origins: Vec<Origin>,
    /// Its phases, in order.
    pub phases: Vec<PhasePlan>,
    /// What it downloads.
    pub downloads: Vec<Download>,
    /// The secrets that it mounts.
    pub secrets: Vec<SecretSource>,
}

impl Rendered {
    /// Where a line of the Dockerfile comes from.
    #[must_use]
    pub fn origin(&self, line: u32) -> Option<&Origin> {
        self.origins
            .iter()
            .find(|origin| (origin.first..=origin.last).contains(&line))
    }
}

/// Where some lines come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The first line of the Dockerfile, from 1.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// The file of the layer.
    pub file: String,
    /// The line in it, from 1.
    pub line: u32,
}

/// A phase as it is rendered.
#[derive(Debug, Clone)]
pub struct PhasePlan {
    /// Its number.
    pub id: u8,
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub title: &'static str,
    /// The stages it is made of, in order; the one that bears its name is the last.
    pub stages: Vec<String>,
    /// How many items run before its core.
    pub hooks_before: usize,
    /// How many items run after it.
    pub hooks_after: usize,
    /// Whether it has nothing to do.
    pub empty: bool,
    /// The values of the habitat that it is made from, and its templates by their digests.
    pub fields: Vec<Field>,
    /// Values of the habitat that no phase claims.
    pub unclaimed: Vec<Field>,
    /// What is done in it, in words, and where that is written.
    pub items: Vec<(String, Option<Span>)>,
}

impl Plan {
    /// Writes the Dockerfile.
    ///
    /// # Errors
    /// The template that cannot be read or filled in.
    pub fn render(&self, templates: &Templates) -> Result<Rendered, TemplateError> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax
            .trim_blocks(true)
            .lstrip_blocks(true)
            .keep_trailing_newline(true);
        if let Ok(syntax) = syntax.build() {
            environment.set_syntax(syntax);
        }
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_debug(true);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("sh", |value: String| quote::shell(&value));
        for (name, text) in &templates.0 {
            environment
                .add_template(name, text)
                .map_err(|error| failed(&error))?;
        }

        let mut spans = Vec::new();
        let phases: Vec<Value> = self
            .phases
            .iter()
            .map(|phase| self.phase_values(phase, &mut spans))
            .collect();
        let values = json!({
            "name": self.name,
            "file": one_line(&self.layers.main().file),
            "platform": self.platform,
            "contexts": self.contexts.iter().map(|context| context_values(context, &self.layers)).collect::<Vec<_>>(),
            "phases": phases,
        });
        let marked = environment
            .get_template("Dockerfile.j2")
            .and_then(|main| main.render(minijinja::value::Serde(values)))
            .map_err(|error| failed(&error))?;
        let mut values: HashMap<_, _> = fields::by_phase(&self.fields).into_iter().collect();
        let (dockerfile, origins) = self.without_marks(&marked, &spans);
        let mut phases: Vec<PhasePlan> = self
            .phases
            .iter()
            .map(|phase| phase_plan(phase, &self.phases, &mut values, templates))
            .collect();
        // The stages of a Dockerfile that is the base are a part of that phase; they go by the name of the context.
        let under = self
            .contexts
            .iter()
            .find(|context| matches!(context.kind, ContextKind::Dockerfile { .. }));
        if let (Some(under), Some(base)) = (under, phases.first_mut()) {
            base.stages.insert(0, under.name.clone());
        }
        Ok(Rendered {
            dockerfile,
            contexts: self.contexts.clone(),
            origins,
            phases,
            downloads: self.downloads.clone(),
            secrets: self.secrets.clone(),
        })
    }

    /// The values of a phase for the main template; where its steps come from is added to `spans`.
    fn phase_values(&self, phase: &Phase, spans: &mut Vec<Option<Span>>) -> Value {
        let PhaseRow {
            id, name, title, ..
        } = phase.id.row();
        let stages: Vec<Value> = phase
            .stages
            .iter()
            .map(|stage| {
                let steps: Vec<Value> = stage
                    .steps
                    .iter()
                    .map(|step| {
                        let from = step.at.map(|span| one_line(&self.layers.line_of(span)));
                        spans.push(step.at);
                        let mut values = step_values(step);
                        values["from"] = json!(from);
                        values["mark"] = json!(format!("{MARK}{}", spans.len()));
                        values
                    })
                    .collect();
                json!({ "name": stage.name, "from": stage.from, "mark": format!("{MARK}0"), "steps": steps })
            })
            .collect();
        json!({ "id": id, "name": name, "title": title, "mark": format!("{MARK}0"), "stages": stages })
    }

    /// Takes the marks out of the text and says what they said.
    fn without_marks(&self, marked: &str, spans: &[Option<Span>]) -> (String, Vec<Origin>) {
        let mut text = String::with_capacity(marked.len());
        let mut origins: Vec<Origin> = Vec::new();
        let mut line = 0;
        let mut from: Option<(&str, u32)> = None;
        for content in marked.lines() {
            let mark = content
                .strip_prefix(MARK)
                .and_then(|number| number.parse::<usize>().ok());
            if let Some(number) = mark {
                let span = number.checked_sub(1).and_then(|index| *spans.get(index)?);
                from = span.map(|span| (self.layers.locate(span).0.file.as_str(), span.line));
                continue;
            }
            // One blank line is enough between two parts.
            if content.is_empty() && text.ends_with("\n\n") && mark.is_none() && from.is_none() {
                continue;
            }
            line += 1;
            text.push_str(content);
            text.push('\n');
            let Some((file, from)) = from.filter(|_| !content.is_empty()) else {
                continue;
            };
            match origins.last_mut().filter(|origin| {
                origin.line == from && origin.file == file && origin.last + 2 >= line
            }) {
                Some(origin) => origin.last = line,
                None => origins.push(Origin {
                    first: line,
                    last: line,
                    file: file.to_owned(),
                    line: from,
                }),
            }
        }
        (text, origins)
    }
}

/// What a template sees of a step.
fn step_values(step: &Step) -> Value {
    let mut values = match &step.values {
        Value::Object(values) => values.clone(),
        _ => serde_json::Map::new(),
    };
    values.insert("template".to_owned(), json!(step.template));
    values.insert("said".to_owned(), json!(one_line(&step.said)));
    values.insert("user".to_owned(), json!(step.user));
    values.insert(
        "workdir".to_owned(),
        json!(step.workdir.as_deref().map(quote::word)),
    );
    values.insert(
        "shell".to_owned(),
        json!(step.shell.as_deref().map(quote::json)),
    );
    values.insert("extras".to_owned(), json!(step.extras));
    Value::Object(values)
}

/// The templates that a phase is written with. What stands apart, with nothing below it (a tool, a service), belongs to
/// every phase that takes from it, wherever the first of them has put it.
fn templates_of<'p>(phase: &Phase, phases: &'p [Phase]) -> BTreeSet<&'p str> {
    let all = || phases.iter().flat_map(|phase| &phase.stages);
    let own = || {
        let stages = phases.iter().filter(|known| known.id == phase.id);
        stages
            .flat_map(|phase| &phase.stages)
            .filter(|stage| !stage.is_apart())
    };
    let is_taken = |stage: &&Stage| {
        let mut steps = own().flat_map(|stage| &stage.steps);
        stage.is_apart() && steps.any(|step| step.takes_from(&stage.name))
    };
    own()
        .chain(all().filter(is_taken))
        .flat_map(|stage| &stage.steps)
        .filter_map(|step| step.template)
        .collect()
}

fn phase_plan(
    phase: &Phase,
    phases: &[Phase],
    values: &mut HashMap<PhaseId, OfPhase>,
    templates: &Templates,
) -> PhasePlan {
    let row = phase.id.row();
    let steps = || phase.stages.iter().flat_map(|stage| &stage.steps);
    let OfPhase {
        own: mut fields,
        unclaimed,
    } = values.remove(&phase.id).unwrap_or_default();
    let mut used = templates_of(phase, phases);
    if !used.is_empty() {
        used.insert("Dockerfile.j2");
    }
    for name in used {
        let text = templates.0.get(name).map(String::as_str);
        fields.push(Field {
            name: format!("template {name}"),
            value: Key::of(text.unwrap_or_default().as_bytes()).short(),
            span: None,
        });
    }
    let items = steps()
        .filter(|step| step.template.is_some() && !step.said.is_empty())
        .map(|step| (one_line(&step.said), step.at));
    PhasePlan {
        id: row.id,
        name: row.name,
        title: row.title,
        stages: phase
            .stages
            .iter()
            .map(|stage| stage.name.clone())
            .collect(),
        hooks_before: phase.before,
        hooks_after: phase.after,
        empty: row.id != 1
            && !steps().any(|step| step.template.is_some() || step.workdir.is_some()),
        fields,
        unclaimed,
        items: items.collect(),
    }
}

/// What is said of a context.
pub(super) fn context_values(context: &NamedContext, layers: &Layers) -> Value {
    let name = &context.name;
    let (flag, said) = match &context.kind {
        ContextKind::Debian {
            suite, packages, ..
        } if packages.is_empty() => (
            format!("oci-layout://./{name}:latest"),
            format!("Debian {suite}"),
        ),
        ContextKind::Debian {
            suite, packages, ..
        } => (
            format!("oci-layout://./{name}:latest"),
            format!("Debian {suite} with {}", packages.join(", ")),
        ),
        ContextKind::OciLayout { path, .. } => (
            format!("oci-layout://./{name}:latest"),
            format!("the image in {path}"),
        ),
        ContextKind::Dockerfile { path, target, .. } => {
            let target = target
                .as_ref()
                .map(|target| format!("the stage {target} of "));
            (
                format!("oci-layout://./{name}:latest"),
                format!("the image of {}{path}", target.unwrap_or_default()),
            )
        }
        ContextKind::Repository { url, reference, .. } => {
            let reference = reference
                .as_ref()
                .map(|reference| format!(" at {reference}"))
                .unwrap_or_default();
            (
                format!("./{name}"),
                format!("{}{reference}", super::repos::without_credentials(url)),
            )
        }
        ContextKind::Directory(Place::Layer(index)) => (
            format!("./{name}"),
            format!("the directory of {}", layers.all()[*index].file),
        ),
        ContextKind::Directory(Place::Root) => (format!("./{name}"), "ROOT".to_owned()),
        ContextKind::Directory(Place::Home) => (format!("./{name}"), "the host's home".to_owned()),
    };
    json!({ "name": name, "flag": flag, "said": one_line(&said) })
}

/// For a comment: no line break ends it early.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn failed(error: &minijinja::Error) -> TemplateError {
    // The innermost error is the one that names the place.
    let mut innermost = error;
    while let Some(source) = std::error::Error::source(innermost)
        .and_then(|source| source.downcast_ref::<minijinja::Error>())
    {
        innermost = source;
    }
    TemplateError::Failed {
        name: innermost.name().unwrap_or("Dockerfile.j2").to_owned(),
        line: innermost.line().unwrap_or(0),
        message: innermost
            .detail()
            .map_or_else(|| innermost.kind().to_string(), str::to_owned),
        range: innermost.range().map(|range| (range.start, range.end)),
    }
}
