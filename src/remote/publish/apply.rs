//! Carrying out a plan: packs, locators, images, profiles and deltas go up; then commits, placements and refs give them names.

use std::collections::{HashMap, HashSet};

use super::deltas::make_deltas;
use super::error::PublishError;
use super::existing::{Survey, objects};
use super::frames::Section;
use super::names::{self, Named};
use super::options::PublishOptions;
use super::packs::pack_and_upload;
use super::places::{NewLocator, Places};
use super::plan::{Again, CommitPlan, PublishPlan};
use super::progress::{Phase, PublishProgress};
use super::upload::put_immutable;
use crate::image::Image;
use crate::model::{CommitId, LocatorId, PackId, ProfileId};
use crate::remote::format::wire::encode_image;
use crate::remote::format::{FileRef, ImageRef, Placement};
use crate::remote::layout;
use crate::remote::lease;
use crate::remote::transport::{Traffic, Transport};
use crate::store::{Hold, Store};

/// A commit that is published now.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Published {
    /// Which.
    pub commit: CommitId,
    /// Objects packed for it that were in no pack.
    pub new_objects: usize,
    /// What was published before and packed again for it.
    pub again: Again,
    /// Bytes of the published image.
    pub image_bytes: u64,
    /// Deltas made for it.
    pub new_deltas: usize,
}

/// What was done.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PublishReport {
    /// Commits, older ones before newer ones.
    pub commits: Vec<Published>,
    /// Packs made.
    pub packs: usize,
    /// Bytes of those.
    pub pack_bytes: u64,
    /// Bytes of content in them.
    pub content_bytes: u64,
    /// How many of these had been published before.
    pub again_bytes: u64,
    /// Bytes of the deltas made.
    pub delta_bytes: u64,
    /// Bytes of files that were there already, sent by an attempt before.
    pub already_there: u64,
    /// What went over the line.
    pub traffic: Traffic,
}

/// The level for what is small and read by everybody: images and locators. A second for a Debian root.
pub(super) const METADATA_LEVEL: i32 = 19;

/// The lowest level for what a profile names: somebody waits for it to come. It takes 9 % fewer bytes than at the usual
/// level, at 8 MB/s and thread; level 19 would take another half percent at half the speed.
const PROFILE_LEVEL: i32 = 15;

/// Carries out `plan`.
///
/// # Errors
/// [`PublishError`]; no ref that was not reported changed, and running again goes on where this stopped.
pub fn apply(
    store: &Store,
    transport: &Transport,
    survey: &Survey,
    plan: &PublishPlan,
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<PublishReport, PublishError> {
    let mut report = PublishReport::default();
    if plan.is_empty() {
        report.traffic = transport.counters().traffic();
        return Ok(report);
    }
    lease::prove_conditions(transport)?;
    // A collection must not take what is being read.
    let _hold: Option<Hold> = store.hold(crate::disk::Wait::Announced(&|_| {})).ok();
    let sections: Vec<Section<'_>> = plan.commits.iter().flat_map(|commit| sections(commit, options)).collect();
    progress.enter(Phase::Packing, plan.raw_bytes());
    let new = pack_and_upload(store, &store.layout().temporary(), transport, &sections, options, progress)?;
    report.packs = new.packs.len();
    report.pack_bytes = new.packs.iter().map(|pack| pack.length).sum();
    (report.content_bytes, report.again_bytes) = (plan.raw_bytes(), plan.again_bytes());
    let (mut placements, mut packs): (HashMap<CommitId, Placement>, HashSet<PackId>) = Default::default();
    for commit in &plan.commits {
        let mut placement = match &commit.placed {
            Some(placed) => placed.clone(),
            // What is packed again is to be found where it is now.
            None => place(store, transport, [&new, &survey.there], commit, &mut packs, progress)?,
        };
        if let Some(profile) = put_profile(store, transport, commit, options, progress)? {
            placement.profile = Some(profile);
        }
        let made = make_deltas(store, transport, commit, options, progress)?;
        report.delta_bytes += made.iter().map(|delta| delta.length).sum::<u64>();
        report.commits.push(Published {
            commit: commit.id,
            new_objects: commit.new_objects(),
            again: commit.again,
            image_bytes: placement.image.length,
            new_deltas: made.len(),
        });
        // Newest first, so that a client that has several takes the one with the fewest bytes.
        placement.deltas.splice(0..0, made);
        placements.insert(commit.id, placement);
    }
    progress.enter(Phase::Naming, 0);
    names::give(transport, survey, plan, &Named { placements, packs }, options)?;
    report.already_there = progress.already_there();
    report.traffic = transport.counters().traffic();
    Ok(report)
}

/// What is packed of a commit: what the profile names, then the rest.
fn sections<'a>(commit: &'a CommitPlan, options: &PublishOptions) -> [Section<'a>; 2] {
    let (first, rest) = commit.objects.split_at(commit.profiled);
    let level = options.level.max(PROFILE_LEVEL);
    [Section { objects: first, level }, Section { objects: rest, level: options.level }]
}

/// Uploads the image and the locator of a commit, and says where they are. `packs` gets those that the locator leads to.
fn place(
    store: &Store,
    transport: &Transport,
    places: [&Places; 2],
    plan: &CommitPlan,
    packs: &mut HashSet<PackId>,
    progress: &PublishProgress,
) -> Result<Placement, PublishError> {
    let id = plan.commit.image;
    let image = store.image(id)?;
    let wire = encode_image(image.as_bytes(), METADATA_LEVEL).map_err(|source| PublishError::Wire { id, source })?;
    let image_ref = ImageRef::new(id, &wire);
    put_immutable(transport, &layout::image(id), wire.bytes, progress)?;
    let locator = locator(&image, places)?;
    packs.extend(locator.packs());
    let bytes = locator.finish()?;
    let locator = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
    put_immutable(transport, &layout::locator(locator.id), bytes, progress)?;
    Ok(Placement { regroup: plan.again.left, ..Placement::new(image_ref, locator) })
}

/// Uploads what a boot of the commit reads, if that is to be published.
fn put_profile(
    store: &Store,
    transport: &Transport,
    plan: &CommitPlan,
    options: &PublishOptions,
    progress: &PublishProgress,
) -> Result<Option<FileRef<ProfileId>>, PublishError> {
    let Some(profile) = &options.profile else { return Ok(None) };
    let id = plan.commit.image;
    let resolved = profile.resolve(&store.image(id)?).map_err(|source| PublishError::Image { id, source })?;
    let bytes = resolved.encode()?;
    let profile = FileRef { id: ProfileId::of(&bytes), length: bytes.len() as u64 };
    put_immutable(transport, &layout::profile(profile.id), bytes, progress)?;
    Ok(Some(profile))
}

/// Says for every object of the image where it is: in a pack that was there, or in one made now.
fn locator(image: &Image, places: [&Places; 2]) -> Result<NewLocator, PublishError> {
    let mut locator = NewLocator::default();
    for (id, size) in objects(image)? {
        let place = places.iter().find_map(|places| places.find(&id, size));
        locator.add(&place.ok_or(PublishError::NotPacked { id })?);
    }
    Ok(locator)
}
