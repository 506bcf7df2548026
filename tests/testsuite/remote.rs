//! ADD of what is elsewhere: downloads and repositories, by way of real servers; secrets that open them, and who never gets
//! to see those.

use crate::conformance::same_image;
use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Capability, need};
use crate::harness::processes::{Server, free_port};
use crate::harness::site::{self, DATED_S, KEY, Site};
use crate::harness::ssh::Ssh;
use crate::peers::buildkit::{Request, buildkit};

/// An exported tree, one line a file: mode, owner, time in seconds, path.
fn tree(bench: &Bench, options: &str) -> String {
    bench.ok(&format!("build -o type=tar,dest=out.tar {options} ."));
    bench
        .sh(
            "tar -tf out.tar >/dev/null; TZ=UTC tar --numeric-owner --full-time -tvf out.tar | \
             while read mode owner size day time name; do \
               echo \"$mode $owner $(date -u -d \"$day $time\" +%s) $name\"; done",
        )
        .out()
}

fn expect_lines(tree: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            tree.lines().any(|found| found == *line),
            "no `{line}` in\n{tree}"
        );
    }
}

#[test]
fn a_download_has_name_mode_time_and_owner() {
    let bench = Bench::new(&need!(machine::plain_user()), "add-url");
    bench
        .file("site/plain", "content\n")
        .file("site/dated/plain", "content\n")
        .file("site/index", "at the top\n")
        .file("in/inner", "inner\n");
    bench.sh("touch -d @1600000000 in/inner; tar --owner=9 --group=9 -C in -cJf site/a.txz inner");
    let site = Site::new(&bench.path("site"));
    let (plain, dated) = (site.url("plain"), site.url("dated/plain"));
    let sum = "sha256:434728a410a78f56fc1b5899c3593436e61ab0c731e9072d95e96db290205e53";
    bench.file(
        "Dockerfile",
        format!(
            "FROM scratch\n\
             ADD {plain}?name=/other /1/\n\
             ADD {dated} /2/\n\
             ADD {} /3/\n\
             ADD --chmod=755 --chown=5:6 {plain} /4/named\n\
             ADD --checksum={sum} {plain} /5/\n\
             ADD --unpack {txz} /6/\n\
             ADD {txz} /7/\n",
            site.url(""),
            txz = site.url("a.txz"),
        ),
    );

    let listed = tree(&bench, "");

    expect_lines(
        &listed,
        &[
            "-rw------- 0/0 0 1/plain",
            &format!("-rw------- 0/0 {DATED_S} 2/plain"),
            "-rw------- 0/0 0 3/__unnamed__",
            "-rwxr-xr-x 5/6 0 4/named",
            "-rw------- 0/0 0 5/plain",
            "-rw-r--r-- 9/9 1600000000 6/inner",
            "-rw------- 0/0 0 7/a.txz",
        ],
    );
    let wrong = sum.replace("4347", "0000");
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum={wrong} {plain} /\n"),
    );
    bench
        .shmocker("build .")
        .expect(5, &["digest", "must have"]);
}

#[test]
fn files_and_downloads_of_one_addition_are_each_as_alone() {
    let bench = Bench::new(&need!(machine::plain_user()), "add-mixed");
    bench
        .file("site/plain", "content\n")
        .file("inner", "inner\n");
    bench.sh("tar --owner=9 --group=9 -cf own.tar inner; cp own.tar site/theirs.tar");
    let site = Site::new(&bench.path("site"));
    let (plain, theirs) = (site.url("plain"), site.url("theirs.tar"));
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD own.tar {plain} {theirs} inner /d/\n"),
    );
    let names: Vec<String> = tree(&bench, "")
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            format!("{} {}", words[0], words[words.len() - 1])
        })
        .collect();
    assert_eq!(
        names,
        [
            "drwxr-xr-x d/",
            "-rw-r--r-- d/inner",
            "-rw------- d/plain",
            "-rw------- d/theirs.tar",
        ]
    );
}

