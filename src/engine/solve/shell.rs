//! A command where a build stands: in the tree of a stage, or in what a failed step has left; with what the steps there
//! mount.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::inputs::{Made, Tree};
use super::mounts::Held;
use super::session::{Session, Workshop, store_failure, unlike_any_other};
use super::solve;
use super::steps::{run_of, tree_unusable};
use crate::engine::exec::{Access, Mount, Mounted, Run, Secret};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::launch::{TerminalSize, with_streams};
use crate::engine::plan::Planned;
use crate::engine::snapshot::{self, Active};
use crate::graph::{self, Exec, Judge, Network, NodeId, Op, Security};
use crate::store::{self, FailedStep, Lease};
use crate::sys::mount::Tree as MountedTree;
use crate::sys::signal::Resizes;

/// Where the commands are that only such a shell has.
const COMMANDS: &str = "/dev/habitat/bin";
/// What `continue` writes to.
const ACCEPTED: &str = "/dev/habitat/accepted";

/// A command, and where it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shell {
    /// Where.
    pub place: ShellPlace,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
}

/// Where a command runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ShellPlace {
    /// In the tree of the build's target. What the steps of these stages mount is there; what is written is dropped.
    Target {
        /// The stages.
        stages: Vec<String>,
    },
    /// In what the last failed step has left, as its user. `retry` runs its command again; `continue` says that it is good
    /// as it is.
    Failed,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellEnd {
    /// The command's status.
    pub status: i32,
    /// Whether the failed step's state was said to be good.
    pub accepted: bool,
}

