//! What the plain user's own process does and takes its time over: on a thread beside the one that signals can call back.

use std::sync::Arc;

use super::protocol::{self, Report, Sink};
use super::{await_message, endings};
use crate::engine::failure::{Failure, FailureKind};
use crate::event::EventSink;
use crate::sys::socket::Socket;

/// Does it, and relays what it says. Whoever is asked to end does not wait for it: it ends with the process.
///
/// # Errors
/// What it returns; or that this process was asked to end.
pub(super) fn carry_out<T: Send + 'static>(
    events: &dyn EventSink,
    work: impl FnOnce(&dyn EventSink) -> Result<T, Vec<Failure>> + Send + 'static,
) -> Result<T, Vec<Failure>> {
    // Before the thread is there, which must not take a signal away.
    let endings = endings()?;
    let (socket, theirs) = Socket::pair().map_err(|error| {
        let message = "no socket can be made";
        vec![Failure::caused(
            FailureKind::Machine,
            "engine::socket",
            message,
            &error,
        )]
    })?;
    let worker = std::thread::spawn(move || work(&Sink(Arc::new(theirs))));
    loop {
        await_message(&socket, &endings).map_err(|failure| vec![failure])?;
        let Ok(Some(message)) = socket.receive() else {
            // It said all that it had to say.
            break;
        };
        if let Report::Event(event) = protocol::read(&message).map_err(|failure| vec![failure])? {
            events.emit(event);
        }
    }
    worker
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
