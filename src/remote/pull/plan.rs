//! What one commit needs that is not here, and how to get it. Reads what describes the commit from the remote, writes
//! nothing.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::PullOptions;
use super::delta::Offer;
use super::error::PullError;
use super::history::Target;
use super::image::Obtained;
use super::report::{CommitReport, ImageSource};
use super::selection;
use crate::image::{Image, ObjectUse};
use crate::model::{CommitId, LocatorId, ObjectId, ProfileId};
use crate::remote::client::Remote;
use crate::remote::fetch::{FetchPlan, PatchPlan, PlanError};
use crate::remote::format::{FileRef, Locator, LocatorBound, PROFILE_SIZE_MAX, Placement, Profile};
use crate::remote::layout;
use crate::remote::transport::Refusal;
use crate::store::Store;

/// What a dry run takes for being here, since the commits before would have brought it.
#[derive(Default)]
pub(super) struct Foreseen {
    pub objects: HashSet<ObjectId>,
    /// The images of commits.
    pub images: HashMap<CommitId, Image>,
}

impl Foreseen {
    /// Adds what carrying out `plan` for `target` would bring.
    pub(super) fn extend(&mut self, target: &Target, plan: &CommitPlan) {
        self.objects.extend(plan.objects.iter().copied());
        self.images.insert(target.id, plan.image.image.clone());
    }

    /// The image of a commit, from here or from before.
    pub(super) fn image(&self, store: &Store, id: CommitId) -> Option<Image> {
        self.images.get(&id).cloned().or_else(|| store.image(store.commit(id).ok()?.image).ok())
    }
}

/// The way to one commit.
pub(super) struct CommitPlan {
    pub image: Obtained,
    pub objects: Vec<ObjectId>,
    /// What the boot profile adds to the objects that are wanted.
    pub profile: HashSet<ObjectId>,
    pub patches: PatchPlan,
    pub frames: FetchPlan,
    report: CommitReport,
}

impl CommitPlan {
    /// Plans `target`. What is `foreseen` counts as being here.
    pub(super) fn new(
        store: &Store,
        remote: &Remote,
        target: &Target,
        options: &PullOptions,
        foreseen: &Foreseen,
    ) -> Result<Self, PullError> {
        let mut placement = LazyPlacement { remote, target, known: target.placement.clone() };
        let mut offer = None;
        let image = match Obtained::from_store(store, target.commit.image)? {
            Some(image) => image,
            None => {
                offer = placement.offer(store, options, foreseen)?;
                match offer.as_ref().and_then(|offer| offer.image(remote, target)) {
                    Some(image) => image,
                    None => Obtained::whole(remote, target.commit.image, placement.get()?.image)?,
                }
            }
        };
        let profile = if options.boot_profile { placement.profile(&image.image)? } else { HashSet::new() };
        let mut missing = selection::missing(store, target.id, &image.image, options, &profile, &foreseen.objects)?;
        let objects = missing.iter().map(|object| object.id).collect();
        let disk_bytes = selection::disk_bytes(&image.image, &missing)?;
        if !missing.is_empty() && image.source == ImageSource::Here {
            offer = placement.offer(store, options, foreseen)?;
        }
        let is_here = |id| foreseen.objects.contains(&id) || store.has_object(id);
        let patches =
            offer.map_or_else(PatchPlan::default, |offer| offer.patches(remote, &image.image, &mut missing, &is_here));
        let frames = if missing.is_empty() {
            FetchPlan::default()
        } else {
            frames(remote, target.id, &image.image, placement.get()?.locator, missing)?
        };
        let new_image = image.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let report = CommitReport {
            commit: target.id,
            image: image.source,
            objects: frames.objects() + patches.objects(),
            delta_objects: patches.objects(),
            requests: frames.requests() + patches.requests(),
            download_bytes: frames.download_bytes() + patches.download_bytes(),
            disk_bytes: disk_bytes + new_image,
            lazy: !options.wants_everything(),
        };
        Ok(Self { image, objects, profile, patches, frames, report })
    }

    /// The plan in numbers.
    pub(super) fn report(&self) -> CommitReport {
        self.report.clone()
    }
}

/// Asks the remote where `missing` objects are.
pub(super) fn frames(
    remote: &Remote,
    commit: CommitId,
    image: &Image,
    file: FileRef<LocatorId>,
    missing: Vec<ObjectUse>,
) -> Result<FetchPlan, PullError> {
    let (transport, id) = (remote.transport(), file.id);
    let url = || transport.url().into();
    // verify() has walked the same tables.
    let bound = LocatorBound::new(image.object_uses().flatten().map(|object| object.size));
    if file.length > bound.length() {
        return Err(PullError::Plan { url: url(), commit, source: PlanError::Length });
    }
    let mut check = |bytes: &Bytes| match LocatorId::of(bytes) {
        found if found == id => Locator::parse(bytes, bound).map_err(Refusal::settled),
        _ => Err(Refusal::wrong("it does not have the digest that it is named by")),
    };
    let locator = transport.get_range_checked(&layout::locator(id), 0..file.length, &mut check);
    let locator = locator.map_err(|source| PullError::Transport { url: url(), source })?;
    FetchPlan::new(&locator, missing).map_err(|source| PullError::Plan { url: url(), commit, source })
}

/// The placement of a commit, asked for when it is needed first.
struct LazyPlacement<'a> {
    remote: &'a Remote,
    target: &'a Target,
    known: Option<Placement>,
}

impl LazyPlacement<'_> {
    fn offer(&mut self, store: &Store, options: &PullOptions, foreseen: &Foreseen) -> Result<Option<Offer>, PullError> {
        if options.without_deltas {
            return Ok(None);
        }
        let (remote, target) = (self.remote, self.target);
        Ok(Offer::find(&|id| foreseen.image(store, id), remote, &target.commit, self.get()?))
    }

    /// The objects of the boot profile; none when there is no profile, or one that cannot be used: it is a hint.
    fn profile(&mut self, image: &Image) -> Result<HashSet<ObjectId>, PullError> {
        let Some(file) = self.get()?.profile else { return Ok(HashSet::new()) };
        let (transport, length) = (self.remote.transport(), file.length.min(PROFILE_SIZE_MAX));
        let mut check = |bytes: &Bytes| match Profile::parse(bytes) {
            Ok(profile) if ProfileId::of(bytes) == file.id => Ok(profile),
            _ => Err(Refusal::wrong("it is not what its name says")),
        };
        match transport.optional().get_range_checked(&layout::profile(file.id), 0..length, &mut check) {
            Ok(profile) => Ok(selection::profiled(image, &profile)),
            Err(error) => {
                tracing::warn!("the boot profile {} of {} cannot be used: {error}", file.id, transport.url());
                Ok(HashSet::new())
            }
        }
    }

    fn get(&mut self) -> Result<&Placement, PullError> {
        let placement = match self.known.take() {
            Some(placement) => placement,
            None => self.remote.placement(self.target.id)?,
        };
        Ok(self.known.insert(placement))
    }
}
