//! Content that is named by its digest.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::{Doing, Store, StoreError, TmpFile};
use crate::digest::{Digest, Hasher};

/// A blob that is being written. Dropped before [`BlobWriter::finish`], it never was.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    tmp: TmpFile,
    hasher: Hasher,
}

/// A blob that is being read, and checked meanwhile: at its end, content that is not what the digest says is an error
/// of kind `InvalidData`, and the blob is put aside.
#[derive(Debug)]
pub struct BlobReader {
    store: Store,
    file: File,
    digest: Digest,
    hasher: Option<Hasher>,
    size: u64,
}

impl Store {
    /// Stores content. Returns its digest and size.
    pub fn put(&self, mut content: impl Read) -> Result<(Digest, u64), StoreError> {
        let mut writer = self.blob_writer()?;
        writer.take_all(&mut content)?;
        writer.finish()
    }

    /// Stores content that must have a digest; anything else is not stored.
    pub fn put_expecting(
        &self,
        mut content: impl Read,
        expected: &Digest,
    ) -> Result<u64, StoreError> {
        let mut writer = self.blob_writer()?;
        writer.take_all(&mut content)?;
        writer.finish_expecting(expected)
    }

    /// Stores a file that was just read and found to have this digest, as one more name of it; where that cannot be, it is
    /// copied. Whoever writes into it later damages the blob, which is found when it is read.
    pub fn adopt(&self, mut file: File, digest: &Digest) -> Result<(), StoreError> {
        let link = || -> io::Result<()> {
            file.sync_all()?;
            self.inner.blobs.link_open(&file, digest.hex())?;
            self.inner.blobs.sync()
        };
        match link() {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(_) => {
                file.rewind()
                    .doing("read what is to be stored", self.blob_path(digest))?;
                self.put_expecting(file, digest).map(drop)
            }
        }
    }

    /// Keeps a download that must have a digest. False: it is here already.
    pub fn put_download(
        &self,
        mut content: impl Read,
        expected: &Digest,
    ) -> Result<bool, StoreError> {
        let mut writer = self.blob_writer()?;
        writer.take_all(&mut content)?;
        let (found, _) = writer.hasher.finish();
        if found != *expected {
            return Err(StoreError::WrongDigest {
                expected: *expected,
                found,
            });
        }
        let path = self.path().join("http");
        let kept = crate::sys::dir::Dir::open_trusted(&path)
            .and_then(|dir| writer.tmp.publish_new(&dir, &expected.hex()));
        match kept {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            kept => kept.doing("keep a download", path).map(|()| true),
        }
    }

