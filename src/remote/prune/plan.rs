//! Decides what to copy, to mark and to remove. Pure.
//!
//! *Used by* `apply` and by dry runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::inventory::{Inventory, PackUse, PruneIndex};
use crate::model::{CommitId, PackId, RefName};
use crate::remote::format::PACK_HEADER_SIZE;
use crate::remote::layout;
use crate::remote::publish::FetchCost;

/// Packs smaller than this part of a full one are merged once there are more than [`SMALL_PACKS_MAX`]: every update
/// leaves one, and each costs a pull a request.
const SMALL_PACK_DIVISOR: u64 = 4;

/// The most small packs that are not merged.
const SMALL_PACKS_MAX: usize = 8;

/// A file that is marked or removed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PlannedFile {
    /// Relative to the URL.
    pub(crate) path: String,
    pub(crate) bytes: u64,
}

/// An unneeded file in its grace period.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct WaitingFile {
    /// Relative to the URL.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Seconds until it may be removed.
    pub(crate) seconds: u64,
}

/// A ref whose newest commit is packed again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RegroupPlan {
    #[serde(rename = "ref")]
    pub(crate) name: RefName,
    /// Bytes of content that are packed again.
    pub(crate) content_bytes: u64,
    /// What a client that has nothing fetches from packs.
    pub(crate) cost: FetchCost,
    /// What it would fetch if the commit were published afresh.
    pub(crate) fresh: FetchCost,
}

/// A pack that is copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RepackPlan {
    pub(crate) pack: PackId,
    pub(crate) bytes: u64,
    /// Bytes that are needed.
    pub(crate) live_bytes: u64,
}

impl RepackPlan {
    pub(super) fn of((pack, used): &(PackId, PackUse)) -> Self {
        Self { pack: *pack, bytes: used.length, live_bytes: used.live_bytes() }
    }
}

/// The plan of a prune.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct PrunePlan {
    /// Number of refs.
    pub(crate) refs: usize,
    /// Number of kept commits.
    pub(crate) commits: usize,
    /// Commits that are removed now or after their grace period.
    pub(crate) dropped: Vec<CommitId>,
    /// Refs whose newest commit is packed again.
    pub(crate) regroup: Vec<RegroupPlan>,
    /// Packs whose needed part is packed again or copied.
    pub(crate) repack: Vec<RepackPlan>,
    /// Files that are marked now.
    pub(crate) supersede: Vec<PlannedFile>,
    /// Marked files in their grace period.
    pub(crate) waiting: Vec<WaitingFile>,
    /// Files that are removed.
    pub(crate) remove: Vec<PlannedFile>,
    /// Marked files that are needed again.
    pub(crate) restore: Vec<String>,
    /// Marks of files that do not exist any more.
    #[serde(skip)]
    pub(super) stale_marks: Vec<String>,
    /// Bytes of the files that stay, including those in their grace period.
    pub(crate) kept_bytes: u64,
}

/// A list of files with a total length.
pub(crate) trait TotalBytes {
    /// Returns the total length in bytes.
    fn bytes(&self) -> u64;
}

impl TotalBytes for [PlannedFile] {
    fn bytes(&self) -> u64 {
        self.iter().map(|file| file.bytes).sum()
    }
}

impl TotalBytes for [WaitingFile] {
    fn bytes(&self) -> u64 {
        self.iter().map(|file| file.bytes).sum()
    }
}

impl PackUse {
    fn live_bytes(&self) -> u64 {
        self.frames.values().map(|(length, _)| u64::from(*length)).sum()
    }

    fn is_mostly_unneeded(&self) -> bool {
        let unneeded = self.length.saturating_sub(self.live_bytes() + u64::from(PACK_HEADER_SIZE));
        unneeded > self.length / 2
    }
}

/// Returns the packs whose needed frames are copied: those that are mostly unneeded, and small ones if there are many;
/// in the order in which they are first referenced. A full pack has `pack_size` bytes. Small packs of newest commits
/// are left out: these are regrouped.
pub(super) fn packs_to_copy(
    live: &BTreeMap<PackId, PackUse>,
    of_newest: &BTreeSet<PackId>,
    pack_size: u64,
) -> Vec<(PackId, PackUse)> {
    let is_small =
        |id: &PackId, pack: &PackUse| pack.length < pack_size / SMALL_PACK_DIVISOR && !of_newest.contains(id);
    let small = live.iter().filter(|(id, pack)| is_small(id, pack) && !pack.is_mostly_unneeded()).count();
    let wanted =
        |id: &PackId, pack: &PackUse| pack.is_mostly_unneeded() || (small > SMALL_PACKS_MAX && is_small(id, pack));
    let mut chosen: Vec<_> =
        live.iter().filter(|(id, pack)| wanted(id, pack)).map(|(id, pack)| (*id, pack.clone())).collect();
    chosen.sort_by_key(|(_, pack)| pack.order);
    chosen
}

