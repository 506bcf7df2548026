//! Habitats as they were published for an older program: brought to today's spelling they load and render as they are.
//! What their folder leaves out, because it was private or not text, is made here.

use base64::Engine as _;
use serde_json::json;
use sha2::Digest as _;

use crate::harness::archive;
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

/// What stands in for the private files of the published habitats: scripts of the tools that say their names, keys, tests.
fn private_files(bench: &Bench) {
    for script in [
        "bin/setup-github-auth",
        "install-tools.sh",
        "regenerate-github-token.sh",
        "tap-helpers.sh",
    ] {
        bench.executable(&format!("system/tools/{script}"), "#!/bin/sh\necho $0\n");
    }
    bench.executable(
        "system/tools/bin/install-gitconfig",
        "#!/bin/sh -e\ncp /etc/gitconfig ~/.gitconfig 2> /dev/null || true\n",
    );
    let verified =
        bench.sh("grep -ho 'SHARED_PATH}/[^\"]*[.]pem' habitats/*/config.yaml | sort -u");
    for key in verified.out().lines() {
        bench.file(&key.replace("SHARED_PATH}", "shared"), "a key\n");
    }
    for test in [
        "system/tests/test-core-tools",
        "system/tests/test-file-operations",
        "system/tests/test-git-auth",
        "shared/tests/test-user-config",
        &format!("habitats/{}/tests/test-tools-and-auth", HABITATS[1]),
    ] {
        bench.executable(
            &format!("{test}.sh"),
            "#!/bin/sh\necho 1..2\nrg && echo ok 1\ngit --version > /dev/null && echo ok 2\n",
        );
    }
    bench
        .file(&format!("home/.{}/settings", program()), "none\n")
        .file(&format!("home/.{}/.credentials.json", program()), "{}\n");
}

/// Puts a package on the site as a registry of npm's has it: a document of its versions, and its tarball. Returns the hash of
/// that and its address.
fn npm_package(
    bench: &Bench,
    site: &Site,
    name: &str,
    files: &[(&str, String)],
) -> (String, String) {
    let place = format!("npm/{}", name.replace('/', "-"));
    for (path, content) in files {
        bench.executable(&format!("{place}/package/{path}"), content);
    }
    let tarball = format!("registry/-/{}-1.0.0.tgz", name.replace('/', "-"));
    bench.sh(&format!(
        "mkdir -p site/registry/-; tar -C {place} -czf site/{tarball} package"
    ));
    let packed = std::fs::read(bench.path(&format!("site/{tarball}"))).expect("it was made");
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha512::digest(packed));
    let (integrity, url) = (format!("sha512-{hash}"), site.url(&tarball));
    let mut version: serde_json::Value = files
        .iter()
        .find(|(path, _)| *path == "package.json")
        .map(|(_, text)| serde_json::from_str(text).expect("it is JSON"))
        .expect("a package has a package.json");
    version["dist"] = json!({"tarball": url, "integrity": integrity});
    let document =
        json!({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}});
    // A scope's slash comes escaped.
    bench.file(
        &format!("site/registry/{}", name.replace('/', "%2f")),
        document.to_string(),
    );
    (integrity, url)
}

/// The repository of the second habitat, on the site: what its checks look for, and a package that needs another one.
fn project_repository(bench: &Bench, place: &str, (integrity, url): (String, String)) {
    let config = format!("habitats/{}/config.yaml", HABITATS[1]);
    let verified = bench.sh(&format!(
        "sed -n 's,^ *- \"${{WORKDIR}}/\\(.*\\)\",\\1,p' {config} | grep -v '^[.]git/\\|^node_modules'"
    ));
    for path in verified.out().lines() {
        bench.file(&format!("{place}/{path}"), "\n");
    }
    let needs = json!({"js-yaml": "^1.0.0"});
    let lock = json!({
        "name": "project", "version": "1.0.0", "lockfileVersion": 3, "packages": {
            "": {"name": "project", "version": "1.0.0", "dependencies": needs},
            "node_modules/js-yaml": {"version": "1.0.0", "resolved": url, "integrity": integrity},
        },
    });
    let package = json!({"name": "project", "version": "1.0.0", "dependencies": needs});
    bench
        .file(&format!("{place}/package.json"), package.to_string())
        .file(&format!("{place}/package-lock.json"), lock.to_string());
    bench.sh(&format!(
        "cd {place}; git init -q -b main; git add .; git -c user.name=a -c user.email=a@b commit -q -m first"
    ));
}

