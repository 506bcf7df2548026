//! The place where a registry does one thing wrong, and what is asked of it there.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use shmocker::image::{Descriptor, Name, Platform, media_type};
use shmocker::net::{Retry, Settings as Net};
use shmocker::registry::{Push, PushBlob, PushContent, Registries, Settings};
use shmocker::store::Store;

use crate::harness::layout::digest_of;
use crate::harness::machine;
use crate::harness::registry::{Contents, MemoryRegistry};

/// What must come of a fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// It is survived.
    Well,
    /// It is an error that says one of these.
    Badly(&'static [&'static str]),
    /// Either: it depends on what was hit.
    Soundly,
}

/// A place for one fault.
pub(super) struct Stage {
    pub(super) registry: MemoryRegistry,
    pub(super) place: PathBuf,
    pub(super) store: Store,
    pub(super) layers: Vec<Descriptor>,
    /// How long it may stay silent.
    patience: Duration,
}

/// An image for two platforms in a registry: an index, manifests, a configuration, two layers.
pub(super) fn image(contents: &mut Contents) -> Vec<Descriptor> {
    let layer = |text: &str| text.repeat(400).into_bytes();
    let (first, second) = (layer("first layer "), layer("second layer "));
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(&first), digest_of(&second)]},
    });
    let config = config.to_string().into_bytes();
    let described = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest_of(bytes), "size": bytes.len()});
    let layers = [&first, &second].map(|layer| described(media_type::LAYER, layer));
    for blob in [&first, &second, &config] {
        contents.put_blob("a/b", blob);
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type::MANIFEST,
        "config": described(media_type::CONFIG, &config), "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = contents.put_manifest("a/b", "amd64", media_type::MANIFEST, manifest.clone());
    let mut listed = described(media_type::MANIFEST, &manifest);
    listed["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let other = json!({
        "mediaType": media_type::MANIFEST, "digest": digest_of(b"other"), "size": 5,
        "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
    });
    let index =
        json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [other, listed]});
    contents.put_manifest(
        "a/b",
        "1",
        media_type::INDEX,
        index.to_string().into_bytes(),
    );
    contents
        .manifests
        .retain(|(_, name), _| name != "amd64" || name == &digest);
    layers
        .iter()
        .map(|layer| serde_json::from_value(layer.clone()).expect("a descriptor"))
        .collect()
}

impl Stage {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = machine::workshop().join(format!("faults-{number}"));
        let registry = MemoryRegistry::start();
        let layers = image(&mut registry.contents.lock().expect("no panic"));
        Self {
            registry,
            store: Store::open(&place).expect("a store can be made"),
            place,
            layers,
            patience: Duration::from_millis(400),
        }
    }

    /// For what is so large that a busy machine takes its time.
    pub(super) fn patient() -> Self {
        let mut stage = Self::new();
        stage.patience = Duration::from_secs(20);
        stage
    }

    pub(super) fn name(&self) -> Name {
        format!("{}/a/b:1", self.registry.host())
            .parse()
            .expect("a name")
    }

    fn registries(&self, settings: Settings) -> Registries<'static> {
        let net = Net {
            connect_timeout: Duration::from_secs(2),
            stall_timeout: self.patience,
            retry: Retry {
                attempts: 3,
                first_pause: Duration::from_millis(1),
                longest_pause: Duration::from_millis(5),
            },
            ..Net::default()
        };
        Registries::new(settings, net)
    }

    /// Fetches the whole image.
    pub(super) fn pull(&self) -> Result<(), String> {
        self.pull_with(Settings::default())
    }

    pub(super) fn pull_with(&self, settings: Settings) -> Result<(), String> {
        let registries = self.registries(settings);
        let platform: Platform = "linux/amd64".parse().expect("a platform");
        let found = registries
            .resolve(&self.store, &self.name(), &platform)
            .map_err(in_full)?;
        for layer in &found.manifest.layers {
            registries
                .fetch(&self.store, &self.name(), layer, &|_| ())
                .map_err(in_full)?;
        }
        Ok(())
    }

    /// Sends a small image with one large layer.
    pub(super) fn push(&self, layer: &Path) -> Result<(), String> {
        let registries = self.registries(Settings::default());
        let bytes = std::fs::read(layer).expect("a layer");
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let digest = |bytes: &[u8]| digest_of(bytes).parse().expect("a digest");
        let open = || Ok(std::fs::File::open(layer)?);
        let blobs = [
            PushBlob {
                digest: digest(config),
                size: config.len() as u64,
                from: None,
                content: PushContent::Bytes(config),
            },
            PushBlob {
                digest: digest(&bytes),
                size: bytes.len() as u64,
                from: Some(
                    format!("{}/a/b:1", self.registry.host())
                        .parse()
                        .expect("a name"),
                ),
                content: PushContent::File(&open),
            },
        ];
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type::MANIFEST})
            .to_string()
            .into_bytes();
        let descriptor = Descriptor::of(media_type::MANIFEST, &manifest);
        let name: Name = format!("{}/new/x:2", self.registry.host())
            .parse()
            .expect("a name");
        let push = Push {
            name: &name,
            blobs: &blobs,
            manifests: &[(descriptor, manifest)],
            is_tagged: true,
        };
        registries.push(&push, &|_| ()).map(drop).map_err(in_full)
    }

    /// Every blob of the store is what its name says, and nothing is left over.
    pub(super) fn is_sound(&self) {
        for entry in std::fs::read_dir(self.place.join("blobs/sha256"))
            .expect("blobs")
            .flatten()
        {
            let content = std::fs::read(entry.path()).expect("a blob");
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            assert_eq!(digest_of(&content), name);
        }
        let left = std::fs::read_dir(self.place.join("tmp"))
            .expect("tmp")
            .count();
        assert_eq!(left, 0, "left in tmp");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.place));
    }
}

pub(super) fn in_full(error: shmocker::registry::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

pub(super) fn judge(
    what: &str,
    end: End,
    result: &Result<(), String>,
    took: Duration,
) -> Option<String> {
    let verdict = match (end, result) {
        (End::Well | End::Soundly, Ok(())) => None,
        (End::Well, Err(error)) => Some(format!("should be survived: {error}")),
        (End::Badly(_), Ok(())) => Some("should be an error".to_owned()),
        (End::Badly(parts), Err(error)) => {
            let says = parts.iter().any(|part| error.contains(part));
            (!says).then(|| format!("does not say one of {parts:?}: {error}"))
        }
        (End::Soundly, Err(_)) => None,
    };
    let shown = result.as_ref().err().map_or("", String::as_str);
    let odd = shown.chars().any(char::is_control) || shown.len() > 2000;
    let late = took > Duration::from_secs(20);
    verdict
        .or_else(|| odd.then(|| format!("is no line: {shown:?}")))
        .or_else(|| late.then(|| format!("took {took:?}")))
        .map(|verdict| format!("{what}: {verdict}"))
}

/// Does `one` for all, several at a time, and fails with all complaints.
pub(super) fn all<T: Sync>(rows: &[T], one: impl Fn(&T) -> Option<String> + Sync) {
    let complaints =
        shmocker::net::fetch_all(rows, 16, |row| Ok::<_, ()>(one(row))).expect("no row ends it");
    let complaints: Vec<String> = complaints.into_iter().flatten().collect();
    println!("{} faults", rows.len());
    assert!(
        complaints.is_empty(),
        "{} of {}:\n{}",
        complaints.len(),
        rows.len(),
        complaints.join("\n")
    );
}
