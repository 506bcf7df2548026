//! The one HTTP client: proxies and certificate authorities that are given, never looked up in the environment; bounded
//! retries; downloads that go on where they broke off; a size limit and a digest for what comes in. Blocking to its
//! callers.
//!
//! ```text
//! Client::download(&Download, &mut dyn Sink)      one body, checked, retried, resumed
//! Client::ask(&Question)                          any question and its answer, with a small body
//! fetch_all(jobs, parallel, one)                  many at once, ends with the first failure
//! ```
//!
//! A connection is made only when the first request is: a [`Client`] costs nothing until then. Redirects are followed ten
//! times at most, never from https to http, never to another scheme, and never from a public host to this machine; what
//! [`Authorization`] says goes to the host that was named, and to no other.
//!
//! Whoever listens hears of every pause before something is tried again: whom it waits for, why, and how long.
//!
//! Leaves out what the bytes mean and where they are kept.

mod address;
mod error;
mod exchange;
mod parallel;
mod sink;
mod transfer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::event::{BuildEvent, EventSink};

use address::authority;
pub use address::{host, is_own_address, redacted, resolved, same_origin};
pub use error::{Error, Result};
pub use exchange::{Answer, Method, Payload, Persistence, Question};
pub use parallel::fetch_all;
pub use sink::Sink;

/// How the network is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Proxies.
    pub proxies: Proxies,
    /// Certificate authorities beside the system's own: files in PEM form.
    pub ca_files: Vec<PathBuf>,
    /// What this side shows of itself: a certificate and its key, both in PEM form.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether the other side has to show that it is who it says.
    pub verification: Verification,
    /// `User-Agent`.
    pub user_agent: String,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a server may stay silent.
    pub stall_timeout: Duration,
    /// How often, and how far apart, something is tried again.
    pub retry: Retry,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            proxies: Proxies::default(),
            ca_files: Vec::new(),
            identity: None,
            verification: Verification::On,
            user_agent: concat!("shmocker/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            retry: Retry::default(),
        }
    }
}

/// Whether certificates are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// They are.
    On,
    /// Not at all: whoever answers is believed.
    Off,
}

/// The proxies to use, as `http_proxy`, `https_proxy` and `no_proxy` have them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http:` addresses.
    pub http: Option<String>,
    /// For `https:` addresses.
    pub https: Option<String>,
    /// Hosts that are reached without one, separated by commas.
    pub no_proxy: Option<String>,
}

/// How often something is tried again that may be better in a moment: no connection, a broken one, 408, 429, 5xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in a row without a single new byte.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause, also where a server asks for more (`Retry-After`).
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
        }
    }
}

/// What is downloaded, and what it must be.
#[derive(Debug, Clone, Default)]
pub struct Download<'a> {
    /// `http://` or `https://`.
    pub url: &'a str,
    /// The digest that the whole body must have.
    pub digest: Option<Digest>,
    /// The length that the whole body must have.
    pub size_bytes: Option<u64>,
    /// The most that is taken; `None`: [`LIMIT_BYTES`].
    pub limit_bytes: Option<u64>,
    /// What is at hand already: the server may say that it still holds.
    pub known: Validators,
    /// What the server wants to see.
    pub authorization: Option<&'a Authorization>,
    /// The address can only ever mean one content, so that a rest fits whatever came before it.
    pub is_immutable: bool,
}

/// The value of an `Authorization` header. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(String);

impl Authorization {
    /// The header as it is: `Basic …`.
    #[must_use]
    pub fn header(value: String) -> Self {
        Self(value)
    }

    /// The value. Whoever asks for it must neither print nor store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A user's name and password, or what stands for one.
    #[must_use]
    pub fn basic(user: &str, password: &str) -> Self {
        use base64::Engine as _;
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        Self(format!("Basic {encoded}"))
    }

    /// A token that gives its bearer access.
    #[must_use]
    pub fn bearer(token: &str) -> Self {
        Self(format!("Bearer {token}"))
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(redacted)")
    }
}

