//! COPY, ADD and WORKDIR: files put into an image's tree, with BuildKit's meaning.
//!
//! - A directory's contents are copied, not itself; a file goes into the destination if that is a directory.
//! - Links in the source's own path and at its end are followed inside the source, those below it are copied. Links in
//!   the destination are followed inside the image; one in the place of a copied file is replaced.
//! - Directories that are made on the way are 0755, or what `--chmod` says as a number, and belong to `--chown`. A directory that was there keeps its mode
//!   and owner if it is the destination itself, and gets those of the source if it is below.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::chmod::ModeChange;
use super::error::{Remark, TreeError, reading, writing};
use super::hash::{self, Counted, Property, Reading};
use super::select::{Entry, Owners, Parents, Pick, Tree, Wanted};
use super::transfer::{
    Dress, Links, NewOwner, Place, copy_entry, dress_dir, dress_dir_times, has_changed,
};
use super::{archive, owner};
use crate::digest::Key;
use crate::dockerfile::ignore::IgnoreFile;
use crate::graph::{Copy, CopySource, InlineFile, Unpack};
use crate::sys::dir::{Dir, DirEntry, Metadata, Time};
use crate::sys::root::{Root, Scope};

/// Where the files of one source come from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// A tree, of which the source names paths.
    Tree(&'a Tree),
    /// A file that was fetched.
    Download(&'a Download),
    /// Nowhere: the source is a heredoc.
    Nothing,
}

/// A file that was fetched.
#[derive(Debug)]
pub struct Download {
    /// It.
    pub file: File,
    /// The name under which it goes into a directory.
    pub name: String,
    /// When the server says that it was last changed.
    pub modified: Option<Time>,
    /// What names its content: a digest.
    pub content: String,
}

/// What the sources of a COPY mean.
#[derive(Debug)]
pub struct Selected<'a>(Vec<Part<'a>>);

