//! One registry: how it is reached, and what it wants to see.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::challenge::Challenge;
use super::credentials::{self, Credentials};
use super::error::{Error, Result, reasons};
use super::token::{self, NoToken, Scope};
use super::{ConfError, Settings};
use crate::event::EventSink;
use crate::net::{
    self, Answer, Authorization, Client, Method, Payload, Persistence, Question, Verification,
};

/// A registry, as it is reached now.
#[derive(Debug, Clone)]
pub(super) struct Host<'e> {
    kept: Arc<Kept>,
    client: Client<'e>,
}

/// What of a registry is kept between requests.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its name: host and port.
    pub(super) name: String,
    /// Whether http and any certificate do.
    insecure: bool,
    settings: Settings,
    connections: Client<'static>,
    address: OnceLock<String>,
    access: Mutex<Access>,
}

/// What is known of getting in.
#[derive(Debug, Default)]
struct Access {
    challenge: Option<Challenge>,
    /// By scopes.
    tokens: HashMap<String, Authorization>,
}

/// A request to a registry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Below `/v2/`, or a whole address.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: Payload<'a>,
    pub(super) limit_bytes: u64,
    pub(super) patience: Persistence,
    /// What a token has to be for.
    pub(super) scopes: &'a [Scope],
    /// Whose credentials count.
    pub(super) repository: &'a str,
    /// What is asked for, for people.
    pub(super) what: &'a str,
}

impl<'a> Call<'a> {
    /// A request without anything special.
    pub(super) fn new(
        method: Method,
        path: &'a str,
        repository: &'a str,
        scopes: &'a [Scope],
        what: &'a str,
    ) -> Self {
        Self {
            method,
            path,
            headers: &[],
            body: Payload::Nothing,
            limit_bytes: 1 << 20,
            patience: Persistence::AsSet,
            scopes,
            repository,
            what,
        }
    }
}

impl Kept {
    pub(super) fn new(
        name: &str,
        insecure: bool,
        settings: &Settings,
        net: &net::Settings,
    ) -> Result<Self> {
        let mut net = net.clone();
        if insecure {
            net.verification = Verification::Off;
        }
        let own = settings
            .cert_dirs
            .iter()
            .map(|directory| directory.join(name));
        for directory in settings.cert_dir.iter().cloned().chain(own) {
            add_certificates(&mut net, &directory)?;
        }
        Ok(Self {
            name: name.to_owned(),
            insecure,
            settings: settings.clone(),
            connections: Client::new(net),
            address: OnceLock::new(),
            access: Mutex::default(),
        })
    }
}

impl std::ops::Deref for Host<'_> {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.kept
    }
}

impl<'e> Host<'e> {
    /// The registry with somebody who hears of pauses.
    pub(super) fn of(kept: Arc<Kept>, events: Option<&'e dyn EventSink>) -> Self {
        let client = kept.connections.heard(events);
        Self { kept, client }
    }

