//! An image again, from what was written down of it, to see whether it becomes the same. What is built is set aside: it
//! takes the place of nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::finish;
use super::recipe::{self, Recipe};
use super::{Embedded, Outcome, SaveRequest};
use crate::digest::Digest;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::images;
use crate::engine::phases::StepReport;
use crate::engine::work::{Freshness, NoCache, Place, Work};
use crate::event::EventSink;
use crate::image::compress::decoder;
use crate::image::layer::first_difference;
use crate::image::{Compression, ImageConfig, Manifest};
use crate::ship::export::{Destination, ImageOutput, LayerTimes, Output, Packing, Pushing};
use crate::store::{History, Store};

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rebuilt {
    /// The image as it was made.
    pub recorded: Digest,
    /// What was made now; `None`: nothing, since what it is made from is not what it was.
    pub rebuilt: Option<Digest>,
    /// Whether they are the same.
    pub same: bool,
    /// What it is made from that is not what it was.
    pub inputs: Vec<StepReport>,
    /// The first difference.
    pub difference: Option<Difference>,
}

/// In what an image differs from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which layer, from 1; `None`: what differs is in the configuration or the manifest.
    pub layer: Option<usize>,
    /// How many layers there are.
    pub layers: usize,
    /// The instruction that made it.
    pub instruction: Option<String>,
    /// The path in the layer, or the field of the configuration.
    pub path: Option<String>,
    /// What it was, and what it is.
    pub what: Vec<String>,
}

impl Embedded {
    /// Builds an image of the store again, without the cache, and compares. `means` says how servers are reached, and has the
    /// secrets.
    ///
    /// # Errors
    /// If nothing was written down of it, or it cannot be built.
    pub fn rebuild(
        self,
        image: &str,
        store: &Path,
        means: &Work,
        events: &dyn EventSink,
    ) -> Result<Rebuilt, Vec<Failure>> {
        let opened = finish::open(store)?;
        let recorded = recorded(&opened, image)?;
        let recipe = recipe::read(&History::of(store), &recorded).ok_or_else(|| {
            let message = format!("nothing is written down of how `{image}` was made");
            vec![Failure::new(FailureKind::Input, "rebuild::unknown", message).with_help(
                "that is done for what is built here, not for what is pulled or loaded; build it, then it can be built again",
            )]
        })?;
        let mut request = request_of(&recipe, image, means)?;
        let gone = gone_contexts(&request.work, &opened);
        if !gone.is_empty() {
            return Err(gone);
        }
        let inputs = finish::changes(&request.work, store, &recipe.makings, events)?;
        if !inputs.is_empty() {
            return Ok(Rebuilt {
                recorded,
                rebuilt: None,
                same: false,
                inputs,
                difference: None,
            });
        }
        let place = opened.tmp_dir().map_err(|error| vec![machine(&error)])?;
        let (again, before) = (place.path().join("again"), place.path().join("before"));
        request.store = store.to_owned();
        request.work.project = format!("{} (built again)", request.work.project);
        request.work.aside = true;
        request.work.no_cache = NoCache::Everything;
        request.outputs = vec![Output::Oci(ImageOutput {
            dest: Destination::Path(again.clone()),
            packing: Packing::Directory,
            names: Vec::new(),
            pushing: Pushing::No,
            ..recipe.form.clone().unwrap_or_else(as_stored)
        })];
        let Outcome {
            stored, manifest, ..
        } = self.build(&request, events)?;
        let rebuilt = match recipe.form {
            None => stored,
            Some(_) => manifest.digest,
        };
        let mut found = Rebuilt {
            recorded,
            rebuilt: Some(rebuilt),
            same: rebuilt == recorded,
            inputs,
            difference: None,
        };
        if !found.same {
            let sides = Sides {
                backend: self,
                store: &opened,
                recorded,
                again: &again,
                before: &before,
                events,
                work: &request.work,
            };
            let difference = sides.difference(&recipe, &manifest.digest);
            found.difference = Some(difference.map_err(|why| {
                let message = format!("the two images cannot be compared: {why}");
                vec![Failure::new(
                    FailureKind::Machine,
                    "rebuild::compare",
                    message,
                )]
            })?);
        }
        Ok(found)
    }
}

