//! The quick start of the README: from nothing but the Debian archive to an image that every tool accepts. It is built
//! once, as a plain user; the tests look at it from all sides.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Lack, User, need};
use crate::harness::{Run, listing};
use crate::peers::containers;
use crate::tidy::repository;

const NAME: &str = "localhost/habitat/quickstart:latest";

/// The one that was built.
#[derive(Debug)]
struct Built {
    user: User,
    store: PathBuf,
    archive: PathBuf,
    steps: u64,
}

fn quickstart() -> Result<&'static Built, Lack> {
    // Before the wait for whoever builds it: a test that wants to be alone may be waiting too.
    let _turn = machine::beside_others();
    static BUILT: OnceLock<Result<Built, Lack>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            machine::debian_archive()?;
            let user = machine::plain_user()?;
            let bench = project(&user, "quickstart");
            let build =
                bench.built("habitat build quickstart/config.yaml -o type=oci,dest=quickstart.tar");
            let built = Built {
                user,
                store: bench.store().to_owned(),
                archive: bench.path("quickstart.tar"),
                steps: build.steps_run(),
            };
            bench.keep();
            Ok(built)
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// A bench with the repository's quick start in it.
fn project(user: &User, name: &str) -> Bench {
    let bench = Bench::new(user, name).env("SOURCE_DATE_EPOCH", "1700000000");
    bench.tree(&repository().join("habitats/quickstart"), "quickstart");
    bench
}

/// A bench on the store that the quick start was built in.
fn beside(built: &Built, name: &str) -> Bench {
    project(&built.user, name).on_store(&built.store)
}

#[test]
fn the_image_is_what_the_habitat_says() {
    let built = need!(quickstart());
    let bench = beside(built, "quickstart-inside");
    let git = bench.ok(&format!("run --rm {NAME} git --version")).out();
    assert!(git.starts_with("git version 2."), "{git}");

    let questions = "id -un; pwd; cat hello/greeting.txt; stat -c '%a %U:%G' /etc/motd ~/.gitconfig; \
         stat -c %U /workspace/hello/.git; git -C /workspace/hello status --porcelain; echo $EDITOR; echo $PATH; . /etc/os-release; \
         echo $ID-$VERSION_CODENAME; dpkg-query -W -f '${Status}\\n' git curl apt | sort -u; apt-get --version | head -c 4";
    let mut command = bench.shmocker_command(&format!("run --rm {NAME} bash -c"));
    let said = bench.finish(command.arg(questions)).out();
    assert_eq!(
        said,
        "dev\n/workspace\nHello from the habitat\n644 root:root\n600 dev:dev\ndev\n?? greeting.txt\nvi\n\
         /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/home/dev/bin\ndebian-bookworm\ninstall ok installed\napt "
    );
}

#[test]
fn nothing_changed_nothing_runs() {
    let built = need!(quickstart());
    let bench = beside(built, "quickstart-again");
    let line = "habitat build quickstart/config.yaml";
    bench.built(line);
    let build = bench.built(line);
    assert_eq!((build.steps_run(), build.steps_cached()), (0, built.steps));
}

#[test]
fn skopeo_umoci_and_podman_accept_it() {
    let built = need!(quickstart());
    let bench = beside(built, "quickstart-peers");
    bench.sh(&format!("ln -s {} quickstart.tar", built.archive.display()));

    let inspected = need!(containers::skopeo(&bench, "quickstart.tar"));
    assert_eq!(
        inspected["Labels"]["org.opencontainers.image.title"],
        "quickstart"
    );

    need!(containers::umoci(&bench, "quickstart.tar"));
    assert_eq!(
        bench
            .sh("cat bundle/rootfs/workspace/hello/greeting.txt")
            .out(),
        "Hello from the habitat\n"
    );

    need!(machine::ranged_user());
    let run = need!(containers::podman(&bench, &built.archive, "git --version"));
    assert!(run.out().starts_with("git version 2."), "{}", run.both());
}

/// The second half of the README's promise; and two empty stores give the same base, whoever builds.
#[test]
fn root_builds_the_same() {
    is_built_the_same_by(&need!(machine::root()));
}

