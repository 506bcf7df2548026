//! Tests against the fixtures that lie beside the project; a printed skip where they are not there. Each test collects
//! all rows that differ, so that one run shows them all.

use serde_json::Value;

use super::*;
use crate::dockerfile::fixtures::{agree, fixture};
use crate::dockerfile::{Severity, parse_with_checks};
use crate::graph::Source;

fn json(path: &str) -> Option<Value> {
    fixture(path).map(|text| serde_json::from_str(&text).unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Lowers with a plain configuration for every image that is asked for; with the warnings of both steps, or all
/// problems.
fn lowered(dockerfile: &str, options: &Options) -> Result<Vec<Problem>, Vec<Problem>> {
    let checks = options
        .build_args
        .get("BUILDKIT_DOCKERFILE_CHECK")
        .map(String::as_str);
    let parsed = parse_with_checks(dockerfile, checks);
    let mut problems = parsed.problems;
    if problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        return Err(problems);
    }
    let mut resolved = Resolved::default();
    loop {
        match lower(&parsed.dockerfile, options, &resolved) {
            Err(mut more) => {
                problems.append(&mut more);
                return Err(problems);
            }
            Ok(Lowering::Done(mut lowered)) => {
                problems.append(&mut lowered.warnings);
                return Ok(problems);
            }
            Ok(Lowering::Needs(needs)) => {
                assert!(!needs.is_empty());
                for need in needs {
                    let source = match need {
                        Need::Config(source) => source,
                        Need::File(file) => {
                            resolved.file(file, None);
                            continue;
                        }
                    };
                    let mut config = ImageConfig {
                        os: "linux".into(),
                        ..ImageConfig::default()
                    };
                    config.architecture = "amd64".into();
                    config.config.env = vec!["PATH=/usr/bin:/bin".to_owned()];
                    resolved.found(source, config);
                }
            }
        }
    }
}

/// The options of a case of BuildKit's.
fn options_of(step: &Value) -> Options {
    let opts = &step["opts"];
    let mut options = Options {
        file: "Dockerfile".to_owned(),
        ..Options::default()
    };
    options.target = opts["target"].as_str().map(str::to_owned);
    for (name, value) in opts["build_args"].as_object().into_iter().flatten() {
        options
            .build_args
            .insert(name.clone(), text(value).to_owned());
    }
    for (name, value) in opts["named_contexts"].as_object().into_iter().flatten() {
        let image =
            text(value).starts_with("docker-image") || text(value).starts_with("oci-layout");
        let local = Source::Local { name: name.clone() };
        let source = if image {
            Source::Image(crate::graph::ImageSource::new(name.clone()))
        } else {
            local
        };
        options.contexts.insert(name.clone(), source);
    }
    let ignore = rows(&step["contexts"]["context"]).find(|file| file["path"] == ".dockerignore");
    let ignore = ignore.or_else(|| step["contexts"]["context"].get(".dockerignore"));
    let content = ignore.map(|file| file.get("content").unwrap_or(file));
    if let Some(content) = content {
        options.ignore =
            crate::dockerfile::ignore::IgnoreFile::parse(text(content)).unwrap_or_default();
    }
    options
}

fn dockerfile_of(step: &Value) -> Option<String> {
    let commit = "0123456789012345678901234567890123456789";
    let file = step["dockerfile"]
        .as_str()?
        .replace("{{server}}", "http://localhost:1");
    let mut file = file.replace("{{registry}}", "localhost:5000");
    while let Some(start) = file.find("{{git:") {
        let end = start + file[start..].find("}}")? + 2;
        file.replace_range(start..end, commit);
    }
    Some(file)
}

/// Parts of errors that come before anything is run: what BuildKit's frontend says of the file itself.
const SAID_OF_THE_FILE: [&str; 13] = [
    "did you mean",
    "unknown instruction",
    "invalid chmod",
    "foo missing",
    "no stages to build",
    "ref conflicts",
    "variable expansion",
    "needs to be defined before",
    "invalid SOURCE_DATE_EPOCH",
    "lint violation found",
    "empty platform",
    "failed to parse platform",
    "not a valid",
];

#[test]
fn buildkits_cases_lower_or_are_refused_as_there() {
    let Some(cases) = json("buildkit-cases.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut count = 0;
    for case in rows(&cases) {
        for step in rows(&case["steps"]) {
            let Some(file) = dockerfile_of(step) else {
                continue;
            };
            let found = lowered(&file, &options_of(step));
            let checks = || rows(&step["expect"]).map(|check| text(&check["check"]));
            let wrong_file = rows(&step["expect"])
                .filter(|check| text(&check["check"]) == "error_contains")
                .any(|check| {
                    SAID_OF_THE_FILE
                        .iter()
                        .any(|part| text(&check["want"]).contains(part))
                });
            let fails = checks().any(|check| check == "fail" || check.starts_with("error_"));
            count += 1;
            // What fails only when it is run is no matter of the frontend.
            let same = if wrong_file {
                found.is_err()
            } else {
                fails || found.is_ok()
            };
            if !same {
                differences.push(format!(
                    "{} {}: {found:?}\n{file}",
                    case["id"], step["variant"]
                ));
            }
        }
    }
    agree("buildkit-cases.json, lowered", count, &differences);
}

/// A warning as BuildKit words it.
fn worded(problem: &Problem) -> (String, u64, String) {
    let line = problem.span.map_or(0, |span| u64::from(span.line));
    (problem.code.to_owned(), line, problem.message.clone())
}

#[test]
fn buildkits_warnings_are_given() {
    let Some(cases) = json("buildkit-cases.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut count = 0;
    for case in rows(&cases) {
        for step in rows(&case["steps"]) {
            let Some(file) = dockerfile_of(step) else {
                continue;
            };
            let told =
                |check: &&Value| ["lint_warning", "no_warnings"].contains(&text(&check["check"]));
            let expected: Vec<&Value> = rows(&step["expect"]).filter(told).collect();
            if expected.is_empty() {
                continue;
            }
            count += 1;
            let (Ok(problems) | Err(problems)) = lowered(&file, &options_of(step));
            let is_rule =
                |problem: &&Problem| problem.code.starts_with(|c: char| c.is_ascii_uppercase());
            let mut found: Vec<_> = problems.iter().filter(is_rule).map(worded).collect();
            let want = |check: &&Value| {
                let want = &check["want"];
                let line = want["Line"].as_u64().unwrap_or_default();
                (
                    text(&want["RuleName"]).to_owned(),
                    line,
                    text(&want["Detail"]).to_owned(),
                )
            };
            let mut wanted: Vec<_> = expected
                .iter()
                .filter(|check| check["check"] == "lint_warning")
                .map(want)
                .collect();
            found.sort();
            wanted.sort();
            if found != wanted {
                differences.push(format!(
                    "{}:\n{file}\n found {found:?}\n expected {wanted:?}",
                    case["id"]
                ));
            }
        }
    }
    agree("buildkit-cases.json, warnings", count, &differences);
}

#[test]
fn buildahs_cases_lower_or_fail_as_there() {
    let Some(cases) = json("buildah/conformance/cases.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut count = 0;
    for case in rows(&cases) {
        let folder = case["contextDir"]
            .as_str()
            .map_or(String::new(), |folder| format!("{folder}/"));
        let name = case["dockerfile"].as_str().unwrap_or("Dockerfile");
        let file = case["dockerfileContents"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_else(|| {
                fixture(&format!("buildah/conformance/testdata/{folder}{name}")).unwrap_or_default()
            });
        if file.is_empty() {
            continue;
        }
        let mut options = Options {
            file: "Dockerfile".to_owned(),
            ..Options::default()
        };
        for (name, value) in case["buildArgs"].as_object().into_iter().flatten() {
            options
                .build_args
                .insert(name.clone(), text(value).to_owned());
        }
        count += 1;
        let found = lowered(&file, &options);
        // Where a case fails at a line, it may do so only when that is run.
        let may_fail = case.get("shouldFailAt").is_some();
        if found.is_err() && !may_fail {
            differences.push(format!("{}: {found:?}", case["name"]));
        }
    }
    agree("buildah/conformance, lowered", count, &differences);
}

#[test]
fn git_references_are_read_as_in_buildkit() {
    let Some(file) = json("tables/frontend-dockerfile-dfgitutil.json") else {
        return;
    };
    let mut differences = Vec::new();
    let mut count = 0;
    for row in rows(&file["git_ref_test.go/TestParseGitRef/cases"]) {
        let (written, expected) = (text(&row["ref"]), &row["expected"]);
        // `github.com/…` cannot be told from a path; it is one for ADD, there as here.
        if expected["IndistinguishableFromLocal"] == true {
            continue;
        }
        count += 1;
        let found = git::reference(written);
        let same = match &found {
            Err(_) => !text(&row["err"]).is_empty(),
            Ok(None) => expected.is_null() && text(&row["err"]).is_empty(),
            Ok(Some(found)) => {
                let text_of = |key: &str| {
                    expected[key]
                        .as_str()
                        .map(|text| text.trim_start_matches('/').to_owned())
                };
                !expected.is_null()
                    && found.url == text(&expected["Remote"])
                    && found.reference == text_of("Ref")
                    && found.subdir == text_of("SubDir")
                    && found.commit == text_of("Checksum")
            }
        };
        if !same {
            differences.push(format!("{row}: {found:?}"));
        }
    }
    agree(
        "tables/frontend-dockerfile-dfgitutil.json",
        count,
        &differences,
    );
}

#[test]
fn ports_and_directories_agree() {
    let (Some(ports), Some(paths)) = (
        json("tables/frontend-dockerfile-dockerfile2llb.json"),
        json("tables/util-system.json"),
    ) else {
        return;
    };
    let mut differences = Vec::new();
    let mut count = 0;
    for name in [
        "TestParsePortEmptyContainerPort/tests",
        "TestPartPortIPV6/cases",
    ] {
        for row in rows(&ports[format!("convert_expose_test.go/{name}")]) {
            count += 1;
            let found = super::ports::parse(text(&row["spec"])).map(|found| found.ports);
            let expected: Vec<String> = rows(&row["expected"])
                .map(|port| text(port).to_owned())
                .collect();
            if found.clone().unwrap_or_default() != expected
                || found.is_err() != row.get("expError").is_some()
            {
                differences.push(format!("{row}: {found:?}"));
            }
        }
    }
    for name in [
        "TestNormalizeWorkdir/testCases",
        "TestNormalizeWorkdirUnix/testCases",
    ] {
        for row in rows(&paths[format!("path_test.go/{name}")]) {
            count += 1;
            let found = path::absolute(text(&row["currentWorkdir"]), text(&row["newWorkDir"]));
            if found != text(&row["desiredResult"]) {
                differences.push(format!("{row}: {found}"));
            }
        }
    }
    agree("tables: EXPOSE and WORKDIR", count, &differences);
}
