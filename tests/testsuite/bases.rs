//! Habitats on a Dockerfile: named, or lying beside them. It is one build: the Dockerfile's steps are those of the base
//! phase, and mistakes in it are shown in it. And the platforms that a habitat asks for.

use std::path::Path;

use crate::conformance::same_image;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Lack, need};
use crate::peers::buildkit::{Request, buildkit};

/// A Dockerfile whose stages are called as phases are, and which leaves its own USER, WORKDIR, SHELL and ENV behind.
const DOCKERFILE: &str = "\
ARG FLAVOUR=plain
FROM busybox AS base
ARG FLAVOUR
RUN echo $FLAVOUR > /flavour
FROM base AS users
COPY data /data
ENV FROM_BASE=yes PATH=/own/bin:/bin
SHELL [\"/bin/sh\", \"-ec\"]
WORKDIR /elsewhere
USER nobody
FROM users AS later
RUN [\"/bin/false\"]
";

/// A habitat in a directory with that Dockerfile at `docker/Dockerfile`.
fn place(name: &str, base: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name).env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file("docker/data/kept", "kept\n");
    bench.file("docker/data/left", "left\n");
    bench.file("docker/.dockerignore", "data/left\n");
    stored_busybox(&bench)?;
    bench.file("docker/Dockerfile", DOCKERFILE);
    bench.file(
        "config.yaml",
        format!(
            "name: based\n{base}env: [USER=dev, \"PATHS=${{PATH}}\"]\nscripts:\n  - commands: id -un > ~/who; pwd > ~/where; echo $FROM_BASE > ~/env\n"
        ),
    );
    Ok(bench)
}

/// The image `busybox` in the bench's store.
fn stored_busybox(bench: &Bench) -> Result<(), Lack> {
    let context = busybox::context()?;
    bench.file("stored/Dockerfile", "FROM scratch\nCOPY --from=base / /\n");
    bench.built(&format!("build {context} -t busybox stored"));
    Ok(())
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run --rm localhost/habitat/based:latest sh -c", script)
        .out()
}

fn phase(bench: &Bench, name: &str) -> serde_json::Value {
    let phases = bench.ok("habitat phases config.yaml --format json").json();
    let found = phases
        .as_array()
        .expect("an array")
        .iter()
        .find(|phase| phase["name"] == name);
    found.expect("the phase is there").clone()
}

fn only_stages(build: &Events, allowed: &[&str]) {
    let ran = build.stages_executed();
    assert!(
        !ran.is_empty() && ran.iter().all(|stage| allowed.contains(&stage.as_str())),
        "{ran:?}"
    );
}

const BASE: &str =
    "base:\n  dockerfile: docker/Dockerfile\n  target: users\n  args: {FLAVOUR: sweet}\n";

#[test]
fn a_stage_of_a_dockerfile_is_a_base() {
    let bench = need!(place("base-dockerfile", BASE));
    assert_eq!(phase(&bench, "base")["state"], "new");
    let build = bench.built("habitat build config.yaml");
    assert_eq!(
        inside(
            &bench,
            "cat /flavour ~/who ~/where ~/env; ls /data; echo $PATHS"
        ),
        "sweet\ndev\n/workspace\nyes\nkept\n/own/bin:/bin\n"
    );
    // The steps of the Dockerfile are steps of this build, under the Dockerfile's own lines.
    let step = build
        .of_kind("step.started")
        .find(|step| step["stage"] == "habitat-base/base")
        .expect("a step of the Dockerfile")
        .clone();
    assert_eq!(
        (step["file"].as_str(), step["line"].as_u64()),
        (Some("docker/Dockerfile"), Some(4))
    );
    let base = phase(&bench, "base");
    assert_eq!(base["state"], "cached");
    assert_eq!(base["stages"], serde_json::json!(["habitat-base", "base"]));
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);

    // What it is made of is what it is rebuilt for.
    bench.sh("sed -i 's/sweet/sour/' config.yaml");
    assert_eq!(phase(&bench, "base")["state"], "changed");
    bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "cat /flavour"), "sour\n");
    bench.file("docker/data/kept", "changed\n");
    let build = bench.built("habitat build config.yaml");
    assert!(
        !build
            .stages_executed()
            .contains(&"habitat-base/base".to_owned())
    );
    assert_eq!(inside(&bench, "cat /data/kept"), "changed\n");
    bench.file("docker/data/left", "changed\n");
    assert_eq!(bench.built("habitat build config.yaml").steps_run(), 0);
    bench.sh("sed -i 's/target: users/target: base/' config.yaml");
    bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "ls -d /data || echo none"), "none\n");
    let forced = bench.built("habitat build config.yaml --rebuild-from base --target base");
    only_stages(&forced, &["habitat-base/base"]);
}

