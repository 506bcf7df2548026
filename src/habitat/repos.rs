//! Repositories: what is said of them, what stands against them, and the named contexts that they become.

use serde_json::json;

use super::check::{Check, covers, is_remote};
use super::document::{Access, FileItem};
use super::facts::clean;
use super::keys::{Count, Flag, OneOrMore, Text, keys};
use super::phase::PhaseId;
use super::plan::{ContextKind, Planner, Step};
use super::quote;
use crate::dockerfile::Span;

keys! {
    /// A repository that is checked out.
    Repo is "an item of repos" {
        /// Anything git takes, or the path of a repository or bundle beside this file. By ssh it gets in with the keys of
        /// your agent.
        url: Text = "url",
        /// Where to: absolute, or `~/…` of USER in the image.
        path: Text = "path",
        /// The branch; without it the remote's default.
        branch: Option<Text> = "branch",
        /// A branch, a tag or a commit.
        reference: Option<Text> = "ref",
        /// Whether only the last commit is kept (default true).
        shallow: Option<Flag> = "shallow",
        /// How many commits are kept.
        depth: Option<Count> = "depth",
        /// Whether submodules are checked out.
        submodules: Option<Flag> = "submodules",
        /// `write` (default), or `read`, which disables pushing.
        access: Option<Access> = "access",
        /// The id of the secret that opens it by http or https: a token. It opens the submodules on the same host as well, and
        /// is stored nowhere.
        secret: Option<Text> = "secret",
        /// The phases before which it is checked out, instead of in the repos phase.
        before: Option<OneOrMore<PhaseId>> = "before",
        /// The phases after which it is checked out.
        after: Option<OneOrMore<PhaseId>> = "after",
        /// What it is for.
        description: Option<Text> = "description",
        /// Large files of git: only `false`, since no filter of a repository is run. A script can fetch them.
        lfs: Option<Flag> = "lfs",
    }
}

/// When something is put into the image: the phase; before, in, or after it; files before repositories; its place in the
/// list.
type Moment = (PhaseId, u8, u8, usize);

fn moments(
    (before, after): (&Option<OneOrMore<PhaseId>>, &Option<OneOrMore<PhaseId>>),
    usual: PhaseId,
    (kind, index): (u8, usize),
) -> Vec<Moment> {
    let side = |places: &Option<OneOrMore<PhaseId>>, side: u8| -> Vec<Moment> {
        let phases = places.iter().flat_map(|places| &places.0);
        phases.map(|phase| (*phase, side, kind, index)).collect()
    };
    let hooked = [side(before, 0), side(after, 2)].concat();
    if before.is_none() && after.is_none() {
        vec![(usual, 1, kind, index)]
    } else {
        hooked
    }
}

fn file_moments(index: usize, file: &FileItem) -> Vec<Moment> {
    moments((&file.before, &file.after), PhaseId::FILES, (0, index))
}

fn repo_moments(index: usize, repo: &Repo) -> Vec<Moment> {
    moments((&repo.before, &repo.after), PhaseId::REPOS, (1, index))
}

/// Whether the first is there at some time when the second is put in place.
fn is_earlier(first: &[Moment], second: &[Moment]) -> bool {
    first.iter().min() < second.iter().max()
}

