//! Scripts of a habitat: what each of their keys does, from inside.

use std::time::{Duration, Instant};

use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};

fn bench(name: &str, more: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    habitat(&bench, more)?;
    Ok(bench)
}

fn habitat(bench: &Bench, more: &str) -> Result<(), Lack> {
    bench.file(
        "config.yaml",
        format!(
            "name: scripted\nbase: {{oci: {}}}\nenv: [USER=dev, GREETING=hello]\n{more}",
            busybox::layout()?.display()
        ),
    );
    Ok(())
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run localhost/habitat/scripted:latest sh -c", script)
        .out()
}

#[test]
fn a_script_runs_when_its_condition_holds() {
    let bench = need!(bench(
        "scripts-when",
        "scripts:\n\
         \x20 - {when: test -e /etc/passwd, commands: [echo one >> ~/ran, echo two >> ~/ran]}\n\
         \x20 - {when: test -e /etc/nothing, commands: echo three >> ~/ran}\n\
         \x20 - {when: {arch: [amd64, arm64]}, commands: echo four >> ~/ran}\n\
         \x20 - {when: {arch: s390x}, commands: echo five >> ~/ran}\n\
         \x20 - {when: {arch: [amd64, arm64], command: 'grep -q dev /etc/passwd && true'}, shell: sh -eu, commands: echo six >> ~/ran}\n\
         \x20 - {when: 'false', shell: sh -eu, commands: exit 3}\n"
    ));
    let build = bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "cat ~/ran"), "one\ntwo\nfour\nsix\n");
    assert!(
        build
            .log()
            .contains("left out: its condition does not hold"),
        "{}",
        build.log()
    );
    bench.sh("sed -i 's/s390x/z390/' config.yaml");
    bench
        .shmocker("habitat check config.yaml")
        .expect(1, &["unknown architecture `z390`"]);
}

#[test]
fn a_cache_is_kept_between_builds_and_is_its_users() {
    let bench = need!(bench(
        "scripts-cache",
        "scripts:\n\
         \x20 - name: fill\n    cache: [cargo, go, /var/cache/own]\n    commands:\n\
         \x20     - mkdir ~/.cargo/bin; echo crate > ~/.cargo/registry/crate; echo $GOMODCACHE > ~/told; echo own > /var/cache/own/file\n\
         \x20     - cat ~/.cargo/registry/crate /var/cache/own/file > ~/kept\n"
    ));
    bench.built("habitat build config.yaml");
    assert_eq!(
        inside(
            &bench,
            "cat ~/told ~/kept; find ~/.cargo | sort; stat -c %U ~/.cargo ~/.cargo/registry; ls /var/cache/own 2>/dev/null | wc -l"
        )
        .lines()
        .map(|line| line.trim_start_matches("/home/dev"))
        .collect::<Vec<_>>(),
        ["/go/pkg/mod", "crate", "own", "/.cargo", "/.cargo/bin", "/.cargo/git", "/.cargo/registry", "dev", "dev", "0"]
    );
    // Another script finds what this one has left.
    bench.sh("sed -i 's/name: fill/name: read/; s/mkdir.*/cat ~\\/.cargo\\/registry\\/crate > ~\\/told/' config.yaml");
    bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "cat ~/told"), "crate\n");
}

#[test]
fn secrets_are_files_or_variables_and_nowhere_afterwards() {
    let bench = need!(bench(
        "scripts-secrets",
        "secrets:\n  - {id: token, env: THE_TOKEN}\n  - {id: key, file: key.txt}\n\
         scripts:\n\
         \x20 - secrets: [token, {id: key, env: KEY}]\n\
         \x20   commands: 'test ${#KEY} = 11; echo \"$KEY\"; wc -c < /run/secrets/token > ~/length'\n\
         \x20 - commands: test ! -e /run/secrets; test -z \"$KEY\"\n"
    ));
    bench.file("key.txt", "open-barley");
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["THE_TOKEN", "config.yaml:"]);
    let bench = bench.env("THE_TOKEN", "open-sesame");
    let run = bench.ok("habitat build config.yaml --progress plain");
    assert_eq!(inside(&bench, "cat ~/length"), "11\n");
    assert!(!run.both().contains("open-barley"), "{}", run.both());
    for word in ["open-sesame", "open-barley"] {
        let store = bench.store().display().to_string();
        let found = bench.finish(bench.command("grep").args(["-rlaF", "-e", word, &store]));
        assert_eq!(found.out(), "", "`{word}` is in the store");
    }
    bench.shmocker("habitat check config.yaml").expect(0, &[]);
    bench.sh("sed -i 's/secrets: \\[token/secrets: [tokne/' config.yaml");
    bench
        .shmocker("habitat check config.yaml")
        .expect(1, &["unknown secret `tokne`", "did you mean `token`?"]);
}

