//! From an upper directory to a layer: read once, in name order, straight into the tar, its SHA-256 and, where wanted, a
//! compressor. The same directory gives the same bytes, whoever reads it: owners are those of the container, file
//! capabilities are in the form without a root id, nothing of what overlay keeps for itself is told.
//!
//! Left out: sockets, as every builder does, and the root directory's own mode and owner, which layers do not carry.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::lower::Lowers;
use crate::digest::{Digest, Hasher};
use crate::image::compress::Encoder;
use crate::image::layer::{Entry, Kind, LayerWriter, TimeRewrite, WHITEOUT};
use crate::image::{Compression, Timestamp};
use crate::sys::dir::{self, Dir, DirEntry, Metadata, Xattr};
use crate::sys::file;

/// A layer's tar has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// SHA-256 of the tar.
    pub diff_id: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How many entries it has, signs of removal among them.
    pub entries: u64,
}

/// A layer's blob has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// The tar in it.
    pub tar: Written,
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a tree cannot be put into a layer.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum DiffError {
    /// Something in the tree cannot be read.
    #[error("cannot {doing} `/{}` for the layer", path.display())]
    #[diagnostic(code(layer::unreadable))]
    Unreadable {
        /// Where in the tree.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file that every reader of the layer would take for a removal.
    #[error("`/{}` cannot be in an image: a name that begins with `.wh.` means that the rest of the name is deleted", path.display())]
    #[diagnostic(
        code(layer::reserved_name),
        help("remove the file in the step that makes it, or give it another name")
    )]
    ReservedName {
        /// Where in the tree.
        path: PathBuf,
    },
    /// The layer cannot be written.
    #[error("cannot write the layer")]
    #[diagnostic(code(layer::unwritable))]
    Unwritable(#[source] io::Error),
}

/// What the tree is.
#[derive(Debug)]
pub enum Tree<'a> {
    /// An upper directory upon others: signs of removal are told. New directories are opaque for overlay even where
    /// nothing is below them; that is told only where a lower one has such a directory.
    Upper(&'a Lowers),
    /// All there is: what a mounted root shows. A file may have any name.
    Whole,
}

/// Writes the tar of a tree.
pub fn write_tar(
    root: &Dir,
    tree: &Tree<'_>,
    times: TimeRewrite,
    out: &mut dyn Write,
) -> Result<Written, DiffError> {
    let out = Measured {
        out,
        hasher: Hasher::default(),
        is_broken: false,
    };
    let mut walk = Walk {
        tree,
        writer: LayerWriter::new(out, times),
        path: Vec::new(),
        links: HashMap::new(),
        entries: 0,
    };
    walk.run(root)?;
    let Walk {
        writer, entries, ..
    } = walk;
    let measured = writer.finish().map_err(DiffError::Unwritable)?;
    let (diff_id, size) = measured.hasher.finish();
    Ok(Written {
        diff_id,
        size,
        entries,
    })
}

/// Writes the blob of a tree: its tar, compressed on up to `threads` threads.
pub fn write_blob(
    root: &Dir,
    tree: &Tree<'_>,
    times: TimeRewrite,
    compression: Compression,
    threads: usize,
    out: &mut dyn Write,
) -> Result<Blob, DiffError> {
    let measured = Measured {
        out,
        hasher: Hasher::default(),
        is_broken: false,
    };
    let mut encoder =
        Encoder::new(measured, compression, threads).map_err(DiffError::Unwritable)?;
    let tar = write_tar(root, tree, times, &mut encoder)?;
    let (digest, size) = encoder
        .finish()
        .map_err(DiffError::Unwritable)?
        .hasher
        .finish();
    Ok(Blob { tar, digest, size })
}

/// Counts and hashes what goes by, and remembers whether it was the output that failed.
struct Measured<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    is_broken: bool,
}

impl Write for Measured<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes).inspect_err(|error| {
            self.is_broken = error.kind() != io::ErrorKind::Interrupted;
        })?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// So many directories are held open on the way down; those above are opened again on the way back.
const OPEN_MAX: usize = 128;

/// A directory on the way from the root to where the walk is.
struct Level {
    dir: Option<Dir>,
    name: OsString,
    left: std::vec::IntoIter<DirEntry>,
    path_length: usize,
}

struct Walk<'a> {
    tree: &'a Tree<'a>,
    writer: LayerWriter<Measured<'a>>,
    path: Vec<u8>,
    /// Files with several names: the first one that was met.
    links: HashMap<(u64, u64), Vec<u8>>,
    entries: u64,
}

