//! An image as an OCI layout (image-layout.md), in one tar or a directory. The Docker form has a `manifest.json` beside it
//! that names the same blobs, as `docker save` and BuildKit write it, so that `docker load`, `podman load` and skopeo's
//! `docker-archive:` take it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use super::layers::{Counted, Origin, Prepared, copy, prepare};
use super::place::{self, Failure, Partial, Watched};
use super::{AnnotationPlace, Destination, Export, ExportError, Exported, ImageOutput, Packing};
use crate::digest::{Digest, Hasher};
use crate::image::layer::{Entry, Kind, LayerWriter, TimeRewrite};
use crate::image::{Content, Descriptor, Index, Layer, MediaTypes, Name, Timestamp, annotation};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// An OCI layout.
    Oci,
    /// With `manifest.json`.
    Docker,
}

/// What `oci-layout` says.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// One image of a layout.
pub(super) struct Item<'a> {
    pub(super) export: &'a Export<'a>,
    pub(super) prepared: Prepared,
    pub(super) names: Vec<Name>,
}

pub(super) fn write(
    export: &Export<'_>,
    output: &ImageOutput,
    form: Form,
    stdout: &mut (dyn Write + Send),
) -> Result<Exported, ExportError> {
    let prepared = prepare(export, output)?;
    let names = output.names_beside(export.names);
    let exported = Exported {
        manifest: Some(prepared.image.descriptor()),
        config: Some(prepared.image.config_digest()),
        image: Some(Box::new(prepared.image.clone())),
        names: names.clone(),
        devices_skipped: 0,
    };
    let item = Item {
        export,
        prepared,
        names,
    };
    write_items(&[item], None, output, form, stdout)?;
    Ok(exported)
}

/// Writes images whose layers are prepared: each by itself, or all as `one`.
pub(super) fn write_items(
    items: &[Item<'_>],
    one: Option<&One>,
    output: &ImageOutput,
    form: Form,
    stdout: &mut (dyn Write + Send),
) -> Result<(), ExportError> {
    let layout = Layout {
        items,
        one,
        output,
        form,
    };
    match (output.packing, &output.dest) {
        (Packing::Directory, Destination::Path(path)) => layout.directory(path),
        _ => place::written(&output.dest, stdout, |out| layout.tar(out)),
    }
}

struct Layout<'a> {
    items: &'a [Item<'a>],
    one: Option<&'a One>,
    output: &'a ImageOutput,
    form: Form,
}

impl Layout<'_> {
    fn tar(&self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        let mut watched = Watched::new(out);
        let result = self.tar_into(&mut watched);
        match (result, watched.failure()) {
            // What is said of a layer that could not be passed on is only that; the cause is here.
            (Err(_), Some(error)) => Err(Failure::Destination(error)),
            (result, _) => result,
        }
    }

    fn tar_into(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut tar = LayerWriter::new(out, TimeRewrite::Keep);
        let mut small = |path: &str, content: &[u8]| {
            let kind = Kind::File {
                size: content.len() as u64,
            };
            tar.file(&entry(path.to_owned(), kind), &mut &content[..])
        };
        small("oci-layout", LAYOUT)?;
        small("index.json", &self.index(Vec::new()).to_bytes())?;
        if self.form == Form::Docker {
            small("manifest.json", &self.docker_manifest())?;
        }
        for path in ["blobs", "blobs/sha256"] {
            tar.entry(&Entry {
                mode: 0o755,
                ..entry(path.to_owned(), Kind::Directory)
            })?;
        }
        let mut written = BTreeSet::new();
        for (digest, content) in self.documents() {
            if written.insert(digest) {
                let kind = Kind::File {
                    size: content.len() as u64,
                };
                tar.file(&entry(blob_path(&digest), kind), &mut &content[..])?;
            }
        }
        for (item, index, layer) in self.layers() {
            let Descriptor { digest, size, .. } = layer.descriptor;
            if written.insert(digest) {
                let mut failure = None;
                let filled = tar.filled(&entry(blob_path(&digest), Kind::File { size }), |out| {
                    item.layer(index, out).map_err(|error| {
                        failure = Some(error);
                        io::ErrorKind::Other.into()
                    })
                });
                match failure {
                    Some(failure) => return Err(failure),
                    None => filled?,
                }
            }
        }
        tar.finish()?;
        Ok(())
    }

    fn directory(&self, path: &Path) -> Result<(), ExportError> {
        let failed = |doing| move |source| place::destination(path, doing, source);
        let blobs = path.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(failed("create"))?;
        let own = self.items.iter().flat_map(|item| &item.names);
        let names: Vec<Name> = match self.one {
            Some(one) => one.names.clone(),
            None => own.cloned().collect(),
        };
        let others = others_in(path, &names).map_err(failed("add to the layout in"))?;
        for (digest, content) in self.documents() {
            put(&blobs.join(digest.hex()), |file| {
                Ok(file.write_all(content)?)
            })?;
        }
        for (item, index, layer) in self.layers() {
            let blob = blobs.join(layer.descriptor.digest.hex());
            let is_there = std::fs::metadata(&blob).is_ok_and(|metadata| {
                metadata.is_file() && metadata.len() == layer.descriptor.size
            });
            if !is_there {
                put(&blob, |file| item.layer(index, file))?;
            }
        }
        if self.form == Form::Docker {
            put(&path.join("manifest.json"), |file| {
                Ok(file.write_all(&self.docker_manifest())?)
            })?;
        }
        put(&path.join("oci-layout"), |file| Ok(file.write_all(LAYOUT)?))?;
        // Last: what it names is there now.
        put(&path.join("index.json"), |file| {
            Ok(file.write_all(&self.index(others).to_bytes())?)
        })
    }

    fn layers(&self) -> impl Iterator<Item = (&Item<'_>, usize, &Layer)> {
        self.items.iter().flat_map(|item| {
            let layers = item.prepared.image.layers.iter().enumerate();
            layers.map(move |(index, layer)| (item, index, layer))
        })
    }

    /// Everything but layers.
    fn documents(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        let one = self.one.iter();
        let one = one.map(|one| (one.descriptor.digest, one.bytes.as_slice()));
        self.items.iter().flat_map(Item::documents).chain(one)
    }

    /// One entry for each name, or one without, after those that are there.
    fn index(&self, mut manifests: Vec<Descriptor>) -> Index {
        if let Some(one) = self.one {
            manifests.extend(named(&one.descriptor, &one.names));
            return Index::new(MediaTypes::Oci, manifests);
        }
        for item in self.items {
            let image = &item.prepared.image;
            let mut unnamed = image.descriptor();
            let notes = AnnotationPlace::ManifestDescriptor;
            let notes = self.output.notes(notes, Some(&image.platform()));
            unnamed.annotations.extend(notes);
            if let Some(created) = &image.config.created {
                unnamed
                    .annotations
                    .insert(annotation::CREATED.to_owned(), created.clone());
            }
            manifests.extend(named(&unnamed, &item.names));
        }
        Index::new(MediaTypes::Oci, manifests)
    }

    fn docker_manifest(&self) -> Vec<u8> {
        let listed = self.items.iter().map(|item| {
            let image = &item.prepared.image;
            let tags = item.names.iter().filter(|name| name.tag.is_some());
            let layers = image.layers.iter();
            serde_json::json!({
                "Config": blob_path(&image.config_digest()),
                "RepoTags": tags.map(Name::short).collect::<Vec<_>>(),
                "Layers": layers.map(|layer| blob_path(&layer.descriptor.digest)).collect::<Vec<_>>(),
            })
        });
        serde_json::Value::from(listed.collect::<Vec<_>>())
            .to_string()
            .into_bytes()
    }
}

