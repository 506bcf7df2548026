//! A small archive that the test makes, signs and serves itself, and everything that may be wrong with one.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::ser::Serialize as _;
use pgp::types::Password;

use super::*;
use crate::engine::source::Fault;
use crate::net::{Retry, Settings};

const DATE: &str = "Sat, 11 Jul 2026 10:16:37 UTC";
const VALID_UNTIL: &str = "Sat, 18 Jul 2026 10:16:37 UTC";
const DATE_S: u64 = 1_783_764_997;
const DAY_S: u64 = 86_400;

fn key() -> SignedSecretKey {
    let mut parameters = SecretKeyParamsBuilder::default();
    parameters
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Archive <a@b>".into());
    parameters
        .build()
        .unwrap()
        .generate(rand::thread_rng())
        .unwrap()
}

fn ring(key: &SignedSecretKey) -> Keyring {
    Keyring::read(&SignedPublicKey::from(key.clone()).to_bytes().unwrap()).unwrap()
}

fn signed(text: &str, key: &SignedSecretKey) -> String {
    let message = CleartextSignedMessage::sign(
        rand::thread_rng(),
        text,
        &key.primary_key,
        &Password::empty(),
    )
    .unwrap();
    message.to_armored_string(ArmorOptions::default()).unwrap()
}