impl Session<'_> {
    /// Runs a command where the build stands. What that needs is made before.
    ///
    /// # Errors
    /// If that place cannot be had, or the command not be run.
    pub fn shell(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        shell: &Shell,
        files: &[OwnedFd],
        resizes: Option<Resizes>,
    ) -> Result<ShellEnd, Vec<Failure>> {
        match &shell.place {
            ShellPlace::Target { stages } => {
                let target = planned.lowered.target;
                let made = solve(self, workshop, planned, &[target])?;
                let layers = made.get(&target).and_then(Made::tree);
                let layers = layers.map_or(&[] as &[_], Tree::layers);
                let alone = |failure: Failure| vec![failure];
                let active = workshop
                    .snapshots
                    .prepare(layers)
                    .map_err(|error| alone(error.into()))?;
                let (exec, inputs) = of_stages(planned, stages, |id| made.get(&id).cloned());
                self.command(workshop, active, &exec, &inputs, shell, files, resizes)
                    .map_err(alone)
            }
            ShellPlace::Failed => {
                let failed = self.failed_step().map_err(|failure| vec![failure])?;
                let (step, place, lease) = failed.ok_or_else(|| vec![none_failed()])?;
                let (exec, inputs) = self.ready(workshop, planned, &step)?;
                let run = || {
                    let active = workshop.snapshots.prepare_in(&step.below, place)?;
                    self.command(workshop, active, &exec, &inputs, shell, files, resizes)
                };
                let end = run().map_err(|failure| vec![failure])?;
                drop(lease);
                Ok(end)
            }
        }
    }

    fn failed_step(&self) -> Result<Option<(FailedStep, crate::store::TmpDir, Lease)>, Failure> {
        self.store.failed(&self.work.project).map_err(store_failure)
    }

    /// The step that failed, if it is still the same, and what it reads beside its root.
    fn ready(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        step: &FailedStep,
    ) -> Result<(Exec, Vec<Made>), Vec<Failure>> {
        let graph = &planned.lowered.graph;
        let same = |origin: &crate::event::StepOrigin| origin.step == step.step;
        let found = graph
            .nodes()
            .iter()
            .find(|node| node.step.as_ref().is_some_and(same));
        let Some((exec, op)) = found.and_then(|node| match &node.op {
            Op::Exec(exec) => Some((exec, &node.op)),
            _ => None,
        }) else {
            return Err(vec![changed()]);
        };
        let wanted = op.inputs();
        let made = solve(self, workshop, planned, &wanted)?;
        let inputs: Vec<Made> = wanted.iter().map(|id| made[id].clone()).collect();
        let known: Vec<Option<Made>> = inputs.iter().cloned().map(Some).collect();
        let keys = self
            .own_fields(op, &known, None)
            .and_then(|own| self.keys(own, op, &known, Some(workshop)));
        match keys {
            Ok(keys) if keys.definition.key() == step.key => {
                Ok((exec.clone(), inputs.get(1..).unwrap_or_default().to_vec()))
            }
            Ok(_) => Err(vec![changed()]),
            Err(failure) => Err(vec![failure]),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is another part of the one command"
    )]
    fn command(
        &self,
        workshop: &Workshop,
        active: Active,
        exec: &Exec,
        inputs: &[Made],
        shell: &Shell,
        files: &[OwnedFd],
        resizes: Option<Resizes>,
    ) -> Result<ShellEnd, Failure> {
        let mut held = Held::default();
        let mut env = exec.env.clone();
        env.extend(exec.env_unkeyed.iter().cloned());
        if shell.terminal.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        let mut mounts = self.mounts(workshop, exec, inputs, &mut env, &mut held)?;
        let mut mark = None;
        if matches!(shell.place, ShellPlace::Failed) {
            mounts.push(script("retry", &retry(exec)));
            mounts.push(script("continue", CONTINUE));
            mounts.push(script("rc", RC));
            let (accepted, mount) = accepted_file(workshop)?;
            mounts.push(mount);
            mark = Some(accepted);
            for (_, path) in env.iter_mut().filter(|(name, _)| name == "PATH") {
                *path = format!("{COMMANDS}:{path}");
            }
        }
        let mut run = Run {
            argv: shell.argv.clone(),
            ..run_of(exec, env, mounts)
        };
        let root = MountedTree::copy_of(active.mounted().as_fd())
            .map_err(|error| tree_unusable(&error))?;
        let exit = with_streams(shell.terminal, files, resizes, |streams| {
            workshop
                .sandbox
                .run(&mut run, &root, streams, &workshop.cancel)
        })?;
        drop(root);
        active.discard();
        let accepted = mark.is_some_and(|mut mark| {
            let mut said = String::new();
            mark.rewind().is_ok() && mark.read_to_string(&mut said).is_ok_and(|count| count > 0)
        });
        Ok(ShellEnd {
            status: exit.shell_status().unwrap_or(125),
            accepted,
        })
    }

    /// What a failed step has left, as its result, where somebody said that it is good. It has a name that no key leads
    /// to; so nothing that is built on it is ever found again.
    pub(super) fn accepted(
        &self,
        workshop: &Workshop,
        key: &crate::digest::Key,
        root: &Tree,
        what: &str,
    ) -> Result<Option<Made>, Failure> {
        if !self.work.accepts_failed {
            return Ok(None);
        }
        let Some((step, place, _lease)) = self.failed_step()? else {
            return Ok(None);
        };
        if step.key != *key {
            return Ok(None);
        }
        store::accept(&place).map_err(store_failure)?;
        let settled = workshop
            .snapshots
            .prepare_in(&step.below, place)?
            .settle()?;
        let id = unlike_any_other(key, self.clock);
        let made = snapshot::Made {
            id,
            key: None,
            fields: crate::digest::Fields::new(),
            created_ms: self.now_ms(),
            duration_ms: 0,
            what: format!("{what}, accepted as it failed"),
        };
        workshop.snapshots.commit(settled, made)?;
        Ok(Some(Made::Tree(root.with(id))))
    }

    /// Keeps what a failed step has left. What cannot be kept is no failure of its own.
    pub(super) fn keep_failed(&self, active: Active, step: &str, key: crate::digest::Key) {
        let below = active.below().to_vec();
        let step = FailedStep {
            project: self.work.project.clone(),
            step: step.to_owned(),
            key,
            below,
            failed_ms: self.now_ms(),
        };
        if let Some(left) = active.keep() {
            drop(self.store.keep_failed(left, &step));
        }
    }
}

