//! What `-o`, `save` and `--load` write, and what `load` takes: read by skopeo, podman and umoci, written by them, and the
//! same from whoever makes it.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::layout::{Layout, digest_of};
use crate::harness::machine::{self, Capability, Lack, User, need, program};
use crate::harness::processes::wait_until;

/// A project with one image, and what leads to its base.
fn project(user: &User, name: &str) -> Result<(Bench, &'static str), Lack> {
    static BASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let base = busybox::context()?;
    let bench = Bench::new(user, name);
    bench.file(
        "Dockerfile",
        "FROM base\nRUN echo one > /one && ln /one /hard && ln -s one /soft && mkdir -p /d/e\nCMD cat /one\n",
    );
    Ok((bench, BASE.get_or_init(|| base)))
}

fn plain(name: &str) -> Result<(Bench, &'static str), Lack> {
    project(&machine::plain_user()?, name)
}

/// `linux/amd64`, and how a directory is called after it.
fn platform() -> (String, String) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    (
        format!("linux/{architecture}"),
        format!("linux_{architecture}"),
    )
}

fn media_types(layout: &Layout) -> Vec<String> {
    let manifest = layout.manifest();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let types = layers.iter().map(|layer| layer["mediaType"].as_str());
    types.map(|it| it.unwrap_or_default().to_owned()).collect()
}

/// The manifest of an image of the store, as it is saved.
fn stored(bench: &Bench, image: &str) -> Layout {
    bench.ok(&format!("save --format oci-archive -o stored.tar {image}"));
    Layout::read(&bench.path("stored.tar"))
}

/// The images of the store, by name: their digests.
fn images(bench: &Bench) -> Vec<(String, String)> {
    let listed = bench.ok("images --format json").json();
    let listed = listed.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    listed
        .iter()
        .map(|image| (text(&image["name"]), text(&image["digest"])))
        .collect()
}

#[test]
fn one_build_writes_several_outputs() {
    let (bench, base) = need!(plain("outputs-several"));
    let build = format!("build {base} -t app");
    bench.ok(&format!(
        "{build} -o type=oci,dest=oci.tar -o type=docker,dest=docker.tar,compression=uncompressed -o type=tar,dest=root.tar -o tree \
         -o type=image,name=second:2,unpack=true -o type=oci,dest=layout,tar=false -o type=cacheonly ."
    ));
    let layout = Layout::read(&bench.path("oci.tar"));
    assert_eq!(
        Layout::read(&bench.path("layout")).digest(),
        layout.digest()
    );
    let layers =
        [layout, Layout::read(&bench.path("docker.tar"))].map(|it| it.config()["rootfs"].clone());
    assert_eq!(layers[0], layers[1], "the same content in another form");
    assert_eq!(
        bench.sh("cat tree/one; tar -xOf root.tar hard").out(),
        "one\none\n"
    );
    let names: Vec<String> = images(&bench).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["docker.io/library/app:latest", "docker.io/library/second:2"]
    );

    bench
        .shmocker(&format!("{build} -o - -o type=oci ."))
        .expect(2, &["two outputs go to standard output"]);
    let words = bench.shmocker_words();
    let typed = format!("script -qec '{words} {build} -o type=docker .' /dev/null || true");
    assert!(bench.sh(&typed).out().contains("nothing for a terminal"));
    for (spec, reason) in [
        ("type=image,name-canonical=true", "found by its digest"),
        (
            "type=oci,dest=x,compression=estargz",
            "estargz is not written",
        ),
        ("type=local,dest=x,mode=delete", "empty the directory first"),
    ] {
        bench
            .shmocker(&format!("{build} -o {spec} ."))
            .expect(2, &[reason]);
    }
}

