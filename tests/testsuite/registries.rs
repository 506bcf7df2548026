//! Images of registries: what is pushed is pulled by others, what others push is built upon; who is let in and who is not;
//! mirrors; what is asked and what is not.

use crate::harness::bench::{Bench, Run};
use crate::harness::busybox;
use crate::harness::http::Request;
use crate::harness::layout::{Layout, digest_of};
use crate::harness::machine::{self, Capability, need};
use crate::harness::registry::{
    Contents, DockerRegistry, Door, MemoryRegistry, PASSWORD, Reply, Transport, USER, certificates,
};
use crate::peers::containers::RootsPodman;

/// Puts the busybox base into a registry in memory, under a name.
fn base_in(registry: &MemoryRegistry, repository: &str, tag: &str) -> Result<(), machine::Lack> {
    registry.put_layout(repository, tag, &Layout::read(busybox::layout()?));
    Ok(())
}

/// Builds an image upon busybox and pushes it.
fn push_to(bench: &Bench, name: &str, options: &str) -> Run {
    let base = busybox::context().expect("busybox was needed before");
    bench.file(
        "Dockerfile",
        "FROM base\nRUN echo made here > /made\nCMD [\"cat\", \"/made\"]\n",
    );
    bench.shmocker(&format!("build {base} --push -t {name} {options} ."))
}

fn said(run: &Run) -> String {
    run.out().trim().to_owned()
}

#[test]
fn what_is_pushed_is_pulled_by_others_and_what_they_push_is_built_upon() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start("open", Transport::Plain, Door::Open));
    let bench = Bench::new(&user, "registry-open");
    let host = registry.host();
    let name = format!("{host}/team/app:1");
    let pushed = push_to(&bench, &name, "");
    assert_eq!(pushed.status, 0, "{}", pushed.both());
    let digest = said(&pushed);

    if machine::program(Capability::Skopeo, "skopeo").is_ok() {
        let inspected = bench.sh(&format!(
            "skopeo inspect --tls-verify=false docker://{name}"
        ));
        assert_eq!(inspected.json()["Digest"], digest);
        bench.sh(&format!(
            "skopeo copy --src-tls-verify=false docker://{name} oci:theirs:1"
        ));
        assert_eq!(Layout::read(&bench.path("theirs")).digest(), digest);
        // As skopeo pushes it: Docker's media types, zstd.
        for (format, tag) in [
            ("v2s2", "docker"),
            (
                "oci --dest-compress-format zstd --dest-force-compress-format",
                "zstd",
            ),
        ] {
            if format.contains("force")
                && !bench
                    .sh("skopeo copy --help")
                    .out()
                    .contains("force-compress")
            {
                continue;
            }
            bench.sh(&format!(
                "skopeo copy --dest-tls-verify=false --format {format} oci:theirs:1 docker://{host}/theirs/app:{tag}"
            ));
            bench.file(
                "Dockerfile",
                format!("FROM {host}/theirs/app:{tag}\nRUN grep 'made here' /made\n"),
            );
            bench.ok("build -o type=cacheonly .");
        }
    }
    match RootsPodman::of(&bench) {
        Ok(podman) => {
            podman.ok(&format!("pull -q --tls-verify=false {name}"));
            podman.ok(&format!(
                "push -q --tls-verify=false {name} {host}/podman/app:2"
            ));
            bench.file(
                "Dockerfile",
                format!("FROM {host}/podman/app:2\nRUN grep 'made here' /made\n"),
            );
            bench.ok("build -o type=cacheonly .");
        }
        Err(lack) => lack.skip(),
    }
    // In all forms that are written.
    for form in [
        "compression=zstd",
        "compression=uncompressed",
        "compression=gzip,oci-mediatypes=false,force-compression=true",
    ] {
        let base = need!(busybox::context());
        bench.file("Dockerfile", "FROM base\nRUN echo made here > /made\n");
        let built = bench.ok(&format!(
            "build {base} -o type=registry,name={host}/forms:x,{form} ."
        ));
        let other = Bench::new(&user, "registry-form");
        assert_eq!(
            said(&other.ok(&format!("pull {host}/forms:x"))),
            said(&built),
            "{form}"
        );
        assert_eq!(
            other.ok(&format!("run {host}/forms:x cat /made")).out(),
            "made here\n"
        );
    }
    // By its digest alone: no tag is given.
    let built = bench.ok(&format!(
        "build -o type=image,push=true,push-by-digest=true,name={host}/quiet -f Dockerfile {} .",
        need!(busybox::context())
    ));
    let other = Bench::new(&user, "registry-digest");
    other.ok(&format!("pull {host}/quiet@{}", said(&built)));
    other
        .shmocker(&format!("pull {host}/quiet:latest"))
        .tells(5, &["has no manifest `quiet:latest`"]);
}

