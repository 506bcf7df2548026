//! Programs of the tests' own that are not scripts: static ones, so that they run in every root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{self, Capability, Lack};

/// A program of a source below `tests/testsuite`, compiled.
pub(crate) fn compiled(source: &str) -> Result<PathBuf, Lack> {
    let cc = machine::program(Capability::Compiler, "cc")?;
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/testsuite")
        .join(source);
    let name = format!("native/{}", source.replace(['/', '.'], "-"));
    let to = machine::workshop().join(&name);
    std::fs::create_dir_all(machine::workshop().join("native")).expect("a directory can be made");
    // Tests that want the same one do not write into one another's.
    let new = to.with_extension(format!("{:?}", std::thread::current().id()));
    let made = Command::new(cc)
        .args(["-static", "-O1", "-w", "-pthread", "-o"])
        .args([&new, &from])
        .output()
        .expect("the compiler can be started");
    assert!(
        made.status.success(),
        "{source}: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    std::fs::rename(&new, &to).expect("it is there");
    Ok(to)
}
