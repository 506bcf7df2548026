//! Walks the graph: whatever is ready is looked up, and made where it is not there. Equal work is done once, in this
//! process and between processes: whoever holds the lock of a key makes its result, the others wait and find it.
//!
//! ```text
//! ask.rs       what sources mean now, for those who only want to know
//! context.rs   what has to be fetched before the Dockerfile is known
//! inputs.rs    what a node turns out to be: a tree, a directory, a download
//! look.rs      the keys of a node, from its own fields and what its inputs are; hit or miss
//! reach.rs     what servers are reached with
//! session.rs   what one build has at hand
//! survey.rs    looks at every node and makes nothing: the cached build, and `habitat phases`
//! sources.rs   recalls what a source meant last time, or obtains it
//! pins.rs      what a lock says of them
//! used.rs      what of the store it has used
//! missing.rs   where a file is that a COPY does not find
//! steps.rs     runs RUN, COPY and WORKDIR; mounts.rs what a RUN mounts; log.rs what is shown of its output; tap.rs how a
//!              test is judged; shell.rs a command where the build stands
//! ```
//!
//! A step runs on a thread of its own; a RUN that only waits takes no core, so their number is not bound. What
//! computes (copying, unpacking) is bound by the number of cores.

mod ask;
pub mod context;
pub mod inputs;
mod log;
pub mod look;
mod missing;
mod mounts;
mod pins;
mod reach;
mod session;
mod shell;
mod sources;
mod steps;
pub mod survey;
mod tap;
mod unpack;
mod used;

use std::collections::HashMap;
use std::sync::mpsc;

use super::failure::{Failure, FailureKind, Place};
use super::plan::Planned;
use super::work::OnFailure;
use crate::graph::NodeId;

pub use inputs::{Made, Tree};
pub use reach::{Reach, registries};
pub(in crate::engine) use session::store_failure;
pub use session::{Session, Surroundings, Workshop};
pub use shell::{Shell, ShellEnd, ShellPlace};
pub(in crate::engine) use sources::{DebianAnswer, of_source, reference, shown};

/// Makes the results `wanted` and all that they need.
///
/// # Errors
/// Every step that failed before the rest was called off, or all of them where the work is to go on; at least one.
pub fn solve(
    session: &Session<'_>,
    workshop: &Workshop,
    planned: &Planned,
    wanted: &[NodeId],
) -> Result<HashMap<NodeId, Made>, Vec<Failure>> {
    let graph = &planned.lowered.graph;
    let needed = graph.needed(wanted);
    let mut waiting: HashMap<NodeId, usize> = HashMap::new();
    let mut users: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for id in &needed {
        let mut inputs = graph.node(*id).op.inputs();
        inputs.sort_unstable();
        inputs.dedup();
        waiting.insert(*id, inputs.len());
        for input in inputs {
            users.entry(input).or_default().push(*id);
        }
    }
    let mut made: HashMap<NodeId, Made> = HashMap::new();
    let mut failures = Vec::new();
    let on_failure = session.work.on_failure;
    std::thread::scope(|scope| {
        let (report, reports) = mpsc::channel();
        let start = |id: NodeId, made: &HashMap<NodeId, Made>| {
            let report = report.clone();
            let inputs: Vec<Made> = graph
                .node(id)
                .op
                .inputs()
                .iter()
                .map(|input| made[input].clone())
                .collect();
            scope.spawn(move || {
                let result = session.make(workshop, planned, id, &inputs);
                // The receiver outlives every sender.
                drop(report.send((id, result)));
            });
        };
        let mut running = 0;
        for id in needed.iter().filter(|id| waiting[id] == 0) {
            start(*id, &made);
            running += 1;
        }
        while running > 0 {
            let Ok((id, result)) = reports.recv() else {
                break;
            };
            running -= 1;
            match result {
                Ok(result) => {
                    made.insert(id, result);
                    if !failures.is_empty() && on_failure == OnFailure::CallOff {
                        continue;
                    }
                    for user in users.get(&id).into_iter().flatten() {
                        let Some(missing) = waiting.get_mut(user) else {
                            continue;
                        };
                        *missing -= 1;
                        if *missing == 0 {
                            start(*user, &made);
                            running += 1;
                        }
                    }
                }
                Err(mut failure) => {
                    if on_failure == OnFailure::CallOff {
                        workshop.cancel.cancel();
                    }
                    // What is added has no line of its own: the first step that adds it has.
                    let adds = |user: &&NodeId| graph.node(**user).op.inputs().first() != Some(&id);
                    let added_by = users.get(&id).into_iter().flatten().filter(adds).min();
                    let step = added_by.and_then(|user| graph.node(*user).step.as_ref());
                    if let (None, None, Some(origin)) = (&failure.place, &graph.node(id).step, step)
                    {
                        failure.place = Some(Place::of(origin));
                    }
                    failures.push(failure);
                }
            }
        }
    });
    // What was called off because of another failure is no news.
    if failures
        .iter()
        .any(|failure: &Failure| failure.kind != FailureKind::Cancelled)
    {
        failures.retain(|failure| failure.kind != FailureKind::Cancelled);
    }
    if failures.is_empty() {
        Ok(made)
    } else {
        Err(failures)
    }
}
