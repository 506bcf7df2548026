//! Who one is at a registry: the files that docker and podman keep, and the helpers that they name.
//!
//! ```text
//! config.json of docker        { "auths": { HOST: { "auth": base64 } }, "credHelpers": { HOST: NAME }, "credsStore": NAME }
//! auth.json of containers      the same; a key may be a part of a repository too: HOST/ORG, the longest counts
//! docker-credential-NAME       gets the host on its standard input and prints { "Username": …, "Secret": … }
//! ```

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Settings;

/// How docker calls its own registry in its files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// How long a helper may take.
const HELPER_WITHIN: Duration = Duration::from_secs(30);
/// The user that a helper names where its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text. Whoever asks for it must neither print nor store it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// A user's name and password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that tokens are got for.
    Identity(Secret),
    /// A token that is shown as it is.
    Token(Secret),
}

/// What a program that keeps credentials is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperQuestion {
    /// Its name is `docker-credential-` and this.
    pub name: String,
    /// What it is to do.
    pub verb: String,
    /// What it is told.
    pub input: Secret,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperAnswer {
    /// Whether it ended well.
    pub is_done: bool,
    /// What it printed.
    pub printed: Secret,
}

/// Asks a program that keeps credentials; says why it cannot be asked.
pub type AskHelper =
    dyn Fn(&HelperQuestion) -> std::result::Result<HelperAnswer, String> + Send + Sync;

/// Who runs the programs that keep credentials: this process, if nothing else is said. They belong to the user, and find
/// their keys and their session only as the user.
#[derive(Clone, Default)]
pub struct Helpers(Option<Arc<AskHelper>>);

impl Helpers {
    /// They are run by whoever is asked so.
    #[must_use]
    pub fn asked(ask: Arc<AskHelper>) -> Self {
        Self(Some(ask))
    }
}

impl std::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "Helpers(asked)",
            None => "Helpers(run here)",
        })
    }
}

/// Why credentials cannot be had, or not be kept.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CredentialsError {
    /// A file cannot be read or written.
    #[error("cannot {doing} `{}`", path.display())]
    #[diagnostic(code(registry::credentials_file))]
    File {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}` cannot be used: {why}", path.display())]
    #[diagnostic(
        code(registry::credentials),
        help("mend it, or move it away and log in again: `shmocker login`")
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A helper failed.
    #[error("`docker-credential-{name}` does not give the credentials for {host}: {why}")]
    #[diagnostic(
        code(registry::credential_helper),
        help("it is named in {}; see that the program is in PATH and works: `echo {host} | docker-credential-{name} get`", path.display())
    )]
    Helper {
        /// Which.
        name: String,
        /// For whom.
        host: String,
        /// The file that names it.
        path: PathBuf,
        /// What it said.
        why: String,
    },
}

type Result<T> = std::result::Result<T, CredentialsError>;

/// The credentials for a repository, and where they come from. `None`: there are none.
pub(super) fn find(
    settings: &Settings,
    host: &str,
    repository: &str,
) -> Result<Option<(Credentials, String)>> {
    if let Some(given) = &settings.given {
        return Ok(Some((given.clone(), "the command line".to_owned())));
    }
    for path in &settings.auth_files {
        let Some(file) = read(path)? else { continue };
        if let Some(found) = in_file(&file, path, settings, host, repository)? {
            return Ok(Some((found, path.display().to_string())));
        }
    }
    Ok(None)
}

fn in_file(
    file: &Map<String, Value>,
    path: &Path,
    settings: &Settings,
    host: &str,
    repository: &str,
) -> Result<Option<Credentials>> {
    if let Some(helper) = helper(file, host) {
        let helper = Helper {
            name: helper,
            path,
            settings,
        };
        if let Some(found) = helper.get(host)? {
            return Ok(Some(found));
        }
    }
    let Some(Value::Object(auths)) = file.get("auths") else {
        return Ok(None);
    };
    // HOST/A/B, HOST/A, HOST.
    let full = format!("{host}/{repository}");
    let ends = full.match_indices('/').map(|(at, _)| at).rev();
    let wanted = std::iter::once(full.len())
        .chain(ends)
        .map(|end| &full[..end]);
    for wanted in wanted {
        let entry = auths.iter().find(|(key, _)| known_as(key) == wanted);
        let Some((_, entry)) = entry else { continue };
        return entry_of(entry).map_err(|why| CredentialsError::Malformed {
            path: path.to_owned(),
            why: format!("its entry for {wanted}: {why}"),
        });
    }
    Ok(None)
}

/// `https://index.docker.io/v1/` is `docker.io`; a key with a scheme is a host alone.
fn known_as(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let name = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => key
            .trim_end_matches('/')
            .trim_end_matches("/v1")
            .trim_end_matches("/v2"),
    };
    match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        name => name.to_owned(),
    }
}

