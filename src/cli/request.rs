//! What every build has in draft, from flags to a finished request, and what is written when it is done.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use super::archives;
use super::args::{MeansArguments, Progress, SharedBuildArguments};
use super::environment::{Environment, variable};
use super::exit::Exit;
use super::render::{JsonLines, Plain, Silent, Tty, tty::Color};
use super::report::Stop;
use super::settings;
use crate::backend::embedded::Embedded;
use crate::backend::{BuildRequest, Outcome};
use crate::engine::cache::{CacheFrom, CacheTo, SpecError, Target};
use crate::engine::failure::{Failure, FailureKind};
use crate::engine::work::{
    DebianMirrors, Entitlement, Freshness, NoCache, OnFailure, Place, Resources, Secret, Ssh, Text,
    Unsettled, Work,
};
use crate::event::{BuildEvent, EventSink};
use crate::frontend;
use crate::graph::{DebianSource, HttpSource, ImageSource, OciLayoutSource, RunDefaults, Source};
use crate::image::{Compression, Name, Platform};
use crate::ship::export::{
    Annotation, AnnotationPlace, ImageOutput, Joined, Output, OutputError, Pushing,
};

/// How long a remembered answer serves.
pub(super) const DEFAULT_REFRESH_MS: u64 = 3_600_000;

/// A request in the making.
pub(super) struct Draft {
    pub(super) work: Work,
    pub(super) tags: Vec<String>,
    /// What is built for, where that is said.
    pub(super) platforms: Vec<String>,
    /// `--allow home`: files of the user's home may be baked into an image.
    pub(super) home_allowed: bool,
    pub(super) outputs: Vec<Output>,
    cache_from: Vec<CacheFrom>,
    cache_to: Vec<CacheTo>,
    /// `-o type=cacheonly`: nobody wants the result itself.
    is_cache_only: bool,
    /// `--load`: the container engines of this machine get the image.
    load: bool,
    progress: Progress,
    quiet: bool,
    metadata_file: Option<PathBuf>,
    iidfile: Option<PathBuf>,
}

impl Draft {
    /// Reads the flags of a build that ends in an image. The Dockerfile, the context and the project are still to be
    /// filled in.
    pub(super) fn new(
        arguments: SharedBuildArguments,
        environment: &Environment,
    ) -> Result<Self, Stop> {
        let mut draft = Self::with(arguments.means, environment)?;
        draft.tags = arguments.tags;
        draft.take_outputs(&arguments.outputs, &arguments.annotations, arguments.push)?;
        draft.note_insecure();
        draft.load = arguments.load;
        for label in &arguments.labels {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            draft.work.labels.push((name.to_owned(), value.to_owned()));
        }
        draft.work.jobs = arguments.jobs;
        if arguments.pull {
            draft.work.freshness = Freshness::Now;
        } else if let (Some(ms), Freshness::After { .. }) =
            (arguments.refresh, &draft.work.freshness)
        {
            draft.work.freshness = Freshness::After { ms };
        }
        if arguments.keep_going {
            draft.work.on_failure = OnFailure::GoOn;
        }
        draft.take_caches(&arguments.cache_from, &arguments.cache_to)?;
        draft.quiet = arguments.quiet;
        draft.metadata_file = arguments.metadata_file;
        draft.iidfile = arguments.iidfile;
        Ok(draft)
    }

    /// Reads where results are looked for, and where they are written. Registries that are called insecure there are so for
    /// all of this build.
    fn take_caches(&mut self, from: &[String], to: &[String]) -> Result<(), Stop> {
        let refused = |error: SpecError| Stop::usage(error.to_string(), error.help);
        let mut insecure = Vec::new();
        for spec in from {
            for mut cache in CacheFrom::parse(spec).map_err(refused)? {
                match &mut cache {
                    CacheFrom::Directory { path, .. } => *path = absolute(path)?,
                    CacheFrom::Registry {
                        name,
                        insecure: true,
                    } => insecure.push(name.registry.clone()),
                    CacheFrom::Registry { .. } => {}
                }
                self.cache_from.push(cache);
            }
        }
        for spec in to {
            let mut cache = CacheTo::parse(spec).map_err(refused)?;
            match &mut cache.target {
                Target::Directory { path, .. } => *path = absolute(path)?,
                Target::Registry {
                    name,
                    insecure: true,
                } => insecure.push(name.registry.clone()),
                Target::Registry { .. } | Target::Inline => {}
            }
            self.cache_to.push(cache);
        }
        self.work.registries.insecure.extend(insecure);
        Ok(())
    }

