//! `-o`: from `type=oci,dest=x.tar,compression=zstd` to a typed [`Output`]. Nothing is ignored: a key that a type does not
//! have is an error which lists those it has.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::annotation::{self, Annotation, AnnotationPlace};
use crate::dockerfile::suggest::nearest;
use crate::image::{Compression, MediaTypes, Name, Platform};

/// What is to be made of a build's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// An image in an OCI layout.
    Oci(ImageOutput),
    /// An image as `docker load` takes it (which is an OCI layout too).
    Docker(ImageOutput),
    /// The root filesystem as one tar.
    Tar {
        /// Where to.
        dest: Destination,
        /// Whether it lies below a directory of its platform's name.
        platforms: Platforms,
    },
    /// The root filesystem as files.
    Local {
        /// The directory.
        dest: PathBuf,
        /// Whether they lie below a directory of their platform's name.
        platforms: Platforms,
    },
    /// An image in the local store.
    Image(ImageOutput),
    /// Nothing: only what is in the cache stays.
    CacheOnly,
}

/// How an image is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOutput {
    /// Where to. Of no meaning for the local store.
    pub dest: Destination,
    /// One tar, or a directory.
    pub packing: Packing,
    /// Its names.
    pub names: Vec<Name>,
    /// How layers are compressed that have no blob yet.
    pub compression: Compression,
    /// What becomes of layers that are compressed in another way.
    pub others: OtherCompressions,
    /// What becomes of modification times.
    pub times: LayerTimes,
    /// OCI's media types or Docker's.
    pub types: MediaTypes,
    /// Notes on the image.
    pub annotations: Vec<Annotation>,
    /// Whether it is sent to where its names say.
    pub pushing: Pushing,
    /// Whether the registries that its names say may speak http, and show any certificate.
    pub insecure: bool,
}

/// Whether an image is sent to registries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pushing {
    /// It is not.
    #[default]
    No,
    /// It is, and gets its names there.
    ByName,
    /// It is, and is found there by its digest alone (`push-by-digest`).
    ByDigest,
}

/// Whether the root filesystems of several platforms have to find room beside each other (`platform-split`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Platforms {
    /// As there is one, or there are several.
    AsMany,
    /// They have not.
    Together,
    /// Each has its directory, such as `linux_amd64`.
    Apart,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file or directory.
    Path(PathBuf),
}

/// One file or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Packing {
    /// One tar.
    Tar,
    /// A directory.
    Directory,
}

/// What becomes of layers, such as a base's, that are compressed in another way than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtherCompressions {
    /// They stay as they are.
    Keep,
    /// They are compressed again (`force-compression`).
    Convert,
}

/// What becomes of the modification times in layers that were built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerTimes {
    /// They stay.
    Keep,
    /// None is later than SOURCE_DATE_EPOCH (`rewrite-timestamp`).
    ClampToEpoch,
}

/// What was given to `-o` is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum OutputError {
    /// Quotes that do not match.
    #[error("`{given}` is not a list of `key=value`: a quote is not closed")]
    #[diagnostic(
        code(output::quotes),
        help("write a value that holds commas as `\"name=a,b\"`")
    )]
    Quotes {
        /// What was given.
        given: String,
    },
    /// A field without `=`.
    #[error("`{field}` in `{given}` is not `key=value`")]
    #[diagnostic(
        code(output::field),
        help(
            "write `-o type=oci,dest=image.tar`, or `-o DIRECTORY`, or `-o -` for a tar on standard output"
        )
    )]
    Field {
        /// The field.
        field: String,
        /// What was given.
        given: String,
    },
    /// No `type=`.
    #[error("`{given}` names no type")]
    #[diagnostic(code(output::no_type), help("types are {}", TYPES.join(", ")))]
    NoType {
        /// What was given.
        given: String,
    },
    /// A type that does not exist.
    #[error("there is no output of type `{kind}`")]
    #[diagnostic(code(output::unknown_type), help("{help}"))]
    UnknownType {
        /// The type.
        kind: String,
        /// What there is.
        help: String,
    },
    /// A key that this type does not have.
    #[error("an output of type `{kind}` has no key `{key}`")]
    #[diagnostic(code(output::unknown_key), help("{help}"))]
    UnknownKey {
        /// The type.
        kind: String,
        /// The key.
        key: String,
        /// What there is.
        help: String,
    },
    /// A key that comes twice.
    #[error("the key `{key}` is given twice")]
    #[diagnostic(
        code(output::twice),
        help("give it once; several names go into one value: `\"name=a,b\"`")
    )]
    Twice {
        /// The key.
        key: String,
    },
    /// A key that BuildKit has, and this does not.
    #[error("an output of type `{kind}` has no key `{key}` here")]
    #[diagnostic(code(output::refused_key), help("{reason}"))]
    RefusedKey {
        /// The type.
        kind: String,
        /// The key.
        key: String,
        /// Why, and what to do instead.
        reason: &'static str,
    },
    /// A value that makes no sense.
    #[error("`{key}={value}`: {reason}")]
    #[diagnostic(code(output::value))]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No destination where there must be one.
    #[error("an output of type `{kind}` needs `dest=`")]
    #[diagnostic(code(output::no_destination), help("write `-o type={kind},dest=PATH`"))]
    NoDestination {
        /// The type.
        kind: String,
    },
}

