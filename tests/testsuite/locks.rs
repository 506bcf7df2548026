//! `shmocker habitat lock`, `outdated`, `upgrade` and `build --frozen`: a build asks nothing of what is pinned, and is what
//! it was when everything else has moved on. Servers count what they are asked.

use std::path::Path;

use serde_json::json;

use crate::harness::archive::{Archive, SUITE};
use crate::harness::bench::{Bench, Run};
use crate::harness::machine::{self, Capability, Lack, need};
use crate::harness::site::{self, Site};
use crate::harness::{
    busybox,
    layout::{Layout, digest_of},
};

/// A habitat of a Debian base with a package, a repository of a server and one of this machine.
struct Place {
    bench: Bench,
    archive: Archive,
    site: Site,
}

const FIRST: &[(&str, &str, &str, &str)] = &[
    ("tool", "1.0", "library", "tool one\n"),
    ("library", "1.0", "", "library one\n"),
    // Nothing needs it, but it offers itself.
    ("other", "1.0", "", "other\n"),
];
const SECOND: &[(&str, &str, &str, &str)] = &[
    ("tool", "2.0", "library", "tool two\n"),
    ("library", "1.0", "", "library one\n"),
];

impl Place {
    fn new(name: &str) -> Result<Self, Lack> {
        machine::program(Capability::Git, "git")?;
        let bench =
            Bench::new(&machine::plain_user()?, name).env("SOURCE_DATE_EPOCH", "1700000000");
        let archive = Archive::new()?;
        archive.publish(2, FIRST);
        let bench = archive.serves(bench);
        site::repository(&bench, "repo", "");
        let site = Site::new(&bench.path("site"));
        bench.file(
            "config.yaml",
            format!(
                "name: locked\nbase:\n  debian: {SUITE}\n  packages: [tool]\nrepos:\n  - url: {}\n    path: /workspace/far\n  \
                 - url: site/repo\n    path: /workspace/near\n    branch: main\n    shallow: false\n",
                site.url("git/repo/.git")
            ),
        );
        Ok(Self {
            bench,
            archive,
            site,
        })
    }

    /// The archive and the repository move on.
    fn move_on(&self) {
        self.archive.publish(9, SECOND);
        self.bench.sh(
            "cd site/repo && echo three > file && git -c user.name=a -c user.email=a@b commit -qam third && git update-server-info",
        );
    }

    fn forget_requests(&self) {
        self.archive.asked();
        self.site.asked();
    }

    /// The same project with an empty store.
    fn elsewhere(&self, store: &str) -> String {
        let run = self.bench.sh(&format!("mkdir {store}"));
        assert_eq!(run.status, 0, "{}", run.both());
        format!("--store {} ", self.bench.path(store).display())
    }

    fn commit(&self, of: &str) -> String {
        let run = self.bench.sh(&format!("git -C site/repo rev-parse {of}"));
        run.out().trim().to_owned()
    }
}

/// What a file of the image says.
fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run --rm localhost/habitat/locked:latest sh -c", script)
        .out()
}

#[track_caller]
fn lock_of(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).expect("there is a lock file");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The arguments that come before the subcommand would be lost on `--store`: it is given twice, and the last counts.
fn in_store(bench: &Bench, store: &str, line: &str) -> Run {
    let mut command = bench.command(machine::shmocker());
    bench.finish(command.args(format!("{store}{line}").split_whitespace()))
}

