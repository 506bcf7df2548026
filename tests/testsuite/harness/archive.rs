//! A small Debian archive that the test makes, signs and serves itself. Its dpkg and its apt are busybox and a few lines of
//! shell: enough to make a base and to say what a package needs. It can move on, and forget what it had, as mirrors do.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::ser::Serialize as _;
use pgp::types::Password;
use sha2::{Digest as _, Sha256};

use super::bench::Bench;
use super::busybox;
use super::machine::Lack;
use super::port::Port;

/// What the archive calls itself: its one suite.
pub(crate) const SUITE: &str = "small";

/// As much of apt as is needed: `--print-uris install NAME…`, and `install NAME…` of what lies ready.
const APT_GET: &str = r#"#!/bin/sh -e
lists= archives= task=install names=
while [ $# -gt 0 ]; do
  case $1 in
    -o) shift; case $1 in Dir::State::Lists=*) lists=${1#*=} ;; Dir::Cache::Archives=*) archives=${1#*=} ;; esac ;;
    --print-uris) task=uris ;;
    -* | install) ;;
    *) names="$names $1" ;;
  esac
  shift
done
wanted=$(awk -v names="$names" '
  /^Package: / { name = $2 }
  /^Filename: / { file[name] = $2 }
  /^Size: / { size[name] = $2 }
  /^Depends: / { depends[name] = substr($0, 10) }
  END {
    n = split(names, queue, " ")
    for (i = 1; i <= n; i++) {
      name = queue[i]
      if (name in seen) continue
      seen[name] = 1
      if (!(name in file)) { print "E: no " name > "/dev/stderr"; exit 100 }
      print file[name], size[name]
      m = split(depends[name], more, ", ")
      for (j = 1; j <= m; j++) queue[++n] = more[j]
    }
  }' "$lists"/*_Packages)
if [ "$task" = uris ]; then
  echo "$wanted" | while read -r file size; do echo "'http://archive.invalid/debian/$file' ${file##*/} $size SHA256:0"; done
  exit
fi
cat "$lists"/*_Packages > /seen-by-apt
echo "$wanted" | while read -r file _; do ar p "$archives/${file##*/}" data.tar | tar -x -C /; done
"#;