#[test]
fn a_download_is_asked_after_and_fetched_when_it_changed() {
    let bench = Bench::new(&need!(machine::plain_user()), "add-again");
    bench.file("site/f", "one\n");
    let site = Site::new(&bench.path("site"));
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\n", site.url("f")),
    );

    assert_eq!(bench.built("build .").steps_run(), 1);
    assert_eq!(site.methods(), ["GET"]);
    assert_eq!(bench.built("build .").steps_run(), 0);
    assert_eq!(site.methods(), [""; 0]);
    assert_eq!(bench.built("build --refresh 0ms .").steps_run(), 0);
    assert_eq!(site.methods(), ["HEAD"]);
    bench.file("site/f", "two\n");
    assert_eq!(bench.built("build --pull .").steps_run(), 1);
    assert_eq!(site.methods(), ["HEAD", "GET"]);

    // What has to be one thing is never asked after.
    let sum = "sha256:27dd8ed44a83ff94d557f9fd0412ed5a8cbca69ea04922d88c01184a07300a5a";
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD --checksum={sum} {} /\n", site.url("f")),
    );
    bench.ok("build .");
    site.asked();
    assert_eq!(bench.built("build --pull .").steps_run(), 0);
    assert_eq!(site.methods(), [""; 0]);
}

#[test]
fn a_secret_opens_a_server_and_is_told_to_no_other() {
    let bench = Bench::new(&need!(machine::plain_user()), "add-secret");
    bench
        .file("site/f", "content\n")
        .file("key", format!("{KEY}\n"))
        .file("header", format!("Bearer {KEY}"))
        .file("plain/Dockerfile", "FROM scratch\n");
    let site = Site::new(&bench.path("site"));
    let other = Site::new(&bench.path("site"));
    let token = "--secret id=HTTP_AUTH_TOKEN_127.0.0.1,src=key";

    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\n", site.url("private/f")),
    );
    bench.shmocker("build .").expect(5, &["401", "credentials"]);
    bench
        .shmocker("build --secret id=HTTP_AUTH_TOKEN_localhost,src=key .")
        .expect(5, &["401"]);
    let run = bench.ok(&format!("build {token} --progress json ."));
    assert!(!run.both().contains(KEY), "{}", run.both());
    bench.ok("build --pull --secret id=HTTP_AUTH_HEADER_127.0.0.1,src=header .");
    let asked = site.asked();
    assert!(
        asked
            .iter()
            .any(|asked| asked.authorization.as_deref() == Some("Bearer sesame")),
        "{asked:?}"
    );

    bench.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD {} /\n",
            site.url(&format!("away/{}/f", other.port()))
        ),
    );
    bench.ok(&format!("build {token} ."));
    let asked = other.asked();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|asked| asked.authorization.is_none()),
        "{asked:?}"
    );
    // Neither it nor a password of an address is anywhere in the store.
    let address = site.url("f").replace("http://", "http://me:PassWord@");
    bench.file("Dockerfile", format!("FROM scratch\nADD {address} /\n"));
    bench.ok("build -o type=cacheonly .");
    bench.sh(&format!(
        "! grep -rl PassWord {store}/index.sqlite* {store}/locks {store}/http",
        store = bench.store().display()
    ));
    bench.sh(&format!("! grep -r {KEY} {}", bench.store().display()));
}

