//! Selects a usable delta, and plans what to take from it.
//!
//! A delta that is missing or damaged costs one warning: all its contents can be fetched in another way.
//!
//! *Not here*: fetching the pieces (`fetch`), and the format (`remote::delta`).
//!
//! *Used by* `plan`.

use std::error::Error as _;

use bytes::Bytes;

use super::history::PullTarget;
use super::image::ObtainedImage;
use crate::image::{Image, ObjectUse};
use crate::model::{Commit, CommitId, ObjectId};
use crate::remote::client::Remote;
use crate::remote::delta::{DELTA_HEAD_MAX, DeltaHead, max_pieces};
use crate::remote::fetch::PatchPlan;
use crate::remote::format::wire::apply_image_delta;
use crate::remote::format::{DeltaRef, Placement};
use crate::remote::layout;
use crate::remote::transport::Rejection;

/// The head of a delta whose older commit is in the repository.
pub(super) struct DeltaOffer {
    reference: DeltaRef,
    head: DeltaHead,
    old: Image,
}

impl DeltaOffer {
    /// Fetches the head of the first delta to `target` whose older commit is in the repository with its image.
    pub(super) fn find(
        image_of: &dyn Fn(CommitId) -> Option<Image>,
        remote: &Remote,
        target: &Commit,
        placement: &Placement,
    ) -> Option<Self> {
        let with_image = |reference: &DeltaRef| Some((*reference, image_of(reference.from)?));
        let (reference, old) = placement.deltas.iter().find_map(with_image)?;
        let path = layout::delta(reference.id);
        // The head holds the delta of the image, which is no longer than an image, and few bytes for each object.
        let limit = DELTA_HEAD_MAX.min(old.file_length().saturating_mul(2).saturating_add(1 << 20));
        if reference.head > limit {
            tracing::warn!(
                "{path} of {} has an implausible length; fetching whole contents instead",
                remote.transport().url()
            );
            return None;
        }
        let mut check = |bytes: &Bytes| DeltaHead::parse(bytes, max_pieces(target)).map_err(Rejection::wrong);
        let head = remote.transport().optional().get_range_checked(&path, 0..reference.head, &mut check);
        match head {
            Ok(head) => Some(Self { reference, head, old }),
            Err(error) => {
                let why = error.source().map(|why| format!(": {why}")).unwrap_or_default();
                tracing::warn!(
                    "{path} of {} cannot be used: {error}{why}; fetching whole contents instead",
                    remote.transport().url()
                );
                None
            }
        }
    }

    /// Makes the new image from the old one.
    pub(super) fn apply_to_image(&self, remote: &Remote, target: &PullTarget) -> Option<ObtainedImage> {
        let id = target.commit.image;
        let made = apply_image_delta(self.old.as_bytes(), self.head.image_delta(), id);
        let made = made.map_err(|error| error.to_string());
        let made = made.and_then(|bytes| ObtainedImage::from_delta(id, bytes).map_err(|refusal| refusal.to_string()));
        match made {
            Ok(image) => Some(image),
            Err(error) => {
                let (path, url) = (layout::delta(self.reference.id), remote.transport().url());
                tracing::warn!(
                    "{path} of {url} does not lead to image {}: {error}; fetching whole contents instead",
                    id.short()
                );
                None
            }
        }
    }

    /// Plans to take objects of `new` from the delta, and removes them from `missing`.
    pub(super) fn plan_patches(
        &self,
        remote: &Remote,
        new: &Image,
        missing: &mut Vec<ObjectUse>,
        is_stored: &dyn Fn(ObjectId) -> bool,
    ) -> PatchPlan {
        let uses = |image: &Image| image.object_uses().collect::<Result<Vec<_>, _>>();
        let (old, new) = match (uses(&self.old), uses(new)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("image {} is damaged: {error}; run 'sapwood fsck --all'", self.old.id().short());
                return PatchPlan::default();
            }
        };
        PatchPlan::new(self.reference.id, &self.head, (&old, &new), missing, is_stored).unwrap_or_else(|error| {
            let (path, url) = (layout::delta(self.reference.id), remote.transport().url());
            tracing::warn!("{path} of {url} cannot be used: {error}; fetching whole contents instead");
            PatchPlan::default()
        })
    }
}
