//! `habitat phases`, `habitat why`, `shmocker why`: what would be built again, and the reason down to the value.

mod keys;
mod sources;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, need};

/// A habitat with something at every key that a busybox base can have.
fn sample(name: &str) -> Result<Bench, Lack> {
    machine::program(Capability::Git, "git")?;
    let bench = Bench::new(&machine::plain_user()?, name);
    let text = CONFIG.replace("BUSYBOX", &busybox::layout()?.display().to_string());
    bench
        .file("config.yaml", text)
        .file("files/motd", "welcome\n")
        .file("files/other", "welcome all\n")
        .file("files/tree/deep/file", "deep\n")
        .executable("files/tree/run", "#!/bin/sh\n")
        .file("data/input", "in\n")
        .file("secret", "word\n")
        .executable("tests/one.sh", "#!/bin/sh\necho 1..1\necho ok 1\n")
        .executable("tests/two.sh", "#!/bin/sh\necho 1..1\necho ok 1\n")
        .executable("tests/three.sh", "#!/bin/sh\necho 1..1\necho ok 1\n");
    bench.sh(
        "git init -q -b main repo; cd repo; git config user.name t; git config user.email t@example.com; \
         for text in one two; do echo $text > README; git add README; \
         GIT_AUTHOR_DATE=@1700000000 GIT_COMMITTER_DATE=@1700000000 git commit -qm $text; done; git branch dev HEAD~1; git tag v1; \
         git bundle create -q ../repo.bundle main dev v1; cp ../repo.bundle ../same.bundle",
    );
    Ok(bench)
}

const CONFIG: &str = "\
name: sample
description: with everything
base:
  oci: BUSYBOX
env:
  - USER=dev
  - HOME=/home/dev
  - UID=1200
  - GID=1200
  - WORKDIR=/workspace
  - SYSTEM_PATH=/habitat/system
  - LOCAL_PATH=/habitat/local
  - GREETING=hello
  - PLACE=/opt
files:
  - src: files/motd
    dest: /etc/motd
    mode: 644
    owner: root
    optional: false
    allow_home: false
    description: what is said first
  - src: files/tree
    dest: ~/tree
  - src: data/input
    dest: ${PLACE}/input
    before: workdir
repos:
  - url: repo.bundle
    path: /workspace/repo
    branch: main
    shallow: true
    submodules: false
    access: write
    lfs: false
    description: the code
  - url: repo.bundle
    path: /workspace/pinned
    ref: v1
    depth: 1
scripts:
  - name: first
    description: begins
    run_as: dev
    commands:
      - echo first > ~/first
      - echo more >> ~/first
    shell: sh -e
    timeout: 90s
    network: none
    env:
      LEVEL: 1
    mounts:
      - data/input:/mnt/input
    cache: [/var/cache/one]
    secrets:
      - id: word
        env: WORD
  - name: late
    after: scripts
    needs: [db]
    commands: echo late > ~/late
  - name: early
    before: users
    run_as: root
    when: 'true'
    commands: echo early > /early
volumes:
  - data:/data
services:
  - name: db
    command: sleep 300
    run_as: dev
    ready: 'true'
    timeout: 5s
  - name: other
    command: sleep 301
verify-fs:
  required_files:
    - path: ~/first
      type: file
      mode: 644
      owner: dev
      contains: first
      absent: false
    - path: /etc/motd
      sha256: 8cfb9a3bb9d6a5c2e1c1e4b4c6b1dbb7f6a4a0d28e0a0ab0d18b3ca7b0f5d3a1
tests:
  - path: tests/one.sh
    run_as: dev
    timeout: 60s
    needs: [db]
  - tests/two.sh
entry:
  command: cat /etc/motd
  init_command: 'true'
  startup_delay: 1
  tty: true
  bypass_habitat_construction: false
timeout:
  verify: 50s
secrets:
  - id: word
    file: secret
labels:
  team: one
";

/// What the phases are, and why.
fn why(bench: &Bench) -> Value {
    let run = bench.shmocker("habitat why config.yaml --format json");
    assert!([0, 10].contains(&run.status), "{}", run.both());
    let answer = run.json();
    assert_eq!(answer["would_rebuild"], run.status == 10, "{}", run.both());
    answer
}

