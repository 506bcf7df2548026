//! `--cache-from` and `--cache-to`, as they are written: `type=registry,ref=…`, by buildx's names.

use std::fmt;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{Compression, Name};

/// Where a cache is read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheFrom {
    /// A cache in a registry, or an image with one in it.
    Registry {
        /// Its name.
        name: Name,
        /// Whether its registry may speak http, and show any certificate.
        insecure: bool,
    },
    /// A directory.
    Directory {
        /// Where, as it was given.
        path: PathBuf,
        /// Under which tag.
        tag: String,
        /// Or this very one.
        digest: Option<Digest>,
    },
}

/// Where a cache is written, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheTo {
    /// Where.
    pub target: Target,
    /// What of it.
    pub mode: Mode,
    /// How its layers are compressed.
    pub compression: Compression,
    /// Whether layers that are there in another compression are compressed again.
    pub force_compression: bool,
    /// What becomes of a build whose cache cannot be written.
    pub on_error: OnError,
}

/// Where a cache is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// To a registry.
    Registry {
        /// Under which name.
        name: Name,
        /// Whether its registry may speak http, and show any certificate.
        insecure: bool,
    },
    /// Into a directory.
    Directory {
        /// Where, as it was given.
        path: PathBuf,
        /// Under which tag.
        tag: String,
    },
    /// Into the image that is built.
    Inline,
}

/// What is written of what a build has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The layers of the result.
    Min,
    /// Those of every step, the sources, downloads and cache mounts.
    Max,
}

/// What becomes of a build whose cache cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnError {
    /// It is warned of.
    Warn,
    /// It fails: that was asked for (`ignore-error=false`).
    Fail,
}

/// What was given is not understood, or is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{flag} {given}`: {why}")]
pub struct SpecError {
    flag: &'static str,
    given: String,
    why: String,
    /// The way out.
    pub help: String,
}

const FROM: &str = "--cache-from";
const TO: &str = "--cache-to";
const TAG: &str = "latest";

impl CacheFrom {
    /// Understands what was given. References alone may be several.
    ///
    /// # Errors
    /// If it means nothing, or nothing that is there.
    pub fn parse(given: &str) -> Result<Vec<Self>, SpecError> {
        if let Some(references) = references(given) {
            let names = references.map(|reference| {
                let name = name(reference).map_err(|why| wrong(FROM, given, why))?;
                let insecure = false;
                Ok(Self::Registry { name, insecure })
            });
            return names.collect();
        }
        let mut values = Values::read(FROM, given)?;
        let cache = match values.kind()?.as_str() {
            "registry" => Self::Registry {
                name: values.reference()?,
                insecure: values.switch("registry.insecure")?.unwrap_or(false),
            },
            "local" => Self::Directory {
                path: values.needed("src")?.into(),
                tag: values.take("tag").unwrap_or_else(|| TAG.to_owned()),
                digest: match values.take("digest") {
                    None => None,
                    Some(digest) => Some(digest.parse().map_err(|_| {
                        values.wrong(format!("`{digest}` is no digest: write sha256:…"))
                    })?),
                },
            },
            "inline" => {
                return Err(values.wrong(
                    "a cache that is in an image is read with `type=registry,ref=IMAGE`".to_owned(),
                ));
            }
            kind => return Err(values.no_type(kind)),
        };
        values.end()?;
        Ok(vec![cache])
    }
}

