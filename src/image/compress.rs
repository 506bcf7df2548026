//! Compression of layers: in independent blocks, on several threads, with the same bytes for the same input whatever the
//! number of threads. gzip: members of 1 MiB (RFC 1952 §2.2 allows any number of them) by libdeflate; zstd: frames of
//! 4 MiB (RFC 8878 §3). Reading takes what any other tool wrote.
//!
//! The bytes depend on the version of the libraries: a compressed digest is never part of a cache key, and the key under
//! which a compressed blob is remembered has [`Compression::id`] in it.

use super::pipe;
use crate::digest::Hasher;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ScopedJoinHandle};

/// How a layer is compressed, with the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, level 0 to 12 (libdeflate's; 1 to 9 mean what they do elsewhere).
    Gzip(u8),
    /// Zstandard, level 1 to 22.
    Zstd(u8),
}

impl Compression {
    /// gzip at its usual level.
    pub const GZIP: Self = Self::Gzip(6);
    /// Zstandard at its usual level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// What makes its output: the method, level, block size and a number that changes whenever the bytes may.
    #[must_use]
    pub fn id(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip(level) => format!("gzip-{level}-1m-libdeflate1.26"),
            Self::Zstd(level) => format!("zstd-{level}-4m-zstd1.5.7"),
        }
    }

    /// Whether both are the same method, at whatever level.
    #[must_use]
    pub fn is_same_method_as(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    const fn block_bytes(self) -> usize {
        match self {
            Self::None | Self::Gzip(_) => 1 << 20,
            Self::Zstd(_) => 4 << 20,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        })
    }
}

/// What compresses one block; one for each thread.
enum BlockCompressor {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl BlockCompressor {
    fn new(compression: Compression) -> io::Result<Option<Self>> {
        Ok(match compression {
            Compression::None => None,
            Compression::Gzip(level) => {
                let level = libdeflater::CompressionLvl::new(i32::from(level)).map_err(|_| {
                    io::Error::other(format!("gzip has no level {level}; it has 0 to 12"))
                })?;
                Some(Self::Gzip(libdeflater::Compressor::new(level)))
            }
            Compression::Zstd(level) => {
                let mut compressor = zstd::bulk::Compressor::new(i32::from(level))?;
                compressor.include_checksum(true)?;
                Some(Self::Zstd(compressor))
            }
        })
    }

    /// Replaces the content of `out`.
    fn compress(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        match self {
            Self::Gzip(compressor) => {
                out.resize(compressor.gzip_compress_bound(block.len()), 0);
                let length = compressor
                    .gzip_compress(block, out)
                    .map_err(io::Error::other)?;
                out.truncate(length);
            }
            Self::Zstd(compressor) => {
                out.reserve(zstd::zstd_safe::compress_bound(block.len()));
                compressor.compress_to_buffer(block, out)?;
            }
        }
        Ok(())
    }
}

/// A block on its way through a thread: what goes in, and the buffer for what comes out.
struct Job {
    block: Vec<u8>,
    out: Vec<u8>,
    done: SyncSender<io::Result<Job>>,
}

/// Compresses what is written to it into `W`. Ends only by [`Encoder::finish`]; dropped before that, the output is a
/// fragment.
pub struct Encoder<W: Write> {
    out: W,
    compression: Compression,
    block: Vec<u8>,
    here: Option<BlockCompressor>,
    threads: usize,
    pool: Option<Pool>,
    under_way: VecDeque<Receiver<io::Result<Job>>>,
    spare: Vec<Job>,
    wrote_something: bool,
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoder({:?})", self.compression)
    }
}

impl<W: Write> Encoder<W> {
    /// An encoder on up to `threads` threads beside the caller's. They start with the second block, so that a small
    /// layer costs none. The output does not depend on `threads`.
    pub fn new(out: W, compression: Compression, threads: usize) -> io::Result<Self> {
        Ok(Self {
            out,
            compression,
            block: Vec::new(),
            here: BlockCompressor::new(compression)?,
            threads,
            pool: None,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            wrote_something: false,
        })
    }

