//! What a habitat is built on: an image of a registry, a Debian archive, an OCI layout, or a Dockerfile, which may simply
//! lie beside the habitat.

use schemars::JsonSchema;

use super::document::{Document, Labels};
use super::env::Scope;
use super::fields::Field;
use super::keys::{Key, List, Text, keys};
use super::layer::Layers;
use super::node::{Node, Value};
use super::report::Report;
use crate::dockerfile::Span;
use crate::image::Platform;

/// What a Dockerfile is called that is a base by lying beside the habitat.
pub const DOCKERFILE: &str = "Dockerfile";

/// A base that needs no registry.
#[derive(Debug, Clone)]
pub enum Base {
    /// Made from a Debian archive.
    Debian(DebianBase),
    /// A stage of a Dockerfile.
    Dockerfile(DockerfileBase),
    /// An OCI layout.
    Oci(OciBase),
}

keys! {
    /// A root filesystem made from a Debian archive.
    DebianBase is "a Debian base", ByKey {
        /// The suite, by its code name: `bookworm`. A layer that adds to a base before it need not repeat it.
        suite: Option<Text> = "debian",
        /// Packages beside the essential ones and apt, and those of the layers before.
        #[schemars(default)]
        packages: List<Text> = "packages",
        /// The archive to use; without it the host's own, else deb.debian.org.
        mirror: Option<Text> = "mirror",
        /// Debian's name of the architecture; without it this machine's.
        arch: Option<Text> = "arch",
    }
}

keys! {
    /// An image in an OCI layout.
    OciBase is "an OCI base" {
        /// The layout's directory, beside this file or absolute; `:TAG` at its end picks an image.
        path: Text = "oci",
    }
}

impl OciBase {
    /// The layout's directory, without the tag.
    pub(super) fn without_tag(&self) -> Text {
        let path = match self.path.value.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => path,
            _ => self.path.value.as_str(),
        };
        Text {
            value: path.to_owned(),
            span: self.path.span,
        }
    }
}

keys! {
    /// The image of a Dockerfile, or of one of its stages. It is built from the directory that the Dockerfile lies in.
    DockerfileBase is "a Dockerfile base" {
        /// The Dockerfile, beside this file.
        path: Text = "dockerfile",
        /// The stage that is taken; without it the last.
        target: Option<Text> = "target",
        /// Values of its ARGs.
        #[schemars(default)]
        args: Labels = "args",
    }
}

keys! {
    /// Which Dockerfile makes the base, where it is not the one beside this file.
    Image is "image" {
        /// The Dockerfile, beside this file. It is built from the directory that it lies in.
        dockerfile: Text = "dockerfile",
    }
}

impl Key for Base {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        const FORMS: [&str; 3] = ["debian", "dockerfile", "oci"];
        /// What a later layer may add to a Debian base without naming the suite again.
        const DEBIAN_ONLY: [&str; 3] = ["packages", "mirror", "arch"];
        let Value::Mapping(entries) = &node.value else {
            report
                .error("habitat::wrong_type", node.span, format!("base is {}", node.kind()))
                .label("this must be a map")
                .help("write `base: {debian: bookworm}`; an image of a registry is named by `base_image`");
            return None;
        };
        let forms = || {
            entries
                .iter()
                .filter(|(key, _)| key.as_scalar().is_some_and(|key| FORMS.contains(&key)))
        };
        if let Some((second, _)) = forms().nth(1) {
            report
                .error(
                    "habitat::several_bases",
                    second.span,
                    "base names several bases",
                )
                .label("this is the second")
                .help("keep one of debian, dockerfile and oci");
            return None;
        }
        match forms().next().and_then(|(key, _)| key.as_scalar()) {
            Some("debian") => DebianBase::read(node, report).map(Self::Debian),
            Some("oci") => OciBase::read(node, report).map(Self::Oci),
            Some(_) => DockerfileBase::read(node, report).map(Self::Dockerfile),
            None if entries.iter().any(|(key, _)| {
                key.as_scalar()
                    .is_some_and(|key| DEBIAN_ONLY.contains(&key))
            }) =>
            {
                DebianBase::read(node, report).map(Self::Debian)
            }
            None => {
                let (span, written) = entries.first().map_or((node.span, ""), |(key, _)| {
                    (key.span, key.as_scalar().unwrap_or_default())
                });
                report
                    .error(
                        "habitat::no_base",
                        span,
                        "base does not say what kind it is",
                    )
                    .label("one of debian, dockerfile and oci is required")
                    .near(written, FORMS, "write `base: {debian: bookworm}`");
                None
            }
        }
    }

    fn overlay(&mut self, later: Self) {
        match (self, later) {
            (Self::Debian(debian), Self::Debian(later)) => debian.overlay(later),
            (base, later) => *base = later,
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        match self {
            Self::Debian(debian) => debian.expand(scope, report),
            Self::Oci(oci) => oci.expand(scope, report),
            Self::Dockerfile(dockerfile) => dockerfile.expand(scope, report),
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        match self {
            Self::Debian(debian) => debian.fields(name, fields),
            Self::Oci(oci) => oci.fields(name, fields),
            Self::Dockerfile(dockerfile) => dockerfile.fields(name, fields),
        }
    }
}

impl JsonSchema for Base {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Base".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let forms = [
            generator.subschema_for::<DebianBase>(),
            generator.subschema_for::<OciBase>(),
            generator.subschema_for::<DockerfileBase>(),
        ];
        schemars::json_schema!({ "anyOf": forms })
    }
}

impl Document {
    /// The Dockerfile that makes the base, if one does.
    pub(super) fn dockerfile(&self) -> Option<DockerfileBase> {
        match (&self.base, &self.image) {
            (Some(Base::Dockerfile(dockerfile)), _) => Some(dockerfile.clone()),
            (None, Some(image)) => Some(DockerfileBase {
                path: image.dockerfile.clone(),
                target: None,
                args: Labels::default(),
                span: image.span,
                reset: Vec::new(),
            }),
            _ => None,
        }
    }

    /// Takes the Dockerfile beside the habitat as its base, where it names none itself. What layers before it name counts for
    /// less than what lies beside it.
    pub(super) fn take_dockerfile(&mut self, layers: &Layers) {
        let main = layers.index_of(self.span);
        let base = self.base.as_ref().map(Base::span);
        let named = [
            base,
            self.base_image.as_ref().map(|image| image.span),
            self.image.as_ref().map(|image| image.span),
        ];
        let mut named = named.into_iter().flatten();
        if layers.is_part() || named.any(|span| layers.index_of(span) >= main) {
            return;
        }
        // It is written nowhere; what is wrong with it is shown at the head of the habitat.
        let span = Span {
            end: self.span.start,
            ..self.span
        };
        self.base_image = None;
        self.image = None;
        self.base = Some(Base::Dockerfile(DockerfileBase {
            path: Text {
                value: DOCKERFILE.to_owned(),
                span,
            },
            target: None,
            args: Labels::default(),
            span,
            reset: Vec::new(),
        }));
    }
}

impl Base {
    /// Where it stands.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Debian(debian) => debian.span,
            Self::Oci(oci) => oci.span,
            Self::Dockerfile(dockerfile) => dockerfile.span,
        }
    }
}

/// Whether a platform's packages are those of Debian's architecture of this name.
pub(super) fn is_architecture(platform: &Platform, debian: &str) -> bool {
    platform.debian() == debian
}
