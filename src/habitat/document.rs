//! The keys of a habitat: what each is called, takes and means. The reader and `schemas/habitat.json` are made from
//! these lists.

use schemars::JsonSchema;

use super::base::{Base, Image};
use super::env::{EnvBlock, Scope};
use super::fields::{Field, below};
use super::keys::{Command, Count, Duration, Flag, Key, List, Mode, OneOrMore, Scalar, Text, keys};
use super::layer::{LayerKind, Layers};
use super::limits::Limits;
use super::mount::Mount;
use super::node::{Node, Value};
use super::phase::{PHASES, PhaseId};
use super::quote;
use super::report::Report;
use super::repos::Repo;
use super::services::Service;
use super::tools::{Tool, ToolsFile};
use super::volumes::Volume;
use super::when::When;
use crate::dockerfile::Span;

keys! {
    /// A development environment, and how it is made.
    Document is "a habitat", ByKey {
        /// What the habitat is called: `[a-z0-9][a-z0-9._-]*`.
        #[schemars(required, with = "String", regex(pattern = r"^[a-z0-9][a-z0-9._-]*$"))]
        name: Option<Text> = "name",
        /// What it is for.
        description: Option<Text> = "description",
        /// The image it is built on. One of `base_image`, `base` and a Dockerfile beside this file is required.
        base_image: Option<Text> = "base_image",
        /// A base that needs no registry. One of `base_image`, `base` and a Dockerfile beside this file is required.
        base: Option<Base> = "base",
        /// A Dockerfile that is the base, where it is not called Dockerfile and lies beside this file.
        image: Option<Image> = "image",
        /// Habitats that this one is laid over: paths beside this file or at ROOT, of a file or of a directory with a
        /// config.yaml. A later layer adds to lists, and wins in everything else.
        extends: Option<OneOrMore<Text>> = "extends",
        /// Environment entries, read from top to bottom. `${NAME}` is the value so far, or the base image's.
        #[schemars(default)]
        env: EnvBlock = "env",
        /// Files and directories that are copied in.
        #[schemars(default)]
        files: List<FileItem> = "files",
        /// Repositories that are checked out.
        #[schemars(default)]
        repos: List<Repo> = "repos",
        /// Programs that are downloaded.
        #[schemars(default)]
        tools: List<Tool> = "tools",
        /// What is run while the image is built.
        #[schemars(default)]
        scripts: List<Script> = "scripts",
        /// What `shmocker habitat up` mounts: `SRC:DST` or `SRC:DST:ro`. SRC lies beside this file, or is absolute, or is
        /// `~/…` of the host. The image knows nothing of it.
        #[schemars(default)]
        volumes: List<Volume> = "volumes",
        /// Programs that run beside the scripts and tests that need them, and when the habitat runs.
        #[schemars(default)]
        services: List<Service> = "services",
        /// What must be true of the file system when all scripts have run.
        verify_fs: Option<VerifyFs> = "verify-fs",
        /// Programs that print TAP. Each runs in its own sandbox; nothing that it writes reaches the image.
        #[schemars(default)]
        tests: List<TestItem> = "tests",
        /// What runs when the habitat is started.
        entry: Option<Entry> = "entry",
        /// How long steps may take.
        #[schemars(default)]
        timeout: Timeouts = "timeout",
        /// Secrets that scripts may name. They are mounted, never stored.
        #[schemars(default)]
        secrets: List<Secret> = "secrets",
        /// Labels of the image.
        #[schemars(default)]
        labels: Labels = "labels",
        /// The platforms to build for, `os/arch[/variant]`; without it this machine's. Others are refused for now.
        #[schemars(default)]
        platforms: List<Text> = "platforms",
    }
}

