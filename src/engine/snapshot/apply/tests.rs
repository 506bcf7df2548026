//! Layers applied: removals, links, ways that lead out, damage.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::engine::snapshot::diff::{self, DiffError, Tree};
use crate::image::layer::{LayerWriter, TimeRewrite};
use crate::image::{Compression, Timestamp};
use crate::sys::file::tempdir::TempDir;

fn me() -> (u64, u64) {
    (
        rustix::process::geteuid().as_raw().into(),
        rustix::process::getegid().as_raw().into(),
    )
}

fn entry(path: &str, kind: Kind) -> Entry {
    let (uid, gid) = me();
    let mode = if matches!(kind, Kind::Directory) {
        0o755
    } else {
        0o644
    };
    let mtime = Timestamp::from_seconds(1_700_000_000);
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid,
        gid,
        mtime,
        xattrs: Vec::new(),
    }
}

fn dir(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn empty(path: &str) -> Entry {
    entry(path, Kind::File { size: 0 })
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(
        path,
        Kind::Symlink {
            target: target.as_bytes().to_vec(),
        },
    )
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(
        path,
        Kind::HardLink {
            target: target.as_bytes().to_vec(),
        },
    )
}

fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
    entries
        .iter()
        .for_each(|entry| writer.entry(entry).unwrap());
    writer.finish().unwrap()
}

fn open(path: &Path) -> Dir {
    Dir::open_trusted(path).unwrap()
}

/// Applies layers upon each other, each in a directory of its own; the last one's result is given back.
fn apply_all(base: &Path, layers: &[Vec<u8>]) -> Result<Applied, ApplyError> {
    let mut last = None;
    for (index, tar) in layers.iter().enumerate() {
        let place = base.join(index.to_string());
        std::fs::create_dir(&place).unwrap();
        let lowers = Lowers::new(
            (0..index)
                .rev()
                .map(|lower| open(&base.join(lower.to_string())))
                .collect(),
        );
        last = Some(apply(
            &tar[..],
            None,
            &open(&place),
            &lowers,
            Limits::default(),
        )?);
    }
    Ok(last.unwrap())
}

fn is_whiteout(path: &Path) -> bool {
    let dir = open(path.parent().unwrap());
    let name = path.file_name().unwrap();
    dir.find(name)
        .unwrap()
        .is_some_and(|metadata| overlay::is_whiteout(&dir, name, &metadata).unwrap())
}

fn is_opaque(path: &Path) -> bool {
    overlay::is_opaque(&open(path)).unwrap()
}

#[test]
fn no_entry_leaves_the_tree() {
    let bench = TempDir::new();
    let outside = bench.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let base = bench.path().join("layers");
    std::fs::create_dir(&base).unwrap();
    let layer = layer(&[
        symlink("out", outside.to_str().unwrap()),
        symlink("up", "../../../../../../.."),
        symlink("self", "."),
        empty("out/a"),
        empty("up/b"),
        empty("self/c"),
        symlink("chain", "out/.."),
        empty("chain/d"),
    ]);
    apply_all(&base, &[layer]).unwrap();
    let root = base.join("0");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let inside = outside.strip_prefix("/").unwrap();
    for path in [
        &inside.join("a"),
        Path::new("b"),
        Path::new("c"),
        &inside.parent().unwrap().join("d"),
    ] {
        assert!(root.join(path).exists(), "{}", path.display());
    }
}

