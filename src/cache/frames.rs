//! From an object that is missing to the frame that holds it, and back with all its neighbours.
//!
//! One fetch per frame is under way at a time. Whoever needs a frame waits for it, at most as long as it may; the fetch
//! itself goes on in threads of its own. What arrives is checked piece by piece against the image before anything is kept.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use super::ahead::Ahead;
use super::catalogue::{Catalogue, Piece};
use super::counters::LazyCounters;
use super::crew::Crew;
use super::error::FetchError;
use super::flight::{Flights, Pilot, Seat};
use super::image::LazyImage;
use super::large::LargeObjects;
use super::origin::Origin;
use super::ranges::{Run, plan};
use super::shelf::{Key, Shelf};
use crate::image::{ImageError, ObjectRef};
use crate::model::{LARGE_OBJECT, ObjectId};
use crate::remote::format::{Frame, Locator, LocatorBound, decode_frame};
use crate::remote::layout;
use crate::store::{Absent, ObjectSource, ReadError, Store};
use crate::{disk, model::LocatorId};

/// What is here whole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Local {
    pub objects: u64,
    pub bytes: u64,
}

/// The contents of one commit.
pub(super) struct Frames {
    pub origin: Arc<Origin>,
    pub image: Arc<LazyImage>,
    pub store: Store,
    pub shelf: Arc<Shelf>,
    pub large: LargeObjects,
    pub crew: Arc<Crew>,
    pub counters: Arc<LazyCounters>,
    catalogue: OnceLock<Catalogue>,
    loading: Mutex<()>,
    flights: Flights<u32>,
    ahead: Mutex<Ahead>,
}

