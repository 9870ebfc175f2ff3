//! What a client that has nothing fetches for one commit, and how much of that the commit needs.
//!
//! Purpose: telling when contents of earlier commits make a commit dear, and which of them to pack again. Not here: packing.
//! Invariant: pure, and counted by the same function that plans the requests of a pull. Used by `publish` for what it is about
//! to name and by `prune` for what is named.

use std::collections::{BTreeMap, HashMap};

use super::places::Places;
use crate::model::{ObjectId, PackId};
use crate::remote::fetch::{REQUEST, requests};
use crate::remote::format::{Frame, PackRef};

/// A pack whose part that is needed is more than so many times as large as that of the one before is not merged with it, unless
/// it has to be: what is merged with much larger ones again and again is written again and again.
const SIMILAR: u64 = 2;

/// For each byte of new content, a publish may pack again so many that were published before, or leave that to later ones.
///
/// With one and a half, what a fresh client fetches grows without bound when some files change again and again all over a
/// tree; with two it stays below 40 requests and 1.6 times what it needs, see the tests.
pub(in crate::remote) const REGROUPED: u64 = 2;

/// When contents are packed again, and how far that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) struct Goals {
    /// Requests beyond those of a commit published afresh that are accepted, and beyond how many it is tried to stay.
    pub requests: (u64, u64),
    /// The same for bytes, in thousandths of those that are needed.
    pub bytes: (u64, u64),
    /// What has a larger needed part than this, in thousandths, is left where it is for the sake of bytes.
    pub share: u64,
    /// Bytes of content that may be packed again.
    pub budget: u64,
    /// What is left or packed again as a whole.
    pub unit: Unit,
    /// Most bytes of a pack.
    pub pack_size: u64,
}

impl Goals {
    /// What a publish does within `budget` bytes of content: it keeps a commit from getting much dearer than one published
    /// afresh.
    pub(in crate::remote) const fn of_publish(budget: u64, pack_size: u64) -> Self {
        Self { requests: (24, 24), bytes: (1500, 1300), share: 750, budget, unit: Unit::Segment, pack_size }
    }

    /// What a prune does: afterwards a commit costs about as much as one published afresh.
    pub(in crate::remote) const fn of_prune(pack_size: u64) -> Self {
        let (requests, bytes) = ((7, 4), (1100, 1050));
        Self { requests, bytes, share: 980, budget: u64::MAX, unit: Unit::Pack, pack_size }
    }
}

/// What is left or packed again as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote) enum Unit {
    /// Part of a pack: a sixteenth of what the commit needs, within these bounds. A small budget can do something with it.
    Segment,
    /// A pack: what is left of it would take more requests.
    Pack,
}

/// Bounds of a segment in bytes: no smaller than a few frames, no larger than half of a request.
const SEGMENT: (u64, u64) = (256 << 10, 8 << 20);

/// A frame, or all frames of a large object, as the commit uses it.
#[derive(Debug, Default)]
struct Piece {
    frames: Vec<Frame>,
    /// Bytes of content that the commit needs.
    live: u64,
    /// Numbers of the objects.
    objects: Vec<u32>,
}

impl Piece {
    fn length(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.length)).sum()
    }

    /// What the needed contents would take by themselves, about.
    fn live_length(&self) -> u64 {
        let raw: u64 = self.frames.iter().map(|frame| u64::from(frame.raw_length)).sum();
        part(self.length(), self.live.min(raw), raw)
    }

    fn pack(&self) -> u32 {
        self.frames.first().map_or(0, |frame| frame.pack)
    }
}

/// The published contents of one commit.
#[derive(Debug, Default)]
pub(in crate::remote) struct View {
    packs: Vec<PackRef>,
    /// By pack and offset.
    pieces: Vec<Piece>,
}

/// What fetching costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Cost {
    /// Requests for contents.
    pub requests: u64,
    /// Bytes of those.
    pub bytes: u64,
}

