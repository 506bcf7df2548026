//! Programs of other architectures. An emulator of this machine (qemu-user) is registered with the kernel as the handler of
//! such programs, in the build's own user namespace: that needs no root, and nothing outside of the build sees it. The
//! kernel has it from 6.7 on (Documentation/admin-guide/binfmt-misc.rst).
//!
//! Handlers that the machine has for everybody come first: this is only asked where none took the program.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::machine::{ARCHITECTURES, Architecture, HEAD_BYTES, OWN};
use crate::sys::mount::{Attributes, Tree};

/// The emulators of this machine, registered when the first is needed.
#[derive(Debug)]
pub(super) struct Emulators {
    /// Where they are looked for.
    directories: Vec<PathBuf>,
    registered: OnceLock<Result<Registered, String>>,
}

/// Handlers are there as long as their file system is.
#[derive(Debug)]
struct Registered {
    _handlers: Tree,
    architectures: Vec<&'static str>,
}

impl Emulators {
    /// Those in some directories.
    pub(super) fn of(directories: &[PathBuf]) -> Self {
        Self {
            directories: directories.to_vec(),
            registered: OnceLock::new(),
        }
    }

    /// Sees to it that programs of an architecture can be executed.
    ///
    /// # Errors
    /// Why they cannot, in words.
    pub(super) fn provide(&self, architecture: &str) -> Result<(), String> {
        let registered = self.registered.get_or_init(|| register(&self.directories));
        let registered = registered.as_ref().map_err(Clone::clone)?;
        if registered.architectures.contains(&architecture) {
            return Ok(());
        }
        Err(missing(architecture, &self.directories))
    }
}

/// The architectures whose programs an emulator in one of the directories could run.
pub(crate) fn emulated(directories: &[PathBuf]) -> Vec<&'static str> {
    let found = found(directories);
    found.map(|(architecture, _)| architecture.name).collect()
}

/// Whether this user namespace may have handlers of its own.
///
/// # Errors
/// What the kernel says.
pub(super) fn try_handlers() -> io::Result<()> {
    handlers().map(drop)
}

fn missing(architecture: &str, directories: &[PathBuf]) -> String {
    let known = ARCHITECTURES
        .iter()
        .find(|known| known.name == architecture);
    let Some(known) = known else {
        return format!("no emulator is known for {architecture}");
    };
    let name = program_name(known);
    let dynamic = directories
        .iter()
        .map(|directory| directory.join(format!("qemu-{}", known.qemu)))
        .find(|program| program.exists());
    match dynamic {
        Some(program) => format!(
            "there is no {name}, and {} needs libraries that the image does not have",
            program.display()
        ),
        None => format!("there is no {name} in PATH"),
    }
}

fn program_name(architecture: &Architecture) -> String {
    format!("qemu-{}-static", architecture.qemu)
}

/// The emulators that are there: those that need no library, since libraries are looked for in the image.
fn found(directories: &[PathBuf]) -> impl Iterator<Item = (&'static Architecture, PathBuf)> {
    let foreign = ARCHITECTURES.iter().filter(|known| known.name != OWN);
    foreign.filter_map(move |known| {
        let names = [program_name(known), format!("qemu-{}", known.qemu)];
        let paths = names.iter().flat_map(|name| {
            directories
                .iter()
                .map(move |directory| directory.join(name))
        });
        let mut paths = paths.filter(|path| is_static(path).unwrap_or(false));
        paths.next().map(|path| (known, path))
    })
}

/// Whether a program needs no loader: it has no PT_INTERP.
fn is_static(path: &Path) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut head = Vec::new();
    let file = std::fs::File::open(path)?;
    io::Read::read_to_end(&mut io::Read::take(file, 4096), &mut head)?;
    let field = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at + size)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    // An emulator is a program of this machine; those of 64 bits and little endian are all that shmocker runs on.
    let headers = || -> Option<bool> {
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let (start, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
        for number in 0..count {
            let at = usize::try_from(start + number * size).ok()?;
            if field(at, 4)? == u64::from(PT_INTERP) {
                return Some(false);
            }
        }
        Some(true)
    };
    Ok(headers().unwrap_or(false))
}

/// Every emulator that is there, since handlers of this user namespace take the place of those around it.
fn register(directories: &[PathBuf]) -> Result<Registered, String> {
    let tree = handlers().map_err(|error| {
        format!("this user namespace can have no handlers of its own, which Linux lets it from 6.7 on ({error})")
    })?;
    let file = rustix::fs::openat(
        &tree,
        "register",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let mut file = file
        .map(std::fs::File::from)
        .map_err(|error| format!("handlers cannot be registered: {error}"))?;
    let mut architectures = Vec::new();
    for (architecture, program) in found(directories) {
        file.write_all(handler(architecture, &program).as_bytes())
            .map_err(|error| format!("{} cannot be registered: {error}", program.display()))?;
        architectures.push(architecture.name);
    }
    Ok(Registered {
        _handlers: tree,
        architectures,
    })
}

fn handlers() -> io::Result<Tree> {
    let tree = Tree::of_filesystem("binfmt_misc", &[], Attributes::NONE)?;
    // It is reached through this alone; attached nowhere, no step sees it.
    rustix::fs::fstat(tree.as_fd())?;
    Ok(tree)
}

/// `:name:M::magic:mask:interpreter:flags`. With F the emulator is opened now, since no image has it; C, which needs O, gives
/// set-id programs their owner's rights; P leaves the program its own name.
fn handler(architecture: &Architecture, program: &Path) -> String {
    let [low, high] = architecture.machine_bytes();
    let mut magic = [0; HEAD_BYTES];
    magic[..7].copy_from_slice(&[
        0x7f,
        b'E',
        b'L',
        b'F',
        architecture.class,
        architecture.data,
        1,
    ]);
    magic[18..].copy_from_slice(&[low, high]);
    let mut mask = [0xff; HEAD_BYTES];
    // EI_OSABI may be anything; e_type is 2 (a program) or 3 (one that can lie anywhere).
    mask[7] = 0;
    let e_type = if architecture.data == 1 { 16 } else { 17 };
    magic[e_type] = 2;
    mask[e_type] = 0xfe;
    let escaped = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "\\x{byte:02x}");
            text
        })
    };
    format!(
        ":{}:M::{}:{}:{}:POCF",
        architecture.name,
        escaped(&magic),
        escaped(&mask),
        program.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_takes_programs_of_its_architecture() {
        let arm64 = ARCHITECTURES
            .iter()
            .find(|known| known.name == "arm64")
            .unwrap();
        assert_eq!(
            handler(arm64, Path::new("/usr/bin/qemu-aarch64-static")),
            r":arm64:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:POCF"
        );
        let s390x = ARCHITECTURES
            .iter()
            .find(|known| known.name == "s390x")
            .unwrap();
        let handler = handler(s390x, Path::new("/q"));
        assert!(handler.contains(r"\x00\x02\x00\x16:"), "{handler}");
        assert!(handler.contains(r"\xff\xfe\xff\xff:/q"), "{handler}");
    }

    #[test]
    fn a_program_with_a_loader_is_no_emulator() {
        assert_eq!(is_static(Path::new("/bin/sh")).ok(), Some(false));
        assert!(is_static(Path::new("/not/there")).is_err());
        assert_eq!(is_static(Path::new("/etc/passwd")).ok(), Some(false));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing("sparc", &[]).contains("no emulator is known"));
        assert_eq!(
            missing("arm64", &[]),
            "there is no qemu-aarch64-static in PATH"
        );
        assert_eq!(emulated(&[]), [""; 0]);
    }
}
