//! Tools: programs that are downloaded, checked against a digest, and put into the image as they are.
//!
//! Each is a stage of its own, made of nothing but its download, which the solver runs beside the phases before; the tools
//! phase only copies from it. What ADD unpacks can be an archive; anything else has to be the program itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::json;

use super::check::Check;
use super::env::Scope;
use super::facts::Purpose;
use super::fields::Field;
use super::keys::{Flag, Key, List, Scalar, Text, keys};
use super::node::{Node, Value};
use super::plan::{Planner, Stage, State, Step};
use super::quote;
use super::report::Report;
use crate::dockerfile::Span;
use crate::dockerfile::suggest::nearest;

/// Where a tool goes that does not say it.
const BIN: &str = "/usr/local/bin";
/// Where the tools of tools.yaml lie: SYSTEM_PATH is what that file's directory becomes a part of.
const SYSTEM_TOOLS: &str = "${SYSTEM_PATH}/tools";

/// Names of an architecture: as images have it, as `uname -m` says it, as Debian has it.
const ARCHITECTURES: &[(&str, &str, &str)] = &[
    ("386", "i686", "i386"),
    ("amd64", "x86_64", "amd64"),
    ("arm", "armv7l", "armhf"),
    ("arm64", "aarch64", "arm64"),
    ("ppc64le", "ppc64le", "ppc64el"),
    ("riscv64", "riscv64", "riscv64"),
    ("s390x", "s390x", "s390x"),
];

/// What ADD unpacks, by the end of the address.
const UNPACKED: &[&str] = &[
    ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz", ".tbz2", ".tar.zst", ".tzst",
];
/// What it does not.
const NOT_UNPACKED: &[&str] = &[
    ".zip", ".7z", ".rar", ".deb", ".rpm", ".apk", ".gz", ".xz", ".bz2", ".zst", ".lz4",
];

keys! {
    /// A program that is downloaded and put into the image as it is, owned by root, with the mode 755.
    Tool is "a tool" {
        /// What it is called.
        name: Text = "name",
        /// What `{version}` stands for.
        #[schemars(with = "Option<Scalar>")]
        version: Option<Scalar> = "version",
        /// Where it is downloaded from: http or https. `{version}` is the version, `{arch}` the architecture as images have it
        /// (amd64, arm64), `{machine}` as `uname -m` says it (x86_64, aarch64). A tar archive (plain, gz, xz, bz2 or zst) is
        /// unpacked; anything else has to be the program itself.
        url: Text = "url",
        /// The SHA-256 of what is downloaded, or one for each architecture.
        sha256: Option<Checksum> = "sha256",
        /// What the program's file is called (default: the name).
        binary: Option<Text> = "binary",
        /// Where the program is in the archive (default: its file's name); `{version}`, `{arch}` and `{machine}` as in the url.
        extract_path: Option<Text> = "extract_path",
        /// Whether what is downloaded is the program itself, whatever it is called.
        direct_binary: Option<Flag> = "direct_binary",
        /// The directory it is put into (default /usr/local/bin).
        dest: Option<Text> = "dest",
        /// What it is for.
        description: Option<Text> = "description",
    }
}

keys! {
    /// ROOT/system/tools/tools.yaml: tools of every habitat.
    ToolsFile is "tools.yaml" {
        /// The tools.
        #[schemars(default)]
        tools: List<Tool> = "tools",
        /// How they are installed.
        config: Option<ToolsConfig> = "config",
    }
}

keys! {
    /// How the tools of a tools.yaml are installed.
    ToolsConfig is "config" {
        /// The directory they are put into, in SYSTEM_PATH/tools (default `./bin`).
        install_path: Option<Text> = "install_path",
        /// Accepted; nothing is looked for that is not asked for.
        check_updates: Option<Flag> = "check_updates",
        /// Accepted; a download that stands still is given up by itself.
        #[schemars(with = "Option<Scalar>")]
        download_timeout: Option<Scalar> = "download_timeout",
    }
}

