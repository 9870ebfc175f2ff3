//! What is done with the bytes of one request as they arrive: cut into frames, decoded, verified, given to the store.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::FetchProgress;
use super::budget::{Budget, Permit};
use super::error::{FetchError, KeepError};
use super::plan::{FetchPlan, Piece};
use super::ranges::Request;
use crate::image::{Image, ObjectUse};
use crate::model::PackId;
use crate::remote::format::decode_frame;
use crate::remote::layout;
use crate::remote::transport::{Refusal, Transport};
use crate::store::{Incoming, Store, StoreWriter};

/// Frames are given to decoders in parts of at least this many decoded bytes, so that handing over costs nothing.
const PART: u64 = 1 << 20;

/// The blocks of one large object stay together, since in order they are hashed as they pass, up to this many bytes as
/// they arrive.
const PART_MAX: u64 = 4 << 20;

/// Some frames for one decoder.
pub(super) struct Work {
    frames: Range<usize>,
    bytes: Bytes,
    /// Where in the pack `bytes` begins.
    start: u64,
    pack: PackId,
    _permit: Permit,
}

impl Work {
    /// Downloaded bytes of it.
    pub(super) const fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The bytes of one request on their way in: cut into parts as soon as there are enough.
pub(super) struct Intake<'a> {
    desk: &'a Desk<'a>,
    pack: PackId,
    /// Frames that have not been handed over.
    frames: Range<usize>,
    buffer: BytesMut,
    /// Where in the pack the buffer begins.
    start: u64,
}

impl<'a> Intake<'a> {
    pub(super) fn new(desk: &'a Desk<'a>, request: &Request, pack: PackId) -> Self {
        let (frames, start) = (request.frames.clone(), request.range.start);
        Self { desk, pack, frames, buffer: BytesMut::new(), start }
    }

    /// Takes what arrived and hands over what is complete. Waits while too much is in memory.
    pub(super) fn take(&mut self, piece: &[u8], budget: &Arc<Budget>, work: &Sender<Work>) {
        self.buffer.extend_from_slice(piece);
        while let Some(end) = self.complete_part() {
            let length = self.desk.plan.frames[end - 1].end() - self.start;
            let permit = budget.take(length);
            let bytes = self.buffer.split_to(usize::try_from(length).unwrap_or(usize::MAX)).freeze();
            let frames = self.frames.start..end;
            // The decoders leave only after all who receive.
            let _ = work.send(Work { frames, bytes, start: self.start, pack: self.pack, _permit: permit });
            (self.start, self.frames.start) = (self.start + length, end);
        }
    }

    /// The frame behind the last of a part that has arrived and is worth handing over.
    fn complete_part(&mut self) -> Option<usize> {
        let frames = &self.desk.plan.frames;
        // What nobody wants between the frames goes no further.
        let gap = u64::from(frames[self.frames.clone()].first()?.offset).saturating_sub(self.start);
        let gap = gap.min(self.buffer.len() as u64);
        self.buffer.advance(usize::try_from(gap).unwrap_or(usize::MAX));
        self.start += gap;
        let arrived = self.start + self.buffer.len() as u64;
        let mut raw = 0;
        for index in self.frames.clone() {
            let frame = &frames[index];
            if frame.end() > arrived {
                return None;
            }
            raw += u64::from(frame.raw_length);
            if index + 1 == self.frames.end || self.desk.is_enough(index, raw, frame.end() - self.start) {
                return Some(index + 1);
            }
        }
        None
    }
}