impl Document {
    /// Reads the layers and lays them over each other. `None`: what was asked for says nothing.
    pub(super) fn of(layers: &Layers, report: &mut Report) -> Option<Self> {
        let mut document: Option<Self> = None;
        let mut main = None;
        let mut tools = Vec::new();
        for (index, layer) in layers.all().iter().enumerate() {
            let is_main = std::ptr::eq(layer, layers.main());
            let told = report.len();
            let Some(root) = layers.parse(index, report).filter(|root| !root.is_null()) else {
                if is_main && told == report.len() {
                    let start = layers.start_of(index);
                    let span = Span {
                        start,
                        end: start,
                        line: 1,
                    };
                    report.error("habitat::empty", span, "the file is empty").help(
                        "a habitat needs at least `name:` and a base, such as `base: {debian: bookworm}`",
                    );
                }
                continue;
            };
            if layer.kind == LayerKind::Tools {
                let file = ToolsFile::read(&root, report);
                tools.extend(file.into_iter().flat_map(ToolsFile::into_tools));
                continue;
            }
            let Some(mut later) = Self::read(&root, report) else {
                continue;
            };
            // They lie in the system layer's directory: whatever a later layer says of tools is laid over them.
            match &mut document {
                Some(document) => document.tools.0.append(&mut tools),
                None => {
                    tools.append(&mut later.tools.0);
                    later.tools.0.append(&mut tools);
                }
            }
            if is_main {
                main = Some(later.span);
            }
            match &mut document {
                Some(document) => document.cover(later),
                None => document = Some(later),
            }
        }
        let mut document = document?;
        document.span = main?;
        Some(document)
    }

    /// Lays a later layer over this one.
    fn cover(&mut self, later: Self) {
        // A habitat has one base, whatever key names it: the later wins.
        if later.base_image.is_some() || later.image.is_some() {
            self.base = None;
        }
        if later.base.is_some() || later.image.is_some() {
            self.base_image = None;
        }
        if later.base_image.is_some() || later.base.is_some() {
            self.image = None;
        }
        self.overlay(later);
    }
}

keys! {
    /// A file or a directory that is copied in.
    FileItem is "an item of files" {
        /// A path beside this file, or `~/…` of the host. A directory is copied with all that is in it.
        src: Text = "src",
        /// Where to: absolute, or `~/…` of USER in the image. A `/` at its end: into that directory.
        dest: Text = "dest",
        /// Octal: 644, "0644" and 0o644 are the same. In a directory it applies to files, and to directories with `x`
        /// added where `r` is set.
        mode: Option<Mode> = "mode",
        /// `user` or `user:group`. Without it what goes to `~/` is USER's, all else root's.
        owner: Option<Text> = "owner",
        /// The phases before which it is copied.
        before: Option<OneOrMore<PhaseId>> = "before",
        /// The phases after which it is copied.
        after: Option<OneOrMore<PhaseId>> = "after",
        /// Whether it may be missing.
        optional: Option<Flag> = "optional",
        /// Whether a file of the host's home may become part of the image.
        allow_home: Option<Flag> = "allow_home",
        /// What it is for.
        description: Option<Text> = "description",
    }
}

keys! {
    /// Commands that are run while the image is built.
    Script is "a script" {
        /// What it is called in messages.
        name: Option<Text> = "name",
        /// Who runs it: `user` or `user:group`; without it USER.
        run_as: Option<Text> = "run_as",
        /// The phases before which it runs.
        before: Option<OneOrMore<PhaseId>> = "before",
        /// The phases after which it runs.
        after: Option<OneOrMore<PhaseId>> = "after",
        /// What is run: each element by a shell of its own, in WORKDIR. Only `{env.NAME}` is expanded.
        commands: OneOrMore<Command> = "commands",
        /// The shell and its options, instead of `bash -eo pipefail` (`sh -e` where there is no bash).
        shell: Option<Shell> = "shell",
        /// How long each command may take.
        timeout: Option<Duration> = "timeout",
        /// `none`, `default` or `host`.
        network: Option<Network> = "network",
        /// Environment of this script alone.
        #[schemars(default)]
        env: Labels = "env",
        /// Paths beside this file that are mounted while it runs: `SRC:DEST`, `SRC:DEST:rw` (what is written is
        /// dropped), or `tmpfs:DEST`.
        #[schemars(default)]
        mounts: List<Mount> = "mounts",
        /// Directories that are kept between builds and stay out of the image: a tool's name or a path.
        #[schemars(with = "Option<OneOrMore<String>>")]
        cache: Option<OneOrMore<Text>> = "cache",
        /// Secrets, as files under /run/secrets; `{id, env}` gives one as a variable.
        secrets: Option<OneOrMore<SecretItem>> = "secrets",
        /// What it is for.
        description: Option<Text> = "description",
        /// The services that run beside it, in the order in which they are started.
        #[schemars(with = "Option<OneOrMore<String>>")]
        needs: Option<OneOrMore<Text>> = "needs",
        /// When it is run: a command that has to succeed, or `{arch, command}`.
        when: Option<When> = "when",
    }
}

