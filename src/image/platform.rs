//! What an image runs on, as `os/architecture[/variant]`, with the spellings that mean the same brought together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and a processor, in Go's words. Always in normal form once parsed: `linux/arm64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH.
    pub architecture: String,
    /// GOOS.
    pub os: String,
    /// `v7` and the like, where the architecture alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What else a manifest said of it (`os.version`, `os.features`).
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What was given as a platform is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform; one is `os/architecture` or `os/architecture/variant`, such as `linux/amd64`"
)]
pub struct NotAPlatform(pub String);

impl Platform {
    /// The processors of this machine.
    pub const OWN_ARCHITECTURE: &str = match () {
        () if cfg!(target_arch = "x86_64") => "amd64",
        () if cfg!(target_arch = "aarch64") => "arm64",
        () if cfg!(target_arch = "riscv64") => "riscv64",
        () if cfg!(target_arch = "s390x") => "s390x",
        () if cfg!(target_arch = "powerpc64") => "ppc64le",
        () if cfg!(target_arch = "loongarch64") => "loong64",
        () if cfg!(target_arch = "arm") => "arm",
        () if cfg!(target_arch = "x86") => "386",
        () => "unknown",
    };

    /// A platform in normal form, as containerd brings spellings together: `x86_64` is `amd64`, `arm64/v8` is `arm64`.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let variant = variant
            .map(str::to_ascii_lowercase)
            .filter(|text| !text.is_empty());
        let architecture = architecture.to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", _) => ("amd64", variant),
            ("i386" | "386", _) => ("386", None),
            ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
            ("aarch64" | "arm64", _) => ("arm64", variant),
            ("armhf", _) => ("arm", Some("v7".to_owned())),
            ("armel", _) => ("arm", Some("v6".to_owned())),
            ("arm", None | Some("7")) => ("arm", Some("v7".to_owned())),
            ("arm", Some("5" | "6" | "8")) => ("arm", variant.map(|digit| format!("v{digit}"))),
            (other, _) => (other, variant),
        };
        Self {
            architecture: architecture.to_owned(),
            os,
            variant,
            other: serde_json::Map::new(),
        }
    }

    /// That of the programs that this machine runs.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::new("linux", Self::OWN_ARCHITECTURE, None)
    }

    /// What Debian calls its architecture.
    #[must_use]
    pub fn debian(&self) -> String {
        let debian = match (self.architecture.as_str(), self.variant.as_deref()) {
            ("386", _) => "i386",
            ("arm", Some("v5" | "v6")) => "armel",
            ("arm", _) => "armhf",
            ("ppc64le", _) => "ppc64el",
            ("mips64le", _) => "mips64el",
            (same, _) => same,
        };
        debian.to_owned()
    }

    /// The same in normal form, without what else a manifest said of it.
    #[must_use]
    pub fn normalised(&self) -> Self {
        Self::new(&self.os, &self.architecture, self.variant.as_deref())
    }

    /// Whether they are the same platform, however they were spelt.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.normalised() == other.normalised()
    }

    /// Reads what people write for short, too: `linux/arm64/v8`, `arm64`, `linux`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        const SYSTEMS: [&str; 4] = ["linux", "windows", "darwin", "freebsd"];
        const ARCHITECTURES: [&str; 11] = [
            "amd64", "x86_64", "arm64", "aarch64", "arm", "386", "i386", "ppc64le", "s390x",
            "riscv64", "loong64",
        ];
        match text {
            os if SYSTEMS.contains(&os) => Some(Self::new(os, "amd64", None)),
            architecture if ARCHITECTURES.contains(&architecture) => {
                Some(Self::new("linux", architecture, None))
            }
            text => text.parse().ok(),
        }
    }
}

impl Default for Platform {
    fn default() -> Self {
        Self::new("linux", "amd64", None)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = NotAPlatform;

    fn from_str(text: &str) -> Result<Self, NotAPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_plain = |part: &&str| {
            let mut characters = part.chars();
            !part.is_empty() && characters.all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        };
        if !parts.iter().all(is_plain) {
            return Err(NotAPlatform(text.to_owned()));
        }
        match parts[..] {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(NotAPlatform(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_come_together() {
        let check = |text: &str, normal: &str| {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal)
        };
        check("linux/amd64", "linux/amd64");
        check("linux/x86_64", "linux/amd64");
        check("linux/arm64/v8", "linux/arm64");
        check("Linux/aarch64", "linux/arm64");
        check("linux/arm", "linux/arm/v7");
        check("linux/armel", "linux/arm/v6");
        assert!("linux".parse::<Platform>().is_err());
        let debian = |text: &str| text.parse::<Platform>().unwrap().debian();
        assert_eq!(debian("linux/arm/v6"), "armel");
        assert_eq!(debian("linux/arm"), "armhf");
        assert_eq!(debian("linux/ppc64le"), "ppc64el");
        assert_eq!(debian("linux/s390x"), "s390x");
        assert!("linux//v8".parse::<Platform>().is_err());
        assert!("linux/arm 64".parse::<Platform>().is_err());
        let short = |text: &str| Platform::parse(text).map(|platform| platform.to_string());
        assert_eq!(short("aarch64").as_deref(), Some("linux/arm64"));
        assert_eq!(short("linux").as_deref(), Some("linux/amd64"));
        assert_eq!(short("linux/arm").as_deref(), Some("linux/arm/v7"));
        assert_eq!(short("here"), None);
    }
}
