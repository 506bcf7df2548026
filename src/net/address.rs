//! Which addresses are fetched, which redirects are followed, and how an address is shown.

use std::net::IpAddr;

use reqwest::Url;
use reqwest::redirect::{Action, Attempt};

use super::error::{Error, Result};

/// How many redirects are followed.
const HOPS_MAX: usize = 10;

/// An address without user name, password and query values: fit for a message, a record or an image.
///
/// Text that is no address is returned up to its first `@`-part, so that nothing that looks like a password survives.
#[must_use]
pub fn redacted(url: &str) -> String {
    if let Ok(mut parsed) = Url::parse(url)
        && parsed.has_host()
    {
        if parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() {
            return url.to_owned();
        }
        // Only addresses without a host refuse this, and those have no credentials.
        let _ = parsed.set_username("");
        let _ = parsed.set_password(None);
        if parsed.query().is_some() {
            parsed.set_query(Some("…"));
        }
        return parsed.to_string().replace("%E2%80%A6", "…");
    }
    match url.rsplit_once('@') {
        Some((_, rest)) => format!("…@{rest}"),
        None => url.to_owned(),
    }
}

/// The host that an address names.
#[must_use]
pub fn host(url: &str) -> Option<String> {
    Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// Host and port that an address names.
pub(super) fn authority(url: &str) -> String {
    let Ok(url) = Url::parse(url) else {
        return redacted(url);
    };
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

/// Whether an address names this machine or its own network link.
#[must_use]
pub fn is_own_address(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| is_own(&url))
}

/// Whether two addresses have scheme, host and port in common.
#[must_use]
pub fn same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

/// What a reference means that was found at an address.
#[must_use]
pub fn resolved(base: &str, reference: &str) -> Option<String> {
    Some(Url::parse(base).ok()?.join(reference).ok()?.to_string())
}

pub(super) fn parse(url: &str) -> Result<Url> {
    let wrong = |why: &str| Error::Address {
        url: redacted(url),
        why: why.to_owned(),
    };
    let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    match parsed.scheme() {
        "http" | "https" if parsed.has_host() => Ok(parsed),
        "http" | "https" => Err(wrong("it names no host")),
        _ => Err(wrong("only http and https are fetched")),
    }
}

/// The reason for which a redirect is not followed, carried through the client as an error.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct NotFollowed {
    pub(super) to: String,
    pub(super) why: &'static str,
}

pub(super) fn follow(attempt: Attempt<'_>) -> Action {
    let refusal = {
        let from = attempt.previous().last();
        let to = attempt.url();
        if attempt.previous().len() > HOPS_MAX {
            Some("it is the eleventh in a row")
        } else if !matches!(to.scheme(), "http" | "https") {
            Some("only http and https are fetched")
        } else if from.is_some_and(|from| from.scheme() == "https") && to.scheme() == "http" {
            Some("it leaves https for http")
        } else if is_own(to) && !attempt.previous().first().is_some_and(is_own) {
            Some("it points at this machine or its own network link")
        } else {
            None
        }
        .map(|why| NotFollowed {
            to: redacted(to.as_str()),
            why,
        })
    };
    match refusal {
        Some(refusal) => attempt.error(refusal),
        None => attempt.follow(),
    }
}

/// Whether an address names this machine, its link or nobody: what a public server has no business to point at.
fn is_own(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return true;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.eq_ignore_ascii_case("localhost") || bare.to_ascii_lowercase().ends_with(".localhost") {
        return true;
    }
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unicast_link_local()
                || ip
                    .to_ipv4_mapped()
                    .is_some_and(|ip| ip.is_loopback() || ip.is_link_local() || ip.is_unspecified())
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_show() {
        assert_eq!(redacted("https://host/a"), "https://host/a");
        assert_eq!(redacted("https://user:s3cret@host/a"), "https://host/a");
        assert_eq!(redacted("https://host/a?token=s3cret"), "https://host/a?…");
        assert_eq!(redacted("user:s3cret@host:path"), "…@host:path");
    }

    #[test]
    fn only_http_is_fetched() {
        assert!(parse("https://host/a").is_ok());
        for url in ["file:///etc/passwd", "ftp://host/", "data:,x", "host/a", ""] {
            assert!(matches!(parse(url), Err(Error::Address { .. })), "{url}");
        }
    }

    #[test]
    fn addresses_of_this_machine_are_told_from_others() {
        for own in [
            "http://127.0.0.1/",
            "http://localhost:8/",
            "http://[::1]/",
            "http://169.254.169.254/",
            "http://0.0.0.0/",
            "http://2130706433/",
        ] {
            assert!(is_own(&Url::parse(own).unwrap()), "{own}");
        }
        for other in [
            "http://deb.debian.org/",
            "http://10.0.0.1/",
            "http://[2001:db8::1]/",
        ] {
            assert!(!is_own(&Url::parse(other).unwrap()), "{other}");
        }
    }
}
