//! What the arguments of each instruction mean.

use super::ast::{
    Argument, Arguments, Command, From, Healthcheck, Instruction, Kind, MountFlag, MountOption,
    OnBuild, Pair, Run, Transfer, TransferSource, Word,
};
use super::duration;
use super::flags::Flags;
use super::heredoc;
use super::problem::Problem;
use super::split;

/// All instructions that there are.
pub(super) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads flags and arguments of an instruction that was split.
pub(super) fn give_meaning(
    instruction: &mut Instruction,
    escape: char,
    problems: &mut Vec<Problem>,
) {
    let mut reader = Reader {
        instruction,
        problems,
    };
    let kind = reader.kind(escape);
    instruction.kind = kind.unwrap_or(Kind::Invalid);
}

struct Reader<'a> {
    instruction: &'a Instruction,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn kind(&mut self, escape: char) -> Option<Kind> {
        match self.instruction.keyword.text.to_ascii_uppercase().as_str() {
            "FROM" => self.stage(),
            "RUN" => self.run(),
            "COPY" => {
                let flags = ["from", "chown", "chmod", "link", "parents", "exclude"];
                self.transfer(&flags).map(Kind::Copy)
            }
            "ADD" => {
                let flags = [
                    "chown",
                    "chmod",
                    "link",
                    "exclude",
                    "checksum",
                    "unpack",
                    "keep-git-dir",
                ];
                self.transfer(&flags).map(Kind::Add)
            }
            "ENV" => self.name_values().map(Kind::Env),
            "LABEL" => self.name_values().map(Kind::Label),
            "ARG" => self.argument_names(),
            "WORKDIR" => self.one_line().map(Kind::Workdir),
            "USER" => self.one_line().map(Kind::User),
            "STOPSIGNAL" => self.one_line().map(Kind::StopSignal),
            "MAINTAINER" => {
                self.problems.push(
                    Problem::warning(
                        "MaintainerDeprecated",
                        "Maintainer instruction is deprecated in favor of using label",
                        self.instruction.span,
                    )
                    .help("write `LABEL org.opencontainers.image.authors=…`"),
                );
                self.one_line().map(Kind::Maintainer)
            }
            "ENTRYPOINT" => self.command().map(Kind::Entrypoint),
            "CMD" => self.command().map(Kind::Cmd),
            "SHELL" => self.shell(),
            "EXPOSE" => self.words().map(Kind::Expose),
            "VOLUME" => self.volumes(),
            "HEALTHCHECK" => self.healthcheck(),
            "ONBUILD" => self.on_build(escape),
            _ => {
                let keyword = &self.instruction.keyword;
                let message = format!("unknown instruction `{}`", keyword.text);
                let problem =
                    Problem::error("dockerfile::unknown_instruction", message, keyword.span);
                self.problems.push(problem.near(&keyword.text, NAMES));
                None
            }
        }
    }

    fn refuse<T>(&mut self, code: &'static str, message: String, help: &str) -> Option<T> {
        self.problems
            .push(Problem::error(code, message, self.instruction.span).help(help));
        None
    }

    fn name(&self) -> String {
        self.instruction.keyword.text.to_ascii_uppercase()
    }

    fn flags<'f>(&mut self, known: &'f [&'f str]) -> Flags<'f> {
        Flags::read(&self.instruction.flags, known, self.problems)
    }

    fn stage(&mut self) -> Option<Kind> {
        let mut flags = self.flags(&["platform"]);
        let platform = flags.text("platform", self.problems);
        let Arguments::Words(words) = &self.instruction.arguments else {
            return self.stage_form();
        };
        match words.as_slice() {
            [base] => Some(Kind::From(From {
                platform,
                base: base.clone(),
                name: None,
            })),
            [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
                self.check_from_casing(keyword, name);
                let lower = name.text.to_lowercase();
                let valid = lower.starts_with(|c: char| c.is_ascii_lowercase())
                    && lower
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
                if !valid {
                    let message = format!("`{}` cannot be the name of a stage", name.text);
                    self.problems.push(
                        Problem::error("dockerfile::stage_name", message, name.span)
                            .help("begin with a letter; then letters, digits, `-`, `_` and `.`"),
                    );
                    return None;
                }
                self.check_description("FROM", &[lower.as_str()]);
                let name = Word {
                    text: lower,
                    span: name.span,
                };
                Some(Kind::From(From {
                    platform,
                    base: base.clone(),
                    name: Some(name),
                }))
            }
            _ => self.stage_form(),
        }
    }

    fn stage_form(&mut self) -> Option<Kind> {
        self.refuse(
            "dockerfile::from_form",
            "FROM takes one argument, or three".to_owned(),
            "write `FROM image` or `FROM image AS name`",
        )
    }

    fn check_from_casing(&mut self, keyword: &Word, name: &Word) {
        if name.text != name.text.to_lowercase() {
            let message = format!("Stage name '{}' should be lowercase", name.text);
            self.problems
                .push(Problem::warning("StageNameCasing", message, name.span));
        }
        let from = &self.instruction.keyword.text;
        let mismatch = (*from == from.to_lowercase()
            && keyword.text != keyword.text.to_lowercase())
            || (*from == from.to_uppercase() && keyword.text != keyword.text.to_uppercase());
        if mismatch {
            let message = format!(
                "'{}' and '{from}' keywords' casing do not match",
                keyword.text
            );
            self.problems
                .push(Problem::warning("FromAsCasing", message, keyword.span));
        }
    }

    fn run(&mut self) -> Option<Kind> {
        let mut flags = self.flags(&["mount", "network", "security", "device"]);
        let mounts = flags.all("mount", self.problems);
        let network = flags.text("network", self.problems);
        let security = flags.text("security", self.problems);
        let devices = flags.all("device", self.problems);
        if let Some(network) = &network
            && !["default", "none", "host"].contains(&network.text.as_str())
        {
            let message = format!("`{}` is not a network", network.text);
            let problem = Problem::error("dockerfile::network", message, network.span);
            self.problems
                .push(problem.help("`default`, `none` or `host`"));
        }
        let mounts = mounts.iter().filter_map(|flag| self.mount(flag)).collect();
        let command = self.command_line(&self.instruction.arguments);
        Some(Kind::Run(Run {
            command,
            mounts,
            network,
            security,
            devices,
        }))
    }

    fn mount(&mut self, flag: &Word) -> Option<MountFlag> {
        let fields = match split::comma_separated(&flag.text) {
            Ok(fields) => fields,
            Err(reason) => {
                let message = format!("`--mount={}` cannot be read: {reason}", flag.text);
                self.problems
                    .push(Problem::error("dockerfile::mount", message, flag.span));
                return None;
            }
        };
        let mut options = Vec::new();
        for field in fields {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (field.as_str(), None),
            };
            options.push(MountOption {
                key: key.to_lowercase(),
                value,
            });
        }
        let mount = MountFlag {
            span: flag.span,
            options,
        };
        super::mount::check(&mount, self.problems);
        Some(mount)
    }

    fn transfer(&mut self, known: &[&str]) -> Option<Transfer> {
        let mut flags = self.flags(known);
        let problems = &mut *self.problems;
        let from = flags.text("from", problems);
        let chown = flags.text("chown", problems);
        let chmod = flags.text("chmod", problems);
        let link = flags.switch("link", problems).unwrap_or(false);
        let parents = flags.switch("parents", problems).unwrap_or(false);
        let exclude = flags.all("exclude", problems);
        let checksum = flags.text("checksum", problems);
        let unpack = flags.switch("unpack", problems);
        let keep_git_dir = flags.switch("keep-git-dir", problems);
        let words = match &self.instruction.arguments {
            Arguments::Words(words) => joined_marks(words),
            Arguments::Json(words) => words.clone(),
            _ => Vec::new(),
        };
        let name = self.name();
        let Some((dest, sources)) = words
            .split_last()
            .filter(|(_, sources)| !sources.is_empty())
        else {
            let message = format!("{name} takes at least one source and a destination");
            return self.refuse(
                "dockerfile::no_destination",
                message,
                &format!("write `{name} source destination`"),
            );
        };
        let plain = matches!(self.instruction.arguments, Arguments::Words(_));
        let is_mark = |word: &Word| {
            plain
                .then(|| heredoc::mark(&word.text).ok().flatten())
                .flatten()
        };
        if is_mark(dest).is_some() {
            let message = format!("the destination of {name} cannot be a heredoc");
            return self.refuse(
                "dockerfile::heredoc_destination",
                message,
                "end the line with a path",
            );
        }
        let mut taken = Vec::new();
        for source in sources {
            match is_mark(source) {
                Some(mark) => {
                    let body = self
                        .instruction
                        .heredocs
                        .iter()
                        .position(|heredoc| heredoc.name == mark.name);
                    taken.extend(body.map(TransferSource::Heredoc));
                }
                None => taken.push(TransferSource::Path(source.clone())),
            }
        }
        let dest = dest.clone();
        Some(Transfer {
            sources: taken,
            dest,
            from,
            chown,
            chmod,
            link,
            parents,
            exclude,
            checksum,
            unpack,
            keep_git_dir,
        })
    }

    fn name_values(&mut self) -> Option<Vec<Pair>> {
        self.flags(&[]);
        let Arguments::Pairs(pairs) = &self.instruction.arguments else {
            return self.nothing_given();
        };
        let name = self.name();
        for pair in pairs {
            if pair.name.text.is_empty() {
                let message = format!("{name} has a value without a name");
                self.problems.push(Problem::error(
                    "dockerfile::no_name",
                    message,
                    pair.value.span,
                ));
            }
        }
        Some(pairs.clone())
    }

    fn argument_names(&mut self) -> Option<Kind> {
        let Arguments::Words(words) = &self.instruction.arguments else {
            return self.nothing_given();
        };
        if words.is_empty() {
            return self.nothing_given();
        }
        let mut arguments = Vec::new();
        for word in words {
            let (name, default) = match word.text.split_once('=') {
                Some((name, value)) => (
                    name,
                    Some(Word {
                        text: value.to_owned(),
                        span: word.span,
                    }),
                ),
                None => (word.text.as_str(), None),
            };
            if name.is_empty() {
                let problem = Problem::error(
                    "dockerfile::no_name",
                    "ARG has a value without a name",
                    word.span,
                );
                self.problems.push(problem.help("write `ARG NAME=default`"));
                continue;
            }
            arguments.push(Argument {
                name: Word {
                    text: name.to_owned(),
                    span: word.span,
                },
                default,
            });
        }
        let names: Vec<&str> = arguments.iter().map(|arg| arg.name.text.as_str()).collect();
        self.check_description("ARG", &names);
        Some(Kind::Arg(arguments))
    }

    /// A comment directly above that describes something else than what is named here.
    fn check_description(&mut self, keyword: &str, names: &[&str]) {
        let Some(comment) = self.instruction.comments.last() else {
            return;
        };
        let first = comment.text.split(' ').next().unwrap_or_default();
        let is_directive = first == "shmocker:"
            || comment
                .text
                .split_once('=')
                .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("check"));
        let is_apart = comment.span.line + 1 != self.instruction.span.line;
        if is_apart || is_directive || names.is_empty() || names.contains(&first) {
            return;
        }
        let example = if names.len() > 1 {
            "<arg_key>"
        } else {
            names[0]
        };
        let message =
            format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        let problem = Problem::warning(
            "InvalidDefinitionDescription",
            message,
            self.instruction.span,
        );
        self.problems
            .push(problem.help("put an empty line below the comment, or begin it with the name"));
    }

    fn nothing_given<T>(&mut self) -> Option<T> {
        let message = format!("{} takes at least one argument", self.name());
        self.refuse(
            "dockerfile::no_arguments",
            message,
            "say what it is about, or take the line away",
        )
    }

    fn one_line(&mut self) -> Option<Word> {
        self.flags(&[]);
        match &self.instruction.arguments {
            Arguments::Line(word) => Some(word.clone()),
            _ => {
                let message = format!("{} takes exactly one argument", self.name());
                self.refuse(
                    "dockerfile::no_arguments",
                    message,
                    "say what it is about, or take the line away",
                )
            }
        }
    }

    fn words(&mut self) -> Option<Vec<Word>> {
        self.flags(&[]);
        match &self.instruction.arguments {
            Arguments::Words(words) | Arguments::Json(words) if !words.is_empty() => {
                Some(words.clone())
            }
            _ => self.nothing_given(),
        }
    }

    fn volumes(&mut self) -> Option<Kind> {
        let words = self.words()?;
        if let Some(word) = words.iter().find(|word| word.text.trim().is_empty()) {
            self.problems.push(Problem::error(
                "dockerfile::volume",
                "a volume needs a path",
                word.span,
            ));
            return None;
        }
        let trimmed = |word: Word| Word {
            text: word.text.trim().to_owned(),
            ..word
        };
        Some(Kind::Volume(words.into_iter().map(trimmed).collect()))
    }

    fn command(&mut self) -> Option<Command> {
        self.flags(&[]);
        Some(self.command_line(&self.instruction.arguments))
    }

    fn command_line(&self, arguments: &Arguments) -> Command {
        match arguments {
            Arguments::Json(words) => Command::Exec(words.clone()),
            Arguments::Line(word) => Command::Shell(word.clone()),
            _ => Command::Shell(Word {
                text: String::new(),
                span: self.instruction.keyword.span,
            }),
        }
    }

    fn shell(&mut self) -> Option<Kind> {
        self.flags(&[]);
        match &self.instruction.arguments {
            Arguments::Json(words) if !words.is_empty() => Some(Kind::Shell(words.clone())),
            Arguments::Line(_) => self.refuse(
                "dockerfile::shell_form",
                "SHELL takes an array".to_owned(),
                "write `SHELL [\"/bin/bash\", \"-c\"]`, in double quotes",
            ),
            _ => self.nothing_given(),
        }
    }

    fn healthcheck(&mut self) -> Option<Kind> {
        let Arguments::Typed(kind, command) = &self.instruction.arguments else {
            return self.nothing_given();
        };
        let empty = Healthcheck {
            command: None,
            interval_ns: 0,
            timeout_ns: 0,
            start_period_ns: 0,
            start_interval_ns: 0,
            retries: 0,
        };
        match kind.text.to_ascii_uppercase().as_str() {
            "NONE" if **command == Arguments::None => return Some(Kind::Healthcheck(empty)),
            "NONE" => {
                let message = "HEALTHCHECK NONE takes no arguments".to_owned();
                return self.refuse(
                    "dockerfile::healthcheck",
                    message,
                    "take away what follows NONE",
                );
            }
            "CMD" => {}
            other => {
                let message = format!("`{other}` is not a kind of HEALTHCHECK");
                return self.refuse(
                    "dockerfile::healthcheck",
                    message,
                    "write `HEALTHCHECK CMD command`, or NONE",
                );
            }
        }
        let mut flags = self.flags(&[
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ]);
        let interval_ns = self.duration(&mut flags, "interval");
        let timeout_ns = self.duration(&mut flags, "timeout");
        let start_period_ns = self.duration(&mut flags, "start-period");
        let start_interval_ns = self.duration(&mut flags, "start-interval");
        let retries = flags.text("retries", self.problems).map_or(0, |word| {
            word.text
                .parse::<u32>()
                .map(u64::from)
                .ok()
                .filter(|n| *n <= i32::MAX as u64)
                .unwrap_or_else(|| {
                    let message = format!("`{}` is not a number of retries", word.text);
                    self.problems.push(Problem::error(
                        "dockerfile::healthcheck",
                        message,
                        word.span,
                    ));
                    0
                })
        });
        let nothing = matches!(&**command, Arguments::None)
            || matches!(&**command, Arguments::Json(words) if words.is_empty());
        if nothing {
            let message = "HEALTHCHECK CMD has no command".to_owned();
            return self.refuse(
                "dockerfile::healthcheck",
                message,
                "say which command tells whether it is healthy",
            );
        }
        let command = Some(self.command_line(command));
        Some(Kind::Healthcheck(Healthcheck {
            command,
            interval_ns,
            timeout_ns,
            start_period_ns,
            start_interval_ns,
            retries,
        }))
    }

    fn duration(&mut self, flags: &mut Flags<'_>, name: &str) -> u64 {
        let word = flags
            .text(name, self.problems)
            .filter(|word| !word.text.is_empty());
        let Some(word) = word else { return 0 };
        match duration::parse_ns(&word.text) {
            Ok(0) => 0,
            Ok(length_ns) if length_ns >= 1_000_000 => length_ns,
            Ok(_) => {
                let message = format!("`{}` is less than a millisecond", word.text);
                self.problems
                    .push(Problem::error("dockerfile::duration", message, word.span));
                0
            }
            Err(error) => {
                self.problems.push(Problem::error(
                    "dockerfile::duration",
                    error.to_string(),
                    word.span,
                ));
                0
            }
        }
    }

    fn on_build(&mut self, escape: char) -> Option<Kind> {
        self.flags(&[]);
        let Arguments::Instruction(trigger) = &self.instruction.arguments else {
            return self.nothing_given();
        };
        let keyword = trigger.keyword.text.to_ascii_uppercase();
        if matches!(keyword.as_str(), "ONBUILD" | "MAINTAINER" | "FROM") {
            let message = format!("{keyword} cannot be a trigger of ONBUILD");
            return self.refuse(
                "dockerfile::onbuild",
                message,
                "a trigger is any other instruction",
            );
        }
        let mut trigger = trigger.clone();
        trigger.heredocs = self.instruction.heredocs.clone();
        give_meaning(&mut trigger, escape, self.problems);
        let mut expression = trigger.original.clone();
        for heredoc in &trigger.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.body);
            expression.push_str(&heredoc.name);
        }
        Some(Kind::OnBuild(OnBuild {
            expression,
            trigger,
        }))
    }
}

/// The mark of a heredoc may have blanks behind its `<<`.
fn joined_marks(words: &[Word]) -> Vec<Word> {
    let mut joined: Vec<Word> = Vec::new();
    for word in words {
        let open = |last: &Word| {
            matches!(
                last.text.trim_start_matches(|c: char| c.is_ascii_digit()),
                "<<" | "<<-"
            )
        };
        match joined.last_mut() {
            Some(last) if open(last) => {
                last.text.push_str(&word.text);
                last.span.end = word.span.end;
            }
            _ => joined.push(word.clone()),
        }
    }
    joined
}
