//! All mistakes of a habitat are told in one run, each where it is, those of the text and those that only this machine
//! shows.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, need};

const MISTAKES: &str = include_str!("mistakes.yaml");

#[test]
fn forty_mistakes_in_two_hundred_lines_are_forty_messages() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "mistakes");
    assert_eq!(MISTAKES.lines().count(), 200);
    bench
        .file("config.yaml", MISTAKES)
        .file("files/motd", "welcome\n")
        .file("tests/fine.sh", "echo 1..0\n");

    let run = bench.shmocker("habitat check --format short config.yaml");

    assert_eq!(run.status, 1, "{}", run.both());
    let said = run.out();
    insta::assert_snapshot!(said);
    assert_eq!(said.lines().count(), 40);
    let run = bench.shmocker("habitat check --format json config.yaml");
    let found = run.json();
    let found = found.as_array().expect("an array");
    assert_eq!(found.len(), 40);
    for problem in found {
        assert_eq!(problem["severity"], "error", "{problem}");
        let has_way_out = ["help", "message"]
            .iter()
            .any(|part| problem[part].is_string());
        assert!(
            has_way_out && problem["line"].as_u64() > Some(0),
            "{problem}"
        );
    }
}

/// A name that is not known is an error, or, if asked for, left as it stands.
#[test]
fn unknown_names_are_left_where_that_is_asked_for() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "lenient");
    bench.file(
        "config.yaml",
        "name: lenient\nbase_image: debian:12\nlabels: {a: \"${NOBODY}\"}\nenv: [A=1]\n",
    );
    bench
        .shmocker("habitat check config.yaml")
        .expect(1, &["`NOBODY` is not in env"]);
    bench.ok("habitat check --lenient config.yaml");
    let rendered = bench.ok("habitat render --lenient config.yaml").out();
    assert!(rendered.contains("a=\"\\${NOBODY}\""), "{rendered}");
}
