#!/usr/bin/env python3
"""What owners that are records cost: the same work in a step with ranges of ids and with a single one.

    python3 ids.py [--rounds 3] [--user NAME] [--builds]

SHMOCKER names the binary (else the project's own release build). As root, --user names a plain user with subordinate ids. Each piece of
work is timed inside of the step; the fastest round counts. The packages are downloaded beforehand, in a step that is kept.
With --builds, whole builds are timed instead: those whose layers the tests compare (tests/testsuite/modes), downloads and all.
"""
import argparse, os, re, shutil, subprocess, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = "git man-db openssh-client python3 nginx-light postgresql-client sudo rsync cron tmux vim-tiny"
APT = f"apt-get install -y -q --no-install-recommends %s {PACKAGES}"
# name, what it stands for, command
WORK = [
    ("apt", "apt-get install of eleven packages and what they need", APT % "--no-download"),
    ("tar", "tar x of /usr and /etc", "tar xf /t.tar -C /x"),
    ("find", "find / -ls", "find / -xdev -ls"),
    ("du", "du -s /", "du -sx /"),
    ("add", "git init, git add of 5,000 files", "sh -c 'cd /x && git init -q . && git add usr/share usr/include etc'"),
    ("status", "git status", "git -C /x status"),
    ("cp", "cp -a of /usr", "cp -a /x/usr /y"),
    ("chown", "chown -R of it", "chown -R 1000:1000 /y"),
    ("rm", "rm -rf of it", "rm -rf /y"),
    ("forks", "500 times /bin/true", "sh -c 'i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done'"),
    ("configure", "200 times write, grep, sed, rm",
     "sh -c 'cd /x; i=0; while [ $i -lt 200 ]; do echo int > c$i; grep -q int c$i; sed s/x/y/ c$i > o; rm o; i=$((i+1)); done'"),
]


def dockerfile():
    steps = "; ".join(f"t {name} {command}" for name, _, command in WORK)
    return f"""FROM base AS ready
RUN apt-get update -q && {APT % "--download-only"} && tar cf /t.tar -C / usr etc && mkdir /x
FROM ready
ARG ROUND
ENV DEBIAN_FRONTEND=noninteractive
RUN : $ROUND; t() {{ name=$1; shift; s=$(date +%s%N); "$@" > /dev/null 2>&1 || exit 1; e=$(date +%s%N); echo "took $name $(( (e - s) / 1000000 ))"; }}; {steps}
"""


SUITE = f"{HERE}/../../tests/testsuite/modes"
# Dockerfile, its base, what it stands for
BUILDS = [
    ("files", "bookworm", "users, groups, modes, links, archives, copies"),
    ("packages", "bookworm", "forty packages, pip, npm, cargo, go, gem, git, a database"),
    ("families", "trixie", "another Debian, and a system of RPM packages in it"),
]


def builds(a, place, become, own):
    shutil.copytree(SUITE, f"{place}/suite")
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", f"{place}/ca")
    with open(f"{place}/suite/base.dockerfile", "w") as f: f.write("FROM base\n")
    if a.user: subprocess.run(["chown", "-R", a.user, place], check=True)
    took = {}
    for name, suite, _ in BUILDS:
        for turn in range(a.rounds + 1):
            for ids in ("ranges", "single"):
                # The first is for the base alone.
                build = [own, "build", f"--ids={ids}", "--no-cache", "--progress=plain", "--build-context", f"base=debian://{suite}", "--secret", f"id=ca,src={place}/ca",
                         "-f", f"{place}/suite/{name if turn else 'base'}.dockerfile", f"{place}/suite"]
                began = time.monotonic()
                run = subprocess.run(become + ["env", f"SHMOCKER_STORE={place}/{ids}"] + build, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
                if run.returncode != 0: raise SystemExit(run.stderr)
                if turn: took[name, ids] = min(int((time.monotonic() - began) * 1000), took.get((name, ids), 1 << 60))
    return took, [(name, what) for name, _, what in BUILDS]


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--rounds", type=int, default=3); ap.add_argument("--user"); ap.add_argument("--builds", action="store_true")
    a = ap.parse_args()
    binary = os.environ.get("SHMOCKER", f"{HERE}/../../target/release/shmocker")
    with tempfile.TemporaryDirectory(prefix="shids-") as place:
        own = f"{place}/shmocker"
        subprocess.run(["install", "-m755", binary, own], check=True)
        with open(f"{place}/Dockerfile", "w") as f: f.write(dockerfile())
        become = ["runuser", "-u", a.user, "--"] if a.user else []
        if a.user: subprocess.run(["chown", "-R", a.user, place], check=True)
        took, rows = builds(a, place, become, own) if a.builds else ({}, [(name, what) for name, what, _ in WORK])
        for _ in range(0 if a.builds else a.rounds):
            for ids in ("ranges", "single"):
                build = [own, "build", f"--ids={ids}", "--progress=plain", "--build-context", "base=debian://bookworm", "--build-arg", f"ROUND={time.time_ns()}", place]
                run = subprocess.run(become + ["env", f"SHMOCKER_STORE={place}/{ids}"] + build, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
                if run.returncode != 0: raise SystemExit(run.stderr)
                for name, ms in re.findall(r"took (\w+) (\d+)", run.stderr):
                    took[name, ids] = min(int(ms), took.get((name, ids), 1 << 60))
        for ids in ("ranges", "single"): subprocess.run(become + [own, "--store", f"{place}/{ids}", "store", "delete"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("| | ranges | single | single / ranges |\n| --- | --- | --- | --- |")
    for name, what in rows:
        ranges, single = took[name, "ranges"], took[name, "single"]
        print(f"| {what} | {ranges / 1000:.2f} | {single / 1000:.2f} | {single / max(ranges, 1):.2f} |")


if __name__ == "__main__":
    main()
