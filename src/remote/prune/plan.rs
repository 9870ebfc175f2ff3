//! What to copy, to mark and to remove: pure data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::inventory::{Inventory, Known, PackUse};
use crate::model::{CommitId, PackId, RefName};
use crate::remote::format::PACK_HEADER_SIZE;
use crate::remote::layout;
use crate::remote::publish::Cost;

/// Packs of less than this part of a full one are put together once there are more than [`SMALL_PACKS`]: every update leaves
/// one, and each costs a pull a request.
const SMALL_PART: u64 = 4;

/// How many small packs are left alone.
const SMALL_PACKS: usize = 8;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlannedFile {
    /// Relative to the URL.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// A file that nothing needs and that stays for a while.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WaitingFile {
    /// Relative to the URL.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Seconds until it may be removed.
    pub seconds: u64,
}

/// A ref whose newest commit is packed again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RegroupPlan {
    /// The ref.
    #[serde(rename = "ref")]
    pub name: RefName,
    /// Bytes of content that are packed again.
    pub content_bytes: u64,
    /// What a client that has nothing fetches of packs.
    pub cost: Cost,
    /// What it would fetch if the commit were published afresh.
    pub fresh: Cost,
}

/// A pack that is copied.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RepackPlan {
    /// Which.
    pub pack: PackId,
    /// Its length.
    pub bytes: u64,
    /// How many of those are needed.
    pub live_bytes: u64,
}

impl RepackPlan {
    pub(super) fn of((pack, used): &(PackId, PackUse)) -> Self {
        Self { pack: *pack, bytes: used.length, live_bytes: used.live_bytes() }
    }
}

/// What pruning would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PrunePlan {
    /// Refs that there are.
    pub refs: usize,
    /// Commits that stay.
    pub commits: usize,
    /// Commits that go, now or in time.
    pub dropped: Vec<CommitId>,
    /// Refs whose newest commit is packed again.
    pub regroup: Vec<RegroupPlan>,
    /// Packs of which the living part is packed again or copied.
    pub repack: Vec<RepackPlan>,
    /// Files that nothing needs from now on.
    pub supersede: Vec<PlannedFile>,
    /// Files that nothing needed before and whose time has not come.
    pub waiting: Vec<WaitingFile>,
    /// Files that are removed.
    pub remove: Vec<PlannedFile>,
    /// Files that are needed again after they were not.
    pub restore: Vec<String>,
    /// Marks of files that are gone.
    #[serde(skip)]
    pub(super) stale_marks: Vec<String>,
    /// Bytes of the files that stay, those that wait counted.
    pub kept_bytes: u64,
}

/// Files and their bytes.
pub trait Counted {
    /// Bytes in all.
    fn bytes(&self) -> u64;
}

impl Counted for [PlannedFile] {
    fn bytes(&self) -> u64 {
        self.iter().map(|file| file.bytes).sum()
    }
}

impl Counted for [WaitingFile] {
    fn bytes(&self) -> u64 {
        self.iter().map(|file| file.bytes).sum()
    }
}

impl PackUse {
    fn live_bytes(&self) -> u64 {
        self.frames.values().map(|(length, _)| u64::from(*length)).sum()
    }

    fn is_mostly_dead(&self) -> bool {
        let dead = self.length.saturating_sub(self.live_bytes() + u64::from(PACK_HEADER_SIZE));
        dead > self.length / 2
    }
}

/// The packs of which what lives is worth copying: most of it is dead, or there are many small ones. In the order in which
/// they are named first. A full pack has `pack_size` bytes. Small packs of newest commits are left alone: these are regrouped.
pub(super) fn packs_to_copy(
    live: &BTreeMap<PackId, PackUse>,
    of_newest: &BTreeSet<PackId>,
    pack_size: u64,
) -> Vec<(PackId, PackUse)> {
    let is_small = |id: &PackId, pack: &PackUse| pack.length < pack_size / SMALL_PART && !of_newest.contains(id);
    let small = live.iter().filter(|(id, pack)| is_small(id, pack) && !pack.is_mostly_dead()).count();
    let wanted = |id: &PackId, pack: &PackUse| pack.is_mostly_dead() || (small > SMALL_PACKS && is_small(id, pack));
    let mut chosen: Vec<_> =
        live.iter().filter(|(id, pack)| wanted(id, pack)).map(|(id, pack)| (*id, pack.clone())).collect();
    chosen.sort_by_key(|(_, pack)| pack.order);
    chosen
}

/// Compares what there is with what is needed. `copied` are packs that nothing will need any more.
pub(super) fn plan(
    inventory: &Inventory,
    known: &Known,
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
    // Names before what they lead to, so that whoever is killed leaves nothing that leads nowhere.
    let place = |file: &PlannedFile| layout::REMOVABLE.iter().position(|directory| file.path.starts_with(directory));
    plan.remove.sort_by_key(place);
    plan.stale_marks = inventory.marks.keys().filter(|path| !inventory.files.contains_key(*path)).cloned().collect();
    plan
}

/// What is needed when `copied` packs are not, nor the locators that lead there.
fn needed_after(inventory: &Inventory, known: &Known, copied: &[(PackId, PackUse)]) -> BTreeSet<String> {
    let mut needed = inventory.needed(known);
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
    fn packs_are_copied_that_are_mostly_dead_or_small_among_many() {
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
        assert_eq!(packs_to_copy(&live, &newest, large).len(), 10, "nine small ones, and the dead one");
        let newest = BTreeSet::from([id(11)]);
        assert_eq!(ids(&packs_to_copy(&live, &newest, large)), [id(1)], "only eight of the others");
    }

    #[test]
    fn a_file_is_marked_then_waits_then_goes_and_comes_back_when_needed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let path = layout::pack(PackId::of(b"pack"));
        let commit = layout::commit(CommitId::of(b"commit"));
        let mut inventory = Inventory::default();
        inventory.files.extend([(path.clone(), 100), (commit.clone(), 7)]);
        let grace = Duration::from_secs(3600);
        let at = |inventory: &Inventory, now| plan(inventory, &Known::default(), &[], grace, now);
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
        // A clock that went back removes nothing.
        assert_eq!(at(&inventory, now - grace).waiting.len(), 2);
        // Without grace everything goes at once, marked or not.
        inventory.marks.clear();
        assert_eq!(plan(&inventory, &Known::default(), &[], Duration::ZERO, now).remove.len(), 2);
        // The mark of a file that is gone goes, too.
        inventory.files.clear();
        inventory.marks.insert(path.clone(), now);
        assert_eq!(at(&inventory, now).stale_marks, [path]);
    }
}
