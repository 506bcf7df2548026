//! A Debian base as snapshots: the essential packages and apt are one, the named packages are another on top of it, so
//! that bases with different packages share the first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use super::exec::{Cancel, Exit, Hostname, Run, Sandbox, Streams};
use super::failure::{Failure, FailureKind};
use super::lock::DebianPin;
use super::snapshot;
use super::solve::{DebianAnswer, Reach, Session, Workshop, of_source, store_failure};
use super::source::debian::{
    self, Cache, Command, Keyring, Mirrors, Output, Progress, Request, Resolution, Runner,
    RunnerError, Selection, Surroundings, base, packages,
};
use super::work::Work;
use crate::digest::Key;
use crate::event::{BuildEvent, Stream};
use crate::graph::{DebianSource, Network};
use crate::net;
use crate::store::Answer;
use crate::sys::mount::Tree;

/// Whose signatures count.
fn keyring(work: &Work) -> Result<Keyring, Failure> {
    match &work.debian.keyring {
        None => Keyring::debian(),
        Some(path) => {
            let keys = std::fs::read(path).map_err(|error| {
                let message = format!("the keyring `{}` cannot be read", path.display());
                Failure::caused(FailureKind::Input, "debian::keyring", message, &error)
            })?;
            Keyring::read(&keys)
        }
    }
    .map_err(|error| of_source(error.fault(), &error))
}

/// What is needed to make a Debian base.
pub(in crate::engine) struct DebianTree<'a> {
    pub(in crate::engine) session: &'a Session<'a>,
    pub(in crate::engine) workshop: &'a Workshop<'a>,
    pub(in crate::engine) source: &'a DebianSource,
    /// What its packages are pinned to: then the archive is asked for nothing but them.
    pub(in crate::engine) pin: Option<&'a DebianPin>,
    pub(in crate::engine) name: &'a str,
}

/// Where packages come from, and what is known of how to get them.
pub(in crate::engine) struct Archive {
    mirrors: Mirrors,
    keyring: Keyring,
    cache: Cache,
}

impl Archive {
    /// That of a base.
    pub(in crate::engine) fn of(
        session: &Session<'_>,
        reach: &Reach,
        source: &DebianSource,
    ) -> Result<Self, Failure> {
        let work = session.work;
        Ok(Self {
            keyring: keyring(work)?,
            mirrors: Mirrors::choose(
                &source.suite,
                source.mirror.as_deref(),
                work.debian.mirror.as_deref(),
                &debian::host_sources(Path::new("/etc/apt")),
            ),
            cache: Cache::new(session.store.path().join("http"), reach.scratch.path()),
        })
    }

    /// What work with it needs.
    pub(in crate::engine) fn surroundings<'a>(
        &'a self,
        session: &Session<'_>,
        reach: &'a Reach,
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Surroundings<'a> {
        Surroundings {
            client: &reach.client,
            cache: &self.cache,
            keyring: &self.keyring,
            now_s: session.clock.now().as_secs(),
            progress,
        }
    }

    /// Asks what a base is made of now. No package is fetched.
    pub(in crate::engine) fn resolve(
        &self,
        source: &DebianSource,
        with: &Surroundings<'_>,
    ) -> Result<Resolution, Failure> {
        base::resolve(&request(source), &self.mirrors, with)
            .map_err(|error| of_source(error.fault(), &error))
    }
}

fn request(source: &DebianSource) -> Request<'_> {
    Request {
        suite: &source.suite,
        arch: &source.arch,
        packages: &source.packages,
    }
}

impl DebianAnswer {
    /// What a base without further packages is.
    pub(in crate::engine) fn bottom(resolution: &Resolution) -> Self {
        let key = resolution.key();
        Self {
            layers: vec![key],
            resolved: format!("{} of {}", resolution.suite, day(resolution.release_date_s)),
            key,
        }
    }
}

