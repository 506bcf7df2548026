//! `pull`, `push`, `copy`, `login`, `logout`: images between the local store and registries.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use super::args::registry::{
    CopyArguments, LoginArguments, LogoutArguments, PullArguments, PushArguments, ReachArguments,
};
use super::args::{MeansArguments, TagArguments};
use super::environment::Environment;
use super::exit::Exit;
use super::report::Stop;
use super::request::{Draft, absolute, print, say};
use super::terminal::Hidden;
use crate::backend::embedded::Embedded;
use crate::engine::base::of_registry;
use crate::engine::clock::Clock;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::images;
use crate::engine::solve::registries;
use crate::event::{BuildEvent, EventSink};
use crate::image::{Name, Platform};
use crate::registry::{self, Credentials, Referring, Secret, Selection};
use crate::store::{Store, StoreError};

/// The beginning of what names an image of a registry.
const REGISTRY: &str = "docker://";

/// `pull`
pub(super) fn pull(
    arguments: PullArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let draft = draft(arguments.reach, arguments.watch, environment)?;
    let platform = of_platform(arguments.platform.as_deref())?;
    let store = Store::open(store).map_err(of_store)?;
    let events = draft.events(environment);
    for image in &arguments.images {
        let name = name_of(image)?;
        let digest = pulled(&draft, &store, (&name, &name), &platform, events.as_ref())?;
        print(&format!("{digest}\n"));
    }
    Ok(Exit::Done)
}

fn pulled(
    draft: &Draft,
    store: &Store,
    (name, stored_as): (&Name, &Name),
    platform: &Platform,
    events: &dyn EventSink,
) -> Result<crate::digest::Digest, Stop> {
    let registries = registries(&draft.work, events);
    let now_ms = Clock::system().now().as_millis() as u64;
    let pulled = images::pull(
        store,
        &registries,
        (name, stored_as),
        platform,
        now_ms,
        events,
    );
    pulled.map_err(|error| of_registry(&error).into())
}

/// `push`
pub(super) fn push(
    arguments: PushArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let draft = draft(arguments.reach, arguments.watch, environment)?;
    let to = arguments.destination.as_deref().unwrap_or(&arguments.image);
    let to = name_of(to.strip_prefix(REGISTRY).unwrap_or(to))?;
    sent(&draft, &store, &arguments.image, to, environment)
}

fn sent(
    draft: &Draft,
    store: &Path,
    image: &str,
    to: Name,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let events = draft.events(environment);
    let digest = Embedded.push(&draft.work, store, image, to, events.as_ref())?;
    print(&format!("{digest}\n"));
    Ok(Exit::Done)
}

/// `copy`
pub(super) fn copy(
    arguments: CopyArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let draft = draft(arguments.reach, arguments.watch, environment)?;
    let (from, to) = (&arguments.source, &arguments.destination);
    for place in [from, to] {
        if let Some((scheme, _)) = place.split_once(':')
            && !place.starts_with(REGISTRY)
            && [
                "oci",
                "oci-archive",
                "docker-archive",
                "dir",
                "containers-storage",
                "docker-daemon",
            ]
            .contains(&scheme)
        {
            return Err(Stop::usage(
                format!("`{place}` is nothing that is copied from or to"),
                "it is docker://NAME, or the name of an image of the local store; layouts and archives are written by `build -o`",
            ));
        }
    }
    let remote = |place: &str| place.strip_prefix(REGISTRY).map(name_of).transpose();
    match (remote(from)?, remote(to)?) {
        (Some(from), Some(to)) => {
            let selection = match &arguments.platform {
                None => Selection::All,
                Some(_) => Selection::Platform(of_platform(arguments.platform.as_deref())?),
            };
            let referring = match arguments.referrers {
                true => Referring::Comes,
                false => Referring::Stays,
            };
            let store = Store::open(store).map_err(of_store)?;
            let events = draft.events(environment);
            let image = to.to_string();
            events.emit(BuildEvent::PushStarted {
                image: image.clone(),
            });
            // Nothing that is on its way is deleted meanwhile.
            let _work = store.tmp_dir().map_err(of_store)?;
            let registries = registries(&draft.work, events.as_ref()).remembered(&store);
            let copied = registries.copy(&store, (&from, &to), (&selection, referring), &|_| ());
            let copied = copied.map_err(|error| Stop::from(of_registry(&error)))?;
            events.emit(BuildEvent::PushDone {
                image,
                digest: copied.descriptor.digest,
                bytes: copied.pushed.bytes,
                blobs_sent: copied.pushed.sent,
                blobs_mounted: copied.pushed.mounted,
                blobs_there: copied.pushed.there,
            });
            print(&format!("{}\n", copied.descriptor.digest));
            Ok(Exit::Done)
        }
        _ if arguments.referrers => Err(Stop::usage(
            "`--referrers` is for copies from registry to registry",
            "the local store keeps nothing that refers to an image",
        )),
        (Some(from), None) => {
            let platform = of_platform(arguments.platform.as_deref())?;
            let store = Store::open(store).map_err(of_store)?;
            let events = draft.events(environment);
            let to = name_of(to)?;
            let digest = pulled(&draft, &store, (&from, &to), &platform, events.as_ref())?;
            print(&format!("{digest}\n"));
            Ok(Exit::Done)
        }
        (None, Some(to)) => sent(&draft, &store, from, to, environment),
        (None, None) => super::images::tag(
            &TagArguments {
                image: from.clone(),
                names: vec![to.clone()],
            },
            store,
        ),
    }
}