impl Check<'_> {
    pub(super) fn repos(&mut self) {
        let repos: &[Repo] = &self.document.repos.0;
        for (index, repo) in repos.iter().enumerate() {
            self.repo_address(repo);
            self.absolute(&repo.path, "path");
            self.both_sides("repository", repo.span, &repo.before, &repo.after);
            if let (Some(branch), Some(reference)) = (&repo.branch, &repo.reference) {
                self.report
                    .error(
                        "habitat::conflict",
                        reference.span,
                        "both branch and ref are given",
                    )
                    .label(format!(
                        "`branch: {}` says what is checked out already",
                        branch.value
                    ))
                    .help("keep one of them");
            }
            if let Some(depth) = repo.depth.filter(|depth| depth.value == 0) {
                self.report
                    .error(
                        "habitat::bad_value",
                        depth.span,
                        "a depth of 0 has no commit",
                    )
                    .label("at least 1")
                    .help("for the whole history write `shallow: false`");
            }
            if let Some(lfs) = repo.lfs.filter(|lfs| lfs.value) {
                self.report
                    .error(
                        "habitat::lfs",
                        lfs.span,
                        "large files of git are not fetched",
                    )
                    .label("git-lfs is a filter, and no filter of a repository is run")
                    .help("leave `lfs` out, and run `git lfs pull` in a script, with git-lfs in the image");
            }
            self.covered(index, repo);
        }
    }

    fn repo_address(&mut self, repo: &Repo) {
        let url = repo.url.value.as_str();
        if url.trim().is_empty() {
            self.report
                .error("habitat::bad_value", repo.url.span, "the url is empty")
                .label("git needs an address here");
        } else if !is_remote(url) {
            self.relative(&repo.url);
        }
        let is_http = ["http://", "https://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        if is_http && without_credentials(url) != url {
            self.report
                .warning(
                    "habitat::credentials",
                    repo.url.span,
                    format!(
                        "the address of `{}` has a password in it",
                        without_credentials(url)
                    ),
                )
                .label("everyone who can read this file can read it")
                .help("leave it out, and name a secret: `secret: ID`");
        }
        let Some(secret) = &repo.secret else {
            return;
        };
        self.secret(secret);
        if !is_http {
            self.report
                .error(
                    "habitat::conflict",
                    secret.span,
                    format!(
                        "the secret `{}` cannot open `{}`",
                        secret.value,
                        without_credentials(url)
                    ),
                )
                .label("it is a token, which http and https take")
                .help("leave it out: by ssh git gets in with the keys of your agent");
        }
    }

    /// A repository takes the place of what is there; it may lie in another one that is there before it.
    fn covered(&mut self, index: usize, repo: &Repo) {
        let own = repo_moments(index, repo);
        for (other, earlier) in self.document.repos.0.iter().enumerate() {
            let is_other = other != index && covers(&repo.path.value, &earlier.path.value);
            if is_other && is_earlier(&repo_moments(other, earlier), &own) {
                self.report
                    .error(
                        "habitat::covered",
                        repo.path.span,
                        format!("`{}` would cover `{}`", repo.path.value, earlier.path.value),
                    )
                    .label(format!(
                        "`{}` was checked out there before",
                        without_credentials(&earlier.url.value)
                    ))
                    .help("list the outer repository first, or give this one another path");
            }
        }
        for (other, file) in self.document.files.0.iter().enumerate() {
            let is_inside = covers(&repo.path.value, &file.dest.value);
            if is_inside && is_earlier(&file_moments(other, file), &own) {
                self.report
                    .error(
                        "habitat::covered",
                        repo.path.span,
                        format!("`{}` would cover `{}`", repo.path.value, file.dest.value),
                    )
                    .label(format!("`{}` is copied there before", file.src.value))
                    .help("give that item of files `after: repos`");
            }
        }
    }
}

impl Planner<'_> {
    /// The named context that a repository is, and the step that copies it to its place.
    pub(super) fn repo(&mut self, index: usize, repo: &Repo) -> Step {
        let name = format!("repo-{}", index + 1);
        let is_path = !is_remote(&repo.url.value);
        let found = if is_path { self.find(&repo.url) } else { None };
        if is_path && found.is_none() {
            self.report
                .error(
                    "habitat::missing_file",
                    repo.url.span,
                    format!("`{}` does not exist", repo.url.value),
                )
                .label("there is no such repository or bundle beside this file")
                .help("mend the path, or give a URL");
        }
        let shallow = repo.shallow.is_none_or(|flag| flag.value);
        let depth = repo.depth.map(|depth| depth.value).or(shallow.then_some(1));
        let kind = ContextKind::Repository {
            url: if is_path {
                clean(&repo.url.value)
            } else {
                repo.url.value.clone()
            },
            place: found.map(|(place, _, _)| place),
            reference: repo
                .branch
                .as_ref()
                .or(repo.reference.as_ref())
                .map(|reference| reference.value.clone()),
            depth,
            submodules: repo.submodules.is_some_and(|flag| flag.value),
            read_only: repo.access == Some(Access::Read),
            remote: (!is_path).then(|| without_credentials(&repo.url.value)),
            secret: repo.secret.as_ref().map(|secret| secret.value.clone()),
        };
        let span: Span = repo.span;
        self.context(&name, kind, Some(span));
        let mut flags = vec![format!("--from={name}")];
        flags.extend(self.chown(&self.habitat.user));
        let dest = format!(
            "{}/",
            self.habitat.at_home(&repo.path.value).trim_end_matches('/')
        );
        let said = format!("repos[{index}] {}", without_credentials(&repo.url.value));
        let paths = quote::copy_paths("/", &dest);
        Step::of("copy.j2", said, json!({ "flags": flags, "paths": paths })).at(span)
    }
}

/// A URL without the user and password in it; `git@` of ssh is kept.
pub(super) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, ""), |(host, path)| (host, path));
    match host.rsplit_once('@') {
        Some((user, _)) if scheme == "ssh" && !user.contains(':') => url.to_owned(),
        Some((_, host)) => format!("{scheme}://{host}/{path}"),
        None => url.to_owned(),
    }
}