#[test]
fn a_lock_pins_every_source_and_a_build_takes_what_it_pins() {
    let place = need!(Place::new("lock-pins"));
    let bench = &place.bench;
    let run = bench.ok("habitat lock config.yaml");
    assert!(
        run.out().contains("config.lock pins 3 sources"),
        "{}",
        run.both()
    );
    let text = std::fs::read_to_string(bench.path("config.lock")).expect("a lock file");
    let lock = lock_of(&bench.path("config.lock"));
    assert_eq!(lock["version"], 1);
    let sources: Vec<&str> = lock["sources"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["source"].as_str())
        .collect();
    let far = place.site.url("git/repo/.git");
    assert_eq!(
        sources,
        ["./site/repo#main", "debian://small?packages=tool", &far]
    );
    let first = place.commit("main");
    assert_eq!(
        lock["sources"][0]["pin"],
        json!({"git": {"commit": first, "reference": "refs/heads/main"}})
    );
    let debian = &lock["sources"][1]["pin"]["debian"];
    assert_eq!(debian["releases"][0]["date"], "2024-01-02T00:00:00Z");
    let words = |list: &str| -> Vec<String> {
        let list = debian[list].as_array().expect("a list").iter();
        let lines = list.filter_map(|line| line.as_str());
        lines
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    assert_eq!(words("base"), ["apt 1.0", "dpkg 1.0"]);
    assert_eq!(words("packages"), ["library 1.0", "tool 1.0"]);
    // It is where the project is that may differ, not what it says.
    let project = bench.project().display().to_string();
    assert!(!text.contains(&project), "{text}");

    place.move_on();
    place.forget_requests();
    let build = bench.built("habitat build config.yaml");
    assert_eq!(inside(bench, "cat /usr/share/tool"), "tool one\n");
    assert_eq!(
        inside(bench, "cat /workspace/far/file /workspace/near/file"),
        "one\none\n"
    );
    assert!(
        !place
            .archive
            .asked()
            .iter()
            .any(|path| path.starts_with("dists"))
    );

    // Nothing has changed, so nothing is written, and nothing is run.
    bench.ok("habitat lock config.yaml");
    let again = std::fs::read_to_string(bench.path("config.lock")).expect("a lock file");
    assert_eq!(again, text);
    let second = bench.built("habitat build config.yaml");
    assert_eq!((second.steps_run(), second.digest()), (0, build.digest()));
}

#[test]
fn a_frozen_build_asks_nothing_that_could_change_it() {
    let place = need!(Place::new("lock-frozen"));
    let bench = &place.bench;
    // Without a lock, from another store: what a frozen build must come to. Layers have the times of their making, but for
    // those that are written out.
    const WRITTEN: &str = " -q -o type=oci,dest=image.tar,rewrite-timestamp=true";
    let other = place.elsewhere("unlocked");
    let line = format!("habitat build config.yaml{WRITTEN}");
    let unlocked = in_store(bench, &other, &line);
    assert_eq!(unlocked.status, 0, "{}", unlocked.both());
    bench.ok("habitat lock config.yaml");
    let locked = bench.built("habitat build config.yaml --frozen");
    let written = bench.ok(&format!("habitat build config.yaml --frozen{WRITTEN}"));
    assert_eq!(unlocked.out(), written.out());

    // All is there: nothing is asked at all, whatever became of the servers.
    place.move_on();
    place.forget_requests();
    let cached = bench.built("habitat build config.yaml --frozen");
    assert_eq!((cached.steps_run(), cached.digest()), (0, locked.digest()));
    assert_eq!(place.archive.asked(), Vec::<std::path::PathBuf>::new());
    assert_eq!(place.site.asked(), []);

    // Nothing is there, but the servers still have it: packages and commits are asked for by what they are pinned to.
    place.archive.publish(3, FIRST);
    let empty = place.elsewhere("empty");
    let line = format!("habitat build config.yaml --frozen{WRITTEN}");
    let fresh = in_store(bench, &empty, &line);
    assert_eq!(fresh.status, 0, "{}", fresh.both());
    assert_eq!(fresh.out(), written.out());
    let asked = place.archive.asked();
    assert!(
        asked.iter().all(|path| path.starts_with("pool")),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 4, "{asked:?}");
    // git tells what it can do (one GET), and is asked for one commit (one POST); branches are not listed.
    let methods = place.site.methods();
    assert_eq!(methods, ["GET", "POST"]);
}

#[test]
fn a_package_that_the_mirror_has_no_more_is_said_to_be_in_the_archive_of_all_states() {
    let place = need!(Place::new("lock-gone"));
    let bench = &place.bench;
    bench.ok("habitat lock config.yaml");
    place.move_on();
    let empty = place.elsewhere("empty");
    in_store(bench, &empty, "habitat build config.yaml --frozen").tells(
        5,
        &[
            "tool_1.0_amd64.deb",
            "snapshot.debian.org/archive/debian/20240102T000000Z",
            "habitat upgrade config.yaml",
        ],
    );
}

#[test]
fn what_is_not_in_the_lock_is_refused_by_a_frozen_build_and_named_by_another() {
    let place = need!(Place::new("lock-missing"));
    let bench = &place.bench;
    bench.shmocker("habitat build config.yaml --frozen").expect(
        6,
        &[
            "`debian://small?packages=tool` is not in config.lock",
            "`./site/repo#main` is not in config.lock",
            "habitat lock config.yaml",
            "config.yaml:3",
        ],
    );
    bench.ok("habitat lock config.yaml");
    bench.sh("sed -i 's/branch: main/branch: feature/' config.yaml");
    place.forget_requests();
    let run = bench.shmocker("habitat build config.yaml --frozen");
    run.expect(
        6,
        &[
            "`./site/repo#feature` is not in config.lock",
            "config.yaml:",
        ],
    );
    assert!(!run.stderr.contains("`debian://small"), "{}", run.both());
    assert_eq!(place.archive.asked(), Vec::<std::path::PathBuf>::new());
    // An open build goes on, and says so.
    let build = bench.built("habitat build config.yaml");
    let warned = build
        .of_kind("warning")
        .any(|warning| warning["code"] == "NotLocked");
    assert!(warned, "{}", build.run.both());
    assert_eq!(inside(bench, "cat /workspace/near/file"), "two\n");
    // The lock is brought up to what is asked for, and no further.
    place.move_on();
    let run = bench.ok("habitat lock config.yaml");
    assert!(
        run.out().contains("pinned   ./site/repo#feature"),
        "{}",
        run.both()
    );
    assert!(
        run.out().contains("dropped  ./site/repo#main"),
        "{}",
        run.both()
    );
    assert!(!run.out().contains("changed"), "{}", run.both());
    bench.built("habitat build config.yaml --frozen");
}

#[test]
fn outdated_lists_what_has_moved_and_upgrade_takes_only_what_is_named() {
    let place = need!(Place::new("lock-outdated"));
    let bench = &place.bench;
    bench
        .shmocker("habitat outdated config.yaml")
        .expect(1, &["has no lock file", "habitat lock config.yaml"]);
    bench.ok("habitat lock config.yaml");
    let first = place.commit("main");
    let run = bench.ok("habitat outdated config.yaml --format json");
    assert_eq!(run.json(), json!([]), "{}", run.both());
    assert_eq!(
        bench.ok("habitat outdated config.yaml").out(),
        "everything is as it is pinned\n"
    );

    place.move_on();
    let third = place.commit("main");
    let far = place.site.url("git/repo/.git");
    let before = std::fs::read_to_string(bench.path("config.lock")).expect("a lock file");
    let run = bench.ok("habitat outdated config.yaml --format json");
    let base = "debian://small?packages=tool";
    assert_eq!(
        run.json(),
        json!([
            {"name": "./site/repo#main", "source": "./site/repo#main", "locked": first, "available": third},
            {"name": "tool", "source": base, "locked": "1.0", "available": "2.0"},
            {"name": far, "source": far, "locked": first, "available": third},
        ]),
        "{}",
        run.both()
    );
    let text = bench.ok("habitat outdated config.yaml").out();
    let row = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("name"), ["name", "locked", "available"]);
    assert_eq!(row("tool"), ["tool", "1.0", "2.0"]);
    // To look is not to touch.
    let after = std::fs::read_to_string(bench.path("config.lock")).expect("a lock file");
    assert_eq!(after, before);

    let run = bench.ok("habitat upgrade config.yaml ./site");
    assert!(
        run.out()
            .starts_with(&format!("changed  ./site/repo#main  {first} -> {third}\n")),
        "{}",
        run.both()
    );
    let (was, is) = (
        serde_json::from_str::<serde_json::Value>(&before).expect("JSON"),
        lock_of(&bench.path("config.lock")),
    );
    assert_ne!(was["sources"][0], is["sources"][0]);
    assert_eq!(was["sources"][1], is["sources"][1]);
    assert_eq!(was["sources"][2], is["sources"][2]);
    bench
        .shmocker("habitat upgrade config.yaml library")
        .expect(1, &["has no `library`", "is a package of"]);
    bench
        .shmocker("habitat upgrade config.yaml repo")
        .expect(1, &["may be several sources"]);

    bench.ok("habitat upgrade config.yaml");
    bench.built("habitat build config.yaml --frozen");
    assert_eq!(
        inside(bench, "cat /usr/share/tool /workspace/far/file"),
        "tool two\nthree\n"
    );
}

