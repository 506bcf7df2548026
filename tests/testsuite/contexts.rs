//! What COPY takes files of: directories, archives, repositories and addresses; the Dockerfile that is in them or
//! elsewhere; named contexts; the time of a context; and what is said of a file that is not there.

use std::path::Path;

use crate::harness::Run;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::machine::{self, need};
use crate::harness::site::{self, DATED_S, Site};

/// A build whose standard input is a file of the project.
fn build_from(bench: &Bench, options: &str, stdin: &str) -> Run {
    let file = std::fs::File::open(bench.path(stdin)).expect("the file is there");
    let mut command = bench.shmocker_command(&format!("build --progress json {options}"));
    bench.finish(command.stdin(file))
}

/// The same, which must go well.
fn built_from(bench: &Bench, options: &str, stdin: &str) -> Events {
    let run = build_from(bench, options, stdin);
    assert_eq!(run.status, 0, "{options} < {stdin}\n{}", run.both());
    Events::of(run)
}

/// A build into `out`, and what is then in a file of it.
fn file_of(bench: &Bench, arguments: &str, file: &str) -> String {
    bench.sh("rm -rf out");
    bench.ok(&format!("build -o type=local,dest=out {arguments}"));
    std::fs::read_to_string(bench.path("out").join(file))
        .unwrap_or_else(|error| panic!("{arguments}: {file}: {error}"))
}