impl Walk<'_> {
    fn run(&mut self, root: &Dir) -> Result<(), DiffError> {
        let top = root
            .try_clone()
            .map_err(|source| self.unreadable("open", source))?;
        let mut levels = vec![self.level(top, OsString::new())?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_length);
            let Some(entry) = level.left.next() else {
                levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(entry.name.as_bytes());
            let dir = self.held(&mut levels)?;
            if let Some(below) = self.entry(dir, &entry)? {
                let level = self.level(below, entry.name)?;
                levels.push(level);
                let depth = levels.len();
                if depth > OPEN_MAX + 1 {
                    levels[depth - 1 - OPEN_MAX].dir = None;
                }
            }
        }
        Ok(())
    }

    fn level(&self, dir: Dir, name: OsString) -> Result<Level, DiffError> {
        let entries = dir
            .entries()
            .map_err(|source| self.unreadable("list", source))?;
        Ok(Level {
            dir: Some(dir),
            name,
            left: entries.into_iter(),
            path_length: self.path.len(),
        })
    }

    /// The innermost directory, opened again if it was let go.
    fn held<'l>(&self, levels: &'l mut [Level]) -> Result<&'l Dir, DiffError> {
        let innermost = levels.len() - 1;
        let nearest = levels
            .iter()
            .rposition(|level| level.dir.is_some())
            .unwrap_or(0);
        for index in nearest..innermost {
            let name = levels[index + 1].name.clone();
            let opened = levels[index].dir.as_ref().map(|dir| dir.open_dir(&name));
            levels[index + 1].dir = opened
                .transpose()
                .map_err(|source| self.unreadable("open the way to", source))?;
            if index > 0 && index + OPEN_MAX < innermost {
                levels[index].dir = None;
            }
        }
        let missing = || self.unreadable("open the way to", io::ErrorKind::NotFound.into());
        levels[innermost].dir.as_ref().ok_or_else(missing)
    }

    /// Writes one entry. A directory is given back, open, for the walk to go on in it.
    fn entry(&mut self, dir: &Dir, listed: &DirEntry) -> Result<Option<Dir>, DiffError> {
        let name = &listed.name;
        match listed.kind {
            Some(dir::Kind::File) => return self.file(dir, name).map(|()| None),
            Some(dir::Kind::Dir) => return self.directory(dir, name).map(Some),
            _ => {}
        }
        let metadata = dir
            .metadata(name)
            .map_err(|source| self.unreadable("look at", source))?;
        let kind = match metadata.kind {
            dir::Kind::File => return self.file(dir, name).map(|()| None),
            dir::Kind::Dir => return self.directory(dir, name).map(Some),
            dir::Kind::Socket => return Ok(None),
            dir::Kind::CharDevice if metadata.rdev == 0 && matches!(self.tree, Tree::Upper(_)) => {
                self.removal()?;
                return Ok(None);
            }
            dir::Kind::Symlink => {
                let target = dir
                    .read_link(name)
                    .map_err(|source| self.unreadable("read the link", source))?;
                Kind::Symlink {
                    target: target.into_os_string().into_encoded_bytes(),
                }
            }
            dir::Kind::Fifo => Kind::Fifo,
            dir::Kind::CharDevice => {
                let (major, minor) = metadata.device();
                Kind::CharDevice { major, minor }
            }
            dir::Kind::BlockDevice => {
                let (major, minor) = metadata.device();
                Kind::BlockDevice { major, minor }
            }
        };
        let kind = self.other_name(&metadata).unwrap_or(kind);
        let entry = self.described(kind, &metadata, Vec::new())?;
        self.put(|writer| writer.entry(&entry), "read")?;
        Ok(None)
    }

    fn directory(&mut self, within: &Dir, name: &OsStr) -> Result<Dir, DiffError> {
        let dir = within
            .open_dir(name)
            .map_err(|source| self.unreadable("open", source))?;
        let metadata = dir
            .own_metadata()
            .map_err(|source| self.unreadable("look at", source))?;
        let xattrs = dir
            .own_xattrs()
            .map_err(|source| self.unreadable("read the attributes of", source))?;
        let says_opaque = xattrs
            .iter()
            .any(|xattr| xattr.name == "user.overlay.opaque" && xattr.value == b"y");
        let entry = self.described(Kind::Directory, &metadata, content(xattrs))?;
        self.put(|writer| writer.entry(&entry), "read")?;
        if let Tree::Upper(lowers) = self.tree
            && says_opaque
            && lowers
                .has_dir(&self.path)
                .map_err(|source| self.unreadable("look below", source))?
        {
            self.put(|writer| writer.opaque(&entry.path), "read")?;
        }
        Ok(dir)
    }

    fn file(&mut self, dir: &Dir, name: &OsStr) -> Result<(), DiffError> {
        let mut content_of = dir
            .open_file(name)
            .map_err(|source| self.unreadable("open", source))?;
        let metadata =
            Metadata::of_open(&content_of).map_err(|source| self.unreadable("look at", source))?;
        if let Some(kind) = self.other_name(&metadata) {
            let entry = self.described(kind, &metadata, Vec::new())?;
            return self.put(|writer| writer.entry(&entry), "read");
        }
        let xattrs = file::xattrs_of(&content_of)
            .map_err(|source| self.unreadable("read the attributes of", source))?;
        if metadata.size == 0
            && xattrs
                .iter()
                .any(|xattr| xattr.name == "user.overlay.whiteout")
        {
            return match self.tree {
                Tree::Upper(_) => self.removal(),
                Tree::Whole => Ok(()),
            };
        }
        let entry = self.described(
            Kind::File {
                size: metadata.size,
            },
            &metadata,
            content(xattrs),
        )?;
        self.put(|writer| writer.file(&entry, &mut content_of), "read")
    }

    /// Where the file has a name that came before, a link to that; otherwise this name is remembered.
    fn other_name(&mut self, metadata: &Metadata) -> Option<Kind> {
        if metadata.links < 2 {
            return None;
        }
        match self.links.entry((metadata.dev, metadata.ino)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(Kind::HardLink {
                target: first.get().clone(),
            }),
            std::collections::hash_map::Entry::Vacant(none) => {
                none.insert(self.path.clone());
                None
            }
        }
    }

    fn removal(&mut self) -> Result<(), DiffError> {
        self.refuse_reserved()?;
        let path = std::mem::take(&mut self.path);
        let done = self.put(|writer| writer.whiteout(&path), "read");
        self.path = path;
        done
    }

    fn refuse_reserved(&self) -> Result<(), DiffError> {
        let name = self
            .path
            .rsplit(|&byte| byte == b'/')
            .next()
            .unwrap_or_default();
        if matches!(self.tree, Tree::Upper(_)) && name.starts_with(WHITEOUT) {
            return Err(DiffError::ReservedName { path: self.shown() });
        }
        Ok(())
    }

    fn described(
        &self,
        kind: Kind,
        metadata: &Metadata,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Entry, DiffError> {
        self.refuse_reserved()?;
        Ok(Entry {
            path: self.path.clone(),
            kind,
            mode: metadata.mode,
            uid: u64::from(metadata.uid),
            gid: u64::from(metadata.gid),
            mtime: Timestamp::from_seconds(metadata.modified.seconds),
            xattrs,
        })
    }

    fn put(
        &mut self,
        write: impl FnOnce(&mut LayerWriter<Measured<'_>>) -> io::Result<()>,
        doing: &'static str,
    ) -> Result<(), DiffError> {
        self.entries += 1;
        write(&mut self.writer).map_err(|source| match self.writer.output().is_broken {
            true => DiffError::Unwritable(source),
            false => self.unreadable(doing, source),
        })
    }

    fn unreadable(&self, doing: &'static str, source: io::Error) -> DiffError {
        DiffError::Unreadable {
            path: self.shown(),
            doing,
            source,
        }
    }

    fn shown(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(&self.path))
    }
}

