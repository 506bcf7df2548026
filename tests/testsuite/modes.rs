//! The same Dockerfiles for a user with subordinate ids, for the same with a single one, and for a user who has none: what
//! their layers hold is the same. What can differ is listed here, each with its reason.

use std::collections::BTreeSet;
use std::path::Path;

use crate::debian;
use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::listing::{self, Listing};
use crate::harness::machine::{self, Lack, User, need};
use crate::tidy::repository;

/// Drawn by lot, or with the time in it, whoever builds: there is no content to compare. `*` stands for anything.
const DRAWN: &[&str] = &[
    "etc/machine-id",
    "etc/ssh/ssh_host_*",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "home/app/key*",
    "home/app/.cache/go-build/*",
    "home/app/.npm/_cacache/index-v5/*",
    "root/.npm/_cacache/index-v5/*",
    "home/app/place/*/.git/index",
    "tmp/roots/.git/index",
    "tmp/pg/*",
    "var/lib/postgresql/*",
    "var/lib/dbus/machine-id",
    "var/spool/cron/crontabs/app",
    // Times of files that were made in the build are in them.
    "*.pyc",
    "*/greet-rb-1.0.gem",
    "var/cache/ldconfig/aux-cache",
    "var/log/*",
    // Times of installation.
    "made/usr/lib/sysimage/rpm/*",
    "copied/usr/lib/sysimage/rpm/*",
    "made/var/lib/rpm/*",
    "copied/var/lib/rpm/*",
];

/// What is not the same with a single id, and why; docs/no-setup.md has it, too.
const DEVIATIONS_OF_FILES: &[(&str, &str)] = &[
    (
        "home/app/theirs",
        "who may read something is not looked at: that would be a look at nearly every call",
    ),
    (
        "home/app/processes",
        "/proc shows who a process really is, which is root for all of them",
    ),
];
const DEVIATIONS_OF_PACKAGES: &[(&str, &str)] = &[(
    "w/acl",
    "an access control list can name only ids that the kernel knows, so that there is none, and no rights from it",
)];

/// Users with what they say about ids; the first has ranges.
fn modes() -> Result<Vec<(&'static str, User, &'static str)>, Lack> {
    let plain = machine::ranged_user()?;
    let mut modes = vec![
        ("ranges", plain.clone(), "--ids=ranges"),
        ("single", plain, "--ids=single"),
    ];
    match machine::bare_user() {
        Ok(bare) => modes.push(("bare", bare, "")),
        Err(lack) => lack.skip(),
    }
    Ok(modes)
}

fn directory() -> std::path::PathBuf {
    repository().join("tests/testsuite/modes")
}

/// The layers of a Dockerfile beside this file, in every mode.
fn built(dockerfile: &str, flags: &str) -> Result<Vec<(&'static str, Vec<Listing>)>, Lack> {
    let build = |(mode, user, ids): (&'static str, User, &str)| {
        let bench = Bench::new(&user, &format!("modes-{mode}"));
        let text = std::fs::read(directory().join(dockerfile)).expect("it is there");
        bench.file("Dockerfile", text);
        for tree in ["lang", "rpm"] {
            bench.tree(&directory().join(tree), tree);
        }
        let started = std::time::Instant::now();
        bench.built(&format!("build {ids} {flags} -o type=oci,dest=out.tar ."));
        println!("{dockerfile}, {mode}: built in {:?}", started.elapsed());
        let layers = listing::layers(&Layout::read(&bench.path("out.tar")));
        (mode, layers)
    };
    Ok(modes()?.into_iter().map(build).collect())
}

/// Fails with every difference that is not listed, and with what is listed and does not differ.
fn assert_same(built: &[(&str, Vec<Listing>)], deviations: &[(&str, &str)]) {
    let (first, ranges) = &built[0];
    let expected: BTreeSet<&str> = deviations.iter().map(|(path, _)| *path).collect();
    for (mode, layers) in &built[1..] {
        assert_eq!(ranges.len(), layers.len(), "{mode}");
        let mut compared = 0;
        let mut deviating = BTreeSet::new();
        let mut lines = Vec::new();
        for (one, other) in ranges.iter().zip(layers) {
            let one = listing::without_content(one, DRAWN);
            let other = listing::without_content(other, DRAWN);
            compared += one.len();
            let differing = listing::differing(&one, &other);
            deviating.extend(differing.into_iter().map(str::to_owned));
            lines.extend(listing::differences(first, &one, mode, &other));
        }
        println!(
            "{mode}: {compared} entries compared, {} deviate",
            deviating.len()
        );
        let deviating: BTreeSet<&str> = deviating.iter().map(String::as_str).collect();
        lines.truncate(60);
        assert_eq!(deviating, expected, "{mode}:\n{}", lines.join("\n"));
    }
}

#[test]
fn users_and_files_are_the_same_in_every_mode() {
    let base = need!(debian::base());
    let base = format!("--build-context base=oci-layout://{}", base.display());
    assert_same(
        &need!(built("files.dockerfile", &base)),
        DEVIATIONS_OF_FILES,
    );
}

#[test]
fn packages_are_the_same_in_every_mode() {
    need!(machine::patience(
        "forty packages and what they draw in, three times"
    ));
    need!(machine::debian_archive());
    let ca = Path::new("/etc/ssl/certs/ca-certificates.crt");
    let flags = format!(
        "--build-context base=debian://bookworm --secret id=ca,src={}",
        ca.display()
    );
    assert_same(
        &need!(built("packages.dockerfile", &flags)),
        DEVIATIONS_OF_PACKAGES,
    );
}

#[test]
fn other_families_are_the_same_in_every_mode() {
    need!(machine::patience(
        "another Debian, and a system of RPM packages in it, three times"
    ));
    need!(machine::debian_archive());
    let flags = "--build-context base=debian://trixie";
    assert_same(&need!(built("families.dockerfile", flags)), &[]);
}
