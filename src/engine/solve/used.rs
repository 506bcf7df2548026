//! What a build has used of the store, so that it is known what to keep.

use super::mounts;
use super::session::Session;
use super::sources::reference;
use crate::digest::{Digest, Key};
use crate::engine::plan::Planned;
use crate::graph::{Op, Source};
use crate::store::{BuildUse, PartUse};

impl Session<'_> {
    /// What this build has used: what its parts have made, its downloads and cache mounts, and its image.
    #[must_use]
    pub fn used(
        &self,
        planned: &Planned,
        parts: Vec<PartUse>,
        image: Digest,
        tree: &[Key],
    ) -> BuildUse {
        let graph = &planned.lowered.graph;
        let mut caches = Vec::new();
        let mut sources = Vec::new();
        for id in graph.needed(&[planned.lowered.target]) {
            let exec = match &graph.node(id).op {
                Op::Exec(exec) => exec,
                Op::Source(Source::Local { .. }) => continue,
                Op::Source(source) => {
                    sources.push(reference(source));
                    continue;
                }
                _ => continue,
            };
            for cache in mounts::caches_of(exec) {
                if !caches.contains(&cache) {
                    caches.push(cache);
                }
            }
        }
        BuildUse {
            project: self.work.project.clone(),
            target: self.work.target.clone().unwrap_or_default(),
            platform: self.work.platform.clone(),
            parts,
            image: Some(image),
            tree: tree.to_vec(),
            sources,
            downloads: self.downloads_used(),
            caches,
        }
    }
}