fn entry_of(entry: &Value) -> std::result::Result<Option<Credentials>, String> {
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials::Identity(Secret::new(token.to_owned()))));
    }
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Credentials::Token(Secret::new(token.to_owned()))));
    }
    if let Some(auth) = text("auth") {
        let decoded = STANDARD.decode(auth.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = decoded.ok_or("`auth` is not the base64 of USER:PASSWORD")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("`auth` is not the base64 of USER:PASSWORD")?;
        return Ok(Some(password_of(user, password.trim_end_matches('\0'))));
    }
    Ok(text("username").map(|user| password_of(user, text("password").unwrap_or_default())))
}

fn password_of(user: &str, secret: &str) -> Credentials {
    let secret = Secret::new(secret.to_owned());
    match user {
        TOKEN_USER => Credentials::Identity(secret),
        user => Credentials::Password {
            user: user.to_owned(),
            password: secret,
        },
    }
}

fn helper(file: &Map<String, Value>, host: &str) -> Option<String> {
    let special = file.get("credHelpers").and_then(Value::as_object);
    let special = special.and_then(|helpers| helpers.iter().find(|(key, _)| known_as(key) == host));
    let name = special
        .map(|(_, name)| name)
        .or_else(|| file.get("credsStore"))?;
    name.as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(source) => {
            return Err(CredentialsError::File {
                path: path.to_owned(),
                doing: "read",
                source,
            });
        }
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(file)) => Ok(Some(file)),
        Ok(_) => Err(CredentialsError::Malformed {
            path: path.to_owned(),
            why: "it is no JSON object".to_owned(),
        }),
        // The text of an error could quote a password: only the place is said.
        Err(error) => Err(CredentialsError::Malformed {
            path: path.to_owned(),
            why: format!(
                "it is no JSON from line {}, column {} on",
                error.line(),
                error.column()
            ),
        }),
    }
}

/// A program that keeps credentials.
struct Helper<'a> {
    name: String,
    path: &'a Path,
    settings: &'a Settings,
}