const TYPES: &[&str] = &[
    "oci",
    "docker",
    "tar",
    "local",
    "image",
    "registry",
    "cacheonly",
];
const IMAGE_KEYS: &[&str] = &[
    "type",
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "oci-mediatypes",
];
const FILE_KEYS: &[&str] = &["dest", "tar"];
const PUSH_KEYS: &[&str] = &["push", "push-by-digest", "registry.insecure"];
const STORE_KEYS: &[&str] = &["store", "unpack"];
const ROOT_KEYS: &[&str] = &["type", "dest", "platform-split", "mode"];
/// Keys that BuildKit has for some outputs, and why they are not honoured.
const REFUSED: &[(&str, &str)] = &[
    (
        "name-canonical",
        "leave it away: an image of the store is found by its digest whatever names it has",
    ),
    (
        "dangling-name-prefix",
        "leave it away: an image without a name is kept by its digest",
    ),
    (
        "attestation-inline",
        "leave it away: this version makes no attestations",
    ),
    (
        "attestation-prefix",
        "leave it away: this version makes no attestations",
    ),
    (
        "oci-artifact",
        "leave it away: this version makes no attestations, of which it says how they are written",
    ),
    (
        "prefer-nondist-layers",
        "leave it away: layers that may not be distributed stay as they are",
    ),
    (
        "source-date-epoch",
        "set SOURCE_DATE_EPOCH, or give `--build-arg SOURCE_DATE_EPOCH=…`: one time holds for all outputs",
    ),
    (
        "context",
        "`--load` hands the image to the docker engine that DOCKER_HOST names",
    ),
];