#[derive(Debug)]
enum Part<'a> {
    Picks(&'a Tree, Vec<Pick>),
    Download(&'a Download),
    Inline(&'a InlineFile),
}

/// Finds what the sources of a COPY mean. `inputs` are those of its sources, in their order.
pub fn select<'a>(copy: &'a Copy, inputs: &[Input<'a>]) -> Result<Selected<'a>, TreeError> {
    let exclude =
        IgnoreFile::of(copy.exclude.iter().map(String::as_str)).map_err(TreeError::Pattern)?;
    let parents = if copy.parents {
        Parents::Kept
    } else {
        Parents::Dropped
    };
    let mut parts = Vec::with_capacity(copy.sources.len());
    for (source, input) in copy.sources.iter().zip(inputs) {
        match (source, input) {
            (CopySource::Path { path, .. }, Input::Tree(tree)) => {
                parts.push(Part::Picks(
                    tree,
                    tree.select(&Wanted {
                        path,
                        parents,
                        exclude: &exclude,
                    })?,
                ));
            }
            (CopySource::Inline(file), _) => parts.push(Part::Inline(file)),
            (_, Input::Download(download)) => parts.push(Part::Download(download)),
            (CopySource::Download { .. } | CopySource::Path { .. }, _) => {}
        }
    }
    Ok(Selected(parts))
}

/// What the properties of a COPY's sources become.
#[must_use]
pub fn counted(copy: &Copy) -> Counted {
    Counted {
        owner: if copy.chown.is_some() {
            Property::Replaced
        } else {
            Property::Counts
        },
        // One that cannot be read is said when the files are copied.
        mode: copy
            .chmod
            .as_ref()
            .and_then(|mode| ModeChange::try_from(mode).ok()),
    }
}

/// Names what one source of a COPY selects, so that its digest in a tree that never changes can be remembered
/// ([`Index::content`](crate::store::Index::content)) without opening the tree.
#[must_use]
pub fn selection_name(copy: &Copy, path: &str) -> String {
    format!(
        "{path}\n{}\n{:?}\n{}",
        copy.parents,
        counted(copy),
        copy.exclude.join("\n")
    )
}

impl Selected<'_> {
    /// The digest of what each source means: the part of a COPY's key that is not in the instruction.
    pub fn digests(&self, copy: &Copy, reading: &Reading<'_>) -> Result<Vec<Key>, TreeError> {
        let counted = counted(copy);
        self.0
            .iter()
            .map(|part| match part {
                Part::Picks(tree, picks) => hash::digest(tree, picks, &counted, reading),
                Part::Download(download) => Ok(Key::of(
                    format!("{}\n{}", download.name, download.content).as_bytes(),
                )),
                Part::Inline(file) => Ok(Key::of(
                    format!("{}\n{}", file.name, file.content).as_bytes(),
                )),
            })
            .collect()
    }

    /// The number of files, directories and other things, for progress.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |part: &Part<'_>| match part {
            Part::Picks(_, picks) => picks.iter().map(|pick| pick.entries.len()).sum(),
            Part::Download(_) | Part::Inline(_) => 1,
        };
        self.0.iter().map(count).sum()
    }

    /// Whether nothing was selected, as by wildcards that match nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Mode of a heredoc, and of directories that are made on the way.
const MODE_INLINE: u32 = 0o644;
const MODE_DIR: u32 = 0o755;
/// Mode of a download.
const MODE_DOWNLOAD: u32 = 0o600;

/// Puts what was selected into a tree. Names of owners are looked up in it.
///
/// With --link, what is copied is made in an empty tree, and laid over this one: no link of this one is followed, and
/// what is in the way is replaced. --chmod takes --link away, as BuildKit has it.
pub fn run(copy: &Copy, selected: &Selected<'_>, root: &Root) -> Result<Vec<Remark>, TreeError> {
    if !copy.link || copy.chmod.is_some() {
        return fill(copy, selected, root);
    }
    let failed = |error| writing(&copy.dest)(error);
    let (top, name) = (root.top(), unused_name(root).map_err(failed)?);
    let before = top.own_metadata().map_err(failed)?;
    let apart = top.create_dir(&name, MODE_DIR).map_err(failed)?;
    let empty = Root::new(apart.try_clone().map_err(failed)?.into(), Scope::Image);
    let remarks = fill(copy, selected, &empty)?;
    lay_over(&apart, top, Path::new(""))?;
    top.remove_tree(&name).map_err(failed)?;
    top.set_own_times(before.modified, before.modified)
        .map_err(failed)?;
    Ok(remarks)
}

/// A name for a directory that is gone before anyone sees the tree.
fn unused_name(root: &Root) -> std::io::Result<OsString> {
    let mut name = OsString::from(".linked");
    while root.top().find(&name)?.is_some() {
        name.push("-");
    }
    Ok(name)
}

/// Moves what is in a directory into another one: directories become one, anything else takes the place of what is there.
fn lay_over(from: &Dir, to: &Dir, path: &Path) -> Result<(), TreeError> {
    for DirEntry { name, .. } in from.entries().map_err(writing(path))? {
        let path = path.join(&name);
        let merge = || -> std::io::Result<Option<(Dir, Dir, Metadata)>> {
            let mine = from.metadata(&name)?;
            match to.find(&name)? {
                Some(there) if there.is_dir() && mine.is_dir() => {
                    return Ok(Some((from.open_dir(&name)?, to.open_dir(&name)?, mine)));
                }
                Some(_) => to.remove_tree(&name)?,
                None => {}
            }
            from.rename(&name, to, &name)?;
            Ok(None)
        };
        if let Some((from, to, mine)) = merge().map_err(writing(&path))? {
            lay_over(&from, &to, &path)?;
            let dress = Dress::default();
            dress_dir(&from, &mine, &to, &dress).map_err(writing(&path))?;
            dress_dir_times(&mine, &to, &dress).map_err(writing(&path))?;
        }
    }
    Ok(())
}

fn fill(copy: &Copy, selected: &Selected<'_>, root: &Root) -> Result<Vec<Remark>, TreeError> {
    let mut remarks = Vec::new();
    let owner = copy
        .chown
        .as_deref()
        .map(|written| owner::resolve(written, root, &mut remarks))
        .transpose()?;
    let mode = copy.chmod.as_ref().map(ModeChange::try_from).transpose()?;
    let mut run = Run {
        copy,
        root,
        owner,
        mode,
        files: HashSet::new(),
        remarks,
    };
    for part in &selected.0 {
        match part {
            Part::Picks(tree, picks) => {
                for pick in picks {
                    run.pick(tree, pick)?;
                }
            }
            Part::Download(download) => run.download(download)?,
            Part::Inline(file) => run.inline(file)?,
        }
    }
    Ok(run.remarks)
}

/// Makes a directory and those above it that are missing, with an owner and a mode. Links on the way are followed
/// inside the tree. Returns its path without links.
pub fn make_dirs(
    root: &Root,
    path: &Path,
    owner: (u32, u32),
    mode: u32,
) -> Result<PathBuf, TreeError> {
    let real = root.real_path(path).map_err(writing(path))?;
    open_made(root, &real, owner, mode)?;
    Ok(real)
}

fn open_made(
    root: &Root,
    real: &Path,
    (uid, gid): (u32, u32),
    mode: u32,
) -> Result<Dir, TreeError> {
    let mut here = root.top().try_clone().map_err(writing(real))?;
    let mut path = PathBuf::new();
    for name in real.iter() {
        path.push(name);
        let next = || match here.find(name)? {
            Some(found) if found.is_dir() => here.open_dir(name),
            Some(_) => Err(std::io::ErrorKind::NotADirectory.into()),
            None => {
                let made = here.create_dir(name, mode)?;
                made.set_own_owner(uid, gid)?;
                made.set_own_mode(mode)?;
                Ok(made)
            }
        };
        here = next().map_err(writing(&path))?;
    }
    Ok(here)
}

struct Run<'a> {
    copy: &'a Copy,
    root: &'a Root,
    owner: Option<(u32, u32)>,
    mode: Option<ModeChange>,
    /// Files whose place is the destination itself.
    files: HashSet<PathBuf>,
    remarks: Vec<Remark>,
}