    /// Whether the files of the result are wanted on this machine.
    fn needs_files(&self) -> bool {
        let is_sent = |output: &Output| {
            output
                .image()
                .is_some_and(|image| image.pushing != Pushing::No)
        };
        match self.outputs.as_slice() {
            [] => self.load || !self.is_cache_only || !self.tags.is_empty(),
            outputs => self.load || !outputs.iter().all(is_sent),
        }
    }

    /// Registries that an output calls insecure are so for all of this build.
    fn note_insecure(&mut self) {
        for output in &self.outputs {
            let Output::Image(image) = output else {
                continue;
            };
            if !image.insecure {
                continue;
            }
            let tags = self.tags.iter().filter_map(|tag| tag.parse::<Name>().ok());
            let names = tags.chain(image.names.iter().cloned());
            self.work
                .registries
                .insecure
                .extend(names.map(|name| name.registry));
        }
    }

    /// Reads what is to be written. What the store does by itself is nothing that is written.
    fn take_outputs(
        &mut self,
        given: &[String],
        annotations: &[String],
        is_pushed: bool,
    ) -> Result<(), Stop> {
        let of_output = |error: OutputError| {
            let failure = Failure::from_diagnostic(FailureKind::Input, &error);
            Stop {
                exit: Exit::Usage,
                ..Stop::from(failure)
            }
        };
        let mut outputs = Vec::new();
        for spec in given {
            outputs.push(Output::parse(spec).map_err(of_output)?);
        }
        if is_pushed {
            outputs.push(Output::Image(ImageOutput {
                pushing: Pushing::ByName,
                ..ImageOutput::default()
            }));
        }
        let mut notes = Vec::new();
        for spec in annotations {
            notes.extend(Annotation::parse(spec).map_err(of_output)?);
        }
        if !notes.is_empty()
            && !outputs
                .iter_mut()
                .any(|output| output.image_mut().is_some())
        {
            outputs.push(Output::Image(ImageOutput {
                compression: Compression::None,
                ..ImageOutput::default()
            }));
        }
        for image in outputs.iter_mut().filter_map(Output::image_mut) {
            image.annotate(&notes).map_err(of_output)?;
        }
        if outputs
            .iter()
            .filter(|output| output.is_to_stdout())
            .count()
            > 1
        {
            return Err(Stop::usage(
                "two outputs go to standard output, of which there is one",
                "give all but one of them a `dest=`",
            ));
        }
        if outputs.iter().any(Output::is_to_stdout) && std::io::stdout().is_terminal() {
            return Err(Stop::usage(
                "an output to standard output is nothing for a terminal",
                "give it a `dest=`; `--load` gives the image to podman or docker",
            ));
        }
        for output in outputs {
            match output {
                Output::CacheOnly => self.is_cache_only = true,
                Output::Image(image) if image.is_plain() => {
                    self.tags.extend(image.names.iter().map(Name::to_string));
                }
                output => self.outputs.push(output),
            }
        }
        Ok(())
    }

    /// Whether what is built can leave as it is asked for, and every note has a place on it.
    fn can_leave(&self) -> Result<(), Stop> {
        let built: Vec<&str> = match self.platforms.as_slice() {
            [] => vec![&self.work.platform],
            platforms => platforms.iter().map(String::as_str).collect(),
        };
        let is_built = |platform: &Platform| {
            let mut built = built.iter().filter_map(|one| one.parse::<Platform>().ok());
            built.any(|one| one.is_same_as(platform))
        };
        if built.len() > 1 {
            for output in &self.outputs {
                Joined::can_be(output).map_err(|error| Stop {
                    exit: Exit::Usage,
                    ..Stop::from(Failure::from_diagnostic(FailureKind::Input, &error))
                })?;
            }
        }
        let images = self.outputs.iter().filter_map(Output::image);
        for note in images.flat_map(|image| &image.annotations) {
            if let Some(platform) = note
                .platform
                .as_ref()
                .filter(|platform| !is_built(platform))
            {
                return Err(Stop::usage(
                    format!("an annotation is for {platform}, which is not built"),
                    format!("the image is built for {} alone", built.join(", ")),
                ));
            }
            let is_of_index = matches!(
                note.place,
                AnnotationPlace::Index | AnnotationPlace::IndexDescriptor
            );
            if is_of_index && built.len() == 1 {
                return Err(Stop::usage(
                    format!(
                        "the annotation `{}` is for an index, and an image for one platform has none",
                        note.key
                    ),
                    "give it the type `manifest` or `manifest-descriptor`",
                ));
            }
        }
        Ok(())
    }

