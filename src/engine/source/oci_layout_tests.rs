//! Layouts read: tags, platforms, damage.

use std::collections::BTreeMap;

use super::*;
use crate::engine::snapshot::apply::apply;
use crate::engine::snapshot::lower::Lowers;
use crate::image::layer::{Entry, Kind, LayerWriter, Limits, TimeRewrite};
use crate::image::{Base, Compression, Instruction, MediaTypes, Timestamp, assemble, compress};
use crate::sys::dir::Dir;
use crate::sys::file::tempdir::TempDir;

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn put(dir: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    std::fs::write(dir.join(blob_path(&digest)), bytes).unwrap();
    digest
}

fn layer() -> (Vec<u8>, Vec<u8>) {
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let entry = Entry {
        path: b"hello".to_vec(),
        kind: Kind::File { size: 5 },
        mode: 0o644,
        uid: uid.into(),
        gid: gid.into(),
        mtime: Timestamp::from_seconds(1),
        xattrs: Vec::new(),
    };
    let mut tar = LayerWriter::new(Vec::new(), TimeRewrite::Keep);
    tar.file(&entry, &mut &b"world"[..]).unwrap();
    let tar = tar.finish().unwrap();
    let mut blob = compress::Encoder::new(Vec::new(), Compression::GZIP, 1).unwrap();
    io::Write::write_all(&mut blob, &tar).unwrap();
    (tar, blob.finish().unwrap())
}

/// A layout with one image for each architecture; their descriptors are given back.
fn layout(dir: &Path, architectures: &[&str]) -> Vec<Descriptor> {
    std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    let (tar, blob) = layer();
    put(dir, &blob);
    let descriptors = architectures.iter().map(|architecture| {
        let config = ImageConfig {
            architecture: (*architecture).to_owned(),
            os: "linux".to_owned(),
            ..ImageConfig::default()
        };
        let descriptor = Descriptor::of(MediaTypes::Oci.layer(Compression::GZIP), &blob);
        let layer = Layer {
            diff_id: Digest::of(&tar),
            descriptor,
            created: None,
        };
        let instruction = Instruction {
            layer: Some(layer),
            ..Instruction::default()
        };
        let image = assemble(
            config,
            Base::default(),
            vec![instruction],
            MediaTypes::Oci,
            None,
        )
        .unwrap();
        put(dir, &image.config_bytes);
        put(dir, &image.manifest_bytes);
        image.descriptor()
    });
    descriptors.collect()
}

fn index(dir: &Path, manifests: Vec<Descriptor>) {
    std::fs::write(
        dir.join("index.json"),
        Index::new(MediaTypes::Oci, manifests).to_bytes(),
    )
    .unwrap();
}

fn tagged(descriptor: &Descriptor, tag: &str) -> Descriptor {
    let mut descriptor = descriptor.clone();
    descriptor
        .annotations
        .insert(annotation::REF_NAME.to_owned(), tag.to_owned());
    descriptor
}

