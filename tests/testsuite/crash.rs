//! kill -9 at any moment: nothing goes on running, nothing stays mounted, the store is valid, and the next build gives
//! what an undisturbed one gives.

use std::time::{Duration, Instant};

use crate::harness::bench::{Bench, status_of};
use crate::harness::busybox;
use crate::harness::http::{Pace, Server};
use crate::harness::machine::{self, User, need};
use crate::harness::processes::{self, attached_to, family, is_alive, wait_until};
use crate::harness::registry::{MemoryRegistry, Reply};

/// The moments, as the event after which, and the milliseconds then, at which the build is killed. They cover the
/// download, the unpacking of the base, the steps, and what comes after the last step: layers, images, outputs.
const MOMENTS: [(&str, u64); 20] = [
    ("build.started", 0),
    ("build.started", 7),
    ("source.started", 0),
    ("source.started", 11),
    ("source.started", 23),
    ("source.progress", 0),
    ("source.progress", 90),
    ("source.done", 0),
    ("source.done", 13),
    ("source.done", 60),
    ("step.started", 0),
    ("step.started", 17),
    ("step.started", 120),
    ("step.log", 0),
    ("step.log", 31),
    ("step.done", 0),
    ("step.done", 5),
    ("the last step.done", 0),
    ("the last step.done", 4),
    ("the last step.done", 15),
];

const STEPS: usize = 5;

fn fill(bench: &Bench, server: &Server) {
    bench.file(
        "Dockerfile",
        format!(
            "FROM base AS a\nRUN for i in $(seq 1 200); do head -c 20000 /bin/busybox > /f$i; done; echo made; sleep 0.2; sync\n\
             FROM base AS b\nADD {} /fetched\nRUN (sleep 100 &) ; setsid sleep 100 & echo started; sleep 0.3; ls -l / > /listing\n\
             FROM base\nCOPY --from=a /f1 /f2 /f3 /\nCOPY --from=b /fetched /\n",
            server.url("file")
        ),
    );
}

fn line(base: &str) -> String {
    format!(
        "build {base} --progress json -t crash -o type=oci,dest=out.tar,rewrite-timestamp=true ."
    )
}

fn new_bench(user: &User, server: &Server) -> Bench {
    let bench = Bench::new(user, "crash").env("SOURCE_DATE_EPOCH", "1700000000");
    fill(&bench, server);
    bench
}

/// Whether the log of a build shows that the moment's event has come.
fn has_come(log: &str, event: &str) -> bool {
    match event.strip_prefix("the last ") {
        None => log.contains(&format!("\"event\":\"{event}\"")),
        Some(event) => log.matches(&format!("\"event\":\"{event}\"")).count() >= STEPS,
    }
}

#[test]
fn a_killed_build_leaves_nothing_behind_and_the_next_one_succeeds() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let _alone = machine::alone();
    let body: Vec<u8> = (0..2_000_000_u32)
        .map(|n| (n.wrapping_mul(n) / 7) as u8)
        .collect();
    let server = Server::new(body, Pace::InPieces(Duration::from_millis(12)));

    let undisturbed = {
        let bench = new_bench(&user, &server);
        let build = bench.built(&line(&base).replace(" --progress json", ""));
        assert_eq!(build.steps_run() as usize, STEPS);
        build.digest()
    };

    let mut killed_at_work = 0;
    for (event, pause) in MOMENTS {
        let bench = new_bench(&user, &server);
        let mut child = bench.start(&line(&base), "log");
        let come = wait_until(Duration::from_secs(60), || {
            let log = std::fs::read_to_string(bench.path("log")).unwrap_or_default();
            has_come(&log, event) || log.contains("build.done")
        });
        assert!(come.is_some(), "no {event}");
        std::thread::sleep(Duration::from_millis(pause));
        let relatives = family(child.id());
        child.kill().expect("it can be killed");
        let killed = Instant::now();
        let ended = child.wait().expect("it has ended");
        killed_at_work += u32::from(status_of(ended) == 137);

        // What the mount namespaces of the dead held is gone with them.
        let gone = wait_until(
            Duration::from_secs(1).saturating_sub(killed.elapsed()),
            || !relatives.iter().any(is_alive) && attached_to(bench.store()).is_empty(),
        );
        assert!(
            gone.is_some(),
            "killed {pause} ms after {event}: a second later {:?} and {:?} are left",
            relatives
                .iter()
                .filter(|process| is_alive(process))
                .collect::<Vec<_>>(),
            attached_to(bench.store()),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(
            !mounts.contains(&bench.store().display().to_string()),
            "a mount is left:\n{mounts}"
        );

        let next = bench.built(&line(&base).replace(" --progress json", ""));
        assert_eq!(
            next.digest(),
            undisturbed,
            "killed {pause} ms after {event}"
        );
        assert_eq!(
            temporary_files(&bench),
            "",
            "killed {pause} ms after {event}"
        );
    }
    assert!(
        killed_at_work >= 17,
        "only {killed_at_work} builds were killed before they had ended"
    );
}

