//! RUN --mount: caches, memory, parts of trees, secrets; who shares them, what they start with, and what is left of them.

use std::time::{Duration, Instant};

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, need};
use crate::harness::processes::wait_until;

#[test]
fn caches_are_shared_private_or_used_one_after_another() {
    let bench = Bench::new(&need!(machine::plain_user()), "sharing");
    let base = need!(busybox::context());
    // Each says which others it finds at work while it works.
    let stages = |sharing: &str| {
        let mut text = String::new();
        for stage in ["a", "b", "c"] {
            text.push_str(&format!(
                "FROM base AS {stage}\nRUN --mount=type=cache,target=/c,id={sharing},sharing={sharing} \
                 touch /c/{stage}; : {sharing}; sleep 0.4; ls /c | tr -d '\\n' > /found; sleep 0.2; {}\n",
                if sharing == "locked" { format!("rm /c/{stage}") } else { "true".to_owned() }
            ));
        }
        text + "FROM base\nCOPY --from=a /found /a\nCOPY --from=b /found /b\nCOPY --from=c /found /c\n"
    };
    let found = |sharing: &str| {
        bench.file("Dockerfile", stages(sharing));
        bench.ok(&format!("build {base} -o type=local,dest=out ."));
        let found = bench
            .sh("cat out/a; echo; cat out/b; echo; cat out/c")
            .out();
        bench.sh("rm -rf out");
        found
    };
    assert_eq!(found("shared"), "abc\nabc\nabc");
    assert_eq!(found("private"), "a\nb\nc");
    assert_eq!(found("locked"), "a\nb\nc");
    // A private cache that is free is used again.
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=cache,target=/c,id=private,sharing=private ls /c | wc -l > /count\n",
    );
    bench.ok(&format!("build {base} -o type=local,dest=out ."));
    assert_eq!(bench.sh("cat out/count").out(), "1\n");
}

#[test]
fn a_cache_starts_as_it_is_asked_for() {
    let bench = Bench::new(&need!(machine::plain_user()), "cache-starts");
    let base = need!(busybox::context());
    bench
        .file(
            "Dockerfile",
            "FROM base AS seed\nRUN mkdir -p /s/sub && echo one > /s/sub/file && ln -s / /s/out\n\
             FROM base\n\
             RUN --mount=type=cache,target=/c,mode=0751,uid=1001,gid=1002 stat -c '%a %u %g' /c > /stat\n\
             RUN --mount=type=cache,target=/c stat -c '%a %u %g' /c >> /stat\n\
             RUN --mount=type=cache,target=/c,from=seed,source=/s/sub cat /c/file > /seeded && echo two > /c/file\n\
             RUN --mount=type=cache,target=/d,id=/c,from=seed,source=/s/sub cat /d/file >> /seeded\n\
             RUN --mount=type=cache,target=/c,from=here,source=in cat /c/x >> /seeded\n\
             RUN --mount=type=cache,target=/c,from=seed,source=/s/out ls /c > /through\n\
             RUN --mount=type=cache,target=/c mkdir -p /c/a/b && echo deep > /c/a/b/f && ln -s / /c/root && ln -s ../../.. /c/up\n\
             RUN --mount=type=cache,id=/c,target=/e,source=a/b cat /e/f > /sub\n\
             RUN --mount=type=cache,id=/c,target=/e,source=root ls /e > /root-link\n\
             RUN --mount=type=cache,id=/c,target=/e,source=up ls /e > /up-link\n\
             RUN --mount=type=cache,target=/c,ro (touch /c/x || echo no) > /readonly 2>&1\n",
        )
        .file("named/in/x", "three\n");
    bench.ok(&format!(
        "build {base} --build-context here=named -o type=local,dest=out ."
    ));
    assert_eq!(bench.sh("cat out/stat").out(), "751 1001 1002\n755 0 0\n");
    assert_eq!(bench.sh("cat out/seeded").out(), "one\ntwo\nthree\n");
    assert_eq!(bench.sh("cat out/sub").out(), "deep\n");
    // A link leads no further than the root of the cache, or of the tree that it is filled from.
    for file in ["root-link", "up-link"] {
        assert_eq!(
            bench.sh(&format!("cat out/{file}")).out(),
            "a\nroot\nup\n",
            "{file}"
        );
    }
    assert!(bench.sh("cat out/through").out().contains("bin\n"));
    assert!(bench.sh("cat out/readonly").out().ends_with("no\n"));

    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=cache,target=/c,source=absent true\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(1, &["/absent", "the cache `/c`", "Dockerfile:2:"]);
}