impl Output {
    /// Understands what was given to `-o`.
    pub fn parse(given: &str) -> Result<Self, OutputError> {
        if given == "-" {
            return Ok(Self::Tar {
                dest: Destination::Stdout,
                platforms: Platforms::AsMany,
            });
        }
        let fields = fields(given)?;
        if let [path] = &fields[..]
            && !path.is_empty()
            && !path.contains('=')
        {
            return Ok(Self::Local {
                dest: path.into(),
                platforms: Platforms::AsMany,
            });
        }
        let mut values: IndexMap<String, String> = IndexMap::new();
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(OutputError::Field {
                    field,
                    given: given.to_owned(),
                });
            };
            // Annotations keep their case, as buildx reads them.
            let key = if key.starts_with(annotation::PREFIX) {
                key.to_owned()
            } else {
                key.trim().to_ascii_lowercase()
            };
            if values.insert(key.clone(), value.to_owned()).is_some() {
                return Err(OutputError::Twice { key });
            }
        }
        let kind = values
            .get("type")
            .cloned()
            .ok_or_else(|| OutputError::NoType {
                given: given.to_owned(),
            })?;
        let values = Values { kind, values };
        match values.kind.as_str() {
            "oci" => values
                .image(FILE_KEYS, MediaTypes::Oci, "gzip")
                .map(Self::Oci),
            "docker" => values
                .image(FILE_KEYS, MediaTypes::Docker, "gzip")
                .map(Self::Docker),
            // In the store layers are what they are, until somebody wants them to be otherwise.
            "image" | "registry" => {
                for key in STORE_KEYS {
                    if !values.switch(key, true)? {
                        let reason =
                            "in the store of this machine an image is stored, and unpacked";
                        return Err(values.wrong(key, reason.to_owned()));
                    }
                }
                let compression = match values.pushing()? {
                    Pushing::No => "uncompressed",
                    Pushing::ByName | Pushing::ByDigest => "gzip",
                };
                let keys = [STORE_KEYS, PUSH_KEYS].concat();
                values
                    .image(&keys, MediaTypes::Oci, compression)
                    .map(Self::Image)
            }
            "tar" => {
                let platforms = values.root()?;
                Ok(Self::Tar {
                    dest: values.destination(),
                    platforms,
                })
            }
            "local" => {
                let platforms = values.root()?;
                match values.destination() {
                    Destination::Path(dest) => Ok(Self::Local { dest, platforms }),
                    Destination::Stdout => Err(OutputError::NoDestination { kind: values.kind }),
                }
            }
            "cacheonly" => {
                values.only(&[&["type"]])?;
                Ok(Self::CacheOnly)
            }
            other => Err(OutputError::UnknownType {
                kind: other.to_owned(),
                help: hint(other, TYPES.iter().copied(), "types"),
            }),
        }
    }

    /// The same with its path taken from `directory`, if it is relative.
    #[must_use]
    pub fn within(mut self, directory: &Path) -> Self {
        match &mut self {
            Self::Oci(ImageOutput { dest, .. })
            | Self::Docker(ImageOutput { dest, .. })
            | Self::Tar { dest, .. } => {
                if let Destination::Path(path) = dest {
                    *path = directory.join(&*path);
                }
            }
            Self::Local { dest, .. } => *dest = directory.join(&*dest),
            Self::Image(_) | Self::CacheOnly => {}
        }
        self
    }

    /// Whether it goes to standard output, of which there is one.
    #[must_use]
    pub fn is_to_stdout(&self) -> bool {
        matches!(
            self,
            Self::Oci(ImageOutput {
                dest: Destination::Stdout,
                ..
            }) | Self::Docker(ImageOutput {
                dest: Destination::Stdout,
                ..
            }) | Self::Tar {
                dest: Destination::Stdout,
                ..
            }
        )
    }

    /// The image that it is, if it is one.
    #[must_use]
    pub fn image(&self) -> Option<&ImageOutput> {
        match self {
            Self::Oci(image) | Self::Docker(image) | Self::Image(image) => Some(image),
            Self::Tar { .. } | Self::Local { .. } | Self::CacheOnly => None,
        }
    }

    /// The same, to be changed.
    pub fn image_mut(&mut self) -> Option<&mut ImageOutput> {
        match self {
            Self::Oci(image) | Self::Docker(image) | Self::Image(image) => Some(image),
            Self::Tar { .. } | Self::Local { .. } | Self::CacheOnly => None,
        }
    }
}

impl ImageOutput {
    /// Its names after those that are given, each once.
    #[must_use]
    pub fn names_beside(&self, given: &[Name]) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for name in given.iter().chain(&self.names) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// The notes for one place, and the image of one platform where there are several, by key; of those with the same key
    /// the last.
    #[must_use]
    pub fn notes(&self, place: AnnotationPlace, of: Option<&Platform>) -> IndexMap<String, String> {
        let is_meant = |note: &&Annotation| {
            note.place == place
                && match (&note.platform, of) {
                    (Some(platform), Some(of)) => platform.is_same_as(of),
                    _ => true,
                }
        };
        let notes = self.annotations.iter().filter(is_meant);
        let mut notes: IndexMap<String, String> = notes
            .map(|note| (note.key.clone(), note.value.clone()))
            .collect();
        notes.sort_keys();
        notes
    }

