//! The same Dockerfile by a plain user, by root and by BuildKit: the same files, modes, owners, links, attributes and
//! configuration.

use serde_json::{Value, json};

use crate::debian;
use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::listing::{self, assert_same, with_links_resolved, without};
use crate::harness::machine::{self, User, need};
use crate::peers::buildkit::buildkit;
use crate::peers::pairs::{Case, Listed, build, judge};
use crate::tidy::repository;

/// What Debian's own tools do to a tree: packages, users, owners, modes, links, removals, renames.
const DEBIAN: &str = r"FROM base
RUN apt-get update && apt-get install -y --no-install-recommends hello sudo && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
RUN groupadd -g 4444 team && useradd -m -u 1234 -g team worker && su worker -c 'touch ~/by-su && id -un > ~/who'
USER worker
RUN touch ~/mine && stat -c '%U:%G %a' ~/mine > ~/stat && id > ~/id && umask 077 && mkdir ~/private
USER root
RUN chown -R worker:team /opt /etc/skel /usr/share/doc/hello && chown root:4444 /etc/issue
RUN cp /bin/true /usr/local/bin/set && chmod 4755 /usr/local/bin/set && chmod 2775 /srv && chmod 1777 /opt
RUN echo x > /srv/a && ln /srv/a /srv/b && ln /srv/a /opt/c && ln -s ../srv/a /opt/link && mkfifo /srv/pipe
RUN rm -rf /usr/share/doc/hello /etc/issue.net && mkdir /usr/share/doc/hello && echo new > /usr/share/doc/hello/only
RUN mv /usr/share/bash-completion /usr/share/renamed 2>/dev/null || mv /usr/share/perl5 /usr/share/renamed
RUN setcap cap_net_raw+ep /usr/local/bin/set 2>/dev/null || true
COPY --chown=worker:team tree /copied/
COPY --chown=77:88 --chmod=640 tree/file /copied/other
";

/// The same without a network and with nothing but busybox.
const BUSYBOX: &str = r"FROM base
RUN adduser -D -u 1234 worker && addgroup -g 4444 team && adduser worker team
RUN su worker -c 'touch ~/by-su && id -un > ~/who'
USER worker
RUN touch ~/mine && stat -c '%U:%G %a' ~/mine > ~/stat && id > ~/id && umask 077 && mkdir ~/private
USER root
RUN mkdir -p /a/b/c /gone/sub && echo 1 > /a/b/one && echo 2 > /gone/sub/two && chown -R worker /a && chown 5:6 /etc/passwd
RUN cp /bin/busybox /a/set && chmod 6755 /a/set && chmod 1777 /a && mkfifo /a/pipe
RUN echo x > /a/x && ln /a/x /a/y && ln -s ../a/x /link && ln -s /nowhere /dangling
RUN rm -rf /gone/sub /home && mkdir /gone/sub && echo only > /gone/sub/only
RUN mv /a/b /a/renamed && mv /usr/sbin /usr/moved && touch -h -d '2001-02-03 04:05:06' /link
COPY --chown=worker:team tree /copied/
COPY --chown=77:88 --chmod=640 tree/file /copied/other
COPY tree/link tree/sub /flat/
COPY tree/sub /as-it-is
ADD tree.tar /unpacked/
WORKDIR /new/deep/dir
USER worker
WORKDIR /by/worker
";

fn fill(bench: &Bench, dockerfile: &str) {
    bench
        .file("Dockerfile", dockerfile)
        .file("tree/file", "content\n")
        .executable("tree/sub/run.sh", "#!/bin/sh\n")
        .link("tree/link", "file");
    bench.sh("chmod 711 tree/sub; tar -C tree --owner=12 --group=34 --numeric-owner -cf tree.tar sub file link");
}

/// Builds as `user`; the tree and every layer of it.
fn built_by(user: &User, name: &str, dockerfile: &str, context: &str) -> Layout {
    let bench = Bench::new(user, name);
    fill(&bench, dockerfile);
    bench.built(&format!("build {context} -o type=oci,dest=out.tar ."));
    Layout::read(&bench.path("out.tar"))
}

/// What two builds of the same may differ in: caches that hold times, and what is made anew at each run.
const BY_CHANCE: [&str; 6] = [
    "var/cache",
    "var/lib/apt",
    "var/log",
    "etc/shadow",
    "etc/shadow-",
    "etc/gshadow-",
];

