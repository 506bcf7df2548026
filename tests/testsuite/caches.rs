//! Caches of builds elsewhere: one machine builds and writes, another begins with nothing, reads, and runs no step. In a
//! registry, a directory, an image. What is fetched and what is not; and caches that are broken, which end no build.

use std::time::Duration;

use serde_json::Value;

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::events::Events;
use crate::harness::layout::Layout;
use crate::harness::machine::{self, Lack, User, need};
use crate::harness::processes::wait_until;
use crate::harness::registry::{
    Contents, DockerRegistry, Door, MemoryRegistry, PASSWORD, Reply, Transport, USER,
};
use crate::peers::buildkit::{Request, buildkit, image_of};

/// Two stages, a cache mount with a file that a layer could not have, and files of other users.
const DOCKERFILE: &str = "FROM base AS tools\n\
     RUN --mount=type=cache,target=/c,id=kept head -c 3000000 /dev/zero > /big && echo x > /c/x && echo y > /c/.wh.y\n\
     FROM base\n\
     COPY --from=tools /big /big\n\
     RUN echo one > /one && chown 7:7 /one && chmod 600 /one && rm /etc/group\n";

/// A machine with the project and an empty store, and the command that builds it.
fn machine_of(user: &User, name: &str) -> Result<(Bench, String), Lack> {
    let bench = Bench::new(user, name);
    bench.file("Dockerfile", DOCKERFILE);
    Ok((bench, format!("build {} .", busybox::context()?)))
}

/// Steps that were run, and that were not.
fn steps(built: &Events) -> (u64, u64) {
    (built.steps_run(), built.steps_cached())
}

fn warnings(built: &Events) -> String {
    let told = built
        .of_kind("warning")
        .filter(|event| event["code"] != "HostNetwork");
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    told.map(|event| format!("{}: {}\n", text(event, "code"), text(event, "message")))
        .collect()
}

fn snapshots(bench: &Bench) -> usize {
    let listed = std::fs::read_dir(bench.store().join("snapshots"));
    listed.map_or(0, Iterator::count)
}

/// The manifest that a registry in memory has under a tag.
fn manifest(registry: &MemoryRegistry, repository: &str, tag: &str) -> Value {
    let contents = registry.contents.lock().expect("no panic");
    let (_, bytes) = &contents.manifests[&(repository.to_owned(), tag.to_owned())];
    serde_json::from_slice(bytes).expect("it is JSON")
}

#[test]
fn a_registry_takes_results_to_another_machine() {
    let user = need!(machine::plain_user());
    let registry = need!(DockerRegistry::start(
        "caches",
        Transport::Plain,
        Door::Open
    ));
    let cache = format!("{}/team/cache", registry.host());
    let (bench, build) = need!(machine_of(&user, "cache-registry"));
    let first = bench.built(&format!(
        "{build} --cache-to type=registry,ref={cache}:max,mode=max --cache-to type=registry,ref={cache}:min,mode=min,compression=zstd"
    ));
    assert_eq!((steps(&first), warnings(&first).as_str()), ((3, 0), ""));

    let (other, _) = need!(machine_of(&user, "cache-registry-max"));
    let found = other.built(&format!("{build} --cache-from {cache}:max -t app"));
    assert_eq!(steps(&found), (0, 3), "{}", found.run.both());
    assert_eq!(found.digest(), first.digest());
    assert_eq!(other.ok("run app stat -c %u:%a /one").out(), "7:600\n");
    // Of the first stage nobody wanted the files: the base, what was copied, what was run.
    assert_eq!(snapshots(&other), 3);
    assert_eq!(
        other.ok("store check --deep --format json").json()["sound"],
        true
    );
    assert_eq!(
        steps(&other.built(&format!("{build} --cache-from {cache}:max"))),
        (0, 3)
    );

    // Of the result alone all is found as well; what came before it is not there if it is wanted after all.
    let (other, _) = need!(machine_of(&user, "cache-registry-min"));
    let from = format!("--cache-from type=registry,ref={cache}:min");
    let found = other.built(&format!("{build} {from}"));
    assert_eq!((steps(&found), snapshots(&other)), ((0, 3), 3));
    assert_eq!(found.digest(), first.digest());
    other.file(
        "Dockerfile",
        format!("{DOCKERFILE}COPY --from=tools /etc/passwd /copied\n"),
    );
    assert_eq!(steps(&other.built(&format!("{build} {from}"))), (2, 2));

    // A step that runs gets the cache mount that the other machine has left, all files of it.
    let (other, _) = need!(machine_of(&user, "cache-registry-mount"));
    let changed = DOCKERFILE.replace("head -c", "cat /c/x /c/.wh.y && head -c");
    other.file("Dockerfile", changed);
    let to = format!("--cache-to type=registry,ref={cache}:max,mode=max");
    let found = other.built(&format!("{build} --cache-from {cache}:max {to}"));
    assert_eq!(steps(&found), (1, 2), "what is copied is the same");
    assert!(found.log().starts_with("x\ny\n"), "{}", found.log());
    // What this machine never had is in the cache still.
    let (third, _) = need!(machine_of(&user, "cache-registry-again"));
    third.file(
        "Dockerfile",
        std::fs::read(other.path("Dockerfile")).expect("it is there"),
    );
    assert_eq!(
        steps(&third.built(&format!("{build} --cache-from {cache}:max"))),
        (0, 3)
    );
}