/// With nothing set up at all: no ids, and where root can hide them, no helpers. The README's second command works, too.
#[test]
fn a_user_without_subordinate_ids_builds_the_same() {
    is_built_the_same_by(&need!(machine::bare_user()));
}

fn is_built_the_same_by(other: &User) {
    let built = need!(quickstart());
    let bench = project(other, "quickstart-other");
    let build = "habitat build quickstart/config.yaml -o type=oci,dest=quickstart.tar";
    if other.uid == 0 || machine::root().is_err() {
        bench.ok(build);
    } else {
        without_uidmap(&bench, build);
        let run = without_uidmap(&bench, &format!("run --rm {NAME} id -un"));
        assert_eq!(run.out(), "dev\n");
    }
    let (by_user, by_other) = (
        Layout::read(&built.archive),
        Layout::read(&bench.path("quickstart.tar")),
    );
    assert_eq!(
        by_user.layer_digests()[0],
        by_other.layer_digests()[0],
        "the Debian base is one layer, the same for the same packages"
    );
    for (number, (user, other)) in listing::layers(&by_user)
        .iter()
        .zip(&listing::layers(&by_other))
        .enumerate()
    {
        listing::assert_same(
            &format!("user {number}"),
            user,
            &format!("other {number}"),
            other,
        );
    }
}

/// shmocker on a machine where uidmap is not installed: in a mount namespace, where its programs are removed from a layer over
/// /usr/bin. Only root can make that.
fn without_uidmap(bench: &Bench, line: &str) -> Run {
    let hidden = "mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work; \
         mount -t overlay none -o lowerdir=/usr/bin,upperdir=/mnt/upper,workdir=/mnt/work /usr/bin; \
         rm -f /usr/bin/newuidmap /usr/bin/newgidmap; umount -l /mnt; \
         if command -v newuidmap || command -v newgidmap; then exit 9; fi; \
         user=$1; group=$2; shift 2; exec setpriv --reuid=$user --regid=$group --clear-groups \"$@\"";
    let inner = bench.shmocker_command(line);
    let mut command = machine::root()
        .expect("it was asked for")
        .command("unshare");
    command
        .args(["--mount", "/bin/sh", "-euc", hidden, "sh"])
        .args([bench.user().uid, bench.user().gid].map(|id| id.to_string()))
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(
            inner
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(bench.project());
    let run = bench.finish(&mut command);
    assert_eq!(run.status, 0, "{line}\n{}", run.both());
    run
}

/// A program of another content is another program, even where its version says nothing: here the one with another
/// template in it.
#[test]
fn another_binary_is_noticed() {
    let built = need!(quickstart());
    let bench = beside(built, "quickstart-binary");
    let line = "habitat build quickstart/config.yaml";
    bench.built(line);
    assert_eq!(bench.built(line).steps_run(), 0);

    let original = std::fs::read(machine::shmocker()).expect("a program can be read");
    // A comment of `templates/env.j2`, of the same length.
    let from = b"# The environment of the habitat".as_slice();
    let to = b"# THE environment of the habitat".as_slice();
    let mut changed = original.clone();
    let places: Vec<usize> = (0..original.len() - from.len())
        .filter(|at| original[*at..].starts_with(from))
        .collect();
    assert!(!places.is_empty(), "the template is embedded as it is");
    for at in places {
        changed[at..at + to.len()].copy_from_slice(to);
    }
    let other = bench.project().join("other");
    bench.executable("other", changed);
    let bench = bench.program(&other);

    let build = bench.built(line);
    assert!(
        build.steps_run() > 0,
        "the other program's template was not used"
    );
}

/// What the README calls the first command is the quick start; the file must load wherever the clone lies.
#[test]
fn the_quick_start_is_in_order() {
    let bench = project(&need!(machine::plain_user()), "quickstart-check");
    assert_eq!(bench.ok("habitat check quickstart/config.yaml").status, 0);
    assert!(Path::new(&repository().join("habitats/quickstart/config.yaml")).exists());
}
