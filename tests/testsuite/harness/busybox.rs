//! A base that is at hand everywhere: Debian's static busybox as an OCI layout, with its applets as links.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use super::layout::Layout;
use super::machine::{self, Capability, Lack};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\n\
                      nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nbin:x:2:\nwheel:x:10:root\nnobody:x:65534:\n";

/// The part of busybox's own `adduser` that Debian's build of it leaves out: `[-D] [-u ID] [-G GROUP] [-h HOME] [-s SHELL] NAME`,
/// or `USER GROUP`.
const ADDUSER: &str = r#"#!/bin/sh -e
id= group= home= shell=/bin/sh
while getopts DHSu:G:h:s:g: option; do
  case $option in u) id=$OPTARG ;; G) group=$OPTARG ;; h) home=$OPTARG ;; s) shell=$OPTARG ;; *) ;; esac
done
shift $((OPTIND - 1))
if [ $# = 2 ]; then exec addgroup "$1" "$2"; fi
if [ -z "$id" ]; then id=1000; while grep -q "^[^:]*:[^:]*:$id:" /etc/passwd; do id=$((id + 1)); done; fi
if [ -n "$group" ]; then gid=$(sed -n "s/^$group:[^:]*:\([0-9]*\):.*/\1/p" /etc/group); else gid=$id; addgroup -g "$gid" "$1"; fi
echo "$1:x:$id:$gid::${home:-/home/$1}:$shell" >> /etc/passwd
mkdir -p "${home:-/home/$1}"
chown "$id:$gid" "${home:-/home/$1}"
"#;

/// Likewise: `[-g ID] GROUP`, or `USER GROUP`.
const ADDGROUP: &str = r#"#!/bin/sh -e
id=
while getopts Sg: option; do case $option in g) id=$OPTARG ;; *) ;; esac; done
shift $((OPTIND - 1))
if [ $# = 2 ]; then exec sed -i -e "s/^$2:.*[^:]\$/&,$1/" -e t -e "s/^$2:.*:\$/&$1/" /etc/group; fi
if [ -z "$id" ]; then id=1000; while grep -q "^[^:]*:[^:]*:$id:" /etc/group; do id=$((id + 1)); done; fi
echo "$1:x:$id:" >> /etc/group
"#;

/// The layout's directory.
pub(crate) fn layout() -> Result<&'static Path, Lack> {
    static LAYOUT: OnceLock<Result<PathBuf, Lack>> = OnceLock::new();
    LAYOUT
        .get_or_init(|| {
            let dir = machine::workshop().join("busybox");
            Layout::of_layer(
                &layer()?,
                json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]}),
            )
            .write(&dir);
            Ok(dir)
        })
        .as_deref()
        .map_err(Clone::clone)
}

/// `--build-context base=…` for it.
pub(crate) fn context() -> Result<String, Lack> {
    Ok(format!(
        "--build-context base=oci-layout://{}",
        layout()?.display()
    ))
}

/// The program, and the names of its applets, one a line.
pub(crate) fn program() -> Result<(Vec<u8>, String), Lack> {
    let binary = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .ok_or_else(|| Capability::Busybox.lack("busybox-static is not installed"))?;
    let applets = Command::new("busybox")
        .arg("--list")
        .output()
        .map_err(|error| Capability::Busybox.lack(error.to_string()))?;
    Ok((
        binary,
        String::from_utf8_lossy(&applets.stdout).into_owned(),
    ))
}

fn layer() -> Result<Vec<u8>, Lack> {
    let (binary, applets) = program()?;

    let mut tar = tar::Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sbin", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/local", 0o755),
        ("usr/sbin", 0o755),
        ("var", 0o755),
        ("var/lib", 0o755),
    ] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, format!("{dir}/"), std::io::empty())
            .expect("memory can be written");
    }
    let mut file = |path: &str, mode: u32, content: &[u8]| {
        let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
        tar.append_data(&mut header, path, content)
            .expect("memory can be written");
    };
    file("bin/busybox", 0o755, &binary);
    file("etc/passwd", 0o644, PASSWD.as_bytes());
    file("etc/group", 0o644, GROUP.as_bytes());
    file("etc/os-release", 0o644, b"ID=busybox\n");
    // Cases of others look for it.
    file("etc/alpine-release", 0o644, b"3.20.0\n");
    file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n");
    file("bin/adduser", 0o755, ADDUSER.as_bytes());
    file("bin/addgroup", 0o755, ADDGROUP.as_bytes());
    for applet in applets
        .lines()
        .filter(|name| !["busybox", "adduser", "addgroup"].contains(name))
    {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("memory can be written");
    }
    Ok(tar.into_inner().expect("memory can be written"))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}
