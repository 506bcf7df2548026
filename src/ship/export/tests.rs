//! Exports read back by this code and by other tools.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::*;
use crate::image::layer::{Entry, Kind, LayerReader, LayerWriter, Limits};
use crate::image::{
    Base, Content, History, ImageConfig, Instruction, Layer, MediaTypes, assemble, compress,
    media_type,
};
use crate::sys::file::tempdir::TempDir;

/// Layers in memory, blobs in a directory.
struct Memory {
    store: TempDir,
    tars: BTreeMap<usize, Vec<Entry>>,
    kept: Mutex<BTreeMap<(usize, String), Variant>>,
    root: Vec<Entry>,
    compressed: Mutex<u32>,
}

impl LayerSource for Memory {
    fn has_blob(&self, digest: &Digest) -> bool {
        self.blob(digest).is_ok_and(|blob| blob.is_some())
    }

    fn blob(&self, digest: &Digest) -> Result<Option<File>, SourceError> {
        Ok(File::open(self.store.path().join(digest.hex())).ok())
    }

    fn write_tar(
        &self,
        layer: usize,
        times: TimeRewrite,
        out: &mut dyn Write,
    ) -> Result<(), SourceError> {
        write_entries(&self.tars[&layer], times, out)
    }

    fn kept(&self, layer: usize, form: Form) -> Result<Option<Variant>, SourceError> {
        Ok(self.kept.lock().unwrap().get(&(layer, form.id())).copied())
    }

    fn keep(
        &self,
        layer: usize,
        form: Form,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<Variant, SourceError>,
    ) -> Result<Variant, SourceError> {
        *self.compressed.lock().unwrap() += 1;
        let mut blob = Vec::new();
        let variant = write(&mut blob)?;
        assert_eq!(
            (variant.digest, variant.size),
            (Digest::of(&blob), blob.len() as u64)
        );
        self.put(&blob);
        self.kept
            .lock()
            .unwrap()
            .insert((layer, form.id()), variant);
        Ok(variant)
    }

    fn registry_of(&self, _: &Digest) -> Option<Name> {
        None
    }

    fn write_root(&self, times: TimeRewrite, out: &mut dyn Write) -> Result<(), SourceError> {
        write_entries(&self.root, times, out)
    }
}

impl Memory {
    fn put(&self, blob: &[u8]) -> Digest {
        let digest = Digest::of(blob);
        std::fs::write(self.store.path().join(digest.hex()), blob).unwrap();
        digest
    }
}

fn write_entries(
    entries: &[Entry],
    times: TimeRewrite,
    out: &mut dyn Write,
) -> Result<(), SourceError> {
    let mut writer = LayerWriter::new(out, times);
    for entry in entries {
        writer.file(entry, &mut content_of(entry).as_slice())?;
    }
    writer.finish()?;
    Ok(())
}

fn content_of(entry: &Entry) -> Vec<u8> {
    let Kind::File { size } = entry.kind else {
        return Vec::new();
    };
    entry
        .path
        .iter()
        .copied()
        .cycle()
        .take(size as usize)
        .collect()
}

fn entry(path: &str, kind: Kind, mode: u32) -> Entry {
    let mtime = Timestamp::from_seconds(1_700_000_000);
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime,
        xattrs: Vec::new(),
    }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, Kind::File { size }, 0o644)
}

fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    write_entries(entries, TimeRewrite::Keep, &mut tar).unwrap();
    tar
}