keys! {
    /// What must be true of the file system.
    VerifyFs is "verify-fs", ByKey {
        /// Files that must be there; `~/` is USER's home.
        #[schemars(default)]
        required_files: List<RequiredFile> = "required_files",
    }
}

keys! {
    /// A file and what must be true of it.
    Required is "an item of required_files" {
        /// Where it is: absolute, or `~/…`.
        path: Text = "path",
        /// `file`, `directory` or `symlink`.
        kind: Option<FileType> = "type",
        /// Its permissions, octal.
        mode: Option<Mode> = "mode",
        /// Its owner: `user` or `user:group`, by name or number.
        owner: Option<Text> = "owner",
        /// A text that it contains.
        contains: Option<Text> = "contains",
        /// The SHA-256 of its content.
        sha256: Option<Text> = "sha256",
        /// Whether it must not be there.
        absent: Option<Flag> = "absent",
    }
}

keys! {
    /// A test.
    Test is "a test" {
        /// The program, beside this file.
        path: Text = "path",
        /// Who runs it; without it USER.
        run_as: Option<Text> = "run_as",
        /// How long it may take.
        timeout: Option<Duration> = "timeout",
        /// The services that run beside it, in the order in which they are started.
        #[schemars(with = "Option<OneOrMore<String>>")]
        needs: Option<OneOrMore<Text>> = "needs",
    }
}

keys! {
    /// What runs when the habitat is started.
    Entry is "entry", ByKey {
        /// The command: a line for a shell, or a list of words.
        command: Option<Words> = "command",
        /// Started before it, in the background, by a shell.
        init_command: Option<Command> = "init_command",
        /// Seconds between the two.
        startup_delay: Option<Count> = "startup_delay",
        /// Whether it wants a terminal.
        tty: Option<Flag> = "tty",
        /// What network it has when it runs: `none`, `default` or `host`.
        network: Option<Network> = "network",
        /// How much of the machine it may take when it runs, where this user may make control groups.
        limits: Option<Limits> = "limits",
        /// Whether the layers' own content stays out of the image. Only a habitat that lies in a ROOT (a directory with
        /// `habitats/` and `system/` or `shared/`) has any: its directory is copied to LOCAL_PATH, but for its tests and
        /// repositories. What its items name, and the file itself, are put there after the scripts.
        bypass_habitat_construction: Option<Flag> = "bypass_habitat_construction",
    }
}

keys! {
    /// Where a secret comes from.
    Secret is "a secret" {
        /// What scripts call it.
        id: Text = "id",
        /// The variable of the host that holds it.
        env: Option<Text> = "env",
        /// The file of the host that holds it.
        file: Option<Text> = "file",
    }
}

keys! {
    /// A secret as a script sees it.
    SecretUse is "a script's secret" {
        /// Its id.
        id: Text = "id",
        /// The variable it is given in, instead of a file.
        env: Option<Text> = "env",
    }
}

