//! `shmocker build`: Dockerfiles, their options and outputs, and which steps run again.

use serde_json::json;

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::http::{Pace, Server};
use crate::harness::layout::{Layout, digest_of};
use crate::harness::listing;
use crate::harness::machine::{self, need};

const THREE_STEPS: &str = "FROM base AS one\nRUN echo one > /one\nCOPY file.txt /file.txt\nRUN cat /file.txt /one > /both\n";

#[test]
fn a_build_without_a_name_prints_its_digest_alone() {
    let bench = Bench::new(&need!(machine::plain_user()), "digest");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN echo hello > /hello\n");

    let run = bench.ok(&format!("build {base} ."));

    let digest = run.out();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 72,
        "{}",
        run.both()
    );
}

#[test]
fn the_second_build_runs_nothing_and_names_the_same_image() {
    let bench = Bench::new(&need!(machine::plain_user()), "twice");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", THREE_STEPS)
        .file("file.txt", "content");

    let first = bench.built(&format!("build {base} ."));
    let second = bench.built(&format!("build {base} ."));

    assert_eq!((first.steps_run(), first.steps_cached()), (3, 0));
    assert_eq!((second.steps_run(), second.steps_cached()), (0, 3));
    assert_eq!(first.digest(), second.digest());
    assert_eq!(
        second
            .of_kind("step.done")
            .filter(|event| event["cached"] == true)
            .count(),
        3
    );
}

#[test]
fn a_changed_file_runs_its_copy_and_what_follows() {
    let bench = Bench::new(&need!(machine::plain_user()), "changed-file");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", THREE_STEPS)
        .file("file.txt", "content");
    bench.built(&format!("build {base} ."));

    bench.file("file.txt", "another");
    let build = bench.built(&format!("build {base} -o type=tar,dest=out.tar ."));

    assert_eq!((build.steps_run(), build.steps_cached()), (2, 1));
    let tree = listing::entries(&std::fs::read(bench.path("out.tar")).expect("out.tar"));
    assert!(tree.contains_key("both"));
    assert_eq!(
        bench
            .sh("tar -xOf out.tar both 2>/dev/null || tar -xOf out.tar ./both")
            .out(),
        "anotherone\n"
    );
}

/// Content decides, not what stat says: the same size and the same time stamp hide nothing.
#[test]
fn an_edit_that_keeps_size_and_mtime_is_noticed() {
    let bench = Bench::new(&need!(machine::plain_user()), "same-mtime");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", THREE_STEPS)
        .file("file.txt", "content");
    bench.built(&format!("build {base} ."));
    // Old enough that nobody could call the file freshly written.
    bench.sh("touch -d '2020-01-01 00:00:00' file.txt");
    assert_eq!(bench.built(&format!("build {base} .")).steps_run(), 0);

    bench.sh("printf CONTENT > file.txt; touch -d '2020-01-01 00:00:00' file.txt");
    let build = bench.built(&format!("build {base} ."));

    assert_eq!(build.steps_run(), 2, "{:?}", build.executed());
}

#[test]
fn what_the_ignore_file_hides_is_neither_copied_nor_part_of_the_key() {
    let bench = Bench::new(&need!(machine::plain_user()), "ignore");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", "FROM base\nCOPY . /all/\n")
        .file(
            ".dockerignore",
            "*.log\n!keep.log\nDockerfile\n.dockerignore\nout\n",
        )
        .file("a.txt", "a")
        .file("b.log", "b")
        .file("keep.log", "k");
    bench.built(&format!("build {base} -o type=local,dest=out ."));
    assert_eq!(bench.sh("ls -A out/all").out(), "a.txt\nkeep.log\n");

    bench.file("b.log", "changed");
    assert_eq!(bench.built(&format!("build {base} .")).steps_run(), 0);
}

