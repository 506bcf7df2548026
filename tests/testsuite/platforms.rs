//! Images of other platforms: their programs are run by an emulator of this machine, which needs no root and is seen by
//! nobody else.

use crate::harness::bench::Bench;
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
        ("linux/amd64,linux/arm64", "the image of one platform"),
    ] {
        let run = bench.shmocker(&format!("build --platform {platform} ."));
        run.tells(2, &[said]);
    }
    bench.built("build --platform local .");
}