fn in_state(answer: &Value, state: &str) -> BTreeSet<String> {
    let phases = answer["phases"].as_array().expect("phases").iter();
    phases
        .filter(|phase| phase["state"] == state)
        .map(|phase| phase["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// Every cause of a phase, and what it comes from in its turn.
fn causes(answer: &Value, phase: &str) -> Vec<Value> {
    fn all(list: &Value, found: &mut Vec<Value>) {
        for cause in list.as_array().into_iter().flatten() {
            found.push(cause.clone());
            all(&cause["causes"], found);
        }
    }
    let phases = answer["phases"].as_array().expect("phases").iter();
    let mut found = Vec::new();
    for known in phases.filter(|known| known["name"] == phase) {
        all(&known["causes"], &mut found);
    }
    found
}

#[test]
fn what_a_phase_says_of_itself_is_what_a_build_then_does() {
    let bench = need!(sample("why-built"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.built("habitat build config.yaml");
    for edit in [
        "s/echo more/echo other/",
        "s/GREETING=hello/GREETING=hey/",
        "0,/mode: 644/s/mode: 644/mode: 640/",
        "s/team: one/team: three/",
        "s/branch: main/branch: dev/",
    ] {
        bench.sh(&format!("sed -i '{edit}' config.yaml"));
        let answer = why(&bench);
        let changed = in_state(&answer, "changed");
        let open: BTreeSet<String> = &changed | &in_state(&answer, "stale");
        assert!(!changed.is_empty(), "{edit}");
        let built = bench.built("habitat build config.yaml");
        let phases: BTreeSet<String> = built
            .stages_executed()
            .iter()
            .map(|stage| stage.rsplit('-').next().unwrap_or(stage).to_owned())
            .map(|stage| {
                if stage.parse::<u32>().is_ok() {
                    "test".to_owned()
                } else {
                    stage
                }
            })
            .collect();
        assert!(
            phases.is_subset(&open),
            "{edit}: {phases:?} ran, {open:?} were said"
        );
        assert_eq!(why(&bench)["would_rebuild"], false, "{edit}");
    }
}

#[test]
fn the_file_of_a_directory_that_changed_is_named() {
    let bench = need!(sample("why-files"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.built("habitat build config.yaml");
    bench
        .file("files/tree/deep/file", "deeper\n")
        .file("files/tree/new", "new\n")
        .sh("chmod 700 files/tree/run");

    let run = bench.shmocker("habitat why config.yaml");

    assert_eq!(run.status, 10);
    for line in [
        "files    CHANGED <- files[1] files/tree/deep/file: content changed",
        "<- files[1] files/tree/new: added",
        "<- files[1] files/tree/run: mode 0755 -> 0700",
        "scripts  STALE   <- files (changed)",
    ] {
        assert!(run.out().contains(line), "no `{line}` in\n{}", run.out());
    }
    // What follows from it is told down to its root when it is asked for.
    for line in [
        "habitat why config.yaml scripts",
        "habitat why 9 config.yaml",
        "habitat why scripts",
    ] {
        let run = bench.shmocker(line);
        assert_eq!(run.status, 10);
        assert!(
            run.out()
                .contains("files[1] files/tree/deep/file: content changed"),
            "{}",
            run.out()
        );
        assert!(!run.out().contains("verify"), "{}", run.out());
    }
    let users = bench.shmocker("habitat why config.yaml users");
    assert_eq!(
        (users.status, users.out().as_str()),
        (0, "users is cached: it would not be built\n")
    );
    bench
        .shmocker("habitat why config.yaml userz")
        .expect(1, &["userz", "did you mean `users`", "scripts, verify"]);
}

#[test]
fn a_script_in_front_of_others_is_told_as_one_more() {
    let bench = need!(sample("why-front"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.built("habitat build config.yaml");
    bench.sh(
        "sed -i 's/^scripts:/scripts:\\n  - name: zero\\n    commands: echo zero/' config.yaml",
    );

    let answer = why(&bench);

    assert_eq!(
        in_state(&answer, "changed"),
        BTreeSet::from(["scripts".to_owned()])
    );
    let found = causes(&answer, "scripts");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["field"], &found[0]["kind"]),
        (&Value::from("scripts[0]"), &Value::from("item"))
    );
    assert_eq!(found[0]["new"], "zero");
}

#[test]
fn a_value_that_names_an_entry_of_env_is_traced_to_it() {
    let bench = need!(sample("why-trace"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.built("habitat build config.yaml");
    bench.sh("sed -i 's|PLACE=/opt|PLACE=/srv|' config.yaml");
    let run = bench.shmocker("habitat why config.yaml workdir");
    assert!(
        run.out().contains("files[2].dest /opt/input -> /srv/input"),
        "{}",
        run.out()
    );
    let answer = why(&bench);
    let dest = causes(&answer, "workdir")
        .into_iter()
        .find(|cause| cause["field"] == "files[2].dest")
        .expect("the destination is named");
    assert_eq!(dest["causes"][0]["field"], "env.PLACE", "{dest}");
}

#[test]
fn a_replaced_template_and_a_flag_are_named() {
    let bench = need!(sample("why-template"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.tree(&crate::tidy::repository().join("templates"), "templates");
    bench.built("habitat build config.yaml --templates templates");
    assert_eq!(
        bench
            .shmocker("habitat why config.yaml --templates templates")
            .status,
        0
    );
    bench.sh("sed -i 's/{{ step.command }}/: replaced; &/' templates/script.j2");
    let run = bench.shmocker("habitat why config.yaml --templates templates");
    assert!(
        run.out()
            .contains("scripts  CHANGED <- template script.j2 "),
        "{}",
        run.out()
    );
}

#[test]
fn the_content_of_a_layer_is_told_file_by_file() {
    let bench = Bench::new(&need!(machine::plain_user()), "why-layer");
    let layout = need!(busybox::layout());
    let text = format!(
        "name: s\nbase:\n  oci: {}\nentry:\n  bypass_habitat_construction: false\n",
        layout.display()
    );
    bench
        .file("habitats/s/config.yaml", &text)
        .file("habitats/s/notes/a", "1")
        .file("shared/README", "2");
    let why = || {
        let run = bench.shmocker("habitat why habitats/s/config.yaml --format json");
        run.json()
    };
    bench.built("habitat build habitats/s/config.yaml");
    assert_eq!(why()["would_rebuild"], false);
    // The whole directory is laid down once more after the scripts.
    let both = BTreeSet::from(["files".to_owned(), "scripts".to_owned()]);
    bench.file("habitats/s/notes/a", "one");
    let answer = why();
    assert_eq!(in_state(&answer, "changed"), both);
    assert_eq!(causes(&answer, "files")[0]["path"], "notes/a", "{answer:#}");
    bench.file("habitats/s/notes/a", "1");
    bench.file("habitats/s/config.yaml", text.replace("false", "true"));
    let answer = why();
    assert_eq!(in_state(&answer, "changed"), both);
    assert_eq!(
        causes(&answer, "files")[0]["field"],
        "entry.bypass_habitat_construction",
        "{answer:#}"
    );
}

#[test]
fn a_list_of_requirements_is_compared_item_by_item() {
    let bench = need!(sample("why-required"));
    bench.sh(
        "sed -i \"s/sha256: .*/sha256: $(sha256sum < files/motd | cut -d' ' -f1)/\" config.yaml",
    );
    bench.built("habitat build config.yaml");
    bench.sh("sed -i 's/sha256: ..../sha256: 0000/' config.yaml");
    let answer = why(&bench);
    assert_eq!(
        in_state(&answer, "changed"),
        BTreeSet::from(["verify".to_owned()])
    );
    assert_eq!(
        causes(&answer, "verify")[0]["field"],
        "verify-fs.required_files[1].sha256"
    );
}

#[test]
fn phases_say_in_full_where_everything_is_written() {
    let bench = need!(sample("why-verbose"));
    let brief = bench.ok("habitat phases config.yaml --format json").json();
    assert!(brief[5]["items"].is_null());
    let full = bench
        .ok("habitat build config.yaml --show-phases --verbose --format json")
        .json();
    let items = full[5]["items"].as_array().expect("items");
    assert_eq!(items[0]["item"], "what is said first");
    assert_eq!(
        (&items[0]["file"], &items[0]["layer"]),
        (&Value::from("config.yaml"), &Value::from("local"))
    );
    assert_eq!(items[0]["line"], 16);
    assert_eq!(
        full[6]["asks"],
        Value::Array(Vec::new()),
        "a bundle of this machine is looked at, not asked"
    );
    let text = bench.ok("habitat phases config.yaml --verbose").out();
    assert!(text.contains("config.yaml:16 "), "{text}");
}

#[test]
fn skipped_phases_do_nothing_and_mark_the_image() {
    let bench = need!(sample("why-skip"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.executable("tests/one.sh", "#!/bin/sh\necho 1..1\necho not ok 1\n");
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["one.sh"]);
    let phases = bench
        .ok("habitat phases config.yaml --skip 11,repos --format json")
        .json();
    assert_eq!(
        (&phases[10]["state"], &phases[6]["state"]),
        (&Value::from("skipped"), &Value::from("skipped"))
    );

    let built = bench.built("habitat build config.yaml --skip 11,repos");

    assert!(
        !built.executed().join("\n").contains("README"),
        "{:?}",
        built.executed()
    );
    let labels =
        bench.ok("inspect localhost/habitat/sample:latest").json()["config"]["Labels"].take();
    assert_eq!(labels["io.shmocker.habitat.skipped"], "repos,test");
    assert!(
        labels["io.shmocker.habitat.phase.test"].is_null(),
        "{labels}"
    );
    assert_eq!(
        bench
            .shmocker("habitat why config.yaml --skip test,repos")
            .status,
        0
    );
    for (flags, words) in [
        ("--skip base", ["base", "cannot be skipped"]),
        ("--skip tests", ["did you mean `test`", "verify"]),
        ("--only nothing", ["nothing", "base, users"]),
        ("--only test --skip test", ["both skipped", "leave it out"]),
    ] {
        bench
            .shmocker(&format!("habitat build config.yaml {flags}"))
            .expect(1, &words);
    }
    assert_eq!(
        bench
            .shmocker("habitat build config.yaml --only test --target repos")
            .status,
        2
    );
}

#[test]
fn an_only_phase_runs_anew_and_nothing_after_it() {
    let bench = need!(sample("why-only"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    let first = bench.built("habitat build config.yaml --only scripts");
    assert!(
        first
            .stages_executed()
            .iter()
            .all(|stage| !["verify", "test-1", "final"].contains(&stage.as_str()))
    );
    let again = bench.built("habitat build config.yaml --only scripts");
    let mut ran = again.stages_executed();
    ran.sort();
    assert_eq!(
        ran,
        ["core-scripts", "launcher", "scripts", "service-db"],
        "{:?}",
        again.executed()
    );
    let tests = bench.built("habitat build config.yaml --only test");
    let ran = |stage: &str| tests.stages_executed().iter().any(|known| known == stage);
    assert!(ran("test-1") && !ran("verify"));
}

#[test]
fn habitats_are_compared_by_what_they_mean() {
    let bench = need!(sample("why-diff"));
    let text = std::fs::read_to_string(bench.path("config.yaml")).expect("it is there");
    bench.file("b.yaml", &text);
    assert_eq!(
        bench
            .ok("habitat diff config.yaml b.yaml --exit-code")
            .out(),
        ""
    );
    // Written in another way, in another order where that means nothing.
    let other = text
        .replace("team: one", "\"team\": \"one\"")
        .replace("timeout: 90s", "timeout: 90000ms")
        .replace("mode: 644", "mode: \"0o644\"")
        .replace(
            "  - USER=dev\n  - HOME=/home/dev\n",
            "  - HOME=/home/dev\n  - USER=dev\n",
        )
        .replace(
            "- path: tests/one.sh\n    run_as: dev\n    timeout: 60s\n    needs: [db]\n  - tests/two.sh",
            "- tests/two.sh\n  - path: tests/one.sh\n    run_as: dev\n    timeout: 1m\n    needs: [db]",
        );
    assert_ne!(other, text);
    bench.file("b.yaml", &other);
    assert_eq!(
        bench
            .ok("habitat diff config.yaml b.yaml --exit-code")
            .out(),
        ""
    );
    let json = bench
        .ok("habitat diff config.yaml b.yaml --format json")
        .json();
    assert_eq!(json["equal"], true);

    bench.file(
        "b.yaml",
        text.replace("echo more", "echo less")
            .replace("with everything", "with less")
            .replace(
                "  - name: late\n    after: scripts\n    needs: [db]\n    commands: echo late > ~/late\n",
                "",
            )
            .replace("labels:", "labels:\n  more: x"),
    );
    let run = bench.shmocker("habitat diff config.yaml b.yaml --exit-code");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.out(),
        "description \"with everything\" -> \"with less\"\n\
         scripts[0].commands[1] \"echo more >> ~/first\" -> \"echo less >> ~/first\"\n\
         scripts[1] removed: late\n\
         labels.more unset -> x\n"
    );
    assert_eq!(
        bench
            .ok("habitat diff config.yaml b.yaml --phase final")
            .out(),
        "labels.more unset -> x\n"
    );
    let json = bench
        .ok("habitat diff config.yaml b.yaml --format json --phase scripts")
        .json();
    assert_eq!(
        (&json["equal"], &json["changes"][0]["old"]),
        (&Value::from(false), &Value::from("echo more >> ~/first"))
    );
    let lines = bench
        .ok("habitat diff config.yaml b.yaml --dockerfile --phase scripts")
        .out();
    assert!(
        lines.contains("-RUN") || lines.contains("-    ") || lines.contains("echo more"),
        "{lines}"
    );
    assert!(
        lines
            .lines()
            .any(|line| line.starts_with('+') && line.contains("echo less")),
        "{lines}"
    );
    let json = bench
        .ok("habitat diff config.yaml b.yaml --dockerfile --format json --root . --no-user-layer")
        .json();
    assert_eq!(json["equal"], false);
    bench
        .shmocker("habitat diff config.yaml b.yaml --phase finale")
        .expect(1, &["did you mean `final`"]);
}

#[test]
fn steps_of_a_dockerfile_are_told_apart_by_what_they_are_made_from() {
    let bench = Bench::new(&need!(machine::plain_user()), "why-dockerfile");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", "FROM base AS made\nARG LEVEL=1\nCOPY src /src\nRUN cat /src/a > /all\nFROM base\nENV MODE=x\nCOPY --from=made /all /all\nRUN echo last\n")
        .file("src/a", "a\n")
        .file("src/b", "b\n");
    let line = |flags: &str| format!("why {base} {flags} .");
    let fresh = bench.shmocker(&line(""));
    assert_eq!(fresh.status, 10);
    assert!(
        fresh.out().contains("NEW <- never built"),
        "{}",
        fresh.out()
    );
    bench.built(&format!("build {base} ."));
    let nothing = bench.shmocker(&line(""));
    assert_eq!(
        (nothing.status, nothing.out().as_str()),
        (0, "nothing would run again\n")
    );

    bench.file("src/b", "other\n");
    let run = bench.shmocker(&line(""));
    assert_eq!(run.status, 10, "{}", run.both());
    assert!(
        run.out().contains(
            "Dockerfile:3 [made] COPY src /src\n    CHANGED <- file src/b: content changed"
        ),
        "{}",
        run.out()
    );
    assert!(
        run.out().contains(
            "Dockerfile:4 [made] RUN cat /src/a > /all\n    STALE <- Dockerfile:3 (changed)"
        ),
        "{}",
        run.out()
    );
    bench.file("src/b", "b\n");

    let answer = bench
        .shmocker(&line("--build-arg LEVEL=2 --format json"))
        .json();
    let steps = answer["steps"].as_array().expect("steps");
    let state = |at: usize| steps[at]["state"].as_str().unwrap_or_default();
    assert_eq!((state(0), state(1)), ("cached", "changed"), "{answer:#}");
    let cause = &steps[1]["causes"][0];
    assert_eq!(
        (&cause["field"], &cause["old"], &cause["new"]),
        (
            &Value::from("--build-arg LEVEL"),
            &Value::from("1"),
            &Value::from("2")
        )
    );
    assert_eq!(
        bench
            .shmocker(&line(
                "--target made --build-arg LEVEL=2 --add-host a:127.0.0.1"
            ))
            .status,
        10
    );

    bench.sh("sed -i 's/echo last/echo the last/; s/MODE=x/MODE=y/' Dockerfile");
    let run = bench.shmocker(&line("-f Dockerfile --pull"));
    assert!(
        run.out()
            .contains("command \"echo last\" -> \"echo the last\""),
        "{}",
        run.out()
    );
    assert!(run.out().contains("env.MODE x -> y"), "{}", run.out());
}
