//! Steps where owners are records ([`crate::sys::owner`]): all of their processes are really the caller, who is root of the
//! one id that there is, and the kernel would refuse to make them anybody else, or to give a file away. A filter leaves
//! those calls to a thread of the engine, the deputy, which answers them as the kernel would with all ids there:
//!
//! ```text
//! set*id, get*id, *groups    who the process is: a mark that the kernel hands on to what it starts
//! chown …                    the file is copied up, and the owner recorded
//! open to create, mkdir …    made by the deputy where it belongs to somebody else than root
//! stat …                     answered by the deputy where there is a record
//! exec                       whose rights a set-id program has
//! access, rename, chmod …    refused for who is not root and may not
//! ```
//! What needs no answer the kernel does by itself, as without a filter.
//!
//! The caller's memory is copied once. Its paths are resolved by a thread whose root is the container's, through
//! the caller's own directories, and never through links of /proc; what they lead to is held open while it is worked on.
//! The deputy makes new files only, and opens none that are there. So whatever a step makes of the memory, it reaches
//! nothing that it could not reach itself.
//!
//! Leaves out, and lets the kernel say what it says: calls of the 32-bit interface, and who may read
//! what is there (everybody: it is all the caller's).

mod access;
mod credentials;
mod files;
mod making;
mod numbers;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::proc::Proc;
use super::seccomp::native_calls;
use super::stub::open_host;
use super::users::Identity;
use crate::sys::mount::Tree;
use crate::sys::seccomp::{Answer, Listener, Notification};
use crate::sys::task::{Task, split_off_paths};
use credentials::Credentials;
use files::{Files, Request};
use numbers::Numbers;

/// The most identities that one step can have.
const IDENTITIES_MAX: usize = 1 << 16;
/// The most groups that a process can have (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

/// The most groups that the identities of one step can have together.
const GROUPS_TOGETHER_MAX: usize = 1 << 20;

