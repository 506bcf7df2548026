//! Why something would be built again: in what a part of a build differs from what it was, told by the names that a
//! person knows.
//!
//! Whether it differs is decided by what the solver decides by, and by nothing else. The values that a person wrote
//! only give that a name; a value that has no part in what differs is not told.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::failure::Failure;
use super::parts::{Makings, Part, SourceMakings, StepMakings};
use super::plan::Planned;
use super::solve::look::CONTENT_OF;
use super::solve::{Session, store_failure};
use super::tree::file_changes;
use super::work::Named;
use crate::digest::compare::{Change, ChangeKind, changes};
use crate::digest::{Fields, Key};
use crate::graph::NodeId;

/// So many files of one directory are told one by one.
const FILES_MAX: usize = 20;
/// So much of a value is shown to a person.
const SHOWN_MAX: usize = 60;
/// Lists whose order makes no difference to what is built.
const UNORDERED: &[&str] = &["base.packages", "secrets"];

/// One of few words. By this name serde does not take it for text that is borrowed.
pub(super) type Word = &'static str;

/// Why something would be built again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What differs, by its name: `repos[1].commit`, `env.PATH`, `template script.j2`; for a phase that follows, the name
    /// of the one that it follows.
    pub field: String,
    /// `value`, `item` (one is there that was not, or not there any more), `order`, `file` (of a directory or the like),
    /// or `phase` and `step` (something before it).
    #[serde(deserialize_with = "word")]
    pub kind: Word,
    /// Which file it is, where `field` stands for several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What it was.
    pub old: Option<String>,
    /// What it is.
    pub new: Option<String>,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The file in which the new value stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What this comes from in its turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
}

/// One of the words that kinds and states have.
pub(super) fn word<'de, D: Deserializer<'de>>(given: D) -> Result<Word, D::Error> {
    const WORDS: [&str; 11] = [
        "value", "item", "order", "file", "phase", "step", "cached", "changed", "stale", "new",
        "forced",
    ];
    let text = String::deserialize(given)?;
    let known = WORDS.into_iter().find(|word| *word == text);
    known.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not known")))
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        if let Some(path) = &self.path {
            write!(f, " {path}:")?;
        }
        match (self.kind, &self.old, &self.new) {
            ("file" | "phase" | "step", _, _) | (_, None, None) => {}
            ("item", None, Some(new)) => write!(f, " added: {}", excerpt(new))?,
            ("item", Some(old), _) => write!(f, " removed: {}", excerpt(old))?,
            (kind, old, new) => {
                if kind == "order" {
                    f.write_str(" in another order:")?;
                }
                let (old, new) = pair(old.as_deref(), new.as_deref());
                write!(f, " {old} -> {new}")?;
            }
        }
        match (&self.note, self.kind) {
            (Some(note), "file") => write!(f, " {note}"),
            (Some(note), _) => write!(f, " ({note})"),
            (None, _) => Ok(()),
        }
    }
}

/// Two values as a person can tell them apart: of longer texts the first line that is not the same.
fn pair(old: Option<&str>, new: Option<&str>) -> (String, String) {
    if let (Some(old), Some(new)) = (old, new)
        && (old.contains('\n') || new.contains('\n'))
    {
        let lines = || old.lines().zip(new.lines());
        let same = lines().take_while(|(old, new)| old == new).count();
        let line = |text: &str| text.lines().nth(same).map(str::to_owned);
        let (was, is) = (line(old), line(new));
        let number = format!("line {}: ", same + 1);
        let side = |line: Option<String>| line.map_or("its end".to_owned(), |line| quoted(&line));
        return (format!("{number}{}", side(was)), side(is));
    }
    let side = |value: Option<&str>| value.map_or("unset".to_owned(), quoted);
    let (was, is) = (side(old), side(new));
    match (old, new) {
        // What begins alike is shown from where it does not.
        (Some(old), Some(new)) if was == is => {
            let same = old
                .char_indices()
                .zip(new.chars())
                .find(|((_, was), is)| was != is)
                .map_or(old.len().min(new.len()), |((at, _), _)| at);
            let start = old[..same]
                .char_indices()
                .rev()
                .nth(15)
                .map_or(0, |(at, _)| at);
            let tail = |text: &str| quoted(&format!("…{}", &text[start..]));
            (tail(old), tail(new))
        }
        _ => (was, is),
    }
}

