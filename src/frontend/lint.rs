//! Warnings that fall out of lowering, under the names that BuildKit's checks have.

use std::collections::{BTreeMap, BTreeSet};

use super::stage::{Lowerer, Work};
use super::stages::{Plan, PlannedStage, Tree, predefined};
use super::{Options, Platform, ports};
use crate::dockerfile::expand::{Expansion, Keep, expand};
use crate::dockerfile::suggest::nearest;
use crate::dockerfile::{Dockerfile, From, Instruction, Kind, Problem, Span, Word};
use crate::graph::{ImageSource, Source};
use crate::image::{ImageConfig, Name};

/// Where the instructions stand of which only the last counts.
#[derive(Debug, Default)]
pub(super) struct SeenOnce(BTreeMap<String, Span>);

impl SeenOnce {
    pub(super) fn has(&self, keyword: &str) -> bool {
        self.0.contains_key(keyword)
    }
}

/// Names and casing of stages and instructions.
pub(super) fn stages(plan: &mut Plan<'_>) {
    let mut warnings = Vec::new();
    let mut names = BTreeSet::new();
    for stage in &plan.stages {
        let Some(name) = &stage.name else { continue };
        if matches!(name.as_str(), "context" | "scratch") {
            let message =
                format!("Stage name should not use the same name as reserved stage \"{name}\"");
            warnings.push(Problem::warning(
                "ReservedStageName",
                message,
                stage.from.span,
            ));
        }
        if !names.insert(name) {
            let message = format!("Duplicate stage name \"{name}\", stage names should be unique");
            warnings.push(Problem::warning(
                "DuplicateStageName",
                message,
                stage.from.span,
            ));
        }
    }
    let keywords: Vec<&Word> = plan
        .stages
        .iter()
        .flat_map(|stage| std::iter::once(stage.from).chain(stage.instructions))
        .map(|instruction| &instruction.keyword)
        .collect();
    let lower = keywords
        .iter()
        .filter(|word| word.text == word.text.to_lowercase())
        .count();
    let upper = keywords
        .iter()
        .filter(|word| word.text == word.text.to_uppercase())
        .count();
    let (casing, right): (&str, fn(&str) -> String) = if lower > upper {
        ("lowercase", str::to_lowercase)
    } else {
        ("uppercase", str::to_uppercase)
    };
    for word in keywords
        .iter()
        .filter(|word| word.text != right(&word.text))
    {
        let message = format!(
            "Command '{}' should match the case of the command majority ({casing})",
            word.text
        );
        warnings.push(Problem::warning(
            "ConsistentInstructionCasing",
            message,
            word.span,
        ));
    }
    plan.problems.append(&mut warnings);
}

/// Bases that are the name of no image where no argument is given.
pub(super) fn default_bases(plan: &mut Plan<'_>, dockerfile: &Dockerfile, options: &Options) {
    let escape = dockerfile.directives.escape;
    let mut defaults = predefined(dockerfile, options);
    let head = dockerfile
        .instructions
        .iter()
        .take_while(|instruction| !matches!(instruction.kind, Kind::From(_)));
    for argument in head.flat_map(|instruction| match &instruction.kind {
        Kind::Arg(arguments) => arguments.as_slice(),
        _ => &[],
    }) {
        let Some(default) = &argument.default else {
            continue;
        };
        // What cannot be expanded is an error of its own.
        let Ok(value) = expand(&default.text, escape, &defaults, Keep::Nothing) else {
            return;
        };
        defaults.insert(argument.name.text.clone(), value.text);
    }
    for stage in &plan.stages {
        let Kind::From(from) = &stage.from.kind else {
            continue;
        };
        let Ok(base) = expand(&from.base.text, escape, &defaults, Keep::Nothing) else {
            return;
        };
        if base.text.parse::<Name>().is_err() {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                from.base.text
            );
            plan.problems.push(Problem::warning(
                "InvalidDefaultArgInFrom",
                message,
                stage.from.span,
            ));
        }
    }
}

/// `FROM --platform` that says nothing, or a constant.
pub(super) fn from_platform(
    plan: &mut Plan<'_>,
    word: &Word,
    expanded: &Expansion,
    platform: &Platform,
    parsed: &From,
) {
    let only_target = expanded.used.len() == 1
        && expanded.used.contains("TARGETPLATFORM")
        && expanded.unset.is_empty();
    if only_target && plan.globals.get("TARGETPLATFORM") == Some(&expanded.text) {
        let message = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.text
        );
        plan.problems.push(Problem::warning(
            "RedundantTargetPlatform",
            message,
            word.span,
        ));
    }
    let name = parsed.name.as_ref().map_or("", |name| name.text.as_str());
    let constant = expanded.used.is_empty() && expanded.unset.is_empty();
    if constant && !name.contains(&platform.os) && !name.contains(&platform.architecture) {
        let message = format!(
            "FROM --platform flag should not use constant value \"{}\"",
            expanded.text
        );
        plan.problems.push(Problem::warning(
            "FromPlatformFlagConstDisallowed",
            message,
            word.span,
        ));
    }
}

