//! Where a body goes.

use std::fs::File;
use std::io::{self, Seek, Write};

use crate::digest::Hasher;

/// Takes a body, piece by piece; may be told to begin again.
pub trait Sink {
    /// Takes the next piece.
    ///
    /// # Errors
    /// What the write came to.
    fn take(&mut self, piece: &[u8]) -> io::Result<()>;

    /// Forgets everything that it took.
    ///
    /// # Errors
    /// What the truncation came to.
    fn restart(&mut self) -> io::Result<()>;

    /// The digest of all that it took, if it reckons that itself: then nobody else has to.
    fn hashed(&self) -> Option<&Hasher> {
        None
    }
}

impl Sink for Vec<u8> {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        self.extend_from_slice(piece);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Sink for File {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        self.write_all(piece)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.set_len(0)?;
        self.rewind()
    }
}