    /// Begins to store content that comes bit by bit.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter {
            store: self.clone(),
            tmp: self.tmp_file()?,
            hasher: Hasher::default(),
        })
    }

    /// Whether a blob is here.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.inner.blobs.metadata(digest.hex()).is_ok()
    }

    /// A blob's size in bytes.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64, StoreError> {
        Ok(self
            .inner
            .blobs
            .metadata(digest.hex())
            .map_err(|error| self.blob_error(digest, error))?
            .size)
    }

    /// Where a blob is.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob as it is, unchecked.
    pub fn open_blob_file(&self, digest: &Digest) -> Result<File, StoreError> {
        self.inner
            .blobs
            .open_file(digest.hex())
            .map_err(|error| self.blob_error(digest, error))
    }

    /// Opens a blob to be read to its end, and checked there.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        let file = self.open_blob_file(digest)?;
        let size = file
            .metadata()
            .doing("read a blob", self.blob_path(digest))?
            .len();
        Ok(BlobReader {
            store: self.clone(),
            file,
            digest: *digest,
            hasher: Some(Hasher::default()),
            size,
        })
    }

    /// All of a small blob, checked; `limit_bytes` keeps a wrong one from filling the memory.
    pub fn read_blob(&self, digest: &Digest, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let mut content = Vec::new();
        let mut reader = self.open_blob(digest)?;
        if reader.size > limit_bytes {
            let error = io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {limit_bytes} bytes"),
            );
            return Err(StoreError::io("read a blob", self.blob_path(digest), error));
        }
        match reader.read_to_end(&mut content) {
            Ok(_) => Ok(content),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(StoreError::DamagedBlob { digest: *digest })
            }
            Err(error) => Err(StoreError::io("read a blob", self.blob_path(digest), error)),
        }
    }

    /// Puts a blob that is not what it says aside, into `blobs/damaged`, so that it is fetched or made again.
    pub fn quarantine(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        let aside = crate::sys::dir::Dir::open_trusted(self.path().join("blobs/damaged"))
            .doing("put a damaged blob aside", &path)?;
        match self.inner.blobs.rename(digest.hex(), &aside, digest.hex()) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => moved.doing("put a damaged blob aside", &path),
        }
    }

    fn blob_error(&self, digest: &Digest, error: io::Error) -> StoreError {
        match error.kind() {
            io::ErrorKind::NotFound => StoreError::NoSuchBlob { digest: *digest },
            _ => StoreError::io("read a blob", self.blob_path(digest), error),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.tmp.file().write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlobWriter {
    pub(super) fn file(&self) -> &File {
        self.tmp.file()
    }

    /// The digest of what was written so far.
    #[must_use]
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Stores what was written under its digest.
    pub fn finish(self) -> Result<(Digest, u64), StoreError> {
        let Self { store, tmp, hasher } = self;
        let (digest, size) = hasher.finish();
        let name = digest.hex();
        let path = store.blob_path(&digest);
        match store.inner.blobs.find(&name).doing("store a blob", &path)? {
            Some(there) if there.size == size => return Ok((digest, size)),
            Some(_) => store.quarantine(&digest)?,
            None => {}
        }
        match tmp.publish_new(&store.inner.blobs, &name) {
            // Equal content: someone else was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((digest, size)),
            published => {
                published.doing("store a blob", &path)?;
                store.inner.written.fetch_add(size, Ordering::Relaxed);
                Ok((digest, size))
            }
        }
    }

    /// Stores what was written if it has the digest that it must have. Returns its size.
    pub fn finish_expecting(self, expected: &Digest) -> Result<u64, StoreError> {
        let (found, size) = self.hasher.clone().finish();
        if found != *expected {
            return Err(StoreError::WrongDigest {
                expected: *expected,
                found,
            });
        }
        self.finish().map(|_| size)
    }

    fn take_all(&mut self, content: &mut impl Read) -> Result<(), StoreError> {
        let path = self.tmp.path();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => self
                    .write_all(&buffer[..read])
                    .doing("store a blob", &path)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(StoreError::io("read what is to be stored", &path, error));
                }
            }
        }
    }
}

impl BlobReader {
    /// The number of bytes in it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        if read == 0
            && !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
            && hasher.finish().0 != self.digest
        {
            drop(self.store.quarantine(&self.digest));
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                StoreError::DamagedBlob {
                    digest: self.digest,
                },
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn content_reads_back_under_its_digest() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let (digest, size) = store.put(&b"abc"[..]).unwrap();
        assert_eq!((digest, size), (Digest::of(b"abc"), 3));
        assert_eq!(store.put(&b"abc"[..]).unwrap(), (digest, 3));
        assert_eq!(store.read_blob(&digest, 100).unwrap(), b"abc");
        assert!(store.read_blob(&digest, 2).is_err());
        let other = Digest::of(b"other");
        assert!(matches!(
            store.read_blob(&other, 9),
            Err(StoreError::NoSuchBlob { .. })
        ));
        assert!(matches!(
            store.put_expecting(&b"x"[..], &other),
            Err(StoreError::WrongDigest { .. })
        ));
        assert_eq!(
            std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
            0
        );
    }

    #[test]
    fn a_damaged_blob_is_put_aside_and_can_be_stored_again() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let (digest, _) = store.put(&b"abc"[..]).unwrap();
        std::fs::write(store.blob_path(&digest), "abd").unwrap();
        assert!(matches!(
            store.read_blob(&digest, 9),
            Err(StoreError::DamagedBlob { .. })
        ));
        assert!(!store.has_blob(&digest));
        store.put(&b"abc"[..]).unwrap();
        std::fs::write(store.blob_path(&digest), "ab").unwrap();
        store.put(&b"abc"[..]).unwrap();
        assert_eq!(store.read_blob(&digest, 9).unwrap(), b"abc");
    }
}
