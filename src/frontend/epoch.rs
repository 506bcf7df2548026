//! SOURCE_DATE_EPOCH: a number of seconds, nothing (which takes back what the file says), or the name of something that has
//! a time: `context`, a named context, or a stage that is one download.

use indexmap::IndexMap;

use super::stages::{Plan, PlannedStage, Tree, named_context};
use super::{Options, git};
use crate::dockerfile::expand::{Keep, expand};
use crate::dockerfile::{Kind, Problem, Transfer, TransferSource};
use crate::graph::{HttpSource, Source};

/// The argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// What an image's times are set to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Epoch {
    /// Nothing.
    #[default]
    None,
    /// Seconds since 1970.
    At(i64),
    /// The time of a commit, or of a download.
    Of(Source),
}

impl Plan<'_> {
    /// Settles what the argument means. Nothing but it sees the value that names something.
    pub(super) fn find_epoch(&mut self, escape: char, options: &Options) {
        let given = options.build_args.get(NAME).cloned();
        let given = given.or_else(|| options.source_date_epoch.map(|epoch| epoch.to_string()));
        let value = given.or_else(|| self.globals.get(NAME).cloned());
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            self.globals.shift_remove(NAME);
            return;
        };
        match self.epoch_of(&value, escape, options) {
            Ok(epoch) => self.epoch = epoch,
            Err(problem) => self.problems.push(*problem),
        }
    }

    fn epoch_of(
        &self,
        value: &str,
        escape: char,
        options: &Options,
    ) -> Result<Epoch, Box<Problem>> {
        if let Ok(seconds) = value.parse() {
            return Ok(Epoch::At(seconds));
        }
        let source = if value == "context" {
            options.contexts.get(value).cloned()
        } else if let Some(source) = named_context(value, &options.platform, options) {
            Some(source)
        } else {
            let name = value.to_lowercase();
            let stage = self
                .stages
                .iter()
                .find(|stage| stage.name.as_deref() == Some(&name));
            let Some(stage) = stage else {
                let message =
                    format!("SOURCE_DATE_EPOCH is `{value}`, which is no number of seconds");
                let problem = Problem::outside("frontend::source_date_epoch", message)
                    .help("give the seconds since 1970, such as `$(git log -1 --format=%ct)`, or name a context or a stage");
                return Err(problem.into());
            };
            Some(self.only_download(stage, escape, options)?)
        };
        // Directories and images have no one time.
        Ok(match source {
            Some(source @ (Source::Git(_) | Source::Http(_))) => Epoch::Of(source),
            _ => Epoch::None,
        })
    }

    /// The one thing that a stage downloads, which is all that it may do.
    fn only_download(
        &self,
        stage: &PlannedStage<'_>,
        escape: char,
        options: &Options,
    ) -> Result<Source, Box<Problem>> {
        let span = stage.from.span;
        let wrong = |message: String, span| {
            Box::new(
                Problem::error("frontend::source_date_epoch", message, span)
                    .label("SOURCE_DATE_EPOCH names this stage")
                    .help("such a stage is FROM scratch, and one ADD of a URL or a git repository"),
            )
        };
        if stage.base != Ok(Tree::Scratch) {
            return Err(wrong(
                "the stage does not start from scratch".to_owned(),
                span,
            ));
        }
        let mut env = self.globals.clone();
        env.shift_remove(NAME);
        let mut found = None;
        for instruction in stage.instructions {
            match &instruction.kind {
                Kind::Arg(arguments) => {
                    for argument in arguments {
                        let name = &argument.name.text;
                        let value = match (options.build_args.get(name), &argument.default) {
                            (Some(given), _) => given.clone(),
                            (None, None) => continue,
                            (None, Some(default)) => {
                                expand(&default.text, escape, &env, Keep::Nothing)
                                    .map_err(|error| wrong(error.to_string(), default.span))?
                                    .text
                            }
                        };
                        env.insert(name.clone(), value);
                    }
                }
                Kind::Add(add) if found.is_none() => {
                    let source = download(add, escape, &env)
                        .map_err(|reason| wrong(reason, instruction.span))?;
                    found = Some(source);
                }
                _ => {
                    let message = format!(
                        "{} in a stage that is there for its time",
                        instruction.keyword.text.to_uppercase()
                    );
                    return Err(wrong(message, instruction.span));
                }
            }
        }
        found.ok_or_else(|| wrong("the stage downloads nothing".to_owned(), span))
    }
}

fn download(
    add: &Transfer,
    escape: char,
    env: &IndexMap<String, String>,
) -> Result<Source, String> {
    let [TransferSource::Path(word)] = add.sources.as_slice() else {
        return Err("ADD takes more than one download".to_owned());
    };
    let expanded = |text: &str| {
        expand(text, escape, env, Keep::Nothing)
            .map(|expansion| expansion.text)
            .map_err(|error| error.to_string())
    };
    let url = expanded(&word.text)?;
    let checksum = match &add.checksum {
        Some(flag) => Some(expanded(&flag.text)?).filter(|checksum| !checksum.is_empty()),
        None => None,
    };
    if let Some(reference) = git::reference(&url)? {
        let source = reference.source(add.keep_git_dir, checksum.as_deref())?;
        return Ok(Source::Git(source));
    }
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(Source::Http(HttpSource { url, checksum }));
    }
    Err(format!("`{url}` is no download"))
}