/// What lies in the store's `tmp`, and beside outputs, that is no result.
fn temporary_files(bench: &Bench) -> String {
    bench
        .sh(&format!("find {}/tmp -mindepth 1; find . -name '*.tmp*' -o -name '.*.new' -o -name '.shmocker*'", bench.store().display()))
        .out()
}

/// The same for a base that is made from the Debian archive: in its download, its unpacking and its packages' scripts.
#[test]
fn a_killed_debian_base_is_made_by_the_next_build() {
    let user = need!(machine::plain_user());
    need!(machine::debian_archive());
    let bench = Bench::new(&user, "crash-debian").env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file("Dockerfile", "FROM base\nRUN dpkg --audit\n");
    let line = "build --progress json --build-context base=debian://bookworm .";
    for pause in [400, 1500, 3000, 6000] {
        let mut child = bench.start(line, "log");
        wait_until(Duration::from_secs(60), || {
            std::fs::read_to_string(bench.path("log"))
                .is_ok_and(|log| log.contains("source.started"))
        });
        std::thread::sleep(Duration::from_millis(pause));
        let relatives = family(child.id());
        child.kill().expect("it can be killed");
        child.wait().expect("it has ended");
        let gone = processes::wait_until(Duration::from_secs(1), || {
            !relatives.iter().any(is_alive) && attached_to(bench.store()).is_empty()
        });
        assert!(
            gone.is_some(),
            "killed after {pause} ms: {:?} is left",
            attached_to(bench.store())
        );
    }
    bench.built(&line.replace(" --progress json", ""));
    assert_eq!(temporary_files(&bench), "");
}

/// Ctrl-C is an order, not a failure: exit code 130, `cancelled`, and nothing left.
#[test]
fn an_interrupted_build_says_so() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let bench = Bench::new(&user, "interrupted");
        bench.file("Dockerfile", "FROM base\nRUN echo started; sleep 100\n");
        let mut child = bench.start(&format!("build {base} --progress json ."), "log");
        let come = wait_until(Duration::from_secs(60), || {
            std::fs::read_to_string(bench.path("log")).is_ok_and(|log| log.contains("step.log"))
        });
        assert!(come.is_some());
        let relatives = family(child.id());
        bench.sh(&format!("kill -{signal} {}", child.id()));
        let ended = child.wait().expect("it ends");
        assert_eq!(status_of(ended), status, "SIG{signal}");
        let log = std::fs::read_to_string(bench.path("log")).expect("a log");
        assert!(log.contains("\"status\":\"cancelled\""), "{log}");
        let gone = wait_until(Duration::from_secs(1), || !relatives.iter().any(is_alive));
        assert!(gone.is_some());
    }
}

/// What is packed is sent by the user's own process: nothing else is started for it, and it can be called back as well.
#[test]
fn an_interrupted_push_says_so() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let registry = MemoryRegistry::start();
    let bench = Bench::new(&user, "interrupted-push");
    bench.file("Dockerfile", "FROM base\nRUN echo made > /made\n");
    let line = |name: &str| {
        let host = registry.host();
        format!("build {base} -o type=registry,name={host}/{name}:1 .")
    };
    let first = bench.built(&line("first"));
    registry.misbehave(|request, _| {
        let stalls = Reply {
            pause: Some((1, Duration::from_secs(60))),
            ..Reply::body("text/plain", "later")
        };
        request.path.contains("/stalled/blobs/").then_some(stalls)
    });
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let stalled = format!("{} --progress json", line("stalled"));
        let mut child = bench.start(&stalled, "log");
        let come = wait_until(Duration::from_secs(60), || {
            let log = std::fs::read_to_string(bench.path("log")).unwrap_or_default();
            log.contains("push.started")
        });
        assert!(come.is_some());
        assert_eq!(family(child.id()).len(), 1);
        bench.sh(&format!("kill -{signal} {}", child.id()));
        assert_eq!(
            status_of(child.wait().expect("it ends")),
            status,
            "SIG{signal}"
        );
        let log = std::fs::read_to_string(bench.path("log")).expect("a log");
        let last = log.lines().rfind(|line| line.contains("\"event\""));
        let last = last.expect("events");
        assert!(
            last.contains("build.done") && last.contains("\"status\":\"cancelled\""),
            "{log}"
        );
    }
    assert!(bench.ok("history ls").out().contains("cancelled"));
    // Nothing was sent twice, and nothing is in the way of the next.
    registry.misbehave(|_, _| None);
    let again = bench.built(&line("stalled"));
    assert_eq!(again.digest(), first.digest());
}
