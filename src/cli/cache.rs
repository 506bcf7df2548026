//! `cache du`, `cache prune`: what the store holds, and what of it goes.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::args::Format;
use super::args::cache::{CacheCommand, PruneArguments, UsageArguments};
use super::exit::Exit;
use super::render::{age, size};
use super::report::Stop;
use super::request::print;
use crate::backend::embedded::Embedded;
use crate::engine::clock::Clock;
use crate::image::Name;
use crate::store::{Entry, Group, GroupKind, Prune, Pruned, Row, groups};

/// Carries out a command of `cache`.
pub(super) fn run(command: &CacheCommand, store: &Path) -> Result<Exit, Stop> {
    match command {
        CacheCommand::Du(arguments) => usage(arguments, store),
        CacheCommand::Prune(arguments) => prune(arguments, store),
    }
}

fn usage(arguments: &UsageArguments, store: &Path) -> Result<Exit, Stop> {
    let now_ms = Clock::system().now().as_millis() as u64;
    let inventory = Embedded.inventory(store).map_err(Stop::from)?;
    let filters = &arguments.filter.filters;
    let groups = groups(&inventory, |entry| {
        filters.iter().all(|filter| filter.accepts(entry, now_ms))
    });
    let sum = |of: fn(&Row<'_>) -> u64| groups.iter().flat_map(|group| &group.rows).map(of).sum();
    let index_bytes = if filters.is_empty() {
        inventory.index_bytes
    } else {
        0
    };
    let totals = Totals {
        total_bytes: index_bytes + sum(|row| row.size_bytes),
        reclaimable_bytes: sum(|row| row.reclaimable_bytes),
    };
    if arguments.format == Format::Json {
        let groups: Vec<_> = groups
            .iter()
            .map(|group| group_json(group, arguments.verbose))
            .collect();
        let usage = json!({
            "total_bytes": totals.total_bytes,
            "reclaimable_bytes": totals.reclaimable_bytes,
            "index_bytes": index_bytes,
            "disk": {
                "total_bytes": inventory.disk.total_bytes,
                "free_bytes": inventory.disk.free_bytes,
            },
            "groups": groups,
        });
        print(&format!("{usage:#}\n"));
        return Ok(Exit::Done);
    }
    let mut table = Table::default();
    for group in &groups {
        table.group(group, arguments.verbose, now_ms);
    }
    if index_bytes > 0 {
        table.put(0, "INDEX", &size(index_bytes), "", "");
    }
    let mut text = table.text();
    text.push_str(&format!(
        "\nReclaimable:  {}\nTotal:        {}\n",
        size(totals.reclaimable_bytes),
        size(totals.total_bytes)
    ));
    print(&text);
    Ok(Exit::Done)
}

#[derive(Debug, Clone, Copy)]
struct Totals {
    total_bytes: u64,
    reclaimable_bytes: u64,
}

/// One thing, as `--verbose` has it.
#[derive(Debug, Serialize)]
struct Single<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    size_bytes: Option<u64>,
    created_ms: u64,
    used_ms: u64,
    in_use: bool,
    kept_by: Option<&'static str>,
    mutable: bool,
    shared: bool,
    description: &'a str,
}

impl<'a> Single<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self {
            id: &entry.id,
            kind: entry.kind.name(),
            size_bytes: entry.size,
            created_ms: entry.created_ms,
            used_ms: entry.used_ms,
            in_use: entry.keeper.is_some(),
            kept_by: entry.keeper.map(|keeper| keeper.name()),
            mutable: entry.is_mutable(),
            shared: entry.is_shared(),
            description: &entry.description,
        }
    }
}

