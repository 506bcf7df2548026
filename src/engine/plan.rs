//! From a Dockerfile to a graph in which every base image is known: parse, lower, find out what the lowering asks for,
//! lower again. Asks nothing of the network: an image is in the store or in a layout on this machine.

use std::collections::HashMap;
use std::path::Path;

use super::failure::{Failure, FailureKind, Place};
use super::source::{debian, oci_layout};
use super::work::{self, Work};
use crate::digest::{Digest, Key};
use crate::dockerfile::{self, Problem, Severity};
use crate::event::{BuildEvent, EventSink};
use crate::frontend::{self, Lowered, Lowering, Options, Resolved};
use crate::graph::Source;
use crate::image::{Descriptor, ImageConfig};
use crate::store::Store;

/// A graph, and the images that its sources are.
#[derive(Debug)]
pub struct Planned {
    /// The graph and what goes with it.
    pub lowered: Lowered,
    /// Images by the source that names them.
    pub images: HashMap<Source, BaseImage>,
}

/// An image that a build starts from or copies from.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// Its manifest.
    pub digest: Digest,
    /// Its configuration.
    pub config: ImageConfig,
    /// Its layers, bottom first.
    pub layers: Vec<BaseLayer>,
    /// Where its blobs are.
    pub blobs: Blobs,
}

/// Where the blobs of an image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blobs {
    /// In the store, or regenerated from a snapshot of it.
    Store,
    /// In an OCI layout.
    Layout(std::path::PathBuf),
}

/// One layer of a base image.
#[derive(Debug, Clone)]
pub struct BaseLayer {
    /// The snapshot that it is, or would be once it is unpacked.
    pub snapshot: Key,
    /// The digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Its blob.
    pub descriptor: Descriptor,
}

impl Planned {
    /// Plans a build. Warnings are emitted as they are found.
    ///
    /// # Errors
    /// Every problem of the Dockerfile, and every image that is not there.
    pub fn of(work: &Work, store: &Store, events: &dyn EventSink) -> Result<Self, Vec<Failure>> {
        let parsed = dockerfile::parse(&work.dockerfile.text);
        let errors = failures(work, &parsed.problems);
        if !errors.is_empty() {
            return Err(errors);
        }
        let options = options(work);
        let mut resolved = Resolved::default();
        let mut images = HashMap::new();
        loop {
            let lowering = frontend::lower(&parsed.dockerfile, &options, &resolved)
                .map_err(|problems| failures(work, &problems))?;
            match lowering {
                Lowering::Needs(sources) => {
                    for source in sources {
                        match find(&source, store) {
                            Ok(Found::Image(image)) => {
                                resolved.found(source.clone(), image.config.clone());
                                images.insert(source, *image);
                            }
                            Ok(Found::Config(config)) => resolved.found(source, *config),
                            Err(reason) => resolved.missing(source, reason),
                        }
                    }
                }
                Lowering::Done(lowered) => {
                    for problem in parsed.problems.iter().chain(&lowered.warnings) {
                        events.emit(warning(work, problem));
                    }
                    for name in &lowered.unused_build_args {
                        let message = format!("no ARG asks for the build argument `{name}`");
                        events.emit(BuildEvent::Warning {
                            code: "UnusedBuildArg".to_owned(),
                            message,
                            file: Some(work.dockerfile.file.clone()),
                            line: None,
                        });
                    }
                    return Ok(Self { lowered: *lowered, images });
                }
            }
        }
    }
}

enum Found {
    Image(Box<BaseImage>),
    Config(Box<ImageConfig>),
}

fn find(source: &Source, store: &Store) -> Result<Found, String> {
    match source {
        Source::OciLayout(layout) => oci_layout_image(layout).map(|image| Found::Image(Box::new(image))),
        Source::StoredImage { name } => stored_image(name, store).map(|image| Found::Image(Box::new(image))),
        Source::Debian(debian) => Ok(Found::Config(Box::new(debian::image_config(&debian.arch)))),
        Source::Git(_) | Source::Http(_) | Source::Local { .. } => Ok(Found::Config(Box::default())),
    }
}
