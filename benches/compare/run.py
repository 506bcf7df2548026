#!/usr/bin/env python3
"""Builder benchmark. Prints medians per workload phase, one column per builder, and ratios to the first builder.

  run.py --builders buildkit,buildah --workloads w1,w234,w5 --rounds 3
  BUILDKITD=/path/buildkitd BUILDCTL=/path/buildctl SHMOCKER=/path/shmocker   name the binaries under test;
                                              SHMOCKER is the project's target/release/shmocker where it is not named.

Needs Debian packages: buildah runc rootlesskit uidmap skopeo docker-registry busybox-static mmdebstrap python3.
Run as root with --user NAME (the builders then run as NAME; CPU is counted in a cgroup when /sys/fs/cgroup allows),
or directly as a non-root user with subordinate ids.
"""
import argparse, json, os, pwd, shlex, shutil, signal, statistics, subprocess, sys, threading, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))

# ---------------------------------------------------------------- the builders: one entry per column
# {ctx} context folder, {out} output archive, {tag} local name, {ref} registry reference, {home} builder's own folder
BUILDERS = {
    "buildkit": {
        "daemon": "rootlesskit --net=host --copy-up=/etc --copy-up=/run --state-dir={home}/rk {BUILDKITD} --rootless "
                  "--config {home}/buildkitd.toml --root {home}/root --addr unix://{home}/bk.sock",
        "files": {"buildkitd.toml": '[registry."{registry}"]\n  http = true\n  insecure = true\n[worker.oci]\n  gc = false\n'},
        "ready": "{BUILDCTL} --addr unix://{home}/bk.sock debug workers",
        "prune": "{BUILDCTL} --addr unix://{home}/bk.sock prune --all",
        "build": "{BUILDCTL} --addr unix://{home}/bk.sock build --progress=plain --frontend dockerfile.v0 "
                 "--local context={ctx} --local dockerfile={ctx} {flags}",
        "nocache": "--no-cache",
        "none": "", "oci": "--output type=oci,dest={out}",
        "gzip": "--output type=oci,dest={out},compression=gzip,force-compression=true",
        "zstd": "--output type=oci,dest={out},compression=zstd,force-compression=true",
        "push": "--output type=image,name={ref},push=true,registry.insecure=true",
    },
    "buildah": {
        "prune": "buildah rm -a >/dev/null; buildah rmi -a -f",
        "build": "buildah bud --layers --isolation=oci --runtime runc --network=host --jobs=0 -t {tag} {flags} {ctx} {export}",
        "nocache": "--no-cache",
        "none": "", "oci": "&& buildah push -q {tag} oci-archive:{out}",
        "gzip": "&& buildah push -q --compression-format gzip {tag} oci-archive:{out}",
        "zstd": "&& buildah push -q --compression-format zstd {tag} oci-archive:{out}",
        "push": "&& buildah push -q --tls-verify=false {tag} docker://{ref}",
    },
    "shmocker": {   # no daemon
        "prune": "{SHMOCKER} --store {home}/store store delete",
        "build": "{SHMOCKER} --store {home}/store build --progress plain {flags} {ctx}",
        "nocache": "--no-cache",
        "none": "-t {tag}", "oci": "-t {tag} -o type=oci,dest={out}",
        "gzip": "-t {tag} -o type=oci,dest={out},compression=gzip", "zstd": "-t {tag} -o type=oci,dest={out},compression=zstd",
        "push": "-o type=registry,name={ref},registry.insecure=true",
    },
}
BUILDERS["buildah-chroot"] = dict(BUILDERS["buildah"], build=BUILDERS["buildah"]["build"].replace(
    "--isolation=oci --runtime runc --network=host", "--isolation=chroot"))
# rootful columns, for comparison only (run.py must be root)
BUILDERS["buildkit-root"] = dict(BUILDERS["buildkit"], user="root",
    daemon="{BUILDKITD} --oci-worker-net=host --config {home}/buildkitd.toml --root {home}/root --addr unix://{home}/bk.sock")
BUILDERS["buildah-root"] = dict(BUILDERS["buildah"], user="root", build=BUILDERS["buildah"]["build"].replace("buildah ", "buildah --root {home}/st --runroot {home}/run/st "),
    prune="buildah --root {home}/st --runroot {home}/run/st rmi -a -f")

