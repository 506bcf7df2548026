//! One transfer: ask, take, and where the connection breaks ask for the rest.
//!
//! ```text
//! ask ──▶ 200 ──▶ take from the start ──▶ whole ──▶ length and digest right? ──▶ done
//!  ▲      206 ──▶ take from where it broke off ─┘
//!  │      304 ──▶ what is known still holds
//!  └── pause ◀── no connection, broken off, 408, 429, 5xx      (bounded: attempts without a new byte)
//! ```
//!
//! What is known already is asked after by HEAD first: there are servers that give an ETag and do not listen to one.
//! The rest is asked for with `If-Range`, so that a resource that changed in between starts over rather than being
//! patched together; without a validator it starts over, unless the address can mean only one content.
//!
//! Who sends so little that it would never end has broken off.

use std::io::Read;
use std::time::{Duration, Instant};

use reqwest::blocking::{RequestBuilder, Response};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};

use super::address::{self, NotFollowed, redacted};
use super::error::{Error, Result, chain};
use super::{Client, Download, Fetched, Head, LIMIT_BYTES, Outcome, Sink, Validators};
use crate::digest::Hasher;

/// How much is read at once.
const PIECE_BYTES: usize = 128 << 10;
/// Less than this within [`Settings::stall_timeout`] is as good as nothing.
///
/// [`Settings::stall_timeout`]: super::Settings::stall_timeout
const WINDOW_BYTES_MIN: u64 = 4 << 10;
/// So much has to come of an attempt before it counts as one that went well.
const RENEWING_BYTES: u64 = 4 << 10;

/// Whether the head of what is there now has the ETag that is known. No answer, or one that says nothing, is no.
fn still_holds(
    connections: &reqwest::blocking::Client,
    address: &Url,
    what: &Download<'_>,
) -> Result<Option<Head>> {
    let Some(etag) = &what.known.etag else {
        return Ok(None);
    };
    let request = connections
        .head(address.clone())
        .header(header::IF_NONE_MATCH, etag);
    let Ok(answer) = with_common_headers(request, what)?.send() else {
        return Ok(None);
    };
    let head = read_head(&answer);
    let same = match answer.status() {
        // Some leave it out where they say that nothing has changed.
        StatusCode::NOT_MODIFIED => head
            .validators
            .etag
            .as_ref()
            .is_none_or(|now| opaque(now) == opaque(etag)),
        StatusCode::OK => head
            .validators
            .etag
            .as_ref()
            .is_some_and(|now| opaque(now) == opaque(etag)),
        _ => false,
    };
    Ok(same.then_some(head))
}

/// An ETag without the mark of a weak one.
fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn with_common_headers(request: RequestBuilder, what: &Download<'_>) -> Result<RequestBuilder> {
    let mut request = request.header(header::ACCEPT_ENCODING, "identity");
    if let Some(authorization) = what.authorization {
        let mut value =
            HeaderValue::from_str(authorization.0.trim()).map_err(|_| Error::Authorization {
                url: redacted(what.url),
            })?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    Ok(request)
}

pub(super) fn download(
    client: &Client<'_>,
    what: &Download<'_>,
    sink: &mut dyn Sink,
    progress: &dyn Fn(u64),
) -> Result<Outcome> {
    let address = address::parse(what.url)?;
    let connections = client.connections()?;
    if let Some(head) = still_holds(connections, &address, what)? {
        return Ok(Outcome::NotModified(head));
    }
    let mut patience = Patience::new(client);
    let mut taken = Taken::default();
    loop {
        let mut request = with_common_headers(connections.get(address.clone()), what)?;
        if taken.bytes > 0 && (what.is_immutable || taken.strong_validator.is_some()) {
            request = request.header(header::RANGE, format!("bytes={}-", taken.bytes));
            if let (false, Some(validator)) = (what.is_immutable, &taken.strong_validator) {
                request = request.header(header::IF_RANGE, validator);
            }
        } else {
            for (name, value) in [
                (header::IF_NONE_MATCH, &what.known.etag),
                (header::IF_MODIFIED_SINCE, &what.known.last_modified),
            ] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
        }
        let trouble = match request.send() {
            Err(error) => Trouble::of_error(what.url, &error)?,
            Ok(answer) => match answer.status() {
                StatusCode::NOT_MODIFIED if taken.bytes == 0 => {
                    return Ok(Outcome::NotModified(read_head(&answer)));
                }
                StatusCode::OK => {
                    taken.begin(what, &answer, sink)?;
                    match taken.take(what, answer, sink, progress, &mut patience)? {
                        None => return taken.finish(what, sink),
                        Some(trouble) => trouble,
                    }
                }
                StatusCode::PARTIAL_CONTENT
                    if taken.bytes > 0 && begins_at(answer.headers(), taken.bytes) =>
                {
                    match taken.take(what, answer, sink, progress, &mut patience)? {
                        None => return taken.finish(what, sink),
                        Some(trouble) => trouble,
                    }
                }
                // The rest does not fit what is here: begin again.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
                    if taken.bytes > 0 =>
                {
                    taken.forget(what, sink)?;
                    Trouble {
                        why: format!("the server has no rest to what came ({})", answer.status()),
                        wait: None,
                    }
                }
                _ => Trouble::of_status(what.url, &answer)?,
            },
        };
        patience.pause(trouble, what.url, taken.bytes)?;
    }
}

/// What has come of a body so far.
#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    hasher: Hasher,
    head: Option<Head>,
    strong_validator: Option<String>,
}