    pub(super) fn client(&self) -> &Client<'e> {
        &self.client
    }

    /// `https://HOST`, or what else it is reached by.
    pub(super) fn address(&self) -> Result<&str> {
        if let Some(address) = self.address.get() {
            return Ok(address);
        }
        let host = match self.name.as_str() {
            "docker.io" => "registry-1.docker.io",
            name => name,
        };
        let secure = format!("https://{host}");
        let plain = format!("http://{host}");
        let is_own = net::is_own_address(&plain);
        let once = |address: &str| self.answer(address, Persistence::Once).ok();
        // Within this machine nobody listens, and http begins by far quicker. Without a port the two are different servers.
        let is_plain = is_own && has_port(&self.name) && matches!(once(&plain), Some(200 | 401));
        let may_be_plain = is_own || self.insecure;
        let address = if is_plain {
            plain
        } else if !may_be_plain || once(&secure).is_some() {
            secure
        } else {
            match self.answer(&plain, Persistence::AsSet) {
                // What a server says that is spoken with in http, and speaks https.
                Ok(400) => secure,
                Ok(_) => plain,
                // It may have been in https that it did not answer just then.
                Err(_) if once(&secure).is_some() => secure,
                Err(source) => {
                    return Err(Error::Request {
                        registry: self.name.clone(),
                        what: "what it is, in https or http".to_owned(),
                        source,
                    });
                }
            }
        };
        Ok(self.address.get_or_init(|| address))
    }

    /// The status of what answers there.
    fn answer(&self, address: &str, patience: Persistence) -> net::Result<u16> {
        let url = format!("{address}/v2/");
        let question = Question {
            method: Method::Get,
            url: &url,
            headers: &[],
            authorization: None,
            body: Payload::Nothing,
            limit_bytes: 1 << 20,
            patience,
        };
        Ok(self.client.ask(&question)?.status)
    }

    /// The address of something below `/v2/`, or of what the registry itself has named.
    pub(super) fn url(&self, path: &str) -> Result<String> {
        if path.starts_with("https://") || path.starts_with("http://") {
            return Ok(path.to_owned());
        }
        Ok(format!("{}/v2/{path}", self.address()?))
    }

    /// Asks, and shows what has to be shown. The answer is any that is not 401; 403 is an error.
    pub(super) fn ask(&self, call: &Call<'_>) -> Result<Answer> {
        let url = self.url(call.path)?;
        let is_own = net::same_origin(&url, self.address()?);
        let mut shown = match is_own {
            true => self.authorization(call.scopes, call.repository)?,
            false => None,
        };
        let mut is_second = false;
        loop {
            let question = Question {
                method: call.method,
                url: &url,
                headers: call.headers,
                authorization: shown.as_ref(),
                body: call.body,
                limit_bytes: call.limit_bytes,
                patience: call.patience,
            };
            let answer = self
                .client
                .ask(&question)
                .map_err(|source| self.failed(call.what, source))?;
            match answer.status {
                401 if is_own && !is_second => {
                    is_second = true;
                    shown = self.renewed(&answer, call)?;
                }
                401 | 403 => {
                    return Err(self.denied(call.what, call.repository, reasons(&answer.body)));
                }
                _ => return Ok(answer),
            }
        }
    }

    /// What is shown, as far as it is known what is wanted.
    pub(super) fn authorization(
        &self,
        scopes: &[Scope],
        repository: &str,
    ) -> Result<Option<Authorization>> {
        let challenge = {
            let access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(token) = access.tokens.get(&scopes.join(" ")) {
                return Ok(Some(token.clone()));
            }
            access.challenge.clone()
        };
        match challenge {
            None => Ok(None),
            Some(challenge) => self.obtained(&challenge, scopes, repository),
        }
    }

    /// What is shown after a refusal: what was known is not good any more.
    fn renewed(&self, answer: &Answer, call: &Call<'_>) -> Result<Option<Authorization>> {
        let Some(challenge) = Challenge::of(&answer.headers("www-authenticate")) else {
            return Err(Error::Challenge {
                registry: self.name.clone(),
                why: "it answers 401, and does not say in `WWW-Authenticate` what it wants to see"
                    .to_owned(),
            });
        };
        {
            let mut access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
            access.tokens.remove(&call.scopes.join(" "));
            access.challenge = Some(challenge.clone());
        }
        match self.obtained(&challenge, call.scopes, call.repository)? {
            Some(authorization) => Ok(Some(authorization)),
            None => Err(self.denied(call.what, call.repository, reasons(&answer.body))),
        }
    }

    fn obtained(
        &self,
        challenge: &Challenge,
        scopes: &[Scope],
        repository: &str,
    ) -> Result<Option<Authorization>> {
        let found = credentials::find(&self.settings, &self.name, repository)?;
        let known = found.as_ref().map(|(known, _)| known);
        if let Some(Credentials::Token(token)) = known {
            return Ok(Some(Authorization::bearer(token.expose())));
        }
        if let Challenge::Basic = challenge {
            return Ok(match known {
                Some(Credentials::Password { user, password }) => {
                    Some(Authorization::basic(user, password.expose()))
                }
                _ => None,
            });
        }
        let token = token::get(&self.client, self.address()?, challenge, scopes, known).map_err(
            |error| match error {
                NoToken::Denied(answer) => self.denied("a token", repository, answer),
                NoToken::Refused(why) => Error::Challenge {
                    registry: self.name.clone(),
                    why,
                },
                NoToken::Net(source) => self.failed("a token", source),
            },
        )?;
        let mut access = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        access.tokens.insert(scopes.join(" "), token.clone());
        Ok(Some(token))
    }

    pub(super) fn failed(&self, what: &str, source: net::Error) -> Error {
        Error::Request {
            registry: self.name.clone(),
            what: what.to_owned(),
            source,
        }
    }

    fn denied(&self, what: &str, repository: &str, answer: String) -> Error {
        let known = credentials::find(&self.settings, &self.name, repository);
        Error::Denied {
            registry: self.name.clone(),
            what: what.to_owned(),
            answer,
            known: known.ok().flatten().map(|(_, place)| place),
        }
    }

    /// An answer that is not what the protocol has.
    pub(super) fn odd(&self, what: &str, answer: &Answer) -> Error {
        match answer.status {
            404 => Error::NotFound {
                registry: self.name.clone(),
                what: what.to_owned(),
                answer: reasons(&answer.body),
            },
            status => Error::Status {
                registry: self.name.clone(),
                what: what.to_owned(),
                status,
                answer: reasons(&answer.body),
            },
        }
    }

    pub(super) fn damaged(&self, what: &str, why: String) -> Error {
        Error::Damaged {
            registry: self.name.clone(),
            what: what.to_owned(),
            why,
        }
    }
}