#[test]
fn notes_stand_where_they_are_to() {
    let (bench, base) = need!(plain("outputs-notes"));
    let (platform, _) = platform();
    bench.ok(&format!(
        "build {base} --annotation org.a=1 --annotation manifest[{platform}],manifest-descriptor:org.b=2=3 \
         -o type=oci,dest=x.tar,annotation.org.c=4,annotation-manifest-descriptor[{platform}].org.d=5 ."
    ));
    let layout = Layout::read(&bench.path("x.tar"));
    assert_eq!(
        layout.manifest()["annotations"],
        json!({"org.a": "1", "org.b": "2=3", "org.c": "4"})
    );
    let entry = &layout.index()["manifests"][0]["annotations"];
    assert_eq!(
        (&entry["org.b"], &entry["org.d"]),
        (&json!("2=3"), &json!("5"))
    );
    assert_eq!(entry["org.a"], Value::Null);

    // Without an output, the image in the store gets them.
    bench.ok(&format!("build {base} -t noted --annotation org.a=1 ."));
    assert_eq!(
        stored(&bench, "noted").manifest()["annotations"],
        json!({"org.a": "1"})
    );

    for (note, reason) in [
        ("index:a=b", "is for an index"),
        ("manifest[linux/s390x]:a=b", "is built for"),
        ("a", "KEY=VALUE"),
    ] {
        bench
            .shmocker(&format!(
                "build {base} --annotation {note} -o type=oci,dest=y.tar ."
            ))
            .tells(2, &[reason]);
    }
}

#[test]
fn layers_are_compressed_as_it_is_asked_for() {
    let (bench, base) = need!(plain("outputs-compression"));
    let mut sizes = Vec::new();
    for (spec, ending, base_ending) in [
        ("compression=gzip,compression-level=1", "+gzip", "+gzip"),
        ("compression=zstd", "+zstd", "+gzip"),
        (
            "compression=zstd,compression-level=19,force-compression=true",
            "+zstd",
            "+zstd",
        ),
        (
            "compression=uncompressed,force-compression=true",
            ".tar",
            ".tar",
        ),
        ("compression=gzip,oci-mediatypes=false", ".gzip", ".gzip"),
    ] {
        bench.ok(&format!("build {base} -o type=oci,dest=x.tar,{spec} ."));
        let layout = Layout::read(&bench.path("x.tar"));
        let types = media_types(&layout);
        assert!(
            types[0].ends_with(base_ending) && types[1].ends_with(ending),
            "{spec}: {types:?}"
        );
        assert_eq!(layout.layers().len(), 2, "each is what its diff id says");
        sizes.push(std::fs::metadata(bench.path("x.tar")).map_or(0, |it| it.len()));
        crate::peers::containers::skopeo(&bench, "x.tar").map_or_else(|lack| lack.skip(), drop);
        bench.sh("rm -rf skopeo-copy");
    }
    assert!(sizes[2] < sizes[0] && sizes[0] < sizes[3], "{sizes:?}");

    bench.ok(&format!(
        "build {base} -t small -o type=image,compression=zstd,force-compression=true ."
    ));
    let types = media_types(&stored(&bench, "small"));
    assert!(types.iter().all(|it| it.ends_with("+zstd")), "{types:?}");
    assert_eq!(bench.ok("run --rm small").out(), "one\n");

    // Other times are other layers: what runs and what is built upon it is what would leave.
    let bench = bench.env("SOURCE_DATE_EPOCH", "1700000000");
    bench.ok(&format!(
        "build {base} -o type=image,name=old,compression=gzip,rewrite-timestamp=true ."
    ));
    let saved = stored(&bench, "old").layer_digests();
    assert_eq!(
        bench.ok("run --rm old stat -c %Y /one").out(),
        "1700000000\n"
    );
    bench.file("Dockerfile", "FROM old\nRUN true > /more\n");
    bench.ok("build -o type=oci,dest=more.tar .");
    assert_eq!(
        Layout::read(&bench.path("more.tar")).layer_digests()[..2],
        saved
    );
}

