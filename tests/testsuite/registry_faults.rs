//! Registries that do what they should not: each fault of the tables is survived, or a clear error within a bounded time; and
//! nothing is kept that is not what its digest says.

mod stage;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shmocker::image::media_type;
use shmocker::registry::{Credentials, Secret, Settings};

use crate::harness::http::Request;
use crate::harness::layout::digest_of;
use crate::harness::machine;
use crate::harness::registry::{Contents, MemoryRegistry, PASSWORD, Reply, USER};
use stage::{End, Stage, all, image, judge};

/// A fault that any answer may have: the answer as it should be, and how often it was asked for before.
struct Twist {
    name: &'static str,
    end: End,
    twist: fn(Reply, u32) -> Reply,
}

fn cut(reply: Reply, at: usize) -> Reply {
    Reply {
        length: Some(reply.body.len() as u64),
        body: reply.body[..at.min(reply.body.len())].to_vec(),
        ..reply
    }
}

fn status(reply: &Reply, status: u16) -> Reply {
    let _ = reply;
    Reply::status(status)
}

const fn unreachable() -> End {
    End::Badly(&["cannot be asked"])
}

/// What is done to the answers of GET.
fn twists() -> Vec<Twist> {
    let mut twists = Vec::new();
    let mut add = |name, end, twist| twists.push(Twist { name, end, twist });
    add("500 once", End::Well, |reply, before| {
        if before == 0 {
            status(&reply, 500)
        } else {
            reply
        }
    });
    add("502 once", End::Well, |reply, before| {
        if before == 0 {
            status(&reply, 502)
        } else {
            reply
        }
    });
    add("503 twice", End::Well, |reply, before| {
        if before < 2 {
            status(&reply, 503)
        } else {
            reply
        }
    });
    add("504 once", End::Well, |reply, before| {
        if before == 0 {
            status(&reply, 504)
        } else {
            reply
        }
    });
    add("408 once", End::Well, |reply, before| {
        if before == 0 {
            status(&reply, 408)
        } else {
            reply
        }
    });
    add(
        "429 with Retry-After",
        End::Well,
        |reply, before| match before {
            0 => Reply::status(429).with("Retry-After", "0"),
            _ => reply,
        },
    );
    add(
        "429 with a long Retry-After",
        End::Well,
        |reply, before| match before {
            0 => Reply::status(429).with("Retry-After", "86400"),
            _ => reply,
        },
    );
    add(
        "429 with a Retry-After that is no number",
        End::Well,
        |reply, before| match before {
            0 => Reply::status(429).with("Retry-After", "soon"),
            _ => reply,
        },
    );
    add("500 for ever", unreachable(), |reply, _| {
        status(&reply, 500)
    });
    add("503 for ever", unreachable(), |reply, _| {
        status(&reply, 503)
    });
    add("429 for ever", unreachable(), |reply, _| {
        status(&reply, 429)
    });
    add("400", End::Badly(&["400"]), |reply, _| status(&reply, 400));
    add(
        "401 without a challenge",
        End::Badly(&["WWW-Authenticate"]),
        |reply, _| status(&reply, 401),
    );
    add(
        "401 for ever",
        End::Badly(&["does not give access", "login"]),
        |_, _| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    );
    add(
        "401 with another scheme",
        End::Badly(&["WWW-Authenticate"]),
        |_, _| Reply::status(401).with("WWW-Authenticate", "Negotiate"),
    );
    add(
        "401 with a realm of a file",
        End::Badly(&["only http and https"]),
        |_, _| Reply::status(401).with("WWW-Authenticate", "Bearer realm=\"file:///etc/passwd\""),
    );
    add(
        "401 with a realm that nobody answers at",
        unreachable(),
        |_, _| {
            Reply::status(401).with(
                "WWW-Authenticate",
                "Bearer realm=\"http://127.0.0.1:1/token\"",
            )
        },
    );
    add(
        "403",
        End::Badly(&["does not give access", "403"]),
        |reply, _| status(&reply, 403),
    );
    add("404", End::Badly(&["has no"]), |reply, _| {
        status(&reply, 404)
    });
    add("405", End::Badly(&["405"]), |reply, _| status(&reply, 405));
    add("410", End::Badly(&["410"]), |reply, _| status(&reply, 410));
    add("204", End::Badly(&["204"]), |reply, _| status(&reply, 204));
    add(
        "304",
        End::Badly(&["304", "not what it should be"]),
        |reply, _| status(&reply, 304),
    );
    add("501", End::Badly(&["501"]), |reply, _| status(&reply, 501));
    add("silence once", End::Well, |reply, before| Reply {
        is_silent: before == 0,
        ..reply
    });
    add("silence for ever", unreachable(), |reply, _| Reply {
        is_silent: true,
        ..reply
    });
    add("cut off once", End::Well, |reply, before| {
        if before == 0 { cut(reply, 20) } else { reply }
    });
    add(
        "cut off at its beginning once",
        End::Well,
        |reply, before| if before == 0 { cut(reply, 0) } else { reply },
    );
    add("cut off for ever", unreachable(), |reply, _| cut(reply, 20));
    add(
        "empty",
        End::Badly(&["not what it should be", "not well formed"]),
        |reply, _| Reply {
            body: Vec::new(),
            ..reply
        },
    );
    add(
        "shorter than said",
        End::Badly(&["not what it should be"]),
        |reply, _| {
            let mut body = reply.body;
            body.pop();
            Reply {
                body,
                headers: reply.headers.clone(),
                ..Reply::status(200)
            }
        },
    );
    add(
        "longer than said",
        End::Badly(&["not what it should be"]),
        |reply, _| {
            let mut body = reply.body.clone();
            body.push(b' ');
            Reply { body, ..reply }
        },
    );
    add(
        "one bit turned",
        End::Badly(&["not what it should be"]),
        |reply, _| {
            let mut body = reply.body.clone();
            let middle = body.len() / 2;
            body[middle] ^= 1;
            Reply { body, ..reply }
        },
    );
    add(
        "a page for people",
        End::Badly(&["not what it should be", "not well formed"]),
        |_, _| Reply::body("text/html", "<html>Sign in to the hotel's network</html>"),
    );
    add(
        "a huge length",
        End::Badly(&["more than", "not what it should be"]),
        |reply, _| Reply {
            length: Some(1 << 40),
            ..reply
        },
    );
    add(
        "a redirect to a file",
        End::Badly(&["not followed", "302"]),
        |_, _| Reply::status(302).with("Location", "file:///etc/passwd"),
    );
    add("a redirect to itself", End::Badly(&["eleventh"]), |_, _| {
        Reply::status(307).with("Location", "")
    });
    add("a redirect to nowhere", unreachable(), |_, _| {
        Reply::status(302).with("Location", "http://127.0.0.1:1/")
    });
    add(
        "a redirect without a place",
        End::Badly(&["302"]),
        |reply, _| status(&reply, 302),
    );
    add("slow at first", End::Well, |reply, before| match before {
        0 => Reply {
            pause: Some((16, Duration::from_millis(700))),
            ..reply
        },
        _ => reply,
    });
    add("a drip for ever", unreachable(), |reply, _| Reply {
        pause: Some((8, Duration::from_millis(90))),
        ..reply
    });
    add(
        "control characters in what it says",
        End::Badly(&["has no"]),
        |_, _| Reply {
            status: 404,
            ..Reply::json(
                &json!({"errors": [{"code": "X", "message": "\u{1b}]52;c;AAAA\u{7} gone\r\nERROR"}]}),
            )
        },
    );
    add("a long complaint", End::Badly(&["400"]), |_, _| Reply {
        status: 400,
        ..Reply::json(&json!({"errors": [{"code": "X", "message": "x".repeat(100_000)}]}))
    });
    add("a complaint that is none", End::Badly(&["400"]), |_, _| {
        Reply {
            status: 400,
            ..Reply::body("application/json", "[[[[")
        }
    });
    twists
}

