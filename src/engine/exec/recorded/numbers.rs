//! What callers are called in a /proc of another pid namespace. Where a container around the build has its /proc partly covered,
//! there is no other than the container's, and the kernel tells of a call only the number that its caller has for the engine.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::errno;
use crate::engine::exec::proc::{number_in, read};
use crate::sys::task::{THREAD, Task};

/// Finds the numbers of callers.
#[derive(Debug)]
pub(super) enum Numbers {
    /// They are those that they call with.
    Same,
    /// They are others.
    Others(Others),
}

#[derive(Debug)]
pub(super) struct Others {
    /// How many pid namespaces further in the engine is.
    level: usize,
    last: Option<(Task, Option<OwnedFd>)>,
}

impl Numbers {
    /// Of a mounted /proc.
    pub(super) fn of(proc: BorrowedFd<'_>) -> io::Result<Self> {
        // This process has a number in each namespace from that of the /proc to its own.
        Ok(match numbers(&read(proc, "self/status")?).count() {
            0 | 1 => Self::Same,
            count => Self::Others(Others {
                level: count - 1,
                last: None,
            }),
        })
    }

    /// The thread that calls with a number.
    pub(super) fn task(&mut self, proc: BorrowedFd<'_>, number: i32) -> Result<Task, Errno> {
        match self {
            Self::Same => Ok(Task {
                number,
                shown: number,
            }),
            Self::Others(others) => others.task(proc, number),
        }
    }
}

impl Others {
    fn task(&mut self, proc: BorrowedFd<'_>, number: i32) -> Result<Task, Errno> {
        if let Some((task, process)) = &self.last
            && task.number == number
            && self.is_there(proc, *task, process.as_ref())
        {
            return Ok(*task);
        }
        let pid = Pid::from_raw(number).ok_or(Errno::SRCH)?;
        let open = |flags| rustix::process::pidfd_open(pid, flags);
        let process = match open(THREAD) {
            // Before Linux 6.9: of the first thread of a process only.
            Err(Errno::INVAL) => match open(PidfdFlags::empty()) {
                Err(Errno::INVAL | Errno::NOENT) => None,
                opened => Some(opened?),
            },
            opened => Some(opened?),
        };
        let shown = match &process {
            Some(process) => number_in(proc, process.as_fd()).map_err(errno)?,
            None => search(proc, self.level, number)?,
        };
        let task = Task { number, shown };
        self.last = Some((task, process));
        Ok(task)
    }

    /// Whether the number is still that thread's.
    fn is_there(&self, proc: BorrowedFd<'_>, task: Task, process: Option<&OwnedFd>) -> bool {
        match process {
            Some(process) => {
                let mut poll = [PollFd::new(process, PollFlags::IN)];
                rustix::event::poll(&mut poll, Some(&Timespec::default())) == Ok(0)
            }
            None => has_number(
                proc,
                &format!("{}/status", task.shown),
                self.level,
                task.number,
            ),
        }
    }
}

/// The numbers that a thread has, from outside to inside, by its status.
fn numbers(status: &str) -> impl Iterator<Item = i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers = line.unwrap_or_default().split_whitespace();
    numbers.filter_map(|number| number.parse().ok())
}

fn has_number(proc: BorrowedFd<'_>, status: &str, level: usize, number: i32) -> bool {
    // One that has ended meanwhile is not it.
    read(proc, status).is_ok_and(|status| numbers(&status).nth(level) == Some(number))
}

/// Looks at all threads that there are.
fn search(proc: BorrowedFd<'_>, level: usize, number: i32) -> Result<i32, Errno> {
    for process in listed(proc, ".")? {
        let Ok(threads) = listed(proc, &format!("{process}/task")) else {
            continue;
        };
        for thread in threads {
            let status = format!("{process}/task/{thread}/status");
            if has_number(proc, &status, level, number) {
                return Ok(thread);
            }
        }
    }
    Err(Errno::SRCH)
}

/// The names in a directory of /proc that are numbers.
fn listed(proc: BorrowedFd<'_>, path: &str) -> Result<Vec<i32>, Errno> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(proc, path, flags, Mode::empty())?;
    let entries = rustix::fs::Dir::new(directory)?.flatten();
    Ok(entries
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::stub::open_host;

    #[test]
    fn the_same_thread_is_found_in_each_way() {
        let proc = open_host("/proc").unwrap();
        assert!(matches!(Numbers::of(proc.as_fd()).unwrap(), Numbers::Same));
        let thread = || rustix::thread::gettid().as_raw_nonzero().get();
        let (send, ids) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            send.send(thread()).unwrap();
            stopped.recv().ok();
        });
        let number = ids.recv().unwrap();
        // In the namespace of this very /proc both numbers are one.
        let mut others = Others {
            level: 0,
            last: None,
        };
        for _ in 0..2 {
            assert_eq!(others.task(proc.as_fd(), number).unwrap().shown, number);
        }
        assert_eq!(search(proc.as_fd(), 0, number).unwrap(), number);
        let task = Task {
            number,
            shown: number,
        };
        assert!(others.is_there(proc.as_fd(), task, None));
        drop(stop);
        other.join().unwrap();
        while rustix::fs::statat(
            &proc,
            format!("self/task/{number}"),
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
        {
            std::thread::yield_now();
        }
        assert!(!others.is_there(proc.as_fd(), task, None));
        assert_eq!(search(proc.as_fd(), 0, number).unwrap_err(), Errno::SRCH);
        assert_eq!(
            others.task(proc.as_fd(), number).unwrap_err(),
            Errno::SRCH,
            "the last one found is asked whether it is still there"
        );
    }
}
