//! From a remote's ref to commits in the local repository.
//!
//! One journey: `history` asks what the ref names and which commits before it are wanted; for each, `plan` finds out
//! what is not here and how to get it, and writes nothing; `apply` gets it and names it. A dry run is the same journey
//! without the last step, so that it tells what then happens.
//!
//! Invariants: nothing is named before all it needs is here, verified and durable, or is marked as lazy before that; what
//! is already here is never fetched again; whoever is interrupted starts again where the last settling left off. Memory
//! does not grow with the size of the tree, but for the image and the list of its objects. Called by `cli`.

mod apply;
mod delta;
mod error;
mod history;
mod image;
mod plan;
mod report;
mod selection;

use self::plan::{CommitPlan, Foreseen};
use super::client::Remote;
use super::fetch::{FetchOptions, FetchProgress};
use crate::image::Image;
use crate::model::{Commit, ImagePath, RefName};
use crate::store::{Store, StoreWriter};
use crate::trust::Verified;

pub use error::PullError;
pub use report::{CommitReport, ImageSource, RefReport};

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// How many ancestors of the newest commit come with it.
    pub depth: u64,
    /// Only objects below these paths; all when there are none.
    pub paths: Vec<ImagePath>,
    /// No objects at all.
    pub metadata_only: bool,
    /// With paths: also what the publisher says that a boot reads.
    pub boot_profile: bool,
    /// Take packs even where a delta would do.
    pub without_deltas: bool,
    /// How much to do at once.
    pub fetch: FetchOptions,
}

impl PullOptions {
    /// Whether commits that come by this are whole.
    fn wants_everything(&self) -> bool {
        self.paths.is_empty() && !self.metadata_only
    }
}

/// What a pull would bring, known without bringing it.
#[derive(Debug)]
pub struct Preview {
    /// What it would do.
    pub report: RefReport,
    /// The newest commit, checked.
    pub commit: Verified<Commit>,
    /// Its image.
    pub image: Image,
}

/// What pulling `name` would do. Asks the remote for what describes the commits, writes nothing.
///
/// # Errors
/// [`PullError`].
pub fn dry_run(store: &Store, remote: &Remote, name: &RefName, options: &PullOptions) -> Result<RefReport, PullError> {
    Ok(preview(store, remote, name, options)?.report)
}

/// The same, with the newest commit and its image.
///
/// # Errors
/// [`PullError`].
pub fn preview(store: &Store, remote: &Remote, name: &RefName, options: &PullOptions) -> Result<Preview, PullError> {
    let before = remote.transport().counters().traffic();
    let (tip, targets) = history::targets(store, remote, name, options.depth)?;
    let mut foreseen = Foreseen::default();
    let mut report = RefReport::new(remote, &tip);
    let mut image = None;
    for target in &targets {
        let plan = CommitPlan::new(store, remote, target, options, &foreseen)?;
        foreseen.extend(target, &plan);
        report.add(plan.report());
        image = Some(plan.image.image);
    }
    let now = remote.transport().counters().traffic();
    report.requests += now.requests - before.requests;
    report.download_bytes += now.received - before.received;
    let image = image.expect("the newest commit is the last target");
    Ok(Preview { report, commit: tip.commit, image })
}

/// Pulls `name`: its newest commit and as many before it as `options` say. The oldest comes first, since newer ones can
/// then come as deltas.
///
/// # Errors
/// [`PullError`]. The local ref is then as it was, and what arrived is found by the next attempt.
pub fn pull(
    writer: &StoreWriter,
    remote: &Remote,
    name: &RefName,
    options: &PullOptions,
    progress: &FetchProgress,
) -> Result<RefReport, PullError> {
    let store = writer.store();
    let before = remote.transport().counters().traffic();
    let (tip, targets) = history::targets(store, remote, name, options.depth)?;
    let mut report = RefReport::new(remote, &tip);
    for target in &targets {
        let plan = CommitPlan::new(store, remote, target, options, &Foreseen::default())?;
        report.add(apply::commit(writer, remote, target, plan, options, progress)?);
    }
    apply::name(writer, remote, &tip)?;
    let now = remote.transport().counters().traffic();
    report.requests = now.requests - before.requests;
    report.download_bytes = now.received - before.received;
    Ok(report)
}
