//! Computes what a client that has nothing fetches for one commit, and chooses published contents to pack again.
//!
//! The contents of a commit are spread over the packs of earlier publishes. This module decides when that makes the
//! commit expensive to fetch, and which contents to pack again.
//!
//! *Not here*: packing.
//!
//! *Invariants*: pure; costs are computed by the same function that plans the requests of a pull.
//!
//! *Used by* `publish` for commits that are about to be named and by `prune` for named ones.

use std::collections::{BTreeMap, HashMap};

use super::locations::ObjectLocations;
use crate::model::{ObjectId, PackId};
use crate::remote::fetch::{REQUEST_SIZE, group_requests};
use crate::remote::format::{PackFrame, PackRef};

/// A pack is not merged with smaller ones if its needed part is more than this many times as large as that of the
/// previous one, unless the request limit requires it: merging small packs with much larger ones would write the same
/// contents repeatedly.
const MERGE_RATIO_MAX: u64 = 2;

/// The bytes of published content that a publish may pack again for each byte of new content, or leave to later
/// publishes.
///
/// With one and a half, the download of a new client grows without bound when some files change again and again all
/// over a tree; with two it stays below 40 requests and 1.6 times the needed bytes, see the tests.
pub(in crate::remote) const REGROUP_FACTOR: u64 = 2;

/// The limits at which contents are packed again, and the values that packing again aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) struct RegroupGoals {
    /// Requests beyond those of a commit published afresh: the accepted number, and the number to aim at.
    pub(crate) requests: (u64, u64),
    /// Fetched bytes in thousandths of the needed ones: the accepted value, and the value to aim at.
    pub(crate) bytes: (u64, u64),
    /// Candidates with a larger needed share than this, in thousandths, are not packed again to save bytes.
    pub(crate) share: u64,
    /// Bytes of content that may be packed again.
    pub(crate) budget: u64,
    /// The unit in which contents are packed again.
    pub(crate) unit: RegroupUnit,
    /// The most bytes of a pack.
    pub(crate) pack_size: u64,
}

impl RegroupGoals {
    /// Returns the goals of a publish within `budget` bytes of content: the commit does not become much more expensive
    /// than one published afresh.
    pub(in crate::remote) const fn of_publish(budget: u64, pack_size: u64) -> Self {
        Self { requests: (24, 24), bytes: (1500, 1300), share: 750, budget, unit: RegroupUnit::Segment, pack_size }
    }

    /// Returns the goals of a prune: afterwards a commit costs about as much as one published afresh.
    pub(in crate::remote) const fn of_prune(pack_size: u64) -> Self {
        let (requests, bytes) = ((7, 4), (1100, 1050));
        Self { requests, bytes, share: 980, budget: u64::MAX, unit: RegroupUnit::Pack, pack_size }
    }
}

/// The unit in which contents are packed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) enum RegroupUnit {
    /// A part of a pack: a sixteenth of what the commit needs, within the bounds of [`SEGMENT_SIZE`]. A small budget
    /// suffices for some of them.
    Segment,
    /// A whole pack: a remaining part of it would take more requests.
    Pack,
}

/// The smallest and largest size of a segment in bytes: no smaller than a few frames, no larger than half of a request.
const SEGMENT_SIZE: (u64, u64) = (256 << 10, 8 << 20);

/// A frame, or all frames of a large object, with the objects of the commit in it.
#[derive(Debug, Default)]
struct FrameGroup {
    frames: Vec<PackFrame>,
    /// Bytes of content that the commit needs.
    live: u64,
    /// Numbers of the objects.
    objects: Vec<u32>,
}

impl FrameGroup {
    fn length(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.length)).sum()
    }

    /// Estimates the compressed length of the needed contents alone.
    fn live_length(&self) -> u64 {
        let raw: u64 = self.frames.iter().map(|frame| u64::from(frame.raw_length)).sum();
        scale(self.length(), self.live.min(raw), raw)
    }

    fn pack(&self) -> u32 {
        self.frames.first().map_or(0, |frame| frame.pack)
    }
}

