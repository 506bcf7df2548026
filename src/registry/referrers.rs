//! What refers to an image: signatures and the like, which name it as their `subject`. A registry lists them when it is asked
//! (OCI Distribution 1.1); where it does not know that question, they are listed by an index that has the image's digest as
//! its tag, which whoever pushes a referrer keeps up to date.

use super::error::{Error, Result};
use super::host::Call;
use super::pull::{At, pull_scope};
use super::{Document, Registries};
use crate::digest::Digest;
use crate::image::{Content, Descriptor, Index, MediaTypes, Name, media_type};
use crate::net::{self, Method};

/// An answer comes in this many parts at most.
const PAGES_MAX: usize = 64;

impl Registries<'_> {
    /// What refers to a manifest of a repository, as far as the registry knows.
    ///
    /// # Errors
    /// If it cannot be asked, or answers something else than an index.
    pub fn referrers(&self, name: &Name, digest: &Digest) -> Result<Vec<Descriptor>> {
        self.tried(name, |host, repository| {
            let at = At {
                host,
                repository,
                name,
            };
            at.referrers(digest)
        })
    }
}

/// The tag of the index that lists what refers to a manifest.
pub(super) fn fallback_tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

/// What a manifest or index refers to.
pub(super) fn subject(content: &Content) -> Option<Descriptor> {
    let other = match content {
        Content::Manifest(manifest) => &manifest.other,
        Content::Index(index) => &index.other,
    };
    serde_json::from_value(other.get("subject")?.clone()).ok()
}

/// What an index says of something that refers to a manifest.
fn listed(descriptor: &Descriptor, content: &Content) -> Descriptor {
    let (other, config, notes) = match content {
        Content::Manifest(manifest) => (
            &manifest.other,
            Some(manifest.config.media_type.clone()),
            &manifest.annotations,
        ),
        Content::Index(index) => (&index.other, None, &index.annotations),
    };
    let own = other.get("artifactType").and_then(|kind| kind.as_str());
    let mut listed = Descriptor {
        annotations: notes.clone(),
        ..descriptor.clone()
    };
    if let Some(kind) = own.map(str::to_owned).or(config) {
        listed.other.insert("artifactType".to_owned(), kind.into());
    }
    listed
}

/// The index of what refers to a manifest, with one thing more; `None`: it is in it.
pub(super) fn with_referrer(
    known: Option<Document>,
    descriptor: &Descriptor,
    content: &Content,
) -> Option<(Descriptor, Vec<u8>)> {
    let mut index = match known.map(|known| known.content) {
        Some(Content::Index(index)) => index,
        Some(Content::Manifest(_)) | None => Index::new(MediaTypes::Oci, Vec::new()),
    };
    let is_there = |known: &Descriptor| known.digest == descriptor.digest;
    if index.manifests.iter().any(is_there) {
        return None;
    }
    index.manifests.push(listed(descriptor, content));
    let bytes = index.to_bytes();
    Some((Descriptor::of(media_type::INDEX, &bytes), bytes))
}

impl At<'_> {
    fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        let what = format!("what refers to `{}@{digest}`", self.repository);
        let scopes = [pull_scope(self.repository)];
        let headers = [("accept", media_type::INDEX.to_owned())];
        let mut path = format!("{}/referrers/{digest}", self.repository);
        let mut found = Vec::new();
        for page in 0..PAGES_MAX {
            let call = Call {
                headers: &headers,
                limit_bytes: Content::BYTES_MAX,
                ..Call::new(Method::Get, &path, self.repository, &scopes, &what)
            };
            let answer = self.host.ask(&call)?;
            let kind = answer.header("content-type").unwrap_or_default();
            if page == 0 && (answer.status != 200 || !kind.starts_with(media_type::INDEX)) {
                // It does not know the question.
                return self.listed_by_tag(digest);
            }
            let index = match Content::parse(media_type::INDEX, &answer.body) {
                Ok(Content::Index(index)) if answer.status == 200 => index,
                _ => return Err(self.host.odd(&what, &answer)),
            };
            found.extend(index.manifests);
            match next_page(&answer) {
                Some(next) => path = next,
                None => return Ok(found),
            }
        }
        let why = format!("its answer has more than {PAGES_MAX} parts");
        Err(self.host.damaged(&what, why))
    }

    fn listed_by_tag(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        match self.document(&fallback_tag(digest), None, None) {
            Ok(Document {
                content: Content::Index(index),
                ..
            }) => Ok(index.manifests),
            Ok(_) | Err(Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// `Link: </v2/…>; rel="next"`.
fn next_page(answer: &net::Answer) -> Option<String> {
    let links = answer.headers("link");
    let link = links.iter().find(|link| link.contains("rel=\"next\""))?;
    let target = link.split_once('<')?.1.split_once('>')?.0;
    let next = net::resolved(&answer.url, target)?;
    net::same_origin(&next, &answer.url).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_is_listed_once_with_what_it_is() {
        let text = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"text/x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[],"subject":{"mediaType":"m","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"annotations":{"a":"b"}}"#;
        let content = Content::parse(media_type::MANIFEST, text).unwrap();
        let descriptor = Descriptor::of(media_type::MANIFEST, text);
        assert_eq!(subject(&content).unwrap().size, 2);
        let (first, bytes) = with_referrer(None, &descriptor, &content).unwrap();
        let index = Content::parse(media_type::INDEX, &bytes).unwrap();
        let Content::Index(listed) = &index else {
            panic!("an index");
        };
        assert_eq!(listed.manifests[0].other["artifactType"], "text/x");
        assert_eq!(listed.manifests[0].annotations["a"], "b");
        let known = Document {
            descriptor: first,
            content: index,
            bytes,
        };
        assert!(with_referrer(Some(known), &descriptor, &content).is_none());
    }
}