/// A layer in estargz: a gzip member for each entry, a landmark, a table of contents as the last entry, and a footer that
/// says where that is. Who knows nothing of it sees a layer with two small files more, as other engines unpack it.
#[test]
fn an_estargz_layer_is_unpacked_as_any_other() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let entry = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, name, content)
            .expect("memory is written");
        let whole = tar.into_inner().expect("memory is written");
        // Without the two blocks of zeros that end an archive.
        whole[..whole.len() - 1024].to_vec()
    };
    let member = |content: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, content).expect("memory is written");
        encoder.finish().expect("memory is written")
    };
    let table = br#"{"version":1,"entries":[{"name":".no.prefetch.landmark","type":"reg","size":1},{"name":"lazy","type":"reg","size":5}]}"#;
    let (mut tar, mut blob) = (Vec::new(), Vec::new());
    for part in [
        entry(".no.prefetch.landmark", &[0xf]),
        entry("lazy", b"read\n"),
    ] {
        blob.extend(member(&part));
        tar.extend(part);
    }
    let at = blob.len();
    let last = [entry("stargz.index.json", table), vec![0; 1024]].concat();
    blob.extend(member(&last));
    tar.extend(last);
    // RFC 1952: a member with nothing in it and an extra field `SG`.
    blob.extend([
        0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 26, 0, b'S', b'G', 22, 0,
    ]);
    blob.extend(format!("{at:016x}STARGZ").bytes());
    blob.extend([1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    {
        let mut contents = registry.contents.lock().expect("no panic");
        let (kind, bytes) = contents.manifests[&("base".to_owned(), "1".to_owned())].clone();
        let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        let config = manifest["config"]["digest"]
            .as_str()
            .expect("a digest")
            .to_owned();
        let config = contents.blobs[&("base".to_owned(), config)].clone();
        let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().expect("a list");
        diff_ids.push(digest_of(&tar).into());
        let config = config.to_string().into_bytes();
        manifest["config"]["digest"] = contents.put_blob("base", &config).into();
        manifest["config"]["size"] = config.len().into();
        manifest["layers"]
            .as_array_mut()
            .expect("a list")
            .push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": contents.put_blob("base", &blob), "size": blob.len(),
                "annotations": {"containerd.io/snapshot/stargz/toc.digest": digest_of(table)},
            }));
        contents.put_manifest("base", "lazy", &kind, manifest.to_string().into_bytes());
    }
    let bench = Bench::new(&user, "registry-estargz");
    let image = format!("{}/base:lazy", registry.host());
    bench.ok(&format!("pull {image}"));
    let found = bench.ok(&format!("run {image} cat /lazy /stargz.index.json"));
    assert_eq!(
        found.out(),
        format!("read\n{}", String::from_utf8_lossy(table))
    );
    bench.file(
        "Dockerfile",
        format!("FROM {image}\nRUN test -f /.no.prefetch.landmark && rm /stargz.index.json\n"),
    );
    // Built upon, it leaves as it came.
    bench.ok("build -o type=oci,dest=upon.tar .");
    let upon = Layout::read(&bench.path("upon.tar"));
    assert!(upon.layer_digests().contains(&digest_of(&blob)));
}

