//! Both ways to put trees together, on the same stories. They need the right to mount: root, or `unshare -Ur`.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::sys::file::tempdir::TempDir;

fn made(id: SnapshotId) -> Made {
    Made {
        id,
        key: Some(id),
        fields: Fields::new(),
        created_ms: 1,
        duration_ms: 2,
        what: "RUN make".to_owned(),
    }
}

fn stores() -> Vec<(TempDir, Store, SnapshotStore)> {
    [Choice::Copy, Choice::Best]
        .into_iter()
        .filter_map(|choice| {
            let dir = TempDir::new();
            let store = Store::open(dir.path()).unwrap();
            let snapshots = SnapshotStore::open(&store, choice).unwrap();
            if let Some(reason) = snapshots.fallback() {
                println!("skip: no overlay: {reason}");
                return None;
            }
            Some((dir, store, snapshots))
        })
        .collect()
}

/// Runs a shell on a writable tree and commits what it changed.
fn step(snapshots: &SnapshotStore, below: &[SnapshotId], script: &str) -> SnapshotId {
    let mut active = snapshots.prepare(below).unwrap();
    shell(&mut active, script);
    let mut fields = Fields::new();
    fields.put("script", script);
    for id in below {
        fields.put("below", id.to_string());
    }
    snapshots
        .commit(active.settle().unwrap(), made(fields.key()))
        .unwrap()
}

fn shell(active: &mut Active, script: &str) {
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&active.mounted().as_fd())
    );
    let status = std::process::Command::new("sh")
        .args(["-ec", script])
        .current_dir(path)
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

/// Every path of a tree with what is there.
fn listing(top: &Dir) -> Vec<String> {
    fn walk(dir: &Dir, path: &str, lines: &mut Vec<String>) {
        for entry in dir.entries().unwrap() {
            let seen = dir.metadata(&entry.name).unwrap();
            let name = format!("{path}{}", entry.name.to_str().unwrap());
            match seen.kind {
                crate::sys::dir::Kind::Dir => {
                    lines.push(format!("{name}/ {:o}", seen.mode));
                    walk(
                        &dir.open_dir(&entry.name).unwrap(),
                        &format!("{name}/"),
                        lines,
                    );
                }
                crate::sys::dir::Kind::File => {
                    let content = io::read_to_string(dir.open_file(&entry.name).unwrap()).unwrap();
                    lines.push(format!("{name} {:o} {}", seen.mode, content.trim_end()));
                }
                crate::sys::dir::Kind::Symlink => {
                    lines.push(format!(
                        "{name} -> {}",
                        dir.read_link(&entry.name).unwrap().display()
                    ));
                }
                kind => lines.push(format!("{name} {kind:?}")),
            }
        }
    }
    let mut lines = Vec::new();
    walk(top, "", &mut lines);
    lines
}

#[test]
fn a_step_sees_what_was_below_and_leaves_only_its_changes() {
    for (_dir, store, snapshots) in stores() {
        let base = step(
            &snapshots,
            &[],
            "mkdir -m 755 -p etc keep; echo one > etc/a; echo two > etc/b; ln -s a etc/l; mkdir gone; echo x > gone/x; chmod 711 .",
        );
        let next = step(
            &snapshots,
            &[base],
            "rm etc/b; echo three > etc/c; rm -r gone; mkdir gone; echo y > gone/y; chmod 750 etc",
        );
        let top = step(&snapshots, &[base, next], "mv etc/a etc/z; ln etc/z etc/zz");

        let tree = snapshots.mount(&[base, next, top]).unwrap();
        let expected = [
            "etc/ 750",
            "etc/c 644 three",
            "etc/l -> a",
            "etc/z 644 one",
            "etc/zz 644 one",
            "gone/ 755",
            "gone/y 644 y",
            "keep/ 755",
        ];
        assert_eq!(listing(tree.top()), expected);
        assert_eq!(tree.top().own_metadata().unwrap().mode, 0o711);
        let linked = tree.root().unwrap().metadata("etc/z").unwrap();
        assert_eq!(
            (linked.links, linked.ino),
            (2, tree.root().unwrap().metadata("etc/zz").unwrap().ino)
        );

        snapshots.flush().unwrap();
        drop(tree);
        // Another process finds the same.
        let again = SnapshotStore::open(&store, Choice::Best).unwrap();
        assert_eq!(
            listing(again.mount(&[base, next, top]).unwrap().top()),
            expected
        );
        let upper = again.layer(&next).unwrap();
        let names: Vec<_> = upper
            .entries()
            .unwrap()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(
            names,
            ["etc", "gone"],
            "what did not change is no part of the layer"
        );
        // A new directory in the place of an old one hides all of that, or says what is gone from it.
        let gone = upper.open_dir("gone").unwrap();
        let hidden = crate::sys::overlay::is_opaque(&gone).unwrap();
        assert!(hidden || gone.find("x").unwrap().is_some_and(|seen| seen.rdev == 0));
        let removed = upper.open_dir("etc").unwrap();
        let seen = removed.metadata("b").unwrap();
        assert!(crate::sys::overlay::is_whiteout(&removed, "b".as_ref(), &seen).unwrap());
        assert_eq!(store.result(&next).unwrap().unwrap().layers, [base, next]);
        assert_eq!(store.snapshot_record(&next).unwrap().what, "RUN make");
    }
}

