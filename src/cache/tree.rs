//! One commit that is fetched as it is read: its image and its objects behind one value.
//!
//! Reading never waits; [`Fetch::fetch`] does, in the threads of whoever calls it, and tries again as long as there is
//! patience while nobody answers. Everything fetched in the background stops when the value is dropped.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::counters::{LazyCounters, LazyFigures};
use super::crew::Crew;
use super::error::FetchError;
use super::fill::{self, Fill};
use super::frames::Frames;
use super::image::{LazyImage, LazyImageError};
use super::origin::Origin;
use super::shelf::{Shelf, chain};
use crate::image::{Image, ObjectRef};
use crate::model::{Commit, CommitId, ObjectId};
use crate::remote::format::Placement;
use crate::remote::transport::Transport;
use crate::store::{Absent, Fetch, ObjectSource, ReadError, Store};

/// How long after a failure the same is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// In an outage that outlasted the patience, readers look this often whether it is over, and are refused in between.
const SILENCE: Duration = Duration::from_secs(1);

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
    patience: Patience,
}

impl LazyTree {
    /// The commit `id`, whose missing parts are where `remote` says; none of them can be fetched when there is none.
    ///
    /// # Errors
    /// [`LazyError`].
    pub fn open(
        store: &Store,
        (id, commit): (CommitId, &Commit),
        remote: Option<(Transport, Placement)>,
        patience: Patience,
    ) -> Result<Arc<Self>, LazyError> {
        let partial = store.layout().partial();
        if let Err(error) = std::fs::create_dir_all(&partial) {
            tracing::warn!("{}: {error}: nothing is kept of what is fetched", partial.display());
        }
        let origin = Arc::new(Origin::new(remote));
        let crew = Arc::new(Crew::start().map_err(LazyError::Thread)?);
        let counters = Arc::<LazyCounters>::default();
        let image = Arc::new(LazyImage::open(store, commit.image, &origin, &crew)?);
        let shelf = Shelf::start(store).map_err(LazyError::Thread)?;
        let frames = Arc::new(Frames::new(&origin, &image, store, shelf, &crew, &counters));
        Ok(Arc::new(Self {
            commit: id,
            content_bytes: commit.content_bytes,
            store: store.clone(),
            origin,
            image,
            frames,
            crew,
            counters,
            patience,
        }))
    }

    /// Its image.
    #[must_use]
    pub fn image(&self) -> &Image {
        self.image.image()
    }

    /// Begins to fetch what is going to be needed, and, if wanted, all the rest.
    pub fn fill(self: &Arc<Self>, wanted: Fill) {
        let own = Arc::downgrade(self);
        let run = move || {
            let Some(tree) = own.upgrade() else { return };
            let (frames, image, crew) = (Arc::clone(&tree.frames), Arc::clone(&tree.image), Arc::clone(&tree.crew));
            drop(tree);
            let deadline = || Instant::now() + Duration::from_secs(60);
            // The names first: what reads the first file waits for them.
            if let Err(error) = image.fetch_hot(deadline()).and_then(|()| frames.catalogue(deadline()).map(drop)) {
                tracing::debug!("in the background: {}", chain(&error));
            }
            fill::run(&image, &frames, &crew, wanted);
        };
        if let Err(error) = thread::Builder::new().name("fill".to_owned()).spawn(run) {
            tracing::warn!("nothing is fetched in the background: {error}");
        }
    }

    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> LazyFigures {
        let (traffic, counters) = (self.origin.traffic(), &self.counters);
        let misses = counters.misses.load(Ordering::Relaxed);
        let local = self.frames.local();
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
            offline_safe: self.image.missing() == 0
                && local.is_some_and(|local| local.objects == u64::from(self.image().object_count())),
            online: self.origin.is_online(),
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
        self.frames.shelf.close();
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
            Absent::Object { object, offset, length } => self.frames.fetch(object, *offset, *length, deadline),
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
        if self.store.has_object(id) { self.store.backing_file(id) } else { Ok(None) }
    }
}

impl Fetch for LazyTree {
    fn fetch(&self, absent: &Absent, deadline: Instant) -> Result<(), ReadError> {
        let failed = |error: FetchError| ReadError::Fetch { absent: *absent, source: Arc::new(error) };
        let begin = Instant::now();
        let Some(deadline) = self.shortened(deadline) else { return Err(failed(FetchError::TooLate)) };
        loop {
            match self.attempt(absent, deadline) {
                Ok(()) => return Ok(()),
                Err(error) if error.may_pass() && self.patience != Patience::None => {
                    let pause = error.retry_after().map_or(AGAIN, |asked| asked.max(AGAIN));
                    if Instant::now() + pause >= deadline {
                        thread::sleep(deadline.saturating_duration_since(Instant::now()));
                        return Err(failed(error));
                    }
                    thread::sleep(pause);
                }
                Err(error) => {
                    if matches!(error, FetchError::TooLate) {
                        self.origin.waited_in_vain(begin);
                    }
                    return Err(failed(error));
                }
            }
        }
    }

    fn patience(&self) -> Duration {
        match self.patience {
            Patience::Within(patience) => patience,
            Patience::None => Duration::from_secs(30),
        }
    }
}

impl Drop for LazyTree {
    fn drop(&mut self) {
        self.flush();
    }
}
