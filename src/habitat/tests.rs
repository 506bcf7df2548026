//! Habitats as their users write them: what is said of mistakes, and what is rendered.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;
use crate::dockerfile::{Problem, Severity};

pub(super) fn told(text: &str, problems: &[Problem]) -> String {
    let mut out = String::new();
    for problem in problems {
        let span = problem.span.unwrap_or_default();
        let severity = if problem.severity == Severity::Error {
            ""
        } else {
            " (warning)"
        };
        let written = text
            .get(span.start..span.end)
            .unwrap_or("?")
            .lines()
            .next()
            .unwrap_or_default();
        let column = span.start - text[..span.start].rfind('\n').map_or(0, |at| at + 1) + 1;
        writeln!(
            out,
            "{}:{column} [{}]{severity} {}",
            span.line, written, problem.message
        )
        .expect("a string takes all");
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
pub(super) fn check(text: &str) -> String {
    let habitat = match Habitat::parse(text, "config.yaml") {
        Ok(habitat) => habitat,
        Err(problems) => return told(text, &problems),
    };
    let problems = match Plan::of(&habitat, &Facts::default()) {
        Ok(plan) => plan.warnings,
        Err(problems) => problems,
    };
    told(text, &problems)
}

/// The Dockerfile of a text, with nothing beside it.
pub(super) fn render(text: &str, beside: &[(&str, PathKind)]) -> Rendered {
    let habitat = Habitat::parse(text, "config.yaml")
        .unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    let facts = Facts {
        layers: vec![LayerFacts {
            beside: beside
                .iter()
                .map(|(path, kind)| ((*path).to_owned(), *kind))
                .collect(),
            config: "config.yaml".to_owned(),
            ..LayerFacts::default()
        }],
        debian_arch: "amd64".to_owned(),
        ..Facts::default()
    };
    let plan =
        Plan::of(&habitat, &facts).unwrap_or_else(|problems| panic!("{}", told(text, &problems)));
    plan.render(&Templates::default())
        .expect("the built-in templates work")
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    let text = "\
name: My Habitat
base_image: debian:12
base: {debian: bookworm, package: [git]}
userz: []
env:
  - USER=dev
  - NO_VALUE
files:
  - src: files/motd
    dest: etc/motd
    mode: 999
  - dest: /x
scripts:
  - commands: make
    after: repoes
    shel: sh
repos:
  - {url: a.bundle, path: /src, branch: main, ref: v1}
  - {url: b.bundle, path: /src}
verify-fs:
  required_files: /etc/motd
tests:
  - 12
timeout: {per-phase: 10, tests: 1m}
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn what_cannot_be_read_at_all_is_one_mistake() {
    insta::assert_snapshot!(check("name: a\nenv: [A=1\nbase: {debian: bookworm}\n"));
    insta::assert_snapshot!(check(""), @r"
    1:1 [] the file is empty
        help: a habitat needs at least `name:` and a base, such as `base: {debian: bookworm}`
    ");
    insta::assert_snapshot!(check("- a\n- b\n"), @r"
    1:1 [- a] a list stands where a habitat (a map) belongs
        this must be a habitat (a map)
    ");
}

#[test]
fn a_habitat_without_name_or_base_says_what_to_add() {
    insta::assert_snapshot!(check("description: nothing else\n"), @r"
    1:1 [] the habitat has no `name`
        `name` is required
        help: add `name: …`
    1:1 [] the habitat has no base
        one of `base_image`, `base` and a Dockerfile beside this file is required
        help: add `base: {debian: bookworm}`, or `base_image: …` for an image of a registry
    ");
}

#[test]
fn large_files_of_git_are_refused_with_a_way_out() {
    let text = "\
name: large
base_image: debian:12
repos:
  - {url: a.bundle, path: /src, lfs: true}
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn what_is_wrong_with_services_and_volumes_is_told() {
    let text = "\
name: served
base_image: debian:12
services:
  - {name: db, command: postgres, ready: pg_isready, run_as: postgres, timeout: soon}
  - {name: db, command: ' '}
  - {name: Web Server, command: nginx, run_as: \"a b\"}
scripts:
  - {commands: make, needs: [db, dbb]}
tests:
  - {path: t.sh, needs: cache}
entry: {limits: {memory: much, cpus: -1, pids: 0}, network: some}
volumes:
  - src
  - a:b
  - a:/x:rx
  - a:/data
  - b:/data:ro
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn a_name_without_a_value_is_an_error_except_where_a_shell_reads_it() {
    let text = "\
name: names
base_image: debian:12
env: {PATH: \"${PATH}:/opt/bin\", TOOL: make}
scripts:
  - commands: for i in ${LIST}; do {env.TOOL} {env.GONE} $i; done
verify-fs:
  required_files: [\"${TOOLS}/x\", \"${PATH}/x\", \"/etc/$${literal}\"]
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn what_covers_earlier_content_is_refused_and_what_is_nested_is_not() {
    let text = "\
name: covering
base_image: debian:12
files:
  - {src: a, dest: /src/a, optional: true}
  - {src: a, dest: /lib/a, optional: true, after: repos}
repos:
  - {url: https://example.org/inner, path: /src/inner}
  - {url: https://example.org/outer, path: /src}
  - {url: https://example.org/lib, path: /lib}
  - {url: https://example.org/nested, path: /lib/nested}
";
    insta::assert_snapshot!(check(text));
}

#[test]
fn anchors_and_merge_keys_work_and_a_bomb_does_not() {
    let text = "\
name: merged
base_image: debian:12
scripts:
  - &first {run_as: root, commands: echo one}
  - {<<: *first, commands: echo two}
";
    let rendered = render(text, &[]);
    assert!(rendered.dockerfile.contains("RUN echo two\n"));
    assert!(!rendered.dockerfile.contains("USER dev"));

    let mut bomb =
        "name: bomb\nbase_image: debian:12\nlabels:\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
            .to_owned();
    for (before, name) in "abcdefghi".chars().zip("bcdefghij".chars()) {
        writeln!(bomb, "  {name}: &{name} [*{before}, *{before}, *{before}, *{before}, *{before}, *{before}, *{before}]")
            .expect("a string takes all");
    }
    assert!(
        check(&bomb).contains("with its aliases expanded the file has more than 100000 values")
    );
}

#[test]
fn hooks_stand_where_they_belong() {
    let text = "\
name: hooks
base_image: debian:12
env: [USER=dev]
files:
  - {src: f, dest: /1, before: repos}
  - {src: f, dest: /4, after: 7}
scripts:
  - {commands: echo 5, after: repos}
  - {commands: echo 2, before: repos, run_as: root}
  - {commands: echo 0, before: base, run_as: root}
  - {commands: echo 6, after: [verify, test], run_as: root}
  - {commands: echo 7, before: final}
repos:
  - {url: https://user:secret@example.org/three.git, path: /3}
tests: [t.sh]
verify-fs: {required_files: [/1]}
";
    let rendered = render(text, &[("f", PathKind::File), ("t.sh", PathKind::File)]);
    let skeleton: Vec<&str> = rendered
        .dockerfile
        .lines()
        .filter(|line| {
            line.starts_with("FROM ")
                || line.contains(" /1")
                || line.contains(" /4")
                || line.starts_with("RUN echo")
                || line.contains("repo-1 ")
        })
        .collect();
    insta::assert_snapshot!(skeleton.join("\n"));
    assert!(
        !rendered.dockerfile.contains("secret"),
        "{}",
        rendered.dockerfile
    );
    let stages: Vec<String> = rendered
        .phases
        .iter()
        .map(|phase| {
            format!(
                "{} {} {}+{}{}",
                phase.name,
                phase.stages.join(","),
                phase.hooks_before,
                phase.hooks_after,
                if phase.empty { " empty" } else { "" }
            )
        })
        .collect();
    insta::assert_snapshot!(stages.join("\n"));
}

#[test]
fn the_directory_of_a_layer_is_copied_in_two_parts() {
    let text = "\
name: layer
base_image: debian:12
env: [USER=dev]
files:
  - {src: gitconfig, dest: /etc/gitconfig}
repos:
  - {url: r.bundle, path: /r}
tests: [tests/t.sh]
";
    let habitat = Habitat::parse(text, "config.yaml").expect("it is sound");
    let beside = ["gitconfig", "r.bundle", "tests/t.sh"];
    let mut facts = Facts {
        layers: vec![LayerFacts {
            beside: beside.map(|path| (path.to_owned(), PathKind::File)).into(),
            config: "config.yaml".to_owned(),
            ignore: Some("*.md\n".to_owned()),
            in_root: Some("habitats/layer".to_owned()),
        }],
        ..Facts::default()
    };
    let copies = |facts: &Facts| -> String {
        let plan = Plan::of(&habitat, facts).expect("nothing is missing");
        let rendered = plan
            .render(&Templates::default())
            .expect("the built-in templates work");
        let parsed = crate::dockerfile::parse(&rendered.dockerfile)
            .dockerfile
            .to_string();
        let joined = parsed.replace(" \\\n     ", " ");
        let lines = joined
            .lines()
            .filter(|line| line.contains("/habitat/local/"));
        lines.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(copies(&facts));
    facts.layers[0].in_root = None;
    assert_eq!(copies(&facts), "");
}

#[test]
fn a_line_of_the_dockerfile_is_traced_to_the_line_of_the_habitat() {
    let rendered = render(
        "name: traced\nbase_image: debian:12\nscripts:\n  - commands:\n      - |\n        one\n\n        two\n      - three\n",
        &[],
    );
    let line_of = |text: &str| {
        let at = rendered
            .dockerfile
            .lines()
            .position(|line| line == text)
            .expect("it is there");
        rendered
            .origin(u32::try_from(at + 1).expect("it is short"))
            .map(|origin| origin.line)
    };
    assert_eq!(line_of("two"), Some(6));
    assert_eq!(line_of("RUN three"), Some(9));
    assert_eq!(line_of("FROM debian:12 AS base"), None);
    assert_eq!(
        line_of("# ---- 10 verify: the check of the file system"),
        None
    );
}

#[test]
fn a_file_of_the_host_is_warned_of_and_left_to_the_caller() {
    let text = "name: home\nbase_image: debian:12\nfiles:\n  - {src: ~/.netrc, dest: ~/.netrc}\n";
    let habitat = Habitat::parse(text, "config.yaml").expect("it is sound");
    assert_eq!(
        habitat.needed_facts(),
        [Wanted::Home(".netrc".to_owned())].into()
    );
    let plan = Plan::of(&habitat, &Facts::default()).expect("it can be looked at");
    assert_eq!(plan.home_files.len(), 1);
    assert!(
        plan.contexts
            .iter()
            .any(|context| context.kind == ContextKind::Directory(Place::Home))
    );
    let build = Facts {
        purpose: Purpose::Build,
        ..Facts::default()
    };
    let problems = Plan::of(&habitat, &build).expect_err("the file is missing");
    assert!(
        problems
            .iter()
            .any(|problem| problem.code == "habitat::missing_file")
    );
}

#[test]
fn a_template_can_be_replaced_and_a_wrong_one_is_named() {
    let habitat =
        Habitat::parse("name: own\nbase_image: debian:12\n", "config.yaml").expect("it is sound");
    let plan = Plan::of(&habitat, &Facts::default()).expect("nothing is missing");
    let with = |name: &str, text: &str| Templates::with([(name.to_owned(), text.to_owned())]);

    let templates = with("habitat.j2", "RUN echo {{ step.paths | length }}\n").expect("it is one");
    assert!(
        plan.render(&templates)
            .expect("it is sound")
            .dockerfile
            .contains("\nRUN echo 3\n")
    );
    let wrong = with("habitat.j2", "RUN true\nRUN {{ step.pathz }}\n").expect("it is one");
    assert_eq!(
        plan.render(&wrong)
            .expect_err("it names nothing")
            .to_string(),
        "the template `habitat.j2` fails at line 2: `step.pathz` is undefined"
    );
    assert_eq!(
        with("user.j2", "").expect_err("there is none"),
        TemplateError::Unknown {
            name: "user.j2".to_owned(),
            help: "did you mean `users.j2`?".to_owned(),
        }
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test asks whether it should write the schema"
)]
fn the_schema_is_fresh_and_every_habitat_keeps_to_it() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas/habitat.json");
    let schema = schema();
    let text = serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("the repository can be written to");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "schemas/habitat.json is stale: run `UPDATE=1 cargo test --lib habitat`"
    );

    let validator = jsonschema::validator_for(&schema).expect("it is a schema");
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folders = ["habitats", "examples"].map(|folder| repository.join(folder));
    let configs = folders.iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).expect("it is part of the repository");
        entries.map(|entry| entry.expect("it can be listed").path().join("config.yaml"))
    });
    for config in configs.filter(|config| config.is_file()) {
        let text = std::fs::read_to_string(&config).expect("it is there");
        let value: serde_json::Value = serde_saphyr::from_str(&text).expect("it is YAML");
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert_eq!(errors, [""; 0], "{}", config.display());
    }
    let wrong = serde_json::json!({ "name": "a", "userz": [], "scripts": [{ "after": "repos" }] });
    assert_eq!(validator.iter_errors(&wrong).count(), 2);
}
