//! A port of this machine that is served as long as somebody wants it.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// It is closed when it is dropped: some tests begin hundreds of servers, and a process may have 1,024 files open.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    is_closed: Arc<AtomicBool>,
}

impl Port {
    /// One on the loopback interface; each connection is served in a thread of its own.
    pub(crate) fn open(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = Self {
            number: listener.local_addr().expect("it is bound").port(),
            is_closed: Arc::default(),
        };
        let is_closed = Arc::clone(&port.is_closed);
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_closed.load(Ordering::Acquire) {
                    break;
                }
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        port
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Release);
        // Whoever waits for a connection gets one more.
        drop(TcpStream::connect(("127.0.0.1", self.number)));
    }
}
