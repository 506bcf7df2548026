//! The keys of a step. Its *own* fields are what the instruction says and what the directories of this machine hold that
//! it reads. With the identities of the trees it stands on they are its definition key. Where it reads only parts of a
//! tree (COPY --from, bind mounts) it has a content key as well, made from the digests of those parts, so that a tree
//! that was made anew but reads the same is a hit.

use std::cell::RefCell;

use super::inputs::{Made, Tree};
use super::session::{Session, Workshop, store_failure};
use crate::digest::{Fields, Key};
use crate::engine::failure::Failure;
use crate::engine::plan::Planned;
use crate::engine::tree::{self, Listing, copy, hash};
use crate::graph::{Copy, CopySource, Mount, NodeId, Op, Source};
use crate::store::OpRecord;

/// What a step depends on.
#[derive(Debug, Clone)]
pub struct Keys {
    /// What the instruction says and what it reads of this machine: all that does not come from other steps.
    pub own: Fields,
    /// With the trees it uses, by identity.
    pub definition: Fields,
    /// With the parts of trees that it reads, by content; `None` where that is the same as the definition, or where
    /// nobody has read those parts yet.
    pub content: Option<Fields>,
}

impl Keys {
    /// The fields that the result is recorded under.
    #[must_use]
    pub fn best(&self) -> &Fields {
        self.content.as_ref().unwrap_or(&self.definition)
    }
}

/// A result that is there.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The key it was found by.
    pub key: Key,
    /// What is known of it.
    pub record: OpRecord,
}

/// The files of this machine that a digest among a step's own fields stands for.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The digest.
    pub digest: Key,
    /// The files, as [`Listing`] packs them.
    pub files: Vec<u8>,
}

/// The name of the field that holds the digest of what a step reads at a path.
pub(in crate::engine) const CONTENT_OF: &str = "content of ";

/// What a step reads of one of its inputs beside its root.
struct Part<'a> {
    /// A name that a person understands.
    name: String,
    /// The input, once it is known.
    made: Option<&'a Made>,
    reads: Reads,
}

/// Which part of an input that is.
enum Reads {
    /// What a COPY with this one source takes.
    Copy(Box<Copy>),
    /// All that is at a path.
    Subtree(String),
}

impl Reads {
    /// Names it, so that its digest can be remembered.
    fn name(&self) -> String {
        match self {
            Self::Copy(one) => match one.sources.as_slice() {
                [CopySource::Path { path, .. }] => copy::selection_name(one, path),
                _ => String::new(),
            },
            Self::Subtree(path) => format!("subtree {path}"),
        }
    }

    fn digest(&self, of: &tree::Tree, reading: &hash::Reading<'_>) -> Result<Key, Failure> {
        match self {
            Self::Subtree(path) => Ok(hash::subtree(of, path, reading)?),
            Self::Copy(one) => {
                let selected = copy::select(one, &[copy::Input::Tree(of)])?;
                let digests = selected.digests(one, reading)?;
                Ok(digests
                    .first()
                    .copied()
                    .unwrap_or_else(|| Fields::new().key()))
            }
        }
    }
}