    /// Writes what is left and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() || (!self.wrote_something && self.here.is_some()) {
            self.end_block()?;
        }
        while !self.under_way.is_empty() {
            self.take_oldest()?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let is_first = !std::mem::replace(&mut self.wrote_something, true);
        let is_last = self.block.len() < self.compression.block_bytes();
        if self.threads <= 1 || (is_first && is_last) {
            let mut compressed = Vec::new();
            if let Some(compressor) = &mut self.here {
                compressor.compress(&self.block, &mut compressed)?;
            }
            self.block.clear();
            return self.out.write_all(&compressed);
        }
        if self.under_way.len() >= self.threads * 2 {
            self.take_oldest()?;
        }
        let pool = match &mut self.pool {
            Some(pool) => pool,
            none => none.insert(Pool::start(self.compression, self.threads)?),
        };
        let (done, result) = sync_channel(1);
        let (empty, out) = match self.spare.pop() {
            Some(job) => (job.block, job.out),
            None => (
                Vec::with_capacity(self.compression.block_bytes()),
                Vec::new(),
            ),
        };
        let block = std::mem::replace(&mut self.block, empty);
        pool.send(Job { block, out, done })?;
        self.under_way.push_back(result);
        Ok(())
    }

    fn take_oldest(&mut self) -> io::Result<()> {
        let Some(result) = self.under_way.pop_front() else {
            return Ok(());
        };
        let mut job = result
            .recv()
            .map_err(|_| io::Error::other("a compressing thread has ended"))??;
        self.out.write_all(&job.out)?;
        job.block.clear();
        self.spare.push(job);
        Ok(())
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.compression == Compression::None {
            return self.out.write(bytes);
        }
        let room = self.compression.block_bytes() - self.block.len();
        let taken = bytes.len().min(room);
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == self.compression.block_bytes() {
            self.end_block()?;
        }
        Ok(taken)
    }

    /// Does nothing: blocks end where they end, or the bytes would depend on who flushed when.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Threads that compress blocks until they are dropped.
struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(compression: Compression, count: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let queue = Arc::clone(&queue);
            let Some(mut compressor) = BlockCompressor::new(compression)? else {
                continue;
            };
            let thread = std::thread::Builder::new()
                .name("compress".to_owned())
                .spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(mut job) = next else { return };
                        let result = compressor.compress(&job.block, &mut job.out);
                        let done = job.done.clone();
                        // The encoder may have been dropped because of an error elsewhere.
                        drop(done.send(result.map(|()| job)));
                    }
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let sent = self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok());
        sent.ok_or_else(|| io::Error::other("all compressing threads have ended"))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic of a thread shows where its block is waited for.
            drop(thread.join());
        }
    }
}

/// The content of a layer blob, whatever compression its first bytes show. zstd frames that want a window of more than
/// 128 MiB are refused.
pub fn decoder<'a>(
    blob: impl Read + Send + 'a,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut blob = BufReader::with_capacity(256 << 10, blob);
    // A pipe may give one byte at a time; magic numbers have four.
    let mut magic = Vec::with_capacity(4);
    (&mut blob).take(4).read_to_end(&mut magic)?;
    let compression = match magic[..] {
        [0x1f, 0x8b, ..] => Compression::GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::ZSTD,
        _ => Compression::None,
    };
    let whole = Restored {
        magic: io::Cursor::new(magic),
        rest: blob,
    };
    Ok(match compression {
        Compression::Gzip(_) => (
            compression,
            Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        ),
        Compression::Zstd(_) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(27)?;
            (compression, Box::new(decoder))
        }
        Compression::None => (compression, Box::new(whole)),
    })
}

/// A stream with its first bytes put back.
struct Restored<R> {
    magic: io::Cursor<Vec<u8>>,
    rest: R,
}

