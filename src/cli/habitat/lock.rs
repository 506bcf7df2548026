//! `habitat lock`, `outdated` and `upgrade`: the lock file beside a habitat. It is read by every command that builds or
//! says what would be built; it is written here alone.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::super::args::habitat::{
    AskArguments, LockArguments, OutdatedArguments, UpgradeArguments,
};
use super::super::args::{Format, MeansArguments};
use super::super::environment::Environment;
use super::super::exit::Exit;
use super::super::report::Stop;
use super::super::request::{Draft, print};
use super::Ready;
use crate::backend::embedded::Embedded;
use crate::dockerfile::suggest::nearest;
use crate::engine::failure::{Failure, FailureKind, Place};
use crate::engine::lock::{self, Entry, FileError, Lock, Mode, Outdated};
use crate::engine::work::{self, Freshness, Work};
use crate::graph::{ImageSource, Source};
use crate::habitat::Purpose;
use crate::net::redacted;

/// `habitat lock`: what is pinned and still asked for stays, what is not pinned is, what is not asked for goes.
pub(super) fn pin(
    arguments: LockArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let asked = Asked::of(arguments.ask, environment)?;
    asked.pin(&store, environment, &[])
}

/// `habitat upgrade`.
pub(super) fn upgrade(
    arguments: UpgradeArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let mut asked = Asked::of(arguments.ask, environment)?;
    let lock = asked.ready.lock(&mut asked.draft.work)?;
    let mut chosen = Vec::new();
    for name in &arguments.names {
        chosen.push(named(lock, name)?);
    }
    if arguments.names.is_empty() {
        chosen = lock
            .entries
            .iter()
            .map(|entry| entry.source.clone())
            .collect();
    }
    asked.pin(&store, environment, &chosen)
}

/// `habitat outdated`.
pub(super) fn outdated(
    arguments: OutdatedArguments,
    store: PathBuf,
    environment: &Environment,
) -> Result<Exit, Stop> {
    let mut asked = Asked::of(arguments.ask, environment)?;
    let Some(lock) = &mut asked.draft.work.lock else {
        let message = format!("`{}` has no lock file", asked.ready.config.shown());
        let help = format!(
            "`shmocker habitat lock {}` makes it",
            asked.ready.config.shown()
        );
        return Err(Failure::new(FailureKind::Input, "lock::none", message)
            .with_help(help)
            .into());
    };
    lock.mode = Mode::Ignored;
    let events = asked.draft.events(environment);
    let mut outdated = Embedded
        .outdated(&asked.draft.work, &store, events.as_ref())
        .map_err(|failures| asked.ready.with_texts(Stop::from(failures)))?;
    outdated.sort_by(|one, other| (&one.source, &one.name).cmp(&(&other.source, &other.name)));
    match arguments.format {
        Format::Json => print(&format!(
            "{:#}\n",
            serde_json::to_value(&outdated).unwrap_or_default()
        )),
        Format::Text => print(&table(&outdated)),
    }
    Ok(Exit::Done)
}

