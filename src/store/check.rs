//! Looks whether a store is what it says: blobs and downloads against their digests, snapshots against their records, the
//! index and images against what is there. Repaired is by taking away what is damaged: it is fetched or made again.

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::inventory::Place;
use super::record::Record;
use super::{Doing, Store, StoreError, StoredImage};
use crate::digest::{Digest, Hasher, Key};
use crate::image::{Content, Manifest};
use crate::sys::dir::{Dir, Kind};

/// What a look through a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How many blobs and downloads were read.
    pub files: usize,
    /// How many bytes that were.
    pub bytes: u64,
    /// How many snapshots were looked at.
    pub snapshots: usize,
    /// How many of them were read file by file.
    pub trees: usize,
    /// How many names of images.
    pub images: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is: `blob`, `download`, `snapshot`, `image`, `index`.
    pub what: String,
    /// Which.
    pub id: String,
    /// Why.
    pub problem: String,
    /// What was done about it; `None`: nothing.
    pub repaired: Option<String>,
}

/// Whether what is damaged is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repair {
    /// It is only told.
    No,
    /// It is.
    Yes,
}

impl Checked {
    fn find(&mut self, what: &str, id: String, problem: impl Into<String>, repaired: Option<&str>) {
        self.findings.push(Finding {
            what: what.to_owned(),
            id,
            problem: problem.into(),
            repaired: repaired.map(str::to_owned),
        });
    }

    /// Whether all is well, or was made so.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.repaired.is_some())
    }
}