#[test]
fn what_may_not_be_is_refused_with_the_reason() {
    let check = |entries: &[Entry], sense: &str| {
        let bench = TempDir::new();
        let error = apply_all(bench.path(), &[layer(entries)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(sense), "expected `{sense}`, got `{error}`");
    };
    check(
        &[symlink("a", "b"), symlink("b", "a"), empty("a/x")],
        "circle",
    );
    check(&[empty("a"), empty("a/x")], "no directory");
    check(&[hard_link("a", "b")], "neither in this layer nor below");
    check(&[empty("a"), hard_link("a", "a")], "itself");
    check(&[dir("a"), hard_link("b", "a")], "to a directory");
    check(&[empty(".wh.")], "names no entry");
    check(&[empty(".wh..")], "names no entry");
    check(&[empty(".wh...")], "names no entry");
    check(
        &[entry("a", Kind::CharDevice { major: 0, minor: 0 })],
        "means a removal",
    );
    check(
        &[Entry {
            uid: 1 << 40,
            ..empty("a")
        }],
        "outside the ids",
    );
}

#[test]
fn another_content_than_was_named_is_refused() {
    let bench = TempDir::new();
    let expected = Digest::of(b"else");
    let tar = layer(&[empty("a")]);
    let result = apply(
        &tar[..],
        Some(expected),
        &open(bench.path()),
        &Lowers::default(),
        Limits::default(),
    );
    assert!(
        matches!(result, Err(ApplyError::OtherContent { found, .. }) if found == Digest::of(&tar))
    );
}

#[test]
fn removals_hide_only_what_is_below() {
    let bench = TempDir::new();
    let lower = layer(&[
        dir("d"),
        empty("d/old"),
        dir("e"),
        empty("e/old"),
        empty("f"),
        dir("g"),
        dir("h"),
    ]);
    let upper = layer(&[
        empty(".wh.d"),
        dir("d"),
        empty("d/new"),
        dir("e"),
        empty("e/.wh..wh..opq"),
        empty("e/new"),
        empty(".wh.f"),
        empty(".wh.never-there"),
        dir("g"),
        empty(".wh.g"),
        empty(".wh.h"),
        empty("h/implied"),
        empty(".wh..wh.plnk"),
    ]);
    apply_all(bench.path(), &[lower, upper]).unwrap();
    let root = bench.path().join("1");
    for opaque in ["d", "e", "g", "h"] {
        assert!(is_opaque(&root.join(opaque)), "{opaque}");
    }
    assert!(is_whiteout(&root.join("f")));
    assert!(
        root.join("d/new").exists()
            && root.join("e/new").exists()
            && root.join("h/implied").exists()
    );
    assert!(!root.join("never-there").exists() && !root.join(".wh..wh.plnk").exists());
}

#[test]
fn an_opaque_root_hides_every_name_below() {
    let bench = TempDir::new();
    let lowers = [
        layer(&[empty("a"), dir("b")]),
        layer(&[empty(".wh.a"), empty("c")]),
    ];
    let upper = layer(&[empty(".wh..wh..opq"), dir("b"), empty("d")]);
    apply_all(bench.path(), &[&lowers[..], &[upper]].concat()).unwrap();
    let root = bench.path().join("2");
    assert!(!root.join("a").exists() && !is_whiteout(&root.join("a")));
    assert!(is_opaque(&root.join("b")));
    assert!(is_whiteout(&root.join("c")));
    assert!(root.join("d").exists());
}

#[test]
fn what_a_layer_takes_for_granted_is_as_it_is_below() {
    let bench = TempDir::new();
    let lower = layer(&[
        Entry {
            mode: 0o1777,
            ..dir("tmp")
        },
        dir("usr"),
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        Entry {
            mode: 0o4755,
            ..empty("tool")
        },
    ]);
    let upper = layer(&[empty("tmp/x"), empty("lib/y"), hard_link("other", "tool")]);
    apply_all(bench.path(), &[lower, upper]).unwrap();
    let root = bench.path().join("1");
    let tmp = std::fs::metadata(root.join("tmp")).unwrap();
    assert_eq!(
        (tmp.permissions().mode() & 0o7777, tmp.mtime()),
        (0o1777, 1_700_000_000)
    );
    assert!(root.join("usr/lib/y").exists());
    assert!(!root.join("lib").exists());
    let tool = std::fs::metadata(root.join("tool")).unwrap();
    assert_eq!(
        (tool.nlink(), tool.permissions().mode() & 0o7777),
        (2, 0o4755)
    );
}

#[test]
fn later_entries_take_the_place_of_earlier_ones() {
    let bench = TempDir::new();
    let tar = layer(&[
        dir("a"),
        empty("a/x"),
        empty("a"),
        empty("b"),
        dir("b"),
        empty("b/x"),
        symlink("c", "b"),
        dir("c"),
        empty("c/y"),
    ]);
    apply_all(bench.path(), &[tar]).unwrap();
    let root = bench.path().join("0");
    assert!(root.join("a").is_file());
    assert!(root.join("b/x").is_file());
    assert!(root.join("c/y").is_file() && !root.join("b/y").exists());
}

#[test]
fn deep_trees_take_no_more_descriptors_than_there_are() {
    let bench = TempDir::new();
    let depth = 1500;
    let mut entries: Vec<Entry> = (1..=depth)
        .map(|depth| dir(&vec!["d"; depth].join("/")))
        .collect();
    entries.push(empty(&format!("{}/f", vec!["d"; depth].join("/"))));
    entries.push(empty("z"));
    let tar = layer(&entries);
    let applied = apply_all(bench.path(), std::slice::from_ref(&tar)).unwrap();
    let mut again = Vec::new();
    let tree = Tree::Upper(&Lowers::default());
    let root = open(&bench.path().join("0"));
    let written = diff::write_tar(&root, &tree, TimeRewrite::Keep, &mut again).unwrap();
    assert_eq!(written.diff_id, applied.diff_id);
    // Deeper than descriptors reach, and than `std` removes.
    assert!(
        std::process::Command::new("rm")
            .arg("-rf")
            .arg(bench.path().join("0"))
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn reserved_names_are_refused_and_sockets_left_out() {
    let bench = TempDir::new();
    std::fs::write(bench.path().join(".wh.x"), "").unwrap();
    let lowers = Lowers::default();
    let upper = Tree::Upper(&lowers);
    let root = open(bench.path());
    let error = diff::write_tar(&root, &upper, TimeRewrite::Keep, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, DiffError::ReservedName { .. }));
    assert_eq!(
        diff::write_tar(&root, &Tree::Whole, TimeRewrite::Keep, &mut Vec::new())
            .unwrap()
            .entries,
        1
    );
    std::fs::remove_file(bench.path().join(".wh.x")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(bench.path().join("s")).unwrap();
    assert_eq!(
        diff::write_tar(&root, &upper, TimeRewrite::Keep, &mut Vec::new())
            .unwrap()
            .entries,
        0
    );
    drop(socket);
}

#[test]
fn a_failing_output_is_not_blamed_on_the_tree() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bench = TempDir::new();
    std::fs::write(bench.path().join("x"), "abc").unwrap();
    let result = diff::write_tar(
        &open(bench.path()),
        &Tree::Whole,
        TimeRewrite::Keep,
        &mut Full,
    );
    assert!(matches!(result, Err(DiffError::Unwritable(_))));
}

#[derive(Debug, Clone)]
enum Node {
    File(Vec<u8>, BTreeMap<String, Vec<u8>>),
    Symlink(String),
    Fifo,
    Again,
    Removed,
    Dir {
        children: BTreeMap<String, Node>,
        hides: bool,
    },
}

fn any_node() -> impl Strategy<Value = Node> {
    let content = proptest::collection::vec(any::<u8>(), 0..3000);
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z]{1,6}",
        proptest::collection::vec(any::<u8>(), 0..20),
        0..2,
    );
    let leaf = prop_oneof![
        4 => (content, xattrs).prop_map(|(content, xattrs)| Node::File(content, xattrs)),
        1 => "[a-z/.]{1,120}".prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        1 => Just(Node::Again),
        1 => Just(Node::Removed),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        (
            proptest::collection::btree_map(any_name(), inner, 0..6),
            any::<bool>(),
        )
            .prop_map(|(children, hides)| Node::Dir { children, hides })
    })
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z.ü ]{1,40}".prop_filter("a usable name", |name| {
        name != "." && name != ".." && !name.starts_with(".wh.")
    })
}

