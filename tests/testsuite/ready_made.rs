//! The habitats that come with shmocker: each is built from Debian's packages, verified and tested by itself, as a plain
//! user, all on one store.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, Lack, need};
use crate::tidy::repository;

/// Those that have no tests of their own beside this one.
const HABITATS: [&str; 5] = ["base", "go", "node", "python", "rust"];

fn habitats() -> Result<Bench, Lack> {
    machine::debian_archive()?;
    let bench = Bench::new(&machine::plain_user()?, "ready-made");
    bench.tree(&repository().join("habitats"), "habitats");
    Ok(bench)
}

#[test]
fn every_ready_made_habitat_is_built_and_passes_its_tests() {
    let bench = need!(habitats());
    for habitat in HABITATS {
        let build = bench.built(&format!("habitat build habitats/{habitat}"));
        let tests = build
            .stages_executed()
            .into_iter()
            .filter(|stage| stage.starts_with("test-"));
        assert!(tests.count() > 0, "{habitat} has no test");
        let line = format!("run --rm localhost/habitat/{habitat}:latest id -un");
        let said = bench.ok(&line);
        assert_eq!(said.out(), "dev\n", "{habitat}");
    }
}
