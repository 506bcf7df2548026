//! Images to registries: what is not there yet, blobs before the manifests that name them, and names last, so that no name
//! ever stands for something that is not whole.
//!
//! ```text
//! HEAD blob ──▶ there: done           (one that is small or can be taken over is not asked for where the image's first blob
//!     │                                is missing, nor one that another repository is known to have, and this one is not)
//!     └─▶ POST upload?mount=…&from=… ──▶ 201: taken over from another repository of the registry
//!             └─▶ 202: PUT all of it, or PATCH part by part and then PUT; broken off: GET says how far it came
//! ```

use super::Registries;
use super::error::{Error, Result};
use super::holders::Holders;
use super::host::{Call, Host};
use super::pull::{At, pull_scope};
use super::referrers;
use super::token::Scope;
use crate::digest::Digest;
use crate::image::{Content, Descriptor, Name};
use crate::net::{self, Answer, Method, Payload, Persistence};
use std::fs::File;

/// How many blobs are sent at once. Most are small, and what they wait for is the registry's disk.
const SENT_AT_ONCE: usize = 12;
/// To send so little costs no more than to ask whether it is there.
const UNASKED_BYTES: u64 = 64 << 10;
/// What is larger is sent in parts of this size.
const PART_BYTES: u64 = 32 << 20;

/// What is sent.
#[derive(Clone, Copy)]
pub struct Push<'a> {
    /// To which repository. Its tag becomes that of the last manifest.
    pub name: &'a Name,
    /// What the manifests name, the lowest layer first.
    pub blobs: &'a [PushBlob<'a>],
    /// Those that others name first.
    pub manifests: &'a [(Descriptor, Vec<u8>)],
    /// Whether the last manifest gets the tag, or is found by its digest alone.
    pub is_tagged: bool,
}

impl std::fmt::Debug for Push<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Push")
            .field("name", self.name)
            .finish_non_exhaustive()
    }
}

/// Opens what is sent.
pub type Opener<'a> =
    &'a (dyn Fn() -> std::result::Result<File, Box<dyn std::error::Error + Send + Sync>> + Sync);

impl std::fmt::Debug for PushBlob<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PushBlob({})", self.digest)
    }
}

impl std::fmt::Debug for PushContent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PushContent")
    }
}

/// A blob that may have to be sent.
#[derive(Clone)]
pub struct PushBlob<'a> {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// An image that has it: the registry may take it from there.
    pub from: Option<Name>,
    /// Its content.
    pub content: PushContent<'a>,
}

/// The content of a blob.
#[derive(Clone, Copy)]
pub enum PushContent<'a> {
    /// At hand.
    Bytes(&'a [u8]),
    /// In a file, which is opened only if it has to be sent.
    File(Opener<'a>),
}

/// What it came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs that were sent.
    pub sent: u32,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: u32,
    /// Blobs that were there.
    pub there: u32,
    /// Bytes that were sent.
    pub bytes: u64,
}

impl std::ops::AddAssign for Pushed {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.mounted += more.mounted;
        self.there += more.there;
        self.bytes += more.bytes;
    }
}

impl Registries<'_> {
    /// Sends an image. `progress` is told how many bytes went.
    ///
    /// # Errors
    /// If it cannot be sent; see [`Error`]. Then no name was given.
    pub fn push(&self, push: &Push<'_>, progress: &(dyn Fn(u64) + Sync)) -> Result<Pushed> {
        let (host, repository) = self.destination(push.name)?;
        let to = To {
            host: &host,
            name: push.name,
            repository: &repository,
            scope: format!("repository:{repository}:pull,push"),
            retry: &self.net.retry,
            holders: Holders::of(self, (&host.name, &repository), push.blobs),
        };
        let Some(first) = push.blobs.first() else {
            return to.manifests(push).map(|()| Pushed::default());
        };
        // What everything else lies upon: where it is missing, so is nearly always the rest.
        let first_found = to.find(first, false)?;
        let is_new = first_found != Some(true);
        let blobs = net::fetch_all(push.blobs, SENT_AT_ONCE, |blob| {
            let found = match blob.digest == first.digest {
                true => first_found,
                false => to.find(blob, is_new)?,
            };
            match found {
                Some(true) => Ok(How::There),
                found => to.blob(blob, found.is_some(), progress),
            }
        })?;
        let mut pushed = Pushed::default();
        for (blob, how) in push.blobs.iter().zip(blobs) {
            match how {
                How::There => pushed.there += 1,
                How::Mounted => pushed.mounted += 1,
                How::Sent => {
                    pushed.sent += 1;
                    pushed.bytes += blob.size;
                }
            }
        }
        to.manifests(push)?;
        to.holders.remember(self, push.blobs);
        Ok(pushed)
    }
}

