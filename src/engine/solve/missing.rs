//! A file that a COPY wants and that its tree has not: which tree that is, and where the file is instead.

use super::inputs::{Made, Tree};
use super::session::{Session, Workshop};
use super::sources::shown;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::plan::Planned;
use crate::engine::tree::TreeError;
use crate::graph::{CopySource, NodeId, Op, Source};

impl Session<'_> {
    /// Says which source of a COPY is missing from a tree of the store, if one is.
    pub(super) fn missing(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        op: &Op,
        inputs: &[Made],
    ) -> Option<Failure> {
        let Op::Copy(copy) = op else {
            return None;
        };
        let mut rest = op.inputs().into_iter().zip(inputs).skip(1);
        for source in &copy.sources {
            let (node, made) = match source {
                CopySource::Inline(_) => continue,
                CopySource::Path { .. } | CopySource::Download { .. } => rest.next()?,
            };
            let (CopySource::Path { path, .. }, Some(tree)) = (source, made.tree()) else {
                continue;
            };
            let title = title(planned, node);
            let mounted = workshop.tree(tree).ok()?;
            let Err(error @ TreeError::Missing { .. }) = mounted.tree(&title).ok()?.expect(path)
            else {
                continue;
            };
            let mut failure = Failure::from_diagnostic(FailureKind::Input, &error);
            if let Some(place) = self.elsewhere(workshop, planned, node, tree, path) {
                failure.help = Some(place);
            }
            return Some(failure);
        }
        None
    }

    /// Where else there is something at that path.
    fn elsewhere(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        node: NodeId,
        tree: &Tree,
        path: &str,
    ) -> Option<String> {
        let has = |tree: &Tree, path: &str| {
            let mounted = workshop.tree(tree).ok()?;
            mounted.tree("").ok()?.expect(path).ok()
        };
        let stages = &planned.lowered.stages;
        if let Some(stage) = stages.iter().find(|stage| stage.result == node) {
            let workdir = stage.config.config.working_dir.trim_end_matches('/');
            let there = format!("{workdir}/{}", path.trim_start_matches('/'));
            if has(tree, &there).is_some() {
                return Some(format!(
                    "it is there as `{there}`: a path in a stage begins at its root, not at its WORKDIR"
                ));
            }
        }
        for stage in stages.iter().filter(|stage| stage.result != node) {
            let Some((record, _)) = self.result_of(stage.result) else {
                continue;
            };
            if has(&Tree::new(record.layers), path).is_some() {
                let name = &stage.name;
                return Some(format!(
                    "it is in the stage `{name}`: write `--from={name}`"
                ));
            }
        }
        self.contexts.having(path, "")
    }
}

/// What a tree is called.
fn title(planned: &Planned, node: NodeId) -> String {
    let stages = &planned.lowered.stages;
    if let Some(stage) = stages.iter().find(|stage| stage.result == node) {
        return format!("the stage `{}`", stage.name);
    }
    match &planned.lowered.graph.node(node).op {
        Op::Source(Source::Local { name }) if name == "context" => "the build context".to_owned(),
        Op::Source(Source::Local { name }) => format!("the context `{name}`"),
        Op::Source(source) => format!("`{}`", shown(source)),
        _ => "an earlier stage".to_owned(),
    }
}
