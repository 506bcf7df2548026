//! Services: beside the scripts and tests that need them, awaited and stopped, in every builder alike. On busybox where
//! that is enough; with a real PostgreSQL and a real Redis where it is not.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::conformance::same_image;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, User, need};
use crate::harness::processes;
use crate::peers::buildkit::buildkit;
use crate::rendered::both;
use crate::running::Up;

/// Says who runs it, leaves a pid file, takes a moment until it can be used, and says goodbye.
const CLOCK: &str = "  - name: clock
    run_as: daemon
    command: |
      id -un > /srv/clock/who
      trap 'echo stopped > /srv/clock/end; exit 0' TERM
      echo the clock is started
      sleep 0.2
      echo 12:00 > /srv/clock/time
      while :; do sleep 0.05; done
    ready: test -s /srv/clock/time
";

/// A habitat on busybox with these services, and what comes after them.
fn habitat(name: &str, services: &str, rest: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    bench.file(
        "config.yaml",
        format!(
            "name: served\nbase:\n  oci: {}\nenv:\n  - USER=dev\nservices:\n{services}{rest}",
            busybox::layout()?.display()
        ),
    );
    Ok(bench)
}

/// Makes what the clock writes to.
const PLACE: &str = "  - name: place\n    run_as: root\n    commands: mkdir -p /srv/clock && chown daemon /srv/clock\n";

/// What the image holds, asked from inside.
fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with(
            "run --rm --entrypoint sh --user root localhost/habitat/served:latest -c",
            script,
        )
        .out()
}

#[test]
fn a_script_runs_beside_its_service_as_its_own_user() {
    let services = format!(
        "{CLOCK}  - name: pidfile\n    run_as: root\n    command: echo $$ > /run/pidfile; mkfifo /run/socket; exec sleep 1000\n    \
         ready: test -e /run/socket\n"
    );
    let scripts = format!(
        "scripts:\n{PLACE}  - name: reads\n    needs: [clock, pidfile]\n    commands:\n      \
         - test -e /run/socket && cat /srv/clock/time > ~/time; id -un > ~/who; pwd > ~/where; echo $HOME > ~/home\n"
    );
    let bench = need!(habitat("services-beside", &services, &scripts));

    let build = bench.built("habitat build config.yaml");

    assert!(
        build.log().contains("clock| the clock is started"),
        "what it prints is shown with its name: {}",
        build.log()
    );
    assert_eq!(
        inside(
            &bench,
            "cd /home/dev; cat time who where home; cat /srv/clock/who /srv/clock/end; ls /run; stat -c %U /home/dev/time\n"
        ),
        "12:00\ndev\n/workspace\n/home/dev\ndaemon\nstopped\ndev\n",
        "what it wrote is there, it ended by itself, and nothing of it is in /run"
    );
}

/// A script's own shell, failing commands and tests go the same way.
#[test]
fn a_failing_command_fails_and_a_test_is_judged_beside_services() {
    let rest = format!(
        "scripts:\n{PLACE}  - name: own\n    needs: clock\n    shell: sh -u\n    commands: echo $-$(cat /srv/clock/time) > ~/flags\n\
         tests:\n  - path: t.sh\n    needs: [clock]\n"
    );
    let bench = need!(habitat("services-test", CLOCK, &rest));
    bench.executable(
        "t.sh",
        "#!/bin/sh\necho 1..2\ngrep -q 12:00 /srv/clock/time && echo ok 1\n[ \"$(id -un)\" = dev ] && echo ok 2\n",
    );
    let build = bench.built("habitat build config.yaml");
    assert!(build.log().contains("ok 2"), "{}", build.log());
    assert!(inside(&bench, "cat /home/dev/flags\n").starts_with('u'));

    bench.executable("t.sh", "#!/bin/sh\necho 1..1\necho not ok 1 - told\n");
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["not ok 1 - told", "1 of 1"]);
    bench.sh("sed -i 's/    commands: echo .*/    commands: exit 9/' config.yaml");
    bench
        .shmocker("habitat build config.yaml")
        .expect(3, &["exit code: 9"]);
}

