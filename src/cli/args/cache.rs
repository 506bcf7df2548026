//! The command line of `cache`: what the store holds, and what of it goes. Flags and filters as `docker buildx` has them.

use clap::{Args, Subcommand};

use super::Format;
use crate::cli::settings::parse_space;
use crate::store::{Filter, Space};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CacheCommand {
    /// Say how much of the disk images, builds, cache mounts, downloads and the rest take
    Du(UsageArguments),
    /// Delete what no image with a name, no last build of a project, no habitat and nobody at work needs
    Prune(PruneArguments),
}

/// Which of the things are meant.
#[derive(Debug, Args)]
pub(in crate::cli) struct FilterArguments {
    /// Only what this accepts: id=…, type=…, parents=…, until=DURATION (or unused-for=…), inuse, mutable, immutable, shared,
    /// private, description~=TEXT; with != for what it does not accept (may be given again)
    #[arg(long = "filter", value_name = "FILTER")]
    pub(in crate::cli) filters: Vec<Filter>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UsageArguments {
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArguments,
    /// Name every single thing
    #[arg(long)]
    pub(in crate::cli) verbose: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArguments {
    #[command(flatten)]
    pub(in crate::cli) filter: FilterArguments,
    /// Also what last builds need
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// Do not ask; nobody is asked either where standard input is no terminal
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    /// Delete nothing; say what would be deleted
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// So much may always stay
    #[arg(long, value_name = "SIZE", value_parser = parse_space, alias = "keep-storage")]
    pub(in crate::cli) reserved_space: Option<Space>,
    /// Delete, the longest unused first, until no more than this is left
    #[arg(long, value_name = "SIZE", value_parser = parse_space)]
    pub(in crate::cli) max_used_space: Option<Space>,
    /// Delete, the longest unused first, until so much of the disk is free
    #[arg(long, value_name = "SIZE", value_parser = parse_space)]
    pub(in crate::cli) min_free_space: Option<Space>,
    /// Name every single thing
    #[arg(long)]
    pub(in crate::cli) verbose: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}