#[test]
fn platforms_lie_apart_where_they_are_to() {
    let (bench, base) = need!(plain("outputs-platforms"));
    let (_, directory) = platform();
    bench.ok(&format!(
        "build {base} -o type=local,dest=out,platform-split=true -o type=tar,dest=out.tar,platform-split=true -o type=tar,dest=plain.tar ."
    ));
    let seen = bench
        .sh(&format!(
            "cat out/{directory}/one; mkdir in plain; tar -C in -xf out.tar; tar -C plain -xf plain.tar; ls in; ls -A plain > a; \
             ls -A in/{directory} > b; cmp a b; [ in/{directory}/one -ef in/{directory}/hard ]; readlink in/{directory}/soft"
        ))
        .out();
    assert_eq!(seen, format!("one\n{directory}\none\n"));
}

#[test]
fn what_was_saved_is_loaded_elsewhere_as_it_was() {
    let (bench, base) = need!(plain("save-load"));
    bench.ok(&format!("build {base} -t app:1 ."));
    bench.ok("tag app:1 localhost/other:2 third");
    bench.sh("echo 'FROM third\nRUN echo two > /two' > Two");
    bench.ok("build -f Two -t two .");
    bench.ok("save -o both.tar app:1 localhost/other:2 two");
    bench.ok("save --format oci-dir -o layout app:1");
    let words = bench.shmocker_words();
    bench.sh(&format!(
        "{words} image save --format oci-archive app:1 | gzip > app.tar.gz"
    ));
    let digest = |layout: &Layout| layout.digest();
    let saved = digest(&Layout::read(&bench.path("layout")));

    let other = Bench::new(bench.user(), "save-load-other");
    let from = bench.project().display().to_string();
    let run = other.ok(&format!("load -i {from}/both.tar"));
    assert_eq!(
        run.out(),
        "Loaded image: app:1\nLoaded image: localhost/other:2\nLoaded image: two:latest\n"
    );
    let known = images(&other);
    assert_eq!(
        known[0],
        ("docker.io/library/app:1".to_owned(), saved.clone())
    );
    assert_eq!(other.ok("run --rm two cat /one /two").out(), "one\ntwo\n");
    // It is a base, and leaves as it came.
    other.file("Dockerfile", "FROM app:1\nRUN cat /hard > /three\n");
    other.ok("build -o type=oci,dest=three.tar -t three .");
    let layers = Layout::read(&other.path("three.tar")).layer_digests();
    assert_eq!(
        layers[..2],
        Layout::read(&bench.path("layout")).layer_digests()
    );
    assert_eq!(digest(&stored(&other, "app:1")), saved);

    let third = Bench::new(bench.user(), "save-load-third");
    let words = third.shmocker_words();
    let piped = third.sh(&format!("cat {from}/app.tar.gz | {words} load"));
    assert_eq!(piped.out(), "Loaded image: app:1\n");
    assert_eq!(
        third.ok(&format!("image load -q -i {from}/layout")).out(),
        ""
    );
    assert_eq!(
        images(&third),
        [("docker.io/library/app:1".to_owned(), saved)]
    );
    assert_eq!(third.ok("run --rm app:1").out(), "one\n");

    assert_eq!(
        third.ok("image inspect app:1").json()["config"]["Cmd"][2],
        "cat /one"
    );
    third.ok("image tag app:1 again");
    third.ok("image rm app:1");
    assert_eq!(images(&third)[0].0, "docker.io/library/again:latest");
    third
        .shmocker("save -o x.tar none")
        .expect(1, &["there is no image `none`"]);
    third
        .shmocker("tag none again")
        .expect(1, &["there is no image `none`"]);
    third
        .shmocker("tag again A~B")
        .expect(2, &["not an image name"]);
    third
        .shmocker("save --format oci-dir again")
        .expect(2, &["-o DIRECTORY"]);
}