/// Where all is found, the records are all that is fetched; an image that is sent on is not fetched either.
#[test]
fn what_nobody_needs_is_not_fetched() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let cache = format!("{}/cache:1", registry.host());
    let (bench, build) = need!(machine_of(&user, "cache-lazy"));
    let to = format!("--cache-to type=registry,ref={cache},mode=max");
    let first = bench.built(&format!("{build} {to} -t {}/app:1 --push", registry.host()));
    let records = manifest(&registry, "cache", "1")["config"]["digest"].clone();
    let fetched = |registry: &MemoryRegistry| -> Vec<String> {
        let asked = registry.asked().into_iter();
        let blobs = asked
            .filter(|request| request.method == "GET" && request.path.contains("/blobs/sha256"));
        blobs
            .map(|request| {
                request
                    .path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    };

    for output in [
        "-o type=cacheonly".to_owned(),
        format!("--push -t {}/other:1", registry.host()),
    ] {
        let (other, _) = need!(machine_of(&user, "cache-lazy-other"));
        registry.asked();
        let found = other.built(&format!("{build} --cache-from {cache} {output}"));
        assert_eq!((steps(&found), snapshots(&other)), ((0, 3), 0), "{output}");
        assert_eq!(
            fetched(&registry),
            [records.as_str().expect("a digest")],
            "{output}"
        );
        if output.contains("push") {
            assert_eq!(found.digest(), first.digest());
            other.ok(&format!("pull {}/other:1", registry.host()));
        }
    }
    // Nothing new: nothing is sent.
    registry.asked();
    bench.ok(&format!("{build} {to}"));
    let sent = registry.asked();
    assert!(
        sent.iter().all(|request| request.method == "GET"),
        "{sent:?}"
    );

    // What was fetched once answers by itself from then on.
    let (other, _) = need!(machine_of(&user, "cache-lazy-again"));
    let line = format!("{build} --cache-from {cache}");
    assert_eq!((steps(&other.built(&line)), snapshots(&other)), ((0, 3), 3));
    registry.asked();
    assert_eq!(steps(&other.built(&line)), (0, 3));
    assert!(registry.asked().is_empty());

    // A step that has to run fetches what it stands on, and no more.
    let (other, _) = need!(machine_of(&user, "cache-lazy-part"));
    other.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    let found = other.built(&format!("{build} --cache-from {cache}"));
    assert_eq!(steps(&found), (1, 2));
    assert_eq!(
        fetched(&registry).len(),
        3,
        "the records, the base, what is copied"
    );
}

/// Layers go while later steps run.
#[test]
fn what_is_ready_is_sent_while_later_steps_run() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let (bench, build) = need!(machine_of(&user, "cache-ahead"));
    bench.file(
        "Dockerfile",
        "FROM base\nRUN echo early > /early\nRUN test -e /stop || sleep 60\n",
    );
    let to = format!(
        "--cache-to type=registry,ref={}/cache:1,mode=max",
        registry.host()
    );
    let mut child = bench.start(&format!("{build} {to}"), "log");
    let blobs = || registry.contents.lock().expect("no panic").blobs.len();
    // The base and the first step.
    let sent = wait_until(Duration::from_secs(30), || blobs() >= 2);
    let is_running = child.try_wait().expect("it was started").is_none();
    drop(bench.finish(bench.command("kill").arg(child.id().to_string())));
    child.wait().expect("it ends");
    let log = bench.sh("cat log").out();
    assert!(sent.is_some() && is_running, "{log}");
    let contents = registry.contents.lock().expect("no panic");
    assert!(contents.manifests.is_empty());
}

