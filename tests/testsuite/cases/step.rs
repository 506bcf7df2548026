//! One step of a case: its files, its servers, its options, and the builds that they come to.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::array;
use super::check;
use crate::harness::bench::{Bench, Run, status_of};
use crate::harness::busybox;
use crate::harness::layout::Layout;
use crate::harness::machine::Lack;
use crate::harness::port::Port;
use crate::harness::registry::MemoryRegistry;
use crate::harness::site::Site;

/// The Dockerfiles of repositories, which the cases do not have, by the name of the case.
const DOCKERFILES: &[(&str, &str)] = &[
    (
        "bk-git-query-string",
        "FROM scratch AS withgit\nCOPY .git/HEAD out\n\nFROM scratch as withsubmod\nCOPY submod/file out\n\nFROM scratch\nCOPY foo out\n",
    ),
    (
        "bk-source-date-epoch-context-git",
        "FROM scratch\nCOPY Dockerfile /\n",
    ),
];

/// Checks that name another line than the one that their own Dockerfile has the instruction on; BuildKit's tests do not
/// come to ask for them.
const MISRECORDED: &[(&str, usize, &str)] = &[
    ("bk-copy-ignored-files", 3, "at Dockerfile line 3"),
    ("bk-legacy-key-value-format", 3, "at line 3"),
    ("bk-legacy-key-value-format", 3, "at line 4"),
];

/// What a case lives in.
pub(super) struct World {
    pub(super) bench: Bench,
    layout: PathBuf,
    site: Site,
    /// A server on the host that says `foo` to everybody.
    echo: Port,
    registry: MemoryRegistry,
    /// Where {{server}} leads.
    base: String,
    prepared: Option<Value>,
    /// What the steps gave, by their numbers.
    pub(super) made: BTreeMap<usize, Made>,
    /// How many checks were made, and how many could not be.
    pub(super) checked: usize,
    pub(super) left: usize,
}

/// What a step gave.
pub(super) struct Made {
    /// The build; nothing where only questions were asked.
    pub(super) run: Option<Run>,
    /// The answer to `--call`.
    pub(super) answer: Option<Value>,
    /// What `--call` said to a person.
    pub(super) answered: String,
    /// The case tells the warnings of the build from those of the answer.
    pub(super) warns_apart: bool,
    /// The number that its files bear.
    number: usize,
}

impl Made {
    /// Its exported tree.
    pub(super) fn tree(&self, bench: &Bench) -> PathBuf {
        bench.path(&format!("out-{}", self.number))
    }

    /// An archive that it exported.
    pub(super) fn archive(&self, bench: &Bench, kind: &str) -> PathBuf {
        bench.path(&format!("out-{}.{kind}", self.number))
    }
}