fn table(outdated: &[Outdated]) -> String {
    if outdated.is_empty() {
        return "everything is as it is pinned\n".to_owned();
    }
    let rows = outdated.iter().map(|row| {
        let locked = row
            .locked
            .clone()
            .unwrap_or_else(|| "not locked".to_owned());
        let available = match (&row.available, &row.locked) {
            (Some(available), _) => available.clone(),
            (None, Some(_)) => "gone".to_owned(),
            (None, None) => String::new(),
        };
        [row.name.clone(), locked, available]
    });
    let head = ["name", "locked", "available"].map(str::to_owned);
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let (name, locked) = (width(0), width(1));
    let line = |row: &[String; 3]| {
        let line = format!("{:<name$}  {:<locked$}  {}", row[0], row[1], row[2]);
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// The source that a name stands for: its own name, or a part of it that no other has.
fn named(lock: &Lock, name: &str) -> Result<String, Stop> {
    let sources = || lock.entries.iter().map(|entry| entry.source.as_str());
    if let Some(found) = sources().find(|source| *source == name) {
        return Ok(found.to_owned());
    }
    let mut found: Vec<&str> = sources().filter(|source| source.contains(name)).collect();
    found.dedup();
    let (message, help) = match found.as_slice() {
        [one] => return Ok((*one).to_owned()),
        [] => {
            let holds = lock.entries.iter().find(|entry| holds(entry, name));
            let near = nearest(name, sources());
            let help = match (holds, near) {
                (Some(entry), _) => format!(
                    "`{name}` is a package of `{}`: the packages of an archive go together, so upgrade that",
                    entry.source
                ),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => format!("it has {}", sources().collect::<Vec<_>>().join(", ")),
            };
            (format!("{} has no `{name}`", lock.file), help)
        }
        several => (
            format!("`{name}` may be several sources of {}", lock.file),
            format!("name one of {}", several.join(", ")),
        ),
    };
    Err(
        Failure::new(FailureKind::Input, "lock::unknown_name", message)
            .with_help(help)
            .into(),
    )
}

/// Whether an entry is a base that has a package of this name.
fn holds(entry: &Entry, name: &str) -> bool {
    match &entry.pin {
        lock::Pin::Debian(pin) => pin
            .base
            .iter()
            .chain(&pin.packages)
            .any(|package| package.name == name),
        _ => false,
    }
}

/// A habitat whose sources are asked.
struct Asked {
    ready: Ready,
    draft: Draft,
}

impl Asked {
    fn of(arguments: AskArguments, environment: &Environment) -> Result<Self, Stop> {
        let ready = Ready::read(&arguments.habitat, Purpose::Build, environment)?;
        let means = MeansArguments {
            watch: arguments.watch,
            ..MeansArguments::default()
        };
        let mut draft = Draft::with(means, environment)?;
        draft.work.freshness = Freshness::Now;
        ready.fill(&mut draft.work, environment)?;
        Ok(Self { ready, draft })
    }

    /// Pins what is not pinned, and `anew` as if it were not.
    fn pin(
        mut self,
        store: &Path,
        environment: &Environment,
        anew: &[String],
    ) -> Result<Exit, Stop> {
        let before = self.ready.lock(&mut self.draft.work)?.entries.clone();
        let platform = self.draft.work.platform.clone();
        let is_here = |entry: &Entry| {
            let of = entry.platform.as_ref();
            of.is_none_or(|of| *of == platform)
        };
        let lock = self.ready.lock(&mut self.draft.work)?;
        lock.entries
            .retain(|entry| !(is_here(entry) && anew.contains(&entry.source)));
        let file = lock.file.clone();
        let events = self.draft.events(environment);
        let mut entries = Embedded
            .pins(&self.draft.work, store, events.as_ref())
            .map_err(|failures| self.ready.with_texts(Stop::from(failures)))?;
        // What is pinned for another platform is none of this machine's.
        let others = before.iter().filter(|entry| !is_here(entry)).cloned();
        entries.extend(others);
        entries.dedup();
        let text = lock::print(&entries);
        let path = self.ready.config.lock_path();
        let known = std::fs::read_to_string(&path).ok();
        if known.as_deref() != Some(&text) {
            write(&path, &text)?;
        }
        print(&summary(&file, &before, &entries));
        Ok(Exit::Done)
    }
}

/// What became of the lock, in one line for each source.
fn summary(file: &str, before: &[Entry], now: &[Entry]) -> String {
    let same =
        |one: &Entry, other: &Entry| one.source == other.source && one.platform == other.platform;
    let mut lines: Vec<String> = Vec::new();
    for entry in now {
        let was = before.iter().find(|known| same(known, entry));
        let said = entry.pin.spoken();
        match was {
            None => lines.push(format!("pinned   {}  {said}", entry.source)),
            Some(was) if was.pin != entry.pin => {
                let was = was.pin.spoken();
                lines.push(format!("changed  {}  {was} -> {said}", entry.source));
            }
            Some(_) => {}
        }
    }
    let gone = before
        .iter()
        .filter(|was| !now.iter().any(|entry| same(was, entry)));
    lines.extend(gone.map(|was| format!("dropped  {}", was.source)));
    lines.sort();
    let count = now.len();
    let sources = if count == 1 { "source" } else { "sources" };
    lines.push(format!("{file} pins {count} {sources}"));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Writes a file in whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Stop> {
    let unwritable = |error: &std::io::Error| {
        let message = format!("`{}` cannot be written", path.display());
        Stop::from(Failure::caused(
            FailureKind::Machine,
            "cli::write",
            message,
            error,
        ))
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    let unfinished = directory.join(format!(
        ".{}.{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let written = std::fs::File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&unfinished, path));
    written.map_err(|error| {
        // It may not even be there.
        drop(std::fs::remove_file(&unfinished));
        unwritable(&error)
    })
}

impl super::Config {
    /// Where the lock file is, or would be.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.path().with_extension("lock")
    }

    /// What it is called in messages.
    fn lock_shown(&self) -> String {
        let shown = Path::new(self.shown()).with_extension("lock");
        shown.display().to_string()
    }

    /// The pins in the lock file, if there is one.
    pub(super) fn lock_entries(&self) -> Result<Option<Vec<Entry>>, Stop> {
        let path = self.lock_path();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("the lock file `{}` cannot be read", path.display());
                let failure =
                    Failure::caused(FailureKind::Input, "lock::unreadable", message, &error);
                return Err(failure
                    .with_help("see that it is a file that you may read")
                    .into());
            }
        };
        let file = self.lock_shown();
        lock::parse(&text).map(Some).map_err(|error| {
            let mut failure = Failure::from_diagnostic(FailureKind::Input, &error);
            if let FileError::Malformed { line, .. } = error {
                failure.place = Some(Place {
                    file: file.clone(),
                    line: line.max(1),
                    span: None,
                });
            }
            Stop::from(failure).with_text(&file, &text)
        })
    }

    /// What the lock file knows of downloads: the SHA-256 by address.
    pub(super) fn lock_sums(&self) -> Result<BTreeMap<String, String>, Stop> {
        let entries = self.lock_entries()?.unwrap_or_default();
        let sums = entries.into_iter().filter_map(|entry| match entry.pin {
            lock::Pin::Http(pin) => Some((entry.source, pin.sha256.hex())),
            _ => None,
        });
        Ok(sums.collect())
    }
}

impl Ready {
    /// The lock of a filled work; an empty one where there is none.
    pub(super) fn lock<'w>(&self, work: &'w mut Work) -> Result<&'w mut Lock, Stop> {
        let places = self.source_places(work);
        let lock = work.lock.get_or_insert_with(|| self.empty_lock());
        lock.places = places
            .into_iter()
            .filter_map(|(source, place)| Some((lock.name(&source)?, place)))
            .collect();
        Ok(lock)
    }

    fn empty_lock(&self) -> Lock {
        let path = self.config.lock_path();
        Lock {
            file: self.config.lock_shown(),
            habitat: self.config.shown().to_owned(),
            directory: path.parent().map(Path::to_owned).unwrap_or_default(),
            mode: Mode::Open,
            entries: Vec::new(),
            places: Vec::new(),
        }
    }

    /// The lock file, if there is one.
    pub(super) fn read_lock(&self, work: &mut Work) -> Result<(), Stop> {
        if let Some(entries) = self.config.lock_entries()? {
            self.lock(work)?.entries = entries;
        }
        Ok(())
    }

    /// Pins the downloads of tools that say nothing of what they have to be: the first build decides.
    pub(super) fn record(&self, downloads: &[Entry]) -> Result<(), Stop> {
        let is_tool = |entry: &&Entry| {
            let mut tools = self.rendered.downloads.iter();
            tools.any(|tool| tool.sha256.is_none() && redacted(&tool.url) == entry.source)
        };
        let found: Vec<Entry> = downloads.iter().filter(is_tool).cloned().collect();
        if found.is_empty() {
            return Ok(());
        }
        let mut entries = self.config.lock_entries()?.unwrap_or_default();
        entries.extend(found);
        write(&self.config.lock_path(), &lock::print(&entries))
    }

    /// Where the habitat asks for its sources.
    fn source_places(&self, work: &Work) -> Vec<(Source, Place)> {
        let places = self.rendered.contexts.iter().filter_map(|context| {
            let span = context.span?;
            let (_, place) = work
                .contexts
                .iter()
                .find(|(name, _)| *name == context.name)?;
            match place {
                work::Place::Source(source) => Some((source.clone(), self.config.spot(span))),
                _ => None,
            }
        });
        let image = self.base_image.as_ref().and_then(|(name, span)| {
            let name: crate::image::Name = name.parse().ok()?;
            let source = Source::Image(ImageSource::new(name.to_string()));
            Some((source, self.config.spot(*span)))
        });
        places.chain(image).collect()
    }
}