/// All that the second habitat fetches comes from servers of the test, in the formats that apt, npm and git themselves take;
/// only Debian's own packages come from its archive. Its images' addresses are changed to theirs, nothing else: the user's
/// own layer says where npm's registry is, and puts a file with a group of its own where the machine would have its socket.
fn serve_the_rest(bench: &Bench, site: &Site) {
    let config = format!("habitats/{}/config.yaml", HABITATS[1]);
    let text = bench.sh(&format!("cat {config}")).out();
    let after = |mark: &str| {
        let at = text
            .find(mark)
            .unwrap_or_else(|| panic!("no `{mark}` in\n{text}"));
        let rest = &text[at + mark.len()..];
        rest.split(['\n', ' ']).next().unwrap_or_default()
    };
    let vendor = "site/download.docker.com/linux/debian";
    let line = text.lines().find(|line| line.contains("docker-ce "));
    let packages: Vec<&str> = line
        .and_then(|line| line.split_once(" -y "))
        .map(|(_, names)| names.split(' ').collect())
        .unwrap_or_default();
    let (files, key) = archive::vendor("bookworm", "stable", &packages);
    for (path, content) in files {
        bench.file(&format!("{vendor}/{path}"), content);
    }
    bench.file(&format!("{vendor}/gpg"), key);

    let manifest = |name: &str, rest: serde_json::Value| {
        let mut manifest = json!({"name": name, "version": "1.0.0"});
        if let (Some(all), Some(rest)) = (manifest.as_object_mut(), rest.as_object()) {
            all.extend(rest.clone());
        }
        ("package.json", manifest.to_string())
    };
    let agent = after("npm install -g ");
    let start = json!({"bin": {program(): "cli.js"}});
    let cli = "#!/usr/bin/env node\nconsole.log('started', process.argv[2], process.env.DOCKER_GROUP_GID)\n";
    npm_package(
        bench,
        site,
        agent,
        &[manifest(agent, start), ("cli.js", cli.to_owned())],
    );
    let library = npm_package(
        bench,
        site,
        "js-yaml",
        &[
            manifest("js-yaml", json!({"main": "index.js"})),
            ("index.js", String::new()),
        ],
    );
    let repository = after("https://github.com/");
    project_repository(bench, &format!("site/github.com/{repository}"), library);

    let served = text
        .replace("https://github.com/", &site.url("git/github.com/"))
        .replace("https://", &site.url(""))
        // A step's own network does not lead to this machine's loopback.
        .replace("\n  - run_as: ", "\n  - network: host\n    run_as: ");
    bench.file(&config, served).file(
        "home/.config/shmocker/habitat.yaml",
        format!(
            "env:\n  - NPM_CONFIG_REGISTRY={}\n  - NPM_CONFIG_UPDATE_NOTIFIER=false\nscripts:\n  - before: files\n    run_as: root\n    \
             commands: install -m 660 -g 2375 /dev/null /var/run/docker.sock\n",
            site.url("registry/")
        ),
    );
}

/// Both are built upon one Debian base that has what their images would have (Node.js with npm), and what they install
/// from Debian's archive beside that, so that it is made once.
#[test]
fn published_habitats_are_built_verified_and_tested() {
    need!(machine::debian_archive());
    let bench = need!(published("published-build"));
    let home = bench.path("home");
    let bench = bench.env("HOME", &home.display().to_string());
    let site = serve_tools(&bench);
    private_files(&bench);
    bench.sh(
        "sed -i 's/^base_image:.*/base: {debian: bookworm, packages: [ca-certificates, curl, git, gnupg, lsb-release, npm, openssl, sudo, vim, wget]}/' habitats/*/config.yaml",
    );
    bench
        .shmocker("habitat build habitats/base")
        .expect(6, &["is a file of your home"]);

    let build = "habitat build habitats/base --allow home";
    let ran = |stages: &[String], phase: &str| stages.iter().any(|stage| stage.contains(phase));
    let stages = bench.built(build).stages_executed();
    for phase in ["tools", "scripts", "verify", "test-4"] {
        assert!(ran(&stages, phase), "{stages:?}");
    }
    assert_eq!(bench.built(build).steps_run(), 0);

    serve_the_rest(&bench, &site);
    let build = format!(
        "habitat build habitats/{} --allow home,network.host",
        HABITATS[1]
    );
    let stages = bench.built(&build).stages_executed();
    for phase in ["repos", "tools", "scripts", "verify", "test-5"] {
        assert!(ran(&stages, phase), "{stages:?}");
    }
    assert_eq!(bench.built(&build).steps_run(), 0);
    let image = format!("localhost/habitat/{}", HABITATS[1]);
    let said = bench.ok(&format!("run --rm {image}")).out();
    assert_eq!(said, "started --dangerously-skip-permissions 2375\n");
    let inside =
        "id -un; id -Gn; cat /usr/share/docker-ce; git -C /workspace rev-parse --abbrev-ref HEAD";
    let said = bench
        .ok_with(&format!("run --rm {image} sh -c"), inside)
        .out();
    assert_eq!(said, "node\nnode sudo docker\nof the vendor\nmain\n");
}
