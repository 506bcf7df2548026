//! The child's side of a step: single-threaded, it walks [`STEPS`] and becomes the command. To change the sandbox, change
//! the table.
//!
//! It starts as root of the build's user namespace, or of one inside of it, in mount, pid, ipc, uts and cgroup namespaces
//! of its own, and reaches the tree of the image only through descriptors that resolve inside it.

use std::ffi::{CString, OsStr};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, LinkNameSpaceType};

use super::devices;
use super::machine;
use super::rlimit;
use super::sandbox::HOSTS;
use super::seccomp;
use super::spec::{
    Emulated, ExecSpec, FileIndex, GroupSpec, Hostname, MountSpec, MountedSpec, Reply, StreamsSpec,
};
use super::stub::{self, Kind, Stubs, make_directory, mount_point, open_in};
use super::visit;
use crate::graph::Security;
use crate::sys;
use crate::sys::mount::{self, Attributes, Tree};
use crate::sys::owner;
use crate::sys::process;
use crate::sys::socket::Socket;

/// One thing that is done on the way to the command.
struct Step {
    name: &'static str,
    run: Doing,
}

type Doing = fn(&mut Setup<'_>) -> Result<(), Fault>;

/// All of the sandbox, in order.
const STEPS: &[Step] = &[
    step("keep mounts to itself", keep_mounts_private),
    step("enter the network", enter_network),
    step("see its own control group", enter_group),
    step("set the host name", set_host_name),
    step("mount the root", mount_root),
    step("mount /proc", mount_proc),
    step("mount /sys", mount_sys),
    step("mount /sys/fs/cgroup", mount_cgroup),
    step("make /dev", make_dev),
    step("mount what the step asks for", mount_wishes),
    step("cover what no step may see", cover_paths),
    step("enter the root", enter_root),
    GO_TO_WORKDIR,
    SET_UP_STREAMS,
    step("report the mount points it made", report_stubs),
    LIMIT_PROCESSES,
    LIMIT_CAPABILITIES,
    FILTER_SYSTEM_CALLS,
    BECOME_USER,
];

/// What is left to do for a command in a container that is there already.
const ENTERED: &[Step] = &[
    step("find its way about", find_root),
    GO_TO_WORKDIR,
    SET_UP_STREAMS,
    LIMIT_PROCESSES,
    LIMIT_CAPABILITIES,
    FILTER_SYSTEM_CALLS,
    BECOME_USER,
];

const GO_TO_WORKDIR: Step = step("go to the working directory", go_to_workdir);
const SET_UP_STREAMS: Step = step("set up the streams", set_up_streams);
const LIMIT_PROCESSES: Step = step("limit its processes", limit_processes);
const LIMIT_CAPABILITIES: Step = step("limit the capabilities", limit_capabilities);
const FILTER_SYSTEM_CALLS: Step = step("filter the system calls", filter_system_calls);
const BECOME_USER: Step = step("become the user", become_user);

const fn step(name: &'static str, run: Doing) -> Step {
    Step { name, run }
}

/// What Docker leaves a container of the capabilities.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Covered by nothing: files by /dev/null, directories by an empty one.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Covered by themselves, read-only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

const NO_SET_ID_DEVICES: Attributes = Attributes::NO_SET_ID.and(Attributes::NO_DEVICES);
const DATA_ONLY: Attributes = NO_SET_ID_DEVICES.and(Attributes::NO_EXECUTION);

/// Why a step of the table failed.
struct Fault {
    what: String,
    errno: Option<i32>,
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self {
            what: String::new(),
            errno: error.raw_os_error(),
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

fn at<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> Fault {
    move |error| {
        let error = error.into();
        let said = if error.raw_os_error().is_none() {
            format!(": {error}")
        } else {
            String::new()
        };
        Fault {
            what: format!("{what}{said}"),
            errno: error.raw_os_error(),
        }
    }
}

/// What the steps work on.
struct Setup<'a> {
    spec: &'a ExecSpec,
    files: Vec<Option<OwnedFd>>,
    socket: &'a Socket,
    root: Option<Tree>,
    dev: Option<Tree>,
    null: Option<OwnedFd>,
    stubs: Stubs,
}

impl Setup<'_> {
    fn take(&mut self, index: FileIndex) -> Result<OwnedFd, Fault> {
        let file = self.files.get_mut(index).and_then(Option::take);
        file.ok_or_else(|| Fault {
            what: format!("file {index} is missing"),
            errno: None,
        })
    }

    fn root(&self) -> Result<BorrowedFd<'_>, Fault> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        root.ok_or_else(|| Fault {
            what: "there is no root yet".to_owned(),
            errno: None,
        })
    }

    /// Attaches a tree at a path of the root, which is made if it is missing.
    fn attach(&mut self, tree: &Tree, path: &str, kind: Kind) -> Result<(), Fault> {
        let mut stubs = std::mem::take(&mut self.stubs);
        let target = mount_point(self.root()?, path, kind, &mut stubs);
        self.stubs = stubs;
        tree.attach(target.map_err(at(path))?.as_fd())
            .map_err(at(path))
    }
}

