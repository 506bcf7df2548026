//! Images of registries that only get another name and other notes: no file of them changes, so they need not be unpacked.

use crate::engine::base::{BaseImage, Blobs, of_registry};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::images;
use crate::engine::plan::Planned;
use crate::engine::solve::{self, Session};
use crate::engine::work::Freshness;
use crate::graph::Op;
use crate::ship::export::Output;
use crate::store::Store;

/// The image of a registry that the target is, if no step changes a file of it.
pub(super) fn bare_image(planned: &Planned) -> Option<&BaseImage> {
    let Op::Source(source) = &planned.lowered.graph.node(planned.lowered.target).op else {
        return None;
    };
    let image = planned.images.get(source)?;
    matches!(image.blobs, Blobs::Registry(_)).then_some(image)
}

pub(super) fn tree_of(image: &BaseImage) -> solve::Tree {
    solve::Tree::new(image.layers.iter().map(|layer| layer.snapshot).collect())
}

/// Whether all layers are here, unpacked or not.
pub(super) fn is_here(image: &BaseImage, store: &Store) -> bool {
    image.layers.iter().all(|layer| {
        store.has_snapshot(&layer.snapshot) || store.has_blob(&layer.descriptor.digest)
    })
}

/// Whether an output is made of an image's files, and not of its layers.
pub(super) fn has_files(output: &Output) -> bool {
    matches!(output, Output::Tar { .. } | Output::Local { .. })
}

/// Fetches what is not here of an image, which is not unpacked.
pub(super) fn fetch(session: &Session<'_>, image: &BaseImage) -> Result<(), Vec<Failure>> {
    let (Blobs::Registry(name), false) = (&image.blobs, is_here(image, session.store)) else {
        return Ok(());
    };
    if session.work.freshness == Freshness::Never {
        let message =
            format!("layers of {name} are not in the store, and --offline forbids to fetch them");
        return Err(vec![
            Failure::new(FailureKind::Source, "solve::offline", message)
                .with_help("build once without --offline"),
        ]);
    }
    images::fetch_layers(
        session.store,
        &session.registries,
        name,
        image,
        session.events,
    )
    .map_err(|error| vec![of_registry(&error)])
}
