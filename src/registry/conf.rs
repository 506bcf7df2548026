//! registries.conf, version 2 (containers-registries.conf(5)): mirrors, other places, what is insecure or blocked.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::Name;

/// All that was said of registries.
#[derive(Debug, Default)]
pub(super) struct Conf {
    registries: Vec<Registry>,
}

/// A place where an image may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The registry's host, with its port.
    pub(super) host: String,
    /// The repository there.
    pub(super) repository: String,
    /// Whether http and any certificate do.
    pub(super) insecure: bool,
}

/// Why registries.conf does not lead anywhere.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ConfError {
    /// It cannot be read.
    #[error("`{}` cannot be read", path.display())]
    #[diagnostic(code(registry::conf_unreadable))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what registries.conf is.
    #[error("`{}` cannot be used: {why}", path.display())]
    #[diagnostic(
        code(registry::conf),
        help(
            "it is in the form that containers-registries.conf(5) describes, version 2: `[[registry]]` with `prefix`, `location`, `insecure`, `blocked` and `[[registry.mirror]]`"
        )
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It says that this is not to be used.
    #[error("`{name}` is blocked in {}", path.display())]
    #[diagnostic(
        code(registry::blocked),
        help("see `blocked = true` for `{prefix}` there")
    )]
    Blocked {
        /// The image.
        name: String,
        /// For what it is said.
        prefix: String,
        /// Where.
        path: PathBuf,
    },
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
    /// Version 1.
    registries: Option<toml::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<PullFrom>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    All,
    DigestOnly,
    TagOnly,
}

impl Conf {
    /// Reads files, and directories of files that end in `.conf`; what is not there says nothing, and of two that speak of
    /// one prefix the later counts.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, ConfError> {
        let mut conf = Self::default();
        for path in files {
            for file in drop_ins(path)? {
                let text = match std::fs::read_to_string(&file) {
                    Ok(text) => text,
                    Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(source) => return Err(ConfError::Unreadable { path: file, source }),
                };
                conf.add(&text, &file)?;
            }
        }
        Ok(conf)
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), ConfError> {
        let malformed = |why: String| ConfError::Malformed {
            path: path.to_owned(),
            why,
        };
        let file: File =
            toml::from_str(text).map_err(|error| malformed(error.to_string().trim().to_owned()))?;
        if file.registries.is_some() {
            let why =
                "it is in version 1 (`[registries.…]`), which is not read any more".to_owned();
            return Err(malformed(why));
        }
        for mut registry in file.registry {
            if registry.prefix.is_empty() {
                registry.prefix.clone_from(&registry.location);
            }
            if registry.prefix.is_empty() {
                return Err(malformed(
                    "a `[[registry]]` has neither `prefix` nor `location`".to_owned(),
                ));
            }
            if registry.location.is_empty() && !registry.prefix.starts_with("*.") {
                registry.location.clone_from(&registry.prefix);
            }
            registry.path = path.to_owned();
            self.registries
                .retain(|known| known.prefix != registry.prefix);
            self.registries.push(registry);
        }
        Ok(())
    }

    /// Where an image may be had, the best place first.
    pub(super) fn places(&self, name: &Name) -> Result<Vec<Endpoint>, ConfError> {
        let Some((registry, rest)) = self.of(name)? else {
            return Ok(vec![Endpoint::of(name)]);
        };
        let is_pinned = name.digest.is_some();
        let serves = |mirror: &&Mirror| match mirror.pull_from_mirror {
            None if registry.mirror_by_digest_only => is_pinned,
            None | Some(PullFrom::All) => true,
            Some(PullFrom::DigestOnly) => is_pinned,
            Some(PullFrom::TagOnly) => !is_pinned,
        };
        let mirrors = registry.mirror.iter().filter(serves);
        let mirrors =
            mirrors.filter_map(|mirror| Endpoint::at(&mirror.location, &rest, mirror.insecure));
        Ok(mirrors.chain([registry.own(name, &rest)]).collect())
    }

    /// Where an image is without mirrors.
    pub(super) fn origin(&self, name: &Name) -> Result<Endpoint, ConfError> {
        Ok(match self.of(name)? {
            Some((registry, rest)) => registry.own(name, &rest),
            None => Endpoint::of(name),
        })
    }

    /// Whether a registry as a whole is called insecure.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let mut all = self.registries.iter();
        all.any(|registry| registry.insecure && registry.location == host)
    }

    /// What is said of an image: the longest prefix that fits counts. With what follows the prefix.
    fn of(&self, name: &Name) -> Result<Option<(&Registry, String)>, ConfError> {
        let full = format!("{}/{}", name.registry, name.repository);
        let fits = |registry: &&Registry| rest(&registry.prefix, name, &full).is_some();
        let Some(found) = self
            .registries
            .iter()
            .filter(fits)
            .max_by_key(|registry| registry.prefix.len())
        else {
            return Ok(None);
        };
        if found.blocked {
            return Err(ConfError::Blocked {
                name: name.to_string(),
                prefix: found.prefix.clone(),
                path: found.path.clone(),
            });
        }
        Ok(rest(&found.prefix, name, &full).map(|rest| (found, rest)))
    }
}

