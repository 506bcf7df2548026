//! What the tests of a habitat found, for people, as JSON and as JUnit XML.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::super::render::seconds;
use super::Ready;
use crate::event::{BuildEvent, TestPoint, TestReport};

/// Hears a build's events and keeps what tests said, by their stages.
#[derive(Debug, Default)]
pub(super) struct Verdicts(Mutex<HashMap<String, Heard>>);

#[derive(Debug, Clone)]
struct Heard {
    cached: bool,
    report: TestReport,
}

impl Verdicts {
    /// Takes in an event.
    pub(super) fn hear(&self, event: &BuildEvent) {
        if let BuildEvent::TestDone {
            origin,
            cached,
            report,
        } = event
        {
            let heard = Heard {
                cached: *cached,
                report: report.clone(),
            };
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(origin.stage.clone(), heard);
        }
    }

    /// What was said of the tests of a habitat.
    pub(super) fn of(&self, ready: &Ready) -> Report {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tests = ready.plan.tests.iter().map(|test| Verdict {
            path: test.path.clone(),
            file: ready.config.spot(test.span).file,
            line: test.span.line,
            heard: all.get(&test.stage).cloned(),
        });
        Report {
            habitat: ready.plan.name().to_owned(),
            tests: tests.collect(),
        }
    }
}

/// One test; `heard` is `None` where it was not run.
#[derive(Debug)]
struct Verdict {
    path: String,
    file: String,
    line: u32,
    heard: Option<Heard>,
}

const NOT_RUN: &str = "it was not run";

impl Verdict {
    fn failure(&self) -> Option<&str> {
        match &self.heard {
            None => Some(NOT_RUN),
            Some(heard) => heard.report.failure.as_deref(),
        }
    }

    fn points(&self) -> &[TestPoint] {
        self.heard
            .as_ref()
            .map_or(&[], |heard| heard.report.points.as_slice())
    }

    fn duration_ms(&self) -> u64 {
        self.heard
            .as_ref()
            .map_or(0, |heard| heard.report.duration_ms)
    }
}

/// All tests of a habitat, in its order.
#[derive(Debug)]
pub(super) struct Report {
    habitat: String,
    tests: Vec<Verdict>,
}

impl Report {
    /// Whether every test was run.
    pub(super) fn is_complete(&self) -> bool {
        self.tests.iter().all(|test| test.heard.is_some())
    }

    /// Whether every test passed.
    pub(super) fn passed(&self) -> bool {
        self.tests.iter().all(|test| test.failure().is_none())
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").unwrap_or_default();
        for test in &self.tests {
            let took = seconds(test.duration_ms());
            match test.failure() {
                None => line(format_args!("passed  {} ({took})", test.path)),
                Some(why) => line(format_args!(
                    "FAILED  {} ({took}): {why}, {}:{}",
                    test.path, test.file, test.line
                )),
            }
            for point in test.points() {
                let word = if point.ok { "ok" } else { "not ok" };
                let name = match point.name.as_str() {
                    "" => String::new(),
                    name => format!(" - {name}"),
                };
                let directive = match (&point.skip, &point.todo) {
                    (Some(reason), _) => format!(" # SKIP {reason}"),
                    (None, Some(reason)) => format!(" # TODO {reason}"),
                    (None, None) => String::new(),
                };
                line(format_args!(
                    "        {word} {}{name}{}",
                    point.number,
                    directive.trim_end()
                ));
                if point.is_failure() {
                    for said in &point.diagnostics {
                        line(format_args!("            # {said}"));
                    }
                }
            }
        }
        let failed = self
            .tests
            .iter()
            .filter(|test| test.failure().is_some())
            .count();
        let all = self.tests.len();
        let (tests, points) = (self.tests.iter(), plural(self.points(), "point"));
        let took = seconds(tests.map(Verdict::duration_ms).sum());
        match failed {
            0 => line(format_args!(
                "{} passed, {points}, {took}",
                plural(all, "test")
            )),
            failed => line(format_args!(
                "{failed} of {} failed, {points}, {took}",
                plural(all, "test")
            )),
        }
        text
    }

    fn points(&self) -> usize {
        self.tests.iter().map(|test| test.points().len()).sum()
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let test = |test: &Verdict| {
            json!({
                "path": test.path,
                "file": test.file,
                "line": test.line,
                "passed": test.failure().is_none(),
                "failure": test.failure(),
                "cached": test.heard.as_ref().is_some_and(|heard| heard.cached),
                "planned": test.heard.as_ref().and_then(|heard| heard.report.planned),
                "points": test.points(),
                "duration_ms": test.duration_ms(),
            })
        };
        json!({
            "habitat": self.habitat,
            "passed": self.passed(),
            "tests": self.tests.iter().map(test).collect::<Vec<_>>(),
        })
    }

