//! The habitats that come with shmocker: each is built from Debian's packages, verified and tested by itself, as a plain
//! user, all on one store.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, Lack, need};
use crate::tidy::repository;

fn habitats() -> Result<Bench, Lack> {
    machine::debian_archive()?;
    let bench = Bench::new(&machine::plain_user()?, "ready-made");
    bench.tree(&repository().join("habitats"), "habitats");
    Ok(bench)
}

/// All of them but the quick start, which has tests of its own.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(repository().join("habitats")).expect("it is there");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name != "quickstart")
        .collect();
    names.sort();
    names
}

/// Those with hundreds of megabytes of packages.
const LARGE: [&str; 3] = ["go", "node", "rust"];

#[test]
fn every_ready_made_habitat_is_built_and_passes_its_tests() {
    let names = names();
    assert!(names.len() >= 7, "{names:?}");
    build(names.iter().filter(|name| !LARGE.contains(&name.as_str())));
}

#[test]
fn the_large_ready_made_habitats_are_built_and_pass_their_tests() {
    need!(machine::patience("go, node and rust take minutes"));
    let names = names();
    build(names.iter().filter(|name| LARGE.contains(&name.as_str())));
}

fn build<'a>(names: impl Iterator<Item = &'a String>) {
    let bench = need!(habitats());
    for habitat in names {
        let build = bench.built(&format!("habitat build habitats/{habitat}"));
        let tests = build
            .stages_executed()
            .into_iter()
            .filter(|stage| stage.starts_with("test-"));
        assert!(tests.count() > 0, "{habitat} has no test");
        let image = bench
            .ok(&format!("inspect localhost/habitat/{habitat}:latest"))
            .json();
        let user = if habitat == "agent" { "agent" } else { "dev" };
        assert_eq!(image["config"]["User"], user, "{habitat}");
    }
}

#[test]
fn the_sandbox_of_an_agent_says_that_it_is_one() {
    let bench = need!(habitats());
    let dockerfile = bench.ok("habitat render habitats/agent").out();
    for label in [
        "io.shmocker.habitat.network=\"none\"",
        "io.shmocker.habitat.limits.memory=\"4294967296\"",
        "io.shmocker.habitat.limits.pids=\"2000\"",
    ] {
        assert!(dockerfile.contains(label), "no `{label}` in\n{dockerfile}");
    }
    assert!(
        !dockerfile.contains("--from=home"),
        "nothing of the host's home is taken"
    );
}
