//! skopeo, umoci and podman: three programs that read images, each in its own way.

use std::path::Path;
use std::process::Command;

use crate::harness::machine::{self, Capability, program};
use crate::harness::{Bench, Lack, Run};

/// Copies an OCI archive with skopeo, which reads every blob and checks it; gives what `skopeo inspect` says.
pub(crate) fn skopeo(bench: &Bench, archive: &str) -> Result<serde_json::Value, Lack> {
    program(Capability::Skopeo, "skopeo")?;
    bench.sh(&format!(
        "mkdir -p .config; echo '{{\"default\":[{{\"type\":\"insecureAcceptAnything\"}}]}}' > .config/policy.json; \
         skopeo --policy .config/policy.json --tmpdir . copy -q oci-archive:{archive} dir:skopeo-copy"
    ));
    Ok(bench
        .sh(&format!("skopeo --tmpdir . inspect oci-archive:{archive}"))
        .json())
}

/// Unpacks an OCI archive with umoci; the tree is in `bundle/rootfs`.
pub(crate) fn umoci(bench: &Bench, archive: &str) -> Result<(), Lack> {
    program(Capability::Umoci, "umoci")?;
    bench.sh(&format!(
        "mkdir -p layout; tar -C layout -xf {archive}; \
         tag=$(sed 's/.*\"org.opencontainers.image.ref.name\":\"\\([^\"]*\\)\".*/\\1/' layout/index.json); \
         umoci unpack --rootless --image \"layout:$tag\" bundle"
    ));
    Ok(())
}

/// podman with a store of its own in the project, for what it pulls and pushes; only root can do without its user namespace.
pub(crate) struct RootsPodman<'a>(&'a Bench);

impl<'a> RootsPodman<'a> {
    pub(crate) fn of(bench: &'a Bench) -> Result<Self, Lack> {
        program(Capability::Podman, "podman")?;
        machine::root()?;
        Ok(Self(bench))
    }

    pub(crate) fn ok(&self, arguments: &str) {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.0.path("podman"))
            .arg("--storage-driver=vfs")
            .args(arguments.split(' '));
        self.0.finish(&mut command).expect(0, &[]);
    }
}

impl Drop for RootsPodman<'_> {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(self.0.path("podman")));
    }
}

/// Loads an OCI archive into podman and runs a command in it.
pub(crate) fn podman(bench: &Bench, archive: &Path, command: &str) -> Result<Run, Lack> {
    let podman = Podman::of(bench)?;
    let image = podman.load(archive);
    let options = "--network=host --security-opt=seccomp=unconfined";
    Ok(bench.sh(&podman.run(options, &image, command)))
}

/// podman as the bench's user.
pub(crate) struct Podman<'a> {
    bench: &'a Bench,
    words: String,
}

impl<'a> Podman<'a> {
    pub(crate) fn of(bench: &'a Bench) -> Result<Self, Lack> {
        program(Capability::Podman, "podman")?;
        program(Capability::Podman, "runc")?;
        // One store for all tests, at a short path: podman refuses long ones.
        let place = machine::place_for(bench.user(), "podman");
        let place = place.display();
        let words = format!(
            "podman --cgroup-manager=cgroupfs --runtime=runc --events-backend=file --log-level=error \
             --root={place}/root --runroot={place}/run --tmpdir={place}/tmp"
        );
        Ok(Self { bench, words })
    }

    /// The image's name.
    pub(crate) fn load(&self, archive: &Path) -> String {
        let line = format!("{} load -q -i {}", self.words, archive.display());
        let loaded = self.bench.sh(&line).out();
        let name = loaded.trim().rsplit(": ").next().unwrap_or_default();
        name.to_owned()
    }

    /// The shell line that runs a command of an image.
    pub(crate) fn run(&self, options: &str, image: &str, command: &str) -> String {
        format!("{} run --rm {options} {image} {command}", self.words)
    }
}
