//! Dockerfiles as values: text to [`Dockerfile`] and back. Lossless, with a span on everything; a file with mistakes is
//! read to its end, and all of them are reported at once.
//!
//! Also here is what Dockerfiles use of other small languages: variables in words ([`expand`]), wildcards ([`glob`]),
//! ignore files ([`ignore`]) and lengths of time ([`duration`]).
//!
//! Leaves out what instructions do; that is `frontend`'s business. No I/O.

mod arguments;
mod ast;
mod checks;
pub mod duration;
pub mod expand;
mod extras;
mod flags;
mod format;
pub mod glob;
mod heredoc;
pub mod ignore;
mod instruction;
mod line;
mod mount;
mod parse;
mod pattern;
mod problem;
mod rules;
mod shell_words;
mod split;
pub mod suggest;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;

pub use ast::{
    Argument, Arguments, Command, Directives, Dockerfile, Extras, From, Healthcheck, Heredoc,
    Instruction, Kind, MountFlag, MountOption, OnBuild, Pair, PairForm, Run, Transfer,
    TransferSource, Word,
};
pub use expand::words;
pub use format::format;
pub use heredoc::is_heredoc_mark;
pub use mount::{Mount, MountKind, Sharing, parse_bytes};
pub use parse::{Parsed, parse, parse_with_checks};
pub use problem::{Problem, Severity, Span};
pub use rules::{RULES, Rule};
pub use shell_words::{UnfinishedQuote, shell_words};
