//! What selected paths hash to: their names, types, modes, owners, contents, link targets and attributes, and which of
//! them are one file under several names. Times are no part of it.
//!
//! The content of a context's files is taken from the stat cache where that is safe, and read on several threads where
//! there is much of it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::chmod::ModeChange;
use super::error::{TreeError, reading};
use super::listing::{Listing, kind_letter};
use super::select::{Entry, Owners, Pick, Tree};
use super::stat_cache::{Known, Others, Seen, is_safe};
use crate::digest::Key;
use crate::engine::work;
use crate::store::{Index, StatRow};
use crate::sys::dir::{Kind, Metadata, Time, Xattr};
use crate::sys::file::{is_content_xattr, xattrs_of};

/// How files are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// Where the stat cache is; `None`: everything is read.
    pub index: Option<&'a Index>,
    /// A time before the reading begins.
    pub now: Time,
    /// On how many threads at most, where it is worth it; `None`: on all cores.
    pub jobs: Option<NonZeroUsize>,
    /// Where each file is noted as well.
    pub listing: Option<&'a RefCell<Listing>>,
}

/// How properties of what is selected are counted: as what they become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Owner and group.
    pub owner: Property,
    /// What the mode becomes; `None`: it stays.
    pub mode: Option<ModeChange>,
}

/// Whether a property is part of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// It is.
    Counts,
    /// It is replaced by something else.
    Replaced,
}

impl Counted {
    /// Everything.
    pub const ALL: Self = Self {
        owner: Property::Counts,
        mode: None,
    };
}

/// The digest of all that is at a path of a tree, and below it: what a bind mount shows.
pub fn subtree(tree: &Tree, path: &str, reading: &Reading<'_>) -> Result<Key, TreeError> {
    let picks = [tree.select_exactly(path)?];
    digest(tree, &picks, &Counted::ALL, reading)
}

/// The digest of what was selected of a tree.
pub fn digest(
    tree: &Tree,
    picks: &[Pick],
    counted: &Counted,
    reading: &Reading<'_>,
) -> Result<Key, TreeError> {
    let contents = contents(tree, picks, reading)?;
    let mut hasher = blake3::Hasher::new();
    for (pick, contents) in picks.iter().zip(&contents) {
        // What a directory is called makes no difference: its contents are what is copied.
        if !pick.is_dir() {
            put(&mut hasher, pick.name.as_bytes());
        }
        hasher.update(&(pick.entries.len() as u64).to_le_bytes());
        let mut first_names: HashMap<(u64, u64), &Path> = HashMap::new();
        for (entry, content) in pick.entries.iter().zip(contents) {
            let metadata = &entry.metadata;
            put(&mut hasher, entry.path.as_os_str().as_bytes());
            hasher.update(&[kind_letter(metadata.kind)]);
            let mut mode = 0;
            if metadata.kind != Kind::Symlink {
                let change = counted.mode.as_ref();
                mode = change.map_or(metadata.mode, |change| {
                    change.apply(metadata.mode, metadata.is_dir())
                });
                hasher.update(&mode.to_le_bytes());
            }
            if let Some(listing) = reading.listing {
                let path = match entry.path.as_os_str().is_empty() {
                    true => pick.path.clone(),
                    false => pick.path.join(&entry.path),
                };
                let kind = kind_letter(metadata.kind);
                let mut listing = listing.borrow_mut();
                listing.add(path.as_os_str().as_bytes(), kind, mode, content);
            }
            if counted.owner == Property::Counts && tree.owners == Owners::Kept {
                hasher.update(&metadata.uid.to_le_bytes());
                hasher.update(&metadata.gid.to_le_bytes());
            }
            hasher.update(content);
            if metadata.links > 1 && !metadata.is_dir() {
                let first = first_names
                    .entry((metadata.dev, metadata.ino))
                    .or_insert(&entry.path);
                put(&mut hasher, first.as_os_str().as_bytes());
            }
        }
    }
    Ok(Key::from_bytes(*hasher.finalize().as_bytes()))
}