    /// A build with no flags at all.
    pub(super) fn plain(environment: &Environment) -> Result<Self, Stop> {
        Self::with(MeansArguments::default(), environment)
    }

    /// A build of which is only said what it gets.
    pub(super) fn with(means: MeansArguments, environment: &Environment) -> Result<Self, Stop> {
        let progress = match means.watch.progress {
            Some(progress) => progress,
            None => progress_of_environment(environment)?,
        };
        let mut allow = Vec::new();
        let mut home_allowed = false;
        for what in &means.allow {
            match what.as_str() {
                "network.host" => allow.push(Entitlement::NetworkHost),
                "security.insecure" => allow.push(Entitlement::SecurityInsecure),
                "home" => home_allowed = true,
                other => {
                    return Err(Stop::usage(
                        format!("`--allow {other}` is not known"),
                        "what can be allowed is `network.host`, `security.insecure` and `home`",
                    ));
                }
            }
        }
        let mut secrets: Vec<Secret> = Vec::new();
        for spec in &means.watch.secrets {
            let secret = secret(spec)?;
            // One that is given again takes the place of the one before.
            secrets.retain(|known| known.id != secret.id);
            secrets.push(secret);
        }
        let work = Work {
            aside: false,
            project: String::new(),
            dockerfile: Text {
                file: String::new(),
                text: String::new(),
            },
            origins: Vec::new(),
            context: None,
            unsettled: Unsettled::default(),
            contexts: Vec::new(),
            target: None,
            build_args: epoch_by_name(environment),
            labels: Vec::new(),
            platform: Platform::of_this_machine().to_string(),
            programs: environment.programs.clone(),
            proxies: environment.proxies.clone(),
            ca_file: environment.ca_file.clone(),
            registries: environment.registries(),
            ssh: Ssh {
                agent: environment.ssh_agent.clone(),
                known_hosts: environment
                    .home
                    .as_ref()
                    .map(|home| home.join(".ssh/known_hosts")),
            },
            source_date_epoch: environment
                .source_date_epoch
                .as_deref()
                .and_then(|epoch| epoch.parse().ok()),
            secrets,
            agents: Vec::new(),
            run: RunDefaults::default(),
            resources: Resources::default(),
            log_limits: environment.log_limits,
            jobs: None,
            no_cache: NoCache::Nothing,
            accepts_failed: false,
            on_failure: OnFailure::CallOff,
            freshness: match means.offline {
                true => Freshness::Never,
                false => Freshness::After {
                    ms: DEFAULT_REFRESH_MS,
                },
            },
            debian: DebianMirrors {
                mirror: environment.debian_mirror.clone(),
                keyring: environment.debian_keyring.clone(),
            },
            lock: None,
            allow,
            phases: Vec::new(),
            source_keys: Vec::new(),
        };
        Ok(Self {
            work,
            tags: Vec::new(),
            platforms: Vec::new(),
            home_allowed,
            outputs: Vec::new(),
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            is_cache_only: false,
            load: false,
            progress,
            quiet: false,
            metadata_file: None,
            iidfile: None,
        })
    }

    /// Builds and writes what was asked for, and prints the image's digest where that is wanted.
    pub(super) fn build(self, store: PathBuf, environment: &Environment) -> Result<Exit, Stop> {
        self.build_heard(store, environment, &|_| {})?;
        Ok(Exit::Done)
    }

