//! Layers laid over each other: what wins, what is added, what is dropped, and which file is blamed.

use super::*;
use crate::dockerfile::Problem;

fn layers(texts: &[(LayerKind, &str)]) -> Layers {
    let mut layers = Layers::new();
    for (kind, text) in texts {
        let file = format!("{}.yaml", kind.name());
        if *kind == LayerKind::Local {
            layers.push_main(*kind, &file, text);
        } else {
            layers.push(*kind, &file, text);
        }
    }
    layers
}

fn read(texts: &[(LayerKind, &str)]) -> Habitat {
    let layers = layers(texts);
    Habitat::of(&layers, UnknownNames::Refuse)
        .unwrap_or_else(|problems| panic!("{}", told(&layers, &problems).join("\n")))
}

fn told(layers: &Layers, problems: &[Problem]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| {
            let (layer, problem) = layers.localize(problem);
            let span = problem.span.unwrap_or_default();
            let written = &layer.text[span.start..span.end];
            format!(
                "{}:{} [{}] {}",
                layer.file,
                span.line,
                written.lines().next().unwrap_or_default(),
                problem.message
            )
        })
        .collect()
}

const SYSTEM: &str = "\
name: system
env: [A=1, 'B=${A}', 'PATH=${PATH}:/system']
scripts:
  - commands: echo system
labels: {team: all, from: system}
entry: {command: sh, startup_delay: 2}
timeout: 1m
";

#[test]
fn later_wins_and_lists_are_added_in_the_order_of_the_layers() {
    let habitat = read(&[
        (LayerKind::System, SYSTEM),
        (
            LayerKind::Shared,
            "name: shared\nenv: {A: '2', C: '${B}'}\nscripts: [{commands: echo shared}]\n",
        ),
        (
            LayerKind::Local,
            "name: web\nbase_image: debian:12\nenv: ['PATH=${PATH}:/web']\nscripts: [{commands: echo web}]\n\
             labels: {from: web}\nentry: {command: bash}\ntimeout: {scripts: 2m}\n",
        ),
        (
            LayerKind::Personal,
            "env: [D=mine]\nscripts: [{commands: echo mine}]\n",
        ),
    ]);

    assert_eq!(habitat.name, "web");
    let env: Vec<String> = habitat
        .environment
        .entries()
        .iter()
        .filter(|entry| entry.span.is_some())
        .map(|entry| {
            let value: String = entry
                .parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Base(name) => format!("<{name}>"),
                })
                .collect();
            format!("{}={value}", entry.name)
        })
        .collect();
    assert_eq!(
        env,
        ["A=2", "B=1", "PATH=<PATH>:/system:/web", "C=1", "D=mine"]
    );
    let commands: Vec<&str> = habitat
        .document
        .scripts
        .0
        .iter()
        .map(|script| script.commands.0[0].0.value.as_str())
        .collect();
    assert_eq!(
        commands,
        ["echo system", "echo shared", "echo web", "echo mine"]
    );
    let labels: Vec<(&str, &str)> = habitat
        .document
        .labels
        .0
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(labels, [("team", "all"), ("from", "web")]);
    let entry = habitat.document.entry.as_ref().expect("two layers have it");
    assert!(matches!(&entry.command, Some(document::Words::Line(line)) if line.value == "bash"));
    assert_eq!(entry.startup_delay.map(|delay| delay.value), Some(2));
    assert_eq!(
        habitat
            .document
            .timeout
            .of(PhaseId::FILES)
            .map(|limit| limit.ms),
        Some(60_000)
    );
    assert_eq!(
        habitat
            .document
            .timeout
            .of(PhaseId::SCRIPTS)
            .map(|limit| limit.ms),
        Some(120_000)
    );
}

#[test]
fn reset_drops_what_the_layers_before_say() {
    let habitat = read(&[
        (LayerKind::System, SYSTEM),
        (
            LayerKind::Local,
            "name: web\nbase_image: debian:12\nenv:\n  A: !reset\n  WORKDIR: /web\nscripts: !reset\n  - commands: echo web\n\
             labels: !reset\nentry: {command: !reset }\n",
        ),
        (LayerKind::Personal, "env: {WORKDIR: !reset }\n"),
    ]);

    assert_eq!(habitat.document.scripts.0.len(), 1);
    assert!(habitat.document.labels.0.is_empty());
    let entry = habitat.document.entry.as_ref().expect("a part is left");
    assert!(entry.command.is_none());
    assert_eq!(entry.startup_delay.map(|delay| delay.value), Some(2));
    assert!(habitat.environment.get("A").is_none());
    assert_eq!(
        habitat.workdir, "/workspace",
        "a default is there again when its entry is dropped"
    );

    let all = read(&[
        (LayerKind::System, SYSTEM),
        (
            LayerKind::Local,
            "name: web\nbase_image: debian:12\nenv: !reset\n  - C=3\n",
        ),
    ]);
    assert!(all.environment.get("A").is_none() && all.environment.get("C").is_some());
}

#[test]
fn reset_inside_an_item_is_refused_at_its_place() {
    let layers = layers(&[(
        LayerKind::Local,
        "name: web\nbase_image: debian:12\nfiles:\n  - {src: a, dest: /a, mode: !reset 644}\n",
    )]);
    let problems = Habitat::of(&layers, UnknownNames::Refuse).expect_err("it is refused");
    assert_eq!(
        told(&layers, &problems),
        ["local.yaml:4 [644] the tag `!reset` cannot be used here"]
    );
}