/// An image with a base layer, gzipped and in the store, and two of our own.
fn image() -> (Assembled, Memory) {
    let base = [
        entry("bin", Kind::Directory, 0o755),
        file("bin/sh", 3000),
        file("gone", 1),
    ];
    let first = [
        file(".wh.gone", 0),
        entry("etc", Kind::Directory, 0o755),
        file("etc/conf", 2_500_000),
    ];
    let second = [
        entry("bin", Kind::Directory, 0o755),
        entry(
            "bin/ash",
            Kind::Symlink {
                target: b"sh".to_vec(),
            },
            0o777,
        ),
    ];
    let memory = Memory {
        store: TempDir::new(),
        tars: BTreeMap::from([(1, first.to_vec()), (2, second.to_vec())]),
        kept: Mutex::default(),
        root: vec![
            entry("bin", Kind::Directory, 0o755),
            entry(
                "bin/ash",
                Kind::Symlink {
                    target: b"sh".to_vec(),
                },
                0o777,
            ),
            file("bin/sh", 3000),
            entry("bin/su", Kind::File { size: 9 }, 0o4755),
            entry("dev", Kind::Directory, 0o755),
            entry("dev/null", Kind::CharDevice { major: 1, minor: 3 }, 0o666),
            entry("etc", Kind::Directory, 0o555),
            file("etc/conf", 2_500_000),
            entry(
                "etc/conf2",
                Kind::HardLink {
                    target: b"etc/conf".to_vec(),
                },
                0o644,
            ),
        ],
        compressed: Mutex::new(0),
    };
    let mut blob = compress::Encoder::new(Vec::new(), Compression::GZIP, 1).unwrap();
    blob.write_all(&tar_of(&base)).unwrap();
    let blob = blob.finish().unwrap();
    memory.put(&blob);
    let gzip = MediaTypes::Docker.layer(Compression::GZIP);
    let base = Base {
        layers: vec![Layer {
            diff_id: Digest::of(&tar_of(&base)),
            descriptor: Descriptor::of(gzip, &blob),
            created: None,
        }],
        history: vec![History {
            created_by: Some("base".to_owned()),
            ..History::default()
        }],
    };
    let instruction = |entries: &[Entry], text: &str| {
        let tar = tar_of(entries);
        let created = Some(Timestamp::from_seconds(1_700_000_001));
        Instruction {
            history: History {
                created_by: Some(text.to_owned()),
                ..History::default()
            },
            layer: Some(Layer::uncompressed(
                Digest::of(&tar),
                tar.len() as u64,
                created,
            )),
        }
    };
    let instructions = vec![
        instruction(&first, "RUN first"),
        instruction(&second, "RUN second"),
    ];
    let config = ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        ..ImageConfig::default()
    };
    (
        assemble(config, base, instructions, MediaTypes::Oci, None).unwrap(),
        memory,
    )
}

fn export(
    image: &Assembled,
    memory: &Memory,
    given: &str,
    stdout: &mut (dyn Write + Send),
) -> Result<Exported, ExportError> {
    let epoch = Some(Timestamp::from_seconds(1_000_000_000));
    let export = Export {
        image,
        source: memory,
        names: &[],
        epoch,
        threads: 2,
    };
    export.write(&Output::parse(given).unwrap(), stdout)
}

fn to(bench: &TempDir, name: &str) -> String {
    bench.path().join(name).to_str().unwrap().to_owned()
}

/// Runs a program; `None`, said aloud, where it is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skip: {program}: {error}");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn names_in(tar: &[u8]) -> Vec<(String, i64)> {
    let mut reader = LayerReader::new(tar, Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push((String::from_utf8(entry.path).unwrap(), entry.mtime.seconds));
    }
    names
}

#[test]
fn an_oci_archive_is_read_by_skopeo_and_umoci() {
    let bench = TempDir::new();
    let (image, memory) = image();
    for compression in ["gzip", "zstd", "uncompressed"] {
        let path = to(&bench, compression);
        let given = format!(
            "type=oci,dest={path},compression={compression},\"name=app:1,ghcr.io/o/app:2\""
        );
        let exported = export(&image, &memory, &given, &mut std::io::sink()).unwrap();
        let copied = to(&bench, &format!("{compression}-copy"));
        // skopeo checks every digest on the way.
        let args = [
            "--insecure-policy",
            "copy",
            "-q",
            "--preserve-digests",
            &format!("oci-archive:{path}:2"),
            &format!("oci:{copied}:t"),
        ];
        if run("skopeo", &args).is_none() {
            return;
        }
        let raw = run("skopeo", &["inspect", "--raw", &format!("oci:{copied}:t")]).unwrap();
        assert_eq!(
            Digest::of(raw.as_bytes()),
            exported.manifest.unwrap().digest,
            "{compression}"
        );
        if compression == "gzip" {
            let bundle = to(&bench, "bundle");
            run(
                "umoci",
                &[
                    "unpack",
                    "--rootless",
                    "--image",
                    &format!("{copied}:t"),
                    &bundle,
                ],
            );
            if Path::new(&bundle).exists() {
                let root = Path::new(&bundle).join("rootfs");
                assert_eq!(
                    std::fs::read(root.join("bin/ash")).unwrap(),
                    content_of(&file("bin/sh", 3000))
                );
                assert!(!root.join("gone").exists());
            }
        }
    }
}

