//! The eviction thread of a lazy mount: evicts contents when the quota asks for it, writes down when objects were read, and
//! closes files that other processes removed.
//!
//! It is a thread of its own, so that neither readers nor fetches wait for an eviction. When the repository is locked by
//! another process, the thread tries again after a moment; until then nothing that exceeds the quota is stored.
//!
//! *Not here*: which objects are evicted (`store`), how much may be stored (`quota`).
//!
//! *Used by* `tree`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cache::counters::LazyCounters;
use crate::cache::objects::change::{ChangeError, ChangeOutcome, ContentChange};
use crate::cache::objects::object_cache::ObjectCache;
use crate::error::chain;

/// How often the times of the last reads are written to the repository.
const RECENCY_WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the thread checks whether other processes removed files, and whether the configured limit has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait before the next attempt when the repository is locked.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Runs until the pool is closed.
pub(in crate::cache) fn run(cache: &Arc<ObjectCache>) {
    let mut written = Instant::now();
    let mut has_warned = false;
    while !cache.pool.is_closed() {
        let wanted = cache.quota.wait_for_eviction_request(CHECK_INTERVAL);
        if written.elapsed() >= RECENCY_WRITE_INTERVAL || wanted.is_some() {
            write_uses(cache);
            written = Instant::now();
        }
        refresh(cache);
        let Some((limit, target)) = wanted else { continue };
        match evict(cache, limit, target) {
            Ok(()) => has_warned = false,
            Err(error) => {
                if !has_warned && !matches!(error, ChangeError::Locked) {
                    tracing::warn!("cannot evict from {}: {}", cache.store.path().display(), chain(&error));
                    has_warned = true;
                }
                cache.pool.pause(if matches!(error, ChangeError::Locked) { LOCK_RETRY_DELAY } else { CHECK_INTERVAL });
            }
        }
    }
    write_uses(cache);
}

fn write_uses(cache: &ObjectCache) {
    cache.recency.write(cache.write_back.writer());
}

fn refresh(cache: &ObjectCache) {
    cache.large.close_removed();
    if let Err(error) = cache.store.close_removed() {
        tracing::debug!(%error, "packs cannot be listed");
    }
    match cache.store.configured_cache_size() {
        Ok(size) => cache.quota.configure(size),
        Err(error) => tracing::debug!("{}", chain(&error)),
    }
}

fn evict(cache: &ObjectCache, limit: u64, target: u64) -> Result<(), ChangeError> {
    let outcome = cache.write_back.writer().apply(ContentChange::Evict { limit, target })?;
    let ChangeOutcome::Evicted(eviction) = outcome else { return Ok(()) };
    if eviction.objects > 0 {
        LazyCounters::add(&cache.counters.evicted_objects, eviction.objects);
        cache.counters.evicted_bytes.fetch_add(eviction.freed, Ordering::Relaxed);
        cache.store.forget_open_files();
        cache.reset_read_ahead();
        cache.large.close_removed();
    }
    cache.quota.set_used(eviction.used);
    Ok(())
}
