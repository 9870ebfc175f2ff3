//! Explicit prefetches (`sapwood prefetch`): the contents below some paths, of a profile, or everything.
//!
//! A plan comes first, which fetches only metadata. Executing it stores everything that arrives, so that a later attempt, a
//! mount or a pull finds it.
//!
//! *Not here*: the background fill of a mount (`background`).
//!
//! *Used by* `tree`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::fetch::bulk::{BulkFetch, BulkPurpose};
use crate::cache::fetch::error::LazyFetchError;
use crate::cache::objects::change::ChangeError;
use crate::cache::objects::completeness::promote_if_complete;
use crate::cache::objects::object_cache::{METADATA_TIMEOUT, ObjectCache};
use crate::cache::readahead::background;
use crate::cache::readahead::profile::ProfileChoice;
use crate::image::{Image, ImageError, Ino};
use crate::model::{CommitId, FileKind, ImagePath};
use crate::remote::format::{Profile, ProfileEntry, ProfileText};
use crate::store::CommitCompleteness;

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The contents at and below these paths.
    Paths(Vec<ImagePath>),
    /// The contents that a profile lists.
    Profile(ProfileChoice),
    Everything,
}

/// Why a prefetch failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefetchError {
    /// The image has no such path.
    #[error("there is no {path} in commit {commit}")]
    NoPath { path: ImagePath, commit: CommitId },
    /// The commit was published without a profile.
    #[error("commit {commit} was published without a profile")]
    NoProfile { commit: CommitId },
    /// Something could not be fetched.
    #[error(transparent)]
    Fetch(#[from] LazyFetchError),
    /// The repository could not be written.
    #[error(transparent)]
    Write(#[from] ChangeError),
    /// The selection is larger than the quota.
    #[error("{needed} bytes are more than the repository keeps of what is fetched (cache-size {limit})")]
    CacheSize {
        /// Selected bytes of content that are missing.
        needed: u64,
        limit: u64,
    },
}

/// A planned prefetch.
#[derive(Clone)]
pub(crate) struct PrefetchPlan {
    pub(in crate::cache) bulk_fetch: BulkFetch,
    /// Number of requests for contents.
    pub(crate) requests: u64,
    /// Bytes that the requests fetch.
    pub(crate) bytes: u64,
    /// Decompressed bytes of the fetched frames, including objects that were not selected.
    pub(crate) content_bytes: u64,
}

pub(in crate::cache) fn plan(
    cache: &Arc<ObjectCache>,
    commit: CommitId,
    selection: &Selection,
) -> Result<PrefetchPlan, PrefetchError> {
    let bulk_fetch = plan_selection(cache, commit, selection)?;
    let (requests, bytes, content_bytes) = (bulk_fetch.request_count(), bulk_fetch.bytes(), bulk_fetch.content_bytes());
    match cache.quota.limit() {
        Some(limit) if content_bytes > limit => Err(PrefetchError::CacheSize { needed: content_bytes, limit }),
        _ => Ok(PrefetchPlan { bulk_fetch, requests, bytes, content_bytes }),
    }
}

/// Plans to fetch what is selected and missing. Fetches the metadata of the selection first, since the plan needs it.
fn plan_selection(
    cache: &Arc<ObjectCache>,
    commit: CommitId,
    selection: &Selection,
) -> Result<BulkFetch, PrefetchError> {
    cache.image.fetch_metadata(Instant::now() + METADATA_TIMEOUT)?;
    match selection {
        Selection::Everything => Ok(background::plan_missing(cache)?),
        Selection::Profile(choice) => {
            let profile = cache.load_profile(choice)?.ok_or(PrefetchError::NoProfile { commit })?;
            Ok(plan_profile(cache, &profile, BulkPurpose::ReadFirst)?)
        }
        Selection::Paths(paths) => plan_paths(cache, commit, paths),
    }
}

fn plan_profile(
    cache: &Arc<ObjectCache>,
    profile: &Profile,
    purpose: BulkPurpose,
) -> Result<BulkFetch, LazyFetchError> {
    let catalogue = cache.catalogue(Instant::now() + METADATA_TIMEOUT)?;
    cache.start_profile_metadata_fetch(&catalogue, profile)?;
    cache.wait_for_profile_metadata(&catalogue, profile)?;
    Ok(cache.plan_profile_fetch(&catalogue, profile, purpose))
}

pub(in crate::cache) fn published_profile(cache: &Arc<ObjectCache>) -> Result<Option<ProfileText>, PrefetchError> {
    let deadline = Instant::now() + METADATA_TIMEOUT;
    let Some(profile) = cache.load_profile(&ProfileChoice::Published)? else { return Ok(None) };
    cache.image.fetch_metadata(deadline)?;
    Ok(Some(cache.image.with_blocks(deadline, |image| ProfileText::from_profile(image, &profile))?))
}

/// Plans to fetch everything at and below some paths.
fn plan_paths(cache: &Arc<ObjectCache>, commit: CommitId, paths: &[ImagePath]) -> Result<BulkFetch, PrefetchError> {
    let image = cache.image.image();
    let mut objects = BTreeSet::new();
    for path in paths {
        let top = image.resolve(path).map_err(LazyFetchError::from)?;
        let top = top.ok_or_else(|| PrefetchError::NoPath { path: path.clone(), commit })?;
        collect_objects(image, top, &mut objects).map_err(LazyFetchError::from)?;
    }
    let profile = Profile { entries: objects.into_iter().map(ProfileEntry::whole_object).collect() };
    Ok(plan_profile(cache, &profile, BulkPurpose::Remainder)?)
}

fn collect_objects(image: &Image, top: Ino, objects: &mut BTreeSet<u32>) -> Result<(), ImageError> {
    let mut add = |ino, kind| {
        if kind == FileKind::Regular {
            objects.extend(image.object_index(ino)?);
        }
        Ok::<(), ImageError>(())
    };
    match image.kind(top)? {
        FileKind::Directory => image.walk(top, &mut |_, ino, kind| add(ino, kind)),
        kind => add(top, kind),
    }
}

/// Executes a plan. If everything was selected, the commit becomes an ordinary one.
pub(in crate::cache) fn fetch(
    cache: &Arc<ObjectCache>,
    commit: CommitId,
    plan: &PrefetchPlan,
    selection: &Selection,
) -> Result<CommitCompleteness, PrefetchError> {
    let fetched = cache.run_bulk_fetch(plan.bulk_fetch.clone(), || plan_selection(cache, commit, selection));
    // Contents that arrived before a failure are stored, too.
    cache.write_back.flush();
    fetched?;
    match selection {
        Selection::Everything => Ok(promote_if_complete(cache)?),
        Selection::Paths(_) | Selection::Profile(_) => Ok(CommitCompleteness::Incomplete),
    }
}
