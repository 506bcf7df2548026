//! A month of builds in a few seconds: 300 builds of habitats that change, with a clock of their own. The store stays inside
//! its budget, and everything that is kept is whole.

use super::inventory::Keeper;
use super::*;
use crate::digest::{Digest, Fields, Key};
use crate::image::{
    Assembled, Base, History as ImageHistory, ImageConfig, Instruction, Layer, MediaTypes,
};
use crate::sys::file::tempdir::TempDir;

const HOUR_MS: u64 = 3_600_000;
const BUDGET: u64 = 6 << 20;
const BUILDS: u64 = 300;
const HABITATS: u64 = 5;
const PHASES: u64 = 6;

/// One phase of a habitat in one of its states, as a snapshot on those below.
fn phase(store: &Store, below: &[Key], key: Key, now_ms: u64) -> Key {
    let mut fields = Fields::new();
    fields.put("result of", key.to_string());
    let id = fields.key();
    if store.result(&key).unwrap().is_some() {
        return id;
    }
    let made = store.tmp_dir().unwrap();
    let fs = made.dir().create_dir("fs", 0o755).unwrap();
    let mut file = fs.create_file("file", 0o644).unwrap();
    std::io::Write::write_all(&mut file, &vec![key.as_bytes()[0]; 40_000]).unwrap();
    let record = Record {
        id,
        below: below.to_vec(),
        key: Some(key),
        fields,
        created_ms: now_ms,
        duration_ms: 1,
        what: format!("phase {}", key.short()),
    };
    store.write_record(&record, &made).unwrap();
    let size = tree_bytes(made.dir().try_clone().unwrap()).unwrap();
    let lease = store.publish_snapshot(&id, made).unwrap();
    drop(lease);
    store.index().unwrap().put_records(&[record]).unwrap();
    store.index().unwrap().put_sizes(&[(id, size)]).unwrap();
    id
}

/// The phases of a habitat in a state: what a state has in common with the one before is found. Returns how many were made.
fn phases(store: &Store, habitat: u64, state: u64, now_ms: u64) -> (Vec<Key>, u64) {
    let mut layers: Vec<Key> = Vec::new();
    let mut made = 0;
    for number in 0..PHASES {
        // Late phases change with every state, early ones seldom.
        let version = state / (PHASES - number).pow(2);
        let key = Key::of(format!("{habitat} {number} {version} {layers:?}").as_bytes());
        made += u64::from(store.result(&key).unwrap().is_none());
        let id = phase(store, &layers, key, now_ms);
        layers.push(id);
    }
    (layers, made)
}

/// Builds a habitat in a state. Returns how many phases were made.
fn build(
    store: &Store,
    habitat: u64,
    state: u64,
    project: &str,
    name: Option<&str>,
    now_ms: u64,
) -> u64 {
    let (layers, made) = phases(store, habitat, state, now_ms);
    let part = |(number, id): (usize, &Key)| PartUse {
        name: format!("phase-{number}"),
        snapshots: vec![*id],
    };
    let parts = layers.iter().enumerate().map(part).collect();
    let instructions = layers.iter().map(|id| Instruction {
        history: ImageHistory::default(),
        layer: Some(Layer::uncompressed(Digest::of(id.as_bytes()), 1, None)),
    });
    let image: Assembled = crate::image::assemble(
        ImageConfig {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..ImageConfig::default()
        },
        Base::default(),
        instructions.collect(),
        MediaTypes::Oci,
        None,
    )
    .unwrap();
    for bytes in [&image.config_bytes, &image.manifest_bytes] {
        if !store.has_blob(&Digest::of(bytes)) {
            store.put(bytes.as_slice()).unwrap();
        }
    }
    let digest = image.digest();
    for name in name
        .map(str::to_owned)
        .into_iter()
        .chain([digest.to_string()])
    {
        let image = StoredImage {
            name,
            digest,
            stored_ms: now_ms,
            layers: layers.clone(),
            pulled_from: None,
            base: None,
        };
        let known = store.image(&image.name).unwrap();
        if known.is_none_or(|known| known.digest != digest) {
            store.put_image(&image).unwrap();
        }
    }
    let used = BuildUse {
        project: project.to_owned(),
        parts,
        image: Some(digest),
        ..BuildUse::default()
    };
    store.note_use(&used, now_ms).unwrap();
    made
}

