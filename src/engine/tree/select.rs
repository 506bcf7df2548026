//! Which paths of a tree are meant: by a path with or without wildcards, less what an ignore file and `--exclude` leave
//! out. Nothing that is left out is opened.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{TreeError, reading};
use crate::digest::Key;
use crate::dockerfile::glob::{Glob, has_wildcard};
use crate::dockerfile::ignore::{IgnoreFile, Matched};
use crate::dockerfile::suggest::nearest;
use crate::sys::dir::{Dir, DirEntry, Kind, Metadata};
use crate::sys::root::{Root, Scope};

/// How many names an error lists.
const LISTED_MAX: usize = 8;

/// An ignore file and what it is called.
#[derive(Debug, Clone)]
pub struct Ignore {
    /// Its rules.
    pub rules: IgnoreFile,
    /// Its name, for messages: `.dockerignore`.
    pub file: String,
}

/// Whose the files of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whoever has them on this machine says nothing: they count as root's.
    Root,
    /// Those that they have.
    Kept,
}

/// A tree that files are taken from.
#[derive(Debug)]
pub struct Tree {
    pub(super) root: Root,
    pub(super) name: String,
    pub(super) owners: Owners,
    /// Names it in the stat cache, where that is of use.
    pub(super) cache: Option<Key>,
    ignore: Option<Ignore>,
}

/// One thing that a path means: a file, or a directory with what is in it.
#[derive(Debug, Clone)]
pub struct Pick {
    /// The name under which it goes into a directory.
    pub name: OsString,
    /// Where it is: from the tree's top, links followed.
    pub path: PathBuf,
    /// Itself, with an empty path, then all below it: a directory before what is in it, names in byte order.
    pub entries: Vec<Entry>,
    /// Nothing in it was left out but by the ignore file.
    pub(super) whole: bool,
}

/// One file, directory or other thing.
#[derive(Debug, Clone)]
pub struct Entry {
    /// From its [`Pick`].
    pub path: PathBuf,
    /// What it was when it was selected.
    pub metadata: Metadata,
}

/// What is wanted of a tree.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// A path, perhaps with wildcards.
    pub path: &'a str,
    /// Whether directories on the way are kept, and which.
    pub parents: Parents,
    /// What is left out, relative to each thing that the path means.
    pub exclude: &'a IgnoreFile,
}

/// What becomes of the directories that lead to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// They are dropped.
    Dropped,
    /// They are kept, from the `/./` in the path on: `--parents`.
    Kept,
}

impl Tree {
    /// A directory of this machine, read in place. `name` is for messages: `the build context`.
    pub fn context(path: &Path, ignore: Option<Ignore>, name: &str) -> Result<Self, TreeError> {
        let root = Root::open_trusted(path, Scope::Beneath).map_err(reading(path))?;
        let top = root.top().own_metadata().map_err(reading(path))?;
        let mut identity = path.as_os_str().as_encoded_bytes().to_vec();
        identity.extend_from_slice(&top.dev.to_le_bytes());
        identity.extend_from_slice(&top.ino.to_le_bytes());
        let ignore = ignore.filter(|ignore| !ignore.rules.is_empty());
        Ok(Self {
            root,
            name: name.to_owned(),
            owners: Owners::Root,
            cache: Some(Key::of(&identity)),
            ignore,
        })
    }

    /// A mounted tree, or another one whose owners mean something. `name` is for messages: `the stage build`.
    #[must_use]
    pub fn mounted(root: Root, name: &str) -> Self {
        Self {
            root,
            name: name.to_owned(),
            owners: Owners::Kept,
            cache: None,
            ignore: None,
        }
    }

    /// The tree itself, unfiltered.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Everything that `wanted` means. A path without wildcards must be there; one with wildcards may mean nothing.
    pub fn select(&self, wanted: &Wanted<'_>) -> Result<Vec<Pick>, TreeError> {
        match wanted.parents {
            Parents::Kept => self.select_with_parents(wanted),
            Parents::Dropped if has_wildcard(wanted.path) => self.select_by_wildcards(wanted),
            Parents::Dropped => self
                .select_one(wanted.path, wanted.exclude)
                .map(|pick| vec![pick]),
        }
    }

    /// All that is at a path, in which nothing is a wildcard.
    pub fn select_exactly(&self, path: &str) -> Result<Pick, TreeError> {
        self.select_one(path, &IgnoreFile::default())
    }

