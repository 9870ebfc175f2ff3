//! From the patches of a delta to verified objects in the store.
//!
//! A delta is an offer: [`PatchPlan`] takes of it what leads from objects that are here to objects that are wanted, and
//! leaves the rest to packs. Every object is checked as if it had come whole. Each request is worked on as it arrives, by
//! the thread that makes it: patches are few and small beside what they make. Called by `pull`.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf as _, BytesMut};

use super::error::{FetchError, KeepError};
use super::plan::{FetchPlan, Piece};
use super::ranges::{self, Request};
use super::work::Desk;
use super::{FetchOptions, FetchProgress};
use crate::image::{Image, ObjectUse};
use crate::model::{BLOCK_SIZE, DeltaId, LARGE_OBJECT, ObjectId};
use crate::remote::delta::{self, BATCH_PACKED_MAX, DeltaError, DeltaHead, base_range, piece_count, piece_range};
use crate::remote::format::Frame;
use crate::remote::layout;
use crate::remote::transport::{Flow, Refusal, Transport};
use crate::store::{ObjectSource as _, StoreWriter};

/// The batches of pieces to fetch from one delta, and what comes of them.
#[derive(Debug, Default)]
pub struct PatchPlan {
    delta: Option<DeltaId>,
    objects: Vec<ObjectUse>,
    pieces: Vec<Patch>,
    batches: Vec<Batch>,
    /// Where those are, to be asked for like frames of a pack.
    frames: Vec<Frame>,
    requests: Vec<Request>,
}

/// One piece in a batch.
#[derive(Debug)]
struct Patch {
    /// Bytes of it.
    length: u64,
    /// What is to become of it; nothing when nobody wants it, or what it is made of is not here.
    wanted: Option<Wanted>,
}

/// A piece that is wanted.
#[derive(Debug)]
struct Wanted {
    /// Number of the object in the plan.
    object: u32,
    piece: u64,
    base: ObjectId,
    base_range: Range<u64>,
}

/// One batch that is fetched.
#[derive(Debug)]
struct Batch {
    /// Which of the pieces of the plan.
    pieces: Range<usize>,
    /// Bytes of all of them.
    length: u64,
}

impl PatchPlan {
    /// Takes out of `missing` what the delta can make of objects that are here. `old` and `new` are the objects of the
    /// older and the newer image.
    ///
    /// # Errors
    /// [`DeltaError`] when the delta is for other images; nothing is taken then.
    pub fn new(
        delta: DeltaId,
        head: &DeltaHead,
        (old, new): (&[ObjectUse], &[ObjectUse]),
        missing: &mut Vec<ObjectUse>,
        is_here: &dyn Fn(ObjectId) -> bool,
    ) -> Result<Self, DeltaError> {
        let mut plan = Self { delta: Some(delta), ..Self::default() };
        let mut taken = HashSet::new();
        for (row, pair) in (0..).zip(head.objects()) {
            let object = new.get(pair.new as usize).ok_or(DeltaError::Row(row))?;
            let base = old.get(pair.old as usize).ok_or(DeltaError::Row(row))?;
            // Both ascend by number, since `missing` is in the order of the image.
            let is_missing = missing.binary_search_by_key(&object.index, |missing| missing.index).is_ok();
            let number = u32::try_from(plan.objects.len()).unwrap_or(u32::MAX);
            let is_wanted = is_missing && is_here(base.id) && taken.insert(object.index);
            if is_wanted {
                plan.objects.push(*object);
            }
            plan.pieces.extend((0..piece_count(object.size)).map(|piece| {
                let range = piece_range(piece, object.size);
                let base_range = base_range(piece, object.size, base.size);
                let wanted = is_wanted.then_some(Wanted { object: number, piece, base: base.id, base_range });
                Patch { length: range.end - range.start, wanted }
            }));
        }
        plan.choose_batches(head)?;
        missing.retain(|object| !taken.contains(&object.index));
        plan.requests = ranges::requests(&plan.frames);
        Ok(plan)
    }

    /// Deals the pieces out to the batches, and takes those with a piece that is wanted.
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
            self.frames.push(Frame { pack: 0, offset, length: batch.length, raw_length: 0 });
            self.batches.push(Batch { pieces, length });
        }
        if next == self.pieces.len() { Ok(()) } else { Err(DeltaError::Length) }
    }

    /// Whether there is nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Bytes that the requests ask for.
    #[must_use]
    pub fn download_bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// Makes the requests of `plan` and keeps every object that comes of it, durably.