/// A value in one line; a long name in hex by its beginning.
fn quoted(value: &str) -> String {
    let value = value.replace('\u{1f}', " ");
    let value = value.strip_prefix("sha256:").unwrap_or(&value);
    let is_hex = matches!(value.len(), 40 | 64) && value.chars().all(|it| it.is_ascii_hexdigit());
    if is_hex {
        return format!("{}…", &value[..12]);
    }
    let plain = !value.is_empty()
        && value.len() <= SHOWN_MAX
        && !value.contains(|it: char| it.is_whitespace() || it.is_control() || it == '"');
    if plain {
        return value.to_owned();
    }
    format!("\"{}\"", excerpt(value))
}

fn excerpt(value: &str) -> String {
    let mut lines = value.lines();
    let first = lines.next().unwrap_or_default();
    let mut text: String = first
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it })
        .take(SHOWN_MAX)
        .collect();
    if lines.next().is_some() || first.chars().count() > SHOWN_MAX {
        text.push('…');
    }
    text
}

/// In what a part differs from what it was.
#[derive(Debug)]
pub(super) struct Compared {
    /// Of each step, what it was.
    pub(super) steps: Vec<StepWas>,
    /// Steps that are gone.
    pub(super) gone: Vec<String>,
    /// Of each source, what it was, where that is known and not the same.
    pub(super) sources: Vec<Option<SourceMakings>>,
    /// Sources that are gone or new, or a configuration that is not the same.
    pub(super) others: bool,
    /// All fields that are not the same.
    raw: Vec<Raw>,
}

/// What a step was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepWas {
    /// The same.
    Same,
    /// Something else: these fields differ.
    Changed(Vec<Raw>),
    /// Nothing: it was not there.
    New,
}

/// A field of what the solver decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    name: String,
    old: Option<String>,
    new: Option<String>,
}

impl Compared {
    /// Whether anything differs.
    pub(super) fn differs(&self) -> bool {
        self.others
            || !self.gone.is_empty()
            || self.sources.iter().any(Option::is_some)
            || self.steps.iter().any(|step| *step != StepWas::Same)
    }

    /// Compares what a part is made from with what it was.
    pub(super) fn of(was: &Makings, now: &Makings) -> Self {
        let pairs = step_pairs(&was.steps, &now.steps);
        let mut raw = Vec::new();
        let steps = now
            .steps
            .iter()
            .zip(&pairs)
            .map(|(step, pair)| match pair {
                None => StepWas::New,
                Some(at) if is_same(&was.steps[*at].own, &step.own) => StepWas::Same,
                Some(at) => {
                    let differences = differences(&was.steps[*at].own, &step.own);
                    raw.extend(differences.iter().cloned());
                    StepWas::Changed(differences)
                }
            })
            .collect();
        let gone = was
            .steps
            .iter()
            .enumerate()
            .filter(|(at, _)| !pairs.contains(&Some(*at)))
            .map(|(_, step)| step.name.clone())
            .collect();
        let mut sources = Vec::new();
        let mut others = was.config != now.config;
        raw.extend(differences(&was.config, &now.config));
        for source in &now.sources {
            let known = was.sources.iter().find(|known| known.name == source.name);
            sources.push(match known {
                None => {
                    others = true;
                    None
                }
                Some(known) if is_same_source(known, source) => None,
                Some(known) => {
                    if let (Some(old), Some(new)) = (&known.own, &source.own) {
                        raw.extend(differences(old, new));
                    }
                    Some(known.clone())
                }
            });
        }
        others |= was
            .sources
            .iter()
            .any(|known| now.sources.iter().all(|source| source.name != known.name));
        Self {
            steps,
            gone,
            sources,
            others,
            raw,
        }
    }

    /// Whether what the steps, sources and configuration say supports that this value has a part in it.
    fn supports(&self, change: &Change) -> bool {
        let (key, rest) = change.name.split_once('.').unwrap_or((&change.name, ""));
        match key {
            "env" => self.raw.iter().any(|raw| {
                raw.name == format!("env {rest}")
                    || match (&change.old, &change.new, &raw.old, &raw.new) {
                        (Some(old), Some(new), Some(was), Some(is)) => {
                            !old.is_empty() && was.contains(old) && is.contains(new)
                        }
                        (None, Some(new), _, Some(is)) => is.contains(new),
                        (Some(old), None, Some(was), _) => was.contains(old),
                        _ => false,
                    }
            }),
            "timeout" => self.raw.iter().any(|raw| raw.name == "timeout"),
            _ => true,
        }
    }
}