impl View {
    /// Of a commit with these objects, as far as one of `places` knows where they are.
    pub(in crate::remote) fn new(objects: &[(ObjectId, u64)], places: &[&Places]) -> Self {
        let mut view = Self::default();
        let mut numbers: HashMap<PackId, u32> = HashMap::new();
        let mut pieces: BTreeMap<(u32, u32), Piece> = BTreeMap::new();
        for (number, (id, size)) in (0_u32..).zip(objects) {
            let Some(place) = places.iter().find_map(|places| places.find(id, *size)) else { continue };
            let located: Vec<Frame> = place
                .frames()
                .map(|(pack, frame)| {
                    let pack = *numbers.entry(pack.id).or_insert_with(|| {
                        view.packs.push(pack);
                        u32::try_from(view.packs.len() - 1).unwrap_or(u32::MAX)
                    });
                    Frame { pack, ..frame }
                })
                .collect();
            let Some(first) = located.first() else { continue };
            let piece = pieces.entry((first.pack, first.offset)).or_default();
            piece.frames = located;
            piece.live += size;
            piece.objects.push(number);
        }
        view.pieces = pieces.into_values().collect();
        view
    }

    /// Returns whether nothing has to be packed again for these goals.
    pub(in crate::remote) fn is_within(&self, goals: &Goals) -> bool {
        let (cost, fresh) = (self.cost(), self.fresh(goals.pack_size));
        cost.requests <= fresh.requests + goals.requests.0 && cost.bytes <= part(fresh.bytes, goals.bytes.0, 1000)
    }

    /// What a client fetches that has nothing.
    pub(in crate::remote) fn cost(&self) -> Cost {
        let (requests, bytes) =
            self.by_pack().values().fold((0, 0), |(sum, all), (count, bytes)| (sum + count, all + bytes));
        Cost { requests, bytes }
    }

    /// What it would fetch if the commit were published afresh.
    pub(in crate::remote) fn fresh(&self, pack_size: u64) -> Cost {
        let bytes = self.needed();
        Cost { requests: afresh(bytes, pack_size), bytes }
    }

    /// What so many bytes of content take when they are packed, about: as those that are.
    pub(in crate::remote) fn expected(&self, content: u64) -> u64 {
        part(content, self.needed(), self.pieces.iter().map(|piece| piece.live).sum())
    }

    fn needed(&self) -> u64 {
        self.pieces.iter().map(Piece::live_length).sum()
    }

    /// Requests and bytes by number of the pack.
    fn by_pack(&self) -> BTreeMap<u32, (u64, u64)> {
        Self::fetched(self.pieces.iter())
    }

