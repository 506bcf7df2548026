//! The layers that a habitat is made of: texts of several files, one after the other.
//!
//! ```text
//! system → shared → the habitat's parents → the habitat → personal → the command line          later wins
//! ```
//!
//! All texts share one address space: a [`Span`] says by its bytes which layer it lies in, so that every value, problem
//! and step knows where it was written without carrying more than its span. The line of a span counts in its own file.

use super::keys::{Key, OneOrMore, Text};
use super::node::{self, Value};
use super::report::Report;
use crate::dockerfile::{Problem, Span};

/// What a layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerKind {
    /// `ROOT/system`: what every habitat gets.
    System,
    /// `ROOT/system/tools/tools.yaml`: tools, and nothing else.
    Tools,
    /// `ROOT/shared`: one person's or team's taste.
    Shared,
    /// What `extends` names.
    Parent,
    /// The habitat itself.
    Local,
    /// `~/.config/shmocker/habitat.yaml`.
    Personal,
    /// What the command line adds.
    Command,
}

impl LayerKind {
    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Tools => "tools",
            Self::Shared => "shared",
            Self::Parent => "parent",
            Self::Local => "local",
            Self::Personal => "personal",
            Self::Command => "command",
        }
    }

    /// The entry of env that says where the layer's own directory lies in the image.
    pub(super) const fn path_name(self) -> Option<&'static str> {
        match self {
            Self::System => Some("SYSTEM_PATH"),
            Self::Shared => Some("SHARED_PATH"),
            Self::Local => Some("LOCAL_PATH"),
            Self::Tools | Self::Parent | Self::Personal | Self::Command => None,
        }
    }
}

/// One file of a habitat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it is for.
    pub kind: LayerKind,
    /// What it is called where things are named after it: `system`, `parent-2`.
    pub name: String,
    /// The file as it is called in messages and comments.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Where its text begins in the space that spans are counted in.
    start: usize,
}

/// The layers of a habitat in the order in which they are laid over each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    layers: Vec<Layer>,
    /// Which of them is the habitat that was asked for.
    main: usize,
    /// Whether a Dockerfile lies beside that.
    has_dockerfile: bool,
}

impl Layers {
    /// No layers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A habitat that is a single file.
    #[must_use]
    pub fn single(file: &str, text: &str) -> Self {
        let mut layers = Self::new();
        layers.push_main(LayerKind::Local, file, text);
        layers
    }

    /// Lays one more over those that are there.
    pub fn push(&mut self, kind: LayerKind, file: &str, text: &str) {
        // One byte lies between two texts, so that the end of one is not the beginning of the next.
        let start = self
            .layers
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1);
        let same = self
            .layers
            .iter()
            .filter(|layer| layer.kind == kind)
            .count();
        let name = match kind {
            LayerKind::Parent => format!("parent-{}", same + 1),
            _ => kind.name().to_owned(),
        };
        self.layers.push(Layer {
            kind,
            name,
            file: file.to_owned(),
            text: text.to_owned(),
            start,
        });
    }

    /// Lays the habitat that was asked for over those that are there. It is a system or shared layer only where that is
    /// looked at by itself.
    pub fn push_main(&mut self, kind: LayerKind, file: &str, text: &str) {
        self.push(kind, file, text);
        self.main = self.layers.len() - 1;
    }

    /// Says that a Dockerfile lies beside the habitat that was asked for.
    pub fn note_dockerfile(&mut self) {
        self.has_dockerfile = true;
    }

    /// Whether one does.
    #[must_use]
    pub fn has_dockerfile(&self) -> bool {
        self.has_dockerfile
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[Layer] {
        &self.layers
    }

    /// The habitat that was asked for.
    ///
    /// # Panics
    /// If there is no layer.
    #[must_use]
    pub fn main(&self) -> &Layer {
        &self.layers[self.main]
    }

    /// Whether what was asked for is a layer of other habitats, and none by itself.
    #[must_use]
    pub fn is_part(&self) -> bool {
        matches!(self.main().kind, LayerKind::System | LayerKind::Shared)
    }

    /// The place in the order of the layer that a span lies in.
    #[must_use]
    pub fn index_of(&self, span: Span) -> usize {
        self.layers
            .partition_point(|layer| layer.start <= span.start)
            .saturating_sub(1)
    }

    /// The layer that a span lies in, and where it lies in that layer's text.
    #[must_use]
    pub fn locate(&self, span: Span) -> (&Layer, Span) {
        let layer = &self.layers[self.index_of(span)];
        let local = Span {
            start: span.start.saturating_sub(layer.start),
            end: span.end.saturating_sub(layer.start),
            line: span.line,
        };
        (layer, local)
    }

    /// A problem with its place counted in the text of its own layer, and that layer.
    #[must_use]
    pub fn localize(&self, problem: &Problem) -> (&Layer, Problem) {
        let mut problem = problem.clone();
        match problem.span {
            None => (self.main(), problem),
            Some(span) => {
                let (layer, local) = self.locate(span);
                problem.span = Some(local);
                (layer, problem)
            }
        }
    }

    /// `FILE:LINE` of a span.
    #[must_use]
    pub fn line_of(&self, span: Span) -> String {
        format!("{}:{}", self.locate(span).0.file, span.line)
    }

    /// Where a layer's text begins in the space that spans are counted in.
    pub(super) fn start_of(&self, index: usize) -> usize {
        self.layers[index].start
    }

    /// A layer's tree of values; spans are those of the common space.
    pub(super) fn parse(&self, index: usize, report: &mut Report) -> Option<node::Node> {
        let layer = &self.layers[index];
        node::parse(&layer.text, layer.start, report)
    }
}

/// What a text names as its parents, in order. Mistakes are told when the whole habitat is read.
#[must_use]
pub fn parents(text: &str) -> Vec<Text> {
    let mut report = Report::default();
    let root = node::parse(text, 0, &mut report);
    let Some(Value::Mapping(entries)) = root.map(|root| root.value) else {
        return Vec::new();
    };
    let value = entries
        .iter()
        .find(|(key, _)| key.as_scalar() == Some("extends"));
    value
        .filter(|(_, value)| !value.is_null())
        .and_then(|(_, value)| OneOrMore::<Text>::read(value, &mut report))
        .map(|OneOrMore(parents)| parents)
        .unwrap_or_default()
}
