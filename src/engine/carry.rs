//! A store as one archive, to be taken to another machine: a tar of what its index, snapshots, blobs, downloads, cache mounts
//! and names are. A snapshot is carried as the layer that it is, with the owners that its container sees, so it can be
//! unpacked by another user.
//!
//! ```text
//! shmocker-store                  {"format": 1}
//! snapshots/<id>.json, <id>.tar   what it is, the digest of its layer; its layer. Each after those that it lies upon
//! caches/<name>.json, <name>.tar  likewise
//! blobs/sha256/<hex>  http/<hex>  as they are
//! images/<file>  builds/<file>    as they are
//! index.sqlite                    a copy
//! end                             nothing is missing
//! ```
//! Left out: mirrors of repositories, which are fetched again; what habitats that were up have written; the history.
//! What is unpacked is compared with its digest; still it is a store of results that are believed: an archive is to be
//! taken from those who are trusted.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::snapshot::apply::{self, ApplyError};
use super::snapshot::diff::{self, DiffError};
use super::snapshot::lower::Lowers;
use super::snapshot::top::Top;
use super::snapshot::{self, Choice, SnapshotError, SnapshotStore};
use crate::digest::{Digest, Key};
use crate::image::layer::{Limits, TimeRewrite};
use crate::store::{Record, Store, StoreError, StoredImage, TmpFile};
use crate::sys::dir::{Dir, Metadata};

const FORMAT: u32 = 1;
const HEAD: &str = "shmocker-store";
const END: &str = "end";
/// No description is longer; a damaged one shall not fill the memory.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Why a store cannot be carried.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CarryError {
    /// The archive cannot be written.
    #[error("the archive of the store cannot be written")]
    #[diagnostic(code(carry::write))]
    Write(#[source] io::Error),
    /// The archive cannot be read.
    #[error("the archive of a store cannot be read")]
    #[diagnostic(code(carry::read))]
    Read(#[source] io::Error),
    /// It is something else, or only a part of one.
    #[error("this is no archive of a store: {0}")]
    #[diagnostic(
        code(carry::no_archive),
        help("`shmocker store export FILE` makes one; it has to be whole and not compressed")
    )]
    NoArchive(String),
    /// A tree cannot be packed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pack(#[from] DiffError),
    /// A tree cannot be unpacked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Unpack(#[from] ApplyError),
    /// A tree cannot be made or kept.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store says so.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
}

/// What was carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Snapshots.
    pub snapshots: usize,
    /// Blobs and downloads.
    pub files: usize,
    /// Cache mounts.
    pub caches: usize,
    /// Names of images.
    pub images: usize,
    /// What was there already, of all of these.
    pub known: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
}

/// What goes before the layer of a tree.
#[derive(Debug, Serialize, Deserialize)]
struct Described {
    /// What is known of a snapshot; `None`: it is a cache mount.
    record: Option<Record>,
    /// SHA-256 of the layer.
    layer: Digest,
    /// Of the topmost directory, which no layer has.
    #[serde(flatten)]
    top: Top,
}

/// Writes the archive of a store. Only the engine child may do that.
///
/// # Errors
/// If the store cannot be read, or the archive not be written.
pub fn export(store: &Store, out: impl Write) -> Result<Carried, CarryError> {
    let mut archive = Packer {
        out: tar::Builder::new(out),
        store,
        carried: Carried::default(),
    };
    archive.text(HEAD, &json(&Head { format: FORMAT }), 0)?;
    archive.snapshots()?;
    archive.caches()?;
    archive.files("http")?;
    archive.files("blobs/sha256")?;
    archive.carried.images = archive.names("images")?;
    archive.names("builds")?;
    let index = store.tmp_file()?;
    store.index()?.copy_to(&index.path())?;
    let file = File::open(index.path()).map_err(CarryError::Write)?;
    archive.file("index.sqlite", &file, 0)?;
    archive.text(END, b"", 0)?;
    archive
        .out
        .into_inner()
        .and_then(|mut out| out.flush())
        .map_err(CarryError::Write)?;
    Ok(archive.carried)
}

struct Packer<'a, W: Write> {
    out: tar::Builder<W>,
    store: &'a Store,
    carried: Carried,
}

