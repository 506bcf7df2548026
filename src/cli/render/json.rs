//! `--progress json`: one object a line, as docs/progress-json.md has it.

use std::io::Write;
use std::sync::Mutex;
use std::time::Instant;

use crate::event::{BuildEvent, EventSink};

/// Writes each event as a line of JSON, with the version of the format and the time since the start.
pub(in crate::cli) struct JsonLines<W> {
    started: Instant,
    out: Mutex<W>,
}

impl<W: Write + Send> JsonLines<W> {
    pub(in crate::cli) fn new(out: W) -> Self {
        Self {
            started: Instant::now(),
            out: Mutex::new(out),
        }
    }
}

impl<W: Write + Send> EventSink for JsonLines<W> {
    fn emit(&self, event: BuildEvent) {
        let mut line = serde_json::Map::new();
        line.insert("v".to_owned(), 1.into());
        line.insert(
            "time_ms".to_owned(),
            (self.started.elapsed().as_millis() as u64).into(),
        );
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&event) {
            line.extend(fields);
        }
        let mut text = serde_json::Value::Object(line).to_string();
        text.push('\n');
        if let Ok(mut out) = self.out.lock() {
            // A reader that went away does not end the build.
            drop(out.write_all(text.as_bytes()));
        }
    }
}