#[test]
fn a_month_of_builds_stays_inside_its_budget_and_whole() {
    let dir = TempDir::in_memory();
    let project = |habitat: u64| dir.path().join(format!("habitat-{habitat}.yaml"));
    for habitat in 0..HABITATS {
        std::fs::write(project(habitat), "").unwrap();
    }
    let limits = Limits {
        max: Some(Space::Bytes(BUDGET)),
        keep_ms: Some(20 * 24 * HOUR_MS),
        min_free: None,
    };
    let start_ms = 1_700_000_000_000;
    let mut made = 0;
    let mut evicted = false;
    for number in 0..BUILDS {
        // Each build is by a process of its own.
        let store = Store::open(dir.path().join("store")).unwrap();
        let now_ms = start_ms + number * 30 * 24 * HOUR_MS / BUILDS;
        let habitat = number * 7 % 11 % HABITATS;
        let name = (number % 29 == 0).then(|| format!("kept-{}:latest", number / 29 % 3));
        let path = project(habitat).display().to_string();
        made += build(&store, habitat, number / 2, &path, name.as_deref(), now_ms);
        assert_eq!(store.tidy(&limits, now_ms).unwrap(), None, "build {number}");
        // What was just built is there.
        let (_, again) = phases(&store, habitat, number / 2, now_ms);
        assert_eq!(again, 0, "build {number}");
        if number % 20 == 19 {
            let inventory = store.inventory(now_ms).unwrap();
            let total = inventory.total_bytes();
            assert!(total <= BUDGET, "build {number}: {total}");
            evicted |= total > BUDGET / 2;
            assert!(store.check(Repair::No).unwrap().findings.is_empty());
        }
    }
    assert!(made > BUILDS && evicted, "{made}");
    let store = Store::open(dir.path().join("store")).unwrap();
    let now_ms = start_ms + 30 * 24 * HOUR_MS;
    // The last build of each habitat, and each image with a name, are as they were.
    let inventory = store.inventory(now_ms).unwrap();
    let last = inventory
        .entries
        .iter()
        .filter(|entry| entry.keeper == Some(Keeper::LastBuild));
    assert!(last.count() > 10);
    let uses = store.uses().unwrap();
    let newest: Vec<_> = uses.iter().filter(|used| used.is_last).collect();
    assert_eq!(newest.len() as u64, HABITATS);
    for used in &newest {
        let snapshots = used.build.parts.iter().flat_map(|part| &part.snapshots);
        assert!(snapshots.into_iter().all(|id| store.has_snapshot(id)));
    }
    let images = store.images().unwrap();
    assert_eq!(
        images
            .iter()
            .filter(|image| image.name.starts_with("kept-"))
            .count(),
        3
    );
    for image in &images {
        assert!(
            image.layers.iter().all(|id| store.has_snapshot(id)),
            "{}",
            image.name
        );
    }
    // A habitat that is gone keeps nothing for long, and nothing is kept for ever.
    std::fs::remove_file(project(0)).unwrap();
    let later_ms = now_ms + 21 * 24 * HOUR_MS;
    assert_eq!(store.tidy(&limits, later_ms).unwrap(), None);
    let kept = |store: &Store| store.snapshots().unwrap().len() as u64;
    assert!(
        kept(&store) <= (HABITATS - 1 + 3) * PHASES,
        "{}",
        kept(&store)
    );
    assert!(store.check(Repair::No).unwrap().findings.is_empty());
}

#[test]
fn what_somebody_holds_stays_and_everything_else_goes() {
    let dir = TempDir::new();
    let store = Store::open(dir.path()).unwrap();
    let one = phase(&store, &[], Key::of(b"one"), 1);
    let two = phase(&store, &[one], Key::of(b"two"), 2);
    let lone = phase(&store, &[], Key::of(b"lone"), 3);
    let (blob, _) = store.put(&b"held"[..]).unwrap();
    let (free, _) = store.put(&b"free"[..]).unwrap();
    let all = Prune {
        all: true,
        ..Prune::default()
    };
    {
        // Another process: a lease on the upper one, and what it lies upon is needed as well.
        let other = Store::open(dir.path()).unwrap();
        let _works = other.tmp_dir().unwrap();
        let _held = other.lease_snapshot(&two).unwrap().unwrap();
        let _blob = other.lease_blob(&blob).unwrap().unwrap();
        store.prune(&all, 10).unwrap();
        assert!(store.has_snapshot(&one) && store.has_snapshot(&two) && !store.has_snapshot(&lone));
        assert!(store.has_blob(&blob) && other.lease_snapshot(&lone).unwrap().is_none());
        assert!(store.result(&Key::of(b"lone")).unwrap().is_none());
    }
    let pruned = store.prune(&all, 10).unwrap();
    assert!(!store.has_snapshot(&one) && !store.has_blob(&blob) && !store.has_blob(&free));
    assert!(pruned.removed_bytes > 80_000);
    assert!(store.inventory(10).unwrap().entries.is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn many_prune_and_build_at_once() {
    let dir = TempDir::in_memory();
    drop(Store::open(dir.path()).unwrap());
    let all = Prune {
        all: true,
        ..Prune::default()
    };
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let path = dir.path();
            scope.spawn(move || {
                for state in 0..10 {
                    let store = Store::open(path).unwrap();
                    // As a build that found everything looks it up and names it.
                    let _kept = store.keep_all().unwrap();
                    let name = format!("app-{thread}:latest");
                    build(&store, thread, state, "/nowhere", Some(&name), state);
                }
            });
        }
        for _ in 0..2 {
            let (path, all) = (dir.path(), &all);
            scope.spawn(move || {
                for _ in 0..15 {
                    Store::open(path).unwrap().prune(all, 50).unwrap();
                }
            });
        }
    });
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(
        store
            .images()
            .unwrap()
            .iter()
            .filter(|image| image.name.starts_with("app-"))
            .count(),
        3
    );
    let findings = store.check(Repair::No).unwrap().findings;
    assert!(findings.is_empty(), "{findings:?}");
}
