//! COPY and ADD.

use super::git;
use super::lint;
use super::path::{destination, download_name};
use super::stage::{Lowerer, Work};
use crate::dockerfile::expand::Keep;
use crate::dockerfile::{Instruction, Problem, Transfer, TransferSource, Word};
use crate::graph::{
    Copy, CopySource, FileMode, HttpSource, InlineFile, NodeId, Op, Source, Unpack,
};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Copy,
    Add,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY",
            Self::Add => "ADD",
        }
    }
}

/// The sources and what the history calls them.
#[derive(Default)]
struct Sources {
    taken: Vec<CopySource>,
    downloads: usize,
    local: usize,
    words: Vec<String>,
    heredocs: Vec<String>,
}

impl Lowerer<'_> {
    pub(super) fn transfer(
        &mut self,
        work: &mut Work<'_>,
        instruction: &Instruction,
        transfer: &Transfer,
        verb: Verb,
    ) {
        let failed = self.problems.len();
        let chown = self.expand_optional(work, transfer.chown.as_ref());
        let chmod = self.expand_optional(work, transfer.chmod.as_ref());
        let dest = self.expand(work, &transfer.dest);
        let sources = self.sources(work, instruction, transfer, verb);
        let (Some(chown), Some(chmod), Some(dest), Some(sources)) = (chown, chmod, dest, sources)
        else {
            return;
        };
        let chown = chown.filter(|owner| !owner.is_empty());
        let written_mode = chmod.filter(|mode| !mode.is_empty());
        let mut mode = None;
        if let (Some(text), Some(flag)) = (&written_mode, &transfer.chmod) {
            mode = parse_mode(text);
            if mode.is_none() {
                let message = format!("`--chmod={text}` is no mode");
                let problem = Problem::error("frontend::chmod", message, flag.span);
                self.fail(
                    work,
                    problem.help(
                        "write it in octal, up to 7777, or as chmod(1) has it: `u=rwX,go=rX`",
                    ),
                );
            }
        }
        if let (true, Some(owner), Some(flag)) = (transfer.link, &chown, &transfer.chown)
            && owner
                .split(':')
                .any(|part| !part.is_empty() && part.parse::<u32>().is_err())
        {
            let message = format!(
                "`--chown={owner}` names a user or group, which --link has no way to look up"
            );
            let problem = Problem::error("frontend::chown_link", message, flag.span);
            self.fail(
                work,
                problem.help("give the numbers, `--chown=1000:1000`, or take --link away"),
            );
        }
        let unpack = match transfer.unpack {
            Some(true) => Unpack::Everything,
            None if verb == Verb::Add && sources.local > 0 => Unpack::Files,
            _ => Unpack::Nothing,
        };
        let dest_path = destination(work.state.workdir(), &dest);
        if self.problems.len() > failed {
            return;
        }
        let op = Op::Copy(Copy {
            root: work.state.node,
            sources: sources.taken,
            dest: dest_path,
            chown: chown.clone(),
            chmod: mode,
            link: transfer.link,
            parents: transfer.parents,
            exclude: transfer
                .exclude
                .iter()
                .map(|pattern| pattern.text.clone())
                .collect(),
            unpack,
        });
        let mut said = vec![verb.name().to_owned()];
        said.extend(transfer.parents.then(|| "--parents".to_owned()));
        said.extend(chown.map(|owner| format!("--chown={owner}")));
        said.extend(written_mode.map(|mode| format!("--chmod={mode}")));
        said.extend(sources.words);
        said.extend(sources.heredocs);
        said.push(dest);
        self.step(work, instruction, op);
        work.state
            .record_layer(format!("{} # buildkit", said.join(" ")));
    }

    fn sources(
        &mut self,
        work: &Work<'_>,
        instruction: &Instruction,
        transfer: &Transfer,
        verb: Verb,
    ) -> Option<Sources> {
        let mut sources = Sources::default();
        let checksum = self.checksum(work, transfer)?;
        let from = match &transfer.from {
            Some(word) if !word.text.is_empty() => self.tree(work, &word.text, word.span)?,
            _ => self.context(),
        };
        let mut failed = false;
        for source in &transfer.sources {
            match source {
                TransferSource::Path(word) => match self.expand(work, word) {
                    Some(path) => {
                        failed |= !self.path(
                            work,
                            transfer,
                            verb,
                            &mut sources,
                            (word, path, from, &checksum),
                        )
                    }
                    None => failed = true,
                },
                TransferSource::Heredoc(index) => {
                    let heredoc = instruction.heredocs.get(*index)?;
                    let content = heredoc.content();
                    let content = if heredoc.expand {
                        self.expand_as(work, &content, heredoc.span, Keep::QuotesAsText)?
                            .text
                    } else {
                        content
                    };
                    sources.heredocs.push(format!("<<{}", heredoc.name));
                    sources.taken.push(CopySource::Inline(InlineFile {
                        name: heredoc.name.clone(),
                        content,
                    }));
                }
            }
        }
        // Heredocs come last, wherever they are written.
        sources
            .taken
            .sort_by_key(|source| matches!(source, CopySource::Inline(_)));
        (!failed).then_some(sources)
    }

    /// Adds a path or URL; says whether it could.
    fn path(
        &mut self,
        work: &Work<'_>,
        transfer: &Transfer,
        verb: Verb,
        sources: &mut Sources,
        (word, path, from, checksum): (&Word, String, NodeId, &Option<String>),
    ) -> bool {
        let remote = match remote_source(&path, transfer.keep_git_dir, checksum.as_deref()) {
            Ok(remote) => remote,
            Err(reason) => {
                self.fail(work, Problem::error("frontend::git", reason, word.span));
                return false;
            }
        };
        if remote.is_some() && verb == Verb::Copy {
            let message = format!("COPY cannot take `{path}`: it is no path of the context");
            self.fail(
                work,
                Problem::error("frontend::copy_url", message, word.span).help("use ADD for URLs"),
            );
            return false;
        }
        let taken = if let Some(remote) = remote {
            let is_download = matches!(remote, Source::Http(_));
            let from = self.graph.add(Op::Source(remote), None);
            if is_download {
                sources.downloads += 1;
                CopySource::Download { from }
            } else {
                CopySource::Path {
                    from,
                    path: "/".to_owned(),
                }
            }
        } else {
            sources.local += 1;
            if transfer.from.is_none() {
                let said = if verb == Verb::Add { "Add" } else { "Copy" };
                lint::ignored(self, work, said, &path, word.span);
            }
            self.expect_file(work, from, &path, word.span);
            CopySource::Path {
                from,
                path: path.clone(),
            }
        };
        sources.words.push(path);
        sources.taken.push(taken);
        true
    }

    fn checksum(&mut self, work: &Work<'_>, transfer: &Transfer) -> Option<Option<String>> {
        let Some(flag) = &transfer.checksum else {
            return Some(None);
        };
        let checksum = self.expand(work, flag)?;
        if checksum.is_empty() {
            return Some(None);
        }
        let problem = match transfer.sources.as_slice() {
            [TransferSource::Path(word)] => {
                let path = self.expand(work, word)?;
                let is_git = git::reference(&path).is_ok_and(|git| git.is_some());
                if is_git
                    || ((path.starts_with("http://") || path.starts_with("https://"))
                        && is_digest(&checksum))
                {
                    return Some(Some(checksum));
                }
                if path.starts_with("http://") || path.starts_with("https://") {
                    format!("`{checksum}` is no checksum; one is `sha256:` and 64 hex digits")
                } else {
                    "--checksum is for a URL or a git repository".to_owned()
                }
            }
            _ => "--checksum is for a single source".to_owned(),
        };
        self.fail(
            work,
            Problem::error("frontend::checksum", problem, flag.span),
        );
        None
    }
}