/// The positions of the published contents of one commit.
#[derive(Debug, Default)]
pub(in crate::remote) struct CommitLayout {
    packs: Vec<PackRef>,
    /// The groups of frames, by pack and offset.
    groups: Vec<FrameGroup>,
}

/// The cost of fetching the contents of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct FetchCost {
    /// Requests for contents.
    pub(crate) requests: u64,
    /// Bytes of the requests.
    pub(crate) bytes: u64,
}

impl CommitLayout {
    /// Returns the layout of a commit with these objects, as far as one of `locations` has their positions.
    pub(in crate::remote) fn new(objects: &[(ObjectId, u64)], locations: &[&ObjectLocations]) -> Self {
        let mut view = Self::default();
        let mut numbers: HashMap<PackId, u32> = HashMap::new();
        let mut groups: BTreeMap<(u32, u32), FrameGroup> = BTreeMap::new();
        for (number, (id, size)) in (0_u32..).zip(objects) {
            let Some(location) = locations.iter().find_map(|locations| locations.find(id, *size)) else { continue };
            let located: Vec<PackFrame> = location
                .frames()
                .map(|(pack, frame)| {
                    let pack = *numbers.entry(pack.id).or_insert_with(|| {
                        view.packs.push(pack);
                        u32::try_from(view.packs.len() - 1).unwrap_or(u32::MAX)
                    });
                    PackFrame { pack, ..frame }
                })
                .collect();
            let Some(first) = located.first() else { continue };
            let group = groups.entry((first.pack, first.offset)).or_default();
            group.frames = located;
            group.live += size;
            group.objects.push(number);
        }
        view.groups = groups.into_values().collect();
        view
    }

    /// Returns whether the goals are met without packing anything again.
    pub(in crate::remote) fn is_within(&self, goals: &RegroupGoals) -> bool {
        let (cost, fresh) = (self.cost(), self.fresh_cost(goals.pack_size));
        cost.requests <= fresh.requests + goals.requests.0 && cost.bytes <= scale(fresh.bytes, goals.bytes.0, 1000)
    }

    /// Returns what a client that has nothing fetches.
    pub(in crate::remote) fn cost(&self) -> FetchCost {
        let (requests, bytes) =
            self.cost_by_pack().values().fold((0, 0), |(sum, all), (count, bytes)| (sum + count, all + bytes));
        FetchCost { requests, bytes }
    }

    /// Returns what it would fetch if the commit were published afresh.
    pub(in crate::remote) fn fresh_cost(&self, pack_size: u64) -> FetchCost {
        let bytes = self.needed_bytes();
        FetchCost { requests: fresh_requests(bytes, pack_size), bytes }
    }

    /// Estimates the packed length of new content, assuming the ratio of the published content.
    pub(in crate::remote) fn expected_length(&self, content: u64) -> u64 {
        scale(content, self.needed_bytes(), self.groups.iter().map(|group| group.live).sum())
    }

    fn needed_bytes(&self) -> u64 {
        self.groups.iter().map(FrameGroup::live_length).sum()
    }

    /// Returns requests and bytes by number of the pack.
    fn cost_by_pack(&self) -> BTreeMap<u32, (u64, u64)> {
        Self::cost_of_groups(self.groups.iter())
    }