fn is_same_source(was: &SourceMakings, is: &SourceMakings) -> bool {
    match (&was.own, &is.own) {
        (Some(was), Some(is)) => was == is,
        // What is not known yet is the same as far as the same is asked for.
        _ => was.asked == is.asked,
    }
}

/// Whether two lists are the same. What is not known now, since a download is not there, does not count.
fn is_same(was: &Fields, is: &Fields) -> bool {
    let mut now = is.iter().peekable();
    for (name, value) in was.iter() {
        if now.peek() == Some(&(name, value)) {
            now.next();
        } else if !(name.starts_with(CONTENT_OF) && is.get(name).is_none()) {
            return false;
        }
    }
    now.next().is_none()
}

/// For each step now the one that it was: those that are the same keep their order, and what stands between them is
/// taken in turn, as far as it is of the same kind.
fn step_pairs(was: &[StepMakings], now: &[StepMakings]) -> Vec<Option<usize>> {
    let mut pairs = vec![None; now.len()];
    // Lengths of the longest common part of what follows.
    let width = was.len() + 1;
    let mut lengths = vec![0u32; (now.len() + 1) * width];
    for at in (0..now.len()).rev() {
        for was_at in (0..was.len()).rev() {
            lengths[at * width + was_at] = if is_same(&was[was_at].own, &now[at].own) {
                lengths[(at + 1) * width + was_at + 1] + 1
            } else {
                lengths[(at + 1) * width + was_at].max(lengths[at * width + was_at + 1])
            };
        }
    }
    let (mut at, mut was_at) = (0, 0);
    while at < now.len() && was_at < was.len() {
        if is_same(&was[was_at].own, &now[at].own) {
            pairs[at] = Some(was_at);
            at += 1;
            was_at += 1;
        } else if lengths[(at + 1) * width + was_at] >= lengths[at * width + was_at + 1] {
            at += 1;
        } else {
            was_at += 1;
        }
    }
    let mut next = 0;
    for at in 0..now.len() {
        if let Some(pair) = pairs[at] {
            next = pair + 1;
            continue;
        }
        let end = pairs[at..]
            .iter()
            .flatten()
            .next()
            .copied()
            .unwrap_or(was.len());
        let alike = |was_at: &usize| was[*was_at].own.get("op") == now[at].own.get("op");
        if let Some(pair) = (next..end).find(alike) {
            pairs[at] = Some(pair);
            next = pair + 1;
        }
    }
    pairs
}