/// Waits for the spec, sets the sandbox up and becomes the command. Returns only if that fails.
pub(super) fn run(socket: &Socket) -> ExitCode {
    walk(STEPS, socket)
}

/// Waits for the first process of a container, as a pidfd, goes into that container, and gives back its root; then waits for
/// the spec, and becomes the command. Nothing of the container is executed before that. Returns only if it fails.
pub(super) fn run_as_guest(socket: &Socket) -> ExitCode {
    let enter = || -> io::Result<()> {
        let message = socket.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let container = message.files.first().ok_or(io::ErrorKind::InvalidData)?;
        visit::enter(container.as_fd())?;
        let root = stub::open_host("/")?;
        let payload = serde_json::to_vec(&Reply::Entered)?;
        socket.send(&payload, &[root.as_fd()])
    };
    if let Err(error) = enter() {
        let reply = Reply::Failed {
            step: 0,
            name: "go into the container".to_owned(),
            what: String::new(),
            errno: error.raw_os_error(),
        };
        // If nobody is left to tell, nobody waits.
        drop(serde_json::to_vec(&reply).map(|payload| socket.send(&payload, &[])));
        return ExitCode::FAILURE;
    }
    walk(ENTERED, socket)
}

fn walk(steps: &[Step], socket: &Socket) -> ExitCode {
    let failed = |reply: &Reply| {
        // If the engine is gone too, nobody is left to tell.
        drop(serde_json::to_vec(reply).map(|payload| socket.send(&payload, &[])));
        ExitCode::FAILURE
    };
    let Ok(Some(message)) = socket.receive() else {
        return ExitCode::FAILURE;
    };
    let spec: ExecSpec = match serde_json::from_slice(&message.payload) {
        Ok(spec) => spec,
        Err(error) => {
            let name = "read its instructions".to_owned();
            return failed(&Reply::Failed {
                step: 0,
                name,
                what: error.to_string(),
                errno: None,
            });
        }
    };
    let mut setup = Setup {
        spec: &spec,
        files: message.files.into_iter().map(Some).collect(),
        socket,
        root: None,
        dev: None,
        null: None,
        stubs: Stubs::default(),
    };
    for (index, step) in steps.iter().enumerate() {
        if let Err(Fault { what, errno }) = (step.run)(&mut setup) {
            return failed(&Reply::Failed {
                step: index + 1,
                name: step.name.to_owned(),
                what,
                errno,
            });
        }
    }
    failed(&execute(&spec, socket))
}

fn find_root(setup: &mut Setup<'_>) -> Result<(), Fault> {
    setup.root = Some(Tree::from(stub::open_host("/")?));
    setup.dev = Some(Tree::from(stub::open_host("/dev").map_err(at("/dev"))?));
    Ok(())
}

fn keep_mounts_private(_: &mut Setup<'_>) -> Result<(), Fault> {
    Ok(mount::make_all_private()?)
}

fn enter_network(setup: &mut Setup<'_>) -> Result<(), Fault> {
    if let Some(index) = setup.spec.network {
        let namespace = setup.take(index)?;
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(LinkNameSpaceType::Network),
        )?;
    }
    Ok(())
}

fn enter_group(setup: &mut Setup<'_>) -> Result<(), Fault> {
    match setup.spec.group {
        GroupSpec::Started => Ok(()),
        GroupSpec::Own => Ok(process::see_own_control_group()?),
    }
}