impl CacheTo {
    /// Understands what was given.
    ///
    /// # Errors
    /// If it means nothing, or nothing that is there.
    pub fn parse(given: &str) -> Result<Self, SpecError> {
        if let Some(mut references) = references(given) {
            let (Some(reference), None) = (references.next(), references.next()) else {
                let why = "a cache is written to one place: give the flag again".to_owned();
                return Err(wrong(TO, given, why));
            };
            return Ok(Self::plain(Target::Registry {
                name: name(reference).map_err(|why| wrong(TO, given, why))?,
                insecure: false,
            }));
        }
        let mut values = Values::read(TO, given)?;
        let target = match values.kind()?.as_str() {
            "registry" => {
                for (key, why) in [
                    (
                        "image-manifest",
                        "a cache is one image manifest, which every registry takes",
                    ),
                    ("oci-mediatypes", "Docker's types have no word for a cache"),
                ] {
                    if values.switch(key)? == Some(false) {
                        return Err(values.wrong(format!("`{key}=false` is not there: {why}")));
                    }
                }
                Target::Registry {
                    name: values.reference()?,
                    insecure: values.switch("registry.insecure")?.unwrap_or(false),
                }
            }
            "local" => {
                for key in ["image-manifest", "oci-mediatypes", "reset"] {
                    if values.switch(key)? == Some(false) {
                        let why = "a directory has image manifests of OCI's types, and is rid of what they do not name";
                        return Err(values.wrong(format!("`{key}=false` is not there: {why}")));
                    }
                }
                Target::Directory {
                    path: values.needed("dest")?.into(),
                    tag: values.take("tag").unwrap_or_else(|| TAG.to_owned()),
                }
            }
            "inline" => {
                if values.take("mode").is_some_and(|mode| mode != "min") {
                    let why = "an image has the layers of the result and no others: the mode is `min`; `type=registry,ref=…,mode=max` writes all";
                    return Err(values.wrong(why.to_owned()));
                }
                values.end()?;
                return Ok(Self {
                    mode: Mode::Min,
                    ..Self::plain(Target::Inline)
                });
            }
            kind => return Err(values.no_type(kind)),
        };
        let mode = match values.take("mode").as_deref() {
            Some("max") => Mode::Max,
            None | Some("min") => Mode::Min,
            Some(other) => {
                return Err(values.wrong(format!("there is no mode `{other}`: it is min or max")));
            }
        };
        let cache = Self {
            target,
            mode,
            compression: values.compression()?,
            force_compression: values.switch("force-compression")?.unwrap_or(false),
            on_error: match values.switch("ignore-error")? {
                Some(false) => OnError::Fail,
                None | Some(true) => OnError::Warn,
            },
        };
        values.end()?;
        Ok(cache)
    }

    fn plain(target: Target) -> Self {
        Self {
            target,
            mode: Mode::Max,
            compression: Compression::GZIP,
            force_compression: false,
            on_error: OnError::Warn,
        }
    }
}

impl fmt::Display for CacheFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { name, .. } => f.write_str(Name::familiar(&name.to_string())),
            Self::Directory { path, .. } => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { name, .. } => f.write_str(Name::familiar(&name.to_string())),
            Self::Directory { path, .. } => write!(f, "{}", path.display()),
            Self::Inline => f.write_str("the image"),
        }
    }
}

/// What is no list of `key=value` is one of references.
fn references(given: &str) -> Option<impl Iterator<Item = &str>> {
    (!given.contains('=')).then(|| given.split(',').map(str::trim))
}

fn name(reference: &str) -> Result<Name, String> {
    reference
        .parse()
        .map_err(|error: crate::image::NotAName| error.to_string())
}

fn wrong(flag: &'static str, given: &str, why: String) -> SpecError {
    let key = if flag == FROM { "src" } else { "dest" };
    SpecError {
        flag,
        given: given.to_owned(),
        why,
        help: format!(
            "a cache is given as `{flag} type=registry,ref=NAME` or `{flag} type=local,{key}=DIR`"
        ),
    }
}

/// What is given of a cache; what is taken is known.
struct Values<'a> {
    flag: &'static str,
    given: &'a str,
    values: IndexMap<String, String>,
}

impl<'a> Values<'a> {
    fn read(flag: &'static str, given: &'a str) -> Result<Self, SpecError> {
        let mut values = IndexMap::new();
        for field in given.split(',') {
            let Some((key, value)) = field.split_once('=') else {
                return Err(wrong(flag, given, format!("`{field}` is not `key=value`")));
            };
            let key = key.trim().to_ascii_lowercase();
            if values.insert(key.clone(), value.to_owned()).is_some() {
                return Err(wrong(flag, given, format!("`{key}` is given twice")));
            }
        }
        Ok(Self {
            flag,
            given,
            values,
        })
    }

    fn kind(&mut self) -> Result<String, SpecError> {
        self.take("type")
            .ok_or_else(|| self.wrong("`type` is missing".to_owned()))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.values
            .shift_remove(key)
            .filter(|value| !value.is_empty())
    }

    fn needed(&mut self, key: &str) -> Result<String, SpecError> {
        self.take(key)
            .ok_or_else(|| self.wrong(format!("`{key}` is missing")))
    }