/// Writes a node into a layer, and into the lower directory what it hides.
fn emit(
    node: &Node,
    path: &str,
    seed: u32,
    lower: &Path,
    first: &mut Option<Entry>,
    writer: &mut LayerWriter<Vec<u8>>,
) {
    let (uid, gid) = if me() == (0, 0) {
        (u64::from(seed % 3), 1000 + u64::from(seed % 7))
    } else {
        me()
    };
    // Only root reads what nobody may.
    let least = if me().0 == 0 { 0 } else { 0o400 };
    let mode = [0o644, 0o4755, 0o600, 0o1777, least][seed as usize % 5];
    let described = |kind| Entry {
        mode,
        uid,
        gid,
        ..entry(path, kind)
    };
    match node {
        Node::File(content, xattrs) => {
            let xattrs = xattrs
                .iter()
                .map(|(name, value)| (name.clone().into_bytes(), value.clone()))
                .collect();
            let entry = Entry {
                xattrs,
                ..described(Kind::File {
                    size: content.len() as u64,
                })
            };
            writer.file(&entry, &mut &content[..]).unwrap();
            first.get_or_insert(entry);
        }
        Node::Symlink(target) => {
            let entry = described(Kind::Symlink {
                target: target.clone().into_bytes(),
            });
            writer
                .entry(&Entry {
                    mode: 0o777,
                    ..entry
                })
                .unwrap();
        }
        Node::Fifo => writer.entry(&described(Kind::Fifo)).unwrap(),
        Node::Again => {
            // All names of a file have one owner and mode; the attributes are written with the first.
            if let Some(first) = first {
                let kind = Kind::HardLink {
                    target: first.path.clone(),
                };
                let path = path.as_bytes().to_vec();
                writer
                    .entry(&Entry {
                        path,
                        kind,
                        xattrs: Vec::new(),
                        ..first.clone()
                    })
                    .unwrap();
            }
        }
        Node::Removed => {
            std::fs::create_dir_all(lower.join(path).parent().unwrap()).unwrap();
            std::fs::write(lower.join(path), "").unwrap();
            writer.whiteout(path.as_bytes()).unwrap();
        }
        Node::Dir { children, hides } => {
            let directory = described(Kind::Directory);
            writer
                .entry(&Entry {
                    mode: mode | 0o700,
                    ..directory
                })
                .unwrap();
            if *hides {
                std::fs::create_dir_all(lower.join(path)).unwrap();
                writer.opaque(path.as_bytes()).unwrap();
            }
            for (index, (name, child)) in children.iter().enumerate() {
                // Below an opaque directory there is nothing to remove.
                if *hides && contains_removal(child) {
                    continue;
                }
                let path = format!("{path}/{name}");
                emit(
                    child,
                    &path,
                    seed.wrapping_mul(31).wrapping_add(index as u32),
                    lower,
                    first,
                    writer,
                );
            }
        }
    }
}