impl Helper<'_> {
    fn get(&self, host: &str) -> Result<Option<Credentials>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            #[serde(default)]
            username: String,
            #[serde(default)]
            secret: String,
        }
        let (is_done, answer) = self.run("get", host, asked_as(host).as_bytes())?;
        if !is_done {
            // In these words, which every helper has from docker's own.
            if answer.contains("credentials not found") || answer.contains("no credentials") {
                return Ok(None);
            }
            return Err(self.failed(host, answer.trim()));
        }
        match serde_json::from_str::<Answer>(&answer) {
            Ok(answer) if answer.username.is_empty() && answer.secret.is_empty() => Ok(None),
            Ok(answer) => Ok(Some(password_of(&answer.username, &answer.secret))),
            Err(_) => Err(self.failed(host, "it does not answer in JSON")),
        }
    }

    fn store(&self, host: &str, user: &str, secret: &Secret) -> Result<()> {
        let entry = serde_json::json!({
            "ServerURL": asked_as(host),
            "Username": user,
            "Secret": secret.expose(),
        });
        match self.run("store", host, entry.to_string().as_bytes())? {
            (true, _) => Ok(()),
            (false, why) => Err(self.failed(host, why.trim())),
        }
    }

    fn erase(&self, host: &str) -> Result<bool> {
        Ok(self.run("erase", host, asked_as(host).as_bytes())?.0)
    }

    /// Whether it ended well, and what it printed.
    fn run(&self, verb: &str, host: &str, input: &[u8]) -> Result<(bool, String)> {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if !self.name.chars().all(is_plain) {
            return Err(self.failed(host, "that is no name of a helper"));
        }
        let question = HelperQuestion {
            name: self.name.clone(),
            verb: verb.to_owned(),
            input: Secret::new(String::from_utf8_lossy(input).into_owned()),
        };
        let answer = match &self.settings.helpers.0 {
            Some(ask) => ask(&question),
            None => run_helper(self.settings, &question),
        };
        let answer = answer.map_err(|why| self.failed(host, &why))?;
        Ok((answer.is_done, answer.printed.expose().to_owned()))
    }

    fn failed(&self, host: &str, why: &str) -> CredentialsError {
        CredentialsError::Helper {
            name: self.name.clone(),
            host: host.to_owned(),
            path: self.path.to_owned(),
            why: why
                .chars()
                .filter(|letter| !letter.is_control())
                .take(200)
                .collect(),
        }
    }
}

