//! The layer tar: the same bytes each time, and what is refused.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::from_seconds(1_700_000_000),
        xattrs: Vec::new(),
    }
}

fn written(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
    for (entry, content) in entries {
        writer.file(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, Malformed> {
    let mut reader = LayerReader::new(tar, Limits::default());
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        found.push((entry, content));
    }
    Ok(found)
}

/// A header as some other tool may have written it.
fn raw(name: &[u8], kind: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = [0; header::BLOCK];
    block[..name.len()].copy_from_slice(name);
    header::put_octal(&mut block[header::field::MODE], 0o644);
    header::put_octal(&mut block[header::field::UID], 0);
    header::put_octal(&mut block[header::field::GID], 0);
    header::put_octal(&mut block[header::field::SIZE], size);
    header::put_octal(&mut block[header::field::MTIME], 0);
    block[header::field::TYPE] = kind;
    block[header::field::LINK][..link.len()].copy_from_slice(link);
    block[header::field::MAGIC].copy_from_slice(b"ustar\x0000");
    let (sum, _) = header::checksums(&block);
    header::put_octal(&mut block[148..155], sum);
    block.to_vec()
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        header::put_record(&mut content, key.as_bytes(), value.as_bytes());
    }
    let mut tar = raw(b"PaxHeaders.0/x", b'x', content.len() as u64, b"");
    content.resize(content.len().next_multiple_of(512), 0);
    tar.extend(content);
    tar
}

#[test]
fn system_tar_reads_what_is_written() {
    let long = format!("{}/ü", "d".repeat(120));
    let entries = [
        (entry("bin", Kind::Directory), vec![]),
        (entry("bin/sh", Kind::File { size: 3 }), b"abc".to_vec()),
        (
            entry(
                "bin/ash",
                Kind::HardLink {
                    target: b"bin/sh".to_vec(),
                },
            ),
            vec![],
        ),
        (
            entry(
                "bin/link",
                Kind::Symlink {
                    target: b"../x".to_vec(),
                },
            ),
            vec![],
        ),
        (
            entry("dev-null", Kind::CharDevice { major: 1, minor: 3 }),
            vec![],
        ),
        (entry("pipe", Kind::Fifo), vec![]),
        (
            Entry {
                uid: 3_000_000,
                mtime: Timestamp::from_seconds(-5),
                ..entry(&long, Kind::File { size: 1 })
            },
            b"x".to_vec(),
        ),
    ];
    let mut tar = Command::new("tar")
        .args(["--numeric-owner", "--utc", "--full-time", "-tvf", "-"])
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin
        .take()
        .unwrap()
        .write_all(&written(&entries))
        .unwrap();
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success());
    let listing: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .replace(&"d".repeat(120), "ddd")
        })
        .collect();
    assert_eq!(
        listing,
        [
            "drw-r--r-- 0/0 0 2023-11-14 22:13:20 bin/",
            "-rw-r--r-- 0/0 3 2023-11-14 22:13:20 bin/sh",
            "hrw-r--r-- 0/0 0 2023-11-14 22:13:20 bin/ash link to bin/sh",
            "lrw-r--r-- 0/0 0 2023-11-14 22:13:20 bin/link -> ../x",
            "crw-r--r-- 0/0 1,3 2023-11-14 22:13:20 dev-null",
            "prw-r--r-- 0/0 0 2023-11-14 22:13:20 pipe",
            "-rw-r--r-- 3000000/0 1 1969-12-31 23:59:55 ddd/ü",
        ]
    );
}

/// Stored images name layers by these bytes (ADR 0005): a change here changes their digests.
#[test]
fn the_bytes_of_a_layer_do_not_change() {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Clamp(1_700_000_100));
    let xattrs = vec![
        (b"security.capability".to_vec(), vec![1, 0, 0, 2]),
        (b"user.a".to_vec(), b"b\n".to_vec()),
    ];
    let long = "n".repeat(200);
    for entry in [
        Entry {
            mode: 0o1777,
            ..entry("tmp", Kind::Directory)
        },
        Entry {
            uid: 65_534,
            gid: 5_000_000,
            xattrs,
            ..entry(&long, Kind::Fifo)
        },
        Entry {
            mtime: Timestamp {
                seconds: 1_800_000_000,
                nanoseconds: 5,
            },
            ..entry(
                "ü",
                Kind::HardLink {
                    target: b"tmp/x".to_vec(),
                },
            )
        },
        entry("null", Kind::CharDevice { major: 1, minor: 3 }),
    ] {
        writer.entry(&entry).unwrap();
    }
    writer
        .file(&entry("x", Kind::File { size: 3 }), &mut &b"abc"[..])
        .unwrap();
    writer.opaque(b"tmp").unwrap();
    writer.whiteout(b"tmp/y").unwrap();
    let digest = crate::digest::Digest::of(&writer.finish().unwrap());
    assert_eq!(
        digest.to_string(),
        "sha256:2d3e498df0cb74ded714121a46675328f760c1d7a82463249f36a71aa7e9cee4"
    );
}

