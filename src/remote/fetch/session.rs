//! The state of one fetch, and the processing of bytes as they arrive: they are cut into frames, decoded, verified and
//! stored.
//!
//! *Not here*: the threads (`mod`), and which frames are fetched (`plan`).
//!
//! *Invariants*: a frame or object that is wrong is requested again, with the check as part of each attempt; only
//! correct pieces reach the store.
//!
//! *Used by* `mod` and `patches`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::FetchProgress;
use super::budget::{MemoryBudget, MemoryPermit};
use super::error::{ObjectFetchError, StorePieceError};
use super::plan::{FetchPlan, PlannedPiece};
use super::ranges::RangeRequest;
use crate::image::{Image, ObjectUse};
use crate::model::PackId;
use crate::remote::format::decode_frame;
use crate::remote::layout;
use crate::remote::transport::{Rejection, Transport};
use crate::store::{IncomingObject, Store, StoreWriter};

/// A job has at least this many decoded bytes, so that passing it to another thread costs little.
const JOB_SIZE_MIN: u64 = 1 << 20;

/// The blocks of one large object stay in one job, since blocks that arrive in order are hashed without being read
/// again, up to this many downloaded bytes.
const JOB_SIZE_MAX: u64 = 4 << 20;

/// Downloaded frames for one decoder.
pub(super) struct DecodeJob {
    frames: Range<usize>,
    bytes: Bytes,
    /// Position in the pack at which `bytes` begins.
    start: u64,
    pack: PackId,
    _permit: MemoryPermit,
}

impl DecodeJob {
    /// Returns the number of downloaded bytes.
    pub(super) const fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The arriving bytes of one request. They are cut into jobs as soon as there are enough.
pub(super) struct RequestBuffer<'a> {
    session: &'a FetchSession<'a>,
    pack: PackId,
    /// Frames that are in no job yet.
    frames: Range<usize>,
    buffer: BytesMut,
    /// Position in the pack at which the buffer begins.
    start: u64,
}

impl<'a> RequestBuffer<'a> {
    pub(super) fn new(session: &'a FetchSession<'a>, request: &RangeRequest, pack: PackId) -> Self {
        let (frames, start) = (request.frames.clone(), request.range.start);
        Self { session, pack, frames, buffer: BytesMut::new(), start }
    }

    /// Adds arrived bytes and sends the complete jobs to the decoders. Waits while too much is in memory.
    pub(super) fn push(&mut self, piece: &[u8], budget: &Arc<MemoryBudget>, work: &Sender<DecodeJob>) {
        self.buffer.extend_from_slice(piece);
        while let Some(end) = self.complete_job() {
            let length = self.session.plan.frames[end - 1].end() - self.start;
            let permit = budget.acquire(length);
            let bytes = self.buffer.split_to(usize::try_from(length).unwrap_or(usize::MAX)).freeze();
            let frames = self.frames.start..end;
            // The decoders end only after all download threads.
            let _ = work.send(DecodeJob { frames, bytes, start: self.start, pack: self.pack, _permit: permit });
            (self.start, self.frames.start) = (self.start + length, end);
        }
    }

    /// Returns the number of the frame after the last one of a job that has arrived completely and is large enough.
    fn complete_job(&mut self) -> Option<usize> {
        let frames = &self.session.plan.frames;
        // Bytes between the frames are dropped.
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
            if index + 1 == self.frames.end || self.session.is_enough(index, raw, frame.end() - self.start) {
                return Some(index + 1);
            }
        }
        None
    }
}

/// The state that all threads of one fetch share.
pub(super) struct FetchSession<'a> {
    plan: &'a FetchPlan,
    image: &'a Image,
    transport: &'a Transport,
    writer: &'a StoreWriter,
    pub(super) progress: &'a FetchProgress,
    /// Large objects of which blocks have arrived, by their number in the plan.
    incoming_objects: Mutex<HashMap<u32, Arc<IncomingObject>>>,
    failure: Mutex<Option<ObjectFetchError>>,
    failed: AtomicBool,
}

impl<'a> FetchSession<'a> {
    pub(super) fn new(
        plan: &'a FetchPlan,
        image: &'a Image,
        transport: &'a Transport,
        writer: &'a StoreWriter,
        progress: &'a FetchProgress,
    ) -> Self {
        let (arriving, failure, failed) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { plan, image, transport, writer, progress, incoming_objects: arriving, failure, failed }
    }

