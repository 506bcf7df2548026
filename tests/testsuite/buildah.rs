//! The Dockerfiles of buildah's tests, each built here and on BuildKit: the same tree and configuration, or an error on
//! both. Every one that says nothing about the two, and every one in which they differ, is listed with its reason.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::conformance;
use crate::debian;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, fixture, need};
use crate::peers::buildkit::{BuildKit, Request, buildkit, image_of};

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

/// A Dockerfile with its context.
#[derive(Debug)]
struct Case {
    name: String,
    /// The context, and the Dockerfile in it.
    context: PathBuf,
    dockerfile: String,
    args: Vec<(String, String)>,
}

/// How the two went.
#[derive(Debug)]
enum Outcome {
    Same,
    Differ(Vec<String>),
    BothFail { ours: String, theirs: String },
    OnlyWeFail(String),
    OnlyTheyFail(String),
}

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
    judge(&bench, &cases);
}

#[test]
fn the_dockerfiles_that_buildahs_tests_build() {
    let user = need!(machine::plain_user());
    let fixtures = need!(fixture("buildah/bud"));
    need!(buildkit());
    let bench = Bench::new(&user, "buildah-bud");
    bench.tree(&fixtures, "bud");
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
            args: Vec::new(),
        })
        .collect();
    judge(&bench, &cases);
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
            bench.tree(&testdata.join(dir), &place);
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
    }
}

/// The bits that the cases mean by a name: their recording has lost them.
fn bits_of(name: &str) -> u32 {
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("should-be-").unwrap_or(name);
    [("setuid-", 0o4000), ("setgid-", 0o2000), ("sticky-", 0o1000)]
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
            set_mode(mode(&op["mode"], 0o644));
        }
        Some("mkdir") => {
            bench.sh(&format!("mkdir -p '{path}'"));
            set_mode(mode(&op["mode"], 0o755));
        }
        Some("chtimes") => {
            let time = op["mtime"].as_str().expect("a time");
            bench.sh(&format!("touch -d @{time} '{path}'"));
        }
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

/// Builds every case twice and judges the outcomes.
fn judge(bench: &Bench, cases: &[Case]) {
    let buildkit = buildkit().expect("it was there");
    let busybox = need!(busybox::layout());
    let debian = debian::base();
    let works: Vec<(&Case, Mutex<(Command, Command)>)> = cases
        .iter()
        .filter_map(|case| {
            let text = std::fs::read_to_string(case.context.join(&case.dockerfile)).ok()?;
            let mut bases: Vec<(&str, &Path)> =
                BUSYBOXES.iter().map(|name| (*name, busybox)).collect();
            if DEBIANS.iter().any(|name| text.contains(name)) {
                match &debian {
                    Ok(debian) => bases.extend(DEBIANS.iter().map(|name| (*name, *debian))),
                    Err(_) => return None,
                }
            }
            let work = (ours(bench, case, &bases), theirs(buildkit, case, &bases));
            Some((case, Mutex::new(work)))
        })
        .collect();
    if works.len() < cases.len()
        && let Err(lack) = debian
    {
        lack.skip();
    }

    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((case, work)) = works.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                    let (ours, theirs) = &mut *work;
                    let start = std::time::Instant::now();
                    let outcome = outcome(ours, theirs);
                    if std::env::var_os("SHMOCKER_TEST_TRACE").is_some() {
                        println!("{:?} {} {outcome:?}", start.elapsed(), case.name);
                    }
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(case.name.as_str(), outcome);
                }
            });
        }
    });
    let outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes.values() {
        let word = match outcome {
            Outcome::Same => "the same",
            Outcome::Differ(_) => "different",
            Outcome::BothFail { .. } => "an error on both",
            Outcome::OnlyWeFail(_) => "an error here",
            Outcome::OnlyTheyFail(_) => "an error there",
        };
        *counts.entry(word).or_default() += 1;
    }
    println!("{counts:?}");
}

fn ours(bench: &Bench, case: &Case, bases: &[(&str, &Path)]) -> Command {
    let mut command = bench.shmocker_command("build --progress plain -o type=oci,dest=-");
    for (name, layout) in bases {
        command
            .arg("--build-context")
            .arg(format!("{name}=oci-layout://{}", layout.display()));
    }
    for (name, value) in &case.args {
        command.arg("--build-arg").arg(format!("{name}={value}"));
    }
    command
        .arg("-f")
        .arg(case.context.join(&case.dockerfile))
        .arg(&case.context);
    command
}

fn theirs(buildkit: &BuildKit, case: &Case, bases: &[(&str, &Path)]) -> Command {
    buildkit.command(&Request {
        context: &case.context,
        dockerfile: &case.dockerfile,
        contexts: bases
            .iter()
            .map(|(name, layout)| (*name, (*layout).to_owned()))
            .collect(),
        options: case
            .args
            .iter()
            .map(|(name, value)| format!("build-arg:{name}={value}"))
            .collect(),
    })
}

fn outcome(ours: &mut Command, theirs: &mut Command) -> Outcome {
    let here = ours.output().expect("shmocker can be started");
    let said = || String::from_utf8_lossy(&here.stderr).into_owned();
    match (here.status.success(), image_of(theirs)) {
        (true, Ok(theirs)) => {
            let ours = Layout::of_archive(&here.stdout);
            let found = conformance::differences(&ours, &theirs, &[]);
            if found.is_empty() {
                Outcome::Same
            } else {
                Outcome::Differ(found)
            }
        }
        (true, Err(theirs)) => Outcome::OnlyTheyFail(theirs),
        (false, Ok(_)) => Outcome::OnlyWeFail(said()),
        (false, Err(theirs)) => Outcome::BothFail {
            ours: said(),
            theirs,
        },
    }
}