    /// Returns requests and bytes of some groups, by number of the pack.
    fn cost_of_groups<'a>(groups: impl Iterator<Item = &'a FrameGroup>) -> BTreeMap<u32, (u64, u64)> {
        let mut frames: Vec<PackFrame> = groups.flat_map(|group| &group.frames).copied().collect();
        frames.sort_unstable_by_key(|frame| (frame.pack, frame.offset));
        frames.dedup();
        let mut by_pack: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for request in group_requests(&frames) {
            let (count, bytes) = by_pack.entry(request.pack).or_default();
            (*count, *bytes) = (*count + 1, *bytes + request.range.end - request.range.start);
        }
        by_pack
    }

    /// Returns the packs in which these objects are, each with the bytes that the commit fetches of them.
    pub(in crate::remote) fn packs_with(&self, objects: &[u32]) -> Vec<(PackRef, u64)> {
        let has =
            |group: &&FrameGroup| group.objects.first().is_some_and(|object| objects.binary_search(object).is_ok());
        let mut by_pack: BTreeMap<u32, u64> = BTreeMap::new();
        for group in self.groups.iter().filter(has) {
            *by_pack.entry(group.pack()).or_default() += group.length();
        }
        by_pack.into_iter().map(|(pack, length)| (self.packs[pack as usize], length)).collect()
    }

    /// Chooses the objects that are packed again, so that the goals are met as far as the budget allows; returns their
    /// numbers, ascending. `coming` bytes of new contents are packed with them in any case. Only objects for which
    /// `is_available` returns true can be packed.
    pub(in crate::remote) fn choose(
        &self,
        goals: &RegroupGoals,
        coming: u64,
        is_available: &dyn Fn(u32) -> bool,
    ) -> Vec<u32> {
        let chosen = self.choose_by(goals, coming, is_available);
        if goals.unit == RegroupUnit::Segment || self.is_within(goals) || self.reaches(&chosen, goals) {
            return chosen;
        }
        // Which gaps between frames are read depends on all frames, so the first choice may save too little. A prune
        // must reach its goals at once; otherwise each following prune would pack again.
        let strict =
            RegroupGoals { requests: (goals.requests.0, 0), bytes: (goals.bytes.0, 1000), share: 1000, ..*goals };
        let chosen = self.choose_by(&strict, coming, is_available);
        if self.reaches(&chosen, goals) {
            return chosen;
        }
        let mut all: Vec<u32> = self.groups.iter().flat_map(|group| &group.objects).copied().collect();
        all.sort_unstable();
        all
    }

    /// Returns whether a commit meets the goals when these objects, which are those of whole packs, are packed
    /// together.
    fn reaches(&self, chosen: &[u32], goals: &RegroupGoals) -> bool {
        let is_chosen =
            |group: &&FrameGroup| group.objects.first().is_some_and(|object| chosen.binary_search(object).is_ok());
        let (mut requests, mut bytes) = (0, 0);
        for (count, length) in Self::cost_of_groups(self.groups.iter().filter(|group| !is_chosen(group))).values() {
            (requests, bytes) = (requests + count, bytes + length);
        }
        let together: u64 = self.groups.iter().filter(is_chosen).map(FrameGroup::live_length).sum();
        if together > 0 {
            (requests, bytes) = (requests + fresh_requests(together, goals.pack_size), bytes + together);
        }
        let fresh = self.fresh_cost(goals.pack_size);
        // A hundredth below the limit, since small contents pack slightly worse than these figures say.
        requests <= fresh.requests + goals.requests.0 && bytes <= scale(fresh.bytes, goals.bytes.0 - 10, 1000)
    }

    fn choose_by(&self, goals: &RegroupGoals, coming: u64, is_available: &dyn Fn(u32) -> bool) -> Vec<u32> {
        let (by_pack, FetchCost { bytes, requests }) = (self.cost_by_pack(), self.cost());
        let (needed, coming_packs) = (self.needed_bytes() + coming, u64::from(coming > 0));
        let (bytes, requests, fresh) =
            (bytes + coming, requests + coming_packs, fresh_requests(needed, goals.pack_size));
        let exceeds = |bytes: u64, limit: u64| bytes > scale(needed, limit, 1000);
        if requests <= fresh + goals.requests.0 && !exceeds(bytes, goals.bytes.0) {
            return Vec::new();
        }
        let mut candidates = self.make_candidates(goals.unit, needed, is_available);
        if goals.unit == RegroupUnit::Pack {
            // Gaps that are read between frames count, too.
            candidates.iter_mut().for_each(|candidate| {
                candidate.length = by_pack.get(&candidate.pack).map_or(candidate.length, |pack| pack.1)
            });
        }
        let mut choice = RegroupChoice {
            candidates: &candidates,
            chosen: vec![false; candidates.len()],
            spent: 0,
            budget: goals.budget,
        };
        if requests > fresh + goals.requests.1 {
            let surplus = requests - coming_packs - fresh - goals.requests.1;
            choice.merge_packs(&by_pack, surplus + 1);
        }
        let mut left = bytes.saturating_sub(choice.waste());
        for number in choice.by_share() {
            let candidate = &candidates[number];
            if !exceeds(left, goals.bytes.1) || candidate.share() > goals.share {
                break;
            }
            if choice.take(number) {
                left = left.saturating_sub(candidate.waste());
            }
        }
        choice.objects(&self.groups)
    }

    fn make_candidates(
        &self,
        unit: RegroupUnit,
        needed: u64,
        is_available: &dyn Fn(u32) -> bool,
    ) -> Vec<RegroupCandidate> {
        let longest = match unit {
            RegroupUnit::Segment => (needed / 16).clamp(SEGMENT_SIZE.0, SEGMENT_SIZE.1),
            RegroupUnit::Pack => u64::MAX,
        };
        let mut candidates: Vec<RegroupCandidate> = Vec::new();
        for (number, group) in self.groups.iter().enumerate() {
            let pack = group.pack();
            let continues =
                candidates.last().is_some_and(|candidate| candidate.pack == pack && candidate.length < longest);
            if !continues {
                candidates.push(RegroupCandidate { pack, is_available: true, ..RegroupCandidate::default() });
            }
            if let Some(candidate) = candidates.last_mut() {
                candidate.length += group.length();
                candidate.live += group.live;
                candidate.live_length += group.live_length();
                candidate.is_available &= group.objects.iter().all(|object| is_available(*object));
                candidate.groups.push(number);
            }
        }
        candidates
    }
}