/// The attributes that are content, file capabilities in their second revision.
fn content(xattrs: Vec<Xattr>) -> Vec<(Vec<u8>, Vec<u8>)> {
    xattrs
        .into_iter()
        .filter(|xattr| file::is_content_xattr(&xattr.name))
        .map(|xattr| {
            let name = xattr.name.into_encoded_bytes();
            let value = if name == CAPABILITY {
                plain_capability(xattr.value)
            } else {
                xattr.value
            };
            (name, value)
        })
        .collect()
}

/// The attribute that holds file capabilities.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// File capabilities as they are in an image (`VFS_CAP_REVISION_2`, linux/capability.h). What is set in a user namespace
/// has revision 3 for those outside: the same, and the namespace's root id.
pub(super) fn plain_capability(mut value: Vec<u8>) -> Vec<u8> {
    const LENGTH_2: usize = 20;
    const LENGTH_3: usize = 24;
    if value.len() == LENGTH_3 && value[3] == 3 {
        value[3] = 2;
        value.truncate(LENGTH_2);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_their_namespace() {
        let third = [&[1, 0, 0, 3][..], &[7; 16], &[1, 2, 3, 4]].concat();
        let second = [&[1, 0, 0, 2][..], &[7; 16]].concat();
        assert_eq!(plain_capability(third), second);
        assert_eq!(plain_capability(second.clone()), second);
    }
}
