//! The wish that something end early, which every wait can also wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// A wish that many can hold and that is never taken back. Readable once it is made.
#[derive(Debug, Clone)]
pub struct Cancel {
    wish: Arc<OwnedFd>,
    busy: Arc<AtomicUsize>,
}

/// Something that hears the wish and takes its time to end, until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Cancel {
    /// Not wished yet.
    ///
    /// # Errors
    /// What the kernel says: too many open files.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            wish: Arc::new(rustix::event::eventfd(0, flags)?),
            busy: Arc::default(),
        })
    }

    /// Says that something ends in its own time once the wish is made.
    #[must_use]
    pub fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(&self.busy))
    }

    /// Whether something still takes its time.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.busy.load(Ordering::SeqCst) > 0
    }

    /// Makes the wish.
    pub fn cancel(&self) {
        // It fails only where the wish was made 2^64 times.
        rustix::io::write(&*self.wish, &1_u64.to_ne_bytes()).ok();
    }

    /// Whether the wish was made.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let mut poll = [PollFd::new(&*self.wish, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut poll, Some(&at_once)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wish.as_fd()
    }
}
