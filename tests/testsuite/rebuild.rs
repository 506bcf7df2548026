//! Images that are built again to see whether they become the same, and what is remembered of builds: why steps were run, and
//! those that were killed.

use std::time::Duration;

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Capability, need};
use crate::harness::processes::wait_until;
use crate::harness::registry::{Contents, MemoryRegistry};
use crate::harness::site::{self, Site};

fn said(run: &Run) -> String {
    run.out().trim().to_owned()
}

/// Every name in the image is the same again: what it was made from is taken as it was found then.
#[test]
fn an_image_becomes_the_same_again_or_it_is_said_where_it_does_not() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    let host = registry.host();
    registry.put_layout("base", "1", &Layout::read(need!(busybox::layout())));
    let bench = Bench::new(&user, "rebuild").env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file("context/file", "one\n");
    bench.file(
        "Dockerfile",
        format!(
            "FROM {host}/base:1\nCOPY context /context\nRUN --mount=type=cache,target=/cache echo kept >> /cache/log; wc -l < /cache/log > /dev/null; echo made > /made\n\
             RUN --mount=type=secret,id=word test \"$(cat /run/secrets/word)\" = canary-77\n"
        ),
    );
    bench.file("word", "canary-77\n");
    let secret = "--secret id=word,src=word";
    let built = said(&bench.ok(&format!(
        "build {secret} -o type=image,name=app,compression=gzip,rewrite-timestamp=true ."
    )));
    // A secret is written down nowhere.
    bench
        .shmocker("rebuild --check app")
        .tells(1, &["the secret `word`", "--secret id="]);
    bench.sh("for recipe in ../store/history/*.recipe; do test -s $recipe; done");
    let again = bench.ok(&format!("rebuild --check {secret} app"));
    assert_eq!(again.out(), format!("the same: {built}\n"));
    // The tag has moved since; what it stood for then is what counts.
    {
        let mut contents: std::sync::MutexGuard<'_, Contents> =
            registry.contents.lock().expect("no panic");
        contents.manifests.retain(|(_, name), _| name != "1");
    }
    let again = bench.ok(&format!("rebuild --check {secret} --format json {built}"));
    let again = again.json();
    assert_eq!(again["same"], true);
    assert_eq!(again["rebuilt"], *built);
    // It took the place of nothing: everything is found in the cache, and no build of it is remembered.
    let warm = bench.built(&format!("build {secret} -t again ."));
    assert_eq!(warm.steps_run(), 0);
    assert_eq!(bench.ok("history ls -q").out().lines().count(), 2);
    // A file that it reads is another one: that is said, and nothing is built.
    bench.file("context/file", "two\n");
    let changed = bench.shmocker(&format!("rebuild --check {secret} app"));
    changed.expect(1, &["nothing was built"]);
    let text = changed.out();
    assert!(
        text.contains("COPY context /context") && text.contains("file"),
        "{text}"
    );
    bench.sh("rm -r context");
    bench
        .shmocker(&format!("rebuild --check {secret} app"))
        .tells(1, &["context"]);
    // What is pulled was made elsewhere.
    registry.put_layout("base", "2", &Layout::read(need!(busybox::layout())));
    bench.ok(&format!("pull {host}/base:2"));
    bench
        .shmocker(&format!("rebuild --check {host}/base:2"))
        .tells(1, &["nothing is written down of how"]);
    bench
        .shmocker("rebuild --check nothing")
        .tells(1, &["there is no image `nothing`"]);
    let user_options = "--tls-verify=false --cert-dir . --progress plain";
    bench
        .shmocker(&format!("rebuild --check {user_options} nothing"))
        .tells(1, &["there is no image `nothing`"]);
}

#[test]
fn what_differs_is_told_by_layer_and_path() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let bench = Bench::new(&user, "rebuild-differs").env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file(
        "Dockerfile",
        "FROM base\nRUN echo same > /a\nRUN cat /proc/sys/kernel/random/uuid > /stamp; chmod 600 /stamp\nRUN echo > /z\n",
    );
    let built = said(&bench.ok(&format!(
        "build {base} -o type=oci,dest=out.tar,rewrite-timestamp=true ."
    )));
    let found = bench.shmocker(&format!("rebuild --check {built}"));
    assert_eq!(found.status, 3, "{}", found.both());
    let text = found.out();
    for part in [
        format!("it was:  {built}\n"),
        "layer 3 of 4: RUN /bin/sh -c cat".to_owned(),
        "  /stamp\n    content: 37 bytes".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}\n{text}");
    }
    // As the store has it: times, in whole seconds, are a part of it.
    std::thread::sleep(Duration::from_secs(1));
    bench.ok(&format!("build {base} -t app ."));
    let found = bench.shmocker("rebuild --check --format json app");
    assert_eq!(found.status, 3, "{}", found.both());
    let found = found.json();
    assert_eq!(found["difference"]["layer"], 2, "{found:#}");
    assert_eq!(found["difference"]["path"], "/a");
    let what = found["difference"]["what"].to_string();
    assert!(what.contains("modified: 20"), "{what}");
    // A step that fails now says so.
    bench.file(
        "Dockerfile",
        "FROM base\nRUN --mount=type=bind,target=/c test -e /c/here\n",
    );
    bench.file("here", "x");
    bench.ok(&format!("build {base} -t gone ."));
    bench.ok("rebuild --check gone --progress quiet");
}

