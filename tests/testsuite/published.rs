//! Habitats as they were published for an older program: brought to today's spelling they load and render as they are.
//! What their folder leaves out, because it was private or not text, is made here.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, Lack, need};
use crate::harness::site::Site;

const HABITATS: [&str; 3] = ["base", "claude-habitat", "discourse"];

/// The program that they are for has given its name to files and commands.
fn program() -> &'static str {
    HABITATS[1].trim_end_matches("-habitat")
}

fn published(name: &str) -> Result<Bench, Lack> {
    let folder = machine::fixture("habitats")?;
    let bench = Bench::new(&machine::plain_user()?, name);
    for part in ["habitats", "shared", "system"] {
        bench.tree(&folder.join(part), part);
    }
    bench.sh("chmod -R u+w .");
    bench
        .file(
            &format!("system/{}.md", program().to_uppercase()),
            "instructions\n",
        )
        .file("shared/gitconfig", "[user]\n\tname = someone\n")
        .ok("habitat migrate system");
    Ok(bench)
}

/// The skeleton of a Dockerfile: its stages and instructions, without what scripts and comments say.
fn skeleton(dockerfile: &str) -> String {
    let words = ["FROM", "COPY", "USER", "WORKDIR", "ADD", "LABEL", "CMD"];
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in dockerfile.lines() {
        let word = line.split(' ').next().unwrap_or_default();
        if goes_on && !line.trim_start().starts_with('#') {
            if let Some(last) = lines.last_mut() {
                last.push_str(&format!(" {}", line.trim().trim_end_matches(" \\")));
            }
        } else if words.contains(&word) {
            lines.push(line.trim_end_matches(" \\").to_owned());
            goes_on = true;
        } else if word == "RUN" {
            lines.push("RUN …".to_owned());
        }
        goes_on &= line.ends_with('\\');
    }
    lines.join("\n")
}

#[test]
fn published_habitats_pass_the_check_with_their_layers() {
    let bench = need!(published("published-check"));
    for layer in ["system", "shared"] {
        bench.ok(&format!("habitat check {layer}"));
    }
    for habitat in HABITATS {
        let run = bench.ok(&format!("habitat check --format json habitats/{habitat}"));
        let said = run.json();
        let found = said.as_array().expect("an array");
        assert!(
            found.iter().all(|problem| problem["severity"] == "warning"),
            "{said:#}"
        );
        let home = found
            .iter()
            .find(|problem| problem["code"] == "habitat::home_file")
            .unwrap_or_else(|| panic!("{said:#}"));
        assert_eq!(home["file"], "system/config.yaml");
    }
}

#[test]
fn published_habitats_render() {
    let bench = need!(published("published-render"));
    for habitat in HABITATS {
        let dockerfile = bench
            .ok(&format!("habitat render habitats/{habitat}"))
            .out();
        let shown = skeleton(&dockerfile)
            .replace(program(), "program")
            .replace(&program().to_uppercase(), "PROGRAM");
        insta::assert_snapshot!(
            format!("published {}", habitat.replace(program(), "own")),
            shown
        );
        bench
            .file(&format!("{habitat}.Dockerfile"), &dockerfile)
            .ok(&format!("lint {habitat}.Dockerfile"));
    }
}

#[test]
fn a_key_of_the_older_program_is_told_with_the_way_out() {
    let bench = need!(published("published-legacy"));
    bench.file(
        "old.yaml",
        "name: old\nbase_image: debian:12\ncontainer:\n  user: dev\n",
    );
    bench.shmocker("habitat check old.yaml").expect(
        1,
        &[
            "`container` is a key of an older program",
            "habitat migrate",
        ],
    );
}

const OLD: &str = "\
# An old habitat.
name: old
base_image: debian:12

environment:   # what it needs
  - RAILS_ENV=test
repositories:
  - url: https://example.com/one.git
    path: /srv/one  # kept
setup:
  root:
    - apt-get install -y curl
    - |
      echo '{container.user}' > /etc/owner

      true
  user:
    run_as: dev
    commands:
      - make
container:
  user: dev
  work_dir: /srv/one
  init_command: /sbin/boot
  startup_delay: 10
  ports: [80]
git:
  name: someone
tests: [t.sh]
";