/// Types that may be written as one string, which is then the value of their first key.
macro_rules! or_string {
    ($outer:ident: $inner:ident.$key:ident = $json:literal, $($rest:ident),*) => {
        #[doc = concat!("[`", stringify!($inner), "`], which may be written as a string: its `", $json, "`.")]
        #[derive(Debug, Clone)]
        pub struct $outer(pub $inner);

        impl std::ops::Deref for $outer {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl Key for $outer {
            fn read(node: &Node, report: &mut Report) -> Option<Self> {
                match &node.value {
                    Value::Mapping(_) => $inner::read(node, report).map(Self),
                    _ => Text::read(node, report).map(|$key| Self($inner { $key, $($rest: None,)* span: node.span, reset: Vec::new() })),
                }
            }

            fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
                self.0.expand(scope, report);
            }

            fn fields(&self, name: &str, fields: &mut Vec<Field>) {
                self.0.fields(name, fields);
            }
        }

        impl JsonSchema for $outer {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                concat!(stringify!($inner), "_or_string").into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<$inner>()] })
            }
        }
    };
}
or_string!(RequiredFile: Required.path = "path", kind, mode, owner, contains, sha256, absent);
or_string!(TestItem: Test.path = "path", run_as, timeout, needs);
or_string!(SecretItem: SecretUse.id = "id", env);

/// One of a few words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident: $what:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
        pub enum $name {
            $($(#[$doc])* #[schemars(rename = $word)] $variant,)*
        }

        impl $name {
            /// As it is written.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl Key for $name {
            fn read(node: &Node, report: &mut Report) -> Option<Self> {
                match node.as_scalar() {
                    $(Some($word) => Some(Self::$variant),)*
                    other => {
                        let written = other.unwrap_or(node.kind());
                        let words = [$($word),*];
                        report
                            .error("habitat::unknown_word", node.span, format!("`{written}` is no {}", $what))
                            .label(format!("one of {}", words.join(", ")))
                            .near(written, words, format!("write one of {}", words.join(", ")));
                        None
                    }
                }
            }

            fn fields(&self, name: &str, fields: &mut Vec<Field>) {
                fields.push(Field { name: name.to_owned(), value: self.word().to_owned(), span: None });
            }
        }
    };
}

words! {
    /// What may be done with a repository.
    Access: "access" {
        /// It can be pushed to.
        Write = "write",
        /// Pushing is disabled.
        Read = "read",
    }
}

words! {
    /// What network a script sees.
    Network: "network" {
        /// None.
        None = "none",
        /// Its own, with a way out.
        Default = "default",
        /// The host's.
        Host = "host",
    }
}

words! {
    /// What kind of file something is.
    FileType: "type of file" {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Symlink = "symlink",
    }
}

/// Names and values: labels, or a script's own environment.
#[derive(Debug, Clone, Default)]
pub struct Labels(pub Vec<(Text, Text)>);

impl Key for Labels {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        if let Value::Mapping(entries) = &node.value {
            let pairs = entries.iter().filter_map(|(key, value)| {
                let Some(name) = key.as_scalar() else {
                    report.error(
                        "habitat::wrong_type",
                        key.span,
                        format!("{} stands where a name belongs", key.kind()),
                    );
                    return None;
                };
                let Scalar(value) = Scalar::read(value, report)?;
                Some((
                    Text {
                        value: name.to_owned(),
                        span: key.span,
                    },
                    value,
                ))
            });
            return Some(Self(pairs.collect()));
        }
        let block = EnvBlock::read(node, report)?;
        let pairs = block.entries().iter().cloned();
        Some(Self(
            pairs
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        ))
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn overlay(&mut self, later: Self) {
        for (name, value) in later.0 {
            match self
                .0
                .iter_mut()
                .find(|(known, _)| known.value == name.value)
            {
                Some(known) => *known = (name, value),
                None => self.0.push((name, value)),
            }
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        self.0
            .iter_mut()
            .for_each(|(_, value)| value.expand(scope, report));
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        for (key, value) in &self.0 {
            value.fields(&below(name, key.as_str()), fields);
        }
    }
}

impl JsonSchema for Labels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string", "pattern": "=" } },
                { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } },
                { "type": "null" },
            ],
        })
    }
}

