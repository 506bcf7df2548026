//! What the result of a node turns out to be, and how it counts in the key of the nodes that use it.

use std::sync::Arc;

use crate::digest::{Fields, Key};
use crate::engine::source::http::Remembered;
use crate::engine::tree;

/// A file tree: snapshots, bottom first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    layers: Arc<[Key]>,
}

impl Tree {
    /// The tree of these snapshots.
    #[must_use]
    pub fn new(layers: Vec<Key>) -> Self {
        Self {
            layers: layers.into(),
        }
    }

    /// Its snapshots, bottom first.
    #[must_use]
    pub fn layers(&self) -> &[Key] {
        &self.layers
    }

    /// This tree with one more snapshot on top.
    #[must_use]
    pub fn with(&self, top: Key) -> Self {
        Self::new(self.layers.iter().copied().chain([top]).collect())
    }

    /// What names it in keys: all of its snapshots, since one snapshot may lie on several others.
    #[must_use]
    pub fn identity(&self) -> Key {
        let mut fields = Fields::new();
        for layer in self.layers.iter() {
            fields.put("layer", layer.to_string());
        }
        fields.key()
    }
}

/// The result of a node.
#[derive(Debug, Clone)]
pub enum Made {
    /// A tree in the store.
    Tree(Tree),
    /// A directory of this machine, read in place.
    Local(Arc<tree::Tree>),
    /// One downloaded file.
    Download(Arc<Remembered>),
}

impl Made {
    /// The tree, if it is one.
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        match self {
            Self::Tree(tree) => Some(tree),
            Self::Local(_) | Self::Download(_) => None,
        }
    }
}