/// Everything that the steps of some stages mount, each place once, as one step that does nothing; and what it reads.
fn of_stages(
    planned: &Planned,
    stages: &[String],
    made: impl Fn(NodeId) -> Option<Made>,
) -> (Exec, Vec<Made>) {
    let config = &planned.lowered.config.config;
    let env = config.env.iter().filter_map(|entry| entry.split_once('='));
    let mut exec = Exec {
        root: planned.lowered.target,
        argv: Vec::new(),
        scripts: Vec::new(),
        env: env
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        env_unkeyed: Vec::new(),
        user: config.user.clone(),
        workdir: match config.working_dir.as_str() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        },
        mounts: Vec::new(),
        network: Network::Default,
        security: Security::Sandbox,
        hostname: None,
        hosts: Vec::new(),
        ulimits: Vec::new(),
        shm_bytes: None,
        cgroup_parent: None,
        timeout_ms: None,
        judge: Judge::Status,
    };
    let mut inputs = Vec::new();
    let mut places = BTreeSet::new();
    for node in planned.lowered.graph.nodes() {
        let is_there = node
            .step
            .as_ref()
            .is_some_and(|origin| stages.contains(&origin.stage));
        let (Op::Exec(step), true) = (&node.op, is_there) else {
            continue;
        };
        let mut rest = node.op.inputs().into_iter().skip(1);
        for mount in &step.mounts {
            let (place, input) = match mount {
                graph::Mount::Bind(bind) => (bind.target.clone(), rest.next()),
                graph::Mount::Cache(cache) => (
                    cache.target.clone(),
                    cache.source.as_ref().and_then(|_| rest.next()),
                ),
                graph::Mount::Tmpfs(tmpfs) => (tmpfs.target.clone(), None),
                graph::Mount::Secret(secret) => {
                    (format!("{} {:?}", secret.id, secret.target), None)
                }
                graph::Mount::Ssh(ssh) => (ssh.target.clone(), None),
            };
            let read = match input.map(&made) {
                // Of a step that the target does not need.
                Some(None) => continue,
                Some(read) => read,
                None => None,
            };
            if places.insert(place) {
                exec.mounts.push(mount.clone());
                inputs.extend(read);
            }
        }
    }
    (exec, inputs)
}

fn script(name: &str, content: &str) -> Mount {
    Mount {
        target: format!("{COMMANDS}/{name}"),
        what: Mounted::File {
            content: Secret(content.as_bytes().to_vec()),
            mode: 0o755,
            uid: 0,
            gid: 0,
        },
    }
}

const CONTINUE: &str = "#!/bin/sh
# Says that the step is good as it is.
echo yes > /dev/habitat/accepted && echo 'The step counts as done. Leave the shell, and the build goes on from here.'
";

/// What interactive shells read first: to a shell, `continue` is a word of its own.
const RC: &str = "#!/bin/sh
if [ -n \"${BASH_VERSION-}\" ] && [ -r ~/.bashrc ]; then . ~/.bashrc; fi
alias continue=/dev/habitat/bin/continue
";

fn retry(exec: &Exec) -> String {
    let quoted = |word: &String| format!("'{}'", word.replace('\'', r"'\''"));
    let words: Vec<String> = exec.argv.iter().map(quoted).collect();
    format!(
        "#!/bin/sh\n# Runs the command of the failed step again.\ncd {} && exec {}\n",
        quoted(&exec.workdir),
        words.join(" ")
    )
}

fn accepted_file(workshop: &Workshop) -> Result<(std::fs::File, Mount), Failure> {
    let failed = |error: &std::io::Error| {
        let message = "a file cannot be made";
        Failure::caused(FailureKind::Machine, "shell::accepted", message, error)
    };
    let make = || -> std::io::Result<(std::fs::File, Mounted)> {
        let file = workshop
            .reach
            .scratch
            .dir()
            .create_file("accepted", 0o666)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o666))?;
        let mounted = Mounted::bind(file.as_fd(), Access::ReadWrite)?;
        let read = workshop.reach.scratch.dir().open_file("accepted")?;
        Ok((read, mounted))
    };
    let (file, what) = make().map_err(|error| failed(&error))?;
    let target = ACCEPTED.to_owned();
    Ok((file, Mount { target, what }))
}

fn none_failed() -> Failure {
    Failure::new(
        FailureKind::Input,
        "shell::none_failed",
        "no step of this habitat has failed since it was built last, or somebody has a shell there already",
    )
    .with_help("`shmocker habitat shell FILE PHASE` looks into a phase; what a failed step leaves is kept only where layers are overlaid, which `shmocker doctor` tells")
}

fn changed() -> Failure {
    Failure::new(
        FailureKind::Input,
        "shell::changed",
        "the step that failed is another one now",
    )
    .with_help("build again: what is wrong may be mended already")
}
