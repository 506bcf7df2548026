//! What a RUN gets and sees: hosts, limits, a network, privileges, a time to end; compared with BuildKit where that can
//! be asked.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::bench::{Bench, status_of};
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Capability, need};
use crate::harness::processes::wait_until;
use crate::peers::buildkit::buildkit;

#[test]
fn hosts_limits_and_shared_memory_are_given_to_every_step() {
    let bench = Bench::new(&need!(machine::plain_user()), "step-options");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN cp /etc/hosts /hosts; (ulimit -n; ulimit -Hn; ulimit -c) > /limits; grep ' /dev/shm ' /proc/mounts > /shm\n",
    );
    let line = format!(
        "build {base} --shm-size 128m --ulimit nofile=1062:2000 --ulimit core=0 --add-host DB=10.1.2.3 --add-host v6:fd00::2"
    );
    bench.ok(&format!("{line} -o type=local,dest=out ."));
    let hosts = bench.sh("cat out/hosts").out();
    assert!(
        hosts.contains("buildkitsandbox") && hosts.ends_with("10.1.2.3\tdb\nfd00::2\tv6\n"),
        "{hosts}"
    );
    assert_eq!(bench.sh("cat out/limits").out(), "1062\n2000\n0\n");
    assert!(bench.sh("cat out/shm").out().contains("size=131072k"));

    // Neither is left in the image.
    bench.sh("test ! -e out/etc/hosts && test ! -e out/etc/resolv.conf");
    bench.sh("rm -r out");
    bench.file(
        "Dockerfile",
        "FROM base\nRUN hostname > /name; cat /etc/hosts >> /name\n",
    );
    bench.ok(&format!(
        "build {base} --build-arg BUILDKIT_SANDBOX_HOSTNAME=other -o type=local,dest=out ."
    ));
    let name = bench.sh("cat out/name").out();
    assert!(
        name.starts_with("other\n127.0.0.1\tlocalhost other\n"),
        "{name}"
    );

    // An address is no part of the key; a name, a limit and a size are.
    let counts = |line: &str| bench.built(&format!("build {base} {line} .")).steps_run();
    let same = "--shm-size 128m --ulimit nofile=1062:2000 --ulimit core=0 --add-host v6:fd00::2";
    bench.file("Dockerfile", "FROM base\nRUN true\n");
    assert_eq!(
        counts(&format!("{same} --add-host db=10.9.9.9")),
        1,
        "another order of hosts"
    );
    assert_eq!(counts(&format!("{same} --add-host db=10.9.9.10")), 0);
    assert_eq!(counts(&format!("{same} --add-host other=10.9.9.9")), 1);
    assert_eq!(counts("--shm-size 1m"), 1);
    assert_eq!(counts("--shm-size 2m"), 1);
    assert_eq!(counts("--ulimit nofile=100"), 1);

    bench
        .shmocker(&format!("build {base} --ulimit nofile=9999999999 ."))
        .expect(4, &["nofile", "hard limit"]);
    for (flag, part) in [
        ("--add-host x=host-gateway", "host-gateway"),
        ("--add-host x", "NAME=IP"),
        ("--ulimit files=3", "nofile"),
        ("--shm-size much", "much"),
        ("--network bridge", "bridge"),
        ("--memory-swap 1g", "--memory"),
        ("--cpuset-cpus 3-1", "3-1"),
    ] {
        bench
            .shmocker(&format!("build {base} {flag} ."))
            .expect(2, &[part]);
    }
}

#[test]
fn the_network_of_a_build_is_that_of_steps_that_name_none() {
    let bench = Bench::new(&need!(machine::plain_user()), "build-network");
    let base = need!(busybox::context());
    let devices = "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort";
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nRUN {devices} > /a\nRUN --network=default {devices} > /b\nRUN --network=none {devices} > /c\n"
        ),
    );
    let host = std::process::Command::new("sh")
        .args(["-c", devices])
        .output()
        .expect("sh can be started");
    let host = String::from_utf8_lossy(&host.stdout).into_owned();
    // Who asks for it on the command line allows it.
    bench.ok(&format!(
        "build {base} --network host -o type=local,dest=out ."
    ));
    assert_eq!(bench.sh("cat out/a out/b").out(), format!("{host}{host}"));
    let none = bench.sh("cat out/c").out();
    bench.ok(&format!(
        "build {base} --network none -o type=local,dest=out ."
    ));
    assert_eq!(
        bench.sh("cat out/a out/b out/c").out(),
        format!("{none}{none}{none}")
    );
}