# ---------------------------------------------------------------- the workloads: (phase, before, no-cache, export)
# phases of one workload run in this order, on the cache the one before left
WORKLOADS = {
    "w1":   [("cold", "prune", 0, "none"), ("rerun, base cached", "", 1, "none"), ("warm", "", 0, "none"), ("warm+oci", "", 0, "oci"), ("warm+oci again", "", 0, "oci")],
    "w234": [("w3 cold", "prune", 0, "none"), ("w2 warm", "", 0, "none"), ("w4 f7 changed", "mutate f7.txt", 0, "none"), ("oci", "", 0, "oci"), ("push", "", 0, "push"), ("push to another repository", "", 0, "push")],
    "w5":   [("cold", "prune", 0, "none"), ("warm", "", 0, "none")],
    "w6":   [("cold", "prune", 0, "none"), ("warm", "", 0, "none"), ("one file changed", "mutate src/m10/p5/f10500.c", 0, "none"), ("oci", "", 0, "oci")],
    "w7":   [("run only", "prune", 0, "none"), ("gzip export", "", 0, "gzip"), ("gzip again", "", 0, "gzip"), ("zstd export", "", 0, "zstd")],
    "w8":   [("cold (pull+unpack)", "prune", 0, "none"), ("rerun, base cached", "", 1, "none"), ("warm", "", 0, "none"), ("oci", "", 0, "oci"), ("push", "", 0, "push"), ("push to another repository", "", 0, "push")],
    "w9":   [("cold", "prune", 0, "none"), ("warm", "", 0, "none"), ("oci", "", 0, "oci")],
}

NOISY = 0.30   # a run during which other processes used more than this share of the machine counts only if too few others exist
HZ, NCPU, PAGE = os.sysconf("SC_CLK_TCK"), os.cpu_count(), os.sysconf("SC_PAGE_SIZE")