#[test]
fn every_fault_of_a_pull_is_survived_or_said() {
    let (layer, listed) = {
        let mut contents = Contents::default();
        let layers = image(&mut contents);
        let listed = contents.manifests.keys().find(|(_, name)| {
            name.starts_with("sha256:")
                && contents.manifests[&("a/b".to_owned(), name.clone())].0 == media_type::MANIFEST
        });
        (
            layers[1].digest.to_string(),
            listed.expect("a manifest").1.clone(),
        )
    };
    let twists = twists();
    type Is = Box<dyn Fn(&str) -> bool + Sync>;
    let targets: [(&str, Is); 4] = [
        ("the index", Box::new(|path| path.ends_with("/manifests/1"))),
        (
            "the manifest",
            Box::new(move |path| path.ends_with(&listed)),
        ),
        ("the configuration", {
            let layer = layer.clone();
            Box::new(move |path| {
                path.contains("/blobs/")
                    && !path.ends_with(&layer)
                    && !path.contains(&digest_of("first layer ".repeat(400).as_bytes()))
            })
        }),
        ("a layer", Box::new(move |path| path.ends_with(&layer))),
    ];
    let rows: Vec<(usize, usize)> = (0..targets.len())
        .flat_map(|target| (0..twists.len()).map(move |twist| (target, twist)))
        .collect();
    all(&rows, |(target, twist)| {
        let (what, is_it) = &targets[*target];
        let twist = &twists[*twist];
        // Only what is too slow on purpose has to be told from a machine that is busy.
        let stage = match twist.name {
            "slow at first" | "a drip for ever" => Stage::new(),
            _ => Stage::patient(),
        };
        let path = {
            let contents = stage.registry.contents.lock().expect("no panic");
            let blobs = contents
                .blobs
                .keys()
                .map(|(repository, digest)| format!("/v2/{repository}/blobs/{digest}"));
            let manifests = contents
                .manifests
                .keys()
                .map(|(repository, name)| format!("/v2/{repository}/manifests/{name}"));
            blobs
                .chain(manifests)
                .find(|path| is_it(path))
                .expect("it is there")
        };
        let counted = AtomicU32::new(0);
        let change = twist.twist;
        stage
            .registry
            .misbehave(move |request: &Request, contents: &Contents| {
                if request.path != path {
                    return None;
                }
                let before = counted.fetch_add(1, Ordering::Relaxed);
                let (repository, name) =
                    request
                        .path
                        .strip_prefix("/v2/")?
                        .split_once(if path.contains("/blobs/") {
                            "/blobs/"
                        } else {
                            "/manifests/"
                        })?;
                let key = (repository.to_owned(), name.to_owned());
                let reply = match contents.manifests.get(&key) {
                    Some((kind, bytes)) => Reply::body(kind, bytes.clone())
                        .with("Docker-Content-Digest", digest_of(bytes)),
                    None => Reply::blob(request, contents.blobs.get(&key)?),
                };
                Some(change(reply, before))
            });
        let started = Instant::now();
        let result = stage.pull();
        let took = started.elapsed();
        stage.is_sound();
        // What comes from a drip of small pieces may come in time where there is little of it.
        let end = match (twist.name, *target) {
            ("a drip for ever", 0..=2) | ("cut off for ever", 3) => End::Soundly,
            _ => twist.end,
        };
        judge(&format!("{what}, {}", twist.name), end, &result, took)
    });
}

