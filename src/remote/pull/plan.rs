//! Plans the pull of one commit: which parts are missing, and how to get them. Reads the commit's description from the
//! remote, writes nothing.
//!
//! *Used by* `pull` and `apply`.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::PullOptions;
use super::delta::DeltaOffer;
use super::error::PullError;
use super::history::PullTarget;
use super::image::ObtainedImage;
use super::report::{CommitReport, ImageSource};
use super::selection;
use crate::image::{Image, ObjectUse};
use crate::model::{CommitId, LocatorId, ObjectId, ProfileId};
use crate::remote::client::Remote;
use crate::remote::fetch::{FetchPlan, FetchPlanError, PatchPlan};
use crate::remote::format::{FileRef, Locator, LocatorBound, PROFILE_SIZE_MAX, Placement, Profile};
use crate::remote::layout;
use crate::remote::transport::Rejection;
use crate::store::Store;

/// The contents that a dry run assumes to be in the repository, since pulling earlier commits would have fetched them.
#[derive(Default)]
pub(super) struct AssumedPresent {
    pub(crate) objects: HashSet<ObjectId>,
    /// The images of earlier commits.
    pub(crate) images: HashMap<CommitId, Image>,
}

impl AssumedPresent {
    /// Adds what carrying out `plan` for `target` would fetch.
    pub(super) fn extend(&mut self, target: &PullTarget, plan: &CommitPullPlan) {
        self.objects.extend(plan.objects.iter().copied());
        self.images.insert(target.id, plan.image.image.clone());
    }

    /// Returns the image of a commit, from an earlier plan or from the repository.
    pub(super) fn image(&self, store: &Store, id: CommitId) -> Option<Image> {
        self.images.get(&id).cloned().or_else(|| store.image(store.commit(id).ok()?.image).ok())
    }
}

/// The plan for one commit.
pub(super) struct CommitPullPlan {
    pub(crate) image: ObtainedImage,
    pub(crate) objects: Vec<ObjectId>,
    /// Objects of the boot profile, which are wanted in addition.
    pub(crate) profile: HashSet<ObjectId>,
    pub(crate) patches: PatchPlan,
    pub(crate) frames: FetchPlan,
    report: CommitReport,
}

impl CommitPullPlan {
    /// Plans the pull of `target`. The contents in `assumed` count as present.
    pub(super) fn new(
        store: &Store,
        remote: &Remote,
        target: &PullTarget,
        options: &PullOptions,
        assumed: &AssumedPresent,
    ) -> Result<Self, PullError> {
        let mut placement = LazyPlacement { remote, target, known: target.placement.clone() };
        let mut delta = None;
        let image = match ObtainedImage::from_store(store, target.commit.image)? {
            Some(image) => image,
            None => {
                delta = placement.offer(store, options, assumed)?;
                match delta.as_ref().and_then(|delta| delta.apply_to_image(remote, target)) {
                    Some(image) => image,
                    None => ObtainedImage::fetch_whole(remote, target.commit.image, placement.get()?.image)?,
                }
            }
        };
        let profile = if options.boot_profile { placement.profile(&image.image)? } else { HashSet::new() };
        let mut missing =
            selection::select_missing(store, target.id, &image.image, options, &profile, &assumed.objects)?;
        let objects = missing.iter().map(|object| object.id).collect();
        let disk_bytes = selection::disk_bytes(&image.image, &missing)?;
        if !missing.is_empty() && image.source == ImageSource::Here {
            delta = placement.offer(store, options, assumed)?;
        }
        let is_present = |id| assumed.objects.contains(&id) || store.has_object(id);
        let patches = delta.map_or_else(PatchPlan::default, |delta| {
            delta.plan_patches(remote, &image.image, &mut missing, &is_present)
        });
        let frames = if missing.is_empty() {
            FetchPlan::default()
        } else {
            plan_frames(remote, target.id, &image.image, placement.get()?.locator, missing)?
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

    /// Returns the plan in numbers.
    pub(super) fn report(&self) -> CommitReport {
        self.report.clone()
    }
}

/// Fetches the locator and plans the frames of the `missing` objects.
pub(super) fn plan_frames(
    remote: &Remote,
    commit: CommitId,
    image: &Image,
    file: FileRef<LocatorId>,
    missing: Vec<ObjectUse>,
) -> Result<FetchPlan, PullError> {
    let (transport, id) = (remote.transport(), file.id);
    let url = || transport.url().into();
    // `Image::verify` has read the same tables without error.
    let bound = LocatorBound::new(image.object_uses().flatten().map(|object| object.size));
    if file.length > bound.max_length() {
        return Err(PullError::Plan { url: url(), commit, source: FetchPlanError::LocatorLength });
    }
    let mut check = |bytes: &Bytes| match LocatorId::of(bytes) {
        found if found == id => Locator::parse(bytes, bound).map_err(Rejection::permanent),
        _ => Err(Rejection::wrong("it does not have the digest that it is named by")),
    };
    let locator = transport.get_range_checked(&layout::locator(id), 0..file.length, &mut check);
    let locator = locator.map_err(|source| PullError::Transport { url: url(), source })?;
    FetchPlan::new(&locator, missing).map_err(|source| PullError::Plan { url: url(), commit, source })
}

/// The placement of a commit, which is fetched when it is first needed.
struct LazyPlacement<'a> {
    remote: &'a Remote,
    target: &'a PullTarget,
    known: Option<Placement>,
}

impl LazyPlacement<'_> {
    fn offer(
        &mut self,
        store: &Store,
        options: &PullOptions,
        foreseen: &AssumedPresent,
    ) -> Result<Option<DeltaOffer>, PullError> {
        if options.without_deltas {
            return Ok(None);
        }
        let (remote, target) = (self.remote, self.target);
        Ok(DeltaOffer::find(&|id| foreseen.image(store, id), remote, &target.commit, self.get()?))
    }

    /// Returns the objects of the boot profile; none when there is no profile or it is damaged, since it is only a
    /// hint.
    fn profile(&mut self, image: &Image) -> Result<HashSet<ObjectId>, PullError> {
        let Some(file) = self.get()?.profile else { return Ok(HashSet::new()) };
        let (transport, length) = (self.remote.transport(), file.length.min(PROFILE_SIZE_MAX));
        let mut check = |bytes: &Bytes| match Profile::parse(bytes) {
            Ok(profile) if ProfileId::of(bytes) == file.id => Ok(profile),
            _ => Err(Rejection::wrong("it is not what its name says")),
        };
        match transport.optional().get_range_checked(&layout::profile(file.id), 0..length, &mut check) {
            Ok(profile) => Ok(selection::select_profiled(image, &profile)),
            Err(error) => {
                tracing::warn!("the boot profile {} of {} cannot be used: {error}", file.id, transport.url());
                Ok(HashSet::new())
            }
        }
    }

    fn get(&mut self) -> Result<&Placement, PullError> {
        let placement = match self.known.take() {
            Some(placement) => placement,
            None => self.remote.fetch_placement(self.target.id)?,
        };
        Ok(self.known.insert(placement))
    }
}
