//! The same Dockerfile, built here and on BuildKit: many at once, since BuildKit takes half a second for the least of
//! them. What came out is judged against lists in which every exception has its reason.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::conformance;
use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::listing;
use crate::peers::buildkit::{BuildKit, Request, buildkit, image_of};

/// As many as keep two cores busy while BuildKit waits for itself.
const AT_ONCE: usize = 4;

/// A Dockerfile with its context.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The context, and the Dockerfile in it.
    pub(crate) context: PathBuf,
    pub(crate) dockerfile: String,
    pub(crate) args: Vec<(String, String)>,
    /// The images that it names, as layouts.
    pub(crate) bases: Vec<(String, PathBuf)>,
}

/// How the two went.
#[derive(Debug)]
pub(crate) enum Outcome {
    Same,
    Differ(Vec<String>),
    BothFail { ours: String, theirs: String },
    OnlyWeFail { ours: String },
    OnlyTheyFail { theirs: String },
}

/// What is known of some cases, each with its reason.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Not tried at all.
    pub(crate) not_built: &'static [(&'static str, &'static str)],
    /// Neither can build them.
    pub(crate) fail_on_both: &'static [(&'static str, &'static str)],
    /// They go another way here, and are meant to.
    pub(crate) differ: &'static [(&'static str, &'static str)],
    /// Paths whose content is made anew at each run.
    pub(crate) by_chance: &'static [(&'static str, &'static str)],
}

/// Builds every case on both.
pub(crate) fn build<'a>(
    bench: &Bench,
    cases: &'a [Case],
    listed: &Listed,
) -> BTreeMap<&'a str, Outcome> {
    let peer = buildkit().expect("who calls this has it");
    let works: Vec<(&Case, Mutex<(Command, Command)>)> = cases
        .iter()
        .filter(|case| reason(listed.not_built, &case.name).is_none())
        .map(|case| (case, Mutex::new((ours(bench, case), theirs(peer, case)))))
        .collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((case, work)) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                    let (ours, theirs) = &mut *work;
                    let apart: Vec<&str> = listed
                        .by_chance
                        .iter()
                        .filter(|(name, _)| *name == case.name)
                        .map(|(_, path)| *path)
                        .collect();
                    let outcome = outcome(ours, theirs, &apart);
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(case.name.as_str(), outcome);
                }
            });
        }
    });
    outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
}

fn reason(list: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    list.iter()
        .find(|(listed, _)| *listed == name)
        .map(|(_, reason)| *reason)
}

/// Fails the test with everything that is not as the lists have it; counts the rest.
pub(crate) fn judge(outcomes: &BTreeMap<&str, Outcome>, listed: &Listed) {
    let mut wrong = Vec::new();
    let (mut same, mut failed, mut different) = (0, 0, 0);
    for (name, outcome) in outcomes {
        let both = reason(listed.fail_on_both, name);
        let differ = reason(listed.differ, name);
        match outcome {
            Outcome::Same => same += 1,
            Outcome::BothFail { .. } if both.is_some() => failed += 1,
            _ if differ.is_some() => different += 1,
            _ => {}
        }
        let complaint = match (outcome, both, differ) {
            (Outcome::Same, None, None) => None,
            (Outcome::Same, ..) => Some("is the same; take it off the list".to_owned()),
            (Outcome::BothFail { .. }, Some(_), None) => None,
            (Outcome::BothFail { ours, theirs }, ..) => Some(format!(
                "fails on both:\n{}\n{}",
                last_lines(ours, 12),
                last_lines(theirs, 1)
            )),
            (_, _, Some(_)) => None,
            (Outcome::Differ(found), ..) => Some(format!("differs:\n{}", found.join("\n"))),
            (Outcome::OnlyWeFail { ours }, ..) => {
                Some(format!("fails here only:\n{}", last_lines(ours, 12)))
            }
            (Outcome::OnlyTheyFail { theirs }, ..) => Some(format!(
                "fails on BuildKit only:\n{}",
                last_lines(theirs, 8)
            )),
        };
        wrong.extend(complaint.map(|complaint| format!("## {name} {complaint}")));
    }
    for (name, _) in listed
        .not_built
        .iter()
        .chain(listed.fail_on_both)
        .chain(listed.differ)
    {
        let is_known = outcomes.contains_key(name) || reason(listed.not_built, name).is_some();
        if !is_known {
            wrong.push(format!("## {name} is listed, but there is none"));
        }
    }
    println!(
        "{} Dockerfiles on both builders: {same} the same, {failed} fail on both, {different} differ on purpose; {} not built",
        outcomes.len(),
        listed.not_built.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {} are not as they should be:\n{}",
        wrong.len(),
        outcomes.len(),
        wrong.join("\n")
    );
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn ours(bench: &Bench, case: &Case) -> Command {
    let mut command = bench.shmocker_command("build --progress plain -o type=oci,dest=-");
    for (name, layout) in &case.bases {
        command
            .arg("--build-context")
            .arg(format!("{name}=oci-layout://{}", layout.display()));
    }
    for (name, value) in &case.args {
        command.arg("--build-arg").arg(format!("{name}={value}"));
    }
    command
        .arg("-f")
        .arg(case.context.join(&case.dockerfile))
        .arg(&case.context);
    command
}

fn theirs(buildkit: &BuildKit, case: &Case) -> Command {
    let args = case
        .args
        .iter()
        .map(|(name, value)| format!("build-arg:{name}={value}"));
    buildkit.command(&Request {
        context: &case.context,
        dockerfile: &case.dockerfile,
        contexts: case
            .bases
            .iter()
            .map(|(name, layout)| (name.as_str(), layout.clone()))
            .collect(),
        options: args.collect(),
    })
}

fn outcome(ours: &mut Command, theirs: &mut Command, apart: &[&str]) -> Outcome {
    let here = ours.output().expect("shmocker can be started");
    let said = || String::from_utf8_lossy(&here.stderr).into_owned();
    match (here.status.success(), image_of(theirs)) {
        (true, Ok(theirs)) => {
            let ours = Layout::of_archive(&here.stdout);
            let mut found = conformance::differences(&ours, &theirs, apart);
            found.extend(other_times(&ours, &theirs));
            if found.is_empty() {
                Outcome::Same
            } else {
                Outcome::Differ(found)
            }
        }
        (true, Err(theirs)) => Outcome::OnlyTheyFail { theirs },
        (false, Ok(_)) => Outcome::OnlyWeFail { ours: said() },
        (false, Err(theirs)) => Outcome::BothFail {
            ours: said(),
            theirs,
        },
    }
}

/// The times of what was not made by the builds themselves, for those are now. What BuildKit keeps must be kept here; that
/// it loses some, of directories that it made before what is in them, is left alone.
fn other_times(ours: &Layout, theirs: &Layout) -> Vec<String> {
    /// Everything that the cases bring along is older: 1 January 2026.
    const NOW: u64 = 1_767_225_600;
    let (ours, theirs) = (listing::times(ours, NOW), listing::times(theirs, NOW));
    theirs
        .iter()
        .filter(|(path, time)| ours.get(*path) != Some(time))
        .map(|(path, time)| {
            let found = ours.get(path);
            format!("time of /{path}: shmocker {found:?}, BuildKit {time}")
        })
        .collect()
}
