//! BuildKit's own Dockerfile tests, as data: the cases that need nothing but a builder and a directory. What is refused
//! by name is listed here, and must be taken off the list once it works.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::machine::{self, fixture, need};

/// Cases that are known to go another way here, each with what is missing.
const NOT_YET: &[(&str, &str)] = &[];

/// What a step may ask for beside a Dockerfile and files.
const OPTIONS: &[&str] = &["build_args", "no_cache", "filename", "target", "labels"];

/// What can be said without asking BuildKit.
const CHECKS: &[&str] = &[
    "ok",
    "fail",
    "error_contains",
    "error_regex",
    "file_equal",
    "file_equal_trimmed",
    "exists",
    "absent",
    "contains",
    "not_contains",
    "file_same_as_build",
    "file_differs_from_build",
];

#[test]
fn buildkits_own_cases_go_the_same_way() {
    let user = need!(machine::plain_user());
    let layout = need!(busybox::layout());
    let file = need!(fixture("buildkit-cases.json"));
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(file).expect("the cases")).expect("JSON");

    let mut tried = 0;
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|case| is_for_us(case)) {
        let id = case["id"].as_str().expect("an id");
        let expected = NOT_YET.iter().find(|(listed, _)| *listed == id);
        let bench = Bench::new(&user, "case");
        let complaints = go(&bench, case, layout);
        match (complaints.is_empty(), expected) {
            (false, None) => wrong.push(format!("{id}:\n  {}", complaints.join("\n  "))),
            (true, Some((_, reason))) => {
                wrong.push(format!("{id} works; take it off the list ({reason})"))
            }
            _ => {}
        }
        tried += 1;
    }
    assert!(tried >= 50, "only {tried} cases were tried");
    assert!(
        wrong.is_empty(),
        "{} of {tried} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn is_for_us(case: &Value) -> bool {
    let steps = array(case, "steps");
    let is_simple = |step: &Value| {
        let known_options = step["opts"]
            .as_object()
            .is_none_or(|options| options.keys().all(|name| OPTIONS.contains(&name.as_str())));
        let known_checks = array(step, "expect")
            .iter()
            .any(|check| CHECKS.iter().any(|known| check["check"] == *known));
        let known_outputs = array(step, "outputs")
            .iter()
            .all(|output| output["type"] == "local");
        let known_contexts = step["contexts"].as_object().is_none_or(|contexts| {
            contexts.keys().all(|name| name == "context")
                && contexts.values().all(|files| {
                    files
                        .as_array()
                        .is_some_and(|files| files.iter().all(is_plain_file))
                })
        });
        step["op"] == "build"
            && known_options
            && known_checks
            && known_outputs
            && known_contexts
            && step.get("dockerfile").is_some()
            && [
                "http_server",
                "session",
                "prepare",
                "context_archive",
                "source_policy",
                "cache_to",
                "entitlements",
            ]
            .iter()
            .all(|need| step.get(*need).is_none_or(Value::is_null))
    };
    array(case, "needs").is_empty()
        && array(case, "external_refs").is_empty()
        && case["extraction"] == "full"
        && steps.iter().all(is_simple)
        && !steps.is_empty()
}

fn is_plain_file(file: &Value) -> bool {
    ["file", "dir", "symlink"]
        .iter()
        .any(|kind| file["type"] == *kind)
        && file.get("archive").is_none_or(Value::is_null)
}

/// Runs the steps of a case in order; what was not as it should be.
fn go(bench: &Bench, case: &Value, layout: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut outputs: BTreeMap<usize, PathBuf> = BTreeMap::new();
    for (index, step) in array(case, "steps").iter().enumerate() {
        let number = index + 1;
        let context = format!("context-{number}");
        bench.sh(&format!("mkdir -p {context}"));
        for file in step["contexts"]["context"].as_array().into_iter().flatten() {
            write(bench, &context, file);
        }
        let name = step["opts"]["filename"].as_str().unwrap_or("Dockerfile");
        let dockerfile = step["dockerfile"].as_str().unwrap_or_default();
        if !bench.path(&format!("{context}/{name}")).exists() {
            bench.file(&format!("{context}/{name}"), dockerfile);
        }
        let output = bench.path(&format!("out-{number}"));
        let run = build(bench, step, &context, name, &output, layout);
        outputs.insert(number, output);
        let variant = step["variant"].as_str().unwrap_or_default();
        for check in array(step, "expect") {
            if let Some(complaint) = complain(check, &run, &outputs, number) {
                complaints.push(format!("step {number} {variant}: {complaint}"));
            }
        }
    }
    complaints
}

