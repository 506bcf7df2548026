//! shmocker's own figures, of whole processes: a build in which nothing changed, and sixteen steps that wait.
//! `cargo bench` prints them. As root it builds as the tests' plain user, otherwise as whoever runs it.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "the tests use all of it"
)]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "it asks what this machine offers"
)]
#[path = "../tests/testsuite/harness/mod.rs"]
mod harness;

use harness::{Bench, Lack, User, busybox, machine};
use shmocker::digest::{Digest, Fields, Key};
use shmocker::store::Record;

const ROUNDS: usize = 20;

fn main() {
    let user = machine::plain_user().or_else(|_| machine::root());
    for figure in [
        process_start,
        forty_mistakes,
        nothing_changed,
        what_would_be_built,
        sixteen_steps_that_wait,
        ten_thousand_records,
    ] {
        if let Err(lack) = user.clone().and_then(|user| figure(&user)) {
            println!("left out: {lack}");
        }
    }
}

/// What any figure contains: the process itself.
fn process_start(user: &User) -> Result<(), Lack> {
    let bench = Bench::new(user, "start");
    report(
        "process start (`shmocker --version`)",
        &rounds(&bench, "--version"),
    );
    Ok(())
}

/// A habitat of 200 lines with 40 mistakes: all of them told.
fn forty_mistakes(user: &User) -> Result<(), Lack> {
    let bench = Bench::new(user, "mistakes");
    bench.file(
        "config.yaml",
        include_str!("../tests/testsuite/mistakes.yaml"),
    );
    report(
        "40 mistakes in 200 lines (`habitat check`)",
        &rounds(&bench, "habitat check --format short config.yaml"),
    );
    Ok(())
}

/// The quick start, built before: nothing to do but to find that out.
fn nothing_changed(user: &User) -> Result<(), Lack> {
    machine::debian_archive()?;
    let bench = Bench::new(user, "warm");
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.tree(&repository.join("habitats/quickstart"), "quickstart");
    let line = "habitat build quickstart/config.yaml";
    let start = Instant::now();
    bench.built(line);
    println!(
        "{:<48} {:>8.2} s",
        "quick start, from an empty store",
        start.elapsed().as_secs_f64()
    );
    report("quick start, nothing changed", &rounds(&bench, line));
    Ok(())
}

/// A habitat of 10,000 files and 20 repositories, built before: what a build of it would do.
fn what_would_be_built(user: &User) -> Result<(), Lack> {
    machine::program(machine::Capability::Git, "git")?;
    let bench = Bench::new(user, "foreseen");
    let mut config = format!(
        "name: large\nbase:\n  oci: {}\nfiles:\n  - src: tree\n    dest: /opt/tree\nrepos:\n",
        busybox::layout()?.display()
    );
    for number in 0..20 {
        let _ = writeln!(
            config,
            "  - url: r{number}.bundle\n    path: /workspace/r{number}\n    branch: main"
        );
    }
    bench.file("config.yaml", config);
    bench.sh(
        "for d in $(seq 100); do mkdir -p tree/$d; for f in $(seq 100); do echo $d $f > tree/$d/$f; done; done; \
         git init -q -b main r; cd r; git config user.name t; git config user.email t@example.com; \
         for n in $(seq 0 19); do echo $n > README; git add README; git commit -qm $n; git bundle create -q ../r$n.bundle main; done",
    );
    bench.ok("habitat build config.yaml");
    // What was written just before it was read is read again.
    std::thread::sleep(Duration::from_millis(200));
    bench.ok("habitat build config.yaml");
    for line in ["habitat phases config.yaml", "habitat why config.yaml"] {
        let what = format!("10,000 files, 20 repositories: `{line}`");
        report(&what, &rounds(&bench, line));
    }
    // One file is another one: `why` names it, and ends with 10.
    bench.file("tree/50/50", "changed\n");
    let line = "habitat phases config.yaml";
    report("the same, one file changed", &rounds(&bench, line));
    Ok(())
}

