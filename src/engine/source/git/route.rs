//! Where a repository is in the end, and what is said to whoever is there.
//!
//! A server may lead to another address. git would follow it with all that it was told for the first one, whoever is asked
//! then. So where something is to be told, the way is found here: the same server is told it under the new address, another
//! one is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::program::Reach;
use super::{Settings, reference};
use crate::graph::GitSource;
use crate::net::{Authorization, Client, Download, Outcome, redacted};

/// What git asks first of a repository, below its address.
const FIRST_QUESTION: &str = "/info/refs?service=git-upload-pack";

/// The most that is read of the answer; where the way has led is known by then.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where a repository is.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// Its address.
    pub(super) url: String,
    /// What is said there.
    pub(super) authorization: Option<Authorization>,
}

/// The ways that were found, by the address that they began at.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes(Arc<Mutex<HashMap<String, String>>>);

impl Routes {
    /// The way to a source's repository.
    pub(super) fn to(&self, source: &GitSource, reach: Reach, settings: &Settings) -> Route {
        let url = source.url.clone();
        let authorization = authorization(source, reach, settings);
        let (Some(authorization), true) = (authorization, reference::scope(&url).is_some()) else {
            return Route {
                url,
                authorization: None,
            };
        };
        let end = self.end(&url, authorization, settings);
        let is_same = end == url || reference::is_same_server(&end, &url);
        Route {
            authorization: is_same.then(|| authorization.clone()),
            url: end,
        }
    }

    /// Where an address leads. What does not answer as it should is left to git, which knows how to say so.
    fn end(&self, url: &str, authorization: &Authorization, settings: &Settings) -> String {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = known.get(url) {
            return end.clone();
        }
        let client = Client::new(crate::net::Settings {
            proxies: settings.proxies.clone(),
            ca_files: settings.ca_file.iter().cloned().collect(),
            ..crate::net::Settings::default()
        });
        let question = format!("{}{FIRST_QUESTION}", url.trim_end_matches('/'));
        let what = Download {
            url: &question,
            limit_bytes: Some(ANSWER_BYTES_MAX),
            authorization: Some(authorization),
            ..Download::default()
        };
        let mut answer = Vec::new();
        let end = match client.download(&what, &mut answer, &|_| ()) {
            Ok(Outcome::Fetched(fetched)) => end_of(&fetched.head.url),
            _ => None,
        };
        let end = match end {
            // What is shown of an address has no password in it.
            Some(end) if end != redacted(url.trim_end_matches('/')) => end,
            _ => url.to_owned(),
        };
        known.insert(url.to_owned(), end.clone());
        end
    }
}

/// The repository whose first question was answered at an address.
fn end_of(answered: &str) -> Option<String> {
    let (path, _) = answered.split_once('?').unwrap_or((answered, ""));
    path.strip_suffix("/info/refs").map(str::to_owned)
}

/// What is to be said to the server of a source.
fn authorization<'s>(
    source: &GitSource,
    reach: Reach,
    settings: &'s Settings,
) -> Option<&'s Authorization> {
    let own = source.secret.as_ref().and_then(|id| {
        let found = settings.tokens.iter().find(|(known, _)| known == id);
        found.map(|(_, authorization)| authorization)
    });
    let usual = || {
        let mut credentials = settings.credentials.iter();
        let found = credentials.find(|credential| match (&credential.host, reach) {
            (Some(host), _) => reference::host(&source.url) == Some(host.as_str()),
            (None, reach) => reach == Reach::Named,
        });
        found.map(|credential| &credential.authorization)
    };
    own.or_else(usual)
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn an_answer_tells_where_its_repository_is() {
        let end = end_of("https://example.org/new/x.git/info/refs?service=git-upload-pack");
        assert_eq!(end.as_deref(), Some("https://example.org/new/x.git"));
        assert_eq!(end_of("https://example.org/login"), None);
    }
}
