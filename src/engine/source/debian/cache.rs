//! Downloads, kept under the digest that they must have.
//!
//! A file is written in `tmp`, checked, and renamed into place, so that whatever bears a digest's name once had that
//! digest. Nothing is synced: a reader checks the digest again, and what fails is removed and fetched anew.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use crate::digest::{Digest, Hasher};
use crate::net::{Client, Download, Fetched, Outcome};
use crate::sys::file::touch;

/// A directory of downloads.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
    tmp: PathBuf,
}

impl Cache {
    /// Keeps downloads in `directory`; `tmp` is on the same file system, and swept by its owner. Both must exist.
    #[must_use]
    pub fn new(directory: PathBuf, tmp: PathBuf) -> Self {
        Self { directory, tmp }
    }

    /// Where the file with this digest is, or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// The file with this digest, from here or from `url`. `progress` is told each piece that is there.
    pub(super) fn obtain(
        &self,
        client: &Client<'_>,
        url: &str,
        digest: Digest,
        size_bytes: u64,
        progress: &dyn Fn(u64),
    ) -> Result<PathBuf> {
        let path = self.path(&digest);
        if self.check(&digest, &path)? {
            progress(size_bytes);
            return Ok(path);
        }
        let (mut file, unfinished) = self.temporary()?;
        let what = Download {
            url,
            digest: Some(digest),
            size_bytes: Some(size_bytes),
            limit_bytes: Some(size_bytes),
            ..Download::default()
        };
        let fetched = client.download(&what, &mut file, progress);
        drop(file);
        let kept = match fetched {
            Ok(Outcome::Fetched(Fetched { .. })) => fs::rename(&unfinished, &path)
                .map_err(|source| Error::io("the download cannot be kept as", &path, source)),
            Ok(Outcome::NotModified(_)) => Err(Error::Malformed {
                what: url.to_owned(),
                why: "the server sent nothing".to_owned(),
            }),
            Err(error) => Err(Error::Fetch(error)),
        };
        if kept.is_err() {
            // It may have been renamed already; the sweep of `tmp` gets what is left.
            drop(fs::remove_file(&unfinished));
        }
        kept.map(|()| path)
    }

    /// Keeps something that was made here.
    pub(super) fn keep(&self, content: &[u8]) -> Result<Digest> {
        let digest = Digest::of(content);
        let path = self.path(&digest);
        if !self.check(&digest, &path)? {
            let (mut file, unfinished) = self.temporary()?;
            file.write_all(content)
                .and_then(|()| fs::rename(&unfinished, &path))
                .map_err(|error| Error::io("cannot write", &path, error))?;
        }
        Ok(digest)
    }

    /// What is kept under a digest, if it is here and right.
    pub(super) fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.path(digest);
        if !self.check(digest, &path)? {
            return Ok(None);
        }
        fs::read(&path)
            .map(Some)
            .map_err(|error| Error::io("cannot read", &path, error))
    }

    fn temporary(&self) -> Result<(File, PathBuf)> {
        crate::engine::source::temporary(&self.tmp, "deb")
            .map_err(|error| Error::io("cannot write in", &self.tmp, error))
    }

    /// Whether the file is here and right; a wrong one is removed.
    fn check(&self, digest: &Digest, path: &Path) -> Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("cannot open", path, error)),
        };
        if digest_of(&file).map_err(|error| Error::io("cannot read", path, error))? == *digest {
            // What was just used is not deleted by others meanwhile. Where that cannot be said, nothing is deleted.
            drop(touch(&file));
            return Ok(true);
        }
        fs::remove_file(path)
            .map_err(|error| Error::io("cannot remove the damaged", path, error))?;
        Ok(false)
    }
}

fn digest_of(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish().0),
            count => hasher.update(&piece[..count]),
        }
    }
}