///
/// # Errors
/// The first [`FetchError`]. What was made before it is kept.
pub fn fetch_patches(
    plan: &PatchPlan,
    image: &Image,
    transport: &Transport,
    writer: &StoreWriter,
    options: FetchOptions,
    progress: &FetchProgress,
) -> Result<(), FetchError> {
    let Some(delta) = plan.delta else { return Ok(()) };
    let objects = FetchPlan::of_objects(plan.objects.clone());
    let desk = Desk::new(&objects, image, transport, writer, progress);
    let next = AtomicUsize::new(0);
    // Each holds a batch and a piece with its base, some 20 MiB: as many as decode otherwise.
    let threads = options.decoders.clamp(1, plan.requests.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(request) = plan.requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if desk.has_failed() {
                        return;
                    }
                    if let Err(error) = receive(plan, request, delta, transport, &desk) {
                        desk.fail(error);
                    }
                }
            });
        }
    });
    let settled = writer.settle();
    match desk.into_failure() {
        Some(failure) => Err(failure),
        None => Ok(settled?),
    }
}

/// One request: works on each batch as soon as it is there.
fn receive(
    plan: &PatchPlan,
    request: &Request,
    delta: DeltaId,
    transport: &Transport,
    desk: &Desk<'_>,
) -> Result<(), FetchError> {
    let (mut buffer, mut start) = (BytesMut::new(), request.range.start);
    let (mut waiting, mut kept) = (request.frames.clone(), 0);
    let mut own = None;
    let streamed = transport.stream_checked(&layout::delta(delta), request.range.clone(), &mut |piece| {
        desk.progress.downloaded.fetch_add(piece.len() as u64, Ordering::Relaxed);
        buffer.extend_from_slice(&piece);
        while let Some(frame) = plan.frames[waiting.clone()].first() {
            let gap = u64::from(frame.offset).saturating_sub(start).min(buffer.len() as u64);
            buffer.advance(usize::try_from(gap).unwrap_or(usize::MAX));
            start += gap;
            if frame.end() > start + buffer.len() as u64 {
                break;
            }
            let packed = buffer.split_to(frame.length as usize);
            match unpack(plan, &plan.batches[waiting.start], &packed, &mut kept, desk) {
                Ok(()) => (start, kept) = (frame.end(), 0),
                Err(KeepError::Wrong(why)) => {
                    buffer.clear();
                    return Flow::Wrong(start, Refusal::wrong(why));
                }
                Err(KeepError::Own(error)) => {
                    own = Some(error);
                    return Flow::Enough;
                }
            }
            waiting.start += 1;
        }
        if desk.has_failed() { Flow::Enough } else { Flow::More }
    });
    match own {
        Some(error) => Err(error),
        None => streamed.map_err(|source| FetchError::Transport { url: desk.url(), source }),
    }
}

/// Makes the pieces of a batch from number `kept` on, which counts those that were kept.
fn unpack(plan: &PatchPlan, batch: &Batch, packed: &[u8], kept: &mut usize, desk: &Desk<'_>) -> Result<(), KeepError> {
    let wrong = |error: std::io::Error| KeepError::Wrong(error.into());
    let mut pieces = delta::Batch::unpack(packed, batch.length).map_err(wrong)?;
    for (number, patch) in plan.pieces[batch.pieces.clone()].iter().enumerate() {
        let length = usize::try_from(patch.length).unwrap_or(usize::MAX);
        let Some(wanted) = patch.wanted.as_ref().filter(|_| number >= *kept) else {
            pieces.skip(length).map_err(wrong)?;
            continue;
        };
        let old_length = wanted.base_range.end - wanted.base_range.start;
        let mut old = vec![0; usize::try_from(old_length).unwrap_or_default()];
        // A base that is shorter than it should be makes something else, which is noticed.
        desk.store().read_at(wanted.base, wanted.base_range.start, &mut old).map_err(FetchError::from)?;
        let made = pieces.next(&old, length).map_err(wrong)?;
        keep(wanted, &made, desk)?;
        *kept = number + 1;
    }
    Ok(())
}

fn keep(wanted: &Wanted, made: &[u8], desk: &Desk<'_>) -> Result<(), KeepError> {
    let object = desk.object(wanted.object);
    if object.size <= LARGE_OBJECT {
        return desk.keep(Piece::Whole { object: wanted.object, offset: 0 }, made);
    }
    let first = piece_range(wanted.piece, object.size).start / BLOCK_SIZE;
    for (block, bytes) in (first..).zip(made.chunks(usize::try_from(BLOCK_SIZE).unwrap_or(usize::MAX))) {
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        desk.keep(Piece::Block { object: wanted.object, block }, bytes)?;
    }
    Ok(())
}
