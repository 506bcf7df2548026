//! The store: what it holds, what of it goes and what stays, whether it is whole; and past builds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::bench::{Bench, status_of};
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, Lack, need};
use crate::harness::processes::wait_until;

/// A build with two stages, a cache mount and files of other users.
const DOCKERFILE: &str = "FROM base AS tools\n\
     RUN --mount=type=cache,target=/c,id=kept head -c 3000000 /dev/zero > /big && echo x > /c/x && echo y > /c/.wh.y\n\
     FROM base\n\
     COPY --from=tools /big /big\n\
     RUN echo one > /one && chown 7:7 /one && chmod 600 /one\n";

fn bench(name: &str) -> Result<(Bench, String), Lack> {
    let user = machine::plain_user()?;
    let base = busybox::context()?;
    let bench = Bench::new(&user, name);
    bench.file("Dockerfile", DOCKERFILE);
    Ok((bench, format!("build {base} .")))
}

/// What `cache du --format json` says, its totals checked against its rows and these against each other.
fn usage(bench: &Bench) -> Value {
    let usage = bench.ok("cache du --verbose --format json").json();
    let mut total = usage["index_bytes"].as_u64().expect("a number");
    for group in usage["groups"].as_array().expect("groups") {
        let mut in_group = 0;
        for row in group["rows"].as_array().expect("rows") {
            let records = row["records"].as_array().expect("records");
            let sizes = records
                .iter()
                .filter_map(|record| record["size_bytes"].as_u64());
            assert_eq!(row["size_bytes"], sizes.sum::<u64>(), "{row:#}");
            in_group += row["size_bytes"].as_u64().expect("a number");
        }
        assert_eq!(group["size_bytes"], in_group, "{group:#}");
        total += in_group;
    }
    assert_eq!(usage["total_bytes"], total, "{usage:#}");
    usage
}

/// The size and keeper of a row.
fn row(usage: &Value, group: &str, name: &str, part: Option<&str>) -> Option<(u64, String)> {
    let groups = usage["groups"].as_array().expect("groups");
    let group = groups.iter().find(|found| found["group"] == group)?;
    let rows = group["rows"].as_array().expect("rows");
    let found = rows.iter().find(|row| {
        row["name"]
            .as_str()
            .is_some_and(|found| found.ends_with(name))
            && row["part"].as_str() == part
    })?;
    let keeper = found["kept_by"].as_str().unwrap_or("nothing").to_owned();
    Some((found["size_bytes"].as_u64()?, keeper))
}

#[test]
fn usage_is_told_by_what_people_ask_and_nothing_counts_twice() {
    let (bench, build) = need!(bench("du"));
    bench.ok(&format!("{build} -t app:1"));
    let first = usage(&bench);
    let (tools, _) = row(&first, "builds", "/Dockerfile", Some("tools")).expect("a stage");
    let (last, keeper) = row(&first, "builds", "/Dockerfile", Some("1")).expect("a stage");
    // The base is the first stage's, and only once.
    assert!((4_000_000..9_000_000).contains(&tools), "{tools}");
    assert!((3_000_000..3_200_000).contains(&last), "{last}");
    assert_eq!(keeper, "image");
    assert!(row(&first, "images", "app:1", None).is_some());
    assert_eq!(
        row(&first, "cache_mounts", "`kept`", None)
            .expect("a cache")
            .1,
        "last build"
    );
    assert_eq!(first["reclaimable_bytes"], 0);

    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    bench.ok(&format!("{build} -t app:1"));
    let second = usage(&bench);
    assert_eq!(
        row(&second, "builds", "/Dockerfile", None)
            .expect("earlier builds")
            .1,
        "nothing"
    );
    assert!(second["reclaimable_bytes"].as_u64() > Some(0));
    let text = bench.ok("cache du").out();
    for part in [
        "IMAGES",
        "app:1",
        "tools",
        "earlier builds",
        "CACHE MOUNTS",
        "Reclaimable:",
        "Total:",
    ] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    let mounts = bench
        .ok("cache du --filter type=exec.cachemount --format json")
        .json();
    assert_eq!(mounts["groups"].as_array().map(Vec::len), Some(1));
    assert_eq!(mounts["groups"][0]["group"], "cache_mounts");
    bench
        .shmocker("cache du --filter colour=red")
        .expect(2, &["no filter `colour`"]);
}

