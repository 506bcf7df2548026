//! Writes a build down while it runs: what is counted, what its steps print, and at its end one line of the history. That
//! fails no build.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::super::{BuildRequest, Outcome};
use crate::engine::clock::Clock;
use crate::engine::failure::Failure;
use crate::event::{BuildEvent, EventSink, Status, StepOrigin};
use crate::store::{BuildLog, BuildRecord, History, StepRecord};

/// How many of the steps that were run are remembered one by one.
const STEPS_MAX: usize = 100;
/// How many errors of a build are remembered.
const ERRORS_MAX: usize = 20;
/// How much of an instruction or error is remembered.
const TEXT_CHARS_MAX: usize = 200;

/// Listens to a build before those who show it.
pub(super) struct Recorder<'a> {
    events: &'a dyn EventSink,
    history: History,
    id: Option<String>,
    started: Instant,
    started_ms: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    run: u32,
    cached: u32,
    ran: Vec<StepRecord>,
    log: Option<BuildLog>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(store: &Path, events: &'a dyn EventSink) -> Self {
        Self {
            events,
            history: History::of(store),
            id: History::new_id().ok(),
            started: Instant::now(),
            started_ms: Clock::system().now().as_millis() as u64,
            seen: Mutex::default(),
        }
    }

    /// How many steps were run, and how many were there.
    pub(super) fn steps(&self) -> (u32, u32) {
        let seen = self.lock();
        (seen.run, seen.cached)
    }

    pub(super) fn duration_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Writes down how the build ended.
    pub(super) fn finish(
        &self,
        request: &BuildRequest,
        status: Status,
        built: &Result<Outcome, Vec<Failure>>,
    ) {
        let Some(id) = &self.id else {
            return;
        };
        let mut seen = self.lock();
        let outcome = built.as_ref().ok();
        let failures = built.as_ref().err().map_or(&[][..], Vec::as_slice);
        let record = BuildRecord {
            id: id.clone(),
            project: request.work.project.clone(),
            target: request.work.target.clone(),
            names: outcome.map_or_else(|| request.tags.clone(), |outcome| outcome.names.clone()),
            status,
            started_ms: self.started_ms,
            duration_ms: self.duration_ms(),
            steps_run: seen.run,
            steps_cached: seen.cached,
            ran: std::mem::take(&mut seen.ran),
            digest: outcome.map(|outcome| outcome.manifest.digest),
            errors: failures.iter().take(ERRORS_MAX).map(told).collect(),
            has_log: seen.log.take().is_some(),
        };
        drop(self.history.append(&record));
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: &BuildEvent) {
        match event {
            BuildEvent::StepStarted { origin } => {
                let line = format!(
                    "#{} [{}] {}",
                    origin.step,
                    origin.stage,
                    first_line(&origin.name)
                );
                self.log(&line);
            }
            BuildEvent::StepLog { origin, text, .. } => {
                self.log(&format!("#{} {text}", origin.step));
            }
            BuildEvent::StepDone { cached: true, .. } => self.lock().cached += 1,
            BuildEvent::StepDone {
                origin,
                duration_ms,
                ..
            } => {
                self.ran(origin, *duration_ms, false);
                self.log(&format!(
                    "#{} DONE {:.1}s",
                    origin.step,
                    *duration_ms as f64 / 1000.0
                ));
            }
            // A step that failed was executed too.
            BuildEvent::StepFailed {
                origin, message, ..
            } => {
                self.ran(origin, 0, true);
                self.log(&format!("#{} ERROR {message}", origin.step));
            }
            _ => {}
        }
    }

    fn ran(&self, origin: &StepOrigin, duration_ms: u64, failed: bool) {
        let mut seen = self.lock();
        seen.run += 1;
        if seen.ran.len() < STEPS_MAX {
            seen.ran.push(StepRecord {
                stage: origin.stage.clone(),
                name: first_line(&origin.name),
                duration_ms,
                failed,
            });
        }
    }

    fn log(&self, line: &str) {
        let mut seen = self.lock();
        if seen.log.is_none() {
            seen.log = self
                .id
                .as_ref()
                .and_then(|id| self.history.new_log(id).ok());
        }
        if let Some(log) = &mut seen.log {
            log.line(line);
        }
    }
}

impl EventSink for Recorder<'_> {
    fn emit(&self, event: BuildEvent) {
        self.note(&event);
        self.events.emit(event);
    }
}

fn first_line(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    first.chars().take(TEXT_CHARS_MAX).collect()
}

fn told(failure: &Failure) -> String {
    let mut text = match &failure.place {
        Some(place) => format!("{}:{}: {}", place.file, place.line, failure.message),
        None => failure.message.clone(),
    };
    for cause in &failure.causes {
        text.push_str(&format!(": {cause}"));
    }
    text.chars().take(TEXT_CHARS_MAX * 4).collect()
}
