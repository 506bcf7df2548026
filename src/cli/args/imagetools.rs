//! The command line of `imagetools`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::WatchArguments;
use super::registry::ReachArguments;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ImagetoolsCommand {
    /// Make one image of several: an index of what registries have
    Create(CreateArguments),
    /// Say what a registry has under a name, and what refers to that
    Inspect(InspectRemoteArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArguments {
    /// The images: names; with --tag also digests of its repository, and descriptors as JSON
    #[arg(value_name = "SOURCE")]
    pub(in crate::cli) sources: Vec<String>,
    /// What it is called in its registry
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    pub(in crate::cli) tags: Vec<String>,
    /// Read a source (name, digest or descriptor) from a file
    #[arg(short, long = "file", value_name = "FILE")]
    pub(in crate::cli) files: Vec<PathBuf>,
    /// Add the sources to what the first tag stands for now
    #[arg(long, requires = "tags")]
    pub(in crate::cli) append: bool,
    /// Add a note: index:KEY=VALUE, or manifest-descriptor[PLATFORM]:KEY=VALUE; the brackets may be left away
    #[arg(long = "annotation", value_name = "NOTE")]
    pub(in crate::cli) annotations: Vec<String>,
    /// Print what would be sent, and send nothing
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Whether a single source becomes the one entry of an index; with false it stays as it is
    #[arg(
        long,
        value_name = "BOOL",
        default_value = "true",
        num_args = 0..=1,
        default_missing_value = "true",
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub(in crate::cli) prefer_index: bool,
    /// Take only what is for these platforms
    #[arg(
        short,
        long = "platform",
        value_name = "OS/ARCH",
        value_delimiter = ','
    )]
    pub(in crate::cli) platforms: Vec<String>,
    /// Write a description of the result as JSON
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
    #[command(flatten)]
    pub(in crate::cli) watch: WatchArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectRemoteArguments {
    /// The image
    #[arg(value_name = "NAME[:TAG][@DIGEST]")]
    pub(in crate::cli) image: String,
    /// Print the manifest or index as the registry has it
    #[arg(long, conflicts_with = "format")]
    pub(in crate::cli) raw: bool,
    /// How it is printed: text or json; of buildx's templates {{json .}}, {{json .Manifest}} and {{json .Image}}
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(in crate::cli) format: String,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
}