#[test]
fn what_last_builds_and_named_images_need_stays() {
    let (bench, build) = need!(bench("prune"));
    bench.ok(&format!("{build} -t app:1"));
    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    bench.ok(&format!("{build} -t app:2"));
    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo three"));
    bench.ok(&build);

    // The first two have names, the third is the last build.
    let pruned = bench.ok("cache prune --force --format json").json();
    assert_eq!(
        pruned["removed"].as_array().map(Vec::len),
        Some(0),
        "{pruned:#}"
    );
    bench.ok("rmi app:2");
    let told = bench.ok("cache prune --dry-run --verbose").out();
    assert!(
        told.contains("echo two") && told.contains("Would free:"),
        "{told}"
    );
    let pruned = bench.ok("cache prune --format json").json();
    let removed = pruned["removed"].as_array().expect("an array");
    assert!(
        removed
            .iter()
            .all(|removed| removed["type"] != "exec.cachemount")
    );
    assert_eq!(
        removed
            .iter()
            .filter(|removed| removed["type"] == "regular")
            .count(),
        1
    );
    assert_eq!(bench.built(&build).steps_run(), 0);
    assert_eq!(bench.ok("run app:1 cat /one").out(), "one\n");
    assert_eq!(
        bench.ok("store check --deep --format json").json()["sound"],
        true
    );

    // All: only images with names are left.
    bench.ok("cache prune --all");
    assert_eq!(bench.ok("run app:1 cat /one").out(), "one\n");
    assert_eq!(row(&usage(&bench), "cache_mounts", "`kept`", None), None);
    bench.ok("rmi app:1");
    bench.ok("cache prune -a -f");
    let left = usage(&bench);
    assert_eq!(left["groups"].as_array().map(Vec::len), Some(0), "{left:#}");
    assert_eq!(bench.built(&build).steps_run(), 3);
}

#[test]
fn a_budget_takes_the_longest_unused_first() {
    let (bench, build) = need!(bench("budget"));
    for number in 1..=4 {
        bench.file(
            "Dockerfile",
            format!("FROM base\nRUN head -c 2000000 /dev/zero > /file{number}\n"),
        );
        bench.ok(&build);
        std::thread::sleep(Duration::from_millis(15));
    }
    // The first again: it is the last build now, and the second the longest unused.
    bench.file(
        "Dockerfile",
        "FROM base\nRUN head -c 2000000 /dev/zero > /file1\n",
    );
    bench.ok(&build);
    bench
        .shmocker("cache prune --max-used-space much")
        .expect(2, &["a size is a number of bytes"]);
    let total = usage(&bench)["total_bytes"].as_u64().expect("a number");
    let budget = total - 1_000_000;
    let told = bench
        .ok(&format!("cache prune --verbose --max-used-space {budget}"))
        .out();
    assert!(
        told.contains("/file2") && !told.contains("/file3"),
        "{told}"
    );
    // So much may stay, whatever else is said.
    let stays = bench.ok(&format!(
        "cache prune --format json --keep-storage {budget} --max-used-space 0"
    ));
    assert_eq!(stays.json()["removed"].as_array().map(Vec::len), Some(0));
    let stays = bench
        .ok("cache prune --format json --min-free-space 1kb --reserved-space 1kb")
        .json();
    assert_eq!(
        stays["removed"].as_array().map(Vec::len),
        Some(0),
        "enough is free"
    );
    let told = bench
        .ok("cache prune --verbose --min-free-space 100%")
        .out();
    assert!(
        told.contains("/file3") && told.contains("/file4") && !told.contains("/file1"),
        "{told}"
    );
    let young = bench
        .ok("cache prune --all --filter until=1h --format json")
        .json();
    assert_eq!(young["removed"].as_array().map(Vec::len), Some(0));
    let old = bench
        .ok("cache prune --all --filter unused-for=0s --filter description~=file1 --format json")
        .json();
    assert!(
        old["removed"].as_array().map(Vec::len) >= Some(1),
        "{old:#}"
    );
}