#[test]
fn images_go_from_the_store_to_registries_and_back() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "library/base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-store");
    let digest = said(&bench.ok(&format!("pull {host}/library/base:1")));
    assert!(
        bench
            .ok("images")
            .out()
            .contains(&format!("{host}/library/base:1"))
    );
    // What is pushed again is what was pulled; the registry takes the layers over by itself.
    registry.asked();
    let again = bench.ok(&format!("push {host}/library/base:1 {host}/copy/base:2"));
    assert_eq!(said(&again), digest);
    let sent = registry.asked();
    assert!(
        sent.iter().any(|request| request.path.contains("mount=")),
        "{sent:?}"
    );
    assert!(sent.iter().all(|request| request.method != "PATCH"));
    // Under another name, by tag and from registry to registry.
    bench.ok(&format!("tag {host}/library/base:1 {host}/tagged:3 other"));
    assert_eq!(said(&bench.ok(&format!("push {host}/tagged:3"))), digest);
    assert_eq!(
        said(&bench.ok(&format!(
            "copy docker://{host}/tagged:3 docker://{host}/copied:4"
        ))),
        digest
    );
    assert_eq!(
        said(&bench.ok(&format!(
            "copy --platform linux/amd64 docker://{host}/copied:4 mine"
        ))),
        digest
    );
    assert_eq!(
        said(&bench.ok(&format!("copy mine docker://{host}/back:5"))),
        digest
    );
    bench.ok("copy mine yours");
    assert_eq!(bench.ok("run yours echo it runs").out(), "it runs\n");
    bench
        .shmocker("push nothing")
        .tells(1, &["there is no image `nothing`"]);
    bench
        .shmocker("copy oci:x docker://y")
        .tells(2, &["`oci:x` is nothing that is copied from"]);
    bench
        .shmocker(&format!(
            "copy --platform linux/s390x docker://{host}/copied:4 z"
        ))
        .tells(5, &["is not there for linux/s390x"]);
    bench
        .shmocker(&format!("pull --platform linux/s390x {host}/copied:4"))
        .tells(5, &["is not there for linux/s390x", "linux/amd64"]);
    // An image that was built here goes with its layers compressed.
    bench.file(
        "Dockerfile",
        format!("FROM {host}/library/base:1\nRUN echo new > /new\n"),
    );
    bench.ok("build -t built .");
    let built = said(&bench.ok(&format!("push built {host}/built:1 --progress plain")));
    let other = Bench::new(&user, "registry-other");
    assert_eq!(
        said(&other.ok(&format!("pull --progress plain {host}/built:1"))),
        built
    );
    assert_eq!(
        other.ok(&format!("run {host}/built:1 cat /new")).out(),
        "new\n"
    );
}

#[test]
fn an_own_authority_is_trusted_where_it_is_named() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start("tls", Transport::Tls, Door::Open));
    let authority = need!(certificates()).join("ca.crt");
    let host = registry.host();
    let name = format!("{host}/app:1");
    let bench = Bench::new(&user, "registry-tls").env("XDG_CONFIG_HOME", "/nonexistent");
    push_to(&bench, &name, "").tells(5, &["cannot be asked", "certificate"]);
    let authority = authority.display().to_string();
    let trusting = Bench::new(&user, "registry-tls-file").env("SSL_CERT_FILE", &authority);
    assert_eq!(push_to(&trusting, &name, "").status, 0);
    bench.sh(&format!("mkdir -p certs config/containers/certs.d/{host}; cp {authority} certs/ca.crt; cp {authority} config/containers/certs.d/{host}/ca.crt"));
    bench
        .shmocker(&format!("pull {name}"))
        .tells(5, &["certificate"]);
    bench.ok(&format!("pull --cert-dir certs {name}"));
    bench.ok(&format!("pull --tls-verify=false {name}"));
    bench.ok(&format!(
        "copy --tls-verify=false docker://{name} docker://{host}/copy:1"
    ));
    bench.ok(&format!("push --cert-dir certs {name} {host}/copy:2"));
    bench.ok(&format!(
        "copy --cert-dir certs docker://{host}/copy:2 docker://{host}/copy:3"
    ));
    bench.ok(&format!("push --tls-verify=false {name} {host}/copy:4"));
    let config = bench.path("config").display().to_string();
    let bench = Bench::new(&user, "registry-tls-dir").env("XDG_CONFIG_HOME", &config);
    bench.file("Dockerfile", format!("FROM {host}/copy:1\nRUN cat /made\n"));
    bench.ok("build -o type=cacheonly .");
    let insecure = Bench::new(&user, "registry-tls-insecure");
    let pushed = push_to(&insecure, &name, "").status;
    assert_eq!(pushed, 5);
    insecure.ok(&format!(
        "build {} -o type=registry,registry.insecure=true,name={host}/loose:1 .",
        need!(busybox::context())
    ));
}

