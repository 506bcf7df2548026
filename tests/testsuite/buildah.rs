//! The Dockerfiles of buildah's tests, each built here and on BuildKit: the same tree and configuration, or an error on
//! both. Every one that says nothing about the two, and every one in which they differ, is listed with its reason.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::debian;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, fixture, need};
use crate::peers::buildkit::buildkit;
use crate::peers::pairs::{Case, Listed, build, judge};

/// What those images are here, which their Dockerfiles take from a registry.
const BUSYBOXES: &[&str] = &[
    "alpine",
    "busybox",
    "mirror.gcr.io/alpine",
    "mirror.gcr.io/busybox",
    "mirror.gcr.io/busybox@sha256:9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7",
    "quay.io/libpod/testimage:20241011",
];
/// Those that must have a Debian's or another large distribution's programs.
const DEBIANS: &[&str] = &["ubuntu", "fedora", "quay.io/libpod/centos:7"];

const WRONG: &str = "it is wrong, and both say so";
const FAILS: &str = "its RUN fails, as it is meant to";
const IMAGE: &str = "its base is an image of a registry, or one that another test of buildah makes";
const NETWORK: &str = "it takes something from the Internet";
const TEST: &str = "it takes something from the test that runs it: a server, a mount, a device";
const SECRET: &str = "its secret comes from the test that runs it";
const CONTEXT: &str = "a file of its context is not among the fixtures";
const BASE: &str = "it needs what a busybox or Debian here does not have";
const VOLUME: &str = "it relies on buildah's making directories for VOLUME";
const ENTITLED: &str = "--network=host has to be allowed";
const ARGS: &str = "its build arguments come from the test that runs it";
const STAGE: &str = "buildah's names of stages may hold what BuildKit's may not";

/// Why something is not the same.
const NOTHING: &str =
    "BuildKit does not find `/` or what is before `/./` when --parents has nothing behind it";
const XATTRS: &str = "BuildKit leaves all attributes but capabilities out of layers";
const RELABEL: &str = "`z` of a mount is podman's; it is accepted here and means nothing";
const LINK: &str = "BuildKit writes a further name of an earlier layer's file as a file of its own";

/// What is to be said of the conformance cases.
const CONFORMANCE: Listed = Listed {
    not_built: &[],
    fail_on_both: &[
        ("add", NETWORK),
        ("copy-integration3", WRONG),
        ("copy-multiple-missing-file-with-glob", WRONG),
        ("copy-multiple-some-missing", WRONG),
        ("dockerignore-allowlist-alternating-nothing", WRONG),
        ("dockerignore-allowlist-alternating-other", WRONG),
        ("dockerignore-allowlist-subdir-nofile-dir", WRONG),
        ("dockerignore-allowlist-subdir-nofile-file", WRONG),
        ("env-invalid-ssquote", WRONG),
        ("environment", WRONG),
        ("header-builtin", IMAGE),
        ("mount", TEST),
        ("mount-targets-mount", CONTEXT),
        ("mount-targets-new", CONTEXT),
        ("mount-targets-old", CONTEXT),
        ("quoted and inherited arg", BASE),
        ("replace-directory-with-symlink", WRONG),
        ("replace-directory-with-symlink-subdir", WRONG),
        ("replace-symlink-with-directory", WRONG),
        ("replace-symlink-with-directory-subdir", WRONG),
        ("transient-mount", TEST),
    ],
    differ: &[
        ("copy--parents-all-directories", NOTHING),
        (
            "copy--parents-directory-limit-parents-unknown-count-parent-directories",
            NOTHING,
        ),
        (
            "setuid-file-in-context",
            "a rootless BuildKit loses set-id bits of a context; one that runs as root keeps them",
        ),
        ("xattrs-file-in-context", XATTRS),
        ("xattrs-file-in-other-stage", XATTRS),
    ],
    by_chance: &[("ci-pipeline-modified", "env-contents.txt")],
};

