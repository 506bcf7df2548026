//! Builds inside of a container that somebody else runs, by whom it runs as: where the container lets them, with the same
//! result; where not, with the reason and the way out.

use crate::harness::bench::Bench;
use crate::harness::machine::{self, need};
use crate::harness::{Lack, Run, busybox};
use crate::peers::containers::Podman;

const SECCOMP: &str = "--security-opt=seccomp=unconfined";
const PATHS: &str = "--security-opt=systempaths=unconfined";
/// As a pod that may do nothing: no power, no set-id programs, nothing to write to but the store.
const POD: &str =
    "--cap-drop=all --security-opt=no-new-privileges --read-only --read-only-tmpfs=false";

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
COPY walk end /project/
WORKDIR /project
"#;
const INNER: &str = r#"FROM scratch AS base
COPY bin /bin
COPY <<END /etc/passwd
root:x:0:0::/:/bin/sh
app:x:7:8::/:/bin/sh
END
COPY walk /

FROM base AS victim
ENV CANARY=alive
RUN --mount=type=cache,target=/meet touch /meet/here; until [ -e /meet/walked ]; do sleep 0.1; done

FROM base AS attacker
RUN --mount=type=cache,target=/meet until [ -e /meet/here ]; do sleep 0.1; done; sh /walk; touch /meet/walked; ! [ -e /reached ]

FROM base AS both
COPY --from=victim /walk /victim
COPY --from=attacker /walk /attacker

FROM base AS endless
RUN sleep 4321 & sleep 4321

FROM base AS good
RUN mkdir /x && touch /x/f && chown 5:6 /x/f && mkdir -m 777 /of && su app -c 'touch /of/app'
RUN cd /x && echo seen $(stat -c %u:%g f /of/app) $(id -u)
RUN grep -q "127.*[[:space:]]$(hostname)" /etc/hosts
USER app
RUN touch /of/it && echo seen $(stat -c %u:%g /of/it) $(id -u) $(cat /proc/self/comm) > /dev/stderr
# Who answers the step's calls has another root.
RUN touch /proc/self/root/usr/bin/shmocker 2>&1 | grep 'No such file'
"#;

/// What a step can try with processes that are not its own.
const WALK: &str = r#"own=$(readlink /proc/self/ns/pid) seen=0
reach() { echo "reached $*"; touch /reached; }
for process in /proc/[0-9]*; do
    grep -q 'State:.*[ZX]' $process/status || [ "$(readlink $process/ns/pid)" = "$own" ] && continue
    grep -q CANARY $process/environ && reach the canary
    [ -e $process/status ] || continue
    seen=$((seen + 1))
    for link in root cwd exe fd/0 fd/3 ns/user ns/mnt ns/pid; do
        readlink $process/$link && reach $process/$link
    done
    for directory in root cwd map_files; do
        [ -n "$(ls $process/$directory/)" ] && reach $process/$directory
    done
    for file in environ maps auxv stack io syscall; do
        [ -n "$(head -c 1 $process/$file | tr '\0' 0)" ] && reach $process/$file
    done
    (: < $process/mem) && reach $process/mem
    for file in oom_score_adj coredump_filter timerslack_ns clear_refs mem comm; do
        (echo 1000 > $process/$file) && reach $process/$file
    done
done 2> /dev/null
echo "walked around $((seen > 2 ? 3 : seen)) or more"
"#;

/// Builds that are ended while a step runs, and looks at what is left.
const END: &str = r#"for signal in KILL TERM; do
    shmocker --store $1 build --target=endless . > /dev/null 2>&1 &
    until ps | grep -q '[s]leep 4321'; do sleep 0.1; done
    kill -$signal $!
    wait $!
    tries=0
    while ps | grep -q '[s]leep 4321'; do
        tries=$((tries + 1))
        [ $tries -lt 50 ] || exit 1
        sleep 0.1
    done
done
echo nothing is left >&2
"#;

/// The image, and podman to run it.
struct Container<'a> {
    bench: &'a Bench,
    podman: Podman<'a>,
    image: String,
}