    /// Whether there is something at a path without wildcards, as [`select`](Self::select) would find it.
    pub fn expect(&self, path: &str) -> Result<(), TreeError> {
        let written = path;
        let path = clean(&path.replacen("/./", "/", 1));
        let real = self.real_path(&path)?;
        if self.root.find(&real).map_err(reading(&path))?.is_none()
            || self.hides(&real).max(self.hides(&path)) == Verdict::Skip
        {
            return Err(self.missing(written, &path));
        }
        Ok(())
    }

    fn select_one(&self, written: &str, exclude: &IgnoreFile) -> Result<Pick, TreeError> {
        let filter = Filter {
            tree: self,
            exclude,
            include: None,
        };
        let path = clean(written);
        let name = path.file_name().unwrap_or_default().to_owned();
        self.pick(&path, name, &filter)?
            .ok_or_else(|| self.missing(written, &path))
    }

    fn select_by_wildcards(&self, wanted: &Wanted<'_>) -> Result<Vec<Pick>, TreeError> {
        let filter = Filter {
            tree: self,
            exclude: wanted.exclude,
            include: None,
        };
        let path = clean(wanted.path);
        let parts: Vec<&str> = path.iter().filter_map(OsStr::to_str).collect();
        let first = parts
            .iter()
            .position(|part| has_wildcard(part))
            .unwrap_or(parts.len());
        let base: PathBuf = parts[..first].iter().collect();
        let mut found = vec![base];
        for (index, part) in parts.iter().enumerate().skip(first) {
            let glob = Glob::parse(part).map_err(|error| TreeError::Pattern(error.to_string()))?;
            let mut next = Vec::new();
            for dir in found {
                // What the literal part leads to is followed; what wildcards find on the way is not.
                let real = if index == first {
                    self.real_path(&dir)?
                } else {
                    dir.clone()
                };
                let Some(metadata) = self.root.find(&real).map_err(reading(&dir))? else {
                    continue;
                };
                if !metadata.is_dir() || self.hides(&real) == Verdict::Skip {
                    continue;
                }
                let open = self.root.dir(&real).map_err(reading(&dir))?;
                for DirEntry { name, .. } in open.entries().map_err(reading(&dir))? {
                    if glob.matches(&name.to_string_lossy()) {
                        next.push(dir.join(name));
                    }
                }
            }
            found = next;
        }
        let mut picks = Vec::new();
        for path in found {
            let name = path.file_name().unwrap_or_default().to_owned();
            let left_out = wanted.exclude.decide(&name.to_string_lossy()).excluded;
            if let Some(pick) = self.pick(&path, name, &filter)?
                && (pick.is_dir() || !left_out)
            {
                picks.push(pick);
            }
        }
        Ok(picks)
    }

    fn select_with_parents(&self, wanted: &Wanted<'_>) -> Result<Vec<Pick>, TreeError> {
        let (base, pattern) = wanted.path.split_once("/./").unwrap_or(("", wanted.path));
        let (base, pattern) = (clean(base), clean(pattern));
        let pattern = pattern.to_string_lossy();
        let rules = IgnoreFile::of([pattern.as_ref()]).map_err(TreeError::Pattern)?;
        let parts = pattern
            .split('/')
            .map(|part| {
                if part == "**" {
                    Ok(None)
                } else {
                    Glob::parse(part).map(Some)
                }
            })
            .collect::<Result<_, _>>()
            .map_err(|error| TreeError::Pattern(error.to_string()))?;
        let include = (!pattern.is_empty()).then_some(Include { rules, parts });
        let filter = Filter {
            tree: self,
            exclude: wanted.exclude,
            include: include.as_ref(),
        };
        let pick = match self.pick(&base, OsString::new(), &filter)? {
            Some(pick) if pick.is_dir() => pick,
            _ => return Err(self.missing(wanted.path, &base)),
        };
        if pick.entries.len() == 1 && !has_wildcard(&pattern) && !pattern.is_empty() {
            let path = base.join(pattern.as_ref());
            // Left out by --exclude: nothing is a fine result.
            if wanted.exclude.is_empty() || self.root.find(&path).map_err(reading(&path))?.is_none()
            {
                return Err(self.missing(wanted.path, &path));
            }
        }
        Ok(vec![pick])
    }

