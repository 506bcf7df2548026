//! Images that go to other tools and come from them by way of a registry, and over lines that are cut.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, need};
use crate::harness::registry::{CutLine, DockerRegistry, Door, Transport};

fn said(run: &Run) -> String {
    run.out().trim().to_owned()
}

/// Builds an image upon busybox and pushes it.
fn push_to(bench: &Bench, name: &str) -> String {
    let base = busybox::context().expect("busybox was needed before");
    bench.file(
        "Dockerfile",
        "FROM base\nRUN echo made here > /made\nCMD [\"cat\", \"/made\"]\n",
    );
    said(&bench.ok(&format!("build {base} --push -t {name} .")))
}

/// Builds upon an image that others have pushed.
fn is_built_upon(bench: &Bench, name: &str) {
    bench.file(
        "Dockerfile",
        format!("FROM {name}\nRUN grep 'made here' /made\n"),
    );
    bench.ok("build -o type=cacheonly .");
}

#[test]
fn buildah_takes_what_is_pushed_and_what_it_pushes_is_taken() {
    let user = need!(machine::plain_user());
    need!(machine::root());
    need!(busybox::layout());
    need!(machine::program(Capability::Buildah, "buildah"));
    let registry = need!(DockerRegistry::start(
        "buildah",
        Transport::Plain,
        Door::Open
    ));
    let host = registry.host();
    let bench = Bench::new(&user, "exchange-buildah");
    let name = format!("{host}/team/app:1");
    let digest = push_to(&bench, &name);
    let root = bench.path("buildah");
    let buildah = |arguments: &str| {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(&root)
            .args(["--storage-driver=vfs"])
            .args(arguments.split(' '));
        bench.finish(&mut command).expect(0, &[]).clone()
    };
    buildah(&format!("pull -q --tls-verify=false docker://{name}"));
    let inspected = buildah(&format!("inspect --type image {name}")).json();
    assert_eq!(inspected["FromImageDigest"], *digest);
    assert_eq!(inspected["OCIv1"]["config"]["Cmd"][1], "/made");
    for (format, tag) in [("oci", "oci"), ("v2s2", "docker")] {
        let theirs = format!("{host}/buildah/app:{tag}");
        buildah(&format!(
            "push -q --tls-verify=false --format {format} {name} docker://{theirs}"
        ));
        is_built_upon(&bench, &theirs);
    }
    drop(std::fs::remove_dir_all(root));
}

#[test]
fn crane_takes_what_is_pushed_and_what_it_pushes_is_taken() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let crane: PathBuf = need!(machine::crane());
    let registry = need!(DockerRegistry::start("crane", Transport::Plain, Door::Open));
    let host = registry.host();
    let bench = Bench::new(&user, "exchange-crane");
    let name = format!("{host}/team/app:1");
    let digest = push_to(&bench, &name);
    let crane = machine::executable(&crane, "crane").display().to_string();
    let crane = |arguments: &str| bench.sh(&format!("{crane} --insecure {arguments}"));
    assert_eq!(said(&crane(&format!("digest {name}"))), digest);
    crane(&format!("validate --remote {name}"));
    let config = crane(&format!("config {name}")).json();
    assert_eq!(config["config"]["Cmd"][1], "/made");
    // What it writes is loaded, and what it pushes of that is built upon.
    crane(&format!("pull {name} app.tar"));
    bench.ok("load -i app.tar");
    crane(&format!("push app.tar {host}/crane/app:2"));
    is_built_upon(&bench, &format!("{host}/crane/app:2"));
    // An index of its making, and one of ours.
    crane(&format!("index append -m {name} -t {host}/crane/many:1"));
    bench.ok(&format!("pull {host}/crane/many:1"));
    bench.ok(&format!("imagetools create -t {host}/ours:1 {name}"));
    crane(&format!("validate --remote {host}/ours:1"));
    crane(&format!("copy {host}/ours:1 {host}/copied:1"));
    bench.ok(&format!("pull {host}/copied:1"));
}

/// A layer that goes in parts, over a line that is cut in the middle of one, more than once, both ways.
#[test]
fn what_a_cut_line_broke_off_goes_on_where_it_did() {
    let user = need!(machine::plain_user());
    let registry = need!(DockerRegistry::start("cut", Transport::Plain, Door::Open));
    let line = CutLine::to(registry.port());
    let bench = Bench::new(&user, "exchange-cut");
    bench.sh("head -c 40000000 /dev/urandom > big; sha256sum big > sum");
    bench.file("Dockerfile", "FROM scratch\nCOPY big sum /\n");
    // What it is in one piece.
    let straight = format!("{}/straight:1", registry.host());
    let form = "compression=uncompressed";
    let whole = said(&bench.ok(&format!("build -o type=registry,name={straight},{form} .")));
    let name = format!("localhost:{}/cut:1", line.port());
    line.cut(2, 15_000_000);
    let pushed = bench.ok(&format!(
        "build --progress plain -o type=registry,name={name},{form} ."
    ));
    assert_eq!(said(&pushed), whole);
    assert_eq!(line.left(), 0, "it was cut twice\n{}", pushed.stderr);
    assert!(pushed.stderr.contains("follows in"), "{}", pushed.stderr);
    line.cut(2, 15_000_000);
    let other = Bench::new(&user, "exchange-uncut");
    assert_eq!(said(&other.ok(&format!("pull {name}"))), whole);
    assert_eq!(line.left(), 0);
    other.file("Dockerfile", format!("FROM {name}\n"));
    other.ok("build -o out .");
    other.sh("cd out && sha256sum -c sum");
}
