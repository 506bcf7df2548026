//! Whose files are, where a user has a single id and owners are records: the layers are those of who has all ids.

use crate::harness::bench::Bench;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, need};
use crate::harness::{busybox, listing};

/// Every way to give, make and move files that the base has programs for.
const FILES: &str = r#"FROM base
RUN adduser -D -u 1000 app && addgroup -g 5000 extra && addgroup app extra && mkdir /w && cd /w && touch a b setid plain && mkfifo p && \
    ln -s a l && ln a hard && chown 7:8 a && chown -h 9:10 l && chown 11:12 p && chmod 6755 setid && chown 13:14 setid && \
    mkdir d && chown 1000:5000 d && chmod 2775 d && touch d/inherits && mkdir d/below && touch d/below/too && cp -a . /w2
RUN cd /w && mv l moved && mv p pipe && ln moved linked && rm hard && cp -a a copy && mv d/inherits there && touch -h -d 2001-02-03 moved && \
    tar cf /t.tar -C /w2 . && mkdir /w3 && tar xpf /t.tar -C /w3 && rm /t.tar && chown -R 20:21 /w3/d && chown 0:0 /w3/a && chgrp 4 /w/plain && \
    chown -h 15 /w2/l && chown 16 /w2/p && mkdir -p /w2/deep/er && chown -R 17:18 /w2/deep
RUN su app -c 'id > /tmp/who; umask 027; cd; touch f; mkdir dir dir/in; ln -s f link; mkfifo pipe; ln f second; cp -a dir copied; mv f moved; chgrp extra dir; \
    touch /etc/denied 2>/dev/null || echo refused > verdict; chown root moved 2>/dev/null || echo kept >> verdict; exit 0'
