//! One command in an image of the store, in the sandbox that build steps have: `shmocker run`, of which what it writes to
//! the image's files is dropped at its end, and a habitat that is up, of which it is kept.
//!
//! An image that names services (`io.shmocker.habitat.services`) gets them: its launcher becomes the first process, starts
//! them as its own root, and then the command as its user.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::base::read_image;
use super::exec::cgroup::Group;
use super::exec::{
    Access, Cancel, Exit, Hostname, Mount, Mounted, Port, Run, Sandbox, Shift, Started, Streams,
    users,
};
use super::failure::{Failure, FailureKind};
use super::snapshot::{Choice, SnapshotStore};
use super::work::Resources;
use super::{images, layers};
use crate::digest::Key;
use crate::graph::Network;
use crate::store::{Instance, Store, StoreError, TmpDir};
use crate::sys::mount::Tree;
use crate::sys::signal::Resizes;

/// A command to run in an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The store's directory.
    pub store: PathBuf,
    /// The image, by name or digest.
    pub image: String,
    /// Takes the place of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Takes the place of the image's command.
    pub command: Vec<String>,
    /// Added to the image's environment.
    pub env: Vec<(String, String)>,
    /// Takes the place of the image's working directory.
    pub workdir: Option<String>,
    /// Takes the place of the image's user.
    pub user: Option<String>,
    /// Directories and files of this machine.
    pub volumes: Vec<Volume>,
    /// Which network it sees; `None`: what the image says, else its own.
    pub network: Option<Network>,
    /// Ports to publish, of a network of its own.
    pub ports: Vec<Port>,
    /// Its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
    /// Where what it writes is kept; `None`: nowhere.
    pub instance: Option<String>,
    /// Whether it is held to the limits that the image names.
    pub limited: bool,
    /// Where this machine's programs are looked for that it may need: emulators of other architectures.
    pub programs: Vec<PathBuf>,
    /// Where a control group for it is made, if it is limited; known only to its parent.
    pub groups: Option<PathBuf>,
}

impl Launch {
    /// How much it may take, as its image says.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn resources(&self) -> Result<Resources, Failure> {
        if !self.limited {
            return Ok(Resources::default());
        }
        let store = Store::open(&self.store).map_err(of_store)?;
        // One that is not there, or damaged, is told when it is to be run.
        let image = images::find(&store, &self.image).map_err(of_store)?;
        let config = image.and_then(|image| read_image(&image.digest, &store).ok());
        let labels = config.and_then(|(_, config)| config.config.labels);
        Ok(labels.map(|labels| limits(&labels)).unwrap_or_default())
    }
}

/// The limits that labels name.
fn limits(labels: &BTreeMap<String, String>) -> Resources {
    const PERIOD_US: u64 = 100_000;
    let of = |name: &str| labels.get(&format!("io.shmocker.habitat.limits.{name}"));
    let cpus = of("cpus").and_then(|cpus| cpus.parse::<f64>().ok());
    Resources {
        memory_bytes: of("memory").and_then(|bytes| bytes.parse().ok()),
        cpu_period_us: cpus.map(|_| PERIOD_US),
        cpu_quota_us: cpus.map(|cpus| ((cpus * PERIOD_US as f64) as u64).max(1000)),
        pids_max: of("pids").and_then(|count| count.parse().ok()),
        ..Resources::default()
    }
}

/// Names the services of a habitat's image.
pub const SERVICES_LABEL: &str = "io.shmocker.habitat.services";
/// Names the network of a habitat's image. An image can only take the network away: with this machine's own it could reach
/// what its user did not mean to show.
const NETWORK_LABEL: &str = "io.shmocker.habitat.network";
/// What starts them.
const LAUNCHER: &str = "/etc/habitat/launch";
/// Where a habitat that is up says that it is in order.
const STARTED: &str = "/dev/habitat/started";
/// How long a habitat that is up may take to stop.
const INSTANCE_GRACE_MS: u64 = 60_000;

