//! `shmocker load`: images from the archives of others, and from OCI layouts, into the store. Every blob is checked against
//! what names it; nothing is unpacked yet, and nothing gets a name before all of its image is there.
//!
//! An OCI layout (image-layout.md) is taken by its index. What `docker save` and `podman save` write without one is taken
//! by its `manifest.json`: the layers stay as they are, and a manifest is made that names them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::base;
use super::source::oci_layout::Verified;
use super::tree::archive;
use crate::digest::Digest;
use crate::image::{
    Content, Descriptor, ImageConfig, Manifest, MediaTypes, Name, Platform, annotation,
    layer_compression, media_type,
};
use crate::store::{Store, StoreError, StoredImage, TmpDir};
use crate::sys::root::{Root, Scope};

/// An image that is in the store now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its names, in full.
    pub names: Vec<String>,
    /// Its manifest.
    pub digest: Digest,
}

/// Why images cannot be loaded.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// It cannot be read at all.
    #[error("`{name}` cannot be read")]
    #[diagnostic(code(load::unreadable))]
    Unreadable {
        /// What was given.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("there is no image in `{name}`: {reason}")]
    #[diagnostic(
        code(load::no_image),
        help(
            "what can be loaded is an archive of `docker save` or `podman save`, and an OCI layout as an archive or a directory; \
             `-` is standard input"
        )
    )]
    NoImage {
        /// What was given.
        name: String,
        /// What it lacks.
        reason: String,
    },
    /// It names what is not in it, or what is something else.
    #[error("`{name}` is damaged: {reason}")]
    #[diagnostic(code(load::damaged), help("write it again, or copy it again"))]
    Damaged {
        /// What was given.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// An image that is there for other platforms.
    #[error("the image {digest} in `{name}` is not there for {wanted}, but for {has}")]
    #[diagnostic(
        code(load::platform),
        help("save it for this platform, or load it on a machine of that one")
    )]
    Platform {
        /// What was given.
        name: String,
        /// The index.
        digest: Digest,
        /// This machine's platform.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// The store cannot take it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
}

/// Where images are loaded from.
#[derive(Debug)]
pub enum From {
    /// An OCI layout.
    Directory(PathBuf),
    /// An archive, compressed or not; it may be a pipe.
    Archive(File),
}

/// Loads all images of an archive or of a layout's directory. `name` is for messages.
///
/// # Errors
/// If there is none, one is not whole, or the store cannot be written.
pub fn load(
    store: &Store,
    from: From,
    name: &str,
    platform: &Platform,
    now_ms: u64,
) -> Result<Vec<Loaded>, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        name: name.to_owned(),
        source,
    };
    let files = match from {
        From::Directory(path) => {
            Files::Layout(Root::open_trusted(path, Scope::Beneath).map_err(unreadable)?)
        }
        From::Archive(mut file) => match file.stream_position() {
            Ok(_) => spooled(store, file, name)?,
            // How it is compressed is found out by looking at it twice, which a pipe does not allow.
            Err(_) => {
                let tmp = store.tmp_file()?;
                io::copy(&mut file, &mut tmp.file()).map_err(unreadable)?;
                spooled(store, File::open(tmp.path()).map_err(unreadable)?, name)?
            }
        },
    };
    let load = Load {
        store,
        files,
        name,
        platform,
        now_ms,
    };
    if let Some(index) = load.document("index.json")? {
        return load.layout(&index);
    }
    match load.document("manifest.json")? {
        Some(list) => load.docker(&list),
        None => Err(load.no_image("it has neither `index.json` nor `manifest.json`")),
    }
}

/// The files of an archive or a layout, by path.
enum Files {
    Layout(Root),
    Spooled {
        dir: TmpDir,
        members: BTreeMap<String, Member>,
    },
}

enum Member {
    /// In a file of this number.
    File(usize),
    /// Leads to another one.
    Link(String),
}

/// More members than any image has.
const MEMBERS_MAX: usize = 20_000;

