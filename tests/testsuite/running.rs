//! `habitat up`, `exec`, `stop`, `down`, `ps`: a habitat in the background, with what it mounts, what it keeps, and what is
//! left when a part of it is killed.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, need};
use crate::harness::processes::{self, wait_until};

/// A habitat that is up; taken down at the end of a test, also of one that fails.
pub(crate) struct Up<'b> {
    bench: &'b Bench,
    config: String,
}

impl<'b> Up<'b> {
    /// Starts it; the words after the first are further arguments.
    pub(crate) fn start(bench: &'b Bench, config: &str) -> Self {
        let up = Self {
            bench,
            config: config.split(' ').next().unwrap_or_default().to_owned(),
        };
        bench.ok(&format!("habitat up --progress quiet {config}"));
        up
    }

    pub(crate) fn down(self) {
        drop(self);
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let run = self
            .bench
            .shmocker(&format!("habitat down {}", self.config));
        if !std::thread::panicking() {
            assert_eq!(run.status, 0, "{}", run.both());
        }
    }
}

/// A habitat on busybox that runs until it is stopped.
fn habitat(name: &str, rest: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    bench.file(
        "config.yaml",
        format!(
            "name: sample\nbase:\n  oci: {}\nenv:\n  - USER=dev\n  - GREETING=hello world\n{rest}",
            busybox::layout()?.display()
        ),
    );
    Ok(bench)
}

/// A command of several words in it.
fn exec(bench: &Bench, flags: &str, script: &str) -> Run {
    let mut command = bench.shmocker_command(&format!("habitat exec {flags} config.yaml sh -c"));
    bench.finish(command.arg(script))
}

fn listed(bench: &Bench) -> Value {
    bench.ok("habitat ps --format json").json()
}

