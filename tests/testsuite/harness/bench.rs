//! One test's place: a project directory with its files, a store, a user, and shmocker with nothing inherited.

use std::fmt;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::events::Events;
use super::machine::{self, Turn, User};
use super::mask;

/// A project directory and a store that belong to `user`.
#[derive(Debug)]
pub(crate) struct Bench {
    user: User,
    root: PathBuf,
    store: PathBuf,
    env: Vec<(String, String)>,
    program: PathBuf,
    is_kept: bool,
    _turn: Rc<Turn>,
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// The exit status; 128 + n where signal n ended it.
    pub(crate) status: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    masks: Vec<(String, &'static str)>,
}

impl Bench {
    /// An empty project and an empty store.
    pub(crate) fn new(user: &User, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = machine::beside_others();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = machine::workshop().join(format!("runs/{number}-{name}"));
        let bench = Self {
            user: user.clone(),
            store: root.join("store"),
            root,
            // The whole suite can be run with a single id.
            env: std::env::var("SHMOCKER_TEST_IDS")
                .map(|ids| ("SHMOCKER_IDS".to_owned(), ids))
                .into_iter()
                .collect(),
            program: machine::shmocker().to_owned(),
            is_kept: false,
            _turn: turn,
        };
        for dir in [bench.root.clone(), bench.project(), bench.store.clone()] {
            std::fs::create_dir_all(&dir).expect("a directory can be made");
            bench.give(&dir);
        }
        bench
    }

    /// The same, on a store that another bench filled.
    pub(crate) fn on_store(mut self, store: &Path) -> Self {
        self.store = store.to_owned();
        self
    }

    /// The same, with one variable more in shmocker's environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, with another copy of shmocker.
    pub(crate) fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// Gives the machine back, but leaves the files for other tests.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }

    /// The directory that commands run in.
    pub(crate) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    /// A path in the project.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.project().join(path)
    }

    /// The store.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// The user that it belongs to.
    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    /// Writes a file, mode 0644, with its directories.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.file_with_mode(path, content, 0o644)
    }

    /// Writes a file, mode 0755, with its directories.
    pub(crate) fn executable(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        self.file_with_mode(path, content, 0o755)
    }

    fn file_with_mode(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> &Self {
        let file = self.path(path);
        let parents: Vec<&Path> = file
            .ancestors()
            .skip(1)
            .take_while(|dir| !dir.exists())
            .collect();
        for dir in parents.into_iter().rev() {
            std::fs::create_dir(dir).expect("a directory can be made");
            self.give(dir);
        }
        std::fs::write(&file, content).expect("a file can be written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))
            .expect("a mode can be set");
        self.give(&file);
        self
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
        std::os::unix::fs::symlink(target, self.path(path)).expect("a link can be made");
        self
    }

    /// Copies a tree of the repository or of the fixtures into the project.
    pub(crate) fn tree(&self, from: &Path, to: &str) -> &Self {
        let done = Command::new("cp")
            .args(["-R", "--no-preserve=ownership", "--"])
            .arg(from)
            .arg(self.path(to))
            .status();
        assert!(
            done.is_ok_and(|status| status.success()),
            "cp {}",
            from.display()
        );
        if machine::process_uid() == 0 {
            let owner = format!("{}:{}", self.user.uid, self.user.gid);
            let done = Command::new("chown")
                .args(["-Rh", &owner])
                .arg(self.path(to))
                .status();
            assert!(done.is_ok_and(|status| status.success()), "chown {to}");
        }
        self
    }

    fn give(&self, path: &Path) {
        if machine::process_uid() == 0 {
            chown(path, Some(self.user.uid), Some(self.user.gid))
                .expect("root can give files away");
        }
    }

    /// A command of the bench's user in the project directory.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.user.command(program);
        command
            .env("XDG_RUNTIME_DIR", &self.root)
            // What is kept shall not depend on how full this machine's disk is.
            .env("SHMOCKER_STORE_MIN_FREE", "none")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.project());
        command
    }

    /// shmocker with the bench's store; the words of `line` are its arguments.
    pub(crate) fn shmocker_command(&self, line: &str) -> Command {
        let mut command = self.command(&self.program);
        command
            .arg("--store")
            .arg(&self.store)
            .args(line.split_whitespace());
        command
    }

    /// shmocker with the bench's store, as words of a shell line.
    pub(crate) fn shmocker_words(&self) -> String {
        format!(
            "{} --store {}",
            self.program.display(),
            self.store.display()
        )
    }

    /// Runs shmocker; the words of `line` are its arguments.
    pub(crate) fn shmocker(&self, line: &str) -> Run {
        self.finish(&mut self.shmocker_command(line))
    }

    /// Runs shmocker, and fails the test if it fails.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> Run {
        let run = self.shmocker(line);
        assert_eq!(run.status, 0, "shmocker {line}\n{}", run.both());
        run
    }

    /// The same with one more argument, which may hold anything.
    #[track_caller]
    pub(crate) fn ok_with(&self, line: &str, argument: &str) -> Run {
        let run = self.finish(self.shmocker_command(line).arg(argument));
        assert_eq!(run.status, 0, "shmocker {line} {argument}\n{}", run.both());
        run
    }

    /// Runs a shell line as the bench's user in the project directory, and fails the test if it fails.
    pub(crate) fn sh(&self, line: &str) -> Run {
        let run = self.finish(self.command("/bin/sh").args(["-euc", line]));
        assert_eq!(run.status, 0, "{line}\n{}", run.both());
        run
    }

    /// Runs a build with `--progress json` and reads its events.
    pub(crate) fn events(&self, line: &str) -> Events {
        let run = self.shmocker(&format!("{line} --progress json"));
        Events::of(run)
    }

    /// The same, and fails the test if the build fails.
    pub(crate) fn built(&self, line: &str) -> Events {
        let events = self.events(line);
        assert_eq!(
            events.run.status,
            0,
            "shmocker {line}\n{}",
            events.run.both()
        );
        events
    }

    /// Starts shmocker and leaves it running; its output goes to `log` in the project.
    pub(crate) fn start(&self, line: &str, log: &str) -> Child {
        let log = std::fs::File::create(self.path(log)).expect("a log can be made");
        self.shmocker_command(line)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("shmocker can be started")
    }

    /// Waits for a command and keeps what it said.
    pub(crate) fn finish(&self, command: &mut Command) -> Run {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        self.said(status_of(output.status), output.stdout, stderr)
    }

    /// What a program said that the test started and read itself.
    pub(crate) fn said(&self, status: i32, stdout: Vec<u8>, stderr: String) -> Run {
        Run {
            status,
            stdout,
            stderr,
            masks: vec![
                (self.project().display().to_string(), "[PROJECT]"),
                (self.store.display().to_string(), "[STORE]"),
                (self.root.display().to_string(), "[BENCH]"),
            ],
        }
    }
}

