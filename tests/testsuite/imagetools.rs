//! Images of registries as one, what a registry has under a name, and what refers to that.

use serde_json::{Value, json};

use crate::harness::bench::{Bench, Run};
use crate::harness::layout::digest_of;
use crate::harness::machine::{self, Capability, need};
use crate::harness::registry::{Contents, DockerRegistry, Door, MemoryRegistry, Transport};
use crate::peers::containers::RootsPodman;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn said(run: &Run) -> String {
    run.out().trim().to_owned()
}

/// Pushes an image of one file for one platform; says its digest.
fn push_for(bench: &Bench, platform: &str, name: &str) -> String {
    bench.file(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\nfor $TARGETARCH\nEOF\n",
    );
    said(&bench.ok(&format!("build --platform {platform} --push -t {name} .")))
}

fn raw(bench: &Bench, name: &str) -> Value {
    bench.ok(&format!("imagetools inspect --raw {name}")).json()
}

fn shows(bench: &Bench, name: &str, parts: &[&str]) {
    let text = bench.ok(&format!("imagetools inspect {name}")).out();
    for part in parts {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

fn architectures(index: &Value) -> Vec<&str> {
    let listed = index["manifests"].as_array().expect("an index");
    listed
        .iter()
        .filter_map(|one| one["platform"]["architecture"].as_str())
        .collect()
}

#[test]
fn images_for_two_platforms_become_one() {
    let user = need!(machine::plain_user());
    let registry = need!(DockerRegistry::start("join", Transport::Plain, Door::Open));
    let other_registry = MemoryRegistry::start();
    let (host, other_host) = (registry.host(), other_registry.host());
    let bench = Bench::new(&user, "imagetools");
    // One in another repository, and one in another registry.
    let amd = push_for(&bench, "linux/amd64", &format!("{host}/parts/amd:1"));
    let arm = push_for(&bench, "linux/arm64", &format!("{other_host}/arm:1"));
    bench
        .shmocker(&format!("imagetools create {host}/parts/amd:1"))
        .tells(2, &["nothing says what the image is called", "--dry-run"]);
    let dry = bench.ok(&format!(
        "imagetools create --dry-run {host}/parts/amd:1 {other_host}/arm:1"
    ));
    assert_eq!(architectures(&dry.json()), ["amd64", "arm64"]);
    let made = said(&bench.ok(&format!(
        "imagetools create -t {host}/app:1 --tag {host}/app:2 --metadata-file made.json {host}/parts/amd:1 {other_host}/arm:1"
    )));
    assert_eq!(digest_of(dry.out().trim().as_bytes()), made);
    let metadata = bench.sh("cat made.json").json();
    assert_eq!(metadata["containerimage.descriptor"]["digest"], *made);
    assert_eq!(
        metadata["image.name"],
        *format!("{host}/app:1,{host}/app:2")
    );
    // In its own registry nothing has to be carried.
    let mounted = bench.ok(&format!(
        "imagetools create --progress json -t {host}/mounted:1 {host}/parts/amd:1"
    ));
    assert!(
        mounted
            .stderr
            .contains("\"blobs_sent\":0,\"blobs_mounted\":2"),
        "{}",
        mounted.stderr
    );
    for tag in ["1", "2"] {
        let index = raw(&bench, &format!("{host}/app:{tag}"));
        assert_eq!(index["manifests"][0]["digest"], *amd);
        assert_eq!(index["manifests"][1]["digest"], *arm);
    }
    // Both platforms are there for everybody.
    for (platform, text) in [
        ("linux/amd64", "for amd64\n"),
        ("linux/arm64", "for arm64\n"),
    ] {
        let puller = Bench::new(&user, "imagetools-pull");
        puller.ok(&format!("pull --platform {platform} {host}/app:1"));
        puller.file(
            "Dockerfile",
            format!("FROM --platform={platform} {host}/app:1\n"),
        );
        puller.ok("build -o out .");
        assert_eq!(puller.sh("cat out/arch").out(), text);
    }
    if machine::program(Capability::Skopeo, "skopeo").is_ok() {
        let seen = bench.sh(&format!(
            "skopeo inspect --raw --tls-verify=false docker://{host}/app:1"
        ));
        assert_eq!(digest_of(seen.stdout.as_slice()), made);
        bench.sh(&format!(
            "skopeo copy --all --src-tls-verify=false docker://{host}/app:1 oci:theirs:1"
        ));
    }
    match RootsPodman::of(&bench) {
        Ok(podman) => {
            for platform in ["linux/amd64", "linux/arm64"] {
                podman.ok(&format!(
                    "pull -q --tls-verify=false --platform {platform} {host}/app:1"
                ));
            }
        }
        Err(lack) => lack.skip(),
    }
    // Its entries, in both forms in which buildx and people print them.
    shows(
        &bench,
        &format!("{host}/app:1"),
        &["Manifests:", &arm, "Platform:  linux/arm64"],
    );
    let shown = bench.ok(&format!("imagetools inspect --format json {host}/app:1"));
    let shown = shown.json();
    assert_eq!(shown["manifest"]["digest"], *made);
    assert_eq!(shown["image"]["linux/arm64"]["architecture"], "arm64");
    assert_eq!(shown["referrers"], json!([]));
    let image = bench.ok_with(
        &format!("imagetools inspect {host}/parts/amd:1 --format"),
        "{{json .Image}}",
    );
    assert_eq!(image.json()["architecture"], "amd64");
    let refused = bench.finish(
        bench
            .shmocker_command("imagetools inspect x --format")
            .arg("{{.Name}}"),
    );
    refused.tells(2, &["is a template", "--format json"]);
}

#[test]
fn an_index_grows_shrinks_and_gets_notes() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let host = registry.host();
    let bench = Bench::new(&user, "imagetools-notes");
    let amd = push_for(&bench, "linux/amd64", &format!("{host}/app:amd"));
    let arm = push_for(&bench, "linux/arm64", &format!("{host}/app:arm"));
    // What an index lists beside images goes along with the image that it is of.
    let attestation = {
        let mut contents = registry.contents.lock().expect("no panic");
        let config = contents.put_blob("app", b"{}");
        let layer = contents.put_blob("app", b"{\"_type\": \"statement\"}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": layer, "size": 22}],
        });
        let bytes = manifest.to_string().into_bytes();
        let size = bytes.len();
        let digest = contents.put_manifest("app", "of-amd", MANIFEST, bytes);
        let (_, image) = &contents.manifests[&("app".to_owned(), amd.clone())];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"mediaType": MANIFEST, "digest": amd, "size": image.len(), "platform": {"os": "linux", "architecture": "amd64"}},
            {"mediaType": MANIFEST, "digest": digest, "size": size, "platform": {"os": "unknown", "architecture": "unknown"},
             "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd}},
        ]});
        contents.put_manifest("app", "attested", INDEX, index.to_string().into_bytes());
        digest
    };
    let digests = |index: &Value| -> Vec<String> {
        let listed = index["manifests"].as_array().expect("an index").iter();
        listed
            .map(|one| one["digest"].as_str().expect("a digest").to_owned())
            .collect()
    };
    bench.ok(&format!(
        "imagetools create -t {host}/app:all {host}/app:attested"
    ));
    assert_eq!(
        digests(&raw(&bench, &format!("{host}/app:all"))),
        [&amd, &attestation].map(String::clone)
    );
    bench.file("arm", format!("{arm}\n"));
    bench.ok(&format!(
        "imagetools create -t {host}/app:all --append -f arm --annotation index:a=b --annotation manifest-descriptor[linux/arm64]:c=d"
    ));
    let index = raw(&bench, &format!("{host}/app:all"));
    assert_eq!(
        digests(&index),
        [&amd, &attestation, &arm].map(String::clone)
    );
    assert_eq!(index["annotations"]["a"], "b");
    assert_eq!(index["manifests"][2]["annotations"]["c"], "d");
    assert_eq!(index["manifests"][0]["annotations"], Value::Null);
    let other = MemoryRegistry::start();
    // One platform with its attestation, in another registry.
    bench.ok(&format!(
        "imagetools create --platform linux/amd64 -t {}/moved:1 {host}/app:all",
        other.host()
    ));
    let index = raw(&bench, &format!("{}/moved:1", other.host()));
    assert_eq!(digests(&index), [&amd, &attestation].map(String::clone));
    other
        .contents
        .lock()
        .expect("no panic")
        .manifests
        .get(&("moved".to_owned(), attestation.clone()))
        .expect("the attestation came along");
    bench
        .shmocker(&format!(
            "imagetools create --platform linux/s390x -t {host}/x {host}/app:all"
        ))
        .tells(5, &["is not there for linux/s390x"]);
    bench
        .shmocker(&format!(
            "imagetools create --annotation a=b -t {host}/x {host}/app:all"
        ))
        .tells(2, &["index:KEY=VALUE"]);
    // A single image, as one entry or as it is; named by descriptor, too.
    bench.ok(&format!(
        "imagetools create -t {host}/app:listed {host}/app:arm"
    ));
    assert_eq!(
        digests(&raw(&bench, &format!("{host}/app:listed"))),
        std::slice::from_ref(&arm)
    );
    bench.ok(&format!(
        "imagetools create --prefer-index=false -t {host}/app:same {host}/app:arm"
    ));
    assert!(raw(&bench, &format!("{host}/app:same"))["config"]["size"].is_u64());
    let descriptor = json!({"mediaType": MANIFEST, "digest": arm, "size": 1, "platform": {"os": "linux", "architecture": "riscv64"}});
    bench.ok_with(
        &format!("imagetools create -t {host}/app:given"),
        &descriptor.to_string(),
    );
    assert_eq!(
        architectures(&raw(&bench, &format!("{host}/app:given"))),
        ["riscv64"]
    );
    let certificates = "--tls-verify=false --cert-dir .";
    bench.ok(&format!(
        "imagetools create {certificates} --progress plain -t {host}/app:last {host}/app:arm"
    ));
    bench.ok(&format!(
        "imagetools inspect {certificates} {host}/app:last"
    ));
}

