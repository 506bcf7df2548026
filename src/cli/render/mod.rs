//! How events look: one module a form. Each is a consumer of the same facts.

mod json;
mod plain;
pub(super) mod tty;

pub(super) use json::JsonLines;
pub(super) use plain::Plain;
pub(super) use tty::Tty;

use crate::event::{BuildEvent, EventSink, StepOrigin};

/// Shows nothing.
#[derive(Debug)]
pub(super) struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: BuildEvent) {}
}

/// `[stage] INSTRUCTION`, on one line and not longer than a terminal is wide.
fn title(origin: &StepOrigin, width: usize) -> String {
    one_line(&format!("[{}] {}", origin.stage, origin.name), width)
}

/// The first line of a text, not longer than a terminal is wide.
pub(super) fn one_line(text: &str, width: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars()
        .take(width.saturating_sub(1))
        .chain(std::iter::once('…'))
        .collect()
}

/// `0.3s`, `12.0s`, `2m05s`.
pub(super) fn seconds(ms: u64) -> String {
    if ms < 60_000 {
        format!("{}.{}s", ms / 1000, ms % 1000 / 100)
    } else {
        format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1000)
    }
}

/// That a server is asked again, and when.
fn pause(host: &str, reason: &str, (attempt, attempts): (u32, u32), wait_ms: u64) -> String {
    let wait = seconds(wait_ms);
    format!("{host}: {reason}; attempt {attempt} of {attempts} follows in {wait}")
}

/// `512 B`, `1.5 MB`: decimal units, as registries count.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `5 min`, `2 h`: how old a remembered answer is.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Where in which file, in brackets, as far as that is known.
fn place(file: Option<&str>, line: Option<u32>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        (Some(file), None) => format!(" ({file})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1_500_000), "1.5 MB");
        assert_eq!(seconds(312), "0.3s");
        assert_eq!(seconds(125_000), "2m05s");
        assert_eq!(age(150), "2 min");
    }
}