/// The archive, and a server for it that lives as long as the test process.
pub(crate) struct Archive {
    port: Port,
    key: SignedSecretKey,
    base: Vec<(String, String, Vec<u8>)>,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    files: HashMap<String, Vec<u8>>,
    asked: Vec<String>,
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Archive {
    /// An archive with a base and nothing else.
    pub(crate) fn new() -> Result<Self, Lack> {
        let (busybox, applets) = busybox::program()?;
        let mut files = vec![
            file("usr/bin/busybox", 0o755, &busybox),
            file("usr/bin/dpkg", 0o755, b"#!/bin/sh\n"),
            file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n"),
            file("etc/group", 0o644, b"root:x:0:\n"),
        ];
        let own = ["busybox", "dpkg", "dpkg-deb", "apt-get"];
        files.extend(
            applets
                .lines()
                .filter(|name| !own.contains(name))
                .map(|name| link(&format!("usr/bin/{name}"), "busybox")),
        );
        let dpkg = deb("dpkg", "1.0", "", files);
        let apt = deb(
            "apt",
            "1.0",
            "dpkg",
            vec![file("usr/bin/apt-get", 0o755, APT_GET.as_bytes())],
        );
        let held = Arc::new(Mutex::new(Held::default()));
        let served = Arc::clone(&held);
        let port = Port::open(move |stream| {
            answer(stream, &served);
        });
        let archive = Self {
            port,
            key: new_key(),
            base: vec![
                ("dpkg".to_owned(), "Essential: yes\n".to_owned(), dpkg),
                ("apt".to_owned(), "Depends: dpkg\n".to_owned(), apt),
            ],
            held,
        };
        archive.publish(1, &[]);
        Ok(archive)
    }

    /// What the archive has from now on, beside its base, as a Release file of that day in January 2024 has it: packages by
    /// name, version, what they need, and the content of `/usr/share/NAME`. What it had is gone.
    pub(crate) fn publish(&self, day: u32, packages: &[(&str, &str, &str, &str)]) {
        let mut debs = self.base.clone();
        for (name, version, needs, content) in packages {
            let share = file(&format!("usr/share/{name}"), 0o644, content.as_bytes());
            let fields = if needs.is_empty() {
                String::new()
            } else {
                format!("Depends: {needs}\n")
            };
            debs.push((
                (*name).to_owned(),
                fields,
                deb(name, version, needs, vec![share]),
            ));
        }
        let version = |name: &str| {
            let found = packages.iter().find(|package| package.0 == name);
            found.map_or("1.0", |package| package.1)
        };
        let debs = debs
            .into_iter()
            .map(|(name, fields, deb)| (version(&name).to_owned(), name, fields, deb));
        let files = files_of(&self.key, (SUITE, "main"), day, debs);
        lock(&self.held).files = files;
    }

    /// A bench whose Debian bases come from here.
    pub(crate) fn serves(&self, bench: Bench) -> Bench {
        let key = SignedPublicKey::from(self.key.clone())
            .to_bytes()
            .expect("a key has bytes");
        bench.file("archive.gpg", key);
        let keyring = bench.path("archive.gpg").display().to_string();
        bench
            .env("SHMOCKER_DEBIAN_MIRROR", &self.url())
            .env("SHMOCKER_DEBIAN_KEYRING", &keyring)
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/debian", self.port.number())
    }

    /// The paths that it was asked for since this was called last.
    pub(crate) fn asked(&self) -> Vec<PathBuf> {
        let mut asked: Vec<PathBuf> = std::mem::take(&mut lock(&self.held).asked)
            .into_iter()
            .map(PathBuf::from)
            .collect();
        asked.sort();
        asked
    }
}

/// A vendor's own archive, for files below one directory of a web server: one package of each name, and the key that signs
/// it, as text.
pub(crate) fn vendor(
    suite: &str,
    component: &str,
    names: &[&str],
) -> (HashMap<String, Vec<u8>>, String) {
    let key = new_key();
    let debs = names.iter().map(|name| {
        let share = file(&format!("usr/share/{name}"), 0o644, b"of the vendor\n");
        let deb = deb(name, "1.0", "", vec![share]);
        ("1.0".to_owned(), (*name).to_owned(), String::new(), deb)
    });
    let files = files_of(&key, (suite, component), 1, debs);
    let public = SignedPublicKey::from(key)
        .to_armored_string(ArmorOptions::default())
        .expect("a key can be written");
    (files, public)
}

fn new_key() -> SignedSecretKey {
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Archive <a@b>".into());
    parameters
        .build()
        .expect("the parameters are complete")
        .generate(rand::thread_rng())
        .expect("a key can be made")
}

/// The files of an archive by path, its signed index among them: packages by version, name, further fields and content.
fn files_of(
    key: &SignedSecretKey,
    (suite, component): (&str, &str),
    day: u32,
    debs: impl Iterator<Item = (String, String, String, Vec<u8>)>,
) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut index = String::new();
    for (version, name, fields, deb) in debs {
        let path = format!("pool/{component}/{name}_{version}_amd64.deb");
        index.push_str(&format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {}\n{fields}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
            architecture(),
            deb.len(),
            hex(&deb)
        ));
        files.insert(path, deb);
    }
    let place = format!("{component}/binary-{}/Packages", architecture());
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nDate: Mon, {day:02} Jan 2024 00:00:00 UTC\nArchitectures: {}\nComponents: {component}\nSHA256:\n {} {} {place}\n",
        architecture(),
        hex(index.as_bytes()),
        index.len()
    );
    let signed = CleartextSignedMessage::sign(
        rand::thread_rng(),
        &release,
        &key.primary_key,
        &Password::empty(),
    )
    .and_then(|message| message.to_armored_string(ArmorOptions::default()))
    .expect("it can be signed");
    files.insert(format!("dists/{suite}/InRelease"), signed.into_bytes());
    files.insert(format!("dists/{suite}/{place}"), index.into_bytes());
    files
}

/// Debian's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn answer(mut stream: std::net::TcpStream, held: &Mutex<Held>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let path = request.split(' ').nth(1)?;
    let path = path.strip_prefix("/debian/").unwrap_or(path).to_owned();
    let body = {
        let mut held = lock(held);
        held.asked.push(path.clone());
        held.files.get(&path).cloned()
    };
    let status = if body.is_some() {
        "200 OK"
    } else {
        "404 Not Found"
    };
    let body = body.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A package.
fn deb(
    name: &str,
    version: &str,
    needs: &str,
    files: Vec<(tar::Header, String, Vec<u8>)>,
) -> Vec<u8> {
    let depends = if needs.is_empty() {
        String::new()
    } else {
        format!("Depends: {needs}\n")
    };
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {}\n{depends}Description: {name}\n",
        architecture()
    );
    let control = tarred(vec![file("control", 0o644, control.as_bytes())]);
    let data = tarred(files);
    let mut deb = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar", &control),
        ("data.tar", &data),
    ] {
        let head = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            100_644,
            content.len()
        );
        deb.extend(head.as_bytes());
        deb.extend(content);
        if content.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    deb
}

fn tarred(files: Vec<(tar::Header, String, Vec<u8>)>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (mut header, path, content) in files {
        match header.entry_type() {
            tar::EntryType::Symlink => {
                let target = String::from_utf8_lossy(&content).into_owned();
                tar.append_link(&mut header, path, target)
            }
            _ => tar.append_data(&mut header, path, content.as_slice()),
        }
        .expect("memory can be written");
    }
    tar.into_inner().expect("memory can be written")
}

fn file(path: &str, mode: u32, content: &[u8]) -> (tar::Header, String, Vec<u8>) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    (header, format!("./{path}"), content.to_vec())
}

fn link(path: &str, target: &str) -> (tar::Header, String, Vec<u8>) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    (header, format!("./{path}"), target.as_bytes().to_vec())
}
