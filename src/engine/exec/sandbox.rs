//! The engine's side of a step: starts the child, hands it its spec and its files, reads what the command writes, and waits
//! for its end, for the time limit and for the wish to stop, whichever is first.
//!
//! The command is the first process of its pid namespace. When it ends, or is killed, everything that it started is gone
//! before its end is seen here; so no pipe can be held open by a process left behind, and no mount outlives it.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Signal};

use super::cancel::Cancel;
use super::cgroup::Group;
use super::child;
use super::emulator::Emulators;
use super::error::{ExecError, doing};
use super::network::{Lease, Networks};
use super::output::{Lines, More};
use super::ports::Port;
use super::proc::Proc;
use super::recorded::Deputy;
use super::rlimit;
use super::role::{self, Role, argv};
use super::shift::Shift;
use super::spec::{
    Emulated, ExecSpec, FileIndex, GroupSpec, Hostname, MountSpec, MountedSpec, Reply, StreamsSpec,
};
use super::stub::Stubs;
use super::users::{self, Identity};
use crate::event::Stream;
use crate::graph::{Host, Network, Security, Ulimit};
use crate::sys::memfd::LazilySealed;
use crate::sys::mount::{Attributes, Tree};
use crate::sys::network::in_namespace;
use crate::sys::owner;
use crate::sys::socket::Socket;
use crate::sys::spawn::{self, Command, Ended, MappedError, Namespaces, Program, WhenParentDies};

/// What machines are called inside, as BuildKit calls them.
pub const HOSTNAME: &str = "buildkitsandbox";
/// Which names it knows machines by.
pub(super) const HOSTS: &str = "/etc/hosts";
/// How large /dev/shm is where nothing else is asked for.
const SHM_BYTES: u64 = 64 << 20;
/// How long a command that handles SIGTERM may take to end once somebody wishes it to stop.
const GRACE: Duration = Duration::from_secs(3);
/// The PATH of images that set none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, and what it sees.
#[derive(Debug, Default)]
pub struct Run {
    /// Program and arguments. A program without a slash is searched in PATH, inside.
    pub argv: Vec<String>,
    /// The environment. PATH and HOME are added if they are missing.
    pub env: Vec<(String, String)>,
    /// Where it starts, absolute. Made, for its user, if it is missing.
    pub workdir: String,
    /// USER as written; looked up in the root. Empty is root.
    pub user: String,
    /// What the machine is called.
    pub hostname: Hostname,
    /// Which network it sees.
    pub network: Network,
    /// Ports to publish. Where there are any, it gets a network of its own, or is refused.
    pub ports: Vec<Port>,
    /// What is mounted beside what every container has.
    pub mounts: Vec<Mount>,
    /// Whose the caller's own id is: `None`: root's. Otherwise the root's owners must be shifted by the same.
    pub shift: Option<Shift>,
    /// Whose the mounts are, where owners are records; `None`: root's.
    pub mounted_are_of: Option<(u32, u32)>,
    /// Ends it, with everything it started.
    pub timeout_ms: Option<u64>,
    /// How much it may do.
    pub security: Security,
    /// Further names that it knows machines by.
    pub hosts: Vec<Host>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// The size of /dev/shm; `None`: 64 MiB.
    pub shm_bytes: Option<u64>,
    /// The control group that it is put into.
    pub group: Option<Group>,
    /// How long it may take to end once somebody wishes it to stop, if it handles SIGTERM; `None`: 3 s.
    pub grace_ms: Option<u64>,
    /// Hears that it is there.
    pub started: Option<Started>,
}

/// Hears once that a command's first process is there, and gets it as a pidfd.
pub struct Started(pub Box<dyn FnOnce(BorrowedFd<'_>) + Send>);

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Started(…)")
    }
}

/// Something mounted into a root while a command runs.
#[derive(Debug)]
pub struct Mount {
    /// Where, absolute. Made if it is missing, and removed afterwards.
    pub target: String,
    /// What.
    pub what: Mounted,
}

