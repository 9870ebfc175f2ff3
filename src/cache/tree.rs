//! One commit that is fetched as it is read: its image and its objects behind one value.
//!
//! Reading never waits; [`Fetch::fetch`] does, in the threads of whoever calls it, and tries again as long as there is
//! patience while nobody answers. Everything fetched in the background stops when the value is dropped.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::beginning::Beginning;
use super::counters::{LazyCounters, LazyFigures};
use super::crew::Crew;
use super::error::FetchError;
use super::fill::{self, Fill, Rest};
use super::frames::Frames;
use super::image::{LazyImage, LazyImageError};
use super::janitor;
use super::local::LastLook;
use super::origin::Origin;
use super::prefetch::{self, PrefetchError, PrefetchPlan, Selection};
use super::room::Room;
use super::shelf::Shelf;
use super::whole::Wholeness;
use crate::image::{Image, ObjectRef};
use crate::model::{Commit, CommitId, ObjectId};
use crate::remote::format::{LocatorBound, Placement, ProfileText};
use crate::remote::transport::Transport;
use crate::store::{Absent, CheckedStore, Fetch, ObjectSource, ReadError, Store, Verify};

/// How long after a failure the same is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// In an outage that outlasted the patience, readers look this often whether it is over, and are refused in between.
const SILENCE: Duration = Duration::from_secs(1);

/// What somebody fetches who is told how it ends goes on as long as so many bytes come within the patience.
const PROGRESS: u64 = 64 << 10;

/// How long such a look may take.
const LOOK: Duration = Duration::from_secs(2);

/// How long readers wait for what does not come. In an outage the time counts from its beginning, so that who goes on
/// reading does not wait for each file anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// This long, trying again while nobody answers.
    Within(Duration),
    /// No longer than one attempt takes, and not at all while attempts fail.
    None,
}

