//! What a store holds, as people ask for it: how much is this image, this phase of my habitat, that cache? Each thing is in
//! one row, so that the rows add up; what several have in common has a row of its own.

use std::collections::BTreeMap;

use super::inventory::{Entry, Inventory, Keeper, Place, RecordType};

/// What rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// Manifests, configurations and packed layers.
    Images,
    /// Trees that steps and bases have made, by project and phase or stage.
    Builds,
    /// Cache mounts.
    CacheMounts,
    /// Mirrors and commits of repositories.
    Git,
    /// Downloads.
    Downloads,
    /// Habitats that run or have run.
    Habitats,
    /// What is of no use to anybody, or only to those who want to know what happened.
    Leftovers,
}

impl GroupKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Builds => "builds",
            Self::CacheMounts => "cache_mounts",
            Self::Git => "git",
            Self::Downloads => "downloads",
            Self::Habitats => "habitats",
            Self::Leftovers => "leftovers",
        }
    }
}

/// Rows about one kind of thing.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// Of what.
    pub kind: GroupKind,
    /// At least one.
    pub rows: Vec<Row<'a>>,
}

/// Things that belong together.
#[derive(Debug, Clone, Default)]
pub struct Row<'a> {
    /// An image, a project, a cache …
    pub name: String,
    /// A phase or stage.
    pub part: Option<String>,
    /// What it takes of the disk, as far as that is known.
    pub size_bytes: u64,
    /// What of that nothing keeps.
    pub reclaimable_bytes: u64,
    /// How many of them have not been measured yet.
    pub unmeasured: usize,
    /// When one of them was last used, in milliseconds since 1970.
    pub used_ms: u64,
    /// What keeps the most of them, the strongest first.
    pub keeper: Option<Keeper>,
    /// The things, the oldest first.
    pub entries: Vec<&'a Entry>,
}

impl Group<'_> {
    /// What all of its rows take of the disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.size_bytes).sum()
    }
}

/// Arranges what is accepted of an inventory.
#[must_use]
pub fn groups<'a>(inventory: &'a Inventory, accepts: impl Fn(&Entry) -> bool) -> Vec<Group<'a>> {
    let mut rows: BTreeMap<(GroupKind, String, Option<String>), Row<'a>> = BTreeMap::new();
    for entry in inventory.entries.iter().filter(|entry| accepts(entry)) {
        let (kind, name, part) = place_of(entry);
        let row = rows.entry((kind, name.clone(), part.clone())).or_default();
        row.name = name;
        row.part = part;
        let size = entry.size.unwrap_or(0);
        row.size_bytes += size;
        row.unmeasured += usize::from(entry.size.is_none());
        row.used_ms = row.used_ms.max(entry.used_ms);
        match (entry.keeper, row.keeper) {
            (None, _) => row.reclaimable_bytes += size,
            (Some(keeper), known) => {
                row.keeper = Some(known.map_or(keeper, |known| known.min(keeper)));
            }
        }
        row.entries.push(entry);
    }
    let mut groups: Vec<Group<'a>> = Vec::new();
    for ((kind, ..), mut row) in rows {
        row.entries
            .sort_by_key(|entry| (entry.depth, entry.created_ms));
        match groups.last_mut() {
            Some(group) if group.kind == kind => group.rows.push(row),
            _ => groups.push(Group {
                kind,
                rows: vec![row],
            }),
        }
    }
    for group in &mut groups {
        // Phases and stages in the order in which they were made.
        group.rows.sort_by_key(|row| {
            let first = row
                .entries
                .first()
                .map(|entry| (entry.depth, entry.created_ms));
            (row.name.clone(), row.part.is_none(), first)
        });
    }
    groups
}

/// Which row something is in.
fn place_of(entry: &Entry) -> (GroupKind, String, Option<String>) {
    let about = || entry.description.clone();
    match &entry.place {
        Place::In("caches", _) => (GroupKind::CacheMounts, about(), None),
        Place::In("git", _) => (GroupKind::Git, about(), None),
        Place::In("http", _) if entry.owners.is_empty() => {
            let name = "packages of Debian bases, and what no last build adds";
            (GroupKind::Downloads, name.to_owned(), None)
        }
        Place::In("http", _) => (GroupKind::Downloads, owner(entry).0, None),
        Place::In("habitats", _) => (GroupKind::Habitats, about(), None),
        Place::In(..) => (GroupKind::Leftovers, about(), None),
        Place::Snapshot(_) | Place::Blob(_) | Place::Image(_) => match entry.kind {
            RecordType::Internal => (GroupKind::Leftovers, about(), None),
            RecordType::Git => (GroupKind::Git, about(), None),
            RecordType::Http => (GroupKind::Downloads, about(), None),
            RecordType::Image if entry.owners.is_empty() => (
                GroupKind::Images,
                "packed layers, for the next export".to_owned(),
                None,
            ),
            RecordType::Image => {
                let (name, _) = owner(entry);
                let name = match name.starts_with("sha256:") {
                    true => "without a name".to_owned(),
                    false => name,
                };
                (GroupKind::Images, name, None)
            }
            _ => {
                let (name, part) = owner(entry);
                (GroupKind::Builds, name, part)
            }
        },
    }
}

fn owner(entry: &Entry) -> (String, Option<String>) {
    match entry.owners.as_slice() {
        [] => ("no build that is remembered".to_owned(), None),
        [one] => (one.name.clone(), one.part.clone()),
        [first, ..] if !entry.is_shared() => (first.name.clone(), first.part.clone()),
        _ => {
            let all_unnamed = entry
                .owners
                .iter()
                .all(|owner| owner.name.starts_with("sha256:"));
            match all_unnamed {
                true => ("sha256:".to_owned(), None),
                false => ("shared by several".to_owned(), None),
            }
        }
    }
}