impl DebianTree<'_> {
    /// Asks the archive, unless the packages are pinned, and makes what is not there.
    pub(in crate::engine) fn obtain(&self, started: Instant) -> Result<DebianAnswer, Failure> {
        let archive = self.archive()?;
        self.with(&archive, |with, runner| {
            let resolution = self.resolve(&archive, with)?;
            let mut answer = self.bottom(&resolution, with, runner, started)?;
            if self.source.packages.is_empty() {
                return Ok(answer);
            }
            let selection = match self.pin {
                Some(pin) => pin.selection(self.source),
                None => self.select(&resolution, answer.key, with, runner)?,
            };
            let top = selection.key(&resolution);
            if !self.workshop.snapshots.has(&top) {
                let mut active = self.workshop.snapshots.prepare(&[answer.key])?;
                let root = active.attach()?;
                packages::build(&resolution, &selection, &root, with, runner)
                    .map_err(|error| self.failure(&resolution, &error))?;
                self.commit(
                    active,
                    top,
                    selection.fields(&resolution),
                    resolution.release_date_s,
                    started,
                )?;
            }
            answer.layers.push(top);
            answer.key = top;
            Ok(answer)
        })
    }

    /// Asks the archive what the base is made of now. Where packages are named, the base is made: its apt has to be asked.
    pub(in crate::engine) fn pin(&self) -> Result<DebianPin, Failure> {
        let archive = self.archive()?;
        self.with(&archive, |with, runner| {
            let resolution = self.resolve(&archive, with)?;
            if self.source.packages.is_empty() {
                return Ok(DebianPin::of(&resolution, None));
            }
            let bottom = self.bottom(&resolution, with, runner, Instant::now())?.key;
            let selection = self.select(&resolution, bottom, with, runner)?;
            Ok(DebianPin::of(&resolution, Some(&selection)))
        })
    }

    /// The versions that the archive has now of these packages.
    pub(in crate::engine) fn offered(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, String>, Failure> {
        let archive = self.archive()?;
        self.with(&archive, |with, _| {
            base::offered(&request(self.source), names, &archive.mirrors, with)
                .map_err(|error| of_source(error.fault(), &error))
        })
    }

    fn archive(&self) -> Result<Archive, Failure> {
        Archive::of(self.session, &self.workshop.reach, self.source)
    }

    fn with<T>(
        &self,
        archive: &Archive,
        work: impl FnOnce(&Surroundings<'_>, &dyn Runner) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let progress = |progress: Progress| show(self.session, self.name, progress);
        let with = archive.surroundings(self.session, &self.workshop.reach, &progress);
        let runner = SandboxRunner {
            sandbox: &self.workshop.sandbox,
            cancel: &self.workshop.cancel,
        };
        work(&with, &runner)
    }

    fn resolve(&self, archive: &Archive, with: &Surroundings<'_>) -> Result<Resolution, Failure> {
        match self.pin {
            Some(pin) => Ok(pin.resolution(self.source, |suite| archive.mirrors.archive(suite))),
            None => archive.resolve(self.source, with),
        }
    }

    /// The base without the named packages, made if it is not there.
    fn bottom(
        &self,
        resolution: &Resolution,
        with: &Surroundings<'_>,
        runner: &dyn Runner,
        started: Instant,
    ) -> Result<DebianAnswer, Failure> {
        let answer = DebianAnswer::bottom(resolution);
        if !self.workshop.snapshots.has(&answer.key) {
            let mut active = self.workshop.snapshots.prepare(&[])?;
            let root = active.attach()?;
            base::build(resolution, &root, with, runner)
                .map_err(|error| self.failure(resolution, &error))?;
            self.commit(
                active,
                answer.key,
                resolution.fields(),
                resolution.release_date_s,
                started,
            )?;
        }
        Ok(answer)
    }

    /// A failure to make it. Mirrors keep no package that a newer one has replaced: a pinned one may be gone.
    fn failure(&self, resolution: &Resolution, error: &debian::Error) -> Failure {
        let failure = of_source(error.fault(), error);
        let is_gone = matches!(
            error,
            debian::Error::Fetch(net::Error::Status {
                status: 404 | 410,
                ..
            })
        );
        let Some(lock) = self.session.work.lock.as_ref() else {
            return failure;
        };
        if self.pin.is_none() || !is_gone {
            return failure;
        }
        let time = crate::image::Timestamp::from_seconds(resolution.release_date_s as i64);
        let time = time.to_string().replace(['-', ':'], "");
        failure.with_help(format!(
            "the mirror has replaced a package that {} pins: `mirror: http://snapshot.debian.org/archive/debian/{time}` in \
             the base still has it, and `shmocker habitat upgrade {} '{}'` pins what there is now",
            lock.file, lock.habitat, self.name
        ))
    }

    /// What the named packages need. The base's apt is asked once for each state of the archive.
    fn select(
        &self,
        resolution: &Resolution,
        bottom: Key,
        with: &Surroundings<'_>,
        runner: &dyn Runner,
    ) -> Result<Selection, Failure> {
        let index = self.session.index()?;
        let question = format!(
            "debian packages {}",
            resolution.question(&self.source.packages)
        );
        let known = index.answer(&question).map_err(store_failure)?;
        if let Some(selection) = known.and_then(|known| serde_json::from_str(&known.answer).ok()) {
            return Ok(selection);
        }
        let mut active = self.workshop.snapshots.prepare(&[bottom])?;
        let root = active.attach()?;
        let selection = packages::resolve(resolution, &self.source.packages, &root, with, runner)
            .map_err(|error| of_source(error.fault(), &error))?;
        active.discard();
        let answer = serde_json::to_string(&selection).unwrap_or_default();
        let asked_ms = self.session.clock.now().as_millis() as u64;
        index
            .put_answer(&question, &Answer { answer, asked_ms })
            .map_err(store_failure)?;
        Ok(selection)
    }

    fn commit(
        &self,
        active: snapshot::Active,
        id: Key,
        fields: crate::digest::Fields,
        released_s: u64,
        started: Instant,
    ) -> Result<(), Failure> {
        let made = snapshot::Made {
            id,
            key: None,
            fields,
            // As old as the archive says: the same packages give the same image.
            created_ms: released_s * 1000,
            duration_ms: started.elapsed().as_millis() as u64,
            what: self.name.to_owned(),
        };
        self.workshop.snapshots.commit(active.settle()?, made)?;
        Ok(())
    }
}

/// Says how the work on a base goes.
fn show(session: &Session<'_>, name: &str, progress: Progress) {
    let source = name.to_owned();
    match progress {
        Progress::Bytes { done, total } => {
            session.events.emit(BuildEvent::SourceProgress {
                source,
                bytes: done,
                total,
            });
        }
        // What is being done is seen by what takes long: the bytes.
        Progress::Doing(_) => {}
        Progress::Warning(message) => session.events.emit(BuildEvent::Warning {
            code: "DebianArchive".to_owned(),
            message,
            file: None,
            line: None,
        }),
    }
}

/// The day of a time, as people write it.
fn day(seconds: u64) -> String {
    let time = crate::image::Timestamp::from_seconds(seconds as i64).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

/// Runs the programs of a tree in the sandbox of a build step, without a network.
struct SandboxRunner<'a> {
    sandbox: &'a Sandbox,
    cancel: &'a Cancel,
}

impl Runner for SandboxRunner<'_> {
    fn run(&self, root: &Path, command: &Command) -> Result<Output, RunnerError> {
        let directory = std::fs::File::open(root)?;
        let tree = Tree::copy_of(std::os::fd::AsFd::as_fd(&directory))?;
        let mut run = Run {
            argv: command.argv.clone(),
            env: command.env.clone(),
            workdir: "/".to_owned(),
            user: String::new(),
            hostname: Hostname::Usual(super::exec::HOSTNAME.to_owned()),
            network: Network::None,
            ..Run::default()
        };
        let written = Mutex::new((Vec::new(), Vec::new()));
        let mut keep = |stream: Stream, line: &[u8]| {
            let mut written = written
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let to = match stream {
                Stream::Stdout => &mut written.0,
                Stream::Stderr => &mut written.1,
            };
            to.extend_from_slice(line);
            to.push(b'\n');
        };
        let exit = self
            .sandbox
            .run(&mut run, &tree, Streams::Lines(&mut keep), self.cancel)?;
        let (stdout, stderr) = written
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match exit {
            Exit::Cancelled => Err("the build was called off".into()),
            Exit::NotExecuted { why, .. } => Err(why.into()),
            exit => Ok(Output {
                status: exit.shell_status().unwrap_or(1),
                stdout,
                stderr,
            }),
        }
    }
}
