//! A base from the Debian archive, by its named context. Signatures, expiry and hashes are tested beside the code, on an
//! archive that the tests sign themselves; here is the real one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::listing;
use crate::harness::machine::{self, Lack, need};

/// A minimal bookworm as an OCI layout, made once for all tests.
pub(crate) fn base() -> Result<&'static Path, Lack> {
    // Before the wait for whoever makes it: a test that wants to be alone may be waiting too.
    let _turn = machine::beside_others();
    static BASE: OnceLock<Result<PathBuf, Lack>> = OnceLock::new();
    BASE.get_or_init(|| {
        let bench = made("debian")?;
        bench.sh("mkdir base && tar -C base -xf base.tar && chmod -R go+rX base && rm base.tar");
        let layout = bench.path("base");
        bench.keep();
        Ok(layout)
    })
    .as_deref()
    .map_err(Clone::clone)
}

/// `base.tar`, made from an empty store, by a shmocker that finds none of the host's own tools.
fn made(name: &str) -> Result<Bench, Lack> {
    machine::debian_archive()?;
    let user = machine::plain_user()?;
    let bench = Bench::new(&user, name);
    bench.sh("mkdir path; for tool in newuidmap newgidmap pasta slirp4netns; do ! found=$(command -v $tool) || ln -s $found path/; done");
    let path = bench.path("path").display().to_string();
    let bench = bench
        .env("PATH", &path)
        .env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file("Dockerfile", "FROM base\n");
    bench.built("build --build-context base=debian://bookworm -o type=oci,dest=base.tar .");
    Ok(bench.env("PATH", "/usr/bin:/bin"))
}

#[test]
fn it_is_a_debian_with_a_working_apt_and_nothing_of_this_machine() {
    let base = need!(base());
    let tree = listing::tree(&Layout::read(base));
    for path in [
        "usr/bin/apt-get",
        "usr/bin/dpkg",
        "var/lib/dpkg/status",
        "usr/lib/os-release",
        "etc/passwd",
    ] {
        assert!(tree.contains_key(path), "no {path}");
    }

    let bench = Bench::new(&need!(machine::plain_user()), "debian-inside");
    bench.file("Dockerfile", "FROM base\nRUN dpkg --audit && dpkg -l apt && cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null > /sources || true\n");
    bench.built(&format!(
        "build --build-context base=oci-layout://{} -o type=tar,dest=out.tar .",
        base.display()
    ));
    let sources = bench
        .sh("tar -xOf out.tar sources 2>/dev/null || tar -xOf out.tar ./sources")
        .out();
    let hosts: Vec<&str> = sources
        .split_whitespace()
        .filter_map(|word| word.split_once("://")?.1.split('/').next())
        .collect();
    assert!(
        !hosts.is_empty() && hosts.iter().all(|host| *host == "deb.debian.org"),
        "{sources}"
    );
}

#[test]
fn two_empty_stores_give_the_same_layer() {
    let first = Layout::read(need!(base())).layer_digests();
    let bench = need!(made("debian-again"));
    assert_eq!(Layout::read(&bench.path("base.tar")).layer_digests(), first);
}

#[test]
fn what_the_archive_does_not_have_is_named() {
    need!(machine::debian_archive());
    let bench = Bench::new(&need!(machine::plain_user()), "debian-missing");
    bench.file("Dockerfile", "FROM base\n");
    bench
        .shmocker("build --build-context base=debian://nosuchsuite .")
        .expect(5, &["nosuchsuite"]);
    let run =
        bench.shmocker("build --build-context base=debian://bookworm?packages=no-such-package .");
    assert!([1, 5].contains(&run.status), "{}", run.both());
    assert!(run.stderr.contains("no-such-package"), "{}", run.both());
    // In FROM itself it would be a registry's image to every other builder.
    bench.file("Dockerfile", "FROM debian://bookworm\n");
    bench.shmocker("build .").expect(1, &["--build-context"]);
}