/// The most that a download may have if nothing else is said: 64 GiB.
pub const LIMIT_BYTES: u64 = 64 << 30;

/// By what a server tells one state of a resource from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Validators {
    /// `ETag`, as it came.
    pub etag: Option<String>,
    /// `Last-Modified`, as it came.
    pub last_modified: Option<String>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Where it came from in the end, after redirects.
    pub url: String,
    /// `ETag` and `Last-Modified`.
    pub validators: Validators,
    /// `Content-Length`.
    pub length: Option<u64>,
}

/// What came of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server says that [`Download::known`] still holds; nothing was written.
    NotModified(Head),
    /// The body is in the sink.
    Fetched(Fetched),
}

/// A body that was written to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The head that it came with.
    pub head: Head,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// The client. Cheap to make, shared by threads.
#[derive(Clone)]
pub struct Client<'e> {
    shared: Arc<Shared>,
    /// Who is told of pauses.
    events: Option<&'e dyn EventSink>,
}

struct Shared {
    settings: Settings,
    /// They follow redirects.
    connections: Connections,
    /// They follow none, which is for what is sent.
    straight: Connections,
    /// The same for who is spoken with in the open: they know no authorities, which would have to be read.
    open: Connections,
}

/// Connections of one kind, made by whoever needs them first. The others wait for that.
#[derive(Default)]
struct Connections {
    made: OnceLock<reqwest::blocking::Client>,
    making: Mutex<()>,
}

impl Connections {
    fn or_make(
        &self,
        make: impl FnOnce() -> Result<reqwest::blocking::Client>,
    ) -> Result<&reqwest::blocking::Client> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        let _first = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match self.made.get() {
            Some(made) => Ok(made),
            None => {
                let made = make()?;
                Ok(self.made.get_or_init(|| made))
            }
        }
    }
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("settings", self.settings())
            .finish_non_exhaustive()
    }
}