/// Where one file goes.
struct Target {
    dir: Dir,
    name: OsString,
    path: PathBuf,
}

impl Run<'_> {
    fn owner_or_root(&self) -> (u32, u32) {
        self.owner.unwrap_or((0, 0))
    }

    /// Mode of directories that are made on the way: as BuildKit has it, the one that `--chmod` gives as a number.
    fn dir_mode(&self) -> u32 {
        match self.mode {
            Some(ModeChange::Set(bits)) => bits & 0o777,
            _ => MODE_DIR,
        }
    }

    fn dest(&self) -> &Path {
        Path::new(&self.copy.dest)
    }

    fn dest_is_dir(&self) -> bool {
        self.copy.dest.ends_with('/') || self.copy.dest.ends_with("/.") || self.copy.parents
    }

    /// Makes the directories that must be there: all of the destination if it ends with a slash, else those above it.
    fn make_dest(&self) -> Result<PathBuf, TreeError> {
        if self.dest_is_dir() {
            return make_dirs(
                self.root,
                self.dest(),
                self.owner_or_root(),
                self.dir_mode(),
            );
        }
        if let Some(parent) = self.dest().parent() {
            make_dirs(self.root, parent, self.owner_or_root(), self.dir_mode())?;
        }
        let real = self
            .root
            .real_path(self.dest())
            .map_err(writing(self.dest()))?;
        // A dangling link leads to where nothing may be yet.
        if let Some(parent) = real.parent() {
            open_made(self.root, parent, self.owner_or_root(), self.dir_mode())?;
        }
        Ok(real)
    }

    /// The place of a file: free.
    fn target(&mut self, base: &OsStr) -> Result<Target, TreeError> {
        let real = self.make_dest()?;
        let found = self.root.find(&real).map_err(writing(&real))?;
        let path = if found.is_some_and(|found| found.is_dir()) {
            real.join(base)
        } else {
            let several = Remark::Several {
                dest: self.copy.dest.clone(),
            };
            if !self.files.insert(real.clone()) && !self.remarks.contains(&several) {
                self.remarks.push(several);
            }
            real
        };
        let (dir, name) = self.root.parent_of(&path).map_err(writing(&path))?;
        clear(&dir, &name, &path)?;
        Ok(Target { dir, name, path })
    }

    fn dress(&self, tree: &Tree) -> Dress {
        let owner = match tree.owners {
            Owners::Root => Some(self.owner_or_root()),
            Owners::Kept => self.owner,
        };
        Dress {
            owner: owner.map_or(NewOwner::Kept, |(uid, gid)| NewOwner::Given(uid, gid)),
            mode: self.mode.clone(),
            modified: None,
        }
    }

    fn pick(&mut self, tree: &Tree, pick: &Pick) -> Result<(), TreeError> {
        match pick.entries.first() {
            Some(top) if top.metadata.is_dir() => self.directory(tree, pick),
            Some(file) => self.file(tree, pick, file),
            None => Ok(()),
        }
    }

    fn file(&mut self, tree: &Tree, pick: &Pick, file: &Entry) -> Result<(), TreeError> {
        let (from, name) = tree
            .root
            .parent_of(&pick.path)
            .map_err(reading(&pick.path))?;
        if self.copy.unpack != Unpack::Nothing && file.metadata.kind == crate::sys::dir::Kind::File
        {
            let archive = from.open_file(&name).map_err(reading(&pick.path))?;
            if !Metadata::of_open(&archive)
                .map_err(reading(&pick.path))?
                .is_unchanged_from(&file.metadata)
            {
                return Err(TreeError::Changed {
                    path: pick.path.display().to_string(),
                });
            }
            if self.unpack(archive, &pick.path.display().to_string())? {
                return Ok(());
            }
        }
        let target = self.target(&pick.name)?;
        let place = Place {
            root: self.root,
            dir: &target.dir,
            name: &target.name,
            path: &target.path,
        };
        copy_entry(
            &from,
            &name,
            &file.metadata,
            place,
            &self.dress(tree),
            &mut Links::default(),
        )
        .map_err(copying(&pick.path, &target.path))
    }

    /// Copies what is in a directory into the destination.
    fn directory(&mut self, tree: &Tree, pick: &Pick) -> Result<(), TreeError> {
        let dress = self.dress(tree);
        let real = self.make_dest()?;
        let from = tree.root.dir(&pick.path).map_err(reading(&pick.path))?;
        let there = self.root.find(&real).map_err(writing(&real))?;
        let to = match there {
            Some(found) if found.is_dir() => self.root.dir(&real).map_err(writing(&real))?,
            Some(_) => {
                return Err(TreeError::NotADirectory {
                    path: real.display().to_string(),
                });
            }
            // As BuildKit has it: a directory's contents are copied, and what they are put into is new.
            None => open_made(self.root, &real, self.owner_or_root(), self.dir_mode())?,
        };
        let mut levels = vec![Level {
            from,
            to,
            path: PathBuf::new(),
            // The destination gets the directory's times, whether it is new or not; those of the directory that happens to
            // hold a context say nothing.
            times: pick
                .entries
                .first()
                .map(|top| top.metadata)
                .filter(|_| tree.owners == Owners::Kept || !pick.path.as_os_str().is_empty()),
        }];
        let mut links = Links::default();
        for entry in &pick.entries[1..] {
            let parent = entry.path.parent().unwrap_or(Path::new(""));
            while levels.last().is_some_and(|level| level.path != parent) {
                finish(levels.pop(), &real, &dress)?;
            }
            let (Some(level), Some(name)) = (levels.last(), entry.path.file_name()) else {
                continue;
            };
            let (source, path) = (pick.path.join(&entry.path), real.join(&entry.path));
            if entry.metadata.is_dir() {
                let from = level.from.open_dir(name).map_err(reading(&source))?;
                let to = open_or_make(&level.to, name, &path)?;
                dress_dir(&from, &entry.metadata, &to, &dress).map_err(writing(&path))?;
                levels.push(Level {
                    from,
                    to,
                    path: entry.path.clone(),
                    times: Some(entry.metadata),
                });
            } else {
                clear(&level.to, name, &path)?;
                let place = Place {
                    root: self.root,
                    dir: &level.to,
                    name,
                    path: &path,
                };
                copy_entry(
                    &level.from,
                    name,
                    &entry.metadata,
                    place,
                    &dress,
                    &mut links,
                )
                .map_err(copying(&source, &path))?;
            }
        }
        while let Some(level) = levels.pop() {
            finish(Some(level), &real, &dress)?;
        }
        Ok(())
    }

    fn download(&mut self, download: &Download) -> Result<(), TreeError> {
        let mut file = download.file.try_clone().map_err(reading(&download.name))?;
        file.seek(SeekFrom::Start(0))
            .map_err(reading(&download.name))?;
        if self.copy.unpack == Unpack::Everything
            && self.unpack(
                file.try_clone().map_err(reading(&download.name))?,
                &download.name,
            )?
        {
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))
            .map_err(reading(&download.name))?;
        self.write(&download.name, &mut file, MODE_DOWNLOAD, download.modified)
    }

    fn inline(&mut self, file: &InlineFile) -> Result<(), TreeError> {
        self.write(&file.name, &mut file.content.as_bytes(), MODE_INLINE, None)
    }

    fn write(
        &mut self,
        name: &str,
        content: &mut impl Read,
        mode: u32,
        modified: Option<Time>,
    ) -> Result<(), TreeError> {
        let base = Path::new(name)
            .file_name()
            .unwrap_or(OsStr::new(name))
            .to_owned();
        let Target { dir, name, path } = self.target(&base)?;
        let mode = self
            .mode
            .as_ref()
            .map_or(mode, |change| change.apply(mode, false));
        let (uid, gid) = self.owner_or_root();
        let mut write = || {
            let mut file = dir.create_file(&name, 0o600)?;
            std::io::copy(content, &mut file)?;
            file.flush()?;
            dir.set_owner(&name, uid, gid)?;
            dir.set_mode(&name, mode)?;
            match modified {
                Some(time) => dir.set_times(&name, time, time),
                None => Ok(()),
            }
        };
        write().map_err(writing(&path))
    }

    /// Unpacks an archive into the destination; false if it is none.
    fn unpack(&self, file: File, name: &str) -> Result<bool, TreeError> {
        let Some(stream) = archive::open(file, name)? else {
            return Ok(false);
        };
        let real = make_dirs(self.root, self.dest(), self.owner_or_root(), MODE_DIR)?;
        // As BuildKit has it, the destination is all that an archive sees: a link in it to `/etc` leads to `etc` there.
        let dest = self.root.dir(&real).map_err(writing(&real))?;
        let dest = Root::new(dest.into(), Scope::Image);
        archive::unpack(stream, name, &dest, &real, self.owner)?;
        Ok(true)
    }
}

