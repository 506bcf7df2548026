//! Who answers a step's calls where owners are records: that the answers are the kernel's, whatever is called; that a step
//! reaches nothing through it; and that it ends with what it is for.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::harness::bench::{Bench, status_of};
use crate::harness::layout::Layout;
use crate::harness::machine::{self, need};
use crate::harness::processes::{Process, attached_to, family, is_alive, wait_until};
use crate::harness::{Run, busybox, listing, native};

/// How long what is random goes on: some seconds, or as many as `SHMOCKER_TEST_LONG` says, if that is more than one.
fn seconds(usual: u64) -> u64 {
    let long = std::env::var("SHMOCKER_TEST_LONG").ok();
    let long = long.and_then(|seconds| seconds.parse().ok());
    long.filter(|seconds| *seconds > 1).unwrap_or(usual)
}

/// What programs have seen where all ids are there, and where there is one, until the time is up: the same, line by line, and
/// the layers are the same as well. The steps come after those that make the base, and write what they see below /logs.
fn assert_seen_the_same(name: &str, usual: u64, steps: impl Fn(u64) -> String) {
    let user = need!(machine::ranged_user());
    let base = need!(busybox::context());
    let calls = need!(native::compiled("deputy/calls.c"));
    let until = Instant::now() + Duration::from_secs(seconds(usual));
    let mut round = 0;
    while round == 0 || Instant::now() < until {
        let done = |ids: &str| {
            let bench = Bench::new(&user, name);
            bench.executable("calls", std::fs::read(&calls).expect("it is compiled"));
            bench.file(
                "Dockerfile",
                format!(
                    "FROM base\nCOPY calls /\n\
                     RUN for n in user group both root; do cp /calls /calls-$n; done; chown 33:0 /calls-user; chown 0:5000 /calls-group; \
                     chown 1000:1000 /calls-both; chmod 4755 /calls-user /calls-root; chmod 2755 /calls-group; chmod 6755 /calls-both; \
                     adduser -D -u 1000 app; mkdir /w /logs\n{}",
                    steps(round)
                ),
            );
            bench.built(&format!(
                "build --ids={ids} {base} -o type=oci,dest=out.tar -t it ."
            ));
            let logs = bench.ok_with("run --rm it sh -c", "cat /logs/*").out();
            (logs, listing::layers(&Layout::read(&bench.path("out.tar"))))
        };
        let (ranges, single) = (done("ranges"), done("single"));
        let mut sequence = "";
        for (expected, line) in ranges.0.lines().zip(single.0.lines()) {
            if line.starts_with("sequence") {
                sequence = line;
            }
            assert_eq!(expected, line, "in {sequence} of round {round}");
        }
        assert_eq!(ranges.0.lines().count(), single.0.lines().count());
        assert_eq!(ranges.1.len(), single.1.len());
        for (one, other) in ranges.1.iter().zip(&single.1) {
            listing::assert_same("ranges", one, "single", other);
        }
        round += 1;
    }
    println!("{name}: {round} rounds");
}

/// Random calls about owners and identities are answered in the same way with one id as with all of them, and leave the
/// same.
#[test]
fn every_call_is_answered_as_with_ranges() {
    assert_seen_the_same("deputy-calls", 1, |round| {
        // The first sequence has once been answered otherwise.
        format!(
            "RUN (/calls 1004777 1 /w; /calls {} 100 /w) > /logs/calls\n",
            round * 100 + 1
        )
    });
}