/// What is mounted.
#[derive(Debug)]
pub enum Mounted {
    /// A detached tree: a bind or cache mount, with its attributes.
    Tree(Tree),
    /// An empty file system in memory.
    Tmpfs {
        /// The most that it takes; `None`: half of the machine's memory.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: u32,
        /// What may be done there.
        access: Access,
    },
    /// A file that is only in memory: a secret, a heredoc's script.
    File {
        /// Its bytes.
        content: Secret,
        /// Its mode.
        mode: u32,
        /// Its owner, a number of the container's.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Whether a mount can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

impl Mounted {
    /// A file or directory that is open (O_PATH will do), mounted elsewhere with all that is mounted below it.
    ///
    /// # Errors
    /// What the kernel says; the file must be in this process's own mount namespace.
    pub fn bind(source: BorrowedFd<'_>, access: Access) -> io::Result<Self> {
        let tree = Tree::copy_of(source)?;
        if access == Access::ReadOnly {
            tree.restrict(Attributes::READ_ONLY)?;
        }
        Ok(Self::Tree(tree))
    }
}

/// Bytes that no message or log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What becomes of a command's standard streams.
pub enum Streams<'a> {
    /// There is no input, and each line of the output, without its end and of at most about
    /// [`LINE_BYTES_MAX`](super::LINE_BYTES_MAX), is given to this.
    Lines(&'a mut dyn FnMut(Stream, &[u8])),
    /// It has these for its input, output and errors.
    Given([BorrowedFd<'a>; 3]),
    /// A terminal of its own.
    Terminal {
        /// Lines.
        rows: u16,
        /// Characters in a line.
        columns: u16,
        /// Gets the other side of it, once.
        master: &'a mut dyn FnMut(OwnedFd),
    },
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lines(_) => "Lines",
            Self::Given(_) => "Given",
            Self::Terminal { .. } => "Terminal",
        })
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Killed(i32),
    /// It could not be executed.
    NotExecuted {
        /// 126: it is there; 127: it is not.
        status: i32,
        /// Why, in words.
        why: String,
    },
    /// It is a program of another architecture, and nothing here runs those.
    Foreign {
        /// What it is and what is missing, in words.
        why: String,
    },
    /// It took longer than it may.
    TimedOut {
        /// How long it may.
        after_ms: u64,
    },
    /// It failed, and the kernel had killed a process of it because its memory was used up.
    OutOfMemory {
        /// The status that a shell would report.
        status: i32,
        /// How much it had, in bytes.
        limit_bytes: Option<u64>,
    },
    /// Somebody wished it to stop.
    Cancelled,
}

impl Exit {
    /// Whether it is what a build hopes for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Status(0)
    }

    /// The status that a shell would report.
    #[must_use]
    pub fn shell_status(&self) -> Option<i32> {
        match self {
            Self::Status(status)
            | Self::NotExecuted { status, .. }
            | Self::OutOfMemory { status, .. } => Some(*status),
            Self::Foreign { .. } => Some(126),
            Self::Killed(signal) => Some(128 + signal),
            Self::TimedOut { .. } | Self::Cancelled => None,
        }
    }
}

/// Runs commands in roots. One for a build; any thread may use it. Lives in the engine child.
#[derive(Debug)]
pub struct Sandbox {
    program: LazilySealed,
    networks: Networks,
    /// How many files a command may open: as many as the user's own.
    files_max: Option<u64>,
    emulators: Arc<Emulators>,
    proc: Proc,
}

impl Sandbox {
    /// `scratch` is a directory for names that only this process uses; programs that help are looked for in
    /// `directories`; `warn` hears what the user should know.
    pub fn new(
        scratch: &Path,
        directories: &[PathBuf],
        warn: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        Self {
            program: LazilySealed::default(),
            networks: Networks::new(scratch, Box::new(warn)),
            files_max: rustix::process::getrlimit(Resource::Nofile).current,
            emulators: Arc::new(Emulators::of(directories)),
            proc: Proc::to_be_had(),
        }
    }

    /// Begins with what the first command will have to wait for.
    pub fn expect_commands(&self) {
        self.program.begin();
    }