/// The exit status; 128 + n where signal n ended it.
pub(crate) fn status_of(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.root.display());
            return;
        }
        machine::remove_tree(&self.root);
    }
}

impl Run {
    /// Standard output as text.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both streams, for the message of a failed assertion.
    pub(crate) fn both(&self) -> String {
        format!(
            "exit {}\n--- stdout\n{}--- stderr\n{}",
            self.status,
            self.out(),
            self.stderr
        )
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.both()))
    }

    /// Fails the test unless the exit status is `status` and standard error holds every one of `parts`.
    #[track_caller]
    pub(crate) fn expect(&self, status: i32, parts: &[&str]) -> &Self {
        self.holds(status, parts, str::to_owned)
    }

    /// The same, wherever lines were broken to fit the terminal.
    #[track_caller]
    pub(crate) fn tells(&self, status: i32, parts: &[&str]) -> &Self {
        // A message that goes on in another line has this at its beginning.
        let is_between = |c: char| c.is_whitespace() || c == '│';
        self.holds(status, parts, |text| text.split(is_between).collect())
    }

    #[track_caller]
    fn holds(&self, status: i32, parts: &[&str], seen: impl Fn(&str) -> String) -> &Self {
        assert_eq!(self.status, status, "{}", self.both());
        let said = seen(&self.stderr);
        for part in parts {
            assert!(
                said.contains(&seen(part)),
                "no `{part}` in\n{}",
                self.both()
            );
        }
        self
    }
}

/// What a person sees, with digests, paths and durations masked.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("exit {}\n", self.status);
        for (stream, name) in [(self.out(), "stdout"), (self.stderr.clone(), "stderr")] {
            if !stream.is_empty() {
                text.push_str(&format!("--- {name}\n{stream}"));
                if !stream.ends_with('\n') {
                    text.push('\n');
                }
            }
        }
        for (what, mask) in &self.masks {
            text = text.replace(what, mask);
        }
        f.write_str(&mask::mask(&text))
    }
}
