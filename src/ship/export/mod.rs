//! Writing a build's result where and how `-o` says: an OCI layout, a Docker archive, one tar, files, or a registry.
//!
//! An export knows nothing of snapshots. It is given the parts of an image and a [`LayerSource`], which hands out blobs
//! that exist, writes the tar of those that are made again when they are wanted (ADR 0005), and keeps what was compressed,
//! so that nothing is compressed twice.
//!
//! Files are written beside their destination and renamed, so that a destination is whole or as it was before.

mod annotation;
mod archive;
mod below;
mod joined;
mod layers;
mod local;
mod output;
mod place;
mod registry;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::digest::Digest;
use crate::image::layer::TimeRewrite;
use crate::image::{Assembled, Compression, Descriptor, Name, Timestamp};

pub use annotation::{Annotation, AnnotationPlace};
pub use joined::Joined;
pub use layers::{Origin, Prepared, prepare, variant};
pub use output::{
    Destination, ImageOutput, LayerTimes, OtherCompressions, Output, OutputError, Packing,
    Platforms, Pushing,
};
pub use registry::{PushListener, Sent};

/// Whatever went wrong on the other side of a [`LayerSource`].
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where the layers of one [`Assembled`] image come from. Layers are named by their place in [`Assembled::layers`].
pub trait LayerSource: Sync {
    /// Opens a blob, or `None` if it is nowhere.
    fn blob(&self, digest: &Digest) -> Result<Option<File>, SourceError>;

    /// Whether a blob is in the store, or can be fetched when its bytes are wanted.
    fn has_blob(&self, digest: &Digest) -> bool;

    /// Writes the uncompressed tar of a layer for whose descriptor there is no blob.
    fn write_tar(
        &self,
        layer: usize,
        times: TimeRewrite,
        out: &mut dyn Write,
    ) -> Result<(), SourceError>;

    /// The blob in which [`LayerSource::keep`] once kept a layer in this form, if it is still there.
    fn kept(&self, layer: usize, form: Form) -> Result<Option<Variant>, SourceError>;

    /// Puts what `write` writes into the store as the blob of a layer in this form. `write` is called once and says what
    /// it has written.
    fn keep(
        &self,
        layer: usize,
        form: Form,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<Variant, SourceError>,
    ) -> Result<Variant, SourceError>;

    /// An image of a registry that has this blob.
    fn registry_of(&self, digest: &Digest) -> Option<Name>;

    /// Writes the whole root filesystem as one tar.
    fn write_root(&self, times: TimeRewrite, out: &mut dyn Write) -> Result<(), SourceError>;
}

/// In what form a layer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Form {
    /// Its compression.
    pub compression: Compression,
    /// Its times.
    pub times: TimeRewrite,
}

impl Form {
    /// Names the form, and the version of what makes it: with the identity of a snapshot, the key of a kept blob.
    #[must_use]
    pub fn id(self) -> String {
        match self.times {
            TimeRewrite::Keep => self.compression.id(),
            TimeRewrite::Clamp(epoch) => format!("{}-clamp{epoch}", self.compression.id()),
        }
    }
}

/// A layer in a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// SHA-256 of its uncompressed tar, which is another one if times were changed.
    pub diff_id: Digest,
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// The blob's length.
    pub size: u64,
}

/// What is exported, and with what.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    /// The image.
    pub image: &'a Assembled,
    /// Its layers.
    pub source: &'a dyn LayerSource,
    /// Names beside those of the output (`-t`).
    pub names: &'a [Name],
    /// SOURCE_DATE_EPOCH.
    pub epoch: Option<Timestamp>,
    /// How many threads compress.
    pub threads: usize,
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("names", &self.names)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What was exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Exported {
    /// The manifest that was written; `None` for a root filesystem.
    pub manifest: Option<Descriptor>,
    /// The configuration that was written.
    pub config: Option<Digest>,
    /// The image itself, where it is one alone.
    pub image: Option<Box<Assembled>>,
    /// The image's names.
    pub names: Vec<Name>,
    /// Device nodes that the user may not make and that are missing for that.
    pub devices_skipped: u64,
}