#[test]
fn a_service_that_cannot_be_used_in_time_fails_with_its_last_words() {
    let services = "  - name: slow\n    run_as: root\n    timeout: 1s\n    command: (sleep 997 &); echo cannot bind to port 80; exec sleep 998\n    \
                    ready: echo no answer; exit 1\n";
    let rest = "scripts:\n  - needs: [slow]\n    run_as: root\n    commands: echo never\n";
    let bench = need!(habitat("services-slow", services, rest));
    let started = Instant::now();
    let run = bench.shmocker("habitat build config.yaml");
    run.expect(
        3,
        &[
            "slow| cannot bind to port 80",
            "service slow: could not be used within 1s",
            "slow ready| no answer",
        ],
    );
    assert!(!run.stderr.contains("| never"), "{}", run.both());
    assert!(started.elapsed() < Duration::from_secs(30));
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");

    // One whose check itself does not end.
    bench.sh("sed -i 's/    ready: .*/    ready: exec sleep 999/' config.yaml");
    let run = bench.shmocker("habitat build config.yaml");
    run.expect(3, &["service slow: could not be used within 1s"]);
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_service_that_ends_by_itself_is_told() {
    let services = "  - name: brief\n    run_as: root\n    command: echo no such database >&2; exit 3\n    ready: test -e /never\n";
    let rest = "scripts:\n  - needs: [brief]\n    run_as: root\n    commands: sleep 0.3\n";
    let bench = need!(habitat("services-brief", services, rest));
    bench.shmocker("habitat build config.yaml").expect(
        3,
        &[
            "brief| no such database",
            "service brief: ended with status 3 before it could be used",
        ],
    );
    // Later is no better: what it held may be incomplete.
    bench.sh("sed -i -e 's/    ready: .*/    ready: \"true\"/' -e 's/    command: .*/    command: sleep 0.1; exit 4/' config.yaml");
    bench.shmocker("habitat build config.yaml").expect(
        3,
        &["service brief: ended with status 4 while it was needed"],
    );
    // A program that puts itself into the background ends with 0, and is ended with the step.
    bench.sh("sed -i -e 's/    command: .*/    command: sleep 996 \\&/' config.yaml");
    bench.ok("habitat build config.yaml");
}

#[test]
fn a_changed_service_reruns_only_what_needs_it() {
    let services =
        format!("{CLOCK}  - name: other\n    run_as: root\n    command: exec sleep 1000\n");
    let scripts = format!(
        "scripts:\n{PLACE}  - name: first\n    needs: [clock]\n    commands: cat /srv/clock/time > ~/first\n  - name: second\n    \
         needs: [other]\n    commands: echo second > ~/second\n"
    );
    let bench = need!(habitat("services-change", &services, &scripts));
    let whole = bench.built("habitat build config.yaml").steps_run();
    let again = bench.built("habitat build config.yaml");
    assert_eq!((again.steps_run(), again.steps_cached()), (0, whole));

    bench.sh("sed -i 's/exec sleep 1000/exec sleep 1001/' config.yaml");
    let build = bench.built("habitat build config.yaml");
    let executed = build.executed().join("\n");
    assert!(executed.contains("echo second"), "{executed}");
    assert!(!executed.contains("cat /srv/clock/time"), "{executed}");

    // How long it may take is a part of it; what is mounted when it runs is a part of nothing.
    bench.sh("mkdir v; echo 'volumes: [v:/v]' >> config.yaml");
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
}

#[test]
fn it_is_the_same_on_buildkit() {
    let rest = format!(
        "scripts:\n{PLACE}  - name: reads\n    needs: [clock]\n    commands: cat /srv/clock/time > ~/time; id -un > ~/who\n\
         tests:\n  - path: t.sh\n    needs: [clock]\n"
    );
    let bench = need!(habitat("services-buildkit", CLOCK, &rest));
    let buildkit = need!(buildkit());
    let bench = bench.env("SOURCE_DATE_EPOCH", "1700000000");
    bench.executable(
        "t.sh",
        "#!/bin/sh\necho 1..1\ngrep -q 12:00 /srv/clock/time && echo ok 1\n",
    );
    let (ours, theirs) = both(&bench, buildkit, ".");
    same_image(&ours, &theirs, &[]);
}

/// A habitat with PostgreSQL and Redis of Debian's packages, built once.
struct Databases {
    user: User,
    project: PathBuf,
    store: PathBuf,
}

const DATABASES: &str = "\
name: databases
base: {debian: bookworm, packages: [postgresql, redis-server]}
env: [USER=dev]
services:
  - name: postgres
    run_as: postgres
    command: exec /usr/lib/postgresql/15/bin/postgres -D /srv/postgres -c listen_addresses=
    ready: pg_isready -q
    timeout: 60s
  - name: redis
    run_as: redis
    command: exec redis-server --dir /srv/redis --port 0 --unixsocket /srv/redis/socket --unixsocketperm 777
    ready: redis-cli -s /srv/redis/socket ping | grep -q PONG
scripts:
  - name: make the cluster
    run_as: root
    commands: |
      install -d -o postgres -g postgres /srv/postgres /run/postgresql
      install -d -o redis -g redis /srv/redis
      runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -A trust -D /srv/postgres > /dev/null
  - name: fill
    needs: [postgres, redis]
    commands:
      - psql -qU postgres -c 'create table numbers as select generate_series(1, 100) as n'
      - redis-cli -s /srv/redis/socket set greeting hello
tests:
  - path: sums.sh
    needs: [postgres, redis]
entry:
  command: exec sleep 100000
";

fn databases() -> Result<&'static Databases, Lack> {
    // Before the wait for whoever builds it: a test that wants to be alone may be waiting too.
    let _turn = machine::beside_others();
    static BUILT: OnceLock<Result<Databases, Lack>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            machine::debian_archive()?;
            let user = machine::plain_user()?;
            let bench = Bench::new(&user, "databases");
            bench.file("config.yaml", DATABASES).executable(
                "sums.sh",
                "#!/bin/sh\necho 1..2\n[ \"$(psql -U postgres -Atc 'select sum(n) from numbers')\" = 5050 ] && echo ok 1\n\
                 [ \"$(redis-cli -s /srv/redis/socket get greeting)\" = hello ] && echo ok 2\n",
            );
            bench.built("habitat build config.yaml");
            let built = Databases {
                user,
                project: bench.project(),
                store: bench.store().to_owned(),
            };
            bench.keep();
            Ok(built)
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// A bench on the store of the databases, with their configuration in it.
fn beside(built: &Databases, name: &str) -> Bench {
    let bench = Bench::new(&built.user, name).on_store(&built.store);
    for file in ["config.yaml", "sums.sh"] {
        let path: &Path = &built.project.join(file);
        bench.tree(path, file);
    }
    bench
}

/// What a script and a test said to real databases was heard: the build would have failed otherwise. What the script put
/// into them is in the image, whole, and their sockets are not.
#[test]
fn real_databases_are_filled_by_a_script_and_asked_by_a_test() {
    let built = need!(databases());
    let bench = beside(built, "databases-inside");
    bench.built("habitat build config.yaml");
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
    let look = "test -s /srv/postgres/PG_VERSION; test ! -e /srv/postgres/postmaster.pid; test -s /srv/redis/dump.rdb; \
                ls -A /run/postgresql | wc -l";
    let mut command = bench.shmocker_command(
        "run --rm --entrypoint sh --user root localhost/habitat/databases:latest -ec",
    );
    assert_eq!(bench.finish(command.arg(look)).out(), "0\n");
    // `run` starts them too.
    let run = bench.finish(
        bench
            .shmocker_command("run --rm localhost/habitat/databases:latest sh -c")
            .arg("redis-cli -s /srv/redis/socket get greeting; id -un"),
    );
    assert_eq!(run.out(), "hello\ndev\n", "{}", run.both());
}

#[test]
fn real_databases_are_up_with_the_habitat_and_keep_what_they_are_told() {
    let built = need!(databases());
    let bench = beside(built, "databases-up");
    let up = Up::start(&bench, "config.yaml");
    let ask = |sql: &str| {
        let mut command = bench.shmocker_command("habitat exec config.yaml psql -U postgres -Atqc");
        let run = bench.finish(command.arg(sql));
        assert_eq!(run.status, 0, "{}", run.both());
        run.out()
    };
    assert_eq!(ask("select sum(n) from numbers"), "5050\n");
    ask("insert into numbers values (1000)");
    bench.ok("habitat stop config.yaml");
    bench.ok("habitat up config.yaml");
    assert_eq!(ask("select sum(n) from numbers"), "6050\n");
    up.down();
    let again = Up::start(&bench, "config.yaml");
    assert_eq!(ask("select sum(n) from numbers"), "5050\n");
    again.down();
}
