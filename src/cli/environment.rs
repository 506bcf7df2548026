//! Everything that the environment says, read once. Nothing below the command line reads it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::engine::work::LogLimits;

/// The values of the environment that shmocker listens to.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment {
    /// HOME
    pub(super) home: Option<PathBuf>,
    /// XDG_DATA_HOME
    pub(super) xdg_data_home: Option<PathBuf>,
    /// XDG_CONFIG_HOME
    pub(super) xdg_config_home: Option<PathBuf>,
    /// SHMOCKER_STORE
    pub(super) store: Option<PathBuf>,
    /// SHMOCKER_STORE_MAX_BYTES
    pub(super) store_max_bytes: Option<String>,
    /// SHMOCKER_STORE_KEEP_DAYS
    pub(super) store_keep_days: Option<String>,
    /// SHMOCKER_STORE_MIN_FREE
    pub(super) store_min_free: Option<String>,
    /// SHMOCKER_DEBIAN_MIRROR
    pub(super) debian_mirror: Option<String>,
    /// SHMOCKER_DEBIAN_KEYRING
    pub(super) debian_keyring: Option<PathBuf>,
    /// BUILDKIT_PROGRESS
    pub(super) progress: Option<String>,
    /// NO_COLOR is set to something
    pub(super) no_color: bool,
    /// SOURCE_DATE_EPOCH
    pub(super) source_date_epoch: Option<String>,
    /// SSL_CERT_FILE
    pub(super) ca_file: Option<PathBuf>,
    /// SSH_AUTH_SOCK
    pub(super) ssh_agent: Option<PathBuf>,
    /// SHELL
    pub(super) shell: Option<String>,
    /// BUILDKIT_STEP_LOG_MAX_SIZE and BUILDKIT_STEP_LOG_MAX_SPEED
    pub(super) log_limits: LogLimits,
    /// DOCKER_DEFAULT_PLATFORM
    pub(super) platform: Option<String>,
    /// The directories of PATH.
    pub(super) programs: Vec<PathBuf>,
    /// DOCKER_HOST
    pub(super) docker_host: Option<String>,
    /// XDG_RUNTIME_DIR
    pub(super) xdg_runtime_dir: Option<PathBuf>,
    /// HTTP_PROXY and the like, in either case, as they are set.
    pub(super) proxies: Vec<(String, String)>,
}

const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Environment {
    /// Reads it.
    #[must_use]
    pub(super) fn read() -> Self {
        Self {
            home: path("HOME"),
            xdg_data_home: path("XDG_DATA_HOME"),
            xdg_config_home: path("XDG_CONFIG_HOME"),
            store: path("SHMOCKER_STORE"),
            store_max_bytes: variable("SHMOCKER_STORE_MAX_BYTES"),
            store_keep_days: variable("SHMOCKER_STORE_KEEP_DAYS"),
            store_min_free: variable("SHMOCKER_STORE_MIN_FREE"),
            debian_mirror: variable("SHMOCKER_DEBIAN_MIRROR"),
            debian_keyring: path("SHMOCKER_DEBIAN_KEYRING"),
            progress: variable("BUILDKIT_PROGRESS"),
            no_color: variable("NO_COLOR").is_some(),
            source_date_epoch: variable("SOURCE_DATE_EPOCH"),
            ca_file: path("SSL_CERT_FILE"),
            ssh_agent: path("SSH_AUTH_SOCK"),
            shell: variable("SHELL"),
            log_limits: LogLimits {
                bytes_max: limit("BUILDKIT_STEP_LOG_MAX_SIZE", LogLimits::default().bytes_max),
                bytes_per_second_max: limit(
                    "BUILDKIT_STEP_LOG_MAX_SPEED",
                    LogLimits::default().bytes_per_second_max,
                ),
            },
            platform: variable("DOCKER_DEFAULT_PLATFORM"),
            programs: os_variable("PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            docker_host: variable("DOCKER_HOST"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            proxies: PROXIES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), variable(name)?)))
                .collect(),
        }
    }

    /// The user's own layer of every habitat: `$XDG_CONFIG_HOME/shmocker/habitat.yaml`, else below `~/.config`.
    #[must_use]
    pub(super) fn user_layer(&self) -> Option<PathBuf> {
        Some(self.config_home()?.join("shmocker/habitat.yaml"))
    }

    /// The user's settings: `$XDG_CONFIG_HOME/shmocker/config.toml`, else below `~/.config`.
    #[must_use]
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        Some(self.config_home()?.join("shmocker/config.toml"))
    }

    fn config_home(&self) -> Option<PathBuf> {
        self.xdg_config_home
            .clone()
            .or_else(|| Some(self.home.clone()?.join(".config")))
    }

    /// Where a docker engine may listen: at DOCKER_HOST and nowhere else, if that is set. `None`: that is on another machine.
    #[must_use]
    pub(super) fn docker_sockets(&self) -> Option<Vec<PathBuf>> {
        match &self.docker_host {
            Some(host) => Some(vec![PathBuf::from(host.strip_prefix("unix://")?)]),
            None => {
                let own = self
                    .xdg_runtime_dir
                    .as_ref()
                    .map(|dir| dir.join("docker.sock"));
                let usual = PathBuf::from("/var/run/docker.sock");
                Some(own.into_iter().chain([usual]).collect())
            }
        }
    }

    /// The store's directory: `--store`, else SHMOCKER_STORE, else `$XDG_DATA_HOME/shmocker`, else
    /// `~/.local/share/shmocker`. `None` where nothing says where home is.
    #[must_use]
    pub(super) fn store_path(&self, option: Option<PathBuf>) -> Option<PathBuf> {
        option
            .or_else(|| self.store.clone())
            .or_else(|| Some(self.xdg_data_home.clone()?.join("shmocker")))
            .or_else(|| Some(self.home.clone()?.join(".local/share/shmocker")))
    }
}

/// A number of bytes; -1 is no limit. What is neither changes nothing, as in BuildKit.
fn limit(name: &str, usual: Option<u64>) -> Option<u64> {
    match variable(name).and_then(|text| text.parse::<i32>().ok()) {
        Some(-1) => None,
        Some(bytes) => u64::try_from(bytes).ok().or(usual),
        None => usual,
    }
}

/// A variable that is set to something, if it is UTF-8.
pub(super) fn variable(name: &str) -> Option<String> {
    os_variable(name)?.into_string().ok()
}

/// The whole environment, as far as it is UTF-8: for a command that runs beside the engine.
pub(super) fn all_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn path(name: &str) -> Option<PathBuf> {
    os_variable(name).map(PathBuf::from)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
fn os_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
