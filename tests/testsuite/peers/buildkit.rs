//! BuildKit, rootless, started once for all tests and ended with them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::harness::layout::Layout;
use crate::harness::machine::{self, Capability};
use crate::harness::processes::wait_until;
use crate::harness::{Lack, User};

/// A running buildkitd.
#[derive(Debug)]
pub(crate) struct BuildKit {
    user: User,
    buildctl: PathBuf,
    place: PathBuf,
    /// Its standard input is the life line: the daemon is ended when the test process is gone.
    _guard: Child,
}

/// One build.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) context: &'a Path,
    /// The Dockerfile, by its name in the context.
    pub(crate) dockerfile: &'a str,
    /// Named contexts: OCI layouts, and directories.
    pub(crate) contexts: Vec<(&'a str, PathBuf)>,
    /// Further options of the frontend, `NAME=VALUE`.
    pub(crate) options: Vec<String>,
}

/// The one that all tests share.
pub(crate) fn buildkit() -> Result<&'static BuildKit, Lack> {
    static BUILDKIT: OnceLock<Result<BuildKit, Lack>> = OnceLock::new();
    BUILDKIT.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn start() -> Result<BuildKit, Lack> {
    let lack = |reason: String| Capability::BuildKit.lack(reason);
    let user = machine::ranged_user()?;
    let dir = std::env::var_os("SHMOCKER_TEST_BUILDKIT")
        .map(PathBuf::from)
        .ok_or_else(|| lack("no buildkitd; `tests/run` builds one where Go is".to_owned()))?;
    for program in ["rootlesskit", "runc"] {
        machine::program(Capability::BuildKit, program)?;
    }
    let place = machine::place_for(&user, "bk");
    let buildkitd = machine::executable(&dir.join("buildkitd"), "buildkitd");
    let buildctl = machine::executable(&dir.join("buildctl"), "buildctl");
    let log = std::fs::File::create(machine::workshop().join("buildkitd.log"))
        .expect("a log can be made");
    let script = "rootlesskit --net=host --copy-up=/etc --copy-up=/run --state-dir=$1/rk \
                  $2 --rootless --root $1/root --addr unix://$1/sock </dev/null & \
                  cat >/dev/null; kill $!; wait";
    let guard = user
        .command("/bin/sh")
        .env("XDG_RUNTIME_DIR", &place)
        .env("TMPDIR", &place)
        .args(["-c", script, "sh"])
        .args([&place, &buildkitd])
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a file has a second handle"))
        .stderr(log)
        .spawn()
        .map_err(|error| lack(error.to_string()))?;
    let buildkit = BuildKit {
        user,
        buildctl,
        place,
        _guard: guard,
    };
    wait_until(Duration::from_secs(30), || {
        let ready = buildkit.buildctl(&["debug", "workers"]).output();
        ready.is_ok_and(|output| output.status.success())
    })
    .ok_or_else(|| {
        let log =
            std::fs::read_to_string(machine::workshop().join("buildkitd.log")).unwrap_or_default();
        lack(format!(
            "buildkitd does not come up: {}",
            log.lines().last().unwrap_or_default()
        ))
    })?;
    Ok(buildkit)
}

impl BuildKit {
    fn buildctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.user.command(&self.buildctl);
        command
            .env("TMPDIR", &self.place)
            .arg("--addr")
            .arg(format!("unix://{}/sock", self.place.display()))
            .args(arguments);
        command
    }

    /// What its frontend answers to a request that builds nothing, such as `frontend.lint`.
    pub(crate) fn ask(&self, context: &Path, request: &str) -> String {
        let mut command =
            self.buildctl(&["build", "--progress=quiet", "--frontend", "dockerfile.v0"]);
        for local in ["context", "dockerfile"] {
            command
                .arg("--local")
                .arg(format!("{local}={}", context.display()));
        }
        let output = command
            .arg("--opt")
            .arg(format!("requestid={request}"))
            .output()
            .expect("buildctl can be started");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Builds, and gives the image; or what it said.
    pub(crate) fn build(&self, request: &Request<'_>) -> Result<Layout, String> {
        image_of(&mut self.command(request))
    }

    /// Builds the Dockerfile of a directory, in which `base` names a layout; fails the test if that fails.
    #[track_caller]
    pub(crate) fn build_on(&self, base: &Path, context: &Path) -> Layout {
        self.build(&Request {
            context,
            dockerfile: "Dockerfile",
            contexts: vec![("base", base.to_owned())],
            options: Vec::new(),
        })
        .unwrap_or_else(|log| panic!("{log}"))
    }

    /// The command that writes the image's archive to its standard output.
    pub(crate) fn command(&self, request: &Request<'_>) -> Command {
        let mut command =
            self.buildctl(&["build", "--progress=plain", "--frontend", "dockerfile.v0"]);
        for local in ["context", "dockerfile"] {
            command
                .arg("--local")
                .arg(format!("{local}={}", request.context.display()));
        }
        command
            .arg("--opt")
            .arg(format!("filename={}", request.dockerfile));
        let mut layouts: Vec<&PathBuf> = Vec::new();
        for (name, dir) in &request.contexts {
            // A name may hold characters that a session's store name may not.
            let store: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            let value = if dir.join("oci-layout").exists() {
                let number = layouts.iter().position(|layout| *layout == dir);
                let store = format!("layout{}", number.unwrap_or(layouts.len()));
                if number.is_none() {
                    layouts.push(dir);
                    command
                        .arg("--oci-layout")
                        .arg(format!("{store}={}", dir.display()));
                }
                format!("oci-layout://{store}@{}", manifest_digest(dir))
            } else {
                command
                    .arg("--local")
                    .arg(format!("{store}={}", dir.display()));
                format!("local:{store}")
            };
            command.arg("--opt").arg(format!("context:{name}={value}"));
        }
        for option in &request.options {
            command.arg("--opt").arg(option);
        }
        command.args(["--output", "type=oci,dest=-"]);
        command
    }
}

/// What a layout's index names.
fn manifest_digest(layout: &Path) -> String {
    let index = std::fs::read(layout.join("index.json")).expect("a layout has an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("an index is JSON");
    index["manifests"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

/// Runs what [`BuildKit::command`] gave; the image, or what it said.
pub(crate) fn image_of(command: &mut Command) -> Result<Layout, String> {
    let archive = command.output().expect("buildctl can be started");
    if archive.status.success() {
        Ok(Layout::of_archive(&archive.stdout))
    } else {
        Err(String::from_utf8_lossy(&archive.stderr).into_owned())
    }
}
