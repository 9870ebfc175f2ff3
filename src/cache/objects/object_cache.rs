//! The contents of one commit: which are stored, which are being fetched, and which frames to request for a missing range.
//!
//! At most one fetch of a frame runs at a time, and all readers that need the frame wait for it. Fetches run in the threads
//! of the pool, see `fetch`; a reader waits until its deadline. The id of an object and its bytes are requested at the same
//! time.
//!
//! *Not here*: the image (`image`), the files of incomplete large objects (`large`), the write-back of small ones
//! (`write_back`).
//!
//! *Used by* `tree`, `fetch`, `objects` and `readahead`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::cache::counters::LazyCounters;
use crate::cache::fetch::catalogue::{Catalogue, FramePiece};
use crate::cache::fetch::coalesce::{FrameRequest, REQUEST_MAX, SPECULATIVE_REQUEST_MAX, coalesce};
use crate::cache::fetch::error::LazyFetchError;
use crate::cache::fetch::in_flight::{Leader, Waiter};
use crate::cache::fetch::pool::{FetchPool, Priority};
use crate::cache::fetch::remote::{RELOCATIONS_MAX, RemoteLink};
use crate::cache::image::LazyImage;
use crate::cache::objects::change::{ContentChange, log_failure};
use crate::cache::objects::large::LargeObjects;
use crate::cache::objects::quota::Quota;
use crate::cache::objects::recency::RecencyTracker;
use crate::cache::objects::write_back::{BufferKey, WriteBack};
use crate::cache::readahead::predictor::FrameAccess;
use crate::disk;
use crate::image::{Image, ObjectRef};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, LocatorId, ObjectId};
use crate::remote::format::{FileRef, Locator, LocatorBound, PackFrame};
use crate::remote::layout;
use crate::remote::transport::Rejection;
use crate::store::{Absent, CheckedStore, DamagedPart, ObjectSource, ReadError, Store, Verify};

/// How long a fetch that has no reader's deadline waits for metadata: the ids and digests to verify contents with, or the
/// catalogue.
pub(in crate::cache) const METADATA_TIMEOUT: Duration = Duration::from_secs(60);

/// The contents of one commit, of which some may be missing.
pub(in crate::cache) struct ObjectCache {
    pub(crate) remote: Arc<RemoteLink>,
    pub(crate) image: Arc<LazyImage>,
    pub(crate) store: Store,
    pub(crate) checked: Arc<CheckedStore>,
    pub(crate) write_back: Arc<WriteBack>,
    pub(crate) large: LargeObjects,
    pub(crate) pool: Arc<FetchPool>,
    pub(crate) counters: Arc<LazyCounters>,
    pub(crate) quota: Arc<Quota>,
    pub(crate) recency: RecencyTracker,
    /// The size limits of the locator, known before the image is available.
    locator_bound: LocatorBound,
    /// The catalogue of the current locator. It is dropped when the publisher has moved the contents.
    catalogue: RwLock<Option<Arc<Catalogue>>>,
    loading: Mutex<()>,
    demand: (Mutex<ContentDemand>, Condvar),
}

/// Whether a fetch of any content was requested yet.
#[derive(Default, PartialEq, Eq)]
enum ContentDemand {
    #[default]
    NotYet,
    Requested,
}

impl ObjectCache {
    pub(crate) fn new(
        remote: &Arc<RemoteLink>,
        image: &Arc<LazyImage>,
        checked: Arc<CheckedStore>,
        write_back: WriteBack,
        pool: &Arc<FetchPool>,
        counters: &Arc<LazyCounters>,
        locator_bound: LocatorBound,
    ) -> Self {
        let (store, quota) = (write_back.store().clone(), Arc::clone(write_back.quota()));
        let write_back = Arc::new(write_back);
        let partial = store.layout().partial_of(remote.commit());
        Self {
            remote: Arc::clone(remote),
            image: Arc::clone(image),
            large: LargeObjects::new(image.image(), &checked, &write_back, &quota, partial),
            recency: RecencyTracker::default(),
            quota,
            store,
            checked,
            write_back,
            pool: Arc::clone(pool),
            counters: Arc::clone(counters),
            locator_bound,
            catalogue: RwLock::default(),
            loading: Mutex::default(),
            demand: Default::default(),
        }
    }