    /// Runs a command in a root: a detached mount (`fsmount`, [`Tree::copy_of`]), which is used up by it. Mount points that
    /// were missing are gone again when this returns.
    ///
    /// # Errors
    /// If the command could not be run. That it failed is an [`Exit`].
    pub fn run(
        &self,
        run: &mut Run,
        root: &Tree,
        streams: Streams<'_>,
        cancel: &Cancel,
    ) -> Result<Exit, ExecError> {
        let deadline = run
            .timeout_ms
            .map(|limit| Instant::now() + Duration::from_millis(limit));
        let network = if run.ports.is_empty() {
            let network = self.networks.lease(run.network);
            network.map_err(ExecError::Network)?
        } else {
            self.networks.publish(&run.ports)?
        };
        for limit in &run.ulimits {
            if let Some(most) = rlimit::most(limit) {
                let name = limit.name.clone();
                return Err(ExecError::Ulimit { name, most });
            }
        }
        let _busy = cancel.busy();
        if owner::are_recorded() && run.security == Security::Insecure {
            return Err(ExecError::InsecureWithOneId);
        }
        let walled_off = self.proc.walled_off(run.shift);
        run.shift = walled_off.map_err(doing("read this process's ids"))?;
        let (mut spec, files) = prepare(run, root, &network, &streams)?;
        (spec.files_max, spec.proc) = (self.files_max, self.proc);
        let payload = serde_json::to_vec(&spec)
            .map_err(io::Error::from)
            .map_err(doing("describe the container"))?;
        let (socket, childs) = Socket::pair().map_err(doing("make a socket"))?;
        let null = role::null().map_err(doing("open /dev/null"))?;
        let pipes = match streams {
            Streams::Lines(_) => Some([pipe()?, pipe()?]),
            _ => None,
        };
        let standard = match (&pipes, &streams) {
            (Some([output, errors]), _) => [null.as_fd(), output.1.as_fd(), errors.1.as_fd()],
            (None, Streams::Given(given)) => *given,
            (None, _) => [null.as_fd(); 3],
        };
        let program = self.program.get();
        let program = program.map_err(doing("copy shmocker's program into memory"))?;
        let mut command = Command {
            program: Program::Open(program.as_fd()),
            argv: argv(Role::Step),
            env: Vec::new(),
            fds: standard.into_iter().chain([childs.as_fd()]).collect(),
            namespaces: [
                Namespaces::MOUNT,
                Namespaces::PID,
                Namespaces::IPC,
                Namespaces::UTS,
                Namespaces::CGROUP,
            ]
            .into_iter()
            .fold(Namespaces::NONE, Namespaces::and),
            when_parent_dies: WhenParentDies::IsKilled,
        };
        let child = match &run.shift {
            None => spawn::spawn(&command)?,
            Some(shift) => {
                command.namespaces = command.namespaces.and(Namespaces::USER);
                // The thread that starts it may end; its pid namespace ends with this process.
                command.when_parent_dies = WhenParentDies::Stays;
                spawn_shifted(&command, *shift, &network)?
            }
        };
        drop(command);
        drop(childs);
        let readers = match pipes {
            Some([output, errors]) => {
                let reader = |pipe| Lines::of(pipe).map(Some).map_err(doing("read from a pipe"));
                [reader(output.0)?, reader(errors.0)?]
            }
            None => [None, None],
        };
        role::await_greeting(&socket).map_err(|_| ExecError::NoGreeting)?;
        if let Some(group) = &run.group {
            group.add(child.pid())?;
        }
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        // A child that has died already is seen below.
        drop(socket.send(&payload, &borrowed));
        drop(borrowed);
        drop(files);
        if let Some(Started(started)) = run.started.take() {
            started(child.as_fd());
        }

        let mut watch = Watch {
            child,
            socket: Some(socket),
            readers,
            streams,
            stubs: Stubs::default(),
            failure: None,
            grace: run.grace_ms.map_or(GRACE, Duration::from_millis),
            emulators: Some(Arc::clone(&self.emulators)),
            identity: spec.identity,
            mounted_are_of: run.mounted_are_of,
            deputy: None,
            unanswered: None,
        };
        let ended = watch.until_end(deadline, cancel);
        watch.stubs.remove();
        watch.exit(ended?, run.timeout_ms, run.group.as_ref())
    }
}

impl<'a> Watch<'a> {
    /// Watches a command whose streams are not this process's.
    pub(super) fn of(
        child: spawn::Child,
        socket: Socket,
        streams: Streams<'a>,
        identity: Identity,
    ) -> Self {
        Self {
            child,
            socket: Some(socket),
            readers: [None, None],
            streams,
            stubs: Stubs::default(),
            failure: None,
            grace: GRACE,
            emulators: None,
            // As in the container that it is a guest of.
            mounted_are_of: (identity.uid != 0).then_some((identity.uid, identity.gid)),
            identity,
            deputy: None,
            unanswered: None,
        }
    }

    /// Waits for its end, or for the wish that it stop.
    pub(super) fn ending(mut self, cancel: &Cancel) -> Result<Exit, ExecError> {
        let why = self.until_end(None, cancel)?;
        self.exit(why, None, None)
    }

