//! How large a store may get, and how that is held to after builds.

use serde::{Deserialize, Serialize};

use super::census::Number;
use super::history::History;
use super::inventory::{Disk, Inventory};
use super::prune::{Prune, Space, choose};
use super::{Store, StoreError};

const DAY_MS: u64 = 24 * 3_600_000;
/// How often everything is looked through although nothing seems to be the matter.
const LOOK_EVERY_MS: u64 = DAY_MS;
/// How old the size of something that changes may get.
const MEASURE_EVERY_MS: u64 = 3_600_000;
/// How long what was put aside is kept for those who want to know what happened.
const DAMAGED_KEPT_MS: u64 = 7 * DAY_MS;
/// What part of everything may have come since it was counted.
const UNCOUNTED: u64 = 50;
/// From what part of the budget on it matters what was not measured yet, and below how many bytes it always does.
const UNMEASURED: u64 = 4;
const MEASURED_BELOW: u64 = 1 << 30;
/// What part of the budget is made free when it is used up.
const ROOM: u64 = 16;
/// How much more there has to be, after not enough could be deleted, until it is tried again.
const MORE: f64 = 1.05;

/// How large a store may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// What it may take of the disk; `None`: all of it.
    pub max: Option<Space>,
    /// How long something is kept that nothing uses, in milliseconds; `None`: as long as there is room.
    pub keep_ms: Option<u64>,
    /// What has to stay free for others, as long as something can be deleted for it.
    pub min_free: Option<Space>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max: Some(Space::Percent(10)),
            keep_ms: Some(60 * DAY_MS),
            min_free: Some(Space::Percent(5)),
        }
    }
}

impl Limits {
    /// How much of what there is may stay; `None`: all of it.
    fn keep_bytes(&self, total_bytes: u64, disk: Disk) -> Option<u64> {
        let max = self.max.map(|max| max.bytes(disk));
        let missing = self
            .min_free
            .map_or(0, |free| free.bytes(disk).saturating_sub(disk.free_bytes));
        // A disk that others have filled is no reason to keep nothing at all.
        let reserved = max.unwrap_or(disk.total_bytes) / 10;
        let for_others = (missing > 0).then(|| total_bytes.saturating_sub(missing).max(reserved));
        match (max, for_others) {
            (Some(max), Some(left)) => Some(max.min(left)),
            (max, left) => max.or(left),
        }
        .filter(|keep| *keep < total_bytes)
    }
}

impl Store {
    /// Deletes what is too much or too old, after a build. Costs next to nothing where nothing is. What an image with a
    /// name, the last build of a project, or anybody at work needs stays. Returns what a person should know: that not
    /// enough could be deleted. Only the engine child may do that.
    pub(crate) fn tidy(&self, limits: &Limits, now_ms: u64) -> Result<Option<String>, StoreError> {
        let index = self.index()?;
        self.measure_changing(now_ms, MEASURE_EVERY_MS)?;
        let written = self.written_bytes();
        let files = index.number(Number::FileBytes)?;
        if written > 0 {
            index.put_number(Number::FileBytes, files.unwrap_or(0) + written)?;
        }
        let others = files.unwrap_or(0) + written + self.sqlite_bytes()?;
        let mut total = index.tree_bytes()? + others;
        let disk = self.disk()?;
        let may_be_much = (total * UNMEASURED).max(MEASURED_BELOW);
        if limits.keep_bytes(may_be_much, disk).is_some() {
            self.measure_new()?;
            total = index.tree_bytes()? + others;
        }
        let looked_ms = index.number(Number::LookedThroughMs)?.unwrap_or(0);
        let is_due = looked_ms.saturating_add(LOOK_EVERY_MS) < now_ms || files.is_none();
        let stuck = index.number(Number::StuckAtBytes)?.unwrap_or(0);
        // Names and the like are counted only when everything is looked through.
        let is_much = limits.keep_bytes(total + total / UNCOUNTED, disk).is_some();
        let is_more = total as f64 > stuck as f64 * MORE;
        if !(is_due || is_much && is_more) {
            return Ok(None);
        }
        self.tidy_thoroughly(limits, now_ms)
    }

