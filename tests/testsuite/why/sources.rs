//! What comes from outside and is another thing now: bases, repositories, tools.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{causes, in_state, sample, why};
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};
use crate::harness::site::Site;

#[test]
fn a_base_that_is_another_one_changes_the_base_phase() {
    let bench = need!(sample("why-base"));
    let base = need!(busybox::context());
    bench
        .file("one/Dockerfile", "FROM base\nLABEL a=1\n")
        .file("two/Dockerfile", "FROM base\nRUN echo two > /two\n");
    bench.ok(&format!("build {base} -t localhost/one one"));
    bench.ok(&format!(
        "build {base} -o type=oci,tar=false,dest=two.layout two"
    ));
    let config = |base: &str| {
        bench.file(
            "config.yaml",
            format!("name: s\n{base}\nscripts:\n  - commands: echo a > /a\n"),
        );
    };
    config("base: {oci: two.layout}");
    bench.built("habitat build config.yaml");
    assert_eq!(why(&bench)["would_rebuild"], false);

    // The same image elsewhere is the same base.
    bench.sh("cp -a two.layout three.layout");
    config("base: {oci: three.layout}");
    assert_eq!(why(&bench)["would_rebuild"], false);

    bench.ok(&format!(
        "build {base} -o type=oci,tar=false,dest=four.layout one"
    ));
    config("base: {oci: four.layout}");
    let answer = why(&bench);
    assert!(in_state(&answer, "changed").contains("base"), "{answer:#}");
    let oci = causes(&answer, "base")
        .into_iter()
        .find(|cause| cause["field"] == "base.oci");
    let oci = oci.expect("the key is named");
    assert_eq!(
        (&oci["old"], &oci["new"]),
        (&Value::from("two.layout"), &Value::from("four.layout"))
    );

    config("base_image: localhost/one:latest");
    let answer = why(&bench);
    assert!(in_state(&answer, "changed").contains("base"), "{answer:#}");
    let image = causes(&answer, "base")
        .into_iter()
        .find(|cause| cause["field"] == "base_image");
    assert_eq!(
        image.expect("the key is named")["new"],
        "localhost/one:latest"
    );
    bench.built("habitat build config.yaml");

    // An image that has the same name and is another one.
    bench.sh("echo 'LABEL a=2' >> one/Dockerfile");
    bench.ok(&format!("build {base} -t localhost/one one"));
    let answer = why(&bench);
    let digest = causes(&answer, "base")
        .into_iter()
        .find(|cause| cause["field"] == "base_image.digest");
    assert!(digest.is_some(), "{answer:#}");
}

#[test]
fn a_base_from_a_dockerfile_is_told_by_its_keys() {
    let bench = need!(sample("why-base-dockerfile"));
    let base = need!(busybox::context());
    bench
        .file("one/Dockerfile", "FROM base\n")
        .file(
            "base/Dockerfile",
            "FROM localhost/one AS first\nARG LEVEL=1\nRUN echo $LEVEL > /level\nFROM first AS second\nRUN echo 2 > /2\n",
        )
        .file("base/Other", "FROM localhost/one\nRUN echo other > /other\n");
    bench.ok(&format!("build {base} -t localhost/one one"));
    let config = |base: &str| {
        bench.file("config.yaml", format!("name: s\n{base}\n"));
    };
    let before = "base: {dockerfile: base/Dockerfile, target: first, args: {LEVEL: 2}}";
    config(before);
    bench.built("habitat build config.yaml");
    assert_eq!(why(&bench)["would_rebuild"], false);
    for (from, to, field, old, new) in [
        ("LEVEL: 2", "LEVEL: 3", "base.args.LEVEL", "2", "3"),
        (
            "target: first",
            "target: second",
            "base.target",
            "first",
            "second",
        ),
        (
            "base/Dockerfile, target: first, args: {LEVEL: 2}",
            "base/Other",
            "base.dockerfile",
            "base/Dockerfile",
            "base/Other",
        ),
    ] {
        config(&before.replace(from, to));
        let answer = why(&bench);
        assert!(
            in_state(&answer, "changed").contains("base"),
            "{to}: {answer:#}"
        );
        let found = causes(&answer, "base");
        let found = found.iter().find(|cause| cause["field"] == field);
        let found = found.unwrap_or_else(|| panic!("{to}: {answer:#}"));
        assert_eq!(
            (&found["old"], &found["new"]),
            (&Value::from(old), &Value::from(new))
        );
    }
    config("image: {dockerfile: base/Other}");
    let answer = why(&bench);
    let found = causes(&answer, "base");
    let named = |field: &str| found.iter().any(|cause| cause["field"] == field);
    assert!(named("image.dockerfile"), "{answer:#}");
}

