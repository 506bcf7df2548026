//! The layers of an image that are not in the store yet, in their order: those of a registry are unpacked while they come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::inputs::{Made, Tree};
use super::session::{Session, Workshop};
use super::sources::Obtained;
use crate::digest::Key;
use crate::engine::base::{BaseImage, Blobs, of_registry};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::layers;
use crate::engine::work::Freshness;
use crate::event::BuildEvent;
use crate::image::Name;
use crate::net;
use crate::store::Growing;

/// So many layers are fetched at once.
const LAYERS_AT_ONCE: usize = 4;
/// How often it is said how much is here.
const SHOWN_EVERY: Duration = Duration::from_millis(250);

/// An image that is being unpacked.
struct Unpacking<'a> {
    session: &'a Session<'a>,
    workshop: &'a Workshop<'a>,
    image: &'a BaseImage,
    name: &'a str,
    /// The places of the layers that are missing.
    missing: Vec<usize>,
}

impl Session<'_> {
    /// Unpacks the layers of an image that are not here yet.
    pub(super) fn unpack_image(
        &self,
        workshop: &Workshop,
        image: Option<&BaseImage>,
        name: &str,
    ) -> Result<Obtained, Failure> {
        let Some(image) = image else {
            return Err(Failure::new(
                FailureKind::Bug,
                "solve::image",
                format!("{name} was not planned"),
            ));
        };
        let places = 0..image.layers.len();
        let unpacking = Unpacking {
            session: self,
            workshop,
            image,
            name,
            missing: places
                .filter(|place| !workshop.snapshots.has(&image.layers[*place].snapshot))
                .collect(),
        };
        match &image.blobs {
            Blobs::Store | Blobs::Layout(_) => {
                for place in &unpacking.missing {
                    // Of what it was built on a blob may have been deleted since.
                    let digest = &image.layers[*place].descriptor.digest;
                    if let Some((registry, _)) = image.registry_of(digest)
                        && !self.store.has_blob(digest)
                    {
                        unpacking.fetch(&registry, *place, &|_| (), None)?;
                    }
                    unpacking.unpack(*place)?;
                }
            }
            Blobs::Registry(registry) => unpacking.unpack_coming(registry)?,
        }
        let missing = unpacking.missing.iter();
        let bytes = missing
            .map(|place| image.layers[*place].descriptor.size)
            .sum();
        Ok(Obtained {
            made: Made::Tree(Tree::new(unpacking.below(image.layers.len()))),
            resolved: image.digest.to_string(),
            bytes,
            is_new: bytes > 0,
        })
    }
}

impl Unpacking<'_> {
    fn below(&self, place: usize) -> Vec<Key> {
        let below = self.image.layers[..place].iter();
        below.map(|layer| layer.snapshot).collect()
    }

    /// Unpacks a layer whose blob is at hand.
    fn unpack(&self, place: usize) -> Result<(), Failure> {
        let _core = self.workshop.cores.take();
        let (session, below) = (self.session, self.below(place));
        let upon = (&self.workshop.snapshots, below.as_slice());
        let layer = &self.image.layers[place];
        layers::unpack(
            session.store,
            upon,
            self.image,
            layer,
            self.name,
            session.clock,
        )
    }

    /// Unpacks layers in their order, each while it comes, and fetches the next ones meanwhile.
    fn unpack_coming(&self, registry: &Name) -> Result<(), Failure> {
        let (session, layers) = (self.session, &self.image.layers);
        let sizes = self
            .missing
            .iter()
            .map(|place| layers[*place].descriptor.size);
        let total = sizes.sum();
        let here = AtomicU64::new(0);
        let shown = Mutex::new(Instant::now());
        let progress = |bytes| {
            let here = here.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.elapsed() >= SHOWN_EVERY {
                *shown = Instant::now();
                session.events.emit(BuildEvent::SourceProgress {
                    source: self.name.to_owned(),
                    bytes: here,
                    total,
                });
            }
        };
        let fetch =
            |place: usize, reader: Option<&Growing>| self.fetch(registry, place, &progress, reader);
        let jobs: Vec<(usize, Growing)> = self
            .missing
            .iter()
            .map(|place| (*place, Growing::default()))
            .collect();
        let (said, fetched) = mpsc::channel();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (fetch, jobs, is_over) = (&fetch, &jobs, &is_over);
            scope.spawn(move || {
                drop(net::fetch_all(jobs, LAYERS_AT_ONCE, |(place, growing)| {
                    if is_over.load(Ordering::Relaxed) {
                        return Err(());
                    }
                    let result = fetch(*place, Some(growing));
                    let is_failed = result.is_err();
                    // Whoever waits has given up where this cannot be said.
                    drop(said.send((*place, result)));
                    growing.end();
                    if is_failed { Err(()) } else { Ok(()) }
                }));
                // Those that nothing was done for any more.
                jobs.iter().for_each(|(_, growing)| growing.end());
            });
            let mut whole = BTreeSet::new();
            let done = jobs.iter().try_for_each(|(place, growing)| {
                let place = *place;
                // That takes as long as the line wants; others shall have the core meanwhile.
                let coming = growing.read().ok().flatten().map(|blob| {
                    let below = self.below(place);
                    let upon = (&self.workshop.snapshots, below.as_slice());
                    layers::unpack_blob(upon, &layers[place], blob)
                });
                while !whole.contains(&place) {
                    let (place, result) = fetched.recv().map_err(|_| gone(self.name))?;
                    result?;
                    whole.insert(place);
                }
                if let Some(Ok(unpacked)) = coming {
                    let snapshots = &self.workshop.snapshots;
                    let layer = &layers[place];
                    return unpacked.keep(
                        session.store,
                        snapshots,
                        layer,
                        self.name,
                        session.clock,
                    );
                }
                // What was wrong with it as it came, the whole blob tells.
                self.unpack(place).or_else(|failure| {
                    // One that was damaged was put aside: the registry has it whole.
                    if session.store.has_blob(&layers[place].descriptor.digest) {
                        return Err(failure);
                    }
                    fetch(place, None)?;
                    self.unpack(place)
                })
            });
            is_over.store(done.is_err(), Ordering::Relaxed);
            done
        })
    }

    fn fetch(
        &self,
        registry: &Name,
        place: usize,
        progress: &(dyn Fn(u64) + Sync),
        reader: Option<&Growing>,
    ) -> Result<u64, Failure> {
        let (session, name) = (self.session, self.name);
        let blob = &self.image.layers[place].descriptor;
        let is_here = session
            .store
            .blob_size(&blob.digest)
            .is_ok_and(|size| size == blob.size);
        if !is_here && session.work.freshness == Freshness::Never {
            let message = format!(
                "layers of {name} are not in the store, and --offline forbids to fetch them"
            );
            return Err(Failure::new(FailureKind::Source, "solve::offline", message)
                .with_help("build once without --offline"));
        }
        let fetched = session
            .registries
            .fetch_for(session.store, registry, blob, progress, reader);
        fetched.map_err(|error| of_registry(&error))
    }
}

fn gone(name: &str) -> Failure {
    let message = format!("nobody fetches the layers of {name} any more");
    Failure::new(FailureKind::Bug, "solve::fetch", message)
}