impl<R: BufRead> Restored<R> {
    fn is_in_magic(&self) -> bool {
        self.magic.position() < self.magic.get_ref().len() as u64
    }
}

impl<R: BufRead> Read for Restored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_in_magic() {
            self.magic.read(buffer)
        } else {
            self.rest.read(buffer)
        }
    }
}

impl<R: BufRead> BufRead for Restored<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.is_in_magic() {
            self.magic.fill_buf()
        } else {
            self.rest.fill_buf()
        }
    }

    fn consume(&mut self, amount: usize) {
        if self.is_in_magic() {
            self.magic.consume(amount)
        } else {
            self.rest.consume(amount)
        }
    }
}

/// Reads `input` on a thread of its own, some MiB ahead, so that unpacking and what is done with the content go on side
/// by side. The thread ends with the input, or when nobody reads any more, and knows the digest of what it has passed on.
pub fn read_ahead<'scope, R: Read + Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    mut input: R,
) -> io::Result<(pipe::Reader, ScopedJoinHandle<'scope, Hasher>)> {
    let (mut writer, reader) = pipe::new();
    let read = move || {
        let mut hasher = Hasher::default();
        match writer.take_all(&mut input, |piece| hasher.update(piece)) {
            Ok(()) => writer.finish(),
            Err(error) => writer.fail(error),
        }
        hasher
    };
    let thread = std::thread::Builder::new()
        .name("decompress".to_owned())
        .spawn_scoped(scope, read)?;
    Ok((reader, thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compress(input: &[u8], compression: Compression, threads: usize) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), compression, threads).unwrap();
        encoder.write_all(input).unwrap();
        encoder.finish().unwrap()
    }

    fn sample(length: usize) -> Vec<u8> {
        (0..length as u64)
            .map(|index| (index.wrapping_mul(index) >> 7) as u8)
            .collect()
    }

    #[test]
    fn what_is_compressed_reads_back_and_does_not_depend_on_threads() {
        for length in [0, 1, 1000, 1 << 20, (1 << 20) + 1, 9 << 20] {
            let input = sample(length);
            for compression in [Compression::None, Compression::Gzip(1), Compression::ZSTD] {
                let alone = compress(&input, compression, 1);
                assert_eq!(
                    alone,
                    compress(&input, compression, 3),
                    "{compression} {length}"
                );
                let (found, mut reader) = decoder(&alone[..]).unwrap();
                let mut back = Vec::new();
                reader.read_to_end(&mut back).unwrap();
                assert!(back == input, "{compression} {length}");
                if length > 0 {
                    assert!(found.is_same_method_as(compression));
                }
            }
        }
    }

    /// Kept blobs are found by [`Compression::id`]: where these change, so must that.
    #[test]
    fn an_id_stands_for_the_same_bytes() {
        let digest = |compression| {
            crate::digest::Digest::of(&compress(&sample(3 << 20), compression, 2)).hex()
        };
        let found = [Compression::GZIP, Compression::ZSTD]
            .map(|compression| (compression.id(), digest(compression)));
        let expected = [
            (
                "gzip-6-1m-libdeflate1.26",
                "8a3882b8882f8a49542d392d0212c4e87a1183896bad7783a641de303caa595d",
            ),
            (
                "zstd-3-4m-zstd1.5.7",
                "002733399e1383cdc690bea216f28b6c67256436e7b7e69d48e54c1d42b6feff",
            ),
        ];
        assert_eq!(
            found,
            expected.map(|(id, digest)| (id.to_owned(), digest.to_owned()))
        );
    }

    #[test]
    fn a_truncated_blob_is_an_error() {
        for compression in [Compression::GZIP, Compression::ZSTD] {
            let whole = compress(&sample(100_000), compression, 1);
            let (_, mut reader) = decoder(&whole[..whole.len() - 3]).unwrap();
            assert!(
                reader.read_to_end(&mut Vec::new()).is_err(),
                "{compression}"
            );
        }
    }
}
