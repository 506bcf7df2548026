//! Images of other platforms: their programs are run by an emulator of this machine, which needs no root and is seen by
//! nobody else.

use crate::harness::bench::Bench;
use crate::harness::busybox;
use crate::harness::machine::{self, Capability, Lack, need};

/// A program for 64-bit ARM that says `hello` and ends: an ELF header, one segment, eight instructions.
fn hello() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: [u32; 8] = [
        0xd280_0020, // mov x0, #1
        0x1000_00e1, // adr x1, the text behind the code
        0xd280_00c2, // mov x2, #6
        0xd280_0808, // mov x8, #64: write
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93: exit
        0xd400_0001, // svc #0
    ];
    let mut body: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend(b"hello\n");
    let size = HEADERS + body.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 183] {
        program.extend(half.to_le_bytes());
    }
    program.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        program.extend(word.to_le_bytes());
    }
    program.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        program.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable.
    for word in [1_u32, 5] {
        program.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        program.extend(word.to_le_bytes());
    }
    program.extend(body);
    program
}

/// A bench with the program, where the machine can run it.
fn bench(name: &str) -> Result<Bench, Lack> {
    let user = machine::plain_user()?;
    let emulator = machine::program(Capability::Emulator, "qemu-aarch64-static");
    if std::env::consts::ARCH != "aarch64" {
        emulator?;
    }
    let bench = Bench::new(&user, name);
    let checks = bench.shmocker("doctor --format json").json();
    let checks = checks.as_array().expect("an array");
    let found = checks
        .iter()
        .find(|check| check["check"] == "foreign-architectures")
        .expect("it looks for that");
    let detail = found["detail"].as_str().unwrap_or_default();
    if std::env::consts::ARCH != "aarch64" && !detail.contains("arm64") {
        return Err(Capability::Emulator.lack(detail));
    }
    bench.executable("hello", hello());
    bench.executable("script", "#!/hello\n");
    bench.file(
        "Dockerfile",
        "FROM scratch\nARG TARGETPLATFORM BUILDPLATFORM\nLABEL for=$TARGETPLATFORM on=$BUILDPLATFORM\n\
         COPY hello script /\nRUN [\"/hello\"]\nRUN [\"/script\"]\nENTRYPOINT [\"/hello\"]\n",
    );
    Ok(bench)
}

#[test]
fn programs_of_another_platform_run_while_it_is_built_and_afterwards() {
    let bench = need!(bench("platforms-run"));
    let built = bench.built("build --platform arm64 -t there .");
    assert_eq!(built.steps_run(), 3);
    assert_eq!(built.log().matches("hello").count(), 2, "{}", built.log());
    let config = bench.ok("inspect there").json();
    assert_eq!(config["architecture"], "arm64");
    assert_eq!(config["config"]["Labels"]["for"], "linux/arm64");
    let own = match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => other,
    };
    assert_eq!(config["config"]["Labels"]["on"], own);
    assert_eq!(bench.ok("run there").out(), "hello\n");
    assert_eq!(
        bench.built("build --platform linux/arm64/v8 .").steps_run(),
        0
    );
    let mut command = bench.shmocker_command("build -q .");
    let by_variable = bench.finish(command.env("DOCKER_DEFAULT_PLATFORM", "linux/arm64"));
    assert_eq!(by_variable.out().trim(), built.digest());
    // The handlers are the build's alone.
    assert!(!std::path::Path::new("/proc/sys/fs/binfmt_misc/arm64").exists());
}

#[test]
fn a_platform_that_cannot_be_built_for_is_refused() {
    let bench = Bench::new(&need!(machine::plain_user()), "platforms-refused");
    bench.file("Dockerfile", "FROM scratch\nLABEL a=b\n");
    for (platform, said) in [
        ("here/there/every/where", "is not a platform"),
        ("windows/amd64", "only images for Linux"),
    ] {
        let run = bench.shmocker(&format!("build --platform {platform} ."));
        run.tells(2, &[said]);
    }
    bench.built("build --platform local .");
    let both = "build --platform linux/amd64,linux/arm64";
    for (output, said) in [
        (
            "type=docker,dest=out.tar",
            "several platforms cannot be written as a docker archive",
        ),
        (
            "type=local,dest=out,platform-split=false",
            "would overwrite each other",
        ),
        (
            "type=tar,dest=out.tar,platform-split=false",
            "would overwrite each other",
        ),
    ] {
        let run = bench.shmocker(&format!("{both} -o {output} ."));
        run.tells(2, &[said]);
    }
    let run = bench.shmocker("build --annotation index:a=b -o type=oci,dest=out.tar .");
    run.tells(2, &["is for an index", "`manifest`"]);
    let run = bench.shmocker(&format!("{both} --annotation manifest[linux/arm/v7]:a=b ."));
    run.tells(2, &["an annotation is for linux/arm/v7"]);
}

