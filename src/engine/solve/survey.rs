//! A look at every node of a plan, without making anything. Where all results are there, that is the whole build; else it
//! says which step would run.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use super::inputs::Made;
use super::session::Session;
use crate::digest::Key;
use crate::engine::failure::{Failure, Place};
use crate::engine::plan::Planned;
use crate::graph::{NodeId, Op};

/// Whether a step's result is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is.
    Cached,
    /// It is built although it may be there.
    Forced,
    /// It is not.
    Missing,
}

/// What was found of all nodes.
#[derive(Debug)]
pub struct Survey {
    /// Of each step.
    pub seen: HashMap<NodeId, State>,
    /// The results that are there.
    pub made: HashMap<NodeId, Made>,
    /// Snapshots that were seen to be here. A step's result has those of all steps below it: each is looked for once.
    here: RefCell<HashSet<Key>>,
}

impl Survey {
    /// Looks at all that `wanted` needs. With `stop_early` it ends at the first node that is not there.
    ///
    /// # Errors
    /// If something that a step reads of this machine is not there.
    pub fn of(
        session: &Session<'_>,
        planned: &Planned,
        wanted: &[NodeId],
        thoroughness: Thoroughness,
    ) -> Result<Self, Vec<Failure>> {
        let graph = &planned.lowered.graph;
        let mut survey = Self {
            seen: HashMap::new(),
            made: HashMap::new(),
            here: RefCell::default(),
        };
        let mut failures = Vec::new();
        for id in graph.needed(wanted) {
            let node = graph.node(id);
            let inputs: Vec<Option<Made>> = node
                .op
                .inputs()
                .iter()
                .map(|input| survey.made.get(input).cloned())
                .collect();
            match survey.look_at(session, planned, id, &inputs, thoroughness) {
                Ok(true) => {}
                Ok(false) if thoroughness == Thoroughness::UntilSomethingIsMissing => break,
                Ok(false) => {}
                Err(mut failure) => {
                    if let (None, Some(origin)) = (&failure.place, &node.step) {
                        failure.place = Some(Place::of(origin));
                    }
                    failures.push(failure);
                }
            }
        }
        if failures.is_empty() {
            Ok(survey)
        } else {
            Err(failures)
        }
    }

    /// Says that every step was found.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn announce(&self, session: &Session<'_>, planned: &Planned) -> Result<(), Failure> {
        for (id, node) in planned.lowered.graph.iter() {
            if let (Some(origin), true) = (&node.step, self.seen.contains_key(&id)) {
                if let Some((record, _)) = session.result_of(id) {
                    session.say_test_again(&node.op, origin, &record)?;
                }
                session.step_done(origin, true, 0);
            }
        }
        Ok(())
    }

    /// Whether the node's result is there.
    fn look_at(
        &mut self,
        session: &Session<'_>,
        planned: &Planned,
        id: NodeId,
        inputs: &[Option<Made>],
        thoroughness: Thoroughness,
    ) -> Result<bool, Failure> {
        let node = planned.lowered.graph.node(id);
        let Some(origin) = &node.step else {
            let made = match &node.op {
                Op::Source(source) => {
                    let made = session.recall(planned, id, source)?;
                    if let Some(Made::Tree(tree)) = &made {
                        session.note_layers(id, tree.layers());
                    }
                    made
                }
                _ => Some(Made::Tree(super::Tree::new(Vec::new()))),
            };
            let there = made.is_some();
            self.made.extend(made.map(|made| (id, made)));
            return Ok(there);
        };
        let forced = session.work.no_cache.forces(&origin.stage);
        let mut listed = match thoroughness {
            Thoroughness::Complete => Some(Vec::new()),
            Thoroughness::UntilSomethingIsMissing => None,
        };
        let own = session.own_fields(&node.op, inputs, listed.as_mut())?;
        session.note_own(id, own.clone());
        session.note_listed(id, listed.unwrap_or_default());
        let keys = match inputs.iter().all(Option::is_some) {
            true => Some(session.keys(own.clone(), &node.op, inputs, None)?),
            false => None,
        };
        let hit = match &keys {
            Some(keys) if !forced => session.look_where(keys, |snapshot| {
                if self.here.borrow().contains(snapshot) {
                    return true;
                }
                let is_here = session.store.has_snapshot(snapshot);
                if is_here {
                    self.here.borrow_mut().insert(*snapshot);
                }
                is_here
            })?,
            _ => None,
        };
        let state = match (hit, keys) {
            (Some(hit), Some(keys)) => {
                self.made
                    .insert(id, Made::Tree(super::Tree::new(hit.record.layers.clone())));
                session.note_result(id, keys, hit.record);
                State::Cached
            }
            _ if forced => State::Forced,
            _ => State::Missing,
        };
        let there = state == State::Cached;
        self.seen.insert(id, state);
        Ok(there)
    }
}

/// How far a survey goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// To the end.
    Complete,
    /// To the first node whose result is not there.
    UntilSomethingIsMissing,
}
