//! The files of a commit, and a `.git` that depends on nothing but that commit.
//!
//! git's own clone would leave the time, the machine and the mirror's history in its files. So the parts are made one by
//! one: the objects as a single pack whose deltas are worked out anew by one thread; the index by `read-tree`, which
//! leaves its fields of device, inode and times zero; configuration and references written here; no logs, no hooks.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::error::{Error, Result};
use super::program::{Program, Reach};
use super::reference;
use super::{Git, Mirror, Resolved, recorded_url};
use crate::graph::GitSource;
use crate::net;

/// How deep submodules may nest.
const SUBMODULE_DEPTH_MAX: u32 = 8;

pub(super) fn checkout(
    git: &Git,
    source: &GitSource,
    resolved: &Resolved,
    into: &Path,
) -> Result<()> {
    put(git, source, resolved, into, SUBMODULE_DEPTH_MAX)?;
    let time_s = git.commit_time_s(source, resolved)?;
    settle(
        into,
        Timespec {
            tv_sec: time_s,
            tv_nsec: 0,
        },
    )
    .map_err(|error| Error::io("cannot set modes and times in", into, error))
}

fn put(git: &Git, source: &GitSource, resolved: &Resolved, into: &Path, levels: u32) -> Result<()> {
    let reach = match levels {
        SUBMODULE_DEPTH_MAX => Reach::Named,
        _ => Reach::Submodule,
    };
    let mirror = git.mirror(source, source.depth, reach, &resolved.commit)?;
    mirror.ensure(resolved)?;
    let resolved = &mirror.peeled(resolved)?;
    let tree = match source
        .subdir
        .as_deref()
        .map(|subdir| subdir.trim_matches('/'))
        .filter(|subdir| !subdir.is_empty())
    {
        None => resolved.commit.clone(),
        Some(subdir) => subdirectory(&mirror.program, resolved, subdir)?,
    };
    let whole = tree == resolved.commit;
    write_files(&mirror, &tree, into)?;
    let modules = if source.submodules {
        submodules(&mirror.program, source, resolved, &tree)?
    } else {
        Vec::new()
    };
    if source.keep_git_dir && whole {
        let program = Program::local(&git.settings)?;
        GitDirectory {
            program: &program,
            path: into.join(".git"),
            mirror: &mirror.directory,
            source,
            resolved,
            modules: &modules,
        }
        .make()?;
    }
    drop(mirror);
    for module in modules {
        if levels == 0 {
            return Err(Error::Submodule {
                url: net::redacted(&source.url),
                path: module.path,
                why: "it is nested too deep",
            });
        }
        // A repository may name any address as a submodule's; what opens it is for its own server alone.
        let is_beside = reference::is_same_server(&source.url, &module.url);
        let inner = GitSource {
            url: module.url,
            reference: None,
            checksum: None,
            is_short: false,
            fetch_by_commit: source.fetch_by_commit,
            subdir: None,
            depth: source.depth,
            submodules: true,
            keep_git_dir: source.keep_git_dir && whole,
            remote: None,
            read_only: source.read_only,
            secret: source.secret.clone().filter(|_| is_beside),
        };
        let commit = Resolved {
            commit: module.commit,
            reference: None,
            tag_object: None,
        };
        let place = into.join(&module.path);
        fs::create_dir_all(&place).map_err(|error| Error::io("cannot make", &place, error))?;
        put(git, &inner, &commit, &place, levels - 1)?;
    }
    Ok(())
}

/// The tree of a directory of the commit, by its object name.
fn subdirectory(program: &Program, resolved: &Resolved, subdir: &str) -> Result<String> {
    let wrong = || Error::Subdir {
        subdir: subdir.to_owned(),
        commit: resolved.commit.clone(),
    };
    if subdir
        .split('/')
        .any(|part| matches!(part, "" | "." | ".." | ".git"))
        || subdir.chars().any(char::is_control)
    {
        return Err(wrong());
    }
    let named = format!("{}:{subdir}", resolved.commit);
    let tree = program
        .text(&[
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &named,
        ])
        .map_err(|_| wrong())?;
    let tree = tree.trim().to_owned();
    if program.text(&["cat-file", "-t", &tree])?.trim() == "tree" {
        Ok(tree)
    } else {
        Err(wrong())
    }
}

/// Writes the files of a tree, through an index that is thrown away.
fn write_files(mirror: &Mirror, tree: &str, into: &Path) -> Result<()> {
    // The mirror is locked: nobody else uses that name.
    let index = mirror.directory.join("index-of-checkout");
    let program = mirror
        .program
        .with("GIT_INDEX_FILE", index.to_string_lossy().into_owned());
    program.text(&["read-tree", "--end-of-options", tree])?;
    let program = program.with("GIT_WORK_TREE", into.to_string_lossy().into_owned());
    program.text(&["checkout-index", "--all", "--force", "--quiet"])?;
    fs::remove_file(&index).map_err(|error| Error::io("cannot remove", &index, error))
}

