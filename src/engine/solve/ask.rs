//! Asks what sources mean now, and fetches as little as that takes: for those who want to know what a build would do.
//! Answers are remembered as a build remembers them, so that the build that follows finds them.

use std::path::Path;

use super::inputs::Made;
use super::session::{Session, client_of, git_of, store_failure};
use super::sources::{DebianAnswer, GitAnswer, of_source, reference};
use crate::digest::Key;
use crate::engine::debian_tree::{day, keyring};
use crate::engine::failure::Failure;
use crate::engine::plan::Planned;
use crate::engine::source::debian::{self, Cache, Mirrors, Request, Surroundings, base};
use crate::engine::source::git;
use crate::engine::work::Freshness;
use crate::graph::{DebianSource, GitSource, Op, Source};

impl Session<'_> {
    /// Looks at the repositories of this machine; and, where the work says that everything is to be asked now, asks
    /// servers too.
    ///
    /// # Errors
    /// If a server cannot be asked.
    pub fn ask(&self, planned: &Planned) -> Result<(), Vec<Failure>> {
        let is_asked = self.work.freshness == Freshness::Now;
        let mut failures = Vec::new();
        for (_, node) in planned.lowered.graph.iter() {
            let Op::Source(source) = &node.op else {
                continue;
            };
            if self.work.pin(source).is_some() {
                continue;
            }
            let asked = match source {
                Source::Git(git_source) if git_source.url.starts_with('/') => {
                    // What is wrong with it is said by the build.
                    drop(self.look_at_repository(git_source, source));
                    Ok(())
                }
                Source::Git(git_source) if is_asked && !git::is_pinned(git_source) => {
                    self.ask_repository(git_source, source)
                }
                Source::Debian(debian) if is_asked => self.ask_archive(debian, source),
                _ => Ok(()),
            };
            failures.extend(asked.err());
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    /// A repository of this machine is asked only if it is not what it was.
    fn look_at_repository(&self, git_source: &GitSource, source: &Source) -> Result<(), Failure> {
        match self.recall_source(source, None, &|_| {})? {
            Some(Made::Tree(_)) => Ok(()),
            _ if self.known_git(git_source, source)?.is_some() => Ok(()),
            _ => self.ask_repository(git_source, source),
        }
    }

    fn ask_repository(&self, git_source: &GitSource, source: &Source) -> Result<(), Failure> {
        let failure = |error: git::Error| of_source(error.fault(), &error);
        let scratch = self.store.tmp_dir().map_err(store_failure)?;
        let (git, _door) = git_of(self, &scratch)?;
        let fingerprint = git::local_fingerprint(&git_source.url).ok().flatten();
        let resolved = git.resolve(git_source).map_err(failure)?;
        self.remember(
            &reference(source),
            &GitAnswer {
                resolved,
                fingerprint,
            },
        )
    }

    /// The archive's own signature and lists are fetched; no package is.
    fn ask_archive(&self, debian: &DebianSource, source: &Source) -> Result<(), Failure> {
        let failure = |error: debian::Error| of_source(error.fault(), &error);
        let reference = reference(source);
        let known = self.answer::<DebianAnswer>(&reference)?;
        let scratch = self.store.tmp_dir().map_err(store_failure)?;
        let cache = Cache::new(self.store.path().join("http"), scratch.path());
        let (client, _) = client_of(self.work);
        let keyring = keyring(self.work)?;
        let with = Surroundings {
            client: &client,
            cache: &cache,
            keyring: &keyring,
            now_s: self.clock.now().as_secs(),
            progress: &|_| {},
        };
        let mirrors = Mirrors::choose(
            &debian.suite,
            debian.mirror.as_deref(),
            self.work.debian.mirror.as_deref(),
            &debian::host_sources(Path::new("/etc/apt")),
        );
        let request = Request {
            suite: &debian.suite,
            arch: &debian.arch,
            packages: &debian.packages,
        };
        let resolution = base::resolve(&request, &mirrors, &with).map_err(failure)?;
        let bottom = resolution.key();
        if let Some(known) = known
            && known.answer.layers.first() == Some(&bottom)
        {
            // The same release: so are all of its packages.
            return self.remember(&reference, &known.answer);
        }
        // What the named packages come to is known when they are installed: until then nothing is found under this.
        let unknown = Key::of(format!("{bottom} and packages").as_bytes());
        let top = (!debian.packages.is_empty()).then_some(unknown);
        let answer = DebianAnswer {
            layers: std::iter::once(bottom).chain(top).collect(),
            resolved: format!("{} of {}", resolution.suite, day(resolution.release_date_s)),
            key: top.unwrap_or(bottom),
        };
        self.remember(&reference, &answer)
    }
}
