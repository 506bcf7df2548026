//! What the rendered shell scripts do, in every shell that this machine has: they must work in dash, bash and busybox
//! alike.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tests::render;
use super::*;

/// The shells to try: at least `sh`.
fn shells() -> Vec<Vec<&'static str>> {
    let all = [
        vec!["sh", "-e"],
        vec!["dash", "-e"],
        vec!["bash", "-eo", "pipefail"],
        vec!["busybox", "sh", "-e"],
    ];
    let works = |shell: &Vec<&str>| {
        let mut command = Command::new(shell[0]);
        let said = command
            .args(&shell[1..])
            .args(["-c", "echo works"])
            .output();
        said.is_ok_and(|said| said.stdout == b"works\n")
    };
    all.into_iter().filter(works).collect()
}

/// A directory that is gone when the test is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("habitat-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("there is room");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("it lies below")).expect("there is room");
        std::fs::write(&path, text).expect("there is room");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The script of the first heredoc after a line of the Dockerfile.
fn script_after(dockerfile: &str, line: &str) -> String {
    let (_, rest) = dockerfile.split_once(line).expect("the line is there");
    let (_, rest) = rest.split_once("<<'SH'").expect("a heredoc follows");
    let (_, rest) = rest.split_once('\n').expect("it has lines");
    let (script, _) = rest.split_once("\nSH\n").expect("it ends");
    format!("{script}\n")
}

struct Said {
    status: i32,
    out: String,
    err: String,
}