fn set_host_name(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let hostname = &setup.spec.hostname;
    match rustix::system::sethostname(hostname.name().as_bytes()) {
        // podman's does without looking at namespaces.
        Err(Errno::PERM) if matches!(hostname, Hostname::Usual(_)) => Ok(()),
        set => set.map_err(at("a filter of system calls forbids it")),
    }
}

fn mount_root(setup: &mut Setup<'_>) -> Result<(), Fault> {
    setup.null = Some(devices::open_verified("/dev/null", devices::NULL).map_err(at("/dev/null"))?);
    let root = Tree::from(setup.take(setup.spec.root)?);
    root.attach_over_root()?;
    setup.root = Some(root);
    Ok(())
}

fn mount_proc(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let proc = setup.spec.proc.mount()?;
    setup.attach(&proc, "/proc", Kind::Directory)
}

/// A new /sys, of the network that this thread is in.
pub(super) fn sys_of_network(security: Security) -> io::Result<Tree> {
    Tree::of_filesystem("sysfs", &[], sys_attributes(security))
}

fn sys_attributes(security: Security) -> Attributes {
    match security {
        Security::Sandbox => DATA_ONLY.and(Attributes::READ_ONLY),
        Security::Insecure => DATA_ONLY,
    }
}

fn mount_sys(setup: &mut Setup<'_>) -> Result<(), Fault> {
    // The host's network has the host's /sys, of which there can be only a copy.
    let own = match (setup.spec.sys, setup.spec.network) {
        (Some(sys), _) => Some(Tree::from(setup.take(sys)?)),
        (None, Some(_)) => sys_of_network(setup.spec.security).ok(),
        (None, None) => None,
    };
    let sys = match own {
        Some(sys) => sys,
        None => {
            let copy = Tree::copy_of(stub::open_host("/sys")?.as_fd())?;
            copy.restrict(sys_attributes(setup.spec.security))?;
            copy
        }
    };
    setup.attach(&sys, "/sys", Kind::Directory)
}

fn mount_cgroup(setup: &mut Setup<'_>) -> Result<(), Fault> {
    const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;
    let unified =
        rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|host| host.f_type == CGROUP2_SUPER_MAGIC);
    if unified
        && let Ok(cgroup) = Tree::of_filesystem("cgroup2", &[], sys_attributes(setup.spec.security))
    {
        setup.attach(&cgroup, "/sys/fs/cgroup", Kind::Directory)?;
    }
    Ok(())
}

fn make_dev(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let options = [("mode", "0755"), ("size", "65536k")];
    let dev = Tree::of_filesystem("tmpfs", &options, Attributes::NO_SET_ID)?;
    setup.attach(&dev, "/dev", Kind::Directory)?;
    devices::populate(dev.as_fd(), setup.spec.shm_bytes)
        .map_err(|(name, error)| at(name)(error))?;
    setup.dev = Some(dev);
    Ok(())
}