/// A directory or file of this machine, seen inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Where it is here, absolute.
    pub source: PathBuf,
    /// Where it is seen, absolute.
    pub target: String,
    /// Whether it cannot be written to.
    pub read_only: bool,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Runs it, in the engine child. `files` are its standard input, output and errors; with `resizes` its terminal follows the
/// size of the one that is its input. `started` gets its first process, as a pidfd, and its control group if it has one. Returns its status, as docker has it: 125
/// to 127 where it could not be run.
///
/// # Errors
/// If there is no such image, or the sandbox cannot be set up.
pub fn run(
    launch: &Launch,
    files: Vec<OwnedFd>,
    resizes: Option<Resizes>,
    cancel: &Cancel,
    started: impl FnOnce(BorrowedFd<'_>, Option<PathBuf>) + Send + 'static,
) -> Result<i32, Failure> {
    let store = Store::open(&launch.store).map_err(of_store)?;
    store.sweep_tmp().map_err(of_store)?;
    let Some(image) = images::find(&store, &launch.image).map_err(of_store)? else {
        return Err(Failure::new(
            FailureKind::Input,
            "run::no_image",
            format!("there is no image `{}` in the store", launch.image),
        )
        .with_help("`shmocker images` lists what there is"));
    };
    let (_, config) = read_image(&image.digest, &store)
        .map_err(|reason| Failure::new(FailureKind::Machine, "run::damaged_image", reason))?;
    let config = config.config;
    let services = config
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SERVICES_LABEL))
        .filter(|_| launch.entrypoint.is_none())
        .cloned();
    let said = config
        .labels
        .as_ref()
        .and_then(|labels| labels.get(NETWORK_LABEL));
    let network = launch.network.unwrap_or(match said.map(String::as_str) {
        // An image may keep its commands from the network, and not give them this machine's.
        Some("none") => Network::None,
        _ => Network::Default,
    });
    let group = match &launch.groups {
        None => None,
        Some(below) => {
            let resources = config.labels.as_ref().map(limits).unwrap_or_default();
            Some(Group::make(below, &resources).map_err(super::exec::ExecError::from)?)
        }
    };
    let mut argv = argv(launch, config.entrypoint, config.cmd)?;
    let user = launch.user.clone().unwrap_or(config.user);
    let mut env: Vec<(String, String)> = config
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if launch.terminal.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    for (name, value) in &launch.env {
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    let workdir = match (&launch.workdir, config.working_dir.as_str()) {
        (Some(workdir), _) => workdir.clone(),
        (None, "") => "/".to_owned(),
        (None, workdir) => workdir.to_owned(),
    };
    let mut mounts = Vec::new();
    for volume in &launch.volumes {
        mounts.push(mount(volume)?);
    }
    let instance = match &launch.instance {
        None => None,
        Some(id) => {
            let instance = store.instance(id).map_err(of_store)?;
            let mark = instance.mark().map_err(of_store)?;
            let what = Mounted::bind(mark.as_fd(), Access::ReadWrite).map_err(|error| {
                let message = "the mark of a habitat that has started cannot be mounted";
                Failure::caused(FailureKind::Machine, "run::mark", message, &error)
            })?;
            mounts.push(Mount {
                target: STARTED.to_owned(),
                what,
            });
            Some(instance)
        }
    };
    let scratch = store.tmp_dir().map_err(of_store)?;
    let sandbox = Sandbox::new(&scratch.path(), &launch.programs, warn);
    sandbox.expect_commands();
    let snapshots = SnapshotStore::open(&store, Choice::Best)?;
    layers::unpack_stored(&store, &snapshots, &image)?;
    let (shift, mounted_are_of) = match launch.volumes.as_slice() {
        [] => (None, None),
        _ => keeping(&user, &snapshots.mount(&image.layers)?)?,
    };
    let layers = match shift {
        None => image.layers,
        Some(shift) => vec![snapshots.shifted(&image.layers, shift, || {
            warn(format!(
                "the image is copied once, so that its user `{user}` can write to the volumes as you"
            ));
        })?],
    };
    let first = match services {
        None => user,
        Some(services) => {
            let launcher = ["/bin/sh", LAUNCHER, "--forward", &user, &services];
            argv.splice(0..0, launcher.map(str::to_owned));
            "root".to_owned()
        }
    };
    let place = group.as_ref().map(|group| group.path().to_owned());
    let mut run = Run {
        argv,
        env,
        workdir,
        user: first,
        hostname: Hostname::Usual(image.digest.hex().chars().take(12).collect()),
        network,
        mounts,
        ports: launch.ports.clone(),
        shift,
        mounted_are_of,
        group,
        grace_ms: instance.as_ref().map(|_| INSTANCE_GRACE_MS),
        started: Some(Started(Box::new(move |process| started(process, place)))),
        ..Run::default()
    };
    let active = match &instance {
        None => snapshots.prepare(&layers)?,
        Some(instance) => {
            snapshots.prepare_in(&layers, workplace(instance, &layers, &snapshots)?)?
        }
    };
    let root = Tree::copy_of(active.mounted().as_fd()).map_err(|error| {
        Failure::caused(
            FailureKind::Machine,
            "run::root",
            "the image cannot be mounted",
            &error,
        )
    })?;
    let exit = with_streams(launch.terminal, &files, resizes, |streams| {
        sandbox.run(&mut run, &root, streams, cancel)
    })?;
    drop(root);
    active.discard();
    match exit {
        Exit::NotExecuted { status, why } => {
            warn(why);
            Ok(status)
        }
        Exit::Foreign { why } => {
            warn(why);
            Ok(126)
        }
        exit => Ok(exit.shell_status().unwrap_or(125)),
    }
}