fn machine(error: &dyn miette::Diagnostic) -> Failure {
    Failure::from_diagnostic(FailureKind::Machine, error)
}

/// As images are in the store: what was built is plain tar.
fn as_stored() -> ImageOutput {
    ImageOutput {
        compression: Compression::None,
        times: LayerTimes::Keep,
        ..ImageOutput::default()
    }
}

/// The image that is meant: one of the store, or any of which something is written down, by its digest.
fn recorded(store: &Store, image: &str) -> Result<Digest, Vec<Failure>> {
    let found = images::find(store, image).map_err(|error| vec![machine(&error)])?;
    if let Some(found) = found {
        return Ok(found.digest);
    }
    let digest = image.rsplit('@').next().unwrap_or(image);
    digest.parse().map_err(|_| {
        let message = format!("there is no image `{image}` in the store");
        vec![
            Failure::new(FailureKind::Input, "images::unknown", message).with_help(
                "`shmocker images` lists what there is; one that only left for a registry or a file is named by its digest",
            ),
        ]
    })
}

/// The build as it was, with today's way to servers and today's secrets.
fn request_of(
    recipe: &Recipe,
    image: &str,
    means: &Work,
) -> Result<super::BuildRequest, Vec<Failure>> {
    let lacking = |message: String, help: &str| {
        Failure::new(FailureKind::Input, "rebuild::input", message).with_help(help)
    };
    let Some(mut request) = recipe.request.clone() else {
        return Err(vec![lacking(
            format!(
                "`{image}` was built from an address with a password in it, which is written down nowhere"
            ),
            "give passwords as secrets, and build it again",
        )]);
    };
    let mut failures = Vec::new();
    for id in &recipe.secrets {
        if !means.secrets.iter().any(|secret| secret.id == *id) {
            failures.push(lacking(
                format!("the build had the secret `{id}`, which is written down nowhere"),
                "give it again: `--secret id=…`",
            ));
        }
    }
    for id in &recipe.keys {
        failures.push(lacking(
            format!("the build had ssh keys (`{id}`), which are written down nowhere"),
            "build it with an agent: `--ssh default`",
        ));
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    let work = &mut request.work;
    work.secrets.clone_from(&means.secrets);
    work.registries.clone_from(&means.registries);
    work.proxies.clone_from(&means.proxies);
    work.programs.clone_from(&means.programs);
    work.ca_file.clone_from(&means.ca_file);
    work.debian.clone_from(&means.debian);
    work.ssh.clone_from(&means.ssh);
    // What was found then is what counts, however old it is.
    work.freshness = Freshness::After { ms: u64::MAX };
    Ok(request)
}

/// Contexts that were fetched for the build and are not in the store any more.
fn gone_contexts(work: &Work, store: &Store) -> Vec<Failure> {
    let named = work.contexts.iter().map(|(_, place)| place);
    let places = work.context.iter().chain(named);
    let gone = places.filter_map(|place| match place {
        Place::Fetched { snapshot, name } if !store.has_snapshot(snapshot) => Some(name),
        _ => None,
    });
    let failure = |name: &String| {
        let message = format!(
            "the context `{name}`, which was fetched for the build, is not in the store any more"
        );
        Failure::new(FailureKind::Source, "rebuild::context_gone", message)
            .with_help("build it once more: then it is there")
    };
    gone.map(failure).collect()
}

/// Both images.
struct Sides<'a> {
    backend: Embedded,
    store: &'a Store,
    recorded: Digest,
    /// The layout of what was built now.
    again: &'a Path,
    /// Where a layout of what was recorded is written, if that is needed.
    before: &'a Path,
    events: &'a dyn EventSink,
    work: &'a Work,
}

type Compared<T> = Result<T, Box<dyn std::error::Error>>;

