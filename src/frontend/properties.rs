//! What holds for every Dockerfile: printing gives back what was read, lowering comes to the same twice, and a file that is
//! laid out evenly lowers to the same. Tried on every Dockerfile among the fixtures.

use std::collections::BTreeMap;

use super::*;
use crate::dockerfile::fixtures::{agree, fixture, folder};
use crate::dockerfile::{Rule, Severity, format, parse};
use crate::graph::Op;

/// Every Dockerfile of the fixtures, by where it lies; empty, and a printed reason, without fixtures.
fn every_file() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    if fixture("README.md").is_none() {
        return files;
    }
    let mut directories = vec![
        "buildkit-parser".to_owned(),
        "buildah".to_owned(),
        "habitats".to_owned(),
    ];
    while let Some(directory) = directories.pop() {
        for name in folder(&directory) {
            let path = format!("{directory}/{name}");
            let lower = name.to_lowercase();
            let is_file = ["dockerfile", "containerfile"]
                .iter()
                .any(|word| lower.contains(word));
            if !folder(&path).is_empty() {
                directories.push(path);
            } else if is_file
                && !lower.ends_with(".json")
                && !lower.contains("ignore")
                && let Some(text) = readable(&path)
            {
                files.insert(path, text);
            }
        }
    }
    for (path, key) in [
        ("buildkit-cases.json", "dockerfile"),
        ("buildah/conformance/cases.json", "dockerfileContents"),
    ] {
        let cases = serde_json::from_str(&fixture(path).unwrap_or_default()).unwrap_or_default();
        embedded(&cases, key, path, &mut files);
    }
    files
}

/// A file that is one, and text.
fn readable(path: &str) -> Option<String> {
    std::panic::catch_unwind(|| fixture(path)).ok().flatten()
}

/// The Dockerfiles that are strings in a table.
fn embedded(
    value: &serde_json::Value,
    key: &str,
    place: &str,
    files: &mut BTreeMap<String, String>,
) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if name == key => {
                        files.insert(format!("{place}#{}", files.len()), text.to_owned());
                    }
                    _ => embedded(field, key, place, files),
                }
            }
        }
        serde_json::Value::Array(items) => {
            for item in items {
                embedded(item, key, place, files);
            }
        }
        _ => {}
    }
}

/// Lowers a file where every image is empty and every file is there.
fn lowered(text: &str) -> Option<Result<Lowered, Vec<Problem>>> {
    let parsed = parse(text);
    if parsed
        .problems
        .iter()
        .any(|problem| problem.severity == Severity::Error && Rule::named(problem.code).is_none())
    {
        return None;
    }
    let mut options = Options {
        file: "Dockerfile".to_owned(),
        ..Options::default()
    };
    // What is only a matter of style is no error here, whatever the file says: a new layout mends it.
    options.build_args.insert(
        "BUILDKIT_DOCKERFILE_CHECK".to_owned(),
        "skip=all".to_owned(),
    );
    let mut resolved = Resolved::default();
    loop {
        match lower(&parsed.dockerfile, &options, &resolved) {
            Err(problems) => return Some(Err(problems)),
            Ok(Lowering::Done(lowered)) => return Some(Ok(*lowered)),
            Ok(Lowering::Needs(needs)) => {
                for need in needs {
                    match need {
                        Need::Config(source) => resolved.found(source, ImageConfig::default()),
                        Need::File(file) => resolved.file(file, None),
                    }
                }
            }
        }
    }
}

#[test]
fn printing_gives_back_every_file() {
    let files = every_file();
    let wrong: Vec<String> = files
        .iter()
        .filter(|(_, text)| parse(text).dockerfile.to_string() != **text)
        .map(|(path, _)| path.clone())
        .collect();
    agree("every fixture, printed", files.len(), &wrong);
}

#[test]
fn lowering_comes_to_the_same_twice() {
    let files = every_file();
    let mut count = 0;
    let mut wrong = Vec::new();
    for (path, text) in &files {
        let first = lowered(text);
        count += usize::from(matches!(first, Some(Ok(_))));
        if first != lowered(text) {
            wrong.push(path.clone());
        }
    }
    println!("{count} of {} lower", files.len());
    agree("every fixture, lowered twice", files.len(), &wrong);
}

#[test]
fn an_even_layout_changes_nothing_that_is_built() {
    let files = every_file();
    let ops = |lowered: &Lowered| -> Vec<Op> {
        let nodes = lowered.graph.nodes().iter();
        nodes.map(|node| node.op.clone()).collect()
    };
    let is_rule = |problem: &Problem| Rule::named(problem.code).is_some();
    let mut wrong = Vec::new();
    for (path, text) in &files {
        let Ok(laid_out) = format(text) else { continue };
        let stays = format(&laid_out).as_ref() == Ok(&laid_out);
        let same = match (lowered(text), lowered(&laid_out)) {
            (Some(Ok(was)), Some(Ok(is))) => {
                ops(&was) == ops(&is) && was.config == is.config && was.history == is.history
            }
            (Some(Err(_)), Some(Err(_))) | (None, None) => true,
            // Odd cases are evened out, where a file makes an error of them too.
            (Some(Err(was)), Some(Ok(_))) => was.iter().all(is_rule),
            _ => false,
        };
        if !stays || !same || parse(text).dockerfile.says() != parse(&laid_out).dockerfile.says() {
            wrong.push(format!("{path}\n{text}\n---\n{laid_out}"));
        }
    }
    agree("every fixture, laid out", files.len(), &wrong);
}
