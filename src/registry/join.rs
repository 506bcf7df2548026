//! Images of registries as one: an index of them all, which is sent to one name or more together with what it lists.

use super::Registries;
use super::copy::{Gathered, Selection};
use super::error::{Error, Result};
use super::pull::Document;
use super::push::Pushed;
use crate::image::{
    Content, Descriptor, ImageConfig, Index, MediaTypes, Name, Platform, media_type,
};
use crate::store::Store;

/// What an index is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinSource {
    /// An image, or an index of which every entry counts.
    pub name: Name,
    /// What more is said of it: platform and notes.
    pub descriptor: Option<Descriptor>,
}

/// How images become one.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// What they are. Of two that are the same the first has the place, and the last the say.
    pub sources: Vec<JoinSource>,
    /// Only what is for one of these, and what belongs to that; empty: all.
    pub platforms: Vec<Platform>,
    /// Notes of the index.
    pub notes: Vec<(String, String)>,
    /// Notes of what it lists, for one platform or for all.
    pub descriptor_notes: Vec<(Option<Platform>, String, String)>,
    /// What becomes of a single image.
    pub alone: Alone,
}

/// What becomes of a single image that is joined with nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// It is listed by an index.
    Listed,
    /// It stays what it is.
    AsItIs,
}

/// Images that are one.
#[derive(Debug)]
pub struct Joined {
    /// What a name that it is sent to stands for.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it lists, each with the name of a repository that has it.
    parts: Vec<(Name, Descriptor)>,
}

/// The annotation with which an index says what an attestation is of.
const ATTESTED: &str = "vnd.docker.reference.digest";

