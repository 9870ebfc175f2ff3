//! From an object that is missing to the frame that holds it: what is here, what is on its way, what to ask for.
//!
//! One fetch per frame is under way at a time. Whoever needs a frame waits for it, at most as long as it may; the fetch
//! itself goes on in threads of its own, see `haul`. The name of an object and its bytes are asked for at the same time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use super::ahead::Touch;
use super::catalogue::{Catalogue, Piece};
use super::counters::LazyCounters;
use super::crew::{Crew, Lane};
use super::error::FetchError;
use super::flight::{Pilot, Seat};
use super::image::LazyImage;
use super::large::LargeObjects;
use super::origin::{MOVES_MAX, Origin};
use super::ranges::{GUESS_MAX, RUN_MAX, Run, plan};
use super::room::Room;
use super::shelf::{Key, Shelf};
use super::uses::Uses;
use crate::disk::{self, Wait};
use crate::image::{Image, ObjectRef};
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, LocatorId, ObjectId};
use crate::remote::format::{FileRef, Frame, Locator, LocatorBound};
use crate::remote::layout;
use crate::remote::transport::Refusal;
use crate::store::{Absent, CheckedStore, DamagedPart, ObjectSource, ReadError, Store, Verify};

/// How long what nobody waits for may take to learn the names of what came.
pub(super) const UNHURRIED: Duration = Duration::from_secs(60);

/// The contents of one commit.
pub(super) struct Frames {
    pub origin: Arc<Origin>,
    pub image: Arc<LazyImage>,
    pub store: Store,
    pub checked: Arc<CheckedStore>,
    pub shelf: Arc<Shelf>,
    pub large: LargeObjects,
    pub crew: Arc<Crew>,
    pub counters: Arc<LazyCounters>,
    pub room: Arc<Room>,
    pub uses: Uses,
    /// What the locator can hold at most, known before the image is here.
    bound: LocatorBound,
    /// By the locator in use; another takes its place when the contents were put elsewhere.
    catalogue: RwLock<Option<Arc<Catalogue>>>,
    loading: Mutex<()>,
    wanted: (Mutex<Wanted>, Condvar),
}

/// Whether any content was asked for yet.
#[derive(Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    NotYet,
    Something,
}

impl Frames {
    pub fn new(
        origin: &Arc<Origin>,
        image: &Arc<LazyImage>,
        checked: Arc<CheckedStore>,
        shelf: Shelf,
        crew: &Arc<Crew>,
        counters: &Arc<LazyCounters>,
        bound: LocatorBound,
    ) -> Self {
        let (store, room) = (shelf.store().clone(), Arc::clone(shelf.room()));
        let shelf = Arc::new(shelf);
        Self {
            origin: Arc::clone(origin),
            image: Arc::clone(image),
            large: LargeObjects::new(image.image(), &checked, &shelf, &room),
            uses: Uses::new(&store),
            room,
            store,
            checked,
            shelf,
            crew: Arc::clone(crew),
            counters: Arc::clone(counters),
            bound,
            catalogue: RwLock::default(),
            loading: Mutex::default(),
            wanted: Default::default(),
        }
    }

