//! dpkg's records of packages that were unpacked here rather than by dpkg.
//!
//! dpkg could unpack them itself, but only in a tree that has a dpkg: each package would be decompressed and written twice,
//! which takes as long as everything else together. So a package is put into the state in which `dpkg --unpack` leaves
//! one, and `dpkg --configure` goes on from there:
//!
//! ```text
//! info/NAME.list         its paths                    info/NAME.{postinst,md5sums,…}   its control files
//! status                 `install ok unpacked`, its configuration files as `newconffile`
//! triggers/File, NAME    what it wants to be told of
//! tmp.waiting/NAME/*     the control files of those whose `preinst` is still to run; gone afterwards
//! ```

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use super::unpack::{Tree, Unpacked, clean};
use super::{deb, stanza};

/// The most that a control file may have.
const CONTROL_BYTES_MAX: u64 = 64 << 20;

/// Where dpkg keeps its records.
const ADMIN: &str = "var/lib/dpkg";

/// What a package tells dpkg.
#[derive(Debug)]
pub(super) struct Control {
    /// The name of its records: with the architecture where several may be installed at once.
    name: String,
    fields: String,
    files: Vec<ControlFile>,
    conffiles: Vec<String>,
}

#[derive(Debug)]
struct ControlFile {
    name: String,
    mode: u32,
    mtime_s: u64,
    content: Vec<u8>,
}

impl Control {
    /// Reads it from a package.
    pub(super) fn read(deb_path: &Path, package: &str) -> Result<Self> {
        let broken = |why: String| Error::Package {
            package: package.to_owned(),
            why,
        };
        let unreadable = |error: std::io::Error| broken(format!("control.tar: {error}"));
        let mut files = Vec::new();
        let mut fields = None;
        for entry in deb::control(deb_path, package)?
            .entries()
            .map_err(unreadable)?
        {
            let mut entry = entry.map_err(unreadable)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = clean(&entry.path().map_err(unreadable)?).unwrap_or_default();
            let name = path.to_str().filter(|name| {
                name.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            });
            let name = name
                .ok_or_else(|| broken(format!("control.tar has a file `{}`", path.display())))?
                .to_owned();
            let mode = entry.header().mode().map_err(unreadable)? & 0o777;
            let mtime_s = entry.header().mtime().map_err(unreadable)?;
            let mut content = Vec::new();
            entry
                .by_ref()
                .take(CONTROL_BYTES_MAX)
                .read_to_end(&mut content)
                .map_err(unreadable)?;
            if name == "control" {
                fields = Some(
                    String::from_utf8(content)
                        .map_err(|_| broken("its control file is not text".to_owned()))?,
                );
            } else {
                files.push(ControlFile {
                    name,
                    mode,
                    mtime_s,
                    content,
                });
            }
        }
        let fields = fields.ok_or_else(|| broken("it has no control file".to_owned()))?;
        if stanza::field(&fields, "Package") != Some(package) {
            return Err(broken(
                "its control file is that of another package".to_owned(),
            ));
        }
        let name = match (
            stanza::field(&fields, "Multi-Arch"),
            stanza::field(&fields, "Architecture"),
        ) {
            (Some("same"), Some(arch)) => format!("{package}:{arch}"),
            _ => package.to_owned(),
        };
        let conffiles = files
            .iter()
            .find(|file| file.name == "conffiles")
            .map_or_else(Vec::new, |file| {
                // A line with a word before its path (`remove-on-upgrade`) is about a file that is not in the package.
                let lines = String::from_utf8_lossy(&file.content).into_owned();
                lines
                    .lines()
                    .map(str::trim)
                    .filter(|line| line.starts_with('/'))
                    .map(str::to_owned)
                    .collect()
            });
        Ok(Self {
            name,
            fields,
            files,
            conffiles,
        })
    }

    /// Its configuration files, as paths below the root.
    pub(super) fn conffiles(&self) -> HashSet<PathBuf> {
        self.conffiles
            .iter()
            .filter_map(|path| clean(Path::new(path)))
            .collect()
    }

    fn has_preinst(&self) -> bool {
        self.files.iter().any(|file| file.name == "preinst")
    }

    /// The name of the package.
    pub(super) fn package(&self) -> &str {
        self.name.split(':').next().unwrap_or(&self.name)
    }

    /// Its control file.
    pub(super) fn fields(&self) -> &str {
        &self.fields
    }

    /// Its architecture.
    pub(super) fn arch(&self) -> &str {
        stanza::field(&self.fields, "Architecture").unwrap_or("all")
    }