#[test]
fn skopeo_umoci_and_podman_read_what_is_saved_and_write_what_is_loaded() {
    let (bench, base) = need!(plain("save-peers"));
    need!(program(Capability::Skopeo, "skopeo"));
    need!(program(Capability::Umoci, "umoci"));
    bench.ok(&format!("build {base} -t app:1 -t localhost/b:2 ."));
    bench.ok("save -o app.tar app:1 localhost/b:2");
    bench.ok("save --format oci-dir -o layout app:1");
    bench.sh(
        "mkdir -p .config; echo '{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}' > .config/policy.json",
    );
    let skopeo = "skopeo --policy .config/policy.json --tmpdir .";
    for reference in [
        "docker-archive:app.tar:app:1",
        "docker-archive:app.tar:localhost/b:2",
        "oci:layout:1",
    ] {
        bench.sh(&format!(
            "{skopeo} copy -q {reference} dir:copy; rm -rf copy"
        ));
    }
    bench.sh("umoci unpack --rootless --image layout:1 bundle; cat bundle/rootfs/one");

    // skopeo's archives are of the older kind, with links beside their layers; umoci's layouts have tags alone.
    let other = Bench::new(bench.user(), "save-peers-other");
    let from = bench.project().display().to_string();
    bench.sh(&format!(
        "{skopeo} copy -q oci:layout:1 docker-archive:old.tar:localhost/old:1"
    ));
    assert_eq!(
        other.ok(&format!("load --input {from}/old.tar")).out(),
        "Loaded image: localhost/old:1\n"
    );
    assert_eq!(other.ok("run --rm localhost/old:1").out(), "one\n");
    bench.sh(&format!(
        "{skopeo} copy -q oci:layout:1 oci:theirs:latest; umoci config --image theirs:latest --config.label who=umoci"
    ));
    let said = other.ok(&format!("load -i {from}/theirs")).out();
    let digest = said.trim().rsplit(' ').next().unwrap_or_default();
    assert!(said.starts_with("Loaded image ID: sha256:"), "{said}");
    assert_eq!(
        other.ok(&format!("inspect {digest}")).json()["config"]["Labels"]["who"],
        "umoci"
    );

    need!(program(Capability::Podman, "podman"));
    let podman = podman(&bench);
    bench.sh(&format!(
        "{podman} load -q -i app.tar; {podman} image exists localhost/b:2"
    ));
    for format in ["docker-archive", "oci-archive"] {
        bench.sh(&format!(
            "rm -f p.tar; {podman} save -q --format {format} -o p.tar localhost/b:2; chmod a+r p.tar"
        ));
        other.ok("image ls");
        assert_eq!(
            other.ok(&format!("load -i {from}/p.tar")).out(),
            "Loaded image: localhost/b:2\n",
            "{format}"
        );
        assert_eq!(other.ok("run --rm localhost/b:2").out(), "one\n");
        other.ok("rmi localhost/b:2");
    }
}

/// podman with a store of the tests' own, as a line of shell.
fn podman(bench: &Bench) -> String {
    let place = machine::place_for(bench.user(), "podman");
    let place = place.display();
    format!(
        "podman --cgroup-manager=cgroupfs --runtime=runc --events-backend=file --log-level=error \
         --root={place}/root --runroot={place}/run --tmpdir={place}/tmp"
    )
}

#[test]
fn what_is_no_image_or_not_whole_is_not_loaded() {
    let (bench, base) = need!(plain("load-refused"));
    bench.ok(&format!(
        "build {base} -o type=oci,dest=whole,tar=false -o type=docker,dest=whole.tar ."
    ));
    bench.sh("echo nothing > text; mkdir empty; tar -cf empty.tar empty");
    bench.sh("cp -r whole cut; for blob in cut/blobs/sha256/*; do truncate -s -1 $blob; done");
    bench.sh("cp -r whole wrong; for blob in $(ls -S wrong/blobs/sha256 | head -1); do printf x | dd of=wrong/blobs/sha256/$blob conv=notrunc status=none; done");
    bench.sh("cp -r whole gone; rm gone/blobs/sha256/$(ls -S gone/blobs/sha256 | head -1)");
    bench.sh("head -c 30000 whole.tar > short.tar");
    bench.sh("mkdir foreign; cp -r whole/. foreign; tar -cf foreign.tar -C foreign --exclude=index.json --exclude=oci-layout .");
    let fresh = Bench::new(bench.user(), "load-refused-fresh");
    let from = bench.project().display().to_string();
    for (name, reason) in [
        ("text", "it is no archive"),
        ("empty", "neither `index.json`"),
        ("empty.tar", "neither `index.json`"),
        ("foreign.tar", "neither `index.json`"),
        ("cut", "is not what its name says"),
        ("wrong", "is damaged"),
        ("gone", "which is not in it"),
        ("short.tar", "is damaged"),
        ("nowhere", "cannot be read"),
    ] {
        fresh
            .shmocker(&format!("load -i {from}/{name}"))
            .tells(1, &[reason]);
    }
    assert_eq!(images(&fresh), []);
    fresh.ok(&format!("load -i {from}/whole.tar"));
    assert_eq!(images(&fresh).len(), 1);
}

