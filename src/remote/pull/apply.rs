//! Carries out a pull: fetches what a plan lists, then writes the commit and the ref.
//!
//! *Invariants*: objects are stored before the commit's record, and the record before the ref.
//!
//! *Used by* `pull`.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::PullOptions;
use super::error::PullError;
use super::history::PullTarget;
use super::plan::{self, CommitPullPlan};
use super::report::CommitReport;
use super::selection;
use crate::remote::client::{Head, Remote};
use crate::remote::fetch::{FetchPlan, FetchProgress, ObjectFetchError, fetch, fetch_patches};
use crate::store::{Expect, RefEdit, StoreWriter};

/// The disk space that must remain beside the needed bytes, for directories, indexes and the filesystem's own use: 1 in
/// this many bytes.
const SPACE_MARGIN_DIVISOR: u64 = 50;

/// Fetches one commit as planned. Its record is written last.
pub(super) fn pull_commit(
    writer: &StoreWriter,
    remote: &Remote,
    target: &PullTarget,
    plan: CommitPullPlan,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<CommitReport, PullError> {
    let store = writer.store();
    let mut report = plan.report();
    check_space(writer, report.disk_bytes)?;
    progress.total.fetch_add(report.download_bytes, Ordering::Relaxed);
    if let Some(bytes) = &plan.image.bytes {
        // The image is stored before the objects, so that another attempt finds it. No name leads to it yet.
        writer.put_image_bytes(plan.image.image.id(), bytes)?;
    }
    let is_patched = fetch_delta(writer, remote, &plan, options, progress)?;
    let fetch_frames =
        |frames: &FetchPlan| fetch(frames, &plan.image.image, remote.transport(), writer, options.fetch, progress);
    if !plan.frames.is_empty() {
        fetch_frames(&plan.frames)?;
    }
    if !is_patched {
        let missing =
            selection::select_missing(store, target.id, &plan.image.image, options, &plan.profile, &HashSet::new())?;
        let locator = match &target.placement {
            Some(placement) => placement.locator,
            None => remote.fetch_placement(target.id)?.locator,
        };
        let frames = plan::plan_frames(remote, target.id, &plan.image.image, locator, missing)?;
        progress.total.fetch_add(frames.download_bytes(), Ordering::Relaxed);
        fetch_frames(&frames)?;
    }
    let is_new = store.commit(target.id).is_err();
    report.lazy = !options.wants_everything() && selection::is_incomplete(store, &plan.image.image)?;
    if report.lazy && (is_new || store.is_lazy(target.id)) {
        // The placement is stored with the mark, so that a mount can fetch missing objects without asking for it.
        let placement = target.placement.clone().map_or_else(|| remote.fetch_placement(target.id), Ok)?;
        writer.mark_lazy(target.id, &placement.render())?;
    }
    writer.put_signatures(target.id, &target.envelope)?;
    writer.put_commit(&target.commit)?;
    if !report.lazy {
        writer.mark_complete(target.id)?;
    }
    Ok(report)
}

/// Fetches the pieces of the delta; returns `false` when some objects have to be fetched in another way.
fn fetch_delta(
    writer: &StoreWriter,
    remote: &Remote,
    plan: &CommitPullPlan,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<bool, PullError> {
    if plan.patches.is_empty() {
        return Ok(true);
    }
    let transport = remote.transport().optional();
    match fetch_patches(&plan.patches, &plan.image.image, &transport, writer, options.fetch, progress) {
        Ok(()) => Ok(true),
        Err(error @ ObjectFetchError::Write(_)) => Err(error.into()),
        Err(error) => {
            tracing::warn!("{error}; fetching whole contents instead");
            Ok(false)
        }
    }
}

/// Sets the local ref to the newest commit, which is stored by now.
pub(super) fn update_ref(writer: &StoreWriter, remote: &Remote, head: &Head) -> Result<(), PullError> {
    let name = remote.name().local_ref(&head.record.name);
    writer.edit_ref(&RefEdit { name, expect: Expect::Any, to: Some(head.record.commit) })?;
    Ok(remote.remember(head)?)
}

/// Checks that there is enough disk space before anything is downloaded.
fn check_space(writer: &StoreWriter, needed: u64) -> Result<(), PullError> {
    let space = rustix::fs::fstatvfs(writer.store().directory()).map_err(|errno| PullError::Statvfs(errno.into()))?;
    let available = space.f_bavail.saturating_mul(space.f_frsize);
    let needed = needed.saturating_add(needed / SPACE_MARGIN_DIVISOR);
    // Some filesystems cannot report free space and report no blocks at all.
    if space.f_blocks > 0 && needed > available {
        return Err(PullError::Space { needed, available });
    }
    Ok(())
}