/// Puts something there that refers to a manifest.
fn sign(contents: &mut Contents, repository: &str, subject: &str, size: usize) -> String {
    let config = contents.put_blob(repository, b"{}");
    let layer = contents.put_blob(repository, b"signature");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x-test",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": layer, "size": 9}],
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": size},
    });
    let bytes = manifest.to_string().into_bytes();
    let digest = digest_of(&bytes);
    contents.put_manifest(repository, &digest, MANIFEST, bytes)
}

#[test]
fn what_refers_to_an_image_is_listed_and_comes_along() {
    let user = need!(machine::plain_user());
    let old = need!(DockerRegistry::start(
        "referrers",
        Transport::Plain,
        Door::Open
    ));
    let (first, last) = (MemoryRegistry::start(), MemoryRegistry::start());
    for registry in [&first, &last] {
        registry.contents.lock().expect("no panic").lists_referrers = true;
    }
    let (host, old_host, last_host) = (first.host(), old.host(), last.host());
    let bench = Bench::new(&user, "referrers");
    let image = push_for(&bench, "linux/amd64", &format!("{host}/app:1"));
    let (signature, second) = {
        let mut contents = first.contents.lock().expect("no panic");
        let size = contents.manifests[&("app".to_owned(), image.clone())]
            .1
            .len();
        let signature = sign(&mut contents, "app", &image, size);
        // And something that refers to that.
        let second = sign(&mut contents, "app", &signature, 1);
        (signature, second)
    };
    let listed = |name: &str| {
        let shown = bench.ok(&format!("imagetools inspect --format json {name}"));
        let shown = shown.json();
        let listed = shown["referrers"].as_array().expect("a list").clone();
        listed
            .iter()
            .map(|one| {
                assert_eq!(one["artifactType"], "application/x-test");
                one["digest"].as_str().expect("a digest").to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        listed(&format!("{host}/app:1")),
        std::slice::from_ref(&signature)
    );
    shows(
        &bench,
        &format!("{host}/app:1"),
        &["Referrers:", &signature, "Artifact:  application/x-test"],
    );
    // Alone, and with all that refers to it, to a registry that does not know the question.
    bench.ok(&format!(
        "copy docker://{host}/app:1 docker://{old_host}/bare:1"
    ));
    assert_eq!(listed(&format!("{old_host}/bare:1")), Vec::<String>::new());
    bench.ok(&format!(
        "copy --referrers docker://{host}/app:1 docker://{old_host}/app:1"
    ));
    assert_eq!(
        listed(&format!("{old_host}/app:1")),
        std::slice::from_ref(&signature)
    );
    assert_eq!(
        listed(&format!("{old_host}/app@{signature}")),
        std::slice::from_ref(&second)
    );
    let tag = image.replace(':', "-");
    let index = raw(&bench, &format!("{old_host}/app:{tag}"));
    assert_eq!(index["manifests"][0]["digest"], *signature);
    // Again: nothing is listed twice. And from there to one that does know it.
    bench.ok(&format!(
        "copy --recursive docker://{host}/app:1 docker://{old_host}/app:1"
    ));
    assert_eq!(raw(&bench, &format!("{old_host}/app:{tag}")), index);
    bench.ok(&format!(
        "copy --referrers docker://{old_host}/app:1 docker://{last_host}/app:1"
    ));
    assert_eq!(listed(&format!("{last_host}/app:1")), [signature]);
    let kept = last.contents.lock().expect("no panic");
    assert!(kept.manifests.contains_key(&("app".to_owned(), second)));
    assert!(!kept.manifests.contains_key(&("app".to_owned(), tag)));
    drop(kept);
    bench
        .shmocker(&format!("copy --referrers docker://{host}/app:1 mine"))
        .tells(2, &["from registry to registry"]);
}