    /// Ends the fetch with an error. The first error is reported.
    pub(super) fn fail(&self, error: ObjectFetchError) {
        self.failure.lock().get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn into_failure(self) -> Option<ObjectFetchError> {
        self.failure.into_inner()
    }

    /// Returns whether a job that ends with frame `index` and has `raw` decoded and `length` downloaded bytes is large
    /// enough.
    fn is_enough(&self, index: usize, raw: u64, length: u64) -> bool {
        let goes_on = || {
            let next = self.plan.contents.get(index + 1).is_some();
            next && self.object_of_block(index + 1) == self.object_of_block(index)
        };
        length >= JOB_SIZE_MAX || (raw >= JOB_SIZE_MIN && !goes_on())
    }

    /// Returns the large object that a frame is a block of. All other frames get values that differ from each other.
    fn object_of_block(&self, frame: usize) -> (u32, usize) {
        match self.plan.pieces.get(self.plan.contents[frame].start) {
            Some(PlannedPiece::Block { object, .. }) => (*object, 0),
            _ => (u32::MAX, frame),
        }
    }

    /// Decodes the frames of a job and stores the pieces in them. A frame that is wrong is fetched again.
    pub(super) fn store_job(&self, job: &DecodeJob) -> Result<(), ObjectFetchError> {
        for index in job.frames.clone() {
            let frame = self.plan.frames[index];
            let start = usize::try_from(u64::from(frame.offset).saturating_sub(job.start)).unwrap_or(usize::MAX);
            let end = start.saturating_add(frame.length as usize);
            // The transport delivered exactly the bytes of the request, which cover its frames.
            let compressed = job.bytes.get(start..end).unwrap_or_default();
            let mut stored = 0;
            match self.store_frame(index, compressed, &mut stored) {
                Ok(()) => {}
                Err(StorePieceError::Local(error)) => return Err(error),
                Err(StorePieceError::Wrong(why)) => self.refetch_frame(index, job.pack, &mut stored, &*why)?,
            }
        }
        Ok(())
    }

    /// Fetches a wrong frame again, with the check of its contents as part of each attempt.
    fn refetch_frame(
        &self,
        index: usize,
        pack: PackId,
        stored: &mut usize,
        why: &(dyn std::error::Error + Send + Sync),
    ) -> Result<(), ObjectFetchError> {
        let (frame, path) = (self.plan.frames[index], layout::pack(pack));
        tracing::info!("{path} of {}: {why}; it is requested again", self.transport.url());
        let mut local_error = None;
        // The first request may have been answered by a cache.
        let transport = self.transport.after_wrong_answer();
        let fetched = transport.get_range_checked(&path, u64::from(frame.offset)..frame.end(), &mut |bytes| {
            self.progress.downloaded.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.store_frame(index, bytes, stored).map_err(|error| match error {
                StorePieceError::Wrong(why) => Rejection::wrong(why),
                StorePieceError::Local(error) => {
                    local_error = Some(error);
                    Rejection::local("it could not be stored")
                }
            })
        });
        match local_error {
            Some(error) => Err(error),
            None => fetched.map_err(|source| ObjectFetchError::Transport { url: self.transport.url().into(), source }),
        }
    }

    /// Decodes a frame and stores its pieces from number `stored` on. `stored` counts the pieces that were stored.
    fn store_frame(&self, index: usize, compressed: &[u8], stored: &mut usize) -> Result<(), StorePieceError> {
        let frame = self.plan.frames[index];
        let raw = decode_frame(compressed, frame.raw_length)
            .map_err(|why| StorePieceError::Wrong(format!("it is damaged at byte {}: {why}", frame.offset).into()))?;
        for piece in &self.plan.pieces[self.plan.contents[index].clone()][*stored..] {
            self.store_piece(*piece, &raw).map_err(|error| match error {
                StorePieceError::Wrong(why) => {
                    StorePieceError::Wrong(format!("it holds something else at byte {}: {why}", frame.offset).into())
                }
                own => own,
            })?;
            *stored += 1;
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

    /// Stores a piece if it is what the image says.
    pub(super) fn store_piece(&self, piece: PlannedPiece, raw: &[u8]) -> Result<(), StorePieceError> {
        match piece {
            PlannedPiece::Whole { object, offset } => {
                let object = self.plan.objects[object as usize];
                let start = offset as usize;
                let end = start.saturating_add(usize::try_from(object.size).unwrap_or(usize::MAX));
                // A frame that decodes to fewer bytes than announced has no such part; the object is then a wrong one.
                self.writer.put_object(object.id, raw.get(start..end).unwrap_or_default())?;
                self.count_object(object);
            }
            PlannedPiece::Block { object: number, block } => {
                let object = self.plan.objects[number as usize];
                let incoming = self.incoming_object(number, object)?;
                if incoming.put_block(self.writer, block as usize, raw)? == 0 {
                    self.incoming_objects.lock().remove(&number);
                }
                // One of the threads drops the last reference to a complete object.
                if let Some(complete) = Arc::into_inner(incoming) {
                    self.writer.finish_receive(complete)?;
                    self.count_object(object);
                }
            }
        }
        Ok(())
    }

    /// Returns the large object with this number in the plan, of which some blocks may have arrived already.
    fn incoming_object(&self, number: u32, object: ObjectUse) -> Result<Arc<IncomingObject>, StorePieceError> {
        let mut arriving = self.incoming_objects.lock();
        if let Some(incoming) = arriving.get(&number) {
            return Ok(Arc::clone(incoming));
        }
        let blocks = self.image.blocks(object.ino).map_err(ObjectFetchError::from)?.iter().collect();
        let incoming = self.writer.receive(object.id, object.size, blocks).map_err(ObjectFetchError::from)?;
        let incoming = Arc::new(incoming);
        arriving.insert(number, Arc::clone(&incoming));
        Ok(incoming)
    }

    fn count_object(&self, object: ObjectUse) {
        self.progress.objects.fetch_add(1, Ordering::Relaxed);
        self.progress.object_bytes.fetch_add(object.size, Ordering::Relaxed);
    }
}