struct Level {
    from: Dir,
    to: Dir,
    /// From the pick.
    path: PathBuf,
    /// Whose times it gets when all is in it.
    times: Option<Metadata>,
}

fn finish(level: Option<Level>, real: &Path, dress: &Dress) -> Result<(), TreeError> {
    match level {
        Some(Level {
            to,
            path,
            times: Some(seen),
            ..
        }) => dress_dir_times(&seen, &to, dress).map_err(writing(real.join(path))),
        _ => Ok(()),
    }
}

/// Takes away what has a file's name, unless that is a directory.
fn clear(dir: &Dir, name: &OsStr, path: &Path) -> Result<(), TreeError> {
    match dir.find(name).map_err(writing(path))? {
        None => Ok(()),
        Some(found) if found.is_dir() => Err(TreeError::IsADirectory {
            path: path.display().to_string(),
        }),
        Some(_) => dir.remove_file(name).map_err(writing(path)),
    }
}

fn open_or_make(dir: &Dir, name: &OsStr, path: &Path) -> Result<Dir, TreeError> {
    match dir.find(name).map_err(writing(path))? {
        None => dir.create_dir(name, 0o700).map_err(writing(path)),
        Some(found) if found.is_dir() => dir.open_dir(name).map_err(writing(path)),
        Some(_) => Err(TreeError::NotADirectory {
            path: path.display().to_string(),
        }),
    }
}

/// An error of a copy: the source's if that has changed or is gone, else the destination's.
fn copying(source: &Path, path: &Path) -> impl FnOnce(std::io::Error) -> TreeError {
    let (source, path) = (source.to_owned(), path.to_owned());
    move |error| {
        if has_changed(&error) || error.kind() == std::io::ErrorKind::NotFound {
            TreeError::Changed {
                path: source.display().to_string(),
            }
        } else if error.kind() == std::io::ErrorKind::PermissionDenied {
            TreeError::Unreadable {
                path: source.display().to_string(),
                source: error,
            }
        } else {
            writing(path)(error)
        }
    }
}