impl Store {
    /// Looks through the store; trees only as far as their records go. Only the engine child may repair.
    pub(crate) fn check(&self, repair: Repair) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        self.check_index(repair, &mut checked)?;
        self.check_files("blobs/sha256", "blob", repair, &mut checked)?;
        self.check_files("http", "download", repair, &mut checked)?;
        self.check_snapshots(repair, &mut checked)?;
        self.check_images(repair, &mut checked)?;
        Ok(checked)
    }

    fn check_index(&self, repair: Repair, checked: &mut Checked) -> Result<(), StoreError> {
        let index = self.index()?;
        if let Some(fault) = index.fault()? {
            let repaired =
                (repair == Repair::Yes).then_some("made again from the records of the snapshots");
            if repaired.is_some() {
                index.renew()?;
            }
            checked.find("index", "index.sqlite".to_owned(), fault, repaired);
        }
        Ok(())
    }

    /// Files whose names are the digests of their content.
    fn check_files(
        &self,
        directory: &'static str,
        what: &str,
        repair: Repair,
        checked: &mut Checked,
    ) -> Result<(), StoreError> {
        let path = self.path().join(directory);
        let dir = Dir::open_trusted(&path).doing("open a directory of the store", &path)?;
        let entries = dir.entries().doing("list what is there", &path)?;
        let next = AtomicUsize::new(0);
        let found: Mutex<Vec<(usize, u64, Option<String>)>> = Mutex::default();
        let look = || {
            while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                let at = next.load(Ordering::Relaxed);
                let name = entry.name.to_string_lossy();
                let read = read_file(&dir, &name);
                let (size, fault) = match read {
                    Ok(Some((digest, size))) if digest.hex() == *name => (size, None),
                    Ok(Some((digest, size))) => (size, Some(format!("its content is {digest}"))),
                    Ok(None) => (0, Some("it is no file".to_owned())),
                    // It was deleted meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => (0, None),
                    Err(error) => (0, Some(format!("it cannot be read: {error}"))),
                };
                let fault = fault.map(|fault| format!("{name}\n{fault}"));
                found
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .push((at, size, fault));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(look)));
            look();
        });
        let mut found = found
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        found.sort();
        for (_, size, fault) in found {
            checked.files += 1;
            checked.bytes += size;
            let Some((name, problem)) = fault.as_deref().and_then(|fault| fault.split_once('\n'))
            else {
                continue;
            };
            let repaired = match repair {
                Repair::No => None,
                Repair::Yes => Some(self.put_aside(directory, &dir, name)?),
            };
            checked.find(what, name.to_owned(), problem, repaired);
        }
        Ok(())
    }

    fn put_aside(
        &self,
        directory: &str,
        dir: &Dir,
        name: &str,
    ) -> Result<&'static str, StoreError> {
        let path = self.path().join(directory).join(name);
        if directory == "http" {
            dir.remove_tree(name)
                .doing("delete a damaged download", &path)?;
            return Ok("deleted: it is fetched again");
        }
        let aside = Dir::open_trusted(self.path().join("blobs/damaged"))
            .doing("put a damaged blob aside", &path)?;
        aside
            .remove_tree(name)
            .doing("put a damaged blob aside", &path)?;
        dir.rename(name, &aside, name)
            .doing("put a damaged blob aside", &path)?;
        Ok("put aside, into blobs/damaged: it is fetched or made again")
    }

    fn check_snapshots(&self, repair: Repair, checked: &mut Checked) -> Result<(), StoreError> {
        let dir = &self.inner.snapshots;
        let path = self.path().join("snapshots");
        // Before it is seen what is there: what is published meanwhile is not lost.
        let mut lost = self.index()?.layers_used()?;
        lost.extend(self.index()?.known()?.into_iter().map(|known| known.id));
        let mut faults: Vec<(String, String)> = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        for entry in dir.entries().doing("list the snapshots", &path)? {
            let name = entry.name.to_string_lossy().into_owned();
            checked.snapshots += 1;
            match sound_record(dir, &name) {
                Ok(record) => records.push(record),
                Err(fault) => faults.push((name, fault)),
            }
        }
        // What lies on something that is not there is not there either.
        let mut there: HashSet<Key> = records.iter().map(|record| record.id).collect();
        loop {
            let before = faults.len();
            records.retain(|record| {
                let missing = record.below.iter().find(|id| !there.contains(id));
                if let Some(missing) = missing {
                    let fault = format!("what it lies upon is not there: {}", missing.short());
                    faults.push((record.id.to_string(), fault));
                }
                missing.is_none()
            });
            if faults.len() == before {
                break;
            }
            there = records.iter().map(|record| record.id).collect();
        }
        lost.retain(|id| !there.contains(id));
        for (name, fault) in faults {
            let repaired = match repair {
                Repair::No => None,
                Repair::Yes => self
                    .remove_snapshot(&name)?
                    .then_some("deleted: it is made again"),
            };
            checked.find("snapshot", name, fault, repaired);
        }
        // That the index knows of something which is gone is no damage: whoever finds it looks whether it is there.
        if repair == Repair::Yes {
            self.index()?.forget_snapshots(&lost)?;
        }
        Ok(())
    }

    /// Deletes a snapshot that is of no use; false where somebody uses it.
    pub(crate) fn remove_snapshot(&self, name: &str) -> Result<bool, StoreError> {
        let place = match name.parse() {
            Ok(id) => Place::Snapshot(id),
            Err(_) => Place::In("snapshots", name.to_owned()),
        };
        let Some(moved) = self.move_away(&place)? else {
            return Ok(false);
        };
        if let Some(moved) = moved {
            drop(self.inner.tmp.remove_tree(moved));
        }
        if let Place::Snapshot(id) = place {
            self.index()?.forget_snapshots(&HashSet::from([id]))?;
        }
        Ok(true)
    }

    fn check_images(&self, repair: Repair, checked: &mut Checked) -> Result<(), StoreError> {
        let path = self.path().join("images");
        let entries = self
            .inner
            .images
            .entries()
            .doing("list the images", &path)?;
        let images = self.images()?;
        let files = entries
            .iter()
            .filter(|entry| entry.name.to_string_lossy().ends_with(".json"));
        if files.clone().count() > images.len() {
            for file in files {
                let name = file.name.to_string_lossy();
                let text = self
                    .inner
                    .images
                    .open_file(&file.name)
                    .and_then(io::read_to_string);
                let Ok(text) = text else {
                    continue;
                };
                if serde_json::from_str::<StoredImage>(&text).is_ok() {
                    continue;
                }
                let repaired = match repair {
                    Repair::No => None,
                    Repair::Yes => {
                        let removed = self.inner.images.remove_file(&file.name);
                        removed.doing("delete a damaged name", path.join(&file.name))?;
                        Some("deleted: the next build with that name makes it anew")
                    }
                };
                checked.find(
                    "image",
                    name.into_owned(),
                    "its name cannot be read",
                    repaired,
                );
            }
        }
        for image in images {
            checked.images += 1;
            let Some(problem) = self.lacks(&image) else {
                continue;
            };
            let repaired = match repair {
                Repair::No => None,
                Repair::Yes => {
                    self.remove_image(&image.name)?;
                    Some("its name was taken away: build or pull it again")
                }
            };
            checked.find("image", image.name, problem, repaired);
        }
        Ok(())
    }

    /// What an image lacks, if it lacks something.
    fn lacks(&self, image: &StoredImage) -> Option<String> {
        let mut unread: Vec<Digest> = vec![image.digest];
        while let Some(digest) = unread.pop() {
            let Ok(bytes) = std::fs::read(self.blob_path(&digest)) else {
                return Some(format!("its manifest is not there: {digest}"));
            };
            match Content::parse("", &bytes) {
                Ok(Content::Index(index)) => {
                    unread.extend(index.manifests.iter().map(|manifest| manifest.digest));
                }
                Ok(Content::Manifest(manifest)) => {
                    let lacks = self.manifest_lacks(&manifest, &image.layers);
                    if lacks.is_some() {
                        return lacks;
                    }
                }
                Err(error) => return Some(format!("its manifest cannot be read: {error}")),
            }
        }
        None
    }

    fn manifest_lacks(&self, manifest: &Manifest, snapshots: &[Key]) -> Option<String> {
        if !self.has_blob(&manifest.config.digest) {
            return Some(format!(
                "its configuration is not there: {}",
                manifest.config.digest
            ));
        }
        for (at, layer) in manifest.layers.iter().enumerate() {
            let unpacked = snapshots
                .get(at)
                .is_some_and(|snapshot| self.has_snapshot(snapshot));
            if !unpacked && !self.has_blob(&layer.digest) {
                return Some(format!("layer {} is not there: {}", at + 1, layer.digest));
            }
        }
        None
    }
}

/// The digest and size of a file; `None`: it is none.
fn read_file(dir: &Dir, name: &str) -> io::Result<Option<(Digest, u64)>> {
    if dir.metadata(name)?.kind != Kind::File {
        return Ok(None);
    }
    let mut file = dir.open_file(name)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(Some(hasher.finish())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The record of a snapshot, or what is wrong with that.
fn sound_record(snapshots: &Dir, name: &str) -> Result<Record, String> {
    let dir = snapshots
        .open_dir(name)
        .map_err(|error| format!("it cannot be opened: {error}"))?;
    let record =
        Record::read(&dir).map_err(|error| format!("its record cannot be read: {error}"))?;
    if record.id.to_string() != name {
        return Err(format!("its record is that of {}", record.id.short()));
    }
    match dir.metadata("fs") {
        Ok(seen) if seen.is_dir() => Ok(record),
        _ => Err("its files are not there".to_owned()),
    }
}