    fn status(&self) -> String {
        let mut text = String::new();
        for line in self.fields.lines().filter(|line| !line.trim().is_empty()) {
            text.push_str(line);
            text.push('\n');
            if line.starts_with("Package:") {
                text.push_str("Status: install ok unpacked\n");
            }
        }
        if !self.conffiles.is_empty() {
            text.push_str("Conffiles:\n");
            for path in &self.conffiles {
                text.push_str(&format!(" {path} newconffile\n"));
            }
        }
        text.push('\n');
        text
    }

    /// What it wants to be told of: the trigger, and itself as the trigger's records have it.
    fn interests(&self) -> Vec<(String, String)> {
        let Some(file) = self.files.iter().find(|file| file.name == "triggers") else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&file.content).into_owned();
        let interest = |line: &str| {
            let mut words = line.split('#').next().unwrap_or("").split_whitespace();
            let (verb, trigger) = (words.next()?, words.next()?);
            let suffix = match verb {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => return None,
            };
            Some((trigger.to_owned(), format!("{}{suffix}", self.name)))
        };
        text.lines().filter_map(interest).collect()
    }
}

/// Where dpkg has the control files of a package whose `preinst` runs; debconf looks for them there.
const RUNNING: &str = "tmp.ci";

/// Where they wait for their turn.
const WAITING: &str = "tmp.waiting";

/// Writes the records of packages whose files are in the tree.
pub(super) fn write(tree: &Tree, packages: &[(Control, Unpacked)]) -> Result<()> {
    let put_with_time =
        |directory: &str, name: &str, content: &[u8], mode: u32, mtime_s: Option<u64>| {
            let directory = format!("{ADMIN}/{directory}");
            let directory = directory.trim_end_matches('/');
            tree.write(Path::new(directory), name, content, mode, mtime_s)
                .map_err(|error| {
                    Error::io(
                        "cannot write",
                        Path::new("/").join(directory).join(name),
                        error,
                    )
                })
        };
    // The times of dpkg's own records are clamped in the end.
    let put = |directory: &str, name: &str, content: &[u8]| {
        put_with_time(directory, name, content, 0o644, None)
    };
    let mut status = String::new();
    let mut by_path = String::new();
    let mut by_name: BTreeMap<String, String> = BTreeMap::new();
    for (control, unpacked) in packages {
        for file in &control.files {
            put_with_time(
                "info",
                &format!("{}.{}", control.name, file.name),
                &file.content,
                file.mode,
                Some(file.mtime_s),
            )?;
        }
        if control.has_preinst() {
            let directory = format!("{WAITING}/{}", control.name);
            put(&directory, "control", control.fields.as_bytes())?;
            for file in &control.files {
                put_with_time(
                    &directory,
                    &file.name,
                    &file.content,
                    file.mode,
                    Some(file.mtime_s),
                )?;
            }
        }
        let mut list = Vec::new();
        for path in &unpacked.paths {
            list.push(b'/');
            list.extend(if path.as_os_str().is_empty() {
                b"."
            } else {
                path.as_os_str().as_bytes()
            });
            list.push(b'\n');
        }
        put("info", &format!("{}.list", control.name), &list)?;
        status.push_str(&control.status());
        for (trigger, who) in control.interests() {
            if trigger.starts_with('/') {
                by_path.push_str(&format!("{trigger} {who}\n"));
            } else if !trigger.contains('/') {
                by_name
                    .entry(trigger)
                    .or_default()
                    .push_str(&format!("{who}\n"));
            }
        }
    }
    put("info", "format", b"1\n")?;
    put("", "status", status.as_bytes())?;
    put("", "available", b"")?;
    put("triggers", "File", by_path.as_bytes())?;
    for (trigger, who) in by_name {
        put("triggers", &trigger, who.as_bytes())?;
    }
    Ok(())
}

/// A script for the tree's shell that runs what dpkg would have run before it unpacked each package.
pub(super) fn preinst_script(packages: &[(Control, Unpacked)]) -> String {
    let mut script = String::from(
        "export DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1\n",
    );
    script.push_str(&format!("cd /{ADMIN} || exit 1\n"));
    for (control, _) in packages.iter().filter(|(control, _)| control.has_preinst()) {
        // Names of packages and architectures have nothing in them that a shell would take for its own.
        let (name, package, arch) = (&control.name, control.package(), control.arch());
        script.push_str(&format!(
            "mv {WAITING}/{name} {RUNNING} || exit 1
(cd / && DPKG_MAINTSCRIPT_PACKAGE={package} DPKG_MAINTSCRIPT_ARCH={arch} /{ADMIN}/{RUNNING}/preinst install) || {{ echo \"the preinst of {name} failed\" >&2; exit 1; }}
rm -r {RUNNING} || exit 1\n"
        ));
    }
    script.push_str(&format!("if [ -d {WAITING} ]; then rmdir {WAITING}; fi\n"));
    script
}