impl Patience {
    /// How long that is; for those who do not wait, how long things are tried for others.
    const fn length(self) -> Duration {
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

/// Why a commit cannot be opened lazily.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The image.
    #[error(transparent)]
    Image(#[from] LazyImageError),
    /// Threads.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

/// How a commit is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LazyOptions {
    /// How long readers wait.
    pub patience: Patience,
    /// Bytes of fetched contents that are kept at most, instead of what the repository says.
    pub cache_size: Option<u64>,
    /// When what is here is compared with its names. What is damaged is fetched again.
    pub verify: Verify,
}

/// A commit to be opened, and where its missing parts are; none of them can be fetched when there is no remote.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub id: CommitId,
    pub commit: Commit,
    pub remote: Option<(Transport, Placement)>,
    /// The beginning of its image, if it was asked for already.
    pub beginning: Option<Beginning>,
}

/// A commit of which anything may be missing.
pub struct LazyTree {
    commit: CommitId,
    content_bytes: u64,
    store: Store,
    origin: Arc<Origin>,
    image: Arc<LazyImage>,
    frames: Arc<Frames>,
    crew: Arc<Crew>,
    counters: Arc<LazyCounters>,
    local: LastLook,
    janitor: Mutex<Option<JoinHandle<()>>>,
    patience: Patience,
}

impl LazyTree {
    pub(super) fn open(store: &Store, source: Source, options: LazyOptions) -> Result<Arc<Self>, LazyError> {
        let partial = store.layout().partial();
        if let Err(error) = std::fs::create_dir_all(&partial) {
            tracing::warn!("{}: {error}: nothing is kept of what is fetched", partial.display());
        }
        let Source { id, commit, remote, beginning } = source;
        let origin = Arc::new(Origin::new(id, remote, options.patience.length()));
        let crew = Arc::new(Crew::start().map_err(LazyError::Thread)?);
        let counters = Arc::<LazyCounters>::default();
        let image = LazyImage::open(store, commit.image, &origin, &crew, beginning)?;
        let room = Arc::new(Room::new(options.cache_size, store.config().cache_size));
        let shelf = Shelf::start(store, &room).map_err(LazyError::Thread)?;
        let bound = LocatorBound::of_commit(&commit);
        let checked = Arc::new(CheckedStore::new(store, image.image(), options.verify));
        let frames = Arc::new(Frames::new(&origin, &image, checked, shelf, &crew, &counters, bound));
        let kept = Arc::clone(&frames);
        let janitor = thread::Builder::new().name("janitor".to_owned()).spawn(move || janitor::run(&kept));
        let janitor = Mutex::new(Some(janitor.map_err(LazyError::Thread)?));
        Ok(Arc::new(Self {
            commit: id,
            content_bytes: commit.content_bytes,
            store: store.clone(),
            origin,
            image,
            frames,
            crew,
            counters,
            local: LastLook::default(),
            janitor,
            patience: options.patience,
        }))
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> &Image {
        self.image.image()
    }

    /// Waits until all names and attributes are here, at most for `patience`: whoever is about to hand the mount over to
    /// another process would make that ask for them again.
    pub fn await_names(&self, patience: Duration) {
        if let Err(error) = self.image.fetch_hot(Instant::now() + patience) {
            tracing::debug!("names and attributes: {error}");
        }
    }

    /// Begins to fetch what is going to be needed, in a thread of its own that ends with the mount.
    pub fn fill(self: &Arc<Self>, wanted: Fill) {
        let frames = Arc::clone(&self.frames);
        let commit = self.commit;
        let run = move || {
            if fill::first_things(&frames, &wanted) && wanted.rest == Rest::Everything {
                fill::everything(&frames, commit);
            }
        };
        if let Err(error) = thread::Builder::new().name("fill".to_owned()).spawn(run) {
            tracing::warn!("nothing is fetched in the background: {error}");
        }
    }

    /// Plans to fetch what is selected. Asks the remote for names only.
    ///
    /// # Errors
    /// [`PrefetchError`].
    pub fn plan_prefetch(&self, selection: &Selection) -> Result<PrefetchPlan, PrefetchError> {
        self.persist(|| prefetch::plan(&self.frames, self.commit, selection))
    }

    /// Fetches what was planned for `selection`. What came before a failure is kept.
    ///
    /// # Errors
    /// [`PrefetchError`].
    pub fn prefetch(&self, plan: &PrefetchPlan, selection: &Selection) -> Result<Wholeness, PrefetchError> {
        self.persist(|| prefetch::fetch(&self.frames, self.commit, plan, selection))
    }

    /// Does what may fail for a while again and again, as long as there is patience or something moves.
    fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, PrefetchError>) -> Result<T, PrefetchError> {
        let (mut since, mut received) = (Instant::now(), self.origin.traffic().received);
        loop {
            let error = match attempt() {
                Err(PrefetchError::Fetch(error)) if error.may_pass() => error,
                done => return done,
            };
            let now = self.origin.traffic().received;
            if now >= received + PROGRESS {
                (since, received) = (Instant::now(), now);
            }
            let pause = error.retry_after().unwrap_or(AGAIN);
            if since.elapsed() + pause > self.patience.length() {
                return Err(error.into());
            }
            thread::sleep(pause);
        }
    }

    /// What was published as being read first, by path; none when nothing was.
    ///
    /// # Errors
    /// [`PrefetchError::Fetch`].
    pub fn published_profile(&self) -> Result<Option<ProfileText>, PrefetchError> {
        prefetch::published_profile(&self.frames)
    }