impl Registry {
    fn own(&self, name: &Name, rest: &str) -> Endpoint {
        let at = Endpoint::at(&self.location, rest, self.insecure);
        at.unwrap_or(Endpoint {
            insecure: self.insecure,
            ..Endpoint::of(name)
        })
    }
}

impl Endpoint {
    fn of(name: &Name) -> Self {
        Self {
            host: name.registry.clone(),
            repository: name.repository.clone(),
            insecure: false,
        }
    }

    /// `None` for a location without a host: that of a wildcard, which says nothing of places.
    fn at(location: &str, rest: &str, insecure: bool) -> Option<Self> {
        let full = format!("{location}{rest}");
        let (host, repository) = full.split_once('/')?;
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            repository: repository.to_owned(),
            insecure,
        })
    }
}

/// What follows a prefix in a name, if it begins with it: `/…`, or nothing.
fn rest(prefix: &str, name: &Name, full: &str) -> Option<String> {
    if let Some(domain) = prefix.strip_prefix("*.") {
        let host = name.registry.strip_suffix(domain)?.strip_suffix('.')?;
        return (!host.is_empty()).then(|| format!("/{}", name.repository));
    }
    let rest = full.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
}

/// A file, or those in a directory, in the order of their names.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |source| ConfError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|ending| ending == "conf") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Conf {
        let mut conf = Conf::default();
        conf.add(text, Path::new("registries.conf")).unwrap();
        conf
    }

    fn places(conf: &Conf, name: &str) -> Vec<String> {
        let places = conf.places(&name.parse().unwrap()).unwrap();
        places
            .iter()
            .map(|place| {
                let scheme = if place.insecure { "insecure " } else { "" };
                format!("{scheme}{}/{}", place.host, place.repository)
            })
            .collect()
    }

    #[test]
    fn mirrors_come_before_the_place_itself() {
        let conf = conf(
            "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"mirror:5000/hub\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"pinned\"\npull-from-mirror = \"digest-only\"\n",
        );
        assert_eq!(
            places(&conf, "debian"),
            [
                "insecure mirror:5000/hub/library/debian",
                "docker.io/library/debian"
            ]
        );
        let digest = crate::digest::Digest::of(b"");
        assert_eq!(places(&conf, &format!("debian@{digest}")).len(), 3);
        assert_eq!(places(&conf, "ghcr.io/a/b"), ["ghcr.io/a/b"]);
    }

    #[test]
    fn the_longest_prefix_counts() {
        let conf = conf(
            "[[registry]]\nprefix = \"a.org\"\nblocked = true\n[[registry]]\nprefix = \"a.org/x\"\nlocation = \"b.org/y\"\n\
             [[registry]]\nprefix = \"*.c.org\"\ninsecure = true\n",
        );
        assert_eq!(places(&conf, "a.org/x/z:1"), ["b.org/y/z"]);
        assert_eq!(places(&conf, "a.org/x"), ["b.org/y"]);
        assert_eq!(places(&conf, "sub.c.org/z"), ["insecure sub.c.org/z"]);
        assert!(conf.places(&"a.org/xy".parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for text in [
            "[registries.search]\nregistries = []\n",
            "[[registry]]\n",
            "x = ",
        ] {
            let mut conf = Conf::default();
            assert!(conf.add(text, Path::new("x.conf")).is_err(), "{text}");
        }
    }
}