/// `login`
pub(super) fn login(arguments: LoginArguments, environment: &Environment) -> Result<Exit, Stop> {
    let file = auth_file(environment)?;
    let host = host_of(&arguments.registry)?;
    let password = match arguments.password_stdin {
        true => {
            let mut text = String::new();
            let read = std::io::stdin()
                .lock()
                .take(1 << 20)
                .read_to_string(&mut text);
            read.map_err(|error| unreadable(&error))?;
            text
        }
        false => asked(&arguments.username, &host)?,
    };
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Stop::usage(
            "there is no password",
            "write it to standard input: `echo \"$TOKEN\" | shmocker login -u USER --password-stdin REGISTRY`",
        ));
    }
    let credentials = Credentials::Password {
        user: arguments.username,
        password: Secret::new(password.to_owned()),
    };
    let mut draft = draft(
        arguments.reach,
        super::args::WatchArguments::default(),
        environment,
    )?;
    draft.work.registries.given = Some(credentials.clone());
    let events = draft.events(environment);
    registries(&draft.work, events.as_ref())
        .login(&host)
        .map_err(|error| Stop::from(of_registry(&error)))?;
    registry::keep(&environment.registries(), &file, &host, &credentials)
        .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Machine, &error)))?;
    say(&format!(
        "logged in to {host}; the credentials are kept by {}\n",
        file.display()
    ));
    Ok(Exit::Done)
}

/// `logout`
pub(super) fn logout(arguments: &LogoutArguments, environment: &Environment) -> Result<Exit, Stop> {
    let host = host_of(&arguments.registry)?;
    let settings = environment.registries();
    let mut is_known = false;
    for file in &settings.auth_files {
        let forgotten = registry::forget(&settings, file, &host);
        is_known |= forgotten
            .map_err(|error| Stop::from(Failure::from_diagnostic(FailureKind::Machine, &error)))?;
    }
    say(&match is_known {
        true => format!("logged out of {host}\n"),
        false => format!("no credentials for {host} were kept\n"),
    });
    Ok(Exit::Done)
}

/// The password, from a terminal that does not show it.
fn asked(user: &str, host: &str) -> Result<String, Stop> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Stop::usage(
            "there is no terminal to ask for the password",
            "give `--password-stdin`, and the password on standard input",
        ));
    }
    say(&format!("password of {user} at {host}: "));
    let hidden = Hidden::enter(&stdin);
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    drop(hidden);
    say("\n");
    read.map_err(|error| unreadable(&error))?;
    Ok(line)
}

fn unreadable(error: &std::io::Error) -> Stop {
    let message = "the password cannot be read from standard input";
    Failure::caused(FailureKind::Input, "cli::stdin", message, error).into()
}

fn auth_file(environment: &Environment) -> Result<PathBuf, Stop> {
    environment.auth_file().ok_or_else(|| {
        Stop::usage(
            "nothing says where credentials are kept",
            "set REGISTRY_AUTH_FILE, DOCKER_CONFIG or HOME",
        )
    })
}

/// `https://index.docker.io/v1/` is `docker.io`.
fn host_of(given: &str) -> Result<String, Stop> {
    let bare = given
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    // The name of an image in it is checked as that of any other.
    let name: Name = name_of(&match host.contains(['.', ':']) || host == "localhost" {
        true => format!("{host}/x/x"),
        false => format!("{host}:443/x/x"),
    })?;
    Ok(match name.registry.as_str() {
        "registry-1.docker.io" => "docker.io".to_owned(),
        _ if name.registry.ends_with(":443") && !host.contains(':') => host.to_owned(),
        registry => registry.to_owned(),
    })
}

pub(super) fn draft(
    reach: ReachArguments,
    watch: super::args::WatchArguments,
    environment: &Environment,
) -> Result<Draft, Stop> {
    let means = MeansArguments {
        watch,
        ..MeansArguments::default()
    };
    let mut draft = Draft::with(means, environment)?;
    draft.work.registries.tls_verify = reach.tls_verify;
    draft.work.registries.cert_dir = reach.cert_dir.as_deref().map(absolute).transpose()?;
    Ok(draft)
}

pub(super) fn name_of(given: &str) -> Result<Name, Stop> {
    given.parse().map_err(|error: crate::image::NotAName| {
        Stop::usage(
            error.to_string(),
            "it is REGISTRY/REPOSITORY:TAG; without a registry, docker.io is meant",
        )
    })
}

pub(super) fn of_platform(given: Option<&str>) -> Result<Platform, Stop> {
    let Some(text) = given else {
        return Ok(Platform::of_this_machine());
    };
    text.parse().map_err(|error: crate::image::NotAPlatform| {
        Stop::usage(error.to_string(), "write `--platform linux/arm64`")
    })
}

pub(super) fn of_store(error: StoreError) -> Stop {
    Failure::from_diagnostic(FailureKind::Machine, &error).into()
}