impl Taken {
    fn begin(&mut self, what: &Download<'_>, answer: &Response, sink: &mut dyn Sink) -> Result<()> {
        self.forget(what, sink)?;
        let head = read_head(answer);
        let limit = what.limit_bytes.unwrap_or(LIMIT_BYTES);
        if head.length.is_some_and(|length| length > limit) {
            return Err(Error::TooLarge {
                url: redacted(what.url),
                limit,
            });
        }
        let etag = head
            .validators
            .etag
            .clone()
            .filter(|etag| !etag.starts_with("W/"));
        self.strong_validator = etag.or_else(|| head.validators.last_modified.clone());
        self.head = Some(head);
        Ok(())
    }

    fn forget(&mut self, what: &Download<'_>, sink: &mut dyn Sink) -> Result<()> {
        sink.restart().map_err(|source| Error::Sink {
            url: redacted(what.url),
            source,
        })?;
        *self = Self::default();
        Ok(())
    }

    /// Takes what an answer holds; `Some` where it breaks off.
    fn take(
        &mut self,
        what: &Download<'_>,
        mut answer: Response,
        sink: &mut dyn Sink,
        progress: &dyn Fn(u64),
        patience: &mut Patience<'_>,
    ) -> Result<Option<Trouble>> {
        let limit = what.limit_bytes.unwrap_or(LIMIT_BYTES);
        let window = patience.client.settings().stall_timeout;
        let (mut since, mut before) = (Instant::now(), self.bytes);
        let mut fresh = 0;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if since.elapsed() > window {
                if self.bytes - before < WINDOW_BYTES_MIN {
                    let (got, seconds) = (self.bytes - before, window.as_secs_f32());
                    return Ok(Some(Trouble {
                        why: format!("only {got} bytes came in {seconds} seconds"),
                        wait: None,
                    }));
                }
                (since, before) = (Instant::now(), self.bytes);
            }
            let count = match answer.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Ok(Some(Trouble {
                        why: chain(&error),
                        wait: None,
                    }));
                }
            };
            self.bytes += count as u64;
            if self.bytes > limit {
                return Err(Error::TooLarge {
                    url: redacted(what.url),
                    limit,
                });
            }
            if sink.hashed().is_none() {
                self.hasher.update(&piece[..count]);
            }
            sink.take(&piece[..count]).map_err(|source| Error::Sink {
                url: redacted(what.url),
                source,
            })?;
            fresh += count as u64;
            if fresh >= RENEWING_BYTES {
                patience.renew();
            }
            progress(count as u64);
        }
        // A server that closes early without having said a length is found out by size and digest.
        match self.head.as_ref().and_then(|head| head.length) {
            Some(length) if self.bytes < length => Ok(Some(Trouble {
                why: format!("{} of {length} bytes came", self.bytes),
                wait: None,
            })),
            _ => Ok(None),
        }
    }

    fn finish(self, what: &Download<'_>, sink: &dyn Sink) -> Result<Outcome> {
        let hasher = sink.hashed().cloned().unwrap_or(self.hasher);
        let (digest, size_bytes) = hasher.finish();
        if let Some(expected) = what.size_bytes.filter(|expected| *expected != size_bytes) {
            return Err(Error::WrongSize {
                url: redacted(what.url),
                expected,
                actual: size_bytes,
            });
        }
        if let Some(expected) = what.digest.filter(|expected| *expected != digest) {
            return Err(Error::WrongDigest {
                url: redacted(what.url),
                expected,
                actual: digest,
            });
        }
        let head = self.head.unwrap_or_else(|| Head {
            url: redacted(what.url),
            validators: Validators::default(),
            length: None,
        });
        Ok(Outcome::Fetched(Fetched {
            head,
            digest,
            size_bytes,
        }))
    }
}

