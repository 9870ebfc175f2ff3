//! Packs the newest commit of a ref again when a client that has nothing would fetch too much for it.
//!
//! Publishing keeps the download within bounds, see `publish::cost`; a prune reduces it to about that of a commit
//! published afresh. Only the positions of newest commits change: older commits keep the packs that they had as the
//! newest. Refs that share contents go on sharing them as long as none of them fetches too much because of that.
//!
//! *Not here*: which contents are packed again (`publish::cost`).
//!
//! *Used by* `apply` and by dry runs.

use std::collections::{HashMap, HashSet};

use super::contents::{LocatedObject, PublishedContents};
use super::error::PruneError;
use super::inventory::{Inventory, PruneIndex};
use super::plan::{RegroupPlan, RepackPlan};
use super::{PruneOptions, PruneProgress};
use crate::image::Image;
use crate::model::{Commit, LocatorId, ObjectId, RefName};
use crate::remote::format::{FileRef, Locator, LocatorBound, PROFILE_SIZE_MAX, PackFrame, PackRef, Placement, Profile};
use crate::remote::layout;
use crate::remote::publish::{
    CommitLayout, NewLocator, ObjectLocations, PackSection, PublishOptions, PublishProgress, RegroupGoals, fetch_image,
    list_objects, pack_and_upload,
};
use crate::remote::published;
use crate::remote::transport::{Transport, TransportError};

/// Whether contents are packed or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegroupMode {
    /// Nothing is written.
    Plan,
    /// Packs are uploaded. No name leads to them yet.
    Upload,
}

/// The result of regrouping.
#[derive(Default)]
pub(super) struct RegroupResult {
    pub(crate) plans: Vec<RegroupPlan>,
    /// The packs from which contents were taken.
    pub(crate) sources: Vec<RepackPlan>,
    /// The new locators, by the ids of those that they are to replace.
    pub(crate) replacements: HashMap<LocatorId, FileRef<LocatorId>>,
    /// The contents of the new locators, which are uploaded unless they are replaced themselves.
    pub(crate) pending: HashMap<LocatorId, (Locator, Vec<u8>)>,
    /// The new positions of the contents.
    locations: ObjectLocations,
}

impl RegroupResult {
    /// Returns the new packs.
    pub(super) fn packs(&self) -> &[PackRef] {
        &self.locations.packs
    }
}

/// Packs the newest commits of all refs again if that reduces the download enough, and adds what they need afterwards
/// to `known`.
pub(super) fn regroup_newest(
    transport: &Transport,
    inventory: &Inventory,
    known: &mut PruneIndex,
    options: &PruneOptions,
    progress: &PruneProgress,
    act: RegroupMode,
) -> Result<RegroupResult, PruneError> {
    let mut regrouping = Regrouper { transport, options, progress, act, done: RegroupResult::default() };
    for (name, reference) in &inventory.refs {
        let Some(kept) = inventory.commits.get(&reference.record.commit) else { continue };
        if !known.packs_of.contains_key(&reference.placement.locator.id) {
            regrouping.add(name, &kept.commit, &reference.placement, known)?;
        }
    }
    Ok(regrouping.done)
}

struct Regrouper<'a> {
    transport: &'a Transport,
    options: &'a PruneOptions,
    progress: &'a PruneProgress,
    act: RegroupMode,
    done: RegroupResult,
}