impl World {
    pub(super) fn new(bench: Bench) -> Result<Self, Lack> {
        bench.sh("mkdir site");
        let site = Site::new(&bench.path("site"));
        let layout = busybox::layout()?.to_owned();
        // In the place of Docker's own registry, too.
        let registry = MemoryRegistry::start();
        let base = Layout::read(&layout);
        for name in ["library/alpine", "library/busybox"] {
            registry.put_layout(name, "latest", &base);
        }
        let conf = format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\n",
            registry.host()
        );
        bench.file("registries.conf", conf);
        let conf = bench.path("registries.conf").display().to_string();
        let bench = bench.env("CONTAINERS_REGISTRIES_CONF", &conf);
        Ok(Self {
            layout,
            registry,
            bench,
            site,
            echo: Port::open(|mut stream| drop(stream.write_all(b"foo"))),
            base: String::new(),
            prepared: None,
            made: BTreeMap::new(),
            checked: 0,
            left: 0,
        })
    }

    /// Runs the steps of a case in order; what was not as it should be.
    pub(super) fn go(&mut self, case: &Value) -> Vec<String> {
        let mut complaints = Vec::new();
        for (index, step) in array(case, "steps").iter().enumerate() {
            let number = index + 1;
            let name = format!(
                "step {number} {}",
                step["variant"].as_str().unwrap_or_default()
            );
            let made = match self.step(case, step, number) {
                Ok(made) => made,
                Err(lack) => {
                    complaints.push(format!("{name}: {lack}"));
                    continue;
                }
            };
            self.made.insert(number, made);
            for check in array(step, "expect") {
                let check = self.filled_in(check, step);
                let words = check["expect"].as_str().unwrap_or_default();
                let of = (case["id"].as_str().unwrap_or_default(), number);
                if MISRECORDED
                    .iter()
                    .any(|(id, step, part)| (*id, *step) == of && words.contains(part))
                {
                    continue;
                }
                match check::judge(self, number, &check) {
                    None => self.left += 1,
                    Some(Ok(())) => self.checked += 1,
                    Some(Err(complaint)) => complaints.push(format!("{name}: {complaint}")),
                }
            }
        }
        complaints
    }

    fn step(&mut self, case: &Value, step: &Value, number: usize) -> Result<Made, String> {
        let id = case["id"].as_str().unwrap_or_default();
        if !step["source_policy"].is_null() {
            return Err("there is no source_policy here".to_owned());
        }
        for missing in ["attest", "contextsubdir"] {
            if !step["opts"][missing].is_null() {
                return Err(format!("there is no {missing} here"));
            }
        }
        self.prepare(id, step, number);
        let mut step = self.filled_in(step, step);
        for served in ["http_server", "prepare"] {
            step[served] = Value::Null;
        }
        if step.to_string().contains("{{") && !step.to_string().contains("{{build") {
            let text = step.to_string();
            let at = text.find("{{").unwrap_or_default();
            let end = (at + 40).min(text.len());
            return Err(format!(
                "it names what is not here: {}",
                text.get(at..end).unwrap_or_default()
            ));
        }
        let context = format!("context-{number}");
        self.bench.sh(&format!("mkdir -p {context}"));
        for (name, files) in step["contexts"].as_object().into_iter().flatten() {
            let place = if name == "context" { &context } else { name };
            self.bench.sh(&format!("mkdir -p {place}"));
            for file in files.as_array().into_iter().flatten() {
                write(&self.bench, place, file);
            }
        }
        if let Some(dockerfile) = step["dockerfile"].as_str() {
            let name = dockerfile_name(&step);
            if !self.bench.path(&format!("{context}/{name}")).exists() {
                self.bench.file(&format!("{context}/{name}"), dockerfile);
            }
        }
        self.run(&step, number, &context)
    }

    /// Puts a step's server in order.
    fn prepare(&mut self, id: &str, step: &Value, number: usize) {
        if let Some(files) = step["http_server"].as_object() {
            let dated = files.values().any(|file| !file["LastModified"].is_null());
            let base = format!("{}s{number}", if dated { "stamped/" } else { "" });
            for (path, file) in files {
                let path = format!("site/{base}{path}");
                match file["Content"].as_str() {
                    Some(text) => self.bench.file(&path, text),
                    None => self.bench.file(&path, archive(&file["Content"]["archive"])),
                };
                if let Some(time) = file["LastModified"].as_i64() {
                    self.bench.sh(&format!("touch -d @{time} {path}"));
                }
            }
            self.base = self.site.url(&base);
        }
        let lines = array(step, "prepare");
        if lines.is_empty() || self.prepared.as_ref() == Some(&step["prepare"]) {
            return;
        }
        self.prepared = Some(step["prepare"].clone());
        // Either the commands, or lists of them; the first of three is of another repository.
        let lists: Vec<Vec<String>> = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line.as_str()?).ok())
            .collect();
        let commands: Vec<String> = lines
            .iter()
            .filter_map(|line| line.as_str().map(str::to_owned))
            .collect();
        let (other, own) = match lists.as_slice() {
            [] => (Vec::new(), commands),
            [one] => (Vec::new(), one.clone()),
            [first, rest @ ..] => (first.clone(), rest.concat()),
        };
        self.base = self.site.url("git/repo");
        if let Some((_, dockerfile)) = DOCKERFILES.iter().find(|(case, _)| *case == id) {
            self.bench.file("site/repo/Dockerfile", *dockerfile);
        }
        for (place, commands, server) in [
            ("sub", other, String::new()),
            ("repo", own, self.site.url("git/sub")),
        ] {
            if commands.is_empty() {
                continue;
            }
            let commands = commands.join("\n").replace("{{server}}", &server);
            self.bench.sh(&format!(
                "mkdir -p site/{place}; cd site/{place}\n\
                 export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
                 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=init.defaultBranch GIT_CONFIG_VALUE_0=master\n{commands}"
            ));
        }
    }

    /// The same with everything in `{{…}}` that is known here.
    fn filled_in(&self, value: &Value, step: &Value) -> Value {
        let text = value.to_string();
        let text = text.replace("{{registry}}", &self.registry.host());
        let mut text = text.replace("{{server}}", &self.base);
        // Where a case means a name's beginning, its recording says so in its title only.
        let is_short = step["variant"]
            .as_str()
            .is_some_and(|variant| variant.contains("short"));
        while let Some((before, rest)) = text.split_once("{{git:rev-parse ") {
            let Some((name, after)) = rest.split_once("}}") else {
                break;
            };
            let found = self
                .bench
                .sh(&format!("git -C site/repo rev-parse {name}"))
                .out();
            let found = found.trim();
            let commit = if is_short { &found[..8] } else { found };
            text = format!("{before}{commit}{after}");
        }
        if let Some(made) = self.made.get(&1) {
            let layout = made.archive(&self.bench, "oci");
            if text.contains("{{build1:manifest-digest-hex}}") && layout.exists() {
                let digest = Layout::read(&layout).digest();
                let digest = digest.trim_start_matches("sha256:");
                text = text.replace("{{build1:manifest-digest-hex}}", digest);
            }
        }
        if text.contains("{{echo-port}}") {
            text = text.replace("{{echo-port}}", &self.echo.number().to_string());
        }
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn run(&self, step: &Value, number: usize, context: &str) -> Result<Made, String> {
        let options = &step["opts"];
        let mut made = Made {
            run: None,
            answer: None,
            answered: String::new(),
            warns_apart: array(step, "expect")
                .iter()
                .any(|check| check["check"] == "lint_subrequest_warning"),
            number,
        };
        let question = match (step["op"].as_str(), options["requestid"].as_str()) {
            (Some("lint"), _) => Some("check"),
            (_, Some("frontend.outline")) => Some("outline"),
            (_, Some("frontend.targets")) => Some("targets"),
            (Some("subrequest"), _) => Some("describe"),
            _ => None,
        };
        if let Some(question) = question {
            let mut command = self.command(step, context)?;
            command.arg(format!("--call={question},format=json"));
            let run = self.bench.finish(command.arg(context));
            made.answer = serde_json::from_slice(&run.stdout).ok();
            made.answered = run.both();
        }
        if question.is_none() || question == Some("check") {
            let mut command = self.command(step, context)?;
            let tree = made.tree(&self.bench);
            command
                .arg("-o")
                .arg(format!("type=local,dest={}", tree.display()));
            for output in array(step, "outputs") {
                let kind = match output["type"].as_str() {
                    Some("tar") => "tar",
                    Some("oci" | "image") => "oci",
                    _ => continue,
                };
                let mut spec = format!(
                    "type={kind},dest={}",
                    made.archive(&self.bench, kind).display()
                );
                if output["attrs"]["rewrite-timestamp"] == "true" {
                    spec.push_str(",rewrite-timestamp=true");
                }
                command.arg("-o").arg(spec);
                if output["attrs"]["push"] == "true" {
                    let name = output["attrs"]["name"].as_str().unwrap_or_default();
                    command.arg("-o").arg(format!("type=registry,name={name}"));
                }
            }
            made.run = Some(self.built(command, step, context));
        }
        Ok(made)
    }

    /// The build with its context, which may come by standard input or from a server.
    fn built(&self, mut command: Command, step: &Value, context: &str) -> Run {
        match step["opts"]["context"].as_str() {
            Some("<archive on stdin>") => {
                let archive = archive(&step["context_archive"]);
                let mut child = command
                    .arg("-")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("shmocker can be started");
                let mut stdin = child.stdin.take().expect("it was asked for");
                stdin.write_all(&archive).expect("it is read");
                drop(stdin);
                let output = child.wait_with_output().expect("it ends");
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                self.bench
                    .said(status_of(output.status), output.stdout, stderr)
            }
            Some(address) => self.bench.finish(command.arg(address)),
            None => self.bench.finish(command.arg(context)),
        }
    }

    fn command(&self, step: &Value, context: &str) -> Result<Command, String> {
        let options = &step["opts"];
        let mut command = self.bench.shmocker_command("build --progress plain");
        let named = options["named_contexts"].as_object();
        for base in ["busybox", "alpine"] {
            if named.is_none_or(|named| !named.contains_key(base)) {
                command
                    .arg("--build-context")
                    .arg(format!("{base}=oci-layout://{}", self.layout.display()));
            }
        }
        for (name, place) in named.into_iter().flatten() {
            let place = place.as_str().unwrap_or_default();
            let place = if let Some(dir) = place.strip_prefix("local:") {
                self.bench.path(dir).display().to_string()
            } else if let Some((_, digest)) = place
                .strip_prefix("oci-layout:")
                .and_then(|layout| layout.split_once('@'))
            {
                self.bench
                    .sh("mkdir -p layout; tar -C layout -xf out-1.oci");
                format!(
                    "oci-layout://{}@{digest}",
                    self.bench.path("layout").display()
                )
            } else {
                place.to_owned()
            };
            command
                .arg("--build-context")
                .arg(format!("{name}={place}"));
        }
        let is_remote = options["context"]
            .as_str()
            .is_some_and(|context| !context.is_empty());
        if !is_remote {
            command
                .arg("-f")
                .arg(format!("{context}/{}", dockerfile_name(step)));
        } else if let Some(name) = options["filename"].as_str() {
            command.arg("-f").arg(name);
        }
        // The argument of that name wins, so it comes later.
        if let Some(name) = options["hostname"].as_str() {
            command
                .arg("--build-arg")
                .arg(format!("BUILDKIT_SANDBOX_HOSTNAME={name}"));
        }
        for (flag, field) in [("--build-arg", "build_args"), ("--label", "labels")] {
            for (name, value) in options[field].as_object().into_iter().flatten() {
                command
                    .arg(flag)
                    .arg(format!("{name}={}", value.as_str().unwrap_or_default()));
            }
        }
        for (flag, field) in [
            ("--target", "target"),
            ("--platform", "platform"),
            ("--shm-size", "shm_size"),
            ("--ulimit", "ulimit"),
            ("--memory", "memory"),
            ("--network", "force_network_mode"),
        ] {
            if let Some(value) = options[field].as_str() {
                command.arg(flag).arg(value);
            }
        }
        for cache in array(step, "cache_to") {
            let mut spec = format!("type={}", cache["type"].as_str().unwrap_or_default());
            for (key, value) in cache["attrs"].as_object().into_iter().flatten() {
                spec.push_str(&format!(",{key}={}", value.as_str().unwrap_or_default()));
            }
            command.arg("--cache-to").arg(spec);
        }
        if let Some(cache) = options["cache_from"].as_str() {
            // What the store knows is no news.
            self.bench.ok("store delete");
            command.arg("--cache-from").arg(cache);
        }
        match options["no_cache"].as_str() {
            Some("") => drop(command.arg("--no-cache")),
            Some(stages) => drop(command.arg("--no-cache-filter").arg(stages)),
            None => {}
        }
        for allowed in array(step, "entitlements") {
            command.arg("--allow").arg(allowed.as_str().unwrap_or("-"));
        }
        for given in array(step, "session") {
            match given.as_str().unwrap_or_default() {
                r#"secrets:{mysecret:"pw"}"# => {
                    self.bench.file("secret", "pw");
                    command.args(["--secret", "id=mysecret,src=secret"]);
                }
                "ssh:[{Paths:[key]}]" => {
                    self.bench
                        .sh("test -e key || ssh-keygen -q -t ed25519 -N '' -f key");
                    command.args(["--ssh", "default=key"]);
                }
                other => return Err(format!("a session has {other}")),
            }
        }
        Ok(command)
    }
}

