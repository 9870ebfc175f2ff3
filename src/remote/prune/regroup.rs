//! Packing the newest commit of a ref again when a client that has nothing would fetch too much for it.
//!
//! Publishing keeps that within bounds, see `publish::view`; here it is brought down to about what a commit costs that is
//! published afresh. Only the places of newest commits change: older ones stay as they were when they were the newest. Refs
//! that share contents go on sharing them as long as none of them fetches too much because of that.

use std::collections::{HashMap, HashSet};

use super::contents::{Located, PublishedContents};
use super::error::PruneError;
use super::inventory::{Inventory, Known};
use super::plan::{RegroupPlan, RepackPlan};
use super::{PruneOptions, PruneProgress};
use crate::image::Image;
use crate::model::{Commit, LocatorId, ObjectId, RefName};
use crate::remote::format::{FileRef, Frame, Locator, LocatorBound, PROFILE_SIZE_MAX, PackRef, Placement, Profile};
use crate::remote::layout;
use crate::remote::publish::{
    Goals, NewLocator, Places, PublishOptions, PublishProgress, Section, View, objects, pack_and_upload,
    published_image,
};
use crate::remote::published;
use crate::remote::transport::{Transport, TransportError};

/// Whether things are done or only planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing is written.
    Plan,
    /// Packs are uploaded. Nothing leads there yet.
    Upload,
}

/// What was packed again.
#[derive(Default)]
pub(super) struct Regrouped {
    pub plans: Vec<RegroupPlan>,
    /// The packs that these are in no more.
    pub left: Vec<RepackPlan>,
    /// The locators that lead there, by the names of those that they are to take the places of.
    pub locators: HashMap<LocatorId, FileRef<LocatorId>>,
    /// These themselves, to be uploaded unless others take their places.
    pub pending: HashMap<LocatorId, (Locator, Vec<u8>)>,
    /// Where the contents are now.
    places: Places,
}

impl Regrouped {
    /// The new packs.
    pub(super) fn packs(&self) -> &[PackRef] {
        &self.places.packs
    }
}

/// Packs the newest commits of all refs again where that is worth it. `known` learns what they need afterwards.
pub(super) fn newest(
    transport: &Transport,
    inventory: &Inventory,
    known: &mut Known,
    options: &PruneOptions,
    progress: &PruneProgress,
    act: Act,
) -> Result<Regrouped, PruneError> {
    let mut regrouping = Regrouping { transport, options, progress, act, done: Regrouped::default() };
    for (name, reference) in &inventory.refs {
        let Some(kept) = inventory.commits.get(&reference.record.commit) else { continue };
        if !known.packs_of.contains_key(&reference.placement.locator.id) {
            regrouping.add(name, &kept.commit, &reference.placement, known)?;
        }
    }
    Ok(regrouping.done)
}

struct Regrouping<'a> {
    transport: &'a Transport,
    options: &'a PruneOptions,
    progress: &'a PruneProgress,
    act: Act,
    done: Regrouped,
}

