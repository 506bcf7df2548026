//! The contexts that a build may read: the build context and the named ones, directories of this machine for the most
//! part, each opened once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::{self, Failure, FailureKind};
use super::tree::{Ignore, Tree};
use super::work::{Place, Text, Work};
use crate::digest::Key;
use crate::dockerfile::ignore::IgnoreFile;

/// The code of a failure that says that no context has this name.
pub const NO_CONTEXT: &str = "solve::no_context";

/// What a context turns out to be.
#[derive(Debug, Clone)]
pub enum Context {
    /// A directory of this machine, read in place.
    Directory(Arc<Tree>),
    /// A snapshot of the store; it may be gone.
    Fetched(Key),
    /// Nothing: no context was given.
    Empty,
}

/// The contexts of one build.
#[derive(Debug)]
pub struct Contexts<'a> {
    work: &'a Work,
    opened: Mutex<HashMap<String, Arc<Tree>>>,
}

impl<'a> Contexts<'a> {
    /// Those of this work; none is opened yet.
    #[must_use]
    pub fn of(work: &'a Work) -> Self {
        Self {
            work,
            opened: Mutex::default(),
        }
    }

    /// The context of that name; opened when first asked for. The build context is called `context`.
    ///
    /// # Errors
    /// If there is none, or its directory or ignore file cannot be read.
    pub fn open(&self, name: &str) -> Result<Context, Failure> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = opened.get(name) {
            return Ok(Context::Directory(Arc::clone(context)));
        }
        let named = self
            .work
            .contexts
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, place)| place);
        let place = match (named, &self.work.context) {
            (Some(place), _) => Some(place),
            (None, context) if name == "context" => context.as_ref(),
            (None, _) => None,
        };
        let (path, ignore) = match place {
            Some(Place::Directory { path, ignore }) => (path, ignore),
            Some(Place::Dockerfile(under)) => (&under.directory, &under.ignore),
            Some(Place::Fetched { snapshot, .. }) => return Ok(Context::Fetched(*snapshot)),
            None if name == "context" => return Ok(Context::Empty),
            Some(Place::Source(_)) | None => {
                let message = format!("there is no context `{name}` to copy from");
                return Err(Failure::new(FailureKind::Input, NO_CONTEXT, message)
                    .with_help(format!("name one with `--build-context {name}=DIR`")));
            }
        };
        let ignore = ignore.as_ref().map(read_ignore_file).transpose()?;
        let shown = match name {
            "context" => "the build context".to_owned(),
            name => format!("the context `{name}`"),
        };
        if !path.is_dir() {
            let message = format!("{shown} is not a directory: `{}`", path.display());
            return Err(Failure::new(FailureKind::Input, NO_CONTEXT, message)
                .with_help("name a directory of this machine"));
        }
        let context = Arc::new(Tree::context(path, ignore, &shown)?);
        opened.insert(name.to_owned(), Arc::clone(&context));
        Ok(Context::Directory(context))
    }
}

impl Contexts<'_> {
    /// The way out for someone who wants a path that the context `but` has not: the directory that has it.
    #[must_use]
    pub fn having(&self, path: &str, but: &str) -> Option<String> {
        let named = self.work.contexts.iter().map(|(name, _)| name.as_str());
        let found = std::iter::once("context")
            .chain(named)
            .filter(|name| *name != but)
            .find(|name| match self.open(name) {
                Ok(Context::Directory(directory)) => directory.expect(path).is_ok(),
                _ => false,
            })?;
        Some(match found {
            "context" => "it is in the build context: leave `--from` away".to_owned(),
            name => format!("it is in the context `{name}`: write `--from={name}`"),
        })
    }
}

fn read_ignore_file(text: &Text) -> Result<Ignore, Failure> {
    match IgnoreFile::parse(&text.text) {
        Ok(rules) => Ok(Ignore {
            rules,
            file: text.file.clone(),
        }),
        Err(problems) => {
            let problem = &problems[0];
            let mut failure =
                Failure::new(FailureKind::Input, problem.code, problem.message.clone());
            failure.help = problem.help.as_deref().map(str::to_owned);
            failure.text = Some(text.text.clone());
            Err(failure.at(failure::Place {
                file: text.file.clone(),
                line: problem.span.map_or(1, |span| span.line),
                span: None,
            }))
        }
    }
}
