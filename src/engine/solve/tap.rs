//! Judges the output of a test by the Test Anything Protocol (version 14): plan, `not ok`, `Bail out!`; and keeps what it
//! said of each point.
//!
//! Leaves out subtests, which are indented: the point after them says how they ended.

use std::time::Instant;

use crate::event::{TestPoint, TestReport};

/// Points whose descriptions are kept; those after them are judged as well.
const POINTS_MAX: usize = 10_000;
/// Lines that are kept of what a test says of one point.
const DIAGNOSTICS_MAX: usize = 100;

/// What a test has said so far.
#[derive(Debug)]
pub(super) struct Tap {
    started: Instant,
    last: Instant,
    plan: Option<u64>,
    seen: u64,
    failed: u64,
    first_failed: Option<String>,
    bailed_out: Option<String>,
    points: Vec<TestPoint>,
    is_in_yaml: bool,
}

impl Default for Tap {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            plan: None,
            seen: 0,
            failed: 0,
            first_failed: None,
            bailed_out: None,
            points: Vec::new(),
            is_in_yaml: false,
        }
    }
}

impl Tap {
    /// Takes in one line of standard output.
    pub(super) fn line(&mut self, line: &str) {
        if self.is_in_yaml {
            self.is_in_yaml = line.trim() != "...";
            if self.is_in_yaml {
                self.diagnostic(line.trim_end());
            }
        } else if let Some(reason) = line.strip_prefix("Bail out!") {
            self.bailed_out
                .get_or_insert_with(|| reason.trim().to_owned());
        } else if let Some(plan) = line.strip_prefix("1..") {
            let digits: String = plan.chars().take_while(char::is_ascii_digit).collect();
            self.plan = digits.parse().ok();
        } else if let Some(rest) = result(line, "not ok") {
            self.point(line, rest, false);
        } else if let Some(rest) = result(line, "ok") {
            self.point(line, rest, true);
        } else if line.starts_with('#') {
            self.diagnostic(line.trim_start_matches('#').trim());
        } else if line.starts_with(' ') && line.trim() == "---" {
            self.is_in_yaml = true;
        }
    }

    fn point(&mut self, line: &str, rest: &str, ok: bool) {
        self.seen += 1;
        let now = Instant::now();
        let duration_ms = now.duration_since(self.last).as_millis() as u64;
        self.last = now;
        let (said, directive) = split_directive(rest);
        let digits = said.len() - said.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let name = said[digits..].trim();
        let name = name.strip_prefix('-').unwrap_or(name).trim();
        let reason = |word: &str| {
            let begins = directive
                .get(..word.len())
                .is_some_and(|head| head.eq_ignore_ascii_case(word));
            begins.then(|| {
                // SKIPPED, `SKIP: …`: what comes before the first blank is still the word.
                let rest = directive.split_once(char::is_whitespace);
                rest.map_or("", |(_, reason)| reason.trim()).to_owned()
            })
        };
        let point = TestPoint {
            number: said[..digits].parse().unwrap_or(self.seen),
            name: name.to_owned(),
            ok,
            skip: reason("skip"),
            todo: reason("todo"),
            diagnostics: Vec::new(),
            duration_ms,
        };
        if point.is_failure() {
            self.failed += 1;
            self.first_failed.get_or_insert_with(|| line.to_owned());
        }
        if self.points.len() < POINTS_MAX {
            self.points.push(point);
        }
    }

    /// What is said after a point is said of it.
    fn diagnostic(&mut self, line: &str) {
        if let Some(point) = self.points.last_mut()
            && point.diagnostics.len() < DIAGNOSTICS_MAX
        {
            point.diagnostics.push(line.to_owned());
        }
    }

    /// Whether it passed, as far as its output says; if not, why.
    pub(super) fn verdict(&self) -> Result<(), String> {
        if let Some(reason) = &self.bailed_out {
            return Err(if reason.is_empty() {
                "it bailed out".to_owned()
            } else {
                format!("it bailed out: {reason}")
            });
        }
        if let Some(first) = &self.first_failed {
            return Err(match self.failed {
                1 => first.clone(),
                count => format!("{first}, and {} more", count - 1),
            });
        }
        match self.plan {
            Some(plan) if plan != self.seen => {
                Err(format!("it planned {plan} checks and made {}", self.seen))
            }
            None => Err("it printed no plan, such as `1..3`".to_owned()),
            _ => Ok(()),
        }
    }

