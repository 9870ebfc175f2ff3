//! Gets what a plan lists and gives it its names, leaves first.

use std::sync::atomic::Ordering;

use super::PullOptions;
use super::error::PullError;
use super::history::Target;
use super::plan::CommitPlan;
use super::report::CommitReport;
use super::selection;
use crate::remote::client::{Remote, Tip};
use crate::remote::fetch::{FetchProgress, fetch};
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
    progress.total.fetch_add(plan.frames.download_bytes(), Ordering::Relaxed);
    if let Some(bytes) = &plan.image.bytes {
        // Before the objects, so that another attempt has it. Nothing leads to it yet.
        writer.put_image_bytes(plan.image.image.id(), bytes)?;
    }
    if !plan.frames.is_empty() {
        fetch(&plan.frames, &plan.image.image, remote.transport(), writer, options.fetch, progress)?;
    }
    let is_new = store.commit(target.id).is_err();
    report.lazy = !options.wants_everything() && selection::is_incomplete(store, &plan.image.image)?;
    if report.lazy && is_new {
        writer.mark_lazy(target.id)?;
    }
    writer.put_signatures(target.id, &target.envelope)?;
    writer.put_commit(&target.commit)?;
    if !report.lazy {
        writer.mark_whole(target.id)?;
    }
    Ok(report)
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