    fn exit(
        self,
        why: Why,
        timeout_ms: Option<u64>,
        group: Option<&Group>,
    ) -> Result<Exit, ExecError> {
        match (why, self.failure) {
            (
                _,
                Some(Reply::Failed {
                    step,
                    name,
                    what,
                    errno,
                }),
            ) => Err(ExecError::Setup {
                step,
                name,
                what,
                errno,
            }),
            (_, Some(Reply::NotExecuted { status, why })) => Ok(Exit::NotExecuted { status, why }),
            (_, Some(Reply::Foreign { why })) => Ok(Exit::Foreign { why }),
            (Why::Cancelled, _) => Ok(Exit::Cancelled),
            (Why::TimedOut, _) => Ok(Exit::TimedOut {
                after_ms: timeout_ms.unwrap_or_default(),
            }),
            (Why::Itself(ended), _) => Ok(judged(ended, group)),
        }
    }
}

/// How a command ended by itself.
fn judged(ended: Ended, group: Option<&Group>) -> Exit {
    let exit = match ended {
        Ended::Exited(status) => Exit::Status(status),
        Ended::Killed(signal) => Exit::Killed(signal),
    };
    match (group, exit.shell_status()) {
        (Some(group), Some(status)) if status != 0 && group.was_out_of_memory() => {
            Exit::OutOfMemory {
                status,
                limit_bytes: group.memory_bytes(),
            }
        }
        _ => exit,
    }
}

/// Starts a step in a user namespace of its own. A network that belongs to the one around it can only be entered before.
fn spawn_shifted(
    command: &Command<'_>,
    shift: Shift,
    network: &Lease<'_>,
) -> Result<spawn::Child, ExecError> {
    let start = || spawn::spawn_mapped(command, |pid| shift.apply(pid));
    let started = match network.namespace() {
        None => start(),
        Some(namespace) => {
            in_namespace(namespace, start).map_err(doing("enter a network namespace"))?
        }
    };
    started.map_err(|error| match error {
        MappedError::Spawn(error) => error.into(),
        MappedError::Mapping(error) => ExecError::NotMapped(error),
    })
}

type Pipe = (OwnedFd, OwnedFd);

fn pipe() -> Result<Pipe, ExecError> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(doing("make a pipe"))
}

/// The spec, and the files that it names by their places.
fn prepare(
    run: &mut Run,
    root: &Tree,
    network: &Lease<'_>,
    streams: &Streams<'_>,
) -> Result<(ExecSpec, Vec<OwnedFd>), ExecError> {
    let identity = users::lookup(root.as_fd(), &run.user)?;
    let mut files: Vec<OwnedFd> = Vec::new();
    let mut carry = |file: OwnedFd| -> FileIndex {
        files.push(file);
        files.len() - 1
    };
    let root_index = carry(
        root.as_fd()
            .try_clone_to_owned()
            .map_err(doing("share the root"))?,
    );
    let (network_index, sys_index) = match (network.namespace(), run.shift) {
        (None, _) => (None, None),
        (Some(namespace), None) => {
            let namespace = namespace.try_clone_to_owned();
            let namespace = namespace.map_err(doing("share a network namespace"))?;
            (Some(carry(namespace)), None)
        }
        // It is started in there, because it could not enter; nor could it mount a /sys of it.
        (Some(namespace), Some(_)) => {
            let sys = in_namespace(namespace, || child::sys_of_network(run.security));
            let sys = sys.map_err(doing("enter a network namespace"))?;
            (None, sys.ok().map(|sys| carry(sys.into())))
        }
    };
    let mut hosts = format!(
        "127.0.0.1\tlocalhost {}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
        run.hostname.name()
    );
    for Host { name, address } in &run.hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let system = [
        ("/etc/resolv.conf", network.resolv_conf.clone()),
        (HOSTS, hosts),
    ];
    let system = system.map(|(target, text)| Mount {
        target: target.to_owned(),
        what: Mounted::File {
            content: Secret(text.into_bytes()),
            mode: 0o644,
            uid: 0,
            gid: 0,
        },
    });
    let asked: HashSet<_> = run
        .mounts
        .iter()
        .map(|mount| mount.target.clone())
        .collect();
    let system = system
        .into_iter()
        .filter(|mount| !asked.contains(&mount.target));
    let mut mounts = Vec::new();
    for Mount { target, what } in system.chain(run.mounts.drain(..)) {
        let names_something = target
            .split('/')
            .any(|part| !part.is_empty() && part != "." && part != "..");
        if !target.starts_with('/') || !names_something {
            return Err(ExecError::BadTarget { target });
        }
        let what = match what {
            Mounted::Tree(tree) => MountedSpec::Tree(carry(tree.into())),
            Mounted::Tmpfs {
                size_bytes,
                mode,
                access,
            } => MountedSpec::Tmpfs {
                size_bytes,
                mode,
                read_only: access == Access::ReadOnly,
            },
            Mounted::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let content =
                    carry(memory_file(&content.0).map_err(doing("put a file into memory"))?);
                MountedSpec::File {
                    content,
                    mode,
                    uid,
                    gid,
                }
            }
        };
        mounts.push(MountSpec { target, what });
    }
    let env = completed(&run.env, &identity.home);
    let spec = ExecSpec {
        argv: run.argv.clone(),
        env,
        workdir: rooted(&run.workdir),
        identity,
        hostname: run.hostname.clone(),
        files_max: None,
        ulimits: run.ulimits.clone(),
        security: run.security,
        shm_bytes: run.shm_bytes.unwrap_or(SHM_BYTES),
        group: match run.group {
            None => GroupSpec::Started,
            Some(_) => GroupSpec::Own,
        },
        root: root_index,
        network: network_index,
        proc: Proc::Own,
        sys: sys_index,
        mounts,
        streams: match streams {
            Streams::Lines(_) => StreamsSpec::Pipes,
            Streams::Given(_) => StreamsSpec::Given,
            Streams::Terminal { rows, columns, .. } => StreamsSpec::Terminal {
                rows: *rows,
                columns: *columns,
            },
        },
    };
    Ok((spec, files))
}