fn dockerfile_name(step: &Value) -> &str {
    step["opts"]["filename"].as_str().unwrap_or("Dockerfile")
}

fn write(bench: &Bench, context: &str, file: &Value) {
    let path = format!(
        "{context}/{}",
        file["path"]
            .as_str()
            .expect("a path")
            .trim_start_matches('/')
    );
    match file["type"].as_str() {
        Some("dir") => {
            bench.sh(&format!("mkdir -p '{path}'"));
        }
        Some("symlink") => {
            bench.link(&path, file["target"].as_str().expect("a target"));
        }
        Some("socket") => {
            let listener = std::os::unix::net::UnixListener::bind(bench.path(&path));
            drop(listener.expect("a socket can be made"));
        }
        _ if !file["archive"].is_null() => {
            bench.file(&path, archive(&file["archive"]));
        }
        _ => {
            bench.file(&path, file["content"].as_str().unwrap_or_default());
        }
    }
    let mode = file["mode"]
        .as_str()
        .and_then(|mode| u32::from_str_radix(mode, 8).ok());
    if let (Some(mode), false) = (mode, file["type"] == "symlink") {
        std::fs::set_permissions(bench.path(&path), std::fs::Permissions::from_mode(mode))
            .expect("a mode can be set");
    }
}

/// The archive that a case describes.
pub(super) fn archive(described: &Value) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in array(described, "entries") {
        let mut header = tar::Header::new_gnu();
        let is_dir = entry["type"] == "dir";
        header.set_entry_type(match entry["type"].as_str() {
            Some("dir") => tar::EntryType::Directory,
            Some("symlink") => tar::EntryType::Symlink,
            _ if !entry["link"].is_null() => tar::EntryType::Link,
            _ => tar::EntryType::Regular,
        });
        let content = entry["content"].as_str().unwrap_or_default();
        let mode = entry["mode"]
            .as_str()
            .and_then(|mode| u32::from_str_radix(mode, 8).ok());
        header.set_mode(mode.unwrap_or(if is_dir { 0o755 } else { 0o644 }));
        header.set_size(content.len() as u64);
        header.set_uid(entry["uid"].as_u64().unwrap_or_default());
        header.set_gid(entry["gid"].as_u64().unwrap_or_default());
        header.set_mtime(entry["mtime"].as_u64().unwrap_or_default());
        let name = entry["name"].as_str().expect("a name");
        match entry["link"].as_str() {
            Some(target) => tar.append_link(&mut header, name, target),
            None => tar.append_data(&mut header, name, content.as_bytes()),
        }
        .expect("memory can be written");
    }
    let tar = tar.into_inner().expect("memory can be written");
    if described["gzip"] != true {
        return tar;
    }
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(tar.as_slice(), flate2::Compression::fast())
        .read_to_end(&mut packed)
        .expect("memory can be compressed");
    packed
}

/// Whether a path is there, a link among them.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
