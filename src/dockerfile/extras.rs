//! `# shmocker: timeout=2m tap`: what an instruction is given beside what Dockerfiles can say.

use super::ast::Extras;
use super::duration;
use super::problem::{Problem, Span};

/// Reads `timeout=2m tap`.
pub(super) fn read(said: &str, span: Span, extras: &mut Extras, problems: &mut Vec<Problem>) {
    let mut at = 0;
    for word in said.split_whitespace() {
        at += said[at..].find(word).unwrap_or(0);
        let place = Span {
            start: span.start + at,
            end: span.start + at + word.len(),
            ..span
        };
        at += word.len();
        match word.split_once('=') {
            None if word == "tap" => extras.tap = true,
            Some(("timeout", length)) => match duration::parse_ns(length) {
                Ok(length_ns) if length_ns >= 1_000_000 => {
                    extras.timeout_ms = Some(length_ns / 1_000_000)
                }
                Ok(_) => {
                    let message = format!("`{length}` is less than a millisecond");
                    problems.push(Problem::error("dockerfile::duration", message, place));
                }
                Err(error) => problems.push(Problem::error(
                    "dockerfile::duration",
                    error.to_string(),
                    place,
                )),
            },
            _ => {
                let key = word.split('=').next().unwrap_or(word);
                let problem = Problem::error(
                    "dockerfile::unknown_extra",
                    format!("unknown extra `{key}`"),
                    place,
                );
                problems.push(match key {
                    "timeout" => problem.help("write `timeout=2m`"),
                    "tap" => problem.help("write `tap` alone"),
                    _ => problem.near(key, ["timeout", "tap"]),
                });
            }
        }
    }
}
