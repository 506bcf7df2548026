//! The text of a lock, and the names in it.

use super::*;
use crate::digest::Digest;
use crate::graph::{DebianSource, OciLayoutSource};

fn lock() -> Lock {
    Lock {
        file: "config.lock".to_owned(),
        habitat: "config.yaml".to_owned(),
        directory: "/home/dev/project".into(),
        mode: Mode::Open,
        entries: Vec::new(),
        places: Vec::new(),
    }
}

fn repository(url: &str, reference: Option<&str>) -> Source {
    Source::Git(GitSource {
        url: url.to_owned(),
        reference: reference.map(str::to_owned),
        is_short: true,
        checksum: None,
        fetch_by_commit: false,
        subdir: None,
        depth: None,
        submodules: false,
        keep_git_dir: true,
        remote: None,
        read_only: false,
        secret: None,
    })
}

fn package(name: &str) -> PinnedPackage {
    PinnedPackage {
        name: name.to_owned(),
        version: "1:2.0+deb12u1~x".to_owned(),
        arch: "amd64".to_owned(),
        suite: "bookworm".to_owned(),
        path: format!("pool/main/x/{name}_2.0+deb12u1_amd64.deb"),
        size_bytes: 17,
        sha256: Digest::of(name.as_bytes()),
    }
}

fn entries() -> Vec<Entry> {
    let entry = |source: &str, platform: Option<&str>, pin| Entry {
        source: source.to_owned(),
        platform: platform.map(str::to_owned),
        pin,
    };
    let digest = Digest::of(b"");
    vec![
        entry(
            "https://example.org/x.git#main",
            None,
            Pin::Git(GitPin {
                commit: "1".repeat(40),
                reference: Some("refs/tags/v1".to_owned()),
                tag: Some("2".repeat(40)),
            }),
        ),
        entry(
            "debian://bookworm",
            Some("linux/amd64"),
            Pin::Debian(DebianPin {
                releases: vec![PinnedRelease {
                    suite: "bookworm".to_owned(),
                    date: 1_783_764_997,
                    index: digest,
                }],
                base: vec![package("apt"), package("libstdc++6")],
                packages: Vec::new(),
            }),
        ),
        entry(
            "https://example.org/tool",
            None,
            Pin::Http(HttpPin {
                sha256: digest,
                size_bytes: 0,
                modified: 1_783_764_997,
            }),
        ),
        entry(
            "debian",
            Some("linux/arm64"),
            Pin::Image(ImagePin { digest }),
        ),
    ]
}

#[test]
fn a_lock_is_read_as_it_was_written_sorted_and_one_package_a_line() {
    let text = print(&entries());
    let mut sorted = entries();
    sorted.sort_by(|one, other| one.source.cmp(&other.source));
    assert_eq!(parse(&text), Ok(sorted));
    let mut reversed = entries();
    reversed.reverse();
    assert_eq!(print(&reversed), text);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines[1], "\"version\": 1,");
    let apt = format!(
        "\"apt 1:2.0+deb12u1~x amd64 bookworm pool/main/x/apt_2.0+deb12u1_amd64.deb 17 {}\",",
        Digest::of(b"apt")
    );
    assert!(lines.contains(&apt.as_str()), "{text}");
    assert!(
        text.contains("\"date\": \"2026-07-11T10:16:37Z\""),
        "{text}"
    );
}

#[test]
fn what_is_no_lock_is_refused_with_its_line() {
    let line = |text: &str| match parse(text).unwrap_err() {
        FileError::Malformed { line, .. } => line,
        error => panic!("{error}"),
    };
    assert_eq!(line("{\n  \"version\": 1,\n<<<<<<< HEAD\n"), 3);
    assert_eq!(line("{ \"version\": 1, \"sources\": [],\n\"more\": 1 }"), 2);
    assert_eq!(
        parse("{ \"version\": 7 }"),
        Err(FileError::Version { found: 7 })
    );
    // A stray package, a name that leads out of the store, a reference that is an option.
    for (from, to) in [
        (" bookworm pool", " trixie pool"),
        ("\"apt 1:", "\"../apt 1:"),
        (" pool/main/x/apt", " ../../x/apt"),
        (" pool/main/x/apt", " /x/apt"),
        ("apt 1:2.0", "apt 1:2/../0"),
        ("refs/tags/v1", "--upload-pack=x"),
        ("refs/tags/v1", "refs/tags/../x"),
        ("1111111111", "zzzzzzzzzz"),
    ] {
        let text = print(&entries());
        assert!(text.contains(from), "{from}");
        assert!(line(&text.replacen(from, to, 1)) > 1, "{from} -> {to}");
    }
}

#[test]
fn what_lies_on_this_machine_is_named_from_the_lock() {
    let name = |source: &Source| lock().name(source).unwrap();
    assert_eq!(
        name(&repository("/home/dev/project/repos/x", Some("main"))),
        "./repos/x#main"
    );
    assert_eq!(name(&repository("/home/dev/other", None)), "../other");
    assert_eq!(name(&repository("/srv/git/x", None)), "/srv/git/x");
    let layout = Source::OciLayout(OciLayoutSource {
        path: "/home/dev/project".to_owned(),
        tag: Some("v1".to_owned()),
        digest: None,
        platform: None,
    });
    assert_eq!(name(&layout), "oci-layout://./:v1");
    // An address is what it is, but for what nobody should read.
    assert_eq!(
        name(&repository("https://me:secret@example.org/x.git", None)),
        lock()
            .name(&repository("https://example.org/x.git", None))
            .unwrap()
    );
}

#[test]
fn a_pinned_base_is_that_which_was_resolved() {
    let source = DebianSource {
        suite: "bookworm".to_owned(),
        packages: vec!["git".to_owned()],
        mirror: None,
        arch: "amd64".to_owned(),
    };
    let pin = DebianPin {
        releases: vec![PinnedRelease {
            suite: "bookworm".to_owned(),
            date: 1_783_764_997,
            index: Digest::of(b""),
        }],
        base: vec![package("apt")],
        packages: vec![package("git")],
    };
    let resolution = pin.resolution(&source, |suite| format!("http://mirror/{suite}"));
    assert_eq!(resolution.pockets[0].archive, "http://mirror/bookworm");
    assert_eq!(resolution.release_date_s, 1_783_764_997);
    // Where packages are fetched from is no part of what they are.
    let elsewhere = pin.resolution(&source, |_| "http://elsewhere".to_owned());
    assert_eq!(elsewhere.key(), resolution.key());
    let selection = pin.selection(&source);
    assert_eq!(selection.names, ["git"]);
    assert_eq!(selection.packages[0].sha256, Digest::of(b"git"));
}
