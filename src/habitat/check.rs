//! From text to a [`Habitat`]: read, expanded and found sound, or everything that is wrong with it.

use super::base::{Base, DebianBase, is_architecture};
use super::document::{Document, FileItem, Script, Words};
use super::env::{Environment, Scope, UnknownNames};
use super::keys::{Key, OneOrMore, Text};
use super::layer::Layers;
use super::mount::Mount;
use super::phase::PhaseId;
use super::report::Report;
use super::services::Service;
use crate::dockerfile::{Problem, Severity, Span};
use crate::image::Platform;

/// A habitat whose keys are known, whose strings are expanded and whose paths and names are sound.
#[derive(Debug, Clone)]
pub struct Habitat {
    /// The files that it is made of.
    pub layers: Layers,
    /// What it is called.
    pub name: String,
    /// Its keys, expanded.
    pub document: Document,
    /// The final environment.
    pub environment: Environment,
    /// Who lives in it: USER.
    pub user: String,
    /// USER's home: HOME, else `/root`, else `/home/USER`.
    pub home: String,
    /// WORKDIR.
    pub workdir: String,
    /// What should be mended, but stops nothing.
    pub warnings: Vec<Problem>,
}

impl Habitat {
    /// Reads a habitat that is a single file; `file` is its name in messages. All that is wrong is told at once.
    ///
    /// # Errors
    /// Everything that is wrong with the text, in its order.
    pub fn parse(text: &str, file: &str) -> Result<Self, Vec<Problem>> {
        Self::of(&Layers::single(file, text), UnknownNames::Refuse)
    }

    /// Reads the layers of a habitat and lays them over each other. All that is wrong with all of them is told at once.
    ///
    /// # Errors
    /// Everything that is wrong with the texts, in their order.
    pub fn of(layers: &Layers, unknown: UnknownNames) -> Result<Self, Vec<Problem>> {
        let (habitat, problems) = Self::as_far_as(layers, unknown);
        let is_error = |problem: &Problem| problem.severity == Severity::Error;
        match habitat {
            Some(habitat) if !problems.iter().any(is_error) => Ok(Self {
                warnings: problems,
                ..habitat
            }),
            _ => Err(problems),
        }
    }

    /// The same as far as it can be made out, with all that is wrong: only to look for what else is wrong with it.
    #[must_use]
    pub fn as_far_as(layers: &Layers, unknown: UnknownNames) -> (Option<Self>, Vec<Problem>) {
        let mut report = Report::default();
        let told = |report: Report| match report.finish() {
            Ok(problems) | Err(problems) => problems,
        };
        let Some(mut document) = Document::of(layers, &mut report) else {
            return (None, told(report));
        };
        let environment = Environment::of(&document.env, &mut report);
        document.expand(
            &Scope {
                environment: &environment,
                unknown,
            },
            &mut report,
        );

        if layers.has_dockerfile() {
            document.take_dockerfile(layers);
        }
        let mut check = Check {
            layers,
            document: &document,
            environment: &environment,
            report: &mut report,
        };
        let name = check.name();
        check.base();
        check.platforms();
        let user = check.entry("USER", "a user's name", is_user);
        let workdir = check.entry("WORKDIR", "an absolute path", is_absolute);
        for path in ["SYSTEM_PATH", "SHARED_PATH", "LOCAL_PATH"] {
            check.entry(path, "an absolute path", is_absolute);
        }
        for id in ["UID", "GID"]
            .into_iter()
            .filter(|id| environment.get(id).is_some())
        {
            check.entry(id, "a number", |value| value.parse::<u32>().is_ok());
        }
        let home = match environment.get("HOME") {
            Some(_) => check.entry("HOME", "an absolute path", is_absolute),
            None if user == "root" => "/root".to_owned(),
            None => format!("/home/{user}"),
        };
        check.files();
        check.repos();
        check.tools();
        check.scripts();
        check.verify_and_tests();
        check.services();
        check.volumes();
        check.limits();
        check.secrets_and_labels();
        check.timeouts();
        let habitat = Self {
            layers: layers.clone(),
            name,
            environment,
            user,
            home,
            workdir,
            warnings: Vec::new(),
            document,
        };
        (Some(habitat), told(report))
    }

