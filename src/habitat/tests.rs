//! Habitats as their users write them: what is said of mistakes, and what is rendered.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::dockerfile::{Problem, Severity};

/// Answers what a habitat asks of the directory it lies in, as the command line does.
fn facts(habitat: &Habitat, directory: &Path) -> Facts {
    let kind = |path: &str| {
        let about = std::fs::metadata(directory.join(path)).ok()?;
        Some(if about.is_dir() { PathKind::Directory } else { PathKind::File })
    };
    Facts {
        beside: habitat.needed_facts().into_iter().filter_map(|path| kind(&path).map(|kind| (path, kind))).collect(),
        config: "config.yaml".to_owned(),
        debian_arch: "amd64".to_owned(),
        ignore: std::fs::read_to_string(directory.join(".habignore")).ok(),
        ..Facts::default()
    }
}

fn told(text: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let span = problem.span.unwrap_or_default();
        let severity = if problem.severity == Severity::Error { "" } else { " (warning)" };
        let written = text.get(span.start..span.end).unwrap_or("?").lines().next().unwrap_or_default();
        let column = span.start - text[..span.start].rfind('\n').map_or(0, |at| at + 1) + 1;
        writeln!(out, "{}:{column} [{}]{severity} {}", span.line, written, problem.message).expect("a string takes all");
        if let Some(label) = &problem.label {
            writeln!(out, "    {label}").expect("a string takes all");
        }
        if let Some(help) = &problem.help {
            writeln!(out, "    help: {help}").expect("a string takes all");
        }
    }
    out
}

/// Everything that is said of a text, from reading it to planning it.
fn check(text: &str) -> String {
    let habitat = match Habitat::parse(text, "config.yaml") {
        Ok(habitat) => habitat,
        Err(problems) => return told(text, &problems),
    };
    let mut problems = habitat.warnings.clone();
    match Plan::of(&habitat, &Facts { config: "config.yaml".to_owned(), ..Facts::default() }) {
        Ok(plan) => problems.extend(plan.warnings),
        Err(found) => problems.extend(found),
    }
    told(text, &problems)
}

/// The Dockerfile of a text, with nothing beside it.
fn render(text: &str, beside: &[(&str, PathKind)]) -> Rendered {
    let habitat = Habitat::parse(text, "config.yaml").unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    let facts = Facts {
        beside: beside.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect(),
        config: "config.yaml".to_owned(),
        debian_arch: "amd64".to_owned(),
        ..Facts::default()
    };
    let plan = Plan::of(&habitat, &facts).unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    plan.render(&Templates::default()).expect("the built-in templates work")
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn render_file(path: &str) -> Rendered {
    let path = repository().join(path);
    let text = std::fs::read_to_string(&path).expect("it is part of the repository");
    let habitat = Habitat::parse(&text, "config.yaml").unwrap_or_else(|problems| panic!("{}", told(&text, &problems)));
    let facts = facts(&habitat, path.parent().expect("a file lies in a directory"));
    let plan = Plan::of(&habitat, &facts).unwrap_or_else(|problems| panic!("{}", told(&text, &problems)));
    assert_eq!(plan.warnings, [], "what is shown to users has no warnings");
    plan.render(&Templates::default()).expect("the built-in templates work")
}

#[test]
fn every_habitat_and_example_renders_as_its_snapshot_says() {
    let mut configs = Vec::new();
    for folder in ["habitats", "examples"] {
        for entry in std::fs::read_dir(repository().join(folder)).expect("the folder is part of the repository") {
            let name = entry.expect("it can be listed").file_name().into_string().expect("names are text");
            if repository().join(folder).join(&name).join("config.yaml").is_file() {
                configs.push((folder, name));
            }
        }
    }
    configs.sort();
    assert!(configs.len() >= 3, "{configs:?}");
    for (folder, name) in configs {
        let rendered = render_file(&format!("{folder}/{name}/config.yaml"));
        let parsed = crate::dockerfile::parse(&rendered.dockerfile);
        assert_eq!(parsed.problems, [], "{folder}/{name}");
        insta::assert_snapshot!(format!("{folder}__{name}"), rendered.dockerfile);
    }
}
