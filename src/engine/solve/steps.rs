//! Steps: RUN, COPY, ADD and WORKDIR. Each takes the tree of the step before it, changes it, and leaves one snapshot.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::inputs::{Made, Tree};
use super::log::{Clip, Shown};
use super::look::Keys;
use super::mounts::Held;
use super::session::{Cores, Session, Workshop, store_failure, unlike_any_other};
use super::tap::Tap;
use crate::digest::{Fields, Key};
use crate::engine::exec::cgroup::Group;
use crate::engine::exec::{ExecError, Exit, HOSTNAME, Hostname, Mount, Run, Streams};
use crate::engine::failure::{Failure, FailureKind, Place};
use crate::engine::plan::Planned;
use crate::engine::snapshot::{self, Active};
use crate::engine::tree::error::Remark;
use crate::engine::tree::{copy, owner};
use crate::event::{BuildEvent, StepOrigin, Stream, TestReport};
use crate::graph::{Copy, CopySource, Exec, Judge, Mkdir, NodeId, Op};
use crate::store::{Lease, OpRecord};
use crate::sys::dir::Time;
use crate::sys::mount::Tree as MountedTree;

/// How many of a failing step's last lines are shown with its error.
const LAST_LINES: usize = 20;

/// What may be meant by SIGKILL.
const KILLED: &str = "was memory short? the kernel kills what takes too much";

