//! One lazy commit: its image and its objects behind one value.
//!
//! Reads never wait. [`Fetch::fetch`] waits, in the thread of its caller, and repeats failed fetches while the remote does
//! not answer and the patience of readers lasts.
//!
//! *Not here*: where a missing byte is and how it is fetched (`objects`, `fetch`), inodes (`vfs`).
//!
//! *Invariant*: all threads of a tree stop when it is dropped.
//!
//! *Used by* `resolve`, `mount` and `cli`.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::counters::{LazyCounters, LazyFigures};
use crate::cache::fetch::error::LazyFetchError;
use crate::cache::fetch::pool::FetchPool;
use crate::cache::fetch::remote::RemoteLink;
use crate::cache::image::head::ImageHead;
use crate::cache::image::{LazyImage, LazyImageError};
use crate::cache::objects::change::{ContentWriter, DirectWriter};
use crate::cache::objects::coverage;
use crate::cache::objects::evictor;
use crate::cache::objects::object_cache::ObjectCache;
use crate::cache::objects::quota::Quota;
use crate::cache::objects::write_back::WriteBack;
use crate::cache::readahead::background::{self, Fill, FillScope};
use crate::cache::readahead::prefetch::{self, PrefetchError, PrefetchPlan, Selection};
use crate::image::{Image, ObjectRef};
use crate::model::{Commit, CommitId, ObjectId};
use crate::remote::format::{LocatorBound, Placement, ProfileText};
use crate::remote::transport::Transport;
use crate::store::{Absent, CheckedStore, CommitCompleteness, Fetch, ObjectSource, ReadError, Store, Verify};

/// How long to wait after a failed fetch before it is repeated.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// In an outage that is longer than the patience, readers probe this often whether it is over; in between, reads fail at once.
const OUTAGE_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A prefetch is not given up while at least this many bytes arrive within the patience.
const PROGRESS_MIN: u64 = 64 << 10;

/// How long a fetch waits that probes whether an outage is over.
const OUTAGE_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long readers wait for data that does not arrive. In an outage the time counts from its beginning, so that a program
/// which reads many files does not wait that long for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Readers wait this long; fetches are repeated while the remote does not answer.
    Within(Duration),
    /// Readers wait for one attempt, and do not wait at all while attempts fail.
    None,
}

impl Patience {
    /// Returns the time; for readers that do not wait, the time for which fetches of other callers are repeated.
    const fn duration(self) -> Duration {
        match self {
            Self::Within(patience) => patience,
            Self::None => Duration::from_secs(30),
        }
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::Within(Duration::from_secs(30))
    }
}

/// Why a lazy commit cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The image cannot be opened.
    #[error(transparent)]
    Image(#[from] LazyImageError),
    /// The system cannot start a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// The choices for opening a lazy commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LazyOptions {
    /// How long readers wait for data that does not arrive.
    pub patience: Patience,
    /// Limit of the stored bytes of fetched contents; overrides the `cache-size` of the repository.
    pub cache_size: Option<u64>,
    /// When stored contents are compared with their digests. Damaged contents are fetched again.
    pub verify: Verify,
}

/// A commit that is to be opened, and the source of its missing parts. Nothing can be fetched if `remote` is `None`.
#[derive(Debug, Clone)]
pub(super) struct LazySource {
    pub(crate) id: CommitId,
    pub(crate) commit: Commit,
    pub(crate) remote: Option<(Transport, Placement)>,
    /// The head of its image, if it was requested already.
    pub(crate) image_head: Option<ImageHead>,
}

/// A lazy commit: a commit of which contents may be missing.
pub struct LazyTree {
    commit: CommitId,
    content_bytes: u64,
    store: Store,
    remote: Arc<RemoteLink>,
    image: Arc<LazyImage>,
    objects: Arc<ObjectCache>,
    pool: Arc<FetchPool>,
    counters: Arc<LazyCounters>,
    evictor: Mutex<Option<JoinHandle<()>>>,
    patience: Patience,
}