    /// Whether it asks for nothing that the store does not do by itself.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.compression == Compression::None
            && self.others == OtherCompressions::Keep
            && self.times == LayerTimes::Keep
            && self.types == MediaTypes::Oci
            && self.annotations.is_empty()
            && self.pushing == Pushing::No
    }

    /// Adds notes.
    ///
    /// # Errors
    /// If it has no place for them.
    pub fn annotate(&mut self, annotations: &[Annotation]) -> Result<(), OutputError> {
        if self.types == MediaTypes::Docker && !annotations.is_empty() {
            return Err(OutputError::Value {
                key: "oci-mediatypes".to_owned(),
                value: "false".to_owned(),
                reason: "Docker's media types have no annotations; add `oci-mediatypes=true`"
                    .to_owned(),
            });
        }
        self.annotations.extend_from_slice(annotations);
        Ok(())
    }
}

impl Default for ImageOutput {
    fn default() -> Self {
        Self {
            dest: Destination::Stdout,
            packing: Packing::Tar,
            names: Vec::new(),
            compression: Compression::GZIP,
            others: OtherCompressions::Keep,
            times: LayerTimes::Keep,
            types: MediaTypes::Oci,
            annotations: Vec::new(),
            pushing: Pushing::No,
            insecure: false,
        }
    }
}

struct Values {
    kind: String,
    values: IndexMap<String, String>,
}