impl Session<'_> {
    /// The result of a node: found, or made.
    ///
    /// # Errors
    /// If it cannot be had.
    pub(super) fn make(
        &self,
        workshop: &Workshop,
        planned: &Planned,
        id: NodeId,
        inputs: &[Made],
    ) -> Result<Made, Failure> {
        if workshop.cancel.is_cancelled() {
            return Err(called_off());
        }
        let node = planned.lowered.graph.node(id);
        match (&node.op, &node.step) {
            (Op::Source(source), _) => {
                let made = self.obtain(workshop, planned, id, source)?;
                if let Made::Tree(tree) = &made {
                    self.note_layers(id, tree.layers());
                }
                Ok(made)
            }
            (_, Some(origin)) => {
                self.step(workshop, &node.op, id, origin, inputs)
                    .map_err(|mut failure| {
                        if failure.code == "copy::missing"
                            && let Some(explained) =
                                self.missing(workshop, planned, &node.op, inputs)
                        {
                            failure = explained;
                        }
                        if failure.place.is_none() {
                            failure.place = Some(Place::of(origin));
                        }
                        failure
                    })
            }
            (_, None) => Ok(Made::Tree(Tree::new(Vec::new()))),
        }
    }

    fn step(
        &self,
        workshop: &Workshop,
        op: &Op,
        id: NodeId,
        origin: &StepOrigin,
        inputs: &[Made],
    ) -> Result<Made, Failure> {
        let forced = self.work.no_cache.forces(&origin.stage);
        let known: Vec<Option<Made>> = inputs.iter().cloned().map(Some).collect();
        let mut listed = Vec::new();
        let own = self.own_fields(op, &known, Some(&mut listed))?;
        self.note_own(id, own.clone());
        self.note_listed(id, listed);
        if !forced && !self.elsewhere.is_empty() {
            // What is found by its definition need not be here with all that it read.
            let keys = self.keys(own.clone(), op, &known, None)?;
            if let Some(made) = self.found(workshop, id, op, origin, &keys)? {
                return Ok(made);
            }
        }
        let keys = self.keys(own, op, &known, Some(workshop))?;
        if !forced && let Some(made) = self.found(workshop, id, op, origin, &keys)? {
            return Ok(made);
        }
        if self.work.accepts_failed
            && let Some(tree) = inputs.first().and_then(Made::tree)
            && let Some(made) =
                self.accepted(workshop, &keys.definition.key(), tree, &origin.name)?
        {
            self.step_done(origin, true, 0);
            return Ok(made);
        }
        // Of several that would do the same work, the first does it, and the others find it here.
        let lease = match forced {
            true => None,
            false => Some(self.wait_for(workshop, &keys.best().key().to_string())?),
        };
        if !forced && let Some(made) = self.found(workshop, id, op, origin, &keys)? {
            return Ok(made);
        }
        if workshop.cancel.is_cancelled() {
            return Err(called_off());
        }
        // What is made is nearly always made by a command, or read by one.
        workshop.sandbox.expect_commands();
        self.note_run(id);
        self.events.emit(BuildEvent::StepStarted {
            origin: origin.clone(),
        });
        let started = Instant::now();
        let root = inputs
            .first()
            .and_then(Made::tree)
            .cloned()
            .unwrap_or_else(|| Tree::new(Vec::new()));
        let ran = self.execute(
            workshop,
            op,
            origin,
            &root,
            inputs.get(1..).unwrap_or_default(),
            keys.definition.key(),
        );
        let duration_ms = started.elapsed().as_millis() as u64;
        let (settled, test) = match ran {
            Ok((active, test)) => (active.settle()?, test),
            Err(failure) => {
                if failure.kind != FailureKind::Cancelled {
                    self.events.emit(BuildEvent::StepFailed {
                        origin: origin.clone(),
                        exit_status: failure.exit_status,
                        message: failure.message.clone(),
                        log_path: None,
                    });
                }
                return Err(failure);
            }
        };
        let record = self.record(workshop, settled, origin, &root, &keys, duration_ms, lease)?;
        let made = Made::Tree(Tree::new(record.layers.clone()));
        if let Some(report) = test {
            self.remember_test(&record, &report)?;
            self.test_done(origin, false, report);
        }
        self.note_result(id, keys, record);
        self.step_done(origin, false, duration_ms);
        Ok(made)
    }

    /// Takes a lock that another build may hold for as long as its step runs, unless this one is called off meanwhile.
    pub(super) fn wait_for(&self, workshop: &Workshop, name: &str) -> Result<Lease, Failure> {
        const PAUSE: Duration = Duration::from_millis(10);
        loop {
            if let Some(lease) = self.store.try_lock(name).map_err(store_failure)? {
                return Ok(lease);
            }
            if workshop.cancel.is_cancelled() {
                return Err(called_off());
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn found(
        &self,
        workshop: &Workshop,
        id: NodeId,
        op: &Op,
        origin: &StepOrigin,
        keys: &Keys,
    ) -> Result<Option<Made>, Failure> {
        let hit = self.look(keys)?;
        // What is deleted just now was not there.
        let Some(hit) = hit.filter(|hit| self.brings(workshop, id, &hit.record.layers)) else {
            return Ok(None);
        };
        let definition = keys.definition.key();
        if hit.key != definition {
            // Found by content; from now on it is found without reading that.
            self.index()?
                .put_op(&definition, &hit.record)
                .map_err(store_failure)?;
        }
        let made = Made::Tree(Tree::new(hit.record.layers.clone()));
        self.say_test_again(op, origin, &hit.record)?;
        self.note_result(id, keys.clone(), hit.record);
        self.step_done(origin, true, 0);
        Ok(Some(made))
    }

    /// Makes what a step changed a snapshot, under the step's keys.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another fact of the one record"
    )]
    fn record(
        &self,
        workshop: &Workshop,
        settled: snapshot::Settled,
        origin: &StepOrigin,
        root: &Tree,
        keys: &Keys,
        duration_ms: u64,
        lease: Option<Lease>,
    ) -> Result<OpRecord, Failure> {
        let fields = keys.best().clone();
        let key = fields.key();
        let mut id = snapshot_id(&key);
        if lease.is_none() || workshop.snapshots.has(&id) {
            id = snapshot_id(&unlike_any_other(&key, self.clock));
        }
        let created_ms = self.now_ms();
        let made = snapshot::Made {
            id,
            key: (!self.work.aside).then_some(key),
            fields: fields.clone(),
            created_ms,
            duration_ms,
            what: format!("[{}] {}", origin.stage, origin.name),
        };
        workshop.snapshots.commit_holding(settled, made, lease)?;
        let layers = root.with(id).layers().to_vec();
        let record = OpRecord {
            layers,
            fields,
            created_ms,
            duration_ms,
        };
        let definition = keys.definition.key();
        if definition != key && !self.work.aside {
            self.index()?
                .put_op(&definition, &record)
                .map_err(store_failure)?;
        }
        Ok(record)
    }

    fn execute(
        &self,
        workshop: &Workshop,
        op: &Op,
        origin: &StepOrigin,
        root: &Tree,
        inputs: &[Made],
        key: Key,
    ) -> Result<(Active, Option<TestReport>), Failure> {
        let mut active = workshop.snapshots.prepare(root.layers())?;
        match op {
            Op::Exec(exec) => match self.run(workshop, &mut active, exec, origin, inputs) {
                Ok(test) => Ok((active, test)),
                Err(failure) => {
                    if failure.kind == FailureKind::Step {
                        self.keep_failed(active, &origin.step.to_string(), key);
                    }
                    Err(failure)
                }
            },
            Op::Copy(copy) => {
                let _core = workshop.cores.take();
                let remarks = self.copy(workshop, &active, copy, inputs)?;
                self.remark(origin, remarks);
                Ok((active, None))
            }
            Op::Mkdir(mkdir) => {
                let remarks = make_directory(&active, mkdir)?;
                self.remark(origin, remarks);
                Ok((active, None))
            }
            Op::Scratch | Op::Source(_) => Ok((active, None)),
        }
    }

    fn remark(&self, origin: &StepOrigin, remarks: Vec<Remark>) {
        for remark in remarks {
            self.events.emit(BuildEvent::Warning {
                code: remark.code().to_owned(),
                message: remark.to_string(),
                file: Some(origin.file.clone()),
                line: Some(origin.line),
            });
        }
    }

    fn copy(
        &self,
        workshop: &Workshop,
        active: &Active,
        copy: &Copy,
        inputs: &[Made],
    ) -> Result<Vec<Remark>, Failure> {
        let mut trees = Vec::new();
        let mut downloads = Vec::new();
        for made in inputs {
            match made {
                Made::Tree(tree) => {
                    let mounted = workshop.tree(tree)?;
                    let source = mounted.tree("an earlier stage")?;
                    trees.push((mounted, source));
                }
                Made::Download(download) => downloads.push(self.download(download)?),
                Made::Local(_) => {}
            }
        }
        let (mut trees, mut downloads) = (trees.iter(), downloads.iter());
        let mut rest = inputs.iter();
        let mut given = Vec::new();
        for source in &copy.sources {
            let made = match source {
                CopySource::Inline(_) => None,
                CopySource::Path { .. } | CopySource::Download { .. } => rest.next(),
            };
            given.push(match made {
                None => copy::Input::Nothing,
                Some(Made::Local(context)) => copy::Input::Tree(context),
                Some(Made::Tree(_)) => trees.next().map_or(copy::Input::Nothing, |(_, source)| {
                    copy::Input::Tree(source)
                }),
                Some(Made::Download(_)) => downloads
                    .next()
                    .map_or(copy::Input::Nothing, copy::Input::Download),
            });
        }
        let selected = copy::select(copy, &given)?;
        let dest = active
            .mounted()
            .root()
            .map_err(|error| tree_unusable(&error))?;
        Ok(copy::run(copy, &selected, &dest)?)
    }

    fn download(
        &self,
        remembered: &crate::engine::source::http::Remembered,
    ) -> Result<copy::Download, Failure> {
        let path = self.download_path(&remembered.digest);
        let file = File::open(&path).map_err(|error| {
            let message = format!("the download `{}` cannot be read", path.display());
            Failure::caused(FailureKind::Machine, "solve::download", message, &error)
        })?;
        let modified = Some(Time {
            seconds: remembered.mtime_s as i64,
            nanoseconds: 0,
        });
        let content = remembered.digest.to_string();
        Ok(copy::Download {
            file,
            name: remembered.name.clone(),
            modified,
            content,
        })
    }

    fn run(
        &self,
        workshop: &Workshop,
        active: &mut Active,
        exec: &Exec,
        origin: &StepOrigin,
        inputs: &[Made],
    ) -> Result<Option<TestReport>, Failure> {
        let _turn = workshop.steps.as_ref().map(Cores::take);
        let mut held = Held::default();
        let mut env = exec.env.clone();
        env.extend(exec.env_unkeyed.iter().cloned());
        let mounts = self.mounts(workshop, exec, inputs, &mut env, &mut held)?;
        let mut run = Run {
            timeout_ms: exec.timeout_ms,
            group: match &workshop.groups {
                None => None,
                Some(below) => {
                    Some(Group::make(below, &self.work.resources).map_err(ExecError::from)?)
                }
            },
            ..run_of(exec, env, mounts)
        };
        let path = active.attach()?;
        let root = File::open(&path).and_then(|root| MountedTree::copy_of(root.as_fd()));
        let root = root.map_err(|error| tree_unusable(&error))?;
        let mut last_lines = VecDeque::new();
        let mut tap = Tap::default();
        let mut clips = [
            Clip::new(self.work.log_limits),
            Clip::new(self.work.log_limits),
        ];
        let mut listen = |stream: Stream, line: &[u8]| {
            let mut text = held.redacted(line);
            if stream == Stream::Stdout {
                tap.line(&text);
            }
            if last_lines.len() == LAST_LINES {
                last_lines.pop_front();
            }
            last_lines.push_back(text.clone());
            let [output, errors] = &mut clips;
            let clip = match stream {
                Stream::Stdout => output,
                Stream::Stderr => errors,
            };
            match clip.line(&text) {
                Shown::Line => {}
                Shown::Note(note) => text = note,
                Shown::Nothing => return,
            }
            self.events.emit(BuildEvent::StepLog {
                origin: origin.clone(),
                stream,
                text,
            });
        };
        let exit = workshop.sandbox.run(
            &mut run,
            &root,
            Streams::Lines(&mut listen),
            &workshop.cancel,
        )?;
        drop(root);
        let command = exec.argv.join(" ");
        let failed = |message: String, help: Option<&str>| {
            let mut failure = Failure::new(FailureKind::Step, "exec::status", message);
            failure.help = help.map(str::to_owned);
            failure.exit_status = exit.shell_status();
            failure.output = last_lines.iter().cloned().collect();
            failure
        };
        let shown = shown_command(&command);
        if exec.judge == Judge::Tap {
            let reason = match (&exit, tap.verdict()) {
                (Exit::Cancelled, _) => return Err(called_off()),
                (Exit::TimedOut { after_ms }, _) => {
                    let limit_s = *after_ms as f64 / 1000.0;
                    Some(format!("it took longer than {limit_s} s"))
                }
                (_, Err(reason)) => Some(reason),
                (Exit::Status(0), Ok(())) => None,
                (Exit::Status(status), Ok(())) => Some(format!("it ended with status {status}")),
                (Exit::Killed(signal), _) => Some(format!("it was killed by signal {signal}")),
                (Exit::NotExecuted { why, .. }, _) => {
                    Some(format!("it could not be started: {why}"))
                }
                (Exit::Foreign { why }, _) => Some(format!("it could not be started: {why}")),
                (Exit::OutOfMemory { .. }, _) => Some("its memory was used up".to_owned()),
            };
            let report = tap.report(reason.clone());
            let Some(reason) = reason else {
                return Ok(Some(report));
            };
            self.test_done(origin, false, report);
            return Err(failed(format!("the test failed: {reason}"), None));
        }
        match &exit {
            Exit::Status(0) => Ok(None),
            Exit::Status(status) => Err(failed(
                format!("process \"{shown}\" did not complete successfully: exit code: {status}"),
                // A shell says so of a process that was killed.
                (*status == 128 + 9).then_some(KILLED),
            )),
            Exit::OutOfMemory {
                status,
                limit_bytes,
            } => {
                let limit = limit_bytes.map_or(String::new(), |limit| {
                    format!(" (limit {} MiB)", limit.div_ceil(1 << 20))
                });
                Err(failed(
                    format!(
                        "process \"{shown}\" did not complete successfully: exit code: {status}: out of memory{limit}"
                    ),
                    Some("give it more with `--memory`, or let it need less"),
                ))
            }
            Exit::Killed(signal) => {
                let help = (*signal == 9).then_some(KILLED);
                Err(failed(
                    format!("process \"{shown}\" was killed by signal {signal}"),
                    help,
                ))
            }
            Exit::NotExecuted { why, .. } => Err(failed(
                format!("process \"{shown}\" could not be started: {why}"),
                None,
            )),
            Exit::Foreign { why } => Err(failed(
                format!("process \"{shown}\" could not be started: {why}"),
                Some(
                    "install qemu-user-static, with which builds run such programs themselves (from Linux 6.7 on), or build it on a \
                     machine of that architecture",
                ),
            )),
            Exit::TimedOut { after_ms } => Err(failed(
                format!(
                    "process \"{shown}\" was ended: it took longer than {} s",
                    *after_ms as f64 / 1000.0
                ),
                Some("give it more time with `timeout`, or find out what it waits for"),
            )),
            Exit::Cancelled => Err(called_off()),
        }
    }
}