/// A package with these files: path → content; a path with `->` in it is a link.
fn deb(package: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let fields = format!(
        "Package: {package}\nVersion: 1.0+x\nArchitecture: amd64\nMulti-Arch: same\nDescription: x\n more\n"
    );
    let control = [
        ("./control", fields.as_str()),
        (
            "./conffiles",
            "/etc/small.conf\nremove-on-upgrade /etc/old\n",
        ),
        ("./preinst", "#!/bin/sh\n"),
        (
            "./triggers",
            "interest-noawait /usr/lib\ninterest named\nactivate other\n",
        ),
    ];
    let data = zstd::encode_all(&tarred(files)[..], 1).unwrap();
    let mut deb = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar", &tarred(&control)),
        ("data.tar.zst", &data),
    ] {
        writeln!(
            deb,
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`",
            0,
            0,
            0,
            100_644,
            content.len()
        )
        .unwrap();
        deb.extend(content);
        if content.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    deb
}

fn tarred(files: &[(&str, &str)]) -> Vec<u8> {
    let mut data = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(DATE_S - DAY_S);
        let name = path.split(" -> ").next().unwrap();
        // The builder would not write a name with `..` in it.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some((_, target)) = path.split_once(" -> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_link_name_literal(target).unwrap();
        } else if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        data.append(&header, content.as_bytes()).unwrap();
    }
    data.into_inner().unwrap()
}

/// What the server has, and what is wrong with it.
struct Archive {
    files: HashMap<String, Vec<u8>>,
    key: SignedSecretKey,
}

impl Archive {
    fn new() -> Self {
        Self::with(&[
            ("usr/", ""),
            ("usr/bin/", ""),
            ("usr/bin/dpkg", "#!/bin/sh\n"),
            ("bin/sh -> dash", ""),
            ("etc/small.conf", "x"),
        ])
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let mut archive = Self {
            files: HashMap::new(),
            key: key(),
        };
        let mut packages = String::new();
        for (name, more) in [
            ("dpkg", "Essential: yes\n"),
            ("apt", "Depends: dpkg (>= 1) | nothing\n"),
        ] {
            let path = format!("pool/main/{name}_1.0+x_amd64.deb");
            let deb = if name == "dpkg" {
                deb(name, files)
            } else {
                deb(name, &[("usr/bin/apt-get", "#!/bin/sh\n")])
            };
            packages.push_str(&format!(
                "Package: {name}\nVersion: 1.0+x\nArchitecture: amd64\n{more}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                deb.len(),
                Digest::of(&deb).hex()
            ));
            archive.files.insert(path, deb);
        }
        let packed = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(packages.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let sha256 = Digest::of(&packed);
        archive.release(&format!(
            "Suite: small\nCodename: small\nDate: {DATE}\nValid-Until: {VALID_UNTIL}\nAcquire-By-Hash: yes\nArchitectures: amd64\nComponents: main\nSHA256:\n {} {} main/binary-amd64/Packages.xz\n",
            sha256.hex(),
            packed.len()
        ));
        archive.files.insert(
            format!(
                "dists/small/main/binary-amd64/by-hash/SHA256/{}",
                sha256.hex()
            ),
            packed,
        );
        archive
    }

    fn release(&mut self, text: &str) {
        let release = signed(text, &self.key);
        self.files
            .insert("dists/small/InRelease".to_owned(), release.into_bytes());
    }

    fn index(&mut self) -> &mut Vec<u8> {
        let (_, index) = self
            .files
            .iter_mut()
            .find(|(path, _)| path.contains("by-hash"))
            .unwrap();
        index
    }

    fn serve(self, scratch: &Path) -> Served {
        let keyring = ring(&self.key);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/debian", listener.local_addr().unwrap());
        let files = Arc::new(self.files);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let files = files.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &files));
            }
        });
        let (store, tmp) = (scratch.join("store"), scratch.join("tmp"));
        for directory in [&store, &tmp] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let retry = Retry {
            attempts: 2,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(1),
        };
        let client = Client::new(Settings {
            retry,
            ..Settings::default()
        });
        Served {
            url,
            keyring,
            client,
            cache: Cache::new(store, tmp),
            now_s: DATE_S + DAY_S,
            warnings: Mutex::default(),
        }
    }
}

fn answer(stream: std::net::TcpStream, files: &HashMap<String, Vec<u8>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    while reader.read_line(&mut request).unwrap() > 2 {}
    let path = request.split(' ').nth(1).unwrap().replace("%2B", "+");
    let mut stream = stream;
    match path
        .strip_prefix("/debian/")
        .and_then(|path| files.get(path))
    {
        Some(body) => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            )
            .unwrap();
            drop(stream.write_all(body));
        }
        None => write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap(),
    }
}

struct Served {
    url: String,
    keyring: Keyring,
    client: Client<'static>,
    cache: Cache,
    now_s: u64,
    warnings: Mutex<Vec<String>>,
}

impl Served {
    fn with<T>(&self, work: impl FnOnce(&Surroundings<'_>) -> T) -> T {
        let progress = |progress| {
            if let Progress::Warning(text) = progress {
                self.warnings.lock().unwrap().push(text);
            }
        };
        let Self {
            client,
            cache,
            keyring,
            now_s,
            ..
        } = self;
        work(&Surroundings {
            client,
            cache,
            keyring,
            now_s: *now_s,
            progress: &progress,
        })
    }

    fn resolve(&self) -> Result<Resolution> {
        self.resolve_with(&[])
    }

    fn resolve_with(&self, packages: &[String]) -> Result<Resolution> {
        let mirrors = Mirrors::choose("small", Some(&self.url), None, &[]);
        self.with(|with| {
            base::resolve(
                &Request {
                    suite: "small",
                    arch: "amd64",
                    packages,
                },
                &mirrors,
                with,
            )
        })
    }
}

fn scratch(name: &str) -> PathBuf {
    crate::engine::source::scratch(&format!("archive-{name}"))
}

/// Resolves a spoilt archive; the error.
fn spoilt(name: &str, spoil: impl FnOnce(&mut Archive), set: impl FnOnce(&mut Served)) -> Error {
    let scratch = scratch(name);
    let mut archive = Archive::new();
    spoil(&mut archive);
    let mut served = archive.serve(&scratch);
    set(&mut served);
    let error = served.resolve().unwrap_err();
    std::fs::remove_dir_all(&scratch).unwrap();
    error
}

#[test]
fn a_sound_archive_is_read_and_its_gaps_are_told() {
    let scratch = scratch("sound");
    let served = Archive::new().serve(&scratch);
    let resolution = served.resolve().unwrap();
    let names: Vec<&str> = resolution
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    assert_eq!(names, ["apt", "dpkg"]);
    assert_eq!(resolution.release_date_s, DATE_S);
    assert_eq!(served.resolve().unwrap().key(), resolution.key());
    let kept: Resolution =
        serde_json::from_str(&serde_json::to_string(&resolution).unwrap()).unwrap();
    assert_eq!(kept, resolution);
    let mut warnings = served.warnings.lock().unwrap().clone();
    warnings.sort();
    warnings.dedup();
    assert_eq!(
        warnings.len(),
        2,
        "small-updates and small-security: {warnings:?}"
    );
    std::fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn a_package_that_is_not_there_is_found_out_before_anything_is_built() {
    let scratch = scratch("no-package");
    let served = Archive::new().serve(&scratch);
    let error = served.resolve_with(&["dpgk".to_owned()]).unwrap_err();
    assert_eq!(error.to_string(), "`small` has no package `dpgk`");
    assert_eq!(
        miette::Diagnostic::help(&error).unwrap().to_string(),
        "did you mean `dpkg`?"
    );
    let error = served.resolve_with(&["dpkg-".to_owned()]).unwrap_err();
    assert_eq!(error.fault(), Fault::Input);
    std::fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn a_signature_of_another_key_is_refused() {
    let error = spoilt("other-key", |_| (), |served| served.keyring = ring(&key()));
    assert!(error.to_string().contains("is not known"), "{error}");
    assert_eq!(error.fault(), Fault::Refused);
    let debian = spoilt(
        "debian-key",
        |_| (),
        |served| served.keyring = Keyring::debian().unwrap(),
    );
    assert_eq!(debian.fault(), Fault::Refused);
}

#[test]
fn a_changed_release_file_is_refused() {
    let change = |from: &'static str, to: &'static str| {
        move |archive: &mut Archive| {
            let release = archive.files.get_mut("dists/small/InRelease").unwrap();
            *release = String::from_utf8(release.clone())
                .unwrap()
                .replace(from, to)
                .into_bytes();
        }
    };
    let error = spoilt("changed", change("Suite: small", "Suite: Small"), |_| ());
    assert!(
        error.to_string().contains("does not fit the text"),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Refused);
    // Text outside of what is signed.
    for (name, from, to) in [
        (
            "before",
            "-----BEGIN PGP SIGNED MESSAGE-----",
            "Suite: evil\n-----BEGIN PGP SIGNED MESSAGE-----",
        ),
        (
            "after",
            "-----END PGP SIGNATURE-----\n",
            "-----END PGP SIGNATURE-----\n\nSHA256:\n evil\n",
        ),
        (
            "none",
            "-----BEGIN PGP SIGNATURE-----",
            "-----BEGIN PGP MESSAGE-----",
        ),
    ] {
        assert_eq!(
            spoilt(name, change(from, to), |_| ()).fault(),
            Fault::Refused,
            "{name}"
        );
    }
    let unsigned = |archive: &mut Archive| {
        drop(archive.files.insert(
            "dists/small/InRelease".to_owned(),
            b"Suite: small\n".to_vec(),
        ))
    };
    assert_eq!(spoilt("unsigned", unsigned, |_| ()).fault(), Fault::Refused);
}

#[test]
fn a_release_file_has_its_time() {
    let error = spoilt(
        "expired",
        |_| (),
        |served| served.now_s = DATE_S + 8 * DAY_S,
    );
    assert!(
        matches!(&error, Error::Expired { until, .. } if until == VALID_UNTIL),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Source);
    let error = spoilt("early", |_| (), |served| served.now_s = DATE_S - DAY_S);
    assert!(matches!(error, Error::NotYetValid { .. }), "{error}");
}

#[test]
fn a_release_file_of_another_suite_is_not_taken() {
    let other = |archive: &mut Archive| {
        archive.release(&format!(
            "Suite: old\nCodename: older\nDate: {DATE}\nSHA256:\n"
        ))
    };
    let error = spoilt("other-suite", other, |_| ());
    assert!(matches!(error, Error::OtherSuite { .. }), "{error}");
    let missing = |archive: &mut Archive| drop(archive.files.remove("dists/small/InRelease"));
    let error = spoilt("no-suite", missing, |_| ());
    assert!(matches!(error, Error::NoSuite { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Source);
}

#[test]
fn an_index_that_is_not_the_signed_one_is_an_error() {
    let error = spoilt("index-changed", |archive| archive.index()[20] ^= 1, |_| ());
    assert!(
        matches!(error, Error::Fetch(crate::net::Error::WrongDigest { .. })),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Source);
    let error = spoilt(
        "index-short",
        |archive| archive.index().truncate(30),
        |_| (),
    );
    assert!(
        matches!(
            error,
            Error::Fetch(crate::net::Error::WrongSize { actual: 30, .. })
        ),
        "{error}"
    );
}

/// Records what it is asked to run, and does nothing.
#[derive(Default)]
struct Recorder(Mutex<Vec<Vec<String>>>);

impl Runner for Recorder {
    fn run(&self, _: &Path, command: &Command) -> std::result::Result<Output, RunnerError> {
        self.0.lock().unwrap().push(command.argv.clone());
        Ok(Output {
            status: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }
}

fn build(served: &Served, resolution: &Resolution, root: &Path) -> Result<Vec<Vec<String>>> {
    std::fs::create_dir_all(root).unwrap();
    let recorder = Recorder::default();
    served.with(|with| base::build(resolution, root, with, &recorder))?;
    Ok(recorder.0.into_inner().unwrap())
}

fn skip_without_root() -> bool {
    let root = rustix::process::getuid().is_root();
    if !root {
        println!("skip: not root in any namespace, so no owners can be set");
    }
    !root
}

#[test]
fn packages_are_unpacked_and_handed_to_the_trees_own_dpkg() {
    if skip_without_root() {
        return;
    }
    let scratch = scratch("build");
    let served = Archive::new().serve(&scratch);
    let resolution = served.resolve().unwrap();
    let root = scratch.join("root");
    let ran = build(&served, &resolution, &root).unwrap();
    let ran: Vec<String> = ran.iter().map(|argv| argv.join(" ")).collect();
    assert!(ran[0].contains("mv tmp.waiting/apt:amd64 tmp.ci") && ran[0].contains("DPKG_MAINTSCRIPT_PACKAGE=apt DPKG_MAINTSCRIPT_ARCH=amd64 /var/lib/dpkg/tmp.ci/preinst install"));
    assert_eq!(
        ran[1..],
        [
            "dpkg --force-depends --force-unsafe-io --configure --pending",
            "dpkg --audit"
        ]
    );
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        read("var/lib/dpkg/status"),
        "Package: apt
Status: install ok unpacked
Version: 1.0+x
Architecture: amd64
Multi-Arch: same
Description: x
 more
Conffiles:
 /etc/small.conf newconffile

Package: dpkg
Status: install ok unpacked
Version: 1.0+x
Architecture: amd64
Multi-Arch: same
Description: x
 more
Conffiles:
 /etc/small.conf newconffile

"
    );
    assert_eq!(
        read("var/lib/dpkg/info/dpkg:amd64.list"),
        "/usr\n/usr/bin\n/usr/bin/dpkg\n/bin/sh\n/etc/small.conf\n"
    );
    assert_eq!(
        read("var/lib/dpkg/triggers/File"),
        "/usr/lib apt:amd64/noawait\n/usr/lib dpkg:amd64/noawait\n"
    );
    assert_eq!(
        read("var/lib/dpkg/triggers/named"),
        "apt:amd64\ndpkg:amd64\n"
    );
    assert_eq!(read("etc/small.conf"), read("etc/small.conf.dpkg-new"));
    assert_eq!(
        std::fs::read_link(root.join("bin")).unwrap(),
        Path::new("usr/bin")
    );
    assert_eq!(
        std::fs::read_link(root.join("usr/bin/sh")).unwrap(),
        Path::new("dash")
    );
    assert_eq!(
        std::fs::read_to_string(root.join("etc/apt/sources.list")).unwrap(),
        "deb http://deb.debian.org/debian small main\n"
    );
    let time = |path: &str| {
        std::fs::metadata(root.join(path))
            .unwrap()
            .modified()
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
    };
    assert_eq!(time("usr/bin/dpkg").as_secs(), DATE_S - DAY_S);
    assert_eq!(
        (
            time("usr").as_secs(),
            time("etc/apt/sources.list").as_secs()
        ),
        (DATE_S, DATE_S)
    );
    assert!(!root.join(WORKSHOP).exists());
    std::fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn a_package_cannot_write_outside_of_the_tree() {
    if skip_without_root() {
        return;
    }
    let check = |name: &str, files: &[(&str, &str)]| {
        let scratch = scratch(name);
        let canary = scratch.join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "sings").unwrap();
        let files: Vec<(String, &str)> = files
            .iter()
            .map(|(path, content)| (path.replace("CANARY", &canary.to_string_lossy()), *content))
            .collect();
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, content)| (path.as_str(), *content))
            .collect();
        let served = Archive::with(&files).serve(&scratch);
        let resolution = served.resolve().unwrap();
        let built = build(&served, &resolution, &scratch.join("root"));
        assert_eq!(
            std::fs::read_to_string(canary.join("file")).unwrap(),
            "sings",
            "{name}"
        );
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 1, "{name}");
        std::fs::remove_dir_all(&scratch).unwrap();
        built
    };
    // A link resolves inside the tree, where it has no target.
    assert!(check("link-out", &[("x -> CANARY", ""), ("x/file", "evil")]).is_err());
    assert!(
        check(
            "link-up",
            &[("x -> ../../../../../../canary", ""), ("x/file", "evil")]
        )
        .is_err()
    );
    // The last component of a name is never followed, but replaced.
    assert!(check("link-file", &[("x -> CANARY/file", ""), ("x", "evil")]).is_ok());
    let error = check("dot-dot", &[("../canary/file", "evil")]).unwrap_err();
    assert!(
        error.to_string().contains("leads out of the tree"),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Source);
}

#[test]
fn a_package_that_is_not_the_signed_one_is_an_error() {
    let check = |name: &str, spoil: &dyn Fn(&mut Vec<u8>)| {
        let scratch = scratch(name);
        let mut archive = Archive::new();
        spoil(
            archive
                .files
                .get_mut("pool/main/dpkg_1.0+x_amd64.deb")
                .unwrap(),
        );
        let served = archive.serve(&scratch);
        let resolution = served.resolve().unwrap();
        let error = build(&served, &resolution, &scratch.join("root")).unwrap_err();
        let dpkg = resolution
            .packages
            .iter()
            .find(|package| package.name == "dpkg")
            .unwrap();
        assert!(!served.cache.path(&dpkg.sha256).exists());
        assert_eq!(
            std::fs::read_dir(scratch.join("tmp")).unwrap().count(),
            0,
            "no temporary file is left"
        );
        std::fs::remove_dir_all(&scratch).unwrap();
        error
    };
    let error = check("deb-changed", &|deb| deb[30] ^= 1);
    assert!(
        matches!(error, Error::Fetch(crate::net::Error::WrongDigest { .. })),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Source);
    let error = check("deb-short", &|deb| deb.truncate(100));
    assert!(
        matches!(error, Error::Fetch(crate::net::Error::WrongSize { .. })),
        "{error}"
    );
}

#[test]
fn a_damaged_download_is_fetched_anew() {
    if skip_without_root() {
        return;
    }
    let scratch = scratch("damaged");
    let served = Archive::new().serve(&scratch);
    let resolution = served.resolve().unwrap();
    build(&served, &resolution, &scratch.join("one")).unwrap();
    for package in &resolution.packages {
        std::fs::write(served.cache.path(&package.sha256), "rot").unwrap();
    }
    build(&served, &resolution, &scratch.join("two")).unwrap();
    assert!(scratch.join("two/usr/bin/dpkg").exists());
    std::fs::remove_dir_all(&scratch).unwrap();
}