#[test]
fn an_image_has_its_own_cache_in_it() {
    let user = need!(machine::plain_user());
    let registry = need!(DockerRegistry::start(
        "inline",
        Transport::Plain,
        Door::Open
    ));
    let image = format!("{}/app:1", registry.host());
    let (bench, build) = need!(machine_of(&user, "cache-inline"));
    let push = format!("{build} --cache-to type=inline --push -t {image}");
    let first = bench.built(&push);
    assert_eq!(steps(&first), (3, 0));
    assert_eq!(bench.built(&push).digest(), first.digest());
    let plain = bench.built(&build).digest();

    let (other, _) = need!(machine_of(&user, "cache-inline-other"));
    let found = other.built(&format!("{build} --cache-from {image} -t app"));
    assert_eq!((steps(&found), warnings(&found).as_str()), ((0, 3), ""));
    assert_eq!(snapshots(&other), 3);
    let inspected = |bench: &Bench, digest: &str| bench.ok(&format!("inspect {digest}")).json();
    assert_eq!(
        inspected(&other, &found.digest()),
        inspected(&bench, &plain)
    );
    assert_eq!(found.digest(), plain);
    assert_eq!(other.ok("run app cat /one").out(), "one\n");

    // An image upon it begins with what is in it, and has no records of it.
    other.file(
        "upon/Dockerfile",
        format!("FROM {image}\nRUN echo upon > /upon\n"),
    );
    other.ok("build -o type=oci,dest=upon.tar upon");
    let config = Layout::read(&other.path("upon.tar")).config();
    assert!(config["rootfs"].is_object() && config["shmocker.cache.v1"].is_null());

    // With a time for all, the same on any machine, whenever it is built.
    let dated = |name: &str| -> Result<String, Lack> {
        let (bench, build) = machine_of(&user, name)?;
        let bench = bench.env("SOURCE_DATE_EPOCH", "1700000000");
        let line =
            format!("{build} --cache-to type=inline -o type=oci,dest=x.tar,rewrite-timestamp=true");
        Ok(bench.built(&line).digest())
    };
    assert_eq!(
        need!(dated("cache-inline-one")),
        need!(dated("cache-inline-two"))
    );
    // An image without one says so.
    bench.ok(&format!("{build} --push -t {image}"));
    let (third, _) = need!(machine_of(&user, "cache-inline-none"));
    let built = third.built(&format!("{build} --cache-from {image}"));
    assert_eq!(steps(&built), (3, 0));
    assert!(
        warnings(&built).contains("an image without a cache in it"),
        "{}",
        warnings(&built)
    );
}