    fn tidy_thoroughly(&self, limits: &Limits, now_ms: u64) -> Result<Option<String>, StoreError> {
        // Another process that does the same does it for both.
        let Some(_alone) = self.try_deleting()? else {
            return Ok(None);
        };
        self.measure(now_ms, MEASURE_EVERY_MS)?;
        // No build waits for this: the next one will do it.
        let Some(nobody_looks) = self.soon_nobody_looks()? else {
            return Ok(None);
        };
        let pruned = self.delete_chosen(nobody_looks, now_ms, |inventory| {
            let mut chosen = choose(inventory, &Prune::default(), now_ms, &|entry| {
                entry.is_orphan()
                    || (entry.is_damaged() && entry.used_ms + DAMAGED_KEPT_MS < now_ms)
                    || limits
                        .keep_ms
                        .is_some_and(|keep_ms| entry.used_ms.saturating_add(keep_ms) < now_ms)
            });
            let left = left(inventory, &chosen);
            if let Some(keep) = limits.keep_bytes(left, inventory.disk) {
                let space = Prune {
                    // A little more than has to be, so that not every build deletes something.
                    max_used: Some(Space::Bytes(keep - keep / ROOM)),
                    ..Prune::default()
                };
                for at in choose(inventory, &space, now_ms, &|entry| !entry.is_damaged()) {
                    if !chosen.contains(&at) {
                        chosen.push(at);
                    }
                }
            }
            chosen
        })?;
        History::of(self.path()).keep(|_| true)?;
        let index = self.index()?;
        if let Some(keep_ms) = limits.keep_ms {
            index.forget_before(now_ms.saturating_sub(keep_ms))?;
        }
        let left = pruned.total_bytes;
        let disk = self.disk()?;
        let too_much = limits.keep_bytes(left, disk).is_some();
        index.put_number(Number::LookedThroughMs, now_ms)?;
        let stuck = index.number(Number::StuckAtBytes)?.unwrap_or(0);
        index.put_number(Number::StuckAtBytes, if too_much { left } else { 0 })?;
        if !too_much || left as f64 <= stuck as f64 * MORE {
            return Ok(None);
        }
        let limit = match limits.max.map(|max| max.bytes(disk)) {
            Some(max) if left > max => format!("it may have {}", in_words(max)),
            _ => format!("the disk has {} left", in_words(disk.free_bytes)),
        };
        Ok(Some(format!(
            "the store holds {}, and {limit}: all of that belongs to images with names, to the last builds of projects, or to \
             habitats; `shmocker cache du` shows what, `shmocker rmi` and `shmocker cache prune --all` delete it",
            in_words(left)
        )))
    }
}

fn left(inventory: &Inventory, chosen: &[usize]) -> u64 {
    let gone = chosen.iter().filter_map(|at| inventory.entries[*at].size);
    inventory.total_bytes().saturating_sub(gone.sum())
}

/// `1.5 GB`.
fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_how_much_may_stay() {
        let disk = Disk {
            total_bytes: 1000,
            free_bytes: 100,
        };
        let limits = |max: Option<u64>, min_free: Option<u64>| Limits {
            max: max.map(Space::Bytes),
            keep_ms: None,
            min_free: min_free.map(Space::Bytes),
        };
        let keep = |limits: Limits| limits.keep_bytes(500, disk);
        assert_eq!(keep(limits(None, None)), None);
        assert_eq!(keep(limits(Some(600), Some(50))), None);
        assert_eq!(keep(limits(Some(400), None)), Some(400));
        assert_eq!(keep(limits(None, Some(150))), Some(450));
        assert_eq!(keep(limits(Some(400), Some(150))), Some(400));
        assert_eq!(keep(limits(Some(480), Some(150))), Some(450));
        // However full the disk is, a tenth of what it might have is kept.
        assert_eq!(keep(limits(Some(600), Some(1000))), Some(60));
        assert_eq!(Space::Percent(10).bytes(disk), 100);
    }
}