fn put(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// The digest of each entry's content and attributes.
fn contents(
    tree: &Tree,
    picks: &[Pick],
    reading: &Reading<'_>,
) -> Result<Vec<Vec<[u8; 32]>>, TreeError> {
    let mut contents: Vec<Vec<[u8; 32]>> = picks
        .iter()
        .map(|pick| vec![[0; 32]; pick.entries.len()])
        .collect();
    let cache = tree.cache.as_ref().zip(reading.index);
    let mut known = Known::default();
    let mut unknown = Vec::new();
    for (pick_at, pick) in picks.iter().enumerate() {
        if let Some((root, index)) = cache {
            match pick.path.parent() {
                _ if pick.is_dir() => {
                    known.load_below(index, root, pick.path.as_os_str().as_bytes())?
                }
                Some(parent) => known.load(index, root, parent.as_os_str().as_bytes())?,
                None => {}
            }
        }
        for (entry_at, entry) in pick.entries.iter().enumerate() {
            let found = match place(pick, entry) {
                Some((dir, name)) if cache.is_some() => {
                    known.find(dir.as_os_str().as_bytes(), name.as_bytes(), &entry.metadata)
                }
                _ => None,
            };
            match found {
                Some(digest) => contents[pick_at][entry_at] = digest,
                None => unknown.push((pick_at, entry_at)),
            }
        }
    }
    read_all(tree, picks, &unknown, reading.jobs, &mut contents)?;
    if let Some((root, index)) = cache {
        let rows = renewed_rows(picks, &contents, &unknown, &known, reading.now);
        if !rows.is_empty() {
            // Not remembered is only slower next time, as where the store cannot be written.
            drop(index.put_stat_rows(root, &rows));
        }
    }
    Ok(contents)
}

/// The directory and name of an entry, from the top of its tree. The top itself has none.
fn place<'a>(pick: &'a Pick, entry: &'a Entry) -> Option<(PathBuf, &'a std::ffi::OsStr)> {
    match (entry.path.parent(), entry.path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => {
            Some((pick.path.clone(), name))
        }
        (Some(parent), Some(name)) => Some((pick.path.join(parent), name)),
        _ if pick.is_dir() => None,
        _ => Some((pick.path.parent()?.to_owned(), pick.path.file_name()?)),
    }
}