fn has_port(name: &str) -> bool {
    let port = name.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

/// What `certs.d/HOST` holds: `*.crt` are authorities, `*.cert` with its `*.key` is what this side shows of itself.
fn add_certificates(net: &mut net::Settings, directory: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(());
        }
        Err(source) => {
            return Err(ConfError::Unreadable {
                path: directory.to_owned(),
                source,
            }
            .into());
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    for file in files {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("crt") => net.ca_files.push(file),
            Some("cert") => net.identity = Some((file.clone(), file.with_extension("key"))),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Where a server that gives this answer to everything is found, and the first bytes that it was sent.
    fn found(status: &'static str) -> (String, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut said = [0; 1024];
                let length = stream.read(&mut said).unwrap_or_default();
                hears.lock().unwrap().extend(said[..length].first());
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        let net = net::Settings::default();
        let kept = Kept::new(&name, false, &Settings::default(), &net).unwrap();
        let host = Host::of(Arc::new(kept), None);
        let scheme = host
            .address()
            .unwrap()
            .strip_suffix(&name)
            .unwrap()
            .to_owned();
        let heard = heard.lock().unwrap().clone();
        (scheme, heard)
    }

    #[test]
    fn a_port_of_this_machine_is_spoken_with_in_http_before_tls_is_begun() {
        const HELLO: u8 = 0x16;
        assert_eq!(found("200 OK"), ("http://".to_owned(), vec![b'G']));
        assert_eq!(found("401 Who"), ("http://".to_owned(), vec![b'G']));
        // What no registry says is no reason to send a password in the open.
        assert_eq!(found("404 None").1[..2], [b'G', HELLO]);
        let (scheme, heard) = found("400 Not so");
        assert_eq!(
            (scheme.as_str(), &heard[..2]),
            ("https://", [b'G', HELLO].as_slice())
        );
    }

    #[test]
    fn who_answers_in_no_way_is_waited_for_once() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = free.local_addr().unwrap().to_string();
        drop(free);
        let mut net = net::Settings::default();
        net.retry.first_pause = std::time::Duration::from_millis(1);
        let kept = Kept::new(&name, false, &Settings::default(), &net).unwrap();
        let error = Host::of(Arc::new(kept), None).address().unwrap_err();
        let Error::Request {
            registry,
            what,
            source,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(registry, name);
        assert_eq!(what, "what it is, in https or http");
        assert!(source.to_string().contains("after 5 attempts"), "{source}");
    }

    #[test]
    fn a_name_has_a_port_or_none() {
        assert!(has_port("localhost:5000") && has_port("[::1]:5000"));
        assert!(!has_port("localhost") && !has_port("[::1]") && !has_port("[::5000]"));
    }
}