/// The fields that are not the same; several of one name count as one.
fn differences(was: &Fields, is: &Fields) -> Vec<Raw> {
    let all = |fields: &Fields, wanted: &str| {
        let values: Vec<&str> = fields
            .iter()
            .filter(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
            .collect();
        (!values.is_empty()).then(|| values.join(" "))
    };
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in is.iter().chain(was.iter()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .map(|name| Raw {
            name: name.to_owned(),
            old: all(was, name),
            new: all(is, name),
        })
        .filter(|raw| raw.old != raw.new)
        .collect()
}

/// Why a phase differs from what it was.
///
/// # Errors
/// If the store, or a file of this machine, cannot be read.
pub(super) fn of_phase(
    session: &Session<'_>,
    planned: &Planned,
    part: &Part<'_>,
    was: &Makings,
    compared: &Compared,
) -> Result<Vec<Cause>, Failure> {
    let now = &part.makings;
    let named: &[Named] = part.phase.map_or(&[], |phase| &phase.fields);
    let mut causes: Vec<Cause> = Vec::new();
    let written = changes(&was.fields, &now.fields, UNORDERED);
    for change in written.iter().filter(|change| compared.supports(change)) {
        causes.push(of_change(change, named));
    }
    for (source, was) in now.sources.iter().zip(&compared.sources) {
        if let Some(was) = was {
            let explained = causes
                .iter()
                .any(|cause| cause.field.starts_with(&format!("{}.", source.name)));
            causes.extend(of_source(source, was, explained, &now.fields));
        }
    }
    for (at, step) in compared.steps.iter().enumerate() {
        let StepWas::Changed(differences) = step else {
            continue;
        };
        for raw in differences {
            let cause = match raw.name.strip_prefix(CONTENT_OF) {
                Some(path) => {
                    let field = asks_for(&now.fields, path);
                    of_content(session, planned, part, part.steps[at], &field, path, raw)?
                }
                None => match raw.name.strip_prefix("env ") {
                    Some(name) => {
                        let field = format!("env.{name}");
                        vec![of_value(session, &field, raw)]
                    }
                    None => Vec::new(),
                },
            };
            for cause in cause {
                // A mode that was written is told as what was written.
                let is_mode = cause.kind == "file"
                    && cause
                        .note
                        .as_deref()
                        .is_some_and(|note| note.starts_with("mode "))
                    && causes
                        .iter()
                        .any(|known| known.field == format!("{}.mode", cause.field));
                if is_mode {
                    continue;
                }
                let known = causes
                    .iter()
                    .any(|known| known.field == cause.field && known.path == cause.path);
                if !known {
                    causes.push(cause);
                }
            }
        }
    }
    if causes.is_empty() {
        let unclaimed: &[Named] = part.phase.map_or(&[], |phase| &phase.unclaimed);
        let written = changes(&was.unclaimed, &now.unclaimed, UNORDERED);
        causes.extend(written.iter().map(|change| of_change(change, unclaimed)));
    }
    if causes.is_empty() {
        causes.extend(unnamed(part, compared));
    }
    if causes.is_empty() {
        causes.extend(other_sources(was, now));
    }
    Ok(causes)
}

/// Sources that were not taken from before, or are not any more.
fn other_sources(was: &Makings, now: &Makings) -> Vec<Cause> {
    let names = |makings: &Makings| -> Vec<String> {
        let sources = makings.sources.iter();
        sources.map(|source| source.name.clone()).collect()
    };
    let (was, now) = (names(was), names(now));
    let cause = |old: Option<&String>, new: Option<&String>| Cause {
        field: "source".to_owned(),
        kind: "item",
        old: old.cloned(),
        new: new.cloned(),
        ..Cause::default()
    };
    let new = now.iter().filter(|name| !was.contains(name));
    let gone = was.iter().filter(|name| !now.contains(name));
    new.map(|name| cause(None, Some(name)))
        .chain(gone.map(|name| cause(Some(name), None)))
        .collect()
}

/// What has no name that a person gave: the instructions themselves.
fn unnamed(part: &Part<'_>, compared: &Compared) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (step, was) in part.makings.steps.iter().zip(&compared.steps) {
        let name = excerpt(&step.name);
        match was {
            StepWas::Same => {}
            StepWas::New => causes.push(Cause {
                field: "step".to_owned(),
                kind: "item",
                new: Some(name),
                ..Cause::default()
            }),
            StepWas::Changed(differences) => causes.extend(differences.iter().map(|raw| Cause {
                field: format!("`{name}` {}", raw.name),
                kind: "value",
                old: raw.old.clone(),
                new: raw.new.clone(),
                ..Cause::default()
            })),
        }
    }
    causes.extend(compared.gone.iter().map(|name| Cause {
        field: "step".to_owned(),
        kind: "item",
        old: Some(excerpt(name)),
        ..Cause::default()
    }));
    if causes.is_empty() {
        causes.extend(compared.raw.iter().map(|raw| Cause {
            field: raw.name.clone(),
            kind: "value",
            old: raw.old.clone(),
            new: raw.new.clone(),
            ..Cause::default()
        }));
    }
    causes
}

fn of_change(change: &Change, named: &[Named]) -> Cause {
    let place = named
        .iter()
        .find(|value| value.name == change.name)
        .or_else(|| {
            // What stands in a list, or is gone, is looked for where its item stands.
            let item = &change.name[..change.name.rfind('[')?];
            named.iter().find(|value| value.name.starts_with(item))
        })
        .and_then(|value| value.place.clone())
        .filter(|_| change.new.is_some());
    let (file, line) = place.unzip();
    Cause {
        field: change.name.clone(),
        kind: match change.kind {
            ChangeKind::Value => "value",
            ChangeKind::Item => "item",
            ChangeKind::Order => "order",
        },
        old: change.old.clone(),
        new: change.new.clone(),
        file,
        line,
        ..Cause::default()
    }
}

fn of_value(session: &Session<'_>, field: &str, raw: &Raw) -> Cause {
    let mut all = session.work.phases.iter().flat_map(|phase| &phase.fields);
    let place = all.find(|value| value.name == field);
    let note = match place {
        Some(_) => None,
        None => Some("not from the habitat: the base image's".to_owned()),
    };
    let (file, line) = place.and_then(|value| value.place.clone()).unzip();
    Cause {
        field: field.to_owned(),
        kind: "value",
        old: raw.old.clone(),
        new: raw.new.clone(),
        note,
        file,
        line,
        ..Cause::default()
    }
}

/// Why a source is not what it was.
pub(super) fn of_source(
    source: &SourceMakings,
    was: &SourceMakings,
    explained: bool,
    fields: &Fields,
) -> Option<Cause> {
    let moved = |what: &str| -> Option<String> {
        let branch = |key: &str| fields.get(&format!("{}.{key}", source.name));
        let name = branch("branch").or_else(|| branch("ref"));
        Some(match (name, what) {
            (Some(name), "commit") => format!("{name} moved"),
            (None, "commit") => "the default branch moved".to_owned(),
            _ => "it means something else now".to_owned(),
        })
    };
    let (Some(old), Some(new)) = (&was.own, &source.own) else {
        // It is not known yet what it will be; what was written says why it is asked for.
        return (!explained).then(|| Cause {
            field: source.name.clone(),
            kind: "value",
            note: Some("something else is asked for".to_owned()),
            ..Cause::default()
        });
    };
    let raw = differences(old, new);
    let told = ["commit", "release", "image", "debian", "digest"];
    let found = told
        .iter()
        .find_map(|told| raw.iter().find(|raw| raw.name == *told))
        .or_else(|| raw.first().filter(|_| !explained))?;
    let name = match found.name.as_str() {
        "image" | "debian" => "digest",
        name => name,
    };
    Some(Cause {
        field: format!("{}.{name}", source.name),
        kind: "value",
        old: found.old.clone(),
        new: found.new.clone(),
        note: if explained { None } else { moved(&found.name) },
        ..Cause::default()
    })
}

/// The item that names a path: `files[2]`.
fn asks_for(fields: &Fields, path: &str) -> String {
    let clean = |text: &str| -> String {
        let parts = text
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".");
        parts.collect::<Vec<_>>().join("/")
    };
    let wanted = clean(path);
    let names = |value: &str| {
        let source = value.split_once(':').map_or(value, |(source, _)| source);
        let source = source.strip_prefix("~/").unwrap_or(source);
        clean(source) == wanted
    };
    let found = fields
        .iter()
        .find(|(name, value)| name.contains('[') && !wanted.is_empty() && names(value));
    match found {
        Some((name, _)) => {
            let end = name.find(']').map_or(name.len(), |at| at + 1);
            name[..end].to_owned()
        }
        None if wanted.is_empty() => "the configuration's directory".to_owned(),
        None => path.to_owned(),
    }
}

