//! Writes a build down while it runs: what is counted, what its steps print, and at its end one line of the history. That
//! fails no build.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::super::{BuildRequest, Outcome};
use crate::engine::clock::Clock;
use crate::engine::failure::Failure;
use crate::engine::phases::StepReport;
use crate::event::{BuildEvent, EventSink, Status, StepOrigin};
use crate::store::{BuildEnd, BuildLog, BuildRecord, History, StepRecord};

/// How many of the steps that were run are remembered one by one.
const STEPS_MAX: usize = 100;
/// Of how many steps it is remembered why they were run, and how long a reason may be.
const REASONS_MAX: usize = 50;
const REASON_BYTES_MAX: usize = 8 << 10;
/// How many errors of a build are remembered.
const ERRORS_MAX: usize = 20;
/// How much of an instruction or error is remembered.
const TEXT_CHARS_MAX: usize = 200;

/// Listens to a build before those who show it.
pub(super) struct Recorder<'a> {
    events: &'a dyn EventSink,
    request: &'a BuildRequest,
    history: History,
    /// `None`: it is not remembered.
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
    reasons: Vec<serde_json::Value>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(request: &'a BuildRequest, events: &'a dyn EventSink) -> Self {
        let id = (!request.work.aside).then(History::new_id);
        Self {
            events,
            request,
            history: History::of(&request.store),
            id: id.and_then(Result::ok),
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
    pub(super) fn finish(&self, status: Status, built: &Result<Outcome, Vec<Failure>>) {
        let Some(id) = &self.id else {
            return;
        };
        let mut seen = self.lock();
        let outcome = built.as_ref().ok();
        let failures = built.as_ref().err().map_or(&[][..], Vec::as_slice);
        let begun = self.begun(id);
        let record = BuildRecord {
            names: outcome.map_or(begun.names, |outcome| outcome.names.clone()),
            status: status.into(),
            duration_ms: self.duration_ms(),
            steps_run: seen.run,
            steps_cached: seen.cached,
            ran: std::mem::take(&mut seen.ran),
            digest: outcome.map(|outcome| outcome.manifest.digest),
            errors: failures.iter().take(ERRORS_MAX).map(told).collect(),
            has_log: seen.log.is_some(),
            reasons: std::mem::take(&mut seen.reasons),
            ..begun
        };
        drop(self.history.append(&record));
        // Whoever finds the log free now finds the record as well.
        seen.log = None;
    }

    /// Takes in why steps were run.
    pub(super) fn reasons(&self, reports: &[StepReport]) {
        let mut seen = self.lock();
        for report in reports {
            let reason = serde_json::to_value(report).unwrap_or_default();
            if seen.reasons.len() < REASONS_MAX && reason.to_string().len() < REASON_BYTES_MAX {
                seen.reasons.push(reason);
            }
        }
    }

    /// What is known of the build from its beginning on.
    fn begun(&self, id: &str) -> BuildRecord {
        let request = self.request;
        BuildRecord {
            id: id.to_owned(),
            project: request.work.project.clone(),
            target: request.work.target.clone(),
            names: request.tags.clone(),
            status: BuildEnd::Running,
            started_ms: self.started_ms,
            duration_ms: 0,
            steps_run: 0,
            steps_cached: 0,
            ran: Vec::new(),
            digest: None,
            errors: Vec::new(),
            has_log: true,
            reasons: Vec::new(),
        }
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
                .and_then(|id| self.history.new_log(&self.begun(id)).ok());
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
