//! What a person is told when something is wrong: where, why, and the way out; and the exit code that says whose turn it is.

use serde_json::json;

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};

#[test]
fn a_failing_run_shows_its_line_its_last_output_and_its_status() {
    let bench = Bench::new(&need!(machine::plain_user()), "failing-run");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN true\nRUN seq 1 100 && echo last words >&2 && exit 42\n",
    );

    let run = bench.shmocker(&format!("build {base} --progress quiet ."));
    run.expect(
        3,
        &["RUN seq 1 100", "Dockerfile:3", "last words", "100", "42"],
    );
    assert!(
        !run.stderr.contains("\n1\n"),
        "only the last lines are repeated\n{}",
        run.both()
    );

    let events = bench.events(&format!("build {base} ."));
    let failed = events.of_kind("step.failed").next().expect("a step failed");
    assert_eq!(
        [&failed["exit_status"], &failed["line"], &failed["file"]],
        [&json!(42), &json!(3), &json!("Dockerfile")]
    );
    assert_eq!(events.done()["status"], "failed");
    assert_eq!(events.done()["digest"], json!(null));
    let log = failed["log_path"]
        .as_str()
        .map(|path| std::fs::read_to_string(path).expect("the log is kept"));
    assert!(log.is_none_or(|log| log.contains("last words")));
}

#[test]
fn a_failing_step_in_a_habitat_points_at_the_yaml() {
    let bench = Bench::new(&need!(machine::plain_user()), "failing-script");
    let base = need!(busybox::layout());
    bench.file(
        "config.yaml",
        format!("name: failing\nbase:\n  oci: {}\nscripts:\n  - name: breaks\n    commands:\n      - echo fine\n      - echo oh no; exit 7\n", base.display()),
    );
    bench
        .shmocker("habitat build config.yaml --progress quiet")
        .expect(3, &["oh no", "7", "config.yaml:"]);
}

#[test]
fn everything_wrong_with_a_dockerfile_is_said_at_once() {
    let bench = Bench::new(&need!(machine::plain_user()), "many-mistakes");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS one\nRUNN echo hello\nEXPOSE many\nCOPY --from=three /a /b\nFROM base AS two\nUSR me\nCOPY --chmod=9 a /b\nCOPY absent /c\nFROM base AS three\nCOPY --from=one /a /b\nCOPY --from=two /a /b\nCOPY --from=three /c /d\n",
    );
    bench.shmocker(&format!("build {base} .")).expect(
        1,
        &[
            "RUNN",
            "did you mean",
            "RUN",
            "many",
            "USR",
            "USER",
            "chmod",
            "absent",
            "itself",
            ":2:",
            ":3:",
            ":4:",
            ":6:",
            ":7:",
            ":8:",
            ":12:",
        ],
    );
}

#[test]
fn a_stage_cannot_copy_from_itself_or_from_a_later_one() {
    let bench = Bench::new(&need!(machine::plain_user()), "cycle");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base AS one\nCOPY --from=one /a /b\n");
    bench
        .shmocker(&format!("build {base} ."))
        .expect(1, &["one", "Dockerfile:2:", "help:"]);
    bench.file(
        "Dockerfile",
        "FROM base AS one\nCOPY --from=two /a /b\nFROM base AS two\n",
    );
    bench
        .shmocker(&format!("build {base} --target one ."))
        .expect(1, &["two", "Dockerfile:2:", "help:"]);
}

#[test]
fn a_missing_file_is_named_with_the_line_that_wants_it() {
    let bench = Bench::new(&need!(machine::plain_user()), "missing");
    let base = need!(busybox::context());
    bench
        .file(
            "Dockerfile",
            "FROM base\nRUN echo a step ran\nCOPY absent.txt /\n",
        )
        .file("hidden.txt", "x")
        .file(".dockerignore", "hidden.txt\n");
    let build = bench.shmocker(&format!("build {base} ."));
    build.expect(1, &["absent.txt", "Dockerfile:3:"]);
    assert!(build.both().contains("0 steps run"), "{build:?}");

    bench.file("Dockerfile", "FROM base\nCOPY hidden.txt /\n");
    bench
        .shmocker(&format!("build {base} ."))
        .expect(1, &["hidden.txt", ".dockerignore"]);
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let bench = Bench::new(&need!(machine::plain_user()), "refused");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --device=vendor.com/class=all true\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(1, &["--device", "Dockerfile:2:"]);
    bench.file(
        "Dockerfile",
        "FROM docker.io/library/busybox:latest\nRUN true\n",
    );
    let run = bench.shmocker("build .");
    assert_ne!(run.status, 0, "{}", run.both());
    assert!(
        run.stderr.contains("docker.io/library/busybox") || run.stderr.contains("registr"),
        "{}",
        run.both()
    );
}

#[test]
fn usage_is_exit_code_2() {
    let bench = Bench::new(&need!(machine::plain_user()), "usage");
    bench.file("Dockerfile", "FROM scratch\n");
    bench
        .shmocker("build --no-such-flag .")
        .expect(2, &["--no-such-flag"]);
    bench.shmocker("biuld .").expect(2, &["build"]);
    bench
        .shmocker("build -o type=nonsense,dest=x .")
        .expect(2, &["nonsense"]);
    bench
        .shmocker("build --progress loud .")
        .expect(2, &["loud"]);
}