#[test]
fn a_password_opens_what_it_is_for() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start(
        "password",
        Transport::Plain,
        Door::Password
    ));
    let host = registry.host();
    let name = format!("{host}/app:1");
    let bench = Bench::new(&user, "registry-password");
    let docker = bench.path("docker").display().to_string();
    let bench = bench.env("DOCKER_CONFIG", &docker);
    push_to(&bench, &name, "").tells(
        5,
        &["does not give access", &format!("shmocker login {host}")],
    );
    let login = |bench: &Bench, password: &str, options: &str| {
        bench.finish(bench.command("/bin/sh").args([
            "-c",
            &format!(
                "printf '{password}\\n' | {} login -u {USER} --password-stdin {options} {host}",
                bench.shmocker_words()
            ),
        ]))
    };
    let refused = login(&bench, "wrong", "");
    refused.tells(5, &["does not give access"]);
    bench.sh("test ! -e docker");
    login(&bench, PASSWORD, "--tls-verify=false --cert-dir .").expect(0, &["logged in"]);
    bench.sh("test \"$(stat -c %a docker/config.json)\" = 600");
    let pushed = push_to(&bench, &name, "");
    assert_eq!(pushed.status, 0, "{}", pushed.both());
    assert!(!pushed.both().contains(PASSWORD));
    bench.ok(&format!("pull {name}"));
    // As others keep it, and others as it is kept here.
    if machine::program(Capability::Skopeo, "skopeo").is_ok() {
        bench.sh(&format!(
            "skopeo inspect --authfile docker/config.json --tls-verify=false docker://{name}"
        ));
        bench.sh(&format!(
            "skopeo login --authfile theirs.json --tls-verify=false -u {USER} -p {PASSWORD} {host}"
        ));
        let theirs = bench.path("theirs.json").display().to_string();
        let other = Bench::new(&user, "registry-authfile").env("REGISTRY_AUTH_FILE", &theirs);
        other.ok(&format!("pull {name}"));
        let runtime = Bench::new(&user, "registry-runtime");
        runtime.sh(&format!(
            "mkdir ../containers; cp {theirs} ../containers/auth.json"
        ));
        runtime.ok(&format!("pull {name}"));
    }
    bench
        .ok(&format!("logout {host}"))
        .expect(0, &["logged out"]);
    bench
        .shmocker(&format!("pull {name}"))
        .tells(5, &["does not give access"]);
    bench
        .ok(&format!("logout {host}"))
        .expect(0, &["no credentials"]);
    // A program that keeps them.
    bench.executable(
        "bin/docker-credential-test",
        format!(
            "#!/bin/sh\nread host\necho \"$1 $host\" >> {0}/helper.log\nid -u > {0}/helper.uid\ncat /proc/self/uid_map >> {0}/helper.uid\necho \"$HOME\" >> {0}/helper.uid\ncase $1 in get) echo '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}' ;; esac\n",
            bench.project().display()
        ),
    );
    bench.file(
        "docker/config.json",
        format!("{{\"credHelpers\": {{\"{host}\": \"test\"}}}}"),
    );
    let path = format!(
        "{}:/usr/bin:/bin:/usr/sbin:/sbin",
        bench.path("bin").display()
    );
    let bench = bench.env("PATH", &path);
    bench.file("Dockerfile", format!("FROM {name}\nRUN cat /made\n"));
    bench.ok("build --pull -o type=cacheonly .");
    // A program of the user's runs as the user, for an engine that is somebody else.
    let as_user = bench
        .sh("id -u; cat /proc/self/uid_map; echo \"$HOME\"")
        .out();
    bench.sh("rm helper.uid");
    bench.ok(&format!("push {name} {host}/copy:1"));
    assert_eq!(bench.sh("cat helper.uid").out(), as_user);
    assert!(
        bench
            .sh("cat helper.log")
            .out()
            .contains(&format!("get {host}"))
    );
    login(&bench, PASSWORD, "").expect(0, &["logged in"]);
    assert!(bench.sh("cat helper.log").out().contains("store "));
    assert!(!bench.sh("cat docker/config.json").out().contains("auth\":"));
    bench.file("docker/config.json", "{\"credsStore\": \"gone\"}");
    bench
        .shmocker(&format!("pull {name}"))
        .tells(1, &["docker-credential-gone", "no such program in PATH"]);
    // Nothing of it stays in what is kept.
    let found = bench.finish(
        bench
            .command("grep")
            .args(["-rlF", PASSWORD])
            .arg(bench.store()),
    );
    assert_eq!(found.out(), "");
}