RUN ls -ln /w /home/app | awk '{print $1, $3, $4, $9}' > /seen && stat -c '%u:%g %a %n' /w/* /home/app/* >> /seen; find / -xdev -user 9 >> /seen; stat -c %x /w/moved | grep -c ^2286 >> /seen; \
    mkdir /jail /jail/bin && cp /bin/busybox /jail/bin && chroot /jail /bin/busybox sh -c 'cd /bin; busybox touch made; busybox chown 22:23 made /bin/busybox; \
    busybox stat -c %u:%g made' >> /seen; cd /tmp && echo x > over && chown 5:6 over && echo y > over && chmod 4755 over && chown 7 over
USER app:extra
WORKDIR /home/app/place
RUN id > who && touch mine && mkdir -p deep/er && echo x > deep/er/file && (touch /etc/denied 2>/dev/null && exit 1; true)
COPY --chown=33:34 tree given/
COPY tree /home/app/of-root
USER root
RUN touch /home/app/place/of-root && rm -r /w2 && chown -R app /home/app/of-root
"#;

fn project(bench: &Bench) {
    bench
        .file("Dockerfile", FILES)
        .file("tree/file", "content\n")
        .file("tree/sub/other", "other\n")
        .link("tree/link", "file");
}

fn layers_of(bench: &Bench, flags: &str) -> Vec<listing::Listing> {
    project(bench);
    let base = busybox::context().expect("it was there before");
    bench.built(&format!("build {flags} {base} -o type=oci,dest=out.tar ."));
    listing::layers(&Layout::read(&bench.path("out.tar")))
}

#[test]
fn a_user_whose_programs_get_no_power_builds_with_a_single_id() {
    let bench = Bench::new(&need!(machine::plain_user()), "owners-powerless");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN touch f && chown 5:6 f && echo seen $(stat -c %u:%g f)\n",
    );
    let shmocker = format!("setpriv --no-new-privs {}", bench.shmocker_words());
    let built = bench.sh(&format!("{shmocker} build {base} --progress=plain ."));
    built.expect(0, &["seen 5:6"]);
    need!(machine::ranged_user());
    let found = bench.sh(&format!("{shmocker} doctor")).out();
    assert!(
        found.contains("newuidmap may not map ids here: no program has more power"),
        "{found}"
    );
}

#[test]
fn layers_are_the_same_with_ranges_as_root_and_with_a_single_id() {
    let plain = need!(machine::ranged_user());
    need!(busybox::context());
    let ranges = layers_of(&Bench::new(&plain, "owners-ranges"), "--ids=ranges");
    let mut others = vec![(
        "single",
        layers_of(&Bench::new(&plain, "owners-single"), "--ids single"),
    )];
    if let Ok(bare) = machine::bare_user() {
        others.push(("bare", layers_of(&Bench::new(&bare, "owners-bare"), "")));
    }
    if let Ok(root) = machine::root() {
        others.push(("root", layers_of(&Bench::new(&root, "owners-root"), "")));
        let single = Bench::new(&root, "owners-root-single");
        others.push(("root, single", layers_of(&single, "--ids=single")));
    }
    for (who, layers) in others {
        assert_eq!(ranges.len(), layers.len(), "{who}");
        for (one, other) in ranges.iter().zip(&layers) {
            listing::assert_same("ranges", one, who, other);
        }
    }
}

#[test]
fn a_user_without_ranges_builds_runs_and_looks() {
    let user = need!(machine::bare_user());
    let bench = Bench::new(&user, "bare");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM base\nRUN adduser -D -u 1234 me && mkdir /here && chown me:7 /here && chown -h 5:6 /etc\nUSER me\nWORKDIR /here\n",
    );
    bench.ok(&format!("build {base} -t mine ."));
    assert_eq!(bench.ok("run mine id -un").out(), "me\n");
    assert_eq!(
        bench.ok("run mine stat -c %u:%g /here /etc").out(),
        "1234:7\n5:6\n"
    );
    bench.file("shared/from-host", "h\n");
    let volume = format!("-v {}:/mnt", bench.path("shared").display());
    bench.ok(&format!("run {volume} mine touch /mnt/from-inside"));
    assert_eq!(
        bench.sh("stat -c %U shared/from-inside").out(),
        format!("{}\n", user.name)
    );
    assert_eq!(bench.ok("unshare id -u").out(), "0\n");
    // An image that is built upon keeps its owners.
    bench.file(
        "Dockerfile",
        "FROM mine\nRUN stat -c %u:%g /here /etc > /here/seen\n",
    );
    bench.ok("build -t above .");
    assert_eq!(bench.ok("run above cat seen").out(), "1234:7\n5:6\n");
    bench.ok("save -o saved.tar above");
    bench.ok("rmi above");
    bench.ok("load -i saved.tar");
    assert_eq!(
        bench.ok("run above stat -c %u:%g seen /etc").out(),
        "1234:1234\n5:6\n"
    );
    bench.ok("store check");
    bench.ok("store delete");
}

#[test]
fn a_store_stays_with_the_ids_that_it_was_made_with() {
    let bench = Bench::new(&need!(machine::plain_user()), "owners-store");
    let base = need!(busybox::context());
    bench.file("Dockerfile", "FROM base\nRUN chown 5:6 /etc\n");
    let first = bench.built(&format!("build --ids=single {base} ."));
    // Without a word it goes on as it began.
    let again = bench.built(&format!("build {base} ."));
    assert_eq!((first.digest(), again.steps_run()), (again.digest(), 0));
    let other = bench.shmocker(&format!("build --ids=ranges {base} ."));
    other.tells(4, &["as records, with a single id", "another store"]);
    let wrong = Bench::new(bench.user(), "owners-wrong").env("SHMOCKER_IDS", "many");
    wrong
        .shmocker("images")
        .expect(2, &["SHMOCKER_IDS is `many`"]);
    let by_word = Bench::new(bench.user(), "owners-word").env("SHMOCKER_IDS", "single");
    by_word.file("Dockerfile", "FROM base\nRUN true\n");
    by_word.ok(&format!("build {base} ."));
    by_word
        .shmocker("build --ids=ranges .")
        .tells(4, &["with a single id"]);
}

/// Who a process is, in all the ways to ask and to change it: what programs see is what they see where all ids are there.
#[test]
fn who_a_process_is_goes_through_forks_executions_and_set_id_programs() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let seen = |ids: &str| {
        let bench = Bench::new(&user, "owners-who");
        bench.file(
            "Dockerfile",
            "FROM base\nRUN adduser -D -u 1000 app && cp /bin/busybox /bin/busybox-ids && chown 33:34 /bin/busybox-ids && \
             chmod 6755 /bin/busybox-ids\n\
             RUN su app -c 'id -u; sh -c \"(sleep 0.2; id -u > /tmp/late) &\"; id -u; su root -c true 2>/dev/null || echo no' > /seen; sleep 0.5\n\
             RUN (cat /tmp/late; su app -c '/bin/busybox-ids id; /bin/busybox-ids touch /tmp/by-set-id'; id -u; stat -c %u:%g /tmp/by-set-id) >> /seen\n\
             USER app\nRUN (id; grep Cap /proc/self/status; touch mine /etc/not-mine; chown 5 mine; ls -n mine) > /tmp/app 2>&1; true\n",
        );
        bench.ok(&format!("build --ids={ids} {base} -t mine ."));
        bench.ok("run mine cat /seen /tmp/app").out()
    };
    let single = seen("single");
    assert!(
        single.contains("1000\n1000\nno\n1000\nuid=1000(app)"),
        "{single}"
    );
    need!(machine::ranged_user());
    assert_eq!(single, seen("ranges"));
}

/// Paths that change while they are resolved, floods of calls, and processes that are killed amid them.
#[test]
fn a_hostile_step_reaches_nothing_outside_of_its_root() {
    let bench = Bench::new(&need!(machine::plain_user()), "owners-hostile");
    let base = need!(busybox::context());
    bench.file("canary/file", "mine\n");
    bench.link("canary/link", "file");
    let canary = bench.path("canary");
    let look = || {
        let all = "canary canary/file canary/link";
        let said = bench.sh(&format!(
            "ls -ldn --full-time {all}; ls -ldc --full-time {all}; ls -ldu --full-time canary/link; cat canary/file"
        ));
        said.out()
    };
    let before = look();
    bench.file(
        "Dockerfile",
        format!(
            "FROM base\nRUN C={canary}; mkdir -p $C /other/file; cd /other; \
             (while :; do ln -sfn $C /turn; ln -sfn /proc/self/root$C /turn; ln -sfn ../../../../../..$C /turn; ln -sfn /other /turn; done) & \
             (while :; do mv $C /elsewhere 2>/dev/null; ln -s / $C; rm -f $C; mv /elsewhere $C; done) & \
             for n in 1 2 3 4; do (while :; do chown 5:6 /turn/file $C/file; chown -h 7:8 /turn/link; : > /turn/made; \
             su nobody -s /bin/sh -c 'touch /turn/file $0/new; mkdir /turn/dir' $C; done) 2>/dev/null & done; \
             for n in 1 2 3 4 5 6 7 8; do sleep 0.2; (touch f; while chown $n f; do :; done) & sleep 0.1; kill -9 $!; done; \
             kill -9 -1 || true\nRUN true\n",
            canary = canary.display()
        ),
    );
    let run = bench.shmocker(&format!("build --ids=single {base} ."));
    // Its shell may have killed itself, too; what counts is that it ends.
    assert!([0, 3].contains(&run.status), "{}", run.both());
    assert_eq!(look(), before);
    bench.file("Dockerfile", "FROM base\nRUN chown 5:6 /etc\n");
    bench.ok(&format!("build {base} ."));
}