/// A line for a shell, or a list of words.
#[derive(Debug, Clone)]
pub enum Words {
    /// A line for a shell.
    Line(Text),
    /// A program and its arguments.
    List(Vec<Text>),
}

impl Key for Words {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Sequence(_) => {
                List::<Text>::read(node, report).map(|List(words)| Self::List(words))
            }
            _ => Text::read(node, report).map(Self::Line),
        }
    }

    fn expand(&mut self, scope: &Scope<'_>, report: &mut Report) {
        match self {
            Self::Line(line) => line.value = scope.command(line, report),
            Self::List(words) => words
                .iter_mut()
                .for_each(|word| word.value = scope.command(word, report)),
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        match self {
            Self::Line(line) => line.fields(name, fields),
            Self::List(words) => {
                let span = words.first().map(|word| word.span);
                let words: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
                fields.push(Field {
                    name: name.to_owned(),
                    value: quote::json(&words),
                    span,
                });
            }
        }
    }
}

/// A shell with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell(pub Vec<String>);

impl Key for Shell {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let words: Vec<String> = match Words::read(node, report)? {
            Words::Line(line) => line.value.split_whitespace().map(str::to_owned).collect(),
            Words::List(words) => words.into_iter().map(|word| word.value).collect(),
        };
        if words.is_empty() {
            report
                .error("habitat::empty_shell", node.span, "the shell is empty")
                .label("a program is needed here")
                .help("for example `shell: sh -eu`");
            return None;
        }
        Some(Self(words))
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        fields.push(Field {
            name: name.to_owned(),
            value: self.0.join(" "),
            span: None,
        });
    }
}

macro_rules! text_or_list {
    ($type:ty, $name:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
            }
        }
    };
}
text_or_list!(Words, "Words");
text_or_list!(Shell, "Shell");

/// How long steps may take, by phase.
#[derive(Debug, Clone, Default)]
pub struct Timeouts {
    /// For every phase.
    pub per_phase: Option<Duration>,
    /// For one.
    pub phases: Vec<(PhaseId, Duration)>,
}

impl Timeouts {
    /// The limit of a phase's steps.
    #[must_use]
    pub fn of(&self, phase: PhaseId) -> Option<Duration> {
        let own = self
            .phases
            .iter()
            .find(|(id, _)| *id == phase)
            .map(|(_, limit)| *limit);
        own.or(self.per_phase)
    }
}

impl Key for Timeouts {
    fn read(node: &Node, report: &mut Report) -> Option<Self> {
        let mut timeouts = Self::default();
        match &node.value {
            Value::Mapping(entries) => {
                for (key, value) in entries {
                    if key.as_scalar() == Some("per-phase") {
                        timeouts.per_phase = Duration::read(value, report);
                    } else if let Some(phase) = PhaseId::read(key, report)
                        && let Some(limit) = Duration::read(value, report)
                    {
                        timeouts.phases.push((phase, limit));
                    }
                }
            }
            _ if node.is_null() => {}
            _ => timeouts.per_phase = Duration::read(node, report),
        }
        Some(timeouts)
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn overlay(&mut self, later: Self) {
        self.per_phase.overlay(later.per_phase);
        for (phase, limit) in later.phases {
            self.phases.retain(|(known, _)| *known != phase);
            self.phases.push((phase, limit));
        }
    }

    fn fields(&self, name: &str, fields: &mut Vec<Field>) {
        self.per_phase.fields(&below(name, "per-phase"), fields);
        for (phase, limit) in &self.phases {
            limit.fields(&below(name, phase.name()), fields);
        }
    }
}

impl JsonSchema for Timeouts {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timeouts".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let limit = generator.subschema_for::<Duration>();
        let names = std::iter::once("per-phase").chain(PHASES.iter().map(|row| row.name));
        let properties: serde_json::Map<String, serde_json::Value> = names
            .map(|name| (name.to_owned(), limit.clone().to_value()))
            .collect();
        schemars::json_schema!({
            "anyOf": [limit, { "type": "object", "properties": properties, "additionalProperties": false }, { "type": "null" }],
        })
    }
}