#[test]
fn several_platforms_are_one_image_and_share_what_is_made_on_this_machine() {
    let bench = Bench::new(&need!(machine::plain_user()), "platforms-index");
    let base = need!(busybox::context());
    bench.file(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM base AS tools\nRUN echo made > /made\n\
         FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY --from=tools /made /\nCOPY of-$TARGETARCH /what\n",
    );
    bench.file("of-amd64", "intel").file("of-arm64", "arm");
    bench.file(".dockerignore", "out*\n");
    let outputs = "-o type=oci,dest=out.tar -o type=oci,dest=out-layout,tar=false -o type=local,dest=out -o type=tar,dest=out-roots.tar";
    let notes = "--annotation index:of=all --annotation manifest-descriptor[linux/arm64]:of=arm --metadata-file meta.json";
    let built = bench.built(&format!(
        "build {base} --platform linux/amd64,arm64,linux/amd64 -t app {outputs} {notes} ."
    ));
    // What does not depend on the platform is made once.
    assert_eq!(
        (built.steps_run(), built.steps_cached()),
        (4, 2),
        "{:?}",
        built.executed()
    );
    assert!(
        built
            .stages_executed()
            .iter()
            .any(|stage| stage.starts_with("linux/arm64 "))
    );
    for (arch, what) in [("amd64", "intel"), ("arm64", "arm")] {
        for (file, text) in [("made", "made\n"), ("what", what)] {
            let path = bench.path(&format!("out/linux_{arch}/{file}"));
            assert_eq!(std::fs::read_to_string(path).expect("it is there"), text);
        }
        let listed = bench.sh("tar -tf out-roots.tar").out();
        assert!(
            listed
                .lines()
                .any(|line| line == format!("linux_{arch}/what")),
            "{listed}"
        );
    }
    let read = |path: &str| -> serde_json::Value {
        let bytes = std::fs::read(bench.path(path)).expect("it is there");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let top = read("out-layout/index.json");
    let entry = &top["manifests"][0];
    assert_eq!(
        entry["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    assert_eq!(
        entry["annotations"]["org.opencontainers.image.ref.name"],
        "latest"
    );
    let digest = entry["digest"].as_str().expect("a digest");
    assert_eq!(built.digest(), digest);
    assert_eq!(read("meta.json")["containerimage.digest"], digest);
    let index = read(&format!(
        "out-layout/blobs/sha256/{}",
        &digest["sha256:".len()..]
    ));
    assert_eq!(index["annotations"]["of"], "all");
    let listed = index["manifests"].as_array().expect("a list");
    let arches: Vec<&str> = listed
        .iter()
        .map(|one| one["platform"]["architecture"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(arches, ["amd64", "arm64"]);
    assert_eq!(listed[0]["annotations"]["of"], serde_json::Value::Null);
    assert_eq!(listed[1]["annotations"]["of"], "arm");
    // The store has this machine's under the name.
    let own = if std::env::consts::ARCH == "aarch64" {
        "arm64"
    } else {
        "amd64"
    };
    assert_eq!(
        bench.ok("inspect app").json()["config"]["Labels"]["arch"],
        own
    );

    let again = bench.built(&format!(
        "build {base} --platform linux/amd64,linux/arm64 -o type=oci,dest=out.tar ."
    ));
    assert_eq!(again.steps_run(), 0);
    // Another tool takes it.
    match machine::program(Capability::Skopeo, "skopeo") {
        Err(lack) => lack.skip(),
        Ok(_) => {
            for arch in ["amd64", "arm64"] {
                let said = bench.sh(&format!(
                    "skopeo --override-arch {arch} inspect --config oci-archive:out.tar"
                ));
                let config = said.json();
                assert_eq!(config["config"]["Labels"]["arch"], arch);
            }
        }
    }
}

#[test]
fn two_architectures_of_debian_are_one_image_and_each_runs() {
    let bench = need!(bench("platforms-debian"));
    need!(machine::debian_archive());
    need!(machine::patience(
        "emulated packages take a minute to be configured"
    ));
    bench.file(
        "Dockerfile",
        "FROM base\nRUN dpkg --print-architecture > /arch && useradd dev && su dev -c 'uname -m' > /machine\n",
    );
    let platforms = "--platform linux/amd64,linux/arm64";
    let base = "--build-context base=debian://bookworm";
    bench.built(&format!("build {base} {platforms} -t both -o out ."));
    for (arch, machine) in [("amd64", "x86_64\n"), ("arm64", "aarch64\n")] {
        let read =
            |file: &str| std::fs::read_to_string(bench.path(&format!("out/linux_{arch}/{file}")));
        assert_eq!(read("arch").expect("it was written"), format!("{arch}\n"));
        assert_eq!(read("machine").expect("it was written"), machine);
        bench.built(&format!("build {base} --platform linux/{arch} -t {arch} ."));
        assert_eq!(bench.ok(&format!("run {arch} uname -m")).out(), machine);
    }
}

#[test]
fn a_habitat_for_another_platform_is_built_and_started() {
    let bench = need!(bench("platforms-habitat"));
    need!(machine::debian_archive());
    need!(machine::patience(
        "emulated packages take a minute to be configured"
    ));
    bench.file(
        "config.yaml",
        "name: foreign\nbase: {debian: bookworm}\nplatforms: [linux/arm64]\n\
         scripts: [{name: machine, commands: [uname -m > /machine]}]\ntests: [test.sh]\nentry: {command: [sleep, inf]}\n",
    );
    bench.executable(
        "test.sh",
        "#!/bin/sh\necho 1..1; grep -q aarch64 /machine && echo ok 1\n",
    );
    bench.built("habitat build config.yaml");
    bench.ok("habitat up config.yaml");
    let machine = bench.ok("habitat exec config.yaml uname -m").out();
    bench.ok("habitat down config.yaml");
    assert_eq!(machine, "aarch64\n");
}
