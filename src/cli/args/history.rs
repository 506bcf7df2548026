//! The command line of `history`.

use clap::{Args, Subcommand};

use super::Format;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum HistoryCommand {
    /// List past builds, the newest first
    Ls(ListHistoryArguments),
    /// Say what is known of a build
    Inspect(InspectBuildArguments),
    /// Say why the steps of a build were run
    Why(InspectBuildArguments),
    /// Print what the steps of a build printed
    Logs(BuildLogArguments),
    /// Forget builds
    Rm(ForgetArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListHistoryArguments {
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
    /// Print ids only
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct InspectBuildArguments {
    /// Its id, or the beginning of it [default: the last build]
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
    #[arg(long, value_enum, default_value = "text")]
    pub(in crate::cli) format: Format,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BuildLogArguments {
    /// Its id, or the beginning of it [default: the last build]
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ForgetArguments {
    /// Their ids, or the beginnings of them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub(in crate::cli) builds: Vec<String>,
    /// All builds
    #[arg(short, long, conflicts_with = "builds")]
    pub(in crate::cli) all: bool,
}