#[test]
fn tokens_are_made_for_what_is_asked() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = need!(DockerRegistry::start(
        "token",
        Transport::Plain,
        Door::Token
    ));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-token");
    let docker = bench.path("docker").display().to_string();
    let bench = bench.env("DOCKER_CONFIG", &docker);
    let name = format!("{host}/open/app:1");
    push_to(&bench, &name, "").tells(5, &["does not give access"]);
    let key = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"))
    };
    bench.file(
        "docker/config.json",
        format!("{{\"auths\": {{\"{host}\": {{\"auth\": \"{key}\"}}}}}}"),
    );
    let pushed = push_to(&bench, &name, "");
    assert_eq!(pushed.status, 0, "{}", pushed.both());
    // To another repository: one token for both.
    bench.ok(&format!(
        "copy docker://{name} docker://{host}/closed/app:1"
    ));
    let asked = registry.asked.lock().expect("no panic").clone();
    let both = asked
        .iter()
        .find(|asked| asked.matches("scope=").count() == 2);
    let both = both.unwrap_or_else(|| panic!("{asked:#?}"));
    assert!(
        both.contains("repository:closed/app:pull%2Cpush")
            && both.contains("repository:open/app:pull"),
        "{both}"
    );
    // Everybody may pull the one, and not the other.
    let stranger = Bench::new(&user, "registry-stranger");
    stranger.ok(&format!("pull {name}"));
    stranger
        .shmocker(&format!("pull {host}/closed/app:1"))
        .tells(5, &["does not give access"]);
    // A token that tokens are got for.
    bench.file(
        "docker/config.json",
        format!("{{\"auths\": {{\"{host}\": {{\"identitytoken\": \"{PASSWORD}\"}}}}}}"),
    );
    bench.ok(&format!("pull {host}/closed/app:1"));
    let asked = registry.asked.lock().expect("no panic").clone();
    assert!(
        asked
            .iter()
            .any(|asked| asked.starts_with("POST grant_type=refresh_token")
                || asked.contains("grant_type=refresh_token"))
    );
}

#[test]
fn registries_conf_says_where_images_are() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let (mirror, origin) = (MemoryRegistry::start(), MemoryRegistry::start());
    need!(base_in(&mirror, "hub/library/thing", "1"));
    need!(base_in(&origin, "here/other", "2"));
    let bench = Bench::new(&user, "registries-conf");
    bench.file(
        "registries.conf",
        format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}/none\"\n[[registry.mirror]]\nlocation = \"{}/gone\"\n[[registry.mirror]]\nlocation = \"{}/hub\"\n\
             [[registry]]\nprefix = \"example.org/there\"\nlocation = \"{}/here\"\n\
             [[registry]]\nprefix = \"blocked.example.org\"\nblocked = true\n",
            origin.host(),
            mirror.host(),
            mirror.host(),
            origin.host()
        ),
    );
    let conf = bench.path("registries.conf").display().to_string();
    let bench = bench.env("CONTAINERS_REGISTRIES_CONF", &conf);
    bench.file("Dockerfile", "FROM thing:1\nRUN echo from a mirror\nCOPY --from=example.org/there/other:2 /etc/passwd /passwd\n");
    bench.ok("build -o type=cacheonly .");
    // A stage that was meant, and another mistake, at once.
    bench.file(
        "Dockerfile",
        "FROM scratch AS builder\nFROM biulder\nCOPYY a b\n",
    );
    bench
        .shmocker("build .")
        .tells(1, &["did you mean `builder`?", "has no manifest", "COPYY"]);
    bench
        .shmocker("pull blocked.example.org/x")
        .tells(6, &["is blocked in", "registries.conf"]);
    bench.file("registries.conf", "[[registry]\n");
    bench
        .shmocker("pull blocked.example.org/x")
        .tells(1, &["registries.conf` cannot be used"]);
}