#[test]
fn builds_hold_the_store_to_its_limits() {
    let (bench, build) = need!(bench("limits"));
    let small = bench
        .env("SHMOCKER_STORE_MAX_BYTES", "9MB")
        .env("XDG_CONFIG_HOME", "/nowhere");
    let mut largest = 0;
    for number in 0..8 {
        small.file(
            "Dockerfile",
            format!("FROM base\nRUN head -c 2000000 /dev/zero > /file{number}\n"),
        );
        small.ok(&format!("{build} -t kept"));
        largest = largest.max(usage(&small)["total_bytes"].as_u64().expect("a number"));
        assert_eq!(
            small.built(&format!("{build} -t kept")).steps_run(),
            0,
            "build {number}"
        );
    }
    assert!(largest < 9 << 20, "{largest}");
    assert_eq!(
        small.ok("store check --deep --format json").json()["sound"],
        true
    );

    // What cannot be held to is said, and fails nothing.
    let tight = small.env("SHMOCKER_STORE_MAX_BYTES", "1MB");
    tight.file(
        "Dockerfile",
        "FROM base\nRUN head -c 2000000 /dev/zero > /last\n",
    );
    let run = tight.shmocker(&format!("{build} -t kept"));
    run.expect(0, &["StoreFull", "it may have 1.0 MB"]);
    let wrong = tight.env("SHMOCKER_STORE_KEEP_DAYS", "some");
    wrong
        .shmocker(&build)
        .expect(2, &["SHMOCKER_STORE_KEEP_DAYS is `some`"]);
}

#[test]
fn an_archive_on_standard_input_does_not_stay() {
    let (bench, build) = need!(bench("archive"));
    let build = build.replace(" .", " -");
    let blobs = |bench: &Bench| {
        let listed = std::fs::read_dir(bench.store().join("blobs/sha256")).expect("blobs");
        listed.count()
    };
    let feed = |bench: &Bench| {
        bench.sh(&format!(
            "tar c Dockerfile | {} {build} --progress plain 2>&1",
            bench.shmocker_words()
        ))
    };
    feed(&bench);
    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    feed(&bench);
    let told = bench
        .ok("cache prune --filter type=internal --verbose")
        .out();
    assert!(told.contains("a blob that nothing refers to"), "{told}");
    bench.ok("cache prune");
    assert_eq!(
        blobs(&bench),
        3,
        "manifest, configuration, the layer of the base"
    );
    assert!(feed(&bench).out().contains("0 steps run"));
}

/// kill -9 at any moment of a prune: what is there is whole, and the next prune finishes.
#[test]
fn a_killed_prune_leaves_a_whole_store() {
    let (bench, build) = need!(bench("killed-prune"));
    let mut lines = "FROM base\n".to_owned();
    for number in 0..30 {
        lines.push_str(&format!(
            "RUN for i in $(seq 1 60); do echo {number} > /f{number}-$i; done\n"
        ));
    }
    bench.file("Dockerfile", &lines);
    bench.ok(&format!("{build} -t app"));
    let mut killed = 0;
    for pause_ms in [15, 25, 35, 45, 55, 70, 90] {
        // Half of it belongs to the image, the other half to nobody.
        bench.file("Dockerfile", lines.replace("; do echo", "; do echo again"));
        bench.ok(&build);
        bench.file("Dockerfile", "FROM scratch\nWORKDIR /x\n");
        bench.ok(&build);
        let mut child = bench.start("cache prune", "log");
        std::thread::sleep(Duration::from_millis(pause_ms));
        child.kill().expect("it can be killed");
        killed += u32::from(status_of(child.wait().expect("it has ended")) == 137);
        let checked = bench.shmocker("store check --deep --format json");
        assert_eq!(checked.json()["sound"], true, "{}", checked.both());
        assert_eq!(bench.ok("run app cat /f29-60").out(), "29\n");
    }
    assert!(killed > 0);
    bench.ok("cache prune");
    let left = usage(&bench);
    assert_eq!(left["reclaimable_bytes"], 0, "{left:#}");
    let tmp = std::fs::read_dir(bench.store().join("tmp"))
        .expect("tmp")
        .count();
    assert_eq!(tmp, 0);
}