#[test]
fn what_is_not_committed_never_was() {
    for (dir, _store, snapshots) in stores() {
        let base = step(&snapshots, &[], "echo one > a");
        snapshots.flush().unwrap();
        let mut active = snapshots.prepare(&[base]).unwrap();
        let path = active.attach().unwrap();
        std::fs::write(path.join("b"), "two").unwrap();
        active.discard();
        let mut active = snapshots.prepare(&[base]).unwrap();
        shell(&mut active, "echo > c");
        drop(active.settle().unwrap());
        assert_eq!(
            listing(snapshots.mount(&[base]).unwrap().top()),
            ["a 644 one"]
        );
        drop(snapshots);
        assert_eq!(
            std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
            0
        );
    }
}

#[test]
fn an_attached_tree_is_the_same_tree() {
    for (_dir, _store, snapshots) in stores() {
        let mut active = snapshots.prepare(&[]).unwrap();
        let path = active.attach().unwrap();
        assert_eq!(active.attach().unwrap(), path);
        std::fs::write(path.join("file"), "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let settled = active.settle().unwrap();
        assert!(settled.upper().find("file").unwrap().is_some());
        assert_eq!(
            std::fs::metadata(settled.upper_path()).unwrap().mode() & 0o7777,
            0o1777
        );
    }
}

#[test]
fn many_layers_are_made_one() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )
    .unwrap();

    for (_dir, _store, snapshots) in stores() {
        let mut ids = Vec::new();
        for number in 0..620 {
            let settled = snapshots.prepare_layer(&ids).unwrap();
            use std::io::Write;
            write!(
                settled
                    .upper()
                    .create_file(format!("f{number}"), 0o644)
                    .unwrap(),
                "{number}"
            )
            .unwrap();
            if number == 300 {
                crate::sys::overlay::make_whiteout(settled.upper(), "f7".as_ref()).unwrap();
            }
            ids.push(
                snapshots
                    .commit(settled, made(Key::of(&[number as u8, (number >> 8) as u8])))
                    .unwrap(),
            );
        }
        let tree = snapshots.mount(&ids).unwrap();
        assert_eq!(tree.top().entries().unwrap().len(), 619);
        let active = snapshots.prepare(&ids).unwrap();
        active.mounted().top().remove_file("f0").unwrap();
        assert_eq!(active.settle().unwrap().upper().entries().unwrap().len(), 1);
        snapshots.flush().unwrap();
    }
}

#[test]
fn every_dialect_of_overlay_gives_the_same_tree() {
    use crate::sys::overlay::{Dialect, Syncs, Writable, mount_in};
    let dir = TempDir::new();
    for name in ["a", "b", "upper", "work"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("a/both"), "from a").unwrap();
    std::fs::write(dir.path().join("b/both"), "from b").unwrap();
    std::fs::write(dir.path().join("b/only"), "b").unwrap();
    let open = |name: &str| Dir::open_trusted(dir.path().join(name)).unwrap();
    let (a, b) = (open("a"), open("b"));
    for dialect in [Dialect::Fds, Dialect::Strings, Dialect::OneString] {
        let tree = match mount_in(dialect, &[a.as_fd(), b.as_fd()], None) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return println!("skip: mounts are not allowed");
            }
            tree => Mounted::new(tree.unwrap(), None).unwrap(),
        };
        assert_eq!(
            listing(tree.top()),
            ["both 644 from a", "only 644 b"],
            "{dialect:?}"
        );
        assert!(tree.top().create_file("new", 0o644).is_err(), "{dialect:?}");
        drop(tree);
        for syncs in [Syncs::Waited, Syncs::Ignored] {
            let name = format!("{dialect:?} {syncs:?}");
            let (upper, work) = (open("upper"), open("work"));
            let writable = Writable {
                upper: upper.as_fd(),
                work: work.as_fd(),
                syncs,
            };
            let tree = Mounted::new(
                mount_in(dialect, &[a.as_fd()], Some(writable)).unwrap(),
                None,
            )
            .unwrap();
            tree.top().create_file(&name, 0o644).unwrap();
            drop(tree);
            assert!(upper.find(&name).unwrap().is_some());
            Dir::open_trusted(dir.path())
                .unwrap()
                .remove_tree("work")
                .unwrap();
            std::fs::create_dir(dir.path().join("work")).unwrap();
        }
    }
}
