//! What HTTP clients ask, for the servers of the tests; and a small server for downloads: the same bytes under every path, as
//! fast as it is told.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::port::Port;

/// What a client asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Reads it; `None`: the client went away, or speaks something else.
    pub(crate) fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length = length
            .and_then(|(_, value)| value.parse::<u64>().ok())
            .unwrap_or(0);
        let mut body = Vec::new();
        // One that breaks off is what came of it.
        drop(reader.take(length).read_to_end(&mut body));
        Some(Self {
            method,
            path,
            headers,
            body,
        })
    }

    /// From which byte on the body is asked for.
    pub(crate) fn range_from(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&String> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    port: Port,
    requests: Arc<AtomicU32>,
}

/// How fast the bytes come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    AtOnce,
    /// Sixteen pieces with this pause between them.
    InPieces(Duration),
}

impl Server {
    /// Serves `body` on a port of its own.
    pub(crate) fn new(body: Vec<u8>, pace: Pace) -> Self {
        let requests = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&requests);
        let port = Port::open(move |stream| {
            count.fetch_add(1, Ordering::Relaxed);
            serve(stream, &body, pace);
        });
        Self { port, requests }
    }

    /// The address of a file of that name.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port.number())
    }

    /// Its port on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// How often it was asked.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// A client that goes away in the middle ends its answer: that is no error of the server's.
fn serve(mut stream: TcpStream, body: &[u8], pace: Pace) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    for line in lines.by_ref() {
        if line.ok()?.is_empty() {
            break;
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if request.starts_with("HEAD ") {
        return Some(());
    }
    match pace {
        Pace::AtOnce => stream.write_all(body).ok(),
        Pace::InPieces(pause) => {
            for piece in body.chunks(body.len() / 16 + 1) {
                stream.write_all(piece).ok()?;
                stream.flush().ok()?;
                std::thread::sleep(pause);
            }
            Some(())
        }
    }
}