/// A document in the place of the index, and what is said of it.
fn documents() -> Vec<(&'static str, String, Value, &'static str)> {
    let oci = media_type::MANIFEST.to_owned();
    let index = media_type::INDEX.to_owned();
    let config = json!({"mediaType": media_type::CONFIG, "digest": digest_of(b"x"), "size": 1});
    let manifest = |config: &Value, layers: Value| json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST, "config": config, "layers": layers});
    let layer = |kind: &str| json!([{"mediaType": kind, "digest": digest_of(b"y"), "size": 1}]);
    let with = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config
    };
    vec![
        (
            "schema 1",
            "application/vnd.docker.distribution.manifest.v1+json".to_owned(),
            json!({"schemaVersion": 1, "fsLayers": []}),
            "schema 1",
        ),
        (
            "signed schema 1",
            "application/vnd.docker.distribution.manifest.v1+prettyjws".to_owned(),
            json!({"schemaVersion": 1, "fsLayers": [], "signatures": []}),
            "schema 1",
        ),
        (
            "schema 1 under another type",
            "application/json".to_owned(),
            json!({"schemaVersion": 1, "fsLayers": []}),
            "schema 1",
        ),
        (
            "both a manifest and an index",
            oci.clone(),
            json!({"schemaVersion": 2, "layers": [], "manifests": []}),
            "two different things",
        ),
        (
            "another type inside",
            oci.clone(),
            json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": []}),
            "says of itself",
        ),
        (
            "an unknown type",
            "application/vnd.example+json".to_owned(),
            json!({"schemaVersion": 2}),
            "neither an image manifest nor an index",
        ),
        ("a list", oci.clone(), json!([1, 2]), "not well formed"),
        (
            "nulls",
            oci.clone(),
            json!({"schemaVersion": 2, "config": null, "layers": null}),
            "not well formed",
        ),
        (
            "layers that are no list",
            oci.clone(),
            json!({"schemaVersion": 2, "config": config, "layers": {}}),
            "not well formed",
        ),
        (
            "a digest that is none",
            oci.clone(),
            manifest(&with("digest", json!("sha256:../../etc/passwd")), json!([])),
            "not well formed",
        ),
        (
            "a digest of another kind",
            oci.clone(),
            manifest(
                &with("digest", json!(format!("md5:{}", "0".repeat(32)))),
                json!([]),
            ),
            "not well formed",
        ),
        (
            "a size below zero",
            oci.clone(),
            manifest(&with("size", json!(-1)), json!([])),
            "not well formed",
        ),
        (
            "a huge configuration",
            oci.clone(),
            manifest(&with("size", json!(1_u64 << 40)), json!([])),
            "manifest.max_bytes",
        ),
        (
            "no image",
            oci.clone(),
            manifest(
                &with(
                    "mediaType",
                    json!("application/vnd.cncf.helm.config.v1+json"),
                ),
                json!([]),
            ),
            "no container image",
        ),
        (
            "an unknown layer",
            oci.clone(),
            manifest(&config, layer("application/vnd.example.squashfs")),
            "not known here",
        ),
        (
            "an encrypted layer",
            oci.clone(),
            manifest(
                &config,
                layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
            ),
            "not known here",
        ),
        (
            "a configuration that is not there",
            oci.clone(),
            manifest(&config, json!([])),
            "has no blob",
        ),
        (
            "an empty index",
            index.clone(),
            json!({"schemaVersion": 2, "manifests": []}),
            "is not there for linux/amd64",
        ),
        (
            "only attestations",
            index.clone(),
            json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type::MANIFEST, "digest": digest_of(b"z"), "size": 1, "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}]}),
            "is not there for linux/amd64",
        ),
        (
            "another platform",
            index.clone(),
            json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type::MANIFEST, "digest": digest_of(b"z"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}}]}),
            "is not there for linux/amd64",
        ),
        (
            "a manifest that is not there",
            index.clone(),
            json!({"schemaVersion": 2, "manifests": [{"mediaType": media_type::MANIFEST, "digest": digest_of(b"z"), "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}]}),
            "has no manifest",
        ),
        ("duplicate keys", index, json!("dup"), "not well formed"),
    ]
}

#[test]
fn documents_that_are_no_images_are_refused_by_name() {
    all(&documents(), |(name, kind, document, says)| {
        let stage = Stage::new();
        let bytes = match document.as_str() {
            Some(_) => br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_vec(),
            None => document.to_string().into_bytes(),
        };
        stage
            .registry
            .contents
            .lock()
            .expect("no panic")
            .put_manifest("a/b", "1", kind, bytes);
        let started = Instant::now();
        let result = stage.pull();
        stage.is_sound();
        let end = match &result {
            Err(error) if error.contains(says) => End::Soundly,
            _ => End::Badly(&["\0"]),
        };
        judge(name, end, &result, started.elapsed())
            .map(|verdict| format!("{verdict} (wanted: {says})"))
    });
}

#[test]
fn bombs_are_not_taken() {
    let stage = Stage::new();
    let mut huge = br#"{"schemaVersion":2,"manifests":["#.to_vec();
    huge.resize(5 << 20, b' ');
    stage
        .registry
        .contents
        .lock()
        .expect("no panic")
        .put_manifest("a/b", "1", media_type::INDEX, huge);
    let error = stage.pull().expect_err("a large manifest");
    assert!(error.contains("more than the 4194304 bytes"), "{error}");
    // An index that names an index, and so on.
    let stage = Stage::new();
    {
        let mut contents = stage.registry.contents.lock().expect("no panic");
        let mut inner =
            json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": []})
                .to_string();
        for _ in 0..8 {
            contents.put_manifest("a/b", "1", media_type::INDEX, inner.clone().into_bytes());
            let named = json!({"mediaType": media_type::INDEX, "digest": digest_of(inner.as_bytes()), "size": inner.len()});
            inner =
                json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [named]})
                    .to_string();
        }
        contents.put_manifest("a/b", "1", media_type::INDEX, inner.into_bytes());
    }
    let error = stage.pull().expect_err("a deep index");
    assert!(error.contains("manifest.max_depth"), "{error}");
    stage.is_sound();
}