    /// What is at a path, links followed; `None` if nothing is or all of it is left out.
    fn pick(
        &self,
        path: &Path,
        name: OsString,
        filter: &Filter<'_>,
    ) -> Result<Option<Pick>, TreeError> {
        let real = self.real_path(path)?;
        let Some(mut metadata) = self.root.find(&real).map_err(reading(path))? else {
            return Ok(None);
        };
        let verdict = self.hides(&real).max(if real == path {
            Verdict::Keep
        } else {
            self.hides(path)
        });
        if verdict == Verdict::Skip || (verdict == Verdict::Enter && !metadata.is_dir()) {
            return Ok(None);
        }
        if real.as_os_str().is_empty() && self.owners == Owners::Root {
            // The mode of the directory that happens to hold a context is no part of it.
            metadata.mode = 0o755;
        }
        let mut entries = vec![Entry {
            path: PathBuf::new(),
            metadata,
        }];
        if metadata.is_dir() {
            let dir = self.root.dir(&real).map_err(reading(path))?;
            walk(dir, &real, filter, &mut entries)?;
            if verdict == Verdict::Enter && entries.len() == 1 {
                return Ok(None);
            }
        }
        let whole = filter.exclude.is_empty() && filter.include.is_none();
        Ok(Some(Pick {
            name,
            path: real,
            entries,
            whole,
        }))
    }

    fn real_path(&self, path: &Path) -> Result<PathBuf, TreeError> {
        self.root.real_path(path).map_err(reading(path))
    }

    /// What the ignore file says of a path.
    fn hides(&self, path: &Path) -> Verdict {
        let Some(ignore) = &self.ignore else {
            return Verdict::Keep;
        };
        let path = path.to_string_lossy();
        match ignore.rules.decide(&path).excluded {
            false => Verdict::Keep,
            true if ignore.rules.may_contain_exceptions(&path) => Verdict::Enter,
            true => Verdict::Skip,
        }
    }

    /// Says why a path that must be there is not.
    fn missing(&self, written: &str, path: &Path) -> TreeError {
        let real = self
            .root
            .real_path(path)
            .unwrap_or_else(|_| path.to_owned());
        if let (Some(ignore), Ok(Some(_))) = (&self.ignore, self.root.find(&real)) {
            for path in [path, &real] {
                let verdict = ignore.rules.decide(&path.to_string_lossy());
                if verdict.excluded {
                    return TreeError::Ignored {
                        path: written.to_owned(),
                        tree: self.name.clone(),
                        file: ignore.file.clone(),
                        line: verdict.line,
                    };
                }
            }
        }
        TreeError::Missing {
            path: written.to_owned(),
            tree: self.name.clone(),
            help: match self.root.find(path) {
                Ok(Some(_)) if real != path => Some(format!(
                    "it is a link that leads to `{}`, and nothing is there",
                    real.display()
                )),
                _ => self.hint(&real),
            },
        }
    }

    /// What has nearly the name of the first component that is missing, else what there is in its place.
    fn hint(&self, path: &Path) -> Option<String> {
        let mut there = PathBuf::new();
        for part in path.iter() {
            let next = there.join(part);
            if self.root.find(&next).ok()?.is_some() {
                there = next;
                continue;
            }
            let entries = self.root.dir(&there).and_then(|dir| dir.entries()).ok()?;
            let names: Vec<String> = entries
                .iter()
                .filter(|entry| self.hides(&there.join(&entry.name)) == Verdict::Keep)
                .map(|entry| entry.name.to_string_lossy().into_owned())
                .collect();
            let part = part.to_string_lossy();
            // `nearest` takes a name that differs in case alone for the same.
            let near = names
                .iter()
                .find(|name| name.eq_ignore_ascii_case(&part))
                .map(String::as_str);
            let near = near.or_else(|| nearest(&part, names.iter().map(String::as_str)));
            return Some(match near {
                Some(near) => format!("did you mean `{}`?", there.join(near).display()),
                None => listed(&there, &names),
            });
        }
        None
    }
}

/// What a directory has in it, in a few words.
fn listed(directory: &Path, names: &[String]) -> String {
    let place = match directory.as_os_str().is_empty() {
        true => "at its top".to_owned(),
        false => format!("in `{}`", directory.display()),
    };
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    match names.as_slice() {
        [] => format!("there is nothing {place}"),
        [one] => format!("{place} there is only `{one}`"),
        all if all.len() <= LISTED_MAX => format!("{place} there are {}", all.join(", ")),
        all => format!(
            "{place} there are {} and {} more",
            all[..LISTED_MAX].join(", "),
            all.len() - LISTED_MAX
        ),
    }
}

impl Pick {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.entries
            .first()
            .is_some_and(|entry| entry.metadata.is_dir())
    }
}

/// What is left of a tree.
struct Filter<'a> {
    tree: &'a Tree,
    exclude: &'a IgnoreFile,
    include: Option<&'a Include>,
}

/// The pattern of `--parents`.
struct Include {
    rules: IgnoreFile,
    /// Its components; `None` is `**`.
    parts: Vec<Option<Glob>>,
}

