//! Named packages on top of a base: the base's own apt says what they need, and installs it.
//!
//! apt is shown an archive of its own, made of the signed index entries of everything it could choose from, and has no
//! network. What it wants is fetched and verified by us, and laid where it looks. To install, it is shown nothing but
//! those packages, as they describe themselves: so the tree depends on them alone, and can be made again when the
//! archive's index has long moved on.

use std::fs;
use std::path::Path;

use super::super::http::percent_decoded;
use super::error::{Error, Result};
use super::index::{Candidate, Offer};
use super::records::Control;
use super::runner::Runner;
use super::{
    Package, Progress, Resolution, Selection, Surroundings, WORKSHOP, base, configure, index,
};

/// The archive that apt is shown. Nobody is ever asked for that name (RFC 6761).
const SHOWN_ARCHIVE: &str = "http://archive.invalid/debian";

/// Asks the base's apt what these packages need. `root` is the base's tree, and may be written to; what is written is
/// taken away again.
///
/// # Errors
/// If there is no such package, or apt finds no way to install them together.
pub fn resolve(
    resolution: &Resolution,
    names: &[String],
    root: &Path,
    with: &Surroundings<'_>,
    runner: &dyn Runner,
) -> Result<Selection> {
    check_names(names)?;
    (with.progress)(Progress::Doing("resolving packages"));
    let index = index::excerpt_of(resolution, names, with)?;
    let offer = Offer::read(&index, &resolution.arch)?;
    check_offered(&resolution.suite, names, &offer)?;
    set_up(resolution, root)?;
    show(resolution, &index[0].text, root)?;
    let mut argv = apt_get();
    argv.extend(["--print-uris", "-qq", "install"].map(str::to_owned));
    argv.extend(names.iter().cloned());
    let output = configure::run(runner, root, resolution.release_date_s, "asking apt", argv);
    let asked = output.and_then(|output| {
        if output.status != 0 {
            return Err(Error::Unsolvable {
                names: names.join(", "),
                why: configure::tail(&output),
            });
        }
        read_uris(&String::from_utf8_lossy(&output.stdout), &offer, names)
    });
    base::finish(root, resolution.release_date_s)?;
    Ok(Selection {
        names: names.to_vec(),
        packages: asked?,
    })
}

/// Installs what was selected into `root`, the base's tree.
///
/// # Errors
/// If a package cannot be had, or one of its scripts fails.
pub fn build(
    resolution: &Resolution,
    selection: &Selection,
    root: &Path,
    with: &Surroundings<'_>,
    runner: &dyn Runner,
) -> Result<()> {
    base::check_tree(root)?;
    set_up(resolution, root)?;
    let archives = super::workshop(root).join("archives");
    let entries = base::each_obtained(
        &resolution.pockets,
        &selection.packages,
        with,
        |package, deb| {
            base::lend(&archives, package, &deb)?;
            Ok(entry(package, &Control::read(&deb, &package.name)?))
        },
    )?;
    show(resolution, &entries.concat(), root)?;
    (with.progress)(Progress::Doing("installing packages"));
    let mut argv = apt_get();
    argv.extend(["--no-download", "-q", "install"].map(str::to_owned));
    argv.extend(selection.names.iter().cloned());
    configure::run_well(
        runner,
        root,
        resolution.release_date_s,
        "installing packages",
        argv,
    )?;
    base::finish(root, resolution.release_date_s)
}

fn apt_get() -> Vec<String> {
    let settings = [
        format!("Dir::Etc::SourceList=/{WORKSHOP}/sources.list"),
        "Dir::Etc::SourceParts=/dev/null".to_owned(),
        format!("Dir::State::Lists=/{WORKSHOP}/lists"),
        format!("Dir::Cache=/{WORKSHOP}"),
        format!("Dir::Cache::Archives=/{WORKSHOP}/archives"),
        "Dir::Log::Planner=/dev/null".to_owned(),
        // The index has been checked; there is nobody to download as.
        "APT::Sandbox::User=root".to_owned(),
        "APT::Install-Recommends=false".to_owned(),
        "APT::Install-Suggests=false".to_owned(),
        "Dpkg::Use-Pty=false".to_owned(),
        "Dpkg::Options::=--force-unsafe-io".to_owned(),
        "Dpkg::Options::=--force-confdef".to_owned(),
    ];
    let mut argv = vec!["apt-get".to_owned(), "--yes".to_owned()];
    for setting in settings {
        argv.extend(["-o".to_owned(), setting]);
    }
    argv
}

