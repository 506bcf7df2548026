//! Tools of a habitat: what is downloaded, checked and put where; what a wrong digest, a missing version and a changed key
//! do. From a web server of the test's own.

use crate::conformance::same_image;
use crate::harness::Lack;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, need};
use crate::harness::site::Site;
use crate::peers::buildkit::{Request, buildkit};

/// A site with programs in every form, and a habitat without tools; [`habitat`] adds them.
fn bench(name: &str) -> Result<(Bench, Site), Lack> {
    busybox::layout()?;
    let bench = Bench::new(&machine::plain_user()?, name);
    bench.sh(
        "mkdir -p site make/hi-1.2/bin make/deep; \
         printf '#!/bin/sh\\necho hi from an archive\\n' > make/hi-1.2/bin/hi; printf '#!/bin/sh\\necho plain\\n' > make/plain; \
         chmod 700 make/hi-1.2/bin/hi; chmod 600 make/plain; cp make/plain site/plain-amd64; cp make/plain site/plain-arm64; \
         tar --owner=1234 --group=1234 -C make -czf site/hi-1.2.tar.gz hi-1.2; tar -C make -cJf site/hi-1.2.tar.xz hi-1.2; tar -C make -cjf site/top.tar.bz2 plain",
    );
    let site = Site::new(&bench.path("site"));
    Ok((bench, site))
}

fn habitat(bench: &Bench, tools: &str) {
    let base = busybox::layout().expect("it was there before");
    bench.file(
        "config.yaml",
        format!(
            "name: tooled\nbase: {{oci: {}}}\nenv: [USER=dev]\ntools:\n{tools}",
            base.display()
        ),
    );
}

fn sum_of(bench: &Bench, path: &str) -> String {
    let said = bench.sh(&format!("sha256sum {path}")).out();
    said.split_whitespace().next().expect("a digest").to_owned()
}

fn inside(bench: &Bench, script: &str) -> String {
    bench
        .ok_with("run localhost/habitat/tooled:latest sh -c", script)
        .out()
}

#[test]
fn a_tool_is_downloaded_unpacked_and_put_where_it_belongs() {
    let (bench, site) = need!(bench("tools-forms"));
    let bench = bench.env("SOURCE_DATE_EPOCH", "1700000000");
    let (archive, plain) = (
        sum_of(&bench, "site/hi-1.2.tar.gz"),
        sum_of(&bench, "site/plain-amd64"),
    );
    habitat(
        &bench,
        &format!(
            "  - {{name: hi, version: 1.2, url: \"{}\", extract_path: \"hi-{{version}}/bin/hi\", sha256: {archive}}}\n\
             \x20 - {{name: hi, version: 1.2, url: \"{}\", extract_path: \"hi-{{version}}/bin/hi\", dest: ~/bin, binary: hello}}\n\
             \x20 - name: plain\n    url: \"{}\"\n    direct_binary: true\n    dest: /opt/tools/\n\
             \x20   sha256: {{amd64: {plain}, arm64: {plain}}}\n\
             \x20 - {{name: top, url: \"{}\", binary: plain}}\n",
            site.url("hi-{version}.tar.gz"),
            site.url("hi-{version}.tar.xz"),
            site.url("plain-{arch}"),
            site.url("top.tar.bz2"),
        ),
    );
    bench.built(
        "habitat build config.yaml -o type=oci,dest=ours.tar -t localhost/habitat/tooled:latest",
    );
    let question = "hi; ~/bin/hello; /opt/tools/plain; plain; \
         stat -c '%a %u:%g %n' /usr/local/bin/hi ~/bin/hello /opt/tools/plain /usr/local/bin/plain; ls -d /hi* || echo clean";
    assert_eq!(
        inside(&bench, question),
        "hi from an archive\nhi from an archive\nplain\nplain\n755 0:0 /usr/local/bin/hi\n755 0:0 /home/dev/bin/hello\n\
         755 0:0 /opt/tools/plain\n755 0:0 /usr/local/bin/plain\nclean\n"
    );
    let again = bench.built("habitat build config.yaml");
    assert_eq!(again.steps_run(), 0, "{:?}", again.executed());

    // Any other builder makes the same of what is rendered.
    let buildkit = need!(buildkit());
    bench.ok("habitat render config.yaml --out rendered");
    let theirs = buildkit
        .build(&Request {
            context: &bench.path("rendered"),
            dockerfile: "Dockerfile",
            contexts: vec![("habitat-base", bench.path("rendered/habitat-base"))],
            options: vec!["build-arg:SOURCE_DATE_EPOCH=1700000000".to_owned()],
        })
        .unwrap_or_else(|log| panic!("{log}"));
    same_image(&Layout::read(&bench.path("ours.tar")), &theirs, &[]);
}

