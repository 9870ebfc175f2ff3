//! Pulls commits of a remote's ref into the local repository.
//!
//! `history` resolves the ref and selects the commits; for each of them `plan` determines what is missing and how to
//! get it, without writing anything; `apply` fetches it and writes the names. A dry run does the same without the last
//! step, so that it reports what would really happen.
//!
//! *Not here*: requests (`transport`), and the storing of objects (`fetch`).
//!
//! *Invariants*: nothing is named before all it needs is in the repository, verified and durable, or is marked as lazy
//! before that; what is in the repository already is never fetched again; a pull that was interrupted continues after
//! the last flush. Memory does not grow with the size of the tree, except for the image and the list of its objects.
//!
//! *Used by* `cli`.

mod apply;
mod delta;
mod error;
mod history;
mod image;
mod plan;
mod report;
mod selection;

use self::plan::{AssumedPresent, CommitPullPlan};
use super::client::Remote;
use super::fetch::{FetchOptions, FetchProgress};
use crate::image::Image;
use crate::model::{Commit, ImagePath, RefName};
use crate::store::{Store, StoreWriter};
use crate::trust::Verified;

pub(crate) use error::PullError;
pub use report::RefReport;

/// Options of a pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Number of ancestors of the newest commit that are pulled, too.
    pub(crate) depth: u64,
    /// Only objects below these paths are pulled; all if there are none.
    pub(crate) paths: Vec<ImagePath>,
    /// No objects are pulled at all.
    pub(crate) metadata_only: bool,
    /// With paths: the objects of the publisher's boot profile are pulled, too.
    pub(crate) boot_profile: bool,
    /// Deltas are not used.
    pub(crate) without_deltas: bool,
    /// The limits of fetching.
    pub(crate) fetch: FetchOptions,
}

impl PullOptions {
    /// Returns whether pulled commits are complete.
    fn wants_everything(&self) -> bool {
        self.paths.is_empty() && !self.metadata_only
    }
}

/// What a pull would fetch, determined without fetching it.
#[derive(Debug)]
pub(crate) struct PullPreview {
    /// What the pull would do.
    pub(crate) report: RefReport,
    /// The newest commit, checked.
    pub(crate) commit: Verified<Commit>,
    pub(crate) image: Image,
}

/// Returns what pulling `name` would do. Requests the descriptions of commits from the remote, writes nothing.
pub(crate) fn dry_run(
    store: &Store,
    remote: &Remote,
    name: &RefName,
    options: &PullOptions,
) -> Result<RefReport, PullError> {
    Ok(preview(store, remote, name, options)?.report)
}

/// Returns what pulling `name` would do, with the newest commit and its image.
pub(crate) fn preview(
    store: &Store,
    remote: &Remote,
    name: &RefName,
    options: &PullOptions,
) -> Result<PullPreview, PullError> {
    let before = remote.transport().counters().traffic();
    let (head, targets) = history::read_targets(store, remote, name, options.depth)?;
    let mut assumed = AssumedPresent::default();
    let mut report = RefReport::new(remote, &head);
    let mut image = None;
    for target in &targets {
        let plan = CommitPullPlan::new(store, remote, target, options, &assumed)?;
        assumed.extend(target, &plan);
        report.add_commit(plan.report());
        image = Some(plan.image.image);
    }
    let now = remote.transport().counters().traffic();
    report.requests += now.requests - before.requests;
    report.download_bytes += now.received - before.received;
    let image = image.expect("the newest commit is the last target");
    Ok(PullPreview { report, commit: head.commit, image })
}

/// Pulls `name`: its newest commit and as many ancestors as `options` says. The oldest comes first, since newer ones
/// can then be fetched as deltas.
///
/// # Errors
/// [`PullError`]. The local ref is unchanged then, and the next attempt finds what was fetched.
pub fn pull(
    writer: &StoreWriter,
    remote: &Remote,
    name: &RefName,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<RefReport, PullError> {
    let store = writer.store();
    let before = remote.transport().counters().traffic();
    let (head, targets) = history::read_targets(store, remote, name, options.depth)?;
    let mut report = RefReport::new(remote, &head);
    for target in &targets {
        let plan = CommitPullPlan::new(store, remote, target, options, &AssumedPresent::default())?;
        report.add_commit(apply::pull_commit(writer, remote, target, plan, options, progress)?);
    }
    apply::update_ref(writer, remote, &head)?;
    let now = remote.transport().counters().traffic();
    report.requests = now.requests - before.requests;
    report.download_bytes = now.received - before.received;
    Ok(report)
}
