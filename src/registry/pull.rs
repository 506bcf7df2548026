//! Images from registries: a manifest by its name, its configuration, its layers. Every document and every layer is what its
//! digest says before it gets its name in the store.

use std::io;

use super::Registries;
use super::error::{Error, Result};
use super::host::{Call, Host};
use super::token::Scope;
use crate::digest::{Digest, Hasher};
use crate::image::{
    Content, Descriptor, ImageConfig, Manifest, Name, Platform, choice, media_type,
};
use crate::net::{self, Download, Method, Outcome};
use crate::store::{BlobWriter, Growing, Store, StoreError};

/// An index may name an index, and so on, this often (limit `manifest.max_depth`).
pub(super) const DEPTH_MAX: usize = 4;
/// What a manifest may be; the first schema is named so that it can be refused by name.
const ACCEPTED: [&str; 4] = [
    media_type::MANIFEST,
    media_type::INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_INDEX,
];

/// A manifest or index as it came.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// What it says.
    pub content: Content,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a name stands for on a platform.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the name itself stands for: the manifest, or an index that names it.
    pub listed: Digest,
    /// The manifest.
    pub descriptor: Descriptor,
    /// What it says.
    pub manifest: Manifest,
    /// Its bytes.
    pub manifest_bytes: Vec<u8>,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its bytes.
    pub config_bytes: Vec<u8>,
}

impl Registries<'_> {
    /// Finds out what a name stands for on a platform. Manifest and configuration, and the indices on the way to them, are
    /// blobs of the store then.
    ///
    /// # Errors
    /// If it is not to be had; see [`Error`].
    pub fn resolve(&self, store: &Store, name: &Name, platform: &Platform) -> Result<Resolved> {
        self.tried(name, |host, repository| {
            At {
                host,
                repository,
                name,
            }
            .resolve(store, platform)
        })
    }

    /// The manifest or index that a name stands for, which is kept nowhere.
    ///
    /// # Errors
    /// If it is not to be had; see [`Error`].
    pub fn document(&self, name: &Name) -> Result<Document> {
        self.tried(name, |host, repository| {
            At {
                host,
                repository,
                name,
            }
            .document(&reference(name), name.digest, None)
        })
    }

    /// Fetches a blob of an image into the store; nothing, if it is there. `progress` is told how many bytes came. Returns how
    /// many came in all.
    ///
    /// # Errors
    /// If it is not to be had; see [`Error`].
    pub fn fetch(
        &self,
        store: &Store,
        name: &Name,
        descriptor: &Descriptor,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<u64> {
        self.fetch_for(store, name, descriptor, progress, None)
    }

    /// The same for someone who reads the blob while it comes.
    ///
    /// # Errors
    /// If it is not to be had; see [`Error`].
    pub fn fetch_for(
        &self,
        store: &Store,
        name: &Name,
        descriptor: &Descriptor,
        progress: &(dyn Fn(u64) + Sync),
        reader: Option<&Growing>,
    ) -> Result<u64> {
        let is_here = || {
            store
                .blob_size(&descriptor.digest)
                .is_ok_and(|size| size == descriptor.size)
        };
        if is_here() {
            return Ok(0);
        }
        // Of several that need the same, one fetches it.
        let _lease = store.lock(&format!("blob {}", descriptor.digest))?;
        if is_here() {
            return Ok(0);
        }
        self.tried(name, |host, repository| {
            At {
                host,
                repository,
                name,
            }
            .fetch(store, descriptor, progress, reader)
        })
    }

    /// A blob that is small enough to be held in memory, and is kept nowhere.
    pub(super) fn small_blob(&self, name: &Name, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.tried(name, |host, repository| {
            At {
                host,
                repository,
                name,
            }
            .small_blob(descriptor)
        })
    }

    /// What the best place gives that gives anything. What the others said is lost unless none does.
    pub(super) fn tried<T>(
        &self,
        name: &Name,
        mut one: impl FnMut(&Host<'_>, &str) -> Result<T>,
    ) -> Result<T> {
        let mut failure = None;
        for (host, repository) in self.endpoints(name)? {
            match one(&host, &repository) {
                Ok(found) => return Ok(found),
                Err(error) if error.is_local() => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Unusable {
            name: name.to_string(),
            why: "nothing says where it is".to_owned(),
        }))
    }
}

/// The tag or digest that is asked for; a digest says more.
fn reference(name: &Name) -> String {
    match (&name.digest, &name.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.clone(),
        (None, None) => "latest".to_owned(),
    }
}

pub(super) fn pull_scope(repository: &str) -> Scope {
    format!("repository:{repository}:pull")
}

/// An image at one place.
pub(super) struct At<'a> {
    pub(super) host: &'a Host<'a>,
    pub(super) repository: &'a str,
    pub(super) name: &'a Name,
}