fn contains_removal(node: &Node) -> bool {
    match node {
        Node::Removed => true,
        Node::Dir { children, hides } => *hides || children.values().any(contains_removal),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_that_is_applied_and_read_again_is_the_same(
        tree in proptest::collection::btree_map(any_name(), any_node(), 0..6),
        compression in prop_oneof![Just(Compression::None), Just(Compression::GZIP), Just(Compression::ZSTD)],
    ) {
        crate::sys::owner::record_where_there_is_one_id();
        let bench = TempDir::new();
        let (upper, lower) = (bench.path().join("upper"), bench.path().join("lower"));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&lower).unwrap();
        let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
        let mut first = None;
        for (index, (name, node)) in tree.iter().enumerate() {
            emit(node, name, index as u32, &lower, &mut first, &mut writer);
        }
        let tar = writer.finish().unwrap();
        let mut encoder = crate::image::compress::Encoder::new(Vec::new(), compression, 1).unwrap();
        std::io::Write::write_all(&mut encoder, &tar).unwrap();
        let blob = encoder.finish().unwrap();

        let lowers = Lowers::new(vec![open(&lower)]);
        let upper = open(&upper);
        let applied = apply(&blob[..], Some(Digest::of(&tar)), &upper, &lowers, Limits::default()).unwrap();
        let mut again = Vec::new();
        let written = diff::write_blob(&upper, &Tree::Upper(&lowers), TimeRewrite::Keep, compression, 2, &mut again).unwrap();
        prop_assert_eq!(written.tar.diff_id, applied.diff_id);
        prop_assert_eq!(written.tar.entries, applied.entries);
        prop_assert_eq!(written.digest, Digest::of(&again));
        prop_assert!(again == blob);
    }
}

