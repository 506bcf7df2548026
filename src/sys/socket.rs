//! A pair of connected sockets that carry whole messages, with open files beside them, between shmocker and its children.
//!
//! ```text
//! message: length of the payload (u32, native order) | number of files (u32) | payload
//! ```
//! The files travel with the first byte. The end of the other side is the end of the stream: `receive` says `None`.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// How many files one message can carry; the kernel's own limit is 253.
pub const FILES_MAX: usize = 250;
/// How long one message can be.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

const HEADER_BYTES: usize = 8;

/// One end. Any thread may send and any thread receive; each message stays whole.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    sending: Mutex<()>,
    receiving: Mutex<()>,
}

/// What was received.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub payload: Vec<u8>,
    /// The files that came with it; they close on exec.
    pub files: Vec<OwnedFd>,
}

impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self {
            stream: UnixStream::from(fd),
            sending: Mutex::new(()),
            receiving: Mutex::new(()),
        }
    }
}

/// Readable when a message or the end is there.
impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Socket {
    /// Two ends of one connection.
    ///
    /// # Errors
    /// What the kernel says: too many open files.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((OwnedFd::from(one).into(), OwnedFd::from(other).into()))
    }

    /// Sends one message, with copies of `files`.
    ///
    /// # Errors
    /// `BrokenPipe` if the other end is closed; `InvalidInput` if the message is too large.
    pub fn send(&self, payload: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        if files.len() > FILES_MAX || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes and {} files is too large",
                    payload.len(),
                    files.len()
                ),
            ));
        }
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(
            &u32::try_from(payload.len())
                .unwrap_or(u32::MAX)
                .to_ne_bytes(),
        );
        header[4..].copy_from_slice(&u32::try_from(files.len()).unwrap_or(u32::MAX).to_ne_bytes());

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(files));
        }
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let sent = loop {
            match rustix::net::sendmsg(&self.stream, &parts, &mut beside, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                sent => break sent?,
            }
        };
        // Rust programs ignore SIGPIPE, and the children set it back only for what they execute.
        let mut stream = &self.stream;
        stream.write_all(header.get(sent..).unwrap_or_default())?;
        stream.write_all(
            payload
                .get(sent.saturating_sub(HEADER_BYTES)..)
                .unwrap_or_default(),
        )
    }

    /// Waits for one message. `None`: the other end is closed.
    ///
    /// # Errors
    /// `UnexpectedEof` if it closed within a message; `InvalidData` if what came is none.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        let _whole = self
            .receiving
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut header = [0; HEADER_BYTES];
        let mut files = Vec::new();
        let mut filled = 0;
        while filled < HEADER_BYTES {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut header[filled..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match rustix::net::recvmsg(&self.stream, &mut parts, &mut beside, flags)
            {
                Err(rustix::io::Errno::INTR) => continue,
                // A peer that was killed with unread messages.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => received?,
            };
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    files.extend(received);
                }
            }
            match received.bytes {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let [a, b, c, d, e, f, g, h] = header;
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let count = u32::from_ne_bytes([e, f, g, h]) as usize;
        if length > PAYLOAD_BYTES_MAX || count != files.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "a message of {length} bytes and {count} files came with {} files",
                    files.len()
                ),
            ));
        }
        let mut payload = vec![0; length];
        let mut stream = &self.stream;
        stream.read_exact(&mut payload)?;
        Ok(Some(Message { payload, files }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn messages_and_files_arrive_whole_and_in_order() {
        let (one, other) = Socket::pair().unwrap();
        let large = vec![7_u8; 3 << 20];
        let expected = large.clone();
        let sender = std::thread::spawn(move || {
            let memory =
                File::from(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
            (&memory).write_all(b"in the file").unwrap();
            one.send(b"first", &[memory.as_fd(), memory.as_fd()])
                .unwrap();
            one.send(&large, &[]).unwrap();
            one.send(b"", &[]).unwrap();
        });
        let first = other.receive().unwrap().unwrap();
        assert_eq!(first.payload, b"first");
        assert_eq!(first.files.len(), 2);
        assert_eq!(rustix::fs::fstat(&first.files[1]).unwrap().st_size, 11);
        assert_eq!(other.receive().unwrap().unwrap().payload, expected);
        assert_eq!(other.receive().unwrap().unwrap().payload, b"");
        assert!(other.receive().unwrap().is_none());
        sender.join().unwrap();
        assert_eq!(
            other.send(b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn half_a_message_is_an_error() {
        let (one, other) = Socket::pair().unwrap();
        (&one.stream)
            .write_all(&[9, 0, 0, 0, 0, 0, 0, 0, 1])
            .unwrap();
        drop(one);
        assert_eq!(
            other.receive().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
