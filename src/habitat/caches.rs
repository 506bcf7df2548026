//! The directories in which known tools keep what they fetched: a table of data.
//!
//! A directory of a home is made by who runs the script before anything is mounted there: what a builder makes for a mount
//! belongs to root, and a tool that keeps other things beside its cache (`~/.cargo`) could not write them.

use std::collections::BTreeSet;

use serde_json::json;

use super::check::Habitat;
use super::keys::Text;
use super::plan::{Planner, Step};
use super::quote;
use super::steps::default_shell;

/// A directory, and how its tool is brought to use it.
#[derive(Debug, Clone, Copy)]
struct Directory {
    /// Absolute, or `~/…` of who runs the script.
    path: &'static str,
    sharing: Sharing,
    variable: Variable,
}

/// Whether two steps may use it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Shared,
    Locked,
}

/// The variable that moves the directory. Where the habitat's env sets it, its value counts.
#[derive(Debug, Clone, Copy)]
enum Variable {
    /// There is none.
    No,
    /// It says where the directory is.
    Heard(&'static str),
    /// The same; and the script is told, because an image or a version of the tool may have it elsewhere.
    Told(&'static str),
    /// It says where this parent of the directory is.
    Parent(&'static str, &'static str),
}

const fn shared(path: &'static str, variable: Variable) -> Directory {
    Directory {
        path,
        sharing: Sharing::Shared,
        variable,
    }
}

const fn locked(path: &'static str, variable: Variable) -> Directory {
    Directory {
        path,
        sharing: Sharing::Locked,
        variable,
    }
}

use Variable::{Heard, No, Parent, Told};

const CACHES: &[(&str, &[Directory])] = &[
    // Without /etc/apk/cache it keeps its indices only.
    ("apk", &[locked("/var/cache/apk", No)]),
    // Not all of /var/lib/apt: `extended_states` says which packages were asked for, and belongs to the image.
    (
        "apt",
        &[
            locked("/var/cache/apt", No),
            locked("/var/lib/apt/lists", No),
        ],
    ),
    (
        "bundler",
        &[shared("~/.bundle/cache", Heard("BUNDLE_USER_CACHE"))],
    ),
    (
        "cargo",
        &[
            shared("~/.cargo/registry", Parent("CARGO_HOME", "~/.cargo")),
            shared("~/.cargo/git", Parent("CARGO_HOME", "~/.cargo")),
        ],
    ),
    ("ccache", &[shared("~/.cache/ccache", Told("CCACHE_DIR"))]),
    (
        "composer",
        &[shared("~/.cache/composer", Told("COMPOSER_CACHE_DIR"))],
    ),
    // Version 5 has the second one. Packages are kept with `keepcache=1` only.
    (
        "dnf",
        &[
            locked("/var/cache/dnf", No),
            locked("/var/cache/libdnf5", No),
        ],
    ),
    (
        "go",
        &[
            shared("~/go/pkg/mod", Told("GOMODCACHE")),
            shared("~/.cache/go-build", Told("GOCACHE")),
        ],
    ),
    (
        "gradle",
        &[locked(
            "~/.gradle/caches",
            Parent("GRADLE_USER_HOME", "~/.gradle"),
        )],
    ),
    ("maven", &[shared("~/.m2/repository", No)]),
    ("npm", &[shared("~/.npm", Heard("npm_config_cache"))]),
    ("pip", &[shared("~/.cache/pip", Heard("PIP_CACHE_DIR"))]),
    (
        "pnpm",
        &[shared(
            "~/.local/share/pnpm/store",
            Told("npm_config_store_dir"),
        )],
    ),
    ("uv", &[shared("~/.cache/uv", Heard("UV_CACHE_DIR"))]),
    // The second is that of version 2 and later.
    (
        "yarn",
        &[
            shared("~/.cache/yarn", Told("YARN_CACHE_FOLDER")),
            shared("~/.yarn/berry", Told("YARN_GLOBAL_FOLDER")),
        ],
    ),
];

/// Images of Debian tell apt to throw away what it has downloaded. For one step it is told nothing of that: it reads its
/// configuration from a copy that is gone with the step.
const KEEP_PACKAGES: &str = "\
if [ -e /etc/apt/apt.conf.d/docker-clean ] && [ -w /dev/shm ]; then
  # What is downloaded stays in the cache.
  mkdir -p /dev/shm/apt.conf.d
  cp /etc/apt/apt.conf.d/* /dev/shm/apt.conf.d/
  rm /dev/shm/apt.conf.d/docker-clean
  echo 'Dir::Etc::parts \"/dev/shm/apt.conf.d/\";' > /dev/shm/apt.conf
  export APT_CONFIG=/dev/shm/apt.conf
fi";

/// Whether a tool is known.
pub(super) fn is_known(name: &str) -> bool {
    names().any(|known| known == name)
}

/// The tools that are known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CACHES.iter().map(|(name, _)| *name)
}

/// What a script's caches come to.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// Flags of RUN.
    pub(super) flags: Vec<String>,
    /// Lines of shell that go before the script's own.
    pub(super) lines: Vec<String>,
    /// What has to be there first: directories of a home.
    directories: BTreeSet<String>,
}

impl Caches {
    /// The caches of a script of this user.
    pub(super) fn of<'t>(
        habitat: &Habitat,
        user: &str,
        caches: impl Iterator<Item = &'t Text>,
    ) -> Self {
        let home = match user.split(':').next() {
            Some("root") => "/root".to_owned(),
            Some(other) if other != habitat.user => format!("/home/{other}"),
            _ => habitat.home.clone(),
        };
        let home = home.trim_end_matches('/');
        let at_home = |path: &str| match path.strip_prefix("~/") {
            Some(rest) => format!("{home}/{rest}"),
            None => path.to_owned(),
        };
        let value = |name: &str| {
            let entry = habitat.environment.get(name);
            entry.and_then(|entry| entry.known())
        };
        let mut all = Self::default();
        for cache in caches {
            let Some((name, directories)) = CACHES.iter().find(|(name, _)| *name == cache.value)
            else {
                all.mount(&at_home(&cache.value), Sharing::Shared, user, home);
                continue;
            };
            for directory in *directories {
                let usual = || at_home(directory.path);
                let target = match directory.variable {
                    No => usual(),
                    Heard(variable) => value(variable).unwrap_or_else(usual),
                    Told(variable) => value(variable).unwrap_or_else(|| {
                        let told = quote::shell(&usual());
                        all.lines.push(format!("export {variable}={told}"));
                        usual()
                    }),
                    Parent(variable, parent) => match value(variable) {
                        Some(value) => {
                            format!("{value}{}", &directory.path[parent.len()..])
                        }
                        None => usual(),
                    },
                };
                all.mount(&target, directory.sharing, user, home);
            }
            if *name == "apt" {
                all.lines.push(KEEP_PACKAGES.to_owned());
            }
        }
        all
    }

    fn mount(&mut self, target: &str, sharing: Sharing, user: &str, home: &str) {
        let mode = if user == "root" { "" } else { ",mode=0777" };
        let sharing = match sharing {
            Sharing::Shared => "",
            Sharing::Locked => ",sharing=locked",
        };
        self.flags
            .push(format!("--mount=type=cache,target={target}{mode}{sharing}"));
        if user != "root" && target.starts_with(&format!("{home}/")) {
            self.directories.insert(target.to_owned());
        }
    }
}

impl Planner<'_> {
    /// The step that makes the directories of a home that caches are mounted at, unless they are there by now.
    pub(super) fn mount_points(
        &mut self,
        caches: &Caches,
        user: &str,
        named: &str,
    ) -> Option<Step> {
        let missing = caches
            .directories
            .iter()
            .filter(|path| self.mount_points.insert((*path).clone()));
        let missing: Vec<String> = missing.map(|path| quote::shell(path)).collect();
        if missing.is_empty() {
            return None;
        }
        let command = quote::run(&format!("mkdir -p {}", missing.join(" ")));
        let said = format!("{named}, where its caches are mounted");
        let values = json!({ "flags": Vec::<String>::new(), "command": command });
        let step = Step::of("script.j2", said, values).user(user);
        Some(step.shell(default_shell()))
    }
}
