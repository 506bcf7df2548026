//! Services: programs that run beside those who name them in `needs`, in the same sandbox.
//!
//! A step that needs some is run by root, whose shell starts the services, waits for them, runs the step as its own user,
//! and stops them. All of that is a shell script which the Dockerfile carries, `launch`; so it is the same whichever builder
//! runs it. Each service is a stage of its own, mounted by the steps that need it: a change of one reaches nobody else.
//!
//! What a service writes while a step runs is part of the step's result, like anything else that is written then: a
//! database that a script fills is in the image. Only what appears in /run meanwhile (sockets, pid files) is removed again.

use serde_json::{Value, json};

use super::check::Check;
use super::keys::{Command, Duration, OneOrMore, Text, keys};
use super::plan::{Planner, Stage, State, Step};
use super::quote;
use super::steps::{LOAD, default_shell};

/// How long a service may take until it can be used, in milliseconds.
const READY_WITHIN_MS: u64 = 60_000;
/// Where the launcher and the services are seen by a step. /dev is part of no image.
const MOUNTED: &str = "/dev/habitat";
/// Where they are in the image.
const INSTALLED: &str = "/etc/habitat";
/// The stage with the launcher.
const LAUNCHER: &str = "launcher";

keys! {
    /// A program that runs beside those that need it, in their sandbox. It is started, awaited, and stopped after them.
    Service is "a service" {
        /// What `needs` calls it: `[a-z0-9][a-z0-9._-]*`.
        name: Text = "name",
        /// What is run, by `sh`, for as long as it is needed. Only `{env.NAME}` is expanded.
        command: Command = "command",
        /// Who runs it, and `ready`: `user` or `user:group`; without it USER.
        run_as: Option<Text> = "run_as",
        /// Succeeds as soon as it can be used; without it, it can be used once it is started.
        ready: Option<Command> = "ready",
        /// How long it may take until it can be used (default 1m), in whole seconds.
        timeout: Option<Duration> = "timeout",
    }
}

impl Check<'_> {
    pub(super) fn services(&mut self) {
        let services = &self.document.services.0;
        for (index, service) in services.iter().enumerate() {
            let name = &service.name;
            let letter = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit();
            if !name.value.starts_with(letter)
                || !name
                    .value
                    .chars()
                    .all(|it| letter(it) || "._-".contains(it))
            {
                self.report
                    .error(
                        "habitat::bad_name",
                        name.span,
                        format!("`{}` cannot be the name of a service", name.value),
                    )
                    .label(
                        "lower-case letters, digits, `.`, `_` and `-`, and a letter or digit first",
                    );
            }
            if services[..index]
                .iter()
                .any(|earlier| earlier.name.value == name.value)
            {
                self.report
                    .error(
                        "habitat::duplicate",
                        name.span,
                        format!("the service `{}` is given twice", name.value),
                    )
                    .label("this is the second time");
            }
            if service.command.0.value.trim().is_empty() {
                self.report
                    .error(
                        "habitat::bad_value",
                        service.command.0.span,
                        format!("the service `{}` has an empty command", name.value),
                    )
                    .label("what is to be run?");
            }
            service.run_as.iter().for_each(|user| self.owner(user));
        }
        let document = self.document;
        let scripts = document.scripts.0.iter().map(|script| &script.needs);
        let tests = document.tests.0.iter().map(|test| &test.needs);
        for needed in scripts.chain(tests).flatten().flat_map(|needs| &needs.0) {
            let known = || services.iter().map(|service| service.name.as_str());
            if !known().any(|name| name == needed.value) {
                self.report
                    .error(
                        "habitat::unknown_service",
                        needed.span,
                        format!("unknown service `{}`", needed.value),
                    )
                    .label("no item of `services` has this name")
                    .near(&needed.value, known(), "add it to `services`");
            }
        }
    }
}

