//! Fetches the pieces of a delta and stores the objects that they make.
//!
//! A [`PatchPlan`] takes from a delta what leads from objects that are in the store to objects that are wanted, and
//! leaves the rest to packs. Each request is processed as it arrives, by the thread that makes it: batches are few and
//! small compared to the contents that they make.
//!
//! *Not here*: which delta is used, and fetching its head (`pull`).
//!
//! *Invariants*: every object is checked as if it had arrived whole.
//!
//! *Used by* `pull`.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BytesMut};

use super::error::{ObjectFetchError, StorePieceError};
use super::plan::{FetchPlan, PlannedPiece};
use super::ranges::{self, RangeRequest};
use super::session::FetchSession;
use super::{FetchOptions, FetchProgress};
use crate::image::{Image, ObjectUse};
use crate::model::{BLOCK_SIZE, DeltaId, LARGE_OBJECT, ObjectId};
use crate::remote::delta::{self, BATCH_PACKED_MAX, DeltaError, DeltaHead, base_range, piece_count, piece_range};
use crate::remote::format::PackFrame;
use crate::remote::layout;
use crate::remote::transport::{Rejection, StreamControl, Transport};
use crate::store::{ObjectSource as _, StoreWriter};

/// The batches to fetch from one delta, and the objects that their pieces make.
#[derive(Debug, Default)]
pub(crate) struct PatchPlan {
    delta: Option<DeltaId>,
    objects: Vec<ObjectUse>,
    pieces: Vec<BatchPiece>,
    batches: Vec<PlannedBatch>,
    /// The positions of the batches, which are requested like frames of a pack.
    frames: Vec<PackFrame>,
    requests: Vec<RangeRequest>,
}

/// A piece in a batch.
#[derive(Debug)]
struct BatchPiece {
    /// Length in bytes.
    length: u64,
    /// The object that the piece belongs to; `None` when it is not wanted, or its base is not in the store.
    wanted: Option<WantedPiece>,
}

/// A piece that is wanted.
#[derive(Debug)]
struct WantedPiece {
    /// Number of the object in the plan.
    object: u32,
    piece: u64,
    base: ObjectId,
    base_range: Range<u64>,
}

/// A batch that is fetched.
#[derive(Debug)]
struct PlannedBatch {
    /// Numbers of the pieces in the plan.
    pieces: Range<usize>,
    /// Bytes of all pieces.
    length: u64,
}

impl PatchPlan {
    /// Removes from `missing` what the delta can make from objects in the store, and plans to fetch it. `old` and `new`
    /// are the objects of the older and the newer image.
    ///
    /// # Errors
    /// [`DeltaError`] when the delta is for other images; nothing is taken then.
    pub(crate) fn new(
        delta: DeltaId,
        head: &DeltaHead,
        (old, new): (&[ObjectUse], &[ObjectUse]),
        missing: &mut Vec<ObjectUse>,
        is_stored: &dyn Fn(ObjectId) -> bool,
    ) -> Result<Self, DeltaError> {
        let mut plan = Self { delta: Some(delta), ..Self::default() };
        let mut taken = HashSet::new();
        for (row, pair) in (0..).zip(head.objects()) {
            let object = new.get(pair.new as usize).ok_or(DeltaError::Row(row))?;
            let base = old.get(pair.old as usize).ok_or(DeltaError::Row(row))?;
            // `missing` is in the order of the image, so its numbers ascend.
            let is_missing = missing.binary_search_by_key(&object.index, |missing| missing.index).is_ok();
            let number = u32::try_from(plan.objects.len()).unwrap_or(u32::MAX);
            let is_wanted = is_missing && is_stored(base.id) && taken.insert(object.index);
            if is_wanted {
                plan.objects.push(*object);
            }
            plan.pieces.extend((0..piece_count(object.size)).map(|piece| {
                let range = piece_range(piece, object.size);
                let base_range = base_range(piece, object.size, base.size);
                let wanted = is_wanted.then_some(WantedPiece { object: number, piece, base: base.id, base_range });
                BatchPiece { length: range.end - range.start, wanted }
            }));
        }
        plan.choose_batches(head)?;
        missing.retain(|object| !taken.contains(&object.index));
        plan.requests = ranges::group_requests(&plan.frames);
        Ok(plan)
    }

    /// Assigns the pieces to the batches, and plans those batches that have a wanted piece.
    fn choose_batches(&mut self, head: &DeltaHead) -> Result<(), DeltaError> {
        let mut next = 0_usize;
        for batch in head.batches() {
            let pieces = next..next.saturating_add(batch.pieces as usize);
            next = pieces.end;
            let content = self.pieces.get(pieces.clone()).ok_or(DeltaError::Length)?;
            let length: u64 = content.iter().map(|piece| piece.length).sum();
            if content.iter().all(|piece| piece.wanted.is_none()) {
                continue;
            }
            if u64::from(batch.length) > BATCH_PACKED_MAX || batch.length == 0 {
                return Err(DeltaError::Length);
            }
            let offset = u32::try_from(batch.offset).map_err(|_| DeltaError::Length)?;
            self.frames.push(PackFrame { pack: 0, offset, length: batch.length, raw_length: 0 });
            self.batches.push(PlannedBatch { pieces, length });
        }
        if next == self.pieces.len() { Ok(()) } else { Err(DeltaError::Length) }
    }