#[test]
fn it_is_known_later_why_steps_were_run_and_which_builds_were_killed() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let bench = Bench::new(&user, "history-why");
    bench.file("file", "one");
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY file /file\nRUN cat /file\nRUN echo last\n",
    );
    bench.ok(&format!("build {base} ."));
    bench.file("file", "two");
    bench.ok(&format!("build {base} ."));
    bench.ok(&format!("build {base} ."));
    assert_eq!(bench.ok("history why").out(), "no step of it was run\n");
    let ids: Vec<String> = bench
        .ok("history ls -q")
        .out()
        .lines()
        .map(str::to_owned)
        .collect();
    let why = bench.ok(&format!("history why {}", ids[1])).out();
    assert!(
        why.contains("COPY file /file") && why.contains("CHANGED") && why.contains("file changed")
            || why.contains("content"),
        "{why}"
    );
    let why = bench
        .ok(&format!("history why --format json {}", ids[2]))
        .json();
    assert_eq!(why["steps"][0]["state"], "new");
    assert_eq!(why["steps_run"], 3);
    // A step that fails has its reason too.
    bench.file(
        "Dockerfile",
        "FROM base\nCOPY file /file\nRUN cat /file\nRUN false\n",
    );
    bench.shmocker(&format!("build {base} .")).expect(3, &[]);
    let why = bench.ok("history why").out();
    assert!(why.contains("RUN false"), "{why}");
    // A build that is killed.
    bench.file("Dockerfile", "FROM base\nRUN echo begun; sleep 600\n");
    let mut child = bench.start(&format!("build {base} -t late ."), "log");
    let runs = || {
        let listed = bench.ok("history ls --format json").json();
        listed[0]["status"] == "running" && bench.ok("history logs").out().contains("begun")
    };
    assert!(wait_until(Duration::from_secs(20), runs).is_some());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let listed = bench.ok("history ls --format json").json();
    assert_eq!(listed[0]["status"], "killed");
    assert_eq!(listed[0]["names"][0], "late");
    let id = listed[0]["id"].as_str().expect("an id").to_owned();
    assert!(bench.ok("history logs").out().contains("begun"));
    let told = bench.ok("history inspect").out();
    assert!(told.contains("Status:   killed"), "{told}");
    assert!(bench.ok("history why").out().contains("come to an end"));
    bench.ok(&format!("history rm {id}"));
    assert!(!bench.ok("history ls -q").out().contains(&id));
    assert_eq!(
        bench
            .sh("ls ../store/history | grep -c killed || true")
            .out(),
        "0\n"
    );
}

#[test]
fn what_moves_is_taken_as_it_was_found() {
    let bench = Bench::new(&need!(machine::plain_user()), "rebuild-sources")
        .env("SOURCE_DATE_EPOCH", "1700000000");
    need!(machine::program(Capability::Git, "git"));
    site::repository(&bench, "one", "");
    bench.file("site/plain", "as it was\n");
    let site = Site::new(&bench.path("site"));
    bench.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD {}#main /repository/\nADD {} /plain\n",
            site.url("git/one/.git"),
            site.url("plain")
        ),
    );
    let form = "type=image,name=app,rewrite-timestamp=true";
    let built = said(&bench.ok(&format!("build -o {form} .")));
    bench.sh(
        "echo another > site/plain; cd site/one; echo more >> file\n\
         git -c user.name=a -c user.email=b commit -qam later; git update-server-info",
    );
    let again = bench.ok("rebuild --check app");
    assert_eq!(again.out(), format!("the same: {built}\n"));
    // Builds go with the time.
    let later = said(&bench.ok(&format!("build --pull -o {form} .")));
    assert_ne!(later, built);
    bench.ok(&format!("rebuild --check {built}"));
    assert_eq!(
        bench.ok("rebuild --check app").out(),
        format!("the same: {later}\n")
    );
    // What came with a context that was fetched is there for as long as the store keeps it.
    let fetched = site.url("git/one/.git#v1");
    bench.ok(&format!("build -t fetched {fetched}"));
    assert!(bench.shmocker("rebuild --check fetched").status != 1);
}