/// What builders for several platforms write: an index, with attestations beside the images.
#[test]
fn of_an_index_the_image_for_this_platform_is_loaded() {
    let (bench, base) = need!(plain("load-index"));
    let (_, directory) = platform();
    let architecture = directory.trim_start_matches("linux_");
    bench.ok(&format!("build {base} -o type=oci,dest=one,tar=false ."));
    let own = Layout::read(&bench.path("one"));
    let entry = own.index()["manifests"][0].clone();
    let other = |kind: &str, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", kind.repeat(64)), "size": 7,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let mut attestation = other("a", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut mine = entry;
    mine["platform"] = json!({"os": "linux", "architecture": architecture});
    for (name, images, expected) in [
        (
            "many",
            json!([other("b", "s390x"), mine, attestation]),
            Ok("Loaded image: localhost/many:1\n"),
        ),
        (
            "none",
            json!([other("b", "s390x"), other("c", "mips64le")]),
            Err("linux/s390x, linux/mips64le"),
        ),
    ] {
        let index_type = "application/vnd.oci.image.index.v1+json";
        let nested =
            json!({"schemaVersion": 2, "mediaType": index_type, "manifests": images}).to_string();
        let digest = digest_of(nested.as_bytes());
        let top = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": index_type, "digest": digest, "size": nested.len(),
            "annotations": {"io.containerd.image.name": format!("localhost/{name}:1")},
        }]});
        bench.sh(&format!("cp -r one {name}"));
        bench
            .file(
                &format!("{name}/blobs/{}", digest.replace(':', "/")),
                &nested,
            )
            .file(&format!("{name}/index.json"), top.to_string());
        let run = bench.shmocker(&format!("load -i {name}"));
        match expected {
            Ok(said) => assert_eq!(run.out(), said, "{}", run.both()),
            Err(has) => drop(run.tells(1, &["is not there for", has])),
        }
    }
    assert_eq!(
        stored(&bench, "localhost/many:1").layer_digests(),
        own.layer_digests()
    );
}

/// Its layers were another program's, and what they were made of is gone: they leave as they came.
#[test]
fn an_image_that_was_built_on_a_layout_leaves_later() {
    let (bench, _) = need!(plain("outputs-layout"));
    bench.tree(need!(busybox::layout()), "base");
    bench.ok("build --build-context base=oci-layout://base -t app .");
    let base = Layout::read(&bench.path("base")).layer_digests();
    bench.sh("rm -rf base");

    bench.file("Dockerfile", "FROM app\nRUN true > /more\n");
    bench.ok("build -o type=oci,dest=more.tar .");
    let more = Layout::read(&bench.path("more.tar"));
    assert_eq!(more.layer_digests()[..1], base);
    assert_eq!(more.layers().len(), 3);
    assert_eq!(stored(&bench, "app").layer_digests()[..1], base);
}

/// Answers as a docker engine does when it is given an archive, and keeps that.
fn docker_engine(socket: &Path, archive: &Path, answer: &'static str) {
    let listener = UnixListener::bind(socket).expect("a socket can be made");
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o777)).expect("it is there");
    let archive = archive.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Some(body) = posted(&stream) {
                std::fs::write(&archive, body).expect("a file can be written");
                let mut stream = stream;
                drop(stream.write_all(answer.as_bytes()));
            }
        }
    });
}

