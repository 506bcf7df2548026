//! For every key of the format there is a row: changing just that key makes just the phases that depend on it `changed`,
//! and the reason names the key with both values. Changing nothing changes nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{causes, in_state, sample, why};
use crate::harness::bench::Bench;
use crate::harness::machine::{self, need};

/// Key, as the schema has it, items without their number | what stands in the file | what takes its place | the phases that
/// change | what the reason names | its old value | its new one. Where nothing of a build depends on a key, its row ends early.
const ROWS: &str = r#"
name | name: sample | name: another | final | name | sample | another
description | with everything | with something
env | GREETING=hello | GREETING=bye | env workdir habitat scripts verify test final | env.GREETING | hello | bye
env | HOME=/home/dev | HOME=/home/d | users env workdir habitat files scripts verify test final | env.HOME | /home/dev | /home/d
env | UID=1200 | UID=1300 | users env workdir habitat scripts verify test final | env.UID | 1200 | 1300
env | WORKDIR=/workspace | WORKDIR=/work | env workdir habitat scripts verify test final | env.WORKDIR | /workspace | /work
env | SYSTEM_PATH=/habitat/system | SYSTEM_PATH=/habitat/sys | env workdir habitat scripts verify test final | env.SYSTEM_PATH | /habitat/system | /habitat/sys
env | PLACE=/opt | PLACE=/srv | env workdir habitat scripts verify test final | env.PLACE | /opt | /srv
files.src | src: files/motd | src: files/other | files | files[0].src | files/motd | files/other
files.dest | dest: /etc/motd | dest: /etc/issue | files | files[0].dest | /etc/motd | /etc/issue
files.mode | mode: 644\n    owner: root | mode: 600\n    owner: root | files | files[0].mode | 0644 | 0600
files.owner | owner: root | owner: dev | files | files[0].owner | root | dev
files.before | before: workdir | before: habitat | workdir habitat | files[2].before[0] | workdir | habitat
files.after | before: workdir | after: workdir | workdir | files[2].after[0] | - | workdir
files.optional | optional: false | optional: true
files.allow_home | allow_home: false | allow_home: true
files.description | what is said first | what is said
repos.url | url: repo.bundle\n    path: /workspace/repo | url: same.bundle\n    path: /workspace/repo
repos.path | path: /workspace/repo\n | path: /workspace/code\n | repos | repos[0].path | /workspace/repo | /workspace/code
repos.branch | branch: main | branch: dev | repos | repos[0].branch | main | dev
repos.ref | ref: v1 | ref: dev | repos | repos[1].ref | v1 | dev
repos.shallow | shallow: true | shallow: false | repos | repos[0].shallow | true | false
repos.depth | depth: 1 | depth: 2 | repos | repos[1].depth | 1 | 2
repos.submodules | submodules: false | submodules: true | repos | repos[0].submodules | false | true
repos.access | access: write | access: read | repos | repos[0].access | write | read
repos.lfs | \n    lfs: false\n | \n
repos.before | depth: 1 | depth: 1\n    before: tools | repos tools | repos[1].before[0] | - | tools
repos.after | depth: 1 | depth: 1\n    after: scripts | repos scripts | repos[1].after[0] | - | scripts
repos.description | the code | the text
scripts.name | name: first | name: the first
scripts.description | begins | starts
scripts.run_as | run_as: dev\n    commands | run_as: root\n    commands | scripts | scripts[0].run_as | dev | root
scripts.commands | echo more >> ~/first | echo less >> ~/first | scripts | scripts[0].commands[1] | echo more >> ~/first | echo less >> ~/first
scripts.commands | echo early > /early | echo early >> /early | users | scripts[2].commands[0] | echo early > /early | echo early >> /early
scripts.shell | shell: sh -e | shell: sh -eu | scripts | scripts[0].shell | sh -e | sh -eu
scripts.timeout | timeout: 90s | timeout: 2m | scripts | scripts[0].timeout | 90s | 2m
scripts.network | network: none | network: default | scripts | scripts[0].network | none | default
scripts.env | LEVEL: 1 | LEVEL: 2 | scripts | scripts[0].env.LEVEL | 1 | 2
scripts.mounts | data/input:/mnt/input | data/input:/mnt/in | scripts | scripts[0].mounts[0] | data/input:/mnt/input | data/input:/mnt/in
scripts.cache | [/var/cache/one] | [/var/cache/two] | scripts | scripts[0].cache[0] | /var/cache/one | /var/cache/two
scripts.secrets | env: WORD | env: TERM | scripts | scripts[0].secrets[0].env | WORD | TERM
scripts.needs | needs: [db]\n    commands | needs: [other]\n    commands | scripts | scripts[1].needs[0] | db | other
scripts.when | when: 'true' | when: 'false' | users | scripts[2].when | true | false
services.name | name: other | name: another | final | services[1].name | other | another
services.command | command: sleep 300 | command: sleep 400 | scripts test final | services[0].command | sleep 300 | sleep 400
services.run_as | run_as: dev\n    ready | run_as: root\n    ready | scripts test final | services[0].run_as | dev | root
services.ready | ready: 'true' | ready: 'test -e /' | scripts test final | services[0].ready | true | test -e /
services.timeout | timeout: 5s | timeout: 6s | scripts test final | services[0].timeout | 5s | 6s
volumes | data:/data | data:/other
scripts.before | before: users | before: env | users env | scripts[2].before[0] | users | env
scripts.after | after: scripts | after: tools | tools scripts | scripts[1].after[0] | scripts | tools
verify-fs | \nverify-fs:\n  required_files:\n    - path: ~/first | \nverify-fs:\n  required_files:\n    - /\n    - path: ~/first | verify | verify-fs.required_files[0] | - | /
required_files.path | path: /etc/motd | path: /etc/issue | verify | verify-fs.required_files[1].path | /etc/motd | /etc/issue
required_files.type | type: file | type: symlink | verify | verify-fs.required_files[0].type | file | symlink
required_files.mode | mode: 644\n      owner: dev | mode: 600\n      owner: dev | verify | verify-fs.required_files[0].mode | 0644 | 0600
required_files.owner | owner: dev | owner: root | verify | verify-fs.required_files[0].owner | dev | root
required_files.contains | contains: first | contains: more | verify | verify-fs.required_files[0].contains | first | more
required_files.absent | absent: false | absent: true | verify | verify-fs.required_files[0].absent | false | true
tests.path | - tests/two.sh | - tests/three.sh | test | tests[1] | - | tests/three.sh
tests.run_as | run_as: dev\n    timeout | run_as: root\n    timeout | test | tests[0].run_as | dev | root
tests.timeout | timeout: 60s | timeout: 70s | test | tests[0].timeout | 1m | 70s
tests.needs | timeout: 60s\n    needs: [db] | timeout: 60s\n    needs: [other] | test | tests[0].needs[0] | db | other
entry.command | command: cat /etc/motd | command: cat /etc/passwd | final | entry.command | cat /etc/motd | cat /etc/passwd
entry.init_command | init_command: 'true' | init_command: 'false' | final | entry.init_command | true | false
entry.startup_delay | startup_delay: 1 | startup_delay: 2 | final | entry.startup_delay | 1 | 2
entry.tty | tty: true | tty: false | final | entry.tty | true | false
timeout |   verify: 50s |   verify: 55s | verify | timeout.verify | 50s | 55s
secrets.file | file: secret | file: files/motd
labels | team: one | team: two | final | labels.team | one | two
"#;

