//! The stories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use shmocker::engine::exec::ids::{Caller, Ids, IdsError};
use shmocker::graph::Network;

use crate::bench::{Bench, skip};
use crate::drive::Wish;

type Story = (&'static str, fn(&Bench));

macro_rules! stories {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn(&Bench))),*] };
}

const STORIES: &[Story] = stories![
    a_command_is_root_of_the_image,
    a_user_has_its_groups_home_and_no_capabilities,
    capabilities_and_system_calls_are_dockers,
    what_no_container_may_see_is_covered,
    only_the_standard_streams_are_open,
    nothing_of_the_outside_is_in_the_environment_or_the_process_list,
    the_program_of_shmocker_cannot_be_reached,
    dev_is_complete,
    mounts_appear_and_leave_no_trace,
    an_overlay_keeps_only_what_the_step_changed,
    a_hostile_root_is_kept_to_itself,
    a_working_directory_is_made_and_cannot_lead_outside,
    a_missing_command_is_127_and_one_that_cannot_run_is_126,
    a_time_limit_ends_everything,
    a_cancelled_step_ends_at_once,
    background_processes_do_not_hold_the_step_up,
    lines_keep_their_streams,
    a_terminal_is_a_terminal,
    no_network_is_only_lo,
    a_build_that_is_killed_leaves_nothing_behind,
    root_can_build_with_ids_of_its_own,
    a_user_without_ids_is_told_what_to_type,
    a_doctor_says_what_is_there_and_what_would_mend_the_rest,
    a_private_network_has_a_way_out_but_none_to_the_hosts_loopback,
];

/// A story that is not for every player, and what is missing where nobody may play it.
struct OfSome {
    story: &'static str,
    may_play: fn(&Bench) -> bool,
    capability: &'static str,
    reason: &'static str,
}

const OF_SOME: &[OfSome] = &[
    OfSome {
        story: "root_can_build_with_ids_of_its_own",
        may_play: |bench| bench.user.is_some() && !bench.single_id,
        capability: "root",
        reason: "the tests run as a plain user",
    },
    OfSome {
        story: "a_user_without_ids_is_told_what_to_type",
        may_play: |bench| {
            let own = || matches!(Ids::of(&Caller::current()), Err(IdsError::NoRanges { .. }));
            bench.single_id && (bench.user.is_some() || own())
        },
        capability: "bare-user",
        reason: "no user without subordinate ids, or no right to play as him",
    },
];