    /// The same; `hear` is told every event before it is shown.
    pub(super) fn build_heard(
        self,
        store: PathBuf,
        environment: &Environment,
        hear: &(dyn Fn(&BuildEvent) + Send + Sync),
    ) -> Result<Outcome, Stop> {
        let takes_stdout = self.outputs.iter().any(Output::is_to_stdout);
        let tagged = !self.tags.is_empty();
        let quiet = self.quiet;
        let outcome = self.carry_out(store, environment, hear)?;
        if !takes_stdout && (quiet || !tagged || !std::io::stdout().is_terminal()) {
            print(&format!("{}\n", outcome.manifest.digest));
        }
        Ok(outcome)
    }

    /// Builds and writes what was asked for; `hear` is told every event before it is shown.
    pub(super) fn carry_out(
        self,
        store: PathBuf,
        environment: &Environment,
        hear: &(dyn Fn(&BuildEvent) + Send + Sync),
    ) -> Result<Outcome, Stop> {
        self.can_leave()?;
        let shown = self.events(environment);
        let events = |event: BuildEvent| {
            hear(&event);
            shown.emit(event);
        };
        let request = BuildRequest {
            needs_files: self.needs_files(),
            platforms: self.platforms,
            store,
            work: self.work,
            tags: self.tags,
            outputs: self.outputs,
            cache_from: self.cache_from,
            cache_to: self.cache_to,
            limits: settings::limits(environment)?,
        };
        let outcome = Embedded.build(&request, &events).map_err(Stop::from)?;
        if self.load {
            archives::hand_over(&outcome, &request.work, &request.store, environment)?;
        }
        if let Some(path) = &self.metadata_file {
            write_file(path, &metadata(&outcome))?;
        }
        if let Some(path) = &self.iidfile {
            write_file(path, &outcome.config_digest.to_string())?;
        }
        Ok(outcome)
    }

    /// Nobody shows what is only looked up again.
    pub(super) fn quiet_events(&self) -> Box<dyn EventSink> {
        Box::new(Silent)
    }

    /// Who shows the build.
    pub(super) fn events(&self, environment: &Environment) -> Box<dyn EventSink> {
        let stderr = std::io::stderr();
        let color = if environment.no_color {
            Color::Off
        } else {
            Color::On
        };
        let progress = if self.quiet {
            Progress::Quiet
        } else {
            self.progress
        };
        match progress {
            Progress::Quiet => Box::new(Silent),
            Progress::Json => Box::new(JsonLines::new(stderr)),
            Progress::Auto if stderr.is_terminal() => {
                Box::new(Tty::new(stderr, terminal_width(), color))
            }
            Progress::Tty => Box::new(Tty::new(stderr, terminal_width(), color)),
            Progress::Auto | Progress::Plain => Box::new(Plain::new(stderr)),
        }
    }
}

fn progress_of_environment(environment: &Environment) -> Result<Progress, Stop> {
    match environment.progress.as_deref() {
        None | Some("auto") => Ok(Progress::Auto),
        Some("tty") => Ok(Progress::Tty),
        Some("plain") => Ok(Progress::Plain),
        Some("json" | "rawjson") => Ok(Progress::Json),
        Some("quiet" | "none") => Ok(Progress::Quiet),
        Some(other) => Err(Stop::usage(
            format!("BUILDKIT_PROGRESS is `{other}`"),
            "it may be auto, tty, plain, json or quiet",
        )),
    }
}

fn terminal_width() -> usize {
    super::terminal::width(std::io::stderr()).unwrap_or(100)
}

/// SOURCE_DATE_EPOCH of the environment where it is no number but names something: an argument, as buildx has it.
fn epoch_by_name(environment: &Environment) -> Vec<(String, String)> {
    let named = environment
        .source_date_epoch
        .clone()
        .filter(|epoch| epoch.parse::<i64>().is_err());
    named
        .into_iter()
        .map(|name| ("SOURCE_DATE_EPOCH".to_owned(), name))
        .collect()
}

