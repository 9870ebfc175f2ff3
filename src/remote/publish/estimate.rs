//! Estimates what publishing would send, by compressing a sample of the contents.
//!
//! *Used by* `cli`, for dry runs.

use super::apply::METADATA_LEVEL;
use super::error::PublishError;
use super::frames::{FrameCutter, PackSection};
use super::options::PublishOptions;
use super::plan::{CommitPublishPlan, PublishPlan};
use crate::model::ObjectId;
use crate::remote::delta::{Delta, DeltaSide};
use crate::remote::format::compress_frames;
use crate::remote::format::wire::encode_image;
use crate::remote::transport::Transport;
use crate::store::Store;

/// Bytes of content that are compressed for an estimate: a second at the usual levels. High levels get a quarter.
const SAMPLE_BYTES: u64 = 32 << 20;

/// The zstd level from which on a sample of [`SAMPLE_BYTES`] takes too long.
const SLOW_LEVEL: i32 = 10;

/// Number of positions at which the sample is taken.
const SAMPLE_POSITIONS: u64 = 32;

/// Bytes of a locator for each object, measured on a Debian root.
const LOCATOR_BYTES: u64 = 3;

/// An estimate of what publishing would send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Estimate {
    /// Bytes of packs.
    pub(crate) pack_bytes: u64,
    /// Bytes of images and locators.
    pub(crate) metadata_bytes: u64,
    /// Bytes of deltas.
    pub(crate) delta_bytes: u64,
    /// Number of objects in deltas.
    pub(crate) delta_objects: u64,
    /// Number of requests, including those that have read the destination already.
    pub(crate) requests: u64,
    /// Bytes of content that were compressed for this estimate. If these are all, the bytes of packs are exact.
    pub(crate) sampled_bytes: u64,
}

impl Estimate {
    /// Returns the total number of bytes to send.
    pub(crate) const fn upload_bytes(&self) -> u64 {
        self.pack_bytes + self.metadata_bytes + self.delta_bytes
    }
}

/// Estimates what [`super::apply()`] would send for `plan`. Sends nothing.
///
/// # Errors
/// Errors of reading the repository.
pub(crate) fn estimate(
    store: &Store,
    transport: &Transport,
    plan: &PublishPlan,
    options: &PublishOptions,
) -> Result<Estimate, PublishError> {
    let mut estimate = Estimate::default();
    let (sampled, packed) = sample(store, plan, options)?;
    estimate.sampled_bytes = sampled;
    estimate.pack_bytes = scale(packed, plan.raw_bytes(), sampled);
    let mut image_ratio = None;
    for commit in &plan.commits {
        if !commit.is_published() {
            estimate.metadata_bytes += estimate_metadata(store, commit, &mut image_ratio)?;
        }
        for base in &commit.deltas {
            let (old, new) = (store.image(store.commit(*base)?.image)?, store.image(commit.commit.image)?);
            let delta =
                Delta::new(DeltaSide { image: &old, objects: store }, DeltaSide { image: &new, objects: store })?;
            estimate.delta_objects += delta.objects();
            // The differing share of the images is close to that of the contents.
            let share = scale(new.file_length(), delta.content_bytes(), commit.commit.content_bytes);
            estimate.delta_bytes += delta.estimate(SAMPLE_BYTES / 2)? + share / 4;
        }
    }
    estimate.requests = count_requests(transport, plan, &estimate, options);
    Ok(estimate)
}

/// Scales `part` of `from` to the same part of `to`.
fn scale(part: u64, to: u64, from: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(to) / u128::from(from.max(1))).unwrap_or(u64::MAX)
}

/// Compresses a sample of the contents to be packed, and returns its bytes before and after.
fn sample(store: &Store, plan: &PublishPlan, options: &PublishOptions) -> Result<(u64, u64), PublishError> {
    let objects: Vec<(ObjectId, u64)> = plan.commits.iter().flat_map(|commit| &commit.objects).copied().collect();
    let size = if options.level < SLOW_LEVEL { SAMPLE_BYTES } else { SAMPLE_BYTES / 4 };
    let total = plan.raw_bytes();
    let (positions, each) = if total <= 2 * size { (1, u64::MAX) } else { (SAMPLE_POSITIONS, size / SAMPLE_POSITIONS) };
    let (mut sampled, mut packed) = (0, 0);
    for number in 0..positions {
        let mut position = 0;
        let start = objects.iter().position(|(_, size)| {
            position += size;
            position > scale(total, number, positions)
        });
        let Some(start) = start else { continue };
        let rest = [PackSection { objects: &objects[start..], level: options.level }];
        let mut cutter = FrameCutter::new(store, &rest, options.frames);
        let mut left = each;
        let next = || {
            let frame = if left > 0 { cutter.next()? } else { None };
            left = left.saturating_sub(frame.as_ref().map_or(0, |(_, raw)| raw.bytes.len() as u64));
            Ok::<_, PublishError>(frame)
        };
        compress_frames(options.threads, next, |_, raw, frame| {
            (sampled, packed) = (sampled + raw.len() as u64, packed + frame.len() as u64);
            Ok::<_, PublishError>(())
        })?;
    }
    Ok((sampled, packed))
}

/// Estimates the bytes of the image and the locator of a commit. The first image is encoded; others are assumed to have
/// the same ratio.
fn estimate_metadata(
    store: &Store,
    plan: &CommitPublishPlan,
    ratio: &mut Option<(u64, u64)>,
) -> Result<u64, PublishError> {
    let id = plan.commit.image;
    let image = store.image(id)?;
    let (packed, raw) = match *ratio {
        Some(known) => known,
        None => {
            let wire = encode_image(image.as_bytes(), METADATA_LEVEL);
            let wire = wire.map_err(|source| PublishError::Wire { id, source })?;
            *ratio.insert((wire.bytes.len() as u64, image.file_length()))
        }
    };
    Ok(scale(packed, image.file_length(), raw) + u64::from(image.object_count()) * LOCATOR_BYTES)
}

fn count_requests(transport: &Transport, plan: &PublishPlan, estimate: &Estimate, options: &PublishOptions) -> u64 {
    if plan.is_empty() {
        return transport.counters().traffic().requests;
    }
    // The existence of each file is checked before it is sent.
    let upload = |length: u64| 1 + transport.upload_requests(length);
    let whole_packs = estimate.pack_bytes / options.pack_size.max(1);
    let last_pack = estimate.pack_bytes % options.pack_size.max(1);
    let mut sum = transport.counters().traffic().requests;
    sum += whole_packs * upload(options.pack_size) + if last_pack > 0 { upload(last_pack) } else { 0 };
    let new = plan.commits.iter().filter(|commit| !commit.is_published()).count() as u64;
    let profiles = if options.profile.is_some() { plan.commits.len() as u64 } else { 0 };
    sum += (2 * new + profiles) * upload(0);
    let deltas = plan.deltas() as u64;
    sum += deltas * upload(estimate.delta_bytes / deltas.max(1));
    // Commits are read and written, placements and refs are written; files that they lead to are listed first.
    sum += 3 * plan.commits.len() as u64 + plan.refs.len() as u64 + 2 * u64::from(options.key_chain.generation() > 0);
    sum + transport.lease_requests() + 4 + u64::from(deltas > 0) + u64::from(profiles > 0)
}
