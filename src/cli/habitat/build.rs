//! `habitat build`: the image of a habitat.

use std::path::PathBuf;

use super::super::args::HabitatBuildArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::Draft;
use super::{Ready, phases};
use crate::engine::work::NoCache;
use crate::habitat::Purpose;

pub(super) fn run(
    arguments: HabitatBuildArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
    let mut draft = Draft::new(arguments.draft, environment)?;
    ready.fill(&mut draft.work, environment)?;
    if let Some(target) = &arguments.target {
        let id = ready.phase(target, "--target")?;
        let phase = ready.rendered.phases.iter().find(|phase| phase.id == id);
        draft.work.target = phase.and_then(|phase| phase.stages.last().cloned());
    }
    if arguments.rebuild {
        draft.work.no_cache = NoCache::Everything;
    } else if let Some(from) = &arguments.rebuild_from {
        draft.work.no_cache = NoCache::Stages(ready.stages_from(from)?);
    }
    if arguments.show_phases {
        return phases::show(&draft.work, &store, arguments.format)
            .map_err(|stop| ready.with_texts(stop));
    }
    ready.refuse_home_files(&draft)?;
    if draft.tags.is_empty() && arguments.target.is_none() {
        draft
            .tags
            .push(format!("localhost/habitat/{}:latest", ready.plan.name()));
    }
    draft
        .build(store, environment)
        .map_err(|stop| ready.with_texts(stop))
}
