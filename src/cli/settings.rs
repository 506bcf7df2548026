//! What a user has settled once: `$XDG_CONFIG_HOME/shmocker/config.toml`, else `~/.config/shmocker/config.toml`. The
//! environment says the same for once, and wins.
//!
//! ```toml
//! [store]
//! max_bytes = "10%"     # or "20GB", 21474836480, "none"      SHMOCKER_STORE_MAX_BYTES
//! keep_days = 60        # or "none"                           SHMOCKER_STORE_KEEP_DAYS
//! min_free = "5%"       # or "10GB", "none"                   SHMOCKER_STORE_MIN_FREE
//! ```

use std::path::Path;

use serde::Deserialize;

use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use crate::engine::failure::{Failure, FailureKind};
use crate::store::{Limits, Space};

const DAY_MS: u64 = 24 * 3_600_000;

/// The file. What it does not know it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    store: StoreTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreTable {
    max_bytes: Option<Value>,
    keep_days: Option<Value>,
    min_free: Option<Value>,
}

/// A number, or a text that says one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Number(u64),
    Text(String),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// `512MB`, `10%`, `0`.
pub(super) fn parse_space(text: &str) -> Result<Space, String> {
    let wrong = || {
        "a size is a number of bytes, one with kB, MB, GB or TB, or a part of the disk such as 10%"
            .to_owned()
    };
    match text.strip_suffix('%') {
        Some(percent) => match percent.trim().parse() {
            Ok(percent @ 0..=100) => Ok(Space::Percent(percent)),
            _ => Err(wrong()),
        },
        None => crate::dockerfile::parse_bytes(text)
            .map(Space::Bytes)
            .ok_or_else(wrong),
    }
}

fn space_or_none(text: &str) -> Result<Option<Space>, String> {
    match text {
        "none" => Ok(None),
        text => parse_space(text).map(Some),
    }
}

fn days_or_none(text: &str) -> Result<Option<u64>, String> {
    match text {
        "none" => Ok(None),
        text => match text.parse::<u32>() {
            Ok(days) => Ok(Some(u64::from(days) * DAY_MS)),
            Err(_) => Err("it is a number of days, or none".to_owned()),
        },
    }
}

/// How large the store may get.
pub(super) fn limits(environment: &Environment) -> Result<Limits, Stop> {
    let mut limits = Limits::default();
    if let Some(path) = environment.config_file() {
        read(&path, &mut limits)?;
    }
    let set = [
        ("SHMOCKER_STORE_MAX_BYTES", &environment.store_max_bytes),
        ("SHMOCKER_STORE_KEEP_DAYS", &environment.store_keep_days),
        ("SHMOCKER_STORE_MIN_FREE", &environment.store_min_free),
    ];
    for (name, value) in set {
        let Some(value) = value else {
            continue;
        };
        let result = match name {
            "SHMOCKER_STORE_MAX_BYTES" => space_or_none(value).map(|max| limits.max = max),
            "SHMOCKER_STORE_KEEP_DAYS" => days_or_none(value).map(|days| limits.keep_ms = days),
            _ => space_or_none(value).map(|free| limits.min_free = free),
        };
        result.map_err(|why| Stop::usage(format!("{name} is `{value}`"), why))?;
    }
    Ok(limits)
}

fn read(path: &Path, limits: &mut Limits) -> Result<(), Stop> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            let message = format!("the settings in {} cannot be read", path.display());
            return Err(
                Failure::caused(FailureKind::Input, "cli::settings", message, &error).into(),
            );
        }
    };
    let wrong = |why: String| {
        let message = format!(
            "the settings in {} cannot be used: {}",
            path.display(),
            why.trim_end()
        );
        let failure = Failure::new(FailureKind::Input, "cli::settings", message)
            .with_help("the table [store] may have max_bytes, keep_days and min_free");
        Stop {
            exit: Exit::Usage,
            ..Stop::from(failure)
        }
    };
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let table = file.store;
    let named = |name: &str, why: String| wrong(format!("store.{name}: {why}"));
    if let Some(max) = table.max_bytes {
        limits.max = space_or_none(&max.text()).map_err(|why| named("max_bytes", why))?;
    }
    if let Some(days) = table.keep_days {
        limits.keep_ms = days_or_none(&days.text()).map_err(|why| named("keep_days", why))?;
    }
    if let Some(free) = table.min_free {
        limits.min_free = space_or_none(&free.text()).map_err(|why| named("min_free", why))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::tempdir::TempDir;

    #[test]
    fn the_environment_wins_over_the_file_and_both_are_checked() {
        let dir = TempDir::new();
        std::fs::create_dir(dir.path().join("shmocker")).unwrap();
        let file = dir.path().join("shmocker/config.toml");
        let mut environment = Environment {
            xdg_config_home: Some(dir.path().to_owned()),
            ..Environment::default()
        };
        assert_eq!(limits(&environment).unwrap(), Limits::default());
        std::fs::write(
            &file,
            "[store]\nmax_bytes = \"2GB\"\nkeep_days = 3\nmin_free = \"none\"\n",
        )
        .unwrap();
        let settled = limits(&environment).unwrap();
        assert_eq!(settled.max, Some(Space::Bytes(2 << 30)));
        assert_eq!(
            (settled.keep_ms, settled.min_free),
            (Some(3 * DAY_MS), None)
        );
        environment.store_max_bytes = Some("25%".to_owned());
        assert_eq!(limits(&environment).unwrap().max, Some(Space::Percent(25)));
        environment.store_max_bytes = Some("much".to_owned());
        assert!(limits(&environment).is_err());
        environment.store_max_bytes = None;
        for bad in [
            "[store]\nsize = 3\n",
            "[store]\nkeep_days = -1\n",
            "store = 3",
            "[store",
        ] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(limits(&environment).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