    fn reference(&mut self) -> Result<Name, SpecError> {
        let reference = self.needed("ref")?;
        name(&reference).map_err(|why| self.wrong(why))
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, SpecError> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(self.wrong(format!("`{key}={other}` is neither true nor false"))),
        }
    }

    fn compression(&mut self) -> Result<Compression, SpecError> {
        let level = self.take("compression-level");
        let method = self.take("compression");
        let (default, most) = match method.as_deref() {
            None | Some("gzip") => (Compression::GZIP, 9),
            Some("zstd") => (Compression::ZSTD, 22),
            Some("uncompressed") => (Compression::None, 0),
            Some("estargz") => {
                return Err(self.wrong(
                    "estargz is not written by this version; it writes gzip, zstd and uncompressed"
                        .to_owned(),
                ));
            }
            Some(other) => {
                return Err(self.wrong(format!(
                    "there is no compression `{other}`: it is gzip, zstd or uncompressed"
                )));
            }
        };
        let Some(level) = level else {
            return Ok(default);
        };
        let number = level.parse::<u8>().ok().filter(|level| *level <= most);
        match (default, number) {
            (Compression::Gzip(_), Some(level)) => Ok(Compression::Gzip(level)),
            // As elsewhere, 0 means the usual level.
            (Compression::Zstd(_), Some(0)) => Ok(default),
            (Compression::Zstd(_), Some(level)) => Ok(Compression::Zstd(level)),
            (method, _) => Err(self.wrong(format!(
                "`compression-level={level}`: {method} has the levels 0 to {most}"
            ))),
        }
    }

    fn no_type(&self, kind: &str) -> SpecError {
        let why = match kind {
            "gha" => {
                "the service of GitHub Actions is spoken with by no other program than theirs and is limited per repository; let `actions/cache` keep a directory, or take a registry such as ghcr.io"
            }
            "s3" | "azblob" => {
                "it would need that provider's way to sign requests; take a registry, which all of them offer, or a directory that their own tool copies"
            }
            _ => "there are registry, local and inline",
        };
        self.wrong(format!("caches of type `{kind}` are not there: {why}"))
    }

    fn wrong(&self, why: String) -> SpecError {
        wrong(self.flag, self.given, why)
    }

    /// What nobody has taken is not known.
    fn end(self) -> Result<(), SpecError> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.wrong(format!("there is no `{key}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_buildx_writes_is_understood() {
        let CacheTo {
            target,
            mode,
            compression,
            on_error,
            ..
        } = CacheTo::parse(
            "type=registry,ref=ghcr.io/a/b:cache,mode=min,compression=zstd,compression-level=7,image-manifest=true,oci-mediatypes=true,ignore-error=false,registry.insecure=true",
        )
        .unwrap();
        assert_eq!(
            (mode, compression, on_error),
            (Mode::Min, Compression::Zstd(7), OnError::Fail)
        );
        assert_eq!(target.to_string(), "ghcr.io/a/b:cache");
        assert!(matches!(target, Target::Registry { insecure: true, .. }));
        let shown = |given: &str| -> Vec<String> {
            let caches = CacheFrom::parse(given).unwrap();
            caches.iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown("user/app"), ["user/app"]);
        assert_eq!(shown("user/app:1,ghcr.io/b"), ["user/app:1", "ghcr.io/b"]);
        assert_eq!(shown("type=registry,ref=user/app:c"), ["user/app:c"]);
        assert_eq!(shown("type=local,src=dir,tag=main"), ["dir"]);
        assert_eq!(
            CacheTo::parse("type=inline").unwrap().target,
            Target::Inline
        );
        assert_eq!(
            CacheTo::parse("type=local,dest=d,compression=uncompressed")
                .unwrap()
                .compression,
            Compression::None
        );
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let to = |given: &str, part: &str| {
            let error = CacheTo::parse(given).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        to("type=gha,scope=x", "caches of type `gha` are not there");
        to("type=s3,region=x,bucket=y", "caches of type `s3`");
        to("type=azblob,name=x", "caches of type `azblob`");
        to("type=ftp", "there are registry, local and inline");
        to("mode=max", "`type` is missing");
        to("type=local", "`dest` is missing");
        to("type=registry", "`ref` is missing");
        to("type=registry,ref=A B", "is not an image name");
        to("type=registry,ref=a,ref=b", "given twice");
        to("type=registry,ref=a,mode=all", "no mode `all`");
        to("type=registry,ref=a,compression=estargz", "estargz");
        to("type=registry,ref=a,compression=lzma", "no compression");
        to("type=registry,ref=a,compression-level=10", "levels 0 to 9");
        to("type=registry,ref=a,image-manifest=false", "image-manifest");
        to("type=registry,ref=a,oci-mediatypes=false", "oci-mediatypes");
        to("type=registry,ref=a,ignore-error=maybe", "neither true");
        to("type=local,dest=d,reset=false", "`reset=false`");
        to("type=local,dest=d,colour=red", "there is no `colour`");
        to("type=inline,mode=max", "the mode is `min`");
        to("a,b", "one place");
        let from = |given: &str, part: &str| {
            let error = CacheFrom::parse(given).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        from("type=local,src=", "`src` is missing");
        from("type=local,src=d,digest=7", "no digest");
        from("type=inline", "type=registry,ref=IMAGE");
        from("type=gha", "caches of type `gha`");
        from("a//b", "is not an image name");
    }
}