#[test]
fn a_base_takes_the_place_of_that_of_a_layer_before() {
    let habitat = read(&[
        (LayerKind::Shared, "base_image: debian:12\n"),
        (LayerKind::Local, "name: web\nbase: {debian: bookworm}\n"),
    ]);
    assert!(habitat.document.base_image.is_none() && habitat.document.base.is_some());
}

#[test]
fn packages_are_added_to_the_debian_base_of_a_layer_before() {
    let base = "base: {debian: bookworm, packages: [git], mirror: 'http://one.example/debian'}\n";
    let read_base = |text: &str| {
        let text = format!("name: web\n{text}");
        match read(&[(LayerKind::Parent, base), (LayerKind::Local, &text)])
            .document
            .base
        {
            Some(base::Base::Debian(debian)) => {
                let packages: Vec<String> =
                    debian.packages.0.into_iter().map(|it| it.value).collect();
                (packages.join(" "), debian.suite.map(|suite| suite.value))
            }
            other => panic!("{other:?}"),
        }
    };
    let suite = |name: &str| Some(name.to_owned());
    assert_eq!(
        read_base("base: {packages: [make]}\n"),
        ("git make".to_owned(), suite("bookworm"))
    );
    assert_eq!(
        read_base("base: {debian: trixie, packages: !reset [make]}\n"),
        ("make".to_owned(), suite("trixie"))
    );
    let layers = layers(&[(LayerKind::Local, "name: web\nbase: {packages: [make]}\n")]);
    let problems = Habitat::of(&layers, UnknownNames::Refuse).expect_err("it has no suite");
    assert_eq!(
        told(&layers, &problems),
        ["local.yaml:2 [{packages: [make] base does not say what kind it is"]
    );
}

#[test]
fn a_habitat_has_a_name_of_its_own() {
    let layers = layers(&[
        (LayerKind::System, "name: system\n"),
        (LayerKind::Local, "base_image: debian:12\n"),
    ]);
    let problems = Habitat::of(&layers, UnknownNames::Refuse).expect_err("it has no name");
    assert_eq!(
        told(&layers, &problems),
        ["local.yaml:1 [] the habitat has no `name`"]
    );
}

#[test]
fn the_mistakes_of_all_layers_are_told_at_once_each_at_its_own_file() {
    let layers = layers(&[
        (
            LayerKind::System,
            "name: system\nscript: []\nfiles:\n  - {src: a, dest: a}\n",
        ),
        (LayerKind::Parent, "scripts: [{}]\n"),
        (
            LayerKind::Local,
            "name: Web\nbase_image: debian:12\nenv: [A]\nverify-fs: {required_files: ['${GONE}/x']}\n",
        ),
        (LayerKind::Personal, "timeout: soon\n"),
    ]);
    let problems = Habitat::of(&layers, UnknownNames::Refuse).expect_err("it is full of mistakes");
    assert_eq!(
        told(&layers, &problems),
        [
            "system.yaml:2 [script] unknown key `script` in a habitat",
            "system.yaml:4 [a] dest `a` is not absolute",
            "parent.yaml:1 [] a script has no `commands`",
            "local.yaml:1 [Web] `Web` cannot be the name of a habitat",
            "local.yaml:3 [A] an entry of env has no `=`",
            "local.yaml:4 ['${GONE}/x'] `GONE` is not in env",
            "personal.yaml:1 [soon] `soon` is no length of time",
        ]
    );
}

#[test]
fn a_path_is_looked_up_beside_the_layer_that_says_it_then_at_root() {
    let habitat = read(&[
        (
            LayerKind::System,
            "files:\n  - {src: ./system/motd, dest: /etc/motd}\n  - {src: issue, dest: /etc/issue}\n",
        ),
        (
            LayerKind::Local,
            "name: web\nbase_image: debian:12\nfiles:\n  - {src: issue, dest: /etc/issue.web}\n",
        ),
    ]);
    let wanted = |layer, path: &str| Wanted::Path(layer, path.to_owned());
    assert_eq!(
        habitat.needed_facts(),
        [
            wanted(0, "issue"),
            wanted(0, "system/motd"),
            wanted(1, "issue")
        ]
        .into()
    );
    let layer = |in_root: &str, beside: &[&str]| LayerFacts {
        beside: beside
            .iter()
            .map(|path| ((*path).to_owned(), PathKind::File))
            .collect(),
        config: "config.yaml".to_owned(),
        ignore: None,
        in_root: Some(in_root.to_owned()),
    };
    let mut facts = Facts {
        layers: vec![
            layer("system", &["issue"]),
            layer("habitats/web", &["issue"]),
        ],
        at_root: [("system/motd".to_owned(), PathKind::File)].into(),
        ..Facts::default()
    };
    let plan = Plan::of(&habitat, &facts).expect("nothing is missing");
    let rendered = plan
        .render(&Templates::default())
        .expect("the built-in templates work");
    let copies: Vec<&str> = rendered
        .dockerfile
        .lines()
        .filter(|line| line.starts_with("COPY --from") || line.trim_start().starts_with("--"))
        .collect();
    insta::assert_snapshot!(copies.join("\n"));

    facts.at_root.insert("issue".to_owned(), PathKind::File);
    let problems = Plan::of(&habitat, &facts).expect_err("it is in two places");
    assert_eq!(
        told(&habitat.layers, &problems),
        [
            "system.yaml:3 [issue] `issue` is in two places",
            "local.yaml:4 [issue] `issue` is in two places",
        ]
    );
}