#[test]
fn a_tag_is_asked_for_when_it_has_to_be_and_layers_come_when_files_are_wanted() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-fresh");
    bench.file(
        "Dockerfile",
        format!("FROM {host}/base:1\nRUN echo once > /once\n"),
    );
    // What would be done is said without a question, and with `--pull` without a layer.
    bench.shmocker("why .").expect(10, &[]);
    assert!(registry.asked().is_empty());
    bench.shmocker("why --pull .").expect(10, &[]);
    let asked = registry.asked();
    assert!(
        !asked.is_empty()
            && asked
                .iter()
                .filter(|request| request.path.contains("/blobs/"))
                .count()
                == 1,
        "{asked:?}"
    );
    let first = bench.built("build .");
    assert_eq!(first.steps_run(), 1);
    registry.asked();
    assert_eq!(bench.built("build .").steps_run(), 0);
    assert!(
        registry.asked().is_empty(),
        "what is remembered is not asked for"
    );
    bench.built("build --refresh 0ms .");
    let asked = registry.asked();
    assert_eq!(
        asked
            .iter()
            .filter(|request| request.path.contains("/manifests/1"))
            .count(),
        1,
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .all(|request| !request.path.contains("/blobs/")),
        "an image that is here is not fetched"
    );
    // The tag moves: seen when it is asked for.
    let changed = {
        let mut contents = registry.contents.lock().expect("no panic");
        let (kind, bytes) = contents.manifests[&("base".to_owned(), "1".to_owned())].clone();
        let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("a manifest");
        let config = manifest["config"]["digest"]
            .as_str()
            .expect("a digest")
            .to_owned();
        let config = contents.blobs[&("base".to_owned(), config)].clone();
        let mut config: serde_json::Value = serde_json::from_slice(&config).expect("a config");
        config["config"]["Env"] = serde_json::json!(["PATH=/bin", "MOVED=yes"]);
        let config = config.to_string().into_bytes();
        manifest["config"]["digest"] = contents.put_blob("base", &config).into();
        manifest["config"]["size"] = config.len().into();
        contents.put_manifest("base", "1", &kind, manifest.to_string().into_bytes())
    };
    assert_eq!(bench.built("build .").steps_run(), 0);
    let pulled = bench.built("build --pull .");
    assert_eq!(pulled.steps_run(), 1, "its environment is another");
    assert!(pulled.run.stderr.contains(&changed));
    registry.asked();
    // Without a network: what is remembered serves, and what is not is said.
    registry.misbehave(|_, _: &Contents| Some(Reply::status(500)));
    bench.ok("build --offline .");
    bench.file("Dockerfile", format!("FROM {host}/base:2\n"));
    bench
        .shmocker("build --offline .")
        .tells(5, &["--offline forbids to ask its registry"]);
    assert!(registry.asked().is_empty());
}

#[test]
fn a_lock_pins_the_base_image_by_its_digest() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-lock");
    bench.file(
        "config.yaml",
        format!("name: app\nbase_image: {host}/base:1\n"),
    );
    bench.ok("habitat lock config.yaml");
    let digest = registry
        .contents
        .lock()
        .expect("no panic")
        .manifests
        .keys()
        .find(|(_, name)| name.starts_with("sha256:"))
        .map(|(_, name)| name.clone());
    let digest = digest.expect("a manifest");
    assert!(
        bench
            .sh("cat habitat.lock 2>/dev/null || cat *.lock")
            .out()
            .contains(&digest)
    );
    // The tag is gone; what is pinned is not.
    registry
        .contents
        .lock()
        .expect("no panic")
        .manifests
        .retain(|(_, name), _| name != "1");
    let other = Bench::new(&user, "registry-locked");
    other.tree(&bench.project(), "locked");
    other.ok("habitat build --frozen locked/config.yaml -o type=cacheonly");
}

