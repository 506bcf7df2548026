//! The command line of `shmocker habitat`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    CheckFormat, Format, MeansArguments, OutwardArguments, ProcessArguments, SharedBuildArguments,
    WatchArguments, parse_duration_ms,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HabitatCommand {
    /// Report everything that is wrong with a habitat
    Check(CheckArguments),
    /// Print the Dockerfile that a habitat stands for
    Render(RenderArguments),
    /// Build the image
    Build(Box<BuildArguments>),
    /// Print the phases and whether they would be built
    Phases(PhasesArguments),
    /// Say why phases would be built again, down to the value that changed; ends with 10 if one would
    Why(WhyArguments),
    /// Say in what two habitats differ
    Diff(DiffArguments),
    /// Pin what is not pinned yet, in a lock file beside the habitat
    ///
    /// The lock of config.yaml is config.lock. It holds images by digest, Debian packages by version and hash,
    /// repositories by commit, downloads by hash. A build takes what is pinned as it is pinned.
    Lock(LockArguments),
    /// List what is pinned and is another thing now; change nothing
    Outdated(OutdatedArguments),
    /// Pin what there is now, of everything or of some sources
    Upgrade(UpgradeArguments),
    /// Run the tests of a habitat, all of them, and say what each found
    Test(TestArguments),
    /// Look into a phase of the habitat, or into what a failed build has left
    Shell(ShellArguments),
    /// Start the habitat in the background, built before if need be, with its volumes and services
    Up(UpArguments),
    /// Run a command in a habitat that is up
    Exec(ExecArguments),
    /// End a habitat that is up; what it has written is kept
    Stop(StopArguments),
    /// End a habitat and drop what it has written
    Down(StopArguments),
    /// List the habitats that run or have run
    Ps(PsArguments),
    /// Write the habitat for other tools: its Dockerfile and contexts, and what makes something of them
    Export(ExportArguments),
    /// Rewrite the keys of an older program, and say what nothing takes the place of
    Migrate(MigrateArguments),
}

/// Which layers a habitat gets.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct LayerArguments {
    /// The directory with `habitats/` and the layers `system/` and `shared/`, instead of the next one upwards
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) root: Option<PathBuf>,
    /// Leave out the user's own layer, ~/.config/shmocker/habitat.yaml
    #[arg(long)]
    pub(in crate::cli) no_user_layer: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HabitatFile {
    /// The habitat's config.yaml, or its directory
    #[arg(value_name = "FILE", default_value = ".")]
    pub(in crate::cli) file: PathBuf,
    /// Templates that take the place of the built-in ones of the same name
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) templates: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) layers: LayerArguments,
    /// Leave names that are not known in strings as they stand, instead of refusing them
    #[arg(long)]
    pub(in crate::cli) lenient: bool,
    /// Add a repository to those of the habitat (may be given again)
    #[arg(long = "repo", value_name = "URL:PATH[:BRANCH]")]
    pub(in crate::cli) repos: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: CheckFormat,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RenderArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    /// Write Dockerfile and named contexts (OCI layouts and folders) to this directory
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) out: Option<PathBuf>,
}

