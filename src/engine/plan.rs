//! From a Dockerfile to a graph in which every base image is known: parse, lower, find out what the lowering asks for,
//! lower again. Asks nothing of the network: an image is in the store or in a layout on this machine.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::contexts::{Context, Contexts, NO_CONTEXT};
use super::failure::{Failure, FailureKind, Place};
use super::images;
use super::lock::Pin;
use super::source::{debian, oci_layout};
use super::tree::TreeError;
use super::work::{self, Work};
use crate::digest::{Digest, Fields, Key, NotADigest};
use crate::dockerfile::ignore::IgnoreFile;
use crate::dockerfile::{self, Dockerfile, Problem, Severity};
use crate::event::{BuildEvent, EventSink};
use crate::frontend::{
    self, Absence, ContextFile, Lowered, Lowering, Need, Options, Resolved, Review,
};
use crate::graph::{OciLayoutSource, Source};
use crate::image::{Content, Descriptor, ImageConfig, Manifest, Name, Platform};
use crate::store::{Store, StoredImage};

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
    pub fn of(
        work: &Work,
        store: &Store,
        contexts: &Contexts<'_>,
        events: &dyn EventSink,
    ) -> Result<Self, Vec<Failure>> {
        let mut options = options(work);
        let under = work.contexts.iter().find_map(|(name, place)| match place {
            work::Place::Dockerfile(under) => Some((name, under)),
            _ => None,
        });
        let mut images = HashMap::new();
        if let Some((name, under)) = under {
            let text = &under.dockerfile;
            let options_under = options_under(&options, name, under);
            let file = File {
                work,
                store,
                contexts,
                text,
                options: &options_under,
            };
            let planned = file.planned(events)?;
            images = planned.images;
            options.under = Some(frontend::Under {
                name: name.clone(),
                lowered: planned.lowered,
            });
        }
        let text = &work.dockerfile;
        let file = File {
            work,
            store,
            contexts,
            text,
            options: &options,
        };
        let mut planned = file.planned(events)?;
        planned.images.extend(images);
        Ok(planned)
    }

    fn warn(&self, file: &str, parsed: &[Problem], events: &dyn EventSink) {
        for problem in parsed.iter().chain(&self.lowered.warnings) {
            events.emit(warning(file, problem));
        }
        for name in &self.lowered.unused_build_args {
            events.emit(BuildEvent::Warning {
                code: "UnusedBuildArg".to_owned(),
                message: format!("no ARG asks for the build argument `{name}`"),
                file: Some(file.to_owned()),
                line: None,
            });
        }
    }
}

/// What a Dockerfile that another one stands on is lowered with.
fn options_under(above: &Options, name: &str, under: &work::Under) -> Options {
    let time = above.build_args.get_key_value("SOURCE_DATE_EPOCH");
    let time = time.map(|(name, value)| (name.clone(), value.clone()));
    Options {
        target: under.target.clone(),
        build_args: time
            .into_iter()
            .chain(under.build_args.iter().cloned())
            .collect(),
        contexts: BTreeMap::new(),
        labels: BTreeMap::new(),
        file: under.dockerfile.file.clone(),
        origins: frontend::Origins::default(),
        ignore: rules(under.ignore.as_ref()),
        part: Some(name.to_owned()),
        ..above.clone()
    }
}

/// One Dockerfile of a build.
struct File<'a> {
    work: &'a Work,
    store: &'a Store,
    contexts: &'a Contexts<'a>,
    text: &'a work::Text,
    options: &'a Options,
}