#[test]
fn every_fault_of_a_push_is_survived_or_said() {
    type Is = fn(&Request) -> bool;
    let targets: [(&str, Is); 5] = [
        ("the question for a blob", |request| {
            request.method == "HEAD"
        }),
        ("the beginning of an upload", |request| {
            request.method == "POST"
        }),
        ("the content of a blob", |request| {
            request.method == "PUT" && request.path.contains("/blobs/")
        }),
        ("a part of a blob", |request| request.method == "PATCH"),
        ("the manifest", |request| {
            request.method == "PUT" && request.path.contains("/manifests/")
        }),
    ];
    type Does = fn(u32) -> Option<Reply>;
    let faults: [(&str, End, Does); 16] = [
        ("500 once", End::Well, |before| {
            (before == 0).then(|| Reply::status(500))
        }),
        ("503 once", End::Well, |before| {
            (before == 0).then(|| Reply::status(503))
        }),
        ("429 once", End::Well, |before| {
            (before == 0).then(|| Reply::status(429).with("Retry-After", "0"))
        }),
        ("silence once", End::Well, |before| {
            (before == 0).then(|| Reply {
                is_silent: true,
                ..Reply::status(200)
            })
        }),
        ("500 for ever", unreachable(), |_| Some(Reply::status(500))),
        ("503 for ever", unreachable(), |_| Some(Reply::status(503))),
        ("silence for ever", unreachable(), |_| {
            Some(Reply {
                is_silent: true,
                ..Reply::status(200)
            })
        }),
        ("400", End::Badly(&["400"]), |_| Some(Reply::status(400))),
        (
            "401 for ever",
            End::Badly(&["does not give access"]),
            |_| Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"")),
        ),
        ("403", End::Badly(&["does not give access"]), |_| {
            Some(Reply::status(403))
        }),
        ("405", End::Badly(&["405"]), |_| Some(Reply::status(405))),
        ("413", End::Badly(&["413"]), |_| Some(Reply::status(413))),
        (
            "a redirect",
            End::Badly(&["307", "not followed", "cannot be asked"]),
            |_| Some(Reply::status(307).with("Location", "http://127.0.0.1:1/")),
        ),
        ("202 without a place", End::Soundly, |_| {
            Some(Reply::status(202))
        }),
        ("202 with a place that is none", End::Soundly, |_| {
            Some(Reply::status(202).with("Location", "http://["))
        }),
        (
            "202 with a place that nobody answers at",
            End::Soundly,
            |_| Some(Reply::status(202).with("Location", "http://127.0.0.1:1/x")),
        ),
    ];
    let layer = machine::workshop().join("large-layer");
    let small = machine::workshop().join("small-layer");
    std::fs::write(&small, vec![7; 9000]).expect("a file");
    std::fs::write(&layer, vec![7; 33 << 20]).expect("a file");
    let rows: Vec<(usize, usize)> = (0..targets.len())
        .flat_map(|target| (0..faults.len()).map(move |fault| (target, fault)))
        .collect();
    all(&rows, |(target, fault)| {
        let (what, is_it) = targets[*target];
        let (how, end, does) = faults[*fault];
        let stage = Stage::patient();
        let counted = AtomicU32::new(0);
        stage
            .registry
            .misbehave(move |request, _| match is_it(request) {
                true => does(counted.fetch_add(1, Ordering::Relaxed)),
                false => None,
            });
        let started = Instant::now();
        let result = stage.push(if *target == 3 { &layer } else { &small });
        let took = started.elapsed();
        let contents = stage.registry.contents.lock().expect("no panic");
        let tag = contents
            .manifests
            .contains_key(&("new/x".to_owned(), "2".to_owned()));
        let whole = contents
            .blobs
            .keys()
            .filter(|(repository, _)| repository == "new/x")
            .count()
            == 2;
        if tag && !whole && *target != 0 && !how.starts_with("202") {
            return Some(format!("{what}, {how}: the tag names what is not there"));
        }
        let end = match (*target, how) {
            // There is no body in which such an answer could differ from a good one.
            (0, how) if how.starts_with("202") => End::Badly(&["202"]),
            _ => end,
        };
        judge(&format!("{what}, {how}"), end, &result, took)
    });
}