fn mount_wishes(setup: &mut Setup<'_>) -> Result<(), Fault> {
    // Parents before what lies in them; otherwise in the order in which they were asked for.
    let mut mounts: Vec<&MountSpec> = setup.spec.mounts.iter().collect();
    mounts.sort_by_key(|mount| {
        mount
            .target
            .split('/')
            .filter(|part| !part.is_empty())
            .count()
    });
    let memory = match mounts
        .iter()
        .any(|mount| matches!(mount.what, MountedSpec::File { .. }))
    {
        true => Some(memory_for_files()?),
        false => None,
    };
    for (index, mount) in mounts.into_iter().enumerate() {
        let target = mount.target.as_str();
        match &mount.what {
            MountedSpec::Tree(tree) => {
                let tree = Tree::from(setup.take(*tree)?);
                let is_directory = rustix::fs::fstat(&tree)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
                setup.attach(
                    &tree,
                    target,
                    if is_directory {
                        Kind::Directory
                    } else {
                        Kind::File
                    },
                )?;
            }
            MountedSpec::Tmpfs {
                size_bytes,
                mode,
                read_only,
            } => {
                let size = size_bytes.map(|bytes| bytes.to_string());
                let mode = format!("{mode:o}");
                let options = [("mode", Some(mode)), ("size", size)];
                let options = options
                    .iter()
                    .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
                let options: Vec<_> = options.collect();
                let attributes = match read_only {
                    true => NO_SET_ID_DEVICES.and(Attributes::READ_ONLY),
                    false => NO_SET_ID_DEVICES,
                };
                let tmpfs =
                    Tree::of_filesystem("tmpfs", &options, attributes).map_err(at(target))?;
                setup.attach(&tmpfs, target, Kind::Directory)?;
            }
            MountedSpec::File {
                content,
                mode,
                uid,
                gid,
            } => {
                let content = setup.take(*content)?;
                let Some(memory) = &memory else { continue };
                let name = index.to_string();
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(memory, &*name, flags, Mode::from_raw_mode(0o600))?;
                let mut written = std::fs::File::from(file.try_clone()?);
                io::copy(&mut std::fs::File::from(content), &mut written)?;
                let machine = rustix::system::uname();
                let called = machine.nodename().to_string_lossy();
                if target == HOSTS && *called != *setup.spec.hostname.name() {
                    // It could not be given its own name.
                    writeln!(written, "127.0.0.1\t{called}")?;
                }
                match sys::file::set_owner(&file, *uid, *gid) {
                    // In memory no owner can be recorded before Linux 6.6. Everybody can read it there anyway.
                    Err(_) if owner::are_recorded() => {}
                    set => set.map_err(at(target))?,
                }
                // After the owner, because that clears set-id bits.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode)).map_err(at(target))?;
                drop(file);
                let file = rustix::fs::openat(
                    memory,
                    &*name,
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                setup.attach(&Tree::shallow_copy_of(file.as_fd())?, target, Kind::File)?;
            }
        }
    }
    Ok(())
}

/// A file system in memory for single files that are mounted elsewhere. It is attached below the root, where it goes away
/// with the old one; the files stay where they are mounted.
fn memory_for_files() -> Result<OwnedFd, Fault> {
    let memory = Tree::of_filesystem("tmpfs", &[("mode", "0700")], NO_SET_ID_DEVICES)?;
    memory.attach(stub::open_host("/proc")?.as_fd())?;
    Ok(memory.into())
}

fn cover_paths(setup: &mut Setup<'_>) -> Result<(), Fault> {
    if setup.spec.security == Security::Insecure {
        return Ok(());
    }
    let nothing = Tree::of_filesystem(
        "tmpfs",
        &[("mode", "0755"), ("size", "4k")],
        DATA_ONLY.and(Attributes::READ_ONLY),
    )?;
    // A copy can only be made of what is attached.
    nothing.attach(stub::open_host("/proc")?.as_fd())?;
    for path in MASKED {
        let Some(target) = existing(setup, path)? else {
            continue;
        };
        let is_directory = FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode).is_dir();
        let cover = match (&setup.null, is_directory) {
            (Some(null), false) => Tree::shallow_copy_of(null.as_fd()),
            _ => Tree::shallow_copy_of(nothing.as_fd()),
        };
        cover
            .and_then(|cover| cover.attach(target.as_fd()))
            .map_err(at(path))?;
    }
    for path in READ_ONLY {
        let Some(target) = existing(setup, path)? else {
            continue;
        };
        let copy = Tree::copy_of(target.as_fd()).map_err(at(path))?;
        copy.restrict(Attributes::READ_ONLY).map_err(at(path))?;
        copy.attach(target.as_fd()).map_err(at(path))?;
    }
    Ok(())
}

fn existing(setup: &Setup<'_>, path: &str) -> Result<Option<OwnedFd>, Fault> {
    match open_in(setup.root()?, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(at(path)(errno)),
    }
}

fn enter_root(setup: &mut Setup<'_>) -> Result<(), Fault> {
    Ok(mount::pivot_into(setup.root()?)?)
}

fn go_to_workdir(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let path = setup.spec.workdir.as_str();
    let (uid, gid) = (setup.spec.identity.uid, setup.spec.identity.gid);
    let mut to_user = |made: BorrowedFd<'_>| sys::file::set_owner(made, uid, gid);
    let directory = match make_directory(setup.root()?, path, &mut to_user) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(Fault {
                what: format!("{path} leads outside of the image's root"),
                errno: None,
            });
        }
        opened => opened.map_err(at(path))?,
    };
    rustix::process::fchdir(&directory).map_err(at(path))?;
    // The kernel says so where the directory is not below the root.
    match rustix::process::getcwd(Vec::new()) {
        Ok(inside) if inside.as_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Fault {
            what: format!("{path} leads outside of the image's root"),
            errno: None,
        }),
    }
}

