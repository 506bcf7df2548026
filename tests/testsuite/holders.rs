//! Repositories that have what another one of their registry is sent: it is taken over from there, whoever brought it there. What
//! is known of them and is not so, or not any more, stops no push, and is not thought of again.

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::http::Request;
use crate::harness::machine::{self, need};
use crate::harness::registry::{
    DockerRegistry, Door, MemoryRegistry, PASSWORD, Reply, Transport, USER,
};

/// Three layers: the base's, which no registry has, one that is small, and one that would be asked for.
const DOCKERFILE: &str = "FROM base\n\
     RUN echo small > /small\n\
     RUN head -c 300000 /dev/urandom > /large\n";
/// They and their configuration.
const BLOBS: u64 = 4;

/// Builds and pushes to a name.
fn push(bench: &Bench, name: &str) -> Events {
    let base = busybox::context().expect("busybox was needed before");
    bench.file("Dockerfile", DOCKERFILE);
    bench.built(&format!("build {base} --push -t {name} ."))
}

/// How many blobs were sent, taken over, and there.
fn ways(pushed: &Events) -> [u64; 3] {
    let done = pushed
        .of_kind("push.done")
        .last()
        .expect("something was pushed");
    let count = |field: &str| done[field].as_u64().expect("a number");
    [
        count("blobs_sent"),
        count("blobs_mounted"),
        count("blobs_there"),
    ]
}

/// From which repositories something was to be taken over, each once, in order.
fn tried(asked: &[Request]) -> Vec<String> {
    let from = asked.iter().filter_map(|request| {
        let (_, from) = request.path.split_once("&from=")?;
        Some(from.to_owned())
    });
    let mut from: Vec<String> = from.collect();
    from.sort();
    from.dedup();
    from
}

fn how_many(asked: &[Request], method: &str, part: &str) -> usize {
    let such = asked
        .iter()
        .filter(|request| request.method == method && request.path.contains(part));
    such.count()
}

#[test]
fn what_went_to_one_repository_is_taken_over_by_the_next() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start(
        "holders",
        Transport::Plain,
        Door::Open
    ));
    let host = registry.host();
    let bench = Bench::new(&user, "holders");
    let first = push(&bench, &format!("{host}/team/one:1"));
    assert_eq!(ways(&first), [BLOBS, 0, 0]);
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/two:1"))),
        [0, BLOBS, 0]
    );
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/two:2"))),
        [0, 0, BLOBS]
    );
    // An image of the store, and one that goes from registry to registry.
    bench.ok(&format!("pull {host}/team/two:1"));
    let sent = bench.events(&format!("push {host}/team/two:1 {host}/other/three:1"));
    assert_eq!(ways(&sent), [0, BLOBS, 0]);
    // What is taken over is as good as what was sent.
    let other = Bench::new(&user, "holders-other");
    assert_eq!(
        other.ok(&format!("pull {host}/other/three:1")).out().trim(),
        first.digest()
    );
    assert_eq!(
        other
            .ok(&format!("run {host}/other/three:1 cat /small"))
            .out(),
        "small\n"
    );
    // It was lost there, and everywhere but at one place; then nowhere is anything.
    registry.lose("other/three");
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/four:1"))),
        [BLOBS, 0, 0]
    );
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/five:1"))),
        [0, BLOBS, 0]
    );
}

#[test]
fn a_repository_that_may_not_be_pulled_from_stops_no_push() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start(
        "holders-token",
        Transport::Plain,
        Door::Token
    ));
    let host = registry.host();
    let bench = Bench::new(&user, "holders-token");
    let docker = bench.path("docker").display().to_string();
    let bench = bench.env("DOCKER_CONFIG", &docker);
    let key = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"))
    };
    bench.file(
        "docker/config.json",
        format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{key}\"}}}}}}"),
    );
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/one:1"))),
        [BLOBS, 0, 0]
    );
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/two:1"))),
        [0, BLOBS, 0]
    );
    registry.close("team/two");
    registry.close("team/one");
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/three:1"))),
        [BLOBS, 0, 0]
    );
    registry.asked.lock().expect("no panic").clear();
    assert_eq!(
        ways(&push(&bench, &format!("{host}/team/four:1"))),
        [0, BLOBS, 0]
    );
    let asked = registry.asked.lock().expect("no panic").join("\n");
    assert!(
        asked.contains("team/three") && !asked.contains("team/two"),
        "{asked}"
    );
}

