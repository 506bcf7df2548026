//! The command line as types. What a flag means is said here once, in its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::call::Call;
use super::steps::StepArguments;

/// Builds container images and development habitats without root and without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "shmocker",
    version,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub(super) struct Arguments {
    /// Where everything is kept [default: $SHMOCKER_STORE, else $XDG_DATA_HOME/shmocker]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) store: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArguments>),
    /// Turn a habitat (YAML) into an image
    #[command(subcommand)]
    Habitat(HabitatCommand),
    /// Say why steps of a Dockerfile would run again; ends with 10 if one would
    Why(Box<WhyArguments>),
    /// Report what is wrong with Dockerfiles, and what could be better
    Lint(LintArguments),
    /// Lay Dockerfiles out evenly; what they mean stays the same
    Fmt(FormatArguments),
    /// List the images of the local store
    Images(ListArguments),
    /// Images of the local store
    #[command(subcommand)]
    Image(ImageCommand),
    /// Remove images from the local store
    Rmi(RemoveArguments),
    /// Print an image's configuration
    Inspect(InspectArguments),
    /// Run a command in an image
    Run(RunArguments),
    /// Run a command with the engine's ids, so that it can look at what the store holds
    Unshare(UnshareArguments),
    /// The store as a whole
    #[command(subcommand)]
    Store(StoreCommand),
    /// Say what this machine offers for builds, and how to mend what it lacks
    Doctor(DoctorArguments),
}

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// List the images of the local store
    Ls(ListArguments),
    /// Remove images from the local store
    Rm(RemoveArguments),
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Delete the store with all that it holds
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckFormat {
    /// With the lines that are meant
    Text,
    /// FILE:LINE:COLUMN: message
    Short,
    /// An array of objects
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Progress {
    /// tty on a terminal, plain elsewhere
    Auto,
    /// A redrawn summary
    Tty,
    /// Every line, as it comes
    Plain,
    /// One JSON object a line
    Json,
    /// Nothing but errors
    Quiet,
}

/// What every build takes.
#[derive(Debug, Default, Args)]
pub(super) struct SharedBuildArguments {
    /// Store the image under this name (may be given again)
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(super) tags: Vec<String>,
    /// Write the result: type=oci|docker|tar|local,dest=PATH[,…]; PATH alone is a directory, - a tar on standard output
    #[arg(short, long = "output", value_name = "SPEC")]
    pub(super) outputs: Vec<String>,
    /// How progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
    /// Print the image's digest only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Make a secret known: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// Allow what is refused otherwise: network.host, security.insecure, home
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Ask again what base, branch or suite means now
    #[arg(long, conflicts_with = "offline")]
    pub(super) pull: bool,
    /// Never ask; use what the store remembers
    #[arg(long)]
    pub(super) offline: bool,
    /// How long a remembered answer serves (ms, s, m, h)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration_ms)]
    pub(super) refresh: u64,
    /// Write what was made, as JSON
    #[arg(long, value_name = "FILE")]
    pub(super) metadata_file: Option<PathBuf>,
    /// Write the image's id (the digest of its configuration)
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,
    /// When a step fails, go on with all that does not need it
    #[arg(long)]
    pub(super) keep_going: bool,
    /// Add a label to the image
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(super) labels: Vec<String>,
}

/// Which Dockerfile is built, and of what.
#[derive(Debug, Args)]
pub(super) struct DockerfileArguments {
    /// What COPY and ADD can take files of: a directory, the URL of a git repository or of an archive, or - for an archive or
    /// a Dockerfile on standard input
    #[arg(value_name = "CONTEXT")]
    pub(super) context: PathBuf,
    /// The Dockerfile [default: CONTEXT/Dockerfile]: a path (in a context that is fetched, one of its files, unless it is
    /// absolute), a URL, or - for standard input
    #[arg(short, long, value_name = "PATH")]
    pub(super) file: Option<PathBuf>,
    /// Stop after this stage
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Set an ARG; without a value, from the environment
    #[arg(long = "build-arg", value_name = "KEY[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// A further context: NAME=DIR, NAME=URL (git or http), NAME=oci-layout://PATH[:TAG][@DIGEST],
    /// NAME=debian://SUITE?packages=…, NAME=docker-image://NAME
    #[arg(long = "build-context", value_name = "NAME=PLACE")]
    pub(super) build_contexts: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct BuildArguments {
    #[command(flatten)]
    pub(super) dockerfile: DockerfileArguments,
    /// Look through the Dockerfile and build nothing: the same as --call=check
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,
    /// What to do: build, check, outline, targets or describe[,format=json][,ignorestatus=true]
    #[arg(long, value_name = "WHAT", value_parser = super::call::parse)]
    pub(super) call: Option<Call>,
    /// Take no step from the cache
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Take no step of these stages from the cache
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    #[command(flatten)]
    pub(super) draft: SharedBuildArguments,
    // Last, because its heading would go on above what follows.
    #[command(flatten)]
    pub(super) steps: StepArguments,
}

#[derive(Debug, Args)]
pub(super) struct WhyArguments {
    #[command(flatten)]
    pub(super) dockerfile: DockerfileArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Ask now what references mean
    #[arg(long)]
    pub(super) pull: bool,
    #[command(flatten)]
    pub(super) steps: StepArguments,
}

#[derive(Debug, Args)]
pub(super) struct LintArguments {
    /// The Dockerfiles; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    #[arg(long, value_enum, default_value = "pretty")]
    pub(super) format: LintFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LintFormat {
    /// With the lines that are meant
    Pretty,
    /// FILE:LINE:COLUMN: message
    Short,
    /// An array of objects
    Json,
}

#[derive(Debug, Args)]
pub(super) struct FormatArguments {
    /// The Dockerfiles, written in place; - is standard input, which goes to standard output
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Write nothing; name the files that would change, and end with 1 if there are any
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum HabitatCommand {
    /// Report everything that is wrong with a habitat
    Check(HabitatCheckArguments),
    /// Print the Dockerfile that a habitat stands for
    Render(HabitatRenderArguments),
    /// Build the image
    Build(Box<HabitatBuildArguments>),
    /// Print the phases and whether they would be built
    Phases(HabitatPhasesArguments),
    /// Say why phases would be built again, down to the value that changed; ends with 10 if one would
    Why(HabitatWhyArguments),
    /// Say in what two habitats differ
    Diff(HabitatDiffArguments),
    /// Pin what is not pinned yet, in a lock file beside the habitat
    ///
    /// The lock of config.yaml is config.lock. It holds images by digest, Debian packages by version and hash,
    /// repositories by commit, downloads by hash. A build takes what is pinned as it is pinned.
    Lock(HabitatLockArguments),
    /// List what is pinned and is another thing now; change nothing
    Outdated(HabitatOutdatedArguments),
    /// Pin what there is now, of everything or of some sources
    Upgrade(HabitatUpgradeArguments),
    /// Run the tests of a habitat, all of them, and say what each found
    Test(HabitatTestArguments),
    /// Look into a phase of the habitat, or into what a failed build has left
    Shell(HabitatShellArguments),
    /// Start the habitat in the background, built before if need be, with its volumes and services
    Up(HabitatUpArguments),
    /// Run a command in a habitat that is up
    Exec(HabitatExecArguments),
    /// End a habitat that is up; what it has written is kept
    Stop(HabitatStopArguments),
    /// End a habitat and drop what it has written
    Down(HabitatStopArguments),
    /// List the habitats that run or have run
    Ps(HabitatPsArguments),
    /// Write the habitat for other tools: its Dockerfile and contexts, and what makes something of them
    Export(HabitatExportArguments),
    /// Rewrite the keys of an older program, and say what nothing takes the place of
    Migrate(HabitatMigrateArguments),
}

#[derive(Debug, Args)]
pub(super) struct HabitatFile {
    /// The habitat's config.yaml, or its directory
    #[arg(value_name = "FILE", default_value = ".")]
    pub(super) file: PathBuf,
    /// Templates that take the place of the built-in ones of the same name
    #[arg(long, value_name = "DIR")]
    pub(super) templates: Option<PathBuf>,
    /// The directory with `habitats/` and the layers `system/` and `shared/`, instead of the next one upwards
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// Leave out the user's own layer, ~/.config/shmocker/habitat.yaml
    #[arg(long)]
    pub(super) no_user_layer: bool,
    /// Leave names that are not known in strings as they stand, instead of refusing them
    #[arg(long)]
    pub(super) lenient: bool,
    /// Add a repository to those of the habitat (may be given again)
    #[arg(long = "repo", value_name = "URL:PATH[:BRANCH]")]
    pub(super) repos: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatCheckArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: CheckFormat,
}

#[derive(Debug, Args)]
pub(super) struct HabitatRenderArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// Write Dockerfile and named contexts (OCI layouts and folders) to this directory
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What other tools build a habitat from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ExportKind {
    /// The Dockerfile and its contexts, for BuildKit
    Dockerfile,
    /// The same with a devcontainer.json
    Devcontainer,
    /// The same with a compose.yaml
    Compose,
}

#[derive(Debug, Args)]
pub(super) struct HabitatExportArguments {
    /// For which tool
    #[arg(value_enum)]
    pub(super) kind: ExportKind,
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// The directory to write to: `.devcontainer` in the habitat's own directory, for a devcontainer
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct HabitatMigrateArguments {
    /// The habitat's config.yaml, or its directory; it is rewritten in place
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Write the text to standard output, and leave the file as it is
    #[arg(long, conflicts_with = "format")]
    pub(super) stdout: bool,
    /// With json, the text is a part of what is said, and the file stays as it is
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

/// Which phases are built.
#[derive(Debug, Default, Args)]
pub(super) struct SteeringArguments {
    /// Leave these phases out (names or numbers); the image is marked
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    pub(super) skip: Vec<String>,
    /// Run this phase anew (name or number) and nothing after it; what it needs is taken from the cache, or built
    #[arg(long, value_name = "PHASE")]
    pub(super) only: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatPhasesArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    #[command(flatten)]
    pub(super) steering: SteeringArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// With every item and where it is written, every cause, and what a build would ask the network for
    #[arg(long)]
    pub(super) verbose: bool,
    /// Ask now what base, branch or suite means
    #[arg(long)]
    pub(super) pull: bool,
}

#[derive(Debug, Args)]
pub(super) struct HabitatWhyArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// One phase only (name or number); it may stand before FILE
    #[arg(value_name = "PHASE")]
    pub(super) phase: Option<String>,
    #[command(flatten)]
    pub(super) steering: SteeringArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Ask now what base, branch or suite means
    #[arg(long)]
    pub(super) pull: bool,
}

#[derive(Debug, Args)]
pub(super) struct HabitatDiffArguments {
    /// A habitat's config.yaml, or its directory
    #[arg(value_name = "A")]
    pub(super) old: PathBuf,
    /// Another
    #[arg(value_name = "B")]
    pub(super) new: PathBuf,
    /// Only what belongs to this phase (name or number)
    #[arg(long, value_name = "PHASE")]
    pub(super) phase: Option<String>,
    /// Compare the Dockerfiles that they stand for, line by line
    #[arg(long)]
    pub(super) dockerfile: bool,
    /// End with 1 if they differ
    #[arg(long)]
    pub(super) exit_code: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// The directory with `habitats/` and the layers `system/` and `shared/`, instead of the next one upwards
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// Leave out the user's own layer, ~/.config/shmocker/habitat.yaml
    #[arg(long)]
    pub(super) no_user_layer: bool,
}

#[derive(Debug, Args)]
pub(super) struct HabitatBuildArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// Stop after this phase (name or number)
    #[arg(long, value_name = "PHASE", conflicts_with = "only")]
    pub(super) target: Option<String>,
    /// Run every phase anew
    #[arg(long, conflicts_with = "only")]
    pub(super) rebuild: bool,
    /// Run this phase and all later ones anew (name or number)
    #[arg(long, value_name = "PHASE", conflicts_with_all = ["rebuild", "only"])]
    pub(super) rebuild_from: Option<String>,
    #[command(flatten)]
    pub(super) steering: SteeringArguments,
    /// Take nothing that the lock file does not pin; ask nothing of what it means
    #[arg(long)]
    pub(super) frozen: bool,
    /// Print the phases and whether they would be built; build nothing
    #[arg(long)]
    pub(super) show_phases: bool,
    /// With --show-phases
    #[arg(long, value_enum, default_value = "text", requires = "show_phases")]
    pub(super) format: Format,
    /// With --show-phases: every item and where it is written, every cause, and what a build would ask the network for
    #[arg(long, requires = "show_phases")]
    pub(super) verbose: bool,
    /// Write what the tests found as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    #[command(flatten)]
    pub(super) draft: SharedBuildArguments,
}

/// What it takes to ask sources.
#[derive(Debug, Args)]
pub(super) struct AskArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// Make a secret known: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// How progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatLockArguments {
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

#[derive(Debug, Args)]
pub(super) struct HabitatOutdatedArguments {
    #[command(flatten)]
    pub(super) ask: AskArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct HabitatUpgradeArguments {
    #[command(flatten)]
    pub(super) ask: AskArguments,
    /// Sources, as the lock file has them, or a part of the name that no other has [default: all]
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatTestArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// Only tests whose path has this in it
    #[arg(long, value_name = "TEXT")]
    pub(super) filter: Option<String>,
    /// Write what they found as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// How the build's progress is shown [default: quiet]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
    /// Make a secret known: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// Allow what is refused otherwise: network.host, security.insecure, home
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Never ask; use what the store remembers
    #[arg(long)]
    pub(super) offline: bool,
}

#[derive(Debug, Args)]
pub(super) struct HabitatShellArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// The phase (name or number), built before if need be; what is written there is dropped
    #[arg(
        value_name = "PHASE",
        default_value = "final",
        conflicts_with = "failed"
    )]
    pub(super) phase: String,
    /// In what the step that failed last has left. `retry` runs its command again; after `continue` its state counts as its
    /// result, and the build goes on when the shell ends
    #[arg(long)]
    pub(super) failed: bool,
    /// Run this line, as a script's commands are run, instead of a shell
    #[arg(short, long, value_name = "LINE")]
    pub(super) command: Option<String>,
    /// How the build's progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
    /// Make a secret known: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// Allow what is refused otherwise: network.host, security.insecure, home
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatUpArguments {
    #[command(flatten)]
    pub(super) habitat: HabitatFile,
    /// Publish a port: [[IP:]HOST:]PORT[/tcp|/udp]
    #[arg(short, long = "publish", value_name = "SPEC")]
    pub(super) publish: Vec<String>,
    /// default, none or host [default: what the habitat's `entry` says, else default]
    #[arg(long, value_name = "NETWORK")]
    pub(super) network: Option<String>,
    /// Do not hold it to the `limits` of its `entry`
    #[arg(long)]
    pub(super) no_limits: bool,
    /// Take the image that is there, whatever the habitat says now
    #[arg(long)]
    pub(super) no_build: bool,
    /// Take a habitat that runs, or was stopped, down before, with what it has written
    #[arg(long)]
    pub(super) recreate: bool,
    /// How the build's progress is shown [default: $BUILDKIT_PROGRESS, else auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(super) progress: Option<Progress>,
    /// Make a secret known to the build: id=NAME[,type=file|env][,src=PATH|env=VARIABLE]
    #[arg(long = "secret", value_name = "SPEC")]
    pub(super) secrets: Vec<String>,
    /// Allow the build what is refused otherwise: network.host, security.insecure, home
    #[arg(long = "allow", value_name = "WHAT", value_delimiter = ',')]
    pub(super) allow: Vec<String>,
    /// Never ask what base, branch or suite means now; use what the store remembers
    #[arg(long)]
    pub(super) offline: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct HabitatExecArguments {
    /// The habitat's config.yaml, or its directory; or what `habitat ps` calls it
    #[arg(value_name = "FILE")]
    pub(super) habitat: PathBuf,
    /// The command and its arguments [default: the habitat's command if it wants a terminal, else a shell]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable; without a value, from the environment
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub(super) env: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// user[:group], by name or number
    #[arg(short, long)]
    pub(super) user: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct HabitatStopArguments {
    /// The habitat's config.yaml, or its directory; or what `habitat ps` calls it
    #[arg(value_name = "FILE")]
    pub(super) habitat: PathBuf,
    /// How long it may take to end, before it is killed (ms, s, m, h)
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration_ms)]
    pub(super) time: u64,
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct HabitatPsArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Print digests only
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// The form; JSON is the only one
    #[arg(long, value_parser = ["json"], default_value = "json")]
    pub(super) format: String,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Name, or digest
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    /// The command and its arguments [default: the image's]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable; without a value, from the environment
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub(super) env: Vec<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// user[:group], by name or number
    #[arg(short, long)]
    pub(super) user: Option<String>,
    /// Mount a directory or file of this machine: SRC:DST[:ro]
    #[arg(short, long = "volume", value_name = "SRC:DST[:ro]")]
    pub(super) volumes: Vec<String>,
    /// Publish a port: [[IP:]HOST:]PORT[/tcp|/udp]
    #[arg(short, long = "publish", value_name = "SPEC")]
    pub(super) publish: Vec<String>,
    /// Program (and arguments, split as a shell splits words) in place of the image's entrypoint
    #[arg(long, value_name = "COMMAND")]
    pub(super) entrypoint: Option<String>,
    /// default, none or host [default: none where the image says so, else default]
    #[arg(long, value_name = "NETWORK")]
    pub(super) network: Option<String>,
    /// Do not hold it to the limits on memory, processors and processes that the image of a habitat names
    #[arg(long)]
    pub(super) no_limits: bool,
    /// What the command writes to the image's files is always dropped at its end; accepted for scripts that ask for it
    #[arg(long)]
    pub(super) rm: bool,
}

#[derive(Debug, Args)]
pub(super) struct UnshareArguments {
    /// The command and its arguments [default: $SHELL]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Print the AppArmor profile that Ubuntu 24.04 needs, and nothing else
    #[arg(long)]
    pub(super) apparmor_profile: bool,
}

/// `500ms`, `2s`, `10m`, `1h`, in milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits]
        .parse()
        .map_err(|_| "a duration is a number and ms, s, m or h".to_owned())?;
    let factor = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration is a number and ms, s, m or h".to_owned()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| "that is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration_ms("90s"), Ok(90_000));
        assert_eq!(parse_duration_ms("2h"), Ok(7_200_000));
        assert!(parse_duration_ms("5").is_err());
        assert!(parse_duration_ms("h").is_err());
    }
}