fn state(bench: &Bench) -> String {
    listed(bench)[0]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_habitat_goes_up_is_entered_stopped_started_again_and_taken_down() {
    let bench = need!(habitat(
        "up",
        "entry:\n  command: echo started >> ~/starts; exec sleep 100000\n"
    ));
    assert_eq!(listed(&bench), json!([]));
    let up = Up::start(&bench, "config.yaml");
    let first = &listed(&bench)[0];
    assert_eq!(first["name"], "sample");
    assert_eq!(first["state"], "running");
    assert_eq!(
        first["config"],
        bench.path("config.yaml").display().to_string()
    );
    assert_eq!(first["image"], "localhost/habitat/sample:latest");
    let id = first["id"].as_str().expect("an id").to_owned();
    let table = bench.ok("habitat ps").out();
    assert!(
        table.starts_with("HABITAT") && table.contains(&id) && table.contains("running"),
        "{table}"
    );
    assert_eq!(bench.ok("habitat ps -q").out(), format!("{id}\n"));
    // Once more is no harm.
    assert_eq!(
        bench.ok("habitat up --progress quiet config.yaml").out(),
        format!("{id}\n")
    );

    let said = exec(
        &bench,
        "",
        "id -un; pwd; echo $GREETING; cat ~/starts; hostname > ~/kept; grep -c volatile /proc/self/mountinfo",
    );
    // What programs sync in it is synced: its files stay.
    assert_eq!(
        (said.status, said.out().as_str()),
        (1, "dev\n/workspace\nhello world\nstarted\n0\n"),
        "{}",
        said.both()
    );

    let stopped = bench.ok("habitat stop config.yaml --format json").json();
    assert_eq!(
        (&stopped["id"], &stopped["state"]),
        (&json!(id), &json!("stopped"))
    );
    assert_eq!(state(&bench), "stopped");
    exec(&bench, "", "true").expect(125, &["is not up", "habitat up"]);
    assert_eq!(
        bench.ok("habitat stop config.yaml").status,
        0,
        "it is stopped already"
    );

    bench.ok("habitat up --progress quiet config.yaml");
    assert_eq!(
        exec(&bench, "", "cat ~/starts; wc -l < ~/kept").out(),
        "started\nstarted\n1\n"
    );

    let gone = bench
        .ok(&format!("habitat down {id} --time 5s --format json"))
        .json();
    assert_eq!(gone["id"], json!(id));
    assert_eq!(listed(&bench), json!([]));
    assert_eq!(
        bench.ok("habitat down config.yaml").out(),
        "",
        "nothing is there any more"
    );
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");

    bench.ok("habitat up --progress quiet config.yaml");
    assert_eq!(
        exec(&bench, "", "cat ~/starts; ls ~/kept 2>&1 | wc -l").out(),
        "started\n1\n",
        "what it wrote was dropped"
    );
    up.down();
    bench
        .shmocker("habitat stop nothing")
        .expect(1, &["neither a file nor a habitat"]);
}

#[test]
fn a_command_in_it_has_streams_a_user_variables_a_directory_and_a_status() {
    let bench = need!(habitat("up-exec", ""));
    let _up = Up::start(&bench, "config.yaml");
    assert_eq!(exec(&bench, "", "echo out; echo err >&2; exit 7").status, 7);
    let said = exec(
        &bench,
        "-u root -w /etc -e A=1 -e GREETING=bye",
        "id -u; pwd; echo $A $GREETING; touch /root/made; sed -n 's/^CapEff:.*\\(........\\)$/\\1/p; s/^Seccomp:[^0-9]*//p' /proc/self/status",
    );
    assert_eq!(
        said.out(),
        "0\n/etc\n1 bye\na80425fb\n2\n",
        "{}",
        said.both()
    );
    let said = exec(
        &bench,
        "",
        "sed -n 's/^CapEff:[^0-9]*//p' /proc/self/status; cat",
    );
    assert_eq!(
        said.out(),
        "0000000000000000\n",
        "without -i there is no input"
    );
    let shmocker = bench.shmocker_words();
    assert_eq!(
        bench
            .sh(&format!(
                "echo typed | {shmocker} habitat exec -i config.yaml cat"
            ))
            .out(),
        "typed\n"
    );
    bench
        .shmocker("habitat exec config.yaml nosuch")
        .expect(127, &["nosuch"]);
    bench
        .shmocker("habitat exec -u nobodyhere config.yaml true")
        .expect(125, &["no user `nobodyhere`"]);
    bench
        .shmocker("habitat exec -t config.yaml true")
        .expect(125, &["not a terminal"]);
    let on_terminal = bench.sh(&format!(
        "script -qec '{shmocker} habitat exec -i -t config.yaml sh -c \"test -t 0 && test -t 1 && tty && stty size\" 2>/dev/null' /dev/null"
    ));
    assert!(
        on_terminal.out().contains("/dev/pts/"),
        "{}",
        on_terminal.both()
    );
    // What a command leaves behind ends with the habitat.
    exec(&bench, "", "sleep 995 > /dev/null 2>&1 &");
    bench.ok("habitat stop --time 5s config.yaml");
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_mounted_workspace_can_be_written_on_both_sides() {
    let bench = need!(habitat(
        "up-volumes",
        "volumes:\n  - work:/workspace\n  - note.txt:/etc/note:ro\n  - ~/of-home:/home/dev/of-home\n"
    ));
    let home = bench.project().join("home").display().to_string();
    let bench = bench.env("HOME", &home);
    bench.sh("mkdir work home home/of-home; echo mine > work/theirs; echo noted > note.txt");
    let up = Up::start(&bench, "config.yaml");
    let said = exec(
        &bench,
        "",
        "cat theirs /etc/note; stat -c %U theirs; echo yours > ours; echo more >> theirs; touch ~/of-home/x; ls -d ~/of-home/x",
    );
    assert_eq!(
        said.out(),
        "mine\nnoted\ndev\n/home/dev/of-home/x\n",
        "{}",
        said.both()
    );
    assert_ne!(exec(&bench, "", "echo no > /etc/note").status, 0);
    assert_eq!(
        bench
            .sh("cat work/ours work/theirs; echo again >> work/ours; ls home/of-home")
            .out(),
        "yours\nmine\nmore\nx\n"
    );
    let made = std::fs::metadata(bench.path("work/ours")).expect("it was made");
    assert_eq!(
        made.uid(),
        bench.user().uid,
        "what is made inside belongs to the user"
    );
    let volumes = &listed(&bench)[0]["volumes"];
    assert_eq!(
        volumes[1],
        format!("{}:/etc/note:ro", bench.path("note.txt").display())
    );
    up.down();
    let labels = bench.ok("inspect localhost/habitat/sample:latest").out();
    assert!(
        !labels.contains("note.txt") && !labels.contains("Volumes"),
        "the image knows nothing of it: {labels}"
    );

    bench.sh("rm note.txt");
    bench
        .shmocker("habitat up --progress quiet config.yaml")
        .expect(1, &["note.txt` does not exist", "config.yaml:9"]);
}

#[test]
fn the_first_command_comes_before_the_other() {
    let bench = need!(habitat(
        "up-init",
        "entry:\n  init_command: echo ready > /tmp/ready; exec sleep 100000\n  startup_delay: 1\n  command: cat /tmp/ready > ~/seen; exec sleep 100000\n"
    ));
    let up = Up::start(&bench, "config.yaml");
    assert!(
        wait_until(Duration::from_secs(10), || exec(&bench, "", "cat ~/seen")
            .out()
            == "ready\n")
        .is_some()
    );
    up.down();

    bench.sh(
        "sed -i 's/  init_command: .*/  init_command: echo no licence >\\&2; exit 5/' config.yaml",
    );
    let run = bench.shmocker("habitat up --progress quiet config.yaml");
    run.expect(
        3,
        &[
            "no licence",
            "init_command ended with status 5",
            "status 1 before it was in order",
            "all that it printed is in",
        ],
    );
    assert_eq!(listed(&bench)[0]["state"], "stopped");
    bench.ok("habitat down config.yaml");
}

#[test]
fn a_service_that_cannot_be_used_keeps_it_from_starting() {
    let bench = need!(habitat(
        "up-service",
        "services:\n  - name: slow\n    timeout: 1s\n    command: echo looking for a disk; exec sleep 994\n    ready: test -e /never\n"
    ));
    bench
        .shmocker("habitat up --progress quiet config.yaml")
        .expect(
            3,
            &[
                "slow| looking for a disk",
                "service slow: could not be used within 1s",
            ],
        );
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");
    bench.ok("habitat down config.yaml");
}

#[test]
fn its_command_may_end_by_itself() {
    let bench = need!(habitat(
        "up-ends",
        "entry:\n  command: while [ ! -e /workspace/go ]; do sleep 0.05; done; exit 4\nvolumes: [work:/workspace]\n"
    ));
    bench.sh("mkdir work");
    let up = Up::start(&bench, "config.yaml");
    bench.sh("touch work/go");
    assert!(wait_until(Duration::from_secs(10), || state(&bench) == "stopped").is_some());
    assert_eq!(listed(&bench)[0]["exit_status"], 4);
    up.down();
}

/// The processes of the bench's store: the supervisor, and what it has started.
fn family(bench: &Bench) -> Vec<u32> {
    let attached = processes::attached_to(bench.store());
    attached
        .iter()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect()
}

#[test]
fn whatever_is_killed_nothing_is_left_and_what_was_written_stays() {
    let bench = need!(habitat("up-killed", ""));
    for victim in ["supervisor", "engine", "command"] {
        let up = Up::start(&bench, "config.yaml");
        exec(&bench, "", &format!("echo {victim} >> ~/kept"));
        let processes: Vec<(u32, String)> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let words = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
                Some((pid, words.replace('\0', " ")))
            })
            .collect();
        let attached = family(&bench);
        let is_named = |name: &str| {
            let wanted = format!("shmocker-{name} ");
            processes
                .iter()
                .filter(|(_, words)| words.starts_with(&wanted))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>()
        };
        // Of several that run beside each other in other tests, those of this store have its lock open.
        let store = bench.store().display().to_string();
        let holds = |pid: &u32| {
            std::fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten()
                .any(|fd| {
                    std::fs::read_link(fd.path())
                        .is_ok_and(|path| path.display().to_string().starts_with(&store))
                })
        };
        let supervisor = is_named("supervisor")
            .into_iter()
            .find(holds)
            .expect("a supervisor");
        let children = processes::family(supervisor);
        let pid = match victim {
            "supervisor" => supervisor,
            "engine" => is_named("engine")
                .into_iter()
                .find(|pid| children.iter().any(|child| child.pid() == *pid))
                .expect("an engine"),
            _ => children
                .iter()
                .find(|child| child.what().starts_with("/bin/sh"))
                .map(|child| child.pid())
                .expect("a command"),
        };
        bench.sh(&format!("kill -9 {pid}"));
        assert!(
            wait_until(Duration::from_secs(10), || children
                .iter()
                .all(|child| !processes::is_alive(child)))
            .is_some(),
            "{victim}: {children:?} {attached:?}"
        );
        let expected = if victim == "supervisor" {
            "killed"
        } else {
            "stopped"
        };
        assert!(
            wait_until(Duration::from_secs(5), || state(&bench) == expected).is_some(),
            "{victim}: {}",
            state(&bench)
        );
        bench.ok("habitat up --progress quiet config.yaml");
        assert_eq!(exec(&bench, "", "cat ~/kept").out(), format!("{victim}\n"));
        up.down();
    }
}