/// A base for another platform than the build's.
pub(super) fn base_platform(
    lowerer: &mut Lowerer<'_>,
    planned: &PlannedStage<'_>,
    config: &ImageConfig,
) {
    let Ok(Tree::Source(Source::Image(ImageSource { name, .. }))) = &planned.base else {
        return;
    };
    let actual = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    let expected = planned.platform.as_ref();
    let expected = expected.unwrap_or(&lowerer.options.platform).normalised();
    if !actual.os.is_empty()
        && (&actual.os, &actual.architecture) != (&expected.os, &expected.architecture)
    {
        let message = format!(
            "Base image {} was pulled with platform \"{actual}\", expected \"{expected}\" for current build",
            Name::familiar(name)
        );
        lowerer.warnings.push(Problem::warning(
            "InvalidBaseImagePlatform",
            message,
            planned.from.span,
        ));
    }
}

/// Variables that nothing sets.
pub(super) fn undefined(
    lowerer: &mut Lowerer<'_>,
    work: &Work<'_>,
    unset: &BTreeSet<String>,
    span: Span,
) {
    // What a base sets that is not known cannot be told from what nothing sets.
    if !work.state.env_known {
        return;
    }
    for name in unset
        .iter()
        .filter(|name| !work.state.args.contains_key(*name))
    {
        let known = work.state.env.keys().map(String::as_str);
        let near =
            nearest(name, known).map_or(String::new(), |near| format!(" (did you mean ${near}?)"));
        let message = format!("Usage of undefined variable '${name}'{near}");
        lowerer.warn(work, Problem::warning("UndefinedVar", message, span));
    }
}

/// ARG and ENV end up in the image's history.
pub(super) fn secret_name(
    lowerer: &mut Lowerer<'_>,
    work: &Work<'_>,
    keyword: &str,
    name: &str,
    span: Span,
) {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&HARMLESS) {
        let message =
            format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        let problem = Problem::warning("SecretsUsedInArgOrEnv", message, span);
        lowerer.warn(
            work,
            problem.help("mount it where it is used: `RUN --mount=type=secret,id=…`"),
        );
    }
}

/// `ENV NAME value`, where `NAME=value` says it better.
pub(super) fn legacy_pair(lowerer: &mut Lowerer<'_>, work: &Work<'_>, instruction: &Instruction) {
    let keyword = &instruction.keyword.text;
    let message = format!(
        "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
    );
    lowerer.warn(
        work,
        Problem::warning("LegacyKeyValueFormat", message, instruction.span),
    );
}

/// COPY or ADD of a path of the context that the ignore file leaves out. With exceptions in it nothing is certain.
pub(super) fn ignored(
    lowerer: &mut Lowerer<'_>,
    work: &Work<'_>,
    verb: &str,
    path: &str,
    span: Span,
) {
    let ignore = &lowerer.options.ignore;
    let path = match super::path::absolute("/", path) {
        root if root == "/" => ".".to_owned(),
        path => path[1..].to_owned(),
    };
    let everything = || {
        ignore
            .patterns()
            .iter()
            .any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*"))
    };
    let left_out = if path == "." {
        everything()
    } else {
        ignore.decide(&path).excluded
    };
    if left_out && !ignore.has_exceptions() {
        let message =
            format!("Attempting to {verb} file \"{path}\" that is excluded by .dockerignore");
        lowerer.warn(work, Problem::warning("CopyIgnoredFile", message, span));
    }
}

/// A shell between a container and its signals.
pub(super) fn json_recommended(
    lowerer: &mut Lowerer<'_>,
    work: &Work<'_>,
    instruction: &Instruction,
) {
    if work
        .state
        .image
        .config
        .shell
        .as_ref()
        .is_none_or(Vec::is_empty)
    {
        let message = format!(
            "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
            instruction.keyword.text
        );
        lowerer.warn(
            work,
            Problem::warning("JSONArgsRecommended", message, instruction.span),
        );
    }
}

/// CMD, ENTRYPOINT and HEALTHCHECK: only the last of a stage counts.
pub(super) fn seen_once(lowerer: &mut Lowerer<'_>, work: &mut Work<'_>, instruction: &Instruction) {
    let keyword = instruction.keyword.text.to_uppercase();
    if let Some(before) = work.seen.0.insert(keyword, instruction.span) {
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            instruction.keyword.text
        );
        lowerer.warn(
            work,
            Problem::warning("MultipleInstructionsDisallowed", message, before),
        );
    }
}

/// A WORKDIR that hangs on what the base happens to have.
pub(super) fn relative_workdir(
    lowerer: &mut Lowerer<'_>,
    work: &mut Work<'_>,
    path: &str,
    span: Span,
) {
    if !work.state.workdir_given && !path.starts_with('/') {
        let message = format!(
            "Relative workdir \"{path}\" can have unexpected results if the base image changes"
        );
        lowerer.warn(work, Problem::warning("WorkdirRelativePath", message, span));
    }
    work.state.workdir_given = true;
}

/// EXPOSE that says more than a port.
pub(super) fn exposed(
    lowerer: &mut Lowerer<'_>,
    work: &Work<'_>,
    text: &str,
    found: &ports::Ports,
    span: Span,
) {
    if found.names_host {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
        );
        lowerer.warn(work, Problem::warning("ExposeInvalidFormat", message, span));
    }
    if found.odd_protocol {
        let message =
            format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
        lowerer.warn(work, Problem::warning("ExposeProtoCasing", message, span));
    }
}