/// A unit of a pack that may be packed again.
#[derive(Debug, Default)]
struct RegroupCandidate {
    pack: u32,
    /// Bytes that are fetched of it.
    length: u64,
    /// Bytes of content that are needed, and their compressed length alone.
    live: u64,
    live_length: u64,
    /// Whether all needed contents of it can be packed again.
    is_available: bool,
    /// Numbers of the groups.
    groups: Vec<usize>,
}

impl RegroupCandidate {
    /// Returns the bytes that are fetched of it without being needed.
    fn waste(&self) -> u64 {
        self.length.saturating_sub(self.live_length)
    }

    /// Returns the needed share of its bytes, in thousandths.
    fn share(&self) -> u64 {
        scale(1000, self.live_length, self.length)
    }
}

/// The candidates that are chosen to be packed again.
struct RegroupChoice<'a> {
    candidates: &'a [RegroupCandidate],
    chosen: Vec<bool>,
    spent: u64,
    budget: u64,
}

impl RegroupChoice<'_> {
    /// Chooses a candidate if the budget allows it; returns whether it is chosen.
    fn take(&mut self, number: usize) -> bool {
        let candidate = &self.candidates[number];
        let is_affordable = candidate.is_available && self.spent + candidate.live <= self.budget;
        if is_affordable && !self.chosen[number] {
            self.chosen[number] = true;
            self.spent += candidate.live;
        }
        is_affordable
    }

    /// Chooses whole packs, those with the fewest needed bytes for each request first, until they account for `surplus`
    /// requests; then further packs that are not much larger.
    fn merge_packs(&mut self, by_pack: &BTreeMap<u32, (u64, u64)>, surplus: u64) {
        let mut packs: Vec<(u64, u32, u64)> = Vec::new();
        for (pack, (requests, _)) in by_pack {
            let live: u64 = self.of_pack(*pack).map(|number| self.candidates[number].live_length).sum();
            packs.push((live / (*requests).max(1), *pack, *requests));
        }
        packs.sort_unstable();
        let (mut saved, mut before) = (0, None);
        for (size, pack, requests) in packs {
            if saved >= surplus && before.is_some_and(|before| size > MERGE_RATIO_MAX * before) {
                break;
            }
            let numbers: Vec<usize> = self.of_pack(pack).collect();
            let live: u64 = numbers.iter().map(|number| self.candidates[*number].live).sum();
            if self.spent + live > self.budget || numbers.iter().any(|number| !self.candidates[*number].is_available) {
                continue;
            }
            numbers.into_iter().for_each(|number| _ = self.take(number));
            (saved, before) = (saved + requests, Some(size));
        }
        // Contents that account for one request only would be moved, not merged.
        if saved < 2 {
            (self.chosen, self.spent) = (vec![false; self.candidates.len()], 0);
        }
    }

    fn of_pack(&self, pack: u32) -> impl Iterator<Item = usize> {
        self.candidates
            .iter()
            .enumerate()
            .filter(move |(_, candidate)| candidate.pack == pack)
            .map(|(number, _)| number)
    }

    /// Returns the bytes that no client fetches any more because of the choice.
    fn waste(&self) -> u64 {
        let chosen = self.candidates.iter().zip(&self.chosen).filter(|(_, is_chosen)| **is_chosen);
        chosen.map(|(candidate, _)| candidate.waste()).sum()
    }

    /// Returns the numbers of the candidates that are not chosen, those with the least needed share first; about equal
    /// ones in their order, so that the remaining parts of a pack are adjacent.
    fn by_share(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.candidates.len()).filter(|number| !self.chosen[*number]).collect();
        numbers.sort_by_key(|number| self.candidates[*number].share() / 100);
        numbers
    }

    fn objects(&self, groups: &[FrameGroup]) -> Vec<u32> {
        let chosen = self.candidates.iter().zip(&self.chosen).filter(|(_, is_chosen)| **is_chosen);
        let groups_of_chosen = chosen.flat_map(|(candidate, _)| &candidate.groups);
        let mut objects: Vec<u32> = groups_of_chosen.flat_map(|group| &groups[*group].objects).copied().collect();
        objects.sort_unstable();
        objects
    }
}