/// Puts the files of an archive where they can be read in any order.
fn spooled(store: &Store, file: File, name: &str) -> Result<Files, LoadError> {
    let damaged = |error: &dyn std::fmt::Display| LoadError::Damaged {
        name: name.to_owned(),
        reason: error.to_string(),
    };
    let stream = archive::open(file, name)
        .map_err(|error| damaged(&error))?
        .ok_or_else(|| LoadError::NoImage {
            name: name.to_owned(),
            reason: "it is no archive".to_owned(),
        })?;
    let dir = store.tmp_dir()?;
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().map_err(|error| damaged(&error))? {
        let mut entry = entry.map_err(|error| damaged(&error))?;
        let Ok(path) = entry.path().map(|path| normal(&path)) else {
            continue;
        };
        if members.len() >= MEMBERS_MAX {
            return Err(damaged(&format_args!(
                "it has more than {MEMBERS_MAX} members"
            )));
        }
        let kind = entry.header().entry_type();
        let member = if kind.is_file() {
            let number = members.len();
            let mut to = dir
                .dir()
                .create_file(number.to_string(), 0o600)
                .map_err(|source| LoadError::Unreadable {
                    name: name.to_owned(),
                    source,
                })?;
            io::copy(&mut entry, &mut to).map_err(|error| damaged(&error))?;
            Member::File(number)
        } else if let (true, Ok(Some(target))) =
            (kind.is_symlink() || kind.is_hard_link(), entry.link_name())
        {
            let target = match (kind.is_symlink(), path.rsplit_once('/')) {
                (true, Some((parent, _))) => normal(&Path::new(parent).join(target)),
                _ => normal(&target),
            };
            Member::Link(target)
        } else {
            continue;
        };
        members.insert(path, member);
    }
    Ok(Files::Spooled { dir, members })
}

/// A path without `.` and `..`. It is a name among names and leads nowhere.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

struct Load<'a> {
    store: &'a Store,
    files: Files,
    name: &'a str,
    platform: &'a Platform,
    now_ms: u64,
}

/// One image of a `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