/// All of a step is synced at once when it is published; what it syncs itself would only be waited for. What is up keeps what
/// it is told to keep.
#[test]
fn programs_of_a_step_do_not_wait_for_the_disk() {
    let bench = Bench::new(&need!(machine::plain_user()), "volatile");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN grep ' / / .* - overlay .*volatile' /proc/self/mountinfo && sync && echo synced > /file\n",
    );
    bench.ok(&format!("build {base} -t app ."));
    assert_eq!(bench.ok("run app cat /file").out(), "synced\n");
    assert_eq!(
        bench.ok("store check --deep --format json").json()["sound"],
        true
    );
}

#[test]
fn a_limit_is_kept_or_refused() {
    let bench = Bench::new(&need!(machine::plain_user()), "memory");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN cat /sys/fs/cgroup/memory.max > /max\n",
    );
    let run = bench.shmocker(&format!("build {base} -m 64m -o type=local,dest=out ."));
    if run.status == 0 {
        assert_eq!(bench.sh("cat out/max").out(), "67108864\n");
    } else {
        run.expect(4, &["help:", "without the limit"]);
        assert!(!bench.path("out").exists());
    }
    for flag in [
        "--memory 64m --memory-swap 96m",
        "--cpu-period 50000 --cpu-quota 25000",
        "--cpuset-cpus 0 --cpuset-mems 0",
        "-c 2",
    ] {
        let run = bench.shmocker(&format!("build {base} --no-cache {flag} ."));
        // Not even its own fault where there are no groups to limit with.
        let option = flag.split(' ').next().unwrap_or_default();
        let option = if option == "-c" {
            "--cpu-shares"
        } else {
            option
        };
        assert!(
            run.status == 0 || (run.status == 4 && run.stderr.contains(option)),
            "{}",
            run.both()
        );
    }
    // What is limited is no part of the key, as in BuildKit.
    bench.file("Dockerfile", "FROM base\nRUN true\n");
    bench.ok(&format!("build {base} ."));
    bench.ok(&format!("build {base} --memory 64m --cpu-shares 2 ."));
}

/// A control group that belongs to a user, as systemd delegates one; gone at the end.
pub(crate) struct Delegated(pub(crate) PathBuf);

impl Delegated {
    pub(crate) fn to(user: &machine::User) -> Result<Self, crate::harness::Lack> {
        machine::root()?;
        let lack = |reason: String| Capability::Cgroup.lack(reason);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let tree = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .and_then(|fields| fields.get(1).map(PathBuf::from))
            .ok_or_else(|| lack("cgroup v2 is not mounted".to_owned()))?;
        let place = tree.join(format!("shmocker-tests-{}", std::process::id()));
        let made = Self(place.clone());
        for group in [place.clone(), place.join("start")] {
            std::fs::create_dir(&group).map_err(|error| lack(error.to_string()))?;
            for path in [
                group.clone(),
                group.join("cgroup.procs"),
                group.join("cgroup.subtree_control"),
            ] {
                std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))
                    .map_err(|error| lack(error.to_string()))?;
            }
        }
        Ok(made)
    }

    pub(crate) fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter(|entry| entry.path().is_dir());
        names
            .map(|entry| entry.file_name().display().to_string())
            .filter(|name| name != "start")
            .collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for place in [self.0.join("start"), self.0.clone()] {
            wait_until(Duration::from_secs(2), || {
                std::fs::remove_dir(&place).is_ok() || !place.exists()
            });
        }
    }
}

#[test]
fn in_a_delegated_control_group_each_step_has_its_own() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let bench = Bench::new(&user, "cgroup");
    let group = need!(Delegated::to(&user));
    let name = group.0.file_name().expect("a name").display().to_string();
    bench.file(
        "Dockerfile",
        "FROM base\nRUN grep ^0:: /proc/self/cgroup > /seen; cat /proc/1/cgroup | grep ^0:: >> /seen\n",
    );
    let inside = |line: &str| {
        let script = format!(
            "echo $$ > {}/start/cgroup.procs; cd {}; exec setpriv --reuid {} --regid {} --clear-groups -- \
             env -i HOME={} PATH=/usr/bin:/bin:/usr/sbin:/sbin {} {line}",
            group.0.display(),
            bench.project().display(),
            user.uid,
            user.gid,
            user.home.display(),
            bench.shmocker_words(),
        );
        bench.finish(std::process::Command::new("/bin/sh").args(["-c", &script]))
    };
    let run = inside(&format!(
        "build {base} --cgroup-parent /{name} -o type=local,dest=out ."
    ));
    assert_eq!(run.status, 0, "{}", run.both());
    // The step is at the top of all that it sees.
    assert_eq!(bench.sh("cat out/seen").out(), "0::/\n0::/\n");
    assert_eq!(group.left(), [""; 0]);

    // It is part of the key; where a group is missing, it is made; where it may not be, that is said.
    let again = inside(&format!(
        "build {base} --cgroup-parent /{name} --progress json ."
    ));
    assert!(again.stderr.contains("\"steps_run\":0"), "{}", again.both());
    let other = inside(&format!(
        "build {base} --cgroup-parent /{name}/below --progress json ."
    ));
    assert!(other.stderr.contains("\"steps_run\":1"), "{}", other.both());
    drop(std::fs::remove_dir(group.0.join("below")));
    inside(&format!("build {base} --cgroup-parent /elsewhere ."))
        .expect(4, &["this user may make none", "systemd-run"]);
    inside(&format!("build {base} --cgroup-parent /a/../b .")).expect(1, &["/a/../b"]);
}

