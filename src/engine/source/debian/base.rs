//! The base of a suite: its essential and required packages and apt, configured by their own scripts.
//!
//! That is the set of debootstrap's `minbase` and of the `debian:*` images: `Essential: yes`, `Priority: required`, `apt`,
//! and what these depend on. `/usr` is merged from the start, so `usr-is-merged` stands in for the package that would
//! merge it.
//!
//! The packages are unpacked here, all of them, and recorded as dpkg would have recorded them (`records`). Then the tree's
//! own programs take over: the `preinst` scripts, and `dpkg --configure`, which finds the order in which the rest comes
//! into being.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::{Error, Result};
use super::index::{IndexText, Offer};
use super::mirror::{self, Absence, Mirrors};
use super::records::{self, Control};
use super::runner::Runner;
use super::unpack::{self, Tree, Unpacked};
use super::{
    Excerpt, PUBLIC_ARCHIVE, PUBLIC_SECURITY_ARCHIVE, Package, Progress, Request, Resolution,
    ResolvedPocket, Surroundings, closure, configure, index, packages, release, tidy,
};
use crate::net;

/// How many downloads run at once.
const DOWNLOADS_AT_ONCE: usize = 8;

/// How many downloads run beside the configuration of the base, which needs the processor.
const PREFETCHED_AT_ONCE: usize = 3;

/// Asks the archive what the base of a suite is made of now.
///
/// # Errors
/// If the archive cannot be reached, is not signed by the keyring, has expired, or does not fit together.
pub fn resolve(
    request: &Request<'_>,
    mirrors: &Mirrors,
    with: &Surroundings<'_>,
) -> Result<Resolution> {
    packages::check_names(request.packages)?;
    let (pockets, indices) = read_archive(request, mirrors, with)?;
    let offer = Offer::read(&indices, request.arch)?;
    packages::check_offered(request.suite, request.packages, &offer)?;
    let all = names_of_base(&offer, request.suite)?;
    let mut chosen = Vec::with_capacity(all.len());
    for name in &all {
        if let Some(candidate) = offer.get(name) {
            chosen.push(candidate.package()?);
        }
    }
    Ok(Resolution {
        suite: request.suite.to_owned(),
        arch: request.arch.to_owned(),
        release_date_s: pockets.first().map_or(0, |pocket| pocket.date_s),
        pockets,
        excerpt: Some(Excerpt {
            names: request.packages.to_vec(),
            sha256: with
                .cache
                .keep(index::excerpt(&offer, &chosen, request.packages).as_bytes())?,
        }),
        packages: chosen,
    })
}

/// The versions that the archive has now of these packages; one that it has no more is not among them.
///
/// # Errors
/// As [`resolve`].
pub fn offered(
    request: &Request<'_>,
    names: &[&str],
    mirrors: &Mirrors,
    with: &Surroundings<'_>,
) -> Result<BTreeMap<String, String>> {
    let (_, indices) = read_archive(request, mirrors, with)?;
    let offer = Offer::read(&indices, request.arch)?;
    let found = names.iter().filter_map(|name| offer.get(name));
    Ok(found
        .map(|candidate| (candidate.name.to_owned(), candidate.version.to_owned()))
        .collect())
}

/// What the archive signs for now: its pockets, and their indices.
fn read_archive(
    request: &Request<'_>,
    mirrors: &Mirrors,
    with: &Surroundings<'_>,
) -> Result<(Vec<ResolvedPocket>, Vec<IndexText>)> {
    mirror::check_suite(request.suite)?;
    if !request
        .arch
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        || request.arch.is_empty()
    {
        return Err(Error::Name {
            name: request.arch.to_owned(),
            kind: "Debian architecture",
        });
    }
    (with.progress)(Progress::Doing("reading the archive"));
    let found =
        net::fetch_all(
            &mirrors.pockets,
            mirrors.pockets.len(),
            |pocket| match release::fetch(pocket, with)? {
                Some(release) => release.pocket(pocket, request.arch).map(Some),
                None if pocket.absence == Absence::Warns => {
                    (with.progress)(Progress::Warning(mirror::absence_warning(pocket)));
                    Ok(None)
                }
                None => Err(Error::NoSuite {
                    archive: net::redacted(&pocket.archive),
                    suite: pocket.suite.clone(),
                }),
            },
        )?;
    let pockets: Vec<ResolvedPocket> = found.into_iter().flatten().collect();
    let indices = index::fetch(&pockets, with)?;
    Ok((pockets, indices))
}

