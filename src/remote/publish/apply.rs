//! Carries out a plan: uploads packs, locators, images, profiles and deltas; then writes commits, placements and refs.
//!
//! *Not here*: what is uploaded (`plan`), and the writing of names (`names`).
//!
//! *Invariants*: everything that a name leads to is uploaded before the name is written.
//!
//! *Used by* `cli`.

use std::collections::{HashMap, HashSet};

use super::deltas::make_deltas;
use super::error::PublishError;
use super::existing::{Survey, list_objects};
use super::frames::PackSection;
use super::locations::{NewLocator, ObjectLocations};
use super::names::{self, NameTargets};
use super::options::PublishOptions;
use super::packs::pack_and_upload;
use super::plan::{CommitPublishPlan, PublishPlan, RepackedContents};
use super::progress::{Phase, PublishProgress};
use super::upload::put_immutable;
use crate::image::Image;
use crate::model::{CommitId, LocatorId, PackId, ProfileId};
use crate::remote::format::wire::encode_image;
use crate::remote::format::{FileRef, ImageRef, Placement};
use crate::remote::layout;
use crate::remote::lease;
use crate::remote::transport::{Traffic, Transport};
use crate::store::{RemovalGuard, Store};

/// A commit that was published by this run.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct PublishedCommit {
    pub(crate) commit: CommitId,
    /// Number of objects packed for it that were in no pack.
    pub(crate) new_objects: usize,
    /// Contents that were published before and packed again for it.
    pub(crate) repacked: RepackedContents,
    /// Bytes of the published image.
    pub(crate) image_bytes: u64,
    /// Number of deltas made for it.
    pub(crate) new_deltas: usize,
}

#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct PublishReport {
    /// The commits, older ones before newer ones.
    pub(crate) commits: Vec<PublishedCommit>,
    /// Number of packs made.
    pub(crate) packs: usize,
    /// Bytes of the packs.
    pub(crate) pack_bytes: u64,
    /// Bytes of content in them.
    pub(crate) content_bytes: u64,
    /// Bytes of content that had been published before.
    pub(crate) repacked_bytes: u64,
    /// Bytes of the deltas made.
    pub(crate) delta_bytes: u64,
    /// Bytes of files that existed already, uploaded by an earlier attempt.
    pub(crate) already_there: u64,
    /// The network traffic.
    pub(crate) traffic: Traffic,
}

/// The zstd level for images and locators, which are small and read by every client. It takes a second for a Debian
/// root.
pub(super) const METADATA_LEVEL: i32 = 19;

/// The lowest zstd level for the objects of a profile, for which readers wait. Contents take 9 % fewer bytes than at
/// the usual level, at 8 MB/s for each thread; level 19 would save another half percent at half the speed.
const PROFILE_LEVEL: i32 = 15;

/// Carries out `plan`.
///
/// # Errors
/// [`PublishError`]. No ref has changed that was not reported, and another run continues where this one stopped.
pub(crate) fn apply(
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
    lease::verify_conditional_writes(transport)?;
    // A garbage collection must not remove what is being read.
    let _hold: Option<RemovalGuard> = store.block_removal(crate::disk::Wait::Announced(&|_| {})).ok();
    let sections: Vec<PackSection<'_>> = plan.commits.iter().flat_map(|commit| sections(commit, options)).collect();
    progress.enter(Phase::Packing, plan.raw_bytes());
    let new = pack_and_upload(store, &store.layout().temporary(), transport, &sections, options, progress)?;
    report.packs = new.packs.len();
    report.pack_bytes = new.packs.iter().map(|pack| pack.length).sum();
    (report.content_bytes, report.repacked_bytes) = (plan.raw_bytes(), plan.repacked_bytes());
    let (mut placements, mut packs): (HashMap<CommitId, Placement>, HashSet<PackId>) = Default::default();
    for commit in &plan.commits {
        let mut placement = match &commit.placement {
            Some(placement) => placement.clone(),
            // The new positions come first, so that contents that are packed again are found in the new packs.
            None => publish_image(store, transport, [&new, &survey.locations], commit, &mut packs, progress)?,
        };
        if let Some(profile) = put_profile(store, transport, commit, options, progress)? {
            placement.profile = Some(profile);
        }
        let made = make_deltas(store, transport, commit, options, progress)?;
        report.delta_bytes += made.iter().map(|delta| delta.length).sum::<u64>();
        report.commits.push(PublishedCommit {
            commit: commit.id,
            new_objects: commit.new_objects(),
            repacked: commit.repacked,
            image_bytes: placement.image.length,
            new_deltas: made.len(),
        });
        // Newest first: a client that has several of the older commits takes the delta with the fewest bytes.
        placement.deltas.splice(0..0, made);
        placements.insert(commit.id, placement);
    }
    progress.enter(Phase::Naming, 0);
    names::publish_names(transport, survey, plan, &NameTargets { placements, packs }, options)?;
    report.already_there = progress.already_there();
    report.traffic = transport.counters().traffic();
    Ok(report)
}

/// Returns the sections that are packed for a commit: the objects of the profile, then the rest.
fn sections<'a>(commit: &'a CommitPublishPlan, options: &PublishOptions) -> [PackSection<'a>; 2] {
    let (first, rest) = commit.objects.split_at(commit.profiled);
    let level = options.level.max(PROFILE_LEVEL);
    [PackSection { objects: first, level }, PackSection { objects: rest, level: options.level }]
}

/// Uploads the image and the locator of a commit, and returns its placement. The packs of the locator are added to
/// `packs`.
fn publish_image(
    store: &Store,
    transport: &Transport,
    locations: [&ObjectLocations; 2],
    plan: &CommitPublishPlan,
    packs: &mut HashSet<PackId>,
    progress: &PublishProgress,
) -> Result<Placement, PublishError> {
    let id = plan.commit.image;
    let image = store.image(id)?;
    let wire = encode_image(image.as_bytes(), METADATA_LEVEL).map_err(|source| PublishError::Wire { id, source })?;
    let image_ref = ImageRef::new(id, &wire);
    put_immutable(transport, &layout::image(id), wire.bytes, progress)?;
    let locator = build_locator(&image, locations)?;
    packs.extend(locator.packs());
    let bytes = locator.finish()?;
    let locator = FileRef { id: LocatorId::of(&bytes), length: bytes.len() as u64 };
    put_immutable(transport, &layout::locator(locator.id), bytes, progress)?;
    Ok(Placement { regroup_budget: plan.repacked.regroup_budget, ..Placement::new(image_ref, locator) })
}

/// Uploads the profile of the commit, if there is one to publish.
fn put_profile(
    store: &Store,
    transport: &Transport,
    plan: &CommitPublishPlan,
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

/// Makes the locator of the image: each object is in a published pack, or in one made by this run.
fn build_locator(image: &Image, locations: [&ObjectLocations; 2]) -> Result<NewLocator, PublishError> {
    let mut locator = NewLocator::default();
    for (id, size) in list_objects(image)? {
        let location = locations.iter().find_map(|locations| locations.find(&id, size));
        locator.add(&location.ok_or(PublishError::NotPacked { id })?);
    }
    Ok(locator)
}