#[test]
fn privileges_must_be_allowed_also_where_the_result_is_there() {
    let bench = Bench::new(&need!(machine::plain_user()), "insecure");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --security=insecure grep -e Cap -e Seccomp: /proc/self/status > /root-status; \
         mount -t tmpfs none /mnt 2>/dev/null || (mkdir /mnt && mount -t tmpfs none /mnt) && touch /mnt/x; \
         grep -c 'cgroup\\|sysfs' /proc/mounts; grep ' /sys ' /proc/mounts > /sys-mount; ls /proc/acpi /proc/scsi > /dev/null 2>&1; true\n\
         USER nobody\nRUN --security=insecure grep CapEff /proc/self/status > /tmp/nobody-status\n\
         USER root\nRUN --security=sandbox grep -e CapBnd -e Seccomp: /proc/self/status > /sandbox-status\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(6, &["security.insecure", "--allow", "Dockerfile:2:"]);
    need!(machine::all_ids());
    bench.ok(&format!(
        "build {base} --allow security.insecure -o type=local,dest=out ."
    ));
    let status = bench.sh("cat out/root-status out/tmp/nobody-status").out();
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1))
            .unwrap_or_default()
            .to_owned()
    };
    let all = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .expect("a kernel with capabilities");
    let all: u32 = all.trim().parse().expect("a number");
    let all = format!("{:016x}", (1_u64 << (all + 1)) - 1);
    assert_eq!(
        [value("CapEff:"), value("CapBnd:")],
        [all.clone(), all.clone()],
        "{status}"
    );
    assert_eq!(value("Seccomp:"), "0", "{status}");
    assert!(status.trim_end().ends_with(&all), "{status}");
    assert!(bench.sh("cat out/sys-mount").out().contains(" rw,"));
    assert_eq!(
        bench.sh("cat out/sandbox-status").out(),
        "CapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    );
    // What was allowed once is not handed out to a build that does not allow it.
    bench
        .shmocker(&format!("build {base} ."))
        .expect(6, &["security.insecure"]);
    let again = bench.built(&format!("build {base} --allow security.insecure ."));
    assert_eq!(again.steps_run(), 0);
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --security=insecure true\nRUN --network=host true\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(6, &["security.insecure", "network.host"]);
    bench
        .shmocker(&format!("build {base} --allow device ."))
        .expect(2, &["device"]);
}