fn group_json(group: &Group<'_>, verbose: bool) -> serde_json::Value {
    let row = |row: &Row<'_>| {
        let mut shown = json!({
            "name": row.name,
            "part": row.part,
            "size_bytes": row.size_bytes,
            "reclaimable_bytes": row.reclaimable_bytes,
            "unmeasured": row.unmeasured,
            "used_ms": row.used_ms,
            "in_use": row.keeper.is_some(),
            "kept_by": row.keeper.map(|keeper| keeper.name()),
            "count": row.entries.len(),
        });
        if verbose {
            let records: Vec<Single<'_>> =
                row.entries.iter().map(|entry| Single::of(entry)).collect();
            shown["records"] = serde_json::to_value(records).unwrap_or_default();
        }
        shown
    };
    json!({
        "group": group.kind.name(),
        "size_bytes": group.size_bytes(),
        "rows": group.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Lines of four columns.
#[derive(Debug, Default)]
struct Table(Vec<[String; 4]>);

impl Table {
    fn put(&mut self, indent: usize, name: &str, size: &str, used: &str, keeper: &str) {
        let name = format!("{}{name}", "  ".repeat(indent));
        self.0
            .push([name, size.to_owned(), used.to_owned(), keeper.to_owned()]);
    }

    fn group(&mut self, group: &Group<'_>, verbose: bool, now_ms: u64) {
        self.put(0, title(group.kind), &size(group.size_bytes()), "", "");
        let mut project = None;
        for row in &group.rows {
            let mut indent = 1;
            let mut name = match group.kind {
                GroupKind::Images => Name::familiar(&row.name),
                _ => &row.name,
            };
            if let Some(part) = &row.part {
                if project != Some(&row.name) {
                    self.put(1, name, "", "", "");
                    project = Some(&row.name);
                }
                indent = 2;
                name = part;
            } else if project == Some(&row.name) {
                indent = 2;
                name = "earlier builds";
            }
            let shown = match row.unmeasured {
                0 => size(row.size_bytes),
                count if count == row.entries.len() => "not measured yet".to_owned(),
                _ => format!("over {}", size(row.size_bytes)),
            };
            let keeper = row.keeper.map_or("", |keeper| keeper.name());
            self.put(indent, name, &shown, &ago(row.used_ms, now_ms), keeper);
            if verbose {
                for entry in &row.entries {
                    let id: String = entry.id.chars().take(19).collect();
                    let first = entry.description.lines().next().unwrap_or_default();
                    let first: String = first.chars().take(60).collect();
                    let shown = entry
                        .size
                        .map_or_else(|| "not measured yet".to_owned(), size);
                    let keeper = entry.keeper.map_or("", |keeper| keeper.name());
                    let name = format!("{id}  {first}");
                    self.put(
                        indent + 1,
                        &name,
                        &shown,
                        &ago(entry.used_ms, now_ms),
                        keeper,
                    );
                }
            }
        }
    }

    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.0.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let (name_width, size_width, used_width) = (width(0), width(1).max(4), width(2).max(9));
        let mut text = format!(
            "{:name_width$}  {:>size_width$}  {:used_width$}  KEPT BY\n",
            "", "SIZE", "LAST USED"
        );
        for [name, size, used, keeper] in &self.0 {
            let line =
                format!("{name:name_width$}  {size:>size_width$}  {used:used_width$}  {keeper}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn title(kind: GroupKind) -> &'static str {
    match kind {
        GroupKind::Images => "IMAGES",
        GroupKind::Builds => "BUILDS",
        GroupKind::CacheMounts => "CACHE MOUNTS",
        GroupKind::Git => "GIT",
        GroupKind::Downloads => "DOWNLOADS",
        GroupKind::Habitats => "HABITATS",
        GroupKind::Leftovers => "LEFTOVERS",
    }
}

fn ago(used_ms: u64, now_ms: u64) -> String {
    match used_ms {
        0 => String::new(),
        _ => format!("{} ago", age(now_ms.saturating_sub(used_ms) / 1000)),
    }
}

fn prune(arguments: &PruneArguments, store: &Path) -> Result<Exit, Stop> {
    let wish = Prune {
        all: arguments.all,
        filters: arguments.filter.filters.clone(),
        max_used: arguments.max_used_space,
        min_free: arguments.min_free_space,
        reserved: arguments.reserved_space,
        dry_run: arguments.dry_run,
    };
    if !arguments.force && !arguments.dry_run && std::io::stdin().is_terminal() && !agreed(&wish) {
        return Ok(Exit::Done);
    }
    let pruned = Embedded.prune(store, wish).map_err(Stop::from)?;
    match arguments.format {
        Format::Json => {
            let shown = serde_json::to_value(&pruned).unwrap_or_default();
            print(&format!("{shown:#}\n"));
        }
        Format::Text => print(&pruned_text(&pruned, arguments)),
    }
    Ok(Exit::Done)
}

/// Asks on the terminal.
fn agreed(wish: &Prune) -> bool {
    let what = match wish.all {
        true => {
            "everything that no image with a name, no habitat and nobody at work needs, what last builds need as well"
        }
        false => {
            "everything that no image with a name, no last build of a project, no habitat and nobody at work needs"
        }
    };
    let mut errors = std::io::stderr().lock();
    drop(write!(errors, "This deletes {what}. Go on? [y/N] ").and_then(|()| errors.flush()));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

fn pruned_text(pruned: &Pruned, arguments: &PruneArguments) -> String {
    let mut text = String::new();
    if arguments.verbose {
        for removed in &pruned.removed {
            let id: String = removed.id.chars().take(19).collect();
            let first = removed.description.lines().next().unwrap_or_default();
            text.push_str(&format!(
                "{id:19}  {:>9}  {first}\n",
                size(removed.size_bytes)
            ));
        }
    } else {
        let mut by_type: Vec<(&str, usize, u64)> = Vec::new();
        for removed in &pruned.removed {
            match by_type.iter_mut().find(|(kind, ..)| *kind == removed.kind) {
                Some((_, count, bytes)) => {
                    *count += 1;
                    *bytes += removed.size_bytes;
                }
                None => by_type.push((&removed.kind, 1, removed.size_bytes)),
            }
        }
        for (kind, count, bytes) in by_type {
            text.push_str(&format!("{kind:20}  {count:>5}  {:>9}\n", size(bytes)));
        }
    }
    let done = if arguments.dry_run {
        "Would free"
    } else {
        "Freed"
    };
    text.push_str(&format!(
        "{:14}{}\n{:14}{}\n",
        format!("{done}:"),
        size(pruned.removed_bytes),
        "Left:",
        size(pruned.total_bytes)
    ));
    text
}