#[test]
fn a_repository_is_added_as_its_address_says() {
    let bench = Bench::new(&need!(machine::plain_user()), "add-git");
    need!(machine::program(Capability::Git, "git"));
    site::repository(&bench, "one", "");
    site::repository(&bench, "long", "--object-format=sha256");
    let site = Site::new(&bench.path("site"));
    bench.sh(&format!(
        "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b\n\
         git init -q -b main site/two; cd site/two; git submodule --quiet add {} module; git commit -q -m both",
        site.url("git/one/.git")
    ));
    let rev = |repository: &str, name: &str| {
        let found = bench
            .sh(&format!("git -C site/{repository} rev-parse {name}"))
            .out();
        found.trim().to_owned()
    };
    let (one, two, long) = (
        site.url("git/one/.git"),
        site.url("git/two/.git"),
        site.url("git/long/.git"),
    );
    let (second, tag, first) = (rev("one", "feature"), rev("one", "v1"), rev("one", "v1^0"));
    let long_commit = rev("long", "feature");
    bench.file(
        "Dockerfile",
        format!(
            "FROM scratch\n\
             ADD {one} /default/\n\
             ADD {one}#feature /branch/\n\
             ADD {one}#{second} /commit/\n\
             ADD {one}?tag=v1&checksum={tag} /tag/\n\
             ADD --keep-git-dir {one}#{tag} /object/\n\
             ADD --checksum={first} {one}#v1 /peeled/\n\
             ADD {one}?branch=wherever&checksum={second}&fetch-by-commit /direct/\n\
             ADD {one}#v1:sub /sub/\n\
             ADD {one}?subdir=sub&ref=feature&mtime=commit /query/\n\
             ADD --keep-git-dir --chown=4:5 {one}#v1 /kept/\n\
             ADD {one}?keep-git-dir=true /kept2/\n\
             ADD {two} /modules/\n\
             ADD {two}?submodules=false /alone/\n\
             ADD {long}#feature /long/\n\
             ADD {long}#{long_commit} /long2/\n",
        ),
    );

    let listed = tree(&bench, "");

    expect_lines(
        &listed,
        &[
            "-rw-r--r-- 0/0 1700000101 default/file",
            "-rw-r--r-- 0/0 1700000101 sub/inner",
            "-rw-r--r-- 0/0 1700000101 query/inner",
            "-rw-r--r-- 4/5 1700000101 kept/file",
            "-rw-r--r-- 4/5 1700000101 kept/.git/HEAD",
            "-rw-r--r-- 0/0 1700000101 kept2/.git/HEAD",
        ],
    );
    for absent in ["default/.git", "alone/module/file", "sub/sub"] {
        assert!(
            !listed.contains(&format!(" {absent}")),
            "{absent} in\n{listed}"
        );
    }
    let contents = bench.sh(
        "for f in default branch commit tag object peeled direct modules/module long long2; do \
           echo $f $(tar -xOf out.tar $f/file); done; tar -xOf out.tar kept/.git/HEAD; tar -tf out.tar | grep kept/.git/refs/tags/",
    );
    let head = format!("{first}\n");
    for line in [
        "default one\n",
        "branch two\n",
        "commit two\n",
        "tag one\n",
        "object one\n",
        "peeled one\n",
        "direct two\n",
        "modules/module one\n",
        "long two\n",
        "long2 two\n",
        &head,
        "kept/.git/refs/tags/v1\n",
    ] {
        assert!(
            contents.out().contains(line),
            "no {line} in\n{}",
            contents.out()
        );
    }

    // What is named by its commit is never asked after.
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD {one}#{second} /\n"),
    );
    bench.ok("build .");
    site.asked();
    assert_eq!(bench.built("build --pull .").steps_run(), 0);
    assert_eq!(site.asked(), []);

    for (address, parts) in [
        (
            format!("{one}?tag=v1&checksum={second}"),
            ["expected checksum to match", "v1"],
        ),
        (
            format!("{one}#nothing"),
            ["no branch, tag or commit", "feature"],
        ),
        (
            // The first digits of a commit are no name, even if the commit is here.
            format!("{one}#{}", &second[..8]),
            ["no branch, tag or commit", "feature"],
        ),
        (
            format!("{one}?tag=feature"),
            ["no branch, tag or commit", "feature"],
        ),
    ] {
        bench.file("Dockerfile", format!("FROM scratch\nADD {address} /\n"));
        bench.shmocker("build .").expect(5, &parts);
    }
}

#[test]
fn a_moved_branch_is_found_again() {
    let bench = Bench::new(&need!(machine::plain_user()), "git-moves");
    need!(machine::program(Capability::Git, "git"));
    let repository = site::repository(&bench, "one", "");
    let site = Site::new(&bench.path("site"));
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\n", site.url("git/one/.git")),
    );
    assert_eq!(bench.built("build .").steps_run(), 1);
    bench.sh(&format!(
        "git -C {} reset -q --hard feature",
        repository.display()
    ));
    assert_eq!(bench.built("build .").steps_run(), 0);
    assert_eq!(bench.built("build --pull .").steps_run(), 1);
}