#[test]
fn a_misspelt_phase_is_pointed_at() {
    let bench = Bench::new(&need!(machine::plain_user()), "misspelt");
    bench.file(
        "config.yaml",
        "name: typo\nbase_image: debian:12\nuserz: []\nscripts:\n  - commands: true\n    after: repoes\n  - run_as: me\n",
    );

    let run = bench.shmocker("habitat check config.yaml");
    run.expect(
        1,
        &[
            "userz",
            "did you mean",
            "repoes",
            "repos",
            "commands",
            "config.yaml:3:1",
        ],
    );

    let short = bench.shmocker("habitat check --format short config.yaml");
    assert_eq!(short.status, 1, "{}", short.both());
    let lines = short.out();
    for line in ["config.yaml:3:1: ", "config.yaml:6:"] {
        assert!(lines.contains(line), "{}", short.both());
    }

    let json = bench.shmocker("habitat check --format json config.yaml");
    let problems = json.json();
    let problems = problems.as_array().expect("an array");
    assert!(problems.len() >= 3, "{problems:?}");
    for problem in problems {
        for field in [
            "file",
            "line",
            "column",
            "end_line",
            "end_column",
            "code",
            "severity",
            "message",
            "help",
        ] {
            assert!(problem.get(field).is_some(), "no {field} in {problem}");
        }
    }
}

#[test]
fn a_habitat_without_a_base_says_so() {
    let bench = Bench::new(&need!(machine::plain_user()), "no-base");
    bench.file(
        "config.yaml",
        "name: baseless\nscripts:\n  - commands: true\n",
    );
    bench
        .shmocker("habitat check config.yaml")
        .expect(1, &["base"]);
    bench.file(
        "config.yaml",
        "name: two\nbase_image: debian:12\nbase:\n  debian: bookworm\n",
    );
    bench
        .shmocker("habitat check config.yaml")
        .expect(1, &["base_image", "base"]);
}

#[test]
fn a_missing_config_is_exit_code_1() {
    let bench = Bench::new(&need!(machine::plain_user()), "absent");
    bench
        .shmocker("habitat build absent.yaml")
        .expect(1, &["absent.yaml"]);
    bench
        .shmocker("build -f absent.Dockerfile .")
        .expect(1, &["absent.Dockerfile"]);
    bench
        .shmocker("build absent-directory")
        .expect(1, &["absent-directory"]);
}

#[test]
fn a_source_that_is_out_of_reach_is_exit_code_5() {
    let bench = Bench::new(&need!(machine::plain_user()), "unreachable");
    let base = need!(busybox::context());
    // Nobody listens on the discard port of this machine.
    bench.file("Dockerfile", "FROM base\nADD http://127.0.0.1:9/file /\n");
    bench
        .shmocker(&format!("build {base} ."))
        .expect(5, &["http://127.0.0.1:9/file", "Dockerfile:2:"]);
}

/// A habitat's time-out ends the step with everything that it started.
#[test]
fn a_time_out_ends_the_step_and_is_exit_code_3() {
    let bench = Bench::new(&need!(machine::plain_user()), "timeout");
    let base = need!(busybox::layout());
    bench.file(
        "config.yaml",
        format!("name: slow\nbase:\n  oci: {}\nscripts:\n  - name: hangs\n    timeout: 500ms\n    commands: sleep 60 & sleep 60\n", base.display()),
    );
    let start = std::time::Instant::now();
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["500"]);
    assert!(start.elapsed().as_secs() < 30);
}

/// A program of another architecture is named as such, not by what the kernel says of it.
#[test]
fn a_program_of_another_architecture_is_said_to_be_one() {
    let bench = Bench::new(&need!(machine::plain_user()), "failing-foreign");
    let base = need!(busybox::context());
    let (other, number) = match std::env::consts::ARCH {
        "s390x" => ("arm64", [183, 0]),
        _ => ("s390x", [0, 22]),
    };
    // The head of a program for the other byte order, and nothing behind it.
    let order = if other == "s390x" { 2 } else { 1 };
    let mut program = b"\x7fELF\x02".to_vec();
    program.extend([order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    program.extend(if order == 2 { [0, 2] } else { [2, 0] });
    program.extend(number);
    program.resize(64, 0);
    bench.executable("program", &program);
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY program /program\nRUN [\"/program\"]\n",
    );
    // Where no emulator is.
    let mut command = bench.shmocker_command(&format!("build {base} ."));
    let run = bench.finish(command.env("PATH", "/usr/sbin:/sbin"));
    let said = run.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(run.status, 3, "{}", run.both());
    for part in [
        format!("/program is a program for {other}"),
        "binfmt_misc".to_owned(),
        "Dockerfile:3".to_owned(),
        "qemu-user-static".to_owned(),
    ] {
        assert!(
            said.replace("│ ", "").contains(&part),
            "no `{part}` in\n{}",
            run.both()
        );
    }
}