impl Values {
    fn image(
        &self,
        more_keys: &[&str],
        default_types: MediaTypes,
        default_method: &str,
    ) -> Result<ImageOutput, OutputError> {
        self.only(&[IMAGE_KEYS, more_keys])?;
        let packing = if self.switch("tar", true)? {
            Packing::Tar
        } else {
            Packing::Directory
        };
        let dest = self.destination();
        if packing == Packing::Directory && dest == Destination::Stdout {
            return Err(OutputError::NoDestination {
                kind: self.kind.clone(),
            });
        }
        let names = self
            .values
            .get("name")
            .map(String::as_str)
            .unwrap_or_default();
        let names = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(|name| {
                name.parse()
                    .map_err(|error: crate::image::NotAName| self.wrong("name", error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let types = match (
            self.switch("oci-mediatypes", default_types == MediaTypes::Oci)?,
            default_types,
        ) {
            (true, _) => MediaTypes::Oci,
            (false, _) => MediaTypes::Docker,
        };
        let annotations = self
            .values
            .iter()
            .filter_map(|(key, value)| Annotation::of_field(key, value))
            .collect::<Result<Vec<_>, _>>()?;
        let mut output = ImageOutput {
            dest,
            packing,
            names,
            compression: self.compression(default_method)?,
            others: match self.switch("force-compression", false)? {
                true => OtherCompressions::Convert,
                false => OtherCompressions::Keep,
            },
            times: match self.switch("rewrite-timestamp", false)? {
                true => LayerTimes::ClampToEpoch,
                false => LayerTimes::Keep,
            },
            types,
            annotations: Vec::new(),
            pushing: self.pushing()?,
            insecure: self.switch("registry.insecure", false)?,
        };
        output.annotate(&annotations)?;
        Ok(output)
    }

    fn pushing(&self) -> Result<Pushing, OutputError> {
        let is_pushed = self.switch("push", self.kind == "registry")?;
        Ok(match (is_pushed, self.switch("push-by-digest", false)?) {
            (false, _) => Pushing::No,
            (true, false) => Pushing::ByName,
            (true, true) => Pushing::ByDigest,
        })
    }

    /// How the platforms of a root filesystem lie.
    fn root(&self) -> Result<Platforms, OutputError> {
        self.only(&[ROOT_KEYS])?;
        match self.values.get("mode").map(String::as_str) {
            None | Some("copy") => {}
            Some("delete") => {
                let reason = "nothing is deleted that was not made here; empty the directory first";
                return Err(self.wrong("mode", reason.to_owned()));
            }
            Some(_) => return Err(self.wrong("mode", "it may be `copy`".to_owned())),
        }
        Ok(match self.values.contains_key("platform-split") {
            false => Platforms::AsMany,
            true if self.switch("platform-split", false)? => Platforms::Apart,
            true => Platforms::Together,
        })
    }

    fn compression(&self, default_method: &str) -> Result<Compression, OutputError> {
        const METHODS: &[&str] = &["gzip", "zstd", "uncompressed"];
        let method = self
            .values
            .get("compression")
            .map_or(default_method, String::as_str);
        let (default, most) = match method {
            "gzip" => (6, 9),
            "zstd" => (3, 22),
            "uncompressed" => (0, 0),
            "estargz" => {
                let reason =
                    "estargz is not written by this version; it writes gzip, zstd and uncompressed"
                        .to_owned();
                return Err(self.wrong("compression", reason));
            }
            other => {
                return Err(self.wrong(
                    "compression",
                    hint(other, METHODS.iter().copied(), "methods"),
                ));
            }
        };
        let level = match self.values.get("compression-level") {
            None => default,
            Some(_) if method == "uncompressed" => {
                return Err(self.wrong(
                    "compression-level",
                    "what is uncompressed has no level".to_owned(),
                ));
            }
            Some(text) => text
                .parse::<u8>()
                .ok()
                .filter(|level| *level <= most)
                .ok_or_else(|| {
                    self.wrong(
                        "compression-level",
                        format!("{method} has the levels 0 to {most}"),
                    )
                })?,
        };
        Ok(match method {
            "gzip" => Compression::Gzip(level),
            // As elsewhere, 0 means the usual level.
            "zstd" if level == 0 => Compression::ZSTD,
            "zstd" => Compression::Zstd(level),
            _ => Compression::None,
        })
    }

    fn destination(&self) -> Destination {
        match self.values.get("dest").map(String::as_str) {
            None | Some("" | "-") => Destination::Stdout,
            Some(path) => Destination::Path(path.into()),
        }
    }

    fn switch(&self, key: &str, default: bool) -> Result<bool, OutputError> {
        match self
            .values
            .get(key)
            .map(|value| value.to_ascii_lowercase())
            .as_deref()
        {
            None => Ok(default),
            Some("true" | "1" | "t") => Ok(true),
            Some("false" | "0" | "f") => Ok(false),
            Some(_) => Err(self.wrong(key, "write `true` or `false`".to_owned())),
        }
    }

    fn only(&self, allowed: &[&[&str]]) -> Result<(), OutputError> {
        let allowed = || allowed.iter().flat_map(|keys| keys.iter().copied());
        let takes_annotations = allowed().any(|key| key == "name");
        for key in self.values.keys() {
            let is_annotation = takes_annotations && Annotation::of_field(key, "").is_some();
            if !is_annotation && !allowed().any(|known| known == key) {
                if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| refused == key) {
                    return Err(OutputError::RefusedKey {
                        kind: self.kind.clone(),
                        key: key.clone(),
                        reason,
                    });
                }
                return Err(OutputError::UnknownKey {
                    kind: self.kind.clone(),
                    key: key.clone(),
                    help: hint(key, allowed(), "keys"),
                });
            }
        }
        Ok(())
    }

    fn wrong(&self, key: &str, reason: String) -> OutputError {
        let value = self.values.get(key).cloned().unwrap_or_default();
        OutputError::Value {
            key: key.to_owned(),
            value,
            reason,
        }
    }
}

/// Fields between commas; one that begins with a quote ends at the next single one (RFC 4180).
fn fields(given: &str) -> Result<Vec<String>, OutputError> {
    let mut fields = Vec::new();
    let mut letters = given.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => {
                        return Err(OutputError::Quotes {
                            given: given.to_owned(),
                        });
                    }
                }
            }
        }
        while let Some(letter) = letters.next_if(|letter| *letter != ',') {
            field.push(letter);
        }
        fields.push(field);
        if letters.next().is_none() {
            return Ok(fields);
        }
    }
}