/// A directory has what the last build used, under each of its tags, and nothing more.
#[test]
fn a_directory_takes_results_to_another_machine() {
    let user = need!(machine::plain_user());
    let (bench, build) = need!(machine_of(&user, "cache-to"));
    let base = need!(busybox::context());
    bench.file(
        "other/Dockerfile",
        "FROM base\nRUN echo of another project > /secret\n",
    );
    bench.ok(&format!("build {base} other"));
    let cache = bench.path("cache");
    let to = format!(
        "--cache-to type=local,dest={},mode=max,compression=uncompressed",
        cache.display()
    );
    let first = bench.built(&format!("{build} {to}"));
    assert_eq!(steps(&first), (3, 0));
    let blobs = || {
        let listed = std::fs::read_dir(cache.join("blobs/sha256")).expect("a cache");
        let mut names: Vec<_> = listed
            .filter_map(Result::ok)
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        names
    };
    let written = blobs();
    let holds = |part: &[u8]| {
        written.iter().any(|name| {
            let content = std::fs::read(cache.join("blobs/sha256").join(name)).expect("a blob");
            content.windows(part.len()).any(|found| found == part)
        })
    };
    assert!(holds(b"one\n") && !holds(b"of another project"));

    let from = format!("--cache-from type=local,src={}", cache.display());
    let (other, _) = need!(machine_of(&user, "cache-from"));
    let found = other.built(&format!("{build} {from}"));
    assert_eq!((steps(&found), found.digest()), ((0, 3), first.digest()));

    // Nothing new: nothing is written. Something new takes the place of what is no longer used.
    bench.ok(&format!("{build} {to}"));
    assert_eq!(blobs(), written);
    bench.file("Dockerfile", DOCKERFILE.replace("echo one", "echo two"));
    bench.ok(&format!("{build} {to}"));
    assert!(blobs().len() == written.len() && blobs() != written);
    // Another tag has its own.
    bench.file("Dockerfile", DOCKERFILE);
    let to = to.replace("mode=max", "mode=min");
    bench.ok(&format!("{build} {to},tag=second,reset=true"));
    assert!(blobs().len() > written.len());
    for (tag, found) in [("latest", (1, 2)), ("second", (0, 3))] {
        let (other, _) = need!(machine_of(&user, "cache-tag"));
        let built = other.built(&format!("{build} {from},tag={tag}"));
        assert_eq!(steps(&built), found, "{tag}");
    }
    let index: Value =
        serde_json::from_slice(&std::fs::read(cache.join("index.json")).expect("an index"))
            .expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let (other, _) = need!(machine_of(&user, "cache-digest"));
    assert_eq!(
        steps(&other.built(&format!("{build} {from},digest={digest}"))),
        (1, 2)
    );
    // Whatever is damaged in it, the build goes on, and says so once.
    let blob = |digest: &str| cache.join(digest.replace("sha256:", "blobs/sha256/"));
    let document: Value =
        serde_json::from_slice(&std::fs::read(blob(digest)).expect("a manifest")).expect("JSON");
    let named = |value: &Value| value["digest"].as_str().expect("a digest").to_owned();
    let (records, layer) = (named(&document["config"]), named(&document["layers"][0]));
    let flip: fn(&mut Vec<u8>) = |content| content[700] ^= 1;
    let cut: fn(&mut Vec<u8>) = |content| content.truncate(content.len() / 2);
    for (digest, damage, part) in [
        (digest, flip, "is damaged"),
        (&records, flip, "is damaged"),
        (&records, cut, "is damaged"),
        (&layer, flip, "layer"),
        (&layer, cut, "bytes, and has"),
    ] {
        let sound = std::fs::read(blob(digest)).expect("a blob");
        let mut content = sound.clone();
        damage(&mut content);
        std::fs::write(blob(digest), content).expect("it can be damaged");
        let (other, _) = need!(machine_of(&user, "cache-damaged"));
        let built = other.built(&format!("{build} {from}"));
        let told = warnings(&built);
        assert_eq!(
            (steps(&built), built.digest().len()),
            ((3, 0), 71),
            "{part}: {told}"
        );
        assert!(
            told.contains(part) && told.lines().count() == 1,
            "{part}: {told}"
        );
        std::fs::write(blob(digest), sound).expect("it can be mended");
    }
    let (other, _) = need!(machine_of(&user, "cache-no-tag"));
    let built = other.built(&format!("{build} {from},tag=nothing"));
    assert!(warnings(&built).contains("there is no `nothing` in it"));
}

