//! `shmocker habitat`: check, render, phases, build, and exactly which steps run again. On a busybox base, so that every
//! test starts from nothing in a second.

use serde_json::json;

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::machine::{self, Capability, Lack, need};

/// A habitat with something in every phase.
fn sample(name: &str) -> Result<Bench, Lack> {
    machine::program(Capability::Git, "git")?;
    let bench = Bench::new(&machine::plain_user()?, name);
    bench
        .file(
            "config.yaml",
            format!(
                "name: sample\n\
                 base:\n  oci: {}\n\
                 env:\n  - USER=dev\n  - GREETING=hello\n\
                 files:\n  - src: files/motd\n    dest: /etc/motd\n    mode: 644\n  - src: files/tree\n    dest: ~/tree\n\
                 repos:\n  - url: repo.bundle\n    path: /workspace/repo\n    branch: main\n\
                 scripts:\n\
                 \x20 - name: first\n    commands: echo first > ~/first\n\
                 \x20 - name: second\n    commands: cat ~/first > ~/second; echo second >> ~/second\n\
                 \x20 - name: beside the repository\n    after: repos\n    commands: cp /workspace/repo/README ~/readme\n\
                 verify-fs:\n  required_files:\n    - ~/second\n    - path: /etc/motd\n      mode: 644\n\
                 tests:\n  - tests/greets.sh\n  - tests/has-second.sh\n\
                 entry:\n  command: cat ~/second\n",
                busybox::layout()?.display()
            ),
        )
        .file("files/motd", "welcome\n")
        .file("files/tree/deep/file", "deep\n")
        .executable("files/tree/run", "#!/bin/sh\n")
        .executable("tests/greets.sh", "#!/bin/sh\necho 1..1\n[ \"$GREETING\" = hello ] && echo ok 1 || echo not ok 1\n")
        .executable("tests/has-second.sh", "#!/bin/sh\necho 1..1\ngrep -q second ~/second && echo ok 1 || echo not ok 1\n");
    bench.sh(
        "git init -q -b main repo; cd repo; git config user.name t; git config user.email t@example.com; echo one > README; \
         git add README; GIT_AUTHOR_DATE=@1700000000 GIT_COMMITTER_DATE=@1700000000 git commit -qm one; git bundle create -q ../repo.bundle main",
    );
    Ok(bench)
}

/// What the sample's image holds, asked from inside.
fn inside(bench: &Bench, script: &str) -> Run {
    bench.ok_with("run --rm localhost/habitat/sample:latest sh -c", script)
}

/// Every stage in which something ran belongs to one of the phases, itself or as its hooks' stage.
#[track_caller]
fn ran_only_in(build: &Events, phases: &[&str]) {
    for stage in build.stages_executed() {
        let belongs = phases.iter().any(|phase| {
            stage == *phase
                || (*phase == "test" && stage == "tap-judge")
                || stage.ends_with(&format!("-{phase}"))
                || stage.starts_with(&format!("{phase}-"))
        });
        assert!(
            belongs,
            "{stage} ran, which is in none of {phases:?}:\n{}",
            build.executed().join("\n")
        );
    }
    assert!(build.steps_run() > 0, "nothing ran");
}

#[test]
fn a_habitat_becomes_an_image_under_its_name() {
    let bench = need!(sample("habitat-image"));

    let build = bench.built("habitat build config.yaml");

    assert_eq!(build.done()["status"], "ok");
    let images = bench.ok("images --format json").json();
    assert_eq!(images[0]["name"], "localhost/habitat/sample:latest");
    let said = inside(
        &bench,
        "id -un; pwd; cat ~/second /etc/motd; stat -c '%a %U %n' /etc/motd ~/tree/run ~/tree/deep/file; cat ~/readme; \
         stat -c %U /workspace/repo/README; echo $GREETING\n",
    );
    assert_eq!(
        said.out(),
        "dev\n/workspace\nfirst\nsecond\nwelcome\n644 root /etc/motd\n755 dev /home/dev/tree/run\n644 dev /home/dev/tree/deep/file\none\ndev\nhello\n"
    );
    assert_eq!(
        bench.ok("run localhost/habitat/sample:latest").out(),
        "first\nsecond\n"
    );
    let labels = &bench.ok("inspect localhost/habitat/sample:latest").json()["config"]["Labels"];
    assert_eq!(labels["io.shmocker.habitat.name"], "sample");
}