/// What there is, with the nearest first if one is near.
fn hint<'a>(given: &str, known: impl Iterator<Item = &'a str>, what: &str) -> String {
    let known: Vec<&str> = known.filter(|key| *key != "type").collect();
    let list = format!("{what} are {}", known.join(", "));
    match nearest(given, known.iter().copied()) {
        Some(key) => format!("did you mean `{key}`? {list}"),
        None => list,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &str) -> Output {
        Output::parse(given).unwrap()
    }

    #[test]
    fn short_forms_stand_for_long_ones() {
        assert_eq!(parse("out"), parse("type=local,dest=out"));
        assert_eq!(parse("-"), parse("type=tar,dest=-"));
        assert_eq!(parse("type=tar"), parse("-"));
        assert_eq!(
            parse("type=oci,dest=a").within(Path::new("/b")),
            parse("type=oci,dest=/b/a")
        );
    }

    #[test]
    fn all_keys_of_an_image_are_understood() {
        let given = r#"type=oci,dest=x.tar,"name=a:1,ghcr.io/b/c",compression=zstd,compression-level=9,force-compression=true,rewrite-timestamp=1,oci-mediatypes=true,annotation.Org.X=y"#;
        let Output::Oci(image) = parse(given) else {
            panic!("an OCI image")
        };
        let names: Vec<_> = image.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/a:1", "ghcr.io/b/c:latest"]);
        assert_eq!(image.compression, Compression::Zstd(9));
        assert_eq!(image.others, OtherCompressions::Convert);
        assert_eq!(image.times, LayerTimes::ClampToEpoch);
        assert_eq!(image.notes(AnnotationPlace::Manifest, None)["Org.X"], "y");
        let pushing = |given| match parse(given) {
            Output::Image(image) => (image.pushing, image.insecure),
            other => panic!("{other:?}"),
        };
        assert_eq!(pushing("type=image"), (Pushing::No, false));
        assert_eq!(pushing("type=registry"), (Pushing::ByName, false));
        assert_eq!(
            pushing("type=image,push=true,registry.insecure=true"),
            (Pushing::ByName, true)
        );
        assert_eq!(
            pushing("type=registry,push-by-digest=true"),
            (Pushing::ByDigest, false)
        );
        let Output::Docker(image) = parse("type=docker") else {
            panic!("a Docker image")
        };
        assert_eq!(
            (image.types, image.dest),
            (MediaTypes::Docker, Destination::Stdout)
        );
        let Output::Oci(image) = parse("type=oci,dest=d,tar=false") else {
            panic!("an OCI image")
        };
        assert_eq!(image.packing, Packing::Directory);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_out() {
        let check = |given: &str, message: &str, way_out: &str| {
            let error = Output::parse(given).unwrap_err();
            let help = miette::Diagnostic::help(&error)
                .map(|help| help.to_string())
                .unwrap_or_default();
            assert!(error.to_string().contains(message), "{given}: {error}");
            assert!(help.contains(way_out), "{given}: {help}");
        };
        check(
            "type=oci,compresion=gzip",
            "no key `compresion`",
            "did you mean `compression`?",
        );
        check("type=local,dest=x,name=a", "no key `name`", "keys are dest");
        check("type=ocl", "no output of type `ocl`", "did you mean `oci`?");
        check("type=registry,dest=x", "no key `dest`", "push-by-digest");
        check("type=image,push=perhaps", "`true` or `false`", "");
        check("dest=x", "names no type", "oci, docker");
        check("type=oci,x", "`x`", "key=value".get(0..0).unwrap());
        check("type=oci,dest=a,dest=b", "twice", "once");
        check("type=oci,compression=gzpi", "did you mean `gzip`?", "");
        check("type=oci,compression-level=10", "levels 0 to 9", "");
        check("type=oci,compression=estargz", "estargz is not written", "");
        check("type=oci,tar=false", "needs `dest=`", "dest=PATH");
        check("type=oci,tar=maybe", "`true` or `false`", "");
        check("type=oci,name=A B", "not an image name", "");
        check("type=docker,annotation.a=b", "no annotations", "");
        check("type=image,store=false", "an image is stored", "");
        check(
            "type=image,name-canonical=true",
            "name-canonical",
            "by its digest",
        );
        check("type=local,dest=x,mode=delete", "mode=delete", "");
        check(
            "type=local,dest=x,attestation-prefix=y",
            "attestation-prefix",
            "makes no attestations",
        );
        check("\"type=oci", "quote", "name=a,b");
        check("", "not `key=value`", "type=oci");
    }
}