impl ToolsFile {
    /// Its tools; those that do not say where they go are put where the file says.
    #[must_use]
    pub fn into_tools(self) -> Vec<Tool> {
        let own = self.config.and_then(|config| config.install_path);
        let path = own.as_ref().map_or("bin", |path| {
            path.value.trim_start_matches("./").trim_end_matches('/')
        });
        let dest = |tool: &Tool| Text {
            value: format!("{SYSTEM_TOOLS}/{path}"),
            span: own.as_ref().map_or(tool.span, |path| path.span),
        };
        let placed = |tool: Tool| Tool {
            dest: Some(tool.dest.clone().unwrap_or_else(|| dest(&tool))),
            ..tool
        };
        self.tools.0.into_iter().map(placed).collect()
    }
}

/// What a download has to be.
#[derive(Debug, Clone)]
pub enum Checksum {
    /// The same on every architecture.
    One(Text),
    /// One for each.
    Each {
        /// Architecture and SHA-256.
        sums: Vec<(Text, Text)>,
        /// Where they stand.
        span: Span,
    },
}

impl Checksum {
    fn texts(&self) -> Vec<&Text> {
        match self {
            Self::One(sum) => vec![sum],
            Self::Each { sums, .. } => sums.iter().map(|(_, sum)| sum).collect(),
        }
    }
}

impl Key for Checksum {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let Value::Mapping(entries) = &node.value else {
            let Scalar(sum) = Scalar::read(node, report)?;
            return Some(Self::One(sum));
        };
        let names = architecture_names;
        let mut sums = Vec::new();
        for (key, value) in entries {
            let written = key.as_scalar().unwrap_or_default();
            if !names().any(|name| name == written) {
                let all: Vec<&str> = names().collect();
                report
                    .error(
                        "habitat::unknown_architecture",
                        key.span,
                        format!("unknown architecture `{written}`"),
                    )
                    .label("as images name it")
                    .near(written, names(), format!("one of {}", all.join(", ")));
                continue;
            }
            if let Some(Scalar(sum)) = Scalar::read(value, report) {
                let name = Text {
                    value: written.to_owned(),
                    span: key.span,
                };
                sums.push((name, sum));
            }
        }
        let span = node.span;
        Some(Self::Each { sums, span })
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        match self {
            Self::One(sum) => sum.expand(scope, report),
            Self::Each { sums, .. } => sums
                .iter_mut()
                .for_each(|(_, sum)| sum.expand(scope, report)),
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        match self {
            Self::One(sum) => sum.fields(name, fields),
            Self::Each { sums, .. } => sums
                .iter()
                .for_each(|(arch, sum)| sum.fields(&format!("{name}.{}", arch.value), fields)),
        }
    }
}

impl JsonSchema for Checksum {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Checksum".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let sum = json!({ "type": "string", "pattern": "^[0-9A-Fa-f]{64}$" });
        let each: BTreeMap<&str, &serde_json::Value> = ARCHITECTURES
            .iter()
            .map(|(name, _, _)| (*name, &sum))
            .collect();
        schemars::json_schema!({
            "anyOf": [sum, { "type": "object", "properties": each, "additionalProperties": false }],
        })
    }
}

/// Something that is fetched by its address, so that a lock file can say what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The tool it is for.
    pub name: String,
    /// Its address.
    pub url: String,
    /// Its SHA-256, 64 hex digits, as far as the habitat or [`super::Facts::sums`] says it.
    pub sha256: Option<String>,
    /// The tool.
    pub span: Span,
}

impl Tool {
    /// What the program's file is called.
    fn file_name(&self) -> &str {
        self.binary.as_ref().unwrap_or(&self.name).as_str()
    }

    fn is_direct(&self) -> bool {
        self.direct_binary.is_some_and(|flag| flag.value)
    }

    /// Whether what is downloaded is unpacked.
    fn is_archive(&self) -> bool {
        !self.is_direct() && (self.extract_path.is_some() || ends(&self.url.value, UNPACKED))
    }

    fn fill(&self, text: &str, architecture: (&str, &str)) -> String {
        let mut filled = text
            .replace("{arch}", architecture.0)
            .replace("{machine}", architecture.1);
        if let Some(Scalar(version)) = &self.version {
            filled = filled.replace("{version}", &version.value);
        }
        filled
    }
}

/// The end of an address that names a kind of file.
fn ends(url: &str, kinds: &[&str]) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.to_ascii_lowercase();
    kinds.iter().any(|kind| path.ends_with(kind))
}

/// The words in braces.
fn placeholders(text: &str) -> Vec<&str> {
    let after_brace = text.split('{').skip(1);
    after_brace
        .filter_map(|rest| rest.split_once('}').map(|(word, _)| word))
        .collect()
}