impl LazyTree {
    pub(super) fn open(
        store: &Store,
        source: LazySource,
        options: LazyOptions,
        writer: Option<Arc<dyn ContentWriter>>,
    ) -> Result<Arc<Self>, LazyError> {
        let LazySource { id, commit, remote, image_head } = source;
        if let Err(error) = store.prepare_partial(id, commit.image) {
            tracing::warn!("{}: {error}: fetched contents are not stored", store.path().display());
        }
        let writer = writer.unwrap_or_else(|| Arc::new(DirectWriter::new(store, id)));
        let remote = Arc::new(RemoteLink::new(id, remote, options.patience.duration()));
        let pool = Arc::new(FetchPool::start().map_err(LazyError::Thread)?);
        let counters = Arc::<LazyCounters>::default();
        let image = LazyImage::open(store, commit.image, &remote, &pool, image_head)?;
        let quota = Arc::new(Quota::new(options.cache_size, store.config().cache_size));
        let write_back = WriteBack::start(store, writer, &quota).map_err(LazyError::Thread)?;
        let locator_bound = LocatorBound::of_commit(&commit);
        let checked = Arc::new(CheckedStore::new(store, image.image(), options.verify));
        let objects = Arc::new(ObjectCache::new(&remote, &image, checked, write_back, &pool, &counters, locator_bound));
        let cache = Arc::clone(&objects);
        let evictor = thread::Builder::new().name("evict".to_owned()).spawn(move || evictor::run(&cache));
        let evictor = Mutex::new(Some(evictor.map_err(LazyError::Thread)?));
        Ok(Arc::new(Self {
            commit: id,
            content_bytes: commit.content_bytes,
            store: store.clone(),
            remote,
            image,
            objects,
            pool,
            counters,
            evictor,
            patience: options.patience,
        }))
    }

    /// Returns the image of the commit.
    #[must_use]
    pub fn image(&self) -> &Image {
        self.image.image()
    }

    /// Waits at most for `patience` until all names and attributes are stored. Called before the mount is handed over to
    /// another process, which would otherwise request them again.
    pub(crate) fn wait_for_metadata(&self, patience: Duration) {
        if let Err(error) = self.image.fetch_metadata(Instant::now() + patience) {
            tracing::debug!("cannot fetch names and attributes: {error}");
        }
    }

    /// Starts a thread that fetches in the background what `fill` selects. It ends with the mount.
    pub(crate) fn start_fill(self: &Arc<Self>, fill: Fill) {
        let objects = Arc::clone(&self.objects);
        let commit = self.commit;
        let run = move || {
            if background::fetch_metadata_and_profile(&objects, &fill) && fill.scope == FillScope::Everything {
                background::fetch_everything(&objects, commit);
            }
        };
        if let Err(error) = thread::Builder::new().name("fill".to_owned()).spawn(run) {
            tracing::warn!("nothing is fetched in the background: {error}");
        }
    }

    /// Plans a prefetch. Fetches metadata for the plan, and no contents.
    pub(crate) fn plan_prefetch(&self, selection: &Selection) -> Result<PrefetchPlan, PrefetchError> {
        self.retry_prefetch(|| prefetch::plan(&self.objects, self.commit, selection))
    }

    /// Executes a plan for `selection`. Contents that arrived before a failure are stored.
    pub(crate) fn prefetch(
        &self,
        plan: &PrefetchPlan,
        selection: &Selection,
    ) -> Result<CommitCompleteness, PrefetchError> {
        self.retry_prefetch(|| prefetch::fetch(&self.objects, self.commit, plan, selection))
    }

    /// Repeats `attempt` after transient failures, until the patience has passed without [`PROGRESS_MIN`] bytes arriving.
    fn retry_prefetch<T>(&self, mut attempt: impl FnMut() -> Result<T, PrefetchError>) -> Result<T, PrefetchError> {
        let (mut last_progress, mut received) = (Instant::now(), self.remote.traffic().received);
        loop {
            let error = match attempt() {
                Err(PrefetchError::Fetch(error)) if error.is_transient() => error,
                done => return done,
            };
            let now = self.remote.traffic().received;
            if now >= received + PROGRESS_MIN {
                (last_progress, received) = (Instant::now(), now);
            }
            let pause = error.retry_after().unwrap_or(RETRY_DELAY);
            if last_progress.elapsed() + pause > self.patience.duration() {
                return Err(error.into());
            }
            thread::sleep(pause);
        }
    }

    /// Returns the published profile of the commit, by path; `None` if it was published without one.
    pub(crate) fn published_profile(&self) -> Result<Option<ProfileText>, PrefetchError> {
        prefetch::published_profile(&self.objects)
    }

    /// Returns the number of bytes received by bulk fetches, which is the progress of a prefetch.
    pub(crate) fn streamed_bytes(&self) -> u64 {
        self.counters.streamed_bytes.load(Ordering::Relaxed)
    }

