//! The way to an entry: every component by itself, links resolved inside the tree, and what the layer takes for granted
//! made as it is below.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use super::super::lower::Found;
use super::{ApplyError, Directory, Here, Target, clone_of, failed, refused};
use crate::sys::dir::{self, Dir, Time};
use crate::sys::{file, overlay};

/// As in the kernel.
const LINKS_MAX: usize = 40;

impl Target<'_> {
    /// In place of a whiteout or of anything else that this layer has: what was below stays hidden.
    pub(super) fn replace_by_directory(&mut self, dir: &Dir, name: &OsStr) -> io::Result<Dir> {
        self.here = None;
        dir.remove_file(name)?;
        let made = dir.create_dir(name, 0o700)?;
        overlay::make_opaque(&made)?;
        Ok(made)
    }

    /// The directory at a path, made if the layer takes it for granted, and its path without links.
    pub(super) fn directory(
        &mut self,
        asked: &[u8],
        path: &[u8],
    ) -> Result<(Vec<u8>, Rc<Dir>), ApplyError> {
        let (mut real, mut dir, mut left) = match &self.here {
            Some(here) if here.asked == asked => {
                return Ok((here.real.clone(), here.dir.clone()));
            }
            Some(here) if here.asked == here.real && is_below(asked, &here.real) => {
                let rest = asked[here.real.len()..].to_vec();
                (here.real.clone(), clone_of(&here.dir, path)?, rest)
            }
            _ => (Vec::new(), clone_of(self.root, path)?, asked.to_vec()),
        };
        let mut links = 0;
        while let Some((name, rest)) = first_component(&left) {
            // Only what a link says has these. `real` is without links, so its parent is the path before its name.
            if name == b"." {
                left = rest;
                continue;
            }
            if name == b".." {
                left = joined(split(&real).0, &rest);
                real.clear();
                dir = clone_of(self.root, path)?;
                continue;
            }
            let found = dir
                .find(OsStr::from_bytes(&name))
                .map_err(failed("look at", path))?;
            let place = joined(&real, &name);
            let os_name = OsStr::from_bytes(&name);
            let link = match found {
                Some(metadata) if metadata.is_dir() => {
                    dir = dir
                        .open_dir(os_name)
                        .map_err(failed("open the way to", path))?;
                    None
                }
                Some(metadata) if metadata.kind == dir::Kind::Symlink => Some(
                    dir.read_link(os_name)
                        .map_err(failed("read the way to", path))?,
                ),
                Some(metadata)
                    if overlay::is_whiteout(&dir, os_name, &metadata)
                        .map_err(failed("look at", path))? =>
                {
                    dir = self
                        .replace_by_directory(&dir, os_name)
                        .map_err(failed("make the way to", path))?;
                    self.directories.push(Directory {
                        path: place.clone(),
                        mode: 0o755,
                        modified: Time::default(),
                    });
                    None
                }
                Some(_) => return Err(refused(path, "lies in something that is no directory")),
                None => match self
                    .below(&place)
                    .map_err(failed("look below for the way to", path))?
                {
                    Some(Found::Other(from, metadata)) if metadata.kind == dir::Kind::Symlink => {
                        Some(
                            from.read_link(os_name)
                                .map_err(failed("read the way to", path))?,
                        )
                    }
                    Some(Found::Other(..)) => {
                        return Err(refused(path, "lies in something that is no directory"));
                    }
                    Some(Found::Dir(like)) => {
                        dir = self
                            .granted(&dir, os_name, &place, like.top())
                            .map_err(failed("make the way to", path))?;
                        None
                    }
                    None => {
                        dir = self
                            .granted(&dir, os_name, &place, None)
                            .map_err(failed("make the way to", path))?;
                        None
                    }
                },
            };
            let Some(link) = link else {
                real = place;
                left = rest;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(refused(path, "goes through links that lead in a circle"));
            }
            // From the top again.
            left = within_root(&real, link.as_os_str().as_bytes(), &rest);
            real.clear();
            dir = clone_of(self.root, path)?;
        }
        let dir = Rc::new(dir);
        self.here = Some(Here {
            asked: asked.to_vec(),
            real: real.clone(),
            dir: dir.clone(),
        });
        Ok((real, dir))
    }

    /// Makes a directory that the layer does not list: as it is below, else plain.
    fn granted(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        place: &[u8],
        like: Option<&Dir>,
    ) -> io::Result<Dir> {
        let made = dir.create_dir(name, 0o700)?;
        let (mut mode, mut modified) = (0o755, Time::default());
        if let Some(like) = like {
            let metadata = like.own_metadata()?;
            (mode, modified) = (metadata.mode, metadata.modified);
            made.set_own_owner(metadata.uid, metadata.gid)?;
            for xattr in like
                .own_xattrs()?
                .iter()
                .filter(|xattr| file::is_content_xattr(&xattr.name))
            {
                made.set_own_xattr(xattr)?;
            }
        }
        self.directories.push(Directory {
            path: place.to_vec(),
            mode,
            modified,
        });
        Ok(made)
    }

    /// What the lower layers show at a path without links, as far as this layer lets them.
    pub(super) fn below(&self, path: &[u8]) -> io::Result<Option<Found>> {
        let mut upper = Some(self.root.try_clone()?);
        let mut lowers = None;
        let mut left = path.to_vec();
        while let Some((name, rest)) = first_component(&left) {
            let name = OsStr::from_bytes(&name);
            let found = lowers.as_ref().unwrap_or(self.lowers).find(name)?;
            if rest.is_empty() {
                return Ok(found);
            }
            let Some(Found::Dir(merged)) = found else {
                return Ok(None);
            };
            lowers = Some(merged);
            upper = match upper {
                Some(dir) if dir.find(name)?.is_some_and(|metadata| metadata.is_dir()) => {
                    Some(dir.open_dir(name)?)
                }
                _ => None,
            };
            if let Some(dir) = &upper
                && overlay::is_opaque(dir)?
            {
                return Ok(None);
            }
            left = rest;
        }
        Ok(None)
    }

    /// What can only be done when everything is there.
    pub(super) fn finish(&mut self) -> Result<(), ApplyError> {
        if self.hides_all {
            self.hide_all().map_err(failed("hide what is below", b""))?;
        }
        for Directory {
            path,
            mode,
            modified,
        } in std::mem::take(&mut self.directories)
        {
            let Some(dir) = self.still_there(&path).map_err(failed("open", &path))? else {
                continue;
            };
            dir.set_own_mode(mode)
                .map_err(failed("set the mode of", &path))?;
            dir.set_own_times(modified, modified)
                .map_err(failed("set the time of", &path))?;
        }
        Ok(())
    }

    /// A directory that was made, unless a later entry has replaced it.
    fn still_there(&mut self, path: &[u8]) -> io::Result<Option<Dir>> {
        if path.is_empty() {
            return self.root.try_clone().map(Some);
        }
        let (parent, name) = split(path);
        let (mut dir, mut left) = match &self.here {
            Some(here) if here.real == parent => (here.dir.try_clone()?, Vec::new()),
            Some(here) if is_below(parent, &here.real) => {
                (here.dir.try_clone()?, parent[here.real.len()..].to_vec())
            }
            _ => (self.root.try_clone()?, parent.to_vec()),
        };
        while let Some((component, rest)) = first_component(&left) {
            let component = OsStr::from_bytes(&component);
            if !dir
                .find(component)?
                .is_some_and(|metadata| metadata.is_dir())
            {
                return Ok(None);
            }
            dir = dir.open_dir(component)?;
            left = rest;
        }
        let name = OsStr::from_bytes(name);
        let found = dir.find(name)?.is_some_and(|metadata| metadata.is_dir());
        let opened = if found {
            Some(dir.open_dir(name)?)
        } else {
            None
        };
        self.here = Some(Here {
            asked: parent.to_vec(),
            real: parent.to_vec(),
            dir: Rc::new(dir),
        });
        Ok(opened)
    }

    /// An opaque root: overlay has no such thing, so each name below is hidden by itself.
    fn hide_all(&self) -> io::Result<()> {
        let mut names = BTreeSet::new();
        for lower in self.lowers.iter() {
            names.extend(lower.entries()?.into_iter().map(|entry| entry.name));
        }
        for name in names {
            if self.lowers.find(&name)?.is_none() {
                continue;
            }
            match self.root.find(&name)? {
                None => overlay::make_whiteout(self.root, &name)?,
                Some(metadata) if metadata.is_dir() => {
                    overlay::make_opaque(&self.root.open_dir(&name)?)?
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Parent and name of a path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn joined(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

fn is_below(path: &[u8], parent: &[u8]) -> bool {
    parent.is_empty()
        || path
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with(b"/"))
}

/// The first name in a path, and what follows it.
fn first_component(path: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let start = path.iter().position(|&byte| byte != b'/')?;
    let path = &path[start..];
    let end = path
        .iter()
        .position(|&byte| byte == b'/')
        .unwrap_or(path.len());
    let after = path[end..]
        .iter()
        .position(|&byte| byte != b'/')
        .map_or(path.len(), |skip| end + skip);
    Some((path[..end].to_vec(), path[after..].to_vec()))
}

/// Where a link leads that is in the directory `base`, with the rest of the path after it: from the top.
fn within_root(base: &[u8], link: &[u8], rest: &[u8]) -> Vec<u8> {
    let base = if link.starts_with(b"/") { b"" } else { base };
    [base, link, rest].join(&b'/')
}