#[test]
fn an_image_for_several_platforms_is_pushed_as_one_and_taken_apart_again() {
    let user = need!(machine::plain_user());
    let registry = MemoryRegistry::start();
    let host = registry.host();
    let bench = Bench::new(&user, "registry-platforms");
    bench.file(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY <<EOF /arch\nfor $TARGETARCH\nEOF\n",
    );
    let built = bench.ok(&format!(
        "build --platform linux/amd64,linux/arm64 --push -t {host}/both:1 ."
    ));
    let listed = {
        let contents = registry.contents.lock().expect("no panic");
        let (kind, bytes) = &contents.manifests[&("both".to_owned(), "1".to_owned())];
        assert_eq!(kind, "application/vnd.oci.image.index.v1+json");
        serde_json::from_slice::<serde_json::Value>(bytes).expect("an index")
    };
    let architectures: Vec<&str> = listed["manifests"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["platform"]["architecture"].as_str())
        .collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    // Each platform builds upon its own.
    bench.file("Dockerfile", format!("FROM --platform=linux/arm64 {host}/both:1 AS arm\nFROM {host}/both:1\nCOPY --from=arm /arch /other\n"));
    let other = Bench::new(&user, "registry-platform");
    other.file(
        "Dockerfile",
        std::fs::read(bench.path("Dockerfile")).expect("it was written"),
    );
    other.ok("build -o out .");
    assert_eq!(
        other.sh("cat out/arch out/other").out(),
        "for amd64\nfor arm64\n"
    );
    // All of it goes from registry to registry, or one platform of it.
    let copied = other.ok(&format!(
        "copy docker://{host}/both:1 docker://{host}/copied:1"
    ));
    assert_eq!(said(&copied), said(&built));
    other.ok(&format!(
        "copy --platform linux/arm64 docker://{host}/both:1 docker://{host}/arm:1"
    ));
    other
        .shmocker(&format!("pull {host}/arm:1"))
        .tells(5, &["is not there for linux/amd64", "linux/arm64"]);
}

#[test]
fn who_is_waited_for_is_said_while_it_is_waited() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-waiting");
    let once = |method: &'static str, part: &'static str, status: u16| {
        let failed = std::sync::atomic::AtomicBool::new(false);
        registry.misbehave(move |request, _: &Contents| {
            let is_meant = request.method == method && request.path.contains(part);
            let is_first = is_meant && !failed.swap(true, std::sync::atomic::Ordering::Relaxed);
            is_first.then(|| Reply::status(status).with("Retry-After", "1"))
        });
    };
    once("GET", "/manifests/1", 429);
    let pulled = bench.ok(&format!("pull --progress plain {host}/base:1"));
    let line = format!("{host}: 429 Too Many Requests; attempt 2 of 5 follows in 1.0s\n");
    assert!(pulled.stderr.contains(&line), "{}", pulled.stderr);
    // A blob, in the engine child, for programs.
    once("POST", "/blobs/uploads/", 503);
    let pushed = bench.ok(&format!(
        "push --progress json {host}/base:1 {host}/other:1"
    ));
    let event = pushed
        .stderr
        .lines()
        .find(|line| line.contains("\"waiting\""));
    let event: serde_json::Value =
        serde_json::from_str(event.unwrap_or_else(|| panic!("{}", pushed.stderr))).expect("JSON");
    assert_eq!(event["host"], *host);
    assert_eq!(event["reason"], "503 Service Unavailable");
    assert_eq!(
        (event["attempt"].as_u64(), event["attempts"].as_u64()),
        (Some(2), Some(5))
    );
    assert_eq!(event["wait_ms"], 1000);
    // A download, and on a terminal.
    once("GET", "/v2/", 502);
    bench.file(
        "Dockerfile",
        format!("FROM scratch\nADD http://{host}/v2/ /answer\n"),
    );
    let built = bench.ok("build --progress plain -o type=cacheonly .");
    assert!(
        built.stderr.contains("502 Bad Gateway; attempt 2 of 5"),
        "{}",
        built.stderr
    );
    once("GET", "/v2/", 502);
    let drawn = bench.ok("build --pull --progress tty -o type=cacheonly .");
    assert!(
        drawn.stderr.contains("502 Bad Gateway; attempt 2"),
        "{}",
        drawn.stderr
    );
}

