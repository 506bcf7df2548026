//! SOURCE_DATE_EPOCH that is no number: the time of the build context, of a named context, or of the one thing that a
//! stage fetches. What has that time is said here; the caller finds the time out, and lowers with the number.

use super::Options;
use super::copy::remote_source;
use super::stages::{Epoch, Plan};
use crate::dockerfile::expand::{Keep, expand};
use crate::dockerfile::{Argument, Dockerfile, Kind, Problem, TransferSource, Word};
use crate::graph::Source;

/// The argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What a build takes its time from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeSource {
    /// The build context.
    Context,
    /// Something else from outside.
    Source(Source),
}

/// What SOURCE_DATE_EPOCH names; `None` where it is a number or not given, or names nothing, which lowering says.
///
/// # Errors
/// If it names a stage that does more than fetch one thing.
pub fn epoch_source(
    dockerfile: &Dockerfile,
    options: &Options,
) -> Result<Option<TimeSource>, Problem> {
    let plan = Plan::of(dockerfile, options);
    match &plan.epoch {
        None | Some(Epoch::Seconds(_)) => Ok(None),
        Some(Epoch::Context) => Ok(Some(TimeSource::Context)),
        Some(Epoch::Source(source)) => Ok(Some(TimeSource::Source(source.clone()))),
        Some(Epoch::Stage(index)) => of_stage(&plan, *index, dockerfile, options)
            .map(|source| Some(TimeSource::Source(source))),
    }
}

/// The one thing that a stage fetches.
fn of_stage(
    plan: &Plan<'_>,
    index: usize,
    dockerfile: &Dockerfile,
    options: &Options,
) -> Result<Source, Problem> {
    let stage = &plan.stages[index];
    let wrong = |message: &str, span| {
        Problem::error("frontend::source_date_epoch", message, span)
            .label("SOURCE_DATE_EPOCH names this stage")
            .help("a stage has a time if it is `FROM scratch` and one `ADD` of a URL or of a git repository")
    };
    if !matches!(stage.base, Ok(super::stages::Tree::Scratch)) {
        let message = "a SOURCE_DATE_EPOCH stage must use FROM scratch";
        return Err(wrong(message, stage.from.span));
    }
    let escape = dockerfile.directives.escape;
    let mut known = plan.globals.clone();
    known.shift_remove(NAME);
    let mut found = None;
    for instruction in stage.instructions {
        match &instruction.kind {
            Kind::Arg(arguments) => {
                for Argument { name, default } in arguments {
                    let given = options.build_args.get(&name.text).cloned();
                    let value = given.or_else(|| {
                        let default = default.as_ref()?;
                        let expanded = expand(&default.text, escape, &known, Keep::Nothing);
                        expanded.ok().map(|expansion| expansion.text)
                    });
                    if let Some(value) = value {
                        known.insert(name.text.clone(), value);
                    }
                }
            }
            Kind::Add(add) => {
                let one = "a SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
                let expanded = |word: &Word| {
                    expand(&word.text, escape, &known, Keep::Nothing)
                        .map(|expansion| expansion.text)
                        .map_err(|error| wrong(&error.to_string(), word.span))
                };
                let ([TransferSource::Path(path)], None) = (add.sources.as_slice(), &found) else {
                    return Err(wrong(one, instruction.span));
                };
                let checksum = add.checksum.as_ref().map(expanded).transpose()?;
                let source = remote_source(&expanded(path)?, add.keep_git_dir, checksum.as_deref())
                    .map_err(|reason| wrong(&reason, path.span))?;
                found = Some(source.ok_or_else(|| wrong(one, path.span))?);
            }
            _ => {
                let message = format!(
                    "a SOURCE_DATE_EPOCH stage must do nothing but fetch: {} is too much",
                    instruction.keyword.text
                );
                return Err(wrong(&message, instruction.span));
            }
        }
    }
    found.ok_or_else(|| {
        let message = "a SOURCE_DATE_EPOCH stage must contain exactly one remote ADD";
        wrong(message, stage.from.span)
    })
}