/// Where a habitat's files are put together. They lie upon one image; upon another they would make no sense.
fn workplace(
    instance: &Instance,
    layers: &[Key],
    snapshots: &SnapshotStore,
) -> Result<TmpDir, Failure> {
    match instance.below().map_err(of_store)? {
        Some(below) if below == layers => {}
        Some(_) => {
            return Err(Failure::new(
                FailureKind::Input,
                "habitat::another_image",
                "the image or its user is another one now than when the habitat was stopped, and what the habitat wrote since fits only the old one",
            )
            .with_help("`shmocker habitat down` drops what it wrote; then start it anew"));
        }
        None => {
            // They must outlive this process before anything lies upon them.
            snapshots.flush()?;
            instance.put_below(layers).map_err(of_store)?;
        }
    }
    instance.workplace().map_err(of_store)
}

/// The command's own errors go the same way; nothing else is connected.
fn warn(message: String) {
    drop(writeln!(std::io::stderr(), "warning: {message}"));
}

/// A shift of ids, or whose the mounts are.
type Keeping = (Option<Shift>, Option<(u32, u32)>);

/// How the ids of the container are shifted, so that what is mounted belongs to the user who works on it; where all ids are
/// one, that user. Root needs nothing: it is the caller.
fn keeping(user: &str, tree: &impl AsFd) -> Result<Keeping, Failure> {
    let identity = users::lookup(tree.as_fd(), user).map_err(super::exec::ExecError::from)?;
    if identity.uid == 0 {
        return Ok((None, None));
    }
    if crate::sys::owner::are_recorded() {
        return Ok((None, Some((identity.uid, identity.gid))));
    }
    let shift = Shift::keeping(identity.uid, identity.gid).map_err(|error| {
        Failure::caused(
            FailureKind::Machine,
            "run::ids",
            "this process's ids cannot be read",
            &error,
        )
    })?;
    match shift {
        Some(shift) => Ok((Some(shift), None)),
        None => Err(Failure::new(
            FailureKind::Input,
            "run::volume_owner",
            format!("the user `{user}` has a higher number than a container here can have"),
        )
        .with_help(
            "run the command as root of the container, who is you outside of it: `--user root`",
        )),
    }
}

