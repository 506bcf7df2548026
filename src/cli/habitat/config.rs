//! The files of a habitat: which there are, where they lie, and what the library asks to know of their directories.

use std::path::{Path, PathBuf};

use super::super::args::habitat::HabitatFile;
use super::super::environment::Environment;
use super::super::report::Stop;
use super::super::request;
use crate::dockerfile::{Problem, Severity, Span};
use crate::engine::failure::{Failure, FailureKind, Place};
use crate::habitat::{
    self, Facts, Habitat, LayerFacts, LayerKind, Layers, PathKind, Purpose, UnknownNames, Wanted,
};
use crate::image::Platform;

/// What a habitat is called in its directory.
const FILE_NAME: &str = "config.yaml";
/// Where tools of every habitat are listed, in ROOT.
const TOOLS: &str = "system/tools/tools.yaml";

/// The layers of a habitat, and where they lie.
pub(super) struct Config {
    /// Their texts.
    pub(super) layers: Layers,
    /// Their directories, absolute, in the same order.
    pub(super) directories: Vec<PathBuf>,
    /// ROOT, where there is one.
    pub(super) root: Option<PathBuf>,
    /// What is done with names that are not known.
    pub(super) unknown: UnknownNames,
    /// The habitat's own file, absolute.
    path: PathBuf,
}

impl Config {
    /// Finds the layers of a habitat and reads them.
    pub(super) fn read(given: &HabitatFile, environment: &Environment) -> Result<Self, Stop> {
        let shown = in_directory(&given.file);
        let path = request::absolute(&shown)?;
        let root = match &given.layers.root {
            Some(root) if root.is_dir() => Some(request::absolute(root)?),
            Some(root) => {
                let message = format!("`--root {}` is no directory", root.display());
                return Err(Stop::usage(
                    message,
                    "name a directory that has `habitats/`",
                ));
            }
            None => find_root(&path),
        };
        let layer_at = |name: &str| root.as_ref().map(|root| root.join(name).join(FILE_NAME));
        let (system, shared) = (layer_at("system"), layer_at("shared"));
        let tools = root.as_ref().map(|root| root.join(TOOLS));
        let kind = if system.as_ref() == Some(&path) {
            LayerKind::System
        } else if shared.as_ref() == Some(&path) {
            LayerKind::Shared
        } else {
            LayerKind::Local
        };
        let mut found = Found {
            layers: Layers::new(),
            paths: Vec::new(),
            chain: Vec::new(),
            root: root.as_deref(),
            main: &path,
        };
        for (below, file) in [
            (LayerKind::System, system),
            (LayerKind::Tools, tools),
            (LayerKind::Shared, shared),
        ] {
            if let Some(file) = file.filter(|file| kind > below && file.is_file()) {
                found.add(below, &file, &from_here(&file), None)?;
            }
        }
        found.add(kind, &path, &shown.display().to_string(), None)?;
        if let Some(own) = environment.user_layer()
            && !given.layers.no_user_layer
            && kind == LayerKind::Local
            && own.is_file()
        {
            found.add(LayerKind::Personal, &own, &from_here(&own), None)?;
        }
        if !given.repos.is_empty() {
            let text = repo_layer(&given.repos)?;
            found.layers.push(LayerKind::Command, REPO_FLAG, &text);
            found
                .paths
                .push(request::absolute(Path::new("."))?.join(REPO_FLAG));
        }
        let Found {
            mut layers, paths, ..
        } = found;
        if directory_of(&path).join(habitat::DOCKERFILE).is_file() {
            layers.note_dockerfile();
        }
        let directories = paths.iter().map(|path| directory_of(path).to_owned());
        Ok(Self {
            layers,
            directories: directories.collect(),
            root,
            unknown: if given.lenient {
                UnknownNames::Leave
            } else {
                UnknownNames::Refuse
            },
            path,
        })
    }