#[test]
fn shell_environment_network_mounts_and_user_are_what_the_script_says() {
    let bench = need!(bench(
        "scripts-keys",
        "files:\n  - {src: fake, dest: /bin/fake, mode: 755}\n\
         scripts:\n\
         \x20 - shell: [/bin/fake, --odd]\n    env: {GREETING: \"it's me\"}\n    commands: 'import this'\n\
         \x20 - {run_as: nobody, commands: 'id -un; pwd', before: workdir, mounts: ['tmpfs:/scratch'], env: [A=1]}\n\
         \x20 - {network: none, commands: 'ip link | grep -c . > ~/links || ls /sys/class/net > ~/links'}\n\
         \x20 - run_as: root\n    mounts: ['data:/data', 'data:/copy:rw', 'tmpfs:/tmp/scratch']\n\
         \x20   commands: 'cat /data/in /copy/in > /data.txt; ! touch /data/new; touch /copy/new /tmp/scratch/new'\n"
    ));
    bench.file("data/in", "in\n").file(
        "fake",
        "#!/bin/sh\nprintf '%s|%s|%s|%s\\n' \"$1\" \"$2\" \"$3\" \"$GREETING\" > ~/fake\n",
    );
    let build = bench.built("habitat build config.yaml");
    assert!(build.log().contains("nobody\n/\n"), "{}", build.log());
    assert_eq!(
        inside(
            &bench,
            "cat ~/fake /data.txt; ls /data /copy /tmp/scratch 2>/dev/null | wc -l; wc -l < ~/links"
        ),
        "--odd|-c|import this|it's me\nin\nin\n0\n1\n"
    );
    bench.sh("test ! -e data/new");
    // What is mounted is read, so it counts.
    bench.file("data/in", "other\n");
    let build = bench.built("habitat build config.yaml");
    assert!(
        build.executed().join("\n").contains("/data/in"),
        "{:?}",
        build.executed()
    );
    assert!(
        !build.executed().join("\n").contains("import this"),
        "{:?}",
        build.executed()
    );
}

/// The processes of this machine whose command line has this in it.
fn alive(marker: &str) -> usize {
    let lines = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    lines
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| {
            String::from_utf8_lossy(line)
                .split('\0')
                .any(|word| word == marker)
        })
        .count()
}

/// A child that left its parents' session and heeds no SIGTERM goes with the step all the same: in a script, in a
/// hook, in verify's own phase and in a test.
#[test]
fn a_time_out_ends_every_process_of_the_step() {
    let stubborn = |marker: &str| {
        format!(
            "trap '' TERM HUP; (trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; sleep {marker}' & ) ; sleep 1000"
        )
    };
    let places = [
        (
            "script",
            "scripts:\n  - timeout: 1s\n    commands: |\n      COMMAND\n",
            "70001",
        ),
        (
            "phase",
            "timeout: {per-phase: 1h, scripts: 1s}\nscripts:\n  - commands: |\n      COMMAND\n",
            "70002",
        ),
        (
            "hook",
            "timeout: {verify: 1s}\nscripts:\n  - after: verify\n    commands: |\n      COMMAND\nverify-fs: {required_files: [/etc/passwd]}\n",
            "70003",
        ),
        ("test", "tests:\n  - {path: t.sh, timeout: 1s}\n", "70004"),
    ];
    let bench = need!(bench("scripts-timeout", ""));
    for (place, text, marker) in places {
        let command = stubborn(marker);
        need!(habitat(&bench, &text.replace("COMMAND", &command)));
        bench.executable("t.sh", format!("#!/bin/sh\necho 1..1\n{command}\n"));
        let started = Instant::now();
        let run = bench.shmocker("habitat build config.yaml");
        assert_eq!(run.status, 3, "{place}: {}", run.both());
        assert!(
            run.stderr.contains("took longer than 1 s"),
            "{place}: {}",
            run.both()
        );
        assert!(started.elapsed() < Duration::from_secs(60), "{place}");
        assert_eq!(alive(marker), 0, "{place}: something of the step lives on");
    }
}