impl<W: Write> Packer<'_, W> {
    fn snapshots(&mut self) -> Result<(), CarryError> {
        let mut records = Vec::new();
        for id in self.store.snapshots()? {
            // One without a record is found by nobody.
            records.extend(self.store.snapshot_record(&id).ok());
        }
        records.sort_by_key(|record| (record.below.len(), record.id));
        let there: HashSet<Key> = records.iter().map(|record| record.id).collect();
        for record in records {
            if !record.below.iter().all(|id| there.contains(id)) {
                continue;
            }
            // Nobody deletes what is held.
            let mut leases = Vec::new();
            for id in record.below.iter().chain([&record.id]) {
                leases.extend(self.store.lease_snapshot(id)?);
            }
            if leases.len() <= record.below.len() {
                continue;
            }
            let open = |id: &Key| Dir::open_trusted(self.store.snapshot_path(id).join("fs"));
            let lowers: io::Result<Vec<Dir>> = record.below.iter().rev().map(open).collect();
            let lowers = Lowers::new(lowers.map_err(CarryError::Read)?);
            let upper = open(&record.id).map_err(CarryError::Read)?;
            let name = format!("snapshots/{}", record.id);
            self.tree(&name, &upper, &diff::Tree::Upper(&lowers), Some(record))?;
            self.carried.snapshots += 1;
        }
        Ok(())
    }

    fn caches(&mut self) -> Result<(), CarryError> {
        let caches = self.store.path().join("caches");
        let dir = Dir::open_trusted(&caches).map_err(CarryError::Read)?;
        for entry in dir.entries().map_err(CarryError::Read)? {
            let name = entry.name.to_string_lossy().into_owned();
            let Some(_held) = self.store.lease_of("caches", &name)? else {
                continue;
            };
            let tree = dir.open_dir(&name).map_err(CarryError::Read)?;
            self.tree(&format!("caches/{name}"), &tree, &diff::Tree::Whole, None)?;
            self.carried.caches += 1;
        }
        Ok(())
    }

    fn tree(
        &mut self,
        name: &str,
        root: &Dir,
        tree: &diff::Tree<'_>,
        record: Option<Record>,
    ) -> Result<(), CarryError> {
        // How long it gets is known when it is written.
        let spool = self.store.tmp_file()?;
        let mut file = spool.file();
        let mut out = io::BufWriter::with_capacity(256 << 10, file);
        let written = diff::write_tar(root, tree, TimeRewrite::Keep, &mut out)?;
        out.flush().map_err(CarryError::Write)?;
        drop(out);
        let described = Described {
            record,
            layer: written.diff_id,
            top: Top::of(root).map_err(CarryError::Read)?,
        };
        self.text(&format!("{name}.json"), &json(&described), 0)?;
        file.rewind().map_err(CarryError::Read)?;
        self.file(&format!("{name}.tar"), file, 0)
    }

    fn files(&mut self, directory: &str) -> Result<(), CarryError> {
        for (name, file, _) in self.each(directory)? {
            if format!("sha256:{name}").parse::<Digest>().is_err() {
                continue;
            }
            self.file(&format!("{directory}/{name}"), &file()?, 0)?;
            self.carried.files += 1;
        }
        Ok(())
    }

    fn names(&mut self, directory: &str) -> Result<usize, CarryError> {
        let mut count = 0;
        for (name, file, modified_s) in self.each(directory)? {
            if name.ends_with(".json") {
                self.file(&format!("{directory}/{name}"), &file()?, modified_s)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The files of a directory of the store, and when they were changed.
    #[expect(clippy::type_complexity, reason = "a name, how to open it, its time")]
    fn each(
        &self,
        directory: &str,
    ) -> Result<Vec<(String, Box<dyn Fn() -> Result<File, CarryError>>, u64)>, CarryError> {
        let path = self.store.path().join(directory);
        let dir = match Dir::open_trusted(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(CarryError::Read)?,
        };
        let mut found: Vec<(String, Box<dyn Fn() -> Result<File, CarryError>>, u64)> = Vec::new();
        for entry in dir.entries().map_err(CarryError::Read)? {
            let (Some(name), Ok(Some(seen))) = (entry.name.to_str(), dir.find(&entry.name)) else {
                continue;
            };
            let file = path.join(name);
            let open = move || File::open(&file).map_err(CarryError::Read);
            let seconds = u64::try_from(seen.modified.seconds).unwrap_or(0);
            found.push((name.to_owned(), Box::new(open), seconds));
        }
        Ok(found)
    }

    fn text(&mut self, name: &str, text: &[u8], modified_s: u64) -> Result<(), CarryError> {
        let mut header = header(text.len() as u64, modified_s);
        self.out
            .append_data(&mut header, name, text)
            .map_err(CarryError::Write)
    }

    fn file(&mut self, name: &str, file: &File, modified_s: u64) -> Result<(), CarryError> {
        let size = Metadata::of_open(file).map_err(CarryError::Read)?.size;
        let mut header = header(size, modified_s);
        self.out
            .append_data(&mut header, name, file.take(size))
            .map_err(CarryError::Write)
    }
}

fn header(size: u64, modified_s: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(modified_s);
    header
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Puts what is in an archive into a store; what is there already stays as it is. Only the engine child may do that.
///
/// # Errors
/// If the archive is none, or not whole, or the store cannot be written. What was read until then is there, and sound.
pub fn import(store: &Store, input: impl Read) -> Result<Carried, CarryError> {
    let mut unpacker = Unpacker {
        store,
        snapshots: SnapshotStore::open(store, Choice::Best)?,
        described: None,
        index: None,
        carried: Carried::default(),
    };
    let mut archive = tar::Archive::new(input);
    let mut is_whole = false;
    for (at, entry) in archive.entries().map_err(CarryError::Read)?.enumerate() {
        let mut entry = entry.map_err(|error| CarryError::NoArchive(error.to_string()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if at == 0 {
            let head: Option<Head> = (name == HEAD).then(|| text(&mut entry).ok()).flatten();
            match head {
                Some(Head { format: FORMAT }) => continue,
                Some(head) => {
                    let format = head.format;
                    return Err(CarryError::NoArchive(format!(
                        "its format is {format}, and {FORMAT} is known"
                    )));
                }
                None => return Err(CarryError::NoArchive(format!("it begins with `{name}`"))),
            }
        }
        is_whole = name == END;
        if !is_whole {
            let header = entry.header().clone();
            unpacker.take(&name, &header, &mut entry)?;
        }
    }
    if !is_whole {
        return Err(CarryError::NoArchive("its end is missing".to_owned()));
    }
    unpacker.snapshots.flush()?;
    if let Some(index) = &unpacker.index {
        store.index()?.take_from(&index.path())?;
    }
    Ok(unpacker.carried)
}

struct Unpacker<'a> {
    store: &'a Store,
    snapshots: SnapshotStore,
    /// Of the tree whose layer comes next.
    described: Option<Described>,
    index: Option<TmpFile>,
    carried: Carried,
}

impl Unpacker<'_> {
    fn take(
        &mut self,
        name: &str,
        header: &tar::Header,
        entry: &mut impl Read,
    ) -> Result<(), CarryError> {
        let wrong = || CarryError::NoArchive(format!("`{name}` does not belong into one"));
        if name == "index.sqlite" {
            let tmp = self.store.tmp_file()?;
            io::copy(entry, &mut tmp.file()).map_err(CarryError::Read)?;
            self.index = Some(tmp);
            return Ok(());
        }
        let (directory, file) = name.rsplit_once('/').ok_or_else(wrong)?;
        let (stem, ending) = file.rsplit_once('.').unwrap_or((file, ""));
        match (directory, ending) {
            ("snapshots" | "caches", "json") => self.described = Some(text(entry)?),
            ("snapshots", "tar") => self.snapshot(header, entry, wrong)?,
            ("caches", "tar") if stem.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => {
                self.cache(stem, header, entry, wrong)?;
            }
            ("blobs/sha256", "") => {
                let digest: Digest = format!("sha256:{stem}").parse().map_err(|_| wrong())?;
                self.carried.files += 1;
                match self.store.has_blob(&digest) {
                    true => self.carried.known += 1,
                    false => drop(self.store.put_expecting(entry, &digest)?),
                }
            }
            ("http", "") => {
                let digest: Digest = format!("sha256:{stem}").parse().map_err(|_| wrong())?;
                self.carried.files += 1;
                if !self.store.put_download(entry, &digest)? {
                    self.carried.known += 1;
                }
            }
            ("images", "json") => {
                self.snapshots.flush()?;
                let image: StoredImage = text(entry)?;
                self.carried.images += 1;
                match self.store.image(&image.name)? {
                    Some(_) => self.carried.known += 1,
                    None => self.store.put_image(&image)?,
                }
            }
            ("builds", "json") => {
                let build = text(entry)?;
                let modified_s = header.mtime().unwrap_or(0);
                self.store
                    .note_use(&build, modified_s.saturating_mul(1000))?;
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// A layer as a file: it is unpacked on another thread than the archive is read on.
    fn spooled(&self, header: &tar::Header, entry: &mut impl Read) -> Result<TmpFile, CarryError> {
        let spool = self.store.tmp_file()?;
        let mut file = spool.file();
        let size = io::copy(entry, &mut file).map_err(CarryError::Read)?;
        if header.entry_size().ok() != Some(size) {
            return Err(CarryError::NoArchive("its end is missing".to_owned()));
        }
        file.rewind().map_err(CarryError::Read)?;
        Ok(spool)
    }

    fn snapshot(
        &mut self,
        header: &tar::Header,
        entry: &mut impl Read,
        wrong: impl Fn() -> CarryError,
    ) -> Result<(), CarryError> {
        let described = self.described.take().ok_or_else(&wrong)?;
        let record = described.record.as_ref().ok_or_else(&wrong)?;
        self.carried.snapshots += 1;
        if self.snapshots.has(&record.id) {
            self.carried.known += 1;
            return Ok(());
        }
        let mut lowers = Vec::new();
        for below in record.below.iter().rev() {
            let layer = self.snapshots.layer(below)?;
            lowers.push(layer.try_clone().map_err(CarryError::Read)?);
        }
        let settled = self.snapshots.prepare_layer(&record.below)?;
        let lowers = Lowers::new(lowers);
        let spool = self.spooled(header, entry)?;
        apply::apply(
            spool.file(),
            Some(described.layer),
            settled.upper(),
            &lowers,
            Limits::default(),
        )?;
        described
            .top
            .dress(settled.upper())
            .map_err(CarryError::Read)?;
        let made = snapshot::Made::of(record);
        self.snapshots.commit(settled, made)?;
        Ok(())
    }

    fn cache(
        &mut self,
        name: &str,
        header: &tar::Header,
        entry: &mut impl Read,
        wrong: impl Fn() -> CarryError,
    ) -> Result<(), CarryError> {
        let described = self.described.take().ok_or_else(&wrong)?;
        self.carried.caches += 1;
        let to = self.store.path().join("caches").join(name);
        if to.exists() {
            self.carried.known += 1;
            return Ok(());
        }
        let spool = self.spooled(header, entry)?;
        unpack_mount(
            self.store,
            spool.file(),
            described.layer,
            &described.top,
            &to,
        )
    }
}

/// Unpacks the tar of a cache mount to its place, unless somebody else makes one there meanwhile.
pub(super) fn unpack_mount(
    store: &Store,
    blob: impl Read + Send,
    content: Digest,
    top: &Top,
    to: &Path,
) -> Result<(), CarryError> {
    let made = store.tmp_dir()?;
    let tree = made.dir().create_dir("fs", 0o755);
    let tree = tree.map_err(CarryError::Read)?;
    apply::apply_whole(blob, content, &tree, Limits::default())?;
    top.dress(&tree).map_err(CarryError::Read)?;
    match std::fs::rename(made.path().join("fs"), to) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        renamed => renamed.map_err(CarryError::Read),
    }
}

fn text<T: for<'de> Deserialize<'de>>(entry: &mut impl Read) -> Result<T, CarryError> {
    let mut text = Vec::new();
    entry
        .take(TEXT_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(CarryError::Read)?;
    serde_json::from_slice(&text).map_err(|error| CarryError::NoArchive(error.to_string()))
}