impl Include {
    /// Whether something below a directory may match.
    fn may_match_below(&self, path: &Path) -> bool {
        for (part, name) in self.parts.iter().zip(path.iter()) {
            match part {
                None => return true,
                Some(glob) if !glob.matches(&name.to_string_lossy()) => return false,
                Some(_) => {}
            }
        }
        true
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Keep,
    /// Only for what is below it, if anything is.
    Enter,
    Skip,
}

/// What is known of a directory, for what is in it.
#[derive(Default, Clone)]
struct Above {
    ignore: Matched,
    exclude: Matched,
    include: Matched,
}

impl Filter<'_> {
    /// `path` is relative to the pick, `real` to the tree.
    fn decide(&self, above: &Above, path: &Path, real: &Path) -> (Verdict, Above) {
        let mut below = Above::default();
        let mut verdict = Verdict::Keep;
        if let Some(ignore) = &self.tree.ignore {
            let text = real.to_string_lossy();
            let (said, matched) = ignore.rules.decide_below(&above.ignore, &text);
            below.ignore = matched;
            if said.excluded {
                verdict = if ignore.rules.may_contain_exceptions(&text) {
                    Verdict::Enter
                } else {
                    Verdict::Skip
                };
            }
        }
        if !self.exclude.is_empty() {
            let text = path.to_string_lossy();
            let (said, matched) = self.exclude.decide_below(&above.exclude, &text);
            below.exclude = matched;
            if said.excluded {
                let some = self.exclude.may_contain_exceptions(&text);
                verdict = verdict.max(if some { Verdict::Enter } else { Verdict::Skip });
            }
        }
        if let Some(include) = self.include {
            let (said, matched) = include
                .rules
                .decide_below(&above.include, &path.to_string_lossy());
            below.include = matched;
            if !said.excluded {
                let some = include.may_match_below(path);
                verdict = verdict.max(if some { Verdict::Enter } else { Verdict::Skip });
            }
        }
        (verdict, below)
    }

    /// What is known of a directory that a walk begins with.
    fn begin(&self, real: &Path) -> Above {
        let mut above = Above::default();
        if let Some(ignore) = &self.tree.ignore {
            let mut path = PathBuf::new();
            for part in real.iter() {
                path.push(part);
                above.ignore = ignore
                    .rules
                    .decide_below(&above.ignore, &path.to_string_lossy())
                    .1;
            }
        }
        above
    }
}

struct Level {
    dir: Dir,
    path: PathBuf,
    real: PathBuf,
    above: Above,
    left: std::vec::IntoIter<DirEntry>,
    /// Where this directory's own entry is, if it stays only for what is below it.
    only_if_needed: Option<usize>,
}

fn walk(
    top: Dir,
    real: &Path,
    filter: &Filter<'_>,
    entries: &mut Vec<Entry>,
) -> Result<(), TreeError> {
    let left = top.entries().map_err(reading(real))?.into_iter();
    let above = filter.begin(real);
    let first = Level {
        dir: top,
        path: PathBuf::new(),
        real: real.to_owned(),
        above,
        left,
        only_if_needed: None,
    };
    let mut levels = vec![first];
    while let Some(level) = levels.last_mut() {
        let Some(DirEntry { name, kind }) = level.left.next() else {
            if level
                .only_if_needed
                .is_some_and(|own| entries.len() == own + 1)
            {
                entries.pop();
            }
            levels.pop();
            continue;
        };
        let (path, real) = (level.path.join(&name), level.real.join(&name));
        let (verdict, below) = filter.decide(&level.above, &path, &real);
        if verdict == Verdict::Skip
            || (verdict == Verdict::Enter && kind.is_some_and(|kind| kind != Kind::Dir))
        {
            continue;
        }
        let metadata = level.dir.metadata(&name).map_err(reading(&real))?;
        if !metadata.is_dir() {
            if verdict == Verdict::Keep {
                entries.push(Entry { path, metadata });
            }
            continue;
        }
        let only_if_needed = (verdict == Verdict::Enter).then_some(entries.len());
        entries.push(Entry {
            path: path.clone(),
            metadata,
        });
        let open = || -> io::Result<_> {
            let dir = level.dir.open_dir(&name)?;
            let left = dir.entries()?.into_iter();
            Ok((dir, left))
        };
        let (dir, left) = open().map_err(reading(&real))?;
        levels.push(Level {
            dir,
            path,
            real,
            above: below,
            left,
            only_if_needed,
        });
    }
    Ok(())
}

/// A path from the tree's top without `.` and `..`; nothing leads above the top.
pub(super) fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}
