//! A blob that is read while it is still being written: what comes over a slow line is unpacked as it comes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::BlobWriter;

/// Between the one who writes a blob and the one who reads it meanwhile. What is read was not checked yet: whoever keeps
/// what was made from it asks the writer first how it ended.
#[derive(Debug, Default)]
pub struct Growing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The file, and how many bytes of it are there.
    file: Option<File>,
    bytes: u64,
    /// It was begun again with another file.
    is_another: bool,
    is_over: bool,
}

/// Reads a blob as far as it is there, and waits for the rest.
#[derive(Debug)]
pub struct GrowingReader<'a> {
    growing: &'a Growing,
    file: File,
    at: u64,
    /// So many bytes are known to be there.
    there: u64,
}

impl Growing {
    /// The blob is being written now. If it was before, it begins again, and whoever reads it is told.
    pub fn begin(&self, writer: &BlobWriter) -> io::Result<()> {
        let file = writer.file().try_clone()?;
        let mut state = self.lock();
        state.is_another = state.file.is_some();
        state.file = Some(file);
        self.changed.notify_all();
        Ok(())
    }

    /// More bytes were written.
    pub fn add(&self, bytes: u64) {
        self.lock().bytes += bytes;
        self.changed.notify_all();
    }

    /// Nothing more will be written.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Reads it from its beginning. `None`: it was not written, or is not written in one go.
    pub fn read(&self) -> io::Result<Option<GrowingReader<'_>>> {
        let mut state = self.lock();
        while state.file.is_none() && !state.is_over {
            state = self.wait(state);
        }
        let file = state.file.as_ref().filter(|_| !state.is_another);
        file.map(|file| {
            Ok(GrowingReader {
                growing: self,
                file: file.try_clone()?,
                at: 0,
                there: 0,
            })
        })
        .transpose()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for GrowingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.there {
            let mut state = self.growing.lock();
            while state.bytes == self.at && !state.is_over && !state.is_another {
                state = self.growing.wait(state);
            }
            if state.is_another {
                return Err(io::Error::other("the blob began again"));
            }
            self.there = state.bytes;
        }
        let left = usize::try_from(self.there - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let got = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::Store;
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn what_is_written_is_read_meanwhile() {
        let dir = TempDir::new();
        let store = Store::open(dir.path().join("store")).unwrap();
        let growing = Growing::default();
        let mut writer = store.blob_writer().unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut content = String::new();
                let mut reader = growing.read().unwrap().unwrap();
                reader.read_to_string(&mut content).map(|_| content)
            });
            growing.begin(&writer).unwrap();
            for piece in ["one ", "two ", "three"] {
                writer.write_all(piece.as_bytes()).unwrap();
                growing.add(piece.len() as u64);
            }
            let (digest, _) = writer.finish().unwrap();
            growing.end();
            assert_eq!(reader.join().unwrap().unwrap(), "one two three");
            assert!(store.has_blob(&digest));
        });
    }

    #[test]
    fn a_second_beginning_and_none_at_all_are_told() {
        let dir = TempDir::new();
        let store = Store::open(dir.path().join("store")).unwrap();
        let never = Growing::default();
        never.end();
        assert!(never.read().unwrap().is_none());

        let growing = Growing::default();
        let writer = store.blob_writer().unwrap();
        growing.begin(&writer).unwrap();
        let mut reader = growing.read().unwrap().unwrap();
        growing.begin(&store.blob_writer().unwrap()).unwrap();
        assert!(reader.read(&mut [0; 8]).is_err());
        assert!(growing.read().unwrap().is_none());
    }
}
