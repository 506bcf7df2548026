//! Which phases are built: `--skip`, `--only`, and phases by their names and numbers.

use std::collections::BTreeSet;

use super::super::args::habitat::SteeringArguments;
use super::super::report::Stop;
use super::Ready;
use crate::dockerfile::suggest::nearest;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{NoCache, Work};
use crate::habitat::{PHASES, PhaseId};

/// The phase of this name or number; `flag` is what named it.
pub(super) fn phase(wanted: &str, flag: &str) -> Result<PhaseId, Stop> {
    PhaseId::find(wanted).ok_or_else(|| {
        let names: Vec<&str> = PHASES.iter().map(|row| row.name).collect();
        let all = format!("the phases are {}", names.join(", "));
        let help = match nearest(wanted, names) {
            Some(near) => format!("did you mean `{near}`? {all}"),
            None => all,
        };
        let message = format!("`{flag} {wanted}`: there is no such phase");
        Failure::new(FailureKind::Input, "habitat::unknown_phase", message)
            .with_help(help)
            .into()
    })
}

/// The phases that `--skip` names.
pub(super) fn skipped(steering: &SteeringArguments) -> Result<BTreeSet<PhaseId>, Stop> {
    let mut skipped = BTreeSet::new();
    for wanted in &steering.skip {
        let phase = phase(wanted, "--skip")?;
        let refused = if phase == PhaseId::BASE {
            Some(("the base cannot be skipped", "everything is built on it"))
        } else if steering.only.as_deref().and_then(PhaseId::find) == Some(phase) {
            Some((
                "one phase is both skipped and the only one",
                "leave it out of one of the two",
            ))
        } else {
            None
        };
        if let Some((why, help)) = refused {
            let message = format!("`--skip {wanted}`: {why}");
            let failure = Failure::new(FailureKind::Input, "habitat::bad_skip", message);
            return Err(failure.with_help(help).into());
        }
        skipped.insert(phase);
    }
    Ok(skipped)
}

/// Marks what is skipped, and ends the build after the only phase that is to run.
pub(super) fn apply(
    steering: &SteeringArguments,
    ready: &Ready,
    work: &mut Work,
) -> Result<(), Stop> {
    let skipped = skipped(steering)?;
    for stages in &mut work.phases {
        stages.skipped = skipped.iter().any(|phase| phase.name() == stages.name);
    }
    if let Some(only) = &steering.only {
        let stages = ready.stages_of(phase(only, "--only")?);
        work.target = stages.last().cloned();
        work.no_cache = NoCache::Stages(stages);
    }
    Ok(())
}