#[test]
fn a_docker_archive_is_read_by_skopeo_and_podman() {
    let bench = TempDir::new();
    let (image, memory) = image();
    let path = to(&bench, "docker.tar");
    export(
        &image,
        &memory,
        &format!("type=docker,dest={path},name=localhost/app:1"),
        &mut std::io::sink(),
    )
    .unwrap();
    let list = run(
        "skopeo",
        &["inspect", &format!("docker-archive:{path}:localhost/app:1")],
    );
    let Some(list) = list else { return };
    assert!(list.contains("\"Os\": \"linux\""), "{list}");
    let copied = to(&bench, "copy");
    let source = format!("docker-archive:{path}:localhost/app:1");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "-q",
            &source,
            &format!("oci:{copied}:t"),
        ],
    );
    let (root, state) = (to(&bench, "podman"), to(&bench, "podman-run"));
    let podman = ["--root", &root, "--runroot", &state, "--storage-driver=vfs"];
    match Command::new("podman").args(podman).arg("info").output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => return println!("skip: podman: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return println!("skip: podman: {error}"),
    }
    let loaded = run(
        "podman",
        &[&podman[..], &["load", "-q", "-i", &path]].concat(),
    );
    assert!(loaded.is_none_or(|loaded| loaded.contains("localhost/app:1")));
}

#[test]
fn base_layers_pass_through_and_nothing_is_compressed_twice() {
    let bench = TempDir::new();
    let (image, memory) = image();
    let given = format!("type=oci,dest={}", to(&bench, "a"));
    let first = export(&image, &memory, &given, &mut std::io::sink()).unwrap();
    assert_eq!(*memory.compressed.lock().unwrap(), 2);
    let mut stdout = Vec::new();
    let second = export(&image, &memory, "type=oci", &mut stdout).unwrap();
    assert_eq!(*memory.compressed.lock().unwrap(), 2);
    assert_eq!(first, second);
    assert!(std::fs::read(bench.path().join("a")).unwrap() == stdout);
    let base = image.layers[0].descriptor.digest;
    assert!(
        names_in(&stdout)
            .iter()
            .any(|(name, _)| name.ends_with(&base.hex()))
    );

    export(
        &image,
        &memory,
        "type=oci,compression=uncompressed",
        &mut std::io::sink(),
    )
    .unwrap();
    assert_eq!(*memory.compressed.lock().unwrap(), 2);
    export(
        &image,
        &memory,
        "type=oci,compression=zstd,force-compression=true",
        &mut std::io::sink(),
    )
    .unwrap();
    assert_eq!(*memory.compressed.lock().unwrap(), 5);
}

#[test]
fn an_uncompressed_image_is_the_one_in_the_store() {
    let (image, memory) = image();
    let exported = export(
        &image,
        &memory,
        "type=oci,compression=uncompressed",
        &mut std::io::sink(),
    )
    .unwrap();
    assert_eq!(exported.manifest.unwrap().digest, image.digest());
    assert_eq!(exported.config, Some(image.config_digest()));
}

#[test]
fn times_are_rewritten_in_our_layers_only() {
    let bench = TempDir::new();
    let (image, memory) = image();
    let given = format!(
        "type=oci,dest={},tar=false,rewrite-timestamp=true",
        to(&bench, "d")
    );
    let exported = export(&image, &memory, &given, &mut std::io::sink()).unwrap();
    let blob = |digest: &Digest| {
        std::fs::read(bench.path().join("d/blobs/sha256").join(digest.hex())).unwrap()
    };
    let manifest = blob(&exported.manifest.unwrap().digest);
    let Content::Manifest(manifest) = Content::parse(media_type::MANIFEST, &manifest).unwrap()
    else {
        panic!("a manifest");
    };
    let config: ImageConfig = serde_json::from_slice(&blob(&manifest.config.digest)).unwrap();
    assert_eq!(config.rootfs.diff_ids[0], image.layers[0].diff_id);
    for (index, layer) in manifest.layers.iter().enumerate() {
        let compressed = blob(&layer.digest);
        let (_, mut content) = compress::decoder(&compressed[..]).unwrap();
        let mut tar = Vec::new();
        content.read_to_end(&mut tar).unwrap();
        assert_eq!(Digest::of(&tar), config.rootfs.diff_ids[index]);
        let expected = if index == 0 {
            1_700_000_000
        } else {
            1_000_000_000
        };
        assert!(
            names_in(&tar)
                .iter()
                .all(|(_, seconds)| *seconds == expected)
        );
    }
    let without = Export {
        image: &image,
        source: &memory,
        names: &[],
        epoch: None,
        threads: 1,
    };
    let output = Output::parse("type=oci,rewrite-timestamp=true").unwrap();
    assert!(matches!(
        without.write(&output, &mut std::io::sink()),
        Err(ExportError::NoEpoch)
    ));
}