    /// The habitat's own file, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The habitat's own file, as the user gave it.
    pub(super) fn shown(&self) -> &str {
        &self.layers.main().file
    }

    /// Problems as what stops a command.
    pub(super) fn stop(&self, problems: &[Problem]) -> Stop {
        let errors = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        let failures: Vec<Failure> = errors.map(|problem| self.failure(problem)).collect();
        self.with_texts(Stop::from(failures))
    }

    /// A problem with its place in the file that it is about.
    pub(super) fn failure(&self, problem: &Problem) -> Failure {
        let mut failure = Failure::new(FailureKind::Input, problem.code, problem.message.clone());
        failure.label = problem.label.clone();
        failure.help = problem.help.clone();
        failure.is_warning = problem.severity == Severity::Warning;
        failure.place = Some(match problem.span {
            Some(span) => self.spot(span),
            None => Place {
                file: self.layers.main().file.clone(),
                line: 1,
                span: None,
            },
        });
        failure
    }

    /// Where a span of the common space is, for a failure.
    pub(super) fn spot(&self, span: Span) -> Place {
        let (layer, local) = self.layers.locate(span);
        Place {
            file: layer.file.clone(),
            line: local.line,
            span: Some((local.start, local.end.saturating_sub(local.start))),
        }
    }

    /// Adds the texts that failures may point into.
    pub(super) fn with_texts(&self, stop: Stop) -> Stop {
        let layers = self.layers.all().iter();
        layers.fold(stop, |stop, layer| stop.with_text(&layer.file, &layer.text))
    }

    /// What the plan must know of this machine.
    pub(super) fn facts(
        &self,
        habitat: &Habitat,
        purpose: Purpose,
        environment: &Environment,
    ) -> Facts {
        let ignore = |directory: &Path| std::fs::read_to_string(directory.join(".habignore")).ok();
        // One that it names alone is what it is built for; of several, this machine's.
        let platform = match habitat.document.platforms.0.as_slice() {
            [only] => only.value.parse().ok(),
            _ => None,
        };
        let platform: Platform = platform.unwrap_or_else(Platform::of_this_machine);
        let layers = self.directories.iter().zip(self.layers.all());
        let mut facts = Facts {
            layers: layers
                .map(|(directory, layer)| LayerFacts {
                    config: Path::new(&layer.file)
                        .file_name()
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned(),
                    ignore: ignore(directory),
                    in_root: self.below_root(directory).filter(|_| {
                        !matches!(layer.kind, LayerKind::Personal | LayerKind::Command)
                    }),
                    ..LayerFacts::default()
                })
                .collect(),
            root_ignore: self.root.as_deref().and_then(ignore),
            debian_arch: platform.debian(),
            platform: platform.to_string(),
            purpose,
            ..Facts::default()
        };
        let look = |directory: Option<&PathBuf>, path: &str| -> Option<PathKind> {
            let found = std::fs::metadata(directory?.join(path)).ok()?;
            Some(if found.is_dir() {
                PathKind::Directory
            } else {
                PathKind::File
            })
        };
        for wanted in habitat.needed_facts() {
            match wanted {
                Wanted::Home(path) => {
                    let found = look(environment.home.as_ref(), &path);
                    facts.at_home.extend(found.map(|kind| (path, kind)));
                }
                Wanted::Path(layer, path) => {
                    let at_root = look(self.root.as_ref(), &path);
                    facts
                        .at_root
                        .extend(at_root.map(|kind| (path.clone(), kind)));
                    let directory = &self.directories[layer];
                    if self.root.as_ref() != Some(directory) {
                        let beside = look(Some(directory), &path);
                        facts.layers[layer]
                            .beside
                            .extend(beside.map(|kind| (path, kind)));
                    }
                }
            }
        }
        facts
    }

    /// The path of a directory in ROOT, where it is in there.
    fn below_root(&self, directory: &Path) -> Option<String> {
        let below = directory.strip_prefix(self.root.as_ref()?).ok()?;
        Some(below.to_str()?.to_owned()).filter(|below| !below.is_empty())
    }
}

