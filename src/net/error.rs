//! What can go wrong between here and a server. Addresses are already without their credentials.

use std::path::PathBuf;

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that came to nothing.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// The text is no address, or not one of http or https.
    #[error("`{url}` is not an address that can be fetched: {why}")]
    #[diagnostic(code(net::address), help("write it as https://HOST/PATH"))]
    Address {
        /// As given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// What should be said to the server cannot stand in a header.
    #[error(
        "the secret for {url} cannot be sent: it has a line break or another control character in it"
    )]
    #[diagnostic(
        code(net::authorization),
        help(
            "see that HTTP_AUTH_TOKEN_HOST holds the token alone, or HTTP_AUTH_HEADER_HOST the header's value"
        )
    )]
    Authorization {
        /// What was asked.
        url: String,
    },
    /// A proxy setting is unusable.
    #[error("`{url}` is not a proxy that can be used")]
    #[diagnostic(
        code(net::proxy),
        help("write it as http://HOST:PORT in http_proxy or https_proxy, or unset it")
    )]
    Proxy {
        /// As given.
        url: String,
    },
    /// A file of certificate authorities is unusable.
    #[error("the certificates in {} cannot be used: {why}", path.display())]
    #[diagnostic(code(net::ca_file), help("name a file of certificates in PEM form"))]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// TLS or the resolver could not be set up.
    #[error("the HTTP client cannot be set up: {why}")]
    #[diagnostic(
        code(net::setup),
        help("see that this machine has certificate authorities (package ca-certificates)")
    )]
    Setup {
        /// Why not.
        why: String,
    },
    /// No answer came, however often it was asked for.
    #[error("no answer from {url} after {attempts} attempts: {why}")]
    #[diagnostic(
        code(net::unreachable),
        help(
            "check the address, the network and the proxy settings (http_proxy, https_proxy, no_proxy)"
        )
    )]
    Unreachable {
        /// What was asked.
        url: String,
        /// How often.
        attempts: u32,
        /// The last failure.
        why: String,
    },
    /// The body broke off, and going on failed too.
    #[error(
        "the download of {url} broke off after {bytes} bytes, {attempts} attempts in a row brought no more: {why}"
    )]
    #[diagnostic(code(net::broken_off), help("run it again; what came whole is kept"))]
    BrokenOff {
        /// What was asked.
        url: String,
        /// How much had come.
        bytes: u64,
        /// How often it was tried to go on.
        attempts: u32,
        /// The last failure.
        why: String,
    },
    /// The server answered, and not with what was asked for.
    #[error("{url}: the server answers {status} {reason}")]
    #[diagnostic(code(net::status), help("{}", advice(*status)))]
    Status {
        /// What was asked.
        url: String,
        /// The status code.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {to}, which is not followed: {why}")]
    #[diagnostic(
        code(net::redirect),
        help("give the final address, if it is to be trusted")
    )]
    Redirect {
        /// What was asked.
        url: String,
        /// Where it points.
        to: String,
        /// Why that is refused.
        why: &'static str,
    },
    /// More than is taken.
    #[error("{url} has more than the {limit} bytes that are taken")]
    #[diagnostic(code(net::too_large), help("see that the address is the right one"))]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// Whole, but of the wrong length.
    #[error("{url} has {actual} bytes, and should have {expected}")]
    #[diagnostic(
        code(net::wrong_size),
        help("the file was cut short or replaced on its server; try another mirror, or later")
    )]
    WrongSize {
        /// What was asked.
        url: String,
        /// What it should have.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// Whole, but with another digest than it must have.
    #[error("{url} has the digest {actual}, and must have {expected}")]
    #[diagnostic(
        code(net::wrong_digest),
        help(
            "the file was replaced on its server, or damaged on its way; if the change is expected, give the new digest"
        )
    )]
    WrongDigest {
        /// What was asked.
        url: String,
        /// What it must have.
        expected: crate::digest::Digest,
        /// What came.
        actual: crate::digest::Digest,
    },
    /// What came could not be kept.
    #[error("what came from {url} could not be written: {source}")]
    #[diagnostic(
        code(net::sink),
        help("see that there is space on the disk, and that it can be written to")
    )]
    Sink {
        /// What was asked.
        url: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether this machine, rather than the other side, is the reason: no space, unusable settings.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Sink { .. } | Self::CaFile { .. } | Self::Setup { .. } | Self::Proxy { .. }
        )
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 | 407 => "it wants credentials, or refuses these",
        404 | 410 => "check the address: it has no such thing (any more)",
        408 | 429 => "the server asks for patience: try again later, or use another mirror",
        500.. => "the server is in trouble: try again later, or use another mirror",
        _ => "check the address",
    }
}

/// An error and all its causes, in one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}