    /// Reads stored or buffered content; never waits for the network.
    pub(crate) fn read(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if object.size <= LARGE_OBJECT
            && let Some(bytes) = self.write_back.get(BufferKey::Object(object.id))
        {
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            return Ok(length);
        }
        let is_by_block = object.size > LARGE_OBJECT && self.checked.verify() != Verify::OnEntry;
        if !is_by_block && self.store.has_object(object.id) {
            match self.checked.read_object(object, offset, buffer) {
                // Another process has just evicted the object, or it is damaged: it is fetched again.
                Err(ReadError::MissingObject { .. } | ReadError::Damaged { .. }) => {}
                done => return done,
            }
        }
        if object.size > LARGE_OBJECT {
            return self.large.read(object, offset, buffer);
        }
        let length = object.size.saturating_sub(offset).min(buffer.len() as u64);
        Err(ReadError::Absent(Absent::Content { index: object.index, size: object.size, offset, length }))
    }

    /// Returns whether the bytes `wanted` of the object with this number and size can be read without a request, since another
    /// process has stored them meanwhile.
    pub(crate) fn is_stored(&self, index: u32, size: u64, wanted: &Range<u64>) -> bool {
        let Ok(id) = self.image.with_stored_blocks(|image| image.object_by_index(index)) else { return false };
        let has_digest = |block| self.image.with_stored_blocks(|image| image.block_of_object(index, block)).is_ok();
        self.is_present(&ObjectRef { id, index, size }, wanted) && blocks_of(size, wanted).into_iter().all(has_digest)
    }