/// The layers as far as they were found.
struct Found<'a> {
    layers: Layers,
    paths: Vec<PathBuf>,
    /// The files that extend each other down to the one at hand, with what they are called.
    chain: Vec<(PathBuf, String)>,
    root: Option<&'a Path>,
    main: &'a Path,
}

impl Found<'_> {
    /// Adds a file, after those that it extends. `named` is where another file names it.
    fn add(
        &mut self,
        kind: LayerKind,
        path: &Path,
        shown: &str,
        named: Option<Place>,
    ) -> Result<(), Stop> {
        let at = |mut failure: Failure, named: Option<Place>| {
            failure.place = named;
            let texts = self.chain.iter().rev().take(1);
            texts.fold(Stop::from(failure), |stop, (path, shown)| {
                stop.with_text(shown, &std::fs::read_to_string(path).unwrap_or_default())
            })
        };
        if self.chain.iter().any(|(known, _)| known == path) {
            let names: Vec<&str> = self
                .chain
                .iter()
                .map(|(_, shown)| shown.as_str())
                .chain([shown])
                .collect();
            let message = format!(
                "habitats extend each other in a circle: {}",
                names.join(" → ")
            );
            let failure = Failure::new(FailureKind::Input, "habitat::circle", message);
            return Err(at(
                failure.with_help("leave one of these out of `extends`"),
                named,
            ));
        }
        if self.paths.iter().any(|known| known == path) {
            // Two of the layers name it; it is laid down once, before the first.
            return Ok(());
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("the habitat `{shown}` cannot be read");
            let failure = Failure::caused(FailureKind::Input, "cli::habitat", message, &error);
            at(
                failure.with_help("name a config.yaml, or the directory that it is in"),
                named.clone(),
            )
        })?;
        self.chain.push((path.to_owned(), shown.to_owned()));
        for parent in habitat::parents(&text) {
            let place = Place {
                file: shown.to_owned(),
                line: parent.span.line,
                span: Some((parent.span.start, parent.span.end - parent.span.start)),
            };
            let file = self.parent(&parent.value, path).map_err(|mut failure| {
                failure.place = Some(place.clone());
                Stop::from(failure).with_text(shown, &text)
            })?;
            self.add(LayerKind::Parent, &file, &from_here(&file), Some(place))?;
        }
        self.chain.pop();
        if path == self.main {
            self.layers.push_main(kind, shown, &text);
        } else {
            self.layers.push(kind, shown, &text);
        }
        self.paths.push(path.to_owned());
        Ok(())
    }

    /// The file that `extends` names: beside the layer that says so, or at ROOT.
    fn parent(&self, named: &str, child: &Path) -> Result<PathBuf, Failure> {
        let places = [Some(directory_of(child)), self.root];
        let mut found: Vec<PathBuf> = places
            .into_iter()
            .flatten()
            .filter_map(|directory| in_directory(&directory.join(named)).canonicalize().ok())
            .filter(|file| file.is_file())
            .collect();
        found.dedup();
        match found.as_slice() {
            [] => {
                let message = format!("the habitat `{named}` does not exist");
                let help = "mend the path: it is looked up beside this file, then at ROOT";
                Err(
                    Failure::new(FailureKind::Input, "habitat::missing_file", message)
                        .with_help(help),
                )
            }
            [file] => Ok(file.clone()),
            [beside, at_root, ..] => {
                let message = format!("`{named}` is in two places");
                let help = format!(
                    "rename one of the two: {} or {}",
                    from_here(beside),
                    from_here(at_root)
                );
                Err(
                    Failure::new(FailureKind::Input, "habitat::ambiguous_path", message)
                        .with_help(help),
                )
            }
        }
    }
}

/// What the layer of `--repo` is called.
const REPO_FLAG: &str = "--repo";