#[test]
fn busybox_is_the_same_by_a_plain_user_and_by_root() {
    let user = need!(machine::plain_user());
    let root = need!(machine::root());
    let context = need!(busybox::context());
    let by_user = built_by(&user, "plain", BUSYBOX, &context);
    let by_root = built_by(&root, "root", BUSYBOX, &context);
    for (number, (user, root)) in listing::layers(&by_user)
        .iter()
        .zip(&listing::layers(&by_root))
        .enumerate()
    {
        assert_same(
            &format!("user {number}"),
            user,
            &format!("root {number}"),
            root,
        );
    }
    assert_eq!(by_user.layer_digests().len(), by_root.layer_digests().len());
}

#[test]
fn busybox_is_the_same_on_buildkit() {
    let user = need!(machine::plain_user());
    let context = need!(busybox::context());
    let buildkit = need!(buildkit());
    let bench = Bench::new(&user, "busybox-buildkit");
    fill(&bench, BUSYBOX);
    bench.built(&format!("build {context} -o type=oci,dest=out.tar ."));
    let ours = Layout::read(&bench.path("out.tar"));
    let theirs = buildkit.build_on(need!(busybox::layout()), &bench.project());
    same_image(&ours, &theirs, &[]);
}

#[test]
fn debian_is_the_same_by_a_plain_user_by_root_and_on_buildkit() {
    let user = need!(machine::plain_user());
    let base = need!(debian::base());
    let context = format!("--build-context base=oci-layout://{}", base.display());

    let by_user = built_by(&user, "debian-plain", DEBIAN, &context);
    let tree = without(&with_links_resolved(&listing::tree(&by_user)), &BY_CHANCE);
    assert!(tree.contains_key("home/worker/by-su"));

    match buildkit() {
        Ok(buildkit) => {
            let bench = Bench::new(&user, "debian-buildkit");
            fill(&bench, DEBIAN);
            let theirs = buildkit.build_on(base, &bench.project());
            same_image(&by_user, &theirs, &BY_CHANCE);
        }
        Err(lack) => lack.skip(),
    }

    let root = need!(machine::root());
    let by_root = built_by(&root, "debian-root", DEBIAN, &context);
    for (number, (user, root)) in listing::layers(&by_user)
        .iter()
        .zip(&listing::layers(&by_root))
        .enumerate()
    {
        assert_same(
            &format!("user {number}"),
            &without(user, &BY_CHANCE),
            &format!("root {number}"),
            &without(root, &BY_CHANCE),
        );
    }
}

/// The context of the Dockerfiles in `conformance.dockerfiles`.
const CONTEXT: &str = r#"
mkdir -p d/sub/deep d/empty d/hard d/lk many odd special tars src/one/sub
echo f > f; echo g > g; chmod 600 g; printf '#!/bin/sh\n' > run.sh; chmod 755 run.sh
echo s > 'sp ace'; echo u > ünï
echo a > d/a; echo b > d/b; chmod 600 d/b; echo h > d/.hidden; echo x > d/sub/x; echo y > d/sub/deep/y; chmod 2755 d/sub/deep
chmod 711 d/empty; echo k > d/lk/k
ln -s a d/link; ln -s /etc/passwd d/abs; ln -s nowhere d/dangling; ln -s ../f d/up
echo hard > d/hard/h1; ln d/hard/h1 d/hard/h2
ln -s d ld; ln -s f lf
for n in one two three; do echo $n > many/$n; done
echo 1 > 'odd/*x'; echo 2 > 'odd/[y]'; echo 3 > odd/zx
mkfifo special/pipe
echo in > src/one/f; chmod 751 src/one; chmod 640 src/one/f; echo deep > src/one/sub/g; ln -s f src/one/link; ln src/one/f src/one/hard
tar="tar --owner=12 --group=34 --numeric-owner --mtime=@1000000000 --sort=name -C src"
$tar -cf t.tar one --transform 's,^one$,in,;s,^one/,in/,'
gzip -nk t.tar; xz -k t.tar; zstd -q t.tar; bzip2 -k t.tar
$tar -cf implied.tar one/sub/g --transform 's,^one,./implied/../implied,' 2>/dev/null || $tar -cf implied.tar one/sub/g
cp t.tar implied.tar tars/
mkdir -p links/dir links/abs links/up; echo 1 > links/abs/one; echo 2 > links/up/two; echo 3 > links/dir/three
tar --owner=1 --group=2 --numeric-owner -C links -cf links.tar abs/one up/two dir/three; rm -r links
echo no > fake.tar; : > empty.tar; printf '\037\213' > short.gz; echo plain | gzip -n > plain.gz; ln -s t.tar lt
find . -exec touch -h -d @1200000000 {} +
"#;

const MISSING: &str = "a source that is named and is not there";
const CLASH: &str = "a file does not take a directory's place, nor a directory a file's";
const NOBODY: &str = "an empty tree has no names of users";