impl At<'_> {
    fn resolve(&self, store: &Store, platform: &Platform) -> Result<Resolved> {
        let mut document = self.document(&reference(self.name), self.name.digest, None)?;
        let listed = document.descriptor.digest;
        let mut named_platform = None;
        for _ in 0..=DEPTH_MAX {
            keep(store, &document.descriptor.digest, &document.bytes)?;
            let index = match document.content {
                Content::Index(index) => index,
                Content::Manifest(manifest) => {
                    let (config, config_bytes) =
                        self.config(store, &manifest, named_platform.is_some(), platform)?;
                    return Ok(Resolved {
                        listed,
                        descriptor: Descriptor {
                            platform: named_platform,
                            ..document.descriptor
                        },
                        manifest: *manifest,
                        manifest_bytes: document.bytes,
                        config,
                        config_bytes,
                    });
                }
            };
            let chosen = choice::choose(&index.manifests, platform, None)
                .map_err(|has| self.no_platform(platform, has))?;
            named_platform.clone_from(&chosen.platform);
            document = self.document(
                &chosen.digest.to_string(),
                Some(chosen.digest),
                Some(chosen),
            )?;
        }
        Err(self.unusable(format!(
            "its indices are nested more than {DEPTH_MAX} deep (limit `manifest.max_depth`)"
        )))
    }

    pub(super) fn document(
        &self,
        reference: &str,
        digest: Option<Digest>,
        listed: Option<&Descriptor>,
    ) -> Result<Document> {
        let what = format!("manifest `{}:{reference}`", self.repository);
        let what = what.replace(":sha256:", "@sha256:");
        let path = format!("{}/manifests/{reference}", self.repository);
        let headers = [("accept", ACCEPTED.join(", "))];
        let scopes = [pull_scope(self.repository)];
        let call = Call {
            headers: &headers,
            limit_bytes: Content::BYTES_MAX,
            ..Call::new(Method::Get, &path, self.repository, &scopes, &what)
        };
        let answer = self.got(&call)?;
        let found = Digest::of(&answer.body);
        let said = answer
            .header("docker-content-digest")
            .filter(|said| said.starts_with("sha256:"));
        let expected = digest.map(|digest| digest.to_string()).or(said);
        if let Some(expected) = expected.filter(|expected| *expected != found.to_string()) {
            return Err(self
                .host
                .damaged(&what, format!("it should be {expected}, and is {found}")));
        }
        if let Some(listed) = listed.filter(|listed| listed.size != answer.body.len() as u64) {
            let why = format!(
                "it should have {} bytes, and has {}",
                listed.size,
                answer.body.len()
            );
            return Err(self.host.damaged(&what, why));
        }
        let said = answer.header("content-type").unwrap_or_default();
        let said = said
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        // Servers of plain files do not know what they serve: the document says it itself.
        let kind = match said.as_str() {
            "application/json"
            | "text/plain"
            | "application/octet-stream"
            | "binary/octet-stream" => "",
            said => said,
        };
        let unusable = |source| Error::Manifest {
            name: self.name.to_string(),
            source,
        };
        let content = match kind.starts_with("application/vnd.docker.distribution.manifest.v1+") {
            true => Content::parse("", &answer.body),
            false => Content::parse(kind, &answer.body),
        }
        .map_err(unusable)?;
        let own = match &content {
            Content::Manifest(manifest) => (&manifest.media_type, media_type::MANIFEST),
            Content::Index(index) => (&index.media_type, media_type::INDEX),
        };
        let kind = match kind {
            "" => own.0.as_deref().unwrap_or(own.1),
            kind => kind,
        };
        if let Some(listed) = listed.filter(|listed| listed.media_type != kind) {
            let why = format!("it was named as `{}`, and is `{kind}`", listed.media_type);
            return Err(self.host.damaged(&what, why));
        }
        Ok(Document {
            descriptor: Descriptor::new(kind, found, answer.body.len() as u64),
            content,
            bytes: answer.body,
        })
    }

    fn config(
        &self,
        store: &Store,
        manifest: &Manifest,
        is_listed: bool,
        platform: &Platform,
    ) -> Result<(ImageConfig, Vec<u8>)> {
        let unusable = |why: String| self.unusable(why);
        choice::check_manifest(manifest).map_err(unusable)?;
        if manifest.config.size > Content::BYTES_MAX {
            let size = manifest.config.size;
            let limit = Content::BYTES_MAX;
            return Err(unusable(format!(
                "its configuration is said to have {size} bytes; {limit} is the limit (`manifest.max_bytes`)"
            )));
        }
        if !store.has_blob(&manifest.config.digest) {
            self.fetch(store, &manifest.config, &|_| (), None)?;
        }
        let bytes = store.read_blob(&manifest.config.digest, Content::BYTES_MAX)?;
        let config = choice::check_config(manifest, &bytes).map_err(unusable)?;
        let its = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        if !is_listed && !config.architecture.is_empty() && !its.is_same_as(platform) {
            return Err(self.no_platform(platform, its.to_string()));
        }
        Ok((config, bytes))
    }

    fn fetch(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        progress: &dyn Fn(u64),
        reader: Option<&Growing>,
    ) -> Result<u64> {
        let digest = descriptor.digest;
        let what = format!("blob `{}@{digest}`", self.repository);
        let path = format!("{}/blobs/{digest}", self.repository);
        let url = self.host.url(&path)?;
        let scopes = [pull_scope(self.repository)];
        let mut authorization = self.host.authorization(&scopes, self.repository)?;
        let mut is_second = false;
        loop {
            let mut sink = BlobSink {
                store,
                writer: None,
                reader,
                failure: None,
            };
            let wanted = Download {
                url: &url,
                digest: Some(digest),
                size_bytes: Some(descriptor.size),
                limit_bytes: Some(descriptor.size),
                authorization: authorization.as_ref(),
                is_immutable: true,
                ..Download::default()
            };
            let source = match self.host.client().download(&wanted, &mut sink, progress) {
                Ok(Outcome::Fetched(_)) => return Ok(sink.finish(&digest)?),
                Ok(Outcome::NotModified(_)) => {
                    let why =
                        "the answer is 304, to a question that nothing was known for".to_owned();
                    return Err(self.host.damaged(&what, why));
                }
                Err(error) => error,
            };
            return Err(match source {
                net::Error::Status { status: 401, .. } if !is_second => {
                    is_second = true;
                    // What it wants to see, it says to any question.
                    let call = Call::new(Method::Head, &path, self.repository, &scopes, &what);
                    self.host.ask(&call)?;
                    authorization = self.host.authorization(&scopes, self.repository)?;
                    continue;
                }
                net::Error::Status { status: 404, .. } if !descriptor.urls.is_empty() => {
                    Error::ForeignLayer {
                        registry: self.host.name.clone(),
                        digest,
                    }
                }
                net::Error::Status { status: 404, .. } => Error::NotFound {
                    registry: self.host.name.clone(),
                    what,
                    answer: String::new(),
                },
                net::Error::WrongDigest {
                    expected, actual, ..
                } => self
                    .host
                    .damaged(&what, format!("it should be {expected}, and is {actual}")),
                net::Error::WrongSize {
                    expected, actual, ..
                } => self.host.damaged(
                    &what,
                    format!("it should have {expected} bytes, and has {actual}"),
                ),
                net::Error::TooLarge { limit, .. } => self
                    .host
                    .damaged(&what, format!("it should have {limit} bytes, and has more")),
                net::Error::Sink { .. } if sink.failure.is_some() => {
                    let failure = sink.failure.take();
                    failure.map_or_else(
                        || self.unusable("it cannot be kept".to_owned()),
                        Error::Store,
                    )
                }
                source => self.host.failed(&what, source),
            });
        }
    }

    /// What is asked for; any other answer is an error.
    fn got(&self, call: &Call<'_>) -> Result<net::Answer> {
        let answer = self.host.ask(call)?;
        match answer.status {
            200 => Ok(answer),
            _ => Err(self.host.odd(call.what, &answer)),
        }
    }

    fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("blob `{}@{}`", self.repository, descriptor.digest);
        let path = format!("{}/blobs/{}", self.repository, descriptor.digest);
        let scopes = [pull_scope(self.repository)];
        let call = Call {
            limit_bytes: Content::BYTES_MAX,
            ..Call::new(Method::Get, &path, self.repository, &scopes, &what)
        };
        let answer = self.got(&call)?;
        let found = Digest::of(&answer.body);
        match found == descriptor.digest {
            true => Ok(answer.body),
            false => {
                let why = format!("it should be {}, and is {found}", descriptor.digest);
                Err(self.host.damaged(&what, why))
            }
        }
    }

    fn unusable(&self, why: String) -> Error {
        Error::Unusable {
            name: self.name.to_string(),
            why,
        }
    }

    fn no_platform(&self, platform: &Platform, has: String) -> Error {
        Error::NoPlatform {
            name: self.name.to_string(),
            wanted: platform.to_string(),
            has,
        }
    }
}