impl Sides<'_> {
    fn difference(&self, recipe: &Recipe, rebuilt: &Digest) -> Compared<Difference> {
        let was: Manifest = serde_json::from_str(&recipe.manifest)?;
        let config_was: ImageConfig = serde_json::from_str(&recipe.config)?;
        let is: Manifest = serde_json::from_reader(blob(self.again, rebuilt)?)?;
        let config_is: ImageConfig = serde_json::from_reader(blob(self.again, &is.config.digest)?)?;
        let layers = config_was.rootfs.diff_ids.len();
        let pairs = config_was.rootfs.diff_ids.iter();
        let differing = pairs
            .zip(&config_is.rootfs.diff_ids)
            .position(|(was, is)| was != is);
        let Some(layer) = differing else {
            let (path, what) = fields_differ(&config_was, &config_is)
                .or_else(|| fields_differ(&was, &is))
                .unwrap_or(("manifest".to_owned(), "its bytes".to_owned()));
            return Ok(Difference {
                layer: None,
                layers,
                instruction: None,
                path: Some(path),
                what: vec![what],
            });
        };
        let made = config_was.history.iter().filter(|entry| !entry.empty_layer);
        let made = made.map(|entry| entry.created_by.clone()).nth(layer);
        let mut difference = Difference {
            layer: Some(layer + 1),
            layers,
            instruction: made.flatten(),
            path: None,
            what: Vec::new(),
        };
        let now = decoder(blob(self.again, &is.layers[layer].digest)?)?.1;
        match self.layer_before(&was, layer)? {
            None => difference.what.push(
                "the layer as it was is not in the store any more, so it is not known in what it differs"
                    .to_owned(),
            ),
            Some(before) => match first_difference(decoder(before)?.1, now)? {
                Some(found) => {
                    difference.path = Some(found.path);
                    difference.what = found.what;
                }
                None => difference.what.push("the order of its entries".to_owned()),
            },
        }
        Ok(difference)
    }

    /// The layer as it was made.
    fn layer_before(&self, was: &Manifest, layer: usize) -> Compared<Option<Box<dyn Read + Send>>> {
        let digest = was.layers[layer].digest;
        if self.store.has_blob(&digest) {
            return Ok(Some(Box::new(self.store.open_blob(&digest)?)));
        }
        if self.store.image(&self.recorded.to_string())?.is_none() {
            return Ok(None);
        }
        let request = SaveRequest {
            store: self.store.path().to_owned(),
            images: vec![(self.recorded, Vec::new())],
            output: Output::Oci(ImageOutput {
                dest: Destination::Path(self.before.to_owned()),
                packing: Packing::Directory,
                ..as_stored()
            }),
            joined: None,
        };
        let null = File::open("/dev/null")?;
        use std::os::fd::AsFd as _;
        let saved = self
            .backend
            .save(request, self.work, null.as_fd(), self.events);
        saved.map_err(|failures| {
            failures
                .first()
                .map(ToString::to_string)
                .unwrap_or_default()
        })?;
        Ok(Some(Box::new(blob(self.before, &digest)?)))
    }
}

fn blob(layout: &Path, digest: &Digest) -> std::io::Result<File> {
    File::open(layout.join("blobs/sha256").join(digest.hex()))
}

/// The first field that is not the same, with what it was and is.
fn fields_differ<T: Serialize>(was: &T, is: &T) -> Option<(String, String)> {
    let (was, is) = (
        serde_json::to_value(was).ok()?,
        serde_json::to_value(is).ok()?,
    );
    let (path, was, is) = differing(String::new(), &was, &is)?;
    Some((path, format!("{was} -> {is}")))
}

fn differing(path: String, was: &Value, is: &Value) -> Option<(String, Value, Value)> {
    let below = |name: &str| match path.as_str() {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    match (was, is) {
        (Value::Object(one), Value::Object(other)) => one
            .keys()
            .chain(other.keys())
            .find_map(|name| differing(below(name), &was[name], &is[name])),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            (0..one.len()).find_map(|at| differing(below(&at.to_string()), &one[at], &other[at]))
        }
        _ => (was != is).then(|| (path.clone(), was.clone(), is.clone())),
    }
}