#[test]
fn what_is_known_wrongly_is_asked_once_and_forgotten() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    let host = registry.host();
    let bench = Bench::new(&user, "holders-wrong");
    push(&bench, &format!("{host}/one:1"));
    registry.asked();
    push(&bench, &format!("{host}/two:1"));
    let asked = registry.asked();
    assert_eq!(tried(&asked), ["one"]);
    // Nothing is asked for first, and nothing is sent but the manifest.
    assert_eq!(how_many(&asked, "HEAD", ""), 0);
    assert_eq!(how_many(&asked, "POST", "mount="), BLOBS as usize);
    assert_eq!(how_many(&asked, "PUT", "/blobs/"), 0);

    // Whatever a registry says of a repository that it does not like.
    for (number, status) in [400, 401, 403, 404, 405].into_iter().enumerate() {
        let before = format!("refused{number}");
        push(&bench, &format!("{host}/{before}:1"));
        registry.misbehave(move |request, _| {
            let is_mount = request.path.contains("&from=");
            is_mount.then(|| Reply::status(status).with("WWW-Authenticate", "Basic realm=\"x\""))
        });
        registry.asked();
        let pushed = push(&bench, &format!("{host}/sent{number}:1"));
        assert_eq!(ways(&pushed), [BLOBS, 0, 0], "{status}");
        assert!(tried(&registry.asked()).contains(&before));
        registry.misbehave(|_, _| None);
        push(&bench, &format!("{host}/after{number}:1"));
        assert_eq!(
            tried(&registry.asked()),
            [format!("sent{number}")],
            "{status}"
        );
    }
    // What was deleted is sent with the upload that the registry offers instead, and is looked for once.
    registry
        .contents
        .lock()
        .expect("no panic")
        .blobs
        .retain(|(repository, _), _| !repository.starts_with("after"));
    let pushed = push(&bench, &format!("{host}/three:1"));
    assert_eq!(ways(&pushed), [BLOBS, 0, 0]);
    let asked = registry.asked();
    assert_eq!(tried(&asked), ["after4"]);
    assert_eq!(how_many(&asked, "POST", ""), BLOBS as usize);
    push(&bench, &format!("{host}/four:1"));
    assert_eq!(tried(&registry.asked()), ["three"]);
    // Somebody else has brought it there meanwhile: what is large is not sent in vain.
    {
        let mut contents = registry.contents.lock().expect("no panic");
        let theirs: Vec<Vec<u8>> = contents
            .blobs
            .iter()
            .filter(|((repository, _), _)| repository == "four")
            .map(|(_, bytes)| bytes.clone())
            .collect();
        contents.blobs.clear();
        for bytes in theirs {
            contents.put_blob("five", &bytes);
        }
    }
    let [sent, mounted, there] = ways(&push(&bench, &format!("{host}/five:1")));
    assert_eq!([sent, mounted, there], [BLOBS - 2, 0, 2]);
}

#[test]
fn another_registry_is_told_of_no_repository() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let (one, other) = (MemoryRegistry::start(), MemoryRegistry::start());
    let bench = Bench::new(&user, "holders-others");
    push(&bench, &format!("{}/private/thing:1", one.host()));
    push(&bench, &format!("{}/public/thing:1", other.host()));
    let asked = other.asked();
    assert!(tried(&asked).is_empty(), "{asked:?}");
    assert!(
        asked
            .iter()
            .all(|request| !request.path.contains("private"))
    );
    // The caches of builds are images like others.
    one.asked();
    let base = need!(busybox::context());
    bench.built(&format!(
        "build {base} --cache-to type=registry,ref={}/cache:1,mode=max -t x .",
        one.host()
    ));
    let asked = one.asked();
    assert_eq!(tried(&asked), ["private/thing"]);
}
