//! `habitat build`: the image of a habitat.

use std::path::PathBuf;

use super::super::args::habitat::BuildArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::{self, Draft};
use super::phases::{self, How};
use super::verdicts::Verdicts;
use super::{Ready, steering};
use crate::engine::lock::Mode;
use crate::engine::work::NoCache;
use crate::habitat::Purpose;

pub(super) fn run(
    arguments: BuildArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let steering = &arguments.steering;
    let ready = Ready::steered(&arguments.habitat, Purpose::Build, steering, environment)?;
    let mut draft = Draft::new(arguments.draft, environment)?;
    ready.fill(&mut draft.work, environment)?;
    steering::apply(steering, &ready, &mut draft.work)?;
    if let Some(target) = &arguments.target {
        let phase = steering::phase(target, "--target")?;
        draft.work.target = ready.stages_of(phase).pop();
    }
    if arguments.rebuild {
        draft.work.no_cache = NoCache::Everything;
    } else if let Some(from) = &arguments.rebuild_from {
        draft.work.no_cache =
            NoCache::Stages(ready.stages_from(steering::phase(from, "--rebuild-from")?));
    }
    if arguments.frozen {
        ready.lock(&mut draft.work)?.mode = Mode::Frozen;
    }
    if arguments.show_phases {
        return phases::show(
            &draft.work,
            &store,
            arguments.format,
            How::of(arguments.verbose),
        )
        .map_err(|stop| ready.with_texts(stop));
    }
    if !ready.plan.foreign_platforms.is_empty() {
        return Err(ready.refused(&ready.plan.foreign_platforms));
    }
    ready.refuse_home(&draft)?;
    if draft.tags.is_empty() && draft.work.target.is_none() {
        draft.tags.push(ready.tag());
    }
    let verdicts = Verdicts::default();
    let built = draft.build_heard(store, environment, &|event| verdicts.hear(event));
    if let Some(path) = &arguments.junit {
        request::write_file(path, &verdicts.of(&ready).junit())?;
    }
    let outcome = built.map_err(|stop| ready.with_texts(stop))?;
    ready.record(&outcome.downloads)?;
    Ok(Exit::Done)
}
