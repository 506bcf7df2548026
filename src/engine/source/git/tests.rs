//! Small repositories, made by git itself with fixed names and times.

use std::process::Command;

use super::*;

/// Runs git in a directory, as a person would.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("/usr/bin/git")
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs([
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/nonexistent"),
            ("GIT_AUTHOR_NAME", "A"),
            ("GIT_AUTHOR_EMAIL", "a@b"),
            ("GIT_COMMITTER_NAME", "A"),
            ("GIT_COMMITTER_EMAIL", "a@b"),
            ("GIT_AUTHOR_DATE", "1700000000 +0000"),
            ("GIT_COMMITTER_DATE", "1700000000 +0000"),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Place {
    scratch: PathBuf,
    repository: PathBuf,
}

impl Place {
    fn new(name: &str) -> Option<Self> {
        if !Path::new("/usr/bin/git").exists() {
            println!("skip: git is not installed");
            return None;
        }
        let scratch = crate::engine::source::scratch(name);
        let repository = scratch.join("repository");
        fs::create_dir(&repository).unwrap();
        git(&repository, &["init", "-q", "-b", "trunk"]);
        fs::write(repository.join("a.txt"), "one\n").unwrap();
        fs::create_dir(repository.join("bin")).unwrap();
        fs::write(repository.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(
            repository.join("bin/run"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        std::os::unix::fs::symlink("a.txt", repository.join("link")).unwrap();
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "-q", "-m", "one"]);
        git(&repository, &["tag", "-a", "-m", "first", "v1"]);
        fs::write(repository.join("a.txt"), "two\n").unwrap();
        git(&repository, &["commit", "-q", "-a", "-m", "two"]);
        Some(Self {
            scratch,
            repository,
        })
    }

    fn mirrors(&self, name: &str) -> Git {
        let mirrors = self.scratch.join(name);
        fs::create_dir_all(&mirrors).unwrap();
        Git::new(Settings {
            program: "/usr/bin/git".into(),
            mirrors,
            proxies: Proxies::default(),
            ca_file: None,
            ssh: Ssh::default(),
            credentials: Vec::new(),
            tokens: Vec::new(),
        })
    }

    fn source(&self) -> GitSource {
        GitSource {
            url: self.repository.to_string_lossy().into_owned(),
            reference: None,
            checksum: None,
            is_short: true,
            fetch_by_commit: false,
            subdir: None,
            depth: None,
            submodules: false,
            keep_git_dir: false,
            remote: None,
            read_only: false,
            secret: None,
        }
    }

    fn check_out(&self, git: &Git, source: &GitSource, name: &str) -> PathBuf {
        let into = self.scratch.join(name);
        fs::create_dir(&into).unwrap();
        let resolved = git.resolve(source).unwrap();
        git.checkout(source, &resolved, &into).unwrap();
        into
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.scratch));
    }
}

/// Everything that a layer would keep of a tree.
fn listing(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            Key::of(&fs::read(&path).unwrap()).to_string()
        } else {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            String::new()
        };
        lines.push(format!(
            "{} {:o} {} {content}",
            path.strip_prefix(root).unwrap().display(),
            meta.mode(),
            meta.mtime()
        ));
    }
    lines.sort();
    lines
}

#[test]
fn references_mean_commits() {
    let Some(place) = Place::new("git-resolve") else {
        return;
    };
    let mirrors = place.mirrors("mirrors");
    let head = git(&place.repository, &["rev-parse", "HEAD"]);
    let first = git(&place.repository, &["rev-parse", "v1^{commit}"]);
    let resolve = |reference: Option<&str>| {
        mirrors.resolve(&GitSource {
            reference: reference.map(str::to_owned),
            ..place.source()
        })
    };
    assert_eq!(resolve(None).unwrap().branch(), Some("trunk"));
    assert_eq!(resolve(None).unwrap().commit, head);
    assert_eq!(resolve(Some("v1")).unwrap().commit, first);
    assert_eq!(resolve(Some(&first)).unwrap().commit, first);
    assert_eq!(resolve(Some(&first[..8])).unwrap().commit, first);
    let error = resolve(Some("truk")).unwrap_err();
    assert_eq!(error.fault(), crate::engine::source::Fault::Input);
    assert!(
        miette::Diagnostic::help(&error)
            .unwrap()
            .to_string()
            .contains("trunk, v1")
    );
}