impl File<'_> {
    fn planned(&self, events: &dyn EventSink) -> Result<Planned, Vec<Failure>> {
        let checks = self.options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
        let checks = checks.map(String::as_str);
        let parsed = dockerfile::parse_with_checks(&self.text.text, checks);
        let name = &self.text.file;
        let errors = failures(name, &parsed.problems);
        let mut refused = Vec::new();
        let planned = self.lowered(&parsed.dockerfile, &mut refused);
        if !refused.is_empty() {
            return Err(refused);
        }
        let found = match planned {
            Ok(planned) if errors.is_empty() => {
                planned.warn(name, &parsed.problems, events);
                Ok(planned)
            }
            Ok(_) => Err(errors),
            // What could be read may have mistakes of another kind: they are said at once.
            Err(problems) => Err(without_doubles(errors, failures(name, &problems))),
        };
        found.map_err(|mut failures| {
            for failure in failures.iter_mut().filter(|_| self.options.part.is_some()) {
                failure.text = Some(self.text.text.clone());
            }
            failures
        })
    }

    /// Lowers a Dockerfile, and finds the images that this asks for.
    fn lowered(
        &self,
        dockerfile: &Dockerfile,
        refused: &mut Vec<Failure>,
    ) -> Result<Planned, Vec<Problem>> {
        let contexts = self.contexts;
        let mut resolved = Resolved::default();
        let mut images = HashMap::new();
        loop {
            match frontend::lower(dockerfile, self.options, &resolved)? {
                Lowering::Done(lowered) => {
                    let absent = |file: &ContextFile| absence(file, contexts).is_some();
                    if !lowered.files.iter().any(absent) {
                        return Ok(Planned {
                            lowered: *lowered,
                            images,
                        });
                    }
                    for file in lowered.files {
                        let absence = absence(&file, contexts);
                        resolved.file(file, absence);
                    }
                }
                Lowering::Needs(needs) => {
                    for need in needs {
                        let source = match need {
                            Need::Config(source) => source,
                            Need::File(file) => {
                                let absence = absence(&file, contexts);
                                resolved.file(file, absence);
                                continue;
                            }
                        };
                        match find_pinned(self.work, &source, self.store) {
                            Ok(Found::Image(image)) => {
                                resolved.found(source.clone(), image.config.clone());
                                images.insert(source, *image);
                            }
                            Ok(Found::Config(config)) => resolved.found(source, *config),
                            Err(Unfound::Missing(reason)) => resolved.missing(source, reason),
                            Err(Unfound::Refused(failure)) => {
                                resolved.missing(source, failure.message.clone());
                                refused.push(*failure);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Why a file of a context cannot be had. What else may be wrong is for the step to find.
fn absence(file: &ContextFile, contexts: &Contexts<'_>) -> Option<Absence> {
    let context = match contexts.open(&file.context) {
        Ok(Context::Directory(context)) => context,
        // Only a step opens what is in the store.
        Ok(Context::Fetched(_)) => return None,
        Ok(Context::Empty) if is_top(&file.path) => return None,
        Ok(Context::Empty) => {
            return Some(Absence {
                code: "copy::missing",
                message: format!(
                    "`{}` is not in the build context, which is empty",
                    file.path
                ),
                help: Some("name a directory as the build context".to_owned()),
            });
        }
        Err(failure) if failure.code == NO_CONTEXT => {
            return Some(Absence {
                code: NO_CONTEXT,
                message: failure.message,
                help: failure.help,
            });
        }
        Err(_) => return None,
    };
    let error = context.expect(&file.path).err()?;
    let code = match error {
        TreeError::Missing { .. } => "copy::missing",
        TreeError::Ignored { .. } => "copy::ignored",
        _ => return None,
    };
    Some(Absence {
        code,
        message: error.to_string(),
        help: match error {
            TreeError::Missing { .. } => contexts.having(&file.path, &file.context),
            _ => None,
        }
        .or_else(|| miette::Diagnostic::help(&error).map(|help| help.to_string())),
    })
}

/// Whether a path means all of a tree.
fn is_top(path: &str) -> bool {
    path.split('/').all(|part| matches!(part, "" | "."))
}

/// Both, in the order of the file; of several at one line, the first.
fn without_doubles(mut failures: Vec<Failure>, more: Vec<Failure>) -> Vec<Failure> {
    let line = |failure: &Failure| failure.place.as_ref().map_or(0, |place| place.line);
    for failure in more {
        if failures.iter().all(|known| line(known) != line(&failure)) {
            failures.push(failure);
        }
    }
    failures.sort_by_key(line);
    failures
}

enum Found {
    Image(Box<BaseImage>),
    Config(Box<ImageConfig>),
}

/// Why an image is not to be had.
enum Unfound {
    Missing(String),
    Refused(Box<Failure>),
}

/// The image that a source is pinned to, else the one that it names.
fn find_pinned(work: &Work, source: &Source, store: &Store) -> Result<Found, Unfound> {
    let named = || find(source, store, &work.platform);
    let (Some(Pin::Image(pin)), Some(lock)) = (work.pin(source), &work.lock) else {
        return named().map_err(Unfound::Missing);
    };
    let wanted = match source {
        Source::StoredImage { .. } => Source::StoredImage {
            name: pin.digest.to_string(),
        },
        Source::OciLayout(layout) => Source::OciLayout(OciLayoutSource {
            digest: Some(pin.digest.to_string()),
            ..layout.clone()
        }),
        other => other.clone(),
    };
    find(&wanted, store, &work.platform).or_else(|_| match named() {
        Ok(Found::Image(image)) if image.digest == pin.digest => Ok(Found::Image(image)),
        Ok(Found::Image(image)) => {
            let found = image.digest.to_string();
            let failure = lock.mismatch(source, &pin.digest.to_string(), &found);
            Err(Unfound::Refused(Box::new(failure)))
        }
        Ok(found) => Ok(found),
        Err(reason) => Err(Unfound::Missing(reason)),
    })
}

fn find(source: &Source, store: &Store, platform: &str) -> Result<Found, String> {
    match source {
        Source::OciLayout(layout) => {
            oci_layout_image(layout, platform).map(|image| Found::Image(Box::new(image)))
        }
        Source::StoredImage { name } => {
            stored_image(name, store).map(|image| Found::Image(Box::new(image)))
        }
        Source::Debian(debian) => Ok(Found::Config(Box::new(debian::image_config(&debian.arch)))),
        Source::Git(_) | Source::Http(_) | Source::Local { .. } => {
            Ok(Found::Config(Box::default()))
        }
    }
}

/// An image of a layout on this machine.
fn oci_layout_image(layout: &OciLayoutSource, platform: &str) -> Result<BaseImage, String> {
    let opened =
        oci_layout::Layout::open(Path::new(&layout.path)).map_err(|error| in_full(&error))?;
    let wanted = match (&layout.digest, &layout.tag) {
        (Some(digest), _) => oci_layout::Wanted::Digest(
            digest
                .parse()
                .map_err(|error: NotADigest| in_full(&error))?,
        ),
        (None, Some(tag)) => oci_layout::Wanted::Tag(tag),
        (None, None) => oci_layout::Wanted::Only,
    };
    let platform = layout.platform.as_deref().unwrap_or(platform);
    let platform = platform
        .parse::<Platform>()
        .map_err(|error| in_full(&error))?;
    let image = opened
        .image(wanted, &platform)
        .map_err(|error| in_full(&error))?;
    let layers = layers(&image.config, &image.manifest.layers)?;
    Ok(BaseImage {
        digest: image.descriptor.digest,
        config: image.config,
        layers,
        blobs: Blobs::Layout(layout.path.clone().into()),
    })
}

/// An image of the store, by a name or by its digest.
fn stored_image(name: &str, store: &Store) -> Result<BaseImage, String> {
    let Some(stored) = images::find(store, name).map_err(|error| in_full(&error))? else {
        return Err(format!(
            "there is no image `{}` in the store, and images of registries are not to be had yet",
            Name::familiar(name)
        ));
    };
    of_store(&stored, store)
}

/// An image of the store with its layers, whether they are unpacked or not.
pub fn of_store(stored: &StoredImage, store: &Store) -> Result<BaseImage, String> {
    let (manifest, config) = read_image(&stored.digest, store)?;
    let mut layers = layers(&config, &manifest.layers)?;
    for (layer, snapshot) in layers.iter_mut().zip(&stored.layers) {
        layer.snapshot = *snapshot;
    }
    Ok(BaseImage {
        digest: stored.digest,
        config,
        layers,
        blobs: Blobs::Store,
    })
}

/// Manifest and configuration of an image of the store.
pub fn read_image(digest: &Digest, store: &Store) -> Result<(Manifest, ImageConfig), String> {
    let bytes = store
        .read_blob(digest, Content::BYTES_MAX)
        .map_err(|error| in_full(&error))?;
    let manifest = match Content::parse("", &bytes).map_err(|error| in_full(&error))? {
        Content::Manifest(manifest) => *manifest,
        Content::Index(_) => return Err(format!("{digest} is an index, not an image")),
    };
    let bytes = store
        .read_blob(&manifest.config.digest, Content::BYTES_MAX)
        .map_err(|error| in_full(&error))?;
    let config = serde_json::from_slice(&bytes).map_err(|error| in_full(&error))?;
    Ok((manifest, config))
}

/// The layers of an image, or why they cannot be those of one. The snapshot of an unpacked layer is named by what it lies upon and by its own content.
pub fn layers(config: &ImageConfig, descriptors: &[Descriptor]) -> Result<Vec<BaseLayer>, String> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != descriptors.len() {
        return Err(format!(
            "its configuration lists {} layers and its manifest {}",
            diff_ids.len(),
            descriptors.len()
        ));
    }
    let mut below = String::new();
    let layers = diff_ids
        .iter()
        .zip(descriptors)
        .map(|(diff_id, descriptor)| {
            let mut fields = Fields::new();
            fields.put("unpacked layer", diff_id.to_string());
            fields.put("below", below.clone());
            let snapshot = fields.key();
            below = snapshot.to_string();
            BaseLayer {
                snapshot,
                diff_id: *diff_id,
                descriptor: descriptor.clone(),
            }
        });
    Ok(layers.collect())
}

/// An error and its causes in one line, for a label in the Dockerfile.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(super) fn options(work: &Work) -> Options {
    let source = |(name, place): &(String, work::Place)| {
        let source = match place {
            work::Place::Directory { .. } | work::Place::Fetched { .. } => {
                Source::Local { name: name.clone() }
            }
            work::Place::Source(source) => source.clone(),
            // It is lowered before.
            work::Place::Dockerfile(_) => return None,
        };
        Some((name.clone(), source))
    };
    let platform = frontend::Platform::parse(&work.platform).unwrap_or_default();
    let origins = work.origins.iter().map(|origin| frontend::Origin {
        first: origin.first_line,
        last: origin.last_line,
        file: origin.file.clone(),
        line: origin.line,
    });
    Options {
        target: work.target.clone(),
        scope: frontend::Scope::Target,
        build_args: work.build_args.iter().cloned().collect(),
        contexts: work.contexts.iter().filter_map(source).collect(),
        build_platform: frontend::Platform::of_this_machine(),
        platform,
        labels: work.labels.iter().cloned().collect(),
        proxies: work.proxies.iter().cloned().collect(),
        run: work.run.clone(),
        source_date_epoch: work.source_date_epoch,
        file: work.dockerfile.file.clone(),
        origins: frontend::Origins::new(origins.collect()),
        ignore: match &work.context {
            Some(work::Place::Directory { ignore, .. }) => rules(ignore.as_ref()),
            _ => IgnoreFile::default(),
        },
        under: None,
        part: None,
    }
}

/// The rules of a context's ignore file. What is wrong with it is said when the context is read.
fn rules(ignore: Option<&work::Text>) -> IgnoreFile {
    ignore.map_or_else(IgnoreFile::default, |text| {
        IgnoreFile::parse(&text.text).unwrap_or_default()
    })
}

/// Looks through the Dockerfile of a build that is not started. An image that is not on this machine is not asked for: it
/// may set what it likes.
pub fn review(work: &Work, store: Option<&Store>, scope: frontend::Scope) -> Review {
    let options = Options {
        scope,
        ..options(work)
    };
    frontend::review(&work.dockerfile.text, &options, |source| {
        let is_here = match (source, store) {
            (Source::StoredImage { name }, Some(store)) => {
                images::find(store, name).is_ok_and(|image| image.is_some())
            }
            (Source::StoredImage { .. }, None) => false,
            _ => true,
        };
        let found = match (is_here, store) {
            (true, Some(store)) => find(source, store, &work.platform),
            _ => return None,
        };
        Some(found.map(|found| match found {
            Found::Image(image) => image.config,
            Found::Config(config) => *config,
        }))
    })
}

pub(super) fn failures(file: &str, problems: &[Problem]) -> Vec<Failure> {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    errors.map(|problem| failure(file, problem)).collect()
}

/// A problem of a file, as what ends a command.
pub fn failure(file: &str, problem: &Problem) -> Failure {
    let mut failure = Failure::new(FailureKind::Input, problem.code, problem.message.clone());
    failure.label = problem.label.as_deref().map(str::to_owned);
    failure.help = problem.help.as_deref().map(str::to_owned);
    failure.is_warning = problem.severity == Severity::Warning;
    failure.place = problem.span.map(|span| Place {
        file: file.to_owned(),
        line: span.line,
        span: Some((span.start, span.end.saturating_sub(span.start))),
    });
    failure
}

fn warning(file: &str, problem: &Problem) -> BuildEvent {
    BuildEvent::Warning {
        code: problem.code.to_owned(),
        message: problem.message.clone(),
        file: Some(file.to_owned()),
        line: problem.span.map(|span| span.line),
    }
}
