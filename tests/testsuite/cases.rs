//! BuildKit's own Dockerfile tests, as data: all of them, by one table. What goes another way here is listed with its
//! reason, and must be taken off the list once it does not.

mod check;
mod step;

use serde_json::Value;

use crate::harness::bench::Bench;
use crate::harness::machine::{self, fixture, need};

use step::World;

const PLATFORM: &str = "it builds for other platforms";

/// Cases that go another way here, each with what is missing or meant otherwise.
const NOT_YET: &[(&str, &str)] = &[
    ("bk-maintain-baseos-version", PLATFORM),
    ("bk-named-image-context-platform", PLATFORM),
    ("bk-export-multi-platform", PLATFORM),
    ("bk-tar-exporter-multi", PLATFORM),
    ("bk-nil-provenance", "it asks for a provenance"),
    (
        "bk-provenance-export-local-force-split",
        "it asks for a provenance",
    ),
    (
        "bk-tar-context-external-dockerfile",
        "a directory within an archive that is the context: no command line but BuildKit's own has that",
    ),
    (
        "bk-source-policy-with-named-context",
        "it needs a source policy",
    ),
];

/// Cases that go well or not as the machine has it.
const AS_THE_MACHINE_IS: &[(&str, &str)] = &[(
    "bk-linux-resources",
    "a limit of memory needs a delegated cgroup of version 2",
)];

#[test]
fn buildkits_own_cases_go_the_same_way() {
    let user = need!(machine::plain_user());
    let file = need!(fixture("buildkit-cases.json"));
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(file).expect("the cases")).expect("JSON");
    assert_eq!(cases.len(), 126);

    let mut wrong = Vec::new();
    let (mut checked, mut left) = (0, 0);
    for case in &cases {
        let id = case["id"].as_str().expect("an id");
        let reason = NOT_YET.iter().find(|(listed, _)| *listed == id);
        let mut world = need!(World::new(Bench::new(&user, "case")));
        let complaints = world.go(case);
        checked += world.checked;
        left += world.left;
        match (complaints.is_empty(), reason) {
            (false, None) if AS_THE_MACHINE_IS.iter().any(|(listed, _)| *listed == id) => {
                println!("{id}: {}", complaints.join("\n  "));
            }
            (false, None) => wrong.push(format!("{id}:\n  {}", complaints.join("\n  "))),
            (true, Some((_, reason))) => {
                wrong.push(format!("{id} works; take it off the list ({reason})"));
            }
            _ => {}
        }
    }
    for (id, _) in NOT_YET {
        if !cases.iter().any(|case| case["id"] == *id) {
            wrong.push(format!("{id} is listed, but there is none"));
        }
    }
    println!(
        "{} of BuildKit's {} cases, {checked} checks; {left} checks say something that only BuildKit has",
        cases.len() - NOT_YET.len(),
        cases.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// The items of a field that is a list, or is not there.
fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}