    /// Fetches the bytes `wanted` of the object with this number and size, and its id; waits until `deadline`.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        index: u32,
        size: u64,
        wanted: Range<u64>,
        deadline: Instant,
    ) -> Result<(), LazyFetchError> {
        self.note_demand();
        self.start_metadata_fetch(index, &blocks_of(size, &wanted));
        for _ in 0..RELOCATIONS_MAX {
            let catalogue = self.catalogue(deadline)?;
            match self.fetch_from(&catalogue, index, size, wanted.clone(), deadline) {
                Err(error) if self.check_relocation(&catalogue, &error) => {}
                done => return done,
            }
        }
        Err(LazyFetchError::Moved { commit: self.remote.commit() })
    }

    /// Fetches as [`Self::fetch`] does, from the frames that `catalogue` names.
    fn fetch_from(
        self: &Arc<Self>,
        catalogue: &Arc<Catalogue>,
        index: u32,
        size: u64,
        wanted: Range<u64>,
        deadline: Instant,
    ) -> Result<(), LazyFetchError> {
        let (offset, length) = (wanted.start, wanted.end.saturating_sub(wanted.start));
        let range = catalogue.frames_of(index, offset, length).ok_or(LazyFetchError::NotLocated { index })?;
        let missing: Vec<u32> = range.filter(|frame| !self.has_frame(catalogue, *frame)).collect();
        let waiters = self.start_fetch(catalogue, &missing);
        let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
        for block in blocks_of(size, &wanted) {
            self.image.with_blocks(deadline, |image| image.block_of_object(index, block))?;
        }
        let result = waiters.iter().try_for_each(|waiter| waiter.wait(deadline));
        let is_present = self.is_present(&ObjectRef { id, index, size }, &wanted);
        // An invalid neighbour in the same frame does not matter if the wanted bytes are present.
        match result {
            Err(LazyFetchError::RetryLater { .. } | LazyFetchError::Transport(_)) if is_present => Ok(()),
            Ok(()) if !is_present => Err(LazyFetchError::Abandoned),
            other => other,
        }
    }

    /// Starts to fetch the id of an object and the digests of its blocks, and returns at once.
    fn start_metadata_fetch(&self, index: u32, blocks: &Range<u32>) {
        self.image.start_fetch_for(|image| image.object_by_index(index));
        for block in blocks.clone() {
            self.image.start_fetch_for(|image| image.block_of_object(index, block));
        }
    }

    /// Records a read, and starts the read-ahead that it suggests.
    pub(crate) fn note_access(self: &Arc<Self>, object: &ObjectRef, offset: u64, length: u64, missed: bool) {
        if self.quota.limit().is_some() {
            self.recency.note(object.id, self.write_back.writer());
        }
        let Some(catalogue) = self.known_catalogue() else { return };
        let Some(frames) = catalogue.frames_of(object.index, offset, length) else { return };
        let large = (object.size > LARGE_OBJECT).then(|| catalogue.frames_of(object.index, 0, object.size)).flatten();
        let mut prediction = catalogue
            .read_ahead
            .lock()
            .note_access(&FrameAccess { frames, large, missed }, catalogue.locator().frames());
        let located = |frames: &mut dyn Iterator<Item = u32>| {
            frames.filter_map(|frame| Some((frame, catalogue.frame(frame)?))).collect::<Vec<_>>()
        };
        let speculative =
            coalesce(located(&mut std::mem::take(&mut prediction.speculative).into_iter()), SPECULATIVE_REQUEST_MAX);
        let stream_priority = Priority::for_stream(prediction.is_bulk, self.remote.rate());
        for request in speculative.into_iter().chain(coalesce(located(&mut prediction.stream), REQUEST_MAX)) {
            let priority = if self.remote.can_afford(request.range.end - request.range.start) {
                Priority::Speculative
            } else {
                stream_priority
            };
            self.fetch_ahead(&catalogue, priority, request);
        }
    }

    /// Returns the number of bytes that were fetched ahead and not read yet.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.known_catalogue().map_or(0, |catalogue| catalogue.read_ahead.lock().unread_bytes())
    }

    /// Resets the read-ahead after an eviction, since recorded frames may be missing now.
    pub(crate) fn reset_read_ahead(&self) {
        if let Some(catalogue) = self.known_catalogue() {
            catalogue.read_ahead.lock().reset();
        }
    }

    fn fetch_ahead(self: &Arc<Self>, catalogue: &Arc<Catalogue>, priority: Priority, request: FrameRequest) {
        let (this, catalogue) = (Arc::clone(self), Arc::clone(catalogue));
        self.pool.submit(priority, move || {
            for frame in this.fetch_missing(&catalogue, &request.frames) {
                let length = catalogue.frame(frame).map_or(0, |frame| frame.length);
                LazyCounters::add(&this.counters.ahead_bytes, u64::from(length));
                catalogue.read_ahead.lock().note_fetched(frame, catalogue.locator().frames());
            }
        });
    }

    /// Fetches, in this thread, those of `frames` that are neither stored nor being fetched; returns those that arrived.
    /// Failures of the others are ignored, since no reader waits for them.
    fn fetch_missing(&self, catalogue: &Catalogue, frames: &[u32]) -> Vec<u32> {
        let mut leaders: HashMap<u32, Leader<u32>> = HashMap::new();
        for &frame in frames {
            leaders.extend(self.lead_if_missing(catalogue, frame).map(|leader| (frame, leader)));
        }
        let frame_numbers: Vec<u32> = leaders.keys().copied().collect();
        for request in coalesce(
            frame_numbers.iter().filter_map(|frame| Some((*frame, catalogue.frame(*frame)?))).collect(),
            REQUEST_MAX,
        ) {
            let leaders_of_request = request.frames.iter().filter_map(|frame| leaders.remove(frame)).collect();
            self.execute(catalogue, &request, leaders_of_request);
        }
        frame_numbers.into_iter().filter(|frame| self.has_frame(catalogue, *frame)).collect()
    }

    /// Returns the leader of a fetch of a frame, unless the frame is stored or is being fetched.
    pub(crate) fn lead_if_missing(&self, catalogue: &Catalogue, frame: u32) -> Option<Leader<u32>> {
        if catalogue.in_flight.is_in_flight(frame) || self.has_frame(catalogue, frame) {
            return None;
        }
        catalogue.in_flight.join(frame).1
    }

    /// Returns whether all pieces of a frame are present. A piece whose id or digest is unknown counts as missing.
    pub(crate) fn has_frame(&self, catalogue: &Catalogue, frame: u32) -> bool {
        let image = self.image.image();
        catalogue.pieces(frame).iter().all(|piece| match *piece {
            FramePiece::Object { index, .. } => image.object_by_index(index).is_ok_and(|id| self.has_small_object(id)),
            FramePiece::Block { index, block } => {
                let size = catalogue.sizes().get(index as usize).copied().unwrap_or(0);
                image.block_of_object(index, block).is_ok()
                    && image
                        .object_by_index(index)
                        .is_ok_and(|id| self.has_block(&ObjectRef { id, index, size }, block))
            }
        })
    }

    pub(crate) fn has_small_object(&self, id: ObjectId) -> bool {
        self.write_back.get(BufferKey::Object(id)).is_some() || self.store.has_object(id)
    }

    fn is_present(&self, object: &ObjectRef, wanted: &Range<u64>) -> bool {
        if object.size <= LARGE_OBJECT {
            return self.has_small_object(object.id);
        }
        blocks_of(object.size, wanted).into_iter().all(|block| self.has_block(object, block))
    }

    fn has_block(&self, object: &ObjectRef, block: u32) -> bool {
        let part = DamagedPart { object: object.id, block: Some(block) };
        (self.store.has_object(object.id) && !self.store.is_known_bad(part)) || self.large.has(object, block)
    }

    /// Starts to fetch frames that a reader waits for; returns a waiter for each of them.
    fn start_fetch(self: &Arc<Self>, catalogue: &Arc<Catalogue>, frames: &[u32]) -> Vec<Waiter> {
        let (mut waiters, mut leaders): (Vec<Waiter>, HashMap<u32, Leader<u32>>) = Default::default();
        for &frame in frames {
            let (waiter, leader) = catalogue.in_flight.join(frame);
            match leader {
                Some(leader) => _ = leaders.insert(frame, leader),
                None => LazyCounters::add(&self.counters.joined, 1),
            }
            waiters.push(waiter);
        }
        let located: Vec<(u32, PackFrame)> = leaders.keys().filter_map(|n| Some((*n, catalogue.frame(*n)?))).collect();
        for request in coalesce(located, REQUEST_MAX) {
            let leaders_of_request: Vec<Leader<u32>> =
                request.frames.iter().filter_map(|frame| leaders.remove(frame)).collect();
            let (this, catalogue) = (Arc::clone(self), Arc::clone(catalogue));
            self.pool.submit(Priority::Foreground, move || this.execute(&catalogue, &request, leaders_of_request));
        }
        waiters
    }

    fn note_demand(&self) {
        let (demand, changed) = &self.demand;
        *demand.lock() = ContentDemand::Requested;
        changed.notify_all();
    }

    /// Waits until the first missing content is requested; returns `false` if the pool is closed.
    pub(crate) fn wait_for_demand(&self) -> bool {
        let (demand, changed) = &self.demand;
        let mut demand = demand.lock();
        while *demand == ContentDemand::NotYet && !self.pool.is_closed() {
            changed.wait_for(&mut demand, Duration::from_millis(500));
        }
        !self.pool.is_closed()
    }

    /// Returns the catalogue. Fetches it when it is first needed: the locator and the sizes of objects at the same time.
    pub(crate) fn catalogue(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Catalogue>, LazyFetchError> {
        if let Some(catalogue) = self.known_catalogue() {
            return Ok(catalogue);
        }
        let Some(_loading) = self.loading.try_lock_until(deadline) else { return Err(LazyFetchError::TimedOut) };
        if let Some(catalogue) = self.known_catalogue() {
            return Ok(catalogue);
        }
        self.image.start_fetch_for(Image::object_sizes);
        let (id, bytes) = self.remote.with_placement(|placement| self.load_locator(placement.locator))?;
        self.image.fetch_metadata(deadline)?;
        let sizes = self.image.image().object_sizes()?;
        let locator = Locator::parse(&bytes, LocatorBound::new(sizes.iter().copied())).map_err(Arc::new)?;
        let catalogue = Arc::new(Catalogue::new(id, locator, sizes));
        *self.catalogue.write() = Some(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    /// Returns the catalogue if it is loaded.
    pub(crate) fn known_catalogue(&self) -> Option<Arc<Catalogue>> {
        self.catalogue.read().clone()
    }

    /// Fetches the placement again if `failure` suggests that contents are not where `seen` says. Returns whether another
    /// catalogue is to be used from now on; its placement is stored for the next mount.
    pub(crate) fn check_relocation(&self, seen: &Catalogue, failure: &LazyFetchError) -> bool {
        if !self.remote.check_relocation(seen.id(), failure) {
            return false;
        }
        let mut catalogue = self.catalogue.write();
        if catalogue.as_ref().is_some_and(|current| current.id() == seen.id()) {
            *catalogue = None;
            self.save_placement();
        }
        true
    }

    /// Stores the current placement, unless another process writes to the repository: a mount with the old placement fetches
    /// it again.
    fn save_placement(&self) {
        let write_back = Arc::clone(&self.write_back);
        let Ok(placement) = self.remote.placement() else { return };
        self.pool.submit(Priority::Background, move || {
            let saved = write_back.writer().apply(ContentChange::SavePlacement(placement.render()));
            log_failure("the placement is not stored", saved);
        });
    }

    /// Returns the bytes of a locator: the stored ones if there are any, else fetches them.
    fn load_locator(&self, wanted: FileRef<LocatorId>) -> Result<(LocatorId, Bytes), LazyFetchError> {
        let partial = self.store.layout().partial_of(self.remote.commit());
        let path = partial.image_locator(self.image.image().id());
        if let Ok(bytes) = std::fs::read(&path)
            && LocatorId::of(&bytes) == wanted.id
        {
            return Ok((wanted.id, bytes.into()));
        }
        let name = layout::locator(wanted.id);
        if wanted.length > self.locator_bound.max_length() {
            return Err(LazyFetchError::Corrupt { path: name });
        }
        let bytes = self.remote.fetch_range(&name, 0..wanted.length, &mut |bytes| match LocatorId::of(bytes) {
            found if found == wanted.id => Ok(bytes.clone()),
            _ => Err(Rejection::wrong("it does not have the digest that it is named by")),
        })?;
        // Stored in the background: if that fails, the locator is fetched again.
        let stored = bytes.clone();
        self.pool.submit(Priority::Background, move || {
            if let Err(error) = disk::replace(&path, &stored) {
                tracing::debug!(%error, "the locator is not stored");
            }
        });
        Ok((wanted.id, bytes))
    }
}

/// Returns the blocks of a large object that hold these bytes; an empty range for a small one.
fn blocks_of(size: u64, wanted: &Range<u64>) -> Range<u32> {
    if size <= LARGE_OBJECT {
        return 0..0;
    }
    let number = |block: u64| u32::try_from(block).unwrap_or(u32::MAX);
    number(wanted.start / BLOCK_SIZE)..number(wanted.end.min(size).div_ceil(BLOCK_SIZE))
}