impl Load<'_> {
    fn layout(&self, index: &[u8]) -> Result<Vec<Loaded>, LoadError> {
        let index = match Content::parse("", index).map_err(|error| self.damaged(&error))? {
            Content::Index(index) => index,
            Content::Manifest(_) => {
                return Err(self.no_image("its `index.json` is a manifest"));
            }
        };
        let mut images: Vec<(Descriptor, Vec<String>)> = Vec::new();
        for entry in index.manifests.into_iter().filter(is_image) {
            let name = name_of(&entry);
            match images.iter_mut().find(|(it, _)| it.digest == entry.digest) {
                Some((_, names)) => names.extend(name),
                None => images.push((entry, name.into_iter().collect())),
            }
        }
        if images.is_empty() {
            return Err(self.no_image("its `index.json` lists none"));
        }
        let load = |(entry, names): (Descriptor, Vec<String>)| {
            let (manifest, bytes) = self.manifest(entry)?;
            self.take_layout_image(&manifest, &bytes, names)
        };
        images.into_iter().map(load).collect()
    }

    /// The manifest that a descriptor leads to, for this platform.
    fn manifest(&self, entry: Descriptor) -> Result<(Manifest, Vec<u8>), LoadError> {
        const DEPTH_MAX: usize = 4;
        let top = entry.digest;
        let mut entry = entry;
        for _ in 0..DEPTH_MAX {
            let bytes = self.blob_document(&entry)?;
            match Content::parse(&entry.media_type, &bytes).map_err(|error| self.damaged(&error))? {
                Content::Manifest(manifest) => return Ok((*manifest, bytes)),
                Content::Index(index) => {
                    let images: Vec<Descriptor> =
                        index.manifests.into_iter().filter(is_image).collect();
                    let platforms = images.iter().filter_map(|image| image.platform.as_ref());
                    let has = platforms.map(ToString::to_string).collect::<Vec<_>>();
                    let fits = |image: &&Descriptor| match &image.platform {
                        Some(platform) => platform.is_same_as(self.platform),
                        None => images.len() == 1,
                    };
                    entry =
                        images
                            .iter()
                            .find(fits)
                            .cloned()
                            .ok_or_else(|| LoadError::Platform {
                                name: self.name.to_owned(),
                                digest: top,
                                wanted: self.platform.to_string(),
                                has: match has.is_empty() {
                                    true => "none that it names".to_owned(),
                                    false => has.join(", "),
                                },
                            })?;
                }
            }
        }
        Err(self.damaged(&"its indices are nested too deep"))
    }

    fn take_layout_image(
        &self,
        manifest: &Manifest,
        bytes: &[u8],
        names: Vec<String>,
    ) -> Result<Loaded, LoadError> {
        if !matches!(
            manifest.config.media_type.as_str(),
            media_type::CONFIG | media_type::DOCKER_CONFIG
        ) {
            return Err(self.no_image(format!(
                "what it has is no container image, but a `{}`",
                manifest.config.media_type
            )));
        }
        let config_bytes = self.blob_document(&manifest.config)?;
        for layer in &manifest.layers {
            if layer_compression(&layer.media_type).is_none() {
                return Err(self.damaged(&format_args!(
                    "its layer {} is a `{}`, which is not known here",
                    layer.digest, layer.media_type
                )));
            }
            if !self.store.has_blob(&layer.digest) {
                let file = self.open(&blob_path(&layer.digest))?;
                self.put(Verified::new(file, layer))?;
            }
        }
        self.store(manifest, bytes, &config_bytes, names)
    }

    fn docker(&self, list: &[u8]) -> Result<Vec<Loaded>, LoadError> {
        let listed: Vec<Listed> =
            serde_json::from_slice(list).map_err(|error| self.damaged(&error))?;
        if listed.is_empty() {
            return Err(self.no_image("its `manifest.json` lists none"));
        }
        let mut loaded = Vec::new();
        for image in listed {
            let config_bytes = self
                .document(&image.config)?
                .ok_or_else(|| self.missing(&image.config))?;
            let mut layers = Vec::new();
            for path in &image.layers {
                let mut file = self.open(path)?;
                let mut magic = [0; 4];
                let unreadable = |source| LoadError::Unreadable {
                    name: self.name.to_owned(),
                    source,
                };
                let got = file.read(&mut magic).map_err(unreadable)?;
                file.rewind().map_err(unreadable)?;
                let kind = match &magic[..got] {
                    [0x1f, 0x8b, ..] => format!("{}+gzip", media_type::LAYER),
                    [0x28, 0xb5, 0x2f, 0xfd] => format!("{}+zstd", media_type::LAYER),
                    _ => media_type::LAYER.to_owned(),
                };
                let (digest, size) = self.put(file)?;
                layers.push(Descriptor::new(kind, digest, size));
            }
            let config = Descriptor::of(media_type::CONFIG, &config_bytes);
            let manifest = Manifest::new(MediaTypes::Oci, config, layers);
            let tags = image.repo_tags.unwrap_or_default();
            let names = tags.iter().filter_map(|tag| tag.parse::<Name>().ok());
            let names = names.map(|name| name.to_string()).collect();
            loaded.push(self.store(&manifest, &manifest.to_bytes(), &config_bytes, names)?);
        }
        Ok(loaded)
    }

    /// Puts the documents of an image whose layers are in the store beside them, and gives it its names.
    fn store(
        &self,
        manifest: &Manifest,
        bytes: &[u8],
        config_bytes: &[u8],
        names: Vec<String>,
    ) -> Result<Loaded, LoadError> {
        let config: ImageConfig =
            serde_json::from_slice(config_bytes).map_err(|error| self.damaged(&error))?;
        let layers =
            base::layers(&config, &manifest.layers).map_err(|error| self.damaged(&error))?;
        for layer in &layers {
            let plain = layer.descriptor.media_type == media_type::LAYER;
            if plain && layer.descriptor.digest != layer.diff_id {
                return Err(self.damaged(&format_args!(
                    "one of its layers is {}, where its configuration names {}",
                    layer.descriptor.digest, layer.diff_id
                )));
            }
        }
        // What is there must still be there when it is named.
        let _kept = self.store.keep_all()?;
        if let Some(layer) = manifest
            .layers
            .iter()
            .find(|layer| !self.store.has_blob(&layer.digest))
        {
            return Err(StoreError::NoSuchBlob {
                digest: layer.digest,
            }
            .into());
        }
        self.store.put(config_bytes)?;
        let (digest, _) = self.store.put(bytes)?;
        for name in names.iter().cloned().chain([digest.to_string()]) {
            self.store.put_image(&StoredImage {
                name,
                digest,
                stored_ms: self.now_ms,
                layers: layers.iter().map(|layer| layer.snapshot).collect(),
                pulled_from: None,
                base: None,
            })?;
        }
        Ok(Loaded { names, digest })
    }

    fn put(&self, content: impl Read) -> Result<(Digest, u64), LoadError> {
        self.store.put(content).map_err(|error| {
            let cause = std::error::Error::source(&error);
            let of_content = cause
                .and_then(|cause| cause.downcast_ref::<io::Error>())
                .filter(|cause| cause.kind() == io::ErrorKind::InvalidData);
            match of_content {
                Some(cause) => self.damaged(&format_args!("in one of its layers, {cause}")),
                None => error.into(),
            }
        })
    }

    /// A small blob, checked.
    fn blob_document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LoadError> {
        let path = blob_path(&descriptor.digest);
        let bytes = self.document(&path)?.ok_or_else(|| self.missing(&path))?;
        match Digest::of(&bytes) == descriptor.digest && bytes.len() as u64 == descriptor.size {
            true => Ok(bytes),
            false => Err(self.damaged(&format_args!("`{path}` is not what its name says"))),
        }
    }

    /// A small file, if it is there.
    fn document(&self, path: &str) -> Result<Option<Vec<u8>>, LoadError> {
        let unreadable = |source| LoadError::Unreadable {
            name: format!("{}/{path}", self.name),
            source,
        };
        let Some(file) = self.find(path).map_err(unreadable)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let limit = Content::BYTES_MAX;
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
        match bytes.len() as u64 > limit {
            true => Err(self.damaged(&format_args!(
                "`{path}` has more than {limit} bytes (limit `manifest.max_bytes`)"
            ))),
            false => Ok(Some(bytes)),
        }
    }

    fn open(&self, path: &str) -> Result<File, LoadError> {
        let found = self.find(path).map_err(|source| LoadError::Unreadable {
            name: format!("{}/{path}", self.name),
            source,
        })?;
        found.ok_or_else(|| self.missing(path))
    }

    fn find(&self, path: &str) -> io::Result<Option<File>> {
        let opened = match &self.files {
            Files::Layout(root) => root.file(path),
            Files::Spooled { dir, members } => {
                let mut path = normal(Path::new(path));
                // A link to a link is as far as old archives go.
                for _ in 0..8 {
                    match members.get(&path) {
                        Some(Member::Link(target)) => path.clone_from(target),
                        Some(Member::File(number)) => {
                            return dir.dir().open_file(number.to_string()).map(Some);
                        }
                        None => break,
                    }
                }
                return Ok(None);
            }
        };
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn missing(&self, path: &str) -> LoadError {
        self.damaged(&format_args!("it names `{path}`, which is not in it"))
    }

    fn no_image(&self, reason: impl Into<String>) -> LoadError {
        LoadError::NoImage {
            name: self.name.to_owned(),
            reason: reason.into(),
        }
    }

    fn damaged(&self, reason: &dyn std::fmt::Display) -> LoadError {
        LoadError::Damaged {
            name: self.name.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Attestations are listed beside images.
fn is_image(entry: &Descriptor) -> bool {
    !entry.annotations.contains_key("vnd.docker.reference.type")
}

/// The full name that a layout's entry has. A tag alone names no image.
fn name_of(entry: &Descriptor) -> Option<String> {
    let noted = |key: &str| entry.annotations.get(key);
    let name = noted(annotation::IMAGE_NAME)
        .or_else(|| noted(annotation::REF_NAME).filter(|name| name.contains(['/', ':'])))?;
    name.parse::<Name>().ok().map(|name| name.to_string())
}

fn blob_path(digest: &Digest) -> String {
    PathBuf::from("blobs/sha256")
        .join(digest.hex())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_archives_lead_nowhere() {
        for (path, expected) in [
            ("./a/b", "a/b"),
            ("/a", "a"),
            ("a/../../../b", "b"),
            ("../x/layer.tar", "x/layer.tar"),
        ] {
            assert_eq!(normal(Path::new(path)), expected);
        }
    }

    #[test]
    fn a_tag_alone_names_no_image() {
        let entry = |key: &str, value: &str| {
            let mut entry = Descriptor::of(media_type::MANIFEST, b"");
            entry.annotations.insert(key.to_owned(), value.to_owned());
            name_of(&entry)
        };
        assert_eq!(entry(annotation::REF_NAME, "latest"), None);
        assert_eq!(
            entry(annotation::REF_NAME, "app:1").as_deref(),
            Some("docker.io/library/app:1")
        );
        assert_eq!(
            entry(annotation::IMAGE_NAME, "localhost/app").as_deref(),
            Some("localhost/app:latest")
        );
    }
}