#[test]
fn what_is_not_what_it_has_to_be_is_no_tool() {
    let (bench, site) = need!(bench("tools-wrong"));
    let tool = |more: &str| {
        format!(
            "  - {{name: plain, url: \"{}\"{more}}}\n",
            site.url("plain-amd64")
        )
    };
    habitat(&bench, &tool(&format!(", sha256: {}", "0".repeat(64))));
    bench
        .shmocker("habitat build config.yaml")
        .expect(5, &["digest", "plain-amd64", "config.yaml"]);
    habitat(
        &bench,
        &tool(
            ", sha256: {s390x: 0000000000000000000000000000000000000000000000000000000000000000}",
        ),
    );
    bench.shmocker("habitat build config.yaml").expect(
        1,
        &["`plain` has no sha256 for", "would not know what it gets"],
    );
    // What is looked at may lack a version; what is downloaded may not.
    habitat(
        &bench,
        &format!(
            "  - {{name: plain, url: \"{}\"}}\n",
            site.url("plain-{version}")
        ),
    );
    let looked = bench.ok("habitat render config.yaml");
    assert!(
        looked.stderr.contains("`plain` has no version"),
        "{}",
        looked.both()
    );
    assert!(looked.out().contains("plain-{version}"), "{}", looked.out());
    bench
        .shmocker("habitat build config.yaml")
        .expect(1, &["`plain` has no version", "add `version: …`"]);
    site.asked();
}

/// Downloads are stages of their own: no step of an earlier phase runs for a tool, and no tool for another.
#[test]
fn a_changed_tool_runs_what_takes_it_and_what_follows() {
    let (bench, site) = need!(bench("tools-changed"));
    let tools = |dest: &str, version: &str| {
        format!(
            "  - {{name: plain, url: \"{}\", dest: {dest}}}\n\
             \x20 - {{name: hi, version: {version}, url: \"{}\", extract_path: \"hi-1.2/bin/hi\"}}\n\
             scripts:\n  - commands: hi > ~/said\n",
            site.url("plain-{arch}"),
            site.url("hi-{version}.tar.gz"),
        )
    };
    habitat(&bench, &tools("/opt", "1.2"));
    bench.built("habitat build config.yaml");
    bench.sh("cp site/hi-1.2.tar.gz site/hi-1.3.tar.gz");

    habitat(&bench, &tools("/opt", "1.3"));
    let build = bench.built("habitat build config.yaml");
    assert_eq!(
        build.stages_executed(),
        ["tool-2"],
        "the same program from another address is the same program"
    );

    habitat(&bench, &tools("/srv", "1.3"));
    let build = bench.built("habitat build config.yaml");
    let stages = build.stages_executed();
    assert!(
        stages.contains(&"tools".to_owned()) && stages.contains(&"scripts".to_owned()),
        "{stages:?}"
    );
    assert!(
        stages
            .iter()
            .all(|stage| ["tools", "scripts", "final"].contains(&stage.as_str())),
        "{stages:?}"
    );
}
