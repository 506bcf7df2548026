//! A pipe between two threads of this process: what one writes the other reads, up to 4 MiB behind.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What one thread has written shall still be in the cache that it shares with the other.
const CHUNK: usize = 256 << 10;
const CHUNKS_MAX: usize = 16;

/// Both ends.
#[must_use]
pub fn new() -> (Writer, Reader) {
    let (sender, receiver) = sync_channel(CHUNKS_MAX);
    let writer = Writer {
        sender,
        chunk: Vec::with_capacity(CHUNK),
    };
    (
        writer,
        Reader {
            receiver,
            chunk: io::Cursor::default(),
            has_ended: false,
        },
    )
}

/// `None` says that all was written; a pipe that ends without it was cut off.
type Chunk = io::Result<Option<Vec<u8>>>;

/// The end that is written to. Must be [finished](Writer::finish), or the reader sees a broken pipe.
#[derive(Debug)]
pub struct Writer {
    sender: SyncSender<Chunk>,
    chunk: Vec<u8>,
}

impl Writer {
    /// Says that this was all.
    pub fn finish(mut self) {
        // A reader that is gone wants no more.
        if self.send_chunk().is_ok() {
            drop(self.sender.send(Ok(None)));
        }
    }

    /// Lets the reader see an error after what was written.
    pub fn fail(mut self, error: io::Error) {
        if self.send_chunk().is_ok() {
            drop(self.sender.send(Err(error)));
        }
    }

    /// Passes on all that `input` has; `each` sees it before.
    pub fn take_all(
        &mut self,
        input: &mut impl Read,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        loop {
            let before = self.chunk.len();
            let room = (CHUNK - before) as u64;
            input.by_ref().take(room).read_to_end(&mut self.chunk)?;
            each(&self.chunk[before..]);
            if self.chunk.len() < CHUNK {
                return Ok(());
            }
            self.send_chunk()?;
        }
    }

    fn send_chunk(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        self.sender
            .send(Ok(Some(chunk)))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.send_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_chunk()
    }
}

/// The end that is read from.
#[derive(Debug)]
pub struct Reader {
    receiver: Receiver<Chunk>,
    chunk: io::Cursor<Vec<u8>>,
    has_ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.chunk.read(buffer)?;
            if got > 0 || buffer.is_empty() || self.has_ended {
                return Ok(got);
            }
            match self.receiver.recv() {
                Ok(Ok(Some(chunk))) => self.chunk = io::Cursor::new(chunk),
                Ok(Ok(None)) => self.has_ended = true,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_a_cut_is_seen() {
        let (mut writer, mut reader) = new();
        let sent = vec![7; 3 * CHUNK + 5];
        let expected = sent.clone();
        let thread = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.finish();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap();
        assert!(got == expected);

        let (mut writer, mut reader) = new();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            writer.write_all(b"abc").unwrap();
            let mut input = &[7; 2 * CHUNK][..];
            let taken = writer.take_all(&mut input, |piece| seen.extend_from_slice(piece));
            taken.unwrap();
            writer.finish();
            seen
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert!(got[3..] == thread.join().unwrap() && got.len() == 2 * CHUNK + 3);

        let (mut writer, mut reader) = new();
        writer.write_all(b"abc").unwrap();
        drop(writer);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }
}