/// Many at once, all of whom fork, become others, unpack, move and give away: no record is lost or wrong.
#[test]
fn no_record_is_lost_among_many_at_once() {
    const TREE: &str = "RUN mkdir /tree; cd /tree; for n in 1 2 3 4 5 6 7 8 9; do mkdir d$n; touch d$n/a d$n/b d$n/c; ln -s a d$n/l; mkfifo d$n/p; \
         ln d$n/a d$n/hard; chown $n:2$n d$n d$n/a; chown -h 3$n:4$n d$n/l; chown 5$n:0 d$n/p; chown 0:6$n d$n/b; chmod 6755 d$n/b; done\n";
    // As make starts compilers, tar unpacks, and dpkg replaces files and triggers scripts.
    const WORKER: &str = "mkdir /w/t$n; tar xf /t.tar -C /w/t$n; cd /w/t$n; \
         for d in d*; do (for f in a b c; do cp -a $d/$f $d/$f.new; chown 7$n:$n $d/$f.new; mv $d/$f.new $d/$f & done; wait) & done; wait; \
         for m in 1 2 3 4 5; do (su app -c \"umask 002; mkdir /tmp/$n-$m; echo $n > /tmp/$n-$m/f; ln -s f /tmp/$n-$m/l; (id -u; id -g) > /tmp/$n-$m/who\") & done; wait; \
         chown -R $n:8$n d1 d2; chown -Rh 9$n d3; mv d4 moved; find . -exec stat -c '%u:%g %a %F %n' {} + | sort > /logs/tree-$n; find . -user 7$n | sort >> /logs/tree-$n";
    assert_seen_the_same("deputy-many", 3, |round| {
        format!(
            "{TREE}RUN tar cf /t.tar -C /tree .; for n in 1 2 3 4 5 6 7 8; do (/calls $(({} + n * 10)) 10 /w > /logs/calls-$n) & ({WORKER}) & done; wait; rm /t.tar\n",
            round * 80 + 1_000_000
        )
    });
}

/// A file, a directory and a link outside of every root, and all that there is to know of them.
struct Canary {
    names: Vec<std::path::PathBuf>,
    before: Vec<String>,
}

impl Canary {
    fn new(bench: &Bench) -> Self {
        bench.file("canary/file", "mine\n");
        bench.link("canary/link", "file");
        let path = bench.path("canary");
        let names = vec![path.clone(), path.join("file"), path.join("link")];
        let before = names.iter().map(|name| Self::told(name)).collect();
        Self { names, before }
    }

    fn path(&self) -> &Path {
        &self.names[0]
    }

    fn told(name: &Path) -> String {
        let seen = std::fs::symlink_metadata(name).expect("it is still there");
        let attributes = Command::new("getfattr")
            .args(["-h", "-d", "-m", "-"])
            .arg(name)
            .output()
            .map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        let inside = match seen.is_dir() {
            true => std::fs::read_dir(name).map(|entries| format!("{} entries", entries.count())),
            false => std::fs::read_to_string(name),
        };
        // When a link was read last is where its owner would be recorded.
        let accessed = seen.is_symlink().then(|| seen.atime());
        format!(
            "{name:?} {:o} {}:{} {} {} {accessed:?} {inside:?} {attributes:?}",
            seen.mode(),
            seen.uid(),
            seen.gid(),
            seen.mtime_nsec(),
            seen.ctime_nsec(),
        )
    }

    fn assert_untouched(&self) {
        let now: Vec<_> = self.names.iter().map(|name| Self::told(name)).collect();
        assert_eq!(now, self.before);
    }
}

/// The process whose thread answers, and that thread.
fn deputy_of(build: &Child) -> (u32, u32) {
    let mut found = None;
    let come = wait_until(Duration::from_secs(60), || {
        found = family(build.id()).iter().find_map(|process| {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).ok()?;
            tasks.flatten().find_map(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
                let thread = task.file_name().to_str()?.parse().ok()?;
                (name.trim() == "deputy").then_some((process.pid(), thread))
            })
        });
        found.is_some()
    });
    assert!(come.is_some(), "nobody answers");
    found.expect("it has come")
}

/// How many files a process has open, and its memory in kB.
fn used_by(pid: u32) -> Option<(usize, u64)> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some((files, line.split_whitespace().nth(1)?.parse().ok()?))
}