#[test]
fn only_the_stages_that_the_target_needs_are_built() {
    let bench = Bench::new(&need!(machine::plain_user()), "target");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS a\nRUN echo a > /a\nFROM base AS unused\nRUN exit 1\nFROM base AS c\nCOPY --from=a /a /a\nFROM c AS d\nRUN exit 1\n",
    );

    let build = bench.built(&format!("build {base} --target c ."));

    assert_eq!(build.stages_executed(), ["a", "c"]);
    assert_eq!(build.all[0]["target"], json!("c"));
}

#[test]
fn arguments_labels_and_environment_reach_the_image() {
    let bench = Bench::new(&need!(machine::plain_user()), "config");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nARG WHAT=nothing\nENV SAID=$WHAT A=\"b c\"\nRUN echo $WHAT > /what\nWORKDIR /here\nUSER nobody\nLABEL in.file=yes\n\
         EXPOSE 80/tcp\nVOLUME /data\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=3s CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\n\
         ENTRYPOINT [\"/bin/echo\"]\nCMD [\"hello\"]\n",
    );

    bench.ok(&format!(
        "build {base} --build-arg WHAT=something --label on.line=too -o type=oci,dest=out.tar ."
    ));

    let image = Layout::read(&bench.path("out.tar"));
    let config = image.config();
    let run = &config["config"];
    assert_eq!(
        run["Env"].as_array().expect("an environment")[1..],
        [json!("SAID=something"), json!("A=b c")]
    );
    assert_eq!(run["WorkingDir"], "/here");
    assert_eq!(run["User"], "nobody");
    assert_eq!(run["Labels"], json!({"in.file": "yes", "on.line": "too"}));
    assert_eq!(run["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(run["Volumes"], json!({"/data": {}}));
    assert_eq!(run["StopSignal"], "SIGINT");
    assert_eq!(
        run["Healthcheck"],
        json!({"Test": ["CMD-SHELL", "true"], "Interval": 3_000_000_000_u64})
    );
    assert_eq!(run["Shell"], json!(["/bin/sh", "-ec"]));
    assert_eq!(run["Entrypoint"], json!(["/bin/echo"]));
    assert_eq!(run["Cmd"], json!(["hello"]));
    let layers = config["history"]
        .as_array()
        .expect("a history")
        .iter()
        .filter(|entry| entry["empty_layer"] != json!(true))
        .count();
    assert_eq!(
        layers,
        image.layer_digests().len(),
        "the history explains every layer"
    );
}

#[test]
fn every_output_holds_the_same_tree() {
    let bench = Bench::new(&need!(machine::plain_user()), "outputs");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN mkdir -m 1777 /d && echo x > /d/x && ln /d/x /d/y && ln -s x /d/z && chown 7:8 /d/x\n");
    bench.ok(&format!(
        "build {base} -t named:1 -o type=oci,dest=oci.tar ."
    ));
    let image = Layout::read(&bench.path("oci.tar"));
    let expected = listing::with_links_resolved(&listing::tree(&image));

    bench.ok(&format!("build {base} -o type=tar,dest=tree.tar ."));
    let tar = listing::entries(&std::fs::read(bench.path("tree.tar")).expect("tree.tar"));
    listing::assert_same("oci", &expected, "tar", &listing::with_links_resolved(&tar));

    let piped = bench.ok(&format!("build {base} -o type=oci,dest=- ."));
    assert_eq!(Layout::of_archive(&piped.stdout).digest(), image.digest());

    let piped = bench.ok(&format!("build {base} -o type=docker,dest=- ."));
    let mut archive = tar::Archive::new(piped.stdout.as_slice());
    let names: Vec<String> = archive
        .entries()
        .expect("a tar")
        .map(|entry| {
            entry
                .expect("an entry")
                .path()
                .expect("a path")
                .display()
                .to_string()
        })
        .collect();
    assert!(
        names.iter().any(|name| name == "manifest.json"),
        "{names:?}"
    );

    bench.ok(&format!(
        "build {base} -o type=oci,dest=zstd.tar,compression=zstd ."
    ));
    let zstd = Layout::read(&bench.path("zstd.tar"));
    let media_types: Vec<_> = zstd.manifest()["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer["mediaType"].clone())
        .collect();
    assert_eq!(
        media_types.last(),
        Some(&json!("application/vnd.oci.image.layer.v1.tar+zstd"))
    );
    listing::assert_same(
        "gzip",
        &listing::tree(&image),
        "zstd",
        &listing::tree(&zstd),
    );

    bench.ok(&format!("build {base} -o type=local,dest=tree ."));
    assert_eq!(
        bench
            .sh("cat tree/d/y; readlink tree/d/z; stat -c %a tree/d")
            .out(),
        "x\nx\n1777\n"
    );
}

#[test]
fn digests_are_written_where_scripts_look_for_them() {
    let bench = Bench::new(&need!(machine::plain_user()), "metadata");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN true > /x\n");

    let build = bench.built(&format!(
        "build {base} -t some/name:tag --iidfile iid --metadata-file metadata.json ."
    ));

    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bench.path("metadata.json")).expect("metadata.json"))
            .expect("JSON");
    assert_eq!(metadata["containerimage.digest"], json!(build.digest()));
    assert_eq!(
        metadata["containerimage.config.digest"],
        build.done()["config_digest"]
    );
    assert_eq!(
        metadata["containerimage.descriptor"]["digest"],
        json!(build.digest())
    );
    assert!(
        metadata["image.name"]
            .as_str()
            .is_some_and(|name| name.ends_with("some/name:tag")),
        "{metadata}"
    );
    let iid = std::fs::read_to_string(bench.path("iid")).expect("iid");
    assert_eq!(
        iid.trim(),
        build.done()["config_digest"].as_str().expect("a config")
    );

    let quiet = bench.ok(&format!("build {base} -q ."));
    assert_eq!(
        (quiet.out().trim(), quiet.stderr.as_str()),
        (build.digest().as_str(), "")
    );
}