/// `id=NAME[,type=file|env][,src=PATH|env=VARIABLE]`
fn secret(spec: &str) -> Result<Secret, Stop> {
    let help = "a secret is id=NAME, with src=PATH or env=VARIABLE";
    let (mut id, mut source, mut env, mut is_variable) = (None, None, None, false);
    for part in spec.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => source = Some(value.to_owned()),
            Some(("env", value)) => env = Some(value.to_owned()),
            Some(("type", "file")) => is_variable = false,
            Some(("type", "env")) => is_variable = true,
            _ => {
                return Err(Stop::usage(
                    format!("`{part}` in `--secret {spec}` is not known"),
                    help,
                ));
            }
        }
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(Stop::usage(format!("`--secret {spec}` has no id"), help));
    };
    if is_variable && env.is_none() {
        env = source.take();
    }
    // As buildx has it: without either, the variable of that name, or the file.
    if env.is_none() && source.is_none() && variable(&id).is_none() && Path::new(&id).exists() {
        source = Some(id.clone());
    }
    read_secret(&id, source.as_deref().map(Path::new), env.as_deref()).map_err(Stop::from)
}

/// The value of a secret: of a file, of a variable, or of the variable that is named as the secret is.
pub(super) fn read_secret(
    id: &str,
    file: Option<&Path>,
    env: Option<&str>,
) -> Result<Secret, Failure> {
    let value = match (file, env) {
        (Some(path), _) => std::fs::read(path).map_err(|error| {
            let message = format!("the secret `{id}` cannot be read from `{}`", path.display());
            Failure::caused(FailureKind::Input, "cli::secret", message, &error)
        })?,
        (None, name) => {
            let name = name.unwrap_or(id);
            let message =
                format!("the secret `{id}` should be in the variable {name}, which is not set");
            variable(name)
                .ok_or_else(|| {
                    Failure::new(FailureKind::Input, "cli::secret", message).with_help(format!(
                        "set {name}, or give the secret with `--secret id={id},src=PATH`"
                    ))
                })?
                .into_bytes()
        }
    };
    Ok(Secret::new(id.to_owned(), value))
}

/// `NAME=PLACE` as buildx has it.
pub(super) fn named_context(spec: &str, platform: &str) -> Result<(String, Place), Stop> {
    let Some((name, place)) = spec.split_once('=') else {
        return Err(Stop::usage(
            format!("`--build-context {spec}` has no place"),
            "it is NAME=DIR, NAME=URL, NAME=oci-layout://PATH, NAME=debian://SUITE or NAME=docker-image://NAME",
        ));
    };
    let mut found = context_place(place, platform)?;
    if let Place::Directory { path, ignore } = &mut found {
        let shown = Path::new(place).join(".dockerignore").display().to_string();
        *ignore = ignore_file(&path.join(".dockerignore"), shown)?;
    }
    Ok((context_name(name), found))
}

/// A context's name as an image of that name is called: `docker.io/library/alpine:latest` is `alpine`.
fn context_name(name: &str) -> String {
    let (name, platform) = match name.split_once("::") {
        Some((name, platform)) => (name, format!("::{platform}")),
        None => (name, String::new()),
    };
    match name.parse::<Name>() {
        Ok(full) => format!("{}{platform}", Name::familiar(&full.to_string())),
        Err(_) => format!("{name}{platform}"),
    }
}