#[test]
fn a_layout_directory_keeps_its_other_names() {
    let bench = TempDir::new();
    let (image, memory) = image();
    for name in ["a:1", "b:1", "a:1"] {
        let given = format!("type=oci,dest={},tar=false,name={name}", to(&bench, "d"));
        export(&image, &memory, &given, &mut std::io::sink()).unwrap();
    }
    let index = std::fs::read(bench.path().join("d/index.json")).unwrap();
    let Content::Index(index) = Content::parse("", &index).unwrap() else {
        panic!("an index")
    };
    let names: Vec<_> = index
        .manifests
        .iter()
        .map(|entry| &entry.annotations["io.containerd.image.name"])
        .collect();
    assert_eq!(names, ["docker.io/library/b:1", "docker.io/library/a:1"]);
}

#[test]
fn a_root_filesystem_becomes_one_tar_or_files_of_the_user() {
    let bench = TempDir::new();
    let (image, memory) = image();
    let mut stdout = Vec::new();
    export(&image, &memory, "-", &mut stdout).unwrap();
    assert_eq!(names_in(&stdout).len(), memory.root.len());
    assert!(
        names_in(&stdout)
            .iter()
            .all(|(_, seconds)| *seconds == 1_000_000_000)
    );

    // Once where nothing is, once over what is there already.
    let dest = to(&bench, "root");
    for round in 0..2 {
        let exported = export(&image, &memory, &dest, &mut std::io::sink()).unwrap();
        assert_eq!(exported.devices_skipped, 1, "round {round}");
        let root = Path::new(&dest);
        let metadata = std::fs::metadata(root.join("etc/conf2")).unwrap();
        assert_eq!(
            (metadata.nlink(), metadata.mtime(), metadata.len()),
            (2, 1_000_000_000, 2_500_000)
        );
        assert_eq!(
            std::fs::metadata(root.join("bin/su"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o755
        );
        assert_eq!(
            std::fs::metadata(root.join("etc"))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o555
        );
        assert_eq!(
            std::fs::read_link(root.join("bin/ash")).unwrap(),
            Path::new("sh")
        );
        // What is in the way gives way; what is not stays; a link is not followed.
        std::fs::write(root.join("mine"), "").unwrap();
        std::fs::remove_file(root.join("bin/ash")).unwrap();
        std::fs::create_dir(root.join("bin/ash")).unwrap();
        std::fs::remove_dir_all(root.join("dev")).unwrap();
        std::os::unix::fs::symlink(bench.path(), root.join("dev")).unwrap();
    }
    assert!(Path::new(&dest).join("mine").exists());
    let left: Vec<_> = std::fs::read_dir(bench.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["root"]);
}

#[test]
fn a_failure_leaves_the_destination_as_it_was() {
    let bench = TempDir::new();
    let (image, memory) = image();
    let path = bench.path().join("x.tar");
    std::fs::write(&path, "before").unwrap();
    let base = image.layers[0].descriptor.digest;
    std::fs::write(memory.store.path().join(base.hex()), "damaged").unwrap();
    let error = export(
        &image,
        &memory,
        &format!("type=oci,dest={}", path.display()),
        &mut std::io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            ExportError::Layer { layer: 0, .. } | ExportError::Damaged { layer: 0, .. }
        ),
        "{error:?}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
    assert_eq!(std::fs::read_dir(bench.path()).unwrap().count(), 1);
    let nowhere = format!("type=tar,dest={}", bench.path().join("no/x.tar").display());
    let error = export(&image, &memory, &nowhere, &mut std::io::sink()).unwrap_err();
    assert!(matches!(
        error,
        ExportError::Destination {
            doing: "create",
            ..
        }
    ));
    let full = export(
        &image,
        &memory,
        "type=tar,dest=/dev/full",
        &mut std::io::sink(),
    )
    .unwrap_err();
    assert!(
        matches!(full, ExportError::Destination { doing: "write", .. }),
        "{full:?}"
    );
}