#[test]
fn whiteouts_are_named_as_the_specification_has_them() {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
    writer.opaque(b"a/b").unwrap();
    writer.whiteout(b"a/c").unwrap();
    writer.whiteout(b"d").unwrap();
    let names: Vec<_> = read(&writer.finish().unwrap())
        .unwrap()
        .into_iter()
        .map(|(entry, _)| String::from_utf8(entry.path).unwrap())
        .collect();
    assert_eq!(names, ["a/b/.wh..wh..opq", "a/.wh.c", ".wh.d"]);
}

#[test]
fn times_can_be_clamped() {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Clamp(1000));
    writer.entry(&entry("late", Kind::Fifo)).unwrap();
    writer
        .entry(&Entry {
            mtime: Timestamp::from_seconds(10),
            ..entry("early", Kind::Fifo)
        })
        .unwrap();
    let times: Vec<_> = read(&writer.finish().unwrap())
        .unwrap()
        .iter()
        .map(|(entry, _)| entry.mtime.seconds)
        .collect();
    assert_eq!(times, [1000, 10]);
}

#[test]
fn a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut() {
    let mut writer = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
    assert!(
        writer
            .file(&entry("a", Kind::File { size: 4 }), &mut &b"abc"[..])
            .is_err()
    );
    let tar = written(&[(entry("a", Kind::File { size: 2 }), b"abc".to_vec())]);
    assert_eq!(read(&tar).unwrap()[0].1, b"ab");
}

