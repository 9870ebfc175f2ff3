//! Prunes a published repository: removes the files that no kept commit needs.
//!
//! [`super::layout`] has the rules by which files are removed; this module applies them in two passes. The first pass
//! packs the newest commit of a ref again if it is spread over too many packs or mixed with too much unneeded content,
//! and copies the needed frames of packs that are mostly unneeded to new packs. It takes long and changes no names. The
//! second pass holds the lease: it reads the refs again, writes the new positions of what was copied, marks unneeded
//! files, and removes files that were marked long enough ago.
//!
//! Pure functions in `plan` decide what to do; [`dry_run`] makes the first pass and reports their result. A prune that
//! was killed is started again: nothing is copied twice, since equal frames make packs of equal names, and an
//! unfinished run leaves only marks and files that the next run finds.
//!
//! *Invariants*: if any ref or any file that it needs cannot be read, nothing is removed. Only published files are
//! needed, no local repository.
//!
//! *Used by* `cli`.

mod apply;
mod contents;
mod error;
mod inventory;
mod plan;
mod regroup;
mod repack;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use super::lease::LeaseTerms;
use super::publish::{DEFAULT_LEVEL, PACK_SIZE};
use super::transport::Transport;
use crate::store::Store;

pub(crate) use apply::{PruneReport, prune};
pub(crate) use error::PruneError;
pub(crate) use plan::{PlannedFile, PrunePlan, RegroupPlan, TotalBytes};

/// The rule which commits of each ref are kept: from the newest on as long as any of these conditions holds. The newest
/// is always kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Number of newest commits.
    pub(crate) last: Option<u64>,
    /// Commits made after this time, in seconds since 1970.
    pub(crate) after: Option<i64>,
}

impl Keep {
    /// Returns whether the commit made at `timestamp`, `number` commits before the newest, is kept.
    pub(crate) fn keeps(&self, number: u64, timestamp: i64) -> bool {
        if number == 0 || (self.last.is_none() && self.after.is_none()) {
            return true;
        }
        self.last.is_some_and(|last| number < last) || self.after.is_some_and(|after| timestamp > after)
    }
}

/// Options of a prune.
pub(crate) struct PruneOptions {
    /// The commits that are kept.
    pub(crate) keep: Keep,
    /// How long an unneeded file stays, for clients that began earlier.
    pub(crate) grace: Duration,
    /// A directory for temporary files: one pack at a time, and the contents of one commit that are packed again.
    pub(crate) scratch: PathBuf,
    /// A local repository that may have the contents that are packed again.
    pub(crate) store: Option<Store>,
    /// Level of zstd for contents that are packed again.
    pub(crate) level: i32,
    /// The most bytes of a new pack.
    pub(crate) pack_size: u64,
    /// The durations of the lease.
    pub(crate) lease: LeaseTerms,
    /// Called once, with the holder, when the lease has to be waited for.
    pub(crate) announce: Box<dyn Fn(&str) + Send + Sync>,
}

impl PruneOptions {
    /// Returns options that keep all history and use the directory `scratch`.
    pub(crate) fn new(scratch: PathBuf) -> Self {
        Self {
            keep: Keep::default(),
            grace: Duration::from_secs(24 * 60 * 60),
            scratch,
            store: None,
            level: DEFAULT_LEVEL,
            pack_size: PACK_SIZE,
            lease: LeaseTerms::default(),
            announce: Box::new(|_| {}),
        }
    }
}

/// The progress of copying.
#[derive(Debug, Default)]
pub(crate) struct PruneProgress {
    /// Bytes to copy.
    pub(crate) total: AtomicU64,
    /// Bytes copied.
    pub(crate) copied: AtomicU64,
}

/// Returns what pruning at `now` would do. Writes nothing.
pub(crate) fn dry_run(transport: &Transport, options: &PruneOptions, now: SystemTime) -> Result<PrunePlan, PruneError> {
    let mut known = inventory::PruneIndex::default();
    let inventory = inventory::Inventory::read_names(transport, options.keep, &mut known)?;
    let progress = PruneProgress::default();
    let regrouped =
        regroup::regroup_newest(transport, &inventory, &mut known, options, &progress, regroup::RegroupMode::Plan)?;
    inventory.read_locators(transport, &mut known)?;
    let repack = plan::packs_to_copy(&known.live, &known.of_newest, options.pack_size);
    let mut plan = plan::plan(&inventory, &known, &repack, options.grace, now);
    plan.repack.splice(0..0, regrouped.sources);
    Ok(PrunePlan { regroup: regrouped.plans, ..plan })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_is_kept_if_any_condition_holds() {
        let keep = |last, after| Keep { last, after };
        for (rule, number, timestamp, expected) in [
            (keep(None, None), 1000, 0, true),
            (keep(Some(0), None), 0, 0, true),
            (keep(Some(3), None), 2, 0, true),
            (keep(Some(3), None), 3, i64::MAX, false),
            (keep(None, Some(100)), 5, 101, true),
            (keep(None, Some(100)), 5, 100, false),
            (keep(None, Some(100)), 0, 100, true),
            (keep(Some(2), Some(100)), 1, 0, true),
            (keep(Some(2), Some(100)), 7, 200, true),
            (keep(Some(2), Some(100)), 7, 50, false),
        ] {
            assert_eq!(rule.keeps(number, timestamp), expected, "{rule:?} {number} {timestamp}");
        }
    }
}