/// What changing a key does.
struct Row {
    key: &'static str,
    from: String,
    to: String,
    phases: BTreeSet<String>,
    cause: [&'static str; 3],
}

fn rows() -> Vec<Row> {
    let lines = ROWS.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let mut cells = line.split(" | ");
            let mut cell = || cells.next().unwrap_or_default();
            Row {
                key: cell(),
                from: cell().replace("\\n", "\n"),
                to: cell().replace("\\n", "\n"),
                phases: cell().split_whitespace().map(str::to_owned).collect(),
                cause: [cell(), cell(), cell()],
            }
        })
        .collect()
}

/// Keys that are shown elsewhere, each with where.
const ELSEWHERE: &[(&str, &str)] = &[
    ("base", "a_base_that_is_another_one_changes_the_base_phase"),
    (
        "base_image",
        "a_base_that_is_another_one_changes_the_base_phase",
    ),
    (
        "base.oci",
        "a_base_that_is_another_one_changes_the_base_phase",
    ),
    ("base.debian", "a_debian_base_tells_its_packages_apart"),
    ("base.packages", "a_debian_base_tells_its_packages_apart"),
    ("base.mirror", "a_debian_base_tells_its_packages_apart"),
    ("base.arch", "a_debian_base_tells_its_packages_apart"),
    (
        "entry.bypass_habitat_construction",
        "the_content_of_a_layer_is_told_file_by_file",
    ),
    (
        "required_files.sha256",
        "a_list_of_requirements_is_compared_item_by_item",
    ),
    ("secrets.id", "its scripts name it: scripts.secrets"),
    ("entry.network", "the_entry_says_what_network_it_has"),
    ("entry.limits", "the_entry_says_how_much_it_may_take"),
    ("secrets.env", "as secrets.file"),
    ("secrets", "as secrets.file"),
    ("files", "as its keys"),
    ("repos", "as its keys"),
    ("scripts", "as its keys"),
    ("tests", "as its keys"),
    ("entry", "as its keys"),
    (
        "base.dockerfile",
        "a_base_from_a_dockerfile_is_told_by_its_keys",
    ),
    (
        "base.target",
        "a_base_from_a_dockerfile_is_told_by_its_keys",
    ),
    ("base.args", "a_base_from_a_dockerfile_is_told_by_its_keys"),
    ("image", "a_base_from_a_dockerfile_is_told_by_its_keys"),
    ("tools", "a_tool_is_told_by_its_keys"),
    ("services", "as its keys"),
    (
        "repos.secret",
        "it opens a repository, and is no part of what is in there",
    ),
    (
        "platforms",
        "what this machine cannot build is refused; the rest is the same",
    ),
    (
        "extends",
        "layers.rs: a value comes from wherever it was written",
    ),
];