/// The names of the base's packages.
fn names_of_base<'t>(offer: &Offer<'t>, suite: &str) -> Result<BTreeSet<&'t str>> {
    let apt = offer.get("apt").ok_or_else(|| Error::NoPackage {
        suite: suite.to_owned(),
        name: "apt".to_owned(),
        near: offer.near("apt"),
    })?;
    // Without it, what demands a merged /usr would bring the package that merges it.
    let merged = offer.get("usr-is-merged").map(|candidate| candidate.name);
    let mut seeds: Vec<&str> = merged.into_iter().chain([apt.name]).collect();
    let of_base = |candidate: &&&index::Candidate<'_>| candidate.essential || candidate.required;
    seeds.extend(
        offer
            .sorted()
            .iter()
            .filter(of_base)
            .map(|candidate| candidate.name),
    );
    closure::closure(offer, &seeds)
}

/// Makes the base's tree in `root`, an empty directory.
///
/// # Errors
/// If a package cannot be had or unpacked, or one of its scripts fails.
pub fn build(
    resolution: &Resolution,
    root: &Path,
    with: &Surroundings<'_>,
    runner: &dyn Runner,
) -> Result<()> {
    (with.progress)(Progress::Doing("downloading and unpacking"));
    lay_out(root, &resolution.arch)?;
    let tree = Tree::open(root)?;
    let packages = each_obtained(
        &resolution.pockets,
        &resolution.packages,
        with,
        |package, deb| {
            let control = Control::read(&deb, &package.name)?;
            let unpacked = tree.unpack(&deb, &package.name, &control.conffiles())?;
            Ok((control, unpacked))
        },
    )?;
    let directories: Vec<_> = packages
        .iter()
        .flat_map(|(_, unpacked)| &unpacked.directories)
        .collect();
    tree.settle(&directories)?;
    records::write(&tree, &packages)?;
    write_settings(root, resolution)?;

    (with.progress)(Progress::Doing("configuring"));
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| prefetch(resolution, with, &enough));
        let configured = configure_all(resolution, &packages, root, runner);
        enough.store(true, Ordering::Relaxed);
        configured
    })?;
    tidy::tidy(root, resolution.release_date_s)
}

/// Lets the tree's own programs configure its packages.
fn configure_all(
    resolution: &Resolution,
    packages: &[(Control, Unpacked)],
    root: &Path,
    runner: &dyn Runner,
) -> Result<()> {
    let run = |what: &str, argv: &[&str]| {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        configure::run_well(runner, root, resolution.release_date_s, what, argv)
    };
    run(
        "preparing the base",
        &["sh", "-c", &records::preinst_script(packages)],
    )?;
    let configure = [
        "dpkg",
        "--force-depends",
        "--force-unsafe-io",
        "--configure",
        "--pending",
    ];
    run("configuring the base", &configure)?;
    let audit = run("auditing the base", &["dpkg", "--audit"])?;
    if audit.stdout.is_empty() {
        return Ok(());
    }
    let (status, tail) = (audit.status, configure::tail(&audit));
    Err(Error::Failed {
        what: "configuring the base".to_owned(),
        status,
        tail,
    })
}

/// Fetches what the named packages will most likely need, while the base is configured and its apt cannot be asked yet:
/// a guess by first alternatives, of which nothing depends but the time that it saves. What fails here fails again where
/// it matters.
fn prefetch(resolution: &Resolution, with: &Surroundings<'_>, enough: &AtomicBool) {
    let Some(Excerpt { names, .. }) = &resolution.excerpt else {
        return;
    };
    if names.is_empty() {
        return;
    }
    let guess = || -> Result<Vec<Package>> {
        let index = index::excerpt_of(resolution, names, with)?;
        let offer = Offer::read(&index, &resolution.arch)?;
        let base: BTreeSet<&str> = resolution
            .packages
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        let named = base.iter().copied().chain(names.iter().map(String::as_str));
        let seeds: Vec<&str> = named
            .filter_map(|name| offer.get(name))
            .map(|candidate| candidate.name)
            .collect();
        let all = closure::closure(&offer, &seeds)?;
        all.iter()
            .filter(|name| !base.contains(**name))
            .filter_map(|name| offer.get(name))
            .map(|candidate| candidate.package())
            .collect()
    };
    let silent = Surroundings {
        progress: &|_| (),
        ..*with
    };
    if let Ok(packages) = guess() {
        // Nobody waits for the rest once the base is there.
        drop(net::fetch_all(&packages, PREFETCHED_AT_ONCE, |package| {
            if enough.load(Ordering::Relaxed) {
                return Err(None);
            }
            let one = std::slice::from_ref(package);
            each_obtained(&resolution.pockets, one, &silent, |_, _| Ok(()))
                .map(drop)
                .map_err(Some)
        }));
    }
}