/// What all threads of one fetch share.
pub(super) struct Desk<'a> {
    plan: &'a FetchPlan,
    image: &'a Image,
    transport: &'a Transport,
    writer: &'a StoreWriter,
    pub(super) progress: &'a FetchProgress,
    /// Large objects of which blocks have arrived, by their number in the plan.
    arriving: Mutex<HashMap<u32, Arc<Incoming>>>,
    failure: Mutex<Option<FetchError>>,
    failed: AtomicBool,
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        plan: &'a FetchPlan,
        image: &'a Image,
        transport: &'a Transport,
        writer: &'a StoreWriter,
        progress: &'a FetchProgress,
    ) -> Self {
        let (arriving, failure, failed) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { plan, image, transport, writer, progress, arriving, failure, failed }
    }

    /// Ends the fetch. The first reason counts.
    pub(super) fn fail(&self, error: FetchError) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn into_failure(self) -> Option<FetchError> {
        self.failure.into_inner()
    }

    /// Whether a part that ends with the frame `index` is long enough, having so many bytes.
    fn is_enough(&self, index: usize, raw: u64, length: u64) -> bool {
        let goes_on = || {
            let next = self.plan.contents.get(index + 1).is_some();
            next && self.object_of_block(index + 1) == self.object_of_block(index)
        };
        length >= PART_MAX || (raw >= PART && !goes_on())
    }

    /// The large object that a frame is a block of. Any two frames that are none count as different.
    fn object_of_block(&self, frame: usize) -> (u32, usize) {
        match self.plan.pieces.get(self.plan.contents[frame].start) {
            Some(Piece::Block { object, .. }) => (*object, 0),
            _ => (u32::MAX, frame),
        }
    }

    /// Decodes the frames of a part and keeps what is in them. A frame that is not what it should be is asked for again.
    pub(super) fn receive(&self, part: &Work) -> Result<(), FetchError> {
        for index in part.frames.clone() {
            let frame = self.plan.frames[index];
            let start = usize::try_from(u64::from(frame.offset).saturating_sub(part.start)).unwrap_or(usize::MAX);
            let end = start.saturating_add(frame.length as usize);
            // The transport gave exactly the bytes of the request, which cover its frames.
            let compressed = part.bytes.get(start..end).unwrap_or_default();
            let mut kept = 0;
            match self.keep_frame(index, compressed, &mut kept) {
                Ok(()) => {}
                Err(KeepError::Own(error)) => return Err(error),
                Err(KeepError::Wrong(why)) => self.ask_again(index, part.pack, &mut kept, &*why)?,
            }
        }
        Ok(())
    }

    /// Fetches one frame that came wrong, with the check of what is in it as part of each attempt.
    fn ask_again(
        &self,
        index: usize,
        pack: PackId,
        kept: &mut usize,
        why: &(dyn std::error::Error + Send + Sync),
    ) -> Result<(), FetchError> {
        let (frame, path) = (self.plan.frames[index], layout::pack(pack));
        tracing::info!("{path} of {}: {why}; it is asked for again", self.transport.url());
        let mut own = None;
        // It was asked for once, maybe of a cache.
        let asking = self.transport.again();
        let fetched = asking.get_range_checked(&path, u64::from(frame.offset)..frame.end(), &mut |bytes| {
            self.progress.downloaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.keep_frame(index, bytes, kept).map_err(|error| match error {
                KeepError::Wrong(why) => Refusal::wrong(why),
                KeepError::Own(error) => {
                    own = Some(error);
                    Refusal::own("it could not be kept")
                }
            })
        });
        match own {
            Some(error) => Err(error),
            None => fetched.map_err(|source| FetchError::Transport { url: self.transport.url().into(), source }),
        }
    }

    /// Decodes a frame and keeps its pieces from number `kept` on, which counts those that were.
    fn keep_frame(&self, index: usize, compressed: &[u8], kept: &mut usize) -> Result<(), KeepError> {
        let frame = self.plan.frames[index];
        let raw = decode_frame(compressed, frame.raw_length)
            .map_err(|why| KeepError::Wrong(format!("it is damaged at byte {}: {why}", frame.offset).into()))?;
        for piece in &self.plan.pieces[self.plan.contents[index].clone()][*kept..] {
            self.keep(*piece, &raw).map_err(|error| match error {
                KeepError::Wrong(why) => {
                    KeepError::Wrong(format!("it holds something else at byte {}: {why}", frame.offset).into())
                }
                own => own,
            })?;
            *kept += 1;
        }
        Ok(())
    }

    pub(super) fn object(&self, number: u32) -> ObjectUse {
        self.plan.objects[number as usize]
    }

    pub(super) fn url(&self) -> Box<str> {
        self.transport.url().into()
    }

    pub(super) fn store(&self) -> &Store {
        self.writer.store()
    }

    /// Keeps a piece if it is what the image says.
    pub(super) fn keep(&self, piece: Piece, raw: &[u8]) -> Result<(), KeepError> {
        match piece {
            Piece::Whole { object, offset } => {
                let object = self.plan.objects[object as usize];
                let start = offset as usize;
                let end = start.saturating_add(usize::try_from(object.size).unwrap_or(usize::MAX));
                // A frame that decodes to less than it announced has no such part; then the object is a wrong one.
                self.writer.put_object(object.id, raw.get(start..end).unwrap_or_default())?;
                self.count(object);
            }
            Piece::Block { object: number, block } => {
                let object = self.plan.objects[number as usize];
                let incoming = self.arriving(number, object)?;
                if incoming.put_block(self.writer, block as usize, raw)? == 0 {
                    self.arriving.lock().remove(&number);
                }
                // Some thread is the last to let go of a complete object.
                if let Some(complete) = Arc::into_inner(incoming) {
                    self.writer.keep(complete)?;
                    self.count(object);
                }
            }
        }
        Ok(())
    }

    /// The large object with this number in the plan, of which more or fewer blocks are here.
    fn arriving(&self, number: u32, object: ObjectUse) -> Result<Arc<Incoming>, KeepError> {
        let mut arriving = self.arriving.lock();
        if let Some(incoming) = arriving.get(&number) {
            return Ok(Arc::clone(incoming));
        }
        let blocks = self.image.blocks(object.ino).map_err(FetchError::from)?.iter().collect();
        let incoming = self.writer.receive(object.id, object.size, blocks).map_err(FetchError::from)?;
        let incoming = Arc::new(incoming);
        arriving.insert(number, Arc::clone(&incoming));
        Ok(incoming)
    }

    fn count(&self, object: ObjectUse) {
        self.progress.objects.fetch_add(1, Ordering::Relaxed);
        self.progress.object_bytes.fetch_add(object.size, Ordering::Relaxed);
    }
}