impl Planner<'_> {
    /// Lets a step run beside the services that it needs. Its shell becomes the launcher, so that its command stays what
    /// it is.
    pub(super) fn beside_services(&mut self, needs: &OneOrMore<Text>, step: Step) -> Step {
        let names: Vec<&str> = needs.0.iter().map(Text::as_str).collect();
        let user = step
            .user
            .clone()
            .unwrap_or_else(|| self.habitat.user.clone());
        let shell = match step.shell {
            Some(shell) if shell != default_shell() => shell,
            _ => Vec::new(),
        };
        let launch = format!(
            "exec sh {MOUNTED}/launch {} {}",
            quote::shell(&user),
            names.join(",")
        );
        let shell = match shell.as_slice() {
            // The script's own shell: `/bin/sh -c 'LOAD; exec SHELL -c "$0"'`.
            [_, _, own] => own.replace("; exec ", &format!("; {launch} ")),
            _ => format!(
                "{LOAD}; if command -v bash >/dev/null; then set -- bash -eo pipefail; else set -- sh -e; fi; \
                 {launch} \"$@\" -c \"$0\""
            ),
        };
        let mut values = step.values;
        if let Some(Value::Array(flags)) = values.get_mut("flags") {
            flags.splice(
                0..0,
                self.service_mounts(&names).into_iter().map(Value::from),
            );
        }
        Step {
            user: Some("root".to_owned()),
            shell: Some(["/bin/sh".to_owned(), "-c".to_owned(), shell].into()),
            values,
            ..step
        }
    }

    fn service_mounts(&mut self, names: &[&str]) -> Vec<String> {
        self.add_launcher();
        let mut mounts = vec![format!(
            "--mount=type=bind,from={LAUNCHER},source=/launch,target={MOUNTED}/launch"
        )];
        let services = &self.habitat.document.services.0;
        for service in services
            .iter()
            .filter(|service| names.contains(&service.name.as_str()))
        {
            self.add_service(service);
            let name = &service.name.value;
            mounts.push(format!(
                "--mount=type=bind,from=service-{name},source=/service,target={MOUNTED}/services/{name}"
            ));
        }
        mounts
    }

    /// What the image carries, so that its services can be started when it runs.
    pub(super) fn installed_services(&mut self) -> Vec<Step> {
        let services = &self.habitat.document.services.0;
        if services.is_empty() {
            return Vec::new();
        }
        self.add_launcher();
        let copy = |stage: &str, source: &str, dest: &str, said: String| {
            let values = json!({ "flags": [format!("--from={stage}")], "paths": format!("{source} {INSTALLED}/{dest}") });
            Step::of("copy.j2", said, values)
        };
        let mut steps = vec![copy(
            LAUNCHER,
            "/launch",
            "launch",
            "what starts the services".to_owned(),
        )];
        for service in services {
            self.add_service(service);
            let name = &service.name.value;
            let said = format!("the service {name}");
            steps.push(
                copy(
                    &format!("service-{name}"),
                    "/service",
                    &format!("services/{name}"),
                    said,
                )
                .at(service.span),
            );
        }
        steps
    }

    fn add_launcher(&mut self) {
        let step = Step::of(
            "launch.j2",
            "what runs a step beside its services",
            json!({}),
        );
        self.add_stage(LAUNCHER, step);
    }

    fn add_service(&mut self, service: &Service) {
        let text = |command: &Command| quote::shell(command.0.value.trim_end());
        let within = service.timeout.map_or(READY_WITHIN_MS, |limit| limit.ms);
        let (command, ready) = (text(&service.command), service.ready.as_ref().map(text));
        let ready = ready.unwrap_or_else(|| "''".to_owned());
        let values = json!({
            "run_as": service.run_as.as_ref().map_or(self.habitat.user.as_str(), Text::as_str),
            "end": quote::end_of_text("SERVICE", &format!("{command}\n{ready}")),
            "command": command,
            "ready": ready,
            "seconds": within.div_ceil(1000),
        });
        let said = format!("the service {}", service.name.value);
        let step = Step::of("service.j2", said, values).at(service.span);
        self.add_stage(&format!("service-{}", service.name.value), step);
    }

    /// A stage with one file in it, unless it is there already.
    fn add_stage(&mut self, name: &str, step: Step) {
        let earlier = self.phases.iter().flat_map(|phase| &phase.stages);
        if earlier
            .chain(&self.prepared)
            .all(|stage| stage.name != name)
        {
            let mut stage = Stage::new(name, "scratch", State::default());
            stage.push(step);
            self.prepared.push(stage);
        }
    }
}
