//! `habitat shell`: in the tree of a phase, and in what a failed step has left.

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, need};

/// A habitat on busybox whose second script needs /workspace/fixed.
fn habitat(name: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    bench
        .file(
            "config.yaml",
            format!(
                "name: sample\nbase:\n  oci: {}\nenv:\n  - USER=dev\n  - GREETING=hello world\nsecrets:\n  - {{id: token, file: token}}\n\
                 scripts:\n  - name: first\n    cache: [/kept]\n    secrets: [token]\n    mounts: ['data:/data']\n    \
                 commands: echo cached > /kept/x; echo first > ~/first\n\
                 \x20 - name: second\n    commands: |\n      echo half >> ~/half\n      test -e /workspace/fixed || {{ echo not fixed; exit 5; }}\n      \
                 echo done >> ~/half\n\
                 \x20 - name: third\n    commands: cp ~/half ~/third\n\
                 entry:\n  command: cat ~/third\n",
                busybox::layout()?.display()
            ),
        )
        .file("token", "sesame\n")
        .file("data/x", "mounted\n");
    Ok(bench)
}

fn shell(bench: &Bench, flags: &str, line: &str) -> Run {
    let mut command = bench.shmocker_command(&format!("habitat shell --progress quiet {flags} -c"));
    bench.finish(command.arg(line))
}

#[test]
fn a_phase_can_be_looked_into() {
    let bench = need!(habitat("shell-phase"));
    bench.sh("sed -i 's/test -e .*/true/' config.yaml");
    // Nothing is built yet: what the phase needs is.
    let said = shell(
        &bench,
        "config.yaml env",
        "id -un; echo $GREETING; ls ~ | wc -l",
    );
    assert_eq!(
        (said.status, said.out().as_str()),
        (0, "root\nhello world\n0\n"),
        "{}",
        said.both()
    );
    let look =
        "id -un; pwd; cat ~/first /kept/x /data/x /run/secrets/token; echo more > ~/more; exit 3";
    let said = shell(&bench, "config.yaml scripts", look);
    assert_eq!(
        (said.status, said.out().as_str()),
        (3, "dev\n/workspace\nfirst\ncached\nmounted\nsesame\n"),
        "{}",
        said.both()
    );
    // What was written is dropped, and the cache of the build is what it was.
    let said = shell(&bench, "9 config.yaml", "ls ~");
    assert_eq!(said.out(), "first\nhalf\nthird\n");
    bench.ok("habitat build config.yaml");
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
    shell(&bench, "config.yaml nowhere", "true").expect(1, &["there is no such phase"]);
    bench
        .shmocker("habitat shell --failed config.yaml final")
        .expect(2, &["--failed"]);
    shell(&bench, "--failed config.yaml", "true")
        .expect(1, &["no step of this habitat has failed"]);

    let words = bench.shmocker_words();
    let typed = bench.sh(&format!(
        "echo 'echo typed $GREETING' | {words} habitat shell --progress quiet config.yaml"
    ));
    assert_eq!(typed.out(), "typed hello world\n");
    let terminal = bench.sh(&format!(
        "script -qec '{words} habitat shell --progress quiet config.yaml scripts -c tty' /dev/null"
    ));
    assert!(terminal.out().contains("/dev/pts/"), "{}", terminal.both());
}

#[test]
fn what_a_failed_step_has_left_can_be_looked_at_and_tried_again() {
    let bench = need!(habitat("shell-failed"));
    bench.shmocker("habitat build config.yaml").tells(
        3,
        &[
            "not fixed",
            "exit code: 5",
            "shmocker habitat shell config.yaml --failed",
        ],
    );
    let said = shell(
        &bench,
        "--failed config.yaml",
        "id -un; pwd; cat ~/first ~/half; retry",
    );
    assert_eq!(
        (said.status, said.out().as_str()),
        (5, "dev\n/workspace\nfirst\nhalf\nnot fixed\n"),
        "{}",
        said.both()
    );
    let said = shell(
        &bench,
        "--failed config.yaml",
        "touch /workspace/fixed && retry && cat ~/half",
    );
    assert_eq!(
        (said.status, said.out().as_str()),
        (0, "half\nhalf\nhalf\ndone\n"),
        "{}",
        said.both()
    );

    // None of that is part of any build.
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["not fixed"]);
    let said = shell(&bench, "--failed config.yaml", "cat ~/half; ls /workspace");
    assert_eq!(said.out(), "half\n", "it is as the last build left it");

    // Another command is another step.
    bench.sh("sed -i 's/not fixed/still not fixed/' config.yaml");
    shell(&bench, "--failed config.yaml", "true").expect(1, &["another one now"]);
    bench.sh("sed -i 's/test -e .*/true/' config.yaml");
    bench.ok("habitat build config.yaml");
    shell(&bench, "--failed config.yaml", "true")
        .expect(1, &["no step of this habitat has failed"]);
}

#[test]
fn a_build_goes_on_from_what_was_accepted_and_nothing_remembers_it() {
    let bench = need!(habitat("shell-continue"));
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["not fixed"]);
    let said = shell(
        &bench,
        "--failed config.yaml",
        "echo by hand >> ~/half; continue",
    );
    assert_eq!(said.status, 0, "{}", said.both());
    assert!(said.out().contains("counts as done"), "{}", said.both());
    assert_eq!(
        bench.ok("run --rm localhost/habitat/sample:latest").out(),
        "half\nby hand\n"
    );
    let labels = &bench.ok("inspect localhost/habitat/sample:latest").json()["config"]["Labels"];
    assert_eq!(labels["io.shmocker.habitat.continued"], "true");

    // The same, typed.
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["not fixed"]);
    let words = bench.shmocker_words();
    let typed = bench.sh(&format!(
        "printf 'retry\\necho typed >> ~/half\\ncontinue\\nexit\\n' | script -qec '{words} habitat shell --failed --progress quiet config.yaml' /dev/null"
    ));
    assert!(typed.out().contains("counts as done"), "{}", typed.both());
    assert_eq!(
        bench.ok("run --rm localhost/habitat/sample:latest").out(),
        "half\nhalf\ntyped\n"
    );

    // The same habitat is built as if that had never been.
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["not fixed"]);
    bench.sh("sed -i 's/test -e .*/true/' config.yaml");
    bench.ok("habitat build config.yaml");
    assert_eq!(
        bench.ok("run --rm localhost/habitat/sample:latest").out(),
        "half\ndone\n"
    );
    let labels = &bench.ok("inspect localhost/habitat/sample:latest").json()["config"]["Labels"];
    assert!(labels.get("io.shmocker.habitat.continued").is_none());
}
