//! The Dockerfiles that habitats and examples stand for: each a snapshot, and each built by BuildKit to the same image.

use std::path::{Path, PathBuf};

use crate::conformance::same_image;
use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, User, need};
use crate::peers::buildkit::{BuildKit, Request, buildkit};
use crate::tidy::repository;

/// Every habitat of the repository: `habitats/*/config.yaml` and `examples/*/config.yaml`.
fn habitats() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["habitats", "examples"] {
        for entry in std::fs::read_dir(repository().join(dir))
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.path().join("config.yaml").exists() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn name_of(habitat: &Path) -> String {
    habitat
        .file_name()
        .expect("a habitat has a name")
        .to_string_lossy()
        .into_owned()
}

/// A bench with all habitats side by side, since one may be laid over another.
fn beside_each_other(user: &User, name: &str) -> Bench {
    let bench = Bench::new(user, name);
    for habitat in habitats() {
        bench.tree(&habitat, &name_of(&habitat));
    }
    bench
}

#[test]
fn every_habitat_renders_to_its_snapshot() {
    let user = need!(machine::plain_user());
    let bench = beside_each_other(&user, "render");
    for habitat in habitats() {
        let name = name_of(&habitat);
        assert_eq!(
            bench
                .ok(&format!("habitat check {name}/config.yaml"))
                .stderr,
            "",
            "{name} has a warning"
        );
        let dockerfile = bench
            .ok(&format!("habitat render {name}/config.yaml"))
            .out();
        let dockerfile = dockerfile.replace(&bench.project().display().to_string(), "[PROJECT]");
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(name, dockerfile);
        });
    }
}

/// The contexts that a rendered Dockerfile's head names, with their places below `dir`.
pub(crate) fn contexts(dockerfile: &str, dir: &Path) -> Vec<(String, PathBuf)> {
    dockerfile
        .lines()
        .filter_map(|line| {
            line.strip_prefix('#')?
                .trim()
                .strip_prefix("--build-context ")
        })
        .filter_map(|flag| flag.trim_end_matches('\\').trim().split_once('='))
        .map(|(name, place)| {
            let place = place.strip_prefix("oci-layout://").unwrap_or(place);
            let place = place.split(['@', ':']).next().unwrap_or(place);
            (name.to_owned(), dir.join(place))
        })
        .collect()
}

/// Builds the habitat in `dir` of the bench, and what it renders to on BuildKit: ours, then theirs.
pub(crate) fn both(bench: &Bench, buildkit: &BuildKit, dir: &str) -> (Layout, Layout) {
    bench.built(&format!(
        "habitat build {dir}/config.yaml -o type=oci,dest=ours.tar"
    ));
    bench.ok(&format!("habitat render {dir}/config.yaml --out rendered"));
    let rendered = bench.path("rendered");
    let text = std::fs::read_to_string(rendered.join("Dockerfile")).expect("a Dockerfile");
    let contexts = contexts(&text, &rendered);
    for (context, place) in &contexts {
        assert!(place.exists(), "{context} is not at {}", place.display());
    }
    let theirs = buildkit
        .build(&Request {
            context: &rendered,
            dockerfile: "Dockerfile",
            contexts: contexts
                .iter()
                .map(|(name, place)| (name.as_str(), place.clone()))
                .collect(),
            options: vec!["build-arg:SOURCE_DATE_EPOCH=1700000000".to_owned()],
        })
        .unwrap_or_else(|log| panic!("{dir}: {log}"));
    (Layout::read(&bench.path("ours.tar")), theirs)
}

#[test]
fn every_rendered_habitat_is_the_same_on_buildkit() {
    let user = need!(machine::plain_user());
    need!(machine::debian_archive());
    let buildkit = need!(buildkit());
    for habitat in habitats() {
        // What is laid over another one takes minutes: ready_made.rs builds that, and looks at what it made.
        let text = std::fs::read_to_string(habitat.join("config.yaml")).expect("it is a habitat");
        if text.contains("\nextends:") {
            continue;
        }
        let name = name_of(&habitat);
        let bench = Bench::new(&user, "render-buildkit").env("SOURCE_DATE_EPOCH", "1700000000");
        bench.tree(&habitat, &name);
        let (ours, theirs) = both(&bench, buildkit, &name);
        // Python writes the mtime of the source into what it compiles.
        same_image(&ours, &theirs, &["srv/web/__pycache__"]);
    }
}