    /// Reads what is here; never waits for the network.
    pub fn read(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if object.size <= LARGE_OBJECT
            && let Some(bytes) = self.shelf.get(Key::Object(object.id))
        {
            let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            return Ok(length);
        }
        let is_by_block = object.size > LARGE_OBJECT && self.checked.verify() != Verify::OnEntry;
        if !is_by_block && self.store.has_object(object.id) {
            match self.checked.read_object(object, offset, buffer) {
                // Another process has evicted it a moment ago; or it is damaged, and comes again.
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

    /// Fetches the bytes `wanted` of the object with this number and size, and its name.
    pub fn fetch(
        self: &Arc<Self>,
        index: u32,
        size: u64,
        wanted: Range<u64>,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        self.note_wanted();
        self.ask_for_names(index, &blocks_of(size, &wanted));
        for _ in 0..MOVES_MAX {
            let catalogue = self.catalogue(deadline)?;
            match self.fetch_by(&catalogue, index, size, wanted.clone(), deadline) {
                Err(error) if self.find_again(&catalogue, &error) => {}
                done => return done,
            }
        }
        Err(FetchError::Moved { commit: self.origin.commit() })
    }

    /// Fetches from where `catalogue` says that it is.
    fn fetch_by(
        self: &Arc<Self>,
        catalogue: &Arc<Catalogue>,
        index: u32,
        size: u64,
        wanted: Range<u64>,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        let (offset, length) = (wanted.start, wanted.end.saturating_sub(wanted.start));
        let range = catalogue.frames_of(index, offset, length).ok_or(FetchError::NoPlace { index })?;
        let missing: Vec<u32> = range.filter(|frame| !self.has_frame(catalogue, *frame)).collect();
        let seats = self.depart(catalogue, &missing);
        let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
        for block in blocks_of(size, &wanted) {
            self.image.with_blocks(deadline, |image| image.block_of_object(index, block))?;
        }
        let result = seats.iter().try_for_each(|seat| seat.wait(deadline));
        let is_here = self.is_here(&ObjectRef { id, index, size }, &wanted);
        // A neighbour that is not what it should be is no reason to refuse what was asked for.
        match result {
            Err(FetchError::Again { .. } | FetchError::Transport(_)) if is_here => Ok(()),
            Ok(()) if !is_here => Err(FetchError::GivenUp),
            other => other,
        }
    }

    /// Has the names of an object and of its blocks fetched while something else is.
    fn ask_for_names(&self, index: u32, blocks: &Range<u32>) {
        self.image.ask_ahead(|image| image.object_by_index(index));
        for block in blocks.clone() {
            self.image.ask_ahead(|image| image.block_of_object(index, block));
        }
    }

    /// Notes a read and fetches ahead of it.
    pub fn touch(self: &Arc<Self>, object: &ObjectRef, offset: u64, length: u64, missed: bool) {
        if self.room.limit().is_some() {
            self.uses.note(object.id);
        }
        let Some(catalogue) = self.known_catalogue() else { return };
        let Some(frames) = catalogue.frames_of(object.index, offset, length) else { return };
        let large = (object.size > LARGE_OBJECT).then(|| catalogue.frames_of(object.index, 0, object.size)).flatten();
        let mut wish = catalogue.ahead.lock().touch(&Touch { frames, large, missed }, catalogue.locator().frames());
        let located = |frames: &mut dyn Iterator<Item = u32>| {
            frames.filter_map(|frame| Some((frame, catalogue.frame(frame)?))).collect::<Vec<_>>()
        };
        let likely = plan(located(&mut std::mem::take(&mut wish.likely).into_iter()), GUESS_MAX);
        let patient = Lane::of_stream(wish.is_bulk, self.origin.rate());
        for run in likely.into_iter().chain(plan(located(&mut wish.stream), RUN_MAX)) {
            let lane = if self.origin.affords(run.range.end - run.range.start) { Lane::Guess } else { patient };
            self.fetch_ahead(&catalogue, lane, run);
        }
    }

    /// Bytes that were fetched ahead and not read yet.
    pub fn unread_bytes(&self) -> u64 {
        self.known_catalogue().map_or(0, |catalogue| catalogue.ahead.lock().unread_bytes())
    }

    /// Takes notice that something that was here may be gone.
    pub fn forget(&self) {
        if let Some(catalogue) = self.known_catalogue() {
            catalogue.ahead.lock().forget();
        }
    }

    fn fetch_ahead(self: &Arc<Self>, catalogue: &Arc<Catalogue>, lane: Lane, run: Run) {
        let (own, catalogue) = (Arc::clone(self), Arc::clone(catalogue));
        self.crew.run(lane, move || {
            for frame in own.fetch_quietly(&catalogue, &run.frames) {
                let length = catalogue.frame(frame).map_or(0, |frame| frame.length);
                LazyCounters::add(&own.counters.ahead, u64::from(length));
                catalogue.ahead.lock().fetched(frame, catalogue.locator().frames());
            }
        });
    }

    /// Fetches those of `frames` that are neither here nor under way, in this thread; returns those that came. That others
    /// did not is nobody's business yet.
    fn fetch_quietly(&self, catalogue: &Catalogue, frames: &[u32]) -> Vec<u32> {
        let mut pilots: HashMap<u32, Pilot<u32>> = HashMap::new();
        for &frame in frames {
            pilots.extend(self.board_if_missing(catalogue, frame).map(|pilot| (frame, pilot)));
        }
        let led: Vec<u32> = pilots.keys().copied().collect();
        for run in plan(led.iter().filter_map(|frame| Some((*frame, catalogue.frame(*frame)?))).collect(), RUN_MAX) {
            let crew = run.frames.iter().filter_map(|frame| pilots.remove(frame)).collect();
            self.fly(catalogue, &run, crew);
        }
        led.into_iter().filter(|frame| self.has_frame(catalogue, *frame)).collect()
    }

    /// The duty to fetch a frame, unless it is here or somebody else has that duty.
    pub fn board_if_missing(&self, catalogue: &Catalogue, frame: u32) -> Option<Pilot<u32>> {
        if catalogue.flights.is_under_way(frame) || self.has_frame(catalogue, frame) {
            return None;
        }
        catalogue.flights.board(frame).1
    }

    /// Whether all pieces of a frame are here. Those whose names are not here count as not being here.
    pub fn has_frame(&self, catalogue: &Catalogue, frame: u32) -> bool {
        let image = self.image.image();
        catalogue.pieces(frame).iter().all(|piece| match *piece {
            Piece::Object { index, .. } => image.object_by_index(index).is_ok_and(|id| self.has_small(id)),
            Piece::Block { index, block } => {
                let size = catalogue.sizes().get(index as usize).copied().unwrap_or(0);
                image.block_of_object(index, block).is_ok()
                    && image
                        .object_by_index(index)
                        .is_ok_and(|id| self.has_block(&ObjectRef { id, index, size }, block))
            }
        })
    }

    pub fn has_small(&self, id: ObjectId) -> bool {
        self.shelf.get(Key::Object(id)).is_some() || self.store.has_object(id)
    }

    fn is_here(&self, object: &ObjectRef, wanted: &Range<u64>) -> bool {
        if object.size <= LARGE_OBJECT {
            return self.has_small(object.id);
        }
        blocks_of(object.size, wanted).into_iter().all(|block| self.has_block(object, block))
    }

    fn has_block(&self, object: &ObjectRef, block: u32) -> bool {
        let part = DamagedPart { object: object.id, block: Some(block) };
        (self.store.has_object(object.id) && !self.store.is_condemned(part)) || self.large.has(object, block)
    }

    /// Has frames fetched that somebody waits for.
    fn depart(self: &Arc<Self>, catalogue: &Arc<Catalogue>, frames: &[u32]) -> Vec<Seat> {
        let (mut seats, mut pilots): (Vec<Seat>, HashMap<u32, Pilot<u32>>) = Default::default();
        for &frame in frames {
            let (seat, pilot) = catalogue.flights.board(frame);
            match pilot {
                Some(pilot) => _ = pilots.insert(frame, pilot),
                None => LazyCounters::add(&self.counters.joined, 1),
            }
            seats.push(seat);
        }
        let led: Vec<(u32, Frame)> = pilots.keys().filter_map(|n| Some((*n, catalogue.frame(*n)?))).collect();
        for run in plan(led, RUN_MAX) {
            let crew: Vec<Pilot<u32>> = run.frames.iter().filter_map(|frame| pilots.remove(frame)).collect();
            let (own, catalogue) = (Arc::clone(self), Arc::clone(catalogue));
            self.crew.run(Lane::Urgent, move || own.fly(&catalogue, &run, crew));
        }
        seats
    }

    fn note_wanted(&self) {
        let (wanted, changed) = &self.wanted;
        *wanted.lock() = Wanted::Something;
        changed.notify_all();
    }

    /// Waits until some content was asked for that was not here; returns whether to go on at all.
    pub fn wait_until_wanted(&self) -> bool {
        let (wanted, changed) = &self.wanted;
        let mut wanted = wanted.lock();
        while *wanted == Wanted::NotYet && !self.crew.is_closed() {
            changed.wait_for(&mut wanted, Duration::from_millis(500));
        }
        !self.crew.is_closed()
    }

    /// The catalogue, fetched when first needed: the locator, and at the same time the sizes.
    pub fn catalogue(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Catalogue>, FetchError> {
        if let Some(catalogue) = self.known_catalogue() {
            return Ok(catalogue);
        }
        let Some(_loading) = self.loading.try_lock_until(deadline) else { return Err(FetchError::TooLate) };
        if let Some(catalogue) = self.known_catalogue() {
            return Ok(catalogue);
        }
        self.image.ask_ahead(Image::object_sizes);
        let (id, bytes) = self.origin.ask_located(|placement| self.locator(placement.locator))?;
        self.image.fetch_hot(deadline)?;
        let sizes = self.image.image().object_sizes()?;
        let locator = Locator::parse(&bytes, LocatorBound::new(sizes.iter().copied())).map_err(Arc::new)?;
        let catalogue = Arc::new(Catalogue::new(id, locator, sizes));
        *self.catalogue.write() = Some(Arc::clone(&catalogue));
        Ok(catalogue)
    }

    /// The catalogue if it is here.
    pub fn known_catalogue(&self) -> Option<Arc<Catalogue>> {
        self.catalogue.read().clone()
    }

    /// Asks where the contents are if `failure` suggests that something is not where `seen` says. Returns whether another
    /// catalogue is to be used from now on; the placement that leads to it is kept for the next mount.
    pub fn find_again(&self, seen: &Catalogue, failure: &FetchError) -> bool {
        if !self.origin.look_again(seen.id(), failure) {
            return false;
        }
        let mut catalogue = self.catalogue.write();
        if catalogue.as_ref().is_some_and(|current| current.id() == seen.id()) {
            *catalogue = None;
            self.keep_placement();
        }
        true
    }

    /// If no other process writes to the repository now: a mount that finds the old placement asks again, too.
    fn keep_placement(&self) {
        let (store, commit) = (self.store.clone(), self.origin.commit());
        let Ok(placement) = self.origin.placement() else { return };
        self.crew.run(Lane::Later, move || {
            // Under the lock, since a commit that becomes whole loses its placement.
            let Ok(_writer) = store.writer(Wait::No) else { return };
            if store.is_lazy(commit)
                && let Err(error) = disk::replace(&store.layout().lazy_commit(commit), &placement.render())
            {
                tracing::debug!(%error, "the placement is not kept");
            }
        });
    }

    /// The bytes of a locator, from here if they are here.
    fn locator(&self, wanted: FileRef<LocatorId>) -> Result<(LocatorId, Bytes), FetchError> {
        let path = self.store.layout().image_locator(self.image.image().id());
        if let Ok(bytes) = std::fs::read(&path)
            && LocatorId::of(&bytes) == wanted.id
        {
            return Ok((wanted.id, bytes.into()));
        }
        let name = layout::locator(wanted.id);
        if wanted.length > self.bound.length() {
            return Err(FetchError::Corrupt { path: name });
        }
        let bytes = self.origin.range(&name, 0..wanted.length, &mut |bytes| match LocatorId::of(bytes) {
            found if found == wanted.id => Ok(bytes.clone()),
            _ => Err(Refusal::wrong("it does not have the digest that it is named by")),
        })?;
        // It can be fetched again, so nobody waits for it to be kept.
        let kept = bytes.clone();
        self.crew.run(Lane::Later, move || {
            if let Err(error) = disk::replace(&path, &kept) {
                tracing::debug!(%error, "the locator is not kept");
            }
        });
        Ok((wanted.id, bytes))
    }
}

/// The blocks of a large object that hold these bytes; none of a small one.
fn blocks_of(size: u64, wanted: &Range<u64>) -> Range<u32> {
    if size <= LARGE_OBJECT {
        return 0..0;
    }
    let number = |block: u64| u32::try_from(block).unwrap_or(u32::MAX);
    number(wanted.start / BLOCK_SIZE)..number(wanted.end.min(size).div_ceil(BLOCK_SIZE))
}