#[test]
fn the_same_input_gives_the_same_digest_from_two_empty_stores() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let digests: Vec<(String, Vec<String>)> = ["first", "second"]
        .iter()
        .map(|name| {
            let bench = Bench::new(&user, name).env("SOURCE_DATE_EPOCH", "1700000000");
            bench
                .file("Dockerfile", "FROM base\nRUN for i in c a b; do echo $i > /$i; done; adduser -D me\nCOPY --chown=me file /home/me/\n")
                .file("file", "content");
            bench.ok(&format!("build {base} -o type=oci,dest=out.tar,rewrite-timestamp=true ."));
            let image = Layout::read(&bench.path("out.tar"));
            (image.digest(), image.layer_digests())
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn mounts_are_there_while_a_step_runs_and_leave_nothing() {
    let bench = Bench::new(&need!(machine::plain_user()), "mounts");
    let base = need!(busybox::context());
    bench
        .file(
            "Dockerfile",
            "FROM base AS other\nRUN echo other > /other\nFROM base\n\
             RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/other,target=/o cat /ctx/file /o > /bound\n\
             RUN --mount=type=cache,target=/cache echo line >> /cache/lines; cp /cache/lines /lines\n\
             RUN --mount=type=tmpfs,target=/t grep ' /t ' /proc/mounts | cut -d' ' -f3 > /fs && echo x > /t/x\n\
             RUN --mount=type=secret,id=key cat /run/secrets/key | wc -c > /length\n\
             RUN --network=none wc -l < /proc/net/route > /routes\n",
        )
        .file("file", "bound\n")
        // A bind mount of the context brings the context into the store.
        .file(".dockerignore", "secret.txt\n")
        .file("secret.txt", "very secret");

    bench.ok(&format!(
        "build {base} --secret id=key,src=secret.txt -o type=local,dest=out ."
    ));

    assert_eq!(
        bench.sh("cat out/bound out/fs out/length out/routes").out(),
        "bound\nother\ntmpfs\n11\n1\n"
    );
    assert_eq!(bench.sh("ls -A out/ctx out/cache out/t out/run/secrets 2>/dev/null | grep -v : | grep . || echo none").out(), "none\n");
    // What a secret said is nowhere in the store.
    assert_eq!(
        bench
            .sh(&format!(
                "grep -r 'very secret' {} || echo none",
                bench.store().display()
            ))
            .out(),
        "none\n"
    );

    // A cache outlives the step, and is no part of its key.
    bench.file("Dockerfile", "FROM base\nRUN --mount=type=cache,target=/cache echo more >> /cache/lines; cp /cache/lines /lines\n");
    bench.ok(&format!("build {base} -o type=local,dest=again ."));
    assert_eq!(bench.sh("cat again/lines").out(), "line\nmore\n");
}

#[test]
fn a_download_is_fetched_once_and_checked() {
    let bench = Bench::new(&need!(machine::plain_user()), "download");
    let base = need!(busybox::context());
    let server = Server::new(b"from afar".to_vec(), Pace::AtOnce);
    let dockerfile = |sum: &str| {
        format!(
            "FROM base\nADD --checksum={sum} {} /got\n",
            server.url("file.bin")
        )
    };
    bench.file("Dockerfile", dockerfile(&digest_of(b"from afar")));

    bench.ok(&format!("build {base} -o type=local,dest=out ."));
    assert_eq!(
        bench.sh("cat out/got; stat -c %a out/got").out(),
        "from afar600\n"
    );
    let asked = server.requests();
    assert_eq!(bench.built(&format!("build {base} .")).steps_run(), 0);
    assert_eq!(
        server.requests(),
        asked,
        "what is pinned by its digest is not asked for again"
    );

    bench.file("Dockerfile", dockerfile(&digest_of(b"something else")));
    let run = bench.shmocker(&format!("build {base} ."));
    assert!([5, 6].contains(&run.status), "{}", run.both());
    assert!(
        run.stderr.contains(&digest_of(b"from afar")[7..19]),
        "{}",
        run.both()
    );
}

#[test]
fn no_cache_runs_everything_or_the_stages_that_are_named() {
    let bench = Bench::new(&need!(machine::plain_user()), "no-cache");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base AS a\nRUN echo a > /a\nFROM base AS b\nRUN echo b > /b\nFROM base AS c\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n",
    );
    bench.built(&format!("build {base} ."));

    assert_eq!(
        bench
            .built(&format!("build {base} --no-cache ."))
            .steps_run(),
        4
    );
    let filtered = bench.built(&format!("build {base} --no-cache-filter b ."));
    assert!(
        filtered
            .executed()
            .iter()
            .any(|step| step.starts_with("b: ")),
        "{:?}",
        filtered.executed()
    );
    assert!(
        !filtered
            .executed()
            .iter()
            .any(|step| step.starts_with("a: ")),
        "{:?}",
        filtered.executed()
    );
}

#[test]
fn a_dockerfile_may_lie_elsewhere_and_come_from_standard_input() {
    use std::io::Write as _;
    let bench = Bench::new(&need!(machine::plain_user()), "stdin");
    let base = need!(busybox::context());
    bench
        .file("else/where.Dockerfile", "FROM base\nCOPY file /file\n")
        .file("context/file", "x");

    let from_file = bench
        .ok(&format!("build {base} -f else/where.Dockerfile context"))
        .out();

    let mut child = bench
        .shmocker_command(&format!("build {base} -f - context"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("shmocker can be started");
    child
        .stdin
        .take()
        .expect("it is piped")
        .write_all(b"FROM base\nCOPY file /file\n")
        .expect("shmocker reads");
    let output = child.wait_with_output().expect("shmocker ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), from_file);
}

#[test]
fn progress_has_the_form_that_was_asked_for() {
    let bench = Bench::new(&need!(machine::plain_user()), "progress");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN echo hello from the step\n");

    let plain = bench.ok(&format!("build {base} --progress plain ."));
    assert!(
        plain.stderr.contains("hello from the step") && !plain.stderr.contains('\u{1b}'),
        "{}",
        plain.both()
    );
    let quiet = bench.ok(&format!("build {base} --no-cache --progress quiet ."));
    assert_eq!(quiet.stderr, "");

    let by_variable =
        Bench::new(bench.user(), "progress-variable").env("BUILDKIT_PROGRESS", "quiet");
    by_variable.file("Dockerfile", "FROM base\nRUN echo hello\n");
    assert_eq!(by_variable.ok(&format!("build {base} .")).stderr, "");

    let events = bench.built(&format!("build {base} --no-cache ."));
    assert_eq!(events.log(), "hello from the step\n");
    assert_eq!(
        events.run.stderr.lines().count(),
        events.all.len(),
        "every line is an event"
    );
    let mut last = 0;
    for event in &events.all {
        assert_eq!(event["v"], 1, "{event}");
        let now = event["time_ms"]
            .as_u64()
            .unwrap_or_else(|| panic!("no time: {event}"));
        assert!(now >= last, "time runs backwards: {event}");
        last = now;
    }
    let step = events.of_kind("step.started").next().expect("a step");
    assert_eq!(
        [&step["stage"], &step["name"], &step["line"], &step["file"]],
        [
            &json!("0"),
            &json!("RUN echo hello from the step"),
            &json!(2),
            &json!("Dockerfile")
        ]
    );
}

#[test]
fn an_image_of_the_store_is_a_base() {
    let bench = Bench::new(&need!(machine::plain_user()), "stored-base");
    let base = need!(busybox::context());
    bench
        .file(
            "Dockerfile",
            "FROM base\nRUN echo below > /below\nENV A=1\n",
        )
        .file(
            "Dockerfile.above",
            "FROM localhost/below:1\nRUN echo $A > /above\n",
        );
    bench.ok(&format!("build {base} -t localhost/below:1 ."));

    bench.ok("build -f Dockerfile.above -o type=local,dest=out .");

    assert_eq!(bench.sh("cat out/below out/above").out(), "below\n1\n");
}

/// What a server said is remembered for as long as was asked for; `--pull` asks now, `--offline` never.
#[test]
fn a_remembered_answer_serves_as_long_as_it_may() {
    let bench = Bench::new(&need!(machine::plain_user()), "refresh");
    let base = need!(busybox::context());
    let server = Server::new(b"from afar".to_vec(), Pace::AtOnce);
    bench.file(
        "Dockerfile",
        format!("FROM base\nADD {} /got\n", server.url("file.bin")),
    );
    bench.built(&format!("build {base} ."));
    let asked = server.requests();

    let build = bench.built(&format!("build {base} --offline ."));
    assert_eq!((build.steps_run(), server.requests()), (0, asked));
    for flag in ["--pull", "--refresh 0s"] {
        let before = server.requests();
        let build = bench.built(&format!("build {base} {flag} ."));
        assert!(server.requests() > before, "{flag} did not ask");
        assert_eq!(build.steps_run(), 0, "the same answer is the same input");
    }
    // What was never asked cannot be remembered.
    bench.file(
        "Dockerfile",
        format!("FROM base\nADD {} /got\n", server.url("other.bin")),
    );
    bench
        .shmocker(&format!("build {base} --offline ."))
        .expect(5, &["other.bin", "offline"]);
}

#[test]
fn a_stage_can_be_for_another_platform() {
    let bench = Bench::new(&need!(machine::plain_user()), "other-platform");
    bench
        .file("base/Dockerfile", "FROM scratch\nCOPY file /\n")
        .file("base/file", "from the base\n")
        .file(
            "Dockerfile",
            "FROM --platform=linux/s390x localhost/base AS s390x\nFROM scratch\nCOPY --from=s390x /file /\n",
        );
    bench.built("build -t localhost/base base");
    let events = bench.built("build -o type=local,dest=out .");
    let warned = events
        .of_kind("warning")
        .any(|warning| warning["code"] == "InvalidBaseImagePlatform");
    assert!(warned, "{}", events.run.both());
    let copied = std::fs::read_to_string(bench.path("out/file")).expect("it is copied");
    assert_eq!(copied, "from the base\n");
}