/// What other tools build a habitat from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ExportKind {
    /// The Dockerfile and its contexts, for BuildKit
    Dockerfile,
    /// The same with a devcontainer.json
    Devcontainer,
    /// The same with a compose.yaml
    Compose,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArguments {
    /// For which tool
    #[arg(value_enum)]
    pub(in crate::cli) kind: ExportKind,
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    /// The directory to write to: `.devcontainer` in the habitat's own directory, for a devcontainer
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MigrateArguments {
    /// The habitat's config.yaml, or its directory; it is rewritten in place
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Write the text to standard output, and leave the file as it is
    #[arg(long, conflicts_with = "format")]
    pub(in crate::cli) stdout: bool,
    /// With json, the text is a part of what is said, and the file stays as it is
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

/// Which phases are built.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct SteeringArguments {
    /// Leave these phases out (names or numbers); the image is marked
    #[arg(long, value_name = "PHASE", value_delimiter = ',')]
    pub(in crate::cli) skip: Vec<String>,
    /// Run this phase anew (name or number) and nothing after it; what it needs is taken from the cache, or built
    #[arg(long, value_name = "PHASE")]
    pub(in crate::cli) only: Option<String>,
}

/// What is looked at of a habitat that is not built.
#[derive(Debug, Args)]
pub(in crate::cli) struct LookArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    #[command(flatten)]
    pub(in crate::cli) steering: SteeringArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
    /// Ask now what base, branch or suite means
    #[arg(long)]
    pub(in crate::cli) pull: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PhasesArguments {
    #[command(flatten)]
    pub(in crate::cli) look: LookArguments,
    /// With every item and where it is written, every cause, and what a build would ask the network for
    #[arg(long)]
    pub(in crate::cli) verbose: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WhyArguments {
    #[command(flatten)]
    pub(in crate::cli) look: LookArguments,
    /// One phase only (name or number); it may stand before FILE
    #[arg(value_name = "PHASE")]
    pub(in crate::cli) phase: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArguments {
    /// A habitat's config.yaml, or its directory
    #[arg(value_name = "A")]
    pub(in crate::cli) old: PathBuf,
    /// Another
    #[arg(value_name = "B")]
    pub(in crate::cli) new: PathBuf,
    /// Only what belongs to this phase (name or number)
    #[arg(long, value_name = "PHASE")]
    pub(in crate::cli) phase: Option<String>,
    /// Compare the Dockerfiles that they stand for, line by line
    #[arg(long)]
    pub(in crate::cli) dockerfile: bool,
    /// End with 1 if they differ
    #[arg(long)]
    pub(in crate::cli) exit_code: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) layers: LayerArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    /// Stop after this phase (name or number)
    #[arg(long, value_name = "PHASE", conflicts_with = "only")]
    pub(in crate::cli) target: Option<String>,
    /// Run every phase anew
    #[arg(long, conflicts_with = "only")]
    pub(in crate::cli) rebuild: bool,
    /// Run this phase and all later ones anew (name or number)
    #[arg(long, value_name = "PHASE", conflicts_with_all = ["rebuild", "only"])]
    pub(in crate::cli) rebuild_from: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) steering: SteeringArguments,
    /// Take nothing that the lock file does not pin; ask nothing of what it means
    #[arg(long)]
    pub(in crate::cli) frozen: bool,
    /// Print the phases and whether they would be built; build nothing
    #[arg(long)]
    pub(in crate::cli) show_phases: bool,
    /// With --show-phases
    #[arg(long, value_enum, default_value = "text", requires = "show_phases")]
    pub(in crate::cli) format: Format,
    /// With --show-phases: every item and where it is written, every cause, and what a build would ask the network for
    #[arg(long, requires = "show_phases")]
    pub(in crate::cli) verbose: bool,
    /// Write what the tests found as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) junit: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) draft: SharedBuildArguments,
}

/// What it takes to ask sources.
#[derive(Debug, Args)]
pub(in crate::cli) struct AskArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    #[command(flatten)]
    pub(in crate::cli) watch: WatchArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LockArguments {
    #[command(flatten)]
    pub(in crate::cli) ask: AskArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct OutdatedArguments {
    #[command(flatten)]
    pub(in crate::cli) ask: AskArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UpgradeArguments {
    #[command(flatten)]
    pub(in crate::cli) ask: AskArguments,
    /// Sources, as the lock file has them, or a part of the name that no other has [default: all]
    #[arg(value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
}

#[derive(Debug, Args)]
#[command(mut_arg("progress", |arg| arg.help("How the build's progress is shown [default: quiet]")))]
pub(in crate::cli) struct TestArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    /// Only tests whose path has this in it
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) filter: Option<String>,
    /// Write what they found as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) junit: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
    #[command(flatten)]
    pub(in crate::cli) means: MeansArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShellArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    /// The phase (name or number) [default: final], built before if need be; what is written there is dropped. The two may
    /// stand the other way round
    #[arg(value_name = "PHASE", conflicts_with = "failed")]
    pub(in crate::cli) phase: Option<String>,
    /// In what the step that failed last has left. `retry` runs its command again; after `continue` its state counts as its
    /// result, and the build goes on when the shell ends
    #[arg(long)]
    pub(in crate::cli) failed: bool,
    /// Run this line, as a script's commands are run, instead of a shell
    #[arg(short, long, value_name = "LINE")]
    pub(in crate::cli) command: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) means: MeansArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UpArguments {
    #[command(flatten)]
    pub(in crate::cli) habitat: HabitatFile,
    #[command(flatten)]
    pub(in crate::cli) outward: OutwardArguments,
    /// Take the image that is there, whatever the habitat says now
    #[arg(long)]
    pub(in crate::cli) no_build: bool,
    /// Take a habitat that runs, or was stopped, down before, with what it has written
    #[arg(long)]
    pub(in crate::cli) recreate: bool,
    #[command(flatten)]
    pub(in crate::cli) means: MeansArguments,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExecArguments {
    /// The habitat's config.yaml, or its directory; or what `habitat ps` calls it
    #[arg(value_name = "FILE")]
    pub(in crate::cli) habitat: PathBuf,
    /// The command and its arguments [default: the habitat's command if it wants a terminal, else a shell]
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(in crate::cli) command: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) process: ProcessArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArguments {
    /// The habitat's config.yaml, or its directory; or what `habitat ps` calls it
    #[arg(value_name = "FILE")]
    pub(in crate::cli) habitat: PathBuf,
    /// How long it may take to end, before it is killed (ms, s, m, h)
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration_ms)]
    pub(in crate::cli) time: u64,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PsArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}
