//! The background fill of a mount: fetches metadata, then the contents of a profile, then digests or, if wanted, everything.
//!
//! When everything was wanted and is stored, the commit becomes an ordinary one.
//!
//! *Invariant*: foreground requests come first.
//!
//! *Used by* `tree` and `prefetch`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::fetch::bulk::{BulkFetch, BulkPurpose};
use crate::cache::fetch::error::LazyFetchError;
use crate::cache::objects::completeness::promote_if_complete;
use crate::cache::objects::object_cache::{METADATA_TIMEOUT, ObjectCache};
use crate::cache::readahead::profile::ProfileChoice;
use crate::error::chain;
use crate::model::CommitId;
use crate::store::CommitCompleteness;

/// How long a fill waits after it made no progress.
const FILL_RETRY_DELAY: Duration = Duration::from_secs(5);

/// Digests are fetched only after no foreground request was pending for this time: earlier they would compete with the
/// programs that are starting.
const QUIET_PERIOD: Duration = Duration::from_secs(2);

/// What the background fill fetches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Fill {
    /// The profile whose contents are fetched first.
    pub(crate) profile: ProfileChoice,
    pub(crate) scope: FillScope,
}

/// What a fill fetches in addition to the profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FillScope {
    /// Names and attributes and, once any content is read, digests, so that it is known what is missing.
    #[default]
    Metadata,
    Everything,
}

/// Fetches metadata, the contents of the profile and, unless everything is wanted, digests. Returns `false` if the pool is
/// closed.
pub(in crate::cache) fn fetch_metadata_and_profile(cache: &Arc<ObjectCache>, fill: &Fill) -> bool {
    let result = cache.image.fetch_metadata(Instant::now() + METADATA_TIMEOUT);
    log_failure(result);
    let at_once = fill.scope == FillScope::Everything
        || matches!(fill.profile, ProfileChoice::Published | ProfileChoice::Listed(_));
    if !at_once && !cache.wait_for_demand() {
        return false;
    }
    log_failure(fetch_profile(cache, &fill.profile));
    fill.scope == FillScope::Everything || fetch_digests_when_idle(cache)
}

/// Fetches the contents that the profile lists.
fn fetch_profile(cache: &Arc<ObjectCache>, choice: &ProfileChoice) -> Result<(), LazyFetchError> {
    if *choice == ProfileChoice::None {
        return Ok(());
    }
    // The profile and the catalogue are fetched at the same time.
    let profile = std::thread::scope(|scope| {
        let profile = scope.spawn(|| cache.load_profile(choice));
        log_failure(cache.catalogue(Instant::now() + METADATA_TIMEOUT).map(drop));
        profile.join().unwrap_or(Err(LazyFetchError::Abandoned))
    })?;
    let Some(profile) = profile else { return Ok(()) };
    let plan = || {
        let catalogue = cache.catalogue(Instant::now() + METADATA_TIMEOUT)?;
        Ok::<_, LazyFetchError>(cache.plan_profile_fetch(&catalogue, &profile, BulkPurpose::ReadFirst))
    };
    let catalogue = cache.catalogue(Instant::now() + METADATA_TIMEOUT)?;
    std::thread::scope(|scope| {
        scope.spawn(|| log_failure(cache.start_profile_metadata_fetch(&catalogue, &profile)));
        cache.run_bulk_fetch(plan()?, plan)
    })
}

/// Fetches missing digests while no foreground request is pending; returns `false` if the pool is closed before all are stored.
fn fetch_digests_when_idle(cache: &ObjectCache) -> bool {
    while cache.pool.wait_for_quiet(QUIET_PERIOD) {
        match cache.image.fetch_digests() {
            Ok(true) => {}
            Ok(false) if cache.image.missing_blocks() == 0 => return true,
            Ok(false) => _ = cache.pool.pause(FILL_RETRY_DELAY / 10),
            Err(error) => {
                log_failure(Err(error));
                cache.pool.pause(FILL_RETRY_DELAY);
            }
        }
    }
    false
}

/// Fetches everything that is missing and makes the commit an ordinary one. Failures are repeated after a pause. Ends early
/// if the contents do not fit into the quota.
pub(in crate::cache) fn fetch_everything(cache: &Arc<ObjectCache>, commit: CommitId) {
    while cache.pool.yield_to_foreground() {
        match fetch_missing_once(cache, commit) {
            Ok(FillProgress::Done) => return,
            Ok(FillProgress::Continue) => {}
            Err(error) => {
                tracing::debug!("in the background: {}", chain(&*error));
                cache.pool.pause(FILL_RETRY_DELAY);
            }
        }
    }
}

enum FillProgress {
    Done,
    Continue,
}

fn fetch_missing_once(cache: &Arc<ObjectCache>, commit: CommitId) -> Result<FillProgress, Box<dyn std::error::Error>> {
    let plan = plan_missing(cache)?;
    let needed = cache.quota.used().saturating_add(plan.content_bytes());
    if let Some(limit) = cache.quota.limit().filter(|limit| needed > *limit) {
        tracing::warn!("not everything is fetched: {needed} bytes would be stored, and cache-size is {limit}");
        return Ok(FillProgress::Done);
    }
    if plan.request_count() > 0 {
        if cache.write_back.is_suspended() {
            cache.pool.pause(FILL_RETRY_DELAY);
        } else {
            cache.run_bulk_fetch(plan, || plan_missing(cache))?;
        }
        return Ok(FillProgress::Continue);
    }
    match promote_if_complete(cache)? {
        CommitCompleteness::Complete => {
            tracing::info!("everything of commit {} is stored", commit.short());
            Ok(FillProgress::Done)
        }
        // Something was evicted meanwhile, or the disk is full.
        CommitCompleteness::Incomplete => {
            cache.pool.pause(FILL_RETRY_DELAY);
            Ok(FillProgress::Continue)
        }
    }
}

/// Plans to fetch all missing frames. Fetches all metadata first, since the plan needs it.
pub(in crate::cache) fn plan_missing(cache: &Arc<ObjectCache>) -> Result<BulkFetch, LazyFetchError> {
    while cache.image.fetch_digests()? {}
    let catalogue = cache.catalogue(Instant::now() + METADATA_TIMEOUT)?;
    let all = (0..catalogue.frame_count()).filter(|frame| !cache.has_frame(&catalogue, *frame));
    Ok(BulkFetch::new(&catalogue, BulkPurpose::Remainder, all))
}

fn log_failure(result: Result<(), LazyFetchError>) {
    if let Err(error) = result {
        tracing::debug!("in the background: {}", chain(&error));
    }
}
