//! For every key: changing it alone changes exactly the phases that it belongs to. A phase is its instructions, without
//! the comments, and the trees that they take from outside.

use std::collections::BTreeMap;

use super::tests::render;
use super::*;

const HABITAT: &str = "\
name: keys
description: what it is for
base_image: debian:12
env:
  - USER=dev
  - COLOR=red
  - SIZE=1
files:
  - {src: a, dest: /etc/a, mode: 644, owner: dev, description: a file}
repos:
  - {url: https://example.org/a, path: /srv/a, branch: main, description: a repository}
  - {url: https://example.org/b, path: /srv/b, ref: v1, secret: token}
tools:
  - {name: x, version: 1.1, url: \"https://example.org/{version}/x.tgz\", extract_path: x/x, description: a tool}
  - {name: y, url: https://example.org/y, direct_binary: true}
services:
  - {name: db, command: serve, ready: ask}
  - {name: queue, command: run-queue}
volumes: [data:/data]
scripts:
  - name: first
    commands: [make one, make two]
    description: a script
  - commands: make three
    needs: [db]
    secrets: [token]
verify-fs:
  required_files: [/etc/a, {path: /etc/b, type: file}]
tests: [t.sh, {path: u.sh, timeout: 5s}]
secrets: [{id: token, env: TOKEN}, {id: other, env: OTHER}]
entry: {command: run, init_command: begin, startup_delay: 1, tty: false}
timeout: {per-phase: 1h, scripts: 10m}
labels: {a: b}
";

/// What is replaced by what, and the phases that this changes.
const CHANGES: &[(&str, &str, &[&str])] = &[
    ("name: keys", "name: keyz", &["final"]),
    ("description: what it is for", "description: other", &[]),
    ("base_image: debian:12", "base_image: debian:13", &["base"]),
    // What anything may read is seen by everything after it: `env` alone says so.
    ("COLOR=red", "COLOR=blue", &["env"]),
    ("  - SIZE=1\n", "", &["env"]),
    ("src: a,", "src: b,", &["files"]),
    ("dest: /etc/a", "dest: /etc/c", &["files"]),
    ("mode: 644", "mode: 600", &["files"]),
    ("mode: 644", "mode: \"0644\"", &[]),
    ("owner: dev", "owner: dev:dev", &["files"]),
    ("description: a file", "description: another", &[]),
    ("description: a file", "optional: true", &[]),
    ("description: a file", "before: repos", &["files", "repos"]),
    (
        "description: a file",
        "after: scripts",
        &["files", "scripts"],
    ),
    ("https://example.org/a", "https://example.org/c", &["repos"]),
    ("path: /srv/a", "path: /srv/c", &["repos"]),
    ("branch: main", "branch: next", &["repos"]),
    ("ref: v1", "ref: v2", &["repos"]),
    ("description: a repository", "shallow: false", &["repos"]),
    ("description: a repository", "depth: 5", &["repos"]),
    ("description: a repository", "submodules: true", &["repos"]),
    ("description: a repository", "access: read", &["repos"]),
    (
        "description: a repository",
        "before: tools",
        &["repos", "tools"],
    ),
    (
        "description: a repository",
        "after: scripts",
        &["repos", "scripts"],
    ),
    ("description: a repository", "description: other", &[]),
    ("name: x,", "name: z,", &["tools"]),
    ("version: 1.1", "version: 1.2", &["tools"]),
    ("https://example.org/y", "https://example.org/z", &["tools"]),
    ("extract_path: x/x", "extract_path: x/y", &["tools"]),
    ("description: a tool", "dest: /opt", &["tools"]),
    ("description: a tool", "binary: xx", &["tools"]),
    (
        "description: a tool",
        "sha256: 1111111111111111111111111111111111111111111111111111111111111111",
        &["tools"],
    ),
    (
        "description: a tool",
        "sha256: {amd64: 1111111111111111111111111111111111111111111111111111111111111111}",
        &["tools"],
    ),
    ("direct_binary: true", "direct_binary: false", &[]),
    ("y, direct_binary: true", "y.tgz", &["tools"]),
    ("description: a tool", "description: other", &[]),
    ("name: first", "name: second", &[]),
    ("description: a script", "description: other", &[]),
    ("make two", "make four", &["scripts"]),
    ("description: a script", "run_as: root", &["scripts"]),
    (
        "description: a script",
        "before: tools",
        &["tools", "scripts"],
    ),
    (
        "description: a script",
        "after: files",
        &["files", "scripts"],
    ),
    (
        "description: a script",
        "after: verify",
        &["scripts", "verify"],
    ),
    (
        "description: a script",
        "before: test",
        &["scripts", "test"],
    ),
    ("description: a script", "shell: sh -eu", &["scripts"]),
    ("description: a script", "timeout: 5m", &["scripts"]),
    ("description: a script", "network: none", &["scripts"]),
    ("description: a script", "env: {A: b}", &["scripts"]),
    ("description: a script", "mounts: ['a:/mnt']", &["scripts"]),
    ("description: a script", "cache: npm", &["scripts"]),
    ("description: a script", "cache: [/var/own]", &["scripts"]),
    (
        "description: a script",
        "secrets: {id: other, env: O}",
        &["scripts"],
    ),
    ("description: a script", "when: test -e /x", &["scripts"]),
    ("description: a script", "when: {arch: arm64}", &["scripts"]),
    ("description: a script", "when: {arch: amd64}", &[]),
    ("[/etc/a, {path", "[/etc/z, {path", &["verify"]),
    ("type: file", "type: symlink", &["verify"]),
    ("type: file", "mode: 644", &["verify"]),
    ("type: file", "owner: root", &["verify"]),
    ("type: file", "contains: text", &["verify"]),
    (
        "type: file",
        "sha256: b111111111111111111111111111111111111111111111111111111111111111",
        &["verify"],
    ),
    ("type: file", "absent: true", &["verify"]),
    ("[t.sh, ", "[u.sh, ", &["test"]),
    ("timeout: 5s", "timeout: 6s", &["test"]),
    ("timeout: 5s", "run_as: root", &["test"]),
    ("env: OTHER", "file: other.txt", &[]),
    ("command: run,", "command: [run, it],", &["final"]),
    ("init_command: begin", "init_command: start", &["final"]),
    ("startup_delay: 1", "startup_delay: 2", &["final"]),
    ("tty: false", "tty: true", &["final"]),
    // A service is a stage of its own, in the phase that needs it first; the others take it from there.
    ("command: serve,", "command: serve it,", &["scripts"]),
    ("ready: ask", "ready: ask again", &["scripts"]),
    ("ready: ask", "ready: ask, timeout: 5s", &["scripts"]),
    ("ready: ask", "ready: ask, run_as: root", &["scripts"]),
    ("command: run-queue", "command: run-queue -v", &["final"]),
    ("needs: [db]", "needs: [db, queue]", &["scripts", "final"]),
    (
        "timeout: 5s}",
        "timeout: 5s, needs: [queue]}",
        &["test", "final"],
    ),
    ("volumes: [data:/data]", "volumes: [other:/data:ro]", &[]),
    ("tty: false", "tty: false, network: none", &["final"]),
    ("tty: false", "tty: false, limits: {memory: 1g}", &["final"]),
    ("tty: false", "tty: false, limits: {cpus: 1.5}", &["final"]),
    ("tty: false", "tty: false, limits: {pids: 100}", &["final"]),
    (
        "tty: false",
        "tty: false, bypass_habitat_construction: true",
        &[],
    ),
    ("scripts: 10m", "scripts: 11m", &["scripts"]),
    ("scripts: 10m", "scripts: 10m, verify: 2m", &["verify"]),
    (
        "per-phase: 1h",
        "per-phase: 2h",
        &["users", "env", "workdir", "habitat", "verify", "test"],
    ),
    ("labels: {a: b}", "labels: {a: c}", &["final"]),
    (
        "USER=dev",
        "USER=eve",
        &[
            "users", "env", "workdir", "habitat", "repos", "scripts", "test", "final",
        ],
    ),
    // Later phases go on where this one ends: they say nothing of it, but stand on it.
    ("SIZE=1", "WORKDIR=/srv", &["env", "workdir"]),
    ("SIZE=1", "HOME=/srv/dev", &["users", "env"]),
    ("SIZE=1", "UID=1234", &["users", "env"]),
    ("SIZE=1", "LOCAL_PATH=/srv/local", &["env", "habitat"]),
];

/// The phases of a text: what each does.
fn phases(text: &str) -> BTreeMap<&'static str, String> {
    let files = ["a", "b", "t.sh", "u.sh"].map(|path| (path, PathKind::File));
    let rendered = render(text, &files);
    let parts = rendered.dockerfile.split("\n# ---- ").skip(1);
    let mut phases = BTreeMap::new();
    for (row, part) in PHASES.iter().zip(parts) {
        let lines = part.lines().skip(1).filter(|line| {
            let line = line.trim_start();
            !line.starts_with('#') || line.starts_with("# shmocker:")
        });
        let mut said: Vec<String> = lines.map(str::to_owned).collect();
        for context in &rendered.contexts {
            if part.contains(&format!("from={}", context.name)) {
                said.push(format!("{:?}", context.kind));
            }
        }
        phases.insert(row.name, said.join("\n"));
    }
    assert_eq!(phases.len(), PHASES.len());
    phases
}

#[test]
fn a_changed_key_changes_the_phases_that_it_belongs_to_and_no_other() {
    let before = phases(HABITAT);
    let mut wrong = Vec::new();
    for (from, to, expected) in CHANGES {
        assert_eq!(HABITAT.matches(from).count(), 1, "`{from}` is ambiguous");
        let text = HABITAT
            .replace(from, to)
            .replace("description: a script", "");
        let text = text.replace("    \n", "");
        let after = phases(&text);
        let changed: Vec<&str> = PHASES
            .iter()
            .map(|row| row.name)
            .filter(|name| before[name] != after[name])
            .collect();
        if changed != *expected {
            wrong.push(format!(
                "`{from}` became `{to}`: {changed:?}, not {expected:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A key that is added to the format has a row above.
#[test]
fn every_key_of_an_item_is_changed_here() {
    let schema = schema();
    let here = |key: &str| {
        let texts = CHANGES.iter().flat_map(|(from, to, _)| [*from, *to]);
        let mut texts = texts.chain([HABITAT]);
        texts.any(|text| text.contains(&format!("{key}:")))
    };
    let mut missing = Vec::new();
    for item in [
        "FileItem", "Repo", "Tool", "Script", "Service", "Required", "Test", "Secret", "Entry",
    ] {
        let keys = schema["$defs"][item]["properties"].as_object();
        let keys = keys.unwrap_or_else(|| panic!("{item} is not in the schema"));
        missing.extend(
            keys.keys()
                .filter(|key| !here(key))
                .map(|key| format!("{item}.{key}")),
        );
    }
    // These decide whether a habitat can be built, not what is made; or belong to what it is when it runs.
    let known = ["FileItem.allow_home", "Repo.lfs"];
    missing.retain(|key| !known.contains(&key.as_str()));
    assert_eq!(missing, [""; 0]);
}