/// Arguments that change, callers that die, floods: nothing outside is touched, and the engine does not grow.
#[test]
fn processes_that_race_their_own_arguments_reach_nothing() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let races = need!(native::compiled("deputy/races.c"));
    let bench = Bench::new(&user, "deputy-races");
    let canary = Canary::new(&bench);
    bench.executable("races", std::fs::read(races).expect("it is compiled"));
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nCOPY races /\nRUN C={}; mkdir -p $C; echo inside > $C/file; ln -s file $C/link; /races {} $C\n",
            canary.path().display(),
            seconds(3)
        ),
    );
    let mut build = bench.start(
        &format!("build --ids=single --progress=plain {base} ."),
        "log",
    );
    let (engine, _) = deputy_of(&build);
    let (mut files, mut memory) = (0, 0);
    let limit = Instant::now() + Duration::from_secs(seconds(3) + 60);
    let ended = loop {
        if let Some((open, kilobytes)) = used_by(engine) {
            (files, memory) = (files.max(open), memory.max(kilobytes));
        }
        if let Some(ended) = build.try_wait().expect("it can be waited for") {
            break ended;
        }
        if Instant::now() > limit {
            build.kill().expect("it can be killed");
            panic!("it hangs: {}", log(&bench));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = std::fs::read_to_string(bench.path("log")).expect("a log");
    assert_eq!(status_of(ended), 0, "{log}");
    assert!(
        log.contains("it has ended") && !log.contains("WRONG"),
        "{log}"
    );
    println!("at most {files} files open, {memory} kB");
    canary.assert_untouched();
    assert!(
        files < 100 && memory < 200_000,
        "{files} files, {memory} kB"
    );
    assert_works(&bench, &base);
}

fn assert_works(bench: &Bench, base: &str) {
    bench.file(
        "Dockerfile",
        "FROM base\nRUN chown 5:6 /etc && stat -c %u:%g /etc\n",
    );
    bench.ok(&format!("build --ids=single {base} -t works ."));
    assert_eq!(bench.ok("run --rm works stat -c %u:%g /etc").out(), "5:6\n");
    bench.ok("store check");
}

/// A step that calls all the time, in many processes, and its build once it does.
fn calling(bench: &Bench, base: &str) -> Child {
    bench.file(
        "Dockerfile",
        "FROM base\nRUN for n in 1 2 3 4 5 6 7 8; do (while :; do touch f$n; chown $n:7 f$n; stat f$n > /dev/null; done) & done; \
         echo calling; sleep 1; while chown 1:2 /etc; do :; done; while :; do sleep 1; chown 3:4 /etc; done\n",
    );
    let build = bench.start(
        &format!("build --ids=single --progress=plain {base} ."),
        "log",
    );
    let come = wait_until(Duration::from_secs(60), || log(bench).contains("| calling"));
    assert!(come.is_some(), "{}", log(bench));
    std::thread::sleep(Duration::from_millis(200));
    build
}

fn log(bench: &Bench) -> String {
    std::fs::read_to_string(bench.path("log")).unwrap_or_default()
}

/// What a build says that ends within some seconds, with all that it has started.
fn ended(
    bench: &Bench,
    mut build: Child,
    relatives: &std::collections::BTreeSet<crate::harness::processes::Process>,
) -> Run {
    let mut status = None;
    let over = wait_until(Duration::from_secs(15), || {
        status = build.try_wait().expect("it can be waited for");
        status.is_some()
    });
    assert!(over.is_some(), "it hangs: {}", log(bench));
    let gone = wait_until(Duration::from_secs(2), || {
        !relatives.iter().any(is_alive) && attached_to(bench.store()).is_empty()
    });
    assert!(gone.is_some(), "{:?} is left", attached_to(bench.store()));
    bench.said(status.map_or(-1, status_of), Vec::new(), log(bench))
}

/// Whoever of those that a step depends on is killed amid its calls: it fails, nothing goes on, and the next build works.
#[test]
fn a_step_ends_with_those_who_answer_it() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    for victim in ["engine", "shmocker"] {
        let bench = Bench::new(&user, "deputy-killed");
        let build = calling(&bench, &base);
        let relatives = family(build.id());
        let pid = match victim {
            "engine" => deputy_of(&build).0,
            _ => build.id(),
        };
        bench.sh(&format!("kill -9 {pid}"));
        let run = ended(&bench, build, &relatives);
        assert_ne!(run.status, 0, "{victim}");
        if victim == "engine" {
            assert!(run.both().contains("engine"), "{}", run.both());
        }
        assert_works(&bench, &base);
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_step_whose_calls_nobody_answers_any_more_fails_and_says_so() {
    let user = need!(machine::plain_user());
    need!(machine::root());
    let base = need!(busybox::context());
    let stumble = need!(native::compiled("deputy/stumble.c"));
    let bench = Bench::new(&user, "deputy-stumbles");
    let build = calling(&bench, &base);
    let relatives = family(build.id());
    let thread = deputy_of(&build).1;
    let stumbled = Command::new(stumble)
        .arg(thread.to_string())
        .status()
        .expect("it can be started");
    assert!(stumbled.success());
    let run = ended(&bench, build, &relatives);
    assert_eq!(run.status, 4, "{}", run.both());
    assert!(
        run.both().contains("answer what the step calls")
            && run.both().contains("Invalid argument"),
        "{}",
        run.both()
    );
    assert_works(&bench, &base);
}

/// Where the engine may open no more files, calls fail; no owner is lost, and what is called later is answered.
#[test]
fn what_cannot_be_answered_now_fails_and_is_not_forgotten() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let bench = Bench::new(&user, "deputy-files");
    // The base is published while the first step runs, which needs files, too.
    bench.file("first", "FROM base\nRUN true\n");
    bench.ok(&format!("build --ids=single -f first {base} ."));
    bench.file(
        "Dockerfile",
        "FROM base\nRUN trap lifted=1 USR1; mkdir /d && chown 5:6 /d && echo calling; while chown 5:6 /d/; do :; done; \
         echo refused; chown 7:8 /etc && echo given; su nobody -s /bin/sh -c 'touch /tmp/mine'; stat -c %u:%g /d; \
         echo waiting; while [ -z \"$lifted\" ]; do :; done; chown 9:10 /d && su nobody -s /bin/sh -c 'touch /tmp/later'; \
         stat -c '%u:%g %n' /etc /d /tmp/*\n",
    );
    let mut build = bench.start(
        &format!("build --ids=single --progress=plain {base} ."),
        "log",
    );
    let come = wait_until(Duration::from_secs(60), || {
        log(&bench).contains("| calling")
    });
    assert!(come.is_some(), "{}", log(&bench));
    let engine = deputy_of(&build).0;
    let limits = std::fs::read_to_string(format!("/proc/{engine}/limits")).expect("limits");
    let usual = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next())
        .expect("a limit")
        .to_owned();
    let limit = |to: &str| {
        let mut prlimit = bench.command("prlimit");
        prlimit.args([format!("--pid={engine}"), format!("--nofile={to}:")]);
        let limited = bench.finish(&mut prlimit);
        assert_eq!(limited.status, 0, "{}{}", limited.both(), log(&bench));
    };
    // As many as the engine waits for at once.
    limit("6");
    let refused = wait_until(Duration::from_secs(60), || {
        log(&bench).contains("| waiting")
    });
    limit(&usual);
    let of_the_step = |process: &Process| process.what().contains("trap lifted=1");
    for shell in family(build.id()).iter().filter(|it| of_the_step(it)) {
        bench.finish(
            bench
                .command("kill")
                .args(["-USR1", &shell.pid().to_string()]),
        );
    }
    assert!(refused.is_some(), "{}", log(&bench));
    assert_eq!(
        status_of(build.wait().expect("it ends")),
        0,
        "{}",
        log(&bench)
    );
    let said = log(&bench);
    assert!(
        said.contains("o file descriptors available") || said.contains("Too many open files"),
        "{said}"
    );
    // The engine may close something meanwhile: what was answered then was answered rightly.
    let etc = match said.contains("| given") {
        true => "7:8 /etc",
        false => "0:0 /etc",
    };
    for line in [etc, "9:10 /d", "65534:65534 /tmp/later"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("| 0:0 /tmp/mine"), "{said}");
}
