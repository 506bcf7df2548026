//! A client of OCI Distribution 1.1: images of registries, in and out.
//!
//! ```text
//! Registries::resolve     name -> manifest and configuration, for one platform       pull.rs
//! Registries::fetch       a layer's blob, into the store
//! Registries::push        blobs, then manifests, then tags                            push.rs
//!                         what is taken over from other repositories                  holders.rs
//! Registries::join        images as one index                                         join.rs
//! Registries::referrers   what refers to an image                                     referrers.rs
//! Registries::login       whether someone is let in; Credentials keep it             credentials.rs
//!
//! conf.rs                 registries.conf: mirrors, other places, what is blocked
//! host.rs                 one registry: how it is reached, and what it wants to see
//! challenge.rs            what a registry says of that; token.rs where a token comes from
//! ```
//!
//! Every byte is checked against its digest before it gets its name in the store. A password or token goes to the registry
//! that it is for and to the place where that registry has tokens made, never along with a redirect, never into a message.
//! Plain http is spoken with this machine only, and with registries that are called insecure.
//!
//! Blocking to its callers. Nothing is read and nobody asked until the first request: [`Registries`] cost nothing until then.
//!
//! Leaves out what an image means, and Docker's first schema.

mod challenge;
mod conf;
mod copy;
mod credentials;
mod error;
mod holders;
mod host;
mod join;
mod pull;
mod push;
mod referrers;
mod token;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::event::EventSink;
use crate::image::Name;
use crate::net::{self, Method};
use crate::store::Store;
use conf::{Conf, Endpoint};
use host::{Call, Host, Kept};

pub use conf::ConfError;
pub use copy::{Copied, Referring, Selection};
pub use credentials::{
    AskHelper, Credentials, CredentialsError, HelperAnswer, HelperQuestion, Helpers, Secret,
    forget, keep, run_helper,
};
pub use error::{Error, Result};
pub use join::{Alone, Join, JoinSource, Joined};
pub use pull::{Document, Resolved};
pub use push::{Opener, Push, PushBlob, PushContent, Pushed};

/// Where things are found that say how registries are reached: nothing is read before it is needed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settings {
    /// Files with credentials, the first one that knows a registry counts.
    pub auth_files: Vec<PathBuf>,
    /// The directories of `registries.conf.d`, and before them the file itself; later ones count more.
    pub conf_files: Vec<PathBuf>,
    /// Directories with a directory for each registry, of certificates: `certs.d`.
    pub cert_dirs: Vec<PathBuf>,
    /// A directory of certificates for every registry.
    pub cert_dir: Option<PathBuf>,
    /// Registries of which no certificate is asked and with which http may be spoken.
    pub insecure: Vec<String>,
    /// Whether certificates are asked for; `Some(false)` stands for every registry.
    pub tls_verify: Option<bool>,
    /// What helpers for credentials see of the environment: PATH, HOME and the like.
    pub helper_env: Vec<(String, String)>,
    /// Who runs helpers for credentials.
    #[serde(skip)]
    pub helpers: Helpers,
    /// Credentials that are given with the request, before any that are found.
    pub given: Option<Credentials>,
}

/// What registries are reached with. Shared by threads.
pub struct Registries<'e> {
    settings: Settings,
    net: net::Settings,
    events: Option<&'e dyn EventSink>,
    store: Option<&'e Store>,
    conf: OnceLock<Conf>,
    hosts: Mutex<HashMap<(String, bool), Arc<Kept>>>,
}

impl std::fmt::Debug for Registries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<'e> Registries<'e> {
    /// Registries reached so; `net` says how servers are reached at all.
    #[must_use]
    pub fn new(settings: Settings, net: net::Settings) -> Self {
        Self {
            settings,
            net,
            events: None,
            store: None,
            conf: OnceLock::new(),
            hosts: Mutex::default(),
        }
    }

    /// The same; `events` hears of the pauses before something is tried again.
    #[must_use]
    pub fn heard(self, events: &'e dyn EventSink) -> Self {
        Self {
            events: Some(events),
            ..self
        }
    }

    /// The same; `store` remembers which of their repositories have what was sent.
    #[must_use]
    pub fn remembered(self, store: &'e Store) -> Self {
        Self {
            store: Some(store),
            ..self
        }
    }

    /// The settings they were made with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where an image is to be had, the best place first.
    fn endpoints(&self, name: &Name) -> Result<Vec<(Host<'e>, String)>> {
        let places = self.conf()?.places(name)?;
        places
            .into_iter()
            .map(|place| Ok((self.host(&place)?, place.repository)))
            .collect()
    }

    /// Where an image is sent: where it comes from if no mirror has it.
    fn destination(&self, name: &Name) -> Result<(Host<'e>, String)> {
        let place = self.conf()?.origin(name)?;
        Ok((self.host(&place)?, place.repository))
    }

    /// Whether the credentials at hand let one in.
    ///
    /// # Errors
    /// If they do not, or the registry cannot be asked.
    pub fn login(&self, registry: &str) -> Result<()> {
        let place = Endpoint {
            host: registry.to_owned(),
            repository: String::new(),
            insecure: self.conf()?.is_insecure(registry),
        };
        let host = self.host(&place)?;
        let answer = host.ask(&Call::new(Method::Get, "", "", &[], "access"))?;
        match answer.status {
            200..=299 => Ok(()),
            _ => Err(host.odd("access", &answer)),
        }
    }

    fn conf(&self) -> Result<&Conf> {
        if let Some(conf) = self.conf.get() {
            return Ok(conf);
        }
        let conf = Conf::read(&self.settings.conf_files)?;
        Ok(self.conf.get_or_init(|| conf))
    }

    fn host(&self, place: &Endpoint) -> Result<Host<'e>> {
        let insecure = match self.settings.tls_verify {
            Some(verify) => !verify,
            None => place.insecure || self.settings.insecure.contains(&place.host),
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (place.host.clone(), insecure);
        if let Some(host) = hosts.get(&key) {
            return Ok(Host::of(Arc::clone(host), self.events));
        }
        let host = Arc::new(Kept::new(&place.host, insecure, &self.settings, &self.net)?);
        hosts.insert(key, Arc::clone(&host));
        Ok(Host::of(host, self.events))
    }
}
