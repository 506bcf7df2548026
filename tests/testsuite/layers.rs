//! Habitats in a ROOT: system, shared, parents and the user's own layer, found, laid over each other and built.

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, need};

/// A ROOT with a habitat in it that has every kind of layer.
fn rooted(name: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    let own = bench.path("own");
    let bench = bench.env("XDG_CONFIG_HOME", &own.display().to_string());
    bench
        .file(
            "system/config.yaml",
            "name: system-setup\nenv: [USER=dev, LAYERS=system, 'TOOLS=${SYSTEM_PATH}/bin']\n\
             files:\n  - {src: ./system/motd, dest: /etc/motd}\n  - {src: issue, dest: /etc/issue}\n\
             scripts: [{run_as: root, commands: 'echo system >> /etc/layers'}]\n\
             tests: [tests/system.sh]\nverify-fs: {required_files: ['${SYSTEM_PATH}/config.yaml', '${TOOLS}/hello']}\n",
        )
        .file("system/motd", "of the system\n")
        .file("system/issue", "issue\n")
        .executable("system/bin/hello", "#!/bin/sh\necho hello\n")
        .executable("system/tests/system.sh", "#!/bin/sh\necho 1..1\ngrep -q web /etc/layers && echo ok 1 || echo not ok 1\n")
        .file(
            "shared/config.yaml",
            "name: shared-setup\nenv: ['LAYERS=${LAYERS} shared']\nscripts: [{run_as: root, commands: 'echo shared >> /etc/layers'}]\n",
        )
        .file("shared/note", "note\n")
        .file(
            "habitats/common/config.yaml",
            format!(
                "name: common\nbase: {{oci: {}}}\nscripts: [{{run_as: root, commands: 'echo common >> /etc/layers'}}]\n",
                busybox::layout()?.display()
            ),
        )
        .file(
            "habitats/web/config.yaml",
            "name: web\nextends: ../common\nenv: ['LAYERS=${LAYERS} web']\nfiles: [{src: page, dest: /srv/page}]\n\
             scripts: [{run_as: root, commands: 'echo web >> /etc/layers'}]\n",
        )
        .file("habitats/web/page", "page\n")
        .file("habitats/web/rest/file", "rest\n")
        .file(
            "own/shmocker/habitat.yaml",
            "scripts: [{run_as: root, commands: 'echo mine >> /etc/layers'}]\n",
        );
    Ok(bench)
}

#[test]
fn layers_are_found_and_laid_over_each_other() {
    let bench = need!(rooted("layers"));

    bench.built("habitat build habitats/web");

    let inside = "cat /etc/layers /etc/motd; echo $LAYERS; cd /habitat; find . -type f | sort; stat -c %U shared/note";
    let mut command = bench.shmocker_command("run --rm localhost/habitat/web:latest sh -c");
    let said = bench.finish(command.arg(inside));
    assert_eq!(
        said.out(),
        "system\nshared\ncommon\nweb\nmine\nof the system\nsystem shared web\n\
         ./local/config.yaml\n./local/page\n./local/rest/file\n./shared/config.yaml\n./shared/note\n./system/bin/hello\n\
         ./system/config.yaml\n./system/issue\n./system/motd\ndev\n"
    );
}

#[test]
fn the_users_own_layer_can_be_left_out() {
    let bench = need!(rooted("layers-own"));
    let whole = bench.ok("habitat render habitats/web").out();
    assert!(whole.contains("echo mine"), "{whole}");
    let without = bench
        .ok("habitat render habitats/web --no-user-layer")
        .out();
    assert!(!without.contains("echo mine"), "{without}");
    assert!(without.contains("echo common"), "{without}");
}

#[test]
fn root_can_be_named() {
    let bench = need!(rooted("layers-root"));
    bench.sh(
        "mkdir rooted; mv habitats/web .; mv system shared habitats rooted; sed -i s,../common,habitats/common, web/config.yaml",
    );
    let lone = bench.shmocker("habitat check web");
    assert_eq!(lone.status, 1, "{}", lone.both());
    let rooted = bench.ok("habitat render web --root rooted").out();
    assert!(
        rooted.contains("echo system") && rooted.contains("echo common"),
        "{rooted}"
    );
    let none = bench.shmocker("habitat check web --root nowhere");
    assert_eq!(none.status, 2, "{}", none.both());
}

#[test]
fn habitats_that_extend_each_other_in_a_circle_are_refused_with_the_chain() {
    let bench = need!(rooted("layers-circle"));
    bench.sh("echo 'extends: [../web]' >> habitats/common/config.yaml");
    let run = bench.shmocker("habitat check habitats/web");
    assert_eq!(run.status, 1);
    insta::assert_snapshot!(run.stderr);
}

#[test]
fn a_parent_that_is_not_there_is_told_at_its_place() {
    let bench = need!(rooted("layers-missing"));
    bench.sh("sed -i s,../common,../comon, habitats/web/config.yaml");
    let run = bench.shmocker("habitat check habitats/web");
    assert_eq!(run.status, 1);
    insta::assert_snapshot!(run.stderr);
}

#[test]
fn mistakes_of_two_layers_come_in_one_report_each_in_its_file() {
    let bench = need!(rooted("layers-mistakes"));
    bench.sh(
        "echo 'tmeout: 1m' >> shared/config.yaml; echo 'labels: [x]' >> habitats/web/config.yaml",
    );
    let run = bench.shmocker("habitat check --format short habitats/web");
    assert_eq!(run.status, 1);
    assert_eq!(
        run.out(),
        "shared/config.yaml:4:1: unknown key `tmeout` in a habitat\nhabitats/web/config.yaml:6:10: an entry of env has no `=`\n"
    );
}

#[test]
fn a_layer_is_checked_by_itself_and_not_built() {
    let bench = need!(rooted("layers-part"));
    bench.ok("habitat check system");
    bench.ok("habitat check shared");
    let run = bench.shmocker("habitat build system");
    assert_eq!(run.status, 1);
    assert!(
        run.stderr.contains("is a layer of habitats"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_file_that_an_item_of_a_layer_names_reaches_no_step_before_its_own() {
    let bench = need!(rooted("layers-named"));
    bench.built("habitat build habitats/web");
    bench.file("habitats/web/page", "another page\n");
    let build = bench.built("habitat build habitats/web");
    let executed = build.executed();
    let files: Vec<&String> = executed
        .iter()
        .filter(|step| step.starts_with("files: "))
        .collect();
    assert_eq!(files, ["files: COPY --from=local page /srv/page"]);
}