#[test]
fn an_image_is_found_by_tag_digest_or_being_the_only_one() {
    let bench = TempDir::new();
    let dir = bench.path();
    let images = layout(dir, &["amd64", "arm64"]);
    let nested = Index::new(MediaTypes::Oci, images.clone()).to_bytes();
    put(dir, &nested);
    let nested = Descriptor::of(media_type::INDEX, &nested);
    index(dir, vec![tagged(&nested, "v1"), tagged(&images[1], "arm")]);
    let layout = Layout::open(dir).unwrap();
    let digest = |wanted, platform: &str| {
        layout
            .image(wanted, &platform.parse().unwrap())
            .map(|image| image.descriptor.digest)
    };
    assert_eq!(
        digest(Wanted::Tag("v1"), "linux/amd64").unwrap(),
        images[0].digest
    );
    assert_eq!(
        digest(Wanted::Tag("v1"), "linux/arm64/v8").unwrap(),
        images[1].digest
    );
    assert_eq!(
        digest(Wanted::Digest(nested.digest), "linux/amd64").unwrap(),
        images[0].digest
    );
    assert_eq!(
        digest(Wanted::Digest(images[0].digest), "linux/amd64").unwrap(),
        images[0].digest
    );
    assert!(
        matches!(digest(Wanted::Tag("v1"), "linux/s390x"), Err(LayoutError::NoPlatform { has, .. }) if has == "linux/amd64, linux/arm64")
    );
    assert!(matches!(
        digest(Wanted::Tag("arm"), "linux/amd64"),
        Err(LayoutError::NoPlatform { .. })
    ));
    assert!(
        matches!(digest(Wanted::Only, "linux/amd64"), Err(LayoutError::NotFound { has, .. }) if has == "`v1`, `arm`")
    );
    index(dir, vec![nested]);
    assert_eq!(
        Layout::open(dir)
            .unwrap()
            .image(Wanted::Only, &amd64())
            .unwrap()
            .descriptor
            .digest,
        images[0].digest
    );
}

#[test]
fn its_layers_can_be_applied() {
    let bench = TempDir::new();
    let images = layout(bench.path(), &["amd64"]);
    index(bench.path(), images);
    let layout = Layout::open(bench.path()).unwrap();
    let image = layout.image(Wanted::Only, &amd64()).unwrap();
    let place = TempDir::new();
    let upper = Dir::open_trusted(place.path()).unwrap();
    let layer = &image.layers[0];
    let blob = layout.blob(&layer.descriptor).unwrap();
    apply(
        blob,
        Some(layer.diff_id),
        &upper,
        &Lowers::default(),
        Limits::default(),
    )
    .unwrap();
    assert_eq!(std::fs::read(place.path().join("hello")).unwrap(), b"world");
}

#[test]
fn what_is_damaged_is_said() {
    let bench = TempDir::new();
    let dir = bench.path();
    let images = layout(dir, &["amd64"]);
    index(dir, images.clone());
    let check = |sense: &str| {
        let error = Layout::open(dir)
            .and_then(|layout| layout.image(Wanted::Only, &amd64()).map(|_| ()))
            .unwrap_err();
        assert!(
            format!("{error:?} {error}").contains(sense),
            "expected `{sense}`, got `{error}`"
        );
    };
    let manifest = dir.join(blob_path(&images[0].digest));
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &good[1..]).unwrap();
    check("shorter");
    std::fs::write(&manifest, good.to_ascii_uppercase()).unwrap();
    check("its content is");
    std::fs::remove_file(&manifest).unwrap();
    check("cannot be read");
    // Not even the digest leads out of the layout.
    let outside = TempDir::new();
    std::fs::write(outside.path().join("x"), &good).unwrap();
    std::os::unix::fs::symlink(outside.path().join("x"), &manifest).unwrap();
    check("cannot be read");
    std::fs::write(dir.join("index.json"), "{}").unwrap();
    check("cannot be used");
    std::fs::remove_file(dir.join("oci-layout")).unwrap();
    check("no `oci-layout`");

    let mut tampered: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&good).unwrap();
    tampered.insert("layers".to_owned(), serde_json::json!([]));
    let tampered = serde_json::to_vec(&tampered).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    put(dir, &tampered);
    index(dir, vec![Descriptor::of(media_type::MANIFEST, &tampered)]);
    check("names 1 layers, its manifest 0");
}

#[test]
fn a_layer_blob_is_checked_while_it_is_read() {
    let check = |content: &[u8], sense: &str| {
        let descriptor = Descriptor::of(media_type::LAYER, b"abc");
        let error = Verified::new(content, &descriptor)
            .read_to_end(&mut Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(sense), "{error}");
    };
    check(b"ab", "1 bytes shorter");
    check(b"abcd", "longer");
    check(b"abd", "its content is");
}