#[test]
fn a_changed_habitat_is_not_put_under_what_an_older_one_wrote() {
    let bench = need!(habitat("up-changed", ""));
    let up = Up::start(&bench, "config.yaml");
    exec(&bench, "", "echo old > ~/kept");
    bench.sh("sed -i 's/hello world/good bye/' config.yaml");
    bench
        .shmocker("habitat up --progress quiet config.yaml")
        .expect(1, &["from an older image", "--recreate"]);
    bench.ok("habitat stop config.yaml");
    bench
        .shmocker("habitat up --progress quiet config.yaml")
        .expect(1, &["fits only the old one", "habitat down"]);
    bench.ok("habitat up --progress quiet --recreate config.yaml");
    assert_eq!(exec(&bench, "", "echo $GREETING; ls ~").out(), "good bye\n");
    up.down();
    bench.sh("sed -i 's/good bye/later/' config.yaml");
    let old = Up::start(&bench, "config.yaml --no-build");
    assert_eq!(exec(&bench, "", "echo $GREETING").out(), "good bye\n");
    old.down();
}

/// Two of one name are two: each is known by its configuration.
#[test]
fn others_are_left_alone() {
    let bench = need!(habitat("up-others", ""));
    bench.sh("mkdir one two; cp config.yaml one; mv config.yaml two");
    let one = Up::start(&bench, "one");
    let two = Up::start(&bench, "two/config.yaml");
    bench
        .shmocker("habitat exec sample true")
        .expect(125, &["several habitats", "sample-"]);
    assert_eq!(bench.ok("habitat exec one echo here").out(), "here\n");
    one.down();
    assert_eq!(bench.ok("habitat exec sample echo there").out(), "there\n");
    bench
        .shmocker("store delete")
        .expect(4, &["runs", "habitat down"]);
    two.down();
}

