//! Asks what sources mean now, and fetches as little as that takes: for those who want to know what a build would do.
//! Answers are remembered as a build remembers them, so that the build that follows finds them.

use super::inputs::Made;
use super::pins::ASKED_AT_ONCE;
use super::reach::Reach;
use super::session::Session;
use super::sources::{DebianAnswer, reference};
use crate::digest::Key;
use crate::engine::debian_tree::Archive;
use crate::engine::failure::Failure;
use crate::engine::plan::Planned;
use crate::engine::source::git;
use crate::engine::work::Freshness;
use crate::graph::{DebianSource, Op, Source};
use crate::net;

impl Session<'_> {
    /// Looks at the repositories of this machine; and, where the work says that everything is to be asked now, asks
    /// servers too.
    ///
    /// # Errors
    /// If a server cannot be asked.
    pub fn ask(&self, planned: &Planned) -> Result<(), Failure> {
        let mut asked = Vec::new();
        for (_, node) in planned.lowered.graph.iter() {
            if let Op::Source(source) = &node.op
                && self.work.pin(source).is_none()
                && self.is_asked(source)?
            {
                asked.push(source);
            }
        }
        if asked.is_empty() {
            return Ok(());
        }
        let reach = Reach::open(self)?;
        net::fetch_all(&asked, ASKED_AT_ONCE, |source| match source {
            Source::Git(git_source) => {
                let answer = self.ask_git(&reach, git_source, source);
                match git_source.url.starts_with('/') {
                    // What is wrong with a repository of this machine is said by the build.
                    true => Ok(()),
                    false => answer.map(drop),
                }
            }
            Source::Http(http_source) => self.ask_download(&reach, http_source, source).map(drop),
            Source::Debian(debian) => self.ask_archive(&reach, debian, source),
            Source::Image(_) | Source::OciLayout(_) | Source::Local { .. } => Ok(()),
        })
        .map(drop)
    }

    /// Whether a source has to be asked. A repository of this machine has if it is not what it was.
    fn is_asked(&self, source: &Source) -> Result<bool, Failure> {
        let is_now = self.work.freshness == Freshness::Now;
        Ok(match source {
            Source::Git(git_source) if git_source.url.starts_with('/') => {
                let recalled = self.recall_source(source, None, &|_| {});
                !matches!(recalled, Ok(Some(Made::Tree(_))))
                    && !matches!(self.known_git(git_source, source), Ok(Some(_)))
            }
            Source::Git(git_source) => is_now && !git::is_pinned(git_source),
            Source::Http(http_source) => is_now && http_source.checksum.is_none(),
            Source::Debian(_) => is_now,
            Source::Image(_) | Source::OciLayout(_) | Source::Local { .. } => false,
        })
    }

    /// The archive's own signature and lists are fetched; no package is.
    fn ask_archive(
        &self,
        reach: &Reach,
        debian: &DebianSource,
        source: &Source,
    ) -> Result<(), Failure> {
        let reference = reference(source);
        let known = self.answer::<DebianAnswer>(&reference)?;
        let archive = Archive::of(self, reach, debian)?;
        let with = archive.surroundings(self, reach, &|_| {});
        let mut answer = DebianAnswer::bottom(&archive.resolve(debian, &with)?);
        match known {
            // The same release: so are all of its packages.
            Some(known) if known.answer.layers.first() == Some(&answer.key) => {
                answer = known.answer;
            }
            // What the named packages come to is known when they are installed: until then nothing is found under this.
            _ if !debian.packages.is_empty() => {
                answer.key = Key::of(format!("{} and packages", answer.key).as_bytes());
                answer.layers.push(answer.key);
            }
            _ => {}
        }
        self.remember(&reference, &answer)
    }
}