    /// The same of some pieces.
    fn fetched<'a>(pieces: impl Iterator<Item = &'a Piece>) -> BTreeMap<u32, (u64, u64)> {
        let mut frames: Vec<Frame> = pieces.flat_map(|piece| &piece.frames).copied().collect();
        frames.sort_unstable_by_key(|frame| (frame.pack, frame.offset));
        frames.dedup();
        let mut by_pack: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for request in requests(&frames) {
            let (count, bytes) = by_pack.entry(request.pack).or_default();
            (*count, *bytes) = (*count + 1, *bytes + request.range.end - request.range.start);
        }
        by_pack
    }

    /// The packs in which these objects are, each with how many of its bytes the commit fetches.
    pub(in crate::remote) fn packs_with(&self, objects: &[u32]) -> Vec<(PackRef, u64)> {
        let has = |piece: &&Piece| piece.objects.first().is_some_and(|object| objects.binary_search(object).is_ok());
        let mut by_pack: BTreeMap<u32, u64> = BTreeMap::new();
        for piece in self.pieces.iter().filter(has) {
            *by_pack.entry(piece.pack()).or_default() += piece.length();
        }
        by_pack.into_iter().map(|(pack, length)| (self.packs[pack as usize], length)).collect()
    }

    /// The objects that are to be packed again, ascending, so that the goals are reached as far as the budget allows. `coming`
    /// bytes of new contents are packed with them in any case. Only what `is_available` can be packed.
    pub(in crate::remote) fn choose(&self, goals: &Goals, coming: u64, is_available: &dyn Fn(u32) -> bool) -> Vec<u32> {
        let chosen = self.choose_by(goals, coming, is_available);
        if goals.unit == Unit::Segment || self.is_within(goals) || self.is_enough(&chosen, goals) {
            return chosen;
        }
        // Which gaps between frames are read over depends on all frames, so that the first choice may have won too little. What
        // is done is to be done for good: or the next prune would pack again, and the one after it.
        let strict = Goals { requests: (goals.requests.0, 0), bytes: (goals.bytes.0, 1000), share: 1000, ..*goals };
        let chosen = self.choose_by(&strict, coming, is_available);
        if self.is_enough(&chosen, goals) {
            return chosen;
        }
        let mut all: Vec<u32> = self.pieces.iter().flat_map(|piece| &piece.objects).copied().collect();
        all.sort_unstable();
        all
    }

    /// Returns whether a commit is within `goals` when these objects, which are those of whole packs, lie together.
    fn is_enough(&self, chosen: &[u32], goals: &Goals) -> bool {
        let is_chosen =
            |piece: &&Piece| piece.objects.first().is_some_and(|object| chosen.binary_search(object).is_ok());
        let (mut requests, mut bytes) = (0, 0);
        for (count, length) in Self::fetched(self.pieces.iter().filter(|piece| !is_chosen(piece))).values() {
            (requests, bytes) = (requests + count, bytes + length);
        }
        let together: u64 = self.pieces.iter().filter(is_chosen).map(Piece::live_length).sum();
        if together > 0 {
            (requests, bytes) = (requests + afresh(together, goals.pack_size), bytes + together);
        }
        let fresh = self.fresh(goals.pack_size);
        // Less than the limit by a hundredth: small contents pack a little worse than these figures say.
        requests <= fresh.requests + goals.requests.0 && bytes <= part(fresh.bytes, goals.bytes.0 - 10, 1000)
    }

    fn choose_by(&self, goals: &Goals, coming: u64, is_available: &dyn Fn(u32) -> bool) -> Vec<u32> {
        let (by_pack, Cost { bytes, requests }) = (self.by_pack(), self.cost());
        let (needed, coming_packs) = (self.needed() + coming, u64::from(coming > 0));
        let (bytes, requests, fresh) = (bytes + coming, requests + coming_packs, afresh(needed, goals.pack_size));
        let is_dear = |bytes: u64, limit: u64| bytes > part(needed, limit, 1000);
        if requests <= fresh + goals.requests.0 && !is_dear(bytes, goals.bytes.0) {
            return Vec::new();
        }
        let mut units = self.units(goals.unit, needed, is_available);
        if goals.unit == Unit::Pack {
            // What is read over between frames is paid, too.
            units.iter_mut().for_each(|unit| unit.length = by_pack.get(&unit.pack).map_or(unit.length, |pack| pack.1));
        }
        let mut choice = Choice { units: &units, chosen: vec![false; units.len()], spent: 0, budget: goals.budget };
        if requests > fresh + goals.requests.1 {
            let surplus = requests - coming_packs - fresh - goals.requests.1;
            choice.merge(&by_pack, surplus + 1);
        }
        let mut left = bytes.saturating_sub(choice.waste());
        for number in choice.by_share() {
            let unit = &units[number];
            if !is_dear(left, goals.bytes.1) || unit.share() > goals.share {
                break;
            }
            if choice.take(number) {
                left = left.saturating_sub(unit.waste());
            }
        }
        choice.objects(&self.pieces)
    }

    fn units(&self, unit: Unit, needed: u64, is_available: &dyn Fn(u32) -> bool) -> Vec<Part> {
        let longest = match unit {
            Unit::Segment => (needed / 16).clamp(SEGMENT.0, SEGMENT.1),
            Unit::Pack => u64::MAX,
        };
        let mut parts: Vec<Part> = Vec::new();
        for (number, piece) in self.pieces.iter().enumerate() {
            let pack = piece.pack();
            let goes_on = parts.last().is_some_and(|part| part.pack == pack && part.length < longest);
            if !goes_on {
                parts.push(Part { pack, is_available: true, ..Part::default() });
            }
            if let Some(part) = parts.last_mut() {
                part.length += piece.length();
                part.live += piece.live;
                part.live_length += piece.live_length();
                part.is_available &= piece.objects.iter().all(|object| is_available(*object));
                part.pieces.push(number);
            }
        }
        parts
    }
}

