//! One question and its answer, where more is wanted than a body: the status, the headers, a small body; and where
//! something is sent. What may be better in a moment is asked again, as a download is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use reqwest::blocking::{Body, RequestBuilder, Response};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method as Verb, StatusCode};

use super::address::{self, redacted};
use super::error::{Error, Result, chain};
use super::transfer::{Patience, Trouble, text};
use super::{Authorization, Client};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// How.
    pub method: Method,
    /// `http://` or `https://`.
    pub url: &'a str,
    /// Headers beside the usual ones.
    pub headers: &'a [(&'static str, String)],
    /// What the server wants to see.
    pub authorization: Option<&'a Authorization>,
    /// What is sent along.
    pub body: Payload<'a>,
    /// The most that is taken of the answer's body.
    pub limit_bytes: u64,
    /// How often it is asked where no answer comes, or one that says: not now.
    pub patience: Persistence,
}

/// The methods there are. Only what asks follows redirects: what is sent goes to whom it was meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asks for a body.
    Get,
    /// Asks for the head alone.
    Head,
    /// Sends something new.
    Post,
    /// Sends something to its place.
    Put,
    /// Sends a part.
    Patch,
    /// Takes something away.
    Delete,
}

/// What is sent along with a question.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Nothing.
    Nothing,
    /// Bytes, with their media type.
    Bytes(&'a str, &'a [u8]),
    /// A part of a file.
    File {
        /// The file.
        file: &'a File,
        /// Where the part begins.
        from: u64,
        /// How long it is.
        length: u64,
    },
}

/// How often something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// As [`super::Retry`] says.
    AsSet,
    /// Once: the caller knows what to do.
    Once,
}

/// An answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Where it came from in the end, after redirects.
    pub url: String,
    headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        text(&self.headers, &name.parse().ok()?)
    }

    /// All values of a header that may come more than once.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }

    /// Whether it is what was asked for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// As what ends a command.
    #[must_use]
    pub fn into_error(self) -> Error {
        let reason = StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("");
        Error::Status {
            url: redacted(&self.url),
            status: self.status,
            reason: reason.to_owned(),
        }
    }
}

impl Client<'_> {
    /// Asks, and gives the answer, whatever its status; only 408, 429 and 5xx are asked again, and are no answer in the end.
    ///
    /// # Errors
    /// If no answer comes, or one that cannot be taken; see [`Error`].
    pub fn ask(&self, question: &Question<'_>) -> Result<Answer> {
        let address = address::parse(question.url)?;
        let connections = match question.method {
            Method::Get | Method::Head => self.connections()?,
            Method::Post | Method::Put | Method::Patch | Method::Delete => {
                self.straight(&address)?
            }
        };
        let mut patience = Patience::new(self);
        loop {
            let verb = match question.method {
                Method::Get => Verb::GET,
                Method::Head => Verb::HEAD,
                Method::Post => Verb::POST,
                Method::Put => Verb::PUT,
                Method::Patch => Verb::PATCH,
                Method::Delete => Verb::DELETE,
            };
            let request = connections.request(verb, address.clone());
            let request = prepared(request, question, self.settings().stall_timeout)?;
            let trouble = match request.send() {
                Err(error) => Trouble::of_error(question.url, &error)?,
                Ok(answer) => match Trouble::of_status(question.url, &answer) {
                    Ok(trouble) => trouble,
                    // Anything else is for the caller to judge.
                    Err(_) => match read(answer, question)? {
                        Ok(answer) => return Ok(answer),
                        Err(trouble) => trouble,
                    },
                },
            };
            match question.patience {
                Persistence::AsSet => patience.pause(trouble, question.url, 0)?,
                Persistence::Once => {
                    return Err(Error::Unreachable {
                        url: redacted(question.url),
                        attempts: 1,
                        why: trouble.why,
                    });
                }
            }
        }
    }
}

/// Who takes less than this is not waited for.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;

fn prepared(
    mut request: RequestBuilder,
    question: &Question<'_>,
    stall_timeout: Duration,
) -> Result<RequestBuilder> {
    if let Some(authorization) = question.authorization {
        let mut value =
            HeaderValue::from_str(authorization.0.trim()).map_err(|_| Error::Authorization {
                url: redacted(question.url),
            })?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    for (name, value) in question.headers {
        request = request.header(*name, value);
    }
    Ok(match question.body {
        Payload::Nothing
            if matches!(question.method, Method::Post | Method::Put | Method::Patch) =>
        {
            request.header(header::CONTENT_LENGTH, 0)
        }
        Payload::Nothing => request,
        Payload::Bytes(kind, bytes) => request
            .header(header::CONTENT_TYPE, kind)
            .body(bytes.to_vec()),
        Payload::File { file, from, length } => {
            let unreadable = |source| Error::Sink {
                url: redacted(question.url),
                source,
            };
            let mut file = file.try_clone().map_err(unreadable)?;
            file.seek(SeekFrom::Start(from)).map_err(unreadable)?;
            // The answer comes only when all is sent, which may take its time.
            let sending = Duration::from_secs(length / SLOWEST_BYTES_PER_SECOND);
            request
                .timeout(stall_timeout + sending)
                .header(header::CONTENT_TYPE, "application/octet-stream")
                .body(Body::sized(file.take(length), length))
        }
    })
}

/// Takes the body; inside, an error is one that may be better in a moment.
fn read(answer: Response, question: &Question<'_>) -> Result<std::result::Result<Answer, Trouble>> {
    let (status, url) = (answer.status().as_u16(), answer.url().to_string());
    let headers = answer.headers().clone();
    let limit = question.limit_bytes;
    let too_large = || Error::TooLarge {
        url: redacted(question.url),
        limit,
    };
    let length = text(&headers, &header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
    let is_head = question.method == Method::Head;
    if !is_head && length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    if let Err(error) = answer.take(limit + 1).read_to_end(&mut body) {
        return Ok(Err(Trouble {
            why: chain(&error),
            wait: None,
        }));
    }
    if body.len() as u64 > limit {
        return Err(too_large());
    }
    match length {
        Some(length) if !is_head && (body.len() as u64) < length => Ok(Err(Trouble {
            why: format!("{} of {length} bytes came", body.len()),
            wait: None,
        })),
        _ => Ok(Ok(Answer {
            status,
            url,
            headers,
            body,
        })),
    }
}