#[test]
fn its_ports_can_be_published() {
    let bench = need!(habitat(
        "up-ports",
        "entry:\n  command: while :; do echo served | nc -l -p 7000; done\n"
    ));
    if !machine::on_path("pasta") && !machine::on_path("slirp4netns") {
        return machine::Capability::Tun
            .lack("neither pasta nor slirp4netns is installed")
            .skip();
    }
    let run = bench.shmocker("habitat up --progress quiet -p 127.0.0.1::7000 config.yaml");
    if run.status == 4 && run.stderr.contains("network of its own") {
        return machine::Capability::Tun
            .lack("no network of its own is to be had")
            .skip();
    }
    assert_eq!(run.status, 0, "{}", run.both());
    let up = Up {
        bench: &bench,
        config: "config.yaml".to_owned(),
    };
    let ports = listed(&bench)[0]["ports"][0]
        .as_str()
        .expect("a port")
        .to_owned();
    let port = ports.split(':').nth(1).expect("of the host").to_owned();
    let heard = wait_until(Duration::from_secs(10), || {
        use std::io::Read as _;
        let mut text = String::new();
        std::net::TcpStream::connect(format!("127.0.0.1:{port}"))
            .and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                stream.read_to_string(&mut text)
            })
            .is_ok_and(|_| text == "served\n")
    });
    assert!(heard.is_some(), "{ports}");
    up.down();
}