    /// What it said; `failure` is why it failed.
    pub(super) fn report(self, failure: Option<String>) -> TestReport {
        TestReport {
            failure,
            planned: self.plan,
            points: self.points,
            duration_ms: self.started.elapsed().as_millis() as u64,
        }
    }
}

/// What stands behind `ok` or `not ok`.
fn result<'l>(line: &'l str, word: &str) -> Option<&'l str> {
    let rest = line.strip_prefix(word)?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim())
}

/// A description and what is behind its `#`, if that is not escaped.
fn split_directive(text: &str) -> (String, &str) {
    let mut from = 0;
    while let Some(at) = text[from..].find('#').map(|at| from + at) {
        if text[..at].ends_with('\\') {
            from = at + 1;
            continue;
        }
        return (
            text[..at].trim_end().replace("\\#", "#"),
            text[at + 1..].trim(),
        );
    }
    (text.replace("\\#", "#"), "")
}

#[cfg(test)]
mod tests {
    use super::Tap;

    fn tap(output: &str) -> Tap {
        let mut tap = Tap::default();
        output.lines().for_each(|line| tap.line(line));
        tap
    }

    fn judge(output: &str) -> Result<(), String> {
        tap(output).verdict()
    }

    #[test]
    fn plan_failures_and_bailing_out_decide() {
        assert_eq!(judge("1..2\nok 1 - a\nok 2 - b"), Ok(()));
        assert_eq!(judge("ok 1\nok 2\n1..2"), Ok(()));
        assert_eq!(judge("1..0 # SKIP nothing to do here"), Ok(()));
        assert_eq!(
            judge("1..2\nok 1 - a\nnot ok 2 - b"),
            Err("not ok 2 - b".to_owned())
        );
        assert_eq!(
            judge("1..3\nnot ok 1\nok 2\nnot ok 3"),
            Err("not ok 1, and 1 more".to_owned())
        );
        assert_eq!(judge("1..2\nok 1 - a\nnot ok 2 - b # TODO later"), Ok(()));
        assert_eq!(
            judge("1..3\nok 1\nok 2"),
            Err("it planned 3 checks and made 2".to_owned())
        );
        assert_eq!(
            judge("1..2\nok 1\nBail out! no disk"),
            Err("it bailed out: no disk".to_owned())
        );
        assert_eq!(
            judge("ok 1\nokay then"),
            Err("it printed no plan, such as `1..3`".to_owned())
        );
        assert_eq!(
            judge("no TAP at all"),
            Err("it printed no plan, such as `1..3`".to_owned())
        );
    }

    #[test]
    fn every_point_is_kept_with_what_is_said_of_it() {
        let output = "\
# before
1..5
ok 1 - plain
not ok 2 wrong \\# 1
# expected 1
# got 2
  ---
  at: line 3
  ...
ok - no number # skip no network here
not ok 4 - later # TODO
    ok 1 - of a subtest
ok
";
        let report = tap(output).report(Some("why".to_owned()));
        assert_eq!(
            (report.planned, report.failure.as_deref()),
            (Some(5), Some("why"))
        );
        let points: Vec<String> = report
            .points
            .iter()
            .map(|point| {
                format!(
                    "{} {} {:?} {:?} {:?} {}",
                    point.number,
                    point.ok,
                    point.name,
                    point.skip,
                    point.todo,
                    point.diagnostics.join("|")
                )
            })
            .collect();
        assert_eq!(
            points,
            [
                "1 true \"plain\" None None ",
                "2 false \"wrong # 1\" None None expected 1|got 2|  at: line 3",
                "3 true \"no number\" Some(\"no network here\") None ",
                "4 false \"later\" None Some(\"\") ",
                "5 true \"\" None None ",
            ]
        );
    }
}