#[test]
fn an_old_habitat_is_rewritten_in_place_and_what_is_left_over_is_told() {
    let bench = need!(published("published-migrate"));
    bench.file("old.yaml", OLD);

    let printed = bench.ok("habitat migrate --stdout old.yaml");
    assert_eq!(bench.sh("cat old.yaml").out(), OLD, "it is only printed");
    let json = bench.ok("habitat migrate --format json old.yaml").json();
    assert_eq!(json["text"], printed.out());
    assert_eq!(
        json["unmapped"].as_array().map(Vec::len),
        Some(2),
        "{json:#}"
    );
    assert_eq!(json["unmapped"][0]["line"], 26);
    let run = bench.ok("habitat migrate old.yaml");

    assert_eq!(bench.sh("cat old.yaml").out(), printed.out());
    insta::assert_snapshot!(format!("{}\n---\n{}", run.stderr, printed.out()));
    bench.ok("habitat check old.yaml");
    let again = bench.ok("habitat migrate old.yaml");
    assert_eq!(again.stderr, "old.yaml: nothing to rewrite\n");
}

/// Puts what a `tools.yaml` names on a site of the test's own, and that site's address into the file.
fn serve_tools(bench: &Bench) -> Site {
    let file = "system/tools/tools.yaml";
    let text = bench.sh(&format!("cat {file}")).out();
    let text = text.replace("{version}", "1.0");
    let mut tools: Vec<(String, String)> = Vec::new();
    for line in text.lines().map(str::trim) {
        let value = |key: &str| {
            let value = line.strip_prefix(key)?.trim().trim_matches('"');
            Some(value.to_owned())
        };
        if let Some(url) = value("url:") {
            tools.push((url, "direct".to_owned()));
        } else if let (Some(path), Some(last)) = (value("extract_path:"), tools.last_mut()) {
            last.1 = path;
        }
    }
    assert!(tools.len() > 5, "{tools:?}");
    for (url, inside) in &tools {
        let path = url.trim_start_matches("https://");
        let made = format!(
            "set -e; mkdir -p \"site/$(dirname {path})\" \"made/$(dirname {inside})\"; printf '#!/bin/sh\\n' > made/{inside}; chmod 755 made/{inside}"
        );
        let packed = match inside.as_str() {
            "direct" => format!("cp made/direct site/{path}"),
            _ => format!("tar -C made -czf site/{path} {inside}"),
        };
        bench.sh(&format!("{made}; {packed}"));
    }
    let site = Site::new(&bench.path("site"));
    bench.file(file, text.replace("https://", &site.url("")));
    site
}

#[test]
fn a_published_habitat_is_built_verified_and_tested() {
    need!(machine::debian_archive());
    let bench = need!(published("published-build"));
    let home = bench.path("home");
    let bench = bench.env("HOME", &home.display().to_string());
    let _site = serve_tools(&bench);
    bench.sh(
        "sed -i 's/^base_image:.*/base: {debian: bookworm, packages: [ca-certificates]}/' habitats/base/config.yaml",
    );
    bench.file(&format!("home/.{}/settings", program()), "none\n");
    for script in [
        "bin/setup-github-auth",
        "bin/install-gitconfig",
        "install-tools.sh",
        "regenerate-github-token.sh",
    ] {
        bench.executable(&format!("system/tools/{script}"), "#!/bin/sh\necho $0\n");
    }
    for test in [
        "system/tests/test-core-tools",
        "system/tests/test-file-operations",
        "system/tests/test-git-auth",
        "shared/tests/test-user-config",
    ] {
        bench.executable(
            &format!("{test}.sh"),
            "#!/bin/sh\necho 1..2\nrg && echo ok 1\ngit --version > /dev/null && echo ok 2\n",
        );
    }
    bench
        .shmocker("habitat build habitats/base")
        .expect(6, &["is a file of your home"]);

    let build = bench.built("habitat build habitats/base --allow home");

    let stages = build.stages_executed();
    let ran = |phase: &str| stages.iter().any(|stage| stage.contains(phase));
    assert!(ran("verify") && ran("test-4") && ran("tools"), "{stages:?}");
    let again = bench.built("habitat build habitats/base --allow home");
    assert_eq!(again.steps_run(), 0);
}