/// One cache for all platforms of a build.
#[test]
fn several_platforms_share_a_cache() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let bench = Bench::new(&user, "cache-platforms");
    let dockerfile =
        "FROM scratch\nARG TARGETARCH\nWORKDIR /made\nCOPY <<EOF /arch\nfor $TARGETARCH\nEOF\n";
    bench.file("Dockerfile", dockerfile);
    let build = "build --platform linux/amd64,linux/arm64 .";
    let image = format!("{}/app:1", registry.host());
    let places = [
        (
            format!("type=registry,ref={}/cache:1,mode=max", registry.host()),
            format!("{}/cache:1", registry.host()),
        ),
        (
            format!("type=local,dest={},mode=max", bench.path("cache").display()),
            format!("type=local,src={}", bench.path("cache").display()),
        ),
        (format!("type=inline --push -t {image}"), image.clone()),
    ];
    for (to, from) in places {
        let first = bench.built(&format!("{build} --cache-to {to}"));
        let other = Bench::new(&user, "cache-platforms-other");
        other.file("Dockerfile", dockerfile);
        let found = other.built(&format!("{build} --cache-from {from}"));
        assert_eq!(steps(&found), (0, 4), "{from}: {}", found.run.both());
        if !to.contains("inline") {
            assert_eq!(found.digest(), first.digest());
        }
        let one = Bench::new(&user, "cache-platforms-one");
        one.file("Dockerfile", dockerfile);
        let found = one.built(&format!(
            "build --platform linux/arm64 --cache-from {from} ."
        ));
        assert_eq!(steps(&found), (0, 2), "{from}");
    }
}

/// What is wrong with a cache in a registry is told, and the build goes on without.
#[test]
fn a_broken_cache_ends_no_build() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let cache = format!("{}/cache:1", registry.host());
    let (bench, build) = need!(machine_of(&user, "cache-good"));
    bench.ok(&format!(
        "{build} --cache-to type=registry,ref={cache},mode=max"
    ));
    let good = manifest(&registry, "cache", "1");
    let records = good["config"]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let layer = good["layers"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    type Fault = Box<dyn Fn(&str, &Contents) -> Option<Reply> + Send + Sync>;
    let of = |digest: String, reply: fn(&[u8]) -> Reply| -> Fault {
        Box::new(move |path, contents| {
            let bytes = contents.blobs.get(&("cache".to_owned(), digest.clone()))?;
            path.ends_with(&digest).then(|| reply(bytes))
        })
    };
    let of_manifest = |reply: fn() -> Reply| -> Fault {
        Box::new(move |path, _| path.contains("/manifests/").then(reply))
    };
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let faults: Vec<(&str, Fault, &str)> = vec![
        (
            "missing",
            of_manifest(|| Reply::status(404)),
            "has no manifest",
        ),
        (
            "denied",
            of_manifest(|| Reply::status(403)),
            "does not give access",
        ),
        (
            "text",
            of_manifest(|| Reply::body(OCI, "hello")),
            "cannot be used",
        ),
        (
            "buildkit",
            of_manifest(|| {
                Reply::body(
                    INDEX,
                    format!(
                        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{{\"mediaType\":\"application/vnd.buildkit.cacheconfig.v0\",\"digest\":\"sha256:{0}\",\"size\":3}}]}}",
                        "0".repeat(64)
                    ),
                )
            }),
            "BuildKit finds results by other keys",
        ),
        (
            "no records",
            of(records.clone(), |_| Reply::status(404)),
            "has no blob",
        ),
        (
            "other records",
            of(records.clone(), |bytes| {
                Reply::body("application/octet-stream", vec![b'x'; bytes.len()])
            }),
            "is not what it should be",
        ),
        (
            "no layer",
            of(layer.clone(), |_| Reply::status(404)),
            "has no blob",
        ),
        (
            "other layer",
            of(layer.clone(), |bytes| {
                Reply::body("application/octet-stream", vec![b'x'; bytes.len()])
            }),
            "is not what it should be",
        ),
        (
            "short layer",
            of(layer.clone(), |bytes| {
                Reply::body("application/octet-stream", &bytes[..bytes.len() / 2])
            }),
            "is not what it should be",
        ),
    ];
    for (what, fault, part) in faults {
        registry.misbehave(move |request, contents| match request.method.as_str() {
            "GET" => fault(&request.path, contents),
            _ => None,
        });
        let (other, _) = need!(machine_of(&user, "cache-broken"));
        let built = other.built(&format!("{build} --cache-from {cache}"));
        let told = warnings(&built);
        assert_eq!(steps(&built), (3, 0), "{what}: {told}");
        assert!(
            told.starts_with("CacheNotRead: the cache 127.0.0.1"),
            "{what}: {told}"
        );
        assert!(
            told.contains(part) && told.lines().count() == 1,
            "{what}: {told}"
        );
        assert_eq!(
            other.ok("store check --deep --format json").json()["sound"],
            true
        );
    }
    // An image that is only sent on, to where its layers have to be fetched after all.
    let last = good["layers"].as_array().expect("layers").iter().rev();
    let mut last = last.filter(|layer| !layer["mediaType"].to_string().contains("mount"));
    let missing = last.next().expect("a layer")["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    registry.misbehave(move |request, _| {
        (request.method == "GET" && request.path.ends_with(&missing)).then(|| Reply::status(404))
    });
    let to = MemoryRegistry::start();
    let (other, _) = need!(machine_of(&user, "cache-broken-push"));
    let built = other.built(&format!(
        "{build} --cache-from {cache} --push -t {}/app:1",
        to.host()
    ));
    let told = warnings(&built);
    assert_eq!((steps(&built), told.lines().count()), ((3, 0), 1), "{told}");
    other.ok(&format!("pull {}/app:1", to.host()));
    // Records that mean nothing.
    registry.misbehave(|_, _| None);
    {
        let mut contents = registry.contents.lock().expect("no panic");
        let config = contents.put_blob("strange", b"{\"format\":99}");
        let strange = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{OCI}\",\"config\":{{\"mediaType\":\"application/vnd.shmocker.cache.v1+json\",\"digest\":\"{config}\",\"size\":13}},\"layers\":[]}}"
        );
        contents.put_manifest("strange", "1", OCI, strange.into_bytes());
    }
    let (other, _) = need!(machine_of(&user, "cache-strange"));
    let strange = format!("{}/strange:1", registry.host());
    let built = other.built(&format!(
        "{build} --cache-from {strange} --cache-from {cache}"
    ));
    assert_eq!(steps(&built), (0, 3), "the second is sound");
    assert!(
        warnings(&built).contains("its format is 99, and 1 is known"),
        "{}",
        warnings(&built)
    );

    // What cannot be written: a warning, unless somebody wants to know.
    registry.misbehave(|request, _| (request.method == "PUT").then(|| Reply::status(403)));
    let to = format!("--cache-to type=registry,ref={}/denied:1", registry.host());
    let built = other.built(&format!(
        "{build} {to} --cache-to type=local,dest=/proc/nowhere"
    ));
    let told = warnings(&built);
    assert!(
        told.contains("CacheNotWritten: the cache 127.0.0.1")
            && told.contains("CacheNotWritten: the cache /proc/nowhere"),
        "{told}"
    );
    other
        .shmocker(&format!("{build} {to},ignore-error=true"))
        .expect(0, &["CacheNotWritten"]);
    other
        .shmocker(&format!("{build} {to},ignore-error=false"))
        .tells(5, &["does not give access"]);
}