    /// Whether the layers' own content stays out of the image.
    #[must_use]
    pub fn bypass(&self) -> bool {
        let entry = self.document.entry.as_ref();
        entry
            .and_then(|entry| entry.bypass_habitat_construction)
            .is_some_and(|flag| flag.value)
    }

    /// What it runs when it is started; `None`: a shell.
    #[must_use]
    pub fn command(&self) -> Option<Vec<String>> {
        match self.document.entry.as_ref()?.command.as_ref()? {
            Words::Line(line) => Some(vec![
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                line.value.clone(),
            ]),
            Words::List(words) => Some(words.iter().map(|word| word.value.clone()).collect()),
        }
    }

    /// Its services, in their order.
    pub(super) fn services(&self) -> impl Iterator<Item = &Service> {
        self.document.services.0.iter()
    }

    /// A path in the image, with `~/` replaced by USER's home.
    #[must_use]
    pub fn at_home(&self, path: &str) -> String {
        match path.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", self.home.trim_end_matches('/')),
            None => path.to_owned(),
        }
    }

    /// The value of an entry that is known to be sound.
    pub(super) fn path_of(&self, name: &str) -> String {
        self.environment
            .get(name)
            .and_then(|entry| entry.known())
            .unwrap_or_default()
    }
}

pub(super) struct Check<'h> {
    layers: &'h Layers,
    pub(super) document: &'h Document,
    pub(super) environment: &'h Environment,
    pub(super) report: &'h mut Report,
}

