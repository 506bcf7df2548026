//! Where a file goes: beside its destination first, then in its place.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Destination, ExportError};

/// Why something was not written: the place itself, or what was to be put there.
pub(super) enum Failure {
    Destination(io::Error),
    Other(ExportError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Destination(error)
    }
}

/// Has `write` write a destination.
pub(super) fn written(
    dest: &Destination,
    stdout: &mut (dyn Write + Send),
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Failure>,
) -> Result<(), ExportError> {
    match dest {
        Destination::Stdout => {
            let result = write(stdout).and_then(|()| Ok(stdout.flush()?));
            result.map_err(|failure| match failure {
                Failure::Destination(error) => ExportError::Stdout(error),
                Failure::Other(error) => error,
            })
        }
        Destination::Path(path) => {
            let mut file = Partial::create(path)?;
            let result = write(&mut file).and_then(|()| Ok(file.finish()?));
            result.map_err(|failure| match failure {
                Failure::Destination(source) => destination(path, "write", source),
                Failure::Other(error) => error,
            })
        }
    }
}

/// An error about a destination.
pub(super) fn destination(path: &Path, doing: &'static str, source: io::Error) -> ExportError {
    let help = match source.kind() {
        io::ErrorKind::NotFound => "make the directory first, or give another `dest=`",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, or give another `dest=`"
        }
        _ => "give a `dest=` that you may write to",
    };
    ExportError::Destination {
        path: path.to_owned(),
        doing,
        help,
        source,
    }
}

/// A file that gets its name when it is whole, and is gone if it never is. What is no regular file (`/dev/null`, a pipe) is
/// written in place.
pub(super) struct Partial {
    file: BufWriter<File>,
    names: Option<(PathBuf, PathBuf)>,
}

impl Partial {
    pub(super) fn create(path: &Path) -> Result<Self, ExportError> {
        let failed = |source| destination(path, "create", source);
        let (existing, name) = (std::fs::metadata(path), path.file_name());
        let file_and_names = match (existing, name) {
            (Ok(metadata), _) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            (Ok(metadata), _) if !metadata.is_file() => OpenOptions::new()
                .write(true)
                .open(path)
                .map(|file| (file, None)),
            (_, None) => Err(io::ErrorKind::InvalidFilename.into()),
            (_, Some(name)) => beside(path, name).and_then(|partial| {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(&partial)?;
                Ok((file, Some((partial, path.to_owned()))))
            }),
        };
        let (file, names) = file_and_names.map_err(failed)?;
        Ok(Self {
            file: BufWriter::with_capacity(64 << 10, file),
            names,
        })
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if let Some((partial, path)) = &self.names {
            std::fs::rename(partial, path)?;
        }
        self.names = None;
        Ok(())
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some((partial, _)) = &self.names {
            // What failed before is what is told.
            drop(std::fs::remove_file(partial));
        }
    }
}

/// A name in the same directory that nobody else uses. Random, as process ids are not unique between pid namespaces.
pub(super) fn beside(path: &Path, name: &std::ffi::OsStr) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(format!(".{:016x}.partial", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(partial))
}

/// An output that remembers why it failed, for when the error that comes back is wrapped beyond recognition.
pub(super) struct Watched<'a> {
    out: &'a mut (dyn Write + Send),
    failure: Option<io::Error>,
}

impl<'a> Watched<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send)) -> Self {
        Self { out, failure: None }
    }

    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes).map_err(|error| {
            let copy = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => error.kind().into(),
            };
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.failure = Some(error);
            copy
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