/// One image of several platforms.
pub(super) struct One {
    pub(super) descriptor: Descriptor,
    /// The index that lists them.
    pub(super) bytes: Vec<u8>,
    pub(super) names: Vec<Name>,
}

/// An entry for each name, or one without.
fn named(entry: &Descriptor, names: &[Name]) -> Vec<Descriptor> {
    let mut unnamed = entry.clone();
    unnamed.annotations.sort_keys();
    let under = |name: &Name| {
        let mut named = unnamed.clone();
        named
            .annotations
            .insert(annotation::IMAGE_NAME.to_owned(), name.to_string());
        if let Some(tag) = &name.tag {
            named
                .annotations
                .insert(annotation::REF_NAME.to_owned(), tag.clone());
        }
        named.annotations.sort_keys();
        named
    };
    match names {
        [] => vec![unnamed],
        names => names.iter().map(under).collect(),
    }
}

impl Item<'_> {
    /// Configuration and manifest.
    fn documents(&self) -> [(Digest, &[u8]); 2] {
        let image = &self.prepared.image;
        [
            (image.config_digest(), &image.config_bytes),
            (image.digest(), &image.manifest_bytes),
        ]
    }

    /// Writes a layer's blob, which must be what its descriptor says.
    fn layer(&self, index: usize, out: &mut dyn Write) -> Result<(), Failure> {
        let expected = self.prepared.image.layers[index].descriptor.digest;
        let source = self.export.source;
        let failed = |source| {
            Failure::Other(ExportError::Layer {
                layer: index,
                source,
            })
        };
        let mut out = Counted {
            out,
            hasher: Hasher::default(),
        };
        match self.prepared.origins[index] {
            Origin::Written => source
                .write_tar(index, TimeRewrite::Keep, &mut out)
                .map_err(failed)?,
            Origin::Store => {
                let blob = source.blob(&expected).map_err(failed)?;
                let gone = || failed(format!("the blob {expected} is gone from the store").into());
                copy(&mut blob.ok_or_else(gone)?, &mut out)?;
            }
        }
        let (found, _) = out.hasher.finish();
        if found != expected {
            return Err(Failure::Other(ExportError::Damaged {
                layer: index,
                expected,
                found,
            }));
        }
        Ok(())
    }
}

/// What another export left in a layout under other names.
fn others_in(path: &Path, names: &[Name]) -> io::Result<Vec<Descriptor>> {
    let bytes = match std::fs::read(path.join("index.json")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Ok(Content::Index(index)) = Content::parse("", &bytes) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its `index.json` is not an OCI index",
        ));
    };
    let is_replaced = |entry: &Descriptor| {
        let noted = |key: &str| entry.annotations.get(key).map(String::as_str);
        match noted(annotation::IMAGE_NAME) {
            Some(name) => names.iter().any(|ours| ours.to_string() == name),
            None => match noted(annotation::REF_NAME) {
                Some(tag) => names.iter().any(|ours| ours.tag.as_deref() == Some(tag)),
                None => names.is_empty(),
            },
        }
    };
    Ok(index
        .manifests
        .into_iter()
        .filter(|entry| !is_replaced(entry))
        .collect())
}

fn put(
    path: &Path,
    write: impl FnOnce(&mut Partial) -> Result<(), Failure>,
) -> Result<(), ExportError> {
    let mut file = Partial::create(path)?;
    let result = write(&mut file).and_then(|()| Ok(file.finish()?));
    result.map_err(|failure| match failure {
        Failure::Destination(source) => place::destination(path, "write", source),
        Failure::Other(error) => error,
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn entry(path: String, kind: Kind) -> Entry {
    let mtime = Timestamp::from_seconds(0);
    Entry {
        path: path.into_bytes(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}