impl Check<'_> {
    fn start(&self) -> Span {
        Span {
            end: self.document.span.start,
            ..self.document.span
        }
    }

    fn name(&mut self) -> String {
        // A layer of others has a name of its own, which is not that of the habitat.
        let main = self.layers.index_of(self.document.span);
        let own = |name: &&Text| self.layers.index_of(name.span) >= main;
        let Some(name) = self.document.name.as_ref().filter(own) else {
            self.report
                .error(
                    "habitat::missing_key",
                    self.start(),
                    "the habitat has no `name`",
                )
                .label("`name` is required")
                .help("add `name: …`");
            return String::new();
        };
        let sound = |letter: char| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || "._-".contains(letter)
        };
        if !name
            .value
            .starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            || !name.value.chars().all(sound)
        {
            self.report
                .error(
                    "habitat::bad_name",
                    name.span,
                    format!("`{}` cannot be the name of a habitat", name.value),
                )
                .label("lower-case letters, digits, `.`, `_` and `-`, and a letter or digit first");
        }
        name.value.clone()
    }

    fn base(&mut self) {
        let document = self.document;
        let image = document
            .base_image
            .as_ref()
            .map(|image| ("base_image", image.span));
        let base = document.base.as_ref().map(|base| ("base", base.span()));
        let dockerfile = document.image.as_ref().map(|image| ("image", image.span));
        let mut given: Vec<(&str, Span)> =
            [image, base, dockerfile].into_iter().flatten().collect();
        given.sort_by_key(|(_, span)| span.start);
        self.dockerfile_beside(&given);
        match given.as_slice() {
            [] if self.layers.is_part() => {}
            [] => {
                self.report
                    .error("habitat::no_base", self.start(), "the habitat has no base")
                    .label("one of `base_image`, `base` and a Dockerfile beside this file is required")
                    .help("add `base: {debian: bookworm}`, or `base_image: …` for an image of a registry");
            }
            [_] => {}
            [(first, _), others @ ..] => {
                for (other, span) in others {
                    self.report
                        .error(
                            "habitat::several_bases",
                            *span,
                            "the habitat has several bases",
                        )
                        .label(format!("`{other}`, where `{first}` is given already"))
                        .help("keep one of them");
                }
            }
        }
        if let Some(image) = &document.base_image
            && (image.value.is_empty()
                || image
                    .value
                    .contains(|letter: char| letter.is_whitespace() || letter == '$'))
        {
            self.report
                .error(
                    "habitat::bad_reference",
                    image.span,
                    format!("`{}` is no image reference", image.value),
                )
                .label("such as debian:bookworm or registry.example/team/image@sha256:…");
        }
        if let Some(Base::Debian(debian)) = &document.base {
            let package = |name: &str| {
                name.len() > 1
                    && name.starts_with(|first: char| {
                        first.is_ascii_lowercase() || first.is_ascii_digit()
                    })
                    && name.chars().all(|it| {
                        it.is_ascii_lowercase() || it.is_ascii_digit() || "+-.".contains(it)
                    })
            };
            let word = |name: &str| {
                !name.is_empty()
                    && name
                        .chars()
                        .all(|it| it.is_ascii_alphanumeric() || it == '-')
            };
            let url = |url: &str| {
                ["http://", "https://", "file:///"]
                    .iter()
                    .any(|scheme| url.starts_with(scheme))
                    && !url.contains(char::is_whitespace)
            };
            match &debian.suite {
                Some(suite) => {
                    self.sound(suite, word, "the name of a suite", "such as bookworm");
                }
                None => {
                    self.report
                        .error(
                            "habitat::no_base",
                            debian.span,
                            "base does not say what kind it is",
                        )
                        .label("`debian` is missing, and no layer before this one has it")
                        .help("add `debian: bookworm`");
                }
            }
            debian.arch.iter().for_each(|arch| {
                self.sound(arch, word, "an architecture", "such as amd64 or arm64")
            });
            debian.mirror.iter().for_each(|mirror| {
                self.sound(
                    mirror,
                    url,
                    "the address of an archive",
                    "such as https://deb.debian.org/debian",
                )
            });
            debian
                .packages
                .0
                .iter()
                .for_each(|name| self.sound(name, package, "the name of a package", "such as git"));
        }
    }

    /// A Dockerfile beside the file is a base by itself: not together with another one, unless that names a Dockerfile.
    fn dockerfile_beside(&mut self, given: &[(&str, Span)]) {
        if let Some(dockerfile) = self.document.dockerfile() {
            self.relative(&dockerfile.path);
            if let Some(target) = &dockerfile.target {
                let is_stage = |name: &str| {
                    !name.is_empty()
                        && name
                            .chars()
                            .all(|it| it.is_ascii_alphanumeric() || "-_.".contains(it))
                };
                self.sound(
                    target,
                    is_stage,
                    "the name of a stage",
                    "as it stands after AS",
                );
            }
            return;
        }
        if !self.layers.has_dockerfile() {
            return;
        }
        let main = self.layers.index_of(self.document.span);
        for (key, span) in given {
            if self.layers.index_of(*span) < main {
                continue;
            }
            self.report
                .error(
                    "habitat::several_bases",
                    *span,
                    "the habitat has several bases",
                )
                .label(format!("`{key}`, and beside this file lies a Dockerfile, which is a base as well"))
                .help(format!(
                    "leave out `{key}`, or give the Dockerfile another name; `base: {{dockerfile: PATH}}` names one of any name"
                ));
        }
    }

    fn platforms(&mut self) {
        let mut known = Vec::new();
        for platform in &self.document.platforms.0 {
            match platform.value.parse::<Platform>() {
                Ok(parsed) => known.push(parsed),
                Err(error) => {
                    self.report
                        .error("habitat::bad_platform", platform.span, error.to_string())
                        .label("`os/arch` or `os/arch/variant`")
                        .help("for example linux/amd64");
                }
            }
        }
        let Some(Base::Debian(DebianBase {
            arch: Some(arch), ..
        })) = &self.document.base
        else {
            return;
        };
        if !known
            .iter()
            .all(|platform| is_architecture(platform, &arch.value))
        {
            self.report
                .error(
                    "habitat::arch_contradicts",
                    arch.span,
                    format!(
                        "the base is for {}, and `platforms` says otherwise",
                        arch.value
                    ),
                )
                .label("an image is of the architecture of its base")
                .help("leave `arch` out: it follows from the platform");
        }
    }

    pub(super) fn sound(
        &mut self,
        text: &Text,
        is_sound: impl Fn(&str) -> bool,
        what: &str,
        example: &str,
    ) {
        if !is_sound(&text.value) {
            self.report
                .error(
                    "habitat::bad_value",
                    text.span,
                    format!("`{}` is not {what}", text.value),
                )
                .label(example);
        }
    }

    /// The value of an entry that has a meaning.
    fn entry(&mut self, name: &str, what: &str, is_sound: impl Fn(&str) -> bool) -> String {
        let Some(entry) = self.environment.get(name) else {
            return String::new();
        };
        let span = entry.span.unwrap_or_else(|| self.start());
        match entry.known() {
            Some(value) if is_sound(&value) => return value,
            Some(value) => {
                self.report
                    .error(
                        "habitat::bad_env_value",
                        span,
                        format!("{name} is `{value}`"),
                    )
                    .label(format!("this must be {what}"));
            }
            None => {
                self.report
                    .error(
                        "habitat::bad_env_value",
                        span,
                        format!("{name} is not known before the build"),
                    )
                    .label("a part of it comes from the base image")
                    .help("write the value out");
            }
        }
        String::new()
    }

    pub(super) fn relative(&mut self, path: &Text) {
        let value = path.value.as_str();
        if value.is_empty() || value.starts_with('/') {
            self.report
                .error(
                    "habitat::bad_path",
                    path.span,
                    format!("`{value}` is no path beside this file"),
                )
                .label("this must be a relative path")
                .help("copy what is needed to the directory of this file");
        } else if value.split('/').any(|part| part == "..") {
            self.report
                .error(
                    "habitat::bad_path",
                    path.span,
                    format!("`{value}` may lie outside of this file's directory"),
                )
                .label("`..` is not possible here")
                .help("copy what is needed to the directory of this file");
        }
        self.plain(path, "\"'\\");
    }

    /// Paths have no letters that would end or change the instruction that they become a part of.
    pub(super) fn plain(&mut self, path: &Text, refused: &str) {
        let odd = |letter: char| letter.is_control() || refused.contains(letter);
        if let Some(letter) = path.value.chars().find(|letter| odd(*letter)) {
            self.report
                .error(
                    "habitat::bad_path",
                    path.span,
                    format!("`{}` has a letter that a path here cannot have", path.value),
                )
                .label(format!("{letter:?}"))
                .help("rename it");
        }
    }

    pub(super) fn absolute(&mut self, path: &Text, what: &str) {
        let rest = path
            .value
            .strip_prefix("~/")
            .map_or_else(|| path.value.clone(), |rest| format!("/{rest}"));
        if !is_absolute(&rest) {
            self.report
                .error(
                    "habitat::relative_path",
                    path.span,
                    format!("{what} `{}` is not absolute", path.value),
                )
                .label("this must begin with `/` or `~/`, without `..`")
                .help(format!(
                    "for example ${{WORKDIR}}/{}",
                    path.value.trim_start_matches("./")
                ));
        }
        self.plain(path, "\"'\\");
    }

    pub(super) fn owner(&mut self, owner: &Text) {
        let mut parts = owner.value.split(':');
        let user = parts.next().unwrap_or_default();
        let group = parts.next().unwrap_or("root");
        let id = |name: &str| is_user(name) || name.parse::<u32>().is_ok();
        if !id(user) || !id(group) || parts.next().is_some() {
            self.report
                .error(
                    "habitat::bad_owner",
                    owner.span,
                    format!("`{}` is no owner", owner.value),
                )
                .label("`user` or `user:group`, by name or number");
        }
    }

    fn files(&mut self) {
        let items: &[FileItem] = &self.document.files.0;
        for (index, item) in items.iter().enumerate() {
            if item.src.value.starts_with("~/") {
                self.relative(&Text {
                    value: item.src.value[2..].to_owned(),
                    span: item.src.span,
                });
            } else {
                self.relative(&item.src);
            }
            self.absolute(&item.dest, "dest");
            item.owner.iter().for_each(|owner| self.owner(owner));
            self.both_sides("file", item.span, &item.before, &item.after);
            let twice = items[..index].iter().any(|earlier| {
                earlier.dest.value == item.dest.value
                    && !item.dest.value.ends_with('/')
                    && earlier.src.value == item.src.value
            });
            if twice {
                self.report
                    .warning(
                        "habitat::duplicate",
                        item.span,
                        format!(
                            "`{}` is copied to `{}` twice",
                            item.src.value, item.dest.value
                        ),
                    )
                    .label("this is the second time")
                    .help("leave one of the two out");
            }
        }
    }

    /// What has both `before` and `after` is done twice, which is seldom meant.
    pub(super) fn both_sides(
        &mut self,
        what: &str,
        span: Span,
        before: &Option<OneOrMore<PhaseId>>,
        after: &Option<OneOrMore<PhaseId>>,
    ) {
        let (Some(_), Some(after)) = (before, after) else {
            return;
        };
        let phases: Vec<&str> = after.0.iter().map(|phase| phase.name()).collect();
        self.report
            .warning(
                "habitat::runs_twice",
                span,
                format!("the {what} has both `before` and `after`"),
            )
            .label(format!(
                "it runs at both places, also after {}",
                phases.join(", ")
            ))
            .help(format!("make it two {what}s if that is not meant"));
    }

    /// A secret that an item names.
    pub(super) fn secret(&mut self, id: &Text) {
        let secrets = &self.document.secrets.0;
        let known = || secrets.iter().map(|known| known.id.as_str());
        if !known().any(|known| known == id.value) {
            self.report
                .error(
                    "habitat::unknown_secret",
                    id.span,
                    format!("unknown secret `{}`", id.value),
                )
                .label("no item of `secrets` has this id")
                .near(&id.value, known(), "add it to `secrets`");
        }
    }

    fn scripts(&mut self) {
        let scripts: &[Script] = &self.document.scripts.0;
        for script in scripts {
            script.run_as.iter().for_each(|user| self.owner(user));
            self.both_sides("script", script.span, &script.before, &script.after);
            for cache in script.cache.iter().flat_map(|cache| &cache.0) {
                let is_path = is_absolute(cache.as_str()) || cache.value.starts_with("~/");
                if !is_path && !super::caches::is_known(&cache.value) {
                    self.report
                        .error(
                            "habitat::unknown_cache",
                            cache.span,
                            format!("unknown cache `{}`", cache.value),
                        )
                        .label("a tool that is known, or an absolute path")
                        .near(
                            &cache.value,
                            super::caches::names(),
                            "give the directory that is to be kept",
                        );
                }
            }
            for secret in script.secrets.iter().flat_map(|secrets| &secrets.0) {
                self.secret(&secret.id);
            }
            for mount in &script.mounts.0 {
                let target = match mount {
                    Mount::Tmpfs { target } => target.clone(),
                    Mount::Bind { source, target, .. } => {
                        self.relative(source);
                        self.plain(source, ", ");
                        Text {
                            value: target.clone(),
                            span: source.span,
                        }
                    }
                };
                self.absolute(&target, "the target");
                self.plain(&target, ", ");
            }
            for (name, value) in &script.env.0 {
                let sound = name
                    .value
                    .chars()
                    .all(|it| it.is_ascii_alphanumeric() || it == '_')
                    && !name.value.starts_with(|first: char| first.is_ascii_digit());
                if !sound || name.value.is_empty() || value.value.contains('\0') {
                    self.report
                        .error(
                            "habitat::bad_env_name",
                            name.span,
                            format!("`{}` cannot be the name of a variable", name.value),
                        )
                        .label("letters, digits and `_`, and no digit first");
                }
            }
        }
    }

    fn verify_and_tests(&mut self) {
        for required in self
            .document
            .verify_fs
            .iter()
            .flat_map(|verify| &verify.required_files.0)
        {
            self.absolute(&required.path, "the path");
            required.owner.iter().for_each(|owner| self.owner(owner));
            if let Some(digest) = &required.sha256
                && (digest.value.len() != 64
                    || !digest.value.chars().all(|it| it.is_ascii_hexdigit()))
            {
                self.report
                    .error(
                        "habitat::bad_value",
                        digest.span,
                        format!("`{}` is no SHA-256", digest.value),
                    )
                    .label("64 hex digits");
            }
        }
        let tests = &self.document.tests.0;
        for (index, test) in tests.iter().enumerate() {
            self.relative(&test.path);
            self.plain(&test.path, ", ");
            test.run_as.iter().for_each(|user| self.owner(user));
            if tests[..index]
                .iter()
                .any(|earlier| earlier.path.value == test.path.value)
            {
                self.report
                    .warning(
                        "habitat::duplicate",
                        test.path.span,
                        format!("the test `{}` is listed twice", test.path.value),
                    )
                    .label("this is the second time")
                    .help("leave one of the two out");
            }
        }
    }

    /// In some phases nothing runs but hooks: a limit of such a one may be meant for what it does not reach.
    fn timeouts(&mut self) {
        const IDLE: [PhaseId; 5] = [
            PhaseId::BASE,
            PhaseId::FILES,
            PhaseId::REPOS,
            PhaseId::TOOLS,
            PhaseId::FINAL,
        ];
        let document = self.document;
        for (phase, limit) in &document.timeout.phases {
            let is_hooked = document.scripts.0.iter().any(|script| {
                let hooks = [&script.before, &script.after];
                let mut hooks = hooks.into_iter().flatten().flat_map(|hook| &hook.0);
                hooks.any(|hook| hook == phase)
            });
            if IDLE.contains(phase) && !is_hooked {
                self.report
                    .warning(
                        "habitat::idle_timeout",
                        limit.span,
                        format!("nothing in the phase `{}` has a limit", phase.name()),
                    )
                    .label("what is fetched and copied is given up when it stands still; only scripts have limits")
                    .help("leave it out");
            }
        }
    }

    fn secrets_and_labels(&mut self) {
        let secrets = &self.document.secrets.0;
        for (index, secret) in secrets.iter().enumerate() {
            if secrets[..index]
                .iter()
                .any(|earlier| earlier.id.value == secret.id.value)
            {
                self.report
                    .error(
                        "habitat::duplicate",
                        secret.id.span,
                        format!("the secret `{}` is given twice", secret.id.value),
                    )
                    .label("this is the second time");
            }
            if secret.id.value.is_empty() || secret.id.value.contains([',', '=', '/', ' ', '"']) {
                self.report
                    .error(
                        "habitat::bad_value",
                        secret.id.span,
                        format!("`{}` cannot be the id of a secret", secret.id.value),
                    )
                    .label("no blanks, commas, `=`, `/` or quotes");
            }
            if secret.env.is_some() == secret.file.is_some() {
                self.report
                    .error(
                        "habitat::conflict",
                        secret.span,
                        format!("the secret `{}` needs one source", secret.id.value),
                    )
                    .label("one of `env` and `file`");
            }
        }
        for (name, value) in &self.document.labels.0 {
            if name.value.is_empty()
                || name.value.contains(|it: char| {
                    it.is_whitespace() || it.is_control() || "\"'\\$=".contains(it)
                })
            {
                self.report
                    .error(
                        "habitat::bad_label",
                        name.span,
                        format!("`{}` cannot be the name of a label", name.value),
                    )
                    .label("no blanks, quotes, `$`, `=` or `\\`");
            }
            if value.value.contains(char::is_control) {
                self.report
                    .error(
                        "habitat::bad_label",
                        value.span,
                        format!("the label `{}` has a line break", name.value),
                    )
                    .label("a label is a single line");
            }
        }
    }
}

/// Whether something put at `outer` would cover `inner`.
pub(super) fn covers(outer: &str, inner: &str) -> bool {
    let (outer, inner) = (outer.trim_end_matches('/'), inner.trim_end_matches('/'));
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a url is one that git reaches over a network or by an absolute path, and not a path beside the file.
pub(super) fn is_remote(url: &str) -> bool {
    let scp_like = || {
        url.split_once(':')
            .is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'))
    };
    url.starts_with('/') || url.contains("://") || scp_like()
}

pub(super) fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
        && !path.split('/').any(|part| part == "..")
        && !path.contains(char::is_control)
}

fn is_user(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || "_.-".contains(it))
}