#[test]
fn a_build_without_the_cache_starts_its_caches_empty_once() {
    let bench = Bench::new(&need!(machine::plain_user()), "cache-empty");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=cache,target=/c echo a >> /c/x && cp /c/x /first\n\
         RUN --mount=type=cache,target=/c echo b >> /c/x && cp /c/x /second\n",
    );
    let build = |flags: &str| {
        bench.ok(&format!("build {base} {flags} -o type=local,dest=out ."));
        let found = bench.sh("cat out/first; echo; cat out/second").out();
        bench.sh("rm -rf out");
        found
    };
    assert_eq!(build(""), "a\n\na\nb\n");
    assert_eq!(build("--no-cache"), "a\n\na\nb\n");
}

#[test]
fn mounts_leave_nothing_in_the_layer() {
    let bench = Bench::new(&need!(machine::plain_user()), "stubs");
    let base = need!(busybox::context());
    bench
        .file("Dockerfile", "FROM base\nRUN mkdir /kept\n")
        .file("f", "x");
    bench.ok(&format!("build {base} -o type=local,dest=before ."));
    bench.file(
        "Dockerfile",
        "FROM base\nRUN mkdir /kept\n\
         RUN --mount=type=cache,target=/new/cache --mount=type=tmpfs,target=/new/memory --mount=target=/new/context \
         --mount=type=secret,id=s --mount=type=secret,id=s,target=/new/secret --mount=target=/kept/f,source=f \
         test -f /run/secrets/s && test -f /new/secret && test -d /new/cache\n",
    )
    .file("s.txt", "a secret of mine");
    let build = bench.built(&format!(
        "build {base} --secret id=s,src=s.txt -o type=local,dest=after ."
    ));
    assert_eq!(build.steps_run(), 1);
    bench.sh("(cd before && find . | sort) > a; (cd after && find . | sort) > b; diff a b");
}