fn make_directory(active: &Active, mkdir: &Mkdir) -> Result<Vec<Remark>, Failure> {
    let root = active
        .mounted()
        .root()
        .map_err(|error| tree_unusable(&error))?;
    let mut remarks = Vec::new();
    let owner = owner::resolve(&mkdir.user, &root, &mut remarks)?;
    copy::make_dirs(
        &root,
        mkdir.path.trim_start_matches('/').as_ref(),
        owner,
        mkdir.mode,
    )?;
    Ok(remarks)
}

/// A step's name of itself is its whole script; an error shows its first line.
fn shown_command(command: &str) -> String {
    let first = command.lines().next().unwrap_or_default();
    let shown: String = first.chars().take(200).collect();
    if shown.len() < command.len() {
        format!("{shown}…")
    } else {
        shown
    }
}

fn called_off() -> Failure {
    Failure::new(FailureKind::Cancelled, "solve::cancelled", "called off")
}

/// What a RUN runs, with the mounts and the environment that it has for this once.
pub(super) fn run_of(exec: &Exec, env: Vec<(String, String)>, mounts: Vec<Mount>) -> Run {
    Run {
        argv: exec.argv.clone(),
        env,
        workdir: exec.workdir.clone(),
        user: exec.user.clone(),
        hostname: match &exec.hostname {
            Some(name) => Hostname::Wished(name.clone()),
            None => Hostname::Usual(HOSTNAME.to_owned()),
        },
        network: exec.network,
        mounts,
        security: exec.security,
        hosts: exec.hosts.clone(),
        ulimits: exec.ulimits.clone(),
        shm_bytes: exec.shm_bytes,
        ..Run::default()
    }
}

pub(super) fn tree_unusable(error: &std::io::Error) -> Failure {
    Failure::caused(
        FailureKind::Machine,
        "solve::tree",
        "a tree cannot be used",
        error,
    )
}

fn snapshot_id(key: &Key) -> Key {
    let mut fields = Fields::new();
    fields.put("result of", key.to_string());
    fields.key()
}
