//! Stories about files that are selected, hashed and copied. Owners other than one's own need root, or `unshare -Ur
//! --map-auto`.

mod properties;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::copy::{Download, Input, run, select};
use super::error::Remark;
use super::*;
use crate::digest::Key;
use crate::dockerfile::ignore::IgnoreFile;
use crate::graph::{Copy, CopySource, FileMode, Graph, InlineFile, Op, Unpack};
use crate::store::{Index, Store};
use crate::sys::dir::{Metadata, Time};
use crate::sys::file::tempdir::TempDir;
use crate::sys::root::{Root, Scope};

/// Files, by path: a trailing `/` is a directory, ` -> ` a link, else the content.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new();
    for (path, content) in files {
        let place = dir.path().join(path.trim_end_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        if path.ends_with('/') {
            fs::create_dir_all(&place).unwrap();
        } else if let Some(target) = content.strip_prefix("-> ") {
            symlink(target, &place).unwrap();
        } else {
            fs::write(&place, content).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    dir
}

fn context(dir: &TempDir, ignored: &str) -> Tree {
    let rules = IgnoreFile::parse(ignored).unwrap();
    let ignore = Ignore {
        rules,
        file: ".dockerignore".to_owned(),
    };
    Tree::context(dir.path(), Some(ignore), "the build context").unwrap()
}

fn copy_of(paths: &[&str], dest: &str) -> Copy {
    let mut graph = Graph::new();
    let (root, from) = (graph.add(Op::Scratch, None), graph.add(Op::Scratch, None));
    Copy {
        root,
        sources: paths
            .iter()
            .map(|path| CopySource::Path {
                from,
                path: (*path).to_owned(),
            })
            .collect(),
        dest: dest.to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: Unpack::Nothing,
    }
}

fn apply(copy: &Copy, source: &Tree, dest: &Path) -> Result<Vec<Remark>, TreeError> {
    let inputs = vec![Input::Tree(source); copy.sources.len()];
    let selected = select(copy, &inputs)?;
    run(
        copy,
        &selected,
        &Root::open_trusted(dest, Scope::Image).unwrap(),
    )
}

/// What is in a directory: path, then mode and content or target.
fn listing(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, lines: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let metadata = entry.path().symlink_metadata().unwrap();
            if metadata.is_dir() {
                lines.insert(
                    format!("{name}/"),
                    format!("{:o}", metadata.mode() & 0o7777),
                );
                walk(&entry.path(), &format!("{name}/"), lines);
            } else if metadata.is_symlink() {
                lines.insert(
                    name,
                    format!("-> {}", fs::read_link(entry.path()).unwrap().display()),
                );
            } else {
                let content = fs::read(entry.path()).unwrap();
                let content = String::from_utf8_lossy(&content);
                lines.insert(name, format!("{:o} {content}", metadata.mode() & 0o7777));
            }
        }
    }
    let mut lines = BTreeMap::new();
    walk(dir, "", &mut lines);
    lines
        .into_iter()
        .map(|(name, what)| format!("{name} {what}"))
        .collect()
}

/// What a COPY of some paths of a context makes of an empty image.
fn copied(source: &Tree, copy: &Copy) -> Vec<String> {
    let dest = TempDir::new();
    apply(copy, source, dest.path()).unwrap();
    listing(dest.path())
}

fn message(error: &TreeError) -> String {
    use miette::Diagnostic;
    format!(
        "{error}; {}",
        error
            .help()
            .map(|help| help.to_string())
            .unwrap_or_default()
    )
}

fn later() -> Time {
    #[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
    Time::from(SystemTime::now() + Duration::from_secs(10))
}

fn reading(index: Option<&Index>) -> Reading<'_> {
    Reading {
        index,
        now: later(),
        jobs: NonZeroUsize::new(2),
        listing: None,
    }
}

fn digest(source: &Tree, copy: &Copy, index: Option<&Index>) -> Vec<Key> {
    let inputs = vec![Input::Tree(source); copy.sources.len()];
    select(copy, &inputs)
        .unwrap()
        .digests(copy, &reading(index))
        .unwrap()
}