fn keep(store: &Store, digest: &Digest, bytes: &[u8]) -> Result<()> {
    if !store.has_blob(digest) {
        store.put_expecting(bytes, digest)?;
    }
    Ok(())
}

/// A blob in the making, which may have to begin again.
struct BlobSink<'a> {
    store: &'a Store,
    writer: Option<BlobWriter>,
    reader: Option<&'a Growing>,
    failure: Option<StoreError>,
}

impl BlobSink<'_> {
    fn finish(mut self, digest: &Digest) -> std::result::Result<u64, StoreError> {
        match self.writer.take() {
            Some(writer) => writer.finish_expecting(digest),
            None => self.store.put_expecting(io::empty(), digest),
        }
    }
}

impl net::Sink for BlobSink<'_> {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(writer) = &mut self.writer else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        io::Write::write_all(writer, piece)?;
        if let Some(reader) = self.reader {
            reader.add(piece.len() as u64);
        }
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        match self.store.blob_writer() {
            Ok(writer) => {
                if let Some(reader) = self.reader {
                    reader.begin(&writer)?;
                }
                self.writer = Some(writer);
                Ok(())
            }
            Err(error) => {
                self.failure = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn hashed(&self) -> Option<&Hasher> {
        self.writer.as_ref().map(BlobWriter::hasher)
    }
}