#[test]
fn an_image_of_this_machine_is_pinned_by_its_digest() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "lock-image");
    let layout = need!(busybox::layout());
    bench.tree(layout, "base");
    bench.file("config.yaml", "name: locked\nbase:\n  oci: base\n");
    bench.ok("habitat lock config.yaml");
    let lock = lock_of(&bench.path("config.lock"));
    let digest = Layout::read(layout).digest();
    assert_eq!(lock["sources"][0]["source"], "oci-layout://./base");
    assert_eq!(
        lock["sources"][0]["pin"]["image"]["digest"],
        digest.as_str()
    );
    bench.built("habitat build config.yaml --frozen");

    // Another image in its place is refused, frozen or not.
    bench.file("made/Dockerfile", "FROM base\nRUN echo other > /other\n");
    bench.built(
        "build --build-context base=oci-layout://base -o type=oci,tar=false,dest=other made",
    );
    bench.sh("rm -r base && mv other base");
    for line in [
        "habitat build config.yaml --frozen",
        "habitat build config.yaml",
    ] {
        bench.shmocker(line).tells(
            6,
            &[
                "is not what config.lock pins it to",
                &digest,
                "habitat upgrade config.yaml 'oci-layout://./base'",
                "config.yaml:",
            ],
        );
    }
    bench.ok("habitat upgrade config.yaml");
    bench.built("habitat build config.yaml --frozen");
}

