//! The instructions that change the configuration and make no layer, and WORKDIR.

use super::history::{plain_list, quoted_list};
use super::path::absolute;
use super::run::in_shell;
use super::stage::{Lowerer, Work};
use super::{epoch, lint, ports};
use crate::dockerfile::expand::{Keep, expand};
use crate::dockerfile::{
    Argument, Command, Healthcheck, Instruction, Kind, Pair, PairForm, Problem, Word, duration,
};
use crate::graph::{Mkdir, Op};
use crate::image::{Empty, Healthcheck as ConfigHealthcheck};

/// Arguments that say something to the builder and that no instruction sees.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

impl Lowerer<'_> {
    pub(super) fn metadata(&mut self, work: &mut Work<'_>, instruction: &Instruction) {
        match &instruction.kind {
            Kind::Env(pairs) => {
                self.legacy(work, instruction, pairs);
                self.env(work, pairs);
            }
            Kind::Label(pairs) => {
                self.legacy(work, instruction, pairs);
                self.label(work, pairs);
            }
            Kind::Arg(arguments) => self.arg(work, instruction, arguments),
            Kind::Workdir(path) => self.workdir(work, instruction, path),
            Kind::User(user) => self.user(work, user),
            Kind::Cmd(command) => self.cmd(work, instruction, command),
            Kind::Entrypoint(command) => self.entrypoint(work, instruction, command),
            Kind::Shell(words) => shell(work, words),
            Kind::Expose(words) => self.expose(work, words),
            Kind::Volume(words) => self.volume(work, words),
            Kind::StopSignal(signal) => self.stop_signal(work, signal),
            Kind::Healthcheck(check) => self.healthcheck(work, instruction, check),
            Kind::Maintainer(author) => {
                work.state.image.author = Some(author.text.clone());
                work.state.record(format!("MAINTAINER {}", author.text));
            }
            _ => {}
        }
    }

    fn legacy(&mut self, work: &Work<'_>, instruction: &Instruction, pairs: &[Pair]) {
        if pairs.iter().any(|pair| pair.form == PairForm::Blank) {
            lint::legacy_pair(self, work, instruction);
        }
    }

    /// All values are expanded before any is set.
    fn expanded_pairs(&mut self, work: &Work<'_>, pairs: &[Pair]) -> Option<Vec<(String, String)>> {
        pairs
            .iter()
            .map(|pair| {
                Some((
                    self.expand(work, &pair.name)?,
                    self.expand(work, &pair.value)?,
                ))
            })
            .collect()
    }

    fn env(&mut self, work: &mut Work<'_>, pairs: &[Pair]) {
        let Some(expanded) = self.expanded_pairs(work, pairs) else {
            return;
        };
        let mut said = "ENV".to_owned();
        for ((name, value), pair) in expanded.into_iter().zip(pairs) {
            lint::secret_name(self, work, "ENV", &name, pair.name.span);
            said.push_str(&format!(" {name}={value}"));
            let entry = format!("{name}={value}");
            let env = &mut work.state.image.config.env;
            match env
                .iter_mut()
                .find(|entry| entry.split('=').next() == Some(&name))
            {
                Some(known) => *known = entry,
                None => env.push(entry),
            }
            work.state.env.insert(name, value);
        }
        work.state.record(said);
    }

    fn label(&mut self, work: &mut Work<'_>, pairs: &[Pair]) {
        let Some(expanded) = self.expanded_pairs(work, pairs) else {
            return;
        };
        let mut said = "LABEL".to_owned();
        for (name, value) in expanded {
            said.push_str(&format!(" {name}={value}"));
            work.state
                .image
                .config
                .labels
                .get_or_insert_default()
                .insert(name, value);
        }
        work.state.record(said);
    }

    fn arg(&mut self, work: &mut Work<'_>, instruction: &Instruction, arguments: &[Argument]) {
        let mut said = Vec::new();
        for Argument { name, default } in arguments {
            let key = name.text.as_str();
            self.used_args.insert(key.to_owned());
            lint::secret_name(self, work, "ARG", key, name.span);
            let value = match (self.given(key), default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => match self.expand(work, default) {
                    Some(value) => Some(value),
                    None => continue,
                },
                (None, None) => self.taken(key),
            };
            said.push(match &value {
                Some(value) => format!("{key}={value}"),
                None => key.to_owned(),
            });
            let is_taken = default.is_none() && self.given(key).is_none() && value.is_some();
            if is_taken {
                self.asked.taken(work.index, key);
            } else {
                self.asked.arg(work.index, instruction, key, value.as_ref());
            }
            if let Some(value) = value.as_ref().filter(|_| !NO_VARIABLES.contains(&key)) {
                work.state.env.insert(key.to_owned(), value.clone());
            }
            work.state.args.insert(key.to_owned(), value);
        }
        work.state.record(format!("ARG {}", said.join(" ")));
    }

    /// What the head of the file says of an argument.
    fn taken(&self, name: &str) -> Option<String> {
        let value = self.plan.globals.get(name)?;
        if name == epoch::NAME {
            return self.plan.seconds().map(|epoch| epoch.to_string());
        }
        Some(value.clone())
    }

    /// What was given for an argument from outside.
    fn given(&self, name: &str) -> Option<String> {
        if name == epoch::NAME
            && (self.options.build_args.contains_key(name)
                || self.options.source_date_epoch.is_some())
        {
            return self.plan.seconds().map(|epoch| epoch.to_string());
        }
        self.options
            .build_args
            .get(name)
            .or_else(|| self.options.proxies.get(name))
            .cloned()
    }

    fn workdir(&mut self, work: &mut Work<'_>, instruction: &Instruction, path: &Word) {
        let Some(written) = self.expand(work, path) else {
            return;
        };
        lint::relative_workdir(self, work, &written, path.span);
        let absolute = absolute(work.state.workdir(), &written);
        // An absolute one stays as it is written: a slash at its end, too.
        let kept = if written.starts_with('/') {
            written
        } else {
            absolute.clone()
        };
        let said = format!("WORKDIR {kept}");
        work.state.image.config.working_dir = kept;
        if absolute == "/" {
            return work.state.record(said);
        }
        let user = work.state.image.config.user.clone();
        let op = Op::Mkdir(Mkdir {
            root: work.state.node,
            path: absolute,
            user,
            mode: 0o755,
        });
        self.step(work, instruction, op);
        work.state.record_layer(said);
    }

    fn user(&mut self, work: &mut Work<'_>, user: &Word) {
        let Some(user) = self.expand(work, user) else {
            return;
        };
        work.state.image.config.user = user.clone();
        work.state.record(format!("USER {user}"));
    }

    /// A command of the configuration, in the stage's shell if it is for a shell.
    fn configured(
        &mut self,
        work: &Work<'_>,
        instruction: &Instruction,
        command: &Command,
    ) -> Vec<String> {
        match command {
            Command::Exec(words) => texts(words),
            Command::Shell(line) => {
                lint::json_recommended(self, work, instruction);
                in_shell(work, line.text.clone())
            }
        }
    }

    fn cmd(&mut self, work: &mut Work<'_>, instruction: &Instruction, command: &Command) {
        lint::seen_once(self, work, instruction);
        let argv = self.configured(work, instruction, command);
        work.state.record(format!("CMD {}", quoted_list(&argv)));
        work.state.image.config.args_escaped = Some(true);
        work.state.image.config.cmd = Some(argv).filter(|argv| !argv.is_empty());
    }

    fn entrypoint(&mut self, work: &mut Work<'_>, instruction: &Instruction, command: &Command) {
        lint::seen_once(self, work, instruction);
        let argv = self.configured(work, instruction, command);
        work.state
            .record(format!("ENTRYPOINT {}", quoted_list(&argv)));
        work.state.image.config.entrypoint = Some(argv).filter(|argv| !argv.is_empty());
        if !work.seen.has("CMD") {
            work.state.image.config.cmd = None;
        }
    }

    fn expose(&mut self, work: &mut Work<'_>, words: &[Word]) {
        let mut sorted: Vec<&Word> = words.iter().collect();
        sorted.sort_by(|a, b| a.text.cmp(&b.text));
        let mut ports = Vec::new();
        for word in sorted {
            // As in BuildKit, nothing is said of a variable that nothing sets: it is no port.
            let expanded = expand(&word.text, self.escape, &work.state.env, Keep::Nothing);
            let expansion = match expanded {
                Ok(expansion) => expansion,
                Err(error) => {
                    let problem = Problem::error("frontend::expand", error.to_string(), word.span);
                    return self.fail(work, problem);
                }
            };
            for text in expansion.words {
                match ports::parse(&text) {
                    Ok(found) => {
                        lint::exposed(self, work, &text, &found, word.span);
                        ports.extend(found.ports);
                    }
                    Err(reason) => {
                        let problem = Problem::error("frontend::expose", reason, word.span);
                        self.fail(
                            work,
                            problem.help("write `EXPOSE 80`, `80/udp` or `3000-3005`"),
                        );
                        return;
                    }
                }
            }
        }
        work.state.record(format!("EXPOSE {}", plain_list(&ports)));
        let exposed = work
            .state
            .image
            .config
            .exposed_ports
            .get_or_insert_default();
        exposed.extend(ports.into_iter().map(|port| (port, Empty {})));
    }

    fn volume(&mut self, work: &mut Work<'_>, words: &[Word]) {
        let Some(paths) = self.expand_all(work, words) else {
            return;
        };
        if let Some(at) = paths.iter().position(String::is_empty) {
            let problem =
                Problem::error("frontend::volume", "a volume needs a path", words[at].span);
            return self.fail(work, problem);
        }
        work.state.record(format!("VOLUME {}", plain_list(&paths)));
        let volumes = work.state.image.config.volumes.get_or_insert_default();
        volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
    }

    fn stop_signal(&mut self, work: &mut Work<'_>, word: &Word) {
        let Some(signal) = self.expand(work, word) else {
            return;
        };
        if !is_signal(&signal) {
            let problem = Problem::error(
                "frontend::signal",
                format!("`{signal}` is no signal"),
                word.span,
            );
            return self.fail(
                work,
                problem.help("write a name, such as `SIGTERM`, or a number"),
            );
        }
        work.state.record(format!("STOPSIGNAL {signal}"));
        work.state.image.config.stop_signal = Some(signal);
    }

    fn healthcheck(&mut self, work: &mut Work<'_>, instruction: &Instruction, check: &Healthcheck) {
        lint::seen_once(self, work, instruction);
        let test = match &check.command {
            None => vec!["NONE".to_owned()],
            Some(Command::Exec(words)) => std::iter::once("CMD".to_owned())
                .chain(texts(words))
                .collect(),
            Some(Command::Shell(line)) => vec!["CMD-SHELL".to_owned(), line.text.clone()],
        };
        let print = duration::print_ns;
        work.state.record(format!(
            "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
            plain_list(&test),
            print(check.interval_ns),
            print(check.timeout_ns),
            print(check.start_period_ns),
            print(check.start_interval_ns),
            check.retries,
        ));
        work.state.image.config.healthcheck = Some(ConfigHealthcheck {
            test,
            interval: check.interval_ns,
            timeout: check.timeout_ns,
            start_period: check.start_period_ns,
            start_interval: check.start_interval_ns,
            retries: check.retries,
        });
    }
}

fn shell(work: &mut Work<'_>, words: &[Word]) {
    let shell = texts(words);
    work.state.record(format!("SHELL {}", plain_list(&shell)));
    work.state.image.config.shell = Some(shell);
}

fn texts(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

const SIGNALS: [&str; 35] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN",
];

/// Linux's signals, by name or number.
fn is_signal(text: &str) -> bool {
    // A container's kernel may have other numbers than this one.
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, limit: u32| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| (1..=limit).contains(&n))
    };
    SIGNALS.contains(&name) || name == "RTMAX" || real_time("RTMIN+", 15) || real_time("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::is_signal;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, known) in [
            ("SIGTERM", true),
            ("term", true),
            ("9", true),
            ("SIGRTMIN+3", true),
            ("0", false),
            ("99", true),
            ("SIGNOPE", false),
        ] {
            assert_eq!(is_signal(text), known, "{text}");
        }
    }
}