/// What is to be said of the other Dockerfiles.
const BUD: Listed = Listed {
    not_built: &[(
        "long-sleep/Dockerfile",
        "it sleeps for five minutes, and is there to be killed",
    )],
    fail_on_both: &[
        ("add-checksum/Containerfile", NETWORK),
        ("add-checksum/Containerfile.bad", WRONG),
        ("add-checksum/Containerfile.bad-checksum", NETWORK),
        ("add-chmod/Dockerfile.bad", WRONG),
        ("add-chown/Dockerfile.bad", WRONG),
        ("arg-scope/Containerfile.copy-from-arg", WRONG),
        (
            "arg-scope/Containerfile.stage-overrides-header-copy-from",
            WRONG,
        ),
        ("base-with-arg/Containerfile", STAGE),
        ("base-with-arg/Containerfilebad", WRONG),
        ("buildkit-mount-from/Dockerfilebindfrom", IMAGE),
        ("buildkit-mount-from/Dockerfilebindfromrelative", IMAGE),
        ("buildkit-mount-from/Dockerfilebindfromwithoutsource", IMAGE),
        ("buildkit-mount-from/Dockerfilebindfromwriteable", IMAGE),
        ("buildkit-mount-from/Dockerfilecachefromimage", IMAGE),
        ("buildkit-mount/Dockerfilecacheread", FAILS),
        ("buildkit-mount/Dockerfilecachereadwithoutz", FAILS),
        ("buildkit-mount/Dockerfiletmpfscopyup", WRONG),
        ("cache-chown/Dockerfile.url1", TEST),
        ("cache-chown/Dockerfile.url2", TEST),
        ("cdi/Dockerfile", TEST),
        ("containerfile/Containerfile.in", WRONG),
        ("containerignore/Dockerfile", WRONG),
        ("context-escape-dir/testdir/Containerfile", WRONG),
        ("copy-archive/Containerfile", CONTEXT),
        ("copy-chmod/Dockerfile.bad", WRONG),
        ("copy-chown/Dockerfile.bad", WRONG),
        ("copy-from-stage-scoped-arg/Containerfile", WRONG),
        (
            "copy-from-stage-scoped-arg/Containerfile.multi-copy-arg-override",
            WRONG,
        ),
        ("copy-from/Dockerfile", IMAGE),
        ("copy-from/Dockerfile.bad", WRONG),
        ("copy-from/Dockerfile2.bad", WRONG),
        ("copy-globs/Dockerfile", WRONG),
        ("copy-multistage-paths/Dockerfile.invalid_from", WRONG),
        ("device/Dockerfile", TEST),
        ("dockerignore3/Dockerfile", WRONG),
        ("dockerignore4/Dockerfile.test", WRONG),
        ("env/Dockerfile.env-from-image", IMAGE),
        ("env/Dockerfile.env-precedence", IMAGE),
        ("exit42/Containerfile", FAILS),
        ("from-base/Containerfile", IMAGE),
        ("from-invalid-registry/Containerfile", IMAGE),
        ("from-multiple-files/Dockerfile2.nofrom", WRONG),
        ("from-with-arg/Containerfile", ARGS),
        ("heredoc/Containerfile.she_bang", BASE),
        ("heredoc/Containerfile.verify_mount_leak", FAILS),
        ("inline-network/Dockerfile1", ENTITLED),
        ("inline-network/Dockerfile2", NETWORK),
        ("inline-network/Dockerfile3", WRONG),
        ("masks/Containerfile", CONTEXT),
        ("multi-stage-builds/Dockerfile.arg_in_copy", WRONG),
        ("multi-stage-only-base/Containerfile3", TEST),
        ("multiarch/Containerfile.reset-platform", ARGS),
        ("multiarch/Dockerfile", BASE),
        ("multiarch/Dockerfile.fail-multistage", FAILS),
        ("namespaces/Containerfile", CONTEXT),
        ("no-history/Dockerfile", IMAGE),
        ("no-hostname/Containerfile", BASE),
        ("no-hostname/Containerfile.noetc", FAILS),
        ("onbuild/Dockerfile1", IMAGE),
        ("run-mounts/Dockerfile.secret", SECRET),
        ("run-mounts/Dockerfile.secret-access", SECRET),
        ("run-mounts/Dockerfile.secret-mode", SECRET),
        ("run-mounts/Dockerfile.secret-options", SECRET),
        ("run-mounts/Dockerfile.secret-required", SECRET),
        ("run-mounts/Dockerfile.secret-required-false", SECRET),
        ("run-mounts/Dockerfile.secret-required-wo-value", SECRET),
        ("run-mounts/Dockerfile.ssh", IMAGE),
        ("run-mounts/Dockerfile.ssh_access", IMAGE),
        ("run-mounts/Dockerfile.ssh_options", IMAGE),
        ("run-privd/Dockerfile", TEST),
        (
            "save-stages/Dockerfile.arg-build-stages-and-chained-build-stages",
            STAGE,
        ),
        (
            "save-stages/Dockerfile.chained-two-build-stages-no-aliases",
            IMAGE,
        ),
        ("secret-relative/Dockerfile", SECRET),
        ("symlink/Dockerfile", VOLUME),
        ("symlink/Dockerfile.multiple-symlinks", VOLUME),
        ("unrecognized/Dockerfile", WRONG),
        ("use-layers/Dockerfile", TEST),
        ("use-layers/Dockerfile.3", CONTEXT),
        ("use-layers/Dockerfile.4", CONTEXT),
        ("use-layers/Dockerfile.dangling-symlink", CONTEXT),
        ("use-layers/Dockerfile.fail-case", WRONG),
        ("use-layers/Dockerfile.multistage-copy", CONTEXT),
        ("use-layers/Dockerfile.non-existent-registry", IMAGE),
        ("verify-cleanup/Dockerfile", FAILS),
        ("volume-perms/Dockerfile", VOLUME),
    ],
    differ: &[
        ("buildkit-mount/Containerfile5", RELABEL),
        ("buildkit-mount/Dockerfile", RELABEL),
        ("buildkit-mount/Dockerfile2", RELABEL),
        ("buildkit-mount/Dockerfile3", RELABEL),
        ("buildkit-mount/Dockerfile4", RELABEL),
        ("buildkit-mount/Dockerfile6", RELABEL),
        ("buildkit-mount/Dockerfilecachewrite", RELABEL),
        ("buildkit-mount/Dockerfilecachewritesharing", RELABEL),
        ("buildkit-mount/Dockerfilemultiplemounts", RELABEL),
        ("copy-parents/Containerfile-hardlinks", NOTHING),
        ("layers-squash/Dockerfile.hardlinks", LINK),
    ],
    by_chance: &[],
};