/// A unit of a pack.
#[derive(Debug, Default)]
struct Part {
    pack: u32,
    /// Bytes that are fetched of it.
    length: u64,
    /// Bytes of content that are needed, and what they would take by themselves.
    live: u64,
    live_length: u64,
    /// Whether all that is needed of it can be packed again.
    is_available: bool,
    /// Numbers of the pieces.
    pieces: Vec<usize>,
}

impl Part {
    /// Bytes that are fetched of it in vain.
    fn waste(&self) -> u64 {
        self.length.saturating_sub(self.live_length)
    }

    /// The part of its bytes that is needed, in thousandths.
    fn share(&self) -> u64 {
        part(1000, self.live_length, self.length)
    }
}

/// The units that are packed again.
struct Choice<'a> {
    units: &'a [Part],
    chosen: Vec<bool>,
    spent: u64,
    budget: u64,
}

impl Choice<'_> {
    /// Takes a unit if the budget allows it; returns whether it is taken.
    fn take(&mut self, number: usize) -> bool {
        let unit = &self.units[number];
        let is_affordable = unit.is_available && self.spent + unit.live <= self.budget;
        if is_affordable && !self.chosen[number] {
            self.chosen[number] = true;
            self.spent += unit.live;
        }
        is_affordable
    }

    /// Takes whole packs, those first of which a request brings least, until they account for `surplus` requests, and those
    /// behind that are not much larger.
    fn merge(&mut self, by_pack: &BTreeMap<u32, (u64, u64)>, surplus: u64) {
        let mut packs: Vec<(u64, u32, u64)> = Vec::new();
        for (pack, (requests, _)) in by_pack {
            let live: u64 = self.of_pack(*pack).map(|number| self.units[number].live_length).sum();
            packs.push((live / (*requests).max(1), *pack, *requests));
        }
        packs.sort_unstable();
        let (mut gone, mut before) = (0, None);
        for (size, pack, requests) in packs {
            if gone >= surplus && before.is_some_and(|before| size > SIMILAR * before) {
                break;
            }
            let numbers: Vec<usize> = self.of_pack(pack).collect();
            let live: u64 = numbers.iter().map(|number| self.units[*number].live).sum();
            if self.spent + live > self.budget || numbers.iter().any(|number| !self.units[*number].is_available) {
                continue;
            }
            numbers.into_iter().for_each(|number| _ = self.take(number));
            (gone, before) = (gone + requests, Some(size));
        }
        // One that goes alone only changes its place.
        if gone < 2 {
            (self.chosen, self.spent) = (vec![false; self.units.len()], 0);
        }
    }

    fn of_pack(&self, pack: u32) -> impl Iterator<Item = usize> {
        self.units.iter().enumerate().filter(move |(_, unit)| unit.pack == pack).map(|(number, _)| number)
    }

    /// Bytes that no client fetches any more because of what is chosen.
    fn waste(&self) -> u64 {
        let chosen = self.units.iter().zip(&self.chosen).filter(|(_, is_chosen)| **is_chosen);
        chosen.map(|(unit, _)| unit.waste()).sum()
    }

    /// The numbers of the units that are not chosen, those first of which least is needed; about equal ones in their order,
    /// so that what is left of a pack lies together.
    fn by_share(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.units.len()).filter(|number| !self.chosen[*number]).collect();
        numbers.sort_by_key(|number| self.units[*number].share() / 100);
        numbers
    }

    fn objects(&self, pieces: &[Piece]) -> Vec<u32> {
        let chosen = self.units.iter().zip(&self.chosen).filter(|(_, is_chosen)| **is_chosen);
        let of_units = chosen.flat_map(|(unit, _)| &unit.pieces);
        let mut objects: Vec<u32> = of_units.flat_map(|piece| &pieces[*piece].objects).copied().collect();
        objects.sort_unstable();
        objects
    }
}

