//! `shmocker build`: a Dockerfile and a context become a request.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use super::args::{BuildArguments, DockerfileArguments};
use super::call::{Call, What};
use super::environment::{Environment, variable};
use super::exit::Exit;
use super::report::Stop;
use super::request::{self, Draft};
use super::steps::StepArguments;
use crate::backend::embedded::Embedded;
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::solve::context::{DOCKERFILE_NAMES, dockerfile_names, keep_archive};
use crate::engine::tree::archive;
use crate::engine::work::{NoCache, Place, RemoteContext, RemoteDockerfile, Text, Work};
use crate::frontend;
use crate::image::Platform;

/// Builds, and prints the digest of what was built.
pub(super) fn run(
    arguments: BuildArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let mut draft = Draft::new(arguments.draft, environment)?;
    draft.platforms = platforms(&arguments.dockerfile.platforms, environment)?;
    fill(
        &mut draft.work,
        arguments.dockerfile,
        arguments.steps,
        &store,
        environment,
    )?;
    if arguments.no_cache {
        draft.work.no_cache = NoCache::Everything;
    } else if !arguments.no_cache_filter.is_empty() {
        draft.work.no_cache = NoCache::Stages(arguments.no_cache_filter);
    }
    let text = draft.work.dockerfile.clone();
    let call = arguments.call.or(arguments.check.then(Call::check));
    if let Some(call) = call.filter(|call| call.what != What::Build) {
        let events = draft.events(environment);
        let work = Embedded.settled(&draft.work, &store, events.as_ref())?;
        let text = &work.dockerfile;
        return call
            .answer(&work, &store)
            .map_err(|stop| stop.with_text(&text.file, &text.text));
    }
    draft
        .build(store, environment)
        .map_err(|stop| stop.with_text(&text.file, &text.text))
}

/// Puts the Dockerfile and its contexts into a build's work.
pub(super) fn fill(
    work: &mut Work,
    arguments: DockerfileArguments,
    steps: StepArguments,
    store: &Path,
    environment: &Environment,
) -> Result<(), Stop> {
    let platforms = platforms(&arguments.platforms, environment)?;
    if let Some(first) = platforms.first() {
        work.platform.clone_from(first);
    }
    for spec in &arguments.build_contexts {
        work.contexts
            .push(request::named_context(spec, &work.platform)?);
    }
    work.target = arguments.target;
    steps.apply(work)?;
    for spec in arguments.build_args {
        match spec.split_once('=') {
            Some((name, value)) => work.build_args.push((name.to_owned(), value.to_owned())),
            // As docker has it: a name alone takes the value that the environment has, if it has one.
            None => work
                .build_args
                .extend(variable(&spec).map(|value| (spec, value))),
        }
    }
    let file = arguments.file.as_deref();
    match Context::of(&arguments.context)? {
        Context::Directory(directory) => take_directory(work, directory, file),
        Context::Remote(remote) => take_remote(work, remote, file),
        Context::Stdin => take_stdin(work, file, store),
    }
}

