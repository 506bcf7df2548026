//! The directories in which known tools keep what they fetched: a table of data.

/// A directory and whether two steps may use it at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct CacheDirectory {
    /// Absolute, or `~/…` of who runs the script.
    pub(super) path: &'static str,
    /// Whether one step waits for another.
    pub(super) locked: bool,
}

const fn shared(path: &'static str) -> CacheDirectory {
    CacheDirectory {
        path,
        locked: false,
    }
}

const fn locked(path: &'static str) -> CacheDirectory {
    CacheDirectory { path, locked: true }
}

const CACHES: &[(&str, &[CacheDirectory])] = &[
    ("apk", &[locked("/var/cache/apk")]),
    ("apt", &[locked("/var/cache/apt"), locked("/var/lib/apt")]),
    ("bundler", &[shared("~/.bundle/cache")]),
    (
        "cargo",
        &[shared("~/.cargo/registry"), shared("~/.cargo/git")],
    ),
    ("ccache", &[shared("~/.cache/ccache")]),
    ("composer", &[shared("~/.cache/composer")]),
    ("dnf", &[locked("/var/cache/dnf")]),
    ("go", &[shared("~/go/pkg/mod"), shared("~/.cache/go-build")]),
    ("gradle", &[locked("~/.gradle/caches")]),
    ("maven", &[shared("~/.m2/repository")]),
    ("npm", &[shared("~/.npm")]),
    ("pip", &[shared("~/.cache/pip")]),
    ("pnpm", &[shared("~/.local/share/pnpm/store")]),
    ("uv", &[shared("~/.cache/uv")]),
    ("yarn", &[shared("~/.cache/yarn")]),
];

/// The directories of a tool.
pub(super) fn find(name: &str) -> Option<&'static [CacheDirectory]> {
    CACHES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, directories)| *directories)
}

/// The tools that are known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CACHES.iter().map(|(name, _)| *name)
}
