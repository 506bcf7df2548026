//! Work at the same time: steps of one build, and builds of one store.

use std::fmt::Write as _;

use crate::harness::bench::{Bench, status_of};
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::machine::{self, need};

/// Sixteen stages that wait, and one that needs them all. Each leaves the times at which it began and ended, as the
/// kernel tells them.
fn sixteen_waiting_stages() -> String {
    let mut text = String::new();
    for stage in 0..16 {
        let _ = writeln!(
            text,
            "FROM base AS s{stage}\nRUN cut -d' ' -f1 /proc/uptime > /t{stage} && sleep 0.5 && cut -d' ' -f1 /proc/uptime >> /t{stage}"
        );
    }
    text.push_str("FROM base\n");
    for stage in 0..16 {
        let _ = writeln!(text, "COPY --from=s{stage} /t{stage} /times/");
    }
    text
}

/// A step that waits takes no core: all sixteen run at the same moment, whatever the number of cores.
#[test]
fn sixteen_steps_that_wait_overlap() {
    let _alone = machine::alone();
    let bench = Bench::new(&need!(machine::plain_user()), "overlap");
    let base = need!(busybox::context());
    bench.file("Dockerfile", sixteen_waiting_stages());

    // A machine that is busy with something else may be too slow once; one that runs as many as it has cores never succeeds.
    let overlapped = (0..3).any(|_| {
        let build = bench.built(&format!("build {base} --no-cache -o type=local,dest=out ."));
        assert_eq!(build.steps_run(), 32);
        let (last_begin, first_end) = last_begin_and_first_end(&bench);
        bench.sh("rm -rf out");
        last_begin < first_end
    });
    assert!(
        overlapped,
        "in three builds, a step always ended before another began"
    );
}

fn last_begin_and_first_end(bench: &Bench) -> (f64, f64) {
    let mut last_begin: f64 = 0.0;
    let mut first_end = f64::MAX;
    for stage in 0..16 {
        let text = std::fs::read_to_string(bench.path(&format!("out/times/t{stage}")))
            .expect("a stage left its times");
        let times: Vec<f64> = text
            .lines()
            .map(|line| line.parse().expect("a number of seconds"))
            .collect();
        last_begin = last_begin.max(times[0]);
        first_end = first_end.min(times[1]);
    }
    (last_begin, first_end)
}

/// Equal work is done once: the second process waits for the first.
#[test]
fn two_processes_share_the_work_of_one_build() {
    let bench = Bench::new(&need!(machine::plain_user()), "two");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS a\nRUN sleep 0.3; echo a > /a\nRUN sleep 0.3; echo aa > /aa\nFROM base AS b\nRUN sleep 0.4; echo b > /b\n\
         FROM base\nCOPY --from=a /aa /\nCOPY --from=b /b /\nRUN sleep 0.3; ls / > /ls\n",
    );

    let line = format!("build {base} --progress json .");
    let children: Vec<_> = (0..2)
        .map(|_| {
            bench
                .shmocker_command(&line)
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("shmocker can be started")
        })
        .collect();
    // Both are read at once: neither may wait for a full pipe.
    let readers: Vec<_> = children
        .into_iter()
        .map(|child| std::thread::spawn(move || child.wait_with_output().expect("shmocker ends")))
        .collect();
    let builds: Vec<Events> = readers
        .into_iter()
        .map(|reader| {
            let output = reader.join().expect("a reader ends");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(status_of(output.status), 0, "{stderr}");
            Events::of(bench.said(0, output.stdout, stderr))
        })
        .collect();

    assert_eq!(builds[0].digest(), builds[1].digest());
    assert_eq!(
        builds[0].steps_run() + builds[1].steps_run(),
        6,
        "{:?} and {:?}",
        builds[0].executed(),
        builds[1].executed()
    );
    for build in &builds {
        assert_eq!(build.steps_run() + build.steps_cached(), 6);
    }
}

/// Stages that are written twice are run once.
#[test]
fn equal_steps_of_one_build_are_done_once() {
    let bench = Bench::new(&need!(machine::plain_user()), "equal");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS a\nRUN --mount=type=cache,target=/c echo x >> /c/x; cp /c/x /x\nFROM base AS b\n\
         RUN --mount=type=cache,target=/c echo x >> /c/x; cp /c/x /x\nFROM base\nCOPY --from=a /x /a\nCOPY --from=b /x /b\n",
    );
    bench.ok(&format!("build {base} -o type=local,dest=out ."));
    assert_eq!(bench.sh("cat out/a out/b").out(), "x\nx\n");
}