/// Runs a program that keeps credentials, in this process's place.
///
/// # Errors
/// Why it cannot be run, or did not end.
pub fn run_helper(
    settings: &Settings,
    question: &HelperQuestion,
) -> std::result::Result<HelperAnswer, String> {
    let failed = |error: std::io::Error| error.to_string();
    let path = settings.helper_env.iter().find(|(name, _)| name == "PATH");
    let program = format!("docker-credential-{}", question.name);
    let program = path
        .iter()
        .flat_map(|(_, path)| std::env::split_paths(path))
        .map(|directory| directory.join(&program))
        .find(|candidate| candidate.is_file())
        .ok_or("there is no such program in PATH")?;
    let mut child = Command::new(program)
        .arg(&question.verb)
        .env_clear()
        .envs(
            settings
                .helper_env
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that needs no input may have ended already.
        drop(stdin.write_all(question.input.expose().as_bytes()));
    }
    let stdout = child.stdout.take();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        let limited = stdout.map(|stdout| stdout.take(1 << 20).read_to_string(&mut text));
        (limited.is_some_and(|read| read.is_ok()), text)
    });
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if started.elapsed() > HELPER_WITHIN {
            drop(child.kill());
            drop(child.wait());
            return Err(format!(
                "it takes longer than {} seconds",
                HELPER_WITHIN.as_secs()
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (is_text, text) = reading.join().unwrap_or_default();
    Ok(HelperAnswer {
        is_done: status.success() && is_text,
        printed: Secret::new(text),
    })
}

fn asked_as(host: &str) -> &str {
    match host {
        "docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// Keeps credentials for a registry in a file, or with the helper that it names. What else the file holds stays.
///
/// # Errors
/// If the file cannot be read or written, or the helper fails.
pub fn keep(settings: &Settings, path: &Path, host: &str, credentials: &Credentials) -> Result<()> {
    let mut file = read(path)?.unwrap_or_default();
    let (user, secret) = match credentials {
        Credentials::Password { user, password } => (user.as_str(), password),
        Credentials::Identity(token) | Credentials::Token(token) => (TOKEN_USER, token),
    };
    let entry = match helper(&file, host) {
        Some(name) => {
            Helper {
                name,
                path,
                settings,
            }
            .store(host, user, secret)?;
            Value::Object(Map::new())
        }
        None => match credentials {
            Credentials::Password { .. } => {
                serde_json::json!({ "auth": STANDARD.encode(format!("{user}:{}", secret.expose())) })
            }
            Credentials::Identity(token) => serde_json::json!({ "identitytoken": token.expose() }),
            Credentials::Token(token) => serde_json::json!({ "registrytoken": token.expose() }),
        },
    };
    let auths = file
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(auths) = auths {
        auths.retain(|key, _| known_as(key) != host);
        auths.insert(asked_as(host).to_owned(), entry);
    }
    write(path, &file)
}

/// Forgets the credentials for a registry. False: none were kept there.
///
/// # Errors
/// If the file cannot be read or written, or the helper fails.
pub fn forget(settings: &Settings, path: &Path, host: &str) -> Result<bool> {
    let Some(mut file) = read(path)? else {
        return Ok(false);
    };
    let mut is_known = match helper(&file, host) {
        Some(name) => Helper {
            name,
            path,
            settings,
        }
        .erase(host)?,
        None => false,
    };
    if let Some(Value::Object(auths)) = file.get_mut("auths") {
        let before = auths.len();
        auths.retain(|key, _| known_as(key) != host);
        is_known |= auths.len() < before;
        if auths.len() < before {
            write(path, &file)?;
        }
    }
    Ok(is_known)
}

/// Writes the file beside its place and renames it, for its owner's eyes only.
fn write(path: &Path, file: &Map<String, Value>) -> Result<()> {
    let failed = |source| CredentialsError::File {
        path: path.to_owned(),
        doing: "write",
        source,
    };
    // A link stays one: dotfiles are often kept elsewhere.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut name = [0; 8];
    rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed(error.into()))?;
    let beside = directory.join(format!(".auth-{:016x}", u64::from_le_bytes(name)));
    let written = (|| {
        let mut out = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let text = serde_json::to_string_pretty(file)?;
        out.write_all(text.replace("\n  ", "\n\t").as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        std::fs::rename(&beside, &path)
    })();
    written.map_err(|error| {
        drop(std::fs::remove_file(&beside));
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, host: &str, repository: &str) -> Option<Credentials> {
        let Value::Object(file) = serde_json::from_str(file).unwrap() else {
            panic!("an object");
        };
        in_file(
            &file,
            Path::new("auth.json"),
            &Settings::default(),
            host,
            repository,
        )
        .unwrap()
    }

    fn user(name: &str) -> Option<Credentials> {
        Some(password_of(name, "s3cret"))
    }

    #[test]
    fn the_longest_key_counts_and_docker_hub_has_many_names() {
        let auth = |user: &str| STANDARD.encode(format!("{user}:s3cret"));
        let file = format!(
            r#"{{"auths":{{"a.org":{{"auth":"{}"}},"a.org/x/y":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"auth":"{}"}},
                "b.org":{{"identitytoken":"t"}},"c.org":{{}}}}}}"#,
            auth("host"),
            auth("deep"),
            auth("hub")
        );
        assert_eq!(found(&file, "a.org", "z"), user("host"));
        assert_eq!(found(&file, "a.org", "x/y/z"), user("deep"));
        assert_eq!(found(&file, "a.org", "x/yz"), user("host"));
        assert_eq!(found(&file, "docker.io", "library/debian"), user("hub"));
        assert_eq!(
            found(&file, "b.org", "z"),
            Some(Credentials::Identity(Secret::new("t".to_owned())))
        );
        assert_eq!(found(&file, "c.org", "z"), None);
        assert_eq!(found(&file, "d.org", "z"), None);
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?}", user("me"));
        assert!(shown.contains("me") && !shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn what_else_a_file_holds_stays() {
        let directory = std::env::temp_dir().join(format!("shmocker-auth-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&directory));
        let path = directory.join("deep/config.json");
        let settings = Settings::default();
        let credentials = user("me").unwrap();
        keep(&settings, &path, "a.org", &credentials).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', "{\"psFormat\":\"x\",", 1)).unwrap();
        keep(&settings, &path, "docker.io", &credentials).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("psFormat") && text.contains(DOCKER_HUB) && text.contains("a.org"),
            "{text}"
        );
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(forget(&settings, &path, "docker.io").unwrap());
        assert!(!forget(&settings, &path, "docker.io").unwrap());
        assert_eq!(
            found(&std::fs::read_to_string(&path).unwrap(), "a.org", "x"),
            user("me")
        );
        drop(std::fs::remove_dir_all(&directory));
    }
}