#[test]
fn a_large_layer_that_broke_off_goes_on_where_it_did() {
    let stage = Stage::patient();
    let layer = machine::workshop().join("broken-layer");
    std::fs::write(&layer, vec![9; 70 << 20]).expect("a file");
    let parts = AtomicU32::new(0);
    // The second part comes to nothing, once: the registry says how much it has.
    stage.registry.misbehave(move |request, _| {
        let is_second = request.method == "PATCH" && parts.fetch_add(1, Ordering::Relaxed) == 1;
        is_second.then(|| Reply {
            is_silent: true,
            ..Reply::status(200)
        })
    });
    stage.push(&layer).expect("it goes on");
    let asked = stage.registry.asked();
    let begun = asked
        .iter()
        .filter(|request| request.method == "POST")
        .count();
    // One for the configuration, one for the layer.
    assert_eq!(begun, 2);
    let ranges: Vec<&String> = asked
        .iter()
        .filter(|request| request.method == "PATCH")
        .filter_map(|request| request.header("content-range"))
        .collect();
    assert_eq!(
        ranges,
        [
            "0-33554431",
            "33554432-67108863",
            "33554432-67108863",
            "67108864-73400319"
        ]
    );
}

#[test]
fn a_cut_layer_is_fetched_on_from_where_it_was_cut() {
    let stage = Stage::new();
    let digest = stage.layers[0].digest.to_string();
    let size = stage.layers[0].size as usize;
    let wanted = digest.clone();
    stage.registry.misbehave(move |request, contents| {
        let is_first = request.path.ends_with(&wanted) && request.header("range").is_none();
        let bytes = contents.blobs.get(&("a/b".to_owned(), wanted.clone()))?;
        is_first.then(|| cut(Reply::body("application/octet-stream", bytes.clone()), 1000))
    });
    stage.pull().expect("it goes on");
    stage.is_sound();
    let asked = stage.registry.asked();
    let ranges: Vec<&String> = asked
        .iter()
        .filter(|request| request.path.ends_with(&digest))
        .filter_map(|request| request.header("range"))
        .collect();
    assert_eq!(ranges, ["bytes=1000-"]);
    assert!(size > 1000);
}