#[test]
fn a_token_opens_a_repository_and_is_told_to_no_other_server() {
    let bench = Bench::new(&need!(machine::plain_user()), "git-token");
    need!(machine::program(Capability::Git, "git"));
    site::repository(&bench, "one", "");
    let site = Site::new(&bench.path("site"));
    let other = Site::new(&bench.path("site"));
    let elsewhere = other.url("git/one/.git").replace("127.0.0.1", "localhost");
    bench.sh(&format!(
        "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b\n\
         git init -q -b main site/two; cd site/two; git submodule --quiet add {elsewhere} module; git commit -q -m both",
    ));
    other.asked();
    bench
        .file("key", format!("{KEY}\n"))
        .file("header", format!("Bearer {KEY}"))
        .file(
            "Dockerfile",
            format!("FROM scratch\nADD {} /\n", site.url("private/git/two/.git")),
        );

    bench.shmocker("build .").expect(5, &["without a password"]);
    let host = format!("127.0.0.1:{}", site.port());
    for secret in [
        "id=GIT_AUTH_TOKEN,src=key".to_owned(),
        format!("id=GIT_AUTH_TOKEN.{host},src=key"),
        "id=GIT_AUTH_HEADER,src=header".to_owned(),
        format!("id=GIT_AUTH_HEADER.{host},src=header"),
    ] {
        let fresh = Bench::new(bench.user(), "git-token-of");
        fresh.tree(&bench.path("Dockerfile"), "Dockerfile");
        fresh
            .tree(&bench.path("key"), "key")
            .tree(&bench.path("header"), "header");
        let run = fresh.ok(&format!("build --secret {secret} --progress json ."));
        assert!(!run.both().contains(KEY), "{}", run.both());
        let asked = other.asked();
        assert!(!asked.is_empty(), "the submodule was fetched");
        assert!(
            asked.iter().all(|asked| asked.authorization.is_none()),
            "{asked:?}"
        );
        fresh.sh(&format!("! grep -r {KEY} {}", fresh.store().display()));
    }
    bench
        .shmocker("build --secret id=GIT_AUTH_TOKEN.example.com,src=key .")
        .expect(5, &["without a password"]);

    // A repository that has moved on the same server is told the token there, one on another server is not.
    bench.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD {} /\n",
            site.url("moved/private/git/one/.git")
        ),
    );
    bench.ok("build --secret id=GIT_AUTH_TOKEN,src=key .");
    let away = site.url(&format!("away/{}/git/one/.git", other.port()));
    for secret in ["", "--secret id=GIT_AUTH_TOKEN,src=key"] {
        let fresh = Bench::new(bench.user(), "git-token-away");
        fresh.file("Dockerfile", format!("FROM scratch\nADD {away} /\n"));
        fresh.tree(&bench.path("key"), "key");
        fresh.ok(&format!("build {secret} ."));
        let asked = other.asked();
        assert!(
            !asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()),
            "{asked:?}"
        );
    }
}

#[test]
fn a_git_daemon_is_asked_in_its_own_protocol() {
    let bench = Bench::new(&need!(machine::plain_user()), "git-daemon");
    need!(machine::program(Capability::Git, "git"));
    site::repository(&bench, "one", "");
    let port = free_port();
    let site = bench.path("site");
    // `git daemon` would be the parent of who serves, who would stay.
    let programs = bench.sh("git --exec-path").out();
    let _daemon = Server::start(
        bench
            .command(format!("{}/git-daemon", programs.trim()))
            .args([
                "--reuseaddr",
                "--export-all",
                "--listen=127.0.0.1",
                &format!("--port={port}"),
                &format!("--base-path={}", site.display()),
            ]),
        port,
    );
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD git://127.0.0.1:{port}/one/.git#feature /\n"),
    );
    assert!(tree(&bench, "").contains(" file"));
}

