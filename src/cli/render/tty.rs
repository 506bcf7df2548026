//! `--progress tty`: what is done scrolls by, what runs is a small region below it that is drawn anew. A running step
//! shows its last lines of output.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{age, pause, place, seconds, size, title};
use crate::event::{BuildEvent, EventSink, Status};

const LOG_LINES: usize = 4;

/// Draws events on a terminal.
pub(in crate::cli) struct Tty<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    width: usize,
    color: Color,
    running: Vec<Running>,
    drawn: usize,
    cached: u32,
}

struct Running {
    key: String,
    title: String,
    started: Instant,
    note: String,
    log: VecDeque<String>,
    /// It is shown for so long; `None`: until it has ended.
    lasts: Option<Duration>,
}

/// Whether escape sequences for colour are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Color {
    On,
    Off,
}

impl<W: Write + Send> Tty<W> {
    /// `width` is the terminal's, in columns.
    pub(in crate::cli) fn new(out: W, width: usize, color: Color) -> Self {
        let state = State {
            out,
            width: width.max(20),
            color,
            running: Vec::new(),
            drawn: 0,
            cached: 0,
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl<W: Write> State<W> {
    fn paint(&self, code: &str, text: &str) -> String {
        match self.color {
            Color::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Color::Off => text.to_owned(),
        }
    }

    fn start(&mut self, key: &str, title: String) {
        let running = Running {
            key: key.to_owned(),
            title,
            started: Instant::now(),
            note: String::new(),
            log: VecDeque::new(),
            lasts: None,
        };
        self.running.push(running);
    }

    fn take(&mut self, key: &str) -> Option<Running> {
        let index = self.running.iter().position(|running| running.key == key)?;
        Some(self.running.remove(index))
    }

    fn running(&mut self, key: &str) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.key == key)
    }

    fn show(&mut self, event: &BuildEvent) {
        let mut said = Vec::new();
        match event {
            BuildEvent::BuildStarted { .. } | BuildEvent::TestDone { .. } => {}
            BuildEvent::StepStarted { origin } => {
                let title = title(origin, self.width.saturating_sub(12));
                self.start(&origin.step, title);
            }
            BuildEvent::StepProgress {
                origin,
                done,
                total,
                unit,
            } => {
                if let Some(running) = self.running(&origin.step) {
                    running.note = format!("{done}/{total} {unit}");
                }
            }
            BuildEvent::StepLog { origin, text, .. } => {
                if let Some(running) = self.running(&origin.step) {
                    running.log.push_back(text.clone());
                    if running.log.len() > LOG_LINES {
                        running.log.pop_front();
                    }
                }
            }
            BuildEvent::StepDone { cached: true, .. } => self.cached += 1,
            BuildEvent::StepDone {
                origin,
                duration_ms,
                ..
            } => {
                self.take(&origin.step);
                let title = title(origin, self.width.saturating_sub(12));
                said.push(format!(
                    "{} {title} {}",
                    self.paint("32", "✓"),
                    self.paint("2", &seconds(*duration_ms))
                ));
            }
            BuildEvent::StepFailed {
                origin, message, ..
            } => {
                self.take(&origin.step);
                let title = title(origin, self.width.saturating_sub(12));
                said.push(format!("{} {title}: {message}", self.paint("31", "✗")));
            }
            BuildEvent::SourceStarted { source } => self.start(source, source.clone()),
            BuildEvent::SourceProgress {
                source,
                bytes,
                total,
            } => {
                if let Some(running) = self.running(source) {
                    running.note = if *total == 0 {
                        size(*bytes)
                    } else {
                        format!("{} of {}", size(*bytes), size(*total))
                    };
                }
            }
            BuildEvent::SourceDone {
                source,
                cached,
                age_s,
                ..
            } => {
                let running = self.take(source);
                if let Some(age_s) = age_s {
                    let note = format!("asked {} ago; --pull asks now", age(*age_s));
                    said.push(format!(
                        "{} {source} {}",
                        self.paint("32", "✓"),
                        self.paint("2", &note)
                    ));
                } else if let (Some(running), false) = (running, cached) {
                    let took = seconds(running.started.elapsed().as_millis() as u64);
                    said.push(format!(
                        "{} {source} {}",
                        self.paint("32", "✓"),
                        self.paint("2", &took)
                    ));
                }
            }
            BuildEvent::SourceFailed { source, message } => {
                self.take(source);
                said.push(format!("{} {source}: {message}", self.paint("31", "✗")));
            }
            BuildEvent::PushStarted { image } => self.start(image, format!("push {image}")),
            BuildEvent::PushProgress {
                image,
                bytes,
                total,
            } => {
                if let Some(running) = self.running(image) {
                    running.note = format!("{} of {}", size(*bytes), size(*total));
                }
            }
            BuildEvent::PushDone { image, bytes, .. } => {
                self.take(image);
                said.push(format!(
                    "{} pushed {image} {}",
                    self.paint("32", "✓"),
                    self.paint("2", &size(*bytes))
                ));
            }
            BuildEvent::Waiting {
                host,
                reason,
                attempt,
                attempts,
                wait_ms,
            } => {
                self.take(host);
                let title = pause(host, reason, (*attempt, *attempts), *wait_ms);
                let title = title.chars().take(self.width.saturating_sub(12)).collect();
                self.start(host, title);
                if let Some(running) = self.running(host) {
                    running.lasts = Some(Duration::from_millis(*wait_ms));
                }
            }
            BuildEvent::Warning {
                code,
                message,
                file,
                line,
            } => {
                let place = place(file.as_deref(), *line);
                said.push(format!(
                    "{} {code}: {message}{place}",
                    self.paint("33", "!")
                ));
            }
            BuildEvent::BuildDone {
                status,
                steps_run,
                steps_cached,
                duration_ms,
                ..
            } => {
                self.running.clear();
                let (code, word) = match status {
                    Status::Ok => ("32", "built"),
                    Status::Failed => ("31", "failed"),
                    Status::Cancelled => ("33", "cancelled"),
                };
                let took = seconds(*duration_ms);
                said.push(format!(
                    "{} in {took}: {steps_run} steps run, {steps_cached} cached",
                    self.paint(code, word)
                ));
            }
        }
        self.draw(&said);
    }

    /// One write: the region goes up and away, then what was said, then the region anew.
    fn draw(&mut self, said: &[String]) {
        let mut frame = String::new();
        if self.drawn > 0 {
            frame.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        for line in said {
            frame.push_str(line);
            frame.push('\n');
        }
        let is_over = |running: &Running| {
            let lasts = running.lasts;
            lasts.is_some_and(|lasts| running.started.elapsed() >= lasts)
        };
        self.running.retain(|running| !is_over(running));
        let mut region = Vec::new();
        for running in &self.running {
            let time = seconds(running.started.elapsed().as_millis() as u64);
            region.push(format!(
                "{} {} {} {}",
                self.paint("36", "▸"),
                running.title,
                running.note,
                self.paint("2", &time)
            ));
            for line in &running.log {
                let line: String = line.chars().take(self.width.saturating_sub(6)).collect();
                region.push(self.paint("2", &format!("    {line}")));
            }
        }
        for line in &region {
            frame.push_str(line);
            frame.push('\n');
        }
        self.drawn = region.len();
        // A terminal that went away does not end the build.
        drop(self.out.write_all(frame.as_bytes()));
        drop(self.out.flush());
    }
}

impl<W: Write + Send> EventSink for Tty<W> {
    fn emit(&self, event: BuildEvent) {
        if let Ok(mut state) = self.state.lock() {
            state.show(&event);
        }
    }
}