fn set_up_streams(setup: &mut Setup<'_>) -> Result<(), Fault> {
    rustix::process::setsid()?;
    match setup.spec.streams {
        StreamsSpec::Given => {}
        StreamsSpec::Pipes => {
            let owner = Some(Uid::from_raw(setup.spec.identity.uid));
            for stream in [rustix::stdio::stdout(), rustix::stdio::stderr()] {
                // So that /dev/stdout can be opened by a step that is not root.
                rustix::fs::fchown(stream, owner, None).ok();
            }
        }
        StreamsSpec::Terminal { rows, columns } => {
            let dev = setup.dev.as_ref().map(AsFd::as_fd);
            let dev = dev.ok_or_else(|| Fault {
                what: "there is no /dev yet".to_owned(),
                errno: None,
            })?;
            let (ours, theirs) = devices::open_terminal(dev, rows, columns)?;
            rustix::process::ioctl_tiocsctty(&theirs)?;
            rustix::fs::fchown(&theirs, Some(Uid::from_raw(setup.spec.identity.uid)), None).ok();
            rustix::stdio::dup2_stdin(&theirs)?;
            rustix::stdio::dup2_stdout(&theirs)?;
            rustix::stdio::dup2_stderr(&theirs)?;
            send(setup.socket, &Reply::Terminal, &[ours.as_fd()])?;
        }
    }
    Ok(())
}

fn report_stubs(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let Stubs { stubs, directories } = std::mem::take(&mut setup.stubs);
    if stubs.is_empty() {
        return Ok(());
    }
    let files: Vec<_> = directories
        .iter()
        .map(|(directory, _)| directory.as_fd())
        .collect();
    let touched = directories.iter().map(|(_, touched)| *touched).collect();
    send(
        setup.socket,
        &Reply::Stubs {
            stubs,
            directories: touched,
        },
        &files,
    )
}

fn send(socket: &Socket, reply: &Reply, files: &[BorrowedFd<'_>]) -> Result<(), Fault> {
    let payload = serde_json::to_vec(reply).map_err(io::Error::from)?;
    Ok(socket.send(&payload, files)?)
}

fn limit_processes(setup: &mut Setup<'_>) -> Result<(), Fault> {
    // The engine may open more files than the user's commands may.
    let limit = Rlimit {
        current: setup.spec.files_max,
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, limit)?;
    for ulimit in &setup.spec.ulimits {
        // Linux has had no use for it since 2.4; where owners are records, it tells who a process is.
        if owner::are_recorded() && ulimit.name == "locks" {
            continue;
        }
        rlimit::set(ulimit).map_err(at(&ulimit.name))?;
    }
    Ok(())
}

fn limit_capabilities(setup: &mut Setup<'_>) -> Result<(), Fault> {
    const LAST_POSSIBLE: u32 = 63;
    if setup.spec.security == Security::Insecure {
        return Ok(());
    }
    for bit in 0..=LAST_POSSIBLE {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if !CAPABILITIES.contains(capability) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // The kernel knows no capability of this number, nor of a higher one.
                Err(Errno::INVAL) => break,
                removed => removed?,
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    Ok(())
}

/// Before the capability that it needs is given up; what is done afterwards is within the profile.
fn filter_system_calls(setup: &mut Setup<'_>) -> Result<(), Fault> {
    if setup.spec.security == Security::Insecure {
        return Ok(());
    }
    if !owner::are_recorded() {
        return Ok(sys::seccomp::install(&seccomp::docker_default())?);
    }
    let listener = sys::seccomp::install_with_listener(&seccomp::asking())?;
    send(setup.socket, &Reply::Listener, &[listener.as_fd()])
}

fn become_user(setup: &mut Setup<'_>) -> Result<(), Fault> {
    let identity = &setup.spec.identity;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::process::umask(Mode::from_raw_mode(0o022));
    process::close_on_exec_from(3)?;
    if owner::are_recorded() {
        // The engine knows who it is. What it may do beside that, an execution must not give back.
        if !uid.is_root() {
            let for_good = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
            rustix::thread::set_capabilities_secure_bits(for_good)?;
        }
    } else {
        let groups: Vec<_> = std::iter::once(gid)
            .chain(identity.groups.iter().copied().map(Gid::from_raw))
            .collect();
        rustix::thread::set_thread_groups(&groups).map_err(at("set the groups"))?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("set the group"))?;
    }
    let all = rustix::thread::capabilities(None)?.permitted;
    if setup.spec.security == Security::Insecure {
        rustix::thread::set_keep_capabilities(true)?;
    }
    if !owner::are_recorded() {
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("set the user"))?;
    }
    let (effective, inheritable) = match setup.spec.security {
        Security::Insecure => (all, all),
        Security::Sandbox if uid.is_root() => (CAPABILITIES, CapabilitySet::empty()),
        Security::Sandbox => (CapabilitySet::empty(), CapabilitySet::empty()),
    };
    let sets = CapabilitySets {
        effective,
        permitted: effective,
        inheritable,
    };
    rustix::thread::set_capabilities(None, sets).map_err(at("set the capabilities"))?;
    for capability in inheritable.iter() {
        // So that users other than root have them too.
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .map_err(at("keep the capabilities"))?;
    }
    Ok(())
}