class Box:
    """One builder under test: its folder, its environment, its cgroup or process tree, its daemon if it has one."""
    def __init__(self, name, a):
        self.name, self.t, self.a, self.daemon = name, BUILDERS[name], a, None
        self.home = os.path.join(a.work, "b-" + name)
        os.makedirs(self.home + "/home/.config/containers", exist_ok=True)
        for d in ("run", "tmp", "out"): os.makedirs(f"{self.home}/{d}", exist_ok=True)
        self.put("home/.config/containers/registries.conf", f'[[registry]]\nlocation = "{a.registry}"\ninsecure = true\n')
        self.put("home/.config/containers/storage.conf", '[storage]\ndriver = "overlay"\n')
        self.put("home/.config/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}\n')
        self.vars = dict(home=self.home, work=a.work, registry=a.registry, **{k: self.binary(k) for k in ("BUILDKITD", "BUILDCTL", "SHMOCKER")})
        for f, body in self.t.get("files", {}).items(): self.put(f, body.replace("{registry}", a.registry))
        self.cg = None
        if os.geteuid() == 0:
            u = pwd.getpwnam(self.t.get("user", a.user))
            for root, ds, fs in os.walk(self.home):
                if "/root/" in root + "/" or "/.local/" in root + "/" or "/storage" in root: continue
                os.chown(root, u.pw_uid, u.pw_gid)
            self.wrap = ["setpriv", f"--reuid={u.pw_uid}", f"--regid={u.pw_gid}", "--clear-groups"]
            for top in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
                p = f"{top}/shbench/{name}"
                try:
                    os.makedirs(p, exist_ok=True)
                    if os.path.exists(p + "/cpu.stat") and os.path.exists(p + "/cgroup.procs"): self.cg = p; break
                except OSError: pass
        else: self.wrap = []
        self.env = dict(HOME=self.home + "/home", XDG_RUNTIME_DIR=self.home + "/run", TMPDIR=self.home + "/tmp", LANG="C.UTF-8",
                        PATH="/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", USER=self.t.get('user', a.user), LOGNAME=self.t.get('user', a.user))
        os.chmod(self.home + "/run", 0o700)
        if "daemon" in self.t:
            log = open(self.home + ".log", "ab")
            self.daemon = self.popen(self.fmt(self.t["daemon"]), log)
            for _ in range(100):
                if self.popen(self.fmt(self.t["ready"]), subprocess.DEVNULL).wait() == 0: break
                time.sleep(0.1)
            else: raise SystemExit(f"{name}: daemon did not come up, see {self.home}.log")
    def binary(self, k):
        """the binary under test, copied to where the builder's user can read it"""
        named = os.environ.get(k) or (os.path.join(HERE, "../../target/release/shmocker") if k == "SHMOCKER" else "")
        if not os.path.exists(named): return k.lower()
        os.makedirs(f"{self.home}/bin", exist_ok=True)
        return shutil.copy(named, f"{self.home}/bin/{k.lower()}")
    def put(self, f, body):
        with open(f"{self.home}/{f}", "w") as h: h.write(body)
    def fmt(self, s, **kw):
        for k, v in {**self.vars, **kw}.items(): s = s.replace("{" + k + "}", v)
        return s
    def popen(self, cmd, out):
        def pre():
            if self.cg:
                with open(self.cg + "/cgroup.procs", "w") as f: f.write("0")
        return subprocess.Popen(self.wrap + ["sh", "-c", cmd], env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                cwd=self.home, preexec_fn=pre, start_new_session=True)
    def pids(self, client):
        if self.cg:
            out = []
            for root, _, _ in os.walk(self.cg):
                try: out += [int(x) for x in open(root + "/cgroup.procs").read().split()]
                except OSError: pass
            return out
        kids = {}
        for p in os.listdir("/proc"):
            if p.isdigit():
                try: kids.setdefault(int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1]), []).append(int(p))
                except OSError: pass
        out, todo = [], [client] + ([self.daemon.pid] if self.daemon else [])
        while todo: x = todo.pop(); out.append(x); todo += kids.get(x, [])
        return out
    def cpu(self, client):
        """(user, sys) seconds so far, client and daemon together"""
        if self.cg:
            d = dict(l.split() for l in open(self.cg + "/cpu.stat"))
            return int(d["user_usec"]) / 1e6, int(d["system_usec"]) / 1e6
        u = s = 0.0
        for p in (self.pids(client) if self.daemon else []):
            try: f = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split(); u += (int(f[11]) + int(f[13])) / HZ; s += (int(f[12]) + int(f[14])) / HZ
            except OSError: pass
        return u, s
    def rss(self, client):
        n = 0
        for p in self.pids(client):
            try: n += int(open(f"/proc/{p}/statm").read().split()[1]) * PAGE
            except (OSError, IndexError): pass
        return n
    def measure(self, cmd, timeout):
        log = open(self.home + "/last.log", "wb")
        peak, stop = [0], threading.Event()
        u0, s0 = self.cpu(-1); b0 = busy() - serving(); t0 = time.monotonic()
        p = self.popen(cmd, log)
        def sample():
            while not stop.is_set(): peak[0] = max(peak[0], self.rss(p.pid)); stop.wait(0.03)
        th = threading.Thread(target=sample); th.start()
        killer = threading.Timer(timeout, lambda: os.killpg(p.pid, signal.SIGKILL)); killer.start()
        _, st, ru = os.wait4(p.pid, 0); t1 = time.monotonic(); p.returncode = os.waitstatus_to_exitcode(st)
        killer.cancel(); stop.set(); th.join(); b1 = busy() - serving(); u1, s1 = self.cpu(-1)
        u, s = u1 - u0, s1 - s0
        if not self.cg: u, s = u + ru.ru_utime, s + ru.ru_stime
        wall = t1 - t0
        return dict(rc=p.returncode, wall=wall, user=u, sys=s, peak_mib=max(peak[0] / 2**20, ru.ru_maxrss / 1024),
                    foreign=max(0.0, (b1 - b0 - u - s)) / (wall * NCPU))
    def close(self):
        if self.daemon:
            # the shell was replaced by, or is the parent of, the daemon started here: end that one process group
            os.killpg(self.daemon.pid, signal.SIGTERM)
            try: self.daemon.wait(20)
            except subprocess.TimeoutExpired: os.killpg(self.daemon.pid, signal.SIGKILL); self.daemon.wait()

def busy():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return (sum(f) - f[3] - f[4]) / HZ