#[test]
fn a_changed_key_changes_the_phases_that_depend_on_it_and_is_named_with_both_values() {
    let bench = need!(sample("why-keys"));
    bench.sh(
        "sed -i \"s/sha256: .*/sha256: $(sha256sum < files/motd | cut -d' ' -f1)/\" config.yaml",
    );
    let text = std::fs::read_to_string(bench.path("config.yaml")).expect("it is there");
    bench.built("habitat build config.yaml");
    assert_eq!(why(&bench)["would_rebuild"], false);

    let mut wrong = Vec::new();
    for row in rows() {
        let Row { key, from, to, .. } = &row;
        let expected = &row.phases;
        assert_eq!(text.matches(from.as_str()).count(), 1, "{key}: {from}");
        bench.file("config.yaml", text.replace(from.as_str(), to));
        let answer = why(&bench);
        let changed = in_state(&answer, "changed");
        if changed != *expected {
            wrong.push(format!(
                "{key} {to}: changes {changed:?}, not {expected:?}\n{answer:#}"
            ));
            continue;
        }
        assert_eq!(answer["would_rebuild"], !expected.is_empty(), "{key}");
        let [field, old, new] = row.cause;
        let side = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        for phase in &changed {
            let named = causes(&answer, phase).into_iter().any(|cause| {
                cause["field"] == field && side(&cause["old"]) == old && side(&cause["new"]) == new
            });
            // Where an item came from is told by what it was there.
            let is_gone = ["before", "after"].iter().any(|hook| field.contains(hook))
                && causes(&answer, phase)
                    .iter()
                    .any(|cause| field.starts_with(cause["field"].as_str().unwrap_or("-")));
            if !named && !is_gone {
                wrong.push(format!(
                    "{key} {to}: {phase} does not name {field} {old} -> {new}\n{answer:#}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_key_of_the_format_has_a_row() {
    let schema = std::fs::read_to_string(crate::tidy::repository().join("schemas/habitat.json"))
        .expect("a schema");
    let schema: Value = serde_json::from_str(&schema).expect("it is JSON");
    let mut keys = Vec::new();
    let mut add = |prefix: &str, properties: &Value| {
        for (name, what) in properties.as_object().into_iter().flatten() {
            let is_refused = what["description"]
                .as_str()
                .is_some_and(|text| text.starts_with("Not supported"));
            if !is_refused {
                keys.push(format!("{prefix}{name}"));
            }
        }
    };
    add("", &schema["properties"]);
    for (name, prefix) in [
        ("DebianBase", "base."),
        ("DockerfileBase", "base."),
        ("OciBase", "base."),
        ("Service", "services."),
        ("FileItem", "files."),
        ("Repo", "repos."),
        ("Script", "scripts."),
        ("Required", "required_files."),
        ("Test", "tests."),
        ("Entry", "entry."),
        ("Secret", "secrets."),
    ] {
        let properties = &schema["$defs"][name]["properties"];
        assert!(properties.is_object(), "{name}");
        add(prefix, properties);
    }
    let shown = |key: &str| {
        rows().iter().any(|row| row.key == key) || ELSEWHERE.iter().any(|(known, _)| *known == key)
    };
    let missing: Vec<&String> = keys.iter().filter(|key| !shown(key)).collect();
    assert!(missing.is_empty(), "no test changes {missing:?} alone");
}

#[test]
fn nothing_changed_rebuilds_nothing_on_another_day_in_another_folder_as_another_user() {
    let bench = need!(sample("why-same"));
    bench.sh(
        "sed -i '/sha256/d' config.yaml; mkdir -p \"$HOME/.config/shmocker\" 2>/dev/null || true",
    );
    bench.sh("mkdir elsewhere; for f in config.yaml files data secret tests repo.bundle same.bundle; do cp -a $f elsewhere/; done");
    let first = bench.built("habitat build config.yaml");
    bench.sh("find . -exec touch -h -d 2001-02-03 {} +");

    let again = bench.built("habitat build config.yaml");
    assert_eq!((again.steps_run(), again.digest()), (0, first.digest()));
    assert_eq!(why(&bench)["would_rebuild"], false);

    // Nothing of where it lies is a part of what it is; who builds has no part in it either.
    let moved = bench.built("habitat build elsewhere/config.yaml --no-user-layer");
    assert_eq!(moved.steps_run(), 0, "{:?}", moved.executed());
    assert_eq!(moved.digest(), first.digest());
    let phases = |bench: &Bench, file: &str| {
        let run = bench.ok(&format!(
            "habitat phases {file} --no-user-layer --format json"
        ));
        run.json().as_array().expect("phases").clone()
    };
    let here = phases(&bench, "elsewhere/config.yaml");
    for phase in &here {
        let state = phase["state"].as_str().unwrap_or_default();
        assert!(["cached", "empty"].contains(&state), "{phase}");
    }
    // Another user's store knows nothing of it; what it would build has the same names.
    let other = Bench::new(&need!(machine::bare_user()), "why-other");
    other.tree(&bench.path("elsewhere"), "mine");
    let there = phases(&other, "mine/config.yaml");
    for (one, another) in here.iter().zip(&there) {
        assert_eq!(one["hash"], another["hash"], "{one} {another}");
    }
}
