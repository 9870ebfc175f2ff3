//! What publishing would send, told beforehand: by compressing a part of it.

use super::apply::METADATA_LEVEL;
use super::error::PublishError;
use super::frames::{FrameCutter, Section};
use super::options::PublishOptions;
use super::plan::{CommitPlan, PublishPlan};
use crate::model::ObjectId;
use crate::remote::delta::{Delta, Side};
use crate::remote::format::compress_frames;
use crate::remote::format::wire::encode_image;
use crate::remote::transport::Transport;
use crate::store::Store;

/// Bytes of content that are compressed for an estimate: a second at the usual levels. High levels get a quarter.
const SAMPLE: u64 = 32 << 20;

/// From this level on a sample of [`SAMPLE`] takes too long.
const SLOW_LEVEL: i32 = 10;

/// The sample is taken at so many places.
const PLACES: u64 = 32;

/// Bytes of a locator for each object, measured on a Debian root.
const LOCATOR_BYTES: u64 = 3;

/// What publishing would send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Estimate {
    /// Bytes of packs.
    pub pack_bytes: u64,
    /// Bytes of images and locators.
    pub metadata_bytes: u64,
    /// Bytes of deltas.
    pub delta_bytes: u64,
    /// Objects in deltas.
    pub delta_objects: u64,
    /// Requests in all, those that looked at what is there already included.
    pub requests: u64,
    /// Bytes of content that were compressed to tell this; if these are all of it, the bytes of packs are exact.
    pub sampled_bytes: u64,
}

impl Estimate {
    /// Bytes to send in all.
    #[must_use]
    pub const fn upload_bytes(&self) -> u64 {
        self.pack_bytes + self.metadata_bytes + self.delta_bytes
    }
}

/// Estimates what [`super::apply`] would send for `plan`. Sends nothing.
///
/// # Errors
/// Those of reading the repository.
pub fn estimate(
    store: &Store,
    transport: &Transport,
    plan: &PublishPlan,
    options: &PublishOptions,
) -> Result<Estimate, PublishError> {
    let mut estimate = Estimate::default();
    let (sampled, packed) = sample(store, plan, options)?;
    estimate.sampled_bytes = sampled;
    estimate.pack_bytes = scaled(packed, plan.raw_bytes(), sampled);
    let mut image_ratio = None;
    for commit in &plan.commits {
        if !commit.is_published() {
            estimate.metadata_bytes += metadata(store, commit, &mut image_ratio)?;
        }
        for base in &commit.deltas {
            let (old, new) = (store.image(store.commit(*base)?.image)?, store.image(commit.commit.image)?);
            let delta = Delta::new(Side { image: &old, objects: store }, Side { image: &new, objects: store })?;
            estimate.delta_objects += delta.objects();
            // What is not in common of the images is in the same proportion to them as of the contents, nearly.
            let share = scaled(new.file_length(), delta.content_bytes(), commit.commit.content_bytes);
            estimate.delta_bytes += delta.estimate(SAMPLE / 2)? + share / 4;
        }
    }
    estimate.requests = requests(transport, plan, &estimate, options);
    Ok(estimate)
}

/// `part` of `from` as a part of `to`.
fn scaled(part: u64, to: u64, from: u64) -> u64 {
    u64::try_from(u128::from(part) * u128::from(to) / u128::from(from.max(1))).unwrap_or(u64::MAX)
}

/// Compresses some of the contents to be packed: how many bytes of content, and to how many.
fn sample(store: &Store, plan: &PublishPlan, options: &PublishOptions) -> Result<(u64, u64), PublishError> {
    let objects: Vec<(ObjectId, u64)> = plan.commits.iter().flat_map(|commit| &commit.objects).copied().collect();
    let size = if options.level < SLOW_LEVEL { SAMPLE } else { SAMPLE / 4 };
    let total = plan.raw_bytes();
    let (places, each) = if total <= 2 * size { (1, u64::MAX) } else { (PLACES, size / PLACES) };
    let (mut sampled, mut packed) = (0, 0);
    for place in 0..places {
        let mut position = 0;
        let start = objects.iter().position(|(_, size)| {
            position += size;
            position > scaled(total, place, places)
        });
        let Some(start) = start else { continue };
        let rest = [Section { objects: &objects[start..], level: options.level }];
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

/// Bytes of the image and the locator of a commit. The first image is packed, others are taken to pack as well.
fn metadata(store: &Store, plan: &CommitPlan, ratio: &mut Option<(u64, u64)>) -> Result<u64, PublishError> {
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
    Ok(scaled(packed, image.file_length(), raw) + u64::from(image.object_count()) * LOCATOR_BYTES)
}

fn requests(transport: &Transport, plan: &PublishPlan, estimate: &Estimate, options: &PublishOptions) -> u64 {
    if plan.is_empty() {
        return transport.counters().traffic().requests;
    }
    // Each file is looked for before it is sent.
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
    // Commits are read and written, placements and refs written; what they lead to is looked for first.
    sum += 3 * plan.commits.len() as u64 + plan.refs.len() as u64 + 2 * options.announcements.len() as u64;
    sum + transport.lease_requests() + 4 + u64::from(deltas > 0) + u64::from(profiles > 0)
}
