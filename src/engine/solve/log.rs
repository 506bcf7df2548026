//! How much of what a step writes is shown: per stream so much in all, and so much a second.

use std::time::{Duration, Instant};

use crate::engine::work::LogLimits;

/// One stream of one step.
#[derive(Debug)]
pub(super) struct Clip {
    limits: LogLimits,
    started: Instant,
    bytes: u64,
    is_clipping: bool,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It is shown.
    Line,
    /// This is shown in its place.
    Note(String),
    /// Nothing is.
    Nothing,
}

impl Clip {
    /// Nothing was written yet.
    pub(super) fn new(limits: LogLimits) -> Self {
        Self {
            limits,
            started: Instant::now(),
            bytes: 0,
            is_clipping: false,
        }
    }

    /// Counts a line, and says whether it is shown.
    pub(super) fn line(&mut self, line: &str) -> Shown {
        self.line_after(line, self.started.elapsed())
    }

    fn line_after(&mut self, line: &str, time: Duration) -> Shown {
        self.bytes += line.len() as u64 + 1;
        // A second that has begun counts.
        let seconds = time.as_millis().div_ceil(1000).max(1) as u64;
        let by_speed = self
            .limits
            .bytes_per_second_max
            .map(|speed| (speed.saturating_mul(seconds), format!("{}/s", size(speed))));
        let in_all = self.limits.bytes_max.map(|all| (all, size(all)));
        let limit = [by_speed, in_all]
            .into_iter()
            .flatten()
            .min_by_key(|(bytes, _)| *bytes);
        let Some((_, name)) = limit.filter(|(bytes, _)| self.bytes > *bytes) else {
            self.is_clipping = false;
            return Shown::Line;
        };
        if self.is_clipping {
            return Shown::Nothing;
        }
        self.is_clipping = true;
        Shown::Note(format!("[output clipped, log limit {name} reached]"))
    }
}

fn size(bytes: u64) -> String {
    [(1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, name)| format!("{}{name}", bytes / unit),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_clipped_where_it_is_too_fast_or_too_much() {
        let mut clip = Clip::new(LogLimits {
            bytes_max: Some(100),
            bytes_per_second_max: Some(20),
        });
        let mut show = |line: &str, ms| clip.line_after(line, Duration::from_millis(ms));
        assert_eq!(show("123456789", 1), Shown::Line);
        assert_eq!(show("123456789", 2), Shown::Line);
        let note = "[output clipped, log limit 20B/s reached]".to_owned();
        assert_eq!(show("x", 3), Shown::Note(note));
        assert_eq!(show("x", 4), Shown::Nothing);
        assert_eq!(show("x", 1500), Shown::Line);
        assert_eq!(show(&"y".repeat(60), 9000), Shown::Line);
        let note = "[output clipped, log limit 100B reached]".to_owned();
        assert_eq!(show(&"y".repeat(60), 9000), Shown::Note(note));
    }

    #[test]
    fn without_limits_all_is_shown() {
        let mut clip = Clip::new(LogLimits {
            bytes_max: None,
            bytes_per_second_max: None,
        });
        assert_eq!(clip.line(&"y".repeat(1 << 22)), Shown::Line);
        assert_eq!(size(2 << 20), "2MiB");
        assert_eq!(size(200 << 10), "200KiB");
        assert_eq!(size(1025), "1025B");
    }
}