/// Which files of what a step reads are not what they were.
fn of_content(
    session: &Session<'_>,
    planned: &Planned,
    part: &Part<'_>,
    step: NodeId,
    field: &str,
    path: &str,
    raw: &Raw,
) -> Result<Vec<Cause>, Failure> {
    let whole = |note: &str| Cause {
        field: field.to_owned(),
        kind: "file",
        path: Some(path.to_owned()),
        old: raw.old.clone(),
        new: raw.new.clone(),
        note: Some(note.to_owned()),
        ..Cause::default()
    };
    let digest = |side: &Option<String>| side.as_deref().and_then(|side| side.parse::<Key>().ok());
    let (Some(old), Some(new)) = (digest(&raw.old), digest(&raw.new)) else {
        return Ok(vec![whole("content changed")]);
    };
    let slot = part.slot(session);
    let listing = session.index()?.listing(&slot, &old);
    let Some(old) = listing.map_err(store_failure)? else {
        return Ok(vec![whole("content changed")]);
    };
    let listed = session.listed(planned, step)?;
    let Some(new) = listed.into_iter().find(|listed| listed.digest == new) else {
        return Ok(vec![whole("content changed")]);
    };
    let mut files = file_changes(&old, &new.files);
    if files.is_empty() {
        return Ok(vec![whole("content changed")]);
    }
    let more = files.len().saturating_sub(FILES_MAX);
    files.truncate(FILES_MAX);
    let mut causes: Vec<Cause> = files
        .into_iter()
        .map(|file| Cause {
            path: Some(file.path.display().to_string()),
            ..whole(&file.what)
        })
        .collect();
    if more > 0 {
        causes.push(Cause {
            path: Some(path.to_owned()),
            ..whole(&format!("{more} more files changed"))
        });
    }
    Ok(causes)
}