/// Asks the engine for what executes programs of another architecture.
fn ask_for_emulator(architecture: &str, socket: &Socket) -> Emulated {
    let asked = || -> io::Result<Emulated> {
        let architecture = architecture.to_owned();
        let question = serde_json::to_vec(&Reply::Emulate { architecture })?;
        socket.send(&question, &[])?;
        let answer = socket.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_slice(&answer.payload)?)
    };
    asked().unwrap_or_else(|error| Err(format!("the engine does not answer ({error})")))
}

/// Finds the program as a shell would, and becomes it. What comes back is why not, with the status that a shell has for it.
fn execute(spec: &ExecSpec, socket: &Socket) -> Reply {
    let refuse = |status, why| Reply::NotExecuted { status, why };
    let text = |text: &str| CString::new(text).ok();
    let Some(program) = spec.argv.first().filter(|program| !program.is_empty()) else {
        return refuse(127, "no command is given".to_owned());
    };
    let argv: Option<Vec<_>> = spec.argv.iter().map(|argument| text(argument)).collect();
    let env: Option<Vec<_>> = spec
        .env
        .iter()
        .map(|(name, value)| text(&format!("{name}={value}")))
        .collect();
    let (Some(argv), Some(env)) = (argv, env) else {
        return refuse(
            126,
            format!("{program}: an argument or variable contains a zero byte"),
        );
    };
    let path = spec
        .env
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or("", |(_, path)| path.as_str());
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.clone()]
    } else {
        let directories = path.split(':').filter(|directory| !directory.is_empty());
        directories
            .map(|directory| format!("{directory}/{program}"))
            .collect()
    };
    let mut found = None;
    for candidate in candidates {
        let Some(candidate) = text(&candidate) else {
            continue;
        };
        let mut error = process::execute(&candidate, &argv, &env);
        let mut unable = None;
        if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) {
            let shown = OsStr::from_bytes(candidate.as_bytes());
            let other =
                machine::of_program(Path::new(shown)).filter(|other| *other != machine::OWN);
            if let Some(other) = other {
                match ask_for_emulator(other, socket) {
                    Ok(()) => error = process::execute(&candidate, &argv, &env),
                    Err(why) => {
                        unable = Some(format!(
                            "{} is a program for {other}, this machine runs {}, no handler of binfmt_misc takes it, and {why}",
                            shown.display(),
                            machine::OWN
                        ));
                    }
                }
            }
        }
        if let Some(why) = unable {
            return Reply::Foreign { why };
        }
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR) => {
                // A program that is there, while its interpreter is not.
                if rustix::fs::stat(&candidate).is_ok() {
                    let shown = OsStr::from_bytes(candidate.as_bytes()).display();
                    return refuse(
                        127,
                        format!("{shown}: the interpreter or loader that it names does not exist"),
                    );
                }
            }
            Some(Errno::ACCESS) => {
                found = Some(format!("{program}: permission denied, or not executable"))
            }
            _ => return refuse(126, format!("{program}: {error}")),
        }
    }
    match found {
        Some(why) => refuse(126, why),
        None if program.contains('/') => refuse(127, format!("{program}: no such file")),
        None => refuse(127, format!("{program}: not found in PATH ({path})")),
    }
}
