//! `habitat test`: every test is run, and every point of it is told, to people, to programs and to test servers.

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};

/// A habitat with a good test, and `more` of them.
fn bench(name: &str, more: &[(&str, &str)]) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    let mut listed = String::new();
    for (test, script) in [("good", "echo 1..1; echo ok 1 - is there")]
        .iter()
        .chain(more)
    {
        listed.push_str(&format!("  - tests/{test}.sh\n"));
        bench.executable(
            &format!("tests/{test}.sh"),
            format!("#!/bin/sh\n{script}\n"),
        );
    }
    bench.file(
        "config.yaml",
        format!(
            "name: tested\nbase: {{oci: {}}}\nenv: [USER=dev]\nscripts:\n  - commands: echo made > ~/made\ntests:\n{listed}\
             timeout: {{test: 3s}}\n",
            busybox::layout()?.display()
        ),
    );
    Ok(bench)
}

#[test]
fn every_test_runs_and_every_point_is_told() {
    let bench = need!(bench(
        "test-report",
        &[
            (
                "bad",
                "echo 1..4; echo ok 1; echo 'not ok 2 - counts <to> \"2\"'; echo '# got 3'; echo 'ok 3 - asks # SKIP no network'; \
                 echo 'not ok 4 - later # TODO'"
            ),
            ("short", "echo 1..3; echo ok 1"),
            (
                "bail",
                "echo 1..2; echo ok 1; echo 'Bail out! no disk'; exit 9"
            ),
            ("status", "echo 1..1; echo ok 1; exit 7"),
            (
                "slow",
                "trap '' TERM; echo 1..2; echo ok 1 - begins; sleep 100"
            ),
        ]
    ));

    let run = bench.shmocker("habitat test config.yaml --junit report.xml");
    assert_eq!(run.status, 3, "{}", run.both());
    let said = run.out();
    for part in [
        "passed  tests/good.sh",
        "        ok 1 - is there",
        "FAILED  tests/bad.sh",
        "not ok 2 - counts <to> \"2\", config.yaml:",
        "            # got 3",
        "ok 3 - asks # SKIP no network",
        "not ok 4 - later # TODO",
        "it planned 3 checks and made 1",
        "it bailed out: no disk",
        "it ended with status 7",
        "it took longer than 3 s",
        "5 of 6 tests failed, 9 points",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{}", run.both());
    }
    let xml = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
    for part in [
        "<testsuites name=\"tested\" tests=\"13\" failures=\"5\"",
        "<testsuite name=\"tests/bad.sh\" tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\"",
        "name=\"2 counts &lt;to&gt; &quot;2&quot;\"",
        "<failure message=\"not ok\">got 3</failure>",
        "<skipped message=\"no network\"/>",
        "<error message=\"it took longer than 3 s\"/>",
        "<error message=\"it bailed out: no disk\"/>",
    ] {
        assert!(xml.contains(part), "no `{part}` in\n{xml}");
    }

    let run = bench.shmocker("habitat test config.yaml --format json --filter bad");
    assert_eq!(run.status, 3, "{}", run.both());
    let report = run.json();
    assert_eq!(report["passed"], false);
    let tests = report["tests"].as_array().expect("an array");
    assert_eq!(tests.len(), 1, "{report:#}");
    assert_eq!(tests[0]["path"], "tests/bad.sh");
    assert_eq!(tests[0]["planned"], 4);
    let point = &tests[0]["points"][1];
    assert_eq!(
        (
            &point["number"],
            &point["name"],
            &point["ok"],
            &point["diagnostics"][0]
        ),
        (
            &2.into(),
            &"counts <to> \"2\"".into(),
            &false.into(),
            &"got 3".into()
        )
    );
    assert_eq!(tests[0]["points"][2]["skip"], "no network");
    assert!(tests[0]["points"][3]["todo"].is_string() && tests[0]["duration_ms"].is_u64());
}

#[test]
fn tests_run_anew_but_nothing_that_they_need_does() {
    let bench = need!(bench("test-anew", &[]));
    let first = bench.ok("habitat test config.yaml --format json").json();
    assert_eq!(first["passed"], true);
    let again = bench.built("habitat test config.yaml --format json");
    assert_eq!(again.run.json()["tests"][0]["cached"], false);
    assert_eq!(again.stages_executed(), ["test-1"]);
    let said: Vec<_> = again.of_kind("test.done").collect();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["points"][0]["name"], "is there");
    assert!(said[0]["failure"].is_null() && said[0]["stage"] == "test-1");
    bench
        .shmocker("habitat test config.yaml --filter nothing")
        .expect(1, &["no test has `nothing` in its path"]);
    bench.sh("sed -i 's/echo made/exit 4/' config.yaml");
    let run = bench.shmocker("habitat test config.yaml");
    run.expect(3, &["exit 4"]);
    assert_eq!(run.out(), "", "nothing was tested");
}

/// A build reports its tests too, those as well that it did not have to run.
#[test]
fn a_build_writes_what_its_tests_found() {
    let bench = need!(bench(
        "test-build",
        &[("other", "echo 1..1; echo not ok 1")]
    ));
    let run = bench.shmocker("habitat build config.yaml --keep-going --junit report.xml");
    assert_eq!(run.status, 3, "{}", run.both());
    let xml = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
    assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");

    bench.executable("tests/other.sh", "#!/bin/sh\necho 1..1\necho ok 1 - now\n");
    bench.ok("habitat build config.yaml --junit report.xml");
    let fresh = std::fs::read_to_string(bench.path("report.xml")).expect("a report");
    bench.ok("habitat build config.yaml --junit again.xml");
    let again = std::fs::read_to_string(bench.path("again.xml")).expect("a report");
    assert_eq!(again, fresh, "what is cached is told as it was");
    assert!(
        again.contains("name=\"1 now\"") && again.contains("failures=\"0\""),
        "{again}"
    );
}

/// One failing step does not keep the others from being built: the next build has only what failed to do.
#[test]
fn with_keep_going_what_does_not_need_the_failed_step_is_built() {
    let bench = Bench::new(&need!(machine::plain_user()), "keep-going");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS a\nRUN exit 5\nFROM base AS b\nRUN sleep 1\nRUN echo b > /b\nFROM base\nCOPY --from=b /b /\nCOPY --from=a /etc/passwd /\n",
    );
    bench
        .shmocker(&format!("build {base} --keep-going ."))
        .expect(3, &["exit 5"]);
    bench.sh("sed -i 's/exit 5/true/' Dockerfile");
    let build = bench.built(&format!("build {base} ."));
    assert!(
        !build.executed().join("\n").contains("echo b"),
        "{:?}",
        build.executed()
    );
}