#[test]
fn the_same_commit_is_the_same_bytes() {
    let Some(place) = Place::new("git-same") else {
        return;
    };
    let source = GitSource {
        keep_git_dir: true,
        read_only: true,
        remote: Some("https://me:s3cret@example.org/x.git".to_owned()),
        ..place.source()
    };
    let one = place.check_out(&place.mirrors("mirrors-one"), &source, "one");
    // Another mirror, with another history of fetches: first a commit alone, then everything.
    let other_mirrors = place.mirrors("mirrors-other");
    let first = GitSource {
        reference: Some("v1".to_owned()),
        ..place.source()
    };
    place.check_out(&other_mirrors, &first, "first");
    git(&place.repository, &["repack", "-a", "-d", "-q"]);
    git(&place.repository, &["pack-refs", "--all"]);
    let other = place.check_out(&other_mirrors, &source, "other");
    assert_eq!(listing(&one), listing(&other));

    assert_eq!(
        git(&one, &["status", "--porcelain", "--branch"]),
        "## trunk...origin/trunk"
    );
    assert_eq!(git(&one, &["log", "--format=%s"]), "two\none");
    assert_eq!(
        git(&one, &["remote", "get-url", "origin"]),
        "https://example.org/x.git"
    );
    assert!(git(&one, &["remote", "get-url", "--push", "origin"]).contains("disabled"));
    git(&one, &["fsck", "--strict"]);
    for absent in [
        "logs",
        "FETCH_HEAD",
        "ORIG_HEAD",
        "hooks",
        "description",
        "packed",
    ] {
        assert!(!one.join(".git").join(absent).exists(), "{absent}");
    }
    let config = fs::read_to_string(one.join(".git/config")).unwrap();
    assert!(!config.contains("s3cret") && !config.contains("me:"));
    assert!(
        listing(&first_tree(&place))
            .iter()
            .all(|line| line.contains(" 1700000000 "))
    );
}

fn first_tree(place: &Place) -> PathBuf {
    let tree = place.scratch.join("first");
    assert_eq!(fs::read_to_string(tree.join("a.txt")).unwrap(), "one\n");
    assert!(!tree.join(".git").exists());
    tree
}