    /// Returns the current figures of the mount.
    pub(crate) fn figures(&self) -> LazyFigures {
        let (traffic, counters) = (self.remote.traffic(), &self.counters);
        let misses = counters.misses.load(Ordering::Relaxed);
        let local = coverage::measure(&self.objects);
        LazyFigures {
            requests: traffic.requests,
            bytes_fetched: traffic.received,
            // A read that had to wait is repeated after the fetch, and then counts as a hit.
            hits: counters.hits.load(Ordering::Relaxed).saturating_sub(misses),
            misses,
            fetches_joined: counters.joined.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            bytes_ahead: counters.ahead_bytes.load(Ordering::Relaxed),
            bytes_ahead_unread: self.objects.unread_bytes(),
            image_blocks_missing: self.image.missing_blocks(),
            objects: u64::from(self.image().object_count()),
            objects_local: local.map(|local| local.objects),
            bytes: self.content_bytes,
            bytes_local: local.map_or(0, |local| local.bytes),
            bytes_partial: local.map_or(0, |local| local.partial_bytes),
            offline_safe: self.image.missing_blocks() == 0
                && local.is_some_and(|local| local.objects == u64::from(self.image().object_count())),
            online: self.remote.is_online(),
            offline_seconds: self.remote.outage().map(|outage| outage.first_failure.elapsed().as_secs()),
            bytes_streamed: counters.streamed_bytes.load(Ordering::Relaxed),
            cache_limit: self.objects.quota.limit(),
            cache_used: self.objects.quota.used(),
            evictions: counters.evicted_objects.load(Ordering::Relaxed),
            bytes_evicted: counters.evicted_bytes.load(Ordering::Relaxed),
            repaired: counters.repaired.load(Ordering::Relaxed),
            latency: self.remote.latency(),
        }
    }

    /// Stops all threads after buffered contents were written to the repository.
    pub(crate) fn close(&self) {
        self.pool.close();
        self.objects.quota.close();
        self.objects.write_back.close();
        if let Some(evictor) = self.evictor.lock().take()
            && evictor.join().is_err()
        {
            tracing::error!("the eviction thread panicked");
        }
    }

    /// Returns until when a reader that may wait until `deadline` is to wait; `None` if its read is to fail at once.
    fn effective_deadline(&self, deadline: Instant) -> Option<Instant> {
        let Some(outage) = self.remote.outage() else { return Some(deadline) };
        let patience = if self.patience == Patience::None { Duration::ZERO } else { Fetch::read_timeout(self) };
        let now = Instant::now();
        match outage.first_failure + patience {
            end if end > now => Some(deadline.min(end)),
            _ if outage.last_failure.elapsed() < OUTAGE_PROBE_INTERVAL => None,
            _ => Some(deadline.min(now + OUTAGE_PROBE_TIMEOUT)),
        }
    }

    /// Returns whether another process has stored what was absent.
    fn is_stored(&self, absent: &Absent) -> bool {
        match absent {
            Absent::ImageBlock(block) => self.image.adopt_block(*block),
            Absent::Content { index, size, offset, length } => {
                self.objects.is_stored(*index, *size, &(*offset..offset.saturating_add(*length)))
            }
        }
    }

    fn fetch_once(&self, absent: &Absent, deadline: Instant) -> Result<(), LazyFetchError> {
        match absent {
            Absent::ImageBlock(block) => self.image.fetch_block(*block, deadline),
            Absent::Content { index, size, offset, length } => {
                self.objects.fetch(*index, *size, *offset..offset.saturating_add(*length), deadline)
            }
        }
    }
}

impl ObjectSource for LazyTree {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.store.read_at(id, offset, buffer)
    }

    fn read_object(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let result = self.objects.read(object, offset, buffer);
        let missed = matches!(result, Err(ReadError::Absent(_)));
        LazyCounters::add(if missed { &self.counters.misses } else { &self.counters.hits }, 1);
        self.objects.note_access(object, offset, buffer.len() as u64, missed);
        result
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        if self.store.has_object(id) { self.objects.checked.backing_file(id) } else { Ok(None) }
    }
}

impl Fetch for LazyTree {
    fn fetch(&self, absent: &Absent, deadline: Instant) -> Result<(), ReadError> {
        let failed = |error: LazyFetchError| ReadError::Fetch { absent: *absent, source: Arc::new(error) };
        if self.is_stored(absent) {
            return Ok(());
        }
        let begin = Instant::now();
        let Some(deadline) = self.effective_deadline(deadline) else { return Err(failed(LazyFetchError::TimedOut)) };
        // The last failure says more than that the time is over.
        let mut last = None;
        loop {
            match self.fetch_once(absent, deadline) {
                Ok(()) => return Ok(()),
                Err(error) if error.is_transient() && self.patience != Patience::None => {
                    let pause = match &error {
                        LazyFetchError::RetryLater { .. } => error.retry_after().unwrap_or_default(),
                        _ => error.retry_after().map_or(RETRY_DELAY, |requested| requested.max(RETRY_DELAY)),
                    };
                    if Instant::now() + pause >= deadline {
                        thread::sleep(deadline.saturating_duration_since(Instant::now()));
                        return Err(failed(error));
                    }
                    last = Some(error);
                    thread::sleep(pause);
                }
                Err(LazyFetchError::TimedOut) => {
                    self.remote.note_timeout(begin);
                    return Err(failed(last.unwrap_or(LazyFetchError::TimedOut)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn read_timeout(&self) -> Duration {
        self.patience.duration()
    }
}

impl Drop for LazyTree {
    fn drop(&mut self) {
        self.close();
    }
}