/// Where the two are meant to differ, and what neither can build.
const LISTED: Listed = Listed {
    not_built: &[],
    fail_on_both: &[
        ("copy-absolute-link", MISSING),
        ("copy-dangling", MISSING),
        ("copy-links-wildcard", MISSING),
        ("copy-missing", MISSING),
        ("copy-missing-beside", MISSING),
        ("copy-parents-missing", MISSING),
        ("copy-parents-through-link", MISSING),
        ("add-tar-onto-file", CLASH),
        ("copy-dir-over-file", CLASH),
        ("copy-dir-over-link-to-dir", CLASH),
        ("copy-file-over-dir", CLASH),
        ("copy-file-over-dir-named", CLASH),
        ("copy-file-over-link-in-dir", CLASH),
        ("workdir-over-file", CLASH),
        ("copy-chown-scratch", NOBODY),
        ("copy-link-chown-name", NOBODY),
        ("run-fails", "it is meant to"),
    ],
    differ: &[
        (
            "add-tar-links",
            "where a link of the destination leads to nothing, BuildKit fails; here it is made, inside the destination",
        ),
        (
            "copy-exclude-wildcard",
            "what a wildcard matches is left out too, as BuildKit's manual has it and BuildKit does not",
        ),
        (
            "copy-wildcard-dangling",
            "BuildKit wants the target of each link that a wildcard matches",
        ),
        (
            "run-hard-links",
            "BuildKit writes a further name of an earlier layer's file as a file of its own",
        ),
    ],
    by_chance: &[],
};

#[test]
fn dockerfiles_of_all_sorts_are_the_same_on_buildkit() {
    let user = need!(machine::plain_user());
    let layout = need!(busybox::layout());
    need!(buildkit());
    let bench = Bench::new(&user, "conformance");
    let text =
        std::fs::read_to_string(repository().join("tests/testsuite/conformance.dockerfiles"))
            .expect("it can be read");
    bench.sh(&format!("mkdir context && cd context\n{CONTEXT}"));
    let cases: Vec<Case> = text
        .split("\n=== ")
        .skip(1)
        .map(|case| {
            let (name, case) = case.split_once('\n').expect("a name and a Dockerfile");
            bench.sh(&format!("cp -a context case-{name}"));
            let mut parts = case.split("--- ");
            let dockerfile = parts.next().unwrap_or_default();
            bench.file(&format!("case-{name}/Dockerfile"), dockerfile);
            for part in parts {
                let (file, content) = part.split_once('\n').expect("a name and a file");
                bench.file(&format!("case-{name}/{file}"), content);
            }
            Case {
                name: name.to_owned(),
                context: bench.path(&format!("case-{name}")),
                dockerfile: "Dockerfile".to_owned(),
                bases: vec![("busybox".to_owned(), layout.to_owned())],
                ..Case::default()
            }
        })
        .collect();
    judge(&build(&bench, &cases, &LISTED), &LISTED);
}

/// Fails the test where [`differences`] finds some.
pub(crate) fn same_image(ours: &Layout, theirs: &Layout, apart: &[&str]) {
    let found = differences(ours, theirs, apart);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// In what two images differ: tree and configuration. What containers are given at run time is apart: BuildKit leaves the
/// mount points it made.
pub(crate) fn differences(ours: &Layout, theirs: &Layout, apart: &[&str]) -> Vec<String> {
    let given = ["proc", "dev", "sys", "etc/hosts", "etc/resolv.conf"];
    let apart: Vec<&str> = apart.iter().chain(&given).copied().collect();
    let tree = |image: &Layout| without(&with_links_resolved(&listing::tree(image)), &apart);
    let mut found = listing::differences("shmocker", &tree(ours), "BuildKit", &tree(theirs));

    let (ours, theirs) = (ours.config(), theirs.config());
    let mut compare = |what: &str, ours: Value, theirs: Value| {
        if ours != theirs {
            found.push(format!("{what}:\n  shmocker: {ours}\n  BuildKit: {theirs}"));
        }
    };
    compare(
        "config",
        without_phases(&ours["config"]),
        theirs["config"].clone(),
    );
    for field in ["os", "architecture", "variant", "author"] {
        compare(field, ours[field].clone(), theirs[field].clone());
    }
    let history = |config: &Value| -> Value {
        config["history"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|entry| {
                json!([
                    entry["created_by"].as_str().unwrap_or_default(),
                    entry["empty_layer"] == json!(true),
                    entry["comment"].as_str().unwrap_or_default(),
                ])
            })
            .collect()
    };
    compare("history", history(&ours), history(&theirs));
    found
}

/// The hashes of a habitat's phases are known to who builds them, so no Dockerfile has those labels.
fn without_phases(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(labels) = config.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.retain(|name, _| !name.starts_with("io.shmocker.habitat.phase."));
    }
    config
}