#[test]
fn what_two_readers_could_understand_differently_is_refused() {
    let check = |parts: &[Vec<u8>], sense: &str| {
        let mut tar = parts.concat();
        tar.extend([0; 1024]);
        let error = read(&tar)
            .map(|entries| format!("{entries:?}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(sense), "expected `{sense}`, got `{error}`");
    };
    let file = |name: &[u8]| raw(name, b'0', 0, b"");
    check(&[file(b"../x")], "upwards");
    check(&[file(b"a/../../x")], "upwards");
    check(&[file(b".")], "root");
    check(&[raw(b".", b'2', 0, b"/etc")], "root");
    check(&[raw(b"a", b'1', 0, b"../../x")], "upwards");
    check(&[raw(b"a", b'2', 0, b"")], "nothing");
    check(&[pax(&[("path", "../x")]), file(b"safe")], "upwards");
    check(&[pax(&[("path", "a\0b")]), file(b"safe")], "NUL");
    check(
        &[
            pax(&[("size", "1024")]),
            raw(b"a", b'0', 512, b""),
            vec![0; 1024],
        ],
        "two different sizes",
    );
    check(&[pax(&[("size", "-1")]), file(b"a")], "not a number");
    check(
        &[pax(&[("path", "a"), ("path", "b")]), file(b"c")],
        "comes twice",
    );
    check(
        &[pax(&[("path", "a")]), pax(&[("path", "b")]), file(b"c")],
        "two extended headers",
    );
    check(&[pax(&[("path", "a")])], "no entry after it");
    check(
        &[raw(b"g", b'g', 0, b""), raw(b"a", b'S', 0, b"")],
        "sparse",
    );
    check(
        &[
            raw(b"a", b'L', 600, b""),
            vec![b'x'; 1024],
            pax(&[("path", "b")]),
            file(b"c"),
        ],
        "both name it",
    );
    check(&[raw(b"a", b'L', 1 << 21, b"")], "layer.max_header_bytes");
    check(&[raw(b"a", b'Z', 0, b"")], "unknown type");
    check(&[vec![b'x'; 512]], "checksum");
    let tar = raw(b"a", b'0', 5, b"");
    let mut reader = LayerReader::new(&tar[..], Limits::default());
    reader.next_entry().unwrap();
    let truncated = reader.next_entry().unwrap_err().to_string();
    assert!(truncated.contains("middle"), "{truncated}");
}

#[test]
fn forms_of_other_tools_are_understood() {
    let mut tar = [
        raw(b"./a/", b'5', 77, b""),
        raw(b"/b//c/./d", b'0', 0, b""),
        raw(b"ignored", b'L', 3, b""),
        [b"e/f".to_vec(), vec![0; 509]].concat(),
        raw(b"cut", b'7', 0, b""),
        raw(b"./", b'5', 0, b""),
    ]
    .concat();
    tar.extend([0; 1024]);
    let names: Vec<_> = read(&tar)
        .unwrap()
        .into_iter()
        .map(|(entry, _)| String::from_utf8(entry.path).unwrap())
        .collect();
    assert_eq!(names, ["a", "b/c/d", "e/f", ""]);
}

#[test]
fn limits_are_named() {
    let tar = written(&[
        (entry("a", Kind::Fifo), vec![]),
        (entry("b", Kind::Fifo), vec![]),
    ]);
    let mut reader = LayerReader::new(
        &tar[..],
        Limits {
            entries: 1,
            ..Limits::default()
        },
    );
    reader.next_entry().unwrap();
    assert!(
        reader
            .next_entry()
            .unwrap_err()
            .to_string()
            .contains("layer.max_entries")
    );
    let mut reader = LayerReader::new(
        &tar[..],
        Limits {
            bytes: 600,
            ..Limits::default()
        },
    );
    reader.next_entry().unwrap();
    assert!(
        reader
            .next_entry()
            .unwrap_err()
            .to_string()
            .contains("layer.max_bytes")
    );
}

fn any_entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let part = "[a-zé.]{1,60}".prop_filter("no dots alone", |part| part != "." && part != "..");
    let path = proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join("/").into_bytes());
    let content = proptest::collection::vec(any::<u8>(), 0..1500);
    let kind = (0..7_u8, path.clone(), 0..1000_u32);
    let id = || prop_oneof![0..70_000_u64, 2_000_000..5_000_000_000_u64];
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z]{1,8}",
        proptest::collection::vec(any::<u8>(), 0..40),
        0..3,
    );
    (
        path,
        kind,
        content,
        0..0o10000_u32,
        id(),
        id(),
        -10_i64..20_000_000_000,
        xattrs,
    )
        .prop_map(
            |(path, (kind, target, number), content, mode, uid, gid, seconds, xattrs)| {
                let kind = match kind {
                    0 => Kind::HardLink { target },
                    1 => Kind::Symlink { target },
                    2 => Kind::Directory,
                    3 => Kind::CharDevice {
                        major: number,
                        minor: number + 1,
                    },
                    4 => Kind::BlockDevice {
                        major: number,
                        minor: number + 1,
                    },
                    5 => Kind::Fifo,
                    _ => Kind::File {
                        size: content.len() as u64,
                    },
                };
                let content = if matches!(kind, Kind::File { .. }) {
                    content
                } else {
                    Vec::new()
                };
                let xattrs = xattrs
                    .into_iter()
                    .map(|(key, value)| (key.into_bytes(), value))
                    .collect();
                (
                    Entry {
                        path,
                        kind,
                        mode,
                        uid,
                        gid,
                        mtime: Timestamp::from_seconds(seconds),
                        xattrs,
                    },
                    content,
                )
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back(entries in proptest::collection::vec(any_entry(), 0..6)) {
        let tar = written(&entries);
        prop_assert_eq!(tar.len() % 512, 0);
        prop_assert_eq!(read(&tar).unwrap(), entries);
    }

    #[test]
    fn the_tar_crate_reads_the_same(mut entries in proptest::collection::vec(any_entry(), 0..6)) {
        // It ends a record at the first line feed, which a value may hold.
        entries.iter_mut().for_each(|(entry, _)| entry.xattrs.clear());
        let tar = written(&entries);
        let mut archive = tar::Archive::new(&tar[..]);
        let mut count = 0;
        for (theirs, (ours, content)) in archive.entries().unwrap().zip(&entries) {
            let mut theirs = theirs.unwrap();
            let path = theirs.path_bytes().into_owned();
            prop_assert_eq!(path.strip_suffix(b"/").unwrap_or(&path), &ours.path[..]);
            prop_assert_eq!(theirs.header().uid().is_ok(), true);
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).unwrap();
            prop_assert_eq!(&read, content);
            count += 1;
        }
        prop_assert_eq!(count, entries.len());
    }

    #[test]
    fn nothing_makes_the_reader_panic(
        entries in proptest::collection::vec(any_entry(), 1..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut tar = written(&entries);
        for (place, byte) in changes {
            let place = place.index(tar.len());
            tar[place] = byte;
        }
        drop(read(&tar));
    }
}