/// The rows of directories in which something is known now that was not before.
fn renewed_rows(
    picks: &[Pick],
    contents: &[Vec<[u8; 32]>],
    read: &[(usize, usize)],
    known: &Known,
    now: Time,
) -> Vec<StatRow> {
    let mut dirs: HashSet<PathBuf> = HashSet::new();
    for (pick_at, entry_at) in read {
        let (pick, entry) = (&picks[*pick_at], &picks[*pick_at].entries[*entry_at]);
        if is_safe(&entry.metadata, now)
            && let Some((dir, _)) = place(pick, entry)
        {
            dirs.insert(dir);
        }
    }
    if dirs.is_empty() {
        return Vec::new();
    }
    let mut seen: HashMap<PathBuf, (Vec<Seen<'_>>, Others)> = HashMap::new();
    for (pick, contents) in picks.iter().zip(contents) {
        for (entry, digest) in pick.entries.iter().zip(contents) {
            let Some((dir, name)) = place(pick, entry) else {
                continue;
            };
            if dirs.contains(&dir) {
                let (entries, others) = seen.entry(dir).or_insert((Vec::new(), Others::Kept));
                entries.push(Seen {
                    name: name.as_bytes(),
                    metadata: &entry.metadata,
                    digest: *digest,
                });
                if pick.whole && pick.is_dir() {
                    *others = Others::Dropped;
                }
            }
        }
    }
    seen.iter()
        .map(|(dir, (seen, others))| known.renewed(dir.as_os_str().as_bytes(), seen, *others, now))
        .collect()
}

/// Fewer files than this are not worth a second thread.
const FILES_PER_THREAD: usize = 64;
/// Unless they are large.
const BYTES_PER_THREAD: u64 = 4 << 20;

fn read_all(
    tree: &Tree,
    picks: &[Pick],
    unknown: &[(usize, usize)],
    jobs: Option<NonZeroUsize>,
    contents: &mut [Vec<[u8; 32]>],
) -> Result<(), TreeError> {
    let bytes: u64 = unknown
        .iter()
        .map(|(pick, entry)| picks[*pick].entries[*entry].metadata.size)
        .sum();
    let useful = (unknown.len() / FILES_PER_THREAD)
        .max(usize::try_from(bytes / BYTES_PER_THREAD).unwrap_or(usize::MAX));
    let threads = match useful {
        0 | 1 => 1,
        more => work::cores(jobs).min(more),
    };
    let read_one = |(pick_at, entry_at): (usize, usize), buffer: &mut Vec<u8>| {
        let pick = &picks[pick_at];
        let entry = &pick.entries[entry_at];
        let path = if entry.path.as_os_str().is_empty() {
            pick.path.clone()
        } else {
            pick.path.join(&entry.path)
        };
        read_entry(tree, &path, &entry.metadata, buffer).map_err(reading(&path))
    };
    if threads <= 1 {
        let mut buffer = Vec::new();
        for at in unknown {
            contents[at.0][at.1] = read_one(*at, &mut buffer)?;
        }
        return Ok(());
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(unknown.len()));
    let read_some = || -> Result<(), TreeError> {
        let mut buffer = Vec::new();
        let mut own = Vec::new();
        loop {
            let start = next.fetch_add(16, Ordering::Relaxed);
            let Some(some) = unknown
                .get(start..unknown.len().min(start + 16))
                .filter(|some| !some.is_empty())
            else {
                results
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .append(&mut own);
                return Ok(());
            };
            for at in some {
                match read_one(*at, &mut buffer) {
                    Ok(digest) => own.push((*at, digest)),
                    Err(error) => {
                        // The others need not go on.
                        next.store(unknown.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read_some)).collect();
        let mut outcome = read_some();
        for other in others {
            outcome = outcome.and(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
        outcome
    })?;
    for ((pick, entry), digest) in results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
    {
        contents[pick][entry] = digest;
    }
    Ok(())
}

fn changed() -> io::Error {
    io::ErrorKind::ResourceBusy.into()
}

/// The digest of what an entry holds: content and attributes of a file, attributes of a directory, the target of a
/// link, the number of a device.
fn read_entry(
    tree: &Tree,
    path: &Path,
    seen: &Metadata,
    buffer: &mut Vec<u8>,
) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    match seen.kind {
        Kind::File => {
            let mut file = tree.root.file(path)?;
            if !Metadata::of_open(&file)?.is_unchanged_from(seen) {
                return Err(changed());
            }
            hash_file(&mut file, &mut hasher, buffer)?;
            put_xattrs(&mut hasher, &xattrs_of(&file)?);
            if !Metadata::of_open(&file)?.is_unchanged_from(seen) {
                return Err(changed());
            }
        }
        Kind::Dir => {
            let xattrs = tree.root.dir(path)?.own_xattrs()?;
            put_xattrs(&mut hasher, &xattrs);
        }
        Kind::Symlink => {
            let (parent, name) = tree.root.parent_of(path)?;
            hasher.update(parent.read_link(name)?.as_os_str().as_bytes());
        }
        Kind::CharDevice | Kind::BlockDevice => {
            hasher.update(&seen.rdev.to_le_bytes());
        }
        Kind::Fifo | Kind::Socket => {}
    }
    Ok(*hasher.finalize().as_bytes())
}

fn hash_file(file: &mut File, hasher: &mut blake3::Hasher, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(256 * 1024, 0);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Attributes come after a content that says nothing of its length, so their own digest does.
fn put_xattrs(hasher: &mut blake3::Hasher, xattrs: &[Xattr]) {
    let mut some = xattrs
        .iter()
        .filter(|xattr| is_content_xattr(&xattr.name))
        .peekable();
    if some.peek().is_none() {
        return;
    }
    let content = hasher.finalize();
    hasher.reset();
    hasher.update(b"shmocker: content with attributes\0");
    hasher.update(content.as_bytes());
    for xattr in some {
        put(hasher, xattr.name.as_bytes());
        put(hasher, &xattr.value);
    }
}