    /// Returns whether there is nothing to fetch.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Returns the number of bytes that the requests ask for.
    pub(crate) fn download_bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Returns the number of objects.
    pub(crate) fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// Makes the requests of `plan` and stores every object that its pieces make, durably.
///
/// # Errors
/// The first [`ObjectFetchError`]. Objects that were made before it are kept.
pub(crate) fn fetch_patches(
    plan: &PatchPlan,
    image: &Image,
    transport: &Transport,
    writer: &StoreWriter,
    options: FetchOptions,
    progress: &FetchProgress,
) -> Result<(), ObjectFetchError> {
    let Some(delta) = plan.delta else { return Ok(()) };
    let objects = FetchPlan::of_objects(plan.objects.clone());
    let session = FetchSession::new(&objects, image, transport, writer, progress);
    let next = AtomicUsize::new(0);
    // Each thread holds a batch and a piece with its base, some 20 MiB; so there are as many as decoders.
    let threads = options.decoders.clamp(1, plan.requests.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(request) = plan.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if session.has_failed() {
                        return;
                    }
                    if let Err(error) = fetch_request(plan, request, delta, transport, &session) {
                        session.fail(error);
                    }
                }
            });
        }
    });
    let flushed = writer.flush();
    match session.into_failure() {
        Some(failure) => Err(failure),
        None => Ok(flushed?),
    }
}

/// Makes one request and processes each batch as soon as it has arrived.
fn fetch_request(
    plan: &PatchPlan,
    request: &RangeRequest,
    delta: DeltaId,
    transport: &Transport,
    session: &FetchSession<'_>,
) -> Result<(), ObjectFetchError> {
    let (mut buffer, mut start) = (BytesMut::new(), request.range.start);
    let (mut pending, mut stored) = (request.frames.clone(), 0);
    let mut local_error = None;
    let streamed = transport.stream_checked(&layout::delta(delta), request.range.clone(), &mut |piece| {
        session.progress.downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
        buffer.extend_from_slice(&piece);
        while let Some(frame) = plan.frames[pending.clone()].first() {
            let gap = u64::from(frame.offset).saturating_sub(start).min(buffer.len() as u64);
            buffer.advance(usize::try_from(gap).unwrap_or(usize::MAX));
            start += gap;
            if frame.end() > start + buffer.len() as u64 {
                break;
            }
            let batch = buffer.split_to(frame.length as usize);
            match store_batch(plan, &plan.batches[pending.start], &batch, &mut stored, session) {
                Ok(()) => (start, stored) = (frame.end(), 0),
                Err(StorePieceError::Wrong(why)) => {
                    buffer.clear();
                    return StreamControl::Reject(start, Rejection::wrong(why));
                }
                Err(StorePieceError::Local(error)) => {
                    local_error = Some(error);
                    return StreamControl::Stop;
                }
            }
            pending.start += 1;
        }
        if session.has_failed() { StreamControl::Stop } else { StreamControl::Continue }
    });
    match local_error {
        Some(error) => Err(error),
        None => streamed.map_err(|source| ObjectFetchError::Transport { url: session.url(), source }),
    }
}

/// Makes and stores the pieces of a batch from number `stored` on. `stored` counts the pieces that were stored.
fn store_batch(
    plan: &PatchPlan,
    batch: &PlannedBatch,
    packed: &[u8],
    stored: &mut usize,
    session: &FetchSession<'_>,
) -> Result<(), StorePieceError> {
    let wrong = |error: std::io::Error| StorePieceError::Wrong(error.into());
    let mut pieces = delta::DeltaBatch::unpack(packed, batch.length).map_err(wrong)?;
    for (number, piece) in plan.pieces[batch.pieces.clone()].iter().enumerate() {
        let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
        let Some(target) = piece.wanted.as_ref().filter(|_| number >= *stored) else {
            pieces.skip_piece(length).map_err(wrong)?;
            continue;
        };
        let old_length = target.base_range.end - target.base_range.start;
        let mut old = vec![0; usize::try_from(old_length).unwrap_or_default()];
        // A base that is too short makes a wrong piece, which the check of the object notices.
        session.store().read_at(target.base, target.base_range.start, &mut old).map_err(ObjectFetchError::from)?;
        let content = pieces.next_piece(&old, length).map_err(wrong)?;
        store_made_piece(target, &content, session)?;
        *stored = number + 1;
    }
    Ok(())
}

fn store_made_piece(target: &WantedPiece, content: &[u8], session: &FetchSession<'_>) -> Result<(), StorePieceError> {
    let object = session.object(target.object);
    if object.size <= LARGE_OBJECT {
        return session.store_piece(PlannedPiece::Whole { object: target.object, offset: 0 }, content);
    }
    let first = piece_range(target.piece, object.size).start / BLOCK_SIZE;
    for (block, bytes) in (first..).zip(content.chunks(usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX))) {
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        session.store_piece(PlannedPiece::Block { object: target.object, block }, bytes)?;
    }
    Ok(())
}