fn run(shell: &[&str], script: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Said {
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .arg(script)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(env.iter().copied())
        .output()
        .expect("the shell was tried");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        status: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

#[test]
fn the_judge_goes_by_plan_results_bail_out_and_status() {
    let text = "name: judged\nbase_image: debian:12\ntests: [t.sh]\n";
    let rendered = render(text, &[("t.sh", PathKind::File)]);
    let scratch = Scratch::new("judge");
    let judge = script_after(&rendered.dockerfile, "# what judges the TAP");
    let judge = PathBuf::from(scratch.file("judge", &judge));
    for (test, verdict) in [
        ("echo 1..2; echo ok 1; echo ok 2", ""),
        ("echo ok 1; echo ok 2; printf 1..2", ""),
        ("echo 1..1; echo 'not ok 1 - later # TODO'", ""),
        ("echo '1..0 # SKIP nothing to do'", ""),
        (
            "echo 1..1; echo ok 1; echo '    not ok 1 - of a subtest'",
            "",
        ),
        (
            "echo 1..2; echo ok 1; echo not ok 2",
            "# 1 of 2 tests failed\n",
        ),
        ("echo 1..3; echo ok 1", "# it planned 3 tests and ran 1\n"),
        ("echo 1..1; echo ok 1; exit 3", "# it ended with status 3\n"),
        ("echo 'Bail out! no database'", "# Bail out! no database\n"),
        ("echo fine", "# it printed no plan (1..N)\n"),
    ] {
        let program = scratch.file("t.sh", test);
        for shell in shells() {
            let said = run(&shell, &judge, &[&program], &[]);
            assert_eq!(said.err, verdict, "{shell:?}: {test}");
            assert_eq!(said.status == 0, verdict.is_empty(), "{shell:?}: {test}");
        }
    }
}

#[test]
fn no_value_of_the_environment_is_run() {
    let text = "name: quoted\nbase_image: debian:12\nenv: {ODD: x, UID: 1000}\n";
    let scratch = Scratch::new("env");
    let script = script_after(&render(text, &[]).dockerfile, "# the environment");
    let profile = scratch.0.join("profile.d").display().to_string();
    let script = script.replace("/etc/profile.d", &profile);
    let script = PathBuf::from(scratch.file("env.sh", &script));
    let odd = "it's \"odd\" $(touch /nowhere) `id` \\ ${HOME} '' ; exit 1\n two'";
    let mut env = vec![("ODD", odd)];
    env.extend(
        [
            "USER",
            "WORKDIR",
            "HABITAT_PATH",
            "SYSTEM_PATH",
            "SHARED_PATH",
            "LOCAL_PATH",
        ]
        .map(|name| (name, "x")),
    );
    for shell in shells() {
        let said = run(&shell, &script, &[], &env);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{shell:?}");
        let ask = format!(". {profile}/habitat-env.sh; printf %s \"$ODD\"");
        let ask = PathBuf::from(scratch.file("ask.sh", &ask));
        assert_eq!(run(&shell, &ask, &[], &[]).out, odd, "{shell:?}");
    }
}

#[test]
fn verify_tells_every_failure() {
    let scratch = Scratch::new("verify");
    let there = scratch.file("there", "some text\n");
    let text = format!(
        "name: verified\nbase_image: debian:12\nverify-fs:\n  required_files:\n    - {there}\n    - {{path: {there}, type: directory}}\n    \
         - {{path: {there}, mode: 4777}}\n    - {{path: {there}, mode: 640, type: file, contains: me text}}\n    \
         - {{path: {there}, contains: other}}\n    - {{path: {there}, absent: true}}\n    - {{path: {there}.not, absent: true}}\n    \
         - {{path: {there}, owner: nobody-at-all}}\n    - {there}.not\n"
    );
    let script = script_after(&render(&text, &[]).dockerfile, " verify-fs");
    let script = PathBuf::from(scratch.file("verify.sh", &script));
    let mode = Command::new("chmod").args(["640", &there]).status();
    assert!(mode.expect("chmod is everywhere").success());
    for shell in shells() {
        let said = run(&shell, &script, &[], &[]);
        assert_eq!(said.status, 1, "{shell:?}");
        let owner = said
            .err
            .lines()
            .find(|line| line.contains("nobody-at-all"))
            .unwrap_or_default();
        assert!(owner.contains("belongs to"), "{shell:?}: {}", said.err);
        let rest: Vec<String> = said
            .err
            .lines()
            .filter(|line| *line != owner)
            .map(|line| line.replace(&there, "THERE"))
            .collect();
        assert_eq!(
            rest,
            [
                "verify-fs: THERE is a file, not a directory",
                "verify-fs: THERE has the mode 0640, not 4777",
                "verify-fs: THERE does not contain other",
                "verify-fs: THERE is there",
                "verify-fs: THERE.not is missing",
                "verify-fs: 6 of the requirements are not met",
            ],
            "{shell:?}"
        );
    }
}

#[test]
fn a_user_is_made_without_any_tool_of_a_distribution() {
    let scratch = Scratch::new("users");
    let root = scratch.0.display().to_string();
    let script = script_after(
        &render("name: users\nbase_image: debian:12\nenv: [USER=dev]\n", &[]).dockerfile,
        "# the user",
    );
    // Owners cannot be changed by everyone who runs this.
    let script = script
        .replace("/etc/", &format!("{root}/etc/"))
        .replace("home=/home/dev", &format!("home={root}/home/dev"));
    let script = PathBuf::from(scratch.file("users.sh", &format!("chown() {{ :; }}\n{script}")));
    for shell in shells() {
        drop(std::fs::remove_dir_all(scratch.0.join("home")));
        scratch.file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nold:x:1000:1000::/old:/bin/sh",
        );
        scratch.file(
            "etc/group",
            "root:x:0:\nsudo:x:27:old\ndocker:x:999:\ntaken:x:1001:",
        );
        scratch.file("etc/skel/.profile", "# hello\n");
        for _ in 0..2 {
            let said = run(&shell, &script, &[], &[]);
            assert_eq!((said.status, said.err.as_str()), (0, ""), "{shell:?}");
        }
        let read = |name: &str| std::fs::read_to_string(scratch.0.join(name)).expect("it was made");
        assert_eq!(
            read("etc/passwd"),
            format!(
                "root:x:0:0::/root:/bin/sh\nold:x:1000:1000::/old:/bin/sh\ndev:x:1002:1002::{root}/home/dev:{}\n",
                if Path::new("/bin/bash").exists() {
                    "/bin/bash"
                } else {
                    "/bin/sh"
                }
            ),
            "{shell:?}"
        );
        assert_eq!(
            read("etc/group"),
            "root:x:0:\nsudo:x:27:old,dev\ndocker:x:999:dev\ntaken:x:1001:\ndev:x:1002:\n",
            "{shell:?}"
        );
        assert_eq!(read("home/dev/.profile"), "# hello\n");
    }
}

#[test]
fn services_are_started_awaited_and_stopped_in_order() {
    let scratch = Scratch::new("launch");
    let habitat = "name: served\nbase_image: debian:12\nservices:\n  - {name: one, command: \"x\"}\nscripts:\n  - {commands: make, needs: [one]}\n";
    let script = script_after(
        &render(habitat, &[]).dockerfile,
        "# what runs a step beside its services",
    );
    let launch = PathBuf::from(scratch.file("launch", &script));
    let me = Command::new("id")
        .arg("-un")
        .output()
        .expect("there is id")
        .stdout;
    let me = String::from_utf8_lossy(&me).trim().to_owned();
    let place = scratch.0.display();
    let service = |name: &str, before: &str| {
        let text = format!(
            "run_as={me}\nready='test -e {place}/{name}.ready'\nseconds=20\ncommand='trap \"echo {name} ends >> {place}/log; exit 0\" TERM; \
             {before} sleep 0.1; : > {place}/{name}.ready; echo {name} is there; while :; do sleep 0.02; done'\n"
        );
        scratch.file(&format!("services/{name}"), &text);
    };
    service("one", "");
    service(
        "two",
        &format!("test -e {place}/one.ready || echo too early >> {place}/log;"),
    );
    for shell in shells() {
        for file in ["one.ready", "two.ready", "log"] {
            drop(std::fs::remove_file(scratch.0.join(file)));
        }
        // Not for a build's step: that would tidy this machine's /run.
        let words = [
            "--forward",
            &me,
            "one,two",
            "sh",
            "-c",
            "echo \"$0\" runs; exit 7",
            "it",
        ];
        let said = run(&shell, &launch, &words, &[]);
        assert_eq!(
            (said.status, said.out.as_str()),
            (7, "it runs\n"),
            "{shell:?}: {}",
            said.err
        );
        assert!(
            said.err.contains("one| one is there"),
            "{shell:?}: {}",
            said.err
        );
        let log = std::fs::read_to_string(scratch.0.join("log")).expect("they have ended");
        // The whole group is told: a child that has the trap for the moment between fork and exec may say it as well.
        let mut ends: Vec<&str> = log.lines().collect();
        ends.dedup();
        assert_eq!(ends, ["two ends", "one ends"], "{shell:?}");

        let said = run(&shell, &launch, &["--forward", &me, "three", "true"], &[]);
        assert_ne!(said.status, 0, "{shell:?}");
    }
}