/// Compares the existing with the needed files. `copied` are packs that will not be needed any more.
pub(super) fn plan(
    inventory: &Inventory,
    known: &PruneIndex,
    copied: &[(PackId, PackUse)],
    grace: Duration,
    now: SystemTime,
) -> PrunePlan {
    let needed = needed_after(inventory, known, copied);
    let mut plan = PrunePlan {
        refs: inventory.refs.len(),
        commits: inventory.commits.len(),
        repack: copied.iter().map(RepackPlan::of).collect(),
        ..PrunePlan::default()
    };
    for (path, &bytes) in &inventory.files {
        let mark = inventory.marks.get(path);
        if needed.contains(path) {
            plan.restore.extend(mark.map(|_| path.clone()));
            plan.kept_bytes += bytes;
            continue;
        }
        plan.dropped.extend(path.strip_prefix("commits/").and_then(|id| id.parse::<CommitId>().ok()));
        let file = PlannedFile { path: path.clone(), bytes };
        let age = mark.map_or(Duration::ZERO, |since| now.duration_since(*since).unwrap_or_default());
        let Some(left) = grace.checked_sub(age).filter(|left| !left.is_zero()) else {
            plan.remove.push(file);
            continue;
        };
        plan.kept_bytes += bytes;
        match mark {
            None => plan.supersede.push(file),
            Some(_) => plan.waiting.push(WaitingFile { path: file.path, bytes, seconds: left.as_secs() }),
        }
    }
    // Names are removed before the files they lead to, so that a prune that is killed leaves no name that leads
    // nowhere.
    let place = |file: &PlannedFile| layout::REMOVABLE.iter().position(|directory| file.path.starts_with(directory));
    plan.remove.sort_by_key(place);
    plan.stale_marks = inventory.marks.keys().filter(|path| !inventory.files.contains_key(*path)).cloned().collect();
    plan
}

/// Returns the needed files without the `copied` packs and without the locators that lead to them.
fn needed_after(inventory: &Inventory, known: &PruneIndex, copied: &[(PackId, PackUse)]) -> BTreeSet<String> {
    let mut needed = inventory.needed_files(known);
    let copied: BTreeSet<PackId> = copied.iter().map(|(pack, _)| *pack).collect();
    for (locator, packs) in &known.packs_of {
        if packs.iter().any(|pack| copied.contains(&pack.id)) {
            needed.remove(&layout::locator(*locator));
        }
    }
    for pack in copied {
        needed.remove(&layout::pack(pack));
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(length: u64, live: u32) -> PackUse {
        PackUse { order: 0, length, frames: BTreeMap::from([(PACK_HEADER_SIZE, (live, live))]) }
    }

    fn ids(chosen: &[(PackId, PackUse)]) -> Vec<PackId> {
        chosen.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn packs_are_copied_if_mostly_unneeded_or_many_are_small() {
        let id = |number: u32| PackId::of(&number.to_le_bytes());
        let large = 1 << 20;
        let mut live = BTreeMap::from([
            (id(0), used(large, u32::try_from(large / 2).expect("small"))),
            (id(1), used(large, u32::try_from(large / 2 - 100).expect("small"))),
            (id(2), used(1000, 984)),
        ]);
        let newest = BTreeSet::new();
        assert_eq!(ids(&packs_to_copy(&live, &newest, large)), [id(1)]);
        live.extend((10..18).map(|number| (id(number), used(5000, 4000))));
        assert_eq!(packs_to_copy(&live, &newest, large).len(), 10, "nine small packs, and the unneeded one");
        let newest = BTreeSet::from([id(11)]);
        assert_eq!(ids(&packs_to_copy(&live, &newest, large)), [id(1)], "only eight of the others");
    }

    #[test]
    fn unneeded_file_is_marked_then_kept_then_removed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let path = layout::pack(PackId::of(b"pack"));
        let commit = layout::commit(CommitId::of(b"commit"));
        let mut inventory = Inventory::default();
        inventory.files.extend([(path.clone(), 100), (commit.clone(), 7)]);
        let grace = Duration::from_secs(3600);
        let at = |inventory: &Inventory, now| plan(inventory, &PruneIndex::default(), &[], grace, now);
        let first = at(&inventory, now);
        assert_eq!((first.supersede.bytes(), first.remove.len(), first.kept_bytes), (107, 0, 107));
        assert_eq!(first.dropped, [CommitId::of(b"commit")]);
        inventory.marks.extend([(path.clone(), now), (commit.clone(), now)]);
        let later = now + Duration::from_secs(3599);
        let second = at(&inventory, later);
        assert_eq!((second.waiting.bytes(), second.waiting[0].seconds), (107, 1));
        assert_eq!((second.supersede.len(), second.remove.len()), (0, 0));
        let third = at(&inventory, now + grace);
        assert_eq!(third.remove.iter().map(|file| &file.path).collect::<Vec<_>>(), [&commit, &path], "names first");
        // A clock that was set back removes nothing.
        assert_eq!(at(&inventory, now - grace).waiting.len(), 2);
        // Without a grace period everything is removed at once, marked or not.
        inventory.marks.clear();
        assert_eq!(plan(&inventory, &PruneIndex::default(), &[], Duration::ZERO, now).remove.len(), 2);
        // The mark of a file that does not exist any more is removed, too.
        inventory.files.clear();
        inventory.marks.insert(path.clone(), now);
        assert_eq!(at(&inventory, now).stale_marks, [path]);
    }
}
