//! What a build has to do, as data: a graph of [`Op`]s, each of which makes one file tree from the trees before it.
//!
//! A graph is acyclic by construction: a node names only nodes that were added before it. It says nothing of where
//! results are kept or how they are made.

mod op;

pub use op::{
    BindMount, CacheMount, CacheSharing, Copy, CopySource, DebianSource, Exec, FileMode, GitSource,
    Host, HttpSource, ImageSource, InlineFile, Judge, Mkdir, Mount, MountSource, Network,
    OciLayoutSource, Op, RunDefaults, SecretMount, SecretTarget, Security, Source, SshMount,
    TmpfsMount, Ulimit, Unpack,
};

use serde::{Deserialize, Serialize};

use crate::event::StepOrigin;

/// Names a node of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(u32);

impl NodeId {
    /// Its place in [`Graph::nodes`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One op in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What is done.
    pub op: Op,
    /// The instruction it comes from; `None` for sources, which are not steps.
    pub step: Option<StepOrigin>,
}

/// Ops and what they need of each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    /// The nodes that are no steps.
    sources: Vec<NodeId>,
}

impl Graph {
    /// A graph without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an op. Sources that are equal to one that is there already are not added again: its id is returned.
    ///
    /// # Panics
    /// If the op names a node that is not in this graph: a bug of the caller.
    pub fn add(&mut self, op: Op, step: Option<StepOrigin>) -> NodeId {
        for input in op.inputs() {
            assert!(
                input.index() < self.nodes.len(),
                "an op may only name nodes that exist"
            );
        }
        let id = NodeId(self.nodes.len() as u32);
        if step.is_none() {
            let mut sources = self.sources.iter();
            if let Some(known) = sources.find(|known| self.node(**known).op == op) {
                return *known;
            }
            self.sources.push(id);
        }
        self.nodes.push(Node { op, step });
        id
    }

    /// All nodes; inputs stand before what uses them.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Ids and nodes, inputs first.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (NodeId(index as u32), node))
    }

    /// Every node that the results `wanted` need, themselves among them, in an order in which inputs come first.
    #[must_use]
    pub fn needed(&self, wanted: &[NodeId]) -> Vec<NodeId> {
        let mut marked = vec![false; self.nodes.len()];
        let mut pending = wanted.to_vec();
        while let Some(id) = pending.pop() {
            if !std::mem::replace(&mut marked[id.index()], true) {
                pending.extend(self.nodes[id.index()].op.inputs());
            }
        }
        (0..self.nodes.len() as u32)
            .map(NodeId)
            .filter(|id| marked[id.index()])
            .collect()
    }
}