struct Submodule {
    name: String,
    path: String,
    url: String,
    commit: String,
}

/// The submodules of a tree: each is an entry of the tree, and `.gitmodules` knows its address.
fn submodules(
    program: &Program,
    source: &GitSource,
    resolved: &Resolved,
    tree: &str,
) -> Result<Vec<Submodule>> {
    let listed = program.text(&[
        "ls-tree",
        "-r",
        "-z",
        "--full-tree",
        "--end-of-options",
        tree,
    ])?;
    let links: Vec<(String, String)> = listed
        .split('\0')
        .filter_map(|entry| {
            let (what, path) = entry.split_once('\t')?;
            let mut words = what.split(' ');
            (words.next()? == "160000").then_some(())?;
            words.next()?;
            Some((path.to_owned(), words.next()?.to_owned()))
        })
        .collect();
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let prefix = source
        .subdir
        .as_deref()
        .map(|subdir| subdir.trim_matches('/'))
        .filter(|subdir| !subdir.is_empty());
    let blob = format!("--blob={}:.gitmodules", resolved.commit);
    let settings = program.text(&["config", "--null", &blob, "--list"])?;
    let settings: Vec<(&str, &str)> = settings
        .split('\0')
        .filter_map(|entry| entry.split_once('\n'))
        .collect();
    let value_of = |name: &str, key: &str| {
        let wanted = format!("submodule.{name}.{key}");
        settings
            .iter()
            .rev()
            .find(|(found, _)| *found == wanted)
            .map(|(_, value)| (*value).to_owned())
    };
    let names: Vec<&str> = settings
        .iter()
        .filter_map(|(key, _)| {
            key.strip_prefix("submodule.")
                .and_then(|key| key.strip_suffix(".path"))
        })
        .collect();
    let mut modules = Vec::new();
    for (path, commit) in links {
        let failed = |why| Error::Submodule {
            url: net::redacted(&source.url),
            path: path.clone(),
            why,
        };
        let in_repository =
            prefix.map_or_else(|| path.clone(), |prefix| format!("{prefix}/{path}"));
        let known = names
            .iter()
            .find(|name| value_of(name, "path").as_deref() == Some(in_repository.as_str()));
        let name = *known.ok_or_else(|| failed("it is not in .gitmodules"))?;
        let url =
            value_of(name, "url").ok_or_else(|| failed("its address is not in .gitmodules"))?;
        let url = relative_url(&source.url, &url)
            .ok_or_else(|| failed("its address leads above the server's root"))?;
        reference::check_url(&url)?;
        if reference::is_local(&url) && !reference::is_local(&source.url) {
            return Err(failed("it names a path of this machine"));
        }
        modules.push(Submodule {
            name: name.to_owned(),
            path,
            url,
            commit,
        });
    }
    Ok(modules)
}

/// The address of a submodule; `./` and `../` start from the address of the repository that has it.
fn relative_url(base: &str, url: &str) -> Option<String> {
    if !url.starts_with("./") && !url.starts_with("../") {
        return Some(url.to_owned());
    }
    let mut base = base.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(next) = rest.strip_prefix("./") {
            rest = next;
        } else if let Some(next) = rest.strip_prefix("../") {
            rest = next;
            let (end, separator) = match (base.rfind('/'), base.rfind(':')) {
                (Some(slash), _) if slash > 0 && !base[..slash].ends_with('/') => (slash, ""),
                (None, Some(colon)) => (colon, ":"),
                _ => return None,
            };
            base.truncate(end);
            base.push_str(separator);
        } else {
            let separator = if base.ends_with(':') { "" } else { "/" };
            return Some(format!("{base}{separator}{rest}"));
        }
    }
}

struct GitDirectory<'a> {
    program: &'a Program,
    path: PathBuf,
    mirror: &'a Path,
    source: &'a GitSource,
    resolved: &'a Resolved,
    modules: &'a [Submodule],
}

