//! What is asked of a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::OptionalActions;

/// How many columns it has; `None` if it is no terminal or does not say.
#[must_use]
pub(super) fn width(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Rows and columns; 24 and 80 where it does not say.
#[must_use]
pub(super) fn size(terminal: impl AsFd) -> (u16, u16) {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// A terminal in raw mode: what is typed goes on as it is. Set back when dropped.
#[derive(Debug)]
pub(super) struct Raw {
    terminal: OwnedFd,
    before: rustix::termios::Termios,
}

impl Raw {
    /// Makes a terminal raw.
    ///
    /// # Errors
    /// What the kernel says: it is no terminal.
    pub(super) fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = rustix::termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, OptionalActions::Drain, &raw)?;
        Ok(Self { terminal, before })
    }
}

/// A terminal that does not show what is typed. Set back when dropped.
#[derive(Debug)]
pub(super) struct Hidden {
    _raw: Raw,
}

impl Hidden {
    /// Hides what is typed.
    ///
    /// # Errors
    /// What the kernel says: it is no terminal.
    pub(super) fn enter(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = rustix::termios::tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(&terminal, OptionalActions::Drain, &hidden)?;
        Ok(Self {
            _raw: Raw { terminal, before },
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that went away needs nothing.
        let _ = rustix::termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before);
    }
}