/// Answers the calls of a step until none of its processes is left, or this is dropped: then they fail. Something is to be
/// read from it when it has ended.
#[derive(Debug)]
pub(super) struct Deputy {
    stop: Option<OwnedFd>,
    ended: OwnedFd,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl AsFd for Deputy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl Deputy {
    /// Starts to answer the calls that come to a listener, from processes that begin as somebody. What is mounted may be
    /// somebody's.
    ///
    /// # Errors
    /// If there can be no thread, or no /proc.
    pub(super) fn start(
        listener: OwnedFd,
        identity: &Identity,
        mounted_are_of: Option<(u32, u32)>,
    ) -> io::Result<Self> {
        // In the machine's pid namespace there is one already. So there is in a container that has its /proc partly covered.
        let proc = match Proc::try_new() {
            Ok(proc) => proc,
            Err(_) => open_host("/proc")?.into(),
        };
        let numbers = Numbers::of(proc.as_fd())?;
        let first = Credentials::of(identity);
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (ended, ending) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let thread = std::thread::Builder::new()
            .name("deputy".to_owned())
            .spawn(move || {
                // Closed when all else is done, whatever ends it.
                let _ending = ending;
                let work = Work {
                    listener: Listener::from(listener),
                    calls: Calls::native(),
                    identities: vec![first],
                    files: None,
                    mounted_are_of,
                    stopped,
                    proc,
                    numbers,
                };
                // Without it, what the step calls is answered with ENOSYS.
                split_off_paths().and_then(|()| work.run())
            })?;
        Ok(Self {
            stop: Some(stop),
            ended,
            thread: Some(thread),
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Why it had ended before it should have: calls were not answered.
    pub(super) fn end(mut self) -> io::Result<()> {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("a defect: it has panicked")),
        }
    }
}

impl Drop for Deputy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Work {
    listener: Listener,
    /// The names of calls, by their numbers.
    calls: Calls,
    /// Who processes are, by their marks; those without one are the first.
    identities: Vec<Credentials>,
    files: Option<Files>,
    mounted_are_of: Option<(u32, u32)>,
    /// Its other end is closed when it is enough.
    stopped: OwnedFd,
    /// A /proc that has the callers.
    proc: Tree,
    /// What they are called there.
    numbers: Numbers,
}

struct Calls {
    audit: u32,
    names: Vec<Option<&'static str>>,
}

impl Calls {
    fn native() -> Self {
        let (audit, calls) = native_calls();
        let mut names = Vec::new();
        for (number, name) in calls {
            let index = number as usize;
            names.resize(names.len().max(index + 1), None);
            names[index] = Some(name);
        }
        Self { audit, names }
    }

    fn name(&self, call: &Notification) -> Option<&'static str> {
        let known = self.names.get(call.number as usize).copied().flatten();
        known.filter(|_| call.audit == self.audit)
    }
}

type Answered = Result<Answer, Errno>;

fn errno(error: io::Error) -> Errno {
    let number = error.raw_os_error();
    number.map_or(Errno::IO, Errno::from_raw_os_error)
}

/// An argument that is a number of 32 bits.
fn number(argument: u64) -> u32 {
    argument as u32
}

impl Work {
    fn run(mut self) -> io::Result<()> {
        while let Some(call) = self.listener.next(self.stopped.as_fd())? {
            if self.files.is_none() {
                // Whoever calls first is in the container already, and alone.
                let files = self.task(&call).and_then(|task| {
                    let caller = (task, &call);
                    Files::of(&self.proc, &self.listener, caller, self.mounted_are_of)
                });
                match files {
                    Ok(files) => self.files = Some(files),
                    Err(_) if !self.listener.is_waiting(&call) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            let answer = match self.answer(&call) {
                Ok(answer) => answer,
                Err(errno) => Answer::Error(errno),
            };
            self.listener.answer(&call, answer)?;
        }
        Ok(())
    }

    fn task(&mut self, call: &Notification) -> Result<Task, Errno> {
        match call.pid {
            // Of no namespace below this one. Zero would be this process.
            ..=0 => Err(Errno::SRCH),
            number => self.numbers.task(self.proc.as_fd(), number),
        }
    }

    fn answer(&mut self, call: &Notification) -> Answered {
        let task = self.task(call)?;
        let Some(name) = self.calls.name(call) else {
            return Err(Errno::NOSYS);
        };
        let index = match name {
            // The same for everybody, and made often.
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => 0,
            // As long as nobody has become anybody else.
            _ if self.identities.len() == 1 => 0,
            _ => self.index(task)?,
        };
        let Some(credentials) = self.identities.get(index) else {
            return Err(Errno::AGAIN);
        };
        let Credentials { users, groups, .. } = credentials;
        let value = |id: u32| Ok(Answer::Value(id.into()));
        let request = Request {
            call,
            task,
            credentials,
            listener: &self.listener,
        };
        let [one, two, three, ..] = call.arguments.map(number);
        let powerful = credentials.is_powerful();
        let users_become = |users| credentials.with_users(users);
        let groups_become = |groups| Credentials {
            groups,
            ..credentials.clone()
        };
        let new = match name {
            "getuid" => return value(users.real),
            "geteuid" => return value(users.effective),
            "getgid" => return value(groups.real),
            "getegid" => return value(groups.effective),
            "getresuid" => return put_three(&request, *users),
            "getresgid" => return put_three(&request, *groups),
            "getgroups" => return put_groups(&request),
            "setuid" => users_become(users.set(one, powerful)?),
            "setgid" => groups_become(groups.set(one, powerful)?),
            "setreuid" => users_become(users.set_two(one, two, powerful)?),
            "setregid" => groups_become(groups.set_two(one, two, powerful)?),
            "setresuid" => users_become(users.set_three([one, two, three], powerful)?),
            "setresgid" => groups_become(groups.set_three([one, two, three], powerful)?),
            "setfsuid" => credentials.with_user_for_files(users.set_file(one, powerful)),
            "setfsgid" => groups_become(groups.set_file(one, powerful)),
            "setgroups" if !powerful => return Err(Errno::PERM),
            "setgroups" => Credentials {
                supplementary: take_groups(task, call)?,
                ..credentials.clone()
            },
            // The kernel has to say yes, too.
            "prctl" => Credentials {
                keeps: two != 0,
                ..credentials.clone()
            },
            _ => {
                let Some(files) = &mut self.files else {
                    return Err(Errno::NOSYS);
                };
                match name {
                    // Should it fail, the caller is none the more powerful, unless it is a set-id program.
                    "execve" | "execveat" => files.executing(name, &request)?,
                    _ => return files.answer(name, &request),
                }
            }
        };
        let before = match name {
            "setfsuid" => users.file,
            "setfsgid" => groups.file,
            _ => 0,
        };
        if new != *credentials {
            self.become_somebody(task, call, new)?;
        }
        match name {
            "execve" | "execveat" | "prctl" => Ok(Answer::Go),
            _ => value(before),
        }
    }

    /// Which identity a process has.
    fn index(&self, task: Task) -> Result<usize, Errno> {
        let mark = task.mark().map_err(errno)?;
        let index = mark.and_then(|mark| usize::try_from(mark).ok());
        // A mark that is none of ours is the process's own doing.
        Ok(index
            .filter(|index| *index < self.identities.len())
            .unwrap_or(0))
    }

    fn become_somebody(
        &mut self,
        task: Task,
        call: &Notification,
        new: Credentials,
    ) -> Result<(), Errno> {
        let known = self.identities.iter().position(|known| *known == new);
        let index = match known {
            Some(index) => index,
            None => {
                let groups = |identity: &Credentials| identity.supplementary.len();
                let together: usize = self.identities.iter().map(groups).sum();
                if self.identities.len() >= IDENTITIES_MAX
                    || together + groups(&new) > GROUPS_TOGETHER_MAX
                {
                    return Err(Errno::AGAIN);
                }
                self.identities.push(new);
                self.identities.len() - 1
            }
        };
        if !self.listener.is_waiting(call) {
            return Err(Errno::SRCH);
        }
        task.set_mark(u32::try_from(index).map_err(|_| Errno::AGAIN)?)
            .map_err(errno)
    }
}

fn put_three(request: &Request<'_>, ids: credentials::Ids) -> Answered {
    let ids = [ids.real, ids.effective, ids.saved];
    for (to, id) in request.call.arguments.into_iter().zip(ids) {
        request.put(to, &id.to_ne_bytes())?;
    }
    Ok(Answer::Value(0))
}

fn put_groups(request: &Request<'_>) -> Answered {
    let groups = &request.credentials.supplementary;
    let [room, to, ..] = request.call.arguments;
    let room = number(room).cast_signed();
    if room != 0 {
        if usize::try_from(room).map_err(|_| Errno::INVAL)? < groups.len() {
            return Err(Errno::INVAL);
        }
        let bytes: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.to_ne_bytes())
            .collect();
        if !bytes.is_empty() {
            request.put(to, &bytes)?;
        }
    }
    Ok(Answer::Value(
        i64::try_from(groups.len()).unwrap_or(i64::MAX),
    ))
}

fn take_groups(task: Task, call: &Notification) -> Result<Vec<u32>, Errno> {
    let [count, from, ..] = call.arguments;
    let count = usize::try_from(number(count)).map_err(|_| Errno::INVAL)?;
    if count > GROUPS_MAX {
        return Err(Errno::INVAL);
    }
    let mut bytes = vec![0; count * 4];
    if count > 0 {
        task.read(from, &mut bytes).map_err(errno)?;
    }
    let groups = bytes.chunks_exact(4).map(|bytes| {
        let bytes = bytes.try_into().unwrap_or_default();
        u32::from_ne_bytes(bytes)
    });
    let mut groups: Vec<u32> = groups.collect();
    groups.sort_unstable();
    Ok(groups)
}
