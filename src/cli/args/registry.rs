//! The command line of what goes to registries and comes from them.

use std::path::PathBuf;

use clap::Args;

use super::WatchArguments;

/// How a registry is reached.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct ReachArguments {
    /// Whether the registry must have a certificate that can be trusted, and speak https [default: true, but for this machine and
    /// what registries.conf calls insecure]
    #[arg(long, value_name = "BOOL")]
    pub(in crate::cli) tls_verify: Option<bool>,
    /// A directory of certificates: *.crt of authorities to trust, *.cert and *.key to show
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) cert_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PullArguments {
    /// The images
    #[arg(value_name = "NAME[:TAG][@DIGEST]", required = true)]
    pub(in crate::cli) images: Vec<String>,
    /// Take the image for this platform [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(in crate::cli) platform: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
    #[command(flatten)]
    pub(in crate::cli) watch: WatchArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PushArguments {
    /// The image: a name, or a digest
    #[arg(value_name = "IMAGE")]
    pub(in crate::cli) image: String,
    /// Its name in the registry [default: its name in the store]
    #[arg(value_name = "NAME[:TAG]")]
    pub(in crate::cli) destination: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
    #[command(flatten)]
    pub(in crate::cli) watch: WatchArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LoginArguments {
    /// The registry
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(in crate::cli) registry: String,
    /// Who logs in
    #[arg(short, long, value_name = "USER")]
    pub(in crate::cli) username: String,
    /// Read the password (or token) from standard input; without it, it is asked for on the terminal
    #[arg(long)]
    pub(in crate::cli) password_stdin: bool,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogoutArguments {
    /// The registry
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    pub(in crate::cli) registry: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CopyArguments {
    /// The image: docker://NAME of a registry, or a name of the local store
    #[arg(value_name = "SOURCE")]
    pub(in crate::cli) source: String,
    /// Where to: docker://NAME of a registry, or a name of the local store
    #[arg(value_name = "DESTINATION")]
    pub(in crate::cli) destination: String,
    /// Copy the image for this platform alone [default: all, from registry to registry; else this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(in crate::cli) platform: Option<String>,
    /// Copy also what refers to it (signatures, lists of what is in it), from registry to registry
    #[arg(long, visible_alias = "recursive")]
    pub(in crate::cli) referrers: bool,
    #[command(flatten)]
    pub(in crate::cli) reach: ReachArguments,
    #[command(flatten)]
    pub(in crate::cli) watch: WatchArguments,
}