impl GitDirectory<'_> {
    fn make(&self) -> Result<()> {
        let format = if self.resolved.commit.len() == 64 {
            "sha256"
        } else {
            "sha1"
        };
        let path = self.path.to_string_lossy().into_owned();
        self.program.text(&[
            "init",
            "--quiet",
            "--bare",
            "--template=",
            &format!("--object-format={format}"),
            "--",
            &path,
        ])?;
        let program = self.program.in_repository(&self.path);
        self.bring_objects(&program)?;
        self.write("config", &self.configuration(format))?;
        self.write_references()?;
        program.text(&["read-tree", "--end-of-options", &self.resolved.commit])?;
        Ok(())
    }

    /// Fetches the commit and its history from the mirror, and packs it anew.
    fn bring_objects(&self, program: &Program) -> Result<()> {
        let depth = self.source.depth.map(|depth| format!("--depth={depth}"));
        let mirror = format!("file://{}", self.mirror.display());
        let mut arguments = vec![
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        ];
        arguments.extend(depth.as_deref());
        arguments.extend([
            "--update-shallow",
            "--end-of-options",
            &mirror,
            &self.resolved.commit,
        ]);
        arguments.extend(self.resolved.tag_object.as_deref());
        program.text(&arguments)?;

        let wanted: Vec<&str> = std::iter::once(self.resolved.commit.as_str())
            .chain(self.resolved.tag_object.as_deref())
            .collect();
        let mut arguments = vec!["rev-list", "--objects", "--end-of-options"];
        arguments.extend(&wanted);
        let objects = program.text(&arguments)?;
        let packed = self.path.join("packed");
        fs::create_dir(&packed).map_err(|error| Error::io("cannot make", &packed, error))?;
        let base = packed.join("pack").to_string_lossy().into_owned();
        let arguments = [
            "pack-objects",
            "--quiet",
            "--threads=1",
            "--no-reuse-delta",
            "--no-reuse-object",
            "--window=10",
            "--depth=50",
            "--window-memory=0",
            "--compression=6",
            "--delta-base-offset",
            &base,
        ];
        program.text_with(&arguments, objects.as_bytes())?;
        let objects = self.path.join("objects");
        let pack = objects.join("pack");
        fs::remove_dir_all(&objects)
            .and_then(|()| fs::create_dir_all(objects.join("info")))
            .and_then(|()| fs::rename(&packed, &pack))
            .map_err(|error| Error::io("cannot put the pack into", &objects, error))?;
        let shallow = self.path.join("shallow");
        if let Ok(text) = fs::read_to_string(&shallow) {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            self.write(
                "shallow",
                &lines
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            )?;
        }
        Ok(())
    }

    fn configuration(&self, format: &str) -> String {
        let version = if format == "sha256" { 1 } else { 0 };
        let mut text = format!(
            "[core]\n\trepositoryformatversion = {version}\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
        );
        // Writing to a String cannot fail; neither can any of these.
        let mut add = |part: std::fmt::Arguments<'_>| text.write_fmt(part).unwrap_or_default();
        if format == "sha256" {
            add(format_args!("[extensions]\n\tobjectformat = sha256\n"));
        }
        let origin = recorded_url(self.source);
        if let Some(origin) = &origin {
            add(format_args!(
                "[remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
                quoted(origin)
            ));
            if self.source.read_only {
                add(format_args!(
                    "\tpushurl = {}\n",
                    quoted("read-only: pushing is disabled")
                ));
            }
        }
        if let (Some(branch), Some(_)) = (self.resolved.branch(), origin) {
            add(format_args!(
                "[branch {}]\n\tremote = origin\n\tmerge = refs/heads/{branch}\n",
                quoted(branch)
            ));
        }
        for module in self.modules {
            let url = reference::without_credentials(&module.url);
            add(format_args!(
                "[submodule {}]\n\tactive = true\n\turl = {}\n",
                quoted(&module.name),
                quoted(&url)
            ));
        }
        text
    }

    fn write_references(&self) -> Result<()> {
        let commit = format!("{}\n", self.resolved.commit);
        match (self.resolved.branch(), self.resolved.reference.as_deref()) {
            (Some(branch), _) => {
                self.write(&format!("refs/heads/{branch}"), &commit)?;
                if recorded_url(self.source).is_some() {
                    self.write(&format!("refs/remotes/origin/{branch}"), &commit)?;
                }
                self.write("HEAD", &format!("ref: refs/heads/{branch}\n"))
            }
            (None, Some(tag)) if tag.starts_with("refs/tags/") => {
                let object = self
                    .resolved
                    .tag_object
                    .as_ref()
                    .map_or(commit.clone(), |object| format!("{object}\n"));
                self.write(tag, &object)?;
                self.write("HEAD", &commit)
            }
            _ => self.write("HEAD", &commit),
        }
    }

    fn write(&self, name: &str, content: &str) -> Result<()> {
        let path = self.path.join(name);
        let parent = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .map_err(|error| Error::io("cannot write", &path, error))
    }
}

/// A value as git's configuration has it.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Modes and times that do not depend on the umask or the clock: 0755 for directories and what is executable, else 0644.
fn settle(path: &Path, time: Timespec) -> std::io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            settle(&entry?.path(), time)?;
        }
    }
    if !found.is_symlink() {
        let executable = found.is_dir() || found.permissions().mode() & 0o100 != 0;
        fs::set_permissions(
            path,
            fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }),
        )?;
    }
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_submodules_may_be_relative() {
        let check = |base: &str, url: &str, is: Option<&str>| {
            assert_eq!(relative_url(base, url).as_deref(), is, "{base} {url}")
        };
        check(
            "https://host/a/b.git",
            "../c.git",
            Some("https://host/a/c.git"),
        );
        check("https://host/a/b", "./c", Some("https://host/a/b/c"));
        check("https://host/a", "../../../c", None);
        check("git@host:a/b", "../c", Some("git@host:a/c"));
        check("git@host:a", "../c", Some("git@host:c"));
        check("/srv/a", "../c", Some("/srv/c"));
        check("/srv/a", "https://host/c", Some("https://host/c"));
    }
}
