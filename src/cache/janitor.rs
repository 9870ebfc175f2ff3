//! Who keeps a lazy mount's part of the repository in order: evicts when room is wanted, writes down what was used, lets go
//! of files that others removed.
//!
//! A thread of its own, so that neither readers nor fetches wait for it. A repository that somebody else has locked is
//! left alone for a moment; until then nothing more is kept.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::counters::LazyCounters;
use super::frames::Frames;
use super::shelf::chain;
use crate::disk::{LockError, Wait};
use crate::store::{GcError, WriteError};

/// How often uses are written down.
const WRITE_USES: Duration = Duration::from_secs(60);

/// How often it is looked whether others have removed something, and whether the limit was changed.
const ROUND: Duration = Duration::from_secs(10);

/// How long a repository that is locked is left alone.
const REST: Duration = Duration::from_millis(100);

/// Works until the mount ends.
pub(super) fn run(frames: &Arc<Frames>) {
    let mut written = Instant::now();
    let mut complained = false;
    while !frames.crew.is_closed() {
        let wanted = frames.room.wait_until_wanted(ROUND);
        if written.elapsed() >= WRITE_USES || wanted.is_some() {
            frames.uses.write();
            written = Instant::now();
        }
        sweep(frames);
        let Some((limit, target)) = wanted else { continue };
        match evict(frames, limit, target) {
            Ok(()) => complained = false,
            Err(error) => {
                if !complained && !is_locked(&error) {
                    tracing::warn!("no room can be made in {}: {}", frames.store.path().display(), chain(&error));
                    complained = true;
                }
                frames.crew.pause(if is_locked(&error) { REST } else { ROUND });
            }
        }
    }
    frames.uses.write();
}

fn sweep(frames: &Frames) {
    frames.large.close_removed();
    if let Err(error) = frames.store.close_removed() {
        tracing::debug!(%error, "packs cannot be listed");
    }
    match frames.store.configured_cache_size() {
        Ok(size) => frames.room.configure(size),
        Err(error) => tracing::debug!("{}", chain(&error)),
    }
}

fn evict(frames: &Frames, limit: u64, target: u64) -> Result<(), GcError> {
    let collector = frames.store.collector(|| Wait::No)?;
    let plan = collector.plan_eviction(limit, target)?;
    if plan.objects > 0 {
        collector.evict(&plan)?;
        LazyCounters::add(&frames.counters.gone, plan.objects);
        frames.counters.evicted.fetch_add(plan.freed, Ordering::Relaxed);
        frames.forget();
        frames.large.close_removed();
    }
    frames.room.found(plan.used.saturating_sub(plan.freed));
    Ok(())
}

fn is_locked(error: &GcError) -> bool {
    matches!(error, GcError::Lock(LockError::Held { .. }) | GcError::Write(WriteError::Lock(LockError::Held { .. })))
}
