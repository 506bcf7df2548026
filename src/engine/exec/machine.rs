//! Which processors a program is for: what its ELF header says.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::image::Platform;

/// What this machine runs.
pub(super) const OWN: &str = Platform::OWN_ARCHITECTURE;

/// How much of a program tells what it is for.
pub(super) const HEAD_BYTES: usize = 20;

/// A kind of processor.
#[derive(Debug)]
pub(super) struct Architecture {
    /// As images name it.
    pub(super) name: &'static str,
    /// As qemu names it.
    pub(super) qemu: &'static str,
    /// e_machine.
    pub(super) machine: u16,
    /// EI_CLASS: 1 for 32 bits, 2 for 64.
    pub(super) class: u8,
    /// EI_DATA: 1 for little endian, 2 for big.
    pub(super) data: u8,
}

/// All that have a name; the numbers are those of the ELF specification.
pub(super) const ARCHITECTURES: [Architecture; 10] = [
    architecture("386", "i386", 3, 1, 1),
    architecture("mipsle", "mipsel", 8, 1, 1),
    architecture("mips64le", "mips64el", 8, 2, 1),
    architecture("ppc64le", "ppc64le", 21, 2, 1),
    architecture("s390x", "s390x", 22, 2, 2),
    architecture("arm", "arm", 40, 1, 1),
    architecture("amd64", "x86_64", 62, 2, 1),
    architecture("arm64", "aarch64", 183, 2, 1),
    architecture("riscv64", "riscv64", 243, 2, 1),
    architecture("loong64", "loongarch64", 258, 2, 1),
];

const fn architecture(
    name: &'static str,
    qemu: &'static str,
    machine: u16,
    class: u8,
    data: u8,
) -> Architecture {
    Architecture {
        name,
        qemu,
        machine,
        class,
        data,
    }
}

/// The architecture of a program, or of what runs it where it is a script, as images name it; `None`: it is neither, or one
/// of an architecture without a name.
pub(super) fn of_program(path: &Path) -> Option<&'static str> {
    let head = head(path).ok()?;
    match interpreter(&head) {
        Some(interpreter) => of_header(&self::head(&interpreter).ok()?),
        None => of_header(&head),
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    /// As much as the kernel reads of a script.
    const SCRIPT_BYTES: u64 = 256;
    let mut head = Vec::new();
    File::open(path)?
        .take(SCRIPT_BYTES)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// What a script is run by.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_ascii_whitespace().next().map(PathBuf::from)
}

fn of_header(head: &[u8]) -> Option<&'static str> {
    let head: &[u8; HEAD_BYTES] = head.first_chunk()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let found = ARCHITECTURES.iter().find(|known| {
        (known.class, known.data) == (head[4], head[5])
            && known.machine_bytes() == [head[18], head[19]]
    });
    found.map(|known| known.name)
}

impl Architecture {
    /// e_machine, as it stands in a header.
    pub(super) fn machine_bytes(&self) -> [u8; 2] {
        match self.data {
            1 => self.machine.to_le_bytes(),
            _ => self.machine.to_be_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn a_program_says_what_it_is_for() {
        assert_eq!(of_program(Path::new("/proc/self/exe")), Some(OWN));
        let mut head = [0; HEAD_BYTES];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 183;
        assert_eq!(of_header(&head), Some("arm64"));
        head[18..].copy_from_slice(&[0, 22]);
        head[5] = 2;
        assert_eq!(of_header(&head), Some("s390x"));
        head[0] = 0;
        assert_eq!(of_header(&head), None);
    }

    #[test]
    fn a_script_is_for_what_runs_it() {
        let dir = TempDir::new();
        let script = dir.path().join("script");
        std::fs::write(&script, "#! /proc/self/exe -x\necho\n").unwrap();
        assert_eq!(of_program(&script), Some(OWN));
        std::fs::write(&script, "#!/not/there\n").unwrap();
        assert_eq!(of_program(&script), None);
        std::fs::write(&script, "").unwrap();
        assert_eq!(of_program(&script), None);
    }
}