#[test]
fn what_a_killed_git_left_in_a_mirror_is_no_hindrance() {
    let Some(place) = Place::new("git-killed") else {
        return;
    };
    let mirrors = place.mirrors("mirrors");
    place.check_out(&mirrors, &place.source(), "one");
    let mirror = fs::read_dir(place.scratch.join("mirrors"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mirror = mirror.into_iter().find(|path| path.is_dir()).unwrap();
    for name in [
        "HEAD.lock",
        "packed-refs.lock",
        "refs/heads/trunk.lock",
        "objects/pack/tmp_pack_x",
        "index-of-checkout.lock",
    ] {
        fs::write(mirror.join(name), "").unwrap();
    }
    git(
        &place.repository,
        &["commit", "-q", "--allow-empty", "-m", "three"],
    );
    place.check_out(&mirrors, &place.source(), "two");
    assert!(!mirror.join("objects/pack/tmp_pack_x").exists());
}

#[test]
fn depth_directory_and_tag_are_honoured() {
    let Some(place) = Place::new("git-depth") else {
        return;
    };
    let mirrors = place.mirrors("mirrors");
    let shallow = GitSource {
        depth: Some(1),
        keep_git_dir: true,
        ..place.source()
    };
    let shallow = place.check_out(&mirrors, &shallow, "shallow");
    assert_eq!(git(&shallow, &["log", "--format=%s"]), "two");
    git(&shallow, &["fsck"]);

    let tag = GitSource {
        reference: Some("v1".to_owned()),
        keep_git_dir: true,
        ..place.source()
    };
    let tag = place.check_out(&mirrors, &tag, "tag");
    assert_eq!(git(&tag, &["describe", "--exact-match"]), "v1");
    assert_eq!(git(&tag, &["status", "--porcelain"]), "");

    let subdir = GitSource {
        subdir: Some("/bin/".to_owned()),
        ..place.source()
    };
    let subdir = place.check_out(&mirrors, &subdir, "subdir");
    assert_eq!(fs::read_dir(&subdir).unwrap().count(), 1);
    assert!(subdir.join("run").exists());
    for wrong in ["link", "a.txt", "../..", "bin/..", "nowhere", ".git"] {
        let source = GitSource {
            subdir: Some(wrong.to_owned()),
            ..place.source()
        };
        let resolved = mirrors.resolve(&source).unwrap();
        let error = mirrors
            .checkout(&source, &resolved, &place.scratch)
            .unwrap_err();
        assert!(matches!(error, Error::Subdir { .. }), "{wrong}: {error}");
    }
}

#[test]
fn a_bundle_is_a_repository_and_an_edit_of_it_is_noticed() {
    let Some(place) = Place::new("git-bundle") else {
        return;
    };
    let bundle = place.scratch.join("x.bundle");
    let bundle_name = bundle.to_string_lossy().into_owned();
    git(
        &place.repository,
        &["bundle", "create", "-q", &bundle_name, "--all"],
    );
    let source = GitSource {
        url: bundle_name.clone(),
        keep_git_dir: true,
        ..place.source()
    };
    let tree = place.check_out(&place.mirrors("mirrors"), &source, "tree");
    assert_eq!(fs::read_to_string(tree.join("a.txt")).unwrap(), "two\n");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");

    let before = (
        local_fingerprint(&bundle_name).unwrap(),
        local_fingerprint(&place.source().url).unwrap(),
    );
    assert_eq!(
        before,
        (
            local_fingerprint(&bundle_name).unwrap(),
            local_fingerprint(&place.source().url).unwrap()
        )
    );
    assert!(before.0.is_some() && before.1.is_some());
    git(
        &place.repository,
        &["commit", "-q", "--allow-empty", "-m", "three"],
    );
    git(
        &place.repository,
        &["bundle", "create", "-q", &bundle_name, "--all"],
    );
    assert_ne!(local_fingerprint(&bundle_name).unwrap(), before.0);
    assert_ne!(local_fingerprint(&place.source().url).unwrap(), before.1);
    assert_eq!(local_fingerprint("https://host/x").unwrap(), None);
    let moved = place.check_out(&place.mirrors("mirrors"), &source, "moved");
    assert_eq!(git(&moved, &["log", "-1", "--format=%s"]), "three");
}

#[test]
fn submodules_are_checked_out_at_their_commits() {
    let Some(place) = Place::new("git-submodule") else {
        return;
    };
    let inner = place.scratch.join("inner");
    fs::create_dir(&inner).unwrap();
    git(&inner, &["init", "-q", "-b", "main"]);
    fs::write(inner.join("i.txt"), "inner\n").unwrap();
    git(&inner, &["add", "."]);
    git(&inner, &["commit", "-q", "-m", "inner"]);
    git(
        &place.repository,
        &["submodule", "--quiet", "add", "../inner", "lib/inner"],
    );
    git(&place.repository, &["commit", "-q", "-m", "with inner"]);
    fs::write(inner.join("i.txt"), "later\n").unwrap();
    git(&inner, &["commit", "-q", "-a", "-m", "later"]);

    let mirrors = place.mirrors("mirrors");
    let source = GitSource {
        submodules: true,
        keep_git_dir: true,
        ..place.source()
    };
    let tree = place.check_out(&mirrors, &source, "tree");
    assert_eq!(
        fs::read_to_string(tree.join("lib/inner/i.txt")).unwrap(),
        "inner\n"
    );
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    let without = place.check_out(&mirrors, &place.source(), "without");
    assert!(!without.join("lib/inner/i.txt").exists());
}

#[test]
fn hooks_and_filters_of_a_stranger_do_not_run() {
    let Some(place) = Place::new("git-hooks") else {
        return;
    };
    let canary = place.scratch.join("canary");
    let script = format!("#!/bin/sh\ntouch {}\n", canary.display());
    for hook in [
        "post-checkout",
        "post-merge",
        "reference-transaction",
        "post-index-change",
    ] {
        let path = place.repository.join(".git/hooks").join(hook);
        fs::write(&path, &script).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::write(place.repository.join(".gitattributes"), "* filter=evil\n").unwrap();
    git(
        &place.repository,
        &["-c", "core.hooksPath=/dev/null", "add", "."],
    );
    git(
        &place.repository,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "commit",
            "-q",
            "-m",
            "evil",
        ],
    );
    git(
        &place.repository,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "config",
            "filter.evil.smudge",
            &format!("touch {}", canary.display()),
        ],
    );
    git(
        &place.repository,
        &[
            "-c",
            "core.hooksPath=/dev/null",
            "config",
            "core.fsmonitor",
            &format!("touch {}", canary.display()),
        ],
    );
    let source = GitSource {
        keep_git_dir: true,
        ..place.source()
    };
    place.check_out(&place.mirrors("mirrors"), &source, "tree");
    assert!(!canary.exists());
}