impl Check<'_> {
    pub(super) fn tools(&mut self) {
        let tools: &[Tool] = &self.document.tools.0;
        for (index, tool) in tools.iter().enumerate() {
            self.sound(
                &tool.name,
                is_file_name,
                "the name of a tool",
                "letters, digits, `.`, `_`, `+` and `-`",
            );
            tool.binary.iter().for_each(|binary| {
                self.sound(
                    binary,
                    is_file_name,
                    "the name of a file",
                    "letters, digits, `.`, `_`, `+` and `-`; its directory is `dest`",
                )
            });
            self.tool_url(tool);
            if let Some(path) = &tool.extract_path {
                self.relative(path);
            }
            if let Some(dest) = &tool.dest {
                self.absolute(dest, "dest");
            }
            if let (true, Some(path)) = (tool.is_direct(), &tool.extract_path) {
                self.report
                    .error(
                        "habitat::conflict",
                        path.span,
                        "both direct_binary and extract_path are given",
                    )
                    .label("there is no archive to take it out of")
                    .help("keep one of them");
            }
            for sum in tool.sha256.iter().flat_map(Checksum::texts) {
                if sum.value.len() != 64 || !sum.value.chars().all(|it| it.is_ascii_hexdigit()) {
                    self.report
                        .error(
                            "habitat::bad_value",
                            sum.span,
                            format!("`{}` is no SHA-256", sum.value),
                        )
                        .label("64 hex digits");
                }
            }
            let same_place = |earlier: &Tool| {
                let dest = |tool: &Tool| tool.dest.as_ref().map(|dest| dest.value.clone());
                earlier.file_name() == tool.file_name() && dest(earlier) == dest(tool)
            };
            if let Some(earlier) = tools[..index].iter().find(|earlier| same_place(earlier)) {
                self.report
                    .warning(
                        "habitat::duplicate",
                        tool.name.span,
                        format!(
                            "the tool `{}` takes the place of an earlier one",
                            tool.name.value
                        ),
                    )
                    .label(format!(
                        "`{}` is put there already, and this one over it",
                        earlier.url.value
                    ))
                    .help("leave one of the two out, or give this one another `dest`");
            }
        }
    }

    fn tool_url(&mut self, tool: &Tool) {
        const KNOWN: [&str; 3] = ["version", "arch", "machine"];
        let url = &tool.url;
        for text in std::iter::once(url).chain(&tool.extract_path) {
            for word in placeholders(&text.value) {
                if !KNOWN.contains(&word) {
                    let help = match nearest(word, KNOWN) {
                        Some(near) => format!("did you mean `{{{near}}}`?"),
                        None => "there are {version}, {arch} and {machine}".to_owned(),
                    };
                    self.report
                        .error(
                            "habitat::unknown_placeholder",
                            text.span,
                            format!("`{{{word}}}` stands for nothing"),
                        )
                        .label("what is in braces is replaced")
                        .help(help);
                }
            }
        }
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| url.value.strip_prefix(scheme));
        let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
            self.report
                .error(
                    "habitat::bad_value",
                    url.span,
                    format!("`{}` is no address of a download", url.value),
                )
                .label("such as https://example.org/tool-{version}.tar.gz");
            return;
        };
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            self.report
                .error(
                    "habitat::credentials",
                    url.span,
                    format!("the address of `{}` has a password in it", tool.name.value),
                )
                .label("the rendered Dockerfile, and with it the image's history, would show it")
                .help(format!(
                    "leave it out, and give `--secret id=HTTP_AUTH_TOKEN_{}`",
                    host.rsplit('@').next().unwrap_or_default()
                ));
        }
        self.plain(url, "\"'\\ \t<>");
        if ends(&url.value, &[".git"]) {
            self.report
                .error(
                    "habitat::bad_value",
                    url.span,
                    format!("`{}` is a repository", url.value),
                )
                .label("a tool is one file or one archive")
                .help("list it under `repos`");
        }
        if !tool.is_direct() && !ends(&url.value, UNPACKED) && ends(&url.value, NOT_UNPACKED) {
            self.report
                .error("habitat::archive", url.span, format!("what `{}` names cannot be unpacked", url.value))
                .label("tar archives can: plain, gz, xz, bz2 and zst")
                .help("take another form of it, fetch it by a script, or say `direct_binary: true` if it is the program itself");
        }
    }
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || "._+-".contains(it))
}