#[test]
fn the_cases_on_which_buildah_agrees_with_docker() {
    let user = need!(machine::plain_user());
    let fixtures = need!(fixture("buildah/conformance"));
    need!(buildkit());
    let bench = Bench::new(&user, "buildah-conformance");
    let cases: Vec<Value> = serde_json::from_slice(
        &std::fs::read(fixtures.join("cases.json")).expect("the cases can be read"),
    )
    .expect("the cases are JSON");
    assert_eq!(cases.len(), 187);
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    let cases: Vec<Case> = cases
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let mut made = conformance_case(&bench, &fixtures.join("testdata"), number, case);
            // Some bear the same name.
            let count = names.entry(made.name.clone()).or_default();
            *count += 1;
            if *count > 1 {
                made.name.push_str(&format!(" ({count})"));
            }
            made
        })
        .collect();
    build_and_judge(&bench, cases, &CONFORMANCE);
}

#[test]
fn the_dockerfiles_that_buildahs_tests_build() {
    let user = need!(machine::plain_user());
    let fixtures = need!(fixture("buildah/bud"));
    need!(buildkit());
    let bench = Bench::new(&user, "buildah-bud");
    writable_tree(&bench, &fixtures, "bud");
    let mut files = Vec::new();
    find(&bench.path("bud"), &mut files);
    let is_dockerfile = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        (name.contains("dockerfile") || name.contains("containerfile"))
            && !name.ends_with("dockerignore")
            && !name.ends_with("containerignore")
    };
    let cases: Vec<Case> = files
        .iter()
        .filter(is_dockerfile)
        .map(|path| Case {
            name: path
                .strip_prefix(bench.path("bud"))
                .expect("it lies below")
                .display()
                .to_string(),
            context: path.parent().expect("a file has a parent").to_owned(),
            dockerfile: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            args: arguments(path),
            ..Case::default()
        })
        .collect();
    build_and_judge(&bench, cases, &BUD);
}

fn arguments(dockerfile: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dockerfile).unwrap_or_default();
    ARGUMENTS
        .iter()
        .filter(|(name, _)| text.contains(&format!("ARG {name}\n")))
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a directory can be read")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() && !entry.is_symlink() {
            find(&entry, files);
        } else {
            files.push(entry);
        }
    }
}

/// Copies a tree of the fixtures, which are kept read-only.
fn writable_tree(bench: &Bench, from: &Path, to: &str) {
    bench.tree(from, to);
    bench.sh(&format!("chmod -R u+w {to}"));
}