#[test]
fn a_cache_behind_a_password_is_opened_with_it() {
    let user = need!(machine::plain_user());
    let registry = need!(DockerRegistry::start(
        "caches-password",
        Transport::Plain,
        Door::Password
    ));
    let cache = format!("{}/cache:1", registry.host());
    let logged_in = |name: &str| {
        let (bench, build) = machine_of(&user, name)?;
        let config = bench.path("docker").display().to_string();
        bench.sh(&format!(
            "mkdir docker; echo '{{\"auths\":{{\"{}\":{{\"auth\":\"'$(printf {USER}:{PASSWORD} | base64)'\"}}}}}}' > docker/config.json",
            registry.host()
        ));
        Ok((bench.env("DOCKER_CONFIG", &config), build))
    };
    let (bench, build) = need!(logged_in("cache-password"));
    let first = bench.built(&format!(
        "{build} --cache-to type=registry,ref={cache},mode=max"
    ));
    assert_eq!((steps(&first), warnings(&first).as_str()), ((3, 0), ""));
    let (other, _) = need!(logged_in("cache-password-other"));
    let found = other.built(&format!("{build} --cache-from {cache} -t app"));
    assert_eq!(steps(&found), (0, 3), "{}", found.run.both());
    // Who has none is told, and builds.
    let (third, _) = need!(machine_of(&user, "cache-password-none"));
    let built = third.built(&format!("{build} --cache-from {cache}"));
    assert_eq!(steps(&built), (3, 0));
    let told = warnings(&built);
    assert!(told.contains("does not give access"), "{told}");
}