#[test]
fn a_repository_is_reached_by_ssh_with_the_callers_agent() {
    let bench = Bench::new(&need!(machine::plain_user()), "git-ssh");
    need!(machine::program(Capability::Git, "git"));
    let repository = site::repository(&bench, "one", "");
    let ssh = need!(Ssh::new(&bench));
    let server = ssh.server("host");
    let address = format!(
        "ssh://{}@127.0.0.1:{}{}",
        bench.user().name,
        ssh.port,
        repository.display()
    );
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD {address}#feature /\n"),
    );

    bench.shmocker("build .").expect(5, &["git"]);
    let agent = bench.path("agent").display().to_string();
    let build = |options: &str| {
        let mut command = bench.shmocker_command(&format!("build {options}"));
        bench.finish(command.env("SSH_AUTH_SOCK", &agent))
    };
    let run = build(".");
    assert_eq!(run.status, 0, "{}", run.both());
    let context = build(&format!("{address}#:sub"));
    assert_eq!(context.status, 0, "{}", context.both());

    // An agent or a key that was given goes before it.
    bench.ok("build --pull --ssh default=agent .");
    bench.ok("build --pull --ssh default=mine .");
    bench.sh("ssh-keygen -q -t ed25519 -N '' -f other");
    build("--pull --ssh default=other .").expect(5, &["Permission denied"]);

    // A host whose key is another one than it was is not talked to.
    drop(server);
    let _server = ssh.server("changed");
    build("--pull .").expect(5, &["Host key verification failed"]);
}

/// An archive with owners, modes, links and an ignore file; what is copied of it, and what is added beside it.
const FETCHED: &str = "\
FROM scratch
COPY . /all/
COPY dir /dir
COPY --chown=3:4 dir/file /owned/
COPY --chmod=600 link /file-of-link
ADD inner.tar /unpacked/
ADD SITE/plain /plain/
ADD SITE/ SITE/dated/plain?a=/b /several/
ADD --chmod=751 --chown=9:8 SITE/plain /other/name
ADD --unpack --chown=2:2 SITE/inner.tar /fetched/
ADD SITE/one/.git#v1 /git/
ADD --chown=5:6 SITE/one/.git?branch=feature&subdir=sub /sub/
COPY --from=page context /page/
COPY --from=repository . /repository/
";

#[test]
fn what_is_fetched_is_the_same_on_buildkit() {
    let user = need!(machine::plain_user());
    need!(machine::program(Capability::Git, "git"));
    let buildkit = need!(buildkit());
    let bench = Bench::new(&user, "fetched-by-buildkit");
    site::repository(&bench, "one", "");
    bench
        .file("site/plain", "content\n")
        .file("site/dated/plain", "dated\n")
        .file("site/index", "at the top\n")
        .file("in/dir/file", "content\n")
        .file("in/dir/.hidden", "")
        .executable("in/run", "#!/bin/sh\n")
        .file("in/.dockerignore", "dir\n")
        .link("in/link", "dir/file")
        .file("x/inner", "inner\n");
    let site = Site::new(&bench.path("site"));
    let dockerfile = FETCHED.replace("SITE", site.url("").trim_end_matches('/'));
    bench.file("in/Dockerfile", dockerfile);
    bench.sh(
        "chmod 2750 in/dir; ln in/dir/file in/dir/hard; mkfifo in/pipe; tar --owner=7 --group=7 -C x -cf in/inner.tar inner
         cp in/inner.tar site/inner.tar; tar --owner=1000 --group=1001 -C in -czf site/context.tgz .",
    );
    let (page, repository) = (site.url("plain"), site.url("one/.git#feature"));
    for context in [
        site.url("context.tgz"),
        bench.path("in").display().to_string(),
    ] {
        if !context.starts_with("http") {
            // Of a directory it counts.
            bench.file("in/.dockerignore", "nothing\n");
        }
        bench.ok(&format!(
            "build --build-context page={page} --build-context repository={repository} -o type=oci,dest=ours.tar {context}"
        ));
        let ours = std::fs::read(bench.path("ours.tar")).expect("it was written");
        let mut options = vec![
            format!("context:page={page}"),
            format!("context:repository={repository}"),
        ];
        options.extend(
            context
                .starts_with("http")
                .then(|| format!("context={context}")),
        );
        let theirs = buildkit
            .build(&Request {
                context: &bench.path("in"),
                dockerfile: "Dockerfile",
                contexts: Vec::new(),
                options,
            })
            .unwrap_or_else(|log| panic!("{log}"));
        same_image(&Layout::of_archive(&ours), &theirs, &[]);
    }
}