/// One that does not end when it is asked to is killed when its time is over.
#[test]
fn one_that_does_not_end_is_killed_in_time() {
    let bench = need!(habitat(
        "up-stubborn",
        "entry:\n  command: trap '' TERM; trap 'true' USR1; while :; do sleep 0.05; done\n"
    ));
    let up = Up::start(&bench, "config.yaml");
    let started = std::time::Instant::now();
    bench.ok("habitat stop --time 500ms config.yaml");
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    let left = processes::attached_to(bench.store());
    assert!(left.is_empty(), "{left:?}");
    up.down();
}

#[test]
fn the_entry_says_what_network_it_has() {
    let bench = need!(habitat(
        "up-network",
        "entry:\n  network: none\n  command: exec sleep 100000\n"
    ));
    let up = Up::start(&bench, "config.yaml");
    let interfaces = "cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | grep -v ifb";
    assert_eq!(exec(&bench, "", interfaces).out(), "lo\n");
    up.down();
    // `run` as well, unless somebody says otherwise.
    let run = |flags: &str| {
        let mut command = bench.shmocker_command(&format!(
            "run --rm {flags} localhost/habitat/sample:latest sh -c"
        ));
        bench.finish(command.arg(interfaces)).out()
    };
    assert_eq!(run(""), "lo\n");
    assert_ne!(run("--network host"), "");
    let host = Up::start(&bench, "config.yaml --network host");
    host.down();
    bench
        .shmocker("habitat up --progress quiet -p 80 config.yaml")
        .expect(2, &["--network none"]);
}

#[test]
fn the_entry_says_how_much_it_may_take() {
    let bench = need!(habitat(
        "up-limits",
        "entry:\n  limits: {memory: 64m, cpus: 1.5, pids: 50}\n  command: exec sleep 100000\n"
    ));
    bench.ok("habitat build --progress quiet config.yaml");
    let labels = &bench.ok("inspect localhost/habitat/sample:latest").json()["config"]["Labels"];
    assert_eq!(labels["io.shmocker.habitat.limits.memory"], "67108864");
    // Where no control groups are to be had, that is said, and is no reason to do without by itself.
    let run = bench.shmocker("habitat up --progress quiet config.yaml");
    if run.status == 0 {
        let said = exec(
            &bench,
            "",
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max",
        );
        assert_eq!(said.out(), "67108864\n50\n", "{}", said.both());
        bench.ok("habitat down config.yaml");
    } else {
        run.expect(4, &["--no-limits"]);
        bench
            .shmocker("run localhost/habitat/sample:latest true")
            .expect(125, &["--no-limits"]);
    }
    let up = Up::start(&bench, "config.yaml --no-limits");
    up.down();
    bench.ok("run --no-limits localhost/habitat/sample:latest true");
}