/// What a context's place is.
pub(super) fn context_place(place: &str, platform: &str) -> Result<Place, Stop> {
    if let Some(rest) = place.strip_prefix("oci-layout://") {
        let (rest, digest) = match rest.split_once('@') {
            Some((path, digest)) => (path, Some(digest.to_owned())),
            None => (rest, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let path = absolute(Path::new(path))?.display().to_string();
        return Ok(Place::Source(Source::OciLayout(OciLayoutSource {
            path,
            tag,
            digest,
            platform: None,
        })));
    }
    if let Some(rest) = place.strip_prefix("debian://") {
        return debian_place(rest, platform).map(|source| Place::Source(Source::Debian(source)));
    }
    if let Some(name) = place.strip_prefix("docker-image://") {
        let name: Name = name.parse().map_err(|error| {
            Stop::usage(
                format!("`{place}` names no image: {error}"),
                "it is docker-image://NAME[:TAG]",
            )
        })?;
        return Ok(Place::Source(Source::Image(ImageSource::new(
            name.to_string(),
        ))));
    }
    let path = Path::new(place);
    if !path.is_dir() {
        let git = frontend::git_context(place).map_err(|reason| {
            Stop::usage(
                format!("the context `{place}` cannot be read: {reason}"),
                "it is URL.git#REFERENCE:DIRECTORY or URL.git?branch=…&subdir=…",
            )
        })?;
        if let Some(git) = git {
            return Ok(Place::Source(Source::Git(git)));
        }
    }
    if place.starts_with("http://") || place.starts_with("https://") {
        return Ok(Place::Source(Source::Http(HttpSource {
            url: place.to_owned(),
            checksum: None,
            // As BuildKit has it: a tree with a file of this name in it, whatever that is.
            name: "context".to_owned(),
            is_tree: true,
        })));
    }
    if place.contains("://") {
        return Err(Stop::usage(
            format!("a context from `{place}` is not to be had yet"),
            "what there is: a directory, oci-layout://, debian://, docker-image:// (of the local store), http(s) and git URLs",
        ));
    }
    Ok(Place::Directory {
        path: absolute(Path::new(place))?,
        ignore: None,
    })
}

/// An ignore file, if it is there; `name` is for messages.
pub(super) fn ignore_file(path: &Path, name: String) -> Result<Option<Text>, Stop> {
    match std::fs::read(path) {
        // As Docker reads it: bytes that are no text match nothing.
        Ok(bytes) => Ok(Some(Text {
            file: name,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let message = format!("the ignore file `{}` cannot be read", path.display());
            Err(Failure::caused(FailureKind::Input, "cli::ignore_file", message, &error).into())
        }
    }
}

/// `SUITE?packages=a,b&mirror=URL&arch=amd64`
fn debian_place(text: &str, platform: &str) -> Result<DebianSource, Stop> {
    let help = "it is debian://SUITE?packages=a,b&mirror=URL&arch=amd64";
    let (suite, query) = text.split_once('?').unwrap_or((text, ""));
    if suite.is_empty()
        || !suite
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    {
        return Err(Stop::usage(
            format!("`debian://{text}` names no suite"),
            help,
        ));
    }
    let mut source = DebianSource {
        suite: suite.to_owned(),
        packages: Vec::new(),
        mirror: None,
        arch: debian_architecture(platform),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("packages", names)) => {
                source.packages = names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
            }
            Some(("mirror", url)) => source.mirror = Some(url.to_owned()),
            Some(("arch", arch)) => source.arch = arch.to_owned(),
            _ => {
                return Err(Stop::usage(
                    format!("`{pair}` in `debian://{text}` is not known"),
                    help,
                ));
            }
        }
    }
    source.packages.sort();
    source.packages.dedup();
    Ok(source)
}

/// Debian's name of a platform's architecture.
pub(super) fn debian_architecture(platform: &str) -> String {
    Platform::parse(platform).unwrap_or_default().debian()
}

/// An absolute path to something that need not exist.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Stop> {
    let resolved = path.canonicalize().or_else(|_| std::path::absolute(path));
    resolved.map_err(|error| {
        let message = format!("the path `{}` cannot be made absolute", path.display());
        Stop::from(Failure::caused(
            FailureKind::Machine,
            "cli::path",
            message,
            &error,
        ))
    })
}

fn metadata(outcome: &Outcome) -> String {
    let mut fields = serde_json::json!({
        "containerimage.config.digest": outcome.config_digest,
        "containerimage.descriptor": outcome.manifest,
        "containerimage.digest": outcome.manifest.digest,
    });
    if !outcome.names.is_empty() {
        fields["image.name"] = outcome.names.join(",").into();
    }
    format!("{fields:#}\n")
}

pub(super) fn write_file(path: &Path, content: &str) -> Result<(), Stop> {
    std::fs::write(path, content).map_err(|error| {
        let message = format!("`{}` cannot be written", path.display());
        Stop::from(Failure::caused(
            FailureKind::Machine,
            "cli::write",
            message,
            &error,
        ))
    })
}

/// A line for a person beside the data. Nowhere is left to say that standard error is closed.
pub(super) fn say(text: &str) {
    drop(std::io::stderr().lock().write_all(text.as_bytes()));
}

/// Data for standard output. A reader that went away is no failure.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}