impl Registries<'_> {
    /// What images are together. Nothing is sent.
    ///
    /// # Errors
    /// If one is not to be had, or cannot be listed.
    pub fn join(&self, join: &Join) -> Result<Joined> {
        let mut parts: Vec<(Name, Descriptor)> = Vec::new();
        let mut found = Vec::new();
        for source in &join.sources {
            let document = self.document(&source.name)?;
            match &document.content {
                Content::Index(index) => {
                    for listed in &index.manifests {
                        add(&mut parts, &source.name, listed.clone());
                    }
                }
                Content::Manifest(_) => {
                    let descriptor = self.described(source, &document)?;
                    add(&mut parts, &source.name, descriptor);
                }
            }
            found.push(document);
        }
        let all = parts.len();
        if !join.platforms.is_empty() {
            only(&mut parts, &join.platforms);
            if parts.is_empty() {
                let wanted: Vec<String> = join.platforms.iter().map(Platform::to_string).collect();
                return Err(Error::NoPlatform {
                    name: join.sources[0].name.to_string(),
                    wanted: wanted.join(", "),
                    has: "other platforms".to_owned(),
                });
            }
        }
        let has_notes = !join.notes.is_empty() || !join.descriptor_notes.is_empty();
        if let [document] = found.as_slice()
            && !has_notes
            && parts.len() == all
            && (matches!(document.content, Content::Index(_)) || join.alone == Alone::AsItIs)
        {
            return Ok(Joined {
                descriptor: document.descriptor.clone(),
                bytes: document.bytes.clone(),
                parts,
            });
        }
        for (platform, key, value) in &join.descriptor_notes {
            for (_, listed) in &mut parts {
                let is_meant = platform.as_ref().is_none_or(|platform| {
                    let its = listed.platform.as_ref();
                    its.is_some_and(|its| its.is_same_as(platform))
                });
                if is_meant {
                    listed.annotations.insert(key.clone(), value.clone());
                }
            }
        }
        let is_docker = |(_, listed): &(Name, Descriptor)| {
            listed.media_type.starts_with("application/vnd.docker.")
        };
        // Docker's own list has no place for notes.
        let types = match parts.iter().all(is_docker) && !has_notes {
            true => MediaTypes::Docker,
            false => MediaTypes::Oci,
        };
        let mut index = Index::new(
            types,
            parts.iter().map(|(_, listed)| listed.clone()).collect(),
        );
        index.annotations.extend(join.notes.iter().cloned());
        let bytes = index.to_bytes();
        Ok(Joined {
            descriptor: Descriptor::of(types.index(), &bytes),
            bytes,
            parts,
        })
    }

    /// Sends what was joined to a name, with all that it lists. Blobs that the other side lacks, and cannot take over itself,
    /// go by way of the store.
    ///
    /// # Errors
    /// If a part is not to be had, or cannot be sent.
    pub fn send_joined(
        &self,
        store: &Store,
        joined: &Joined,
        to: &Name,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed> {
        let mut gathered = Gathered::default();
        for (name, listed) in &joined.parts {
            let part = name.with_digest(listed.digest);
            self.gather(&part, &Selection::All, &mut gathered, 0)?;
        }
        let is_itself =
            |(known, _): &(Descriptor, Vec<u8>)| known.digest == joined.descriptor.digest;
        if !gathered.manifests.iter().any(is_itself) {
            let whole = (joined.descriptor.clone(), joined.bytes.clone());
            gathered.manifests.push(whole);
        }
        self.send(store, &gathered, to, progress)
    }

    /// The configuration of an image, which is kept nowhere; `None`: it is something else than a container image.
    ///
    /// # Errors
    /// If it is not to be had, or is not well formed.
    pub fn config(&self, name: &Name, document: &Document) -> Result<Option<ImageConfig>> {
        let Content::Manifest(manifest) = &document.content else {
            return Ok(None);
        };
        let kind = manifest.config.media_type.as_str();
        if !matches!(kind, media_type::CONFIG | media_type::DOCKER_CONFIG) {
            return Ok(None);
        }
        let bytes = self.small_blob(name, &manifest.config)?;
        let config = serde_json::from_slice(&bytes).map_err(|error| Error::Unusable {
            name: name.to_string(),
            why: format!("its configuration is not well formed: {error}"),
        })?;
        Ok(Some(config))
    }

    /// How an index lists an image: with the platform that is said of it, else with that of its configuration.
    fn described(&self, source: &JoinSource, document: &Document) -> Result<Descriptor> {
        let given = source.descriptor.as_ref();
        let mut listed = document.descriptor.clone();
        if let Some(given) = given {
            listed.annotations.clone_from(&given.annotations);
            listed.platform.clone_from(&given.platform);
            listed.other.clone_from(&given.other);
        }
        if listed.platform.is_none()
            && let Some(config) = self.config(&source.name, document)?
            && !config.architecture.is_empty()
        {
            let mut platform =
                Platform::new(&config.os, &config.architecture, config.variant.as_deref());
            for key in ["os.version", "os.features"] {
                if let Some(value) = config.other.get(key) {
                    platform.other.insert(key.to_owned(), value.clone());
                }
            }
            listed.platform = Some(platform);
        }
        Ok(listed)
    }
}

fn add(parts: &mut Vec<(Name, Descriptor)>, name: &Name, listed: Descriptor) {
    let same = parts
        .iter_mut()
        .find(|(_, known)| known.digest == listed.digest);
    match same {
        Some((_, known)) => {
            known.annotations.extend(listed.annotations);
            known.platform = listed.platform.or_else(|| known.platform.take());
        }
        None => parts.push((name.clone(), listed)),
    }
}

/// What is for one of the platforms, and the attestations of that.
fn only(parts: &mut Vec<(Name, Descriptor)>, platforms: &[Platform]) {
    let is_wanted = |listed: &Descriptor| {
        let its = listed.platform.as_ref();
        its.is_some_and(|its| platforms.iter().any(|wanted| wanted.is_same_as(its)))
    };
    let kept: Vec<String> = parts
        .iter()
        .filter(|(_, listed)| is_wanted(listed))
        .map(|(_, listed)| listed.digest.to_string())
        .collect();
    parts.retain(|(_, listed)| {
        kept.contains(&listed.digest.to_string())
            || listed
                .annotations
                .get(ATTESTED)
                .is_some_and(|of| kept.contains(of))
    });
}