    /// As the JUnit reports that test servers read: a suite for each test, a case for each point. What a point cannot say
    /// (a wrong plan, a time-out, a status) is a case of its own, named as the test.
    pub(super) fn junit(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let mut line = |line: String| {
            xml.push_str(&line);
            xml.push('\n');
        };
        let (mut cases, mut failed) = (0, 0);
        let mut suites = Vec::new();
        for test in &self.tests {
            let own: Vec<String> = test
                .points()
                .iter()
                .map(|point| case(&test.path, point))
                .collect();
            let failures = test
                .points()
                .iter()
                .filter(|point| point.is_failure())
                .count();
            let skipped = test
                .points()
                .iter()
                .filter(|point| is_skipped(point))
                .count();
            let beyond = test
                .failure()
                .filter(|_| failures == 0)
                .map(|why| {
                    format!(
                        "    <testcase classname=\"{0}\" name=\"{0}\" time=\"{1}\">\n      <error message=\"{2}\"/>\n    </testcase>",
                        escaped(&test.path),
                        time(test.duration_ms()),
                        escaped(why)
                    )
                });
            let count = own.len() + beyond.iter().count();
            cases += count;
            failed += failures + beyond.iter().count();
            suites.push(format!(
                "  <testsuite name=\"{}\" tests=\"{count}\" failures=\"{failures}\" errors=\"{}\" skipped=\"{skipped}\" time=\"{}\" file=\"{}\" line=\"{}\">",
                escaped(&test.path),
                beyond.iter().count(),
                time(test.duration_ms()),
                escaped(&test.file),
                test.line,
            ));
            suites.extend(own);
            suites.extend(beyond);
            suites.push("  </testsuite>".to_owned());
        }
        let all_ms = self.tests.iter().map(Verdict::duration_ms).sum();
        line(format!(
            "<testsuites name=\"{}\" tests=\"{cases}\" failures=\"{failed}\" time=\"{}\">",
            escaped(&self.habitat),
            time(all_ms)
        ));
        suites.into_iter().for_each(&mut line);
        line("</testsuites>".to_owned());
        xml
    }
}

/// `1 test`, `2 tests`.
fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is known not to work yet is no success, and no failure.
fn is_skipped(point: &TestPoint) -> bool {
    point.skip.is_some() || (point.todo.is_some() && !point.ok)
}

fn case(path: &str, point: &TestPoint) -> String {
    let name = match point.name.as_str() {
        "" => point.number.to_string(),
        name => format!("{} {name}", point.number),
    };
    let head = format!(
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
        escaped(path),
        escaped(&name),
        time(point.duration_ms)
    );
    let said = escaped(&point.diagnostics.join("\n"));
    let inner = match (&point.skip, &point.todo) {
        (Some(reason), _) => format!("<skipped message=\"{}\"/>", escaped(reason)),
        (None, Some(reason)) if !point.ok => format!(
            "<skipped message=\"{}\"/>",
            escaped(format!("TODO {reason}").trim_end())
        ),
        _ if point.is_failure() => format!("<failure message=\"not ok\">{said}</failure>"),
        _ => return format!("{head}/>"),
    };
    format!("{head}>\n      {inner}\n    </testcase>")
}

/// Milliseconds as the seconds that JUnit has.
fn time(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// As XML has it; characters that it cannot hold are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push('\t'),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {}
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(number: u64, ok: bool, name: &str) -> TestPoint {
        TestPoint {
            number,
            ok,
            name: name.to_owned(),
            duration_ms: 1500,
            ..TestPoint::default()
        }
    }

    fn verdict(path: &str, failure: Option<&str>, points: Vec<TestPoint>) -> Verdict {
        let report = TestReport {
            failure: failure.map(str::to_owned),
            planned: Some(points.len() as u64),
            points,
            duration_ms: 2000,
        };
        let heard = Some(Heard {
            cached: false,
            report,
        });
        Verdict {
            path: path.to_owned(),
            file: "config.yaml".to_owned(),
            line: 7,
            heard,
        }
    }

    fn sample() -> Report {
        let wrong = TestPoint {
            diagnostics: vec!["expected <1>".to_owned(), "got \"2\" & more".to_owned()],
            ..point(2, false, "counts")
        };
        let skipped = TestPoint {
            skip: Some("no network".to_owned()),
            ..point(3, true, "asks")
        };
        let later = TestPoint {
            todo: Some(String::new()),
            ..point(4, false, "")
        };
        Report {
            habitat: "sample".to_owned(),
            tests: vec![
                verdict("tests/good.sh", None, vec![point(1, true, "is there")]),
                verdict(
                    "tests/bad.sh",
                    Some("not ok 2 - counts"),
                    vec![point(1, true, ""), wrong, skipped, later],
                ),
                verdict(
                    "tests/slow.sh",
                    Some("it took longer than 2 s"),
                    vec![point(1, true, "begins")],
                ),
            ],
        }
    }

    #[test]
    fn people_read_what_each_point_said() {
        insta::assert_snapshot!(sample().text());
    }

    #[test]
    fn a_test_server_reads_suites_and_cases() {
        insta::assert_snapshot!(sample().junit());
        assert_eq!(escaped("a\u{1b}[m\u{0}b"), "a[mb");
    }
}
