//! What makes a step run again and what does not, by counts.

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::machine::{self, need};

struct Project {
    bench: Bench,
    base: String,
}

impl Project {
    fn build(&self, flags: &str) -> Events {
        self.bench.built(&format!("build {} {flags} .", self.base))
    }

    fn runs(&self, flags: &str) -> u64 {
        self.build(flags).steps_run()
    }
}

fn project(name: &str) -> Result<Project, crate::harness::Lack> {
    Ok(Project {
        bench: Bench::new(&machine::plain_user()?, name),
        base: busybox::context()?,
    })
}

#[test]
fn times_are_no_part_of_what_is_copied_but_modes_links_and_content_are() {
    let project = need!(project("key-content"));
    let bench = &project.bench;
    bench
        .file("Dockerfile", "FROM base\nCOPY d /d\nRUN true\n")
        .file("d/a", "one")
        .file("d/b", "two")
        .sh("ln -s a d/l");
    assert_eq!(project.runs(""), 2);
    bench.sh("touch -d 2001-02-03 d d/a; touch -h -d 2001-02-03 d/l; cp -a d e; rm -r d; mv e d");
    assert_eq!(project.runs(""), 0);
    for change in [
        "chmod 600 d/a",
        "printf 1ne > d/a; touch -d 2001-02-03 d/a",
        "ln -sfn b d/l",
        "mv d/b d/c",
        "mkdir d/empty",
        "chmod 700 d/empty",
    ] {
        bench.sh(change);
        assert_eq!(project.runs(""), 2, "{change}");
    }
}

#[test]
fn a_mode_or_owner_that_is_overridden_is_no_part_of_the_key() {
    let project = need!(project("key-mode"));
    let bench = &project.bench;
    bench
        .file(
            "Dockerfile",
            "FROM base\nCOPY --chmod=640 d /octal/\nCOPY --chmod=u=rwX,go=rX d /symbolic/\nCOPY --chown=5:6 --chmod=644 d/a /both\n",
        )
        .file("d/a", "one")
        .file("d/sub/b", "two");
    assert_eq!(project.runs(""), 3);
    // As another machine with another umask has it.
    bench.sh("chmod 664 d/a d/sub/b; chmod 775 d d/sub");
    let again = project.build("");
    assert_eq!(again.steps_run(), 0, "{:?}", again.executed());
    // What --chmod leaves as it is still counts: X asks who may execute.
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY --chmod=a+rX d/a /x\nCOPY d/a /plain\n",
    );
    assert_eq!(project.runs(""), 2);
    bench.sh("chmod 775 d/a");
    assert_eq!(project.runs(""), 2);
}

#[test]
fn a_step_after_a_copy_of_unchanged_content_is_a_hit_although_its_source_ran_again() {
    let project = need!(project("key-stage"));
    let bench = &project.bench;
    bench
        .file(
            "Dockerfile",
            "FROM base AS made\nCOPY input /input\nRUN cut -c1 /input > /first; cat /input > /all; date +%N > /when\n\
             FROM base\nCOPY --from=made /first /\nRUN cat /first > /second\nRUN --mount=from=made,source=/first,target=/f cat /f\n",
        )
        .file("input", "abc\n");
    assert_eq!(project.runs(""), 5);
    bench.file("input", "axx\n");
    let again = project.build("");
    assert_eq!(
        again.executed(),
        [
            "made: COPY input /input",
            "made: RUN cut -c1 /input > /first; cat /input > /all; date +%N > /when"
        ]
    );
    assert_eq!(again.steps_cached(), 3);
    // Also where nothing of the source is taken from the cache.
    assert_eq!(project.build("--no-cache-filter made").steps_cached(), 3);
    bench.file("input", "bxx\n");
    assert_eq!(project.runs(""), 5);
}

#[test]
fn what_only_helps_a_step_is_no_part_of_its_key() {
    let project = need!(project("key-helpers"));
    let bench = &project.bench;
    bench.file("s", "1").file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=s true\nRUN --mount=type=ssh true\nRUN --mount=type=cache,target=/c,id=one date > /c/x\n",
    );
    assert_eq!(project.runs("--secret id=s,src=s"), 3);
    assert_eq!(project.runs(""), 0);
    bench.file("s", "2");
    assert_eq!(project.runs("--secret id=s,src=s"), 0);
    assert_eq!(
        project.runs("--build-arg http_proxy=http://127.0.0.1:9 --build-arg NO_PROXY=x"),
        0
    );
    // Which cache it is, and who shares it, does not matter; where it is does.
    let cache = |options: &str| {
        bench.file(
            "Dockerfile",
            format!("FROM base\nRUN --mount=type=cache,{options} date > /c/x\n"),
        );
        project.runs("")
    };
    assert_eq!(cache("target=/c"), 1);
    assert_eq!(cache("target=/c,id=two"), 0);
    assert_eq!(cache("target=/c,id=two,sharing=locked"), 0);
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=s,target=/a true\n",
    );
    assert_eq!(project.runs(""), 1);
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=s,target=/b true\n",
    );
    assert_eq!(project.runs(""), 1);
    // A proxy that is declared counts as any other ARG.
    bench.file("Dockerfile", "FROM base\nARG http_proxy\nRUN true\n");
    assert_eq!(project.runs("--build-arg http_proxy=http://127.0.0.1:9"), 1);
    assert_eq!(
        project.runs("--build-arg http_proxy=http://127.0.0.1:10"),
        1
    );
}

#[test]
fn an_argument_counts_from_where_it_is_declared() {
    let project = need!(project("key-args"));
    let bench = &project.bench;
    bench.file(
        "Dockerfile",
        "ARG GLOBAL=g\nFROM base\nRUN true before\nARG A=1\nRUN true after\nARG GLOBAL\nRUN true global\n",
    );
    assert_eq!(project.runs(""), 3);
    assert_eq!(project.runs("--build-arg A=2"), 2);
    assert_eq!(project.runs("--build-arg GLOBAL=h"), 1);
    assert_eq!(project.runs("--build-arg OTHER=x"), 0);
    assert_eq!(project.runs("--build-arg A=1"), 0);
}

#[test]
fn nothing_of_a_step_that_failed_is_kept() {
    let project = need!(project("key-failed"));
    let bench = &project.bench;
    bench.file(
        "Dockerfile",
        "FROM base\nRUN true\nRUN --mount=type=cache,target=/c test -e /c/second || { touch /c/second; echo half > /half; false; }\nRUN test ! -e /half\n",
    );
    let failed = bench.events(&format!("build {} .", project.base));
    assert_eq!((failed.run.status, failed.steps_run()), (3, 2));
    let again = project.build("");
    assert_eq!((again.steps_run(), again.steps_cached()), (2, 1));
}
