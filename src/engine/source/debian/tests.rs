//! A base from the real archive. Needs root (of the machine or of a user namespace with a range of ids) and the archive.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Instant;

use super::*;
use crate::net::Settings;

/// Runs in the tree with util-linux' means: fresh mount and process namespaces, chroot, no network.
struct Chroot;

impl Runner for Chroot {
    fn run(&self, root: &Path, command: &Command) -> std::result::Result<Output, RunnerError> {
        let script = r#"set -e; root=$1; shift
            mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"
            exec chroot "$root" "$@""#;
        let output = process::Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                script,
                "sh",
            ])
            .arg(root)
            .args(&command.argv)
            .env_clear()
            .envs(command.env.iter().cloned())
            .stdin(process::Stdio::null())
            .current_dir("/")
            .output()?;
        Ok(Output {
            status: output.status.code().unwrap_or(128),
            stdout: output.stdout,
            stderr: output.stderr,
        })
    }
}

/// Path, mode, owner, time, size and digest or target of everything in a tree.
fn listing(root: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut pending = vec![PathBuf::new()];
    let mut lines = std::collections::BTreeMap::new();
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let mut line = format!(
            "{:o} {}:{} {} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.nlink()
        );
        if meta.is_symlink() {
            write!(line, " -> {:?}", std::fs::read_link(&full).unwrap()).unwrap();
        } else if meta.is_file() {
            write!(
                line,
                " {} {}",
                meta.size(),
                crate::digest::Digest::of(&std::fs::read(&full).unwrap())
            )
            .unwrap();
        } else if meta.is_dir() {
            pending.extend(
                std::fs::read_dir(&full)
                    .unwrap()
                    .map(|entry| path.join(entry.unwrap().file_name())),
            );
        }
        lines.insert(path.as_os_str().as_bytes().to_vec(), line);
    }
    lines
        .iter()
        .map(|(path, line)| format!("{} {line}\n", String::from_utf8_lossy(path)))
        .collect()
}

struct Made {
    resolution: Resolution,
    selection: Selection,
    base: String,
    whole: String,
}

fn make(scratch: &Path, names: &[&str]) -> Made {
    let step = Instant::now();
    let said = |what: &str| println!("{what}: {:.2} s", step.elapsed().as_secs_f64());
    let (store, tmp, root) = (
        scratch.join("store"),
        scratch.join("tmp"),
        scratch.join("root"),
    );
    for directory in [&store, &tmp, &root] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let client = Client::new(Settings::default());
    let cache = Cache::new(store, tmp);
    let keyring = Keyring::debian().unwrap();
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let progress = |progress| {
        if let Progress::Doing(what) = progress {
            said(what);
        }
    };
    let with = Surroundings {
        client: &client,
        cache: &cache,
        keyring: &keyring,
        now_s,
        progress: &progress,
    };
    let host = host_sources(Path::new("/etc/apt"));
    let mirrors = Mirrors::choose("bookworm", None, None, &host);
    let arch = debian_arch(
        if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        },
        None,
    )
    .unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let resolution = base::resolve(
        &Request {
            suite: "bookworm",
            arch,
            packages: &names,
        },
        &mirrors,
        &with,
    )
    .unwrap();
    said("resolved");
    base::build(&resolution, &root, &with, &Chroot).unwrap();
    said("base built");
    let base = listing(&root);
    let step = Instant::now();
    let said = |what: &str| println!("{what}: {:.2} s", step.elapsed().as_secs_f64());
    let selection = packages::resolve(&resolution, &names, &root, &with, &Chroot).unwrap();
    said("named packages resolved");
    assert_eq!(listing(&root), base, "asking apt leaves nothing behind");
    let step = Instant::now();
    let said = |what: &str| println!("{what}: {:.2} s", step.elapsed().as_secs_f64());
    packages::build(&resolution, &selection, &root, &with, &Chroot).unwrap();
    said("named packages installed");
    Made {
        resolution,
        selection,
        base,
        whole: listing(&root),
    }
}

fn missing() -> Option<&'static str> {
    if !rustix::process::getuid().is_root() {
        return Some("not root in any namespace");
    }
    crate::sys::owner::record_where_there_is_one_id();
    if crate::sys::owner::are_recorded() {
        return Some("its programs run without a sandbox, and there is a single id");
    }
    if std::net::ToSocketAddrs::to_socket_addrs(&("deb.debian.org", 80)).is_err() {
        return Some("the Debian archive cannot be reached");
    }
    None
}

#[test]
fn two_builds_of_a_real_base_are_the_same_bytes() {
    if let Some(reason) = missing() {
        println!("skip: {reason}");
        return;
    }
    let scratch = crate::engine::source::scratch("debian-real");
    let one = make(&scratch.join("one"), &["git", "curl"]);
    let other = make(&scratch.join("other"), &["git", "curl"]);
    let root = scratch.join("one/root");
    for path in [
        "etc/os-release",
        "usr/bin/git",
        "usr/bin/curl",
        "var/lib/dpkg/status",
        "etc/apt/sources.list",
        "bin/sh",
    ] {
        assert!(root.join(path).exists(), "{path}");
    }
    assert!(!root.join(WORKSHOP).exists());
    assert_eq!(one.resolution.key(), other.resolution.key());
    assert_eq!(
        one.selection.key(&one.resolution),
        other.selection.key(&other.resolution)
    );
    for (name, one, other) in [
        ("base", &one.base, &other.base),
        ("whole", &one.whole, &other.whole),
    ] {
        let differing: Vec<_> = one
            .lines()
            .zip(other.lines())
            .filter(|(one, other)| one != other)
            .take(20)
            .collect();
        assert!(one == other, "{name}: {differing:#?}");
    }
    assert_eq!(
        std::fs::read_dir(scratch.join("one/tmp")).unwrap().count(),
        0,
        "no temporary file is left"
    );
    std::fs::remove_dir_all(&scratch).unwrap();
}