impl Frames {
    pub fn new(
        origin: &Arc<Origin>,
        image: &Arc<LazyImage>,
        store: &Store,
        shelf: Shelf,
        crew: &Arc<Crew>,
        counters: &Arc<LazyCounters>,
    ) -> Self {
        let shelf = Arc::new(shelf);
        Self {
            origin: Arc::clone(origin),
            image: Arc::clone(image),
            store: store.clone(),
            large: LargeObjects::new(store, image.image(), &shelf),
            shelf,
            crew: Arc::clone(crew),
            counters: Arc::clone(counters),
            catalogue: OnceLock::new(),
            loading: Mutex::default(),
            flights: Flights::default(),
            ahead: Mutex::default(),
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
        if self.store.has_object(object.id) {
            return self.store.read_at(object.id, offset, buffer);
        }
        if object.size > LARGE_OBJECT {
            return self.large.read(object, offset, buffer);
        }
        let length = object.size.saturating_sub(offset).min(buffer.len() as u64);
        Err(ReadError::Absent(Absent::Object { object: *object, offset, length }))
    }

    /// Fetches the bytes `offset..offset + length` of an object.
    pub fn fetch(
        self: &Arc<Self>,
        object: &ObjectRef,
        offset: u64,
        length: u64,
        deadline: Instant,
    ) -> Result<(), FetchError> {
        let catalogue = self.catalogue(deadline)?;
        let no_place = FetchError::NoPlace { index: object.index };
        let range = catalogue.frames_of(object.index, offset, length).ok_or(no_place)?;
        let wanted: Vec<u32> = if object.size > LARGE_OBJECT {
            let first = catalogue.locator().object(object.index).map_or(0, |spot| spot.frame);
            for block in range.clone() {
                self.image.with_blocks(deadline, |image| image.block_of_object(object.index, block - first))?;
            }
            range.filter(|frame| !self.large.has(object, frame - first)).collect()
        } else {
            range.collect()
        };
        let result = self.need(catalogue, &wanted, deadline);
        // A neighbour that is not what it should be is no reason to refuse what was asked for.
        match result {
            Err(FetchError::Corrupt { .. }) if self.is_here(object, offset, length) => Ok(()),
            Ok(()) if !self.is_here(object, offset, length) => Err(FetchError::GivenUp),
            other => other,
        }
    }

    /// Notes a read and fetches ahead of it.
    pub fn touch(self: &Arc<Self>, object: &ObjectRef, offset: u64, length: u64, missed: bool) {
        let Some(catalogue) = self.catalogue.get() else { return };
        let Some(range) = catalogue.frames_of(object.index, offset, length) else { return };
        let frames = catalogue.locator().frames();
        let more = self.ahead.lock().touch(range, missed, frames);
        for run in plan(more.filter_map(|frame| Some((frame, catalogue.frame(frame)?))).collect()) {
            let own = Arc::clone(self);
            self.crew.later(move || own.fetch_ahead(&run.frames));
        }
    }

    /// Bytes that were fetched ahead and not read yet.
    pub fn unread_bytes(&self) -> u64 {
        self.ahead.lock().unread_bytes()
    }

    fn fetch_ahead(&self, frames: &[u32]) {
        let Some(catalogue) = self.catalogue.get() else { return };
        for frame in self.fetch_quietly(frames, Instant::now() + std::time::Duration::from_secs(60)) {
            let length = catalogue.frame(frame).map_or(0, |frame| frame.length);
            LazyCounters::add(&self.counters.ahead, u64::from(length));
            self.ahead.lock().fetched(frame, catalogue.locator().frames());
        }
    }

    /// Fetches those of `frames` that are neither here nor under way, in this thread; returns those that came. That others
    /// did not is nobody's business yet.
    pub fn fetch_quietly(&self, frames: &[u32], deadline: Instant) -> Vec<u32> {
        let Ok(catalogue) = self.catalogue(deadline) else { return Vec::new() };
        let missing = frames.iter().copied().filter(|frame| {
            !self.flights.is_under_way(*frame) && !self.has_frame(catalogue, *frame, deadline).unwrap_or(true)
        });
        let mut pilots: HashMap<u32, Pilot<u32>> = HashMap::new();
        for frame in missing {
            if let (_, Some(pilot)) = self.flights.board(frame) {
                pilots.insert(frame, pilot);
            }
        }
        let led: Vec<u32> = pilots.keys().copied().collect();
        for run in plan(led.iter().filter_map(|frame| Some((*frame, catalogue.frame(*frame)?))).collect()) {
            let crew = run.frames.iter().filter_map(|frame| pilots.remove(frame)).collect();
            self.fly(catalogue, &run, crew);
        }
        led
    }

    /// Whether all pieces of a frame are here. Fetches their names if those are not.
    pub fn has_frame(&self, catalogue: &Catalogue, frame: u32, deadline: Instant) -> Result<bool, FetchError> {
        for piece in catalogue.pieces(frame) {
            let here = match piece {
                Piece::Object { index, .. } => {
                    let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
                    self.has_small(id)
                }
                Piece::Block { index, block } => {
                    let id = self.image.with_blocks(deadline, |image| image.object_by_index(index))?;
                    self.image.with_blocks(deadline, |image| image.block_of_object(index, block))?;
                    let size = catalogue.sizes().get(index as usize).copied().unwrap_or(0);
                    self.store.has_object(id) || self.large.has(&ObjectRef { id, index, size }, block)
                }
            };
            if !here {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Like [`Self::has_frame`], without fetching anything.
    pub fn has_frame_now(&self, catalogue: &Catalogue, frame: u32) -> bool {
        self.has_frame(catalogue, frame, Instant::now()).unwrap_or(false)
    }

    /// What is here of all objects; `None` while that cannot be known.
    pub fn local(&self) -> Option<Local> {
        let catalogue = self.catalogue.get()?;
        let mut local = Local::default();
        for (index, size) in (0_u32..).zip(catalogue.sizes()) {
            if self.has_small(self.image.image().object_by_index(index).ok()?) {
                local.objects += 1;
                local.bytes += size;
            }
        }
        Some(local)
    }

    fn has_small(&self, id: ObjectId) -> bool {
        self.shelf.get(Key::Object(id)).is_some() || self.store.has_object(id)
    }

    fn is_here(&self, object: &ObjectRef, offset: u64, length: u64) -> bool {
        if object.size <= LARGE_OBJECT {
            return self.has_small(object.id);
        }
        let blocks = offset / crate::model::BLOCK_SIZE..(offset + length).div_ceil(crate::model::BLOCK_SIZE);
        self.store.has_object(object.id)
            || blocks.into_iter().all(|block| self.large.has(object, u32::try_from(block).unwrap_or(u32::MAX)))
    }

    /// Fetches frames that somebody waits for.
    fn need(self: &Arc<Self>, catalogue: &Catalogue, frames: &[u32], deadline: Instant) -> Result<(), FetchError> {
        let (mut seats, mut pilots): (Vec<Seat>, HashMap<u32, Pilot<u32>>) = Default::default();
        for &frame in frames {
            let (seat, pilot) = self.flights.board(frame);
            match pilot {
                Some(pilot) => _ = pilots.insert(frame, pilot),
                None => LazyCounters::add(&self.counters.joined, 1),
            }
            seats.push(seat);
        }
        let led: Vec<(u32, Frame)> = pilots.keys().filter_map(|n| Some((*n, catalogue.frame(*n)?))).collect();
        for run in plan(led) {
            let crew: Vec<Pilot<u32>> = run.frames.iter().filter_map(|frame| pilots.remove(frame)).collect();
            self.depart(run, crew);
        }
        seats.iter().try_for_each(|seat| seat.wait(deadline))
    }

    fn depart(self: &Arc<Self>, run: Run, pilots: Vec<Pilot<u32>>) {
        let own = Arc::clone(self);
        self.crew.urgent(move || {
            if let Some(catalogue) = own.catalogue.get() {
                own.fly(catalogue, &run, pilots);
            }
        });
    }

    /// Carries out one request and tells everybody.
    fn fly(&self, catalogue: &Catalogue, run: &Run, pilots: Vec<Pilot<u32>>) {
        let Some(pack) = catalogue.locator().packs().get(run.pack as usize) else { return };
        let path = layout::pack(pack.id);
        match self.origin.range(&path, run.range.clone()) {
            Err(error) => {
                LazyCounters::add(&self.counters.failures, 1);
                pilots.into_iter().for_each(|pilot| pilot.land(Err(error.clone())));
            }
            Ok(bytes) => {
                for pilot in pilots {
                    let arrived = self.unpack(catalogue, run, pilot.key(), &bytes, &path);
                    if let Err(error) = &arrived {
                        LazyCounters::add(&self.counters.failures, 1);
                        self.origin.complain(error);
                    }
                    pilot.land(arrived);
                }
            }
        }
    }

    fn unpack(
        &self,
        catalogue: &Catalogue,
        run: &Run,
        number: u32,
        bytes: &Bytes,
        path: &str,
    ) -> Result<(), FetchError> {
        let corrupt = || FetchError::Corrupt { path: path.to_owned() };
        let frame = catalogue.frame(number).ok_or_else(corrupt)?;
        let start = usize::try_from(u64::from(frame.offset) - run.range.start).map_err(|_| corrupt())?;
        let packed = bytes.get(start..start + frame.length as usize).ok_or_else(corrupt)?;
        let raw = Bytes::from(decode_frame(packed, frame.raw_length).map_err(|_| corrupt())?);
        let mut sound = true;
        for piece in catalogue.pieces(number) {
            sound &= self.keep(catalogue, &piece, &raw)?;
        }
        if sound { Ok(()) } else { Err(corrupt()) }
    }

    /// Keeps a piece if it is what the image says; returns whether it is. One whose digest is not here is let go.
    fn keep(&self, catalogue: &Catalogue, piece: &Piece, raw: &Bytes) -> Result<bool, FetchError> {
        let image = self.image.image();
        let (Piece::Object { index, .. } | Piece::Block { index, .. }) = piece;
        let id = match image.object_by_index(*index) {
            Err(ImageError::Absent { .. }) => return Ok(true),
            other => other?,
        };
        let kept = match piece {
            Piece::Object { range, .. } => {
                let Some(part) = raw.get(range.clone()).filter(|part| ObjectId::of(part) == id) else {
                    return Ok(false);
                };
                // A copy, or a small object would keep its whole frame in memory.
                let whole = part.len() == raw.len();
                self.shelf.put(id, &if whole { raw.clone() } else { Bytes::copy_from_slice(part) });
                true
            }
            Piece::Block { block, .. } => {
                let size = catalogue.sizes().get(*index as usize).copied().unwrap_or(0);
                match self.large.put(&ObjectRef { id, index: *index, size }, *block, raw) {
                    Err(ImageError::Absent { .. }) => return Ok(true),
                    other => other?,
                }
            }
        };
        LazyCounters::add(&self.counters.kept, u64::from(kept));
        Ok(kept)
    }

    /// The catalogue, fetched when first needed.
    pub fn catalogue(&self, deadline: Instant) -> Result<&Catalogue, FetchError> {
        if let Some(catalogue) = self.catalogue.get() {
            return Ok(catalogue);
        }
        let Some(_loading) = self.loading.try_lock_until(deadline) else { return Err(FetchError::TooLate) };
        if let Some(catalogue) = self.catalogue.get() {
            return Ok(catalogue);
        }
        // The image tells how large its locator can be.
        self.image.fetch_hot(deadline)?;
        let sizes = self.image.image().object_sizes()?;
        let locator = self.load_locator(LocatorBound::new(sizes.iter().copied()))?;
        Ok(self.catalogue.get_or_init(|| Catalogue::new(locator, sizes)))
    }

    fn load_locator(&self, bound: LocatorBound) -> Result<Locator, FetchError> {
        let wanted = self.origin.placement()?.locator;
        let path = self.store.layout().image_locator(self.image.image().id());
        if let Ok(bytes) = std::fs::read(&path)
            && LocatorId::of(&bytes) == wanted.id
        {
            return Ok(Locator::parse(&bytes, bound).map_err(Arc::new)?);
        }
        let name = layout::locator(wanted.id);
        if wanted.length > bound.length() {
            return Err(FetchError::Corrupt { path: name });
        }
        let bytes = self.origin.range(&name, 0..wanted.length)?;
        if LocatorId::of(&bytes) != wanted.id {
            return Err(FetchError::Corrupt { path: name });
        }
        let locator = Locator::parse(&bytes, bound).map_err(Arc::new)?;
        // It can be fetched again.
        if let Err(error) = disk::replace(&path, &bytes) {
            tracing::debug!(%error, "the locator is not kept");
        }
        Ok(locator)
    }
}