impl Client<'_> {
    /// A client with these settings; no file is read and no connection made until the first request.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                connections: Connections::default(),
                straight: Connections::default(),
                open: Connections::default(),
            }),
            events: None,
        }
    }

    /// The same with the same connections; `events` hears of the pauses before something is tried again.
    #[must_use]
    pub fn heard<'e>(&self, events: Option<&'e dyn EventSink>) -> Client<'e> {
        Client {
            shared: Arc::clone(&self.shared),
            events,
        }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Waits before something is tried again: `tried` attempts have failed. A server that says how long is believed, within
    /// limits.
    pub fn pause(&self, url: &str, why: &str, tried: u32, asked: Option<Duration>) {
        let retry = &self.settings().retry;
        let doubled = retry
            .first_pause
            .saturating_mul(1 << tried.saturating_sub(1).min(16));
        let wait = asked.unwrap_or(doubled).min(retry.longest_pause);
        if let Some(events) = self.events {
            events.emit(BuildEvent::Waiting {
                host: authority(url),
                reason: why.to_owned(),
                attempt: tried + 1,
                attempts: retry.attempts,
                wait_ms: wait.as_millis() as u64,
            });
        }
        std::thread::sleep(wait);
    }

    /// Downloads into `sink`. `progress` is told how many bytes came, from this thread; the sum is more than the body
    /// where a part had to be fetched twice.
    ///
    /// # Errors
    /// Says the address, what happened, and what to do; see [`Error`].
    pub fn download(
        &self,
        what: &Download<'_>,
        sink: &mut dyn Sink,
        progress: &dyn Fn(u64),
    ) -> Result<Outcome> {
        transfer::download(self, what, sink, progress)
    }

    /// Downloads something small into memory.
    ///
    /// # Errors
    /// As [`Client::download`].
    pub fn read(&self, url: &str, limit_bytes: u64) -> Result<(Vec<u8>, Fetched)> {
        let mut body = Vec::new();
        let what = Download {
            url,
            limit_bytes: Some(limit_bytes),
            ..Download::default()
        };
        match self.download(&what, &mut body, &|_| ())? {
            Outcome::Fetched(fetched) => Ok((body, fetched)),
            Outcome::NotModified(_) => Err(Error::Status {
                url: redacted(url),
                status: 304,
                reason: "Not Modified".to_owned(),
            }),
        }
    }

    fn connections(&self) -> Result<&reqwest::blocking::Client> {
        let follow = || reqwest::redirect::Policy::custom(address::follow);
        let make = || built(self.trusting(self.builder(follow())?)?);
        self.shared.connections.or_make(make)
    }

    /// Connections for what is sent there: they follow no redirect.
    fn straight(&self, address: &reqwest::Url) -> Result<&reqwest::blocking::Client> {
        let builder = || self.builder(reqwest::redirect::Policy::none());
        // A proxy may speak TLS itself.
        if address.scheme() == "http" && self.settings().proxies.http.is_none() {
            let make = || built(builder()?.tls_certs_only([]));
            return self.shared.open.or_make(make);
        }
        let make = || built(self.trusting(builder()?)?);
        self.shared.straight.or_make(make)
    }

    fn builder(
        &self,
        redirects: reqwest::redirect::Policy,
    ) -> Result<reqwest::blocking::ClientBuilder> {
        let settings = self.settings();
        let mut builder = reqwest::blocking::Client::builder()
            .no_proxy()
            .user_agent(settings.user_agent.clone())
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.stall_timeout)
            .referer(false)
            .pool_max_idle_per_host(16)
            .redirect(redirects)
            .tls_danger_accept_invalid_certs(settings.verification == Verification::Off);
        let exempt = settings
            .proxies
            .no_proxy
            .as_deref()
            .and_then(reqwest::NoProxy::from_string);
        for (scheme, url) in [
            ("http", &settings.proxies.http),
            ("https", &settings.proxies.https),
        ] {
            let Some(url) = url.as_deref().filter(|url| !url.is_empty()) else {
                continue;
            };
            let made = if scheme == "http" {
                reqwest::Proxy::http(url)
            } else {
                reqwest::Proxy::https(url)
            };
            let proxy = made.map_err(|_| Error::Proxy { url: redacted(url) })?;
            builder = builder.proxy(proxy.no_proxy(exempt.clone()));
        }
        Ok(builder)
    }

    /// With the authorities that are trusted, and what this client shows of itself.
    fn trusting(
        &self,
        mut builder: reqwest::blocking::ClientBuilder,
    ) -> Result<reqwest::blocking::ClientBuilder> {
        let settings = self.settings();
        for path in &settings.ca_files {
            let pem = std::fs::read(path).map_err(|source| Error::CaFile {
                path: path.clone(),
                why: source.to_string(),
            })?;
            let found =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| Error::CaFile {
                    path: path.clone(),
                    why: error::chain(&error),
                })?;
            if found.is_empty() {
                return Err(Error::CaFile {
                    path: path.clone(),
                    why: "it holds no certificate".to_owned(),
                });
            }
            builder = builder.tls_certs_merge(found);
        }
        if let Some((certificate, key)) = &settings.identity {
            let unusable = |path: &PathBuf, why: String| Error::CaFile {
                path: path.clone(),
                why,
            };
            let mut pem = Vec::new();
            for path in [certificate, key] {
                let part =
                    std::fs::read(path).map_err(|error| unusable(path, error.to_string()))?;
                pem.extend(part);
                pem.push(b'\n');
            }
            let identity = reqwest::Identity::from_pem(&pem)
                .map_err(|error| unusable(certificate, error::chain(&error)))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }
}

fn built(builder: reqwest::blocking::ClientBuilder) -> Result<reqwest::blocking::Client> {
    builder.build().map_err(|error| Error::Setup {
        why: error::chain(&error),
    })
}
