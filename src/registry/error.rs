//! What can go wrong between here and a registry.

use super::conf::ConfError;
use super::credentials::CredentialsError;
use crate::digest::Digest;
use crate::image::ManifestError;
use crate::net;
use crate::store::StoreError;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image is not to be had, or cannot be sent.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// registries.conf cannot be used, or forbids it.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Conf(#[from] ConfError),
    /// Credentials cannot be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Credentials(#[from] CredentialsError),
    /// No answer, or one that nobody can use.
    #[error("{registry} cannot be asked for {what}")]
    #[diagnostic(code(registry::request), help("{}", help_of(source)))]
    Request {
        /// Whom.
        registry: String,
        /// What of it.
        what: String,
        /// Why.
        #[source]
        source: net::Error,
    },
    /// It has no such thing.
    #[error("{registry} has no {what}{}", said(answer))]
    #[diagnostic(
        code(registry::not_found),
        help(
            "check the name and the tag; a repository that may not be seen looks the same: `shmocker login {registry}`"
        )
    )]
    NotFound {
        /// Whom.
        registry: String,
        /// What.
        what: String,
        /// What it says.
        answer: String,
    },
    /// It does not let this one in.
    #[error("{registry} does not give access to {what}{}", said(answer))]
    #[diagnostic(code(registry::denied), help("{}", denied_help(registry, known)))]
    Denied {
        /// Whom.
        registry: String,
        /// What.
        what: String,
        /// What it says.
        answer: String,
        /// Where the credentials come from that were shown, if any were.
        known: Option<String>,
    },
    /// It does not say how one gets in, or says what must not be followed.
    #[error("{registry} wants credentials in a way that is not followed: {why}")]
    #[diagnostic(code(registry::challenge), help("tell whoever runs the registry"))]
    Challenge {
        /// Whom.
        registry: String,
        /// Why not.
        why: String,
    },
    /// It answers something else than the protocol has.
    #[error("{registry} answers {status} to {what}{}", said(answer))]
    #[diagnostic(
        code(registry::status),
        help("is it a registry? it should speak the OCI distribution protocol")
    )]
    Status {
        /// Whom.
        registry: String,
        /// To what.
        what: String,
        /// The status.
        status: u16,
        /// What it says.
        answer: String,
    },
    /// The content is not what it was asked for.
    #[error("{what} of {registry} is not what it should be: {why}")]
    #[diagnostic(
        code(registry::damaged),
        help(
            "nothing of it was kept; it was damaged on its way, or at the registry: push the image again, or use another registry"
        )
    )]
    Damaged {
        /// Whom.
        registry: String,
        /// What.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A document that is no sound manifest or index.
    #[error("the manifest of `{name}` cannot be used")]
    #[diagnostic(code(registry::manifest))]
    Manifest {
        /// Of which image.
        name: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// An image that is sound, but not one that can be used here.
    #[error("`{name}` cannot be used: {why}")]
    #[diagnostic(code(registry::unusable))]
    Unusable {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// It is there for other platforms.
    #[error("`{name}` is not there for {wanted}")]
    #[diagnostic(
        code(registry::platform),
        help("it is there for {has}; choose with `--platform`")
    )]
    NoPlatform {
        /// Which.
        name: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// A layer that only lies elsewhere.
    #[error(
        "{registry} does not have the layer {digest}: its image says that it lies elsewhere, which is not followed"
    )]
    #[diagnostic(
        code(registry::foreign_layer),
        help(
            "push the image again with its foreign layers: `skopeo copy --all`, or `nondistributable artifacts` of docker"
        )
    )]
    ForeignLayer {
        /// Whom.
        registry: String,
        /// Which.
        digest: Digest,
    },
    /// What came cannot be kept, or what is to be sent not be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Store(#[from] StoreError),
    /// What is to be sent cannot be read.
    #[error("the blob {digest} cannot be read")]
    #[diagnostic(code(registry::unreadable))]
    Unreadable {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Whether this machine, rather than the other side, is the reason.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Request { source, .. } => source.is_local(),
            Self::Store(_) | Self::Unreadable { .. } => true,
            _ => false,
        }
    }

    /// Whether the user's own configuration is the reason.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Self::Conf(ConfError::Malformed { .. } | ConfError::Unreadable { .. })
                | Self::Credentials(_)
        )
    }

    /// Whether the user's own configuration forbids it.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Conf(ConfError::Blocked { .. }))
    }
}

/// What a registry says, made fit for a line.
fn said(answer: &str) -> String {
    match answer {
        "" => String::new(),
        answer => format!(": {answer}"),
    }
}

fn help_of(source: &net::Error) -> String {
    miette::Diagnostic::help(source).map_or_else(String::new, |help| help.to_string())
}

fn denied_help(registry: &str, known: &Option<String>) -> String {
    match known {
        Some(known) => format!(
            "the credentials of {known} do not do; give others with `shmocker login {registry}`"
        ),
        None => format!(
            "no credentials are known for it: `shmocker login {registry}`; a name that does not exist looks the same"
        ),
    }
}

/// What the body of an answer says of its reason: the messages in it, cut short, without control characters.
pub(super) fn reasons(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return String::new();
    };
    let errors = body
        .errors
        .into_iter()
        .take(3)
        .map(|one| match one.message {
            message if message.is_empty() => one.code,
            message => message,
        });
    let text = errors
        .chain([body.details])
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(300)
        .collect()
}