#[test]
fn secrets_are_files_or_variables_and_shown_nowhere() {
    let bench = Bench::new(&need!(machine::plain_user()), "secrets").env("TOKEN", "hunter2-of-env");
    let base = need!(busybox::context());
    bench
        .file("s.txt", "hunter2-of-file\n")
        .file(
            "Dockerfile",
            "FROM base\n\
             RUN --mount=type=secret,id=file,mode=741,uid=100,gid=102 stat -c '%u %g %a' /run/secrets/file > /stat\n\
             RUN --mount=type=secret,id=TOKEN,env=T --mount=type=secret,id=file,env=F,target=/f \
             test ${#T} = 14 && test -n \"$F\" && test -f /f && echo it is $T and $F && cat /f && echo \"$T\" >&2\n\
             RUN --mount=type=secret,id=none,env=N test -z \"$N\" && test ! -e /run/secrets/none\n\
             RUN --mount=type=cache,target=/c --mount=type=secret,id=TOKEN cat /run/secrets/TOKEN > /c/kept\n\
             RUN --mount=type=cache,target=/c cat /c/kept\n",
        );
    let line = format!(
        "build {base} --secret id=file,src=s.txt --secret id=TOKEN --progress json -o type=local,dest=out ."
    );
    let run = bench.shmocker(&line);
    assert_eq!(run.status, 0, "{}", run.both());
    assert_eq!(bench.sh("cat out/stat").out(), "100 102 741\n");
    assert!(run.stderr.contains("it is *****"), "{}", run.both());
    assert!(!run.both().contains("hunter2"), "{}", run.both());
    // Neither another value nor none at all makes a step run again.
    bench.file("s.txt", "another\n");
    let again = bench.built(&format!("build {base} --secret id=file,src=s.txt ."));
    assert_eq!(again.steps_run(), 0, "{:?}", again.executed());

    // Every way to say where a secret is; the last one counts.
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=x wc -c < /run/secrets/x > /length\n",
    );
    bench.file("x", "12345");
    for (spec, length) in [
        ("id=x,src=s.txt", 8),
        ("id=x,type=file,source=s.txt", 8),
        ("id=x,env=TOKEN", 14),
        ("id=x,type=env,src=TOKEN", 14),
        ("id=x", 5),
        ("id=x,src=s.txt --secret id=x,env=TOKEN", 14),
    ] {
        bench.ok(&format!(
            "build {base} --no-cache --secret {spec} -o type=local,dest=out ."
        ));
        let found = bench.sh("cat out/length; rm -r out").out();
        assert_eq!(found.trim(), length.to_string(), "{spec}");
    }
    for (spec, part) in [
        ("src=s.txt", "id"),
        ("id=x,type=pipe", "type=pipe"),
        ("id=x,file=s.txt", "file=s.txt"),
    ] {
        bench
            .shmocker(&format!("build {base} --secret {spec} ."))
            .expect(2, &[part]);
    }

    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=TOKEN,env=T echo $T; cat /absent/$T\n",
    );
    let run = bench.shmocker(&format!("build {base} --secret id=TOKEN ."));
    assert_eq!(run.status, 3);
    assert!(!run.both().contains("hunter2"), "{}", run.both());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=secret,id=absent,required true\n",
    );
    bench
        .shmocker(&format!("build {base} ."))
        .expect(1, &["`absent`", "Dockerfile:2:", "--secret id=absent"]);
}

/// A step that waits for a cache of another build is called off where its own build fails.
#[test]
fn nobody_waits_for_a_cache_that_is_needed_no_more() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let holder = Bench::new(&user, "holder");
    holder.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=cache,target=/c,sharing=locked echo held; sleep 30\n",
    );
    let mut holding = holder.start(&format!("build {base} --progress json ."), "log");
    let held = wait_until(Duration::from_secs(20), || {
        std::fs::read_to_string(holder.path("log")).is_ok_and(|log| log.contains("\"held\""))
    });
    assert!(held.is_some());
    let bench = Bench::new(&user, "waits").on_store(holder.store());
    bench.file(
        "Dockerfile",
        "FROM base AS waits\nRUN --mount=type=cache,target=/c,sharing=locked touch /x\n\
         FROM base AS fails\nRUN sleep 0.3; exit 5\nFROM base\nCOPY --from=waits /x /\nCOPY --from=fails /x /\n",
    );
    let asked = Instant::now();
    bench
        .shmocker(&format!("build {base} ."))
        .expect(3, &["exit code: 5"]);
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "{:?}",
        asked.elapsed()
    );
    holder.sh(&format!("kill -INT {}", holding.id()));
    holding.wait().expect("it ends");
}

/// As BuildKit has it: a place that is sure to be empty, and stays so.
#[test]
fn a_tmpfs_may_be_read_only() {
    let bench = Bench::new(&need!(machine::plain_user()), "tmpfs-read-only");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN mkdir /there && touch /there/file\n\
         RUN --mount=type=tmpfs,target=/there,ro [ -z \"$(ls -A /there)\" ] && ! touch /there/other && grep ' /there tmpfs ro' /proc/mounts\n\
         RUN --mount=type=tmpfs,target=/there touch /there/other\n",
    );
    bench.built(&format!("build {base} ."));
}