    /// Bytes that came in long requests: how far a prefetch is.
    #[must_use]
    pub fn streamed(&self) -> u64 {
        self.counters.streamed.load(Ordering::Relaxed)
    }

    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> LazyFigures {
        let (traffic, counters) = (self.origin.traffic(), &self.counters);
        let misses = counters.misses.load(Ordering::Relaxed);
        let local = self.local.at(&self.frames);
        LazyFigures {
            requests: traffic.requests,
            bytes_fetched: traffic.received,
            // A read that had to wait is asked twice.
            hits: counters.hits.load(Ordering::Relaxed).saturating_sub(misses),
            misses,
            flights_joined: counters.joined.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            bytes_ahead: counters.ahead.load(Ordering::Relaxed),
            bytes_ahead_unread: self.frames.unread_bytes(),
            image_blocks_missing: self.image.missing(),
            objects: u64::from(self.image().object_count()),
            objects_local: local.map(|local| local.objects),
            bytes: self.content_bytes,
            bytes_local: local.map_or(0, |local| local.bytes),
            bytes_partial: local.map_or(0, |local| local.partial),
            offline_safe: self.image.missing() == 0
                && local.is_some_and(|local| local.objects == u64::from(self.image().object_count())),
            online: self.origin.is_online(),
            offline_seconds: self.origin.outage().map(|outage| outage.since.elapsed().as_secs()),
            bytes_streamed: counters.streamed.load(Ordering::Relaxed),
            cache_limit: self.frames.room.limit(),
            cache_used: self.frames.room.used(),
            evictions: counters.gone.load(Ordering::Relaxed),
            bytes_evicted: counters.evicted.load(Ordering::Relaxed),
            mended: counters.mended.load(Ordering::Relaxed),
            latency: self.origin.latency(),
        }
    }

    /// The commit.
    #[must_use]
    pub const fn commit(&self) -> CommitId {
        self.commit
    }

    /// Writes what waits in memory.
    pub fn flush(&self) {
        self.crew.close();
        self.frames.room.close();
        self.frames.shelf.close();
        if let Some(janitor) = self.janitor.lock().take()
            && janitor.join().is_err()
        {
            tracing::error!("the thread that makes room panicked");
        }
    }

    /// Until when a reader who could wait until `deadline` does wait; `None` if not at all.
    fn shortened(&self, deadline: Instant) -> Option<Instant> {
        let Some(outage) = self.origin.outage() else { return Some(deadline) };
        let patience = if self.patience == Patience::None { Duration::ZERO } else { Fetch::patience(self) };
        let now = Instant::now();
        match outage.since + patience {
            end if end > now => Some(deadline.min(end)),
            _ if outage.last.elapsed() < SILENCE => None,
            _ => Some(deadline.min(now + LOOK)),
        }
    }

    fn attempt(&self, absent: &Absent, deadline: Instant) -> Result<(), FetchError> {
        match absent {
            Absent::ImageBlock(block) => self.image.fetch_block(*block, deadline),
            Absent::Content { index, size, offset, length } => {
                self.frames.fetch(*index, *size, *offset..offset.saturating_add(*length), deadline)
            }
        }
    }
}

impl ObjectSource for LazyTree {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.store.read_at(id, offset, buffer)
    }

    fn read_object(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let result = self.frames.read(object, offset, buffer);
        let missed = matches!(result, Err(ReadError::Absent(_)));
        LazyCounters::add(if missed { &self.counters.misses } else { &self.counters.hits }, 1);
        self.frames.touch(object, offset, buffer.len() as u64, missed);
        result
    }

    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        if self.store.has_object(id) { self.frames.checked.backing_file(id) } else { Ok(None) }
    }
}

impl Fetch for LazyTree {
    fn fetch(&self, absent: &Absent, deadline: Instant) -> Result<(), ReadError> {
        let failed = |error: FetchError| ReadError::Fetch { absent: *absent, source: Arc::new(error) };
        let begin = Instant::now();
        let Some(deadline) = self.shortened(deadline) else { return Err(failed(FetchError::TooLate)) };
        // How it failed tells more than that the time is over.
        let mut last = None;
        loop {
            match self.attempt(absent, deadline) {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() && self.patience != Patience::None => {
                    let pause = match &error {
                        FetchError::Again { .. } => error.retry_after().unwrap_or_default(),
                        _ => error.retry_after().map_or(AGAIN, |asked| asked.max(AGAIN)),
                    };
                    if Instant::now() + pause >= deadline {
                        thread::sleep(deadline.saturating_duration_since(Instant::now()));
                        return Err(failed(error));
                    }
                    last = Some(error);
                    thread::sleep(pause);
                }
                Err(FetchError::TooLate) => {
                    self.origin.waited_in_vain(begin);
                    return Err(failed(last.unwrap_or(FetchError::TooLate)));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn patience(&self) -> Duration {
        self.patience.length()
    }
}

impl Drop for LazyTree {
    fn drop(&mut self) {
        self.flush();
    }
}