#[test]
fn the_second_build_of_a_habitat_runs_nothing() {
    let bench = need!(sample("habitat-warm"));
    let first = bench.built("habitat build config.yaml");
    let second = bench.built("habitat build config.yaml");
    assert_eq!(second.steps_run(), 0, "{:?}", second.executed());
    assert_eq!(second.steps_cached(), first.steps_run());
    assert_eq!(second.digest(), first.digest());
}

#[test]
fn a_changed_script_runs_that_script_and_what_follows() {
    let bench = need!(sample("habitat-script"));
    let whole = bench.built("habitat build config.yaml").steps_run();
    bench.sh("sed -i 's/echo second/echo another second/' config.yaml");

    let build = bench.built("habitat build config.yaml");

    ran_only_in(&build, &["scripts", "verify", "test", "final"]);
    let executed = build.executed().join("\n");
    assert!(
        executed.contains("another second") && !executed.contains("echo first"),
        "{executed}"
    );
    assert_eq!(build.steps_run() + build.steps_cached(), whole);
    assert_eq!(
        inside(&bench, "cat ~/second\n").out(),
        "first\nanother second\n"
    );
}

#[test]
fn a_changed_file_runs_its_copy_and_what_follows() {
    let bench = need!(sample("habitat-file"));
    bench.built("habitat build config.yaml");
    bench.file("files/motd", "changed\n");

    let build = bench.built("habitat build config.yaml");

    ran_only_in(
        &build,
        &["files", "repos", "scripts", "verify", "test", "final"],
    );
    assert_eq!(inside(&bench, "cat /etc/motd\n").out(), "changed\n");
}

#[test]
fn rebuild_from_a_phase_runs_it_its_hooks_and_what_is_later() {
    let bench = need!(sample("habitat-rebuild"));
    let whole = bench.built("habitat build config.yaml").steps_run();

    let build = bench.built("habitat build config.yaml --rebuild-from repos");
    ran_only_in(
        &build,
        &["repos", "tools", "scripts", "verify", "test", "final"],
    );
    let executed = build.executed().join("\n");
    for step in ["cp /workspace/repo/README", "echo first"] {
        assert!(executed.contains(step), "{step} did not run:\n{executed}");
    }
    assert_eq!(
        bench
            .built("habitat build config.yaml --rebuild-from 7")
            .executed(),
        build.executed()
    );
    assert_eq!(
        bench
            .built("habitat build config.yaml --rebuild")
            .steps_run(),
        whole
    );
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
}

#[test]
fn a_changed_test_reruns_only_that_test() {
    let bench = need!(sample("habitat-test"));
    bench.built("habitat build config.yaml");
    bench.executable(
        "tests/greets.sh",
        "#!/bin/sh\necho 1..1\necho ok 1 - changed\n",
    );

    let build = bench.built("habitat build config.yaml");

    assert_eq!(build.steps_run(), 1, "{:?}", build.executed());
    assert!(build.log().contains("ok 1 - changed"), "{}", build.log());
}

#[test]
fn a_failing_test_or_check_stops_the_build() {
    let bench = need!(sample("habitat-failing-test"));
    bench.executable(
        "tests/greets.sh",
        "#!/bin/sh\necho 1..2\necho ok 1\necho not ok 2 - greets nobody\n",
    );
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["greets nobody"]);
    assert_eq!(bench.ok("images --format json").json(), json!([]));

    let bench = need!(sample("habitat-failing-check"));
    bench.sh("sed -i 's|    - ~/second|    - /not/there\\n    - /nor/this|' config.yaml");
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["/not/there", "/nor/this"]);
}

#[test]
fn a_target_ends_the_build_after_its_phase() {
    let bench = need!(sample("habitat-target"));
    let build = bench.built("habitat build config.yaml --target repos -o type=local,dest=out");
    assert!(!build.executed().join("\n").contains("echo first"));
    assert_eq!(
        bench
            .sh("cat out/workspace/repo/README out/home/dev/readme")
            .out(),
        "one\none\n"
    );
    bench
        .shmocker("habitat build config.yaml --target reposs")
        .expect(1, &["reposs", "repos"]);
    bench
        .shmocker("habitat build config.yaml --rebuild-from nowhere")
        .expect(1, &["nowhere"]);
}