#[test]
fn files_and_directories_go_where_buildkit_puts_them() {
    let dir = tree(&[
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("dir/x", "x"),
        ("dir/sub/y", "y"),
        ("dir/link", "-> /etc/passwd"),
        ("file-link", "-> dir/x"),
        ("dir-link", "-> /dir"),
    ]);
    let source = context(&dir, "");
    for (paths, dest, expected) in [
        (&["a.txt"][..], "/new", &["new 644 a"][..]),
        (&["a.txt"], "/new/", &["new/ 755", "new/a.txt 644 a"]),
        (&["a.txt"], "/", &["a.txt 644 a"]),
        (
            &["a.txt", "b.txt"],
            "/d/",
            &["d/ 755", "d/a.txt 644 a", "d/b.txt 644 b"],
        ),
        (
            &["*.txt"],
            "/d/",
            &["d/ 755", "d/a.txt 644 a", "d/b.txt 644 b"],
        ),
        (&["[b-c].txt"], "/d", &["d 644 b"]),
        (&["*.none"], "/d/", &[]),
        (
            &["dir"],
            "/d",
            &[
                "d/ 755",
                "d/link -> /etc/passwd",
                "d/sub/ 755",
                "d/sub/y 644 y",
                "d/x 644 x",
            ],
        ),
        (&["dir/sub/"], "/", &["y 644 y"]),
        (&["/dir/*"], "/d/", &["d/ 755", "d/x 644 x", "d/y 644 y"]),
        (
            &["../dir/../a.txt"],
            "/e/f/g",
            &["e/ 755", "e/f/ 755", "e/f/g 644 a"],
        ),
        (&["file-link"], "/x/", &["x/ 755", "x/file-link 644 x"]),
        (&["dir-link/sub"], "/s", &["s/ 755", "s/y 644 y"]),
        (&["dir-link/su?"], "/s/", &["s/ 755", "s/y 644 y"]),
    ] {
        let without_link: Vec<_> = copied(&source, &copy_of(paths, dest))
            .into_iter()
            .filter(|line| !line.starts_with("d/link -> nowhere"))
            .collect();
        assert_eq!(without_link, expected, "COPY {paths:?} {dest}");
    }
}

#[test]
fn links_of_a_context_never_show_the_host() {
    let dir = tree(&[
        ("out", "-> /etc/passwd"),
        ("up", "-> ../../../../etc/passwd"),
        ("all", "-> /"),
        ("etc/passwd", "the context's own"),
        ("sub/rel", "-> ../etc"),
    ]);
    let source = context(&dir, "");
    for path in [
        "out",
        "up",
        "all/etc/passwd",
        "sub/rel/passwd",
        "all/all/up",
    ] {
        assert_eq!(
            copied(&source, &copy_of(&[path], "/x")),
            ["x 644 the context's own"],
            "{path}"
        );
    }
}

#[test]
fn what_is_in_the_way_is_replaced_or_refused() {
    let dir = tree(&[
        ("file", "new"),
        ("dir/file", "new"),
        ("dir/sub/deep", "new"),
        ("clash/sub", "a file"),
    ]);
    let source = context(&dir, "");
    let image = || {
        tree(&[
            ("etc/old", "old"),
            ("opt", "-> usr/opt"),
            ("usr/opt/file", "old"),
            ("abs", "-> /usr/opt"),
            ("d/sub/kept", "kept"),
            ("d/file", "-> ../etc/old"),
            ("dangling", "-> /made/here"),
        ])
    };
    let line = |dir: &TempDir, name: &str| {
        listing(dir.path())
            .into_iter()
            .find(|line| line.starts_with(name))
    };
    let dest = image();
    apply(&copy_of(&["file"], "/opt/"), &source, dest.path()).unwrap();
    assert_eq!(line(&dest, "usr/opt/file").unwrap(), "usr/opt/file 644 new");
    apply(&copy_of(&["dir/sub"], "/abs"), &source, dest.path()).unwrap();
    assert_eq!(line(&dest, "usr/opt/deep").unwrap(), "usr/opt/deep 644 new");
    apply(&copy_of(&["file"], "/dangling"), &source, dest.path()).unwrap();
    assert_eq!(line(&dest, "made/here").unwrap(), "made/here 644 new");
    apply(&copy_of(&["dir"], "/d"), &source, dest.path()).unwrap();
    assert_eq!(
        line(&dest, "d/file").unwrap(),
        "d/file 644 new",
        "a link is replaced, not written through"
    );
    assert_eq!(line(&dest, "etc/old").unwrap(), "etc/old 644 old");
    assert_eq!(line(&dest, "d/sub/kept").unwrap(), "d/sub/kept 644 kept");

    for (path, to, problem) in [
        ("clash", "/d", "`/d/sub` is a directory"),
        ("dir", "/etc/old", "`/etc/old` is not a directory"),
        ("file", "/etc/old/", "`/etc/old` is not a directory"),
        ("file", "/etc/old/x", "`/etc/old` is not a directory"),
    ] {
        let error = apply(&copy_of(&[path], to), &source, image().path()).unwrap_err();
        assert!(message(&error).contains(problem), "{}", message(&error));
    }
    // As BuildKit has it, the last one stays; but it is said.
    let several = copy_of(&["dir/file", "clash/sub"], "/one");
    let remarks = apply(&several, &source, dest.path()).unwrap();
    assert_eq!(
        remarks,
        [Remark::Several {
            dest: "/one".to_owned()
        }]
    );
}