/// Why something cannot be exported.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExportError {
    /// The destination cannot be written.
    #[error("cannot {doing} `{}`", path.display())]
    #[diagnostic(code(export::destination), help("{help}"))]
    Destination {
        /// Where.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// What may help.
        help: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    #[diagnostic(code(export::stdout))]
    Stdout(#[source] io::Error),
    /// A layer cannot be had.
    #[error("cannot get layer {} of the image", layer + 1)]
    #[diagnostic(code(export::layer))]
    Layer {
        /// Its place, from 0.
        layer: usize,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// The root filesystem cannot be had.
    #[error("cannot get the image's root filesystem")]
    #[diagnostic(code(export::root))]
    Root(#[source] SourceError),
    /// A blob is not what its name says.
    #[error("the blob {expected} of layer {} is damaged: its content is {found}", layer + 1)]
    #[diagnostic(
        code(export::damaged),
        help(
            "delete that blob from `blobs/sha256` of the store, and build again: it is made anew"
        )
    )]
    Damaged {
        /// The layer's place, from 0.
        layer: usize,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// `rewrite-timestamp` without a time.
    #[error("`rewrite-timestamp=true` needs a time to which times are rewritten")]
    #[diagnostic(
        code(export::no_epoch),
        help(
            "set SOURCE_DATE_EPOCH, for instance to the time of the last commit: `SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)`"
        )
    )]
    NoEpoch,
    /// Nothing says where an image is sent.
    #[error("an image that is pushed needs a name")]
    #[diagnostic(
        code(export::no_name),
        help("give one with `-t REGISTRY/REPOSITORY:TAG`, or write `-o type=registry,name=…`")
    )]
    NoName,
    /// A registry does not take it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Registry(#[from] crate::registry::Error),
    /// A form that has no way to say it.
    #[error("an image of several platforms cannot be written as a docker archive")]
    #[diagnostic(
        code(export::many_platforms),
        help("write `type=oci`, or push it; or build each platform by itself")
    )]
    ManyPlatforms,
    /// The root filesystems of several platforms in one place.
    #[error("the files of several platforms would overwrite each other")]
    #[diagnostic(
        code(export::platforms_together),
        help("leave out `platform-split=false`: each platform gets its directory")
    )]
    PlatformsTogether,
    /// The local store is not written from here.
    #[error("an output of type `{0}` is nothing that is written to a file")]
    #[diagnostic(code(export::no_file))]
    NoFile(&'static str),
}

impl Export<'_> {
    /// Writes one output. `stdout` is used where its destination is `-`.
    pub fn write(
        &self,
        output: &Output,
        stdout: &mut (dyn Write + Send),
    ) -> Result<Exported, ExportError> {
        match output {
            Output::Oci(image) => archive::write(self, image, archive::Form::Oci, stdout),
            Output::Docker(image) => archive::write(self, image, archive::Form::Docker, stdout),
            Output::Tar { dest, platforms } => self.tar(dest, *platforms, stdout),
            Output::Local { dest, platforms } => {
                let devices_skipped = match platforms {
                    Platforms::AsMany | Platforms::Together => local::write(self, dest)?,
                    Platforms::Apart => local::write(self, &dest.join(self.platform_directory()))?,
                };
                Ok(Exported {
                    devices_skipped,
                    ..Exported::of_root()
                })
            }
            Output::Image(_) => Err(ExportError::NoFile("image")),
            Output::CacheOnly => Err(ExportError::NoFile("cacheonly")),
        }
    }

    fn types(&self) -> crate::image::MediaTypes {
        self.image.types()
    }

    /// Where the files of this platform lie, where those of others may lie beside them.
    fn platform_directory(&self) -> String {
        self.image.platform().to_string().replace('/', "_")
    }

    fn tar(
        &self,
        dest: &Destination,
        platforms: Platforms,
        stdout: &mut (dyn Write + Send),
    ) -> Result<Exported, ExportError> {
        place::written(dest, stdout, |out| {
            let mut out = place::Watched::new(out);
            let written = match platforms {
                Platforms::AsMany | Platforms::Together => {
                    self.source.write_root(self.root_times(), &mut out)
                }
                Platforms::Apart => below::write_roots(&[*self], &mut out),
            };
            written.map_err(|source| match out.failure() {
                Some(error) => place::Failure::Destination(error),
                None => place::Failure::Other(ExportError::Root(source)),
            })
        })?;
        Ok(Exported::of_root())
    }

    /// A root filesystem has no history that would tell its times: an epoch holds for all of it.
    fn root_times(&self) -> TimeRewrite {
        self.epoch
            .map_or(TimeRewrite::Keep, |epoch| TimeRewrite::Clamp(epoch.seconds))
    }
}

/// Writes images of the store into one archive or layout, each as it is. Names are those of the exports.
///
/// # Errors
/// If one cannot be had, or the destination not be written.
pub fn save(
    exports: &[Export<'_>],
    output: &Output,
    stdout: &mut (dyn Write + Send),
) -> Result<(), ExportError> {
    let (output, form) = match output {
        Output::Oci(image) => (image, archive::Form::Oci),
        Output::Docker(image) => (image, archive::Form::Docker),
        _ => return Err(ExportError::NoFile("save")),
    };
    let item = |export| {
        let own = ImageOutput {
            types: Export::types(export),
            ..output.clone()
        };
        Ok::<_, ExportError>(archive::Item {
            export,
            prepared: prepare(export, &own)?,
            names: export.names.to_vec(),
        })
    };
    let items = exports.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    archive::write_items(&items, None, output, form, stdout)
}

impl Exported {
    fn of_root() -> Self {
        Self {
            manifest: None,
            config: None,
            image: None,
            names: Vec::new(),
            devices_skipped: 0,
        }
    }
}

#[cfg(test)]
mod tests;
