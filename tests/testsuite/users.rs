//! Who may build what, and the commands around it; `owners` has users without ranges.

use serde_json::json;

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};

#[test]
fn doctor_knows_what_this_machine_offers() {
    let bench = Bench::new(&need!(machine::plain_user()), "doctor");
    let checks = bench.ok("doctor --format json").json();
    for check in checks.as_array().expect("an array") {
        for field in ["check", "status", "detail", "fix"] {
            assert!(check.get(field).is_some(), "no {field} in {check}");
        }
        assert!(
            ["ok", "degraded", "missing"]
                .iter()
                .any(|status| check["status"] == *status),
            "{check}"
        );
    }
    assert!(bench.ok("doctor").out().contains("namespaces"));
    let profile = bench.ok("doctor --apparmor-profile").out();
    assert!(
        profile.contains("userns,") && profile.contains("profile shmocker"),
        "{profile}"
    );

    let bare = Bench::new(&need!(machine::bare_user()), "doctor-bare");
    let run = bare.shmocker("doctor");
    assert_eq!(run.status, 0, "{}", run.both());
    let said = run.out();
    assert!(said.contains("usermod --add-subuids"), "{}", run.both());
    assert!(said.contains("written down"), "{}", run.both());
}

#[test]
fn unshare_shows_the_ids_of_a_build() {
    let bench = Bench::new(&need!(machine::plain_user()), "unshare");
    let run = bench.ok("unshare id -u");
    assert_eq!(run.out(), "0\n");
    assert_eq!(bench.shmocker("unshare false").status, 1);
    need!(machine::all_ids());
    bench.ok("unshare chown 5:6 .");
    assert_eq!(bench.ok("unshare stat -c %u:%g .").out(), "5:6\n");
    bench.ok("unshare chown 0:0 .");
}

#[test]
fn store_delete_takes_everything_away() {
    let bench = Bench::new(&need!(machine::plain_user()), "delete");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN mkdir -m 700 /deep && touch /deep/x && chown -R 33:33 /deep\n",
    );
    bench.ok(&format!("build {base} -t mine ."));

    bench.ok("store delete");

    let left = bench.sh(&format!(
        "find {} -mindepth 1 2>/dev/null | head",
        bench.store().display()
    ));
    assert_eq!(left.out(), "");
}

#[test]
fn images_are_listed_inspected_and_removed() {
    let bench = Bench::new(&need!(machine::plain_user()), "images");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nLABEL a=b\nRUN true > /x\n");
    let build = bench.built(&format!("build {base} -t mine:1 ."));

    let images = bench.ok("images --format json").json();
    let image = &images.as_array().expect("an array")[0];
    assert!(
        image["name"]
            .as_str()
            .is_some_and(|name| name.ends_with("mine:1")),
        "{image}"
    );
    assert_eq!(image["digest"], json!(build.digest()));
    assert!(
        image["size_bytes"].as_u64().is_some_and(|size| size > 0),
        "{image}"
    );
    assert_eq!(
        bench.ok("image ls --format json").out(),
        bench.ok("images --format json").out()
    );
    assert!(bench.ok("images").out().contains("mine"));

    let inspected = bench.ok("inspect mine:1").json();
    assert_eq!(inspected["config"]["Labels"], json!({"a": "b"}));
    assert_eq!(inspected["digest"], json!(build.digest()));
    assert_eq!(inspected["layers"].as_array().map(Vec::len), Some(2));
    assert!(inspected["history"].is_array());

    bench.ok("rmi mine:1");
    assert_eq!(bench.ok("images --format json").json(), json!([]));
    assert_ne!(bench.shmocker("inspect mine:1").status, 0);
    assert_ne!(bench.shmocker("image rm mine:1").status, 0);
}

#[test]
fn run_passes_the_commands_own_status_and_streams() {
    let bench = Bench::new(&need!(machine::plain_user()), "run");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN adduser -D -u 1234 me && mkdir /here && chown me /here\nUSER me\nWORKDIR /here\nENV A=image\nCMD [\"echo\", \"hello\"]\n");
    bench.ok(&format!("build {base} -t mine ."));

    assert_eq!(bench.ok("run --rm mine").out(), "hello\n");
    assert_eq!(bench.ok("run mine id -un").out(), "me\n");
    assert_eq!(bench.ok("run -u 0 -w /tmp mine pwd").out(), "/tmp\n");
    assert_eq!(
        bench
            .ok("run -e A=line --entrypoint /bin/sh mine -c set")
            .out()
            .lines()
            .find(|line| line.starts_with("A=")),
        Some("A='line'")
    );
    assert_eq!(bench.shmocker("run mine false").status, 1);
    assert_eq!(
        bench
            .shmocker("run --entrypoint /bin/sh mine /dev/null/no")
            .status,
        2
    );
    assert_eq!(bench.shmocker("run mine no-such-command").status, 127);
    assert_eq!(bench.shmocker("run mine /etc/passwd").status, 126);
    assert_eq!(bench.shmocker("run no-such-image true").status, 125);

    // What it writes is gone with it; the image is as it was.
    bench.ok("run mine touch /here/left");
    assert_eq!(bench.ok("run mine ls /here").out(), "");
}

