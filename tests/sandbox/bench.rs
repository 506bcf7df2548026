//! What the stories are played on: a copy of this program, a root made of busybox, and a user to play as.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use shmocker::engine::exec::ids::{Caller, Ids};
use shmocker::graph::Network;

use crate::drive::{Answer, Request};

pub(crate) struct Bench {
    pub(crate) directory: PathBuf,
    /// Who plays: `None` is whoever runs the tests.
    pub(crate) user: Option<String>,
    /// He has no subordinate ids: everything is played with his own alone.
    pub(crate) single_id: bool,
}

/// Prints and counts a skip; fails where SHMOCKER_REQUIRE names the capability.
pub(crate) fn skip(capability: &str, story: &str, reason: &str) {
    let required = std::env::var("SHMOCKER_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == capability),
        "SHMOCKER_REQUIRE names {capability}, but {reason}"
    );
    println!("skip: {story}: {capability}: {reason}");
    if let Some(report) = std::env::var_os("SHMOCKER_SKIP_REPORT") {
        let line = format!("{capability}\tsandbox::{story}\t{reason}\n");
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(report)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap();
    }
}

/// The user whom a variable names, if there is such a user.
fn named_user(variable: &str, usual: &str) -> Option<String> {
    let name = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    known
        .lines()
        .any(|line| line.split(':').next() == Some(&name))
        .then_some(name)
}

/// Removes a tree, parts of which may belong to subordinate ids.
fn remove_tree(path: &Path) {
    if fs::remove_dir_all(path).is_err() && path.exists() {
        let remove = |mapping: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user"]).args(mapping);
            command.args(["rm", "-rf", "--"]).arg(path);
            command.output().unwrap().status.success()
        };
        // Without subordinate ids everything is the user's own.
        assert!(remove(&["--map-auto"]) || remove(&[]));
    }
}

impl Bench {
    /// One for each user: root plays as a plain one and as one without subordinate ids, where there is one.
    pub(crate) fn of_all_users() -> Result<Vec<Self>, String> {
        if !Path::new("/bin/busybox").exists() {
            return Err("no /bin/busybox (package busybox-static) to make a root of".to_owned());
        }
        if !rustix::process::geteuid().is_root() {
            let has_none = Ids::of(&Caller::current()).is_err_and(|error| error.is_lack());
            return Ok(vec![Self::new(None, has_none)]);
        }
        let user = named_user("SHMOCKER_TEST_USER", "shmocker-ranges")
            .ok_or("no plain user to play as; `tests/run` as root makes one")?;
        let mut benches = vec![Self::new(Some(user), false)];
        if let Some(bare) = named_user("SHMOCKER_TEST_BARE_USER", "shmocker-bare") {
            benches.push(Self::new(Some(bare), true));
        }
        Ok(benches)
    }

    fn new(user: Option<String>, single_id: bool) -> Self {
        let (pid, ids) = (std::process::id(), if single_id { "single" } else { "all" });
        let directory = std::env::temp_dir().join(format!("shmocker-sandbox-{pid}-{ids}"));
        fs::create_dir_all(&directory).unwrap();
        let bench = Self {
            directory,
            user,
            single_id,
        };
        fs::copy("/proc/self/exe", bench.program()).unwrap();
        fs::set_permissions(bench.program(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(bench.scratch()).unwrap();
        bench.give_to_user(&bench.directory);
        bench
    }

    /// The player's name.
    pub(crate) fn player(&self) -> String {
        let own = || Caller::current().name.unwrap_or_default();
        self.user.clone().unwrap_or_else(own)
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.directory.join("driver")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    pub(crate) fn give_to_user(&self, path: &Path) {
        if let Some(user) = &self.user {
            assert!(
                Command::new("chown")
                    .arg("-R")
                    .arg(format!("{user}:"))
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    }

    /// A new root: busybox, its links, a few users, none of the mount points.
    pub(crate) fn renew_root(&self) {
        let root = self.root();
        remove_tree(&root);
        for directory in ["bin", "etc", "root", "home/ada", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for applet in String::from_utf8(applets.stdout)
            .unwrap()
            .lines()
            .filter(|applet| *applet != "busybox")
        {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001::/home/ada:/bin/sh\n";
        fs::write(root.join("etc/passwd"), passwd).unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:\nada:x:1001:\nwheel:x:10:ada\n",
        )
        .unwrap();
        self.give_to_user(&root);
    }

    pub(crate) fn shell(&self, script: &str) -> Request {
        Request {
            root: self.root(),
            scratch: self.scratch(),
            single_id: self.single_id,
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            workdir: "/".to_owned(),
            user: String::new(),
            network: Network::None,
            mounts: Vec::new(),
            timeout_ms: Some(20_000),
            cancel_after_ms: None,
            terminal: false,
            overlay: None,
            times: 1,
        }
    }

    /// This program as another user's.
    pub(crate) fn program_as(&self, user: Option<&str>) -> Command {
        match user {
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(self.program());
                command
            }
            None => Command::new(self.program()),
        }
    }

    pub(crate) fn command(&self, user: Option<&str>, request: &Request) -> Command {
        let mut command = self.program_as(user);
        let request = serde_json::to_string(request).unwrap();
        command
            .arg("drive")
            .arg(request)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("CANARY", "secret");
        command
    }

    pub(crate) fn play(&self, request: &Request) -> Answer {
        self.play_as(self.user.as_deref(), request)
    }

    pub(crate) fn play_as(&self, user: Option<&str>, request: &Request) -> Answer {
        let output = self
            .command(user, request)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Plays a shell script that must succeed, and gives what it wrote.
    pub(crate) fn output_of(&self, script: &str) -> String {
        let answer = self.play(&self.shell(script));
        assert_eq!(answer.exit, "status 0", "{answer:?}");
        answer.output
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        remove_tree(&self.directory);
    }
}