fn build(
    bench: &Bench,
    step: &Value,
    context: &str,
    name: &str,
    output: &Path,
    layout: &Path,
) -> Run {
    let mut command = bench.shmocker_command("build --progress plain");
    for base in ["busybox", "busybox:latest", "alpine", "alpine:latest"] {
        command
            .arg("--build-context")
            .arg(format!("{base}=oci-layout://{}", layout.display()));
    }
    command.arg("-f").arg(format!("{context}/{name}"));
    command
        .arg("-o")
        .arg(format!("type=local,dest={}", output.display()));
    let options = &step["opts"];
    for (flag, field) in [("--build-arg", "build_args"), ("--label", "labels")] {
        for (name, value) in options[field].as_object().into_iter().flatten() {
            command
                .arg(flag)
                .arg(format!("{name}={}", value.as_str().unwrap_or_default()));
        }
    }
    if let Some(target) = options["target"].as_str() {
        command.arg("--target").arg(target);
    }
    match options["no_cache"].as_str() {
        Some("") => drop(command.arg("--no-cache")),
        Some(stages) => drop(command.arg("--no-cache-filter").arg(stages)),
        None => {}
    }
    bench.finish(command.arg(context))
}

fn write(bench: &Bench, context: &str, file: &Value) {
    let path = format!(
        "{context}/{}",
        file["path"]
            .as_str()
            .expect("a path")
            .trim_start_matches('/')
    );
    match file["type"].as_str() {
        Some("dir") => {
            bench.sh(&format!("mkdir -p '{path}'"));
        }
        Some("symlink") => {
            bench.link(&path, file["target"].as_str().expect("a target"));
        }
        _ => {
            bench.file(&path, file["content"].as_str().unwrap_or_default());
        }
    }
    let mode = file["mode"]
        .as_str()
        .and_then(|mode| u32::from_str_radix(mode, 8).ok());
    if let (Some(mode), false) = (mode, file["type"] == "symlink") {
        std::fs::set_permissions(bench.path(&path), std::fs::Permissions::from_mode(mode))
            .expect("a mode can be set");
    }
}

fn complain(
    check: &Value,
    run: &Run,
    outputs: &BTreeMap<usize, PathBuf>,
    number: usize,
) -> Option<String> {
    let kind = check["check"].as_str().unwrap_or_default();
    let path = check["path"].as_str().unwrap_or_default();
    let want = &check["want"];
    let read = |build: usize, path: &str| -> Option<String> {
        let file = outputs.get(&build)?.join(path);
        // The cases call a link's target its content.
        if let Ok(target) = std::fs::read_link(&file) {
            return Some(target.to_string_lossy().into_owned());
        }
        let bytes = std::fs::read(file).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let is_there = outputs
        .get(&number)
        .is_some_and(|output| output.join(path).symlink_metadata().is_ok());
    let last = || {
        run.stderr
            .lines()
            .rev()
            .take(12)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n    ")
    };
    let is_right = match kind {
        "ok" => run.status == 0,
        "fail" | "error_contains" | "error_regex" => run.status != 0 && run.status != 70,
        // The rest says something about files, of which there are none.
        _ if run.status != 0 => true,
        "file_equal" => read(number, path).as_deref() == want.as_str(),
        "file_equal_trimmed" => read(number, path).as_deref().map(str::trim) == want.as_str(),
        "contains" | "not_contains" => {
            read(number, path).is_some_and(|text| text.contains(want.as_str().unwrap_or_default()))
                == (kind == "contains")
        }
        "exists" => is_there,
        "absent" => !is_there,
        "file_same_as_build" | "file_differs_from_build" => {
            let build = want["build"]
                .as_u64()
                .and_then(|build| usize::try_from(build).ok())
                .unwrap_or_default();
            let other = read(build, want["path"].as_str().unwrap_or_default());
            (read(number, path) == other) == (kind == "file_same_as_build")
        }
        _ => true,
    };
    (!is_right).then(|| {
        let found = match read(number, path) {
            Some(text) if kind.starts_with("file") => format!(", but it is {text:?}"),
            _ => format!("\n    exit {}\n    {}", run.status, last()),
        };
        format!("{}{found}", check["expect"].as_str().unwrap_or(kind))
    })
}
