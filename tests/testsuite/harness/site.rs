//! A web server with a directory's files: ETags, times, a part that wants a key, a way to another host, and git by
//! `git http-backend`. What it was asked is kept.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::http;
use super::port::Port;

/// What the private part wants to see, as a bearer's token or as a password.
pub(crate) const KEY: &str = "sesame";
/// The time of all files below `dated/`, as the server says it and in seconds since 1970.
const DATED: &str = "Sat, 11 Jul 2026 10:16:37 GMT";
pub(crate) const DATED_S: i64 = 1_783_764_997;

/// Serves until it is dropped.
///
/// ```text
/// /FILE               with an ETag, below dated/ with a time as well, below stamped/ with the file's own
/// /private/…          the same for those who have the key
/// /git/REPOSITORY     git's own protocol
/// /away/PORT/…        leads to that port of `localhost`
/// /moved/…            leads to the rest of the path here
/// ```
#[derive(Debug)]
pub(crate) struct Site {
    port: Port,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
}

struct Request {
    asked: Asked,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Site {
    /// Serves a directory on a port of its own.
    pub(crate) fn new(root: &Path) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (root, log) = (root.to_owned(), Arc::clone(&asked));
        let port = Port::open(move |stream| {
            serve(stream, &root, &log);
        });
        Self { port, asked }
    }

    /// The address of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port.number())
    }

    /// Its port on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// What it was asked since this was called last.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The methods of what it was asked since then.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.method).collect()
    }
}

/// A client that goes away in the middle ends its answer: that is no error of the server's.
fn serve(mut stream: TcpStream, root: &Path, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let request = read(&stream)?;
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.asked.clone());
    let mut answer = answer(&request, root);
    if request.asked.method == "HEAD"
        && let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n")
    {
        answer.truncate(end + 4);
    }
    stream.write_all(&answer).ok()
}

fn read(stream: &TcpStream) -> Option<Request> {
    let asked = http::Request::read(stream)?;
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    Some(Request {
        asked: Asked {
            method: asked.method.clone(),
            path: path.to_owned(),
            authorization: asked.header("authorization").cloned(),
        },
        query: query.to_owned(),
        headers: asked.headers,
        body: asked.body,
    })
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn has_the_key(&self) -> bool {
        // The second is the key as the password of the user `x-access-token`.
        let keys = [
            format!("Bearer {KEY}"),
            "Basic eC1hY2Nlc3MtdG9rZW46c2VzYW1l".to_owned(),
        ];
        let shown = self.asked.authorization.as_ref();
        shown.is_some_and(|shown| keys.contains(shown))
    }
}

fn answer(request: &Request, root: &Path) -> Vec<u8> {
    let mut path = request.asked.path.trim_start_matches('/');
    if let Some(rest) = path.strip_prefix("away/") {
        let (port, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let query = match request.query.as_str() {
            "" => String::new(),
            query => format!("?{query}"),
        };
        let to = format!("Location: http://localhost:{port}/{rest}{query}");
        return plain("302 Found", &[&to], b"");
    }
    if let Some(rest) = path.strip_prefix("moved/") {
        let query = match request.query.as_str() {
            "" => String::new(),
            query => format!("?{query}"),
        };
        let to = format!("Location: /{rest}{query}");
        return plain("301 Moved Permanently", &[&to], b"");
    }
    if let Some(rest) = path.strip_prefix("private/") {
        if !request.has_the_key() {
            return plain("401 Unauthorized", &["WWW-Authenticate: Basic"], b"");
        }
        path = rest;
    }
    if let Some(rest) = path.strip_prefix("git/") {
        return git(request, rest, root).unwrap_or_else(|| plain("500 Failed", &[], b""));
    }
    let path = if path.is_empty() { "index" } else { path };
    let Ok(content) = std::fs::read(root.join(path)) else {
        return plain("404 Not Found", &[], b"");
    };
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let tag = format!("\"{:x}\"", hasher.finish());
    let time = if path.starts_with("dated/") {
        Some(DATED.to_owned())
    } else if path.starts_with("stamped/") {
        time_of(&root.join(path))
    } else {
        None
    };
    let mut head = vec![format!("ETag: {tag}")];
    head.extend(time.map(|time| format!("Last-Modified: {time}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    if request.header("if-none-match") == Some(tag.as_str()) {
        return plain("304 Not Modified", &head, b"");
    }
    plain("200 OK", &head, &content)
}

/// When a file was last changed, as servers say it.
fn time_of(file: &Path) -> Option<String> {
    let output = Command::new("date")
        .args(["-u", "+%a, %d %b %Y %H:%M:%S GMT", "-r"])
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn plain(status: &str, head: &[&str], body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n",
        body.len()
    )
    .into_bytes();
    for line in head {
        answer.extend(line.as_bytes());
        answer.extend(b"\r\n");
    }
    answer.extend(b"\r\n");
    answer.extend(body);
    answer
}

/// Asks git itself, by the rules of CGI.
fn git(request: &Request, path: &str, root: &Path) -> Option<Vec<u8>> {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{path}"))
        .env("REQUEST_METHOD", &request.asked.method)
        .env("QUERY_STRING", &request.query)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("GIT_CONFIG_COUNT", "2")
        // The repositories belong to the user who builds.
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_CONFIG_KEY_1", "uploadpack.allowAnySHA1InWant")
        .env("GIT_CONFIG_VALUE_1", "true")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for (variable, header) in [
        ("CONTENT_TYPE", "content-type"),
        ("HTTP_CONTENT_ENCODING", "content-encoding"),
        ("GIT_PROTOCOL", "git-protocol"),
    ] {
        if let Some(value) = request.header(header) {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(&request.body).ok()?;
    let output = child.wait_with_output().ok()?.stdout;
    let end = output.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut lines: Vec<&str> = head.lines().collect();
    let status = lines
        .iter()
        .find_map(|line| line.strip_prefix("Status: "))
        .unwrap_or("200 OK");
    lines.retain(|line| !line.starts_with("Status: "));
    Some(plain(status, &lines, &output[end + 4..]))
}

/// A repository at `site/NAME` of a bench's project, with a commit on `main`, tagged `v1` with a note, and another on
/// `feature`; its git directory is `site/NAME/.git`, ready for servers of plain files.
pub(crate) const REPOSITORY: &str = "\
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
export GIT_AUTHOR_DATE='1700000101 +0000' GIT_COMMITTER_DATE='1700000101 +0000'
git init -q -b main $OPTIONS site/$NAME
cd site/$NAME
printf 'FROM scratch\\nCOPY . /\\n' > Dockerfile
echo one > file
mkdir sub
printf 'FROM scratch\\nCOPY inner /\\n' > sub/Dockerfile
echo inner > sub/inner
git add .
git commit -q -m first
git tag -a -m note v1
git checkout -q -b feature
echo two > file
git commit -q -a -m second
git checkout -q main
git update-server-info
";

/// Makes it.
pub(crate) fn repository(bench: &super::Bench, name: &str, options: &str) -> PathBuf {
    bench.sh(&format!("NAME={name} OPTIONS='{options}'\n{REPOSITORY}"));
    bench.path(&format!("site/{name}"))
}