/// Requests for so many bytes that lie together in full packs.
fn afresh(bytes: u64, pack_size: u64) -> u64 {
    ((bytes + REQUEST / 2) / REQUEST).max(bytes.div_ceil(pack_size.max(1))).max(1)
}

/// `share` of `whole`-ths of a number.
fn part(number: u64, share: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(number) * u128::from(share) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::options::PACK_SIZE;
    use super::*;

    /// A publisher that packs without compressing, and keeps the places of its newest commit.
    struct Publisher {
        objects: Vec<(ObjectId, u64)>,
        places: Places,
        random: u64,
        /// Bytes of content that may still be packed again.
        left: u64,
        new_bytes: u64,
        packed_bytes: u64,
    }

    impl Publisher {
        /// Publishes `files` of `mean` bytes on average.
        fn new(files: usize, mean: u64) -> Self {
            let (places, left, new_bytes, packed_bytes) = (Places::default(), 0, 0, 0);
            let mut new = Self { objects: Vec::new(), places, random: 7, left, new_bytes, packed_bytes };
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

        /// Packs objects into frames of 128 KiB of one pack; returns their bytes.
        fn pack(&mut self, numbers: &[usize]) -> u64 {
            let pack = u32::try_from(self.places.packs.len()).expect("few");
            let (mut offset, mut frame) = (16, 0);
            for number in numbers {
                let (id, size) = self.objects[*number];
                let size = u32::try_from(size).expect("small");
                if frame == 0 || frame + size > 128 << 10 {
                    offset += frame;
                    frame = 0;
                    self.places.frames.push(Frame { pack, offset, length: 0, raw_length: 0 });
                }
                let place = u32::try_from(self.places.frames.len() - 1).expect("few");
                self.places.objects.insert(id, (place, frame));
                frame += size;
                let last = self.places.frames.last_mut().expect("just made");
                (last.length, last.raw_length) = (frame, frame);
            }
            let id = PackId::of(&pack.to_le_bytes());
            self.places.packs.push(PackRef { id, length: u64::from(offset + frame) });
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
            let budget = self.left + REGROUPED * new;
            let again = self.view().choose(&Goals::of_publish(budget, PACK_SIZE), new, &|_| true);
            changed.extend(again.iter().map(|number| *number as usize));
            let packed = self.pack(&changed.into_iter().collect::<Vec<_>>());
            assert!(packed - new <= budget);
            self.left = budget - (packed - new);
            self.new_bytes += new;
            self.packed_bytes += packed;
        }

        fn prune(&mut self) {
            let again = self.view().choose(&Goals::of_prune(PACK_SIZE), 0, &|_| true);
            self.pack(&again.into_iter().map(|number| number as usize).collect::<Vec<_>>());
        }

        fn view(&self) -> View {
            View::new(&self.objects, &[&self.places])
        }
    }

    #[test]
    fn each_commit_of_a_long_history_costs_a_fresh_client_a_bounded_number_of_requests_and_bytes() {
        for (files, changed, commits) in [(900, 6, 300), (900, 90, 30), (150, 1, 150)] {
            let mut publisher = Publisher::new(files, 8000);
            assert_eq!(publisher.view().cost().requests, publisher.view().fresh(PACK_SIZE).requests);
            for version in 1..=commits {
                publisher.publish(changed, version);
                let (view, at) = (publisher.view(), format!("{files} files, commit {version}"));
                let (cost, fresh) = (view.cost(), view.fresh(PACK_SIZE));
                // With the ref, the commit, the image and the locator: 40.
                assert!(cost.requests <= 36, "{at}: {cost:?}");
                assert!(cost.bytes * 10 <= fresh.bytes * 16, "{at}: {cost:?} where {fresh:?} are enough");
            }
            assert!(publisher.packed_bytes <= (1 + REGROUPED) * publisher.new_bytes);
            publisher.prune();
            let (cost, fresh) = (publisher.view().cost(), publisher.view().fresh(PACK_SIZE));
            assert!(cost.requests <= 8 && cost.bytes * 100 <= fresh.bytes * 110, "{files} files: {cost:?}, {fresh:?}");
        }
    }
}