/// The architectures, as images name them.
pub(super) fn architecture_names() -> impl Iterator<Item = &'static str> + Clone {
    ARCHITECTURES.iter().map(|(name, _, _)| *name)
}

impl<'h> Planner<'h> {
    /// What the architecture that is built for is called in images, and by `uname -m`.
    pub(super) fn architecture(&self) -> (&'h str, &'h str) {
        let debian = self.facts.debian_arch.as_str();
        let known = ARCHITECTURES.iter().find(|(_, _, name)| *name == debian);
        known.map_or((debian, debian), |(image, machine, _)| (*image, *machine))
    }

    /// A tool's own stage, and the step that copies from it.
    pub(super) fn tool(&mut self, index: usize, tool: &Tool) -> Option<Step> {
        let architecture = self.architecture();
        self.needs_version(tool)?;
        let url = tool.fill(&tool.url.value, architecture);
        let own = match &tool.sha256 {
            None => self.facts.sums.get(&url).cloned(),
            Some(Checksum::One(sum)) => Some(sum.value.clone()),
            Some(Checksum::Each { sums, span }) => {
                let found = sums.iter().find(|(name, _)| name.value == architecture.0);
                if found.is_none() {
                    self.report
                        .error(
                            "habitat::missing_checksum",
                            *span,
                            format!("`{}` has no sha256 for {}", tool.name.value, architecture.0),
                        )
                        .label("this machine would not know what it gets")
                        .help(format!("add `{}: …`", architecture.0));
                }
                Some(found?.1.value.clone())
            }
        };
        let sum = own.map(|sum| sum.to_ascii_lowercase());
        let stage_name = format!("tool-{}", index + 1);
        let mut flags: Vec<String> = sum
            .iter()
            .map(|sum| format!("--checksum=sha256:{sum}"))
            .collect();
        let file = tool.file_name();
        let (at, inside) = if tool.is_archive() {
            flags.push("--unpack=true".to_owned());
            let path = tool
                .extract_path
                .as_ref()
                .map_or(file, |path| path.as_str());
            (
                "/".to_owned(),
                format!("/{}", super::facts::clean(&tool.fill(path, architecture))),
            )
        } else {
            (format!("/{file}"), format!("/{file}"))
        };
        let named = match &tool.version {
            Some(Scalar(version)) => format!("{} {}", tool.name.value, version.value),
            None => tool.name.value.clone(),
        };
        let said = format!("tools[{index}] {named}");
        let mut stage = Stage::new(&stage_name, "scratch", State::default());
        let values = json!({ "flags": flags, "paths": format!("{} {at}", quote::word(&url)) });
        stage.push(Step::of("download.j2", format!("{said}, downloaded"), values).at(tool.span));
        self.prepared.push(stage);
        self.downloads.push(Download {
            name: tool.name.value.clone(),
            url,
            sha256: sum,
            span: tool.span,
        });
        let dest = tool.dest.as_ref().map_or(BIN, |dest| dest.as_str());
        let dest = format!(
            "{}/{file}",
            self.habitat.at_home(dest).trim_end_matches('/')
        );
        let flags = [
            format!("--from={stage_name}"),
            "--chown=0:0".to_owned(),
            "--chmod=0755".to_owned(),
        ];
        let values = json!({ "flags": flags, "paths": quote::copy_paths(&inside, &dest) });
        Some(Step::of("copy.j2", said, values).at(tool.span))
    }

    /// A `{version}` without a version can be looked at, but not be downloaded.
    fn needs_version(&mut self, tool: &Tool) -> Option<()> {
        let asks = |text: &Text| text.value.contains("{version}");
        if tool.version.is_some() || !(asks(&tool.url) || tool.extract_path.iter().any(asks)) {
            return Some(());
        }
        let message = format!("the tool `{}` has no version", tool.name.value);
        let (entry, go_on) = match self.facts.purpose {
            Purpose::Build => (
                self.report
                    .error("habitat::no_version", tool.url.span, message),
                None,
            ),
            Purpose::Render => (
                self.report
                    .warning("habitat::no_version", tool.url.span, message),
                Some(()),
            ),
        };
        entry
            .label("`{version}` stands for nothing without one, so it cannot be downloaded")
            .help("add `version: …`");
        go_on
    }
}
