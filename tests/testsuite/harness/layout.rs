//! OCI image layouts: reads what builders wrote (a directory or an archive), and writes small ones to build on.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::Digest as _;

/// The files of a layout, by path.
#[derive(Debug, Clone)]
pub(crate) struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    /// Reads an archive.
    pub(crate) fn of_archive(archive: &[u8]) -> Self {
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(archive);
        for entry in tar.entries().expect("it is a tar") {
            let mut entry = entry.expect("it is a whole tar");
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path().expect("it has a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("it is a whole tar");
            files.insert(path.trim_start_matches("./").to_owned(), content);
        }
        Self(files)
    }

    /// Reads an archive file or a directory.
    pub(crate) fn read(path: &Path) -> Self {
        if path.is_dir() {
            let mut files = BTreeMap::new();
            collect(path, path, &mut files);
            Self(files)
        } else {
            Self::of_archive(
                &std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
            )
        }
    }

    fn json(&self, path: &str) -> Value {
        let content = self
            .0
            .get(path)
            .unwrap_or_else(|| panic!("the layout has no {path}"));
        serde_json::from_slice(content).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A blob, whose digest is checked.
    pub(crate) fn blob(&self, digest: &str) -> &[u8] {
        let path = format!("blobs/{}", digest.replace(':', "/"));
        let content = self
            .0
            .get(&path)
            .unwrap_or_else(|| panic!("the layout has no {path}"));
        assert_eq!(digest_of(content), digest, "a blob is named by its digest");
        content
    }

    /// The index.
    pub(crate) fn index(&self) -> Value {
        self.json("index.json")
    }

    /// The digest of the only image for this machine.
    pub(crate) fn digest(&self) -> String {
        let mut digest = self.index()["manifests"][0]["digest"]
            .as_str()
            .expect("the index names a manifest")
            .to_owned();
        // An index of indexes: attestations and other platforms beside the image.
        loop {
            let value: Value = serde_json::from_slice(self.blob(&digest)).expect("it is JSON");
            match value["manifests"][0]["digest"].as_str() {
                Some(inner) => digest = inner.to_owned(),
                None => return digest,
            }
        }
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> Value {
        serde_json::from_slice(self.blob(&self.digest())).expect("a manifest is JSON")
    }

    /// The image's configuration.
    pub(crate) fn config(&self) -> Value {
        let manifest = self.manifest();
        let digest = manifest["config"]["digest"]
            .as_str()
            .expect("a manifest names a config");
        serde_json::from_slice(self.blob(digest)).expect("a config is JSON")
    }

    /// The digests of the layers as they lie there, bottom first.
    pub(crate) fn layer_digests(&self) -> Vec<String> {
        let manifest = self.manifest();
        // BuildKit writes `null` where there is none.
        manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| {
                layer["digest"]
                    .as_str()
                    .expect("a layer has a digest")
                    .to_owned()
            })
            .collect()
    }

    /// The layers as tars, bottom first; each is checked against its diff id.
    pub(crate) fn layers(&self) -> Vec<Vec<u8>> {
        let config = self.config();
        let layers: Vec<Vec<u8>> = self
            .layer_digests()
            .iter()
            .map(|digest| decompressed(self.blob(digest)))
            .collect();
        let diff_ids: Vec<Value> = layers.iter().map(|layer| json!(digest_of(layer))).collect();
        let named = config["rootfs"]["diff_ids"].as_array();
        assert_eq!(
            diff_ids,
            named.map(Vec::as_slice).unwrap_or_default(),
            "diff_ids name the layers"
        );
        layers
    }

    /// Writes it as a directory.
    pub(crate) fn write(&self, dir: &Path) {
        for (path, content) in &self.0 {
            let file = dir.join(path);
            std::fs::create_dir_all(file.parent().expect("a file has a parent"))
                .expect("a directory can be made");
            std::fs::write(file, content).expect("a file can be written");
        }
    }

    /// An image of one layer, tagged `latest`.
    pub(crate) fn of_layer(layer: &[u8], run_config: Value) -> Self {
        let mut files = BTreeMap::new();
        let mut blob = |content: Vec<u8>, media_type: &str| {
            let digest = digest_of(&content);
            let descriptor =
                json!({"mediaType": media_type, "digest": digest, "size": content.len()});
            files.insert(format!("blobs/{}", digest.replace(':', "/")), content);
            descriptor
        };
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "created": "2023-11-14T22:13:20Z", "architecture": architecture, "os": "linux", "config": run_config,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "the test's base"}],
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob(config.to_string().into_bytes(), "application/vnd.oci.image.config.v1+json"),
            "layers": [blob(gzip(layer), "application/vnd.oci.image.layer.v1.tar+gzip")],
        });
        let mut named = blob(
            manifest.to_string().into_bytes(),
            "application/vnd.oci.image.manifest.v1+json",
        );
        named["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "manifests": [named]});
        files.insert("index.json".to_owned(), index.to_string().into_bytes());
        files.insert(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        Self(files)
    }
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(dir)
        .expect("a directory can be read")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path
                .strip_prefix(root)
                .expect("it lies below")
                .display()
                .to_string();
            files.insert(name, std::fs::read(&path).expect("a file can be read"));
        }
    }
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn digest_of(content: &[u8]) -> String {
    shmocker::digest::Digest::from_bytes(sha2::Sha256::digest(content).into()).to_string()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(content, flate2::Compression::fast());
    let mut out = Vec::new();
    encoder
        .read_to_end(&mut out)
        .expect("memory can be compressed");
    out
}

fn decompressed(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match blob {
        [0x1f, 0x8b, ..] => flate2::read::MultiGzDecoder::new(blob)
            .read_to_end(&mut out)
            .map(drop)
            .expect("a gzip layer can be read"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            out = zstd::decode_all(blob).expect("a zstd layer can be read");
        }
        _ => out.extend_from_slice(blob),
    }
    out
}