impl Regrouper<'_> {
    fn add(
        &mut self,
        name: &RefName,
        commit: &Commit,
        placement: &Placement,
        known: &mut PruneIndex,
    ) -> Result<(), PruneError> {
        let old = placement.locator.id;
        let locator = published::read_locator(self.transport, commit, placement)?;
        let image = self.image(commit, placement)?;
        let all: Vec<(ObjectId, u64)> = list_objects(&image)?.collect();
        let mut own = ObjectLocations::default();
        own.take_from_locator(&locator, all.iter().copied(), &mut all.iter().map(|(id, _)| *id).collect());
        let (alone, shared) =
            (CommitLayout::new(&all, &[&own]), CommitLayout::new(&all, &[&self.done.locations, &own]));
        let goals = RegroupGoals::of_prune(self.options.pack_size);
        if alone.is_within(&goals) {
            known.add_newest_locator(old, frames_with_packs(&locator));
            return Ok(());
        }
        let chosen = shared.choose(&goals, 0, &|_| true);
        if chosen.is_empty() && shared.cost() == alone.cost() {
            // Nothing would be gained.
            known.add_newest_locator(old, frames_with_packs(&locator));
            return Ok(());
        }
        let content_bytes = chosen.iter().map(|number| all[*number as usize].1).sum();
        let (cost, fresh) = (alone.cost(), alone.fresh_cost(goals.pack_size));
        self.done.plans.push(RegroupPlan { name: name.clone(), content_bytes, cost, fresh });
        let left = shared.packs_with(&chosen).into_iter();
        self.done.sources.extend(left.map(|(pack, live_bytes)| RepackPlan {
            pack: pack.id,
            bytes: pack.length,
            live_bytes,
        }));
        if self.act == RegroupMode::Plan {
            let chosen: HashSet<u32> = chosen.into_iter().collect();
            let stay = (0_u32..).zip(&all).filter(|(number, _)| !chosen.contains(number));
            let locations = stay.filter_map(|(_, (id, size))| own.find(id, *size));
            known.add_newest_locator(old, locations.flat_map(|location| location.frames().collect::<Vec<_>>()));
            known.replaced.insert(old);
            return Ok(());
        }
        let new = self.pack(&image, placement, &all, &chosen, &own)?;
        self.done.locations.extend(new);
        let mut relocated = NewLocator::default();
        for (id, size) in &all {
            let place = [&self.done.locations, &own].into_iter().find_map(|locations| locations.find(id, *size));
            relocated.add(&place.ok_or_else(|| damaged_locator(placement))?);
        }
        let bytes = relocated.finish()?;
        let file = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
        let bound = LocatorBound::new(all.iter().map(|(_, size)| *size));
        let parsed = Locator::parse(&bytes, bound).map_err(|_| damaged_locator(placement))?;
        known.add_newest_locator(file.id, frames_with_packs(&parsed));
        self.done.pending.insert(file.id, (parsed, bytes));
        // The old locator is not read again: no name will lead to it.
        known.packs_of.insert(old, locator.packs().to_vec());
        self.done.replacements.insert(old, file);
        Ok(())
    }

    /// Returns the image of a commit, from the local repository if it is there.
    fn image(&self, commit: &Commit, placement: &Placement) -> Result<Image, PruneError> {
        if let Some(image) = self.options.store.as_ref().and_then(|store| store.image(commit.image).ok()) {
            return Ok(image);
        }
        let image = fetch_image(self.transport, commit.image, placement)?;
        Ok(image.ok_or_else(|| TransportError::Missing { path: layout::image(commit.image) })?)
    }

    /// Packs the `chosen` ones of `all` objects again and uploads the packs.
    fn pack(
        &self,
        image: &Image,
        placement: &Placement,
        all: &[(ObjectId, u64)],
        chosen: &[u32],
        own: &ObjectLocations,
    ) -> Result<ObjectLocations, PruneError> {
        let order = self.in_order(placement, chosen)?;
        let locate = |number: &u32| {
            let (id, size) = *all.get(*number as usize)?;
            let place = [&self.done.locations, own].into_iter().find_map(|locations| locations.find(&id, size))?;
            Some(LocatedObject { number: *number, id, size, frames: place.frames().collect(), offset: place.offset() })
        };
        let wanted = order.iter().filter_map(locate).collect();
        let (store, scratch) = (self.options.store.as_ref(), &self.options.scratch);
        let contents = PublishedContents::copy(self.transport, store, image, wanted, scratch, self.progress)?;
        let objects: Vec<(ObjectId, u64)> = order.iter().map(|number| all[*number as usize]).collect();
        let level = self.options.level;
        let options = PublishOptions {
            pack_size: self.options.pack_size,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            ..PublishOptions::default()
        };
        let sections = [PackSection { objects: &objects, level }];
        let progress = PublishProgress::default();
        Ok(pack_and_upload(&contents, scratch, self.transport, &sections, &options, &progress)?)
    }

    /// Returns the chosen objects in the order in which they are packed: those of the profile first.
    fn in_order(&self, placement: &Placement, chosen: &[u32]) -> Result<Vec<u32>, PruneError> {
        let listed = self.profile(placement)?;
        let mut left: HashSet<u32> = chosen.iter().copied().collect();
        let first = listed.entries.iter().map(|entry| entry.object).filter(|number| left.remove(number));
        let mut order: Vec<u32> = first.collect();
        order.extend(chosen.iter().filter(|number| left.contains(number)));
        Ok(order)
    }

    /// Returns the commit's profile; an empty one when there is none or it cannot be read.
    fn profile(&self, placement: &Placement) -> Result<Profile, PruneError> {
        let Some(place) = placement.profile else { return Ok(Profile::default()) };
        let found = self.transport.get(&layout::profile(place.id), PROFILE_SIZE_MAX)?;
        Ok(found.and_then(|(bytes, _)| Profile::parse(&bytes).ok()).unwrap_or_default())
    }
}

/// Returns the frames of a locator, each with its pack.
fn frames_with_packs(locator: &Locator) -> impl Iterator<Item = (PackRef, PackFrame)> {
    locator.frames().iter().map(|frame| (locator.packs()[frame.pack as usize], *frame))
}

fn damaged_locator(placement: &Placement) -> PruneError {
    let path = layout::locator(placement.locator.id);
    published::PublishedError::damaged(path, "it has no position for some object of its image").into()
}