/// Nothing that a build uses goes, and two that prune at once do not harm each other.
#[test]
fn builds_go_on_while_others_prune() {
    let (bench, build) = need!(bench("prune-meanwhile"));
    bench.file(
        "Dockerfile",
        "FROM base AS one\nRUN --mount=type=cache,target=/c echo > /c/x; sleep 0.3; echo 1 > /a\nRUN sleep 0.3; echo 2 > /b\n\
         FROM base AS two\nRUN sleep 0.2; echo 3 > /c\nCOPY --from=one /a /b /\nRUN sleep 0.4; cat /a /b /c > /d\n",
    );
    for round in 0..3 {
        let mut building = bench.start(&format!("{build} -o type=oci,dest=out.tar"), "log");
        let mut pruned = 0;
        let ended = wait_until(Duration::from_secs(60), || {
            let mut other = bench.start("cache prune --all", "other-log");
            bench.ok("cache prune --all");
            pruned += 1;
            assert_eq!(status_of(other.wait().expect("it has ended")), 0);
            building.try_wait().expect("it can be waited for").is_some()
        });
        assert!(ended.is_some());
        let status = status_of(building.wait().expect("it has ended"));
        let log = std::fs::read_to_string(bench.path("log")).unwrap_or_default();
        assert_eq!(status, 0, "round {round}, {pruned} prunes: {log}");
    }
    bench.ok("cache prune --all");
    assert_eq!(usage(&bench)["groups"].as_array().map(Vec::len), Some(0));
}

/// On a disk without one free byte, a prune makes room.
#[test]
fn a_full_disk_is_emptied() {
    let (bench, build) = need!(bench("full"));
    need!(machine::root());
    let place = PathBuf::from(format!("{}-disk", bench.store().display()));
    std::fs::create_dir(&place).expect("a directory can be made");
    let options = format!(
        "size=40m,uid={},gid={},mode=700",
        bench.user().uid,
        bench.user().gid
    );
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(&place)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return Capability::Root.lack("no tmpfs can be mounted").skip();
    }
    let store = place.join("store");
    let bench = bench.on_store(&store);
    bench.ok(&build);
    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    bench.ok(&build);
    let user = bench.user();
    let filler = place.join("filler");
    let filled = user
        .command("/bin/sh")
        .args([
            "-c",
            &format!("head -c 100000000 /dev/zero > {}; true", filler.display()),
        ])
        .output();
    assert!(filled.is_ok());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN head -c 3000000 /dev/zero > /more\n",
    );
    let full = bench.shmocker(&build);
    assert_ne!(full.status, 0, "{}", full.both());
    let pruned = bench.shmocker("cache prune --all --format json");
    let checked = bench.shmocker("store check --format json");
    std::fs::remove_file(&filler).expect("it can be removed");
    let again = bench.shmocker(&build);
    drop(Command::new("umount").args(["-l"]).arg(&place).status());
    assert_eq!(pruned.status, 0, "{}", pruned.both());
    assert!(
        pruned.json()["removed_bytes"].as_u64() > Some(3_000_000),
        "{}",
        pruned.both()
    );
    assert_eq!(checked.json()["sound"], true, "{}", checked.both());
    assert_eq!(again.status, 0, "{}", again.both());
}

