//! Builds inside of a container that somebody else runs, by whom it runs as: where the container lets them, with the same
//! result; where not, with the reason and the way out.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, need};
use crate::harness::{Run, busybox};
use crate::peers::containers::Podman;

const SECCOMP: &str = "--security-opt=seccomp=unconfined";
const PATHS: &str = "--security-opt=systempaths=unconfined";

/// As Docker's profile: it has no namespaces to give.
const NO_NAMESPACES: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
     "args": [{"index": 0, "value": 268435456, "valueTwo": 268435456, "op": "SCMP_CMP_MASKED_EQ"}]}
]}"#;

/// An image with shmocker, the libraries that it needs, and something to build.
const OUTER: &str = r#"FROM base
COPY libraries /
COPY shmocker /usr/bin/
RUN adduser -D -u 1000 dev && mkdir /project && cp -r /bin /project/bin && chown -R dev /project
COPY inner /project/Dockerfile
WORKDIR /project
"#;
const INNER: &str = r#"FROM scratch
COPY bin /bin
COPY <<END /etc/passwd
root:x:0:0::/:/bin/sh
app:x:7:8::/:/bin/sh
END
RUN mkdir /x && touch /x/f && chown 5:6 /x/f && mkdir -m 777 /of && su app -c 'touch /of/app'
RUN echo seen $(stat -c %u:%g /x/f /of/app) $(id -u)
"#;

#[test]
fn a_build_in_a_container_is_as_good_or_says_what_the_container_lacks() {
    let bench = Bench::new(&need!(machine::plain_user()), "nested");
    let base = need!(busybox::context());
    let podman = need!(Podman::of(&bench));
    bench.sh(&format!(
        "cp {program} shmocker; mkdir libraries; for library in $(ldd shmocker | grep -o '/[^ ]*'); do cp -L --parents $library libraries/; done",
        program = machine::shmocker().display()
    ));
    bench
        .file("Dockerfile", OUTER)
        .file("inner", INNER)
        .file("no-namespaces.json", NO_NAMESPACES);
    bench.built(&format!(
        "build {base} -t nested -o type=docker,dest=outer.tar ."
    ));
    let image = podman.load(&bench.path("outer.tar"));
    let build = |user: &str, options: &str| -> Run {
        let options = format!("--network=host --user={user} {options}");
        let command = "shmocker --store /project/store build --progress=plain .";
        let line = podman.run(&options, &image, command);
        bench.finish(bench.command("/bin/sh").args(["-euc", &line]))
    };
    for user in ["dev", "root"] {
        let built = build(user, &format!("{SECCOMP} {PATHS}"));
        built.expect(0, &["seen 5:6 7:8 0"]);
        // podman's own profile lets nobody name a machine, and its /proc is partly covered.
        build(user, "").tells(4, &["set the host name", "seccomp=unconfined", "procMount"]);
        build(user, SECCOMP).tells(
            4,
            &["mount /proc", "partly covered", "systempaths=unconfined"],
        );
    }
    let profile = bench.path("no-namespaces.json").display().to_string();
    build("dev", &format!("--security-opt=seccomp={profile} {PATHS}"))
        .tells(4, &["refuses user namespaces", "seccomp=unconfined"]);
}
