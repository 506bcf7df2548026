//! A build of which every result is there: what this process, the plain user's own, can end by itself. It reads the store and
//! writes names; it sends what is packed already; and never touches a tree.

use super::super::{BuildRequest, Outcome};
use super::bare::{bare_image, is_here, tree_of};
use super::caches::Gate;
use super::export::{self, Layers};
use super::finish::{
    Keeping, allowed, assemble, base_image, epoch, keep, note_shipped, open, parts, remember,
    store_failures,
};
use super::recipe;
use crate::engine::base::Asking;
use crate::engine::cache::{CacheTo, Target};
use crate::engine::clock::Clock;
use crate::engine::contexts::Contexts;
use crate::engine::failure::Failure;
use crate::engine::solve::survey::{Survey, Thoroughness};
use crate::engine::solve::{self, Made, Session};
use crate::event::EventSink;
use crate::ship::export::{Output, Pushing};
use crate::store::History as Builds;

/// Whether a build, if it is found whole, still has to send what it made: that takes its time.
pub(super) fn has_to_send(request: &BuildRequest) -> bool {
    request.outputs.iter().any(is_push)
}

fn is_push(output: &Output) -> bool {
    matches!(output, Output::Image(image) if image.pushing != Pushing::No)
}

/// The build, if all of its results are there, and nothing has to be written but names, or sent but what is packed.
///
/// # Errors
/// If the input is wrong, or a registry does not take it.
pub(super) fn build(
    request: &BuildRequest,
    events: &dyn EventSink,
) -> Result<Option<Outcome>, Vec<Failure>> {
    let is_inline = |to: &CacheTo| to.target == Target::Inline;
    let is_ours = |output: &Output| is_push(output) || *output == Output::CacheOnly;
    if !request.outputs.iter().all(is_ours) || request.cache_to.iter().any(is_inline) {
        return Ok(None);
    }
    let store = open(&request.store)?;
    let kept = store.keep_all().map_err(store_failures)?;
    let steady = store.index().map_err(store_failures)?.at_one_moment();
    // What the look finds is said only if it is the whole build; else the engine child says it.
    let said = Gate::shut(events);
    let contexts = Contexts::of(&request.work);
    let session = Session::new(&request.work, &store, &contexts, Clock::system(), &said);
    let planned = match allowed(&session, Asking::Nobody) {
        Ok(planned) if !planned.is_guessed => planned,
        Err(failures) if !failures.is_empty() => return Err(failures),
        _ => return Ok(None),
    };
    // An image that is only given another name and other notes needs not be unpacked, if it is here.
    let bare = bare_image(&planned).filter(|image| is_here(image, &store));
    let target = planned.lowered.target;
    let look = || {
        let until = Thoroughness::UntilSomethingIsMissing;
        Survey::of(&session, &planned, &[target], until)
    };
    let before = said.said();
    let mut survey = look()?;
    let by_name =
        bare.is_none() && !request.cache_from.is_empty() && !survey.made.contains_key(&target);
    if by_name {
        // What came before the result may have stayed where the cache is.
        session.find_by_name(true);
        said.unsay(before);
        survey = look()?;
    }
    let is_whole = |tree: &solve::Tree| !by_name || store.has_snapshots(tree.layers());
    let tree = match (bare, survey.made.get(&target)) {
        (Some(image), _) => &tree_of(image),
        (None, Some(Made::Tree(tree))) if is_whole(tree) => tree,
        (None, _) => return Ok(None),
    };
    if !store.has_snapshots(tree.layers()) {
        return Ok(None);
    }
    // What a killed build left behind goes with the next one; trees of the container's users only the engine may delete.
    if store.sweep_tmp().map_err(store_failures)?.refused > 0 {
        return Ok(None);
    }
    let Some(parts) = parts(&session, &planned, tree.layers(), |snapshot| {
        store.index()?.diff_id(snapshot)
    })?
    else {
        return Ok(None);
    };
    let assembled = assemble(&session, &planned, parts, None)?;
    let layers = Layers::new(&session, None, base_image(&planned), tree.layers());
    if !export::are_packed(request, &assembled, &layers, epoch(&planned)) {
        return Ok(None);
    }
    survey
        .announce(&session, &planned)
        .map_err(|failure| vec![failure])?;
    remember(&session, &planned, &assembled, tree.layers())?;
    if !Builds::of(&request.store).has_recipe(&assembled.digest()) {
        recipe::note(request, &session, &planned, &assembled, None);
    }
    let named = (tree.layers(), Keeping::Named);
    let mut outcome = keep(request, &session, &planned, &assembled, named)?;
    said.open();
    // What is sent is held by itself: others may delete what they like.
    drop((steady, kept));
    let left = export::write_all(request, &assembled, &layers, epoch(&planned), None)?;
    note_shipped(request, (&session, &planned), left, &mut outcome);
    Ok(Some(outcome))
}