impl Regrouping<'_> {
    fn add(
        &mut self,
        name: &RefName,
        commit: &Commit,
        placement: &Placement,
        known: &mut Known,
    ) -> Result<(), PruneError> {
        let old = placement.locator.id;
        let locator = published::read_locator(self.transport, commit, placement)?;
        let image = self.image(commit, placement)?;
        let all: Vec<(ObjectId, u64)> = objects(&image)?.collect();
        let mut own = Places::default();
        own.learn(&locator, all.iter().copied(), &mut all.iter().map(|(id, _)| *id).collect());
        let (alone, shared) = (View::new(&all, &[&own]), View::new(&all, &[&self.done.places, &own]));
        let goals = Goals::of_prune(self.options.pack_size);
        if alone.is_within(&goals) {
            known.learn_newest(old, located(&locator));
            return Ok(());
        }
        let chosen = shared.choose(&goals, 0, &|_| true);
        if chosen.is_empty() && shared.cost() == alone.cost() {
            // Nothing would be won.
            known.learn_newest(old, located(&locator));
            return Ok(());
        }
        let content_bytes = chosen.iter().map(|number| all[*number as usize].1).sum();
        let (cost, fresh) = (alone.cost(), alone.fresh(goals.pack_size));
        self.done.plans.push(RegroupPlan { name: name.clone(), content_bytes, cost, fresh });
        let left = shared.packs_with(&chosen).into_iter();
        self.done.left.extend(left.map(|(pack, live_bytes)| RepackPlan {
            pack: pack.id,
            bytes: pack.length,
            live_bytes,
        }));
        if self.act == Act::Plan {
            let chosen: HashSet<u32> = chosen.into_iter().collect();
            let stay = (0_u32..).zip(&all).filter(|(number, _)| !chosen.contains(number));
            let places = stay.filter_map(|(_, (id, size))| own.find(id, *size));
            known.learn_newest(old, places.flat_map(|place| place.frames().collect::<Vec<_>>()));
            known.replaced.insert(old);
            return Ok(());
        }
        let new = self.pack(&image, placement, &all, &chosen, &own)?;
        self.done.places.extend(new);
        let mut relocated = NewLocator::default();
        for (id, size) in &all {
            let place = [&self.done.places, &own].into_iter().find_map(|places| places.find(id, *size));
            relocated.add(&place.ok_or_else(|| damaged_locator(placement))?);
        }
        let bytes = relocated.finish()?;
        let file = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
        let bound = LocatorBound::new(all.iter().map(|(_, size)| *size));
        let parsed = Locator::parse(&bytes, bound).map_err(|_| damaged_locator(placement))?;
        known.learn_newest(file.id, located(&parsed));
        self.done.pending.insert(file.id, (parsed, bytes));
        // It is not asked for again: nothing leads to it soon.
        known.packs_of.insert(old, locator.packs().to_vec());
        self.done.locators.insert(old, file);
        Ok(())
    }

    /// The image of a commit, from the local repository if it is there.
    fn image(&self, commit: &Commit, placement: &Placement) -> Result<Image, PruneError> {
        if let Some(image) = self.options.store.as_ref().and_then(|store| store.image(commit.image).ok()) {
            return Ok(image);
        }
        let image = published_image(self.transport, commit.image, placement)?;
        Ok(image.ok_or_else(|| TransportError::Missing { path: layout::image(commit.image) })?)
    }

    /// Packs the `chosen` of `all` objects again and uploads the packs.
    fn pack(
        &self,
        image: &Image,
        placement: &Placement,
        all: &[(ObjectId, u64)],
        chosen: &[u32],
        own: &Places,
    ) -> Result<Places, PruneError> {
        let order = self.in_order(placement, chosen)?;
        let locate = |number: &u32| {
            let (id, size) = *all.get(*number as usize)?;
            let place = [&self.done.places, own].into_iter().find_map(|places| places.find(&id, size))?;
            Some(Located { number: *number, id, size, frames: place.frames().collect(), offset: place.offset() })
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
        let sections = [Section { objects: &objects, level }];
        let progress = PublishProgress::default();
        Ok(pack_and_upload(&contents, scratch, self.transport, &sections, &options, &progress)?)
    }

    /// The chosen objects in the order in which they are packed: what the profile lists first.
    fn in_order(&self, placement: &Placement, chosen: &[u32]) -> Result<Vec<u32>, PruneError> {
        let listed = self.profile(placement)?;
        let mut left: HashSet<u32> = chosen.iter().copied().collect();
        let first = listed.entries.iter().map(|entry| entry.object).filter(|number| left.remove(number));
        let mut order: Vec<u32> = first.collect();
        order.extend(chosen.iter().filter(|number| left.contains(number)));
        Ok(order)
    }

    /// What the commit's profile lists; nothing when there is none that can be read.
    fn profile(&self, placement: &Placement) -> Result<Profile, PruneError> {
        let Some(place) = placement.profile else { return Ok(Profile::default()) };
        let found = self.transport.get(&layout::profile(place.id), PROFILE_SIZE_MAX)?;
        Ok(found.and_then(|(bytes, _)| Profile::parse(&bytes).ok()).unwrap_or_default())
    }
}

/// The frames of a locator, each with its pack.
fn located(locator: &Locator) -> impl Iterator<Item = (PackRef, Frame)> {
    locator.frames().iter().map(|frame| (locator.packs()[frame.pack as usize], *frame))
}

fn damaged_locator(placement: &Placement) -> PruneError {
    let path = layout::locator(placement.locator.id);
    published::PublishedError::damaged(path, "it has no place for some object of its image").into()
}
