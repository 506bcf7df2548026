//! SSH agents for RUN --mount=type=ssh: a socket for the step, behind which the user's agent, shmocker with the user's
//! keys, or any other socket of the user's answers.
//!
//! ```text
//! step ── its socket ──▶ Door ──▶ only REQUEST_IDENTITIES and SIGN_REQUEST ──▶ the agent, or Keyring
//!                             └─▶ raw: every byte ──────────────────────────▶ the socket
//! ```
//! The step gets one socket file and reaches nothing else of the host by it. It cannot add or remove keys of the user's
//! agent, lock it, or use extensions. What a message holds is never shown or stored.

mod key;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};

pub use key::{Key, KeyError};

use super::exec::Cancel;
use super::work::AgentKind;
use crate::sys::dir::Dir;

/// The longest message of the protocol, as OpenSSH has it.
const MESSAGE_BYTES_MAX: usize = 256 << 10;
/// How many may talk at once through one door; a step that opens more has them closed.
const CONNECTIONS_MAX: usize = 64;
/// The name of the socket in its directory.
const NAME: &str = "agent";

/// Numbers of the agent protocol's messages.
mod message {
    pub(super) const FAILURE: u8 = 5;
    pub(super) const REQUEST_IDENTITIES: u8 = 11;
    pub(super) const IDENTITIES_ANSWER: u8 = 12;
    pub(super) const SIGN_REQUEST: u8 = 13;
    pub(super) const SIGN_RESPONSE: u8 = 14;
}

/// Keys that shmocker itself signs with.
#[derive(Debug)]
pub struct Keyring(Vec<Key>);

impl Keyring {
    /// With these keys.
    #[must_use]
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        self.try_answer(request).unwrap_or_else(refusal)
    }

    fn try_answer(&self, request: &[u8]) -> Option<Vec<u8>> {
        let (kind, mut rest) = request.split_first()?;
        match *kind {
            message::REQUEST_IDENTITIES => {
                let mut answer = vec![message::IDENTITIES_ANSWER];
                answer.extend(u32::try_from(self.0.len()).ok()?.to_be_bytes());
                for key in &self.0 {
                    put(&mut answer, key.public());
                    put(&mut answer, key.comment().as_bytes());
                }
                Some(answer)
            }
            message::SIGN_REQUEST => {
                let public = take(&mut rest)?;
                let data = take(&mut rest)?;
                let flags = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
                let key = self.0.iter().find(|key| key.public() == public)?;
                let mut answer = vec![message::SIGN_RESPONSE];
                put(&mut answer, &key.sign(data, flags)?);
                Some(answer)
            }
            _ => None,
        }
    }
}

fn refusal() -> Vec<u8> {
    vec![message::FAILURE]
}

/// Appends a text of the protocol: its length, and its bytes.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend(bytes);
}

/// Takes a text of the protocol off.
fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32::from_be_bytes(from.get(..4)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(4)?;
    let bytes = from.get(4..end)?;
    *from = &from[end..];
    Some(bytes)
}

/// Reads a message; `None` at the end of the stream.
fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("that is no message of an SSH agent"));
    }
    let mut message = vec![0; length];
    from.read_exact(&mut message)?;
    Ok(Some(message))
}

fn send(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut whole = Vec::with_capacity(message.len() + 4);
    put(&mut whole, message);
    to.write_all(&whole)
}

/// Who answers behind a door.
#[derive(Debug)]
enum Behind {
    Agent(PathBuf),
    Raw(PathBuf),
    Keyring(Keyring),
}

/// A socket that leads to an agent as long as this is held.
#[derive(Debug)]
pub struct Door {
    directory: PathBuf,
    closed: Cancel,
}