/// The body of a request that comes in chunks. A connection that only asks whether somebody is there has none.
fn posted(mut stream: &UnixStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 65536];
    while !all.ends_with(b"\r\n0\r\n\r\n") {
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            got => all.extend_from_slice(&buffer[..got]),
        }
    }
    let begin = all.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    assert!(
        all.starts_with(b"POST /images/load"),
        "{}",
        String::from_utf8_lossy(&all[..begin])
    );
    let (mut rest, mut body) = (&all[begin..], Vec::new());
    loop {
        let end = rest.windows(2).position(|part| part == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

#[test]
fn an_image_is_given_to_the_engines_of_this_machine() {
    let (bench, base) = need!(plain("engines"));
    need!(program(Capability::Podman, "podman"));
    let podman = podman(&bench);
    bench.sh("mkdir tools nobody; for tool in newuidmap newgidmap; do ! found=$(command -v $tool) || ln -s $found nobody/; done");
    bench.executable(
        "tools/podman",
        format!("#!/bin/sh\nexec /usr/bin/{podman} \"$@\"\n"),
    );
    let tools = format!(
        "{}:/usr/bin:/bin:/usr/sbin:/sbin",
        bench.path("tools").display()
    );
    let nobody = bench.path("nobody").display().to_string();
    let bench = bench
        .env("PATH", &tools)
        .env("DOCKER_HOST", "unix:///nowhere");

    let run = bench.ok(&format!("build {base} -t localhost/given:1 --load ."));
    assert!(
        run.stderr
            .contains("loaded into podman's store: localhost/given:1"),
        "{}",
        run.both()
    );
    bench.sh(&format!(
        "{podman} image exists localhost/given:1; {podman} rmi -f localhost/given:1"
    ));

    let bench = bench.env("PATH", &nobody);
    bench
        .shmocker(&format!("build {base} -t localhost/given:1 --load ."))
        .tells(4, &["no container engine is here", "shmocker run"]);
    let given = bench.path("given.tar");
    let taken = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"stream\":\"Loaded image: localhost/given:1\"}\n";
    docker_engine(&bench.path("taking.sock"), &given, taken);
    let full = "HTTP/1.1 500 Failed\r\nConnection: close\r\n\r\n{\"message\":\"no space left\"}\n";
    docker_engine(&bench.path("full.sock"), &bench.path("refused.tar"), full);
    let half = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"errorDetail\":{},\"error\":\"invalid archive\"}\n";
    docker_engine(&bench.path("half.sock"), &bench.path("refused.tar"), half);
    let host = |name: &str| format!("unix://{}", bench.path(name).display());
    let (taking, full, half) = (host("taking.sock"), host("full.sock"), host("half.sock"));

    let bench = bench.env("DOCKER_HOST", &taking);
    let run = bench.ok(&format!("build {base} -t localhost/given:1 --load ."));
    assert!(
        run.stderr.contains("loaded into the docker engine at"),
        "{}",
        run.both()
    );
    let listed = bench.sh("/usr/bin/tar -xOf given.tar manifest.json").json();
    assert_eq!(listed[0]["RepoTags"], json!(["localhost/given:1"]));
    let bench = bench.env("DOCKER_HOST", &full);
    bench
        .shmocker(&format!("build {base} --load ."))
        .tells(4, &["no space left"]);
    let bench = bench.env("DOCKER_HOST", &half);
    bench
        .shmocker(&format!("build {base} --load ."))
        .tells(4, &["invalid archive"]);
    let bench = bench.env("DOCKER_HOST", "tcp://127.0.0.1:1");
    bench
        .shmocker(&format!("build {base} --load ."))
        .tells(2, &["no socket of this machine"]);
}

const STAGES: &str = "\
FROM base AS a
RUN for i in 1 2 3; do seq 1 2000$i > /f$i; done; ln /f1 /hard; ln -s f2 /soft; mkdir -p /d/e; chmod 4755 /f3
FROM base AS b
COPY context /context
RUN sleep 0.2; seq 1 40000 | sort -r > /sorted
FROM base AS c
RUN sleep 0.1; date > /dev/null; cat /bin/busybox > /copy
FROM base
COPY --from=a / /a
COPY --from=b /context /sorted /b/
COPY --from=c /copy /
RUN touch /last /b/context/new; rm -r /a/d
";

/// A project whose files are older or newer than those of others.
fn reproducible(user: &User, name: &str, day: u32) -> Bench {
    let bench = Bench::new(user, name).env("SOURCE_DATE_EPOCH", "1700000000");
    bench.file("Dockerfile", STAGES);
    bench.sh(&format!(
        "mkdir -p context/sub; seq 1 10 > context/x; echo y > context/sub/y; touch -d 2025-01-{day:02} context/x context/sub context"
    ));
    bench
}

/// Two users, several stores, one of them in memory, one job and eight, a build that was killed: one digest, in every form.
#[test]
fn the_same_inputs_give_the_same_image() {
    let user = need!(machine::plain_user());
    let base = need!(busybox::context());
    let forms = "-o type=oci,dest=gzip.tar,rewrite-timestamp=true -o type=oci,dest=zstd.tar,rewrite-timestamp=true,compression=zstd,force-compression=true \
                 -o type=tar,dest=root.tar";
    let digests = |bench: &Bench, jobs: &str| -> Vec<String> {
        bench.ok(&format!("build {base} {jobs} {forms} ."));
        let sums = bench.sh("sha256sum gzip.tar zstd.tar root.tar").out();
        sums.lines().map(str::to_owned).collect()
    };
    let first = digests(&reproducible(&user, "same-one", 1), "-j 1");
    assert_eq!(
        digests(&reproducible(&user, "same-eight", 2), "--jobs 8"),
        first
    );
    match machine::root() {
        Ok(root) => assert_eq!(digests(&reproducible(&root, "same-root", 3), "-j 8"), first),
        Err(lack) => lack.skip(),
    }

    let memory = Path::new("/dev/shm").join(format!("shmocker-test-{}", std::process::id()));
    let bench = reproducible(&user, "same-memory", 5);
    let words = bench.shmocker_words();
    let words = words.replace(
        &bench.store().display().to_string(),
        &memory.display().to_string(),
    );
    let sums = "sha256sum gzip.tar zstd.tar root.tar";
    let built = bench.sh(&format!(
        "{words} build {base} {forms} . > /dev/null; {sums}; {words} store delete"
    ));
    assert_eq!(built.out().lines().collect::<Vec<_>>(), first);

    let bench = reproducible(&user, "same-killed", 4);
    let line = format!("build {base} -j 2 --progress json {forms} .");
    let mut child = bench.start(&line, "log");
    let has_begun = || {
        std::fs::read_to_string(bench.path("log"))
            .is_ok_and(|log| log.matches("step.done").count() > 1)
    };
    assert!(wait_until(Duration::from_secs(60), has_begun).is_some());
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    assert!(!bench.path("root.tar").exists(), "it was not done");
    assert_eq!(digests(&bench, "-j 2"), first);
}

/// A bound on their number holds for steps that could run beside each other.
#[test]
fn one_job_is_one_step_at_a_time() {
    let (bench, base) = need!(plain("jobs"));
    let mut text = String::new();
    for stage in ["a", "b", "c"] {
        text.push_str(&format!(
            "FROM base AS {stage}\nRUN --mount=type=cache,target=/cache [ ! -e /cache/runs ] && touch /cache/runs && sleep 0.2 && rm /cache/runs && touch /{stage}\n"
        ));
    }
    text.push_str("FROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\n");
    bench.file("Dockerfile", &text);
    bench
        .shmocker(&format!("build {base} --no-cache ."))
        .expect(3, &[]);
    bench.sh("rm -rf Dockerfile");
    bench.file("Dockerfile", text.replace("/cache", "/other"));
    bench.ok(&format!("build {base} -j1 ."));
    bench
        .shmocker(&format!("build {base} -j0 ."))
        .expect(2, &["--jobs"]);
}