/// Everything that a command can see of where it runs, and that does not depend on the machine.
const LOOK: &str = r#"FROM base
USER worker
RUN id -G > /home/worker/groups; id > /home/worker/id; echo $HOME > /home/worker/home
USER 4242:77
RUN (id -u; id -g; id -G; echo $HOME) > /tmp/unknown
USER root
ENV B=2 A=1
ARG C=3
RUN mkdir /o; env | grep -v -e ^_= -e OTEL -e TRACEPARENT > /o/env; hostname > /o/hostname; cat /etc/hosts > /o/hosts; umask > /o/umask
RUN readlink /proc/self/fd/0 > /o/stdin; cat > /o/from-stdin; pwd > /o/pwd; ulimit -c > /o/core
RUN df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2 > /o/shm; stat -c %a /dev/shm > /o/shm-mode
RUN grep -e ^Cap -e ^NoNewPrivs -e ^Seccomp: /proc/self/status > /o/status
RUN for p in acpi asound interrupts kcore keys latency_stats scsi timer_list; do echo $p $(stat -c %F /proc/$p 2>&1) $(cat /proc/$p 2>/dev/null | wc -c); done > /o/masked
RUN for p in bus fs irq sysrq-trigger; do touch /proc/$p/x 2>/dev/null && echo $p; done > /o/writable; ls /sys/firmware 2>/dev/null | wc -l > /o/firmware
RUN ls /dev | grep -v -e console -e otel > /o/dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done > /o/devices
RUN stat -c '%a %U:%G' /etc/hosts /etc/resolv.conf > /o/given; (mkdir /sys/x || touch /proc/sys/x) 2>/dev/null || echo no > /o/no-writing
RUN mount | grep -e ' /proc ' -e ' /dev ' -e ' /dev/pts ' -e ' /dev/shm ' -e ' /dev/mqueue ' | cut -d' ' -f3,5 | sort > /o/mounts
RUN --mount=type=tmpfs,target=/t,size=3m df -k /t | tail -1 | tr -s ' ' | cut -d' ' -f2 > /o/tmpfs;
RUN --mount=type=tmpfs,target=/t stat -c %a /t > /o/tmpfs-mode
RUN --mount=type=cache,target=/c stat -c '%a %u:%g' /c > /o/cache; echo x > /c2
RUN --mount=type=bind,target=/b (touch /b/x 2>/dev/null || echo no) > /o/bind; ls /b | sort > /o/bind-files
RUN --mount=type=bind,target=/b,rw (touch /b/x 2>/dev/null && echo yes) > /o/bind-rw
RUN ls -A / > /o/root; cut -d' ' -f3 /proc/self/stat > /o/state; cat /proc/1/comm > /o/first
WORKDIR /w/d
RUN pwd > /o/workdir
"#;

#[test]
fn a_step_sees_what_it_sees_on_buildkit() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let buildkit = need!(buildkit());
    let bench = Bench::new(&user, "look");
    bench.file(
        "Dockerfile",
        LOOK.replacen(
            "FROM base\n",
            "FROM base\nRUN adduser -D -u 1234 worker && addgroup -g 4444 team && adduser worker team\n",
            1,
        ),
    );
    bench.file(".dockerignore", "out.tar\n");
    bench.built(&format!("build {base} -o type=oci,dest=out.tar ."));
    let ours = Layout::read(&bench.path("out.tar"));
    let theirs = buildkit.build_on(need!(busybox::layout()), &bench.project());
    let (ours, theirs) = (contents(&ours), contents(&theirs));
    let mut different = Vec::new();
    let mut compared = 0;
    for (path, content) in &theirs {
        let is_ours_to_say = ["o/", "home/worker/", "tmp/unknown"]
            .iter()
            .any(|place| path.starts_with(place));
        if !is_ours_to_say {
            continue;
        }
        compared += 1;
        let mine = ours
            .get(path)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let content = String::from_utf8_lossy(content).into_owned();
        if mine.as_deref() != Some(&content) && !ON_PURPOSE.contains(&path.as_str()) {
            different.push(format!(
                "{path}\n  BuildKit: {content:?}\n  shmocker: {mine:?}"
            ));
        }
    }
    assert!(compared > 30, "only {compared} files");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// What is in the files of an image.
fn contents(image: &Layout) -> BTreeMap<String, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for layer in image.layers() {
        let mut tar = tar::Archive::new(layer.as_slice());
        for entry in tar.entries().expect("a layer is a tar") {
            let mut entry = entry.expect("a layer is a whole tar");
            let path = entry.path().expect("it has a path").display().to_string();
            let mut content = Vec::new();
            entry
                .read_to_end(&mut content)
                .expect("a layer is a whole tar");
            if entry.header().entry_type().is_file() {
                contents.insert(path.trim_start_matches("./").to_owned(), content);
            }
        }
    }
    contents
}

/// Where shmocker differs, each with its line in docs/compatibility.md: /proc/interrupts is masked, and standard input
/// is /dev/null and not a pipe.
const ON_PURPOSE: [&str; 2] = ["o/masked", "o/stdin"];

#[test]
fn the_end_of_a_step_is_told_as_buildkit_tells_it() {
    let bench = Bench::new(&need!(machine::plain_user()), "ends");
    let base = need!(busybox::context());
    for (command, parts) in [
        (
            "exit 9",
            &["process \"/bin/sh -c exit 9\" did not complete successfully: exit code: 9"][..],
        ),
        (
            "sh -c 'kill -9 $$'; exit 137",
            &["exit code: 137", "memory"],
        ),
        ("[\"/absent\"]", &["/absent", "could not be started"]),
    ] {
        bench.file("Dockerfile", format!("FROM base\nRUN {command}\n"));
        bench.shmocker(&format!("build {base} .")).expect(3, parts);
        // Nothing of a step that failed is kept.
        let again = bench.events(&format!("build {base} ."));
        assert_eq!((again.run.status, again.steps_cached()), (3, 0));
    }
}

