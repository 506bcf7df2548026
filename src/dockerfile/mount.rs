//! `RUN --mount=…`: what its options mean. Variables may stand in every value but that of `from`, so the meaning is
//! settled when they are known; what needs none is checked as the file is read.

use super::ast::MountFlag;
use super::expand::ExpandError;
use super::problem::Problem;

/// A mount with its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `type`
    pub kind: MountKind,
    /// `from`
    pub from: Option<String>,
    /// `source`
    pub source: Option<String>,
    /// `target`
    pub target: Option<String>,
    /// `readonly`, or what the type implies.
    pub read_only: bool,
    /// `size`
    pub size_bytes: Option<u64>,
    /// `id`
    pub id: Option<String>,
    /// `sharing`
    pub sharing: Option<Sharing>,
    /// `required`
    pub required: bool,
    /// `env`
    pub env: Option<String>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

/// `type=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// `sharing=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Any number of steps at once.
    Shared,
    /// Each its own.
    Private,
    /// One after another.
    Locked,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

const SHARINGS: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

/// `z` and `Z` ask for SELinux labels. None are set here, so there is nothing to relabel.
const RELABEL: &str = "z";

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Reports what is wrong whatever the variables are.
pub(super) fn check(flag: &MountFlag, problems: &mut Vec<Problem>) {
    let values = || {
        flag.options
            .iter()
            .filter_map(|option| option.value.as_deref().map(|value| (&option.key, value)))
    };
    for option in &flag.options {
        if option.key != RELABEL && !KEYS.contains(&option.key.as_str()) {
            let message = format!("unknown key `{}` of a mount", option.key);
            problems.push(
                Problem::error("dockerfile::mount_key", message, flag.span).near(&option.key, KEYS),
            );
            return;
        }
    }
    if values().any(|(key, value)| key == "from" && value.trim_end_matches('$').contains('$')) {
        problems.push(
            Problem::error(
                "dockerfile::mount_from",
                "`from` of a mount takes no variables",
                flag.span,
            )
            .help("define a stage with `FROM $VARIABLE AS name` and write `from=name`"),
        );
        return;
    }
    if !values().any(|(_, value)| value.contains(['$', '\'', '"', '\\', '`']))
        && let Err(problem) = flag.read(&mut |value| Ok(value.to_owned()))
    {
        problems.push(*problem);
    }
}

impl MountFlag {
    /// What the mount is, once variables are known.
    pub fn read(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<Mount, Box<Problem>> {
        let wrong = |message: String| Problem::error("dockerfile::mount", message, self.span);
        let mut mount = Mount {
            kind: MountKind::Bind,
            from: None,
            source: None,
            target: None,
            read_only: false,
            size_bytes: None,
            id: None,
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut read_only = None;
        for option in &self.options {
            let key = option.key.as_str();
            let value = match &option.value {
                None => None,
                Some(value) if key == "from" => Some(value.clone()),
                Some(value) => Some(expand(value).map_err(|error| wrong(error.to_string()))?),
            };
            let misplaced = || {
                wrong(format!(
                    "`{key}` is not for a mount of type {}",
                    mount.kind.name()
                ))
            };
            let Some(value) = value else {
                match key {
                    RELABEL => {}
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => {
                        mount.required = true
                    }
                    "required" => return Err(misplaced().into()),
                    _ => {
                        return Err(wrong(format!("`{key}` of a mount has no value"))
                            .help(format!("write `{key}=…`"))
                            .into());
                    }
                }
                continue;
            };
            let not_understood =
                |what: &str| wrong(format!("`{value}` is not {what} (`{key}` of a mount)"));
            match key {
                "type" => {
                    let lower = value.to_lowercase();
                    let found = KINDS.iter().find(|(name, _)| *name == lower);
                    let names = KINDS.iter().map(|(name, _)| *name);
                    mount.kind = found
                        .ok_or_else(|| not_understood("a type").near(&value, names))?
                        .1;
                }
                "from" => mount.from = Some(value).filter(|from| !from.is_empty()),
                "source" | "src" => mount.source = Some(value),
                "target" | "dst" | "destination" => mount.target = Some(value),
                "readonly" | "ro" => {
                    read_only = Some(truth(&value).ok_or_else(|| not_understood("true or false"))?)
                }
                "readwrite" | "rw" => {
                    read_only = Some(!truth(&value).ok_or_else(|| not_understood("true or false"))?)
                }
                "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => {
                    mount.required =
                        truth(&value).ok_or_else(|| not_understood("true or false"))?;
                }
                "required" => return Err(misplaced().into()),
                "size" if mount.kind == MountKind::Tmpfs => {
                    mount.size_bytes =
                        Some(parse_bytes(&value).ok_or_else(|| not_understood("a size"))?);
                }
                "size" => return Err(misplaced().into()),
                "id" => mount.id = Some(value).filter(|id| !id.is_empty()),
                "sharing" => {
                    let lower = value.to_lowercase();
                    let found = SHARINGS.iter().find(|(name, _)| *name == lower);
                    let names = SHARINGS.iter().map(|(name, _)| *name);
                    mount.sharing = Some(
                        found
                            .ok_or_else(|| not_understood("a sharing").near(&value, names))?
                            .1,
                    );
                }
                "mode" => {
                    let mode = u32::from_str_radix(&value, 8)
                        .map_err(|_| not_understood("an octal mode"))?;
                    mount.mode = Some(mode);
                }
                "uid" => mount.uid = Some(value.parse().map_err(|_| not_understood("a number"))?),
                "gid" => mount.gid = Some(value.parse().map_err(|_| not_understood("a number"))?),
                "env" => mount.env = Some(value),
                _ => {
                    return Err(wrong(format!("unknown key `{key}` of a mount"))
                        .near(key, KEYS)
                        .into());
                }
            }
        }
        mount.read_only =
            read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check().map_err(wrong)?;
        Ok(mount)
    }
}

impl MountKind {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

impl Mount {
    fn check(&self) -> Result<(), String> {
        let kind = self.kind.name();
        if matches!(self.kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, given) in [
                ("mode", self.mode.is_some()),
                ("uid", self.uid.is_some()),
                ("gid", self.gid.is_some()),
            ] {
                if given {
                    return Err(format!("`{key}` is not for a mount of type {kind}"));
                }
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return Err(format!("`sharing` is not for a mount of type {kind}"));
        }
        if self.kind == MountKind::Ssh {
            for (key, given) in [("source", &self.source), ("from", &self.from)] {
                if given.as_ref().is_some_and(|value| !value.is_empty()) {
                    return Err(format!("`{key}` is not for a mount of type ssh"));
                }
            }
        }
        if self.kind == MountKind::Secret {
            if self.from.is_some() {
                return Err("`from` is not for a mount of type secret".to_owned());
            }
            let named = [&self.source, &self.target, &self.id]
                .into_iter()
                .flatten()
                .any(|name| !name.is_empty());
            if !named {
                return Err("a secret needs an `id`, or a `target` to take it from".to_owned());
            }
            if self.source.is_some() && self.id.is_some() {
                return Err("a secret has an `id` or a `source`, not both".to_owned());
            }
        }
        Ok(())
    }
}

fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `64k`, `100MiB`, `1.5g`: units of 1024.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim().to_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some((number * 1024_f64.powi(power)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("64k", Some(65_536)),
            ("1.5g", Some(1_610_612_736)),
            ("10MiB", Some(10_485_760)),
            ("x", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
