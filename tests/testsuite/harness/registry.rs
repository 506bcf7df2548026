//! Registries: Debian's own, with and without TLS, passwords and tokens; and one in memory that keeps a log and may be told to
//! do anything else than it should.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::http::Request;
use super::layout::{Layout, digest_of};
use super::machine::{self, Capability, Lack};
use super::port::Port;
use super::processes::{free_port, wait_until};

/// The name and password that registries with a door let in.
pub(crate) const USER: &str = "gatekeeper";
pub(crate) const PASSWORD: &str = "canary-5f1d9c";

/// What a registry wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    Password,
    Token,
}

/// How it is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// Debian's docker-registry; ends with its test.
#[derive(Debug)]
pub(crate) struct DockerRegistry {
    child: Child,
    port: u16,
    place: PathBuf,
    /// What its tokens were asked for.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    closed: Arc<Mutex<Vec<String>>>,
    /// Where tokens are made.
    _tokens: Option<Port>,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.place));
    }
}

impl DockerRegistry {
    pub(crate) fn start(name: &str, transport: Transport, door: Door) -> Result<Self, Lack> {
        let program = machine::program(Capability::Registry, "docker-registry")?;
        let place = machine::workshop().join(format!("registry-{name}"));
        std::fs::create_dir_all(&place).expect("a directory can be made");
        let port = free_port();
        let (asked, closed) = (Arc::default(), Arc::default());
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: x\n",
            place = place.display()
        );
        if transport == Transport::Tls {
            let certificates = certificates()?;
            config.push_str(&format!(
                "  tls: {{certificate: {0}/registry.crt, key: {0}/registry.key}}\n",
                certificates.display()
            ));
        }
        let mut tokens = None;
        match door {
            Door::Open => {}
            Door::Password => {
                let htpasswd = Command::new(machine::program(Capability::Registry, "htpasswd")?)
                    .args(["-Bbn", USER, PASSWORD])
                    .output()
                    .expect("htpasswd can be run");
                std::fs::write(place.join("htpasswd"), htpasswd.stdout)
                    .expect("a file can be written");
                config.push_str(&format!(
                    "auth: {{htpasswd: {{realm: x, path: {}/htpasswd}}}}\n",
                    place.display()
                ));
            }
            Door::Token => {
                let certificates = certificates()?;
                let port = serve_tokens(certificates, Arc::clone(&asked), Arc::clone(&closed));
                let realm = format!("http://127.0.0.1:{}/token", port.number());
                tokens = Some(port);
                config.push_str(&format!(
                    "auth: {{token: {{realm: \"{realm}\", service: tests, issuer: tests, rootcertbundle: {}/token.crt}}}}\n",
                    certificates.display()
                ));
            }
        }
        let file = place.join("config.yml");
        std::fs::write(&file, config).expect("a file can be written");
        let child = Command::new(program)
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(place.join("log")).expect("a log can be made"))
            .spawn()
            .expect("docker-registry can be started");
        let registry = Self {
            child,
            port,
            place,
            asked,
            closed,
            _tokens: tokens,
        };
        let answers = wait_until(Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(answers.is_some(), "docker-registry does not answer");
        Ok(registry)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on nobody gets a token for this repository.
    pub(crate) fn close(&self, repository: &str) {
        let mut closed = self.closed.lock().expect("no panic");
        closed.push(repository.to_owned());
    }

    /// Loses a repository with all that it has.
    pub(crate) fn lose(&self, repository: &str) {
        let repositories = self.place.join("data/docker/registry/v2/repositories");
        std::fs::remove_dir_all(repositories.join(repository)).expect("it is there");
    }

    /// `localhost:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

/// A line to a server of this machine that is cut now and then.
#[derive(Debug)]
pub(crate) struct CutLine {
    port: Port,
    /// How often it is still cut, and after how many bytes of one connection, in whichever direction.
    cuts: Arc<Mutex<(u32, u64)>>,
}

impl CutLine {
    pub(crate) fn to(server: u16) -> Self {
        let cuts = Arc::default();
        let carried = Arc::clone(&cuts);
        let port = Port::open(move |client| {
            let server = TcpStream::connect(("127.0.0.1", server)).expect("it listens");
            std::thread::scope(|both| {
                both.spawn(|| carry(&client, &server, &carried));
                carry(&server, &client, &carried);
            });
        });
        Self { port, cuts }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Cuts it so often, each time when one connection has carried so many bytes one way.
    pub(crate) fn cut(&self, times: u32, bytes: u64) {
        *self.cuts.lock().expect("no panic") = (times, bytes);
    }

    /// How often it is still to be cut.
    pub(crate) fn left(&self) -> u32 {
        self.cuts.lock().expect("no panic").0
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, cuts: &Mutex<(u32, u64)>) {
    let mut piece = vec![0; 64 << 10];
    let mut carried = 0;
    while let Ok(count @ 1..) = from.read(&mut piece) {
        carried += count as u64;
        let mut cuts = cuts.lock().expect("no panic");
        if cuts.0 > 0 && carried > cuts.1 {
            cuts.0 -= 1;
            break;
        }
        drop(cuts);
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    drop(from.shutdown(std::net::Shutdown::Both));
    drop(to.shutdown(std::net::Shutdown::Both));
}

/// A directory with `ca.crt`, what it signed, and what signs tokens.
pub(crate) fn certificates() -> Result<&'static Path, Lack> {
    static PLACE: OnceLock<Result<PathBuf, Lack>> = OnceLock::new();
    PLACE
        .get_or_init(|| {
            machine::program(Capability::Registry, "openssl")?;
            let place = machine::workshop().join("certificates");
            std::fs::create_dir_all(&place).expect("a directory can be made");
            let script = "\
                new() { openssl req -newkey rsa:2048 -nodes -keyout $1.key -subj /CN=$1 \"${@:2}\"; }\n\
                new ca -x509 -days 2 -out ca.crt -addext basicConstraints=critical,CA:TRUE\n\
                new token -x509 -days 2 -out token.crt\n\
                new registry -out registry.csr\n\
                printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\n' > names\n\
                openssl x509 -req -in registry.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out registry.crt\n\
                chmod 644 *.crt\n";
            let made = Command::new("bash")
                .args(["-euc", script])
                .current_dir(&place)
                .output()
                .expect("bash can be run");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            Ok(place)
        })
        .as_deref()
        .map_err(Clone::clone)
}

/// Makes tokens for whoever knows the password, and for pulling from `open/…` for everybody; none for what is closed.
fn serve_tokens(
    certificates: &'static Path,
    log: Arc<Mutex<Vec<String>>>,
    closed: Arc<Mutex<Vec<String>>>,
) -> Port {
    Port::open(move |stream| {
        let Some(request) = Request::read(&stream) else {
            return;
        };
        let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let is_known = request.header("authorization") == Some(&basic)
            || body.contains(&format!("refresh_token={PASSWORD}"));
        let query = match request.method.as_str() {
            "POST" => body,
            _ => request
                .path
                .split_once('?')
                .map(|(_, query)| query.to_owned())
                .unwrap_or_default(),
        };
        log.lock()
            .expect("no panic")
            .push(format!("{} {query}", request.method));
        let scopes = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("scope="))
            .flat_map(|scopes| scopes.split("%20"))
            .map(|scope| {
                scope
                    .replace("%2C", ",")
                    .replace("%3A", ":")
                    .replace("%2F", "/")
            });
        let access: Vec<Value> = scopes
            .filter_map(|scope| {
                let mut parts = scope.splitn(3, ':');
                let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
                let is_closed = closed.lock().expect("no panic").contains(&name.to_owned());
                let actions: Vec<&str> = actions
                    .split(',')
                    .filter(|action| is_known || (*action == "pull" && name.starts_with("open/")))
                    .filter(|_| !is_closed)
                    .collect();
                Some(json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let is_wrong = request.header("authorization").is_some() && !is_known;
        let reply = match is_wrong {
            true => Reply::status(401),
            false => Reply::json(&json!({ "token": token(certificates, &access) })),
        };
        drop(reply.write(&stream, "GET"));
    })
}

fn token(certificates: &Path, access: &[Value]) -> String {
    let pem = std::fs::read_to_string(certificates.join("token.crt")).expect("a certificate");
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"typ": "JWT", "alg": "RS256", "x5c": [der]}));
    let claims = part(&json!({
        "iss": "tests", "sub": USER, "aud": "tests", "nbf": now - 60, "iat": now, "exp": now + 600, "jti": "1",
        "access": access,
    }));
    let signed = format!("{head}.{claims}");
    let mut signer = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(certificates.join("token.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl can be run");
    let mut stdin = signer.stdin.take().expect("a pipe");
    stdin.write_all(signed.as_bytes()).expect("it listens");
    drop(stdin);
    let signature = signer.wait_with_output().expect("it ends").stdout;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// What a client is told.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// What `Content-Length` says, where that is not the truth.
    pub(crate) length: Option<u64>,
    /// The pause before each piece of the body.
    pub(crate) pause: Option<(usize, Duration)>,
    /// The connection is closed without a word.
    pub(crate) is_silent: bool,
}

impl Reply {
    /// A blob, or the part of it that is asked for.
    pub(crate) fn blob(request: &Request, bytes: &[u8]) -> Self {
        match request.range_from() {
            Some(from) if from < bytes.len() => Self {
                status: 206,
                ..Self::body("application/octet-stream", &bytes[from..])
            }
            .with(
                "Content-Range",
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
            _ => Self::body("application/octet-stream", bytes.to_vec()),
        }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            length: None,
            pause: None,
            is_silent: false,
        }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self {
            body: value.to_string().into_bytes(),
            ..Self::status(200).with("Content-Type", "application/json")
        }
    }

    pub(crate) fn body(kind: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200).with("Content-Type", kind)
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn write(&self, mut stream: &TcpStream, method: &str) -> std::io::Result<()> {
        if self.is_silent {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let length = self.length.unwrap_or(self.body.len() as u64);
        head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        stream.write_all(head.as_bytes())?;
        if method == "HEAD" {
            return Ok(());
        }
        match self.pause {
            None => stream.write_all(&self.body),
            Some((size, pause)) => {
                for piece in self.body.chunks(size) {
                    std::thread::sleep(pause);
                    stream.write_all(piece)?;
                }
                Ok(())
            }
        }
    }
}

/// What may be done instead of what a registry does.
pub(crate) type Fault = Box<dyn Fn(&Request, &Contents) -> Option<Reply> + Send + Sync>;

/// What a registry in memory holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// By repository and digest.
    pub(crate) blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest: media type and bytes.
    pub(crate) manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// How many uploads were begun, of which each has its own number.
    begun: u64,
    /// Whether it knows the question what refers to an image.
    pub(crate) lists_referrers: bool,
}

impl Contents {
    /// Keeps a manifest under a tag and its digest.
    pub(crate) fn put_manifest(
        &mut self,
        repository: &str,
        tag: &str,
        kind: &str,
        bytes: Vec<u8>,
    ) -> String {
        let digest = digest_of(&bytes);
        for name in [tag, &digest] {
            let key = (repository.to_owned(), name.to_owned());
            self.manifests.insert(key, (kind.to_owned(), bytes.clone()));
        }
        digest
    }

    pub(crate) fn put_blob(&mut self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes);
        self.blobs
            .insert((repository.to_owned(), digest.clone()), bytes.to_vec());
        digest
    }

    /// What a registry says.
    pub(crate) fn reply(&mut self, request: &Request) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(path) = path.strip_prefix("/v2/") else {
            return Reply::status(404);
        };
        if path.is_empty() {
            return Reply::json(&json!({}));
        }
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
        };
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            let key = (repository.to_owned(), reference.to_owned());
            if request.method == "PUT" {
                let kind = request.header("content-type").cloned().unwrap_or_default();
                let digest = self.put_manifest(repository, reference, &kind, request.body.clone());
                let reply = Reply::status(201).with("Docker-Content-Digest", digest);
                return match subject_of(&request.body) {
                    Some(subject) if self.lists_referrers => reply.with("OCI-Subject", subject),
                    _ => reply,
                };
            }
            return match self.manifests.get(&key) {
                Some((kind, bytes)) => {
                    Reply::body(kind, bytes.clone()).with("Docker-Content-Digest", digest_of(bytes))
                }
                None => Reply::status(404),
            };
        }
        if let Some((repository, digest)) = path.split_once("/referrers/") {
            return match self.lists_referrers {
                true => self.referrers(repository, digest),
                false => Reply::status(404),
            };
        }
        if let Some((repository, upload)) = path.split_once("/blobs/uploads/") {
            return self.upload(request, repository, upload, &value);
        }
        let Some((repository, digest)) = path.split_once("/blobs/") else {
            return Reply::status(404);
        };
        let Some(bytes) = self.blobs.get(&(repository.to_owned(), digest.to_owned())) else {
            return Reply::status(404);
        };
        Reply::blob(request, bytes)
    }

    fn referrers(&self, repository: &str, digest: &str) -> Reply {
        let its = self.manifests.iter().filter(|((of, name), (_, bytes))| {
            of == repository
                && name.starts_with("sha256:")
                && subject_of(bytes).is_some_and(|subject| subject == digest)
        });
        let listed: Vec<Value> = its
            .map(|((_, name), (kind, bytes))| {
                json!({"mediaType": kind, "digest": name, "size": bytes.len(), "artifactType": "application/x-test"})
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": listed});
        Reply::body(kind, index.to_string())
    }

    fn upload(
        &mut self,
        request: &Request,
        repository: &str,
        upload: &str,
        value: &dyn Fn(&str) -> Option<String>,
    ) -> Reply {
        let place = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
        match request.method.as_str() {
            "POST" => {
                if let (Some(digest), Some(from)) = (value("mount"), value("from"))
                    && let Some(bytes) = self.blobs.get(&(from, digest.clone())).cloned()
                {
                    self.blobs.insert((repository.to_owned(), digest), bytes);
                    return Reply::status(201);
                }
                let id = format!("u{}", self.begun);
                self.begun += 1;
                self.uploads.insert(id.clone(), Vec::new());
                Reply::status(202).with("Location", place(&id))
            }
            "PATCH" | "PUT" => {
                let length = request
                    .header("content-length")
                    .and_then(|length| length.parse::<usize>().ok());
                let Some(so_far) = self.uploads.get_mut(upload) else {
                    return Reply::status(404);
                };
                so_far.extend_from_slice(&request.body);
                if length.is_some_and(|length| request.body.len() < length) {
                    return Reply {
                        is_silent: true,
                        ..Reply::status(500)
                    };
                }
                let range = format!("0-{}", so_far.len().saturating_sub(1));
                match (request.method.as_str(), value("digest")) {
                    ("PUT", Some(digest)) if digest_of(so_far) == digest => {
                        let bytes = std::mem::take(so_far);
                        self.uploads.remove(upload);
                        self.blobs.insert((repository.to_owned(), digest), bytes);
                        Reply::status(201)
                    }
                    ("PUT", _) => Reply {
                        status: 400,
                        ..Reply::json(
                            &json!({"errors": [{"code": "DIGEST_INVALID", "message": "wrong digest"}]}),
                        )
                    },
                    _ => Reply::status(202)
                        .with("Location", place(upload))
                        .with("Range", range),
                }
            }
            "GET" => match self.uploads.get(upload) {
                Some(so_far) => Reply::status(204)
                    .with("Location", place(upload))
                    .with("Range", format!("0-{}", so_far.len().saturating_sub(1))),
                None => Reply::status(404),
            },
            _ => Reply::status(405),
        }
    }
}

fn subject_of(manifest: &[u8]) -> Option<String> {
    let manifest: Value = serde_json::from_slice(manifest).ok()?;
    manifest["subject"]["digest"].as_str().map(str::to_owned)
}

/// A registry in memory; serves until it is dropped.
pub(crate) struct MemoryRegistry {
    port: Port,
    pub(crate) contents: Arc<Mutex<Contents>>,
    log: Arc<Mutex<Vec<Request>>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl MemoryRegistry {
    pub(crate) fn start() -> Self {
        let contents: Arc<Mutex<Contents>> = Arc::default();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let (held, kept, other) = (Arc::clone(&contents), Arc::clone(&log), Arc::clone(&fault));
        let port = Port::open(move |stream| {
            let Some(request) = Request::read(&stream) else {
                return;
            };
            let reply = {
                let other = other.lock().expect("no panic");
                let mut contents = held.lock().expect("no panic");
                let other = other.as_ref().and_then(|other| other(&request, &contents));
                other.unwrap_or_else(|| contents.reply(&request))
            };
            let method = request.method.clone();
            kept.lock().expect("no panic").push(request);
            // A client may have heard enough.
            drop(reply.write(&stream, &method));
        });
        Self {
            port,
            contents,
            log,
            fault,
        }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Puts the image of a layout there.
    pub(crate) fn put_layout(&self, repository: &str, tag: &str, layout: &Layout) {
        let manifest = layout.manifest();
        let config = manifest["config"]["digest"]
            .as_str()
            .expect("a config")
            .to_owned();
        let mut contents = self.contents.lock().expect("no panic");
        for blob in layout.layer_digests().iter().chain([&config]) {
            contents.put_blob(repository, layout.blob(blob));
        }
        let kind = "application/vnd.oci.image.manifest.v1+json";
        contents.put_manifest(
            repository,
            tag,
            kind,
            layout.blob(&layout.digest()).to_vec(),
        );
    }

    /// Does something else from now on, where `fault` says so.
    pub(crate) fn misbehave(
        &self,
        fault: impl Fn(&Request, &Contents) -> Option<Reply> + Send + Sync + 'static,
    ) {
        *self.fault.lock().expect("no panic") = Some(Box::new(fault));
    }

    /// What it was asked since this was last called.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock().expect("no panic"))
    }
}