fn argv(
    launch: &Launch,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
) -> Result<Vec<String>, Failure> {
    let mut argv = match &launch.entrypoint {
        Some(given) => given.clone(),
        None => entrypoint.unwrap_or_default(),
    };
    if !launch.command.is_empty() {
        argv.extend(launch.command.iter().cloned());
    } else if launch.entrypoint.is_none() {
        // As docker has it: another entrypoint does not get the image's command.
        argv.extend(command.unwrap_or_default());
    }
    if argv.is_empty() {
        return Err(Failure::new(
            FailureKind::Input,
            "run::no_command",
            "the image names no command, and none was given",
        )
        .with_help("name one: `shmocker run IMAGE COMMAND`"));
    }
    Ok(argv)
}

fn mount(volume: &Volume) -> Result<Mount, Failure> {
    let failed = |error: &std::io::Error| {
        let message = format!("`{}` cannot be mounted", volume.source.display());
        Failure::caused(FailureKind::Input, "run::volume", message, error)
    };
    let source = rustix::fs::open(
        &volume.source,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|error| failed(&error.into()))?;
    let access = if volume.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let what = Mounted::bind(source.as_fd(), access).map_err(|error| failed(&error))?;
    Ok(Mount {
        target: volume.target.clone(),
        what,
    })
}

/// Calls with the streams that were given, or with a terminal that is connected to them.
///
/// # Errors
/// What the call returns.
pub fn with_streams(
    terminal: Option<TerminalSize>,
    files: &[OwnedFd],
    mut resizes: Option<Resizes>,
    run: impl FnOnce(Streams<'_>) -> Result<Exit, super::exec::ExecError>,
) -> Result<Exit, Failure> {
    let [input, output, errors] = files else {
        return Err(Failure::new(
            FailureKind::Bug,
            "run::streams",
            "the command has no streams",
        ));
    };
    let Some(TerminalSize { rows, columns }) = terminal else {
        return Ok(run(Streams::Given([
            input.as_fd(),
            output.as_fd(),
            errors.as_fd(),
        ]))?);
    };
    let mut shown = None;
    let mut connect = |master: OwnedFd| {
        if let Some(resizes) = resizes.take() {
            drop(follow_size(resizes, input.as_fd(), master.as_fd()));
        }
        shown = connect_terminal(master, input.as_fd(), output.as_fd()).ok();
    };
    let exit = run(Streams::Terminal {
        rows,
        columns,
        master: &mut connect,
    })?;
    if let Some(shown) = shown {
        // The last of what it wrote is still on its way.
        drop(shown.join());
    }
    Ok(exit)
}

/// Copies both ways between a terminal's other side and the user's streams. The thread that shows ends with the command.
fn connect_terminal(
    master: OwnedFd,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let mut typed = File::from(input.try_clone_to_owned()?);
    let mut to_command = File::from(master.try_clone()?);
    std::thread::spawn(move || copy(&mut typed, &mut to_command));
    let mut from_command = File::from(master);
    let mut screen = File::from(output.try_clone_to_owned()?);
    Ok(std::thread::spawn(move || {
        copy(&mut from_command, &mut screen)
    }))
}

/// Keeps a terminal as large as the user's, on a thread that ends with this process.
fn follow_size(
    resizes: Resizes,
    users: BorrowedFd<'_>,
    ours: BorrowedFd<'_>,
) -> std::io::Result<()> {
    let (users, ours) = (users.try_clone_to_owned()?, ours.try_clone_to_owned()?);
    std::thread::spawn(move || {
        while resizes.wait().is_ok() {
            // A terminal that is gone has no size.
            if let Ok(size) = rustix::termios::tcgetwinsize(&users) {
                rustix::termios::tcsetwinsize(&ours, size).ok();
            }
        }
    });
    Ok(())
}

/// Until either side ends; a terminal whose command has ended says so with an error.
fn copy(from: &mut File, to: &mut File) {
    let mut buffer = [0; 4096];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn of_store(error: StoreError) -> Failure {
    Failure::from_diagnostic(FailureKind::Machine, &error)
}
