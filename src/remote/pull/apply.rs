//! Gets what a plan lists and gives it its names, leaves first.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::PullOptions;
use super::error::PullError;
use super::history::Target;
use super::plan::{self, CommitPlan};
use super::report::CommitReport;
use super::selection;
use crate::remote::client::{Remote, Tip};
use crate::remote::fetch::{FetchError, FetchPlan, FetchProgress, fetch, fetch_patches};
use crate::store::{Expect, RefEdit, StoreWriter};

/// Room that is left beside what is needed, for names, indexes and the filesystem's own: 1 in so many bytes.
const MARGIN: u64 = 50;

/// Brings one commit here as planned. Its record is written last.
pub(super) fn commit(
    writer: &StoreWriter,
    remote: &Remote,
    target: &Target,
    plan: CommitPlan,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<CommitReport, PullError> {
    let store = writer.store();
    let mut report = plan.report();
    check_space(writer, report.disk_bytes)?;
    progress.total.fetch_add(report.download_bytes, Ordering::Relaxed);
    if let Some(bytes) = &plan.image.bytes {
        // Before the objects, so that another attempt has it. Nothing leads to it yet.
        writer.put_image_bytes(plan.image.image.id(), bytes)?;
    }
    let is_patched = patched(writer, remote, &plan, options, progress)?;
    let get =
        |frames: &FetchPlan| fetch(frames, &plan.image.image, remote.transport(), writer, options.fetch, progress);
    if !plan.frames.is_empty() {
        get(&plan.frames)?;
    }
    if !is_patched {
        let missing = selection::missing(store, target.id, &plan.image.image, options, &plan.profile, &HashSet::new())?;
        let locator = match &target.placement {
            Some(placement) => placement.locator,
            None => remote.placement(target.id)?.locator,
        };
        let frames = plan::frames(remote, target.id, &plan.image.image, locator, missing)?;
        progress.total.fetch_add(frames.download_bytes(), Ordering::Relaxed);
        get(&frames)?;
    }
    let is_new = store.commit(target.id).is_err();
    report.lazy = !options.wants_everything() && selection::is_incomplete(store, &plan.image.image)?;
    if report.lazy && (is_new || store.is_lazy(target.id)) {
        // With the way to what is missing: a mount of it asks nobody for that.
        let placement = target.placement.clone().map_or_else(|| remote.placement(target.id), Ok)?;
        writer.mark_lazy(target.id, &placement.render())?;
    }
    writer.put_signatures(target.id, &target.envelope)?;
    writer.put_commit(&target.commit)?;
    if !report.lazy {
        writer.mark_whole(target.id)?;
    }
    Ok(report)
}

/// Fetches what comes as patches; `false` when some of it has to come in another way.
fn patched(
    writer: &StoreWriter,
    remote: &Remote,
    plan: &CommitPlan,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<bool, PullError> {
    if plan.patches.is_empty() {
        return Ok(true);
    }
    let transport = remote.transport().optional();
    match fetch_patches(&plan.patches, &plan.image.image, &transport, writer, options.fetch, progress) {
        Ok(()) => Ok(true),
        Err(error @ FetchError::Write(_)) => Err(error.into()),
        Err(error) => {
            tracing::warn!("{error}; fetching whole contents instead");
            Ok(false)
        }
    }
}

/// Makes the local ref name the newest commit, which is here by now.
pub(super) fn name(writer: &StoreWriter, remote: &Remote, tip: &Tip) -> Result<(), PullError> {
    let name = remote.name().local_ref(&tip.record.name);
    writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: Some(tip.record.commit) })?;
    Ok(remote.remember(tip)?)
}

/// Better to say so now than after an hour of downloading.
fn check_space(writer: &StoreWriter, needed: u64) -> Result<(), PullError> {
    let room = rustix::fs::fstatvfs(writer.store().directory()).map_err(|errno| PullError::Statvfs(errno.into()))?;
    let available = room.f_bavail.saturating_mul(room.f_frsize);
    let needed = needed.saturating_add(needed / MARGIN);
    // Some filesystems cannot tell, and say that they have no blocks at all.
    if room.f_blocks > 0 && needed > available {
        return Err(PullError::Space { needed, available });
    }
    Ok(())
}