#[test]
fn what_run_mounts_belongs_to_the_images_user_inside_and_to_the_caller_outside() {
    let bench = Bench::new(&need!(machine::plain_user()), "run-volume");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN adduser -D -u 1234 me\nUSER me\n",
    );
    bench.ok(&format!("build {base} -t mine ."));
    bench.file("shared/from-host", "h\n");
    bench.ok(&format!(
        "run -v {}:/mnt mine cp /mnt/from-host /mnt/from-inside",
        bench.path("shared").display()
    ));
    assert_eq!(
        bench
            .ok(&format!(
                "run -v {}:/mnt:ro mine stat -c %U /mnt/from-inside",
                bench.path("shared").display()
            ))
            .out(),
        "me\n"
    );
    assert_eq!(
        bench
            .sh("stat -c %u shared/from-inside; id -u")
            .out()
            .lines()
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        1
    );
}

/// The image of a run with volumes is a copy in which the caller's own id is the image's user.
#[test]
fn what_is_mounted_for_a_user_of_the_image_leaves_the_image_as_it_is() {
    let bench = Bench::new(&need!(machine::plain_user()), "run-shifted");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN adduser -D -u 1234 me && mkdir -m 2750 /of-others && chown 33:1234 /of-others && touch /one && \
         ln /one /two && chown 7:8 /one && cp /bin/busybox /set-id && chown 0:1234 /set-id && chmod 6750 /set-id && \
         ln -s one /link && chown -h 9:10 /link && touch -d '2001-02-03 04:05:06' /one\nUSER me\n",
    );
    bench.ok(&format!("build {base} -t mine ."));
    let look = "stat -c %n:%u:%g:%a:%h:%Y /of-others /one /two /set-id /link /etc/passwd /home/me";
    bench.file("shared/x", "");
    let volume = format!("-v {}:/mnt", bench.path("shared").display());

    let as_it_is = bench.ok(&format!("run --network none mine {look}")).out();
    let first = bench.ok(&format!("run --network none {volume} mine {look}"));
    let second = bench.ok(&format!("run --network none {volume} mine {look}"));

    // Directories of an overlay have one link, others more.
    let without_links = |text: &str| text.replace(":2:", ":1:").replace(":3:", ":1:");
    assert_eq!(without_links(&first.out()), without_links(&as_it_is));
    assert_eq!(first.out(), second.out());
    // With a single id there is nothing to shift.
    let is_copied = machine::all_ids().is_ok();
    assert_eq!(
        first.both().contains("copied once"),
        is_copied,
        "{}",
        first.both()
    );
    assert!(!second.both().contains("copied once"), "{}", second.both());
    let interfaces = "ls /sys/class/net";
    assert_eq!(
        bench
            .ok(&format!("run --network none {volume} mine {interfaces}"))
            .out(),
        "lo\n"
    );
    // For root nothing is shifted: it is the caller.
    let root = bench.ok(&format!(
        "run --network none -u 0 {volume} mine stat -c %u /mnt/x"
    ));
    assert_eq!(root.out(), "0\n");
}

#[test]
fn a_port_that_cannot_be_published_as_asked_is_refused() {
    let bench = Bench::new(&need!(machine::plain_user()), "run-ports");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\n");
    bench.ok(&format!("build {base} -t mine ."));

    bench.ok("run --network host -p 18080:18080 mine true");
    for (flags, said) in [
        ("--network host -p 18080:80", "--network host"),
        ("--network host -p 127.0.0.1:80:80", "--network host"),
        ("--network none -p 80", "--network none"),
        ("-p 80/sctp", "neither tcp nor udp"),
        ("-p 65536:80", "is no port"),
    ] {
        let run = bench.shmocker(&format!("run {flags} mine true"));
        assert_ne!(run.status, 0, "{flags}: {}", run.both());
        assert!(run.both().contains(said), "{flags}: {}", run.both());
    }
}

#[test]
fn run_keeps_standard_input_open_and_gives_a_terminal() {
    let bench = Bench::new(&need!(machine::plain_user()), "run-terminal");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\n");
    bench.ok(&format!("build {base} -t mine ."));
    let shmocker = bench.shmocker_words();

    assert_eq!(
        bench
            .sh(&format!("echo hello | {shmocker} run -i mine cat"))
            .out(),
        "hello\n"
    );
    assert_eq!(
        bench
            .sh(&format!("echo hello | {shmocker} run mine cat"))
            .out(),
        ""
    );
    let on_terminal = bench.sh(&format!("script -qec '{shmocker} run -i -t mine sh -c \"test -t 0 && test -t 1 && stty size\" 2>/dev/null' /dev/null"));
    // `script` has nothing to read itself; the terminal may echo the end of its input.
    let size = on_terminal.out().replace("^@", "");
    let mut words = size.split_whitespace();
    for _ in 0..2 {
        let word = words.next().unwrap_or_default();
        assert!(word.parse::<u16>().is_ok(), "{}", on_terminal.both());
    }
}

/// What a base tells its users to run is run, in their build.
#[test]
fn a_bases_onbuild_is_run_by_who_builds_on_it() {
    let bench = Bench::new(&need!(machine::plain_user()), "onbuild");
    let base = need!(busybox::context());
    bench
        .file(
            "Dockerfile",
            "FROM base\nONBUILD RUN echo triggered > /triggered\n",
        )
        .file("Dockerfile.above", "FROM localhost/onbuild:1\n");
    bench.ok(&format!("build {base} -t localhost/onbuild:1 ."));
    let run = bench.shmocker("build -f Dockerfile.above -o type=local,dest=out .");
    if run.status == 0 {
        assert_eq!(bench.sh("cat out/triggered").out(), "triggered\n");
    } else {
        run.expect(1, &["ONBUILD"]);
    }
}