/// An environment with PATH and HOME in it.
pub(super) fn completed(env: &[(String, String)], home: &str) -> Vec<(String, String)> {
    let mut env = env.to_vec();
    for (name, value) in [("PATH", DEFAULT_PATH), ("HOME", home)] {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    env
}

/// A path that begins at the root.
pub(super) fn rooted(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek as _, Write as _};
    let mut file = std::fs::File::from(rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Why the wait is over.
pub(super) enum Why {
    Itself(Ended),
    TimedOut,
    Cancelled,
}

/// A running command, and all that is heard of it.
pub(super) struct Watch<'a> {
    child: spawn::Child,
    socket: Option<Socket>,
    readers: [Option<Lines>; 2],
    streams: Streams<'a>,
    stubs: Stubs,
    failure: Option<Reply>,
    grace: Duration,
    /// What it may ask for; `None`: nothing.
    emulators: Option<Arc<Emulators>>,
    /// Who it runs as.
    identity: Identity,
    /// Whose the mounts are.
    mounted_are_of: Option<(u32, u32)>,
    /// Who answers its calls about owners.
    deputy: Option<Deputy>,
    /// Why nobody does any more.
    unanswered: Option<io::Error>,
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Watch<'_> {
    fn until_end(&mut self, deadline: Option<Instant>, cancel: &Cancel) -> Result<Why, ExecError> {
        let mut why = None;
        let mut grace: Option<Instant> = None;
        while why.is_none() {
            let until = [deadline, grace].into_iter().flatten().min();
            let ready = self.wait(until, cancel, grace.is_some())?;
            for (index, ready) in ready.readers.into_iter().enumerate() {
                if ready {
                    self.read(index)?;
                }
            }
            if ready.socket {
                self.hear()?;
            }
            if ready.deputy {
                self.dismiss_deputy();
            }
            why = if ready.ended {
                let ended = self.child.wait().map_err(doing("wait for the container"))?;
                Some(match grace {
                    None => Why::Itself(ended),
                    Some(_) => Why::Cancelled,
                })
            } else if grace.is_some_and(|end| Instant::now() >= end) {
                Some(Why::Cancelled)
            } else if ready.cancelled {
                // The first process of a pid namespace hears only what it has a handler for.
                if self.child.handles(Signal::TERM) {
                    let asked = self.child.kill(Signal::TERM);
                    asked.map_err(doing("end the container"))?;
                    grace = Some(Instant::now() + self.grace);
                    None
                } else {
                    Some(Why::Cancelled)
                }
            } else if self.unanswered.is_some() {
                Some(Why::Cancelled)
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                Some(Why::TimedOut)
            } else {
                None
            };
        }
        self.child
            .kill(Signal::KILL)
            .map_err(doing("kill the container"))?;
        self.child.wait().map_err(doing("wait for the container"))?;
        // All of its processes are gone; what they wrote and said is still in the pipes.
        while self.socket.is_some() {
            self.hear()?;
        }
        for (index, stream) in STREAMS.into_iter().enumerate() {
            self.read(index)?;
            if let (Some(mut reader), Streams::Lines(sink)) =
                (self.readers[index].take(), &mut self.streams)
            {
                reader.finish(&mut |line| sink(stream, line));
            }
        }
        self.dismiss_deputy();
        match self.unanswered.take() {
            Some(error) => Err(doing("answer what the step calls")(error)),
            None => why.ok_or(ExecError::NoGreeting),
        }
    }

    /// Where it could not go on, what the step has done since is not what it was meant to do.
    fn dismiss_deputy(&mut self) {
        if let Some(Err(error)) = self.deputy.take().map(Deputy::end) {
            self.unanswered = Some(error);
        }
    }

    fn wait(
        &self,
        deadline: Option<Instant>,
        cancel: &Cancel,
        heard: bool,
    ) -> Result<Ready, ExecError> {
        let wish = match heard {
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        let mut polls = vec![
            PollFd::new(&self.child, PollFlags::IN),
            PollFd::new(cancel, wish),
        ];
        let socket = self.socket.as_ref().map(|socket| {
            polls.push(PollFd::new(socket, PollFlags::IN));
            polls.len() - 1
        });
        let deputy = self.deputy.as_ref().map(|deputy| {
            polls.push(PollFd::new(deputy, PollFlags::IN));
            polls.len() - 1
        });
        let readers = self.readers.each_ref().map(|reader| {
            reader.as_ref().map(|reader| {
                polls.push(PollFd::new(reader, PollFlags::IN));
                polls.len() - 1
            })
        });
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match rustix::event::poll(&mut polls, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(doing("wait for the container")(error)),
        }
        let is_ready = |index: usize| {
            polls
                .get(index)
                .is_some_and(|poll| !poll.revents().is_empty())
        };
        Ok(Ready {
            ended: is_ready(0),
            cancelled: is_ready(1),
            socket: socket.is_some_and(is_ready),
            deputy: deputy.is_some_and(is_ready),
            readers: readers.map(|index| index.is_some_and(is_ready)),
        })
    }

    fn read(&mut self, index: usize) -> Result<(), ExecError> {
        if let (Some(reader), Streams::Lines(sink)) = (&mut self.readers[index], &mut self.streams)
        {
            let more = reader.drain(&mut |line| sink(STREAMS[index], line));
            if more.map_err(doing("read what the step writes"))? == More::Never {
                self.readers[index] = None;
            }
        }
        Ok(())
    }

    /// Takes one message of the child's, or the end of them.
    fn hear(&mut self) -> Result<(), ExecError> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let Some(message) = socket.receive().map_err(doing("talk to the container"))? else {
            self.socket = None;
            return Ok(());
        };
        let reply = serde_json::from_slice(&message.payload).map_err(io::Error::from);
        match reply.map_err(doing("understand the container"))? {
            Reply::Stubs { stubs, directories } => {
                self.stubs = Stubs {
                    stubs,
                    directories: message.files.into_iter().zip(directories).collect(),
                };
            }
            Reply::Terminal => {
                if let (Some(ours), Streams::Terminal { master, .. }) =
                    (message.files.into_iter().next(), &mut self.streams)
                {
                    master(ours);
                }
            }
            Reply::Listener => {
                if let Some(listener) = message.files.into_iter().next() {
                    let deputy = Deputy::start(listener, &self.identity, self.mounted_are_of);
                    self.deputy = Some(deputy.map_err(doing("answer what the step calls"))?);
                }
            }
            Reply::Emulate { architecture } => {
                let able: Emulated = match &self.emulators {
                    Some(emulators) => emulators.provide(&architecture),
                    None => Err("a container that runs cannot be given one".to_owned()),
                };
                let answer = serde_json::to_vec(&able).map_err(io::Error::from);
                let answer = answer.map_err(doing("answer the container"))?;
                // One that has died meanwhile is seen elsewhere.
                drop(socket.send(&answer, &[]));
            }
            failure => self.failure = Some(failure),
        }
        Ok(())
    }
}

/// What a wait was ended by.
struct Ready {
    ended: bool,
    cancelled: bool,
    socket: bool,
    deputy: bool,
    readers: [bool; 2],
}

#[cfg(test)]
#[path = "sandbox_tests.rs"]
mod tests;