#[test]
fn a_password_goes_to_nobody_else() {
    let stage = Stage::new();
    let other = MemoryRegistry::start();
    image(&mut other.contents.lock().expect("no panic"));
    // Another name of this machine is another host.
    let elsewhere = other.host().replace("127.0.0.1", "localhost");
    let expected = {
        use base64::Engine as _;
        let both = format!("{USER}:{PASSWORD}");
        format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(both)
        )
    };
    let checked = expected.clone();
    stage.registry.misbehave(move |request, _| {
        if request.header("authorization") != Some(&checked) {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let is_blob = request.path.contains("/blobs/");
        is_blob.then(|| {
            Reply::status(307).with("Location", format!("http://{elsewhere}{}", request.path))
        })
    });
    let settings = Settings {
        given: Some(Credentials::Password {
            user: USER.to_owned(),
            password: Secret::new(PASSWORD.to_owned()),
        }),
        ..Settings::default()
    };
    stage.pull_with(settings).expect("the other host serves it");
    let asked = other.asked();
    assert!(
        asked.iter().any(|request| request.path.contains("/blobs/")),
        "it was asked"
    );
    assert!(
        asked
            .iter()
            .all(|request| request.header("authorization").is_none()),
        "{asked:?}"
    );
    assert!(
        stage
            .registry
            .asked()
            .iter()
            .any(|request| request.header("authorization") == Some(&expected))
    );
}

#[test]
fn a_layer_that_lies_elsewhere_is_not_fetched_from_there() {
    let stage = Stage::new();
    {
        let mut contents = stage.registry.contents.lock().expect("no panic");
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(b"f")]}}).to_string();
        contents.put_blob("a/b", config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type::MANIFEST,
            "config": {"mediaType": media_type::CONFIG, "digest": digest_of(config.as_bytes()), "size": config.len()},
            "layers": [{
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest_of(b"f"), "size": 1,
                "urls": [format!("http://{}/v2/elsewhere", stage.registry.host())],
            }],
        });
        contents.put_manifest(
            "a/b",
            "1",
            media_type::MANIFEST,
            manifest.to_string().into_bytes(),
        );
    }
    let error = stage.pull().expect_err("it is not there");
    assert!(
        error.contains("lies elsewhere, which is not followed"),
        "{error}"
    );
    assert!(
        stage
            .registry
            .asked()
            .iter()
            .all(|request| !request.path.contains("elsewhere"))
    );
}