/// The whole would take half a second if everything but the waiting were free.
fn sixteen_steps_that_wait(user: &User) -> Result<(), Lack> {
    let base = busybox::context()?;
    let bench = Bench::new(user, "wait");
    let mut dockerfile = String::new();
    for stage in 0..16 {
        let _ = writeln!(
            dockerfile,
            "FROM base AS s{stage}\nRUN sleep 0.5 && echo {stage} > /out{stage}"
        );
    }
    dockerfile.push_str("FROM base\n");
    for stage in 0..16 {
        let _ = writeln!(dockerfile, "COPY --from=s{stage} /out{stage} /");
    }
    bench.file("Dockerfile", dockerfile);
    bench.ok(&format!("build {base} --target s0 ."));
    let mut times: Vec<Duration> = (0..5)
        .map(|_| timed(&bench, &format!("build {base} --no-cache .")))
        .collect();
    times.sort();
    println!(
        "{:<48} {:>8.2} s, {:.2} s more than the waiting",
        "sixteen steps of 0.5 s and their join, median of 5",
        times[2].as_secs_f64(),
        times[2].as_secs_f64() - 0.5
    );
    Ok(())
}

/// A store of 10,000 snapshots, in stacks of 20, and 2,000 blobs: what it holds, and what of it goes.
fn ten_thousand_records(user: &User) -> Result<(), Lack> {
    const SNAPSHOTS: u64 = 10_000;
    let bench = Bench::new(user, "records");
    bench.ok("cache du");
    let store = bench.store();
    let mut below = Vec::new();
    for number in 0..SNAPSHOTS {
        if number % 20 == 0 {
            below.clear();
        }
        let id = Key::of(&number.to_le_bytes());
        let mut fields = Fields::new();
        fields.put("op", "exec");
        fields.put("command", format!("make {number}"));
        let record = Record {
            id,
            below: below.clone(),
            key: Some(fields.key()),
            fields,
            created_ms: 1_700_000_000_000 + number,
            duration_ms: 1,
            what: format!("[stage] RUN make {number}"),
        };
        let dir = store.join("snapshots").join(id.to_string());
        std::fs::create_dir_all(dir.join("fs")).expect("a directory can be made");
        std::fs::write(dir.join("fs/file"), number.to_string()).expect("a file can be written");
        let text = serde_json::to_vec(&record).expect("a record is text");
        std::fs::write(dir.join("record.json"), text).expect("a file can be written");
        below.push(id);
    }
    for number in 0..SNAPSHOTS / 5 {
        let content = number.to_string();
        let name = Digest::of(content.as_bytes()).hex();
        std::fs::write(store.join("blobs/sha256").join(name), content).expect("a blob");
    }
    std::fs::remove_file(store.join("index.sqlite")).expect("it can be made again");
    if machine::process_uid() == 0 {
        let owner = format!("{}:{}", user.uid, user.gid);
        let done = std::process::Command::new("chown")
            .args(["-R", &owner])
            .arg(store)
            .status();
        assert!(done.is_ok_and(|status| status.success()));
    }
    let once = |what: &str, line: &str| {
        println!(
            "{what:<48} {:>8.2} ms, once",
            timed(&bench, line).as_secs_f64() * 1000.0
        );
    };
    once("10,000 snapshots: the index made again", "cache du");
    once("10,000 snapshots: measured", "cache prune --dry-run");
    report(
        "10,000 snapshots, 2,000 blobs: `cache du`",
        &rounds(&bench, "cache du"),
    );
    let line = "cache prune --dry-run --max-used-space 1";
    report("the same: `cache prune --dry-run`", &rounds(&bench, line));
    let mut left = bench.ok("cache du --format json").json()["total_bytes"]
        .as_u64()
        .unwrap_or(0);
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            left -= 400_000;
            timed(&bench, &format!("cache prune --max-used-space {left}"))
        })
        .collect();
    times.sort();
    report("the same: `cache prune` of some 50 of them", &times);
    Ok(())
}

/// From the start of the process to its end, output thrown away.
fn timed(bench: &Bench, line: &str) -> Duration {
    let mut command = bench.shmocker_command(line);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let status = command.status().expect("shmocker can be started");
    let time = start.elapsed();
    // 1 says that mistakes were found, where that is what is asked.
    let found = status.code() == Some(1) && line.contains(" check ");
    assert!(status.success() || found, "shmocker {line}: {status}");
    time
}

fn rounds(bench: &Bench, line: &str) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..ROUNDS).map(|_| timed(bench, line)).collect();
    times.sort();
    times
}

fn report(what: &str, times: &[Duration]) {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what:<48} {:>8.2} ms, median of {} (fastest {:.2}, slowest {:.2})",
        ms(times[times.len() / 2]),
        times.len(),
        ms(times[0]),
        ms(times[times.len() - 1])
    );
}