/// When the image of a name was made, in seconds since 1970.
fn created(bench: &Bench, name: &str) -> String {
    let config = bench.ok(&format!("inspect {name}")).json();
    config["created"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_archive_on_standard_input_is_the_context() {
    let bench = Bench::new(&need!(machine::plain_user()), "stdin-archive");
    bench
        .file(
            "in/Dockerfile",
            "FROM scratch\nCOPY --chown=7:8 file /\nADD inner /inner\n",
        )
        .file("in/file", "content\n")
        .file("in/.dockerignore", "file\n")
        .file("in/other/Dockerfile", "FROM scratch\nCOPY . /all\n");
    bench.sh(
        "tar --owner=1:3 --group=1:4 -C in -cf in/inner in/../in/file 2>/dev/null || tar -C in -cf in/inner file
         tar --owner=u:1000 --group=g:1001 -C in -cf a.tar . ; gzip -k a.tar; bzip2 -k a.tar; xz -k a.tar; zstd -q a.tar",
    );

    let first = built_from(&bench, "-", "a.tar");
    assert_eq!((first.steps_run(), first.steps_cached()), (2, 0));
    for archive in ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"] {
        let again = built_from(&bench, "-", archive);
        assert_eq!(again.steps_run(), 0, "{archive}");
        assert_eq!(again.digest(), first.digest(), "{archive}");
    }

    // The Dockerfile may be elsewhere in it, or on this machine. Owners are those of the archive, as BuildKit has it, and
    // an ignore file in it is a file like any other.
    built_from(
        &bench,
        "-f other/Dockerfile -o type=tar,dest=all.tar -",
        "a.tar",
    );
    let listed = bench.sh("tar --numeric-owner -tvf all.tar").out();
    for line in ["1000/1001", "all/.dockerignore", "all/file"] {
        assert!(listed.contains(line), "no {line} in\n{listed}");
    }
    let outside = bench.path("Outside");
    bench.file("Outside", "FROM scratch\nCOPY file /\n");
    built_from(&bench, &format!("-f {} -", outside.display()), "a.tar");

    build_from(&bench, "-f none -", "a.tar").expect(1, &["there is no `none`", "Dockerfile"]);
    bench.file("broken", b"\x1f\x8b\x08not at all");
    build_from(&bench, "-", "broken").expect(1, &["cannot unpack"]);
}

#[test]
fn a_dockerfile_on_standard_input_has_no_context() {
    let bench = Bench::new(&need!(machine::plain_user()), "stdin-dockerfile");
    bench
        .file("Plain", "FROM scratch\nENV a=b\nCOPY . /\n")
        .file("Wants", "FROM scratch\nCOPY file /\n")
        .file("dir/file", "content")
        .file("empty", "");

    built_from(&bench, "-", "Plain");
    build_from(&bench, "-", "Wants")
        .expect(1, &["`file` is not in the build context, which is empty"]);
    built_from(&bench, "-f - dir", "Wants");

    build_from(&bench, "-f - -", "Wants").expect(2, &["standard input is the context"]);
    build_from(&bench, "-f Plain -", "Wants").expect(2, &["standard input is no archive"]);
    build_from(&bench, "-", "empty").expect(1, &["there is nothing on standard input"]);
}

#[test]
fn the_dockerfile_of_a_directory_has_many_names() {
    let bench = Bench::new(&need!(machine::plain_user()), "dockerfile-names");
    bench
        .file("lower/dockerfile", "FROM scratch\nCOPY a /lower\n")
        .file("lower/a", "")
        .file(
            "container/Containerfile",
            "FROM scratch\nCOPY a /container\n",
        )
        .file("container/a", "")
        .file("linked/Dockerfile.web", "FROM scratch\nCOPY . /linked\n")
        .file("linked/Dockerfile.dockerignore", "b\n")
        .file("linked/.dockerignore", "a\n")
        .file("linked/a", "")
        .file("linked/b", "")
        .link("linked/Dockerfile", "Dockerfile.web")
        .file("outside/Other", "FROM scratch\nCOPY a /other\n")
        .file("outside/Other.dockerignore", "b\n");
    file_of(&bench, "lower", "lower");
    file_of(&bench, "-f lower/Dockerfile container", "lower");
    file_of(&bench, "container", "container");
    file_of(&bench, "-f outside/Other lower", "other");
    // The ignore file of the name that was given wins, whatever the link leads to.
    file_of(&bench, "linked", "linked/a");
    assert!(!bench.path("out/linked/b").exists());

    bench
        .shmocker("build nowhere")
        .expect(1, &["`nowhere` is not a directory", "git repository"]);
}

#[test]
fn a_repository_is_the_context() {
    let bench = Bench::new(&need!(machine::plain_user()), "git-context");
    need!(machine::program(machine::Capability::Git, "git"));
    site::repository(&bench, "one", "");
    let site = Site::new(&bench.path("site"));
    let commit = bench.sh("git -C site/one rev-parse feature").out();
    let commit = commit.trim();

    for base in ["git/one/.git", "one/.git"] {
        // The second server has plain files and does not speak git.
        let url = site.url(base);
        let bench = Bench::new(bench.user(), "git-context-of").env("SOURCE_DATE_EPOCH", "1");
        assert_eq!(file_of(&bench, &url, "file"), "one\n");
        assert!(!bench.path("out/.git").exists());
        assert_eq!(file_of(&bench, &format!("{url}#feature"), "file"), "two\n");
        assert_eq!(file_of(&bench, &format!("{url}#v1"), "file"), "one\n");
        assert_eq!(file_of(&bench, &format!("{url}#:sub"), "inner"), "inner\n");
        assert_eq!(
            file_of(&bench, &format!("{url}?branch=feature"), "file"),
            "two\n"
        );
        assert_eq!(file_of(&bench, &format!("{url}#{commit}"), "file"), "two\n");
        let pinned = format!("{url}?branch=feature&checksum={}", &commit[..9]);
        assert_eq!(file_of(&bench, &pinned, "file"), "two\n");
        let kept = format!("--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 {url}");
        file_of(&bench, &kept, ".git/HEAD");

        site.asked();
        let again = bench.built(&format!("build {url}"));
        assert_eq!((again.steps_run(), again.steps_cached()), (0, 1));
        assert_eq!(site.asked(), []);

        bench
            .shmocker(&format!("build {url}?branch=main&checksum={commit}"))
            .expect(5, &["expected checksum to match"]);
        bench
            .shmocker(&format!("build {url}#nothing"))
            .expect(5, &["no branch, tag or commit `nothing`", "feature"]);
        let failed = bench.shmocker(&format!("build {url}#:nowhere"));
        failed.expect(1, &["`nowhere` is not a directory"]);
    }
}

#[test]
fn a_mistake_in_a_dockerfile_that_was_fetched_is_shown_in_its_text() {
    let bench = Bench::new(&need!(machine::plain_user()), "fetched-mistake");
    bench.file("site/df", "FROM scratch\nCOYP a /\n");
    let site = Site::new(&bench.path("site"));
    bench
        .shmocker(&format!("build {}", site.url("df")))
        .expect(1, &["/df:2:1", "COYP a /"]);
}

#[test]
fn an_address_is_the_context() {
    let bench = Bench::new(&need!(machine::plain_user()), "http-context");
    bench
        .file("in/Dockerfile", "FROM scratch\nCOPY file /\n")
        .file("in/second/Dockerfile", "FROM scratch\nCOPY file /second\n")
        .file("in/file", "content\n")
        .file("site/df", "FROM scratch\nCOPY . /all\n")
        .file("site/df2", "FROM scratch\nCOPY file /named\n");
    bench.sh("tar -C in -czf site/context.tgz .");
    let site = Site::new(&bench.path("site"));
    let (archive, lone) = (site.url("context.tgz"), site.url("df"));

    assert_eq!(file_of(&bench, &archive, "file"), "content\n");
    file_of(&bench, &format!("-f second/Dockerfile {archive}"), "second");
    // A Dockerfile alone is the one file of its context, as BuildKit has it.
    file_of(&bench, &lone, "all/context");
    // One for files that are here, or are fetched as well.
    file_of(&bench, &format!("-f {} in", site.url("df2")), "named");
    file_of(
        &bench,
        &format!("-f {} {archive}", site.url("df2")),
        "named",
    );

    // What is remembered is asked for after an hour, or with --pull; then the server says that nothing changed.
    site.asked();
    assert_eq!(bench.built(&format!("build {archive}")).steps_run(), 0);
    assert_eq!(site.methods(), [""; 0]);
    assert_eq!(
        bench.built(&format!("build --pull {archive}")).steps_run(),
        0
    );
    assert_eq!(site.methods(), ["HEAD"]);
    bench
        .file("in/file", "changed\n")
        .sh("tar -C in -czf site/context.tgz .");
    assert_eq!(
        bench.built(&format!("build --pull {archive}")).steps_run(),
        1
    );

    bench
        .shmocker(&format!("build {}", site.url("nothing")))
        .expect(5, &["404"]);
    bench
        .shmocker(&format!("build --offline {}", site.url("df3")))
        .expect(5, &["--offline"]);
}

#[test]
fn named_contexts_are_directories_repositories_addresses_and_layouts() {
    let bench = Bench::new(&need!(machine::plain_user()), "named");
    need!(machine::program(machine::Capability::Git, "git"));
    let base = need!(busybox::context());
    site::repository(&bench, "one", "");
    bench
        .file("lib/a", "a of lib\n")
        .file("lib/b", "")
        .file("lib/.dockerignore", "b\n")
        .file("site/text", "downloaded\n");
    let site = Site::new(&bench.path("site"));
    let named = |name: &str, place: &str| format!("--build-context {name}={place}");
    let lib = named("lib", "lib");

    bench.file("Dockerfile", "FROM scratch\nCOPY --from=lib . /\n");
    assert_eq!(file_of(&bench, &format!("{lib} ."), "a"), "a of lib\n");
    assert!(!bench.path("out/b").exists());
    bench.file("Dockerfile", "FROM scratch\nCOPY --from=lib b /\n");
    bench
        .shmocker(&format!("build {lib} ."))
        .expect(1, &["line 1 of `lib/.dockerignore` leaves it out"]);

    bench.file("Dockerfile", "FROM scratch\nCOPY --from=repo file /\n");
    let repo = format!("{}#feature", site.url("git/one/.git"));
    assert_eq!(
        file_of(&bench, &format!("{} .", named("repo", &repo)), "file"),
        "two\n"
    );

    // A download is a tree with one file.
    bench.file(
        "Dockerfile",
        "FROM scratch\nCOPY --from=page context /page\n",
    );
    let page = named("page", &site.url("text"));
    assert_eq!(
        file_of(&bench, &format!("{page} ."), "page"),
        "downloaded\n"
    );
    assert_eq!(bench.built(&format!("build {page} .")).steps_run(), 0);

    // A stage, an image and a `--from` are overridden; what nothing needs is not looked at.
    bench.file(
        "Dockerfile",
        "FROM broken AS unused\nFROM nosuch:1 AS stage\nRUN false\nFROM alpine AS image\nRUN echo of image > /i\n\
         FROM scratch\nCOPY --from=stage a /\nCOPY --from=image /i /\n",
    );
    let alpine = base.replace("base=", "docker.io/library/alpine:latest=");
    let options = format!(
        "{alpine} {} {} .",
        named("stage", "lib"),
        named("broken", "https://nobody.invalid/x.git")
    );
    assert_eq!(file_of(&bench, &options, "i"), "of image\n");

    bench.file("Dockerfile", "FROM lib\n");
    bench
        .shmocker("build --build-context lib=docker-image://localhost/nosuch .")
        .expect(1, &["no image `localhost/nosuch` in the store"]);
    bench
        .shmocker("build --build-context lib=nowhere .")
        .expect(1, &["the context `lib` is not a directory"]);
    bench
        .shmocker("build --build-context lib=ftp://x/y .")
        .expect(2, &["`ftp://x/y`"]);
}

#[test]
fn a_layout_is_named_by_tag_or_digest_and_a_stored_image_by_its_name() {
    let bench = Bench::new(&need!(machine::plain_user()), "named-layouts");
    bench
        .file("one/Dockerfile", "FROM scratch\nCOPY f /\nENV V=one\n")
        .file("one/f", "one\n")
        .file("two/Dockerfile", "FROM scratch\nCOPY f /\nENV V=two\n")
        .file("two/f", "two\n")
        .file(
            "Dockerfile",
            "FROM img\nCOPY Dockerfile /added\nLABEL v=$V\n",
        );
    for tag in ["one", "two"] {
        bench.ok(&format!(
            "build -t img:{tag} -o type=oci,tar=false,dest=layout-{tag} {tag}"
        ));
    }
    let digest = |tag: &str| {
        let index =
            std::fs::read(bench.path(&format!("layout-{tag}/index.json"))).expect("an index");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        index["manifests"][0]["digest"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    for (place, file) in [
        ("oci-layout://layout-one".to_owned(), "one\n"),
        ("oci-layout://layout-two:two".to_owned(), "two\n"),
        (
            format!("oci-layout://layout-two@{}", digest("two")),
            "two\n",
        ),
        (
            format!("oci-layout://layout-one:other@{}", digest("one")),
            "one\n",
        ),
        ("docker-image://img:two".to_owned(), "two\n"),
        (
            "docker-image://docker.io/library/img:one".to_owned(),
            "one\n",
        ),
    ] {
        let options = format!("--build-context img={place} .");
        assert_eq!(file_of(&bench, &options, "f"), file, "{place}");
    }
    bench
        .shmocker("build --build-context img=oci-layout://layout-one:three .")
        .expect(1, &["three"]);
}

#[test]
fn the_time_of_an_image_may_be_that_of_a_context() {
    let bench = Bench::new(&need!(machine::plain_user()), "epoch");
    need!(machine::program(machine::Capability::Git, "git"));
    site::repository(&bench, "one", "");
    bench
        .file(
            "in/Dockerfile",
            "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL at=$SOURCE_DATE_EPOCH\nCOPY file /\n",
        )
        .file("in/file", "content");
    bench.sh("touch -d @1700000302 in/file; touch -d @1700000111 in/Dockerfile; mkdir site/dated; tar -C in -cf site/a.tar .");
    bench.sh("cp site/a.tar site/dated/a.tar; touch -d @1800000000 in; tar -C in -cf site/b.tar .");
    let site = Site::new(&bench.path("site"));
    let context = "--build-arg SOURCE_DATE_EPOCH=context";
    let git = "2023-11-14T22:15:01Z";
    for (options, expected) in [
        (format!("{context} {}", site.url("git/one/.git")), git),
        (
            format!("{context} {}", site.url("a.tar")),
            "2023-11-14T22:18:22Z",
        ),
        (
            format!("{context} {}", site.url("dated/a.tar")),
            "2026-07-11T10:16:37Z",
        ),
        (
            format!(
                "--build-arg SOURCE_DATE_EPOCH=src --build-context src={} in",
                site.url("git/one/.git")
            ),
            git,
        ),
        (
            format!(
                "--build-arg SOURCE_DATE_EPOCH=src --build-context src={} in",
                site.url("a.tar")
            ),
            "2023-11-14T22:18:22Z",
        ),
        (
            format!(
                "--build-arg SOURCE_DATE_EPOCH=src --build-context src={} in",
                site.url("dated/a.tar")
            ),
            "2026-07-11T10:16:37Z",
        ),
    ] {
        for turn in 0..2 {
            bench.ok(&format!("build -t timed {options}"));
            assert_eq!(created(&bench, "timed"), expected, "{options}, turn {turn}");
        }
    }
    assert_eq!(DATED_S, 1_783_764_997);
    let stdin = built_from(&bench, &format!("-t timed {context} -"), "site/b.tar");
    assert_eq!(stdin.run.status, 0);
    assert_eq!(created(&bench, "timed"), "2023-11-14T22:18:22Z");
    let config = bench.ok("inspect timed").json();
    assert_eq!(config["config"]["Labels"]["at"], "1700000302");

    // The environment may name one too; a stage that fetches one thing has its time; a directory has none.
    let by_name = Bench::new(bench.user(), "epoch-env").env("SOURCE_DATE_EPOCH", "context");
    by_name.ok(&format!("build -t timed {}", site.url("git/one/.git")));
    assert_eq!(created(&by_name, "timed"), git);
    bench.file(
        "Dockerfile",
        format!(
            "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {} /\nFROM scratch\nCOPY in/file /\n",
            site.url("git/one/.git")
        ),
    );
    bench.ok("build -t timed .");
    assert_eq!(created(&bench, "timed"), git);
    bench.ok("build -t timed --build-arg SOURCE_DATE_EPOCH= .");
    assert_ne!(created(&bench, "timed"), git);
    bench.ok(&format!("build -t timed {context} ."));
    assert_ne!(created(&bench, "timed"), git);

    bench.file(
        "Dockerfile",
        "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nCOPY in /\nFROM scratch\nCOPY in /\n",
    );
    bench
        .shmocker("build .")
        .expect(1, &["SOURCE_DATE_EPOCH stage", "COPY is too much"]);
    bench
        .shmocker("build --build-arg SOURCE_DATE_EPOCH=never .")
        .expect(1, &["SOURCE_DATE_EPOCH is `never`"]);
}

#[test]
fn a_file_that_is_not_there_is_looked_for_elsewhere() {
    let bench = Bench::new(&need!(machine::plain_user()), "elsewhere");
    bench
        .file("real", "")
        .file("lib/wanted", "")
        .file("dir/a", "")
        .link("dangling", "lib/nowhere");
    for (dockerfile, options, parts) in [
        (
            "FROM scratch\nCOPY rael /\n",
            "",
            vec!["`rael` is not in the build context", "did you mean `real`?"],
        ),
        (
            "FROM scratch\nCOPY zzzzzz /\n",
            "",
            vec!["at its top there are", "lib"],
        ),
        (
            "FROM scratch\nCOPY dangling /\n",
            "",
            vec!["it is a link that leads to `lib/nowhere`"],
        ),
        (
            "FROM scratch\nCOPY dir/zzzzzz /\n",
            "",
            vec!["in `dir` there is only `a`"],
        ),
        (
            "FROM scratch\nCOPY wanted /\n",
            "--build-context lib=lib",
            vec!["it is in the context `lib`: write `--from=lib`"],
        ),
        (
            "FROM scratch\nCOPY --from=lib real /\n",
            "--build-context lib=lib",
            vec!["is not in the context `lib`", "leave `--from` away"],
        ),
        (
            "FROM scratch AS build\nRUN make -o /out/tool && strip /out/tool\nFROM scratch\nCOPY out/tool /\n",
            "",
            vec![
                "`out/tool` is not in the build context",
                "the stage `build` speaks of it, at line 2",
                "--from=build",
            ],
        ),
        (
            "FROM scratch AS one\nWORKDIR /w\nCOPY real tool\nFROM scratch\nCOPY --from=one tool /\n",
            "",
            vec![
                "`tool` is not in the stage `one`",
                "it is there as `/w/tool`",
            ],
        ),
        (
            "FROM scratch AS one\nCOPY real /tool\nFROM scratch AS two\nCOPY dir /\nFROM scratch\nCOPY --from=one /tool /1\nCOPY --from=two /tool /\n",
            "",
            vec![
                "`/tool` is not in the stage `two`",
                "it is in the stage `one`: write `--from=one`",
            ],
        ),
        (
            "FROM scratch AS one\nCOPY real /\nFROM scratch\nCOPY --from=one /raal /\n",
            "",
            vec!["`/raal` is not in the stage `one`", "did you mean `real`?"],
        ),
        (
            "FROM scratch AS one\nCOPY dir /\nFROM scratch\nCOPY --from=one /real /\n",
            "",
            vec!["it is in the build context: leave `--from` away"],
        ),
    ] {
        bench.file("Dockerfile", dockerfile);
        bench
            .shmocker(&format!("build {options} ."))
            .expect(1, &parts);
    }
    assert!(Path::new(&bench.path("real")).exists());
}