impl<'a> Container<'a> {
    fn of(bench: &'a Bench) -> Result<Self, Lack> {
        let base = busybox::context()?;
        let podman = Podman::of(bench)?;
        bench.sh(&format!(
            "cp {program} shmocker; mkdir libraries; for library in $(ldd shmocker | grep -o '/[^ ]*'); do cp -L --parents $library libraries/; done",
            program = machine::shmocker().display()
        ));
        bench
            .file("Dockerfile", OUTER)
            .file("inner", INNER)
            .file("walk", WALK)
            .file("end", END)
            .file("no-namespaces.json", NO_NAMESPACES);
        bench.built(&format!(
            "build {base} -t nested -o type=docker,dest=outer.tar ."
        ));
        let image = podman.load(&bench.path("outer.tar"));
        Ok(Self {
            bench,
            podman,
            image,
        })
    }

    fn runs(&self, user: &str, options: &str, command: &str) -> Run {
        let options = format!("--network=host --user={user} {options}");
        let line = self.podman.run(&options, &self.image, command);
        self.bench
            .finish(self.bench.command("/bin/sh").args(["-euc", &line]))
    }

    fn builds(&self, user: &str, options: &str, arguments: &str) -> Run {
        // In the container's own root, or beside it.
        let (options, store) = match options.contains("--read-only") {
            true => (format!("{options} --tmpfs=/s:mode=1777"), "/s/store"),
            false => (options.to_owned(), "/project/store"),
        };
        let command = format!("shmocker --store {store} build --progress=plain {arguments} .");
        self.runs(user, &options, &command)
    }
}

#[test]
fn a_build_in_a_container_is_as_good_or_says_what_the_container_lacks() {
    let bench = Bench::new(&need!(machine::ranged_user()), "nested");
    let container = need!(Container::of(&bench));
    for (user, options) in [
        // As podman runs containers by itself: /proc is partly covered, and nobody may name a machine.
        ("dev", String::new()),
        ("root", String::new()),
        // Docker with namespaces, and most pods.
        ("dev", SECCOMP.to_owned()),
        ("root", format!("{SECCOMP} {PATHS}")),
        ("4321:77", format!("{SECCOMP} {POD}")),
        ("dev", POD.to_owned()),
        ("root", format!("{POD} --cap-add=setfcap")),
    ] {
        let built = container.builds(user, &options, "");
        built.expect(0, &["seen 5:6 7:8 0", "seen 7:8 7 cat"]);
    }
    let profile = bench.path("no-namespaces.json").display().to_string();
    let filtered = format!("--security-opt=seccomp={profile} {PATHS}");
    let refused = container.builds("dev", &filtered, "");
    refused.tells(4, &["refuses user namespaces", "seccomp=unconfined"]);
    // podman's own lets nobody name a machine, which nobody minds who has not asked for it.
    let named = container.builds("dev", "", "--build-arg BUILDKIT_SANDBOX_HOSTNAME=asked");
    named.tells(4, &["set the host name", "seccomp=unconfined"]);
    let powerless = container.builds("root", POD, "");
    powerless.tells(4, &["CAP_SETFCAP", "runAsUser"]);
}

#[test]
fn a_step_that_sees_the_containers_processes_reaches_none_and_leaves_none() {
    let bench = Bench::new(&need!(machine::ranged_user()), "nested-walls");
    let container = need!(Container::of(&bench));
    // With a single id, and with as many as the container has.
    for user in ["dev", "root"] {
        let walked = container.builds(user, "", "--target=both");
        walked.expect(0, &["walked around 3 or more"]);
        let ended = container.runs(user, "", "sh end /project/store");
        ended.expect(0, &["nothing is left"]);
    }
    let run = "shmocker --store /project/store";
    let build_and_run = format!("sh -c '{run} build -q -t it . && {run} run it id -u'");
    let ran = container.runs("dev", "", &build_and_run);
    assert!(ran.out().ends_with("\n7\n"), "{}", ran.both());
    let doctor = container.runs("dev", "", "shmocker --store /project/store doctor");
    let found = doctor.out();
    assert!(found.contains("degraded  proc: no new one"), "{found}");
    doctor.expect(0, &[]);
}