/// What ADD takes from outside: a git repository or a download; `None` if it is a path.
pub(super) fn remote_source(
    path: &str,
    keep_git_dir: Option<bool>,
    checksum: Option<&str>,
) -> Result<Option<Source>, String> {
    if let Some(git) = git::reference(path)? {
        return Ok(Some(Source::Git(git.source(keep_git_dir, checksum)?)));
    }
    let is_url = path.starts_with("http://") || path.starts_with("https://");
    Ok(is_url.then(|| {
        Source::Http(HttpSource {
            url: path.to_owned(),
            checksum: checksum.map(str::to_owned),
            name: download_name(path),
            is_tree: false,
        })
    }))
}

fn is_digest(text: &str) -> bool {
    text.parse::<crate::digest::Digest>().is_ok()
}

/// Octal up to 7777, or the clauses of chmod(1).
fn parse_mode(text: &str) -> Option<FileMode> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        return u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
            .map(FileMode::Octal);
    }
    text.split(',')
        .all(is_clause)
        .then(|| FileMode::Symbolic(text.to_owned()))
}

/// `ug+rwX-w=u`
fn is_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !actions.starts_with(['+', '-', '=']) {
        return false;
    }
    actions.split(['+', '-', '=']).skip(1).all(|permissions| {
        matches!(permissions, "u" | "g" | "o") || permissions.chars().all(|c| "rwxXst".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_or_clauses() {
        for (text, mode) in [
            ("755", Some(FileMode::Octal(0o755))),
            ("07777", Some(FileMode::Octal(0o7777))),
            ("17777", None),
            ("888", None),
            (
                "u=rwX,go=rX",
                Some(FileMode::Symbolic("u=rwX,go=rX".to_owned())),
            ),
            ("+x", Some(FileMode::Symbolic("+x".to_owned()))),
            ("g=u", Some(FileMode::Symbolic("g=u".to_owned()))),
            ("u", None),
            ("u=z", None),
            ("rwx", None),
        ] {
            assert_eq!(parse_mode(text), mode, "{text}");
        }
    }
}
