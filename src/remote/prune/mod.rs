//! Removing from a published repository what no ref needs any more.
//!
//! Needs nothing but the published files. [`super::layout`] tells the rules by which files go; here is what follows them, in
//! two looks. The first packs the newest commit of a ref again if it is spread over too many packs or mixed with too much that it
//! does not need, and finds packs of which most is dead and copies what lives to new ones, which takes long and does no harm.
//! The second is under the lease: it reads the refs again, writes the new places of what was copied, marks what
//! nothing needs, and removes what was marked long enough ago.
//!
//! What to do is decided by pure functions in `plan`; [`dry_run`] takes the first look and says what they say. Whoever
//! is killed starts again: nothing is copied twice, since equal frames make packs of equal names, and what is half done is
//! marks and files that the next run finds. If any ref or anything that it needs cannot be read, nothing is removed.

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

pub use apply::{PruneReport, prune};
pub use error::PruneError;
pub use plan::{Counted, PlannedFile, PrunePlan, RegroupPlan, RepackPlan, WaitingFile};

/// Which commits of each ref are kept: from the newest on as long as any of these says so. The newest always is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: Option<u64>,
    /// Those made after this, in seconds since 1970.
    pub after: Option<i64>,
}

impl Keep {
    /// Whether the commit made at `timestamp`, `number` commits before the newest, is kept.
    #[must_use]
    pub fn keeps(&self, number: u64, timestamp: i64) -> bool {
        if number == 0 || (self.last.is_none() && self.after.is_none()) {
            return true;
        }
        self.last.is_some_and(|last| number < last) || self.after.is_some_and(|after| timestamp > after)
    }
}

/// How to prune.
pub struct PruneOptions {
    /// Which commits stay.
    pub keep: Keep,
    /// How long a file that nothing needs stays for clients that began before.
    pub grace: Duration,
    /// A directory for one pack at a time, and for what is packed again of one commit.
    pub scratch: PathBuf,
    /// A repository that may have contents that are packed again.
    pub store: Option<Store>,
    /// Level of zstd for these.
    pub level: i32,
    /// Most bytes of a new pack.
    pub pack_size: u64,
    /// How long the right to remove lasts.
    pub lease: LeaseTerms,
    /// Hears once that somebody has to be waited for, and who.
    pub announce: Box<dyn Fn(&str) + Send + Sync>,
}

impl PruneOptions {
    /// Keeps all history; copies through `scratch`.
    #[must_use]
    pub fn new(scratch: PathBuf) -> Self {
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

/// How far copying is.
#[derive(Debug, Default)]
pub struct PruneProgress {
    /// Bytes to copy.
    pub total: AtomicU64,
    /// Bytes copied.
    pub copied: AtomicU64,
}

/// What pruning at `now` would do. Writes nothing.
///
/// # Errors
/// [`PruneError`].
pub fn dry_run(transport: &Transport, options: &PruneOptions, now: SystemTime) -> Result<PrunePlan, PruneError> {
    let mut known = inventory::Known::default();
    let inventory = inventory::Inventory::read_names(transport, options.keep, &mut known)?;
    let progress = PruneProgress::default();
    let regrouped = regroup::newest(transport, &inventory, &mut known, options, &progress, regroup::Act::Plan)?;
    inventory.read_locators(transport, &mut known)?;
    let repack = plan::packs_to_copy(&known.live, &known.of_newest, options.pack_size);
    let mut plan = plan::plan(&inventory, &known, &repack, options.grace, now);
    plan.repack.splice(0..0, regrouped.left);
    Ok(PrunePlan { regroup: regrouped.plans, ..plan })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_stays_if_any_rule_keeps_it() {
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