/// Its keys are made of other things: nothing in it could be found.
#[test]
fn a_cache_of_buildkit_is_told_apart() {
    let user = need!(machine::plain_user());
    let buildkit = need!(buildkit());
    let base = need!(busybox::layout());
    let (bench, build) = need!(machine_of(&user, "cache-buildkit"));
    let place = machine::place_for(&user, "buildkit-cache");
    let request = Request {
        context: &bench.project(),
        dockerfile: "Dockerfile",
        contexts: vec![("base", base.to_owned())],
        options: Vec::new(),
    };
    let mut command = buildkit.command(&request);
    command
        .arg("--export-cache")
        .arg(format!("type=local,mode=max,dest={}", place.display()));
    image_of(&mut command).unwrap_or_else(|log| panic!("{log}"));
    let from = format!("type=local,src={}", place.display());
    let built = bench.built(&format!("{build} --cache-from {from}"));
    assert_eq!(steps(&built), (3, 0));
    let told = warnings(&built);
    assert!(told.contains("BuildKit has written"), "{told}");
}

#[test]
fn caches_that_are_not_there_are_refused_by_name() {
    let user = need!(machine::plain_user());
    let bench = Bench::new(&user, "cache-refused");
    bench.file("Dockerfile", "FROM scratch\n");
    for (spec, part) in [
        (
            "--cache-from type=gha",
            "caches of type `gha` are not there",
        ),
        (
            "--cache-to type=s3,bucket=x",
            "caches of type `s3` are not there",
        ),
        (
            "--cache-to type=azblob,name=x",
            "caches of type `azblob` are not there",
        ),
        ("--cache-to type=local", "`dest` is missing"),
        ("--cache-to type=inline,mode=max", "the mode is `min`"),
        (
            "--cache-to type=registry,ref=x,compression=estargz",
            "estargz is not written",
        ),
    ] {
        bench.shmocker(&format!("build {spec} .")).tells(2, &[part]);
    }
}

/// A habitat's phases are found elsewhere as well; where one changed, those before it are.
#[test]
fn a_habitat_is_found_elsewhere_phase_by_phase() {
    let user = need!(machine::plain_user());
    let layout = need!(busybox::layout());
    let registry = MemoryRegistry::start();
    let cache = format!("{}/habitat:cache", registry.host());
    let habitat = |last: &str| {
        format!(
            "name: cached\nbase:\n  oci: {}\nfiles:\n  - src: motd\n    dest: /etc/motd\nscripts:\n  - name: first\n    commands: echo first > /first\n  - name: last\n    commands: echo {last} > /last\n",
            layout.display()
        )
    };
    let machine_with = |name: &str, last: &str| {
        let bench = Bench::new(&user, name);
        bench
            .file("config.yaml", habitat(last))
            .file("motd", "welcome\n");
        bench
    };
    let first = machine_with("cache-habitat", "one").built(&format!(
        "habitat build config.yaml --cache-to type=registry,ref={cache},mode=max"
    ));
    assert!(first.steps_run() > 2);
    let other = machine_with("cache-habitat-other", "one");
    let found = other.built(&format!("habitat build config.yaml --cache-from {cache}"));
    assert_eq!((found.steps_run(), found.digest()), (0, first.digest()));
    let phases = other.ok("habitat phases config.yaml --format json").json();
    let states: Vec<&Value> = phases
        .as_array()
        .expect("phases")
        .iter()
        .map(|phase| &phase["state"])
        .collect();
    assert!(
        states
            .iter()
            .all(|state| *state == "cached" || *state == "empty"),
        "{states:?}"
    );

    let changed = machine_with("cache-habitat-changed", "two");
    let found = changed.built(&format!("habitat build config.yaml --cache-from {cache}"));
    assert!(
        (1..first.steps_run()).contains(&found.steps_run()),
        "{:?}",
        found.executed()
    );
    assert!(
        found
            .executed()
            .iter()
            .all(|step| !step.contains("motd") && !step.contains("first")),
        "{:?}",
        found.executed()
    );
}