#[test]
fn what_is_linked_replaces_what_is_in_the_way() {
    let source = tree(&[("d/sub/f", "new"), ("f", "new")]);
    let source = context(&source, "");
    let dest = tree(&[
        ("real/", ""),
        ("a", "-> /real"),
        ("b/sub", "old"),
        ("c/f/kept", "old"),
        ("e/kept", "old"),
    ]);
    fs::set_permissions(dest.path().join("e"), fs::Permissions::from_mode(0o700)).unwrap();
    for (path, to) in [("d", "/a/"), ("d", "/b"), ("f", "/c/"), ("f", "/e/")] {
        let mut copy = copy_of(&[path], to);
        copy.link = true;
        apply(&copy, &source, dest.path()).unwrap();
    }
    assert_eq!(
        listing(dest.path()),
        [
            "a/ 755",
            "a/sub/ 755",
            "a/sub/f 644 new",
            "b/ 755",
            "b/sub/ 755",
            "b/sub/f 644 new",
            "c/ 755",
            "c/f 644 new",
            "e/ 755",
            "e/f 644 new",
            "e/kept 644 old",
            "real/ 755",
        ]
    );
}

#[test]
fn existing_directories_keep_their_mode_only_as_the_destination() {
    let dir = tree(&[("src/sub/f", "f")]);
    fs::set_permissions(dir.path().join("src"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(
        dir.path().join("src/sub"),
        fs::Permissions::from_mode(0o750),
    )
    .unwrap();
    let source = context(&dir, "");
    let dest = tree(&[("d/sub/", "")]);
    for path in ["d", "d/sub"] {
        fs::set_permissions(dest.path().join(path), fs::Permissions::from_mode(0o711)).unwrap();
    }
    apply(&copy_of(&["src"], "/d"), &source, dest.path()).unwrap();
    assert_eq!(
        listing(dest.path()),
        ["d/ 711", "d/sub/ 750", "d/sub/f 644 f"]
    );
    assert_eq!(
        copied(&source, &copy_of(&["src"], "/new")),
        ["new/ 755", "new/sub/ 750", "new/sub/f 644 f"]
    );
    assert_eq!(copied(&source, &copy_of(&["src"], "/new/"))[0], "new/ 755");
}

#[test]
fn a_missing_source_says_why() {
    let dir = tree(&[
        ("src/main.rs", ""),
        ("README.md", ""),
        ("secret/key", ""),
        ("log.txt", ""),
    ]);
    let source = context(&dir, "# nothing\nsecret\n*.txt\n");
    for (path, says) in [
        (
            "src/mian.rs",
            "`src/mian.rs` is not in the build context; did you mean `src/main.rs`?",
        ),
        (
            "Readme.md",
            "`Readme.md` is not in the build context; did you mean `README.md`?",
        ),
        (
            "nothing/at/all",
            "`nothing/at/all` is not in the build context; at its top there are README.md, src",
        ),
        (
            "secret/key",
            "`secret/key` is in the build context, but line 2 of `.dockerignore` leaves it out; add the line",
        ),
        ("./log.txt", "line 3 of `.dockerignore` leaves it out"),
    ] {
        let error = select(&copy_of(&[path], "/"), &[Input::Tree(&source)]).unwrap_err();
        assert!(message(&error).contains(says), "{}", message(&error));
    }
}

#[test]
fn what_is_ignored_is_neither_copied_nor_opened() {
    let dir = tree(&[
        ("a", ""),
        ("node_modules/deep/x", ""),
        ("keep/in/a", ""),
        ("keep/out", ""),
        ("empty/x", ""),
    ]);
    fs::set_permissions(
        dir.path().join("node_modules"),
        fs::Permissions::from_mode(0o0),
    )
    .unwrap();
    let source = context(&dir, "node_modules\nkeep\n!keep/in\nempty/*\n");
    assert_eq!(
        copied(&source, &copy_of(&["."], "/")),
        [
            "a 644 ",
            "empty/ 755",
            "keep/ 755",
            "keep/in/ 755",
            "keep/in/a 644 "
        ]
    );
    let all = context(&dir, "**\n!a");
    assert_eq!(copied(&all, &copy_of(&["."], "/d")), ["d/ 755", "d/a 644 "]);
    assert_eq!(
        copied(&all, &copy_of(&["*"], "/d/")),
        ["d/ 755", "d/a 644 "]
    );
}

#[test]
fn exclude_and_parents() {
    let dir = tree(&[
        ("x/a/one.txt", "1"),
        ("x/a/two.md", "2"),
        ("x/b/three.txt", "3"),
        ("top.txt", "t"),
        ("top.md", "m"),
    ]);
    let source = context(&dir, "");
    let mut copy = copy_of(&["x"], "/d");
    copy.exclude = vec!["**/*.md".to_owned(), "b".to_owned()];
    assert_eq!(
        copied(&source, &copy),
        ["d/ 755", "d/a/ 755", "d/a/one.txt 644 1"]
    );
    let mut copy = copy_of(&["top*"], "/d/");
    copy.exclude = vec!["*.md".to_owned()];
    assert_eq!(copied(&source, &copy), ["d/ 755", "d/top.txt 644 t"]);

    let with_parents = |path: &str| {
        let mut copy = copy_of(&[path], "/d");
        copy.parents = true;
        copied(&source, &copy)
    };
    assert_eq!(
        with_parents("x/a/one.txt"),
        ["d/ 755", "d/x/ 755", "d/x/a/ 755", "d/x/a/one.txt 644 1"]
    );
    assert_eq!(
        with_parents("x/./a/*.txt"),
        ["d/ 755", "d/a/ 755", "d/a/one.txt 644 1"]
    );
    assert_eq!(
        with_parents("x/**/*.txt"),
        [
            "d/ 755",
            "d/x/ 755",
            "d/x/a/ 755",
            "d/x/a/one.txt 644 1",
            "d/x/b/ 755",
            "d/x/b/three.txt 644 3"
        ]
    );
    assert_eq!(
        with_parents("x/b"),
        ["d/ 755", "d/x/ 755", "d/x/b/ 755", "d/x/b/three.txt 644 3"]
    );
    assert_eq!(with_parents("none*/x"), ["d/ 755"]);
    let mut missing = copy_of(&["x/none"], "/d");
    missing.parents = true;
    assert!(select(&missing, &[Input::Tree(&source)]).is_err());
}

#[test]
fn modes_heredocs_and_downloads() {
    let dir = tree(&[("dir/run.sh", "#!"), ("dir/data", "")]);
    fs::set_permissions(
        dir.path().join("dir/run.sh"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    let source = context(&dir, "");
    let mut copy = copy_of(&["dir"], "/d");
    copy.chmod = Some(FileMode::Symbolic("u=rwX,go=rX".to_owned()));
    assert_eq!(
        copied(&source, &copy),
        ["d/ 755", "d/data 644 ", "d/run.sh 755 #!"]
    );
    copy.chmod = Some(FileMode::Octal(0o600));
    assert_eq!(
        copied(&source, &copy),
        ["d/ 600", "d/data 600 ", "d/run.sh 600 #!"]
    );

    let mut copy = copy_of(&[], "/d/");
    copy.sources.push(CopySource::Inline(InlineFile {
        name: "motd".to_owned(),
        content: "hello\n".to_owned(),
    }));
    let from = copy.root;
    copy.sources.push(CopySource::Download { from });
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.path().join("fetched"))
        .unwrap();
    file.write_all(b"bytes").unwrap();
    let modified = Time {
        seconds: 1_000_000_000,
        nanoseconds: 5,
    };
    let download = Download {
        file,
        name: "f.bin".to_owned(),
        modified: Some(modified),
        content: "x".to_owned(),
    };
    let selected = select(&copy, &[Input::Nothing, Input::Download(&download)]).unwrap();
    let dest = TempDir::new();
    run(
        &copy,
        &selected,
        &Root::open_trusted(dest.path(), Scope::Image).unwrap(),
    )
    .unwrap();
    assert_eq!(
        listing(dest.path()),
        ["d/ 755", "d/f.bin 600 bytes", "d/motd 644 hello\n"]
    );
    assert_eq!(
        fs::metadata(dest.path().join("d/f.bin")).unwrap().mtime(),
        1_000_000_000
    );
}

/// As it is recorded, where there is one id only.
fn owner_of(path: &Path) -> (u32, u32) {
    let seen = Metadata::of_open(fs::File::open(path).unwrap()).unwrap();
    (seen.uid, seen.gid)
}

#[test]
fn owners_are_root_or_those_asked_for() {
    crate::sys::owner::record_where_there_is_one_id();
    let dir = tree(&[("file", "x"), ("sub/f", "y")]);
    let source = context(&dir, "");
    let dest = tree(&[
        ("etc/passwd", "root:x:0:0:::\nweb:x:33:44:::\n"),
        ("etc/group", "www:x:55:\n"),
    ]);
    let owner = |path: &str| owner_of(&dest.path().join(path));
    let mut copy = copy_of(&["file"], "/a/file");
    copy.chown = Some("web".to_owned());
    if let Err(error) = apply(&copy, &source, dest.path()) {
        return println!("skip: owners cannot be changed here: {error}");
    }
    assert_eq!((owner("a/file"), owner("a")), ((33, 44), (33, 44)));
    for (written, expected) in [
        ("12", (12, 12)),
        ("web:www", (33, 55)),
        ("12:www", (12, 55)),
        ("web:7", (33, 7)),
    ] {
        copy.chown = Some(written.to_owned());
        apply(&copy, &source, dest.path()).unwrap();
        assert_eq!(owner("a/file"), expected, "{written}");
    }
    // As BuildKit has it, a name that is not there is root; but it is said, and nobody's in an empty image is an error.
    copy.chown = Some("nobody:www".to_owned());
    assert_eq!(
        apply(&copy, &source, dest.path()).unwrap(),
        [Remark::UnknownOwner {
            what: "user",
            name: "nobody".to_owned()
        }]
    );
    assert_eq!(owner("a/file"), (0, 55));
    let error = apply(&copy, &source, TempDir::new().path()).unwrap_err();
    assert!(
        message(&error).contains("the image has no user `nobody`"),
        "{}",
        message(&error)
    );
    copy.chown = Some("33".to_owned());
    apply(&copy, &source, dest.path()).unwrap();

    // A stage's files keep theirs.
    let stage = Tree::mounted(
        Root::open_trusted(dest.path(), Scope::Image).unwrap(),
        "the stage base",
    );
    let again = TempDir::new();
    apply(&copy_of(&["a/file"], "/kept"), &stage, again.path()).unwrap();
    assert_eq!(owner_of(&again.path().join("kept")).0, 33);
    copy::make_dirs(stage.root(), Path::new("/a/b/../w/d"), (33, 55), 0o755).unwrap();
    assert_eq!(owner("a/w/d"), (33, 55));
}

#[test]
fn hard_links_holes_times_and_sockets_come_along() {
    let dir = tree(&[("d/one", "linked")]);
    fs::hard_link(dir.path().join("d/one"), dir.path().join("d/two")).unwrap();
    let sparse = fs::File::create(dir.path().join("d/sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_234_567);
    sparse.set_modified(old).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("d/socket")).unwrap());
    let source = context(&dir, "");
    let dest = TempDir::new();
    apply(&copy_of(&["d"], "/d"), &source, dest.path()).unwrap();
    let metadata = |name: &str| fs::symlink_metadata(dest.path().join("d").join(name)).unwrap();
    assert_eq!(metadata("one").ino(), metadata("two").ino());
    assert!(metadata("sparse").blocks() < 100 && metadata("sparse").len() == 10 << 20);
    assert_eq!(metadata("sparse").modified().unwrap(), old);
    assert!(metadata("socket").is_file());
}

#[test]
fn archives_are_unpacked_inside_the_image() {
    let dir = tree(&[("not.tar.gz", "no archive at all, whatever its name says")]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, link: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000);
        if link.is_empty() {
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        } else {
            builder.append_link(&mut header, name, link).unwrap();
        }
    };
    add("var/run/act/", tar::EntryType::Directory, "", "");
    add("var/run/act/HEAD", tar::EntryType::Regular, "", "main");
    add(
        "var/run/act/LINK",
        tar::EntryType::Link,
        "var/run/act/HEAD",
        "",
    );
    add("out", tar::EntryType::Symlink, "/etc", "");
    add("out/motd", tar::EntryType::Regular, "", "inside");
    let plain = builder.into_inner().unwrap();
    fs::write(dir.path().join("a.tar"), &plain).unwrap();
    fs::write(
        dir.path().join("b"),
        zstd::encode_all(&plain[..], 1).unwrap(),
    )
    .unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    fs::write(dir.path().join("c"), gzip.finish().unwrap()).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    fs::write(dir.path().join("d"), xz.finish().unwrap()).unwrap();
    let source = context(&dir, "");
    for name in ["a.tar", "b", "c", "d"] {
        let dest = tree(&[("run/", ""), ("var/run", "-> /run")]);
        let mut copy = copy_of(&[name], "/");
        copy.unpack = Unpack::Everything;
        apply(&copy, &source, dest.path()).unwrap();
        let lines = listing(dest.path());
        let expected = [
            "etc/ 755",
            "etc/motd 755 inside",
            "out -> /etc",
            "run/ 755",
            "run/act/ 755",
            "run/act/HEAD 755 main",
            "run/act/LINK 755 main",
            "var/ 755",
            "var/run -> /run",
        ];
        assert_eq!(lines, expected, "{name}");
        assert_eq!(
            fs::metadata(dest.path().join("run/act")).unwrap().mtime(),
            1_000_000
        );
        copy.unpack = Unpack::Nothing;
        assert_eq!(copied(&source, &copy).len(), 1);
    }
    let mut copy = copy_of(&["not.tar.gz"], "/x/");
    copy.unpack = Unpack::Everything;
    assert_eq!(copied(&source, &copy).len(), 2);
}

#[test]
fn an_archive_that_leads_out_is_refused() {
    let dir = TempDir::new();
    for (name, link) in [
        ("../evil", None),
        ("a/../../evil", None),
        ("x", Some("../../../etc/passwd")),
    ] {
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        header.set_size(0);
        header.set_entry_type(if link.is_some() {
            tar::EntryType::Link
        } else {
            tar::EntryType::Regular
        });
        if let Some(link) = link {
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b""[..]).unwrap();
        fs::write(dir.path().join("evil.tar"), builder.into_inner().unwrap()).unwrap();
        let mut copy = copy_of(&["evil.tar"], "/a/b/");
        copy.unpack = Unpack::Everything;
        let dest = TempDir::new();
        let error = apply(&copy, &context(&dir, ""), dest.path()).unwrap_err();
        assert!(
            message(&error).contains("leads out of it"),
            "{}",
            message(&error)
        );
        assert_eq!(listing(dest.path()), ["a/ 755", "a/b/ 755"]);
    }
}

#[test]
fn a_digest_is_of_what_was_selected_and_nothing_else() {
    let dir = tree(&[("a/x", "1"), ("a/y", "2"), ("b", "3"), ("l", "-> b")]);
    let source = context(&dir, "");
    let copy = copy_of(&["a", "*"], "/d/");
    let before = digest(&source, &copy, None);
    let mut plain = copy.clone();
    plain.sources.truncate(1);

    fs::write(dir.path().join("b"), "changed").unwrap();
    let after = digest(&source, &copy, None);
    assert_eq!(after[0], before[0], "b is not in a");
    assert_ne!(after[1], before[1]);

    fs::File::open(dir.path().join("a/x"))
        .unwrap()
        .set_modified(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(
        digest(&source, &plain, None)[0],
        before[0],
        "times do not count"
    );
    fs::set_permissions(dir.path().join("a/x"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(digest(&source, &plain, None)[0], before[0], "modes do");
    let mut chmod = plain.clone();
    chmod.chmod = Some(FileMode::Octal(0o644));
    let with_mode = digest(&source, &chmod, None);
    fs::set_permissions(dir.path().join("a/x"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        digest(&source, &chmod, None),
        with_mode,
        "unless they are replaced"
    );
    assert_eq!(digest(&source, &plain, None)[0], before[0]);
    fs::rename(dir.path().join("a/x"), dir.path().join("a/z")).unwrap();
    assert_ne!(digest(&source, &plain, None)[0], before[0], "names do");
    fs::rename(dir.path().join("a"), dir.path().join("c")).unwrap();
    let renamed = digest(&source, &copy_of(&["c"], "/d/"), None);
    fs::rename(dir.path().join("c/z"), dir.path().join("c/x")).unwrap();
    assert_ne!(renamed[0], before[0]);
    assert_eq!(
        digest(&source, &copy_of(&["c"], "/d/"), None)[0],
        before[0],
        "a directory's own does not"
    );
}

#[test]
fn an_edit_that_keeps_size_and_time_is_noticed() {
    let store_dir = TempDir::new();
    let store = Store::open(store_dir.path()).unwrap();
    let index = store.index().unwrap();
    let dir = tree(&[("d/file", "aaaa"), ("d/other", "bbbb"), ("single", "cccc")]);
    let source = context(&dir, "");
    let copy = copy_of(&["d", "single"], "/d/");
    let first = digest(&source, &copy, Some(index));
    assert_eq!(digest(&source, &copy, Some(index)), first);
    for path in ["d/file", "single"] {
        let file = dir.path().join(path);
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "zzzz").unwrap();
        fs::File::open(&file)
            .unwrap()
            .set_modified(modified)
            .unwrap();
    }
    let edited = digest(&source, &copy, Some(index));
    assert!(edited[0] != first[0] && edited[1] != first[1]);
    assert_eq!(edited, digest(&source, &copy, None));
}

#[test]
fn what_changed_a_moment_ago_is_not_believed() {
    let store_dir = TempDir::new();
    let store = Store::open(store_dir.path()).unwrap();
    let index = store.index().unwrap();
    let dir = tree(&[("file", "aaaa")]);
    let source = context(&dir, "");
    let copy = copy_of(&["."], "/d/");
    let selected = select(&copy, &[Input::Tree(&source)]).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
    let now = Time::from(SystemTime::now());
    let early = Reading {
        now,
        ..reading(Some(index))
    };
    selected.digests(&copy, &early).unwrap();
    assert_eq!(index.stat_rows(&source.cache.unwrap(), b"").unwrap(), []);
    selected.digests(&copy, &reading(Some(index))).unwrap();
    assert_eq!(
        index.stat_rows(&source.cache.unwrap(), b"").unwrap().len(),
        1
    );
}

#[test]
fn a_file_that_changes_between_hashing_and_copying_is_an_error() {
    let dir = tree(&[("d/file", "aaaa")]);
    let source = context(&dir, "");
    let copy = copy_of(&["d"], "/d");
    let selected = select(&copy, &[Input::Tree(&source)]).unwrap();
    fs::write(dir.path().join("d/file"), "bbbb").unwrap();
    let dest = TempDir::new();
    let error = run(
        &copy,
        &selected,
        &Root::open_trusted(dest.path(), Scope::Image).unwrap(),
    )
    .unwrap_err();
    assert!(
        message(&error).starts_with("`d/file` changed while it was read"),
        "{}",
        message(&error)
    );
    fs::remove_file(dir.path().join("d/file")).unwrap();
    let error = selected.digests(&copy, &reading(None)).unwrap_err();
    assert!(
        matches!(error, TreeError::Changed { .. }),
        "{}",
        message(&error)
    );
}

#[test]
fn many_files_are_walked_quickly() {
    let store_dir = TempDir::new();
    let store = Store::open(store_dir.path()).unwrap();
    let index = store.index().unwrap();
    let dir = TempDir::new();
    for number in 0..4_000 {
        let sub = dir
            .path()
            .join(format!("d{}/s{}", number / 1000, number / 100 % 10));
        if number % 100 == 0 {
            fs::create_dir_all(&sub).unwrap();
        }
        fs::write(sub.join(format!("file-{number}")), number.to_string()).unwrap();
    }
    let source = context(&dir, "*.log\n.git\n");
    let copy = copy_of(&["."], "/d/");
    for round in ["cold", "nothing changed", "nothing changed"] {
        let start = std::time::Instant::now();
        let selected = select(&copy, &[Input::Tree(&source)]).unwrap();
        let walked = start.elapsed();
        selected.digests(&copy, &reading(Some(index))).unwrap();
        println!(
            "4,000 files, {round}: walk {walked:?}, all {:?}",
            start.elapsed()
        );
    }
    let selected = select(&copy, &[Input::Tree(&source)]).unwrap();
    let dest = TempDir::new();
    let start = std::time::Instant::now();
    run(
        &copy,
        &selected,
        &Root::open_trusted(dest.path(), Scope::Image).unwrap(),
    )
    .unwrap();
    println!("4,000 files, copied: {:?}", start.elapsed());
}