/// Plays all stories whose name contains the filter.
pub(crate) fn tell(filter: &str) -> ExitCode {
    let benches = match Bench::of_all_users() {
        Ok(benches) => benches,
        Err(reason) => {
            skip("plain-users", "all", &reason);
            return ExitCode::SUCCESS;
        }
    };
    let mut failed = 0;
    for (name, story) in STORIES.iter().filter(|(name, _)| name.contains(filter)) {
        let of_some = OF_SOME.iter().find(|it| it.story == *name);
        let may_play = |bench: &&Bench| of_some.is_none_or(|it| (it.may_play)(bench));
        let players: Vec<&Bench> = benches.iter().filter(may_play).collect();
        if let (true, Some(it)) = (players.is_empty(), of_some) {
            skip(it.capability, name, it.reason);
        }
        for bench in players {
            bench.renew_root();
            let ids = if bench.single_id { ", with one id" } else { "" };
            match catch_unwind(AssertUnwindSafe(|| story(bench))) {
                Ok(()) => println!("story {name}{ids} ... ok"),
                Err(_) => {
                    println!("story {name}{ids} ... FAILED");
                    failed += 1;
                }
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn a_command_is_root_of_the_image(bench: &Bench) {
    let found = bench.output_of("id; hostname; pwd; umask; echo $$ $PATH $HOME");
    assert_eq!(
        found,
        "uid=0(root) gid=0(root) groups=0(root)\nbuildkitsandbox\n/\n0022\n\
         1 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /root\n"
    );
}

fn a_user_has_its_groups_home_and_no_capabilities(bench: &Bench) {
    let mut request = bench.shell("id; echo $HOME; grep Cap /proc/self/status | cut -f2 | tr '\\n' ' '; echo hello > /dev/stderr");
    for user in ["ada", "1000"] {
        request.user = user.to_owned();
        let answer = bench.play(&request);
        assert_eq!(
            answer.output,
            "uid=1000(ada) gid=1001(ada) groups=10(wheel),1001(ada)\n/home/ada\n\
             0000000000000000 0000000000000000 0000000000000000 00000000a80425fb 0000000000000000 \n"
        );
        assert_eq!(answer.errors, "hello\n");
    }
    request.user = "4294967296".to_owned();
    assert_eq!(
        bench.play(&request).exit,
        "error: the image has no user `4294967296`"
    );
}

fn capabilities_and_system_calls_are_dockers(bench: &Bench) {
    let status =
        bench.output_of("grep -E 'Cap|NoNew|Seccomp:' /proc/self/status | cut -f2 | tr '\\n' ' '");
    assert_eq!(
        status,
        "0000000000000000 00000000a80425fb 00000000a80425fb 00000000a80425fb 0000000000000000 0 2 \n"
    );
    for refused in [
        "unshare -U true",
        "unshare -m true",
        "mount -t tmpfs x /tmp",
        "umount /proc/sys",
        "hostname other",
    ] {
        let answer = bench.play(&bench.shell(refused));
        assert_ne!(answer.exit, "status 0", "{refused}");
        assert!(
            answer.errors.contains("ermi") || answer.errors.contains("ermitted"),
            "{refused}: {}",
            answer.errors
        );
    }
    // A program in C could tell ENOSYS (38) from EPERM (1); so can the tracer of the numbers that `probe` is.
    let root_probe = bench.root().join("bin/probe");
    if !compile(PROBE, &root_probe) {
        skip(
            "cc",
            "calls_are_filtered",
            "no C compiler to make a prober of system calls with",
        );
        return;
    }
    // clone3, a call of the future, mount, keyctl, bpf, io_uring_setup; vsock and alg sockets.
    assert_eq!(bench.output_of("probe"), "38 38 1 1 1 1 1 1 ok\n");
}

const PROBE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
static int tried(long result) { return result < 0 ? errno : 0; }
int main(void) {
    printf("%d ", tried(syscall(435, 0, 0)));
    printf("%d ", tried(syscall(600)));
    printf("%d ", tried(syscall(SYS_mount, 0, 0, 0, 0, 0)));
    printf("%d ", tried(syscall(SYS_keyctl, 0, 0)));
    printf("%d ", tried(syscall(SYS_bpf, 0, 0, 0)));
    printf("%d ", tried(syscall(425, 1, 0)));
    printf("%d ", tried(socket(40, SOCK_STREAM, 0)));
    printf("%d ", tried(socket(38, SOCK_SEQPACKET, 0)));
    int works = socket(AF_INET, SOCK_DGRAM, 0) >= 0 && getpid() == 1;
    puts(works ? "ok" : "not ok");
    return 0;
}
"#;

fn compile(source: &str, to: &Path) -> bool {
    use std::io::Write as _;
    let mut cc = Command::new("cc");
    cc.args(["-static", "-x", "c", "-o"])
        .arg(to)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let Ok(mut cc) = cc.spawn() else { return false };
    cc.stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    cc.wait().unwrap().success()
}

fn what_no_container_may_see_is_covered(bench: &Bench) {
    let script = "
        for file in kcore keys timer_list sched_debug; do
            test ! -e /proc/$file || test -c /proc/$file || echo /proc/$file is seen
        done
        for directory in /proc/acpi /proc/scsi /sys/firmware; do
            test -z \"$(ls $directory 2>/dev/null)\" || echo $directory is seen
        done
        for file in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/kernel/uevent_seqnum; do
            (echo x > $file) 2>/dev/null && echo $file can be written
        done
        (echo x > /sys/x) 2>/dev/null && echo /sys can be written
        cat /proc/keys; true";
    assert_eq!(bench.output_of(script), "");
}

fn only_the_standard_streams_are_open(bench: &Bench) {
    // The fourth is the directory that is being read, by `ls` and then by the shell, which is process 1.
    assert_eq!(
        bench.output_of("ls /proc/self/fd | tr '\\n' ' '; set -- /proc/1/fd/*; echo $#"),
        "0 1 2 3 4\n"
    );
}

fn nothing_of_the_outside_is_in_the_environment_or_the_process_list(bench: &Bench) {
    let script =
        "cat /proc/*/environ | tr '\\0' '\\n' | grep -c CANARY; ls -d /proc/[0-9]* | wc -l";
    let found = bench.output_of(script);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines[0], "0");
    assert!(lines[1].parse::<u32>().unwrap() <= 4, "{found}");
}

fn the_program_of_shmocker_cannot_be_reached(bench: &Bench) {
    let before = fs::read(bench.program()).unwrap();
    // The interpreter of the script is whoever executes it: shmocker's step.
    fs::write(bench.root().join("bin/evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(
        bench.root().join("bin/evil"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let mut request = bench.shell("");
    request.argv = vec!["/bin/evil".to_owned()];
    let answer = bench.play(&request);
    assert_ne!(answer.exit, "status 0", "{answer:?}");
    let own = bench.play(&bench.shell(
        "readlink /proc/1/exe; (echo x >> /proc/1/exe) 2>&1; grep -c memfd /proc/1/maps; true",
    ));
    assert!(own.output.starts_with("/bin/busybox\n"), "{}", own.output);
    assert!(own.output.ends_with("\n0\n"), "{}", own.output);
    assert_eq!(before, fs::read(bench.program()).unwrap());
}

fn dev_is_complete(bench: &Bench) {
    let script = "
        for node in null zero full random urandom tty; do test -c /dev/$node || echo $node is missing; done
        for link in fd stdin stdout stderr ptmx; do test -L /dev/$link || echo $link is missing; done
        head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x > /dev/null; echo x > /dev/full || echo full
        grep -E ' /dev/(pts|shm|mqueue) ' /proc/mounts | cut -d' ' -f3; df -k /dev/shm | tail -1 | awk '{print $2}'
        echo out > /dev/stdout; test -c /dev/pts/ptmx && echo ptmx";
    let answer = bench.play(&bench.shell(script));
    assert_eq!(
        answer.output, "4\n4\nfull\ndevpts\ntmpfs\nmqueue\n65536\nout\nptmx\n",
        "{answer:?}"
    );
}

fn mounts_appear_and_leave_no_trace(bench: &Bench) {
    let source = bench.directory.join("source");
    drop(fs::remove_dir_all(&source));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "bound\n").unwrap();
    bench.give_to_user(&source);
    let before = listing(&bench.root());
    let mut request = bench.shell(
        "cat /new/place/file; (echo x > /new/place/x) 2>/dev/null || echo read-only; echo x > /var/cache/y; \
         cat /run/secrets/token; stat -c '%a %u' /run/secrets/token; df -k /memory | tail -1 | awk '{print $2}'; /dev/pipes/script; \
         cat /etc/hosts | head -1; grep -c /run/secrets/token /proc/mounts",
    );
    let secret = |target: &str, content: &str, mode| Wish::Secret {
        target: target.to_owned(),
        content: content.to_owned(),
        mode,
        uid: 1000,
    };
    request.mounts = vec![
        Wish::Bind {
            source: source.clone(),
            target: "/new/place".to_owned(),
            read_only: true,
        },
        Wish::Bind {
            source: source.clone(),
            target: "/var/cache".to_owned(),
            read_only: false,
        },
        secret("/run/secrets/token", "hunter2\n", 0o400),
        secret("/dev/pipes/script", "#!/bin/sh\necho script\n", 0o755),
        Wish::Tmpfs {
            target: "/memory".to_owned(),
        },
    ];
    let answer = bench.play(&request);
    assert_eq!(
        answer.output,
        "bound\nread-only\nhunter2\n400 1000\n1024\nscript\n127.0.0.1\tlocalhost buildkitsandbox\n1\n",
        "{answer:?}"
    );
    assert!(source.join("y").exists() && !source.join("x").exists());
    assert_eq!(listing(&bench.root()), before);
    for target in ["/", "relative", "/..", ""] {
        request.mounts = vec![Wish::Tmpfs {
            target: target.to_owned(),
        }];
        assert!(
            bench
                .play(&request)
                .exit
                .contains("a mount needs an absolute path below the root")
        );
    }
}

fn an_overlay_keeps_only_what_the_step_changed(bench: &Bench) {
    let overlay = bench.directory.join("overlay");
    drop(fs::remove_dir_all(&overlay));
    fs::create_dir_all(overlay.join("upper")).unwrap();
    fs::create_dir_all(overlay.join("work")).unwrap();
    bench.give_to_user(&overlay);
    let before = listing(&bench.root());
    let mut request = bench.shell(
        "echo changed > /tmp/new; mkdir -p /srv/x; rm /etc/group; ls -d /proc /sys /dev /etc/hosts",
    );
    request.overlay = Some(overlay.clone());
    request.mounts = vec![Wish::Tmpfs {
        target: "/var/cache/apt".to_owned(),
    }];
    let answer = bench.play(&request);
    assert_eq!(
        answer.output, "/dev\n/etc/hosts\n/proc\n/sys\n",
        "{answer:?}"
    );
    let changed = Command::new("find")
        .arg(overlay.join("upper"))
        .args(["-printf", "%P %y\n"])
        .output()
        .unwrap();
    let changed = String::from_utf8(changed.stdout).unwrap();
    let mut changed: Vec<_> = changed.lines().collect();
    changed.sort_unstable();
    assert_eq!(
        changed,
        [
            " d",
            "etc d",
            "etc/group c",
            "srv d",
            "srv/x d",
            "tmp d",
            "tmp/new f"
        ]
    );
    assert_eq!(listing(&bench.root()), before);
}

/// Every path, with what a layer would record of it.
fn listing(root: &Path) -> String {
    let found = Command::new("find")
        .arg(root)
        .args(["-printf", "%P %m %U %G %T@ %l\n"])
        .output()
        .unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn a_hostile_root_is_kept_to_itself(bench: &Bench) {
    let root = bench.root();
    let outside = bench.directory.join("outside");
    drop(fs::remove_dir_all(&outside));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("hosts"), "").unwrap();
    bench.give_to_user(&outside);
    // Every place that is mounted on is a link that would lead out of a root that is only a directory.
    let up = "../".repeat(20);
    for (name, target) in [
        ("proc", "root"),
        ("sys", "/opt"),
        ("dev", &*format!("{up}home/ada")),
        ("etc/hosts", "/../../x/y"),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink(&outside, root.join("srv")).unwrap();
    fs::create_dir(root.join("opt")).unwrap();
    let mut request = bench.shell("cat /x/y | head -1; test -c /home/ada/null && echo null; test -d /root/1 && echo proc; ls /srv");
    request.mounts = vec![Wish::Secret {
        target: "/srv/hosts".to_owned(),
        content: "x".to_owned(),
        mode: 0o400,
        uid: 0,
    }];
    let answer = bench.play(&request);
    assert_eq!(
        answer.output, "127.0.0.1\tlocalhost buildkitsandbox\nnull\nproc\nhosts\n",
        "{answer:?}"
    );
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        1,
        "the stub of the link's target is inside"
    );
    assert!(!root.join("x").exists() && !root.join("root/1").exists());

    for (make, expected) in [
        (
            "mkfifo etc/passwd",
            "error: cannot look up users: /etc/passwd",
        ),
        (
            "truncate -s 4G etc/passwd",
            "error: cannot look up users: /etc/passwd",
        ),
        (
            "ln -s /dev/zero etc/passwd",
            "error: the image has no user `ada`",
        ),
        (
            "ln -s /proc/self/root/etc/passwd etc/passwd",
            "error: the image has no user `ada`",
        ),
    ] {
        let made = Command::new("sh")
            .args(["-c", &format!("rm -f etc/passwd; {make}")])
            .current_dir(&root)
            .status();
        assert!(made.unwrap().success());
        let mut request = bench.shell("true");
        request.user = "ada".to_owned();
        let answer = bench.play(&request);
        assert!(answer.exit.starts_with(expected), "{make}: {answer:?}");
    }
}

fn a_working_directory_is_made_and_cannot_lead_outside(bench: &Bench) {
    let mut request = bench.shell("pwd; stat -c %u .");
    request.user = "ada".to_owned();
    request.workdir = "/srv/deep/er".to_owned();
    assert_eq!(bench.play(&request).output, "/srv/deep/er\n1000\n");
    for number in 3..16 {
        request.workdir = format!("/proc/self/fd/{number}");
        let answer = bench.play(&request);
        assert!(
            answer
                .exit
                .starts_with("error: cannot set up the container"),
            "{answer:?}"
        );
    }
    symlink("/proc/self/fd/4", bench.root().join("link")).unwrap();
    request.workdir = "/link".to_owned();
    assert!(bench.play(&request).exit.starts_with("error: "));
    request.workdir = "/../../home/../home/ada".to_owned();
    assert_eq!(
        bench.play(&request).output,
        "/home/ada\n1000\n".replace("1000", &owner_of_home(bench))
    );
}

fn owner_of_home(bench: &Bench) -> String {
    bench.output_of("stat -c %u /home/ada").trim().to_owned()
}

fn a_missing_command_is_127_and_one_that_cannot_run_is_126(bench: &Bench) {
    fs::write(bench.root().join("bin/text"), "no program\n").unwrap();
    fs::write(bench.root().join("bin/orphan"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(
        bench.root().join("bin/orphan"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    let mut request = bench.shell("");
    let mut exit = |program: &str| {
        request.argv = vec![program.to_owned()];
        bench.play(&request).exit
    };
    assert!(
        exit("nothing").starts_with("NotExecuted { status: 127, why: \"nothing: not found in PATH")
    );
    assert_eq!(
        exit("/no/such"),
        "NotExecuted { status: 127, why: \"/no/such: no such file\" }"
    );
    assert!(exit("orphan").contains("the interpreter or loader that it names does not exist"));
    assert!(exit("text").starts_with("NotExecuted { status: 126, why: \"text: permission denied"));
    assert_eq!(exit("true"), "status 0");
    assert_eq!(bench.play(&bench.shell("exit 42")).exit, "status 42");
    assert_eq!(
        bench.play(&bench.shell("sh -c 'kill -9 $$'; exit $?")).exit,
        "status 137"
    );
}

fn a_time_limit_ends_everything(bench: &Bench) {
    let mut request = bench.shell("trap '' TERM INT; sleep 1000 & echo started; sleep 1000");
    request.timeout_ms = Some(300);
    let started = Instant::now();
    let answer = bench.play(&request);
    assert_eq!(
        (answer.exit.as_str(), answer.output.as_str()),
        ("TimedOut { after_ms: 300 }", "started\n")
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

fn a_cancelled_step_ends_at_once(bench: &Bench) {
    let mut request = bench.shell("sleep 1000");
    request.cancel_after_ms = Some(200);
    let answer = bench.play(&request);
    assert_eq!(answer.exit, "Cancelled");
    assert!(answer.durations_us[0] < 2_000_000);
}

fn background_processes_do_not_hold_the_step_up(bench: &Bench) {
    let answer = bench.play(&bench.shell("(setsid sleep 1000 &) ; sleep 1000 & echo done"));
    assert_eq!(
        (answer.exit.as_str(), answer.output.as_str()),
        ("status 0", "done\n")
    );
    assert!(answer.durations_us[0] < 5_000_000);
}

fn lines_keep_their_streams(bench: &Bench) {
    let answer = bench.play(
        &bench.shell("echo one; echo two >&2; printf three; seq 1 20000 | tail -1; cat /dev/stdin"),
    );
    assert_eq!(
        (answer.output.as_str(), answer.errors.as_str()),
        ("one\nthree20000\n", "two\n")
    );
}

fn a_terminal_is_a_terminal(bench: &Bench) {
    let mut request = bench.shell(
        "tty; stty size; test -t 0 && test -t 2 && echo yes; (echo x > /dev/tty) && ls /dev/pts",
    );
    request.terminal = true;
    let answer = bench.play(&request);
    assert_eq!(
        answer.output, "/dev/pts/0\r\n33 77\r\nyes\r\nx\r\n0     ptmx\r\n",
        "{answer:?}"
    );
}

fn no_network_is_only_lo(bench: &Bench) {
    let script = "ls /sys/class/net; ping -c1 -W1 127.0.0.1 >/dev/null && echo alive; wc -c < /etc/resolv.conf";
    assert_eq!(bench.output_of(script), "lo\nalive\n0\n");
}

fn a_build_that_is_killed_leaves_nothing_behind(bench: &Bench) {
    let mark = format!("shmocker-mark-{}", std::process::id());
    let mut request = bench.shell(&format!(
        "trap '' TERM; (setsid sh -c 'sleep 1000; : {mark}' &); sleep 1000; : {mark}"
    ));
    request.timeout_ms = None;
    let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
    let before = mounts();
    for victim in ["driver", "shmocker-engine"] {
        let mut driver = bench
            .command(bench.user.as_deref(), &request)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let until = |what: &str, holds: &dyn Fn() -> bool, within: Duration| {
            let started = Instant::now();
            while !holds() {
                assert!(
                    started.elapsed() < within,
                    "{victim}: {what}: {:?}",
                    processes(&mark)
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        // Two shells of the step, beside the driver (and runuser) whose arguments hold the script too.
        let in_step = || {
            processes(&mark)
                .iter()
                .filter(|(_, line)| !line.contains("drive"))
                .count()
        };
        until(
            "the step starts",
            &|| in_step() == 2,
            Duration::from_secs(10),
        );
        let (ours, _) = processes(&mark)
            .into_iter()
            .rfind(|(_, line)| line.contains("drive") && !line.starts_with("runuser"))
            .unwrap();
        // Others may be building at the same time.
        let engine = processes("shmocker-engine").into_iter();
        let engine = engine.map(|(pid, _)| pid).find(|pid| parent(*pid) == ours);
        let engine = engine.unwrap();
        let pid = if victim == "driver" { ours } else { engine };
        assert!(
            Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
        until(
            "all is gone",
            &|| {
                let engines = processes("shmocker-engine");
                in_step() == 0 && engines.iter().all(|(pid, _)| *pid != engine)
            },
            Duration::from_secs(1),
        );
        driver.wait().unwrap();
        assert_eq!(mounts(), before);
    }
}

/// Who started a process: the fourth field of `/proc/PID/stat`, the second of which is a name in parentheses.
fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let parent = after_name.split_whitespace().nth(1);
    parent.and_then(|parent| parent.parse().ok()).unwrap_or(0)
}

/// Number and command line of every process whose command line contains the text.
fn processes(text: &str) -> Vec<(u32, String)> {
    let mut found: Vec<_> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(text) && pid != std::process::id()).then_some((pid, line))
        })
        .collect();
    found.sort_unstable();
    found
}

fn root_can_build_with_ids_of_its_own(bench: &Bench) {
    let chown = |owner: &str| {
        assert!(
            Command::new("chown")
                .args(["-R", owner])
                .arg(bench.root())
                .status()
                .unwrap()
                .success()
        )
    };
    chown("0");
    let mut request = bench.shell("id -u; touch /tmp/by-ada; stat -c %u /tmp/by-ada; head -2 /proc/self/uid_map | awk '{print $1, $3}'");
    request.user = "ada".to_owned();
    let answer = bench.play_as(None, &request);
    assert_eq!(answer.output, "1000\n1000\n0 1\n1 65535\n", "{answer:?}");
}

fn a_user_without_ids_is_told_what_to_type(bench: &Bench) {
    let mut request = bench.shell("true");
    request.single_id = false;
    let (answer, bare) = (bench.play(&request), bench.player());
    assert!(
        answer
            .exit
            .contains(&format!("user `{bare}` has no subordinate ids")),
        "{answer:?}"
    );
    assert!(
        answer.exit.contains("sudo usermod --add-subuids"),
        "{answer:?}"
    );
}

fn a_doctor_says_what_is_there_and_what_would_mend_the_rest(bench: &Bench) {
    let output = bench
        .program_as(bench.user.as_deref())
        .arg("doctor")
        .arg(bench.scratch())
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(
        found.starts_with("true [{\"check\":\"user-namespaces\",\"status\":\"ok\""),
        "{found}"
    );
    for check in [
        "subordinate-ids",
        "proc",
        "overlay",
        "private-network",
        "cgroup-delegation",
        "foreign-architectures",
    ] {
        assert!(
            found.contains(&format!("{{\"check\":\"{check}\",\"status\":\"")),
            "{check}: {found}"
        );
    }
    assert_eq!(
        found.contains("usermod --add-subuids") || found.contains("install uidmap"),
        bench.single_id,
        "{found}"
    );
}

fn a_private_network_has_a_way_out_but_none_to_the_hosts_loopback(bench: &Bench) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut request = bench.shell(&format!(
        "gateway=$(ip route | awk '/^default/ {{print $3}}'); ls /sys/class/net | wc -l
         for host in 127.0.0.1 $gateway 10.0.2.2 169.254.1.1 169.254.1.2; do timeout 2 nc -w 1 $host {port} </dev/null && echo $host reached; done; true"
    ));
    request.network = Network::Default;
    let answer = bench.play(&request);
    if !answer.warnings.is_empty() {
        skip(
            "private-network",
            "a_private_network_has_a_way_out_but_none_to_the_hosts_loopback",
            &answer.warnings.join(", "),
        );
        assert!(
            answer.warnings[0].starts_with("steps use the host's network"),
            "{answer:?}"
        );
        return;
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        listener.accept().map(|_| ()).unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
    assert_eq!(answer.output, "2\n", "{answer:?}");
}