impl Session<'_> {
    /// What a step depends on apart from other steps: what it says, and what it reads of this machine. Inputs that are
    /// not known yet do not count. Which files that are goes into `listed`.
    ///
    /// # Errors
    /// If what it reads of this machine is not there.
    pub fn own_fields(
        &self,
        op: &Op,
        inputs: &[Option<Made>],
        mut listed: Option<&mut Vec<Listed>>,
    ) -> Result<Fields, Failure> {
        let mut own = op.fields();
        for part in parts(op, inputs) {
            let digest = match part.made {
                Some(Made::Local(context)) => {
                    let listing = RefCell::default();
                    let reading = hash::Reading {
                        listing: listed.is_some().then_some(&listing),
                        ..self.reading()?
                    };
                    let digest = part.reads.digest(context, &reading)?;
                    let files = Listing::into_bytes(listing.into_inner());
                    if let (Some(listed), Some(files)) = (&mut listed, files) {
                        listed.push(Listed { digest, files });
                    }
                    digest
                }
                Some(Made::Download(download)) => download.key(),
                Some(Made::Tree(_)) | None => continue,
            };
            own.put(format!("{CONTENT_OF}{}", part.name), digest.to_string());
        }
        Ok(own)
    }

    /// The files of this machine that a step reads.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(in crate::engine) fn listed(
        &self,
        planned: &Planned,
        id: NodeId,
    ) -> Result<Vec<Listed>, Failure> {
        let noted = self.noted_listed(id);
        if !noted.is_empty() {
            return Ok(noted);
        }
        let graph = &planned.lowered.graph;
        let op = &graph.node(id).op;
        let mut inputs = Vec::new();
        for input in op.inputs() {
            inputs.push(match &graph.node(input).op {
                Op::Source(source @ Source::Local { .. }) => self.recall(planned, input, source)?,
                _ => None,
            });
        }
        let mut listed = Vec::new();
        self.own_fields(op, &inputs, Some(&mut listed))?;
        Ok(listed)
    }

    /// The keys of a step with these [`own_fields`](Self::own_fields). With a workshop, parts of trees are read where
    /// their digest is not known.
    ///
    /// # Errors
    /// If a tree cannot be read.
    pub fn keys(
        &self,
        own: Fields,
        op: &Op,
        inputs: &[Option<Made>],
        workshop: Option<&Workshop>,
    ) -> Result<Keys, Failure> {
        let mut trees = Fields::new();
        let mut contents = Some(Fields::new());
        for Part { name, made, reads } in parts(op, inputs) {
            let Some(Made::Tree(tree)) = made else {
                continue;
            };
            trees.put(format!("tree of {name}"), tree.identity().to_string());
            let digest = match &contents {
                Some(_) => self.content(tree, &reads, workshop)?,
                None => None,
            };
            match (digest, &mut contents) {
                (Some(digest), Some(contents)) => {
                    contents.put(format!("{CONTENT_OF}{name}"), digest.to_string())
                }
                _ => contents = None,
            }
        }
        let root = inputs
            .first()
            .and_then(Option::as_ref)
            .and_then(Made::tree)
            .map(|tree| tree.identity().to_string());
        let joined = |more: &Fields| {
            let mut fields = own.clone();
            for (name, value) in more.iter() {
                fields.put(name, value);
            }
            fields.put("root", root.clone().unwrap_or_default());
            fields
        };
        let content = contents
            .filter(|_| trees.iter().next().is_some())
            .map(|contents| joined(&contents));
        Ok(Keys {
            definition: joined(&trees),
            content,
            own,
        })
    }

    /// The result of a step, if it is there.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn look(&self, keys: &Keys) -> Result<Option<Hit>, Failure> {
        self.look_where(keys, |id| self.store.has_snapshot(id))
    }

    /// The same for someone who knows of some snapshots that they are here.
    pub(super) fn look_where(
        &self,
        keys: &Keys,
        is_here: impl Fn(&Key) -> bool,
    ) -> Result<Option<Hit>, Failure> {
        let found = |key: Key| -> Result<Option<Hit>, Failure> {
            let record = self.known_result(&key, &is_here)?;
            Ok(record.map(|record| Hit { key, record }))
        };
        let hit = found(keys.definition.key())?;
        match &keys.content {
            Some(content) if hit.is_none() => found(content.key()),
            _ => Ok(hit),
        }
    }

    /// The digest of a part of a tree.
    fn content(
        &self,
        tree: &Tree,
        reads: &Reads,
        workshop: Option<&Workshop>,
    ) -> Result<Option<Key>, Failure> {
        let identity = tree.identity();
        let name = reads.name();
        let index = self.index()?;
        if let Some(digest) = index.content(&identity, &name).map_err(store_failure)? {
            return Ok(Some(digest));
        }
        let Some(workshop) = workshop else {
            return Ok(None);
        };
        let _core = workshop.cores.take();
        let mounted = workshop.tree(tree)?;
        let digest = reads.digest(&mounted.tree("an earlier stage")?, &self.reading()?)?;
        index
            .put_content(&identity, &name, &digest)
            .map_err(store_failure)?;
        Ok(Some(digest))
    }
}

/// What a step reads of its inputs beside its root.
fn parts<'a>(op: &Op, inputs: &'a [Option<Made>]) -> Vec<Part<'a>> {
    let mut rest = inputs.iter().skip(1).map(Option::as_ref);
    let mut parts = Vec::new();
    match op {
        Op::Copy(copy) => {
            for source in &copy.sources {
                let name = match source {
                    CopySource::Path { path, .. } => path.clone(),
                    CopySource::Download { .. } => "download".to_owned(),
                    CopySource::Inline(_) => continue,
                };
                let one = Copy {
                    sources: vec![source.clone()],
                    ..copy.clone()
                };
                parts.push(Part {
                    name,
                    made: rest.next().flatten(),
                    reads: Reads::Copy(Box::new(one)),
                });
            }
        }
        Op::Exec(exec) => {
            for mount in &exec.mounts {
                match mount {
                    Mount::Bind(bind) => parts.push(Part {
                        name: bind.source.path.clone(),
                        made: rest.next().flatten(),
                        reads: Reads::Subtree(bind.source.path.clone()),
                    }),
                    // What a cache mount starts with is no part of the key, as the rest of its content is none.
                    Mount::Cache(cache) if cache.source.is_some() => drop(rest.next()),
                    Mount::Cache(_) | Mount::Tmpfs(_) | Mount::Secret(_) | Mount::Ssh(_) => {}
                }
            }
        }
        Op::Scratch | Op::Source(_) | Op::Mkdir(_) => {}
    }
    parts
}