impl Door {
    /// Opens one in a directory, which is made for it; its socket gets this mode and owner.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(
        directory: &Path,
        agent: &AgentKind,
        mode: u32,
        owner: (u32, u32),
    ) -> io::Result<Self> {
        let behind = match agent {
            AgentKind::Forwarded(socket) => Behind::Agent(socket.clone()),
            AgentKind::Raw(socket) => Behind::Raw(socket.clone()),
            AgentKind::Keys(keys) => {
                let keys = keys.iter().map(|key| Key::parse(key.expose(), &key.id));
                let keys = keys.collect::<Result<_, _>>().map_err(io::Error::other)?;
                Behind::Keyring(Keyring::new(keys))
            }
        };
        std::fs::create_dir_all(directory)?;
        let opened = rustix::fs::open(
            directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // The path of a socket may not be long; this one never is.
        let place = format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd());
        let listener = UnixListener::bind(&place)?;
        Dir::open_trusted(directory)?.set_owner(NAME, owner.0, owner.1)?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        let closed = Cancel::new()?;
        let until = closed.clone();
        std::thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || listen(&listener, &until, &Arc::new(behind)))?;
        Ok(Self {
            directory: directory.to_owned(),
            closed,
        })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(NAME)
    }

    /// The socket, open as a place.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            self.path(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.cancel();
        // What is left goes with the build's scratch directory.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn listen(listener: &UnixListener, until: &Cancel, behind: &Arc<Behind>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let mut polls = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(until.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut polls, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if until.is_cancelled() {
            return;
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (behind, count) = (Arc::clone(behind), Arc::clone(&connections));
        let serving = std::thread::Builder::new()
            .name("ssh".to_owned())
            .spawn(move || {
                // Either side may go away at any time; the other sees the end of the stream.
                drop(
                    stream
                        .set_nonblocking(false)
                        .and_then(|()| serve(stream, &behind)),
                );
                count.fetch_sub(1, Ordering::Relaxed);
            });
        if serving.is_err() {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Serves one connection to its end.
fn serve(mut step: UnixStream, behind: &Behind) -> io::Result<()> {
    match behind {
        Behind::Raw(socket) => relay(step, UnixStream::connect(socket)?),
        Behind::Keyring(keys) => {
            while let Some(request) = receive(&mut step)? {
                send(&mut step, &keys.answer(&request))?;
            }
            Ok(())
        }
        Behind::Agent(socket) => {
            let mut agent = None;
            while let Some(request) = receive(&mut step)? {
                let answer = match request.first() {
                    Some(&(message::REQUEST_IDENTITIES | message::SIGN_REQUEST)) => {
                        ask(&mut agent, socket, &request).unwrap_or_else(|_| refusal())
                    }
                    _ => refusal(),
                };
                send(&mut step, &answer)?;
            }
            Ok(())
        }
    }
}

fn ask(agent: &mut Option<UnixStream>, socket: &Path, request: &[u8]) -> io::Result<Vec<u8>> {
    let agent = match agent {
        Some(agent) => agent,
        None => agent.insert(UnixStream::connect(socket)?),
    };
    send(agent, request)?;
    receive(agent)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Copies bytes both ways until both sides have ended.
fn relay(step: UnixStream, other: UnixStream) -> io::Result<()> {
    let (from_step, to_step) = (step.try_clone()?, step);
    let (from_other, to_other) = (other.try_clone()?, other);
    std::thread::scope(|scope| {
        scope.spawn(move || pump(from_step, to_other));
        pump(from_other, to_step);
    });
    Ok(())
}

fn pump(mut from: UnixStream, mut to: UnixStream) {
    // However it ends, the other side is told that nothing more comes.
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(std::net::Shutdown::Write));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyring_refuses_what_it_does_not_know() {
        let keys = Keyring::new(Vec::new());
        assert_eq!(
            keys.answer(&[message::REQUEST_IDENTITIES]),
            [12, 0, 0, 0, 0]
        );
        // Cut short, unknown key, removal of all keys, locking, nothing at all.
        for request in [
            &[message::SIGN_REQUEST, 0, 0][..],
            &[message::SIGN_REQUEST, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0],
            &[19],
            &[22, 0, 0, 0, 1, b'x'],
            &[],
        ] {
            assert_eq!(keys.answer(request), refusal(), "{request:?}");
        }
    }

    #[test]
    fn messages_have_bounds() {
        assert!(receive(&mut &[][..]).is_ok_and(|message| message.is_none()));
        assert!(receive(&mut &[0, 0, 0, 0][..]).is_err());
        assert!(receive(&mut &[0xFF; 8][..]).is_err());
        assert!(receive(&mut &[0, 0, 0, 2, 1][..]).is_err());
        let message = receive(&mut &[0, 0, 0, 2, 11, 1][..]);
        assert_eq!(message.ok().flatten(), Some(vec![11, 1]));
    }

    #[test]
    fn a_door_passes_listing_and_signing_on_and_nothing_else() {
        let place = std::env::temp_dir().join(format!("shmocker-door-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let real = place.join("real");
        drop(std::fs::remove_file(&real));
        let agent = UnixListener::bind(&real).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = agent.accept().unwrap();
            while let Ok(Some(mut request)) = receive(&mut stream) {
                request.insert(0, 99);
                send(&mut stream, &request).unwrap();
            }
        });
        let me = rustix::process::getuid().as_raw();
        let group = rustix::process::getgid().as_raw();
        let agent = AgentKind::Forwarded(real);
        let door = Door::open(&place.join("door"), &agent, 0o741, (me, group)).unwrap();
        let stat = rustix::fs::fstat(door.socket().unwrap()).unwrap();
        assert_eq!(stat.st_mode & 0o7777, 0o741);

        let mut step = UnixStream::connect(place.join("door").join(NAME)).unwrap();
        let mut said = |request: &[u8]| {
            send(&mut step, request).unwrap();
            receive(&mut step).unwrap().unwrap()
        };
        assert_eq!(said(&[11]), [99, 11]);
        assert_eq!(said(&[13, 1]), [99, 13, 1]);
        // Adding, removing, locking, unlocking, extensions.
        for kind in [1, 17, 18, 19, 22, 23, 25, 27] {
            assert_eq!(said(&[kind, 0, 0, 0, 0]), refusal(), "{kind}");
        }
        drop(door);
        assert!(UnixStream::connect(place.join("door").join(NAME)).is_err());
        std::fs::remove_dir_all(&place).unwrap();
    }
}
