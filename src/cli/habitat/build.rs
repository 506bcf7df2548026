//! `habitat build`: the image of a habitat.

use std::path::PathBuf;

use super::super::args::HabitatBuildArguments;
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::Common;
use super::{Ready, phases};
use crate::engine::work::NoCache;
use crate::habitat::Purpose;

pub(super) fn run(
    arguments: HabitatBuildArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
    let mut common = Common::new(arguments.common, environment)?;
    ready.fill(&mut common.work, environment)?;
    if let Some(target) = &arguments.target {
        let id = ready.phase(target, "--target")?;
        let phase = ready.rendered.phases.iter().find(|phase| phase.id == id);
        common.work.target = phase.and_then(|phase| phase.stages.last().cloned());
    }
    if arguments.rebuild {
        common.work.no_cache = NoCache::Everything;
    } else if let Some(from) = &arguments.rebuild_from {
        common.work.no_cache = NoCache::Stages(ready.stages_from(from)?);
    }
    if arguments.show_phases {
        return phases::show(&common.work, &store, arguments.format)
            .map_err(|stop| ready.with_texts(stop));
    }
    if !common.home_allowed && !ready.plan.home_files.is_empty() {
        let stop = ready.config.stop(&ready.plan.home_files);
        return Err(Stop {
            exit: Exit::Refused,
            ..stop
        });
    }
    if common.tags.is_empty() && arguments.target.is_none() {
        common
            .tags
            .push(format!("localhost/habitat/{}:latest", ready.plan.name()));
    }
    common
        .build(store, environment)
        .map_err(|stop| ready.with_texts(stop))
}
