//! Filters over what a store holds, by the names that `docker buildx prune --filter` has for them.

use super::inventory::{Entry, RecordType};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Filter {
    what: What,
    /// Whether it must not hold.
    negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum What {
    /// The beginning of what names it.
    Id(String),
    /// Its type's name.
    Type(String),
    /// The id of what it lies upon, or its beginning.
    Parents(String),
    /// Something keeps it.
    InUse,
    Mutable,
    Shared,
    /// It was not used for so many milliseconds.
    Until(u64),
    /// A part of its description.
    Description(String),
}

/// A filter that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// No such name.
    #[error(
        "there is no filter `{0}`; there are id, parents, type, inuse, mutable, immutable, shared, private, until, unused-for and description"
    )]
    Unknown(String),
    /// The name needs a value.
    #[error("the filter `{0}` needs a value: `{0}=…`")]
    NoValue(String),
    /// The comparison does not go with the name.
    #[error("the filter `{0}` cannot be compared so; it is given as `{1}`")]
    Comparison(String, &'static str),
    /// No such type.
    #[error(
        "there is no type `{0}`; there are image, regular, source.local, exec.cachemount, source.git.checkout, source.http, habitat, internal and frontend"
    )]
    Type(String),
    /// Not a duration.
    #[error("`{0}` is not a duration; one is 30m, 36h, 7d or 1h30m")]
    Duration(String),
    /// Not true or false.
    #[error("`{0}` is neither true nor false")]
    Flag(String),
}

/// BuildKit's name for frontends that are images; this store has none.
const FRONTEND: &str = "frontend";

impl std::str::FromStr for Filter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        let (name, comparison, value) = split(text);
        let needs = |value: Option<&str>| {
            let value = value.filter(|value| !value.is_empty());
            value
                .map(str::to_owned)
                .ok_or_else(|| BadFilter::NoValue(name.to_owned()))
        };
        let mut negated = comparison == Comparison::Differs;
        let mut flag = |turned: bool| -> Result<(), BadFilter> {
            let set = match value {
                None | Some("true" | "1") => true,
                Some("false" | "0") => false,
                Some(other) => return Err(BadFilter::Flag(other.to_owned())),
            };
            negated ^= turned == set;
            Ok(())
        };
        let what = match name {
            "id" => What::Id(needs(value)?),
            "parents" | "parent" => What::Parents(needs(value)?),
            "type" => {
                let value = needs(value)?;
                let known = RecordType::ALL.iter().any(|known| known.name() == value);
                if !known && value != FRONTEND {
                    return Err(BadFilter::Type(value));
                }
                What::Type(value)
            }
            "inuse" => {
                flag(false)?;
                What::InUse
            }
            "mutable" | "immutable" => {
                flag(name == "immutable")?;
                What::Mutable
            }
            "shared" | "private" => {
                flag(name == "private")?;
                What::Shared
            }
            "until" | "unused-for" => What::Until(duration_ms(&needs(value)?)?),
            "description" => What::Description(needs(value)?),
            other => return Err(BadFilter::Unknown(other.to_owned())),
        };
        match (&what, comparison) {
            (What::Description(_), _) => {}
            (_, Comparison::Contains) => {
                return Err(BadFilter::Comparison(
                    name.to_owned(),
                    "NAME=VALUE or NAME!=VALUE",
                ));
            }
            (What::Until(_), Comparison::Differs) => {
                return Err(BadFilter::Comparison(name.to_owned(), "until=DURATION"));
            }
            _ => {}
        }
        Ok(Self { what, negated })
    }
}

impl Filter {
    /// Whether it holds for an entry.
    #[must_use]
    pub fn accepts(&self, entry: &Entry, now_ms: u64) -> bool {
        let holds = match &self.what {
            What::Id(id) => entry.id.starts_with(id) || digits(&entry.id).starts_with(id),
            What::Type(name) => entry.kind.name() == name,
            What::Parents(id) => {
                let parent = entry.parent.map(|parent| parent.to_string());
                parent.is_some_and(|parent| parent.starts_with(id))
            }
            What::InUse => entry.keeper.is_some(),
            What::Mutable => entry.is_mutable(),
            What::Shared => entry.is_shared(),
            What::Until(ms) => entry.used_ms.saturating_add(*ms) <= now_ms,
            What::Description(part) => entry.description.contains(part),
        };
        holds != self.negated
    }
}

fn digits(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equals,
    Differs,
    Contains,
}

/// `name`, `name=value`, `name==value`, `name!=value`, `name~=value`.
fn split(text: &str) -> (&str, Comparison, Option<&str>) {
    let Some((name, value)) = text.split_once('=') else {
        return (text, Comparison::Equals, None);
    };
    if let Some(name) = name.strip_suffix('!') {
        return (name, Comparison::Differs, Some(value));
    }
    if let Some(name) = name.strip_suffix('~') {
        return (name, Comparison::Contains, Some(value));
    }
    (
        name,
        Comparison::Equals,
        Some(value.strip_prefix('=').unwrap_or(value)),
    )
}

/// `90s`, `36h`, `7d`, `1h30m`, in milliseconds.
fn duration_ms(text: &str) -> Result<u64, BadFilter> {
    let bad = || BadFilter::Duration(text.to_owned());
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 24 * 3_600_000,
            _ => return Err(bad()),
        };
        total = number
            .checked_mul(factor)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(bad)?;
        rest = &rest[unit..];
    }
    match text.is_empty() {
        true => Err(bad()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_add_up() {
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(duration_ms("7d"), Ok(604_800_000));
        assert_eq!(duration_ms("0s"), Ok(0));
        for bad in ["", "5", "h", "1x", "1h5"] {
            assert!(duration_ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_are_known_by_name_and_refused_by_name() {
        let read = |text: &str| text.parse::<Filter>();
        assert_eq!(read("private"), read("shared=false"));
        assert_eq!(read("immutable"), read("mutable!=true"));
        assert_eq!(read("unused-for=24h"), read("until=1d"));
        assert_eq!(read("type==regular"), read("type=regular"));
        for (text, part) in [
            ("colour=red", "no filter `colour`"),
            ("type=exec", "no type `exec`"),
            ("until=soon", "`soon` is not a duration"),
            ("until!=1h", "cannot be compared so"),
            ("id~=ab", "cannot be compared so"),
            ("id", "needs a value"),
            ("shared=maybe", "neither true nor false"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
