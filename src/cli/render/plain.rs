//! `--progress plain`: every line, as it comes, each with the number of the step it belongs to.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;

use super::{age, pause, place, seconds, size, title};
use crate::event::{BuildEvent, EventSink, Status, StepOrigin};

/// Writes events as plain lines.
pub(in crate::cli) struct Plain<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    numbers: HashMap<String, usize>,
}

impl<W: Write + Send> Plain<W> {
    pub(in crate::cli) fn new(out: W) -> Self {
        Self {
            state: Mutex::new(State {
                out,
                numbers: HashMap::new(),
            }),
        }
    }
}

impl<W: Write> State<W> {
    fn number(&mut self, name: &str) -> usize {
        let next = self.numbers.len() + 1;
        *self.numbers.entry(name.to_owned()).or_insert(next)
    }

    fn line(&mut self, name: &str, text: &str) {
        let number = self.number(name);
        self.say(format!("#{number} {text}"));
    }

    /// Writes a line in one piece.
    fn say(&mut self, mut line: String) {
        line.push('\n');
        // A reader that went away does not end the build.
        drop(self.out.write_all(line.as_bytes()));
    }

    fn step(&mut self, origin: &StepOrigin, text: &str) {
        self.line(&origin.step, text);
    }

    fn show(&mut self, event: &BuildEvent) {
        match event {
            // What a test says is in its log, and how it ended in its step.
            BuildEvent::BuildStarted { .. } | BuildEvent::TestDone { .. } => {}
            BuildEvent::StepStarted { origin } => self.step(origin, &title(origin, 200)),
            BuildEvent::StepProgress {
                origin,
                done,
                total,
                unit,
            } => {
                self.step(origin, &format!("{done}/{total} {unit}"));
            }
            BuildEvent::StepLog { origin, text, .. } => self.step(origin, &format!("| {text}")),
            BuildEvent::StepDone {
                origin,
                cached: true,
                ..
            } => {
                self.step(origin, &format!("{} CACHED", title(origin, 200)));
            }
            BuildEvent::StepDone {
                origin,
                duration_ms,
                ..
            } => {
                self.step(origin, &format!("DONE {}", seconds(*duration_ms)));
            }
            BuildEvent::StepFailed {
                origin, message, ..
            } => self.step(origin, &format!("ERROR {message}")),
            BuildEvent::SourceStarted { source } => self.line(source, source),
            BuildEvent::SourceProgress {
                source,
                bytes,
                total,
            } => {
                let text = if *total == 0 {
                    size(*bytes)
                } else {
                    format!("{} of {}", size(*bytes), size(*total))
                };
                self.line(source, &text);
            }
            BuildEvent::SourceDone {
                source,
                cached,
                bytes,
                resolved,
                age_s,
            } => {
                let mut text = if *cached {
                    "CACHED".to_owned()
                } else {
                    format!("DONE {}", size(*bytes))
                };
                if let Some(resolved) = resolved {
                    text.push_str(&format!(" {resolved}"));
                }
                if let Some(age_s) = age_s {
                    text.push_str(&format!(" (asked {} ago; --pull asks now)", age(*age_s)));
                }
                self.line(source, &format!("{source} {text}"));
            }
            BuildEvent::SourceFailed { source, message } => {
                self.line(source, &format!("ERROR {message}"))
            }
            BuildEvent::PushStarted { image } => self.line(image, &format!("push {image}")),
            BuildEvent::PushProgress {
                image,
                bytes,
                total,
            } => self.line(image, &format!("{} of {}", size(*bytes), size(*total))),
            BuildEvent::PushDone {
                image,
                digest,
                bytes,
                ..
            } => self.line(image, &format!("PUSHED {} {digest}", size(*bytes))),
            BuildEvent::Waiting {
                host,
                reason,
                attempt,
                attempts,
                wait_ms,
            } => {
                self.say(pause(host, reason, (*attempt, *attempts), *wait_ms));
            }
            BuildEvent::Warning {
                code,
                message,
                file,
                line,
            } => {
                let place = place(file.as_deref(), *line);
                self.say(format!("warning: {code}: {message}{place}"));
            }
            BuildEvent::BuildDone {
                status,
                steps_run,
                steps_cached,
                duration_ms,
                ..
            } => {
                let word = match status {
                    Status::Ok => "built",
                    Status::Failed => "failed",
                    Status::Cancelled => "cancelled",
                };
                let took = seconds(*duration_ms);
                self.say(format!(
                    "{word} in {took}: {steps_run} steps run, {steps_cached} cached"
                ));
            }
        }
        drop(self.out.flush());
    }
}

impl<W: Write + Send> EventSink for Plain<W> {
    fn emit(&self, event: BuildEvent) {
        if let Ok(mut state) = self.state.lock() {
            state.show(&event);
        }
    }
}
