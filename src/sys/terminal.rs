//! What is asked of a terminal.

use std::os::fd::AsFd;

/// How many columns it has; `None` if it is no terminal or does not say.
#[must_use]
pub fn width(terminal: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Rows and columns; 24 and 80 where it does not say.
#[must_use]
pub fn size(terminal: impl AsFd) -> (u16, u16) {
    match rustix::termios::tcgetwinsize(terminal) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}