/// How a blob came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    There,
    Mounted,
    Sent,
}

/// Where it goes.
struct To<'a> {
    host: &'a Host<'a>,
    name: &'a Name,
    repository: &'a str,
    scope: Scope,
    retry: &'a net::Retry,
    holders: Holders,
}

/// What came of a part.
enum Part {
    Taken { location: String, upto: u64 },
    Lost,
}

impl To<'_> {
    /// Those that others name first, and the tag last.
    fn manifests(&self, push: &Push<'_>) -> Result<()> {
        for (place, (descriptor, bytes)) in push.manifests.iter().enumerate() {
            let is_last = place + 1 == push.manifests.len();
            let tag = push.name.tag.as_ref().filter(|_| is_last && push.is_tagged);
            self.manifest(descriptor, bytes, tag.map(String::as_str))?;
        }
        Ok(())
    }

    /// Whether a blob is there; `None`: to ask would cost more than to send it, or to have it taken over.
    fn find(&self, blob: &PushBlob<'_>, is_new: bool) -> Result<Option<bool>> {
        let is_taken_for_missing = match self.holders.is_here(&blob.digest) {
            true => false,
            // From here it went to this registry, and not to this repository.
            false if self.holders.is_elsewhere(&blob.digest) => true,
            false => is_new && (blob.size <= UNASKED_BYTES || self.holders.first(blob).is_some()),
        };
        match is_taken_for_missing {
            true => Ok(None),
            false => self.has(blob).map(Some),
        }
    }

    /// Sends one that seems to be missing, unless it can be taken over.
    fn blob(
        &self,
        blob: &PushBlob<'_>,
        mut is_asked: bool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<How> {
        let what = self.what(blob);
        let mut tried = 0;
        loop {
            let from = self.holders.first(blob);
            let Some(location) = self.begin(blob, from.as_deref(), &what)? else {
                return Ok(How::Mounted);
            };
            // Only because it was to be taken over was it not asked for.
            if from.is_some() && !is_asked && blob.size > UNASKED_BYTES && self.has(blob)? {
                return Ok(How::There);
            }
            is_asked = true;
            let opened = match blob.content {
                PushContent::Bytes(_) => None,
                PushContent::File(open) => Some(open().map_err(|source| Error::Unreadable {
                    digest: blob.digest,
                    source,
                })?),
            };
            let sent = match (&opened, blob.content) {
                (None, PushContent::Bytes(bytes)) => {
                    let payload = Payload::Bytes("application/octet-stream", bytes);
                    self.complete(blob, &location, payload, &what)
                }
                (Some(file), _) => self.send(blob, location, file, &what),
                (None, PushContent::File(_)) => return Ok(How::There),
            };
            match sent {
                Ok(()) => {
                    progress(blob.size);
                    return Ok(How::Sent);
                }
                Err(error) if is_begun_again(&error, blob) && tried + 1 < self.retry.attempts => {
                    self.pause(tried, &error);
                    tried += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn has(&self, blob: &PushBlob<'_>) -> Result<bool> {
        let what = &self.what(blob);
        let path = format!("{}/blobs/{}", self.repository, blob.digest);
        let answer = self.ask(&Call {
            limit_bytes: 0,
            ..self.call(Method::Head, &path, what)
        })?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(self.host.odd(what, &answer)),
        }
    }

    /// Where the content is to be sent; `None`: nowhere, the registry has it from another repository.
    fn begin(&self, blob: &PushBlob<'_>, from: Option<&str>, what: &str) -> Result<Option<String>> {
        let Some(from) = from else {
            return self.upload(blob, None, what);
        };
        match self.upload(blob, Some(from), what) {
            Ok(None) => Ok(None),
            Ok(location) => {
                self.holders.lacks(from, blob.digest);
                Ok(location)
            }
            // Whatever is said against that repository: nothing has to be taken over.
            Err(_) => {
                self.holders.is_closed(from);
                self.upload(blob, None, what)
            }
        }
    }

    fn upload(
        &self,
        blob: &PushBlob<'_>,
        from: Option<&str>,
        what: &str,
    ) -> Result<Option<String>> {
        let mut path = format!("{}/blobs/uploads/", self.repository);
        let mut scopes = vec![self.scope.clone()];
        if let Some(from) = from {
            path.push_str(&format!("?mount={}&from={from}", blob.digest));
            scopes.push(pull_scope(from));
        }
        let answer = self.ask(&Call::new(
            Method::Post,
            &path,
            self.repository,
            &scopes,
            what,
        ))?;
        match answer.status {
            201 => Ok(None),
            202 => self.location(&answer, what).map(Some),
            _ => Err(self.host.odd(what, &answer)),
        }
    }

    fn what(&self, blob: &PushBlob<'_>) -> String {
        format!("blob `{}@{}`", self.repository, blob.digest)
    }

    /// All of it at once, or part by part.
    fn send(
        &self,
        blob: &PushBlob<'_>,
        mut location: String,
        file: &File,
        what: &str,
    ) -> Result<()> {
        if blob.size <= PART_BYTES {
            let payload = Payload::File {
                file,
                from: 0,
                length: blob.size,
            };
            return self.complete(blob, &location, payload, what);
        }
        let (mut from, mut tried) = (0, 0);
        while from < blob.size {
            let length = PART_BYTES.min(blob.size - from);
            let part = match self.part(&location, file, from, length, what) {
                Ok(part) => part,
                Err(error) if is_passing(&error) && tried < self.retry.attempts => {
                    self.pause(tried, &error);
                    self.progress_of(&location, what)?
                }
                Err(error) => return Err(error),
            };
            match part {
                Part::Taken {
                    location: next,
                    upto,
                } if upto <= blob.size => {
                    tried = if upto > from { 0 } else { tried + 1 };
                    (location, from) = (next, upto);
                }
                _ => return Err(self.gone(what)),
            }
        }
        self.complete(blob, &location, Payload::Nothing, what)
    }

    fn part(
        &self,
        location: &str,
        file: &File,
        from: u64,
        length: u64,
        what: &str,
    ) -> Result<Part> {
        let range = format!("{from}-{}", from + length - 1);
        let headers = [("content-range", range)];
        let answer = self.ask(&Call {
            headers: &headers,
            body: Payload::File { file, from, length },
            patience: Persistence::Once,
            ..self.call(Method::Patch, location, what)
        })?;
        match answer.status {
            200..=299 => Ok(Part::Taken {
                location: self.location(&answer, what)?,
                upto: upto(&answer).unwrap_or(from + length),
            }),
            // It has more, or less, than was thought.
            416 => self.progress_of(location, what),
            404 => Ok(Part::Lost),
            _ => Err(self.host.odd(what, &answer)),
        }
    }

    /// How far an upload came.
    fn progress_of(&self, location: &str, what: &str) -> Result<Part> {
        let scopes = std::slice::from_ref(&self.scope);
        let answer = self.ask(&Call::new(
            Method::Get,
            location,
            self.repository,
            scopes,
            what,
        ))?;
        match (answer.status, upto(&answer)) {
            (200..=299, Some(upto)) => Ok(Part::Taken {
                location: self
                    .location(&answer, what)
                    .unwrap_or_else(|_| location.to_owned()),
                upto,
            }),
            _ => Ok(Part::Lost),
        }
    }

    /// Sends the last part, which may be all or nothing, and says what the whole is.
    fn complete(
        &self,
        blob: &PushBlob<'_>,
        location: &str,
        body: Payload<'_>,
        what: &str,
    ) -> Result<()> {
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={}", blob.digest);
        // What is sent whole begins anew with another upload.
        let patience = match body {
            Payload::Nothing => Persistence::AsSet,
            Payload::Bytes(..) | Payload::File { .. } => Persistence::Once,
        };
        let answer = self.ask(&Call {
            body,
            patience,
            ..self.call(Method::Put, &path, what)
        })?;
        match answer.status {
            200..=299 => Ok(()),
            404 => Err(self.gone(what)),
            _ => Err(self.host.odd(what, &answer)),
        }
    }

    fn manifest(&self, descriptor: &Descriptor, bytes: &[u8], tag: Option<&str>) -> Result<()> {
        let reference = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        let joint = if tag.is_some() { ':' } else { '@' };
        let what = format!("manifest `{}{joint}{reference}`", self.repository);
        let path = format!("{}/manifests/{reference}", self.repository);
        let answer = self.ask(&Call {
            body: Payload::Bytes(&descriptor.media_type, bytes),
            ..self.call(Method::Put, &path, &what)
        })?;
        if !answer.is_success() {
            return Err(self.host.odd(&what, &answer));
        }
        match answer.header("docker-content-digest") {
            Some(said) if said.starts_with("sha256:") && said != descriptor.digest.to_string() => {
                let why = format!(
                    "it was sent as {}, and is kept as {said}",
                    descriptor.digest
                );
                Err(self.host.damaged(&what, why))
            }
            // A registry that lists what refers to an image says so.
            _ if answer.header("oci-subject").is_some() => Ok(()),
            _ => self.refer(descriptor, bytes),
        }
    }

    /// Lists a manifest with what refers to its subject, if it has one.
    fn refer(&self, descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
        let Ok(content) = Content::parse(&descriptor.media_type, bytes) else {
            return Ok(());
        };
        let Some(subject) = referrers::subject(&content) else {
            return Ok(());
        };
        let tag = referrers::fallback_tag(&subject.digest);
        let at = At {
            host: self.host,
            repository: self.repository,
            name: self.name,
        };
        let known = match at.document(&tag, None, None) {
            Ok(known) => Some(known),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        match referrers::with_referrer(known, descriptor, &content) {
            Some((listed, bytes)) => self.manifest(&listed, &bytes, Some(&tag)),
            None => Ok(()),
        }
    }

    /// A call about the repository, with leave for it alone.
    fn call<'c>(&'c self, method: Method, path: &'c str, what: &'c str) -> Call<'c> {
        let scopes = std::slice::from_ref(&self.scope);
        Call::new(method, path, self.repository, scopes, what)
    }

    fn ask(&self, call: &Call<'_>) -> Result<Answer> {
        self.host.ask(call)
    }

    /// The address that an answer names.
    fn location(&self, answer: &Answer, what: &str) -> Result<String> {
        let odd = |why: &str| self.host.damaged(what, why.to_owned());
        let location = answer
            .header("location")
            .ok_or_else(|| odd("the answer names no place to send it to"))?;
        let base = &answer.url;
        let location = net::resolved(base, &location)
            .ok_or_else(|| odd("the place to send it to is no address"))?;
        if base.starts_with("https://") && !location.starts_with("https://") {
            return Err(odd(
                "the place to send it to leaves https for something else",
            ));
        }
        if net::is_own_address(&location) && !net::is_own_address(base) {
            return Err(odd(
                "the place to send it to is this machine or its own network link",
            ));
        }
        Ok(location)
    }

    fn gone(&self, what: &str) -> Error {
        Error::Request {
            registry: self.host.name.clone(),
            what: what.to_owned(),
            source: net::Error::BrokenOff {
                url: format!("the upload of {what}"),
                bytes: 0,
                attempts: 1,
                why: "the registry does not know the upload any more".to_owned(),
            },
        }
    }

    fn pause(&self, tried: u32, error: &Error) {
        let client = self.host.client();
        let url = self.host.url("").unwrap_or_default();
        client.pause(&url, &reason(error), tried + 1, None);
    }
}

/// Why a part did not arrive.
fn reason(error: &Error) -> String {
    match error {
        Error::Request {
            source: net::Error::Unreachable { why, .. } | net::Error::BrokenOff { why, .. },
            ..
        } => why.clone(),
        error => error.to_string(),
    }
}

/// Whether an upload is worth another beginning. One in parts has gone on by itself for as long as that was of use.
fn is_begun_again(error: &Error, blob: &PushBlob<'_>) -> bool {
    let is_lost = matches!(
        error,
        Error::Request {
            source: net::Error::BrokenOff { .. },
            ..
        }
    );
    is_lost || (blob.size <= PART_BYTES && is_passing(error))
}

/// Whether it may be better in a moment.
fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Request {
            source: net::Error::Unreachable { .. } | net::Error::BrokenOff { .. },
            ..
        }
    )
}

/// `Range: 0-41` means that 42 bytes are there; `0-0` stands for none in some registries, which then ask for the first again.
fn upto(answer: &Answer) -> Option<u64> {
    let range = answer.header("range")?;
    let last = range
        .trim()
        .trim_start_matches("bytes=")
        .split_once('-')?
        .1
        .parse::<u64>()
        .ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}