/// Lays out the context of a case.
fn conformance_case(bench: &Bench, testdata: &Path, number: usize, case: &Value) -> Case {
    let text = |field: &str| case[field].as_str().unwrap_or_default();
    let place = format!("contexts/{number}");
    bench.sh("mkdir -p contexts");
    match text("contextDir") {
        "" => {
            bench.sh(&format!("mkdir {place}"));
        }
        dir => {
            writable_tree(bench, &testdata.join(dir), &place);
        }
    }
    let mut dockerfile = text("dockerfile").to_owned();
    if let Some(content) = case["dockerfileContents"].as_str() {
        dockerfile = "Dockerfile".to_owned();
        bench.file(&format!("{place}/Dockerfile"), content);
    } else if dockerfile.is_empty() {
        dockerfile = "Dockerfile".to_owned();
    } else if !bench.path(&format!("{place}/{dockerfile}")).exists() {
        bench.tree(
            &testdata.join(&dockerfile),
            &format!("{place}/{dockerfile}"),
        );
    }
    for op in case["context_ops"].as_array().into_iter().flatten() {
        change(bench, &place, op);
    }
    Case {
        name: text("name").to_owned(),
        context: bench.path(&place),
        dockerfile,
        args: case["buildArgs"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        ..Case::default()
    }
}

/// The bits that the cases mean by a name: their recording has lost them.
fn bits_of(name: &str) -> u32 {
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("should-be-").unwrap_or(name);
    [
        ("setuid-", 0o4000),
        ("setgid-", 0o2000),
        ("sticky-", 0o1000),
    ]
    .iter()
    .find(|(prefix, _)| name.starts_with(prefix))
    .map_or(0, |(_, bit)| *bit)
}

/// One of the things that a case does to its context. Owners are left as they are: a context has none.
fn change(bench: &Bench, place: &str, op: &Value) {
    let path = format!("{place}/{}", op["path"].as_str().expect("a path"));
    let mode = |value: &Value, usual: u32| {
        value
            .as_str()
            .and_then(|mode| u32::from_str_radix(mode, 8).ok())
            .unwrap_or(usual)
    };
    let set_mode = |mode: u32| {
        let mode = mode | bits_of(&path);
        std::fs::set_permissions(bench.path(&path), std::fs::Permissions::from_mode(mode))
            .expect("a mode can be set");
    };
    match op["op"].as_str() {
        Some("write") => {
            bench.file(&path, op["content"].as_str().unwrap_or_default());
            // The cases were made to be read by root.
            set_mode(mode(&op["mode"], 0o644) | 0o400);
        }
        Some("mkdir") => {
            bench.sh(&format!("mkdir -p '{path}'"));
            set_mode(mode(&op["mode"], 0o755));
        }
        // Two of one size and time, in contexts one after the other, are the same file to BuildKit.
        Some("chtimes") => {}
        Some("lsetxattrs") => {
            let path = bench.path(&path);
            rustix::fs::lsetxattr(&path, "user.a", b"test", rustix::fs::XattrFlags::empty())
                .expect("an attribute can be set");
        }
        Some("archive") => {
            let mut tar = tar::Builder::new(Vec::new());
            for entry in op["archive"]["entries"].as_array().into_iter().flatten() {
                let name = entry["name"].as_str().expect("a name");
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(match entry["type"].as_str() {
                    Some("dir") => tar::EntryType::Directory,
                    _ => tar::EntryType::Regular,
                });
                let content = entry["content"].as_str().unwrap_or_default();
                header.set_size(content.len() as u64);
                header.set_mode(mode(&entry["mode"], 0o755) | bits_of(name));
                header.set_uid(entry["uid"].as_u64().unwrap_or_default());
                header.set_gid(entry["gid"].as_u64().unwrap_or_default());
                header.set_mtime(1_485_449_953);
                tar.append_data(&mut header, name, content.as_bytes())
                    .expect("memory can be written");
            }
            bench.file(&path, tar.into_inner().expect("memory can be written"));
        }
        Some("chown") => {}
        other => panic!("{other:?} is new"),
    }
}

/// What buildah's tests give, where it says something here too; used where a Dockerfile has that ARG.
const ARGUMENTS: &[(&str, &str)] = &[
    ("SAFEIMAGE", "busybox"),
    ("CUSTOM_TARGET", "first"),
    ("app_type", "x"),
    ("another_app_type", "x"),
];

/// The images that a case names.
fn bases(case: &Case) -> Result<Vec<(String, PathBuf)>, Lack> {
    let layout = busybox::layout()?;
    let mut bases: Vec<(String, PathBuf)> = BUSYBOXES
        .iter()
        .map(|name| ((*name).to_owned(), layout.to_owned()))
        .collect();
    let text = std::fs::read(case.context.join(&case.dockerfile)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if DEBIANS.iter().any(|name| text.contains(name)) {
        let debian = debian::base()?;
        bases.extend(
            DEBIANS
                .iter()
                .map(|name| ((*name).to_owned(), debian.to_owned())),
        );
    }
    Ok(bases)
}

/// A frontend by its name would be an image of a registry: both have it built in.
fn without_frontend(bench: &Bench, case: &Case) {
    let file = case.context.join(&case.dockerfile);
    let Ok(text) = std::fs::read_to_string(&file) else {
        return;
    };
    if let Some(rest) = text.strip_prefix("# syntax=") {
        let path = file.strip_prefix(bench.project());
        let path = path.expect("it lies there").display().to_string();
        bench.file(&path, format!("# frontend {rest}"));
    }
}

fn build_and_judge(bench: &Bench, mut cases: Vec<Case>, listed: &Listed) {
    for case in &cases {
        without_frontend(bench, case);
    }
    let mut lack = None;
    cases.retain_mut(|case| match bases(case) {
        Ok(bases) => {
            case.bases = bases;
            true
        }
        Err(why) => {
            lack = Some(why);
            false
        }
    });
    if let Some(lack) = lack {
        lack.skip();
    }
    judge(&build(bench, &cases, listed), listed);
}