/// Returns the number of requests for this many bytes in full packs.
fn fresh_requests(bytes: u64, pack_size: u64) -> u64 {
    ((bytes + REQUEST_SIZE / 2) / REQUEST_SIZE).max(bytes.div_ceil(pack_size.max(1))).max(1)
}

/// Returns `number` · `share` / `whole`.
fn scale(number: u64, share: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(number) * u128::from(share) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::options::PACK_SIZE;
    use super::*;

    /// A simulated publisher that packs without compressing and tracks the positions of its newest commit.
    struct TestPublisher {
        objects: Vec<(ObjectId, u64)>,
        locations: ObjectLocations,
        random: u64,
        /// Bytes of content that may still be packed again.
        left: u64,
        new_bytes: u64,
        packed_bytes: u64,
    }

    impl TestPublisher {
        /// Publishes `files` files of `mean` bytes on average.
        fn new(files: usize, mean: u64) -> Self {
            let (locations, left, new_bytes, packed_bytes) = (ObjectLocations::default(), 0, 0, 0);
            let mut new = Self { objects: Vec::new(), locations, random: 7, left, new_bytes, packed_bytes };
            for number in 0..files {
                let size = 100 + new.draw(2 * mean - 200);
                new.objects.push((ObjectId::of(number.to_string().as_bytes()), size));
            }
            new.pack(&(0..files).collect::<Vec<_>>());
            new
        }

        fn draw(&mut self, below: u64) -> u64 {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.random >> 33) % below
        }

        /// Packs objects into frames of 128 KiB of one pack, and returns their bytes.
        fn pack(&mut self, numbers: &[usize]) -> u64 {
            let pack = u32::try_from(self.locations.packs.len()).expect("few");
            let (mut offset, mut frame) = (16, 0);
            for number in numbers {
                let (id, size) = self.objects[*number];
                let size = u32::try_from(size).expect("small");
                if frame == 0 || frame + size > 128 << 10 {
                    offset += frame;
                    frame = 0;
                    self.locations.frames.push(PackFrame { pack, offset, length: 0, raw_length: 0 });
                }
                let place = u32::try_from(self.locations.frames.len() - 1).expect("few");
                self.locations.objects.insert(id, (place, frame));
                frame += size;
                let last = self.locations.frames.last_mut().expect("just made");
                (last.length, last.raw_length) = (frame, frame);
            }
            let id = PackId::of(&pack.to_le_bytes());
            self.locations.packs.push(PackRef { id, length: u64::from(offset + frame) });
            numbers.iter().map(|number| self.objects[*number].1).sum()
        }

        /// Publishes again with `count` files changed.
        fn publish(&mut self, count: u64, version: u64) {
            let mut changed = std::collections::BTreeSet::new();
            while (changed.len() as u64) < count {
                let number = self.draw(self.objects.len() as u64);
                changed.insert(usize::try_from(number).expect("an index"));
            }
            for number in &changed {
                self.objects[*number].0 = ObjectId::of(format!("{number} {version}").as_bytes());
            }
            let new: u64 = changed.iter().map(|number| self.objects[*number].1).sum();
            let budget = self.left + REGROUP_FACTOR * new;
            let again = self.view().choose(&RegroupGoals::of_publish(budget, PACK_SIZE), new, &|_| true);
            changed.extend(again.iter().map(|number| *number as usize));
            let packed = self.pack(&changed.into_iter().collect::<Vec<_>>());
            assert!(packed - new <= budget);
            self.left = budget - (packed - new);
            self.new_bytes += new;
            self.packed_bytes += packed;
        }

        fn prune(&mut self) {
            let again = self.view().choose(&RegroupGoals::of_prune(PACK_SIZE), 0, &|_| true);
            self.pack(&again.into_iter().map(|number| number as usize).collect::<Vec<_>>());
        }

        fn view(&self) -> CommitLayout {
            CommitLayout::new(&self.objects, &[&self.locations])
        }
    }

    #[test]
    fn regrouping_bounds_the_fetch_cost_of_every_commit() {
        for (files, changed, commits) in [(900, 6, 300), (900, 90, 30), (150, 1, 150)] {
            let mut publisher = TestPublisher::new(files, 8000);
            assert_eq!(publisher.view().cost().requests, publisher.view().fresh_cost(PACK_SIZE).requests);
            for version in 1..=commits {
                publisher.publish(changed, version);
                let (view, at) = (publisher.view(), format!("{files} files, commit {version}"));
                let (cost, fresh) = (view.cost(), view.fresh_cost(PACK_SIZE));
                // With the requests for ref, commit, image and locator: 40.
                assert!(cost.requests <= 36, "{at}: {cost:?}");
                assert!(cost.bytes * 10 <= fresh.bytes * 16, "{at}: {cost:?} where {fresh:?} are enough");
            }
            assert!(publisher.packed_bytes <= (1 + REGROUP_FACTOR) * publisher.new_bytes);
            publisher.prune();
            let (cost, fresh) = (publisher.view().cost(), publisher.view().fresh_cost(PACK_SIZE));
            assert!(cost.requests <= 8 && cost.bytes * 100 <= fresh.bytes * 110, "{files} files: {cost:?}, {fresh:?}");
        }
    }
}
