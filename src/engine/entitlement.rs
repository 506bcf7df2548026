//! What a RUN may ask for only where the command line allows it. It is looked at before anything is built or found in the
//! cache, so that what another build was allowed to make is not handed out to one that was not.

use super::failure::{Failure, FailureKind, Place};
use super::plan::Planned;
use super::work::{Entitlement, Work};
use crate::graph::{Exec, Network, Op, Security};

/// Everything that the steps ask for and the work does not allow.
#[must_use]
pub fn refusals(work: &Work, planned: &Planned) -> Vec<Failure> {
    let graph = &planned.lowered.graph;
    let mut failures = Vec::new();
    for id in graph.needed(&[planned.lowered.target]) {
        let node = graph.node(id);
        let Op::Exec(exec) = &node.op else { continue };
        for entitlement in asked(exec) {
            if work.allow.contains(&entitlement) {
                continue;
            }
            let name = entitlement.name();
            let message = format!("this step needs `{name}`, which is not allowed");
            let (code, way_out) = match entitlement {
                Entitlement::NetworkHost => ("exec::network_host", "leave out `--network=host`"),
                Entitlement::SecurityInsecure => {
                    ("exec::security", "leave out `--security=insecure`")
                }
            };
            let mut failure = Failure::new(FailureKind::Refused, code, message)
                .with_help(format!("allow it with `--allow {name}`, or {way_out}"));
            failure.place = node.step.as_ref().map(Place::of);
            failures.push(failure);
        }
    }
    failures
}

fn asked(exec: &Exec) -> impl Iterator<Item = Entitlement> {
    let network = (exec.network == Network::Host).then_some(Entitlement::NetworkHost);
    let security = (exec.security == Security::Insecure).then_some(Entitlement::SecurityInsecure);
    network.into_iter().chain(security)
}