#[test]
fn a_tool_is_told_by_its_keys() {
    let bench = need!(sample("why-tools"));
    bench.sh("mkdir -p site make/hi-1/bin; printf '#!/bin/sh\\necho hi\\n' > make/hi-1/bin/hi; cp make/hi-1/bin/hi make/hi-1/bin/ho; \
              tar -C make -czf site/hi-1.tar.gz hi-1; cp site/hi-1.tar.gz site/hi-2.tar.gz; cp site/hi-1.tar.gz site/other-1.tar.gz; \
              cp make/hi-1/bin/hi site/plain");
    let site = Site::new(&bench.path("site"));
    let base = need!(busybox::layout()).display().to_string();
    let config = |tools: &str| {
        bench.file(
            "config.yaml",
            format!("name: s\nbase: {{oci: {base}}}\ntools:\n{tools}"),
        );
    };
    let before = format!(
        "  - name: hi\n    version: 1\n    url: \"{}\"\n    extract_path: hi-1/bin/hi\n    dest: /usr/bin\n    binary: hi\n    description: greets\n",
        site.url("hi-{version}.tar.gz")
    );
    config(&before);
    bench.built("habitat build config.yaml");
    assert_eq!(why(&bench)["would_rebuild"], false);
    // What the first build pinned would speak against another digest.
    bench.sh("rm config.lock");
    assert_eq!(why(&bench)["would_rebuild"], false);
    for (from, to, field) in [
        ("version: 1", "version: 2", "tools[0].version"),
        ("/hi-{version}", "/other-{version}", "tools[0].url"),
        ("hi-1/bin/hi", "hi-1/bin/ho", "tools[0].extract_path"),
        ("dest: /usr/bin", "dest: /opt", "tools[0].dest"),
        ("binary: hi", "binary: hello", "tools[0].binary"),
        (
            "    dest:",
            "    sha256: 0000000000000000000000000000000000000000000000000000000000000000\n    dest:",
            "tools[0].sha256",
        ),
        ("    dest:", "    direct_binary: false\n    dest:", ""),
        ("greets", "says hi", ""),
    ] {
        config(&before.replace(from, to));
        let answer = why(&bench);
        if field.is_empty() {
            assert_eq!(answer["would_rebuild"], false, "{to}: {answer:#}");
            continue;
        }
        assert_eq!(
            in_state(&answer, "changed"),
            BTreeSet::from(["tools".to_owned()]),
            "{to}: {answer:#}"
        );
        let found = causes(&answer, "tools");
        assert!(
            found.iter().any(|cause| cause["field"] == field),
            "{to}: {answer:#}"
        );
    }
}

#[test]
fn a_debian_base_tells_its_packages_apart() {
    need!(machine::debian_archive());
    let bench = Bench::new(&need!(machine::plain_user()), "why-debian");
    let config = |base: &str| {
        bench.file("config.yaml", format!("name: s\nbase: {base}\n"));
    };
    config("{debian: bookworm}");
    bench.built("habitat build config.yaml");
    assert_eq!(why(&bench)["would_rebuild"], false);
    for (base, field, old, new) in [
        (
            "{debian: bookworm, packages: [hello]}",
            "base.packages[0]",
            Value::Null,
            "hello",
        ),
        (
            "{debian: trixie}",
            "base.debian",
            Value::from("bookworm"),
            "trixie",
        ),
        (
            "{debian: bookworm, mirror: 'http://127.0.0.1:9/debian'}",
            "base.mirror",
            Value::Null,
            "http://127.0.0.1:9/debian",
        ),
        (
            "{debian: bookworm, arch: riscv64}",
            "base.arch",
            Value::Null,
            "riscv64",
        ),
    ] {
        config(base);
        let answer = why(&bench);
        assert_eq!(
            in_state(&answer, "changed"),
            BTreeSet::from(["base".to_owned()]),
            "{base}"
        );
        let found = causes(&answer, "base")
            .into_iter()
            .find(|cause| cause["field"] == field);
        let found = found.unwrap_or_else(|| panic!("{base}: {answer:#}"));
        assert_eq!(
            (&found["old"], &found["new"]),
            (&old, &Value::from(new)),
            "{base}"
        );
    }
    // Nothing was asked so far; what would be is said.
    config("{debian: trixie}");
    let phases = bench.ok("habitat phases config.yaml --verbose");
    assert!(
        phases.out().contains("asks debian://trixie"),
        "{}",
        phases.out()
    );
    // The archive is asked, and has nothing new.
    config("{debian: bookworm}");
    let pulled = bench.shmocker("habitat why config.yaml --pull");
    assert_eq!(pulled.status, 0, "{}", pulled.both());
}

#[test]
fn a_branch_that_moved_is_told_by_its_commits_before_anything_is_built() {
    let bench = need!(sample("why-branch"));
    bench.sh("sed -i '/sha256/d' config.yaml");
    bench.built("habitat build config.yaml");
    bench.sh(
        "cd repo; git rev-parse main > ../old; echo three > README; git commit -qam three; git rev-parse main > ../new; \
         git bundle create -q ../moved.bundle main dev v1; mv ../moved.bundle ../repo.bundle",
    );
    let commit = |name: &str| {
        let text = std::fs::read_to_string(bench.path(name)).expect("it is there");
        text.trim().to_owned()
    };

    let answer = why(&bench);

    assert_eq!(
        in_state(&answer, "changed"),
        BTreeSet::from(["repos".to_owned()])
    );
    let cause = &causes(&answer, "repos")[0];
    assert_eq!(cause["field"], "repos[0].commit", "{cause}");
    assert_eq!(cause["old"], commit("old").as_str());
    assert_eq!(cause["new"], commit("new").as_str());
    let text = bench.shmocker("habitat why config.yaml").out();
    let line = format!(
        "repos    CHANGED <- repos[0].commit {}… -> {}… (main moved)",
        &commit("old")[..12],
        &commit("new")[..12]
    );
    assert!(text.contains(&line), "no `{line}` in\n{text}");
    let phases = bench.ok("habitat phases config.yaml --format json").json();
    assert!(
        phases[6]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("(main moved)")),
        "{phases}"
    );
}
