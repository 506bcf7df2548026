//! The container engines of this machine that keep images of their own: podman's store, by `podman load`, and a docker
//! engine, by its socket. Both take a Docker archive as a stream, so that none lies about.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// podman, with the store of the user who calls it.
    Podman,
    /// A docker engine, or what speaks as one.
    Docker(PathBuf),
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Podman => f.write_str("podman's store"),
            Self::Docker(socket) => write!(f, "the docker engine at {}", socket.display()),
        }
    }
}

/// Why an engine has not got an image.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum EngineError {
    /// There is none.
    #[error("no container engine is here that could be given the image")]
    #[diagnostic(
        code(load::no_engine),
        help(
            "the image is in shmocker's own store (`shmocker run`); `--load` gives it to podman, if that is installed, and to a \
             docker engine whose socket answers (DOCKER_HOST names another one); `-o type=docker,dest=image.tar` writes a file"
        )
    )]
    None,
    /// It cannot be talked to.
    #[error("{engine} cannot be given the image")]
    #[diagnostic(code(load::engine))]
    Io {
        /// Which.
        engine: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not want it.
    #[error("{engine} has not taken the image: {said}")]
    #[diagnostic(
        code(load::refused),
        help("`-o type=docker,dest=image.tar` writes a file instead")
    )]
    Refused {
        /// Which.
        engine: String,
        /// Its words.
        said: String,
    },
}

/// The engines that answer: podman where it is installed, and a docker engine at the first of some sockets.
///
/// # Errors
/// If there is none.
pub fn found(sockets: &[PathBuf]) -> Result<Vec<Engine>, EngineError> {
    let mut engines = Vec::new();
    let podman = Command::new("podman")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if podman.is_ok_and(|status| status.success()) {
        engines.push(Engine::Podman);
    }
    let answers = |socket: &&PathBuf| UnixStream::connect(socket).is_ok();
    engines.extend(sockets.iter().find(answers).cloned().map(Engine::Docker));
    match engines.is_empty() {
        true => Err(EngineError::None),
        false => Ok(engines),
    }
}

impl Engine {
    /// Gives it the archive that `write` writes.
    ///
    /// # Errors
    /// What `write` says, else that the engine has not taken it.
    pub fn take<E: From<EngineError> + Send>(
        &self,
        write: impl FnOnce(BorrowedFd<'_>) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        match self {
            Self::Podman => self.podman(write),
            Self::Docker(socket) => self.docker(socket, write),
        }
    }

    fn podman<E: From<EngineError>>(
        &self,
        write: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |source| self.failed(source);
        let mut child = Command::new("podman")
            .args(["load", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let written = match child.stdin.take() {
            Some(stdin) => write(stdin.as_fd()),
            None => Ok(()),
        };
        let output = child.wait_with_output().map_err(failed)?;
        // What it has against the archive comes before that it stopped reading.
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(self.refused(said.trim()).into());
        }
        written
    }

    /// `POST /images/load`, its body in chunks (RFC 9112 §7.1), as nobody knows how long it will be.
    fn docker<E: From<EngineError> + Send>(
        &self,
        socket: &Path,
        write: impl FnOnce(BorrowedFd<'_>) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let failed = |source| self.failed(source);
        let mut stream = UnixStream::connect(socket).map_err(failed)?;
        let (archive, input) = io::pipe().map_err(failed)?;
        let input = OwnedFd::from(input);
        std::thread::scope(|scope| {
            let writing = scope.spawn(move || write(input.as_fd()));
            let sent = send(&mut stream, archive);
            let written = writing.join();
            let answer = answer(stream);
            match (answer, sent, written) {
                (Ok((200, _)), Ok(()), Ok(written)) => written,
                (Ok((200, _)), Err(error), _) | (Err(error), _, Ok(Ok(()))) => {
                    Err(self.failed(error).into())
                }
                (Ok((_, said)), _, Ok(Ok(()))) => Err(self.refused(&said).into()),
                (_, _, Ok(Err(error))) => Err(error),
                (_, _, Err(_)) => Err(self
                    .failed(io::Error::other("a thread has panicked"))
                    .into()),
            }
        })
    }

    fn failed(&self, source: io::Error) -> EngineError {
        EngineError::Io {
            engine: self.to_string(),
            source,
        }
    }

    fn refused(&self, said: &str) -> EngineError {
        EngineError::Refused {
            engine: self.to_string(),
            said: said.to_owned(),
        }
    }
}

fn send(stream: &mut UnixStream, mut archive: impl Read) -> io::Result<()> {
    stream.write_all(
        b"POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\n\
          Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
    )?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let got = archive.read(&mut buffer)?;
        write!(stream, "{got:x}\r\n")?;
        stream.write_all(&buffer[..got])?;
        stream.write_all(b"\r\n")?;
        if got == 0 {
            return stream.flush();
        }
    }
}

/// The status of an answer, and what it says is wrong.
fn answer(stream: UnixStream) -> io::Result<(u16, String)> {
    /// More is no message.
    const BYTES_MAX: u64 = 1 << 20;
    let mut reader = BufReader::new(stream.take(BYTES_MAX));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status =
        status.ok_or_else(|| io::Error::other("what answers there is no docker engine"))?;
    let mut body = String::new();
    reader.read_to_string(&mut body)?;
    // A load that fails half way has said 200 before.
    let of_key = |key: &str| {
        let (_, rest) = body.split_once(&format!("\"{key}\":"))?;
        let said: String = rest
            .trim()
            .trim_start_matches('"')
            .chars()
            .take_while(|it| *it != '"')
            .collect();
        Some(said)
    };
    match of_key("error").or_else(|| of_key("message")) {
        Some(said) if status == 200 && of_key("error").is_some() => Ok((500, said)),
        Some(said) => Ok((status, said)),
        None => Ok((status, body.lines().last().unwrap_or_default().to_owned())),
    }
}