/// Lays out what apt works with: its directories, and a sources.list.
fn set_up(resolution: &Resolution, root: &Path) -> Result<()> {
    let workshop = super::workshop(root);
    for directory in ["", "lists", "lists/partial", "archives", "archives/partial"] {
        let path = workshop.join(directory);
        fs::create_dir(&path).map_err(|error| Error::io("cannot make", &path, error))?;
    }
    let path = workshop.join("sources.list");
    let sources = format!(
        "deb [trusted=yes] {SHOWN_ARCHIVE} {} main\n",
        resolution.suite
    );
    fs::write(&path, sources).map_err(|error| Error::io("cannot write", &path, error))
}

/// Shows apt an index.
fn show(resolution: &Resolution, index: &str, root: &Path) -> Result<()> {
    let (suite, arch) = (&resolution.suite, &resolution.arch);
    let shown = SHOWN_ARCHIVE
        .trim_start_matches("http://")
        .replace('/', "_");
    let path = super::workshop(root).join(format!(
        "lists/{shown}_dists_{suite}_main_binary-{arch}_Packages"
    ));
    fs::write(&path, index).map_err(|error| Error::io("cannot write", &path, error))
}

/// A package's entry of an index, by what it says of itself.
fn entry(package: &Package, control: &Control) -> String {
    format!(
        "{}\nFilename: {}\nSize: {}\nSHA256: {}\n\n",
        control.fields().trim(),
        package.path,
        package.size_bytes,
        package.sha256.hex()
    )
}

/// Reads `'URI' FILE SIZE HASH` lines; each must be a package of the signed index.
fn read_uris(text: &str, offer: &Offer<'_>, names: &[String]) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('\'')) {
        let uri = line
            .trim_start_matches('\'')
            .split('\'')
            .next()
            .unwrap_or("");
        let path = uri
            .strip_prefix(SHOWN_ARCHIVE)
            .map(|path| percent_decoded(path.trim_start_matches('/')));
        let file = path
            .as_deref()
            .and_then(|path| path.rsplit_once('/'))
            .map_or("", |(_, file)| file);
        let name = file.split('_').next().unwrap_or("");
        let candidate: Option<&Candidate<'_>> = offer
            .get(name)
            .filter(|candidate| Some(candidate.path) == path.as_deref());
        let Some(candidate) = candidate else {
            return Err(Error::Unsolvable {
                names: names.join(", "),
                why: format!("it wants what is not in the index: {uri}"),
            });
        };
        packages.push(candidate.package()?);
    }
    packages.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(packages)
}

pub(super) fn check_names(names: &[String]) -> Result<()> {
    names.iter().try_for_each(|name| check_name(name))
}

/// Checks that the archive has every named package, or something that provides it.
pub(super) fn check_offered(suite: &str, names: &[String], offer: &Offer<'_>) -> Result<()> {
    let missing = names
        .iter()
        .find(|name| offer.get(name).is_none() && offer.providers(name).is_empty());
    missing.map_or(Ok(()), |name| {
        Err(Error::NoPackage {
            suite: suite.to_owned(),
            name: name.clone(),
            near: offer.near(name),
        })
    })
}

/// Checks a package's name before apt gets to see it: it takes `name-`, `name=version` and patterns for commands.
fn check_name(name: &str) -> Result<()> {
    let sound = name
        .starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.len() > 1
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if sound {
        Ok(())
    } else {
        Err(Error::Name {
            name: name.to_owned(),
            kind: "package",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_a_name_not_an_instruction() {
        for name in ["git", "g++", "libstdc++6", "0ad", "python3.11"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "", "-y", "git-", "git=1", "git/sid", "Git", "a b", "?all", "x;touch", "~x", "a",
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