/// The platforms that are built for, each once; none where nothing says it.
fn platforms(wanted: &[String], environment: &Environment) -> Result<Vec<String>, Stop> {
    let usual = environment.platform.iter().flat_map(|all| all.split(','));
    let wanted: Vec<&str> = match wanted {
        [] => usual.collect(),
        wanted => wanted.iter().map(String::as_str).collect(),
    };
    let mut platforms: Vec<String> = Vec::new();
    for wanted in wanted {
        let platform = platform(wanted.trim())?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

fn platform(wanted: &str) -> Result<String, Stop> {
    if wanted == "local" {
        return Ok(Platform::of_this_machine().to_string());
    }
    let platform = Platform::parse(wanted).ok_or_else(|| {
        Stop::usage(
            format!("`--platform {wanted}` is not a platform"),
            "one is os/arch or os/arch/variant, such as linux/arm64",
        )
    })?;
    if platform.os != "linux" {
        return Err(Stop::usage(
            format!("`--platform {wanted}`: only images for Linux can be built"),
            "write linux/ARCH",
        ));
    }
    Ok(platform.to_string())
}

/// What the command line names as the build context.
enum Context {
    /// A directory of this machine, absolute.
    Directory(PathBuf),
    /// Something that has to be fetched.
    Remote(RemoteContext),
    /// `-`: an archive, or a Dockerfile alone.
    Stdin,
}

impl Context {
    fn of(given: &Path) -> Result<Self, Stop> {
        if given == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let is_directory = given.is_dir();
        if let (Some(text), false) = (given.to_str(), is_directory) {
            let git = frontend::git_context(text).map_err(|reason| {
                Stop::usage(
                    format!("the build context `{text}` cannot be read: {reason}"),
                    "it is URL.git#REFERENCE:DIRECTORY or URL.git?branch=…&subdir=…",
                )
            })?;
            if let Some(git) = git {
                return Ok(Self::Remote(RemoteContext::Git(git)));
            }
            if is_http(text) {
                return Ok(Self::Remote(RemoteContext::Http(text.to_owned())));
            }
        }
        if !is_directory {
            let message = format!("the build context `{}` is not a directory", given.display());
            return Err(Failure::new(FailureKind::Input, "cli::context", message)
                .with_help(
                    "name a directory of this machine (`.` is the one you are in), the URL of a git repository or of an \
                     archive, or `-` for an archive or a Dockerfile on standard input",
                )
                .into());
        }
        request::absolute(given).map(Self::Directory)
    }
}

fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// What `-f` names.
enum File<'a> {
    Stdin,
    Http(&'a str),
    Path(&'a Path),
}

impl<'a> File<'a> {
    fn of(given: &'a Path) -> Self {
        match given.to_str() {
            Some("-") => Self::Stdin,
            Some(url) if is_http(url) => Self::Http(url),
            _ => Self::Path(given),
        }
    }
}

fn take_directory(work: &mut Work, directory: PathBuf, file: Option<&Path>) -> Result<(), Stop> {
    let mut beside = None;
    match file.map(File::of) {
        Some(File::Stdin) => work.dockerfile = dockerfile_of_stdin()?,
        Some(File::Http(url)) => {
            work.unsettled.dockerfile = Some(RemoteDockerfile::Http(url.to_owned()));
            work.project = url.to_owned();
        }
        Some(File::Path(path)) => {
            let names = dockerfile_names(&path.display().to_string());
            let candidates = names.iter().map(PathBuf::from);
            beside = Some(read_dockerfile(work, candidates.collect(), Path::new(""))?);
        }
        None => {
            let candidates = DOCKERFILE_NAMES.iter().map(|name| directory.join(name));
            beside = Some(read_dockerfile(work, candidates.collect(), &directory)?);
        }
    }
    if work.project.is_empty() {
        work.project = directory.display().to_string();
    }
    let ignore = read_ignore_file(beside.as_deref(), &directory)?;
    work.context = Some(Place::Directory {
        path: directory,
        ignore,
    });
    Ok(())
}

fn take_remote(
    work: &mut Work,
    mut remote: RemoteContext,
    file: Option<&Path>,
) -> Result<(), Stop> {
    if let RemoteContext::Git(git) = &mut remote {
        let keep = work
            .build_args
            .iter()
            .rev()
            .find(|(name, _)| name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        git.keep_git_dir |= keep.is_some_and(|(_, value)| {
            matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
        });
    }
    work.project = match &remote {
        RemoteContext::Git(git) => crate::net::redacted(&git.url),
        RemoteContext::Http(url) => crate::net::redacted(url),
        RemoteContext::Archive(_) => "-".to_owned(),
    };
    match file.map(File::of) {
        Some(File::Stdin) => work.dockerfile = dockerfile_of_stdin()?,
        Some(File::Http(url)) => {
            work.unsettled.dockerfile = Some(RemoteDockerfile::Http(url.to_owned()));
        }
        Some(File::Path(path)) if path.is_absolute() => {
            read_dockerfile(work, vec![path.to_owned()], Path::new(""))?;
        }
        Some(File::Path(path)) => {
            let path = path.display().to_string();
            work.project.push_str(&format!("#{path}"));
            work.unsettled.dockerfile = Some(RemoteDockerfile::InContext(Some(path)));
        }
        None => work.unsettled.dockerfile = Some(RemoteDockerfile::InContext(None)),
    }
    work.unsettled.context = Some(remote);
    Ok(())
}

/// Standard input is an archive, or else a Dockerfile that has no context.
fn take_stdin(work: &mut Work, file: Option<&Path>, store: &Path) -> Result<(), Stop> {
    let twice = |what: &str| {
        Stop::usage(
            format!("standard input is {what}, and `-f` names a Dockerfile as well"),
            "leave `-f` away, or name a directory as the context",
        )
    };
    if matches!(file.map(File::of), Some(File::Stdin)) {
        return Err(twice("the context"));
    }
    let mut stdin = std::io::stdin().lock();
    let mut head = Vec::new();
    stdin
        .by_ref()
        .take(archive::HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(|error| stdin_unreadable("the build context", &error))?;
    if head.is_empty() {
        return Err(Failure::new(
            FailureKind::Input,
            "cli::stdin",
            "there is nothing on standard input, which should be the build context",
        )
        .with_help("give it an archive (`tar c . | shmocker build -`) or a Dockerfile (`shmocker build - < Dockerfile`)")
        .into());
    }
    if archive::is_head(&head) {
        let digest = keep_archive(store, Cursor::new(head).chain(stdin))?;
        return take_remote(work, RemoteContext::Archive(digest), file);
    }
    if file.is_some() {
        return Err(twice("no archive, so it has to be a Dockerfile"));
    }
    work.dockerfile = dockerfile_text(Cursor::new(head).chain(stdin))?;
    work.project = "-".to_owned();
    Ok(())
}

fn dockerfile_of_stdin() -> Result<Text, Stop> {
    dockerfile_text(std::io::stdin().lock())
}

fn dockerfile_text(mut from: impl Read) -> Result<Text, Stop> {
    let mut text = String::new();
    from.read_to_string(&mut text)
        .map_err(|error| stdin_unreadable("the Dockerfile", &error))?;
    Ok(Text {
        file: "Dockerfile".to_owned(),
        text,
    })
}

fn stdin_unreadable(what: &str, error: &std::io::Error) -> Stop {
    let message = format!("{what} cannot be read from standard input");
    Failure::caused(FailureKind::Input, "cli::stdin", message, error).into()
}

/// Reads the first of these that is there. In messages its name is the part below `shown_from`. Returns its path as it was
/// given, made absolute: a link may have an ignore file of its own beside it.
fn read_dockerfile(
    work: &mut Work,
    candidates: Vec<PathBuf>,
    shown_from: &Path,
) -> Result<PathBuf, Stop> {
    let found = candidates
        .iter()
        .find(|path| path.exists())
        .unwrap_or(&candidates[0]);
    let shown = found.strip_prefix(shown_from).unwrap_or(found);
    let text = std::fs::read_to_string(found).map_err(|error| {
        let message = format!("the Dockerfile `{}` cannot be read", shown.display());
        Failure::caused(FailureKind::Input, "cli::dockerfile", message, &error)
            .with_help("`-f PATH` names another one; without it, CONTEXT/Dockerfile is read")
    })?;
    work.dockerfile = Text {
        file: shown.display().to_string(),
        text,
    };
    let path = std::path::absolute(found).unwrap_or_else(|_| found.clone());
    work.project = path.display().to_string();
    Ok(path)
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` at the context's root.
pub(super) fn read_ignore_file(
    dockerfile: Option<&Path>,
    context: &Path,
) -> Result<Option<Text>, Stop> {
    let beside = dockerfile.and_then(|path| {
        let name = format!("{}.dockerignore", path.file_name()?.to_str()?);
        Some((path.with_file_name(&name), name))
    });
    let top = (context.join(".dockerignore"), ".dockerignore".to_owned());
    for (path, name) in beside.into_iter().chain([top]) {
        if let Some(text) = request::ignore_file(&path, name)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}
