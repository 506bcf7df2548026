//! Bugs of the program that the format comes from. Each has a test here or elsewhere that would fail with it; the list says
//! which.

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};
use crate::tidy::repository;

/// What went wrong, the file of its test, and the test.
const BUGS: &[(&str, &str, &str)] = &[
    (
        "run_as is ignored",
        "tests/testsuite/old_bugs.rs",
        "who_runs_a_script_is_who_it_says",
    ),
    (
        "hooks for unknown phases are dropped",
        "tests/testsuite/old_bugs.rs",
        "a_hook_at_no_phase_is_an_error",
    ),
    (
        "hooks are hashed under the wrong phase",
        "tests/testsuite/old_bugs.rs",
        "a_hook_counts_for_the_phase_it_runs_at",
    ),
    (
        "USER, WORKDIR and content of directories are in no hash",
        "tests/testsuite/old_bugs.rs",
        "user_workdir_and_what_is_in_a_directory_count",
    ),
    (
        "files, scripts and tests of system and shared never run",
        "tests/testsuite/old_bugs.rs",
        "what_lower_layers_say_is_done",
    ),
    (
        "a repository removes earlier content",
        "src/habitat/tests.rs",
        "what_covers_earlier_content_is_refused_and_what_is_nested_is_not",
    ),
    (
        "a repository removes earlier content",
        "tests/testsuite/old_bugs.rs",
        "a_repository_leaves_what_lies_beside_it",
    ),
    (
        "owner changes the parent",
        "tests/testsuite/old_bugs.rs",
        "an_owner_is_of_what_is_copied_alone",
    ),
    (
        "secrets are in layers",
        "tests/testsuite/scripts.rs",
        "secrets_are_files_or_variables_and_nowhere_afterwards",
    ),
    (
        "secrets are in layers",
        "tests/testsuite/repos.rs",
        "a_secret_opens_a_repository_and_is_nowhere_afterwards",
    ),
    (
        "secrets are in layers",
        "tests/testsuite/files.rs",
        "a_file_of_the_home_is_refused_unless_that_is_allowed",
    ),
    (
        "time-outs are not enforced",
        "tests/testsuite/scripts.rs",
        "a_time_out_ends_every_process_of_the_step",
    ),
    (
        "what fails without a word passes",
        "tests/testsuite/old_bugs.rs",
        "what_fails_without_a_word_fails",
    ),
];

#[test]
fn every_bug_has_its_test() {
    for (bug, file, test) in BUGS {
        let text = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
        assert!(
            text.contains(&format!("#[test]\nfn {test}()")),
            "{bug}: no `{test}` in {file}"
        );
    }
}

fn bench(name: &str, more: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    habitat(&bench, more)?;
    Ok(bench)
}

fn habitat(bench: &Bench, more: &str) -> Result<(), Lack> {
    let base = busybox::layout()?.display();
    bench.file(
        "config.yaml",
        format!("name: bugs\nbase: {{oci: {base}}}\n{more}"),
    );
    Ok(())
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run -u root localhost/habitat/bugs:latest sh -c", script)
        .out()
}

/// The hash of each phase.
fn hashes(bench: &Bench) -> Vec<(String, String)> {
    let phases = bench.ok("habitat phases config.yaml --format json").json();
    let phases = phases.as_array().expect("an array");
    let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    phases
        .iter()
        .map(|phase| (text(&phase["name"]), text(&phase["hash"])))
        .collect()
}

/// The first phase whose hash differs.
fn first_difference(before: &[(String, String)], after: &[(String, String)]) -> Option<String> {
    let mut pairs = before.iter().zip(after);
    let differs = pairs.find(|(before, after)| before != after);
    differs.map(|((name, _), _)| name.clone())
}

#[test]
fn who_runs_a_script_is_who_it_says() {
    let bench = need!(bench(
        "bug-run-as",
        "env: [USER=dev]\nscripts:\n\
         \x20 - {commands: 'id -un > /tmp/usual'}\n\
         \x20 - {run_as: root, commands: 'id -un > /tmp/root'}\n\
         \x20 - {run_as: nobody, commands: 'id -un > /tmp/nobody'}\n\
         tests: [t.sh, {path: r.sh, run_as: root}]\n"
    ));
    bench
        .executable(
            "t.sh",
            "#!/bin/sh\necho 1..1\ntest $(id -un) = dev && echo ok 1\n",
        )
        .executable(
            "r.sh",
            "#!/bin/sh\necho 1..1\ntest $(id -un) = root && echo ok 1\n",
        );
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(&bench, "cat /tmp/usual /tmp/root /tmp/nobody"),
        "dev\nroot\nnobody\n"
    );
}

#[test]
fn a_hook_at_no_phase_is_an_error() {
    let bench = need!(bench(
        "bug-phase",
        "scripts:\n  - {after: clone, commands: 'true'}\n"
    ));
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["unknown phase `clone`", "config.yaml:4"]);
}