/// `--repo URL:PATH[:BRANCH]` as a layer.
fn repo_layer(given: &[String]) -> Result<String, Stop> {
    let mut text = "repos:\n".to_owned();
    for repo in given {
        let Some((url, path, branch)) = split_repo(repo) else {
            return Err(Stop::usage(
                format!("`{REPO_FLAG} {repo}` does not say where the repository goes"),
                "it is URL:PATH[:BRANCH], with an absolute path or `~/…`, such as https://example.org/a.git:/srv/a:main",
            ));
        };
        // What JSON writes, YAML reads.
        let item = serde_json::json!({ "url": url, "path": path });
        let mut item = item.as_object().cloned().unwrap_or_default();
        if let Some(branch) = branch {
            item.insert("branch".to_owned(), branch.into());
        }
        text.push_str(&format!("  - {}\n", serde_json::Value::Object(item)));
    }
    Ok(text)
}

/// The address may have colons itself (a scheme, a port, `host:path`): the path begins at the last one that a path follows.
fn split_repo(given: &str) -> Option<(&str, &str, Option<&str>)> {
    let begins_path = |at: &usize| {
        let rest = &given[at + 1..];
        (rest.starts_with('/') && !rest.starts_with("//")) || rest.starts_with("~/")
    };
    let mut colons = given.rmatch_indices(':').map(|(at, _)| at);
    let at = colons.find(begins_path)?;
    let (url, rest) = (&given[..at], &given[at + 1..]);
    let (path, branch) = match rest.split_once(':') {
        Some((path, branch)) => (path, Some(branch)),
        None => (rest, None),
    };
    (!url.is_empty() && branch != Some("")).then_some((url, path, branch))
}

pub(super) fn in_directory(given: &Path) -> PathBuf {
    if given == Path::new(".") {
        PathBuf::from(FILE_NAME)
    } else if given.is_dir() {
        given.join(FILE_NAME)
    } else {
        given.to_owned()
    }
}

fn directory_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("/"))
}

/// A path as it is seen from the current directory, where it lies below it.
pub(super) fn from_here(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let below = here.as_ref().and_then(|here| path.strip_prefix(here).ok());
    below.unwrap_or(path).display().to_string()
}

/// The next directory upwards that has `habitats/` and `system/` or `shared/`.
fn find_root(config: &Path) -> Option<PathBuf> {
    let is_root = |path: &&Path| {
        path.join("habitats").is_dir()
            && (path.join("system").is_dir() || path.join("shared").is_dir())
    };
    config.ancestors().skip(1).find(is_root).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::split_repo;

    #[test]
    fn a_repository_is_told_from_its_place_whatever_colons_its_address_has() {
        let all = [
            (
                "https://example.org/a.git:/srv/a",
                "https://example.org/a.git|/srv/a|",
            ),
            (
                "https://example.org:8443/a.git:/srv/a:main",
                "https://example.org:8443/a.git|/srv/a|main",
            ),
            (
                "git@example.org:team/a.git:/srv/a:feature/x",
                "git@example.org:team/a.git|/srv/a|feature/x",
            ),
            (
                "git@example.org:/team/a.git:~/a",
                "git@example.org:/team/a.git|~/a|",
            ),
            (
                "ssh://git@example.org:2222/~me/a.git:/srv/a:v1",
                "ssh://git@example.org:2222/~me/a.git|/srv/a|v1",
            ),
            ("a.bundle:/srv/a", "a.bundle|/srv/a|"),
            ("/srv/mirror.git:/srv/a", "/srv/mirror.git|/srv/a|"),
        ];
        for (given, parts) in all {
            let (url, path, branch) = split_repo(given).unwrap_or_else(|| panic!("{given}"));
            assert_eq!(
                format!("{url}|{path}|{}", branch.unwrap_or_default()),
                parts
            );
        }
        for given in ["https://example.org/a.git", "a:b", "", ":/srv", "a:/srv:"] {
            assert_eq!(split_repo(given), None, "{given}");
        }
    }
}