def serving():
    """seconds that the registry has worked: the faster a client, the larger its share, which is no disturbance"""
    ticks = 0
    for p in filter(str.isdigit, os.listdir("/proc")):
        try: name, f = open(f"/proc/{p}/stat").read().split("(", 1)[1].rsplit(")", 1)
        except OSError: continue
        if name == "docker-registry": f = f.split(); ticks += int(f[11]) + int(f[12])
    return ticks / HZ

def quiet(limit):
    """wait until the machine is (nearly) idle, at most `limit` seconds"""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        b, t = busy(), time.monotonic(); time.sleep(0.15)
        if (busy() - b) / ((time.monotonic() - t) * NCPU) < 0.12: return

def registry_up(r):
    try: urllib.request.urlopen(f"http://{r}/v2/", timeout=2).read(); return True
    except Exception: return False

def setup(a):
    """base images and the registry they live in; contexts"""
    os.makedirs(a.work, exist_ok=True)
    proc = None
    if not registry_up(a.registry):
        cfg = f"{a.work}/registry.yml"
        with open(cfg, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {a.work}/registry}}, delete: {{enabled: true}}}}\nhttp: {{addr: '{a.registry}'}}\n")
        proc = subprocess.Popen(["docker-registry", "serve", cfg], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for _ in range(50):
            if registry_up(a.registry): break
            time.sleep(0.1)
    for name, tag in (("busybox", "latest"), ("debian", "bookworm")):
        if subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{a.registry}/{name}:{tag}"], capture_output=True).returncode == 0: continue
        tar = f"{a.work}/{name}.tar"
        if not os.path.exists(tar):
            if name == "debian":
                subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", tar, "http://deb.debian.org/debian"], check=True)
            else:
                d = f"{a.work}/bb"
                for s in ("bin", "sbin", "etc", "tmp", "root", "usr/bin", "usr/sbin"): os.makedirs(f"{d}/{s}", exist_ok=True)
                shutil.copy("/bin/busybox", f"{d}/bin/busybox")
                for app in subprocess.run([f"{d}/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
                    if app != "busybox" and not os.path.lexists(f"{d}/bin/{app}"): os.symlink("busybox", f"{d}/bin/{app}")
                with open(f"{d}/etc/passwd", "w") as f: f.write("root:x:0:0:root:/root:/bin/sh\n")
                with open(f"{d}/etc/group", "w") as f: f.write("root:x:0:\n")
                subprocess.run(["tar", "--sort=name", "--mtime=@1700000000", "--numeric-owner", "--owner=0", "--group=0", "-C", d, "-cf", tar, "."], check=True)
        subprocess.run([sys.executable, f"{HERE}/mkbase.py", tar, f"{a.work}/oci-{name}", tag], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{a.work}/oci-{name}:{tag}", f"docker://{a.registry}/{name}:{tag}"], check=True)
    ctx = f"{a.work}/ctx"
    if not os.path.exists(f"{ctx}/w9/Dockerfile"): subprocess.run([sys.executable, f"{HERE}/gen.py", ctx, a.registry], check=True)
    return proc

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--builders", default="buildkit,buildah"); ap.add_argument("--workloads", default=",".join(WORKLOADS))
    ap.add_argument("--rounds", type=int, default=3); ap.add_argument("--user", default="dev")
    ap.add_argument("--work", default="/tmp/shbench"); ap.add_argument("--registry", default="127.0.0.1:5000")
    ap.add_argument("--json", default=""); ap.add_argument("--md", default=""); ap.add_argument("--quiet-wait", type=float, default=4)
    ap.add_argument("--retries", type=int, default=1)
    ap.add_argument("--timeout", type=float, default=300); ap.add_argument("--budget", type=float, default=1e9, help="stop starting new rounds after this many seconds")
    a = ap.parse_args()
    end = time.monotonic() + a.budget
    reg = setup(a); os.chmod(a.work, 0o755)
    rows, boxes, call = [], [], time.time_ns()
    if a.json and os.path.exists(a.json): rows = json.load(open(a.json))
    try:
        boxes = [Box(b, a) for b in a.builders.split(",")]
        for w in a.workloads.split(","):
            ctx = f"{a.work}/ctx/" + w
            for rnd in range(a.rounds):
                for bx in [b for b in boxes for _ in range(1 + a.retries)]:
                    # a sequence disturbed by other load on the machine is run again (at most --retries times)
                    last = [r for r in rows if r["builder"] == bx.name and r["workload"] == w and r["round"] == rnd and r.get("call") == call]
                    if time.monotonic() > end or (last and max(r["foreign"] for r in last[-len(WORKLOADS[w]):]) <= NOISY): continue
                    saved = None
                    for phase, before, nocache, exp in WORKLOADS[w]:
                        if exp not in bx.t: continue
                        if before == "prune":
                            bx.popen(bx.fmt(bx.t["prune"]), subprocess.DEVNULL).wait()
                        elif before:
                            f = f"{ctx}/{before.split()[1]}"; saved = (f, open(f, "rb").read(), os.stat(f))
                            with open(f, "ab") as h: h.write(b"changed %d\n" % time.time_ns())
                        out = f"{bx.home}/out/{w}.tar"
                        if os.path.exists(out): os.remove(out)
                        v = dict(ctx=ctx, out=out, tag=f"bench-{w}", ref=f"{a.registry}/bench/{bx.name}-{w}-{time.time_ns()}:t")
                        ex = bx.t[exp]; flags = bx.t["nocache"] if nocache else ""
                        cmd = bx.t["build"].replace("{flags}", flags)
                        cmd = cmd.replace("{export}", ex) if "{export}" in cmd else cmd + " " + ex
                        os.sync(); quiet(a.quiet_wait)
                        r = bx.measure(bx.fmt(cmd, **v), a.timeout)
                        r.update(builder=bx.name, workload=w, phase=phase, round=rnd, call=call, out_bytes=os.path.getsize(out) if os.path.exists(out) else 0)
                        rows.append(r)
                        print(f"{bx.name:15} {w:5} {phase:20} {r['wall']:7.2f}s user {r['user']:6.2f} sys {r['sys']:6.2f} peak {r['peak_mib']:6.0f}M foreign {r['foreign']*100:3.0f}%" + (f" FAILED rc={r['rc']}" if r["rc"] else ""), file=sys.stderr, flush=True)
                        if r["rc"]:
                            shutil.copy(bx.home + "/last.log", f"{a.work}/fail-{bx.name}-{w}-{phase.split()[0]}.log")
                        if a.json: json.dump(rows, open(a.json, "w"), indent=0)
                    if saved:
                        with open(saved[0], "wb") as h: h.write(saved[1])
                        os.utime(saved[0], ns=(saved[2].st_atime_ns, saved[2].st_mtime_ns))
    finally:
        for bx in boxes: bx.close()
        if reg: os.killpg(reg.pid, signal.SIGTERM); reg.wait()
    md = table(rows) + f"\n\n`*` other load used over {NOISY:.0%} of the machine during one of the runs counted."; print(md)
    if a.md: open(a.md, "w").write(md + "\n")

def table(rows):
    names = []; cells = {}
    for r in rows:
        if r["builder"] not in names: names.append(r["builder"])
        cells.setdefault((r["workload"], r["phase"]), {}).setdefault(r["builder"], []).append(r)
    head = ["workload", "phase"] + [f"{n}: wall s / cpu s / peak MiB" for n in names] + [f"{n} / {names[0]} (wall)" for n in names[1:]]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for w, phases in WORKLOADS.items():
        for ph in phases:
            c = cells.get((w, ph[0]))
            if not c: continue
            line, med = [w, ph[0]], {}
            for n in names:
                ok = [r for r in c.get(n, []) if r["rc"] == 0]
                if not ok: line.append("failed" if c.get(n) else "-"); continue
                ok.sort(key=lambda r: r["foreign"]); clean = [r for r in ok if r["foreign"] <= NOISY]
                ok = clean if len(clean) >= 3 else ok[:max(3, len(clean))]
                star = "*" if any(r["foreign"] > NOISY for r in ok) else ""
                m = lambda k: statistics.median(k(r) for r in ok)
                med[n] = m(lambda r: r["wall"])
                line.append(f"{med[n]:.2f} / {m(lambda r: r['user'] + r['sys']):.2f} / {m(lambda r: r['peak_mib']):.0f} (n={len(ok)}{star})")
            line += [f"{med[n] / med[names[0]]:.2f}" if n in med and names[0] in med else "-" for n in names[1:]]
            out.append("| " + " | ".join(line) + " |")
    return "\n".join(out)

if __name__ == "__main__": main()