#[test]
fn what_a_step_writes_is_shown_up_to_a_limit() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let build = |bench: &Bench| {
        bench.file(
            "Dockerfile",
            "FROM base\nRUN head -c 3000000 /dev/zero | tr '\\0' x | fold -w 999; echo; echo last; echo end >&2\n",
        );
        bench.built(&format!("build {base} .")).log()
    };
    let log = build(&Bench::new(&user, "log-usual"));
    assert!(log.contains("[output clipped, log limit "), "{}", log.len());
    assert!(
        log.contains("\nend\n") && log.len() < (2 << 20) + 1000,
        "{}",
        log.len()
    );

    let bench = Bench::new(&user, "log-small")
        .env("BUILDKIT_STEP_LOG_MAX_SIZE", "1024")
        .env("BUILDKIT_STEP_LOG_MAX_SPEED", "-1");
    let log = build(&bench);
    assert!(
        log.contains("[output clipped, log limit 1KiB reached]") && log.len() < 1200,
        "{log}"
    );

    let bench = Bench::new(&user, "log-all")
        .env("BUILDKIT_STEP_LOG_MAX_SIZE", "-1")
        .env("BUILDKIT_STEP_LOG_MAX_SPEED", "-1");
    let log = build(&bench);
    assert!(
        log.contains("\nlast\n") && !log.contains("clipped"),
        "{}",
        log.len()
    );

    // A step that fails shows its end all the same.
    bench.file(
        "Dockerfile",
        "FROM base\nRUN seq 1 100000; echo the reason; exit 1\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(3, &["the reason"]);
}

/// Starts a build, interrupts it once a step says `ready`, and gives the exit status and how long that took.
fn interrupt(bench: &Bench, line: &str, signals: &[&str]) -> (i32, Duration) {
    let mut build = bench.start(line, "log");
    let log = bench.path("log");
    let ready = wait_until(Duration::from_secs(20), || {
        std::fs::read_to_string(&log).is_ok_and(|log| log.contains("ready\""))
    });
    assert!(
        ready.is_some(),
        "{}",
        std::fs::read_to_string(&log).unwrap_or_default()
    );
    let asked = Instant::now();
    for signal in signals {
        bench.sh(&format!("kill -{signal} {}", build.id()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = status_of(build.wait().expect("it ends"));
    (status, asked.elapsed())
}

#[test]
fn an_interrupted_step_may_end_in_its_own_way_for_a_while() {
    let bench = Bench::new(&need!(machine::plain_user()), "interrupted");
    let base = need!(busybox::context());
    let line = format!("build {base} --progress json .");
    let run = |script: &str| format!("FROM base\nRUN --mount=type=cache,target=/c {script}\n");

    bench.file(
        "Dockerfile",
        run("trap 'echo ended > /c/how; exit 1' TERM; echo ready; while :; do sleep 0.05; done"),
    );
    let (status, _) = interrupt(&bench, &line, &["INT"]);
    assert_eq!(status, 130);
    let (status, _) = interrupt(&bench, &line, &["TERM"]);
    assert_eq!(status, 143);
    bench.file("Dockerfile", run("cat /c/how > /how"));
    bench.ok(&format!("build {base} -o type=local,dest=out ."));
    assert_eq!(bench.sh("cat out/how").out(), "ended\n");

    // One that does not listen is killed at once, one that takes too long after three seconds, or when asked again.
    bench.file("Dockerfile", run("echo ready; sleep 60"));
    let (status, deaf) = interrupt(&bench, &line, &["INT"]);
    assert_eq!(status, 130);
    bench.file(
        "Dockerfile",
        run("trap : TERM; echo ready; while :; do sleep 0.05; done"),
    );
    let (status, slow) = interrupt(&bench, &line, &["INT"]);
    assert_eq!(status, 130);
    let (status, asked_again) = interrupt(&bench, &line, &["INT", "INT"]);
    assert_eq!(status, 130);
    assert!(
        slow > Duration::from_secs(3) && slow > deaf && slow > asked_again,
        "{slow:?} {deaf:?} {asked_again:?}"
    );
    let place = bench.store().to_owned();
    assert_eq!(
        crate::harness::processes::attached_to(Path::new(&place)),
        [""; 0]
    );
}