#[test]
fn phases_say_what_a_build_would_do_and_build_nothing() {
    let bench = need!(sample("habitat-phases"));
    let states = |bench: &Bench| -> Vec<(String, String)> {
        let phases = bench.ok("habitat phases config.yaml --format json").json();
        phases
            .as_array()
            .expect("an array")
            .iter()
            .map(|phase| {
                for field in [
                    "id",
                    "title",
                    "stages",
                    "reason",
                    "hash",
                    "hooks",
                    "duration_ms",
                    "size_bytes",
                ] {
                    assert!(phase.get(field).is_some(), "no {field} in {phase}");
                }
                let text = |field: &str| phase[field].as_str().expect("a string").to_owned();
                (text("name"), text("state"))
            })
            .collect()
    };
    let state = |states: &[(String, String)], name: &str| -> String {
        states
            .iter()
            .find(|(of, _)| of == name)
            .expect("a phase")
            .1
            .clone()
    };

    let before = states(&bench);
    assert_eq!(before.len(), 12);
    assert_eq!(
        (state(&before, "scripts"), state(&before, "tools")),
        ("new".to_owned(), "empty".to_owned())
    );
    assert_eq!(
        bench
            .ok("habitat build config.yaml --show-phases --format json")
            .out(),
        bench.ok("habitat phases config.yaml --format json").out()
    );

    bench.built("habitat build config.yaml");
    let built = states(&bench);
    assert!(
        built
            .iter()
            .all(|(_, state)| ["cached", "empty"].contains(&state.as_str())),
        "{built:?}"
    );
    let base = bench.ok("habitat phases config.yaml --format json").json()[0].take();
    assert_eq!(base["name"], "base");
    assert!(
        base["size_bytes"].as_u64().is_some_and(|size| size > 0),
        "what a base is made from counts: {base}"
    );

    bench.file("files/motd", "changed\n");
    let changed = states(&bench);
    assert_eq!(state(&changed, "users"), "cached");
    assert_eq!(state(&changed, "files"), "changed");
    assert_eq!(state(&changed, "scripts"), "stale");
    let phases = bench.ok("habitat phases config.yaml --format json").json();
    let files = phases
        .as_array()
        .expect("an array")
        .iter()
        .find(|phase| phase["name"] == "files")
        .expect("files");
    assert!(
        files["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("motd")),
        "{files}"
    );
    assert!(
        bench
            .ok("habitat phases config.yaml")
            .out()
            .contains("stale")
    );

    let forced = bench
        .ok("habitat build config.yaml --rebuild-from scripts --show-phases --format json")
        .json();
    let scripts = forced
        .as_array()
        .expect("an array")
        .iter()
        .find(|phase| phase["name"] == "scripts")
        .expect("scripts");
    assert_eq!(scripts["state"], "forced");
}

#[test]
fn a_moved_branch_is_noticed_when_asked() {
    let bench = need!(sample("habitat-branch"));
    bench.built("habitat build config.yaml");
    bench.sh(
        "cd repo; echo two > README; git commit -qam two; git bundle create -q ../moved.bundle main; mv ../moved.bundle ../repo.bundle",
    );

    let build = bench.built("habitat build config.yaml --pull");

    ran_only_in(&build, &["repos", "scripts", "verify", "test", "final"]);
    assert_eq!(
        inside(&bench, "cat /workspace/repo/README ~/readme\n").out(),
        "two\ntwo\n"
    );
}

/// What is on this machine is never remembered: a template that was replaced is read.
#[test]
fn a_replaced_template_is_noticed() {
    let bench = need!(sample("habitat-template"));
    let templates = crate::tidy::repository().join("templates");
    bench.tree(&templates, "templates");
    bench.built("habitat build config.yaml --templates templates");
    assert_eq!(
        bench
            .built("habitat build config.yaml --templates templates")
            .steps_run(),
        0
    );

    bench.sh("sed -i 's/{{ step.command }}/: replaced; &/' templates/script.j2");
    let build = bench.built("habitat build config.yaml --templates templates");

    assert!(
        build.executed().join("\n").contains(": replaced;"),
        "{:?}",
        build.executed()
    );
}

#[test]
fn a_rendered_habitat_builds_as_a_dockerfile() {
    let bench = need!(sample("habitat-rendered"));
    let direct = bench.env("SOURCE_DATE_EPOCH", "1700000000");
    direct.built("habitat build config.yaml -o type=oci,dest=direct.tar");

    direct.ok("habitat render config.yaml --out rendered");
    let text = std::fs::read_to_string(direct.path("rendered/Dockerfile")).expect("a Dockerfile");
    assert_eq!(direct.ok("habitat render config.yaml").out(), text);
    assert!(text.contains("--build-context"), "{text}");
}