#[test]
fn a_hook_counts_for_the_phase_it_runs_at() {
    let text =
        |word: &str| format!("scripts:\n  - {{after: tools, commands: echo {word} > /hook}}\n");
    let bench = need!(bench("bug-hook", &text("one")));
    let before = hashes(&bench);
    need!(habitat(&bench, &text("two")));
    assert_eq!(
        first_difference(&before, &hashes(&bench)).as_deref(),
        Some("tools")
    );
}

#[test]
fn user_workdir_and_what_is_in_a_directory_count() {
    let text = |env: &str| format!("env: [{env}]\nfiles:\n  - {{src: tree, dest: /srv/tree}}\n");
    let bench = need!(bench("bug-hash", &text("USER=dev")));
    bench.file("tree/deep/file", "one\n");
    let before = hashes(&bench);
    bench.file("tree/deep/file", "two\n");
    let content = hashes(&bench);
    assert_eq!(
        first_difference(&before, &content).as_deref(),
        Some("files")
    );
    need!(habitat(&bench, &text("USER=eve")));
    assert_eq!(
        first_difference(&content, &hashes(&bench)).as_deref(),
        Some("users")
    );
    need!(habitat(&bench, &text("USER=dev, WORKDIR=/srv")));
    // The variable is one of `env` as well.
    let workdir = hashes(&bench);
    assert_eq!(first_difference(&content, &workdir).as_deref(), Some("env"));
    let of =
        |hashes: &[(String, String)]| hashes.iter().find(|(name, _)| name == "workdir").cloned();
    assert_ne!(of(&content), of(&workdir));
}

#[test]
fn what_lower_layers_say_is_done() {
    let bench = need!(bench("bug-layers", ""));
    let base = need!(busybox::layout()).display();
    for layer in ["system", "shared"] {
        bench
            .file(
                &format!("{layer}/config.yaml"),
                format!(
                    "name: {layer}\nfiles:\n  - {{src: {layer}.txt, dest: /etc/}}\nscripts:\n  - {{run_as: root, commands: echo {layer} >> /ran}}\n\
                     tests: [{layer}-test.sh]\nverify-fs: {{required_files: [/etc/{layer}.txt]}}\n"
                ),
            )
            .file(&format!("{layer}/{layer}.txt"), layer)
            .executable(
                &format!("{layer}/{layer}-test.sh"),
                format!("#!/bin/sh\necho 1..1\ngrep -q {layer} /ran /etc/{layer}.txt && echo ok 1 - {layer}\n"),
            );
    }
    bench.file(
        "habitats/own/config.yaml",
        format!(
            "name: bugs\nbase: {{oci: {base}}}\nscripts:\n  - {{commands: echo own >> /ran}}\n"
        ),
    );
    let build = bench.built("habitat build habitats/own");
    assert_eq!(
        inside(&bench, "cat /ran /etc/system.txt /etc/shared.txt"),
        "system\nshared\nown\nsystemshared"
    );
    for layer in ["system", "shared"] {
        assert!(
            build.log().contains(&format!("ok 1 - {layer}")),
            "{}",
            build.log()
        );
    }
}

#[test]
fn a_repository_leaves_what_lies_beside_it() {
    let bench = need!(bench(
        "bug-repo",
        "scripts:\n  - {before: repos, run_as: root, commands: 'mkdir -p /srv/app; echo mine > /srv/app/mine'}\n\
         repos:\n  - {url: app, path: /srv/app}\n"
    ));
    bench.sh("git init -q app; cd app; echo theirs > theirs; git add .; git -c user.name=a -c user.email=a@b commit -qm a");
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(&bench, "cat /srv/app/mine /srv/app/theirs"),
        "mine\ntheirs\n"
    );
}

#[test]
fn an_owner_is_of_what_is_copied_alone() {
    let bench = need!(bench(
        "bug-owner",
        "env: [USER=dev]\nscripts:\n  - {before: files, run_as: root, commands: 'mkdir -p /opt/app; echo a > /opt/app/theirs; chmod 700 /opt'}\n\
         files:\n  - {src: own, dest: /opt/app/own, owner: dev}\n  - {src: tree, dest: /opt/tree, owner: 'dev:wheel', mode: 640}\n"
    ));
    bench.file("own", "own\n").file("tree/deep/file", "file\n");
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(
            &bench,
            "cd /opt; stat -c '%U:%G %a %n' . app app/theirs app/own tree tree/deep tree/deep/file"
        ),
        "root:root 700 .\nroot:root 755 app\nroot:root 644 app/theirs\ndev:dev 644 app/own\n\
         dev:wheel 750 tree\ndev:wheel 750 tree/deep\ndev:wheel 640 tree/deep/file\n"
    );
}

#[test]
fn what_fails_without_a_word_fails() {
    let bench = need!(bench("bug-silent", "scripts:\n  - {commands: exit 7}\n"));
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["exit code: 7", "config.yaml:4"]);
    need!(habitat(
        &bench,
        "scripts:\n  - {commands: 'false | true; echo not reached by sh -e: $(false)'}\ntests: [t.sh]\n"
    ));
    bench.executable("t.sh", "#!/bin/sh\nexit 0\n");
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["it printed no plan"]);
    need!(habitat(&bench, "verify-fs: {required_files: [/nowhere]}\n"));
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["/nowhere is missing"]);
}