/// Downloads packages, and does something with each as soon as it is here.
pub(super) fn each_obtained<T: Send>(
    pockets: &[ResolvedPocket],
    packages: &[Package],
    with: &Surroundings<'_>,
    then: impl Fn(&Package, PathBuf) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let total: u64 = packages.iter().map(|package| package.size_bytes).sum();
    let done = AtomicU64::new(0);
    let (cache, client, progress) = (with.cache, with.client, with.progress);
    net::fetch_all(packages, DOWNLOADS_AT_ONCE, |package| {
        let pocket = pockets
            .get(package.pocket)
            .ok_or_else(|| Error::Malformed {
                what: format!("the resolution of {}", package.name),
                why: "it names an archive that is not there".to_owned(),
            })?;
        let url = format!("{}/{}", pocket.archive, package.path.replace('+', "%2B"));
        let deb = cache.obtain(client, &url, package.sha256, package.size_bytes, &|bytes| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            progress(Progress::Bytes { done, total });
        })?;
        then(package, deb)
    })
}

/// Puts a copy of a package where programs of the tree can read it; its path in the tree.
///
/// A copy, as a script of the tree could write to a link.
pub(super) fn lend(workshop: &Path, package: &Package, deb: &Path) -> Result<PathBuf> {
    let name = format!(
        "{}_{}_{}.deb",
        package.name,
        package.version.replace(':', "%3a"),
        package.arch
    );
    let copy = workshop.join(&name);
    fs::copy(deb, &copy).map_err(|error| Error::io("cannot copy a package to", &copy, error))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))
        .map_err(|error| Error::io("cannot set the mode of", &copy, error))?;
    let directory = workshop.file_name().map(PathBuf::from).unwrap_or_default();
    Ok(directory.join(name))
}

/// Takes the workshop away and makes the tree one that only depends on its packages.
pub(super) fn finish(root: &Path, epoch_s: u64) -> Result<()> {
    let workshop = super::workshop(root);
    fs::remove_dir_all(&workshop).map_err(|error| Error::io("cannot remove", &workshop, error))?;
    tidy::tidy(root, epoch_s)
}

/// What must be there before the first package: the root itself, a merged /usr, dpkg's empty records.
fn lay_out(root: &Path, arch: &str) -> Result<()> {
    let made = |path: &Path, done: std::io::Result<()>| {
        done.map_err(|error| Error::io("cannot make", path, error))
    };
    made(
        root,
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)),
    )?;
    made(root, chown(root, Some(0), Some(0)))?;
    let links: &[&str] = match arch {
        "amd64" => &["bin", "sbin", "lib", "lib32", "lib64", "libx32"],
        "i386" => &["bin", "sbin", "lib", "lib64", "libx32"],
        "ppc64el" => &["bin", "sbin", "lib", "lib64"],
        "s390x" => &["bin", "sbin", "lib", "lib32"],
        "mips64el" => &["bin", "sbin", "lib", "lib32", "lib64", "libo32"],
        _ => &["bin", "sbin", "lib"],
    };
    let mut directories: Vec<String> = vec!["usr".into()];
    directories.extend(links.iter().map(|name| format!("usr/{name}")));
    directories.extend(
        [
            "var",
            "var/lib",
            "var/lib/dpkg",
            "var/lib/dpkg/info",
            "var/lib/dpkg/updates",
            "var/lib/dpkg/triggers",
        ]
        .map(str::to_owned),
    );
    for directory in &directories {
        let path = root.join(directory);
        made(&path, fs::create_dir(&path))?;
        made(
            &path,
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)),
        )?;
    }
    for name in links {
        let path = root.join(name);
        made(&path, symlink(format!("usr/{name}"), &path))?;
    }
    Ok(())
}

/// What the base has beside its packages. The archive is named by http: it is signed, and what would check https is not
/// in the base.
fn write_settings(root: &Path, resolution: &Resolution) -> Result<()> {
    let suite = &resolution.suite;
    let mut sources = format!("deb {PUBLIC_ARCHIVE} {suite} main\n");
    for pocket in resolution.pockets.iter().skip(1) {
        let archive = if pocket.suite.ends_with("-security") {
            PUBLIC_SECURITY_ARCHIVE
        } else {
            PUBLIC_ARCHIVE
        };
        sources.push_str(&format!("deb {archive} {} main\n", pocket.suite));
    }
    write(root, "etc/apt/sources.list", &sources, 0o644)?;
    // No service is started by the installation of its package: nothing in an image runs.
    write(root, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)?;
    // A layer is written to disk as a whole, by the builder; syncing each file only takes time.
    write(
        root,
        "etc/dpkg/dpkg.cfg.d/unsafe-io",
        "force-unsafe-io\n",
        0o644,
    )
}

fn write(root: &Path, path: &str, content: &str, mode: u32) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let tree = Tree::open(root)?;
    tree.write(Path::new(directory), name, content.as_bytes(), mode, None)
        .map_err(|error| Error::io("cannot write", root.join(path), error))
}

/// Whether `path` is a directory that a tree can be made in.
pub(super) fn check_tree(path: &Path) -> Result<()> {
    unpack::open_directory(path).map(drop)
}