#[test]
fn damage_is_found_told_once_and_mended_by_the_next_build() {
    let (bench, build) = need!(bench("check"));
    bench.ok(&format!("{build} -t app -o type=oci,dest=out.tar"));
    assert_eq!(
        bench.ok("store check --deep --format json").json()["findings"],
        serde_json::json!([])
    );
    let whole = bench.ok("store check").out();
    assert!(whole.contains("all is well"), "{whole}");

    // A flipped bit in the largest blob.
    let blobs = std::fs::read_dir(bench.store().join("blobs/sha256")).expect("blobs");
    let largest = blobs
        .filter_map(Result::ok)
        .max_by_key(|blob| blob.metadata().map_or(0, |seen| seen.len()))
        .expect("a blob")
        .path();
    let mut content = std::fs::read(&largest).expect("it can be read");
    content[100] ^= 1;
    // It may be one more name of the blob in the base's layout.
    bench.sh(&format!(
        "cp {0} {0}.new && mv -f {0}.new {0}",
        largest.display()
    ));
    std::fs::set_permissions(&largest, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    std::fs::write(&largest, content).expect("it can be written");
    let told = bench.shmocker("store check");
    assert_eq!(told.status, 4, "{}", told.both());
    assert!(
        told.out().contains("its content is sha256:"),
        "{}",
        told.both()
    );
    let repaired = bench.ok("store check --repair").out();
    assert!(repaired.contains("put aside"), "{repaired}");
    bench.ok("store check");
    assert_eq!(
        std::fs::read_dir(bench.store().join("blobs/damaged"))
            .expect("damaged")
            .count(),
        1
    );

    // A changed file of a snapshot, as root would leave it behind; a lost record; a lost manifest.
    let find = |what: &str| {
        let run = bench.ok(&format!(
            "unshare grep -rlE {what} {}/snapshots --include=record.json",
            bench.store().display()
        ));
        PathBuf::from(run.out().trim().to_owned())
    };
    let record = find("chown.7:7");
    let file = record.with_file_name("fs").join("one");
    bench.ok_with("unshare sh -c", &format!("echo other > {}", file.display()));
    bench.ok("store check");
    let told = bench.shmocker("store check --deep --format json");
    assert_eq!(told.status, 4, "{}", told.both());
    assert_eq!(told.json()["findings"][0]["what"], "snapshot");
    bench.ok("store check --deep --repair");
    let told = bench.shmocker("store check");
    assert!(
        told.out().contains("image"),
        "its image lacks a layer: {}",
        told.both()
    );
    bench.ok("store check --repair");
    bench.ok("store check");
    let built = bench.built(&format!("{build} -t app"));
    assert_eq!((built.steps_run(), built.steps_cached()), (1, 2));
    assert_eq!(bench.ok("run app cat /one").out(), "one\n");

    let record = find("head.-c");
    bench.sh(&format!("echo '{{' > {}", record.display()));
    let repaired = bench.ok("store check --repair").out();
    assert!(repaired.contains("its record cannot be read"), "{repaired}");
    bench.ok(&format!("{build} -t app"));
    bench.sh(&format!(
        "dd if=/dev/zero of={}/index.sqlite bs=4096 seek=2 count=6 conv=notrunc 2>/dev/null",
        bench.store().display()
    ));
    bench.ok("store check --repair");
    bench.ok("store check");
    assert_eq!(bench.built(&build).steps_run(), 0);
}

#[test]
fn past_builds_are_remembered() {
    let (bench, build) = need!(bench("history"));
    let nothing = bench.ok("history ls --format json").json();
    assert_eq!(nothing, serde_json::json!([]));
    bench
        .shmocker("history inspect")
        .expect(1, &["no build is remembered"]);
    bench.file(
        "Dockerfile",
        "FROM base AS last\nRUN echo hello from the step\nRUN echo done > /x\n",
    );
    bench.ok(&format!("{build} -t app --target last"));
    bench.ok(&format!("{build} -t app --target last"));
    bench.file("Dockerfile", "FROM base\nRUN echo before && false\n");
    bench.shmocker(&build).expect(3, &[]);

    let all = bench.ok("history ls --format json").json();
    let all = all.as_array().expect("an array");
    let of = |at: usize, key: &str| all[at][key].clone();
    assert_eq!(all.len(), 3);
    assert_eq!(
        (of(0, "status"), of(1, "status")),
        ("failed".into(), "ok".into())
    );
    assert_eq!(
        (of(2, "steps_run"), of(2, "steps_cached")),
        (2.into(), 0.into())
    );
    assert_eq!(
        (of(1, "steps_run"), of(1, "steps_cached")),
        (0.into(), 2.into())
    );
    assert_eq!(
        (of(2, "target"), of(2, "names")),
        (
            "last".into(),
            serde_json::json!(["docker.io/library/app:latest"])
        )
    );
    assert!(
        of(2, "digest")
            .as_str()
            .is_some_and(|digest| digest.starts_with("sha256:"))
    );
    assert!(
        of(0, "errors")[0]
            .as_str()
            .is_some_and(|error| error.contains("Dockerfile:2") && error.contains("exit code: 1"))
    );
    assert_eq!(of(0, "ran")[0]["failed"], true);
    let text = bench.ok("history ls").out();
    assert!(
        text.contains("failed") && text.contains("--target last (app)"),
        "{text}"
    );
    assert_eq!(bench.ok("history ls -q").out().lines().count(), 3);

    let id = |at: usize| of(at, "id").as_str().expect("an id").to_owned();
    let log = bench.ok(&format!("history logs {}", id(2))).out();
    assert!(
        log.contains("hello from the step") && log.contains("DONE"),
        "{log}"
    );
    assert!(bench.ok("history logs").out().contains("ERROR"));
    bench
        .shmocker(&format!("history logs {}", id(1)))
        .expect(1, &["all were cached"]);
    let told = bench.ok(&format!("history inspect {}", &id(2)[..6])).out();
    assert!(
        told.contains("2 run, 0 cached") && told.contains("echo hello"),
        "{told}"
    );
    assert_eq!(
        bench.ok("history inspect --format json").json()["id"],
        id(0)
    );

    bench.ok(&format!("history rm {}", id(0)));
    bench
        .shmocker(&format!("history inspect {}", id(0)))
        .expect(1, &["no build with the id"]);
    bench.ok("history rm --all");
    assert_eq!(bench.ok("history ls -q").out(), "");
    // How an image was made is known as long as it is there.
    assert_eq!(
        bench.sh("ls ../store/history | grep -v '[.]recipe$'").out(),
        "builds.jsonl\n"
    );
}

/// Moved to another user's machine, everything is found there; what is cut short or something else is refused.
#[test]
fn a_store_moves_to_another_place() {
    let (bench, build) = need!(bench("export"));
    let base = need!(busybox::context());
    bench.ok(&format!("{build} -t app"));
    bench.ok("store export store.tar");
    let other = Bench::new(bench.user(), "import");
    let archive = bench.path("store.tar");
    let taken = other.ok(&format!("store import {}", archive.display()));
    assert!(taken.stderr.contains("1 cache mounts"), "{}", taken.both());
    // A cache mount is no layer: a file in it may have any name.
    let name = other.sh(&format!("ls -A {}/caches/*", other.store().display()));
    assert_eq!(name.out(), ".wh.y\nx\n");
    assert_eq!(
        other.ok("store check --deep --format json").json()["sound"],
        true
    );
    assert_eq!(other.ok("run app cat /one").out(), "one\n");
    assert_eq!(other.ok("run app stat -c %u:%a /one").out(), "7:600\n");
    other.file("Dockerfile", DOCKERFILE);
    let built = other.built(&format!("build {base} ."));
    assert_eq!((built.steps_run(), built.steps_cached()), (0, 3));
    assert_eq!(built.digest(), bench.built(&build).digest());

    // Again, by way of a pipe: all of it is known.
    let line = format!(
        "{} store export - | {} store import -",
        bench.shmocker_words(),
        other.shmocker_words()
    );
    let again = bench.sh(&line);
    assert!(again.stderr.contains("known already"), "{}", again.both());

    let whole = std::fs::read(&archive).expect("it can be read");
    let third = Bench::new(bench.user(), "import-damaged");
    let mut changed = whole.clone();
    let place = changed
        .windows(4)
        .position(|found| found == b"one\n")
        .expect("a file's content");
    changed[place] = b'O';
    for (content, part) in [
        (&changed[..], "the layer's content is sha256:"),
        (&whole[..whole.len() / 2], "no archive of a store"),
        (&whole[..whole.len() - 1536], "its end is missing"),
        (&b"something else"[..], "no archive of a store"),
    ] {
        third.file("archive", content);
        third.shmocker("store import archive").tells(1, &[part]);
        assert_eq!(
            third.ok("store check --deep --format json").json()["sound"],
            true
        );
    }
    bench
        .shmocker("store export /nowhere/x.tar")
        .expect(1, &["cannot be used"]);
}
