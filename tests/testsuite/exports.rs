//! `habitat export`: what other tools find in the directory that it writes.

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Lack, need};

fn sample(name: &str, more: &str) -> Result<Bench, Lack> {
    let bench = Bench::new(&machine::plain_user()?, name);
    bench
        .file(
            "config.yaml",
            format!(
                "name: web\nbase:\n  oci: {}\nenv: [USER=dev, WORKDIR=/srv]\n\
                 files: [{{src: page, dest: /etc/page}}]\nvolumes: ['./data:/data', '~/.cache/web:/cache:ro', '/tmp:/host']\n{more}",
                busybox::layout()?.display()
            ),
        )
        .file("page", "page\n");
    Ok(bench)
}

const SERVICES: &str = "services: [{name: db, command: 'sleep 1000', ready: 'true'}]\n";

#[test]
fn a_dockerfile_is_exported_with_all_that_it_takes() {
    let bench = need!(sample("export-dockerfile", ""));
    bench.ok("habitat export dockerfile config.yaml --out out");
    assert_eq!(
        bench.sh("ls out out/local").out(),
        "out:\nDockerfile\nhabitat-base\nlocal\n\nout/local:\nconfig.yaml\npage\n",
        "what is written is no part of the context"
    );
    let whole = bench.ok("habitat render config.yaml").out();
    assert_eq!(bench.sh("cat out/Dockerfile").out(), whole);
    bench.ok("habitat export dockerfile config.yaml --out out");
}

#[test]
fn a_devcontainer_is_made_of_the_dockerfile() {
    let bench = need!(sample("export-devcontainer", ""));
    bench.ok("habitat export devcontainer config.yaml --out .devcontainer");
    insta::assert_snapshot!(bench.sh("cat .devcontainer/devcontainer.json").out());
}

#[test]
fn a_devcontainer_with_services_starts_them() {
    let bench = need!(sample("export-services", SERVICES));
    bench.ok("habitat export devcontainer config.yaml --out .devcontainer");
    let file: serde_json::Value =
        serde_json::from_slice(&bench.sh("cat .devcontainer/devcontainer.json").stdout)
            .expect("it is JSON");
    assert_eq!(file["build"]["target"], "devcontainer");
    assert_eq!(file["overrideCommand"], false);
    assert_eq!(file["remoteUser"], "dev");
    let dockerfile = bench.sh("tail -n 4 .devcontainer/Dockerfile").out();
    assert_eq!(
        dockerfile,
        "FROM final AS devcontainer\nUSER root\n\
         ENTRYPOINT [\"/bin/sh\",\"/etc/habitat/launch\",\"--forward\",\"dev\",\"db\",\"/etc/habitat/entrypoint\"]\n\
         CMD [\"sleep\", \"infinity\"]\n"
    );
    bench.built(
        "build .devcontainer --target devcontainer --build-context habitat-base=oci-layout://.devcontainer/habitat-base:latest \
         --build-context local=.devcontainer/local",
    );
}

#[test]
fn a_compose_file_is_made_of_the_dockerfile() {
    let bench = need!(sample("export-compose", SERVICES));
    bench.ok("habitat export compose config.yaml --out deploy/web");
    insta::assert_snapshot!(bench.sh("cat deploy/web/compose.yaml").out());
}

#[test]
fn an_unknown_kind_of_export_is_refused_with_those_that_there_are() {
    let bench = need!(sample("export-unknown", ""));
    bench
        .shmocker("habitat export vagrant config.yaml --out out")
        .expect(2, &["dockerfile", "devcontainer", "compose"]);
}