/// What the kernel makes of a step, read and applied again, is the same tree to the kernel.
#[test]
fn a_step_in_a_real_overlay_survives_diff_and_apply() {
    use std::os::fd::AsFd;
    let bench = TempDir::new();
    let place = |name: &str| {
        let path = bench.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let [first, second, upper, again, work] =
        ["first", "second", "upper", "again", "work"].map(place);
    for (path, content) in [
        ("a/x", "1"),
        ("a/y", "2"),
        ("b/c/z", "3"),
        ("d/old", "4"),
        ("e/f/g", "5"),
        ("h", "6"),
    ] {
        std::fs::create_dir_all(first.join(path).parent().unwrap()).unwrap();
        std::fs::write(first.join(path), content).unwrap();
    }
    std::fs::create_dir(second.join("a")).unwrap();
    std::fs::write(second.join("a/y"), "22").unwrap();
    let (first, second) = (open(&first), open(&second));
    let (upper, work) = (open(&upper), open(&work));
    let writable = overlay::Writable {
        upper: upper.as_fd(),
        work: work.as_fd(),
        syncs: overlay::Syncs::Waited,
    };
    let merged = match overlay::mount(&[second.as_fd(), first.as_fd()], Some(writable)) {
        Ok(merged) => merged,
        Err(error) => {
            println!("skip: no overlay here: {error}");
            return;
        }
    };
    let root = dir::path_of_fd(&merged);
    std::fs::remove_file(root.join("a/x")).unwrap();
    std::fs::remove_dir_all(root.join("b")).unwrap();
    std::fs::write(root.join("b"), "a file now").unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    std::fs::create_dir_all(root.join("d/new/deep")).unwrap();
    std::fs::create_dir(root.join("fresh")).unwrap();
    std::fs::hard_link(root.join("h"), root.join("fresh/h2")).unwrap();
    std::fs::set_permissions(root.join("e/f"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("/d", root.join("fresh/link")).unwrap();

    let lowers = || {
        Lowers::new(vec![
            second.try_clone().unwrap(),
            first.try_clone().unwrap(),
        ])
    };
    let mut layer = Vec::new();
    let written = diff::write_tar(
        &upper,
        &Tree::Upper(&lowers()),
        TimeRewrite::Keep,
        &mut layer,
    )
    .unwrap();
    let mut reader = LayerReader::new(&layer[..], Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.path).unwrap());
    }
    assert_eq!(
        names,
        [
            "a",
            "a/.wh.x",
            "b",
            "d",
            "d/.wh..wh..opq",
            "d/new",
            "d/new/deep",
            "e",
            "e/f",
            "fresh",
            "fresh/h2",
            "fresh/link",
            "h"
        ]
    );

    let again = open(&again);
    apply(
        &layer[..],
        Some(written.diff_id),
        &again,
        &lowers(),
        Limits::default(),
    )
    .unwrap();
    // Mounted afresh: a mount in which a file was copied up remembers the inode that it had before.
    drop(merged);
    let whole = |upper: &Dir| {
        let merged = overlay::mount(&[upper.as_fd(), second.as_fd(), first.as_fd()], None).unwrap();
        let mut tar = Vec::new();
        diff::write_tar(
            &Dir::from(merged),
            &Tree::Whole,
            TimeRewrite::Keep,
            &mut tar,
        )
        .unwrap()
    };
    assert_eq!(whole(&upper), whole(&again));
}