/// A failure that may be better in a moment.
pub(super) struct Trouble {
    pub(super) why: String,
    pub(super) wait: Option<Duration>,
}

impl Trouble {
    pub(super) fn of_error(url: &str, error: &reqwest::Error) -> Result<Self> {
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        while let Some(inner) = cause {
            if let Some(refusal) = inner.downcast_ref::<NotFollowed>() {
                return Err(Error::Redirect {
                    url: redacted(url),
                    to: refusal.to.clone(),
                    why: refusal.why,
                });
            }
            cause = inner.source();
        }
        if error.is_builder() {
            return Err(Error::Address {
                url: redacted(url),
                why: chain(error),
            });
        }
        // The address would be said twice, and with its credentials.
        let why =
            std::error::Error::source(error).map_or_else(|| "no connection".to_owned(), chain);
        Ok(Self { why, wait: None })
    }

    pub(super) fn of_status(url: &str, answer: &Response) -> Result<Self> {
        let status = answer.status();
        let reason = status.canonical_reason().unwrap_or("").to_owned();
        let passing = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        if !passing {
            return Err(Error::Status {
                url: redacted(url),
                status: status.as_u16(),
                reason,
            });
        }
        let wait = text(answer.headers(), &header::RETRY_AFTER)
            .and_then(|value| value.trim().parse().ok())
            .map(Duration::from_secs);
        Ok(Self {
            why: format!("{} {reason}", status.as_u16()),
            wait,
        })
    }
}

/// How often it is still tried.
pub(super) struct Patience<'a> {
    client: &'a Client<'a>,
    tried: u32,
}

impl<'a> Patience<'a> {
    pub(super) fn new(client: &'a Client<'a>) -> Self {
        Self { client, tried: 0 }
    }

    fn renew(&mut self) {
        self.tried = 0;
    }

    pub(super) fn pause(&mut self, trouble: Trouble, url: &str, bytes: u64) -> Result<()> {
        let retry = &self.client.settings().retry;
        self.tried += 1;
        if self.tried >= retry.attempts {
            let (url, attempts, why) = (redacted(url), self.tried, trouble.why);
            return Err(if bytes > 0 {
                Error::BrokenOff {
                    url,
                    bytes,
                    attempts,
                    why,
                }
            } else {
                Error::Unreachable { url, attempts, why }
            });
        }
        self.client
            .pause(url, &trouble.why, self.tried, trouble.wait);
        Ok(())
    }
}

fn begins_at(headers: &HeaderMap, offset: u64) -> bool {
    text(headers, &header::CONTENT_RANGE)
        .and_then(|range| {
            range
                .strip_prefix("bytes ")
                .and_then(|range| range.split_once('-'))
                .map(|(first, _)| first.to_owned())
        })
        .and_then(|first| first.trim().parse::<u64>().ok())
        == Some(offset)
}

fn read_head(answer: &Response) -> Head {
    let headers = answer.headers();
    Head {
        url: redacted(answer.url().as_str()),
        validators: Validators {
            etag: text(headers, &header::ETAG),
            last_modified: text(headers, &header::LAST_MODIFIED),
        },
        length: text(headers, &header::CONTENT_LENGTH)
            .and_then(|length| length.trim().parse().ok()),
    }
}

pub(super) fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    // Names of files come in UTF-8 now and then, which `to_str` refuses.
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
