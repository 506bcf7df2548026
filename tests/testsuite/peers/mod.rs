//! The programs that shmocker is compared with, and that must accept what it makes.

pub(crate) mod buildkit;
pub(crate) mod containers;
pub(crate) mod pairs;

use crate::harness::listing::{assert_same, tree, with_links_resolved, without};
use crate::harness::machine::{self, need};
use crate::harness::{Bench, busybox, layout::Layout};

/// Whether the peers themselves work here: if this fails, nothing else that compares with them says anything.
#[test]
fn the_peers_are_in_order() {
    let bench = Bench::new(&need!(machine::plain_user()), "peers");
    let base = need!(busybox::layout());
    bench.tree(base, "base");
    bench.sh("tar -C base -cf base.tar .");

    assert_eq!(need!(containers::skopeo(&bench, "base.tar"))["Os"], "linux");
    need!(containers::umoci(&bench, "base.tar"));
    bench.sh("test -x bundle/rootfs/bin/busybox");
    let run = need!(containers::podman(
        &bench,
        &bench.path("base.tar"),
        "echo hello"
    ));
    assert_eq!(run.out(), "hello\n");

    bench.file("Dockerfile", "FROM base\nRUN echo hello > /hello\n");
    let image = need!(buildkit::buildkit()).build_on(base, &bench.project());
    let given = [
        "hello",
        "proc",
        "dev",
        "sys",
        "etc/hosts",
        "etc/resolv.conf",
    ];
    let base = Layout::read(base);
    assert_same(
        "base",
        &without(&with_links_resolved(&tree(&base)), &given),
        "BuildKit",
        &without(&with_links_resolved(&tree(&image)), &given),
    );
}