#[test]
fn a_lock_file_that_is_none_is_pointed_at() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "lock-malformed");
    let layout = need!(busybox::layout());
    bench.file(
        "config.yaml",
        format!("name: locked\nbase:\n  oci: {}\n", layout.display()),
    );
    bench.file("config.lock", "{\n  \"version\": 1,\n<<<<<<< HEAD\n");
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["config.lock:3", "cannot be read"]);
    bench.file("config.lock", "{ \"version\": 2, \"new\": [] }\n");
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["version 2"]);
}

#[test]
fn a_tool_that_says_no_hash_is_pinned_by_the_first_build() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "lock-tool");
    let layout = need!(busybox::layout());
    bench.file("site/stamped/tool", "#!/bin/sh\necho one\n");
    bench.sh("touch -d @1700000000 site/stamped/tool");
    let site = Site::new(&bench.path("site"));
    let url = site.url("stamped/tool");
    bench.file(
        "config.yaml",
        format!(
            "name: locked\nbase: {{oci: {}}}\ntools:\n  - {{name: tool, url: \"{url}\", direct_binary: true}}\n",
            layout.display()
        ),
    );
    bench.built("habitat build config.yaml");
    let lock = lock_of(&bench.path("config.lock"));
    let sum = digest_of(b"#!/bin/sh\necho one\n");
    assert_eq!(
        lock["sources"],
        json!([{"source": url, "pin": {"http": {"sha256": sum, "size_bytes": 19, "modified": "2023-11-14T22:13:20Z"}}}])
    );
    site.asked();
    let again = bench.built("habitat build config.yaml --pull");
    assert_eq!((again.steps_run(), site.methods().len()), (0, 0));

    // Another file at that address is refused, wherever the first one is not at hand.
    bench.file("site/stamped/tool", "#!/bin/sh\necho two\n");
    let run = in_store(
        &bench,
        &format!("--store {} ", bench.path("other").display()),
        "habitat build config.yaml",
    );
    run.tells(
        6,
        &[
            "is not what config.lock pins it to",
            &sum,
            "habitat upgrade config.yaml",
        ],
    );
    // A builder without a lock is told by the Dockerfile.
    let text = bench.ok("habitat render config.yaml").out();
    assert!(text.contains(&format!("--checksum={sum}")), "{text}");

    let outdated = bench
        .ok("habitat outdated config.yaml --format json")
        .json();
    assert_eq!(outdated[0]["locked"], sum.as_str());
    bench.ok("habitat upgrade config.yaml tool");
    bench.built("habitat build config.yaml --frozen");
    assert_eq!(inside(&bench, "tool"), "two\n");
}