#[test]
fn a_dockerfile_is_a_base_by_lying_beside_the_habitat() {
    let bench = need!(place("base-beside", ""));
    let check = bench.shmocker("habitat check config.yaml");
    check.tells(
        1,
        &["the habitat has no base", "a Dockerfile beside this file"],
    );
    bench.file(
        "Dockerfile",
        "FROM busybox\nCOPY . /all\nRUN echo beside > /made-by\n",
    );
    bench.ok("habitat check config.yaml");
    bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "cat /made-by"), "beside\n");
    // To pin its sources is no reason to build it anew, though it takes all that lies there.
    let pinned = bench.ok("habitat lock config.yaml");
    assert!(
        pinned.out().contains("pinned   busybox"),
        "{}",
        pinned.both()
    );
    let frozen = bench.built("habitat build config.yaml --frozen");
    assert_eq!(frozen.steps_run(), 0);

    // Another one by `image`, in its place.
    bench.file("other/Other", "FROM busybox\nRUN echo other > /made-by\n");
    bench.sh("sed -i '1a image: {dockerfile: other/Other}' config.yaml");
    bench.built("habitat build config.yaml");
    assert_eq!(inside(&bench, "cat /made-by"), "other\n");

    // And a base of another kind beside it is one too many.
    bench.sh("sed -i 's/^image:.*/base_image: busybox/' config.yaml");
    let run = bench.shmocker("habitat check config.yaml");
    run.tells(1, &["config.yaml:2", "several bases", "lies a Dockerfile"]);
    bench.sh("sed -i '2a image: {dockerfile: other/Other}' config.yaml");
    let run = bench.shmocker("habitat check config.yaml");
    run.tells(1, &["config.yaml:3", "several bases"]);
}

#[test]
fn mistakes_in_a_base_dockerfile_are_shown_in_it() {
    let bench = need!(place(
        "base-wrong",
        "base: {dockerfile: docker/Dockerfile}\n"
    ));
    let run = bench.shmocker("habitat build config.yaml");
    run.tells(3, &["docker/Dockerfile:12", "/bin/false"]);
    bench.file(
        "docker/Dockerfile",
        "FROM busybox\nCOPY nothing /\nRUNN x\n",
    );
    let run = bench.shmocker("habitat build config.yaml");
    run.tells(
        1,
        &[
            "docker/Dockerfile:2",
            "nothing",
            "docker/Dockerfile:3",
            "RUNN",
        ],
    );
    let run = bench.shmocker("habitat phases config.yaml");
    run.tells(1, &["docker/Dockerfile:2", "RUNN x"]);
    bench.sh("sed -i 's/docker.Dockerfile/docker\\/None/' config.yaml");
    let run = bench.shmocker("habitat check config.yaml");
    run.tells(1, &["config.yaml:2", "`docker/None` does not exist"]);
    bench.sh("sed -i 's/docker.None/..\\/None/' config.yaml");
    let run = bench.shmocker("habitat check config.yaml");
    run.tells(1, &["config.yaml:2", "`..` is not possible here"]);
    bench.sh(
        "rm docker/Dockerfile; sed -i 's/dockerfile:.*/dockerfile: docker, targt: x}/' config.yaml",
    );
    let run = bench.shmocker("habitat check config.yaml");
    run.tells(1, &["unknown key `targt`", "target"]);
}

#[test]
fn a_habitat_on_a_dockerfile_is_the_same_on_buildkit() {
    let bench = need!(place("base-rendered", BASE));
    bench.built("habitat build config.yaml -o type=oci,dest=ours.tar");
    bench.ok("habitat render config.yaml --out rendered");
    let rendered = bench.path("rendered");
    let text = std::fs::read_to_string(rendered.join("Dockerfile")).expect("a Dockerfile");
    assert!(
        text.contains("--build-context habitat-base=oci-layout://./habitat-base:latest")
            && text.contains("the image of the stage users of docker/Dockerfile"),
        "{text}"
    );
    let buildkit = need!(buildkit());
    let theirs = buildkit
        .build(&Request {
            context: &rendered,
            dockerfile: "Dockerfile",
            contexts: vec![("habitat-base", rendered.join("habitat-base"))],
            options: vec!["build-arg:SOURCE_DATE_EPOCH=1700000000".to_owned()],
        })
        .unwrap_or_else(|log| panic!("{log}"));
    same_image(
        &Layout::read(Path::new(&bench.path("ours.tar"))),
        &theirs,
        &[],
    );
}

#[test]
fn a_habitat_is_built_for_one_of_the_platforms_it_names() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "platforms");
    let layout = need!(busybox::layout());
    let (own, debian) = match std::env::consts::ARCH {
        "aarch64" => ("linux/arm64", "arm64"),
        _ => ("linux/amd64", "amd64"),
    };
    let config = |base: &str, platforms: &str| {
        bench.file(
            "config.yaml",
            format!("name: based\nbase: {{{base}}}\nplatforms: {platforms}\n"),
        );
    };
    let oci = format!("oci: {}", layout.display());
    config(&oci, &format!("[{own}]"));
    bench.built("habitat build config.yaml");
    config(&oci, &format!("[{own}, linux/s390x]"));
    let run = bench.shmocker("habitat build config.yaml");
    run.tells(
        1,
        &[
            "config.yaml:3",
            &format!("`linux/s390x` is not built together with {own}"),
            "one platform at a time",
            "keep one of them",
        ],
    );
    // What it says can be looked at anywhere.
    bench
        .shmocker("habitat check config.yaml")
        .tells(0, &["`linux/s390x` is not built together"]);
    // Alone, it is what is built for.
    config("debian: bookworm", "[linux/s390x]");
    let rendered = bench.ok("habitat render config.yaml").out();
    assert!(rendered.contains("linux/s390x"), "{rendered}");
    config(&oci, "[here]");
    bench
        .shmocker("habitat check config.yaml")
        .tells(1, &["config.yaml:3", "`here` is not a platform"]);
    config("debian: bookworm, arch: s390x", &format!("[{own}]"));
    bench.shmocker("habitat check config.yaml").tells(
        1,
        &[
            "config.yaml:2",
            "the base is for s390x",
            "`platforms` says otherwise",
        ],
    );
    config(
        &format!("debian: bookworm, arch: {debian}"),
        &format!("[{own}]"),
    );
    bench.ok("habitat check config.yaml");
}
