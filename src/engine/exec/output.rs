//! What a step writes, cut into lines of bounded length.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A longer line is given out in pieces.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

const READ_BYTES: usize = 16 * 1024;

/// Whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    /// Nothing is there now.
    Later,
    /// All writers are gone.
    Never,
}

/// The reading end of a pipe, and the line that is not complete yet.
#[derive(Debug)]
pub(super) struct Lines {
    pipe: File,
    partial: Vec<u8>,
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Lines {
    /// From a pipe, whose reading no longer blocks.
    pub(super) fn of(pipe: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe)?;
        rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self {
            pipe: pipe.into(),
            partial: Vec::new(),
        })
    }

    /// Reads what is there and gives out the complete lines, without their ends.
    pub(super) fn drain(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<More> {
        let mut buffer = [0; READ_BYTES];
        loop {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.finish(sink);
                    return Ok(More::Never);
                }
                Ok(count) => self.take(buffer.get(..count).unwrap_or_default(), sink),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(More::Later),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives out what is left without an end of line.
    pub(super) fn finish(&mut self, sink: &mut dyn FnMut(&[u8])) {
        if !self.partial.is_empty() {
            sink(&std::mem::take(&mut self.partial));
        }
    }

    fn take(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) if self.partial.is_empty() => sink(end),
                Some(end) => {
                    self.partial.extend_from_slice(end);
                    self.partial.truncate(LINE_BYTES_MAX + READ_BYTES);
                    sink(&std::mem::take(&mut self.partial));
                }
                None => self.partial.extend_from_slice(piece),
            }
            if self.partial.len() >= LINE_BYTES_MAX {
                self.finish(sink);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<usize> {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut lines = Lines::of(read).unwrap();
        let mut found = Vec::new();
        let mut write = File::from(write);
        for piece in pieces {
            for part in piece.chunks(4096) {
                write.write_all(part).unwrap();
                assert_eq!(
                    lines.drain(&mut |line| found.push(line.len())).unwrap(),
                    More::Later
                );
            }
        }
        drop(write);
        assert_eq!(
            lines.drain(&mut |line| found.push(line.len())).unwrap(),
            More::Never
        );
        found
    }

    #[test]
    fn lines_come_whole_and_the_last_needs_no_end() {
        assert_eq!(lines(&[b"one\ntw", b"o\n\nthree"]), [3, 3, 0, 5]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn an_endless_line_comes_in_pieces() {
        let long = vec![b'x'; 3 * LINE_BYTES_MAX];
        let found = lines(&[&long, b"\nend\n"]);
        assert_eq!(found.iter().sum::<usize>(), long.len() + 3);
        assert!(
            found
                .iter()
                .all(|length| *length <= LINE_BYTES_MAX + READ_BYTES),
            "{found:?}"
        );
    }
}