#[test]
fn what_is_gone_of_a_base_is_fetched_again_when_it_has_to_leave() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-base-gone");
    bench.file(
        "Dockerfile",
        format!("FROM {host}/base:1\nRUN echo made > /made\n"),
    );
    bench.ok("build -t app .");
    bench.ok("tag app same");
    // As if the layers had been deleted while only their trees were in use.
    let layers = Layout::read(need!(busybox::layout())).layer_digests();
    let forget = || {
        for layer in &layers {
            let hex = layer.trim_start_matches("sha256:");
            bench.sh(&format!("rm -f ../store/blobs/sha256/{hex}"));
        }
    };
    forget();
    let pushed = said(&bench.ok(&format!("push app {host}/app:1")));
    let contents = registry.contents.lock().expect("no panic");
    let (_, manifest) = &contents.manifests[&("app".to_owned(), pushed)];
    let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("a manifest");
    assert_eq!(manifest["layers"][0]["digest"], *layers[0]);
    drop(contents);
    forget();
    bench.ok("save --format oci-dir -o saved same");
    let saved = Layout::read(&bench.path("saved"));
    assert_eq!(saved.layer_digests()[0], layers[0]);
    // And by an image that was built on that.
    forget();
    bench.file("Dockerfile", "FROM app\nRUN echo more > /more\n");
    bench.ok("build -t upon .");
    forget();
    bench.ok(&format!("push upon {host}/upon:1"));
    let other = Bench::new(&user, "registry-base-there");
    other.ok(&format!("pull {host}/upon:1"));
    assert_eq!(
        other
            .ok(&format!("run {host}/upon:1 cat /made /more"))
            .out(),
        "made\nmore\n"
    );
}

#[test]
fn an_image_of_which_no_file_changes_is_not_unpacked_and_not_fetched_to_be_pushed() {
    let user = need!(machine::plain_user());
    need!(busybox::layout());
    let registry = MemoryRegistry::start();
    need!(base_in(&registry, "base", "1"));
    let host = registry.host();
    let bench = Bench::new(&user, "registry-bare");
    bench.file(
        "Dockerfile",
        format!("FROM {host}/base:1\nENV A=b\nLABEL c=d\n"),
    );
    let layers = Layout::read(need!(busybox::layout())).layer_digests();
    let fetched = || {
        let asked = registry.asked();
        let gets = asked.iter().filter(|request| request.method == "GET");
        let is_layer = |path: &str| layers.iter().any(|layer| path.ends_with(layer.as_str()));
        gets.filter(|request| is_layer(&request.path)).count()
    };
    let snapshots = || bench.sh("ls ../store/snapshots | wc -l").out();
    bench.ok(&format!("build -o type=registry,name={host}/labelled:1 ."));
    assert_eq!(fetched(), 0);
    // With a name it is an image of the store as well: its layers are fetched, and unpacked when it runs.
    bench.ok(&format!("build --push -t {host}/labelled:2 ."));
    assert_eq!(fetched(), layers.len());
    assert_eq!(snapshots(), "0\n");
    registry.misbehave(|_, _: &Contents| Some(Reply::status(500)));
    let warm = bench.built("build -t again .");
    assert_eq!(warm.steps_run(), 0);
    bench.ok("save --format oci-dir -o saved again");
    assert_eq!(snapshots(), "0\n");
    assert_eq!(
        bench
            .finish(bench.shmocker_command("run again sh -c").arg("echo $A"))
            .out(),
        "b\n"
    );
    bench.ok("build -o out .");
    bench.sh("test -e out/bin/busybox");
}

#[test]
fn little_is_asked_where_nothing_is_there_and_all_where_something_is() {
    let bench = Bench::new(&need!(machine::plain_user()), "registry-asked");
    let base = need!(busybox::context());
    let registry = MemoryRegistry::start();
    let push = |content: &str| {
        let dockerfile = format!("FROM base\nRUN echo one > /a\nRUN echo {content} > /b\n");
        bench.file("Dockerfile", dockerfile);
        registry.asked();
        let name = format!("{}/app:1", registry.host());
        bench.ok(&format!("build {base} -o type=registry,name={name} ."));
        let asked = registry.asked();
        let blobs = |method: &str| {
            let of =
                |request: &&Request| request.method == method && request.path.contains("/blobs/");
            asked.iter().filter(of).count()
        };
        (blobs("HEAD"), blobs("PUT"))
    };
    // The lowest layer alone: it is not there, so that the others are sent.
    assert_eq!(push("two"), (1, 4));
    // It is: what is new is the last layer, and the configuration.
    assert_eq!(push("three"), (4, 2));
}