/// Why a step of a Dockerfile differs from what it was.
///
/// # Errors
/// If the store, or a file of this machine, cannot be read.
pub(super) fn of_step(
    session: &Session<'_>,
    planned: &Planned,
    part: &Part<'_>,
    step: NodeId,
    differences: &[Raw],
) -> Result<Vec<Cause>, Failure> {
    let mut causes = Vec::new();
    for raw in differences {
        if let Some(path) = raw.name.strip_prefix(CONTENT_OF) {
            let files = of_content(session, planned, part, step, "file", path, raw)?;
            causes.extend(files);
            continue;
        }
        let given = |name: &str| {
            let mut arguments = session.work.build_args.iter();
            arguments.any(|(known, _)| known == name)
        };
        let field = match raw.name.strip_prefix("env ") {
            Some(name) if given(name) => format!("--build-arg {name}"),
            Some(name) => format!("env.{name}"),
            None => raw.name.clone(),
        };
        // Of a command line only what the shell is given is of interest.
        let words = |value: &Option<String>| {
            let value = value.as_deref()?;
            let last = value.rsplit('\u{1f}').next().unwrap_or(value);
            Some(if raw.name == "command" { last } else { value }.to_owned())
        };
        let (old, new) = (words(&raw.old), words(&raw.new));
        let (old, new) = match old == new {
            true => (raw.old.clone(), raw.new.clone()),
            false => (old, new),
        };
        causes.push(Cause {
            field,
            kind: "value",
            old,
            new,
            ..Cause::default()
        });
    }
    Ok(causes)
}

/// What values of the environment say is found again in values that name them: those come from these.
pub(super) fn trace_environment(causes: &mut [Cause], environment: &[Cause]) {
    for cause in causes {
        let (Some(old), Some(new)) = (&cause.old, &cause.new) else {
            continue;
        };
        if cause.field.starts_with("env.") || cause.kind == "file" {
            continue;
        }
        let from = environment
            .iter()
            .find(|entry| match (&entry.old, &entry.new) {
                (Some(was), Some(is)) => {
                    !was.is_empty() && old.contains(was) && old.replace(was, is) == *new
                }
                _ => false,
            });
        cause.causes.extend(from.cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(text: &str) -> StepMakings {
        let mut own = Fields::new();
        let op = text.split(' ').next().unwrap_or_default();
        own.put("op", op);
        own.put("command", text);
        StepMakings {
            name: text.to_owned(),
            own,
        }
    }

    fn steps(texts: &[&str]) -> Vec<StepMakings> {
        texts.iter().map(|text| step(text)).collect()
    }

    #[test]
    fn a_step_in_front_changes_none_of_those_behind_it() {
        let was = steps(&["run a", "run b", "copy c"]);
        let now = steps(&["run new", "run a", "run b", "copy c"]);
        assert_eq!(step_pairs(&was, &now), [None, Some(0), Some(1), Some(2)]);
        assert_eq!(step_pairs(&now, &was), [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn a_changed_step_stands_for_the_one_that_it_was() {
        let was = steps(&["run a", "run b", "copy c", "run d"]);
        let now = steps(&["run a", "run x", "copy y", "run d"]);
        assert_eq!(step_pairs(&was, &now), [Some(0), Some(1), Some(2), Some(3)]);
        let now = steps(&["copy y", "run a", "run d"]);
        assert_eq!(step_pairs(&was, &now), [None, Some(0), Some(3)]);
    }

    #[test]
    fn causes_read_as_one_line() {
        let cause = |field: &str, old: Option<&str>, new: Option<&str>| Cause {
            field: field.to_owned(),
            kind: "value",
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            ..Cause::default()
        };
        let (one, other) = ("3f2a".repeat(10), "9c1d".repeat(10));
        let mut commit = cause("repos[1].commit", Some(&one), Some(&other));
        commit.note = Some("main moved".to_owned());
        assert_eq!(
            commit.to_string(),
            "repos[1].commit 3f2a3f2a3f2a… -> 9c1d9c1d9c1d… (main moved)"
        );
        assert_eq!(
            cause("scripts[0].timeout", None, Some("90s")).to_string(),
            "scripts[0].timeout unset -> 90s"
        );
        assert_eq!(
            cause("c", Some("a\nold line\nb"), Some("a\nnew line\nb")).to_string(),
            "c line 2: \"old line\" -> \"new line\""
        );
        let long = "x".repeat(80);
        let told = cause("c", Some(&format!("{long}a")), Some(&format!("{long}b"))).to_string();
        assert!(told.contains("xa -> …") && told.ends_with("xb"), "{told}");
        let file = Cause {
            field: "files[0]".to_owned(),
            kind: "file",
            path: Some("src/app/main.py".to_owned()),
            note: Some("content changed".to_owned()),
            ..Cause::default()
        };
        assert_eq!(
            file.to_string(),
            "files[0] src/app/main.py: content changed"
        );
    }
}
