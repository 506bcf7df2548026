//! Which processors a program is for: what its ELF header says.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What this machine runs.
pub(super) const OWN: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    b"x86" => "386",
    b"powerpc64" => "ppc64le",
    _ => std::env::consts::ARCH,
};

/// The architecture of a program, as images name it; `None`: it is no ELF program, or one of an architecture without a name.
pub(super) fn of_program(path: &Path) -> Option<&'static str> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    of_header(&head)
}

fn of_header(head: &[u8; 20]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let is_little = head[5] == 1;
    let bytes = [head[18], head[19]];
    let machine = match is_little {
        true => u16::from_le_bytes(bytes),
        false => u16::from_be_bytes(bytes),
    };
    Some(match (machine, is_little) {
        (3, _) => "386",
        (8, true) => "mipsle",
        (21, true) => "ppc64le",
        (22, _) => "s390x",
        (40, true) => "arm",
        (62, _) => "amd64",
        (183, true) => "arm64",
        (243, _) => "riscv64",
        (258, _) => "loong64",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_is_for() {
        assert_eq!(of_program(Path::new("/proc/self/exe")), Some(OWN));
        let mut head = [0; 20];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 183;
        assert_eq!(of_header(&head), Some("arm64"));
        head[18..].copy_from_slice(&[0, 22]);
        head[5] = 2;
        assert_eq!(of_header(&head), Some("s390x"));
        head[0] = 0;
        assert_eq!(of_header(&head), None);
    }
}
